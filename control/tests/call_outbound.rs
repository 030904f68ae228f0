//! Calls that the business places to users of WhatsApp, in virtual time: the real edge and the real orchestrator, a phone that
//! dials, a WhatsApp that fails, repeats itself and says things in any order.

#[allow(dead_code, reason = "much of this world is for calls among phones")]
mod exchange_world;

use control::call::edge::NewCall;
use control::route::{Pattern, Trunk};
use control::sip::SipEnd;
use control::trace::timeline::Step;
use control::whatsapp::event::{Status, Terminate, WebhookEvent};
use engine::bridge::{BridgeEvent, LegConfig, LegName, LegRemote};
use engine::dtls::DtlsRole;
use engine::ice::IceRole;
use engine::leg::LegEvent;
use engine::random::Random;
use engine::sdp::{self, Codec, Setup};
use engine::worker::Event;
use exchange_world::meta::{NUMBER_ID, User, Wrong};
use exchange_world::*;

const DIALED: &str = "+447700900123";

/// Seeds of the swarm; `SIM_SEED` runs a single one.
const SEEDS: u64 = 300;

/// WhatsApp first, the two trunks behind it.
fn world(seed: u64) -> World {
    World::with(seed, |routes| {
        let pattern = Some(Pattern::new(r"^\+44\d+$").unwrap().0);
        routes.trunks.push(Trunk { pattern, weight: 0, ..Trunk::into_whatsapp("sales", NUMBER_ID) });
    })
}

/// The same without other ways.
fn world_alone(seed: u64) -> World {
    let mut world = world(seed);
    world.gateway.gate().routes.trunks[..2].iter_mut().for_each(|trunk| trunk.pattern = None);
    world
}

fn steps(world: &World, wanted: Step) -> Vec<String> {
    world.steps.iter().filter(|(step, _)| *step == wanted).map(|(_, words)| words.clone()).collect()
}

fn rejected(end: Option<SipEnd>) -> (u16, String) {
    match end {
        Some(SipEnd::Rejected { code, reason }) => (code, reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_softphone_dials_a_user_who_answers_and_hangs_up() {
    let mut world = world(1);
    world.meta.user = User::HangsUp { after_ms: 20_000 };
    let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus, Codec::Pcmu]));
    world.run_ms(1_300);
    assert_eq!(steps(&world, Step::Ringing), ["180 from whatsapp sales"]);
    assert!(world.phone(BOB).placed[&call].answer.is_none());
    assert!(world.phone(BOB).placed[&call].early.is_none(), "WhatsApp's answer is no early media");
    world.run_ms(1_500);
    let answer = world.answer(BOB, call);
    assert_eq!(answer.codecs[0].codec, Codec::Opus);
    assert!(steps(&world, Step::Answered)[0].contains("whatsapp sales, Opus, passed through"));
    world.run_ms(25_000);
    assert!(matches!(world.end(BOB, call), Some(SipEnd::ByeReceived(_))));
    assert_eq!(world.meta.requests, ["connect to 447700900123"], "no goodbye to a user who hung up");
    assert!(world.end_line().contains("side=whatsapp sales cause=bye"), "{}", world.end_line());
    assert_eq!(world.orchestrator.counters().dials_answered, 1);
    world.settle();
}

