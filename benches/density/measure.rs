//! One window of measuring: what came through, how late, and what it cost.

use super::cores::CoreTime;
use super::end::Hear;
use super::generator::{Generator, SLOT_NANOS};
use super::process::{Usage, datagrams_lost};
use super::ring::real_nanos;
use super::stalls::{LeftOut, STALL_NANOS, Sampler, Span, Stalls, late_spans};
use super::subject::{Site, Subject};
use anyhow::{Result, bail};
use engine::io::clock;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// A generator that uses more of its cores than this cannot be trusted to find a gateway's limit.
pub const GENERATOR_MAX: f64 = 0.80;
/// Other programs on the measured core may use so much of it before a result is marked.
const OTHERS_MAX: f64 = 0.05;
/// The hypervisor may take away so much of it before it is.
const STOLEN_MAX: f64 = 0.01;
/// Of a window so much may be left out for stalls before it says nothing.
pub const LEFT_OUT_MAX: f64 = 0.25;
/// Packets of each direction.
const PACKETS_PER_SECOND: f64 = 50.0;

/// A distribution, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread {
    /// Median.
    pub p50: f64,
    /// 99 of 100 are below.
    pub p99: f64,
    /// 999 of 1000 are below.
    pub p999: f64,
}

impl Spread {
    /// Of values in nanoseconds.
    pub fn of(mut nanos: Vec<u64>) -> Spread {
        nanos.sort_unstable();
        let at = |share: f64| match nanos.len() {
            0 => 0.0,
            len => nanos[((len as f64 * share) as usize).min(len - 1)] as f64 / 1_000.0,
        };
        Spread { p50: at(0.5), p99: at(0.99), p999: at(0.999) }
    }

    /// For the record.
    pub fn json(self) -> Value {
        json!({"p50_us": round(self.p50, 1), "p99_us": round(self.p99, 1), "p999_us": round(self.p999, 1)})
    }
}

/// What one window showed.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Calls that were up.
    pub calls: usize,
    /// Calls that never came up, or died.
    pub broken: usize,
    /// Length.
    pub seconds: f64,
    /// Of one core, user and system.
    pub busy: f64,
    /// The same, by other programs: what makes a result doubtful. The watcher of `stalls` is among them, with a thousandth; whoever waits
    /// for its turn is not.
    pub others_busy: f64,
    /// By whoever waits for its turn.
    pub idle_busy: f64,
    /// Of the measured core, what the hypervisor gave to somebody else.
    pub stolen: f64,
    /// How long the measured core stood still, and the generator's; `None` where that cannot be watched.
    pub stalls: [Option<Stalls>; 2],
    /// Of the window, the share for which cores stood still, with what came after: left out of `pacing` and `residence`, unless it is too much.
    pub left_out: f64,
    /// Part of that in the kernel.
    pub kernel_share: f64,
    /// Of the generator's cores.
    pub generator_busy: f64,
    /// Packets received by both ends.
    pub received: u64,
    /// Packets missing: gaps in sequence numbers, both directions.
    pub lost: u64,
    /// Behind their successors, off the sample clock, or of a stranger.
    pub wrong: u64,
    /// Packets that the gateway made up because none came in time.
    pub concealed: u64,
    /// Packets that the generator itself sent late by more than 5 ms: a gateway that waits no longer than its path
    /// has shown must make up for them.
    pub sent_late: u64,
    /// Datagrams that found a full socket, on either side, or that the kernel refused to send; not those of whoever waits for its turn.
    pub overrun: u64,
    /// How unevenly packets left the gateway, toward A and B: how far from 20 ms behind the one before where it plays out by its own
    /// clock, distance of the residence to its median where a packet leaves because another came (the sender's unevenness is not the
    /// gateway's).
    pub pacing: [Spread; 2],
    /// From the other end's packet to the one that it caused. Where packets are played out it is the jitter buffer's delay.
    pub residence: [Spread; 2],
    /// Both with nothing left out.
    pub with_stalls: [[Spread; 2]; 2],
    /// Whether packets toward A and B leave by the clock of a jitter buffer, not because one came.
    pub played_out: [bool; 2],
    /// How late the generator was.
    pub generator_late: Spread,
    /// Wake-ups a second, of all threads.
    pub wakeups: f64,
    /// Turns of the workers' loops a second.
    pub turns: f64,
    /// The encoder's effort as the gateway reports it, mean of the window's two ends; load may change it.
    pub complexity: Option<f64>,
    /// Windows of the same calls that do not count, and why.
    pub again: Vec<Value>,
}

