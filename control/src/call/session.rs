//! One session of the edge: WhatsApp's leg, whoever is called for it, and the order in which both come and go. Pure.
//!
//! ```text
//!  new -> Opening --Opened: answer, INVITEs--> Live --end, from any side--> Ending --bridge and SIP calls gone--> over
//! ```
//!
//! Who is called: a SIP target, a trunk, a user's devices or a group's, as the route says; `hunt.rs` finds who answers. Later
//! that side may hold, press keys and transfer the call: WhatsApp's description, SSRC and stream never change.
//!
//! Why the SIP call starts with the answer and not with DTLS: the far side rings while WhatsApp's media is set up, and the caller
//! waits for the longer of the two instead of their sum.

mod joined;

use super::backends::Choice;
use super::context::Context;
use super::edge::EdgeOutput;
use super::hunt::{Hunt, Hunted, Lost, Wanted, Way, Won};
use super::lease::{Facts, Lease};
use super::limits::*;
use super::machine::CallEnd;
use super::negotiate::{Plan, codec_name};
use super::party::Party;
use super::transfer;
use super::{EdgeError, EdgeEvent, EdgeEventKind, EdgeReply, NewSession, SessionCreated};
use crate::route::Caller;
use crate::sip::gatekeeper::Refusal;
use crate::sip::{SipCallId, SipEnd, SipEvent};
use crate::trace::timeline::Step;
use crate::trace::verdict;
use engine::bridge::{BridgeCommand, BridgeConfig, BridgeEvent, BridgeId, LegName, LegRemote};
use engine::dtls::DtlsVersion;
use engine::error::{Cause, End, Side};
use engine::leg::{LegEvent, LocalLeg};
use engine::rtp::telephone_event::Digit;
use engine::srtp::SrtpProfile;
use engine::time::Instant;
use engine::worker::{Command, RefuseReason};

/// WhatsApp's leg is always the bridge's first.
const WHATSAPP: LegName = LegName::A;
const SIP: LegName = LegName::B;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BridgeState {
    Opening,
    Open,
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
    pub answer: Option<Box<str>>,
    pub lease: Lease,
    /// What was told by `notify` so far.
    pub facts: Facts,
    plan: Plan,
    caller: Caller,
    sdp_session_id: u64,
    hold: bool,
    released: bool,
    callback_url: Option<String>,
    /// Requests that wait for the answer.
    waiters: Vec<u64>,
    bridge: BridgeState,
    /// Who is being called: at first, or in place of the one who wants the call transferred.
    hunt: Option<Box<Hunt>>,
    /// Who has answered.
    far: Option<Box<Party>>,
    /// Who has answered is about to be replaced by another call, or by a newcomer.
    joining: bool,
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
    pub ways: Vec<Way>,
    pub dialed: String,
    pub sdp_session_id: u64,
    pub request: u64,
}

