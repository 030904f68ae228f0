//! What both kinds of leg do alike: one RTP stream each way, RTCP about both, and the counters.
//!
//! It sees packets in the clear only: the webrtc leg decrypts before and encrypts after. It owns what must survive everything
//! else on a leg: our SSRC, sequence and timestamps.

use super::notices::Notices;
use super::{BYE_GRACE_MS, LegEvent, LegStats, MediaFormat};
use crate::error::DropReason;
use crate::prefetch::prefetch;
use crate::random::Random;
use crate::rtp::header::{self, RtpPacket};
use crate::rtp::rtcp::{Reception, ReportBlock, Rtcp};
use crate::rtp::sender::RtpSender;
use crate::time::{Instant, WallAnchor};

/// Characters of the RTCP CNAME: 95 random bits, fresh per leg (RFC 7022 §4.2).
const CNAME_LENGTH: usize = 16;

/// Static payload type of comfort noise (RFC 3389 §3.1).
const COMFORT_NOISE: u8 = 13;

/// Clock of a stream whose codec is not known yet.
const CLOCK_RATE_HZ_UNKNOWN: u32 = 8_000;

/// One RTP stream each way, and RTCP about both.
pub(super) struct Stream {
    pub(super) sender: RtpSender,
    pub(super) notices: Notices,
    format: Option<MediaFormat>,
    reception: Reception,
    rtcp: Rtcp,
    /// When media of the peer last came, RTP or RTCP.
    heard: Option<Instant>,
    /// When the peer said BYE, unless it went on sending.
    bye: Option<Instant>,
    packets_sent: u64,
    reports_sent: u64,
    dropped: u64,
    has_received: bool,
}

impl Stream {
    pub(super) fn new(now: Instant, anchor: WallAnchor, random: &mut Random) -> Stream {
        let ssrc = random.next_u32();
        let cname = random.token(CNAME_LENGTH);
        Stream {
            sender: RtpSender::new(ssrc, CLOCK_RATE_HZ_UNKNOWN, random),
            notices: Notices::default(),
            format: None,
            reception: Reception::new(CLOCK_RATE_HZ_UNKNOWN),
            rtcp: Rtcp::new(now, cname, anchor, random.fork()),
            heard: None,
            bye: None,
            packets_sent: 0,
            reports_sent: 0,
            dropped: 0,
            has_received: false,
        }
    }

    /// Asks for what `receive` reads and writes.
    pub(super) fn prefetch_received(&self) {
        prefetch(&self.format);
        prefetch(&self.reception);
        prefetch(&self.heard);
        prefetch(&self.bye);
        prefetch(&self.has_received);
    }

    /// Asks for what sending reads and writes.
    pub(super) fn prefetch_sent(&self) {
        prefetch(&self.format);
        prefetch(&self.sender);
        prefetch(&self.packets_sent);
    }

    /// Takes what was negotiated, first or anew. Sequence, timestamps and counters go on.
    pub(super) fn set_format(&mut self, format: MediaFormat) {
        let rate_hz = format.codec.clock_rate_hz();
        if self.clock_rate_hz() != rate_hz {
            self.sender.set_clock_rate_hz(rate_hz);
            if self.reception.packets() == 0 {
                self.reception = Reception::new(rate_hz);
            }
        }
        self.format = Some(format);
    }

    fn clock_rate_hz(&self) -> u32 {
        self.format.map_or(CLOCK_RATE_HZ_UNKNOWN, |format| format.codec.clock_rate_hz())
    }

    pub(super) fn format(&self) -> Option<&MediaFormat> {
        self.format.as_ref()
    }

    pub(super) fn ssrc(&self) -> u32 {
        self.sender.ssrc()
    }

    pub(super) fn heard(&self) -> Option<Instant> {
        self.heard
    }

