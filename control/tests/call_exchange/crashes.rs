//! A gateway that is killed, and what it does about its calls when it comes back.

use super::*;

#[test]
fn a_gateway_that_has_died_ends_its_calls_on_both_sides_when_it_comes_back() {
    let mut world = World::new(18);
    let call = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
    world.new_session("user:carol");
    world.run_ms(2_000);
    assert_eq!((world.phone(BOB).live(), world.phone(CAROL).live(), world.kept.len()), (1, 1, 3));
    // A peer that moves is found where it is.
    world.offer_anew(CAROL, Direction::SendOnly);
    world.run_ms(1_000);
    world.crash();
    world.run_ms(1_000);
    let ends = [vec![world.end(TRUNK_A, call).unwrap()], world.phone(BOB).ends(), world.phone(CAROL).ends()].concat();
    assert_eq!(ends.len(), 3);
    for end in ends {
        assert!(matches!(&end, SipEnd::ByeReceived(Some(reason)) if reason.contains("restarted")), "{end:?}");
    }
    assert_eq!((world.gateway.counters().sip_calls_cut, world.kept.len()), (3, 0));
    world.settle();
}

#[test]
fn a_gateway_that_has_died_stops_whatever_rings_when_it_comes_back() {
    for answers_meanwhile in [false, true] {
        let mut world = World::new(20);
        // The 2xx is on its way when the gateway dies.
        let ring = if answers_meanwhile { Does::Answer { after_ms: 998 } } else { Does::Ring };
        for phone in [BOB, CAROL] {
            world.phone(phone).does = ring;
        }
        let call = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
        world.new_session("user:carol");
        world.run_ms(1_000);
        assert_eq!(world.kept.len(), 3);
        world.crash();
        world.run_ms(1_000);
        let refused = world.end(TRUNK_A, call);
        assert!(matches!(refused, Some(SipEnd::Rejected { code: 503, .. })), "{refused:?}");
        for phone in [BOB, CAROL] {
            let ends = world.phone(phone).ends();
            let expected = match answers_meanwhile {
                true => matches!(ends[..], [SipEnd::ByeReceived(Some(_))]),
                false => matches!(ends[..], [SipEnd::CancelReceived]),
            };
            assert!(expected, "{phone}: {ends:?}");
        }
        assert_eq!((world.kept.len(), world.gateway.counters().sip_calls_cut), (0, 3));
        world.settle();
    }
}

/// The INVITE is there, and no word of it has come back when the gateway dies; or the answer is there, and its ACK has not left.
#[test]
fn a_gateway_that_dies_before_it_has_heard_anything_stops_what_rings_all_the_same() {
    for answers in [false, true] {
        let mut world = World::new(21);
        world.phone(CAROL).does = if answers { Does::Answer { after_ms: 0 } } else { Does::Ring };
        world.new_session("user:carol");
        let has_it = |world: &mut World| match answers {
            true => world.phone(CAROL).calls.iter().any(|call| call.answered),
            false => world.phone(CAROL).live() + world.phone(CAROL).calls.len() > 0,
        };
        while !has_it(&mut world) {
            world.run_ms(1);
        }
        let heard = world.steps.iter().any(|(step, _)| matches!(step, Step::Ringing | Step::Answered));
        assert!(!heard && world.kept.len() == 1, "{:?}", world.steps);
        world.crash();
        world.run_ms(1_000);
        let ends = world.phone(CAROL).ends();
        match answers {
            true => assert!(matches!(ends[..], [SipEnd::ByeReceived(Some(_))]), "{ends:?}"),
            false => assert!(matches!(ends[..], [SipEnd::CancelReceived]), "{ends:?}"),
        }
        assert!(world.kept.is_empty());
        world.settle();
    }
}

#[test]
fn thousands_of_calls_that_a_crash_has_cut_are_ended_within_seconds() {
    let mut world = World::new(19);
    world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    // As many as there may be, all like the one that is there, under tags of their own. Nobody knows them: 481 is an answer too.
    let (key, dialog) = world.kept.first_key_value().unwrap();
    let (call_id, tag) = key.split_once(';').unwrap();
    let (call_id, tag, text) = (call_id.to_owned(), tag.to_owned(), serde_json::to_string(dialog).unwrap());
    for number in world.kept.len()..8_192 {
        let other = format!("{tag}{number}");
        let dialog = serde_json::from_str(&text.replace(&tag, &other)).unwrap();
        world.kept.insert(format!("{call_id};{other}"), dialog);
    }
    world.crash();
    world.run_ms(8_000);
    assert_eq!(world.gateway.counters().sip_calls_cut, 8_192);
    assert!(world.kept.is_empty(), "{} are left", world.kept.len());
    assert_eq!(world.phone(BOB).live(), 0);
    world.settle();
}

/// Whatever was up when it died ends on both sides, on links that lose a seventh of everything.
#[test]
fn a_crash_at_any_instant_leaves_no_call_and_no_record() {
    let mut spared = 0;
    for seed in 0..60 {
        let mut world = World::new(5_000 + seed);
        let mut random = Random::from_test_seed(seed);
        world.faults = Faults { loss_pct: random.below(15), duplicate_pct: 5, delay_ms_max: random.below(200) };
        for phone in [ALICE, BOB, CAROL, TRUNK_A] {
            world.phone(phone).does = Does::Answer { after_ms: u64::from(random.below(2_000)) };
        }
        world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
        world.dial(ALICE, "+447700900123", Offer::rtp(&[Codec::Opus]));
        world.new_session("user:carol");
        world.run_ms(u64::from(random.below(3_500)));
        if random.below(3) == 0 {
            world.hang_up_all(BOB);
            world.run_ms(u64::from(random.below(300)));
        }
        world.crash();
        // A 2xx that nobody acknowledges ends by itself after 32 s (RFC 3261 §13.3.1.4).
        world.run_ms(45_000);
        // An INVITE that was repeated after the crash began a call anew; nobody else talks to anybody.
        let placed = |phone: &Phone| phone.placed.values().filter(|p| p.answer.is_some() && p.end.is_none()).count();
        let talking: usize = world.phones.values().map(|phone| phone.live() + placed(phone)).sum();
        let calls = world.gateway.alive().sessions;
        assert_eq!((talking, world.kept.len()), (2 * calls, 2 * calls), "seed {seed}");
        spared += calls;
        world.faults = Faults::default();
        world.settle();
    }
    assert!(spared < 10, "{spared} calls went on");
}