#[test]
fn the_offer_is_one_that_whatsapp_takes_and_its_answer_decides_who_does_dtls() {
    let mut world = world(2);
    let call = world.dial(TRUNK_A, "447700900123", Offer::rtp(&[Codec::Pcmu]));
    world.run_ms(100);
    assert_eq!(rejected(world.end(TRUNK_A, call)).0, 404, "a trunk's call goes to WhatsApp by a rule only");
    let call = world.dial(BOB, "07700 900123".replace(' ', "").as_str(), Offer::rtp(&[Codec::Pcmu]));
    world.run_ms(100);
    assert_eq!(rejected(world.end(BOB, call)).0, 404);
    let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Pcmu]));
    world.run_ms(900);
    let text = &world.meta.offers[0];
    let offer = sdp::parse(text).unwrap();
    let ice = offer.ice.as_ref().unwrap();
    assert!(!ice.lite && !ice.candidates.is_empty() && offer.setup == Some(Setup::ActPass), "{text}");
    assert_eq!(text.matches("a=fingerprint:").count(), 1);
    assert_eq!(text.matches("a=ssrc:").count(), 1);
    assert_eq!(
        offer.codecs.iter().map(|format| (format.codec, format.payload_type)).collect::<Vec<_>>(),
        [(Codec::Opus, 111)]
    );
    let events: Vec<_> = offer.telephone_events.iter().map(|e| (e.payload_type, e.clock_rate_hz)).collect();
    assert_eq!(events, [(126, 8_000)], "WhatsApp has keys at 8 kHz only");
    assert!(text.contains("a=ptime:20") && text.contains("a=sendrecv") && text.contains("a=rtcp-mux"));
    let bridge = world.only_bridge();
    let LegConfig::Webrtc(config) = &bridge.configs[&LegName::B] else { panic!("a webrtc leg") };
    assert_eq!(config.ice, IceRole::Controlling);
    let [(LegName::B, LegRemote::Webrtc(remote))] = bridge.remotes.as_slice() else { panic!("{:?}", bridge.remotes) };
    assert!(remote.ice.lite && remote.dtls == DtlsRole::Server, "its answer was active");
    world.run_ms(3_000);
    assert_eq!(world.answer(BOB, call).codecs[0].codec, Codec::Pcmu);
    assert!(steps(&world, Step::Answered)[0].ends_with("transcoded"));
    world.hang_up(BOB, call);
    world.run_ms(2_000);
    assert_eq!(world.meta.requests, ["connect to 447700900123", "terminate"]);
    world.settle();
}

#[test]
fn whoever_declines_is_busy_and_whoever_lets_it_ring_is_not_there() {
    for (user, code) in [(User::Declines { after_ms: 3_000 }, 486), (User::LetsRing { ms: 35_000 }, 480)] {
        let mut world = world(3);
        world.meta.user = user;
        let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus]));
        world.run_ms(60_000);
        let (ended_with, reason) = rejected(world.end(BOB, call));
        assert_eq!(ended_with, code, "{reason}");
        assert!(world.phone(TRUNK_A).calls.is_empty(), "somebody who was reached is not called another way");
        assert_eq!(world.meta.requests.len(), 1, "WhatsApp knows");
        world.settle();
    }
}

#[test]
fn a_phone_that_rings_for_too_long_is_given_up() {
    let mut world = world_alone(4);
    world.gateway.gate().routes.trunks[2].ring_s = 20;
    world.meta.user = User::Answers { after_ms: 60_000 };
    let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus]));
    world.run_ms(25_000);
    assert_eq!(rejected(world.end(BOB, call)).0, 480);
    assert_eq!(world.meta.requests, ["connect to 447700900123", "terminate"]);
    world.settle();
}

#[test]
fn a_caller_who_gives_up_ends_the_ringing_whenever_whatsapp_names_the_call() {
    // Before Graph's reply and any webhook, before the reply only, while it rings, and when Graph's reply never comes.
    for (forgets_names, is_mute, after_ms) in
        [(false, false, 100), (true, false, 100), (true, false, 700), (false, false, 2_000), (false, true, 100)]
    {
        let mut world = world_alone(5);
        world.meta.wrong = Wrong { reply_ms: 1_500, forgets_names, is_mute, ..Wrong::default() };
        world.meta.user = User::Answers { after_ms: 50_000 };
        let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus]));
        world.run_ms(after_ms);
        world.hang_up(BOB, call);
        world.run_ms(500);
        assert_eq!(world.end(BOB, call), Some(SipEnd::Cancelled));
        assert_eq!(world.gateway.alive().sessions, 0, "the caller's side does not wait for WhatsApp");
        world.run_ms(4_000);
        let words = format!("{forgets_names} {is_mute} {after_ms}");
        assert_eq!(world.meta.requests, ["connect to 447700900123", "terminate"], "{words}");
        assert_eq!(world.meta.live(), 0, "{words}");
        world.settle();
    }
}

