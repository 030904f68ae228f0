//! The one task that owns every call: it feeds the two pure machines and carries out what they want.
//!
//! ```text
//!  HTTP handlers --Input--> [ Runtime: Orchestrator <-> Edge ] --> Graph, remote edge, callbacks (one task per request)
//!        SIP socket ------> [             |                  ] --> SIP socket
//!        engine events ---> [        Timeline                ] --> engine commands
//! ```
//!
//! Why one task and no locks: every decision about a call is made in one place and in one order, which is the order that the
//! simulator replays. Nothing in here waits for a network; whatever does runs in a task of its own and reports back as an `Input`.

mod withheld;

use crate::call::edge::{Edge, EdgeAlive, EdgeCounters, EdgeOutput, GateFigures, NewCall, TrunkFigures};
use crate::call::orchestrator::{Orchestrator, OrchestratorCounters, OrchestratorOutput};
use crate::call::outbound::{DialEvent, DialEventKind, DialRequest};
use crate::call::{EdgeError, EdgeEvent, EdgeReply, EdgeRequest, limits};
use crate::config::TraceSettings;
use crate::engine_link::EngineLink;
use crate::figures::Observed;
use crate::http::edge_client::{CallbackClient, EdgeClient};
use crate::sip::SipEnd;
use crate::sip::locate::{Question, Records};
use crate::sip::transport::Hop;
use crate::sip_io::resolver::Resolver;
use crate::sip_io::{Heard, SipIo, SipIoCounters};
use crate::store::{Change, Remembered, Store, StoreFigures};
use crate::trace::board::{self, Board};
use crate::trace::cdr;
use crate::trace::redact::CallTag;
use crate::trace::scrub::scrub;
use crate::trace::timeline::{Entry, Page, Step, Timeline};
use crate::whatsapp::event::{Connect, WebhookEvent};
use crate::whatsapp::graph::{ConnectRequest, GraphAction, GraphError, GraphRequest};
use crate::whatsapp::graph_client::GraphClients;
use engine::bridge::BridgeEvent;
use engine::io::clock;
use engine::metrics::Metrics;
use engine::time::Instant;
use engine::worker::Event;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use withheld::{Withheld, makes_a_call};

/// Inputs waiting for the runtime. Past it HTTP requests are answered 503, and tasks that report back wait.
pub const INPUTS_MAX: usize = 8_192;

/// Inputs, datagrams or events taken in one turn before the others are looked at again.
const TURN_MAX: usize = 256;

/// Seconds from 1900 to 1970 (RFC 5905 §6).
pub const NTP_UNIX_OFFSET_S: u64 = 2_208_988_800;

/// Longest sleep, so that a deadline that never comes still is a timer that tokio can hold.
const SLEEP_MAX: Duration = Duration::from_secs(3_600);

/// Time that SIP has for repeating the last BYE before the program stops; its transactions would live for 32 s.
const LINGER_MS_MAX: u64 = 2_000;

/// Time that an accept waits for the store.
const STORE_TIME_MAX: Duration = Duration::from_millis(limits::STORE_MS_MAX);

/// Senders of one `connect` that wait for its outcome; a further one learns nothing.
const WAITERS_MAX: usize = 8;

