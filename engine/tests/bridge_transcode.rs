//! Bridges between legs of different codecs: Opus and G.711, both directions, under faults.

mod common;

use common::{Faults, Kind, Speech, World};
use engine::bridge::{BridgeCommand, LegName};
use engine::leg::LegEvent;
use engine::sdp::Codec;

const WHATSAPP: Kind = Kind::WhatsApp(Codec::Opus);
const BOT: Kind = Kind::Rtp(Codec::Pcmu);
const BAD_LINK: Faults = Faults { loss_pct: 10, duplicate_pct: 2, jitter_ms: 60, is_cut: false, drops_dtls: false };

fn ticks(kind: Kind) -> u32 {
    kind.codec().clock_rate_hz() / 50
}

/// A tone each way is heard within a second of its start, and the streams have no seam.
fn assert_tones_cross(a: Kind, b: Kind) {
    let mut world = World::connected(1, a, b);
    let start = world.now;
    world.peers[0].start(start, Speech::Tone(440.0));
    world.peers[1].start(start, Speech::Tone(1_000.0));
    world.run_ms(3_000);
    let since = start.plus_millis(1_000);
    assert!(world.tone_share(LegName::B, 440.0, since) > 0.9, "{}", world.tone_share(LegName::B, 440.0, since));
    assert!(world.tone_share(LegName::A, 1_000.0, since) > 0.9, "{}", world.tone_share(LegName::A, 1_000.0, since));
    world.assert_continuous(LegName::A, ticks(a));
    world.assert_continuous(LegName::B, ticks(b));
    for leg in [LegName::A, LegName::B] {
        assert_eq!(world.has_leg_event(leg, LegEvent::FirstReceived), 1);
        assert_eq!(world.has_leg_event(leg, LegEvent::FirstSent), 1);
    }
    assert_eq!(world.metrics.dropped, [0; engine::error::DropReason::COUNT]);
    assert_eq!(world.metrics.packets_concealed, 0);
}

#[test]
fn tones_cross_between_whatsapp_and_a_pcmu_bot() {
    assert_tones_cross(WHATSAPP, BOT);
}

#[test]
fn tones_cross_between_a_browser_and_a_pcma_trunk() {
    assert_tones_cross(Kind::Browser(Codec::Opus), Kind::Rtp(Codec::Pcma));
}

#[test]
fn tones_cross_with_the_legs_the_other_way_round() {
    assert_tones_cross(BOT, Kind::Browser(Codec::Opus));
}

#[test]
fn tones_cross_between_pcmu_and_pcma() {
    assert_tones_cross(Kind::Rtp(Codec::Pcmu), Kind::Rtp(Codec::Pcma));
}

#[test]
fn tones_cross_between_g722_and_every_other_codec() {
    assert_tones_cross(WHATSAPP, Kind::Rtp(Codec::G722));
    assert_tones_cross(Kind::Rtp(Codec::G722), BOT);
    assert_tones_cross(Kind::Rtp(Codec::Pcma), Kind::Rtp(Codec::G722));
    assert_tones_cross(Kind::Rtp(Codec::G722), Kind::Rtp(Codec::G722));
}

#[test]
fn what_lies_above_the_telephone_band_crosses_from_g722_to_opus_and_is_kept_out_of_pcmu() {
    for (far, heard) in [(Kind::Browser(Codec::Opus), true), (Kind::Rtp(Codec::Pcmu), false)] {
        let mut world = World::connected(11, far, Kind::Rtp(Codec::G722));
        let start = world.now;
        world.peers[1].start(start, Speech::Tone(5_500.0));
        world.run_ms(3_000);
        let (pcm, rate_hz) = world.peers[0].decode_heard(start.plus_millis(1_000));
        let level = (pcm.iter().map(|sample| sample * sample).sum::<f64>() / pcm.len() as f64).sqrt();
        if heard {
            assert_eq!(rate_hz, 16_000);
            assert!(world.tone_share(LegName::A, 5_500.0, start.plus_millis(1_000)) > 0.9);
            assert!((4_000.0..8_000.0).contains(&level), "{level}");
        } else {
            // 40 dB below the tone is what G.722 itself adds.
            assert!(level < 80.0, "nothing folds into the telephone band: {level}");
        }
        world.assert_continuous(LegName::A, ticks(far));
    }
}

#[test]
fn a_greeting_in_g722_waits_for_the_release_with_its_band() {
    let mut world = World::new(12, WHATSAPP, Kind::Rtp(Codec::G722), true);
    world.run_ms(1_000);
    world.answer_b(Kind::Rtp(Codec::G722));
    let start = world.now;
    world.peers[1].start(start, Speech::Tone(5_500.0));
    world.run_ms(1_500);
    world.command(BridgeCommand::Release { leg: LegName::A });
    let released = world.now;
    world.run_ms(1_000);
    assert!(world.tone_share(LegName::A, 5_500.0, released.plus_millis(100)) > 0.9);
    world.assert_continuous(LegName::A, 960);
}

