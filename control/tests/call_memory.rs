//! What the control plane holds of the heap for a call that is up, by kind of call.
//!
//! Counted is every byte that this program has asked for and not given back: nothing that a call leaves behind escapes, whoever holds it.
//! The engine and the other ends are played, and the test itself keeps nothing for a call but numbers. Time is virtual, so that everything
//! of the set-up is over: SIP's transactions live for 32 s after it.
//!
//! A call costs what as many calls again add: tables that grow by doubling are met at different fillings.

use control::call::edge::{Edge, EdgeConfig, EdgeOutput, Route};
use control::call::orchestrator::{Orchestrator, OrchestratorConfig, OrchestratorOutput};
use control::call::{EdgeEventKind, EdgeReply, EdgeRequest, NewSession};
use control::config::TraceSettings;
use control::route::{Destination, Transport, Trunk};
use control::sip::{Credentials, SipConfig};
use control::store::Change;
use control::trace::board::Board;
use control::trace::timeline::{Entry, Step, Timeline};
use control::whatsapp::event;
use engine::bridge::{BridgeConfig, BridgeEvent, BridgeId, LegConfig, LegName};
use engine::dtls::DtlsVersion;
use engine::leg::{LegEvent, LocalLeg};
use engine::random::Random;
use engine::srtp::SrtpProfile;
use engine::time::Instant;
use engine::worker::{Command, Event};
use std::alloc::{GlobalAlloc, Layout, System};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};

/// Counts the bytes that are asked for and not given back.
struct Counting;

static BYTES: AtomicI64 = AtomicI64::new(0);

// SAFETY: every call is passed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        BYTES.fetch_add(size as i64 - layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const KIB: usize = 1_024;

const GATEWAY: &str = "127.0.0.1:5060";
const BOT: &str = "127.0.0.1:5080";
const TRUNK: &str = "127.0.0.7:5060";
const WALL_S: u64 = 1_767_225_600;

/// Long enough for every timer of RFC 3261 §17, and for the reports and keys that come once.
const SETTLED_MS: u64 = 40_000;

/// Calls begin so far from each other.
const PAUSE_MS: u64 = 20;

const ANSWER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
    m=audio 4000 RTP/AVP 0 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\n";

/// Where a call comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// A webhook.
    Whatsapp,
    /// The orchestrator of somebody else, or of another process: no webhook comes here.
    Orchestrator,
    /// SIP: the call is an exchange of two SIP calls.
    Trunk,
}

/// A whole control plane, whose engine, WhatsApp and bot do what a call needs and remember nothing.
struct World {
    orchestrator: Orchestrator,
    edge: Edge,
    timeline: Timeline,
    board: Board,
    now: Instant,
    due: Instant,
    placed: u64,
    bridge: BridgeId,
    from: Origin,
    /// The last INVITE to the bot.
    invite: String,
    /// The last 200 to the trunk.
    ok: String,
    /// Calls that the far side, and who waits for it, know to be answered.
    accepted: u64,
}

impl World {
    fn new(from: Origin, messages: bool) -> World {
        let sip = SipConfig::new(address(GATEWAY), "tandem", "tandem");
        let mut config = EdgeConfig::new(sip, address(GATEWAY).ip(), "sip:bot@127.0.0.1:5080");
        config.default_route = Some(Route {
            headers: vec![("X-Twilio-Account".to_owned(), "AC1".to_owned())],
            credentials: Some(Credentials { username: "u".to_owned(), password: "p".to_owned() }),
            ..Route::new("sip:bot@127.0.0.1:5080")
        });
        config.dialplan.trunks = vec![Trunk {
            allowed_sources: vec!["127.0.0.7/32".parse().unwrap()],
            to: Some(Destination::Uri("sip:bot@127.0.0.1:5080".to_owned())),
            calls_max: 10_000,
            ..Trunk::new("carrier", "127.0.0.7", Transport::Udp)
        }];
        let settings = OrchestratorConfig { phone_number_id: "118000000000021".to_owned(), ..Default::default() };
        let trace = TraceSettings { messages, bytes_max: 1 << 30, ..TraceSettings::default() };
        let mut world = World {
            orchestrator: Orchestrator::new(settings, Random::from_test_seed(1)),
            edge: Edge::new(config, 1, Random::from_test_seed(2)),
            timeline: Timeline::new(),
            board: Board::new(trace, address(GATEWAY)),
            now: Instant::from_millis(1_000),
            due: Instant::NEVER,
            placed: 0,
            bridge: BridgeId(0),
            from,
            invite: String::new(),
            ok: String::new(),
            accepted: 0,
        };
        world.orchestrator.restore(world.now, WALL_S, Default::default());
        world.edge.restore(world.now, Default::default());
        world.edge.set_tracing(messages);
        world
    }

