//! The agent against a peer that follows a script: what exactly goes over the wire in the cases that break calls.

mod sip_table;

use control::sip::message::Message;
use control::sip::{SipEnd, SipEvent};
use engine::random::Random;
use engine::time::Instant;
use sip_table::{ANSWER, OFFER, PEER, Table, account, answer, branch, config, offer};

const ROUTES: [&str; 2] = [
    "<sip:192.0.2.2:5060;lr;r2=on;twnat=sip:198.51.100.7:40000>",
    "<sip:192.0.2.2:5070;lr;r2=on;twnat=sip:198.51.100.8>",
];
const CHALLENGE: &str = "Digest realm=\"sip.example.com\",qop=\"auth\",nonce=\"n1\",opaque=\"op\"";

// ---- calls we place -------------------------------------------------------------------------------------------------

#[test]
fn ack_and_bye_follow_the_reversed_record_route_to_a_private_contact() {
    let mut t = Table::calling();
    let invite = t.take();
    t.reply(&invite, 200, |m| {
        ROUTES.iter().for_each(|route| m.push("Record-Route", *route));
        m.push("X-Twilio-CallSid", "CA1");
        answer(m, "<sip:172.25.16.223:5060>");
    });
    let (to, ack) = t.take_with_address();
    assert_eq!(to, "192.0.2.2:5070".parse().unwrap());
    assert_along_the_route(&ack, "ACK", 1);
    assert_ne!(ack.via().unwrap().branch(), invite.via().unwrap().branch());
    let headers = vec![("X-Twilio-CallSid".into(), "CA1".into())];
    let answered = SipEvent::Answered { call: t.call, sdp: ANSWER.into(), headers };
    assert_eq!(t.events(), [SipEvent::InviteSent { call: t.call }, answered]);
    t.agent.hangup(t.now, t.call, Some("Q.850;cause=16;text=\"Normal\""));
    let (to, bye) = t.take_with_address();
    assert_eq!(to, "192.0.2.2:5070".parse().unwrap());
    assert_along_the_route(&bye, "BYE", 2);
    assert_eq!(bye.header("Reason"), Some("Q.850;cause=16;text=\"Normal\""));
    t.reply(&bye, 200, |_| {});
    assert_eq!(t.events(), [t.ended(SipEnd::ByeSent)]);
    t.run_out();
}

fn assert_along_the_route(request: &Message, method: &str, cseq: u32) {
    assert_eq!((request.method(), request.uri()), (Some(method), Some("sip:172.25.16.223:5060")));
    assert_eq!(request.headers("Route").collect::<Vec<_>>(), [ROUTES[1], ROUTES[0]]);
    assert_eq!((request.cseq(), request.to_tag()), (Some((cseq, method)), Some("peer")));
}

#[test]
fn the_invite_carries_what_peers_need_and_nothing_that_was_smuggled_in() {
    let mut t = Table::calling_with(|invite| {
        invite.headers = vec![
            ("X-WA-Call-ID".into(), "wacid.1\r\nRoute: <sip:evil>\u{e9}".into()),
            ("X-Bad\r\nVia".into(), "x".into()),
            ("Route".into(), "<sip:evil>".into()),
            ("i".into(), "other-call".into()),
        ];
        invite.from_display = Some("Ana\" <sip:evil@x>\r\nVia: y".into());
        invite.from_user = "+55 11>\r\n".into();
    });
    let m = t.take();
    assert_eq!(m.header("X-WA-Call-ID"), Some("wacid.1%0D%0ARoute: <sip:evil>%C3%A9"));
    assert_eq!(m.headers("Route").count() + m.headers("X-Bad").count(), 0);
    assert_eq!((m.list("Via").count(), m.headers("Call-ID").count()), (1, 1));
    let from = "\"Ana\\\" <sip:evil@x>  Via: y\" <sip:+55%2011%3E%0D%0A@192.0.2.1>;tag=";
    assert!(m.header("From").unwrap().starts_with(from));
    assert!(m.via().unwrap().param("rport").is_some());
    assert_eq!((m.max_forwards(), m.contact()), (Some(70), Some("sip:gw@192.0.2.1:5060")));
    assert!(m.lists("Allow", "BYE") && m.lists("Supported", "timer"));
    assert_eq!((m.header("User-Agent"), m.sdp()), (Some("tandem/1"), Some(OFFER)));
    assert_eq!(m.header("To"), Some("<sip:bot@192.0.2.2>"));
}

