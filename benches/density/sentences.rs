//! The record in sentences and aligned rows, for people who run gateways: what a part showed besides its steps.

use serde_json::Value;
use std::fmt::Write as _;

/// A number of the record; 0 where there is none.
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn millis(value: &Value) -> String {
    format!("{:.1}", number(value) / 1_000.0)
}

fn calls(value: &Value) -> String {
    value.as_f64().map_or("no number of calls".to_owned(), |calls| format!("{calls} calls"))
}

/// Under the steps of a part: knee, floor, rare residences, sound.
pub fn part(part: &Value, rival: &Value) -> String {
    let mut out = String::new();
    let mut say = |title: &str, text: String| {
        let _ = writeln!(out, "  {title:<10} {text}");
    };
    let knee = &part["knee"];
    if knee.is_object() {
        say("knee", knee_sentence(knee));
    }
    let ratios = part["ratio_to_floor"].as_array().map_or(&[][..], Vec::as_slice);
    if !ratios.is_empty() {
        let each: Vec<String> = ratios.iter().map(ratio_words).collect();
        say("cost", format!("times the floor: {}; by turns, the median of the rounds in brackets", each.join(", ")));
    }
    let own = &part["floor_with_own_functions"];
    if own.is_object() {
        say("", own_functions_sentence(own));
    }
    let calm = &knee["at_70_percent"];
    if calm.is_object() {
        say("at 70 %", calm_sentence(calm));
    }
    let (own, floor) = (&part["stood_still"]["beside_the_gateway"], &part["stood_still"]["beside_the_floor"]);
    if number(&own["seconds"]) > 0.0 {
        let words = |of: &Value| {
            format!(
                "{} times in {} s, the generator's core {}, both at once {}",
                of["measured_core"], of["seconds"], of["generators_core"], of["at_once"]
            )
        };
        say("machine", format!("the measured core stood still {}; beside the floor {}", words(own), words(floor)));
    }
    for (side, title) in [("toward_a", "toward the caller"), ("toward_b", "toward the other end")] {
        let score = &part["scores"][side];
        if number(&score["calls"]) > 0.0 {
            say("sound", format!("{title}: {}", score_sentence(score)));
        }
    }
    if rival["knee"].is_object() {
        say("rtpengine", format!("knee {}", knee_sentence(&rival["knee"])));
        for (side, title) in [("toward_a", "toward the caller"), ("toward_b", "toward the other end")] {
            let score = &rival["scores"][side];
            if number(&score["calls"]) > 0.0 {
                say("", format!("{title}: {}", score_sentence(score)));
            }
        }
    }
    out
}

fn knee_sentence(knee: &Value) -> String {
    let mut text = format!(
        "{}: no fault, core below {} %, pacing p99 below {} ms",
        calls(&knee["calls"]),
        knee["core_percent_at_most"],
        knee["pacing_p99_ms_at_most"],
    );
    if let Some(next) = knee["next_above"].as_f64() {
        let _ = write!(text, "; the next step above, {next}, was not");
    }
    if let Some(cost) = knee["extrapolated"].as_f64() {
        let _ = write!(text, "; by cost alone {cost}");
    }
    if knee["generator_limited"] == Value::Bool(true) {
        text.push_str("; the generator was full (!): the gateway may carry more");
    }
    text
}

/// What a call costs by one of the floor, with each round, and what else was seen there.
fn ratio_words(ratio: &Value) -> String {
    let rounds: Vec<String> = ratio["by_turns"].as_array().into_iter().flatten().map(Value::to_string).collect();
    let faults = ratio["faults"].as_array().into_iter().flatten().filter_map(Value::as_array).flatten();
    let faults: f64 = faults.map(number).sum();
    let mut text = format!("{} at {} calls", ratio["ratio"], ratio["calls"]);
    if !rounds.is_empty() {
        let _ = write!(text, " ({})", rounds.join(", "));
    }
    if faults > 0.0 {
        let _ = write!(text, " with {faults} faults in all windows");
    }
    let windows = || ratio["spoiled"].as_array().into_iter().flatten().filter_map(Value::as_array).flatten();
    let spoiled = windows().filter(|reason| !reason.is_null()).count();
    if spoiled > 0 {
        let _ = write!(text, ", {spoiled} of {} windows SPOILED by the machine", windows().count());
    }
    text
}

