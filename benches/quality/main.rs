//! How the gateway sounds on a bad network: speech through the real bridge in virtual time, beside two references on the same packets.
//!
//! ```text
//!  speech ─ Opus ─ network ─┬─ bridge ──────────────────── PCMU ─ endpoint (fixed 60 ms)   "gateway"
//!                           ├─ every packet that ever arrived, no deadline                 "oracle"
//!                           └─ fixed 60 ms, plain concealment                              "naive"
//!  speech ─ PCMU ─ network ─── bridge ─ Opus ─ endpoint (fixed 60 ms), and the same two references       "in-"
//!  speech ─ PCMU ─ bridge ─ Opus ─ network ─── endpoint that reports its losses                          "back-"
//! ```
//!
//! Writes what was heard as raw samples and `manifest.json`; `score.py` makes scores, table and charts of them.
//!
//! Why virtual time and bare rtp legs: a minute of call takes a second, the network is the same at every run, and ICE and SRTP change
//! nothing about the sound.

mod delay;
mod gateway;
mod network;
mod reference;
mod speech;

use crate::gateway::{Direction, Figures};
use crate::network::Network;
use crate::reference::Sender;
use crate::speech::Speech;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One cell of the matrix.
#[derive(Clone, Debug)]
pub struct Point {
    name: String,
    direction: Direction,
    network: Network,
    /// The sender pauses (Opus DTX).
    dtx: bool,
    /// Of Opus.
    sender: Sender,
    /// The gateway conceals with libopus's networks, which the feature `deep-plc` links.
    networks: bool,
}

impl Point {
    /// What decides the packets' fate: the same for points that compare two gateways.
    fn seed(&self) -> &str {
        self.name.strip_suffix(NETWORKS).unwrap_or(&self.name)
    }
}

/// Ends the names of points where the networks conceal.
const NETWORKS: &str = "-networks";

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mode, speech, out) = match (arguments.next(), arguments.next(), arguments.next()) {
        (Some(mode), Some(speech), Some(out)) => (mode, PathBuf::from(speech), PathBuf::from(out)),
        _ => {
            eprintln!("usage: quality quick|full|deep|POINT,POINT.. SPEECH_FOLDER OUT_FOLDER");
            std::process::exit(2);
        }
    };
    std::fs::create_dir_all(&out).expect("the output folder can be made");
    let sentences = if mode == "quick" { 12 } else { 24 };
    let speech = Speech::load(&speech, sentences);
    let points = chosen(&mode);
    speech.write(&out);
    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![Value::Null; points.len()]);
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let index = points.iter().position(|other| other.name == point.name).unwrap_or(0);
                    let result = measure(point, &speech, &out);
                    results.lock().expect("no worker panics with it")[index] = result;
                }
            });
        }
    });
    let manifest = json!({
        "sender": Sender::Fec20.describe(),
        "sentences": speech.sentences_ms(),
        "points": *results.lock().expect("no worker panics with it"),
    });
    let text = serde_json::to_string_pretty(&manifest).expect("the manifest is JSON");
    std::fs::write(out.join("manifest.json"), text).expect("the manifest can be written");
}

/// The points of a mode, or those named.
fn chosen(mode: &str) -> Vec<Point> {
    let all = matrix();
    match mode {
        "full" => all,
        "deep" => deep(),
        "quick" => all.into_iter().filter(|point| QUICK.contains(&point.name.as_str())).collect(),
        names => all.into_iter().filter(|point| names.split(',').any(|name| name == point.name)).collect(),
    }
}

/// The points that have a target.
const QUICK: [&str; 13] = [
    "out-l0-j0",
    "out-l3-j0",
    "out-l5-j0",
    "out-l10-j0",
    "out-l20-j0",
    "out-b10-j0",
    "out-l0-j50",
    "out-l5-j50",
    "out-l0-j100",
    "in-l0-j0",
    "in-l5-j0",
    "back-l5-j0",
    "back-l10-j0",
];