#[test]
fn streams_have_no_seam_under_loss_jitter_and_drift() {
    for seed in 0..10 {
        let mut world = World::connected(seed, WHATSAPP, BOT);
        let start = world.now;
        world.links = [BAD_LINK; 4];
        world.peers[1].drift_ppm = [0, 300, -300][seed as usize % 3];
        world.peers[0].start(start, Speech::Tone(440.0));
        world.peers[1].start(start, Speech::Tone(1_000.0));
        world.run_ms(20_000);
        world.assert_continuous(LegName::A, 960);
        world.assert_continuous(LegName::B, 160);
        let since = start.plus_millis(1_000);
        assert!(world.tone_share(LegName::B, 440.0, since) > 0.6, "{}", world.tone_share(LegName::B, 440.0, since));
        assert!(world.tone_share(LegName::A, 1_000.0, since) > 0.6, "{}", world.tone_share(LegName::A, 1_000.0, since));
        // One packet per 20 ms, neither more nor less.
        for leg in [LegName::A, LegName::B] {
            let sent = world.left[leg as usize].iter().filter(|left| left.at > start).count();
            assert!((994..=1_006).contains(&sent), "seed {seed}, {leg:?}: {sent}");
        }
        assert!(world.metrics.packets_concealed > 50);
    }
}

#[test]
fn a_silent_bot_is_filled_with_one_packet_per_packet_time() {
    let mut world = World::connected(3, WHATSAPP, BOT);
    let start = world.now;
    world.run_ms(10_000);
    let sent: Vec<_> = world.left[0].iter().filter(|left| left.at > start).map(|left| left.at).collect();
    assert_eq!(sent.len(), 500);
    assert!(sent.windows(2).all(|pair| pair[1].since(pair[0]).as_millis() == 20));
    // Speech, pauses, speech: the clock neither runs twice nor stops.
    for _ in 0..5 {
        let now = world.now;
        world.peers[1].start(now, Speech::Tone(700.0));
        world.run_ms(1_010);
        world.peers[1].speech = Speech::Nothing;
        world.run_ms(730);
    }
    world.assert_continuous(LegName::A, 960);
    let sent = world.left[0].iter().filter(|left| left.at > start).count() as u64;
    let due = world.now.since(start).as_millis() as u64 / 20;
    assert!(sent.abs_diff(due) <= 3, "{sent} of {due}");
    let longest = world.left[0].windows(2).map(|pair| pair[1].at.since(pair[0].at).as_millis()).max().unwrap();
    assert!(longest <= 120, "{longest}");
}

#[test]
fn every_packet_time_of_a_trunk_becomes_frames_of_twenty_milliseconds() {
    for ptime_ms in [10, 20, 30, 40, 60] {
        let mut world = World::connected(4, WHATSAPP, BOT);
        let start = world.now;
        world.peers[1].ptime_ms = ptime_ms;
        world.peers[1].start(start, Speech::Tone(1_000.0));
        world.run_ms(5_000);
        world.assert_continuous(LegName::A, 960);
        let share = world.tone_share(LegName::A, 1_000.0, start.plus_millis(1_000));
        assert!(share > 0.9, "{ptime_ms} ms: {share}");
        let sent = world.left[0].iter().filter(|left| left.at > start).count();
        assert!((245..=255).contains(&sent), "{ptime_ms} ms: {sent}");
    }
}

#[test]
fn a_trunk_packet_is_sent_on_without_delay() {
    let mut world = World::connected(5, WHATSAPP, BOT);
    let start = world.now;
    world.peers[1].start(start, Speech::Tone(1_000.0));
    world.run_ms(3_000);
    // 10 ms each on the two links, nothing between.
    let late = world.left[0].iter().filter(|left| left.at > start.plus_millis(500));
    assert!(late.clone().all(|left| left.at.since(start).as_millis() % 20 == 10));
}

#[test]
fn a_new_ssrc_on_either_side_changes_nothing_on_the_other() {
    let mut world = World::connected(6, WHATSAPP, BOT);
    let start = world.now;
    world.peers[0].start(start, Speech::Tone(440.0));
    world.peers[1].start(start, Speech::Tone(1_000.0));
    world.run_ms(2_000);
    for peer in 0..2 {
        let mut random = engine::random::Random::from_test_seed(77 + peer as u64);
        let rate_hz = [48_000, 8_000][peer];
        let ssrc = random.next_u32();
        *world.peers[peer].leg.sender() = engine::rtp::sender::RtpSender::new(ssrc, rate_hz, &mut random);
    }
    world.run_ms(3_000);
    let since = start.plus_millis(3_000);
    assert!(world.tone_share(LegName::B, 440.0, since) > 0.9);
    assert!(world.tone_share(LegName::A, 1_000.0, since) > 0.9);
    world.assert_continuous(LegName::A, 960);
    world.assert_continuous(LegName::B, 160);
}

#[test]
fn a_receiver_that_reports_loss_gets_redundancy_until_its_path_has_healed() {
    let mut world = World::connected(10, WHATSAPP, BOT);
    let start = world.now;
    world.peers[1].start(start, Speech::Tone(1_000.0));
    world.run_ms(10_000);
    assert_eq!(world.bridge.stats().redundant_to_a, 0, "a clean path needs none");
    world.links[1].loss_pct = 10;
    world.run_ms(20_000);
    assert!(world.bridge.stats().redundant_to_a > 400, "{:?}", world.bridge.stats());
    world.links[1].loss_pct = 0;
    world.run_ms(60_000);
    let healed = world.bridge.stats().redundant_to_a;
    world.run_ms(10_000);
    assert_eq!(world.bridge.stats().redundant_to_a, healed);
    assert_eq!((world.metrics.packets_redundant, world.bridge.stats().redundant_to_b), (healed, 0));
    world.assert_continuous(LegName::A, 960);
}
