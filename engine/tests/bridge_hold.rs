//! A held leg does everything but speak; what the far side says meanwhile is played from its start after the release.

mod common;

use common::{Kind, Speech, World, tone_share};
use engine::bridge::Port;
use engine::bridge::{BridgeCommand, LegName};
use engine::error::{Cause, Side};
use engine::leg::{CLOSE_GRACE_MS, Component, LegEvent};
use engine::rtp::header;
use engine::sdp::Codec;
use engine::srtp::SrtpProfile;
use engine::time::{Instant, RtpTimestamp};

const WHATSAPP: Kind = Kind::WhatsApp(Codec::Opus);
const BOT: Kind = Kind::Rtp(Codec::Pcmu);

fn held(seed: u64) -> World {
    let mut world = World::new(seed, WHATSAPP, BOT, true);
    world.run_ms(1_000);
    world
}

fn say(world: &mut World, speech: Speech, millis: u64) {
    world.peers[1].speech = speech;
    world.run_ms(millis);
}

/// When the caller first hears a tone of `hz`.
fn heard_at(world: &World, hz: f64) -> Option<Instant> {
    let peer = &world.peers[0];
    let (pcm, rate_hz) = peer.decode_heard(Instant::ZERO);
    let frame = rate_hz as usize / 50;
    let window = 2 * frame;
    let place = (0..pcm.len().saturating_sub(window))
        .step_by(frame)
        .find(|&start| tone_share(&pcm[start..start + window], rate_hz, hz) > 0.7)?;
    Some(peer.heard[place / frame].at)
}

#[test]
fn a_held_leg_sends_neither_rtp_nor_rtcp_and_plays_the_greeting_from_its_start() {
    let mut world = held(1);
    assert!(
        world.events.iter().any(|(_, event)| format!("{event:?}").contains("DtlsConnected")),
        "DTLS runs while held"
    );
    let start = world.now;
    world.answer_b(BOT);
    world.peers[1].start(start, Speech::Silence);
    say(&mut world, Speech::Tone(440.0), 600);
    say(&mut world, Speech::Tone(800.0), 600);
    // RTCP would have been due by now.
    world.peers[1].speech = Speech::Silence;
    world.run_ms(300);
    world.peers[0].start(world.now, Speech::Tone(500.0));
    assert_eq!((world.left[0].len(), world.rtcp_left[0]), (0, 0), "nothing leaves before the release");
    assert_eq!(world.has_leg_event(LegName::A, LegEvent::FirstSent), 0);

    world.command(BridgeCommand::Release { leg: LegName::A });
    let released = world.now;
    world.run_ms(1_000);
    say(&mut world, Speech::Silence, 1_500);
    let spoken = world.now;
    say(&mut world, Speech::Tone(1_200.0), 1_000);

    let greeting = heard_at(&world, 440.0).unwrap();
    assert!(greeting.since(released).as_millis() <= 60, "{:?}", greeting.since(released));
    let second = heard_at(&world, 800.0).unwrap();
    let length = second.since(greeting).as_millis();
    assert!((540..=660).contains(&length), "the greeting keeps its pace: {length}");
    let live = heard_at(&world, 1_200.0).unwrap();
    let lag = live.since(spoken).as_millis();
    assert!(lag <= 120, "the lag is caught up in the pause: {lag}");
    assert!(world.tone_share(LegName::B, 500.0, released.plus_millis(1_000)) > 0.9);
    world.assert_continuous(LegName::A, 960);
    assert!(world.rtcp_left[0] > 0);
}

/// Keyed by descriptions there is nothing to set up: such a leg could speak at once, and must not before the call is accepted.
#[test]
fn a_held_leg_that_needs_no_setting_up_is_as_silent_until_its_release() {
    let mut world = World::new(8, Kind::Sdes(Codec::Opus, SrtpProfile::AesCm128HmacSha1_80), BOT, false);
    world.command(BridgeCommand::Hold { leg: LegName::A });
    world.command(BridgeCommand::Comfort { leg: LegName::A });
    world.run_ms(1_000);
    world.answer_b(BOT);
    world.peers[1].start(world.now, Speech::Tone(440.0));
    world.run_ms(600);
    world.peers[1].speech = Speech::Silence;
    world.run_ms(6_000);
    assert_eq!((world.left[0].len(), world.rtcp_left[0]), (0, 0), "nothing leaves before the release");
    world.command(BridgeCommand::Release { leg: LegName::A });
    let released = world.now;
    world.peers[0].start(released, Speech::Tone(500.0));
    world.run_ms(3_000);
    assert!(world.left[0][0].at.since(released).as_millis() <= 20, "the first packet is ours");
    assert!(heard_at(&world, 440.0).unwrap().since(released).as_millis() <= 60, "the greeting from its start");
    assert!(world.tone_share(LegName::B, 500.0, released.plus_millis(1_000)) > 0.9);
    world.assert_continuous(LegName::A, 960);
    assert!(world.rtcp_left[0] > 0);
    // Whoever never sends is gone a minute after the release, not after the answer.
    let mut silent = World::new(9, Kind::Sdes(Codec::Opus, SrtpProfile::AesCm128HmacSha1_80), BOT, false);
    silent.command(BridgeCommand::Hold { leg: LegName::A });
    silent.answer_b(BOT);
    silent.peers[1].start(silent.now, Speech::Silence);
    silent.run_ms(70_000);
    assert_eq!(silent.ended().map(|(end, _)| end), None);
    silent.command(BridgeCommand::Release { leg: LegName::A });
    silent.run_ms(59_000);
    assert_eq!(silent.ended().map(|(end, _)| end), None);
    silent.run_ms(2_000);
    silent.assert_ended(Side::A, Cause::MediaTimeout);
}

