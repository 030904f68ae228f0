//! Where a packet stands in its stream, and when a stream begins anew.

use crate::rtp::header::RtpPacket;
use crate::rtp::sequence::{ExtendedSequence, SequenceExtender};

/// Sequence numbers further away than this, either way, are not loss or reordering but another stream (RFC 3550 A.1 has
/// 3,000 forward and 100 backward; calls at 50 packets a second need less).
const STEP_MAX: i64 = 1_000;

/// The stream that a flow follows.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    ssrc: Option<u32>,
    extender: SequenceExtender,
    highest: u64,
    /// A packet that did not fit was followed by this number: the second in a row begins the stream anew (RFC 3550 A.1).
    doubtful_next: Option<u16>,
}

/// Where a packet stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// First packet of a stream: the first at all, a new SSRC, or a sender that restarted.
    First(ExtendedSequence),
    /// So far from the highest number before it: 1 is the next one, 0 the same again, negative is late.
    Step(i64, ExtendedSequence),
    /// Far from everything: not to be played.
    Doubtful,
}

impl Source {
    /// Places one packet and moves on to it.
    pub(super) fn place(&mut self, packet: &RtpPacket<'_>) -> Place {
        if self.ssrc != Some(packet.ssrc) {
            return self.begin(packet);
        }
        // Peeked at, so that a number that does not fit moves nothing.
        let extended = self.extender.clone().extend(packet.sequence);
        let step = extended.0 as i64 - self.highest as i64;
        if step.abs() > STEP_MAX {
            if self.doubtful_next == Some(packet.sequence) {
                return self.begin(packet);
            }
            self.doubtful_next = Some(packet.sequence.wrapping_add(1));
            return Place::Doubtful;
        }
        self.doubtful_next = None;
        self.extender.extend(packet.sequence);
        self.highest = self.highest.max(extended.0);
        Place::Step(step, extended)
    }

    fn begin(&mut self, packet: &RtpPacket<'_>) -> Place {
        *self = Source { ssrc: Some(packet.ssrc), ..Source::default() };
        let extended = self.extender.extend(packet.sequence);
        self.highest = extended.0;
        Place::First(extended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::RtpTimestamp;

    fn place(source: &mut Source, ssrc: u32, sequence: u16) -> Place {
        let timestamp = RtpTimestamp(0);
        source.place(&RtpPacket { marker: false, payload_type: 0, sequence, timestamp, ssrc, payload: &[] })
    }

    #[test]
    fn steps_count_across_the_wrap_and_back() {
        let mut source = Source::default();
        assert!(matches!(place(&mut source, 1, 65_534), Place::First(_)));
        let steps: Vec<_> = [65_535, 1, 0, 1, 2, 65_533]
            .map(|sequence| match place(&mut source, 1, sequence) {
                Place::Step(step, _) => step,
                other => panic!("{other:?}"),
            })
            .into();
        assert_eq!(steps, [1, 2, -1, 0, 1, -5]);
    }

    #[test]
    fn a_new_ssrc_begins_at_once() {
        let mut source = Source::default();
        place(&mut source, 1, 10);
        assert!(matches!(place(&mut source, 2, 11), Place::First(_)));
        assert!(matches!(place(&mut source, 2, 12), Place::Step(1, _)));
    }

    #[test]
    fn a_number_far_away_moves_nothing_and_two_in_a_row_begin_anew() {
        for far in [10_u16.wrapping_add(20_000), 10_u16.wrapping_sub(5_000)] {
            let mut source = Source::default();
            place(&mut source, 1, 10);
            assert_eq!(place(&mut source, 1, far), Place::Doubtful);
            assert!(matches!(place(&mut source, 1, 11), Place::Step(1, _)));
            assert_eq!(place(&mut source, 1, far), Place::Doubtful);
            assert!(matches!(place(&mut source, 1, far + 1), Place::First(_)));
            assert!(matches!(place(&mut source, 1, far + 2), Place::Step(1, _)));
        }
    }
}
