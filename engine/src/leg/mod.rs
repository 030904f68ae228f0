//! One media connection: its set-up, its packets, its end. `webrtc` is ICE + DTLS-SRTP, `rtp` is plain RTP.
//!
//! A leg is useful alone: a stand-in, a test or a bench drives one over a socket of its own. The contract is that of every
//! machine here: change something, then call `poll_output` until it answers `Timeout`.
//!
//! Why an enum and not a trait: there are two kinds, a later third (`stream`) is known, and the flows call a leg for each
//! packet; a match is read and inlined where a table of function pointers is neither.

mod latch;
mod notices;
pub mod rtp;
mod sdes;
mod stream;
pub mod webrtc;

use crate::dtls::DtlsVersion;
use crate::error::{Cause, DropReason};
use crate::ice::IceCredentials;
use crate::limits::{CONSENT_MS_MAX, MEDIA_MS_MAX};
use crate::rtp::header::{COMFORT_NOISE_PAYLOAD_TYPE, RtpPacket};
use crate::rtp::rtcp::ReportBlock;
use crate::rtp::sender::RtpSender;
use crate::sdp::{Codec, Fingerprint, OpusParameters};
use crate::srtp::SrtpProfile;
use crate::time::Instant;
use std::net::SocketAddr;

/// Time after the peer's RTCP BYE until it takes effect; media that still comes in its second half takes it back.
pub const BYE_GRACE_MS: u64 = 2_000;

/// Time after the peer's close_notify until it ends the leg: its signalling's own word (BYE) is often sent after it, and says more.
/// Nothing is sent or taken meanwhile.
pub const CLOSE_GRACE_MS: u64 = 300;

/// How long nothing may come from the peer of a webrtc leg, of whatever kind, before `PathSilent` says so, and again after each
/// further time of it: longer than any two of its checks are apart (RFC 7675 §5.1: six seconds at most).
pub const PATH_SILENT_MS: u64 = 8_000;

/// The same for a full agent of ours that gets no answer to its consent checks, whatever else may come: two of them are then lost.
pub const PATH_UNCONSENTED_MS: u64 = 13_000;
const _: () = assert!(PATH_UNCONSENTED_MS < CONSENT_MS_MAX && PATH_SILENT_MS < MEDIA_MS_MAX);

/// A leg of either kind. Boxed: a bridge moves once into its slot, its legs are large.
pub enum Leg {
    /// ICE + DTLS-SRTP
    Webrtc(Box<webrtc::WebrtcLeg>),
    /// RTP/AVP, or SDES (RTP/SAVP)
    Rtp(Box<rtp::RtpLeg>),
}

impl Leg {
    /// What to write into our description (port 0).
    pub fn local(&self) -> LocalLeg {
        match self {
            Leg::Webrtc(leg) => leg.local(),
            Leg::Rtp(leg) => leg.local(),
        }
    }

    /// Asks for the memory that a packet of the peer needs; `prefetch_keys` follows a packet later.
    pub(crate) fn prefetch_received(&self) {
        match self {
            Leg::Webrtc(leg) => leg.prefetch_received(),
            Leg::Rtp(leg) => leg.prefetch_received(),
        }
    }

    /// The same for a packet to the peer.
    pub(crate) fn prefetch_sent(&self) {
        match self {
            Leg::Webrtc(leg) => leg.prefetch_sent(),
            Leg::Rtp(leg) => leg.prefetch_sent(),
        }
    }

    /// Asks for the keys of what is received or sent.
    pub(crate) fn prefetch_keys(&self, is_received: bool) {
        match self {
            Leg::Webrtc(leg) => leg.prefetch_keys(is_received),
            Leg::Rtp(leg) => leg.prefetch_keys(is_received),
        }
    }

    /// What the DTLS library said about this leg's end, once.
    pub fn take_end_detail(&mut self) -> Option<Box<str>> {
        match self {
            Leg::Webrtc(leg) => leg.take_end_detail(),
            Leg::Rtp(_) => None,
        }
    }

    /// What was negotiated.
    pub fn format(&self) -> Option<&MediaFormat> {
        match self {
            Leg::Webrtc(leg) => leg.format(),
            Leg::Rtp(leg) => leg.format(),
        }
    }

