//! Opus to G.711: the flow that playout drives.
//!
//! Every 20 ms it takes what the jitter buffer says and sends one frame, noise when there is nothing, so that the far side gets a stream
//! without holes from the first moment: one packet per 20 ms, sequence +1 and timestamp +20 ms each, whatever the source does.
//!
//! ```text
//!   grid:  ├──────20 ms──────┼─────────────────┼─────────────────┼──►  what the timestamps say
//!   ticks:     ├──── lean ────►│                 │                 │    when a frame is played, at most 20 ms off the grid
//!                              ▲ the packet that it needs is due just before
//! ```
//!
//! The ticks lean toward the instant at which packets are due, by at most a millisecond a frame, so that no packet waits for a clock that
//! happens to stand elsewhere. What leaning cannot do is done by stretching: a delay that is too long by a packet is taken out one pitch
//! period at a time, one too short is put in.
//!
//! Why lean at all: a fixed grid costs 10 ms in the mean and 20 at worst, as much as everything else on a clean path. A receiver of G.711
//! sees a jitter of less than it gets from any network.

use super::exit::Exit;
use super::hearing::Hearing;
use super::source::{Place, Source};
use super::transcode::Voice;
use crate::error::DropReason;
use crate::limits::{JITTER_PAYLOAD_BYTES_MAX, PTIME_MS};
use crate::media::encode::FRAME_SAMPLES_MAX;
use crate::media::jitter::{Arriving, JitterBuffer, Kind, Playout as Next};
use crate::media::stretch::Need;
use crate::rtp::header::RtpPacket;
use crate::sdp::Codec;
use crate::time::{Duration, Instant};

/// A wake-up later than this is not caught up: the frames are skipped, the timestamps are not.
const CATCH_UP_FRAMES_MAX: u64 = 5;

const FRAME_NANOS: i64 = PTIME_MS as i64 * 1_000_000;

/// How far ticks may stand off the grid, either way, and how much that may change from one to the next.
const LEAN_NANOS_MAX: i64 = FRAME_NANOS;
const LEAN_STEP_NANOS: i64 = 1_000_000;

/// Surplus that is not worth a change.
const SURPLUS_NANOS_SMALL: i64 = 2_000_000;

/// Shortage that is filled where nobody hears it, when leaning has done what it can.
const SHORTAGE_NANOS: i64 = -500_000;

/// Surplus that is taken out wherever that can be done at all, and shortage that is filled likewise.
const SURPLUS_NANOS_LARGE: i64 = 80_000_000;
const SHORTAGE_NANOS_LARGE: i64 = -15_000_000;

/// What a flow's playout did, for the end of the call and for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlayoutStats {
    /// Delay aimed at beyond the network's fastest, ms, at the last frame of speech.
    pub target_ms: u32,
    /// Delay of that frame, ms.
    pub delay_ms: u32,
    /// Packets that came too late to be played.
    pub late: u32,
    /// Packets that were lost, or late.
    pub lost: u32,
    /// Packets that were made up, recovered ones included.
    pub concealed: u32,
    /// Of these, those that in-band FEC was decoded for.
    pub recovered: u32,
    /// Packets thrown away because the delay had grown beyond its bound.
    pub skipped: u32,
    /// Time that stretching took out, ms.
    pub shortened_ms: u32,
    /// Time that stretching put in, ms.
    pub lengthened_ms: u32,
}

/// The flow.
pub(super) struct Playout {
    source: Source,
    jitter: JitterBuffer,
    clock_rate_hz: u32,
    hearing: Hearing,
    voice: Voice,
    /// When the next frame is played; `None` until the exit can send.
    next: Option<Instant>,
    /// How far that is off the grid.
    lean: i64,
    target_ms: u32,
    delay_ms: u32,
}

impl Playout {
    pub(super) fn new(source: Codec, voice: Voice) -> Playout {
        Playout {
            source: Source::default(),
            jitter: JitterBuffer::new(source.clock_rate_hz()),
            clock_rate_hz: source.clock_rate_hz(),
            hearing: Hearing::new(source, voice.rate_hz(), true),
            voice,
            next: None,
            lean: 0,
            target_ms: 0,
            delay_ms: 0,
        }
    }