/// What a floor takes that has what the gateway has.
fn own_functions_sentence(own: &Value) -> String {
    if let Some(error) = own["error"].as_str() {
        return format!("floor with the gateway's own functions of libopus: failed: {error}");
    }
    let rounds: Vec<String> = own["by_turns"].as_array().into_iter().flatten().map(Value::to_string).collect();
    let mut text = format!(
        "floor with the gateway's own functions of libopus: {} us, {} times, at {} calls; it takes {} of the floor, libopus as published \
         ({}, by turns)",
        own["us_per_call_and_20ms"],
        own["ratio"],
        own["calls"],
        own["of_the_floor"],
        rounds.join(", "),
    );
    let spoiled = own["spoiled"].as_u64().unwrap_or(0);
    if spoiled > 0 {
        let _ = write!(text, ", {spoiled} windows SPOILED by the machine");
    }
    text
}

fn calm_sentence(calm: &Value) -> String {
    let windows = |name: &str| {
        let all = calm[name].as_array().map_or(&[][..], Vec::as_slice);
        let each: Vec<String> = all.iter().map(millis).collect();
        if each.is_empty() { String::new() } else { format!(" ({})", each.join(", ")) }
    };
    let with_stalls = match calm["windows_with_stalls_us"].is_array() {
        true => format!(
            "; with nothing left out{}, the floor's{}",
            windows("windows_with_stalls_us"),
            windows("floor_windows_with_stalls_us")
        ),
        false => String::new(),
    };
    format!(
        "{} calls: residence p99.9 {} ms{}, the floor's {} ms{}; medians of the windows in brackets{with_stalls}",
        calm["calls"],
        millis(&calm["residence_p999_us"]),
        windows("windows_us"),
        millis(&calm["floor_residence_p999_us"]),
        windows("floor_windows_us"),
    )
}

fn score_sentence(score: &Value) -> String {
    let speech =
        if score["is_the_same_speech"] == Value::Bool(true) { "the same speech" } else { "NOT the same speech" };
    let mut text = format!("{} calls, {speech} (similarity {} at least)", score["calls"], score["similarity_least"]);
    if let Some((heard, mu_law)) = score["pesq_nb"].as_f64().zip(score["pesq_nb_of_mu_law_alone"].as_f64()) {
        let _ = write!(text, ", PESQ-NB {heard:.2}, mu-law alone {mu_law:.2}");
        let below = &score["pesq_nb_below_mu_law"];
        if let Some((below, error)) = below.as_f64().zip(score["pesq_nb_below_mu_law_standard_error"].as_f64()) {
            let _ = write!(text, ": {below:.3} below it call by call, standard error {error:.3}");
        }
    }
    text
}

/// The parts without steps.
pub fn plain(name: &str, record: &Value) -> String {
    match name {
        "set_up" => set_up(record),
        "memory" => memory(record),
        "overload" => overload(record),
        "scaling" => scaling(record),
        _ => String::new(),
    }
}

