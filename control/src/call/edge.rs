//! The edge: every call that is carried here. Pure: requests, engine events, SIP messages and `now` in; replies, engine commands,
//! SIP messages and the next deadline out.
//!
//! There are two kinds, with one agent and one numbering: sessions, which an orchestrator asks for on behalf of WhatsApp, and
//! exchanges, which begin with an INVITE of a trunk or a user. Who is called is for the routes to say in both.

mod dials;
mod figures;
mod joins;
mod originate;
mod peers;

use super::arrive;
use super::backends::Backends;
use super::context::{Calls, Context};
use super::exchange::Exchange;
use super::farewell::Farewells;
use super::hunt::Way;
use super::lease::{SessionName, SessionState};
use super::machine::CallEnd;
use super::negotiate::Plan;
use super::outbound::DialRequest;
use super::retained::{Ended, Retained};
use super::session::{Birth, Session};
use super::talk::Talk;
use super::{EdgeError, EdgeEvent, EdgeReply, EdgeRequest, NewSession, SessionCreated, allow, limits};
use crate::registrar::Gate;
use crate::route::{Asked, Destination, DtlsBackend, Load, Routes, Source};
use crate::sip::gatekeeper::Refusal;
use crate::sip::locate::{Question, Records};
use crate::sip::transport::{Hop, PeerIdentity};
use crate::sip::{
    Arrival, Credentials, Kept, KeptDialog, RegistrationId, SipAgent, SipCallId, SipConfig, SipEvent, SipOutput,
    TraceMessage, WatchId,
};
use crate::store::Change;
use crate::trace::timeline::Entry;
use engine::bridge::{BridgeCommand, BridgeEvent};
use engine::random::Random;
use engine::sdp::Codec;
use engine::time::Instant;
use engine::worker::{Command, Event, RefuseReason};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

pub use figures::{EdgeAlive, EdgeCounters, GateFigures, TrunkFigures};
pub use originate::{NEW_CALL_BYTES_MAX, NewCall};

/// Codecs of sessions where the configuration says nothing, best first.
pub const CODECS_DEFAULT: [Codec; 3] = [Codec::Opus, Codec::Pcmu, Codec::Pcma];

/// Where calls go and what we say about ourselves.
#[derive(Clone)]
pub struct EdgeConfig {
    /// Our user agent.
    pub sip: SipConfig,
    /// Addresses written into WebRTC descriptions as candidates, best first.
    pub webrtc_addresses: Vec<IpAddr>,
    /// Address written into RTP descriptions.
    pub rtp_address: IpAddr,
    /// Trunks, users, groups and rules: where calls go that come from trunks and users, and sessions that a rule takes.
    pub dialplan: Routes,
    /// The domain of our users, for digest.
    pub realm: String,
    /// For sessions that name no destination.
    pub default_route: Option<Route>,
    /// Routes that a session may name as its destination.
    pub routes: BTreeMap<String, Route>,
    /// SIP URIs that a session may name as its destination, by prefix. They use the default route's proxy and credentials.
    pub destinations_allowed: Vec<String>,
    /// Prefixes of callback URLs that are allowed beside loopback.
    pub callbacks_allowed: Vec<String>,
    /// Codecs of sessions, best first. Opus leads: PCMU beside it in WhatsApp's offer means that WhatsApp would transcode.
    pub codecs: Vec<Codec>,
    /// Who does DTLS in sessions that do not say.
    pub dtls: DtlsBackend,
    /// Whether sessions may be keyed by their descriptions (`a=crypto`), where the offer has no fingerprint.
    pub sdes: bool,
    /// Live sessions; past it `new` is refused.
    pub sessions_max: usize,
    /// Time the SIP side may ring.
    pub ring_ms_max: u64,
}

