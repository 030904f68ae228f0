//! The flow between legs of one codec: payloads pass bit for bit, never decoded.
//!
//! SSRC, sequence and timestamp are ours, shifted by a constant from the source's: what was lost before us stays a gap, what
//! came late is sent late, steps of the timestamp are kept, so the far side's jitter buffer sees the network as it was. When
//! the source begins anew (new SSRC, a transfer) the constants are drawn again, and the stream goes on without a seam.
//!
//! Why not closing gaps: the far side could no longer tell loss from silence, and neither FEC nor concealment would run there.

use super::exit::{Exit, RELAY_BYTES_MAX};
use super::silence::{self, Silence};
use super::source::{Place, Source};
use crate::error::DropReason;
use crate::limits::PTIME_MS;
use crate::rtp::header::{COMFORT_NOISE_PAYLOAD_TYPE, RtpPacket};
use crate::rtp::sequence::ExtendedSequence;
use crate::rtp::telephone_event::{EventSender, Pressed};
use crate::time::{Instant, RtpTimestamp};

/// How far back a packet may come and still be forwarded, once.
const WINDOW: u64 = 64;

/// The flow of one direction.
pub(super) struct Relay {
    source: Source,
    /// Our numbers less the source's; `None` until they are drawn.
    shift: Option<Shift>,
    ticks: u32,
    /// When the stream last moved, if it ever did: what the sender's timestamp says.
    moved: Option<Instant>,
    /// Whether a packet went out with that timestamp; after a key it waits for its packet.
    is_used: bool,
    /// Whether event packets pass too: both sides have them, on one clock.
    passes_events: bool,
    events: Option<EventSender>,
    next_key: Instant,
    silence: Silence,
}

/// From the source's numbers to ours.
#[derive(Clone, Copy, Debug)]
struct Shift {
    sequence: u16,
    timestamp: u32,
    /// Nothing older is forwarded: its number may be taken.
    base: ExtendedSequence,
    highest: ExtendedSequence,
    /// Bit n: `highest - n` was forwarded.
    seen: u64,
}

impl Relay {
    /// `ticks` of 20 ms on the codec's clock; `event_rates_hz` of telephone-event at the source and at the exit.
    pub(super) fn new(ticks: u32, event_rates_hz: (Option<u32>, Option<u32>)) -> Relay {
        let (from, to) = event_rates_hz;
        Relay {
            source: Source::default(),
            shift: None,
            ticks,
            moved: None,
            is_used: false,
            passes_events: from.is_some() && from == to,
            events: to.map(EventSender::new),
            next_key: Instant::NEVER,
            silence: Silence::new(),
        }
    }

    /// Forwards one packet.
    pub(super) fn handle(
        &mut self,
        packet: &RtpPacket<'_>,
        is_event: bool,
        exit: &mut Exit<'_>,
    ) -> Result<(), DropReason> {
        let place = self.source.place(packet);
        let extended = match place {
            Place::Doubtful => return Err(DropReason::JitterLate),
            Place::First(extended) | Place::Step(_, extended) => extended,
        };
        // The other side need not know comfort noise: to it this is a pause without a word.
        let is_noise = packet.payload_type == COMFORT_NOISE_PAYLOAD_TYPE && self.ticks == 160;
        if !exit.can_send() || self.is_key_active() || (is_event && !self.passes_events) || is_noise {
            // What is sent next follows what was sent last; what was left out is no loss.
            self.shift = None;
            return Ok(());
        }
        if packet.payload.len() > RELAY_BYTES_MAX {
            return Err(DropReason::JitterFull);
        }
        if matches!(place, Place::First(_)) || self.shift.is_none() {
            self.shift = Some(self.draw(packet, extended, exit));
        }
        let Some(shift) = &mut self.shift else { return Ok(()) };
        shift.mark(extended)?;
        let (Some(format), sequence) = (exit.leg.format(), packet.sequence.wrapping_add(shift.sequence)) else {
            return Ok(());
        };
        let payload_type = match format.telephone_event {
            Some(event) if is_event => event.send_payload_type,
            _ => format.send_payload_type,
        };
        let timestamp = packet.timestamp.plus(shift.timestamp);
        self.silence.heard(exit.now);
        let before = exit.leg.sender().timestamp();
        exit.forward(&RtpPacket { payload_type, sequence, timestamp, ssrc: 0, ..*packet });
        if !self.is_used || exit.leg.sender().timestamp() != before {
            (self.moved, self.is_used) = (Some(exit.now), true);
        }
        Ok(())
    }

    /// Makes `packet` the next one of our stream, as much later as the clock says.
    fn draw(&self, packet: &RtpPacket<'_>, extended: ExtendedSequence, exit: &mut Exit<'_>) -> Shift {
        let pause = self.pause_ticks(exit.now);
        let sender = exit.leg.sender();
        let RtpTimestamp(at) = sender.timestamp().plus(pause);
        Shift {
            sequence: sender.sequence().wrapping_sub(packet.sequence),
            timestamp: at.wrapping_sub(packet.timestamp.0),
            base: extended,
            highest: extended,
            seen: 0,
        }
    }

