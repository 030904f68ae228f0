//! RTCP on both legs: what is measured, what is passed on, and whose goodbye counts.

mod common;

use common::{Faults, Kind, Speech, World};
use engine::bridge::{LegName, Port};
use engine::error::{Cause, Side};
use engine::leg::Component;
use engine::sdp::Codec;

const WHATSAPP: Kind = Kind::WhatsApp(Codec::Opus);
const BROWSER: Kind = Kind::Browser(Codec::Opus);
const BOT: Kind = Kind::Rtp(Codec::Pcmu);

fn talking(seed: u64, a: Kind, b: Kind) -> World {
    let mut world = World::connected(seed, a, b);
    let now = world.now;
    world.peers.iter_mut().for_each(|peer| peer.start(now, Speech::Silence));
    world
}

#[test]
fn both_legs_know_round_trip_loss_and_jitter_of_both_directions() {
    for (seed, a, b) in [(1, WHATSAPP, BOT), (2, BROWSER, Kind::Sdes(Codec::Pcmu, engine::sdp::SDES_SUITES[1]))] {
        let mut world = talking(seed, a, b);
        for (link, loss_pct, jitter_ms) in [(0, 5, 40), (1, 20, 10), (2, 10, 30), (3, 0, 20)] {
            world.links[link] = Faults { loss_pct, jitter_ms, ..Faults::default() };
        }
        world.run_ms(60_000);
        for (leg, lost_in, lost_out) in [(LegName::A, 150, 600), (LegName::B, 300, 0)] {
            let stats = world.bridge.leg(leg).stats();
            let near = |value: u64, expected: u64| value.abs_diff(expected) <= expected / 3 + 12;
            assert!(near(stats.packets_lost, lost_in), "{leg:?} {stats:?}");
            // The peer's last report may be seven seconds old.
            assert!(near(stats.remote_packets_lost.unwrap().into(), lost_out), "{leg:?} {stats:?}");
            assert!((2..40).contains(&stats.jitter_ms), "{leg:?} {stats:?}");
            assert!((1..20).contains(&stats.remote_jitter_ms.unwrap()), "{leg:?} {stats:?}");
            assert!((20..100).contains(&stats.round_trip_ms.unwrap()), "{leg:?} {stats:?}");
        }
    }
}

#[test]
fn on_relayed_audio_the_sender_hears_of_loss_behind_us() {
    for (seed, before, behind, expected) in [(3, 0, 20, 14..27), (4, 10, 20, 20..36), (5, 20, 0, 14..27)] {
        let mut world = talking(seed, WHATSAPP, BROWSER);
        world.links[0] = Faults { loss_pct: before, ..Faults::default() };
        world.links[3] = Faults { loss_pct: behind, ..Faults::default() };
        let mut reports = Vec::new();
        for _ in 0..12 {
            world.run_ms(10_000);
            reports.push(u32::from(world.peers[0].leg.stats().remote_loss_percent.unwrap()));
        }
        let mean = reports.iter().skip(2).sum::<u32>() / (reports.len() as u32 - 2);
        assert!(expected.contains(&mean), "{before} % before, {behind} % behind: {reports:?}");
        // The way back is clean, and nothing is said about it that is not so.
        assert_eq!(world.peers[1].leg.stats().remote_loss_percent, Some(0));
    }
}

#[test]
fn where_we_transcode_each_sender_hears_of_its_own_path() {
    let mut world = talking(6, WHATSAPP, BOT);
    world.links[3] = Faults { loss_pct: 30, ..Faults::default() };
    world.run_ms(40_000);
    assert_eq!(world.peers[0].leg.stats().remote_loss_percent, Some(0));
    assert!(world.bridge.leg(LegName::B).stats().remote_loss_percent.unwrap() > 10);
}

#[test]
fn a_bye_for_a_stream_that_was_given_up_ends_nothing() {
    let mut world = talking(7, WHATSAPP, BOT);
    world.run_ms(1_000);
    let ssrc = world.peers[1].leg.sender().ssrc();
    let bye = |ssrc: u32| {
        let [a, b, c, d] = ssrc.to_be_bytes();
        vec![0x80, 201, 0, 1, a, b, c, d, 0x81, 203, 0, 1, a, b, c, d]
    };
    let port = Port { leg: LegName::B, component: Component::Rtcp };
    let mut from = world.peers[1].address;
    from.set_port(from.port() + 1);
    world.send_to_bridge(port, from, bye(ssrc ^ 1));
    world.peers[1].speech = Speech::Nothing;
    world.run_ms(10_000);
    assert!(world.ended().is_none());
    world.send_to_bridge(port, from, bye(ssrc));
    world.run_ms(3_000);
    world.assert_ended(Side::B, Cause::RtcpBye);
}
