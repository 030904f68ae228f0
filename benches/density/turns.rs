//! Two programs measured by turns, so that what the hour does to the machine it does to both.
//!
//! Floors of one minute differ by a seventh from those of the next on a machine that others share; those of the same half minute hardly do.
//! Both programs stand on the measured core at once, one of them without anything to do: its far ends are silent, or hung up where silence
//! costs something too (what is transcoded is concealed). What the idle one costs (reports, checks) is charged to nobody. Each round is a
//! window of either, every second round in the other order.
//!
//! Calls that last are never silent for longer than one turn of the other, or 10 s: they come up in pieces, and between two turns of the
//! other they have a [`BREATH`], in which consent is renewed (RFC 7675: it ends 30 s after the last answer). A call that is lost all the same
//! fails the run: a program that carries nothing is cheap. A window that the machine spoiled is measured again, once.

use super::generator::Generator;
use super::measure::{Idle, Step, round, window_beside};
use super::parts::{Run, describe, progress};
use super::search::{RAMP_PER_SECOND, SETTLE, fill};
use super::subject::Subject;
use anyhow::{Result, bail};
use engine::io::clock;
use engine::time::Instant;
use serde_json::{Value, json};
use std::time::Duration;

/// Windows of either; an odd number, so that one round has the median ratio.
pub const ROUNDS: usize = 3;
const _: () = assert!(ROUNDS % 2 == 1);
/// For how long calls that are hung up are waited for.
const GOODBYE: Duration = Duration::from_millis(500);
/// For how long calls between their turns go on: what came meanwhile is read and answered.
const BREATH: Duration = Duration::from_secs(1);
/// Calls that would be silent for longer have a breath before.
const BREATHLESS_MAX: Duration = Duration::from_secs(10);
/// Calls that are silent for longer may end before they are asked again.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Calls that one party begins before the other's may breathe.
const PIECE_TIME: Duration = Duration::from_secs(5);
const PIECE: usize = (PIECE_TIME.as_secs() as f64 * RAMP_PER_SECOND) as usize;
/// Repetitions of a window that was spoiled.
const AGAIN_MAX: u32 = 1;
/// Of the calls that were asked for so many may have been refused, in a hundred, or one: what is compared is the cost of a call that is up.
const REFUSED_PERCENT_MAX: usize = 5;

/// One of the two.
pub struct Party {
    /// What it is called while it is measured.
    pub name: String,
    /// Its far ends.
    pub generator: Generator,
    /// Its process.
    pub subject: Subject,
    /// Whether its calls end with its turn.
    hangs_up: bool,
    /// Since when its far ends have been silent.
    silent_since: Instant,
    /// The longest time for which they were.
    silence: Duration,
}

impl Party {
    /// `hangs_up`: its calls end with its turn.
    pub fn new(name: String, generator: Generator, subject: Subject, hangs_up: bool) -> Party {
        Party { name, generator, subject, hangs_up, silent_since: clock::now(), silence: Duration::ZERO }
    }

    /// Its far ends speak again, and do so while `go_on` lasts.
    fn turn(&mut self, go_on: impl FnOnce(&mut Generator) -> Result<()>) -> Result<()> {
        if self.generator.running() > 0 {
            self.silence = self.silence.max(clock::now().since(self.silent_since));
        }
        self.generator.resume();
        let done = go_on(&mut self.generator);
        self.silent_since = clock::now();
        done
    }

    /// Lets calls that last go on for a moment, unless they can be silent for `more` as well.
    fn breathe(&mut self, more: Duration) -> Result<()> {
        let silence = clock::now().since(self.silent_since);
        let is_due = silence > BREATH && silence + more > BREATHLESS_MAX;
        match is_due && !self.hangs_up && self.generator.running() > 0 {
            true => self.turn(|generator| generator.run_for(BREATH)),
            false => Ok(()),
        }
    }

    /// A window at `calls` calls, beside one that has nothing to do.
    fn window(&mut self, run: &Run, calls: usize, idle: &Party) -> Result<Step> {
        self.turn(|generator| fill(generator, calls))?;
        let idle = Idle { subject: &idle.subject, generator: &idle.generator };
        let mut measure = || -> Result<Step> {
            let step = window_beside(&mut self.generator, &mut self.subject, Some(&idle), run.window, &run.site)?;
            progress(&describe(&self.name, &step));
            Ok(step)
        };
        let mut step = measure()?;
        for _ in 0..repetitions(run.window) {
            if step.spoiled().is_some() {
                step = Step { again: vec![step.brief()], ..measure()? };
            }
        }
        if let Some(reason) = no_measure(&step, calls) {
            let silence = match step.broken {
                0 => String::new(),
                _ => format!("; silent for {:.1} s at most, and calls end after 30", self.silence.as_secs_f64()),
            };
            bail!("{} by turns: {reason}{silence}", self.name);
        }
        if self.hangs_up {
            self.generator.keep(0)?;
            self.generator.run_for(GOODBYE)?;
        }
        self.silent_since = clock::now();
        Ok(step)
    }
}