    /// Somebody calls, the bot rings and answers, and the media are up.
    fn place(&mut self) {
        self.placed += 1;
        match self.from {
            Origin::Whatsapp => self.webhook(),
            Origin::Orchestrator => self.new_session(),
            Origin::Trunk => self.ring_from_trunk(),
        }
        if self.from != Origin::Trunk {
            // The bot asks who calls.
            for status in ["100 Trying", "407 Proxy Authentication Required"] {
                let challenge = "Proxy-Authenticate: Digest realm=\"r\", nonce=\"n\", qop=\"auth\", algorithm=MD5\r\n";
                self.say(status, challenge, "");
            }
            assert!(self.invite.contains("Proxy-Authorization: Digest"), "{}", self.invite);
        }
        self.say("100 Trying", "", "");
        self.say("180 Ringing", "Contact: <sip:bot@127.0.0.1:5080>\r\n", "");
        if self.from != Origin::Trunk {
            let (version, profile) = (DtlsVersion::V12, SrtpProfile::AeadAes128Gcm);
            self.leg(LegName::A, LegEvent::IceNominated(address("203.0.113.49:3480")));
            self.leg(LegName::A, LegEvent::DtlsConnected { version, profile });
        }
        self.say("200 OK", "Contact: <sip:bot@127.0.0.1:5080>\r\nContent-Type: application/sdp\r\n", ANSWER);
        if self.from == Origin::Trunk {
            self.acknowledge();
        }
        for leg in [LegName::A, LegName::B] {
            self.leg(leg, LegEvent::FirstReceived);
            self.leg(leg, LegEvent::FirstSent);
        }
        assert_eq!(self.accepted, self.placed, "whoever waits is told of the answer");
        self.run_ms(PAUSE_MS);
    }

    fn webhook(&mut self) {
        let webhook = include_str!("data/whatsapp/connect-uic.wire.json");
        // As long as WhatsApp's own.
        let tail = format!("{:06}CgA==", self.placed);
        let webhook = webhook.replace("UCABUKAA==", &tail).replace("1767225600\"", &format!("{}\"", self.wall_s()));
        let events = event::parse(webhook.as_bytes(), event::FlatForm::ByContent).unwrap();
        self.orchestrator.handle_webhook(self.now, self.wall_s(), events);
        self.drain();
    }

    fn new_session(&mut self) {
        let webhook = include_str!("data/whatsapp/connect-uic.wire.json");
        let webhook: serde_json::Value = serde_json::from_str(webhook).unwrap();
        let offer = webhook.pointer("/entry/0/changes/0/value/calls/0/session/sdp").unwrap().as_str().unwrap();
        let new = NewSession {
            call_id: format!(
                "wacid.HBgMNDQ3NzAwOTAwMTIzFQIAEhggM0ZBODVGNjQ1NzE3NDU2MkIzRkMyQzk2M0Y2NkFGQTYcGAsx{}",
                self.placed
            ),
            sdp_offer: offer.to_owned(),
            from: Some("447700900123".to_owned()),
            to: Some("15550100123".to_owned()),
            ..NewSession::default()
        };
        self.edge.handle_request(self.now, self.placed, EdgeRequest::New(Box::new(new)));
        self.drain();
    }

    /// A carrier's INVITE, with two proxies on its way.
    fn ring_from_trunk(&mut self) {
        let invite = self.message_of_trunk("INVITE", "sip:15550100123@127.0.0.1:5060", "");
        self.edge.handle_sip(self.now, address(TRUNK), invite.as_bytes());
        self.drain();
    }

