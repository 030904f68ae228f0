//! A phone calls a user of WhatsApp: baresip dials, tandem asks a Graph for the call, and Pion in WhatsApp's place answers our offer,
//! ICE-lite, as DTLS client and as server. What both say is judged by content, what left tandem is read off the wire.

mod interop;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use interop::baresip::{Baresip, Options};
use interop::wire::{self, Class, Packet};
use interop::{
    EDGE, HOST, Program, built, get_json, in_namespace, left_behind, output_of, pion, post_json, speech, until,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECRET: &str = "test-app-secret";
const NUMBER_ID: &str = "118000000000021";
const PION: &str = "http://10.77.0.1:8090";
const RELAY_PORT: u16 = 3480;

/// Who is called, and one who has given no permission.
const USER: &str = "447700900123";
const STRANGER: &str = "447700900199";

#[derive(Default)]
struct Graph {
    /// Bodies of requests.
    requests: Vec<Value>,
    /// Of Pion's next answer: `active` or `passive`.
    setup: &'static str,
    /// Its last answer.
    answer: String,
}

type Shared = Arc<Mutex<Graph>>;

#[test]
fn a_phone_calls_a_user_of_whatsapp() {
    in_namespace("a_phone_calls_a_user_of_whatsapp", async |folder| {
        let said = |name, voice, text| speech::speak(folder, name, voice, text, &[8_000, 48_000]);
        let near = said("near", "en-gb", "The birch canoe slid on the smooth planks.");
        let user = said("user", "en-us", "Seven wizards are walking home with a phone.");
        let mut capture = wire::capture(folder).await;
        let mut peer = pion::start(folder, &user[1]).await;
        let graph = graph().await;
        let mut tandem = tandem(folder).await;
        let account = format!("<sip:pbx@{HOST}>;regint=0;audio_codecs=PCMU/8000/1");
        let options = Options { name: "alice", control_port: 4_444, modules: &[], certificate: None };
        let long = repeated(folder, &near[0]);
        let mut alice = Baresip::start_as(folder, &options, &format!("{HOST}:5072"), &long, &account).await;

        // Somebody who has given no permission: refused in words.
        alice.command_with("dial", &format!("sip:+{STRANGER}@{HOST}:5080"));
        until("the refusal", 10, async || alice.saw("CALL_CLOSED", "403").then_some(())).await;
        assert!(tandem.output().contains("call_permission_request"), "the log names no remedy");

        // WhatsApp is the DTLS client, as its documents have it; the caller hangs up.
        let stats = first_call(folder, &graph, &mut alice).await;
        assert_eq!(stats["pc"], "connected", "{stats}");
        assert!(stats["heard"].as_u64() > Some(300), "the user heard too little: {stats}");
        let by_user = speech::score(&near[0], &pion::heard(folder), 0.5);
        let by_near = speech::score(&user[0], &alice.heard(), 0.5);
        println!("caller heard by user {by_user:?}, user heard by caller {by_near:?}");
        assert!(by_user.similarity > 0.8, "the user did not hear the caller: {by_user:?}");
        assert!(by_near.similarity > 0.8, "the caller did not hear the user: {by_near:?}");

        // WhatsApp is the DTLS server; ACCEPTED never comes, the user is heard; the user hangs up.
        second_call(folder, &graph, &mut alice).await;
        until("an empty gateway", 60, async || left_behind(EDGE).await.is_empty().then_some(())).await;
        get_json(&format!("{PION}/quit")).await;
        peer.ended(5).await;
        capture.stop().await;

        let requests = graph.lock().expect("graph").requests.clone();
        let actions: Vec<&str> = requests.iter().filter_map(|body| body["action"].as_str()).collect();
        assert_eq!(actions, ["connect", "connect", "terminate", "connect"]);
        requests.iter().filter(|body| body["action"] == "connect").for_each(assert_offer);
        assert_wire(&wire::read(&folder.join("wire.pcap")));
        let log = tandem.output();
        assert!(!log.contains(USER) && !log.contains(STRANGER), "a user's number stands in the log");
        assert!(log.contains("side=trunk pbx cause=bye") && log.contains("side=whatsapp sales cause=bye"));
        tandem.stop().await;
    });
}

async fn first_call(folder: &Path, graph: &Shared, alice: &mut Baresip) -> Value {
    graph.lock().expect("graph").setup = "active";
    alice.command_with("dial", &format!("sip:+{USER}@{HOST}:5080"));
    let answer = until("connect", 10, async || answer_of(graph)).await;
    assert!(answer.contains("a=ice-lite") && answer.contains("a=setup:active"), "{answer}");
    let id = id(1);
    // Not in the order of things.
    webhook(folder, &status(&id, "RINGING")).await;
    until("ringing", 10, async || alice.saw("CALL_RINGING", "").then_some(())).await;
    webhook(folder, &answered(&id, &answer)).await;
    webhook(folder, &answered(&id, &answer)).await;
    // Media is set up while the phone rings; nobody has picked up yet.
    until("ICE and DTLS", 10, async || (stats().await["pc"] == "connected").then_some(())).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!alice.saw("CALL_ESTABLISHED", ""), "the caller was answered before the user had picked up");
    get_json(&format!("{PION}/pickup")).await;
    webhook(folder, &status(&id, "ACCEPTED")).await;
    until("the answer", 10, async || alice.saw("CALL_ESTABLISHED", "").then_some(())).await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    let stats = stats().await;
    alice.command("hangup");
    until("terminate", 10, async || {
        graph.lock().expect("graph").requests.iter().any(|body| body["action"] == "terminate").then_some(())
    })
    .await;
    webhook(folder, &terminated(&id)).await;
    stats
}

