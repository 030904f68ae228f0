use super::*;
use crate::sip::Credentials;

fn pattern(text: &str) -> Option<Pattern> {
    Some(Pattern::new(text).unwrap().0)
}

fn routes() -> Routes {
    let trunk = |name: &str, text: &str, weight| Trunk {
        pattern: pattern(text),
        weight,
        ..Trunk::new(name, &format!("{name}.example"), Transport::Tls)
    };
    let user = |name: &str, number: &str| {
        (name.to_owned(), User { number: Some(number.to_owned()), ..User::new(name, "secret") })
    };
    Routes {
        trunks: vec![trunk("late", ".", 20), trunk("early", r"^\+44", 10), trunk("french", r"^\+33", 5)],
        users: BTreeMap::from([user("alice", "+441632960001"), user("bob", "+441632960002")]),
        groups: BTreeMap::from([("sales".to_owned(), Group::new("sales", &["alice", "bob"]))]),
        numbering: Numbering { country: Some("44".into()), ..Numbering::default() },
        ..Routes::default()
    }
}

fn ask(routes: &Routes, dialed: &str, source: Source) -> Found {
    let asked = Asked { dialed: dialed.to_owned(), from: "alice".to_owned(), source };
    routes.destinations(Instant::ZERO, &Load::default(), &asked)
}

fn user() -> Source {
    Source::User("alice".to_owned())
}

#[test]
fn a_users_call_goes_out_by_pattern_and_weight() {
    let found = ask(&routes(), "07700 900123", user());
    assert_eq!(found.destinations, [Destination::Trunk(TrunkId(1)), Destination::Trunk(TrunkId(0))]);
    let french = found.considered.iter().find(|c| c.subject == "trunk french").unwrap();
    assert!(!french.taken && french.why.contains(r"^\+33 does not match"), "{french:?}");
}

#[test]
fn people_are_found_by_name_and_by_number_before_any_trunk() {
    let routes = routes();
    for (dialed, to) in [
        ("bob", Destination::User("bob".into())),
        ("BOB", Destination::User("bob".into())),
        ("01632960002", Destination::User("bob".into())),
        ("sales", Destination::Group("sales".into())),
    ] {
        assert_eq!(ask(&routes, dialed, user()).destinations, std::slice::from_ref(&to), "{dialed}");
        assert_eq!(ask(&routes, dialed, Source::Trunk(TrunkId(0))).destinations, [to], "{dialed}");
    }
}

#[test]
fn a_trunks_call_never_leaves_by_another_trunk_unless_a_rule_says_so() {
    let mut routes = routes();
    let found = ask(&routes, "+447700900123", Source::Trunk(TrunkId(0)));
    assert!(found.destinations.is_empty());
    assert!(found.refusal().contains("nobody of that name or number"), "{}", found.refusal());
    routes.rules.push(Rule {
        name: "transit".into(),
        dialed: pattern(r"^\+44"),
        from: None,
        sources: vec![SourceRule::Trunk("late".into())],
        to: vec![Destination::Trunk(TrunkId(1))],
        accept: None,
    });
    let through = |id| ask(&routes, "+447700900123", Source::Trunk(TrunkId(id))).destinations;
    assert_eq!(through(0), [Destination::Trunk(TrunkId(1))]);
    assert!(through(2).is_empty());
}

#[test]
fn a_trunks_own_destination_takes_all_its_calls() {
    let mut routes = routes();
    routes.trunks[0].to = Some(Destination::Group("sales".into()));
    let found = ask(&routes, "+15550100", Source::Trunk(TrunkId(0)));
    assert_eq!(found.destinations, [Destination::Group("sales".into())]);
}

#[test]
fn calls_from_whatsapp_follow_rules_then_people_then_the_default_target() {
    let mut routes = routes();
    routes.default_target = Some("sip:bot@bots.example".into());
    let to = |routes: &Routes, dialed: &str| ask(routes, dialed, Source::Whatsapp).destinations;
    assert_eq!(to(&routes, "15550100"), [Destination::Uri("sip:bot@bots.example".into())]);
    assert_eq!(to(&routes, "441632960001"), [Destination::User("alice".into())]);
    routes.rules.push(Rule {
        name: "agents".into(),
        dialed: None,
        from: None,
        sources: vec![SourceRule::Whatsapp],
        to: vec![Destination::Group("sales".into()), Destination::Uri("sip:bot@bots.example".into())],
        accept: Some(AcceptPolicy::OnProgress),
    });
    let found = ask(&routes, "15550100", Source::Whatsapp);
    assert_eq!(found.destinations.len(), 2);
    assert_eq!(found.accept, Some(AcceptPolicy::OnProgress));
    assert_eq!(ask(&routes, "bob", user()).destinations, [Destination::User("bob".into())]);
}