/// What reaches the runtime.
pub enum Input {
    /// Events of a webhook, already acknowledged.
    Webhook(Vec<WebhookEvent>),
    /// A `connect` whose sender waits until the call is accepted or over.
    ConnectAndWait {
        /// What.
        connect: Box<Connect>,
        /// Whether it was accepted; dropped when nobody can tell.
        reply: oneshot::Sender<bool>,
    },
    /// The outcome of a Graph request.
    Graph {
        /// Which.
        request: u64,
        /// Graph's name of it.
        action: &'static str,
        /// How long it took.
        took: Duration,
        /// What.
        result: Result<(), GraphError>,
    },
    /// The outcome of a `connect`: WhatsApp's id of the call.
    Connected {
        /// Which.
        request: u64,
        /// How long it took.
        took: Duration,
        /// What.
        result: Result<String, GraphError>,
    },
    /// The outcome of a request to a remote edge.
    EdgeReply {
        /// Which.
        request: u64,
        /// What.
        result: Result<EdgeReply, EdgeError>,
    },
    /// A remote edge's callback.
    EdgeEvent(EdgeEvent),
    /// A request of our edge API.
    EdgeRequest {
        /// What.
        what: EdgeRequest,
        /// Where the outcome goes.
        reply: oneshot::Sender<Result<EdgeReply, EdgeError>>,
    },
    /// A program wants a user of WhatsApp called.
    Originate {
        /// Who, and for whom.
        new: Box<NewCall>,
        /// Where the call's id goes.
        reply: oneshot::Sender<Result<String, EdgeError>>,
    },
    /// A program ends such a call.
    HangUp {
        /// Which.
        call_id: String,
        /// Whether there is one of that id.
        reply: oneshot::Sender<bool>,
    },
    /// A name was looked up.
    Resolved {
        /// Which question.
        query: u64,
        /// What the DNS said.
        records: Records,
    },
    /// Somebody wants to see a call's timeline.
    Timeline {
        /// Which call.
        call_id: String,
        /// From which entry on.
        since: u64,
        /// Where the answer goes.
        reply: oneshot::Sender<Option<Page>>,
    },
    /// Somebody looks at calls and their messages.
    Board {
        /// What is asked.
        question: board::Question,
        /// Where the answer goes.
        reply: oneshot::Sender<board::Answer>,
    },
    /// Somebody wants the figures.
    Figures(oneshot::Sender<Figures>),
    /// Take no new calls; stop when the last one is over.
    Drain,
    /// End all calls, then stop.
    Stop,
}

/// A snapshot of everything that is counted.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Calls that are not over, and what was counted; `None` where no orchestrator runs.
    pub orchestrator: Option<(usize, OrchestratorCounters)>,
    /// The same of the edge.
    pub edge: Option<(EdgeAlive, EdgeCounters)>,
    /// Trunks, in the order of the configuration.
    pub trunks: Vec<TrunkFigures>,
    /// Whether the SIP target answers OPTIONS, if it is asked.
    pub target_alive: Option<bool>,
    /// Who is registered.
    pub registered: GateFigures,
    /// Of calls over time.
    pub observed: Observed,
    /// Call detail records that were lost.
    pub records_lost: u64,
    /// Per worker.
    pub engine: Vec<Metrics>,
    /// Calls whose timeline is remembered, and entries that found no room.
    pub timeline: (usize, u64),
    /// The SIP sockets.
    pub sip: SipIoCounters,
    /// What the store counts; `None`: nothing survives a restart.
    pub store: Option<StoreFigures>,
}

/// An edge in this process, with what it needs of the world.
pub struct LocalEdge {
    /// The machine.
    pub edge: Edge,
    /// The SIP side.
    pub sip: SipIo,
    /// For the names of SIP.
    pub resolver: Resolver,
    /// The media side.
    pub engine: EngineLink,
}

/// An orchestrator, with what it needs of the world.
pub struct LocalOrchestrator {
    /// The machine.
    pub orchestrator: Orchestrator,
    /// The way to WhatsApp.
    pub graph: GraphClients,
    /// The edge elsewhere, unless it is in this process.
    pub remote: Option<EdgeClient>,
}

/// The task's state.
pub struct Runtime {
    orchestrator: Option<LocalOrchestrator>,
    edge: Option<LocalEdge>,
    callbacks: CallbackClient,
    timeline: Timeline,
    observed: Observed,
    /// Where call detail records go.
    records: Option<cdr::Writer>,
    board: Board,
    /// For copies of messages to a collector.
    collector: Option<std::net::UdpSocket>,
    memory: Option<Memory>,
    /// Ends of calls whose media figures are still to come: the end is the last line.
    ends: BTreeMap<String, Entry>,
    /// Who waits until a call is accepted or over.
    waiting: BTreeMap<String, Vec<oneshot::Sender<bool>>>,
    inputs: mpsc::Receiver<Input>,
    back: mpsc::Sender<Input>,
    /// Requests to the local edge that are not answered yet, and who asked.
    origins: BTreeMap<u64, Origin>,
    next_request: u64,
    draining: bool,
}

/// The store, and how far it is.
struct Memory {
    store: Box<dyn Store>,
    written: watch::Receiver<u64>,
    /// The number of the last change.
    last: u64,
    /// The number of the last change of a SIP call, and what waits for such a change.
    last_dialog: u64,
    withheld: Withheld,
}

