//! What an offer asks for, and what we make of it (RFC 3264, 8842, 8445; the roles of the gateway toward lite and full peers).
//!
//! Toward an ICE-lite offer (WhatsApp) we are the full, controlling agent and the DTLS client; toward a full offer we are lite
//! and the DTLS server, unless the offer's `a=setup` leaves no choice. Why not full on both sides: a lite agent needs no checks
//! of its own, and a browser brings the mobility that we would have to write.

use super::EdgeError;
use engine::dtls::{DtlsRole, DtlsVersions};
use engine::ice::IceRole;
use engine::leg::rtp::RtpRemote;
use engine::leg::webrtc::{WebrtcConfig, WebrtcRemote};
use engine::leg::{EventFormat, LocalLeg, MediaFormat};
use engine::sdp::{
    self, Codec, CodecFormat, Description, Direction, OpusParameters, Profile, RtpLocal, SdpError, Setup, TelephoneEventFormat,
    WebrtcLocal,
};
use std::net::{IpAddr, SocketAddr};

/// What a transcoded leg wishes to receive: decoding wideband costs half of fullband, and the SIP side is narrowband anyway.
const OPUS_WISHES: OpusParameters = OpusParameters {
    max_average_bitrate: Some(20_000),
    max_playback_rate_hz: Some(16_000),
    max_capture_rate_hz: Some(16_000),
    min_ptime_ms: Some(20),
    use_inband_fec: true,
    use_dtx: false,
    stereo: false,
};

/// Static payload types (RFC 3551 §6) and ours for telephone-event.
const PCMU: CodecFormat = CodecFormat { codec: Codec::Pcmu, payload_type: 0, opus: NO_OPUS };
const PCMA: CodecFormat = CodecFormat { codec: Codec::Pcma, payload_type: 8, opus: NO_OPUS };
const TELEPHONE_EVENT: TelephoneEventFormat = TelephoneEventFormat { payload_type: 101, clock_rate_hz: 8_000 };
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
    remote: WebrtcRemote,
    codec: CodecFormat,
    telephone_event: Option<TelephoneEventFormat>,
}

