//! baresip (Debian 12: 1.0.0) as the voice bot's place: answers, plays a file, records what it hears, reports digits.

use super::Program;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What tells several of them apart.
pub struct Options<'a> {
    /// Of its folders and logs.
    pub name: &'a str,
    /// Where it takes commands.
    pub control_port: u16,
    /// Modules beside the usual ones, such as `opus`.
    pub modules: &'a [&'a str],
    /// Certificate and key in one file, which its TLS transport wants to have.
    pub certificate: Option<&'a Path>,
}

/// The one that most tests need.
const BARESIP: Options<'static> = Options { name: "baresip", control_port: 4_444, modules: &[], certificate: None };

/// A running baresip with one account.
pub struct Baresip {
    /// The program; its log shows what it did.
    pub program: Program,
    folder: PathBuf,
    control: TcpStream,
    unread: Vec<u8>,
    events: Vec<serde_json::Value>,
}

impl Baresip {
    /// Starts it on `address`, answering by itself. `source` (8 kHz mono WAV) is what it says; the call ends when the file does.
    pub async fn start(folder: &Path, address: &str, source: &Path, account: &str) -> Baresip {
        Baresip::start_as(folder, &BARESIP, address, source, account).await
    }

    /// The same beside others.
    pub async fn start_as(
        folder: &Path,
        options: &Options<'_>,
        address: &str,
        source: &Path,
        account: &str,
    ) -> Baresip {
        let profile = folder.join(options.name);
        let heard = folder.join(format!("{}-heard", options.name));
        std::fs::create_dir_all(&profile).expect("a folder");
        std::fs::create_dir_all(&heard).expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(profile.join(name), text).expect("a profile file");
        write("contacts", "");
        write("accounts", &format!("{account}\n"));
        // A trailing newline here would go into the Contact header.
        write("uuid", "6d1c3f0a-2b4e-4c7a-9a55-3d1f0c3e9a7b");
        write("config", &config(options, address, source));
        let mut command = Command::new("baresip");
        // Its recordings' names are cut off at 127 bytes: the path stays relative, and so short.
        command.current_dir(folder).arg("-f").arg(&profile);
        let mut program = Program::start(folder, &format!("{}-log", options.name), &mut command);
        program.wait_for("baresip is ready", 20).await;
        let control = TcpStream::connect(("127.0.0.1", options.control_port)).expect("baresip's control port");
        control.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        Baresip { program, folder: heard, control, unread: Vec::new(), events: Vec::new() }
    }

    /// Sends one command, such as `hangup`.
    pub fn command(&mut self, command: &str) {
        self.command_with(command, "");
    }

    /// Sends one command with its parameters, such as `dial`.
    pub fn command_with(&mut self, command: &str, parameters: &str) {
        let text = format!("{{\"command\":\"{command}\",\"params\":\"{parameters}\",\"token\":\"t\"}}");
        write!(self.control, "{}:{text},", text.len()).expect("baresip's control port");
    }

    /// Whether an event of this type was reported, whose text holds `part`.
    pub fn saw(&mut self, kind: &str, part: &str) -> bool {
        self.read_events();
        self.events.iter().any(|event| event["type"] == kind && event.to_string().contains(part))
    }

    /// Parameters of all events of a type, in order.
    pub fn parameters(&mut self, kind: &str) -> Vec<String> {
        self.read_events();
        let of_kind = self.events.iter().filter(|event| event["type"] == kind);
        of_kind.map(|event| event["param"].as_str().unwrap_or("").to_owned()).collect()
    }

    /// The recording of what it heard in the last call.
    pub fn heard(&self) -> PathBuf {
        let entries = std::fs::read_dir(&self.folder).expect("the recordings' folder");
        let files = entries.filter_map(Result::ok).map(|entry| entry.path());
        let mut recordings: Vec<PathBuf> = files.filter(|path| path.to_string_lossy().ends_with("-dec.wav")).collect();
        recordings.sort();
        recordings.pop().unwrap_or_else(|| panic!("baresip recorded nothing:\n{}", self.program.output()))
    }

    fn read_events(&mut self) {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = self.control.read(&mut chunk) {
            self.unread.extend_from_slice(&chunk[..count]);
        }
        // Netstrings: <length>:<JSON>,
        while let Some(colon) = self.unread.iter().position(|byte| *byte == b':') {
            let length: usize = String::from_utf8_lossy(&self.unread[..colon]).parse().expect("a netstring");
            if self.unread.len() < colon + 1 + length + 1 {
                return;
            }
            if let Ok(event) = serde_json::from_slice(&self.unread[colon + 1..colon + 1 + length]) {
                self.events.push(event);
            }
            self.unread.drain(..colon + 1 + length + 1);
        }
    }
}

fn config(options: &Options<'_>, address: &str, source: &Path) -> String {
    let Options { name, control_port, modules, certificate } = options;
    let certificate = certificate.map_or(String::new(), |path| format!("sip_certificate {}\n", path.display()));
    let modules: String = modules.iter().map(|module| format!("module {module}.so\n")).collect();
    format!(
        "poll_method epoll
sip_listen {address}
{certificate}call_local_timeout 120
call_max_calls 20
audio_source aufile,{}
audio_player aubridge,nil
audio_alert aubridge,nil
snd_path {name}-heard
ausrc_format s16
auplay_format s16
auenc_format s16
audec_format s16
audio_level no
rtp_ports 20000-20998
rtcp_mux no
jitter_buffer_delay 2-10
rtp_stats yes
audio_telev_pt 101
module_path /usr/lib/baresip/modules
module stdio.so
module g711.so
module aufile.so
module aubridge.so
module sndfile.so
module srtp.so
{modules}module_tmp uuid.so
module_tmp account.so
module_app menu.so
module_app ctrl_tcp.so
ctrl_tcp_listen 127.0.0.1:{control_port}
",
        source.display(),
    )
}
