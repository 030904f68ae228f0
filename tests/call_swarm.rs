//! A thousand seeded calls under faults: each ends bridged or ended, with cause and side, and leaves nothing behind.
//!
//! `SIM_SEED=n cargo test --test call_swarm one_seed` runs one of them again; `SIM_CALLS=n` runs another number.

use harness::{one_seeded_call, seed_from_env_or};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the thousand begin.
const FIRST_SEED: u64 = 1_000;

#[test]
fn a_thousand_seeded_calls_end_well_under_faults() {
    let count: u64 = std::env::var("SIM_CALLS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000);
    let next = AtomicU64::new(0);
    let outcomes: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());
    let bridged = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    let outcome = one_seeded_call(FIRST_SEED + n);
                    bridged.fetch_add(u64::from(outcome.bridged), Ordering::Relaxed);
                    *outcomes.lock().expect("no panic while it is held").entry(outcome.end).or_default() += 1;
                }
            });
        }
    });
    let bridged = bridged.into_inner();
    println!("{bridged} of {count} calls were bridged; how they ended:");
    for (end, calls) in outcomes.into_inner().expect("all threads are done") {
        println!("{calls:>5}  {end}");
    }
    // Half of the users hang up early, one bot in ten is busy and one only rings: about half of the calls must still come to be.
    assert!(bridged * 100 >= count * 35, "only {bridged} of {count} calls were bridged");
}

#[test]
fn one_seed() {
    one_seeded_call(seed_from_env_or(FIRST_SEED));
}
