//! `tandem call`: one real call into any edge, with speech in, what was heard out, and figures.
//!
//! ```text
//! POST /webrtc/new ─> answer ─> ICE, DTLS ─> first packet ─> keys, speech ─> tail ─> POST /webrtc/hangup
//! ```
//!
//! Each step that fails has an exit code of its own, so that a script or a monitor can tell an edge that refuses from a firewall
//! that swallows media. The caller is a browser's kind of peer (full ICE, actpass) or, with `lite`, WhatsApp's.
//!
//! Why beside the stand-in's scripted call: that one judges this project with its own bot; this one asks an operator's edge, route
//! and far side, and judges nothing but whether sound came.

use super::audio::OpusSettings;
use super::observed::Observed;
use super::wav::{self, Wav};
use super::webrtc_caller::WebrtcCaller;
use super::webrtc_offerer::{AnswerError, WebrtcOfferer};
use super::webrtc_peer::WebrtcPeer;
use crate::call::{EdgeError, EdgeReply, EdgeRequest, NewSession, SessionCreated};
use crate::http::edge_client::EdgeClient;
use crate::trace::redact::Secret;
use engine::dtls::{DtlsVersion, DtlsVersions, Identity};
use engine::io::clock;
use engine::rtp::telephone_event::Digit;
use engine::time::Instant;
use serde::Serialize;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Time from the answer to keys on both sides.
const MEDIA_LIMIT: Duration = Duration::from_secs(20);
/// Time from keys to the first packet: the far side may ring for 25 s (the edge's own limit) and a little longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(40);
/// What is listened to after the speech has ended, unless `seconds` says otherwise.
const TAIL: Duration = Duration::from_secs(2);
/// How long a key is held, and the pause after it.
const KEY_MS: u32 = 120;
const KEY_PAUSE: Duration = Duration::from_millis(300);
/// Keys of one call. Past it the order is refused.
pub const KEYS_MAX: usize = 64;
/// Longest call, so that a recording stays within `RECORDING_SAMPLES_MAX`.
pub const SECONDS_MAX: u64 = 600;

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialOrder {
    /// Base URL of the edge.
    pub edge: String,
    /// Its token, if it demands one.
    pub token: Secret,
    /// Speech to be played, 16-bit PCM.
    pub speech: Option<PathBuf>,
    /// Where to write what was heard.
    pub record: Option<PathBuf>,
    /// Route or SIP URI; the edge's default where `None`.
    pub destination: Option<String>,
    /// Who calls.
    pub from: Option<String>,
    /// Length of the call from its first packet on; `None`: the speech and a short tail.
    pub seconds: Option<u64>,
    /// Keys pressed before the speech.
    pub keys: Vec<Digit>,
    /// Offer as WhatsApp does: ICE-lite, DTLS 1.2.
    pub lite: bool,
    /// Print the figures as JSON.
    pub json: bool,
}

impl Default for DialOrder {
    fn default() -> DialOrder {
        DialOrder {
            edge: "http://127.0.0.1:8080".to_owned(),
            token: Secret::default(),
            speech: None,
            record: None,
            destination: None,
            from: None,
            seconds: None,
            keys: Vec::new(),
            lite: false,
            json: false,
        }
    }
}

/// Why there was no call, or only a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialError {
    /// A file, or this machine.
    Local(String),
    /// The edge said no, or nothing.
    Edge(EdgeError),
    /// The answer cannot be used.
    Answer(AnswerError),
    /// ICE or DTLS did not come up; the leg's own cause where it gave up.
    Media(String),
    /// Keys were there, and then no packet came.
    Silence(String),
    /// The far side ended the call before it was done.
    EndedEarly(String),
}

impl DialError {
    /// The process' exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            DialError::Local(_) => 1,
            DialError::Edge(_) | DialError::Answer(_) => 2,
            DialError::Media(_) => 3,
            DialError::Silence(_) => 4,
            DialError::EndedEarly(_) => 5,
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialError::Local(text) => f.write_str(text),
            DialError::Edge(error) if error.status == 0 => write!(f, "{}", error.message),
            DialError::Edge(error) => {
                write!(f, "the edge refuses: HTTP {}, {}: {}", error.status, error.code, error.message)
            }
            DialError::Answer(error) => write!(f, "the edge's answer cannot be used: {error}"),
            DialError::Media(text) => write!(f, "media did not come up: {text}"),
            DialError::Silence(text) => write!(f, "nothing was heard: {text}"),
            DialError::EndedEarly(text) => write!(f, "the far side ended the call: {text}"),
        }
    }
}