#[test]
fn a_challenge_is_answered_in_a_new_transaction_and_the_ack_carries_the_credentials() {
    let mut t = Table::calling();
    let first = t.take();
    t.reply(&first, 407, |m| m.push("Proxy-Authenticate", CHALLENGE));
    let ack = t.take();
    assert_eq!((ack.method(), ack.via().unwrap().branch()), (Some("ACK"), first.via().unwrap().branch()));
    let second = t.take();
    assert_eq!((second.cseq(), second.call_id()), (Some((2, "INVITE")), first.call_id()));
    assert_eq!(second.from_tag(), first.from_tag());
    assert_ne!(second.via().unwrap().branch(), first.via().unwrap().branch());
    let credentials = second.header("Proxy-Authorization").unwrap().to_owned();
    assert!(credentials.contains("opaque=\"op\"") && credentials.contains("nc=00000001"), "{credentials}");
    t.reply(&second, 200, |m| answer(m, "<sip:192.0.2.2>"));
    assert_eq!(t.take().header("Proxy-Authorization"), Some(credentials.as_str()));
    assert_eq!(t.events()[1], SipEvent::Challenged { call: t.call, code: 407 });
}

#[test]
fn a_wrong_password_ends_the_call_after_one_try_and_a_stale_nonce_after_two() {
    for (stale, tries) in [(false, 2), (true, 3)] {
        let mut t = Table::calling();
        for turn in 0..tries {
            let invite = t.take();
            let challenge = format!("Digest realm=\"r\", nonce=\"n{turn}\", qop=\"auth\", stale={stale}");
            t.reply(&invite, 401, |m| m.push("WWW-Authenticate", challenge));
            assert_eq!(t.take().method(), Some("ACK"));
        }
        t.assert_silent();
        assert_eq!(t.events().pop(), Some(t.ended(SipEnd::Unauthorized)));
        t.run_out();
    }
}

#[test]
fn sha_256_is_preferred_and_no_credentials_means_unauthorized() {
    let one = |algorithm| format!("Digest realm=\"r\", nonce=\"n\", algorithm={algorithm}, qop=\"auth\"");
    let both = format!("{}, {}", one("MD5"), one("SHA-256"));
    let mut t = Table::calling();
    let invite = t.take();
    t.reply(&invite, 401, |m| m.push("WWW-Authenticate", both.as_str()));
    t.take();
    assert!(t.take().header("Authorization").unwrap().contains("algorithm=SHA-256"));
    let mut t = Table::calling_with(|invite| invite.credentials = None);
    let invite = t.take();
    t.reply(&invite, 401, |m| m.push("WWW-Authenticate", both.as_str()));
    t.take();
    t.assert_silent();
    assert_eq!(t.events().pop(), Some(t.ended(SipEnd::Unauthorized)));
}

#[test]
fn a_challenged_bye_is_repeated_with_credentials_once() {
    let mut t = Table::answered(|_| {});
    t.agent.hangup(t.now, t.call, None);
    let bye = t.take();
    t.reply(&bye, 407, |m| m.push("Proxy-Authenticate", CHALLENGE));
    let again = t.take();
    assert_eq!(again.cseq(), Some((3, "BYE")));
    assert!(again.header("Proxy-Authorization").is_some());
    t.reply(&again, 407, |m| m.push("Proxy-Authenticate", CHALLENGE));
    t.assert_silent();
    t.run_out();
}

#[test]
fn cancel_waits_for_a_provisional_response() {
    let mut t = Table::calling();
    let invite = t.take();
    t.agent.hangup(t.now, t.call, Some("SIP;cause=200"));
    t.assert_silent();
    assert_eq!(t.events().pop(), Some(t.ended(SipEnd::Cancelled)));
    t.reply(&invite, 100, |_| {});
    let cancel = t.take();
    assert_eq!((cancel.method(), cancel.uri()), (Some("CANCEL"), invite.uri()));
    assert_eq!((cancel.header("Via"), cancel.cseq()), (invite.header("Via"), Some((1, "CANCEL"))));
    assert_eq!((cancel.header("To"), cancel.header("Reason")), (invite.header("To"), Some("SIP;cause=200")));
    t.reply(&cancel, 200, |_| {});
    t.reply(&invite, 487, |_| {});
    assert_eq!(t.take().method(), Some("ACK"));
    assert_eq!(t.events(), []);
    t.run_out();
}

