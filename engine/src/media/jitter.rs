//! A bounded buffer that puts packets in order and says what to play, and when.
//!
//! ```text
//!             the oldest packet is due: timestamp + target
//!  Waiting ──────────────────────────────────────────────► Playing ─┬ the next is here: Packet
//!                                                           ▲   │   ├ missing, a newer one is here: Recover or Missing
//!             the oldest packet is due                      │   │   └ dry: Late, its place is kept
//!  Pausing ─────────────────────────────────────────────────┘   │
//!     ▲─────────── dry for `DRY_MS`, or the sender pauses ──────┘
//! ```
//!
//! The target comes from [`Arrivals`]. Media time is the packets' timestamps: a pause of the sender (DTX, a key) is a gap in them with no
//! gap in the sequence numbers, a loss is the reverse, and after both the delay is what it should be.
//!
//! A dry buffer cannot tell a late packet from a lost one or from a sender that pauses. So the missing sound is made up for a while and the
//! next packet keeps its place. If it comes after all it is played, and the delay has grown by what was made up, for the stretching to take
//! out again; if one behind it comes, what was made up stood for the lost ones. After an outage, though, when many come at once, those whose
//! time is gone are decoded and not played: a word that is lost is heard as one fault, a word that comes late as a fault that lasts until the
//! stretching has it out again.
//!
//! Why payloads lie in chunks of one small arena: Opus speech is 40 to 160 bytes, the longest legal frame 1,275. Slots of the longest take
//! 80 KB a call, chunks 5 KB, and no pool is shared between calls. Half of the chunks hold 800 ms of speech at 20 kbit/s: a call takes
//! the other half once, when a higher rate and a long delay come together.

use super::arrivals::Arrivals;
use crate::error::DropReason;
use crate::limits::{JITTER_BYTES_MAX, JITTER_PACKETS_MAX, JITTER_PAYLOAD_BYTES_MAX, PLAYOUT_DELAY_MS_MAX, PTIME_MS};
use crate::rtp::sequence::ExtendedSequence;
use crate::time::{Instant, RtpTimestamp};

/// How long a dry buffer asks for sound before it takes the sender to pause. What is made up has faded by then.
const DRY_MS: i64 = 180;

/// A buffer that was dry for this long has seen an outage: what came behind its time by more than the second is overdue, and not played.
const OUTAGE_MS: i64 = 60;
const OVERDUE_NANOS: i64 = 20_000_000;
const _: () = assert!(OUTAGE_MS < DRY_MS);

/// Gap in the timestamps from which the sender is taken to have paused, in packets.
const PAUSE_PACKETS: i64 = 1;

/// A packet this far behind is no late one: the second in a row means that the sender started anew lower (RFC 3550 A.1). 10 s of 20 ms.
const RESTART_PACKETS: u64 = 500;
const _: () = assert!(RESTART_PACKETS > JITTER_PACKETS_MAX as u64);

const SLOTS: u64 = JITTER_PACKETS_MAX as u64;
const _: () = assert!(JITTER_PACKETS_MAX <= 64, "`played` has 64 bits");

/// Bytes of one piece of the arena, and how many there are.
const CHUNK_BYTES: usize = 64;
const CHUNKS: usize = JITTER_BYTES_MAX / CHUNK_BYTES;
const _: () = assert!(CHUNKS <= NO_CHUNK as usize && JITTER_PAYLOAD_BYTES_MAX <= JITTER_BYTES_MAX / 4);
const NO_CHUNK: u8 = u8::MAX;

/// Pieces that a call begins with.
const CHUNKS_FIRST: usize = CHUNKS / 2;
const _: () =
    assert!(CHUNKS_FIRST * PTIME_MS >= PLAYOUT_DELAY_MS_MAX && JITTER_PAYLOAD_BYTES_MAX <= CHUNKS_FIRST * CHUNK_BYTES);

