//! What an offer asks for, and what we make of it (RFC 3264, 8842, 8445; the roles of the gateway toward lite and full peers).
//!
//! Toward an ICE-lite offer (WhatsApp) we are the full, controlling agent and the DTLS client; toward a full offer we are lite
//! and the DTLS server, unless the offer's `a=setup` leaves no choice. Why not full on both sides: a lite agent needs no checks
//! of its own, and a browser brings the mobility that we would have to write.

use super::backends::{Choice, Peer};
use super::half::Formats;
use super::{EdgeError, NewSession};
use engine::dtls::{DtlsRole, DtlsVersions};
use engine::ice::IceRole;
use engine::leg::webrtc::{WebrtcConfig, WebrtcRemote};
use engine::leg::{EventFormat, LocalLeg, MediaFormat};
use engine::sdp::{
    self, Codec, CodecFormat, Description, Direction, OpusParameters, SdpError, Setup, TelephoneEventFormat,
    WebrtcLocal,
};
use std::net::IpAddr;

/// What a transcoded leg wishes to receive: decoding wideband costs half of fullband, and the SIP side is narrowband anyway.
pub(super) const OPUS_WISHES: OpusParameters = OpusParameters {
    max_average_bitrate: Some(20_000),
    max_playback_rate_hz: Some(16_000),
    max_capture_rate_hz: Some(16_000),
    min_ptime_ms: Some(20),
    use_inband_fec: true,
    use_dtx: false,
    stereo: false,
};

const NO_OPUS: OpusParameters = OpusParameters {
    max_average_bitrate: None,
    max_playback_rate_hz: None,
    max_capture_rate_hz: None,
    min_ptime_ms: None,
    use_inband_fec: false,
    use_dtx: false,
    stereo: false,
};

/// A WebRTC offer, and the roles and formats of our answer to it.
pub(super) struct Plan {
    offer: Description,
    pub ice: IceRole,
    pub dtls: DtlsRole,
    versions: DtlsVersions,
    /// Which library does DTLS.
    pub backend: Choice,
    remote: WebrtcRemote,
    codec: CodecFormat,
    telephone_event: Option<TelephoneEventFormat>,
}

impl Plan {
    /// Reads a WebRTC offer, of which the first of `codecs` that it has is taken; the error is the HTTP answer to `new`.
    pub fn read(offer: &str, codecs: &[Codec]) -> Result<Plan, EdgeError> {
        let offer = sdp::parse(offer).map_err(offer_error)?;
        let refuse = |code: &str, message: &str| Err(EdgeError::new(422, code, message));
        // Said first: such an offer lacks ICE as well, and that is not what to change.
        if offer.fingerprint.is_none() && !offer.crypto.is_empty() {
            return refuse("sdes_unsupported", "the offer has a=crypto and no fingerprint: set the number to DTLS");
        }
        let Some(ice) = offer.ice.clone() else {
            return refuse("no_ice", "the offer has no ice-ufrag and ice-pwd in its audio section");
        };
        let Some(fingerprint) = offer.fingerprint else {
            return refuse("no_fingerprint", "the offer has no sha-256 fingerprint");
        };
        if ice.lite && ice.candidates.is_empty() {
            return refuse("no_candidates", "the offer is ICE-lite and has no usable UDP candidate");
        }
        let offered = |codec: &Codec| offer.codecs.iter().find(|format| format.codec == *codec).copied();
        let Some(theirs) = codecs.iter().find_map(offered) else {
            return refuse("no_common_codec", "the offer has no codec of ours in its audio section");
        };
        let dtls = match offer.setup {
            Some(Setup::Active) => DtlsRole::Server,
            Some(Setup::Passive) => DtlsRole::Client,
            Some(Setup::ActPass) | None if ice.lite => DtlsRole::Client,
            Some(Setup::ActPass) | None => DtlsRole::Server,
        };
        let telephone_event = pick_event(&offer.telephone_events, theirs.codec);
        let opus = if theirs.codec == Codec::Opus { OPUS_WISHES } else { NO_OPUS };
        Ok(Plan {
            ice: if ice.lite { IceRole::Controlling } else { IceRole::Lite },
            versions: if ice.lite { DtlsVersions::V12 } else { DtlsVersions::Auto },
            backend: Choice::default(),
            dtls,
            remote: WebrtcRemote {
                ice,
                fingerprint,
                dtls,
                format: MediaFormat {
                    codec: theirs.codec,
                    send_payload_type: theirs.payload_type,
                    receive_payload_type: theirs.payload_type,
                    opus: theirs.opus,
                    telephone_event: telephone_event.map(mirrored),
                },
            },
            codec: CodecFormat { codec: theirs.codec, payload_type: theirs.payload_type, opus },
            telephone_event,
            offer,
        })
    }

