//! A thousand calls against the stand-in's Graph with everything that WhatsApp's side does wrong at once: each webhook comes three
//! times and out of order, some are stale, some `terminate` overtakes its `connect`, Graph fails with 5xx (before or after it acted)
//! and is slow. What must hold all the same: one accept for an answered call, none for one that had ended, and every call is over
//! on both sides in the end.
//!
//! The edge is played, since media is not the question here: it answers offers, says `media_ready` and `answered`, and ends some
//! calls by itself. Whole calls with media under faults are the simulator's.

use crate::graph::{Event, Graph};
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use control::config::{Config, Mode};
use control::runtime::Input;
use control::server::start;
use control::trace::redact::Secret;
use control::whatsapp::signature;
use engine::io::clock;
use engine::random::Random;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const CALLS: usize = 1_000;
const SECRET: &str = "test-app-secret";
const NUMBER: &str = "118000000000021";
/// Graph requests that fail with 500, per cent; half of them were carried out.
const FAILING_PCT: u32 = 15;
/// Graph is slow by up to this.
const SLOW_MS: u32 = 400;

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Its connect is older than WhatsApp rings.
    Stale,
    /// Its terminate comes before its connect.
    Overtaken,
    /// The user hangs up while it rings.
    HangsUpEarly,
    /// Answered; the user hangs up.
    UserEnds,
    /// Answered; the far side hangs up.
    FarSideEnds,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    /// Accepts that Graph carried out.
    accepted: u32,
    /// Accepts that were asked for.
    asked_to_accept: u32,
    /// Whether WhatsApp knows that it is over.
    over: bool,
    /// The edge's session and its state.
    session: Option<bool>,
}

struct World {
    graph: Mutex<Graph>,
    random: Mutex<Random>,
    calls: Mutex<BTreeMap<String, Seen>>,
}

impl World {
    fn calls(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn below(&self, bound: u32) -> u32 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).below(bound)
    }

    fn ended_by_user(&self, id: &str) {
        self.graph().ended(id);
        self.calls().entry(id.to_owned()).or_default().over = true;
    }
}

type Shared = Arc<World>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_calls_survive_everything_that_webhooks_and_graph_do_wrong() {
    let seed = std::env::var("SIM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let world: Shared = Arc::new(World {
        graph: Mutex::new(Graph::new("graph-token", NUMBER)),
        random: Mutex::new(Random::from_test_seed(seed)),
        calls: Mutex::default(),
    });
    let graph = serve(Router::new().route("/v24.0/{number}/calls", post(calls)).with_state(world.clone())).await;
    let edge = Router::new().route("/webrtc/new", post(new)).route("/webrtc/release", post(done));
    let edge = edge.route("/webrtc/hangup", post(hangup)).route("/webrtc/keepalive", post(keepalive));
    let edge = serve(edge.with_state(world.clone())).await;
    let mut config = Config::read("", |_| None).expect("an empty configuration");
    config.whatsapp.token = Secret("graph-token".into());
    config.whatsapp.base = format!("{graph}/v24.0");
    config.whatsapp.app_secret = Secret(SECRET.into());
    config.whatsapp.calls_max = 2 * CALLS;
    let folder = std::env::temp_dir().join(format!("tandem-chaos-{}", std::process::id()));
    config.whatsapp.store = Some(folder.join("tandem.redb"));
    config.http.bind = [127, 0, 0, 1].into();
    config.http.port = 0;
    config.edge.api = Some(edge);
    config.edge.callback_url = Some("http://127.0.0.1:9/edge/events".into());
    let running = start(config, Mode::Orchestrator).await.expect("it starts");
    let base = format!("http://{}", running.webhooks.expect("webhooks are served"));

    let user = User { world: world.clone(), base, http: reqwest::Client::new() };
    let mut tasks = Vec::new();
    for number in 0..CALLS {
        let kind = match world.below(100) {
            0..5 => Kind::Stale,
            5..15 => Kind::Overtaken,
            15..35 => Kind::HangsUpEarly,
            35..70 => Kind::UserEnds,
            _ => Kind::FarSideEnds,
        };
        let user = user.clone();
        tasks.push((kind, tokio::spawn(async move { user.live(number, kind).await })));
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    let mut lived = Vec::new();
    for (kind, task) in tasks {
        lived.push((kind, task.await.expect("no call panics")));
    }
    user.wait_for("tandem_calls_alive", 0, 60).await;
    check(&world, &lived);
    assert_eq!(user.metric("tandem_store_lost_total").await, 0);
    // What came again long after the end begins nothing.
    let (_, ended) = lived.iter().find(|(kind, _)| *kind == Kind::UserEnds).expect("a call that was answered");
    user.deliver(&connect(ended, "v=0", None)).await;
    assert_eq!(user.metric("tandem_calls_alive").await, 0);
    running.inputs.send(Input::Stop).await.expect("it runs");
    tokio::time::timeout(Duration::from_secs(10), running.finished()).await.expect("it stops").expect("without fault");
    let _ = std::fs::remove_dir_all(folder);
}

