//! Calls that we place (RFC 3261 §8.1, §9.1, §13.2).
//!
//! An *attempt* is one INVITE transaction. A call makes several when it is challenged, redirected, told a longer session
//! interval, or when an address stays silent. Only the newest counts; an older one that still comes alive is cancelled, and
//! a 2xx that nobody wants any more is acknowledged and ended with BYE.

use super::super::dialog::Dialog;
use super::super::digest::{Answered, Authorizer};
use super::super::limits::{
    EXTRA_HEADERS_MAX, EXTRA_VALUE_BYTES_MAX, FAILOVER_MS, FORKS_MAX, REDIRECT_TARGETS_MAX, REDIRECTS_MAX,
    SESSION_EXPIRES_S, SESSION_EXPIRES_S_MAX, TIMEOUT_MS,
};
use super::super::message::{Message, readable, reason_phrase};
use super::super::transaction::TransactionId;
use super::super::transport::Hop;
use super::super::uri::{NameAddr, SipUri, escape_user, is_token, quote, split_host_port};
use super::super::{Invite, SipCallId, SipEnd, SipEvent};
use super::call::{Call, Leg, Purpose, Timer, digest_of, printable};
use super::{ALLOW, Core, Located, Want, host_text};
use engine::time::Instant;
use std::collections::VecDeque;

pub(super) struct Uac {
    invite: Invite,
    from: String,
    to: String,
    /// Request-URI: the target, or where a redirection sent us.
    target: String,
    cseq: u32,
    answered: Answered,
    pub attempts: Vec<Attempt>,
    /// Places of the current target not tried yet.
    hops: VecDeque<Hop>,
    redirects: usize,
    /// Contacts of redirections not tried yet, best first, with q in thousandths.
    contacts: Vec<(u16, String)>,
    tried: Vec<String>,
    session_expires_s: u32,
    min_se_s: Option<u32>,
    sent: bool,
}

pub(super) struct Attempt {
    pub transaction: TransactionId,
    request: Message,
    to: Hop,
    /// A response came.
    heard: bool,
    /// A final response came.
    done: bool,
    superseded: bool,
    cancelled: bool,
}

/// Headers the stack writes itself: the caller cannot add another.
const RESERVED: [&str; 33] = [
    "Accept",
    "Allow",
    "Authorization",
    "CSeq",
    "Call-ID",
    "Contact",
    "Content-Encoding",
    "Content-Length",
    "Content-Type",
    "From",
    "Max-Forwards",
    "Min-SE",
    "Proxy-Authorization",
    "Proxy-Require",
    "Record-Route",
    "Require",
    "Route",
    "Session-Expires",
    "Supported",
    "To",
    "User-Agent",
    "Via",
    "c",
    "e",
    "f",
    "i",
    "k",
    "l",
    "m",
    "t",
    "v",
    "x",
    "Reason",
];

impl Call {
    pub fn outgoing(core: &mut Core, id: SipCallId, mut invite: Invite) -> Call {
        let call_id = core.random.token(24);
        let mut call = Call::new(core, id, call_id);
        call.authorizer = Authorizer::new(invite.credentials.take());
        call.local_sdp = std::mem::take(&mut invite.sdp);
        let target = invite.target.split('?').next().unwrap_or("").to_owned();
        let own_host = host_text(core.config.advertised);
        let host = invite.from_host.as_deref().unwrap_or(&own_host);
        let user = escape_user(&invite.from_user);
        let at = if user.is_empty() { "" } else { "@" };
        let display = invite.from_display.as_deref().map(|name| quote(name) + " ").unwrap_or_default();
        let from = format!("{display}<sip:{user}{at}{host}>;tag={}", call.local_tag);
        call.is_caller = true;
        call.uac = Some(Box::new(Uac {
            from,
            to: format!("<{}>", address_of_record(&target)),
            tried: vec![target.clone()],
            target,
            cseq: 1,
            answered: Answered::default(),
            attempts: Vec::new(),
            hops: VecDeque::new(),
            redirects: 0,
            contacts: Vec::new(),
            session_expires_s: SESSION_EXPIRES_S,
            min_se_s: None,
            sent: false,
            invite,
        }));
        call
    }

