//! A bounded buffer that puts packets in order and says what to play (fixed target; the audio issue makes it adaptive).
//!
//! ```text
//!             first packet waited for the target
//!  Filling --------------------------------------> Playing --+ next is here: Packet
//!     ^                                               |      | next is missing, a newer one is here: Recover or Missing
//!     +---- dry for longer than `DRY_MS`: Empty ------+      | dry: Missing, and the place of the next packet is kept
//! ```
//!
//! A dry buffer cannot tell a late packet from a lost one or from a sender that pauses (DTX). So for the first 60 ms the missing sound is
//! made up and the next packet keeps its place: if it comes after all it is played, and the delay has grown by what was made up; if one
//! behind it comes, what was made up stood for the lost ones. After that the sender is taken to pause, and the next packet begins anew.
//!
//! Why payloads lie in slots taken from a stack and not at `sequence % slots`: a buffer holds three to five packets most of its life, and
//! this way only the memory of those is ever touched. With thousands of calls this is the difference between 6 and 80 KB for each.

use crate::error::DropReason;
use crate::limits::{JITTER_PACKETS_MAX, JITTER_PAYLOAD_BYTES_MAX, PTIME_MS};
use crate::rtp::sequence::ExtendedSequence;
use crate::time::Instant;

/// How long a dry buffer asks for concealment before it takes the sender to pause. Concealment has faded by then anyway.
const DRY_MS: u32 = 60;

/// Delay beyond the target that is tolerated (2 packets of 20 ms), and for how long.
const SURPLUS_MS: u32 = 40;
const SURPLUS_TOLERATED_MS: u64 = 1_000;

/// A packet this far behind is no late one: the second in a row means that the sender started anew lower (RFC 3550 A.1). 10 s of 20 ms.
const RESTART_PACKETS: u64 = 500;
const _: () = assert!(RESTART_PACKETS > JITTER_PACKETS_MAX as u64);

const SLOTS: u64 = JITTER_PACKETS_MAX as u64;
const _: () = assert!(JITTER_PACKETS_MAX <= 64, "`played` has 64 bits");

