//! How hard the encoders of a worker may work, and whether it takes new bridges: both by the load of its core.
//!
//! ```text
//!   core busy:   < 45 % for 5 s          45 .. 70 %           > 70 %            > 85 %
//!                one level up            as it is             one level down    the floor
//! ```
//!
//! A level is libopus's complexity, between the floor and the ceiling of the configuration. A worker that is at its floor and has no
//! time left refuses new bridges, so that those it has keep their audio; and so does one that will have none once media flows on the
//! bridges that are open already. For their sake the level falls early, too, and to the floor at once.
//!
//! *Busy* is what is not rest. Why not the CPU time of the thread: a core has less to give than its clock says, when interrupts, a
//! host or the threads of control take their part, and a thread that gets 70 % of it and never rests is full. Why not that alone:
//! on a machine that others use, a thread that has little to do is kept from resting too. So nobody is refused, and lateness does not
//! count, while the thread's own CPU time is small.
//!
//! Why the next level is so far away: from one level to the next a transcoded call costs up to half as much again. What is calm before
//! a step up must not be busy after it, or the level would swing for ever.

use crate::config::COMPLEXITY_MAX;
use crate::io::{GATHER_MAX, GATHER_MIN};
use crate::metrics::{LATENESS_BUCKETS, LATENESS_MS};
use crate::time::Instant;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How often the load is judged, at most.
pub(super) const WINDOW_MS: u64 = 200;

/// Thousandths of a core from which turns gather for longer, and below which for less again: the difference is more than what that itself
/// makes in load.
const GATHER_LONGER: u32 = 600;
const GATHER_LESS: u32 = 550;

/// Thousandths of a core that are calm, busy, and nearly all of it.
const CALM: u32 = 450;
const BUSY: u32 = 700;
const PRESSED: u32 = 850;
/// No time left for another call; there is again below `PRESSED`.
const FULL: u32 = 920;

/// CPU time, in thousandths, below which a thread is not what fills its core.
const OWN_MIN: u32 = 300;

/// The same with what is to come of the bridges that are open: a step up must not bring it beyond `FULL`.
const CALM_TO_COME: u32 = 600;

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

/// Fewest bridges that fill a core: with fewer open, something else does, and nobody is refused for it. Also the fewest with media from
/// which the cost of one is known, and windows of which the cheapest tells it: others on the same core
/// make calls look dear for a moment.
const BRIDGES_MIN: u32 = 20;
const COST_WINDOWS: usize = 2;

/// What a worker did since the last window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Time without rest, in thousandths of the time that passed.
    pub(super) busy: u32,
    /// CPU time, in thousandths of the time that passed.
    pub(super) cpu: u32,
    /// Bridges on which media could flow when it began.
    pub(super) carrying: u32,
    /// Bridges that are open.
    pub(super) open: u32,
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
    /// Millionths of the core that a bridge with media took in the last windows at this level, newest first.
    costs: [Option<u32>; COST_WINDOWS],
    /// Whether the load is ours.
    is_own: bool,
    gather: Duration,
}

impl Governor {
    /// Starts at the ceiling.
    pub(super) fn new(range: RangeInclusive<u8>) -> Governor {
        debug_assert!(!range.is_empty() && *range.end() <= COMPLEXITY_MAX);
        let level = *range.end();
        Governor {
            range,
            level,
            calm_since: None,
            full_windows: 0,
            costs: [None; COST_WINDOWS],
            is_own: false,
            gather: GATHER_MIN,
        }
    }

    /// The complexity in force.
    pub(super) fn complexity(&self) -> u8 {
        self.level
    }

    /// For how long turns gather.
    pub(super) fn gather(&self) -> Duration {
        self.gather
    }

    /// Whether there is time for another bridge beside `open` ones, those included on which no media flows yet.
    pub(super) fn has_time_for_another(&self, open: usize) -> bool {
        if self.full_windows >= FULL_WINDOWS {
            return false;
        }
        self.level > *self.range.start() || self.reckoned(open as u64 + 1).is_none_or(|busy| busy <= FULL)
    }

    /// Thousandths of the core that `bridges` take once media flows on all of them; `None` where that cannot be told.
    fn reckoned(&self, bridges: u64) -> Option<u32> {
        let costs = self.costs.iter().flatten();
        let cheapest = *costs.clone().min().filter(|_| self.is_own && costs.count() == COST_WINDOWS)?;
        Some(u32::try_from(bridges * u64::from(cheapest) / 1_000).unwrap_or(u32::MAX))
    }

