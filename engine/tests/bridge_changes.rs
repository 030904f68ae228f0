//! What changes on one leg during a call is absorbed: the other leg's stream goes on, and so does ours into the changed one.

mod common;

use common::{Faults, Kind, Speech, World, format, rtp_remote};
use engine::bridge::{BridgeCommand, LegConfig, LegName, LegRemote, Port};
use engine::error::DropReason;
use engine::leg::{Component, LegEvent};
use engine::sdp::Codec;
use std::net::SocketAddr;

const WHATSAPP: Kind = Kind::WhatsApp(Codec::Opus);
const BROWSER: Kind = Kind::Browser(Codec::Opus);
const BOT: Kind = Kind::Rtp(Codec::Pcmu);

fn talking(seed: u64) -> World {
    let mut world = World::connected(seed, WHATSAPP, BOT);
    let now = world.now;
    world.peers[0].start(now, Speech::Tone(440.0));
    world.peers[1].start(now, Speech::Tone(1_000.0));
    world.run_ms(1_500);
    world
}

fn set_remote_b(world: &mut World, change: impl FnOnce(&mut engine::leg::rtp::RtpRemote)) {
    let mut remote = rtp_remote(world.peers[1].address, format(Codec::Pcmu));
    change(&mut remote);
    world.command(BridgeCommand::SetRemote { leg: LegName::B, remote: Box::new(LegRemote::Rtp(remote)) });
}

#[test]
fn a_reinvite_moves_the_stream_to_the_new_address_without_a_seam() {
    let mut world = talking(1);
    let moved = SocketAddr::from(([203, 0, 113, 99], 41_000));
    world.peers[1].address = moved;
    set_remote_b(&mut world, |_| {});
    world.run_ms(2_000);
    assert_eq!(world.left[1].last().unwrap().to, moved);
    world.assert_continuous(LegName::A, 960);
    world.assert_continuous(LegName::B, 160);
    let since = world.now;
    world.run_ms(1_000);
    assert!(world.tone_share(LegName::B, 440.0, since) > 0.9);
    assert!(world.tone_share(LegName::A, 1_000.0, since) > 0.9);
    assert_eq!(world.metrics.dropped, [0; DropReason::COUNT]);
}

#[test]
fn on_hold_rtp_stops_and_rtcp_goes_on_and_the_clock_runs_through() {
    let mut world = talking(2);
    set_remote_b(&mut world, |remote| remote.sending = false);
    let (rtp, rtcp, at) = (world.left[1].len(), world.rtcp_left[1], world.now);
    world.run_ms(120_000);
    assert_eq!(world.left[1].len(), rtp);
    assert!(world.rtcp_left[1] >= rtcp + 15, "{}", world.rtcp_left[1] - rtcp);
    assert!(world.ended().is_none());
    set_remote_b(&mut world, |_| {});
    world.run_ms(2_000);
    let (before, after) = (world.left[1][rtp - 1], world.left[1][rtp]);
    assert_eq!(after.sequence, before.sequence.wrapping_add(1));
    assert!(after.marker);
    let ticks = after.timestamp.wrapping_sub(before.timestamp);
    let passed = after.at.since(before.at).as_millis() as u32 * 8;
    assert!(ticks.abs_diff(passed) <= 160, "{ticks} of {passed}");
    world.assert_continuous(LegName::A, 960);
    assert!(world.tone_share(LegName::B, 440.0, at.plus_millis(121_000)) > 0.9);
}

#[test]
fn a_new_codec_goes_on_with_the_same_stream() {
    let mut world = talking(3);
    let pcma = format(Codec::Pcma);
    set_remote_b(&mut world, |remote| remote.format = pcma);
    world.peers[1].speech = Speech::Nothing;
    world.run_ms(1_000);
    let sent = &world.left[1];
    assert!(sent.iter().any(|left| left.payload_type == 0) && sent.last().unwrap().payload_type == 8);
    for pair in sent.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1));
        assert_eq!(pair[1].timestamp, pair[0].timestamp.wrapping_add(160));
        assert_eq!(pair[1].ssrc, pair[0].ssrc);
    }
    world.assert_continuous(LegName::A, 960);
}

