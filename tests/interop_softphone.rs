//! Other people's softphones, and ours, at tandem: registered over secure WebSocket, calling each other and a trunk. What is heard is
//! compared by content.

mod interop;

use interop::baresip::{Baresip, Options};
use interop::browser::Browser;
use interop::softphone::{PAGES, Softphone, ladder, pages, tandem};
use interop::speech::{self, Score};
use interop::{HOST, in_namespace, output_of, until};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How far two browsers through tandem may be from the same two connected directly (PESQ-NB): their own jitter buffers make the scores
/// of one sentence differ by this much from run to run.
const PESQ_LOSS_MAX: f64 = 0.4;

const ALICE: &str = "The birch canoe slid on the smooth planks.";
const BOB: &str = "It is easy to tell the depth of a well.";

/// Seconds that are recorded: the speech twice, so that one whole stretch of it is in it.
const LISTEN_S: u64 = 8;

/// The same where two recordings are compared: the best of three stretches, since a jitter buffer stretches speech where it adapts.
const COMPARE_S: u64 = 12;

#[test]
fn jssip_and_sipjs_hear_each_other_as_if_there_were_no_gateway() {
    in_namespace("jssip_and_sipjs_hear_each_other_as_if_there_were_no_gateway", async |folder| {
        let (said_a, said_b) = voices(folder);
        let mut gateway = tandem(folder, "").await;
        pages().await;
        let alice = Softphone::start(folder, &said_a[1], "jssip", "alice").await;
        let bob = Softphone::start(folder, &said_b[1], "sipjs", "bob").await;

        alice.act("call('bob')").await;
        assert_eq!(bob.expect("incoming").await, "incoming +441632960001 Alice");
        bob.act("answer()").await;
        alice.expect("confirmed").await;
        bob.expect("confirmed").await;
        // A hold first: what is heard after it counts.
        alice.act("hold()").await;
        alice.expect("hold local").await;
        alice.act("unhold()").await;
        alice.expect("unhold local").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (through_a, through_b) = listen(folder, "through", &alice.browser, &bob.browser).await;

        bob.act("hangup()").await;
        alice.expect("ended remote").await;
        let drawn = ladder(folder, "bob");
        for rung in ["INVITE bob SDP", "200 OK (INVITE) SDP", "180 Ringing (INVITE)", "BYE"] {
            assert!(drawn.contains(rung), "{rung} is not in\n{drawn}");
        }
        assert!(!drawn.contains("response=\"0") && drawn.contains("a=ice-pwd:**"), "{drawn}");
        connect(&alice.browser, &bob.browser).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (direct_a, direct_b) = listen(folder, "direct", &alice.browser, &bob.browser).await;
        until("an empty gateway", 60, async || is_empty(&GAUGES).await.then_some(())).await;
        assert!(gateway.is_running());
        for (name, said, through, direct) in
            [("alice heard", &said_b, through_a, direct_a), ("bob heard", &said_a, through_b, direct_b)]
        {
            let (through, direct) = (speech::score(&said[0], &through, 0.5), speech::score(&said[0], &direct, 0.5));
            println!("{name}: through tandem {through:?}, directly {direct:?}");
            assert!(through.similarity > 0.8 && direct.similarity > 0.8, "{name} something else");
            assert!(through.pesq >= direct.pesq - PESQ_LOSS_MAX, "{name}: {through:?} against {direct:?}");
        }
    });
}

