//! What happens during a call: offers and refreshes by re-INVITE and UPDATE, INFO, and session timers
//! (RFC 3261 §14, RFC 3311, RFC 4028). An offer of the peer is served alike by whichever of the two it comes.
//!
//! A re-INVITE of ours repeats the description that is in force, or carries a new offer. The peer may
//! offer anew at any time; an offer equal to its last one is a refresh and is answered with our last description at once.

use super::super::digest::Answered;
use super::super::limits::{MIN_SE_S, REINVITE_ANSWER_MS_MAX};
use super::super::message::Message;
use super::super::transaction::TransactionId;
use super::super::transport::Hop;
use super::super::{SipEnd, SipEvent};
use super::call::{Call, Purpose, Timer, digest_of};
use super::{ALLOW, Core, is_secure};
use engine::time::Instant;

/// An agreed session interval.
pub(super) struct Session {
    interval_s: u32,
    we_refresh: bool,
    /// The next firing of the timer is the end.
    last_call: bool,
}

/// A re-INVITE of ours on its way.
pub(super) struct OurReinvite {
    /// As sent: its ACK repeats the credentials.
    pub request: Message,
    answered: Answered,
    /// The new description, if it is one.
    offer: Option<String>,
}

/// A re-INVITE or UPDATE of the peer that waits for `answer_reinvite`.
pub(super) struct PeerReinvite {
    pub transaction: TransactionId,
    request: Message,
    leg: usize,
    reply_to: Hop,
}

/// Wait before a refresh is tried again because something else was under way.
const REFRESH_AGAIN_MS: u64 = 2_000;

impl Call {
    pub fn on_reinvite(
        &mut self,
        core: &mut Core,
        now: Instant,
        id: TransactionId,
        request: &Message,
        leg: usize,
        reply_to: &Hop,
    ) {
        if self.main != Some(leg) || self.peer_reinvite.is_some() {
            // The first INVITE has no final response yet, or an offer before has no answer (RFC 3261 §14.2, RFC 3311 §5.2).
            let mut response = self.response(core, request, 500);
            response.push("Retry-After", core.random.below(11).to_string());
            return core.transactions.respond(now, id, &response);
        }
        let is_update = request.method() == Some("UPDATE");
        // An UPDATE may follow a 2xx whose ACK is under way; not an offer of ours that the ACK is to answer.
        let pending = self.pending_2xx.as_ref().is_some_and(|pending| !is_update || pending.wants_answer);
        if self.reinvite.is_some() || pending {
            return self.respond(core, now, id, request, 491);
        }
        if self.interval_is_too_small(request) {
            let mut response = self.response(core, request, 422);
            response.push("Min-SE", Call::min_se());
            return core.transactions.respond(now, id, &response);
        }
        self.own(core, id, Purpose::Serve);
        let offer = request.sdp().map(str::to_owned);
        let repeated = offer.as_deref().is_some_and(|offer| self.remote_sdp == Some(digest_of(offer)));
        let peer = PeerReinvite { transaction: id, request: request.clone(), leg, reply_to: reply_to.clone() };
        self.peer_reinvite = Some(Box::new(peer));
        if repeated {
            let sdp = self.local_sdp.clone();
            return self.answer_reinvite(core, now, Some(&sdp));
        }
        self.set(Timer::ReinviteAnswer, now.plus_millis(REINVITE_ANSWER_MS_MAX));
        self.emit(core, SipEvent::ReInvite { call: self.id, sdp: offer });
    }

    pub fn answer_reinvite(&mut self, core: &mut Core, now: Instant, sdp: Option<&str>) {
        let Some(sdp) = sdp else { return self.refuse_peer_reinvite(core, now, 488) };
        let Some(peer) = self.peer_reinvite.take() else { return };
        let PeerReinvite { transaction, request, leg, reply_to } = *peer;
        self.clear(Timer::ReinviteAnswer);
        self.legs[leg].dialog.refresh_target(&request);
        self.local_sdp = sdp.to_owned();
        if let Some(offer) = request.sdp() {
            self.remote_sdp = Some(digest_of(offer));
        }
        if request.method() == Some("UPDATE") {
            let mut response = self.dialog_response(core, &request, &reply_to, 200, Some(sdp));
            self.agree_on_session(now, &request, &mut response);
            return core.transactions.respond(now, transaction, &response);
        }
        self.send_2xx(core, now, transaction, &request, &reply_to, false);
    }

