//! Media ports: which are free, how long they have rested, and which is next.
//!
//! Ports are reused by strangers: a peer that has not noticed the end of its call goes on sending, and its packets must not
//! reach the next one. So a released port rests for `PORT_REST_MS`, and the port that has rested longest is always the next.
//! While a tenth of the range has rested, every port that is handed out has; below that it may be one that has not, which
//! is counted and better than a refused call.
//!
//! The range is kept as pairs (even for RTP, the odd one after it for RTCP; RFC 3550 §11). A single port comes from a pair
//! that is already broken, or breaks the longest-rested one; when both halves are back they are a pair again, as rested as
//! the half that came last.
//!
//! Why lists and not a scan or a heap: both lists are in the order of release, so that the front is the longest-rested, and
//! a half whose other half returns is taken out of the middle. All of it is O(1), in arrays made at start.

use crate::limits::PORT_REST_MS;
use crate::time::Instant;
use std::ops::RangeInclusive;

/// Media ports one worker needs at least: one bridge of a single and a pair, in two pairs.
pub const PORTS_MIN: usize = 4;

/// The media ports of one worker. Pure: time is passed in.
#[derive(Debug)]
pub struct PortPool {
    /// The first port: even.
    base: u16,
    /// Per port: its neighbours in the list it is in, and since when it has rested enough.
    ports: Box<[Port]>,
    /// Whole pairs, by their even port.
    pairs: List,
    /// Halves whose other half is taken.
    singles: List,
    /// Ports in neither list.
    taken: usize,
    taken_early: u64,
}

#[derive(Clone, Copy, Debug)]
struct Port {
    state: State,
    previous: u32,
    next: u32,
    rested_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In `pairs`; for the odd half: its even one is.
    Paired,
    /// In `singles`.
    Single,
    /// Lent out.
    Taken,
}

/// A list through `Port::next`, longest-rested first.
#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

const NONE: u32 = u32::MAX;

impl PortPool {
    /// The ports of worker `index` of `workers` in `range`: whole pairs only, port 0 never.
    pub fn new(range: &RangeInclusive<u16>, index: usize, workers: usize) -> PortPool {
        let pairs = pairs_of(range);
        let workers = workers.max(1);
        let (first, end) = (pairs.len() * index / workers, pairs.len() * (index + 1) / workers);
        let base = (2 * (pairs.start + first)) as u16;
        let free = Port { state: State::Paired, previous: NONE, next: NONE, rested_at: Instant::ZERO };
        let mut pool = PortPool {
            base,
            ports: vec![free; 2 * (end - first)].into_boxed_slice(),
            pairs: List { first: NONE, last: NONE },
            singles: List { first: NONE, last: NONE },
            taken: 0,
            taken_early: 0,
        };
        for even in (0..pool.ports.len() as u32).step_by(2) {
            pool.pairs.push_back(&mut pool.ports, even);
        }
        pool
    }

    /// One port.
    pub fn take_single(&mut self, now: Instant) -> Option<u16> {
        let rested_at = |pool: &PortPool, first: u32| pool.ports.get(first as usize).map(|port| port.rested_at);
        let (single, pair) = (rested_at(self, self.singles.first), rested_at(self, self.pairs.first));
        let from_singles = match (single, pair) {
            (None, None) => return None,
            // A rested half comes before a whole pair, however long that has rested: pairs are for those who need them.
            (Some(single), Some(pair)) => single <= now || single <= pair,
            (single, None) => single.is_some(),
            (None, _) => false,
        };
        if from_singles {
            let index = self.singles.first;
            self.singles.remove(&mut self.ports, index);
            return Some(self.hand_out(index, now));
        }
        let index = self.pairs.first;
        self.pairs.remove(&mut self.ports, index);
        self.ports[index as usize + 1].rested_at = self.ports[index as usize].rested_at;
        self.ports[index as usize + 1].state = State::Single;
        // No single has rested longer, or it would have been taken: the half goes first.
        self.singles.push_front(&mut self.ports, index + 1);
        Some(self.hand_out(index, now))
    }

    /// Two ports: the even one that is answered, and the next.
    pub fn take_pair(&mut self, now: Instant) -> Option<u16> {
        let index = self.pairs.first;
        if index == NONE {
            return None;
        }
        self.pairs.remove(&mut self.ports, index);
        self.ports[index as usize + 1].state = State::Taken;
        self.taken += 1;
        Some(self.hand_out(index, now))
    }

    /// Takes back what `take_single` gave; also when the port turned out to be in use by somebody else.
    pub fn release_single(&mut self, port: u16, now: Instant) {
        let Some(index) = self.take_back(port, now) else { return };
        let other = index ^ 1;
        if self.ports[other as usize].state != State::Single {
            self.ports[index as usize].state = State::Single;
            self.singles.push_back(&mut self.ports, index);
            return;
        }
        self.singles.remove(&mut self.ports, other);
        self.join(index & !1, now);
    }

