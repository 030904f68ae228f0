//! RTCP: reception statistics, compound packets read and written (RFC 3550 §6, A.3, A.8).
//!
//! ```text
//! sent:   SR (after RTP was sent) or RR, one block about the peer's stream | SDES CNAME | BYE at the end
//! read:   any packet types in any order (RFC 5506), what is unknown is skipped; the whole datagram or nothing of it counts
//! ```
//!
//! On audio that is relayed bit for bit, a gap before us is a gap behind us. What the peer behind us reports is therefore the
//! whole path, and [`Reception::set_downstream`] makes the sender before us hear of it, so that its FEC reacts.
//!
//! Why no bandwidth share and no timer reconsideration (RFC 3550 §6.3): a leg has two members for its whole life, so the interval is
//! always the minimum of 5 s, spread at random so that thousands of calls that began together do not report together.

use super::sender::RtpSender;
use crate::error::DropReason;
use crate::random::Random;
use crate::time::{Duration, Instant, RtpTimestamp, WallAnchor};

/// Longest CNAME written; a longer one is cut. Ours are random tokens of 16 to 24 characters (RFC 7022 §4.2).
pub const CNAME_BYTES_MAX: usize = 64;

/// Longest packet that `write_report` and `write_bye` write.
pub const REPORT_BYTES_MAX: usize = 28 + REPORT_BLOCK_BYTES + (4 + 4 + 2 + CNAME_BYTES_MAX + 4) + 8;

/// Mean time between reports (RFC 3550 §6.2).
const INTERVAL_MS: u64 = 5_000;

/// Sequence jump forward that is still loss, and back that is still reordering (RFC 3550 A.1).
const DROPOUT_MAX: u16 = 3_000;
const MISORDER_MAX: u16 = 100;

/// A step of the transit time that is a new clock and not jitter: a peer that restarts its timestamps under the same SSRC.
const TRANSIT_STEP_S_MAX: u32 = 5;

/// Time for which the report of the peer behind us holds: three intervals of the slowest peers (RFC 3550 §6.3.5 has five).
const DOWNSTREAM_MS_MAX: u64 = 3 * INTERVAL_MS * 3 / 2;

/// A round trip longer than this is a report about something else.
const ROUND_TRIP_MS_MAX: u64 = 30_000;

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const GOODBYE: u8 = 203;
const REPORT_BLOCK_BYTES: usize = 24;

/// One report block about a stream of ours, or written about the peer's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportBlock {
    /// Whose packets are reported.
    pub ssrc: u32,
    /// Loss since the last report, 256ths.
    pub fraction_lost: u8,
    /// Packets lost since the start, 24 bits signed.
    pub cumulative_lost: i32,
    /// Extended highest sequence number.
    pub highest_sequence: u32,
    /// Interarrival jitter, ticks of the stream's clock.
    pub jitter: u32,
    /// Middle 32 bits of the last sender report's NTP time; 0 if none.
    pub last_sr: u32,
    /// Since that report, in 65,536ths of a second.
    pub delay_since_last_sr: u32,
}

impl ReportBlock {
    fn read(bytes: &[u8; REPORT_BLOCK_BYTES]) -> ReportBlock {
        ReportBlock {
            ssrc: word(bytes, 0),
            fraction_lost: bytes[4],
            // The shifts carry the sign of 24 bits.
            cumulative_lost: (word(bytes, 4) << 8) as i32 >> 8,
            highest_sequence: word(bytes, 8),
            jitter: word(bytes, 12),
            last_sr: word(bytes, 16),
            delay_since_last_sr: word(bytes, 20),
        }
    }

    fn write(&self, out: &mut [u8; REPORT_BLOCK_BYTES]) {
        let lost = self.cumulative_lost.clamp(-(1 << 23), (1 << 23) - 1) as u32 & 0x00ff_ffff;
        let words = [
            self.ssrc,
            u32::from(self.fraction_lost) << 24 | lost,
            self.highest_sequence,
            self.jitter,
            self.last_sr,
            self.delay_since_last_sr,
        ];
        for (place, word) in out.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
    }
}

/// What one leg knows of the peer's stream.
#[derive(Clone, Debug)]
pub struct Reception {
    clock_rate_hz: u32,
    source: Option<Source>,
    packets: u64,
    /// Lost of streams that ended.
    lost_earlier: u64,
    /// Loss that the peer behind us reported, 256ths, and when.
    downstream: Option<(u8, Instant)>,
}