    /// Takes one datagram; decrypts in place.
    pub fn handle_datagram<'p>(
        &mut self,
        now: Instant,
        component: Component,
        from: SocketAddr,
        datagram: &'p mut [u8],
    ) -> Received<'p> {
        match self {
            Leg::Webrtc(leg) => leg.handle_datagram(now, from, datagram),
            Leg::Rtp(leg) => leg.handle_datagram(now, component, from, datagram),
        }
    }

    /// Call when the instant of the last `Timeout` has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self {
            Leg::Webrtc(leg) => leg.handle_timeout(now),
            Leg::Rtp(leg) => leg.handle_timeout(now),
        }
    }

    /// Call until `Timeout`.
    pub fn poll_output(&mut self, now: Instant, out: &mut [u8]) -> LegOutput {
        match self {
            Leg::Webrtc(leg) => leg.poll_output(now, out),
            Leg::Rtp(leg) => leg.poll_output(now, out),
        }
    }

    /// Whether `poll_output` has an event to tell.
    pub fn has_notices(&self) -> bool {
        match self {
            Leg::Webrtc(leg) => leg.has_notices(),
            Leg::Rtp(leg) => leg.has_notices(),
        }
    }

    /// Whether `send` would send.
    pub fn can_send(&self) -> bool {
        match self {
            Leg::Webrtc(leg) => leg.can_send(),
            Leg::Rtp(leg) => leg.can_send(),
        }
    }

    /// Ends the hold.
    pub fn release(&mut self, now: Instant) {
        match self {
            Leg::Webrtc(leg) => leg.release(now),
            Leg::Rtp(leg) => leg.release(now),
        }
    }

    /// Begins a hold of ours; that of an rtp leg's peer is in its description.
    pub fn hold(&mut self) {
        match self {
            Leg::Webrtc(leg) => leg.hold(),
            Leg::Rtp(leg) => leg.hold(),
        }
    }

    /// See [`webrtc::WebrtcLeg::offer_restart`]; an rtp leg has no ICE.
    pub fn offer_restart(&mut self, now: Instant, credentials: Option<IceCredentials>) {
        match self {
            Leg::Webrtc(leg) => leg.offer_restart(now, credentials),
            Leg::Rtp(_) => {}
        }
    }

    /// Our RTP stream; the flow that sends into this leg writes its headers with it.
    pub fn sender(&mut self) -> &mut RtpSender {
        match self {
            Leg::Webrtc(leg) => leg.sender(),
            Leg::Rtp(leg) => leg.sender(),
        }
    }

    /// Makes `packet[..len]`, written by `sender`, ready for the wire in place; answers where it goes and its new length.
    pub fn send(&mut self, now: Instant, packet: &mut [u8], len: usize) -> Option<(SocketAddr, usize)> {
        match self {
            Leg::Webrtc(leg) => leg.send(now, packet, len),
            Leg::Rtp(leg) => leg.send(now, packet, len),
        }
    }

    /// The peer's last report about our stream, and when it came: its loss is what FEC is for.
    pub fn remote_report(&self) -> Option<(ReportBlock, Instant)> {
        match self {
            Leg::Webrtc(leg) => leg.remote_report(),
            Leg::Rtp(leg) => leg.remote_report(),
        }
    }

    /// What the peer that this leg's stream is relayed to reported of it at `at`, 256ths. Our reports say the worse of both.
    pub fn set_downstream(&mut self, fraction_lost: u8, at: Instant) {
        match self {
            Leg::Webrtc(leg) => leg.set_downstream(fraction_lost, at),
            Leg::Rtp(leg) => leg.set_downstream(fraction_lost, at),
        }
    }

    /// Says goodbye: queued for `poll_output`.
    pub fn close(&mut self, now: Instant) {
        match self {
            Leg::Webrtc(leg) => leg.close(now),
            Leg::Rtp(leg) => leg.close(now),
        }
    }

    /// Counters.
    pub fn stats(&self) -> LegStats {
        match self {
            Leg::Webrtc(leg) => leg.stats(),
            Leg::Rtp(leg) => leg.stats(),
        }
    }
}

/// Which of a leg's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Component {
    /// RTP, and everything else where RTCP is muxed.
    Rtp,
    /// RTCP on a port of its own (odd, RTP + 1): only on `rtp` legs.
    Rtcp,
}

