//! Every saved input, and changed copies of them, on each `cargo test`: what a fuzzer once found stays found.

use engine::random::Random;
use std::path::{Path, PathBuf};

/// Longest input made here.
const INPUT_BYTES_MAX: usize = 8_192;

/// Runs every saved input of a target and `copies` changed ones; the seed makes them the same every time.
fn replay(name: &str, copies: usize) {
    let target = fuzz::TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name").1;
    let inputs = saved(name);
    assert!(!inputs.is_empty(), "no saved input for {name}");
    for (path, input) in &inputs {
        run(target, input, &path.display().to_string());
    }
    let mut random = Random::from_test_seed(1);
    for number in 0..copies {
        let input = changed(&inputs, &mut random);
        run(target, &input, &format!("changed copy {number} of {name}"));
    }
}

/// Says which input it was when a target panics.
fn run(target: fn(&[u8]), input: &[u8], what: &str) {
    let outcome = std::panic::catch_unwind(|| target(input));
    if outcome.is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{what}, {} bytes: {hex}", input.len());
    }
}

/// The target's own inputs, and the fixtures of other tests that it can read, in the order of their names.
fn saved(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let borrowed: &[&str] = match name {
        "sdp" => &["../engine/tests/data/sdp", "../engine/tests/data/whatsapp_sdp"],
        "sip_message" => &["../control/tests/data/rfc4475"],
        "webhook" => &["../control/tests/data/whatsapp"],
        _ => &[],
    };
    let own = format!("corpus/{name}");
    let folders = borrowed.iter().copied().chain([own.as_str()]);
    let mut inputs = Vec::new();
    for folder in folders.map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)) {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("a readable folder").path()).filter(|path| path.is_file()) {
            let bytes = std::fs::read(&path).expect("a readable file");
            inputs.push((path, bytes));
        }
    }
    inputs.sort();
    inputs
}

/// A copy of a saved input with one to six changes.
fn changed(inputs: &[(PathBuf, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let any = |random: &mut Random| &inputs[random.below(inputs.len() as u32) as usize].1;
    let mut input = any(random).clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() as u32 + 1) as usize;
        let end = (at + 1 + random.below(16) as usize).min(input.len());
        match random.below(7) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff, b'\r', b'\n', b' '][random.below(8) as usize],
            2 => drop(input.drain(at..end)),
            3 => input.truncate(at),
            4 => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece.repeat(1 + random.below(4) as usize));
            }
            5 => {
                let mut piece = vec![0; 1 + random.below(8) as usize];
                random.fill(&mut piece);
                input.splice(at..at, piece);
            }
            _ => {
                let other = any(random);
                let from = random.below(other.len() as u32 + 1) as usize;
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

#[test]
fn bridge() {
    replay("bridge", 300);
}

#[test]
fn dtls() {
    replay("dtls", 1_000);
}

#[test]
fn rtcp() {
    replay("rtcp", 3_000);
}

#[test]
fn rtp_header() {
    replay("rtp_header", 5_000);
}

#[test]
fn sdp() {
    replay("sdp", 2_000);
}

#[test]
fn sip_agent() {
    replay("sip_agent", 4_000);
}

#[test]
fn sip_message() {
    replay("sip_message", 4_000);
}

#[test]
fn sip_stream() {
    replay("sip_stream", 3_000);
}

#[test]
fn srtp() {
    replay("srtp", 3_000);
}

#[test]
fn stun() {
    replay("stun", 4_000);
}

#[test]
fn telephone_event() {
    replay("telephone_event", 5_000);
}

#[test]
fn webhook() {
    replay("webhook", 2_000);
}

#[test]
fn every_target_is_replayed() {
    for (name, _) in fuzz::TARGETS {
        assert!(!saved(name).is_empty(), "no saved input for {name}");
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz_targets/{name}.rs"));
        let text = std::fs::read_to_string(program).expect("a program for each target");
        assert!(text.contains(&format!("fuzz::{name}(data)")));
    }
}
