//! What we send on one stream: one SSRC, sequence +1 per packet, timestamps that follow the sample clock.
//!
//! Why events do not touch the clock: every packet of a key carries the key's first timestamp (RFC 4733 §2.3), so the pair of NTP and
//! RTP time in a sender report must come from the audio alone, or each key would bend the far side's idea of our clock.

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
    /// When a packet last went out on the audio clock, and its timestamp.
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
        self.last = Some((now, at));
        self.write(payload_type, marker, payload_len, at, out)
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
        if self.last.is_none() {
            self.last = Some((now, at));
        }
        self.write(payload_type, marker, payload_len, at, out)
    }

    /// Sequence number that the next packet will carry.
    pub fn sequence(&self) -> u16 {
        self.sequence
    }

    /// Writes the header of a relayed packet, whose place in the stream its sender chose: gaps stay gaps and late packets
    /// stay late. The stream goes on after the highest sequence number.
    pub fn forward(&mut self, now: Instant, packet: &header::RtpPacket<'_>, out: &mut [u8]) -> usize {
        header::write(packet.marker, packet.payload_type, packet.sequence, packet.timestamp, self.ssrc, out);
        if packet.sequence.wrapping_sub(self.sequence) < 0x8000 {
            self.sequence = packet.sequence.wrapping_add(1);
            // The packets of a key repeat the time of its beginning; only what moves the clock anchors it.
            if self.last.is_none() || packet.timestamp.distance_from(self.timestamp) > 0 {
                self.timestamp = packet.timestamp;
                self.last = Some((now, packet.timestamp));
            }
        }
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(packet.payload.len() as u32);
        header::HEADER_BYTES + packet.payload.len()
    }

    /// Changes the clock (a re-INVITE chose another codec); sequence and timestamp go on.
    pub fn set_clock_rate_hz(&mut self, clock_rate_hz: u32) {
        self.clock_rate_hz = clock_rate_hz;
    }

    fn write(&mut self, payload_type: u8, marker: bool, payload_len: usize, at: RtpTimestamp, out: &mut [u8]) -> usize {
        header::write(marker, payload_type, self.sequence, at, self.ssrc, out);
        self.sequence = self.sequence.wrapping_add(1);
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(payload_len as u32);
        header::HEADER_BYTES + payload_len
    }

    /// Packets and payload octets sent, and the timestamp that corresponds to `now` (RFC 3550 §6.4.1); `None` before the first packet.
    pub fn report(&self, now: Instant) -> Option<(u32, u32, RtpTimestamp)> {
        let (at, timestamp) = self.last?;
        let ticks = now.since(at).as_nanos() * u128::from(self.clock_rate_hz) / 1_000_000_000;
        Some((self.packets, self.octets, timestamp.plus(ticks as u32)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_step_sequence_by_one_and_follow_the_sample_clock() {
        let mut sender = RtpSender::new(7, 8_000, &mut Random::from_test_seed(1));
        let start = sender.timestamp();
        let mut out = [0; 200];
        let mut sequences = Vec::new();
        for index in 0..5u32 {
            let len = sender.audio(Instant::ZERO, 0, index == 0, 160, 160, &mut out);
            let packet = header::parse(&out[..len]).unwrap();
            assert_eq!((packet.ssrc, packet.payload_type, packet.payload.len()), (7, 0, 160));
            assert_eq!(packet.marker, index == 0);
            assert_eq!(packet.timestamp, start.plus(index * 160));
            sequences.push(packet.sequence);
        }
        assert!(sequences.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)));
    }

    #[test]
    fn the_first_sequence_number_is_in_the_lower_half() {
        for seed in 0..200 {
            let mut sender = RtpSender::new(7, 8_000, &mut Random::from_test_seed(seed));
            let mut out = [0; 12];
            sender.audio(Instant::ZERO, 0, false, 0, 160, &mut out);
            assert!(header::parse(&out).unwrap().sequence < 32_768);
        }
    }

    #[test]
    fn sequence_numbers_wrap() {
        let mut sender = RtpSender::new(7, 8_000, &mut Random::from_test_seed(1));
        let mut out = [0; 12];
        let mut last = None;
        for _ in 0..70_000 {
            sender.audio(Instant::ZERO, 0, false, 0, 160, &mut out);
            let sequence = header::parse(&out).unwrap().sequence;
            assert!(last.is_none_or(|last: u16| sequence == last.wrapping_add(1)));
            last = Some(sequence);
        }
    }

    #[test]
    fn silence_moves_the_timestamp_and_not_the_sequence() {
        let mut sender = RtpSender::new(7, 48_000, &mut Random::from_test_seed(1));
        let mut out = [0; 12];
        sender.audio(Instant::ZERO, 111, true, 0, 960, &mut out);
        let before = header::parse(&out).unwrap().sequence;
        let at = sender.timestamp();
        sender.skip(4_800);
        sender.audio(Instant::from_millis(120), 111, true, 0, 960, &mut out);
        let packet = header::parse(&out).unwrap();
        assert_eq!(packet.sequence, before + 1);
        assert_eq!(packet.timestamp, at.plus(4_800));
    }

    #[test]
    fn a_report_counts_packets_and_octets_and_runs_on_with_the_clock() {
        let mut sender = RtpSender::new(7, 8_000, &mut Random::from_test_seed(1));
        let start = sender.timestamp();
        let mut out = [0; 200];
        assert_eq!(sender.report(Instant::ZERO), None);
        sender.audio(Instant::from_millis(1_000), 0, true, 160, 160, &mut out);
        sender.audio(Instant::from_millis(1_020), 0, false, 160, 160, &mut out);
        assert_eq!(sender.report(Instant::from_millis(1_030)), Some((2, 320, start.plus(160 + 80))));
    }

    #[test]
    fn a_key_does_not_bend_the_reported_clock() {
        let mut sender = RtpSender::new(7, 48_000, &mut Random::from_test_seed(1));
        let mut out = [0; 100];
        sender.audio(Instant::ZERO, 111, true, 50, 960, &mut out);
        let key = sender.timestamp();
        for index in 0..10 {
            let now = Instant::from_millis(20 + index * 20);
            let len = sender.event(now, 126, index == 0, 4, key, &mut out);
            assert_eq!(header::parse(&out[..len]).unwrap().timestamp, key);
            sender.skip(960);
        }
        let now = Instant::from_millis(220);
        assert_eq!(sender.report(now), Some((11, 90, sender.timestamp())));
    }

    #[test]
    fn a_stream_that_begins_with_a_key_can_be_reported() {
        let mut sender = RtpSender::new(7, 8_000, &mut Random::from_test_seed(1));
        let start = sender.timestamp();
        sender.event(Instant::ZERO, 101, true, 4, start, &mut [0; 16]);
        assert_eq!(sender.report(Instant::from_millis(20)), Some((1, 4, start.plus(160))));
    }
}