impl Step {
    /// Microseconds of processor for one call and 20 ms of both directions.
    pub fn micros_per_frame(&self) -> f64 {
        self.busy * 1e6 / PACKETS_PER_SECOND / self.calls.max(1) as f64
    }

    /// Milliseconds of processor for one second of a call.
    pub fn millis_per_call_second(&self) -> f64 {
        self.busy * 1e3 / self.calls.max(1) as f64
    }

    /// The generator had too much to do.
    pub fn generator_limited(&self) -> bool {
        self.generator_busy > GENERATOR_MAX
    }

    /// The worse 99.9th percentile of the residence of packets that leave because one came, microseconds: what is kept for its turn in
    /// the jitter buffer is not late. `None` where there was no such packet.
    pub fn residence_p999(&self) -> Option<f64> {
        self.worst_p999(&self.residence)
    }

    /// The same with nothing left out.
    pub fn residence_p999_with_stalls(&self) -> Option<f64> {
        self.worst_p999(&self.with_stalls[1])
    }

    fn worst_p999(&self, residence: &[Spread; 2]) -> Option<f64> {
        let sides = residence.iter().zip(self.played_out);
        let caused = sides.filter(|(side, is_played_out)| !is_played_out && side.p999 > 0.0);
        caused.map(|(side, _)| side.p999).reduce(f64::max)
    }

