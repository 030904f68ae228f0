//! Results as JSON, as a plain table, and as a picture: processor and latency against calls, floor and rival in the same axes.

use super::chart::{Chart, Line};
use super::sentences::{self, number};
use anyhow::Result;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;

/// Parts that have steps, and what they are called.
const STEPPED: [(&str, &str); 4] = [
    ("transcoded", "Opus by DTLS-SRTP to PCMU by RTP"),
    ("transcoded_5", "The same, complexity fixed"),
    ("relay_rtp", "Opus relayed, DTLS-SRTP to RTP"),
    ("relay_webrtc", "Opus relayed, DTLS-SRTP to DTLS-SRTP"),
];
/// Who has steps in a part, and their colours.
const WHO: [(&str, &str, &str); 3] =
    [("steps", "tandem", "#1f5fbf"), ("floor", "floor", "#2a9d4a"), ("rival", "rtpengine", "#c8452c")];

/// Writes all three beside each other: `stem`.json, .txt and .svg.
pub fn write(results: &Value, stem: &Path) -> Result<()> {
    if let Some(folder) = stem.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(stem.with_extension("json"), serde_json::to_string_pretty(results)? + "\n")?;
    std::fs::write(stem.with_extension("txt"), table(results))?;
    std::fs::write(stem.with_extension("svg"), picture(results))?;
    Ok(())
}

/// What was written before; nothing where there is none.
pub fn read(stem: &Path) -> Value {
    let text = std::fs::read_to_string(stem.with_extension("json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_else(|_| Value::Object(serde_json::Map::new()))
}

fn steps<'r>(results: &'r Value, part: &str, who: &str) -> &'r [Value] {
    let steps = match who {
        "rival" => &results["rival"][part]["steps"],
        _ => &results[part][who],
    };
    steps.as_array().map_or(&[], Vec::as_slice)
}

/// The parts that were measured anew, each once: those of `before` (or of a record that names one several times), then `wanted`.
pub fn renewed(before: &str, wanted: &[&str]) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in before.split_whitespace().chain(wanted.iter().copied()) {
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    parts.join(" ")
}

/// What a terminal can show.
pub fn table(results: &Value) -> String {
    let mut out = String::new();
    let conditions = &results["conditions"];
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let _ = writeln!(out, "{}", text(&conditions["machine"]));
    let _ = writeln!(
        out,
        "profile {}, {} % active speech, {} s a window; one core measured, {} for the generator; {}",
        text(&conditions["profile"]),
        conditions["active_speech_percent"],
        conditions["seconds_per_window"],
        conditions["generator_cores"],
        text(&conditions["command"]),
    );
    if conditions["calls_stamped"].is_number() {
        out.push_str(&how(conditions));
    }
    if let Some(renewed) = conditions["renewed"].as_str() {
        let _ =
            writeln!(out, "measured anew since, each part with its floor beside it: {}", self::renewed(renewed, &[]));
    }
    for (part, title) in STEPPED {
        if results[part].is_null() {
            continue;
        }
        let _ = writeln!(out, "\n{title}");
        let _ = writeln!(
            out,
            "{:>10} {:>6} {:>7} {:>9} {:>6} {:>6} {:>11} {:>11} {:>11} {:>9} {:>9} {:>10}",
            "",
            "calls",
            "core %",
            "us/20 ms",
            "effort",
            "lost",
            "pacing p99",
            "resid. p50",
            "resid. p99",
            "p99.9",
            "wakes/s",
            "generator"
        );
        out.push_str(&rows(results, part));
        if let Some(error) = results[part]["error"].as_str() {
            let _ = writeln!(out, "  failed: {error}");
        }
        out.push_str(&sentences::part(&results[part], &results["rival"][part]));
    }
    for part in ["set_up", "memory", "overload", "scaling"] {
        let record = &results[part];
        if record.is_null() {
            continue;
        }
        let _ = writeln!(out, "\n{}", part.replace('_', "-"));
        match record["error"].as_str() {
            Some(error) => {
                let _ = writeln!(out, "  failed: {error}");
            }
            None => out.push_str(&sentences::plain(part, record)),
        }
    }
    if results["targets"].as_array().is_some_and(|rows| !rows.is_empty()) {
        let _ = writeln!(out, "\ntargets\n{}", super::targets::table(&results["targets"]).trim_end());
    }
    if let Some(version) = results["rival"]["version"].as_str() {
        let _ = writeln!(out, "\nrival: {version}");
    }
    out
}

