//! WhatsApp's end of a call: an ICE-lite agent that offers, serves DTLS, and writes the offer that Meta's relay writes.
//!
//! The offer has the shape that all public captures of live calls agree on: session-level `a=ice-lite`, `actpass`, `mid:audio`, Opus
//! 111 and telephone-event 126, the candidates complete and of equal port with IPv6 above IPv4, no `end-of-candidates`.
//!
//! Why a writer of its own and not the engine's: the gateway must cope with this text, oddities included, and the engine's writer
//! writes what a gateway should say, not what Meta says.

use super::audio::OpusSettings;
use super::webrtc_peer::WebrtcPeer;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use engine::dtls::{DtlsRole, DtlsVersions, Identity};
use engine::ice::{IceCredentials, IceRole};
use engine::leg::webrtc::{WebrtcConfig, WebrtcRemote};
use engine::leg::{EventFormat, LocalLeg, MediaFormat};
use engine::sdp::{self, Codec, Description, Fingerprint, Setup};
use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;

/// Opus in WhatsApp's offers.
pub const OPUS_PAYLOAD_TYPE: u8 = 111;
/// telephone-event in WhatsApp's offers.
pub const EVENT_PAYLOAD_TYPE: u8 = 126;

/// What an offer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferText<'a> {
    /// Addresses of the relay, IPv4 first as in captures; the first one also fills `c=`.
    pub addresses: &'a [IpAddr],
    /// The one port of all candidates.
    pub port: u16,
    /// `a=ice-ufrag`
    pub ufrag: &'a str,
    /// `a=ice-pwd`
    pub pwd: &'a str,
    /// SHA-256 of the certificate.
    pub fingerprint: &'a Fingerprint,
    /// The caller's SSRC.
    pub ssrc: u32,
    /// `o=` session id: the time in ms.
    pub session_id: u64,
}

/// Writes an offer in the shape of live captures.
pub fn write_offer(offer: &OfferText<'_>) -> String {
    let OfferText { port, ufrag, pwd, ssrc, session_id, .. } = offer;
    let stream = stream_id(*session_id, *ssrc);
    let first = offer.addresses.first().copied().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    let mut text = format!(
        "v=0\r\no=- {session_id} 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE audio\r\n\
         a=msid-semantic: WMS {stream}\r\na=ice-lite\r\n\
         m=audio {port} UDP/TLS/RTP/SAVPF {OPUS_PAYLOAD_TYPE} {EVENT_PAYLOAD_TYPE}\r\n\
         c=IN {} {first}\r\na=rtcp:9 IN IP4 0.0.0.0\r\n",
        if first.is_ipv4() { "IP4" } else { "IP6" },
    );
    for address in offer.addresses {
        let (foundation, priority) =
            if address.is_ipv4() { (4_011_223_344u32, 2_122_260_223u32) } else { (2_099_887_766, 2_122_262_783) };
        let _ = write!(
            text,
            "a=candidate:{foundation} 1 udp {priority} {address} {port} typ host generation 0 network-cost 50\r\n"
        );
    }
    let _ = write!(
        text,
        "a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\na=fingerprint:sha-256 {}\r\na=setup:actpass\r\na=mid:audio\r\n\
         a=sendrecv\r\na=msid:{stream} WhatsAppTrack1\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\n\
         a=rtcp-fb:111 transport-cc\r\n\
         a=fmtp:111 maxaveragebitrate=20000;maxplaybackrate=16000;minptime=20;sprop-maxcapturerate=16000;useinbandfec=1\r\n\
         a=rtpmap:126 telephone-event/8000\r\na=maxptime:20\r\na=ptime:20\r\na=ssrc:{ssrc} cname:WhatsAppAudioStream1\r\n",
        hex_pairs(offer.fingerprint),
    );
    text
}

