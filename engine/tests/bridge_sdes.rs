//! rtp legs whose keys came in descriptions (SDES): every suite, re-keying, and who may move the stream.

mod common;

use common::{Faults, Kind, Speech, World, format, master_key, reversed, rtp_remote};
use engine::bridge::{BridgeCommand, LegName, LegRemote, Port};
use engine::error::DropReason;
use engine::leg::rtp::RtpRemote;
use engine::leg::{Component, Leg, LegEvent};
use engine::sdp::{Codec, SDES_SUITES};
use engine::srtp::{SrtpKeys, SrtpProfile};
use std::net::SocketAddr;

const A: Kind = Kind::WhatsApp(Codec::Opus);
const SUITE: SrtpProfile = SrtpProfile::AesCm128HmacSha1_80;

fn payload(number: u64) -> Vec<u8> {
    (0..160).map(|index| (number * 31 + index * 17) as u8).collect()
}

fn talking(seed: u64, suite: SrtpProfile) -> World {
    let mut world = World::connected(seed, A, Kind::Sdes(Codec::Pcmu, suite));
    let now = world.now;
    world.peers[0].start(now, Speech::Tone(440.0));
    world.peers[1].start(now, Speech::Tone(1_000.0));
    world.run_ms(1_500);
    world
}

/// The keys that leg B of the bridge was opened with.
fn first_keys(profile: SrtpProfile) -> SrtpKeys {
    SrtpKeys { profile, local: master_key(3), remote: master_key(4) }
}

/// A re-INVITE: the bridge's half and the peer's.
fn reinvite(world: &mut World, keys: &SrtpKeys) {
    let described = RtpRemote { srtp: Some(keys.clone()), ..rtp_remote(world.peers[1].address, format(Codec::Pcmu)) };
    world.command(BridgeCommand::SetRemote { leg: LegName::B, remote: Box::new(LegRemote::Rtp(described)) });
}

fn reinvite_peer(world: &mut World, keys: &SrtpKeys) {
    let now = world.now;
    let address = common::bridge_address(Port { leg: LegName::B, component: Component::Rtp });
    let Leg::Rtp(peer) = &mut world.peers[1].leg else { panic!("an rtp leg") };
    let mut format = format(Codec::Pcmu);
    let event = format.telephone_event.as_mut().unwrap();
    core::mem::swap(&mut event.send_payload_type, &mut event.receive_payload_type);
    peer.set_remote(now, RtpRemote { srtp: Some(reversed(keys.clone())), ..rtp_remote(address, format) });
}

#[test]
fn every_suite_carries_both_directions_and_rtcp() {
    for (seed, suite) in (1..).zip(SDES_SUITES) {
        let mut world = talking(seed, suite);
        let since = world.now;
        world.run_ms(12_000);
        assert!(world.tone_share(LegName::B, 440.0, since) > 0.9, "{suite:?}");
        assert!(world.tone_share(LegName::A, 1_000.0, since) > 0.9, "{suite:?}");
        world.assert_continuous(LegName::B, 160);
        assert_eq!(world.metrics.dropped, [0; DropReason::COUNT], "{suite:?}");
        let stats = world.peers[1].leg.stats();
        assert!(stats.round_trip_ms.is_some_and(|ms| (19..=22).contains(&ms)), "{suite:?} {stats:?}");
        assert_eq!(stats.packets_dropped, 0);
    }
}

#[test]
fn sdes_to_sdes_of_another_suite_relays_bit_for_bit() {
    let (a, b) = (Kind::Sdes(Codec::Pcmu, SrtpProfile::AeadAes256Gcm), Kind::Sdes(Codec::Pcmu, SUITE));
    let mut world = World::connected(2, a, b);
    let now = world.now;
    world.peers.iter_mut().for_each(|peer| peer.start(now, Speech::Payloads(payload)));
    world.run_ms(3_000);
    for peer in &world.peers {
        assert!(peer.heard.len() >= 148);
        assert!(peer.heard.iter().zip(0..).all(|(heard, number)| heard.payload == payload(number)));
    }
}

#[test]
fn a_refresh_with_unchanged_keys_keeps_contexts_and_rollover_counter() {
    // 65,536 packets at 20 ms are 22 minutes: past the wrap a receiver that began anew would read nothing.
    let mut world = World::connected(3, A, Kind::Sdes(Codec::Pcmu, SUITE));
    let now = world.now;
    world.peers[0].start(now, Speech::Silence);
    world.peers[1].start(now, Speech::Silence);
    world.run_ms(1_330_000);
    assert!(world.left[1].windows(2).any(|pair| pair[1].sequence < pair[0].sequence), "the sequence has wrapped");
    world.peers[0].speech = Speech::Tone(440.0);
    world.peers[1].speech = Speech::Tone(1_000.0);
    let keys = first_keys(SUITE);
    reinvite(&mut world, &keys);
    world.run_ms(1_000);
    world.peers.iter_mut().for_each(|peer| peer.heard.clear());
    let since = world.now;
    world.run_ms(1_000);
    assert!(world.tone_share(LegName::B, 440.0, since) > 0.9);
    assert!(world.tone_share(LegName::A, 1_000.0, since) > 0.9);
    assert_eq!(world.metrics.dropped, [0; DropReason::COUNT]);
    assert_eq!(world.peers[1].leg.stats().packets_dropped, 0);
}