/// One packet on its way into the buffer.
#[derive(Clone, Copy, Debug)]
pub struct Arriving<'p> {
    /// Its place.
    pub sequence: ExtendedSequence,
    /// Its time on the stream's clock.
    pub timestamp: RtpTimestamp,
    /// How long it plays, in ticks of that clock.
    pub ticks: u32,
    /// Its bytes.
    pub payload: &'p [u8],
    /// What it is besides audio.
    pub kind: Kind,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Audio.
    Audio,
    /// Audio with in-band redundancy for the packet before it.
    Redundant,
    /// The last before a pause (DTX).
    Pause,
    /// No audio: a packet of a key. It has a place, and no time of its own.
    Event,
}

/// What is to be played next.
#[derive(Debug, PartialEq, Eq)]
pub enum Playout<'b> {
    /// A packet that is here.
    Packet(&'b [u8]),
    /// The packet is missing, the one after it is here: in-band FEC may recover it. That one stays in the buffer. `skip_ticks` of it were
    /// made up already.
    Recover {
        /// The packet after the missing one.
        next: &'b [u8],
        /// What is to be left out at the beginning.
        skip_ticks: u32,
    },
    /// The packet is missing, and so is the one after it; newer ones are here. `skip_ticks` of it were made up already, or are to be left
    /// out.
    Missing {
        /// The oldest of the newer ones. It stays in the buffer.
        next: &'b [u8],
        /// From the missing packet's beginning to that one's.
        distance_ticks: u32,
        /// What is to be left out at the beginning.
        skip_ticks: u32,
    },
    /// The packet has not come and may yet: make something up, and say how much by `made_up`.
    Late,
    /// The packet came after an outage, and its time is gone: the decoder has to see it, nobody is to hear it.
    Overdue(&'b [u8]),
    /// Nothing has begun, or the sender pauses: nothing is known to be missing.
    Empty,
}

/// What a buffer counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JitterStats {
    /// Packets that were played.
    pub played: u64,
    /// Packets that came too late to be played.
    pub late: u64,
    /// Packets that never came, or too late.
    pub lost: u64,
    /// Of these, those whose next packet was there in time.
    pub recoverable: u64,
    /// Packets thrown away because the delay had grown beyond its bound, or nobody played.
    pub skipped: u64,
    /// Times the buffer was dry when a packet was due.
    pub dry: u64,
}

/// Packets of one stream, by extended sequence number. All memory is taken in `new`, but for the rest of the arena.
#[derive(Debug)]
pub struct JitterBuffer {
    clock_rate_hz: i64,
    arrivals: Arrivals,
    phase: Phase,
    /// The next packet to play; nothing older is taken any more.
    next: u64,
    /// Media time up to which everything was played.
    head: i64,
    /// Newest packet seen.
    highest: u64,
    /// A packet has come since the last restart.
    has_begun: bool,
    /// A timestamp, in 32 bits and extended: the others are near it.
    reference: (RtpTimestamp, i64),
    /// Length of the last packet.
    packet_ticks: i64,
    /// Bit `n`: the packet `next - 1 - n` was played. Tells a repeated packet from a late one.
    played: u64,
    /// Ticks made up since the buffer ran dry.
    made_up: i64,
    /// It ran dry, and what was missing has not been caught up with: what comes now may be overdue.
    is_behind: bool,
    /// The sender said that it pauses, or plays a key.
    is_pausing: bool,
    /// What would follow a packet from far behind.
    restart_at: Option<u64>,
    stats: JitterStats,
    /// Held packets, at `sequence % SLOTS`.
    held: [Option<Held>; JITTER_PACKETS_MAX],
    held_count: usize,
    arena: Arena,
}

/// Where a payload is handed out, in one piece.
pub type PayloadOut = [u8; JITTER_PAYLOAD_BYTES_MAX];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No packet has come, or none is due yet.
    Waiting,
    /// Packets are played.
    Playing,
    /// The sender pauses.
    Pausing,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    timestamp: i64,
    ticks: u32,
    kind: Kind,
    len: u16,
    first: u8,
}

impl JitterBuffer {
    /// For a stream on this clock.
    pub fn new(clock_rate_hz: u32) -> JitterBuffer {
        JitterBuffer {
            clock_rate_hz: i64::from(clock_rate_hz.max(1)),
            arrivals: Arrivals::new(),
            phase: Phase::Waiting,
            next: 0,
            head: 0,
            highest: 0,
            has_begun: false,
            reference: (RtpTimestamp(0), 0),
            packet_ticks: i64::from(clock_rate_hz) / 50,
            played: 0,
            made_up: 0,
            is_behind: false,
            is_pausing: false,
            restart_at: None,
            stats: JitterStats::default(),
            held: [None; JITTER_PACKETS_MAX],
            held_count: 0,
            arena: Arena::new(),
        }
    }

