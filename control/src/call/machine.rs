//! One WhatsApp call, from `connect` to its end. Pure.
//!
//! ```text
//!  connect -> Opening --created--> Preparing --ready--> Accepting --200--> InCall
//!                |                     |                    |                |
//!                +---------------------+---- end, from any side, at any time-+--> Ending -> over
//! ```
//!
//! Two questions can be open at once, one to Graph and one to the edge, each with its own patience and its own tries. A new
//! question replaces the old one, whose late answer is then ignored; so no race needs a state of its own. There are two
//! exceptions, both because the outcome decides what has to be undone: while `accept` is out, the end of the call waits for its
//! outcome (`terminate` or `reject`?), and while `new` is out, the hang-up waits for the session's name.
//!
//! Why `accept` is not asked again after a timeout: Graph may have acted on it, and one call id gets one accept. The call is then
//! ended with `terminate`. A request that never reached Graph, or that Graph failed with a 5xx, is asked again.
//!
//! A goodbye is repeated until it is acknowledged, since WhatsApp bills a call that nobody ended. What a restart needs of a call
//! is its `record`; `restore` goes on with a call whose session may still live at an edge elsewhere, and ends any other.

use super::lease::{SessionName, SessionState};
use super::limits::*;
use super::orchestrator::OrchestratorCounters;
use super::{AcceptPolicy, EdgeError, EdgeEvent, EdgeEventKind, EdgeReply, EdgeRequest, NewSession, SessionCreated};
use crate::store::{Accepted, CallRecord, Stage};
use crate::trace::timeline::Step;
use crate::whatsapp::event::Terminate;
use crate::whatsapp::graph::{GraphAction, GraphError, GraphErrorKind, GraphFault};
use engine::random::Random;
use engine::time::Instant;
use std::collections::VecDeque;

/// What a call needs from its orchestrator at every input.
pub(super) struct Context<'o> {
    pub now: Instant,
    /// Unix time.
    pub wall_s: u64,
    pub counters: &'o mut OrchestratorCounters,
    pub random: &'o mut Random,
}

/// What a call wants done. `ticket` names the question within the call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Act {
    Graph {
        ticket: u8,
        action: GraphAction,
    },
    Edge {
        ticket: u8,
        what: EdgeRequest,
    },
    Timeline {
        step: Step,
        detail: String,
    },
    /// It is decided whether the call is accepted.
    Decided {
        accepted: bool,
    },
}

/// Why a call ended, and whose side it is counted against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CallEnd {
    /// `whatsapp`, `sip` or `tandem`.
    pub side: String,
    /// A stable word.
    pub cause: String,
    /// One sentence.
    pub detail: String,
}

impl CallEnd {
    pub fn new(side: &str, cause: &str, detail: impl Into<String>) -> CallEnd {
        CallEnd { side: side.to_owned(), cause: cause.to_owned(), detail: detail.into() }
    }

