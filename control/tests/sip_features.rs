//! The agent against a peer that follows a script: places and failover, transports, transfers, offers of our own, reliable
//! provisional responses, registrations, and who may come in.

#[path = "sip_features/registrations.rs"]
mod registrations;
mod sip_table;

use control::sip::digest::Algorithm;
use control::sip::gatekeeper::{Admission, Admitted, Asking, Gatekeeper, Refusal, Registered, Secret};
use control::sip::limits::{DIALOG_FAILOVERS_MAX, RESOLVE_MS_MAX};
use control::sip::locate::{Question, Records, Srv};
use control::sip::message::Message;
use control::sip::transport::{ConnectionId, Hop, PeerIdentity, Transport};
use control::sip::{Invite, Register, Replaces, SipEnd, SipEvent, Watch};
use engine::random::Random;
use engine::time::Instant;
use sip_table::{ANSWER, OFFER, Table, account, answer, branch, config, everywhere, invitation, offer};

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Srv {
    Srv { priority, weight, port, target: target.into() }
}

fn place(t: &mut Table, change: impl FnOnce(&mut Invite)) {
    let mut invite = invitation();
    change(&mut invite);
    t.call = t.agent.invite(t.now, invite);
    t.pump();
}

fn addresses(list: &[&str]) -> Records {
    Records::Addresses(list.iter().map(|ip| ip.parse().unwrap()).collect())
}

// ---- offers by UPDATE (RFC 3311) ------------------------------------------------------------------------------------

#[test]
fn an_offer_by_update_is_asked_about_and_answered_or_refused_without_an_ack() {
    let mut t = Table::answered(|_| {});
    t.events();
    let update =
        |t: &mut Table, number: u32, sdp: &str| t.request("UPDATE", number, |m| m.set_body("application/sdp", sdp));
    update(&mut t, 1, "v=0\r\nheld");
    assert_eq!(t.events(), [SipEvent::ReInvite { call: t.call, sdp: Some("v=0\r\nheld".into()) }]);
    // One offer at a time.
    update(&mut t, 2, OFFER);
    let second = t.take();
    assert_eq!((second.code(), second.header("Retry-After").is_some()), (Some(500), true));
    t.agent.answer_reinvite(t.now, t.call, Some("v=0\r\nanswer"));
    let response = t.take();
    assert_eq!((response.code(), response.cseq()), (Some(200), Some((1, "UPDATE"))));
    assert_eq!((response.sdp(), response.contact().is_some()), (Some("v=0\r\nanswer"), true));
    t.run_for(5_000);
    t.assert_silent();
    // The same once more is a refresh.
    update(&mut t, 3, "v=0\r\nheld");
    assert_eq!((t.take().sdp().map(str::to_owned), t.events()), (Some("v=0\r\nanswer".to_owned()), vec![]));
    update(&mut t, 4, "v=0\r\nnonsense");
    t.events();
    t.agent.answer_reinvite(t.now, t.call, None);
    assert_eq!(t.take().code(), Some(488));
    // Ours is under way.
    t.agent.reinvite(t.now, t.call, OFFER);
    assert_eq!(t.take().method(), Some("INVITE"));
    update(&mut t, 5, "v=0\r\nheld");
    assert_eq!(t.take().code(), Some(491));
}

#[test]
fn an_offer_by_update_before_the_answer_is_put_off() {
    let mut t = Table::incoming();
    t.agent.ring(t.now, t.call, None);
    let ringing = t.take();
    t.follow(&ringing);
    t.request("UPDATE", 9, offer);
    let response = t.take();
    assert_eq!((response.code(), response.header("Retry-After").is_some()), (Some(500), true));
}

// ---- places ---------------------------------------------------------------------------------------------------------

#[test]
fn srv_targets_are_tried_in_their_order_and_a_dead_one_is_tried_last_by_the_next_call() {
    let mut t = Table::listening(None);
    let ask = |t: &mut Table| {
        place(t, |invite| invite.target = "sip:bot@trunk.example".into());
        t.answer_question(Question::Naptr("trunk.example".into()), Records::Nothing);
        let records = vec![srv(20, 0, 5812, "b.example."), srv(10, 0, 5811, "a.example.")];
        t.answer_question(Question::Srv("_sip._udp.trunk.example".into()), Records::Srv(records));
        t.answer_question(Question::Address("a.example".into()), addresses(&["192.0.2.8"]));
        t.answer_question(Question::Address("b.example".into()), addresses(&["192.0.2.9"]));
    };
    ask(&mut t);
    let (to, first) = t.take_with_address();
    assert_eq!((to, first.uri()), ("192.0.2.8:5811".parse().unwrap(), Some("sip:bot@trunk.example")));
    t.run_for(4_000);
    let (to, second) = t.sent.pop().unwrap();
    assert_eq!(to.remote, "192.0.2.9:5812".parse().unwrap());
    t.sent.clear();
    t.reply(&second, 486, |_| {});
    t.sent.clear();
    ask(&mut t);
    assert_eq!(t.take_with_address().0, "192.0.2.9:5812".parse().unwrap(), "the first was silent a moment ago");
}

