//! The clock of a flow that is driven by arrival: when something must be sent although nothing came.
//!
//! ```text
//!  packets:   │    │    │  │      │                                   │    │
//!  sent:      R    R    R  R      R             C    C    C    C    C FFFFFR    R
//!                                 ├── 120 ms ──►├ every 20 ms ┤       ▲
//!                                                                     what was missing, at once: the next word is on time
//! ```
//!
//! A real frame (R) goes as it comes. When nothing has come for a while, comfort frames (C) go, one per 20 ms; so do the packets of keys
//! and the frames of a greeting that was held. Comfort lags behind the real time by as long as it waited; the frames that are missing when
//! the source speaks again (F) go at once before it, so that the stream's timestamps follow the source's clock exactly.
//!
//! Why the source's clock and not ours: a stream whose packets come from one clock and whose timestamps from another either drops a
//! frame or repeats one every 40 seconds at 500 ppm. The receiver has to follow one clock anyway; so it follows the speaker's.

use crate::limits::PTIME_MS;
use crate::time::Instant;

/// How long nothing may come before comfort is sent: what comes within it was late, and the receiver's buffer is there for that.
pub(super) const PAUSE_MS: u64 = 120;

/// A wake-up later than this is not caught up: the frames are skipped, the timestamps are not.
const CATCH_UP_FRAMES_MAX: u64 = 8;
const _: () = assert!(CATCH_UP_FRAMES_MAX * PTIME_MS as u64 > PAUSE_MS);

/// The clock.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// When the frame after the last is due if nothing comes.
    next: Instant,
    /// Until then the source is not taken to pause.
    patient_until: Instant,
}

impl Pace {
    /// A clock whose first frame is due at once.
    pub(super) fn new(now: Instant) -> Pace {
        Pace { next: now, patient_until: now }
    }

    /// When a frame of what waits, or the packet of a key, goes.
    pub(super) fn waiting(&self) -> Instant {
        self.next
    }

    /// At this instant a comfort frame goes if no other came.
    pub(super) fn comfort(&self) -> Instant {
        self.next.max(self.patient_until)
    }

    /// Counts one frame that went as it came.
    pub(super) fn passed(&mut self, now: Instant) {
        self.next = now.plus_millis(PTIME_MS as u64);
        self.patient_until = now.plus_millis(PAUSE_MS);
    }

    /// The source speaks, though what it says is not sent now: comfort waits for what comes next, which may be late.
    pub(super) fn heard(&mut self, now: Instant) {
        self.patient_until = now.plus_millis(PAUSE_MS);
    }

    /// Counts one frame that went because it was due at `due`.
    pub(super) fn played(&mut self, due: Instant) {
        self.next = due.plus_millis(PTIME_MS as u64);
    }

    /// The source says that it pauses: comfort need not wait.
    pub(super) fn pause(&mut self) {
        self.patient_until = self.next;
    }

    /// Frames whose time has passed for good: nobody woke us, or the target was on hold.
    pub(super) fn skip(&mut self, now: Instant) -> u64 {
        let behind = now.since(self.next).as_millis() as u64 / PTIME_MS as u64;
        if behind <= CATCH_UP_FRAMES_MAX {
            return 0;
        }
        self.next = self.next.plus_millis(behind * PTIME_MS as u64);
        behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn silence_begins_at_once_and_keeps_to_the_absolute_clock() {
        let mut pace = Pace::new(ms(1_000));
        let mut sent_at = Vec::new();
        for _ in 0..5 {
            let due = pace.comfort();
            pace.played(due);
            sent_at.push(due);
        }
        assert_eq!(sent_at, [ms(1_000), ms(1_020), ms(1_040), ms(1_060), ms(1_080)]);
    }

    #[test]
    fn audio_with_jitter_never_meets_comfort() {
        let mut pace = Pace::new(ms(0));
        for frame in 0..10_000_u64 {
            let at = ms(frame * 20 + [0, 90, 40, 3][frame as usize % 4]);
            assert!(frame == 0 || pace.comfort() > at, "frame {frame}");
            pace.passed(at);
        }
    }

    #[test]
    fn comfort_waits_for_late_packets_unless_the_source_says_that_it_pauses() {
        let mut pace = Pace::new(ms(0));
        pace.passed(ms(500));
        assert_eq!(pace.comfort(), ms(620));
        pace.pause();
        assert_eq!(pace.comfort(), ms(520));
    }

    #[test]
    fn a_long_gap_is_skipped_and_a_short_one_is_caught_up() {
        let mut pace = Pace::new(ms(0));
        pace.passed(ms(0));
        assert_eq!(pace.skip(ms(20 + 8 * 20)), 0);
        assert_eq!(pace.skip(ms(20 + 500 * 20 + 5)), 500);
        assert_eq!(pace.waiting(), ms(20 + 500 * 20));
    }
}