#[test]
fn new_keys_take_over_and_what_was_on_its_way_is_still_read() {
    let mut world = talking(4, SUITE);
    let keys = SrtpKeys { profile: SrtpProfile::AeadAes128Gcm, local: master_key(77), remote: master_key(78) };
    let (left, received) = (world.left[1].len(), world.bridge.leg(LegName::B).stats().packets_received);
    reinvite(&mut world, &keys);
    reinvite_peer(&mut world, &keys);
    world.run_ms(2_500);
    let since = world.now;
    world.run_ms(1_000);
    assert!(world.tone_share(LegName::B, 440.0, since) > 0.9);
    assert!(world.tone_share(LegName::A, 1_000.0, since) > 0.9);
    assert_eq!(world.metrics.dropped, [0; DropReason::COUNT], "nothing in flight was lost");
    assert!(world.bridge.leg(LegName::B).stats().packets_received - received >= 174);
    assert!(world.left[1].len() > left);
    world.assert_continuous(LegName::B, 160);
}

#[test]
fn the_key_before_is_forgotten_after_its_moment() {
    let mut world = talking(5, SUITE);
    let keys = SrtpKeys { profile: SUITE, local: master_key(77), remote: master_key(78) };
    reinvite(&mut world, &keys);
    world.run_ms(3_000);
    let refused = world.dropped(DropReason::SrtpAuthFailed);
    assert!((40..60).contains(&refused), "the peer, which still has its first key, was heard for 2 of 3 s: {refused}");
}

#[test]
fn a_stranger_moves_nothing_and_the_peer_may_move_at_any_time() {
    let mut world = talking(6, SUITE);
    let stranger = SocketAddr::from(([198, 18, 0, 66], 6_666));
    let port = Port { leg: LegName::B, component: Component::Rtp };
    for sequence in 0..20_u16 {
        let mut forged = vec![0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
        forged[2..4].copy_from_slice(&sequence.to_be_bytes());
        forged.resize(180, 0xff);
        world.send_to_bridge(port, stranger, forged);
    }
    world.run_ms(500);
    assert_eq!(world.dropped(DropReason::SrtpAuthFailed), 20);
    assert!(world.left[1].iter().all(|left| left.to == world.peers[1].address));

    // A NAT gives the peer another port in the middle of the call: its packets prove who it is.
    for to in [SocketAddr::from(([203, 0, 113, 5], 31_000)), SocketAddr::from(([198, 51, 100, 77], 32_000))] {
        world.peers[1].address = to;
        world.run_ms(1_000);
        assert_eq!(world.left[1].last().unwrap().to, to);
        assert_eq!(world.has_leg_event(LegName::B, LegEvent::Latched(to)), 1);
    }
    let since = world.now;
    world.run_ms(1_000);
    assert!(world.tone_share(LegName::B, 440.0, since) > 0.9);
}

#[test]
fn plain_rtp_on_an_sdes_leg_is_refused() {
    let mut world = World::connected(7, A, Kind::Sdes(Codec::Pcmu, SUITE));
    let Leg::Rtp(peer) = &mut world.peers[1].leg else { panic!("an rtp leg") };
    let address = common::bridge_address(Port { leg: LegName::B, component: Component::Rtp });
    peer.set_remote(world.now, rtp_remote(address, format(Codec::Pcmu)));
    let now = world.now;
    world.peers[1].start(now, Speech::Tone(1_000.0));
    world.run_ms(1_000);
    assert_eq!(world.bridge.leg(LegName::B).stats().packets_received, 0);
    assert!(world.dropped(DropReason::SrtpAuthFailed) + world.dropped(DropReason::SrtpTooShort) >= 48);
}

#[test]
fn a_lossy_link_costs_what_it_loses_and_nothing_more() {
    for suite in SDES_SUITES {
        let mut world = talking(8, suite);
        world.links[2] = Faults { loss_pct: 20, duplicate_pct: 5, jitter_ms: 60, ..Faults::default() };
        let before = world.bridge.leg(LegName::B).stats().packets_received;
        world.run_ms(20_000);
        let received = world.bridge.leg(LegName::B).stats().packets_received - before;
        assert!((750..860).contains(&received), "{suite:?} {received}");
        assert_eq!(world.dropped(DropReason::SrtpAuthFailed), 0);
    }
}
