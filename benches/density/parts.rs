//! The parts of a run: what is started, how it is loaded, what is compared.

mod memory;
mod set_up;

use super::corpus::{Corpus, Frames};
use super::dial::Dialler;
use super::end::Shape;
use super::generator::{Generator, Profile};
use super::measure::{Step, account, round, stood_still, window};
use super::process::{self, Usage};
use super::score::{Take, judge, takes};
use super::search::{
    CALLS_MAX, CALM_WINDOWS, PACING_MS_MAX, RAMP_PER_SECOND, SETTLE, compared, fill, knee, residences,
};
use super::stalls::LeftOut;
use super::subject::{Functions, Settings, Site, Subject};
use super::turns::{Party, ROUNDS, Turns};
use anyhow::{Context, Result, bail};
use engine::io::clock;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// A core that only relays may be this busy at the knee; one that transcodes less, since its work comes in larger pieces.
const RELAY_BUSY_MAX: f64 = 0.92;
const TRANSCODE_BUSY_MAX: f64 = 0.85;
/// The encoder's effort where the gateway reports none: what it was built with.
const COMPLEXITY_UNREPORTED: i32 = 5;
/// One call in this many is decoded and scored, and so many at least.
const SCORED_EVERY: usize = 50;
const SCORED_MIN: usize = 25;
/// Calls that may have come and gone in one run, beside those that are up.
const CALLS_GONE_MAX: usize = 4_000;
/// Calls of the first step, from which the cost of one is known.
const FIRST_CALLS: usize = 60;

/// Windows of either build where two are compared.
const AGAINST_ROUNDS: usize = 6;

/// Numbers of calls at which gateway and floor are compared.
const COMPARED_MAX: usize = 2;

/// One way an end is connected, what it says, its RTP ticks and payload type.
pub type EndKind = (Shape, Frames, u32, u8);

/// What all parts of a run need.
pub struct Run {
    /// Programs, folders, cores.
    pub site: Site,
    corpus: Corpus,
    opus: Frames,
    pcmu: Frames,
    /// Length of one window.
    pub window: Duration,
    /// Steps that were asked for, instead of a search.
    pub counts: Option<Vec<usize>>,
    full: bool,
}

/// Starts what is to be measured, with the encoder's effort fixed where one is given.
type Start<'s> = &'s dyn Fn(&Site, &Generator, Option<i32>) -> Result<(Subject, Dialler)>;

/// What gateway and floor are started with.
struct Sides<'s> {
    ends: [EndKind; 2],
    bare: [EndKind; 2],
    start: Start<'s>,
    transcodes: bool,
}

/// A gateway whose encoders' effort is fixed.
fn with_effort(effort: i32) -> Settings {
    let fixed = ["MEDIA_COMPLEXITY_MIN", "MEDIA_COMPLEXITY_MAX"].map(|name| (name.to_owned(), effort.to_string()));
    Settings { environment: fixed.to_vec(), ..Settings::default() }
}

impl Run {
    /// Reads the variables, speaks and codes the speech, and moves this program off the measured core, the last of `cores`.
    pub fn new(cores: &[usize], full: bool) -> Result<Run> {
        let (Some((&measured, others)), true) = (cores.split_last(), cores.len() >= 2) else {
            bail!("two cores are needed: one for the gateway, one for the load");
        };
        let folder = PathBuf::from("target/density");
        let (measured, others) = (vec![measured], others.to_vec());
        let site = Site { programs: super::subject::programs()?, folder: folder.clone(), measured, others };
        if let Some(value) = variable("DENSITY_NICE") {
            process::be_nice(value.parse().context("DENSITY_NICE")?)?;
        }
        process::keep_on(0, &site.others)?;
        progress("speech: speaking and coding");
        let corpus = Corpus::load(&folder)?;
        let seconds = variable("DENSITY_SECONDS").map_or(Ok(5.0), |text| text.parse()).context("DENSITY_SECONDS")?;
        let counts = variable("DENSITY_CALLS").map(|text| text.split(',').map(|n| n.trim().parse()).collect());
        let opus = if full { corpus.fullband()? } else { corpus.wideband()? };
        let pcmu = corpus.pcmu();
        let counts = counts.transpose().context("DENSITY_CALLS")?;
        Ok(Run { site, corpus, opus, pcmu, window: Duration::from_secs_f64(seconds), counts, full })
    }

