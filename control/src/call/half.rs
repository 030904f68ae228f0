//! Our half of one leg's descriptions, through every offer and answer of its dialog (RFC 3264).
//!
//! ```text
//!  incoming: their offer ──► formats ──(the far side chose)──► answer, LegRemote
//!  outgoing: formats ──► our offer ──► their answer ──► LegRemote, the codec they took
//!  later:    their new offer ──► our answer: hold, a new address; the codec stays
//!            our ICE restart ──► their answer: only where the leg is webrtc, its peer a full agent, and nothing comes from it
//! ```
//!
//! The kind of a leg follows the offer when it is theirs (RTP/AVP, RTP/SAVP with `a=crypto`, UDP/TLS with ICE) and the route when
//! it is ours. Toward an ICE-lite offer we are the full, controlling agent and the DTLS client, toward a full one lite and the
//! DTLS server.
//!
//! Why the answer to a caller waits for the callee's: only a codec that both sides took passes untouched, and whoever answers
//! first answers blindly. What the caller offered is what the callee is offered, in the same order and with the same wishes
//! (fmtp); codecs beyond that are offered only where transcoding is allowed.

use super::backends::Choice;
use super::limits::ICE_RESTARTS_MAX;
use super::negotiate::{OPUS_WISHES, codec_name, mirrored, pick_event};
use crate::route::{Ice, MediaProfile, Transport, Trunk};
use crate::sip::gatekeeper::Refusal;
use engine::bridge::{LegConfig, LegRemote};
use engine::dtls::{DtlsRole, DtlsVersions};
use engine::ice::{IceCredentials, IceRole};
use engine::leg::rtp::{RtpConfig, RtpRemote};
use engine::leg::webrtc::{WebrtcChange, WebrtcConfig, WebrtcRemote};
use engine::leg::{EventFormat, LocalLeg, MediaFormat};
use engine::random::Random;
use engine::sdp::{
    self, Codec, CodecFormat, CryptoLine, Description, Direction, IceDescription, OpusParameters, Profile, RtpLocal,
    SDES_SUITES, Sdes, SdpError, Setup, TelephoneEventFormat, WebrtcLocal,
};
use engine::srtp::SrtpKeys;
use sha2::{Digest, Sha256};
use std::net::{IpAddr, SocketAddr};

/// Number of telephone-event in offers of ours, unless a codec has it.
const EVENT_PAYLOAD_TYPE: u8 = 101;

/// The same for telephone-event on Opus's clock: the number that Chromium gives it.
const FAST_EVENT_PAYLOAD_TYPE: u8 = 110;

/// `a=mid` of our WebRTC offers.
const MID: &str = "0";

/// What a leg is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaKind {
    /// RTP/AVP
    Rtp,
    /// RTP/SAVP with `a=crypto`
    Sdes,
    /// ICE and DTLS-SRTP
    Webrtc(Ice),
}

impl MediaKind {
    /// What a device speaks that is reached over this transport: browsers WebRTC, phones with TLS SDES.
    pub fn of_device(transport: Transport) -> MediaKind {
        match (transport.is_websocket(), transport.is_secure()) {
            (true, _) => MediaKind::Webrtc(Ice::Lite),
            (false, true) => MediaKind::Sdes,
            (false, false) => MediaKind::Rtp,
        }
    }

    /// What is offered on a trunk.
    pub fn of_trunk(trunk: &Trunk) -> MediaKind {
        match trunk.media {
            MediaProfile::Rtp => MediaKind::Rtp,
            MediaProfile::Sdes => MediaKind::Sdes,
            MediaProfile::Webrtc => MediaKind::Webrtc(trunk.ice),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            MediaKind::Rtp => "RTP",
            MediaKind::Sdes => "SDES",
            MediaKind::Webrtc(_) => "WebRTC",
        }
    }
}

/// What one side can take, in its order, with its numbers and wishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Formats {
    pub codecs: Vec<CodecFormat>,
    pub events: Vec<TelephoneEventFormat>,
}

impl Formats {
    /// The format of a codec.
    pub fn of(&self, codec: Codec) -> Option<CodecFormat> {
        self.codecs.iter().find(|format| format.codec == codec).copied()
    }

    /// One codec, and telephone-event at 8 kHz beside it.
    pub fn single(codec: CodecFormat, has_event: bool) -> Formats {
        let payload_type = free(EVENT_PAYLOAD_TYPE, &mut vec![codec.payload_type]);
        let events = has_event.then_some(TelephoneEventFormat { payload_type, clock_rate_hz: 8_000 });
        Formats { codecs: vec![codec], events: Vec::from_iter(events) }
    }

