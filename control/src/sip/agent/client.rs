//! Requests of ours outside any call: outbound registrations (RFC 3261 §10.2) and the OPTIONS that ask whether a peer lives.
//!
//! ```text
//! Registration   Asking -200-> Held (refreshed at 75 %)   -401/407-> Asking with credentials   -423-> Asking for longer
//!                       -else-> Failed (again after 30 s, doubling to 1,800 s)                  removed -> Expires: 0
//! Watched        Asking -any response-> alive, asked again after the pause   -silence, lost-> not alive
//! ```
//!
//! Both live until they are removed, and hold one transaction at most.
//!
//! Why any response to OPTIONS counts as life: a peer that answers 404 or 405 is there (RFC 3261 §11), and many answer so. Only 503
//! and silence say that it takes no calls.

use super::super::digest::{Answered, Authorizer};
use super::super::limits::{
    REGISTER_RETRY_S, REGISTER_RETRY_S_MAX, REGISTER_S_MAX, REGISTER_S_MIN, REGISTRATIONS_MAX, WATCH_MS_MIN,
    WATCHES_MAX,
};
use super::super::message::{Message, readable};
use super::super::transport::Hop;
use super::super::uri::{NameAddr, SipUri, param};
use super::super::{Register, RegistrationId, SipEvent, Watch, WatchId};
use super::{Core, Located, Owner, SipAgent, Timed, Want, is_secure};
use engine::time::Instant;

/// An outbound registration.
pub(super) struct Registration {
    id: RegistrationId,
    what: Register,
    authorizer: Authorizer,
    answered: Answered,
    call_id: String,
    tag: String,
    cseq: u32,
    expires_s: u32,
    /// A REGISTER or its look-up is under way.
    asking: bool,
    failures: u32,
    hops: Vec<Hop>,
    hop: Option<Hop>,
    /// When to ask again.
    pub due: Instant,
    pub registered: Instant,
    /// Removed: one more REGISTER takes the binding away.
    leaving: bool,
    /// The REGISTER that was sent last is that one; one before it may still make a binding.
    goodbye: bool,
    over: bool,
}

/// A peer that is asked whether it lives.
pub(super) struct Watched {
    id: WatchId,
    what: Watch,
    alive: Option<bool>,
    cseq: u32,
    hops: Vec<Hop>,
    pub due: Instant,
    pub registered: Instant,
}

impl SipAgent {
    /// Registers with somebody else's registrar, and keeps it so. A registration too many fails with 503 and is not tried again.
    pub fn register(&mut self, now: Instant, what: Register) -> RegistrationId {
        let id = RegistrationId(self.take_id().0);
        if self.registrations.len() >= REGISTRATIONS_MAX {
            let reason = "too many registrations".to_owned();
            let retry_ms = u64::MAX;
            self.core.emit(SipEvent::RegistrationFailed { registration: id, code: 503, reason, retry_ms });
            return id;
        }
        let registration = Registration::new(&mut self.core, id, what);
        self.registrations.insert(id, registration);
        self.with_registration(now, id, Registration::start_now);
        id
    }

    /// Takes the binding away and forgets the registration.
    pub fn unregister(&mut self, now: Instant, id: RegistrationId) {
        self.with_registration(now, id, |known, core| {
            known.leaving = true;
            known.over = known.hop.is_none();
            if !known.asking {
                known.ask(core, now);
            }
        });
    }

    /// Asks a peer now and then whether it lives; `PeerAlive` tells when the answer changes.
    pub fn watch(&mut self, now: Instant, what: Watch) -> WatchId {
        let id = WatchId(self.take_id().0);
        if self.watches.len() < WATCHES_MAX {
            let (due, registered) = (now, Instant::NEVER);
            let known = Watched { id, what, alive: None, cseq: 0, hops: Vec::new(), due, registered };
            self.watches.insert(id, known);
            self.with_watch(now, id, |known, core| known.handle_timeout(core, now));
        }
        id
    }

    /// Asks no more.
    pub fn unwatch(&mut self, id: WatchId) {
        if let Some(known) = self.watches.remove(&id) {
            self.core.deadlines.remove(&(known.registered, Timed::Watch(id)));
        }
    }

    pub(super) fn with_registration(
        &mut self,
        now: Instant,
        id: RegistrationId,
        act: impl FnOnce(&mut Registration, &mut Core),
    ) {
        self.core.now = now;
        let Some(known) = self.registrations.get_mut(&id) else { return };
        act(known, &mut self.core);
        let due = known.due;
        self.core.set_deadline(Timed::Registration(id), &mut known.registered, due);
        if known.over {
            self.core.deadlines.remove(&(known.registered, Timed::Registration(id)));
            self.registrations.remove(&id);
        }
        self.drain(now);
    }