    /// What the machine did to the window, if it did: other programs on the core, the hypervisor, or a core that stood still, the measured one
    /// or the generator's, for more than can be left out or so that something was lost.
    pub fn spoiled(&self) -> Option<&'static str> {
        let stalled = self.stalls[0].as_ref().is_some_and(|stalls| stalls.worst_nanos > STALL_NANOS);
        let has_faults = self.defects() > 0;
        match self {
            _ if self.others_busy > OTHERS_MAX => Some("others used the core"),
            _ if self.stolen > STOLEN_MAX => Some("the core was taken away"),
            _ if self.left_out > LEFT_OUT_MAX => Some("the cores stood still too often"),
            _ if stalled && has_faults => Some("the core stood still"),
            _ if self.sent_late > 0 && has_faults => Some("the generator stood still"),
            _ => None,
        }
    }

    /// Packets that did not come through as they should, and calls.
    pub fn defects(&self) -> u64 {
        let concealed = self.concealed.saturating_sub(self.sent_late);
        self.lost + self.wrong + concealed + self.overrun + 100 * self.broken as u64
    }

    /// More than a hiccup: it makes no sense to go on from here.
    pub fn is_bad(&self) -> bool {
        self.calls == 0 || self.defects() * 100 > self.received
    }

    /// Nothing was lost, made up or wrong.
    pub fn is_clean(&self) -> bool {
        let expected = 2.0 * self.calls as f64 * self.seconds * PACKETS_PER_SECOND;
        self.defects() == 0 && (self.received as f64 - expected).abs() <= 4.0 * self.calls as f64 + 1.0
    }

    /// The worse direction's 99th percentile, ms.
    pub fn pacing_p99_ms(&self) -> f64 {
        worst_p99_ms(&self.pacing)
    }

    /// Of `pacing` and `residence` so many milliseconds are left out.
    pub fn left_out_ms(&self) -> f64 {
        if self.left_out > LEFT_OUT_MAX { 0.0 } else { self.stood_still_ms() }
    }

    fn stood_still_ms(&self) -> f64 {
        round(self.left_out * self.seconds * 1e3, 0)
    }

    /// What was left out, and what the figures are with it.
    fn left_out_json(&self) -> Value {
        let [pacing, residence] = &self.with_stalls;
        json!({
            "ms": self.left_out_ms(), "pacing_p99_ms_with_it": round(worst_p99_ms(pacing), 2),
            "residence_p999_us_with_it": self.residence_p999_with_stalls().map(|p999| round(p999, 0)),
            "toward_a_with_it": {"pacing": pacing[0].json(), "residence": residence[0].json()},
            "toward_b_with_it": {"pacing": pacing[1].json(), "residence": residence[1].json()},
        })
    }

    /// What the watchers saw.
    fn stalls_json(&self) -> Value {
        let one = |stalls: &Stalls| {
            let late = Spread::of(stalls.late.clone());
            json!({"count": stalls.count, "worst_us": stalls.worst_nanos / 1_000, "looks_late": late.json()})
        };
        let [own, other] = &self.stalls;
        json!({
            "measured_core": own.as_ref().map(one), "generators_core": other.as_ref().map(one),
            "stood_still_and_after_ms": self.stood_still_ms(),
            "at_once": own.as_ref().zip(other.as_ref()).map(|(own, other)| own.at_once(other)),
        })
    }

    /// For the record, of a window that does not count.
    pub fn brief(&self) -> Value {
        json!({
            "spoiled": self.spoiled(), "core_percent": round(self.busy * 100.0, 1), "defects": self.defects(),
            "others_percent": round(self.others_busy * 100.0, 1), "stolen_percent": round(self.stolen * 100.0, 1),
            "stall_worst_us": self.stalls[0].as_ref().map(|stalls| stalls.worst_nanos / 1_000),
            "stood_still_and_after_ms": self.stood_still_ms(), "left_out_ms": self.left_out_ms(),
            "pacing_p99_ms": round(self.pacing_p99_ms(), 2), "residence_p999_us": round(self.residence[0].p999, 0),
        })
    }

    /// For the record.
    pub fn json(&self) -> Value {
        json!({
            "calls": self.calls, "broken": self.broken, "seconds": round(self.seconds, 2),
            "others_percent": round(self.others_busy * 100.0, 1), "stolen_percent": round(self.stolen * 100.0, 1),
            "idle_party_percent": round(self.idle_busy * 100.0, 1),
            "stalls": self.stalls_json(), "left_out": self.left_out_json(),
            "spoiled": self.spoiled(), "again": self.again,
            "core_percent": round(self.busy * 100.0, 1), "kernel_share": round(self.kernel_share, 2),
            "us_per_call_and_20ms": round(self.micros_per_frame(), 2),
            "ms_per_call_second": round(self.millis_per_call_second(), 3),
            "generator_percent": round(self.generator_busy * 100.0, 1),
            "generator_limited": self.generator_limited(),
            "packets": self.received, "lost": self.lost, "wrong": self.wrong, "concealed": self.concealed,
            "sent_late": self.sent_late, "overrun": self.overrun,
            "pacing_toward_a": self.pacing[0].json(), "pacing_toward_b": self.pacing[1].json(),
            "residence_toward_a": self.residence[0].json(), "residence_toward_b": self.residence[1].json(),
            "generator_late": self.generator_late.json(),
            "complexity": self.complexity, "wakeups_per_second": round(self.wakeups, 0), "turns_per_second": round(self.turns, 0),
        })
    }
}

/// Who else stands on the measured core, and has nothing to do.
pub struct Idle<'i> {
    /// Its process.
    pub subject: &'i Subject,
    /// Its far ends, which nobody reads: their sockets may fill.
    pub generator: &'i Generator,
}

/// Measures for `time`.
pub fn window(generator: &mut Generator, subject: &mut Subject, time: Duration, site: &Site) -> Result<Step> {
    window_beside(generator, subject, None, time, site)
}