    /// Codecs of our own choice, without wishes: what a caller is offered who offers nothing.
    pub fn own(codecs: &[Codec]) -> Formats {
        let mut taken = Vec::new();
        let plain = |format: CodecFormat| {
            let use_inband_fec = format.codec == Codec::Opus;
            CodecFormat { opus: OpusParameters { use_inband_fec, ..OpusParameters::default() }, ..format }
        };
        let codecs = codecs.iter().map(|&codec| plain(own_format(codec, &mut taken))).collect();
        let payload_type = free(EVENT_PAYLOAD_TYPE, &mut taken);
        Formats { codecs, events: vec![TelephoneEventFormat { payload_type, clock_rate_hz: 8_000 }] }
    }

    /// Names of the codecs.
    pub fn names(&self) -> String {
        names(self.codecs.iter().map(|format| format.codec))
    }

    /// What a callee is offered on behalf of a caller with these formats: their codecs as far as `allowed`. The rest of `allowed`
    /// is offered only where transcoding is allowed and there is no other way: nothing in common, or `wide`, after a callee has
    /// refused that. Answers too whether a wide offer would hold more. The error says in words why there is nothing to offer.
    pub fn toward(&self, allowed: &[Codec], transcoding: bool, wide: bool) -> Result<(Formats, bool), String> {
        let mut codecs: Vec<CodecFormat> = Vec::new();
        for format in self.codecs.iter().filter(|format| allowed.contains(&format.codec)) {
            if codecs.iter().all(|known| known.codec != format.codec) {
                codecs.push(*format);
            }
        }
        let mut taken: Vec<u8> = codecs.iter().map(|format| format.payload_type).collect();
        let event = free(EVENT_PAYLOAD_TYPE, &mut taken);
        let is_narrow = transcoding && !wide && !codecs.is_empty() && codecs.len() < allowed.len();
        for &codec in allowed.iter().filter(|_| transcoding && !is_narrow) {
            if codecs.iter().all(|known| known.codec != codec) {
                codecs.push(own_format(codec, &mut taken));
            }
        }
        let events = vec![TelephoneEventFormat { payload_type: event, clock_rate_hz: 8_000 }];
        match codecs.is_empty() {
            false => Ok((Formats { codecs, events }, is_narrow)),
            true => Err(format!(
                "no codec in common: the caller has {}, allowed are {}, and transcoding is off",
                self.names(),
                names(allowed.iter().copied())
            )),
        }
    }
}

/// A format of ours, with the static number (RFC 3551 §6) where there is one.
fn own_format(codec: Codec, taken: &mut Vec<u8>) -> CodecFormat {
    let (payload_type, opus) = match codec {
        Codec::Pcmu => (0, OpusParameters::default()),
        Codec::Pcma => (8, OpusParameters::default()),
        Codec::G722 => (9, OpusParameters::default()),
        Codec::Opus => (111, OPUS_WISHES),
    };
    CodecFormat { codec, payload_type: free(payload_type, taken), opus }
}

/// `wanted`, or the first dynamic number that is free.
fn free(wanted: u8, taken: &mut Vec<u8>) -> u8 {
    let number = std::iter::once(wanted).chain(96..128).find(|number| !taken.contains(number)).unwrap_or(wanted);
    taken.push(number);
    number
}

fn names(codecs: impl Iterator<Item = Codec>) -> String {
    let names: Vec<&str> = codecs.map(codec_name).collect();
    if names.is_empty() { "none of ours".to_owned() } else { names.join(", ") }
}

/// What we write about ourselves.
#[derive(Clone, Copy)]
pub(super) struct Addresses<'a> {
    /// Into WebRTC descriptions, best first.
    pub webrtc: &'a [IpAddr],
    /// Into RTP descriptions.
    pub rtp: IpAddr,
}

/// What a new offer of the peer changes.
#[derive(Debug)]
pub(super) struct Reoffer {
    /// Our answer to it.
    pub answer: String,
    /// For the leg.
    pub remote: LegRemote,
    /// The peer does not want to hear us.
    pub held: bool,
}

/// An ICE restart of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Restart {
    /// The offer.
    pub offer: String,
    /// What the leg must know before it is sent.
    pub credentials: IceCredentials,
}