    pub(super) fn with_watch(&mut self, now: Instant, id: WatchId, act: impl FnOnce(&mut Watched, &mut Core)) {
        self.core.now = now;
        let Some(known) = self.watches.get_mut(&id) else { return };
        act(known, &mut self.core);
        let due = known.due;
        self.core.set_deadline(Timed::Watch(id), &mut known.registered, due);
        self.drain(now);
    }
}

impl Registration {
    fn new(core: &mut Core, id: RegistrationId, mut what: Register) -> Registration {
        let expires_s = what.expires_s.clamp(REGISTER_S_MIN, REGISTER_S_MAX);
        Registration {
            id,
            authorizer: Authorizer::new(what.credentials.take()),
            what,
            answered: Answered::default(),
            call_id: core.random.token(24),
            tag: core.random.token(12),
            cseq: 0,
            expires_s,
            asking: false,
            failures: 0,
            hops: Vec::new(),
            hop: None,
            due: Instant::NEVER,
            registered: Instant::NEVER,
            leaving: false,
            goodbye: false,
            over: false,
        }
    }

    fn start_now(&mut self, core: &mut Core) {
        let now = core.now;
        self.ask(core, now);
    }

    pub fn handle_timeout(&mut self, core: &mut Core, now: Instant) {
        self.due = Instant::NEVER;
        self.ask(core, now);
    }

    fn ask(&mut self, core: &mut Core, now: Instant) {
        if self.over {
            return;
        }
        self.asking = true;
        self.answered = Answered::default();
        let uri = self.what.proxy.as_deref().unwrap_or(&self.what.registrar);
        match core.locate(now, uri, || Want::Register(self.id)) {
            Located::Asked => {}
            Located::Known(hops) => self.on_hops(core, now, hops),
        }
    }

    pub fn on_hops(&mut self, core: &mut Core, now: Instant, hops: Vec<Hop>) {
        self.hops = core.places.sorted(now, hops);
        // The place that holds the binding, while it lives, so that calls come in on the connection that is up.
        if let Some(at) =
            self.hops.iter().position(|hop| Some(hop) == self.hop.as_ref() && !core.places.is_dead(now, hop))
        {
            self.hops.swap(0, at);
        }
        self.try_next(core, now);
    }

    fn try_next(&mut self, core: &mut Core, now: Instant) {
        if self.hops.is_empty() {
            return self.fail(core, now, 503, "the registrar could not be resolved or reached".to_owned(), None);
        }
        self.hop = Some(self.hops.remove(0));
        self.send(core, now);
    }

    fn send(&mut self, core: &mut Core, now: Instant) {
        let Some(hop) = self.hop.clone() else { return };
        self.cseq += 1;
        self.goodbye = self.leaving;
        let mut request = Message::request("REGISTER", &self.what.registrar);
        request.push("From", format!("<{}>;tag={}", self.what.aor, self.tag));
        request.push("To", format!("<{}>", self.what.aor));
        request.push("Call-ID", self.call_id.as_str());
        request.push("CSeq", format!("{} REGISTER", self.cseq));
        let contact = core.contact(hop.transport, is_secure(&self.what.registrar), self.what.contact_user.as_deref());
        request.push("Contact", contact);
        request.push("Expires", if self.leaving { "0".to_owned() } else { self.expires_s.to_string() });
        request.push("Supported", "path");
        self.authorizer.apply(&mut request, &mut core.random);
        core.complete(&mut request, hop.transport);
        match core.transactions.start(now, request, hop) {
            Some(id) => drop(core.owners.insert(id, Owner::Registration(self.id))),
            None => self.fail(core, now, 503, "too many transactions".to_owned(), None),
        }
    }

    pub fn on_response(&mut self, core: &mut Core, now: Instant, response: &Message) {
        let code = response.code().unwrap_or(0);
        match code {
            ..200 => {}
            200..300 if self.leaving && !self.goodbye => self.ask(core, now),
            200..300 if self.leaving => self.over = true,
            200..300 => self.hold(core, now, response),
            401 | 407 if self.authorizer.take(response, &mut self.answered) => self.send(core, now),
            423 if self.accept_min_expires(response) => self.send(core, now),
            503 if !self.hops.is_empty() => self.try_next(core, now),
            _ if self.leaving => self.over = true,
            _ => {
                let reason = match &response.start {
                    super::super::message::Start::Response { reason, .. } => readable(reason),
                    super::super::message::Start::Request { .. } => String::new(),
                };
                let retry_after = response
                    .header("Retry-After")
                    .and_then(|value| value.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok());
                self.fail(core, now, code, reason, retry_after);
            }
        }
    }

    pub fn on_unanswered(&mut self, core: &mut Core, now: Instant) {
        if let Some(hop) = &self.hop {
            core.places.note_dead(now, hop);
        }
        if self.leaving && !self.goodbye {
            self.ask(core, now); // perhaps only its answer was lost
        } else if self.leaving {
            self.over = true;
        } else if self.hops.is_empty() {
            self.fail(core, now, 408, "no answer".to_owned(), None);
        } else {
            self.try_next(core, now);
        }
    }

