//! The WebRTC leg against Firefox (nICEr, NSS) and aiortc (aioice, OpenSSL, libsrtp): each DTLS role, each SRTP profile, IPv4
//! and IPv6, through the whole program. What both sides heard is compared with what was said.
//!
//! Why these beside Chromium and Pion: no two of the five share a line of ICE, DTLS or SRTP.

mod interop;

use interop::baresip::Baresip;
use interop::nat::{self, Nat};
use interop::{EDGE, HOST, Program, get_json, in_namespace, output_of, pion, repo, script, speech, until};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const BOT: &str = "sip:bob@10.77.0.1:5070";
/// Beside `HOST`, for calls over IPv6.
const HOST_V6: &str = "fd00:77::1";
/// Short, so that one whole turn of what loops lies within a few seconds, wherever they begin.
const SENTENCE: &str = "Somebody is asking.";

#[test]
fn aiortc_calls_in_each_dtls_role_with_each_srtp_profile_over_ipv4_and_ipv6() {
    in_namespace("aiortc_calls_in_each_dtls_role_with_each_srtp_profile_over_ipv4_and_ipv6", async |folder| {
        output_of(Command::new("ip").args(["addr", "add", "fd00:77::1/64", "dev", "t0", "nodad"]));
        let said = speech::speak(folder, "user", "en-gb", SENTENCE, &[8_000, 48_000]);
        let bot = Bot::start(folder).await;
        let public_ip = format!("{HOST}, {HOST_V6}");
        let _tandem = interop::edge_with(folder, BOT, &[("PUBLIC_IP", &public_ip)]).await;
        let calls = [
            ("SRTP_AEAD_AES_256_GCM", "AEAD_AES_256_GCM", "actpass", "client", HOST),
            ("SRTP_AEAD_AES_128_GCM", "AEAD_AES_128_GCM", "passive", "server", HOST_V6),
            ("SRTP_AES128_CM_SHA1_80", "AES_CM_128_HMAC_SHA1_80", "active", "client", HOST_V6),
        ];
        for (number, (profile, name, setup, role, address)) in calls.into_iter().enumerate() {
            let id = format!("aiortc-{number}");
            let heard = folder.join(format!("{id}.wav"));
            let python = repo().join("target/tools/python/bin/python");
            let mut command = Command::new(python);
            command.arg(script("aiortc_peer.py")).args(["--edge", EDGE, "--call-id", &id, "--seconds", "7"]);
            command.arg("--play").arg(&said[1]).arg("--record").arg(&heard);
            command.args(["--setup", setup, "--profile", profile, "--address", address]);
            // One of them comes up over a path that loses every fifth datagram, each way: checks and flights are sent again.
            let is_lossy = number == 1;
            if is_lossy {
                lose_every_fifth();
            }
            let mut aiortc = Program::start(folder, &id, &mut command);
            if is_lossy {
                until("DTLS over a lossy path", 20, async || timeline(&id).await.contains("DTLS 1.2").then_some(()))
                    .await;
                assert!(dropped() > 2, "too little was lost to prove anything: {}", dropped());
                output_of(Command::new("ip6tables").args(["-F"]));
            }
            assert!(aiortc.ended(40).await, "aiortc failed");
            let output = aiortc.output();
            let last = output.lines().last().unwrap_or_default();
            let seen: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("no JSON ({error}): {output}"));
            println!("{id}: {} as DTLS {} at {}", seen["profile"], seen["dtls"], seen["nominated"]);
            assert_eq!((&seen["profile"], &seen["dtls"]), (&profile.into(), &role.into()), "{seen}");
            assert_eq!(seen["nominated"], address, "{seen}");
            assert_reports(&seen, if is_lossy { 30 } else { 0 });
            let timeline = timeline(&id).await;
            assert!(seen["heard"].as_u64() > Some(200), "{seen}\n{timeline}");
            assert!(timeline.contains(name) && timeline.contains("DTLS 1.2"), "{timeline}");
            bot.assert_call_ends_and_heard(number + 1, &said[0]).await;
            assert_heard("aiortc", &bot.says, &heard);
        }
    });
}

/// Every fifth datagram of IPv6 to and from tandem's media ports is lost.
fn lose_every_fifth() {
    for side in ["--dport", "--sport"] {
        let rule = format!("-A INPUT -p udp {side} 30000:30999 -m statistic --mode nth --every 5 --packet 1 -j DROP");
        output_of(Command::new("ip6tables").args(rule.split(' ')));
    }
}

/// Datagrams that those rules have dropped.
fn dropped() -> u64 {
    let rules = output_of(Command::new("ip6tables").args("-L INPUT -v -x -n".split(' ')));
    let counts = rules.lines().filter(|line| line.contains("DROP") && line.contains("udp"));
    counts.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok()).sum()
}