/// What must hold for every call in the end.
fn check(world: &World, lived: &[(Kind, String)]) {
    let calls = world.calls();
    let mut answered = 0;
    for (kind, id) in lived {
        let seen = calls.get(id).cloned().unwrap_or_default();
        assert!(seen.accepted <= 1, "{id} {kind:?}: accepted {} times", seen.accepted);
        assert_ne!(seen.session, Some(true), "{id} {kind:?}: its session lives on at the edge");
        match kind {
            Kind::Stale => assert_eq!((seen.session, seen.asked_to_accept), (None, 0), "{id}: stale, and yet begun"),
            Kind::Overtaken => assert_eq!((seen.session, seen.asked_to_accept), (None, 0), "{id}: over, and yet begun"),
            Kind::HangsUpEarly => assert_eq!(seen.asked_to_accept, 0, "{id}: over, and yet accepted"),
            Kind::UserEnds | Kind::FarSideEnds => {
                assert!(seen.over, "{id} {kind:?}: WhatsApp does not know that it is over");
                answered += usize::from(seen.accepted == 1);
            }
        }
    }
    let wanted = lived.iter().filter(|(kind, _)| matches!(kind, Kind::UserEnds | Kind::FarSideEnds)).count();
    println!("{answered} of {wanted} calls that were answered came to be; the others fell to Graph's failures");
    assert!(answered * 100 >= wanted * 80, "only {answered} of {wanted} answered calls were accepted");
}

/// One user with a phone.
#[derive(Clone)]
struct User {
    world: Shared,
    base: String,
    http: reqwest::Client,
}

impl User {
    /// Plays a call from its first webhook to its end; answers its id.
    async fn live(self, number: usize, kind: Kind) -> String {
        let id = format!("wacid.{number:04}+/{:08x}==", self.world.below(u32::MAX));
        let offer = offer(number);
        self.world.graph().placed(&id, &offer);
        let age = if kind == Kind::Stale { Some(120) } else { Some(0) };
        let connect = connect(&id, &offer, age);
        match kind {
            Kind::Stale => self.thrice(&connect).await,
            Kind::Overtaken => {
                self.world.ended_by_user(&id);
                self.deliver(&terminate(&id)).await;
                let terminate = terminate(&id);
                tokio::join!(self.thrice(&connect), self.thrice(&terminate));
            }
            Kind::HangsUpEarly => {
                self.thrice(&connect).await;
                self.world.ended_by_user(&id);
                self.thrice(&terminate(&id)).await;
                // Now that tandem knows, the far side answers: too late.
                self.far_side(&id, &[json!({"event": "media_ready"}), json!({"event": "answered"})]).await;
            }
            Kind::UserEnds | Kind::FarSideEnds => {
                let repeated = {
                    let (user, connect) = (self.clone(), connect.clone());
                    tokio::spawn(async move { user.thrice(&connect).await })
                };
                self.until_session(&id).await;
                self.far_side(&id, &[json!({"event": "answered"}), json!({"event": "media_ready"})]).await;
                tokio::time::sleep(Duration::from_millis(u64::from(500 + self.world.below(3_000)))).await;
                if kind == Kind::UserEnds {
                    self.world.ended_by_user(&id);
                    self.thrice(&terminate(&id)).await;
                } else {
                    self.far_side(&id, &[json!({"event": "ended", "side": "sip", "cause": "bye", "detail": ""})]).await;
                }
                let _ = repeated.await;
            }
        }
        id
    }

