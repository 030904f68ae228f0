//! `docs/fixtures.md`, row by row: each fixture is posted to a whole gateway, and what becomes of it is what the table says.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use control::config::{Config, Mode};
use control::runtime::Input;
use control::server::{Running, start};
use control::trace::redact::Secret;
use control::whatsapp::signature;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UdpSocket;

const SECRET: &str = "test-app-secret";

#[tokio::test]
async fn every_fixture_has_a_row_and_every_row_is_true() {
    let rows = rows("Fixture");
    let listed: BTreeSet<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    let folder = data("");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            listed.contains(name.as_str()) || name == "graph-responses.json",
            "{name} has no row in docs/fixtures.md"
        );
    }
    for row in &rows {
        let [fixture, outcome, graph, shown] = row.as_slice() else { panic!("{row:?} has not four columns") };
        println!("{fixture}");
        let bench = Bench::start(None).await;
        let (body, ids) = fresh(fixture);
        assert_eq!(bench.post(&body).await, 200, "{fixture}: every fixture is acknowledged");
        let expected: Vec<&str> = graph.split(", ").filter(|action| !action.is_empty()).collect();
        let mut seen = (Vec::new(), String::new());
        for _ in 0..400 {
            seen = (bench.actions(), bench.everything(&ids).await);
            if seen.0 == expected && seen.1.contains(shown.as_str()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        assert_eq!(seen.0, expected, "{fixture}: what Graph was asked for\n{}", seen.1);
        assert!(seen.1.contains(shown.as_str()), "{fixture}: {shown} is not in\n{}", seen.1);
        let figure = |name: &str| {
            let line = seen.1.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse::<u64>().ok()).unwrap_or_else(|| panic!("no {name}"))
        };
        match outcome.as_str() {
            "served" => {
                assert_eq!((figure("tandem_calls_alive"), figure("tandem_sessions_alive")), (1, 1), "{fixture}")
            }
            "rejected" => {
                assert_eq!((figure("tandem_calls_begun_total"), figure("tandem_sessions_alive")), (1, 0), "{fixture}");
            }
            "acknowledged" => assert_eq!(figure("tandem_calls_begun_total"), 0, "{fixture}"),
            other => panic!("{fixture}: {other} is no outcome"),
        }
        bench.stop().await;
    }
}

