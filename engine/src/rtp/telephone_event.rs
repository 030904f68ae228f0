//! Digits as RTP events (RFC 4733).

use crate::time::{Instant, RtpTimestamp};

/// A key: 0-9, *, #, A-D.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digit(u8);

impl Digit {
    /// From its character, any case.
    pub fn from_char(character: char) -> Option<Digit> {
        let event = match character.to_ascii_uppercase() {
            c @ '0'..='9' => c as u8 - b'0',
            '*' => 10,
            '#' => 11,
            c @ 'A'..='D' => c as u8 - b'A' + 12,
            _ => return None,
        };
        Some(Digit(event))
    }

    /// From its event code (RFC 4733 §3.2); 0 to 15.
    pub fn from_event(event: u8) -> Option<Digit> {
        (event < 16).then_some(Digit(event))
    }

    /// Its event code.
    pub fn event(self) -> u8 {
        self.0
    }

    /// Its character.
    pub fn as_char(self) -> char {
        char::from(b"0123456789*#ABCD"[usize::from(self.0)])
    }
}

/// A key that was pressed, reported once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressed {
    /// Which.
    pub digit: Digit,
    /// How long it has been down when it was reported, ms of the event's own clock.
    pub duration_ms: u32,
}

/// Recognises keys in event packets: each key once, whatever is lost, repeated or reordered.
#[derive(Clone, Debug)]
pub struct EventReceiver {}

impl EventReceiver {
    /// `clock_rate_hz` of the negotiated telephone-event.
    pub fn new(_clock_rate_hz: u32) -> EventReceiver {
        todo!()
    }

    /// Takes the payload of one event packet. Answers the key when it ends (E bit, or a newer event replaces it).
    pub fn handle(&mut self, _now: Instant, _timestamp: RtpTimestamp, _payload: &[u8]) -> Option<Pressed> {
        todo!()
    }

    /// A key whose end packets were all lost ends when nothing of it came for 200 ms.
    pub fn handle_timeout(&mut self, _now: Instant) -> Option<Pressed> {
        todo!()
    }
}

/// One packet of an event to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventPacket {
    /// First packet of the event.
    pub marker: bool,
    /// The event's own timestamp, on the audio stream's clock.
    pub timestamp: RtpTimestamp,
    /// The payload.
    pub payload: [u8; 4],
}

/// Plays queued keys as event packets: one every 20 ms, end packet three times (RFC 4733 §2.5.1.4), 60 ms pause between keys.
/// While a key plays, the audio of the stream is replaced by it.
#[derive(Clone, Debug)]
pub struct EventSender {}

impl EventSender {
    /// `clock_rate_hz` of the negotiated telephone-event.
    pub fn new(_clock_rate_hz: u32) -> EventSender {
        todo!()
    }

    /// Queues a key; at most `DIGITS_MAX` wait. Answers whether there was room.
    pub fn press(&mut self, _digit: Digit, _duration_ms: u32) -> bool {
        todo!()
    }

    /// Whether a key plays or waits.
    pub fn is_active(&self) -> bool {
        todo!()
    }

    /// Call once per 20 ms packet time. `timestamp` is that of the audio packet that would be sent now. Answers the event packet
    /// that replaces it, if a key plays.
    pub fn next(&mut self, _timestamp: RtpTimestamp) -> Option<EventPacket> {
        todo!()
    }
}