    /// The same webhook three times, each late by a random bit, in a batch of its own or with strangers.
    async fn thrice(&self, call: &Value) {
        let one = async || {
            tokio::time::sleep(Duration::from_millis(u64::from(self.world.below(150)))).await;
            self.deliver(call).await;
        };
        tokio::join!(one(), one(), one());
    }

    async fn deliver(&self, call: &Value) {
        let strangers = (0..self.world.below(3)).map(|_| json!({"field": "messages", "value": {}}));
        let mut changes: Vec<Value> = strangers.collect();
        changes.push(json!({"field": "calls", "value": {"metadata": {"phone_number_id": NUMBER}, "calls": [call]}}));
        let body = json!({"object": "whatsapp_business_account", "entry": [{"id": "117", "changes": changes}]});
        let bytes = serde_json::to_vec(&body).expect("JSON");
        let signed = signature::sign(SECRET, &bytes);
        for _ in 0..100 {
            let request = self.http.post(format!("{}/wa/webhook", self.base)).header("x-hub-signature-256", &signed);
            if request.body(bytes.clone()).send().await.is_ok_and(|reply| reply.status().is_success()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("a webhook was never taken");
    }

    /// Events of the edge, each twice.
    async fn far_side(&self, id: &str, events: &[Value]) {
        for (index, event) in events.iter().enumerate() {
            let mut event = event.clone();
            event["edge_session_id"] = session_of(id).into();
            event["call_id"] = id.into();
            event["sequence"] = (index + 1).into();
            if event["event"] == "ended" {
                event["sequence"] = 9.into();
                self.world.calls().entry(id.to_owned()).or_default().session = Some(false);
            }
            for _ in 0..2 {
                let reply = self.http.post(format!("{}/edge/events", self.base)).json(&event).send().await;
                assert!(reply.is_ok_and(|reply| reply.status().is_success()), "an event was not taken");
            }
        }
    }

    async fn until_session(&self, id: &str) {
        for _ in 0..1_000 {
            if self.world.calls().get(id).is_some_and(|seen| seen.session.is_some()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{id} never came to the edge");
    }

    async fn metric(&self, name: &str) -> u64 {
        let text =
            self.http.get(format!("{}/metrics", self.base)).send().await.expect("metrics").text().await.expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} is not in\n{text}"))
    }

    async fn wait_for(&self, name: &str, value: u64, seconds: u64) {
        for _ in 0..seconds * 10 {
            if self.metric(name).await == value {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{name} is {} and not {value}", self.metric(name).await);
    }
}

fn connect(id: &str, offer: &str, age_s: Option<u64>) -> Value {
    let mut connect = json!({"id": id, "from": "447700900123", "to": "15550100123", "event": "connect",
        "direction": "USER_INITIATED", "session": {"sdp": offer, "sdp_type": "offer"}});
    if let Some(age_s) = age_s {
        let now_s = (clock::wall_anchor().ntp(clock::now()) >> 32) - control::runtime::NTP_UNIX_OFFSET_S;
        connect["timestamp"] = (now_s - age_s).to_string().into();
    }
    connect
}

fn terminate(id: &str) -> Value {
    json!({"id": id, "event": "terminate", "status": "COMPLETED"})
}

fn session_of(id: &str) -> String {
    format!("session of {id}")
}

/// The stand-in's Graph, slow and failing.
async fn calls(
    State(world): State<Shared>,
    Path(number): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Json<Value>) {
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok());
    let request: Value = serde_json::from_slice(&body).expect("JSON");
    let id = request["call_id"].as_str().expect("a call id").to_owned();
    if request["action"] == "accept" {
        world.calls().entry(id.clone()).or_default().asked_to_accept += 1;
    }
    tokio::time::sleep(Duration::from_millis(u64::from(world.below(SLOW_MS)))).await;
    let failure = || {
        let error =
            json!({"error": {"code": 138_004, "message": "(#138004) Connection error", "fbtrace_id": "AChaos"}});
        (StatusCode::INTERNAL_SERVER_ERROR, Json(error))
    };
    let fails = world.below(100) < FAILING_PCT;
    if fails && world.below(2) == 0 {
        return failure();
    }
    let reply = world.graph().handle(clock::now(), authorization, &number, &body);
    match &reply.event {
        Some((id, Event::Accepted { .. })) => world.calls().entry(id.clone()).or_default().accepted += 1,
        Some((id, Event::Rejected | Event::Terminated)) => world.calls().entry(id.clone()).or_default().over = true,
        _ => {}
    }
    if fails {
        return failure();
    }
    (StatusCode::from_u16(reply.status).expect("a status"), Json(reply.body))
}

/// The edge's answer, in the form that Graph's checks want.
async fn new(State(world): State<Shared>, Json(body): Json<Value>) -> Json<Value> {
    let id = body["call_id"].as_str().expect("a call id").to_owned();
    world.calls().entry(id.clone()).or_default().session.get_or_insert(true);
    Json(json!({"edge_session_id": session_of(&id), "sdp_answer": answer()}))
}

async fn done() -> Json<Value> {
    Json(json!({"success": true}))
}

async fn hangup(State(world): State<Shared>, Json(body): Json<Value>) -> Json<Value> {
    let session = body["edge_session_id"].as_str().unwrap_or_default();
    if let Some(id) = session.strip_prefix("session of ") {
        world.calls().entry(id.to_owned()).or_default().session = Some(false);
    }
    Json(json!({"success": true}))
}

/// It knows every session that it has made, and nothing new about it.
async fn keepalive(Json(body): Json<Value>) -> Json<Value> {
    let states = body["sessions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|name| json!({"call_id": name["call_id"], "edge_session_id": name["edge_session_id"], "known": true}));
    Json(json!({"sessions": states.collect::<Vec<_>>()}))
}

fn offer(number: usize) -> String {
    format!(
        "v=0\r\no=- {number} 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=ice-lite\r\nm=audio 3480 UDP/TLS/RTP/SAVPF 111 126\r\n\
         c=IN IP4 203.0.113.49\r\na=mid:audio\r\na=setup:actpass\r\na=rtpmap:111 opus/48000/2\r\na=rtpmap:126 telephone-event/8000\r\n"
    )
}

fn answer() -> String {
    let fingerprint = ["AE"; 32].join(":");
    format!(
        "v=0\r\no=- 1 1 IN IP4 192.0.2.10\r\ns=-\r\nt=0 0\r\na=group:BUNDLE audio\r\nm=audio 40000 UDP/TLS/RTP/SAVPF 111 126\r\n\
         c=IN IP4 192.0.2.10\r\na=candidate:1 1 udp 2130706431 192.0.2.10 40000 typ host\r\na=ice-ufrag:kP2s\r\n\
         a=ice-pwd:7fJSbV2N5qWiA5QiDKwK3vuh\r\na=fingerprint:sha-256 {fingerprint}\r\na=setup:active\r\na=mid:audio\r\na=sendrecv\r\n\
         a=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\na=rtpmap:126 telephone-event/8000\r\na=ptime:20\r\na=ssrc:330833028 cname:gw\r\n"
    )
}

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(axum::serve(listener, router).into_future());
    format!("http://{address}")
}
