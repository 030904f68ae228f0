//! The media clock of a flow that is driven by arrival: when a frame may go, and when one must.
//!
//! ```text
//!   frame n:        origin + 20n ms          + 60 ms                 + 120 ms
//!  ─────────────────────┬───────────────────────┬───────────────────────┬─────► time
//!   waits in the backlog│ goes as it comes      │ comfort silence, if   │ comfort silence,
//!                       │                       │ nothing came for 60 ms│ whatever came
//! ```
//!
//! So exactly one frame belongs to each 20 ms of one absolute clock. A packet that is early or late by less than the window
//! passes without delay; a peer whose clock is fast fills a small backlog, one whose clock is slow causes one silent frame per
//! 20 ms of drift. Why not send comfort silence on a timer of its own: two clocks on one stream make its timestamps run away.

use crate::limits::PTIME_MS;
use crate::time::Instant;

/// How far frames may lag behind their earliest time before silence takes their place, and how long a pause is not yet one.
const LAG_MS_MAX: u64 = 60;

/// A wake-up later than this is not caught up: the frames are skipped, the timestamps are not.
const CATCH_UP_FRAMES_MAX: u64 = 8;
const _: () = assert!(CATCH_UP_FRAMES_MAX * PTIME_MS as u64 > 2 * LAG_MS_MAX);

/// The clock. Frame times are counted from `origin`, never from each other: nothing drifts.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    origin: Instant,
    frames: u64,
    last: Instant,
    last_real: Instant,
}

impl Pace {
    /// A clock whose first frame is due at once.
    pub(super) fn new(now: Instant) -> Pace {
        Pace { origin: now, frames: 0, last: now, last_real: now }
    }

    /// Before this the next frame waits.
    pub(super) fn earliest(&self) -> Instant {
        self.origin.plus_millis(self.frames * PTIME_MS as u64)
    }

    /// At this instant a silent frame goes if no other came.
    pub(super) fn comfort(&self) -> Instant {
        if self.frames == 0 {
            return self.origin;
        }
        let window = self.earliest().plus_millis(LAG_MS_MAX);
        self.last_real.plus_millis(LAG_MS_MAX).min(window.plus_millis(LAG_MS_MAX)).max(window)
    }

    /// When the next packet of a key goes: like comfort silence, but never two at once.
    pub(super) fn key(&self) -> Instant {
        if self.frames == 0 { self.origin } else { self.earliest().max(self.last.plus_millis(PTIME_MS as u64)) }
    }

    /// Counts one frame that was sent; `is_real` unless it was made up.
    pub(super) fn sent(&mut self, now: Instant, is_real: bool) {
        self.frames += 1;
        self.last = now;
        if is_real {
            self.last_real = now;
        }
    }

    /// Frames whose time has passed for good: nobody woke us, or the target was on hold.
    pub(super) fn skip(&mut self, now: Instant) -> u64 {
        let behind = now.since(self.earliest()).as_millis() as u64 / PTIME_MS as u64;
        if behind <= CATCH_UP_FRAMES_MAX {
            return 0;
        }
        self.frames += behind;
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
        assert_eq!(pace.comfort(), ms(1_000));
        let mut sent_at = Vec::new();
        for _ in 0..5 {
            let due = pace.comfort();
            pace.sent(due.plus_millis(7), false);
            sent_at.push(due);
        }
        assert_eq!(sent_at, [ms(1_000), ms(1_080), ms(1_100), ms(1_120), ms(1_140)]);
    }

    #[test]
    fn steady_audio_never_meets_comfort_silence() {
        let mut pace = Pace::new(ms(0));
        for frame in 0..10_000_u64 {
            let at = ms(frame * 20 + [0, 19, 40, 3][frame as usize % 4]);
            assert!(pace.earliest() <= at, "frame {frame}");
            assert!(frame == 0 || pace.comfort() > at, "frame {frame}");
            pace.sent(at, true);
        }
    }

    #[test]
    fn a_slow_peer_costs_one_silent_frame_per_twenty_milliseconds_of_drift() {
        // 1 % slow: 100 s of its audio are 101 s of ours.
        let (mut pace, mut silent) = (Pace::new(ms(0)), 0);
        for frame in 0..5_000_u64 {
            let at = Instant::from_nanos(frame * 20_200_000);
            while pace.comfort() < at {
                pace.sent(pace.comfort(), false);
                silent += 1;
            }
            pace.sent(at, true);
        }
        assert!((40..=55).contains(&silent), "{silent}");
    }

    #[test]
    fn a_long_gap_is_skipped_and_a_short_one_is_caught_up() {
        let mut pace = Pace::new(ms(0));
        pace.sent(ms(0), true);
        assert_eq!(pace.skip(ms(20 + 8 * 20)), 0);
        assert_eq!(pace.skip(ms(20 + 500 * 20 + 5)), 500);
        assert_eq!(pace.earliest(), ms(20 + 500 * 20));
    }

    #[test]
    fn packets_of_a_key_are_never_sent_two_at_once() {
        let mut pace = Pace::new(ms(0));
        pace.sent(ms(0), true);
        // The next frame's earliest time is 60 ms ago.
        pace.sent(ms(100), true);
        assert_eq!(pace.key(), ms(120));
    }
}
