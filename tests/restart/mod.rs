//! What the restart tests share: both planes as processes that can be killed, on one host or on two, and WhatsApp with its users
//! and a bot on a third side that outlives them all.

use crate::interop::{built, unix_seconds, until};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use control::client::audio::OpusSettings;
use control::client::sip_answerer::{AnswererConfig, Calls, SipAnswerer, Voice};
use control::client::webrtc_offerer::WebrtcOfferer;
use control::sip::SipEnd;
use control::whatsapp::signature;
use engine::dtls::Identity;
use engine::time::Instant;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Where WhatsApp, the bot and the orchestrator are.
pub const NEAR: &str = "10.78.0.1";
/// Where the edge is when it has a host of its own.
pub const FAR: &str = "10.78.0.2";

const SECRET: &str = "test-app-secret";
const TOKEN: &str = "edge-token";

/// A second host: a network namespace at the other end of a wire.
pub struct FarHost(Child);

impl FarHost {
    /// Makes it.
    pub fn new() -> FarHost {
        let child = Command::new("unshare").args(["--net", "sleep", "infinity"]).stdin(Stdio::null()).spawn();
        let host = FarHost(child.expect("unshare (util-linux) runs"));
        let id = host.0.id();
        // The child needs a moment to be in its new namespace: until then the wire's end would come out on this side.
        let script = format!(
            "while [ \"$(readlink /proc/{id}/ns/net)\" = \"$(readlink /proc/self/ns/net)\" ]; do sleep 0.02; done; \
             ip link add w0 type veth peer name w1 netns {id} && ip addr add {NEAR}/24 dev w0 && ip link set w0 up && \
             nsenter --net=/proc/{id}/ns/net sh -c 'ip link set lo up && ip addr add {FAR}/24 dev w1 && ip link set w1 up'"
        );
        let status = Command::new("sh").arg("-c").arg(&script).status().expect("sh runs");
        assert!(status.success(), "the second host cannot be made: are iproute2 and util-linux installed?");
        host
    }

    fn enter(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.0.id())).arg(program);
        command
    }
}