/// What an independent stack makes of our RTCP: reports about its stream, in which `lost_max` packets are missing at most, with a round
/// trip; our CNAME and our BYE.
fn assert_reports(seen: &Value, lost_max: u64) {
    let remote = &seen["remote"];
    println!("tandem reports {remote}, names itself {}, says BYE for {}", seen["names"], seen["bye"]);
    assert!(remote["packetsLost"].as_u64().is_some_and(|lost| lost <= lost_max), "{seen}");
    assert!(remote["roundTripTime"].as_f64().is_some_and(|seconds| (0.0..0.5).contains(&seconds)), "{seen}");
    assert!(remote["jitter"].as_u64().is_some_and(|ticks| ticks < 48_000 / 2), "{seen}");
    let answer = seen["answer"].as_str().expect("an answer");
    let ssrc = answer.lines().find_map(|line| line.strip_prefix("a=ssrc:")).expect("an SSRC");
    let ssrc = ssrc.split(' ').next().unwrap_or_default();
    let cname = seen["names"][ssrc].as_str().unwrap_or_default();
    assert!(cname.len() >= 16, "our SSRC has a name of its own in SDES (RFC 7022 §4.2): {seen}");
    assert_eq!(seen["bye"], json!([ssrc.parse::<u32>().expect("a number")]), "{seen}");
}

/// RSA certificates and CBC suites are what the first DTLS library lacks. A client's suites stand in its ClientHello; its
/// certificate, and what a server takes, shows only when the handshake fails.
#[test]
fn a_peer_with_an_rsa_certificate_or_cbc_suites_is_served_from_its_second_call_on() {
    in_namespace("a_peer_with_an_rsa_certificate_or_cbc_suites_is_served_from_its_second_call_on", async |folder| {
        let said = speech::speak(folder, "user", "en-gb", SENTENCE, &[8_000, 48_000]);
        let bot = Bot::start(folder).await;
        let _tandem = interop::edge(folder, BOT).await;
        let call = async |id: &str, rsa: &str, setup: &str, from: &str| {
            let heard = folder.join(format!("{id}.wav"));
            let mut command = Command::new(repo().join("target/tools/python/bin/python"));
            command.arg(script("aiortc_peer.py")).args(["--edge", EDGE, "--call-id", id, "--seconds", "5"]);
            command.arg("--play").arg(&said[1]).arg("--record").arg(&heard).args(["--setup", setup, "--address", HOST]);
            command.args(["--rsa", rsa, "--patience", "3", "--from", from]);
            let mut aiortc = Program::start(folder, id, &mut command);
            assert!(aiortc.ended(40).await, "aiortc failed: {}", aiortc.output());
            let output = aiortc.output();
            let seen: Value = serde_json::from_str(output.lines().last().unwrap_or_default()).expect("JSON");
            let timeline = timeline(id).await;
            println!("{id}: {timeline}");
            (seen, timeline, heard)
        };
        for (rsa, setup, role, first_fails) in [
            ("suites", "active", "client", false),
            ("certificate", "active", "client", true),
            ("suites", "passive", "server", true),
        ] {
            // Numbers of their own, so that each begins with nothing learned.
            let from = format!("44770090{:04}", rsa.len() * 100 + setup.len());
            if first_fails {
                let (seen, timeline, _) = call(&format!("{rsa}-{role}-1"), rsa, setup, &from).await;
                assert!(seen["failed"].is_string(), "{seen}\n{timeline}");
                assert!(
                    timeline.contains("dtls_refused") && timeline.contains("OpenSSL serves the next call"),
                    "{timeline}"
                );
            }
            let (seen, timeline, heard) = call(&format!("{rsa}-{role}-2"), rsa, setup, &from).await;
            assert_eq!(seen["dtls"], role, "{seen}\n{timeline}");
            assert_eq!(timeline.contains("by OpenSSL (an earlier handshake failed)"), first_fails, "{timeline}");
            bot.assert_last_call_heard(&said[0]).await;
            assert_heard("aiortc", &bot.says, &heard);
        }
    });
}

