//! Pion, an ICE-lite peer of another make (`pion/main.go`): starting it with something to say, and what it has heard.

use super::{HOST, Program, output_of, repo, until};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Starts it; it says `wav` as Opus at 20 kbit/s in each call and listens on port 8090.
pub async fn start(folder: &Path, wav: &Path) -> Program {
    let ogg = folder.join("user.ogg");
    let settings = "-ac 2 -c:a libopus -b:a 20k -application voip -frame_duration 20 -page_duration 20000".split(' ');
    output_of(Command::new("ffmpeg").args(["-loglevel", "error", "-y", "-i"]).arg(wav).args(settings).arg(&ogg));
    let mut command = Command::new(repo().join("target/tools/lite-pion"));
    command.args(["-host", HOST, "-port", "8090", "-media-port", "3480", "-play"]).arg(&ogg);
    command.arg("-record").arg(folder.join("heard.ogg"));
    let mut program = Program::start(folder, "pion", &mut command);
    until("pion", 10, async || std::net::TcpStream::connect((HOST, 8090)).ok()).await;
    assert!(program.is_running());
    program
}

/// What it has recorded, in one channel.
pub fn heard(folder: &Path) -> PathBuf {
    let (ogg, wav) = (folder.join("heard.ogg"), folder.join("heard.wav"));
    output_of(Command::new("ffmpeg").args(["-loglevel", "error", "-y", "-i"]).arg(&ogg).args(["-ac", "1"]).arg(&wav));
    wav
}