#[test]
fn webhooks_may_overtake_graph_and_each_other() {
    for forgets_names in [false, true] {
        for late_ms_max in [0, 3_000] {
            let mut world = world_alone(6);
            world.meta.wrong =
                Wrong { reply_ms: 2_500, forgets_names, late_ms_max, duplicates_pct: 100, ..Wrong::default() };
            world.meta.user = User::Answers { after_ms: 100 };
            let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus]));
            world.run_ms(8_000);
            assert_eq!(world.answer(BOB, call).codecs[0].codec, Codec::Opus);
            world.hang_up(BOB, call);
            world.run_ms(6_000);
            assert_eq!(world.meta.requests, ["connect to 447700900123", "terminate"]);
            world.settle();
        }
    }
}

#[test]
fn an_end_that_overtakes_graphs_reply_ends_the_call() {
    for forgets_names in [false, true] {
        let mut world = world_alone(7);
        world.meta.wrong = Wrong { reply_ms: 2_500, forgets_names, ..Wrong::default() };
        world.meta.user = User::Declines { after_ms: 100 };
        let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus]));
        world.run_ms(6_000);
        assert_eq!(rejected(world.end(BOB, call)).0, 486);
        assert_eq!(world.meta.requests.len(), 1);
        world.settle();
    }
}

#[test]
fn the_users_first_packet_answers_the_call_when_accepted_is_late_or_lost() {
    let mut world = world_alone(8);
    world.meta.wrong = Wrong { reply_ms: 300, without_accepted: true, ..Wrong::default() };
    world.meta.user = User::Answers { after_ms: 1_000 };
    let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    assert!(world.phone(BOB).placed[&call].answer.is_none());
    let bridge = *world.bridges.keys().next().unwrap();
    let event = BridgeEvent::Leg { leg: LegName::B, event: LegEvent::FirstReceived };
    world.gateway.handle_engine(world.now, 0, Event::Bridge { bridge, event });
    world.run_ms(500);
    assert_eq!(world.answer(BOB, call).codecs[0].codec, Codec::Opus);
    // Longer than a phone may ring: the orchestrator knows that this one does not ring any more.
    world.run_ms(120_000);
    assert_eq!(world.end(BOB, call), None);
    assert_eq!(world.orchestrator.counters().dials_answered, 1);
    world.hang_up(BOB, call);
    world.run_ms(2_000);
    assert_eq!(world.meta.requests, ["connect to 447700900123", "terminate"]);
    world.settle();
}

#[test]
fn a_refusal_of_graphs_is_told_to_the_caller_with_its_remedy() {
    for (code, sip, words) in [
        (138_006, 403, "call_permission_request"),
        (138_012, 403, "tomorrow"),
        (138_001, 480, "cannot be called"),
        (138_003, 486, "goes on already"),
        (100, 488, "WhatsApp refuses"),
        (131_055, 503, "SIP mode"),
        (190, 503, "access token"),
    ] {
        let mut world = world_alone(9);
        world.meta.wrong.failures = Box::leak(Box::new([code]));
        let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus]));
        world.run_ms(3_000);
        let (ended_with, reason) = rejected(world.end(BOB, call));
        assert_eq!(ended_with, sip, "{code}: {reason}");
        assert!(world.end_line().contains(words) && reason.contains(words), "{code}: {} {reason}", world.end_line());
        assert!(!world.end_line().contains("447700900123"), "{}", world.end_line());
        assert_eq!(world.meta.requests.len(), 1, "{code} is not asked again");
        world.settle();
    }
}

#[test]
fn a_user_without_permission_is_called_over_the_next_way() {
    let mut world = world(10);
    world.meta.wrong.failures = &[138_006];
    let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus]));
    world.run_ms(3_000);
    assert_eq!(world.answer(BOB, call).codecs.len(), 1);
    assert_eq!(world.phone(TRUNK_A).calls.len(), 1);
    assert!(steps(&world, Step::Failover)[0].contains("whatsapp sales: 403"));
    world.hang_up(BOB, call);
    world.run_ms(1_000);
    world.settle();
}

#[test]
fn whatsapp_is_called_where_a_trunk_has_failed() {
    let mut world = world(11);
    world.gateway.gate().routes.trunks[2].weight = 9;
    world.phone(TRUNK_A).does = Does::Refuse { code: 503, after_ms: 10 };
    world.phone(TRUNK_B).does = Does::Refuse { code: 503, after_ms: 10 };
    let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus]));
    world.run_ms(5_000);
    assert_eq!(world.answer(BOB, call).codecs[0].codec, Codec::Opus);
    let bridge = world.only_bridge();
    assert_eq!((bridge.legs.len(), bridge.seats), (2, 1), "WhatsApp's leg has the seat of the trunk's");
    world.hang_up(BOB, call);
    world.run_ms(3_000);
    assert_eq!(world.meta.live(), 0);
    world.settle();
}