    fn acknowledge(&mut self) {
        let tag = self.ok.lines().find(|line| line.starts_with("To: ")).and_then(|line| line.split(";tag=").nth(1));
        let ack = self.message_of_trunk("ACK", "sip:tandem@127.0.0.1:5060", &format!(";tag={}", tag.unwrap()));
        self.edge.handle_sip(self.now, address(TRUNK), ack.as_bytes());
        self.drain();
    }

    fn message_of_trunk(&self, method: &str, uri: &str, tag: &str) -> String {
        let n = self.placed;
        let (routes, body) = match method {
            "INVITE" => ("Record-Route: <sip:127.0.0.7;lr>\r\nRecord-Route: <sip:10.0.0.8;lr>\r\n", ANSWER),
            _ => ("", ""),
        };
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {TRUNK};branch=z9hG4bK{method}{n}\r\n{routes}Max-Forwards: 70\r\n\
             From: \"Ana Example\" <sip:+447700900123@carrier.example>;tag=carrier-{n:08}\r\nTo: <sip:15550100123@127.0.0.1>{tag}\r\n\
             Call-ID: 8f2c1d7ab64e4b1c9d3a{n:08}@carrier.example\r\nCSeq: 1 {method}\r\nContact: <sip:+447700900123@{TRUNK}>\r\n\
             Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn wall_s(&self) -> u64 {
        WALL_S + self.now.as_millis() / 1_000
    }

    /// The bot's response to the last INVITE.
    fn say(&mut self, status: &str, headers: &str, body: &str) {
        let mut response = format!("SIP/2.0 {status}\r\n");
        for line in self.invite.lines().take_while(|line| !line.is_empty()) {
            match line.split(':').next().unwrap_or_default() {
                "Via" | "From" | "Call-ID" | "CSeq" => response.push_str(&format!("{line}\r\n")),
                "To" => response.push_str(&format!("{line};tag=as7f21c0d3-{:08}\r\n", self.placed)),
                _ => {}
            }
        }
        let response = format!("{response}{headers}Content-Length: {}\r\n\r\n{body}", body.len());
        self.edge.handle_sip(self.now, address(BOT), response.as_bytes());
        self.drain();
    }

    fn leg(&mut self, leg: LegName, event: LegEvent) {
        let event = BridgeEvent::Leg { leg, event };
        self.edge.handle_engine(self.now, 0, Event::Bridge { bridge: self.bridge, event });
        self.drain();
    }

    fn open(&mut self, bridge: BridgeId, config: &BridgeConfig) {
        self.bridge = bridge;
        let first = 20_000 + (bridge.0 % 10_000) as u16 * 4;
        let local = |leg: &LegConfig, port: u16, ssrc: u32| match leg {
            LegConfig::Rtp(_) => LocalLeg::Rtp { ssrc, port },
            LegConfig::Webrtc(_) => {
                let (ufrag, pwd) = ("ufraggfu".to_owned(), "p".repeat(24));
                LocalLeg::Webrtc { ufrag, pwd, fingerprint: [7; 32], ssrc, port }
            }
        };
        let (a, b) = (local(&config.a, first, bridge.0 as u32), local(&config.b, first + 2, !bridge.0 as u32));
        self.edge.handle_engine(self.now, 0, Event::Opened { bridge, a, b });
    }

    fn run_ms(&mut self, millis: u64) {
        let until = self.now.plus_millis(millis);
        while self.due <= until {
            self.now = self.now.max(self.due);
            self.orchestrator.handle_timeout(self.now);
            self.edge.handle_timeout(self.now);
            self.drain();
        }
        self.now = until;
    }

    fn drain(&mut self) {
        loop {
            let (orchestrator, any_there) = self.drain_orchestrator();
            let (edge, any_here) = self.drain_edge();
            if !any_there && !any_here {
                return self.due = orchestrator.min(edge);
            }
        }
    }

