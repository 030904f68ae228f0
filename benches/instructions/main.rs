//! How many instructions and allocations fixed pieces of work need, by callgrind: what a change costs, without a quiet machine.
//!
//! ```text
//! cargo run -p benches --bin instructions            a table, against what is recorded
//! cargo run -p benches --bin instructions -- check   the same, and fails where something became dearer (part of `make test`)
//! cargo run -p benches --bin instructions -- record  writes benches/results/instructions.json; --release fills its other column
//! ```
//!
//! Each work runs in a program of its own under valgrind, whose virtual processor is the same everywhere (AVX2 at most), and only
//! what happens inside `measured` is counted. The gate reads the development profile, which every `make test` builds anyway; how the
//! release behaves is recorded beside it.
//!
//! Why not time: it differs by more from one run to the next on a shared machine than any change that must not go unseen.

use anyhow::{Context, Result, bail};
use benches::{Call, Kind, opus_packets, speech_8k, speech_16k};
use engine::media::decode::{DECODED_SAMPLES_MAX, Decoder};
use engine::media::encode::{ENCODED_BYTES_MAX, Encoder, FRAME_SAMPLES};
use engine::media::g711::Law;
use engine::media::resample::Decimator;
use engine::rtp::header;
use engine::sdp::{Codec, OpusParameters};
use engine::srtp::{MASTER_BYTES_MAX, MasterKey, Protect, SrtpProfile, Unprotect};
use serde_json::{Value, json};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What is recorded.
const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/results/instructions.json");
/// So much dearer is not yet a regression: compilers and libraries differ a little.
const TOLERANCE: f64 = 0.10;
/// And so few instructions are never one.
const SLACK: f64 = 50.0;
/// Repetitions of which the mean is taken: two seconds of a call.
const FRAMES: u64 = 100;
/// What is done before counting begins: caches, tables and jitter buffers fill.
const WARM_UP: u64 = 30;

/// Makes a piece of work.
type Make = fn() -> Work;

/// All of them, by name.
const WORKS: [(&str, Make); 13] = [
    ("call 20 ms, whatsapp to pcmu, transcoded", || call(Kind::WhatsApp, Kind::Rtp(Codec::Pcmu))),
    ("call 20 ms, browser to pcma, transcoded", || call(Kind::Browser, Kind::Rtp(Codec::Pcma))),
    ("call 20 ms, whatsapp to rtp, relayed", || call(Kind::WhatsApp, Kind::Rtp(Codec::Opus))),
    ("call 20 ms, whatsapp to browser, relayed", || call(Kind::WhatsApp, Kind::Browser)),
    ("call 20 ms, pcmu to pcmu, relayed", || call(Kind::Rtp(Codec::Pcmu), Kind::Rtp(Codec::Pcmu))),
    ("opus decode to 16 kHz", opus_decode),
    ("opus encode from 8 kHz", opus_encode),
    ("srtp there and back, aes128-cm-sha1-80", || srtp(SrtpProfile::AesCm128HmacSha1_80)),
    ("srtp there and back, aes128-gcm", || srtp(SrtpProfile::AeadAes128Gcm)),
    ("srtp there and back, aes256-gcm", || srtp(SrtpProfile::AeadAes256Gcm)),
    ("decimate 20 ms", decimate),
    ("g711 20 ms there and back", g711),
    ("rtp header parsed", rtp_header),
];

/// One repetition; `prepare` is not counted.
struct Work {
    prepare: Box<dyn FnMut()>,
    run: Box<dyn FnMut()>,
}

/// Counts what is asked for inside `measured`.
struct Counting;

static INSIDE: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn count() {
    if INSIDE.load(Ordering::Relaxed) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Callgrind counts from here on and stops at its end: it knows the function by this very name.
#[inline(never)]
#[unsafe(export_name = "measured")]
fn measured(work: &mut dyn FnMut()) {
    INSIDE.store(true, Ordering::Relaxed);
    work();
    INSIDE.store(false, Ordering::Relaxed);
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["work", name] => work(name),
        [] => compare(false),
        ["check"] => compare(true),
        ["record"] => record(),
        _ => bail!("write nothing, check, or record"),
    }
}

/// What valgrind runs: prints the allocations.
fn work(name: &str) -> Result<()> {
    let (_, make) = WORKS.iter().find(|(known, _)| *known == name).context("no such work")?;
    let Work { mut prepare, mut run } = make();
    for _ in 0..WARM_UP {
        prepare();
        run();
    }
    for _ in 0..FRAMES {
        prepare();
        measured(&mut run);
    }
    println!("{}", ALLOCATIONS.load(Ordering::Relaxed));
    Ok(())
}

/// Instructions and allocations of one repetition.
#[derive(Clone, Copy)]
struct Cost {
    instructions: f64,
    allocations: f64,
}

fn cost(name: &str) -> Result<Cost> {
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--collect-atstart=no",
            "--toggle-collect=measured",
        ])
        .arg(std::env::current_exe()?)
        .args(["work", name])
        .output()
        .context("valgrind is missing: run tests/install.sh test")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!("{name}: {said}");
    }
    let collected = said.lines().find_map(|line| line.split("Collected : ").nth(1)).context("nothing was collected")?;
    let instructions: u64 = collected.trim().parse()?;
    let allocations: u64 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    let each = |total: u64| total as f64 / FRAMES as f64;
    if instructions == 0 {
        bail!("{name}: nothing was counted");
    }
    Ok(Cost { instructions: each(instructions), allocations: each(allocations) })
}

fn profile() -> &'static str {
    if cfg!(debug_assertions) { "dev" } else { "release" }
}