#[test]
fn a_leg_that_dies_beside_the_seat_ends_its_call() {
    let mut world = world(12);
    world.gateway.gate().routes.trunks[2].weight = 9;
    world.phone(TRUNK_A).does = Does::Refuse { code: 503, after_ms: 10 };
    world.phone(TRUNK_B).does = Does::Refuse { code: 503, after_ms: 10 };
    world.meta.user = User::Answers { after_ms: 50_000 };
    let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    let (bridge, leg) = {
        let (bridge, played) = world.bridges.iter_mut().next().unwrap();
        let leg = *played.legs.iter().find(|leg| leg.is_spare()).unwrap();
        played.legs.retain(|known| *known != leg);
        (*bridge, leg)
    };
    let event = BridgeEvent::LegClosed { leg, cause: Some(engine::error::Cause::IceFailed), stats: Default::default() };
    world.gateway.handle_engine(world.now, 0, Event::Bridge { bridge, event });
    world.run_ms(3_000);
    assert_eq!(rejected(world.end(BOB, call)).0, 503);
    assert_eq!((world.meta.requests.len(), world.meta.live()), (2, 0));
    world.settle();
}

#[test]
fn a_request_that_failed_is_asked_again_and_nobody_is_called_twice() {
    for acts_all_the_same in [false, true] {
        let mut world = world_alone(13);
        world.meta.wrong.failures = &[138_004];
        world.meta.wrong.acts_all_the_same = acts_all_the_same;
        let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus]));
        world.run_ms(6_000);
        assert_eq!(world.answer(BOB, call).codecs[0].codec, Codec::Opus);
        assert_eq!(world.meta.live(), 1, "of two that Graph began, one is ended");
        world.hang_up(BOB, call);
        world.run_ms(3_000);
        let connects = world.meta.requests.iter().filter(|request| request.starts_with("connect")).count();
        assert_eq!(connects, 2);
        world.settle();
    }
}

#[test]
fn a_graph_that_says_nothing_costs_the_call_and_not_the_users_peace() {
    let mut world = world_alone(14);
    world.meta.wrong = Wrong { is_mute: true, forgets_names: true, ..Wrong::default() };
    let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus]));
    world.run_ms(12_000);
    assert_eq!(rejected(world.end(BOB, call)).0, 504);
    world.run_ms(100_000);
    assert_eq!(world.orchestrator.counters().dials_lost, 1);
    // Nobody has ever said the call's name: WhatsApp ends it, since no media comes.
    let lost = Terminate { call_id: "wacid.out.1".to_owned(), ..Terminate::default() };
    world.meta.end_by_itself("wacid.out.1");
    world.orchestrator.handle_webhook(world.now, 0, vec![WebhookEvent::Terminate(lost)]);
    world.settle();
}

#[test]
fn a_webhook_names_the_call_where_graph_says_nothing() {
    let mut world = world_alone(15);
    world.meta.wrong = Wrong { is_mute: true, ..Wrong::default() };
    let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus]));
    world.run_ms(20_000);
    assert_eq!(world.answer(BOB, call).codecs[0].codec, Codec::Opus);
    world.hang_up(BOB, call);
    world.run_ms(3_000);
    assert_eq!(world.meta.requests, ["connect to 447700900123", "terminate"]);
    world.settle();
}

#[test]
fn a_user_who_answers_and_is_never_described_is_given_up() {
    let mut world = world_alone(16);
    world.meta.wrong.without_answer = true;
    let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus]));
    world.run_ms(15_000);
    let (code, reason) = rejected(world.end(BOB, call));
    assert!(code == 504 && reason.contains("no description"), "{code} {reason}");
    assert_eq!(world.meta.requests, ["connect to 447700900123", "terminate"]);
    world.settle();
}

