//! The user agent: takes datagrams apart, finds whose they are, and keeps every call's timers.
//!
//! ```text
//! datagram -> message::parse -> Transactions (absorbs repeats) -> Call (uac.rs, uas.rs, session.rs) -> Transactions -> datagram
//!                                                                   \-> SipEvent
//! ```
//!
//! A [`Call`] decides alone what its messages mean; what it shares with the others is [`Core`]. A call lives until its `Ended`
//! event was given *and* its last transaction is over, so that late repeats still find someone who answers them.
//!
//! Why calls are handed `&mut Core` instead of returning actions: a call touches the transaction table in the middle of its
//! decisions (the branch of an INVITE is known only once it is sent), and nothing here blocks or can be re-entered.

mod call;
mod session;
mod uac;
mod uas;

use super::digest::{Guard, Verdict};
use super::limits::{CALLS_MAX, QUERIES_MAX, RESOLVE_MS_MAX};
use super::message::{Fault, Message, reason_phrase};
use super::transaction::{Received, TransactionId, TransactionOutput, Transactions};
use super::uri::{PORT_DEFAULT, SipUri, escape_user};
use super::{Invite, SipCallId, SipConfig, SipEnd, SipEvent, SipOutput};
use call::{Call, Purpose};
use engine::random::Random;
use engine::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

/// Methods we take part in.
const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO";

/// The user agent: transactions, dialogs, digest, both roles, over UDP.
pub struct SipAgent {
    calls: BTreeMap<SipCallId, Call>,
    next_call: u64,
    malformed: u64,
    core: Core,
}

/// What all calls share.
struct Core {
    config: SipConfig,
    random: Random,
    transactions: Transactions,
    /// Whose a transaction is; refusals outside any call have no owner.
    owners: BTreeMap<TransactionId, (SipCallId, Purpose)>,
    /// Call-ID and our tag.
    dialogs: BTreeMap<(String, String), SipCallId>,
    /// Numbered upwards and all equally patient: the first is the first to expire.
    queries: BTreeMap<u64, Query>,
    next_query: u64,
    deadlines: BTreeSet<(Instant, SipCallId)>,
    guard: Option<Guard>,
    outputs: VecDeque<SipOutput>,
}

/// A question to the resolver.
struct Query {
    call: SipCallId,
    host: String,
    port: u16,
    expires_at: Instant,
    want: Want,
}

/// What an address is wanted for.
enum Want {
    /// The INVITE of a call.
    Invite,
    /// The ACK that the leg keeps.
    Ack { leg: usize },
    /// A request inside a dialog.
    Send { leg: usize, request: Box<Message>, purpose: Purpose },
}

/// Where a URI leads.
enum Place {
    Address(SocketAddr),
    Name(String, u16),
    /// Another transport, or not a URI of ours.
    Nowhere,
}

impl SipAgent {
    /// An agent without calls.
    pub fn new(config: SipConfig, mut random: Random) -> SipAgent {
        let guard = config.demand.clone().map(|(realm, credentials)| Guard::new(realm, credentials, &mut random));
        let core = Core {
            config,
            random,
            transactions: Transactions::default(),
            owners: BTreeMap::new(),
            dialogs: BTreeMap::new(),
            queries: BTreeMap::new(),
            next_query: 0,
            deadlines: BTreeSet::new(),
            guard,
            outputs: VecDeque::new(),
        };
        SipAgent { calls: BTreeMap::new(), next_call: 0, malformed: 0, core }
    }

    /// Places a call. A bad URI or a full table ends it with an `Ended` event.
    pub fn invite(&mut self, now: Instant, invite: Invite) -> SipCallId {
        let id = self.take_id();
        if self.calls.len() >= CALLS_MAX {
            self.core.emit(SipEvent::Ended { call: id, end: SipEnd::Unreachable });
            return id;
        }
        let call = Call::outgoing(&mut self.core, id, invite);
        self.calls.insert(id, call);
        self.with(now, id, |call, core| call.start(core, now));
        id
    }