/// Our half.
pub(super) struct Half {
    pub kind: MediaKind,
    ice: IceRole,
    dtls: DtlsRole,
    /// Which library does DTLS.
    pub backend: Choice,
    /// For the credentials of an ICE restart. A stream of its own would take ten times as much.
    seed: [u8; 32],
    session_id: u64,
    version: u64,
    /// SHA-256 of what was written last, to know when the version must step (RFC 3264 §8).
    written: Option<[u8; 32]>,
    local: Option<LocalLeg>,
    sdes: Option<Box<Sdes>>,
    /// Their description, while its shape is that of our answer; a webrtc peer's also after that: the next one is compared with it.
    theirs: Option<Box<Description>>,
    /// What we offer, or may answer.
    formats: Formats,
    /// Whether only the codec in force may be offered or taken later.
    is_fixed: bool,
    in_force: Option<InForce>,
    /// Ours, offered and not answered.
    restarting: Option<IceCredentials>,
    /// Restarts that were offered since its path was last good.
    restarts: u32,
}

/// What was agreed on.
#[derive(Clone, Copy)]
struct InForce {
    /// As we write it.
    ours: CodecFormat,
    event: Option<TelephoneEventFormat>,
}

impl Half {
    /// Reads the offer of a caller.
    pub fn incoming(offer: &str, random: &mut Random) -> Result<Half, Refusal> {
        let offer = sdp::parse(offer).map_err(|error| not_acceptable(offer_fault(error)))?;
        let kind = kind_of(&offer).map_err(not_acceptable)?;
        if let Some(ice) = &offer.ice
            && matches!(kind, MediaKind::Webrtc(_))
            && ice.lite
            && ice.candidates.is_empty()
        {
            return Err(not_acceptable("the offer is ICE-lite and has no usable UDP candidate"));
        }
        if offer.codecs.is_empty() {
            return Err(not_acceptable("the offer has no codec of ours"));
        }
        if kind == MediaKind::Sdes && sdp::usable_lines(&offer).is_err() {
            return Err(not_acceptable("no a=crypto line of the offer can be used"));
        }
        let formats = Formats { codecs: offer.codecs.clone(), events: offer.telephone_events.clone() };
        let lite = offer.ice.as_ref().is_some_and(|ice| ice.lite);
        let dtls = match offer.setup {
            Some(Setup::Active) => DtlsRole::Server,
            Some(Setup::Passive) => DtlsRole::Client,
            Some(Setup::ActPass) | None if lite => DtlsRole::Client,
            Some(Setup::ActPass) | None => DtlsRole::Server,
        };
        let ice = if lite { IceRole::Controlling } else { IceRole::Lite };
        Ok(Half { ice, dtls, theirs: Some(Box::new(offer)), ..Half::new(kind, formats, random) })
    }

    /// For an offer of ours. A browser beside Opus wants events on Opus's clock (`pick_event` says why).
    pub fn outgoing(kind: MediaKind, mut formats: Formats, random: &mut Random) -> Half {
        let clock_rate_hz = Codec::Opus.clock_rate_hz();
        let has_it = formats.events.iter().any(|event| event.clock_rate_hz == clock_rate_hz);
        if matches!(kind, MediaKind::Webrtc(_)) && formats.of(Codec::Opus).is_some() && !has_it {
            let codecs = formats.codecs.iter().map(|format| format.payload_type);
            let mut taken: Vec<u8> = codecs.chain(formats.events.iter().map(|event| event.payload_type)).collect();
            let payload_type = free(FAST_EVENT_PAYLOAD_TYPE, &mut taken);
            formats.events.insert(0, TelephoneEventFormat { payload_type, clock_rate_hz });
        }
        Half::new(kind, formats, random)
    }

    /// For an offer of ours to WhatsApp: it takes telephone-event at 8 kHz only.
    pub fn toward_whatsapp(formats: Formats, random: &mut Random) -> Half {
        Half::new(MediaKind::Webrtc(Ice::Full), formats, random)
    }

    fn new(kind: MediaKind, formats: Formats, random: &mut Random) -> Half {
        Half {
            kind,
            ice: if kind == MediaKind::Webrtc(Ice::Full) { IceRole::Controlling } else { IceRole::Lite },
            dtls: DtlsRole::Server,
            backend: Choice::default(),
            // RFC 8866 §5.2 wants digits; 62 bits fit every reader's signed integer.
            session_id: random.next_u64() >> 2,
            version: 1,
            written: None,
            local: None,
            seed: seed(random),
            sdes: (kind == MediaKind::Sdes).then(|| Box::new(Sdes::new(&SDES_SUITES, random.fork()))),
            theirs: None,
            formats,
            is_fixed: false,
            in_force: None,
            restarting: None,
            restarts: 0,
        }
    }

    /// Whether nothing is agreed on, and the offer is ours to make.
    pub fn is_ours_to_offer(&self) -> bool {
        self.theirs.is_none() && self.in_force.is_none()
    }

