//! RTCP: reception statistics, compound packets read and written (RFC 3550 §6, A.3, A.8).

use super::sender::RtpSender;
use crate::error::DropReason;
use crate::random::Random;
use crate::time::{Instant, RtpTimestamp, WallAnchor};

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

/// What one leg knows of the peer's stream.
#[derive(Clone, Debug)]
pub struct Reception {}

impl Reception {
    /// For a stream of `clock_rate_hz`.
    pub fn new(_clock_rate_hz: u32) -> Reception {
        todo!()
    }

    /// Counts one received, authenticated RTP packet. A new SSRC begins anew (RFC 3550 §8.2).
    pub fn received(&mut self, _now: Instant, _ssrc: u32, _sequence: u16, _timestamp: RtpTimestamp) {
        todo!()
    }

    /// Packets received, of all SSRCs.
    pub fn packets(&self) -> u64 {
        todo!()
    }

    /// Packets lost so far (never negative).
    pub fn lost(&self) -> u64 {
        todo!()
    }

    /// Interarrival jitter, ms.
    pub fn jitter_ms(&self) -> u32 {
        todo!()
    }
}

/// One leg's RTCP: when to report, what the peer reported.
#[derive(Clone, Debug)]
pub struct Rtcp {}

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
    pub fn new(_now: Instant, _cname: String, _anchor: WallAnchor, _random: Random) -> Rtcp {
        todo!()
    }

    /// Reads one compound packet (already decrypted) about our stream `local_ssrc`.
    pub fn handle(&mut self, _now: Instant, _local_ssrc: u32, _packet: &[u8]) -> Result<RtcpReceived, DropReason> {
        todo!()
    }

    /// When the next report is due.
    pub fn deadline(&self) -> Instant {
        todo!()
    }

    /// Writes SR or RR with SDES CNAME into `out`, sets the next deadline, returns the length. Allocates nothing.
    pub fn write_report(
        &mut self,
        _now: Instant,
        _sender: Option<&RtpSender>,
        _reception: &mut Reception,
        _local_ssrc: u32,
        _out: &mut [u8],
    ) -> usize {
        todo!()
    }

    /// Writes RR or SR, SDES and BYE; returns the length.
    pub fn write_bye(
        &mut self,
        _now: Instant,
        _sender: Option<&RtpSender>,
        _reception: &mut Reception,
        _local_ssrc: u32,
        _out: &mut [u8],
    ) -> usize {
        todo!()
    }

    /// Round trip from the last report block about us, ms.
    pub fn round_trip_ms(&self) -> Option<u32> {
        todo!()
    }

    /// Loss that the peer reports of our stream, per cent, the last report.
    pub fn remote_loss_percent(&self) -> Option<u8> {
        todo!()
    }
}
