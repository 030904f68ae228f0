//! A far end that answers an offer, as a gateway does: full, controlling and DTLS client toward ICE-lite, lite and passive else.

use super::audio::OpusSettings;
use super::webrtc_offerer::{AnswerError, EVENT_PAYLOAD_TYPE, remote_of};
use super::webrtc_peer::WebrtcPeer;
use engine::dtls::{DtlsRole, DtlsVersions, Identity};
use engine::ice::IceRole;
use engine::leg::LocalLeg;
use engine::leg::webrtc::WebrtcConfig;
use engine::sdp::{self, Codec, CodecFormat, OpusParameters, Setup, TelephoneEventFormat, WebrtcLocal};
use std::io;
use std::net::IpAddr;

/// A far end that answered.
pub struct WebrtcAnswerer {
    /// The far end.
    pub peer: WebrtcPeer,
    /// Its answer.
    pub answer: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum AnswererError {
    /// The offer.
    Offer(AnswerError),
    /// The socket.
    Io(io::Error),
}

impl WebrtcAnswerer {
    /// Answers `offer` with a candidate for each of `addresses`; with `hold` nothing is sent before `peer.release()`.
    pub async fn start(
        offer: &str,
        addresses: &[IpAddr],
        hold: bool,
        identity: &Identity,
        opus: OpusSettings,
    ) -> Result<WebrtcAnswerer, AnswererError> {
        let offer = sdp::parse(offer).map_err(|error| AnswererError::Offer(AnswerError::Sdp(error)))?;
        let codec = offer.codecs.iter().find(|codec| codec.codec == Codec::Opus);
        let codec = codec.ok_or(AnswererError::Offer(AnswerError::NoOpus))?;
        let event = offer.telephone_events.iter().copied().find(|event| event.clock_rate_hz == 8_000);
        let event_number = event.map_or(EVENT_PAYLOAD_TYPE, |event| event.payload_type);
        let lite_offer = offer.ice.as_ref().is_some_and(|ice| ice.lite);
        let (ice, dtls, setup, versions) = if lite_offer {
            (IceRole::Controlling, DtlsRole::Client, Setup::Active, DtlsVersions::V12)
        } else {
            (IceRole::Lite, DtlsRole::Server, Setup::Passive, DtlsVersions::Auto)
        };
        let remote = remote_of(&offer, dtls, codec.payload_type, event_number).map_err(AnswererError::Offer)?;
        let config = WebrtcConfig { ice, versions, credentials: None, hold, remote: Some(remote) };
        let peer = WebrtcPeer::start(config, identity, opus).await.map_err(AnswererError::Io)?;
        let LocalLeg::Webrtc { ufrag, pwd, fingerprint, ssrc, port } = peer.local().clone() else {
            return Err(AnswererError::Offer(AnswerError::NoIce));
        };
        let local = WebrtcLocal {
            addresses: addresses.to_vec(),
            port,
            ufrag,
            pwd,
            lite: ice == IceRole::Lite,
            fingerprint,
            setup,
            ssrc,
            codec: CodecFormat {
                codec: Codec::Opus,
                payload_type: codec.payload_type,
                opus: OpusParameters {
                    max_average_bitrate: Some(20_000),
                    max_playback_rate_hz: Some(16_000),
                    max_capture_rate_hz: Some(16_000),
                    min_ptime_ms: Some(20),
                    use_inband_fec: true,
                    ..OpusParameters::default()
                },
            },
            telephone_event: event.map(|_| TelephoneEventFormat { payload_type: event_number, clock_rate_hz: 8_000 }),
            direction: engine::sdp::Direction::SendRecv,
            session_id: u64::from(ssrc),
            session_version: 1,
        };
        Ok(WebrtcAnswerer { answer: sdp::write_webrtc_answer(&offer, &local), peer })
    }
}
