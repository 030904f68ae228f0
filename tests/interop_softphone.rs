//! Other people's softphones, and ours, at tandem: registered over secure WebSocket, calling each other and a trunk. What is heard is
//! compared by content.

mod interop;

use interop::baresip::{Baresip, Options};
use interop::browser::Browser;
use interop::softphone::{PAGES, Softphone, ladder, pages, tandem};
use interop::speech::{self, Score};
use interop::{HOST, Program, in_namespace, output_of, until};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How far two browsers through tandem may be from the same two connected directly (PESQ-NB).
const PESQ_LOSS_MAX: f64 = 0.1;

const ALICE: &str = "The birch canoe slid on the smooth planks.";
const BOB: &str = "It is easy to tell the depth of a well.";

/// Seconds that are recorded: the speech twice, so that one whole stretch of it is in it.
const LISTEN_S: u64 = 8;

/// Seconds for which two connections are compared: every sentence of a speaker twice.
const COMPARE_S: u64 = 30;

/// What alice says then, and bob: each sentence in another voice.
const ALICE_SAYS: [(&str, &str); 4] = [
    ("en-gb", ALICE),
    ("en-us+f3", "Glue the sheet to the dark blue background."),
    ("en-gb+m3", "The juice of lemons makes fine punch."),
    ("en-us+f1", "The box was thrown beside the parked truck."),
];
const BOB_SAYS: [(&str, &str); 4] = [
    ("en-us", BOB),
    ("en-gb+f2", "These days a chicken leg is a rare dish."),
    ("en-us+m7", "Four hours of steady work faced us."),
    ("en-gb+f4", "A large size in stockings is hard to sell."),
];