/// What a reader looks at last is why the call ended; the figures of its media stand before it.
#[tokio::test]
async fn the_end_is_the_last_line_of_a_timeline() {
    let bench = Bench::start(None).await;
    let (body, ids) = fresh("connect-uic.json");
    assert_eq!(bench.post(&body).await, 200);
    let text = |found: String| found.lines().filter(|line| !line.contains("tandem_")).collect::<Vec<_>>().join("\n");
    let mut terminate: Value = serde_json::from_slice(&body).unwrap();
    terminate["entry"][0]["changes"][0]["value"]["calls"][0]["event"] = json!("terminate");
    let mut posted = false;
    let mut seen = String::new();
    for _ in 0..400 {
        seen = text(bench.everything(&ids).await);
        if seen.contains("ringing 180") && !posted {
            posted = true;
            assert_eq!(bench.post(&serde_json::to_vec(&terminate).unwrap()).await, 200);
        }
        if seen.contains("end side=") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let lines: Vec<&str> = seen.lines().rev().take(2).collect();
    assert!(lines[0].starts_with("end side=whatsapp cause=hangup") && lines[1].starts_with("media "), "{seen}");
    bench.stop().await;
}

#[tokio::test]
async fn every_reply_of_graph_has_the_outcome_of_its_row() {
    let replies: Value = serde_json::from_slice(&std::fs::read(data("graph-responses.json")).unwrap()).unwrap();
    let rows = rows("Reply");
    let failures = replies.as_object().unwrap().iter().filter(|(_, reply)| reply["http_status"] != json!(200));
    for (name, _) in failures {
        assert!(rows.iter().any(|row| row[0] == *name), "{name} has no row in docs/fixtures.md");
    }
    for row in &rows {
        let [name, class, shown] = row.as_slice() else { panic!("{row:?} has not three columns") };
        let bench = Bench::start(Some(replies[name].clone())).await;
        let (body, ids) = fresh("connect-uic.json");
        assert_eq!(bench.post(&body).await, 200);
        let expected = match class.as_str() {
            // Three tries, and then the goodbye.
            "retry" => vec!["pre_accept", "pre_accept", "pre_accept", "reject"],
            "final" | "operator" => vec!["pre_accept", "reject"],
            other => panic!("{name}: {other} is no class"),
        };
        let mut seen = (Vec::new(), String::new());
        for _ in 0..400 {
            seen = (bench.actions(), bench.everything(&ids).await);
            if seen.0 == expected && seen.1.contains(shown.as_str()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        assert_eq!(seen.0, expected, "{name}\n{}", seen.1);
        assert!(seen.1.contains(shown.as_str()), "{name}: {shown} is not in\n{}", seen.1);
        // An operator's fault is counted against us, and its remedy stands in the same line.
        assert_eq!(seen.1.contains("side=tandem cause=pre_accept_failed"), class == "operator", "{name}\n{}", seen.1);
        bench.stop().await;
    }
}

/// The rows of the table whose first column has this title; code marks are taken off.
fn rows(title: &str) -> Vec<Vec<String>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/fixtures.md");
    let text = std::fs::read_to_string(path).unwrap();
    let table = text.lines().skip_while(|line| !line.starts_with(&format!("| {title} |"))).skip(2);
    let rows = table.take_while(|line| line.starts_with('|'));
    let cells = |line: &str| {
        let inner = line.trim_start_matches('|').trim_end().trim_end_matches('|');
        inner.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let rows: Vec<Vec<String>> = rows.map(cells).collect();
    assert!(!rows.is_empty(), "no table with {title}");
    rows
}

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/whatsapp").join(name)
}

/// A fixture without its timestamps, which are long past, and the calls in it.
fn fresh(name: &str) -> (Vec<u8>, Vec<String>) {
    let mut body: Value = serde_json::from_slice(&std::fs::read(data(name)).unwrap()).unwrap();
    let mut ids = Vec::new();
    for entry in body["entry"].as_array_mut().unwrap() {
        for change in entry["changes"].as_array_mut().unwrap() {
            for call in change["value"].get_mut("calls").and_then(Value::as_array_mut).into_iter().flatten() {
                let call = call.as_object_mut().unwrap();
                call.remove("timestamp");
                ids.extend(call["id"].as_str().map(str::to_owned));
            }
        }
    }
    (serde_json::to_vec(&body).unwrap(), ids)
}

/// A whole gateway between a Graph that this test plays and a SIP side that rings.
struct Bench {
    running: Running,
    asked: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
struct Graph {
    asked: Arc<Mutex<Vec<String>>>,
    /// Instead of a success, to everything but goodbyes.
    reply: Option<Value>,
}

impl Bench {
    async fn start(reply: Option<Value>) -> Bench {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let graph = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(Graph { asked: asked.clone(), reply });
        tokio::spawn(axum::serve(listener, router).into_future());
        let mut config = Config::read("", |_| None).unwrap();
        config.whatsapp.token = Secret("graph-token".into());
        config.whatsapp.base = format!("http://{graph}");
        config.whatsapp.app_secret = Secret(SECRET.into());
        config.http.bind = [127, 0, 0, 1].into();
        config.http.port = 0;
        config.edge.bind = SocketAddr::from(([127, 0, 0, 1], 0));
        config.sip.target = Some(format!("sip:bot@{}", ringing().await));
        config.sip.bind = SocketAddr::from(([127, 0, 0, 1], 0));
        config.media.public_ip = vec![[127, 0, 0, 1].into()];
        config.media.workers = 1;
        config.media.pin = false;
        static NEXT: AtomicU16 = AtomicU16::new(27_000);
        let first = NEXT.fetch_add(40, Ordering::Relaxed);
        config.media.ports = first..=first + 39;
        Bench { running: start(config, Mode::Tandem).await.unwrap(), asked }
    }

    async fn post(&self, body: &[u8]) -> u16 {
        let url = format!("http://{}/wa/webhook", self.running.webhooks.unwrap());
        let request = reqwest::Client::new().post(url).header("x-hub-signature-256", signature::sign(SECRET, body));
        request.body(body.to_vec()).send().await.unwrap().status().as_u16()
    }

    fn actions(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// Metrics, and the timelines of these calls.
    async fn everything(&self, ids: &[String]) -> String {
        let base = format!("http://{}", self.running.webhooks.unwrap());
        let mut text = reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
        for id in ids {
            let quoted: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let page: Value =
                reqwest::get(format!("{base}/calls/{quoted}/timeline")).await.unwrap().json().await.unwrap_or_default();
            for entry in page["entries"].as_array().into_iter().flatten() {
                text.push_str(&format!("{} {}\n", entry["step"].as_str().unwrap(), entry["detail"].as_str().unwrap()));
            }
        }
        text
    }

    async fn stop(self) {
        self.running.inputs.send(Input::Stop).await.unwrap();
        // SIP lingers for its last answers; the next row has ports of its own and need not wait.
        tokio::spawn(self.running.finished());
    }
}

async fn answer(State(graph): State<Graph>, body: Bytes) -> (StatusCode, axum::Json<Value>) {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let action = body["action"].as_str().unwrap().to_owned();
    let goodbye = matches!(action.as_str(), "reject" | "terminate");
    graph.asked.lock().unwrap().push(action);
    match graph.reply.filter(|_| !goodbye) {
        Some(reply) => {
            let status = StatusCode::from_u16(reply["http_status"].as_u64().unwrap() as u16).unwrap();
            (status, axum::Json(reply["body"].clone()))
        }
        None => (StatusCode::OK, axum::Json(json!({"messaging_product": "whatsapp", "success": true}))),
    }
}

/// A SIP side that says 180 to every INVITE, 200 to everything else, and 487 after a CANCEL.
async fn ringing() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        let mut invite = String::new();
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let request = String::from_utf8_lossy(&buffer[..len]).into_owned();
            let method = request.split(' ').next().unwrap_or_default().to_owned();
            let replies = match method.as_str() {
                "INVITE" => {
                    invite.clone_from(&request);
                    vec![response("180 Ringing", &request)]
                }
                "CANCEL" => vec![response("200 OK", &request), response("487 Request Terminated", &invite)],
                "ACK" => vec![],
                _ => vec![response("200 OK", &request)],
            };
            for reply in replies {
                let _ = socket.send_to(reply.as_bytes(), from).await;
            }
        }
    });
    address
}

/// The headers that a response repeats are the request's (RFC 3261 §8.2.6.2).
fn response(status: &str, request: &str) -> String {
    let mut response = format!("SIP/2.0 {status}\r\n");
    for line in request.lines().take_while(|line| !line.is_empty()) {
        match line.split(':').next().unwrap().to_ascii_lowercase().as_str() {
            "via" | "from" | "call-id" | "cseq" => response.push_str(&format!("{line}\r\n")),
            "to" => response.push_str(&format!("{line};tag=far\r\n")),
            _ => {}
        }
    }
    response + "Content-Length: 0\r\n\r\n"
}