/// What was negotiated for a leg: what we send and how to read what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaFormat {
    /// The one codec.
    pub codec: Codec,
    /// Number the peer wants to see.
    pub send_payload_type: u8,
    /// Number we declared.
    pub receive_payload_type: u8,
    /// The peer's wishes for what we send.
    pub opus: OpusParameters,
    /// telephone-event, when both sides have it.
    pub telephone_event: Option<EventFormat>,
}

impl MediaFormat {
    /// Whether `payload_type` is one we declared, or comfort noise beside G.711: gateways send it undeclared too (RFC 3389 §5).
    pub fn receives(&self, payload_type: u8) -> bool {
        payload_type == self.receive_payload_type
            || self.receives_event(payload_type)
            || self.receives_noise(payload_type)
    }

    /// Whether `payload_type` is comfort noise beside a codec of 8 kHz.
    pub fn receives_noise(&self, payload_type: u8) -> bool {
        payload_type == COMFORT_NOISE_PAYLOAD_TYPE && self.codec != Codec::Opus
    }

    /// Whether `payload_type` is that of telephone-event.
    pub fn receives_event(&self, payload_type: u8) -> bool {
        self.telephone_event.is_some_and(|event| payload_type == event.receive_payload_type)
    }
}

/// telephone-event as negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventFormat {
    /// Number the peer wants to see.
    pub send_payload_type: u8,
    /// Number we declared.
    pub receive_payload_type: u8,
    /// Its clock.
    pub clock_rate_hz: u32,
}

/// What `handle_datagram` made of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'p> {
    /// Set-up, RTCP or a check: nothing for the flow. Drain `poll_output`.
    Consumed,
    /// Noise.
    Dropped(DropReason),
    /// One RTP packet, decrypted, of a negotiated audio or event payload type.
    Rtp(RtpPacket<'p>),
}

/// What `poll_output` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegOutput {
    /// `out[..len]` is to be sent from `component`'s socket to `to`.
    Transmit {
        /// From which socket.
        component: Component,
        /// Where.
        to: SocketAddr,
        /// How much of `out`.
        len: usize,
    },
    /// Something happened.
    Event(LegEvent),
    /// Nothing to do before this instant.
    Timeout(Instant),
}

/// What happens on a leg, in the order it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegEvent {
    /// ICE chose its pair (webrtc).
    IceNominated(SocketAddr),
    /// Keys are there (webrtc): the leg can carry media.
    DtlsConnected {
        /// Version in force.
        version: DtlsVersion,
        /// SRTP profile in force.
        profile: SrtpProfile,
    },
    /// The peer's packets come from elsewhere, and ours go there from now on (rtp).
    Latched(SocketAddr),
    /// Nothing has come from the peer for `PATH_SILENT_MS`, or no consent for `PATH_UNCONSENTED_MS` (webrtc): its path may be dead,
    /// and a restart of ICE may find another. Said again while it lasts.
    PathSilent,
    /// First RTP packet from the peer.
    FirstReceived,
    /// First RTP packet to the peer.
    FirstSent,
    /// The leg is dead.
    Ended(Cause),
}

/// What control needs to know to describe a leg of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalLeg {
    /// A webrtc leg.
    Webrtc {
        /// `a=ice-ufrag`
        ufrag: String,
        /// `a=ice-pwd`
        pwd: String,
        /// Of our certificate.
        fingerprint: Fingerprint,
        /// The only SSRC.
        ssrc: u32,
        /// UDP port; filled in by the worker (0 in a bare leg).
        port: u16,
    },
    /// An rtp leg.
    Rtp {
        /// Our SSRC.
        ssrc: u32,
        /// RTP port, even; filled in by the worker. RTCP is on the next.
        port: u16,
    },
}

/// Counters of one leg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegStats {
    /// RTP packets received and accepted.
    pub packets_received: u64,
    /// RTP packets sent.
    pub packets_sent: u64,
    /// Packets lost on the way to us.
    pub packets_lost: u64,
    /// Datagrams dropped, all reasons.
    pub packets_dropped: u64,
    /// Interarrival jitter, ms.
    pub jitter_ms: u32,
    /// Round trip, ms, by RTCP or else by ICE.
    pub round_trip_ms: Option<u32>,
    /// Loss of our stream that the peer reported last, per cent.
    pub remote_loss_percent: Option<u8>,
    /// Packets of our stream lost since the start, by the peer's last report.
    pub remote_packets_lost: Option<u32>,
    /// Jitter of our stream at the peer, ms, by its last report.
    pub remote_jitter_ms: Option<u32>,
}
