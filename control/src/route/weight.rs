//! In which order trunks are tried, and what is known of them while the program runs.
//!
//! Weight decides: the lowest first. Among equals the order of the file decides, and a trunk that gave no answer a moment ago
//! stands behind all others until it has rested, so that a dead provider costs its timeout once and not at every call.
//!
//! Why not random among equals: two calls to the same number should go the same way, and so should `tandem route`.

use super::TrunkId;
use super::limits::TRUNK_REST;
use engine::time::Instant;
use std::collections::BTreeMap;

/// What calls have taught about the trunks. Kept by the owner of the calls.
#[derive(Clone, Debug, Default)]
pub struct Load {
    trunks: BTreeMap<TrunkId, State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    calls: usize,
    rests_until: Option<Instant>,
    /// It does not answer OPTIONS.
    is_silent: bool,
}

impl Load {
    /// A call on this trunk has begun.
    pub fn begin(&mut self, trunk: TrunkId) {
        self.trunks.entry(trunk).or_default().calls += 1;
    }

    /// A call on this trunk is over.
    pub fn end(&mut self, trunk: TrunkId) {
        let state = self.trunks.entry(trunk).or_default();
        state.calls = state.calls.saturating_sub(1);
    }

    /// The trunk gave no answer, or one that says nothing about the call (408, 5xx).
    pub fn failed(&mut self, now: Instant, trunk: TrunkId) {
        self.trunks.entry(trunk).or_default().rests_until = Some(now + TRUNK_REST);
    }

    /// The trunk has answered.
    pub fn answered(&mut self, trunk: TrunkId) {
        let state = self.trunks.entry(trunk).or_default();
        (state.rests_until, state.is_silent) = (None, false);
    }

    /// The trunk answers OPTIONS, or has ceased to.
    pub fn alive(&mut self, trunk: TrunkId, alive: bool) {
        match alive {
            true => self.answered(trunk),
            false => self.trunks.entry(trunk).or_default().is_silent = true,
        }
    }

    /// Calls on this trunk.
    pub fn calls(&self, trunk: TrunkId) -> usize {
        self.trunks.get(&trunk).map_or(0, |state| state.calls)
    }

    /// Whether the trunk failed a moment ago, or does not answer OPTIONS.
    pub fn is_resting(&self, now: Instant, trunk: TrunkId) -> bool {
        let rests = |state: &State| state.is_silent || state.rests_until.is_some_and(|until| now < until);
        self.trunks.get(&trunk).is_some_and(rests)
    }

    /// Sorts trunks, given with their weights in the order of the file.
    pub(super) fn sort(&self, now: Instant, trunks: &mut [(TrunkId, u32)]) {
        trunks.sort_by_key(|&(trunk, weight)| (self.is_resting(now, trunk), weight, trunk));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_weight_is_first_and_who_failed_a_moment_ago_is_last() {
        let now = Instant::from_millis(1_000);
        let mut load = Load::default();
        let sorted = |load: &Load, now| {
            let mut trunks = [(TrunkId(0), 20), (TrunkId(1), 10), (TrunkId(2), 10)];
            load.sort(now, &mut trunks);
            trunks.map(|(trunk, _)| trunk.0)
        };
        assert_eq!(sorted(&load, now), [1, 2, 0]);
        load.failed(now, TrunkId(1));
        assert_eq!(sorted(&load, now), [2, 0, 1]);
        assert_eq!(sorted(&load, now + TRUNK_REST), [1, 2, 0]);
        load.failed(now, TrunkId(1));
        load.answered(TrunkId(1));
        assert_eq!(sorted(&load, now), [1, 2, 0]);
        load.alive(TrunkId(1), false);
        assert_eq!(sorted(&load, now + 10 * TRUNK_REST), [2, 0, 1], "who does not answer rests until it does");
        load.alive(TrunkId(1), true);
        assert_eq!(sorted(&load, now), [1, 2, 0]);
    }

    #[test]
    fn calls_are_counted_per_trunk_and_never_below_zero() {
        let mut load = Load::default();
        load.begin(TrunkId(3));
        load.end(TrunkId(3));
        load.end(TrunkId(3));
        assert_eq!((load.calls(TrunkId(3)), load.calls(TrunkId(4))), (0, 0));
    }
}
