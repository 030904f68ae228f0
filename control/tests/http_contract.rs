//! Both servers' replies against the document they serve, and what their connections are limited to.

mod contract;

use axum::Router;
use axum::routing::post;
use contract::{Contract, Reply};
use control::config::{Config, Mode, TlsFiles};
use control::http::listen::HEADER_TIME_MAX;
use control::runtime::Input;
use control::server::{Running, start};
use control::trace::redact::Secret;
use control::whatsapp::signature;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

const TOKEN: &str = "edge-token";
const SECRET: &str = "test-app-secret";

#[tokio::test]
async fn every_reply_of_the_edge_is_as_the_document_says() {
    let (running, _sip) = edge(|_| {}).await;
    let base = format!("http://{}", running.edge_api.unwrap());
    let mut contract = document(&base).await;
    let new = |call_id: &str| json!({"call_id": call_id, "sdp_offer": offer(), "lease_s": 30});
    let with = |key: &str, value: Value| {
        let mut body = new("refused");
        body[key] = value;
        body
    };
    let another = offer().replace("203.0.113.49", "203.0.113.50");
    let session = Ask { base: &base, contract: &mut contract }.post("/webrtc/new", &new("wacid.1"), Some(TOKEN)).await;
    let name = json!({"edge_session_id": session.json()["edge_session_id"]});
    let mut ask = Ask { base: &base, contract: &mut contract };
    for (path, body, token, status, code) in [
        ("/webrtc/new", new("wacid.1"), Some(TOKEN), 200, ""),
        ("/webrtc/new", new("wacid.1"), None, 401, "unauthorized"),
        ("/webrtc/new", new("wacid.1"), Some("wrong"), 401, "unauthorized"),
        ("/webrtc/new", json!({"call_id": "x"}), Some(TOKEN), 400, "bad_field"),
        ("/webrtc/new", json!([]), Some(TOKEN), 400, "bad_field"),
        ("/webrtc/new", with("call_id", json!("")), Some(TOKEN), 400, "bad_call_id"),
        ("/webrtc/new", with("sdp_offer", json!("hello")), Some(TOKEN), 400, "bad_sdp"),
        (
            "/webrtc/new",
            with("destination", json!("sip:a@elsewhere.example")),
            Some(TOKEN),
            403,
            "destination_forbidden",
        ),
        ("/webrtc/new", with("callback_url", json!("http://192.0.2.1/")), Some(TOKEN), 403, "callback_forbidden"),
        ("/webrtc/new", json!({"call_id": "wacid.1", "sdp_offer": another}), Some(TOKEN), 409, "call_id_in_use"),
        ("/webrtc/new", with("sdp_offer", json!("v".repeat(17_000))), Some(TOKEN), 413, "sdp_too_long"),
        ("/webrtc/new", with("sdp_offer", json!(offer().replace("m=audio", "m=video"))), Some(TOKEN), 422, "no_audio"),
        ("/webrtc/release", name.clone(), Some(TOKEN), 200, ""),
        ("/webrtc/release", name.clone(), Some(TOKEN), 200, ""),
        ("/webrtc/release", json!({"edge_session_id": "unknown"}), Some(TOKEN), 200, ""),
        ("/webrtc/release", json!({}), Some(TOKEN), 400, "bad_field"),
        ("/webrtc/release", name.clone(), None, 401, "unauthorized"),
        ("/webrtc/hangup", json!({"edge_session_id": "unknown"}), Some(TOKEN), 200, ""),
        ("/webrtc/hangup", json!({"edge_session_id": 5}), Some(TOKEN), 400, "bad_field"),
        ("/webrtc/hangup", name.clone(), None, 401, "unauthorized"),
        (
            "/webrtc/keepalive",
            json!({"sessions": [{"call_id": "wacid.1"}, {"call_id": "wacid.2", "edge_session_id": "x"}]}),
            Some(TOKEN),
            200,
            "",
        ),
        (
            "/webrtc/keepalive",
            json!({"sessions": vec![json!({"call_id": "c"}); 257]}),
            Some(TOKEN),
            400,
            "too_many_sessions",
        ),
        ("/webrtc/keepalive", json!({}), Some(TOKEN), 400, "bad_field"),
        ("/webrtc/keepalive", json!({"sessions": []}), None, 401, "unauthorized"),
    ] {
        let reply = ask.post(path, &body, token).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{path} {body}");
    }
    let long = vec![b' '; control::http::edge_api::EDGE_BYTES_MAX + 1];
    for path in ["/webrtc/new", "/webrtc/release", "/webrtc/hangup", "/webrtc/keepalive"] {
        assert_eq!(ask.post_bytes(path, long.clone(), &[("authorization", "Bearer edge-token")]).await.status, 413);
        let broken = ask.post_bytes(path, b"{".to_vec(), &[("authorization", "Bearer edge-token")]).await;
        assert_eq!((broken.status, broken.code().as_str()), (400, "bad_json"));
    }
    ask.slow_posts(
        &["/webrtc/new", "/webrtc/release", "/webrtc/hangup", "/webrtc/keepalive"],
        "Authorization: Bearer edge-token\r\n",
    )
    .await;
    ask.look(&["/", "/health", "/metrics", "/openapi.json"]).await;
    for (path, status) in [("wacid.1", 200), ("wacid.none", 404), ("%ff", 400)] {
        let path = format!("/calls/{path}/timeline");
        assert_eq!(ask.get(&path, "/calls/{call_id}/timeline").await.status, status, "{path}");
    }
    // What the keepalive told is the truth: it is over now.
    ask.post("/webrtc/hangup", &name, Some(TOKEN)).await;
    running.draining.store(true, Ordering::Relaxed);
    running.inputs.send(Input::Drain).await.unwrap();
    // A session is still there: its BYE is on the way to nobody, so the edge goes on and refuses.
    assert_eq!(ask.post("/webrtc/new", &new("wacid.9"), Some(TOKEN)).await.code(), "draining");
    ask.look(&["/health"]).await;
    let of_edge = |reply: &String| reply.contains("/webrtc/");
    let unseen: Vec<String> = contract.unseen().into_iter().filter(of_edge).collect();
    // To bring these about takes a full queue, or nine repetitions while a bridge opens.
    let hard =
        ["post /webrtc/new 429", "post /webrtc/release 503", "post /webrtc/hangup 503", "post /webrtc/keepalive 503"];
    assert!(unseen.iter().all(|reply| hard.contains(&reply.as_str())), "no test brings about {unseen:?}");
    stop(running).await;
}