    /// Puts one packet in. Packets of one stream only; call `restart` on a new SSRC.
    ///
    /// Errors: `JitterDuplicate` and `JitterLate` for what is here already or was played, or has been given up. `JitterFull` when the
    /// payload is longer than any place for it, or when nobody plays and older packets had to go; in the latter case the new one is held.
    pub fn insert(&mut self, now: Instant, packet: &Arriving<'_>) -> Result<(), DropReason> {
        let sequence = packet.sequence.0;
        if packet.payload.len() > JITTER_PAYLOAD_BYTES_MAX {
            return Err(DropReason::JitterFull);
        }
        let mut timestamp = self.extend(packet.timestamp);
        let transit = now.as_nanos() as i64 - self.nanos(timestamp);
        let is_audio = packet.kind != Kind::Event;
        if self.has_begun
            && (sequence > self.highest + SLOTS
                || (is_audio && sequence >= self.next && !self.arrivals.is_plausible(transit)))
        {
            // The sender jumped, in number or time: nothing between is worth waiting for.
            self.restart();
            timestamp = self.extend(packet.timestamp);
        }
        if self.has_begun && sequence < self.next {
            let late = self.handle_late(sequence);
            if late == Err(DropReason::JitterLate) && is_audio {
                self.observe(now, timestamp, packet);
                self.stats.late += 1;
            }
            late?;
            timestamp = self.extend(packet.timestamp);
        }
        if !self.has_begun {
            // What was sent before the first that arrived may still come.
            self.next = sequence.saturating_sub(SLOTS - 1);
            self.highest = sequence;
            self.has_begun = true;
        }
        self.restart_at = None;
        if self.held[index(sequence)].is_some() && sequence >= self.next && sequence < self.next + SLOTS {
            return Err(DropReason::JitterDuplicate);
        }
        let pushed_out = self.make_room(sequence, packet.payload.len());
        if is_audio {
            self.observe(now, timestamp, packet);
        }
        let first = self.arena.hold(packet.payload);
        let len = packet.payload.len() as u16;
        self.held[index(sequence)] = Some(Held { timestamp, ticks: packet.ticks, kind: packet.kind, len, first });
        self.held_count += 1;
        self.highest = self.highest.max(sequence);
        if pushed_out { Err(DropReason::JitterFull) } else { Ok(()) }
    }

    /// Forgets the stream; the next packet begins one. Counters go on.
    pub fn restart(&mut self) {
        for place in 0..JITTER_PACKETS_MAX {
            self.release(place);
        }
        self.arrivals.restart();
        self.phase = Phase::Waiting;
        self.has_begun = false;
        self.reference = (RtpTimestamp(0), 0);
        self.played = 0;
        self.made_up = 0;
        self.is_behind = false;
        self.is_pausing = false;
        self.restart_at = None;
    }

