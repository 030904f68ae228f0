//! What was aimed at, beside what was measured.
//!
//! The figures were set for one core of a 2 vCPU Zen 4 machine, where the floor of a call took [`REFERENCE_FLOORS_US`]. On a machine whose
//! floor takes longer, the same gateway carries fewer calls: beside each number of calls stands that number times reference floor by
//! floor of this run. That is a comparison between machines and no target.

use super::measure::round;
use serde_json::{Value, json};

/// What must be reached.
#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// Microseconds of the floor for one call and 20 ms on the machine for which the calls were set: transcoded with the governor's choice
/// under load (libopus at complexity 0, decoding, UDP), at complexity 5, relayed.
const REFERENCE_FLOORS_US: [(&str, f64); 4] =
    [("transcoded", 41.0), ("transcoded_5", 72.0), ("relay_rtp", 9.0), ("relay_webrtc", 9.0)];

/// Parts with steps: name, times the floor, calls at the knee, p99.9 of the residence at 70 % of it.
const STEPPED: [(&str, f64, f64, Option<f64>); 4] = [
    ("transcoded", 1.10, 390.0, None),
    ("transcoded_5", 1.10, 215.0, None),
    ("relay_rtp", 1.20, 1_700.0, Some(1_000.0)),
    ("relay_webrtc", 1.20, 1_600.0, Some(1_000.0)),
];

/// How far PCMU to Opus may score below mu-law alone, PESQ-NB.
const PESQ_BELOW_MU_LAW_MAX: f64 = 0.12;

/// Figures that stand somewhere in the record.
const PLAIN: [(&str, &str, Bound); 11] = [
    (
        "set-ups a second and core, without SIP",
        "/set_up/without_sip/extrapolated_per_second_and_core",
        Bound::AtLeast(2_000.0),
    ),
    (
        "set-ups a second and core, with SIP",
        "/set_up/with_sip/extrapolated_per_second_and_core",
        Bound::AtLeast(1_000.0),
    ),
    (
        "media both ways at half of it, without SIP, p99 us",
        "/set_up/without_sip/media_both_ways/p99_us",
        Bound::AtMost(20_000.0),
    ),
    (
        "media both ways at half of it, with SIP, p99 us",
        "/set_up/with_sip/media_both_ways/p99_us",
        Bound::AtMost(20_000.0),
    ),
    (
        "media both ways at 1,000 a second, without SIP, p99 us",
        "/set_up/without_sip/at_half_of_the_target/media_both_ways/p99_us",
        Bound::AtMost(20_000.0),
    ),
    (
        "media both ways at 500 a second, with SIP, p99 us",
        "/set_up/with_sip/at_half_of_the_target/media_both_ways/p99_us",
        Bound::AtMost(20_000.0),
    ),
    ("engine's KiB of a transcoded call", "/memory/transcoded_engine_kib", Bound::AtMost(64.0)),
    ("engine's KiB of a relayed call", "/memory/relayed_engine_kib", Bound::AtMost(16.0)),
    ("control's KiB of a call", "/memory/control_kib", Bound::AtMost(16.0)),
    ("overload: running calls' lost packets", "/overload/by_load/running_calls_lost_packets", Bound::AtMost(0.0)),
    (
        "overload: running calls' concealed packets",
        "/overload/by_load/concealed_beyond_the_generators",
        Bound::AtMost(0.0),
    ),
];

/// One line for each figure that this run has.
pub fn judge(results: &Value) -> Value {
    let mut rows = Vec::new();
    for (part, ratio_max, calls_min, residence_max) in STEPPED {
        let Some(record) = results.get(part).filter(|record| record["error"].is_null()) else { continue };
        stepped(&mut rows, part, record, ratio_max, calls_min, residence_max);
    }
    for (name, place, bound) in PLAIN {
        if let Some(value) = results.pointer(place).and_then(Value::as_f64) {
            rows.push(row(name, bound, Some(value)));
        }
    }
    Value::Array(rows)
}