/// The same, where `idle` waits for its turn: what it uses and loses is nobody's.
pub fn window_beside(
    generator: &mut Generator,
    subject: &mut Subject,
    idle: Option<&Idle>,
    time: Duration,
    site: &Site,
) -> Result<Step> {
    let load = |generator: &mut Generator| {
        generator.open_window(time);
        generator.run_for(time)?;
        generator.close_window();
        Ok(())
    };
    let (mut step, left) = watched(generator, subject, idle, site, load)?;
    account(generator, &left, &mut step);
    step.sent_late = generator.sent_late(step.received);
    step.generator_late = Spread::of(std::mem::take(&mut generator.lateness));
    Ok(step)
}

/// Watches the machine, the gateway and the generator during `load`. Answers what they did, and of what nothing is said.
pub fn watched(
    generator: &mut Generator,
    subject: &mut Subject,
    idle: Option<&Idle>,
    site: &Site,
    load: impl FnOnce(&mut Generator) -> Result<()>,
) -> Result<(Step, LeftOut)> {
    let samplers = [&site.measured, &site.others].map(|cores| cores.first().map(|core| Sampler::start(*core)));
    let before = Snapshot::take(subject, idle, site)?;
    let (start, from) = (clock::now(), real_nanos());
    load(generator)?;
    let whole = Span { from, to: real_nanos() };
    let seconds = clock::now().since(start).as_secs_f64();
    let after = Snapshot::take(subject, idle, site)?;
    let stalls = samplers.map(|sampler| sampler.and_then(Sampler::finish));
    let mut still = late_spans(from, SLOT_NANOS, &generator.lateness);
    if let [Some(own), Some(other)] = &stalls {
        still.extend(own.with(other));
    }
    let left = LeftOut::of(still);

    let used = after.subject.since(before.subject);
    let own = after.own.since(before.own);
    let core = after.core.since(before.core);
    let idle = after.idle.since(before.idle);
    let step = Step {
        seconds,
        busy: used.nanos as f64 / 1e9 / seconds,
        others_busy: (core.tasks as f64 - used.nanos as f64 - idle.nanos as f64).max(0.0) / 1e9 / seconds,
        idle_busy: idle.nanos as f64 / 1e9 / seconds,
        stolen: core.stolen as f64 / 1e9 / seconds,
        stalls,
        left_out: left.nanos(whole) as f64 / (whole.to - whole.from).max(1) as f64,
        kernel_share: used.system_nanos as f64 / (used.user_nanos + used.system_nanos).max(1) as f64,
        generator_busy: own.nanos as f64 / 1e9 / seconds / site.others.len() as f64,
        overrun: overrun(&before, &after) + generator.send_errors(),
        concealed: (after.concealed - before.concealed).max(0.0) as u64,
        wakeups: used.sleeps as f64 / seconds,
        turns: (after.turns - before.turns) / seconds,
        complexity: before.complexity.zip(after.complexity).map(|(before, after)| (before + after) / 2.0),
        ..Step::default()
    };
    Ok((step, left))
}

/// Adds up what the calls of a window heard, without the times of which nothing is said.
pub fn account(generator: &Generator, left: &LeftOut, step: &mut Step) {
    for call in generator.calls.iter().filter(|call| !call.hung_up) {
        // Refused calls are counted by who offers them.
        if call.status >= 300 {
            continue;
        }
        match call.ends.iter().all(|end| end.ready && !end.dead && end.hear.heard.received > 0) {
            true => step.calls += 1,
            false => step.broken += 1,
        }
        for end in &call.ends {
            let heard = end.hear.heard;
            step.received += heard.received;
            step.lost += heard.lost;
            step.wrong += heard.late + heard.off_clock + heard.foreign;
        }
    }
    for side in 0..2 {
        let is_played_out = generator.is_played_out(side);
        let of = |left: &LeftOut| {
            let (mut pacing, mut residence) = (Vec::new(), Vec::new());
            for call in &generator.calls {
                streams(&call.ends[side].hear, is_played_out, left, &mut pacing, &mut residence);
            }
            (Spread::of(pacing), Spread::of(residence))
        };
        let all = of(&LeftOut::default());
        (step.with_stalls[0][side], step.with_stalls[1][side]) = all;
        (step.pacing[side], step.residence[side]) = match step.left_out {
            share if share == 0.0 || share > LEFT_OUT_MAX => all,
            _ => of(left),
        };
        step.played_out[side] = is_played_out;
    }
}