#[test]
fn another_accounts_webhooks_change_nothing() {
    let mut world = world_alone(17);
    world.meta.user = User::Answers { after_ms: 5_000 };
    let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    let foreign = Some("119".to_owned());
    for status in ["ACCEPTED", "REJECTED"] {
        let (call_id, phone_number_id) = ("wacid.out.1".to_owned(), foreign.clone());
        let status = Status { call_id, phone_number_id, opaque: None, status: status.to_owned() };
        world.orchestrator.handle_webhook(world.now, 0, vec![WebhookEvent::Status(status)]);
    }
    let end = Terminate { call_id: "wacid.out.1".to_owned(), phone_number_id: foreign, ..Terminate::default() };
    world.orchestrator.handle_webhook(world.now, 0, vec![WebhookEvent::Terminate(end)]);
    world.run_ms(1_000);
    assert_eq!((world.end(BOB, call), world.phone(BOB).placed[&call].answer.is_none()), (None, true));
    world.run_ms(5_000);
    assert!(world.phone(BOB).placed[&call].answer.is_some());
    world.settle();
}

#[test]
fn what_an_account_may_not_carry_goes_elsewhere_and_what_is_no_number_nowhere() {
    let mut world = world(18);
    world.gateway.gate().routes.trunks[2].calls_max = 1;
    let first = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus]));
    world.run_ms(5_000);
    let second = world.dial(CAROL, "+447700900124", Offer::rtp(&[Codec::Opus]));
    world.run_ms(3_000);
    assert_eq!((world.meta.requests.len(), world.phone(TRUNK_A).calls.len()), (1, 1));
    world.hang_up(BOB, first);
    world.hang_up(CAROL, second);
    world.run_ms(3_000);
    let third = world.dial(CAROL, "+447700900124", Offer::rtp(&[Codec::Opus]));
    world.run_ms(5_000);
    assert_eq!(world.meta.requests[2], "connect to 447700900124", "the account has room again");
    world.hang_up(CAROL, third);
    world.run_ms(3_000);
    world.gateway.gate().routes.trunks[2].pattern = Some(Pattern::new(".*").unwrap().0);
    let scoped = world.dial(CAROL, "GB.20000000000000000001", Offer::rtp(&[Codec::Opus]));
    world.run_ms(5_000);
    assert_eq!(world.meta.requests.last().unwrap(), "connect to GB.20000000000000000001");
    world.hang_up(CAROL, scoped);
    world.run_ms(3_000);
    let nobody = world.dial(CAROL, "reception", Offer::rtp(&[Codec::Opus]));
    world.run_ms(3_000);
    assert_eq!(rejected(world.end(CAROL, nobody)).0, 484);
    world.settle();
}

#[test]
fn a_users_call_is_transferred_to_a_user_of_whatsapp_and_back() {
    let mut world = world_alone(19);
    let call = world.dial(BOB, "carol", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    world.refer(CAROL, &format!("sip:{DIALED}@192.0.2.1"));
    world.run_ms(5_000);
    assert_eq!(world.phone(CAROL).transfers.last(), Some(&(200, true)));
    assert!(world.end(BOB, call).is_none());
    assert_eq!(world.meta.live(), 1);
    // The user of WhatsApp stays when bob hands his side over.
    world.refer(BOB, "sip:alice@192.0.2.1");
    world.run_ms(5_000);
    assert_eq!(world.phone(BOB).transfers.last(), Some(&(200, true)));
    assert_eq!(world.meta.live(), 1);
    world.hang_up_all(ALICE);
    world.hang_up_all(ALICE_TOO);
    world.run_ms(3_000);
    assert_eq!(world.meta.live(), 0);
    world.settle();
}

#[test]
fn a_crash_ends_both_sides_however_far_the_call_had_come() {
    // Asked, named, ringing, answered; with and without our names in webhooks.
    for after_ms in [100, 400, 900, 1_500, 5_000] {
        let mut world = world_alone(20);
        world.meta.user = User::Answers { after_ms: 2_000 };
        let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus]));
        world.run_ms(after_ms);
        let answered = world.phone(BOB).placed[&call].answer.is_some();
        world.meta.forget_replies();
        world.crash();
        world.run_ms(10_000);
        assert_eq!(world.meta.live(), 0, "the user's phone rings {after_ms} ms after the dial, and nobody knows of it");
        assert_eq!(answered, matches!(world.end(BOB, call), Some(SipEnd::ByeReceived(_))), "{after_ms}");
        world.run_ms(300_000);
        assert!(
            world.kept_calls.is_empty() && world.orchestrator.alive() == 0,
            "{after_ms}: {:?}",
            world.kept_calls.keys()
        );
    }
}

