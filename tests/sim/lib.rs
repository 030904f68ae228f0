//! Whole calls in virtual time: the real orchestrator, the real edge and the real bridges between a played WhatsApp and a
//! played voice bot, on links with seeded faults.
//!
//! ```text
//!   WhatsApp ── webhooks, Graph (late, repeated, failing) ──┐
//!      │                                                    ├── Gateway ── SIP (lossy) ──── Bot
//!      └──────── ICE, DTLS, SRTP (lossy) ───────────────────┘     └────── RTP (lossy) ───────┘
//! ```
//! Time jumps to the next deadline or arrival, so a minute of call takes milliseconds. What must always hold is checked after
//! every step: sequence numbers and timestamps of everything that leaves, silence before the accept, no deadline in the past.
//!
//! Why peers made of our own legs and agent: they are for faults, races and virtual time only. That tandem understands other
//! people's programs is shown by `tests/interop_*.rs`.

pub mod bot;
pub mod gateway;
pub mod link;
pub mod stream;
pub mod tone;
pub mod whatsapp;

use bot::{Behaviour, Bot};
use control::call::edge::{EdgeConfig, Route};
use control::call::orchestrator::OrchestratorConfig;
use control::sip::{Credentials, SipConfig};
use control::trace::timeline::Step;
use control::whatsapp::event::WebhookEvent;
use control::whatsapp::graph::{GraphError, GraphRequest};
use engine::bridge::Shared;
use engine::demux::{Class, classify};
use engine::dtls::Identity;
use engine::random::Random;
use engine::time::{Instant, WallAnchor};
use gateway::{Gateway, Out};
use link::{Faults, Link};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::OnceLock;
use whatsapp::{HttpFaults, WhatsApp};

/// Steps of one run; more means that time stands still.
const STEPS_MAX: u64 = 20_000_000;

