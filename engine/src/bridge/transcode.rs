//! The flow from G.711 to anything, and what speaks at the end of every flow that encodes.
//!
//! The packets drive it: what comes is decoded, cut into frames of 20 ms and sent at once, so that no delay is added; the clock of
//! [`Pace`] steps in only where nothing comes. Sequence +1 and timestamp +20 ms each, whatever the source does: what it lost is made up
//! before it is encoded, so that the timestamps follow the source's clock to the sample. The other way round, Opus to G.711, playout
//! drives: see `playout.rs`.
//!
//! Why two: the network that Opus came through is a mobile one, and its jitter has to be taken out before G.711, whose
//! receivers have small buffers and no FEC. The receivers of Opus have large ones of their own: two in a row only add delay.

use super::exit::{Exit, frame_ticks};
use super::hearing::{Hearing, PIECE_MS};
use super::hold::Backlog;
use super::pace::{PAUSE_MS, Pace};
use super::reorder::{HeldKind, Reorder, Turn};
use super::source::{Place, Source};
use crate::error::DropReason;
use crate::limits::PTIME_MS;
use crate::media::decode::DECODED_SAMPLES_MAX;
use crate::media::encode::{Encoder, FRAME_SAMPLES_MAX};
use crate::media::redundancy::Redundancy;
use crate::media::stretch::Need;
use crate::rtp::header::{COMFORT_NOISE_PAYLOAD_TYPE, RtpPacket};
use crate::rtp::telephone_event::{EventSender, Pressed};
use crate::sdp::{Codec, OpusParameters};
use crate::time::Instant;

/// What may be missing in front of a packet and is filled in, so that the timestamps stay exact: a run of losses, or what comfort waited
/// for. A larger gap is a jump of the source's clock.
const FILL_MS_MAX: i32 = PAUSE_MS as i32 + 2 * PTIME_MS as i32;

/// How often the receiver's reports are looked at: once a second.
const LOOK_FRAMES: u32 = 1_000 / PTIME_MS as u32;

/// Bytes of a packet that are heard at once: a byte plays an eighth of a millisecond in all codecs of a trunk.
const PIECE_BYTES: usize = 8 * PIECE_MS;

/// How far comfort may have run ahead of a source that was only late, for the rest to be caught up by stretching.
const DEBT_MS_MAX: i32 = 500;

/// Frames in a row that nobody waits before: what is left of a greeting's lag is less than a frame and no outage follows. It goes at once.
const CAUGHT_UP_FRAMES: u32 = 10;

/// G.711 to anything: paced by arrival.
pub(super) struct Arrival {
    source: Source,
    reorder: Reorder,
    /// Timestamp that follows the last packet's audio: beyond it something is missing.
    expected: u32,
    hearing: Hearing,
    clock_rate_hz: i32,
    /// What is said before the exit can send, and later what comes too early.
    backlog: Backlog,
    /// The backlog has run behind the source and has not caught up in its pauses: what comes at once behind an outage waits its turn too.
    lags: bool,
    /// Frames in a row that found the backlog empty.
    alone: u32,
    voice: Voice,
    /// Runs from the first moment that the exit can send.
    pace: Option<Pace>,
    /// Samples of comfort and keys since the last packet: they fill the gap that it may find.
    comforted: i32,
    /// Samples by which comfort and keys ran ahead of the source; negative where they fell behind.
    debt: i32,
}

impl Arrival {
    pub(super) fn new(source: Codec, voice: Voice) -> Arrival {
        Arrival {
            source: Source::default(),
            reorder: Reorder::new(),
            expected: 0,
            hearing: Hearing::new(source, voice.rate_hz(), false),
            clock_rate_hz: source.clock_rate_hz() as i32,
            backlog: Backlog::new(voice.rate_hz() as usize / 1_000 * PTIME_MS),
            lags: false,
            alone: 0,
            voice,
            pace: None,
            comforted: 0,
            debt: 0,
        }
    }

