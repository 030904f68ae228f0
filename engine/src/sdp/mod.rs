//! Descriptions: what a peer says it can do, and what we answer (RFC 8866, 3264, 8829, 8839, 8842).
//!
//! A [`Description`] is one audio section with what of the session around it matters; `parse` reads one, `write` makes the
//! four texts that a leg can need, [`negotiate`] picks the codec. All other sections are kept only far enough to be refused
//! in their places.
//!
//! **Why** `sdp-types` beneath a pre-pass of ours, and not a typed SDP tree: real peers break the grammar in lines nobody
//! needs (`o=`, `t=`, `b=`), and a call must not die of those; and Meta's rules for an answer (one fingerprint, one SSRC,
//! no ice-lite) are easiest to keep where the text is written line by line.

mod crypto;
mod parse;
#[cfg(test)]
mod tests;
mod write;

pub use crypto::{CRYPTO_LINES_MAX, CryptoError, CryptoLine, SDES_SUITES, Sdes, suite_name, usable_lines};
pub use parse::parse;
pub use write::{write_rtp_answer, write_rtp_offer, write_webrtc_answer, write_webrtc_offer};

use std::net::{IpAddr, SocketAddr};

/// Longest fingerprint kept: SHA-256 only, since Meta refuses any other beside it.
pub type Fingerprint = [u8; 32];

/// The codecs that can be negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// opus/48000/2 (RFC 7587).
    Opus,
    /// PCMU/8000.
    Pcmu,
    /// PCMA/8000.
    Pcma,
    /// G722/8000: 16 kHz, whatever the clock says (RFC 3551 §4.5.2).
    G722,
}

impl Codec {
    /// Ticks of the RTP clock per second: 48,000 for Opus whatever its bandwidth (RFC 7587 §4.1).
    pub const fn clock_rate_hz(self) -> u32 {
        match self {
            Codec::Opus => 48_000,
            Codec::Pcmu | Codec::Pcma | Codec::G722 => 8_000,
        }
    }
}

/// What the writer of a description wishes to receive (RFC 7587 §6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OpusParameters {
    /// `maxaveragebitrate`, bit/s.
    pub max_average_bitrate: Option<u32>,
    /// `maxplaybackrate`, Hz.
    pub max_playback_rate_hz: Option<u32>,
    /// `sprop-maxcapturerate`, Hz.
    pub max_capture_rate_hz: Option<u32>,
    /// `minptime`, ms.
    pub min_ptime_ms: Option<u32>,
    /// `useinbandfec=1`.
    pub use_inband_fec: bool,
    /// `usedtx=1`.
    pub use_dtx: bool,
    /// `stereo=1`.
    pub stereo: bool,
}

/// One codec of a description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodecFormat {
    /// Which codec.
    pub codec: Codec,
    /// Its number in this description.
    pub payload_type: u8,
    /// Its fmtp; default unless the codec is Opus.
    pub opus: OpusParameters,
}

/// One `telephone-event` of a description (RFC 4733).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TelephoneEventFormat {
    /// Its number in this description.
    pub payload_type: u8,
    /// 8000 or 48000. Beside Opus at 8000 only the duration counts in 8000ths; timestamps are the audio stream's.
    pub clock_rate_hz: u32,
}

/// Transport of a media section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// RTP/AVP
    RtpAvp,
    /// RTP/AVPF
    RtpAvpf,
    /// RTP/SAVP (SDES)
    RtpSavp,
    /// RTP/SAVPF (SDES)
    RtpSavpf,
    /// UDP/TLS/RTP/SAVP
    UdpTlsRtpSavp,
    /// UDP/TLS/RTP/SAVPF
    UdpTlsRtpSavpf,
}

/// Who sends (RFC 3264 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Both.
    #[default]
    SendRecv,
    /// Only the writer of the description.
    SendOnly,
    /// Only its reader.
    RecvOnly,
    /// Nobody.
    Inactive,
}

/// DTLS role in a description (RFC 8842 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Setup {
    /// Either.
    ActPass,
    /// DTLS client.
    Active,
    /// DTLS server.
    Passive,
}

/// One usable remote candidate: UDP, component 1, with an address (mDNS names and TCP are left out).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where.
    pub address: SocketAddr,
    /// Its priority (RFC 8445 §5.1.2).
    pub priority: u32,
}

/// The ICE half of a description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IceDescription {
    /// `a=ice-ufrag`
    pub ufrag: String,
    /// `a=ice-pwd`, verbatim: WhatsApp's ends in `==`, which is no ice-char and is the key all the same.
    pub pwd: String,
    /// `a=ice-lite`
    pub lite: bool,
    /// In the order of the description, at most `REMOTE_CANDIDATES_MAX`.
    pub candidates: Vec<Candidate>,
}

/// A media section that is answered with port 0, kept so that the answer has the offer's shape (RFC 3264 §6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedSection {
    /// `audio`, `video`, ...
    pub media: String,
    /// Transport, verbatim.
    pub proto: String,
    /// Formats, verbatim.
    pub formats: String,
    /// `a=mid`
    pub mid: Option<String>,
}