enum Origin {
    Orchestrator(u64),
    Http(oneshot::Sender<Result<EdgeReply, EdgeError>>),
}

impl Runtime {
    /// A runtime, and the way to reach it.
    pub fn new(
        orchestrator: Option<LocalOrchestrator>,
        edge: Option<LocalEdge>,
        callbacks: CallbackClient,
    ) -> (Runtime, mpsc::Sender<Input>) {
        let (back, inputs) = mpsc::channel(INPUTS_MAX);
        let sender = back.clone();
        let runtime = Runtime {
            orchestrator,
            edge,
            callbacks,
            timeline: Timeline::new(),
            observed: Observed::default(),
            records: None,
            board: Board::new(TraceSettings::default(), SocketAddr::from(([127, 0, 0, 1], 0))),
            collector: None,
            memory: None,
            ends: BTreeMap::new(),
            waiting: BTreeMap::new(),
            inputs,
            back,
            origins: BTreeMap::new(),
            next_request: 1,
            draining: false,
        };
        (runtime, sender)
    }

    /// Goes on where the last run was cut, and remembers in `store` from now on. Call before `run`.
    pub fn restore(&mut self, store: Box<dyn Store>, mut remembered: Remembered) {
        let now = clock::now();
        let dialogs = std::mem::take(&mut remembered.dialogs);
        if let Some(local) = &mut self.orchestrator {
            local.orchestrator.restore(now, wall_seconds(now), remembered);
        }
        if let Some(local) = &mut self.edge {
            local.edge.restore(now, dialogs);
        }
        let written = store.written();
        self.memory = Some(Memory { written, store, last: 0, last_dialog: 0, withheld: Withheld::default() });
    }

    /// Appends a record of every call to `writer`'s file from now on.
    pub fn keep_records(&mut self, writer: cdr::Writer) {
        self.records = Some(writer);
    }

    /// Shows SIP messages on `board`, and sends the copies that it makes through `collector`, a connected socket that never blocks.
    pub fn show(&mut self, board: Board, collector: Option<std::net::UdpSocket>) {
        (self.board, self.collector) = (board, collector);
        let tracing = self.board.wants_messages();
        if let Some(local) = &mut self.edge {
            local.edge.set_tracing(tracing);
        }
    }

    /// Runs until it was told to drain or stop and nothing is left. Answers the engine, for its stop.
    pub async fn run(mut self) -> Option<EngineLink> {
        let mut stop_at = Instant::NEVER;
        loop {
            let now = clock::now();
            let due = self.settle(now);
            if self.draining && self.is_idle() {
                stop_at = stop_at.min(now.plus_millis(LINGER_MS_MAX));
                if now >= stop_at || self.is_silent() {
                    return self.edge.map(|edge| edge.engine);
                }
            } else {
                stop_at = Instant::NEVER; // a call that is being refused has come between
            }
            self.wait(due.min(stop_at)).await;
            let now = clock::now();
            self.take_engine_events(now);
            self.take_sip(now);
            for _ in 0..TURN_MAX {
                let Ok(input) = self.inputs.try_recv() else { break };
                self.take_input(now, input);
            }
            // Not earlier: whatever moved a deadline is settled first.
            if now >= due {
                self.handle_timeout(now);
            }
        }
    }

    /// Waits for whatever comes first; takes only an input, since that is gone once received.
    async fn wait(&mut self, due: Instant) {
        let sleep = tokio::time::sleep(due.since(clock::now()).min(SLEEP_MAX));
        let waits = self.memory.as_ref().filter(|memory| !memory.withheld.is_empty());
        let written = waits.map(|memory| memory.written.clone());
        let stored = async move {
            if let Some(mut written) = written
                && written.changed().await.is_ok()
            {
                return;
            }
            // Nothing waits, or the writer is gone: then its time runs out.
            std::future::pending().await
        };
        let received = match &mut self.edge {
            Some(edge) => tokio::select! {
                input = self.inputs.recv() => input,
                () = edge.engine.woken() => None,
                () = edge.sip.readable() => None,
                () = stored => None,
                () = sleep => None,
            },
            None => tokio::select! {
                input = self.inputs.recv() => input,
                () = sleep => None,
            },
        };
        if let Some(input) = received {
            self.take_input(clock::now(), input);
        }
    }

