//! Where control and a worker meet: two bounded queues, a wake-up and three numbers.
//!
//! Commands full: control refuses the call, nobody waits. Events: while any but `BRIDGES_PER_WORKER_MAX` places are taken,
//! only `Ended` may use the rest, and no bridge is opened; since no more bridges than that can be open, every one of them
//! finds its place. A worker that cannot answer an `Open` leaves it in the queue until control has read some events.
//!
//! Why not a channel: channels grow, wake by locking or spinning, or cannot tell the producer how much room is left.

use super::{Command, Event, MailboxFull};
use crate::io::system::WakeFd;
use crate::limits::{BRIDGES_PER_WORKER_MAX, COMMANDS_MAX, EVENTS_MAX};
use crate::metrics::Metrics;
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What control and one worker share.
#[derive(Debug)]
pub(super) struct Mailbox {
    commands: ArrayQueue<Command>,
    events: ArrayQueue<Event>,
    /// The newest counters; an older copy that nobody read is overwritten.
    metrics: ArrayQueue<Metrics>,
    wake: Arc<WakeFd>,
    load: Padded<AtomicUsize>,
    stop: AtomicBool,
    stopped: AtomicBool,
}

/// On cache lines of its own: control reads all workers' loads for every call.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

impl Mailbox {
    pub(super) fn new() -> std::io::Result<Mailbox> {
        Ok(Mailbox {
            commands: ArrayQueue::new(COMMANDS_MAX),
            events: ArrayQueue::new(EVENTS_MAX),
            metrics: ArrayQueue::new(1),
            wake: Arc::new(WakeFd::new()?),
            load: Padded::default(),
            stop: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        })
    }

    pub(super) fn wake_fd(&self) -> &Arc<WakeFd> {
        &self.wake
    }

    // Control's side.

    /// Hands over a command, unless the queue is full or the worker is gone.
    pub(super) fn command(&self, command: Command) -> Result<(), MailboxFull> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(MailboxFull);
        }
        let opens = matches!(command, Command::Open { .. });
        // Counted before the worker can see it, so that its answer cannot count it down first.
        self.load.0.fetch_add(usize::from(opens), Ordering::Relaxed);
        let pushed = self.commands.push(command).map_err(|_| MailboxFull);
        if pushed.is_err() {
            self.load.0.fetch_sub(usize::from(opens), Ordering::Relaxed);
        }
        self.wake.wake();
        pushed
    }

    pub(super) fn poll_event(&self) -> Option<Event> {
        self.events.pop()
    }

    pub(super) fn newest_metrics(&self) -> Option<Metrics> {
        self.metrics.pop()
    }

    /// Bridges open or about to be.
    pub(super) fn load(&self) -> usize {
        self.load.0.load(Ordering::Relaxed)
    }

    /// Stops the worker even when its queue is full.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.wake();
    }

    // The worker's side.

    /// Call before looking at commands: what comes later wakes the worker again.
    pub(super) fn looked(&self) {
        self.wake.looked();
    }

    pub(super) fn stop_wanted(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(super) fn next_command(&self) -> Option<Command> {
        self.commands.pop()
    }

    pub(super) fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    /// Whether there is room beyond the places kept for `Ended`. Only the worker posts, so it stays true until it does.
    pub(super) fn has_room(&self) -> bool {
        EVENTS_MAX - self.events.len() > BRIDGES_PER_WORKER_MAX
    }

    /// Posts an event that may be lost. False when it is.
    pub(super) fn post(&self, event: Event) -> bool {
        self.has_room() && self.events.push(event).is_ok()
    }

    /// Posts the last event of a bridge, for which a place is kept. False would be a bug in the keeping.
    pub(super) fn post_last(&self, event: Event) -> bool {
        self.events.push(event).is_ok()
    }

    pub(super) fn publish(&self, metrics: Metrics) {
        self.metrics.force_push(metrics);
    }

    pub(super) fn unload(&self) {
        self.load.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn set_stopped(&self) {
        self.stopped.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::{BridgeEvent, BridgeId, BridgeStats};
    use crate::error::{Cause, End, Side};
    use crate::worker::RefuseReason;

    fn refused(number: usize) -> Event {
        Event::Refused { bridge: BridgeId(number as u64), reason: RefuseReason::Full }
    }

    fn ended(number: usize) -> Event {
        let end = End { side: Side::Engine, cause: Cause::Closed };
        let event = BridgeEvent::Ended { end, stats: BridgeStats::default() };
        Event::Bridge { bridge: BridgeId(number as u64), event }
    }

    #[test]
    fn every_live_bridge_finds_a_place_for_its_last_event() {
        let mailbox = Mailbox::new().unwrap();
        let posted = (0..2 * EVENTS_MAX).filter(|&number| mailbox.post(refused(number))).count();
        assert_eq!(posted, EVENTS_MAX - BRIDGES_PER_WORKER_MAX);
        assert!((0..BRIDGES_PER_WORKER_MAX).all(|number| mailbox.post_last(ended(number))));
        assert!(!mailbox.post_last(ended(0)), "a place more than was kept");
        for _ in 0..=BRIDGES_PER_WORKER_MAX {
            assert!(!mailbox.has_room());
            mailbox.poll_event().unwrap();
        }
        assert!(mailbox.has_room());
    }

    #[test]
    fn a_full_queue_refuses_the_command_and_counts_no_load() {
        let mailbox = Mailbox::new().unwrap();
        for _ in 0..COMMANDS_MAX {
            mailbox.command(Command::Stop).unwrap();
        }
        assert_eq!(mailbox.command(Command::Stop), Err(MailboxFull));
        assert_eq!(mailbox.load(), 0);
    }

    #[test]
    fn only_the_newest_counters_are_kept() {
        let mailbox = Mailbox::new().unwrap();
        for turns in 1..=3 {
            mailbox.publish(Metrics { turns, ..Metrics::default() });
        }
        assert_eq!(mailbox.newest_metrics().map(|metrics| metrics.turns), Some(3));
        assert_eq!(mailbox.newest_metrics(), None);
    }
}
