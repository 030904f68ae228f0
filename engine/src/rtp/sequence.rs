//! Sequence numbers that do not wrap.
//!
//! Why 64 bits and not RFC 3550's 16 bits of cycles: a number that never wraps is compared with `<`, and everything behind this point
//! (jitter buffer, loss, replay) is free of modular arithmetic. It would take 178 million years at 50 packets a second to overflow.

/// A sequence number counted on across wraps: 65,536 follows 65,535.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedSequence(pub u64);

/// Extends 16-bit sequence numbers, tolerant of reordering around a wrap.
#[derive(Clone, Copy, Debug, Default)]
pub struct SequenceExtender {
    highest: Option<u64>,
}

impl SequenceExtender {
    /// The extended number nearest to the highest seen so far. The first one maps to `65,536 + sequence`, so that
    /// an older packet that arrives later still has a number.
    pub fn extend(&mut self, sequence: u16) -> ExtendedSequence {
        let Some(highest) = self.highest else {
            let first = (1 << 16) | u64::from(sequence);
            self.highest = Some(first);
            return ExtendedSequence(first);
        };
        let distance = sequence.wrapping_sub(highest as u16) as i16;
        // No underflow: the highest is at least 65,536 and the distance at least -32,768.
        let extended = highest.wrapping_add_signed(i64::from(distance));
        self.highest = Some(highest.max(extended));
        ExtendedSequence(extended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_leaves_room_for_what_came_before_it() {
        let mut extender = SequenceExtender::default();
        assert_eq!(extender.extend(2), ExtendedSequence(65_538));
        assert_eq!(extender.extend(65_534), ExtendedSequence(65_534));
        assert_eq!(extender.extend(3), ExtendedSequence(65_539));
    }

    #[test]
    fn reordering_around_a_wrap_counts_the_wrap_once() {
        let mut extender = SequenceExtender::default();
        let extended: Vec<u64> =
            [65_534, 0, 65_535, 1, 65_533, 2].iter().map(|&sequence| extender.extend(sequence).0 - 65_536).collect();
        assert_eq!(extended, [65_534, 65_536, 65_535, 65_537, 65_533, 65_538]);
    }

    #[test]
    fn a_late_packet_does_not_move_the_highest() {
        let mut extender = SequenceExtender::default();
        extender.extend(40_000);
        extender.extend(10_000); // 30,000 behind
        assert_eq!(extender.extend(7_000), ExtendedSequence(2 * 65_536 + 7_000), "nearest to 40,000, not to 10,000");
    }

    proptest! {
        /// Steps short of half the number space, forward and back, are followed exactly.
        #[test]
        fn any_walk_is_followed(start: u16, steps in proptest::collection::vec(-100i64..2_000, 1..200)) {
            let mut extender = SequenceExtender::default();
            let mut position = extender.extend(start).0 as i64;
            prop_assert_eq!(position, 65_536 + i64::from(start));
            for step in steps {
                position = (position + step).max(65_536);
                prop_assert_eq!(extender.extend(position as u16), ExtendedSequence(position as u64));
            }
        }
    }
}