    /// What to play at `now`, when everything that was answered before has been played. Answers may be asked for ahead of time, one after
    /// the other: each of them moves on by its own length. A payload is answered within `out`.
    pub fn pop<'b>(&mut self, now: Instant, out: &'b mut PayloadOut) -> Playout<'b> {
        loop {
            if self.held_count == 0 {
                return self.run_dry();
            }
            let oldest = self.oldest();
            let Some(held) = self.held[index(oldest)] else { return self.run_dry() };
            if held.kind == Kind::Event {
                self.pass_event(oldest);
                continue;
            }
            if self.phase != Phase::Playing {
                if now.as_nanos() as i64 - self.nanos(held.timestamp) < self.arrivals.target() {
                    return Playout::Empty;
                }
                self.begin(oldest, held.timestamp);
            }
            self.bound_delay(now);
            if oldest < self.next {
                continue; // it was too old to be played at all
            }
            let lost = (oldest - self.next) as i64;
            let gap = held.timestamp - self.head;
            if gap > (lost + PAUSE_PACKETS) * self.packet_ticks + self.made_up {
                self.pause();
                continue;
            }
            if lost == 0 || gap <= 0 {
                return match self.is_overdue(now, &held) {
                    true => self.pass_by(oldest, held, out),
                    false => self.play(oldest, held, out),
                };
            }
            return self.pass_over(now, oldest, held, gap, out);
        }
    }

    /// Says that `ticks` were made up after `Late`.
    pub fn made_up(&mut self, ticks: u32) {
        self.made_up += i64::from(ticks);
    }

    /// When the packet that waits is due, while nothing is played.
    pub fn due(&self) -> Option<Instant> {
        if self.phase == Phase::Playing || self.held_count == 0 {
            return None;
        }
        let held = self.held[index(self.oldest())].filter(|held| held.kind != Kind::Event)?;
        let at = self.nanos(held.timestamp) + self.arrivals.target();
        Some(Instant::from_nanos(at.max(0) as u64))
    }

    /// How much more than the target the next packet will have waited when it is asked for at `at`, in nanoseconds; negative when it is
    /// asked for too soon. `None` while nothing is played.
    pub fn surplus_nanos(&self, at: Instant) -> Option<i64> {
        (self.phase == Phase::Playing).then(|| at.as_nanos() as i64 - self.nanos(self.head) - self.arrivals.target())
    }

    /// Delay of what is played at `at` beyond the fastest path, in ms; `ahead_ticks` of what was answered have not been played.
    pub fn delay_ms(&self, at: Instant, ahead_ticks: u32) -> Option<u32> {
        if self.phase != Phase::Playing {
            return None;
        }
        let playing = self.head - i64::from(ahead_ticks);
        let delay = at.as_nanos() as i64 - self.nanos(playing) - self.arrivals.fastest();
        Some((delay.max(0) / 1_000_000) as u32)
    }

    /// The delay aimed at, beyond the fastest path.
    pub fn target_ms(&self) -> u32 {
        self.arrivals.target_ms()
    }

    /// What was counted since the buffer was made.
    pub fn stats(&self) -> JitterStats {
        self.stats
    }

    /// Packets held.
    pub fn len(&self) -> usize {
        self.held_count
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn nanos(&self, ticks: i64) -> i64 {
        // 1e9 ticks of 48 kHz are six hours: the product of the remainder stays small.
        ticks / self.clock_rate_hz * 1_000_000_000 + ticks % self.clock_rate_hz * 1_000_000_000 / self.clock_rate_hz
    }

    fn ticks(&self, ms: i64) -> i64 {
        ms * self.clock_rate_hz / 1_000
    }

    fn extend(&mut self, timestamp: RtpTimestamp) -> i64 {
        if !self.has_begun {
            self.reference = (timestamp, i64::from(timestamp.0));
        }
        self.reference.1 + i64::from(timestamp.distance_from(self.reference.0))
    }

    fn observe(&mut self, now: Instant, timestamp: i64, packet: &Arriving<'_>) {
        if timestamp > self.reference.1 {
            self.reference = (packet.timestamp, timestamp);
        }
        let transit = now.as_nanos() as i64 - self.nanos(timestamp);
        let packet_nanos = self.nanos(i64::from(packet.ticks));
        self.arrivals.observe(now, transit, packet.kind == Kind::Redundant, packet_nanos);
        self.packet_ticks = i64::from(packet.ticks).max(1);
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

    /// Gives up the oldest places until `sequence` has one and its bytes have room; answers whether a packet was lost by it.
    fn make_room(&mut self, sequence: u64, len: usize) -> bool {
        let mut lost = 0;
        if let Some(first) = sequence.checked_sub(SLOTS - 1).filter(|&first| first > self.next) {
            lost += self.give_up_before(first);
        }
        if self.arena.free_count < chunks(len) {
            self.arena.grow();
        }
        while self.arena.free_count < chunks(len) && self.held_count > 0 {
            lost += self.give_up_before(self.oldest() + 1);
        }
        self.stats.skipped += lost;
        lost > 0
    }

    /// Begins to play, or goes on after a pause, with the oldest packet.
    fn begin(&mut self, oldest: u64, timestamp: i64) {
        let lost = oldest.saturating_sub(self.next) as i64;
        // Time that the sender did not fill was no outage.
        self.is_behind &= timestamp - self.head <= (lost + PAUSE_PACKETS) * self.packet_ticks;
        self.give_up_before(oldest);
        self.head = timestamp;
        self.made_up = 0;
        self.is_pausing = false;
        self.phase = Phase::Playing;
    }

    fn pause(&mut self) {
        self.phase = Phase::Pausing;
        self.made_up = 0;
    }

    fn run_dry<'b>(&mut self) -> Playout<'b> {
        if self.phase != Phase::Playing {
            return Playout::Empty;
        }
        if self.is_pausing || self.made_up >= self.ticks(DRY_MS) {
            self.pause();
            return Playout::Empty;
        }
        self.stats.dry += u64::from(self.made_up == 0);
        self.is_behind |= self.made_up >= self.ticks(OUTAGE_MS);
        Playout::Late
    }

    /// A key takes the place of audio: it has a number and no time.
    fn pass_event(&mut self, sequence: u64) {
        self.give_up_before(sequence);
        self.advance();
        self.is_pausing = true;
    }

    /// Throws packets away until what is left is no older than the bound.
    fn bound_delay(&mut self, now: Instant) {
        let bound = self.arrivals.fastest() + PLAYOUT_DELAY_MS_MAX as i64 * 1_000_000;
        while self.held_count > 1 && now.as_nanos() as i64 - self.nanos(self.head) > bound {
            let oldest = self.oldest();
            let Some(held) = self.held[index(oldest)] else { return };
            self.give_up_before(oldest + 1);
            self.stats.skipped += u64::from(held.kind != Kind::Event);
            self.head = self.head.max(held.timestamp + i64::from(held.ticks));
            self.made_up = 0;
        }
    }

    /// Whether a packet comes so long after its time that playing it would only make everything after it as late. Not where it is all
    /// there is: then the network has become slower, and the target follows.
    fn is_overdue(&mut self, now: Instant, held: &Held) -> bool {
        let late = now.as_nanos() as i64 - self.nanos(held.timestamp) - self.arrivals.target();
        let is_late = late > OVERDUE_NANOS;
        self.is_behind &= is_late;
        self.is_behind && self.held_count > 1
    }

    /// Hands out a packet that is not to be heard.
    fn pass_by<'b>(&mut self, sequence: u64, held: Held, out: &'b mut PayloadOut) -> Playout<'b> {
        self.stats.skipped += 1;
        Playout::Overdue(self.hand_out(sequence, held, out))
    }

    /// Hands out the packet that is next, whatever of it was made up while it was late: the delay has grown by that.
    fn play<'b>(&mut self, sequence: u64, held: Held, out: &'b mut PayloadOut) -> Playout<'b> {
        self.stats.played += 1;
        Playout::Packet(self.hand_out(sequence, held, out))
    }

    fn hand_out<'b>(&mut self, sequence: u64, held: Held, out: &'b mut PayloadOut) -> &'b [u8] {
        for _ in self.next..sequence {
            self.note_lost(false);
        }
        self.give_up_before(sequence);
        let payload = self.arena.copy(held.first, held.len, out);
        self.advance();
        self.head = held.timestamp + i64::from(held.ticks);
        self.made_up = 0;
        self.is_pausing = held.kind == Kind::Pause;
        self.arrivals.note_fate(false);
        payload
    }

    /// The next packet is missing: its time passes.
    fn pass_over<'b>(
        &mut self,
        now: Instant,
        oldest: u64,
        held: Held,
        gap: i64,
        out: &'b mut PayloadOut,
    ) -> Playout<'b> {
        let is_last = self.next + 1 == oldest;
        let ticks = if is_last { gap } else { self.packet_ticks.min(gap) };
        let is_recoverable = is_last && held.kind == Kind::Redundant;
        let mut skip = self.made_up.min(ticks);
        self.made_up -= skip;
        // A hole is the best place to lose surplus delay, when nothing is known of what was in it.
        if !is_recoverable && self.surplus_nanos(now).is_some_and(|surplus| surplus >= self.nanos(ticks)) {
            skip = ticks;
        }
        self.head += ticks;
        self.next += 1;
        self.played <<= 1;
        self.note_lost(is_recoverable);
        let skip_ticks = skip as u32;
        let next = self.arena.copy(held.first, held.len, out);
        if is_last {
            Playout::Recover { next, skip_ticks }
        } else {
            Playout::Missing { next, distance_ticks: gap as u32, skip_ticks }
        }
    }

    fn note_lost(&mut self, is_recoverable: bool) {
        self.stats.lost += 1;
        self.stats.recoverable += u64::from(is_recoverable);
        self.arrivals.note_fate(true);
    }

    /// Only while something is held, or `next` is the answer.
    fn oldest(&self) -> u64 {
        (self.next..self.next + SLOTS).find(|&sequence| self.held[index(sequence)].is_some()).unwrap_or(self.next)
    }

    /// Moves on by one place; what is held there counts as played.
    fn advance(&mut self) {
        let played = self.release(index(self.next));
        self.played = self.played << 1 | u64::from(played);
        self.next += 1;
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

    /// Frees a place. Answers whether it was taken.
    fn release(&mut self, place: usize) -> bool {
        let Some(held) = self.held[place].take() else {
            return false;
        };
        self.held_count -= 1;
        self.arena.release(held.first);
        true
    }
}

