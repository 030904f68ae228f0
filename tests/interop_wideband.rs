//! Wideband with an independent program: a phone that speaks Opus calls one that speaks G.722 alone, and both hear 16 kHz.
//!
//! Both are baresip, whose G.722 is spandsp's: its samples at 16 kHz under an RTP clock of 8000 (RFC 3551 §4.5.2) are none of ours.

mod interop;

use interop::baresip::{Baresip, Options};
use interop::{EDGE, HOST, Program, built, in_namespace, left_behind, output_of, repo, script, speech, until};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const NUMBER: &str = "+447700900123";

#[test]
fn an_opus_phone_and_a_g722_phone_hear_each_other_in_wideband() {
    in_namespace("an_opus_phone_and_a_g722_phone_hear_each_other_in_wideband", async |folder| {
        let said = |name, voice, text| speech::speak(folder, name, voice, text, &[16_000, 48_000]);
        let near =
            said("near", "en-gb", "She sells six fresh fish dishes. The chest is stacked with flashy silk scarves.");
        let far =
            said("far", "en-us", "Sixty swift ships slipped past the coast. Fetch the hatchet and six chisels first.");
        let g722 = Options { name: "pbx", control_port: 4_444, modules: &["g722"], certificate: None };
        let account = format!("<sip:{NUMBER}@{HOST}>;regint=0;answermode=auto;audio_codecs=G722/16000/1");
        let source = repeated(folder, "far", &far[0], 1);
        let mut pbx = Baresip::start_as(folder, &g722, &format!("{HOST}:5070"), &source, &account).await;
        let mut tandem = tandem(folder).await;
        let opus = Options { name: "phone", control_port: 4_445, modules: &["opus"], certificate: None };
        let account = format!("<sip:phone@{HOST}>;regint=0;audio_codecs=opus/48000/2");
        let source = repeated(folder, "near", &near[1], 2);
        let mut phone = Baresip::start_as(folder, &opus, &format!("{HOST}:5072"), &source, &account).await;

        phone.command_with("dial", &format!("sip:{NUMBER}@{HOST}:5080"));
        until("both phones in the call", 20, async || {
            (phone.saw("CALL_ESTABLISHED", "") && pbx.saw("CALL_ESTABLISHED", "")).then_some(())
        })
        .await;
        // Long enough for one whole turn of the words, whenever it began.
        tokio::time::sleep(Duration::from_secs(13)).await;
        phone.command("hangup");
        until("BYE at the far phone", 10, async || pbx.saw("CALL_CLOSED", "").then_some(())).await;

        let by_far = judge(&near[0], &pbx.heard());
        let by_near = judge(&far[0], &phone.heard());
        until("an empty gateway", 60, async || left_behind(EDGE).await.is_empty().then_some(())).await;
        let log = tandem.output();
        assert!(log.contains("200 from trunk pbx, G.722, transcoded"), "{log}");
        println!("Opus to G.722: {by_far:?}; G.722 to Opus: {by_near:?}");
        for (pesq_wb, high_db) in [by_far, by_near] {
            assert!(pesq_wb > 2.5, "PESQ-WB {pesq_wb:.2}");
            assert!(high_db > -12.0, "{high_db:.1} dB are left of what lies above 4 kHz");
        }
        tandem.stop().await;
    });
}

/// PESQ-WB, and how much of the speech above 4 kHz is left, in dB.
fn judge(said: &Path, heard: &Path) -> (f64, f64) {
    let python = repo().join("target/tools/python/bin/python");
    let text = output_of(Command::new(python).arg("-B").arg(script("wideband.py")).arg(said).arg(heard));
    let value: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("wideband.py said {text:?}: {error}"));
    let number = |key: &str| value[key].as_f64().unwrap_or_else(|| panic!("no {key} in {text}"));
    (number("pesq_wb"), number("high_db"))
}

/// What baresip reads: its call ends when the file does.
fn repeated(folder: &Path, name: &str, wav: &Path, channels: u8) -> PathBuf {
    let path = folder.join(format!("{name}-repeated.wav"));
    output_of(Command::new("sox").arg(wav).args(["-c", &channels.to_string()]).arg(&path).args(["repeat", "12"]));
    path
}

/// tandem between the phone, known by its address, and the PBX, which takes G.722 alone.
async fn tandem(folder: &Path) -> Program {
    let config = folder.join("tandem.toml");
    let text = format!(
        r#"
[trunks.phone]
host = "{HOST}"
port = 5072
transport = "udp"
allowed_sources = ["{HOST}"]
media = "rtp"
codecs = ["opus"]

[trunks.pbx]
host = "{HOST}"
port = 5070
transport = "udp"
media = "rtp"
codecs = ["g722"]

[[routes]]
name = "out"
source = ["trunk:phone"]
dialed = '^\+?[1-9]\d{{6,14}}$'
to = ["trunk:pbx"]
"#
    );
    std::fs::write(&config, text).expect("a configuration");
    let mut command = Command::new(built("tandem"));
    command.arg("--config").arg(&config);
    command.envs([("EDGE_BIND", "127.0.0.1:8080"), ("SIP_TARGET", "sip:nobody@127.0.0.1:9"), ("PUBLIC_IP", HOST)]);
    command.envs([("SIP_BIND", "10.77.0.1:5080"), ("MEDIA_PORTS", "30000-30999"), ("PORT", "3000")]);
    // Nobody plays WhatsApp here; the orchestrator only has to start.
    command.envs([("WABA_BASE", "http://127.0.0.1:9/v24.0"), ("WABA_TOKEN", "token"), ("WABA_PHONE_ID", "1")]);
    let mut program = Program::start(folder, "tandem", &mut command);
    until("tandem", 20, async || reqwest::get(EDGE).await.ok()).await;
    assert!(program.is_running());
    program
}
