//! Calls in the shape of Meta's own SIP endpoint: over TLS, with its headers and descriptions, keyed by DTLS behind an ICE-lite relay or
//! by SDES. The voice bot is baresip; what both heard is compared with what was said.
//!
//! Why in its shape only: the endpoint itself needs an account. The shape is that of its guide; the media peers are Pion and the crate
//! `webrtc-srtp`.

use crate::interop::baresip::Baresip;
use crate::interop::line::{Caller, Line};
use crate::interop::sdes::{Speech, Trunk, decoded};
use crate::interop::{EDGE, HOST, Program, get_json, in_namespace_beside_others, output_of, post_json, speech, until};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const META: Caller = Caller {
    host: "wa.meta.vc",
    call_id: "outgoing:wacid.HBgMNDQ3NzAwOTAwMTIzFQIAEhgg",
    headers: "Allow: INVITE, ACK, BYE, CANCEL, NOTIFY, OPTIONS\r\nx-wa-meta-cta-payload: order 7\r\n\
              x-wa-meta-wacid: wacid.HBgMNDQ3NzAwOTAwMTIzFQIAEhgg\r\n",
};

/// Meta's own wishes.
const OPUS_AT_META: &str = "a=rtcp-mux\r\na=maxptime:20\r\n\
     a=fmtp:111 maxaveragebitrate=20000;maxplaybackrate=16000;minptime=20;sprop-maxcapturerate=16000;useinbandfec=1\r\n";

const RELAY: &str = "http://10.77.0.1:8090";

/// Seconds of talk: each side's speech more than twice.
const TALK_S: u64 = 8;

#[test]
fn a_call_of_metas_sip_endpoint_keyed_by_sdes_hears_us_first_and_speaks_with_the_bot() {
    let name = "trunks::meta::a_call_of_metas_sip_endpoint_keyed_by_sdes_hears_us_first_and_speaks_with_the_bot";
    in_namespace_beside_others(name, async |folder| {
        let (said, mut bob, mut gateway) = bot_and_gateway(folder).await;
        let mut line = Line::open(&format!("{HOST}:5061"), META).await;
        let peer = Trunk::new(HOST).await;
        let answer = line.call("15550001111", &peer.offer_with(HOST, OPUS_AT_META)).await;
        assert!(answer.contains("a=rtcp-mux") && answer.contains(" RTP/SAVP "), "{answer}");
        // Its relay sends nothing before it has heard us.
        let call = peer.start(&answer, Speech::new(speech::read_wav(&said.user[1])), true);
        tokio::time::sleep(Duration::from_secs(TALK_S)).await;
        let (sent, heard) = call.stop().await;
        line.hang_up().await;
        assert!(sent.len() > 300 && heard.len() > 300, "{} sent, {} heard", sent.len(), heard.len());
        let at_user = folder.join("user-heard.wav");
        speech::write_wav(&at_user, 48_000, &decoded(&heard));
        check(&mut bob, &said, &at_user).await;
        assert_eq!(line.requests, [""; 0], "Meta ends calls that are offered anything anew");
        check_log(folder, &mut gateway, "SDES").await;
    });
}

#[test]
fn a_call_of_metas_sip_endpoint_keyed_by_dtls_behind_ice_lite_speaks_with_the_bot() {
    in_namespace_beside_others(
        "trunks::meta::a_call_of_metas_sip_endpoint_keyed_by_dtls_behind_ice_lite_speaks_with_the_bot",
        async |folder| {
            let (said, mut bob, mut gateway) = bot_and_gateway(folder).await;
            let mut pion = pion(folder, &said.user[1]).await;
            let mut line = Line::open(&format!("{HOST}:5061"), META).await;
            let offer = get_json(&format!("{RELAY}/offer")).await["sdp"].as_str().expect("an offer").to_owned();
            assert!(offer.contains("a=ice-lite"), "{offer}");
            let answer = line.call("15550001111", &offer).await;
            assert!(answer.contains("a=setup:active") && !answer.contains("a=ice-lite"), "{answer}");
            post_json(&format!("{RELAY}/answer"), &serde_json::json!({"type": "answer", "sdp": answer})).await;
            tokio::time::sleep(Duration::from_secs(TALK_S)).await;
            let stats = get_json(&format!("{RELAY}/stats")).await;
            line.hang_up().await;
            get_json(&format!("{RELAY}/quit")).await;
            pion.ended(5).await;
            assert!(stats["pc"] == "connected" && stats["heard"].as_u64() > Some(250), "{stats}");
            let at_user = folder.join("user-heard.wav");
            output_of(Command::new("ffmpeg").args(["-v", "error", "-i"]).arg(folder.join("heard.ogg")).arg(&at_user));
            check(&mut bob, &said, &at_user).await;
            assert_eq!(line.requests, [""; 0], "Meta ends calls that are offered anything anew");
            check_log(folder, &mut gateway, "WebRTC").await;
        },
    );
}