#[test]
fn an_answer_that_crosses_the_cancel_is_acknowledged_and_ended() {
    let mut t = Table::calling();
    let invite = t.take();
    t.reply(&invite, 180, |_| {});
    t.agent.hangup(t.now, t.call, None);
    let cancel = t.take();
    t.reply(&invite, 200, |m| answer(m, "<sip:192.0.2.2>"));
    t.reply(&cancel, 200, |_| {});
    assert_eq!(t.take().method(), Some("ACK"));
    let bye = t.take();
    assert_eq!(bye.method(), Some("BYE"));
    t.reply(&bye, 200, |_| {});
    assert!(!t.events().iter().any(|e| matches!(e, SipEvent::Answered { .. })));
    t.run_out();
}

#[test]
fn ringing_too_long_is_cancelled_and_given_up_even_without_487() {
    let mut t = Table::calling();
    let invite = t.take();
    t.reply(&invite, 180, |_| {});
    t.run_until(25_000);
    let cancel = t.take();
    assert_eq!(cancel.method(), Some("CANCEL"));
    assert_eq!(t.events().pop(), Some(t.ended(SipEnd::TimedOut)));
    t.reply(&cancel, 200, |_| {});
    t.run_out();
}

#[test]
fn every_repeated_2xx_is_acknowledged_with_the_same_bytes() {
    let mut t = Table::calling();
    let invite = t.take();
    let mut acks = Vec::new();
    for _ in 0..3 {
        t.reply(&invite, 200, |m| answer(m, "<sip:192.0.2.2>"));
        acks.push(t.take().to_bytes());
        t.assert_silent();
    }
    assert!(acks[0] == acks[1] && acks[1] == acks[2]);
    assert_eq!(t.events().iter().filter(|e| matches!(e, SipEvent::Answered { .. })).count(), 1);
}

#[test]
fn the_second_answer_of_a_fork_is_acknowledged_and_ended() {
    let mut t = Table::calling();
    let invite = t.take();
    for tag in ["one", "two"] {
        t.reply_as(&invite, 180, tag, |m| m.push("Contact", "<sip:192.0.2.2>"));
    }
    t.reply_as(&invite, 200, "two", |m| answer(m, "<sip:two@192.0.2.2>"));
    assert_eq!(t.take().uri(), Some("sip:two@192.0.2.2"));
    t.reply_as(&invite, 200, "one", |m| answer(m, "<sip:one@192.0.2.2>"));
    let (ack, bye) = (t.take(), t.take());
    assert_eq!((ack.method(), ack.to_tag(), ack.uri()), (Some("ACK"), Some("one"), Some("sip:one@192.0.2.2")));
    assert_eq!((bye.to_tag(), bye.cseq()), (Some("one"), Some((2, "BYE"))));
    t.reply(&bye, 200, |_| {});
    t.reply_as(&invite, 200, "one", |m| answer(m, "<sip:one@192.0.2.2>"));
    assert_eq!(t.take().to_bytes(), ack.to_bytes());
    t.agent.hangup(t.now, t.call, None);
    assert_eq!(t.take().to_tag(), Some("two"));
}

#[test]
fn an_answer_without_sdp_is_acknowledged_and_ended() {
    let mut t = Table::calling();
    let invite = t.take();
    t.reply(&invite, 200, |m| m.push("Contact", "<sip:192.0.2.2>"));
    assert_eq!(t.take().method(), Some("ACK"));
    assert_eq!(t.take().method(), Some("BYE"));
    assert_eq!(t.events().pop(), Some(t.ended(SipEnd::ProtocolError)));
    t.run_out();
}

#[test]
fn a_refusal_names_its_code_and_the_vendors_words() {
    let mut t = Table::calling();
    let invite = t.take();
    t.reply(&invite, 403, |m| m.push("X-Twilio-Error", "32201 Authentication failure"));
    let reason = "Forbidden (32201 Authentication failure)".into();
    assert_eq!(t.events().pop(), Some(t.ended(SipEnd::Rejected { code: 403, reason })));
    t.take();
    t.run_out();
}

#[test]
fn silence_ends_the_call_with_timer_b() {
    let mut t = Table::calling_with(|invite| invite.ring_ms_max = 60_000);
    t.run_out();
    assert_eq!(t.now.as_millis(), 32_000);
    assert_eq!(t.events().pop(), Some(t.ended(SipEnd::TimedOut)));
}