fn inject_pcmu(world: &mut World, from: SocketAddr, sequence: u8) {
    let mut packet = vec![0x80, 0, 0, sequence, 0, 0, 0, 160, 9, 9, 9, 9];
    packet.resize(12 + 160, 0xff);
    world.send_to_bridge(Port { leg: LegName::B, component: Component::Rtp }, from, packet);
    world.run_ms(20);
}

#[test]
fn the_first_other_source_is_latched_once_and_a_third_is_dropped() {
    let mut world = World::connected(4, WHATSAPP, BOT);
    let natted = SocketAddr::from(([198, 18, 0, 7], 5_555));
    let stranger = SocketAddr::from(([198, 18, 0, 66], 6_666));
    inject_pcmu(&mut world, natted, 1);
    assert_eq!(world.has_leg_event(LegName::B, LegEvent::Latched(natted)), 1);
    inject_pcmu(&mut world, stranger, 2);
    assert_eq!(world.dropped(DropReason::UnknownSource), 1);
    inject_pcmu(&mut world, natted, 3);
    world.run_ms(200);
    assert_eq!(world.left[1].last().unwrap().to, natted);
    // The same description once more is no reason to leave; a new address begins anew, and stragglers do not bring the old one back.
    set_remote_b(&mut world, |_| {});
    world.run_ms(100);
    assert_eq!(world.left[1].last().unwrap().to, natted);
    set_remote_b(&mut world, |remote| remote.address.set_port(31_000));
    inject_pcmu(&mut world, natted, 4);
    assert_eq!(world.left[1].last().unwrap().to.port(), 31_000);
    inject_pcmu(&mut world, stranger, 5);
    assert_eq!(world.has_leg_event(LegName::B, LegEvent::Latched(stranger)), 1);
    assert_eq!(world.has_leg_event(LegName::B, LegEvent::Latched(natted)), 1);
}

#[test]
fn a_latched_source_gives_way_when_the_described_address_speaks() {
    let mut world = World::connected(7, WHATSAPP, BOT);
    // The port's last tenant has a peer that has not noticed the end of its call.
    let stranger = SocketAddr::from(([198, 18, 0, 66], 6_666));
    inject_pcmu(&mut world, stranger, 1);
    assert_eq!(world.has_leg_event(LegName::B, LegEvent::Latched(stranger)), 1);
    let now = world.now;
    world.peers[1].start(now, Speech::Tone(1_000.0));
    world.run_ms(500);
    assert_eq!(world.left[1].last().unwrap().to, world.peers[1].address);
    let dropped = world.dropped(DropReason::UnknownSource);
    world.hears_strangers = true;
    inject_pcmu(&mut world, stranger, 2);
    assert_eq!(world.dropped(DropReason::UnknownSource), dropped + 1);
    world.run_ms(500);
    assert_eq!(world.left[1].last().unwrap().to, world.peers[1].address);
}

#[test]
fn nobody_is_latched_once_the_described_address_has_spoken() {
    let mut world = talking(5);
    world.hears_strangers = true;
    let stranger = SocketAddr::from(([198, 18, 0, 66], 6_666));
    inject_pcmu(&mut world, stranger, 4);
    assert_eq!(world.dropped(DropReason::UnknownSource), 1);
    assert_eq!(world.left[1].last().unwrap().to, world.peers[1].address);
}

#[test]
fn muxed_rtcp_stays_on_the_rtp_port_and_is_refused_there_unless_agreed() {
    let mut world = World::connected(6, WHATSAPP, BOT);
    // The peer's reports go to the odd port; one on the RTP port was not agreed upon.
    let from = world.peers[1].address;
    let report = vec![0x80, 201, 0, 1, 1, 2, 3, 4];
    let port = Port { leg: LegName::B, component: Component::Rtp };
    world.send_to_bridge(port, from, report.clone());
    world.run_ms(100);
    assert_eq!(world.dropped(DropReason::RtpPayloadType), 1);
    set_remote_b(&mut world, |remote| remote.rtcp_mux = true);
    let before = world.metrics.dropped;
    world.send_to_bridge(port, from, report);
    world.run_ms(100);
    assert_eq!(world.metrics.dropped, before);
}