/// The place of a packet.
fn index(sequence: u64) -> usize {
    (sequence % SLOTS) as usize
}

/// Pieces that so many bytes take.
const fn chunks(len: usize) -> usize {
    len.div_ceil(CHUNK_BYTES)
}

/// Payloads in pieces, each with the number of the next. Free pieces are such a list too, so that the memory last used is used first.
#[derive(Debug)]
struct Arena {
    bytes: Box<[[u8; CHUNK_BYTES]]>,
    after: [u8; CHUNKS],
    free: u8,
    free_count: usize,
}

impl Arena {
    fn new() -> Arena {
        Arena {
            bytes: vec![[0; CHUNK_BYTES]; CHUNKS_FIRST].into_boxed_slice(),
            after: core::array::from_fn(|chunk| match chunk + 1 {
                CHUNKS_FIRST | CHUNKS => NO_CHUNK,
                next => next as u8,
            }),
            free: 0,
            free_count: CHUNKS_FIRST,
        }
    }

    /// Takes the rest, once.
    fn grow(&mut self) {
        if self.bytes.len() == CHUNKS {
            return;
        }
        let mut bytes = vec![[0; CHUNK_BYTES]; CHUNKS].into_boxed_slice();
        bytes[..CHUNKS_FIRST].copy_from_slice(&self.bytes);
        self.bytes = bytes;
        // They go before those that are free: nobody can tell.
        self.after[CHUNKS - 1] = core::mem::replace(&mut self.free, CHUNKS_FIRST as u8);
        self.free_count += CHUNKS - CHUNKS_FIRST;
    }