#[test]
fn a_trunk_with_sdes_and_softphones_call_each_other_and_all_devices_ring() {
    in_namespace("a_trunk_with_sdes_and_softphones_call_each_other_and_all_devices_ring", async |folder| {
        let (said_a, said_b) = voices(folder);
        let trunk = format!(
            "[trunks.carrier]\nhost = \"{HOST}\"\nport = 5071\ntransport = \"tls\"\nverify_certificate = false\nmedia = \"sdes\"\n\
             codecs = [\"opus\"]\ntranscoding = false\npattern = \"^+?[1-9]d{{6,14}}$\"\nallowed_sources = [\"{HOST}\"]\n\
             number = \"+441632960000\"\nto = \"group:sales\"\n"
        );
        let gateway = tandem(folder, &trunk).await;
        assert!(gateway.output().contains("lost its backslashes"), "{}", gateway.output());
        pages().await;
        let mut carrier = carrier(folder, &said_b[0]).await;
        let alice = Softphone::start(folder, &said_a[1], "sipjs20", "alice").await;
        let bob = Softphone::agent(folder, &said_a[1], "bob").await;

        // Out, by dial pattern: SIP.js as Browser-Phone uses it -> baresip, TLS and SDES, Opus untouched.
        alice.act("call('07700900123')").await;
        alice.expect("confirmed").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        alice.listen().await;
        tokio::time::sleep(Duration::from_secs(LISTEN_S)).await;
        let at_alice = folder.join("alice-heard.wav");
        alice.heard(&at_alice).await;
        alice.act("hangup()").await;
        until("BYE at baresip", 10, async || carrier.saw("CALL_CLOSED", "").then_some(())).await;
        assert_heard("alice heard the trunk", speech::score(&said_b[0], &at_alice, 0.5));
        assert_heard("the trunk heard alice", speech::score(&said_a[0], &mono(folder, &carrier.heard()), 1.0));
        assert!(carrier.program.output().contains("+441632960001") || carrier.saw("CALL_INCOMING", "+441632960001"));
        let drawn = ladder(folder, "+447700900123");
        assert!(drawn.contains("INVITE +447700900123 SDP") && drawn.contains("inline:***"), "{drawn}");

        // In, from the trunk: both devices ring, the agent's page answers, the other is cancelled.
        carrier.command_with("dial", &format!("sip:+441632960009@{HOST}:5061"));
        alice.expect("incoming").await;
        bob.expect("incoming").await;
        bob.act("answer()").await;
        bob.expect("confirmed").await;
        alice.expect("ended").await;
        bob.listen().await;
        tokio::time::sleep(Duration::from_secs(LISTEN_S)).await;
        let at_bob = folder.join("bob-heard.wav");
        bob.heard(&at_bob).await;
        assert_heard("bob heard the trunk", speech::score(&said_b[0], &at_bob, 0.5));
        bob.act("hold()").await;
        bob.expect("held").await;
        bob.act("unhold()").await;
        bob.expect("resumed").await;
        bob.act("digit('7')").await;
        until("the key at baresip", 10, async || {
            carrier.program.output().contains("received event: '7'").then_some(())
        })
        .await;

        // The agent hands the caller to alice.
        bob.act("transfer('alice')").await;
        alice.expect("incoming").await;
        alice.act("answer()").await;
        alice.expect("confirmed").await;
        bob.expect("ended transferred").await;
        alice.listen().await;
        tokio::time::sleep(Duration::from_secs(LISTEN_S)).await;
        alice.heard(&at_alice).await;
        assert_heard("alice heard the transferred caller", speech::score(&said_b[0], &at_alice, 0.5));
        carrier.command("hangup");
        alice.expect("ended").await;
        until("no bridge left", 20, async || is_empty(&GAUGES[1..]).await.then_some(())).await;
        for phone in [&alice, &bob] {
            let failures = phone.browser.run("return window.phone.failures").await;
            assert_eq!(failures, json!([]), "a page failed");
        }
    });
}

#[test]
fn the_agents_page_speaks_sip_without_a_browser_too() {
    let said = output_of(Command::new("node").arg(interop::repo().join("tests/page/agent.mjs")));
    assert!(said.contains("the agent speaks SIP"), "{said}");
}

/// Speech of both sides: `[8 kHz, 48 kHz]`.
fn voices(folder: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let speak = |name, voice, text| speech::speak(folder, name, voice, text, &[8_000, 48_000]);
    (speak("alice-said", "en-gb", ALICE), speak("bob-said", "en-us", BOB))
}