impl Plan {
    /// Reads a WebRTC offer; the error is the HTTP answer to `new`.
    pub fn read(offer: &str) -> Result<Plan, EdgeError> {
        let offer = sdp::parse(offer).map_err(offer_error)?;
        let refuse = |code: &str, message: &str| Err(EdgeError::new(422, code, message));
        let Some(ice) = offer.ice.clone() else {
            return refuse("no_ice", "the offer has no ice-ufrag and ice-pwd in its audio section");
        };
        let Some(fingerprint) = offer.fingerprint else {
            return match offer.crypto.is_empty() {
                true => refuse("no_fingerprint", "the offer has no sha-256 fingerprint"),
                false => {
                    refuse("sdes_unsupported", "the offer has a=crypto and no fingerprint: set the number to DTLS")
                }
            };
        };
        if ice.lite && ice.candidates.is_empty() {
            return refuse("no_candidates", "the offer is ICE-lite and has no usable UDP candidate");
        }
        // Opus wherever it is offered: PCMU beside it means that WhatsApp would transcode.
        let opus = offer.codecs.iter().find(|format| format.codec == Codec::Opus);
        let Some(theirs) = opus.or(offer.codecs.first()).copied() else {
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

    /// How the leg begins.
    pub fn config(&self, hold: bool) -> WebrtcConfig {
        WebrtcConfig {
            ice: self.ice,
            versions: self.versions,
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
        format!("offer answered: ICE {ice}, DTLS {dtls}, {codec}")
    }
}

/// Our half of the SIP dialog's descriptions.
pub(super) struct RtpSide {
    address: IpAddr,
    port: u16,
    session_id: u64,
    version: u64,
    /// What was written last, to know when the version must step (RFC 3264 §8).
    written: String,
    /// What was answered last: kept through a re-INVITE if the peer still offers it.
    codec: Option<Codec>,
}

impl RtpSide {
    /// For a leg whose port is known.
    pub fn new(address: IpAddr, port: u16, session_id: u64) -> RtpSide {
        RtpSide { address, port, session_id, version: 1, written: String::new(), codec: None }
    }

    /// Our offer: PCMU, PCMA and telephone-event.
    pub fn offer(&mut self) -> String {
        let codecs = match self.codec {
            Some(Codec::Pcma) => vec![PCMA, PCMU],
            _ => vec![PCMU, PCMA],
        };
        let local = self.local(codecs, Some(TELEPHONE_EVENT), Direction::SendRecv);
        self.write(local, sdp::write_rtp_offer)
    }

    /// The peer's answer to our offer.
    pub fn read_answer(&mut self, answer: &str) -> Result<RtpRemote, SdpError> {
        let answer = sdp::parse(answer)?;
        let theirs = g711(&answer, None).ok_or(SdpError::NoCommonCodec)?;
        let event = pick_event(&answer.telephone_events, theirs.codec).map(|event| EventFormat {
            send_payload_type: event.payload_type,
            receive_payload_type: TELEPHONE_EVENT.payload_type,
            clock_rate_hz: event.clock_rate_hz,
        });
        let ours = if theirs.codec == Codec::Pcma { PCMA } else { PCMU };
        self.codec = Some(theirs.codec);
        remote(&answer, theirs, ours.payload_type, event)
    }

    /// The peer's new offer within the dialog: our answer, and what changes.
    pub fn read_offer(&mut self, offer: &str) -> Result<(String, RtpRemote), SdpError> {
        let offer = sdp::parse(offer)?;
        let theirs = g711(&offer, self.codec).ok_or(SdpError::NoCommonCodec)?;
        let event = pick_event(&offer.telephone_events, theirs.codec);
        let remote = remote(&offer, theirs, theirs.payload_type, event.map(mirrored))?;
        let direction = match offer.direction {
            Direction::SendRecv => Direction::SendRecv,
            Direction::SendOnly => Direction::RecvOnly,
            Direction::RecvOnly => Direction::SendOnly,
            Direction::Inactive => Direction::Inactive,
        };
        self.codec = Some(theirs.codec);
        let local = self.local(vec![theirs], event, direction);
        let answer = self.write(local, |local| sdp::write_rtp_answer(&offer, local));
        Ok((answer, remote))
    }

    fn local(
        &self,
        codecs: Vec<CodecFormat>,
        telephone_event: Option<TelephoneEventFormat>,
        direction: Direction,
    ) -> RtpLocal {
        RtpLocal {
            address: self.address,
            port: self.port,
            profile: Profile::RtpAvp,
            rtcp_mux: false,
            crypto: Vec::new(),
            codecs,
            telephone_events: Vec::from_iter(telephone_event),
            direction,
            session_id: self.session_id,
            session_version: self.version,
        }
    }

    fn write(&mut self, mut local: RtpLocal, write: impl Fn(&RtpLocal) -> String) -> String {
        let mut text = write(&local);
        if !self.written.is_empty() && text != self.written {
            self.version += 1;
            local.session_version = self.version;
            text = write(&local);
        }
        self.written = text.clone();
        text
    }
}

/// What the peer says about its end. An unspecified address is the old way to say hold (RFC 3264 §8.4).
fn remote(
    description: &Description,
    theirs: CodecFormat,
    receive_payload_type: u8,
    telephone_event: Option<EventFormat>,
) -> Result<RtpRemote, SdpError> {
    let address = description.address.ok_or(SdpError::Malformed)?;
    let next = SocketAddr::new(address.ip(), address.port().saturating_add(1));
    let rtcp_address = if description.rtcp_mux { address } else { description.rtcp_address.unwrap_or(next) };
    let wants = matches!(description.direction, Direction::SendRecv | Direction::RecvOnly);
    Ok(RtpRemote {
        address,
        rtcp_address,
        rtcp_mux: description.rtcp_mux,
        format: MediaFormat {
            codec: theirs.codec,
            send_payload_type: theirs.payload_type,
            receive_payload_type,
            opus: NO_OPUS,
            telephone_event,
        },
        sending: wants && !address.ip().is_unspecified(),
        srtp: None,
    })
}

/// The description's first G.711 codec, or `preferred` if it is there.
fn g711(description: &Description, preferred: Option<Codec>) -> Option<CodecFormat> {
    let usable = || description.codecs.iter().filter(|format| matches!(format.codec, Codec::Pcmu | Codec::Pcma));
    usable().find(|format| Some(format.codec) == preferred).or_else(|| usable().next()).copied()
}

/// The telephone-event at 8 kHz (WhatsApp's, whatever the audio's clock), else the one at the audio's clock.
fn pick_event(offered: &[TelephoneEventFormat], codec: Codec) -> Option<TelephoneEventFormat> {
    let at = |clock_rate_hz: u32| offered.iter().find(|event| event.clock_rate_hz == clock_rate_hz).copied();
    at(8_000).or_else(|| at(codec.clock_rate_hz()))
}

fn mirrored(event: TelephoneEventFormat) -> EventFormat {
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
    }
}
