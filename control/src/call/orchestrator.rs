//! The orchestrator: every WhatsApp call of this process, from `connect` to its end. Pure: webhooks, replies and `now` in;
//! Graph requests, edge requests and the next deadline out.

use super::machine::{Act, Call, CallEnd, Context};
use super::{AcceptPolicy, EdgeError, EdgeEvent, EdgeReply, EdgeRequest, NewSession, limits};
use crate::trace::timeline::Entry;
use crate::whatsapp::event::{Connect, Terminate, WebhookEvent};
use crate::whatsapp::graph::{GraphError, GraphRequest};
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
    /// The same per phone number id.
    pub accept_by_number: BTreeMap<String, AcceptPolicy>,
    /// Where a remote edge posts its events; `None`: the edge is in this process.
    pub callback_url: Option<String>,
    /// Live calls; past it new ones are rejected.
    pub calls_max: usize,
}

impl Default for OrchestratorConfig {
    fn default() -> OrchestratorConfig {
        OrchestratorConfig {
            phone_number_id: String::new(),
            accept: AcceptPolicy::default(),
            accept_by_number: BTreeMap::new(),
            callback_url: None,
            calls_max: limits::CALLS_MAX,
        }
    }
}

/// What `poll_output` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrchestratorOutput {
    /// Ask Graph; answer with `handle_graph`.
    Graph(GraphRequest),
    /// Ask the edge; answer with `handle_edge_reply`.
    Edge {
        /// Names the question.
        request: u64,
        /// What.
        what: EdgeRequest,
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
    /// Graph requests that were tried again.
    pub graph_retries: u64,
    /// Graph requests that failed for good.
    pub graph_failures: u64,
}

/// Every WhatsApp call of this process.
pub struct Orchestrator {
    config: OrchestratorConfig,
    random: Random,
    counters: OrchestratorCounters,
    calls: BTreeMap<u64, Entered>,
    by_call_id: BTreeMap<String, u64>,
    timers: BTreeSet<(Instant, u64)>,
    tombstones: Tombstones,
    /// The number of the next call; never reused.
    next_call: u64,
    draining: bool,
    outputs: VecDeque<OrchestratorOutput>,
}

/// A call and the deadline it stands in `timers` with.
struct Entered {
    call: Call,
    armed: Instant,
}

/// A request's number holds its call's number and the ticket within the call, so that no table of open requests can leak.
const TICKET_BITS: u32 = 8;

impl Orchestrator {
    /// An orchestrator without calls.
    pub fn new(config: OrchestratorConfig, random: Random) -> Orchestrator {
        Orchestrator {
            config,
            random,
            counters: OrchestratorCounters::default(),
            calls: BTreeMap::new(),
            by_call_id: BTreeMap::new(),
            timers: BTreeSet::new(),
            tombstones: Tombstones::default(),
            next_call: 1,
            draining: false,
            outputs: VecDeque::new(),
        }
    }

    /// Takes the events of one webhook in their order. `wall_seconds` is Unix time, for the age of a `connect`.
    pub fn handle_webhook(&mut self, now: Instant, wall_seconds: u64, events: Vec<WebhookEvent>) {
        for event in events {
            match event {
                WebhookEvent::Connect(connect) => self.connect(now, wall_seconds, connect),
                WebhookEvent::Terminate(terminate) => self.terminate(now, &terminate),
                WebhookEvent::Status { .. } | WebhookEvent::Unknown { .. } => self.counters.events_unknown += 1,
            }
        }
    }

    /// The outcome of a `Graph` output. Unknown numbers are ignored: their call has ended or gave up waiting.
    pub fn handle_graph(&mut self, now: Instant, request: u64, result: Result<(), GraphError>) {
        let ticket = request as u8;
        self.with_call(now, request >> TICKET_BITS, |call, cx| call.handle_graph(cx, ticket, result));
    }

    /// The outcome of an `Edge` output. Unknown numbers are ignored.
    pub fn handle_edge_reply(&mut self, now: Instant, request: u64, result: Result<EdgeReply, EdgeError>) {
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
        self.tombstones.expire(now);
    }

    /// Call until `Timeout`.
    pub fn poll_output(&mut self, _now: Instant) -> OrchestratorOutput {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        let call = self.timers.first().map_or(Instant::NEVER, |(due, _)| *due);
        OrchestratorOutput::Timeout(call.min(self.tombstones.deadline()))
    }