#[test]
fn redirections_are_followed_by_q_and_not_forever() {
    let mut t = Table::calling();
    let mut targets = Vec::new();
    for turn in 0..4 {
        let invite = t.take();
        targets.push(invite.uri().unwrap().to_owned());
        assert_eq!(invite.header("To"), Some("<sip:bot@192.0.2.2>"));
        let low = format!("<sip:low{turn}@192.0.2.2>;q=0.1");
        t.reply(&invite, 302, |m| {
            m.push("Contact", format!("{low}, <sip:high{turn}@192.0.2.2>;q=0.9, <sip:bot@192.0.2.2>"))
        });
        assert_eq!(t.take().method(), Some("ACK"));
    }
    assert_eq!(targets, ["sip:bot@192.0.2.2", "sip:high0@192.0.2.2", "sip:high1@192.0.2.2", "sip:high2@192.0.2.2"]);
    t.assert_silent();
    assert!(matches!(t.events().pop(), Some(SipEvent::Ended { end: SipEnd::Rejected { code: 302, .. }, .. })));
}

#[test]
fn a_silent_address_is_left_after_four_seconds_and_its_late_answer_is_ended() {
    let mut t = Table::calling_with(|invite| invite.target = "sip:bot@bot.example.com".into());
    t.resolve(&["192.0.2.8", "192.0.2.2"]);
    let (to, first) = t.take_with_address();
    assert_eq!(to, "192.0.2.8:5060".parse().unwrap());
    t.run_until(4_000);
    let (to, second) = t.sent.pop().unwrap();
    assert_eq!((to.remote, second.uri()), (PEER.parse().unwrap(), Some("sip:bot@bot.example.com")));
    assert_ne!(first.via().unwrap().branch(), second.via().unwrap().branch());
    t.sent.clear();
    t.reply(&second, 200, |m| answer(m, "<sip:192.0.2.2>"));
    assert_eq!(t.take().method(), Some("ACK"));
    t.reply_as(&first, 200, "late", |m| answer(m, "<sip:192.0.2.8>"));
    assert_eq!(t.take().to_tag(), Some("late"));
    assert_eq!(t.take().method(), Some("BYE"));
    assert_eq!(t.events().iter().filter(|e| matches!(e, SipEvent::Answered { .. })).count(), 1);
}

#[test]
fn a_503_moves_to_the_next_address_and_a_late_ringing_is_cancelled() {
    let mut t = Table::calling_with(|invite| invite.target = "sip:bot@bot.example.com".into());
    t.resolve(&["192.0.2.8", "192.0.2.9", "192.0.2.2"]);
    let first = t.take();
    t.reply(&first, 503, |_| {});
    assert_eq!(t.take().method(), Some("ACK"));
    let (to, second) = t.take_with_address();
    assert_eq!(to, "192.0.2.9:5060".parse().unwrap());
    t.run_until(4_100);
    t.sent.clear();
    t.reply(&second, 180, |_| {});
    assert_eq!(t.take().method(), Some("CANCEL"));
}

#[test]
fn a_place_that_cannot_be_reached_ends_the_call_at_once() {
    let mut t = Table::calling_with(|invite| invite.target = "sip:bot@nowhere.example.com".into());
    t.resolve(&[]);
    assert_eq!(t.events(), [t.ended(SipEnd::Unreachable)]);
    for target in ["sips:bot@192.0.2.2", "tel:+1", "sip:a b@c", "sip:bot@192.0.2.2;transport=tls", "sip:x@[::1]"] {
        let mut t = Table::calling_with(|invite| invite.target = target.into());
        assert_eq!(t.events(), [t.ended(SipEnd::Unreachable)], "{target}");
        assert_eq!(t.agent.alive(), (0, 0));
    }
    let mut t = Table::calling_with(|invite| invite.target = "sip:bot@slow.example.com".into());
    t.run_out();
    assert_eq!(t.events(), [t.ended(SipEnd::Unreachable)]);
}

#[test]
fn the_proxy_gets_the_request_and_the_target_stays_in_it() {
    let mut t = Table::calling_with(|invite| {
        invite.target = "sip:bot@bot.example.com".into();
        invite.proxy = Some("192.0.2.77:5080".into());
    });
    let (to, invite) = t.take_with_address();
    assert_eq!((to, invite.uri()), ("192.0.2.77:5080".parse().unwrap(), Some("sip:bot@bot.example.com")));
}

#[test]
fn a_longer_session_interval_is_agreed_to_once() {
    let mut t = Table::calling();
    let invite = t.take();
    t.reply(&invite, 422, |m| m.push("Min-SE", "3600"));
    t.take();
    let again = t.take();
    assert_eq!((again.header("Session-Expires"), again.header("Min-SE")), (Some("3600"), Some("3600")));
    t.reply(&again, 422, |m| m.push("Min-SE", "7200"));
    t.take();
    t.assert_silent();
    assert!(matches!(t.events().pop(), Some(SipEvent::Ended { end: SipEnd::Rejected { code: 422, .. }, .. })));
}

// ---- during a call --------------------------------------------------------------------------------------------------