#[test]
fn a_full_trunk_and_a_user_who_may_not_call_out_are_said_in_words() {
    let mut routes = routes();
    routes.trunks[1].calls_max = 1;
    let mut load = Load::default();
    load.begin(TrunkId(1));
    let asked = Asked { dialed: "+447700900123".into(), from: "alice".into(), source: user() };
    let found = routes.destinations(Instant::ZERO, &load, &asked);
    assert_eq!(found.destinations, [Destination::Trunk(TrunkId(0))]);
    assert!(found.considered.iter().any(|c| c.subject == "trunk early" && c.why.contains("has 1 calls")));
    routes.users.get_mut("alice").unwrap().outbound = false;
    let found = ask(&routes, "+447700900123", user());
    assert!(found.destinations.is_empty() && found.refusal().contains("may not call out"), "{}", found.refusal());
}

#[test]
fn a_number_of_any_length_is_looked_at_in_bounded_time() {
    let found = ask(&routes(), &"1".repeat(100_000), user());
    assert!(found.destinations.is_empty() && found.refusal().contains("longer than"), "{}", found.refusal());
}

#[test]
fn the_sender_of_a_call_is_recognised_or_refused_in_words() {
    let mut routes = routes();
    routes.trunks[0].allowed_sources = vec!["203.0.113.0/24".parse().unwrap()];
    routes.trunks[1].inbound = Some(Credentials { username: "carrier".into(), password: "p".into() });
    let arrival = |transport, source: &str| Arrival {
        transport,
        source: SocketAddr::new(source.parse().unwrap(), 5_061),
        certificate_names: &[],
    };
    assert_eq!(routes.recognise(&arrival(Transport::Tls, "203.0.113.7"), None), Recognised::Trunk(TrunkId(0)));
    let wrong = routes.recognise(&arrival(Transport::Udp, "203.0.113.7"), None);
    assert_eq!(wrong, Recognised::WrongTransport(TrunkId(0)));
    let stranger = arrival(Transport::Tls, "198.51.100.1");
    assert_eq!(routes.recognise(&stranger, None), Recognised::Challenge(vec![TrunkId(1)]));
    assert_eq!(routes.recognise(&stranger, Some("carrier")), Recognised::Challenge(vec![TrunkId(1)]));
    let Recognised::Refused(why) = routes.recognise(&stranger, Some("mallory")) else { panic!("mallory was asked") };
    assert!(
        why.iter().any(|c| c.why.contains("203.0.113.0/24 only"))
            && why.iter().any(|c| c.why.contains("another user name"))
    );
}

#[test]
fn what_was_dialed_is_read_from_the_request_uri() {
    for (uri, expected) in [
        ("sip:+447700900123@gw.example;user=phone", "+447700900123"),
        ("sip:+447700900123;phone-context=x@gw.example", "+447700900123"),
        ("sip:al%69ce:pw@gw.example", "alice"),
        ("sip:%zz%@gw.example", "%zz%"),
        ("sip:%ff@gw.example", "%ff"),
        ("sip:gw.example", "sip:gw.example"),
    ] {
        assert_eq!(dialed(uri), expected, "{uri}");
    }
}

#[test]
fn what_a_number_would_meet_is_explained_in_the_order_of_trial() {
    let routes = routes();
    let asked =
        Asked { dialed: "07700900123".into(), from: String::new(), source: explain::source(&routes, None).unwrap() };
    let text = explain::explain(&routes, &asked);
    let expected = r"07700900123 (+447700900123), called from a user:
  1. trunk early: pattern ^\+44 matches, weight 10, TLS early.example, rtp
     INVITE sip:+447700900123@early.example;transport=tls
  2. trunk late: pattern . matches, weight 20, TLS late.example, rtp
     INVITE sip:+447700900123@late.example;transport=tls
not taken:
  users and groups: have nobody of that name or number
  trunk french: pattern ^\+33 does not match
";
    assert_eq!(text, expected);
    let asked = Asked { source: explain::source(&routes, Some("trunk:late")).unwrap(), ..asked };
    assert!(explain::explain(&routes, &asked).contains("goes nowhere"));
    let asked = Asked { dialed: "sales".into(), source: explain::source(&routes, Some("whatsapp")).unwrap(), ..asked };
    assert!(explain::explain(&routes, &asked).contains("rings alice, bob"));
    for wrong in ["trunk:x", "user:x", "mars"] {
        assert!(explain::source(&routes, Some(wrong)).is_err());
    }
}

#[test]
fn servers_that_several_trunks_share_are_verified_if_one_of_them_wants_that() {
    let tls = |name: &str, host: &str| Trunk::new(name, host, Transport::Tls);
    let files = |name: &str| Some((format!("{name}.pem").into(), format!("{name}.key").into()));
    let routes = Routes {
        trunks: vec![
            Trunk { verify_certificate: false, ..tls("a", "one.example") },
            Trunk { certificate: files("b"), ..tls("b", "ONE.example") },
            Trunk { certificate: files("c"), alpn: true, ..tls("c", "one.example") },
            tls("plain", "two.example"),
            Trunk {
                verify_certificate: false,
                proxy: Some("sip:proxy.example:5061;transport=tls".into()),
                ..tls("p", "two.example")
            },
        ],
        ..Routes::default()
    };
    let server =
        |name: &str, unverified, certificate, alpn| Server { name: name.into(), unverified, certificate, alpn };
    let expected = [server("one.example", false, files("b"), true), server("proxy.example", true, None, false)];
    assert_eq!(routes.servers(), expected);
}