    /// Under what all of it was measured.
    pub fn conditions(&self) -> Value {
        json!({
            "machine": process::machine(),
            "measured_cores": self.site.measured.len(),
            "generator_cores": self.site.others.len(),
            "seconds_per_window": self.window.as_secs_f64(),
            "profile": self.profile(),
            "active_speech_percent": round(self.corpus.active * 100.0, 1),
            "calls_stamped": super::generator::STAMPED,
            "calls_stamped_beyond_one_in": super::generator::STAMPED_EVERY,
            "windows_at_70_percent": CALM_WINDOWS,
            "pacing_p99_ms_at_most": PACING_MS_MAX,
        })
    }

    /// What the callers are like.
    pub fn profile(&self) -> &'static str {
        if self.full { "fullband-32k" } else { "wideband-20k" }
    }

    fn caller(&self) -> EndKind {
        (if self.full { Shape::Full } else { Shape::Lite }, self.opus.clone(), 960, 111)
    }

    fn telephone(&self) -> EndKind {
        (Shape::Rtp, self.pcmu.clone(), 160, 0)
    }

    fn relayed(&self) -> EndKind {
        (Shape::Rtp, self.opus.clone(), 960, 111)
    }

    fn generator(&self, a: EndKind, b: EndKind) -> Result<Generator> {
        Generator::new(Profile { a, b }, CALLS_MAX + CALLS_GONE_MAX, self.corpus.frames(), Dialler::start(Vec::new()))
    }

    /// The real gateway, Opus by DTLS-SRTP to PCMU by RTP, with scores.
    pub fn transcoded(&self) -> Result<Value> {
        let start: Start = &|site, generator, effort| {
            Subject::tandem(site, generator.sip_port, &effort.map_or(Settings::default(), with_effort))
        };
        self.compare("transcoded", self.caller(), self.telephone(), TRANSCODE_BUSY_MAX, start)
    }

    /// The same with the encoder's effort fixed.
    pub fn transcoded_5(&self) -> Result<Value> {
        let start: Start = &|site, generator, _| Subject::tandem(site, generator.sip_port, &with_effort(5));
        self.compare("transcoded at 5", self.caller(), self.telephone(), TRANSCODE_BUSY_MAX, start)
    }

    /// Opus passed on, DTLS-SRTP to RTP.
    pub fn relay_rtp(&self) -> Result<Value> {
        let start: Start = &|site, _, _| Subject::driver(site, 1);
        self.compare("relayed to RTP", self.caller(), self.relayed(), RELAY_BUSY_MAX, start)
    }

    /// Opus passed on, DTLS-SRTP to DTLS-SRTP.
    pub fn relay_webrtc(&self) -> Result<Value> {
        let start: Start = &|site, _, _| Subject::driver(site, 1);
        self.compare("relayed to DTLS-SRTP", self.caller(), self.caller(), RELAY_BUSY_MAX, start)
    }

    /// rtpengine under the same load.
    pub fn rival(&self) -> Result<Value> {
        let mut results = json!({"version": super::subject::version_of("rtpengine")});
        for (name, b, busy_max) in
            [("transcoded", self.telephone(), TRANSCODE_BUSY_MAX), ("relay_rtp", self.relayed(), RELAY_BUSY_MAX)]
        {
            let mut generator = self.generator(self.caller(), b)?;
            let (mut subject, dialler) = Subject::rtpengine(&self.site, name == "transcoded")?;
            generator.set_dialler(dialler);
            let title = format!("rtpengine {name}");
            let steps = self.climb(&title, FIRST_CALLS / 4, &mut generator, &mut subject, busy_max)?;
            let takes = self.takes(&mut generator, &steps)?;
            drop((generator, subject));
            let scores = self.scores(&takes)?;
            results[name] = json!({
                "knee": knee(&steps, busy_max), "scores": scores,
                "steps": steps.iter().map(Step::json).collect::<Vec<_>>(),
            });
        }
        Ok(results)
    }

    /// Steps up to the knee, then the floor at the same numbers of calls on the same core.
    pub fn compare(&self, name: &str, a: EndKind, b: EndKind, busy_max: f64, start: Start) -> Result<Value> {
        let transcodes = a.3 != b.3;
        if let Some(folder) = variable("DENSITY_AGAINST") {
            return self.against(name, &folder, a, b, start);
        }
        let bare = [&a, &b].map(|(_, frames, ticks, number)| (Shape::Bare, frames.clone(), *ticks, *number));
        let mut generator = self.generator(a.clone(), b.clone())?;
        let (mut subject, dialler) = start(&self.site, &generator, None)?;
        generator.set_dialler(dialler);
        let steps = self.climb(name, FIRST_CALLS, &mut generator, &mut subject, busy_max)?;
        let calm = self.calm(name, &steps, busy_max, &mut generator, &mut subject)?;
        let takes = self.takes(&mut generator, &steps)?;
        let compared = self.compared(&steps, busy_max);
        let gateway = Party::new(name.to_owned(), generator, subject, transcodes);
        let sides = Sides { bare, ends: [a, b], start, transcodes };
        let (turns, calm_floors) = self.floors(gateway, &sides, &compared, calm.first())?;
        for turns in &turns {
            progress(&format!("{name}: {} times the floor, by turns {:?}", turns.ratio(), turns.ratios()));
        }
        let at_knee = knee(&steps, busy_max)["calls"].as_u64().unwrap_or(u64::MAX);
        let nearest = turns.iter().min_by_key(|turns| turns.off(at_knee));
        // What was measured so far must not be lost with it.
        let own_functions = self.own_functions(name, &sides, nearest).unwrap_or_else(|error| {
            progress(&format!("{name}: the floor with the gateway's own functions failed: {error:#}"));
            Some(json!({"error": format!("{error:#}")}))
        });
        let shown = |which: usize| -> Vec<Value> {
            turns.iter().filter_map(Turns::typical).map(|pair| pair[which].json()).collect()
        };
        let mut knee = knee(&steps, busy_max);
        if let Some(first) = calm.first() {
            let of = |windows: &[Step]| residences(windows, Step::residence_p999);
            let with_stalls = |windows: &[Step]| residences(windows, Step::residence_p999_with_stalls);
            let ((own, own_median), (floor, floor_median)) = (of(&calm), of(&calm_floors));
            knee["at_70_percent"] = json!({"calls": first.calls, "residence_p999_us": own_median, "windows_us": own,
                "floor_residence_p999_us": floor_median, "floor_windows_us": floor,
                "windows_with_stalls_us": with_stalls(&calm).0, "floor_windows_with_stalls_us": with_stalls(&calm_floors).0,
                "windows": calm.iter().map(Step::json).collect::<Vec<_>>(),
                "floor_windows": calm_floors.iter().map(Step::json).collect::<Vec<_>>()});
        }
        let rounds = |which: usize| turns.iter().flat_map(|turns| &turns.windows).map(move |pair| &pair[which]);
        let still = json!({"beside_the_gateway": stood_still(steps.iter().chain(&calm).chain(rounds(0))),
            "beside_the_floor": stood_still(calm_floors.iter().chain(rounds(1)))});
        progress(&format!("{name}: knee {knee}; cores that stood still {still}"));
        let scores = self.scores(&takes)?;
        Ok(json!({
            "complexity": compared.iter().map(|step| step.complexity).collect::<Vec<_>>(), "knee": knee,
            "ratio_to_floor": turns.iter().map(Turns::json).collect::<Vec<_>>(),
            "floor_with_own_functions": own_functions, "scores": scores,
            "steps": steps.iter().map(Step::json).collect::<Vec<_>>(),
            "stood_still": still,
            "by_turns": shown(0),
            "floor": shown(1),
        }))
    }

    /// The steps whose floor is measured too: those that were asked for, or the two highest that matter, since each takes half a minute.
    fn compared<'s>(&self, steps: &'s [Step], busy_max: f64) -> Vec<&'s Step> {
        if self.counts.is_some() {
            return steps.iter().collect();
        }
        let mut matter = compared(steps, busy_max);
        matter.drain(..matter.len().saturating_sub(COMPARED_MAX));
        matter
    }

    /// This build and another one, by turns.
    fn against(&self, name: &str, folder: &str, a: EndKind, b: EndKind, start: Start) -> Result<Value> {
        let party = |name: String, programs: PathBuf| -> Result<Party> {
            let mut generator = self.generator(a.clone(), b.clone())?;
            let (subject, dialler) = start(&Site { programs, ..self.site.clone() }, &generator, None)?;
            generator.set_dialler(dialler);
            Ok(Party::new(name, generator, subject, a.3 != b.3))
        };
        let ours = party(format!("this build, {name}"), self.site.programs.clone())?;
        let mut parties = [ours, party(format!("{folder}, {name}"), PathBuf::from(folder))?];
        let counts = self.counts.as_ref().context("DENSITY_CALLS says at how many calls")?;
        let turns = counts.iter().map(|calls| self.by_turns(&mut parties, *calls, AGAINST_ROUNDS));
        let turns: Vec<Turns> = turns.collect::<Result<_>>()?;
        for turns in &turns {
            progress(&format!("{name}: {} times the other build; by turns {:?}", turns.ratio(), turns.ratios()));
        }
        Ok(json!(turns.iter().map(Turns::json).collect::<Vec<_>>()))
    }

    /// Gateway and floor by turns at the calls of each of `steps`, with the encoder's effort that the gateway reported there; after that some
    /// windows of the floor at the calls of `calm`. A gateway that transcodes is started anew with that effort: its governor would not settle in
    /// a turn.
    fn floors(
        &self,
        gateway: Party,
        sides: &Sides,
        steps: &[&Step],
        calm: Option<&Step>,
    ) -> Result<(Vec<Turns>, Vec<Step>)> {
        let (name, mut first) = (gateway.name.clone(), Some(gateway));
        let effort_of = |step: &Step| -> Option<i32> {
            sides.transcodes.then(|| step.complexity.map_or(COMPLEXITY_UNREPORTED, |c| c.round() as i32))
        };
        let mut running: Option<([Party; 2], Option<i32>)> = None;
        let mut all = Vec::new();
        for step in steps {
            let effort = effort_of(step);
            if running.as_ref().is_none_or(|(_, running)| *running != effort) {
                // The old ones must have left the core.
                drop(running.take());
                let kept = first.take().filter(|_| !sides.transcodes);
                let gateway = kept.map_or_else(|| self.gateway(&name, sides, effort), Ok)?;
                running = Some(([gateway, self.floor(&name, sides, effort)?], effort));
            }
            let Some((parties, _)) = &mut running else { continue };
            let mut turns = self.by_turns(parties, step.calls, ROUNDS)?;
            turns.windows.iter_mut().flatten().for_each(|step| step.complexity = effort.map(f64::from));
            all.push(turns);
        }
        let Some(calm) = calm else { return Ok((all, Vec::new())) };
        // The floor alone: nobody needs the gateway any more.
        drop(first);
        let effort = effort_of(calm);
        let mut floor = match running {
            Some(([_, floor], held)) if held == effort => floor,
            other => {
                drop(other);
                self.floor(&name, sides, effort)?
            }
        };
        floor.generator.resume();
        fill(&mut floor.generator, calm.calls)?;
        let title = format!("floor of {name}, seven tenths");
        let windows = self.calm_windows(&title, &mut floor.generator, &mut floor.subject)?;
        let effort = effort.map(f64::from);
        Ok((all, windows.into_iter().map(|floor| Step { complexity: effort, ..floor }).collect()))
    }

    fn gateway(&self, name: &str, sides: &Sides, effort: Option<i32>) -> Result<Party> {
        let [a, b] = sides.ends.clone();
        let mut generator = self.generator(a, b)?;
        let (subject, dialler) = (sides.start)(&self.site, &generator, effort)?;
        generator.set_dialler(dialler);
        let title = effort.map_or(String::new(), |effort| format!(" at complexity {effort}"));
        Ok(Party::new(format!("{name}{title}"), generator, subject, sides.transcodes))
    }

    fn floor(&self, name: &str, sides: &Sides, effort: Option<i32>) -> Result<Party> {
        self.floor_with(Functions::AsPublished, name, sides, effort)
    }

    fn floor_with(&self, functions: Functions, name: &str, sides: &Sides, effort: Option<i32>) -> Result<Party> {
        let [a, b] = sides.bare.clone();
        let mut generator = self.generator(a, b)?;
        let (subject, dialler) = Subject::floor(&self.site, CALLS_MAX, effort, functions)?;
        generator.set_dialler(dialler);
        let title = effort.map_or(String::new(), |effort| format!(" at complexity {effort}"));
        Ok(Party::new(format!("floor of {name}{title}"), generator, subject, false))
    }

    /// The floor with the gateway's own functions of libopus and the floor by turns, at the calls of `turns`: what of their ratio is those
    /// functions' work. `None` where nothing is coded.
    fn own_functions(&self, name: &str, sides: &Sides, turns: Option<&Turns>) -> Result<Option<Value>> {
        let Some((turns, [gateway, _])) = turns.filter(|_| sides.transcodes).and_then(|t| Some((t, t.typical()?)))
        else {
            return Ok(None);
        };
        let effort = gateway.complexity.map(|complexity| complexity.round() as i32);
        let own = self.floor_with(Functions::OfTheGateway, &format!("{name}, own functions"), sides, effort)?;
        let mut parties = [own, self.floor(name, sides, effort)?];
        let floors = self.by_turns(&mut parties, gateway.calls, ROUNDS)?;
        Ok(Some(floors.own_functions(turns)))
    }

    /// Goes back to the most calls that were carried without a fault and records a few seconds.
    fn takes(&self, generator: &mut Generator, steps: &[Step]) -> Result<Vec<Take>> {
        let Some(first) = steps.first() else { return Ok(Vec::new()) };
        let good = steps.iter().filter(|step| step.defects() == 0 && step.busy < TRANSCODE_BUSY_MAX);
        let calls = good.map(|step| step.calls).max().unwrap_or(first.calls);
        fill(generator, calls)?;
        generator.record((calls / SCORED_MIN).clamp(1, SCORED_EVERY));
        let begun = generator.places();
        let time = self.window.clamp(Duration::from_secs(3), Duration::from_secs(6));
        generator.open_window(time);
        generator.run_for(time)?;
        generator.close_window();
        takes(generator, &self.corpus, &begun)
    }

    /// Has them judged.
    fn scores(&self, takes: &[Take]) -> Result<Value> {
        let scores = judge(takes, &self.site.folder)?;
        progress(&format!("scores {scores}"));
        Ok(scores)
    }

    /// More calls than the gateway is configured for, and more than the core has time for: refused with 503, and nobody else hears it.
    pub fn overload(&self) -> Result<Value> {
        Ok(json!({"by_limit": self.overload_by_limit()?, "by_load": self.overload_by_load()?}))
    }

    /// Calls that never cease to come, at an effort that makes them dear: what comes after the core is full is refused.
    fn overload_by_load(&self) -> Result<Value> {
        const OFFERED_PER_SECOND: f64 = 20.0;
        const OFFERED_MAX: usize = 400;
        const REFUSED: usize = 40;
        let settings = with_effort(10);
        let mut generator = self.generator(self.caller(), self.telephone())?;
        let (mut subject, dialler) = Subject::tandem(&self.site, generator.sip_port, &settings)?;
        generator.set_dialler(dialler);
        let refused = |generator: &Generator| generator.calls.iter().filter(|call| call.status == 503).count();
        // First to where calls are refused, then on while those that run are watched.
        while refused(&generator) == 0 && generator.calls.len() < OFFERED_MAX {
            generator.ramp(OFFERED_PER_SECOND as usize, OFFERED_PER_SECOND, Duration::from_secs(1))?;
        }
        let first_refused = generator.calls.len();
        generator.run_for(SETTLE)?;
        // The same calls, first while nobody else calls: what is concealed then is no matter of those that are refused.
        let still = window(&mut generator, &mut subject, self.window, &self.site)?;
        progress(&describe("overload, nobody calls", &still));
        generator.open_window(self.window);
        let before = Usage::of(subject.pid())?;
        let concealed =
            |subject: &mut Subject| subject.figures().get("engine_packets_concealed_total").copied().unwrap_or(0.0);
        let concealed_before = concealed(&mut subject);
        let began = clock::now();
        for _ in 0..REFUSED {
            generator.place_call()?;
            generator.run_for(self.window / REFUSED as u32)?;
        }
        generator.close_window();
        let seconds = clock::now().since(began).as_secs_f64();
        let busy = Usage::of(subject.pid())?.since(before).nanos as f64 / 1e9 / seconds;
        let mut step = Step { seconds, busy, ..Step::default() };
        account(&generator, &LeftOut::default(), &mut step);
        let (lost, late) = (concealed(&mut subject) - concealed_before, generator.sent_late(step.received) as f64);
        let value = json!({
            "complexity": 10, "running_calls": step.calls, "broken": step.broken,"offered_until_the_first_was_refused": first_refused,
            "refused_with_503": refused(&generator), "offered": generator.calls.len(),
            "core_percent": round(busy * 100.0, 1), "running_calls_lost_packets": step.lost,
            "concealed": lost, "concealed_beyond_the_generators": (lost - late).max(0.0), "sent_late": late,
            "while_nobody_calls": {"concealed": still.concealed, "sent_late": still.sent_late, "core_percent": round(still.busy * 100.0, 1),
                "pacing_p99_ms": round(still.pacing_p99_ms(), 2)},
            "pacing_p99_ms": round(step.pacing_p99_ms(), 2),
        });
        progress(&format!("overload by load: {value}"));
        Ok(value)
    }

    /// Half as many calls again as the gateway is configured for.
    fn overload_by_limit(&self) -> Result<Value> {
        const SESSIONS: usize = 60;
        let mut generator = self.generator(self.caller(), self.telephone())?;
        let settings = Settings { sessions_max: SESSIONS, ..Settings::default() };
        let (mut subject, dialler) = Subject::tandem(&self.site, generator.sip_port, &settings)?;
        generator.set_dialler(dialler);
        generator.ramp(SESSIONS, RAMP_PER_SECOND, Duration::from_secs(5))?;
        generator.run_for(SETTLE)?;
        for _ in 0..SESSIONS / 2 {
            generator.place_call()?;
        }
        let step = window(&mut generator, &mut subject, self.window, &self.site)?;
        let refused = generator.calls.iter().filter(|call| call.status == 503).count();
        let value = json!({
            "accepted": SESSIONS, "offered_beyond": SESSIONS / 2, "refused_with_503": refused,
            "running_calls_lost_packets": step.lost, "running_calls": step.calls, "concealed": step.concealed,
        });
        progress(&format!("overload by limit: {value}"));
        Ok(value)
    }

    /// What a worker pays for another one on the next core.
    pub fn scaling(&self) -> Result<Value> {
        let (Some(&measured), Some(&other)) = (self.site.measured.first(), self.site.others.last()) else {
            bail!("two cores are needed");
        };
        let value = super::work::measure([measured, other])?;
        progress(&format!("scaling: {value}"));
        Ok(value)
    }
}

/// One line about a step.
pub fn describe(name: &str, step: &Step) -> String {
    format!(
        "{name}: {} calls, core {:.1} %, {:.1} us per call and 20 ms; lost {}, wrong {}, concealed {}, overrun {}, broken {}; pacing p99 \
         {:.2} ms, residence p50/p99/p99.9 {:.0}/{:.0}/{:.0} us, {:.0} ms left out, {:.0} wake-ups/s, {}generator {:.0} %{}",
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
        step.residence[0].p999,
        step.left_out_ms(),
        step.wakeups,
        step.complexity.map_or(String::new(), |complexity| format!("complexity {complexity}, ")),
        step.generator_busy * 100.0,
        match (step.generator_limited(), step.spoiled()) {
            (true, _) => " (generator-limited)".to_owned(),
            (false, Some(reason)) => format!(" ({reason})"),
            _ => String::new(),
        },
    )
}

/// Says what is happening.
pub fn progress(text: &str) {
    eprintln!("density: {text}");
}

/// A variable of the environment that says something.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.trim().is_empty())
}