    /// Ends a call in whatever state it is: CANCEL, BYE, or a refusal. `reason` is written as a `Reason` header (RFC 3326).
    pub fn hangup(&mut self, now: Instant, call: SipCallId, reason: Option<&str>) {
        self.with(now, call, |call, core| call.hangup(core, now, reason));
    }

    /// UAS: 180 (or 183 with SDP).
    pub fn ring(&mut self, now: Instant, call: SipCallId, sdp: Option<&str>) {
        self.with(now, call, |call, core| call.ring(core, now, sdp));
    }

    /// UAS: 200 with the answer.
    pub fn accept(&mut self, now: Instant, call: SipCallId, sdp: &str) {
        self.with(now, call, |call, core| call.accept(core, now, sdp));
    }

    /// UAS: a final refusal. A code that is none (below 300, above 699) becomes 480.
    pub fn reject(&mut self, now: Instant, call: SipCallId, code: u16) {
        let code = if (300..700).contains(&code) { code } else { 480 };
        self.with(now, call, |call, core| call.reject(core, now, code, SipEnd::RejectedByUs(code), None));
    }

    /// Answers a re-INVITE: 200 with SDP, or 488 when `None`.
    pub fn answer_reinvite(&mut self, now: Instant, call: SipCallId, sdp: Option<&str>) {
        self.with(now, call, |call, core| call.answer_reinvite(core, now, sdp));
    }