impl std::error::Error for DialError {}

/// What a call was like, in ms from `POST /webrtc/new`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DialFigures {
    /// The id that stands, hashed, in the edge's log.
    pub call_id: String,
    /// The edge's answer came.
    pub answer_ms: Option<u64>,
    /// ICE chose its pair.
    pub nominated_ms: Option<u64>,
    /// DTLS is up, and how.
    pub dtls_ms: Option<u64>,
    /// Version and SRTP profile.
    pub security: Option<String>,
    /// The first RTP packet came.
    pub first_packet_ms: Option<u64>,
    /// The call's length from its first packet on.
    pub talk_ms: u64,
    /// RTP packets.
    pub packets_sent: u64,
    /// RTP packets that decrypted.
    pub packets_received: u64,
    /// Packets lost on the way to us.
    pub packets_lost: u64,
    /// Sequence numbers that did not step by one, timestamps off the sample clock.
    pub sequence_faults: u64,
    /// See above.
    pub timestamp_faults: u64,
    /// Interarrival jitter.
    pub jitter_ms: u32,
    /// By RTCP or else by ICE.
    pub round_trip_ms: Option<u32>,
    /// Root mean square of what was heard, dB below full scale; `None`: not a sample.
    pub heard_dbfs: Option<f64>,
    /// Keys heard.
    pub keys_heard: String,
}

impl fmt::Display for DialFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |value: Option<u64>| value.map_or("-".to_owned(), |ms| format!("{ms} ms"));
        writeln!(f, "call          {}", self.call_id)?;
        writeln!(f, "answer        {}", ms(self.answer_ms))?;
        writeln!(f, "ICE pair      {}", ms(self.nominated_ms))?;
        writeln!(f, "DTLS          {}  {}", ms(self.dtls_ms), self.security.as_deref().unwrap_or(""))?;
        writeln!(f, "first packet  {}", ms(self.first_packet_ms))?;
        writeln!(f, "length        {} ms", self.talk_ms)?;
        writeln!(
            f,
            "packets       {} sent, {} received, {} lost, {} out of sequence, {} off the clock",
            self.packets_sent, self.packets_received, self.packets_lost, self.sequence_faults, self.timestamp_faults
        )?;
        let trip = self.round_trip_ms.map_or("-".to_owned(), |ms| format!("{ms} ms"));
        writeln!(f, "jitter        {} ms, round trip {trip}", self.jitter_ms)?;
        let level = self.heard_dbfs.map_or("nothing".to_owned(), |level| format!("{level:.1} dBFS"));
        write!(f, "heard         {level}, keys \"{}\"", self.keys_heard)
    }
}

/// Places the call and waits for its end. The figures are there also when it failed.
pub async fn dial(order: &DialOrder) -> (DialFigures, Result<(), DialError>) {
    let mut figures =
        DialFigures { call_id: format!("tandem-call-{}", super::system_random().token(12)), ..DialFigures::default() };
    let outcome = run(order, &mut figures).await;
    (figures, outcome)
}

async fn run(order: &DialOrder, figures: &mut DialFigures) -> Result<(), DialError> {
    let speech = order.speech.as_ref().map(read_speech).transpose()?;
    let client = EdgeClient::new(&order.edge, order.token.clone(), None).map_err(DialError::Local)?;
    let addresses = own_addresses(&order.edge).await?;
    let caller = Caller::start(order.lite, &addresses).await?;
    let placed = clock::now();
    let session = place(&client, order, figures, &caller).await?;
    figures.answer_ms = Some(millis(placed, clock::now()));
    let talked = match caller.answer(&session.sdp_answer) {
        Ok(()) => talk(order, speech.as_ref(), caller.peer()).await,
        Err(error) => Err(DialError::Answer(error)),
    };
    caller.peer().close();
    // The call is over either way; an edge that does not hear it ends the session by its own limits.
    let _ = client.ask(&EdgeRequest::Hangup { edge_session_id: session.edge_session_id }).await;
    let seen = caller.peer().observed().borrow().clone();
    figures.read(placed, &seen);
    if let Some(path) = &order.record {
        let heard = Wav { rate_hz: OpusSettings::WHATSAPP.rate_hz, pcm: seen.heard.pcm };
        let written = tokio::fs::write(path, wav::write(&heard)).await;
        written.map_err(|error| DialError::Local(format!("{} cannot be written: {error}", path.display())))?;
    }
    talked
}