#[test]
fn jssip_and_sipjs_hear_each_other_as_if_there_were_no_gateway() {
    in_namespace("jssip_and_sipjs_hear_each_other_as_if_there_were_no_gateway", async |folder| {
        let (said_a, microphone_a) = sentences(folder, "alice", &ALICE_SAYS);
        let (said_b, microphone_b) = sentences(folder, "bob", &BOB_SAYS);
        let mut gateway = tandem(folder, "").await;
        pages().await;
        let alice = Softphone::start(folder, &microphone_a, "jssip", "alice").await;
        let bob = Softphone::start(folder, &microphone_b, "sipjs", "bob").await;

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
        // ICE begins anew on both sides, and media goes on.
        for phone in [&alice, &bob] {
            phone.act("restart()").await;
            phone.expect("restarted").await;
        }
        // Both ways at once: whatever a busy machine does to one, it does to the other.
        connect(&alice.browser, &bob.browser).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let heard = listen_to_both(folder, &alice.browser, &bob.browser).await;

        bob.act("hangup()").await;
        alice.expect("ended remote").await;
        let drawn = ladder(folder, "bob");
        for rung in ["INVITE bob SDP", "200 OK (INVITE) SDP", "180 Ringing (INVITE)", "BYE"] {
            assert!(drawn.contains(rung), "{rung} is not in\n{drawn}");
        }
        assert!(!drawn.contains("response=\"0") && drawn.contains("a=ice-pwd:**"), "{drawn}");
        until("an empty gateway", 60, async || is_empty(&GAUGES).await.then_some(())).await;
        assert!(gateway.is_running());
        for (name, said, [through, direct]) in [("alice heard", &said_b, &heard[0]), ("bob heard", &said_a, &heard[1])]
        {
            let pair = speech::compare(said, through, direct);
            println!("{name}: through tandem {:.2}, directly {:.2}, {pair:?}", pair.first, pair.second);
            assert!(pair.sentences >= 6 && pair.similarity > 0.8, "{name} something else: {pair:?}");
            assert!(pair.difference >= -PESQ_LOSS_MAX, "{name}: {pair:?}");
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
        assert_heard("alice heard the trunk", speech::score(&said_b[0], &at_alice, 0.5));

        // The browser changes its network: its port goes dead, and so does its connection. It registers from another, is offered an
        // ICE restart there, and is heard from another port.
        let ufrag = remote_ufrag(&alice).await;
        let port = lose_path(&alice).await;
        alice.act("drop()").await;
        alice.expect("disconnected").await;
        alice.expect("back").await;
        until("an ICE restart", 20, async || (remote_ufrag(&alice).await != ufrag).then_some(())).await;
        until("another pair", 10, async || (local_port(&alice).await != port).then_some(())).await;
        alice.listen().await;
        tokio::time::sleep(Duration::from_secs(LISTEN_S)).await;
        alice.heard(&at_alice).await;
        // What gets lost behind us is told to the browser, whose own path is clean.
        output_of(Command::new("iptables").args(LOSSY_TRUNK));
        until("a report of the loss at the trunk", 20, async || (reported_loss(&alice).await > 0.1).then_some(()))
            .await;
        alice.act("hangup()").await;
        until("BYE at baresip", 10, async || carrier.saw("CALL_CLOSED", "").then_some(())).await;
        output_of(Command::new("iptables").args(["-F"]));
        assert_content("alice heard the trunk after the restart", speech::score(&said_b[0], &at_alice, 0.5));
        let at_trunk = mono(folder, &carrier.heard());
        assert_heard("the trunk heard alice", speech::score(&said_a[0], &at_trunk, 1.0));
        // baresip leaves out what did not come: the first stretch, then what was said after the restart.
        let after_s = (2 + LISTEN_S) as f64 + 1.0;
        assert_content("the trunk heard alice after the restart", speech::score(&said_a[0], &at_trunk, after_s));
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
        until("the key at baresip, from its beginning", 10, async || {
            let said = carrier.program.output();
            ["received event: '7' (end=0)", "received event: '7' (end=1)"]
                .iter()
                .all(|line| said.contains(line))
                .then_some(())
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

        // The next caller: the agent asks alice first, and then connects both.
        carrier.command_with("dial", &format!("sip:+441632960009@{HOST}:5061"));
        alice.expect("incoming").await;
        bob.expect("incoming").await;
        bob.act("answer()").await;
        bob.expect("confirmed").await;
        alice.expect("ended").await;
        bob.act("call('alice')").await;
        assert_eq!(alice.expect("incoming").await, "incoming +441632960002 Bob");
        alice.act("answer()").await;
        alice.expect("confirmed").await;
        bob.expect("confirmed").await;
        bob.browser.run("document.querySelector('.join').click()").await;
        bob.expect("ended transferred").await;
        alice.listen().await;
        tokio::time::sleep(Duration::from_secs(LISTEN_S)).await;
        alice.heard(&at_alice).await;
        assert_heard("alice heard the caller she was connected with", speech::score(&said_b[0], &at_alice, 0.5));
        carrier.command("hangup");
        alice.expect("ended").await;
        until("no bridge left", 20, async || is_empty(&GAUGES[1..]).await.then_some(())).await;
        for phone in [&alice, &bob] {
            let failures = phone.browser.run("return window.phone.failures").await;
            assert_eq!(failures, json!([]), "a page failed");
        }
    });
}

/// The demonstration with somebody at the agent's page, who is called in place of the bot.
#[test]
fn the_demonstrations_caller_reaches_an_agent_in_another_browser() {
    in_namespace("the_demonstrations_caller_reaches_an_agent_in_another_browser", async |folder| {
        let (said_user, said_agent) = voices(folder);
        let mut command = Command::new(interop::built("tandem-standin"));
        command.args(["serve", "--agent", "--verbose", "--env", "EDGE_BIND=127.0.0.1:8080"]);
        command.args(["--env", "EDGE_API=http://127.0.0.1:8080"]);
        let mut standin = Program::start(folder, "standin", &mut command);
        let output = standin.wait_for("\"page\"", 20).await;
        let line = output.lines().find(|line| line.starts_with('{')).expect("one line of JSON");
        let ready: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let agent = Softphone::agent_of(folder, &said_agent[1], "agent", ("demo.example", "demo")).await;
        let own = folder.join("user");
        std::fs::create_dir_all(&own).expect("a folder for the browser");
        let user = Browser::start_at(&own, &said_user[1], 9_600).await;
        user.open(ready["page"].as_str().expect("the page's address")).await;
        user.click("#call").await;
        assert!(agent.expect("incoming").await.contains("+44"), "the caller is shown in E.164");
        agent.act("answer()").await;
        agent.expect("confirmed").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        agent.listen().await;
        user.run("window.tandemHeard.length = 0").await;
        tokio::time::sleep(Duration::from_secs(LISTEN_S)).await;
        let (at_agent, at_user) = (folder.join("agent-heard.wav"), folder.join("user-heard.wav"));
        agent.heard(&at_agent).await;
        speech::write_wav(&at_user, 48_000, &user.heard().await);
        agent.act("hangup()").await;
        // A browser's DTLS close comes before its BYE, and is not what the call ended by.
        until("the BYE at the gateway", 10, async || {
            standin.output().contains(" end side=sip cause=bye").then_some(())
        })
        .await;
        assert_heard("the agent heard the user", speech::score(&said_user[0], &at_agent, 0.5));
        assert_heard("the user heard the agent", speech::score(&said_agent[0], &at_user, 0.5));
        assert!(standin.output().contains("INVITE sent to user agent"), "{}", standin.output());
    });
}

#[test]
fn the_agents_page_speaks_sip_without_a_browser_too() {
    let said = output_of(Command::new("node").arg(interop::repo().join("tests/page/agent.mjs")));
    assert!(said.contains("the agent speaks SIP"), "{said}");
}

/// A quarter of what tandem sends to baresip is lost.
const LOSSY_TRUNK: [&str; 16] = [
    "-A",
    "INPUT",
    "-p",
    "udp",
    "--dport",
    "20000:20998",
    "-m",
    "statistic",
    "--mode",
    "random",
    "--probability",
    "0.25",
    "-j",
    "DROP",
    "-w",
    "5",
];

/// Runs JavaScript with the call's connection (`peer`) and its statistics (`stats`) and answers what it returns.
async fn of_connection(phone: &Softphone, body: &str) -> serde_json::Value {
    let script = format!(
        "const done = arguments[arguments.length - 1]; (async () => {{
            const peer = window.tandemPeers[window.tandemPeers.length - 1];
            const stats = [...(await peer.getStats()).values()];
            {body}
        }})().then(done, (error) => done(`failed: ${{error}}`))"
    );
    phone.browser.run_async(&script).await
}

