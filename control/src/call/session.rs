//! One session of the edge: a bridge, its SIP call, and the order in which both come and go. Pure.
//!
//! ```text
//!  new -> Opening --Opened: answer, INVITE--> Live --end, from any side--> Ending --bridge and SIP call gone--> over
//! ```
//!
//! Why the SIP call starts with the answer and not with DTLS: the far side rings while WhatsApp's media is set up, and the caller
//! waits for the longer of the two instead of their sum.

use super::edge::{EdgeConfig, EdgeOutput, Route};
use super::lease::{Facts, Lease};
use super::limits::*;
use super::machine::CallEnd;
use super::negotiate::{Plan, RtpSide, codec_name};
use super::{EdgeError, EdgeEvent, EdgeEventKind, EdgeReply, NewSession, SessionCreated};
use crate::sip::{Invite, SipAgent, SipCallId, SipEnd, SipEvent};
use crate::trace::timeline::{Entry, Step};
use engine::bridge::{BridgeCommand, BridgeConfig, BridgeEvent, BridgeId, LegConfig, LegName, LegRemote};
use engine::dtls::DtlsVersion;
use engine::error::{Cause, End, Side};
use engine::leg::rtp::{RtpConfig, RtpRemote};
use engine::leg::{LegEvent, LocalLeg};
use engine::rtp::telephone_event::Digit;
use engine::srtp::SrtpProfile;
use engine::time::Instant;
use engine::worker::{Command, RefuseReason};
use std::collections::VecDeque;

/// What a session needs from its edge at every input.
pub(super) struct Context<'e> {
    pub now: Instant,
    pub config: &'e EdgeConfig,
    pub sip: &'e mut SipAgent,
    pub out: &'e mut VecDeque<EdgeOutput>,
}