async fn place(
    client: &EdgeClient,
    order: &DialOrder,
    figures: &DialFigures,
    caller: &Caller,
) -> Result<SessionCreated, DialError> {
    let new = NewSession {
        call_id: figures.call_id.clone(),
        sdp_offer: caller.offer().to_owned(),
        destination: order.destination.clone(),
        from: order.from.clone(),
        ..NewSession::default()
    };
    match client.ask(&EdgeRequest::New(Box::new(new))).await {
        Ok(EdgeReply::Created(session)) => Ok(session),
        Ok(_) => Err(DialError::Edge(EdgeError::new(502, "protocol", "the reply holds no session"))),
        Err(error) => Err(DialError::Edge(error)),
    }
}

/// Everything from the answer to the moment when we hang up.
async fn talk(order: &DialOrder, speech: Option<&Wav>, peer: &WebrtcPeer) -> Result<(), DialError> {
    let connected = peer.wait(MEDIA_LIMIT, |seen| seen.connected.is_some() || seen.ended.is_some()).await;
    if connected.is_err() || peer.observed().borrow().connected.is_none() {
        return Err(DialError::Media(stuck_at(&peer.observed().borrow())));
    }
    let first = peer.wait(ANSWER_LIMIT, |seen| seen.first_received.is_some() || seen.ended.is_some()).await;
    if let Some(text) = ended(peer) {
        return Err(DialError::EndedEarly(text));
    }
    if first.is_err() {
        let limit = ANSWER_LIMIT.as_secs();
        return Err(DialError::Silence(format!("no RTP packet within {limit} s: did the far side answer?")));
    }
    for &key in &order.keys {
        peer.press(key, KEY_MS);
        pause(peer, Duration::from_millis(u64::from(KEY_MS)) + KEY_PAUSE).await?;
    }
    let from = clock::now();
    if let Some(speech) = speech {
        peer.play(speech);
        let length = Duration::from_secs_f64(speech.pcm.len() as f64 / f64::from(speech.rate_hz));
        if order.seconds.is_none() {
            pause(peer, length + TAIL).await?;
        }
    }
    if let Some(seconds) = order.seconds {
        pause(peer, Duration::from_secs(seconds).saturating_sub(clock::now().since(from))).await?;
    } else if speech.is_none() {
        pause(peer, TAIL).await?;
    }
    Ok(())
}

/// Lets time pass while the far side stays.
async fn pause(peer: &WebrtcPeer, length: Duration) -> Result<(), DialError> {
    let _ = peer.wait(length, |seen| seen.ended.is_some()).await;
    ended(peer).map_or(Ok(()), |text| Err(DialError::EndedEarly(text)))
}

fn ended(peer: &WebrtcPeer) -> Option<String> {
    peer.observed().borrow().ended.map(|(_, cause)| format!("{cause:?}"))
}

/// How far it got, in words that name what to look at.
fn stuck_at(seen: &Observed) -> String {
    let cause = seen.ended.map_or(String::new(), |(_, cause)| format!(" ({cause:?})"));
    match (seen.nominated, seen.wire.checks + seen.wire.dtls) {
        (None, 0) => format!(
            "no datagram came back from the edge's media port{cause}: is UDP MEDIA_PORTS open, is PUBLIC_IP this edge's?"
        ),
        (None, _) => format!("the edge's checks come, but no pair was chosen{cause}: is UDP open both ways?"),
        (Some(_), _) => format!("ICE is up, DTLS is not{cause}"),
    }
}

enum Caller {
    Full(WebrtcCaller),
    Lite(WebrtcOfferer),
}

impl Caller {
    async fn start(lite: bool, addresses: &[IpAddr]) -> Result<Caller, DialError> {
        let failed = |error: std::io::Error| DialError::Local(format!("no socket for media: {error}"));
        let identity = Identity::generate().map_err(|_| DialError::Local("no certificate for DTLS".to_owned()))?;
        let opus = OpusSettings::WHATSAPP;
        Ok(match lite {
            true => {
                let session_id = u64::from(super::system_random().next_u32());
                Caller::Lite(WebrtcOfferer::start(addresses, session_id, false, &identity, opus).await.map_err(failed)?)
            }
            false => {
                let versions = DtlsVersions::Auto;
                Caller::Full(WebrtcCaller::start(addresses, &identity, versions, opus).await.map_err(failed)?)
            }
        })
    }

    fn peer(&self) -> &WebrtcPeer {
        match self {
            Caller::Full(caller) => &caller.peer,
            Caller::Lite(offerer) => &offerer.peer,
        }
    }

    fn offer(&self) -> &str {
        match self {
            Caller::Full(caller) => &caller.offer,
            Caller::Lite(offerer) => &offerer.offer,
        }
    }