/// One of the two, and the other.
fn pick([first, second]: &mut [Party; 2], which: usize) -> (&mut Party, &mut Party) {
    if which == 0 { (first, second) } else { (second, first) }
}

/// How long a turn with so many windows is.
fn turn_time(window: Duration, repetitions: u32) -> Duration {
    SETTLE + window * (1 + repetitions) + GOODBYE
}

/// Windows for which there is time if the machine spoils one.
fn repetitions(window: Duration) -> u32 {
    if turn_time(window, AGAIN_MAX) > SILENCE_MAX { 0 } else { AGAIN_MAX }
}

/// Why a window says nothing about what `calls` calls cost, if it does not.
fn no_measure(step: &Step, calls: usize) -> Option<String> {
    let up = step.calls;
    if step.broken > 0 {
        return Some(format!("{} of {} calls died or never came up", step.broken, up + step.broken));
    }
    if calls.saturating_sub(up) > (calls * REFUSED_PERCENT_MAX / 100).max(1) {
        return Some(format!("{up} calls are up, {calls} were wanted"));
    }
    // Where the machine is to blame the faults stand beside the ratio.
    let is_bad = step.is_bad() && step.spoiled().is_none();
    is_bad.then(|| format!("{} faults in {} packets", step.defects(), step.received))
}

/// Numbers of calls by which a party that has `running` comes to `calls` without more than a [`PIECE`] at once.
fn pieces(running: usize, calls: usize) -> impl Iterator<Item = usize> {
    (running + PIECE..calls).step_by(PIECE).chain((running != calls).then_some(calls))
}

/// What both showed at one number of calls.
pub struct Turns {
    /// The first party's windows and the second's, round by round.
    pub windows: Vec<[Step; 2]>,
}

impl Run {
    /// `rounds` windows of either of `parties` at `calls` calls.
    pub fn by_turns(&self, parties: &mut [Party; 2], calls: usize, rounds: usize) -> Result<Turns> {
        let silence = turn_time(self.window, repetitions(self.window));
        if silence > SILENCE_MAX {
            bail!("DENSITY_SECONDS: calls that wait for {} s for their turn end before it", silence.as_secs_f64());
        }
        // The second first: the first may have calls from before, the second is new.
        for which in [1, 0] {
            let (party, other) = pick(parties, which);
            let lasting = if party.hangs_up { party.generator.running() } else { calls };
            for piece in pieces(party.generator.running(), lasting) {
                other.breathe(PIECE_TIME + SETTLE)?;
                party.turn(|generator| fill(generator, piece))?;
            }
        }
        let mut windows = Vec::new();
        for number in 0..rounds {
            let mut pair = [Step::default(), Step::default()];
            for which in if number % 2 == 0 { [0, 1] } else { [1, 0] } {
                let (party, other) = pick(parties, which);
                other.breathe(silence)?;
                pair[which] = party.window(self, calls, other)?;
            }
            windows.push(pair);
        }
        Ok(Turns { windows })
    }
}

impl Turns {
    /// What a call of the first costs by one of the second, round by round; by the costs as they are printed.
    pub fn ratios(&self) -> Vec<f64> {
        self.windows.iter().map(|[one, other]| round(cost(one) / cost(other), 3)).collect()
    }

    /// The median of these.
    pub fn ratio(&self) -> f64 {
        median(self.ratios())
    }

    /// The round of median ratio, the lower of two: what stands in the table.
    pub fn typical(&self) -> Option<&[Step; 2]> {
        let mut order: Vec<(f64, &[Step; 2])> = self.ratios().into_iter().zip(&self.windows).collect();
        order.sort_by(|one, other| one.0.total_cmp(&other.0));
        order.get(order.len().saturating_sub(1) / 2).map(|(_, pair)| *pair)
    }

    /// How far its number of calls is from `calls`.
    pub fn off(&self, calls: u64) -> u64 {
        self.windows.first().map_or(u64::MAX, |pair| calls.abs_diff(pair[0].calls as u64))
    }

    /// For the record, where these are the floor with the gateway's own functions and the floor: what the first takes of the second, and how
    /// many times the first the gateway of `turns` takes, whose second was the floor too.
    pub fn own_functions(&self, turns: &Turns) -> Value {
        let typical = self.typical().map(|pair| pair.each_ref().map(cost));
        let spoiled = self.windows.iter().flatten().filter(|step| step.spoiled().is_some()).count();
        json!({
            "calls": self.windows.first().map(|pair| pair[0].calls), "us_per_call_and_20ms": typical.map(|[own, _]| own),
            "floor_us_per_call_and_20ms": typical.map(|[_, floor]| floor), "of_the_floor": self.ratio(), "by_turns": self.ratios(),
            "ratio": round(turns.ratio() / self.ratio(), 3), "spoiled": spoiled,
            "windows": self.windows.iter().flatten().map(Step::json).collect::<Vec<_>>(),
        })
    }