async fn second_call(folder: &Path, graph: &Shared, alice: &mut Baresip) {
    (graph.lock().expect("graph").setup, graph.lock().expect("graph").answer) = ("passive", String::new());
    let before = (established(alice), closed(alice));
    alice.command_with("dial", &format!("sip:+{USER}@{HOST}:5080"));
    let answer = until("connect", 10, async || answer_of(graph)).await;
    assert!(answer.contains("a=setup:passive"), "{answer}");
    let id = id(2);
    webhook(folder, &answered(&id, &answer)).await;
    until("ICE and DTLS", 10, async || (stats().await["pc"] == "connected").then_some(())).await;
    get_json(&format!("{PION}/pickup")).await;
    until("the answer", 10, async || (established(alice) > before.0).then_some(())).await;
    webhook(folder, &terminated(&id)).await;
    until("the end of the call", 10, async || (closed(alice) > before.1).then_some(())).await;
}

fn established(alice: &mut Baresip) -> usize {
    alice.parameters("CALL_ESTABLISHED").len()
}

fn closed(alice: &mut Baresip) -> usize {
    alice.parameters("CALL_CLOSED").len()
}

fn answer_of(graph: &Shared) -> Option<String> {
    let answer = graph.lock().expect("graph").answer.clone();
    (!answer.is_empty()).then_some(answer)
}

async fn stats() -> Value {
    get_json(&format!("{PION}/stats")).await
}

/// What Meta demands of an offer.
fn assert_offer(body: &Value) {
    assert_eq!((&body["messaging_product"], &body["session"]["sdp_type"]), (&json!("whatsapp"), &json!("offer")));
    assert!(body["biz_opaque_callback_data"].as_str().is_some_and(|name| name.len() <= 512));
    let sdp = body["session"]["sdp"].as_str().expect("an offer");
    let lines: Vec<&str> = sdp.lines().collect();
    let count = |prefix: &str| lines.iter().filter(|line| line.starts_with(prefix)).count();
    assert_eq!((count("a=ice-lite"), count("a=fingerprint:"), count("a=fingerprint:sha-256 ")), (0, 1, 1), "{sdp}");
    assert_eq!((count("m="), count("m=audio "), count("a=ssrc:")), (1, 1, 1), "{sdp}");
    assert_eq!((count("a=candidate:"), count("a=ice-options:trickle")), (1, 0), "{sdp}");
    for line in ["a=setup:actpass", "a=sendrecv", "a=rtcp-mux", "a=ptime:20", "a=rtpmap:111 opus/48000/2"] {
        assert!(lines.contains(&line), "{line} is missing:\n{sdp}");
    }
    assert!(!sdp.contains("PCMU") && sdp.contains("telephone-event/8000"), "{sdp}");
}

/// Controlling from the first check, one SSRC a call, sequence numbers +1.
fn assert_wire(packets: &[Packet]) {
    let to_relay: Vec<&Packet> = packets.iter().filter(|packet| packet.to_port == RELAY_PORT).collect();
    let checks: Vec<&&Packet> = to_relay.iter().filter(|packet| packet.class() == Class::Stun).collect();
    assert!(checks.iter().any(|packet| packet.has_stun_attribute(0x802a)), "no check carried ICE-CONTROLLING");
    assert!(!checks.iter().any(|packet| packet.has_stun_attribute(0x8029)), "a check carried ICE-CONTROLLED");
    let hellos: Vec<u16> = packets.iter().filter(|packet| packet.class() == Class::Dtls).map(|p| p.to_port).collect();
    assert_ne!(hellos.first(), Some(&RELAY_PORT), "the first hello is the active answerer's");
    let mut ssrcs: Vec<u32> = Vec::new();
    let media: Vec<&&Packet> = to_relay.iter().filter(|packet| packet.class() == Class::Rtp).collect();
    for pair in media.windows(2) {
        if pair[0].ssrc() == pair[1].ssrc() {
            assert_eq!(pair[1].sequence(), pair[0].sequence().wrapping_add(1), "sequence numbers step by one");
        }
    }
    media.iter().for_each(|packet| ssrcs.push(packet.ssrc()));
    ssrcs.dedup();
    assert_eq!(ssrcs.len(), 2, "one SSRC for each of the two calls");
}