fn recorded() -> Value {
    let text = std::fs::read_to_string(RECORD).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Prints what everything costs and has cost; with `gate` fails where it is more.
fn compare(gate: bool) -> Result<()> {
    let recorded = recorded();
    let mut dearer = Vec::new();
    for (name, _) in WORKS {
        let now = cost(name)?;
        let before = &recorded["works"][name][profile()];
        let (instructions, allocations) = (before["instructions"].as_f64(), before["allocations"].as_f64());
        let change = instructions.map_or("not recorded".into(), |before| {
            format!("{:+.1} % to {before:.0}", (now.instructions / before - 1.0) * 100.0)
        });
        println!("{name:<44} {:>9.0} instructions ({change}), {} allocations", now.instructions, now.allocations);
        let limit = instructions.map_or(0.0, |before| before * (1.0 + TOLERANCE) + SLACK);
        if now.instructions > limit || now.allocations > allocations.unwrap_or(0.0) {
            dearer.push(name);
        }
    }
    match gate && !dearer.is_empty() {
        true => bail!(
            "dearer than recorded by more than {:.0} %, or allocating: {}. If that is meant, say why in the commit and run `cargo run -p \
             benches --bin instructions -- record`",
            TOLERANCE * 100.0,
            dearer.join("; ")
        ),
        false => Ok(()),
    }
}

fn record() -> Result<()> {
    let mut recorded = recorded();
    recorded["command"] = json!("cargo run [--release] -p benches --bin instructions -- record");
    recorded["unit"] = json!("one repetition: 20 ms of a call both ways, or one packet");
    for (name, _) in WORKS {
        let now = cost(name)?;
        println!("{name:<44} {:>9.0} instructions, {} allocations", now.instructions, now.allocations);
        let value = json!({"instructions": now.instructions.round(), "allocations": now.allocations});
        recorded["works"][name][profile()] = value;
    }
    // Works that are gone have no record.
    if let Some(works) = recorded["works"].as_object_mut() {
        works.retain(|name, _| WORKS.iter().any(|(known, _)| known == name));
    }
    std::fs::write(RECORD, serde_json::to_string_pretty(&recorded)? + "\n")?;
    Ok(())
}

/// A piece of work without preparation.
fn alone(run: impl FnMut() + 'static) -> Work {
    Work { prepare: Box::new(|| {}), run: Box::new(run) }
}

fn call(a: Kind, b: Kind) -> Work {
    use std::cell::RefCell;
    use std::rc::Rc;
    let shared = Rc::new(RefCell::new((Call::set_up(a, b), None)));
    let preparing = Rc::clone(&shared);
    Work {
        prepare: Box::new(move || {
            let (call, frame) = &mut *preparing.borrow_mut();
            *frame = Some(call.prepare());
        }),
        run: Box::new(move || {
            let (call, frame) = &mut *shared.borrow_mut();
            if let Some(frame) = frame {
                black_box(call.carry(frame));
            }
        }),
    }
}

fn opus_decode() -> Work {
    let (mut decoder, packets, mut next) = (Decoder::new(Codec::Opus), opus_packets(), 0);
    let mut pcm = [0; DECODED_SAMPLES_MAX];
    alone(move || {
        next = (next + 1) % packets.len();
        let _ = black_box(decoder.decode(&packets[next], &mut pcm));
    })
}

fn opus_encode() -> Work {
    let (mut encoder, speech, mut next) = (Encoder::new(Codec::Opus, &OpusParameters::default()), speech_8k(), 0);
    let mut payload = [0; ENCODED_BYTES_MAX];
    alone(move || {
        next = (next + FRAME_SAMPLES) % (speech.len() - FRAME_SAMPLES);
        black_box(encoder.encode(&speech[next..next + FRAME_SAMPLES], &mut payload));
    })
}

fn srtp(profile: SrtpProfile) -> Work {
    let key = MasterKey { bytes: std::array::from_fn::<u8, MASTER_BYTES_MAX, _>(|at| at as u8) };
    let (mut protect, mut unprotect) = (Protect::new(profile, &key), Unprotect::new(profile, &key));
    let (mut buffer, mut sequence) = ([0x55; 512], 0u16);
    alone(move || {
        sequence = sequence.wrapping_add(1);
        buffer[..2].copy_from_slice(&[0x80, 111]);
        buffer[2..4].copy_from_slice(&sequence.to_be_bytes());
        let len = protect.rtp(&mut buffer, 72).unwrap_or(0);
        let _ = black_box(unprotect.rtp(&mut buffer[..len]));
    })
}

fn decimate() -> Work {
    let (mut decimator, speech, mut next) = (Decimator::new(), speech_16k(), 0);
    let mut narrow = [0; FRAME_SAMPLES];
    alone(move || {
        next = (next + 320) % (speech.len() - 320);
        decimator.resample(&speech[next..next + 320], &mut narrow);
        black_box(&narrow);
    })
}

fn g711() -> Work {
    let (speech, mut next) = (speech_8k(), 0);
    let (mut bytes, mut pcm) = ([0; FRAME_SAMPLES], [0; FRAME_SAMPLES]);
    alone(move || {
        next = (next + FRAME_SAMPLES) % (speech.len() - FRAME_SAMPLES);
        Law::Mu.encode(&speech[next..next + FRAME_SAMPLES], &mut bytes);
        Law::Mu.decode(black_box(&bytes), &mut pcm);
        black_box(&pcm);
    })
}

fn rtp_header() -> Work {
    let mut packet = [0x55; 72];
    packet[..2].copy_from_slice(&[0x80, 111]);
    alone(move || {
        let _ = black_box(header::parse(black_box(&packet)));
    })
}