    /// Reads one RTP packet in the clear, counts it and answers it when its payload type was negotiated. `None`: comfort
    /// noise that nobody negotiated. It says that the peer is silent and alive, and its number is none that was lost.
    pub(super) fn receive<'p>(&mut self, now: Instant, packet: &'p [u8]) -> Result<Option<RtpPacket<'p>>, DropReason> {
        let packet = header::parse(packet)?;
        let format = self.format.as_ref().ok_or(DropReason::NotReady)?;
        let is_audio = format.receives(packet.payload_type);
        if !is_audio && packet.payload_type != COMFORT_NOISE {
            return Err(DropReason::RtpPayloadType);
        }
        self.reception.received(now, packet.ssrc, packet.sequence, packet.timestamp);
        self.heard = Some(now);
        // What was on its way when the peer said BYE takes nothing back; what still comes later does.
        if self.bye.is_some_and(|at| at.plus_millis(BYE_GRACE_MS / 2) < now) {
            self.bye = None;
        }
        if !self.has_received {
            self.has_received = true;
            self.notices.push(LegEvent::FirstReceived);
        }
        Ok(is_audio.then_some(packet))
    }

    /// Counts a packet of a payload type that was not negotiated as a sign of life: some keep their bindings open with such
    /// (RFC 6263 §4.6). The caller knows that it is the peer's.
    pub(super) fn keep_alive(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    /// The SSRC of the peer's stream.
    pub(super) fn peer_ssrc(&self) -> Option<u32> {
        self.reception.ssrc()
    }

    /// Reads one compound RTCP packet in the clear.
    pub(super) fn receive_rtcp(&mut self, now: Instant, packet: &[u8]) -> Result<(), DropReason> {
        self.rtcp.set_peer_ssrc(self.reception.ssrc());
        let received = self.rtcp.handle(now, self.sender.ssrc(), packet)?;
        self.heard = Some(now);
        if received.bye && self.bye.is_none() {
            self.bye = Some(now);
        }
        Ok(())
    }

    /// What the peer reported last about our stream, and when.
    pub(super) fn remote_report(&self) -> Option<(ReportBlock, Instant)> {
        self.rtcp.remote_report()
    }

    /// What the peer that the received stream is relayed to reported: ours say the worse of both.
    pub(super) fn set_downstream(&mut self, fraction_lost: u8, at: Instant) {
        self.reception.set_downstream(fraction_lost, at);
    }

    /// Counts one packet that `sender` wrote and that is on its way.
    pub(super) fn sent(&mut self) {
        if self.packets_sent == 0 {
            self.notices.push(LegEvent::FirstSent);
        }
        self.packets_sent += 1;
    }

    /// Counts and passes on.
    pub(super) fn dropped(&mut self, reason: DropReason) -> DropReason {
        self.dropped += 1;
        reason
    }

    /// When the next report is due.
    pub(super) fn report_deadline(&self) -> Instant {
        self.rtcp.deadline()
    }

    /// Writes a report; the next deadline lies ahead afterwards.
    pub(super) fn write_report(&mut self, now: Instant, out: &mut [u8]) -> usize {
        self.reports_sent += 1;
        let ssrc = self.ssrc();
        let sender = (self.packets_sent > 0).then_some(&self.sender);
        self.rtcp.write_report(now, sender, &mut self.reception, ssrc, out)
    }

    /// Whether the peer has heard of this stream, so that it deserves a BYE.
    pub(super) fn has_spoken(&self) -> bool {
        self.packets_sent + self.reports_sent > 0
    }

    /// Writes the stream's BYE.
    pub(super) fn write_bye(&mut self, now: Instant, out: &mut [u8]) -> usize {
        let ssrc = self.ssrc();
        let sender = (self.packets_sent > 0).then_some(&self.sender);
        self.rtcp.write_bye(now, sender, &mut self.reception, ssrc, out)
    }

    /// When the peer's BYE takes effect.
    pub(super) fn bye_deadline(&self) -> Instant {
        self.bye.map_or(Instant::NEVER, |at| at.plus_millis(BYE_GRACE_MS))
    }

    /// The peer described itself anew: what it said BYE about was the stream before.
    pub(super) fn forget_bye(&mut self) {
        self.bye = None;
    }

    pub(super) fn stats(&self) -> LegStats {
        LegStats {
            packets_received: self.reception.packets(),
            packets_sent: self.packets_sent,
            packets_lost: self.reception.lost(),
            packets_dropped: self.dropped,
            jitter_ms: self.reception.jitter_ms(),
            round_trip_ms: self.rtcp.round_trip_ms(),
            remote_loss_percent: self.rtcp.remote_loss_percent(),
            remote_packets_lost: self.remote_report().map(|(block, _)| block.cumulative_lost.max(0).unsigned_abs()),
            remote_jitter_ms: self.remote_report().map(|(block, _)| {
                (u64::from(block.jitter) * 1_000 / u64::from(self.clock_rate_hz())).min(u64::from(u32::MAX)) as u32
            }),
        }
    }
}