    /// Decodes one packet and sends each full frame at once; behind a gap it may wait for the one before.
    pub(super) fn handle(
        &mut self,
        packet: &RtpPacket<'_>,
        is_event: bool,
        exit: &mut Exit<'_>,
    ) -> Result<(), DropReason> {
        let kind = match packet.payload_type {
            _ if is_event => HeldKind::Event,
            COMFORT_NOISE_PAYLOAD_TYPE => HeldKind::Noise,
            _ => HeldKind::Audio,
        };
        let (timestamp, payload) = (packet.timestamp.0, if is_event { &[] } else { packet.payload });
        let place = self.source.place(packet);
        if matches!(place, Place::Doubtful) {
            return Err(DropReason::JitterLate);
        }
        if kind == HeldKind::Audio && (payload.len() > DECODED_SAMPLES_MAX || self.ticks(payload).is_none()) {
            return Err(DropReason::JitterFull);
        }
        let sequence = match place {
            Place::Step(_, sequence) => sequence.0,
            Place::First(sequence) => {
                self.hear_held(true, exit);
                self.reorder.begin(sequence.0);
                (self.comforted, self.debt, self.expected) = (0, 0, timestamp);
                self.hear(timestamp, kind, payload, exit);
                return Ok(());
            }
            Place::Doubtful => return Err(DropReason::JitterLate),
        };
        if !self.reorder.can_take(sequence, payload.len()) {
            self.hear_held(true, exit);
        }
        if self.reorder.take(exit.now, sequence, timestamp, kind, payload)? == Turn::Now {
            self.hear(timestamp, kind, payload, exit);
        }
        self.hear_held(false, exit);
        Ok(())
    }

    /// Goes on with the packets that waited, once what they waited for has come or is given up.
    fn hear_held(&mut self, all: bool, exit: &mut Exit<'_>) {
        while let Some(held) = self.reorder.pop(exit.now, all) {
            self.hear(held.timestamp, held.kind, held.payload(), exit);
        }
    }

    /// Hears one packet, whose turn it is.
    fn hear(&mut self, timestamp: u32, kind: HeldKind, payload: &[u8], exit: &mut Exit<'_>) {
        match kind {
            HeldKind::Event => {}
            HeldKind::Noise => self.begin_pause(payload),
            HeldKind::Audio => {
                self.bridge_gap(timestamp, exit);
                self.expected = timestamp.wrapping_add(self.ticks(payload).unwrap_or(0));
                // In pieces: what waits to be cut into frames is never longer than the longest usual packet.
                for piece in payload.chunks(PIECE_BYTES) {
                    self.hearing.decode(piece);
                    self.pay_debt();
                    self.send_full_frames(exit);
                }
            }
        }
    }

    fn ticks(&self, payload: &[u8]) -> Option<u32> {
        self.hearing.decoder().duration_ticks(payload, self.clock_rate_hz as u32)
    }

    /// The source sends noise instead of audio from here on (RFC 3389 §4): its level comes first in the payload.
    fn begin_pause(&mut self, payload: &[u8]) {
        if let Some(&level) = payload.first() {
            self.hearing.comfort().set_level_dbov(level);
        }
        if let Some(pace) = &mut self.pace {
            pace.pause();
        }
    }

    /// Fills in what is missing before a packet, as far as nothing was sent in its place: lost audio, and the time that comfort waited.
    fn bridge_gap(&mut self, timestamp: u32, exit: &mut Exit<'_>) {
        let ticks = timestamp.wrapping_sub(self.expected) as i32;
        let rate_hz = self.voice.rate_hz() as i32;
        let samples = (i64::from(ticks) * i64::from(rate_hz) / i64::from(self.clock_rate_hz)) as i32;
        let ahead = core::mem::take(&mut self.comforted).saturating_add(core::mem::take(&mut self.debt));
        let mut missing = samples.saturating_sub(ahead);
        let jump = rate_hz / 1_000 * FILL_MS_MAX;
        if missing > jump || samples < -jump {
            return; // the source's clock jumped
        }
        if missing < 0 {
            self.debt = (-missing).min(rate_hz / 1_000 * DEBT_MS_MAX);
        }
        while missing > 0 {
            missing -= self.hearing.conceal_at_most(missing as usize) as i32;
            self.send_full_frames(exit);
        }
    }

