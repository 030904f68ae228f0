//! Sequence numbers that do not wrap.

/// A sequence number counted on across wraps: 65,536 follows 65,535.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedSequence(pub u64);

/// Extends 16-bit sequence numbers, tolerant of reordering around a wrap.
#[derive(Clone, Copy, Debug, Default)]
pub struct SequenceExtender {}

impl SequenceExtender {
    /// The extended number nearest to the highest seen so far. The first one maps to `65,536 + sequence`, so that
    /// an older packet that arrives later still has a number.
    pub fn extend(&mut self, _sequence: u16) -> ExtendedSequence {
        todo!()
    }
}