    /// Keeps a payload for which there is room; answers its first piece.
    fn hold(&mut self, payload: &[u8]) -> u8 {
        let mut link = NO_CHUNK;
        // From the end, so that each piece knows the one after it.
        for piece in payload.chunks(CHUNK_BYTES).rev() {
            let chunk = self.free;
            self.free = core::mem::replace(&mut self.after[usize::from(chunk)], link);
            self.free_count -= 1;
            self.bytes[usize::from(chunk)][..piece.len()].copy_from_slice(piece);
            link = chunk;
        }
        link
    }

    fn copy<'b>(&self, first: u8, len: u16, out: &'b mut PayloadOut) -> &'b [u8] {
        let mut chunk = first;
        let out = &mut out[..usize::from(len)];
        for piece in out.chunks_mut(CHUNK_BYTES) {
            piece.copy_from_slice(&self.bytes[usize::from(chunk)][..piece.len()]);
            chunk = self.after[usize::from(chunk)];
        }
        out
    }

    fn release(&mut self, first: u8) {
        let mut chunk = first;
        while chunk != NO_CHUNK {
            let next = core::mem::replace(&mut self.after[usize::from(chunk)], self.free);
            self.free = chunk;
            self.free_count += 1;
            chunk = next;
        }
    }
}

#[cfg(test)]
#[path = "jitter_tests.rs"]
mod tests;