    /// Takes out what it can of the time by which comfort ran ahead.
    fn pay_debt(&mut self) {
        if self.debt > 0 {
            self.debt -= self.hearing.shorten(self.debt as usize, Need::Urgent) as i32;
        }
    }

    fn send_full_frames(&mut self, exit: &mut Exit<'_>) {
        while self.hearing.samples() >= self.hearing.frame_samples() {
            let mut frame = [0; FRAME_SAMPLES_MAX];
            self.hearing.take_frame(&mut frame);
            let pcm = &frame[..self.hearing.frame_samples()];
            self.alone = if self.backlog.is_empty() { self.alone.saturating_add(1) } else { 0 };
            self.lags &= self.alone < CAUGHT_UP_FRAMES;
            match &mut self.pace {
                None => {
                    self.lags = true;
                    self.backlog.push(pcm);
                }
                // Nobody listens to a leg on hold; its clock goes on, so that nothing is to be caught up afterwards.
                Some(pace) if !exit.can_send() => {
                    let skipped = pace.skip(exit.now);
                    pace.passed(exit.now);
                    self.voice.skip(skipped + 1, exit);
                }
                // A key takes the audio's place.
                Some(pace) if self.voice.is_key_active() => {
                    pace.heard(exit.now);
                    self.debt -= self.hearing.frame_samples() as i32;
                }
                Some(pace) if self.backlog.is_empty() && !(self.lags && exit.now < pace.waiting()) => {
                    self.lags = false;
                    pace.passed(exit.now);
                    self.voice.speak(pcm, exit);
                }
                Some(pace) => {
                    pace.heard(exit.now);
                    let mut oldest = [0; FRAME_SAMPLES_MAX];
                    let oldest = &mut oldest[..pcm.len()];
                    // Where there is no room, what has waited longest goes now: nothing is lost.
                    if self.backlog.is_full() && self.backlog.pop(oldest) {
                        self.voice.speak(oldest, exit);
                    }
                    self.backlog.push(pcm);
                }
            }
        }
    }

    /// Sends what the clock says: packets of a key, the backlog, or comfort.
    pub(super) fn run(&mut self, exit: &mut Exit<'_>) {
        self.hear_held(false, exit);
        if !exit.can_send() {
            return;
        }
        let pace = self.pace.get_or_insert_with(|| Pace::new(exit.now));
        let skipped = pace.skip(exit.now);
        self.voice.skip(skipped, exit);
        loop {
            let due = self.due(true);
            if due > exit.now {
                return;
            }
            let mut frame = [0; FRAME_SAMPLES_MAX];
            let pcm = &mut frame[..self.hearing.frame_samples()];
            if self.voice.is_key_active() {
                self.comforted = self.comforted.saturating_add(pcm.len() as i32);
            } else if !self.backlog.pop(pcm) {
                self.comfort(pcm);
            }
            self.voice.speak(pcm, exit);
            if let Some(pace) = &mut self.pace {
                pace.played(due);
            }
        }
    }

    /// A frame of comfort, behind what is left of a packet that was no multiple of 20 ms: that would otherwise wait for the next word.
    fn comfort(&mut self, pcm: &mut [i16]) {
        let left = self.hearing.samples();
        self.comforted = self.comforted.saturating_add((self.hearing.frame_samples() - left) as i32);
        self.hearing.silence();
        let mut frame = [0; FRAME_SAMPLES_MAX];
        self.hearing.take_frame(&mut frame);
        pcm.copy_from_slice(&frame[..pcm.len()]);
    }

