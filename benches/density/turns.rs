//! Two programs measured by turns, so that what the hour does to the machine it does to both.
//!
//! Floors of one minute differ by a seventh from those of the next on a machine that others share; those of the same half minute hardly do.
//! Both programs stand on the measured core at once, one of them without anything to do: its far ends are silent, or hung up where silence
//! costs something too (what is transcoded is concealed). What the idle one costs (reports, checks) is charged to nobody. Each round is a window of either, every second round in the other order.

use super::generator::Generator;
use super::measure::{Step, round, window};
use super::parts::{Run, describe, progress};
use super::search::fill;
use super::subject::Subject;
use anyhow::Result;
use serde_json::{Value, json};
use std::time::Duration;

/// Windows of either.
pub const ROUNDS: usize = 3;
/// For how long calls that are hung up are waited for.
const GOODBYE: Duration = Duration::from_millis(500);

/// One of the two.
pub struct Party {
    /// What it is called while it is measured.
    pub name: String,
    /// Its far ends.
    pub generator: Generator,
    /// Its process.
    pub subject: Subject,
    /// Whether its calls end with its turn.
    pub hangs_up: bool,
}

/// What both showed at one number of calls.
pub struct Turns {
    /// The first party's windows and the second's, round by round.
    pub windows: Vec<[Step; 2]>,
}

impl Run {
    /// `rounds` windows of either of `parties` at `calls` calls.
    pub fn by_turns(&self, parties: &mut [Party; 2], calls: usize, rounds: usize) -> Result<Turns> {
        let mut windows = Vec::new();
        for number in 0..rounds {
            let mut pair = [Step::default(), Step::default()];
            for which in if number % 2 == 0 { [0, 1] } else { [1, 0] } {
                let Party { name, generator, subject, hangs_up } = &mut parties[which];
                generator.resume();
                fill(generator, calls)?;
                // What the other party's silent ends do not read is none of this one's: their sockets fill with its reports.
                pair[which] = Step { overrun: 0, ..window(generator, subject, self.window, &self.site)? };
                progress(&describe(name, &pair[which]));
                if *hangs_up {
                    generator.keep(0)?;
                    generator.run_for(GOODBYE)?;
                }
            }
            windows.push(pair);
        }
        Ok(Turns { windows })
    }
}

impl Turns {
    /// What a call of the first costs by one of the second, round by round.
    pub fn ratios(&self) -> Vec<f64> {
        let ratio = |[one, other]: &[Step; 2]| round(one.micros_per_frame() / other.micros_per_frame(), 3);
        self.windows.iter().map(ratio).collect()
    }

    /// The median of these.
    pub fn ratio(&self) -> f64 {
        median(self.ratios())
    }

    /// Of one party, the window of median cost.
    pub fn typical(&self, which: usize) -> Option<&Step> {
        let mut steps: Vec<&Step> = self.windows.iter().map(|pair| &pair[which]).collect();
        steps.sort_by(|one, other| one.micros_per_frame().total_cmp(&other.micros_per_frame()));
        steps.get(steps.len() / 2).copied()
    }

    /// For the record.
    pub fn json(&self) -> Value {
        let costs = |which: usize| -> Vec<f64> {
            self.windows.iter().map(|pair| round(pair[which].micros_per_frame(), 2)).collect()
        };
        json!({
            "calls": self.windows.first().map(|pair| pair[0].calls), "ratio": self.ratio(), "by_turns": self.ratios(),
            "us_per_call_and_20ms": costs(0), "floor_us_per_call_and_20ms": costs(1),
        })
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(busy: f64) -> Step {
        Step { calls: 100, busy, ..Step::default() }
    }

    #[test]
    fn a_minute_that_is_dear_for_both_does_not_show() {
        let windows = vec![[step(0.2), step(0.1)], [step(0.4), step(0.2)], [step(0.3), step(0.1)]];
        let turns = Turns { windows };
        assert_eq!(turns.ratios(), [2.0, 2.0, 3.0]);
        assert_eq!(turns.ratio(), 2.0);
        assert_eq!(turns.typical(0).map(|step| step.busy), Some(0.3));
    }
}
