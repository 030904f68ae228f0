//! The media edge's API over loopback, with the real engine behind it and a SIP side that this test plays on a socket.

use control::call::edge::{Edge, EdgeConfig};
use control::call::{EdgeRequest, NewSession, limits};
use control::config::{Config, Mode};
use control::engine_link::EngineLink;
use control::http::edge_client::CallbackClient;
use control::runtime::{Input, LocalEdge, Runtime};
use control::server::{Running, start};
use control::sip::SipConfig;
use control::sip::transport::Transport;
use control::sip_io::resolver::Resolver;
use control::sip_io::{SipIo, SipIoSettings};
use control::store::{Change, Remembered, Store, StoreFigures};
use control::trace::redact::Secret;
use engine::random::Random;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};

#[tokio::test]
async fn the_same_offer_gets_the_same_session_and_the_far_side_is_called_once() {
    let bench = Bench::start("").await;
    let new = json!({"call_id": "wacid.E==", "sdp_offer": offer(), "from": "447700900123", "hold_media": true,
        "early_media": null, "x": 1});
    let (status, first) = bench.post("/webrtc/new", &new).await;
    assert_eq!(status, 200, "{first}");
    let answer = first["sdp_answer"].as_str().unwrap();
    for line in ["a=setup:active", "a=mid:audio", "a=sendrecv", "a=rtcp-mux", "a=ptime:20"] {
        assert!(answer.lines().any(|l| l == line), "{line} is not in\n{answer}");
    }
    assert_eq!(answer.matches("a=fingerprint:").count(), 1);
    assert!(!answer.contains("a=ice-lite"));

    let invite = bench.sip_message().await;
    assert!(invite.starts_with("INVITE sip:bot@127.0.0.1"), "{invite}");
    assert!(invite.lines().any(|line| line == "X-WA-Call-ID: wacid.E=="), "{invite}");
    assert!(invite.contains("sip:+447700900123@"), "{invite}");

    assert_eq!(bench.post("/webrtc/new", &new).await, (200, first.clone()));
    let mut other = new.clone();
    other["sdp_offer"] = json!(offer().replace("203.0.113.49", "203.0.113.50"));
    let (status, refused) = bench.post("/webrtc/new", &other).await;
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("call_id_in_use")));

    bench.say("180 Ringing", &invite).await;
    bench.expect_metric("tandem_ringing_seconds_count", 1).await;
    bench.expect_metric("tandem_sessions{state=\"ringing\"}", 1).await;
    let session = json!({"edge_session_id": first["edge_session_id"]});
    assert_eq!(bench.post("/webrtc/release", &session).await.0, 200);
    for _ in 0..2 {
        assert_eq!(bench.post("/webrtc/hangup", &session).await.0, 200);
    }
    // The INVITE may have been repeated before its provisional response.
    loop {
        let message = bench.sip_message().await;
        if message.starts_with("CANCEL ") {
            bench.say("200 OK", &message).await;
            break;
        }
    }
    bench.say("487 Request Terminated", &invite).await;
    bench.expect_metric("tandem_sessions_alive", 0).await;
    bench.expect_metric("engine_bridges_open", 0).await;
    bench.expect_metric("engine_sockets_open", 0).await;
    bench.expect_metric("tandem_sessions_begun_total", 1).await;
    bench.expect_metric("tandem_ends_total{side=\"tandem\",cause=\"hangup\"}", 1).await;
    bench.expect_metric("tandem_call_jitter_seconds_count{peer=\"whatsapp\"}", 0).await;
    let figures = reqwest::get(bench.url("/metrics")).await.unwrap();
    assert_eq!(figures.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = figures.text().await.unwrap();
    check_exposition(&text);
    assert!(!text.contains("447700900123") && !text.contains("wacid"), "{text}");
    // Even now the same request gets the same answer, and calls nobody.
    assert_eq!(bench.post("/webrtc/new", &new).await, (200, first));
    bench.stop().await;
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_with_a_stable_word() {
    let bench = Bench::start("").await;
    let with = |call_id: &str, sdp: &str| json!({"call_id": call_id, "sdp_offer": sdp});
    let mut foreign = with("c", &offer());
    foreign["destination"] = json!("sip:premium@elsewhere.example");
    let mut calling = with("c", &offer());
    calling["callback_url"] = json!("http://192.0.2.1/steal");
    let video = offer().replace("m=audio", "m=video");
    let sdes: String = offer().lines().filter(|l| !l.contains("fingerprint")).map(|l| format!("{l}\r\n")).collect();
    let sdes = sdes.replace("a=setup:actpass", "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:AAAA");
    for (body, status, code) in [
        (with("c", "hello"), 400, "bad_sdp"),
        (with("", &offer()), 400, "bad_call_id"),
        (with("a\r\nX: y", &offer()), 400, "bad_call_id"),
        (json!({"call_id": "c"}), 400, "bad_field"),
        (foreign, 403, "destination_forbidden"),
        (calling, 403, "callback_forbidden"),
        (with("c", &video), 422, "no_audio"),
        (with("c", &offer().replace("opus/48000/2", "speex/16000")), 422, "no_common_codec"),
        (with("c", &sdes), 422, "no_usable_crypto"),
        (with("c", &offer().replace("a=fingerprint:sha-256", "a=fingerprint:sha-1")), 422, "no_fingerprint"),
        (with("c", &"v".repeat(17 * 1024)), 413, "sdp_too_long"),
    ] {
        let (answered, refusal) = bench.post("/webrtc/new", &body).await;
        assert_eq!((answered, &refusal["error"]["code"]), (status, &json!(code)), "{refusal}");
    }
    // serde would read a list as an object.
    let listed = json!(["listed", offer(), null, null, null, true, false, null, null, null]);
    assert_eq!(bench.post("/webrtc/new", &listed).await.0, 400);
    assert_eq!(bench.post_bytes("/webrtc/new", b"{".to_vec(), None).await.0, 400);
    let long = vec![b' '; control::http::edge_api::EDGE_BYTES_MAX + 1];
    assert_eq!(bench.post_bytes("/webrtc/new", long, None).await.0, 413);
    for path in ["/webrtc/hangup", "/webrtc/release"] {
        assert_eq!(bench.post(path, &json!({"edge_session_id": "unknown"})).await.0, 200);
        assert_eq!(bench.post(path, &json!({})).await.0, 400);
    }
    bench.expect_metric("tandem_sessions_begun_total", 0).await;
    bench.expect_metric("engine_sockets_open", 0).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_configured_token_is_demanded_and_draining_refuses_new_sessions() {
    let bench = Bench::start("secret").await;
    let new = json!({"call_id": "c", "sdp_offer": offer()});
    let bytes = || serde_json::to_vec(&new).unwrap();
    assert_eq!(bench.post_bytes("/webrtc/new", bytes(), None).await.0, 401);
    assert_eq!(bench.post_bytes("/webrtc/new", bytes(), Some("wrong")).await.0, 401);
    let (status, created) = bench.post_bytes("/webrtc/new", bytes(), Some("secret")).await;
    assert_eq!(status, 200, "{created}");
    bench.running.inputs.send(Input::Drain).await.unwrap();
    let other = serde_json::to_vec(&json!({"call_id": "d", "sdp_offer": offer()})).unwrap();
    let (status, refused) = bench.post_bytes("/webrtc/new", other, Some("secret")).await;
    assert_eq!((status, &refused["error"]["code"]), (503, &json!("draining")));
    bench.stop().await;
}

/// Whoever hears an INVITE or an ACK may be left with a call: the next run must know of it. A disk that stalls costs a moment, no call.
#[tokio::test]
async fn messages_that_make_a_call_leave_when_the_store_knows_of_it_or_is_too_slow() {
    for stalls in [true, false] {
        let sip = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let bind = "127.0.0.1:0".parse().unwrap();
        let settings = SipIoSettings { udp: Some(bind), ..SipIoSettings::default() };
        let ours = SipIo::bind(&settings).await.unwrap();
        let address = ours.address(Transport::Udp).unwrap();
        let first = if stalls { 22_000 } else { 22_200 };
        let mut quiet = Config::read("", |_| None).unwrap();
        (quiet.media.workers, quiet.media.pin, quiet.media.ports) = (1, false, first..=first + 39);
        let engine = EngineLink::start(&quiet.engine());
        let config = EdgeConfig::new(
            SipConfig::new(address, "tandem", "tandem"),
            address.ip(),
            &format!("sip:bot@{}", sip.local_addr().unwrap()),
        );
        let edge = LocalEdge {
            edge: Edge::new(config, 1, Random::from_test_seed(1)),
            sip: ours,
            resolver: Resolver::new(),
            engine: engine.unwrap(),
        };
        let callbacks = CallbackClient::new(Secret::default(), None).unwrap();
        let (mut runtime, inputs) = Runtime::new(None, Some(edge), callbacks);
        let (told, mut changes) = mpsc::unbounded_channel();
        let (announce, written) = watch::channel(0);
        runtime.restore(Box::new(Disk { stalls, number: 0, announce, written, told }), Remembered::default());
        let running = tokio::spawn(runtime.run());

        let began = tokio::time::Instant::now();
        let (reply, created) = oneshot::channel();
        let new = NewSession { call_id: "c".into(), sdp_offer: offer(), ..NewSession::default() };
        let what = EdgeRequest::New(Box::new(new));
        inputs.send(Input::EdgeRequest { what, reply }).await.unwrap();
        assert!(created.await.unwrap().is_ok(), "the answer does not wait");
        let mut buffer = vec![0; 65_535];
        let mut next = async |method: &str| loop {
            let (len, _) =
                tokio::time::timeout(Duration::from_secs(10), sip.recv_from(&mut buffer)).await.unwrap().unwrap();
            let message = String::from_utf8(buffer[..len].to_vec()).unwrap();
            if message.starts_with(method) {
                return message;
            }
        };
        let limit = Duration::from_millis(limits::WITHHELD_MS_MAX);
        let invite = next("INVITE ").await;
        assert!(matches!(changes.try_recv(), Ok(Change::Dialog { .. })), "the store was told before");
        assert!(!stalls || began.elapsed() >= limit);
        let sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";
        let answered = tokio::time::Instant::now();
        let far = sip.local_addr().unwrap();
        let headers = format!("Contact: <sip:bot@{far}>\r\nContent-Type: application/sdp\r\n");
        let response = respond("200 OK", &invite, &headers, sdp);
        sip.send_to(response.as_bytes(), address).await.unwrap();
        next("ACK ").await;
        assert!(matches!(changes.try_recv(), Ok(Change::Dialog { .. })), "and of the answer too");
        assert!(!stalls || answered.elapsed() >= limit);
        inputs.send(Input::Stop).await.unwrap();
        let bye = next("BYE ").await;
        sip.send_to(respond("200 OK", &bye, "", "").as_bytes(), address).await.unwrap();
        let engine = tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap();
        tokio::task::spawn_blocking(|| engine.unwrap().stop()).await.unwrap();
    }
}

#[tokio::test]
async fn a_program_that_ends_takes_its_registrations_back_once_its_calls_are_over() {
    let registrar = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = registrar.local_addr().unwrap().port();
    let file = format!(
        "[trunks.provider]\nhost = \"127.0.0.1\"\nport = {port}\ntransport = \"udp\"\nuser = \"gateway\"\npassword = \"p\"\n\
         register = true\n"
    );
    let mut config = Config::read(&file, |_| None).unwrap();
    let local = "127.0.0.1:0".parse().unwrap();
    (config.sip.bind, config.edge.bind, config.sip.target) = (local, local, Some(format!("sip:bot@127.0.0.1:{port}")));
    (config.media.workers, config.media.pin, config.media.ports) = (1, false, 22_600..=22_639);
    config.media.public_ip = vec![[127, 0, 0, 1].into()];
    let running = start(config, Mode::Edge).await.unwrap();
    let gateway = running.sip.unwrap();
    let mut buffer = vec![0; 65_535];
    let mut next = async |method: &str| loop {
        let received = tokio::time::timeout(Duration::from_secs(10), registrar.recv_from(&mut buffer)).await;
        let (len, _) = received.unwrap_or_else(|_| panic!("no {method}")).unwrap();
        let message = String::from_utf8(buffer[..len].to_vec()).unwrap();
        if message.starts_with(method) {
            return message;
        }
    };
    let register = next("REGISTER ").await;
    let contact = register.lines().find(|line| line.starts_with("Contact:")).unwrap().to_owned();
    let granted = respond("200 OK", &register, &format!("{contact};expires=300\r\n"), "");
    registrar.send_to(granted.as_bytes(), gateway).await.unwrap();

    let address = running.edge_api.unwrap();
    let new = json!({"call_id": "c", "sdp_offer": offer()});
    let post = async |path: &str, body: &Value| {
        let request = reqwest::Client::new().post(format!("http://{address}{path}"));
        request.body(serde_json::to_vec(body).unwrap()).send().await.unwrap().json::<Value>().await.unwrap()
    };
    let created = post("/webrtc/new", &new).await;
    let invite = next("INVITE ").await;
    registrar.send_to(respond("180 Ringing", &invite, "", "").as_bytes(), gateway).await.unwrap();
    running.inputs.send(Input::Drain).await.unwrap();
    post("/webrtc/hangup", &created).await;
    let cancel = next("CANCEL ").await;
    registrar.send_to(respond("200 OK", &cancel, "", "").as_bytes(), gateway).await.unwrap();
    registrar.send_to(respond("487 Request Terminated", &invite, "", "").as_bytes(), gateway).await.unwrap();
    let leaving = next("REGISTER ").await;
    assert!(leaving.contains("Expires: 0\r\n") || leaving.contains(";expires=0"), "{leaving}");
    registrar.send_to(respond("200 OK", &leaving, "", "").as_bytes(), gateway).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), running.finished()).await.unwrap().unwrap();
}