/// The state of one SSRC (RFC 3550 A.1); the names are the RFC's.
#[derive(Clone, Debug)]
struct Source {
    ssrc: u32,
    base_sequence: u16,
    max_sequence: u16,
    /// Shifted by 16.
    cycles: u32,
    /// What would follow a packet far out of order: the second of two such in a row is a restart.
    bad_sequence: Option<u16>,
    received: u32,
    expected_prior: u32,
    received_prior: u32,
    /// Lost behind us, beyond what was lost before us, as far as it was reported.
    lost_behind: i64,
    last_timestamp: RtpTimestamp,
    transit: u32,
    /// In 16ths of a tick, as A.8 keeps it.
    jitter_16ths: u32,
}

impl Reception {
    /// For a stream of `clock_rate_hz`.
    pub fn new(clock_rate_hz: u32) -> Reception {
        Reception { clock_rate_hz, source: None, packets: 0, lost_earlier: 0, downstream: None }
    }

    /// Counts one received, authenticated RTP packet. A new SSRC begins anew (RFC 3550 §8.2).
    pub fn received(&mut self, now: Instant, ssrc: u32, sequence: u16, timestamp: RtpTimestamp) {
        self.packets += 1;
        let arrival = (u128::from(now.as_nanos()) * u128::from(self.clock_rate_hz) / 1_000_000_000) as u32;
        let transit = arrival.wrapping_sub(timestamp.0);
        let step_max = TRANSIT_STEP_S_MAX * self.clock_rate_hz;
        match &mut self.source {
            Some(source) if source.ssrc == ssrc => {
                if source.count(sequence) {
                    source.measure(timestamp, transit, step_max);
                    return;
                }
                if source.bad_sequence != Some(sequence) {
                    source.bad_sequence = Some(sequence.wrapping_add(1));
                    return;
                }
            }
            _ => {}
        }
        self.lost_earlier += self.source.as_ref().map_or(0, Source::lost_so_far);
        self.source = Some(Source::new(ssrc, sequence, timestamp, transit));
    }

    /// Packets received, of all SSRCs.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Packets lost so far (never negative).
    pub fn lost(&self) -> u64 {
        self.lost_earlier + self.source.as_ref().map_or(0, Source::lost_so_far)
    }

    /// The SSRC in force.
    pub fn ssrc(&self) -> Option<u32> {
        self.source.as_ref().map(|source| source.ssrc)
    }

    /// What the peer that this stream is relayed to reported at `at`: reports carry the worse of it and our own loss. Where
    /// gaps pass a relay, its figure holds both.
    pub fn set_downstream(&mut self, fraction_lost: u8, at: Instant) {
        self.downstream = Some((fraction_lost, at));
    }

    /// Interarrival jitter, ms.
    pub fn jitter_ms(&self) -> u32 {
        let ticks = self.source.as_ref().map_or(0, |source| u64::from(source.jitter_16ths) >> 4);
        (ticks * 1_000 / u64::from(self.clock_rate_hz.max(1))) as u32
    }

    /// The block about the peer's stream; the loss since the last block starts anew (RFC 3550 A.3).
    fn take_block(&mut self, now: Instant, last_sr: Option<LastSr>) -> Option<ReportBlock> {
        let source = self.source.as_mut()?;
        let expected = source.expected();
        let expected_interval = i64::from(expected.wrapping_sub(source.expected_prior) as i32);
        let received_interval = i64::from(source.received.wrapping_sub(source.received_prior));
        source.expected_prior = expected;
        source.received_prior = source.received;
        let lost_interval = expected_interval - received_interval;
        let own = if expected_interval <= 0 || lost_interval <= 0 {
            0
        } else {
            (lost_interval * 256 / expected_interval).min(255) as u8
        };
        let behind = self.downstream.filter(|(_, at)| now.since(*at).as_millis() <= u128::from(DOWNSTREAM_MS_MAX));
        let fraction_lost = behind.map_or(own, |(fraction, _)| fraction.max(own));
        // Some senders reckon the fraction themselves, from two cumulative figures: those must say the same.
        source.lost_behind += i64::from(fraction_lost - own) * expected_interval.max(0) / 256;
        let last_sr = last_sr.filter(|last| last.ssrc == source.ssrc);
        Some(ReportBlock {
            ssrc: source.ssrc,
            fraction_lost,
            cumulative_lost: (source.lost() + source.lost_behind).clamp(-(1 << 23), (1 << 23) - 1) as i32,
            highest_sequence: source.highest(),
            jitter: source.jitter_16ths >> 4,
            last_sr: last_sr.map_or(0, |last| last.ntp_middle),
            delay_since_last_sr: last_sr.map_or(0, |last| in_65536ths(now.since(last.at))),
        })
    }
}