/// What both heard, from now on for `COMPARE_S` seconds.
async fn listen(folder: &Path, name: &str, a: &Browser, b: &Browser) -> (PathBuf, PathBuf) {
    for browser in [a, b] {
        browser.run("window.tandemHeard.length = 0").await;
    }
    tokio::time::sleep(Duration::from_secs(COMPARE_S)).await;
    let files = (folder.join(format!("{name}-a.wav")), folder.join(format!("{name}-b.wav")));
    for (browser, file) in [(a, &files.0), (b, &files.1)] {
        speech::write_wav(file, 48_000, &browser.heard().await);
    }
    files
}

/// Connects two pages without anything between them.
async fn connect(a: &Browser, b: &Browser) {
    const BEGIN: &str = "const done = arguments[arguments.length - 1]; (async () => {
        const peer = window.direct = new RTCPeerConnection();
        const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
        stream.getTracks().forEach((track) => peer.addTrack(track, stream));
        OFFER
        await new Promise((ready) => { setTimeout(ready, 1000); });
        done(peer.localDescription.sdp);
    })().catch((error) => done(`failed: ${error}`))";
    let offer = a.run_async(&BEGIN.replace("OFFER", "await peer.setLocalDescription(await peer.createOffer());")).await;
    let answering = format!(
        "await peer.setRemoteDescription({{ type: 'offer', sdp: {offer} }}); await peer.setLocalDescription(await peer.createAnswer());"
    );
    let answer = b.run_async(&BEGIN.replace("OFFER", &answering)).await;
    a.run(&format!("window.direct.setRemoteDescription({{ type: 'answer', sdp: {answer} }})")).await;
    until("a direct connection", 20, async || {
        let state = a.run("return window.direct.connectionState").await;
        (state == "connected").then_some(())
    })
    .await;
}

/// baresip records both channels of Opus.
fn mono(folder: &Path, heard: &Path) -> PathBuf {
    let path = folder.join("mono.wav");
    output_of(Command::new("sox").arg(heard).arg(&path).args(["remix", "1"]));
    path
}

fn assert_heard(what: &str, score: Score) {
    println!("{what}: {score:?}");
    assert!(score.similarity > 0.5 && score.pesq > 2.5, "{what}: {score:?}");
}

/// What must be 0 when a call is over: at once but for the first, which waits for repetitions (RFC 6026, 32 s).
const GAUGES: [&str; 4] =
    ["tandem_sip_calls_alive 0", "tandem_sessions_alive 0", "engine_bridges_open 0", "engine_sockets_open 0"];

/// Whether the edge has nothing left of any call.
async fn is_empty(gauges: &[&str]) -> bool {
    let text = reqwest::get(format!("{PAGES}/metrics")).await.expect("metrics").text().await.expect("a body");
    gauges.iter().all(|gauge| text.lines().any(|line| line == *gauge))
}

/// baresip as a carrier: TLS on 5071, SDES, Opus, which answers by itself.
async fn carrier(folder: &Path, said: &Path) -> Baresip {
    let certificate = folder.join("carrier.pem");
    let key = folder.join("carrier.key");
    output_of(
        Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-subj", &format!("/CN={HOST}"), "-addext", &format!("subjectAltName=IP:{HOST}")])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    );
    let both = [std::fs::read(&key).expect("a key"), std::fs::read(&certificate).expect("a certificate")].concat();
    std::fs::write(&certificate, both).expect("one file for both");
    // Opus at baresip wants a stereo source, and the call ends with its file.
    let source = folder.join("carrier-said.wav");
    output_of(Command::new("sox").arg(said).args(["-r", "48000"]).arg(&source).args("remix 1 1 repeat 30".split(' ')));
    // It answers for the user of its account only.
    let account = format!(
        "<sip:+447700900123@{HOST}:5071;transport=tls>;regint=0;answermode=auto;audio_codecs=opus/48000/2;mediaenc=srtp-mand"
    );
    let options =
        Options { name: "carrier", control_port: 4_444, modules: &["opus", "srtp"], certificate: Some(&certificate) };
    Baresip::start_as(folder, &options, &format!("{HOST}:5070"), &source, &account).await
}