/// Adds how unevenly the packets of one stream came, and how long they were under way.
fn streams(hear: &Hear, is_played_out: bool, left: &LeftOut, pacing: &mut Vec<u64>, residence: &mut Vec<u64>) {
    let timed = hear.residences.iter().zip(&hear.resided).filter(|(_, at)| !left.holds(**at));
    let residences: Vec<i64> = timed.map(|(nanos, _)| i64::from(*nanos)).collect();
    residence.extend(residences.iter().map(|nanos| nanos.unsigned_abs()));
    if !is_played_out {
        pacing.extend(off_median(&residences));
        return;
    }
    let pairs = hear.offsets.windows(2).zip(hear.arrived.windows(2));
    let pairs = pairs.filter(|(_, at)| !left.holds(at[0]) && !left.holds(at[1]));
    pacing.extend(pairs.map(|(pair, _)| pair[1].abs_diff(pair[0])));
}

/// The worse direction's 99th percentile, ms.
fn worst_p99_ms(pacing: &[Spread; 2]) -> f64 {
    pacing.iter().map(|spread| spread.p99).fold(0.0, f64::max) / 1_000.0
}

/// How far each packet of a stream came from where the stream's median puts it.
fn off_median(offsets: &[i64]) -> impl Iterator<Item = u64> {
    let mut sorted = offsets.to_vec();
    sorted.sort_unstable();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    sorted.into_iter().map(move |offset| offset.abs_diff(median))
}

/// How often cores stood still during `steps`: the measured one, the generator's, and both at once.
pub fn stood_still<'s>(steps: impl Iterator<Item = &'s Step>) -> Value {
    let (mut seconds, mut counts) = (0.0, [0, 0, 0]);
    for step in steps {
        let [Some(own), Some(other)] = &step.stalls else { continue };
        seconds += step.seconds;
        for (count, more) in counts.iter_mut().zip([own.count, other.count, own.at_once(other) as u64]) {
            *count += more;
        }
    }
    let [own, other, both] = counts;
    json!({"seconds": round(seconds, 1), "measured_core": own, "generators_core": other, "at_once": both})
}

#[derive(Default)]
struct Snapshot {
    subject: Usage,
    idle: Usage,
    core: CoreTime,
    own: Usage,
    /// Datagrams that found a full socket, of all programs.
    overrun: u64,
    /// Of these at the far ends of whoever waits for its turn.
    idle_overrun: u64,
    concealed: f64,
    turns: f64,
    complexity: Option<f64>,
}

impl Snapshot {
    fn take(subject: &mut Subject, idle: Option<&Idle>, site: &Site) -> Result<Snapshot> {
        if let Some(status) = subject.process.0.try_wait()? {
            bail!("what is measured has ended by itself: {status}");
        }
        let idle_overrun = idle.map_or(0, |idle| idle.generator.overrun());
        let figures = subject.figures();
        let figure = |name: &str| figures.get(name).copied().unwrap_or(0.0);
        Ok(Snapshot {
            concealed: figure("engine_packets_concealed_total"),
            turns: figure("engine_turns_total"),
            complexity: complexity(&figures),
            // Beside each other: what either gains between the two looks would be another program's.
            subject: Usage::of(subject.pid())?,
            idle: idle.map(|idle| Usage::of(idle.subject.pid())).transpose()?.unwrap_or_default(),
            core: CoreTime::of(&site.measured),
            own: Usage::of(std::process::id())?,
            overrun: datagrams_lost(),
            idle_overrun,
        })
    }
}