    /// An INVITE of an earlier run that rings somewhere. It is known only to be cancelled.
    pub fn ringing(core: &mut Core, id: SipCallId, invite: Message, to: Hop) -> Option<Call> {
        let transaction = core.transactions.resume(invite.clone(), to.clone())?;
        let mut call = Call::resumed(core, id, invite.call_id().to_owned(), invite.from_tag()?.to_owned());
        let target = invite.uri()?.to_owned();
        let mut uac = Uac {
            invite: Invite::default(),
            from: String::new(),
            to: String::new(),
            tried: Vec::new(),
            target,
            cseq: invite.cseq()?.0,
            answered: Answered::default(),
            attempts: Vec::new(),
            hops: VecDeque::new(),
            redirects: 0,
            contacts: Vec::new(),
            session_expires_s: SESSION_EXPIRES_S,
            min_se_s: None,
            sent: true,
        };
        let (heard, done, superseded, cancelled) = (true, false, false, false);
        uac.attempts.push(Attempt { transaction, request: invite, to, heard, done, superseded, cancelled });
        (call.uac, call.is_caller) = (Some(Box::new(uac)), true);
        call.own(core, transaction, Purpose::Invite);
        Some(call)
    }

    /// The INVITE that waits for its answer, and where it went.
    pub fn invited(&self) -> Option<(&Message, &Hop)> {
        let mut attempts = self.uac.as_ref()?.attempts.iter();
        let attempt = attempts.rfind(|attempt| !attempt.done && !attempt.superseded)?;
        Some((&attempt.request, &attempt.to))
    }

    pub fn start(&mut self, core: &mut Core, now: Instant) {
        let Some(uac) = &self.uac else { return };
        let host_is_valid = uac.invite.from_host.as_deref().is_none_or(|host| split_host_port(host).is_some());
        if SipUri::parse(&uac.target).is_none() || !host_is_valid {
            return self.end(core, SipEnd::Unreachable);
        }
        if uac.invite.max_forwards == Some(0) {
            // The call has come round too often already (RFC 3261 §8.1.1.6).
            return self.end(core, SipEnd::Rejected { code: 483, reason: reason_phrase(483).into() });
        }
        let ring_ms_max = uac.invite.ring_ms_max;
        self.set(Timer::Ring, now.plus_millis(ring_ms_max));
        self.look_up(core, now);
    }

    fn look_up(&mut self, core: &mut Core, now: Instant) {
        let Some(uac) = &mut self.uac else { return };
        if let Some(hop) = uac.invite.hop.take() {
            // A registered binding: there is nothing to look up, and no redirection leads back to it.
            return self.on_hops(core, now, vec![hop]);
        }
        let uri = uac.next_hop().to_owned();
        match core.locate(now, &uri, || Want::Invite { call: self.id }) {
            Located::Asked => self.queries += 1,
            Located::Known(hops) => self.on_hops(core, now, hops),
        }
    }

    pub fn on_hops(&mut self, core: &mut Core, now: Instant, hops: Vec<Hop>) {
        let Some(uac) = &mut self.uac else { return };
        let busy = !hops.is_empty();
        uac.hops = core.places.sorted(now, hops).into();
        if self.ended || self.try_next_hop(core, now) {
            return;
        }
        let end = match busy {
            // RFC 3261 §21.5.4: it said when to come back.
            true => SipEnd::Rejected { code: 503, reason: "Service Unavailable (it asked to be left alone)".into() },
            false => SipEnd::Unreachable,
        };
        self.try_next_contact(core, now, end);
    }