    /// What WhatsApp takes from now on: the codec answered, with WhatsApp's own wishes.
    pub fn formats(&self) -> Formats {
        let codec = CodecFormat { opus: self.remote.format.opus, ..self.codec };
        Formats { codecs: vec![codec], events: Vec::from_iter(self.telephone_event) }
    }

    /// With whom the handshake of such a session is done: WhatsApp for that number, else whoever asked.
    pub fn peer(&self, new: &NewSession) -> Peer {
        match (&new.to, &new.from) {
            (Some(number), _) => Peer::Number(number.clone()),
            (None, Some(caller)) => Peer::Caller(caller.clone()),
            (None, None) => Peer::Certificate(self.remote.fingerprint),
        }
    }

    /// How the leg begins.
    pub fn config(&self, hold: bool) -> WebrtcConfig {
        WebrtcConfig {
            ice: self.ice,
            versions: self.backend.versions(self.versions),
            credentials: None,
            hold,
            remote: Some(self.remote.clone()),
        }
    }

    /// The answer; `None` when the engine's leg is not a webrtc one, which would be a bug.
    pub fn answer(&self, local: &LocalLeg, addresses: &[IpAddr], session_id: u64) -> Option<String> {
        let LocalLeg::Webrtc { ufrag, pwd, fingerprint, ssrc, port } = local else { return None };
        let local = WebrtcLocal {
            addresses: addresses.to_vec(),
            port: *port,
            ufrag: ufrag.clone(),
            pwd: pwd.clone(),
            lite: self.ice == IceRole::Lite,
            fingerprint: *fingerprint,
            setup: if self.dtls == DtlsRole::Client { Setup::Active } else { Setup::Passive },
            ssrc: *ssrc,
            codec: self.codec,
            telephone_event: self.telephone_event,
            direction: Direction::SendRecv,
            session_id,
            session_version: 1,
        };
        Some(sdp::write_webrtc_answer(&self.offer, &local))
    }

    /// Our roles in words, for the timeline.
    pub fn describe(&self) -> String {
        let ice = match self.ice {
            IceRole::Lite => "lite",
            IceRole::Controlling => "controlling",
            IceRole::Controlled => "controlled",
        };
        let dtls = if self.dtls == DtlsRole::Client { "client" } else { "server" };
        let codec = codec_name(self.codec.codec);
        format!("offer answered: ICE {ice}, DTLS {dtls}{}, {codec}", self.backend.words())
    }
}

/// The telephone-event at the audio's clock (RFC 4733 §2.1), else the one at 8 kHz (WhatsApp's, whatever the audio's clock).
///
/// Why in this order: Chromium counts a key's length on the audio's clock. Beside Opus it sends an event at 8 kHz as three end packets
/// with nothing before them.
pub(super) fn pick_event(offered: &[TelephoneEventFormat], codec: Codec) -> Option<TelephoneEventFormat> {
    let at = |clock_rate_hz: u32| offered.iter().find(|event| event.clock_rate_hz == clock_rate_hz).copied();
    at(codec.clock_rate_hz()).or_else(|| at(8_000))
}

pub(super) fn mirrored(event: TelephoneEventFormat) -> EventFormat {
    EventFormat {
        send_payload_type: event.payload_type,
        receive_payload_type: event.payload_type,
        clock_rate_hz: event.clock_rate_hz,
    }
}

fn offer_error(error: SdpError) -> EdgeError {
    match error {
        SdpError::Malformed => EdgeError::new(400, "bad_sdp", "sdp_offer is not SDP"),
        SdpError::TooLong => EdgeError::new(413, "sdp_too_long", "sdp_offer is longer than the limit"),
        SdpError::NoAudio => EdgeError::new(422, "no_audio", "the offer has no audio section with a port"),
        SdpError::NoCommonCodec => EdgeError::new(422, "no_common_codec", "the offer has no codec of ours"),
        SdpError::UnknownProfile => EdgeError::new(422, "unknown_profile", "the offer's audio transport is unknown"),
    }
}

/// A codec's name for people.
pub(super) fn codec_name(codec: Codec) -> &'static str {
    match codec {
        Codec::Opus => "Opus",
        Codec::Pcmu => "PCMU",
        Codec::Pcma => "PCMA",
        Codec::G722 => "G.722",
    }
}
