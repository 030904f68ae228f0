//! Whole calls in virtual time, one story a test.

use control::trace::timeline::Step;
use harness::bot::Behaviour;
use harness::link::Faults;
use harness::{Sim, seed_from_env_or};

#[test]
fn a_call_is_bridged_and_both_sides_hear_each_other() {
    let mut sim = Sim::new(seed_from_env_or(7));
    sim.whatsapp.listening = true;
    let call = sim.place_call();
    sim.run_for_ms(4_000);
    assert!(sim.is_bridged(&call), "{:#?}", sim.steps(&call));
    sim.assert_bot_hears_caller(&call);
    sim.assert_caller_hears_bot(&call);
    let steps = [
        Step::Webhook,
        Step::Offer,
        Step::PreAccept,
        Step::IcePair,
        Step::Dtls,
        Step::Invite,
        Step::Challenge,
        Step::Ringing,
        Step::Answered,
        Step::Accept,
        Step::Release,
        Step::FirstPacketFromWhatsapp,
        Step::FirstPacketToWhatsapp,
        Step::FirstPacketFromSip,
        Step::FirstPacketToSip,
    ];
    for step in steps {
        assert!(sim.has_step(&call, step), "no {} in {:#?}", step.name(), sim.steps(&call));
    }
    sim.settle();
    assert!(sim.end_of(&call).is_some());
}

/// A number that is set to SDES: nothing leaves before the accept (the simulation watches), the first packet is ours, the bot's first
/// words are not lost.
#[test]
fn a_call_of_a_number_that_is_set_to_sdes_is_bridged_and_both_sides_hear_each_other() {
    let mut sim = Sim::new(seed_from_env_or(16));
    (sim.whatsapp.sdes, sim.whatsapp.listening) = (true, true);
    let call = sim.place_call();
    sim.run_for_ms(4_000);
    assert!(sim.is_bridged(&call) && sim.whatsapp.get(&call).accepts == 1, "{:#?}", sim.steps(&call));
    assert!(!sim.has_step(&call, Step::IcePair) && !sim.has_step(&call, Step::Dtls), "{:#?}", sim.steps(&call));
    sim.assert_bot_hears_caller(&call);
    sim.assert_caller_hears_bot(&call);
    sim.webrtc_link().set(Faults { loss_pct: 20, reorder_pct: 5, duplicate_pct: 2, jitter_ms: 40, delay_ms: 0 });
    sim.run_for_ms(5_000);
    sim.webrtc_link().heal();
    sim.run_for_ms(2_000);
    sim.assert_bot_hears_caller(&call);
    sim.user_hangs_up_in(&call, 100);
    sim.run_for_ms(1_000);
    let end = sim.bot.call_of(&call).and_then(|call| call.end.clone());
    assert!(matches!(end, Some(control::sip::SipEnd::ByeReceived(_))), "{end:?}: {:#?}", sim.steps(&call));
    sim.settle();
}

#[test]
fn the_bot_hangs_up_and_whatsapp_is_told() {
    let mut sim = Sim::new(seed_from_env_or(8));
    sim.bot.behaviour = Behaviour::Answer { after_ms: 500, hang_up_after_ms: Some(2_000) };
    let call = sim.place_call();
    sim.run_for_ms(6_000);
    assert!(sim.whatsapp.get(&call).ended_at.is_some(), "Graph never heard of the end: {:#?}", sim.steps(&call));
    sim.settle();
}

#[test]
fn the_user_hangs_up_and_the_bot_hears_bye() {
    let mut sim = Sim::new(seed_from_env_or(9));
    let call = sim.place_call();
    sim.user_hangs_up_in(&call, 3_000);
    sim.run_for_ms(5_000);
    let end = sim.bot.call_of(&call).and_then(|call| call.end.clone());
    assert!(matches!(end, Some(control::sip::SipEnd::ByeReceived(_))), "{end:?}: {:#?}", sim.steps(&call));
    sim.settle();
}

#[test]
fn a_busy_bot_rejects_the_whatsapp_call() {
    let mut sim = Sim::new(seed_from_env_or(10));
    sim.bot.behaviour = Behaviour::Refuse { code: 486, after_ms: 200 };
    let call = sim.place_call();
    sim.run_for_ms(3_000);
    let user = sim.whatsapp.get(&call);
    assert!(user.ended_at.is_some() && user.accepts == 0, "{:#?}", sim.steps(&call));
    sim.settle();
}

#[test]
fn a_bot_that_only_rings_is_given_up_within_thirty_seconds() {
    let mut sim = Sim::new(seed_from_env_or(11));
    sim.bot.behaviour = Behaviour::Ring;
    let call = sim.place_call();
    sim.run_for_ms(30_000);
    let user = sim.whatsapp.get(&call);
    assert!(user.ended_at.is_some() && user.accepts == 0, "{:#?}", sim.steps(&call));
    sim.settle();
}

/// Audio comes back within a second once a bad mobile link heals.
#[test]
fn audio_returns_after_burst_loss() {
    let mut sim = Sim::new(seed_from_env_or(12));
    let call = sim.place_call();
    sim.run_for_ms(3_000);
    sim.webrtc_link().set(Faults { loss_pct: 40, reorder_pct: 5, duplicate_pct: 2, jitter_ms: 60, delay_ms: 0 });
    sim.run_for_ms(10_000);
    sim.webrtc_link().heal();
    sim.run_for_ms(2_000);
    sim.assert_bot_hears_caller(&call);
    sim.settle();
}

#[test]
fn a_dead_link_ends_the_call_on_both_sides() {
    let mut sim = Sim::new(seed_from_env_or(13));
    let call = sim.place_call();
    sim.run_for_ms(3_000);
    assert!(sim.is_bridged(&call));
    sim.webrtc_link().set(Faults { loss_pct: 100, ..Faults::default() });
    sim.run_for_ms(60_000);
    assert!(sim.whatsapp.get(&call).ended_at.is_some(), "{:#?}", sim.steps(&call));
    assert!(sim.bot.call_of(&call).is_some_and(|call| call.end.is_some()));
    sim.settle();
}

#[test]
fn media_never_starts_when_graph_refuses_the_accept() {
    let mut sim = Sim::new(seed_from_env_or(14));
    sim.whatsapp.faults.graph_error_pct = 100;
    let call = sim.place_call();
    sim.run_for_ms(60_000);
    assert!(!sim.is_bridged(&call));
    sim.settle();
}

#[test]
fn fifty_calls_at_once_share_one_relay_address_and_end_clean() {
    let mut sim = Sim::new(seed_from_env_or(15));
    let calls: Vec<String> = (0..50)
        .map(|_| {
            sim.run_for_ms(37);
            sim.place_call()
        })
        .collect();
    sim.run_for_ms(3_000);
    for call in &calls {
        assert!(sim.is_bridged(call), "{:#?}", sim.steps(call));
        sim.assert_bot_hears_caller(call);
    }
    sim.settle();
}