/// Datagrams that found a full socket of the party that is measured.
fn overrun(before: &Snapshot, after: &Snapshot) -> u64 {
    let all = after.overrun.saturating_sub(before.overrun);
    let idle = after.idle_overrun.saturating_sub(before.idle_overrun);
    all.saturating_sub(idle)
}

/// The mean of what the workers report.
fn complexity(figures: &BTreeMap<String, f64>) -> Option<f64> {
    let reported = figures.iter().filter(|(name, _)| name.starts_with("engine_encoder_complexity"));
    let reported: Vec<f64> = reported.map(|(_, value)| *value).collect();
    (!reported.is_empty()).then(|| reported.iter().sum::<f64>() / reported.len() as f64)
}

/// To so many decimals.
pub fn round(value: f64, decimals: i32) -> f64 {
    let scale = 10f64.powi(decimals);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A stream whose packet 50 and the four after it are late by 30 ms less 6 each: the core stood still.
    fn hear() -> Hear {
        let mut hear = Hear::default();
        for packet in 0..100u64 {
            let late = if (50..55).contains(&packet) { 30 - 6 * (packet - 50) } else { 0 };
            let at = (1_000 + 20 * packet + late) * MS;
            hear.offsets.push((late * MS) as i64);
            hear.arrived.push(at);
            hear.residences.push((1 + late) as u32 * MS as u32);
            hear.resided.push(at);
        }
        hear
    }

    fn worst(is_played_out: bool, left: &LeftOut) -> [Option<u64>; 2] {
        let (mut pacing, mut residence) = (Vec::new(), Vec::new());
        streams(&hear(), is_played_out, left, &mut pacing, &mut residence);
        [pacing.into_iter().max(), residence.into_iter().max()]
    }

    #[test]
    fn what_a_stall_did_to_packets_is_left_out_and_what_the_gateway_did_is_not() {
        let none = LeftOut::default();
        let stall = LeftOut::of(vec![Span { from: 1_990 * MS, to: 2_030 * MS }]);
        assert_eq!([worst(true, &none), worst(false, &none)], [[Some(30 * MS), Some(31 * MS)]; 2]);
        assert_eq!([worst(true, &stall), worst(false, &stall)], [[Some(0), Some(MS)]; 2]);
        let elsewhere = LeftOut::of(vec![Span { from: 2_200 * MS, to: 2_204 * MS }]);
        assert_eq!(worst(true, &elsewhere), worst(true, &none));
    }

    #[test]
    fn a_window_of_which_too_much_would_be_left_out_or_that_lost_something_meanwhile_is_spoiled() {
        let stalls = Stalls { count: 1, worst_nanos: 4 * MS, ..Stalls::default() };
        let step = Step { received: 10_000, stalls: [Some(stalls), None], left_out: 0.02, ..Step::default() };
        assert_eq!(step.spoiled(), None, "its figures are without the stall");
        assert_eq!(Step { left_out: 0.3, ..step.clone() }.spoiled(), Some("the cores stood still too often"));
        assert_eq!(Step { lost: 1, ..step.clone() }.spoiled(), Some("the core stood still"));
        let late = Step { stalls: [None, None], sent_late: 1, concealed: 2, ..step };
        assert_eq!(late.spoiled(), Some("the generator stood still"));
    }

    #[test]
    fn what_found_a_full_socket_of_whoever_waits_for_its_turn_is_not_counted() {
        let at = |overrun, idle_overrun| Snapshot { overrun, idle_overrun, ..Snapshot::default() };
        assert_eq!(overrun(&at(100, 40), &at(160, 93)), 7);
        assert_eq!(overrun(&at(100, 0), &at(103, 0)), 3, "nobody waits");
        assert_eq!(overrun(&at(100, 40), &at(100, 41)), 0, "one that came between the two looks");
    }
}
