//! Pion in WhatsApp's place: an ICE-lite, DTLS-server peer that shares no code with tandem, offered in the shape of the
//! live captures, on an unmodified Graph conversation; baresip in the bot's place. What left tandem is read off the wire.

mod interop;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use interop::baresip::Baresip;
use interop::wire::{Class, Packet};
use interop::{HOST, Program, built, get_json, in_namespace, output_of, pion, speech, until};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

const SECRET: &str = "test-app-secret";
const PION: &str = "http://10.77.0.1:8090";
const RELAY_PORT: u16 = 3480;
const CALL_ID: &str =
    "wacid.HBgMNDQ3NzAwOTAwMTIzFQIAEhggM0ZBODVGNjQ1NzE3NDU2MkIzRkMyQzk2M0Y2NkFGQTYcGAsxNTU1MDEwMDEyMxUCABUKAA==";

#[derive(Default)]
struct Graph {
    /// Actions in order, with the SDP they carried.
    actions: Vec<(String, String)>,
    /// Unix time at which accept was answered with 200.
    accepted_at: Option<f64>,
}

#[test]
fn an_ice_lite_peer_of_another_make_speaks_with_the_bot() {
    in_namespace("an_ice_lite_peer_of_another_make_speaks_with_the_bot", async |folder| {
        let said = speech::speak(
            folder,
            "user",
            "en-gb",
            "This is the user of a mobile phone, and seven wizards are walking home.",
            &[8_000, 48_000],
        );
        let answered = speech::speak(
            folder,
            "bot",
            "en-us",
            "Here speaks the bot, which has nothing to say but says it well.",
            &[8_000],
        );
        let long = repeated(folder, &answered[0]);

        let mut capture = capture(folder).await;
        let mut peer = pion::start(folder, &said[1]).await;
        let account = format!("<sip:bob@{HOST}>;regint=0;answermode=auto;audio_codecs=PCMU/8000/1");
        let mut bob = Baresip::start(folder, &format!("{HOST}:5070"), &long, &account).await;
        let graph = graph().await;
        let _tandem = tandem(folder).await;

        let offer = get_json(&format!("{PION}/offer")).await["sdp"].as_str().expect("an offer").to_owned();
        webhook(folder, "connect", json!({"sdp": offer, "sdp_type": "offer"})).await;
        until("accept", 15, async || graph.lock().expect("graph").accepted_at).await;
        tokio::time::sleep(std::time::Duration::from_secs(14)).await;
        let stats = get_json(&format!("{PION}/stats")).await;
        webhook(folder, "terminate", Value::Null).await;
        until("baresip's end of the call", 10, async || bob.saw("CALL_CLOSED", "").then_some(())).await;
        nothing_is_left().await;
        get_json(&format!("{PION}/quit")).await;
        peer.ended(5).await;
        capture.stop().await;

        let graph = graph.lock().expect("graph");
        let actions: Vec<&str> = graph.actions.iter().map(|(action, _)| action.as_str()).collect();
        assert_eq!(
            actions,
            ["pre_accept", "accept"],
            "one pre_accept and one accept, and no terminate after the user hung up"
        );
        assert_answer(&graph.actions[0].1);
        assert_wire(&folder.join("wire.pcap"), graph.accepted_at.expect("accepted"));

        assert_eq!(stats["pc"], "connected", "{stats}");
        assert!(stats["heard"].as_u64() > Some(500), "the peer heard too little: {stats}");
        let by_bot = speech::score(&said[0], &bob.heard(), 1.0);
        let by_user = speech::score(&answered[0], &pion::heard(folder), 1.0);
        println!("user heard by bot {by_bot:?}, bot heard by user {by_user:?}");
        assert!(by_bot.similarity > 0.8, "the bot did not hear the user: {by_bot:?}");
        assert!(by_user.similarity > 0.8, "the user did not hear the bot: {by_user:?}");
    });
}

