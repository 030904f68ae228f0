use super::*;
use crate::sip::transport::Transport;
use std::net::SocketAddr;

/// A REGISTER with the given Contact lines.
fn request(call_id: &str, cseq: u32, extra: &[(&str, &str)]) -> Message {
    let mut request = Message::request("REGISTER", "sip:voice.example");
    request.push("Via", "SIP/2.0/WSS df7jal23ls0d.invalid;branch=z9hG4bKx");
    request.push("From", "<sip:alice@voice.example>;tag=a");
    request.push("To", "<sip:alice@voice.example>");
    request.push("Call-ID", call_id);
    request.push("CSeq", format!("{cseq} REGISTER"));
    for (name, value) in extra {
        request.push(name, *value);
    }
    request
}

fn web(connection: u64) -> Hop {
    Hop::connected(Transport::Wss, SocketAddr::from(([192, 0, 2, 1], 40_000)), ConnectionId(connection))
}

fn at(seconds: u64) -> Instant {
    Instant::from_millis(seconds * 1_000)
}

fn header<'r>(registered: &'r Registered, name: &str) -> Vec<&'r str> {
    registered.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
}

const CONTACT: &str = "<sip:x1@df7jal23ls0d.invalid;transport=ws>;+sip.instance=\"<urn:uuid:1>\";reg-id=1;expires=300";

#[test]
fn a_browser_is_registered_by_its_connection_and_gone_with_it() {
    let mut registrar = Registrar::new();
    let asked = request("c1", 1, &[("Contact", CONTACT), ("Supported", "path,gruu,outbound")]);
    let answer = registrar.register(at(0), &asked, &web(7), "alice", 8);
    assert_eq!(answer.code, 200);
    let contact = "<sip:x1@df7jal23ls0d.invalid;transport=ws>;expires=300;+sip.instance=\"<urn:uuid:1>\";reg-id=1";
    assert_eq!(header(&answer, "Contact"), [contact]);
    assert_eq!(header(&answer, "Require"), ["outbound"]);
    let [binding] = registrar.bindings("alice") else { panic!("one device") };
    assert_eq!((binding.hop.connection, binding.instance.as_deref()), (Some(ConnectionId(7)), Some("<urn:uuid:1>")));
    assert_eq!(registrar.users_of(ConnectionId(7)).collect::<Vec<_>>(), ["alice"]);
    assert_eq!(registrar.connection_closed(ConnectionId(8)), Vec::<String>::new());
    assert_eq!(registrar.connection_closed(ConnectionId(7)), ["alice"]);
    assert_eq!((registrar.count(), registrar.deadline()), (0, Instant::NEVER));
}

#[test]
fn several_devices_are_kept_and_one_that_comes_back_takes_its_old_place() {
    let mut registrar = Registrar::new();
    registrar.register(at(0), &request("c1", 1, &[("Contact", CONTACT)]), &web(1), "alice", 8);
    let phone = request("c2", 1, &[("Contact", "<sip:alice@192.0.2.9:5060>;q=0.5")]);
    registrar.register(at(1), &phone, &Hop::udp(SocketAddr::from(([203, 0, 113, 4], 61_000))), "alice", 8);
    assert_eq!(registrar.bindings("alice").len(), 2);
    // The page was loaded again: another Contact, another connection, the same instance.
    let again = CONTACT.replace("x1@df7jal23ls0d", "x2@qqqqqq");
    let answer = registrar.register(at(2), &request("c3", 1, &[("Contact", &again)]), &web(2), "alice", 8);
    assert_eq!(header(&answer, "Contact").len(), 2);
    let bindings = registrar.bindings("alice");
    assert_eq!((bindings[0].hop.connection, bindings[0].since), (Some(ConnectionId(2)), at(0)));
    assert_eq!(bindings[1].hop.remote, SocketAddr::from(([203, 0, 113, 4], 61_000)));
    assert!(registrar.connection_closed(ConnectionId(1)).is_empty(), "the old connection holds nothing any more");
    assert_eq!(registrar.bindings("alice").len(), 2);
}

