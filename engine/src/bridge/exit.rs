//! The far end of a flow: the leg it speaks into, and the outbox its packets wait in.
//!
//! A flow decides what is sent; this decides how, the same for all of them: header by the leg's one sender, protection by the
//! leg, room in the outbox. A packet that finds no room still moves the timestamp, so that the sample clock holds.
//!
//! Why a place beside the outbox: most datagrams cause one packet, and that one need not be written twice: 7 to 19 % of a
//! relay's instructions.

use super::outbox::Outbox;
use super::{LegName, Port};
use crate::leg::{Component, Leg};
use crate::limits::{DATAGRAM_BYTES_MAX, PTIME_MS};
use crate::media::encode::ENCODED_BYTES_MAX;
use crate::rtp::header::{HEADER_BYTES, RtpPacket};
use crate::rtp::sender::RtpSender;
use crate::rtp::telephone_event::EventPacket;
use crate::sdp::Codec;
use crate::time::Instant;
use std::net::SocketAddr;

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

/// A packet that a datagram has caused and that is to be sent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// From which socket.
    pub port: Port,
    /// Where.
    pub to: SocketAddr,
    /// How many bytes it has.
    pub len: usize,
    /// The datagram has caused nothing else: `poll_output` need not be asked before the instant of its last `Timeout`.
    pub is_all: bool,
}

/// The far end of a flow, for the length of one call into it.
pub(super) struct Exit<'b> {
    pub(super) now: Instant,
    pub(super) leg: &'b mut Leg,
    pub(super) name: LegName,
    pub(super) outbox: &'b mut Outbox,
    /// Where the first packet is written if it finds room there and nothing waits in the outbox: it is sent from there.
    pub(super) place: &'b mut [u8],
    /// Where to, and how many bytes of `place`.
    pub(super) placed: Option<(SocketAddr, usize)>,
}

impl<'b> Exit<'b> {
    /// One whose packets all go through the outbox.
    pub(super) fn new(now: Instant, leg: &'b mut Leg, name: LegName, outbox: &'b mut Outbox) -> Exit<'b> {
        Exit { now, leg, name, outbox, place: &mut [], placed: None }
    }

    pub(super) fn can_send(&self) -> bool {
        self.leg.can_send()
    }

    /// Sends one audio packet of 20 ms; `write` puts the payload into its argument and answers its length.
    pub(super) fn audio(&mut self, marker: bool, ticks: u32, write: impl FnOnce(&mut [u8]) -> usize) {
        let (Some(format), true) = (self.leg.format().copied(), self.leg.can_send()) else { return };
        let now = self.now;
        let found_room = self.packet(FRAME_BYTES_MAX, |sender, slot| {
            let payload_len = write(&mut slot[HEADER_BYTES..]);
            sender.audio(now, format.send_payload_type, marker, payload_len, ticks, slot)
        });
        if !found_room {
            self.leg.sender().skip(ticks);
        }
    }

    /// Sends one packet of a key; it takes the place of 20 ms of audio.
    pub(super) fn event(&mut self, event: &EventPacket, ticks: u32) {
        let format = self.leg.format().and_then(|format| format.telephone_event).filter(|_| self.leg.can_send());
        if let Some(format) = format {
            let (now, len) = (self.now, event.payload.len());
            self.packet(FRAME_BYTES_MAX, |sender, slot| {
                slot[HEADER_BYTES..HEADER_BYTES + len].copy_from_slice(&event.payload);
                sender.event(now, format.send_payload_type, event.marker, len, event.timestamp, slot)
            });
        }
        self.leg.sender().skip(ticks);
    }

    /// Sends one packet as it is, its payload bit for bit.
    pub(super) fn forward(&mut self, packet: &RtpPacket<'_>) {
        let (now, bytes) = (self.now, HEADER_BYTES + packet.payload.len());
        self.packet(bytes + TAG_BYTES_MAX, |sender, slot| {
            slot[HEADER_BYTES..bytes].copy_from_slice(packet.payload);
            sender.forward(now, packet, slot)
        });
    }

    /// Protects and sends the packet that `write` puts into its argument, whose length it answers. Answers whether there was room for
    /// `bytes_max`.
    fn packet(&mut self, bytes_max: usize, write: impl FnOnce(&mut RtpSender, &mut [u8]) -> usize) -> bool {
        let Exit { now, leg, name, outbox, place, placed } = self;
        let is_placed = placed.is_none() && place.len() >= bytes_max && outbox.is_empty();
        let slot = if is_placed { Some(&mut **place) } else { outbox.slot(bytes_max) };
        let Some(slot) = slot else { return false };
        let len = write(leg.sender(), slot);
        match leg.send(*now, slot, len) {
            Some(sent) if is_placed => *placed = Some(sent),
            Some((to, len)) => outbox.commit(Port { leg: *name, component: Component::Rtp }, to, len),
            None => {}
        }
        true
    }
}
