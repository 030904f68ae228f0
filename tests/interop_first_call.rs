//! The first call, with independent programs at both ends:
//! Chromium -> the stand-in's page -> signed webhook -> tandem -> Kamailio, which really checks the digest -> baresip.

mod interop;

use interop::baresip::Baresip;
use interop::browser::Browser;
use interop::speech::{self, Score};
use interop::{HOST, Program, built, in_namespace, left_behind, output_of, until};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How far a call may be under the same speech through the same codecs without a network (PESQ-NB).
const PESQ_LOSS_MAX: f64 = 0.3;

#[test]
fn speech_goes_from_a_browser_to_a_sip_phone_and_back() {
    in_namespace("speech_goes_from_a_browser_to_a_sip_phone_and_back", async |folder| {
        let said = speech::speak(
            folder,
            "user",
            "en-gb",
            "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background.",
            &[8_000, 48_000],
        );
        let answered = speech::speak(
            folder,
            "bot",
            "en-us",
            "It is easy to tell the depth of a well. These days a chicken leg is a rare dish.",
            &[8_000],
        );
        let kamailio = interop::kamailio(folder).await;
        let account = format!(
            "<sip:bob@{HOST}>;auth_user=bob;auth_pass=secret;outbound=\"sip:{HOST}:5060;transport=udp\";regint=60;answermode=auto;audio_codecs=PCMU/8000/1"
        );
        let mut bob = Baresip::start(folder, &format!("{HOST}:5070"), &repeated(folder, &answered[0]), &account).await;
        bob.program.wait_for("1 binding", 10).await;
        let (_standin, ready) = standin(folder).await;
        let browser = Browser::start(folder, &said[1]).await;
        browser.open(ready["page"].as_str().expect("the page's address")).await;

        // The first call: speech both ways, keys, and the user hangs up.
        browser.click("#call").await;
        until("the bridged call", 20, async || has_step(&browser, "release").await.then_some(())).await;
        tokio::time::sleep(Duration::from_secs(22)).await;
        press(&browser, "5").await;
        press(&browser, "#").await;
        until("both keys at baresip", 10, async || (keys(&mut bob) == ["5", "#"]).then_some(())).await;
        browser.screenshot(&folder.join("page.png")).await;
        browser.click("#hangup").await;
        until("BYE at baresip", 10, async || bob.saw("CALL_CLOSED", "").then_some(())).await;
        let by_phone = speech::score(&said[0], &bob.heard(), 1.0);
        let heard = folder.join("browser-heard.wav");
        speech::write_wav(&heard, 48_000, &browser.heard().await);
        let by_user = speech::score(&answered[0], &heard, 1.0);

        // The second one: the phone hangs up.
        until("the page at rest", 10, async || is_enabled(&browser, "#call").await.then_some(())).await;
        browser.click("#call").await;
        until("the second call", 20, async || has_step(&browser, "release").await.then_some(())).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        bob.command("hangup");
        until("the end on the page", 10, async || has_step(&browser, "end").await.then_some(())).await;
        let end = text(&browser, "#end").await;
        assert!(end.to_lowercase().contains("bye"), "the page does not say why: {end}");

        let edge = ready["edge"].as_str().expect("the edge's address").to_owned();
        until("an empty gateway", 60, async || left_behind(&edge).await.is_empty().then_some(())).await;
        assert_provider(&kamailio.output());
        assert_eq!(browser.console().await, "", "the page wrote to its console");
        assert_speech("browser to phone", by_phone, baseline_to_phone(folder, &said));
        assert_speech("phone to browser", by_user, baseline_to_browser(folder, &answered[0]));
    });
}

/// Two calls were challenged and authenticated, and ACK and BYE followed the route set.
fn assert_provider(log: &str) {
    let count = |what: &str| log.matches(what).count();
    assert_eq!(count("INVITE challenged"), 2, "{log}");
    assert_eq!(count("INVITE authenticated as gw, call wacid."), 2, "{log}");
    assert!(count("in-dialog ACK along the route set") >= 2, "{log}");
    assert!(count("in-dialog BYE along the route set") >= 2, "{log}");
    assert_eq!(count("without a route"), 0, "{log}");
}

fn assert_speech(direction: &str, heard: Score, without_network: Score) {
    println!(
        "{direction}: PESQ-NB {:.2}, without a network {:.2}; similarity {:.2}",
        heard.pesq, without_network.pesq, heard.similarity
    );
    assert!(heard.similarity > 0.8, "{direction}: not the same speech: {heard:?}");
    assert!(
        heard.pesq >= without_network.pesq - PESQ_LOSS_MAX,
        "{direction}: {heard:?}, without a network {without_network:?}"
    );
}