/// What the next packet time plays.
#[derive(Debug, PartialEq, Eq)]
pub enum Playout<'b> {
    /// A packet that is here.
    Packet(&'b [u8]),
    /// The packet is missing, the one after it is here: in-band FEC may recover it. That one stays in the buffer.
    Recover(&'b [u8]),
    /// The packet is missing.
    Missing,
    /// Nothing has begun, or the sender pauses (DTX): nothing is known to be missing.
    Empty,
}

/// Packets of one stream, by extended sequence number. All memory is taken in `new`.
#[derive(Debug)]
pub struct JitterBuffer {
    target_ms: u32,
    packet_ms: u32,
    phase: Phase,
    /// The next packet to play; nothing older is taken any more.
    next: u64,
    /// Newest packet seen.
    highest: u64,
    /// Bit `n`: the packet `next - 1 - n` was played. Tells a repeated packet from a late one.
    played: u64,
    /// Packet times made up since the buffer ran dry.
    dry_packets: u32,
    surplus_since: Option<Instant>,
    /// What would follow a packet from far behind.
    restart_at: Option<u64>,
    skipped: u64,
    /// Held packets, at `sequence % SLOTS`.
    held: [Option<Held>; JITTER_PACKETS_MAX],
    held_count: usize,
    /// Slots that are free: a stack of the first `SLOTS - held_count`.
    free: [u8; JITTER_PACKETS_MAX],
    payloads: Box<[u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No packet has come.
    Waiting,
    /// The first packet came then, and waits; `again`: after a pause.
    Filling { since: Option<Instant>, again: bool },
    /// Packets are played.
    Playing,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    slot: u8,
    len: u16,
}

impl JitterBuffer {
    /// `target_ms`: how long the first packet waits before it is played, and what is aimed at afterwards.
    pub fn new(target_ms: usize) -> JitterBuffer {
        JitterBuffer {
            target_ms: target_ms as u32,
            packet_ms: PTIME_MS as u32,
            phase: Phase::Waiting,
            next: 0,
            highest: 0,
            played: 0,
            dry_packets: 0,
            surplus_since: None,
            restart_at: None,
            skipped: 0,
            held: [None; JITTER_PACKETS_MAX],
            held_count: 0,
            free: core::array::from_fn(|slot| slot as u8),
            payloads: vec![0; JITTER_PACKETS_MAX * JITTER_PAYLOAD_BYTES_MAX].into_boxed_slice(),
        }
    }

    /// Tells how long the packets of this stream play, 20 ms until told. Target, pauses and surplus are times; the buffer counts packets.
    pub fn set_packet_ms(&mut self, packet_ms: u32) {
        self.packet_ms = packet_ms.max(1);
    }

    /// Puts one packet in. Packets of one stream only; call `restart` on a new SSRC.
    ///
    /// Errors: `JitterDuplicate` and `JitterLate` for what is here already or was played, or has been given up. `JitterFull` when the
    /// payload is longer than a slot, or when nobody plays and the oldest packet had to go; in the latter case the new one is held.
    pub fn insert(&mut self, now: Instant, sequence: ExtendedSequence, payload: &[u8]) -> Result<(), DropReason> {
        let sequence = sequence.0;
        if payload.len() > JITTER_PAYLOAD_BYTES_MAX {
            return Err(DropReason::JitterFull);
        }
        if self.phase != Phase::Waiting && sequence > self.highest + SLOTS {
            self.restart(); // the sender jumped: nothing between is worth waiting for
        }
        if self.phase != Phase::Waiting && sequence < self.next {
            self.handle_late(sequence)?;
        }
        match &mut self.phase {
            Phase::Waiting => {
                self.phase = Phase::Filling { since: Some(now), again: false };
                // What was sent before the first that arrived may still come.
                self.next = sequence.saturating_sub(SLOTS - 1);
                self.highest = sequence;
            }
            Phase::Filling { since, .. } => *since = since.or(Some(now)),
            Phase::Playing => {}
        }
        self.restart_at = None;
        let pushed_out = self.make_room(sequence);
        if self.held[index(sequence)].is_some() {
            return Err(DropReason::JitterDuplicate);
        }
        self.hold(sequence, payload);
        self.highest = self.highest.max(sequence);
        if pushed_out { Err(DropReason::JitterFull) } else { Ok(()) }
    }

    /// Forgets everything; the next packet begins anew with the target delay.
    pub fn restart(&mut self) {
        for place in 0..JITTER_PACKETS_MAX {
            self.release(place);
        }
        self.phase = Phase::Waiting;
        self.played = 0;
        self.dry_packets = 0;
        self.surplus_since = None;
        self.restart_at = None;
    }

    /// What to play now. Call once per packet time. The first packet is answered when it has waited `target_ms`; when the buffer
    /// has run dry and later fills again, the target is rebuilt; when it holds much more than the target (2 packets) for a second, one
    /// packet is skipped, so that delay does not only grow.
    pub fn pop(&mut self, now: Instant) -> Playout<'_> {
        if !self.is_playing(now) {
            return Playout::Empty;
        }
        if self.held_count == 0 {
            return self.run_dry();
        }
        self.skip_surplus(now);
        let oldest = self.oldest();
        if oldest > self.next {
            self.pass_over(oldest);
        }
        self.dry_packets = 0;
        let place = index(self.next);
        let held = self.held[place];
        self.advance(1);
        if let Some(held) = held {
            return Playout::Packet(self.payload(held));
        }
        match self.held[index(self.next)] {
            Some(after) => Playout::Recover(self.payload(after)),
            None => Playout::Missing,
        }
    }

    /// Packets held.
    pub fn len(&self) -> usize {
        self.held_count
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Packets thrown away unplayed because the delay had grown.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Names why a packet that comes too late is dropped; restarts instead when the sender has.
    fn handle_late(&mut self, sequence: u64) -> Result<(), DropReason> {
        let behind = self.next - 1 - sequence;
        if behind >= RESTART_PACKETS {
            if self.restart_at == Some(sequence) {
                self.restart();
                return Ok(());
            }
            self.restart_at = Some(sequence + 1);
            return Err(DropReason::JitterLate);
        }
        let played = behind < 64 && self.played >> behind & 1 == 1;
        Err(if played { DropReason::JitterDuplicate } else { DropReason::JitterLate })
    }

    /// Gives up the oldest places until `sequence` has one; answers whether a packet was lost by it.
    fn make_room(&mut self, sequence: u64) -> bool {
        let Some(first) = sequence.checked_sub(SLOTS - 1).filter(|&first| first > self.next) else {
            return false;
        };
        self.give_up_before(first) > 0
    }

    /// Whether packets are played now: ends the filling when its time has come.
    fn is_playing(&mut self, now: Instant) -> bool {
        let Phase::Filling { since, again } = self.phase else {
            return self.phase == Phase::Playing;
        };
        let Some(since) = since else {
            return false;
        };
        let oldest = self.oldest();
        let waited = now.since(since).as_millis() >= u128::from(self.target_ms);
        // Packets that were held up somewhere arrive together after a pause, and have waited already.
        let caught_up = again && self.highest - oldest >= self.packets(self.target_ms);
        if waited || caught_up {
            self.give_up_before(oldest);
            self.phase = Phase::Playing;
        }
        waited || caught_up
    }

    fn run_dry(&mut self) -> Playout<'_> {
        self.surplus_since = None;
        if u64::from(self.dry_packets) < self.packets(DRY_MS) {
            self.dry_packets += 1;
            return Playout::Missing;
        }
        self.dry_packets = 0;
        self.phase = Phase::Filling { since: None, again: true };
        Playout::Empty
    }

    /// `next` is missing and `oldest` is here: leaves out what was made up already while the buffer was dry, and all of a gap that is too
    /// long to be loss: a loss of that length would have run the buffer dry, so the sender jumped.
    fn pass_over(&mut self, oldest: u64) {
        let made_up = self.next + u64::from(self.dry_packets);
        let recent = oldest.saturating_sub(self.packets(self.target_ms + SURPLUS_MS));
        self.give_up_before(made_up.max(recent).min(oldest));
    }

    /// Throws one packet away when the buffer has held more than it aims at for a second.
    fn skip_surplus(&mut self, now: Instant) {
        // At its playing time a packet has waited for the target, and the newest one has just come or is about to.
        let waiting = self.highest + 1 - self.next;
        if waiting <= self.packets(self.target_ms) + self.packets(SURPLUS_MS) {
            self.surplus_since = None;
            return;
        }
        let since = *self.surplus_since.get_or_insert(now);
        if now.since(since).as_millis() >= u128::from(SURPLUS_TOLERATED_MS) {
            // Where the next one is missing anyway, nothing is thrown away.
            self.skipped += self.give_up_before(self.next + 1);
            self.surplus_since = Some(now);
        }
    }

    /// The time in packets, rounded up; at least one.
    fn packets(&self, ms: u32) -> u64 {
        u64::from(ms.div_ceil(self.packet_ms).max(1))
    }

    /// Only while something is held, or `next` is the answer.
    fn oldest(&self) -> u64 {
        (self.next..self.next + SLOTS).find(|&sequence| self.held[index(sequence)].is_some()).unwrap_or(self.next)
    }

    /// Moves on by `count` places; what is held there counts as played.
    fn advance(&mut self, count: u64) {
        for _ in 0..count {
            let played = self.release(index(self.next));
            self.played = self.played << 1 | u64::from(played);
            self.next += 1;
        }
    }

    /// Moves on to `first`; what is held before it is lost, and counted in the answer.
    fn give_up_before(&mut self, first: u64) -> u64 {
        let count = first.saturating_sub(self.next);
        let held_before = self.held_count;
        for sequence in self.next..self.next + count.min(SLOTS) {
            self.release(index(sequence));
        }
        self.played = if count < 64 { self.played << count } else { 0 };
        self.next += count;
        (held_before - self.held_count) as u64
    }

    fn hold(&mut self, sequence: u64, payload: &[u8]) {
        // There is a free slot for each free place.
        let slot = self.free[JITTER_PACKETS_MAX - 1 - self.held_count];
        self.held_count += 1;
        let start = usize::from(slot) * JITTER_PAYLOAD_BYTES_MAX;
        self.payloads[start..start + payload.len()].copy_from_slice(payload);
        self.held[index(sequence)] = Some(Held { slot, len: payload.len() as u16 });
    }

    /// Frees a place; its bytes stay readable until the next `hold`. Answers whether it was taken.
    fn release(&mut self, place: usize) -> bool {
        let Some(held) = self.held[place].take() else {
            return false;
        };
        self.held_count -= 1;
        self.free[JITTER_PACKETS_MAX - 1 - self.held_count] = held.slot;
        true
    }

    fn payload(&self, held: Held) -> &[u8] {
        let start = usize::from(held.slot) * JITTER_PAYLOAD_BYTES_MAX;
        &self.payloads[start..start + usize::from(held.len)]
    }
}

/// The place of a packet.
fn index(sequence: u64) -> usize {
    (sequence % SLOTS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use proptest::prelude::*;

    /// A buffer with a clock: packets carry their sequence number, `None` is `Empty`.
    struct Bench {
        buffer: JitterBuffer,
        now_ms: u64,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Played {
        Packet(u64),
        Recover(u64),
        Missing,
        Empty,
    }
    use Played::*;

    impl Bench {
        fn new() -> Bench {
            Bench { buffer: JitterBuffer::new(60), now_ms: 1_000 }
        }

        fn insert(&mut self, sequence: u64) -> Result<(), DropReason> {
            self.buffer.insert(Instant::from_millis(self.now_ms), ExtendedSequence(sequence), &sequence.to_be_bytes())
        }

        fn pop(&mut self) -> Played {
            let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
            match self.buffer.pop(Instant::from_millis(self.now_ms)) {
                Playout::Packet(payload) => Packet(number(payload)),
                Playout::Recover(payload) => Recover(number(payload)),
                Playout::Missing => Missing,
                Playout::Empty => Empty,
            }
        }

        /// One packet time: what arrives, then what is played.
        fn tick(&mut self, arrivals: impl IntoIterator<Item = u64>) -> Played {
            for sequence in arrivals {
                self.insert(sequence).unwrap();
            }
            let played = self.pop();
            self.now_ms += 20;
            played
        }

        /// A stream of which packets up to `last` have arrived, played up to three before it.
        fn in_steady_state(last: u64) -> Bench {
            let mut bench = Bench::new();
            for sequence in last - 20..=last {
                bench.tick([sequence]);
            }
            assert_eq!(bench.buffer.len(), 3);
            bench
        }
    }

    #[test]
    fn the_first_packet_waits_for_the_target_and_then_all_come_in_order() {
        let mut bench = Bench::new();
        let played: Vec<Played> = (100..106).map(|sequence| bench.tick([sequence])).collect();
        assert_eq!(played, [Empty, Empty, Empty, Packet(100), Packet(101), Packet(102)]);
    }

    #[test]
    fn nothing_is_played_before_anything_came() {
        let mut bench = Bench::new();
        assert_eq!(bench.tick([]), Empty);
        assert!(bench.buffer.is_empty());
    }

    #[test]
    fn reordered_packets_come_in_order_even_before_the_first_that_arrived() {
        let mut bench = Bench::new();
        assert_eq!(bench.tick([102, 101]), Empty);
        assert_eq!(bench.tick([100]), Empty);
        assert_eq!(bench.tick([104]), Empty);
        let played: Vec<Played> = [105, 103, 107, 106].into_iter().map(|sequence| bench.tick([sequence])).collect();
        assert_eq!(played, [Packet(100), Packet(101), Packet(102), Packet(103)]);
    }

    #[test]
    fn a_lost_packet_is_recovered_from_the_next_and_that_one_is_played_too() {
        let mut bench = Bench::in_steady_state(200);
        let played: Vec<Played> =
            [202, 203, 204, 205, 206].into_iter().map(|sequence| bench.tick([sequence])).collect();
        assert_eq!(played, [Packet(198), Packet(199), Packet(200), Recover(202), Packet(202)]);
    }

    #[test]
    fn only_the_last_of_several_lost_packets_can_be_recovered() {
        let mut bench = Bench::in_steady_state(200);
        let arrivals = [vec![], vec![], vec![203], vec![204], vec![205], vec![206]];
        let played: Vec<Played> = arrivals.into_iter().map(|arrivals| bench.tick(arrivals)).collect();
        assert_eq!(played, [Packet(198), Packet(199), Packet(200), Missing, Recover(203), Packet(203)]);
    }

    #[test]
    fn repeated_and_late_packets_are_dropped_each_with_its_reason() {
        let mut bench = Bench::in_steady_state(200);
        assert_eq!(bench.insert(200), Err(DropReason::JitterDuplicate), "held");
        assert_eq!(bench.insert(190), Err(DropReason::JitterDuplicate), "played");
        for sequence in [202, 203, 204, 205] {
            bench.tick([sequence]);
        }
        assert_eq!(bench.insert(201), Err(DropReason::JitterLate), "given up");
        assert_eq!(bench.insert(100), Err(DropReason::JitterLate), "before all that is remembered");
    }

    #[test]
    fn a_pause_is_concealed_for_60_ms_and_then_nothing_is_missing() {
        let mut bench = Bench::in_steady_state(200);
        let played: Vec<Played> = (0..9).map(|_| bench.tick([])).collect();
        let expected = [Packet(198), Packet(199), Packet(200), Missing, Missing, Missing, Empty, Empty, Empty];
        assert_eq!(played, expected);
    }

    #[test]
    fn after_a_pause_no_packet_is_lost_and_the_target_is_rebuilt() {
        let mut bench = Bench::in_steady_state(200);
        for _ in 0..50 {
            bench.tick([]);
        }
        let played: Vec<Played> = (201..206).map(|sequence| bench.tick([sequence])).collect();
        assert_eq!(played, [Empty, Empty, Empty, Packet(201), Packet(202)]);
    }

    #[test]
    fn packets_that_were_held_up_together_need_not_wait_again() {
        let mut bench = Bench::in_steady_state(200);
        for _ in 0..10 {
            bench.tick([]);
        }
        assert_eq!(bench.tick(201..=204), Packet(201));
        assert_eq!(bench.tick([205]), Packet(202));
    }

    #[test]
    fn a_packet_that_is_late_by_less_than_a_pause_is_played_and_the_delay_has_grown() {
        let mut bench = Bench::in_steady_state(200);
        let arrivals = [vec![], vec![], vec![], vec![], vec![201, 202, 203, 204, 205], vec![206]];
        let played: Vec<Played> = arrivals.into_iter().map(|arrivals| bench.tick(arrivals)).collect();
        assert_eq!(played, [Packet(198), Packet(199), Packet(200), Missing, Packet(201), Packet(202)]);
    }

    #[test]
    fn what_was_made_up_while_dry_stands_for_what_was_lost() {
        let mut bench = Bench::in_steady_state(200);
        // 201 to 204 are lost: two are made up before 205 shows it, two after.
        let arrivals = [vec![], vec![], vec![], vec![], vec![], vec![205], vec![206], vec![207]];
        let played: Vec<Played> = arrivals.into_iter().map(|arrivals| bench.tick(arrivals)).collect();
        assert_eq!(played[3..], [Missing, Missing, Missing, Recover(205), Packet(205)]);
    }

    #[test]
    fn a_jump_within_the_buffer_is_not_made_up_packet_by_packet() {
        let mut bench = Bench::in_steady_state(200);
        let played: Vec<Played> = (241..252).map(|sequence| bench.tick([sequence])).collect();
        assert_eq!(played[..3], [Packet(198), Packet(199), Packet(200)]);
        let made_up = played.iter().filter(|played| matches!(played, Missing | Recover(_))).count();
        assert!(made_up <= 5, "{played:?}");
        assert_eq!(played[3 + made_up], Packet(241));
    }

    #[test]
    fn a_jump_beyond_the_buffer_begins_anew() {
        let mut bench = Bench::in_steady_state(200);
        let played: Vec<Played> = (265..270).map(|sequence| bench.tick([sequence])).collect();
        assert_eq!(played, [Empty, Empty, Empty, Packet(265), Packet(266)]);
    }

    #[test]
    fn a_sender_that_starts_anew_lower_is_followed_at_its_second_packet() {
        let mut bench = Bench::in_steady_state(70_000);
        assert_eq!(bench.insert(65_600), Err(DropReason::JitterLate));
        assert_eq!(bench.insert(69_950), Err(DropReason::JitterLate), "an ordinary late one between them");
        assert_eq!(bench.insert(65_601), Ok(()));
        let played: Vec<Played> = (65_602..65_607).map(|sequence| bench.tick([sequence])).collect();
        assert_eq!(played, [Empty, Empty, Empty, Packet(65_601), Packet(65_602)]);
    }

    #[test]
    fn one_stray_packet_from_far_behind_changes_nothing() {
        let mut bench = Bench::in_steady_state(70_000);
        assert_eq!(bench.insert(60_000), Err(DropReason::JitterLate));
        assert_eq!(bench.tick([70_001]), Packet(69_998));
        assert_eq!(bench.insert(60_001), Err(DropReason::JitterLate));
    }

    #[test]
    fn a_full_buffer_gives_up_its_oldest_packet() {
        let mut bench = Bench::new();
        for sequence in 0..JITTER_PACKETS_MAX as u64 {
            assert_eq!(bench.insert(1_000 + sequence), Ok(()));
        }
        assert_eq!(bench.insert(1_064), Err(DropReason::JitterFull));
        assert_eq!(bench.insert(1_065), Err(DropReason::JitterFull));
        assert_eq!(bench.buffer.len(), JITTER_PACKETS_MAX);
        bench.now_ms += 60;
        assert_eq!(bench.pop(), Packet(1_002));
    }

    #[test]
    fn a_payload_longer_than_a_slot_is_refused() {
        let mut buffer = JitterBuffer::new(60);
        let payload = [0; JITTER_PAYLOAD_BYTES_MAX + 1];
        assert_eq!(buffer.insert(Instant::ZERO, ExtendedSequence(1), &payload), Err(DropReason::JitterFull));
        assert_eq!(buffer.insert(Instant::ZERO, ExtendedSequence(1), &payload[1..]), Ok(()));
        let played = buffer.pop(Instant::from_millis(60));
        assert_eq!(played, Playout::Packet(&payload[1..]));
    }

    #[test]
    fn a_restart_forgets_everything() {
        let mut bench = Bench::in_steady_state(200);
        bench.buffer.restart();
        assert!(bench.buffer.is_empty());
        assert_eq!(bench.tick([150]), Empty);
        assert_eq!(bench.tick([151]), Empty);
        assert_eq!(bench.tick([152]), Empty);
        assert_eq!(bench.tick([153]), Packet(150));
    }

    #[test]
    fn delay_beyond_the_target_is_worked_off_one_packet_a_second() {
        let mut bench = Bench::in_steady_state(1_000);
        let mut sequence = 1_001..;
        bench.tick(sequence.by_ref().take(5)); // four more than it should be
        let mut skipped_at = Vec::new();
        let mut last = 998;
        for tick in 0..300 {
            let Packet(number) = bench.tick(sequence.next()) else {
                panic!("no packet at tick {tick}");
            };
            if number == last + 2 {
                skipped_at.push(tick);
            } else {
                assert_eq!(number, last + 1);
            }
            last = number;
        }
        assert_eq!(skipped_at.len() as u64, bench.buffer.skipped());
        assert_eq!(skipped_at.len(), 3, "{skipped_at:?}");
        assert!(skipped_at.windows(2).all(|pair| pair[1] - pair[0] == 50));
        assert_eq!(bench.buffer.len(), 4, "target and the tolerated surplus, less the one just played");
    }

    #[test]
    fn a_short_surplus_is_tolerated() {
        let mut bench = Bench::in_steady_state(1_000);
        let mut sequence = 1_001..;
        for _ in 0..20 {
            // A burst after a gap of six packet times, again and again: never a second of surplus.
            bench.tick(sequence.by_ref().take(6));
            for _ in 0..5 {
                bench.tick([]);
            }
        }
        assert_eq!(bench.buffer.skipped(), 0);
    }

    #[test]
    fn packets_of_60_ms_wait_for_the_target_and_not_for_three_packets() {
        let mut buffer = JitterBuffer::new(60);
        buffer.set_packet_ms(60);
        let at = |tick: u64| Instant::from_millis(tick * 60);
        buffer.insert(at(0), ExtendedSequence(1), b"1").unwrap();
        assert_eq!(buffer.pop(at(0)), Playout::Empty);
        buffer.insert(at(1), ExtendedSequence(2), b"2").unwrap();
        assert_eq!(buffer.pop(at(1)), Playout::Packet(b"1"));
        assert_eq!(buffer.pop(at(2)), Playout::Packet(b"2"));
        assert_eq!(buffer.pop(at(3)), Playout::Missing);
        assert_eq!(buffer.pop(at(4)), Playout::Empty, "60 ms were made up");
    }

    #[test]
    fn memory_of_waiting_packets_only_is_touched() {
        let mut bench = Bench::in_steady_state(10_000);
        for sequence in 10_001..20_000 {
            bench.tick([sequence]);
        }
        let touched =
            bench.buffer.payloads.chunks(JITTER_PAYLOAD_BYTES_MAX).filter(|slot| slot[7] | slot[6] != 0).count();
        assert!(touched <= 5, "{touched}");
    }

    /// Whatever the network does: what is played is what arrived, once, in order; counts agree; nothing panics.
    fn whatever_happens(seed: u64, jump_pct: u32) {
        let mut random = Random::from_test_seed(seed);
        let mut bench = Bench::new();
        let (mut sequence, mut last, mut accepted, mut pushed_out, mut played) = (70_000u64, None, 0u64, 0u64, 0u64);
        let mut recent = [sequence; 8];
        for step in 0..2_000usize {
            bench.now_ms += u64::from(random.below(30));
            if random.below(100) < 60 {
                sequence += 1;
                if random.below(1_000) < jump_pct * 10 {
                    sequence += u64::from(random.below(300));
                }
                recent[step % 8] = sequence;
                let chosen = if random.below(10) < 3 { recent[random.below(8) as usize] } else { sequence };
                match bench.insert(chosen) {
                    Ok(()) => accepted += 1,
                    Err(DropReason::JitterFull) => {
                        accepted += 1;
                        pushed_out += 1;
                    }
                    Err(_) => {}
                }
            }
            if random.below(100) < 60
                && let Packet(number) = bench.pop()
            {
                assert!(last.is_none_or(|last| number > last), "{last:?} then {number}");
                last = Some(number);
                played += 1;
            }
            assert!(bench.buffer.len() <= JITTER_PACKETS_MAX);
        }
        if jump_pct == 0 {
            let gone = played + bench.buffer.len() as u64 + bench.buffer.skipped();
            assert!(gone <= accepted && accepted - gone <= pushed_out * 8, "{accepted} {gone} {pushed_out}");
        }
    }

    proptest! {
        #[test]
        fn order_and_counts_hold_whatever_arrives(seed: u64) {
            whatever_happens(seed, 0);
        }

        #[test]
        fn order_holds_across_jumps(seed: u64) {
            whatever_happens(seed, 3);
        }

        #[test]
        fn any_sequence_numbers_are_survived(numbers in proptest::collection::vec(0u64..200_000, 0..400)) {
            let mut bench = Bench::new();
            for number in numbers {
                let _ = bench.insert(number);
                bench.pop();
                bench.now_ms += 20;
            }
        }
    }
}
