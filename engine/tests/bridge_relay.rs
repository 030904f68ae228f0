//! Bridges between legs of one codec: what one peer says reaches the other bit for bit.

mod common;

use common::{Faults, Kind, Speech, World};
use engine::bridge::LegName;
use engine::leg::LegEvent;
use engine::sdp::Codec;

fn payload(number: u64) -> Vec<u8> {
    let length = 20 + (number * 7 % 90) as usize;
    (0..length).map(|index| (number as usize * 31 + index * 17) as u8).collect()
}

fn speak_both_ways(world: &mut World) {
    let now = world.now;
    for peer in &mut world.peers {
        peer.start(now, Speech::Payloads(payload));
    }
}

#[test]
fn webrtc_to_webrtc_relays_bit_for_bit_both_ways() {
    let (a, b) = (Kind::WhatsApp(Codec::Opus), Kind::Browser(Codec::Opus));
    let mut world = World::connected(1, a, b);
    speak_both_ways(&mut world);
    world.run_ms(5_000);
    for leg in [LegName::A, LegName::B] {
        let heard = &world.peers[leg as usize].heard;
        assert!(heard.len() >= 248, "{leg:?} heard {}", heard.len());
        for (number, packet) in heard.iter().enumerate() {
            assert_eq!(packet.payload, payload(number as u64), "{leg:?} packet {number}");
            assert_eq!(packet.marker, number == 0);
        }
        world.assert_continuous(leg, 960);
        for event in [LegEvent::FirstReceived, LegEvent::FirstSent] {
            assert_eq!(world.has_leg_event(leg, event), 1);
        }
    }
    assert_eq!(world.metrics.dropped, [0; engine::error::DropReason::COUNT]);
}

#[test]
fn relay_keeps_gaps_and_timestamp_steps_of_a_lossy_link() {
    let mut world = World::connected(2, Kind::WhatsApp(Codec::Opus), Kind::Browser(Codec::Opus));
    world.links[0] = Faults { loss_pct: 10, duplicate_pct: 5, jitter_ms: 60, ..Faults::default() };
    speak_both_ways(&mut world);
    world.run_ms(10_000);
    let heard = &world.peers[1].heard;
    assert!((400..500).contains(&heard.len()), "{}", heard.len());
    let first = heard[0].clone();
    let numbers: Vec<u64> = heard
        .iter()
        .map(|packet| {
            let steps = packet.sequence.wrapping_sub(first.sequence) as i16;
            assert_eq!(packet.timestamp.distance_from(first.timestamp), i32::from(steps) * 960);
            steps as i64 as u64
        })
        .collect();
    // The first packet's own number is known by its payload.
    let offset = (0..20).find(|&number| payload(number) == first.payload).unwrap();
    for (number, packet) in numbers.iter().zip(heard) {
        assert_eq!(packet.payload, payload(offset.wrapping_add(*number)));
    }
    let mut unique = numbers.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), numbers.len(), "no packet twice");
}

#[test]
fn rtp_to_rtp_relays_pcmu() {
    let mut world = World::connected(3, Kind::Rtp(Codec::Pcmu), Kind::Rtp(Codec::Pcmu));
    speak_both_ways(&mut world);
    world.run_ms(2_000);
    for leg in [LegName::A, LegName::B] {
        let heard = &world.peers[leg as usize].heard;
        assert!(heard.len() >= 98);
        assert!(heard.iter().enumerate().all(|(number, packet)| packet.payload == payload(number as u64)));
        world.assert_continuous(leg, 160);
    }
}