    fn take_engine_events(&mut self, now: Instant) {
        let Some(edge) = &mut self.edge else { return };
        for worker in 0..edge.engine.workers() {
            while let Some(event) = edge.engine.poll_event(worker) {
                if let Event::Bridge { bridge, event: BridgeEvent::Ended { stats, .. } } = &event
                    && let Some(peers) = edge.edge.peers(*bridge)
                {
                    self.observed.media(stats, peers);
                }
                edge.edge.handle_engine(now, worker, event);
            }
        }
    }

    fn take_sip(&mut self, now: Instant) {
        let Some(LocalEdge { edge, sip, .. }) = &mut self.edge else { return };
        sip.receive(|heard| match heard {
            Heard::Message { hop, peer, bytes } => edge.handle_sip_message(now, &hop, &peer, &bytes),
            Heard::Lost { hop, failed } => edge.sip_lost(now, &hop, failed),
            Heard::Opened(_) => {}
        });
    }

    fn take_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Webhook(events) => {
                if let Some(local) = &mut self.orchestrator {
                    local.orchestrator.handle_webhook(now, wall_seconds(now), events);
                }
            }
            Input::ConnectAndWait { connect, reply } => self.connect_and_wait(now, *connect, reply),
            Input::Graph { request, action, took, result } => {
                self.observed.graph(action, took);
                if let Some(local) = &mut self.orchestrator {
                    local.orchestrator.handle_graph(now, request, result);
                }
            }
            Input::Connected { request, took, result } => {
                self.observed.graph("connect", took);
                if let Some(local) = &mut self.orchestrator {
                    local.orchestrator.handle_connected(now, request, result);
                }
            }
            Input::EdgeReply { request, result } => {
                if let Some(local) = &mut self.orchestrator {
                    local.orchestrator.handle_edge_reply(now, request, result);
                }
            }
            Input::EdgeEvent(event) => {
                if let Some(local) = &mut self.orchestrator {
                    local.orchestrator.handle_edge_event(now, event);
                }
            }
            Input::EdgeRequest { what, reply } => self.ask_local_edge(now, Origin::Http(reply), what),
            Input::Originate { new, reply } => {
                let no_edge = || Err(EdgeError::busy(503, "no_edge", "no edge runs here"));
                drop(reply.send(self.edge.as_mut().map_or_else(no_edge, |local| local.edge.originate(now, *new))));
            }
            Input::HangUp { call_id, reply } => {
                let _ = reply.send(self.edge.as_mut().is_some_and(|local| local.edge.hang_up(now, &call_id)));
            }
            Input::Resolved { query, records } => {
                if let Some(edge) = &mut self.edge {
                    edge.edge.resolved(now, query, &records);
                }
            }
            // Whoever asked may have gone away meanwhile.
            Input::Timeline { call_id, since, reply } => drop(reply.send(self.timeline.page(&call_id, since))),
            Input::Board { question, reply } => {
                let answer = self.board.answer(now, &self.timeline, &question);
                drop(reply.send(answer));
            }
            Input::Figures(reply) => drop(reply.send(self.figures())),
            Input::Drain => self.drain(),
            Input::Stop => self.stop(now),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Some(local) = &mut self.orchestrator {
            local.orchestrator.handle_timeout(now);
        }
        if let Some(edge) = &mut self.edge {
            edge.edge.handle_timeout(now);
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        if let Some(local) = &mut self.orchestrator {
            local.orchestrator.drain();
        }
        if let Some(edge) = &mut self.edge {
            edge.edge.drain();
        }
    }

    fn stop(&mut self, now: Instant) {
        self.drain();
        // The orchestrator hangs up its sessions itself; those of others are ended by the edge.
        if let Some(local) = &mut self.orchestrator {
            local.orchestrator.shut_down(now);
        }
        if let Some(edge) = &mut self.edge {
            edge.edge.shut_down(now);
        }
    }

    /// Whether every call is over.
    fn is_idle(&self) -> bool {
        let calls = self.orchestrator.as_ref().map_or(0, |local| local.orchestrator.pending());
        calls == 0 && self.edge.as_ref().is_none_or(|local| local.edge.alive().sessions == 0)
    }

    /// Whether SIP has nothing to repeat any more either.
    fn is_silent(&self) -> bool {
        self.edge.as_ref().is_none_or(|local| local.edge.alive().sip_transactions == 0)
    }

