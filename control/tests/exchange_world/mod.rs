//! The world of `call_exchange`: a gateway, phones and trunks with agents of their own, links with faults, and an engine that is
//! played and checks what it is told.

#[allow(dead_code, reason = "what users of WhatsApp do is for the tests that call them")]
pub(crate) mod meta;
mod phone;

use control::call::EdgeEventKind;
use control::call::edge::{Edge, EdgeConfig, EdgeOutput};
use control::call::orchestrator::{Orchestrator, OrchestratorConfig, OrchestratorOutput};
use control::call::{EdgeReply, EdgeRequest, NewSession};
use control::registrar::{Group, User};
use control::route::{Pattern, Routes, Transport, Trunk};
use control::sip::gatekeeper::Refusal;
use control::sip::locate::{Question, Records};
use control::sip::message::Message;
use control::sip::transport::{Hop, PeerIdentity};
use control::sip::{
    Credentials, Invite, KeptDialog, Register, Replaces, SipAgent, SipCallId, SipConfig, SipEnd, SipEvent, SipOutput,
};
use control::store::{CallRecord, Change, Remembered};
use control::trace::timeline::Step;
use engine::bridge::{BridgeCommand, BridgeEvent, BridgeId, LegConfig, LegName, LegRemote};
use engine::error::{Cause, End, Side};
use engine::ice::IceCredentials;
use engine::leg::LocalLeg;
use engine::random::Random;
use engine::sdp::{self, Codec, CodecFormat, Description, Direction, RtpLocal, SDES_SUITES, Sdes, Setup, WebrtcLocal};
use engine::time::{Duration, Instant};
use engine::worker::{Command, Event};
pub(crate) use phone::*;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

pub(crate) const GATEWAY: &str = "192.0.2.1:5060";
pub(crate) const ALICE: &str = "198.51.100.11:5060";
pub(crate) const ALICE_TOO: &str = "198.51.100.12:5060";
pub(crate) const BOB: &str = "198.51.100.13:5060";
pub(crate) const CAROL: &str = "198.51.100.14:5060";
pub(crate) const TRUNK_A: &str = "203.0.113.5:5060";
pub(crate) const TRUNK_B: &str = "203.0.113.6:5060";

/// Another port of trunk a's: its messages are written by the test.
pub(crate) const SCRIPT: &str = "203.0.113.5:5070";

/// Rounds of one drain; more means that two parts answer each other without end.
const DRAIN_ROUNDS_MAX: usize = 10_000;

#[derive(Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) loss_pct: u32,
    pub(crate) duplicate_pct: u32,
    pub(crate) delay_ms_max: u32,
}