    /// Takes one datagram. A parse error costs this message only, and is counted.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let Ok(message) = Message::parse(datagram) else {
            self.malformed += u64::from(!is_keep_alive(datagram));
            return;
        };
        let checked = message.check();
        self.malformed += u64::from(checked.is_err());
        if message.method().is_some() {
            self.handle_request(now, from, message, checked);
        } else if checked.is_ok() {
            self.handle_response(now, from, &message);
        }
        self.drain(now);
    }

    /// Datagrams so far that were no SIP message, or one without what every message must have.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// The answer to `Resolve`; an empty list: no such name.
    pub fn resolved(&mut self, now: Instant, query: u64, addresses: &[SocketAddr]) {
        let Some(query) = self.core.queries.remove(&query) else { return };
        // One socket speaks one family.
        let family = self.core.config.advertised.is_ipv4();
        let usable: Vec<SocketAddr> = addresses.iter().filter(|a| a.is_ipv4() == family).copied().collect();
        self.with(now, query.call, |call, core| call.located(core, now, query, &usable));
    }

    /// Call when the instant of the last `Timeout` has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.core.transactions.handle_timeout(now);
        self.drain(now);
        while let Some((&id, query)) = self.core.queries.first_key_value()
            && query.expires_at <= now
        {
            self.resolved(now, id, &[]);
        }
        while let Some(&(at, id)) = self.core.deadlines.first()
            && at <= now
        {
            self.with(now, id, |call, core| call.handle_timeout(core, now));
        }
    }

    /// Call until `Timeout`.
    pub fn poll_output(&mut self, _now: Instant) -> SipOutput {
        self.core.outputs.pop_front().unwrap_or_else(|| {
            let queries = self.core.queries.first_key_value().map_or(Instant::NEVER, |(_, query)| query.expires_at);
            let calls = self.core.deadlines.first().map_or(Instant::NEVER, |&(at, _)| at);
            SipOutput::Timeout(self.core.transactions.deadline().min(queries).min(calls))
        })
    }

    /// Calls and transactions alive; both are zero when nothing is left behind.
    pub fn alive(&self) -> (usize, usize) {
        (self.calls.len(), self.core.transactions.count())
    }

    fn handle_response(&mut self, now: Instant, from: SocketAddr, response: &Message) {
        // A response that others were meant to see, or that we did not ask for (RFC 3261 §8.1.3.3, §18.1.2).
        let ours = self.core.config.advertised;
        let mut vias = response.list("Via");
        let (Some(_), None, Some(via)) = (vias.next(), vias.next(), response.via()) else { return };
        if via.host != host_text(ours) || via.port.unwrap_or(PORT_DEFAULT) != ours.port() {
            return;
        }
        let Some(transaction) = self.core.transactions.handle_response(now, response) else { return };
        let Some(&(call, purpose)) = self.core.owners.get(&transaction) else { return };
        self.with(now, call, |call, core| match purpose {
            Purpose::Invite => call.on_invite_response(core, now, transaction, response, from),
            Purpose::Bye { leg } => call.on_bye_response(core, now, leg, response),
            Purpose::Reinvite => call.on_reinvite_response(core, now, response),
            Purpose::Cancel | Purpose::Serve => {}
        });
    }

    fn handle_request(&mut self, now: Instant, from: SocketAddr, mut request: Message, checked: Result<(), Fault>) {
        request.note_source(from);
        let reply_to = reply_address(&request, from);
        let is_ack = request.method() == Some("ACK");
        if let Err(fault) = checked {
            if !is_ack {
                self.core.refuse_without_state(&request, fault.code(), fault.reason(), reply_to);
            }
            return;
        }
        match self.core.transactions.handle_request(now, &request, reply_to, false) {
            Received::Absorbed => {}
            Received::Acknowledged => self.handle_ack(now, &request),
            Received::Full if is_ack => {}
            Received::Full => self.core.refuse_without_state(&request, 503, reason_phrase(503), reply_to),
            Received::New { id, merged: true } => self.core.refuse(now, id, &request, 482),
            Received::New { id, merged: false } => self.handle_new_request(now, id, &request, reply_to),
        }
    }

    fn handle_ack(&mut self, now: Instant, ack: &Message) {
        if let Some(call) = self.call_of(ack) {
            self.with(now, call, |call, core| call.on_ack(core, now, ack));
        }
    }

    /// RFC 3261 §8.2, in its order: method, headers, body, then what the request is about.
    fn handle_new_request(&mut self, now: Instant, id: TransactionId, request: &Message, reply_to: SocketAddr) {
        let method = request.method().unwrap_or("");
        if method == "CANCEL" {
            return self.handle_cancel(now, id, request);
        }
        if request.max_forwards() == Some(0) {
            return self.core.refuse(now, id, request, 483);
        }
        if !ALLOW.split(", ").any(|allowed| allowed == method) {
            return self.core.refuse_with(now, id, request, 405, |m| m.push("Allow", ALLOW));
        }
        let unknown: Vec<&str> = request.list("Require").filter(|tag| !tag.eq_ignore_ascii_case("timer")).collect();
        if !unknown.is_empty() {
            return self.core.refuse_with(now, id, request, 420, |m| m.push("Unsupported", unknown.join(", ")));
        }
        if request.header("Content-Encoding").is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
            return self.core.refuse_with(now, id, request, 415, |m| m.push("Accept-Encoding", "identity"));
        }
        let body_unusable = !request.body.is_empty() && request.sdp().is_none();
        if matches!(method, "INVITE" | "UPDATE") && body_unusable {
            return self.core.refuse_with(now, id, request, 415, |m| m.push("Accept", "application/sdp"));
        }
        if request.to_tag().is_some() {
            return match self.call_of(request) {
                Some(call) => self.with(now, call, |call, core| call.on_request(core, now, id, request, reply_to)),
                None => self.core.refuse(now, id, request, 481),
            };
        }
        match method {
            "INVITE" => self.handle_invite(now, id, request, reply_to),
            "OPTIONS" => self.core.refuse_with(now, id, request, 200, |m| {
                m.push("Allow", ALLOW);
                m.push("Accept", "application/sdp");
                m.push("Supported", "timer");
            }),
            _ => self.core.refuse(now, id, request, 481),
        }
    }

    fn handle_invite(&mut self, now: Instant, id: TransactionId, request: &Message, reply_to: SocketAddr) {
        if !self.core.config.accept_incoming {
            return self.core.refuse(now, id, request, 404);
        }
        if let Some(guard) = &mut self.core.guard
            && let Verdict::Denied { stale } = guard.verify(now, request)
        {
            let challenge = guard.challenge(now, stale, &mut self.core.random);
            return self.core.refuse_with(now, id, request, 407, |m| m.push("Proxy-Authenticate", challenge));
        }
        if self.calls.len() >= CALLS_MAX {
            return self.core.refuse_with(now, id, request, 503, |m| m.push("Retry-After", "5"));
        }
        let call_id = SipCallId(self.next_call);
        let Some(call) = Call::incoming(&mut self.core, now, call_id, id, request, reply_to) else { return };
        self.next_call += 1;
        self.calls.insert(call_id, call);
        self.settle(call_id);
    }

    fn handle_cancel(&mut self, now: Instant, id: TransactionId, cancel: &Message) {
        let Some((invite, open)) = self.core.transactions.cancelled_by(cancel) else {
            return self.core.refuse(now, id, cancel, 481);
        };
        match self.core.owners.get(&invite) {
            Some(&(call, _)) => self.with(now, call, |call, core| call.on_cancel(core, now, id, cancel, invite, open)),
            None => self.core.refuse(now, id, cancel, 200),
        }
    }

    /// The call whose dialog a request names.
    fn call_of(&self, request: &Message) -> Option<SipCallId> {
        let key = (request.call_id().to_owned(), request.to_tag()?.to_owned());
        self.core.dialogs.get(&key).copied()
    }

    fn with(&mut self, now: Instant, id: SipCallId, act: impl FnOnce(&mut Call, &mut Core)) {
        if let Some(call) = self.calls.get_mut(&id) {
            act(call, &mut self.core);
            self.settle(id);
            self.drain(now);
        }
    }

    /// Passes on what the transactions say.
    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.core.transactions.poll() {
            match output {
                TransactionOutput::Transmit { to, bytes } => self.core.transmit(to, bytes),
                TransactionOutput::TimedOut(id) => {
                    if let Some(&(owner, purpose)) = self.core.owners.get(&id)
                        && let Some(call) = self.calls.get_mut(&owner)
                    {
                        call.on_timed_out(&mut self.core, now, id, purpose);
                        self.settle(owner);
                    }
                }
                TransactionOutput::Finished(id) => {
                    if let Some((owner, _)) = self.core.owners.remove(&id)
                        && let Some(call) = self.calls.get_mut(&owner)
                    {
                        call.on_finished(id);
                        self.settle(owner);
                    }
                }
            }
        }
    }

    /// After a call was touched: forgets it when it is over, else notes its next deadline.
    fn settle(&mut self, id: SipCallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let next = call.deadline();
        if next != call.registered {
            self.core.deadlines.remove(&(call.registered, id));
            call.registered = next;
            if next != Instant::NEVER {
                self.core.deadlines.insert((next, id));
            }
        }
        if call.is_over() {
            self.core.deadlines.remove(&(call.registered, id));
            self.core.dialogs.remove(&(call.call_id.clone(), call.local_tag.clone()));
            self.calls.remove(&id);
        }
    }

    fn take_id(&mut self) -> SipCallId {
        let id = SipCallId(self.next_call);
        self.next_call += 1;
        id
    }
}