    /// Looks at one window; answers the new complexity when it changes.
    pub(super) fn judge(&mut self, now: Instant, window: Window) -> Option<u8> {
        let (floor, before) = (*self.range.start(), self.level);
        self.gather = match window.busy {
            GATHER_LONGER.. => GATHER_MAX,
            ..GATHER_LESS => GATHER_MIN,
            _ => self.gather,
        };
        self.is_own = window.cpu >= OWN_MIN && window.open >= BRIDGES_MIN;
        self.note_cost(window);
        let to_come = self.reckoned(window.open.into()).unwrap_or(0);
        let late = if self.is_own { window.late() } else { 0 };
        self.level = if window.busy > PRESSED || to_come > FULL {
            floor
        } else if window.busy > BUSY || late > LATE {
            floor.max(before.saturating_sub(1))
        } else {
            before + u8::from(self.is_calm_for_long(now, window.busy, to_come) && before < *self.range.end())
        };
        if self.level != before {
            self.calm_since = None;
            // What bridges cost at another level says nothing about this one.
            self.costs = [None; COST_WINDOWS];
        }
        let is_full = before == floor && self.is_own && (window.busy > FULL || late > LATE_FULL);
        self.full_windows = match is_full {
            true => self.full_windows.saturating_add(1),
            // One that is full stays so until there is time again.
            false if self.full_windows >= FULL_WINDOWS && self.is_own && window.busy > PRESSED => self.full_windows,
            false => 0,
        };
        (self.level != before).then_some(self.level)
    }

    fn is_calm_for_long(&mut self, now: Instant, busy: u32, to_come: u32) -> bool {
        if busy >= CALM || to_come >= CALM_TO_COME {
            self.calm_since = None;
            return false;
        }
        now.since(*self.calm_since.get_or_insert(now)).as_millis() >= u128::from(CALM_MS)
    }