/// A bridge as the played engine knows it.
#[derive(Default)]
pub(crate) struct Played {
    pub(crate) legs: Vec<LegName>,
    pub(crate) configs: BTreeMap<LegName, LegConfig>,
    pub(crate) remotes: Vec<(LegName, LegRemote)>,
    /// ICE restarts that were offered, `None` where one was refused.
    pub(crate) restarts: Vec<(LegName, Option<IceCredentials>)>,
    pub(crate) seats: usize,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) gateway: Edge,
    pub(crate) config: EdgeConfig,
    /// What the gateway's store holds.
    pub(crate) kept: BTreeMap<String, KeptDialog>,
    pub(crate) gateway_deadline: Instant,
    pub(crate) phones: BTreeMap<SocketAddr, Phone>,
    pub(crate) bridges: BTreeMap<BridgeId, Played>,
    pub(crate) next_port: u16,
    pub(crate) wire: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    pub(crate) count: u64,
    pub(crate) faults: Faults,
    pub(crate) random: Random,
    pub(crate) steps: Vec<(Step, String)>,
    pub(crate) events: Vec<EdgeEventKind>,
    pub(crate) token: String,
    /// The engine has no spare leg for this bridge.
    pub(crate) refuses_legs: Option<BridgeId>,
    /// The engine says nothing about spare legs.
    pub(crate) mute_engine: bool,
    /// Goes into the next request of `script`.
    pub(crate) script_replaces: Option<Replaces>,
    /// What the DNS knows.
    pub(crate) dns: Vec<(Question, Records)>,
    /// What came to `SCRIPT`.
    pub(crate) scripted: Vec<Message>,
    /// Beside the gateway, for calls to users of WhatsApp.
    pub(crate) orchestrator: Orchestrator,
    pub(crate) orchestrator_deadline: Instant,
    /// What the orchestrator's store holds.
    pub(crate) kept_calls: BTreeMap<String, CallRecord>,
    /// WhatsApp.
    pub(crate) meta: meta::Meta,
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn routes() -> Routes {
    let trunk = |name: &str, host: &str, weight: u32| Trunk {
        port: Some(5060),
        allowed_sources: vec![format!("{host}/32").parse().unwrap()],
        pattern: Some(Pattern::new(r"^\+?[1-9]\d{6,14}$").unwrap().0),
        weight,
        number: Some("+441632960111".to_owned()),
        ..Trunk::new(name, host, Transport::Udp)
    };
    let users = ["alice", "bob", "carol", "dave"].map(|name| (name.to_owned(), User::new(name, "secret")));
    let everyone = Group::new("everyone", &["alice", "carol", "dave"]);
    Routes {
        trunks: vec![trunk("a", "203.0.113.5", 1), trunk("b", "203.0.113.6", 2)],
        users: users.into_iter().collect(),
        groups: BTreeMap::from([("everyone".to_owned(), everyone)]),
        ..Routes::default()
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        World::with(seed, |_| {})
    }

    /// Every user but dave registered, nobody calling.
    pub(crate) fn with(seed: u64, change: impl FnOnce(&mut Routes)) -> World {
        let mut random = Random::from_test_seed(seed);
        let mut config = EdgeConfig::new(
            SipConfig::new(address(GATEWAY), "tandem", "tandem"),
            address(GATEWAY).ip(),
            "sip:bot@198.51.100.99:5060",
        );
        config.dialplan = routes();
        change(&mut config.dialplan);
        let mut phones = BTreeMap::new();
        for (index, text) in [ALICE, ALICE_TOO, BOB, CAROL, TRUNK_A, TRUNK_B].into_iter().enumerate() {
            let agent = SipAgent::new(SipConfig::new(address(text), "phone", "phone"), random.fork());
            let phone = Phone {
                agent,
                deadline: Instant::NEVER,
                does: Does::Answer { after_ms: 200 },
                wishes: None,
                takes: None,
                placed: BTreeMap::new(),
                calls: Vec::new(),
                offers_seen: 0,
                offers: Vec::new(),
                answers_seen: Vec::new(),
                transfers: Vec::new(),
                port: 30_000 + 1_000 * index as u16,
            };
            phones.insert(address(text), phone);
        }
        let mut world = World {
            now: Instant::from_millis(1_000),
            gateway: Edge::new(config.clone(), 1, random.fork()),
            config,
            kept: BTreeMap::new(),
            gateway_deadline: Instant::NEVER,
            phones,
            bridges: BTreeMap::new(),
            next_port: 10_000,
            wire: BTreeMap::new(),
            count: 0,
            faults: Faults::default(),
            random,
            steps: Vec::new(),
            events: Vec::new(),
            token: String::new(),
            refuses_legs: None,
            mute_engine: false,
            script_replaces: None,
            dns: Vec::new(),
            scripted: Vec::new(),
            orchestrator: Orchestrator::new(OrchestratorConfig::default(), Random::from_test_seed(seed ^ 0xd1a1)),
            orchestrator_deadline: Instant::NEVER,
            kept_calls: BTreeMap::new(),
            meta: meta::Meta::new(seed),
        };
        world.gateway.restore(world.now, BTreeMap::new());
        for (text, user) in [(ALICE, "alice"), (ALICE_TOO, "alice"), (BOB, "bob"), (CAROL, "carol")] {
            world.register(text, user);
        }
        world.run_ms(1_000);
        assert_eq!(world.gateway.gate().registrar.count(), 4);
        world
    }

    pub(crate) fn register(&mut self, text: &str, user: &str) {
        let now = self.now;
        let credentials = Some(Credentials { username: user.to_owned(), password: "secret".to_owned() });
        self.phone(text).agent.register(
            now,
            Register {
                registrar: "sip:192.0.2.1".to_owned(),
                aor: format!("sip:{user}@192.0.2.1"),
                contact_user: Some(user.to_owned()),
                credentials,
                expires_s: 3_600,
                ..Register::default()
            },
        );
    }

    pub(crate) fn phone(&mut self, text: &str) -> &mut Phone {
        self.phones.get_mut(&address(text)).unwrap()
    }

    /// A phone or trunk calls somebody through the gateway.
    pub(crate) fn dial(&mut self, from: &str, dialed: &str, offer: Offer) -> SipCallId {
        let now = self.now;
        let user = [(ALICE, "alice"), (ALICE_TOO, "alice"), (BOB, "bob"), (CAROL, "carol")]
            .into_iter()
            .find(|(text, _)| *text == from);
        let credentials =
            user.map(|(_, name)| Credentials { username: name.to_owned(), password: "secret".to_owned() });
        let invite = Invite {
            target: format!("sip:{dialed}@192.0.2.1:5060"),
            from_user: user.map_or("+441632960000", |(_, name)| name).to_owned(),
            headers: offer.headers,
            sdp: offer.sdp,
            credentials,
            ring_ms_max: 200_000,
            ..Invite::default()
        };
        let phone = self.phone(from);
        let call = phone.agent.invite(now, invite);
        phone.placed.insert(call, Placed::default());
        self.drain();
        call
    }

    pub(crate) fn new_session(&mut self, destination: &str) {
        let what = EdgeRequest::New(Box::new(NewSession {
            call_id: "wacid.1".to_owned(),
            sdp_offer: Offer::lite().sdp,
            from: Some("447700900123".to_owned()),
            destination: Some(destination.to_owned()),
            hold_media: false,
            ..NewSession::default()
        }));
        self.gateway.handle_request(self.now, 1, what);
        self.drain();
    }

    pub(crate) fn answer(&mut self, from: &str, call: SipCallId) -> Description {
        let placed = &self.phone(from).placed[&call];
        let text = placed.answer.clone().unwrap_or_else(|| panic!("no answer; {:?}", placed.end));
        sdp::parse(&text).unwrap()
    }

    pub(crate) fn end(&mut self, from: &str, call: SipCallId) -> Option<SipEnd> {
        let phone = self.phone(from);
        let came = phone.calls.iter().find(|came| came.call == call);
        match phone.placed.get(&call) {
            Some(placed) => placed.end.clone(),
            None => came.and_then(|came| came.end.clone()),
        }
    }

    pub(crate) fn hang_up(&mut self, from: &str, call: SipCallId) {
        let now = self.now;
        self.phone(from).agent.hangup(now, call, None);
        self.drain();
    }

    /// Ends every call of a phone, placed and answered.
    pub(crate) fn hang_up_all(&mut self, text: &str) {
        let now = self.now;
        let phone = self.phone(text);
        let calls: Vec<SipCallId> = phone.placed.keys().copied().chain(phone.calls.iter().map(|c| c.call)).collect();
        for call in calls {
            phone.agent.hangup(now, call, None);
        }
        self.drain();
    }

    /// The call that a phone is in, if any.
    pub(crate) fn talking(&mut self, text: &str) -> Option<SipCallId> {
        let phone = self.phone(text);
        let came = phone.calls.iter().find(|call| call.answered && call.end.is_none()).map(|call| call.call);
        let placed = phone.placed.iter().find(|(_, placed)| placed.answer.is_some() && placed.end.is_none());
        came.or(placed.map(|(call, _)| *call))
    }

    pub(crate) fn refer(&mut self, text: &str, to: &str) -> SipCallId {
        self.try_refer(text, to).expect("a call to transfer")
    }

    pub(crate) fn try_refer(&mut self, text: &str, to: &str) -> Option<SipCallId> {
        let (now, call) = (self.now, self.talking(text)?);
        self.phone(text).agent.refer(now, call, to, None);
        self.drain();
        Some(call)
    }

    /// The calls that a phone is in, in the order in which they came up.
    pub(crate) fn all_talking(&mut self, text: &str) -> Vec<SipCallId> {
        let phone = self.phone(text);
        let came = phone.calls.iter().filter(|call| call.answered && call.end.is_none()).map(|call| call.call);
        let placed = phone.placed.iter().filter(|(_, placed)| placed.answer.is_some() && placed.end.is_none());
        let mut calls: Vec<SipCallId> = came.chain(placed.map(|(call, _)| *call)).collect();
        calls.sort();
        calls
    }

    /// In the call `asked` a phone asks to be replaced by who is in its call `other`.
    pub(crate) fn attend(&mut self, text: &str, asked: SipCallId, other: SipCallId) {
        let replaces = self.phone(text).agent.replaces(other).expect("a dialog");
        self.attend_naming(text, asked, &replaces);
    }

    pub(crate) fn attend_naming(&mut self, text: &str, asked: SipCallId, replaces: &Replaces) {
        let now = self.now;
        let escaped = replaces.header().replace(';', "%3B").replace('=', "%3D").replace('@', "%40");
        let to = format!("sip:carol@192.0.2.1?Replaces={escaped}");
        self.phone(text).agent.refer(now, asked, &to, Some("<sip:bob@192.0.2.1>"));
        self.drain();
    }

    /// A request from `SCRIPT`; inside the dialog of `last`, if there is one. Answers what came back.
    pub(crate) fn script(&mut self, method: &str, cseq: u32, last: Option<&Message>, sdp: &str) -> Vec<Message> {
        let tag = last.and_then(|last| last.to_tag()).map(|tag| format!(";tag={tag}")).unwrap_or_default();
        let mut request = Message::request(method, "sip:bob@192.0.2.1");
        request.push("Via", format!("SIP/2.0/UDP {SCRIPT};branch=z9hG4bK{method}{cseq}"));
        request.push("Max-Forwards", "70");
        request.push("From", "<sip:+441632960000@203.0.113.5>;tag=script");
        request.push("To", format!("<sip:bob@192.0.2.1>{tag}"));
        request.push("Call-ID", "scripted");
        request.push("CSeq", format!("{cseq} {method}"));
        request.push("Contact", format!("<sip:{SCRIPT}>"));
        if !sdp.is_empty() {
            request.set_body("application/sdp", sdp);
        }
        if let Some(named) = self.script_replaces.take() {
            request.push("Replaces", named.header());
        }
        if method == "BYE" {
            request.push("x-wa-meta-call-duration", "7");
            request.push("X-Other", "x".repeat(1_000));
        }
        self.scripted.clear();
        self.send(address(SCRIPT), address(GATEWAY), &request.to_bytes());
        self.run_ms(1_000);
        self.scripted.clone()
    }

    /// A phone's INVITE takes the place of another call.
    pub(crate) fn replace(&mut self, from: &str, replaces: &Replaces, offer: Offer) -> SipCallId {
        self.dial(from, "anybody", offer.header("Replaces", &replaces.header()))
    }

    /// Puts a phone's call on hold, or takes it back.
    pub(crate) fn offer_anew(&mut self, text: &str, direction: Direction) {
        let (now, Some(call)) = (self.now, self.talking(text)) else { return };
        let port = self.phone(text).port;
        let offer = Offer::rtp(&[Codec::Opus, Codec::Pcmu]).sdp;
        let word = if direction == Direction::SendOnly { "a=sendonly" } else { "a=sendrecv" };
        let offer = offer.replace("a=sendrecv", word).replace("m=audio 4000", &format!("m=audio {port}"));
        self.phone(text).agent.reinvite(now, call, &offer);
        self.drain();
    }

    /// The gateway dies, and another one begins with what the store held.
    pub(crate) fn crash(&mut self) {
        self.gateway = Edge::new(self.config.clone(), 1, self.random.fork());
        self.bridges.clear();
        self.steps.clear();
        self.token.clear();
        self.gateway.restore(self.now, self.kept.clone());
        self.orchestrator =
            Orchestrator::new(OrchestratorConfig::default(), Random::from_test_seed(self.random.next_u64()));
        let remembered = Remembered { calls: self.kept_calls.clone(), ..Remembered::default() };
        self.orchestrator.restore(self.now, meta::WALL_S, remembered);
        self.drain();
    }

    fn remember(&mut self, change: Change) {
        match change {
            Change::Dialog { key, dialog } => drop(self.kept.insert(key, *dialog)),
            Change::DialogOver { key } => assert!(self.kept.remove(&key).is_some(), "{key} was not kept"),
            other => panic!("{other:?} of an edge"),
        }
    }

    pub(crate) fn only_bridge(&self) -> &Played {
        assert_eq!(self.bridges.len(), 1);
        self.bridges.values().next().unwrap()
    }

    pub(crate) fn end_line(&self) -> String {
        let end = self.steps.iter().rev().find(|(step, _)| *step == Step::End);
        end.map(|(_, words)| words.clone()).unwrap_or_default()
    }

    /// Ends every call and checks that nothing is left anywhere.
    pub(crate) fn settle(&mut self) {
        for phone in [ALICE, ALICE_TOO, BOB, CAROL, TRUNK_A, TRUNK_B] {
            if self.phone(phone).does == Does::Dead {
                self.phone(phone).does = Does::Refuse { code: 480, after_ms: 0 };
            }
            self.hang_up_all(phone);
        }
        if !self.token.is_empty() {
            let what = EdgeRequest::Hangup { edge_session_id: self.token.clone() };
            self.gateway.handle_request(self.now, 2, what);
        }
        // The longest ring, and SIP's own timers behind it.
        self.run_ms(300_000);
        let alive = self.gateway.alive();
        assert_eq!((alive.sessions, alive.sip_calls, alive.sip_transactions), (0, 0, 0), "{:#?}", self.steps);
        assert!(self.bridges.is_empty(), "a bridge is left");
        let counters = self.gateway.counters();
        assert_eq!(counters.sessions_abandoned, 0);
        assert_eq!(counters.sessions_begun, counters.sessions_ended);
        let ends = self.steps.iter().filter(|(step, _)| *step == Step::End).count() as u64;
        assert_eq!(ends, counters.sessions_ended, "one line per call says how it ended");
        assert!(self.kept.is_empty(), "left in the store: {:?}", self.kept);
        assert!(self.kept_calls.is_empty(), "left in the store: {:?}", self.kept_calls.keys());
        assert_eq!(self.orchestrator.alive(), 0, "{:#?}", self.steps);
        self.meta.assert_nobody_is_left();
        for (name, phone) in &self.phones {
            assert_eq!(phone.agent.alive(), (0, 0), "left at {name}");
        }
    }

    pub(crate) fn run_ms(&mut self, millis: u64) {
        let end = self.now.plus_millis(millis);
        loop {
            self.drain();
            let phones = self.phones.values().map(|phone| {
                let acts = phone.calls.iter().map(|call| call.act_at).min().unwrap_or(Instant::NEVER);
                phone.deadline.min(acts)
            });
            let arrival = self.wire.first_key_value().map_or(Instant::NEVER, |((at, _), _)| *at);
            let next = phones.min().unwrap().min(self.gateway_deadline).min(arrival);
            let next = next.min(self.orchestrator_deadline).min(self.meta.deadline());
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
    }

    pub(crate) fn step(&mut self) {
        let now = self.now;
        if self.gateway_deadline <= now {
            self.gateway.handle_timeout(now);
        }
        if self.orchestrator_deadline <= now {
            self.orchestrator.handle_timeout(now);
        }
        while let Some(said) = self.meta.poll(now) {
            match said {
                meta::Said::Connected(request, result) => self.orchestrator.handle_connected(now, request, result),
                meta::Said::Graph(request, result) => self.orchestrator.handle_graph(now, request, result),
                meta::Said::Webhook(event) => self.orchestrator.handle_webhook(now, meta::WALL_S, vec![event]),
            }
            self.drain();
        }
        for phone in self.phones.values_mut() {
            if phone.deadline <= now {
                phone.agent.handle_timeout(now);
            }
            act(phone, now);
        }
        while let Some(((at, _), _)) = self.wire.first_key_value()
            && *at <= now
        {
            let (_, (from, to, bytes)) = self.wire.pop_first().unwrap();
            if to == address(GATEWAY) {
                self.gateway.handle_sip_message(now, &Hop::udp(from), &PeerIdentity::default(), &bytes);
            } else if to == address(SCRIPT) {
                self.scripted.push(Message::parse(&bytes).unwrap());
            } else if let Some(phone) = self.phones.get_mut(&to).filter(|phone| phone.does != Does::Dead) {
                phone.agent.handle_datagram(now, from, &bytes);
            }
            self.drain();
        }
    }

    pub(crate) fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let copies = 1 + u32::from(self.random.below(100) < self.faults.duplicate_pct);
        for _ in 0..copies {
            if self.random.below(100) < self.faults.loss_pct {
                continue;
            }
            let delay_ms = 1 + u64::from(self.random.below(self.faults.delay_ms_max + 1));
            self.count += 1;
            self.wire.insert((self.now + Duration::from_millis(delay_ms), self.count), (from, to, bytes.to_vec()));
        }
    }

    pub(crate) fn drain(&mut self) {
        for _ in 0..DRAIN_ROUNDS_MAX {
            let quiet = self.drain_orchestrator();
            let quiet = self.drain_gateway() && quiet;
            let addresses: Vec<SocketAddr> = self.phones.keys().copied().collect();
            let quiet = addresses.into_iter().fold(quiet, |quiet, phone| self.drain_phone(phone) && quiet);
            if quiet {
                assert!(self.gateway_deadline > self.now, "the gateway's deadline lies in the past");
                assert!(self.orchestrator_deadline > self.now, "the orchestrator's deadline lies in the past");
                return;
            }
        }
        panic!("somebody talks without end at {:?}", self.now);
    }

    pub(crate) fn drain_orchestrator(&mut self) -> bool {
        let mut quiet = true;
        loop {
            match self.orchestrator.poll_output(self.now) {
                OrchestratorOutput::Timeout(at) => {
                    self.orchestrator_deadline = at;
                    return quiet;
                }
                OrchestratorOutput::Connect(request) => self.meta.connect(self.now, &request),
                OrchestratorOutput::Graph(request) => self.meta.act(self.now, &request),
                OrchestratorOutput::Dial(event) => self.gateway.handle_dial(self.now, event),
                OrchestratorOutput::Timeline(entry) => self.steps.push((entry.step, entry.detail)),
                OrchestratorOutput::Store(Change::Call { call_id, record }) => {
                    self.kept_calls.insert(call_id, *record);
                }
                OrchestratorOutput::Store(Change::Over { call_id }) => drop(self.kept_calls.remove(&call_id)),
                other => panic!("{other:?} where no user calls"),
            }
            quiet = false;
        }
    }

    pub(crate) fn drain_gateway(&mut self) -> bool {
        let mut quiet = true;
        loop {
            match self.gateway.poll_output(self.now) {
                EdgeOutput::Timeout(at) => {
                    self.gateway_deadline = at;
                    return quiet;
                }
                EdgeOutput::Engine { command, .. } => self.command(command),
                EdgeOutput::Sip { hop, bytes } => self.send(address(GATEWAY), hop.remote, &bytes),
                EdgeOutput::Timeline(entry) => self.steps.push((entry.step, entry.detail)),
                EdgeOutput::Resolve { query, question } => {
                    let known = self.dns.iter().find(|(known, _)| *known == question);
                    let records = known.map_or_else(|| nothing(&question), |(_, records)| records.clone());
                    self.gateway.resolved(self.now, query, &records);
                }
                EdgeOutput::Notify { event, .. } => self.events.push(event.kind),
                EdgeOutput::Reply { result: Ok(EdgeReply::Created(created)), .. } => {
                    self.token = created.edge_session_id
                }
                EdgeOutput::Reply { result, .. } => assert!(result.is_ok(), "{result:?}"),
                EdgeOutput::Trace(_) => {}
                EdgeOutput::Linked { .. } => {}
                EdgeOutput::Store(change) => self.remember(change),
                EdgeOutput::Dial(request) => self.orchestrator.handle_dial(self.now, meta::WALL_S, request),
            }
            quiet = false;
        }
    }

    pub(crate) fn drain_phone(&mut self, at: SocketAddr) -> bool {
        let mut quiet = true;
        loop {
            let now = self.now;
            let phone = self.phones.get_mut(&at).unwrap();
            match phone.agent.poll_output(now) {
                SipOutput::Timeout(deadline) => {
                    phone.deadline = deadline;
                    return quiet;
                }
                SipOutput::Transmit { hop, bytes } => {
                    if phone.does != Does::Dead {
                        self.send(at, hop.remote, &bytes);
                    }
                }
                SipOutput::Event(event) => hear(phone, now, event),
                SipOutput::Resolve { query, question } => phone.agent.resolved(now, query, &nothing(&question)),
                SipOutput::Trace(_) => {}
            }
            quiet = false;
        }
    }

    /// The engine's part: legs come and go, and what is said about one that is not there is a bug.
    pub(crate) fn command(&mut self, command: Command) {
        match command {
            Command::Open { bridge, config } => {
                let mut played = Played { legs: vec![LegName::A, LegName::B], ..Played::default() };
                let (a, b) = (self.local(&config.a), self.local(&config.b));
                played.configs.extend([(LegName::A, config.a), (LegName::B, config.b)]);
                assert!(self.bridges.insert(bridge, played).is_none(), "a bridge's number was used twice");
                self.gateway.handle_engine(self.now, 0, Event::Opened { bridge, a, b });
            }
            Command::Bridge { bridge, command } => self.bridge_command(bridge, command),
            Command::Stop => panic!("the edge stops no worker"),
        }
    }

    pub(crate) fn bridge_command(&mut self, bridge: BridgeId, command: BridgeCommand) {
        let Some(mut played) = self.bridges.remove(&bridge) else { panic!("{command:?} to a bridge that is gone") };
        let mut event = None;
        match command {
            BridgeCommand::OpenLeg { leg, .. } if self.refuses_legs == Some(bridge) => {
                event = Some(BridgeEvent::LegRefused { leg });
            }
            BridgeCommand::OpenLeg { leg, config } => {
                assert!(leg.is_spare() && !played.legs.contains(&leg), "{leg:?} is taken");
                played.legs.push(leg);
                let local = self.local(&config);
                event = (!self.mute_engine).then_some(BridgeEvent::LegOpened { leg, local });
                played.configs.insert(leg, *config);
            }
            BridgeCommand::CloseLeg { leg } => {
                assert!(leg.is_spare() && played.legs.contains(&leg), "{leg:?} is not there");
                played.legs.retain(|known| *known != leg);
                event = Some(BridgeEvent::LegClosed { leg, cause: None, stats: Default::default() });
            }
            BridgeCommand::SeatLeg { leg, seat } => {
                assert!(leg.is_spare() && !seat.is_spare() && played.legs.contains(&leg), "{leg:?} into {seat:?}");
                played.legs.retain(|known| *known != leg);
                played.seats += 1;
                event = Some(BridgeEvent::LegClosed { leg, cause: None, stats: Default::default() });
            }
            BridgeCommand::SetRemote { leg, remote } => {
                assert!(played.legs.contains(&leg), "{leg:?} is not there");
                played.remotes.push((leg, *remote));
            }
            BridgeCommand::OfferRestart { leg, credentials } => {
                assert!(played.legs.contains(&leg), "{leg:?} is not there");
                played.restarts.push((leg, credentials));
            }
            BridgeCommand::Close => {
                let end = End { side: Side::Engine, cause: Cause::Closed };
                let event = BridgeEvent::Ended { end, stats: Default::default() };
                return self.gateway.handle_engine(self.now, 0, Event::Bridge { bridge, event });
            }
            _ => {}
        }
        self.bridges.insert(bridge, played);
        if let Some(event) = event {
            self.gateway.handle_engine(self.now, 0, Event::Bridge { bridge, event });
        }
    }

    pub(crate) fn local(&mut self, config: &LegConfig) -> LocalLeg {
        self.next_port += 2;
        match config {
            LegConfig::Rtp(_) => LocalLeg::Rtp { ssrc: 1, port: self.next_port },
            LegConfig::Webrtc(_) => LocalLeg::Webrtc {
                ufrag: format!("u{}", self.next_port),
                pwd: "p".repeat(24),
                fingerprint: [7; 32],
                ssrc: 2,
                port: self.next_port,
            },
        }
    }
}

pub(crate) fn nothing(question: &Question) -> Records {
    match question {
        Question::Naptr(_) => Records::Naptr(Vec::new()),
        Question::Srv(_) => Records::Srv(Vec::new()),
        Question::Address(_) => Records::Addresses(Vec::new()),
    }
}