#[test]
fn a_place_that_asked_to_be_left_alone_is_left_alone_for_that_long() {
    let mut t = Table::calling();
    let invite = t.take();
    t.reply(&invite, 503, |m| m.push("Retry-After", "10 (later)"));
    assert_eq!(t.take().method(), Some("ACK"));
    assert!(matches!(t.events().pop(), Some(SipEvent::Ended { end: SipEnd::Rejected { code: 503, .. }, .. })));
    place(&mut t, |_| {});
    t.assert_silent();
    assert!(matches!(t.events().pop(), Some(SipEvent::Ended { end: SipEnd::Rejected { code: 503, .. }, .. })));
    t.run_for(10_001);
    t.sent.clear();
    place(&mut t, |_| {});
    assert_eq!(t.take().method(), Some("INVITE"));
}

#[test]
fn a_request_inside_a_dialog_goes_to_another_place_of_the_name_when_the_first_refuses() {
    let mut t = Table::answered(|m| m.push("Record-Route", "<sip:192.0.2.2;lr>"));
    t.events();
    // The target has moved behind a name.
    t.request("UPDATE", 1, |m| {
        m.remove("Contact");
        m.push("Contact", "<sip:p@192.0.2.2>");
    });
    t.take();
    let mut t = Table::calling();
    let invite = t.take();
    t.reply(&invite, 200, |m| {
        m.push("Record-Route", "<sip:proxy.example:5070;lr>");
        answer(m, "<sip:172.25.16.223>");
    });
    t.answer_question(Question::Address("proxy.example".into()), addresses(&["192.0.2.8", "192.0.2.9"]));
    let (to, ack) = t.take_with_address();
    assert_eq!((to, ack.method()), ("192.0.2.8:5070".parse().unwrap(), Some("ACK")));
    t.agent.hangup(t.now, t.call, None);
    let (to, bye) = t.take_with_address();
    assert_eq!(to, "192.0.2.8:5070".parse().unwrap());
    t.reply(&bye, 503, |_| {});
    t.answer_question(Question::Address("proxy.example".into()), addresses(&["192.0.2.8", "192.0.2.9"]));
    let (to, again) = t.take_with_address();
    assert_eq!((to, again.method()), ("192.0.2.9:5070".parse().unwrap(), Some("BYE")));
    assert_ne!(again.via().unwrap().branch(), bye.via().unwrap().branch());
    assert_eq!(again.cseq(), bye.cseq(), "it is the same request");
    t.reply(&again, 200, |_| {});
    t.run_out();
}

#[test]
fn a_request_inside_a_dialog_that_nobody_answers_is_given_up_though_its_name_is_never_found() {
    let mut t = Table::calling();
    let invite = t.take();
    t.reply(&invite, 200, |m| {
        m.push("Record-Route", "<sip:proxy.example;lr>");
        answer(m, "<sip:172.25.16.223>");
    });
    t.run_for(RESOLVE_MS_MAX + 1);
    assert_eq!(t.take().method(), Some("ACK"));
    t.agent.hangup(t.now, t.call, None);
    // The resolver is as silent as the peer.
    t.run_out();
    let mut branches: Vec<&str> = t.sent.iter().filter_map(|(_, bye)| bye.via()?.branch()).collect();
    branches.dedup();
    assert_eq!(branches.len(), 1 + DIALOG_FAILOVERS_MAX);
}

#[test]
fn a_connection_that_cannot_be_made_moves_the_call_at_once() {
    let mut t = Table::new(everywhere());
    place(&mut t, |invite| invite.target = "sip:bot@trunk.example:5061;transport=tls".into());
    t.answer_question(Question::Address("trunk.example".into()), addresses(&["192.0.2.8", "192.0.2.9"]));
    let (first, invite) = t.take_with_hop();
    let expected = Hop::new(Transport::Tls, "192.0.2.8:5061".parse().unwrap()).for_domain("trunk.example");
    assert_eq!(first, expected);
    assert!(invite.header("Via").unwrap().starts_with("SIP/2.0/TLS 192.0.2.1:5061;branch="));
    assert!(invite.via().unwrap().param("alias").is_some());
    assert_eq!(invite.contact(), Some("sip:gw@192.0.2.1:5061;transport=tls"));
    t.agent.transport_failed(t.now, &first);
    let (second, invite) = t.take_with_hop();
    assert_eq!(second.remote, "192.0.2.9:5061".parse().unwrap());
    // Nothing is repeated on a stream.
    t.run_for(10_000);
    t.assert_silent();
    t.receive(&second, &Message::response(&invite, 486, "Busy", Some("x")));
    assert_eq!(t.take_with_hop().0, second);
}