    /// Puts one packet into the jitter buffer. What comes before anybody can hear it is not kept.
    pub(super) fn handle(&mut self, packet: &RtpPacket<'_>, is_event: bool, exit: &Exit<'_>) -> Result<(), DropReason> {
        if self.next.is_none() || !exit.can_send() {
            return Ok(());
        }
        let sequence = match self.source.place(packet) {
            Place::Doubtful => return Err(DropReason::JitterLate),
            Place::Step(_, sequence) => sequence,
            Place::First(sequence) => {
                self.jitter.restart();
                sequence
            }
        };
        let decoder = self.hearing.decoder();
        let arriving = Arriving {
            sequence,
            timestamp: packet.timestamp,
            ticks: decoder.duration_ticks(packet.payload, self.clock_rate_hz).unwrap_or(self.clock_rate_hz / 50),
            payload: if is_event { &[] } else { packet.payload },
            kind: if is_event { Kind::Event } else { decoder.kind(packet.payload) },
        };
        let inserted = self.jitter.insert(exit.now, &arriving);
        self.lean_to_due(exit.now);
        inserted
    }

    /// Plays every frame that is due.
    pub(super) fn run(&mut self, exit: &mut Exit<'_>) {
        if !exit.can_send() {
            return;
        }
        let mut next = self.next.unwrap_or(exit.now);
        let behind = exit.now.since(next).as_millis() as u64 / PTIME_MS as u64;
        if behind > CATCH_UP_FRAMES_MAX {
            // Nobody woke us, or the exit was on hold: what waits here is stale, and the clock has gone on.
            self.jitter.restart();
            self.voice.skip(behind, exit);
            next = next.plus_millis(behind * PTIME_MS as u64);
        }
        while next <= exit.now {
            self.play(next, exit);
            next = next.plus_millis(PTIME_MS as u64);
            self.next = Some(next);
            self.adjust(next);
            self.lean_to_due(exit.now);
            next = self.next.unwrap_or(next);
        }
        self.next = Some(next);
    }

    /// Plays 20 ms of audio across the bridge; `tick` is when it was due.
    fn play(&mut self, tick: Instant, exit: &mut Exit<'_>) {
        // An Opus packet holds 2.5 to 120 ms (RFC 6716 §2.1.4), so this turns at most 8 times, and once more for each that is left out.
        while self.hearing.samples() < self.hearing.frame_samples() {
            self.hear_next(exit.now);
        }
        self.stretch(tick, exit.now);
        let mut frame = [0; FRAME_SAMPLES_MAX];
        self.hearing.take_frame(&mut frame);
        self.voice.speak(&frame[..self.hearing.frame_samples()], exit);
        let ahead = self.ticks(self.hearing.samples());
        if let Some(delay_ms) = self.jitter.delay_ms(tick.plus_millis(PTIME_MS as u64), ahead) {
            (self.delay_ms, self.target_ms) = (delay_ms, self.jitter.target_ms());
        }
    }

    /// Takes what the jitter buffer says, one packet.
    fn hear_next(&mut self, now: Instant) {
        let samples_per_tick = (self.voice.rate_hz(), self.clock_rate_hz);
        let samples =
            |ticks: u32| (u64::from(ticks) * u64::from(samples_per_tick.0) / u64::from(samples_per_tick.1)) as usize;
        let mut payload = [0; JITTER_PAYLOAD_BYTES_MAX];
        match self.jitter.pop(now, &mut payload) {
            Next::Packet(payload) => self.hearing.decode(payload),
            Next::Recover { next, skip_ticks } => self.hearing.recover(next, samples(skip_ticks)),
            Next::Missing { next, distance_ticks, skip_ticks } => {
                self.hearing.conceal_before(next, distance_ticks, samples(skip_ticks));
            }
            Next::Late => {
                let made = self.hearing.stand_in();
                let ticks = self.ticks(made);
                self.jitter.made_up(ticks);
            }
            Next::Overdue(payload) => self.hearing.pass_by(payload),
            Next::Empty => self.hearing.silence(),
        }
    }

