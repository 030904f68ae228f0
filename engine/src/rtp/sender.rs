//! What we send on one stream: one SSRC, sequence +1 per packet, timestamps that follow the sample clock.

use super::header;
use crate::random::Random;
use crate::time::{Instant, RtpTimestamp};

/// The sending half of a stream. Survives everything that happens on the other leg: SSRC, sequence and timestamps are
/// continuous for the whole call (one SSRC toward WhatsApp).
#[derive(Clone, Debug)]
pub struct RtpSender {
    ssrc: u32,
    sequence: u16,
    /// Of the next audio packet.
    timestamp: RtpTimestamp,
    clock_rate_hz: u32,
    packets: u32,
    octets: u32,
    last: Option<(Instant, RtpTimestamp)>,
}

impl RtpSender {
    /// Random start of sequence and timestamp (RFC 3550 §5.1); the first sequence number is below 32,768 so that the first
    /// rollover is never within a handshake's reordering.
    pub fn new(ssrc: u32, clock_rate_hz: u32, random: &mut Random) -> RtpSender {
        let sequence = (random.next_u32() & 0x7fff) as u16;
        let timestamp = RtpTimestamp(random.next_u32());
        RtpSender { ssrc, sequence, timestamp, clock_rate_hz, packets: 0, octets: 0, last: None }
    }

    /// The stream's SSRC.
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Timestamp that the next audio packet will carry.
    pub fn timestamp(&self) -> RtpTimestamp {
        self.timestamp
    }

    /// Lets `ticks` of the clock pass without a packet: the stream was held or silent.
    pub fn skip(&mut self, ticks: u32) {
        self.timestamp = self.timestamp.plus(ticks);
    }

    /// Writes the header of an audio packet whose payload of `payload_len` bytes stands at `out[12..]` and covers `ticks`.
    /// Returns the packet's length.
    pub fn audio(
        &mut self,
        now: Instant,
        payload_type: u8,
        marker: bool,
        payload_len: usize,
        ticks: u32,
        out: &mut [u8],
    ) -> usize {
        let at = self.timestamp;
        self.timestamp = at.plus(ticks);
        self.write(now, payload_type, marker, payload_len, at, out)
    }

    /// Writes the header of a packet with a timestamp of its own: telephone-event packets share the audio's sequence numbers and
    /// keep the event's first timestamp (RFC 4733 §2.3). The audio clock is not moved.
    pub fn event(
        &mut self,
        now: Instant,
        payload_type: u8,
        marker: bool,
        payload_len: usize,
        at: RtpTimestamp,
        out: &mut [u8],
    ) -> usize {
        self.write(now, payload_type, marker, payload_len, at, out)
    }

    fn write(
        &mut self,
        now: Instant,
        payload_type: u8,
        marker: bool,
        payload_len: usize,
        at: RtpTimestamp,
        out: &mut [u8],
    ) -> usize {
        header::write(marker, payload_type, self.sequence, at, self.ssrc, out);
        self.sequence = self.sequence.wrapping_add(1);
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(payload_len as u32);
        self.last = Some((now, at));
        header::HEADER_BYTES + payload_len
    }

    /// Packets and payload octets sent, and the timestamp that corresponds to `now` (RFC 3550 §6.4.1); `None` before the first packet.
    pub fn report(&self, now: Instant) -> Option<(u32, u32, RtpTimestamp)> {
        let (at, timestamp) = self.last?;
        let ticks = now.since(at).as_nanos() * u128::from(self.clock_rate_hz) / 1_000_000_000;
        Some((self.packets, self.octets, timestamp.plus(ticks as u32)))
    }
}
