//! The page of calls, the ladder, `tandem trace` and the copies for a collector, against the running program over loopback.

use control::config::{Config, Mode};
use control::runtime::Input;
use control::server::{Running, start};
use control::trace::redact::Secret;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UdpSocket;

#[tokio::test]
async fn a_calls_messages_and_steps_are_found_shown_and_copied_without_secrets() {
    let bench = Bench::start().await;
    let new = json!({"call_id": "wacid.L==", "sdp_offer": offer(), "from": "447700900123"});
    let response =
        reqwest::Client::new().post(bench.url("/webrtc/new")).bearer_auth("t").json(&new).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    let mut datagram = vec![0; 65_535];
    let received = tokio::time::timeout(Duration::from_secs(10), bench.sip.recv(&mut datagram)).await;
    let invite = String::from_utf8_lossy(&datagram[..received.unwrap().unwrap()]).into_owned();
    let sip_call_id = invite.lines().find_map(|line| line.strip_prefix("Call-ID: ")).unwrap().to_owned();

    let calls: Value = bench.json("/calls/list?search=447700900123").await;
    assert_eq!(calls[0]["id"], "wacid.L==", "{calls}");
    assert!(calls[0]["messages"].as_u64() >= Some(1));
    assert_eq!(bench.json("/calls/list?search=nobody").await, json!([]));
    for name in ["wacid.L%3D%3D", &sip_call_id] {
        let view: Value = bench.json(&format!("/calls/{name}/ladder")).await;
        assert!(view["messages"][0]["text"].as_str().unwrap().starts_with("INVITE sip:bot@"), "{view}");
        assert!(view["steps"].as_array().unwrap().iter().any(|step| step["step"] == "invite"), "{view}");
        assert_eq!(view["places"], json!([format!("{} UDP", bench.sip.local_addr().unwrap())]));
    }
    let text = bench.text("/calls/wacid.L%3D%3D/ladder?text=1").await;
    assert!(text.contains("-INVITE bot SDP-") && text.contains("--- 1. at 0 ms sent to 127.0.0.1:"), "{text}");
    assert_eq!(reqwest::get(bench.url("/calls/unknown/ladder")).await.unwrap().status().as_u16(), 404);

    let received = tokio::time::timeout(Duration::from_secs(10), bench.collector.recv(&mut datagram)).await;
    let copy = &datagram[..received.unwrap().unwrap()];
    assert!(copy.starts_with(b"HEP3"));
    assert!(copy.windows(10).any(|bytes| bytes == b"INVITE sip"));
    bench.stop().await;
}

#[tokio::test]
async fn pages_load_nothing_from_elsewhere_and_calls_are_not_shown_to_anybody() {
    let bench = Bench::start().await;
    for path in ["/calls", "/agent", "/page/calls.js", "/page/agent.js", "/page/sip.js", "/page/style.css"] {
        let response = reqwest::get(bench.url(path)).await.unwrap();
        assert_eq!(response.status().as_u16(), 200, "{path}");
        let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let text = response.text().await.unwrap();
        assert!(!text.contains("https://") && !text.contains("http://") || path.ends_with("calls.js"), "{path}");
        assert!(!text.contains(" style=") && !text.contains(" onclick="), "{path}: the policy forbids inline code");
    }
    for path in ["/calls/list", "/calls/x/ladder"] {
        let foreign = reqwest::Client::new().get(bench.url(path)).header("x-forwarded-for", "192.0.2.1");
        assert_eq!(foreign.send().await.unwrap().status().as_u16(), 401, "{path}");
        let token = reqwest::Client::new().get(bench.url(path)).header("x-forwarded-for", "192.0.2.1").bearer_auth("t");
        assert_ne!(token.send().await.unwrap().status().as_u16(), 401, "{path}");
    }
    bench.stop().await;
}

struct Bench {
    running: Running,
    sip: UdpSocket,
    collector: UdpSocket,
}

impl Bench {
    async fn start() -> Bench {
        let sip = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let collector = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut config = Config::read("", |_| None).unwrap();
        config.sip.target = Some(format!("sip:bot@{}", sip.local_addr().unwrap()));
        config.sip.bind = any;
        config.edge.bind = any;
        config.edge.token = Secret("t".into());
        config.trace.hep = Some(collector.local_addr().unwrap());
        config.media.public_ip = vec![[127, 0, 0, 1].into()];
        config.media.workers = 1;
        config.media.pin = false;
        static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(24_000);
        let first = NEXT.fetch_add(200, std::sync::atomic::Ordering::Relaxed);
        config.media.ports = first..=first + 199;
        let running = start(config, Mode::Edge).await.unwrap();
        Bench { running, sip, collector }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.running.edge_api.unwrap())
    }

    async fn text(&self, path: &str) -> String {
        reqwest::get(self.url(path)).await.unwrap().text().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.text(path).await).unwrap()
    }

    async fn stop(self) {
        self.running.inputs.send(Input::Stop).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), self.running.finished()).await.unwrap().unwrap();
    }
}

/// The offer of the fixtures.
fn offer() -> String {
    let connect: Value = serde_json::from_slice(include_bytes!("data/whatsapp/connect-uic.wire.json")).unwrap();
    connect.pointer("/entry/0/changes/0/value/calls/0/session/sdp").unwrap().as_str().unwrap().to_owned()
}