/// tandem with a trunk whose calls go to users of WhatsApp.
async fn tandem(folder: &Path) -> Program {
    let text = format!(
        "[trunks.pbx]\nhost = \"{HOST}\"\nport = 5072\ntransport = \"udp\"\nallowed_sources = [\"{HOST}\"]\n\
         [accounts.sales]\nphone_number_id = \"{NUMBER_ID}\"\noutbound = true\n\
         [[routes]]\nsource = \"trunk:pbx\"\nto = \"whatsapp:sales\"\n"
    );
    let file = folder.join("tandem.toml");
    std::fs::write(&file, text).expect("a configuration");
    let mut command = Command::new(built("tandem"));
    command.arg("--config").arg(&file).env("STORE", folder.join("tandem.redb"));
    command.envs([("EDGE_BIND", "127.0.0.1:8080"), ("SIP_TARGET", "sip:nobody@127.0.0.1:9"), ("PUBLIC_IP", HOST)]);
    command.envs([("SIP_BIND", "10.77.0.1:5080"), ("MEDIA_PORTS", "30000-30999"), ("PORT", "3000")]);
    command.envs([("WABA_BASE", "http://127.0.0.1:9000/v24.0"), ("WABA_TOKEN", "token"), ("META_APP_SECRET", SECRET)]);
    let mut program = Program::start(folder, "tandem", &mut command);
    until("tandem", 20, async || reqwest::get(EDGE).await.ok()).await;
    assert!(program.is_running());
    program
}

async fn graph() -> Shared {
    let graph = Shared::default();
    let router = Router::new().route(&format!("/v24.0/{NUMBER_ID}/calls"), post(act)).with_state(graph.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:9000").await.expect("port 9000");
    tokio::spawn(async move { axum::serve(listener, router).await });
    graph
}

async fn act(State(graph): State<Shared>, headers: HeaderMap, Json(body): Json<Value>) -> (StatusCode, Json<Value>) {
    assert_eq!(headers["authorization"], "Bearer token");
    let setup = {
        let mut graph = graph.lock().expect("graph");
        graph.requests.push(body.clone());
        graph.setup
    };
    if body["action"] != "connect" {
        return (StatusCode::OK, Json(json!({"messaging_product": "whatsapp", "success": true})));
    }
    if body["to"] == STRANGER {
        let error = json!({"message": "(#138006) No approved call permission found", "type": "OAuthException",
            "code": 138_006, "fbtrace_id": "A"});
        return (StatusCode::UNAUTHORIZED, Json(json!({"error": error})));
    }
    assert_eq!(body["to"], USER);
    let offer = json!({"type": "offer", "sdp": body["session"]["sdp"]});
    let reply = post_json(&format!("{PION}/call?setup={setup}"), &offer).await;
    let mut graph = graph.lock().expect("graph");
    graph.answer = reply["sdp"].as_str().expect("an answer").to_owned();
    let count = graph.requests.iter().filter(|body| body["action"] == "connect" && body["to"] == USER).count();
    (StatusCode::OK, Json(json!({"messaging_product": "whatsapp", "calls": [{"id": id(count)}]})))
}

fn id(number: usize) -> String {
    format!("wacid.HBgMNDQ3NzAwOTAwMTIzFQIAERgg{number}==")
}

fn answered(id: &str, sdp: &str) -> Value {
    json!({"calls": [{"id": id, "to": USER, "from": "15550100123", "event": "connect", "direction": "BUSINESS_INITIATED",
        "session": {"sdp_type": "answer", "sdp": sdp}}]})
}

fn terminated(id: &str) -> Value {
    json!({"calls": [{"id": id, "to": USER, "event": "terminate", "direction": "BUSINESS_INITIATED", "status": "COMPLETED"}]})
}

fn status(id: &str, status: &str) -> Value {
    json!({"statuses": [{"id": id, "type": "call", "status": status, "recipient_id": USER}]})
}

async fn webhook(folder: &Path, value: &Value) {
    let mut value = value.clone();
    value["messaging_product"] = "whatsapp".into();
    value["metadata"] = json!({"display_phone_number": "15550100123", "phone_number_id": NUMBER_ID});
    let body = json!({"object": "whatsapp_business_account", "entry": [{"id": "117", "changes": [{"field": "calls", "value": value}]}]});
    let file = folder.join("webhook.json");
    std::fs::write(&file, body.to_string()).expect("a file");
    // Signed by another program than ours.
    let digest = output_of(Command::new("openssl").args(["dgst", "-sha256", "-hmac", SECRET, "-r"]).arg(&file));
    let signature = format!("sha256={}", digest.split_whitespace().next().expect("a digest"));
    let request =
        reqwest::Client::new().post("http://127.0.0.1:3000/wa/webhook").header("X-Hub-Signature-256", signature);
    let reply = request.header("Content-Type", "application/json").body(body.to_string()).send().await.expect("tandem");
    assert_eq!(reply.status(), 200);
}

fn repeated(folder: &Path, wav: &Path) -> PathBuf {
    let long = folder.join("near-long.wav");
    output_of(Command::new("sox").arg(wav).arg(&long).args(["repeat", "9"]));
    long
}
