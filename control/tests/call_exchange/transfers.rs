//! Transfers, blind and after consultation, and calls that are taken over.

use super::*;

#[test]
fn a_user_transfers_a_trunks_call_to_another_user() {
    let mut world = World::new(11);
    let call = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus, Codec::Pcmu]));
    world.run_ms(2_000);
    let offers = world.phone(TRUNK_A).offers_seen;
    let (asked, remotes) = (world.refer(BOB, "sip:carol@192.0.2.1"), world.only_bridge().remotes.len());
    world.run_ms(3_000);
    assert_eq!(world.phone(BOB).transfers.last(), Some(&(200, true)));
    assert!(world.end(BOB, asked).is_some(), "the one who asked is let go");
    assert_eq!(world.phone(CAROL).live(), 1);
    let invite = world.phone(CAROL).invite();
    assert!(invite.from.contains("+441632960000"), "the caller is shown, not the one who transferred: {}", invite.from);
    assert!(invite.sdp.contains("opus") && !invite.sdp.contains("PCMU"), "the codec in force: {}", invite.sdp);
    let bridge = world.only_bridge();
    assert!(
        bridge.remotes[remotes..].iter().all(|(leg, _)| *leg != LegName::A),
        "the trunk's leg is not described anew"
    );
    assert_eq!((bridge.legs.len(), bridge.seats), (2, 1));
    assert_eq!(world.phone(TRUNK_A).offers_seen, offers);
    assert!(world.end(TRUNK_A, call).is_none());
    // And on: the new party may hold, and ends the call.
    world.offer_anew(CAROL, Direction::SendOnly);
    world.run_ms(500);
    world.hang_up_all(CAROL);
    world.run_ms(1_000);
    assert!(world.end(TRUNK_A, call).is_some());
    world.settle();
}