/// What Meta demands of the answer, and what makes us the controlling agent and DTLS client.
fn assert_answer(sdp: &str) {
    let lines: Vec<&str> = sdp.lines().collect();
    let count = |prefix: &str| lines.iter().filter(|line| line.starts_with(prefix)).count();
    assert!(
        lines.contains(&"a=setup:active") && lines.contains(&"a=mid:audio") && lines.contains(&"a=sendrecv"),
        "{sdp}"
    );
    assert_eq!((count("a=ice-lite"), count("a=fingerprint:"), count("a=fingerprint:sha-256 ")), (0, 1, 1), "{sdp}");
    assert_eq!((count("m="), count("m=audio "), count("a=ssrc:")), (1, 1, 1), "{sdp}");
}

/// Nothing but STUN and DTLS before the accept; afterwards one SSRC, sequence numbers +1, timestamps +960.
fn assert_wire(pcap: &Path, accepted_at: f64) {
    let packets = interop::wire::read(pcap);
    let to_relay: Vec<&Packet> = packets.iter().filter(|packet| packet.to_port == RELAY_PORT).collect();
    let early = to_relay.iter().filter(|packet| packet.at < accepted_at);
    let early_media = early.filter(|packet| matches!(packet.class(), Class::Rtp | Class::Rtcp)).count();
    assert_eq!(early_media, 0, "media left before accept was answered");
    let checks = to_relay.iter().filter(|packet| packet.class() == Class::Stun);
    assert!(checks.clone().any(|packet| packet.has_stun_attribute(0x802a)), "no check carried ICE-CONTROLLING");
    assert!(!checks.clone().any(|packet| packet.has_stun_attribute(0x8029)), "a check carried ICE-CONTROLLED");
    assert!(checks.clone().any(|packet| packet.has_stun_attribute(0x0025)), "no check carried USE-CANDIDATE");
    let hello = packets.iter().find(|packet| packet.class() == Class::Dtls).expect("a handshake");
    assert_eq!(hello.to_port, RELAY_PORT, "the first DTLS datagram came from the peer: tandem is not the client");

    let media: Vec<&&Packet> = to_relay.iter().filter(|packet| packet.class() == Class::Rtp).collect();
    assert!(media.len() > 500, "only {} RTP packets", media.len());
    for pair in media.windows(2) {
        assert_eq!(pair[0].ssrc(), pair[1].ssrc(), "a second SSRC");
        assert_eq!(pair[1].sequence(), pair[0].sequence().wrapping_add(1), "sequence numbers step by one");
        assert_eq!(pair[1].timestamp().wrapping_sub(pair[0].timestamp()) % 960, 0, "timestamps follow the frames");
    }
    let (first, last) = (media[0], media[media.len() - 1]);
    let by_timestamp = f64::from(last.timestamp().wrapping_sub(first.timestamp())) / 48_000.0;
    assert!(
        (by_timestamp - (last.at - first.at)).abs() < 0.5,
        "{by_timestamp} s by timestamps, {} s by the clock",
        last.at - first.at
    );
    assert!(to_relay.iter().any(|packet| packet.class() == Class::Rtcp), "no RTCP report in 14 s");
}

async fn capture(folder: &Path) -> Program {
    let mut command = Command::new("tcpdump");
    command.args(["-i", "lo", "-U", "-s", "200", "-Z", "root", "-w"]).arg(folder.join("wire.pcap")).arg("udp");
    let mut program = Program::start(folder, "tcpdump", &mut command);
    program.wait_for("listening on lo", 10).await;
    program
}