    /// Calls that are not over; zero when nothing is left behind (remembered ids of ended calls do not count).
    pub fn alive(&self) -> usize {
        self.calls.len()
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
        let refusal = match self.calls.len() {
            _ if self.draining => Some(CallEnd::new("tandem", "draining", "the program is about to stop")),
            calls if calls >= self.config.calls_max => {
                Some(CallEnd::new("tandem", "full", "the limit of calls is reached"))
            }
            _ => None,
        };
        if refusal.is_some() {
            self.counters.connects_refused += 1;
            if self.calls.len() >= self.config.calls_max.saturating_add(limits::REJECTS_MAX) {
                return;
            }
        }
        let Connect { call_id, phone_number_id, from, from_name, to, sdp, .. } = connect;
        let phone_number_id = phone_number_id.unwrap_or_else(|| self.config.phone_number_id.clone());
        let policy = self.config.accept_by_number.get(&phone_number_id).copied().unwrap_or(self.config.accept);
        let mut cx = Context { now, counters: &mut self.counters, random: &mut self.random };
        let call = match refusal {
            Some(end) => Call::refuse(&mut cx, call_id.clone(), phone_number_id, end),
            None => {
                let session = NewSession {
                    call_id: call_id.clone(),
                    sdp_offer: sdp,
                    destination: None,
                    from,
                    to,
                    hold_media: true,
                    early_media: policy != AcceptPolicy::OnAnswer,
                    callback_url: self.config.callback_url.clone(),
                };
                // The name stays out of the line: it is a person's.
                let named = if from_name.is_some() { ", caller has a name" } else { "" };
                Call::arrive(&mut cx, phone_number_id, policy, session, format!("connect{named}"))
            }
        };
        self.counters.calls_begun += 1;
        let number = self.next_call;
        self.next_call += 1;
        self.by_call_id.insert(call_id, number);
        self.calls.insert(number, Entered { call, armed: Instant::NEVER });
        self.settle(now, number);
    }

    fn terminate(&mut self, now: Instant, terminate: &Terminate) {
        if let Some(number) = self.by_call_id.get(&terminate.call_id).copied() {
            self.with_call(now, number, |call, cx| call.handle_terminate(cx, terminate));
            return;
        }
        // It overtook its connect, or repeats: the id is remembered either way.
        self.counters.terminates_unmatched += 1;
        self.tombstones.insert(now, terminate.call_id.clone());
    }

    fn with_call<T>(
        &mut self,
        now: Instant,
        number: u64,
        change: impl FnOnce(&mut Call, &mut Context) -> T,
    ) -> Option<T> {
        let entered = self.calls.get_mut(&number)?;
        let mut cx = Context { now, counters: &mut self.counters, random: &mut self.random };
        let answer = change(&mut entered.call, &mut cx);
        self.settle(now, number);
        Some(answer)
    }

    /// Carries out what a call wants, sets its timer anew, and removes it when it is over.
    fn settle(&mut self, now: Instant, number: u64) {
        let Some(entered) = self.calls.get_mut(&number) else { return };
        let call = &mut entered.call;
        while let Some(act) = call.poll_act() {
            let request = |ticket: u8| number << TICKET_BITS | u64::from(ticket);
            self.outputs.push_back(match act {
                Act::Graph { ticket, action } => OrchestratorOutput::Graph(GraphRequest {
                    request: request(ticket),
                    phone_number_id: call.phone_number_id.clone(),
                    call_id: call.call_id.clone(),
                    action,
                }),
                Act::Edge { ticket, what } => OrchestratorOutput::Edge { request: request(ticket), what },
                Act::Timeline { step, detail } => {
                    OrchestratorOutput::Timeline(Entry { call_id: call.call_id.clone(), at: now, step, detail })
                }
            });
        }
        self.timers.remove(&(entered.armed, number));
        if entered.call.is_over() {
            let call_id = entered.call.call_id.clone();
            self.calls.remove(&number);
            self.by_call_id.remove(&call_id);
            self.tombstones.insert(now, call_id);
            self.counters.calls_ended += 1;
            return;
        }
        entered.armed = entered.call.deadline();
        if entered.armed != Instant::NEVER {
            self.timers.insert((entered.armed, number));
        }
    }
}

/// Call ids that are over, for a while.
#[derive(Default)]
struct Tombstones {
    ids: BTreeSet<String>,
    /// In the order of their expiry.
    order: VecDeque<(Instant, String)>,
}

impl Tombstones {
    fn insert(&mut self, now: Instant, call_id: String) {
        self.expire(now);
        if !self.ids.insert(call_id.clone()) {
            return;
        }
        self.order.push_back((now.plus_millis(limits::TOMBSTONE_MS), call_id));
        while self.order.len() > limits::TOMBSTONES_MAX {
            self.drop_oldest();
        }
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