    fn try_next_hop(&mut self, core: &mut Core, now: Instant) -> bool {
        let next = self.uac.as_mut().and_then(|uac| uac.hops.pop_front());
        match next {
            Some(to) => {
                self.send_invite(core, now, to);
                true
            }
            None => false,
        }
    }

    /// Follows the next Contact of a redirection, or ends the call.
    fn try_next_contact(&mut self, core: &mut Core, now: Instant, end: SipEnd) {
        let Some(uac) = &mut self.uac else { return };
        if self.ended || uac.contacts.is_empty() || uac.redirects == REDIRECTS_MAX {
            return self.end(core, end);
        }
        uac.redirects += 1;
        uac.target = uac.contacts.remove(0).1;
        uac.tried.push(uac.target.clone());
        uac.cseq += 1;
        uac.answered = Answered::default();
        self.look_up(core, now);
    }

    fn send_invite(&mut self, core: &mut Core, now: Instant, to: Hop) {
        let Some(uac) = &mut self.uac else { return };
        let mut request = uac.invite_request(&self.call_id, &self.local_sdp);
        self.authorizer.apply(&mut request, &mut core.random);
        let bytes = request.to_bytes().len() + COMPLETION_BYTES;
        let to = match core.carrier_of(now, &to, bytes) {
            // Where nobody listens on TCP, a datagram in pieces is better than no call (RFC 3261 §18.1.1).
            Some(stream) => {
                uac.hops.push_front(to);
                stream
            }
            None => to,
        };
        core.complete(&mut request, to.transport);
        uac.attempts.iter_mut().for_each(|attempt| attempt.superseded = true);
        let first = !std::mem::replace(&mut uac.sent, true);
        let others = !uac.hops.is_empty();
        let Some(transaction) = core.transactions.start(now, request.clone(), to.clone()) else {
            return self.end(core, SipEnd::Unreachable);
        };
        let attempt =
            Attempt { transaction, request, to, heard: false, done: false, superseded: false, cancelled: false };
        uac.attempts.push(attempt);
        self.own(core, transaction, Purpose::Invite);
        self.set(Timer::Failover, if others { now.plus_millis(FAILOVER_MS) } else { Instant::NEVER });
        if first {
            self.emit(core, SipEvent::InviteSent { call: self.id });
        }
    }

    /// Another address of the same name may answer; this one may still do so late.
    pub fn on_silent_address(&mut self, core: &mut Core, now: Instant) {
        if let Some(attempt) = self.uac.as_mut().and_then(|uac| uac.attempts.last_mut()) {
            attempt.superseded = true;
            core.places.note_dead(now, &attempt.to);
            core.transactions.stop_repeating(attempt.transaction);
        }
        self.try_next_hop(core, now);
    }

    pub fn on_invite_timeout(&mut self, core: &mut Core, now: Instant, id: TransactionId, lost: bool) {
        let attempt = self.uac.as_mut().and_then(|uac| uac.attempts.iter_mut().find(|a| a.transaction == id));
        let Some(attempt) = attempt else { return };
        attempt.done = true;
        if !attempt.heard {
            core.places.note_dead(now, &attempt.to);
        }
        if !attempt.superseded && !self.ended && self.main.is_none() && !self.try_next_hop(core, now) {
            self.try_next_contact(core, now, if lost { SipEnd::Unreachable } else { SipEnd::TimedOut });
        }
    }

    pub fn on_invite_response(
        &mut self,
        core: &mut Core,
        now: Instant,
        id: TransactionId,
        response: &Message,
        from: &Hop,
    ) {
        let Some(uac) = &mut self.uac else { return };
        let Some(at) = uac.attempts.iter().position(|attempt| attempt.transaction == id) else { return };
        if !uac.attempts[at].superseded {
            self.clear(Timer::Failover);
        }
        match response.code().unwrap_or(0) {
            ..200 => self.on_provisional(core, now, at, response, from),
            200..300 => self.on_2xx(core, now, at, response, from),
            code => self.on_refusal(core, now, at, code, response),
        }
    }

