//! Keys cross the bridge as fresh events, each once, whatever is lost.

mod common;

use common::{Faults, Kind, Speech, World};
use engine::bridge::{BridgeCommand, LegName};
use engine::rtp::telephone_event::Digit;
use engine::sdp::Codec;

const WHATSAPP: Kind = Kind::WhatsApp(Codec::Opus);
const BOT: Kind = Kind::Rtp(Codec::Pcmu);
const LOSSY: Faults = Faults { loss_pct: 20, duplicate_pct: 5, jitter_ms: 30, is_cut: false, drops_dtls: false };

#[test]
fn keys_cross_both_ways_once_each_under_loss() {
    for seed in 0..10 {
        let mut world = World::connected(seed, WHATSAPP, BOT);
        let now = world.now;
        world.peers[0].start(now, Speech::Tone(440.0));
        world.peers[1].start(now, Speech::Tone(1_000.0));
        world.run_ms(1_000);
        world.links = [LOSSY; 4];
        world.peers[0].press("1123#");
        world.peers[1].press("9*");
        world.run_ms(6_000);
        assert_eq!(world.digits(LegName::A), "1123#", "seed {seed}");
        assert_eq!(world.digits(LegName::B), "9*", "seed {seed}");
        assert_eq!(world.peers[1].digits_heard(), "1123#", "seed {seed}");
        assert_eq!(world.peers[0].digits_heard(), "9*", "seed {seed}");
        world.assert_continuous(LegName::A, 960);
        world.assert_continuous(LegName::B, 160);
    }
}

/// Keys that a peer heard, with their lengths in ms.
fn heard(world: &World, leg: LegName) -> Vec<(char, u32)> {
    let peer = &world.peers[leg as usize];
    let format = peer.leg.format().unwrap().telephone_event.unwrap();
    let mut keys: Vec<(u32, char, u32)> = Vec::new();
    for packet in peer.heard.iter().filter(|heard| heard.payload_type == format.receive_payload_type) {
        let ticks = u32::from(u16::from_be_bytes([packet.payload[2], packet.payload[3]]));
        let key = Digit::from_event(packet.payload[0]).unwrap().as_char();
        match keys.iter_mut().find(|(timestamp, ..)| *timestamp == packet.timestamp.0) {
            Some((_, _, longest)) => *longest = ticks.max(*longest),
            None => keys.push((packet.timestamp.0, key, ticks)),
        }
    }
    keys.into_iter().map(|(_, key, ticks)| (key, ticks * 1_000 / format.clock_rate_hz)).collect()
}

#[test]
fn keys_keep_their_lengths_at_20_percent_loss_in_both_clock_rates() {
    let pressed = [('1', 80), ('2', 300), ('3', 100), ('#', 640)];
    let (mut exact, mut all) = (0, 0);
    for seed in 0..8 {
        let mut world = World::connected(300 + seed, WHATSAPP, BOT);
        let now = world.now;
        world.peers[0].start(now, Speech::Tone(440.0));
        world.peers[1].start(now, Speech::Tone(1_000.0));
        world.run_ms(1_000);
        world.links = [LOSSY; 4];
        for peer in &mut world.peers {
            for (key, length_ms) in pressed {
                assert!(peer.keys.press(Digit::from_char(key).unwrap(), length_ms));
            }
        }
        world.run_ms(8_000);
        for leg in [LegName::A, LegName::B] {
            let heard = heard(&world, leg);
            let keys = |keys: &[(char, u32)]| keys.iter().map(|(key, _)| *key).collect::<String>();
            assert_eq!(keys(&heard), keys(&pressed), "seed {seed}, {leg:?}");
            for ((_, long), (key, length_ms)) in heard.into_iter().zip(pressed) {
                // All three packets of the end may be lost, on either link; then the key is shorter by what was not heard.
                assert!(long <= length_ms && long + 100 >= length_ms, "seed {seed}, {leg:?}: {key} lasts {long} ms");
                exact += u32::from(long == length_ms);
                all += 1;
            }
        }
    }
    assert!(exact * 100 >= all * 95, "{exact} of {all} keys have their length");
}

