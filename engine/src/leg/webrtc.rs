//! ICE, then DTLS, then SRTP on one socket.

use super::{LegOutput, LegStats, LocalLeg, MediaFormat, Received};
use crate::dtls::{DtlsRole, DtlsVersions, Identity};
use crate::ice::IceRole;
use crate::random::Random;
use crate::sdp::{Fingerprint, IceDescription};
use crate::time::{Instant, WallAnchor};
use std::net::SocketAddr;

/// How a webrtc leg behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebrtcConfig {
    /// Our ICE role.
    pub ice: IceRole,
    /// Versions to speak.
    pub versions: DtlsVersions,
    /// Whether RTP and RTCP wait for `release` (WhatsApp before accept). ICE and DTLS run all the same.
    pub hold: bool,
    /// The peer's description; `None` when the offer is ours and the answer comes later.
    pub remote: Option<WebrtcRemote>,
}

/// The peer's half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebrtcRemote {
    /// Credentials and candidates.
    pub ice: IceDescription,
    /// SHA-256 of its certificate.
    pub fingerprint: Fingerprint,
    /// Our DTLS role.
    pub dtls: DtlsRole,
    /// What was negotiated.
    pub format: MediaFormat,
}

/// A webrtc leg.
pub struct WebrtcLeg {}

impl WebrtcLeg {
    /// Draws ufrag (8 characters), pwd (24), SSRC and all else from `random`.
    pub fn new(
        _now: Instant,
        _config: WebrtcConfig,
        _identity: &Identity,
        _anchor: WallAnchor,
        _random: Random,
    ) -> WebrtcLeg {
        todo!()
    }

    /// What to write into our description (port 0).
    pub fn local(&self) -> LocalLeg {
        todo!()
    }

    /// Gives the peer's description to a leg that was made without; later calls are ignored (no renegotiation).
    pub fn set_remote(&mut self, _now: Instant, _remote: WebrtcRemote) {
        todo!()
    }

    /// What was negotiated.
    pub fn format(&self) -> Option<&MediaFormat> {
        todo!()
    }

    /// Takes one datagram; decrypts in place.
    pub fn handle_datagram<'p>(&mut self, _now: Instant, _from: SocketAddr, _datagram: &'p mut [u8]) -> Received<'p> {
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

    /// Whether `send` would send: keys are there and nothing is held.
    pub fn can_send(&self) -> bool {
        todo!()
    }

    /// Ends the hold: from now on RTP and RTCP go out.
    pub fn release(&mut self, _now: Instant) {
        todo!()
    }

    /// Our RTP stream; the flow that sends into this leg writes its headers with it.
    pub fn sender(&mut self) -> &mut crate::rtp::sender::RtpSender {
        todo!()
    }

    /// Protects `packet[..len]`, written by `sender`, in place. Answers the address and the new length, or `None` when
    /// the leg cannot send (the packet is then lost and its sequence number must not have been drawn: ask `can_send` first).
    pub fn send(&mut self, _now: Instant, _packet: &mut [u8], _len: usize) -> Option<(SocketAddr, usize)> {
        todo!()
    }

    /// Says goodbye: RTCP BYE (unless held) and close_notify are queued for `poll_output`.
    pub fn close(&mut self, _now: Instant) {
        todo!()
    }

    /// Counters.
    pub fn stats(&self) -> LegStats {
        todo!()
    }
}
