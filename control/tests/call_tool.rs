//! `tandem call` as an operator runs it: the program, an edge with its engine, and a far side that echoes.

use control::client::pcm;
use control::client::sip_answerer::{AnsweredCall, AnswererConfig, SipAnswerer, Voice};
use control::client::speech::{SAME_SPEECH, similarity};
use control::client::wav;
use control::config::{Config, Mode};
use control::runtime::Input;
use control::server::{Running, start};
use engine::time::Instant;
use serde_json::Value;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SPEECH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/standin/speech/caller-16k.wav");

#[tokio::test(flavor = "multi_thread")]
async fn speech_goes_in_its_echo_comes_out_as_a_file_and_the_exit_code_is_zero() {
    let bench = Bench::start(30_000, 60_000).await;
    let mut sent = wav::read(&std::fs::read(SPEECH).unwrap()).unwrap();
    sent.pcm.truncate(3 * sent.rate_hz as usize);
    let (spoken, recorded) = (bench.file("in.wav"), bench.file("out.wav"));
    std::fs::write(&spoken, wav::write(&sent)).unwrap();
    for shape in [&[][..], &["--lite"]] {
        let mut arguments = vec!["--wav", text(&spoken), "--record", text(&recorded), "--keys", "5", "--json"];
        arguments.extend(shape);
        let (code, figures, errors) = bench.call(&arguments).await;
        assert_eq!(code, 0, "{shape:?}: {errors}");
        let heard = wav::read(&std::fs::read(&recorded).unwrap()).unwrap();
        let found = similarity(&sent.pcm, sent.rate_hz, &heard.pcm, heard.rate_hz);
        assert!(found.score > SAME_SPEECH, "{shape:?}: {found:?}, {figures}");
        assert_eq!((&figures["sequence_faults"], &figures["packets_lost"]), (&0.into(), &0.into()), "{figures}");
        assert!(figures["first_packet_ms"].as_u64() >= figures["dtls_ms"].as_u64(), "{figures}");
        assert!(figures["security"].as_str().is_some_and(|text| text.starts_with("DTLS 1.")), "{figures}");
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_side_that_hangs_up_and_an_edge_that_refuses_have_exit_codes_of_their_own() {
    let bench = Bench::start(30_200, 1_000).await;
    let (code, _, errors) = bench.call(&["--seconds", "30"]).await;
    assert_eq!(code, 5, "{errors}");
    assert!(errors.contains("the far side ended the call"), "{errors}");
    let (code, _, errors) = bench.call(&["--destination", "sip:nobody@192.0.2.1"]).await;
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("the edge refuses: HTTP 403"), "{errors}");
    bench.stop().await;
}

/// Says back what it hears, half a second later.
struct Echo(VecDeque<i16>);

impl Voice for Echo {
    fn speak(&mut self, _now: Instant, frame: &mut [i16]) {
        for sample in frame {
            *sample = self.0.pop_front().unwrap_or(0);
        }
    }
    fn hear(&mut self, _now: Instant, pcm: &[i16]) {
        self.0.extend(pcm);
    }
    fn key(&mut self, _now: Instant, _key: char) -> bool {
        true
    }
}

struct Bench {
    running: Running,
    /// Answers as long as it lives.
    _far_side: SipAnswerer,
    folder: PathBuf,
}

impl Bench {
    async fn start(first_port: u16, call_ms_max: u64) -> Bench {
        let delay = pcm::tones(&[440.0], 500, 8_000, 0);
        let echo = move |_: &AnsweredCall| Box::new(Echo(delay.iter().copied().collect())) as Box<dyn Voice>;
        let config = AnswererConfig {
            bind: LOOPBACK,
            port: 0,
            demand: None,
            product: "echo".to_owned(),
            ring_after_ms: 0,
            answer_after_ms: 50,
            call_ms_max,
        };
        let far_side = SipAnswerer::start(config, Box::new(echo)).await.unwrap();
        let target = format!("sip:bot@{}", far_side.address());
        let mut config = Config::read("", |name| match name {
            "SIP_TARGET" => Some(target.clone()),
            "SIP_BIND" | "EDGE_BIND" => Some("127.0.0.1:0".to_owned()),
            "PUBLIC_IP" => Some("127.0.0.1".to_owned()),
            "MEDIA_WORKERS" => Some("1".to_owned()),
            "MEDIA_PORTS" => Some(format!("{first_port}-{}", first_port + 199)),
            _ => None,
        })
        .unwrap();
        config.media.pin = false;
        let running = start(config, Mode::Edge).await.unwrap();
        let folder = std::env::temp_dir().join(format!("tandem-call-{}-{first_port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Bench { running, _far_side: far_side, folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs the program; answers its exit code, its figures if they are JSON, and what it complained of.
    async fn call(&self, arguments: &[&str]) -> (i32, Value, String) {
        let edge = format!("http://{}", self.running.edge_api.unwrap());
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tandem"));
        command.args(["call", "--edge", &edge]).args(arguments).kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await.expect("it ends").unwrap();
        let figures = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code().unwrap(), figures, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    async fn stop(self) {
        self.running.inputs.send(Input::Stop).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), self.running.finished()).await.unwrap().unwrap();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