    /// A refused re-INVITE leaves the call as it was (RFC 3261 §14.1).
    pub fn refuse_peer_reinvite(&mut self, core: &mut Core, now: Instant, code: u16) {
        if let Some(peer) = self.peer_reinvite.take() {
            let PeerReinvite { transaction, request, .. } = *peer;
            self.clear(Timer::ReinviteAnswer);
            self.respond(core, now, transaction, &request, code);
        }
    }

    /// UPDATE without an offer refreshes; one with an offer is served as a re-INVITE is (RFC 3311 §5.2).
    pub fn on_update(
        &mut self,
        core: &mut Core,
        now: Instant,
        id: TransactionId,
        request: &Message,
        leg: usize,
        reply_to: &Hop,
    ) {
        if request.sdp().is_some() {
            return self.on_reinvite(core, now, id, request, leg, reply_to);
        }
        if self.interval_is_too_small(request) {
            let mut response = self.response(core, request, 422);
            response.push("Min-SE", Call::min_se());
            return core.transactions.respond(now, id, &response);
        }
        self.legs[leg].dialog.refresh_target(request);
        let mut response = self.response(core, request, 200);
        let secure = request.uri().is_some_and(is_secure);
        response.push("Contact", core.contact(self.legs[leg].peer.transport, secure, None));
        response.push("Allow", ALLOW);
        if self.main == Some(leg) {
            self.agree_on_session(now, request, &mut response);
        }
        core.transactions.respond(now, id, &response);
    }

    pub fn on_info(&mut self, core: &mut Core, now: Instant, id: TransactionId, request: &Message) {
        let body = String::from_utf8_lossy(&request.body);
        let key = match request.content_type().as_deref() {
            Some("application/dtmf-relay") => relayed_key(&body),
            Some("application/dtmf") => key_of(body.trim()).map(|digit| (digit, KEY_MS_DEFAULT)),
            _ if request.body.is_empty() => return self.respond(core, now, id, request, 200),
            _ => {
                let mut response = self.response(core, request, 415);
                response.push("Accept", "application/dtmf-relay, application/dtmf");
                return core.transactions.respond(now, id, &response);
            }
        };
        match key {
            Some((digit, duration_ms)) => {
                self.respond(core, now, id, request, 200);
                self.emit(core, SipEvent::InfoDigit { call: self.id, digit, duration_ms });
            }
            None => self.respond(core, now, id, request, 400),
        }
    }

    /// Offers anew, at once or when what is under way is over.
    pub fn offer_anew(&mut self, core: &mut Core, now: Instant, sdp: &str) {
        if self.ended || self.main.is_none() {
            return self.emit(core, SipEvent::ReInviteRefused { call: self.id, code: 481 });
        }
        self.offer_wanted = Some(sdp.to_owned());
        if self.reinvite.is_none() {
            self.send_reinvite(core, now, Answered::default());
        }
    }

    /// A key by INFO.
    pub fn send_digit(&mut self, core: &mut Core, now: Instant, digit: char, duration_ms: u32) {
        let Some(leg) = self.main.filter(|&leg| !self.ended && !self.legs[leg].closed) else { return };
        let Some(digit) = key_of(digit.encode_utf8(&mut [0; 4])) else { return };
        let mut request = self.legs[leg].dialog.request("INFO");
        request.set_body(
            "application/dtmf-relay",
            &format!("Signal={digit}\r\nDuration={}\r\n", duration_ms.min(KEY_MS_MAX)),
        );
        self.send_in_dialog(core, now, leg, request, Purpose::Info { leg });
    }