/// How it was measured, as far as a reader has to know.
fn how(conditions: &Value) -> String {
    format!(
        "every packet's header, order, timestamp and SRTP tag is checked; pacing and residence are the kernel's times of the first {} calls \
         and of one in {} beyond\nwhile both cores stood still (as watchers on them saw) or the generator was late, by 2 ms, and for 100 ms after, \
         pacing and residence are left out: such rows say\nhow much and what the figures are with it; faults always count; a window that \
         others on the core, stolen time or too many stalls spoiled is measured again, twice\nat most; residence at 70 % of the knee is that of \
         the median of {} windows, the floor's too\n",
        conditions["calls_stamped"], conditions["calls_stamped_beyond_one_in"], conditions["windows_at_70_percent"],
    )
}

/// The rows of a part: those of the search and the rival's, then gateway and floor as they were measured beside each other.
fn rows(results: &Value, part: &str) -> String {
    let (own, floors) = (steps(results, part, "by_turns"), steps(results, part, "floor"));
    let mut out = String::new();
    for (who, name, _) in WHO {
        if who == "floor" && !own.is_empty() {
            continue;
        }
        steps(results, part, who).iter().for_each(|step| out.push_str(&row(name, step)));
    }
    if !own.is_empty() {
        out.push_str(
            "  by turns, effort held, each idle while the other is measured; of the rounds the one of median ratio\n",
        );
    }
    for (own, floor) in own.iter().zip(floors) {
        out.push_str(&row(WHO[0].1, own));
        out.push_str(&row(WHO[1].1, floor));
    }
    out
}

fn row(name: &str, step: &Value) -> String {
    let pacing = ["pacing_toward_a", "pacing_toward_b"].map(|side| number(&step[side]["p99_us"]));
    let residence = &step["residence_toward_a"];
    let limited = if step["generator_limited"] == Value::Bool(true) { "!" } else { "" };
    let spoiled = step["spoiled"].as_str().map_or(String::new(), |reason| format!("  {reason}"));
    let again = step["again"].as_array().map_or(0, Vec::len);
    let again = if again == 0 { String::new() } else { format!("  measured {} times", again + 1) };
    let left = &step["left_out"];
    let left_out = match number(&left["ms"]) {
        0.0 => String::new(),
        ms => format!(
            "  {ms} ms left out, with them pacing {} ms, p99.9 {} us",
            left["pacing_p99_ms_with_it"], left["toward_a_with_it"]["residence"]["p999_us"]
        ),
    };
    format!(
        "{name:>10} {:>6} {:>7.1} {:>9.2} {:>6} {:>6} {:>8.2} ms {:>8.0} us {:>8.0} us {:>6.0} us {:>9.0} {:>8.0} %{limited}{again}{spoiled}{left_out}\n",
        number(&step["calls"]),
        number(&step["core_percent"]),
        number(&step["us_per_call_and_20ms"]),
        step["complexity"].as_f64().map_or("-".to_owned(), |effort| effort.to_string()),
        number(&step["lost"]) + number(&step["concealed"]) + number(&step["overrun"]),
        pacing[0].max(pacing[1]) / 1_000.0,
        number(&residence["p50_us"]),
        number(&residence["p99_us"]),
        number(&residence["p999_us"]),
        number(&step["wakeups_per_second"]),
        number(&step["generator_percent"]),
    )
}

