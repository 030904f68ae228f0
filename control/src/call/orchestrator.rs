//! The orchestrator: every WhatsApp call of this process, from `connect` to its end. Pure: webhooks, replies and `now` in;
//! Graph requests, edge requests and the next deadline out.

use super::{AcceptPolicy, EdgeError, EdgeEvent, EdgeReply, EdgeRequest, limits};
use crate::trace::timeline::Entry;
use crate::whatsapp::event::WebhookEvent;
use crate::whatsapp::graph::{GraphError, GraphRequest};
use engine::random::Random;
use engine::time::Instant;
use std::collections::BTreeMap;

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
pub struct Orchestrator {}

impl Orchestrator {
    /// An orchestrator without calls.
    pub fn new(_config: OrchestratorConfig, _random: Random) -> Orchestrator {
        todo!()
    }

    /// Takes the events of one webhook in their order. `wall_seconds` is Unix time, for the age of a `connect`.
    pub fn handle_webhook(&mut self, _now: Instant, _wall_seconds: u64, _events: Vec<WebhookEvent>) {
        todo!()
    }

    /// The outcome of a `Graph` output. Unknown numbers are ignored: their call has ended or gave up waiting.
    pub fn handle_graph(&mut self, _now: Instant, _request: u64, _result: Result<(), GraphError>) {
        todo!()
    }

    /// The outcome of an `Edge` output. Unknown numbers are ignored.
    pub fn handle_edge_reply(&mut self, _now: Instant, _request: u64, _result: Result<EdgeReply, EdgeError>) {
        todo!()
    }

    /// Takes one event of an edge.
    pub fn handle_edge_event(&mut self, _now: Instant, _event: EdgeEvent) {
        todo!()
    }

    /// Ends every call; new ones are rejected. For a program that stops.
    pub fn shut_down(&mut self, _now: Instant) {
        todo!()
    }

    /// Rejects new calls from now on; live ones go on.
    pub fn drain(&mut self) {
        todo!()
    }

    /// Call when the instant of the last `Timeout` has come.
    pub fn handle_timeout(&mut self, _now: Instant) {
        todo!()
    }

    /// Call until `Timeout`.
    pub fn poll_output(&mut self, _now: Instant) -> OrchestratorOutput {
        todo!()
    }

    /// Calls that are not over; zero when nothing is left behind (remembered ids of ended calls do not count).
    pub fn alive(&self) -> usize {
        todo!()
    }

    /// What was counted so far.
    pub fn counters(&self) -> OrchestratorCounters {
        todo!()
    }
}