    /// For the record.
    pub fn json(&self) -> Value {
        let each = |which: usize, of: &dyn Fn(&Step) -> Value| -> Vec<Value> {
            self.windows.iter().map(|pair| of(&pair[which])).collect()
        };
        let costs = |which: usize| each(which, &|step| json!(cost(step)));
        json!({
            "calls": self.windows.first().map(|pair| pair[0].calls), "ratio": self.ratio(), "by_turns": self.ratios(),
            "effort_held": self.windows.first().and_then(|pair| pair[0].complexity),
            "us_per_call_and_20ms": costs(0), "floor_us_per_call_and_20ms": costs(1),
            "faults": [each(0, &|step| json!(step.defects())), each(1, &|step| json!(step.defects()))],
            "spoiled": [each(0, &|step| json!(step.spoiled())), each(1, &|step| json!(step.spoiled()))],
        })
    }
}

/// Microseconds of a call and 20 ms, as they are printed.
fn cost(step: &Step) -> f64 {
    round(step.micros_per_frame(), 2)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    let middle = values.get(low).zip(values.get(high));
    middle.map_or(f64::NAN, |(low, high)| round((low + high) / 2.0, 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(busy: f64) -> Step {
        Step { calls: 100, busy, received: 10_000, ..Step::default() }
    }

    #[test]
    fn a_minute_that_is_dear_for_both_does_not_show() {
        let windows = vec![[step(0.2), step(0.1)], [step(0.4), step(0.2)], [step(0.3), step(0.1)]];
        let turns = Turns { windows };
        assert_eq!(turns.ratios(), [2.0, 2.0, 3.0]);
        assert_eq!(turns.ratio(), 2.0);
    }

    #[test]
    fn the_rows_that_are_shown_give_the_ratio_that_is_printed() {
        let windows = vec![[step(0.2), step(0.1)], [step(0.45), step(0.3)], [step(0.333), step(0.1)]];
        let turns = Turns { windows };
        let [own, floor] = turns.typical().unwrap().each_ref().map(|step| step.json());
        let cost = |row: &Value| row["us_per_call_and_20ms"].as_f64().unwrap();
        assert_eq!(round(cost(&own) / cost(&floor), 3), turns.ratio());
        assert_eq!(turns.ratio(), 2.0);
    }

    #[test]
    fn what_the_gateways_own_functions_save_is_taken_off_the_floor_it_is_held_against() {
        let gateway = Turns { windows: vec![[step(0.216), step(0.2)]] };
        let floors = Turns { windows: vec![[step(0.18), step(0.2)], [step(0.19), step(0.2)], [step(0.17), step(0.2)]] };
        let record = floors.own_functions(&gateway);
        assert_eq!((&record["of_the_floor"], &record["ratio"]), (&json!(0.9), &json!(1.2)));
        assert_eq!(
            (&record["us_per_call_and_20ms"], &record["floor_us_per_call_and_20ms"]),
            (&json!(36.0), &json!(40.0))
        );
        assert_eq!((gateway.off(110), Turns { windows: Vec::new() }.off(110)), (10, u64::MAX));
    }

    #[test]
    fn the_median_of_an_even_number_of_rounds_leans_to_neither_side() {
        assert_eq!(median(vec![1.3, 1.0, 1.1, 1.2]), 1.15);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn thousands_of_calls_come_up_in_pieces_and_fewer_go_down_at_once() {
        let all = |running, calls| pieces(running, calls).collect::<Vec<_>>();
        assert_eq!(all(0, 2_229), [750, 1_500, 2_229]);
        assert_eq!(all(0, 1_500), [750, 1_500]);
        assert_eq!(all(1_446, 1_882), [1_882]);
        assert_eq!(all(2_229, 1_446), [1_446]);
        assert_eq!(all(388, 388), [0; 0]);
    }

    #[test]
    fn long_windows_are_not_repeated_where_the_others_calls_would_wait_for_too_long() {
        let seconds = Duration::from_secs;
        assert_eq!([2, 5, 8].map(|window| repetitions(seconds(window))), [1; 3]);
        assert_eq!(repetitions(seconds(10)), 0);
        assert!(turn_time(seconds(10), 0) <= SILENCE_MAX);
    }

    #[test]
    fn a_window_without_its_calls_is_no_measure() {
        assert_eq!(no_measure(&step(0.5), 100), None);
        assert_eq!(no_measure(&step(0.5), 105), None, "those that were refused change no cost of a call");
        assert!(no_measure(&step(0.5), 106).unwrap().contains("100 calls are up, 106 were wanted"));
        let few = Step { calls: 3, ..step(0.5) };
        assert_eq!((no_measure(&few, 4), no_measure(&few, 5).is_some()), (None, true));
        let lost = Step { calls: 0, broken: 100, ..step(0.01) };
        assert!(no_measure(&lost, 100).unwrap().contains("100 of 100 calls died"));
        let lossy = Step { lost: 101, ..step(0.5) };
        assert!(no_measure(&lossy, 100).unwrap().contains("101 faults"));
        assert_eq!(no_measure(&Step { others_busy: 0.5, ..lossy }, 100), None, "others had the core");
    }
}
