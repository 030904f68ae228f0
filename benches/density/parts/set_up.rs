//! Set-ups: how many a second, and how long each takes at half of that.
//!
//! ```text
//! dialled ── dialler ── request ── generator ── ICE and DTLS ── media ──> both have heard something
//! ```
//!
//! As many as it can, with a fixed number under way; then at a fixed pace, which is half of that, and half of what was aimed at: some short
//! windows each, of which the one of median p99 counts. A gateway and a generator of its own for each pace, so that ports that rest are not
//! missed.
//!
//! What the machine did is told apart by the rule of the other parts (`stalls`): set-ups during which both cores stood still, or the generator
//! was late, are left out, and the figures with nothing left out stand beside; a window that was spoiled is measured again. What the slowest
//! waited for says their steps, each of which has its own suspect: the diallers and the loop of the generator, control (and the
//! worker, which opens the bridge) for the request, the worker for ICE and DTLS.
//!
//! Why not one long window: one stall of 20 ms is more than a hundredth of the set-ups of a second.

use super::super::generator::{Call, Generator, STEPS};
use super::super::measure::{GENERATOR_MAX, LEFT_OUT_MAX, Spread, Step, round, watched};
use super::super::process::Usage;
use super::super::ring::real_nanos;
use super::super::stalls::{LeftOut, Span};
use super::super::subject::{Settings, Subject};
use super::{EndKind, Run, Start, progress};
use anyhow::{Result, bail};
use engine::io::clock;
use serde_json::{Value, json};
use std::time::Duration;

/// Set-ups under way while as many as possible are wanted, and how many there are in all.
const UNDER_WAY: usize = 64;
const SET_UPS: usize = 1_500;
/// Patience with them.
const TIME_MAX: Duration = Duration::from_secs(20);

/// Windows at a pace; an odd number, so that one of them has the median p99.
const WINDOWS: usize = 5;
const _: () = assert!(WINDOWS % 2 == 1);
/// Further ones in the place of those that the machine spoiled.
const AGAIN_MAX: usize = 2;
/// Length of a window, and the most set-ups in it: ports rest for a minute after a call, and 7,300 calls have taken all.
const WINDOW_SECONDS: f64 = 1.0;
const WINDOW_CALLS_MAX: usize = 900;
/// Set-ups before the first window: pages, caches and connections are cold.
const WARM_UP: usize = 150;
/// One in so many is among the slowest.
const SLOWEST: usize = 100;
/// A set-up that took longer waited for the timer of a retransmission: no queue here is as long.
const TIMER: Duration = Duration::from_millis(200);

/// The paces that belong to what was aimed at: half of so many a second and core.
const AIM_WITHOUT_SIP: f64 = 2_000.0;
const AIM_WITH_SIP: f64 = 1_000.0;

/// One set-up.
#[derive(Clone, Copy, Debug)]
struct SetUp {
    /// When.
    time: Span,
    /// Until the first end could speak.
    connected: Duration,
    /// Until both had heard something, less the time for which the second end had nothing to say.
    both: Duration,
    /// Of that, each of [`STEPS`].
    steps: [Duration; STEPS.len()],
}

impl SetUp {
    /// `zero`: the real-time clock at the zero of the other.
    fn of(call: &Call, zero: u64) -> Option<SetUp> {
        Some(SetUp {
            time: Span { from: zero + call.dialled.as_nanos(), to: zero + call.up_at()?.as_nanos() },
            connected: call.ends[0].ready_at?.since(call.dialled),
            both: call.set_up()?,
            steps: call.steps()?,
        })
    }
}

/// Set-ups at a pace for a moment.
#[derive(Default)]
struct Window {
    /// What the machine did.
    step: Step,
    left: LeftOut,
    set_ups: Vec<SetUp>,
    refused: usize,
    failed: usize,
    /// DTLS that waited for a later turn.
    delayed: f64,
}

impl Window {
    /// Those of which something is said.
    fn judged(&self) -> impl Iterator<Item = &SetUp> {
        let leaves_out = self.step.left_out <= LEFT_OUT_MAX;
        self.set_ups.iter().filter(move |set_up| !(leaves_out && self.left.meets(set_up.time)))
    }

    fn both(&self) -> Spread {
        spread(self.judged(), |set_up| set_up.both)
    }