async fn remote_ufrag(phone: &Softphone) -> String {
    of_connection(phone, "return /a=ice-ufrag:(.*)/.exec(peer.remoteDescription.sdp)[1];").await.to_string()
}

/// The port that the browser's media goes by.
async fn local_port(phone: &Softphone) -> u64 {
    let port = of_connection(
        phone,
        "const { selectedCandidatePairId } = stats.find((entry) => entry.type === 'transport');
         const pair = stats.find((entry) => entry.id === selectedCandidatePairId);
         return pair ? stats.find((entry) => entry.id === pair.localCandidateId).port : 0;",
    );
    port.await.as_u64().expect("a port")
}

/// What tandem reports of the browser's stream, 0 to 1.
async fn reported_loss(phone: &Softphone) -> f64 {
    let loss =
        of_connection(phone, "return stats.find((entry) => entry.type === 'remote-inbound-rtp')?.fractionLost ?? 0;");
    loss.await.as_f64().expect("a fraction")
}

/// Nothing passes by the browser's present port any more; answers it.
async fn lose_path(phone: &Softphone) -> u64 {
    let port = local_port(phone).await;
    for side in ["--sport", "--dport"] {
        let rule = ["-A", "INPUT", "-p", "udp", side, &port.to_string(), "-j", "DROP"];
        output_of(Command::new("iptables").args(rule));
    }
    port
}

/// Speech of both sides: `[8 kHz, 48 kHz]`.
fn voices(folder: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let speak = |name, voice, text| speech::speak(folder, name, voice, text, &[8_000, 48_000]);
    (speak("alice-said", "en-gb", ALICE), speak("bob-said", "en-us", BOB))
}

/// Each sentence at 8 kHz, and all of them one after the other at 48 kHz.
fn sentences(folder: &Path, name: &str, said: &[(&str, &str)]) -> (Vec<PathBuf>, PathBuf) {
    let spoken = said.iter().enumerate().map(|(number, (voice, text))| {
        let files = speech::speak(folder, &format!("{name}-{number}"), voice, text, &[8_000, 48_000]);
        (files[0].clone(), files[1].clone())
    });
    let (references, parts): (Vec<PathBuf>, Vec<PathBuf>) = spoken.unzip();
    let microphone = folder.join(format!("{name}-says.wav"));
    output_of(Command::new("sox").args(&parts).arg(&microphone));
    (references, microphone)
}

/// What alice and what bob heard through tandem and directly, from now on for `COMPARE_S` seconds.
async fn listen_to_both(folder: &Path, a: &Browser, b: &Browser) -> [[PathBuf; 2]; 2] {
    for browser in [a, b] {
        browser.keep_each().await;
    }
    tokio::time::sleep(Duration::from_secs(COMPARE_S)).await;
    let mut heard = Vec::new();
    for (name, browser) in [("alice", a), ("bob", b)] {
        let files = ["through", "direct"].map(|way| folder.join(format!("{name}-heard-{way}.wav")));
        for (file, peer) in files.iter().zip(["window.tandemPeers[0]", "window.direct"]) {
            speech::write_wav(file, 48_000, &browser.kept(peer).await);
        }
        heard.push(files);
    }
    [heard[0].clone(), heard[1].clone()]
}

/// Connects two pages without anything between them.
async fn connect(a: &Browser, b: &Browser) {
    const BEGIN: &str = "const done = arguments[arguments.length - 1]; (async () => {
        const peer = window.direct = new RTCPeerConnection();
        // The very sound that the call has.
        const { track } = window.tandemPeers[0].getSenders().find((sender) => sender.track);
        peer.addTrack(track, new MediaStream([track]));
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

/// What was said was heard, however well: that is asserted where nothing has happened to the path.
fn assert_content(what: &str, score: Score) {
    println!("{what}: {score:?}");
    assert!(score.similarity > 0.5, "{what}: {score:?}");
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
