//! The orchestrator: every WhatsApp call of this process, from `connect` to its end. Pure: webhooks, replies and `now` in;
//! Graph requests, edge requests, what a store must remember, and the next deadline out.
//!
//! An edge in another process is asked every few seconds how its sessions are (`lease`): that finds out about an edge that has died
//! or was started again, and makes up for callbacks that were lost. An edge that says nothing for too long is taken for dead.
//!
//! Calls that the business places are `outbound`'s; here they meet Graph, the webhooks and the store, and their goodbyes are said.

use super::lease::SessionName;
use super::machine::{Act, Call, CallEnd, Context};
use super::outbound::{DialEvent, DialOutput, DialRequest, Dials, Surroundings, Taken};
use super::{AcceptPolicy, EdgeError, EdgeEvent, EdgeReply, EdgeRequest, NewSession, limits};
use crate::route::DtlsBackend;
use crate::store::{CallRecord, Change, Remembered};
use crate::trace::timeline::Entry;
use crate::whatsapp::event::{Connect, Terminate, WebhookEvent};
use crate::whatsapp::graph::{ConnectRequest, GraphError, GraphRequest};
use engine::random::Random;
use engine::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How the orchestrator behaves.
#[derive(Clone, Debug)]
pub struct OrchestratorConfig {
    /// For flat webhooks, which name no number.
    pub phone_number_id: String,
    /// When calls are accepted.
    pub accept: AcceptPolicy,
    /// What is particular to business numbers, by phone number id.
    pub numbers: BTreeMap<String, NumberPolicy>,
    /// Where a remote edge posts its events; `None`: the edge is in this process.
    pub callback_url: Option<String>,
    /// The lease of sessions at a remote edge, in seconds; 0: none.
    pub lease_s: u32,
    /// Live calls; past it new ones are rejected.
    pub calls_max: usize,
}

/// What is particular to a business number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumberPolicy {
    /// When its calls are accepted; `None`: as all others.
    pub accept: Option<AcceptPolicy>,
    /// Where its calls go; `None`: the edge's default route.
    pub destination: Option<String>,
    /// Whom the far side sees.
    pub caller_id: CallerId,
    /// Who does DTLS with WhatsApp; `None`: as the edge is configured.
    pub dtls: Option<DtlsBackend>,
}

/// Whom the far side sees as the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CallerId {
    /// The caller's number, or the business-scoped id of a caller who shows none.
    #[default]
    Caller,
    /// Nobody.
    Anonymous,
    /// This number, digits only.
    Number(String),
}

impl Default for OrchestratorConfig {
    fn default() -> OrchestratorConfig {
        OrchestratorConfig {
            phone_number_id: String::new(),
            accept: AcceptPolicy::default(),
            numbers: BTreeMap::new(),
            callback_url: None,
            lease_s: limits::LEASE_S,
            calls_max: limits::CALLS_MAX,
        }
    }
}

/// What `poll_output` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrchestratorOutput {
    /// Ask Graph; answer with `handle_graph`.
    Graph(GraphRequest),
    /// Ask Graph for a call to a user; answer with `handle_connected`.
    Connect(ConnectRequest),
    /// For the edge beside it, whose request it belongs to.
    Dial(DialEvent),
    /// Ask the edge; answer with `handle_edge_reply`.
    Edge {
        /// Names the question.
        request: u64,
        /// What.
        what: EdgeRequest,
    },
    /// For the store. It precedes the request that must not leave before it is written.
    Store(Change),
    /// It is decided whether a call is accepted, for whoever waits for it.
    Decided {
        /// Which call.
        call_id: String,
        /// Whether.
        accepted: bool,
    },
    /// For the call's timeline.
    Timeline(Entry),
    /// Nothing to do before this instant.
    Timeout(Instant),
}

