//! What is observed of calls over time: how long each step takes, how calls end, and how their media were.
//!
//! Everything is a histogram or a counter with few labels, each from a fixed list: a label with a number, a user or somebody's words
//! in it would make a series per call, and show people to whoever reads figures.
//!
//! Why from the timelines: they already say when each step of every call came, for whichever plane runs here.

use crate::trace::timeline::{Entry, Line, Step};
use engine::bridge::BridgeStats;
use engine::leg::LegStats;
use engine::time::Duration;
use std::collections::BTreeMap;

/// Pairs of side and cause that are told apart. Past it further ones are counted as `other`.
pub const ENDS_MAX: usize = 128;

/// Bounds of Graph's replies, seconds.
const GRAPH_S: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Bounds of what people wait for, seconds.
const SETUP_S: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

/// Bounds of calls, seconds.
const CALL_S: &[f64] = &[5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0];

/// Bounds of jitter and delay, seconds.
const DELAY_S: &[f64] = &[0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64];

/// Bounds of shares of packets.
const RATIO: &[f64] = &[0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2];

/// How often values fell up to each bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than there are bounds.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn observe(&mut self, value: f64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[bucket] += 1;
        self.sum += value;
    }

    fn millis(&mut self, millis: u64) {
        self.observe(millis as f64 / 1_000.0);
    }

    /// Upper bounds and how many values lie up to each, the last without a bound.
    pub fn cumulated(&self) -> impl Iterator<Item = (Option<f64>, u64)> {
        let mut total = 0;
        self.counts.iter().enumerate().map(move |(bucket, count)| {
            total += count;
            (self.bounds.get(bucket).copied(), total)
        })
    }

    /// All values added up.
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

/// The media of all calls with one kind of peer: what came from it, and what it said about ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Quality {
    /// Interarrival jitter at the call's end, seconds.
    pub jitter: Histogram,
    /// Share of packets that were lost on the way to us.
    pub loss: Histogram,
    /// Share of packets that were made up for the other side.
    pub concealed: Histogram,
    /// Round trip, seconds.
    pub round_trip: Histogram,
    /// Share of our packets that the peer reported lost, last.
    pub remote_loss: Histogram,
    /// Calls in which we sent and nothing came.
    pub silent: u64,
}

impl Default for Quality {
    fn default() -> Quality {
        Quality {
            jitter: Histogram::new(DELAY_S),
            loss: Histogram::new(RATIO),
            concealed: Histogram::new(RATIO),
            round_trip: Histogram::new(DELAY_S),
            remote_loss: Histogram::new(RATIO),
            silent: 0,
        }
    }
}

impl Quality {
    fn take(&mut self, leg: &LegStats, concealed: u64) {
        if leg.packets_received == 0 {
            // Before the answer nothing is sent either, and silence is as it should be.
            self.silent += u64::from(leg.packets_sent > 0);
        } else {
            let sent = (leg.packets_received + leg.packets_lost) as f64;
            self.jitter.millis(leg.jitter_ms.into());
            self.loss.observe(leg.packets_lost as f64 / sent);
            self.concealed.observe(concealed as f64 / sent);
        }
        if let Some(round_trip_ms) = leg.round_trip_ms {
            self.round_trip.millis(round_trip_ms.into());
        }
        if let Some(percent) = leg.remote_loss_percent {
            self.remote_loss.observe(f64::from(percent) / 100.0);
        }
    }
}

/// Everything that is observed.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Graph's replies by action, failures included.
    pub graph: BTreeMap<&'static str, Histogram>,
    /// From the first INVITE until the far side rings.
    pub ringing: Histogram,
    /// From the first INVITE until the far side has answered.
    pub answered: Histogram,
    /// From the webhook until `accept` has succeeded.
    pub accepted: Histogram,
    /// From the far side's answer until the end.
    pub talking: Histogram,
    /// Calls that ended, by side and cause.
    pub ends: BTreeMap<(String, String), u64>,
    /// Media by kind of peer.
    pub quality: BTreeMap<&'static str, Quality>,
    /// Delay of the playout at the call's end.
    pub playout: Histogram,
}

impl Default for Observed {
    fn default() -> Observed {
        Observed {
            graph: BTreeMap::new(),
            ringing: Histogram::new(SETUP_S),
            answered: Histogram::new(SETUP_S),
            accepted: Histogram::new(SETUP_S),
            talking: Histogram::new(CALL_S),
            ends: BTreeMap::new(),
            quality: BTreeMap::new(),
            playout: Histogram::new(DELAY_S),
        }
    }
}

impl Observed {
    /// Graph has answered, or was given up.
    pub fn graph(&mut self, action: &'static str, took: Duration) {
        let histogram = self.graph.entry(action).or_insert_with(|| Histogram::new(GRAPH_S));
        histogram.observe(took.as_secs_f64());
    }

    /// A step of a call; `lines` are all of its steps, this one last.
    pub fn step(&mut self, entry: &Entry, lines: &[Line]) {
        let Some((this, before)) = lines.split_last() else { return };
        let first = |step: Step| before.iter().find(|line| line.step == step).map(|line| line.at_ms);
        let since = |step: Step| first(step).map(|at_ms| this.at_ms.saturating_sub(at_ms));
        let is_first = first(entry.step).is_none();
        match entry.step {
            Step::Ringing if is_first => since(Step::Invite).into_iter().for_each(|ms| self.ringing.millis(ms)),
            Step::Answered if is_first => since(Step::Invite).into_iter().for_each(|ms| self.answered.millis(ms)),
            Step::Accept if entry.detail == "200" => {
                since(Step::Webhook).into_iter().for_each(|ms| self.accepted.millis(ms));
            }
            Step::End => {
                let talked = since(Step::Answered).or_else(|| since(Step::Accept));
                talked.into_iter().for_each(|ms| self.talking.millis(ms));
                self.ended(&entry.detail);
            }
            _ => {}
        }
    }