#[test]
fn the_session_is_refreshed_at_half_time_with_unchanged_sdp() {
    let mut t = Table::answered(|m| m.push("Session-Expires", "600;refresher=uac"));
    t.run_until(300_000);
    let refresh = t.take();
    assert_eq!((refresh.method(), refresh.sdp(), refresh.to_tag()), (Some("INVITE"), Some(OFFER), Some("peer")));
    assert_eq!(refresh.header("Session-Expires"), Some("600;refresher=uac"));
    t.reply(&refresh, 200, |m| {
        m.push("Session-Expires", "600;refresher=uac");
        answer(m, "<sip:new@192.0.2.2>");
    });
    let ack = t.take();
    assert_eq!((ack.cseq(), ack.uri()), (Some((2, "ACK")), Some("sip:new@192.0.2.2")));
    t.reply(&refresh, 200, |m| answer(m, "<sip:new@192.0.2.2>"));
    assert_eq!(t.take().to_bytes(), ack.to_bytes());
    t.run_until(600_000);
    assert_eq!(t.take().cseq(), Some((3, "INVITE")));
    assert_eq!(t.events().len(), 2);
}

#[test]
fn a_session_that_the_peer_does_not_refresh_is_ended_before_it_expires() {
    let mut t = Table::answered(|m| m.push("Session-Expires", "600;refresher=uas"));
    t.run_until(567_999);
    t.assert_silent();
    t.run_until(568_000);
    assert_eq!(t.take().method(), Some("BYE"));
    assert_eq!(t.events().pop(), Some(t.ended(SipEnd::TimedOut)));
}

#[test]
fn a_refresh_into_a_vanished_dialog_ends_the_call() {
    let mut t = Table::answered(|m| m.push("x", "600;refresher=uac"));
    t.run_until(300_000);
    let refresh = t.take();
    t.reply(&refresh, 481, |_| {});
    assert_eq!(t.take().method(), Some("ACK"));
    assert_eq!(t.take().method(), Some("BYE"));
    assert!(matches!(t.events().pop(), Some(SipEvent::Ended { end: SipEnd::Rejected { code: 481, .. }, .. })));
    t.run_out();
}

#[test]
fn glare_is_refused_with_491_and_our_refresh_comes_again() {
    let mut t = Table::answered(|m| m.push("Session-Expires", "600;refresher=uac"));
    t.run_until(300_000);
    let refresh = t.take();
    t.request("INVITE", 1, |m| m.set_body("application/sdp", "v=0\r\ns=new\r\n"));
    assert_eq!(t.take().code(), Some(491));
    t.request("ACK", 1, |m| branch(m, "z9hG4bKpeer1INVITE"));
    t.reply(&refresh, 491, |_| {});
    t.take();
    t.run_until(302_099);
    t.assert_silent();
    t.run_until(304_000);
    assert_eq!(t.take().cseq(), Some((3, "INVITE")));
}

#[test]
fn a_bye_ends_the_call_and_its_reason_is_told() {
    let mut t = Table::answered(|_| {});
    t.events();
    t.request("BYE", 1, |m| m.push("Reason", "Q.850;cause=16"));
    let ok = t.take();
    let via = "SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bKpeer1BYE;rport=5060;received=192.0.2.2";
    assert_eq!((ok.code(), ok.header("Via")), (Some(200), Some(via)));
    assert_eq!(t.events(), [t.ended(SipEnd::ByeReceived(Some("Q.850;cause=16".into())))]);
    t.run_out();
}

#[test]
fn a_reinvite_with_a_new_offer_is_asked_about_and_a_repeated_offer_is_not() {
    let mut t = Table::answered(|_| {});
    t.events();
    t.request("INVITE", 1, |m| m.set_body("application/sdp", "v=0\r\ns=new\r\n"));
    assert_eq!(t.events(), [SipEvent::ReInvite { call: t.call, sdp: Some("v=0\r\ns=new\r\n".into()) }]);
    t.request("INVITE", 2, |m| m.set_body("application/sdp", "v=0\r\n"));
    let busy = t.take();
    assert_eq!((busy.code(), busy.header("Retry-After").is_some()), (Some(500), true));
    t.agent.answer_reinvite(t.now, t.call, Some("v=0\r\ns=ours\r\n"));
    let ok = t.take();
    assert_eq!((ok.code(), ok.sdp(), ok.cseq()), (Some(200), Some("v=0\r\ns=ours\r\n"), Some((1, "INVITE"))));
    t.request("ACK", 1, |_| {});
    t.request("ACK", 2, |m| branch(m, "z9hG4bKpeer2INVITE"));
    t.run_for(5_000);
    t.assert_silent();
    t.request("INVITE", 3, |m| m.set_body("application/sdp", "v=0\r\ns=new\r\n"));
    assert_eq!(t.take().sdp(), Some("v=0\r\ns=ours\r\n"));
    assert_eq!(t.events(), []);
}

