//! How bridges end: each with its side and cause, once, with goodbyes, and nothing left to do.

mod common;

use common::{Faults, Kind, Speech, World, format, rtp_remote};
use engine::bridge::{BridgeCommand, BridgeEvent, LegConfig, LegName, LegRemote, Port};
use engine::error::{Cause, DropReason, Side};
use engine::leg::{CLOSE_GRACE_MS, Component, LegEvent, PATH_SILENT_MS, PATH_UNCONSENTED_MS};
use engine::limits::{CONSENT_MS_MAX, DTLS_MS_MAX, ICE_MS_MAX, MEDIA_MS_MAX};
use engine::random::Random;
use engine::rtp::rtcp::{Reception, Rtcp};
use engine::sdp::Codec;
use engine::time::WallAnchor;
use std::net::SocketAddr;

const WHATSAPP: Kind = Kind::WhatsApp(Codec::Opus);
const BROWSER: Kind = Kind::Browser(Codec::Opus);
const BOT: Kind = Kind::Rtp(Codec::Pcmu);
const CUT: Faults = Faults { loss_pct: 0, duplicate_pct: 0, jitter_ms: 0, is_cut: true, drops_dtls: false };
const NO_DTLS: Faults = Faults { is_cut: false, drops_dtls: true, ..CUT };

fn talking(seed: u64, a: Kind, b: Kind) -> World {
    let mut world = World::connected(seed, a, b);
    let now = world.now;
    world.peers[0].start(now, Speech::Tone(440.0));
    world.peers[1].start(now, Speech::Tone(1_000.0));
    world.run_ms(2_000);
    world
}

fn has_ended(world: &World, peer: usize, cause: Cause) -> bool {
    world.peers[peer].events.iter().any(|(_, event)| *event == LegEvent::Ended(cause))
}

#[test]
fn close_says_goodbye_on_both_legs_and_ends_with_figures() {
    let mut world = talking(1, WHATSAPP, BOT);
    let rtcp_before = world.rtcp_left;
    world.command(BridgeCommand::Close);
    world.run_ms(5_000);
    world.assert_ended(Side::Engine, Cause::Closed);
    assert_eq!(world.rtcp_left, [rtcp_before[0] + 1, rtcp_before[1] + 1], "one BYE each");
    assert!(has_ended(&world, 0, Cause::DtlsClosed));
    assert!(has_ended(&world, 1, Cause::RtcpBye));
    let (_, stats) = world.ended().unwrap();
    assert!(stats.a.packets_received >= 95 && stats.b.packets_received >= 95, "{stats:?}");
    assert!(stats.a.packets_sent >= 95 && stats.b.packets_sent >= 95, "{stats:?}");
    assert_eq!((stats.a.packets_lost, stats.b.packets_lost), (0, 0));
    assert!(stats.a.round_trip_ms.is_some());
    // An ended bridge is deaf.
    let events = world.events.len();
    world.command(BridgeCommand::Close);
    world.run_ms(70_000);
    assert_eq!(world.events.len(), events);
}

#[test]
fn ice_without_an_answer_fails() {
    let mut world = World::new(2, WHATSAPP, BOT, false);
    world.links[0] = CUT;
    world.run_ms(ICE_MS_MAX - 100);
    assert!(world.ended().is_none());
    world.run_ms(2_000);
    world.assert_ended(Side::A, Cause::IceFailed);
}

#[test]
fn a_wrong_certificate_ends_the_call() {
    for kind in [WHATSAPP, BROWSER] {
        let mut world = World::with(3, kind, BOT, false, |config| {
            let LegConfig::Webrtc(webrtc) = &mut config.a else { unreachable!("leg A is webrtc") };
            webrtc.remote.as_mut().unwrap().fingerprint[7] ^= 1;
        });
        world.answer_b(BOT);
        world.run_ms(5_000);
        world.assert_ended(Side::A, Cause::DtlsFingerprintMismatch);
        assert!(world.left[0].is_empty(), "not one packet is protected for a stranger");
    }
}

#[test]
fn dtls_that_never_finishes_times_out() {
    for kind in [WHATSAPP, BROWSER] {
        let mut world = World::new(4, kind, BOT, false);
        world.links[0] = NO_DTLS;
        world.run_ms(DTLS_MS_MAX + 5_000);
        world.assert_ended(Side::A, Cause::DtlsTimeout);
    }
}

#[test]
fn consent_is_lost_thirty_seconds_after_the_peer_went_silent_and_nothing_is_sent_any_more() {
    let mut world = talking(5, WHATSAPP, BOT);
    world.links[0] = CUT;
    world.run_ms(CONSENT_MS_MAX - 6_000);
    assert!(world.ended().is_none());
    world.run_ms(8_000);
    let rtcp = world.rtcp_left;
    world.assert_ended(Side::A, Cause::ConsentLost);
    assert!(!has_ended(&world, 0, Cause::DtlsClosed), "without consent there is no goodbye (RFC 7675 §5.1)");
    assert!(has_ended(&world, 1, Cause::RtcpBye) || rtcp[1] > 0);
}