/// What the orchestrator counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrchestratorCounters {
    /// Calls begun.
    pub calls_begun: u64,
    /// Calls accepted by Graph.
    pub calls_accepted: u64,
    /// Calls ended, for whatever cause.
    pub calls_ended: u64,
    /// `connect` repeated for a live or an ended call.
    pub connects_repeated: u64,
    /// `connect` older than `CONNECT_AGE_S_MAX`.
    pub connects_stale: u64,
    /// `connect` beyond the limit of calls.
    pub connects_refused: u64,
    /// `terminate` for a call that was not known, or repeated.
    pub terminates_unmatched: u64,
    /// Events that are acknowledged and nothing else.
    pub events_unknown: u64,
    /// Events of an edge that belong to no live call.
    pub edge_events_unmatched: u64,
    /// Events of an edge that had come before.
    pub edge_events_repeated: u64,
    /// Keepalives that a remote edge did not reply to.
    pub keepalives_lost: u64,
    /// Graph requests that were tried again.
    pub graph_retries: u64,
    /// Graph requests that failed for good.
    pub graph_failures: u64,
    /// Calls of whose end WhatsApp could not be told.
    pub goodbyes_lost: u64,
    /// Calls of the last run that went on.
    pub calls_resumed: u64,
    /// Calls of the last run that were ended.
    pub calls_cut: u64,
    /// Calls to users begun.
    pub dials_begun: u64,
    /// Calls to users that were answered.
    pub dials_answered: u64,
    /// Calls to users refused here: at the limit, or while the program stops.
    pub dials_refused: u64,
    /// Calls to users that Graph may have begun and nobody has ever named.
    pub dials_lost: u64,
    /// Answers of users to the question whether the business may call: yes.
    pub permissions_granted: u64,
    /// The same: no.
    pub permissions_refused: u64,
}

/// Every WhatsApp call of this process.
pub struct Orchestrator {
    config: OrchestratorConfig,
    random: Random,
    counters: OrchestratorCounters,
    calls: BTreeMap<u64, Box<Entered>>,
    by_call_id: BTreeMap<String, u64>,
    timers: BTreeSet<(Instant, u64)>,
    /// Calls to users.
    dials: Dials,
    tombstones: Tombstones,
    keepalive: Keepalive,
    /// Unix time, as of the last webhook or the start.
    wall_s: u64,
    /// Calls of which only a slow goodbye is left.
    lingering: BTreeSet<u64>,
    /// The number of the next call; never reused.
    next_call: u64,
    draining: bool,
    outputs: VecDeque<OrchestratorOutput>,
}

/// A call and the deadline it stands in `timers` with.
struct Entered {
    call: Call,
    armed: Instant,
    /// What the store knows of it.
    stored: Option<CallRecord>,
}

/// The questions to a remote edge about all of its sessions.
struct Keepalive {
    /// Whether there is anybody to ask.
    wanted: bool,
    /// When the next is due; `NEVER` without sessions.
    due: Instant,
    /// Since when the edge owes a reply.
    unanswered: Instant,
    /// Number of the next question, for the log of a test only: replies say themselves what they are about.
    next: u64,
}

/// Marks the numbers of keepalives among those of requests.
const KEEPALIVE_BIT: u64 = 1 << 63;

/// A request's number holds its call's number and the ticket within the call, so that no table of open requests can leak.
const TICKET_BITS: u32 = 8;

impl Orchestrator {
    /// An orchestrator without calls.
    pub fn new(config: OrchestratorConfig, random: Random) -> Orchestrator {
        let wanted = config.callback_url.is_some() && config.lease_s > 0;
        Orchestrator {
            config,
            random,
            counters: OrchestratorCounters::default(),
            calls: BTreeMap::new(),
            by_call_id: BTreeMap::new(),
            timers: BTreeSet::new(),
            dials: Dials::default(),
            tombstones: Tombstones::default(),
            keepalive: Keepalive { wanted, due: Instant::NEVER, unanswered: Instant::NEVER, next: 0 },
            wall_s: 0,
            lingering: BTreeSet::new(),
            next_call: 1,
            draining: false,
            outputs: VecDeque::new(),
        }
    }