/// `AE:89:...`
pub fn hex_pairs(fingerprint: &Fingerprint) -> String {
    fingerprint.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// Something in the form of a UUID.
fn stream_id(session_id: u64, ssrc: u32) -> String {
    let low = session_id & 0xffff_ffff_ffff;
    format!("{ssrc:08x}-{:04x}-4{:03x}-8{:03x}-{low:012x}", ssrc >> 16, ssrc & 0xfff, (ssrc >> 4) & 0xfff)
}

/// Why an answer cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerError {
    /// Not a description.
    Sdp(sdp::SdpError),
    /// No ICE credentials.
    NoIce,
    /// No SHA-256 fingerprint.
    NoFingerprint,
    /// No Opus.
    NoOpus,
    /// `actpass`, or nothing, where the answer must decide (RFC 8842 §5.3).
    NoSetup,
}

impl std::fmt::Display for AnswerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AnswerError::Sdp(error) => write!(f, "not a usable description: {error:?}"),
            AnswerError::NoIce => f.write_str("no ICE credentials"),
            AnswerError::NoFingerprint => f.write_str("no sha-256 fingerprint"),
            AnswerError::NoOpus => f.write_str("no Opus"),
            AnswerError::NoSetup => f.write_str("no decided a=setup"),
        }
    }
}

impl std::error::Error for AnswerError {}

/// Reads the answer to an offer of ours in which Opus had the number `opus` and telephone-event `event`.
pub fn read_answer(text: &str, opus: u8, event: u8) -> Result<WebrtcRemote, AnswerError> {
    let answer = sdp::parse(text).map_err(AnswerError::Sdp)?;
    let dtls = match answer.setup {
        Some(Setup::Active) => DtlsRole::Server,
        Some(Setup::Passive) => DtlsRole::Client,
        _ => return Err(AnswerError::NoSetup),
    };
    remote_of(&answer, dtls, opus, event)
}

/// The peer's half of a description: what we send carries its numbers, what it sends carries ours.
pub fn remote_of(description: &Description, dtls: DtlsRole, opus: u8, event: u8) -> Result<WebrtcRemote, AnswerError> {
    let codec = description.codecs.iter().find(|codec| codec.codec == Codec::Opus).ok_or(AnswerError::NoOpus)?;
    let telephone_event = description.telephone_events.iter().find(|event| event.clock_rate_hz == 8_000);
    Ok(WebrtcRemote {
        ice: description.ice.clone().ok_or(AnswerError::NoIce)?,
        fingerprint: description.fingerprint.ok_or(AnswerError::NoFingerprint)?,
        dtls,
        format: MediaFormat {
            codec: Codec::Opus,
            send_payload_type: codec.payload_type,
            receive_payload_type: opus,
            opus: codec.opus,
            telephone_event: telephone_event.map(|theirs| EventFormat {
                send_payload_type: theirs.payload_type,
                receive_payload_type: event,
                clock_rate_hz: theirs.clock_rate_hz,
            }),
        },
    })
}

/// The relay's leg, before its answer is known. Its credentials look as WhatsApp's do: base64 of 12 and of 16 bytes, so that the
/// password ends in `==`, which is no ice-char (RFC 8839 §5.4) and must be taken all the same.
pub fn offerer_config(hold: bool) -> WebrtcConfig {
    let (mut ufrag, mut pwd) = ([0; 12], [0; 16]);
    let mut random = super::system_random();
    random.fill(&mut ufrag);
    random.fill(&mut pwd);
    let credentials = IceCredentials { ufrag: BASE64.encode(ufrag), pwd: BASE64.encode(pwd) };
    WebrtcConfig { ice: IceRole::Lite, versions: DtlsVersions::V12, credentials: Some(credentials), hold, remote: None }
}

/// A relay with a caller behind it.
pub struct WebrtcOfferer {
    /// The caller.
    pub peer: WebrtcPeer,
    /// What to put into the connect webhook.
    pub offer: String,
}

impl WebrtcOfferer {
    /// Opens it at `addresses`. With `hold` nothing is sent before `peer.release()`, as a phone whose call is not yet accepted.
    pub async fn start(
        addresses: &[IpAddr],
        session_id: u64,
        hold: bool,
        identity: &Identity,
        opus: OpusSettings,
    ) -> io::Result<WebrtcOfferer> {
        let peer = WebrtcPeer::start(offerer_config(hold), identity, opus).await?;
        let offer = offer_of(peer.local(), addresses, session_id);
        Ok(WebrtcOfferer { peer, offer })
    }