#[test]
fn an_invite_too_large_for_a_datagram_goes_over_tcp_and_back_to_udp_where_nobody_listens() {
    let mut t = Table::new(everywhere());
    let large = |invite: &mut Invite| invite.sdp = format!("{OFFER}{}", "a=x-padding\r\n".repeat(100));
    place(&mut t, large);
    let (hop, invite) = t.take_with_hop();
    assert_eq!((hop.transport, invite.via().unwrap().transport), (Transport::Tcp, "TCP"));
    t.agent.transport_failed(t.now, &hop);
    let (hop, invite) = t.take_with_hop();
    assert_eq!((hop.transport, invite.via().unwrap().transport), (Transport::Udp, "UDP"));
    t.reply(&invite, 486, |_| {});
    t.take();
    // Known by now.
    place(&mut t, large);
    assert_eq!(t.take_with_hop().0.transport, Transport::Udp);
    let mut t = Table::listening(None);
    place(&mut t, large);
    assert_eq!(t.take_with_hop().0.transport, Transport::Udp, "without TCP there is no choice");
}

#[test]
fn sips_means_tls_and_a_contact_of_its_kind() {
    let mut t = Table::new(everywhere());
    place(&mut t, |invite| invite.target = "sips:bot@192.0.2.2".into());
    let (hop, invite) = t.take_with_hop();
    assert_eq!((hop.transport, hop.remote), (Transport::Tls, "192.0.2.2:5061".parse().unwrap()));
    assert_eq!(invite.contact(), Some("sips:gw@192.0.2.1:5061;transport=tcp"));
    let mut config = everywhere();
    config.tls_name = Some("gw.example".into());
    let mut t = Table::new(config);
    place(&mut t, |invite| invite.target = "sip:bot@192.0.2.2;transport=tls".into());
    let invite = t.take();
    assert_eq!(invite.contact(), Some("sip:gw@gw.example:5061;transport=tls"));
    // A response to the name in our Via is ours.
    t.reply(&invite, 180, |_| {});
    assert!(matches!(t.events().pop(), Some(SipEvent::Provisional { code: 180, .. })));
}