impl Session {
    /// Asks the engine for a bridge; the error says that there is nobody to be called.
    pub fn open(cx: &mut Context, mut birth: Birth, new: NewSession) -> Result<Box<Session>, EdgeError> {
        let (wanted, peer) = (new.dtls.unwrap_or(cx.config.dtls), birth.plan.peer(&new));
        birth.plan.backend = cx.backends.choose(cx.now, wanted, peer);
        let caller = Caller { user: from_user(new.from.as_deref()), display: None };
        let wanted = Wanted {
            dialed: birth.dialed,
            caller: caller.clone(),
            formats: birth.plan.formats(),
            transcoding: true,
            headers: call_id_header(&new.call_id),
            max_forwards: None,
            early_media: new.early_media,
            until: cx.now.plus_millis(cx.config.ring_ms_max),
        };
        let mut hunt = Hunt::new(&new.call_id, SIP, birth.ways, wanted);
        let b = match hunt.first(cx) {
            Ok(config) => config,
            Err(lost) => {
                let words = lost.refusal.warning.unwrap_or_default();
                return Err(EdgeError::new(422, "no_route", words));
            }
        };
        let mut session = Box::new(Session {
            number: birth.number,
            token: birth.token,
            call_id: new.call_id,
            offer_digest: birth.offer_digest,
            worker: birth.worker,
            answer: None,
            lease: Lease::new(cx.now, new.lease_s),
            facts: Facts::default(),
            plan: birth.plan,
            caller,
            sdp_session_id: birth.sdp_session_id,
            hold: new.hold_media,
            released: !new.hold_media,
            callback_url: new.callback_url,
            waiters: vec![birth.request],
            bridge: BridgeState::Opening,
            hunt: Some(Box::new(hunt)),
            far: None,
            joining: false,
            end: None,
            end_detail: None,
            since: cx.now,
        });
        let config = BridgeConfig { a: session.plan.config(session.hold), b };
        let command = Command::Open { bridge: BridgeId(session.number), config };
        cx.out.push_back(EdgeOutput::Engine { worker: session.worker, command });
        Ok(session)
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
        let Some(answer) = answer else {
            return self.end(cx, CallEnd::new("tandem", "bug", "the engine opened legs of another kind"));
        };
        self.answer = Some(answer.into());
        for request in std::mem::take(&mut self.waiters) {
            cx.out.push_back(EdgeOutput::Reply { request, result: self.created() });
        }
        let free = if self.hold { "" } else { ", not held: RTP may precede the accept" };
        self.note(cx, Step::Offer, format!("{}{free}", self.plan.describe()));

        // WhatsApp ends a call that brings no packets for some seconds: a softphone on hold must not cost it.
        cx.command(BridgeCommand::Comfort { leg: WHATSAPP });
        if let Some(remote) = self.plan.described() {
            if self.hold {
                cx.command(BridgeCommand::Hold { leg: WHATSAPP });
            }
            let remote = Box::new(LegRemote::Rtp(remote));
            cx.command(BridgeCommand::SetRemote { leg: WHATSAPP, remote });
            self.notify(cx, EdgeEventKind::MediaReady);
        }
        let hunted = self.hunt.as_mut().map_or(Hunted::Nothing, |hunt| hunt.begin(cx, b.clone()));
        self.hunted(cx, hunted);
    }