    /// Sends the offer that waits, or refreshes the session: the description in force, once more (RFC 4028 §7.4).
    pub fn send_reinvite(&mut self, core: &mut Core, now: Instant, answered: Answered) {
        let Some(leg) = self.main.filter(|&leg| !self.ended && !self.legs[leg].closed) else { return };
        if self.peer_reinvite.is_some() || self.pending_2xx.is_some() {
            return self.set(Timer::ReinviteRetry, now.plus_millis(REFRESH_AGAIN_MS));
        }
        let mut request = self.legs[leg].dialog.request("INVITE");
        request.push("Allow", ALLOW);
        request.push("Supported", "timer");
        if let Some(session) = &self.session {
            request.push("Session-Expires", format!("{};refresher=uac", session.interval_s));
        }
        let offer = self.offer_wanted.take();
        request.set_body("application/sdp", offer.as_deref().unwrap_or(&self.local_sdp));
        self.reinvite = Some(Box::new(OurReinvite { request: request.clone(), answered, offer }));
        self.send_in_dialog(core, now, leg, request, Purpose::Reinvite);
    }

    pub fn on_reinvite_response(&mut self, core: &mut Core, now: Instant, response: &Message) {
        let Some(leg) = self.main else { return };
        let (number, code) = (response.cseq().map_or(0, |(number, _)| number), response.code().unwrap_or(0));
        let current = self.reinvite.as_ref().is_some_and(|r| r.request.cseq().is_some_and(|(n, _)| n == number));
        if code < 200 {
            return;
        }
        if !current {
            if code < 300 {
                self.repeat_ack(core, leg, number);
            }
            return;
        }
        let Some(reinvite) = self.reinvite.take() else { return };
        let OurReinvite { request, mut answered, offer } = *reinvite;
        match code {
            200..300 => {
                self.legs[leg].dialog.refresh_target(response);
                self.send_ack(core, now, leg, &request);
                self.start_session(now, response);
                self.take_answer(core, offer, response.sdp());
            }
            401 | 407 if self.authorizer.take(response, &mut answered) => {
                self.offer_wanted = self.offer_wanted.take().or(offer);
                return self.send_reinvite(core, now, answered);
            }
            // Both sides offered at once: the owner of the Call-ID waits longer (RFC 3261 §14.1).
            491 if !self.ended => {
                self.offer_wanted = self.offer_wanted.take().or(offer);
                let wait_ms = match self.is_caller {
                    true => 2_100 + u64::from(core.random.below(190)) * 10,
                    false => u64::from(core.random.below(200)) * 10,
                };
                return self.set(Timer::ReinviteRetry, now.plus_millis(wait_ms));
            }
            408 | 481 => {
                let end = if code == 408 { SipEnd::TimedOut } else { gone(code) };
                return self.drop_session(core, now, end);
            }
            // Refused for another reason: the session goes on until it expires.
            _ if offer.is_some() => self.emit(core, SipEvent::ReInviteRefused { call: self.id, code }),
            _ => {}
        }
        if self.offer_wanted.is_some() && self.reinvite.is_none() {
            self.send_reinvite(core, now, Answered::default());
        }
    }

    /// What the peer said to a new offer of ours.
    fn take_answer(&mut self, core: &mut Core, offer: Option<String>, answer: Option<&str>) {
        let Some(offer) = offer else { return };
        match answer {
            Some(answer) => {
                self.local_sdp = offer;
                self.remote_sdp = Some(digest_of(answer));
                self.emit(core, SipEvent::ReInviteAnswered { call: self.id, sdp: answer.to_owned() });
            }
            // A 2xx without an answer leaves what was agreed before.
            None => self.emit(core, SipEvent::ReInviteRefused { call: self.id, code: 488 }),
        }
    }

    /// Takes the interval a 2xx to our INVITE states (RFC 4028 §7.2).
    pub fn start_session(&mut self, now: Instant, response: &Message) {
        let agreed = session_expires(response);
        let session = agreed.map(|(interval_s, refresher)| Session {
            interval_s: interval_s.max(MIN_SE_S),
            we_refresh: refresher != Some(Refresher::Uas),
            last_call: false,
        });
        self.run_session(now, session);
    }

    /// Answers the interval an INVITE or UPDATE asks for (RFC 4028 §9).
    pub fn agree_on_session(&mut self, now: Instant, request: &Message, response: &mut Message) {
        let Some((asked_s, refresher)) = session_expires(request) else {
            if request.method() == Some("INVITE") {
                self.run_session(now, None);
            }
            return;
        };
        // Too short an interval of a peer that would not understand 422 is raised (RFC 4028 §9).
        let interval_s = asked_s.max(MIN_SE_S);
        let peer_can = request.lists("Supported", "timer");
        let peer_refreshes = peer_can && refresher != Some(Refresher::Uas);
        response
            .push("Session-Expires", format!("{interval_s};refresher={}", if peer_refreshes { "uac" } else { "uas" }));
        if peer_refreshes {
            response.push("Require", "timer");
        }
        self.run_session(now, Some(Session { interval_s, we_refresh: !peer_refreshes, last_call: false }));
    }