#[test]
fn control_presses_keys_on_either_leg() {
    for (a, b) in [(WHATSAPP, BOT), (Kind::Rtp(Codec::Pcmu), BOT), (WHATSAPP, Kind::Browser(Codec::Opus))] {
        let mut world = World::connected(20, a, b);
        let now = world.now;
        world.peers[0].start(now, Speech::Tone(440.0));
        world.peers[1].start(now, Speech::Tone(1_000.0));
        world.run_ms(500);
        for leg in [LegName::A, LegName::B] {
            for character in "4 2".chars().filter_map(Digit::from_char) {
                world.command(BridgeCommand::SendDigit { leg, digit: character, duration_ms: 120 });
            }
        }
        world.run_ms(3_000);
        for leg in [LegName::A, LegName::B] {
            assert_eq!(world.peers[leg as usize].digits_heard(), "42", "{a:?} {b:?} {leg:?}");
            let sent = &world.left[leg as usize];
            let is_stepped = sent.windows(2).all(|pair| pair[1].sequence == pair[0].sequence.wrapping_add(1));
            assert!(is_stepped, "{a:?} {b:?} {leg:?}");
        }
        // Audio is back after the keys.
        let since = now.plus_millis(2_500);
        assert!(world.tone_share(LegName::A, 1_000.0, since) > 0.9);
        assert!(world.tone_share(LegName::B, 440.0, since) > 0.9);
    }
}

#[test]
fn relay_passes_event_packets_on_with_the_other_legs_number() {
    let mut world = World::connected(21, Kind::Rtp(Codec::Pcmu), BOT);
    let now = world.now;
    world.peers[0].start(now, Speech::Tone(440.0));
    world.run_ms(500);
    world.peers[0].press("7");
    world.run_ms(2_000);
    assert_eq!(world.digits(LegName::A), "7");
    assert_eq!(world.peers[1].digits_heard(), "7");
    assert!(world.left[1].iter().any(|left| left.payload_type == 101));
    assert!(world.left[1].iter().all(|left| left.payload_type == 101 || left.payload_type == 0));
    world.assert_continuous(LegName::B, 160);
}

#[test]
fn keys_that_control_presses_into_a_relayed_stream_leave_its_clock_as_it_was() {
    let mut world = World::connected(23, Kind::Rtp(Codec::Pcmu), BOT);
    let now = world.now;
    world.peers[0].start(now, Speech::Tone(440.0));
    world.run_ms(500);
    let first = world.left[1][0];
    for character in "123456".chars() {
        let digit = Digit::from_char(character).unwrap();
        world.command(BridgeCommand::SendDigit { leg: LegName::B, digit, duration_ms: 100 });
        world.run_ms(1_000);
    }
    assert_eq!(world.peers[1].digits_heard(), "123456");
    let last = *world.left[1].last().unwrap();
    let passed = last.at.since(first.at).as_millis() as u32 * 8;
    let ticks = last.timestamp.wrapping_sub(first.timestamp);
    assert!(ticks.abs_diff(passed) <= 160, "{ticks} of {passed}");
}

#[test]
fn a_key_is_heard_while_the_peer_is_silent() {
    let mut world = World::connected(22, WHATSAPP, BOT);
    let now = world.now;
    world.peers[1].start(now, Speech::Nothing);
    world.peers[0].start(now, Speech::Nothing);
    world.run_ms(500);
    world.peers[0].press("5");
    world.peers[1].press("6");
    world.run_ms(1_500);
    assert_eq!((world.digits(LegName::A).as_str(), world.digits(LegName::B).as_str()), ("5", "6"));
    assert_eq!((world.peers[1].digits_heard(), world.peers[0].digits_heard()), ("5".into(), "6".into()));
    world.assert_continuous(LegName::A, 960);
    world.assert_continuous(LegName::B, 160);
}