/// WhatsApp's leg is always the bridge's first.
const WHATSAPP: LegName = LegName::A;
const SIP: LegName = LegName::B;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BridgeState {
    Opening,
    Open,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SipState {
    /// Not placed yet.
    Idle,
    Calling(SipCallId),
    Up(SipCallId),
    Gone,
}

/// One session.
pub(super) struct Session {
    pub number: u64,
    pub token: String,
    pub call_id: String,
    /// SHA-256 of the offer: the same offer gets the same session again.
    pub offer_digest: [u8; 32],
    pub worker: usize,
    pub answer: Option<String>,
    pub lease: Lease,
    /// What was told by `notify` so far.
    pub facts: Facts,
    plan: Plan,
    rtp: Option<RtpSide>,
    route: Route,
    from_user: String,
    sdp_session_id: u64,
    hold: bool,
    released: bool,
    early_media: bool,
    callback_url: Option<String>,
    /// Requests that wait for the answer.
    waiters: Vec<u64>,
    bridge: BridgeState,
    sip: SipState,
    end: Option<CallEnd>,
    /// What the engine's protocol library said about the end of a leg.
    end_detail: Option<Box<str>>,
    since: Instant,
}

/// What a session begins with.
pub(super) struct Birth {
    pub number: u64,
    pub token: String,
    pub offer_digest: [u8; 32],
    pub worker: usize,
    pub plan: Plan,
    pub route: Route,
    pub sdp_session_id: u64,
    pub request: u64,
}

impl Session {
    /// Asks the engine for a bridge.
    pub fn open(cx: &mut Context, birth: Birth, new: NewSession) -> Session {
        let from_user = from_user(new.from.as_deref());
        let session = Session {
            number: birth.number,
            token: birth.token,
            call_id: new.call_id,
            offer_digest: birth.offer_digest,
            worker: birth.worker,
            answer: None,
            lease: Lease::new(cx.now, new.lease_s),
            facts: Facts::default(),
            plan: birth.plan,
            rtp: None,
            route: birth.route,
            from_user,
            sdp_session_id: birth.sdp_session_id,
            hold: new.hold_media,
            released: !new.hold_media,
            early_media: new.early_media,
            callback_url: new.callback_url,
            waiters: vec![birth.request],
            bridge: BridgeState::Opening,
            sip: SipState::Idle,
            end: None,
            end_detail: None,
            since: cx.now,
        };
        let config = BridgeConfig {
            a: LegConfig::Webrtc(Box::new(session.plan.config(session.hold))),
            b: LegConfig::Rtp(RtpConfig { remote: None }),
        };
        let command = Command::Open { bridge: BridgeId(session.number), config };
        cx.out.push_back(EdgeOutput::Engine { worker: session.worker, command });
        session
    }

    /// The same `new` again.
    pub fn repeat(&mut self, cx: &mut Context, request: u64) {
        let result = match &self.answer {
            Some(_) => self.created(),
            None if self.end.is_some() => Err(EdgeError::busy(503, "ending", "the session did not come up")),
            None if self.waiters.len() >= SESSION_WAITERS_MAX => {
                Err(EdgeError::busy(429, "too_many_repeats", "the same request waits too often already"))
            }
            None => return self.waiters.push(request),
        };
        cx.out.push_back(EdgeOutput::Reply { request, result });
    }

    /// The engine has bound the sockets: answer, and ring the far side.
    pub fn opened(&mut self, cx: &mut Context, a: &LocalLeg, b: &LocalLeg) {
        self.bridge = BridgeState::Open;
        if self.end.is_some() {
            return; // Close is on its way
        }
        let answer = self.plan.answer(a, &cx.config.webrtc_addresses, self.sdp_session_id);
        let (Some(answer), &LocalLeg::Rtp { port, .. }) = (answer, b) else {
            return self.end(cx, CallEnd::new("tandem", "bug", "the engine opened legs of another kind"));
        };
        self.answer = Some(answer);
        for request in std::mem::take(&mut self.waiters) {
            cx.out.push_back(EdgeOutput::Reply { request, result: self.created() });
        }
        let free = if self.hold { "" } else { ", not held: RTP may precede the accept" };
        self.note(cx, Step::Offer, format!("{}{free}", self.plan.describe()));

        let rtp = self.rtp.insert(RtpSide::new(cx.config.rtp_address, port, self.sdp_session_id));
        let mut headers = vec![("X-WA-Call-ID".to_owned(), self.call_id.clone())];
        headers.extend(self.route.headers.iter().cloned());
        let invite = Invite {
            target: self.route.target.clone(),
            proxy: self.route.proxy.clone(),
            from_display: None,
            from_user: self.from_user.clone(),
            from_host: self.route.from_host.clone(),
            headers,
            sdp: rtp.offer(),
            credentials: self.route.credentials.clone(),
            ring_ms_max: cx.config.ring_ms_max,
            ..Invite::default()
        };
        self.sip = SipState::Calling(cx.sip.invite(cx.now, invite));
    }

    /// The engine has no bridge for us.
    pub fn refused(&mut self, cx: &mut Context, reason: RefuseReason) {
        self.bridge = BridgeState::Gone;
        let (cause, detail) = match reason {
            RefuseReason::Full => ("full", "every worker carries as many bridges as it may"),
            RefuseReason::NoPort => ("no_port", "no media port is free: widen MEDIA_PORTS"),
            RefuseReason::NoSocket => ("no_socket", "the system gave no socket: raise the limit of open files"),
            RefuseReason::Duplicate => ("bug", "the engine knows this bridge already"),
        };
        self.end(cx, CallEnd::new("tandem", cause, detail));
    }

    /// Ends the hold.
    pub fn release(&mut self, cx: &mut Context) {
        if self.end.is_none() && !self.released {
            self.released = true;
            self.command(cx, BridgeCommand::Release { leg: WHATSAPP });
        }
    }

    /// Ends the session. A second end changes nothing.
    pub fn end(&mut self, cx: &mut Context, end: CallEnd) {
        if self.end.is_some() {
            return;
        }
        for request in std::mem::take(&mut self.waiters) {
            let result = Err(EdgeError::busy(503, &end.cause, end.detail.clone()));
            cx.out.push_back(EdgeOutput::Reply { request, result });
        }
        if self.bridge != BridgeState::Gone {
            self.command(cx, BridgeCommand::Close);
        }
        if let SipState::Calling(call) | SipState::Up(call) = self.sip {
            cx.sip.hangup(cx.now, call, Some(reason_header(&end)));
        }
        self.since = cx.now;
        self.end = Some(end);
    }

    /// Takes one event of the bridge.
    pub fn handle_bridge(&mut self, cx: &mut Context, event: BridgeEvent) {
        match event {
            BridgeEvent::Leg { leg, event } => self.handle_leg(cx, leg, event),
            BridgeEvent::Digit { leg, digit, duration_ms } => {
                let side = if leg == WHATSAPP { "WhatsApp" } else { "SIP" };
                self.note(cx, Step::Digit, format!("{} from {side}, {duration_ms} ms", digit.as_char()));
            }
            BridgeEvent::EndDetail { text, .. } => self.end_detail = Some(text),
            BridgeEvent::Ended { end, .. } => {
                self.bridge = BridgeState::Gone;
                let detail = self.end_detail.take();
                self.end(cx, bridge_end(end, detail.as_deref()));
            }
            // A session asks for no spare legs.
            BridgeEvent::LegOpened { .. } | BridgeEvent::LegRefused { .. } | BridgeEvent::LegClosed { .. } => {}
        }
    }

    /// Takes one event of the SIP call.
    pub fn handle_sip(&mut self, cx: &mut Context, event: SipEvent) {
        match event {
            SipEvent::InviteSent { .. } => self.note(cx, Step::Invite, "INVITE sent".to_owned()),
            SipEvent::Challenged { code, .. } => self.note(cx, Step::Challenge, code.to_string()),
            SipEvent::Provisional { code, sdp, .. } if self.end.is_none() => self.ringing(cx, code, sdp),
            SipEvent::Answered { call, sdp, headers } if self.end.is_none() => self.answered(cx, call, &sdp, &headers),
            SipEvent::ReInvite { call, sdp } => self.reinvited(cx, call, sdp.as_deref()),
            SipEvent::LateAnswer { sdp, .. } => self.answered_late(cx, &sdp),
            SipEvent::InfoDigit { digit, duration_ms, .. } => {
                self.note(cx, Step::Digit, format!("{digit} from SIP, {duration_ms} ms, by INFO"));
                if let Some(digit) = Digit::from_char(digit) {
                    self.command(cx, BridgeCommand::SendDigit { leg: WHATSAPP, digit, duration_ms });
                }
            }
            SipEvent::Ended { end, .. } => {
                self.sip = SipState::Gone;
                self.end(cx, sip_end(end));
            }
            SipEvent::Provisional { .. }
            | SipEvent::Answered { .. }
            | SipEvent::Incoming { .. }
            | SipEvent::Acknowledged { .. } => {}
            _ => {} // nothing that a session has asked for
        }
    }

    /// Call when `deadline` has come. Answers whether the session must be abandoned: something that had to end did not.
    pub fn handle_timeout(&mut self, cx: &mut Context) -> bool {
        if cx.now < self.deadline() {
            return false;
        }
        if self.end.is_some() {
            return true;
        }
        let end = match self.bridge {
            _ if cx.now >= self.lease.until() => {
                CallEnd::new("tandem", "lease_expired", "the orchestrator sent no keepalive: is it gone?")
            }
            BridgeState::Opening => {
                CallEnd::new("tandem", "engine_timeout", "the engine did not open the bridge in time")
            }
            _ => CallEnd::new("tandem", "never_released", "nobody released the held media: is the orchestrator gone?"),
        };
        self.end(cx, end);
        false
    }

    /// When `handle_timeout` is to be called.
    pub fn deadline(&self) -> Instant {
        match (&self.end, self.bridge) {
            (Some(_), _) => self.since.plus_millis(ENDING_MS_MAX),
            (None, BridgeState::Opening) => self.since.plus_millis(OPEN_MS_MAX).min(self.lease.until()),
            (None, _) if !self.released => self.since.plus_millis(HELD_MS_MAX).min(self.lease.until()),
            (None, _) => self.lease.until(),
        }
    }

    /// Whether bridge and SIP call are both gone.
    pub fn is_over(&self) -> bool {
        let sip_gone = matches!(self.sip, SipState::Idle | SipState::Gone);
        self.end.is_some() && self.bridge == BridgeState::Gone && sip_gone
    }

    /// Says the last words, once it is over or abandoned.
    pub fn bury(&mut self, cx: &mut Context) {
        let Some(end) = self.end.take() else { return };
        self.note(cx, Step::End, end.line());
        if self.answer.is_some() {
            let CallEnd { side, cause, detail } = end;
            self.notify(cx, EdgeEventKind::Ended { side, cause, detail });
        }
    }

    /// The SIP call, for the edge's index.
    pub fn sip_call(&self) -> Option<SipCallId> {
        match self.sip {
            SipState::Calling(call) | SipState::Up(call) => Some(call),
            SipState::Idle | SipState::Gone => None,
        }
    }

    /// The reply to `new`, once the answer is there.
    fn created(&self) -> Result<EdgeReply, EdgeError> {
        let sdp_answer = self.answer.clone().unwrap_or_default();
        Ok(EdgeReply::Created(SessionCreated { edge_session_id: self.token.clone(), sdp_answer }))
    }

    fn handle_leg(&mut self, cx: &mut Context, leg: LegName, event: LegEvent) {
        match (event, leg) {
            (LegEvent::IceNominated(address), _) => {
                let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
                self.note(cx, Step::IcePair, format!("{family}, remote port {}", address.port()));
            }
            (LegEvent::DtlsConnected { version, profile }, _) => {
                self.note(cx, Step::Dtls, format!("{}, {}", version_name(version), profile_name(profile)));
                if self.end.is_none() {
                    self.notify(cx, EdgeEventKind::MediaReady);
                }
            }
            (LegEvent::FirstReceived, WHATSAPP) => self.note(cx, Step::FirstPacketFromWhatsapp, String::new()),
            (LegEvent::FirstSent, WHATSAPP) => self.note(cx, Step::FirstPacketToWhatsapp, String::new()),
            (LegEvent::FirstReceived, SIP) => self.note(cx, Step::FirstPacketFromSip, String::new()),
            (LegEvent::FirstSent, SIP) => self.note(cx, Step::FirstPacketToSip, String::new()),
            // Ended comes as BridgeEvent::Ended; a latched source changes nothing here.
            (LegEvent::Latched(_) | LegEvent::Ended(_) | LegEvent::FirstReceived | LegEvent::FirstSent, _) => {}
        }
    }

    fn ringing(&mut self, cx: &mut Context, code: u16, sdp: Option<String>) {
        let early_media = sdp.is_some();
        self.note(cx, Step::Ringing, format!("{code}{}", if early_media { " with SDP" } else { "" }));
        if self.early_media
            && let (Some(sdp), Some(rtp)) = (&sdp, &mut self.rtp)
            && let Ok(remote) = rtp.read_answer(sdp)
        {
            self.set_remote(cx, remote);
        }
        self.notify(cx, EdgeEventKind::Ringing { code, early_media });
    }

    fn answered(&mut self, cx: &mut Context, call: SipCallId, sdp: &str, headers: &[(String, String)]) {
        self.sip = SipState::Up(call);
        let Some(Ok(remote)) = self.rtp.as_mut().map(|rtp| rtp.read_answer(sdp)) else {
            return self.end(cx, CallEnd::new("sip", "bad_sdp", "the 200's SDP has no G.711 stream that can be used"));
        };
        let mut detail = format!("200, {}", codec_name(remote.format.codec));
        for (name, value) in headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("X-Twilio-CallSid")) {
            detail = format!("{detail}, {name} {value}");
        }
        self.set_remote(cx, remote);
        self.note(cx, Step::Answered, detail);
        self.notify(cx, EdgeEventKind::Answered);
    }

    /// Whatever changes on the SIP side stays there: the bridge absorbs it.
    fn reinvited(&mut self, cx: &mut Context, call: SipCallId, sdp: Option<&str>) {
        let Some(rtp) = self.rtp.as_mut().filter(|_| self.end.is_none()) else {
            return cx.sip.answer_reinvite(cx.now, call, None);
        };
        match sdp.map(|offer| rtp.read_offer(offer)) {
            // The peer wants our offer; its answer comes as `LateAnswer`, in the ACK.
            None => cx.sip.answer_reinvite(cx.now, call, Some(&rtp.offer())),
            Some(Ok((answer, remote))) => {
                cx.sip.answer_reinvite(cx.now, call, Some(&answer));
                self.set_remote(cx, remote);
            }
            Some(Err(_)) => cx.sip.answer_reinvite(cx.now, call, None),
        }
    }

    /// The answer to an offer of ours in a 2xx (RFC 3264 §5). One that cannot be used leaves the call as it was.
    fn answered_late(&mut self, cx: &mut Context, sdp: &str) {
        let rtp = self.rtp.as_mut().filter(|_| self.end.is_none());
        if let Some(Ok(remote)) = rtp.map(|rtp| rtp.read_answer(sdp)) {
            self.set_remote(cx, remote);
        }
    }

    fn set_remote(&self, cx: &mut Context, remote: RtpRemote) {
        let remote = Box::new(LegRemote::Rtp(remote));
        self.command(cx, BridgeCommand::SetRemote { leg: SIP, remote });
    }

    fn command(&self, cx: &mut Context, command: BridgeCommand) {
        let command = Command::Bridge { bridge: BridgeId(self.number), command };
        cx.out.push_back(EdgeOutput::Engine { worker: self.worker, command });
    }

    fn notify(&mut self, cx: &mut Context, kind: EdgeEventKind) {
        let sequence = self.facts.record(&kind);
        let event = EdgeEvent { edge_session_id: self.token.clone(), call_id: self.call_id.clone(), sequence, kind };
        cx.out.push_back(EdgeOutput::Notify { callback_url: self.callback_url.clone(), event });
    }

    fn note(&self, cx: &mut Context, step: Step, detail: String) {
        cx.out.push_back(EdgeOutput::Timeline(Entry { call_id: self.call_id.clone(), at: cx.now, step, detail }));
    }
}