#[test]
fn times_are_granted_within_limits_and_run_out() {
    let mut registrar = Registrar::new();
    let ask = |registrar: &mut Registrar, cseq, contact: &str, expires: Option<&str>| {
        let mut headers = vec![("Contact", contact)];
        headers.extend(expires.map(|expires| ("Expires", expires)));
        registrar.register(at(0), &request("c1", cseq, &headers), &web(1), "alice", 8)
    };
    let granted = |answer: &Registered| {
        header(answer, "Contact")[0]
            .split("expires=")
            .nth(1)
            .unwrap()
            .split(';')
            .next()
            .unwrap()
            .parse::<u32>()
            .unwrap()
    };
    assert_eq!(granted(&ask(&mut registrar, 1, "<sip:a@x.invalid>", None)), EXPIRES_S_DEFAULT);
    assert_eq!(granted(&ask(&mut registrar, 2, "<sip:a@x.invalid>", Some("600"))), 600);
    assert_eq!(granted(&ask(&mut registrar, 3, "<sip:a@x.invalid>;expires=900", Some("600"))), 900);
    assert_eq!(granted(&ask(&mut registrar, 4, "<sip:a@x.invalid>", Some("99999999999999"))), EXPIRES_S_MAX);
    assert_eq!(granted(&ask(&mut registrar, 5, "<sip:a@x.invalid>", Some("soon"))), 3_600);
    let brief = ask(&mut registrar, 6, "<sip:a@x.invalid>", Some("10"));
    assert_eq!((brief.code, header(&brief, "Min-Expires")), (423, vec!["60"]));
    assert_eq!(registrar.deadline(), at(3_600));
    registrar.handle_timeout(at(3_599));
    assert_eq!(registrar.count(), 1);
    registrar.handle_timeout(at(3_600));
    assert_eq!((registrar.count(), registrar.bindings("alice").len()), (0, 0));
}

#[test]
fn a_device_leaves_by_itself_or_all_leave_together() {
    let mut registrar = Registrar::new();
    registrar.register(
        at(0),
        &request("c1", 1, &[("Contact", "<sip:a@x.invalid>, <sip:b@x.invalid>")]),
        &web(1),
        "alice",
        8,
    );
    registrar.register(at(0), &request("c1", 2, &[("Contact", "<sip:A@x.invalid>;expires=0")]), &web(1), "alice", 8);
    assert_eq!(registrar.bindings("alice").len(), 2, "users are compared with their case");
    registrar.register(at(0), &request("c1", 3, &[("Contact", "<sip:a@X.INVALID>;expires=0")]), &web(1), "alice", 8);
    assert_eq!(registrar.bindings("alice").len(), 1);
    for (contact, expires, code) in [("*", "1", 400), ("*, <sip:a@x>", "0", 400), ("*", "0", 200)] {
        let answer = registrar.register(
            at(0),
            &request("c1", 4, &[("Contact", contact), ("Expires", expires)]),
            &web(1),
            "alice",
            8,
        );
        assert_eq!(answer.code, code, "{contact} {expires}");
    }
    assert_eq!(registrar.count(), 0);
}

#[test]
fn an_old_request_changes_nothing_and_a_question_only_asks() {
    let mut registrar = Registrar::new();
    registrar.register(at(0), &request("c1", 5, &[("Contact", CONTACT)]), &web(1), "alice", 8);
    for cseq in [4, 5] {
        let old = request("c1", cseq, &[("Contact", &CONTACT.replace("expires=300", "expires=0"))]);
        assert_eq!(registrar.register(at(0), &old, &web(1), "alice", 8).code, 500);
    }
    let question = registrar.register(at(10), &request("c9", 1, &[]), &web(3), "alice", 8);
    assert_eq!((question.code, header(&question, "Contact").len()), (200, 1));
    assert!(header(&question, "Contact")[0].contains("expires=290"));
    assert_eq!(registrar.count(), 1);
}

#[test]
fn path_is_kept_and_repeated() {
    let mut registrar = Registrar::new();
    let headers = [
        ("Contact", "<sip:a@x.invalid>"),
        ("Path", "<sip:p1.example;lr;ob>, <sip:p2.example;lr>"),
        ("Supported", "path"),
    ];
    let answer = registrar.register(at(0), &request("c1", 1, &headers), &web(1), "alice", 8);
    assert_eq!(header(&answer, "Path"), ["<sip:p1.example;lr;ob>", "<sip:p2.example;lr>"]);
    assert_eq!(registrar.bindings("alice")[0].path, ["<sip:p1.example;lr;ob>", "<sip:p2.example;lr>"]);
}

