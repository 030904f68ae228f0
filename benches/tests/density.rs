//! The density bench itself works: calls come up, what one end says the other hears, and the floor runs beside it.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

#[test]
fn relayed_calls_are_carried_checked_scored_and_compared_with_the_floor() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_density"))
        .arg("relay_rtp")
        .current_dir(project)
        .env("DENSITY_CALLS", "4")
        .env("DENSITY_SECONDS", "0.5")
        .env_remove("DENSITY_PROFILE")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let results = std::fs::read_to_string(project.join("target/density/density-wideband-20k.json")).unwrap();
    let results: Value = serde_json::from_str(&results).unwrap();
    let part = &results["relay_rtp"];
    for who in ["steps", "floor"] {
        let step = &part[who][0];
        assert_eq!((&step["calls"], &step["broken"]), (&Value::from(4), &Value::from(0)), "{said}");
        assert!(step["residence_toward_a"]["p50_us"].as_f64().unwrap() > 0.0, "no packet had a time: {said}");
        assert!(step["core_percent"].as_f64().unwrap() > 0.0 && step["packets"].as_u64().unwrap() > 100, "{said}");
    }
    for side in ["toward_a", "toward_b"] {
        assert_eq!(part["scores"][side]["is_the_same_speech"], Value::Bool(true), "{said}");
    }
    let table = String::from_utf8_lossy(&output.stdout);
    for row in
        ["  knee       ", "  cost       times the floor: ", "  sound      toward the caller: 4 calls, the same speech"]
    {
        assert!(table.contains(row), "{row:?} is missing in\n{table}");
    }
    assert!(!table.contains('{'), "raw JSON in\n{table}");
}