    fn run_session(&mut self, now: Instant, session: Option<Session>) {
        let at = match &session {
            None => Instant::NEVER,
            Some(_) if self.ended => Instant::NEVER,
            Some(Session { interval_s, we_refresh: true, .. }) => now.plus_millis(u64::from(*interval_s) * 500),
            Some(Session { interval_s, .. }) => now.plus_millis(expiry_ms(*interval_s)),
        };
        self.session = session;
        self.set(Timer::Session, at);
    }

    pub fn on_session_timer(&mut self, core: &mut Core, now: Instant) {
        let Some(session) = &mut self.session else { return };
        if session.last_call || !session.we_refresh {
            return self.drop_session(core, now, SipEnd::TimedOut);
        }
        if self.reinvite.is_some() || self.peer_reinvite.is_some() || self.pending_2xx.is_some() {
            return self.set(Timer::Session, now.plus_millis(REFRESH_AGAIN_MS));
        }
        // What is left of the interval is for this refresh to succeed.
        session.last_call = true;
        let left_ms = expiry_ms(session.interval_s) - u64::from(session.interval_s) * 500;
        self.set(Timer::Session, now.plus_millis(left_ms));
        self.send_reinvite(core, now, Answered::default());
    }

    pub fn interval_is_too_small(&self, request: &Message) -> bool {
        // Who does not know session timers cannot understand 422 (RFC 4028 §9).
        request.lists("Supported", "timer")
            && session_expires(request).is_some_and(|(interval_s, _)| interval_s < MIN_SE_S)
    }

    pub fn min_se() -> String {
        MIN_SE_S.to_string()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refresher {
    Uac,
    Uas,
}

/// When the side that does not refresh gives up: min(32 s, a third) before the interval is over (RFC 4028 §10).
fn expiry_ms(interval_s: u32) -> u64 {
    u64::from(interval_s - 32.min(interval_s / 3)) * 1000
}

fn session_expires(message: &Message) -> Option<(u32, Option<Refresher>)> {
    let value = message.header("Session-Expires")?;
    let (seconds, params) = value.split_once(';').unwrap_or((value, ""));
    let refresher = match super::super::uri::param(params, "refresher") {
        Some(who) if who.eq_ignore_ascii_case("uac") => Some(Refresher::Uac),
        Some(who) if who.eq_ignore_ascii_case("uas") => Some(Refresher::Uas),
        _ => None,
    };
    Some((seconds.trim().parse().ok()?, refresher))
}

fn gone(code: u16) -> SipEnd {
    SipEnd::Rejected { code, reason: super::super::message::reason_phrase(code).into() }
}

/// Length of a key press whose message does not say.
const KEY_MS_DEFAULT: u32 = 250;

/// `Signal=5` and `Duration=160`, one a line.
fn relayed_key(body: &str) -> Option<(char, u32)> {
    let value = |name: &str| {
        body.lines().find_map(|line| line.split_once('=').filter(|(key, _)| key.trim().eq_ignore_ascii_case(name)))
    };
    let digit = key_of(value("Signal")?.1.trim())?;
    let duration_ms = value("Duration").and_then(|(_, text)| text.trim().parse().ok()).unwrap_or(KEY_MS_DEFAULT);
    Some((digit, duration_ms.min(KEY_MS_MAX)))
}

/// Longest key press believed.
const KEY_MS_MAX: u32 = 10_000;

fn key_of(text: &str) -> Option<char> {
    match text {
        "10" => Some('*'),
        "11" => Some('#'),
        _ => {
            let mut chars = text.chars();
            let key = chars.next().filter(|_| chars.next().is_none())?.to_ascii_uppercase();
            matches!(key, '0'..='9' | '*' | '#' | 'A'..='D').then_some(key)
        }
    }
}