#[test]
fn what_is_too_much_or_malformed_is_refused_and_changes_nothing() {
    let mut registrar = Registrar::new();
    let nine = (0..9).map(|n| format!("<sip:a{n}@x.invalid>")).collect::<Vec<_>>().join(", ");
    let long = format!("<sip:{}@x.invalid>", "a".repeat(TEXT_BYTES_MAX));
    for contact in [&nine, &long, "<tel:+44>", "<sip:a@x?Route=b>", "nonsense", "<sip:a@x.invalid>;expires=59"] {
        let code = registrar.register(at(0), &request("c1", 1, &[("Contact", contact)]), &web(1), "alice", 8).code;
        assert!(code == 400 || code == 423, "{contact}: {code}");
    }
    assert_eq!(registrar.count(), 0);
    registrar.register(at(0), &request("c1", 1, &[("Contact", "<sip:a@x.invalid>")]), &web(1), "alice", 1);
    let second = request("c2", 1, &[("Contact", "<sip:b@x.invalid>")]);
    assert_eq!(registrar.register(at(0), &second, &web(2), "alice", 1).code, 403);
    let same = request("c2", 2, &[("Contact", "<sip:a@x.invalid>")]);
    assert_eq!(registrar.register(at(0), &same, &web(2), "alice", 1).code, 200);
}

#[test]
fn ten_thousand_devices_are_kept_refreshed_and_forgotten() {
    let mut registrar = Registrar::new();
    for round in 0..2_u32 {
        for n in 0..10_000_u64 {
            let contact = format!("<sip:d{n}@x.invalid;transport=ws>;expires=300");
            let asked = request(&format!("c{n}"), round + 1, &[("Contact", &contact)]);
            let now = at(u64::from(round) * 200 + n / 100);
            let answer = registrar.register(now, &asked, &web(n), &format!("user{}", n % 5_000), 8);
            assert_eq!(answer.code, 200);
        }
        assert_eq!(registrar.count(), 10_000);
    }
    // Half of them vanish with their connections, the others run out.
    for n in 0..5_000 {
        assert_eq!(registrar.connection_closed(ConnectionId(n)).len(), 1);
    }
    assert_eq!(registrar.count(), 5_000);
    registrar.handle_timeout(at(800));
    assert_eq!((registrar.count(), registrar.deadline()), (0, Instant::NEVER));
    assert!(registrar.connections.is_empty() && registrar.users.is_empty());
}

#[test]
fn a_full_registrar_refuses_with_a_time_to_try_again() {
    let mut registrar = Registrar { count: BINDINGS_MAX, ..Registrar::new() };
    let answer = registrar.register(at(0), &request("c", 1, &[("Contact", CONTACT)]), &web(1), "alice", 8);
    assert_eq!((answer.code, header(&answer, "Retry-After")), (503, vec!["60"]));
}

#[test]
fn a_registration_that_was_overtaken_by_its_own_end_does_not_come_back() {
    for gone in [("*", "0"), (CONTACT, "0")] {
        let mut registrar = Registrar::new();
        let contact = CONTACT.replace(";expires=300", "");
        let wanted = if gone.0 == "*" { "*" } else { &contact };
        let leave = request("c1", 3, &[("Contact", wanted), ("Expires", gone.1)]);
        assert_eq!(registrar.register(at(0), &leave, &web(1), "alice", 8).code, 200);
        // The REGISTER before it, whose challenge took longer.
        let late = request("c1", 2, &[("Contact", CONTACT)]);
        assert_eq!(registrar.register(at(1), &late, &web(1), "alice", 8).code, 500);
        assert_eq!(registrar.count(), 0);
        // The same page signs in once more, another user and another phone are not concerned.
        for (call_id, cseq, user) in [("c1", 4, "alice"), ("c1", 2, "bob"), ("c2", 1, "alice")] {
            let contact = CONTACT.replace("urn:uuid:1", call_id);
            let answer = registrar.register(at(2), &request(call_id, cseq, &[("Contact", &contact)]), &web(1), user, 8);
            assert_eq!(answer.code, 200, "{call_id} {cseq} {user}");
        }
    }
}

#[test]
fn ends_are_remembered_for_a_while_and_up_to_a_limit() {
    let mut registrar = Registrar::new();
    for number in 0..=DEPARTED_MAX {
        let leave = request(&format!("c{number}"), 3, &[("Contact", "*"), ("Expires", "0")]);
        registrar.register(at(0), &leave, &web(1), "alice", 8);
    }
    assert_eq!(registrar.departed.len(), DEPARTED_MAX);
    let late = |registrar: &mut Registrar, seconds, call_id: &str| {
        registrar.register(at(seconds), &request(call_id, 2, &[("Contact", CONTACT)]), &web(1), "alice", 8).code
    };
    assert_eq!((late(&mut registrar, 1, "c1"), late(&mut registrar, 1, "c0")), (500, 200), "the oldest is forgotten");
    assert_eq!(late(&mut registrar, 65, "c1"), 200);
    assert!(registrar.departed.is_empty());
}