    /// Takes what the last run left behind. Call once, before anything else.
    pub fn restore(&mut self, now: Instant, wall_seconds: u64, remembered: Remembered) {
        self.wall_s = wall_seconds;
        let mut over: Vec<(u64, String)> = remembered.over.into_iter().map(|(call_id, left)| (left, call_id)).collect();
        over.sort();
        for (left_ms, call_id) in over {
            self.tombstones.insert_for(now, call_id, left_ms);
        }
        let at_edge = self.config.callback_url.is_some();
        for (call_id, record) in remembered.calls {
            if Dials::is_token(&call_id) {
                self.dials.restore(now, call_id, &record);
                continue;
            }
            let stored = Some(record.clone());
            let mut cx = Context { now, wall_s: self.wall_s, counters: &mut self.counters, random: &mut self.random };
            let call = Call::restore(&mut cx, call_id, record, at_edge);
            let counter = match call.session() {
                Some(_) => &mut self.counters.calls_resumed,
                None => &mut self.counters.calls_cut,
            };
            *counter += 1;
            self.enter(now, call, stored);
        }
        // The sooner it is known which sessions are left, the better.
        if self.keepalive.due != Instant::NEVER {
            self.keepalive.due = now;
        }
    }

    /// Takes the events of one webhook in their order. `wall_seconds` is Unix time, for the age of a `connect`.
    pub fn handle_webhook(&mut self, now: Instant, wall_seconds: u64, events: Vec<WebhookEvent>) {
        self.wall_s = wall_seconds;
        for event in events {
            match event {
                WebhookEvent::Connect(connect) => self.connect(now, wall_seconds, connect),
                WebhookEvent::Terminate(terminate) => self.terminate(now, &terminate),
                WebhookEvent::Answer(answer) => self.dialled(now, |dials, env| dials.handle_answer(env, answer)),
                WebhookEvent::Status(status) => self.dialled(now, |dials, env| dials.handle_status(env, status)),
                WebhookEvent::Permission { granted: true, .. } => self.counters.permissions_granted += 1,
                WebhookEvent::Permission { granted: false, .. } => self.counters.permissions_refused += 1,
                WebhookEvent::Unknown { .. } => self.counters.events_unknown += 1,
            }
        }
    }

    /// Takes a request of the edge beside it. `wall_seconds` is Unix time.
    pub fn handle_dial(&mut self, now: Instant, wall_seconds: u64, request: DialRequest) {
        self.wall_s = wall_seconds;
        let refusal = match self.pending() {
            _ if self.draining => Some("the program is about to stop"),
            calls if calls >= self.config.calls_max => Some("the limit of calls is reached"),
            _ => None,
        };
        self.dials(now, |dials, env| dials.handle_request(env, request, refusal));
    }

    /// The outcome of a `Connect` output: WhatsApp's id of the call. Unknown numbers are ignored.
    pub fn handle_connected(&mut self, now: Instant, request: u64, result: Result<String, GraphError>) {
        self.dials(now, |dials, env| dials.connected(env, request, result));
    }

    /// The outcome of a `Graph` output. Unknown numbers are ignored: their call has ended or gave up waiting.
    pub fn handle_graph(&mut self, now: Instant, request: u64, result: Result<(), GraphError>) {
        let ticket = request as u8;
        self.with_call(now, request >> TICKET_BITS, |call, cx| call.handle_graph(cx, ticket, result));
    }

    /// The outcome of an `Edge` output. Unknown numbers are ignored.
    pub fn handle_edge_reply(&mut self, now: Instant, request: u64, result: Result<EdgeReply, EdgeError>) {
        if request & KEEPALIVE_BIT != 0 {
            return self.handle_keepalive(now, result);
        }
        let ticket = request as u8;
        self.with_call(now, request >> TICKET_BITS, |call, cx| call.handle_edge_reply(cx, ticket, result));
    }