#[test]
fn a_websocket_client_is_answered_and_called_back_on_its_own_connection() {
    let mut t = Table::new(everywhere());
    let hop = Hop::connected(Transport::Wss, "198.51.100.7:40000".parse().unwrap(), ConnectionId(7));
    let mut invite = Message::request("INVITE", "sip:gw@192.0.2.1");
    invite.push("Via", "SIP/2.0/WSS df7jal23ls0d.invalid;branch=z9hG4bKws");
    invite.push("Max-Forwards", "70");
    invite.push("From", "<sip:u@example.com>;tag=peer");
    invite.push("To", "<sip:gw@192.0.2.1>");
    invite.push("Call-ID", "ws");
    invite.push("CSeq", "1 INVITE");
    invite.push("Contact", "<sip:u@df7jal23ls0d.invalid;transport=ws>");
    offer(&mut invite);
    t.receive(&hop, &invite);
    let events = t.events();
    let [SipEvent::Incoming { call, arrival, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(arrival.hop, hop);
    t.call = *call;
    t.agent.accept(t.now, t.call, ANSWER);
    let (to, ok) = t.take_with_hop();
    assert_eq!((to.clone(), ok.code()), (hop.clone(), Some(200)));
    assert_eq!(ok.header("Via"), Some("SIP/2.0/WSS df7jal23ls0d.invalid;branch=z9hG4bKws;received=198.51.100.7"));
    assert_eq!(ok.contact(), Some("sip:gw@192.0.2.1:7443;transport=ws"));
    t.follow(&ok);
    let mut ack = Message::request("ACK", "sip:gw@192.0.2.1");
    ack.push("Via", "SIP/2.0/WSS df7jal23ls0d.invalid;branch=z9hG4bKack");
    for name in ["From", "Call-ID"] {
        ack.copy(&invite, name);
    }
    ack.copy(&ok, "To");
    ack.push("CSeq", "1 ACK");
    // The client has come back on another connection.
    let back = Hop::connected(Transport::Wss, "198.51.100.7:40001".parse().unwrap(), ConnectionId(8));
    t.receive(&back, &ack);
    let mut info = ack.clone();
    info.start = Message::request("INFO", "sip:gw@192.0.2.1").start;
    branch(&mut info, "z9hG4bKinfo");
    info.remove("CSeq");
    info.push("CSeq", "2 INFO");
    t.receive(&back, &info);
    assert_eq!(t.take_with_hop().0, back);
    t.agent.hangup(t.now, t.call, None);
    let (to, bye) = t.take_with_hop();
    assert_eq!((to.clone(), bye.uri()), (back.clone(), Some("sip:u@df7jal23ls0d.invalid;transport=ws")));
    t.run_for(20_000);
    t.assert_silent();
    t.agent.connection_closed(t.now, &back);
    t.run_out();
}

#[test]
fn a_websocket_client_that_has_registered_from_another_connection_is_reached_there() {
    for (contact, found) in [
        ("sip:u@df7jal23ls0d.invalid;transport=ws;ob", true),
        ("sip:u@DF7JAL23LS0D.invalid", true),
        ("sip:another@df7jal23ls0d.invalid;transport=ws", false),
        ("sip:u@other.invalid;transport=ws", false),
        ("no uri", false),
    ] {
        let mut t = Table::new(everywhere());
        let hop = Hop::connected(Transport::Wss, "198.51.100.7:40000".parse().unwrap(), ConnectionId(7));
        let mut invite = Message::request("INVITE", "sip:gw@192.0.2.1");
        invite.push("Via", "SIP/2.0/WSS df7jal23ls0d.invalid;branch=z9hG4bKws");
        invite.push("Max-Forwards", "70");
        invite.push("From", "<sip:u@example.com>;tag=peer");
        invite.push("To", "<sip:gw@192.0.2.1>");
        invite.push("Call-ID", "ws");
        invite.push("CSeq", "1 INVITE");
        invite.push("Contact", "<sip:u@df7jal23ls0d.invalid;transport=ws>");
        offer(&mut invite);
        t.receive(&hop, &invite);
        let events = t.events();
        let [SipEvent::Incoming { call, .. }] = &events[..] else { panic!("{events:?}") };
        t.call = *call;
        let back = Hop::connected(Transport::Wss, "198.51.100.8:50000".parse().unwrap(), ConnectionId(9));
        t.agent.peer_is_at(t.now, t.call, contact, &back);
        t.agent.accept(t.now, t.call, ANSWER);
        let (to, ok) = t.take_with_hop();
        assert_eq!(to, hop, "a response goes where its request came from");
        let mut ack = Message::request("ACK", "sip:gw@192.0.2.1");
        ack.push("Via", "SIP/2.0/WSS df7jal23ls0d.invalid;branch=z9hG4bKack");
        for name in ["From", "Call-ID"] {
            ack.copy(&invite, name);
        }
        ack.copy(&ok, "To");
        ack.push("CSeq", "1 ACK");
        t.receive(&hop, &ack);
        t.agent.connection_closed(t.now, &hop);
        t.agent.peer_is_at(t.now, t.call, contact, &back);
        t.agent.reinvite(t.now, t.call, ANSWER);
        let (to, reinvite) = t.take_with_hop();
        assert_eq!((to == back, reinvite.method()), (found, Some("INVITE")), "{contact}");
        // A place that only a plain transport leads to is not the same device's.
        t.agent.peer_is_at(t.now, t.call, contact, &Hop::udp("198.51.100.8:5060".parse().unwrap()));
        t.agent.hangup(t.now, t.call, None);
        t.agent.connection_closed(t.now, if found { &back } else { &hop });
        t.run_for(40_000);
    }
}

#[test]
fn the_connection_of_a_stream_carries_the_callees_requests() {
    let mut t = Table::new(everywhere());
    let hop = Hop::connected(Transport::Tls, "198.51.100.9:39000".parse().unwrap(), ConnectionId(3));
    for (contact, remote) in [
        ("<sip:p@198.51.100.9:5061;transport=tls>", "198.51.100.9:5061"),
        ("<sip:p@198.51.100.9:5061>", "198.51.100.9:5061"),
        ("<sip:p@10.1.2.3:5061;transport=tls>", "198.51.100.9:5061"),
        ("<sip:p@192.0.2.140;transport=wss>", "198.51.100.9:5061"),
        ("<sip:p@nowhere.invalid;transport=tls>", "198.51.100.9:5061"),
    ] {
        let mut invite = Message::request("INVITE", "sip:gw@192.0.2.1");
        invite.push("Via", format!("SIP/2.0/TLS 198.51.100.9:5061;branch=z9hG4bK{};rport", contact.len()));
        invite.push("Max-Forwards", "70");
        invite.push("From", "<sip:p@x>;tag=peer");
        invite.push("To", "<sip:gw@192.0.2.1>");
        invite.push("Call-ID", contact);
        invite.push("CSeq", "1 INVITE");
        invite.push("Contact", contact);
        offer(&mut invite);
        t.receive(&hop, &invite);
        let Some(SipEvent::Incoming { call, .. }) = t.events().pop() else { panic!() };
        t.agent.accept(t.now, call, ANSWER);
        let ok = t.take();
        let mut ack = Message::request("ACK", "sip:gw@192.0.2.1");
        ack.push("Via", format!("SIP/2.0/TLS 198.51.100.9:5061;branch=z9hG4bKack{};rport", contact.len()));
        for name in ["From", "Call-ID"] {
            ack.copy(&invite, name);
        }
        ack.copy(&ok, "To");
        ack.push("CSeq", "1 ACK");
        t.receive(&hop, &ack);
        t.agent.hangup(t.now, call, None);
        let (to, bye) = t.take_with_hop();
        assert_eq!(
            (to.connection, to.remote, bye.method()),
            (hop.connection, remote.parse().unwrap(), Some("BYE")),
            "{contact}"
        );
        t.receive(&hop, &Message::response(&bye, 200, "OK", None));
    }
    t.run_out();
}

// ---- offers and refreshes of ours -----------------------------------------------------------------------------------

const HOLD: &str = "v=0\r\no=- 1 2 IN IP4 192.0.2.1\r\ns=-\r\na=inactive\r\n";

#[test]
fn an_offer_of_ours_is_answered_or_refused_and_meets_the_peers_own() {
    let mut t = Table::answered(|_| {});
    t.events();
    t.agent.reinvite(t.now, t.call, HOLD);
    let reinvite = t.take();
    assert_eq!((reinvite.method(), reinvite.sdp(), reinvite.cseq()), (Some("INVITE"), Some(HOLD), Some((2, "INVITE"))));
    // Glare: the owner of the Call-ID waits 2.1 to 4 s.
    t.request("INVITE", 5, offer);
    assert_eq!(t.take().code(), Some(491));
    t.request("ACK", 5, |m| branch(m, "z9hG4bKpeer5INVITE"));
    t.reply(&reinvite, 491, |_| {});
    assert_eq!(t.take().method(), Some("ACK"));
    t.run_for(2_090);
    t.assert_silent();
    t.run_for(1_920);
    let again = t.take();
    assert_eq!((again.sdp(), again.cseq()), (Some(HOLD), Some((3, "INVITE"))));
    t.sent.clear();
    t.reply(&again, 200, |m| answer(m, "<sip:192.0.2.2>"));
    assert_eq!(t.take().method(), Some("ACK"));
    assert_eq!(t.events(), [SipEvent::ReInviteAnswered { call: t.call, sdp: ANSWER.into() }]);
    // Two in a row: the second waits for the first.
    t.agent.reinvite(t.now, t.call, OFFER);
    t.agent.reinvite(t.now, t.call, HOLD);
    let first = t.take();
    t.assert_silent();
    t.reply(&first, 488, |_| {});
    assert_eq!(t.take().method(), Some("ACK"));
    assert_eq!(t.take().sdp(), Some(HOLD));
    assert_eq!(t.events(), [SipEvent::ReInviteRefused { call: t.call, code: 488 }]);
}

#[test]
fn an_offer_too_large_for_a_datagram_goes_back_to_udp_where_nobody_listens_on_tcp() {
    let mut t = Table::new(everywhere());
    place(&mut t, |_| {});
    let invite = t.take();
    t.reply(&invite, 200, |m| answer(m, "<sip:192.0.2.2>"));
    t.take();
    t.events();
    let large = format!("{HOLD}{}", "a=x-padding\r\n".repeat(100));
    t.agent.reinvite(t.now, t.call, &large);
    let (hop, _) = t.take_with_hop();
    assert_eq!(hop.transport, Transport::Tcp);
    t.agent.transport_failed(t.now, &hop);
    let (hop, again) = t.take_with_hop();
    assert_eq!((hop.transport, again.sdp()), (Transport::Udp, Some(large.as_str())));
    t.reply(&again, 200, |m| answer(m, "<sip:192.0.2.2>"));
    assert_eq!(t.events(), [SipEvent::ReInviteAnswered { call: t.call, sdp: ANSWER.into() }]);
}

#[test]
fn a_key_goes_out_by_info_and_a_vanished_dialog_ends_the_call() {
    let mut t = Table::answered(|_| {});
    t.events();
    t.agent.info(t.now, t.call, '5', 160);
    let info = t.take();
    assert_eq!(info.content_type().as_deref(), Some("application/dtmf-relay"));
    assert_eq!(info.body, b"Signal=5\r\nDuration=160\r\n");
    t.reply(&info, 200, |_| {});
    t.agent.info(t.now, t.call, '#', 160);
    let info = t.take();
    t.reply(&info, 481, |_| {});
    assert!(matches!(t.events().pop(), Some(SipEvent::Ended { end: SipEnd::Rejected { code: 481, .. }, .. })));
}

// ---- transfers ------------------------------------------------------------------------------------------------------

#[test]
fn a_transfer_that_the_peer_asks_for_is_accepted_and_told_about() {
    let mut t = Table::answered(|_| {});
    t.events();
    t.request("REFER", 1, |m| {
        m.push("Refer-To", "<sip:carol@example.com?Replaces=c9%3Bto-tag%3Dtt%3Bfrom-tag%3Dff>");
        m.push("Referred-By", "<sip:p@192.0.2.2>");
    });
    assert_eq!(t.take().code(), Some(202));
    let notify = t.take();
    assert_eq!((notify.method(), notify.header("Event")), (Some("NOTIFY"), Some("refer;id=1")));
    assert_eq!(notify.body, b"SIP/2.0 100 Trying\r\n");
    assert!(notify.header("Subscription-State").unwrap().starts_with("active"));
    t.reply(&notify, 200, |_| {});
    let replaces = Replaces { call_id: "c9".into(), to_tag: "tt".into(), from_tag: "ff".into(), early_only: false };
    let asked = SipEvent::TransferAsked {
        call: t.call,
        refer_to: "sip:carol@example.com".into(),
        replaces: Some(replaces),
        referred_by: Some("<sip:p@192.0.2.2>".into()),
    };
    assert_eq!(t.events(), [asked]);
    t.request("REFER", 2, |m| m.push("Refer-To", "<sip:dave@example.com>"));
    assert_eq!(t.take().code(), Some(491));
    t.agent.transfer_progress(t.now, t.call, 180);
    assert_eq!(t.take().body, b"SIP/2.0 180 Ringing\r\n");
    t.agent.transfer_progress(t.now, t.call, 200);
    let last = t.take();
    assert!(last.header("Subscription-State").unwrap().starts_with("terminated"));
    t.agent.transfer_progress(t.now, t.call, 200);
    t.assert_silent();
    for (target, code) in [("<tel:+1>", 416), ("nonsense", 400)] {
        t.request("REFER", 3 + u32::from(code == 400), |m| m.push("Refer-To", target));
        assert_eq!(t.take().code(), Some(code));
    }
}

#[test]
fn a_transfer_that_we_ask_for_is_followed_by_its_notifies() {
    let mut t = Table::answered(|_| {});
    t.events();
    t.agent.refer(t.now, t.call, "sip:carol@example.com", None);
    let refer = t.take();
    assert_eq!((refer.method(), refer.header("Refer-To")), (Some("REFER"), Some("<sip:carol@example.com>")));
    let progress = |code, over| SipEvent::TransferProgress { call: t.call, code, over };
    let expected = [progress(202, false), progress(180, false), progress(200, true)];
    t.reply(&refer, 202, |_| {});
    for (cseq, state, line) in [(1, "active;expires=60", "180 Ringing"), (2, "terminated;reason=noresource", "200 OK")]
    {
        t.request("NOTIFY", cseq, |m| {
            m.push("Event", "refer");
            m.push("Subscription-State", state);
            m.set_body("message/sipfrag", &format!("SIP/2.0 {line}\r\n"));
        });
        assert_eq!(t.take().code(), Some(200));
    }
    assert_eq!(t.events(), expected);
    t.request("NOTIFY", 3, |m| m.push("Event", "refer"));
    assert_eq!(t.take().code(), Some(481));
    t.request("NOTIFY", 4, |m| m.push("Event", "keep-alive"));
    assert_eq!(t.take().code(), Some(489));
}

// ---- reliable provisional responses ---------------------------------------------------------------------------------

#[test]
fn a_required_reliable_18x_is_repeated_until_its_prack_and_the_answer_waits_for_it() {
    let mut t = Table::listening(None);
    t.request("INVITE", 1, |m| {
        m.push("Require", "100rel");
        offer(m);
    });
    let Some(SipEvent::Incoming { call, .. }) = t.events().pop() else { panic!() };
    t.call = call;
    t.agent.ring(t.now, call, Some(ANSWER));
    let progress = t.take();
    assert_eq!((progress.code(), progress.header("Require")), (Some(183), Some("100rel")));
    let rseq: u32 = progress.header("RSeq").unwrap().parse().unwrap();
    t.agent.ring(t.now, call, None);
    t.agent.accept(t.now, call, ANSWER);
    t.assert_silent();
    t.run_for(3_600);
    let repeats: Vec<_> = std::mem::take(&mut t.sent).into_iter().map(|(_, m)| m).collect();
    assert_eq!(repeats.len(), 3, "after 0.5, 1.5 and 3.5 s");
    assert!(repeats.iter().all(|m| m.header("RSeq") == progress.header("RSeq")));
    t.follow(&progress);
    t.request("PRACK", 2, |m| m.push("RAck", format!("{} 1 INVITE", rseq + 1)));
    assert_eq!(t.take().code(), Some(481));
    t.request("PRACK", 3, |m| m.push("RAck", format!("{rseq} 1 INVITE")));
    assert_eq!(t.take().code(), Some(200));
    assert_eq!(t.take().code(), Some(200), "and now the INVITE's own");
    t.request("ACK", 1, |_| {});
    assert_eq!(t.events(), [SipEvent::Acknowledged { call }]);
}

#[test]
fn a_call_whose_reliable_18x_nobody_acknowledges_is_refused() {
    let mut t = Table::listening(None);
    t.request("INVITE", 1, |m| {
        m.push("Require", "100rel");
        offer(m);
    });
    let Some(SipEvent::Incoming { call, .. }) = t.events().pop() else { panic!() };
    t.call = call;
    t.agent.ring(t.now, call, None);
    t.run_for(33_000);
    let codes: Vec<_> = t.sent.iter().filter_map(|(_, m)| m.code()).collect();
    assert!(codes.contains(&504), "{codes:?}");
    assert_eq!(t.events(), [t.ended(SipEnd::ProtocolError)]);
}

#[test]
fn every_reliable_18x_of_the_peer_is_acknowledged_once_and_in_order() {
    let mut t = Table::calling();
    let invite = t.take();
    let reliably = |rseq: u32| {
        move |m: &mut Message| {
            m.push("Require", "100rel");
            m.push("RSeq", rseq.to_string());
            m.push("Contact", "<sip:192.0.2.2>");
        }
    };
    t.reply(&invite, 183, reliably(17));
    let prack = t.take();
    assert_eq!((prack.method(), prack.header("RAck")), (Some("PRACK"), Some("17 1 INVITE")));
    t.reply(&prack, 200, |_| {});
    t.reply(&invite, 183, reliably(17));
    t.reply(&invite, 180, reliably(19));
    t.assert_silent();
    t.reply(&invite, 180, reliably(18));
    assert_eq!(t.take().header("RAck"), Some("18 1 INVITE"));
    t.sent.clear();
    t.reply(&invite, 200, |m| answer(m, "<sip:192.0.2.2>"));
    assert_eq!(t.take().cseq(), Some((1, "ACK")));
    t.agent.hangup(t.now, t.call, None);
    assert_eq!(t.take().cseq(), Some((4, "BYE")), "behind the two PRACKs");
}

// ---- who may come in ------------------------------------------------------------------------------------------------

/// Knows alice, refuses whoever comes by UDP, and ignores scanners.
struct Gate {
    registered: Vec<String>,
}

impl Gatekeeper for Gate {
    fn admit(&mut self, _now: Instant, asking: &Asking<'_>) -> Admission {
        if asking.request.header("User-Agent") == Some("friendly-scanner") {
            return Admission::Ignore;
        }
        if asking.hop.transport == Transport::Udp {
            return Admission::Refuse(Refusal::warned(403, "this trunk is for TLS"));
        }
        match asking.user {
            None => Admission::Challenge { realm: "r".into(), algorithms: Vec::new() },
            Some(user) => Admission::Accept(Admitted::User(user.to_owned())),
        }
    }

    fn secret(&self, _realm: &str, username: &str) -> Option<Secret> {
        (username == "alice").then(|| Secret::Password("secret".into()))
    }

    fn is_registrar(&self) -> bool {
        true
    }

    fn register(&mut self, _now: Instant, request: &Message, _hop: &Hop, admitted: &Admitted) -> Registered {
        self.registered.push(format!("{} as {admitted:?}", request.contact().unwrap_or("")));
        Registered { code: 200, headers: vec![("Contact".into(), "<sip:a@x.invalid>;expires=300".into())] }
    }
}

fn ask(t: &mut Table, gate: &mut Gate, hop: &Hop, request: &Message) {
    t.agent.handle_message(t.now, hop, &PeerIdentity::default(), &request.to_bytes(), gate);
    t.pump();
}

fn from_outside(method: &str, number: u32) -> Message {
    let mut m = Message::request(method, "sip:example.com");
    m.push("Via", format!("SIP/2.0/WSS x.invalid;branch=z9hG4bKout{number}{method}"));
    m.push("Max-Forwards", "70");
    m.push("From", "<sip:alice@example.com>;tag=peer");
    m.push("To", "<sip:alice@example.com>");
    m.push("Call-ID", "out");
    m.push("CSeq", format!("{number} {method}"));
    m.push("Contact", "<sip:a@x.invalid;transport=ws>");
    m
}

#[test]
fn a_registration_is_challenged_as_the_transport_needs_and_handed_to_the_registrar() {
    for (transport, algorithms) in [(Transport::Wss, 1), (Transport::Tls, 2)] {
        let (mut t, mut gate) = (Table::new(everywhere()), Gate { registered: Vec::new() });
        let hop = Hop::connected(transport, "198.51.100.7:40000".parse().unwrap(), ConnectionId(1));
        ask(&mut t, &mut gate, &hop, &from_outside("REGISTER", 1));
        let challenge = t.take();
        assert_eq!(challenge.code(), Some(401));
        let asked: Vec<_> = challenge.headers("WWW-Authenticate").collect();
        assert_eq!(asked.len(), algorithms, "over WebSocket MD5 alone");
        assert_eq!(asked[0].contains("SHA-256"), algorithms == 2);
        let mut again = from_outside("REGISTER", 2);
        let mut authorizer = control::sip::digest::Authorizer::new(Some(account("secret")));
        assert!(authorizer.take(&challenge, &mut control::sip::digest::Answered::default()));
        authorizer.apply(&mut again, &mut Random::from_test_seed(1));
        ask(&mut t, &mut gate, &hop, &again);
        let ok = t.take();
        assert_eq!((ok.code(), ok.header("Contact")), (Some(200), Some("<sip:a@x.invalid>;expires=300")));
        assert_eq!(gate.registered, ["sip:a@x.invalid;transport=ws as User(\"alice\")"]);
    }
    let _ = Algorithm::Md5;
}

#[test]
fn a_refusal_says_why_in_words_and_a_scanner_hears_nothing() {
    let (mut t, mut gate) = (Table::new(config(None, true)), Gate { registered: Vec::new() });
    let hop = Hop::udp("198.51.100.7:5060".parse().unwrap());
    let mut invite = from_outside("INVITE", 1);
    ask(&mut t, &mut gate, &hop, &invite);
    let refusal = t.take();
    assert_eq!(refusal.code(), Some(403));
    assert_eq!(refusal.header("Warning"), Some("399 192.0.2.1:5060 \"this trunk is for TLS\""));
    t.sent.clear();
    invite = from_outside("INVITE", 2);
    invite.push("User-Agent", "friendly-scanner");
    ask(&mut t, &mut gate, &hop, &invite);
    let mut messages = t.sent.iter().map(|(_, m)| m.code());
    assert!(messages.all(|code| code == Some(403)), "{:?}", t.sent);
    t.run_for(1_000);
    assert!(t.sent.iter().all(|(_, m)| m.cseq() == Some((1, "INVITE"))), "{:?}", t.sent);
}

#[test]
fn an_invite_that_replaces_a_call_names_it_or_is_refused() {
    let mut t = Table::answered(|_| {});
    t.events();
    let (call_id, ours, theirs) = t.dialog.take().unwrap();
    t.request("INVITE", 1, |m| {
        m.push("Replaces", format!("{call_id};to-tag={ours};from-tag={theirs}"));
        offer(m);
    });
    let events = t.events();
    let [SipEvent::Incoming { arrival, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(arrival.replaces, Some(t.call));
    let named = format!("{call_id};to-tag={ours};from-tag={theirs}");
    let mut refused = |number: u32, method: &str, values: &[&str]| {
        t.request(method, number, |m| {
            values.iter().for_each(|value| m.push("Replaces", *value));
            offer(m);
        });
        t.take().code()
    };
    assert_eq!(refused(2, "INVITE", &["unknown;to-tag=a;from-tag=b"]), Some(481));
    assert_eq!(refused(3, "INVITE", &[&format!("{call_id};to-tag={theirs};from-tag={ours}")]), Some(481));
    assert_eq!(refused(4, "INVITE", &[&format!("{named};early-only")]), Some(486));
    assert_eq!(refused(5, "INVITE", &[&named, &named]), Some(400));
    assert_eq!(refused(6, "INVITE", &["nothing"]), Some(400));
    assert_eq!(refused(7, "OPTIONS", &[&named]), Some(400));
    t.agent.hangup(t.now, t.call, None);
    assert_eq!(t.take().method(), Some("BYE"));
    t.request("INVITE", 8, |m| {
        m.push("Replaces", named.as_str());
        offer(m);
    });
    assert_eq!(t.take().code(), Some(603), "it has ended a moment ago");
}

#[test]
fn a_call_that_its_caller_still_waits_for_cannot_be_replaced() {
    let mut t = Table::listening(None);
    t.request("INVITE", 1, offer);
    let events = t.events();
    let [SipEvent::Incoming { call, arrival, .. }] = &events[..] else { panic!("{events:?}") };
    t.agent.ring(t.now, *call, None);
    let ringing = t.take();
    let (ours, theirs) = (ringing.to_tag().unwrap().to_owned(), arrival.request.from_tag().unwrap().to_owned());
    t.request("INVITE", 2, |m| {
        m.push("Replaces", format!("{};to-tag={ours};from-tag={theirs}", arrival.request.call_id()));
        offer(m);
    });
    assert_eq!(t.take().code(), Some(481));
}

#[test]
fn every_message_is_traced_while_tracing_is_on() {
    let mut t = Table::listening(None);
    t.agent.set_tracing(true);
    place(&mut t, |_| {});
    let invite = t.take();
    t.reply(&invite, 486, |_| {});
    let traced: Vec<_> = t.traced.iter().map(|m| (m.sent, m.call_id == invite.call_id())).collect();
    assert_eq!(traced, [(true, true), (false, true), (true, true)]);
    t.agent.set_tracing(false);
    t.traced.clear();
    place(&mut t, |_| {});
    assert!(t.traced.is_empty());
}

#[test]
fn hops_that_a_call_has_used_up_end_it_and_the_rest_is_passed_on() {
    let mut t = Table::listening(None);
    place(&mut t, |invite| invite.max_forwards = Some(0));
    assert!(matches!(t.events().pop(), Some(SipEvent::Ended { end: SipEnd::Rejected { code: 483, .. }, .. })));
    place(&mut t, |invite| {
        invite.max_forwards = Some(12);
        invite.asserted_identity = Some("<sip:+44@example.com>".into());
        invite.routes = vec!["<sip:192.0.2.8;lr>".into()];
    });
    let (to, invite) = t.take_with_address();
    assert_eq!((to, invite.max_forwards()), ("192.0.2.8:5060".parse().unwrap(), Some(12)));
    assert_eq!(invite.header("P-Asserted-Identity"), Some("<sip:+44@example.com>"));
    assert_eq!((invite.header("Route"), invite.uri()), (Some("<sip:192.0.2.8;lr>"), Some("sip:bot@192.0.2.2")));
}