    /// Whole frames since the stream last moved, at least one if its timestamp is taken.
    fn pause_ticks(&self, now: Instant) -> u32 {
        let Some(moved) = self.moved else { return 0 };
        let frames = (now.since(moved).as_millis() as u32 + PTIME_MS as u32 / 2) / PTIME_MS as u32;
        frames.max(u32::from(self.is_used)).wrapping_mul(self.ticks)
    }

    /// Presses a key toward the exit.
    pub(super) fn press(&mut self, key: Pressed) -> bool {
        self.events.as_mut().is_some_and(|events| events.press(key.digit, key.duration_ms))
    }

    /// Whether a key that the source's peer pressed has to be pressed again for the exit's.
    pub(super) fn replays(&self) -> bool {
        !self.passes_events
    }

    fn is_key_active(&self) -> bool {
        self.events.as_ref().is_some_and(EventSender::is_active)
    }

    /// Sends what is due: packets of a key, in place of the audio.
    pub(super) fn run(&mut self, exit: &mut Exit<'_>) {
        if !exit.can_send() || !self.is_key_active() {
            self.next_key = Instant::NEVER;
            return;
        }
        if self.next_key == Instant::NEVER {
            // Not before the last packet's time has passed: a key takes the audio's place.
            let last_ms = u64::from(self.is_used) * PTIME_MS as u64;
            self.next_key = self.moved.map_or(exit.now, |moved| exit.now.max(moved.plus_millis(last_ms)));
            self.move_to(self.next_key, exit);
        }
        while self.next_key <= exit.now && self.is_key_active() {
            let at = exit.leg.sender().timestamp();
            match self.events.as_mut().and_then(|events| events.next(at)) {
                Some(event) => exit.event(&event, self.ticks),
                None => exit.leg.sender().skip(self.ticks),
            }
            self.next_key = self.next_key.plus_millis(PTIME_MS as u64);
            (self.moved, self.is_used) = (Some(self.next_key), false);
        }
    }

    /// Sends silence where the source is silent. For an exit whose peer must always hear something.
    pub(super) fn comfort(&mut self, exit: &mut Exit<'_>) {
        let Some(codec) = exit.leg.format().map(|format| format.codec) else { return };
        while exit.can_send() && !self.is_key_active() && self.silence.due() <= exit.now {
            self.move_to(exit.now, exit);
            exit.audio(false, self.ticks, |out| silence::write(codec, out));
            (self.moved, self.is_used) = (Some(exit.now.plus_millis(PTIME_MS as u64)), false);
            self.silence.sent(exit.now);
        }
    }

    /// When `comfort` is due.
    pub(super) fn comfort_deadline(&self, can_send: bool) -> Instant {
        if can_send && !self.is_key_active() { self.silence.due() } else { Instant::NEVER }
    }

    /// Moves our stream on to `at`: its next packet, of whatever kind, takes the sender's timestamp.
    pub(super) fn move_to(&mut self, at: Instant, exit: &mut Exit<'_>) {
        let pause = self.pause_ticks(at);
        exit.leg.sender().skip(pause);
        (self.moved, self.is_used) = (self.moved.map(|moved| moved.max(at)), false);
        self.shift = None;
    }

    /// When `run` is due.
    pub(super) fn deadline(&self, can_send: bool) -> Instant {
        match (can_send && self.is_key_active(), self.next_key) {
            (false, _) => Instant::NEVER,
            (true, at) => at,
        }
    }
}

impl Shift {
    /// Marks a packet as forwarded; each is, once. On a plain leg nothing below us sees repetitions, and one that is encrypted
    /// twice under one number gives its key stream away (RFC 3711 §9.1).
    fn mark(&mut self, extended: ExtendedSequence) -> Result<(), DropReason> {
        if extended > self.highest {
            let step = extended.0 - self.highest.0;
            self.seen = if step < WINDOW { self.seen << step } else { 0 };
            self.highest = extended;
        }
        let back = self.highest.0 - extended.0;
        if extended < self.base || back >= WINDOW {
            return Err(DropReason::JitterLate);
        }
        if self.seen >> back & 1 == 1 {
            return Err(DropReason::JitterDuplicate);
        }
        self.seen |= 1 << back;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_is_forwarded_once_and_none_from_before_the_base() {
        let base = ExtendedSequence(100_000);
        let mut shift = Shift { sequence: 0, timestamp: 0, base, highest: base, seen: 0 };
        let mut mark = |offset: i64| shift.mark(ExtendedSequence((100_000 + offset) as u64));
        assert_eq!(mark(0), Ok(()));
        assert_eq!(mark(0), Err(DropReason::JitterDuplicate));
        assert_eq!(mark(-1), Err(DropReason::JitterLate));
        assert_eq!(mark(3), Ok(()));
        assert_eq!(mark(1), Ok(()));
        assert_eq!(mark(1), Err(DropReason::JitterDuplicate));
        assert_eq!(mark(500), Ok(()));
        assert_eq!(mark(500 - 63), Ok(()));
        assert_eq!(mark(500 - 64), Err(DropReason::JitterLate));
        assert_eq!(mark(500 - 63), Err(DropReason::JitterDuplicate));
    }
}