fn set_up(record: &Value) -> String {
    let mut out = format!(
        "  {:<12} {:>12} {:>9} {:>7} {:>8} {:>10}\n",
        "", "a s and core", "us each", "failed", "refused", "generator"
    );
    let kinds = [("without_sip", "without SIP"), ("with_sip", "with SIP")];
    let kinds = kinds.map(|(name, title)| (&record[name], title));
    for (kind, title) in kinds.iter().filter(|(kind, _)| kind.is_object()) {
        let _ = writeln!(
            out,
            "  {title:<12} {:>12.0} {:>9.0} {:>7.0} {:>8.0} {:>8.0} %{}",
            number(&kind["extrapolated_per_second_and_core"]),
            number(&kind["us_each"]),
            number(&kind["failed"]),
            number(&kind["refused_with_503"]),
            number(&kind["generator_percent"]),
            if kind["generator_limited"] == Value::Bool(true) { "!" } else { "" },
        );
    }
    let mut paces = String::new();
    for (kind, title) in kinds.iter().filter(|(kind, _)| kind.is_object()) {
        for (name, which) in [("at_half", "half of that"), ("at_half_of_the_target", "half of the target")] {
            if kind[name].is_object() {
                let _ = writeln!(paces, "  {title:<12} {}", pace_sentence(which, &kind[name]));
            }
        }
        if kind["at_half"].is_null() && kind["half_rate"].is_number() {
            // A record from before there were windows.
            let rate = number(&kind["half_rate"]);
            let (connected, both) = (spread_words(&kind["connected"]), spread_words(&kind["media_both_ways"]));
            let _ =
                writeln!(paces, "  {title:<12} {rate} a second, half of that: p50 / p99 {both}; connected {connected}");
        }
    }
    if !paces.is_empty() {
        out.push_str(
            "  from the request until both ends have heard something; of the windows in brackets the median counts\n",
        );
    }
    out + &paces
}

fn spread_words(of: &Value) -> String {
    format!("{} / {} ms", millis(&of["p50_us"]), millis(&of["p99_us"]))
}

/// How long set-ups took at a pace, and what the slowest waited for.
fn pace_sentence(which: &str, pace: &Value) -> String {
    let windows = |name: &str| {
        let each: Vec<String> = pace[name].as_array().into_iter().flatten().map(millis).collect();
        each.join(", ")
    };
    let mut text = format!(
        "{} a second, {which}: p50 / p99 {} ({}), with nothing left out ({}); connected {}; core {:.0} %, generator {:.0} %",
        number(&pace["per_second"]),
        spread_words(&pace["media_both_ways"]),
        windows("windows_p99_us"),
        windows("windows_with_stalls_p99_us"),
        spread_words(&pace["connected"]),
        number(&pace["core_percent"]),
        number(&pace["generator_percent"]),
    );
    let spoiled = pace["spoiled"].as_array().into_iter().flatten().filter(|reason| !reason.is_null()).count();
    if spoiled > 0 {
        let windows = pace["spoiled"].as_array().map_or(0, Vec::len);
        let _ = write!(text, ", {spoiled} of {windows} windows SPOILED by the machine");
    }
    let again = pace["again"].as_array().map_or(0, Vec::len);
    if again > 0 {
        let _ = write!(text, ", {again} measured again");
    }
    for (name, said) in
        [("failed", "failed"), ("refused_with_503", "were refused"), ("beyond_a_timer", "waited for a retransmission")]
    {
        if number(&pace[name]) > 0.0 {
            let _ = write!(text, ", {} {said}", pace[name]);
        }
    }
    let steps = pace["steps"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let each = steps.enumerate().map(|(index, step)| {
        let name = step.replace('_', " ").replace("ice and dtls", "ICE and DTLS");
        format!("{name} {} ({})", millis(&pace["slowest_us"][index]), millis(&pace["median_us"][index]))
    });
    let _ = write!(
        text,
        "\n  {:<12} of the slowest hundredth, and the median in brackets: {}",
        "",
        each.collect::<Vec<_>>().join(", ")
    );
    text
}

fn memory(record: &Value) -> String {
    let mut out = String::new();
    for (name, value) in record.as_object().into_iter().flatten() {
        let title = name.trim_end_matches("_kib").replace('_', " ");
        let _ = match (value.as_f64(), name.ends_with("_kib")) {
            (Some(value), true) => writeln!(out, "  {title:<56} {value:>8.1} KiB a call"),
            _ => writeln!(out, "  {title:<56} {}", words(value)),
        };
    }
    out
}

/// A text as it is, what was measured step by step as a row.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Object(named) => {
            named.iter().map(|(name, value)| format!("{name} {}", words(value))).collect::<Vec<_>>().join("; ")
        }
        other => other.to_string(),
    }
}