#[tokio::test]
async fn every_reply_of_the_orchestrator_is_as_the_document_says() {
    let running = orchestrator(|_| {}).await;
    let base = format!("http://{}", running.webhooks.unwrap());
    let mut contract = document(&base).await;
    let mut ask = Ask { base: &base, contract: &mut contract };
    let flat = r#"{"call_id":"wacid.flat","session":{"sdp":"v=0","sdp_type":"offer"},"timestamp":1}"#;
    for path in ["/wa/webhook", "/wa/calling/connect", "/wa/calling/terminate"] {
        for (query, status) in [
            ("hub.mode=subscribe&hub.verify_token=v&hub.challenge=7", 200),
            ("hub.mode=subscribe&hub.verify_token=x&hub.challenge=7", 403),
            ("hub.mode=%ff", 403),
        ] {
            assert_eq!(ask.get(&format!("{path}?{query}"), path).await.status, status, "{query}");
        }
        let signed = signature::sign(SECRET, flat.as_bytes());
        assert_eq!(ask.post_bytes(path, flat.into(), &[("x-hub-signature-256", &signed)]).await.status, 200);
        assert_eq!(ask.post_bytes(path, flat.into(), &[]).await.status, 401);
        let signed = signature::sign(SECRET, b"{");
        assert_eq!(ask.post_bytes(path, b"{".to_vec(), &[("x-hub-signature-256", &signed)]).await.status, 400);
        let long = vec![b' '; control::http::webhook::WEBHOOK_BYTES_MAX + 1];
        assert_eq!(ask.post_bytes(path, long, &[]).await.status, 413);
    }
    ask.slow_posts(&["/wa/webhook", "/wa/calling/connect", "/wa/calling/terminate"], "").await;
    let event = json!({"edge_session_id": "s", "call_id": "c", "sequence": 1, "event": "answered"});
    ask.contract.conforms_to("EdgeEvent", &event).unwrap();
    for (body, token, status) in [(&event, Some(TOKEN), 200), (&event, None, 401), (&json!({}), Some(TOKEN), 400)] {
        assert_eq!(ask.post("/edge/events", body, token).await.status, status);
    }
    let long = vec![b' '; control::http::edge_api::EDGE_BYTES_MAX + 1];
    assert_eq!(ask.post_bytes("/edge/events", long, &[("authorization", "Bearer edge-token")]).await.status, 413);
    ask.look(&["/", "/health", "/metrics", "/openapi.json"]).await;
    stop(running).await;
}