    /// Carries out everything that both machines want; answers when the next of them wants to be called.
    fn settle(&mut self, now: Instant) -> Instant {
        loop {
            let orchestrator = self.settle_orchestrator(now);
            let (edge, notified) = self.settle_edge(now);
            if !notified {
                return orchestrator.min(edge).min(self.send_withheld(now));
            }
        }
    }

    fn settle_orchestrator(&mut self, now: Instant) -> Instant {
        loop {
            let Some(local) = &mut self.orchestrator else { return Instant::NEVER };
            match local.orchestrator.poll_output(now) {
                OrchestratorOutput::Timeout(due) => return due,
                OrchestratorOutput::Timeline(entry) => self.record_in_order(entry),
                OrchestratorOutput::Graph(request) => self.ask_graph(request),
                OrchestratorOutput::Connect(request) => self.connect(request),
                OrchestratorOutput::Dial(event) => {
                    if let Some(edge) = &mut self.edge {
                        edge.edge.handle_dial(now, event);
                    }
                }
                OrchestratorOutput::Store(change) => self.remember(change),
                OrchestratorOutput::Decided { call_id, accepted } => {
                    for reply in self.waiting.remove(&call_id).into_iter().flatten() {
                        let _ = reply.send(accepted);
                    }
                }
                OrchestratorOutput::Edge { request, what } => match &local.remote {
                    None => self.ask_local_edge(now, Origin::Orchestrator(request), what),
                    Some(remote) => {
                        let (remote, back) = (remote.clone(), self.back.clone());
                        tokio::spawn(async move {
                            let result = remote.ask(&what).await;
                            let _ = back.send(Input::EdgeReply { request, result }).await;
                        });
                    }
                },
            }
        }
    }

    /// No crash may leave a user's phone ringing whose call nobody knows: the store must know of it first.
    fn connect(&self, request: ConnectRequest) {
        let Some(local) = &self.orchestrator else { return };
        let (graph, back) = (local.graph.clone(), self.back.clone());
        let is_kept = self.kept();
        tokio::spawn(async move {
            is_kept.await;
            let asked = clock::now();
            let result = graph.connect(&request).await;
            let took = clock::now().since(asked);
            let _ = back.send(Input::Connected { request: request.request, took, result }).await;
        });
    }

    /// Ready when the store holds everything that it was told so far.
    fn kept(&self) -> impl Future<Output = ()> + Send + use<> {
        let memory = self.memory.as_ref().map(|memory| (memory.written.clone(), memory.last));
        async move {
            if let Some((mut written, last)) = memory {
                // A disk that is too slow must not cost the call.
                let _ = tokio::time::timeout(STORE_TIME_MAX, written.wait_for(|written| *written >= last)).await;
            }
        }
    }

    fn ask_graph(&self, request: GraphRequest) {
        let Some(local) = &self.orchestrator else { return };
        let (graph, back) = (local.graph.clone(), self.back.clone());
        // One call id gets one accept, whatever happens to this process: the store must know of it first.
        let accepts = matches!(request.action, GraphAction::Accept { .. });
        let is_kept = accepts.then(|| self.kept());
        tokio::spawn(async move {
            if let Some(is_kept) = is_kept {
                is_kept.await;
            }
            let asked = clock::now();
            let result = graph.ask(&request).await;
            let (action, took) = (request.action.name(), clock::now().since(asked));
            let _ = back.send(Input::Graph { request: request.request, action, took, result }).await;
        });
    }

    fn remember(&mut self, change: Change) {
        if let Some(memory) = &mut self.memory {
            let is_dialog = matches!(change, Change::Dialog { .. });
            memory.last = memory.store.write(change);
            if is_dialog {
                memory.last_dialog = memory.last;
            }
        }
    }

    /// A repeated `connect` waits beside the first.
    fn connect_and_wait(&mut self, now: Instant, connect: Connect, reply: oneshot::Sender<bool>) {
        let Some(local) = &mut self.orchestrator else { return };
        let call_id = connect.call_id.clone();
        local.orchestrator.handle_webhook(now, wall_seconds(now), vec![WebhookEvent::Connect(connect)]);
        if local.orchestrator.is_undecided(&call_id) {
            let replies = self.waiting.entry(call_id).or_default();
            if replies.len() < WAITERS_MAX {
                replies.push(reply);
            }
        } else {
            let _ = reply.send(local.orchestrator.is_accepted(&call_id));
        }
    }