    /// Takes back what `take_pair` gave.
    pub fn release_pair(&mut self, even: u16, now: Instant) {
        debug_assert!(even.is_multiple_of(2));
        if self.take_back(even, now).is_some() && self.take_back(even + 1, now).is_some() {
            self.join(u32::from(even - self.base), now);
        }
    }

    /// Ports that were handed out before they had rested.
    pub fn taken_early(&self) -> u64 {
        self.taken_early
    }

    /// Ports that are not handed out, rested or not.
    pub fn free(&self) -> usize {
        self.ports.len() - self.taken
    }

    /// All ports.
    pub fn len(&self) -> usize {
        self.ports.len()
    }

    /// Whether there are none at all.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    fn hand_out(&mut self, index: u32, now: Instant) -> u16 {
        let port = &mut self.ports[index as usize];
        port.state = State::Taken;
        self.taken += 1;
        self.taken_early += u64::from(port.rested_at > now);
        self.base + index as u16
    }

    /// `None` for a port that is not out: a bug of the caller, which must not tangle the lists.
    fn take_back(&mut self, port: u16, now: Instant) -> Option<u32> {
        let index = u32::from(port.checked_sub(self.base)?);
        let entry = self.ports.get_mut(index as usize).filter(|entry| entry.state == State::Taken);
        debug_assert!(entry.is_some(), "port {port} was not taken");
        let entry = entry?;
        entry.rested_at = now.plus_millis(PORT_REST_MS);
        entry.state = State::Paired;
        self.taken -= 1;
        Some(index)
    }

    fn join(&mut self, even: u32, now: Instant) {
        for index in [even, even + 1] {
            self.ports[index as usize].state = State::Paired;
            self.ports[index as usize].rested_at = now.plus_millis(PORT_REST_MS);
        }
        self.pairs.push_back(&mut self.ports, even);
    }
}

impl List {
    fn push_back(&mut self, ports: &mut [Port], index: u32) {
        ports[index as usize].previous = self.last;
        ports[index as usize].next = NONE;
        match self.last {
            NONE => self.first = index,
            last => ports[last as usize].next = index,
        }
        self.last = index;
    }

    fn push_front(&mut self, ports: &mut [Port], index: u32) {
        ports[index as usize].previous = NONE;
        ports[index as usize].next = self.first;
        match self.first {
            NONE => self.last = index,
            first => ports[first as usize].previous = index,
        }
        self.first = index;
    }

    fn remove(&mut self, ports: &mut [Port], index: u32) {
        let Port { previous, next, .. } = ports[index as usize];
        match previous {
            NONE => self.first = next,
            previous => ports[previous as usize].next = next,
        }
        match next {
            NONE => self.last = previous,
            next => ports[next as usize].previous = previous,
        }
    }
}