impl Source {
    fn new(ssrc: u32, sequence: u16, timestamp: RtpTimestamp, transit: u32) -> Source {
        Source {
            ssrc,
            base_sequence: sequence,
            max_sequence: sequence,
            cycles: 0,
            bad_sequence: None,
            received: 1,
            expected_prior: 0,
            received_prior: 0,
            lost_behind: 0,
            last_timestamp: timestamp,
            transit,
            jitter_16ths: 0,
        }
    }

    /// Counts a packet that belongs to the run; answers false for one that lies too far off it (RFC 3550 A.1, `update_seq`).
    fn count(&mut self, sequence: u16) -> bool {
        let ahead = sequence.wrapping_sub(self.max_sequence);
        if ahead < DROPOUT_MAX {
            if sequence < self.max_sequence {
                self.cycles = self.cycles.wrapping_add(1 << 16);
            }
            self.max_sequence = sequence;
        } else if ahead <= u16::MAX - MISORDER_MAX {
            return false;
        }
        self.bad_sequence = None;
        self.received = self.received.wrapping_add(1);
        true
    }

    /// Interarrival jitter (RFC 3550 A.8). Packets of one timestamp were not sent at their timestamps' distance: the packets of a key,
    /// and repetitions, say nothing.
    fn measure(&mut self, timestamp: RtpTimestamp, transit: u32, step_max: u32) {
        if timestamp == self.last_timestamp {
            return;
        }
        self.last_timestamp = timestamp;
        let step = (transit.wrapping_sub(self.transit) as i32).unsigned_abs();
        self.transit = transit;
        if step < step_max {
            self.jitter_16ths = self.jitter_16ths + step - ((self.jitter_16ths + 8) >> 4);
        }
    }

    fn highest(&self) -> u32 {
        self.cycles.wrapping_add(u32::from(self.max_sequence))
    }

    fn expected(&self) -> u32 {
        self.highest().wrapping_sub(u32::from(self.base_sequence)).wrapping_add(1)
    }

    /// Negative after repetitions.
    fn lost(&self) -> i64 {
        i64::from(self.expected().wrapping_sub(self.received) as i32)
    }

    fn lost_so_far(&self) -> u64 {
        self.lost().max(0) as u64
    }
}

/// One leg's RTCP: when to report, what the peer reported.
#[derive(Clone, Debug)]
pub struct Rtcp {
    cname: String,
    anchor: WallAnchor,
    random: Random,
    deadline: Instant,
    last_sr: Option<LastSr>,
    /// Packets that we had sent at the last two reports: a sender is who sent since the last but one (RFC 3550 §6.4).
    packets_reported: [u32; 2],
    round_trip_ms: Option<u32>,
    /// The peer's last block about our stream, and when it came.
    remote: Option<(ReportBlock, Instant)>,
    /// Whose BYE counts; anybody's but ours where it is not known.
    peer_ssrc: Option<u32>,
}

/// A sender report of the peer.
#[derive(Clone, Copy, Debug)]
struct LastSr {
    ssrc: u32,
    ntp_middle: u32,
    at: Instant,
}

/// What an incoming compound packet said, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RtcpReceived {
    /// The block about our stream, if any.
    pub about_us: Option<ReportBlock>,
    /// The peer said BYE.
    pub bye: bool,
}

impl Rtcp {
    /// Reports about every 5 s, spread by a random factor of 0.5 to 1.5 (RFC 3550 §6.2).
    pub fn new(now: Instant, mut cname: String, anchor: WallAnchor, random: Random) -> Rtcp {
        let cut = (0..=CNAME_BYTES_MAX.min(cname.len())).rev().find(|&at| cname.is_char_boundary(at)).unwrap_or(0);
        cname.truncate(cut);
        let mut rtcp = Rtcp {
            cname,
            anchor,
            random,
            deadline: now,
            last_sr: None,
            packets_reported: [0; 2],
            round_trip_ms: None,
            remote: None,
            peer_ssrc: None,
        };
        rtcp.schedule(now);
        rtcp
    }

