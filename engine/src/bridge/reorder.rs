//! The short wait for packets that others have overtaken.
//!
//! ```text
//!  arrives:   1    2    4    5   3            7                  (6 is lost)
//!  goes on:   1    2             3 4 5            7
//!                       ├─ wait ─┤            ├───┤ the wait that overtaken packets needed of late
//! ```
//!
//! In order, everything passes as it comes. Behind a gap packets wait for as long as overtaken ones needed of late: not at all on a path that
//! never reorders, and never longer than `WAIT_MS_MAX`. A packet that comes after its place was given up is dropped, and raises the wait.
//!
//! Why not the jitter buffer: it delays every packet, so that they come out evenly. Here the receiver does that; all that is needed is
//! order, since what has been encoded cannot be taken back.

use crate::error::DropReason;
use crate::time::{Duration, Instant};

/// The longest wait for one packet: three packet times. Past it the packet is made up.
const WAIT_MS_MAX: u64 = 60;

/// Packets that wait at most: `WAIT_MS_MAX` of 10 ms each, and some. Once there are so many the gap before them is given up.
const HELD_PACKETS_MAX: usize = 8;

/// Longest payload that waits: 40 ms. Longer packets are seldom overtaken; one gives up the gap before it.
const HELD_BYTES_MAX: usize = 320;

/// Payloads lie in blocks of 20 ms, one for each packet that waits; of 40 ms half as many wait.
const BLOCK_BYTES: usize = 160;
const BLOCKS_EACH_MAX: usize = HELD_BYTES_MAX / BLOCK_BYTES;
const NO_BLOCK: u8 = u8::MAX;
const _: () = assert!(HELD_PACKETS_MAX == u8::BITS as usize, "`taken` has a bit for each");

/// Given-up numbers that are remembered, to learn from those that come after all.
const GIVEN_UP_MAX: usize = 8;

/// Beyond the longest wait of late: a quarter, and the tick of a timer.
const MARGIN_NANOS: u64 = 2_000_000;

/// The wait fades by this part of itself a packet: to a third within 40 s of 20 ms packets.
const FADE: u64 = 2_048;

/// A wait below this is none.
const WAIT_NANOS_MIN: u64 = 1_000_000;

/// One packet that waited.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    #[cfg(test)]
    sequence: u64,
    pub(super) timestamp: u32,
    pub(super) kind: HeldKind,
    len: usize,
    bytes: [u8; HELD_BYTES_MAX],
}

/// One packet that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    sequence: u64,
    at: Instant,
    timestamp: u32,
    kind: HeldKind,
    len: u16,
    blocks: [u8; BLOCKS_EACH_MAX],
}

type Blocks = [[u8; BLOCK_BYTES]; HELD_PACKETS_MAX];

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeldKind {
    Audio,
    Noise,
    Event,
}

impl Held {
    pub(super) fn payload(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is next.
    Now,
    /// It waits; `pop` says when it is next.
    Later,
}

/// Packets behind a gap.
pub(super) struct Reorder {
    /// The number that goes on next.
    next: u64,
    held: [Option<Waiting>; HELD_PACKETS_MAX],
    /// Only where packets have overtaken each other: most trunks never reorder.
    bytes: Option<Box<Blocks>>,
    /// Bit `n`: block `n` is taken.
    taken: u8,
    wait_nanos: u64,
    /// Numbers that were given up, and when they were first missed.
    given_up: [(u64, Instant); GIVEN_UP_MAX],
    given_up_next: usize,
}

impl Reorder {
    pub(super) fn new() -> Reorder {
        Reorder {
            next: 0,
            held: [None; HELD_PACKETS_MAX],
            bytes: None,
            taken: 0,
            wait_nanos: 0,
            given_up: [(u64::MAX, Instant::ZERO); GIVEN_UP_MAX],
            given_up_next: 0,
        }
    }

    /// A stream begins with `sequence`, which goes on at once. What the one before left is forgotten, not the wait: the path is the same.
    pub(super) fn begin(&mut self, sequence: u64) {
        self.held.fill(None);
        self.taken = 0;
        self.given_up = [(u64::MAX, Instant::ZERO); GIVEN_UP_MAX];
        self.next = sequence + 1;
    }

    /// Takes one packet that `can_take` has nothing against. Call `pop` after it until nothing comes.
    pub(super) fn take(
        &mut self,
        now: Instant,
        sequence: u64,
        timestamp: u32,
        kind: HeldKind,
        payload: &[u8],
    ) -> Result<Turn, DropReason> {
        self.wait_nanos -= self.wait_nanos / FADE;
        if self.wait_nanos < WAIT_NANOS_MIN {
            self.wait_nanos = 0;
        }
        if sequence < self.next {
            self.learn_from_late(now, sequence);
            return Err(DropReason::JitterLate);
        }
        if self.held.iter().flatten().any(|held| held.sequence == sequence) {
            return Err(DropReason::JitterLate);
        }
        if sequence == self.next {
            if let Some(missed) = self.missed() {
                self.learn(now.since(missed).as_nanos() as u64);
            }
            self.next += 1;
            return Ok(Turn::Now);
        }
        let is_behind_others = !self.is_empty();
        let waits = self.has_room(payload.len()) && (self.wait_nanos > 0 || is_behind_others);
        let Some(place) = self.held.iter().position(Option::is_none).filter(|_| waits) else {
            self.give_up_before(sequence, now);
            self.next = sequence + 1;
            return Ok(Turn::Now);
        };
        let blocks = self.store(payload);
        self.held[place] = Some(Waiting { sequence, at: now, timestamp, kind, len: payload.len() as u16, blocks });
        Ok(Turn::Later)
    }