    fn json(&self) -> Value {
        let worst = self.judged().map(|set_up| set_up.both).max().unwrap_or_default();
        json!({
            "set_ups": self.set_ups.len(), "left_out": self.set_ups.len() - self.judged().count(),
            "refused_with_503": self.refused, "failed": self.failed, "spoiled": self.step.spoiled(),
            "connected": spread(self.judged(), |set_up| set_up.connected).json(), "media_both_ways": self.both().json(),
            "worst_us": worst.as_micros() as u64,
            "media_both_ways_with_stalls": spread(self.set_ups.iter(), |set_up| set_up.both).json(),
            "core_percent": round(self.step.busy * 100.0, 1), "generator_percent": round(self.step.generator_busy * 100.0, 1),
            "generator_late": self.step.generator_late.json(), "handshakes_delayed": self.delayed,
            "machine": self.step.brief(),
        })
    }
}

fn spread<'s>(set_ups: impl Iterator<Item = &'s SetUp>, of: impl Fn(&SetUp) -> Duration) -> Spread {
    Spread::of(set_ups.map(|set_up| of(set_up).as_nanos() as u64).collect())
}

/// The windows of a pace.
struct Paced {
    per_second: f64,
    windows: Vec<Window>,
    /// Those that do not count.
    again: Vec<Value>,
}

impl Paced {
    /// The one whose p99 is the median.
    fn typical(&self) -> Option<&Window> {
        let mut windows: Vec<&Window> = self.windows.iter().collect();
        windows.sort_by(|one, other| one.both().p99.total_cmp(&other.both().p99));
        windows.get(windows.len() / 2).copied()
    }

    fn json(&self) -> Value {
        let Some(typical) = self.typical() else { return Value::Null };
        let all: Vec<&SetUp> = self.windows.iter().flat_map(Window::judged).collect();
        let each = |of: &dyn Fn(&Window) -> Value| self.windows.iter().map(of).collect::<Vec<_>>();
        let stalls = |window: &Window| spread(window.set_ups.iter(), |set_up| set_up.both).p99;
        let busy = |of: &dyn Fn(&Step) -> f64| {
            let sum: f64 = self.windows.iter().map(|window| of(&window.step)).sum();
            round(sum / self.windows.len() as f64 * 100.0, 1)
        };
        json!({
            "per_second": round(self.per_second, 0),
            "connected": spread(typical.judged(), |set_up| set_up.connected).json(), "media_both_ways": typical.both().json(),
            "windows_p99_us": each(&|window| json!(round(window.both().p99, 0))),
            "windows_with_stalls_p99_us": each(&|window| json!(round(stalls(window), 0))),
            "spoiled": each(&|window| json!(window.step.spoiled())),
            "steps": STEPS, "slowest_us": slowest(&all), "median_us": medians(&all),
            "beyond_a_timer": all.iter().filter(|set_up| set_up.both > TIMER).count(),
            "refused_with_503": self.windows.iter().map(|window| window.refused).sum::<usize>(),
            "failed": self.windows.iter().map(|window| window.failed).sum::<usize>(),
            "core_percent": busy(&|step| step.busy), "generator_percent": busy(&|step| step.generator_busy),
            "windows": each(&Window::json), "again": self.again,
        })
    }
}

/// What the slowest waited for, mean microseconds of each step.
fn slowest(set_ups: &[&SetUp]) -> [f64; STEPS.len()] {
    let mut sorted = set_ups.to_vec();
    sorted.sort_by_key(|set_up| std::cmp::Reverse(set_up.both));
    sorted.truncate(set_ups.len().div_ceil(SLOWEST));
    std::array::from_fn(|step| {
        let sum: Duration = sorted.iter().map(|set_up| set_up.steps[step]).sum();
        round(sum.as_secs_f64() * 1e6 / sorted.len().max(1) as f64, 0)
    })
}

/// The median of each step, microseconds.
fn medians(set_ups: &[&SetUp]) -> [f64; STEPS.len()] {
    std::array::from_fn(|step| round(spread(set_ups.iter().copied(), |set_up| set_up.steps[step]).p50, 0))
}

impl Run {
    /// Set-ups a second: without SIP on the engine alone, with it on the real gateway.
    pub fn set_up(&self) -> Result<Value> {
        let driver: Start = &|site, _, _| Subject::driver(site, 1);
        let tandem: Start = &|site, generator, _| Subject::tandem(site, generator.sip_port, &Settings::default());
        Ok(json!({
            "without_sip": self.set_up_of("set-up without SIP", self.relayed(), driver, AIM_WITHOUT_SIP)?,
            "with_sip": self.set_up_of("set-up with SIP", self.telephone(), tandem, AIM_WITH_SIP)?,
        }))
    }

