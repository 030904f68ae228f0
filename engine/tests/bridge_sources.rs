//! What a peer's packets may look like: other addresses, comfort noise, keep-alives, keys on either clock.

mod common;

use common::{Faults, Kind, Speech, World, bridge_address, format, ice_of, mirrored};
use engine::bridge::{BridgeCommand, BridgeEvent, LegName, LegRemote, Port};
use engine::dtls::DtlsRole;
use engine::error::{Cause, DropReason, Side};
use engine::ice::IceCredentials;
use engine::leg::webrtc::WebrtcChange;
use engine::leg::{Component, Leg, LegEvent, LocalLeg};
use engine::rtp::telephone_event::{Digit, EventSender};
use engine::sdp::Codec;
use std::net::SocketAddr;

const BROWSER: Kind = Kind::Browser(Codec::Opus);
const BOT: Kind = Kind::Rtp(Codec::Pcmu);
const RTP_B: Port = Port { leg: LegName::B, component: Component::Rtp };

fn talking(seed: u64) -> World {
    let mut world = World::connected(seed, BROWSER, BOT);
    let now = world.now;
    world.peers[0].start(now, Speech::Tone(440.0));
    world.peers[1].start(now, Speech::Tone(1_000.0));
    world.run_ms(1_500);
    world
}

fn packet(payload_type: u8, sequence: u16, ssrc: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, payload_type];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * 160).to_be_bytes());
    packet.extend(ssrc.to_be_bytes());
    packet.extend(payload);
    packet
}

#[test]
fn a_nat_that_gives_the_peer_another_port_takes_the_call_along_and_nobody_else_can() {
    let mut world = talking(1);
    let stranger = SocketAddr::from(([198, 18, 0, 66], 6_666));
    let moved = SocketAddr::from(([203, 0, 113, 5], 39_999));
    // The link is dead for four seconds; meanwhile a stranger tries with a stream of its own.
    world.links[2].is_cut = true;
    world.run_ms(3_500);
    world.links[2].is_cut = false;
    for sequence in 0..10 {
        world.send_to_bridge(RTP_B, stranger, packet(0, sequence, 0xbad, &[0xff; 160]));
    }
    world.links[2].is_cut = true;
    world.run_ms(500);
    assert_eq!(world.dropped(DropReason::UnknownSource), 10);
    world.links[2].is_cut = false;
    world.peers[1].address = moved;
    world.run_ms(500);
    assert_eq!(world.has_leg_event(LegName::B, LegEvent::Latched(moved)), 1);
    assert_eq!(world.left[1].last().unwrap().to, moved);
    let since = world.now;
    world.run_ms(1_000);
    assert!(world.tone_share(LegName::A, 1_000.0, since) > 0.9);
    assert!(world.tone_share(LegName::B, 440.0, since) > 0.9);
}

#[test]
fn comfort_noise_that_nobody_negotiated_keeps_the_leg_alive_and_is_no_loss() {
    let mut world = talking(2);
    let ssrc = world.peers[1].leg.sender().ssrc();
    let from = world.peers[1].address;
    world.peers[1].speech = Speech::Nothing;
    world.links[2].is_cut = true; // not even its RTCP
    world.run_ms(100);
    let sequence = world.peers[1].leg.sender().sequence();
    for index in 0..20 {
        world.links[2].is_cut = false;
        world.send_to_bridge(RTP_B, from, packet(13, sequence.wrapping_add(index), ssrc, &[60]));
        world.links[2].is_cut = true;
        world.run_ms(5_000);
    }
    assert!(world.ended().is_none());
    let stats = world.bridge.leg(LegName::B).stats();
    assert!(stats.packets_lost <= 5 && stats.packets_dropped == 0, "{stats:?}");
    world.run_ms(60_000);
    world.assert_ended(Side::B, Cause::MediaTimeout);
}

