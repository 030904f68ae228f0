//! Registrations that we make, and peers that we watch.

use super::*;

const CHALLENGE: &str = "Digest realm=\"r\", nonce=\"n\", qop=\"auth\", algorithm=MD5";

fn registering(t: &mut Table) -> control::sip::RegistrationId {
    let what = Register {
        registrar: "sip:192.0.2.2".into(),
        aor: "sip:gw@example.com".into(),
        credentials: Some(account("secret")),
        expires_s: 600,
        ..Register::default()
    };
    t.agent.register(t.now, what)
}

#[test]
fn a_registration_answers_the_challenge_is_refreshed_in_time_and_taken_back() {
    let mut t = Table::listening(None);
    let id = registering(&mut t);
    let first = t.take();
    assert_eq!(
        (first.method(), first.uri(), first.header("Expires")),
        (Some("REGISTER"), Some("sip:192.0.2.2"), Some("600"))
    );
    t.reply(&first, 401, |m| m.push("WWW-Authenticate", CHALLENGE));
    let second = t.take();
    assert_eq!((second.cseq(), second.call_id()), (Some((2, "REGISTER")), first.call_id()));
    assert!(second.header("Authorization").unwrap().contains("uri=\"sip:192.0.2.2\""));
    t.reply(&second, 200, |m| m.push("Contact", "<sip:other@1.2.3.4>;expires=9, <sip:gw@192.0.2.1:5060>;expires=300"));
    assert_eq!(t.events(), [SipEvent::Registered { registration: id, expires_s: 300 }]);
    t.run_for(224_000);
    t.assert_silent();
    t.run_for(1_000);
    let refresh = t.take();
    assert_eq!((refresh.cseq(), refresh.call_id()), (Some((3, "REGISTER")), first.call_id()));
    t.reply(&refresh, 423, |m| m.push("Min-Expires", "900"));
    let longer = t.take();
    assert_eq!(longer.header("Expires"), Some("900"));
    t.reply(&longer, 200, |_| {});
    assert_eq!(t.events(), [SipEvent::Registered { registration: id, expires_s: 900 }]);
    t.agent.unregister(t.now, id);
    let last = t.take();
    assert_eq!(last.header("Expires"), Some("0"));
    t.reply(&last, 200, |_| {});
    t.run_out();
}

#[test]
fn a_registration_that_is_given_up_while_it_is_made_is_taken_away_again() {
    for answered in [true, false] {
        let mut t = Table::listening(None);
        let id = registering(&mut t);
        let first = t.take();
        t.reply(&first, 401, |m| m.push("WWW-Authenticate", "Digest realm=\"r\", nonce=\"n\", qop=\"auth\""));
        let second = t.take();
        assert_ne!(second.header("Expires"), Some("0"));
        t.agent.unregister(t.now, id);
        t.assert_silent();
        match answered {
            true => t.reply(&second, 200, |_| {}),
            false => t.run_for(32_001), // perhaps its answer was lost
        }
        let (_, last) = t.sent.pop().expect("one more REGISTER");
        t.sent.clear();
        assert_eq!((last.method(), last.header("Expires")), (Some("REGISTER"), Some("0")));
        assert!(last.cseq() > second.cseq() && last.header("Authorization").is_some());
        t.reply(&last, 200, |_| {});
        t.run_out();
        assert!(t.events().is_empty(), "nobody is told of a registration that was given up");
    }
}

#[test]
fn a_registration_that_fails_is_tried_again_later_and_later() {
    let mut t = Table::listening(None);
    registering(&mut t);
    let mut waits = Vec::new();
    for _ in 0..4 {
        let request = t.take();
        t.reply(&request, 403, |_| {});
        let events = t.events();
        let [SipEvent::RegistrationFailed { code: 403, retry_ms, .. }] = events[..] else { panic!("{events:?}") };
        waits.push(retry_ms);
        t.run_for(retry_ms);
    }
    for (wait, ceiling) in waits.iter().zip([30_000, 60_000, 120_000, 240_000]) {
        assert!((ceiling / 2..=ceiling).contains(wait), "{waits:?}");
    }
}

#[test]
fn a_watched_peer_is_alive_while_it_answers_anything() {
    let mut t = Table::listening(None);
    let watch = t.agent.watch(t.now, Watch { target: "sip:192.0.2.2".into(), every_ms: 30_000, ..Watch::default() });
    let options = t.take();
    assert_eq!(options.method(), Some("OPTIONS"));
    t.reply(&options, 405, |_| {});
    assert_eq!(t.events(), [SipEvent::PeerAlive { watch, alive: true }]);
    t.run_for(30_000);
    assert_eq!(t.take().method(), Some("OPTIONS"));
    t.run_for(33_000);
    assert_eq!(t.events(), [SipEvent::PeerAlive { watch, alive: false }]);
    t.agent.unwatch(watch);
    t.sent.clear();
    t.run_for(120_000);
    t.assert_silent();
}