    /// The next packet that waited, once its turn has come. With `all`, the time of every one has.
    pub(super) fn pop(&mut self, now: Instant, all: bool) -> Option<Held> {
        let missed = self.missed()?;
        let first = self.held.iter().flatten().map(|held| held.sequence).min()?;
        if first != self.next {
            let is_full = self.held.iter().all(Option::is_some) || self.taken == u8::MAX;
            if !all && !is_full && now < self.deadline() {
                return None;
            }
            self.give_up_before(first, missed);
        }
        self.next = first + 1;
        let waiting = self.held.iter_mut().find(|held| held.is_some_and(|held| held.sequence == first))?.take()?;
        Some(self.release(&waiting))
    }

    /// Copies a payload for which there is room into free blocks.
    fn store(&mut self, payload: &[u8]) -> [u8; BLOCKS_EACH_MAX] {
        let mut blocks = [NO_BLOCK; BLOCKS_EACH_MAX];
        let bytes = self.bytes.get_or_insert_with(no_blocks);
        for (piece, block) in payload.chunks(BLOCK_BYTES).zip(&mut blocks) {
            *block = self.taken.trailing_ones() as u8;
            self.taken |= 1 << *block;
            bytes[usize::from(*block)][..piece.len()].copy_from_slice(piece);
        }
        blocks
    }

    /// Frees the blocks of a packet and puts it together.
    fn release(&mut self, waiting: &Waiting) -> Held {
        let &Waiting { timestamp, kind, len, blocks, .. } = waiting;
        let mut bytes = [0; HELD_BYTES_MAX];
        for (piece, block) in bytes.chunks_mut(BLOCK_BYTES).zip(blocks).filter(|&(_, block)| block != NO_BLOCK) {
            if let Some(kept) = &self.bytes {
                piece.copy_from_slice(&kept[usize::from(block)]);
            }
            self.taken &= !(1 << block);
        }
        Held {
            #[cfg(test)]
            sequence: waiting.sequence,
            timestamp,
            kind,
            len: usize::from(len),
            bytes,
        }
    }

    fn has_room(&self, len: usize) -> bool {
        len <= HELD_BYTES_MAX && len.div_ceil(BLOCK_BYTES) <= self.taken.count_zeros() as usize
    }

    /// When the gap is given up.
    pub(super) fn deadline(&self) -> Instant {
        self.missed().map_or(Instant::NEVER, |missed| missed + Duration::from_nanos(self.wait_nanos))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.iter().all(Option::is_none)
    }

    /// Whether a packet of `len` can be taken; if not, all that waits has to go first.
    pub(super) fn can_take(&self, sequence: u64, len: usize) -> bool {
        sequence <= self.next || self.has_room(len)
    }

    /// Since when the gap is known.
    fn missed(&self) -> Option<Instant> {
        self.held.iter().flatten().map(|held| held.at).min()
    }

    fn give_up_before(&mut self, sequence: u64, missed: Instant) {
        for number in self.next.max(sequence.saturating_sub(GIVEN_UP_MAX as u64))..sequence {
            self.given_up[self.given_up_next] = (number, missed);
            self.given_up_next = (self.given_up_next + 1) % GIVEN_UP_MAX;
        }
    }

    fn learn_from_late(&mut self, now: Instant, sequence: u64) {
        let Some(entry) = self.given_up.iter_mut().find(|entry| entry.0 == sequence) else { return };
        entry.0 = u64::MAX;
        let missed = entry.1;
        self.learn(now.since(missed).as_nanos() as u64);
    }

