//! The edge: every session that joins a WebRTC leg to a SIP call. Pure: requests, engine events, SIP datagrams and `now` in;
//! replies, engine commands, SIP datagrams and the next deadline out.

use super::lease::{Facts, SessionName, SessionState};
use super::machine::CallEnd;
use super::negotiate::Plan;
use super::session::{Birth, Context, Session};
use super::{EdgeError, EdgeEvent, EdgeReply, EdgeRequest, NewSession, SessionCreated, allow, limits};
use crate::sip::locate::{Question, Records};
use crate::sip::transport::{Hop, PeerIdentity};
use crate::sip::{Credentials, SipAgent, SipCallId, SipConfig, SipEvent, SipOutput};
use crate::trace::timeline::Entry;
use engine::bridge::BridgeCommand;
use engine::random::Random;
use engine::time::Instant;
use engine::worker::{Command, Event, RefuseReason};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

/// Where calls go and what we say about ourselves.
#[derive(Clone)]
pub struct EdgeConfig {
    /// Our user agent.
    pub sip: SipConfig,
    /// Addresses written into WebRTC descriptions as candidates, best first.
    pub webrtc_addresses: Vec<IpAddr>,
    /// Address written into RTP descriptions.
    pub rtp_address: IpAddr,
    /// For sessions that name no destination.
    pub default_route: Option<Route>,
    /// Routes that a session may name as its destination.
    pub routes: BTreeMap<String, Route>,
    /// SIP URIs that a session may name as its destination, by prefix. They use the default route's proxy and credentials.
    pub destinations_allowed: Vec<String>,
    /// Prefixes of callback URLs that are allowed beside loopback.
    pub callbacks_allowed: Vec<String>,
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
            default_route: Some(Route::new(target)),
            routes: BTreeMap::new(),
            destinations_allowed: Vec::new(),
            callbacks_allowed: Vec::new(),
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
}

impl Route {
    /// Straight to `target`, without credentials.
    pub fn new(target: &str) -> Route {
        Route { target: target.to_owned(), proxy: None, credentials: None, from_host: None, headers: Vec::new() }
    }
}

/// What `poll_output` answers.
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
    /// For the orchestrator: in this process, or by POST where the session named a URL.
    Notify {
        /// Where to.
        callback_url: Option<String>,
        /// What.
        event: EdgeEvent,
    },
    /// For the call's timeline.
    Timeline(Entry),
    /// Nothing to do before this instant.
    Timeout(Instant),
}

/// What is alive at the edge; all zero when nothing is left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeAlive {
    /// Sessions that are not over.
    pub sessions: usize,
    /// SIP calls.
    pub sip_calls: usize,
    /// SIP transactions.
    pub sip_transactions: usize,
}

/// What the edge counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeCounters {
    /// Sessions begun.
    pub sessions_begun: u64,
    /// Sessions ended.
    pub sessions_ended: u64,
    /// `new` refused.
    pub sessions_refused: u64,
    /// Sessions forgotten because bridge or SIP call never ended: bugs.
    pub sessions_abandoned: u64,
    /// Commands that found a mailbox full.
    pub mailbox_full: u64,
    /// Datagrams at the SIP port that could not be read.
    pub sip_malformed: u64,
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
    by_token: BTreeMap<String, u64>,
    by_sip_call: BTreeMap<SipCallId, u64>,
    timers: BTreeSet<(Instant, u64)>,
    retained: Retained,
    workers: Vec<Worker>,
    /// When the backlogs are offered again.
    retry: Instant,
    out: VecDeque<EdgeOutput>,
}

/// A session, and under what it stands in the edge's indexes.
struct Entered {
    session: Session,
    armed: Instant,
    sip_call: Option<SipCallId>,
}

/// What the edge knows of a worker.
#[derive(Default)]
struct Worker {
    sessions: usize,
    /// Commands that found the mailbox full, in order. Bounded by the few commands that each of its sessions can have.
    backlog: VecDeque<Command>,
}

