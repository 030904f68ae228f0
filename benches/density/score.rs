//! Whether what came out is what went in: one call in fifty, and 25 at least, are decoded, found in the speech and scored.
//!
//! PESQ (P.862.1, narrowband) judges by `tests/interop/score.py`; the bar is mu-law alone on the same speech, since no PCMU leg can be
//! better than that. Sentences differ more than codecs do, so the two are compared call by call, and the mean of the differences has a
//! standard error. Where the judge is not installed, the content is still compared here.
//!
//! Recordings are taken while the calls run and judged when nobody is measured any more: calls that wait for a judge fall silent and end.

use super::corpus::Corpus;
use super::generator::Generator;
use super::measure::round;
use anyhow::{Context, Result, bail};
use control::client::speech::{SAME_SPEECH, similarity};
use control::client::wav::{self, Wav};
use engine::media::g711::Law;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// Frames left out at each end: what was on its way when the window opened and closed.
const MARGIN_FRAMES: usize = 15;
const RATE_HZ: u32 = 8_000;
const FRAME_SAMPLES: usize = 160;
const PYTHON: &str = "target/tools/python/bin/python";
const JUDGE: &str = "tests/interop/score.py";

/// One recording to be scored.
pub struct Take {
    toward: usize,
    said: Vec<i16>,
    heard: Vec<i16>,
}

/// The recordings of the last window. `begun`: at which frame each end was when it opened.
pub fn takes(generator: &Generator, corpus: &Corpus, begun: &[[usize; 2]]) -> Result<Vec<Take>> {
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
    Ok(takes)
}

/// Scores them, in one process for all. Its files are left in `folder`, to be listened to.
pub fn judge(takes: &[Take], folder: &Path) -> Result<Value> {
    let is_installed = Path::new(PYTHON).exists();
    let verdicts = if is_installed { verdicts(takes, folder)? } else { Vec::new() };
    let mut tables = [Table::default(), Table::default()];
    for (index, take) in takes.iter().enumerate() {
        let table = &mut tables[take.toward];
        table.similarity.push(similarity(&take.said, RATE_HZ, &take.heard, RATE_HZ).score);
        // Both or none: what is compared is the same speech.
        table.pesq.extend(verdicts.get(index).and_then(|[heard, mu_law]| heard.zip(*mu_law)));
    }
    let [a, b] = tables;
    Ok(json!({"toward_a": a.json(), "toward_b": b.json()}))
}

/// PESQ of each recording, and of mu-law alone on the same speech; `None` where the judge has no answer.
fn verdicts(takes: &[Take], folder: &Path) -> Result<Vec<[Option<f64>; 2]>> {
    let mut pairs = String::new();
    for (index, take) in takes.iter().enumerate() {
        let (mut bytes, mut coarse) = (vec![0; take.said.len()], vec![0; take.said.len()]);
        Law::Mu.encode(&take.said, &mut bytes);
        Law::Mu.decode(&bytes, &mut coarse);
        let path = |name: &str| folder.join(format!("{name}-{index}.wav"));
        let said = path("said");
        write(&said, &take.said)?;
        for (name, pcm) in [("heard", &take.heard), ("mu-law", &coarse)] {
            let heard = path(name);
            write(&heard, pcm)?;
            let _ = writeln!(pairs, "{}\t{}", said.display(), heard.display());
        }
    }
    let list = folder.join("pairs.txt");
    std::fs::write(&list, pairs)?;
    let output = Command::new(PYTHON).arg(JUDGE).arg("--pairs").stdin(std::fs::File::open(&list)?).output();
    let output = output.context("the judge of sound")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = |line: &str| serde_json::from_str::<Value>(line).unwrap_or_default()["pesq"].as_f64();
    let answers: Vec<Option<f64>> = text.lines().map(answer).collect();
    if answers.len() != 2 * takes.len() {
        bail!("the judge of sound answers {} of {} times", answers.len(), 2 * takes.len());
    }
    Ok(answers.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect())
}

/// Scores of one direction.
#[derive(Default)]
struct Table {
    similarity: Vec<f64>,
    /// What was heard, and mu-law alone, call by call.
    pesq: Vec<(f64, f64)>,
}

impl Table {
    fn json(&self) -> Value {
        let least = self.similarity.iter().copied().fold(1.0, f64::min);
        let mut record = json!({
            "calls": self.similarity.len(),
            "similarity_least": round(least, 2),
            "is_the_same_speech": !self.similarity.is_empty() && least >= SAME_SPEECH,
        });
        let each = |of: fn(&(f64, f64)) -> f64| Estimate::of(&self.pesq.iter().map(of).collect::<Vec<_>>());
        let below = each(|(heard, mu_law)| mu_law - heard);
        if let (Some(heard), Some(mu_law), Some(below)) = (each(|pair| pair.0), each(|pair| pair.1), below) {
            record["calls_scored"] = json!(self.pesq.len());
            record["pesq_nb"] = json!(round(heard.mean, 3));
            record["pesq_nb_of_mu_law_alone"] = json!(round(mu_law.mean, 3));
            record["pesq_nb_below_mu_law"] = json!(round(below.mean, 3));
            record["pesq_nb_below_mu_law_standard_error"] = json!(below.standard_error.map(|error| round(error, 3)));
        }
        record
    }
}

/// A mean, and how far another sample's is likely to be.
struct Estimate {
    mean: f64,
    /// `None` of less than two values.
    standard_error: Option<f64>,
}

impl Estimate {
    fn of(values: &[f64]) -> Option<Estimate> {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let standard_error = (values.len() > 1).then(|| (squares / (count - 1.0) / count).sqrt());
        (!values.is_empty()).then_some(Estimate { mean, standard_error })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_taken_call_by_call_however_much_the_sentences_differ() {
        let table = Table { similarity: vec![0.97, 0.99], pesq: vec![(3.0, 3.1), (4.0, 4.2), (2.0, 2.3)] };
        let record = table.json();
        assert_eq!((&record["pesq_nb"], &record["pesq_nb_of_mu_law_alone"]), (&json!(3.0), &json!(3.2)));
        assert_eq!(record["pesq_nb_below_mu_law"], json!(0.2));
        // Differences 0.1, 0.2, 0.3: deviation 0.1, by the root of three.
        assert_eq!(record["pesq_nb_below_mu_law_standard_error"], json!(0.058));
        assert_eq!((&record["calls"], &record["calls_scored"]), (&json!(2), &json!(3)));
    }

    #[test]
    fn one_call_has_no_standard_error_and_none_has_no_score() {
        let one = Table { similarity: vec![0.99], pesq: vec![(3.0, 3.5)] }.json();
        assert_eq!(
            (&one["pesq_nb_below_mu_law"], &one["pesq_nb_below_mu_law_standard_error"]),
            (&json!(0.5), &Value::Null)
        );
        let none = Table { similarity: vec![0.99], pesq: Vec::new() }.json();
        assert_eq!((&none["pesq_nb"], &none["is_the_same_speech"]), (&Value::Null, &json!(true)));
    }
}