async fn tandem(folder: &Path) -> Program {
    let environment = [
        ("PORT", "3000"),
        ("EDGE_BIND", "127.0.0.1:8080"),
        ("WABA_BASE", "http://127.0.0.1:9000/v24.0"),
        ("WABA_TOKEN", "token"),
        ("WABA_PHONE_ID", "118000000000021"),
        ("META_APP_SECRET", SECRET),
        ("SIP_TARGET", "sip:bob@10.77.0.1:5070"),
        ("SIP_BIND", "10.77.0.1:5060"),
        ("PUBLIC_IP", HOST),
        ("MEDIA_PORTS", "30000-30999"),
    ];
    let mut command = Command::new(built("tandem"));
    command.envs(environment);
    let mut program = Program::start(folder, "tandem", &mut command);
    until("tandem", 20, async || reqwest::get("http://127.0.0.1:3000/").await.ok()).await;
    assert!(program.is_running());
    program
}

/// Graph as far as this call needs it: hands the answer to the peer, and knows when it said 200 to accept.
async fn graph() -> Arc<Mutex<Graph>> {
    let graph: Arc<Mutex<Graph>> = Arc::default();
    let router = Router::new().route("/v24.0/{number}/calls", post(act)).with_state(graph.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:9000").await.expect("port 9000");
    tokio::spawn(async move { axum::serve(listener, router).await });
    graph
}

async fn act(State(graph): State<Arc<Mutex<Graph>>>, Json(body): Json<Value>) -> Json<Value> {
    let action = body["action"].as_str().unwrap_or("").to_owned();
    let sdp = body["session"]["sdp"].as_str().unwrap_or("").to_owned();
    assert_eq!(body["call_id"], CALL_ID);
    if action == "pre_accept" {
        let answer = json!({"type": "answer", "sdp": sdp});
        let reply = reqwest::Client::new().post(format!("{PION}/answer")).json(&answer).send().await.expect("pion");
        let text = reply.text().await.expect("a body");
        assert!(!text.contains("error"), "the peer refused the answer: {text}\n{sdp}");
    }
    let mut graph = graph.lock().expect("graph");
    if action == "accept" {
        assert_eq!(
            graph.actions.first().map(|(_, sdp)| sdp.as_str()),
            Some(sdp.as_str()),
            "accept repeats pre_accept's bytes"
        );
        graph.accepted_at = Some(interop::unix_seconds());
    }
    graph.actions.push((action, sdp));
    Json(json!({"messaging_product": "whatsapp", "success": true}))
}

async fn webhook(folder: &Path, event: &str, session: Value) {
    let now = (interop::unix_seconds() as u64).to_string();
    let mut call = json!({"id": CALL_ID, "from": "447700900123", "to": "15550100123", "event": event, "timestamp": now, "direction": "USER_INITIATED"});
    if !session.is_null() {
        call["session"] = session;
    }
    let value = json!({"messaging_product": "whatsapp", "metadata": {"display_phone_number": "15550100123", "phone_number_id": "118000000000021"}, "calls": [call]});
    let body = json!({"object": "whatsapp_business_account", "entry": [{"id": "117000000000011", "changes": [{"field": "calls", "value": value}]}]});
    let file = folder.join("webhook.json");
    std::fs::write(&file, body.to_string()).expect("a file");
    // Signed by another program than ours.
    let digest = output_of(Command::new("openssl").args(["dgst", "-sha256", "-hmac", SECRET, "-r"]).arg(&file));
    let signature = format!("sha256={}", digest.split_whitespace().next().expect("a digest"));
    let client = reqwest::Client::new();
    let request = client.post("http://127.0.0.1:3000/wa/calling/connect").header("X-Hub-Signature-256", signature);
    let reply = request.header("Content-Type", "application/json").body(body.to_string()).send().await.expect("tandem");
    assert_eq!(reply.status(), 200);
}

async fn nothing_is_left() {
    until("an empty gateway", 45, async || {
        interop::left_behind("http://127.0.0.1:8080").await.is_empty().then_some(())
    })
    .await;
}

fn repeated(folder: &Path, wav: &Path) -> std::path::PathBuf {
    let long = folder.join("bot-long.wav");
    output_of(Command::new("sox").arg(wav).arg(&long).args(["repeat", "9"]));
    long
}
