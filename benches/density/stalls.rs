//! Whether the machine itself stood still: a thread of the highest class on the measured core, woken every 2 ms, that notes how late.
//!
//! No ordinary thread can keep it waiting for longer than a system call lasts, however busy the core is; what does is the hypervisor that
//! gives the core to somebody else, or the kernel, which may be at work for the gateway. It costs 500 wake-ups a second, about a thousandth of the core. Where the system does not allow it, nothing is
//! known and nothing is claimed.
//!
//! Another watches the generator's core in the same seconds, where no thread of the gateway ever runs. What packets do while both stand
//! still says nothing about the gateway, and is left out ([`LeftOut`]): the time itself and [`AFTER_NANOS`] behind it. So is the time in which the generator was late by its own account: then the load was not what it should be.
//! Faults are never left out.
//!
//! A core that stands still alone is not left out: beside relays that comes ten times as often as beside the floor. All of it is in the
//! record, with how late looks usually were, and the figures with nothing left out stand beside the others.

use super::process::keep_on;
use super::ring::real_nanos;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Between two looks at the clock.
const PERIOD_NANOS: u64 = 2_000_000;
/// A look that comes later than this is a stall.
pub const STALL_NANOS: u64 = 2_000_000;
/// How long what waited meanwhile may keep a core that has little time to spare from its usual pace: five packet times.
pub const AFTER_NANOS: u64 = 100_000_000;
/// Stalls of one window whose time is kept: far more than leave anything of it.
const SPANS_MAX: usize = 1_000;

/// A time by the real-time clock, nanoseconds: that of the kernel's stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it began.
    pub from: u64,
    /// When it was over.
    pub to: u64,
}

/// How long a core stood still.
#[derive(Clone, Debug, Default)]
pub struct Stalls {
    /// How often for more than [`STALL_NANOS`].
    pub count: u64,
    /// The longest, nanoseconds.
    pub worst_nanos: u64,
    /// How late each look was, nanoseconds.
    pub late: Vec<u64>,
    /// When: from the last look before each.
    pub spans: Vec<Span>,
}

impl Stalls {
    fn look(&mut self, now: u64, late: u64) {
        self.late.push(late);
        self.worst_nanos = self.worst_nanos.max(late);
        if late > STALL_NANOS {
            self.count += 1;
            if self.spans.len() < SPANS_MAX {
                self.spans.push(Span { from: now.saturating_sub(late + PERIOD_NANOS), to: now });
            }
        }
    }

    /// Those of these that were while `other` core stood still too.
    pub fn with<'s>(&'s self, other: &'s Stalls) -> impl Iterator<Item = Span> + 's {
        let meet = |one: &&Span| other.spans.iter().any(|other| one.from < other.to && other.from < one.to);
        self.spans.iter().filter(meet).copied()
    }

    /// How many they are.
    pub fn at_once(&self, other: &Stalls) -> usize {
        self.with(other).count()
    }
}

/// Times of which nothing is said.
#[derive(Clone, Debug, Default)]
pub struct LeftOut(Vec<Span>);

impl LeftOut {
    /// `stalls`, and what comes after each.
    pub fn of(mut stalls: Vec<Span>) -> LeftOut {
        stalls.sort_by_key(|span| span.from);
        let mut merged: Vec<Span> = Vec::new();
        for Span { from, to } in stalls {
            let to = to + AFTER_NANOS;
            match merged.last_mut() {
                Some(last) if from <= last.to => last.to = last.to.max(to),
                _ => merged.push(Span { from, to }),
            }
        }
        LeftOut(merged)
    }

    /// Whether nothing is said of what was then.
    pub fn holds(&self, at: u64) -> bool {
        let next = self.0.partition_point(|span| span.to <= at);
        self.0.get(next).is_some_and(|span| span.from <= at)
    }

    /// Whether nothing is said of what lasted so long, since part of it was then.
    pub fn meets(&self, time: Span) -> bool {
        let next = self.0.partition_point(|span| span.to <= time.from);
        self.0.get(next).is_some_and(|span| span.from <= time.to)
    }

    /// How much of `window` it is, nanoseconds.
    pub fn nanos(&self, window: Span) -> u64 {
        let part = |span: &Span| span.to.min(window.to).saturating_sub(span.from.max(window.from));
        self.0.iter().map(part).sum()
    }
}

/// When a generator was late whose slots of `slot_nanos` began at `from`.
pub fn late_spans(from: u64, slot_nanos: u64, lateness: &[u64]) -> Vec<Span> {
    let due = |slot: usize| from + slot as u64 * slot_nanos;
    let late = lateness.iter().enumerate().filter(|(_, late)| **late > STALL_NANOS);
    late.map(|(slot, late)| Span { from: due(slot), to: due(slot) + late }).collect()
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
        stalls.look(real_nanos(), late);
        if late > STALL_NANOS {
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

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn span(from_ms: u64, to_ms: u64) -> Span {
        Span { from: from_ms * MS, to: to_ms * MS }
    }

    #[test]
    fn a_stall_and_what_comes_after_it_is_left_out_once_however_many_saw_it() {
        let left = LeftOut::of(vec![span(2_000, 2_004), span(1_000, 1_004), span(1_001, 1_003), span(1_090, 1_093)]);
        let at = [999, 1_000, 1_104, 1_192, 1_193, 1_999, 2_000, 2_103, 2_104];
        let expected = [false, true, true, true, false, false, true, true, false];
        assert_eq!(at.map(|ms| left.holds(ms * MS)), expected);
        assert_eq!(left.nanos(span(0, 10_000)), (193 + 104) * MS);
        assert_eq!(left.nanos(span(1_100, 2_050)), (93 + 50) * MS, "only what lies in the window");
        assert!(!LeftOut::default().holds(1));
        let meets = [(900, 999), (900, 1_000), (1_192, 1_300), (1_193, 1_999), (900, 5_000)];
        assert_eq!(meets.map(|(from, to)| left.meets(span(from, to))), [false, true, true, false, true]);
    }

    #[test]
    fn only_looks_that_are_late_by_milliseconds_are_stalls_and_those_of_two_cores_are_compared() {
        let mut own = Stalls::default();
        for (now, late) in [(10, 0), (12, 1), (17, 3), (30, 4)] {
            own.look(now * MS, late * MS);
        }
        assert_eq!((own.count, own.worst_nanos, own.late.len()), (2, 4 * MS, 4));
        assert_eq!(own.spans, [span(12, 17), span(24, 30)]);
        let mut other = Stalls::default();
        other.look(26 * MS, 3 * MS);
        assert_eq!((own.at_once(&other), other.at_once(&own)), (1, 1));
        assert!(own.with(&other).eq([span(24, 30)]), "what one core saw alone is not the machine's");
    }

    #[test]
    fn a_generator_that_is_late_says_when() {
        let lateness = [0, MS, 5 * MS, 4 * MS, 0];
        let spans = late_spans(100 * MS, MS, &lateness);
        assert_eq!(spans, [span(102, 107), span(103, 107)]);
    }
}