impl EdgeConfig {
    /// An edge that sends every call to `target`, with all else at its default.
    pub fn new(sip: SipConfig, address: IpAddr, target: &str) -> EdgeConfig {
        EdgeConfig {
            sip,
            webrtc_addresses: vec![address],
            rtp_address: address,
            dialplan: Routes::default(),
            realm: "tandem".to_owned(),
            default_route: Some(Route::new(target)),
            routes: BTreeMap::new(),
            destinations_allowed: Vec::new(),
            callbacks_allowed: Vec::new(),
            codecs: CODECS_DEFAULT.to_vec(),
            dtls: DtlsBackend::default(),
            sdes: true,
            sessions_max: limits::SESSIONS_MAX,
            ring_ms_max: limits::RING_MS_MAX,
        }
    }
}

/// One way to the SIP side.
#[derive(Clone)]
pub struct Route {
    /// Request-URI.
    pub target: String,
    /// Outbound proxy.
    pub proxy: Option<String>,
    /// For 401 and 407.
    pub credentials: Option<Credentials>,
    /// Host part of From; our own address when `None`.
    pub from_host: Option<String>,
    /// Headers beside `X-WA-Call-ID`, such as `X-Twilio-Account`.
    pub headers: Vec<(String, String)>,
    /// Seconds between two OPTIONS; `None`: it is never asked.
    pub options_s: Option<u32>,
}

impl Route {
    /// Straight to `target`, without credentials.
    pub fn new(target: &str) -> Route {
        Route {
            target: target.to_owned(),
            proxy: None,
            credentials: None,
            from_host: None,
            headers: Vec::new(),
            options_s: None,
        }
    }
}

/// What `poll_output` answers.
#[expect(clippy::large_enum_variant, reason = "made and taken at once; a box would be made per message")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeOutput {
    /// The outcome of a request.
    Reply {
        /// Which.
        request: u64,
        /// What.
        result: Result<EdgeReply, EdgeError>,
    },
    /// For an engine's worker. When its mailbox is full, give the command back with `handle_mailbox_full`.
    Engine {
        /// Which worker.
        worker: usize,
        /// What.
        command: Command,
    },
    /// One SIP message.
    Sip {
        /// Where.
        hop: Hop,
        /// What.
        bytes: Vec<u8>,
    },
    /// Ask the DNS and answer with `resolved`.
    Resolve {
        /// Names the question.
        query: u64,
        /// What is asked.
        question: Question,
    },
    /// A SIP message that came or went; only while tracing is on.
    Trace(TraceMessage),
    /// This call has placed that SIP call: their messages belong together.
    Linked {
        /// As in its timeline.
        call_id: String,
        /// Call-ID of its INVITE.
        sip_call_id: String,
    },
    /// For the orchestrator: in this process, or by POST where the session named a URL.
    Notify {
        /// Where to.
        callback_url: Option<String>,
        /// What.
        event: EdgeEvent,
    },
    /// For the orchestrator in this process; answer with `handle_dial`.
    Dial(DialRequest),
    /// For the store; only after `restore`.
    Store(Change),
    /// For the call's timeline.
    Timeline(Entry),
    /// Nothing to do before this instant.
    Timeout(Instant),
}

/// Every session of this process.
pub struct Edge {
    config: EdgeConfig,
    random: Random,
    sip: SipAgent,
    counters: EdgeCounters,
    draining: bool,
    /// The number of the next session, which is its bridge's too; never reused.
    next_session: u64,
    sessions: BTreeMap<u64, Entered>,
    by_call_id: BTreeMap<String, u64>,
    /// Trunks that we register at, by name, and whether they hold it.
    registrations: BTreeMap<RegistrationId, (String, bool)>,
    /// Whom we ask with OPTIONS whether they live.
    watched: BTreeMap<WatchId, peers::Watched>,
    by_token: BTreeMap<String, u64>,
    calls: Calls,
    backends: Backends,
    load: Load,
    gate: Gate,
    timers: BTreeSet<(Instant, u64)>,
    /// Calls about to be brought together.
    joins: Vec<joins::Join>,
    retained: Retained,
    farewells: Farewells,
    workers: Vec<Worker>,
    /// When the backlogs are offered again.
    retry: Instant,
    out: VecDeque<EdgeOutput>,
}

