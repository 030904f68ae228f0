//! How webrtc legs come up when things happen in another order than in the book.

mod common;

use common::{Faults, Kind, Speech, World, bridge_address, format, ice_of, mirrored};
use engine::bridge::{BridgeCommand, BridgeEvent, LegConfig, LegName, LegRemote, Port};
use engine::dtls::DtlsRole;
use engine::error::DropReason;
use engine::leg::webrtc::WebrtcRemote;
use engine::leg::{Component, Leg, LegEvent};
use engine::sdp::{Candidate, Codec};
use engine::time::Instant;

const WHATSAPP: Kind = Kind::WhatsApp(Codec::Opus);
const BROWSER: Kind = Kind::Browser(Codec::Opus);
const BOT: Kind = Kind::Rtp(Codec::Pcmu);

fn connected_at(world: &World, leg: LegName) -> Option<Instant> {
    let is_it = |event: &BridgeEvent| matches!(event, BridgeEvent::Leg { leg: of, event: LegEvent::DtlsConnected { .. } } if *of == leg);
    world.events.iter().find(|(_, event)| is_it(event)).map(|(at, _)| *at)
}

/// A callee checks and says hello as soon as it has our offer; its answer travels with the signalling.
#[test]
fn a_client_hello_that_comes_before_the_answer_does_is_served_with_it() {
    for late_ms in [50, 500, 3_000] {
        let mut world = World::new(1, WHATSAPP, BROWSER, false);
        world.run_ms(500);
        let (now, bridge) = (world.now, bridge_address(Port { leg: LegName::B, component: Component::Rtp }));
        let (ice, fingerprint) = ice_of(&world.bridge.local(LegName::B), true, bridge);
        let format_b = mirrored(&format(Codec::Opus));
        let Leg::Webrtc(peer) = &mut world.peers[1].leg else { panic!("a webrtc leg") };
        peer.set_remote(now, WebrtcRemote { ice, fingerprint, dtls: DtlsRole::Client, format: format_b });
        world.drain_all();
        world.run_ms(late_ms);
        assert_eq!(connected_at(&world, LegName::B), None);
        assert_eq!(world.dropped(DropReason::DtlsUnexpected), 0);

        let (ice, fingerprint) = ice_of(&world.peers[1].leg.local(), false, world.peers[1].address);
        let remote = WebrtcRemote { ice, fingerprint, dtls: DtlsRole::Server, format: format(Codec::Opus) };
        let remote = Box::new(LegRemote::Webrtc(remote));
        let told = world.now;
        world.command(BridgeCommand::SetRemote { leg: LegName::B, remote });
        world.run_ms(2_000);
        let took_ms = connected_at(&world, LegName::B).expect("connected").since(told).as_millis();
        // Two round trips of 20 ms; the peer would have said hello again after as much as a second.
        assert!(took_ms <= 50, "{late_ms} ms late: {took_ms} ms");
    }
}

/// A lite peer that is the DTLS client says hello when it sees the nominating check; our answer to that may come later.
#[test]
fn a_client_hello_that_overtakes_the_answer_to_the_nomination_is_not_lost() {
    for seed in 0..40 {
        let mut world = World::with(seed, WHATSAPP, BOT, false, |config| {
            let LegConfig::Webrtc(webrtc) = &mut config.a else { unreachable!("leg A is webrtc") };
            webrtc.remote.as_mut().unwrap().dtls = DtlsRole::Server;
        });
        world.links[0] = Faults { jitter_ms: 60, ..Faults::default() };
        world.run_ms(1_500);
        assert!(connected_at(&world, LegName::A).is_some(), "seed {seed}");
        assert_eq!(world.dropped(DropReason::DtlsUnexpected), 0, "seed {seed}");
    }
}

/// Names of mDNS, addresses behind a NAT, candidates that were found after the description was sent: what the description does not
/// have is learned from the peer's checks (RFC 8445 §7.3.1.3).
#[test]
fn a_peer_whose_candidates_are_missing_or_lead_nowhere_is_found_by_its_checks() {
    let nowhere = Candidate { address: "10.9.8.7:9".parse().unwrap(), priority: 1 };
    for candidates in [vec![], vec![nowhere]] {
        let mut world = World::with(2, BROWSER, BOT, false, |config| {
            let LegConfig::Webrtc(webrtc) = &mut config.a else { unreachable!("leg A is webrtc") };
            webrtc.remote.as_mut().unwrap().ice.candidates = candidates;
        });
        world.answer_b(BOT);
        world.run_ms(500);
        let since = world.now;
        world.peers[0].start(since, Speech::Tone(440.0));
        world.run_ms(1_500);
        assert_eq!(world.has_leg_event(LegName::A, LegEvent::IceNominated(world.peers[0].address)), 1);
        assert!(world.tone_share(LegName::B, 440.0, since.plus_millis(500)) > 0.9);
    }
}