    /// When `run` is due.
    pub(super) fn deadline(&self, can_send: bool) -> Instant {
        self.due(can_send).min(self.reorder.deadline())
    }

    /// When the clock has something to send.
    fn due(&self, can_send: bool) -> Instant {
        match &self.pace {
            Some(pace) if can_send && (self.voice.is_key_active() || !self.backlog.is_empty()) => pace.waiting(),
            // What waits for an overtaken packet goes before comfort.
            Some(pace) if can_send && self.reorder.is_empty() => pace.comfort(),
            _ => Instant::NEVER,
        }
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
}

/// From frames to packets of the exit's codec: one per frame, audio or a key.
pub(super) struct Voice {
    encoder: Encoder,
    ticks: u32,
    events: Option<EventSender>,
    redundancy: Redundancy,
    /// Frames until the receiver's reports are looked at again.
    look_in: u32,
    /// Packets encoded while redundancy was on.
    redundant: u64,
    /// The next audio packet begins a talkspurt (RFC 3550 §5.1): the stream's first, and the first after a hole.
    marker: bool,
}

impl Voice {
    /// `opus`: what the exit's peer wishes; `rate_hz` of the speech, where the codec leaves the choice; `event_rate_hz` of the peer's
    /// telephone-event.
    pub(super) fn new(codec: Codec, opus: &OpusParameters, rate_hz: u32, event_rate_hz: Option<u32>) -> Voice {
        Voice {
            encoder: Encoder::at_rate(codec, opus, rate_hz),
            ticks: frame_ticks(codec),
            events: event_rate_hz.map(EventSender::new),
            redundancy: Redundancy::new(),
            look_in: LOOK_FRAMES,
            redundant: 0,
            marker: true,
        }
    }

    pub(super) fn set_complexity(&mut self, complexity: u8) {
        self.encoder.set_complexity(complexity);
    }

    /// Rate of the samples that `speak` wants.
    pub(super) fn rate_hz(&self) -> u32 {
        self.encoder.sample_rate_hz()
    }

    /// Presses a key; answers whether it will be heard.
    pub(super) fn press(&mut self, key: Pressed) -> bool {
        self.events.as_mut().is_some_and(|events| events.press(key.digit, key.duration_ms))
    }

    pub(super) fn is_key_active(&self) -> bool {
        self.events.as_ref().is_some_and(EventSender::is_active)
    }

    /// Sends one packet: of the key that plays, else of `pcm`.
    pub(super) fn speak(&mut self, pcm: &[i16], exit: &mut Exit<'_>) {
        let at = exit.leg.sender().timestamp();
        if let Some(event) = self.events.as_mut().and_then(|events| events.next(at)) {
            self.marker = true;
            return exit.event(&event, self.ticks);
        }
        self.follow_reports(exit);
        self.redundant += u64::from(self.encoder.is_redundant());
        let marker = core::mem::take(&mut self.marker);
        exit.audio(marker, self.ticks, |payload| self.encoder.encode(pcm, payload));
    }

    /// Sends as much redundancy as the receiver's reports ask for.
    fn follow_reports(&mut self, exit: &Exit<'_>) {
        self.look_in -= 1;
        if self.look_in > 0 {
            return;
        }
        self.look_in = LOOK_FRAMES;
        if let Some(lost_pct) = exit.leg.stats().remote_loss_percent
            && let Some(expected) = self.redundancy.report(exit.now, lost_pct)
        {
            self.encoder.set_expected_loss(expected);
        }
    }

    /// Packets encoded while redundancy was on.
    pub(super) fn redundant(&self) -> u64 {
        self.redundant
    }

    /// Lets the time of `frames` pass without a packet.
    pub(super) fn skip(&mut self, frames: u64, exit: &mut Exit<'_>) {
        if frames > 0 {
            self.marker = true;
            exit.leg.sender().skip((frames as u32).wrapping_mul(self.ticks));
        }
    }
}
