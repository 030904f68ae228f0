//! Clocks that differ, for as long as a call lasts.

mod common;

use common::{Kind, Speech, World};
use engine::bridge::LegName;
use engine::sdp::Codec;

/// Minutes of a call; `DRIFT_MINUTES=30` for the whole of what the targets name.
fn minutes() -> u32 {
    std::env::var("DRIFT_MINUTES").ok().and_then(|minutes| minutes.parse().ok()).unwrap_or(4)
}

/// Both peers are off by `ppm`: a tone each way is heard without a glitch, and the delay stays what it was.
fn a_long_call(ppm: i64) {
    let mut world = World::connected(1, Kind::Rtp(Codec::Opus), Kind::Rtp(Codec::Pcmu));
    let start = world.now;
    for peer in &mut world.peers {
        peer.drift_ppm = ppm;
    }
    world.peers[0].start(start, Speech::Tone(440.0));
    world.peers[1].start(start, Speech::Tone(1_000.0));
    world.run_ms(10_000);
    for minute in 0..minutes() {
        let since = world.now;
        world.run_ms(60_000);
        // 500 ppm are 30 ms a minute: a handful of pitch periods taken out or put in, each in its place.
        for (leg, hz) in [(LegName::B, 440.0), (LegName::A, 1_000.0)] {
            let share = world.tone_share(leg, hz, since);
            assert!(share > 0.99, "{ppm} ppm, minute {minute}, {leg:?}: {share}");
        }
        let playout = world.bridge.stats().playout.unwrap();
        assert!(playout.delay_ms <= 60, "{ppm} ppm, minute {minute}: {playout:?}");
        for peer in &mut world.peers {
            peer.heard.clear();
        }
    }
    world.assert_continuous(LegName::A, 960);
    world.assert_continuous(LegName::B, 160);
    let playout = world.bridge.stats().playout.unwrap();
    // All of the drift went through stretching, but for what the leaning of the ticks holds.
    let drifted_ms = 30 * minutes();
    let (along, against) = match ppm > 0 {
        true => (playout.shortened_ms, playout.lengthened_ms),
        false => (playout.lengthened_ms, playout.shortened_ms),
    };
    assert!((drifted_ms - 50..=drifted_ms + 60).contains(&(along - against)), "{playout:?}");
    // A whole period is put in where less is missing; what is too much of it may be taken out again.
    assert!(against <= drifted_ms / 5, "{playout:?}");
    assert_eq!((playout.lost, playout.skipped), (0, 0), "{playout:?}");
    assert!(playout.concealed <= 2, "{playout:?}");
}

#[test]
fn a_sender_500_ppm_fast_is_heard_without_a_glitch() {
    a_long_call(500);
}

#[test]
fn a_sender_500_ppm_slow_is_heard_without_a_glitch() {
    a_long_call(-500);
}