    fn on_provisional(&mut self, core: &mut Core, now: Instant, at: usize, response: &Message, from: &Hop) {
        let Some(uac) = &mut self.uac else { return };
        let attempt = &mut uac.attempts[at];
        attempt.heard = true;
        if attempt.superseded || self.ended {
            return self.cancel(core, now, at);
        }
        let code = response.code().unwrap_or(0);
        if code == 100 {
            return;
        }
        let request = attempt.request.clone();
        let dialog = Dialog::uac(&request, response);
        let known = self.leg_of(response.to_tag());
        if response.to_tag().is_some()
            && known.is_none()
            && self.legs.len() < FORKS_MAX
            && let Some(dialog) = dialog
        {
            self.add_leg(Leg::new(dialog, from.clone()));
        }
        if !self.acknowledge_18x(core, now, &request, response) {
            return;
        }
        let sdp = response.sdp().map(str::to_owned);
        self.emit(core, SipEvent::Provisional { call: self.id, code, sdp });
    }

    fn on_2xx(&mut self, core: &mut Core, now: Instant, at: usize, response: &Message, from: &Hop) {
        let Some(uac) = &mut self.uac else { return };
        let attempt = &mut uac.attempts[at];
        attempt.done = true;
        let (request, superseded, to) = (attempt.request.clone(), attempt.superseded, attempt.to.clone());
        let asked = uac.next_hop().to_owned();
        let leg = match self.leg_of(response.to_tag()) {
            Some(leg) if self.legs[leg].confirmed => {
                let cseq = request.cseq().map_or(0, |(number, _)| number);
                return self.repeat_ack(core, leg, cseq);
            }
            Some(leg) => {
                // A PRACK has counted on since (RFC 3262 §7.2).
                let number = request.cseq().map_or(0, |(number, _)| number);
                self.legs[leg].dialog.local_cseq = self.legs[leg].dialog.local_cseq.max(number);
                self.legs[leg].dialog.confirm(response);
                leg
            }
            None => {
                let Some(dialog) = Dialog::uac(&request, response) else { return };
                // An early leg that never answered makes room; confirmed ones stay for their repeats.
                let early = self.legs.iter().position(|leg| !leg.confirmed);
                match (self.legs.len() < FORKS_MAX, early) {
                    (true, _) => self.add_leg(Leg::new(dialog, from.clone())),
                    (false, Some(at)) => self.legs[at] = Leg::new(dialog, from.clone()),
                    (false, None) => return,
                }
                self.leg_of(response.to_tag()).unwrap_or(0)
            }
        };
        let peer = Hop { domain: to.domain.clone(), ..from.clone() };
        self.remember(&asked, to);
        self.legs[leg].confirmed = true;
        self.legs[leg].peer = peer;
        self.send_ack(core, now, leg, &request);
        let Some(sdp) = response.sdp().filter(|_| !self.ended && !superseded && self.main.is_none()) else {
            self.send_bye(core, now, leg);
            if !superseded && self.main.is_none() {
                self.end(core, SipEnd::ProtocolError);
            }
            return;
        };
        if self.legs[leg].closed {
            // BYE overtook the 2xx it belongs behind.
            return self.end(core, SipEnd::ByeReceived(None));
        }
        self.main = Some(leg);
        self.clear(Timer::Ring);
        self.remote_sdp = Some(digest_of(sdp));
        self.start_session(now, response);
        self.emit(core, SipEvent::Answered { call: self.id, sdp: sdp.to_owned(), headers: response.x_headers() });
    }

