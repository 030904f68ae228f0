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
        let held_before = self.held_count;
        self.give_up_before(first);
        held_before > self.held_count
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
            self.give_up_before(self.next + 1);
            self.skipped += 1;
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

    /// Moves on to `first`; what is held before it is lost.
    fn give_up_before(&mut self, first: u64) {
        let count = first.saturating_sub(self.next);
        for sequence in self.next..self.next + count.min(SLOTS) {
            self.release(index(sequence));
        }
        self.played = if count < 64 { self.played << count } else { 0 };
        self.next += count;
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
