//! A browser or softphone that describes itself anew: hold, ICE restart, another client behind the same dialog.

mod common;

use common::{Kind, Speech, World, bridge_address, format, ice_of, mirrored};
use engine::bridge::{BridgeCommand, LegName, LegRemote, Port};
use engine::dtls::{DtlsRole, DtlsVersions, Identity};
use engine::error::{Cause, DropReason, Side};
use engine::ice::{IceCredentials, IceRole};
use engine::leg::webrtc::{WebrtcChange, WebrtcConfig, WebrtcLeg, WebrtcRemote};
use engine::leg::{Component, Leg, LegEvent, LocalLeg, PATH_SILENT_MS};
use engine::random::Random;
use engine::sdp::{Codec, IceDescription};
use engine::time::WallAnchor;
use std::net::SocketAddr;

const BROWSER: Kind = Kind::Browser(Codec::Opus);
const BOT: Kind = Kind::Rtp(Codec::Pcmu);

fn talking(seed: u64) -> World {
    talking_with(seed, BROWSER)
}

fn talking_with(seed: u64, peer: Kind) -> World {
    let mut world = World::connected(seed, peer, BOT);
    let now = world.now;
    world.peers[0].start(now, Speech::Tone(440.0));
    world.peers[1].start(now, Speech::Tone(1_000.0));
    world.run_ms(1_500);
    world
}

fn credentials(local: &LocalLeg) -> IceCredentials {
    let LocalLeg::Webrtc { ufrag, pwd, .. } = local else { panic!("a webrtc leg") };
    IceCredentials { ufrag: ufrag.clone(), pwd: pwd.clone() }
}

/// The peer's description of leg A as it stands, and our credentials as they stand.
fn unchanged(world: &World) -> WebrtcChange {
    let peer = &world.peers[0];
    let (ice, fingerprint) = ice_of(&peer.leg.local(), false, peer.address);
    let credentials = credentials(&world.bridge.local(LegName::A));
    let format = format(Codec::Opus);
    WebrtcChange { ice, credentials, fingerprint, dtls: DtlsRole::Server, format, sending: true }
}

fn tell_bridge(world: &mut World, change: WebrtcChange) {
    world.command(BridgeCommand::SetRemote { leg: LegName::A, remote: Box::new(LegRemote::WebrtcChange(change)) });
}

/// Restarts ICE on both sides; the peer goes on from `address`.
fn restart(world: &mut World, address: SocketAddr) {
    restart_of(world, address, false);
}

fn restart_of(world: &mut World, address: SocketAddr, lite: bool) {
    let mut random = Random::from_test_seed(99);
    let (theirs, ours) = (IceCredentials::draw(&mut random), IceCredentials::draw(&mut random));
    world.peers[0].address = address;
    let mut change = unchanged(world);
    (change.ice.ufrag, change.ice.pwd) = (theirs.ufrag.clone(), theirs.pwd.clone());
    (change.credentials, change.ice.lite) = (ours.clone(), lite);
    tell_bridge(world, change);

    let now = world.now;
    let bridge = bridge_address(Port { leg: LegName::A, component: Component::Rtp });
    let (ice, fingerprint) = ice_of(&world.bridge.local(LegName::A), true, bridge);
    assert_eq!((&ice.ufrag, &ice.pwd), (&ours.ufrag, &ours.pwd));
    let format = mirrored(&format(Codec::Opus));
    let Leg::Webrtc(peer) = &mut world.peers[0].leg else { panic!("a webrtc leg") };
    let change = WebrtcChange { ice, credentials: theirs, fingerprint, dtls: DtlsRole::Client, format, sending: true };
    peer.change(now, change);
    world.drain_all();
}

fn assert_audio(world: &mut World) {
    let since = world.now;
    world.run_ms(1_000);
    assert!(world.tone_share(LegName::B, 440.0, since) > 0.9);
    assert!(world.tone_share(LegName::A, 1_000.0, since) > 0.9);
}

#[test]
fn a_refresh_that_changes_nothing_changes_nothing() {
    let mut world = talking(1);
    let events = world.events.len();
    let change = unchanged(&world);
    tell_bridge(&mut world, change);
    assert_audio(&mut world);
    assert_eq!(world.events.len(), events);
    world.assert_continuous(LegName::A, 960);
    world.assert_continuous(LegName::B, 160);
    assert_eq!(world.metrics.dropped, [0; DropReason::COUNT]);
}

#[test]
fn on_hold_rtp_stops_and_rtcp_goes_on_for_as_long_as_it_takes() {
    let mut world = talking(2);
    let change = WebrtcChange { sending: false, ..unchanged(&world) };
    tell_bridge(&mut world, change);
    let (rtp, rtcp) = (world.left[0].len(), world.rtcp_left[0]);
    world.run_ms(120_000);
    assert_eq!(world.left[0].len(), rtp);
    assert!(world.rtcp_left[0] >= rtcp + 15);
    assert!(world.ended().is_none());
    let change = unchanged(&world);
    tell_bridge(&mut world, change);
    world.run_ms(500);
    let (before, after) = (world.left[0][rtp - 1], world.left[0][rtp]);
    assert_eq!((after.sequence, after.ssrc), (before.sequence.wrapping_add(1), before.ssrc));
    assert_audio(&mut world);
}