/// The user's speech as Opus at WhatsApp's settings, then mu-law: no network, no gateway.
fn baseline_to_phone(folder: &Path, said: &[PathBuf]) -> Score {
    let pcm = speech::read_wav(&said[1]);
    let mut encoder = opus::Encoder::new(48_000, opus::Channels::Mono, opus::Application::Voip).expect("libopus");
    encoder.set_bitrate(opus::Bitrate::Bits(20_000)).expect("a bit rate");
    encoder.set_max_bandwidth(opus::Bandwidth::Wideband).expect("a bandwidth");
    encoder.set_inband_fec(true).expect("FEC");
    let mut decoder = opus::Decoder::new(8_000, opus::Channels::Mono).expect("libopus");
    let mut out = Vec::new();
    for frame in pcm.chunks_exact(960) {
        let mut samples = [0; 160];
        let packet = encoder.encode_vec(frame, 400).expect("a packet");
        decoder.decode(&packet, &mut samples, false).expect("samples");
        out.extend(samples.iter().map(|sample| harness::tone::from_ulaw(harness::tone::ulaw(*sample))));
    }
    scored(folder, "baseline-to-phone.wav", &said[0], 8_000, &out)
}

/// The phone's speech as mu-law, then Opus at the gateway's settings.
fn baseline_to_browser(folder: &Path, answered: &Path) -> Score {
    let pcm = speech::read_wav(answered);
    let mut encoder = opus::Encoder::new(8_000, opus::Channels::Mono, opus::Application::Voip).expect("libopus");
    encoder.set_bitrate(opus::Bitrate::Bits(20_000)).expect("a bit rate");
    encoder.set_complexity(5).expect("a complexity");
    let mut decoder = opus::Decoder::new(48_000, opus::Channels::Mono).expect("libopus");
    let mut out = Vec::new();
    for frame in pcm.chunks_exact(160) {
        let frame: Vec<i16> =
            frame.iter().map(|sample| harness::tone::from_ulaw(harness::tone::ulaw(*sample))).collect();
        let mut samples = [0; 960];
        let packet = encoder.encode_vec(&frame, 400).expect("a packet");
        decoder.decode(&packet, &mut samples, false).expect("samples");
        out.extend(samples);
    }
    scored(folder, "baseline-to-browser.wav", answered, 48_000, &out)
}

fn scored(folder: &Path, name: &str, said: &Path, rate_hz: u32, pcm: &[i16]) -> Score {
    let path = folder.join(name);
    // Room before and behind, so that the codecs' delay does not push the end out.
    let mut padded = vec![0; rate_hz as usize / 2];
    padded.extend_from_slice(pcm);
    padded.extend(vec![0; rate_hz as usize / 2]);
    speech::write_wav(&path, rate_hz, &padded);
    speech::score(said, &path, 0.0)
}

async fn standin(folder: &Path) -> (Program, Value) {
    let mut command = Command::new(built("tandem-standin"));
    let target = format!("sip:bob@{HOST}:5060");
    command.args([
        "serve",
        "--no-bot",
        "--sip-target",
        &target,
        "--sip-user",
        "gw",
        "--sip-pass",
        "secret",
        "--verbose",
    ]);
    command.args(["--env", &format!("SIP_BIND={HOST}:5080"), "--env", &format!("PUBLIC_IP={HOST}")]);
    let mut program = Program::start(folder, "standin", &mut command);
    let output = program.wait_for("\"page\"", 20).await;
    let line = output.lines().find(|line| line.starts_with('{')).expect("one line of JSON");
    (program, serde_json::from_str(line).expect("JSON"))
}

async fn press(browser: &Browser, key: &str) {
    let script = format!(
        "const keys = [...document.querySelectorAll('#keypad button')]; keys.find(k => k.textContent.trim().startsWith('{key}')).click()"
    );
    browser.run(&script).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
}

/// Keys that baresip reported, without the releases between them.
fn keys(bob: &mut Baresip) -> Vec<String> {
    bob.parameters("CALL_DTMF_START")
}

async fn text(browser: &Browser, selector: &str) -> String {
    let text = browser.run(&format!("return document.querySelector('{selector}').innerText")).await;
    text.as_str().unwrap_or("").to_owned()
}

async fn has_step(browser: &Browser, step: &str) -> bool {
    browser.run(&format!("return document.querySelector('#steps li[data-step={step}]') !== null")).await == true
}

async fn is_enabled(browser: &Browser, selector: &str) -> bool {
    browser.run(&format!("return !document.querySelector('{selector}').disabled")).await == true
}

fn repeated(folder: &Path, wav: &Path) -> PathBuf {
    let long = folder.join("bot-long.wav");
    output_of(Command::new("sox").arg(wav).arg(&long).args(["repeat", "12"]));
    long
}
