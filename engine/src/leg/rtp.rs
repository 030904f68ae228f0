//! Plain RTP and RTCP on an even/odd pair of ports, or muxed.

use super::{Component, LegOutput, LegStats, LocalLeg, MediaFormat, Received};
use crate::random::Random;
use crate::time::{Instant, WallAnchor};
use std::net::SocketAddr;

/// How an rtp leg behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtpConfig {
    /// The peer's description; `None` while our offer is out.
    pub remote: Option<RtpRemote>,
}

/// The peer's half, by its SDP. A later one replaces it (re-INVITE: new address, hold).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtpRemote {
    /// Where RTP goes.
    pub address: SocketAddr,
    /// Where RTCP goes: `a=rtcp`, else port + 1; the RTP address when muxed.
    pub rtcp_address: SocketAddr,
    /// Whether RTCP is muxed.
    pub rtcp_mux: bool,
    /// What was negotiated.
    pub format: MediaFormat,
    /// Whether the peer wants to receive (its direction is sendrecv or recvonly).
    pub sending: bool,
}

/// An rtp leg.
///
/// Latching: RTP is accepted from the described address and, once per description, from the first other source of the same
/// IP address family whose packet is valid; from then on we send there (RFC 4961). A third source is dropped as `UnknownSource`.
pub struct RtpLeg {}

impl RtpLeg {
    /// Draws SSRC, sequence and timestamp from `random`.
    pub fn new(_now: Instant, _config: RtpConfig, _anchor: WallAnchor, _random: Random) -> RtpLeg {
        todo!()
    }

    /// What to write into our description (port 0).
    pub fn local(&self) -> LocalLeg {
        todo!()
    }

    /// The peer's description, first or changed.
    pub fn set_remote(&mut self, _now: Instant, _remote: RtpRemote) {
        todo!()
    }

    /// What was negotiated.
    pub fn format(&self) -> Option<&MediaFormat> {
        todo!()
    }

    /// Takes one datagram.
    pub fn handle_datagram<'p>(
        &mut self,
        _now: Instant,
        _component: Component,
        _from: SocketAddr,
        _datagram: &'p mut [u8],
    ) -> Received<'p> {
        todo!()
    }

    /// Call when the instant of the last `Timeout` has come.
    pub fn handle_timeout(&mut self, _now: Instant) {
        todo!()
    }

    /// Call until `Timeout`.
    pub fn poll_output(&mut self, _now: Instant, _out: &mut [u8]) -> LegOutput {
        todo!()
    }

    /// Whether `send` would send.
    pub fn can_send(&self) -> bool {
        todo!()
    }

    /// Our RTP stream.
    pub fn sender(&mut self) -> &mut crate::rtp::sender::RtpSender {
        todo!()
    }

    /// Where `packet[..len]`, written by `sender`, goes.
    pub fn send(&mut self, _now: Instant, _packet: &mut [u8], _len: usize) -> Option<(SocketAddr, usize)> {
        todo!()
    }

    /// Says goodbye: RTCP BYE is queued for `poll_output`.
    pub fn close(&mut self, _now: Instant) {
        todo!()
    }

    /// Counters.
    pub fn stats(&self) -> LegStats {
        todo!()
    }
}
