//! `make density`: how many calls one core carries, at what cost, against the least that is possible.
//!
//! Starts the real gateway (release) on one core and generates load on the others: N callers with ICE, DTLS and SRTP, N answerers of
//! SIP, different speech in each call. Finds the knee by steps; measures the floor (codec and datagrams, nothing else) on the same
//! core in the same run; writes JSON, a table and a chart.
//!
//! ```text
//! density [transcoded]    which parts to run; all without arguments
//! DENSITY_SECONDS=5       length of one window
//! DENSITY_CALLS=100,200   steps instead of a search for the knee
//! DENSITY_PROFILE=...     wideband-20k (ICE-lite callers, as WhatsApp's) or fullband-32k (full ICE, as a browser)
//! ```

mod corpus;
mod dial;
mod end;
mod floor;
mod generator;
mod measure;
mod process;
mod ring;
mod sip;
mod subject;

use anyhow::{Context, Result, bail};
use corpus::Corpus;
use end::Shape;
use generator::{Generator, Profile};
use measure::{Step, round, window};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use subject::{Settings, Site, Subject};

/// Room for calls in one run.
const CALLS_MAX: usize = 4_000;
/// Calls begun a second while a step is filled.
const RAMP_PER_SECOND: f64 = 100.0;
/// The core may be this busy at the knee.
const BUSY_MAX: f64 = 0.85;
/// Pacing error at the knee, 99th percentile, ms.
const PACING_MS_MAX: f64 = 2.0;

fn main() -> Result<()> {
    engine::io::system::raise_open_files();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, flows, complexity, folder] = &arguments[..]
        && first == "floor"
    {
        return floor::run(flows.parse()?, complexity.parse().ok(), Path::new(folder));
    }
    let run = Run::new()?;
    let wanted = |part: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == part);
    let mut results = json!({"machine": process::machine(), "seconds_per_window": run.window.as_secs_f64()});
    if wanted("transcoded") {
        results["transcoded"] = run.transcoded()?;
    }
    println!("{}", serde_json::to_string_pretty(&results)?);
    Ok(())
}

/// What all parts of a run need.
struct Run {
    site: Site,
    corpus: Corpus,
    window: Duration,
    steps: Option<Vec<usize>>,
    full: bool,
}

impl Run {
    fn new() -> Result<Run> {
        let cores = engine::io::system::cores();
        let (Some((&measured, others)), true) = (cores.split_last(), cores.len() >= 2) else {
            bail!("two cores are needed: one for the gateway, one for the load");
        };
        let folder = PathBuf::from("target/density");
        let site = Site {
            programs: subject::programs()?,
            folder: folder.clone(),
            measured: vec![measured],
            others: others.to_vec(),
        };
        process::keep_on(0, &site.others)?;
        progress("speech: speaking and coding");
        let corpus = Corpus::load(&folder)?;
        let seconds = variable("DENSITY_SECONDS").map_or(Ok(5.0), |text| text.parse()).context("DENSITY_SECONDS")?;
        let steps = variable("DENSITY_CALLS").map(|text| text.split(',').map(|n| n.trim().parse()).collect());
        let full = match variable("DENSITY_PROFILE").as_deref() {
            None | Some("wideband-20k") => false,
            Some("fullband-32k") => true,
            Some(other) => bail!("DENSITY_PROFILE={other}: write wideband-20k or fullband-32k"),
        };
        let steps = steps.transpose().context("DENSITY_CALLS")?;
        Ok(Run { site, corpus, window: Duration::from_secs_f64(seconds), steps, full })
    }

    fn cores(&self) -> (usize, usize) {
        (self.site.measured.len(), self.site.others.len())
    }

    fn callers(&self) -> Result<(Shape, corpus::Frames, u32, u8)> {
        Ok(match self.full {
            false => (Shape::Lite, self.corpus.wideband()?, 960, 111),
            true => (Shape::Full, self.corpus.fullband()?, 960, 111),
        })
    }