    /// Answers the edge's deadline, and whether the orchestrator heard of something.
    fn settle_edge(&mut self, now: Instant) -> (Instant, bool) {
        let mut notified = false;
        let mut of_invites = Vec::new();
        loop {
            let Some(local) = &mut self.edge else { return (Instant::NEVER, notified) };
            match local.edge.poll_output(now) {
                EdgeOutput::Timeout(due) => {
                    self.withhold(now, of_invites);
                    return (due, notified);
                }
                EdgeOutput::Timeline(entry) => self.record_of_edge(entry),
                EdgeOutput::Store(change) => self.remember(change),
                EdgeOutput::Engine { worker, command } => {
                    if let Err(command) = local.engine.command(worker, command) {
                        local.edge.handle_mailbox_full(now, worker, *command);
                    }
                }
                // The change that it may have to wait for comes behind it.
                EdgeOutput::Sip { hop, bytes } if self.memory.is_some() && makes_a_call(&bytes) => {
                    of_invites.push((hop, bytes));
                }
                EdgeOutput::Sip { hop, bytes } => local.sip.send(&hop, bytes),
                EdgeOutput::Resolve { query, question } => self.resolve(query, question),
                EdgeOutput::Trace(message) => {
                    let copy = self.board.take(&message, wall_micros(now));
                    if let (Some(copy), Some(collector)) = (copy, &self.collector) {
                        // A collector that is not there costs its copies only.
                        let _ = collector.send(&copy);
                    }
                }
                EdgeOutput::Linked { call_id, sip_call_id } => self.board.link(&call_id, &sip_call_id),
                EdgeOutput::Dial(request) => match &mut self.orchestrator {
                    Some(orchestrator) => {
                        orchestrator.orchestrator.handle_dial(now, wall_seconds(now), request);
                        notified = true;
                    }
                    // The configuration is refused before it comes to this.
                    None => {
                        if let DialRequest::Place(new) = request {
                            let reason = "no orchestrator runs in this process".to_owned();
                            let kind = DialEventKind::Ended(SipEnd::Rejected { code: 503, reason });
                            local.edge.handle_dial(now, DialEvent { dial: new.dial, kind });
                        }
                    }
                },
                EdgeOutput::Notify { callback_url: Some(url), event } => self.callbacks.post(url, event),
                EdgeOutput::Notify { callback_url: None, event } => {
                    if let Some(orchestrator) = &mut self.orchestrator {
                        orchestrator.orchestrator.handle_edge_event(now, event);
                        notified = true;
                    }
                }
                EdgeOutput::Reply { request, result } => match self.origins.remove(&request) {
                    Some(Origin::Http(reply)) => drop(reply.send(result)),
                    Some(Origin::Orchestrator(request)) => {
                        if let Some(orchestrator) = &mut self.orchestrator {
                            orchestrator.orchestrator.handle_edge_reply(now, request, result);
                            notified = true;
                        }
                    }
                    None => {}
                },
            }
        }
    }

    /// Sends what the store knows of, and keeps the rest until it does.
    fn withhold(&mut self, now: Instant, messages: Vec<(Hop, Vec<u8>)>) {
        let Some(memory) = &mut self.memory else { return };
        for (hop, bytes) in messages {
            memory.withheld.push(now, memory.last_dialog, hop, bytes);
        }
        self.send_withheld(now);
    }

    /// Answers when it is to be called next.
    fn send_withheld(&mut self, now: Instant) -> Instant {
        let (Some(memory), Some(local)) = (&mut self.memory, &mut self.edge) else { return Instant::NEVER };
        let written = *memory.written.borrow_and_update();
        while let Some((hop, bytes)) = memory.withheld.pop(now, written) {
            local.sip.send(&hop, bytes);
        }
        memory.withheld.deadline()
    }

    fn ask_local_edge(&mut self, now: Instant, origin: Origin, what: EdgeRequest) {
        let request = self.next_request;
        self.next_request += 1;
        match (&mut self.edge, origin) {
            (Some(local), origin) => {
                self.origins.insert(request, origin);
                local.edge.handle_request(now, request, what);
            }
            (None, Origin::Http(reply)) => drop(reply.send(Err(EdgeError::busy(503, "no_edge", "no edge runs here")))),
            (None, Origin::Orchestrator(_)) => {}
        }
    }