/// A call, and under what it stands in the edge's indexes.
struct Entered {
    talk: Talk,
    worker: usize,
    armed: Instant,
}

/// What the edge knows of a worker.
#[derive(Default)]
struct Worker {
    sessions: usize,
    /// Commands that found the mailbox full, in order. Bounded by the few commands that each of its sessions can have.
    backlog: VecDeque<Command>,
}

impl Edge {
    /// An edge without calls, in front of an engine with that many workers (at least one).
    pub fn new(config: EdgeConfig, workers: usize, mut random: Random) -> Edge {
        let gate = Gate::new(config.dialplan.clone(), &config.realm);
        let sip = SipAgent::new(config.sip.clone(), random.fork());
        Edge {
            config,
            sip,
            random,
            counters: EdgeCounters::default(),
            draining: false,
            next_session: 1,
            sessions: BTreeMap::new(),
            by_call_id: BTreeMap::new(),
            registrations: BTreeMap::new(),
            watched: BTreeMap::new(),
            by_token: BTreeMap::new(),
            calls: Calls::default(),
            backends: Backends::default(),
            load: Load::default(),
            gate,
            timers: BTreeSet::new(),
            joins: Vec::new(),
            retained: Retained::default(),
            farewells: Farewells::default(),
            workers: (0..workers.max(1)).map(|_| Worker::default()).collect(),
            retry: Instant::NEVER,
            out: VecDeque::new(),
        }
    }

    /// Ends what the last run left behind, and tells by `Store` from now on what the next one would need. Call once, at the start.
    pub fn restore(&mut self, now: Instant, dialogs: BTreeMap<String, KeptDialog>) {
        if !dialogs.is_empty() {
            tracing::info!("{} SIP calls of the last run are ended with BYE", dialogs.len());
        }
        self.sip.keep_dialogs();
        self.farewells.begin(now, dialogs);
        self.say_farewells(now);
    }

    /// Takes one request; answered by `Reply` with the same number.
    pub fn handle_request(&mut self, now: Instant, request: u64, what: EdgeRequest) {
        let token = match what {
            EdgeRequest::New(new) => {
                if let Err(error) = self.new_session(now, request, *new) {
                    self.counters.sessions_refused += 1;
                    self.out.push_back(EdgeOutput::Reply { request, result: Err(error) });
                }
                return;
            }
            EdgeRequest::Release { edge_session_id } => {
                self.with_token(now, &edge_session_id, |talk, cx| {
                    if let Talk::Session(session) = talk {
                        session.release(cx);
                    }
                });
                self.out.push_back(EdgeOutput::Reply { request, result: Ok(EdgeReply::Done) });
                return;
            }
            EdgeRequest::Hangup { edge_session_id } => edge_session_id,
            EdgeRequest::Keepalive { sessions } => {
                let named = sessions.iter().take(limits::KEEPALIVE_SESSIONS_MAX);
                let states = named.map(|name| self.keep_alive(now, name)).collect();
                self.out.push_back(EdgeOutput::Reply { request, result: Ok(EdgeReply::States(states)) });
                return;
            }
        };
        let end = CallEnd::new("tandem", "hangup", "the orchestrator hung up");
        self.with_token(now, &token, |talk, cx| talk.end(cx, end));
        self.out.push_back(EdgeOutput::Reply { request, result: Ok(EdgeReply::Done) });
    }