/// What the user and the bot say: `[8 kHz, 48 kHz]`.
struct Said {
    user: Vec<PathBuf>,
    bot: Vec<PathBuf>,
}

async fn bot_and_gateway(folder: &Path) -> (Said, Baresip, Program) {
    let speak = |name, voice, text| speech::speak(folder, name, voice, text, &[8_000, 48_000]);
    let said = Said {
        user: speak("user", "en-gb", "The birch canoe slid on the smooth planks."),
        bot: speak("bot", "en-us", "It is easy to tell the depth of a well."),
    };
    let long = folder.join("bot-long.wav");
    output_of(Command::new("sox").arg(&said.bot[0]).arg(&long).args(["repeat", "20"]));
    let account = format!("<sip:bob@{HOST}>;regint=0;answermode=auto;audio_codecs=PCMU/8000/1");
    let bob = Baresip::start(folder, &format!("{HOST}:5070"), &long, &account).await;
    let config = folder.join("tandem.toml");
    let text = format!(
        "[sip]\ntarget = \"sip:nobody@127.0.0.1:9\"\nbind = \"{HOST}:5060\"\ntls_bind = \"{HOST}:5061\"\n[edge]\nbind = \"127.0.0.1:8080\"\n\
         [media]\nports = \"30000-30999\"\npublic_ip = \"{HOST}\"\n\
         [trunks.meta]\nhost = \"wa.meta.vc\"\ntransport = \"tls\"\ncodecs = [\"opus\"]\ntranscoding = true\n\
         allowed_sources = [\"{HOST}\"]\nto = \"sip:bob@{HOST}:5070\"\n"
    );
    std::fs::write(&config, text).expect("a configuration");
    let mut command = Command::new(crate::interop::built("tandem"));
    command.arg("edge").arg("--config").arg(&config);
    let gateway = Program::start(folder, "tandem", &mut command);
    until("tandem", 20, async || reqwest::get(format!("{EDGE}/health")).await.ok()).await;
    (said, bob, gateway)
}

async fn pion(folder: &Path, said: &Path) -> Program {
    let ogg = folder.join("user.ogg");
    let opus = ["-c:a", "libopus", "-b:a", "20000", "-frame_duration", "20", "-page_duration", "20000"];
    output_of(Command::new("ffmpeg").args(["-v", "error", "-i"]).arg(said).args(opus).arg(&ogg));
    let mut command = Command::new(crate::interop::repo().join("target/tools/lite-pion"));
    command.args(["-host", HOST, "-port", "8090", "-media-port", "3480", "-play"]).arg(&ogg);
    command.arg("-record").arg(folder.join("heard.ogg"));
    let program = Program::start(folder, "pion", &mut command);
    until("pion", 10, async || std::net::TcpStream::connect((HOST, 8090)).ok()).await;
    program
}

async fn check(bob: &mut Baresip, said: &Said, at_user: &Path) {
    until("BYE at the bot", 10, async || bob.saw("CALL_CLOSED", "").then_some(())).await;
    let (by_bot, by_user) =
        (speech::score(&said.user[0], &bob.heard(), 1.0), speech::score(&said.bot[0], at_user, 0.5));
    println!("the bot heard {by_bot:?}, the user {by_user:?}");
    assert!(by_bot.similarity > 0.8 && by_bot.pesq > 2.5, "the bot heard {by_bot:?}");
    assert!(by_user.similarity > 0.8 && by_user.pesq > 2.5, "the user heard {by_user:?}");
}

async fn check_log(folder: &Path, gateway: &mut Program, keying: &str) {
    let log = gateway.output();
    assert!(log.contains(&format!("trunk meta offers Opus over {keying}")), "{log}");
    assert!(log.contains("side=trunk meta cause=bye"), "{log}");
    let trace = |arguments: &[&str]| {
        let config = folder.join("tandem.toml");
        output_of(
            Command::new(crate::interop::built("tandem")).arg("trace").args(arguments).arg("--config").arg(config),
        )
    };
    let list = trace(&["--search", "wa.meta.vc"]);
    assert!(!list.is_empty(), "no call of wa.meta.vc is remembered");
    until("no bridge left", 20, async || {
        let text = reqwest::get(format!("{EDGE}/metrics")).await.expect("metrics").text().await.expect("a body");
        text.lines().any(|line| line == "engine_bridges_open 0").then_some(())
    })
    .await;
    assert!(gateway.is_running());
}
