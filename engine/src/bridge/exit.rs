//! The far end of a flow: the leg it speaks into, and the outbox its packets wait in.
//!
//! A flow decides what is sent; this decides how, the same for all of them: header by the leg's one sender, protection by the
//! leg, room in the outbox. A packet that finds no room still moves the timestamp, so that the sample clock holds.

use super::outbox::Outbox;
use super::{LegName, Port};
use crate::leg::{Component, Leg};
use crate::limits::{DATAGRAM_BYTES_MAX, PTIME_MS};
use crate::media::encode::ENCODED_BYTES_MAX;
use crate::rtp::header::{HEADER_BYTES, RtpPacket};
use crate::rtp::telephone_event::EventPacket;
use crate::sdp::Codec;
use crate::time::Instant;

/// What protection adds at most: the tag of AES-GCM (RFC 7714 §13.2).
const TAG_BYTES_MAX: usize = 16;

/// Room for a frame that we encode ourselves: what the encoder asks for, header and tag.
const FRAME_BYTES_MAX: usize = HEADER_BYTES + ENCODED_BYTES_MAX + TAG_BYTES_MAX;

/// Longest payload that is relayed: what a datagram holds beside header and tag.
pub(super) const RELAY_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - HEADER_BYTES - TAG_BYTES_MAX;

/// Ticks of 20 ms on the RTP clock of a codec.
pub(super) const fn frame_ticks(codec: Codec) -> u32 {
    codec.clock_rate_hz() / 1_000 * PTIME_MS as u32
}

/// The far end of a flow, for the length of one call into it.
pub(super) struct Exit<'b> {
    pub(super) now: Instant,
    pub(super) leg: &'b mut Leg,
    pub(super) name: LegName,
    pub(super) outbox: &'b mut Outbox,
}

impl Exit<'_> {
    pub(super) fn can_send(&self) -> bool {
        self.leg.can_send()
    }

    /// Sends one audio packet of 20 ms; `write` puts the payload into its argument and answers its length.
    pub(super) fn audio(&mut self, marker: bool, ticks: u32, write: impl FnOnce(&mut [u8]) -> usize) {
        let (Some(format), true) = (self.leg.format().copied(), self.leg.can_send()) else { return };
        let Some(slot) = self.outbox.slot(FRAME_BYTES_MAX) else { return self.leg.sender().skip(ticks) };
        let payload_len = write(&mut slot[HEADER_BYTES..]);
        let sender = self.leg.sender();
        let len = sender.audio(self.now, format.send_payload_type, marker, payload_len, ticks, slot);
        self.send(len);
    }

    /// Sends one packet of a key; it takes the place of 20 ms of audio.
    pub(super) fn event(&mut self, event: &EventPacket, ticks: u32) {
        if let (Some(format), true) = (self.leg.format().and_then(|format| format.telephone_event), self.leg.can_send())
            && let Some(slot) = self.outbox.slot(FRAME_BYTES_MAX)
        {
            let len = event.payload.len();
            slot[HEADER_BYTES..HEADER_BYTES + len].copy_from_slice(&event.payload);
            let sender = self.leg.sender();
            let len = sender.event(self.now, format.send_payload_type, event.marker, len, event.timestamp, slot);
            self.send(len);
        }
        self.leg.sender().skip(ticks);
    }

    /// Sends one packet as it is, its payload bit for bit.
    pub(super) fn forward(&mut self, packet: &RtpPacket<'_>) {
        let bytes = HEADER_BYTES + packet.payload.len();
        let Some(slot) = self.outbox.slot(bytes + TAG_BYTES_MAX) else { return };
        slot[HEADER_BYTES..bytes].copy_from_slice(packet.payload);
        let len = self.leg.sender().forward(self.now, packet, slot);
        self.send(len);
    }

    fn send(&mut self, len: usize) {
        let Some(slot) = self.outbox.slot(0) else { return };
        if let Some((to, len)) = self.leg.send(self.now, slot, len) {
            self.outbox.commit(Port { leg: self.name, component: Component::Rtp }, to, len);
        }
    }
}