/// Digits become E.164; a business-scoped user id stays as it is; anything that does not belong into a SIP user part is left out.
fn from_user(from: Option<&str>) -> String {
    let user: String = from
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+'))
        .take(64)
        .collect();
    match user.as_str() {
        "" => "anonymous".to_owned(),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => format!("+{digits}"),
        _ => user,
    }
}

/// RFC 3326; the codes are those of ITU-T Q.850.
fn reason_header(end: &CallEnd) -> &'static str {
    match end.cause.as_str() {
        "hangup" | "bye" => "Q.850;cause=16;text=\"Normal call clearing\"",
        "consent_lost" | "media_timeout" | "ice_failed" | "dtls_timeout" | "dtls_refused" => {
            "Q.850;cause=27;text=\"Destination out of order\""
        }
        _ => "Q.850;cause=41;text=\"Temporary failure\"",
    }
}

/// `said`: the protocol library's own words, such as the name of a DTLS alert.
fn bridge_end(end: End, said: Option<&str>) -> CallEnd {
    let side = match end.side {
        Side::A => "whatsapp",
        Side::B => "sip",
        Side::Engine => "tandem",
    };
    let (cause, detail) = match end.cause {
        Cause::Closed => ("closed", "the bridge was closed"),
        Cause::ConsentLost => ("consent_lost", "no answer to consent checks for 30 s"),
        Cause::DtlsFingerprintMismatch => ("dtls_fingerprint", "the certificate is not the one of the description"),
        Cause::DtlsRefused => ("dtls_refused", "the peer refused the DTLS handshake"),
        Cause::DtlsTimeout => ("dtls_timeout", "the DTLS handshake did not finish in time"),
        Cause::DtlsClosed => ("dtls_closed", "the peer closed the DTLS association"),
        Cause::IceFailed => ("ice_failed", "no candidate pair answered: is UDP blocked?"),
        Cause::MediaTimeout => ("media_timeout", "nothing came for a minute"),
        Cause::RtcpBye => ("rtcp_bye", "the peer said BYE in RTCP"),
        Cause::Panicked => ("bug", "a bug in the bridge was caught"),
        Cause::Shutdown => ("shutdown", "the worker stops"),
    };
    match said {
        Some(said) => CallEnd::new(side, cause, format!("{detail} ({said})")),
        None => CallEnd::new(side, cause, detail),
    }
}