/// The edge has a private address; the world knows another one, which a router maps to it. A full agent is answered as lite one, a
/// lite agent is called by a controlling one.
#[test]
fn an_edge_behind_a_public_address_is_reached_by_full_and_by_lite_agents() {
    in_namespace("an_edge_behind_a_public_address_is_reached_by_full_and_by_lite_agents", async |folder| {
        let said = speech::speak(folder, "user", "en-gb", SENTENCE, &[8_000, 48_000]);
        let bot = Bot::start(folder).await;
        let nat = Nat::new();
        let _tandem = nat.edge(folder, BOT).await;
        let (seen, heard) = call_from_aiortc(folder, &said[1]).await;
        assert_shows_public(&seen["answer"]);
        assert_eq!((&seen["nominated"], &seen["dtls"]), (&nat::PUBLIC.into(), &"client".into()), "{seen}");
        bot.assert_call_ends_and_heard(1, &said[0]).await;
        assert_heard("aiortc", &bot.says, &heard);

        let heard = call_from_pion(folder, &said[1]).await;
        bot.assert_call_ends_and_heard(2, &said[0]).await;
        assert_heard("Pion", &bot.says, &heard);
        let asked = bot.baresip.borrow().program.output();
        assert!(!asked.contains(nat::PRIVATE), "the private address was shown to the bot: {asked}");
    });
}

async fn call_from_aiortc(folder: &Path, microphone: &Path) -> (Value, PathBuf) {
    let heard = folder.join("aiortc.wav");
    let mut command = Command::new(repo().join("target/tools/python/bin/python"));
    command.arg(script("aiortc_peer.py")).args(["--edge", nat::EDGE, "--token", nat::TOKEN, "--call-id", "outside"]);
    command.arg("--play").arg(microphone).arg("--record").arg(&heard).args(["--seconds", "6", "--address", HOST]);
    let mut aiortc = Program::start(folder, "aiortc", &mut command);
    assert!(aiortc.ended(40).await, "aiortc failed: {}", aiortc.output());
    let output = aiortc.output();
    (serde_json::from_str(output.lines().last().unwrap_or_default()).expect("JSON"), heard)
}