    fn drain_orchestrator(&mut self) -> (Instant, bool) {
        let mut any = false;
        loop {
            match self.orchestrator.poll_output(self.now) {
                OrchestratorOutput::Timeout(due) => return (due, any),
                OrchestratorOutput::Graph(request) => {
                    self.orchestrator.handle_graph(self.now, request.request, Ok(()));
                }
                OrchestratorOutput::Edge { request, what } => self.edge.handle_request(self.now, request, what),
                OrchestratorOutput::Timeline(entry) => self.note(&entry),
                OrchestratorOutput::Store(Change::Call { .. }) => {}
                OrchestratorOutput::Decided { accepted, .. } => self.accepted += u64::from(accepted),
                other => panic!("{other:?}"),
            }
            any = true;
        }
    }

    fn drain_edge(&mut self) -> (Instant, bool) {
        let mut any = false;
        loop {
            match self.edge.poll_output(self.now) {
                EdgeOutput::Timeout(due) => return (due, any),
                EdgeOutput::Reply { request, result } => {
                    assert!(matches!(result, Ok(EdgeReply::Created(_) | EdgeReply::Done)), "{result:?}");
                    if self.from == Origin::Whatsapp {
                        self.orchestrator.handle_edge_reply(self.now, request, result);
                    }
                }
                EdgeOutput::Engine { command: Command::Open { bridge, config }, .. } => self.open(bridge, &config),
                EdgeOutput::Engine { .. } => {}
                EdgeOutput::Sip { bytes, .. } if bytes.starts_with(b"INVITE ") => {
                    self.invite.clear();
                    self.invite.push_str(std::str::from_utf8(&bytes).unwrap());
                }
                EdgeOutput::Sip { bytes, .. } if bytes.starts_with(b"SIP/2.0 200 ") => {
                    self.ok.clear();
                    self.ok.push_str(std::str::from_utf8(&bytes).unwrap());
                    self.accepted += 1;
                }
                EdgeOutput::Sip { bytes, .. } => {
                    assert!(bytes.starts_with(b"ACK ") || bytes.starts_with(b"SIP/2.0 1"), "{bytes:?}");
                }
                EdgeOutput::Notify { event, .. } if self.from == Origin::Whatsapp => {
                    self.orchestrator.handle_edge_event(self.now, event);
                }
                EdgeOutput::Notify { event, .. } => {
                    self.accepted += u64::from(event.kind == EdgeEventKind::Answered);
                }
                EdgeOutput::Timeline(entry) => self.note(&entry),
                EdgeOutput::Trace(message) => drop(self.board.take(&message, 0)),
                EdgeOutput::Linked { call_id, sip_call_id } => self.board.link(&call_id, &sip_call_id),
                EdgeOutput::Store(Change::Dialog { .. }) => {}
                other => panic!("{other:?}"),
            }
            any = true;
        }
    }

    fn note(&mut self, entry: &Entry) {
        assert_ne!(entry.step, Step::End, "{entry:?}");
        self.timeline.push(entry);
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What another `count` calls cost, each.
fn bytes_each(world: &mut World, count: u64) -> usize {
    let before = BYTES.load(Ordering::Relaxed);
    for _ in 0..count {
        world.place();
    }
    world.run_ms(SETTLED_MS);
    let alive = world.edge.alive();
    assert_eq!((alive.sessions as u64, alive.sip_transactions), (world.placed, 0));
    usize::try_from(BYTES.load(Ordering::Relaxed) - before).unwrap() / count as usize
}

/// One test: the counter is one for the whole program.
#[test]
fn a_call_that_is_up_holds_no_more_of_the_control_plane_than_is_planned_for_it() {
    for (from, messages, bytes_max) in [
        (Origin::Orchestrator, false, 6 * KIB),
        (Origin::Whatsapp, false, 7 * KIB),
        (Origin::Trunk, false, 7 * KIB),
        (Origin::Orchestrator, true, 12 * KIB),
        (Origin::Whatsapp, true, 13 * KIB),
        (Origin::Trunk, true, 13 * KIB),
    ] {
        let mut world = World::new(from, messages);
        bytes_each(&mut world, 100);
        let bytes = bytes_each(&mut world, 400);
        let kind = format!("from {from:?}, {} SIP messages", if messages { "with" } else { "without" });
        println!("{kind}: {bytes} bytes");
        assert!(bytes <= bytes_max, "{kind}: {bytes} bytes");
        assert!(bytes > bytes_max / 2, "{kind}: {bytes} bytes: the plan is out of date");
    }
}
