//! The flow from G.711 to anything, and what speaks at the end of every flow that encodes.
//!
//! The packets drive it: what comes is decoded, cut into frames of 20 ms and sent at once, so that no delay is added; the clock of
//! [`Pace`] steps in only where nothing comes, or too much. Exactly one packet goes per 20 ms of that clock, sequence +1 and timestamp
//! +20 ms each, whatever the source does. The other way round, Opus to G.711, playout drives: see `playout.rs`.
//!
//! Why two: the network that Opus came through is a mobile one, and its jitter has to be taken out before G.711, whose
//! receivers have small buffers and no FEC. The receivers of Opus have large ones of their own: two in a row only add delay.

use super::exit::{Exit, frame_ticks};
use super::hearing::Hearing;
use super::hold::Backlog;
use super::pace::Pace;
use super::source::{Place, Source};
use crate::error::DropReason;
use crate::media::decode::DECODED_SAMPLES_MAX;
use crate::media::encode::{Encoder, FRAME_SAMPLES, FRAME_SAMPLES_MAX};
use crate::rtp::header::RtpPacket;
use crate::rtp::telephone_event::{EventSender, Pressed};
use crate::sdp::{Codec, OpusParameters};
use crate::time::Instant;

/// Lost audio of a G.711 stream that is made up: after 60 ms concealment has faded to nothing anyway (ITU-T G.711 App. I).
const CONCEAL_SAMPLES_MAX: i32 = 3 * FRAME_SAMPLES as i32;

/// G.711 to anything: paced by arrival.
pub(super) struct Arrival {
    source: Source,
    /// Timestamp that follows the last packet's audio: beyond it something is missing.
    expected: u32,
    hearing: Hearing,
    /// What is said before the exit can send, and later what comes too early.
    backlog: Backlog,
    voice: Voice,
    /// Runs from the first moment that the exit can send.
    pace: Option<Pace>,
    /// Silent frames since the last packet: they fill the gap that it may find.
    comforted: i32,
}

impl Arrival {
    pub(super) fn new(source: Codec, voice: Voice) -> Arrival {
        Arrival {
            source: Source::default(),
            expected: 0,
            hearing: Hearing::new(source, 8_000),
            backlog: Backlog::new(),
            voice,
            pace: None,
            comforted: 0,
        }
    }

    /// Decodes one packet and sends each full frame at once.
    pub(super) fn handle(
        &mut self,
        packet: &RtpPacket<'_>,
        is_event: bool,
        exit: &mut Exit<'_>,
    ) -> Result<(), DropReason> {
        let step = match self.source.place(packet) {
            Place::Doubtful => return Err(DropReason::JitterLate),
            Place::First(_) => 1,
            Place::Step(..=0, _) => return Err(DropReason::JitterLate),
            Place::Step(step, _) => step,
        };
        if is_event {
            return Ok(());
        }
        if packet.payload.len() > DECODED_SAMPLES_MAX {
            return Err(DropReason::JitterFull);
        }
        if step > 1 {
            self.conceal(packet, exit);
        }
        self.comforted = 0;
        // RFC 3551 §4.5.14: one byte is one sample, and one tick.
        self.expected = packet.timestamp.0.wrapping_add(packet.payload.len() as u32);
        self.hearing.decode(packet.payload);
        self.send_full_frames(exit);
        Ok(())
    }

    /// Makes up what was lost before `packet`, as far as no silence was sent in its place. A pause of the sender is no loss.
    fn conceal(&mut self, packet: &RtpPacket<'_>, exit: &mut Exit<'_>) {
        let lost = packet.timestamp.0.wrapping_sub(self.expected) as i32;
        let mut missing = lost.saturating_sub(self.comforted * FRAME_SAMPLES as i32).min(CONCEAL_SAMPLES_MAX);
        while missing > 0 {
            missing -= self.hearing.conceal_at_most(missing as usize) as i32;
            self.send_full_frames(exit);
        }
    }