    /// The real gateway, Opus by DTLS-SRTP to PCMU by RTP, and its floor at the same numbers of calls.
    fn transcoded(&self) -> Result<Value> {
        let callers = self.callers()?;
        let answerers = (Shape::Rtp, self.corpus.pcmu(), 160, 0);
        let profile = Profile { a: callers.clone(), b: answerers.clone() };
        let idle = dial::Dialler::start(Vec::new());
        let mut generator = Generator::new(profile, CALLS_MAX, self.corpus.frames(), idle)?;
        let (mut gateway, dialler) = Subject::tandem(&self.site, generator.sip_port, &Settings::default())?;
        generator.set_dialler(dialler);
        let steps = self.climb("transcoded", &mut generator, &mut gateway)?;
        let complexity = complexity(&mut gateway);
        drop((generator, gateway));

        let counts: Vec<usize> = steps.iter().map(|step| step.calls).collect();
        let bare = Profile { a: (Shape::Bare, callers.1, 960, 111), b: (Shape::Bare, answerers.1, 160, 0) };
        let idle = dial::Dialler::start(Vec::new());
        let mut generator = Generator::new(bare, CALLS_MAX, self.corpus.frames(), idle)?;
        let (mut floor, dialler) = Subject::floor(&self.site, CALLS_MAX, Some(complexity))?;
        generator.set_dialler(dialler);
        let floors = self.visit("floor", &mut generator, &mut floor, &counts)?;
        let ratios: Vec<f64> =
            steps.iter().zip(&floors).map(|(s, f)| round(s.micros_per_frame() / f.micros_per_frame(), 3)).collect();
        progress(&format!("transcoded: CPU against the floor {ratios:?} at {counts:?} calls"));
        Ok(json!({
            "profile": if self.full { "fullband-32k" } else { "wideband-20k" },
            "complexity": complexity,
            "active_percent": round(self.corpus.active * 100.0, 1),
            "knee": knee(&steps),
            "ratio_to_floor": ratios,
            "steps": steps.iter().map(Step::json).collect::<Vec<_>>(),
            "floor": floors.iter().map(Step::json).collect::<Vec<_>>(),
        }))
    }

    /// Steps up until something gives: first far apart, then close to where the cost says the limit is.
    fn climb(&self, name: &str, generator: &mut Generator, subject: &mut Subject) -> Result<Vec<Step>> {
        if let Some(steps) = &self.steps {
            return self.visit(name, generator, subject, steps);
        }
        let mut steps = self.visit(name, generator, subject, &[50])?;
        let limit = |steps: &[Step]| steps.last().map_or(0.0, |last| BUSY_MAX / (last.busy / last.calls.max(1) as f64));
        for share in [0.5, 0.8, 0.93, 1.0, 1.05, 1.1] {
            let calls = (limit(&steps) * share) as usize;
            if calls > CALLS_MAX || steps.last().is_some_and(|last| last.calls >= calls) {
                continue;
            }
            steps.extend(self.visit(name, generator, subject, &[calls])?);
            if steps.last().is_some_and(|last| !is_good(last)) {
                break;
            }
        }
        Ok(steps)
    }

    fn visit(
        &self,
        name: &str,
        generator: &mut Generator,
        subject: &mut Subject,
        counts: &[usize],
    ) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        for &count in counts {
            let more = count.saturating_sub(generator.calls.len());
            generator.ramp(more, RAMP_PER_SECOND, Duration::from_secs(5))?;
            generator.run_for(Duration::from_millis(1_500))?;
            let step = window(generator, subject, self.window, self.cores())?;
            progress(&describe(name, &step));
            steps.push(step);
        }
        Ok(steps)
    }
}

fn is_good(step: &Step) -> bool {
    step.is_clean() && step.pacing_p99_ms() < PACING_MS_MAX && step.busy < BUSY_MAX
}

/// The most calls that were carried well.
fn knee(steps: &[Step]) -> Value {
    let good = steps.iter().filter(|step| is_good(step)).max_by_key(|step| step.calls);
    let last = steps.last();
    let extrapolated = last.map_or(0.0, |last| BUSY_MAX / (last.busy / last.calls.max(1) as f64));
    json!({
        "calls": good.map(|step| step.calls),
        "extrapolated": round(extrapolated, 0),
        "generator_limited": steps.iter().any(Step::generator_limited),
    })
}

/// The encoder's effort as the gateway reports it; what it is built with where it does not.
fn complexity(gateway: &mut Subject) -> i32 {
    let figures = gateway.figures();
    figures.iter().find(|(name, _)| name.contains("complexity")).map_or(5, |(_, value)| *value as i32)
}

fn describe(name: &str, step: &Step) -> String {
    format!(
        "{name}: {} calls, core {:.1} %, {:.1} us per call and 20 ms, lost {}, wrong {}, concealed {}, overrun {}, broken {}, pacing p99 \
         {:.2} ms, residence p50/p99 {:.0}/{:.0} us, {:.0} wake-ups/s, generator {:.0} %{}",
        step.calls,
        step.busy * 100.0,
        step.micros_per_frame(),
        step.lost,
        step.wrong,
        step.concealed,
        step.overrun,
        step.broken,
        step.pacing_p99_ms(),
        step.residence[0].p50,
        step.residence[0].p99,
        step.wakeups,
        step.generator_busy * 100.0,
        if step.generator_limited() { " (generator-limited)" } else { "" },
    )
}

fn progress(text: &str) {
    eprintln!("density: {text}");
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.trim().is_empty())
}