/// The seed to use: `SIM_SEED` from the environment, or `default`.
pub fn seed_from_env_or(default: u64) -> u64 {
    std::env::var("SIM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Something that happens at a time.
enum Arrival {
    Datagram { from: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
    Webhook(WebhookEvent),
    Graph(GraphRequest),
    GraphReply { request: u64, result: Result<(), GraphError> },
    UserHangsUp(String),
    BotHangsUp(String),
}

/// The world.
pub struct Sim {
    seed: u64,
    now: Instant,
    queue: BTreeMap<(Instant, u64), Arrival>,
    queued: u64,
    random: Random,
    /// The program under test.
    pub gateway: Gateway,
    /// WhatsApp's side.
    pub whatsapp: WhatsApp,
    /// The SIP side.
    pub bot: Bot,
    webrtc_link: Link,
    rtp_link: Link,
    sip_link: Link,
    tapped: Option<Vec<Tapped>>,
}

/// A datagram that was sent: from, to, bytes.
pub type Tapped = (SocketAddr, SocketAddr, Vec<u8>);

impl Sim {
    /// A world without faults and calls.
    pub fn new(seed: u64) -> Sim {
        Sim::with(seed, |_, _| {})
    }

    /// The same with other settings of the gateway.
    pub fn with(seed: u64, settings: impl FnOnce(&mut OrchestratorConfig, &mut EdgeConfig)) -> Sim {
        let mut random = Random::from_test_seed(seed);
        let shared = Shared { identity: identity().clone(), anchor: WallAnchor { ntp_at_zero: 3_976_214_400 << 32 } };
        let mut orchestrator =
            OrchestratorConfig { phone_number_id: "118000000000021".to_owned(), ..Default::default() };
        let mut edge = edge_config();
        settings(&mut orchestrator, &mut edge);
        let gateway = Gateway::new(orchestrator, edge, shared.clone(), &mut random);
        let whatsapp = WhatsApp::new(shared.clone(), random.fork());
        let bot = Bot::new(shared, random.fork());
        let mut link = || Link::new(random.fork());
        let (webrtc_link, rtp_link, sip_link) = (link(), link(), link());
        Sim {
            seed,
            now: Instant::from_millis(1_000),
            queue: BTreeMap::new(),
            queued: 0,
            gateway,
            whatsapp,
            bot,
            webrtc_link,
            rtp_link,
            sip_link,
            tapped: None,
            random,
        }
    }

    /// The path between WhatsApp's relay and the gateway.
    pub fn webrtc_link(&mut self) -> &mut Link {
        &mut self.webrtc_link
    }

    /// The path of media between gateway and bot.
    pub fn rtp_link(&mut self) -> &mut Link {
        &mut self.rtp_link
    }

    /// The path of signalling between gateway and bot.
    pub fn sip_link(&mut self) -> &mut Link {
        &mut self.sip_link
    }

    /// Now.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Random numbers of this seed, for a test's own draws.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Takes every fault away.
    pub fn heal(&mut self) {
        self.webrtc_link.heal();
        self.rtp_link.heal();
        self.sip_link.heal();
        self.whatsapp.faults = HttpFaults::default();
    }

    /// Draws faults for every link and for the HTTP side.
    pub fn draw_faults(&mut self) {
        self.webrtc_link.set(Faults::draw(&mut self.random));
        self.rtp_link.set(Faults::draw(&mut self.random));
        self.sip_link.set(Faults::draw(&mut self.random));
        self.whatsapp.faults = HttpFaults {
            graph_error_pct: self.random.below(3) * 10,
            graph_ms: self.random.below(800),
            webhook_repeat_pct: self.random.below(60),
            webhook_ms: self.random.below(1_500),
        };
    }

    /// A user calls. The webhook is on its way; answers the call's id.
    pub fn place_call(&mut self) -> String {
        let (id, webhook) = self.whatsapp.call(self.now);
        self.send_webhook(webhook);
        id
    }

    /// The user hangs up after a while.
    pub fn user_hangs_up_in(&mut self, call: &str, millis: u64) {
        self.at(self.now.plus_millis(millis), Arrival::UserHangsUp(call.to_owned()));
    }

    /// The bot hangs up after a while.
    pub fn bot_hangs_up_in(&mut self, call: &str, millis: u64) {
        self.at(self.now.plus_millis(millis), Arrival::BotHangsUp(call.to_owned()));
    }

    /// A datagram from anywhere to anywhere, past all links.
    pub fn inject(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        self.at(self.now, Arrival::Datagram { from, to, bytes: bytes.to_vec() });
    }

    /// From now on every datagram that anybody sends is kept, for a test that wants to repeat or change some.
    pub fn tap(&mut self) {
        self.tapped.get_or_insert_default();
    }

    /// Takes what was kept since the last call, and keeps no more.
    pub fn untap(&mut self) -> Vec<Tapped> {
        self.tapped.take().unwrap_or_default()
    }

    /// Lets time pass.
    pub fn run_for_ms(&mut self, millis: u64) {
        let end = self.now.plus_millis(millis);
        self.run_until(end, |_| false);
        self.now = end;
    }

    /// Lets time pass until `done`, at most so long. Answers whether it came to be.
    pub fn run_until_or_ms(&mut self, millis: u64, done: impl FnMut(&Sim) -> bool) -> bool {
        let end = self.now.plus_millis(millis);
        self.run_until(end, done)
    }

    /// Whether media was released in a call.
    pub fn is_bridged(&self, call: &str) -> bool {
        self.has_step(call, Step::Release)
    }

    /// Whether a step is on a call's timeline.
    pub fn has_step(&self, call: &str, step: Step) -> bool {
        self.gateway.entries.iter().any(|entry| entry.call_id == call && entry.step == step)
    }

    /// Why a call ended, in words, by its timeline.
    pub fn end_of(&self, call: &str) -> Option<String> {
        let of_call = |entry: &&control::trace::timeline::Entry| entry.call_id == call && entry.step == Step::End;
        self.gateway.entries.iter().find(of_call).map(|entry| entry.detail.clone())
    }

    /// The bot hears the caller's tone.
    ///
    /// # Panics
    /// When it does not.
    pub fn assert_bot_hears_caller(&self, call: &str) {
        let share = tone::share_of(self.bot.heard(call), tone::CALLER_HZ, 8_000);
        assert!(share > 0.8, "the bot does not hear the caller ({share:.2} of what it hears)");
    }

    /// The caller hears the bot's tone.
    ///
    /// # Panics
    /// When it does not.
    pub fn assert_caller_hears_bot(&self, call: &str) {
        let share = tone::share_of(self.whatsapp.heard(call), tone::BOT_HZ, 8_000);
        assert!(share > 0.8, "the caller does not hear the bot ({share:.2} of what it hears)");
    }

    /// Ends all calls that still live, lets everything come to rest on healed links, and checks that nothing is left.
    ///
    /// # Panics
    /// When something is.
    pub fn settle(&mut self) {
        self.heal();
        let live: Vec<String> =
            self.whatsapp.calls().filter(|call| call.ended_at.is_none()).map(|call| call.id.clone()).collect();
        for call in live {
            self.user_hangs_up_in(&call, 0);
        }
        // Timers B, D, F, H and J of RFC 3261 §17 are 32 s each, and a retried goodbye takes two of them.
        self.run_for_ms(180_000);
        self.gateway.assert_empty();
        self.bot.assert_empty();
        let calls: Vec<String> = self.whatsapp.calls().map(|call| call.id.clone()).collect();
        for call in calls {
            self.assert_ended_well(&call);
        }
    }

    fn assert_ended_well(&self, call: &str) {
        let known = self.gateway.entries.iter().any(|entry| entry.call_id == call);
        let user = self.whatsapp.get(call);
        assert!(user.ended_at.is_some(), "WhatsApp was never told that {call} ended");
        assert!(user.accepts <= 1, "{call} was accepted twice");
        if known {
            let detail = self.end_of(call).unwrap_or_else(|| panic!("{call} has no end: {:#?}", self.steps(call)));
            assert!(!detail.is_empty(), "{call} ended without a reason");
        }
    }

    /// A call's steps, for a failing test.
    pub fn steps(&self, call: &str) -> Vec<String> {
        let of_call = self.gateway.entries.iter().filter(|entry| entry.call_id == call);
        of_call.map(|entry| format!("{:>7} ms {} {}", entry.at.as_millis(), entry.step.name(), entry.detail)).collect()
    }

    fn run_until(&mut self, end: Instant, mut done: impl FnMut(&Sim) -> bool) -> bool {
        for _ in 0..STEPS_MAX {
            self.drain();
            if done(self) {
                return true;
            }
            let arrival = self.queue.first_key_value().map_or(Instant::NEVER, |((at, _), _)| *at);
            let timer = self.gateway.deadline().min(self.whatsapp.deadline()).min(self.bot.deadline());
            if arrival.min(timer) > end {
                return false;
            }
            self.now = self.now.max(arrival.min(timer));
            // What is due fires before what arrives at the same instant: after a drain no deadline may be due.
            if timer <= self.now {
                self.gateway.handle_timeout(self.now);
                self.whatsapp.handle_timeout(self.now);
                self.bot.handle_timeout(self.now);
            } else {
                let (_, arrival) = self.queue.pop_first().expect("it was looked at");
                self.deliver(arrival);
            }
        }
        panic!("time stands still at {:?}", self.now);
    }

    fn deliver(&mut self, arrival: Arrival) {
        let now = self.now;
        match arrival {
            Arrival::Datagram { from, to, mut bytes } => {
                if to.ip() == gateway::ADDRESS {
                    self.gateway.handle_datagram(now, from, to, &mut bytes);
                } else if to == whatsapp::RELAY {
                    self.whatsapp.handle_datagram(now, from, &mut bytes);
                } else if to.ip() == bot::ADDRESS {
                    self.bot.handle_datagram(now, from, to, &mut bytes);
                }
            }
            Arrival::Webhook(event) => {
                let wall = whatsapp::WALL_SECONDS + now.as_millis() / 1_000;
                self.gateway.handle_webhook(now, wall, vec![event]);
            }
            Arrival::Graph(request) => self.act_for_graph(&request),
            Arrival::GraphReply { request, result } => self.gateway.handle_graph(now, request, result),
            Arrival::UserHangsUp(call) => {
                if let Some(webhook) = self.whatsapp.hang_up(now, &call) {
                    self.send_webhook(webhook);
                }
            }
            Arrival::BotHangsUp(call) => self.bot.hang_up(now, &call),
        }
    }

    fn act_for_graph(&mut self, request: &GraphRequest) {
        let (result, webhook) = self.whatsapp.handle_graph(self.now, request);
        let back = self.now.plus_millis(10 + u64::from(self.random.below(self.whatsapp.faults.graph_ms + 1)));
        self.at(back, Arrival::GraphReply { request: request.request, result });
        if let Some(webhook) = webhook {
            self.send_webhook(webhook);
        }
    }

    fn send_webhook(&mut self, webhook: WebhookEvent) {
        let faults = self.whatsapp.faults;
        let copies = if self.random.below(100) < faults.webhook_repeat_pct { 2 + self.random.below(2) } else { 1 };
        for _ in 0..copies {
            let at = self.now.plus_millis(20 + u64::from(self.random.below(faults.webhook_ms + 1)));
            self.at(at, Arrival::Webhook(webhook.clone()));
        }
    }

    fn drain(&mut self) {
        let mut from_gateway = Vec::new();
        self.gateway.drain(self.now, &mut from_gateway);
        for out in from_gateway {
            match out {
                Out::Graph(request) => {
                    let at = self.now.plus_millis(10 + u64::from(self.random.below(self.whatsapp.faults.graph_ms + 1)));
                    self.at(at, Arrival::Graph(request));
                }
                Out::Datagram { from, to, bytes } => self.transmit(from, to, bytes),
            }
        }
        let mut from_relay = Vec::new();
        self.whatsapp.drain(self.now, &mut from_relay);
        for (to, bytes) in from_relay {
            self.transmit(whatsapp::RELAY, to, bytes);
        }
        let mut from_bot = Vec::new();
        self.bot.drain(self.now, &mut from_bot);
        for (from, to, bytes) in from_bot {
            self.transmit(from, to, bytes);
        }
    }

    fn transmit(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        if let Some(tapped) = &mut self.tapped {
            tapped.push((from, to, bytes.clone()));
        }
        let to_whatsapp = to == whatsapp::RELAY;
        if to_whatsapp && matches!(classify(&bytes), Class::Rtp | Class::Rtcp) {
            assert!(
                self.whatsapp.is_accepted(from),
                "media left toward WhatsApp before accept returned 200, at {:?}",
                self.now
            );
        }
        let link = if to_whatsapp || from == whatsapp::RELAY {
            &mut self.webrtc_link
        } else if to == bot::SIP || from == bot::SIP {
            &mut self.sip_link
        } else {
            &mut self.rtp_link
        };
        for at in link.arrivals(self.now) {
            self.at(at, Arrival::Datagram { from, to, bytes: bytes.clone() });
        }
    }

    fn at(&mut self, at: Instant, arrival: Arrival) {
        self.queued += 1;
        self.queue.insert((at, self.queued), arrival);
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        eprintln!("SIM_SEED={} at {} ms", self.seed, self.now.as_millis());
        let calls: Vec<String> = self.whatsapp.calls().map(|call| call.id.clone()).collect();
        for call in calls {
            eprintln!("{call}");
            self.steps(&call).iter().for_each(|step| eprintln!("  {step}"));
        }
    }
}

/// What a whole seeded call does in the swarm: faults on every link, a bot with a will of its own, and a hang-up at any instant.
///
/// # Panics
/// When anything that must hold does not.
pub fn one_seeded_call(seed: u64) -> Outcome {
    let mut sim = Sim::new(seed);
    sim.draw_faults();
    sim.bot.behaviour = draw_behaviour(sim.random());
    // One number in five is set to SDES.
    sim.whatsapp.sdes = seed.is_multiple_of(5);
    let call = sim.place_call();
    if sim.random().below(2) == 0 {
        let at = u64::from(sim.random().below(8_000));
        sim.user_hangs_up_in(&call, at);
    }
    let talk_ms = u64::from(sim.random().below(3_000));
    let over =
        |sim: &Sim| sim.is_bridged(&call) || sim.end_of(&call).is_some() || sim.whatsapp.get(&call).ended_at.is_some();
    // Ringing takes at most 25 s and DTLS 8 s; a Graph that fails is asked again for a while.
    let came_to_rest = sim.run_until_or_ms(90_000, over);
    assert!(came_to_rest, "neither bridged nor ended after 90 s");
    let bridged = sim.is_bridged(&call);
    if bridged {
        sim.run_for_ms(talk_ms);
    }
    sim.settle();
    Outcome { bridged, end: sim.end_of(&call).unwrap_or_default() }
}

/// What became of a call.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Media flowed.
    pub bridged: bool,
    /// Why it ended; empty when it ended before the gateway learned of it.
    pub end: String,
}

fn draw_behaviour(random: &mut Random) -> Behaviour {
    let after_ms = u64::from(random.below(4_000));
    match random.below(10) {
        0 => Behaviour::Refuse { code: 486, after_ms },
        1 => Behaviour::Ring,
        2..=4 => Behaviour::Answer { after_ms, hang_up_after_ms: Some(u64::from(random.below(4_000))) },
        _ => Behaviour::Answer { after_ms, hang_up_after_ms: None },
    }
}

fn edge_config() -> EdgeConfig {
    let sip = SipConfig { accept_incoming: false, ..SipConfig::new(gateway::SIP, "tandem", "tandem") };
    let mut edge = EdgeConfig::new(sip, gateway::ADDRESS, &format!("sip:bot@{}", bot::SIP));
    let credentials = Credentials { username: bot::USERNAME.to_owned(), password: bot::PASSWORD.to_owned() };
    edge.default_route = Some(Route { credentials: Some(credentials), ..Route::new(&format!("sip:bot@{}", bot::SIP)) });
    edge
}

/// One certificate for all simulations of a process: making one costs more than a short call.
fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| Identity::generate().expect("a certificate"))
}