/// Two charts for each part that was run.
fn picture(results: &Value) -> String {
    let mut charts = Vec::new();
    for (part, title) in STEPPED.iter().filter(|(part, _)| !results[*part].is_null()) {
        let line = |who: &(&str, &str, &str), of: &dyn Fn(&Value) -> Option<f64>, suffix: &str, dashed: bool| {
            let points = steps(results, part, who.0).iter();
            let points = points.filter_map(|step| Some((step["calls"].as_f64()?, of(step)?))).collect();
            Line { name: format!("{}{suffix}", who.1), colour: who.2.to_owned(), points, dashed }
        };
        let busy = |step: &Value| step["core_percent"].as_f64();
        charts.push(Chart {
            title: format!("{title}: processor"),
            y_label: "per cent of one core".to_owned(),
            y_least: 100.0,
            limit: results[*part]["knee"]["core_percent_at_most"].as_f64(),
            lines: WHO.iter().map(|who| line(who, &busy, "", false)).collect(),
        });
        let residence = |step: &Value| step["residence_toward_a"]["p99_us"].as_f64().map(|us| us / 1_000.0);
        let pacing = |step: &Value| {
            let side = |name: &str| step[name]["p99_us"].as_f64();
            Some(side("pacing_toward_a")?.max(side("pacing_toward_b")?) / 1_000.0)
        };
        let mut lines: Vec<Line> = WHO.iter().map(|who| line(who, &residence, ", residence", false)).collect();
        lines.extend([WHO[0], WHO[2]].iter().map(|who| line(who, &pacing, ", pacing", true)));
        charts.push(Chart {
            title: format!("{title}: latency, p99"),
            y_label: "milliseconds".to_owned(),
            y_least: 2.0,
            limit: results[*part]["knee"]["pacing_p99_ms_at_most"].as_f64(),
            lines,
        });
    }
    let machine = results["conditions"]["machine"].as_str().unwrap_or_default();
    let caption = format!("{machine}. Dotted: the most at the knee (core, pacing).");
    super::chart::draw(&charts, &caption)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_part_that_was_measured_anew_several_times_is_named_once() {
        assert_eq!(renewed("transcoded set_up transcoded", &["set_up", "memory"]), "transcoded set_up memory");
        let text = table(&json!({"conditions": {"renewed": "relay_rtp memory relay_rtp"}}));
        assert!(text.contains("measured anew since, each part with its floor beside it: relay_rtp memory\n"), "{text}");
    }

    #[test]
    fn gateway_and_floor_by_turns_stand_beside_each_other_with_costs_that_give_the_ratio() {
        let step = |cost: f64| json!({"calls": 388, "us_per_call_and_20ms": cost, "complexity": 0.0});
        let part = json!({"steps": [step(40.6)], "by_turns": [step(41.04)], "floor": [step(38.28)],
            "ratio_to_floor": [{"calls": 388, "ratio": 1.072, "by_turns": [1.061, 1.072, 1.09]}]});
        let text = table(&json!({"conditions": {}, "transcoded": part}));
        let lines: Vec<&str> = text.lines().collect();
        let at = lines.iter().position(|line| line.contains("by turns, effort held")).unwrap();
        let cost = |line: &str| line.split_whitespace().nth(3).unwrap().parse::<f64>().unwrap();
        let (own, floor) = (lines[at + 1], lines[at + 2]);
        assert!(own.trim_start().starts_with("tandem") && floor.trim_start().starts_with("floor"), "{text}");
        assert_eq!(((cost(own) / cost(floor)) * 1e3).round() / 1e3, 1.072, "{text}");
        assert!(text.contains("times the floor: 1.072 at 388 calls (1.061, 1.072, 1.09)"), "{text}");
        assert_eq!(lines.iter().filter(|line| line.trim_start().starts_with("floor ")).count(), 1, "{text}");
    }
}