#[test]
fn a_leg_without_media_ends_after_a_minute() {
    for (a, link, side) in [(BROWSER, 0, Side::A), (WHATSAPP, 2, Side::B)] {
        let mut world = talking(6, a, BOT);
        world.links[link] = CUT;
        world.run_ms(MEDIA_MS_MAX - 1_000);
        assert!(world.ended().is_none());
        world.run_ms(2_000);
        world.assert_ended(side, Cause::MediaTimeout);
    }
}

#[test]
fn a_path_from_which_nothing_comes_is_told_again_and_again_until_the_leg_ends() {
    let mut world = talking(6, BROWSER, BOT);
    world.links[0] = CUT;
    world.run_ms(PATH_SILENT_MS - 100);
    assert_eq!(world.has_leg_event(LegName::A, LegEvent::PathSilent), 0);
    world.run_ms(200);
    assert_eq!(world.has_leg_event(LegName::A, LegEvent::PathSilent), 1);
    world.run_ms(MEDIA_MS_MAX - PATH_SILENT_MS);
    world.assert_ended(Side::A, Cause::MediaTimeout);
    assert_eq!(world.has_leg_event(LegName::A, LegEvent::PathSilent), 7);
}

#[test]
fn a_path_that_heals_is_silent_no_more() {
    let mut world = talking(6, BROWSER, BOT);
    for _ in 0..3 {
        world.links[0] = CUT;
        world.run_ms(PATH_SILENT_MS + 1_000);
        world.links[0] = Faults::default();
        world.run_ms(PATH_SILENT_MS);
    }
    assert_eq!(world.has_leg_event(LegName::A, LegEvent::PathSilent), 3);
    assert!(world.ended().is_none());
}

#[test]
fn a_full_agent_tells_of_a_peer_that_is_heard_and_does_not_answer() {
    let mut world = talking(5, WHATSAPP, BOT);
    world.links[1] = CUT;
    world.run_ms(PATH_UNCONSENTED_MS - 6_100);
    assert_eq!(world.has_leg_event(LegName::A, LegEvent::PathSilent), 0);
    world.run_ms(6_200);
    assert_eq!(world.has_leg_event(LegName::A, LegEvent::PathSilent), 1);
    world.run_ms(CONSENT_MS_MAX - PATH_UNCONSENTED_MS);
    world.assert_ended(Side::A, Cause::ConsentLost);
}

#[test]
fn rtcp_alone_keeps_a_leg_alive() {
    for kind in [WHATSAPP, BROWSER] {
        let mut world = talking(7, kind, BOT);
        for peer in &mut world.peers {
            peer.speech = Speech::Nothing;
        }
        world.run_ms(3 * MEDIA_MS_MAX);
        assert!(world.ended().is_none());
        assert_eq!(world.has_leg_event(LegName::A, LegEvent::PathSilent), 0);
        world.assert_continuous(LegName::A, 960);
        world.assert_continuous(LegName::B, 160);
    }
}

#[test]
fn a_peer_that_closes_dtls_ends_the_call_after_a_moment_for_its_signalling() {
    let mut world = talking(8, WHATSAPP, BOT);
    // What is on its way when the close overtakes it counts for nothing.
    world.links[0].jitter_ms = 250;
    world.run_ms(500);
    world.links[0].jitter_ms = 0;
    let now = world.now;
    world.peers[0].leg.close(now);
    world.run_ms(15);
    let (left, received) = (world.left[0].len(), world.bridge.stats().a.packets_received);
    world.run_ms(CLOSE_GRACE_MS - 10);
    assert!(world.ended().is_none());
    assert!(world.dropped(DropReason::NotReady) > 2, "{:?}", world.metrics.dropped);
    assert_eq!(world.bridge.stats().a.packets_received, received);
    assert_eq!(world.left[0].len(), left, "nothing is sent over an association that is closed");
    world.run_ms(10);
    world.assert_ended(Side::A, Cause::DtlsClosed);
}

#[test]
fn signalling_that_comes_soon_after_a_close_has_the_last_word() {
    for (kind, at_ms) in [(WHATSAPP, 20), (BROWSER, CLOSE_GRACE_MS - 10)] {
        let mut world = talking(8, kind, BOT);
        let now = world.now;
        world.peers[0].leg.close(now);
        world.run_ms(at_ms);
        world.command(BridgeCommand::Close);
        world.assert_ended(Side::Engine, Cause::Closed);
        assert!(world.events.iter().all(|(_, event)| !matches!(event, BridgeEvent::EndDetail { .. })));
    }
}

fn bye(ssrc: u32) -> Vec<u8> {
    let anchor = WallAnchor { ntp_at_zero: 1 };
    let mut rtcp = Rtcp::new(Default::default(), "x".into(), anchor, Random::from_test_seed(1));
    let mut out = vec![0; 1_500];
    let len = rtcp.write_bye(Default::default(), None, &mut Reception::new(8_000), ssrc, &mut out);
    out.truncate(len);
    out
}

