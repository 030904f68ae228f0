//! One deadline per slot of the pool, the earliest first.
//!
//! An indexed binary heap: `heap` orders slots by deadline, `places` tells where each slot is in it, so that a deadline
//! that moves (every packet moves one) costs O(log n) and nothing is ever left behind. All memory is taken at start.
//!
//! Why not a timer wheel: its cost is constant, but it scans empty ticks, rounds deadlines and needs a list node per timer;
//! with 4,096 slots the heap is twelve levels of integers in one page after the other.

use crate::prefetch::prefetch;
use crate::time::Instant;

/// Deadlines by slot.
#[derive(Debug)]
pub struct Timers {
    deadlines: Box<[Instant]>,
    /// Slots, as a heap over their deadlines. Ties break by slot, so that every run is the same.
    heap: Vec<u32>,
    places: Box<[u32]>,
}

const NOWHERE: u32 = u32::MAX;

impl Timers {
    /// None set, for `slots` slots.
    pub fn new(slots: usize) -> Timers {
        Timers {
            deadlines: vec![Instant::NEVER; slots].into_boxed_slice(),
            heap: Vec::with_capacity(slots),
            places: vec![NOWHERE; slots].into_boxed_slice(),
        }
    }

    /// Asks for the deadline of `slot`.
    pub fn prefetch(&self, slot: u32) {
        if let Some(deadline) = self.deadlines.get(slot as usize) {
            prefetch(deadline);
        }
    }

    /// Sets, moves or (with `Instant::NEVER`) clears the deadline of `slot`.
    pub fn set(&mut self, slot: u32, deadline: Instant) {
        // Most packets leave the deadline where it is: no neighbour in the heap is looked at.
        if deadline == self.deadlines[slot as usize] {
            return;
        }
        let place = self.places[slot as usize];
        let earlier = deadline < self.deadlines[slot as usize];
        self.deadlines[slot as usize] = deadline;
        match (place == NOWHERE, deadline == Instant::NEVER) {
            (true, true) => {}
            (true, false) => {
                self.heap.push(slot);
                self.rise(self.heap.len() - 1);
            }
            (false, true) => self.remove(place as usize),
            (false, false) if earlier => self.rise(place as usize),
            (false, false) => self.sink(place as usize),
        }
    }

    /// The earliest deadline; `NEVER` when none is set.
    pub fn earliest(&self) -> Instant {
        self.heap.first().map_or(Instant::NEVER, |&slot| self.deadlines[slot as usize])
    }

    /// Clears and answers the slot with the earliest deadline, and that, if it has come.
    pub fn pop_due(&mut self, now: Instant) -> Option<(u32, Instant)> {
        let &slot = self.heap.first()?;
        let deadline = self.deadlines[slot as usize];
        if deadline > now {
            return None;
        }
        self.deadlines[slot as usize] = Instant::NEVER;
        self.remove(0);
        Some((slot, deadline))
    }

    /// How many are set.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    fn remove(&mut self, place: usize) {
        self.places[self.heap[place] as usize] = NOWHERE;
        self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.places[self.heap[place] as usize] = place as u32;
            self.rise(place);
            self.sink(place);
        }
    }

    fn before(&self, a: usize, b: usize) -> bool {
        let key = |place: usize| (self.deadlines[self.heap[place] as usize], self.heap[place]);
        key(a) < key(b)
    }

    fn rise(&mut self, mut place: usize) {
        while place > 0 && self.before(place, (place - 1) / 2) {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
        self.places[self.heap[place] as usize] = place as u32;
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            let mut first = place;
            if left < self.heap.len() && self.before(left, first) {
                first = left;
            }
            if right < self.heap.len() && self.before(right, first) {
                first = right;
            }
            if first == place {
                break;
            }
            self.swap(place, first);
            place = first;
        }
        self.places[self.heap[place] as usize] = place as u32;
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.places[self.heap[a] as usize] = a as u32;
        self.places[self.heap[b] as usize] = b as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_cleared_deadline_never_comes() {
        let mut timers = Timers::new(4);
        timers.set(2, Instant::from_millis(5));
        timers.set(2, Instant::NEVER);
        assert_eq!((timers.pop_due(Instant::from_millis(9)), timers.len()), (None, 0));
        assert_eq!(timers.earliest(), Instant::NEVER);
    }

    proptest! {
        #[test]
        fn the_heap_answers_what_a_sorted_set_would(steps in proptest::collection::vec((0u32..32, 0u64..100, 0u8..4), 1..500)) {
            let mut timers = Timers::new(32);
            let mut model: BTreeSet<(u64, u32)> = BTreeSet::new();
            for (slot, ms, what) in steps {
                match what {
                    0 => {
                        let due = model.first().copied().filter(|&(deadline, _)| deadline <= ms);
                        prop_assert_eq!(timers.pop_due(Instant::from_millis(ms)), due.map(|(at, slot)| (slot, Instant::from_millis(at))));
                        due.map(|due| model.remove(&due));
                    }
                    1 => {
                        timers.set(slot, Instant::NEVER);
                        model.retain(|&(_, other)| other != slot);
                    }
                    _ => {
                        timers.set(slot, Instant::from_millis(ms));
                        model.retain(|&(_, other)| other != slot);
                        model.insert((ms, slot));
                    }
                }
                let earliest = model.first().map_or(Instant::NEVER, |&(ms, _)| Instant::from_millis(ms));
                prop_assert_eq!((timers.earliest(), timers.len()), (earliest, model.len()));
            }
        }
    }
}