    fn answer(&self, text: &str) -> Result<(), AnswerError> {
        match self {
            Caller::Full(caller) => caller.answer(text),
            Caller::Lite(offerer) => offerer.answer(text),
        }
    }
}

impl DialFigures {
    fn read(&mut self, placed: Instant, seen: &Observed) {
        self.nominated_ms = seen.nominated.map(|(at, _)| millis(placed, at));
        self.dtls_ms = seen.connected.map(|(at, ..)| millis(placed, at));
        self.security = seen.connected.map(|(_, version, profile)| {
            let version = if version == DtlsVersion::V13 { "1.3" } else { "1.2" };
            format!("DTLS {version}, {profile:?}")
        });
        self.first_packet_ms = seen.first_received.map(|at| millis(placed, at));
        let until = seen.ended.map_or_else(clock::now, |(at, _)| at);
        self.talk_ms = seen.first_received.map_or(0, |from| millis(from, until));
        self.packets_sent = seen.packets_sent;
        self.packets_received = seen.packets_received;
        self.packets_lost = seen.stats.packets_lost;
        self.sequence_faults = seen.continuity.sequence_faults;
        self.timestamp_faults = seen.continuity.timestamp_faults;
        self.jitter_ms = seen.stats.jitter_ms;
        self.round_trip_ms = seen.stats.round_trip_ms;
        self.heard_dbfs = level_dbfs(&seen.heard.pcm);
        self.keys_heard = seen.keys();
    }
}

/// Root mean square against full scale; digital silence is -96 dB.
fn level_dbfs(pcm: &[i16]) -> Option<f64> {
    let energy: f64 = pcm.iter().map(|&sample| f64::from(sample) * f64::from(sample)).sum();
    (!pcm.is_empty()).then(|| (10.0 * (energy / pcm.len() as f64 / 32_768.0_f64.powi(2)).log10()).max(-96.0))
}

fn read_speech(path: &PathBuf) -> Result<Wav, DialError> {
    let cannot = |error: &dyn fmt::Display| DialError::Local(format!("{} cannot be played: {error}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| cannot(&error))?;
    wav::read(&bytes).map_err(|error| cannot(&error))
}

/// The addresses from which this host reaches the edge's.
async fn own_addresses(edge: &str) -> Result<Vec<IpAddr>, DialError> {
    let wrong = |why: &str| DialError::Local(format!("{edge} {why}; write --edge http://HOST:PORT"));
    let url = reqwest::Url::parse(edge).map_err(|_| wrong("is no URL"))?;
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err(wrong("names no host"));
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = tokio::net::lookup_host((host, port)).await.map_err(|_| wrong("cannot be looked up"))?;
    let mut addresses = Vec::new();
    for remote in found {
        if let Some(own) = crate::server::source_toward(remote.ip()).await
            && !addresses.contains(&own)
        {
            addresses.push(own);
        }
    }
    if addresses.is_empty() { Err(wrong("cannot be reached from here")) } else { Ok(addresses) }
}

fn millis(from: Instant, at: Instant) -> u64 {
    at.since(from).as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_those_of_a_sine_and_of_silence() {
        let sine: Vec<i16> = (0..16_000).map(|n| (f64::from(n) * 0.1).sin() * 32_767.0).map(|s| s as i16).collect();
        assert!((level_dbfs(&sine).unwrap() + 3.01).abs() < 0.05);
        assert_eq!(level_dbfs(&[0; 160]), Some(-96.0));
        assert_eq!(level_dbfs(&[]), None);
    }

    #[test]
    fn every_way_to_fail_has_its_exit_code_and_says_what_to_look_at() {
        let text = stuck_at(&Observed::default());
        assert!(text.contains("MEDIA_PORTS"), "{text}");
        let errors = [
            DialError::Local(String::new()),
            DialError::Edge(EdgeError::new(503, "full", "")),
            DialError::Media(text),
            DialError::Silence(String::new()),
            DialError::EndedEarly(String::new()),
        ];
        assert_eq!(errors.map(|error| error.exit_code()), [1, 2, 3, 4, 5]);
    }

    #[tokio::test]
    async fn an_edge_that_is_not_there_is_said_to_be_unreachable() {
        let order = DialOrder { edge: "http://127.0.0.1:9".to_owned(), ..DialOrder::default() };
        let (figures, outcome) = dial(&order).await;
        let error = outcome.unwrap_err();
        assert_eq!((error.exit_code(), figures.answer_ms), (2, None));
        assert_eq!(error.to_string(), "the edge cannot be reached");
    }
}