/// The lite peer of another make, for six seconds.
async fn call_from_pion(folder: &Path, microphone: &Path) -> PathBuf {
    const PION: &str = "http://10.77.0.1:8090";
    let mut peer = pion::start(folder, microphone).await;

    let offer = get_json(&format!("{PION}/offer")).await;
    let post = async |path: &str, body: Value| {
        let request = reqwest::Client::new().post(format!("{}{path}", nat::EDGE)).bearer_auth(nat::TOKEN).json(&body);
        let text = request.send().await.expect("an answer").text().await.expect("a body");
        serde_json::from_str::<Value>(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    };
    let created = post("/webrtc/new", json!({"call_id": "lite", "sdp_offer": offer["sdp"]})).await;
    assert_shows_public(&created["sdp_answer"]);
    let answer = json!({"type": "answer", "sdp": created["sdp_answer"]});
    let taken = reqwest::Client::new().post(format!("{PION}/answer")).json(&answer).send().await.expect("an answer");
    assert!(taken.status().is_success(), "{}", peer.output());
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    let stats = get_json(&format!("{PION}/stats")).await;
    assert!(stats["pair"].to_string().contains(nat::PUBLIC), "{stats}");
    post("/webrtc/hangup", json!({"edge_session_id": created["edge_session_id"]})).await;
    get_json(&format!("{PION}/quit")).await;
    peer.ended(5).await;
    pion::heard(folder)
}

fn assert_shows_public(answer: &Value) {
    let answer = answer.as_str().expect("an answer");
    let candidates: Vec<&str> = answer.lines().filter(|line| line.starts_with("a=candidate:")).collect();
    assert!(candidates.iter().all(|line| line.contains(nat::PUBLIC)) && !candidates.is_empty(), "{answer}");
    assert!(!answer.contains(nat::PRIVATE), "the private address is shown: {answer}");
}

#[test]
fn firefox_calls_as_dtls_client_and_as_dtls_server() {
    in_namespace("firefox_calls_as_dtls_client_and_as_dtls_server", async |folder| {
        // Firefox has no candidates where there is no default route; nobody is at its end.
        output_of(Command::new("ip").args(["route", "add", "default", "via", "10.77.0.2", "dev", "t0"]));
        let bot = Bot::start(folder).await;
        let _tandem = interop::edge(folder, BOT).await;
        let mut command = Command::new("python3");
        command.arg(script("firefox.py")).args(["--edge", EDGE, "--seconds", "5", "--folder"]).arg(folder);
        command.args(["--setup", "actpass", "--setup", "passive"]);
        let mut firefox = Program::start(folder, "firefox-calls", &mut command);
        assert!(firefox.ended(90).await, "Firefox failed:\n{}", firefox.output());
        let output = firefox.output();
        let calls: Vec<Value> = output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(calls.len(), 2, "{output}");
        for (call, (role, ours)) in calls.iter().zip([("client", "passive"), ("server", "active")]) {
            let setup = call["setup"].as_str().expect("a setup");
            let answer = call["answer"].as_str().expect("an answer");
            assert!(answer.contains(&format!("a=setup:{ours}\r\n")), "{answer}");
            let stats = call["stats"].as_array().expect("statistics");
            let of = |kind: &str| stats.iter().find(|entry| entry["type"] == kind).unwrap_or(&Value::Null);
            let inbound = of("inbound-rtp");
            println!(
                "{setup}: {} packets, {} lost; {}",
                inbound["packetsReceived"],
                inbound["packetsLost"],
                of("transport")
            );
            assert!(inbound["packetsReceived"].as_u64() > Some(200), "{inbound}");
            let transport = of("transport");
            assert_eq!(
                (&transport["dtlsRole"], &transport["iceRole"]),
                (&role.into(), &"controlling".into()),
                "{transport}"
            );
            let timeline = timeline(&format!("firefox-{setup}")).await;
            assert!(timeline.contains("DTLS 1.3") && timeline.contains("ICE lite"), "{timeline}");
            let wav = folder.join(format!("{setup}.wav"));
            let ogg = folder.join(format!("{setup}.ogg"));
            output_of(
                Command::new("ffmpeg").args(["-loglevel", "error", "-y", "-i"]).arg(&ogg).args(["-ac", "1"]).arg(&wav),
            );
            assert_heard("Firefox", &bot.says, &wav);
        }
        // Firefox's microphone is a tone, and nothing else.
        let pcm = speech::read_wav(&bot.heard(2).await);
        let (hz, share) = strongest_tone(&pcm[pcm.len() / 4..]);
        println!("the bot heard {hz} Hz, {share:.2} of the energy");
        assert!(share > 0.8, "{hz} Hz: {share}");
    });
}

/// baresip in the bot's place, with a sentence that it says again and again.
struct Bot {
    baresip: std::cell::RefCell<Baresip>,
    says: PathBuf,
}

impl Bot {
    async fn start(folder: &Path) -> Bot {
        let says = speech::speak(folder, "bot", "en-us", "The bot answers.", &[8_000]).remove(0);
        let long = folder.join("bot-long.wav");
        output_of(Command::new("sox").arg(&says).arg(&long).args(["repeat", "19"]));
        let account = format!("<sip:bob@{HOST}>;regint=0;answermode=auto;audio_codecs=PCMU/8000/1");
        let baresip = Baresip::start(folder, &format!("{HOST}:5070"), &long, &account).await;
        Bot { baresip: baresip.into(), says }
    }

    /// What it heard in its `calls`th call, which has ended.
    async fn heard(&self, calls: usize) -> PathBuf {
        let ended = async || (self.baresip.borrow_mut().parameters("CALL_CLOSED").len() >= calls).then_some(());
        until("baresip's end of the call", 5, ended).await;
        self.baresip.borrow().heard()
    }

    /// For calls that do not all reach it.
    async fn assert_last_call_heard(&self, said: &Path) {
        let ended = async || {
            let mut baresip = self.baresip.borrow_mut();
            (baresip.parameters("CALL_ESTABLISHED").len() == baresip.parameters("CALL_CLOSED").len()).then_some(())
        };
        until("baresip's end of the call", 5, ended).await;
        assert_heard("the bot", said, &self.baresip.borrow().heard());
    }

    async fn assert_call_ends_and_heard(&self, calls: usize, said: &Path) {
        assert_heard("the bot", said, &self.heard(calls).await);
    }
}

/// The frequency, in steps of 10 Hz at 8 kHz, that holds most of the energy, and its share.
fn strongest_tone(pcm: &[i16]) -> (u32, f64) {
    let share = |hz: u32| {
        let (mut tone, mut total) = (0.0, 1.0);
        for window in pcm.chunks_exact(800) {
            let (mut re, mut im) = (0.0, 0.0);
            for (at, sample) in window.iter().enumerate() {
                let (sample, angle) = (f64::from(*sample), std::f64::consts::TAU * f64::from(hz) * at as f64 / 8_000.0);
                re += sample * angle.cos();
                im += sample * angle.sin();
                total += sample * sample;
            }
            tone += 2.0 * (re * re + im * im) / window.len() as f64;
        }
        tone / total
    };
    let shares = (10..340).map(|step| (step * 10, share(step * 10)));
    shares.max_by(|a, b| a.1.total_cmp(&b.1)).expect("some frequency")
}

fn assert_heard(who: &str, said: &Path, heard: &Path) {
    let score = speech::score(said, heard, 0.0);
    println!("{who} heard {score:?}");
    assert!(score.similarity > 0.8, "{who} did not hear what was said: {score:?}");
}

/// All entries of a call's timeline, one a line.
async fn timeline(call_id: &str) -> String {
    let page = get_json(&format!("{EDGE}/calls/{call_id}/timeline")).await;
    let entries = page["entries"].as_array().cloned().unwrap_or_default();
    entries.iter().map(|entry| format!("{} {} {}\n", entry["at_ms"], entry["step"], entry["detail"])).collect()
}
