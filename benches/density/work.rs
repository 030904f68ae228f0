//! Whole-call work without sockets on one thread, alone and beside a neighbour: whether two workers share anything on a packet's path.
//!
//! A neighbouring *thread* of the same process could share cache lines with it, a neighbouring *process* cannot; both share with it what
//! the machine makes them share (memory, the outer cache, its power). So what a thread costs more than a process is what the program
//! shares by itself.
//!
//! Why not two workers under load: where the generator needs the second core, such a run measures the generator.

use super::process::keep_on;
use anyhow::{Context, Result, bail};
use benches::{Call, Kind};
use engine::io::clock;
use engine::sdp::Codec;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Relayed calls of a thread: the more there are, the more a packet finds nothing of its call in the inner caches.
const CALLS: usize = 200;
/// Frames of all calls that are made beforehand, so that making them is not measured.
const WARM_UP: usize = 10;
/// How long one arrangement is measured.
const TIME: Duration = Duration::from_millis(1_500);
/// Repetitions, of which the least disturbed counts.
const ROUNDS: usize = 3;

/// Nanoseconds of one call's 20 ms, both ways: alone, beside a thread, beside a process.
pub fn measure(cores: [usize; 2]) -> Result<Value> {
    let program = std::env::current_exe()?;
    let [core, other] = cores;
    let mut least = [f64::MAX; 3];
    for _ in 0..ROUNDS {
        let neighbour = Neighbour::start(&program, other)?;
        least[2] = least[2].min(work(core, None)?);
        drop(neighbour);
        least[0] = least[0].min(work(core, None)?);
        least[1] = least[1].min(work(core, Some(other))?);
    }
    let [alone, thread, process] = least.map(|nanos| nanos.round());
    Ok(json!({
        "calls_of_a_thread": CALLS, "ns_alone": alone, "ns_beside_a_thread": thread, "ns_beside_a_process": process,
        "thread_to_process": (1_000.0 * thread / process).round() / 1_000.0,
    }))
}

/// `density work CORE`: works there until it is killed.
pub fn neighbour(core: usize) -> Result<()> {
    keep_on(0, &[core])?;
    let mut calls = calls();
    println!("ready");
    loop {
        frame(&mut calls);
    }
}

/// Another process that does the same; ended when dropped.
struct Neighbour(Child);

impl Neighbour {
    fn start(program: &std::path::Path, core: usize) -> Result<Neighbour> {
        let mut command = Command::new(program);
        let child = command.args(["work", &core.to_string()]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut neighbour = Neighbour(child);
        let mut said = String::new();
        let out = neighbour.0.stdout.take().context("a pipe")?;
        BufReader::new(out.take(16)).read_line(&mut said)?;
        if said.trim() != "ready" {
            bail!("the neighbour does not start");
        }
        Ok(neighbour)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures a thread on `core`; one on `beside` does the same meanwhile.
fn work(core: usize, beside: Option<usize>) -> Result<f64> {
    let (done, barrier) = (AtomicBool::new(false), Barrier::new(1 + usize::from(beside.is_some())));
    std::thread::scope(|scope| {
        if let Some(beside) = beside {
            let (done, barrier) = (&done, &barrier);
            scope.spawn(move || {
                let mut calls = keep_on(0, &[beside]).map(|()| calls()).unwrap_or_default();
                barrier.wait();
                while !done.load(Ordering::Relaxed) {
                    frame(&mut calls);
                }
            });
        }
        let measured = scope.spawn(|| -> Result<f64> {
            // Whoever waits at the barrier must not wait for ever.
            let kept = keep_on(0, &[core]);
            let mut calls = calls();
            barrier.wait();
            kept?;
            let (began, mut nanos, mut frames) = (clock::now(), 0, 0);
            while clock::now().since(began) < TIME {
                nanos += frame(&mut calls);
                frames += 1;
            }
            Ok(nanos as f64 / (frames * CALLS) as f64)
        });
        let nanos = measured.join();
        done.store(true, Ordering::Relaxed);
        nanos.unwrap_or_else(|_| bail!("the measured thread panicked"))
    })
}

fn calls() -> Vec<Call> {
    let mut calls: Vec<Call> = (0..CALLS).map(|_| Call::set_up(Kind::WhatsApp, Kind::Rtp(Codec::Opus))).collect();
    for _ in 0..WARM_UP {
        frame(&mut calls);
    }
    calls
}

/// Carries 20 ms of all calls; answers the nanoseconds without what the far ends need.
fn frame(calls: &mut [Call]) -> u64 {
    let mut prepared: Vec<_> = calls.iter_mut().map(Call::prepare).collect();
    let began = clock::now();
    for (call, frame) in calls.iter_mut().zip(&mut prepared) {
        call.carry(frame);
    }
    clock::now().since(began).as_nanos() as u64
}