    /// Takes out what makes the delay longer than it need be, all of a packet that is there too soon or the part of a frame that waits; puts
    /// in what is missing of the target, as far as leaning cannot.
    fn stretch(&mut self, tick: Instant, now: Instant) {
        let frame = self.hearing.frame_samples();
        let Some(surplus) = self.surplus_after(tick) else { return };
        if surplus >= FRAME_NANOS + SURPLUS_NANOS_SMALL && !self.jitter.is_empty() {
            if self.hearing.samples() < 2 * frame {
                self.hear_next(now);
            }
            let need = if surplus >= SURPLUS_NANOS_LARGE { Need::Urgent } else { Need::Gentle };
            self.hearing.shorten(self.hearing.samples() - frame, need);
        } else if surplus >= 0 {
            let waiting = (self.hearing.samples() - frame) % frame;
            self.hearing.shorten(waiting, Need::Gentle);
        } else if surplus < SHORTAGE_NANOS_LARGE || (surplus < SHORTAGE_NANOS && self.lean >= LEAN_NANOS_MAX) {
            let need = if surplus < SHORTAGE_NANOS_LARGE { Need::Urgent } else { Need::Gentle };
            self.hearing.lengthen(frame, need);
        }
    }

    /// Leans toward the instant at which the packet of the `next` tick is due.
    fn adjust(&mut self, next: Instant) {
        let Some(surplus) = self.surplus_after(next) else { return };
        if surplus < 0 {
            self.lean_by((-surplus).min(LEAN_STEP_NANOS));
        } else if surplus > SURPLUS_NANOS_SMALL {
            self.lean_by(-(surplus - SURPLUS_NANOS_SMALL).min(LEAN_STEP_NANOS));
        }
    }

    /// How much earlier than needed the next packet will be there when it is asked for, `tick` being when the next frame goes.
    fn surplus_after(&self, tick: Instant) -> Option<i64> {
        let frame = self.hearing.frame_samples();
        let frames = (self.hearing.samples() / frame) as u64;
        self.jitter.surplus_nanos(tick.plus_millis(frames * PTIME_MS as u64))
    }

    /// Moves the next tick to the instant at which the packet that waits is due, where the grid allows.
    fn lean_to_due(&mut self, now: Instant) {
        let (Some(due), Some(next)) = (self.jitter.due(), self.next) else { return };
        let due = due.max(now);
        if due < next.plus_millis(PTIME_MS as u64) {
            self.lean_by(due.as_nanos() as i64 - next.as_nanos() as i64);
        }
    }

    /// Moves the next tick, as far as the bounds allow.
    fn lean_by(&mut self, nanos: i64) {
        let Some(next) = self.next else { return };
        let lean = (self.lean + nanos).clamp(-LEAN_NANOS_MAX, LEAN_NANOS_MAX);
        let by = Duration::from_nanos((lean - self.lean).unsigned_abs());
        self.next = Some(if lean > self.lean {
            next + by
        } else {
            Instant::from_nanos(next.as_nanos() - by.as_nanos() as u64)
        });
        self.lean = lean;
    }

    fn ticks(&self, samples: usize) -> u32 {
        (samples as u64 * u64::from(self.clock_rate_hz) / u64::from(self.voice.rate_hz())) as u32
    }

    pub(super) fn deadline(&self, can_send: bool) -> Instant {
        self.next.filter(|_| can_send).unwrap_or(Instant::NEVER)
    }

    /// Sets the effort of both codecs.
    pub(super) fn set_complexity(&mut self, complexity: u8) {
        self.hearing.set_complexity(complexity);
        self.voice.set_complexity(complexity);
    }

    pub(super) fn voice(&mut self) -> &mut Voice {
        &mut self.voice
    }

    pub(super) fn concealed(&self) -> u64 {
        self.hearing.concealed()
    }

    pub(super) fn redundant(&self) -> u64 {
        self.voice.redundant()
    }

    pub(super) fn stats(&self) -> PlayoutStats {
        let jitter = self.jitter.stats();
        let (shortened_ms, lengthened_ms) = self.hearing.stretched_ms();
        PlayoutStats {
            target_ms: self.target_ms,
            delay_ms: self.delay_ms,
            late: jitter.late as u32,
            lost: jitter.lost as u32,
            concealed: self.hearing.concealed() as u32,
            recovered: self.hearing.recovered() as u32,
            skipped: jitter.skipped as u32,
            shortened_ms: shortened_ms as u32,
            lengthened_ms: lengthened_ms as u32,
        }
    }
}