    /// A bridge has ended; `peers` are those of its legs.
    pub fn media(&mut self, stats: &BridgeStats, peers: [&'static str; 2]) {
        self.quality.entry(peers[0]).or_default().take(&stats.a, stats.concealed_from_a);
        self.quality.entry(peers[1]).or_default().take(&stats.b, stats.concealed_from_b);
        if let Some(playout) = &stats.playout {
            self.playout.millis(playout.delay_ms.into());
        }
    }

    /// `side=... cause=...: words`
    fn ended(&mut self, line: &str) {
        let after = |key: &str| line.split_once(key).map_or("", |(_, rest)| rest);
        // The side of a party is its kind and its name; only the kind is counted.
        let side = word(after("side="));
        let key = (side, word(after("cause=")));
        let key = match self.ends.len() < ENDS_MAX || self.ends.contains_key(&key) {
            true => key,
            false => ("other".to_owned(), "other".to_owned()),
        };
        *self.ends.entry(key).or_default() += 1;
    }
}

/// The first word, if it is one of ours: small letters, digits and underscores.
fn word(text: &str) -> String {
    let end = text.find([' ', ':']).unwrap_or(text.len());
    let ours = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    match &text[..end] {
        word if !word.is_empty() && word.len() <= 40 && word.bytes().all(ours) => word.to_owned(),
        _ => "other".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::timeline::Timeline;
    use engine::bridge::PlayoutStats;
    use engine::time::Instant;

    fn observe(steps: &[(u64, Step, &str)]) -> Observed {
        let (mut timeline, mut observed) = (Timeline::new(), Observed::default());
        for (at, step, detail) in steps {
            let (call_id, at, detail) = ("c".to_owned(), Instant::from_millis(*at), (*detail).to_owned());
            let entry = Entry { call_id, at, step: *step, detail };
            if timeline.push(&entry) {
                observed.step(&entry, timeline.lines("c"));
            }
        }
        observed
    }

    #[test]
    fn each_wait_of_a_call_is_measured_once() {
        let observed = observe(&[
            (1_000, Step::Webhook, ""),
            (1_020, Step::Invite, ""),
            (1_100, Step::Invite, "again"),
            (1_120, Step::Ringing, "180"),
            (1_900, Step::Ringing, "183"),
            (3_020, Step::Answered, "200"),
            (3_300, Step::Accept, "200"),
            (63_020, Step::End, "side=sip cause=bye: Q.850;cause=16"),
            (63_030, Step::End, "side=tandem cause=hangup"),
        ]);
        let sums = [&observed.ringing, &observed.answered, &observed.accepted, &observed.talking].map(Histogram::sum);
        assert_eq!(sums, [0.1, 2.0, 2.3, 60.0]);
        assert_eq!(
            observed.answered.cumulated().map(|(_, count)| count).collect::<Vec<_>>(),
            [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]
        );
        assert_eq!(observed.ends, BTreeMap::from([(("sip".to_owned(), "bye".to_owned()), 1)]));
    }

    #[test]
    fn an_end_is_counted_by_words_of_ours_and_nobodys_name() {
        let mut observed = Observed::default();
        for line in [
            "side=trunk a cause=busy: 486 for +447700900123",
            "side=user +447700900123 cause=bye",
            "side=+44 cause=Some Words",
            "nonsense",
        ] {
            observed.ended(line);
        }
        let found: Vec<(&str, &str)> =
            observed.ends.keys().map(|(side, cause)| (side.as_str(), cause.as_str())).collect();
        assert_eq!(found, [("other", "other"), ("trunk", "busy"), ("user", "bye")]);
        for number in 0..2 * ENDS_MAX {
            observed.ended(&format!("side=whatsapp cause=failed_{number}"));
        }
        assert!(observed.ends.len() <= ENDS_MAX + 1);
        assert_eq!(observed.ends.values().sum::<u64>(), 4 + 2 * ENDS_MAX as u64);
    }

    #[test]
    fn media_are_counted_with_the_peer_that_they_came_from() {
        let a = LegStats {
            packets_received: 90,
            packets_lost: 10,
            jitter_ms: 30,
            remote_loss_percent: Some(3),
            ..LegStats::default()
        };
        let stats = BridgeStats {
            a,
            b: LegStats { packets_sent: 90, ..LegStats::default() },
            concealed_from_a: 8,
            playout: Some(PlayoutStats { delay_ms: 60, ..PlayoutStats::default() }),
            ..BridgeStats::default()
        };
        let mut observed = Observed::default();
        observed.media(&stats, ["whatsapp", "trunk"]);
        let (whatsapp, trunk) = (&observed.quality["whatsapp"], &observed.quality["trunk"]);
        assert_eq!((whatsapp.loss.sum(), whatsapp.concealed.sum(), whatsapp.jitter.sum()), (0.1, 0.08, 0.03));
        assert_eq!((whatsapp.remote_loss.sum(), observed.playout.sum(), whatsapp.silent), (0.03, 0.06, 0));
        assert_eq!((trunk.silent, trunk.loss.sum()), (1, 0.0));
        observed.media(&BridgeStats::default(), ["whatsapp", "trunk"]);
        assert_eq!(observed.quality["trunk"].silent, 1, "nobody had answered");
    }
}