impl Core {
    fn emit(&mut self, event: SipEvent) {
        self.outputs.push_back(SipOutput::Event(event));
    }

    fn transmit(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        self.outputs.push_back(SipOutput::Transmit { to, bytes });
    }

    fn contact(&self) -> String {
        let SipConfig { advertised, contact_user, .. } = &self.config;
        match contact_user.is_empty() {
            true => format!("<sip:{advertised}>"),
            false => format!("<sip:{}@{advertised}>", escape_user(contact_user)),
        }
    }

    /// A branch no other transaction has.
    fn branch(&mut self) -> String {
        format!("{}{}", super::message::MAGIC_COOKIE, self.random.token(16))
    }

    /// Adds what every request of ours carries.
    fn complete(&mut self, request: &mut Message) {
        let branch = self.branch();
        let via = format!("SIP/2.0/UDP {};branch={branch};rport", self.config.advertised);
        request.push_front("Via", via);
        request.push("Max-Forwards", "70");
        if !matches!(request.method(), Some("ACK" | "BYE")) {
            let contact = self.contact();
            request.push("Contact", contact);
        }
        let product = self.config.product.clone();
        request.push("User-Agent", product);
    }

    /// Answers a request that belongs to no call.
    fn refuse(&mut self, now: Instant, id: TransactionId, request: &Message, code: u16) {
        self.refuse_with(now, id, request, code, |_| {});
    }

