//! The user agent: takes messages apart, finds whose they are, and keeps every call's timers.
//!
//! ```text
//! message -> message::parse -> Transactions (absorbs repeats) -> Call (uac.rs, uas.rs, session.rs) -> Transactions -> message
//!                                                                   \-> SipEvent
//! ```
//!
//! A [`Call`] decides alone what its messages mean; what it shares with the others is [`Core`]. A call lives until its `Ended`
//! event was given *and* its last transaction is over, so that late repeats still find someone who answers them.
//!
//! Why calls are handed `&mut Core` instead of returning actions: a call touches the transaction table in the middle of its
//! decisions (the branch of an INVITE is known only once it is sent), and nothing here blocks or can be re-entered.

mod call;
mod client;
mod door;
pub mod kept;
mod refer;
mod reliable;
mod session;
mod uac;
mod uas;

use super::digest::Guard;
use super::gatekeeper::{Doorman, Gatekeeper, Refusal};
use super::limits::{CALLS_MAX, OUTPUTS_RESERVED, QUERIES_MAX, RESOLVE_MS_MAX};
use super::locate::{Locator, Question, Records, Step};
use super::message::{Fault, Message, reason_phrase};
use super::places::Places;
use super::transaction::{Received, TransactionId, TransactionOutput, Transactions};
use super::transport::{Hop, PeerIdentity, TRANSPORTS, Transport};
use super::uri::{PORT_DEFAULT, SipUri, escape_user};
use super::{
    Invite, RegistrationId, Replaces, SipCallId, SipConfig, SipEnd, SipEvent, SipOutput, TraceMessage, WatchId,
};
use call::{Call, Purpose};
use client::{Registration, Watched};
use engine::random::Random;
use engine::time::Instant;
use kept::Kept;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

/// Methods we take part in.
const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO, PRACK, REFER, NOTIFY";

/// Option tags that a request may require of us.
const SUPPORTED: [&str; 3] = ["timer", "100rel", "replaces"];

/// The user agent: transactions, dialogs, digest, both roles, over every transport.
pub struct SipAgent {
    calls: BTreeMap<SipCallId, Box<Call>>,
    next_call: u64,
    malformed: u64,
    registrations: BTreeMap<RegistrationId, Registration>,
    watches: BTreeMap<WatchId, Watched>,
    doorman: Doorman,
    core: Core,
}

/// What all calls share.
struct Core {
    config: SipConfig,
    random: Random,
    transactions: Transactions,
    /// Whose a transaction is; refusals outside any call have no owner.
    owners: BTreeMap<TransactionId, Owner>,
    /// Call-ID and our tag.
    dialogs: BTreeMap<(String, String), SipCallId>,
    /// Numbered upwards and all equally patient: the first is the first to expire.
    queries: BTreeMap<u64, Query>,
    next_query: u64,
    deadlines: BTreeSet<(Instant, Timed)>,
    guard: Guard,
    places: Places,
    outputs: VecDeque<SipOutput>,
    /// What changed about dialogs that are kept; `None`: nobody keeps any.
    kept: Option<VecDeque<Kept>>,
    tracing: bool,
    /// Of the call into the agent that is under way; for the trace only.
    now: Instant,
}

/// Whose a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Call(SipCallId, Purpose),
    Registration(RegistrationId),
    Watch(WatchId),
}

/// What has a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timed {
    Call(SipCallId),
    Registration(RegistrationId),
    Watch(WatchId),
}

/// A question to the resolver.
struct Query {
    locator: Locator,
    expires_at: Instant,
    want: Want,
}

/// Who wants to know a place, and what for.
enum Want {
    /// The INVITE of a call.
    Invite { call: SipCallId },
    /// The ACK that the leg keeps.
    Ack { call: SipCallId, leg: usize },
    /// A request inside a dialog; `tries`: places it was sent to before.
    Send { call: SipCallId, leg: usize, request: Box<Message>, purpose: Purpose, tries: usize },
    /// A REGISTER.
    Register(RegistrationId),
    /// An OPTIONS.
    Options(WatchId),
}

/// The outcome of a look-up that may need the DNS.
enum Located {
    /// Known at once, best first; empty: nowhere.
    Known(Vec<Hop>),
    /// `Want` is served when the answer comes.
    Asked,
}