    /// Offers `codec` before all others, or as the only one.
    pub fn prefer(&mut self, codec: Codec, is_only: bool) {
        if self.formats.of(codec).is_some() {
            self.formats.codecs.sort_by_key(|format| format.codec != codec);
            self.formats.codecs.truncate(if is_only { 1 } else { usize::MAX });
        }
    }

    /// From now on only the codec in force is offered or taken: the far side must not notice a change.
    pub fn fix_codec(&mut self) {
        self.is_fixed = true;
    }

    /// What may be offered to somebody else on behalf of this side: the codec in force, once there is one.
    pub fn formats(&self) -> Formats {
        match &self.in_force {
            None => self.formats.clone(),
            Some(in_force) => Formats { codecs: vec![in_force.ours], events: Vec::from_iter(in_force.event) },
        }
    }

    /// How the leg begins: the peer is described later, when the codec is known.
    pub fn config(&self) -> LegConfig {
        match self.kind {
            MediaKind::Rtp | MediaKind::Sdes => LegConfig::Rtp(RtpConfig { remote: None }),
            MediaKind::Webrtc(_) => LegConfig::Webrtc(Box::new(WebrtcConfig {
                ice: self.ice,
                // Other gateways speak 1.2 (WhatsApp's does); browsers choose.
                versions: self.backend.versions(match self.ice {
                    IceRole::Lite => DtlsVersions::Auto,
                    IceRole::Controlling | IceRole::Controlled => DtlsVersions::V12,
                }),
                credentials: None,
                hold: false,
                remote: None,
            })),
        }
    }

    /// The leg is there. False when it is of the other kind, which would be a bug.
    pub fn opened(&mut self, local: LocalLeg) -> bool {
        let fits = matches!(local, LocalLeg::Webrtc { .. }) == matches!(self.kind, MediaKind::Webrtc(_));
        self.local = Some(local);
        fits
    }

    /// Answers the caller's offer with `codec`, one of its own; `wishes` are what it may send us (fmtp).
    pub fn answer(
        &mut self,
        addresses: Addresses<'_>,
        codec: Codec,
        wishes: OpusParameters,
    ) -> Result<(String, LegRemote), Refusal> {
        let Some(offer) = self.theirs.clone() else { return Err(not_acceptable("there is no offer to answer")) };
        let theirs = self.formats.of(codec).ok_or_else(|| not_acceptable("the codec was not offered"))?;
        let event = pick_event(&offer.telephone_events, codec);
        let opus = if codec == Codec::Opus { wishes } else { OpusParameters::default() };
        self.in_force = Some(InForce { ours: CodecFormat { opus, ..theirs }, event });
        let format = format(theirs, theirs.payload_type, event.map(mirrored));
        self.write_answer(addresses, &offer, format)
    }

    /// Our offer, first or again.
    pub fn offer(&mut self, addresses: Addresses<'_>) -> String {
        let mut codecs = self.formats.codecs.clone();
        if let Some(in_force) = self.in_force {
            codecs.retain(|format| format.codec != in_force.ours.codec && !self.is_fixed);
            codecs.insert(0, in_force.ours);
        }
        let events = self.formats.events.clone();
        match self.kind {
            MediaKind::Webrtc(_) => {
                let Some(first) = codecs.first().copied() else { return String::new() };
                let Some(local) = self.webrtc_local(addresses, first, events.first().copied(), Setup::ActPass) else {
                    return String::new();
                };
                let others = (codecs.get(1..).unwrap_or(&[]), events.get(1..).unwrap_or(&[]));
                // A section keeps its name for as long as the session lasts (RFC 8829 §5.2.2).
                let mid = self.theirs.as_ref().and_then(|theirs| theirs.mid.as_deref()).unwrap_or(MID);
                let text = sdp::write_webrtc_offer(&local, mid, others.0, others.1);
                self.versioned(text)
            }
            MediaKind::Rtp | MediaKind::Sdes => {
                let crypto = self.sdes.as_mut().map(|sdes| sdes.offer()).unwrap_or_default();
                let local = self.rtp_local(addresses, codecs, events, crypto, Direction::SendRecv);
                let text = sdp::write_rtp_offer(&local);
                self.versioned(text)
            }
        }
    }