impl Edge {
    /// An edge without sessions, in front of an engine with that many workers (at least one).
    pub fn new(config: EdgeConfig, workers: usize, mut random: Random) -> Edge {
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
            by_token: BTreeMap::new(),
            by_sip_call: BTreeMap::new(),
            timers: BTreeSet::new(),
            retained: Retained::default(),
            workers: (0..workers.max(1)).map(|_| Worker::default()).collect(),
            retry: Instant::NEVER,
            out: VecDeque::new(),
        }
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
                self.with_token(now, &edge_session_id, |session, cx| session.release(cx));
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
        self.with_token(now, &token, |session, cx| session.end(cx, end));
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
            Event::Opened { bridge, a, b } => self.with(now, bridge.0, |session, cx| session.opened(cx, &a, &b)),
            Event::Refused { bridge, reason } => self.with(now, bridge.0, |session, cx| session.refused(cx, reason)),
            Event::Bridge { bridge, event } => self.with(now, bridge.0, |session, cx| session.handle_bridge(cx, event)),
        }
    }

    /// Takes back a command that found the worker's mailbox full: `Open` is refused, all else is offered again soon, in order.
    pub fn handle_mailbox_full(&mut self, now: Instant, worker: usize, command: Command) {
        self.counters.mailbox_full += 1;
        if let Command::Open { bridge, .. } = command {
            return self.with(now, bridge.0, |session, cx| session.refused(cx, RefuseReason::Full));
        }
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.backlog.push_back(command);
            self.retry = self.retry.min(now.plus_millis(limits::MAILBOX_RETRY_MS));
        }
    }

    /// Takes one SIP datagram.
    pub fn handle_sip(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.sip.handle_datagram(now, from, bytes);
    }

    /// Takes one SIP message of any transport.
    pub fn handle_sip_message(&mut self, now: Instant, hop: &Hop, peer: &PeerIdentity, bytes: &[u8]) {
        self.sip.handle_from_anyone(now, hop, peer, bytes);
    }

    /// A SIP connection is gone, or could not be made (`failed`).
    pub fn sip_lost(&mut self, now: Instant, hop: &Hop, failed: bool) {
        match failed {
            true => self.sip.transport_failed(now, hop),
            false => self.sip.connection_closed(now, hop),
        }
    }

    /// The answer to `Resolve`.
    pub fn resolved(&mut self, now: Instant, query: u64, records: &Records) {
        self.sip.resolved(now, query, records);
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
            self.with(now, number, |session, cx| session.end(cx, end));
        }
    }

    /// Call when the instant of the last `Timeout` has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.sip.handle_timeout(now);
        while let Some(&(due, number)) = self.timers.first()
            && due <= now
        {
            let mut abandoned = false;
            self.with(now, number, |session, cx| abandoned = session.handle_timeout(cx));
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
                SipOutput::Trace(_) => continue,
                SipOutput::Event(event) => {
                    self.handle_sip_event(now, event);
                    continue;
                }
                SipOutput::Timeout(due) => due,
            };
            let session = self.timers.first().map_or(Instant::NEVER, |(due, _)| *due);
            return EdgeOutput::Timeout(sip.min(session).min(self.retry).min(self.retained.deadline()));
        }
    }

    /// What is alive.
    pub fn alive(&self) -> EdgeAlive {
        let (sip_calls, sip_transactions) = self.sip.alive();
        EdgeAlive { sessions: self.sessions.len(), sip_calls, sip_transactions }
    }

    /// What was counted so far.
    pub fn counters(&self) -> EdgeCounters {
        EdgeCounters { sip_malformed: self.sip.malformed(), ..self.counters }
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
            self.with(now, number, |session, cx| {
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
            let same = self.sessions.get(&number).is_some_and(|entered| entered.session.offer_digest == offer_digest);
            if !same {
                return Err(conflict());
            }
            self.with(now, number, |session, cx| session.repeat(cx, request));
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
        let route = self.route(new.destination.as_deref())?;
        let plan = Plan::read(&new.sdp_offer)?;
        self.open(now, request, new, route, plan, offer_digest);
        Ok(())
    }

    fn open(&mut self, now: Instant, request: u64, new: NewSession, route: Route, plan: Plan, offer_digest: [u8; 32]) {
        let number = self.next_session;
        self.next_session += 1;
        let least = self.workers.iter().enumerate().min_by_key(|(_, worker)| worker.sessions);
        let worker = least.map_or(0, |(index, _)| index);
        self.workers[worker].sessions += 1;
        let token = self.random.token(22);
        self.by_call_id.insert(new.call_id.clone(), number);
        self.by_token.insert(token.clone(), number);
        // RFC 8866 §5.2 wants digits; 62 bits fit every reader's signed integer.
        let sdp_session_id = self.random.next_u64() >> 2;
        let birth = Birth { number, token, offer_digest, worker, plan, route, sdp_session_id, request };
        let mut cx = Context { now, config: &self.config, sip: &mut self.sip, out: &mut self.out };
        let session = Session::open(&mut cx, birth, new);
        self.sessions.insert(number, Entered { session, armed: Instant::NEVER, sip_call: None });
        self.counters.sessions_begun += 1;
        self.settle(now, number);
    }

    /// The way to the SIP side that a session asks for.
    fn route(&self, destination: Option<&str>) -> Result<Route, EdgeError> {
        let default = || self.config.default_route.clone();
        let Some(destination) = destination else {
            return default()
                .ok_or_else(|| EdgeError::new(422, "no_route", "no default route is configured: set SIP_TARGET"));
        };
        if let Some(route) = self.config.routes.get(destination) {
            return Ok(route.clone());
        }
        if !allow::destination(destination, &self.config.destinations_allowed) {
            return Err(EdgeError::new(
                403,
                "destination_forbidden",
                "destination is not allowed by the configuration",
            ));
        }
        let target = destination.to_owned();
        Ok(default().map_or_else(|| Route::new(destination), |route| Route { target, ..route }))
    }

    fn handle_sip_event(&mut self, now: Instant, event: SipEvent) {
        let Some(call) = event.call() else { return };
        match (self.by_sip_call.get(&call).copied(), &event) {
            (Some(number), _) => self.with(now, number, |session, cx| session.handle_sip(cx, event)),
            (None, SipEvent::Incoming { .. }) => self.sip.reject(now, call, 404),
            (None, _) => {}
        }
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

    fn with_token(&mut self, now: Instant, token: &str, change: impl FnOnce(&mut Session, &mut Context)) {
        if let Some(&number) = self.by_token.get(token) {
            self.with(now, number, change);
        }
    }

    fn with(&mut self, now: Instant, number: u64, change: impl FnOnce(&mut Session, &mut Context)) {
        let Some(entered) = self.sessions.get_mut(&number) else { return };
        let mut cx = Context { now, config: &self.config, sip: &mut self.sip, out: &mut self.out };
        change(&mut entered.session, &mut cx);
        self.settle(now, number);
    }

    /// Sets a session's timer and indexes anew, and removes it when it is over.
    fn settle(&mut self, now: Instant, number: u64) {
        let Some(entered) = self.sessions.get_mut(&number) else { return };
        if entered.session.is_over() {
            return self.remove(now, number);
        }
        let sip_call = entered.session.sip_call();
        if entered.sip_call != sip_call {
            if let Some(call) = entered.sip_call {
                self.by_sip_call.remove(&call);
            }
            if let Some(call) = sip_call {
                self.by_sip_call.insert(call, number);
            }
            entered.sip_call = sip_call;
        }
        let due = entered.session.deadline();
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
        let mut cx = Context { now, config: &self.config, sip: &mut self.sip, out: &mut self.out };
        entered.session.bury(&mut cx);
        self.timers.remove(&(entered.armed, number));
        if let Some(call) = entered.sip_call {
            self.by_sip_call.remove(&call);
        }
        let session = entered.session;
        self.by_call_id.remove(&session.call_id);
        self.by_token.remove(&session.token);
        if let Some(worker) = self.workers.get_mut(session.worker) {
            worker.sessions = worker.sessions.saturating_sub(1);
        }
        self.counters.sessions_ended += 1;
        if let Some(sdp_answer) = session.answer {
            let created = SessionCreated { edge_session_id: session.token, sdp_answer };
            let ended = Ended { offer_digest: session.offer_digest, created, facts: session.facts };
            self.retained.insert(now, session.call_id, ended);
        }
    }
}

/// What is left of a session that ended, so that a repeated `new` gets the same answer.
struct Ended {
    offer_digest: [u8; 32],
    created: SessionCreated,
    facts: Facts,
}

/// Ended sessions, for a while.
#[derive(Default)]
struct Retained {
    ended: BTreeMap<String, Ended>,
    /// In the order of their expiry.
    order: VecDeque<(Instant, String)>,
}

impl Retained {
    fn insert(&mut self, now: Instant, call_id: String, ended: Ended) {
        self.order.push_back((now.plus_millis(limits::SESSION_RETAINED_MS), call_id.clone()));
        self.ended.insert(call_id, ended);
        while self.order.len() > limits::SESSIONS_RETAINED_MAX {
            self.drop_oldest();
        }
    }

    fn find(&self, call_id: &str) -> Option<&Ended> {
        self.ended.get(call_id)
    }

    fn deadline(&self) -> Instant {
        self.order.front().map_or(Instant::NEVER, |(expires, _)| *expires)
    }

    fn expire(&mut self, now: Instant) {
        while self.deadline() <= now {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, call_id)) = self.order.pop_front() {
            self.ended.remove(&call_id);
        }
    }
}