    /// Takes one event of an edge.
    pub fn handle_edge_event(&mut self, now: Instant, event: EdgeEvent) {
        let number = self.by_call_id.get(&event.call_id).copied();
        if number.is_none() && self.tombstones.contains(&event.call_id) {
            return; // the ordinary `Ended` after our own hang-up
        }
        let taken = number.and_then(|number| self.with_call(now, number, |call, cx| call.handle_edge_event(cx, event)));
        self.counters.edge_events_unmatched += u64::from(taken != Some(true));
    }

    /// Ends every call; new ones are rejected. For a program that stops.
    pub fn shut_down(&mut self, now: Instant) {
        self.draining = true;
        let numbers: Vec<u64> = self.calls.keys().copied().collect();
        for number in numbers {
            let end = CallEnd::new("tandem", "shutdown", "the program stops");
            self.with_call(now, number, |call, cx| call.end(cx, end));
        }
        self.dials(now, |dials, env| dials.shut_down(env.now));
    }

    /// Rejects new calls from now on; live ones go on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Call when the instant of the last `Timeout` has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(due, number)) = self.timers.first()
            && due <= now
        {
            self.with_call(now, number, |call, cx| call.handle_timeout(cx));
        }
        if self.keepalive.due <= now {
            self.keep_alive(now);
        }
        if self.dials.deadline() <= now {
            self.dials(now, Dials::handle_timeout);
        }
        self.tombstones.expire(now);
    }

    /// Call until `Timeout`.
    pub fn poll_output(&mut self, _now: Instant) -> OrchestratorOutput {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        let call = self.timers.first().map_or(Instant::NEVER, |(due, _)| *due);
        let call = call.min(self.dials.deadline());
        OrchestratorOutput::Timeout(call.min(self.tombstones.deadline()).min(self.keepalive.due))
    }

    /// Calls that are not over; zero when nothing is left behind (remembered ids of ended calls do not count).
    pub fn alive(&self) -> usize {
        self.calls.len() + self.dials.alive()
    }

    /// Calls by how far they are, each state in its turn.
    pub fn states(&self) -> Vec<(&'static str, u64)> {
        let count = |state: &&str| self.calls.values().filter(|entered| entered.call.state() == *state).count() as u64;
        CALL_STATES.iter().map(|state| (*state, count(state))).collect()
    }

    /// Whether this call is neither accepted nor over.
    pub fn is_undecided(&self, call_id: &str) -> bool {
        self.find(call_id).is_some_and(|call| !call.is_decided())
    }

    /// Whether this call is accepted and not over.
    pub fn is_accepted(&self, call_id: &str) -> bool {
        self.find(call_id).is_some_and(Call::is_in_call)
    }

    fn find(&self, call_id: &str) -> Option<&Call> {
        let number = self.by_call_id.get(call_id)?;
        self.calls.get(number).map(|entered| &entered.call)
    }

    /// Calls that a program which drains waits for: all but those of which only a slow goodbye is left, which the store keeps.
    pub fn pending(&self) -> usize {
        self.calls.len() - self.lingering.len() + self.dials.pending()
    }

    /// What was counted so far.
    pub fn counters(&self) -> OrchestratorCounters {
        self.counters
    }

    fn connect(&mut self, now: Instant, wall_seconds: u64, connect: Connect) {
        self.tombstones.expire(now);
        if self.by_call_id.contains_key(&connect.call_id) || self.tombstones.contains(&connect.call_id) {
            self.counters.connects_repeated += 1;
            return;
        }
        if connect.timestamp_s.is_some_and(|sent| sent.saturating_add(limits::CONNECT_AGE_S_MAX) < wall_seconds) {
            self.counters.connects_stale += 1;
            return;
        }
        let refusal = match self.pending() {
            _ if self.draining => Some(CallEnd::new("tandem", "draining", "the program is about to stop")),
            calls if calls >= self.config.calls_max => {
                Some(CallEnd::new("tandem", "full", "the limit of calls is reached"))
            }
            _ => None,
        };
        if refusal.is_some() {
            self.counters.connects_refused += 1;
            if self.pending() >= self.config.calls_max.saturating_add(limits::REJECTS_MAX) {
                return;
            }
        }
        let Connect { call_id, phone_number_id, from, from_name, to, sdp, .. } = connect;
        let phone_number_id = phone_number_id.unwrap_or_else(|| self.config.phone_number_id.clone());
        let number = self.config.numbers.get(&phone_number_id).cloned().unwrap_or_default();
        let policy = number.accept.unwrap_or(self.config.accept);
        let from = match number.caller_id {
            CallerId::Caller => from,
            CallerId::Anonymous => None,
            CallerId::Number(number) => Some(number),
        };
        let mut cx = Context { now, wall_s: wall_seconds, counters: &mut self.counters, random: &mut self.random };
        let call = match refusal {
            Some(end) => Call::refuse(&mut cx, call_id.clone(), phone_number_id, end),
            None => {
                let session = NewSession {
                    call_id: call_id.clone(),
                    sdp_offer: sdp,
                    destination: number.destination,
                    from,
                    to,
                    hold_media: true,
                    early_media: policy != AcceptPolicy::OnAnswer,
                    callback_url: self.config.callback_url.clone(),
                    lease_s: self.keepalive.wanted.then_some(self.config.lease_s),
                    dtls: number.dtls,
                };
                // The name stays out of the line: it is a person's.
                let named = if from_name.is_some() { ", caller has a name" } else { "" };
                Call::arrive(&mut cx, phone_number_id, policy, session, format!("connect{named}"))
            }
        };
        self.counters.calls_begun += 1;
        self.enter(now, call, None);
    }

    fn enter(&mut self, now: Instant, call: Call, stored: Option<CallRecord>) {
        let number = self.next_call;
        self.next_call += 1;
        self.by_call_id.insert(call.call_id.clone(), number);
        self.calls.insert(number, Box::new(Entered { call, armed: Instant::NEVER, stored }));
        self.settle(now, number);
    }

    /// Asks a remote edge about all sessions, or ends their calls when it has said nothing for too long.
    fn keep_alive(&mut self, now: Instant) {
        let name = |entered: &Entered| {
            let edge_session_id = entered.call.session()?.to_owned();
            Some(SessionName { call_id: entered.call.call_id.clone(), edge_session_id })
        };
        let names: Vec<SessionName> = self.calls.values().filter_map(|entered| name(entered)).collect();
        if names.is_empty() {
            (self.keepalive.due, self.keepalive.unanswered) = (Instant::NEVER, Instant::NEVER);
            return;
        }
        self.keepalive.due = now.plus_millis(limits::KEEPALIVE_MS);
        if now >= self.keepalive.unanswered.plus_millis(limits::EDGE_SILENT_MS_MAX) {
            self.keepalive.unanswered = now;
            for name in names {
                let Some(number) = self.by_call_id.get(&name.call_id).copied() else { continue };
                let end = CallEnd::new("tandem", "edge_silent", "the edge has said nothing for too long: is it gone?");
                self.with_call(now, number, |call, cx| call.end(cx, end));
            }
            return;
        }
        self.keepalive.unanswered = self.keepalive.unanswered.min(now);
        for sessions in names.chunks(limits::KEEPALIVE_SESSIONS_MAX) {
            let request = KEEPALIVE_BIT | self.keepalive.next;
            self.keepalive.next += 1;
            let what = EdgeRequest::Keepalive { sessions: sessions.to_vec() };
            self.outputs.push_back(OrchestratorOutput::Edge { request, what });
        }
    }

    fn handle_keepalive(&mut self, now: Instant, result: Result<EdgeReply, EdgeError>) {
        match result {
            Ok(EdgeReply::States(states)) => {
                self.keepalive.unanswered = Instant::NEVER;
                for state in states {
                    let Some(number) = self.by_call_id.get(&state.call_id).copied() else { continue };
                    self.with_call(now, number, |call, cx| call.handle_state(cx, state));
                }
            }
            Err(error) if error.status == 0 => self.counters.keepalives_lost += 1,
            // An edge of somebody else's that knows no keepalive lives, as far as can be told.
            Ok(_) | Err(_) => self.keepalive.unanswered = Instant::NEVER,
        }
    }

    fn terminate(&mut self, now: Instant, terminate: &Terminate) {
        if let Some(number) = self.by_call_id.get(&terminate.call_id).copied() {
            let ours = self.calls.get(&number).map_or("", |entered| entered.call.phone_number_id.as_str());
            // One account must not end the calls of another.
            if !ours.is_empty() && terminate.phone_number_id.as_deref().is_some_and(|theirs| theirs != ours) {
                self.counters.terminates_unmatched += 1;
                return;
            }
            self.with_call(now, number, |call, cx| call.handle_terminate(cx, terminate));
            return;
        }
        match self.dials(now, |dials, env| dials.handle_terminate(env, terminate)) {
            Taken::Yes => return,
            Taken::Foreign => return self.counters.terminates_unmatched += 1,
            // It overtook its connect, or repeats: the id is remembered either way.
            Taken::No => self.counters.terminates_unmatched += 1,
            Taken::Kept => {}
        }
        if self.tombstones.insert(now, terminate.call_id.clone()) {
            self.outputs.push_back(OrchestratorOutput::Store(Change::Over { call_id: terminate.call_id.clone() }));
        }
    }

    /// An event of a call to a user.
    fn dialled(&mut self, now: Instant, take: impl FnOnce(&mut Dials, &mut Surroundings) -> Taken) {
        let taken = self.dials(now, take);
        self.counters.events_unknown += u64::from(matches!(taken, Taken::No | Taken::Foreign));
    }

    /// Changes the calls to users, and carries out what they want.
    fn dials<T>(&mut self, now: Instant, change: impl FnOnce(&mut Dials, &mut Surroundings) -> T) -> T {
        let (random, counters) = (&mut self.random, &mut self.counters);
        let answer = change(&mut self.dials, &mut Surroundings { now, wall_s: self.wall_s, random, counters });
        while let Some(output) = self.dials.poll() {
            match output {
                DialOutput::Connect(request) => self.outputs.push_back(OrchestratorOutput::Connect(request)),
                DialOutput::Event(event) => self.outputs.push_back(OrchestratorOutput::Dial(event)),
                DialOutput::Timeline(entry) => self.outputs.push_back(OrchestratorOutput::Timeline(entry)),
                DialOutput::Store(change) => self.outputs.push_back(OrchestratorOutput::Store(change)),
                DialOutput::Over { call_id } => self.bury(now, call_id),
                DialOutput::Goodbye { call_id, phone_number_id, timeline } => {
                    self.farewell(now, call_id, phone_number_id, timeline);
                }
            }
        }
        answer
    }

    /// Says goodbye to a call that the business placed, unless WhatsApp has ended it or is being told already.
    fn farewell(&mut self, now: Instant, call_id: String, phone_number_id: String, timeline: String) {
        if self.tombstones.contains(&call_id) {
            return self.outputs.push_back(OrchestratorOutput::Store(Change::Over { call_id }));
        }
        if self.by_call_id.contains_key(&call_id) {
            return;
        }
        let mut cx = Context { now, wall_s: self.wall_s, counters: &mut self.counters, random: &mut self.random };
        let call = Call::farewell(&mut cx, call_id, phone_number_id, timeline);
        self.enter(now, call, None);
    }

    /// The call is over, and its id is remembered for a while.
    fn bury(&mut self, now: Instant, call_id: String) {
        self.tombstones.insert(now, call_id.clone());
        self.outputs.push_back(OrchestratorOutput::Store(Change::Over { call_id }));
    }

    fn with_call<T>(
        &mut self,
        now: Instant,
        number: u64,
        change: impl FnOnce(&mut Call, &mut Context) -> T,
    ) -> Option<T> {
        let entered = self.calls.get_mut(&number)?;
        let mut cx = Context { now, wall_s: self.wall_s, counters: &mut self.counters, random: &mut self.random };
        let answer = change(&mut entered.call, &mut cx);
        self.settle(now, number);
        Some(answer)
    }

    /// Carries out what a call wants, sets its timer anew, and removes it when it is over.
    fn settle(&mut self, now: Instant, number: u64) {
        let Some(entered) = self.calls.get_mut(&number) else { return };
        let call = &mut entered.call;
        call.may_linger = self.lingering.len() < limits::GOODBYES_MAX;
        let record = call.record();
        if !call.is_over_but_for_acts() && entered.stored.as_ref() != Some(&record) {
            let change = Change::Call { call_id: call.call_id.clone(), record: Box::new(record.clone()) };
            self.outputs.push_back(OrchestratorOutput::Store(change));
            entered.stored = Some(record);
        }
        while let Some(act) = call.poll_act() {
            let request = |ticket: u8| number << TICKET_BITS | u64::from(ticket);
            self.outputs.push_back(match act {
                Act::Graph { ticket, action } => OrchestratorOutput::Graph(GraphRequest {
                    request: request(ticket),
                    phone_number_id: call.phone_number_id.clone(),
                    call_id: call.call_id.clone(),
                    action,
                }),
                Act::Decided { accepted } => OrchestratorOutput::Decided { call_id: call.call_id.clone(), accepted },
                Act::Edge { ticket, what } => OrchestratorOutput::Edge { request: request(ticket), what },
                Act::Timeline { step, detail } => {
                    OrchestratorOutput::Timeline(Entry { call_id: call.timeline().to_owned(), at: now, step, detail })
                }
            });
        }
        self.timers.remove(&(entered.armed, number));
        if entered.call.is_over() {
            let (call_id, is_farewell) = (entered.call.call_id.clone(), entered.call.is_farewell());
            self.calls.remove(&number);
            self.by_call_id.remove(&call_id);
            self.lingering.remove(&number);
            self.bury(now, call_id);
            self.counters.calls_ended += u64::from(!is_farewell);
            return;
        }
        match entered.call.lingers() {
            true => self.lingering.insert(number),
            false => self.lingering.remove(&number),
        };
        if self.keepalive.wanted && self.keepalive.due == Instant::NEVER && entered.call.session().is_some() {
            self.keepalive.due = now.plus_millis(limits::KEEPALIVE_MS);
        }
        entered.armed = entered.call.deadline();
        if entered.armed != Instant::NEVER {
            self.timers.insert((entered.armed, number));
        }
    }
}

/// States of a call, in their order.
const CALL_STATES: [&str; 5] = ["opening", "preparing", "accepting", "in_call", "ending"];

/// Call ids that are over, for a while.
#[derive(Default)]
struct Tombstones {
    ids: BTreeSet<String>,
    /// In the order of their expiry.
    order: VecDeque<(Instant, String)>,
}

impl Tombstones {
    /// Answers whether it is new.
    fn insert(&mut self, now: Instant, call_id: String) -> bool {
        self.insert_for(now, call_id, limits::TOMBSTONE_MS)
    }

    /// Call in the order of expiry.
    fn insert_for(&mut self, now: Instant, call_id: String, millis: u64) -> bool {
        self.expire(now);
        if !self.ids.insert(call_id.clone()) {
            return false;
        }
        self.order.push_back((now.plus_millis(millis), call_id));
        while self.order.len() > limits::TOMBSTONES_MAX {
            self.drop_oldest();
        }
        true
    }

    fn contains(&self, call_id: &str) -> bool {
        self.ids.contains(call_id)
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
            self.ids.remove(&call_id);
        }
    }
}

#[cfg(test)]
#[path = "orchestrator_tests.rs"]
mod tests;
