//! A full-ICE caller that offers, such as a browser or a softphone: controlling, actpass.
//!
//! Toward a gateway that answers lite and passive it sends the checks, nominates, and opens DTLS.

use super::audio::OpusSettings;
use super::webrtc_offerer::{AnswerError, read_answer};
use super::webrtc_peer::WebrtcPeer;
use engine::dtls::{DtlsVersions, Identity};
use engine::ice::IceRole;
use engine::leg::LocalLeg;
use engine::leg::webrtc::WebrtcConfig;
use engine::sdp::{self, Codec, CodecFormat, OpusParameters, Setup, TelephoneEventFormat, WebrtcLocal};
use std::io;
use std::net::IpAddr;

/// Opus in its offers.
const OPUS_PAYLOAD_TYPE: u8 = 111;
/// telephone-event in its offers.
const EVENT_PAYLOAD_TYPE: u8 = 110;

/// A caller with a complete ICE agent.
pub struct WebrtcCaller {
    /// The caller.
    pub peer: WebrtcPeer,
    /// Its offer.
    pub offer: String,
}

impl WebrtcCaller {
    /// Opens a socket and writes the offer, with a candidate for each of `addresses`.
    pub async fn start(
        addresses: &[IpAddr],
        identity: &Identity,
        versions: DtlsVersions,
        opus: OpusSettings,
    ) -> io::Result<WebrtcCaller> {
        let config = WebrtcConfig { ice: IceRole::Controlling, versions, credentials: None, hold: false, remote: None };
        let peer = WebrtcPeer::start(config, identity, opus).await?;
        let offer = match peer.local() {
            LocalLeg::Webrtc { ufrag, pwd, fingerprint, ssrc, port } => sdp::write_webrtc_offer(
                &WebrtcLocal {
                    addresses: addresses.to_vec(),
                    port: *port,
                    ufrag: ufrag.clone(),
                    pwd: pwd.clone(),
                    lite: false,
                    fingerprint: *fingerprint,
                    setup: Setup::ActPass,
                    ssrc: *ssrc,
                    codec: CodecFormat {
                        codec: Codec::Opus,
                        payload_type: OPUS_PAYLOAD_TYPE,
                        opus: OpusParameters {
                            min_ptime_ms: Some(10),
                            use_inband_fec: true,
                            ..OpusParameters::default()
                        },
                    },
                    telephone_event: Some(TelephoneEventFormat {
                        payload_type: EVENT_PAYLOAD_TYPE,
                        clock_rate_hz: 8_000,
                    }),
                    direction: engine::sdp::Direction::SendRecv,
                    session_id: u64::from(*ssrc),
                    session_version: 1,
                },
                "0",
                &[],
                &[],
            ),
            LocalLeg::Rtp { .. } => String::new(),
        };
        Ok(WebrtcCaller { peer, offer })
    }

    /// Takes the answer; ICE and DTLS begin.
    pub fn answer(&self, text: &str) -> Result<(), AnswerError> {
        self.peer.set_remote(read_answer(text, OPUS_PAYLOAD_TYPE, EVENT_PAYLOAD_TYPE)?);
        Ok(())
    }
}