#[test]
fn the_caller_transfers_too_and_out_through_a_trunk() {
    let mut world = World::new(12);
    let call = world.dial(BOB, "carol", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    world.refer(BOB, "sip:+447700900123@192.0.2.1");
    world.run_ms(3_000);
    assert!(world.end(BOB, call).is_some());
    assert_eq!((world.phone(CAROL).live(), world.phone(TRUNK_A).live()), (1, 1));
    assert_eq!(world.only_bridge().legs.len(), 2);
    world.hang_up_all(TRUNK_A);
    world.run_ms(1_000);
    assert_eq!(world.phone(CAROL).live(), 0);
    world.settle();
}

#[test]
fn a_transfer_that_fails_leaves_the_call_as_it_was_or_ends_it_where_nobody_is_left() {
    let mut world = World::new(13);
    world.phone(CAROL).does = Does::Refuse { code: 486, after_ms: 500 };
    let call = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    world.refer(BOB, "sip:carol@192.0.2.1");
    world.run_ms(2_000);
    assert_eq!(world.phone(BOB).transfers.last(), Some(&(486, true)));
    assert_eq!((world.phone(BOB).live(), world.only_bridge().legs.len()), (1, 2));
    world.refer(BOB, "sip:nobody-at-all@192.0.2.1");
    world.run_ms(2_000);
    assert_eq!(world.phone(BOB).transfers.last(), Some(&(404, true)));
    // This time bob does not wait.
    world.refer(BOB, "sip:carol@192.0.2.1");
    world.run_ms(100);
    world.hang_up_all(BOB);
    world.run_ms(3_000);
    assert!(world.end(TRUNK_A, call).is_some());
    assert!(world.end_line().contains("transfer_failed"), "{}", world.end_line());
    world.settle();
}

#[test]
fn whatsapps_call_is_answered_by_a_softphone_and_transferred() {
    let mut world = World::new(14);
    world.new_session("user:bob");
    world.run_ms(2_000);
    let invite = world.phone(BOB).invite();
    assert!(invite.headers.iter().any(|(name, _)| name == "X-WA-Call-ID"));
    let opus = invite.sdp.find("opus").unwrap();
    assert!(invite.sdp.find("PCMU").is_none_or(|pcmu| opus < pcmu), "Opus comes first: {}", invite.sdp);
    assert!(world.events.contains(&EdgeEventKind::Answered));
    let before = world.only_bridge().remotes.len();
    world.refer(BOB, "sip:carol@192.0.2.1");
    world.run_ms(3_000);
    assert_eq!((world.phone(BOB).live(), world.phone(CAROL).live()), (0, 1));
    assert!(world.only_bridge().remotes[before..].iter().all(|(leg, _)| *leg != LegName::A));
    assert_eq!(world.events.iter().filter(|event| **event == EdgeEventKind::Answered).count(), 1);
    world.hang_up_all(CAROL);
    world.run_ms(1_000);
    assert!(matches!(world.events.last(), Some(EdgeEventKind::Ended { .. })), "{:?}", world.events);
    world.settle();
}

/// The two bridges of calls that were joined: each sends to the other's port on the loopback address, and nobody else was told.
fn assert_joined(world: &World) {
    assert_eq!(world.bridges.len(), 2);
    let inside: Vec<SocketAddr> = world
        .bridges
        .values()
        .map(|bridge| {
            assert_eq!((bridge.legs.len(), bridge.seats), (2, 1));
            let Some((LegName::H, LegRemote::Rtp(remote))) = bridge.remotes.last() else {
                panic!("{:?}", bridge.remotes)
            };
            assert!(remote.sending && remote.address.ip().is_loopback());
            remote.address
        })
        .collect();
    assert_ne!(inside[0].port(), inside[1].port());
}

#[test]
fn a_user_transfers_a_trunks_call_to_whom_it_has_consulted() {
    for consulted in ["carol", "+447700900123"] {
        for asks_in_first in [true, false] {
            let mut world = World::new(19);
            let first = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
            world.run_ms(2_000);
            world.offer_anew(BOB, Direction::SendOnly);
            world.run_ms(500);
            let second = world.dial(BOB, consulted, Offer::rtp(&[Codec::Opus, Codec::Pcmu]));
            world.run_ms(2_000);
            let came = world.phone(BOB).calls[0].call;
            let other = if consulted == "carol" { CAROL } else { TRUNK_A };
            let offers = [TRUNK_A, CAROL].map(|phone| world.phone(phone).offers_seen);
            match asks_in_first {
                true => world.attend(BOB, came, second),
                false => {
                    // As JsSIP names a call that came to it: by who called, not by whose tag is whose.
                    let named = world.phone(BOB).agent.replaces(came).unwrap();
                    let swapped = Replaces { to_tag: named.from_tag.clone(), from_tag: named.to_tag.clone(), ..named };
                    world.attend_naming(BOB, second, &swapped);
                }
            }
            world.run_ms(2_000);
            assert_eq!(world.phone(BOB).transfers, [(202, false), (100, false), (200, true)]);
            assert!(world.end(BOB, came).is_some() && world.end(BOB, second).is_some(), "who asked is let go");
            assert!(world.end(TRUNK_A, first).is_none());
            assert_eq!(world.phone(other).live(), 1);
            assert_eq!(offers, [TRUNK_A, CAROL].map(|phone| world.phone(phone).offers_seen), "nobody is offered anew");
            assert_joined(&world);
            // Whoever hangs up ends all of it.
            match asks_in_first {
                true => world.hang_up(TRUNK_A, first),
                false => world.hang_up_all(other),
            }
            world.run_ms(1_000);
            assert!(world.end(TRUNK_A, first).is_some());
            assert_eq!(world.phone(other).live(), 0);
            assert!(world.bridges.is_empty());
            world.settle();
        }
    }
}

#[test]
fn whatsapps_call_is_transferred_after_consultation_and_again_and_its_description_stays() {
    let mut world = World::new(20);
    world.new_session("user:bob");
    world.run_ms(2_000);
    let before: Vec<usize> = world.bridges.values().map(|bridge| bridge.remotes.len()).collect();
    let second = world.dial(BOB, "carol", Offer::rtp(&[Codec::Pcmu]));
    world.run_ms(2_000);
    let came = world.phone(BOB).calls[0].call;
    world.attend(BOB, came, second);
    world.run_ms(1_000);
    assert_joined(&world);
    let session = world.bridges.values().next().unwrap();
    assert!(session.remotes[before[0]..].iter().all(|(leg, _)| *leg == LegName::H), "WhatsApp's leg is not touched");
    let LegRemote::Rtp(remote) = &session.remotes.last().unwrap().1 else { panic!() };
    assert_eq!(remote.format.codec, Codec::Opus, "carol's bridge transcodes, WhatsApp's relays");
    // Carol passes the call on without asking; to whom it goes is called on WhatsApp's behalf.
    world.refer(CAROL, "sip:alice@192.0.2.1");
    world.run_ms(4_000);
    assert_eq!(world.phone(CAROL).transfers.last(), Some(&(200, true)));
    let invite = &world.phones[&address(ALICE)].calls;
    assert!(invite.last().unwrap().from.contains("447700900123"), "{}", invite.last().unwrap().from);
    assert_eq!((world.phone(CAROL).live(), world.bridges.len()), (0, 2));
    let token = std::mem::take(&mut world.token);
    world.gateway.handle_request(world.now, 3, EdgeRequest::Hangup { edge_session_id: token });
    world.run_ms(2_000);
    assert_eq!((world.phone(ALICE).live(), world.bridges.len()), (0, 0));
    world.settle();
}

#[test]
fn an_attended_transfer_that_cannot_be_leaves_both_calls_as_they_were() {
    let mut world = World::with(21, |routes| {
        for trunk in &mut routes.trunks {
            trunk.transcoding = false;
        }
    });
    let first = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    let second = world.dial(BOB, "carol", Offer::rtp(&[Codec::Pcmu]));
    let third = world.dial(CAROL, "alice", Offer::rtp(&[Codec::Opus]));
    world.run_ms(4_000);
    let came = world.phone(BOB).calls[0].call;
    let known = world.phone(BOB).agent.replaces(second).unwrap();
    let foreign = world.phone(CAROL).agent.replaces(third).unwrap();
    let own = world.phone(BOB).agent.replaces(came).unwrap();
    for (named, code) in [
        (Replaces { to_tag: "nobody".into(), ..known.clone() }, 481),
        (foreign, 403),
        (own, 403),
        (Replaces { early_only: true, ..known.clone() }, 486),
        (known, 488),
    ] {
        world.attend_naming(BOB, came, &named);
        world.run_ms(1_000);
        assert_eq!(world.phone(BOB).transfers.last(), Some(&(code, true)), "{named:?}");
    }
    assert!(world.end(TRUNK_A, first).is_none() && world.end(BOB, second).is_none());
    assert_eq!((world.bridges.len(), world.phone(BOB).live()), (3, 1));
    assert!(world.bridges.values().all(|bridge| bridge.legs.len() == 2));
    assert!(world.steps.iter().any(|(_, words)| words.contains("transcoding is off")));
    world.settle();
}

#[test]
fn legs_that_the_engine_cannot_open_leave_both_calls_as_they_were() {
    for (refused, leaves) in [(0, false), (1, false), (0, true), (1, true)] {
        let mut world = World::new(22);
        let first = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
        world.run_ms(2_000);
        let second = world.dial(BOB, "carol", Offer::rtp(&[Codec::Opus]));
        world.run_ms(2_000);
        let came = world.phone(BOB).calls[0].call;
        (world.refuses_legs, world.mute_engine) = (world.bridges.keys().nth(refused).copied(), false);
        if leaves {
            (world.refuses_legs, world.mute_engine) = (None, true);
        }
        world.attend(BOB, came, second);
        if leaves {
            // The engine is slow, and bob does not wait for it.
            world.run_ms(500);
            world.hang_up_all(BOB);
        }
        world.run_ms(8_000);
        assert_eq!(world.end(TRUNK_A, first).is_some(), leaves);
        assert_eq!((world.phone(CAROL).live(), world.bridges.len()), if leaves { (0, 0) } else { (1, 2) });
        if !leaves {
            assert_eq!(world.phone(BOB).transfers.last(), Some(&(503, true)));
            assert!(world.bridges.values().all(|bridge| bridge.legs.len() == 2));
        }
        world.mute_engine = false;
        world.settle();
    }
}

#[test]
fn a_consultation_that_is_not_answered_yet_becomes_a_blind_transfer() {
    let mut world = World::new(23);
    world.phone(CAROL).does = Does::Answer { after_ms: 3_000 };
    let first = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    let second = world.dial(BOB, "carol", Offer::rtp(&[Codec::Opus]));
    world.run_ms(1_000);
    let came = world.phone(BOB).calls[0].call;
    world.attend(BOB, came, second);
    world.run_ms(6_000);
    assert_eq!(world.phone(BOB).transfers.last(), Some(&(200, true)));
    assert!(world.end(TRUNK_A, first).is_none() && world.end(BOB, second).is_some());
    let invite = world.phone(CAROL).invite();
    assert!(invite.from.contains("+441632960000"));
    assert_eq!(invite.referred_by.as_deref(), Some("<sip:bob@192.0.2.1>"), "who sent the caller on (RFC 3892)");
    assert_eq!((world.phone(CAROL).live(), world.bridges.len()), (1, 1));
    world.settle();
}

#[test]
fn another_device_of_the_user_takes_a_call_that_talks_and_one_that_rings() {
    for rings in [false, true] {
        let mut world = World::new(24);
        world.phone(ALICE).does = if rings { Does::Ring } else { Does::Answer { after_ms: 100 } };
        world.phone(ALICE_TOO).does = Does::Ring;
        let call = world.dial(TRUNK_A, "alice", Offer::rtp(&[Codec::Opus, Codec::Pcmu]));
        world.run_ms(2_000);
        let offers = world.phone(TRUNK_A).offers_seen;
        let came = world.phone(ALICE).calls[0].call;
        let named = world.phone(ALICE).agent.replaces(came).unwrap();
        // Somebody else may not.
        let stranger = world.replace(CAROL, &named, Offer::rtp(&[Codec::Opus]));
        world.run_ms(500);
        assert!(matches!(world.end(CAROL, stranger), Some(SipEnd::Rejected { code: 403, .. })));
        let taking = world.replace(ALICE_TOO, &named, Offer::rtp(&[Codec::Pcmu, Codec::Opus]));
        world.run_ms(1_000);
        assert_eq!(world.answer(ALICE_TOO, taking).codecs[0].codec, Codec::Opus, "the one in force");
        assert_eq!(world.answer(TRUNK_A, call).codecs[0].codec, Codec::Opus);
        assert!(world.end(ALICE, came).is_some() && world.end(TRUNK_A, call).is_none());
        assert_eq!(world.phone(TRUNK_A).offers_seen, offers);
        assert_eq!(world.only_bridge().legs.len(), 2);
        assert_eq!(world.phone(ALICE_TOO).live(), 0, "its own ringing is over");
        // What is gone cannot be replaced once more.
        let late = world.replace(ALICE_TOO, &named, Offer::rtp(&[Codec::Opus]));
        world.run_ms(500);
        assert!(matches!(world.end(ALICE_TOO, late), Some(SipEnd::Rejected { code: 603 | 481, .. })));
        world.hang_up(ALICE_TOO, taking);
        world.run_ms(1_000);
        assert!(world.end(TRUNK_A, call).is_some());
        world.settle();
    }
}

#[test]
fn a_trunk_takes_its_own_call_over_without_an_offer() {
    for rings in [false, true] {
        let mut world = World::with(31, |routes| routes.trunks[1].pattern = None);
        world.phone(TRUNK_A).does = if rings { Does::Ring } else { Does::Answer { after_ms: 100 } };
        let call = world.dial(BOB, "+447700900123", Offer::rtp(&[Codec::Pcmu]));
        world.run_ms(2_000);
        let came = world.phone(TRUNK_A).calls[0].call;
        world.script_replaces = world.phone(TRUNK_A).agent.replaces(came);
        let ok = world.script("INVITE", 1, None, "").pop().unwrap();
        assert_eq!(ok.code(), Some(200), "{ok:?}");
        assert_eq!(sdp::parse(ok.sdp().unwrap()).unwrap().codecs[0].codec, Codec::Pcmu, "what bob has comes first");
        assert!(world.end(TRUNK_A, came).is_some());
        world.script("ACK", 1, Some(&ok), &Offer::rtp(&[Codec::Pcmu]).sdp);
        let (leg, LegRemote::Rtp(remote)) = world.only_bridge().remotes.last().unwrap() else { panic!() };
        assert_eq!((*leg, remote.address.port()), (LegName::B, 4_000));
        assert_eq!(world.answer(BOB, call).codecs[0].codec, Codec::Pcmu);
        world.script("BYE", 2, Some(&ok), "");
        assert!(world.end(BOB, call).is_some());
        world.settle();
    }
}
