//! What a bridge counts, for the worker's counters while it runs and for the call's record when it ends.

use super::flow::Flow;
use super::{Bridge, BridgeStats};
use crate::metrics::Metrics;

impl Bridge {
    /// Moves what was counted here to the worker's counters.
    pub(super) fn count(&mut self, metrics: &mut Metrics) {
        let concealed = self.concealed(0) + self.concealed(1);
        metrics.packets_concealed += concealed - core::mem::replace(&mut self.concealed_counted, concealed);
        let redundant = self.redundant(0) + self.redundant(1);
        metrics.packets_redundant += redundant - core::mem::replace(&mut self.redundant_counted, redundant);
        metrics.datagrams_unsent += self.outbox.take_unsent();
        metrics.events_lost += core::mem::take(&mut self.events_lost);
    }

    /// Packets made up in one direction: 0 is A to B.
    pub(super) fn concealed(&self, direction: usize) -> u64 {
        let flow = if direction == 0 { &self.a_to_b } else { &self.b_to_a };
        self.concealed_before[direction] + flow.as_ref().map_or(0, Flow::concealed)
    }

    /// Packets encoded with redundancy in one direction: 0 is A to B.
    pub(super) fn redundant(&self, direction: usize) -> u64 {
        let flow = if direction == 0 { &self.a_to_b } else { &self.b_to_a };
        self.redundant_before[direction] + flow.as_ref().map_or(0, Flow::redundant)
    }

    /// Figures so far.
    pub fn stats(&self) -> BridgeStats {
        BridgeStats {
            a: self.a.stats(),
            b: self.b.stats(),
            concealed_from_a: self.concealed(0),
            concealed_from_b: self.concealed(1),
            redundant_to_a: self.redundant(1),
            redundant_to_b: self.redundant(0),
            playout: [&self.a_to_b, &self.b_to_a].into_iter().flatten().find_map(Flow::playout),
        }
    }
}