    /// Reads one compound packet (already decrypted) about our stream `local_ssrc`.
    pub fn handle(&mut self, now: Instant, local_ssrc: u32, packet: &[u8]) -> Result<RtcpReceived, DropReason> {
        let mut said = Said { peer_ssrc: self.peer_ssrc, ..Said::default() };
        let mut rest = packet;
        while !rest.is_empty() {
            rest = said.read(now, local_ssrc, rest).ok_or(DropReason::RtcpMalformed)?;
        }
        if packet.is_empty() {
            return Err(DropReason::RtcpMalformed);
        }
        self.last_sr = said.sender_report.or(self.last_sr);
        if let Some(block) = said.received.about_us {
            self.remote = Some((block, now));
            self.round_trip_ms = self.round_trip(now, &block).or(self.round_trip_ms);
        }
        Ok(said.received)
    }

    /// When the next report is due.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Writes SR or RR with SDES CNAME into `out`, sets the next deadline, returns the length. Allocates nothing.
    ///
    /// # Panics
    /// When `out` is shorter than `REPORT_BYTES_MAX`.
    pub fn write_report(
        &mut self,
        now: Instant,
        sender: Option<&RtpSender>,
        reception: &mut Reception,
        local_ssrc: u32,
        out: &mut [u8],
    ) -> usize {
        self.schedule(now);
        let report_bytes = self.write_sr_or_rr(now, sender, reception, local_ssrc, out);
        report_bytes + self.write_cname(local_ssrc, &mut out[report_bytes..])
    }

    /// Writes RR or SR, SDES and BYE; returns the length.
    ///
    /// # Panics
    /// When `out` is shorter than `REPORT_BYTES_MAX`.
    pub fn write_bye(
        &mut self,
        now: Instant,
        sender: Option<&RtpSender>,
        reception: &mut Reception,
        local_ssrc: u32,
        out: &mut [u8],
    ) -> usize {
        let len = self.write_report(now, sender, reception, local_ssrc, out);
        write_header(GOODBYE, 1, 8, &mut out[len..]);
        put(&mut out[len..], 4, local_ssrc);
        len + 8
    }

    /// Round trip from the last report block about us, ms.
    pub fn round_trip_ms(&self) -> Option<u32> {
        self.round_trip_ms
    }

    /// Loss that the peer reports of our stream, per cent, the last report.
    pub fn remote_loss_percent(&self) -> Option<u8> {
        self.remote.map(|(block, _)| ((u32::from(block.fraction_lost) * 100 + 128) / 256) as u8)
    }

    /// The peer's last block about our stream, and when it came.
    pub fn remote_report(&self) -> Option<(ReportBlock, Instant)> {
        self.remote
    }

    /// The SSRC whose BYE ends the peer's stream: that of the RTP in force. BYE for a stream that it gave up earlier, after a
    /// transfer for instance, then says nothing.
    pub fn set_peer_ssrc(&mut self, ssrc: Option<u32>) {
        self.peer_ssrc = ssrc;
    }

    fn schedule(&mut self, now: Instant) {
        let spread_ms = u64::from(self.random.below(INTERVAL_MS as u32 + 1));
        self.deadline = now.plus_millis(INTERVAL_MS / 2 + spread_ms);
    }

    /// Arrival less the report's sending less its stay at the peer (RFC 3550 §6.4.1, figure 2).
    fn round_trip(&self, now: Instant, block: &ReportBlock) -> Option<u32> {
        if block.last_sr == 0 {
            return None;
        }
        let arrival = (self.anchor.ntp(now) >> 16) as u32;
        let trip = arrival.wrapping_sub(block.last_sr).wrapping_sub(block.delay_since_last_sr);
        // Two clocks were rounded: a trip of nothing can come out as slightly less.
        let trip_ms = u64::from((trip as i32).max(0).unsigned_abs()) * 1_000 / 65_536;
        let plausible = (trip as i32) > -(65_536 / 10) && trip_ms <= ROUND_TRIP_MS_MAX;
        plausible.then_some(trip_ms as u32)
    }

    fn write_sr_or_rr(
        &mut self,
        now: Instant,
        sender: Option<&RtpSender>,
        reception: &mut Reception,
        local_ssrc: u32,
        out: &mut [u8],
    ) -> usize {
        let report = sender.and_then(|sender| sender.report(now));
        let packets = report.map_or(0, |(packets, _, _)| packets);
        let sent = report.filter(|_| packets != self.packets_reported[0]);
        self.packets_reported = [self.packets_reported[1], packets];
        let block = reception.take_block(now, self.last_sr);
        let head_bytes = if sent.is_some() { 28 } else { 8 };
        let len = head_bytes + block.map_or(0, |_| REPORT_BLOCK_BYTES);
        let kind = if sent.is_some() { SENDER_REPORT } else { RECEIVER_REPORT };
        write_header(kind, u8::from(block.is_some()), len, out);
        put(out, 4, local_ssrc);
        if let Some((packets, octets, timestamp)) = sent {
            let ntp = self.anchor.ntp(now);
            put(out, 8, (ntp >> 32) as u32);
            put(out, 12, ntp as u32);
            put(out, 16, timestamp.0);
            put(out, 20, packets);
            put(out, 24, octets);
        }
        if let Some(block) = block {
            block.write(out[head_bytes..].first_chunk_mut().expect("out holds REPORT_BYTES_MAX"));
        }
        len
    }

