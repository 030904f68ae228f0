//! How hard the encoders of a worker may work, and whether it takes new bridges: both by the load of its core.
//!
//! ```text
//!   core busy:   < 45 % for 5 s          45 .. 70 %           > 70 %            > 85 %
//!                one level up            as it is             one level down    the floor
//! ```
//!
//! A level is libopus's complexity, between the floor and the ceiling of the configuration. Timers that come late say the same as a
//! busy core: whoever shares the core with us has no figure here. A worker that is at its floor and has no time left refuses new
//! bridges, so that those it has keep their audio.
//!
//! Why the next level is so far away: from one level to the next a transcoded call costs up to half as much again. What is calm before
//! a step up must not be busy after it, or the level would swing for ever.

use crate::config::COMPLEXITY_MAX;
use crate::metrics::{LATENESS_BUCKETS, LATENESS_MS};
use crate::time::Instant;
use std::ops::RangeInclusive;

/// How often the load is judged, at most.
pub(super) const WINDOW_MS: u64 = 200;

/// Thousandths of a core that are calm, busy, and nearly all of it.
const CALM: u32 = 450;
const BUSY: u32 = 700;
const PRESSED: u32 = 850;
/// No time left for another call; and when there is again.
const FULL: u32 = 920;

/// How long a core must be calm before the level rises by one.
const CALM_MS: u64 = 5_000;

/// Timers that are later than this are late: a quarter of a packet.
const LATE_MS: u64 = 5;
/// Thousandths of all timers that may be late before the level falls, and before the worker counts as full.
const LATE: u64 = 20;
const LATE_FULL: u64 = 500;
/// Windows in a row that must be full.
const FULL_WINDOWS: u32 = 3;

/// Fewest timers that tell anything.
const TIMERS_MIN: u64 = 50;

/// What a worker did since the last window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// CPU time in thousandths of the time that passed.
    pub(super) busy: u32,
    /// Timers that came, by lateness.
    pub(super) lateness: [u64; LATENESS_BUCKETS],
}

/// Decides the level of one worker.
#[derive(Debug)]
pub(super) struct Governor {
    range: RangeInclusive<u8>,
    level: u8,
    calm_since: Option<Instant>,
    full_windows: u32,
}

impl Governor {
    /// Starts at the ceiling.
    pub(super) fn new(range: RangeInclusive<u8>) -> Governor {
        debug_assert!(!range.is_empty() && *range.end() <= COMPLEXITY_MAX);
        let level = *range.end();
        Governor { range, level, calm_since: None, full_windows: 0 }
    }

    /// The complexity in force.
    pub(super) fn complexity(&self) -> u8 {
        self.level
    }

    /// Whether there is no time for another call.
    pub(super) fn is_full(&self) -> bool {
        self.full_windows >= FULL_WINDOWS
    }

    /// Looks at one window; answers the new complexity when it changes.
    pub(super) fn judge(&mut self, now: Instant, window: Window) -> Option<u8> {
        let (floor, before) = (*self.range.start(), self.level);
        let late = window.late();
        self.level = if window.busy > PRESSED {
            floor
        } else if window.busy > BUSY || late > LATE {
            floor.max(before.saturating_sub(1))
        } else {
            before + u8::from(self.is_calm_for_long(now, window.busy) && before < *self.range.end())
        };
        if self.level != before {
            self.calm_since = None;
        }
        let is_full = before == floor && (window.busy > FULL || late > LATE_FULL);
        self.full_windows = match is_full {
            true => self.full_windows.saturating_add(1),
            // One that is full stays so until there is time again.
            false if self.is_full() && window.busy > PRESSED => self.full_windows,
            false => 0,
        };
        (self.level != before).then_some(self.level)
    }

    fn is_calm_for_long(&mut self, now: Instant, busy: u32) -> bool {
        if busy >= CALM {
            self.calm_since = None;
            return false;
        }
        now.since(*self.calm_since.get_or_insert(now)).as_millis() >= u128::from(CALM_MS)
    }
}