#[test]
fn a_refused_or_forgotten_reinvite_leaves_the_call_as_it_was() {
    let mut t = Table::answered(|_| {});
    t.request("INVITE", 1, |m| m.set_body("application/sdp", "v=0\r\ns=new\r\n"));
    t.agent.answer_reinvite(t.now, t.call, None);
    assert_eq!(t.take().code(), Some(488));
    t.request("ACK", 1, |m| branch(m, "z9hG4bKpeer1INVITE"));
    t.request("INVITE", 2, |m| m.set_body("application/sdp", "v=0\r\ns=new\r\n"));
    t.run_for(20_000);
    assert_eq!(t.sent.last().unwrap().1.code(), Some(488));
    assert!(!t.events().iter().any(|e| matches!(e, SipEvent::Ended { .. })));
}

#[test]
fn a_reinvite_without_offer_gets_ours_and_its_ack_brings_the_answer() {
    let mut t = Table::answered(|_| {});
    t.events();
    t.request("INVITE", 1, |_| {});
    assert_eq!(t.events(), [SipEvent::ReInvite { call: t.call, sdp: None }]);
    t.agent.answer_reinvite(t.now, t.call, Some(OFFER));
    assert_eq!(t.take().sdp(), Some(OFFER));
    t.request("ACK", 1, |m| m.set_body("application/sdp", "v=0\r\ns=late\r\n"));
    assert_eq!(t.events(), [SipEvent::LateAnswer { call: t.call, sdp: "v=0\r\ns=late\r\n".into() }]);
}

#[test]
fn requests_out_of_order_or_outside_any_dialog_are_refused() {
    let mut t = Table::answered(|_| {});
    let mut code_of = |method: &str, cseq, dialog: Option<(&str, &str)>| {
        let (call_id, ours, theirs) = t.dialog.clone().unwrap();
        if let Some((ours, theirs)) = dialog {
            t.dialog = Some((call_id.clone(), ours.into(), theirs.into()));
        }
        t.request(method, cseq, |_| {});
        t.dialog = Some((call_id, ours, theirs));
        t.take().code()
    };
    assert_eq!(code_of("OPTIONS", 5, None), Some(200));
    assert_eq!(code_of("INFO", 4, None), Some(500));
    assert_eq!(code_of("OPTIONS", 900, None), Some(200));
    assert_eq!(code_of("BYE", 901, Some(("unknown", "peer"))), Some(481));
    assert_eq!(code_of("BYE", 902, Some(("unknown", "stranger"))), Some(481));
}

#[test]
fn update_refreshes_info_brings_digits_and_a_refer_without_target_is_refused() {
    let mut t = Table::answered(|m| m.push("Session-Expires", "600;refresher=uas"));
    t.events();
    t.run_until(500_000);
    t.request("UPDATE", 1, |m| {
        m.push("Supported", "timer");
        m.push("Session-Expires", "600;refresher=uac");
    });
    assert_eq!(t.take().code(), Some(200));
    t.run_until(1_000_000);
    t.assert_silent();
    t.request("INFO", 3, |m| m.set_body("application/dtmf-relay", "Signal= 5\r\nDuration= 160\r\n"));
    t.request("INFO", 4, |m| m.set_body("application/dtmf", "11"));
    t.request("INFO", 5, |m| m.set_body("text/plain", "x"));
    t.request("INFO", 6, |m| m.set_body("application/dtmf-relay", "Signal=x\r\n"));
    t.request("REFER", 7, |_| {});
    let codes: Vec<_> = std::mem::take(&mut t.sent).into_iter().map(|(_, m)| m.code().unwrap()).collect();
    assert_eq!(codes, [200, 200, 415, 400, 400]);
    let call = t.call;
    let digit = |digit, duration_ms| SipEvent::InfoDigit { call, digit, duration_ms };
    assert_eq!(t.events(), [digit('5', 160), digit('#', 250)]);
}

// ---- calls that come to us ------------------------------------------------------------------------------------------

