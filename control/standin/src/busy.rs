//! Whether this machine keeps time while the demonstration runs: a timer of one packet time, and by how much it came too late.
//!
//! Why not the load average: it counts what waits for disks as well, and says nothing of who got the processor. A stand-in that is woken
//! 200 ms late sends ten packets at once, and no gateway can play what comes after its turn.

use engine::io::clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// One packet's time.
const TICK: Duration = Duration::from_millis(20);

/// Lateness from which on sound may be lost through no fault of the gateway's: more than its buffer waits on a calm network.
pub const LATE_MS_MAX: u64 = 60;

/// Watches the clock until it is dropped.
pub struct Busy {
    worst_ms: Arc<AtomicU64>,
    watcher: JoinHandle<()>,
}

impl Busy {
    /// Begins to watch, on a thread of the caller's runtime.
    pub fn watch() -> Busy {
        let worst_ms = Arc::new(AtomicU64::new(0));
        let found = worst_ms.clone();
        let watcher = tokio::spawn(async move {
            loop {
                let due = clock::now() + TICK;
                tokio::time::sleep(TICK).await;
                found.fetch_max(clock::now().since(due).as_millis() as u64, Ordering::Relaxed);
            }
        });
        Busy { worst_ms, watcher }
    }

    /// The worst so far, if it is bad enough to explain sound that is missing.
    pub fn excuse(&self) -> Option<String> {
        excuse(self.worst_ms.load(Ordering::Relaxed))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

fn excuse(worst_ms: u64) -> Option<String> {
    let words = format!("this machine is busy: a timer of {} ms came {worst_ms} ms late", TICK.as_millis());
    (worst_ms > LATE_MS_MAX).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_is_late_by_more_than_the_buffers_wait_is_an_excuse() {
        assert_eq!(excuse(LATE_MS_MAX), None);
        assert!(excuse(231).unwrap().contains("a timer of 20 ms came 231 ms late"));
    }

    #[tokio::test]
    async fn a_thread_that_is_kept_from_its_work_is_noticed() {
        let busy = Busy::watch();
        tokio::task::yield_now().await;
        // The one thread of this runtime does something else.
        let until = clock::now() + TICK + Duration::from_millis(2 * LATE_MS_MAX);
        while clock::now() < until {
            std::hint::spin_loop();
        }
        while busy.worst_ms.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert!(busy.excuse().is_some());
    }
}
