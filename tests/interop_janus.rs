//! The WebRTC leg against Janus (libnice, OpenSSL, libsrtp), which makes the offer: as full ICE agent and DTLS client, then as
//! ICE-lite agent and DTLS server. Its AudioBridge speaks to the bot, and records what the room hears.
//!
//! Why an offer of Janus' and not an answer: in WhatsApp's place the peer offers.

mod interop;

use interop::baresip::Baresip;
use interop::{EDGE, HOST, Program, get_json, in_namespace, output_of, post_json, speech, until};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const JANUS: &str = "http://127.0.0.1:8088/janus";
const ROOM: u32 = 1;

#[test]
fn janus_speaks_with_the_bot_as_full_agent_and_as_lite_one() {
    in_namespace("janus_speaks_with_the_bot_as_full_agent_and_as_lite_one", async |folder| {
        let said = speech::speak(folder, "user", "en-gb", "Somebody is asking.", &[8_000, 48_000]);
        let says = speech::speak(folder, "bot", "en-us", "The bot answers.", &[8_000]).remove(0);
        let (long, opus) = (folder.join("bot-long.wav"), folder.join("user.opus"));
        output_of(Command::new("sox").arg(&says).arg(&long).args(["repeat", "19"]));
        let encode = "-ac 1 -c:a libopus -b:a 24k -application voip -frame_duration 20".split(' ');
        output_of(
            Command::new("ffmpeg").args(["-loglevel", "error", "-y", "-i"]).arg(&said[1]).args(encode).arg(&opus),
        );
        let account = format!("<sip:bob@{HOST}>;regint=0;answermode=auto;audio_codecs=PCMU/8000/1");
        let mut bot = Baresip::start(folder, &format!("{HOST}:5070"), &long, &account).await;
        let _tandem = interop::edge(folder, "sip:bob@10.77.0.1:5070").await;
        for (number, (lite, setup, roles)) in
            [(false, "passive", "ICE lite, DTLS server"), (true, "active", "ICE controlling, DTLS client")]
                .into_iter()
                .enumerate()
        {
            let mut janus = Janus::start(folder, lite).await;
            let id = format!("janus-{number}");
            let offer = janus.offer().await;
            assert_eq!(offer.contains("a=ice-lite"), lite, "{offer}");
            let created = post_json(&format!("{EDGE}/webrtc/new"), &json!({"call_id": id, "sdp_offer": offer})).await;
            let answer = created["sdp_answer"].as_str().expect("an answer");
            assert!(answer.contains(&format!("a=setup:{setup}\r\n")), "{answer}");
            janus.answer(answer).await;
            until("both sides' media", 10, async || timeline(&id).await.contains("first_packet_to_sip").then_some(()))
                .await;
            janus.play(&opus).await;
            tokio::time::sleep(std::time::Duration::from_millis(5_000)).await;
            let room = janus.recorded().await;
            post_json(&format!("{EDGE}/webrtc/hangup"), &json!({"edge_session_id": created["edge_session_id"]})).await;
            let closed = async || (bot.parameters("CALL_CLOSED").len() > number).then_some(());
            until("baresip's end of the call", 5, closed).await;
            let timeline = timeline(&id).await;
            println!("{timeline}");
            assert!(timeline.contains(roles) && timeline.contains("DTLS 1.2, "), "{timeline}");
            for (who, said, heard) in [("the bot", &said[0], &bot.heard()), ("the room", &says, &room)] {
                let score = speech::score(said, heard, 0.0);
                println!("{id}: {who} heard {score:?}");
                assert!(score.similarity > 0.8, "{who} did not hear what was said: {score:?}\n{timeline}");
            }
            janus.program.stop().await;
        }
    });
}

/// Janus with the one plugin and the one transport that are used, and a session with a handle in it.
struct Janus {
    program: Program,
    recording: PathBuf,
    session: String,
    handle: String,
}

