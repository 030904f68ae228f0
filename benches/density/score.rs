//! Whether what came out is what went in: one call in fifty, and twelve at least, are decoded, found in the speech and scored.
//!
//! PESQ (P.862.1, narrowband) judges by `tests/interop/score.py`; the bar is mu-law alone on the same speech, since no PCMU leg can be
//! better than that. Where the judge is not installed, the content is still compared here.

use super::corpus::Corpus;
use super::generator::Generator;
use super::measure::round;
use anyhow::Result;
use control::client::speech::{SAME_SPEECH, similarity};
use control::client::wav::{self, Wav};
use engine::media::g711::Law;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// Frames left out at each end: what was on its way when the window opened and closed.
const MARGIN_FRAMES: usize = 15;
const RATE_HZ: u32 = 8_000;
const FRAME_SAMPLES: usize = 160;
const PYTHON: &str = "target/tools/python/bin/python";
const JUDGE: &str = "tests/interop/score.py";

/// One recording to be scored.
struct Take {
    toward: usize,
    said: Vec<i16>,
    heard: Vec<i16>,
}

/// Scores the recordings of the last window. `begun`: at which frame each end was when it opened, and by how many it went on.
pub fn score(generator: &Generator, corpus: &Corpus, begun: &[[usize; 2]], folder: &Path) -> Result<Value> {
    let mut takes = Vec::new();
    for (call, begun) in generator.calls.iter().zip(begun) {
        for toward in [0, 1] {
            let hear = &call.ends[toward].hear;
            let from = &call.ends[1 - toward];
            let frames = (from.talk.at + corpus.frames() - begun[1 - toward]) % corpus.frames();
            if !hear.recorded || hear.recording.len() < 4 * MARGIN_FRAMES || frames < 4 * MARGIN_FRAMES {
                continue;
            }
            let said = (MARGIN_FRAMES..frames - MARGIN_FRAMES).flat_map(|frame| {
                let at = (begun[1 - toward] + frame) % corpus.frames();
                corpus.narrow[at * FRAME_SAMPLES..][..FRAME_SAMPLES].iter().copied()
            });
            let opus = call.ends[toward].talk.ticks == 960;
            takes.push(Take { toward, said: said.collect(), heard: decoded(&hear.recording, opus)? });
        }
    }
    let mut tables = [Table::default(), Table::default()];
    for (index, take) in takes.iter().enumerate() {
        tables[take.toward].add(take, folder, index)?;
    }
    let [a, b] = tables;
    Ok(json!({"toward_a": a.json(), "toward_b": b.json()}))
}

/// Scores of one direction.
#[derive(Default)]
struct Table {
    similarity: Vec<f64>,
    pesq: Vec<f64>,
    mu_law: Vec<f64>,
}

impl Table {
    fn add(&mut self, take: &Take, folder: &Path, index: usize) -> Result<()> {
        self.similarity.push(similarity(&take.said, RATE_HZ, &take.heard, RATE_HZ).score);
        if !Path::new(PYTHON).exists() {
            return Ok(());
        }
        let mut bytes = vec![0; take.said.len()];
        let mut coarse = vec![0; take.said.len()];
        Law::Mu.encode(&take.said, &mut bytes);
        Law::Mu.decode(&bytes, &mut coarse);
        let said = folder.join(format!("said-{index}.wav"));
        write(&said, &take.said)?;
        for (heard, scores) in [(&take.heard, &mut self.pesq), (&coarse, &mut self.mu_law)] {
            let path = folder.join(format!("heard-{index}.wav"));
            write(&path, heard)?;
            let output = Command::new(PYTHON).arg(JUDGE).arg(&said).arg(&path).output()?;
            let verdict: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            scores.extend(verdict["pesq"].as_f64());
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let mean = |scores: &[f64]| match scores.len() {
            0 => Value::Null,
            len => json!(round(scores.iter().sum::<f64>() / len as f64, 3)),
        };
        let least = self.similarity.iter().copied().fold(1.0, f64::min);
        json!({
            "calls": self.similarity.len(),
            "similarity_least": round(least, 2),
            "is_the_same_speech": !self.similarity.is_empty() && least >= SAME_SPEECH,
            "pesq_nb": mean(&self.pesq),
            "pesq_nb_of_mu_law_alone": mean(&self.mu_law),
        })
    }
}

fn write(path: &Path, pcm: &[i16]) -> Result<()> {
    Ok(std::fs::write(path, wav::write(&Wav { rate_hz: RATE_HZ, pcm: pcm.to_vec() }))?)
}

fn decoded(recording: &[(u64, Vec<u8>)], opus: bool) -> Result<Vec<i16>> {
    let mut decoder = opus::Decoder::new(RATE_HZ, opus::Channels::Mono)?;
    let (mut heard, mut pcm) = (Vec::new(), [0; 960]);
    for (_, payload) in recording {
        let count = match opus {
            true => decoder.decode(payload, &mut pcm, false)?,
            false => {
                let len = payload.len().min(pcm.len());
                Law::Mu.decode(&payload[..len], &mut pcm[..len]);
                len
            }
        };
        heard.extend_from_slice(&pcm[..count]);
    }
    Ok(heard)
}