    fn resolve(&self, query: u64, question: Question) {
        let Some(edge) = &self.edge else { return };
        let (back, resolver) = (self.back.clone(), edge.resolver.clone());
        tokio::spawn(async move {
            let records = resolver.ask(&question).await;
            let _ = back.send(Input::Resolved { query, records }).await;
        });
    }

    /// The orchestrator knows why a call has ended before its bridge is gone; the end is written when the media's figures are.
    fn record_in_order(&mut self, entry: Entry) {
        let carried = self.edge.as_ref().is_some_and(|local| local.edge.carries_media_of(&entry.call_id));
        match entry.step == Step::End && carried {
            true => drop(self.ends.insert(entry.call_id.clone(), entry)),
            false => self.record(&entry),
        }
    }

    fn record_of_edge(&mut self, entry: Entry) {
        let end = match entry.step {
            Step::Media | Step::End => self.ends.remove(&entry.call_id),
            _ => None,
        };
        let at = entry.at;
        if entry.step != Step::End || end.is_none() {
            self.record(&entry);
        }
        if let Some(end) = end {
            self.record(&Entry { at, ..end });
        }
    }

    fn record(&mut self, entry: &Entry) {
        if !self.timeline.push(entry) {
            return;
        }
        self.observed.step(entry, self.timeline.lines(&entry.call_id));
        if let Some(writer) = &mut self.records
            && matches!(entry.step, Step::End | Step::Media)
            && let Some(page) = self.timeline.page(&entry.call_id, 0).filter(|page| cdr::is_complete(page, entry.step))
        {
            writer.write(&cdr::record(&entry.call_id, &page, wall_seconds(entry.at)));
        }
        // Other people's words may hold other people's numbers.
        let (call, step, detail) = (CallTag(&entry.call_id), entry.step.name(), scrub(&entry.detail));
        match entry.step {
            // First packets and keys are for the timeline; they change no state.
            Step::FirstPacketFromWhatsapp
            | Step::FirstPacketToWhatsapp
            | Step::FirstPacketFromSip
            | Step::FirstPacketToSip
            | Step::Digit => tracing::debug!(%call, "{step} {detail}"),
            _ => tracing::info!(%call, "{step} {detail}"),
        }
    }

    fn figures(&self) -> Figures {
        let engine = |edge: &LocalEdge| (0..edge.engine.workers()).map(|worker| edge.engine.metrics(worker)).collect();
        Figures {
            orchestrator: self.orchestrator.as_ref().map(|o| (o.orchestrator.alive(), o.orchestrator.counters())),
            edge: self.edge.as_ref().map(|edge| (edge.edge.alive(), edge.edge.counters())),
            trunks: self.edge.as_ref().map(|edge| edge.edge.trunks(clock::now())).unwrap_or_default(),
            target_alive: self.edge.as_ref().and_then(|edge| edge.edge.target_alive()),
            registered: self.edge.as_ref().map(|edge| edge.edge.registered()).unwrap_or_default(),
            observed: self.observed.clone(),
            records_lost: self.records.as_ref().map_or(0, cdr::Writer::lost),
            engine: self.edge.as_ref().map(engine).unwrap_or_default(),
            timeline: self.timeline.figures(),
            sip: self.edge.as_ref().map(|edge| edge.sip.counters()).unwrap_or_default(),
            store: self.memory.as_ref().map(|memory| memory.store.figures()),
        }
    }
}

/// Unix time in microseconds.
fn wall_micros(now: Instant) -> u64 {
    let ntp = clock::wall_anchor().ntp(now);
    let seconds = (ntp >> 32).saturating_sub(NTP_UNIX_OFFSET_S);
    seconds * 1_000_000 + (((ntp & 0xffff_ffff) * 1_000_000) >> 32)
}

/// Unix time. Read anew for every webhook: a host that was suspended must not take a fresh `connect` for a stale one.
fn wall_seconds(now: Instant) -> u64 {
    (clock::wall_anchor().ntp(now) >> 32).saturating_sub(NTP_UNIX_OFFSET_S)
}
