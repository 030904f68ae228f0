//! The gateway under test: the real orchestrator, the real edge and the real bridges, under a clock that is handed in.
//! Only the worker's loop is played: sockets are entries of a table here.

use crate::stream::StreamCheck;
use control::call::edge::{Edge, EdgeConfig, EdgeCounters, EdgeOutput};
use control::call::orchestrator::{Orchestrator, OrchestratorConfig, OrchestratorOutput};
use control::sip::locate::Records;
use control::trace::timeline::{Entry, Timeline};
use control::whatsapp::event::WebhookEvent;
use control::whatsapp::graph::{GraphError, GraphRequest};
use engine::bridge::{Bridge, BridgeEvent, BridgeId, LegName, Output, Port, Shared};
use engine::leg::{Component, LocalLeg};
use engine::limits::DATAGRAM_BYTES_MAX;
use engine::metrics::Metrics;
use engine::random::Random;
use engine::time::Instant;
use engine::worker::{Command, Event};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where the gateway is.
pub const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));

/// Its SIP socket.
pub const SIP: SocketAddr = SocketAddr::new(ADDRESS, 5060);

const FIRST_PORT: u16 = 10_000;

/// Rounds of one drain; more means that two parts answer each other without end.
const DRAIN_ROUNDS_MAX: usize = 10_000;

/// What leaves the gateway.
#[derive(Debug)]
pub enum Out {
    /// A datagram of its SIP or media sockets.
    Datagram {
        /// From.
        from: SocketAddr,
        /// To.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// A request to Graph.
    Graph(GraphRequest),
}

struct Slot {
    bridge: Bridge,
    ports: Vec<(Port, u16)>,
    deadline: Instant,
    to_whatsapp: StreamCheck,
    to_bot: StreamCheck,
}

/// The gateway.
pub struct Gateway {
    orchestrator: Orchestrator,
    edge: Edge,
    orchestrator_deadline: Instant,
    edge_deadline: Instant,
    bridges: BTreeMap<BridgeId, Slot>,
    ports: BTreeMap<u16, (BridgeId, Port)>,
    next_port: u16,
    shared: Shared,
    random: Random,
    /// What the worker would count.
    pub metrics: Metrics,
    /// Every call's steps.
    pub timeline: Timeline,
    /// Steps as they were reported, for failing tests.
    pub entries: Vec<Entry>,
    /// Bridges that said `Ended`.
    pub bridges_ended: u64,
}

impl Gateway {
    /// A gateway without calls.
    pub fn new(orchestrator: OrchestratorConfig, edge: EdgeConfig, shared: Shared, random: &mut Random) -> Gateway {
        Gateway {
            orchestrator: Orchestrator::new(orchestrator, random.fork()),
            edge: Edge::new(edge, 1, random.fork()),
            orchestrator_deadline: Instant::NEVER,
            edge_deadline: Instant::NEVER,
            bridges: BTreeMap::new(),
            ports: BTreeMap::new(),
            next_port: FIRST_PORT,
            shared,
            random: random.fork(),
            metrics: Metrics::default(),
            timeline: Timeline::new(),
            entries: Vec::new(),
            bridges_ended: 0,
        }
    }

    /// Webhook events, already checked and parsed.
    pub fn handle_webhook(&mut self, now: Instant, wall_seconds: u64, events: Vec<WebhookEvent>) {
        self.orchestrator.handle_webhook(now, wall_seconds, events);
    }

    /// The outcome of a Graph request.
    pub fn handle_graph(&mut self, now: Instant, request: u64, result: Result<(), GraphError>) {
        self.orchestrator.handle_graph(now, request, result);
    }

    /// A datagram to one of its sockets. One to a port that is closed is lost, as in life.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, bytes: &mut [u8]) {
        if to == SIP {
            self.edge.handle_sip(now, from, bytes);
            return;
        }
        let Some((id, port)) = self.ports.get(&to.port()).copied() else { return };
        let slot = self.bridges.get_mut(&id).expect("a port belongs to a bridge that is open");
        slot.bridge.handle_datagram(now, port, from, bytes, &mut self.metrics);
        slot.deadline = now;
    }

    /// The earliest timer.
    pub fn deadline(&self) -> Instant {
        let bridges = self.bridges.values().map(|slot| slot.deadline).min().unwrap_or(Instant::NEVER);
        bridges.min(self.orchestrator_deadline).min(self.edge_deadline)
    }