#[test]
fn a_program_that_stops_takes_no_calls_and_ends_those_it_has() {
    let mut world = world_alone(21);
    let call = world.dial(BOB, DIALED, Offer::rtp(&[Codec::Opus]));
    world.run_ms(5_000);
    world.orchestrator.drain();
    let late = world.dial(CAROL, DIALED, Offer::rtp(&[Codec::Opus]));
    world.run_ms(1_000);
    let (code, reason) = rejected(world.end(CAROL, late));
    assert!(code == 503 && reason.contains("about to stop"), "{reason}");
    assert_eq!(world.orchestrator.pending(), 1);
    world.orchestrator.shut_down(world.now);
    world.run_ms(2_000);
    assert!(matches!(world.end(BOB, call), Some(SipEnd::ByeReceived(_))));
    assert_eq!((world.meta.live(), world.orchestrator.pending()), (0, 0));
    world.settle();
}

fn asked_for(destination: &str) -> NewCall {
    NewCall { to: DIALED.to_owned(), destination: Some(destination.to_owned()), ..NewCall::default() }
}

#[test]
fn a_program_has_a_user_called_who_is_connected_to_a_softphone_then() {
    let mut world = world(22);
    world.phone(CAROL).does = Does::Answer { after_ms: 800 };
    let id = world.gateway.originate(world.now, asked_for("user:carol")).unwrap();
    world.run_ms(2_000);
    assert!(world.phone(CAROL).calls.is_empty(), "nobody is rung for a user who has not answered");
    world.run_ms(3_000);
    let invite = world.phone(CAROL).invite();
    assert!(invite.from.contains("+447700900123"), "{}", invite.from);
    assert!(invite.headers.iter().any(|(name, value)| name == "X-Tandem-Call-ID" && *value == id));
    assert!(steps(&world, Step::Answered)[0].contains("200 from user carol, Opus"), "{:?}", world.steps);
    let bridge = world.only_bridge();
    assert_eq!((bridge.legs.len(), bridge.seats), (2, 1));
    assert!(!world.gateway.hang_up(world.now, "wacid.1") && world.gateway.hang_up(world.now, &id));
    world.run_ms(2_000);
    assert!(!world.gateway.hang_up(world.now, &id), "it is over");
    assert_eq!(world.meta.requests, ["connect to 447700900123", "terminate"]);
    assert_eq!(world.phone(CAROL).live(), 0);
    world.settle();
}

#[test]
fn a_call_asked_for_by_a_program_ends_on_both_sides_whoever_is_missing() {
    // The user declines; the user hangs up while the other side rings; the other side is not there, is busy, and lets it ring.
    for (user, does, destination, connects) in [
        (User::Declines { after_ms: 500 }, Does::Answer { after_ms: 0 }, "user:carol", 0),
        (User::HangsUp { after_ms: 2_000 }, Does::Ring, "user:carol", 1),
        (User::Answers { after_ms: 500 }, Does::Ring, "user:dave", 0),
        (User::Answers { after_ms: 500 }, Does::Refuse { code: 486, after_ms: 50 }, "user:carol", 1),
        (User::Answers { after_ms: 500 }, Does::Ring, "user:carol", 1),
    ] {
        let mut world = world(23);
        (world.meta.user, world.phone(CAROL).does) = (user, does);
        world.gateway.originate(world.now, asked_for(destination)).unwrap();
        world.run_ms(60_000);
        assert_eq!((world.meta.live(), world.phone(CAROL).calls.len()), (0, connects), "{user:?} {does:?}");
        assert_eq!((world.phone(CAROL).live(), world.gateway.alive().sessions), (0, 0), "{user:?} {does:?}");
        world.settle();
    }
}

