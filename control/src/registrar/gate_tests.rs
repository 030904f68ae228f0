use super::*;
use crate::registrar::User;
use crate::route::{Transport, Trunk};
use crate::sip::Credentials;
use crate::sip::transport::PeerIdentity;
use std::collections::BTreeMap;
use std::net::SocketAddr;

fn gate() -> Gate {
    let alice = User { number: Some("+441632960001".into()), ..User::new("alice", "secret") };
    let routes = Routes {
        trunks: vec![
            Trunk {
                allowed_sources: vec!["203.0.113.0/24".parse().unwrap()],
                ..Trunk::new("sbc", "sbc.example", Transport::Tls)
            },
            Trunk {
                inbound: Some(Credentials { username: "carrier".into(), password: "p".into() }),
                ..Trunk::new("carrier", "carrier.example", Transport::Udp)
            },
        ],
        users: BTreeMap::from([("alice".to_owned(), alice)]),
        ..Routes::default()
    };
    Gate::new(routes, "voice.example")
}

fn request(method: &str, from: &str) -> Message {
    let mut request = Message::request(method, "sip:+447700900123@voice.example");
    request.push("From", format!("<sip:{from}@voice.example>;tag=1"));
    request.push("To", format!("<sip:{from}@voice.example>"));
    request.push("Call-ID", "c");
    request.push("CSeq", format!("1 {method}"));
    request
}

fn ask(gate: &mut Gate, request: &Message, transport: Transport, source: &str, user: Option<&str>) -> Admission {
    let remote: SocketAddr = format!("{source}:5062").parse().unwrap();
    let hop = Hop::connected(transport, remote, ConnectionId(1));
    gate.admit(Instant::ZERO, &Asking { request, hop: &hop, peer: &PeerIdentity::default(), user })
}

fn refusal(admission: Admission) -> (u16, String) {
    match admission {
        Admission::Refuse(refusal) => (refusal.code, refusal.warning.unwrap_or_default()),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_softphone_is_asked_for_its_password_and_may_show_only_itself() {
    let mut gate = gate();
    for from in ["alice", "+441632960001", "441632960001"] {
        let call = request("INVITE", from);
        let asked = ask(&mut gate, &call, Transport::Wss, "192.0.2.1", None);
        assert_eq!(asked, Admission::Challenge { realm: "voice.example".into(), algorithms: vec![Algorithm::Md5] });
        let admitted = ask(&mut gate, &call, Transport::Wss, "192.0.2.1", Some("alice"));
        assert_eq!(admitted, Admission::Accept(Admitted::User("alice".into())));
    }
    let forged = ask(&mut gate, &request("INVITE", "bob"), Transport::Wss, "192.0.2.1", Some("alice"));
    assert_eq!(refusal(forged).0, 403);
    let trunk = ask(&mut gate, &request("INVITE", "carrier"), Transport::Wss, "192.0.2.1", Some("carrier"));
    assert_eq!(refusal(trunk).0, 403, "a trunk's password opens no softphone");
}

#[test]
fn a_user_registers_its_own_address_only() {
    let mut gate = gate();
    let own = request("REGISTER", "alice");
    for transport in [Transport::Wss, Transport::Tls, Transport::Udp] {
        let asked = ask(&mut gate, &own, transport, "192.0.2.1", None);
        assert_eq!(asked, Admission::Challenge { realm: "voice.example".into(), algorithms: vec![Algorithm::Md5] });
    }
    let admitted = ask(&mut gate, &own, Transport::Wss, "192.0.2.1", Some("alice"));
    assert_eq!(admitted, Admission::Accept(Admitted::User("alice".into())));
    let (code, words) =
        refusal(ask(&mut gate, &request("REGISTER", "bob"), Transport::Wss, "192.0.2.1", Some("alice")));
    assert!(code == 403 && words.contains("another user's"), "{words}");
    let trunk = ask(&mut gate, &request("REGISTER", "carrier"), Transport::Udp, "192.0.2.1", Some("carrier"));
    assert_eq!(refusal(trunk).0, 403, "a trunk's password registers nobody");
    assert!(gate.is_registrar());
    assert!(!Gate::new(Routes::default(), "x").is_registrar());
}

#[test]
fn a_trunk_is_admitted_by_its_address_or_its_password() {
    let mut gate = gate();
    let call = request("INVITE", "+4400");
    let by_address = ask(&mut gate, &call, Transport::Tls, "203.0.113.5", None);
    assert_eq!(by_address, Admission::Accept(Admitted::Trunk("sbc".into())));
    assert!(matches!(ask(&mut gate, &call, Transport::Udp, "192.0.2.1", None), Admission::Challenge { .. }));
    let by_password = ask(&mut gate, &call, Transport::Udp, "192.0.2.1", Some("carrier"));
    assert_eq!(by_password, Admission::Accept(Admitted::Trunk("carrier".into())));
    assert!(matches!(gate.secret("voice.example", "carrier"), Some(Secret::Password(p)) if p == "p"));
    assert!(gate.secret("voice.example", "nobody").is_none() && gate.secret("x", "alice").is_none());
}

#[test]
fn a_trunk_that_knows_no_sha_256_is_asked_for_md5_alone() {
    let mut gate = gate();
    let call = request("INVITE", "+4400");
    for (only_md5, algorithms) in [(false, vec![]), (true, vec![Algorithm::Md5])] {
        gate.routes.trunks.iter_mut().for_each(|trunk| trunk.inbound_md5 = only_md5);
        let asked = ask(&mut gate, &call, Transport::Udp, "192.0.2.1", None);
        assert_eq!(asked, Admission::Challenge { realm: "voice.example".into(), algorithms });
    }
}

#[test]
fn the_wrong_transport_is_told_to_the_peer_and_to_the_log() {
    let mut gate = gate();
    let (code, words) = refusal(ask(&mut gate, &request("INVITE", "x"), Transport::Udp, "203.0.113.5", None));
    assert_eq!((code, words.as_str()), (403, "calls from here must come over TLS"));
    let note = gate.poll_note().unwrap();
    assert_eq!(note, "INVITE over UDP from 203.0.113.5:5062 refused with 403: trunk sbc takes its calls over TLS");
}

#[test]
fn a_stranger_learns_nothing_and_the_log_everything() {
    let mut gate = gate();
    gate.routes.users.clear();
    gate.routes.trunks.truncate(1);
    let (code, words) = refusal(ask(&mut gate, &request("INVITE", "x"), Transport::Tls, "198.51.100.1", None));
    assert!(code == 403 && !words.contains("203.0.113"), "{words}");
    assert!(gate.poll_note().unwrap().contains("trunk sbc takes calls from 203.0.113.0/24 only"));
}

#[test]
fn scanners_fill_no_log() {
    let mut gate = gate();
    gate.routes.users.clear();
    gate.routes.trunks.clear();
    for _ in 0..1_000 {
        refusal(ask(&mut gate, &request("INVITE", "x"), Transport::Udp, "198.51.100.1", None));
    }
    let mut noted = 0;
    while gate.poll_note().is_some() {
        noted += 1;
    }
    assert_eq!(noted, NOTES_PER_MINUTE_MAX);
    let later = Instant::from_millis(61_000);
    let hop = Hop::udp(SocketAddr::from(([198, 51, 100, 1], 5_060)));
    let call = request("INVITE", "x");
    gate.admit(later, &Asking { request: &call, hop: &hop, peer: &PeerIdentity::default(), user: None });
    assert_eq!(gate.poll_note().unwrap(), "970 more requests were refused the minute before");
    assert_eq!(gate.counters().refused, 1_001);
}
