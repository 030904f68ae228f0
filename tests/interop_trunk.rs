//! Trunks with independent programs: a phone with SDES and Opus, known by its address, dials a number; the first trunk of its route is
//! dead, the second is Kamailio, which really checks the digest; behind it another phone answers. Nothing is transcoded: speech is
//! compared by content both ways.

mod interop;
mod trunks;

use interop::baresip::{Baresip, Options};
use interop::speech::{self, Score};
use interop::{EDGE, HOST, Program, built, in_namespace, left_behind, output_of, until};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The number that is dialed, and that the far phone has at the provider.
const NUMBER: &str = "+447700900123";

#[test]
fn a_phone_with_sdes_reaches_another_behind_the_second_trunk() {
    in_namespace("a_phone_with_sdes_reaches_another_behind_the_second_trunk", async |folder| {
        let said = |name, voice, text| speech::speak(folder, name, voice, text, &[8_000, 48_000]);
        let near =
            said("near", "en-gb", "The birch canoe slid on the smooth planks. Glue the sheet to the blue background.");
        let far =
            said("far", "en-us", "It is easy to tell the depth of a well. These days a chicken leg is a rare dish.");
        let kamailio = interop::kamailio(folder).await;
        let account = format!(
            "<sip:{NUMBER}@{HOST}>;auth_user=bob;auth_pass=secret;outbound=\"sip:{HOST}:5060;transport=udp\";regint=60;\
             answermode=auto;audio_codecs=opus/48000/2"
        );
        let options = Options { name: "bob", control_port: 4_444, modules: &["opus"], certificate: None };
        let mut bob =
            Baresip::start_as(folder, &options, &format!("{HOST}:5070"), &stereo(folder, "far", &far[1]), &account)
                .await;
        bob.program.wait_for("1 binding", 10).await;

        let mut tandem = tandem(folder).await;
        let account = format!("<sip:pbx@{HOST}>;regint=0;mediaenc=srtp-mand;audio_codecs=opus/48000/2");
        let options = Options { name: "alice", control_port: 4_445, modules: &["opus"], certificate: None };
        let mut alice =
            Baresip::start_as(folder, &options, &format!("{HOST}:5072"), &stereo(folder, "near", &near[1]), &account)
                .await;

        alice.command_with("dial", &format!("sip:{NUMBER}@{HOST}:5080"));
        until("both phones in the call", 20, async || {
            (alice.saw("CALL_ESTABLISHED", "") && bob.saw("CALL_ESTABLISHED", "")).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_secs(8)).await;
        alice.command("hangup");
        until("BYE at the far phone", 10, async || bob.saw("CALL_CLOSED", "").then_some(())).await;

        let by_far = speech::score(&near[0], &mono(folder, "far-heard", &bob.heard()), 0.0);
        let by_near = speech::score(&far[0], &mono(folder, "near-heard", &alice.heard()), 0.0);
        until("an empty gateway", 60, async || left_behind(EDGE).await.is_empty().then_some(())).await;
        let log = tandem.output();
        for words in [
            "trunk dead: cannot be resolved or reached",
            "200 from trunk provider, Opus, passed through",
            "trunk pbx offers Opus over SDES",
        ] {
            assert!(log.contains(words), "the log does not say {words:?}");
        }
        assert!(log.contains("side=trunk pbx cause=bye"), "the log does not say who ended the call, and how");
        assert!(kamailio.output().contains("INVITE authenticated as gw"), "{}", kamailio.output());
        assert_speech("near to far", by_far);
        assert_speech("far to near", by_near);
        tandem.stop().await;
    });
}

fn assert_speech(direction: &str, heard: Score) {
    println!("{direction}: PESQ-NB {:.2}, similarity {:.2}", heard.pesq, heard.similarity);
    // Opus at the phones' own settings, bit for bit through the gateway.
    assert!(heard.similarity > 0.8 && heard.pesq > 3.3, "{direction}: {heard:?}");
}

/// What baresip reads for Opus: 48 kHz, two channels; its call ends when the file does.
fn stereo(folder: &Path, name: &str, wav: &Path) -> PathBuf {
    let path = folder.join(format!("{name}-stereo.wav"));
    output_of(Command::new("sox").arg(wav).args(["-c", "2"]).arg(&path).args(["repeat", "12"]));
    path
}

/// What it recorded, in one channel.
fn mono(folder: &Path, name: &str, wav: &Path) -> PathBuf {
    let path = folder.join(format!("{name}.wav"));
    output_of(Command::new("sox").arg(wav).args(["-c", "1", "-r", "8000", "-b", "16"]).arg(&path));
    path
}

/// tandem with three trunks: where the call comes from, and the two that its route names.
async fn tandem(folder: &Path) -> Program {
    let config = folder.join("tandem.toml");
    let text = format!(
        r#"
[trunks.pbx]
host = "{HOST}"
port = 5072
transport = "udp"
allowed_sources = ["{HOST}"]
codecs = ["opus"]
transcoding = false

[trunks.dead]
host = "{HOST}"
port = 5999
transport = "tcp"
weight = 1
codecs = ["opus"]

[trunks.provider]
host = "{HOST}"
port = 5060
transport = "udp"
user = "gw"
password = "secret"
weight = 2
media = "rtp"
codecs = ["opus"]
transcoding = false

[[routes]]
name = "out"
source = ["trunk:pbx"]
dialed = '^\+?[1-9]\d{{6,14}}$'
to = ["trunk:dead", "trunk:provider"]
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