    fn on_refusal(&mut self, core: &mut Core, now: Instant, at: usize, code: u16, response: &Message) {
        let Some(uac) = &mut self.uac else { return };
        let attempt = &mut uac.attempts[at];
        attempt.done = true;
        let to = attempt.to.clone();
        if attempt.superseded || self.ended || self.main.is_some() {
            return;
        }
        match code {
            401 | 407 => {
                if !self.authorizer.take(response, &mut uac.answered) {
                    return self.end(core, SipEnd::Unauthorized);
                }
                uac.cseq += 1;
                self.emit(core, SipEvent::Challenged { call: self.id, code });
                self.send_invite(core, now, to);
            }
            422 if uac.accept_min_se(response) => {
                uac.cseq += 1;
                self.send_invite(core, now, to);
            }
            503 => {
                match retry_after_s(response) {
                    Some(seconds) => core.places.note_busy(now, &to, seconds),
                    None => core.places.note_dead(now, &to),
                }
                if !self.try_next_hop(core, now) {
                    self.try_next_contact(core, now, SipEnd::Rejected { code, reason: detail(response) });
                }
            }
            _ => {
                if (300..400).contains(&code) {
                    uac.take_contacts(response);
                }
                let end = SipEnd::Rejected { code, reason: detail(response) };
                match code {
                    // A global failure: no other place will do (RFC 3261 §21.6).
                    600.. => self.end(core, end),
                    _ => self.try_next_contact(core, now, end),
                }
            }
        }
    }

    /// Cancels what was heard of; the rest is cancelled when it is heard of (RFC 3261 §9.1).
    pub fn cancel_attempts(&mut self, core: &mut Core, now: Instant) {
        let count = self.uac.as_ref().map_or(0, |uac| uac.attempts.len());
        for at in 0..count {
            if self.uac.as_ref().is_some_and(|uac| uac.attempts[at].heard) {
                self.cancel(core, now, at);
            }
        }
    }

    fn cancel(&mut self, core: &mut Core, now: Instant, at: usize) {
        let Some(uac) = &mut self.uac else { return };
        let attempt = &mut uac.attempts[at];
        if attempt.done || attempt.cancelled {
            return;
        }
        attempt.cancelled = true;
        let invite = &attempt.request;
        let mut cancel = Message::request("CANCEL", invite.uri().unwrap_or(""));
        cancel.copy(invite, "Via");
        cancel.push("Max-Forwards", "70");
        cancel.copy(invite, "Route");
        cancel.copy(invite, "From");
        cancel.copy(invite, "To");
        cancel.copy(invite, "Call-ID");
        cancel.push("CSeq", format!("{} CANCEL", invite.cseq().map_or(0, |(number, _)| number)));
        if let Some(reason) = &self.reason {
            cancel.push("Reason", reason.as_str());
        }
        let (to, invite) = (attempt.to.clone(), attempt.transaction);
        // Without a final response the INVITE counts as cancelled after this long.
        core.transactions.limit(invite, now.plus_millis(TIMEOUT_MS));
        if let Some(id) = core.transactions.start(now, cancel, to) {
            self.own(core, id, Purpose::Cancel);
        }
    }
}

impl Uac {
    /// The URI that decides where the INVITE goes (RFC 3261 §8.1.2).
    fn next_hop(&self) -> &str {
        let route = self.invite.routes.first().and_then(|route| NameAddr::parse(route)).map(|route| route.uri);
        route.or(self.invite.proxy.as_deref()).unwrap_or(&self.target)
    }