    fn note_cost(&mut self, window: Window) {
        self.costs.rotate_right(1);
        self.costs[0] = (window.carrying >= BRIDGES_MIN).then(|| window.busy * 1_000 / window.carrying);
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

    /// A window of a thread that has its core to itself.
    fn busy(busy: u32) -> Window {
        Window { busy, cpu: busy, carrying: 100, open: 100, lateness: [100, 0, 0, 0, 0, 0] }
    }

    fn late(share: u64) -> Window {
        Window { lateness: [1_000 - share, 0, 0, share, 0, 0], ..busy(500) }
    }

    fn run(governor: &mut Governor, from_ms: u64, windows: u64, window: Window) -> u64 {
        for step in 0..windows {
            governor.judge(Instant::from_millis(from_ms + step * WINDOW_MS), window);
        }
        from_ms + windows * WINDOW_MS
    }

    fn is_full(governor: &Governor) -> bool {
        !governor.has_time_for_another(0)
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
        assert!(!is_full(&governor));
        run(&mut governor, 0, 10, late(600));
        assert!(is_full(&governor));
        let few = Window { lateness: [0, 0, 0, 0, 0, TIMERS_MIN - 1], ..busy(100) };
        assert_eq!(few.late(), 0, "too few to tell");
    }

    #[test]
    fn only_a_worker_at_its_floor_is_full_and_it_stays_so_until_there_is_time() {
        let mut governor = Governor::new(0..=5);
        run(&mut governor, 0, 1, busy(1_000));
        assert_eq!((governor.complexity(), is_full(&governor)), (0, false));
        run(&mut governor, 0, 3, busy(950));
        assert!(is_full(&governor));
        run(&mut governor, 0, 50, busy(880));
        assert!(is_full(&governor));
        run(&mut governor, 0, 1, busy(800));
        assert!(!is_full(&governor));
        run(&mut governor, 0, 2, busy(950));
        assert!(!is_full(&governor), "a moment is no load");
    }

    #[test]
    fn a_thread_that_gets_a_part_of_its_core_and_never_rests_is_full() {
        let mut governor = Governor::new(0..=5);
        run(&mut governor, 0, 5, Window { cpu: 699, ..busy(990) });
        assert_eq!((governor.complexity(), is_full(&governor)), (0, true));
    }

    #[test]
    fn a_machine_that_others_use_refuses_nobody_however_late_the_timers_are() {
        let mut governor = Governor::new(0..=5);
        for cpu in [10, 200, OWN_MIN - 1] {
            run(&mut governor, 0, 50, Window { cpu, lateness: [0, 0, 0, 0, 500, 500], ..busy(1_000) });
            assert!(governor.has_time_for_another(4_000), "{cpu}");
        }
        run(&mut governor, 0, 50, Window { open: BRIDGES_MIN - 1, ..busy(1_000) });
        assert!(governor.has_time_for_another(BRIDGES_MIN as usize), "so few calls do not fill a core");
        let mut governor = Governor::new(0..=5);
        run(&mut governor, 0, 50, Window { cpu: 100, lateness: [0, 0, 0, 0, 500, 500], ..busy(300) });
        assert_eq!(governor.complexity(), 5, "lower complexity would win nothing");
    }

    #[test]
    fn bridges_that_carry_nothing_yet_are_reckoned_with_what_the_others_cost() {
        let mut governor = Governor::new(2..=2);
        run(&mut governor, 0, 2, Window { carrying: 100, ..busy(500) });
        assert!(governor.has_time_for_another(183), "0.5 % each: 184 take 92 %");
        assert!(!governor.has_time_for_another(184));
        // One window in which others held the core up makes no call dearer.
        governor.judge(Instant::from_millis(400), Window { carrying: 100, ..busy(900) });
        assert!(governor.has_time_for_another(183));
        // Too few to tell, and a core that is mostly idle: nobody is refused by reckoning.
        run(&mut governor, 800, 3, Window { carrying: BRIDGES_MIN - 1, ..busy(500) });
        assert!(governor.has_time_for_another(4_000));
        run(&mut governor, 1_400, 3, Window { carrying: 100, ..busy(OWN_MIN - 1) });
        assert!(governor.has_time_for_another(4_000));
    }

    #[test]
    fn a_worker_gathers_for_longer_while_it_is_busy() {
        let mut governor = Governor::new(0..=5);
        let mut gather = |load| {
            governor.judge(Instant::from_millis(0), busy(load));
            governor.gather()
        };
        assert_eq!(
            [590, 600, 560, 549, 590].map(&mut gather),
            [GATHER_MIN, GATHER_MAX, GATHER_MAX, GATHER_MIN, GATHER_MIN]
        );
    }

    #[test]
    fn a_fixed_complexity_never_changes() {
        let mut governor = Governor::new(5..=5);
        for (step, load) in [0, 1_000, 700, 100, 990, 0].into_iter().enumerate() {
            assert_eq!(governor.judge(Instant::from_millis(step as u64 * 6_000), busy(load)), None);
        }
    }

    /// Microseconds per call and 20 ms, by complexity: codecs, kernel and the rest.
    const COST_US: [u32; 6] = [44, 46, 60, 62, 66, 77];

    /// Offers calls to a worker whose core has `share` thousandths for it; media flows on each after `set_up` windows. Answers the most
    /// that the calls ever wanted of that share, in thousandths, and how many there are at the end.
    fn offered(governor: &mut Governor, per_window: u32, set_up: usize, share: u32, windows: u64) -> (u32, u32) {
        let (mut under_way, mut carrying, mut wanted_most) = (vec![0; set_up], 0, 0);
        for step in 0..windows {
            let wanted = carrying * COST_US[usize::from(governor.complexity())] / 20;
            let (cpu, busy) = (wanted.min(share), (wanted * 1_000 / share).min(1_000));
            // Who is refused does not count: the load of those who came is what must fit at the floor.
            wanted_most = wanted_most.max(carrying * COST_US[0] / 20 * 1_000 / share);
            let lateness = if busy == 1_000 { [0, 0, 0, 0, 0, 100] } else { [100, 0, 0, 0, 0, 0] };
            let open = carrying + under_way.iter().sum::<u32>();
            governor.judge(Instant::from_millis(step * WINDOW_MS), Window { busy, cpu, carrying, open, lateness });
            let mut accepted = 0;
            for _ in 0..per_window {
                accepted += u32::from(governor.has_time_for_another((open + accepted) as usize));
            }
            under_way.push(accepted);
            carrying += under_way.remove(0);
        }
        (wanted_most, carrying)
    }

    #[test]
    fn however_fast_calls_come_those_accepted_fit_into_the_core_and_fill_it() {
        for share in [1_000, 750] {
            for (per_second, set_up) in [(5, 1), (5, 15), (50, 1), (50, 15), (150, 1), (150, 5), (300, 1)] {
                let mut governor = Governor::new(0..=5);
                let (most, carrying) = offered(&mut governor, per_second / 5, set_up, share, 2_000);
                assert!(most <= 1_000, "{per_second}/s, {set_up} windows, {share}: {most}");
                let full = share * 20 / COST_US[0];
                assert!(carrying > full * 8 / 10, "{per_second}/s, {set_up} windows: {carrying} of {full}");
            }
        }
    }

    proptest! {
        /// Whatever the load does, the level stays in its range, and a load that depends on it as a transcoded call's does comes to rest.
        #[test]
        fn a_load_that_follows_the_level_comes_to_rest(calls in 1u32..500, floor in 0u8..5) {
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
