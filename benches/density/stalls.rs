//! Whether the machine itself stood still: a thread of the highest class on the measured core, woken every 2 ms, that notes how late.
//!
//! No ordinary thread can keep it waiting, however busy the core is; what does is the hypervisor that gives the core to somebody else,
//! or the kernel's own interrupts. So a late turn is time that no program on this core could have used. It costs 500 wake-ups a second,
//! about a thousandth of the core. Where the system does not allow it, nothing is known and nothing is claimed.

use super::process::keep_on;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Between two looks at the clock.
const PERIOD_NANOS: u64 = 2_000_000;
/// A look that comes later than this is a stall.
pub const STALL_NANOS: u64 = 2_000_000;

/// How long the core stood still.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stalls {
    /// How often for more than [`STALL_NANOS`].
    pub count: u64,
    /// The longest, nanoseconds.
    pub worst_nanos: u64,
}

/// A sampler that runs until it is asked what it saw.
pub struct Sampler {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Option<Stalls>>,
}

impl Sampler {
    /// Begins to watch a core.
    pub fn start(core: usize) -> Sampler {
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_over);
        Sampler { is_over, thread: std::thread::spawn(move || watch(core, &flag)) }
    }

    /// What it saw; `None` where it may not watch.
    pub fn finish(self) -> Option<Stalls> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().ok().flatten()
    }
}

fn watch(core: usize, is_over: &AtomicBool) -> Option<Stalls> {
    keep_on(0, &[core]).ok()?;
    let best = libc::sched_param { sched_priority: 1 };
    // SAFETY: `best` is readable; 0 is this thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &best) } != 0 {
        return None;
    }
    let (mut stalls, mut due) = (Stalls::default(), monotonic_nanos());
    while !is_over.load(Ordering::Relaxed) {
        due += PERIOD_NANOS;
        wait_until(due);
        let late = monotonic_nanos().saturating_sub(due);
        stalls.worst_nanos = stalls.worst_nanos.max(late);
        if late > STALL_NANOS {
            stalls.count += 1;
            // Time that is gone is not counted again by the turns that it swallowed.
            due += late;
        }
    }
    Some(stalls)
}

fn monotonic_nanos() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn wait_until(nanos: u64) {
    let until =
        libc::timespec { tv_sec: (nanos / 1_000_000_000) as i64, tv_nsec: (nanos % 1_000_000_000) as libc::c_long };
    // SAFETY: `until` is readable; what is left after a signal is not asked for.
    unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &until, std::ptr::null_mut()) };
}
