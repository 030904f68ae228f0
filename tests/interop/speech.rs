//! Speech: made by a program, compared by content, scored by PESQ (ITU-T P.862).

use super::{output_of, repo, script};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Speaks `text` into `<folder>/<name>-<rate>.wav` for every rate, 16-bit mono, at one level.
pub fn speak(folder: &Path, name: &str, voice: &str, text: &str, rates_hz: &[u32]) -> Vec<PathBuf> {
    let raw = folder.join(format!("{name}-raw.wav"));
    output_of(Command::new("espeak-ng").args(["-v", voice, "-s", "150", "-w"]).arg(&raw).arg(text));
    let made = |rate: &u32| {
        let path = folder.join(format!("{name}-{rate}.wav"));
        let rate = rate.to_string();
        output_of(
            Command::new("sox")
                .arg(&raw)
                .args(["-r", &rate, "-c", "1", "-b", "16"])
                .arg(&path)
                .args("gain -n -3 pad 0.5 0.5".split(' ')),
        );
        path
    };
    rates_hz.iter().map(made).collect()
}

/// How close `heard` is to `said`.
#[derive(Clone, Copy, Debug)]
pub struct Score {
    /// PESQ narrowband MOS-LQO of the best-matching stretch.
    pub pesq: f64,
    /// Normalised correlation of that stretch, 0 to 1.
    pub similarity: f64,
    /// Where in `heard` it begins, seconds.
    pub at_s: f64,
}

/// Finds `said` in `heard` (WAV files, any rate) and scores that stretch at 8 kHz. `skip_s` of `heard` are not looked at.
pub fn score(said: &Path, heard: &Path, skip_s: f64) -> Score {
    let python = repo().join("target/tools/python/bin/python");
    let text = output_of(Command::new(python).arg(script("score.py")).arg(said).arg(heard).arg(skip_s.to_string()));
    let value: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("score.py said {text:?}: {error}"));
    let number = |key: &str| value[key].as_f64().unwrap_or_else(|| panic!("no {key} in {text}"));
    Score { pesq: number("pesq"), similarity: number("similarity"), at_s: number("at_s") }
}

/// Two recordings of one speaker, made at the same time on two ways.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// Median PESQ narrowband MOS-LQO of every sentence in the first.
    pub first: f64,
    /// The same of the second.
    pub second: f64,
    /// Median of what a sentence scores in the first above what it scores in the second.
    pub difference: f64,
    /// Lowest median similarity of a sentence in either.
    pub similarity: f64,
    /// Sentences that stand in both.
    pub sentences: u64,
}

/// Finds every sentence of `said` in both recordings, as often as it is there, and scores each.
pub fn compare(said: &[PathBuf], first: &Path, second: &Path) -> Pair {
    let python = repo().join("target/tools/python/bin/python");
    let text = output_of(Command::new(python).arg("-B").arg(script("compare.py")).arg(first).arg(second).args(said));
    let value: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("compare.py said {text:?}: {error}"));
    let number = |key: &str| value[key].as_f64().unwrap_or_else(|| panic!("no {key} in {text}"));
    let sentences = value["sentences"].as_u64().unwrap_or(0);
    let [first, second, difference, similarity] = ["first", "second", "difference", "similarity"].map(number);
    Pair { first, second, difference, similarity, sentences }
}

/// Writes 16-bit mono PCM.
pub fn write_wav(path: &Path, rate_hz: u32, pcm: &[i16]) {
    let bytes = pcm.len() as u32 * 2;
    let mut file = Vec::with_capacity(44 + pcm.len() * 2);
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(36 + bytes).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend_from_slice(&rate_hz.to_le_bytes());
    file.extend_from_slice(&(rate_hz * 2).to_le_bytes());
    file.extend_from_slice(b"\x02\0\x10\0data");
    file.extend_from_slice(&bytes.to_le_bytes());
    pcm.iter().for_each(|sample| file.extend_from_slice(&sample.to_le_bytes()));
    std::fs::write(path, file).expect("the recording is written");
}

/// Reads 16-bit mono PCM, as sox writes it.
pub fn read_wav(path: &Path) -> Vec<i16> {
    let bytes =
        output_of_bytes(Command::new("sox").arg(path).args(["-t", "raw", "-e", "signed", "-b", "16", "-c", "1", "-"]));
    bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

fn output_of_bytes(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