    /// The engine has no bridge for us.
    pub fn refused(&mut self, cx: &mut Context, reason: RefuseReason) {
        self.bridge = BridgeState::Gone;
        self.end(cx, refused_end(reason));
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
        if let Some(mut hunt) = self.hunt.take() {
            hunt.stop(cx);
        }
        if let Some(call) = self.far.as_ref().and_then(|far| far.call) {
            cx.hangup(call, reason_header(&end));
        }
        self.since = cx.now;
        // At once, not when the bridge is gone: WhatsApp's own goodbye, when it sees our DTLS close, must not come before the cause.
        if self.answer.is_some() {
            let CallEnd { side, cause, detail } = end.clone();
            self.notify(cx, EdgeEventKind::Ended { side, cause, detail });
        }
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
            BridgeEvent::LegOpened { leg, local } => {
                let hunted = self.hunt.as_mut().map_or(Hunted::Nothing, |hunt| hunt.leg_opened(cx, leg, local));
                self.hunted(cx, hunted);
            }
            BridgeEvent::LegRefused { leg } => {
                let hunted = self.hunt.as_mut().map_or(Hunted::Nothing, |hunt| hunt.leg_refused(cx, leg));
                self.hunted(cx, hunted);
            }
            BridgeEvent::LegClosed { leg, cause: Some(_), .. } => {
                let hunted = self.hunt.as_mut().map_or(Hunted::Nothing, |hunt| hunt.leg_lost(cx, leg));
                self.hunted(cx, hunted);
            }
            BridgeEvent::LegClosed { .. } => {}
            BridgeEvent::EndDetail { text, .. } => self.end_detail = Some(text),
            BridgeEvent::Ended { end, stats } => {
                self.bridge = BridgeState::Gone;
                let detail = self.end_detail.take();
                self.learn(cx, end, detail.as_deref());
                self.note(cx, Step::Media, verdict::media(&stats, ["whatsapp", "sip"]));
                self.end(cx, bridge_end(end, ["whatsapp", "sip"], detail.as_deref()));
            } // A session asks for no spare legs.
        }
    }

    /// Takes one event of one of its SIP calls.
    pub fn handle_sip(&mut self, cx: &mut Context, call: SipCallId, event: SipEvent) {
        if let Some(hunt) = self.hunt.as_mut().filter(|hunt| hunt.owns(call)) {
            let hunted = hunt.handle_sip(cx, call, event);
            return self.hunted(cx, hunted);
        }
        let is_live = self.end.is_none();
        let Some(far) = self.far.as_mut().filter(|far| far.call == Some(call)) else {
            if matches!(event, SipEvent::ReInvite { .. }) {
                cx.sip.answer_reinvite(cx.now, call, None);
            }
            return;
        };
        match event {
            SipEvent::ReInvite { sdp, .. } if is_live => {
                if let Some(words) = far.reinvited(cx, call, sdp.as_deref()) {
                    let words = format!("{}: {words}", far.subject);
                    self.note(cx, Step::Hold, words);
                }
            }
            SipEvent::ReInvite { .. } => cx.sip.answer_reinvite(cx.now, call, None),
            SipEvent::LateAnswer { sdp, .. } if is_live => {
                if let Err(words) = far.answered_late(cx, &sdp) {
                    let words = format!("the answer to our offer cannot be used: {words}");
                    self.end(cx, CallEnd::new("sip", "bad_sdp", words));
                }
            }
            SipEvent::InfoDigit { digit, duration_ms, .. } => {
                self.note(cx, Step::Digit, format!("{digit} from SIP, {duration_ms} ms, by INFO"));
                if let Some(digit) = Digit::from_char(digit) {
                    cx.command(BridgeCommand::SendDigit { leg: WHATSAPP, digit, duration_ms });
                }
            }
            SipEvent::TransferAsked { refer_to, referred_by, .. } => {
                self.transfer(cx, call, &refer_to, referred_by.as_deref());
            }
            SipEvent::ReInviteAnswered { .. } | SipEvent::ReInviteRefused { .. } if is_live => {
                if let Some(words) = far.reoffer_over(cx, &event) {
                    let words = format!("{}: {words}", far.subject);
                    self.note(cx, Step::IcePair, words);
                }
            }
            SipEvent::ByeHeaders { headers, .. } => cx.note_headers(&self.call_id, &far.subject, &headers),
            SipEvent::Ended { end, .. } => {
                far.call = None;
                // Who asked for a transfer may go before it is done.
                if self.hunt.is_none() && !self.joining {
                    self.end(cx, sip_end(end));
                }
            }
            _ => {}
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
        if let Some(hunt) = self.hunt.as_mut().filter(|_| self.bridge == BridgeState::Open) {
            let hunted = hunt.handle_timeout(cx);
            self.hunted(cx, hunted);
            if self.end.is_some() || cx.now < self.deadline() {
                return false;
            }
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
        let hunt = self.hunt.as_ref().map_or(Instant::NEVER, |hunt| hunt.deadline());
        let lease = self.lease.until();
        match (&self.end, self.bridge) {
            (Some(_), _) => self.since.plus_millis(ENDING_MS_MAX),
            (None, BridgeState::Opening) => self.since.plus_millis(OPEN_MS_MAX).min(lease),
            (None, _) if !self.released => self.since.plus_millis(HELD_MS_MAX).min(hunt).min(lease),
            (None, _) => hunt.min(lease),
        }
    }

    /// Who has answered.
    pub fn far_subject(&self) -> Option<&str> {
        self.far.as_ref().map(|far| far.subject.as_str())
    }

    /// How far it is, for figures.
    pub fn state(&self) -> &'static str {
        match (&self.end, self.bridge, &self.far) {
            (Some(_), _, _) => "ending",
            (None, BridgeState::Opening, _) => "opening",
            (None, _, None) => "ringing",
            (None, _, Some(_)) => "talking",
        }
    }

    /// Whether the bridge is there, and its end still to be told.
    pub fn has_bridge(&self) -> bool {
        self.bridge != BridgeState::Gone
    }

    /// Whether it has ended and the bridge is gone; its SIP calls are the edge's to count.
    pub fn is_over(&self) -> bool {
        self.end.is_some() && self.bridge == BridgeState::Gone
    }

    /// Says the last words, once it is over or abandoned.
    pub fn bury(&mut self, cx: &mut Context) {
        let Some(end) = self.end.take() else { return };
        self.note(cx, Step::End, end.line());
    }

    /// The reply to `new`, once the answer is there.
    fn created(&self) -> Result<EdgeReply, EdgeError> {
        let sdp_answer = self.answer.as_deref().unwrap_or_default().to_owned();
        Ok(EdgeReply::Created(SessionCreated { edge_session_id: self.token.clone(), sdp_answer }))
    }

    fn handle_leg(&mut self, cx: &mut Context, leg: LegName, event: LegEvent) {
        if event == LegEvent::FirstReceived && leg != WHATSAPP {
            let hunted = self.hunt.as_mut().map_or(Hunted::Nothing, |hunt| hunt.media_came(cx, leg));
            self.hunted(cx, hunted);
        }
        match (event, leg) {
            // WhatsApp takes no later offer.
            (LegEvent::PathSilent, SIP) => {
                let Some(far) = self.far.as_mut().filter(|_| self.end.is_none()) else { return };
                if far.restart_ice(cx) {
                    let words = format!("{}: nothing comes from it; an ICE restart is offered", far.subject);
                    self.note(cx, Step::IcePair, words);
                }
            }
            (LegEvent::IceNominated(address), _) => {
                if let Some(far) = self.far.as_mut().filter(|_| leg == SIP) {
                    far.half.path_is_good();
                }
                let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
                self.note(cx, Step::IcePair, format!("{family}, remote port {}", address.port()));
            }
            (LegEvent::DtlsConnected { version, profile }, _) => {
                let backend = self.backend_of(leg).cloned().unwrap_or_default();
                cx.backends.connected(cx.now, &backend);
                let version = format!("{}{}", version_name(version), backend.words());
                self.note(cx, Step::Dtls, format!("{version}, {}", profile_name(profile)));
                // The callee's own handshake is no news of WhatsApp's.
                if self.end.is_none() && leg == WHATSAPP {
                    self.notify(cx, EdgeEventKind::MediaReady);
                }
            }
            (LegEvent::FirstReceived, WHATSAPP) => self.note(cx, Step::FirstPacketFromWhatsapp, String::new()),
            (LegEvent::FirstSent, WHATSAPP) => self.note(cx, Step::FirstPacketToWhatsapp, String::new()),
            (LegEvent::FirstReceived, SIP) => self.note(cx, Step::FirstPacketFromSip, String::new()),
            (LegEvent::FirstSent, SIP) => self.note(cx, Step::FirstPacketToSip, String::new()),
            // Ended comes as BridgeEvent::Ended; a latched source changes nothing here.
            (
                LegEvent::Latched(_)
                | LegEvent::Ended(_)
                | LegEvent::FirstReceived
                | LegEvent::FirstSent
                | LegEvent::PathSilent,
                _,
            ) => {}
        }
    }

    /// Which library does DTLS on a leg.
    fn backend_of(&self, leg: LegName) -> Option<&Choice> {
        match leg {
            WHATSAPP => Some(&self.plan.backend),
            leg => match (&self.hunt, &self.far) {
                (_, Some(far)) => Some(&far.half.backend),
                (hunt, None) => hunt.as_ref().and_then(|hunt| hunt.backend_of(leg)),
            },
        }
    }

    /// What the end of a leg says about the next call with its peer.
    fn learn(&mut self, cx: &mut Context, end: End, said: Option<&str>) {
        let leg = match end.side {
            Side::A => WHATSAPP,
            Side::B => SIP,
            Side::Engine => return,
        };
        let learned = self.backend_of(leg).and_then(|choice| cx.backends.ended(cx.now, choice, end.cause, said));
        if let Some(words) = learned {
            self.note(cx, Step::Dtls, format!("the handshake failed: {words}"));
        }
    }

    /// What the hunt says, of a call that comes up or of a transfer.
    fn hunted(&mut self, cx: &mut Context, hunted: Hunted) {
        match (hunted, self.far.is_some()) {
            (Hunted::Nothing, _) => {}
            (Hunted::Rings { code, sdp, .. }, false) => {
                self.notify(cx, EdgeEventKind::Ringing { code, early_media: sdp });
            }
            (Hunted::Rings { code, .. }, true) => {
                if let Some(call) = self.asker() {
                    cx.sip.transfer_progress(cx.now, call, code);
                }
            }
            (Hunted::Won(won), false) => self.answered(cx, *won),
            (Hunted::Won(won), true) => self.transferred(cx, *won),
            (Hunted::Lost(lost), false) => self.nobody_answered(cx, *lost),
            (Hunted::Lost(lost), true) => self.transfer_failed(cx, &lost.refusal),
        }
    }

    fn answered(&mut self, cx: &mut Context, won: Won) {
        let Won { party, codec, headers } = won;
        self.hunt = None;
        self.far = Some(Box::new(party));
        let mut detail = format!("200, {}", codec_name(codec.codec));
        for (name, value) in headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("X-Twilio-CallSid")) {
            detail = format!("{detail}, {name} {value}");
        }
        self.note(cx, Step::Answered, detail);
        self.notify(cx, EdgeEventKind::Answered);
    }

    fn nobody_answered(&mut self, cx: &mut Context, lost: Lost) {
        self.hunt = None;
        let words = lost.refusal.warning.unwrap_or_default();
        let end = match lost.end {
            Some(SipEnd::ProtocolError) => {
                CallEnd::new("sip", "bad_sdp", format!("the 200's SDP has no stream that can be used: {words}"))
            }
            Some(end) => sip_end(end),
            None => CallEnd::new("tandem", "no_route", words),
        };
        self.end(cx, end);
    }

    fn transfer(&mut self, cx: &mut Context, call: SipCallId, refer_to: &str, referred_by: Option<&str>) {
        let planned = match &self.far {
            Some(asking) if self.hunt.is_none() && !self.joining && self.end.is_none() => {
                transfer::plan(cx, asking, self.staying(), refer_to, referred_by)
            }
            _ => Err(Refusal::warned(503, "the call cannot be transferred now")),
        };
        match planned {
            Err(refusal) => {
                let words = refusal.warning.unwrap_or_default();
                self.note(cx, Step::Transfer, format!("refused: {words}"));
                cx.sip.transfer_progress(cx.now, call, refusal.code);
            }
            Ok((ways, wanted)) => {
                let by = self.far.as_ref().map_or("", |far| &far.subject);
                self.note(cx, Step::Transfer, format!("asked for by {by}"));
                let hunt = self.hunt.insert(Box::new(Hunt::new(&self.call_id, SIP, ways, wanted)));
                let hunted = hunt.start(cx);
                self.hunted(cx, hunted);
            }
        }
    }

    /// Whoever asked for the transfer, if it is still there.
    fn asker(&self) -> Option<SipCallId> {
        self.far.as_ref()?.call
    }

    fn transferred(&mut self, cx: &mut Context, won: Won) {
        if let Some(call) = self.asker() {
            cx.sip.transfer_progress(cx.now, call, 200);
            cx.hangup(call, "SIP;cause=200;text=\"Transferred\"");
        }
        self.hunt = None;
        self.note(cx, Step::Transfer, format!("{} answered", won.party.subject));
        self.far = Some(Box::new(won.party));
    }

    fn transfer_failed(&mut self, cx: &mut Context, refusal: &Refusal) {
        let words = refusal.warning.clone().unwrap_or_default();
        self.note(cx, Step::Transfer, format!("failed: {} {words}", refusal.code));
        self.hunt = None;
        match self.asker() {
            Some(call) => cx.sip.transfer_progress(cx.now, call, refusal.code),
            None => self.end(cx, CallEnd::new("tandem", "transfer_failed", words)),
        }
    }

    fn command(&self, cx: &mut Context, command: BridgeCommand) {
        cx.command(command);
    }

    /// Nothing follows `Ended`.
    fn notify(&mut self, cx: &mut Context, kind: EdgeEventKind) {
        if self.end.is_some() {
            return;
        }
        let sequence = self.facts.record(&kind);
        let event = EdgeEvent { edge_session_id: self.token.clone(), call_id: self.call_id.clone(), sequence, kind };
        cx.out.push_back(EdgeOutput::Notify { callback_url: self.callback_url.clone(), event });
    }

    fn note(&self, cx: &mut Context, step: Step, detail: String) {
        cx.note(&self.call_id, step, detail);
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

fn call_id_header(call_id: &str) -> Vec<(String, String)> {
    vec![("X-WA-Call-ID".to_owned(), call_id.to_owned())]
}

/// Why the engine has no bridge.
pub(super) fn refused_end(reason: RefuseReason) -> CallEnd {
    let (cause, detail) = match reason {
        RefuseReason::Full => ("full", "every worker carries as many bridges as it may"),
        RefuseReason::NoPort => ("no_port", "no media port is free: widen MEDIA_PORTS"),
        RefuseReason::NoSocket => ("no_socket", "the system gave no socket: raise the limit of open files"),
        RefuseReason::Duplicate => ("bug", "the engine knows this bridge already"),
    };
    CallEnd::new("tandem", cause, detail)
}

/// RFC 3326; the codes are those of ITU-T Q.850.
pub(super) fn reason_header(end: &CallEnd) -> &'static str {
    match end.cause.as_str() {
        "hangup" | "bye" => "Q.850;cause=16;text=\"Normal call clearing\"",
        "consent_lost" | "media_timeout" | "ice_failed" | "dtls_timeout" | "dtls_refused" => {
            "Q.850;cause=27;text=\"Destination out of order\""
        }
        _ => "Q.850;cause=41;text=\"Temporary failure\"",
    }
}