    /// The INVITE, but for Via, Contact and credentials.
    fn invite_request(&self, call_id: &str, sdp: &str) -> Message {
        let mut request = Message::request("INVITE", &self.target);
        for route in &self.invite.routes {
            request.push("Route", printable(route));
        }
        if let Some(hops) = self.invite.max_forwards {
            request.push("Max-Forwards", hops.to_string());
        }
        request.push("From", self.from.as_str());
        request.push("To", self.to.as_str());
        request.push("Call-ID", call_id);
        request.push("CSeq", format!("{} INVITE", self.cseq));
        if let Some(identity) = &self.invite.asserted_identity {
            request.push("P-Asserted-Identity", printable(identity));
        }
        request.push("Allow", ALLOW);
        request.push("Supported", if self.invite.reliable_provisionals { "timer, 100rel" } else { "timer" });
        request.push("Session-Expires", self.session_expires_s.to_string());
        if let Some(min_se_s) = self.min_se_s {
            request.push("Min-SE", min_se_s.to_string());
        }
        for (name, value) in self.invite.headers.iter().filter(|(name, _)| may_be_added(name)).take(EXTRA_HEADERS_MAX) {
            let mut value = printable(value);
            value.truncate(EXTRA_VALUE_BYTES_MAX);
            request.push(name, value);
        }
        request.set_body("application/sdp", sdp);
        request
    }

    /// RFC 4028 §7.4: asks again with the interval the server wants, if that is more than before and not absurd.
    fn accept_min_se(&mut self, response: &Message) -> bool {
        let wanted = response.header("Min-SE").and_then(|v| v.split(';').next()?.trim().parse::<u32>().ok());
        let Some(wanted) = wanted else { return false };
        if wanted <= self.min_se_s.unwrap_or(0) || wanted > SESSION_EXPIRES_S_MAX {
            return false;
        }
        // A larger demand after the first is refused: two are a loop in the making.
        if self.min_se_s.is_some() {
            return false;
        }
        self.min_se_s = Some(wanted);
        self.session_expires_s = self.session_expires_s.max(wanted);
        true
    }

    /// Queues the Contacts of a 3xx by descending q (RFC 3261 §8.1.3.4), each place once.
    fn take_contacts(&mut self, response: &Message) {
        for contact in response.list("Contact").filter_map(NameAddr::parse) {
            let uri = contact.uri.split('?').next().unwrap_or("").to_owned();
            let known = self.tried.contains(&uri) || self.contacts.iter().any(|(_, queued)| *queued == uri);
            let usable = SipUri::parse(&uri).is_some();
            if usable && !known && self.contacts.len() < REDIRECT_TARGETS_MAX {
                self.contacts.push((thousandths(contact.param("q")), uri));
            }
        }
        self.contacts.sort_by_key(|(q, _)| std::cmp::Reverse(*q));
    }
}

/// Bytes that Via, Contact and User-Agent add to an INVITE, as far as the choice between UDP and TCP needs to know.
const COMPLETION_BYTES: usize = 200;

/// Seconds of a Retry-After; 0 counts as none.
fn retry_after_s(response: &Message) -> Option<u64> {
    let value = response.header("Retry-After")?;
    let digits = value.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().filter(|&seconds| seconds > 0)
}

/// `q` of 0 to 1 with up to three decimals; 1 when it is missing or no such number.
fn thousandths(q: Option<&str>) -> u16 {
    let value = q.and_then(|q| q.parse::<f32>().ok()).filter(|q| (0.0..=1.0).contains(q)).unwrap_or(1.0);
    (value * 1000.0) as u16
}

/// To and From carry no port and no parameters (RFC 3261 §19.1.1, table 1).
fn address_of_record(target: &str) -> String {
    match SipUri::parse(target) {
        Some(SipUri { user: Some(user), host, .. }) => format!("sip:{user}@{host}"),
        Some(SipUri { host, .. }) => format!("sip:{host}"),
        None => "sip:anonymous.invalid".into(),
    }
}

fn may_be_added(name: &str) -> bool {
    is_token(name) && !RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name))
}

/// Reason phrase, with the vendor's own words where there are any.
fn detail(response: &Message) -> String {
    let phrase = match &response.start {
        super::super::message::Start::Response { reason, .. } => readable(reason),
        super::super::message::Start::Request { .. } => String::new(),
    };
    match response.header("X-Twilio-Error").or_else(|| response.header("Warning")) {
        Some(more) => format!("{phrase} ({})", readable(more)),
        None => phrase,
    }
}