    /// As many as it can, then how long each takes at half of that and at half of `aim`.
    fn set_up_of(&self, name: &str, b: EndKind, start: Start, aim: f64) -> Result<Value> {
        let (mut record, half) = self.most(name, b.clone(), start)?;
        for (key, per_second) in [("at_half", half), ("at_half_of_the_target", aim / 2.0)] {
            let paced = self.paced(b.clone(), start, per_second)?.json();
            let p99 = |name: &str| paced[name]["p99_us"].as_f64().unwrap_or(0.0) / 1e3;
            progress(&format!(
                "{name}: at {per_second:.0} a second connected p99 {:.1} ms, media both ways p99 {:.1} ms; us of each window {}, with stalls {}, \
                 spoiled {}; {} of the slowest {}, median {}",
                p99("connected"),
                p99("media_both_ways"),
                paced["windows_p99_us"],
                paced["windows_with_stalls_p99_us"],
                paced["spoiled"],
                paced["steps"],
                paced["slowest_us"],
                paced["median_us"],
            ));
            record[key] = paced;
        }
        record["half_rate"] = record["at_half"]["per_second"].clone();
        for figure in ["connected", "media_both_ways"] {
            record[figure] = record["at_half"][figure].clone();
        }
        Ok(record)
    }

    fn pair(&self, b: EndKind, start: Start) -> Result<(Generator, Subject)> {
        let mut generator = self.generator(self.caller(), b)?;
        let (subject, dialler) = start(&self.site, &generator, None)?;
        generator.set_dialler(dialler);
        Ok((generator, subject))
    }

    /// As many as it can with a fixed number under way. Answers half of what one core could do, too.
    fn most(&self, name: &str, b: EndKind, start: Start) -> Result<(Value, f64)> {
        let (mut generator, subject) = self.pair(b, start)?;
        let (before, own_before, began) = (Usage::of(subject.pid())?, Usage::of(std::process::id())?, clock::now());
        let mut up = 0;
        while up < SET_UPS && clock::now().since(began) < TIME_MAX {
            while generator.under_way() < UNDER_WAY && generator.calls.len() < SET_UPS {
                generator.place_call()?;
            }
            generator.turn()?;
            up = generator.hang_up_those_up()?;
            // Those that are missing were refused, or died.
            if generator.calls.len() == SET_UPS && generator.under_way() == 0 {
                break;
            }
        }
        let refused = generator.calls.iter().filter(|call| call.status == 503).count();
        let seconds = clock::now().since(began).as_secs_f64();
        let share =
            |now: Usage, before: Usage, cores: usize| now.since(before).nanos as f64 / 1e9 / seconds / cores as f64;
        let busy = share(Usage::of(subject.pid())?, before, self.site.measured.len());
        let own = share(Usage::of(std::process::id())?, own_before, self.site.others.len());
        let rate = up as f64 / seconds;
        let capacity = rate / busy.max(0.01);
        progress(&format!(
            "{name}: {rate:.0} a second with the core {:.0} % busy ({:.0} us each, {capacity:.0} a second and core), generator {:.0} %",
            busy * 100.0,
            busy / rate * 1e6,
            own * 100.0,
        ));
        let half = capacity / 2.0;
        let half = if own > GENERATOR_MAX { half.min(rate / 2.0) } else { half };
        let record = json!({
            "per_second": round(rate, 0), "core_percent": round(busy * 100.0, 1), "generator_percent": round(own * 100.0, 1),
            "generator_limited": own > GENERATOR_MAX, "us_each": round(busy / rate * 1e6, 0),
            "extrapolated_per_second_and_core": round(capacity, 0), "failed": SET_UPS - up - refused, "refused_with_503": refused,
        });
        Ok((record, half))
    }

