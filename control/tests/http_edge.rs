//! The media edge's API over loopback, with the real engine behind it and a SIP side that this test plays on a socket.

use control::config::{Config, Mode};
use control::runtime::Input;
use control::server::{Running, start};
use control::trace::redact::Secret;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::net::UdpSocket;

#[tokio::test]
async fn the_same_offer_gets_the_same_session_and_the_far_side_is_called_once() {
    let bench = Bench::start("").await;
    let new = json!({"call_id": "wacid.E==", "sdp_offer": offer(), "from": "447700900123", "hold_media": true, "x": 1});
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
        (with("c", &sdes), 422, "sdes_unsupported"),
        (with("c", &"v".repeat(17 * 1024)), 413, "sdp_too_long"),
    ] {
        let (answered, refusal) = bench.post("/webrtc/new", &body).await;
        assert_eq!((answered, &refusal["error"]["code"]), (status, &json!(code)), "{refusal}");
    }
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
        let mut response = format!("SIP/2.0 {status}\r\n");
        for line in request.lines().take_while(|line| !line.is_empty()) {
            let name = line.split(':').next().unwrap().to_ascii_lowercase();
            match name.as_str() {
                "via" | "from" | "call-id" | "cseq" => response.push_str(&format!("{line}\r\n")),
                "to" if status.starts_with("100") => response.push_str(&format!("{line}\r\n")),
                "to" => response.push_str(&format!("{line};tag=far\r\n")),
                _ => {}
            }
        }
        response.push_str("Content-Length: 0\r\n\r\n");
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