#[test]
fn an_incoming_call_is_told_rung_answered_and_acknowledged() {
    let mut t = Table::listening(None);
    t.request("INVITE", 1, |m| {
        m.push("Record-Route", ROUTES[0]);
        m.push("X-Id", "7");
        offer(m);
    });
    let events = t.events();
    let SipEvent::Incoming { call, target, from, sdp, headers, .. } = &events[0] else { panic!("{events:?}") };
    assert_eq!((target.as_str(), from.as_str()), ("sip:gw@192.0.2.1", "\"P\" <sip:p@192.0.2.2>;tag=peer"));
    assert_eq!((sdp.as_deref(), headers), (Some(ANSWER), &vec![("X-Id".to_owned(), "7".to_owned())]));
    t.call = *call;
    t.run_for(200);
    assert_eq!(t.take().code(), Some(100));
    t.agent.ring(t.now, t.call, None);
    let ringing = t.take();
    assert_eq!((ringing.code(), ringing.header("Record-Route")), (Some(180), Some(ROUTES[0])));
    t.agent.accept(t.now, t.call, OFFER);
    let ok = t.take();
    assert_eq!((ok.code(), ok.sdp(), ok.to_tag()), (Some(200), Some(OFFER), ringing.to_tag()));
    assert_eq!((ok.header("Record-Route"), ok.contact()), (Some(ROUTES[0]), Some("sip:gw@192.0.2.1:5060")));
    t.run_for(500);
    assert_eq!(t.take().to_bytes(), ok.to_bytes());
    t.follow(&ok);
    t.request("ACK", 1, |_| {});
    assert_eq!(t.events(), [SipEvent::Acknowledged { call: t.call }]);
    t.agent.hangup(t.now, t.call, None);
    let bye = t.take();
    assert_eq!((bye.uri(), bye.header("Route")), (Some("sip:p@10.1.1.1:5060"), Some(ROUTES[0])));
    assert_eq!(bye.to_tag(), Some("peer"));
    t.reply(&bye, 200, |_| {});
    t.run_out();
}

#[test]
fn an_answer_that_nobody_acknowledges_is_repeated_for_32_s_and_then_ended() {
    let mut t = Table::incoming();
    t.agent.accept(t.now, t.call, OFFER);
    t.run_for(31_999);
    assert_eq!(t.sent.iter().filter(|(_, m)| m.code() == Some(200)).count(), 11);
    t.sent.clear();
    t.run_for(1);
    assert_eq!(t.take().method(), Some("BYE"));
    assert_eq!(t.events(), [t.ended(SipEnd::ProtocolError)]);
    t.run_out();
}

#[test]
fn a_callee_that_hangs_up_at_once_waits_for_the_ack() {
    let mut t = Table::incoming();
    t.agent.accept(t.now, t.call, OFFER);
    let ok = t.take();
    t.agent.hangup(t.now, t.call, None);
    t.assert_silent();
    assert_eq!(t.events(), [t.ended(SipEnd::ByeSent)]);
    t.follow(&ok);
    t.request("ACK", 1, |_| {});
    assert_eq!(t.take().method(), Some("BYE"));
    t.run_out();
}

#[test]
fn a_cancel_is_answered_and_the_invite_refused_with_487() {
    let mut t = Table::incoming();
    t.agent.ring(t.now, t.call, None);
    let ringing = t.take();
    t.request("CANCEL", 1, |m| branch(m, "z9hG4bKpeer1INVITE"));
    let (ok, refusal) = (t.take(), t.take());
    assert_eq!((ok.code(), ok.cseq(), ok.to_tag()), (Some(200), Some((1, "CANCEL")), ringing.to_tag()));
    assert_eq!((refusal.code(), refusal.cseq()), (Some(487), Some((1, "INVITE"))));
    assert_eq!(t.events(), [t.ended(SipEnd::CancelReceived)]);
    t.request("CANCEL", 9, |_| {});
    assert_eq!(t.take().code(), Some(481));
    t.run_out();
}

#[test]
fn a_bye_before_the_answer_ends_the_call_too() {
    let mut t = Table::incoming();
    t.agent.ring(t.now, t.call, None);
    let ringing = t.take();
    t.follow(&ringing);
    t.request("BYE", 2, |_| {});
    assert_eq!(t.take().code(), Some(200));
    assert_eq!(t.take().code(), Some(487));
    assert_eq!(t.events(), [t.ended(SipEnd::ByeReceived(None))]);
}

#[test]
fn a_call_that_nobody_decides_about_is_refused() {
    let mut t = Table::incoming();
    t.run_for(180_000);
    assert_eq!(t.sent.last().unwrap().1.code(), Some(480));
    assert_eq!(t.events(), [t.ended(SipEnd::TimedOut)]);
    t.run_out();
}