/// `names`: what A and B are called. `said`: the protocol library's own words, such as the name of a DTLS alert.
pub(super) fn bridge_end(end: End, names: [&str; 2], said: Option<&str>) -> CallEnd {
    let side = match end.side {
        Side::A => names[0],
        Side::B => names[1],
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

/// Twilio's error for headers whose names it reserves, in `X-Twilio-Error`, and what the operator can do about it.
const RESERVED_HEADER: &str = "32113";
const RESERVED_HEADER_REMEDY: &str = "; Twilio reserves X-Twilio-Account: set SIP_ACCOUNT_HEADER=false";

pub(super) fn sip_end(end: SipEnd) -> CallEnd {
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
            let remedy = if reason.contains(RESERVED_HEADER) { RESERVED_HEADER_REMEDY } else { "" };
            CallEnd::new("sip", cause, format!("{code} {reason}{remedy}"))
        }
        SipEnd::TimedOut => CallEnd::new("sip", "no_answer", "the SIP side did not answer in time"),
        SipEnd::Unauthorized => CallEnd::new("sip", "unauthorized", "the SIP side refused our credentials"),
        SipEnd::Unreachable => CallEnd::new("sip", "unreachable", "the SIP target could not be resolved or sent to"),
        SipEnd::ProtocolError => CallEnd::new("sip", "protocol_error", "the SIP side's answer cannot be used"),
        SipEnd::CancelReceived => CallEnd::new("sip", "cancelled", "the caller gave up"),
        SipEnd::ByeSent | SipEnd::Cancelled | SipEnd::RejectedByUs(_) => CallEnd::new("tandem", "hangup", "we hung up"),
    }
}

pub(super) fn version_name(version: DtlsVersion) -> &'static str {
    match version {
        DtlsVersion::V12 => "DTLS 1.2",
        DtlsVersion::V13 => "DTLS 1.3",
    }
}

pub(super) fn profile_name(profile: SrtpProfile) -> &'static str {
    match profile {
        SrtpProfile::AesCm128HmacSha1_80 => "AES_CM_128_HMAC_SHA1_80",
        SrtpProfile::AesCm128HmacSha1_32 => "AES_CM_128_HMAC_SHA1_32",
        SrtpProfile::AesCm256HmacSha1_80 => "AES_256_CM_HMAC_SHA1_80",
        SrtpProfile::AesCm256HmacSha1_32 => "AES_256_CM_HMAC_SHA1_32",
        SrtpProfile::AeadAes128Gcm => "AEAD_AES_128_GCM",
        SrtpProfile::AeadAes256Gcm => "AEAD_AES_256_GCM",
    }
}