    fn refuse_with(
        &mut self,
        now: Instant,
        id: TransactionId,
        request: &Message,
        code: u16,
        add: impl FnOnce(&mut Message),
    ) {
        let tag = self.random.token(12);
        let mut response = Message::response(request, code, reason_phrase(code), Some(&tag));
        response.push("Server", self.config.product.as_str());
        add(&mut response);
        self.transactions.respond(now, id, &response);
    }

    fn refuse_without_state(&mut self, request: &Message, code: u16, reason: &str, to: SocketAddr) {
        if request.header("Via").is_none() {
            return;
        }
        let tag = self.random.token(12);
        let mut response = Message::response(request, code, reason, Some(&tag));
        response.push("Server", self.config.product.as_str());
        self.transmit(to, response.to_bytes());
    }

    /// Asks for the address of a name. `false`: too many questions are open.
    fn ask(&mut self, now: Instant, call: SipCallId, host: String, port: u16, want: Want) -> bool {
        if self.queries.len() >= QUERIES_MAX {
            return false;
        }
        let query = self.next_query;
        self.next_query += 1;
        self.outputs.push_back(SipOutput::Resolve { query, host: host.clone(), port });
        self.queries.insert(query, Query { call, host, port, expires_at: now.plus_millis(RESOLVE_MS_MAX), want });
        true
    }
}

/// What keeps a NAT's binding open (RFC 5626 §3.5.1, and what older agents send over UDP): nothing, or nothing but line ends.
fn is_keep_alive(datagram: &[u8]) -> bool {
    datagram.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

/// Where a URI leads over UDP. A proxy may be written without its scheme.
fn place_of(text: &str) -> Place {
    let with_scheme;
    let uri = match SipUri::parse(text) {
        Some(uri) => uri,
        None => {
            with_scheme = format!("sip:{text}");
            match SipUri::parse(&with_scheme) {
                Some(uri) => uri,
                None => return Place::Nowhere,
            }
        }
    };
    if uri.secure || uri.param("transport").is_some_and(|t| !t.eq_ignore_ascii_case("udp")) {
        return Place::Nowhere;
    }
    match uri.address() {
        Some(address) => Place::Address(address),
        None => Place::Name(uri.host.to_ascii_lowercase(), uri.port.unwrap_or(PORT_DEFAULT)),
    }
}

/// Where a response goes: to the source if the client asked so, else to the port it named (RFC 3261 §18.2.2, RFC 3581 §4).
fn reply_address(request: &Message, source: SocketAddr) -> SocketAddr {
    match request.via() {
        Some(via) if via.param("rport").is_none() => SocketAddr::new(source.ip(), via.port.unwrap_or(PORT_DEFAULT)),
        _ => source,
    }
}

/// The host part of a Via: IPv6 in brackets.
fn host_text(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    }
}