/// The whole pairs in a range of ports, by half their even number; the pair of port 0 is none.
pub fn pairs_of(range: &RangeInclusive<u16>) -> std::ops::Range<usize> {
    let start = usize::from(*range.start()).div_ceil(2).max(1);
    let end = usize::from(*range.end()).div_ceil(2);
    start..end.max(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    #[test]
    fn pairs_are_even_then_odd_and_never_the_same_twice() {
        let mut pool = PortPool::new(&(10_001..=10_010), 0, 1);
        assert_eq!(pool.len(), 8);
        let taken: Vec<_> = (0..5).map(|_| pool.take_pair(at(0))).collect();
        assert_eq!(taken, [Some(10_002), Some(10_004), Some(10_006), Some(10_008), None]);
        assert_eq!((pool.free(), pool.taken_early()), (0, 0));
    }

    #[test]
    fn two_singles_share_a_broken_pair() {
        let mut pool = PortPool::new(&(10_000..=10_003), 0, 1);
        assert_eq!((pool.take_single(at(0)), pool.take_single(at(0))), (Some(10_000), Some(10_001)));
        assert_eq!(pool.take_pair(at(0)), Some(10_002));
        assert_eq!((pool.take_single(at(0)), pool.take_pair(at(0))), (None, None));
    }

    #[test]
    fn a_released_port_rests_while_others_have_rested() {
        let mut pool = PortPool::new(&(10_000..=10_007), 0, 1);
        let first = pool.take_pair(at(0)).unwrap();
        pool.release_pair(first, at(1));
        for _ in 0..3 {
            let other = pool.take_pair(at(2)).unwrap();
            assert_ne!(other, first);
        }
        assert_eq!(pool.taken_early(), 0);
        assert_eq!(pool.take_pair(at(PORT_REST_MS)), Some(first), "one millisecond short of its rest");
        assert_eq!(pool.taken_early(), 1);
        pool.release_pair(first, at(0));
        assert_eq!(pool.take_pair(at(PORT_REST_MS)), Some(first));
        assert_eq!(pool.taken_early(), 1, "at the end of its rest it is not early");
    }

    #[test]
    fn when_none_has_rested_the_longest_rested_is_taken_early_and_counted() {
        let mut pool = PortPool::new(&(10_000..=10_007), 0, 1);
        let taken: Vec<_> = (0..4).map(|_| pool.take_pair(at(0)).unwrap()).collect();
        for (ms, index) in [(10, 2), (20, 0), (30, 3), (40, 1)] {
            pool.release_pair(taken[index], at(ms));
        }
        let again: Vec<_> = (0..4).map(|_| pool.take_pair(at(50)).unwrap()).collect();
        assert_eq!(again, [taken[2], taken[0], taken[3], taken[1]]);
        assert_eq!(pool.taken_early(), 4);
    }

    #[test]
    fn a_single_breaks_a_rested_pair_before_it_takes_an_unrested_half() {
        let mut pool = PortPool::new(&(10_000..=10_003), 0, 1);
        let (a, b) = (pool.take_single(at(0)).unwrap(), pool.take_single(at(0)).unwrap());
        pool.release_single(b, at(5));
        assert_eq!(pool.take_single(at(6)), Some(10_002));
        assert_eq!(pool.take_single(at(6)), Some(10_003));
        assert_eq!(pool.taken_early(), 0);
        assert_eq!(pool.take_single(at(6)), Some(b));
        assert_eq!(pool.taken_early(), 1);
        pool.release_single(a, at(7));
    }

    #[test]
    fn two_returned_halves_are_a_pair_as_rested_as_the_later() {
        let mut pool = PortPool::new(&(10_000..=10_001), 0, 1);
        let (a, b) = (pool.take_single(at(0)).unwrap(), pool.take_single(at(0)).unwrap());
        pool.release_single(b, at(10));
        assert_eq!(pool.take_pair(at(PORT_REST_MS * 2)), None);
        pool.release_single(a, at(20));
        assert_eq!(pool.take_pair(at(PORT_REST_MS + 15)), Some(10_000));
        assert_eq!(pool.taken_early(), 1);
    }

    #[test]
    fn workers_share_a_range_without_overlap_or_loss() {
        for workers in 1..=7 {
            let range = 10_001..=10_100;
            let mut seen = std::collections::BTreeSet::new();
            for index in 0..workers {
                let mut pool = PortPool::new(&range, index, workers);
                while let Some(port) = pool.take_single(at(0)) {
                    assert!(range.contains(&port) && seen.insert(port));
                }
            }
            assert_eq!(seen.len(), 98, "10,001 and 10,100 have no other half");
        }
    }

    #[test]
    fn the_whole_number_space_works_and_port_zero_is_never_given() {
        let mut pool = PortPool::new(&(0..=u16::MAX), 0, 1);
        assert_eq!(pool.len(), 65_534);
        let mut last = 0;
        while let Some(port) = pool.take_single(at(0)) {
            assert!(port >= 2);
            last = last.max(port);
        }
        assert_eq!(last, u16::MAX);
        assert!(PortPool::new(&(0..=1), 0, 1).is_empty());
    }

    proptest! {
        /// Against a map of every port's state: nothing is handed out twice, no count drifts, and nobody is refused while
        /// a fitting port is free.
        #[test]
        fn any_order_of_taking_and_releasing_keeps_the_books(steps in proptest::collection::vec((0u8..4, 0usize..64, 0u64..40_000), 1..400)) {
            let mut pool = PortPool::new(&(20_000..=20_019), 0, 1);
            let mut out: Vec<(u16, bool)> = Vec::new();
            let mut rested: BTreeMap<u16, u64> = (20_000..=20_019).map(|port| (port, 0)).collect();
            let (mut now, mut early) = (0, 0);
            for (what, which, wait) in steps {
                now += wait;
                let pair = what == 1;
                if what < 2 {
                    let port = if pair { pool.take_pair(at(now)) } else { pool.take_single(at(now)) };
                    let possible = rested.keys().any(|port| !pair || (port % 2 == 0 && rested.contains_key(&(port + 1))));
                    prop_assert_eq!(port.is_some(), possible);
                    let Some(port) = port else { continue };
                    let mut due = rested.remove(&port).unwrap();
                    if pair {
                        due = due.max(rested.remove(&(port + 1)).unwrap());
                    }
                    early += u64::from(due > now);
                    out.push((port, pair));
                } else if !out.is_empty() {
                    let (port, pair) = out.swap_remove(which % out.len());
                    if pair {
                        pool.release_pair(port, at(now));
                        rested.insert(port + 1, now + PORT_REST_MS);
                    } else {
                        pool.release_single(port, at(now));
                        // Joined halves rest together.
                        if let Some(other) = rested.get_mut(&(port ^ 1)) {
                            *other = now + PORT_REST_MS;
                        }
                    }
                    rested.insert(port, now + PORT_REST_MS);
                }
                prop_assert_eq!(pool.free(), rested.len());
                prop_assert_eq!(pool.taken_early(), early);
            }
        }
    }
}
