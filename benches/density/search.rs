//! The search for the knee: the most calls that are carried without a fault.
//!
//! Up by what the calls before have cost, until something gives; then between the most calls that went well and the fewest beyond them
//! that did not, until the two are [`NEAR`]. What counts is one window per number of calls. One that the machine spoiled is measured
//! again, at most [`AGAIN_MAX`] times; those that do not count stay in the record, with the reason.

use super::generator::Generator;
use super::measure::{GENERATOR_MAX, Step, round, window};
use super::parts::{Run, describe, progress};
use super::subject::Subject;
use anyhow::Result;
use serde_json::{Value, json};
use std::time::Duration;

/// Calls begun a second while a step is filled.
pub const RAMP_PER_SECOND: f64 = 150.0;
/// And those that were refused, while what the set-ups cost was still felt.
const RAMP_AGAIN_PER_SECOND: f64 = 25.0;
const RAMPS_AGAIN_MAX: usize = 2;
/// What is measured begins so long after the last call is up.
pub const SETTLE: Duration = Duration::from_millis(2_500);
/// Pacing error at the knee, 99th percentile, ms.
pub const PACING_MS_MAX: f64 = 2.0;
/// Where the rare residences are looked at, as a part of the knee, and in how many windows.
const CALM_SHARE: f64 = 0.7;
pub const CALM_WINDOWS: usize = 3;
/// Steps after those that the first costs suggest, and how much larger each is.
const MORE_STEPS_MAX: usize = 8;
const MORE_CALLS: f64 = 1.08;
/// Steps between what went well and what did not, and how near these come.
const BETWEEN_MAX: usize = 4;
const NEAR: f64 = 0.03;
/// Repetitions of a window that was spoiled.
const AGAIN_MAX: usize = 2;
/// Room for calls in one run: the engine's own limit per worker.
pub const CALLS_MAX: usize = 4_000;

impl Run {
    /// Steps up until something gives: first far apart, then close to where the cost says the limit is; then between.
    pub fn climb(
        &self,
        name: &str,
        first: usize,
        generator: &mut Generator,
        subject: &mut Subject,
        busy_max: f64,
    ) -> Result<Vec<Step>> {
        if let Some(counts) = &self.counts {
            return self.visit(name, generator, subject, counts);
        }
        let mut steps = self.visit(name, generator, subject, &[first])?;
        if steps.iter().any(Step::is_bad) {
            return Ok(steps);
        }
        let shares = [0.6, 0.8, 0.95, 1.0, 1.05].into_iter().map(Some);
        for share in shares.chain([None; MORE_STEPS_MAX]) {
            let Some(last) = steps.last() else { break };
            let wanted = match share {
                Some(share) => limit(last, busy_max) * share,
                // A gateway that makes calls cheaper when there are many has its limit further up.
                None if last.busy < busy_max => (last.calls as f64 * MORE_CALLS).max(limit(last, busy_max)),
                None => break,
            };
            // Beyond its own limit the generator would measure itself.
            let own = GENERATOR_MAX / (last.generator_busy / last.calls.max(1) as f64);
            let calls = wanted.min(own * 1.1) as usize;
            if calls > CALLS_MAX || calls <= last.calls + last.calls / 50 {
                continue;
            }
            steps.extend(self.visit(name, generator, subject, &[calls])?);
            // Refused calls mean that the gateway itself says it is full.
            let full = |last: &Step| last.busy > 0.97 || last.calls + last.calls / 50 < calls;
            if steps.last().is_some_and(|last| full(last) || last.is_bad() || last.generator_limited()) {
                break;
            }
        }
        for _ in 0..BETWEEN_MAX {
            let Some(calls) = between(&steps, busy_max) else { break };
            steps.extend(self.visit(name, generator, subject, &[calls])?);
        }
        steps.sort_by_key(|step| step.calls);
        Ok(steps)
    }