fn matrix() -> Vec<Point> {
    let mut points = Vec::new();
    let mut add = |name: String, direction, dtx, network: Network| {
        points.push(Point { name, direction, network, dtx, sender: Sender::Fec20, networks: false })
    };
    let calm = Network { loss_pct: 0, burst: 1, jitter_ms: 0, drift_ppm: 0, spike_ms: 0 };
    for jitter_ms in [0, 20, 50, 100] {
        for loss_pct in [0, 1, 3, 5, 10, 20] {
            let network = Network { loss_pct, jitter_ms, ..calm };
            add(format!("out-l{loss_pct}-j{jitter_ms}"), Direction::OpusToPcmu, false, network);
        }
        for loss_pct in [3, 5, 10, 20] {
            let network = Network { loss_pct, burst: 3, jitter_ms, ..calm };
            add(format!("out-b{loss_pct}-j{jitter_ms}"), Direction::OpusToPcmu, false, network);
        }
    }
    for drift_ppm in [500, -500] {
        let sign = if drift_ppm > 0 { "fast" } else { "slow" };
        add(format!("out-{sign}-l0-j0"), Direction::OpusToPcmu, false, Network { drift_ppm, ..calm });
        let network = Network { drift_ppm, loss_pct: 5, jitter_ms: 50, ..calm };
        add(format!("out-{sign}-l5-j50"), Direction::OpusToPcmu, false, network);
    }
    for (loss_pct, jitter_ms) in [(0, 0), (5, 0), (5, 50), (0, 100)] {
        let network = Network { loss_pct, jitter_ms, ..calm };
        add(format!("out-dtx-l{loss_pct}-j{jitter_ms}"), Direction::OpusToPcmu, true, network);
    }
    for spike_ms in [150, 300] {
        add(format!("out-spike{spike_ms}"), Direction::OpusToPcmu, false, Network { spike_ms, ..calm });
    }
    for (loss_pct, burst, jitter_ms) in [
        (0, 1, 0),
        (1, 1, 0),
        (3, 1, 0),
        (5, 1, 0),
        (10, 1, 0),
        (20, 1, 0),
        (10, 3, 0),
        (0, 1, 20),
        (5, 1, 20),
        (0, 1, 50),
    ] {
        let kind = if burst > 1 { 'b' } else { 'l' };
        let network = Network { loss_pct, burst, jitter_ms, ..calm };
        add(format!("in-{kind}{loss_pct}-j{jitter_ms}"), Direction::PcmuToOpus, false, network);
    }
    for loss_pct in [0, 1, 3, 5, 10, 20] {
        add(format!("back-l{loss_pct}-j0"), Direction::PcmuToLossyOpus, false, Network { loss_pct, ..calm });
    }
    points
}

/// Senders that leave something to networks, without them and with them.
fn deep() -> Vec<Point> {
    let has_networks = cfg!(feature = "deep-plc");
    assert!(has_networks, "`quality deep` needs the feature deep-plc");
    let mut points = Vec::new();
    for (word, sender) in [("plain20", Sender::Plain20), ("fec32", Sender::Fec32), ("dred32", Sender::Dred32)] {
        for (loss, loss_pct, burst) in [("l5", 5, 1), ("l10", 10, 1), ("l20", 20, 1), ("b10", 10, 3)] {
            let network = Network { loss_pct, burst, jitter_ms: 0, drift_ppm: 0, spike_ms: 0 };
            for (suffix, networks) in [("", false), (NETWORKS, true)] {
                let name = format!("{word}-{loss}-j0{suffix}");
                points.push(Point { name, direction: Direction::OpusToPcmu, network, dtx: false, sender, networks });
            }
        }
    }
    points
}

/// Plays one point three ways and writes what was heard.
fn measure(point: &Point, speech: &Speech, out: &Path) -> Value {
    let sent = reference::packets(point.direction, &speech.wide, point.sender, point.dtx);
    let flights = point.network.flights(point.seed(), sent.len());
    let (heard, figures) = gateway::play(point, &sent, &flights);
    let oracle = reference::oracle(point.direction, &sent, &flights);
    let naive = reference::naive(point.direction, &sent, &flights);
    let clean = reference::clean(point.direction, &sent);
    // Content time is the sender's, delays are ours.
    let sent_ms = |ms: f64| ms - ms / 1e6 * point.network.drift_ppm as f64;
    let delays = delay::measure(&heard, &clean, &speech.spans_ms, sent_ms);
    speech::write_raw(&out.join(format!("{}.gateway.raw", point.name)), &heard.pcm);
    speech::write_raw(&out.join(format!("{}.oracle.raw", point.name)), &oracle);
    speech::write_raw(&out.join(format!("{}.naive.raw", point.name)), &naive);
    let Figures { concealed, playout, redundant, packets } = figures;
    let playout = playout.map(|stats| {
        json!({
            "target_ms": stats.target_ms, "delay_ms": stats.delay_ms, "late": stats.late, "lost": stats.lost,
            "concealed": stats.concealed, "recovered": stats.recovered, "skipped": stats.skipped,
            "shortened_ms": stats.shortened_ms, "lengthened_ms": stats.lengthened_ms,
        })
    });
    json!({
        "name": point.name,
        "direction": format!("{:?}", point.direction),
        "sender": point.sender.describe(),
        "network": point.network.to_json(),
        "dtx": point.dtx,
        "gateway_begins_ms": heard.begins_ms,
        "added_delay_ms": delays.to_json(),
        "playout": playout,
        "packets": packets,
        "concealed": concealed,
        "redundant": redundant,
        "late_at_endpoint": heard.late,
        "lost": flights.iter().filter(|flight| flight.is_none()).count(),
    })
}