/// The program as a service manager stops it.
#[tokio::test]
async fn the_first_signal_drains_and_the_second_ends_the_calls_that_are_left() {
    for signals in [1, 2] {
        let sip = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let first_port = 22_400 + 40 * signals;
        let mut program = Program::start(sip.local_addr().unwrap(), first_port).await;
        let new = json!({"call_id": "c", "sdp_offer": offer()});
        let created = program.post(&new).await;
        assert_eq!(created.status().as_u16(), 200);
        let mut buffer = vec![0; 65_535];
        let mut next = async |method: &str| loop {
            let received = tokio::time::timeout(Duration::from_secs(10), sip.recv_from(&mut buffer)).await;
            let (len, from) = received.unwrap_or_else(|_| panic!("no {method}")).unwrap();
            let message = String::from_utf8(buffer[..len].to_vec()).unwrap();
            if message.starts_with(method) {
                return (message, from);
            }
        };
        let (invite, gateway) = next("INVITE ").await;
        let sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";
        let contact = format!("Contact: <sip:bot@{}>\r\nContent-Type: application/sdp\r\n", sip.local_addr().unwrap());
        sip.send_to(respond("200 OK", &invite, &contact, sdp).as_bytes(), gateway).await.unwrap();
        next("ACK ").await;

        program.signal();
        program.expect_health(503).await;
        let refused = program.post(&json!({"call_id": "d", "sdp_offer": offer()})).await;
        assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (503, "5"));
        assert_eq!(program.child.try_wait().unwrap(), None, "the call that runs goes on");
        if signals == 2 {
            program.signal();
            let (bye, _) = next("BYE ").await;
            sip.send_to(respond("200 OK", &bye, "", "").as_bytes(), gateway).await.unwrap();
        } else {
            // The far side hangs up in its own time.
            let of = |name: &str| {
                let prefix = format!("{name}: ");
                invite.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().to_owned()
            };
            let bye = format!(
                "BYE sip:tandem@{gateway} SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bKbye\r\nMax-Forwards: 70\r\n\
                 From: {};tag=far\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: 7 BYE\r\nContent-Length: 0\r\n\r\n",
                sip.local_addr().unwrap(),
                of("To"),
                of("From"),
                of("Call-ID")
            );
            sip.send_to(bye.as_bytes(), gateway).await.unwrap();
            next("SIP/2.0 200").await;
        }
        assert!(program.ended().await.success());
    }
}