fn sip_end(end: SipEnd) -> CallEnd {
    match end {
        SipEnd::ByeReceived(reason) => {
            CallEnd::new("sip", "bye", reason.unwrap_or_else(|| "the SIP side hung up".to_owned()))
        }
        SipEnd::Rejected { code, reason } => {
            let cause = match code {
                486 | 600 => "busy",
                408 | 480 => "no_answer",
                603 | 607 | 608 => "declined",
                404 | 604 => "not_found",
                488 | 606 => "not_acceptable",
                _ => "rejected",
            };
            CallEnd::new("sip", cause, format!("{code} {reason}"))
        }
        SipEnd::TimedOut => CallEnd::new("sip", "no_answer", "the SIP side did not answer in time"),
        SipEnd::Unauthorized => CallEnd::new("sip", "unauthorized", "the SIP side refused our credentials"),
        SipEnd::Unreachable => CallEnd::new("sip", "unreachable", "the SIP target could not be resolved or sent to"),
        SipEnd::ProtocolError => CallEnd::new("sip", "protocol_error", "the SIP side's answer cannot be used"),
        SipEnd::ByeSent | SipEnd::Cancelled | SipEnd::CancelReceived | SipEnd::RejectedByUs(_) => {
            CallEnd::new("tandem", "hangup", "we hung up")
        }
    }
}

fn version_name(version: DtlsVersion) -> &'static str {
    match version {
        DtlsVersion::V12 => "DTLS 1.2",
        DtlsVersion::V13 => "DTLS 1.3",
    }
}

fn profile_name(profile: SrtpProfile) -> &'static str {
    match profile {
        SrtpProfile::AesCm128HmacSha1_80 => "AES_CM_128_HMAC_SHA1_80",
        SrtpProfile::AesCm128HmacSha1_32 => "AES_CM_128_HMAC_SHA1_32",
        SrtpProfile::AesCm256HmacSha1_80 => "AES_256_CM_HMAC_SHA1_80",
        SrtpProfile::AesCm256HmacSha1_32 => "AES_256_CM_HMAC_SHA1_32",
        SrtpProfile::AeadAes128Gcm => "AEAD_AES_128_GCM",
        SrtpProfile::AeadAes256Gcm => "AEAD_AES_256_GCM",
    }
}