    fn send_full_frames(&mut self, exit: &mut Exit<'_>) {
        while self.hearing.samples() >= FRAME_SAMPLES {
            let pcm = self.take_frame();
            match &self.pace {
                None => self.backlog.push(&pcm),
                // A key takes the audio's place, and nobody listens to a leg on hold.
                Some(_) if !exit.can_send() || self.voice.is_key_active() => {}
                Some(pace) if self.backlog.is_empty() && pace.earliest() <= exit.now => self.send(&pcm, true, exit),
                Some(_) => self.backlog.push(&pcm),
            }
        }
    }

    fn take_frame(&mut self) -> [i16; FRAME_SAMPLES] {
        let mut frame = [0; FRAME_SAMPLES_MAX];
        self.hearing.take_frame(&mut frame);
        core::array::from_fn(|index| frame[index])
    }

    /// Sends what the clock says: packets of a key, the backlog, or silence.
    pub(super) fn run(&mut self, exit: &mut Exit<'_>) {
        if !exit.can_send() {
            return;
        }
        let pace = self.pace.get_or_insert_with(|| Pace::new(exit.now));
        let skipped = pace.skip(exit.now);
        self.voice.skip(skipped, exit);
        while self.deadline(true) <= exit.now {
            let (pcm, is_real) = self.next_frame();
            self.send(&pcm, is_real, exit);
        }
    }

    /// The frame that is due, and whether the peer said it.
    fn next_frame(&mut self) -> ([i16; FRAME_SAMPLES], bool) {
        let mut pcm = [0; FRAME_SAMPLES];
        if !self.voice.is_key_active() {
            if self.backlog.pop(&mut pcm) {
                return (pcm, true);
            }
            self.comforted = self.comforted.saturating_add(1).min(CONCEAL_SAMPLES_MAX);
            if self.hearing.samples() > 0 {
                // The rest of a packet that was no multiple of 20 ms: it would otherwise wait for the next word.
                self.hearing.silence();
                pcm = self.take_frame();
                self.hearing.clear();
            }
        }
        (pcm, false)
    }

    fn send(&mut self, pcm: &[i16; FRAME_SAMPLES], is_real: bool, exit: &mut Exit<'_>) {
        self.voice.speak(pcm, exit);
        if let Some(pace) = &mut self.pace {
            pace.sent(exit.now, is_real);
        }
    }

    /// When `run` is due.
    pub(super) fn deadline(&self, can_send: bool) -> Instant {
        match &self.pace {
            Some(pace) if can_send && self.voice.is_key_active() => pace.key(),
            Some(pace) if can_send && !self.backlog.is_empty() => pace.earliest(),
            Some(pace) if can_send => pace.comfort(),
            _ => Instant::NEVER,
        }
    }

    pub(super) fn voice(&mut self) -> &mut Voice {
        &mut self.voice
    }

    pub(super) fn concealed(&self) -> u64 {
        self.hearing.concealed()
    }
}

/// From frames to packets of the exit's codec: one per frame, audio or a key.
pub(super) struct Voice {
    encoder: Encoder,
    ticks: u32,
    events: Option<EventSender>,
    /// The next audio packet begins a talkspurt (RFC 3550 §5.1): the stream's first, and the first after a hole.
    marker: bool,
}

impl Voice {
    /// `opus`: what the exit's peer wishes; `event_rate_hz` of its telephone-event.
    pub(super) fn new(codec: Codec, opus: &OpusParameters, event_rate_hz: Option<u32>) -> Voice {
        Voice {
            encoder: Encoder::new(codec, opus),
            ticks: frame_ticks(codec),
            events: event_rate_hz.map(EventSender::new),
            marker: true,
        }
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
        let marker = core::mem::take(&mut self.marker);
        exit.audio(marker, self.ticks, |payload| self.encoder.encode(pcm, payload));
    }

    /// Lets the time of `frames` pass without a packet.
    pub(super) fn skip(&mut self, frames: u64, exit: &mut Exit<'_>) {
        if frames > 0 {
            self.marker = true;
            exit.leg.sender().skip((frames as u32).wrapping_mul(self.ticks));
        }
    }
}