    /// One chunk with one item, ended by one to four zero bytes (RFC 3550 §6.5).
    fn write_cname(&self, local_ssrc: u32, out: &mut [u8]) -> usize {
        let cname = self.cname.as_bytes();
        let end = 10 + cname.len();
        let len = (end + 1).next_multiple_of(4);
        write_header(SOURCE_DESCRIPTION, 1, len, out);
        put(out, 4, local_ssrc);
        out[8] = 1;
        out[9] = cname.len() as u8;
        out[10..end].copy_from_slice(cname);
        out[end..len].fill(0);
        len
    }
}

/// What was read of a datagram so far; nothing of it counts until all of it was read.
#[derive(Default)]
struct Said {
    received: RtcpReceived,
    sender_report: Option<LastSr>,
    peer_ssrc: Option<u32>,
}

impl Said {
    /// Reads the packet that `bytes` begin with and answers what follows it; `None` when malformed.
    fn read<'p>(&mut self, now: Instant, local_ssrc: u32, bytes: &'p [u8]) -> Option<&'p [u8]> {
        let &[first, kind, high, low, ..] = bytes else {
            return None;
        };
        // RFC 5761 §4 keeps 192 to 223 for RTCP.
        if first >> 6 != 2 || !(192..224).contains(&kind) {
            return None;
        }
        let len = (usize::from(u16::from_be_bytes([high, low])) + 1) * 4;
        let (packet, rest) = bytes.split_at_checked(len)?;
        let mut body = &packet[4..];
        if first & 0x20 != 0 {
            let padding = usize::from(*body.last()?);
            // Only the last packet of a datagram may be padded (RFC 3550 §6.4.1).
            if padding == 0 || padding > body.len() || !rest.is_empty() {
                return None;
            }
            body = &body[..body.len() - padding];
        }
        let count = usize::from(first & 0x1f);
        match kind {
            SENDER_REPORT => {
                let (head, blocks) = body.split_first_chunk::<24>()?;
                let ntp_middle = word(head, 4) << 16 | word(head, 8) >> 16;
                self.sender_report = Some(LastSr { ssrc: word(head, 0), ntp_middle, at: now });
                self.read_blocks(local_ssrc, count, blocks)?;
            }
            RECEIVER_REPORT => self.read_blocks(local_ssrc, count, body.get(4..)?)?,
            GOODBYE => {
                let sources = body.get(..count * 4)?;
                // Our own name in it would be an echo.
                let is_meant = |ssrc| self.peer_ssrc.map_or(ssrc != local_ssrc, |peer| ssrc == peer);
                self.received.bye |= sources.chunks_exact(4).any(|source| is_meant(word(source, 0)));
            }
            // SDES, APP, RTPFB, PSFB, XR and whatever comes: their lengths were checked, their content is not needed.
            _ => {}
        }
        Some(rest)
    }

    /// Extensions of a profile may follow the blocks (RFC 3550 §6.4.3).
    fn read_blocks(&mut self, local_ssrc: u32, count: usize, bytes: &[u8]) -> Option<()> {
        let blocks = bytes.get(..count * REPORT_BLOCK_BYTES)?;
        let about_us = blocks
            .as_chunks::<REPORT_BLOCK_BYTES>()
            .0
            .iter()
            .map(ReportBlock::read)
            .find(|block| block.ssrc == local_ssrc);
        self.received.about_us = about_us.or(self.received.about_us);
        Some(())
    }
}

fn write_header(kind: u8, count: u8, len: usize, out: &mut [u8]) {
    debug_assert!(len.is_multiple_of(4) && count < 32);
    out[0] = 2 << 6 | count;
    out[1] = kind;
    out[2..4].copy_from_slice(&((len / 4 - 1) as u16).to_be_bytes());
}

fn put(out: &mut [u8], at: usize, word: u32) {
    out[at..at + 4].copy_from_slice(&word.to_be_bytes());
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// 65,536ths of a second.
fn in_65536ths(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos() * 65_536 / 1_000_000_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "rtcp_tests.rs"]
mod tests;