impl Janus {
    async fn start(folder: &Path, lite: bool) -> Janus {
        let name = if lite { "janus-lite" } else { "janus-full" };
        let home = folder.join(name);
        let library = output_of(Command::new("gcc").arg("-dumpmachine"));
        let library = PathBuf::from(format!("/usr/lib/{}/janus", library.trim()));
        for (kind, file) in [("plugins", "libjanus_audiobridge.so"), ("transports", "libjanus_http.so")] {
            std::fs::create_dir_all(home.join(kind)).expect("a folder");
            let _ = std::os::unix::fs::symlink(library.join(kind).join(file), home.join(kind).join(file));
        }
        let path = |name: &str| home.join(name).display().to_string();
        let (plugins, transports, recording) = (path("plugins"), path("transports"), path("room.wav"));
        let general = format!(
            "general: {{ configs_folder = \"{0}\" ; plugins_folder = \"{plugins}\" ; transports_folder = \"{transports}\" ; \
             events_folder = \"{0}\" ; loggers_folder = \"{0}\" ; debug_level = 4 }}\n\
             nat: {{ full_trickle = false ; ice_lite = {lite} }}\nmedia: {{ rtp_port_range = \"25000-25999\" }}\n",
            home.display()
        );
        let room = format!(
            "room-{ROOM}: {{ sampling_rate = 16000 ; audiolevel_event = false ; record = true ; record_file = \"{recording}\" }}\n"
        );
        for (file, text) in [
            ("janus.jcfg", general.as_str()),
            ("janus.plugin.audiobridge.jcfg", &room),
            ("janus.transport.http.jcfg", "general: { http = true ; port = 8088 ; ip = \"127.0.0.1\" }\n"),
        ] {
            std::fs::write(home.join(file), text).expect("a file");
        }
        let mut command = Command::new("janus");
        command.arg("-F").arg(&home).args(["-i", HOST]).current_dir(&home);
        let program = Program::start(folder, &format!("{name}-log"), &mut command);
        let created = until("janus", 15, async || {
            let question = json!({"janus": "create", "transaction": "t"});
            reqwest::Client::new().post(JANUS).json(&question).send().await.ok()
        });
        let created: Value = serde_json::from_str(&created.await.text().await.expect("a body")).expect("JSON");
        let session = format!("{JANUS}/{}", created["data"]["id"]);
        let plugin = json!({"janus": "attach", "plugin": "janus.plugin.audiobridge", "transaction": "t"});
        let handle = format!("{session}/{}", post_json(&session, &plugin).await["data"]["id"]);
        Janus { program, recording: PathBuf::from(recording), session, handle }
    }

    async fn message(&self, body: Value, answer: Option<&str>) -> Value {
        let mut message = json!({"janus": "message", "transaction": "t", "body": body});
        if let Some(sdp) = answer {
            message["jsep"] = json!({"type": "answer", "sdp": sdp});
        }
        post_json(&self.handle, &message).await
    }

    /// Joins the room; answers the offer that Janus makes for it.
    async fn offer(&mut self) -> String {
        self.message(json!({"request": "join", "room": ROOM, "display": "tandem", "generate_offer": true}), None).await;
        until("an offer of Janus'", 10, async || {
            let event = get_json(&format!("{}?maxev=1", self.session)).await;
            let event = if event.is_array() { event[0].clone() } else { event };
            assert!(event["plugindata"]["data"]["error"].is_null(), "{event}");
            event["jsep"]["sdp"].as_str().map(str::to_owned)
        })
        .await
    }

    async fn answer(&self, sdp: &str) {
        self.message(json!({"request": "configure"}), Some(sdp)).await;
    }

    /// Says a file of Opus in the room, once.
    async fn play(&self, file: &Path) {
        let request = json!({"request": "play_file", "room": ROOM, "filename": file.display().to_string()});
        let reply = self.message(request, None).await;
        assert!(reply["plugindata"]["data"]["error"].is_null(), "{reply}");
    }

    /// What the room has heard so far.
    async fn recorded(&self) -> PathBuf {
        let request = json!({"request": "enable_recording", "room": ROOM, "record": false});
        let reply = self.message(request, None).await;
        assert!(reply["plugindata"]["data"]["error"].is_null(), "{reply}");
        until("the recording", 5, async || self.recording.exists().then_some(())).await;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        self.recording.clone()
    }
}

/// All entries of a call's timeline, one a line.
async fn timeline(call_id: &str) -> String {
    let page = get_json(&format!("{EDGE}/calls/{call_id}/timeline")).await;
    let entries = page["entries"].as_array().cloned().unwrap_or_default();
    entries.iter().map(|entry| format!("{} {} {}\n", entry["at_ms"], entry["step"], entry["detail"])).collect()
}