    /// As the timeline and the log write it.
    pub fn line(&self) -> String {
        match self.detail.is_empty() {
            true => format!("side={} cause={}", self.side, self.cause),
            false => format!("side={} cause={}: {}", self.side, self.cause, self.detail),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The edge is asked for a session.
    Opening,
    /// pre_accept, ICE, DTLS and the SIP side's ringing run side by side.
    Preparing,
    /// accept is out.
    Accepting,
    /// Accepted.
    InCall,
    /// It is decided that the call is over; goodbyes are under way.
    Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GraphAsk {
    PreAccept,
    Accept,
    Reject,
    Terminate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EdgeAsk {
    New,
    Release,
    Hangup,
    /// Which session has this call? After a restart that fell between `new` and its reply.
    Find,
}

/// What WhatsApp is told at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goodbye {
    /// Nothing any more: WhatsApp knows.
    Nothing,
    /// `reject` or `terminate`, as soon as it is known which.
    Owed,
}

/// One open question, its tries and its patience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question<A> {
    Idle,
    Asked { ask: A, ticket: u8, tries: u32, until: Instant },
    Paused { ask: A, tries: u32, until: Instant },
}

impl<A: Copy> Question<A> {
    fn deadline(&self) -> Instant {
        match self {
            Question::Idle => Instant::NEVER,
            Question::Asked { until, .. } | Question::Paused { until, .. } => *until,
        }
    }

    /// The ask that `ticket` belongs to, and how often it was tried.
    fn matching(&self, ticket: u8) -> Option<(A, u32)> {
        match self {
            Question::Asked { ask, ticket: open, tries, .. } if *open == ticket => Some((*ask, *tries)),
            _ => None,
        }
    }

    fn ask(&self) -> Option<A> {
        match self {
            Question::Idle => None,
            Question::Asked { ask, .. } | Question::Paused { ask, .. } => Some(*ask),
        }
    }

    fn is_idle(&self) -> bool {
        matches!(self, Question::Idle)
    }
}

/// One WhatsApp call.
pub(super) struct Call {
    pub call_id: String,
    /// Another call's, whose goodbye this is.
    timeline: Option<String>,
    pub phone_number_id: String,
    policy: AcceptPolicy,
    /// Kept until the edge has answered it for good.
    new_session: Option<Box<NewSession>>,
    /// When this process heard of it, its age then, and the Unix time at which it began.
    arrived: Instant,
    age_ms: u64,
    began_s: u64,
    phase: Phase,
    session: Option<String>,
    /// The same bytes go into pre_accept and accept.
    answer: String,
    session_over: bool,
    /// The number of the session's last event that came.
    heard: u32,
    pre_accepted: Option<Instant>,
    progressed: bool,
    answered: Option<Instant>,
    media_ready: bool,
    accepted: Accepted,
    goodbye: Goodbye,
    /// When the goodbye was first due.
    goodbye_since: Instant,
    /// Whether a goodbye may be repeated slowly, for long.
    pub may_linger: bool,
    graph: Question<GraphAsk>,
    edge: Question<EdgeAsk>,
    tickets: u8,
    acts: VecDeque<Act>,
}

impl Call {
    /// A call that begins: the edge is asked for a session.
    pub fn arrive(
        cx: &mut Context,
        phone_number_id: String,
        policy: AcceptPolicy,
        session: NewSession,
        detail: String,
    ) -> Call {
        let mut call = Call::bare(cx, session.call_id.clone(), phone_number_id, policy);
        call.new_session = Some(Box::new(session));
        call.note(Step::Webhook, detail);
        call.ask_edge(cx.now, EdgeAsk::New, 1);
        call
    }

    /// A call that is refused at once.
    pub fn refuse(cx: &mut Context, call_id: String, phone_number_id: String, end: CallEnd) -> Call {
        let mut call = Call::bare(cx, call_id, phone_number_id, AcceptPolicy::OnAnswer);
        call.note(Step::Webhook, "connect".to_owned());
        call.end(cx, end);
        call
    }

    /// A call of the program's last run. `at_edge`: its session may have outlived that run.
    pub fn restore(cx: &mut Context, call_id: String, record: CallRecord, at_edge: bool) -> Call {
        let mut call = Call::bare(cx, call_id, record.phone_number_id, record.policy);
        call.age_ms = cx.wall_s.saturating_sub(record.began_s).saturating_mul(1_000);
        call.began_s = record.began_s;
        call.accepted = record.accepted;
        call.session = Some(record.session).filter(|session| at_edge && !session.is_empty());
        call.answer = record.answer;
        let young = call.age_ms < ANSWER_MS_MAX;
        match record.stage {
            Stage::InCall if call.session.is_some() => {
                call.phase = Phase::InCall;
                call.pre_accepted = Some(cx.now);
                call.answered = Some(cx.now);
                call.media_ready = true;
                call.note(Step::Restart, "the call goes on at the edge".to_owned());
                // Nobody knows whether the last run came to it.
                call.ask_edge(cx.now, EdgeAsk::Release, 1);
            }
            Stage::Ringing if call.session.is_some() && young => {
                call.phase = Phase::Preparing;
                call.pre_accepted = Some(cx.now);
                call.note(Step::Restart, "the call is set up further".to_owned());
            }
            Stage::Ending => {
                call.note(Step::Restart, "the call was ending".to_owned());
                call.goodbye = if record.owes_goodbye { Goodbye::Owed } else { Goodbye::Nothing };
                call.begin_ending(cx.now, CallEnd::new("tandem", "restart", "the program was started again"));
                call.find_session(cx.now, at_edge);
                call.say_goodbye(cx.now);
            }
            Stage::Opening | Stage::Ringing | Stage::Accepting | Stage::InCall => {
                call.note(Step::Restart, "the call cannot go on".to_owned());
                call.end(cx, CallEnd::new("tandem", "restart", "the program was started again"));
                call.find_session(cx.now, at_edge);
            }
        }
        call
    }

    /// A call that the business placed and that WhatsApp must be told the end of; nothing else is left of it. What is worth a
    /// line goes into `timeline`, which has its own end.
    pub fn farewell(cx: &mut Context, call_id: String, phone_number_id: String, timeline: String) -> Call {
        let mut call = Call::bare(cx, call_id, phone_number_id, AcceptPolicy::default());
        (call.timeline, call.phase, call.accepted) = (Some(timeline), Phase::Ending, Accepted::Yes);
        (call.goodbye, call.goodbye_since) = (Goodbye::Owed, cx.now);
        call.say_goodbye(cx.now);
        call
    }

    /// Whose timeline its lines belong to.
    pub fn timeline(&self) -> &str {
        self.timeline.as_ref().unwrap_or(&self.call_id)
    }

    /// Whether it is nothing but a goodbye.
    pub fn is_farewell(&self) -> bool {
        self.timeline.is_some()
    }

    /// How far it is, for figures.
    pub fn state(&self) -> &'static str {
        match self.phase {
            Phase::Opening => "opening",
            Phase::Preparing => "preparing",
            Phase::Accepting => "accepting",
            Phase::InCall => "in_call",
            Phase::Ending => "ending",
        }
    }

    /// What a restart needs of this call.
    pub fn record(&self) -> CallRecord {
        let accept_is_out = self.graph.ask() == Some(GraphAsk::Accept);
        let stage = match self.phase {
            Phase::Opening => Stage::Opening,
            Phase::Preparing if self.pre_accepted.is_none() => Stage::Opening,
            Phase::Preparing => Stage::Ringing,
            Phase::Accepting => Stage::Accepting,
            Phase::InCall => Stage::InCall,
            Phase::Ending => Stage::Ending,
        };
        CallRecord {
            phone_number_id: self.phone_number_id.clone(),
            began_s: self.began_s,
            policy: self.policy,
            stage,
            accepted: if accept_is_out { self.accepted.max(Accepted::Maybe) } else { self.accepted },
            session: self.session.clone().filter(|_| !self.session_over).unwrap_or_default(),
            answer: if stage == Stage::Ringing { self.answer.clone() } else { String::new() },
            owes_goodbye: self.goodbye == Goodbye::Owed,
        }
    }

    /// The session that keepalives must name.
    pub fn session(&self) -> Option<&str> {
        self.session.as_deref().filter(|_| self.phase != Phase::Ending)
    }

    /// Whether only a goodbye is left, which is repeated slowly.
    pub fn lingers(&self) -> bool {
        let slow = match self.graph {
            Question::Asked { tries, .. } | Question::Paused { tries, .. } => tries >= GOODBYE_TRIES_MAX,
            Question::Idle => false,
        };
        self.phase == Phase::Ending && slow && self.edge.is_idle()
    }

    fn bare(cx: &Context, call_id: String, phone_number_id: String, policy: AcceptPolicy) -> Call {
        Call {
            call_id,
            timeline: None,
            phone_number_id,
            policy,
            new_session: None,
            arrived: cx.now,
            age_ms: 0,
            began_s: cx.wall_s,
            phase: Phase::Opening,
            session: None,
            answer: String::new(),
            session_over: false,
            heard: 0,
            pre_accepted: None,
            progressed: false,
            answered: None,
            media_ready: false,
            accepted: Accepted::No,
            goodbye: Goodbye::Nothing,
            goodbye_since: cx.now,
            may_linger: true,
            graph: Question::Idle,
            edge: Question::Idle,
            tickets: 0,
            acts: VecDeque::new(),
        }
    }

    /// WhatsApp says that the call is over: nothing has to be said to Graph any more.
    pub fn handle_terminate(&mut self, cx: &mut Context, terminate: &Terminate) {
        self.goodbye = Goodbye::Nothing;
        if self.phase == Phase::Ending {
            self.graph = Question::Idle;
            return;
        }
        let end = match &terminate.error {
            Some((code, text)) => CallEnd::new("whatsapp", &format!("failed_{code}"), text.clone()),
            None if terminate.status.as_deref() == Some("FAILED") => CallEnd::new("whatsapp", "failed", ""),
            None => CallEnd::new("whatsapp", "hangup", "WhatsApp ended the call"),
        };
        self.begin_ending(cx.now, end);
        self.graph = Question::Idle;
    }

    /// The outcome of a question to Graph.
    pub fn handle_graph(&mut self, cx: &mut Context, ticket: u8, result: Result<(), GraphError>) {
        let Some((ask, tries)) = self.graph.matching(ticket) else { return };
        self.graph = Question::Idle;
        match ask {
            GraphAsk::PreAccept => self.pre_accept_done(cx, tries, result),
            GraphAsk::Accept => self.accept_done(cx, tries, result),
            GraphAsk::Reject | GraphAsk::Terminate => self.goodbye_done(cx, ask, tries, result),
        }
    }

    /// The outcome of a question to the edge.
    pub fn handle_edge_reply(&mut self, cx: &mut Context, ticket: u8, result: Result<EdgeReply, EdgeError>) {
        let Some((ask, tries)) = self.edge.matching(ticket) else { return };
        self.edge = Question::Idle;
        match (ask, result) {
            (EdgeAsk::New, Ok(EdgeReply::Created(created))) => self.created(cx, created),
            (EdgeAsk::Find, Ok(EdgeReply::States(states))) => self.found(cx.now, states),
            (EdgeAsk::New, Ok(EdgeReply::Done | EdgeReply::States(_))) => {
                self.end(cx, CallEnd::new("tandem", "edge_protocol", "the edge's answer to new holds no session"));
            }
            (EdgeAsk::Release, Ok(_)) => self.note(Step::Release, "held media is released".to_owned()),
            (EdgeAsk::Hangup | EdgeAsk::Find, Ok(_)) => self.session_over = true,
            // Status 0: no connection or no reply, which says nothing about the request; all three are idempotent. A busy edge
            // still has the session that it was asked about; where there is none yet, a quick refusal is the better answer.
            (ask, Err(error))
                if (error.status == 0 || error.status == 503 && ask != EdgeAsk::New) && tries < EDGE_TRIES_MAX =>
            {
                let until = cx.now.plus_millis(EDGE_BACKOFF_MS << (tries - 1));
                self.edge = Question::Paused { ask, tries, until };
            }
            (EdgeAsk::New, Err(error)) => {
                let side = if matches!(error.status, 400 | 413 | 422) { "whatsapp" } else { "tandem" };
                self.new_session = None;
                self.end(cx, CallEnd::new(side, &format!("edge_{}", error.code), error.message));
            }
            (EdgeAsk::Release, Err(error)) => {
                self.end(cx, CallEnd::new("tandem", "release_failed", error.message));
            }
            // Nothing more can be done from here; the edge ends a session without keepalives by itself.
            (EdgeAsk::Hangup | EdgeAsk::Find, Err(_)) => self.session_over = true,
        }
    }

    /// Takes one event of the edge. Answers whether it belongs to this call's session.
    pub fn handle_edge_event(&mut self, cx: &mut Context, event: EdgeEvent) -> bool {
        if self.session.as_ref().is_some_and(|session| *session != event.edge_session_id) {
            return false;
        }
        if event.sequence != 0 && event.sequence <= self.heard {
            cx.counters.edge_events_repeated += 1;
            return true;
        }
        self.heard = self.heard.max(event.sequence);
        match event.kind {
            EdgeEventKind::MediaReady => self.media_ready = true,
            EdgeEventKind::Ringing { early_media, .. } => self.progressed |= early_media,
            EdgeEventKind::Answered => {
                self.answered.get_or_insert(cx.now);
            }
            EdgeEventKind::Ended { side, cause, detail } => {
                self.session_over = true;
                self.edge = Question::Idle;
                self.new_session = None;
                self.end(cx, CallEnd { side, cause, detail });
            }
        }
        self.accept_when_ready(cx.now);
        true
    }

    /// Takes what a keepalive said about this call's session. Answers whether it belongs to it.
    pub fn handle_state(&mut self, cx: &mut Context, state: SessionState) -> bool {
        if self.session().is_none_or(|session| session != state.edge_session_id) {
            return false;
        }
        let mut kinds = state.facts.events();
        if !state.known {
            let detail = "the edge does not know the session any more: was it started again?".to_owned();
            kinds = vec![EdgeEventKind::Ended { side: "tandem".into(), cause: "edge_lost".into(), detail }];
        }
        for kind in kinds {
            let (edge_session_id, call_id) = (state.edge_session_id.clone(), state.call_id.clone());
            self.handle_edge_event(cx, EdgeEvent { edge_session_id, call_id, sequence: 0, kind });
        }
        self.heard = self.heard.max(state.facts.sequence);
        self.accept_when_ready(cx.now);
        true
    }

    /// Ends the call from our side. Later ends of the same call change nothing.
    pub fn end(&mut self, cx: &mut Context, end: CallEnd) {
        if self.phase == Phase::Ending {
            return;
        }
        let accept_is_out = matches!(self.graph, Question::Asked { ask: GraphAsk::Accept, .. });
        self.goodbye = Goodbye::Owed;
        self.goodbye_since = cx.now;
        self.begin_ending(cx.now, end);
        if !accept_is_out {
            self.say_goodbye(cx.now);
        }
    }

    /// Call when `deadline` has come.
    pub fn handle_timeout(&mut self, cx: &mut Context) {
        match self.graph {
            Question::Asked { ticket, until, .. } if cx.now >= until => {
                let lost = GraphError { kind: GraphErrorKind::Timeout, ..GraphError::default() };
                self.handle_graph(cx, ticket, Err(lost));
            }
            Question::Paused { ask, tries, until } if cx.now >= until => {
                cx.counters.graph_retries += 1;
                self.ask_graph(cx.now, ask, tries + 1);
            }
            _ => {}
        }
        match self.edge {
            Question::Asked { ticket, until, .. } if cx.now >= until => {
                self.handle_edge_reply(cx, ticket, Err(EdgeError::lost("timeout", "the edge did not reply in time")));
            }
            Question::Paused { ask, tries, until } if cx.now >= until => self.ask_edge(cx.now, ask, tries + 1),
            _ => {}
        }
        if cx.now >= self.answer_deadline() {
            self.end(cx, CallEnd::new("sip", "no_answer", "the SIP side did not answer in time"));
        } else if cx.now >= self.media_deadline() {
            self.end(cx, CallEnd::new("whatsapp", "media_timeout", "ICE and DTLS were not up in time"));
        }
    }

    /// When `handle_timeout` is to be called.
    pub fn deadline(&self) -> Instant {
        let live = self.answer_deadline().min(self.media_deadline());
        live.min(self.graph.deadline()).min(self.edge.deadline())
    }

    /// What is to be done next.
    pub fn poll_act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    /// Whether it is accepted and goes on.
    pub fn is_in_call(&self) -> bool {
        self.phase == Phase::InCall
    }

    /// Whether it is known whether the call is accepted.
    pub fn is_decided(&self) -> bool {
        matches!(self.phase, Phase::InCall | Phase::Ending)
    }

    /// Whether nothing is left to do.
    pub fn is_over(&self) -> bool {
        self.is_over_but_for_acts() && self.acts.is_empty()
    }

    /// The same, while `poll_act` still has something to tell.
    pub fn is_over_but_for_acts(&self) -> bool {
        self.phase == Phase::Ending
            && self.graph.is_idle()
            && self.edge.is_idle()
            && (self.session.is_none() || self.session_over)
    }

    fn created(&mut self, cx: &mut Context, created: SessionCreated) {
        self.session = Some(created.edge_session_id);
        self.answer = created.sdp_answer;
        self.new_session = None;
        if self.phase == Phase::Ending {
            self.hang_up_edge(cx.now);
            return;
        }
        self.phase = Phase::Preparing;
        self.ask_graph(cx.now, GraphAsk::PreAccept, 1);
    }

    fn pre_accept_done(&mut self, cx: &mut Context, tries: u32, result: Result<(), GraphError>) {
        match result {
            Ok(()) => {
                self.pre_accepted = Some(cx.now);
                self.note(Step::PreAccept, "200".to_owned());
            }
            // DTLS is up: WhatsApp has taken the answer, whatever became of the reply.
            Err(_) if self.media_ready && self.policy != AcceptPolicy::Immediate => {
                self.pre_accepted = Some(cx.now);
                self.note(Step::PreAccept, "no reply, but media is up".to_owned());
            }
            Err(error) if self.may_retry(cx.now, &error, tries) => {
                return self.pause_graph(cx, GraphAsk::PreAccept, tries);
            }
            Err(error) => {
                cx.counters.graph_failures += 1;
                self.note(Step::PreAccept, format!("failed: {error}"));
                return self.end(cx, CallEnd::new(error.side(), "pre_accept_failed", error.to_string()));
            }
        }
        self.accept_when_ready(cx.now);
    }

    fn accept_done(&mut self, cx: &mut Context, tries: u32, result: Result<(), GraphError>) {
        if let Err(error) = &result
            && error.may_have_acted()
        {
            self.accepted = self.accepted.max(Accepted::Maybe);
        }
        match result {
            Ok(()) => {
                self.accepted = Accepted::Yes;
                cx.counters.calls_accepted += 1;
                self.acts.push_back(Act::Decided { accepted: true });
                self.note(Step::Accept, "200".to_owned());
                if self.phase == Phase::Ending {
                    return self.say_goodbye(cx.now);
                }
                self.phase = Phase::InCall;
                self.answer = String::new(); // it has said what it had to
                self.ask_edge(cx.now, EdgeAsk::Release, 1);
            }
            Err(_) if self.phase == Phase::Ending => self.say_goodbye(cx.now),
            Err(error) if error.kind != GraphErrorKind::Timeout && self.may_retry(cx.now, &error, tries) => {
                self.pause_graph(cx, GraphAsk::Accept, tries);
            }
            Err(error) => {
                cx.counters.graph_failures += 1;
                self.note(Step::Accept, format!("failed: {error}"));
                self.end(cx, CallEnd::new(error.side(), "accept_failed", error.to_string()));
            }
        }
    }

    fn goodbye_done(&mut self, cx: &mut Context, ask: GraphAsk, tries: u32, result: Result<(), GraphError>) {
        match result {
            Ok(()) => {}
            // An operator's mistake may be put right while we wait.
            Err(error) if error.fault() != GraphFault::Final && self.may_repeat_goodbye(cx.now, tries) => {
                if tries == GOODBYE_TRIES_MAX {
                    self.note(Step::Goodbye, format!("not acknowledged yet, repeated for a while: {error}"));
                }
                return self.pause_graph(cx, ask, tries);
            }
            // The accept was lost, it seems, and the call still rings.
            Err(_) if ask == GraphAsk::Terminate && self.accepted == Accepted::Maybe => {
                self.accepted = Accepted::No;
                return self.ask_graph(cx.now, GraphAsk::Reject, 1);
            }
            Err(error) => {
                // A 4xx for a call that WhatsApp has ended meanwhile is harmless.
                let lost = error.fault() != GraphFault::Final;
                cx.counters.graph_failures += u64::from(lost);
                cx.counters.goodbyes_lost += u64::from(lost);
                if lost {
                    self.note(Step::Goodbye, format!("given up: {error}"));
                }
            }
        }
        self.goodbye = Goodbye::Nothing;
    }

    fn may_repeat_goodbye(&self, now: Instant, tries: u32) -> bool {
        tries < GOODBYE_TRIES_MAX || self.may_linger && now < self.goodbye_since.plus_millis(GOODBYE_MS_MAX)
    }

    /// What `Find` found.
    fn found(&mut self, now: Instant, states: Vec<SessionState>) {
        match states.into_iter().next().filter(|state| state.known && state.facts.ended.is_none()) {
            Some(state) => {
                self.session = Some(state.edge_session_id);
                self.hang_up_edge(now);
            }
            None => self.session_over = true,
        }
    }

    /// After a restart: a session may exist although its name was not learned.
    fn find_session(&mut self, now: Instant, at_edge: bool) {
        if at_edge && self.session.is_none() {
            self.ask_edge(now, EdgeAsk::Find, 1);
        }
    }

    /// Asks for `accept` once everything that the policy waits for is there.
    fn accept_when_ready(&mut self, now: Instant) {
        let pre_accept_is_out = matches!(self.graph, Question::Asked { ask: GraphAsk::PreAccept, .. });
        let prepared = self.pre_accepted.is_some() || (self.media_ready && !pre_accept_is_out);
        let far_side = match self.policy {
            AcceptPolicy::OnAnswer => self.media_ready && self.answered.is_some(),
            AcceptPolicy::OnProgress => self.media_ready && (self.answered.is_some() || self.progressed),
            AcceptPolicy::Immediate => true,
        };
        if self.phase == Phase::Preparing && prepared && far_side {
            self.phase = Phase::Accepting;
            self.ask_graph(now, GraphAsk::Accept, 1);
        }
    }

    fn begin_ending(&mut self, now: Instant, end: CallEnd) {
        if self.accepted != Accepted::Yes {
            self.acts.push_back(Act::Decided { accepted: false });
        }
        self.phase = Phase::Ending;
        self.note(Step::End, end.line());
        match self.edge.ask() {
            Some(EdgeAsk::New) => {} // the session's name is not known yet
            _ => self.hang_up_edge(now),
        }
    }

    fn hang_up_edge(&mut self, now: Instant) {
        if self.session.is_some() && !self.session_over {
            self.ask_edge(now, EdgeAsk::Hangup, 1);
        } else {
            self.edge = Question::Idle;
        }
    }

    fn say_goodbye(&mut self, now: Instant) {
        if self.goodbye == Goodbye::Nothing {
            return;
        }
        let ask = if self.accepted == Accepted::No { GraphAsk::Reject } else { GraphAsk::Terminate };
        self.ask_graph(now, ask, 1);
    }

    fn may_retry(&self, now: Instant, error: &GraphError, tries: u32) -> bool {
        error.fault() == GraphFault::Retry
            && tries < GRAPH_TRIES_MAX
            && now < self.after_arrival(ACCEPT_MS_MAX)
            && self.phase != Phase::Ending
    }

    fn pause_graph(&mut self, cx: &mut Context, ask: GraphAsk, tries: u32) {
        let longest = if tries < GOODBYE_TRIES_MAX { GRAPH_BACKOFF_MS_MAX } else { GOODBYE_BACKOFF_MS_MAX };
        let pause = (GRAPH_BACKOFF_MS << (tries - 1).min(16)).min(longest);
        let jitter = u64::from(cx.random.below(pause as u32 / 4 + 1));
        self.graph = Question::Paused { ask, tries, until: cx.now.plus_millis(pause + jitter) };
    }

    fn ask_graph(&mut self, now: Instant, ask: GraphAsk, tries: u32) {
        let ticket = self.next_ticket();
        self.graph = Question::Asked { ask, ticket, tries, until: now.plus_millis(GRAPH_MS_MAX) };
        let action = match ask {
            GraphAsk::PreAccept => GraphAction::PreAccept { sdp: self.answer.clone() },
            GraphAsk::Accept => GraphAction::Accept { sdp: self.answer.clone() },
            GraphAsk::Reject => GraphAction::Reject,
            GraphAsk::Terminate => GraphAction::Terminate,
        };
        self.acts.push_back(Act::Graph { ticket, action });
    }

    fn ask_edge(&mut self, now: Instant, ask: EdgeAsk, tries: u32) {
        let edge_session_id = self.session.clone().unwrap_or_default();
        let what = match (ask, &self.new_session) {
            (EdgeAsk::New, Some(session)) => EdgeRequest::New(session.clone()),
            (EdgeAsk::New, None) => return self.edge = Question::Idle,
            (EdgeAsk::Release, _) => EdgeRequest::Release { edge_session_id },
            (EdgeAsk::Hangup, _) => EdgeRequest::Hangup { edge_session_id },
            (EdgeAsk::Find, _) => {
                let call_id = self.call_id.clone();
                EdgeRequest::Keepalive { sessions: vec![SessionName { call_id, edge_session_id }] }
            }
        };
        let ticket = self.next_ticket();
        self.edge = Question::Asked { ask, ticket, tries, until: now.plus_millis(EDGE_MS_MAX) };
        self.acts.push_back(Act::Edge { ticket, what });
    }

    /// A ticket comes again after 256 questions, which is long after the last try of the first of them has timed out.
    fn next_ticket(&mut self) -> u8 {
        self.tickets = self.tickets.wrapping_add(1);
        self.tickets
    }

    fn after_arrival(&self, millis: u64) -> Instant {
        self.arrived.plus_millis(millis.saturating_sub(self.age_ms))
    }

    fn answer_deadline(&self) -> Instant {
        match self.answered {
            None if self.phase != Phase::Ending => self.after_arrival(ANSWER_MS_MAX),
            _ => Instant::NEVER,
        }
    }

    /// Media must be up soon after it is needed: after the far side's answer and pre_accept, whichever is later.
    fn media_deadline(&self) -> Instant {
        if self.media_ready || self.phase == Phase::Ending {
            return Instant::NEVER;
        }
        let needed = match self.policy {
            AcceptPolicy::OnAnswer | AcceptPolicy::OnProgress => self.answered,
            AcceptPolicy::Immediate => self.pre_accepted,
        };
        match (needed, self.pre_accepted) {
            (Some(needed), Some(possible)) => needed.max(possible).plus_millis(MEDIA_READY_MS_MAX),
            _ => Instant::NEVER,
        }
    }

    fn note(&mut self, step: Step, detail: String) {
        self.acts.push_back(Act::Timeline { step, detail });
    }
}