#[test]
fn what_a_program_may_not_have_called_is_refused_in_words() {
    let mut world = world(24);
    let mut refused = |new: NewCall| world.gateway.originate(world.now, new).unwrap_err().code;
    assert_eq!(refused(NewCall { to: "reception".to_owned(), ..asked_for("user:carol") }), "bad_number");
    assert_eq!(refused(NewCall { account: Some("help".to_owned()), ..asked_for("user:carol") }), "no_account");
    assert_eq!(refused(asked_for("sip:a@elsewhere.example")), "destination_forbidden");
    assert_eq!(refused(asked_for("trunk:a")), "no_number");
    world.gateway.gate().routes.trunks[2].calls_max = 0;
    assert_eq!(world.gateway.originate(world.now, asked_for("user:carol")).unwrap_err().status, 503);
    world.gateway.gate().routes.trunks.push(Trunk::into_whatsapp("help", "119"));
    assert_eq!(world.gateway.originate(world.now, asked_for("user:carol")).unwrap_err().code, "no_account");
    world.gateway.drain();
    assert_eq!(world.gateway.originate(world.now, asked_for("user:carol")).unwrap_err().code, "draining");
    assert!(world.meta.requests.is_empty());
    world.settle();
}

/// Whatever happens, both sides of every call end, and nobody is called twice at once.
#[test]
fn every_seed_ends_every_call_on_both_sides() {
    let seeds =
        std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok()).map_or(0..SEEDS, |seed| seed..seed + 1);
    let (mut answered, mut crashed) = (0, 0);
    for seed in seeds {
        let mut draw = Random::from_test_seed(seed ^ 0x0b0e);
        let mut world = if draw.below(2) == 0 { world(seed) } else { world_alone(seed) };
        world.meta.user = match draw.below(4) {
            0 => User::Answers { after_ms: u64::from(draw.below(8_000)) },
            1 => User::HangsUp { after_ms: u64::from(draw.below(5_000)) },
            2 => User::Declines { after_ms: u64::from(draw.below(5_000)) },
            _ => User::LetsRing { ms: u64::from(draw.below(70_000)) },
        };
        world.meta.wrong = Wrong {
            reply_ms: u64::from(draw.below(4_000)),
            acts_all_the_same: draw.below(2) == 0,
            forgets_names: draw.below(3) == 0,
            late_ms_max: draw.below(4_000),
            duplicates_pct: draw.below(80),
            failing_pct: draw.below(30),
            without_answer: draw.below(12) == 0,
            without_accepted: draw.below(12) == 0,
            ..Wrong::default()
        };
        world.faults = Faults { loss_pct: draw.below(15), duplicate_pct: draw.below(15), delay_ms_max: draw.below(80) };
        for _ in 0..1 + draw.below(3) {
            if draw.below(5) == 0 {
                world.phone(CAROL).does = [Does::Ring, Does::Answer { after_ms: 900 }][draw.below(2) as usize];
                let id = world.gateway.originate(world.now, asked_for("user:carol")).unwrap_or_default();
                world.run_ms(u64::from(draw.below(12_000)));
                if draw.below(2) == 0 {
                    world.gateway.hang_up(world.now, &id);
                }
            }
            let from = [BOB, CAROL, ALICE][draw.below(3) as usize];
            let call = world.dial(from, DIALED, Offer::rtp(&[Codec::Opus, Codec::Pcmu]));
            world.run_ms(u64::from(draw.below(12_000)));
            answered += u32::from(world.phone(from).placed[&call].answer.is_some());
            if draw.below(3) > 0 {
                world.hang_up(from, call);
                world.run_ms(u64::from(draw.below(3_000)));
            }
        }
        if draw.below(8) == 0 {
            crashed += 1;
            world.meta.forget_replies();
            world.crash();
            world.run_ms(400_000);
            world.meta.end_what_nobody_can_name();
            assert_eq!(world.orchestrator.alive(), 0, "SIM_SEED={seed}");
            assert!(world.kept_calls.is_empty(), "SIM_SEED={seed}");
        } else {
            world.faults = Faults::default();
            world.run_ms(400_000);
            world.meta.end_what_nobody_can_name();
            world.settle();
        }
        assert_eq!(world.meta.live(), 0, "SIM_SEED={seed}: a user's phone rings");
    }
    assert!(std::env::var("SIM_SEED").is_ok() || (answered > SEEDS as u32 / 8 && crashed > 10), "{answered} {crashed}");
}