fn overload(record: &Value) -> String {
    let mut out = String::new();
    let limit = &record["by_limit"];
    if limit.is_object() {
        let _ = writeln!(
            out,
            "  by limit   {} calls allowed, {} more offered: {} refused with 503; the {} running lost {} packets, {} concealed",
            limit["accepted"],
            limit["offered_beyond"],
            limit["refused_with_503"],
            limit["running_calls"],
            limit["running_calls_lost_packets"],
            limit["concealed"],
        );
    }
    let load = &record["by_load"];
    if load.is_object() {
        let _ = writeln!(
            out,
            "  by load    complexity {}: the first of {} offered was refused after {}, {} in all with 503; {} running at {} % of the core\n  \
             {:<10} lost {} packets, {} concealed beyond the {} that the generator sent late; pacing p99 {} ms, {} ms while nobody calls",
            load["complexity"],
            load["offered"],
            load["offered_until_the_first_was_refused"],
            load["refused_with_503"],
            load["running_calls"],
            load["core_percent"],
            "",
            load["running_calls_lost_packets"],
            load["concealed_beyond_the_generators"],
            load["sent_late"],
            load["pacing_p99_ms"],
            load["while_nobody_calls"]["pacing_p99_ms"],
        );
    }
    out
}

fn scaling(record: &Value) -> String {
    if !record["ns_alone"].is_number() {
        return String::new();
    }
    format!(
        "  20 ms of a relayed call, {} calls on a thread: {} ns alone, {} beside another process, {} beside another thread: \
         {} times a process\n",
        record["calls_of_a_thread"],
        record["ns_alone"],
        record["ns_beside_a_process"],
        record["ns_beside_a_thread"],
        record["thread_to_process"],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_knee_and_its_residences_read_as_sentences() {
        let record = json!({
            "knee": {"calls": 387, "next_above": 396, "core_percent_at_most": 85.0, "pacing_p99_ms_at_most": 2.0, "extrapolated": 401.0,
                "generator_limited": true,
                "at_70_percent": {"calls": 270, "residence_p999_us": 1200.0, "windows_us": [900.0, 1200.0, 5000.0],
                    "floor_residence_p999_us": 800.0, "floor_windows_us": [800.0],
                    "windows_with_stalls_us": [900.0, 4200.0, 5000.0], "floor_windows_with_stalls_us": [3100.0]}},
            "floor_with_own_functions": {"calls": 387, "us_per_call_and_20ms": 38.1, "of_the_floor": 0.93, "by_turns": [0.93, 0.92, 0.95], "ratio": 1.086,
                "spoiled": 1},
            "stood_still": {"beside_the_gateway": {"seconds": 60.2, "measured_core": 7, "generators_core": 8, "at_once": 5},
                "beside_the_floor": {"seconds": 40.0, "measured_core": 5, "generators_core": 5, "at_once": 4}},
            "ratio_to_floor": [{"calls": 200, "ratio": 0.97, "by_turns": [0.96, 0.97, 0.98], "faults": [[0, 0, 0], [0, 0, 0]]},
                {"calls": 387, "ratio": 1.01, "by_turns": [1.01, 1.0, 1.05], "faults": [[0, 2, 0], [1, 0, 0]],
                    "spoiled": [[null, "others used the core", null], [null, null, null]]}],
            "scores": {"toward_a": {"calls": 12, "is_the_same_speech": true, "similarity_least": 0.97, "pesq_nb": 4.1, "pesq_nb_of_mu_law_alone": 4.2,
                "pesq_nb_below_mu_law": 0.1, "pesq_nb_below_mu_law_standard_error": 0.012}},
        });
        let text = part(&record, &Value::Null);
        for said in [
            "387 calls: no fault, core below 85.0 %",
            "pacing p99 below 2.0 ms; the next step above, 396, was not; by cost alone 401",
            "the generator was full",
            "times the floor: 0.97 at 200 calls (0.96, 0.97, 0.98), 1.01 at 387 calls (1.01, 1.0, 1.05) with 3 faults in all windows, \
             1 of 6 windows SPOILED by the machine; by turns",
            "floor with the gateway's own functions of libopus: 38.1 us, 1.086 times, at 387 calls; it takes 0.93 of the floor, libopus as \
             published (0.93, 0.92, 0.95, by turns), 1 windows SPOILED",
            "brackets; with nothing left out (0.9, 4.2, 5.0), the floor's (3.1)",
            "the measured core stood still 7 times in 60.2 s, the generator's core 8, both at once 5; beside the floor 5 times in 40.0 s",
            "270 calls: residence p99.9 1.2 ms (0.9, 1.2, 5.0), the floor's 0.8 ms (0.8)",
            "toward the caller: 12 calls, the same speech (similarity 0.97 at least), PESQ-NB 4.10, mu-law alone 4.20: 0.100 below it call by call, standard error 0.012",
        ] {
            assert!(text.contains(said), "{said} is missing in\n{text}");
        }
    }

    #[test]
    fn set_ups_say_how_long_each_window_found_them_and_what_the_slowest_waited_for() {
        let spread = |p50: f64, p99: f64| json!({"p50_us": p50, "p99_us": p99});
        let pace = json!({"per_second": 1_000.0, "media_both_ways": spread(7_000.0, 9_000.0), "connected": spread(6_500.0, 8_000.0),
            "windows_p99_us": [8_800.0, 9_000.0, 25_000.0], "windows_with_stalls_p99_us": [8_900.0, 31_000.0, 25_000.0],
            "spoiled": [null, null, "others used the core"], "again": [{}], "core_percent": 35.2, "generator_percent": 40.9,
            "failed": 0, "refused_with_503": 2, "beyond_a_timer": 1,
            "steps": ["request", "ice_and_dtls"], "slowest_us": [5_200.0, 3_000.0], "median_us": [900.0, 5_600.0]});
        let most = json!({"extrapolated_per_second_and_core": 2_866.0, "us_each": 349.0, "failed": 0, "refused_with_503": 0,
            "generator_percent": 90.0, "generator_limited": true, "at_half_of_the_target": pace});
        let text = set_up(&json!({"without_sip": most}));
        for said in [
            "  without SIP          2866       349       0        0       90 %!\n",
            "1000 a second, half of the target: p50 / p99 7.0 / 9.0 ms (8.8, 9.0, 25.0), with nothing left out (8.9, 31.0, 25.0); \
             connected 6.5 / 8.0 ms; core 35 %, generator 41 %, 1 of 3 windows SPOILED by the machine, 1 measured again, 2 were refused, \
             1 waited for a retransmission\n",
            "of the slowest hundredth, and the median in brackets: request 5.2 (0.9), ICE and DTLS 3.0 (5.6)\n",
        ] {
            assert!(text.contains(said), "{said} is missing in\n{text}");
        }
        let before = json!({"half_rate": 1_241.0, "connected": spread(6_700.0, 13_000.0), "media_both_ways": spread(7_300.0, 24_900.0)});
        let text_before = set_up(&json!({"with_sip": before}));
        assert!(
            text_before.contains(
                "with SIP     1241 a second, half of that: p50 / p99 7.3 / 24.9 ms; connected 6.7 / 13.0 ms\n"
            ),
            "{text_before}"
        );
        assert!(!text.contains("with SIP") && !text.contains("half of that:"), "{text}");
    }

    #[test]
    fn what_a_run_does_not_have_is_not_said() {
        let failed = part(&json!({"floor_with_own_functions": {"error": "no room"}}), &Value::Null);
        assert!(failed.contains("own functions of libopus: failed: no room"), "{failed}");
        assert_eq!(part(&json!({"error": "no room"}), &Value::Null), "");
        assert_eq!(overload(&json!({})) + &scaling(&json!({})), "");
    }
}