/// The one audio section that is used, and what of the session around it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// `o=` session id and version, for recognising a repeated description.
    pub origin: (String, String),
    /// Transport of the section.
    pub profile: Profile,
    /// `c=` and `m=`: where RTP is wanted (a lie on most WebRTC descriptions). `None` when `c=` is a name.
    pub address: Option<SocketAddr>,
    /// `a=rtcp` (RFC 3605), if it names a usable port.
    pub rtcp_address: Option<SocketAddr>,
    /// `a=rtcp-mux`
    pub rtcp_mux: bool,
    /// `a=mid`
    pub mid: Option<String>,
    /// Whether the mid is in a `BUNDLE` group.
    pub bundled: bool,
    /// Direction, from the writer's point of view.
    pub direction: Direction,
    /// `a=ptime`
    pub ptime_ms: Option<u32>,
    /// `a=maxptime`
    pub max_ptime_ms: Option<u32>,
    /// ICE, when ufrag and pwd are there.
    pub ice: Option<IceDescription>,
    /// `a=fingerprint:sha-256`
    pub fingerprint: Option<Fingerprint>,
    /// `a=setup`
    pub setup: Option<Setup>,
    /// `a=crypto` values, verbatim (RFC 4568).
    pub crypto: Vec<String>,
    /// Codecs of ours that it lists, in its order.
    pub codecs: Vec<CodecFormat>,
    /// Every telephone-event it lists.
    pub telephone_events: Vec<TelephoneEventFormat>,
    /// `a=ssrc`, the first.
    pub ssrc: Option<u32>,
    /// Position of the used section among all `m=` lines.
    pub section_index: usize,
    /// All other sections, in order.
    pub rejected: Vec<RejectedSection>,
}

/// Why a description cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SdpError {
    /// Not SDP.
    Malformed,
    /// Longer than `SDP_BYTES_MAX`.
    TooLong,
    /// No audio section with a port.
    NoAudio,
    /// No codec of ours in the audio section.
    NoCommonCodec,
    /// An unknown transport in `m=audio`.
    UnknownProfile,
}

/// What we say about one WebRTC leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebrtcLocal {
    /// Addresses to advertise, each with the leg's one port, best first.
    pub addresses: Vec<IpAddr>,
    /// The leg's UDP port.
    pub port: u16,
    /// `a=ice-ufrag`
    pub ufrag: String,
    /// `a=ice-pwd`
    pub pwd: String,
    /// Whether `a=ice-lite` is written.
    pub lite: bool,
    /// SHA-256 of our certificate.
    pub fingerprint: Fingerprint,
    /// `a=setup`
    pub setup: Setup,
    /// The leg's only SSRC.
    pub ssrc: u32,
    /// The codec, with the number and parameters to write. Our own receive wishes, not the peer's.
    pub codec: CodecFormat,
    /// telephone-event, if used.
    pub telephone_event: Option<TelephoneEventFormat>,
    /// Of our offer; an answer mirrors the offer's.
    pub direction: Direction,
    /// `o=` session id, the same in every description of the leg.
    pub session_id: u64,
    /// `o=` version: +1 when the text changes (RFC 3264 §8).
    pub session_version: u64,
}

/// What we say about one RTP leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtpLocal {
    /// Address to advertise.
    pub address: IpAddr,
    /// RTP port; RTCP is on the next one.
    pub port: u16,
    /// Transport of our offer (`RtpSavp` with `crypto`); an answer repeats the offer's.
    pub profile: Profile,
    /// Whether our offer asks to mux RTCP; an answer follows the offer.
    pub rtcp_mux: bool,
    /// `a=crypto`, from [`Sdes`]: all that we offer, or the one line of an answer. Empty: plain RTP.
    pub crypto: Vec<CryptoLine>,
    /// Codecs in order of preference. An answer holds exactly one.
    pub codecs: Vec<CodecFormat>,
    /// telephone-event at each clock rate in use. An answer holds at most the first.
    pub telephone_events: Vec<TelephoneEventFormat>,
    /// Ours, from our point of view.
    pub direction: Direction,
    /// `o=` session id, the same in every description of the dialog.
    pub session_id: u64,
    /// `o=` version: +1 when the text changes (RFC 3264 §8).
    pub session_version: u64,
}

/// Picks what `offer` and we have in common: the first of `ours`, in our order of preference, that `offer` lists, with the
/// number and parameters it has there; and the telephone-event that goes with it.
///
/// Events run at the clock of the audio (RFC 4733 §2.1). Beside Opus some offer only 8000 (WhatsApp, many softphones), and
/// then it is 8000; where both are offered it is 48000. Beside G.711 only 8000 will do.
pub fn negotiate(offer: &Description, ours: &[Codec]) -> Option<(CodecFormat, Option<TelephoneEventFormat>)> {
    let format = ours.iter().find_map(|codec| offer.codecs.iter().find(|format| format.codec == *codec))?;
    let event_at = |rate_hz| offer.telephone_events.iter().find(|event| event.clock_rate_hz == rate_hz).copied();
    let event = event_at(format.codec.clock_rate_hz()).or_else(|| event_at(8_000));
    Some((*format, event))
}
