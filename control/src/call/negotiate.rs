//! What a session's offer asks for, and what we make of it (RFC 3264, 8842, 8445; the roles of the gateway toward lite and full peers).
//!
//! An offer with a fingerprint is keyed by DTLS. One that has `a=crypto` alone is keyed by SDES (RFC 4568), without ICE: WhatsApp's, when
//! the number says `srtp_key_exchange_protocol: SDES`. Its media are ready with the answer, and the first packet is ours to send.
//!
//! Toward an ICE-lite offer (WhatsApp) we are the full, controlling agent and the DTLS client; toward a full offer we are lite
//! and the DTLS server, unless the offer's `a=setup` leaves no choice. Why not full on both sides: a lite agent needs no checks
//! of its own, and a browser brings the mobility that we would have to write.

use super::backends::{Choice, Peer};
use super::half::{Formats, rtp_remote};
use super::{EdgeError, NewSession};
use engine::bridge::LegConfig;
use engine::dtls::{DtlsRole, DtlsVersions};
use engine::ice::IceRole;
use engine::leg::rtp::{RtpConfig, RtpRemote};
use engine::leg::webrtc::{WebrtcConfig, WebrtcRemote};
use engine::leg::{EventFormat, LocalLeg, MediaFormat};
use engine::random::Random;
use engine::sdp::{
    self, Codec, CodecFormat, CryptoLine, Description, Direction, OpusParameters, Profile, RtpLocal, SDES_SUITES, Sdes,
    SdpError, Setup, TelephoneEventFormat, WebrtcLocal, suite_name,
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

/// A session's offer, and the roles and formats of our answer to it.
pub(super) struct Plan {
    /// Until it is answered.
    offer: Option<Box<Description>>,
    /// Which library does DTLS.
    pub backend: Choice,
    keying: Keying,
    codec: CodecFormat,
    /// The same with the peer's wishes for what we send.
    format: MediaFormat,
    telephone_event: Option<TelephoneEventFormat>,
}

/// Where the keys come from.
enum Keying {
    /// ICE and DTLS-SRTP.
    /// The peer is the leg's once that has begun.
    Dtls { ice: IceRole, dtls: DtlsRole, versions: DtlsVersions, remote: Option<Box<WebrtcRemote>> },
    /// The descriptions themselves: our line, and the peer with both keys.
    Sdes { line: Box<CryptoLine>, remote: Box<RtpRemote> },
}

impl Plan {
    /// Reads an offer, of which the first of `codecs` that it has is taken; keys of ours come from `random`. The error is the HTTP answer
    /// to `new`.
    pub fn read(offer: &str, codecs: &[Codec], allows_sdes: bool, random: &mut Random) -> Result<Plan, EdgeError> {
        let offer = sdp::parse(offer).map_err(offer_error)?;
        // Said first: such an offer lacks ICE as well, and that is not what to change.
        let is_sdes = offer.fingerprint.is_none() && !offer.crypto.is_empty();
        if is_sdes && !allows_sdes {
            return refuse("sdes_forbidden", "the offer has a=crypto and no fingerprint, and EDGE_SDES is false");
        }
        let offered = |codec: &Codec| offer.codecs.iter().find(|format| format.codec == *codec).copied();
        let theirs = codecs.iter().find_map(offered);
        let telephone_event = theirs.and_then(|theirs| pick_event(&offer.telephone_events, theirs.codec));
        let format = |theirs: CodecFormat| MediaFormat {
            codec: theirs.codec,
            send_payload_type: theirs.payload_type,
            receive_payload_type: theirs.payload_type,
            opus: theirs.opus,
            telephone_event: telephone_event.map(mirrored),
        };
        // The keying is judged before the codec: it is the graver fault.
        let keying = match is_sdes {
            true => theirs.map(|theirs| by_sdes(&offer, format(theirs), random)).transpose()?,
            false => by_dtls(&offer, theirs.map(format))?,
        };
        let (Some(theirs), Some(keying)) = (theirs, keying) else {
            return refuse("no_common_codec", "the offer has no codec of ours in its audio section");
        };
        let opus = if theirs.codec == Codec::Opus { OPUS_WISHES } else { NO_OPUS };
        Ok(Plan {
            backend: Choice::default(),
            keying,
            codec: CodecFormat { codec: theirs.codec, payload_type: theirs.payload_type, opus },
            format: format(theirs),
            telephone_event,
            offer: Some(Box::new(offer)),
        })
    }

    /// What WhatsApp takes from now on: the codec answered, with WhatsApp's own wishes.
    pub fn formats(&self) -> Formats {
        let codec = CodecFormat { opus: self.format.opus, ..self.codec };
        Formats { codecs: vec![codec], events: Vec::from_iter(self.telephone_event) }
    }

    /// With whom the handshake of such a session is done: WhatsApp for that number, else whoever asked; `None` where there is none.
    pub fn peer(&self, new: &NewSession) -> Option<Peer> {
        let Keying::Dtls { remote: Some(remote), .. } = &self.keying else { return None };
        Some(match (&new.to, &new.from) {
            (Some(number), _) => Peer::Number(number.clone()),
            (None, Some(caller)) => Peer::Caller(caller.clone()),
            (None, None) => Peer::Certificate(remote.fingerprint),
        })
    }

    /// How the leg begins. The peer of one that is keyed by SDES is told to it later, by [`Plan::described`].
    pub fn config(&mut self, hold: bool) -> LegConfig {
        match &mut self.keying {
            Keying::Dtls { ice, versions, remote, .. } => LegConfig::Webrtc(Box::new(WebrtcConfig {
                ice: *ice,
                versions: self.backend.versions(*versions),
                credentials: None,
                hold,
                remote: remote.take().map(|remote| *remote),
            })),
            Keying::Sdes { .. } => LegConfig::Rtp(RtpConfig { remote: None }),
        }
    }

    /// The peer of a leg that is keyed by SDES: nothing has to be set up with it.
    pub fn described(&self) -> Option<RtpRemote> {
        match &self.keying {
            Keying::Dtls { .. } => None,
            Keying::Sdes { remote, .. } => Some(RtpRemote::clone(remote)),
        }
    }

    /// The answer; `None` when the engine's leg is of another kind, which would be a bug.
    pub fn answer(&mut self, local: &LocalLeg, addresses: &[IpAddr], session_id: u64) -> Option<String> {
        let offer = self.offer.take()?;
        match (local, &self.keying) {
            (LocalLeg::Webrtc { ufrag, pwd, fingerprint, ssrc, port }, Keying::Dtls { ice, dtls, .. }) => {
                let local = WebrtcLocal {
                    addresses: addresses.to_vec(),
                    port: *port,
                    ufrag: ufrag.clone(),
                    pwd: pwd.clone(),
                    lite: *ice == IceRole::Lite,
                    fingerprint: *fingerprint,
                    setup: if *dtls == DtlsRole::Client { Setup::Active } else { Setup::Passive },
                    ssrc: *ssrc,
                    codec: self.codec,
                    telephone_event: self.telephone_event,
                    direction: Direction::SendRecv,
                    session_id,
                    session_version: 1,
                };
                Some(sdp::write_webrtc_answer(&offer, &local))
            }
            (LocalLeg::Rtp { port, .. }, Keying::Sdes { line, remote }) => {
                // One description has one address: that of the peer's family, if there is one.
                let is_fitting = |address: &&IpAddr| address.is_ipv4() == remote.address.is_ipv4();
                let local = RtpLocal {
                    address: *addresses.iter().find(is_fitting).or(addresses.first())?,
                    port: *port,
                    profile: Profile::RtpSavp,
                    rtcp_mux: false,
                    crypto: vec![CryptoLine::clone(line)],
                    codecs: vec![self.codec],
                    telephone_events: Vec::from_iter(self.telephone_event),
                    direction: Direction::SendRecv,
                    session_id,
                    session_version: 1,
                };
                Some(sdp::write_rtp_answer(&offer, &local))
            }
            _ => None,
        }
    }

    /// Our roles in words, for the timeline.
    pub fn describe(&self) -> String {
        let codec = codec_name(self.codec.codec);
        match &self.keying {
            Keying::Dtls { ice, dtls, .. } => {
                let ice = match ice {
                    IceRole::Lite => "lite",
                    IceRole::Controlling => "controlling",
                    IceRole::Controlled => "controlled",
                };
                let dtls = if *dtls == DtlsRole::Client { "client" } else { "server" };
                format!("offer answered: ICE {ice}, DTLS {dtls}{}, {codec}", self.backend.words())
            }
            Keying::Sdes { line, .. } => format!("offer answered: SDES, {}, {codec}", suite_name(line.suite)),
        }
    }
}

fn refuse<T>(code: &str, message: &str) -> Result<T, EdgeError> {
    Err(EdgeError::new(422, code, message))
}

/// Our roles toward a WebRTC offer; `None` without a codec.
fn by_dtls(offer: &Description, format: Option<MediaFormat>) -> Result<Option<Keying>, EdgeError> {
    let Some(ice) = offer.ice.clone() else {
        return refuse("no_ice", "the offer has no ice-ufrag and ice-pwd in its audio section");
    };
    let Some(fingerprint) = offer.fingerprint else {
        return refuse("no_fingerprint", "the offer has no sha-256 fingerprint");
    };
    if ice.lite && ice.candidates.is_empty() {
        return refuse("no_candidates", "the offer is ICE-lite and has no usable UDP candidate");
    }
    let Some(format) = format else { return Ok(None) };
    let dtls = match offer.setup {
        Some(Setup::Active) => DtlsRole::Server,
        Some(Setup::Passive) => DtlsRole::Client,
        Some(Setup::ActPass) | None if ice.lite => DtlsRole::Client,
        Some(Setup::ActPass) | None => DtlsRole::Server,
    };
    Ok(Some(Keying::Dtls {
        ice: if ice.lite { IceRole::Controlling } else { IceRole::Lite },
        versions: if ice.lite { DtlsVersions::V12 } else { DtlsVersions::Auto },
        dtls,
        remote: Some(Box::new(WebrtcRemote { ice, fingerprint, dtls, format })),
    }))
}

/// Our key for an offer with `a=crypto`, and whom it names.
fn by_sdes(offer: &Description, format: MediaFormat, random: &mut Random) -> Result<Keying, EdgeError> {
    let mut sdes = Sdes::new(&SDES_SUITES, random.fork());
    let (line, keys) = match sdes.read_offer(offer) {
        Ok((line, keys)) => (Box::new(line), keys.clone()),
        Err(_) => return refuse("no_usable_crypto", "no a=crypto line of the offer can be used"),
    };
    match rtp_remote(offer, format, Some(keys)) {
        Ok(remote) => Ok(Keying::Sdes { line, remote: Box::new(remote) }),
        Err(_) => refuse("no_address", "the offer's address is a name: write an IP address into c="),
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