/// The program itself, killed when a test fails.
struct Program {
    child: std::process::Child,
    edge: String,
}

impl Program {
    async fn start(far: std::net::SocketAddr, first_port: u16) -> Program {
        // A port that was free a moment ago.
        let edge = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let child = std::process::Command::new(env!("CARGO_BIN_EXE_tandem"))
            .arg("edge")
            .env("EDGE_BIND", &edge)
            .env("SIP_BIND", "127.0.0.1:0")
            .env("SIP_TARGET", format!("sip:bot@{far}"))
            .env("PUBLIC_IP", "127.0.0.1")
            .env("MEDIA_WORKERS", "1")
            .env("MEDIA_PIN", "false")
            .env("MEDIA_PORTS", format!("{first_port}-{}", first_port + 39))
            .env("STORE", "none")
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let program = Program { child, edge };
        program.expect_health(200).await;
        program
    }

    async fn post(&self, body: &Value) -> reqwest::Response {
        let request = reqwest::Client::new().post(format!("http://{}/webrtc/new", self.edge));
        request.body(serde_json::to_vec(body).unwrap()).send().await.unwrap()
    }

    async fn expect_health(&self, status: u16) {
        for _ in 0..500 {
            let answer = reqwest::get(format!("http://{}/health", self.edge)).await;
            if answer.is_ok_and(|answer| answer.status().as_u16() == status) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("/health never says {status}");
    }

    fn signal(&self) {
        let sent = std::process::Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    async fn ended(&mut self) -> std::process::ExitStatus {
        for _ in 0..500 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the program does not end");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A disk that is done with everything at once, or with nothing ever.
struct Disk {
    stalls: bool,
    number: u64,
    announce: watch::Sender<u64>,
    written: watch::Receiver<u64>,
    told: mpsc::UnboundedSender<Change>,
}

impl Store for Disk {
    fn write(&mut self, change: Change) -> u64 {
        self.number += 1;
        let _ = self.told.send(change);
        if !self.stalls {
            self.announce.send_replace(self.number);
        }
        self.number
    }

    fn written(&self) -> watch::Receiver<u64> {
        self.written.clone()
    }

    fn figures(&self) -> StoreFigures {
        StoreFigures::default()
    }
}

struct Bench {
    running: Running,
    sip: UdpSocket,
}

impl Bench {
    async fn start(token: &str) -> Bench {
        let sip = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = sip.local_addr().unwrap().port();
        let mut config = Config::read("", |_| None).unwrap();
        config.sip.target = Some(format!("sip:bot@127.0.0.1:{port}"));
        config.sip.bind = "127.0.0.1:0".parse().unwrap();
        config.edge.bind = "127.0.0.1:0".parse().unwrap();
        config.edge.token = Secret(token.into());
        config.media.public_ip = vec![[127, 0, 0, 1].into()];
        config.media.workers = 1;
        config.media.pin = false;
        // Tests run side by side: each takes a range of its own, so that they cannot wait for each other's ports.
        static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(21_000);
        let first = NEXT.fetch_add(200, std::sync::atomic::Ordering::Relaxed);
        config.media.ports = first..=first + 199;
        config.check(Mode::Edge).unwrap();
        let running = start(config, Mode::Edge).await.unwrap();
        Bench { running, sip }
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.post_bytes(path, serde_json::to_vec(body).unwrap(), None).await
    }

    async fn post_bytes(&self, path: &str, body: Vec<u8>, token: Option<&str>) -> (u16, Value) {
        let mut request = reqwest::Client::new().post(self.url(path)).body(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap_or_default())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.running.edge_api.unwrap())
    }

    async fn sip_message(&self) -> String {
        let mut buffer = vec![0; 65_535];
        let received = tokio::time::timeout(Duration::from_secs(10), self.sip.recv_from(&mut buffer)).await;
        let (len, _) = received.expect("no SIP message came").unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    /// Answers a request with a status line; the headers that a response repeats are the request's (RFC 3261 §8.2.6.2).
    async fn say(&self, status: &str, request: &str) {
        let response = respond(status, request, "", "");
        self.sip.send_to(response.as_bytes(), self.running.sip.unwrap()).await.unwrap();
    }

    async fn expect_metric(&self, name: &str, value: u64) {
        let expected = format!("{name} {value}");
        let mut text = String::new();
        for _ in 0..300 {
            text = reqwest::get(self.url("/metrics")).await.unwrap().text().await.unwrap();
            if text.lines().any(|line| line == expected) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{expected} is not in:\n{text}");
    }

    async fn stop(self) {
        self.running.inputs.send(Input::Stop).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), self.running.finished()).await.unwrap().unwrap();
    }
}

fn respond(status: &str, request: &str, headers: &str, body: &str) -> String {
    let mut response = format!("SIP/2.0 {status}\r\n");
    for line in request.lines().take_while(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap().to_ascii_lowercase();
        match name.as_str() {
            "via" | "from" | "call-id" | "cseq" => response.push_str(&format!("{line}\r\n")),
            "to" if status.starts_with("100") || line.contains(";tag=") => response.push_str(&format!("{line}\r\n")),
            "to" => response.push_str(&format!("{line};tag=far\r\n")),
            _ => {}
        }
    }
    format!("{response}{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// The offer of the fixtures.
fn offer() -> String {
    let connect: Value = serde_json::from_slice(include_bytes!("data/whatsapp/connect-uic.wire.json")).unwrap();
    connect.pointer("/entry/0/changes/0/value/calls/0/session/sdp").unwrap().as_str().unwrap().to_owned()
}

/// Holds the text against Prometheus' format: every series under HELP and TYPE of its family, families whole, series unique, counters
/// named as such, histograms cumulated up to `+Inf`, which is their count.
fn check_exposition(text: &str) {
    let (mut families, mut series) = (BTreeMap::new(), BTreeSet::new());
    let (mut family, mut help, mut buckets) = (String::new(), String::new(), BTreeMap::<String, u64>::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').expect("a text").0.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a kind");
            assert_eq!(name, help, "HELP stands before TYPE");
            assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} stands twice");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            family = name.to_owned();
        } else {
            let (name_and_labels, value) = line.rsplit_once(' ').expect("a value");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(value.is_finite() && value >= 0.0, "{line}");
            assert!(series.insert(name_and_labels.to_owned()), "{line} stands twice");
            let (name, labels) = name_and_labels.split_once('{').unwrap_or((name_and_labels, "}"));
            let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
            assert!(name.chars().all(valid) && labels.ends_with('}'), "{line}");
            if families[&family] != "histogram" {
                assert_eq!(name, family);
                continue;
            }
            match name.strip_prefix(&family).expect("its family's name") {
                "_bucket" => {
                    let (rest, bound) = labels.trim_end_matches('}').rsplit_once("le=").expect("a bound");
                    let key = format!("{family}{{{}", rest.trim_end_matches(','));
                    let before = buckets.insert(key.clone(), value as u64).unwrap_or(0);
                    assert!(before <= value as u64, "{line} is below its forerunner");
                    if bound == "\"+Inf\"" {
                        buckets.insert(format!("{key} all"), value as u64);
                    }
                }
                "_sum" => {}
                "_count" => {
                    let key = format!("{family}{{{} all", labels.trim_end_matches('}'));
                    assert_eq!(buckets.get(&key), Some(&(value as u64)), "{line}");
                }
                other => panic!("{other} of a histogram"),
            }
        }
    }
    assert!(families.len() > 50, "{} families", families.len());
}