impl Window {
    /// Thousandths of the timers that were late.
    fn late(&self) -> u64 {
        let all: u64 = self.lateness.iter().sum();
        // The bucket behind a bound holds what is later.
        let on_time = LATENESS_MS.iter().take_while(|&&bound| bound <= LATE_MS).count();
        let late: u64 = self.lateness[on_time..].iter().sum();
        if all < TIMERS_MIN { 0 } else { late * 1_000 / all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn busy(busy: u32) -> Window {
        Window { busy, lateness: [100, 0, 0, 0, 0, 0] }
    }

    fn late(share: u64) -> Window {
        Window { busy: 500, lateness: [1_000 - share, 0, 0, share, 0, 0] }
    }

    fn run(governor: &mut Governor, from_ms: u64, windows: u64, window: Window) -> u64 {
        for step in 0..windows {
            governor.judge(Instant::from_millis(from_ms + step * WINDOW_MS), window);
        }
        from_ms + windows * WINDOW_MS
    }

    #[test]
    fn a_calm_worker_climbs_to_its_ceiling_and_a_busy_one_steps_down_to_its_floor() {
        let mut governor = Governor::new(1..=5);
        assert_eq!(governor.complexity(), 5);
        let at = run(&mut governor, 0, 2, busy(750));
        assert_eq!(governor.complexity(), 3);
        let at = run(&mut governor, at, 10, busy(750));
        assert_eq!(governor.complexity(), 1);
        let at = run(&mut governor, at, 24, busy(300));
        assert_eq!(governor.complexity(), 1, "4.8 s are not long enough");
        let at = run(&mut governor, at, 4, busy(300));
        assert_eq!(governor.complexity(), 2);
        run(&mut governor, at, 200, busy(300));
        assert_eq!(governor.complexity(), 5);
    }

    #[test]
    fn a_core_that_is_nearly_used_up_goes_to_the_floor_at_once() {
        let mut governor = Governor::new(0..=10);
        assert_eq!(governor.judge(Instant::ZERO, busy(900)), Some(0));
        assert_eq!(governor.judge(Instant::ZERO, busy(900)), None);
    }

    #[test]
    fn timers_that_come_late_count_like_a_busy_core() {
        let mut governor = Governor::new(0..=5);
        run(&mut governor, 0, 3, late(30));
        assert_eq!(governor.complexity(), 2);
        run(&mut governor, 0, 1, late(10));
        assert_eq!(governor.complexity(), 2);
        assert!(!governor.is_full());
        run(&mut governor, 0, 10, late(600));
        assert!(governor.is_full());
        let few = Window { busy: 100, lateness: [0, 0, 0, 0, 0, TIMERS_MIN - 1] };
        assert_eq!(few.late(), 0, "too few to tell");
    }

    #[test]
    fn only_a_worker_at_its_floor_is_full_and_it_stays_so_until_there_is_time() {
        let mut governor = Governor::new(0..=5);
        run(&mut governor, 0, 1, busy(1_000));
        assert_eq!((governor.complexity(), governor.is_full()), (0, false));
        run(&mut governor, 0, 3, busy(950));
        assert!(governor.is_full());
        run(&mut governor, 0, 50, busy(880));
        assert!(governor.is_full());
        run(&mut governor, 0, 1, busy(800));
        assert!(!governor.is_full());
        run(&mut governor, 0, 2, busy(950));
        assert!(!governor.is_full(), "a moment is no load");
    }

    #[test]
    fn a_fixed_complexity_never_changes() {
        let mut governor = Governor::new(5..=5);
        for (step, load) in [0, 1_000, 700, 100, 990, 0].into_iter().enumerate() {
            assert_eq!(governor.judge(Instant::from_millis(step as u64 * 6_000), busy(load)), None);
        }
    }

    proptest! {
        /// Whatever the load does, the level stays in its range, and a load that depends on it as a transcoded call's does comes to rest.
        #[test]
        fn a_load_that_follows_the_level_comes_to_rest(calls in 1u32..500, floor in 0u8..5) {
            // Us per call and 20 ms, by complexity: codecs, kernel and the rest.
            const COST_US: [u32; 6] = [44, 46, 60, 62, 66, 77];
            let mut governor = Governor::new(floor..=5);
            let mut changes = 0;
            for step in 0..5_000u64 {
                let load = (calls * COST_US[usize::from(governor.complexity())] / 20).min(1_000);
                let changed = governor.judge(Instant::from_millis(step * WINDOW_MS), busy(load)).is_some();
                changes += usize::from(changed && step > 2_500);
                prop_assert!((floor..=5).contains(&governor.complexity()));
            }
            prop_assert_eq!(changes, 0);
        }
    }
}
