//! How much of the bit rate goes into in-band FEC, by what the receiver reports.
//!
//! ```text
//!          report ≥ 3 %                       step up at once, down one step in 10 s
//!   off ────────────────► on, expecting 5 ─── 10 ─── 20 %
//!    ▲                           │
//!    └──── < 2 % for 15 s ───────┘
//! ```
//!
//! Why not always on: at 20 kbit/s it costs 0.4 PESQ of clean quality, and what it brings is worth that from 2 % on. Why so few steps: what
//! is lost by expecting 5 % where there are 10 is 0.03. Why not in proportion: each change of the expected loss moves bits between the
//! voice and its copy, and a report covers five seconds; a receiver that hovers around a boundary must not hear it.

use crate::time::Instant;

/// Reported loss from which redundancy is sent, and below which it no longer is.
const ON_PCT: u8 = 3;
const OFF_PCT: u8 = 2;

/// How long the path must have been that good.
const CALM_MS: u64 = 15_000;

/// How long the loss must have been lower before less is expected.
const LOWER_MS: u64 = 10_000;

/// Expected losses, in percent: beyond the last the voice itself would have no bits left.
const STEPS_PCT: [u8; 3] = [5, 10, 20];

/// Decides what loss the encoder is told to expect.
#[derive(Clone, Debug)]
pub struct Redundancy {
    expected_pct: u8,
    /// Since when the reports have asked for less.
    lower_since: Option<Instant>,
}

impl Redundancy {
    /// Nothing has been reported: none.
    pub fn new() -> Redundancy {
        Redundancy { expected_pct: 0, lower_since: None }
    }

    /// Takes the last report's loss; call it as often as you like. Answers the loss to expect, 0 for no redundancy, where it changes.
    pub fn report(&mut self, now: Instant, lost_pct: u8) -> Option<u8> {
        let wanted = self.wanted(lost_pct);
        if wanted >= self.expected_pct {
            self.lower_since = None;
            return (wanted > self.expected_pct).then(|| self.expect(wanted));
        }
        let since = *self.lower_since.get_or_insert(now);
        let patience_ms = if wanted == 0 && self.expected_pct == STEPS_PCT[0] { CALM_MS } else { LOWER_MS };
        if now.since(since).as_millis() < u128::from(patience_ms) {
            return None;
        }
        self.lower_since = Some(now);
        let below = STEPS_PCT.iter().copied().filter(|&step| step < self.expected_pct).max();
        Some(self.expect(below.unwrap_or(0)))
    }

    /// What a report asks for by itself.
    fn wanted(&self, lost_pct: u8) -> u8 {
        let threshold = if self.expected_pct == 0 { ON_PCT } else { OFF_PCT };
        if lost_pct < threshold {
            return 0;
        }
        STEPS_PCT.into_iter().find(|&step| lost_pct <= step).unwrap_or(STEPS_PCT[STEPS_PCT.len() - 1])
    }

    fn expect(&mut self, pct: u8) -> u8 {
        self.expected_pct = pct;
        pct
    }
}

impl Default for Redundancy {
    fn default() -> Self {
        Redundancy::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1_000)
    }

    #[test]
    fn redundancy_begins_with_the_first_report_of_loss_and_rises_at_once() {
        let mut redundancy = Redundancy::new();
        assert_eq!(redundancy.report(at(0), 0), None);
        assert_eq!(redundancy.report(at(1), 2), None);
        assert_eq!(redundancy.report(at(2), 3), Some(5));
        assert_eq!(redundancy.report(at(3), 5), None, "the same step");
        assert_eq!(redundancy.report(at(4), 7), Some(10));
        assert_eq!(redundancy.report(at(5), 100), Some(20));
    }

    #[test]
    fn it_falls_step_by_step_and_ends_after_fifteen_calm_seconds() {
        let mut redundancy = Redundancy::new();
        redundancy.report(at(0), 20);
        let changes: Vec<(u64, u8)> =
            (1..120).filter_map(|second| redundancy.report(at(second), 0).map(|pct| (second, pct))).collect();
        assert_eq!(changes, [(11, 10), (21, 5), (36, 0)]);
    }

    #[test]
    fn a_receiver_that_hovers_around_a_boundary_changes_nothing() {
        let mut redundancy = Redundancy::new();
        redundancy.report(at(0), 3);
        for second in 1..600 {
            assert_eq!(redundancy.report(at(second), if second % 10 < 5 { 1 } else { 3 }), None, "{second}");
        }
    }
}
