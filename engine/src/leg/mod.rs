//! One media connection: its set-up, its packets, its end. `webrtc` is ICE + DTLS-SRTP, `rtp` is plain RTP.
//!
//! A leg is useful alone: a stand-in, a test or a bench drives one over a socket of its own.

pub mod rtp;
pub mod webrtc;

use crate::dtls::DtlsVersion;
use crate::error::{Cause, DropReason};
use crate::sdp::{Codec, Fingerprint, OpusParameters};
use crate::srtp::SrtpProfile;
use crate::time::Instant;
use std::net::SocketAddr;

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
    Rtp(crate::rtp::header::RtpPacket<'p>),
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
    /// The peer's source differs from its description and was taken (rtp).
    Latched(SocketAddr),
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
}