    /// Windows at a pace.
    fn paced(&self, b: EndKind, start: Start, per_second: f64) -> Result<Paced> {
        if per_second < 1.0 {
            bail!("no pace to measure at: nothing came up");
        }
        let (mut generator, mut subject) = self.pair(b, start)?;
        begin(&mut generator, WARM_UP, per_second)?;
        let count = ((per_second * WINDOW_SECONDS) as usize).clamp(1, WINDOW_CALLS_MAX);
        let mut paced = Paced { per_second, windows: Vec::new(), again: Vec::new() };
        while paced.windows.len() < WINDOWS {
            let window = self.set_up_window(&mut generator, &mut subject, count, per_second)?;
            match window.step.spoiled() {
                Some(_) if paced.again.len() < AGAIN_MAX => paced.again.push(window.json()),
                _ => paced.windows.push(window),
            }
        }
        Ok(paced)
    }

    fn set_up_window(
        &self,
        generator: &mut Generator,
        subject: &mut Subject,
        count: usize,
        per_second: f64,
    ) -> Result<Window> {
        let delayed =
            |subject: &mut Subject| subject.figures().get("engine_handshakes_delayed_total").copied().unwrap_or(0.0);
        let (first, before, zero) = (generator.calls.len(), delayed(subject), real_nanos() - clock::now().as_nanos());
        let (mut step, left) = watched(generator, subject, None, &self.site, |generator| {
            generator.watch(Duration::from_secs_f64(count as f64 / per_second));
            begin(generator, count, per_second)?;
            generator.close_window();
            Ok(())
        })?;
        step.generator_late = Spread::of(std::mem::take(&mut generator.lateness));
        let calls = &generator.calls[first..];
        let set_ups: Vec<SetUp> = calls.iter().filter_map(|call| SetUp::of(call, zero)).collect();
        let refused = calls.iter().filter(|call| call.status == 503).count();
        let failed = calls.len() - set_ups.len() - refused;
        Ok(Window { step, left, set_ups, refused, failed, delayed: delayed(subject) - before })
    }
}

/// Begins `count` calls, `per_second` of them a second, ends each once it is up, and waits until none is under way.
fn begin(generator: &mut Generator, count: usize, per_second: f64) -> Result<()> {
    generator.resume();
    let (began, last) = (clock::now(), generator.calls.len() + count);
    let first = generator.calls.len();
    while generator.calls.len() < last || generator.under_way() > 0 {
        let due = first + (clock::now().since(began).as_secs_f64() * per_second) as usize + 1;
        while generator.calls.len() < due.min(last) {
            generator.place_call()?;
        }
        generator.turn()?;
        generator.hang_up_those_up()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Begun at `from` ms, up `both` ms later, most of which the request took.
    fn set_up(from: u64, both: u64) -> SetUp {
        let steps = [0, both - 1, 0, 1, 0].map(Duration::from_millis);
        let both = Duration::from_millis(both);
        let time = Span { from: from * MS, to: from * MS + both.as_nanos() as u64 };
        SetUp { time, connected: both, both, steps }
    }

    #[test]
    fn a_set_up_during_which_the_machine_stood_still_is_left_out_and_one_that_was_slow_by_itself_is_not() {
        let mut window = Window { left: LeftOut::of(vec![Span { from: 500 * MS, to: 510 * MS }]), ..Window::default() };
        window.set_ups = (0..100).map(|index| set_up(10 * index, 7)).collect();
        window.set_ups[50] = set_up(500, 40);
        window.set_ups[90] = set_up(900, 25);
        assert_eq!(window.both().p99, 25_000.0);
        let record = window.json();
        assert_eq!(
            (&record["left_out"], &record["worst_us"]),
            (&json!(11), &json!(25_000)),
            "and the 100 ms that follow"
        );
        assert_eq!(record["media_both_ways_with_stalls"]["p999_us"], 40_000.0);
        window.step.left_out = 0.9;
        assert_eq!(
            (window.both().p999, window.step.spoiled().is_some()),
            (40_000.0, true),
            "what is left would say nothing"
        );
    }

    #[test]
    fn the_median_window_counts_and_the_slowest_say_what_they_waited_for() {
        let window = |slow: u64| Window { set_ups: vec![set_up(0, 7), set_up(1, slow)], ..Window::default() };
        let paced = Paced { per_second: 500.0, windows: [9, 80, 11].map(window).into(), again: Vec::new() };
        let record = paced.json();
        assert_eq!(record["media_both_ways"]["p99_us"], 11_000.0);
        assert_eq!(record["windows_p99_us"], json!([9_000.0, 80_000.0, 11_000.0]));
        assert_eq!(record["slowest_us"], json!([0.0, 79_000.0, 0.0, 1_000.0, 0.0]), "one of six");
        assert_eq!(record["beyond_a_timer"], 0);
    }
}