fn send_bye(world: &mut World) {
    let port = Port { leg: LegName::B, component: Component::Rtcp };
    let from = SocketAddr::new(world.peers[1].address.ip(), world.peers[1].address.port() + 1);
    let ssrc = world.peers[1].leg.sender().ssrc();
    world.send_to_bridge(port, from, bye(ssrc));
}

#[test]
fn an_rtcp_bye_ends_the_call_unless_media_goes_on() {
    let mut world = talking(9, WHATSAPP, BOT);
    send_bye(&mut world);
    world.run_ms(4_000);
    assert!(world.ended().is_none(), "media went on");
    world.peers[1].speech = Speech::Nothing;
    world.run_ms(40);
    send_bye(&mut world);
    world.run_ms(1_900);
    assert!(world.ended().is_none());
    world.run_ms(200);
    world.assert_ended(Side::B, Cause::RtcpBye);
}

#[test]
fn an_rtcp_bye_of_a_peer_that_goes_on_hold_is_about_its_stream_and_not_about_the_call() {
    for bye_first in [false, true] {
        let mut world = talking(10, WHATSAPP, BOT);
        world.peers[1].speech = Speech::Nothing;
        world.run_ms(40);
        if bye_first {
            send_bye(&mut world);
            world.run_ms(100);
        }
        hold(&mut world, true);
        if !bye_first {
            send_bye(&mut world);
        }
        world.run_ms(10_000);
        assert!(world.ended().is_none(), "bye first: {bye_first}");
        hold(&mut world, false);
        let now = world.now;
        world.peers[1].start(now, Speech::Tone(1_000.0));
        world.run_ms(5_000);
        assert!(world.ended().is_none(), "bye first: {bye_first}");
        world.peers[1].speech = Speech::Nothing;
        world.run_ms(40);
        send_bye(&mut world);
        world.run_ms(2_100);
        world.assert_ended(Side::B, Cause::RtcpBye);
    }
}

fn hold(world: &mut World, on: bool) {
    let mut remote = rtp_remote(world.peers[1].address, format(Codec::Pcmu));
    remote.sending = !on;
    world.command(BridgeCommand::SetRemote { leg: LegName::B, remote: Box::new(LegRemote::Rtp(remote)) });
}

#[test]
fn garbage_on_every_port_changes_nothing_but_counters() {
    let heard = |with_garbage: bool| {
        let mut world = talking(10, WHATSAPP, BOT);
        world.hears_strangers = true;
        let mut random = Random::from_test_seed(99);
        for _ in 0..200 {
            for port in [(LegName::A, Component::Rtp), (LegName::B, Component::Rtp), (LegName::B, Component::Rtcp)] {
                if with_garbage {
                    throw_garbage(&mut world, Port { leg: port.0, component: port.1 }, &mut random);
                }
            }
            world.run_ms(20);
        }
        assert!(world.ended().is_none());
        world.assert_continuous(LegName::A, 960);
        world.assert_continuous(LegName::B, 160);
        let dropped: u64 = world.metrics.dropped.iter().sum();
        let sounds: Vec<_> = world.peers.iter().map(|peer| peer.decode_heard(Default::default()).0).collect();
        let events: Vec<_> = world.events.iter().map(|(at, _)| *at).collect();
        (sounds, events, dropped, world.metrics.dropped)
    };
    let (clean, noisy) = (heard(false), heard(true));
    assert_eq!(clean.2, 0);
    assert!(noisy.2 > 3_000, "{}", noisy.2);
    assert!(clean.0 == noisy.0, "both hear the same");
    assert_eq!(clean.1, noisy.1, "no event more or less");
    for reason in [
        DropReason::DtlsUnexpected,
        DropReason::NotMultiplexed,
        DropReason::SrtpAuthFailed,
        DropReason::SrtpTooShort,
        DropReason::StunMalformed,
        DropReason::UnknownSource,
        DropReason::RtpPayloadType,
    ] {
        assert!(noisy.3[reason as usize] > 0, "{reason:?} was never counted");
    }
}

/// A datagram of each protocol's first byte, filled at random, from the peer and from a stranger; and RTP that is none.
fn throw_garbage(world: &mut World, port: Port, random: &mut Random) {
    let peer = world.peers[port.leg as usize].address;
    let peer = SocketAddr::new(peer.ip(), peer.port() + port.component as u16);
    let stranger = SocketAddr::from(([10, 9, 8, 7], 666));
    for first in [0, 22, 100, 0x80, 0x90, 0xb7, 0xff] {
        let mut bytes = vec![0; random.below(200) as usize + 1];
        random.fill(&mut bytes);
        bytes[0] = first;
        if port.leg == LegName::B && (128..192).contains(&first) && bytes.len() > 1 {
            // On a plain leg, what looks like RTP of the right type and source is RTP.
            bytes[1] = 77;
        }
        world.send_to_bridge(port, peer, bytes.clone());
        world.send_to_bridge(port, stranger, bytes);
    }
}