    /// Takes the answer; ICE and DTLS begin.
    pub fn answer(&self, text: &str) -> Result<(), AnswerError> {
        self.peer.set_remote(read_answer(text, OPUS_PAYLOAD_TYPE, EVENT_PAYLOAD_TYPE)?);
        Ok(())
    }
}

/// The offer of a leg that listens at `addresses`.
pub fn offer_of(local: &LocalLeg, addresses: &[IpAddr], session_id: u64) -> String {
    match local {
        LocalLeg::Webrtc { ufrag, pwd, fingerprint, ssrc, port } => {
            write_offer(&OfferText { addresses, port: *port, ufrag, pwd, fingerprint, ssrc: *ssrc, session_id })
        }
        LocalLeg::Rtp { .. } => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// The offer of a live call, as captured (values invented).
    const CAPTURED: &str = "v=0\r\no=- 1767225600412 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE audio\r\na=msid-semantic: WMS STREAM\r\na=ice-lite\r\nm=audio 3480 UDP/TLS/RTP/SAVPF 111 126\r\nc=IN IP4 203.0.113.49\r\na=rtcp:9 IN IP4 0.0.0.0\r\na=candidate:4011223344 1 udp 2122260223 203.0.113.49 3480 typ host generation 0 network-cost 50\r\na=candidate:2099887766 1 udp 2122262783 2001:db8:f36b:131:face:b00c:0:699c 3480 typ host generation 0 network-cost 50\r\na=ice-ufrag:QmZ7rT2xLp9VkDsA\r\na=ice-pwd:n4Fq+1zR8w/Kp0aYt3LdXg==\r\na=fingerprint:sha-256 AE:89:C4:6B:2C:5F:E3:29:01:D4:8C:F2:52:A8:9D:F2:D9:F4:8C:5E:78:50:A8:ED:58:C7:5F:A5:25:92:14:0B\r\na=setup:actpass\r\na=mid:audio\r\na=sendrecv\r\na=msid:STREAM WhatsAppTrack1\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\na=rtcp-fb:111 transport-cc\r\na=fmtp:111 maxaveragebitrate=20000;maxplaybackrate=16000;minptime=20;sprop-maxcapturerate=16000;useinbandfec=1\r\na=rtpmap:126 telephone-event/8000\r\na=maxptime:20\r\na=ptime:20\r\na=ssrc:2718281828 cname:WhatsAppAudioStream1\r\n";

    #[test]
    fn the_offer_is_the_captured_one_byte_for_byte() {
        let fingerprint = [
            0xae, 0x89, 0xc4, 0x6b, 0x2c, 0x5f, 0xe3, 0x29, 0x01, 0xd4, 0x8c, 0xf2, 0x52, 0xa8, 0x9d, 0xf2, 0xd9, 0xf4,
            0x8c, 0x5e, 0x78, 0x50, 0xa8, 0xed, 0x58, 0xc7, 0x5f, 0xa5, 0x25, 0x92, 0x14, 0x0b,
        ];
        let v6: Ipv6Addr = "2001:db8:f36b:131:face:b00c:0:699c".parse().unwrap();
        let offer = write_offer(&OfferText {
            addresses: &[Ipv4Addr::new(203, 0, 113, 49).into(), v6.into()],
            port: 3_480,
            ufrag: "QmZ7rT2xLp9VkDsA",
            pwd: "n4Fq+1zR8w/Kp0aYt3LdXg==",
            fingerprint: &fingerprint,
            ssrc: 2_718_281_828,
            session_id: 1_767_225_600_412,
        });
        assert_eq!(offer.replace(&stream_id(1_767_225_600_412, 2_718_281_828), "STREAM"), CAPTURED);
    }

    #[test]
    fn a_stream_id_has_the_form_of_a_uuid() {
        let id = stream_id(1_767_225_600_412, 2_718_281_828);
        let lengths: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
    }
}
