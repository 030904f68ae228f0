//! Keys that a leg's peer presses, recognised once each (RFC 4733).

use crate::rtp::header::RtpPacket;
use crate::rtp::telephone_event::{EventReceiver, Pressed};
use crate::time::Instant;

/// A key whose end was lost counts as released when nothing of it came for so long.
const RELEASED_AFTER_MS: u64 = 200;

/// The keys of one stream.
pub(super) struct Keys {
    receiver: EventReceiver,
    /// When a key that is down counts as released.
    deadline: Instant,
}

impl Keys {
    /// `clock_rate_hz` of the source's telephone-event.
    pub(super) fn new(clock_rate_hz: u32) -> Keys {
        Keys { receiver: EventReceiver::new(clock_rate_hz), deadline: Instant::NEVER }
    }

    /// Takes one event packet; answers the key when it ends.
    pub(super) fn handle(&mut self, now: Instant, packet: &RtpPacket<'_>) -> Option<Pressed> {
        self.deadline = now.plus_millis(RELEASED_AFTER_MS);
        self.receiver.handle(now, packet.timestamp, packet.payload)
    }

    /// Answers a key whose end was lost, once it is due.
    pub(super) fn run(&mut self, now: Instant) -> Option<Pressed> {
        if now < self.deadline {
            return None;
        }
        self.deadline = Instant::NEVER;
        self.receiver.handle_timeout(now)
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }
}