#[test]
fn a_long_greeting_keeps_its_start() {
    let mut world = held(2);
    world.answer_b(BOT);
    let start = world.now;
    world.peers[1].start(start, Speech::Tone(440.0));
    world.run_ms(1_500);
    say(&mut world, Speech::Tone(800.0), 8_000);
    world.command(BridgeCommand::Release { leg: LegName::A });
    let released = world.now;
    say(&mut world, Speech::Silence, 6_000);
    assert!(heard_at(&world, 440.0).unwrap().since(released).as_millis() <= 60);
    let second = heard_at(&world, 800.0).unwrap().since(released).as_millis();
    assert!((1_400..1_600).contains(&second), "{second}");
    world.assert_continuous(LegName::A, 960);
}

#[test]
fn what_comes_before_the_answer_is_not_kept() {
    let mut world = World::new(3, WHATSAPP, BOT, true);
    world.run_ms(1_000);
    // Early media: the peer knows us, we do not know it yet.
    let early = vec![0x80, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0xff];
    let port = engine::bridge::Port { leg: LegName::B, component: engine::leg::Component::Rtp };
    let from = world.peers[1].address;
    world.send_to_bridge(port, from, early);
    world.run_ms(100);
    assert_eq!(world.dropped(engine::error::DropReason::NotReady), 1);
}

#[test]
fn what_an_outage_held_up_queues_behind_a_greeting_that_lags_and_nothing_of_it_is_lost() {
    let mut world = held(6);
    world.answer_b(BOT);
    let mut spoken = 0u16;
    let mut say = |world: &mut World, packets: u16| {
        for number in spoken..spoken + packets {
            let mut packet = vec![if number % 2 == 0 { 0x9a } else { 0x1a }; 12 + 160];
            header::write(number == 0, 0, number, RtpTimestamp(u32::from(number) * 160), 5, &mut packet);
            let port = Port { leg: LegName::B, component: Component::Rtp };
            let from = world.peers[1].address;
            world.send_to_bridge(port, from, packet);
        }
        spoken += packets;
    };
    for _ in 0..8 {
        say(&mut world, 1);
        world.run_ms(20);
    }
    world.command(BridgeCommand::Release { leg: LegName::A });
    let released = world.now;
    // The backlog has just run out when all that was held up comes at once.
    world.run_ms(142);
    say(&mut world, 8);
    for _ in 0..50 {
        world.run_ms(20);
        say(&mut world, 1);
    }
    let left: Vec<Instant> = world.left[0].iter().map(|left| left.at).filter(|&at| at > released).collect();
    let together = left.windows(4).filter(|four| four[3].since(four[0]).as_millis() < 10).count();
    assert_eq!(together, 0, "no burst leaves");
    world.assert_continuous(LegName::A, 960);
    assert_eq!(world.bridge.stats().concealed_from_b, 0);
}

#[test]
fn what_is_left_of_a_greetings_lag_goes_too_though_it_is_less_than_a_frame() {
    let mut world = held(7);
    world.answer_b(BOT);
    let mut number = 0u16;
    let mut say = |world: &mut World| {
        let mut packet = vec![if number.is_multiple_of(2) { 0x9a } else { 0x1a }; 12 + 160];
        header::write(number == 0, 0, number, RtpTimestamp(u32::from(number) * 160), 5, &mut packet);
        let from = world.peers[1].address;
        world.send_to_bridge(Port { leg: LegName::B, component: Component::Rtp }, from, packet);
        number += 1;
    };
    for _ in 0..8 {
        say(&mut world);
        world.run_ms(20);
    }
    world.command(BridgeCommand::Release { leg: LegName::A });
    // The backlog has run out; the next frame comes 8 ms before its turn.
    world.run_ms(142);
    for _ in 0..50 {
        say(&mut world);
        world.run_ms(20);
    }
    for _ in 0..20 {
        let spoken = world.now;
        say(&mut world);
        world.run_ms(20);
        let left = world.left[0].iter().filter(|left| left.at >= spoken).map(|left| left.at.since(spoken).as_millis());
        assert_eq!(left.collect::<Vec<_>>(), [10], "it leaves when it comes, 10 ms after it was sent");
    }
    world.assert_continuous(LegName::A, 960);
}

#[test]
fn a_call_that_ends_on_hold_says_nothing_but_close_notify() {
    let mut world = held(4);
    world.answer_b(BOT);
    world.peers[1].start(world.now, Speech::Tone(440.0));
    world.run_ms(7_000);
    world.command(BridgeCommand::Close);
    world.run_ms(100 + CLOSE_GRACE_MS);
    world.assert_ended(Side::Engine, Cause::Closed);
    assert_eq!((world.left[0].len(), world.rtcp_left[0]), (0, 0));
    let closed = LegEvent::Ended(Cause::DtlsClosed);
    assert!(world.peers[0].events.iter().any(|(_, event)| *event == closed));
}

#[test]
fn silence_goes_out_at_once_after_the_release_and_the_caller_is_heard() {
    let mut world = held(5);
    world.answer_b(BOT);
    world.run_ms(3_000);
    // The bot hears a stream from its answer on.
    assert!(world.left[1].len() >= 150);
    world.command(BridgeCommand::Release { leg: LegName::A });
    let released = world.now;
    world.run_ms(1_000);
    assert_eq!(world.left[0][0].at, released);
    assert!((50..=51).contains(&world.left[0].len()), "{}", world.left[0].len());
}