impl SipAgent {
    /// An agent without calls.
    pub fn new(config: SipConfig, mut random: Random) -> SipAgent {
        let doorman = Doorman { demand: config.demand.clone(), accept_incoming: config.accept_incoming };
        let core = Core {
            config,
            guard: Guard::new(&mut random),
            random,
            transactions: Transactions::default(),
            owners: BTreeMap::new(),
            dialogs: BTreeMap::new(),
            queries: BTreeMap::new(),
            next_query: 0,
            deadlines: BTreeSet::new(),
            places: Places::default(),
            outputs: VecDeque::with_capacity(OUTPUTS_RESERVED),
            kept: None,
            tracing: false,
            now: Instant::ZERO,
        };
        SipAgent {
            calls: BTreeMap::new(),
            next_call: 0,
            malformed: 0,
            registrations: BTreeMap::new(),
            watches: BTreeMap::new(),
            doorman,
            core,
        }
    }

    /// Places a call. A bad URI or a full table ends it with an `Ended` event.
    pub fn invite(&mut self, now: Instant, invite: Invite) -> SipCallId {
        let id = self.take_id();
        if self.calls.len() >= CALLS_MAX {
            self.core.emit(SipEvent::Ended { call: id, end: SipEnd::Unreachable });
            return id;
        }
        let call = Call::outgoing(&mut self.core, id, invite);
        self.calls.insert(id, Box::new(call));
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
        self.refuse(now, call, &Refusal::code(code));
    }

    /// UAS: a final refusal with its reason in words.
    pub fn refuse(&mut self, now: Instant, call: SipCallId, refusal: &Refusal) {
        let end = SipEnd::RejectedByUs(refusal.final_code());
        self.with(now, call, |call, core| call.reject(core, now, refusal, end));
    }

    /// Answers a re-INVITE, or an UPDATE with an offer: 200 with SDP, or 488 when `None`.
    pub fn answer_reinvite(&mut self, now: Instant, call: SipCallId, sdp: Option<&str>) {
        self.with(now, call, |call, core| call.answer_reinvite(core, now, sdp));
    }

    /// Offers anew inside an answered call; the outcome is `ReInviteAnswered` or `ReInviteRefused`. Meets the peer's own offer (491)
    /// by itself. A further offer before the outcome takes the place of one that is not sent yet.
    pub fn reinvite(&mut self, now: Instant, call: SipCallId, sdp: &str) {
        self.with(now, call, |call, core| call.offer_anew(core, now, sdp));
    }

    /// A device has registered as `contact` on the connection `hop`: if that is what the peer of `call` calls itself, its connection before
    /// is history, and what is sent to it inside the call goes there (RFC 7118 §5: its URI leads nowhere by itself).
    pub fn peer_is_at(&mut self, now: Instant, call: SipCallId, contact: &str, hop: &Hop) {
        self.with(now, call, |call, _| call.peer_is_at(contact, hop));
    }

    /// Sends a key by INFO (`application/dtmf-relay`), for peers that take no telephone-events.
    pub fn info(&mut self, now: Instant, call: SipCallId, digit: char, duration_ms: u32) {
        self.with(now, call, |call, core| call.send_digit(core, now, digit, duration_ms));
    }

    /// Asks the peer of an answered call to call `refer_to` in our place (RFC 3515). What becomes of it is told by `TransferProgress`.
    pub fn refer(&mut self, now: Instant, call: SipCallId, refer_to: &str, referred_by: Option<&str>) {
        self.with(now, call, |call, core| call.send_refer(core, now, refer_to, referred_by));
    }

    /// Tells the peer that asked for a transfer how it goes: the code of the new call's last response. 200 and above end it.
    pub fn transfer_progress(&mut self, now: Instant, call: SipCallId, code: u16) {
        self.with(now, call, |call, core| call.notify_transfer(core, now, code));
    }