    /// The answer to our offer: what the leg must know, and the codec with the peer's number and wishes.
    pub fn read_answer(&mut self, answer: &str) -> Result<(LegRemote, CodecFormat), String> {
        let answer = sdp::parse(answer).map_err(|error| offer_fault(error).to_owned())?;
        let offered = |format: &&CodecFormat| {
            self.formats.of(format.codec).is_some()
                && (!self.is_fixed || self.in_force.is_none_or(|now| now.ours.codec == format.codec))
        };
        let theirs = *answer.codecs.iter().find(offered).ok_or("the answer has no codec that was offered")?;
        let ours = self.formats.of(theirs.codec).unwrap_or(theirs);
        let their_event = pick_event(&answer.telephone_events, theirs.codec);
        let event = their_event.map(|event| EventFormat {
            send_payload_type: event.payload_type,
            receive_payload_type: self.event_payload_type(event),
            clock_rate_hz: event.clock_rate_hz,
        });
        let format = format(theirs, ours.payload_type, event);
        let remote = match self.kind {
            MediaKind::Webrtc(_) => {
                let (Some(ice), Some(fingerprint)) = (answer.ice.clone(), answer.fingerprint) else {
                    return Err("the answer has no ICE credentials or no sha-256 fingerprint".to_owned());
                };
                self.dtls = match answer.setup {
                    Some(Setup::Passive) => DtlsRole::Client,
                    Some(Setup::Active) => DtlsRole::Server,
                    // An answer must decide (RFC 8842 §5.3). WhatsApp's relays, which are lite, wait for our hello if theirs does not.
                    Some(Setup::ActPass) | None if ice.lite => DtlsRole::Client,
                    Some(Setup::ActPass) | None => DtlsRole::Server,
                };
                LegRemote::Webrtc(WebrtcRemote { ice, fingerprint, dtls: self.dtls, format })
            }
            MediaKind::Rtp | MediaKind::Sdes => {
                let srtp = match &mut self.sdes {
                    None if matches!(answer.profile, Profile::RtpAvp | Profile::RtpAvpf) => None,
                    None => return Err("the answer has another transport than the offer".to_owned()),
                    Some(sdes) => Some(sdes.read_answer(&answer).cloned().map_err(|e| format!("a=crypto: {e:?}"))?),
                };
                LegRemote::Rtp(rtp_remote(&answer, format, srtp)?)
            }
        };
        let our_event = event
            .map(|e| TelephoneEventFormat { payload_type: e.receive_payload_type, clock_rate_hz: e.clock_rate_hz });
        self.in_force = Some(InForce { ours, event: our_event });
        self.keep_theirs(answer);
        Ok((remote, theirs))
    }

    /// A new offer within the dialog: our answer to it, and what changes. The error leaves everything as it was.
    pub fn read_offer(&mut self, addresses: Addresses<'_>, offer: &str) -> Result<Reoffer, Refusal> {
        let offer = sdp::parse(offer).map_err(|error| not_acceptable(offer_fault(error)))?;
        let Some(in_force) = self.in_force else { return Err(not_acceptable("nothing is agreed on yet")) };
        if !same_kind(kind_of(&offer).map_err(not_acceptable)?, self.kind) {
            return Err(not_acceptable("the offer changes the kind of media"));
        }
        let kept = offer.codecs.iter().find(|format| format.codec == in_force.ours.codec);
        let other = || offer.codecs.iter().find(|format| !self.is_fixed && self.formats.of(format.codec).is_some());
        let theirs = *kept.or_else(other).ok_or_else(|| not_acceptable("the offer leaves out the codec in force"))?;
        let event = pick_event(&offer.telephone_events, theirs.codec);
        if matches!(self.kind, MediaKind::Webrtc(_)) {
            if theirs.payload_type != in_force.ours.payload_type {
                return Err(not_acceptable("the offer renumbers the codec in force"));
            }
            self.describe_anew(&offer).map_err(not_acceptable)?;
        }
        let held = !matches!(offer.direction, Direction::SendRecv | Direction::RecvOnly);
        let opus = if theirs.codec == in_force.ours.codec { in_force.ours.opus } else { OpusParameters::default() };
        self.in_force = Some(InForce { ours: CodecFormat { opus, ..theirs }, event });
        let format = format(theirs, theirs.payload_type, event.map(mirrored));
        let (answer, remote) = self.write_answer(addresses, &offer, format)?;
        self.keep_theirs(offer);
        let remote = match (remote, &self.local) {
            (LegRemote::Webrtc(remote), Some(LocalLeg::Webrtc { ufrag, pwd, .. })) => {
                let WebrtcRemote { ice, fingerprint, dtls, format } = remote;
                let credentials = IceCredentials { ufrag: ufrag.clone(), pwd: pwd.clone() };
                LegRemote::WebrtcChange(WebrtcChange { ice, credentials, fingerprint, dtls, format, sending: !held })
            }
            (remote, _) => remote,
        };
        Ok(Reoffer { answer, remote, held })
    }