    /// Fires what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.orchestrator_deadline <= now {
            self.orchestrator.handle_timeout(now);
        }
        if self.edge_deadline <= now {
            self.edge.handle_timeout(now);
        }
        for slot in self.bridges.values_mut().filter(|slot| slot.deadline <= now) {
            slot.bridge.handle_timeout(now);
        }
    }

    /// Lets every part say what it has to say, until all are quiet.
    ///
    /// # Panics
    /// When a part leaves a deadline in the past, or two parts never stop answering each other.
    pub fn drain(&mut self, now: Instant, out: &mut Vec<Out>) {
        for _ in 0..DRAIN_ROUNDS_MAX {
            let mut events = Vec::new();
            self.drain_bridges(now, out, &mut events);
            let mut quiet = events.is_empty();
            for event in events {
                self.edge.handle_engine(now, 0, event);
            }
            quiet &= self.drain_edge(now, out);
            quiet &= self.drain_orchestrator(now, out);
            if quiet {
                assert!(
                    self.orchestrator_deadline > now,
                    "the orchestrator's deadline lies in the past after a drain at {now:?}"
                );
                assert!(self.edge_deadline > now, "the edge's deadline lies in the past after a drain at {now:?}");
                return;
            }
        }
        panic!("the gateway talks to itself without end at {now:?}");
    }

    /// Checks that nothing is left of any call.
    ///
    /// # Panics
    /// When something is.
    pub fn assert_empty(&self) {
        assert_eq!(self.orchestrator.alive(), 0, "calls left in the orchestrator");
        let alive = self.edge.alive();
        assert_eq!((alive.sessions, alive.sip_calls, alive.sip_transactions), (0, 0, 0), "left at the edge: {alive:?}");
        assert!(self.bridges.is_empty(), "{} bridges left", self.bridges.len());
        assert!(self.ports.is_empty(), "{} ports left", self.ports.len());
        assert_eq!(self.edge.counters().sessions_abandoned, 0, "the edge gave up waiting for an end");
        assert_eq!(self.metrics.bridges_panicked, 0);
    }

    /// What the edge has counted.
    pub fn edge_counters(&self) -> EdgeCounters {
        self.edge.counters()
    }

    fn drain_bridges(&mut self, now: Instant, out: &mut Vec<Out>, events: &mut Vec<Event>) {
        let due: Vec<BridgeId> =
            self.bridges.iter().filter(|(_, slot)| slot.deadline <= now).map(|(id, _)| *id).collect();
        for id in due {
            self.drain_bridge(now, id, out, events);
        }
    }

    fn drain_bridge(&mut self, now: Instant, id: BridgeId, out: &mut Vec<Out>, events: &mut Vec<Event>) {
        let slot = self.bridges.get_mut(&id).expect("the caller looked");
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        let mut ended = 0;
        loop {
            match slot.bridge.poll_output(now, &mut buffer, &mut self.metrics) {
                Output::Transmit { port, to, len } => {
                    let from = port_of(&slot.ports, port);
                    check(slot_check(&mut slot.to_whatsapp, &mut slot.to_bot, port), now, port, &buffer[..len]);
                    out.push(Out::Datagram { from: SocketAddr::new(ADDRESS, from), to, bytes: buffer[..len].to_vec() });
                }
                Output::Event(event) => {
                    ended += u64::from(matches!(event, BridgeEvent::Ended { .. }));
                    events.push(Event::Bridge { bridge: id, event });
                }
                Output::Timeout(at) => {
                    slot.deadline = at;
                    break;
                }
            }
        }
        assert!(ended <= 1, "a bridge ended twice");
        if slot.bridge.is_ended() {
            self.bridges_ended += 1;
            let slot = self.bridges.remove(&id).expect("it was there");
            slot.ports.iter().for_each(|(_, port)| {
                self.ports.remove(port);
            });
        } else {
            assert_eq!(ended, 0, "a bridge that said Ended goes on");
            assert!(slot.deadline > now, "a bridge's deadline lies in the past after a drain at {now:?}");
        }
    }

    fn drain_edge(&mut self, now: Instant, out: &mut Vec<Out>) -> bool {
        let mut quiet = true;
        loop {
            match self.edge.poll_output(now) {
                EdgeOutput::Timeout(at) => {
                    self.edge_deadline = at;
                    return quiet;
                }
                EdgeOutput::Reply { request, result } => self.orchestrator.handle_edge_reply(now, request, result),
                EdgeOutput::Engine { command, .. } => self.command(now, command),
                EdgeOutput::Sip { hop, bytes } => out.push(Out::Datagram { from: SIP, to: hop.remote, bytes }),
                EdgeOutput::Resolve { query, .. } => self.edge.resolved(now, query, &Records::Nothing),
                EdgeOutput::Notify { event, .. } => self.orchestrator.handle_edge_event(now, event),
                EdgeOutput::Timeline(entry) => self.note(entry),
                EdgeOutput::Trace(_) => {}
                EdgeOutput::Linked { .. } | EdgeOutput::Store(_) => {}
                EdgeOutput::Dial(request) => panic!("{request:?} where no account takes calls out"),
            }
            quiet = false;
        }
    }

    fn drain_orchestrator(&mut self, now: Instant, out: &mut Vec<Out>) -> bool {
        let mut quiet = true;
        loop {
            match self.orchestrator.poll_output(now) {
                OrchestratorOutput::Timeout(at) => {
                    self.orchestrator_deadline = at;
                    return quiet;
                }
                OrchestratorOutput::Graph(request) => out.push(Out::Graph(request)),
                OrchestratorOutput::Edge { request, what } => self.edge.handle_request(now, request, what),
                OrchestratorOutput::Timeline(entry) => self.note(entry),
                OrchestratorOutput::Store(_) | OrchestratorOutput::Decided { .. } => {}
                other @ (OrchestratorOutput::Connect(_) | OrchestratorOutput::Dial(_)) => {
                    panic!("{other:?} where no account takes calls out")
                }
            }
            quiet = false;
        }
    }

    fn note(&mut self, entry: Entry) {
        self.timeline.push(&entry);
        self.entries.push(entry);
    }

    fn command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Open { bridge: id, config } => self.open(now, id, config),
            Command::Bridge { bridge, command } => {
                if let Some(slot) = self.bridges.get_mut(&bridge) {
                    slot.bridge.handle_command(now, command);
                    slot.deadline = now;
                }
            }
            Command::Stop => unreachable!("the edge stops no worker"),
        }
    }

    fn open(&mut self, now: Instant, id: BridgeId, config: engine::bridge::BridgeConfig) {
        let bridge = Bridge::open(now, config, &self.shared, self.random.fork());
        let mut ports = Vec::new();
        let mut local = |leg: LegName, first: &mut u16| {
            let mut local = bridge.local(leg);
            match &mut local {
                LocalLeg::Webrtc { port, .. } => {
                    *port = *first;
                    ports.push((Port { leg, component: Component::Rtp }, *first));
                }
                LocalLeg::Rtp { port, .. } => {
                    *port = *first;
                    ports.push((Port { leg, component: Component::Rtp }, *first));
                    ports.push((Port { leg, component: Component::Rtcp }, *first + 1));
                }
            }
            *first += 2;
            local
        };
        let mut next = self.next_port;
        let (a, b) = (local(LegName::A, &mut next), local(LegName::B, &mut next));
        self.next_port = if next > 60_000 { FIRST_PORT } else { next };
        for (port, number) in &ports {
            let taken = self.ports.insert(*number, (id, *port));
            assert!(taken.is_none(), "port {number} is in use");
        }
        let slot = Slot {
            bridge,
            ports,
            deadline: now,
            to_whatsapp: StreamCheck::new("to WhatsApp", 48_000, 111),
            to_bot: StreamCheck::new("to the bot", 8_000, 0),
        };
        assert!(self.bridges.insert(id, slot).is_none(), "a bridge's number was used twice");
        self.edge.handle_engine(now, 0, Event::Opened { bridge: id, a, b });
    }
}

fn port_of(ports: &[(Port, u16)], port: Port) -> u16 {
    ports.iter().find(|(known, _)| *known == port).expect("a bridge sends from its own ports").1
}

fn slot_check<'s>(a: &'s mut StreamCheck, b: &'s mut StreamCheck, port: Port) -> &'s mut StreamCheck {
    if port.leg == LegName::A { a } else { b }
}

fn check(stream: &mut StreamCheck, now: Instant, port: Port, bytes: &[u8]) {
    if port.component == Component::Rtp && engine::demux::classify(bytes) == engine::demux::Class::Rtp {
        stream.sent(now, bytes);
    }
}