#[test]
fn a_keep_alive_of_an_unknown_payload_type_is_life_from_the_peer_and_nothing_from_a_stranger() {
    for (from_peer, survives) in [(true, true), (false, false)] {
        let mut world = talking(3);
        let from = if from_peer { world.peers[1].address } else { SocketAddr::from(([198, 18, 0, 66], 6_666)) };
        world.peers[1].speech = Speech::Nothing;
        world.links[2].is_cut = true;
        for sequence in 0..6 {
            world.links[2].is_cut = false;
            world.send_to_bridge(RTP_B, from, packet(127, sequence, 7, &[]));
            world.links[2].is_cut = true;
            world.run_ms(15_000);
        }
        assert_eq!(world.ended().is_none(), survives, "{from_peer}");
    }
}

/// Both sides of leg A go on with telephone-event at `rate_hz`.
fn set_event_rate(world: &mut World, rate_hz: u32) {
    let mut format = format(Codec::Opus);
    format.telephone_event.as_mut().unwrap().clock_rate_hz = rate_hz;
    let credentials = |local: LocalLeg| match local {
        LocalLeg::Webrtc { ufrag, pwd, .. } => IceCredentials { ufrag, pwd },
        LocalLeg::Rtp { .. } => panic!("a webrtc leg"),
    };
    let (ours, theirs) = (world.bridge.local(LegName::A), world.peers[0].leg.local());
    let bridge = bridge_address(Port { leg: LegName::A, component: Component::Rtp });
    let (ice, fingerprint) = ice_of(&theirs, false, world.peers[0].address);
    let change = WebrtcChange {
        ice,
        fingerprint,
        credentials: credentials(ours.clone()),
        dtls: DtlsRole::Server,
        format,
        sending: true,
    };
    world.command(BridgeCommand::SetRemote { leg: LegName::A, remote: Box::new(LegRemote::WebrtcChange(change)) });
    let now = world.now;
    let (ice, fingerprint) = ice_of(&ours, true, bridge);
    let Leg::Webrtc(peer) = &mut world.peers[0].leg else { panic!("a webrtc leg") };
    let format = mirrored(&format);
    peer.change(
        now,
        WebrtcChange {
            ice,
            fingerprint,
            credentials: credentials(theirs),
            dtls: DtlsRole::Client,
            format,
            sending: true,
        },
    );
    world.peers[0].keys = EventSender::new(rate_hz);
    world.drain_all();
}

#[test]
fn keys_cross_with_their_length_on_either_clock_under_a_fifth_of_loss() {
    const KEYS: [(char, u32); 5] = [('1', 60), ('1', 100), ('#', 260), ('0', 700), ('9', 100)];
    for (seed, rate_hz) in (10..22).zip([8_000, 48_000].into_iter().cycle()) {
        let mut world = talking(seed);
        set_event_rate(&mut world, rate_hz);
        world.links = [Faults { loss_pct: 20, duplicate_pct: 5, jitter_ms: 30, ..Faults::default() }; 4];
        for peer in &mut world.peers {
            for (digit, duration_ms) in KEYS {
                assert!(peer.keys.press(Digit::from_char(digit).unwrap(), duration_ms));
            }
        }
        world.run_ms(6_000);
        for leg in [LegName::A, LegName::B] {
            let keys: Vec<(char, u32)> = world
                .events
                .iter()
                .filter_map(|(_, event)| match event {
                    BridgeEvent::Digit { leg: from, digit, duration_ms } if *from == leg => {
                        Some((digit.as_char(), *duration_ms))
                    }
                    _ => None,
                })
                .collect();
            assert_eq!(keys.len(), KEYS.len(), "seed {seed} {leg:?} {keys:?}");
            for ((heard, heard_ms), (pressed, pressed_ms)) in keys.iter().zip(KEYS) {
                assert_eq!(*heard, pressed, "seed {seed} {leg:?}");
                // All three end packets are lost once in 125 keys; then the length is that of the last packet heard.
                assert!(heard_ms.abs_diff(pressed_ms) <= 60, "seed {seed} {leg:?}: {heard_ms} for {pressed_ms} ms");
            }
            assert_eq!(world.peers[leg.other() as usize].digits_heard(), "11#09", "seed {seed} {leg:?}");
        }
        world.assert_continuous(LegName::A, 960);
        world.assert_continuous(LegName::B, 160);
    }
}