#[test]
fn calls_connect_over_bad_links_in_every_role() {
    let bad = Faults { loss_pct: 15, duplicate_pct: 5, jitter_ms: 80, ..Faults::default() };
    let mut slowest = 0;
    for seed in 0..60 {
        let (a, b) = [(WHATSAPP, BOT), (BROWSER, BOT), (WHATSAPP, BROWSER)][seed as usize % 3];
        let mut world = World::new(seed, a, b, false);
        world.links = [bad; 4];
        let start = world.now;
        world.answer_b(b);
        world.run_ms(15_000);
        assert!(world.ended().is_none(), "seed {seed}: {:?}", world.ended());
        for (at, event) in &world.events {
            if format!("{event:?}").contains("DtlsConnected") {
                slowest = slowest.max(at.since(start).as_millis());
            }
        }
        let connected = world.events.iter().filter(|(_, event)| format!("{event:?}").contains("DtlsConnected")).count();
        assert_eq!(connected, if b == BROWSER { 2 } else { 1 }, "seed {seed}");
    }
    assert!(slowest < 10_000, "{slowest} ms");
}

#[test]
fn dtls_that_comes_before_the_answer_waits_for_it() {
    // Our offer: the peer starts DTLS while its answer is still on the way to us.
    let mut answer = None;
    let mut world = World::with(30, BROWSER, BOT, false, |config| {
        let LegConfig::Webrtc(webrtc) = &mut config.a else { unreachable!("leg A is webrtc") };
        answer = webrtc.remote.take();
    });
    world.run_ms(700);
    let remote = Box::new(LegRemote::Webrtc(answer.unwrap()));
    world.command(BridgeCommand::SetRemote { leg: LegName::A, remote });
    let answered = world.now;
    // Four datagrams' way: the next retransmission of the peer would come later than that.
    world.run_ms(60);
    let connected = world.events.iter().find(|(_, event)| format!("{event:?}").contains("DtlsConnected"));
    let (at, _) = connected.expect("the early ClientHello was kept");
    assert!(at.since(answered).as_millis() <= 60);
    assert_eq!(world.dropped(DropReason::DtlsUnexpected), 0);
}

#[test]
fn relay_goes_on_without_a_seam_after_a_new_ssrc_and_after_hold() {
    let mut world = World::connected(31, Kind::Rtp(Codec::Pcmu), BOT);
    let now = world.now;
    world.peers[0].start(now, Speech::Tone(440.0));
    world.run_ms(1_000);
    let mut random = engine::random::Random::from_test_seed(8);
    *world.peers[0].leg.sender() = engine::rtp::sender::RtpSender::new(4_711, 8_000, &mut random);
    world.run_ms(1_000);
    world.assert_continuous(LegName::B, 160);
    set_remote_b(&mut world, |remote| remote.sending = false);
    world.run_ms(5_000);
    let before = *world.left[1].last().unwrap();
    set_remote_b(&mut world, |_| {});
    world.run_ms(1_000);
    let after = *world.left[1].iter().find(|left| left.at > before.at).unwrap();
    assert_eq!(after.sequence, before.sequence.wrapping_add(1));
    assert_eq!(after.ssrc, before.ssrc);
    let passed = after.at.since(before.at).as_millis() as u32 * 8;
    assert!(after.timestamp.wrapping_sub(before.timestamp).abs_diff(passed) <= 160);
}

#[test]
fn a_codec_change_after_a_relay_goes_on_with_the_clock() {
    let mut world = World::connected(32, Kind::Rtp(Codec::Pcmu), BOT);
    let now = world.now;
    world.peers[0].start(now, Speech::Tone(440.0));
    world.peers[1].start(now, Speech::Tone(1_000.0));
    world.run_ms(1_000);
    let pcma = format(Codec::Pcma);
    set_remote_b(&mut world, |remote| remote.format = pcma);
    world.peers[1].speech = Speech::Nothing;
    world.run_ms(1_000);
    for leg in [LegName::A, LegName::B] {
        for pair in world.left[leg as usize].windows(2) {
            assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1));
            assert_eq!(pair[1].timestamp, pair[0].timestamp.wrapping_add(160), "{leg:?} at {:?}", pair[1].at);
        }
    }
}