    /// Takes one event of an engine's worker.
    pub fn handle_engine(&mut self, now: Instant, worker: usize, event: Event) {
        match event {
            Event::Opened { bridge, .. } if !self.sessions.contains_key(&bridge.0) => {
                // Its session was given up; nobody else would close it.
                let command = Command::Bridge { bridge, command: BridgeCommand::Close };
                self.out.push_back(EdgeOutput::Engine { worker, command });
            }
            Event::Opened { bridge, a, b } => self.with(now, bridge.0, |talk, cx| talk.opened(cx, &a, &b)),
            Event::Refused { bridge, reason } => self.with(now, bridge.0, |talk, cx| talk.refused(cx, reason)),
            Event::Bridge { bridge, event } if self.join_heard(now, bridge.0, &event) => {}
            Event::Bridge { bridge, event } => self.with(now, bridge.0, |talk, cx| talk.handle_bridge(cx, event)),
        }
    }

    /// Takes back a command that found the worker's mailbox full: `Open` is refused, all else is offered again soon, in order.
    pub fn handle_mailbox_full(&mut self, now: Instant, worker: usize, command: Command) {
        self.counters.mailbox_full += 1;
        if let Command::Open { bridge, .. } = command {
            return self.with(now, bridge.0, |talk, cx| talk.refused(cx, RefuseReason::Full));
        }
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.backlog.push_back(command);
            self.retry = self.retry.min(now.plus_millis(limits::MAILBOX_RETRY_MS));
        }
    }

    /// Takes one SIP datagram.
    pub fn handle_sip(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.handle_sip_message(now, &Hop::udp(from), &PeerIdentity::default(), bytes);
    }

    /// Takes one SIP message of any transport.
    pub fn handle_sip_message(&mut self, now: Instant, hop: &Hop, peer: &PeerIdentity, bytes: &[u8]) {
        self.sip.handle_message(now, hop, peer, bytes, &mut self.gate);
        while let Some(note) = self.gate.poll_note() {
            tracing::warn!("{note}");
        }
    }

    /// A SIP connection is gone, or could not be made (`failed`).
    pub fn sip_lost(&mut self, now: Instant, hop: &Hop, failed: bool) {
        if let Some(connection) = hop.connection {
            self.gate.connection_closed(connection);
        }
        match failed {
            true => self.sip.transport_failed(now, hop),
            false => self.sip.connection_closed(now, hop),
        }
    }

    /// The SIP agent, for what is no call: outbound registrations, watched peers.
    pub fn sip(&mut self) -> &mut SipAgent {
        &mut self.sip
    }

    /// Who may call, and where users are.
    pub fn gate(&mut self) -> &mut Gate {
        &mut self.gate
    }

    /// Devices registered.
    pub fn devices(&self) -> usize {
        self.gate.registrar.count()
    }

    /// The answer to `Resolve`.
    pub fn resolved(&mut self, now: Instant, query: u64, records: &Records) {
        self.sip.resolved(now, query, records);
    }

    /// Whether every SIP message is also given as `Trace`.
    pub fn set_tracing(&mut self, tracing: bool) {
        self.sip.set_tracing(tracing);
    }

    /// Refuses new sessions from now on; live ones go on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Ends every session. For a program that stops.
    pub fn shut_down(&mut self, now: Instant) {
        self.draining = true;
        let numbers: Vec<u64> = self.sessions.keys().copied().collect();
        for number in numbers {
            let end = CallEnd::new("tandem", "shutdown", "the program stops");
            self.with(now, number, |talk, cx| talk.end(cx, end));
        }
    }

    /// Call when the instant of the last `Timeout` has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.sip.handle_timeout(now);
        self.gate.handle_timeout(now);
        self.joins_timeout(now);
        while let Some(&(due, number)) = self.timers.first()
            && due <= now
        {
            let mut abandoned = false;
            self.with(now, number, |talk, cx| abandoned = talk.handle_timeout(cx));
            if abandoned {
                self.counters.sessions_abandoned += 1;
                self.remove(now, number);
            }
        }
        if self.retry <= now {
            self.retry = Instant::NEVER;
            for (worker, state) in self.workers.iter_mut().enumerate() {
                let offered = state.backlog.drain(..).map(|command| EdgeOutput::Engine { worker, command });
                self.out.extend(offered);
            }
        }
        self.retained.expire(now);
        self.say_farewells(now);
    }

    /// Call until `Timeout`.
    pub fn poll_output(&mut self, now: Instant) -> EdgeOutput {
        loop {
            while let Some(output) = self.out.pop_front() {
                if let Some(output) = self.behind_backlog(output) {
                    return output;
                }
            }
            let sip = match self.sip.poll_output(now) {
                SipOutput::Transmit { hop, bytes } => return EdgeOutput::Sip { hop, bytes },
                SipOutput::Resolve { query, question } => return EdgeOutput::Resolve { query, question },
                SipOutput::Trace(message) => return EdgeOutput::Trace(message),
                SipOutput::Event(event) => {
                    self.handle_sip_event(now, event);
                    continue;
                }
                SipOutput::Timeout(due) => due,
            };
            if let Some(kept) = self.sip.poll_kept() {
                return EdgeOutput::Store(self.change(kept));
            }
            let session = self.timers.first().map_or(Instant::NEVER, |(due, _)| *due);
            let rest = self.retry.min(self.retained.deadline()).min(self.gate.deadline());
            let rest = rest.min(self.farewells.deadline()).min(self.joins_deadline());
            return EdgeOutput::Timeout(sip.min(session).min(rest));
        }
    }

    /// Renews a session's lease and answers how it is.
    fn keep_alive(&mut self, now: Instant, name: &SessionName) -> SessionState {
        let SessionName { call_id, edge_session_id } = name.clone();
        let number = match edge_session_id.is_empty() {
            true => self.by_call_id.get(&call_id).copied(),
            false => self.by_token.get(&edge_session_id).copied(),
        };
        let mut state = SessionState { call_id, edge_session_id, ..SessionState::default() };
        if let Some(number) = number {
            self.with(now, number, |talk, cx| {
                let Talk::Session(session) = talk else { return };
                session.lease.renew(cx.now);
                state.edge_session_id.clone_from(&session.token);
                (state.known, state.facts) = (true, session.facts.clone());
            });
        } else if let Some(ended) = self.retained.find(&state.call_id)
            && (state.edge_session_id.is_empty() || state.edge_session_id == ended.created.edge_session_id)
        {
            state.edge_session_id.clone_from(&ended.created.edge_session_id);
            (state.known, state.facts) = (true, ended.facts.clone());
        }
        state
    }

    fn new_session(&mut self, now: Instant, request: u64, new: NewSession) -> Result<(), EdgeError> {
        self.retained.expire(now);
        let visible = |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic());
        if new.call_id.len() > limits::CALL_ID_BYTES_MAX || !visible(&new.call_id) {
            return Err(EdgeError::new(400, "bad_call_id", "call_id must be 1 to 512 visible ASCII characters"));
        }
        let offer_digest: [u8; 32] = Sha256::digest(new.sdp_offer.as_bytes()).into();
        let conflict = || EdgeError::new(409, "call_id_in_use", "this call_id has a session with a different offer");
        if let Some(&number) = self.by_call_id.get(&new.call_id) {
            let same = |entered: &Entered| matches!(&entered.talk, Talk::Session(s) if s.offer_digest == offer_digest);
            if !self.sessions.get(&number).is_some_and(same) {
                return Err(conflict());
            }
            self.with(now, number, |talk, cx| {
                if let Talk::Session(session) = talk {
                    session.repeat(cx, request);
                }
            });
            return Ok(());
        }
        if let Some(ended) = self.retained.find(&new.call_id) {
            if ended.offer_digest != offer_digest {
                return Err(conflict());
            }
            let result = Ok(EdgeReply::Created(ended.created.clone()));
            self.out.push_back(EdgeOutput::Reply { request, result });
            return Ok(());
        }
        if self.draining {
            return Err(EdgeError::busy(503, "draining", "the program is about to stop"));
        }
        if self.sessions.len() >= self.config.sessions_max {
            return Err(EdgeError::busy(503, "full", "the limit of sessions is reached"));
        }
        if let Some(url) = &new.callback_url
            && !allow::callback(url, &self.config.callbacks_allowed)
        {
            return Err(EdgeError::new(403, "callback_forbidden", "callback_url is not allowed by the configuration"));
        }
        let plan = Plan::read(&new.sdp_offer, &self.config.codecs, self.config.sdes, &mut self.random)?;
        let ways = self.ways(now, &new)?;
        self.open(now, request, new, ways, plan, offer_digest)
    }

    fn open(
        &mut self,
        now: Instant,
        request: u64,
        new: NewSession,
        ways: Vec<Way>,
        plan: Plan,
        offer_digest: [u8; 32],
    ) -> Result<(), EdgeError> {
        let (number, worker) = self.take_number();
        let token = self.random.token(22);
        // RFC 8866 §5.2 wants digits; 62 bits fit every reader's signed integer.
        let sdp_session_id = self.random.next_u64() >> 2;
        let (call_id, dialed) = (new.call_id.clone(), new.to.clone().unwrap_or_default());
        let birth =
            Birth { number, token: token.clone(), offer_digest, worker, plan, ways, dialed, sdp_session_id, request };
        let session = Session::open(&mut self.context(now, number, worker), birth, new)?;
        self.by_call_id.insert(call_id, number);
        self.by_token.insert(token, number);
        self.enter(now, number, worker, Talk::Session(session));
        Ok(())
    }

    /// The number of the next call, and the worker that carries it.
    fn take_number(&mut self) -> (u64, usize) {
        let number = self.next_session;
        self.next_session += 1;
        let least = self.workers.iter().enumerate().min_by_key(|(_, worker)| worker.sessions);
        (number, least.map_or(0, |(index, _)| index))
    }

    fn enter(&mut self, now: Instant, number: u64, worker: usize, talk: Talk) {
        self.workers[worker].sessions += 1;
        self.sessions.insert(number, Entered { talk, worker, armed: Instant::NEVER });
        self.counters.sessions_begun += 1;
        self.settle(now, number);
    }

    fn context(&mut self, now: Instant, number: u64, worker: usize) -> Context<'_> {
        Context {
            now,
            config: &self.config,
            sip: &mut self.sip,
            out: &mut self.out,
            random: &mut self.random,
            load: &mut self.load,
            gate: &self.gate,
            calls: &mut self.calls,
            backends: &mut self.backends,
            number,
            worker,
        }
    }

    /// Where a session goes: where it says, or else where the rules say, or else to the default target.
    fn ways(&self, now: Instant, new: &NewSession) -> Result<Vec<Way>, EdgeError> {
        if let Some(destination) = new.destination.as_deref() {
            return Ok(vec![self.named_way(destination)?]);
        }
        let asked = Asked {
            dialed: new.to.clone().unwrap_or_default(),
            from: new.from.clone().unwrap_or_default(),
            source: Source::Whatsapp,
        };
        let found = self.gate.routes.destinations(now, &self.load, &asked);
        if !found.destinations.is_empty() {
            return Ok(found.destinations.into_iter().map(Way::To).collect());
        }
        match &self.config.default_route {
            Some(route) => Ok(vec![Way::Route(Box::new(route.clone()))]),
            None => Err(EdgeError::new(422, "no_route", "no default route is configured: set SIP_TARGET")),
        }
    }

    /// A destination that a session names: a route, a user, a group or a trunk by its name, or a SIP URI that is allowed.
    fn named_way(&self, destination: &str) -> Result<Way, EdgeError> {
        if let Some(route) = self.config.routes.get(destination) {
            return Ok(Way::Route(Box::new(route.clone())));
        }
        let plan = &self.gate.routes;
        let named = match destination.split_once(':') {
            Some(("user", name)) if plan.users.contains_key(name) => Some(Destination::User(name.to_owned())),
            Some(("group", name)) if plan.groups.contains_key(name) => Some(Destination::Group(name.to_owned())),
            Some(("trunk", name)) => {
                plan.trunks().find(|(_, trunk)| trunk.name == name).map(|(id, _)| Destination::Trunk(id))
            }
            _ => None,
        };
        if let Some(named) = named {
            return Ok(Way::To(named));
        }
        if !allow::destination(destination, &self.config.destinations_allowed) {
            return Err(EdgeError::new(
                403,
                "destination_forbidden",
                "destination is not allowed by the configuration",
            ));
        }
        let target = destination.to_owned();
        let default = self.config.default_route.clone();
        let route = default.map_or_else(|| Route::new(destination), |route| Route { target, ..route });
        Ok(Way::Route(Box::new(route)))
    }

    fn handle_sip_event(&mut self, now: Instant, event: SipEvent) {
        let Some(call) = event.call() else { return self.note_peer(&event) };
        if let SipEvent::Incoming { target, from, sdp, arrival, .. } = event {
            if let Err(refusal) = self.arrive(now, call, &target, &from, sdp.as_deref(), &arrival) {
                self.counters.sessions_refused += 1;
                let words = refusal.warning.as_deref().unwrap_or_default();
                tracing::info!(code = refusal.final_code(), "a call is refused: {words}");
                self.sip.refuse(now, call, &refusal);
            }
            return;
        }
        let Some(number) = self.calls.owner(call) else { return };
        let is_over = matches!(event, SipEvent::Ended { .. });
        if is_over {
            if let Some((_, Some(trunk))) = self.calls.remove(call) {
                self.load.end(trunk);
            }
            self.newcomer_left(now, call);
        }
        if matches!(event, SipEvent::InviteSent { .. })
            && let Some(sip_call_id) = self.sip.call_id(call).map(str::to_owned)
            && let Some(entered) = self.sessions.get(&number)
        {
            let call_id = entered.talk.call_id().to_owned();
            self.out.push_back(EdgeOutput::Linked { call_id, sip_call_id });
        }
        let Some(event) = self.attend(now, number, event) else { return };
        self.with(now, number, |talk, cx| talk.handle_sip(cx, call, event));
    }

    /// What the store is told of a dialog. The user name alone does not say whose credentials they were.
    fn change(&self, kept: Kept) -> Change {
        match kept {
            Kept::Up { call, key, mut dialog } => {
                let trunk =
                    self.calls.trunk(call).and_then(|id| self.gate.routes.trunks().find(|(known, _)| *known == id));
                dialog.trunk = trunk.map(|(_, trunk)| trunk.name.clone());
                Change::Dialog { key, dialog }
            }
            Kept::Over { key } => Change::DialogOver { key },
        }
    }

    fn say_farewells(&mut self, now: Instant) {
        let (config, routes) = (&self.config, &self.gate.routes);
        // As they are configured now, which the peer may know better than the old ones.
        let credentials = |dialog: &KeptDialog| {
            let trunk = routes.trunks.iter().find(|trunk| Some(&trunk.name) == dialog.trunk.as_ref());
            if let Some(trunk) = trunk {
                return trunk.credentials.clone();
            }
            let all = config.default_route.iter().chain(config.routes.values()).filter_map(|r| r.credentials.as_ref());
            all.into_iter().find(|known| Some(&known.username) == dialog.username.as_ref()).cloned()
        };
        let registrar = &self.gate.registrar;
        let forget = |change| self.out.push_back(EdgeOutput::Store(change));
        self.counters.sip_calls_cut +=
            self.farewells.handle_timeout(now, &mut self.sip, registrar, credentials, forget);
    }

    /// A call of a trunk or a user.
    fn arrive(
        &mut self,
        now: Instant,
        call: SipCallId,
        target: &str,
        from: &str,
        sdp: Option<&str>,
        arrival: &Arrival,
    ) -> Result<(), Refusal> {
        if self.draining || self.sessions.len() >= self.config.sessions_max {
            let words = if self.draining { "the program is about to stop" } else { "the limit of calls is reached" };
            let retry_after_s = Some(limits::RETRY_AFTER_S);
            return Err(Refusal { retry_after_s, ..Refusal::warned(503, words) });
        }
        if let Some(replaced) = arrival.replaces {
            return self.arrive_instead(now, call, from, sdp, arrival, replaced);
        }
        let (number, worker) = self.take_number();
        let mut cx = self.context(now, number, worker);
        let (arrived, trunk) = arrive::read(&mut cx, call, target, from, sdp, arrival)?;
        let user = arrived.user().map(str::to_owned);
        let exchange = Exchange::open(&mut cx, arrived)?;
        if let Some(trunk) = trunk {
            cx.load.begin(trunk);
        }
        cx.calls.insert(call, number, trunk, user.as_deref());
        self.enter(now, number, worker, Talk::Exchange(Box::new(exchange)));
        Ok(())
    }

    /// Keeps commands in order behind those that wait for room in their worker's mailbox.
    fn behind_backlog(&mut self, output: EdgeOutput) -> Option<EdgeOutput> {
        match output {
            EdgeOutput::Engine { worker, command } if !matches!(command, Command::Open { .. }) => {
                match self.workers.get_mut(worker) {
                    Some(state) if !state.backlog.is_empty() => {
                        state.backlog.push_back(command);
                        None
                    }
                    _ => Some(EdgeOutput::Engine { worker, command }),
                }
            }
            other => Some(other),
        }
    }

    fn with_token(&mut self, now: Instant, token: &str, change: impl FnOnce(&mut Talk, &mut Context)) {
        if let Some(&number) = self.by_token.get(token) {
            self.with(now, number, change);
        }
    }

    fn with(&mut self, now: Instant, number: u64, change: impl FnOnce(&mut Talk, &mut Context)) {
        let Some(mut entered) = self.sessions.remove(&number) else { return };
        change(&mut entered.talk, &mut self.context(now, number, entered.worker));
        self.sessions.insert(number, entered);
        self.part(now, number);
        self.settle(now, number);
    }

    /// Sets a call's timer anew, and removes it when it is over.
    fn settle(&mut self, now: Instant, number: u64) {
        let Some(entered) = self.sessions.get_mut(&number) else { return };
        if entered.talk.is_over() && self.calls.live(number) == 0 {
            return self.remove(now, number);
        }
        let due = entered.talk.deadline();
        if entered.armed != due {
            self.timers.remove(&(entered.armed, number));
            entered.armed = due;
            if due != Instant::NEVER {
                self.timers.insert((due, number));
            }
        }
    }

    fn remove(&mut self, now: Instant, number: u64) {
        let Some(mut entered) = self.sessions.remove(&number) else { return };
        entered.talk.bury(&mut self.context(now, number, entered.worker));
        self.timers.remove(&(entered.armed, number));
        for trunk in self.calls.forget(number) {
            self.load.end(trunk);
        }
        if let Some(worker) = self.workers.get_mut(entered.worker) {
            worker.sessions = worker.sessions.saturating_sub(1);
        }
        self.counters.sessions_ended += 1;
        let Talk::Session(session) = entered.talk else { return };
        self.by_call_id.remove(&session.call_id);
        self.by_token.remove(&session.token);
        if let Some(sdp_answer) = session.answer {
            let created = SessionCreated { edge_session_id: session.token, sdp_answer: sdp_answer.into() };
            let ended = Ended { offer_digest: session.offer_digest, created, facts: session.facts };
            self.retained.insert(now, session.call_id, ended);
        }
    }
}
