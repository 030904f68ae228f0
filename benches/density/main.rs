//! `make density`: how many calls one core carries, at what cost, against the least that is possible.
//!
//! Starts the real gateway (release) on one core and generates load on the others: N callers with ICE, DTLS and SRTP, N answerers of
//! SIP, different speech in each call. Finds the knee by steps; measures the floor (codec and datagrams, nothing else) on the same
//! core in the same run; writes JSON, a table and a chart.
//!
//! ```text
//! density [PART ...]      transcoded, transcoded_5, relay_rtp, relay_webrtc, set_up, memory, overload, scaling, rival
//!                         none: all but rival, written to benches/results; some: written to target/density
//! DENSITY_SECONDS=5       length of one window
//! DENSITY_CALLS=100,200   steps instead of a search for the knee
//! DENSITY_PROFILE=...     wideband-20k (ICE-lite callers, as WhatsApp's) or fullband-32k (full ICE, as a browser); without it all of the
//!                         first, then what differs with the second
//! DENSITY_RENEW=1         the parts are written to benches/results too, in the place of the same parts of the run before
//! DENSITY_AGAINST=...     the folder of the programs of another build: instead of anything else, windows of both by turns at DENSITY_CALLS
//! DENSITY_RIVAL=1         also Debian's rtpengine (`make density` installs it)
//! DENSITY_NICE=-20        a better place among the programs of a busy machine, for this program and all that it starts
//! ```
//!
//! What cannot be had by the gateway's own interface (relays, set-up without SIP) runs on the same workers behind `driver`'s door.
//! Why a generator of our own: none speaks ICE, DTLS and SIP for hundreds of calls from one core and checks every packet.

mod chart;
mod cores;
mod corpus;
mod crowd;
mod dial;
mod driver;
mod end;
mod floor;
mod generator;
mod measure;
mod parts;
mod process;
mod report;
mod ring;
mod rival;
mod score;
mod search;
mod sentences;
mod sip;
mod stalls;
mod subject;
mod targets;
mod turns;
mod work;

use anyhow::{Result, bail};
use parts::{Run, progress};
use serde_json::{Value, json};
use std::path::Path;

/// The allocator of the program that is shipped: `driver` stands for it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures something and answers what goes into the record.
type Part = fn(&Run) -> Result<Value>;

/// What can be run, in this order.
const PARTS: [(&str, Part); 9] = [
    ("transcoded", Run::transcoded),
    ("transcoded_5", Run::transcoded_5),
    ("relay_rtp", Run::relay_rtp),
    ("relay_webrtc", Run::relay_webrtc),
    ("set_up", Run::set_up),
    ("memory", Run::memory),
    ("overload", Run::overload),
    ("scaling", Run::scaling),
    ("rival", Run::rival),
];

fn main() -> Result<()> {
    engine::io::system::raise_open_files();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["floor", flows, complexity, folder] => floor::run(flows.parse()?, complexity.parse().ok(), Path::new(folder)),
        ["gateway", port, workers] => driver::run(port.parse()?, workers.parse()?),
        ["work", core] => work::neighbour(core.parse()?),
        _ => measure_profiles(&words),
    }
}

/// Parts that depend on the caller's shape and codec more than by what they have been measured with already.
const SECOND_PROFILE: [&str; 4] = ["transcoded", "relay_rtp", "relay_webrtc", "set_up"];

fn measure_profiles(wanted: &[&str]) -> Result<()> {
    let profile = parts::variable("DENSITY_PROFILE");
    // Asked for once: from the first run on this program keeps off the measured one.
    let cores = engine::io::system::cores();
    let measure = |full: bool, wanted: &[&str], kept: bool| measure(&cores, full, wanted, kept);
    match (profile.as_deref(), wanted) {
        (None, []) => {
            let first = measure(false, &[], true);
            first.and(measure(true, &SECOND_PROFILE, true))
        }
        (None | Some("wideband-20k"), _) => measure(false, wanted, wanted.is_empty()),
        (Some("fullband-32k"), _) => measure(true, wanted, wanted.is_empty()),
        (Some(other), _) => bail!("DENSITY_PROFILE={other}: write wideband-20k or fullband-32k"),
    }
}

/// `kept`: the results belong to the project's.
fn measure(cores: &[usize], full: bool, wanted: &[&str], kept: bool) -> Result<()> {
    if let Some(unknown) = wanted.iter().find(|word| !PARTS.iter().any(|(name, _)| name == *word)) {
        let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
        bail!("{unknown} is no part: write some of {}", names.join(", "));
    }
    let run = Run::new(cores, full)?;
    let mut failed = Vec::new();
    let renews = parts::variable("DENSITY_RENEW").is_some() && !kept;
    // A part of a run must not replace a whole one, unless it is asked to take its part's place.
    let folder = if kept || renews { Path::new("benches/results") } else { &run.site.folder };
    let stem = folder.join(format!("density-{}", run.profile()));
    let mut results = if renews { report::read(&stem) } else { json!({}) };
    let renewed = results["conditions"]["renewed"].as_str().unwrap_or_default().to_owned();
    results["conditions"] = run.conditions();
    if renews {
        results["conditions"]["renewed"] = json!(report::renewed(&renewed, wanted));
    }
    for (name, part) in PARTS {
        let asked = wanted.is_empty() && (name != "rival" || parts::variable("DENSITY_RIVAL").is_some());
        if asked || wanted.contains(&name) {
            // One that fails must not cost the others' minutes.
            results[name] = part(&run).unwrap_or_else(|error| {
                progress(&format!("{name} failed: {error:#}"));
                failed.push(name);
                json!({"error": format!("{error:#}")})
            });
        }
    }
    results["targets"] = targets::judge(&results);
    results["conditions"]["command"] = match kept || renews {
        true => json!("make density"),
        false => json!(format!("target/release/density {}", wanted.join(" "))),
    };
    report::write(&results, &stem)?;
    print!("{}", report::table(&results));
    progress(&format!("written to {}.json, .txt and .svg", stem.display()));
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("failed: {}", failed.join(", ")),
    }
}