    /// An overtaken packet came so long after the one that overtook it.
    fn learn(&mut self, nanos: u64) {
        let wanted = nanos.saturating_add(nanos / 4).saturating_add(MARGIN_NANOS).min(WAIT_MS_MAX * 1_000_000);
        self.wait_nanos = self.wait_nanos.max(wanted);
        // Here, once a call, and not when the first packet waits.
        self.bytes.get_or_insert_with(no_blocks);
    }
}

fn no_blocks() -> Box<Blocks> {
    Box::new([[0; BLOCK_BYTES]; HELD_PACKETS_MAX])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    /// Takes `(at, sequence)` in turn; answers what went on, and when.
    fn run(reorder: &mut Reorder, arrivals: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        for &(at, sequence) in arrivals {
            while reorder.deadline() <= ms(at) {
                let due = reorder.deadline();
                while let Some(held) = reorder.pop(due, false) {
                    out.push((due.as_nanos() / 1_000_000, held.sequence));
                }
            }
            if reorder.take(ms(at), sequence, 0, HeldKind::Audio, &[1; 160]) == Ok(Turn::Now) {
                out.push((at, sequence));
            }
            while let Some(held) = reorder.pop(ms(at), false) {
                out.push((at, held.sequence));
            }
        }
        out
    }

    #[test]
    fn a_path_that_loses_but_never_reorders_is_not_waited_for() {
        let mut reorder = Reorder::new();
        reorder.begin(0);
        let arrivals = [(20, 1), (40, 2), (80, 4), (100, 5), (180, 9)];
        assert_eq!(run(&mut reorder, &arrivals), arrivals);
    }

    #[test]
    fn the_first_overtaken_packet_is_dropped_and_the_next_is_waited_for() {
        let mut reorder = Reorder::new();
        reorder.begin(0);
        assert_eq!(run(&mut reorder, &[(40, 2), (60, 1), (62, 3)]), [(40, 2), (62, 3)]);
        let out = run(&mut reorder, &[(100, 5), (115, 4), (120, 6), (160, 8), (240, 10)]);
        assert_eq!(out[..3], [(115, 4), (115, 5), (120, 6)]);
        // 7 is lost: waited for as long as the other needed, and not longer.
        assert!(out[3].1 == 8 && (180..190).contains(&out[3].0), "{out:?}");
    }

    #[test]
    fn the_wait_is_bounded_and_fades_away() {
        let mut reorder = Reorder::new();
        reorder.begin(0);
        run(&mut reorder, &[(40, 2), (900, 1)]);
        assert_eq!(reorder.wait_nanos, WAIT_MS_MAX * 1_000_000);
        let calm: Vec<_> = (3..12_000).map(|n| (1_000 + 20 * n, n)).collect();
        assert_eq!(run(&mut reorder, &calm), calm);
        assert_eq!(reorder.wait_nanos, 0);
    }

    #[test]
    fn repetitions_are_dropped_and_teach_nothing() {
        let mut reorder = Reorder::new();
        reorder.begin(0);
        run(&mut reorder, &[(20, 1), (50, 1)]);
        assert_eq!(reorder.wait_nanos, 0);
        run(&mut reorder, &[(60, 3), (80, 2), (90, 5), (91, 5), (92, 5)]);
        assert_eq!(reorder.held.iter().flatten().count(), 1);
    }

    #[test]
    fn more_packets_than_there_is_room_for_give_the_gap_up() {
        let mut reorder = Reorder::new();
        reorder.begin(0);
        run(&mut reorder, &[(40, 2), (100, 1)]);
        let burst: Vec<_> = (0..HELD_PACKETS_MAX as u64).map(|n| (200, 4 + n)).collect();
        let out = run(&mut reorder, &burst);
        assert_eq!(out, burst);
        assert!(reorder.is_empty());
    }

    #[test]
    fn payloads_that_wait_come_back_as_they_were() {
        let mut reorder = Reorder::new();
        reorder.begin(0);
        run(&mut reorder, &[(40, 2), (60, 1)]);
        let payload = |sequence: u64| -> Vec<u8> {
            let len = [0, 1, 160, 161, 320, 80][sequence as usize % 6];
            (0..len).map(|at| (at as u64 * 7 + sequence) as u8).collect()
        };
        let mut heard = Vec::new();
        for sequence in 3..100u64 {
            // Every third is overtaken by the two behind it.
            let sequence = [sequence + 1, sequence + 1, sequence - 2][sequence as usize % 3];
            let bytes = payload(sequence);
            assert!(reorder.can_take(sequence, bytes.len()));
            match reorder.take(ms(80), sequence, 0, HeldKind::Audio, &bytes) {
                Ok(Turn::Now) => heard.push((sequence, bytes)),
                other => assert_eq!(other, Ok(Turn::Later)),
            }
            while let Some(held) = reorder.pop(ms(80), false) {
                heard.push((held.sequence, held.payload().to_vec()));
            }
        }
        assert!(heard.len() > 90);
        for (sequence, bytes) in heard {
            assert_eq!(bytes, payload(sequence), "{sequence}");
        }
        let blocks =
            reorder.held.iter().flatten().map(|held| usize::from(held.len).div_ceil(BLOCK_BYTES)).sum::<usize>();
        assert_eq!(reorder.taken.count_ones() as usize, blocks);
    }

    #[test]
    fn a_packet_too_long_to_wait_goes_behind_all_that_do_and_none_goes_twice() {
        let mut reorder = Reorder::new();
        reorder.begin(0);
        run(&mut reorder, &[(40, 2), (60, 1), (80, 4)]);
        let long = [1; HELD_BYTES_MAX + 1];
        assert!(!reorder.can_take(6, long.len()) && reorder.can_take(3, long.len()));
        assert_eq!(reorder.pop(ms(81), true).map(|held| held.sequence), Some(4));
        assert_eq!(reorder.take(ms(81), 6, 0, HeldKind::Audio, &long), Ok(Turn::Now));
        for given_up in 3..=6 {
            assert_eq!(reorder.take(ms(82), given_up, 0, HeldKind::Audio, &[1]), Err(DropReason::JitterLate));
        }
        assert!(reorder.pop(ms(200), true).is_none());
    }
}
