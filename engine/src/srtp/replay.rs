//! The replay window and the estimate of a packet's index (RFC 3711 §3.3).

/// A packet index: rollover counter << 16 | sequence number for RTP (48 bits), the explicit 31-bit index for RTCP.
pub(super) type PacketIndex = u64;

/// Packets behind the newest that may still arrive: 2.5 s of audio. RFC 3711 §3.3.2 asks for 64 at least.
pub(super) const REPLAY_PACKETS: u64 = u128::BITS as u64;

/// Past this index the keys are used up (RFC 3711 §9.2).
pub(super) const INDEX_MAX: PacketIndex = (1 << 48) - 1;

/// Which of the last [`REPLAY_PACKETS`] indices have been seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ReplayWindow {
    newest: PacketIndex,
    /// Bit n: `newest - n` was seen. Zero until the first `accept`.
    seen: u128,
}

impl ReplayWindow {
    /// Whether `index` was neither seen before nor lies behind the window.
    pub(super) fn is_fresh(&self, index: PacketIndex) -> bool {
        if self.seen == 0 || index > self.newest {
            return true;
        }
        let behind = self.newest - index;
        behind < REPLAY_PACKETS && self.seen >> behind & 1 == 0
    }

    /// Marks `index` as received (RFC 3711 §3.3.2).
    ///
    /// Call only after authentication succeeded: a forged packet must not move the window.
    pub(super) fn accept(&mut self, index: PacketIndex) {
        if self.seen == 0 {
            *self = ReplayWindow { newest: index, seen: 1 };
        } else if index > self.newest {
            let ahead = index - self.newest;
            self.seen = if ahead < REPLAY_PACKETS { self.seen << ahead | 1 } else { 1 };
            self.newest = index;
        } else if self.newest - index < REPLAY_PACKETS {
            self.seen |= 1 << (self.newest - index);
        }
    }

    /// The index that `sequence` most likely has (RFC 3711 §3.3.1): the one nearest to the newest. A stream begins with
    /// rollover counter 0 (§3.2.1). `None` when it would lie before the stream's first or past its last possible packet.
    pub(super) fn estimate(&self, sequence: u16) -> Option<PacketIndex> {
        if self.seen == 0 {
            return Some(PacketIndex::from(sequence));
        }
        let (roc, newest) = (self.newest >> 16, self.newest as u16);
        let roc = if newest < 0x8000 {
            // More than half the space ahead is behind.
            if sequence.saturating_sub(newest) > 0x8000 { roc.checked_sub(1)? } else { roc }
        } else if newest - 0x8000 > sequence {
            roc + 1
        } else {
            roc
        };
        let index = roc << 16 | PacketIndex::from(sequence);
        (index <= INDEX_MAX).then_some(index)
    }
}

/// State kept per SSRC, for at most `N`.
///
/// In this order in memory: what the first source needs stands at the beginning; there is rarely another.
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct SsrcTable<const N: usize> {
    /// Counts accepted packets; orders the slots by last use.
    turn: u64,
    slots: [Slot; N],
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    ssrc: u32,
    /// Turn of the last accepted packet; zero while the slot is free.
    used: u64,
    window: ReplayWindow,
}

impl<const N: usize> Default for SsrcTable<N> {
    fn default() -> SsrcTable<N> {
        SsrcTable { slots: [Slot::default(); N], turn: 0 }
    }
}

impl<const N: usize> SsrcTable<N> {
    /// So many bytes from the beginning are what the first source needs.
    pub(super) const FRONT_BYTES: usize = size_of::<u64>() + size_of::<Slot>();

    /// The window of `ssrc`; a fresh one when it is unknown.
    pub(super) fn window(&self, ssrc: u32) -> ReplayWindow {
        self.position(ssrc).map_or(ReplayWindow::default(), |at| self.slots[at].window)
    }

    /// Whether `ssrc` is known or finds a free slot.
    pub(super) fn has_room(&self, ssrc: u32) -> bool {
        self.position(ssrc).is_some() || self.slots.iter().any(|slot| slot.used == 0)
    }

    /// Marks `index` as seen. An unknown SSRC takes a free slot, or else that of the longest-silent one.
    pub(super) fn accept(&mut self, ssrc: u32, index: PacketIndex) {
        self.turn += 1;
        let at = self.position(ssrc).unwrap_or_else(|| {
            let oldest = (0..N).min_by_key(|&at| self.slots[at].used).unwrap_or(0);
            self.slots[oldest] = Slot { ssrc, ..Slot::default() };
            oldest
        });
        self.slots[at].used = self.turn;
        self.slots[at].window.accept(index);
    }

    fn position(&self, ssrc: u32) -> Option<usize> {
        self.slots.iter().position(|slot| slot.used != 0 && slot.ssrc == ssrc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// The window answers as the set of all accepted indices does, for every index it still covers.
        #[test]
        fn window_equals_a_set(start in 0u64..1 << 40, steps in prop::collection::vec((0u64..400, any::<bool>()), 1..300)) {
            let (mut window, mut set) = (ReplayWindow::default(), BTreeSet::new());
            for (offset, far) in steps {
                let index = start + offset + if far { 500 } else { 0 };
                let newest = set.last().copied().unwrap_or(0);
                let expected = !set.contains(&index) && (set.is_empty() || index + REPLAY_PACKETS > newest);
                prop_assert_eq!(window.is_fresh(index), expected);
                if expected {
                    window.accept(index);
                    set.insert(index);
                }
            }
        }

        /// Any packet within half the sequence space of the newest is placed exactly.
        #[test]
        fn estimate_is_exact_within_half_the_space(newest in 0x1_0000u64..INDEX_MAX - 0x8000, distance in -0x7fffi64..=0x7fff) {
            let mut window = ReplayWindow::default();
            window.accept(newest);
            let index = newest.checked_add_signed(distance).unwrap();
            prop_assert_eq!(window.estimate(index as u16), Some(index));
        }
    }

    #[test]
    fn a_stream_begins_with_rollover_counter_zero() {
        assert_eq!(ReplayWindow::default().estimate(65_535), Some(65_535));
    }

    #[test]
    fn nothing_lies_before_the_first_rollover_or_after_the_last() {
        let mut window = ReplayWindow::default();
        window.accept(3);
        assert_eq!(window.estimate(65_530), None);
        window.accept(INDEX_MAX);
        assert_eq!(window.estimate(0), None);
        assert_eq!(window.estimate(65_000), Some(INDEX_MAX - 535));
    }

    #[test]
    fn index_zero_is_seen_once() {
        let mut window = ReplayWindow::default();
        assert!(window.is_fresh(0));
        window.accept(0);
        assert!(!window.is_fresh(0));
    }

    #[test]
    fn the_longest_silent_source_gives_way() {
        let mut table = SsrcTable::<2>::default();
        table.accept(1, 100);
        table.accept(2, 200);
        table.accept(1, 101);
        assert!(table.has_room(2) && !table.has_room(3));
        table.accept(3, 300);
        assert!(!table.window(1).is_fresh(101));
        assert!(!table.window(3).is_fresh(300));
        assert_eq!(table.window(2), ReplayWindow::default());
    }
}