    /// Takes a webrtc peer's later description: an ICE restart gets credentials of its own (RFC 8839 §4.4.1.1.1), another
    /// certificate a new association, with the roles of the offer (RFC 8842 §5.5). The error leaves everything as it was.
    fn describe_anew(&mut self, offer: &Description) -> Result<(), &'static str> {
        let before = self.theirs.as_ref().ok_or("nothing is agreed on yet")?;
        let (Some(ice_before), Some(ice)) = (&before.ice, &offer.ice) else { return Err("there is no ICE") };
        let is_restart = (&ice.ufrag, &ice.pwd) != (&ice_before.ufrag, &ice_before.pwd);
        if ice.lite != ice_before.lite {
            return Err("the offer changes between ICE-lite and full");
        }
        // Our socket is connected to the one address that such a peer has.
        if is_restart && ice.lite && ice.candidates != ice_before.candidates {
            return Err("an ICE-lite peer cannot move");
        }
        let dtls = match offer.setup {
            Some(Setup::Active) => DtlsRole::Server,
            Some(Setup::Passive) => DtlsRole::Client,
            Some(Setup::ActPass) | None => self.dtls,
        };
        if dtls != self.dtls && offer.fingerprint == before.fingerprint {
            return Err("the offer changes the DTLS roles of an association that goes on");
        }
        self.dtls = dtls;
        if let (true, Some(LocalLeg::Webrtc { ufrag, pwd, .. })) = (is_restart, &mut self.local) {
            IceCredentials { ufrag: *ufrag, pwd: *pwd } = draw(&mut self.seed);
        }
        Ok(())
    }

    /// Offers the peer an ICE restart (RFC 8445 §9), everything else as it is. `None` where there is none to offer: the leg is no webrtc
    /// one, its peer is lite and sends no checks, one is on its way, or enough of them were in vain.
    pub fn offer_restart(&mut self, addresses: Addresses<'_>) -> Option<Restart> {
        let theirs = self.theirs.as_ref().filter(|_| self.in_force.is_some() && self.restarting.is_none())?;
        let is_full = theirs.ice.as_ref().is_some_and(|ice| !ice.lite);
        // Every section would have to be offered again, in its place.
        if !is_full || !theirs.rejected.is_empty() || self.restarts >= ICE_RESTARTS_MAX {
            return None;
        }
        let credentials = draw(&mut self.seed);
        let before = self.swap_credentials(credentials.clone())?;
        let is_fixed = std::mem::replace(&mut self.is_fixed, true);
        let offer = self.offer(addresses);
        self.is_fixed = is_fixed;
        self.swap_credentials(before);
        self.restarts += 1;
        self.restarting = Some(credentials.clone());
        Some(Restart { offer, credentials })
    }

    /// The answer to the restart that was offered. The error, like a refusal, leaves everything as it was.
    pub fn read_restart(&mut self, answer: &str) -> Result<WebrtcChange, &'static str> {
        let credentials = self.restarting.take().ok_or("no restart was offered")?;
        let answer = sdp::parse(answer).map_err(offer_fault)?;
        let (Some(in_force), Some(before)) = (&mut self.in_force, &self.theirs) else {
            return Err("nothing is agreed on yet");
        };
        let (Some(ice), Some(fingerprint)) = (answer.ice.clone(), answer.fingerprint) else {
            return Err("the answer has no ICE credentials or no sha-256 fingerprint");
        };
        let is_same = |was: &IceDescription| (&was.ufrag, &was.pwd) == (&ice.ufrag, &ice.pwd);
        if ice.lite || before.ice.as_ref().is_none_or(is_same) {
            return Err("the peer takes no part in a restart");
        }
        let kept = answer.codecs.iter().find(|format| format.codec == in_force.ours.codec);
        let theirs = *kept.ok_or("the answer leaves out the codec in force")?;
        let event = pick_event(&answer.telephone_events, theirs.codec);
        let ours = event.and_then(|event| {
            let same_clock = |ours: &&TelephoneEventFormat| ours.clock_rate_hz == event.clock_rate_hz;
            self.formats.events.iter().find(same_clock).copied()
        });
        in_force.event = ours;
        let telephone_event = event.zip(ours).map(|(event, ours)| EventFormat {
            send_payload_type: event.payload_type,
            receive_payload_type: ours.payload_type,
            clock_rate_hz: event.clock_rate_hz,
        });
        let format = format(theirs, in_force.ours.payload_type, telephone_event);
        if before.fingerprint != Some(fingerprint) {
            self.dtls = if answer.setup == Some(Setup::Passive) { DtlsRole::Client } else { DtlsRole::Server };
        }
        let sending = matches!(answer.direction, Direction::SendRecv | Direction::RecvOnly);
        self.swap_credentials(credentials.clone());
        self.keep_theirs(answer);
        Ok(WebrtcChange { ice, credentials, fingerprint, dtls: self.dtls, format, sending })
    }

    /// The restart that was offered is refused; false when there was none.
    pub fn restart_refused(&mut self) -> bool {
        self.restarting.take().is_some()
    }

    /// Its path is good again.
    pub fn path_is_good(&mut self) {
        self.restarts = 0;
    }

    /// Answers those before.
    fn swap_credentials(&mut self, credentials: IceCredentials) -> Option<IceCredentials> {
        let Some(LocalLeg::Webrtc { ufrag, pwd, .. }) = &mut self.local else { return None };
        let ufrag = std::mem::replace(ufrag, credentials.ufrag);
        Some(IceCredentials { ufrag, pwd: std::mem::replace(pwd, credentials.pwd) })
    }

    fn write_answer(
        &mut self,
        addresses: Addresses<'_>,
        offer: &Description,
        format: MediaFormat,
    ) -> Result<(String, LegRemote), Refusal> {
        let Some(InForce { ours, event }) = self.in_force else { return Err(not_acceptable("no codec")) };
        match self.kind {
            MediaKind::Webrtc(_) => {
                let setup = if self.dtls == DtlsRole::Client { Setup::Active } else { Setup::Passive };
                let local = self.webrtc_local(addresses, ours, event, setup);
                let (Some(local), Some(ice), Some(fingerprint)) = (local, offer.ice.clone(), offer.fingerprint) else {
                    return Err(not_acceptable("the offer has no ICE credentials or no sha-256 fingerprint"));
                };
                let text = sdp::write_webrtc_answer(offer, &local);
                let remote = LegRemote::Webrtc(WebrtcRemote { ice, fingerprint, dtls: self.dtls, format });
                Ok((self.versioned(text), remote))
            }
            MediaKind::Rtp | MediaKind::Sdes => {
                let (crypto, srtp) = match &mut self.sdes {
                    None => (Vec::new(), None),
                    Some(sdes) => match sdes.read_offer(offer) {
                        Ok((line, keys)) => (vec![line], Some(keys.clone())),
                        Err(_) => return Err(not_acceptable("no a=crypto line of the offer can be used")),
                    },
                };
                let remote = rtp_remote(offer, format, srtp).map_err(|fault| not_acceptable(&fault))?;
                let direction = reversed(offer.direction);
                let local = self.rtp_local(addresses, vec![ours], Vec::from_iter(event), crypto, direction);
                let text = sdp::write_rtp_answer(offer, &local);
                Ok((self.versioned(text), LegRemote::Rtp(remote)))
            }
        }
    }

    fn webrtc_local(
        &self,
        addresses: Addresses<'_>,
        codec: CodecFormat,
        telephone_event: Option<TelephoneEventFormat>,
        setup: Setup,
    ) -> Option<WebrtcLocal> {
        let Some(LocalLeg::Webrtc { ufrag, pwd, fingerprint, ssrc, port }) = &self.local else { return None };
        Some(WebrtcLocal {
            addresses: addresses.webrtc.to_vec(),
            port: *port,
            ufrag: ufrag.clone(),
            pwd: pwd.clone(),
            lite: self.ice == IceRole::Lite,
            fingerprint: *fingerprint,
            setup,
            ssrc: *ssrc,
            codec,
            telephone_event,
            direction: Direction::SendRecv,
            session_id: self.session_id,
            session_version: 1,
        })
    }

    fn rtp_local(
        &self,
        addresses: Addresses<'_>,
        codecs: Vec<CodecFormat>,
        telephone_events: Vec<TelephoneEventFormat>,
        crypto: Vec<CryptoLine>,
        direction: Direction,
    ) -> RtpLocal {
        let port = match &self.local {
            Some(LocalLeg::Rtp { port, .. } | LocalLeg::Webrtc { port, .. }) => *port,
            None => 0,
        };
        RtpLocal {
            address: addresses.rtp,
            port,
            profile: if crypto.is_empty() { Profile::RtpAvp } else { Profile::RtpSavp },
            rtcp_mux: false,
            crypto,
            codecs,
            telephone_events,
            direction,
            session_id: self.session_id,
            session_version: 1,
        }
    }

    /// `text`, written with version 1, with the version that it has now.
    fn versioned(&mut self, text: String) -> String {
        let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        if self.written.replace(digest).is_some_and(|written| written != digest) {
            self.version += 1;
        }
        let origin = |version: u64| format!("o=- {} {version} ", self.session_id);
        text.replacen(&origin(1), &origin(self.version), 1)
    }

    fn keep_theirs(&mut self, description: Description) {
        self.theirs = matches!(self.kind, MediaKind::Webrtc(_)).then(|| Box::new(description));
    }

    fn event_payload_type(&self, theirs: TelephoneEventFormat) -> u8 {
        let ours = self.formats.events.iter().find(|event| event.clock_rate_hz == theirs.clock_rate_hz);
        ours.map_or(theirs.payload_type, |event| event.payload_type)
    }
}