    /// Measures at each of `counts` calls.
    pub fn visit(
        &self,
        name: &str,
        generator: &mut Generator,
        subject: &mut Subject,
        counts: &[usize],
    ) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        for &count in counts {
            fill(generator, count)?;
            steps.push(self.step(name, generator, subject)?);
        }
        Ok(steps)
    }

    /// One window of the calls that are up; again while the machine spoils it. What counts is the first that was not spoiled, or the
    /// best of those that were.
    pub fn step(&self, name: &str, generator: &mut Generator, subject: &mut Subject) -> Result<Step> {
        let mut windows: Vec<Step> = Vec::new();
        while windows.len() <= AGAIN_MAX {
            let step = window(generator, subject, self.window, &self.site)?;
            let again = if windows.is_empty() { "" } else { "again, " };
            progress(&format!("{again}{}", describe(name, &step)));
            let is_sound = step.spoiled().is_none() || is_over(&step);
            windows.push(step);
            if is_sound {
                break;
            }
        }
        let sound = windows.iter().rposition(|step| step.spoiled().is_none());
        let worth = |step: &Step| (step.defects() as f64, step.pacing_p99_ms());
        let best = (0..windows.len())
            .min_by(|a, b| worth(&windows[*a]).partial_cmp(&worth(&windows[*b])).unwrap_or(std::cmp::Ordering::Equal));
        let mut counts = windows.swap_remove(sound.or(best).unwrap_or(0));
        counts.again = windows.iter().map(Step::brief).collect();
        Ok(counts)
    }

    /// Goes back to seven tenths of the knee, or of where it would be if pacing were no matter, for some windows.
    pub fn calm(
        &self,
        name: &str,
        steps: &[Step],
        busy_max: f64,
        generator: &mut Generator,
        subject: &mut Subject,
    ) -> Result<Vec<Step>> {
        let clean = steps.iter().filter(|step| step.is_clean() && step.busy < busy_max).map(|step| step.calls).max();
        let Some(knee) = most(steps, busy_max).or(clean).filter(|_| self.counts.is_none()) else {
            return Ok(Vec::new());
        };
        fill(generator, (knee as f64 * CALM_SHARE) as usize)?;
        self.calm_windows(&format!("{name}, seven tenths"), generator, subject)
    }

    /// Windows of the calls that are up, all of which count.
    pub fn calm_windows(&self, name: &str, generator: &mut Generator, subject: &mut Subject) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        for _ in 0..CALM_WINDOWS {
            let step = window(generator, subject, self.window, &self.site)?;
            progress(&describe(name, &step));
            steps.push(step);
        }
        Ok(steps)
    }
}

/// Brings the calls that are up to `count`. Calls refused during the ramp are offered again, slowly: a burst of set-ups costs what the
/// calls themselves do not.
pub fn fill(generator: &mut Generator, count: usize) -> Result<()> {
    generator.forget_refused();
    generator.keep(count)?;
    let more = count.saturating_sub(generator.running());
    generator.ramp(more, RAMP_PER_SECOND, Duration::from_secs(5))?;
    for _ in 0..RAMPS_AGAIN_MAX {
        let refused = generator.forget_refused();
        if refused == 0 {
            break;
        }
        generator.run_for(SETTLE)?;
        generator.ramp(refused, RAMP_AGAIN_PER_SECOND, Duration::from_secs(5))?;
    }
    generator.forget_refused();
    generator.run_for(SETTLE)
}

/// The core has no more to give: no repetition makes that another step.
fn is_over(step: &Step) -> bool {
    step.busy > 0.97
}

/// How many calls would fill the core, by the cost of these.
pub fn limit(step: &Step, busy_max: f64) -> f64 {
    busy_max / (step.busy / step.calls.max(1) as f64).max(1e-9)
}

fn is_good(step: &Step, busy_max: f64) -> bool {
    step.is_clean() && step.pacing_p99_ms() < PACING_MS_MAX && step.busy < busy_max
}

/// The most calls that went well.
pub fn most(steps: &[Step], busy_max: f64) -> Option<usize> {
    steps.iter().filter(|step| is_good(step, busy_max)).map(|step| step.calls).max()
}

/// A number of calls between those that went well and the fewest beyond them that did not, unless these are near.
fn between(steps: &[Step], busy_max: f64) -> Option<usize> {
    let low = most(steps, busy_max)?;
    // With fewer calls a generator that had too much to do has less.
    let beyond = steps.iter().filter(|step| step.calls > low);
    let high = beyond.map(|step| step.calls).min()?;
    let is_near = (high - low) as f64 <= low as f64 * NEAR;
    (!is_near).then_some(low + (high - low) / 2)
}

/// What is said of the knee.
pub fn knee(steps: &[Step], busy_max: f64) -> Value {
    let calls = most(steps, busy_max);
    // Among what costs nearly the same, so that no spoiled window at the top decides.
    let top = steps.iter().filter(|step| step.busy < 0.97).max_by_key(|step| step.calls).or(steps.last());
    json!({
        "calls": calls,
        "next_above": steps.iter().map(|step| step.calls).filter(|n| calls.is_some_and(|calls| *n > calls)).min(),
        "extrapolated": top.map(|top| round(limit(top, busy_max), 0)),
        "generator_limited": steps.iter().any(Step::generator_limited),
        "core_percent_at_most": busy_max * 100.0,
        "pacing_p99_ms_at_most": PACING_MS_MAX,
    })
}

