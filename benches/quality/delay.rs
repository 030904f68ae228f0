//! Delay by content: where each stretch of what was heard stands in what was said.
//!
//! Stretches of 200 ms of speech, each compared with the clean path's samples around it; those that resemble nothing (lost, or
//! concealed for long) have no delay. What is answered is added delay: from the instant that a packet would have arrived on the fastest
//! path to the instant that its sound left the gateway. The codecs' own delay is in both and falls out. The same by the endpoint's clock,
//! which a gateway that sends unevenly can only make worse, is `heard_mean`.

use crate::gateway::Heard;
use serde_json::{Value, json};

const WINDOW: usize = 1_600;
const HOP: usize = 800;

/// Search range in samples of 8 kHz: 40 ms early (which would be a mistake of the bench) to 600 ms late.
const EARLY: usize = 320;
const LATE: usize = 4_800;

/// Likeness below which a stretch is not recognised.
const LIKENESS_MIN: f64 = 0.7;

/// Delays in ms.
pub struct Delays {
    pub mean: f64,
    pub p50: f64,
    pub p95: f64,
    pub max: f64,
    pub heard_mean: f64,
    pub windows: usize,
    /// Delay by time, for charts: at ms, delay ms.
    pub course: Vec<(usize, f64)>,
}

impl Delays {
    pub fn to_json(&self) -> Value {
        let round = |value: f64| (value * 10.0).round() / 10.0;
        json!({
            "mean": round(self.mean), "p50": round(self.p50), "p95": round(self.p95), "max": round(self.max),
            "heard_mean": round(self.heard_mean), "windows": self.windows,
            "course": self.course.iter().map(|&(at, delay)| json!([at, round(delay)])).collect::<Vec<_>>(),
        })
    }
}

/// `clean` begins when the first packet is sent.
pub fn measure(heard: &Heard, clean: &[i16], spans_ms: &[(usize, usize)], sent_ms: impl Fn(f64) -> f64) -> Delays {
    let mut course = Vec::new();
    let mut heard_sum = 0.0;
    for &(begin, end) in spans_ms {
        let mut at = begin * 8;
        while at + WINDOW <= (end * 8).min(clean.len()) {
            let said_ms = sent_ms(at as f64 / 8.0);
            let base = ((said_ms - heard.begins_ms) * 8.0).round() as i64;
            if let Some(lag) = lag_of(&clean[at..at + WINDOW], &heard.pcm, base) {
                let position = (base + lag).max(0) as usize;
                let left_ms = heard.left_ms[position / 160] + (position % 160) as f64 / 8.0;
                course.push((at / 8, left_ms - said_ms));
                heard_sum += heard.begins_ms + position as f64 / 8.0 - said_ms;
            }
            at += HOP;
        }
    }
    let mut sorted: Vec<f64> = course.iter().map(|&(_, delay)| delay).collect();
    sorted.sort_by(f64::total_cmp);
    let quantile = |share: f64| sorted.get(((sorted.len() as f64 - 1.0) * share) as usize).copied().unwrap_or(f64::NAN);
    Delays {
        mean: sorted.iter().sum::<f64>() / sorted.len().max(1) as f64,
        p50: quantile(0.5),
        p95: quantile(0.95),
        max: quantile(1.0),
        heard_mean: heard_sum / sorted.len().max(1) as f64,
        windows: sorted.len(),
        course,
    }
}

/// Samples by which `said` stands later in `heard` than at `base`.
fn lag_of(said: &[i16], heard: &[i16], base: i64) -> Option<i64> {
    let energy = said.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
    if energy / (said.len() as f64) < 250_000.0 {
        return None; // quieter than about -36 dBFS: no speech
    }
    let likeness = |lag: i64, step: usize| -> f64 {
        let start = base + lag;
        if start < 0 || start as usize + said.len() > heard.len() {
            return -1.0;
        }
        let there = &heard[start as usize..start as usize + said.len()];
        let (mut product, mut power, mut own) = (0.0f64, 1.0f64, 1.0f64);
        for (&a, &b) in said.iter().zip(there).step_by(step) {
            product += f64::from(a) * f64::from(b);
            power += f64::from(b) * f64::from(b);
            own += f64::from(a) * f64::from(a);
        }
        product / (power * own).sqrt()
    };
    // Every other lag over every third sample, then around the best.
    let coarse = (-(EARLY as i64)..LATE as i64).step_by(2).map(|lag| (lag, likeness(lag, 3)));
    let best = coarse.max_by(|a, b| a.1.total_cmp(&b.1))?.0;
    let (lag, like) = (best - 2..=best + 2).map(|lag| (lag, likeness(lag, 1))).max_by(|a, b| a.1.total_cmp(&b.1))?;
    (like > LIKENESS_MIN).then_some(lag)
}