impl Drop for FarHost {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One of the program's processes, which may be killed and started again.
pub struct Process {
    name: &'static str,
    environment: Vec<(&'static str, String)>,
    arguments: Vec<&'static str>,
    far: bool,
    health: String,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// `tandem orchestrator`.
    pub fn orchestrator(folder: &Path, edge: &str) -> Process {
        let mut environment = Process::whatsapp(folder);
        environment.push(("EDGE_API", format!("http://{edge}:8080")));
        environment.push(("CALLBACK_URL", format!("http://{NEAR}:3000/edge/events")));
        environment.push(("EDGE_LEASE_S", "6".to_owned()));
        Process::new(folder, "orchestrator", vec!["orchestrator"], environment, false, format!("{NEAR}:3000"))
    }

    /// `tandem edge`.
    pub fn edge(folder: &Path, address: &str) -> Process {
        let mut environment = Process::media(address);
        // The orchestrator's: an edge keeps its own beside it.
        environment.push(("STORE", folder.join("tandem.redb").display().to_string()));
        environment.push(("EDGE_BIND", format!("{address}:8080")));
        environment.push(("CALLBACKS_ALLOWED", format!("http://{NEAR}:3000/")));
        Process::new(folder, "edge", vec!["edge"], environment, address == FAR, format!("{address}:8080"))
    }

    /// `tandem`, both planes.
    pub fn both(folder: &Path) -> Process {
        let mut environment = Process::whatsapp(folder);
        environment.extend(Process::media(NEAR));
        Process::new(folder, "tandem", vec![], environment, false, format!("{NEAR}:3000"))
    }

    fn whatsapp(folder: &Path) -> Vec<(&'static str, String)> {
        vec![
            ("BIND", NEAR.to_owned()),
            ("PORT", "3000".to_owned()),
            ("WABA_BASE", format!("http://{NEAR}:9000/v24.0")),
            ("WABA_TOKEN", "graph-token".to_owned()),
            ("META_APP_SECRET", SECRET.to_owned()),
            ("EDGE_TOKEN", TOKEN.to_owned()),
            ("STORE", folder.join("tandem.redb").display().to_string()),
        ]
    }

    fn media(address: &str) -> Vec<(&'static str, String)> {
        vec![
            ("EDGE_TOKEN", TOKEN.to_owned()),
            ("SIP_TARGET", format!("sip:bot@{NEAR}:5080")),
            ("SIP_BIND", format!("{address}:5060")),
            ("PUBLIC_IP", address.to_owned()),
            ("MEDIA_PORTS", "20000-20999".to_owned()),
            ("MEDIA_PIN", "false".to_owned()),
        ]
    }

    fn new(
        folder: &Path,
        name: &'static str,
        arguments: Vec<&'static str>,
        environment: Vec<(&'static str, String)>,
        far: bool,
        health: String,
    ) -> Process {
        let log = folder.join(format!("{name}.log"));
        let _ = std::fs::remove_file(&log);
        Process { name, environment, arguments, far, health, log, child: None }
    }

    /// Starts it and waits until it serves.
    pub async fn start(&mut self, far: Option<&FarHost>) {
        let program = built("tandem");
        let mut command = match far.filter(|_| self.far) {
            Some(host) => host.enter(&program),
            None => Command::new(&program),
        };
        let file = File::options().create(true).append(true).open(&self.log).expect("a log file");
        command.args(&self.arguments).envs(self.environment.iter().cloned()).stdin(Stdio::null());
        command.stdout(file.try_clone().expect("a second handle")).stderr(file);
        self.child = Some(command.spawn().expect("tandem starts"));
        let url = format!("http://{}/health", self.health);
        let name = self.name;
        until(name, 20, async || {
            let status = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(status.is_none(), "{name} ended: {status:?}");
            reqwest::get(&url).await.ok()
        })
        .await;
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("SIGKILL");
        child.wait().expect("its end");
    }

    /// A figure of its metrics.
    pub async fn metric(&self, name: &str) -> u64 {
        let request = reqwest::Client::new().get(format!("http://{}/metrics", self.health)).bearer_auth(TOKEN);
        let text = request.send().await.expect("metrics").text().await.expect("a body");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse().expect("a number")
    }

    /// Waits until a figure is zero.
    pub async fn reaches_zero(&self, name: &str, seconds: u64) {
        let what = format!("{name} of {} = 0", self.name);
        until(&what, seconds, async || (self.metric(name).await == 0).then_some(())).await;
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- the last lines of {}", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// What WhatsApp knows of one call.
pub struct UserCall {
    user: Option<WebrtcOfferer>,
    /// Graph's actions in order, those refused marked by `!`.
    pub actions: Vec<String>,
    accepted: bool,
    /// When the user or the business ended it.
    pub ended: Option<f64>,
    connect: Value,
}

impl UserCall {
    /// RTP packets that the user heard so far.
    pub fn heard(&self) -> u64 {
        self.user.as_ref().map_or(0, |user| user.peer.observed().borrow().packets_received)
    }
}

type CallsOfUsers = Arc<Mutex<BTreeMap<String, UserCall>>>;

/// WhatsApp: Graph, webhooks and users with real media.
#[derive(Clone)]
pub struct WhatsApp {
    calls: CallsOfUsers,
    identity: Arc<Identity>,
}

impl WhatsApp {
    /// Serves Graph on `NEAR:9000`.
    pub async fn start() -> WhatsApp {
        let identity = Arc::new(Identity::generate().expect("a certificate"));
        let whatsapp = WhatsApp { calls: CallsOfUsers::default(), identity };
        let router = Router::new().route("/v24.0/{number}/calls", post(graph)).with_state(whatsapp.clone());
        let listener = tokio::net::TcpListener::bind(format!("{NEAR}:9000")).await.expect("a port for Graph");
        tokio::spawn(axum::serve(listener, router).into_future());
        whatsapp
    }

    /// A user calls. The webhook is repeated until somebody takes it, as WhatsApp does.
    pub async fn call(&self, id: &str) {
        let address: IpAddr = NEAR.parse().expect("an address");
        let session = (unix_seconds() * 1_000.0) as u64;
        let user = WebrtcOfferer::start(&[address], session, true, &self.identity, OpusSettings::WHATSAPP).await;
        let user = user.expect("a socket");
        let connect = json!({"id": id, "from": "447700900123", "to": "15550100123", "event": "connect",
            "timestamp": (unix_seconds() as u64).to_string(), "direction": "USER_INITIATED",
            "session": {"sdp": user.offer, "sdp_type": "offer"}});
        let (actions, user) = (Vec::new(), Some(user));
        let call = UserCall { user, actions, accepted: false, ended: None, connect: connect.clone() };
        self.lock().insert(id.to_owned(), call);
        self.deliver(connect);
    }

    /// The same webhook once more.
    pub async fn repeat(&self, id: &str) {
        let connect = self.lock()[id].connect.clone();
        assert!(post_webhook(&connect).await, "the webhook was not taken");
    }

    /// The user hangs up.
    pub fn hang_up(&self, id: &str) {
        let mut calls = self.lock();
        let call = calls.get_mut(id).expect("a call");
        if call.ended.is_none() {
            call.end();
            self.deliver(json!({"id": id, "event": "terminate", "status": "COMPLETED"}));
        }
    }

    /// Looks at a call.
    pub fn with<T>(&self, id: &str, look: impl FnOnce(&UserCall) -> T) -> T {
        look(&self.lock()[id])
    }

    /// Waits for Graph's actions of a call to satisfy `check`.
    pub async fn wait(&self, id: &str, what: &str, seconds: u64, check: impl Fn(&UserCall) -> bool) {
        until(&format!("{what} of {id}"), seconds, async || self.with(id, |call| check(call).then_some(()))).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, UserCall>> {
        self.calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn deliver(&self, event: Value) {
        tokio::spawn(async move {
            for _ in 0..200 {
                if post_webhook(&event).await {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        });
    }

    /// Graph's answer to one request.
    fn act(&self, body: &Value) -> bool {
        let mut calls = self.lock();
        let id = body["call_id"].as_str().expect("a call id").to_owned();
        let call = calls.get_mut(&id).expect("a call that WhatsApp knows");
        let action = body["action"].as_str().expect("an action");
        let allowed = call.ended.is_none()
            && match action {
                "accept" => !call.accepted,
                "reject" => !call.accepted,
                _ => true,
            };
        call.actions.push(format!("{}{action}", if allowed { "" } else { "!" }));
        if !allowed {
            return false;
        }
        match action {
            "pre_accept" => {
                let user = call.user.as_ref().expect("it has not ended");
                user.answer(body["session"]["sdp"].as_str().expect("an answer")).expect("an answer that can be used");
            }
            "accept" => {
                call.accepted = true;
                call.user.as_ref().expect("it has not ended").peer.release();
            }
            _ => {
                call.end();
                self.deliver(json!({"id": id, "event": "terminate", "status": "COMPLETED"}));
            }
        }
        true
    }
}

impl UserCall {
    fn end(&mut self) {
        self.ended = Some(unix_seconds());
        if let Some(user) = self.user.take() {
            user.peer.close();
        }
    }
}

async fn graph(State(whatsapp): State<WhatsApp>, Json(body): Json<Value>) -> (StatusCode, Json<Value>) {
    match whatsapp.act(&body) {
        true => (StatusCode::OK, Json(json!({"messaging_product": "whatsapp", "success": true}))),
        false => (StatusCode::BAD_REQUEST, Json(json!({"error": {"code": 100, "message": "Invalid parameter"}}))),
    }
}

async fn post_webhook(call: &Value) -> bool {
    let body = json!({"object": "whatsapp_business_account", "entry": [{"id": "117", "changes": [{"field": "calls",
        "value": {"metadata": {"phone_number_id": "118"}, "calls": [call]}}]}]});
    let bytes = serde_json::to_vec(&body).expect("JSON");
    let request = reqwest::Client::new().post(format!("http://{NEAR}:3000/wa/webhook"));
    let request = request.header("x-hub-signature-256", signature::sign(SECRET, &bytes)).body(bytes);
    request.send().await.is_ok_and(|response| response.status().is_success())
}

/// The bot: answers at once and hums.
pub struct Bot {
    answerer: SipAnswerer,
}

impl Bot {
    /// Listens on `NEAR:5080`.
    pub async fn start(answer_after_ms: u64) -> Bot {
        let config = AnswererConfig {
            bind: NEAR.parse().expect("an address"),
            port: 5080,
            demand: None,
            product: "bot".to_owned(),
            ring_after_ms: 50,
            answer_after_ms,
            call_ms_max: 600_000,
        };
        let answerer = SipAnswerer::start(config, Box::new(|_| Box::new(Hum(0)))).await.expect("a SIP socket");
        Bot { answerer }
    }

    /// What it knows of all calls.
    pub fn calls(&self) -> watch::Receiver<Calls> {
        self.answerer.calls()
    }

    /// Whether the call with this id is there and not over.
    pub fn has(&self, id: &str) -> bool {
        self.count(id, false) > 0
    }

    /// How the call with this id ended.
    pub fn end(&self, id: &str) -> Option<SipEnd> {
        let calls = self.calls();
        let calls = calls.borrow();
        let call = calls.values().find(|call| call.header("X-WA-Call-ID") == Some(id))?;
        call.ended.as_ref().map(|(_, end)| end.clone())
    }

    /// INVITEs with this id, or only those of calls that are not over.
    pub fn count(&self, id: &str, all: bool) -> usize {
        let calls = self.calls();
        let calls = calls.borrow();
        let of_id = calls.values().filter(|call| call.header("X-WA-Call-ID") == Some(id));
        of_id.filter(|call| all || call.ended.is_none()).count()
    }
}

struct Hum(u32);

impl Voice for Hum {
    fn speak(&mut self, _now: Instant, frame: &mut [i16]) {
        for sample in frame {
            self.0 += 1;
            *sample = (f64::from(self.0) * 440.0 * std::f64::consts::TAU / 8_000.0).sin().mul_add(8_000.0, 0.0) as i16;
        }
    }

    fn hear(&mut self, _now: Instant, _pcm: &[i16]) {}

    fn key(&mut self, _now: Instant, _key: char) -> bool {
        true
    }
}