#[tokio::test]
async fn whatever_nobody_serves_is_refused_in_json() {
    let running = orchestrator(|_| {}).await;
    let base = format!("http://{}", running.webhooks.unwrap());
    for (request, status, code) in [
        (reqwest::Client::new().get(format!("{base}/nowhere")), 404, "not_found"),
        (reqwest::Client::new().get(format!("{base}/webrtc/new")), 404, "not_found"),
        (reqwest::Client::new().delete(format!("{base}/health")), 405, "method_not_allowed"),
        (reqwest::Client::new().get(format!("{base}/edge/events")), 405, "method_not_allowed"),
    ] {
        let reply = Reply::read(request.send().await.unwrap()).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code));
    }
    stop(running).await;
}

#[tokio::test]
async fn a_client_that_says_little_loses_its_connection() {
    let running = orchestrator(|_| {}).await;
    let address = running.webhooks.unwrap();
    // One says nothing, one half a header, one drips a byte a second, one is done and idle.
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"POST /wa/webhook HTTP/1.1\r\nHost: x\r\nX-").await.unwrap();
    let dripping = TcpStream::connect(address).await.unwrap();
    let (mut dripping, mut drops) = dripping.into_split();
    let drip = tokio::spawn(async move {
        drops.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
        while drops.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let limit = HEADER_TIME_MAX + Duration::from_secs(5);
    let mut sink = Vec::new();
    tokio::time::timeout(limit, async {
        // Zero bytes, an error or a 408: in any case the end.
        let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
        let _ = tokio::join!(
            silent.read_to_end(&mut a),
            half.read_to_end(&mut b),
            dripping.read_to_end(&mut c),
            idle.read_to_end(&mut sink)
        );
    })
    .await
    .expect("a connection outlives the limit");
    assert!(sink.starts_with(b"HTTP/1.1 200"));
    drip.abort();
    // A header without end is cut off by its size.
    let mut endless = TcpStream::connect(address).await.unwrap();
    endless.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let junk = format!("X-Junk: {}\r\n", "j".repeat(1_000));
    for _ in 0..1_000 {
        if endless.write_all(junk.as_bytes()).await.is_err() {
            break;
        }
    }
    let _ = tokio::time::timeout(limit, endless.read_to_end(&mut Vec::new())).await.expect("a header without end");
    stop(running).await;
}

#[tokio::test]
async fn both_servers_speak_tls_and_the_planes_trust_a_private_authority() {
    let folder = std::env::temp_dir().join(format!("tandem-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, private_key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&private_key, made.signing_key.serialize_pem()).unwrap();
    let files = TlsFiles { certificate: certificate.clone(), private_key };
    let (edge, _sip) = edge(|config| {
        config.edge.tls = Some(files.clone());
        config.edge.trusted = Some(certificate.clone());
    })
    .await;
    let api = format!("https://localhost:{}", edge.edge_api.unwrap().port());
    let running = orchestrator(|config| {
        config.http.tls = Some(files.clone());
        config.edge.api = Some(api);
        config.edge.trusted = Some(certificate.clone());
    })
    .await;
    let base = format!("https://localhost:{}", running.webhooks.unwrap().port());
    let trusting = reqwest::Certificate::from_pem(&std::fs::read(&certificate).unwrap()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([trusting]).build().unwrap();
    // A call: the orchestrator asks the edge over TLS.
    let mut connect: Value = serde_json::from_slice(include_bytes!("data/whatsapp/connect-uic.wire.json")).unwrap();
    connect.pointer_mut("/entry/0/changes/0/value/calls/0").unwrap().as_object_mut().unwrap().remove("timestamp");
    let bytes = serde_json::to_vec(&connect).unwrap();
    let signed = signature::sign(SECRET, &bytes);
    let request = client.post(format!("{base}/wa/webhook")).header("x-hub-signature-256", signed).body(bytes);
    assert_eq!(request.send().await.unwrap().status().as_u16(), 200);
    let figures = format!("https://localhost:{}/metrics", edge.edge_api.unwrap().port());
    let mut begun = false;
    for _ in 0..200 {
        let text = client.get(&figures).send().await.unwrap().text().await.unwrap();
        begun |= text.contains("tandem_sessions_begun_total 1");
        if begun {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(begun, "the edge was not asked for a session");
    // Who speaks no TLS, or does not trust the certificate, gets nowhere.
    assert!(reqwest::get(format!("http://{}/health", running.webhooks.unwrap())).await.is_err());
    assert!(reqwest::get(format!("{base}/health")).await.is_err());
    let error = start(
        plain(|config| config.http.tls = Some(TlsFiles { certificate, private_key: folder.join("none") })),
        Mode::Orchestrator,
    );
    let error = format!("{:#}", error.await.err().unwrap());
    assert!(error.contains("no TLS") && error.contains("none"), "{error}");
    stop(running).await;
    stop(edge).await;
}

#[tokio::test]
async fn a_flat_connect_may_be_answered_when_its_call_is_decided() {
    let running = orchestrator(|config| config.whatsapp.flat_waits = true).await;
    let base = format!("http://{}", running.webhooks.unwrap());
    let mut contract = document(&base).await;
    let mut ask = Ask { base: &base, contract: &mut contract };
    // The edge of this bench does not exist, so the call fails and the answer says so.
    let flat = br#"{"call_id":"wacid.w","session":{"sdp":"v=0","sdp_type":"offer"}}"#;
    let signed = signature::sign(SECRET, flat);
    let reply = ask.post_bytes("/wa/calling/connect", flat.to_vec(), &[("x-hub-signature-256", &signed)]).await;
    assert_eq!((reply.status, reply.code().as_str()), (409, "not_accepted"));
    // The same again finds the call over.
    let reply = ask.post_bytes("/wa/calling/connect", flat.to_vec(), &[("x-hub-signature-256", &signed)]).await;
    assert_eq!(reply.code(), "not_accepted");
    // An envelope never waits.
    let envelope = br#"{"object":"whatsapp_business_account","entry":[]}"#;
    let signed = signature::sign(SECRET, envelope);
    let reply = ask.post_bytes("/wa/calling/connect", envelope.to_vec(), &[("x-hub-signature-256", &signed)]).await;
    assert_eq!(reply.status, 200);
    stop(running).await;
}

#[tokio::test]
async fn a_flat_connect_that_too_many_wait_for_is_told_that_nobody_knows() {
    // An edge that takes the request and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = format!("http://{}", silent.local_addr().unwrap());
    let running = orchestrator(|config| {
        config.whatsapp.flat_waits = true;
        config.edge.api = Some(api);
    })
    .await;
    let base = format!("http://{}", running.webhooks.unwrap());
    let flat = br#"{"call_id":"wacid.t","session":{"sdp":"v=0","sdp_type":"offer"}}"#;
    let ask = |_| {
        let request = reqwest::Client::new().post(format!("{base}/wa/calling/connect")).body(flat.to_vec());
        Box::pin(request.header("x-hub-signature-256", signature::sign(SECRET, flat)).send())
    };
    // Eight may wait; the ninth is answered first.
    let (first, _, others) = futures_util::future::select_all((0..9).map(ask)).await;
    let reply = Reply::read(first.unwrap()).await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "undecided"));
    document(&base).await.check("post", "/wa/calling/connect", &reply);
    running.inputs.send(Input::Stop).await.unwrap();
    for other in futures_util::future::join_all(others).await {
        assert_eq!(Reply::read(other.unwrap()).await.status, 409);
    }
    stop(running).await;
}

/// Asks a server and holds each reply against the document.
struct Ask<'t> {
    base: &'t str,
    contract: &'t mut Contract,
}

impl Ask<'_> {
    async fn post(&mut self, path: &str, body: &Value, token: Option<&str>) -> Reply {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        self.post_bytes(path, serde_json::to_vec(body).unwrap(), &headers).await
    }

    async fn post_bytes(&mut self, path: &str, body: Vec<u8>, headers: &[(&str, &str)]) -> Reply {
        let mut request = reqwest::Client::new().post(format!("{}{path}", self.base)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let reply = Reply::read(request.send().await.unwrap()).await;
        self.contract.check("post", path, &reply);
        reply
    }

    /// Requests whose bodies stop after their first byte, all at once.
    async fn slow_posts(&mut self, paths: &[&str], header: &str) {
        let replies = futures_util::future::join_all(paths.iter().map(|path| slow_post(self.base, path, header))).await;
        for (path, reply) in paths.iter().zip(replies) {
            assert_eq!(reply.status, 408, "{path}");
            self.contract.check("post", path, &reply);
        }
    }

    async fn get(&mut self, path: &str, in_document: &str) -> Reply {
        let reply = Reply::read(reqwest::get(format!("{}{path}", self.base)).await.unwrap()).await;
        self.contract.check("get", in_document, &reply);
        reply
    }

    async fn look(&mut self, paths: &[&str]) {
        for path in paths {
            self.get(path, path).await;
        }
    }
}

async fn slow_post(base: &str, path: &str, header: &str) -> Reply {
    let authority = base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(authority).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n{header}\r\n{{");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut bytes = vec![0; 4_096];
    let mut filled = 0;
    while !bytes[..filled].ends_with(b"}") {
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut bytes[filled..])).await;
        filled += match read.expect("a body without end is waited for").unwrap() {
            0 => break,
            count => count,
        };
    }
    let text = String::from_utf8(bytes[..filled].to_vec()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, content_type: content_type.to_owned(), retry_after: None, body: body.into() }
}

async fn document(base: &str) -> Contract {
    Contract::new(reqwest::get(format!("{base}/openapi.json")).await.unwrap().json().await.unwrap())
}

fn plain(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::read("", |_| None).unwrap();
    config.whatsapp.token = Secret("graph-token".into());
    config.whatsapp.phone_id = "118".into();
    config.whatsapp.app_secret = Secret(SECRET.into());
    config.whatsapp.verify_token = Secret("v".into());
    config.whatsapp.base = "http://127.0.0.1:9/v24.0".into();
    config.http.bind = [127, 0, 0, 1].into();
    config.http.port = 0;
    config.edge.api = Some("http://127.0.0.1:9".into());
    config.edge.token = Secret(TOKEN.into());
    config.edge.callback_url = Some("http://127.0.0.1:9/edge/events".into());
    change(&mut config);
    config
}

async fn orchestrator(change: impl FnOnce(&mut Config)) -> Running {
    // A Graph that says yes, so that no goodbye stays behind.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let graph = listener.local_addr().unwrap();
    let router = Router::new().route("/{number}/calls", post(|| async { r#"{"success":true}"# }));
    tokio::spawn(axum::serve(listener, router).into_future());
    let config = plain(|config| {
        config.whatsapp.base = format!("http://{graph}");
        change(config);
    });
    start(config, Mode::Orchestrator).await.unwrap()
}

/// An edge whose far side never answers.
async fn edge(change: impl FnOnce(&mut Config)) -> (Running, UdpSocket) {
    let sip = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = sip.local_addr().unwrap().port();
    static NEXT: AtomicU16 = AtomicU16::new(24_000);
    let first = NEXT.fetch_add(100, Ordering::Relaxed);
    let config = plain(|config| {
        config.sip.target = Some(format!("sip:bot@127.0.0.1:{port}"));
        config.sip.bind = SocketAddr::from(([127, 0, 0, 1], 0));
        config.edge.bind = SocketAddr::from(([127, 0, 0, 1], 0));
        config.media.public_ip = vec![[127, 0, 0, 1].into()];
        config.media.workers = 1;
        config.media.pin = false;
        config.media.ports = first..=first + 99;
        change(config);
    });
    (start(config, Mode::Edge).await.unwrap(), sip)
}

async fn stop(running: Running) {
    running.inputs.send(Input::Stop).await.unwrap();
    // The far side answers no BYE, which the program does not wait for.
    let _ = tokio::time::timeout(Duration::from_secs(3), running.finished()).await;
}

/// The offer of the fixtures.
fn offer() -> String {
    let connect: Value = serde_json::from_slice(include_bytes!("data/whatsapp/connect-uic.wire.json")).unwrap();
    connect.pointer("/entry/0/changes/0/value/calls/0/session/sdp").unwrap().as_str().unwrap().to_owned()
}