/// The steps whose floor is measured too: the one nearest half of the knee, the knee, and the last good one.
pub fn compared(steps: &[Step], busy_max: f64) -> Vec<&Step> {
    let good: Vec<&Step> = steps.iter().filter(|step| step.busy <= busy_max).collect();
    let knee = most(steps, busy_max);
    let at_knee = good.iter().position(|step| Some(step.calls) == knee);
    let (mut wanted, len): (Vec<&Step>, _) = (Vec::new(), good.len());
    for at in [len / 2, at_knee.unwrap_or(len.saturating_sub(2)), len.saturating_sub(1)] {
        match good.get(at) {
            Some(step) if !wanted.iter().any(|other| other.calls == step.calls) => wanted.push(*step),
            _ => {}
        }
    }
    wanted.sort_by_key(|step| step.calls);
    match wanted.is_empty() {
        true => steps.first().into_iter().collect(),
        false => wanted,
    }
}

/// The rare residences of some windows (of packets that leave because one came): all, and the median window, by which they are judged.
pub fn residences(windows: &[Step], of: fn(&Step) -> Option<f64>) -> (Vec<f64>, Option<f64>) {
    // One without a single packet whose cause is known says nothing.
    let all: Vec<f64> = windows.iter().filter_map(of).map(|p999| round(p999, 0)).collect();
    let mut sorted = all.clone();
    sorted.sort_unstable_by(f64::total_cmp);
    (all, sorted.get(sorted.len() / 2).copied())
}

#[cfg(test)]
mod tests {
    use super::super::measure::Spread;
    use super::*;

    /// A window of `calls` calls, clean but for how unevenly packets left.
    fn step(calls: usize, busy: f64, pacing_ms: f64) -> Step {
        let pacing = Spread { p99: pacing_ms * 1e3, ..Spread::default() };
        Step { calls, busy, seconds: 1.0, received: 100 * calls as u64, pacing: [pacing; 2], ..Step::default() }
    }

    #[test]
    fn the_search_halves_the_way_to_the_first_fault_until_it_is_near() {
        let mut steps = vec![step(100, 0.3, 0.5), step(200, 0.6, 1.0), step(280, 0.84, 2.5), step(300, 0.9, 3.0)];
        // Carries 250 calls well.
        let mut visited = Vec::new();
        while let Some(calls) = between(&steps, 0.85) {
            visited.push(calls);
            steps.push(step(calls, 0.003 * calls as f64, if calls > 250 { 2.1 } else { 1.5 }));
        }
        assert_eq!(visited, [240, 260, 250, 255]);
        assert_eq!(most(&steps, 0.85), Some(250));
    }

    #[test]
    fn a_lost_packet_or_a_full_core_ends_the_knee_and_so_does_one_that_a_full_generator_lost() {
        let lossy = Step { lost: 1, ..step(220, 0.7, 0.5) };
        assert_eq!(between(&[step(200, 0.6, 0.5), lossy.clone()], 0.85), Some(210));
        assert_eq!(between(&[step(200, 0.6, 0.5), step(230, 0.86, 0.5)], 0.85), Some(215));
        assert_eq!(between(&[step(200, 0.6, 0.5), Step { generator_busy: 0.9, ..lossy }], 0.85), Some(210));
        assert_eq!(between(&[step(200, 0.6, 0.5)], 0.85), None);
    }

    #[test]
    fn the_median_window_judges_the_rare_residences() {
        let window = |p999: f64| Step {
            residence: [Spread { p999, ..Spread::default() }, Spread::default()],
            ..Step::default()
        };
        let windows = [window(900.0), window(5_000.0), window(800.0)];
        assert_eq!(residences(&windows, Step::residence_p999), (vec![900.0, 5_000.0, 800.0], Some(900.0)));
        assert_eq!(residences(&[], Step::residence_p999).1, None);
        assert_eq!(residences(&[window(0.0)], Step::residence_p999), (vec![], None), "nothing was measured");
    }

    #[test]
    fn the_jitter_buffers_delay_is_no_residence() {
        let spread = |p999| Spread { p999, ..Spread::default() };
        let transcoded =
            Step { residence: [spread(1_800.0), spread(24_000.0)], played_out: [false, true], ..Step::default() };
        let relayed = Step { played_out: [false; 2], ..transcoded.clone() };
        assert_eq!(residences(std::slice::from_ref(&transcoded), Step::residence_p999), (vec![1_800.0], Some(1_800.0)));
        assert_eq!(residences(&[relayed], Step::residence_p999).1, Some(24_000.0), "a relay keeps nothing");
        let unstamped = Step { residence: [spread(0.0), spread(24_000.0)], ..transcoded };
        assert_eq!(residences(&[unstamped], Step::residence_p999), (vec![], None));
    }
}