    /// Takes one datagram, with what the configuration says about who may call.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.handle_from_anyone(now, &Hop::udp(from), &PeerIdentity::default(), datagram);
    }

    /// Takes one message, with what the configuration says about who may call: for agents without a gatekeeper.
    pub fn handle_from_anyone(&mut self, now: Instant, hop: &Hop, peer: &PeerIdentity, bytes: &[u8]) {
        let mut doorman = self.doorman.clone();
        self.handle_message(now, hop, peer, bytes, &mut doorman);
    }

    /// Takes one message: a datagram, a framed part of a stream, or a WebSocket message. A parse error costs this message only, and
    /// is counted.
    pub fn handle_message(
        &mut self,
        now: Instant,
        hop: &Hop,
        peer: &PeerIdentity,
        bytes: &[u8],
        gatekeeper: &mut dyn Gatekeeper,
    ) {
        self.core.now = now;
        let Ok(message) = Message::parse(bytes) else {
            self.malformed += u64::from(!is_keep_alive(bytes));
            return;
        };
        self.core.trace(false, hop, bytes, message.call_id());
        let checked = message.check();
        self.malformed += u64::from(checked.is_err());
        if message.method().is_some() {
            self.handle_request(now, hop, peer, message, checked, gatekeeper);
        } else if checked.is_ok() {
            self.handle_response(now, hop, &message);
        }
        self.drain(now);
    }

    /// Messages so far that were no SIP, or lacked what every message must have.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// The answer to `Resolve`; an empty list: no such record, or no answer.
    pub fn resolved(&mut self, now: Instant, query: u64, records: &Records) {
        self.core.now = now;
        let Some(mut known) = self.core.queries.remove(&query) else { return };
        match known.locator.answer(records, &mut self.core.random) {
            Step::Ask(question) => {
                self.core.outputs.push_back(SipOutput::Resolve { query, question });
                self.core.queries.insert(query, known);
            }
            Step::Done(hops) => self.located(now, known.want, hops),
        }
    }

    /// Nothing can be sent to that place: the connection was refused, lost, or its certificate was not good.
    pub fn transport_failed(&mut self, now: Instant, hop: &Hop) {
        self.core.now = now;
        self.core.places.note_dead(now, hop);
        self.core.transactions.fail(hop);
        self.drain(now);
    }

    /// A connection is gone, with everything that only it led to.
    pub fn connection_closed(&mut self, now: Instant, hop: &Hop) {
        self.core.now = now;
        self.core.transactions.fail(hop);
        self.drain(now);
    }

    /// Whether every message is also given as `SipOutput::Trace`.
    pub fn set_tracing(&mut self, tracing: bool) {
        self.core.tracing = tracing;
    }

    /// Call when the instant of the last `Timeout` has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.core.now = now;
        self.core.transactions.handle_timeout(now);
        self.drain(now);
        while let Some(entry) = self.core.queries.first_entry()
            && entry.get().expires_at <= now
        {
            let query = entry.remove();
            self.located(now, query.want, query.locator.give_up());
        }
        while let Some(&(at, timed)) = self.core.deadlines.first()
            && at <= now
        {
            match timed {
                Timed::Call(id) => self.with(now, id, |call, core| call.handle_timeout(core, now)),
                Timed::Registration(id) => {
                    self.with_registration(now, id, |known, core| known.handle_timeout(core, now))
                }
                Timed::Watch(id) => self.with_watch(now, id, |known, core| known.handle_timeout(core, now)),
            }
        }
    }

    /// Call until `Timeout`.
    pub fn poll_output(&mut self, _now: Instant) -> SipOutput {
        self.core.outputs.pop_front().unwrap_or_else(|| {
            let queries = self.core.queries.first_key_value().map_or(Instant::NEVER, |(_, query)| query.expires_at);
            let timed = self.core.deadlines.first().map_or(Instant::NEVER, |&(at, _)| at);
            SipOutput::Timeout(self.core.transactions.deadline().min(queries).min(timed))
        })
    }

    /// The Call-ID of a call.
    pub fn call_id(&self, call: SipCallId) -> Option<&str> {
        self.calls.get(&call).map(|call| call.call_id.as_str())
    }

    /// UAS: whether the caller insists on reliable provisional responses (RFC 3262).
    pub fn rings_reliably(&self, call: SipCallId) -> bool {
        self.calls.get(&call).is_some_and(|call| call.reliable.is_some())
    }

    /// How a call is named to its peer, in the Replaces of a Refer-To or INVITE (RFC 3891 §3).
    pub fn replaces(&self, call: SipCallId) -> Option<Replaces> {
        let call = self.calls.get(&call)?;
        let leg = call.legs.get(call.main.unwrap_or(0))?;
        Some(Replaces {
            call_id: call.call_id.clone(),
            to_tag: leg.dialog.remote_tag.clone(),
            from_tag: call.local_tag.clone(),
            early_only: false,
        })
    }

    /// Calls and transactions alive; both are zero when nothing is left behind.
    pub fn alive(&self) -> (usize, usize) {
        (self.calls.len(), self.core.transactions.count())
    }

    fn handle_response(&mut self, now: Instant, hop: &Hop, response: &Message) {
        // A response that others were meant to see, or that we did not ask for (RFC 3261 §8.1.3.3, §18.1.2).
        let mut vias = response.list("Via");
        let (Some(_), None, Some(via)) = (vias.next(), vias.next(), response.via()) else { return };
        if !self.core.is_our_sent_by(via.host, via.port) {
            return;
        }
        let Some(transaction) = self.core.transactions.handle_response(now, response) else { return };
        self.core.places.note_alive(hop);
        match self.core.owners.get(&transaction) {
            Some(&Owner::Call(call, purpose)) => self.with(now, call, |call, core| {
                call.on_response(core, now, transaction, purpose, response, hop);
            }),
            Some(&Owner::Registration(id)) => {
                self.with_registration(now, id, |known, core| known.on_response(core, now, response));
            }
            Some(&Owner::Watch(id)) => self.with_watch(now, id, |known, core| known.on_response(core, now, response)),
            None => {}
        }
    }

    fn handle_request(
        &mut self,
        now: Instant,
        hop: &Hop,
        peer: &PeerIdentity,
        mut request: Message,
        checked: Result<(), Fault>,
        gatekeeper: &mut dyn Gatekeeper,
    ) {
        request.note_source(hop.remote);
        let reply_to = reply_hop(&request, hop);
        let is_ack = request.method() == Some("ACK");
        if let Err(fault) = checked {
            if !is_ack {
                self.core.refuse_without_state(&request, fault.code(), fault.reason(), &reply_to);
            }
            return;
        }
        match self.core.transactions.handle_request(now, &request, &reply_to) {
            Received::Absorbed => {}
            Received::Acknowledged => self.handle_ack(now, &request),
            Received::Full if is_ack => {}
            Received::Full => self.core.refuse_without_state(&request, 503, reason_phrase(503), &reply_to),
            Received::New { id, merged: true } => self.core.refuse(now, id, &request, 482),
            Received::New { id, merged: false } => {
                self.handle_new_request(now, id, door::Caller { request: &request, hop, peer, reply_to }, gatekeeper);
            }
        }
    }

    fn handle_ack(&mut self, now: Instant, ack: &Message) {
        if let Some(call) = self.call_of(ack) {
            self.with(now, call, |call, core| call.on_ack(core, now, ack));
        }
    }

    fn handle_cancel(&mut self, now: Instant, id: TransactionId, cancel: &Message) {
        let Some((invite, open)) = self.core.transactions.cancelled_by(cancel) else {
            return self.core.refuse(now, id, cancel, 481);
        };
        match self.core.owners.get(&invite) {
            Some(&Owner::Call(call, _)) => {
                self.with(now, call, |call, core| call.on_cancel(core, now, id, cancel, invite, open));
            }
            _ => self.core.refuse(now, id, cancel, 200),
        }
    }

    /// The call whose dialog a request names.
    fn call_of(&self, request: &Message) -> Option<SipCallId> {
        let key = (request.call_id().to_owned(), request.to_tag()?.to_owned());
        self.core.dialogs.get(&key).copied()
    }

    /// The resolver answered, or gave up.
    fn located(&mut self, now: Instant, want: Want, hops: Vec<Hop>) {
        match want {
            Want::Invite { call } | Want::Ack { call, .. } | Want::Send { call, .. } => {
                self.with(now, call, |call, core| call.located(core, now, want, hops));
            }
            Want::Register(id) => self.with_registration(now, id, |known, core| known.on_hops(core, now, hops)),
            Want::Options(id) => self.with_watch(now, id, |known, core| known.on_hops(core, now, hops)),
        }
    }

    fn with(&mut self, now: Instant, id: SipCallId, act: impl FnOnce(&mut Call, &mut Core)) {
        self.core.now = now;
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
                TransactionOutput::Transmit { to, bytes } => self.core.transmit(&to, bytes),
                TransactionOutput::TimedOut(id) => self.unanswered(now, id, false),
                TransactionOutput::Failed(id) => self.unanswered(now, id, true),
                TransactionOutput::Finished(id) => match self.core.owners.remove(&id) {
                    Some(Owner::Call(owner, _)) => {
                        if let Some(call) = self.calls.get_mut(&owner) {
                            call.on_finished(id);
                            self.settle(owner);
                        }
                    }
                    Some(Owner::Registration(_) | Owner::Watch(_)) | None => {}
                },
            }
        }
    }

    /// A request of ours got no answer; `lost`: it did not even get there.
    fn unanswered(&mut self, now: Instant, id: TransactionId, lost: bool) {
        match self.core.owners.get(&id) {
            Some(&Owner::Call(owner, purpose)) => {
                if let Some(call) = self.calls.get_mut(&owner) {
                    call.on_unanswered(&mut self.core, now, id, purpose, lost);
                    self.settle(owner);
                }
            }
            Some(&Owner::Registration(id)) => {
                self.with_registration(now, id, |known, core| known.on_unanswered(core, now));
            }
            Some(&Owner::Watch(id)) => self.with_watch(now, id, |known, core| known.on_unanswered(core, now)),
            None => {}
        }
    }

    /// After a call was touched: forgets it when it is over, else notes its next deadline.
    fn settle(&mut self, id: SipCallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let next = call.deadline();
        self.core.set_deadline(Timed::Call(id), &mut call.registered, next);
        call.keep(&mut self.core);
        if call.is_over() {
            self.core.deadlines.remove(&(call.registered, Timed::Call(id)));
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

    fn transmit(&mut self, hop: &Hop, bytes: Vec<u8>) {
        if self.tracing {
            let call_id = Message::parse(&bytes).map(|message| message.call_id().to_owned()).unwrap_or_default();
            self.trace(true, hop, &bytes, &call_id);
        }
        self.outputs.push_back(SipOutput::Transmit { hop: hop.clone(), bytes });
    }

    fn trace(&mut self, sent: bool, hop: &Hop, bytes: &[u8], call_id: &str) {
        if self.tracing {
            let (hop, call_id, bytes) = (hop.clone(), call_id.to_owned(), bytes.to_vec());
            self.outputs.push_back(SipOutput::Trace(TraceMessage { at: self.now, sent, hop, call_id, bytes }));
        }
    }

    fn set_deadline(&mut self, timed: Timed, registered: &mut Instant, next: Instant) {
        if next != *registered {
            self.deadlines.remove(&(*registered, timed));
            *registered = next;
            if next != Instant::NEVER {
                self.deadlines.insert((next, timed));
            }
        }
    }

    /// Host and port that peers reach us at over `transport`; our certificate carries the name.
    fn sent_by(&self, transport: Transport) -> String {
        let address = self.config.reach(transport).unwrap_or(self.config.advertised);
        match &self.config.tls_name {
            Some(name) if transport.is_secure() => format!("{name}:{}", address.port()),
            _ => address.to_string(),
        }
    }

    fn is_our_sent_by(&self, host: &str, port: Option<u16>) -> bool {
        TRANSPORTS.into_iter().any(|transport| {
            let Some(address) = self.config.reach(transport) else { return false };
            let named = self.config.tls_name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(host));
            port.unwrap_or(PORT_DEFAULT) == address.port() && (named || host == host_text(address))
        })
    }

    /// Our Contact toward a peer over `transport`. `secure`: it asked for `sips:` (RFC 3261 §8.1.1.8).
    fn contact(&self, transport: Transport, secure: bool, user: Option<&str>) -> String {
        let user = escape_user(user.unwrap_or(&self.config.contact_user));
        let at = if user.is_empty() { "" } else { "@" };
        let scheme = if secure { "sips" } else { "sip" };
        let parameter = match transport {
            Transport::Udp => String::new(),
            // RFC 3261 §26.2.2: with `sips` TLS goes without saying, and the parameter names what is under it.
            Transport::Tls if secure => ";transport=tcp".to_owned(),
            other => format!(";transport={}", if other.is_websocket() { "ws" } else { other.parameter() }),
        };
        format!("<{scheme}:{user}{at}{}{parameter}>", self.sent_by(transport))
    }

    /// A branch no other transaction has.
    fn branch(&mut self) -> String {
        format!("{}{}", super::message::MAGIC_COOKIE, self.random.token(16))
    }

    /// Adds what every request of ours carries on its way over `transport`.
    fn complete(&mut self, request: &mut Message, transport: Transport) {
        let branch = self.branch();
        // RFC 5923 §5: the other side may use the connection for its requests too.
        let alias = if matches!(transport, Transport::Tcp | Transport::Tls) { ";alias" } else { "" };
        let via = format!("SIP/2.0/{} {};branch={branch};rport{alias}", transport.via_name(), self.sent_by(transport));
        request.push_front("Via", via);
        if request.header("Max-Forwards").is_none() {
            request.push("Max-Forwards", "70");
        }
        if !matches!(request.method(), Some("ACK" | "BYE" | "PRACK" | "REGISTER")) {
            let secure = request.uri().is_some_and(is_secure);
            let contact = self.contact(transport, secure, None);
            request.push("Contact", contact);
        }
        let product = self.config.product.clone();
        request.push("User-Agent", product);
    }

    /// The transport that a request of that size takes to a place (RFC 3261 §18.1.1): a datagram that would be fragmented goes over
    /// TCP, unless that was found dead.
    fn carrier_of(&self, now: Instant, hop: &Hop, bytes: usize) -> Option<Hop> {
        let stream = Hop::new(Transport::Tcp, hop.remote);
        let large = hop.transport == Transport::Udp && bytes > self.config.udp_bytes_max;
        (large && self.config.reach(Transport::Tcp).is_some() && !self.places.is_dead(now, &stream)).then_some(stream)
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

    fn refuse_without_state(&mut self, request: &Message, code: u16, reason: &str, to: &Hop) {
        if request.header("Via").is_none() {
            return;
        }
        let tag = self.random.token(12);
        let mut response = Message::response(request, code, reason, Some(&tag));
        response.push("Server", self.config.product.as_str());
        self.transmit(to, response.to_bytes());
    }

    /// Where a URI leads. With too many questions open it leads nowhere.
    fn locate(&mut self, now: Instant, uri: &str, want: impl FnOnce() -> Want) -> Located {
        let available: Vec<Transport> =
            TRANSPORTS.into_iter().filter(|&transport| self.config.reach(transport).is_some()).collect();
        // One socket speaks one family.
        let families = (self.config.advertised.is_ipv4(), self.config.advertised.is_ipv6());
        match Locator::start(uri, &available, families) {
            (_, Step::Done(hops)) => Located::Known(hops),
            (_, Step::Ask(_)) if self.queries.len() >= QUERIES_MAX => Located::Known(Vec::new()),
            (locator, Step::Ask(question)) => {
                self.ask(now, locator, question, want());
                Located::Asked
            }
        }
    }

    fn ask(&mut self, now: Instant, locator: Locator, question: Question, want: Want) {
        let query = self.next_query;
        self.next_query += 1;
        self.outputs.push_back(SipOutput::Resolve { query, question });
        self.queries.insert(query, Query { locator, expires_at: now.plus_millis(RESOLVE_MS_MAX), want });
    }
}

/// What keeps a NAT's binding open (RFC 5626 §3.5.1, and what older agents send over UDP): nothing, or nothing but line ends.
fn is_keep_alive(datagram: &[u8]) -> bool {
    datagram.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

fn is_secure(uri: &str) -> bool {
    SipUri::parse(uri).is_some_and(|uri| uri.secure)
}

/// Where a response goes: to the source if the client asked so, else to the port it named (RFC 3261 §18.2.2, RFC 3581 §4). On a
/// connection it takes that, and only when it is gone the address.
fn reply_hop(request: &Message, source: &Hop) -> Hop {
    let port = |via: Option<super::message::Via>| via.and_then(|via| via.port).unwrap_or(source.transport.port());
    let remote = match (source.transport, request.via()) {
        (Transport::Udp, Some(via)) if via.param("rport").is_none() => {
            SocketAddr::new(source.remote.ip(), port(Some(via)))
        }
        (Transport::Tcp | Transport::Tls, via) => SocketAddr::new(source.remote.ip(), port(via)),
        _ => source.remote,
    };
    Hop { remote, ..source.clone() }
}

/// The host part of a Via: IPv6 in brackets.
fn host_text(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    }
}