    fn hold(&mut self, core: &mut Core, now: Instant, response: &Message) {
        self.asking = false;
        self.failures = 0;
        let expires_s = granted_s(response, core, self.what.contact_user.as_deref()).unwrap_or(self.expires_s);
        let expires_s = expires_s.clamp(1, REGISTER_S_MAX);
        // Refreshed while a quarter is left, for tries that are lost.
        self.due = now.plus_millis(u64::from(expires_s) * 750);
        core.emit(SipEvent::Registered { registration: self.id, expires_s });
    }

    fn fail(&mut self, core: &mut Core, now: Instant, code: u16, reason: String, retry_after_s: Option<u64>) {
        self.asking = false;
        if self.leaving {
            self.over = true;
            return;
        }
        let doubled = REGISTER_RETRY_S.saturating_mul(1 << self.failures.min(10));
        self.failures += 1;
        // RFC 5626 §4.5: half to all of it, so that thousands do not come back at once.
        let ceiling_ms = doubled.min(REGISTER_RETRY_S_MAX) * 1_000;
        let drawn_ms = ceiling_ms / 2 + u64::from(core.random.below((ceiling_ms / 2) as u32));
        let retry_ms = drawn_ms.max(retry_after_s.unwrap_or(0).min(REGISTER_RETRY_S_MAX) * 1_000);
        self.due = now.plus_millis(retry_ms);
        core.emit(SipEvent::RegistrationFailed { registration: self.id, code, reason, retry_ms });
    }

    /// RFC 3261 §10.2.8: asks for as long as the registrar wants, if that is longer and not absurd.
    fn accept_min_expires(&mut self, response: &Message) -> bool {
        let wanted = response.header("Min-Expires").and_then(|value| value.trim().parse::<u32>().ok());
        let usable = wanted.filter(|&wanted| wanted > self.expires_s && wanted <= REGISTER_S_MAX);
        self.expires_s = usable.unwrap_or(self.expires_s);
        usable.is_some()
    }
}

/// Seconds that the registrar granted to our Contact; those of the whole response when it names none.
fn granted_s(response: &Message, core: &Core, user: Option<&str>) -> Option<u32> {
    let user = super::super::uri::escape_user(user.unwrap_or(&core.config.contact_user));
    let ours = response.list("Contact").filter_map(NameAddr::parse).find(|contact| {
        SipUri::parse(contact.uri)
            .is_some_and(|uri| uri.user.unwrap_or("") == user && core.is_our_sent_by(uri.host, uri.port))
    });
    let own = ours.and_then(|contact| param(contact.params, "expires")?.trim_matches('"').parse().ok());
    own.or_else(|| response.header("Expires").and_then(|value| value.trim().parse().ok()))
}

impl Watched {
    pub fn handle_timeout(&mut self, core: &mut Core, now: Instant) {
        self.due = Instant::NEVER;
        let uri = self.what.proxy.as_deref().unwrap_or(&self.what.target);
        match core.locate(now, uri, || Want::Options(self.id)) {
            Located::Asked => {}
            Located::Known(hops) => self.on_hops(core, now, hops),
        }
    }

    pub fn on_hops(&mut self, core: &mut Core, now: Instant, hops: Vec<Hop>) {
        self.hops = hops;
        self.try_next(core, now);
    }

    fn try_next(&mut self, core: &mut Core, now: Instant) {
        if self.hops.is_empty() {
            return self.conclude(core, now, false);
        }
        let hop = self.hops.remove(0);
        self.cseq += 1;
        let mut request = Message::request("OPTIONS", &self.what.target);
        let own = core.sent_by(hop.transport);
        request.push("From", format!("<sip:{own}>;tag={}", core.random.token(12)));
        request.push("To", format!("<{}>", self.what.target));
        request.push("Call-ID", core.random.token(24));
        request.push("CSeq", format!("{} OPTIONS", self.cseq));
        request.push("Accept", "application/sdp");
        core.complete(&mut request, hop.transport);
        match core.transactions.start(now, request, hop) {
            Some(id) => drop(core.owners.insert(id, Owner::Watch(self.id))),
            None => self.conclude(core, now, false),
        }
    }

    pub fn on_response(&mut self, core: &mut Core, now: Instant, response: &Message) {
        match response.code() {
            Some(..200) | None => {}
            Some(503) => self.try_next(core, now),
            Some(_) => self.conclude(core, now, true),
        }
    }

    pub fn on_unanswered(&mut self, core: &mut Core, now: Instant) {
        self.try_next(core, now);
    }

    fn conclude(&mut self, core: &mut Core, now: Instant, alive: bool) {
        self.hops.clear();
        self.due = now.plus_millis(self.what.every_ms.max(WATCH_MS_MIN));
        if self.alive.replace(alive) != Some(alive) {
            core.emit(SipEvent::PeerAlive { watch: self.id, alive });
        }
    }
}