fn stepped(
    rows: &mut Vec<Value>,
    part: &str,
    record: &Value,
    ratio_max: f64,
    calls_min: f64,
    residence_max: Option<f64>,
) {
    let title = part.replace('_', " ");
    let ratios = record["ratio_to_floor"].as_array().map_or(&[][..], Vec::as_slice);
    for ratio in ratios {
        let name = format!("{title}: times the floor at {} calls", ratio["calls"]);
        rows.push(row(&name, Bound::AtMost(ratio_max), ratio["ratio"].as_f64()));
    }
    let knee = &record["knee"];
    let mut calls = row(&format!("{title}: calls at the knee"), Bound::AtLeast(calls_min), knee["calls"].as_f64());
    let floor = record["floor"].as_array().and_then(|floors| floors.last());
    let floor = floor.and_then(|floor| floor["us_per_call_and_20ms"].as_f64());
    let reference = REFERENCE_FLOORS_US.iter().find(|(name, _)| *name == part).map(|(_, us)| *us);
    if let (Some(floor), Some(reference)) = (floor, reference) {
        let scaled = round(calls_min * reference / floor, 0);
        let is_met = knee["calls"].as_f64().is_some_and(|calls| calls >= scaled);
        calls["scaled_to_this_machine"] =
            json!({"target": scaled, "reference_floor_us": reference, "floor_us": floor, "met": is_met});
    }
    rows.push(calls);
    if let Some(residence_max) = residence_max {
        let (calm, name) = (&knee["at_70_percent"], format!("{title}: residence p99.9 at 70 % of the knee, us"));
        let mut residence = row(&name, Bound::AtMost(residence_max), calm["residence_p999_us"].as_f64());
        residence["floor"] = calm["floor_residence_p999_us"].clone();
        rows.push(residence);
    }
    if part == "transcoded" {
        let score = &record["scores"]["toward_a"];
        let mut below = row(
            "transcoded: PCMU to Opus below mu-law alone, PESQ-NB",
            Bound::AtMost(PESQ_BELOW_MU_LAW_MAX),
            score["pesq_nb_below_mu_law"].as_f64(),
        );
        below["standard_error"] = score["pesq_nb_below_mu_law_standard_error"].clone();
        rows.push(below);
    }
}

fn row(name: &str, bound: Bound, value: Option<f64>) -> Value {
    let (target, met) = match bound {
        Bound::AtMost(most) => (format!("<= {most}"), value.is_some_and(|value| value <= most)),
        Bound::AtLeast(least) => (format!(">= {least}"), value.is_some_and(|value| value >= least)),
    };
    json!({"name": name, "target": target, "value": value, "met": met})
}

/// As lines of text.
pub fn table(rows: &Value) -> String {
    let mut out = String::new();
    for row in rows.as_array().into_iter().flatten() {
        let verdict = if row["met"] == json!(true) { "met" } else { "not met" };
        let value = row["value"].as_f64().map_or("-".to_owned(), |value| value.to_string());
        let mut line = format!(
            "  {:<56} {:>9} {:>9}  {verdict}",
            row["name"].as_str().unwrap_or_default(),
            row["target"].as_str().unwrap_or_default(),
            value
        );
        let scaled = &row["scaled_to_this_machine"];
        if let Some(target) = scaled["target"].as_f64() {
            let met = if scaled["met"] == json!(true) { "met" } else { "not met" };
            line.push_str(&format!(
                "; scaled to this machine ({} / {} us): >= {target}, {met}",
                scaled["reference_floor_us"], scaled["floor_us"]
            ));
        }
        if let Some(error) = row["standard_error"].as_f64() {
            line.push_str(&format!("; mean of the calls' differences, standard error {error}"));
        }
        if let Some(floor) = row["floor"].as_f64() {
            line.push_str(&format!("; median window; the floor's {floor}"));
        }
        out.push_str(&line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_is_held_against_its_target_and_scaled_by_the_floor_of_the_run() {
        let results = json!({
            "transcoded": {
                "ratio_to_floor": [{"calls": 200, "ratio": 1.05}],
                "knee": {"calls": 200},
                "floor": [{"us_per_call_and_20ms": 82.0}],
                "scores": {"toward_a": {"pesq_nb_below_mu_law": 0.2, "pesq_nb_below_mu_law_standard_error": 0.015}},
            },
            "memory": {"control_kib": 6.5},
        });
        let rows = judge(&results);
        let met: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["met"].as_bool().unwrap()).collect();
        assert_eq!(met, [true, false, false, true]);
        let scaled = &rows[1]["scaled_to_this_machine"];
        assert_eq!((&scaled["target"], &scaled["met"]), (&json!(195.0), &json!(true)));
        let text = table(&rows);
        assert!(text.contains(">= 195, met") && text.contains("differences, standard error 0.015"), "{text}");
    }
}