fn seed(random: &mut Random) -> [u8; 32] {
    let mut seed = [0; 32];
    random.fill(&mut seed);
    seed
}

/// Credentials that nobody can guess, and a new seed.
fn draw(seed: &mut [u8; 32]) -> IceCredentials {
    let mut random = Random::from_seed(*seed);
    random.fill(seed);
    IceCredentials::draw(&mut random)
}

/// A 488 with its reason in words.
pub(super) fn not_acceptable(words: &str) -> Refusal {
    Refusal::warned(488, words)
}

fn same_kind(a: MediaKind, b: MediaKind) -> bool {
    std::mem::discriminant(&a) == std::mem::discriminant(&b)
}

/// What kind of leg an offer wants.
fn kind_of(offer: &Description) -> Result<MediaKind, &'static str> {
    let is_webrtc = offer.fingerprint.is_some() && offer.ice.is_some();
    match offer.profile {
        // `a=crypto` below RTP/AVP is an offer to encrypt if we can (RFC 8643); the profile that it names is the plain one.
        Profile::RtpAvp | Profile::RtpAvpf => Ok(MediaKind::Rtp),
        Profile::RtpSavp | Profile::RtpSavpf if !offer.crypto.is_empty() => Ok(MediaKind::Sdes),
        Profile::RtpSavp | Profile::RtpSavpf if is_webrtc => Ok(MediaKind::Webrtc(Ice::Lite)),
        Profile::RtpSavp | Profile::RtpSavpf => Err("RTP/SAVP without a=crypto"),
        Profile::UdpTlsRtpSavp | Profile::UdpTlsRtpSavpf if is_webrtc => Ok(MediaKind::Webrtc(Ice::Lite)),
        Profile::UdpTlsRtpSavp | Profile::UdpTlsRtpSavpf => {
            Err("DTLS-SRTP without ICE or without a sha-256 fingerprint")
        }
    }
}

