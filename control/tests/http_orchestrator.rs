//! The orchestrator as its neighbours see it: webhooks in, Graph and edge requests out, all over loopback HTTP.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::IntoResponse;
use control::config::{Config, Mode};
use control::runtime::Input;
use control::server::{Running, start};
use control::trace::redact::Secret;
use control::whatsapp::signature;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;

const SECRET: &str = "test-app-secret";
const TOKEN: &str = "edge-token";

#[tokio::test]
async fn a_signed_connect_is_acknowledged_at_once_and_becomes_an_accepted_call() {
    let mut bench = Bench::start().await;
    // The Graph and the edge of this bench have not replied to anything when the webhook's answer comes.
    assert_eq!(bench.webhook("/wa/webhook", &envelope("connect", "wacid.1/+=")).await, 200);

    let new = bench.next("edge").await;
    assert_eq!((new.path.as_str(), new.authorization.as_str()), ("/webrtc/new", "Bearer edge-token"));
    assert_eq!(new.body["hold_media"], json!(true));
    assert_eq!(new.body["from"], json!("447700900123"));
    assert_eq!(new.body["callback_url"], json!("http://127.0.0.1:9/edge/events"));

    let pre_accept = bench.next("graph").await;
    assert_eq!((pre_accept.path.as_str(), pre_accept.authorization.as_str()), ("/118/calls", "Bearer graph-token"));
    assert_eq!(pre_accept.body["action"], json!("pre_accept"));
    assert_eq!(pre_accept.body["session"], json!({"sdp": "v=0 answer", "sdp_type": "answer"}));

    bench.expect_metric("tandem_calls{state=\"preparing\"}", 1).await;
    bench.callback(json!({"event": "media_ready"})).await;
    bench.callback(json!({"event": "ringing", "code": 180, "early_media": false})).await;
    bench.callback(json!({"event": "answered"})).await;
    let accept = bench.next("graph").await;
    assert_eq!((&accept.body["action"], &accept.body["session"]), (&json!("accept"), &pre_accept.body["session"]));
    assert_eq!(bench.next("edge").await.path, "/webrtc/release");
    bench.expect_metric("tandem_calls{state=\"in_call\"}", 1).await;
    bench.expect_metric("tandem_calls{state=\"preparing\"}", 0).await;

    bench.callback(json!({"event": "ended", "side": "sip", "cause": "bye", "detail": "gone"})).await;
    assert_eq!(bench.next("graph").await.body["action"], json!("terminate"));

    let page = bench.get("/calls/wacid.1%2F%2B%3D/timeline").await.1;
    let steps: Vec<&str> = page["entries"].as_array().unwrap().iter().map(|e| e["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["webhook", "pre_accept", "accept", "release", "end"]);
    assert_eq!(page["ended"], json!(true));
    let later = bench.get("/calls/wacid.1%2F%2B%3D/timeline?since=4").await.1;
    assert_eq!((later["entries"].as_array().unwrap().len(), &later["entries"][0]["n"]), (1, &json!(4)));
    bench.expect_metric("tandem_calls_alive", 0).await;
    for action in ["pre_accept", "accept", "terminate"] {
        bench.expect_metric(&format!("tandem_graph_seconds_count{{action=\"{action}\"}}"), 1).await;
    }
    bench.expect_metric("tandem_accept_seconds_count", 1).await;
    bench.expect_metric("tandem_ends_total{side=\"sip\",cause=\"bye\"}", 1).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_batch_places_one_call_and_remembers_the_one_that_had_ended() {
    let mut bench = Bench::start().await;
    let bytes = include_bytes!("data/whatsapp/batch-mixed.wire.json");
    let signed = signature::sign(SECRET, bytes);
    assert_eq!(bench.post("/wa/calling/connect", bytes, &[("x-hub-signature-256", &signed)]).await, 200);
    // The fixture's calls are long over by their timestamps; with those renewed one of them is answered.
    bench.expect_metric("tandem_connects_stale_total", 2).await;
    bench.expect_metric("tandem_connects_repeated_total", 1).await;
    bench.expect_metric("tandem_events_unknown_total", 4).await;

    let mut batch: Value = serde_json::from_slice(bytes).unwrap();
    for change in batch["entry"].as_array_mut().unwrap().iter_mut().flat_map(|e| e["changes"].as_array_mut().unwrap()) {
        for call in change["value"].get_mut("calls").and_then(Value::as_array_mut).into_iter().flatten() {
            call.as_object_mut().unwrap().remove("timestamp");
        }
    }
    assert_eq!(bench.webhook("/wa/webhook", &batch).await, 200);
    let new = bench.next("edge").await;
    assert_eq!(new.body["from"], json!("447700900456"));
    assert_eq!(bench.next("graph").await.path, "/118000000000022/calls");
    bench.expect_metric("tandem_calls_begun_total", 1).await;
    bench.stop().await;
}

/// WhatsApp batches up to a thousand updates.
#[tokio::test]
async fn a_batch_of_a_thousand_calls_is_acknowledged_at_once_and_each_of_them_placed() {
    let mut bench = Bench::start().await;
    let mut batch = envelope("connect", "wacid.0");
    let calls = batch["entry"][0]["changes"][0]["value"]["calls"].as_array_mut().unwrap();
    let one = calls[0].clone();
    *calls = (0..1_000)
        .map(|number| {
            json!({"id": format!("wacid.{number}"), "from": "447700900123", "to": one["to"],
        "event": "connect", "direction": one["direction"], "session": one["session"]})
        })
        .collect();
    assert_eq!(bench.webhook("/wa/calling/terminate", &batch).await, 200);
    // The whole batch again: nothing happens twice.
    assert_eq!(bench.webhook("/wa/webhook", &batch).await, 200);
    let mut placed = std::collections::BTreeSet::new();
    for _ in 0..1_000 {
        let new = bench.next("edge").await;
        assert_eq!(new.path, "/webrtc/new");
        assert!(placed.insert(new.body["call_id"].as_str().unwrap().to_owned()));
    }
    bench.expect_metric("tandem_calls_begun_total", 1_000).await;
    bench.expect_metric("tandem_connects_repeated_total", 1_000).await;
    bench.requests.close();
}

/// Each number has its own account, provider, route and caller.
#[tokio::test]
async fn a_number_of_360dialog_is_spoken_to_in_its_ways_and_goes_its_own_way() {
    let file = "[accounts.help]\nphone_number_id = 300\nprovider = \"360dialog\"\ntoken = \"d360-key\"\n\
        shared_header = \"X-Key: help\"\ndestination = \"group:sales\"\ncaller_id = \"+441632960001\"\naccept = \"immediate\"\n";
    let mut bench = Bench::start_with(file).await;
    let mut body = envelope("connect", "wacid.1/+=");
    body["entry"][0]["changes"][0]["value"]["metadata"]["phone_number_id"] = json!("300");
    let bytes = serde_json::to_vec(&body).unwrap();
    // The header's name in any case; its value only as it is.
    assert_eq!(bench.post("/wa/webhook", &bytes, &[("x-KEY", "Help")]).await, 401);
    assert_eq!(bench.post("/wa/webhook", &bytes, &[("x-KEY", "help")]).await, 200);
    let new = bench.next("edge").await;
    assert_eq!((&new.body["destination"], &new.body["from"]), (&json!("group:sales"), &json!("441632960001")));
    let pre_accept = bench.next("graph").await;
    assert_eq!((pre_accept.path.as_str(), pre_accept.key.as_str()), ("/calling/calls", "d360-key"));
    assert_eq!((pre_accept.authorization.as_str(), &pre_accept.body["action"]), ("", &json!("pre_accept")));
    assert_eq!(pre_accept.body["messaging_product"], json!("whatsapp"));
    bench.callback(json!({"event": "media_ready"})).await;
    assert_eq!(bench.next("graph").await.body["action"], json!("accept"), "this number does not wait for an answer");
    bench.requests.close();
}

#[tokio::test]
async fn what_cannot_be_believed_or_read_changes_nothing() {
    let mut bench = Bench::start().await;
    let body = serde_json::to_vec(&envelope("connect", "wacid.2")).unwrap();
    let wrong = signature::sign("another", &body);
    assert_eq!(bench.post("/wa/webhook", &body, &[]).await, 401);
    assert_eq!(bench.post("/wa/calling/terminate", &body, &[("x-hub-signature-256", &wrong)]).await, 401);
    for (path, text, status) in [
        ("/wa/calling/connect", "{", 400),
        ("/wa/calling/connect", r#"{"call_id":"a"}"#, 400),
        ("/wa/calling/terminate", r#"{"session":{}}"#, 400),
        ("/wa/webhook", "[]", 400),
        ("/wa/webhook", r#"{"object":"x","entry":[{"changes":[{"field":"new_thing","value":{}}]}]}"#, 200),
        ("/wa/calling/terminate", r#"{"call_id":"a"}"#, 200),
    ] {
        let signed = signature::sign(SECRET, text.as_bytes());
        assert_eq!(bench.post(path, text.as_bytes(), &[("x-hub-signature-256", &signed)]).await, status, "{text}");
    }
    let long = vec![b' '; control::http::webhook::WEBHOOK_BYTES_MAX + 1];
    assert_eq!(bench.post("/wa/webhook", &long, &[]).await, 413);
    bench.expect_metric("tandem_calls_begun_total", 0).await;
    bench.expect_metric("tandem_webhooks_unproven_total", 2).await;
    bench.expect_metric("tandem_webhooks_unreadable_total", 4).await;
    assert!(bench.requests.try_recv().is_err());
    bench.stop().await;
}

#[tokio::test]
async fn the_subscription_check_echoes_the_challenge_to_who_knows_the_token() {
    let bench = Bench::start().await;
    for path in ["/wa/calling/connect", "/wa/calling/terminate", "/wa/webhook"] {
        let right = format!("{path}?hub.challenge=1158201444&hub.verify_token=v%2B1&hub.mode=subscribe");
        let response = reqwest::get(bench.url(&right)).await.unwrap();
        assert_eq!((response.status().as_u16(), response.text().await.unwrap().as_str()), (200, "1158201444"));
        for query in
            ["", "?hub.mode=subscribe&hub.verify_token=x&hub.challenge=1", "?hub.mode=x&hub.verify_token=v%2B1"]
        {
            let response = reqwest::get(bench.url(&format!("{path}{query}"))).await.unwrap();
            assert_eq!(response.status().as_u16(), 403, "{query}");
        }
    }
    assert_eq!(reqwest::get(bench.url("/")).await.unwrap().status().as_u16(), 200);
    bench.stop().await;
}

#[tokio::test]
async fn each_account_proves_its_webhooks_with_a_secret_of_its_own() {
    let file = "[accounts.sales]\nphone_number_id = 200\ntoken = \"t\"\napp_secret = \"sales\"\nverify_token = \"sales-v\"\n\
        [accounts.help]\nphone_number_id = 300\ntoken = \"t\"\nshared_header = \"X-Key: help\"\n";
    let mut bench = Bench::start_with(file).await;
    let call = |id: &str, number: &str, event: &str| {
        let mut body = envelope(event, id);
        body["entry"][0]["changes"][0]["value"]["metadata"]["phone_number_id"] = json!(number);
        serde_json::to_vec(&body).unwrap()
    };
    let signed = |secret: &str, body: &[u8]| vec![("x-hub-signature-256", signature::sign(secret, body))];
    let with_key = |key: &str| vec![("x-key", key.to_owned())];
    for (id, number, secret, status) in [
        ("wacid.a", "118", SECRET, 200),
        ("wacid.b", "200", "sales", 200),
        ("wacid.c", "300", "", 200),
        ("wacid.d", "200", SECRET, 403),
        ("wacid.e", "118", "sales", 403),
        ("wacid.f", "300", "sales", 403),
        ("wacid.g", "200", "guess", 401),
    ] {
        let body = call(id, number, "connect");
        let proof = if secret.is_empty() { with_key("help") } else { signed(secret, &body) };
        let proof: Vec<(&str, &str)> = proof.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(bench.post("/wa/webhook", &body, &proof).await, status, "{id}");
    }
    bench.expect_metric("tandem_calls_begun_total", 3).await;
    bench.expect_metric("tandem_webhook_events_foreign_total", 3).await;
    bench.expect_metric("tandem_webhooks_unproven_total", 1).await;
    // Nor can one account end another's call by saying that it was its own.
    let body = call("wacid.a", "200", "terminate");
    let proof = signature::sign("sales", &body);
    assert_eq!(bench.post("/wa/webhook", &body, &[("x-hub-signature-256", &proof)]).await, 200);
    bench.expect_metric("tandem_terminates_unmatched_total", 1).await;
    bench.expect_metric("tandem_calls_alive", 3).await;
    for (token, status) in [("v%2B1", 200), ("sales-v", 200), ("help", 403)] {
        let path = format!("/wa/webhook?hub.challenge=1&hub.verify_token={token}&hub.mode=subscribe");
        assert_eq!(reqwest::get(bench.url(&path)).await.unwrap().status().as_u16(), status, "{token}");
    }
    bench.requests.close();
}

#[tokio::test]
async fn callbacks_need_the_token_and_draining_is_visible() {
    let mut bench = Bench::start().await;
    let event = json!({"edge_session_id": "s", "call_id": "c", "event": "answered"});
    let body = serde_json::to_vec(&event).unwrap();
    assert_eq!(bench.post("/edge/events", &body, &[]).await, 401);
    assert_eq!(bench.post("/edge/events", &body, &[("authorization", "Bearer wrong")]).await, 401);
    assert_eq!(bench.post("/edge/events", b"{}", &[("authorization", "Bearer edge-token")]).await, 400);
    assert_eq!(bench.post("/edge/events", &body, &[("authorization", "Bearer edge-token")]).await, 200);
    bench.expect_metric("tandem_edge_events_unmatched_total", 1).await;
    assert_eq!(bench.get("/health").await.0, 200);
    assert_eq!(bench.get("/calls/none/timeline").await.0, 404);

    // A call is up: draining keeps the program alive, and new calls are rejected.
    bench.webhook("/wa/webhook", &envelope("connect", "wacid.3")).await;
    bench.next("graph").await;
    bench.running.draining.store(true, std::sync::atomic::Ordering::Relaxed);
    bench.running.inputs.send(Input::Drain).await.unwrap();
    assert_eq!(bench.get("/health").await.0, 503);
    bench.webhook("/wa/webhook", &envelope("connect", "wacid.4")).await;
    loop {
        let request = bench.next("graph").await;
        if request.body["call_id"] == json!("wacid.4") {
            assert_eq!(request.body["action"], json!("reject"));
            break;
        }
    }
    bench.webhook("/wa/webhook", &envelope("terminate", "wacid.3")).await;
    let Bench { running, .. } = bench;
    tokio::time::timeout(Duration::from_secs(10), running.finished()).await.unwrap().unwrap();
}

/// An orchestrator between a Graph API and an edge that this test plays; both say yes to everything.
struct Bench {
    running: Running,
    requests: mpsc::UnboundedReceiver<Request>,
    waiting: Vec<Request>,
}

struct Request {
    to: &'static str,
    path: String,
    authorization: String,
    /// As 360dialog has it.
    key: String,
    body: Value,
}

#[derive(Clone)]
struct Neighbour {
    name: &'static str,
    requests: mpsc::UnboundedSender<Request>,
}

impl Bench {
    async fn start() -> Bench {
        Bench::start_with("").await
    }

    async fn start_with(file: &str) -> Bench {
        let (sender, requests) = mpsc::unbounded_channel();
        let graph = neighbour("graph", sender.clone()).await;
        let edge = neighbour("edge", sender).await;
        let mut config = Config::read(file, |_| None).unwrap();
        config.whatsapp.token = Secret("graph-token".into());
        config.whatsapp.phone_id = "118".into();
        config.whatsapp.base = format!("http://{graph}");
        config.whatsapp.app_secret = Secret(SECRET.into());
        config.whatsapp.verify_token = Secret("v+1".into());
        config.http.bind = [127, 0, 0, 1].into();
        config.http.port = 0;
        config.edge.api = Some(format!("http://{edge}"));
        config.edge.token = Secret(TOKEN.into());
        config.edge.callback_url = Some("http://127.0.0.1:9/edge/events".into());
        config.check(Mode::Orchestrator).unwrap();
        let running = start(config, Mode::Orchestrator).await.unwrap();
        Bench { running, requests, waiting: Vec::new() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.running.webhooks.unwrap())
    }

    async fn post(&self, path: &str, body: &[u8], headers: &[(&str, &str)]) -> u16 {
        let mut request = reqwest::Client::new().post(self.url(path)).body(body.to_vec());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap().status().as_u16()
    }

    async fn webhook(&self, path: &str, body: &Value) -> u16 {
        let bytes = serde_json::to_vec(body).unwrap();
        self.post(path, &bytes, &[("x-hub-signature-256", &signature::sign(SECRET, &bytes))]).await
    }

    async fn callback(&self, mut event: Value) {
        event["edge_session_id"] = json!("session-1");
        event["call_id"] = json!("wacid.1/+=");
        let body = serde_json::to_vec(&event).unwrap();
        assert_eq!(self.post("/edge/events", &body, &[("authorization", "Bearer edge-token")]).await, 200);
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let response = reqwest::get(self.url(path)).await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap_or_default())
    }

    /// The next request to one of the neighbours; the other's wait.
    async fn next(&mut self, to: &str) -> Request {
        if let Some(index) = self.waiting.iter().position(|request| request.to == to) {
            return self.waiting.remove(index);
        }
        loop {
            let received = tokio::time::timeout(Duration::from_secs(10), self.requests.recv()).await;
            let request = received.unwrap_or_else(|_| panic!("nothing came to {to}")).unwrap();
            if request.to == to {
                return request;
            }
            self.waiting.push(request);
        }
    }

    /// Waits until a figure has this value.
    async fn expect_metric(&self, name: &str, value: u64) {
        let expected = format!("{name} {value}");
        let mut text = String::new();
        for _ in 0..200 {
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

async fn neighbour(name: &'static str, requests: mpsc::UnboundedSender<Request>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(answer).with_state(Neighbour { name, requests });
    tokio::spawn(axum::serve(listener, router).into_future());
    address
}

async fn answer(State(us): State<Neighbour>, uri: Uri, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    let (authorization, key) = (text("authorization"), text("d360-api-key"));
    let body = serde_json::from_slice(&body).unwrap();
    let path = uri.path().to_owned();
    let reply = match path.as_str() {
        "/webrtc/new" => json!({"edge_session_id": "session-1", "sdp_answer": "v=0 answer", "more": 1}),
        _ => json!({"success": true}),
    };
    let _ = us.requests.send(Request { to: us.name, path, authorization, key, body });
    (StatusCode::OK, axum::Json(reply))
}

fn envelope(event: &str, call_id: &str) -> Value {
    let mut call = json!({"id": call_id, "from": "447700900123", "to": "15550100123", "event": event,
        "direction": "USER_INITIATED"});
    if event == "connect" {
        call["session"] = json!({"sdp": "v=0 offer", "sdp_type": "offer"});
    }
    json!({"object": "whatsapp_business_account", "entry": [{"id": "117", "changes": [{"field": "calls",
        "value": {"metadata": {"phone_number_id": "118"}, "calls": [call]}}]}]})
}