#[test]
fn an_ice_restart_from_another_network_moves_the_call_without_a_gap() {
    let mut world = talking(3);
    let moved = SocketAddr::from(([198, 51, 100, 200], 50_000));
    let (left, connected) = (world.left[0].len(), world.events.len());
    restart(&mut world, moved);
    world.run_ms(1_000);
    assert_eq!(world.has_leg_event(LegName::A, LegEvent::IceNominated(moved)), 1);
    assert_eq!(world.left[0].last().unwrap().to, moved);
    let gone = world.left[0][left..].iter().filter(|packet| packet.to != moved).count();
    assert!((1..15).contains(&gone), "media stays on the pair before until the next is nominated: {gone}");
    assert!((49..=51).contains(&(world.left[0].len() - left)), "and never stops");
    let again = world.events[connected..].iter().filter(|(_, event)| format!("{event:?}").contains("DtlsConnected"));
    assert_eq!(again.count(), 0, "the association goes on (RFC 8842 §5.6)");
    assert_audio(&mut world);
    world.assert_continuous(LegName::A, 960);
    // The pair of the restart is the one that is watched from now on.
    world.run_ms(60_000);
    assert!(world.ended().is_none());
}

#[test]
fn a_lite_peer_whose_socket_is_connected_restarts_from_another_network() {
    let mut world = talking_with(3, Kind::WhatsApp(Codec::Opus));
    let (before, moved) = (world.peers[0].address, SocketAddr::from(([198, 51, 100, 200], 50_000)));
    assert_eq!(world.bridge.fixed_peer(world.now, LegName::A), Some(before));
    restart_of(&mut world, moved, true);
    world.run_ms(1_000);
    assert_eq!(world.has_leg_event(LegName::A, LegEvent::IceNominated(moved)), 1);
    assert_audio(&mut world);
    assert_eq!(world.bridge.fixed_peer(world.now, LegName::A), Some(moved));
    world.run_ms(60_000);
    assert!(world.ended().is_none());
}

#[test]
fn an_ice_restart_at_the_same_address_is_one_as_well() {
    let mut world = talking(4);
    let address = world.peers[0].address;
    let before = world.has_leg_event(LegName::A, LegEvent::IceNominated(address));
    restart(&mut world, address);
    world.run_ms(1_000);
    assert_eq!(world.has_leg_event(LegName::A, LegEvent::IceNominated(address)), before + 1);
    assert_audio(&mut world);
    world.run_ms(60_000);
    assert!(world.ended().is_none());
}

/// The peer's half of a restart that we have offered with `ours`: it goes on from `address`.
fn follow(world: &mut World, ours: &IceCredentials, address: SocketAddr) -> WebrtcChange {
    let theirs = IceCredentials::draw(&mut Random::from_test_seed(98));
    world.peers[0].address = address;
    let now = world.now;
    let bridge = bridge_address(Port { leg: LegName::A, component: Component::Rtp });
    let (mut ice, fingerprint) = ice_of(&world.bridge.local(LegName::A), true, bridge);
    (ice.ufrag, ice.pwd) = (ours.ufrag.clone(), ours.pwd.clone());
    let format = mirrored(&format(Codec::Opus));
    let credentials = theirs.clone();
    let Leg::Webrtc(peer) = &mut world.peers[0].leg else { panic!("a webrtc leg") };
    peer.change(now, WebrtcChange { ice, credentials, fingerprint, dtls: DtlsRole::Client, format, sending: true });
    world.drain_all();
    let mut change = unchanged(world);
    (change.ice.ufrag, change.ice.pwd) = (theirs.ufrag, theirs.pwd);
    change.credentials = ours.clone();
    change
}

#[test]
fn a_restart_that_we_offer_brings_a_dead_path_back_from_another_network() {
    let mut world = talking(7);
    let connected = world.events.len();
    (world.links[0].is_cut, world.links[1].is_cut) = (true, true);
    world.run_ms(PATH_SILENT_MS + 100);
    assert_eq!(world.has_leg_event(LegName::A, LegEvent::PathSilent), 1);

    let ours = IceCredentials::draw(&mut Random::from_test_seed(97));
    world.command(BridgeCommand::OfferRestart { leg: LegName::A, credentials: Some(ours.clone()) });
    (world.links[0].is_cut, world.links[1].is_cut) = (false, false);
    let moved = SocketAddr::from(([198, 51, 100, 201], 50_001));
    let change = follow(&mut world, &ours, moved);
    // Its checks come before its answer does, and are answered: some give a pair up at the first refusal.
    world.run_ms(300);
    assert!(world.peers[0].events.iter().rev().take(1).all(|(_, event)| matches!(event, LegEvent::IceNominated(_))));
    assert_eq!(world.has_leg_event(LegName::A, LegEvent::IceNominated(moved)), 0);
    assert_eq!(world.dropped(DropReason::StunUnknown) + world.dropped(DropReason::StunAuthFailed), 0);
    tell_bridge(&mut world, change);
    assert_eq!(world.has_leg_event(LegName::A, LegEvent::IceNominated(moved)), 1);
    let again = world.events[connected..].iter().filter(|(_, event)| format!("{event:?}").contains("DtlsConnected"));
    assert_eq!(again.count(), 0, "the association goes on (RFC 8842 §5.6)");
    assert_eq!(credentials(&world.bridge.local(LegName::A)), ours);
    assert_audio(&mut world);
    world.assert_continuous(LegName::A, 960);
    world.run_ms(120_000);
    assert!(world.ended().is_none());
    assert_eq!(world.has_leg_event(LegName::A, LegEvent::PathSilent), 1);
}