fn offer_fault(error: SdpError) -> &'static str {
    match error {
        SdpError::Malformed => "the description is not SDP",
        SdpError::TooLong => "the description is longer than the limit",
        SdpError::NoAudio => "the description has no audio section with a port",
        SdpError::NoCommonCodec => "the description has no codec of ours",
        SdpError::UnknownProfile => "the description's audio transport is unknown",
    }
}

fn format(theirs: CodecFormat, receive_payload_type: u8, telephone_event: Option<EventFormat>) -> MediaFormat {
    MediaFormat {
        codec: theirs.codec,
        send_payload_type: theirs.payload_type,
        receive_payload_type,
        opus: theirs.opus,
        telephone_event,
    }
}

/// RFC 3264 §6.1.
fn reversed(direction: Direction) -> Direction {
    match direction {
        Direction::SendOnly => Direction::RecvOnly,
        Direction::RecvOnly => Direction::SendOnly,
        Direction::SendRecv | Direction::Inactive => direction,
    }
}

/// What the peer says about its end. An unspecified address is the old way to say hold (RFC 3264 §8.4).
pub(super) fn rtp_remote(
    description: &Description,
    format: MediaFormat,
    srtp: Option<SrtpKeys>,
) -> Result<RtpRemote, String> {
    let address = description.address.ok_or("the description's address is a name")?;
    let next = SocketAddr::new(address.ip(), address.port().saturating_add(1));
    let rtcp_address = if description.rtcp_mux { address } else { description.rtcp_address.unwrap_or(next) };
    let wants = matches!(description.direction, Direction::SendRecv | Direction::RecvOnly);
    Ok(RtpRemote {
        address,
        rtcp_address,
        rtcp_mux: description.rtcp_mux,
        format,
        sending: wants && !address.ip().is_unspecified(),
        srtp,
    })
}