#[test]
fn an_incoming_call_is_challenged_and_taken_with_the_right_password() {
    for (password, granted) in [("secret", true), ("wrong", false)] {
        let mut t = Table::listening(Some(("sip.example.com".into(), account("secret"))));
        t.request("INVITE", 1, offer);
        let challenge = t.take();
        assert_eq!(challenge.code(), Some(407));
        let value = challenge.header("Proxy-Authenticate").unwrap();
        assert!(value.starts_with("Digest realm=\"sip.example.com\",qop=\"auth\",nonce=\""));
        assert!(!value.contains("algorithm"));
        let mut authorizer = control::sip::digest::Authorizer::new(Some(account(password)));
        assert!(authorizer.take(&challenge, &mut Default::default()));
        t.request("INVITE", 2, |m| {
            offer(m);
            authorizer.apply(m, &mut Random::from_test_seed(4));
        });
        assert_eq!(t.events().len(), usize::from(granted));
    }
}

#[test]
fn what_we_do_not_do_is_refused_with_the_right_code() {
    type Case = (&'static str, fn(&mut Message), u16, Option<(&'static str, &'static str)>);
    const ALLOWED: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO, PRACK, REFER, NOTIFY";
    let cases: [Case; 9] = [
        ("REGISTER", |_| {}, 405, Some(("Allow", ALLOWED))),
        ("OPTIONS", |m| m.push("Require", "unheardOf"), 420, Some(("Unsupported", "unheardOf"))),
        ("OPTIONS", forward_no_more, 483, None),
        ("OPTIONS", |_| {}, 200, Some(("Accept", "application/sdp"))),
        ("INVITE", |m| m.set_body("text/plain", "x"), 415, Some(("Accept", "application/sdp"))),
        ("INVITE", |m| m.remove("Contact"), 400, None),
        ("INVITE", ask_for_a_minute, 422, Some(("Min-SE", "90"))),
        ("BYE", |_| {}, 481, None),
        ("INVITE", |m| m.remove("From"), 400, None),
    ];
    for (method, change, code, header) in cases {
        let mut t = Table::listening(None);
        t.request(method, 1, change);
        let refusal = t.take();
        assert_eq!(refusal.code(), Some(code), "{method}");
        if let Some((name, value)) = header {
            assert_eq!(refusal.header(name), Some(value));
        }
        assert_eq!(t.events(), []);
        t.run_out();
    }
}

fn forward_no_more(m: &mut Message) {
    m.remove("Max-Forwards");
    m.push("Max-Forwards", "0");
}

fn ask_for_a_minute(m: &mut Message) {
    m.push("Supported", "timer");
    m.push("Session-Expires", "60");
}

#[test]
fn the_same_invite_on_two_paths_is_one_call() {
    let mut t = Table::incoming();
    t.request("INVITE", 1, |m| {
        offer(m);
        branch(m, "z9hG4bKotherpath");
    });
    assert_eq!(t.take().code(), Some(482));
    assert_eq!(t.events(), []);
}

#[test]
fn an_agent_that_takes_no_calls_says_404() {
    let mut t = Table::new(config(None, false));
    t.request("INVITE", 1, offer);
    assert_eq!((t.take().code(), t.agent.alive().0), (Some(404), 0));
}

#[test]
fn responses_go_to_the_source_or_to_the_port_that_was_named() {
    let mut t = Table::listening(None);
    t.from = "198.51.100.4:41234".parse().unwrap();
    t.request("OPTIONS", 1, |_| {});
    assert_eq!(t.take_with_address().0, t.from);
    t.request("OPTIONS", 2, |m| {
        m.remove("Via");
        m.push_front("Via", "SIP/2.0/UDP 192.0.2.2:5099;branch=z9hG4bKx".into());
    });
    assert_eq!(t.take_with_address().0, "198.51.100.4:5099".parse().unwrap());
}

#[test]
fn garbage_changes_nothing() {
    let mut t = Table::answered(|_| {});
    t.events();
    let alive = t.agent.alive();
    let mut random = Random::from_test_seed(5);
    for length in 0..2_000usize {
        let mut bytes = vec![0; length % 300];
        random.fill(&mut bytes);
        t.agent.handle_datagram(t.now, PEER.parse().unwrap(), &bytes);
    }
    let stray = b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKnone\r\nFrom: <sip:a@b>;tag=1\r\n\
        To: <sip:a@b>;tag=2\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\n\r\n";
    t.agent.handle_datagram(t.now, PEER.parse().unwrap(), stray);
    t.assert_silent();
    assert_eq!((t.events(), t.agent.alive(), t.now), (vec![], alive, Instant::ZERO));
}