#[test]
fn a_restart_that_is_refused_leaves_everything_as_it_was() {
    let mut world = talking(8);
    let before = credentials(&world.bridge.local(LegName::A));
    let ours = IceCredentials::draw(&mut Random::from_test_seed(96));
    for credentials in [Some(ours.clone()), None] {
        world.command(BridgeCommand::OfferRestart { leg: LegName::A, credentials });
        assert_audio(&mut world);
    }
    assert_eq!(credentials(&world.bridge.local(LegName::A)), before);
    // Whoever goes by it all the same gets nowhere.
    let (address, unknown) = (world.peers[0].address, world.dropped(DropReason::StunUnknown));
    follow(&mut world, &ours, address);
    world.run_ms(500);
    assert!(world.dropped(DropReason::StunUnknown) > unknown);
}

#[test]
fn a_restart_of_the_peer_while_ours_is_on_its_way_goes_first() {
    let mut world = talking(9);
    let ours = IceCredentials::draw(&mut Random::from_test_seed(95));
    world.command(BridgeCommand::OfferRestart { leg: LegName::A, credentials: Some(ours.clone()) });
    let address = world.peers[0].address;
    restart(&mut world, address);
    world.run_ms(1_000);
    assert_audio(&mut world);
    assert_ne!(credentials(&world.bridge.local(LegName::A)), ours);
    let change = follow(&mut world, &ours, address);
    tell_bridge(&mut world, change);
    world.run_ms(1_000);
    assert_eq!(credentials(&world.bridge.local(LegName::A)), ours);
    assert_audio(&mut world);
    world.run_ms(60_000);
    assert!(world.ended().is_none());
}

#[test]
fn a_restart_that_leads_nowhere_ends_the_leg() {
    let mut world = talking(5);
    let mut change = unchanged(&world);
    change.ice = IceDescription { ufrag: "nobody".to_owned(), pwd: "a".repeat(24), ..change.ice };
    change.credentials = IceCredentials::draw(&mut Random::from_test_seed(5));
    tell_bridge(&mut world, change);
    // The peer, which knows nothing of it, is still heard and spoken to on the pair before.
    assert_audio(&mut world);
    world.run_ms(61_000);
    world.assert_ended(Side::A, Cause::IceFailed);
}

#[test]
fn another_client_behind_the_same_dialog_gets_a_new_association() {
    let mut world = talking(6);
    let now = world.now;
    let config = WebrtcConfig {
        ice: IceRole::Controlling,
        versions: DtlsVersions::Auto,
        credentials: None,
        hold: false,
        remote: None,
    };
    let (identity, anchor) = (Identity::generate().unwrap(), WallAnchor { ntp_at_zero: 0xe000_0000_0000_0000 });
    let mut peer = WebrtcLeg::new(now, config, &identity, anchor, Random::from_test_seed(77));
    world.peers[0].address = SocketAddr::from(([203, 0, 113, 44], 44_444));
    let (theirs, fingerprint) = ice_of(&peer.local(), false, world.peers[0].address);
    let mut change = unchanged(&world);
    (change.ice, change.fingerprint) = (theirs, fingerprint);
    change.credentials = IceCredentials::draw(&mut Random::from_test_seed(6));
    tell_bridge(&mut world, change);
    let bridge = bridge_address(Port { leg: LegName::A, component: Component::Rtp });
    let (ice, fingerprint) = ice_of(&world.bridge.local(LegName::A), true, bridge);
    let format = mirrored(&format(Codec::Opus));
    peer.set_remote(now, WebrtcRemote { ice, fingerprint, dtls: DtlsRole::Client, format });
    world.peers[0].leg = Leg::Webrtc(Box::new(peer));
    world.drain_all();
    world.run_ms(2_000);
    let connected = world.events.iter().filter(|(_, event)| format!("{event:?}").contains("DtlsConnected")).count();
    assert_eq!(connected, 2);
    world.peers[0].heard.clear();
    assert_audio(&mut world);
    world.assert_continuous(LegName::A, 960);
}
