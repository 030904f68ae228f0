//! The edge alone, in virtual time: the engine and the SIP far side are played by the test.

use control::call::edge::{CODECS_DEFAULT, Edge, EdgeAlive, EdgeConfig, EdgeOutput};
use control::call::{EdgeEventKind, EdgeReply, EdgeRequest, NewSession, SessionCreated, limits};
use control::sip::{Credentials, KeptDialog, SipConfig};
use control::store::Change;
use control::trace::timeline::Step;
use engine::bridge::{BridgeCommand, BridgeEvent, BridgeId, LegConfig, LegName, LegRemote};
use engine::dtls::{DtlsRole, DtlsVersion};
use engine::error::{Cause, End, Side};
use engine::ice::IceRole;
use engine::leg::rtp::RtpRemote;
use engine::leg::{LegEvent, LocalLeg};
use engine::random::Random;
use engine::rtp::telephone_event::Digit;
use engine::sdp::{Codec, CryptoLine};
use engine::srtp::SrtpProfile;
use engine::time::Instant;
use engine::worker::{Command, Event, RefuseReason};
use std::collections::BTreeMap;
use std::net::SocketAddr;

const ANSWER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
    m=audio 4000 RTP/AVP 0 96\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:96 telephone-event/8000\r\na=ptime:20\r\n";

#[test]
fn a_lite_offer_is_answered_by_a_controlling_dtls_client_and_held() {
    let mut bench = Bench::new();
    bench.new_session("c", &offer());
    let (bridge, config) = bench.opened_bridge();
    let LegConfig::Webrtc(webrtc) = &config.a else { panic!("{config:?}") };
    assert_eq!((webrtc.ice, webrtc.hold), (IceRole::Controlling, true));
    assert_eq!(webrtc.remote.as_ref().unwrap().dtls, DtlsRole::Client);
    bench.open(bridge);
    let created = bench.created();
    assert!(created.sdp_answer.contains("a=setup:active") && created.sdp_answer.contains("a=mid:audio"));
    let invite = bench.sip_request("INVITE");
    for part in ["X-WA-Call-ID: c\r\n", "X-Twilio-Account: AC1\r\n", "RTP/AVP 0 8 101", "<sip:+447700900123@"] {
        assert!(invite.contains(part), "{part} is not in\n{invite}");
    }
}

#[test]
fn a_full_offer_is_answered_by_a_lite_dtls_server() {
    let mut bench = Bench::new();
    bench.new_session("c", &offer().replace("a=ice-lite\r\n", ""));
    let (bridge, config) = bench.opened_bridge();
    let LegConfig::Webrtc(webrtc) = &config.a else { panic!("{config:?}") };
    assert_eq!((webrtc.ice, webrtc.remote.as_ref().unwrap().dtls), (IceRole::Lite, DtlsRole::Server));
    bench.open(bridge);
    let answer = bench.created().sdp_answer;
    assert!(answer.contains("a=ice-lite") && answer.contains("a=setup:passive"), "{answer}");
}

#[test]
fn an_offer_that_leaves_no_choice_is_obeyed() {
    for (setup, role) in [("passive", DtlsRole::Client), ("active", DtlsRole::Server)] {
        let mut bench = Bench::new();
        bench.new_session("c", &offer().replace("setup:actpass", &format!("setup:{setup}")));
        let (_, config) = bench.opened_bridge();
        let LegConfig::Webrtc(webrtc) = &config.a else { panic!("{config:?}") };
        assert_eq!(webrtc.remote.as_ref().unwrap().dtls, role, "{setup}");
    }
}

#[test]
fn a_number_that_allows_g711_is_passed_through_to_a_bot_where_the_configuration_prefers_it() {
    let offer = offer().replace("UDP/TLS/RTP/SAVPF 111 126", "UDP/TLS/RTP/SAVPF 111 0 126");
    assert!(offer.contains(" 111 0 126"), "{offer}");
    for (codecs, preferred) in [(vec![Codec::Pcmu, Codec::Opus], Codec::Pcmu), (CODECS_DEFAULT.to_vec(), Codec::Opus)] {
        let mut bench = Bench::with(|config| config.codecs = codecs);
        bench.new_session("c", &offer);
        let (bridge, config) = bench.opened_bridge();
        let LegConfig::Webrtc(webrtc) = &config.a else { panic!("{config:?}") };
        assert_eq!(webrtc.remote.as_ref().unwrap().format.codec, preferred);
        bench.open(bridge);
        let line = format!("RTP/SAVPF {} 126", if preferred == Codec::Pcmu { 0 } else { 111 });
        let answer = bench.created().sdp_answer;
        assert!(answer.contains(&line), "{answer}");
        // What passes untouched is offered alone at first.
        let invite = bench.sip_request("INVITE");
        let line = if preferred == Codec::Pcmu { "RTP/AVP 0 101" } else { "RTP/AVP 0 8 101" };
        assert!(invite.contains(line), "{invite}");
    }
}

/// Keys in the descriptions: there is nothing to set up, and the first packet is ours, after the release.
#[test]
fn an_offer_keyed_by_sdes_is_answered_in_kind_held_and_released() {
    for (profile, hold) in [("RTP/SAVP", true), ("UDP/TLS/RTP/SAVPF", true), ("RTP/SAVP", false)] {
        let mut bench = Bench::new();
        let offer = sdes_offer().replace("RTP/SAVP", profile);
        let new =
            NewSession { call_id: "c".into(), sdp_offer: offer.clone(), hold_media: hold, ..NewSession::default() };
        bench.request(EdgeRequest::New(Box::new(new)));
        let (bridge, config) = bench.opened_bridge();
        assert!(matches!(&config.a, LegConfig::Rtp(rtp) if rtp.remote.is_none()), "{config:?}");
        bench.open_rtp(bridge);
        let answer = bench.created().sdp_answer;
        for part in [
            &*format!("m=audio 20000 {profile} 111 126\r\n"),
            "c=IN IP4 127.0.0.1\r\n",
            "a=rtcp-mux\r\n",
            "a=mid:audio\r\n",
        ] {
            assert!(answer.contains(part), "{part} is not in\n{answer}");
        }
        for part in ["a=fingerprint", "a=setup", "a=candidate", "a=ice"] {
            assert!(!answer.contains(part), "{part} is in\n{answer}");
        }
        let ours = answer.lines().find_map(|line| line.strip_prefix("a=crypto:")).unwrap();
        let ours = CryptoLine::parse(ours).unwrap();
        let theirs = offer.lines().find_map(|line| line.strip_prefix("a=crypto:")).unwrap();
        let theirs = CryptoLine::parse(theirs).unwrap();
        assert_eq!((ours.tag, ours.suite, ours.key == theirs.key), (1, SrtpProfile::AesCm128HmacSha1_80, false));

        let to_whatsapp: Vec<&BridgeCommand> =
            bench.commands.iter().filter(|c| !matches!(c, BridgeCommand::Comfort { .. })).collect();
        let (held, described) = match to_whatsapp.as_slice() {
            [BridgeCommand::Hold { leg: LegName::A }, described] => (true, described),
            [described] => (false, described),
            other => panic!("{other:?}"),
        };
        assert_eq!(held, hold, "before it could send");
        let BridgeCommand::SetRemote { leg: LegName::A, remote } = described else { panic!("{described:?}") };
        let LegRemote::Rtp(remote) = &**remote else { panic!("{remote:?}") };
        assert_eq!((remote.address, remote.rtcp_mux), ("203.0.113.130:3480".parse().unwrap(), true));
        let keys = remote.srtp.as_ref().unwrap();
        assert_eq!((keys.local == ours.key, keys.remote == theirs.key), (true, true));
        assert_eq!(bench.events, [EdgeEventKind::MediaReady]);

        bench.token = bench.created().edge_session_id;
        bench.request(EdgeRequest::Release { edge_session_id: bench.token.clone() });
        assert_eq!(bench.commands.contains(&BridgeCommand::Release { leg: LegName::A }), hold);
        bench.request(EdgeRequest::Hangup { edge_session_id: bench.token.clone() });
        bench.close_bridge(bridge);
        let media = bench.steps.iter().position(|step| *step == Step::Media);
        assert!(media < bench.steps.iter().position(|step| *step == Step::End));
    }
}

#[test]
fn an_offer_keyed_by_sdes_is_refused_where_the_configuration_says_so_or_its_keys_cannot_be_used() {
    let mut bench = Bench::with(|config| config.sdes = false);
    bench.new_session("c", &sdes_offer());
    assert_eq!(bench.refusal(), (422, "sdes_forbidden".into()));
    bench.expect_nothing_left();
    for (from, to, code) in [
        ("AES_CM_128_HMAC_SHA1_80 inline", "NULL_CIPHER inline", "no_usable_crypto"),
        ("IN IP4 203.0.113.130", "IN IP4 relay.example", "no_address"),
        ("opus/48000/2", "speex/16000", "no_common_codec"),
    ] {
        let mut bench = Bench::new();
        bench.new_session("c", &sdes_offer().replace(from, to));
        assert_eq!(bench.refusal(), (422, code.into()));
        bench.expect_nothing_left();
    }
}

#[test]
fn an_offer_without_a_configured_codec_is_refused() {
    let mut bench = Bench::with(|config| config.codecs = vec![Codec::Pcma]);
    bench.new_session("c", &offer());
    assert_eq!(bench.refusal(), (422, "no_common_codec".into()));
    bench.expect_nothing_left();
}

#[test]
fn a_whole_call_is_told_step_by_step_and_ends_with_the_far_sides_bye() {
    let mut bench = Bench::new();
    let bridge = bench.up();
    bench.bridge_event(BridgeEvent::Digit { leg: LegName::A, digit: Digit::from_char('5').unwrap(), duration_ms: 100 });
    let release = EdgeRequest::Release { edge_session_id: bench.token.clone() };
    bench.request(release.clone());
    bench.request(release);
    let released = BridgeCommand::Release { leg: LegName::A };
    assert_eq!(bench.commands.iter().filter(|command| **command == released).count(), 1);

    let bye = bench.far_request("BYE", 7, "");
    bench.sip(&bye);
    assert!(bench.commands.contains(&BridgeCommand::Close));
    assert_eq!(bench.ended(), Some(("sip".into(), "bye".into())), "told before anybody can see that media end");
    bench.close_bridge(bridge);
    let ends = bench.events.iter().filter(|event| matches!(event, EdgeEventKind::Ended { .. })).count();
    assert_eq!(ends, 1);
    let expected = [
        Step::Offer,
        Step::Invite,
        Step::Challenge,
        Step::Ringing,
        Step::Answered,
        Step::IcePair,
        Step::Dtls,
        Step::Digit,
        Step::Media,
        Step::End,
    ];
    assert_eq!(bench.steps, expected);
    bench.expect_nothing_left();
}

#[test]
fn the_answers_address_and_payload_types_reach_the_bridge() {
    let mut bench = Bench::new();
    bench.up();
    let remote = bench.remote();
    assert_eq!(remote.address, "127.0.0.1:4000".parse::<SocketAddr>().unwrap());
    assert_eq!(remote.rtcp_address.port(), 4_001);
    assert_eq!((remote.format.send_payload_type, remote.format.receive_payload_type, remote.sending), (0, 0, true));
    let event = remote.format.telephone_event.unwrap();
    assert_eq!((event.send_payload_type, event.receive_payload_type), (96, 101));
}

/// The BYE of the next run goes along the route of the dialog, above all numbers of this one, and answers for itself.
#[test]
fn what_the_store_holds_of_a_call_is_enough_to_end_it_after_a_crash() {
    let mut bench = Bench::new();
    bench.edge.restore(bench.now, BTreeMap::new());
    let bridge = bench.ringing();
    let ringing = serde_json::to_string(&bench.kept).unwrap();
    for secret in ["Authorization", "response=", "v=0", "X-WA-Call-ID"] {
        assert!(!ringing.contains(secret), "{ringing}");
    }
    let headers = "Contact: <sip:bot@10.1.2.3:5070;x=y>\r\nContent-Type: application/sdp\r\n\
        Record-Route: <sip:127.0.0.1:5080;lr;r2=on>, <sip:127.0.0.1:5081;lr>\r\n";
    let invite = bench.invite.clone();
    bench.sip(&with_body(&respond("200 OK", &invite, headers), ANSWER));
    bench.sip_request("ACK");
    assert_eq!(bench.kept.len(), 1);
    // It moves; and what goes on within the call changes nothing.
    let reinvite = bench.far_request("INVITE", 8, ANSWER).replace("bot@127.0.0.1:5080", "bot@10.1.2.4:5070");
    bench.sip(&reinvite);
    bench.sip_response("200", "8 INVITE");

    let written = serde_json::to_string(&bench.kept).unwrap();
    assert!(written.contains("\"username\":\"u\"") && !written.contains("\"p\""), "{written}");
    let mut next = Bench::new();
    next.kept = serde_json::from_str(&written).unwrap();
    next.invite = bench.invite.clone();
    next.edge.restore(next.now, next.kept.clone());
    next.drain();
    let bye = next.sip_request("BYE");
    assert!(bye.starts_with("BYE sip:bot@10.1.2.4:5070 SIP/2.0\r\n"), "{bye}");
    let routes = ["Route: <sip:127.0.0.1:5081;lr>\r\n", "Route: <sip:127.0.0.1:5080;lr;r2=on>\r\n"];
    assert!(bye.find(routes[0]).unwrap() < bye.find(routes[1]).unwrap(), "{bye}");
    assert!(bye.contains("Reason: Q.850;cause=41;text=\"The gateway was restarted\""), "{bye}");
    let of = |message: &str, name: &str| {
        message.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap().to_owned()
    };
    assert_eq!((of(&bye, "Call-ID"), of(&bye, "From")), (of(&invite, "Call-ID"), of(&invite, "From")));
    assert_eq!(of(&bye, "To"), of(&invite, "To") + ";tag=far");
    let number = |message: &str| of(message, "CSeq").split(' ').next().unwrap().parse::<u32>().unwrap();
    assert!(number(&bye) > number(&invite) + 1_000, "{bye}");

    let challenge = "Proxy-Authenticate: Digest realm=\"r\", nonce=\"new\", qop=\"auth\", algorithm=MD5\r\n";
    next.sip(&respond("407 Proxy Authentication Required", &bye, challenge));
    let again = next.sip_request("BYE");
    assert!(again.contains("Proxy-Authorization: Digest username=\"u\"") && number(&again) > number(&bye), "{again}");
    assert_eq!(next.kept.len(), 1, "a crash now would have to say it once more");
    next.sip(&respond("200 OK", &again, ""));
    assert!(next.kept.is_empty());
    next.expect_nothing_left();

    // A call that ends in its own time leaves nothing to be ended.
    let bye = bench.far_request("BYE", 9, "");
    bench.sip(&bye);
    assert!(bench.kept.is_empty());
    bench.close_bridge(bridge);
    bench.expect_nothing_left();
}

#[test]
fn a_re_invite_is_absorbed() {
    let mut bench = Bench::new();
    bench.up();
    let hold = ANSWER.replace("4000", "4100").replace("a=ptime:20", "a=ptime:20\r\na=sendonly");
    let reinvite = bench.far_request("INVITE", 8, &hold);
    bench.sip(&reinvite);
    let response = bench.sip_response("200", "8 INVITE");
    assert!(response.contains("a=recvonly"), "{response}");
    let remote = bench.remote();
    assert_eq!((remote.address.port(), remote.sending), (4_100, false));
    // What cannot be served leaves everything as it is.
    let ack = bench.far_request("ACK", 8, "");
    bench.sip(&ack);
    let before = bench.commands.len();
    let reinvite = bench.far_request("INVITE", 9, &hold.replace("RTP/AVP 0 96", "RTP/AVP 18"));
    bench.sip(&reinvite);
    bench.sip_response("488", "9 INVITE");
    assert_eq!(bench.commands.len(), before);
}

#[test]
fn media_that_dies_ends_the_sip_call_with_a_reason() {
    let mut bench = Bench::new();
    let bridge = bench.up();
    let end = End { side: Side::A, cause: Cause::ConsentLost };
    bench.bridge_event(BridgeEvent::Ended { end, stats: Default::default() });
    let bye = bench.sip_request("BYE");
    assert!(bye.contains("Reason: Q.850;cause=27"), "{bye}");
    assert_eq!(bench.ended(), Some(("whatsapp".into(), "consent_lost".into())));
    let _ = bridge;
    bench.sip(&respond("200 OK", &bye, ""));
    bench.expect_nothing_left();
}

#[test]
fn the_alert_that_ended_dtls_stands_in_the_calls_end() {
    let mut bench = Bench::new();
    bench.up();
    let text = "received fatal alert: handshake_failure".into();
    bench.bridge_event(BridgeEvent::EndDetail { leg: LegName::A, text });
    let end = End { side: Side::A, cause: Cause::DtlsRefused };
    bench.bridge_event(BridgeEvent::Ended { end, stats: Default::default() });
    let said = bench.events.iter().any(|event| {
        matches!(event, EdgeEventKind::Ended { cause, detail, .. } if cause == "dtls_refused" && detail.contains("handshake_failure"))
    });
    assert!(said, "{:?}", bench.events);
}

#[test]
fn a_hangup_takes_everything_down_at_every_stage() {
    // While the engine opens the bridge, nobody knows the session's name: only the end of the program can come.
    let mut bench = Bench::new();
    bench.new_session("c", &offer());
    let (bridge, _) = bench.opened_bridge();
    bench.edge.shut_down(bench.now);
    bench.drain();
    bench.open(bridge);
    bench.close_bridge(bridge);
    bench.expect_nothing_left();
    assert_eq!((bench.refusal(), bench.sip_sent.len()), ((503, "shutdown".into()), 0));

    // While the far side rings.
    let mut bench = Bench::new();
    let bridge = bench.ringing();
    bench.hangup();
    let cancel = bench.sip_request("CANCEL");
    bench.sip(&respond("200 OK", &cancel, ""));
    let invite = bench.invite.clone();
    bench.sip(&respond("487 Request Terminated", &invite, ""));
    bench.close_bridge(bridge);
    assert_eq!(bench.ended(), Some(("tandem".into(), "hangup".into())));
    bench.expect_nothing_left();

    // In the call, twice.
    let mut bench = Bench::new();
    let bridge = bench.up();
    bench.hangup();
    bench.hangup();
    let bye = bench.sip_request("BYE");
    bench.sip(&respond("200 OK", &bye, ""));
    bench.close_bridge(bridge);
    bench.hangup();
    bench.expect_nothing_left();
}

#[test]
fn refusals_of_the_far_side_have_names() {
    for (status, cause) in [("486 Busy Here", "busy"), ("480 Unavailable", "no_answer"), ("503 No", "rejected")] {
        let mut bench = Bench::new();
        let bridge = bench.ringing();
        let invite = bench.invite.clone();
        bench.sip(&respond(status, &invite, ""));
        bench.close_bridge(bridge);
        assert_eq!(bench.ended(), Some(("sip".into(), cause.into())), "{status}");
        bench.expect_nothing_left();
    }
}

#[test]
fn a_refusal_for_a_reserved_header_names_the_header_and_the_remedy() {
    let mut bench = Bench::new();
    let bridge = bench.ringing();
    let invite = bench.invite.clone();
    let error = "X-Twilio-Error: 32113 SIP: Reserved header\r\n";
    bench.sip(&respond("403 Forbidden", &invite, error));
    bench.close_bridge(bridge);
    let detail = bench.events.iter().find_map(|event| match event {
        EdgeEventKind::Ended { detail, .. } => Some(detail.clone()),
        _ => None,
    });
    let detail = detail.expect("the end was told");
    for part in ["403 Forbidden", "32113", "X-Twilio-Account", "SIP_ACCOUNT_HEADER=false"] {
        assert!(detail.contains(part), "{part} is not in {detail}");
    }
}

#[test]
fn a_full_engine_is_a_503_and_nothing_stays() {
    for reason in [RefuseReason::Full, RefuseReason::NoPort, RefuseReason::NoSocket] {
        let mut bench = Bench::new();
        bench.new_session("c", &offer());
        let (bridge, _) = bench.opened_bridge();
        bench.edge.handle_engine(bench.now, 0, Event::Refused { bridge, reason });
        bench.drain();
        assert_eq!(bench.refusal().0, 503);
        bench.expect_nothing_left();
        // Not remembered either: the same call may come again.
        bench.new_session("c", &offer());
        bench.opened_bridge();
    }
}

#[test]
fn a_full_mailbox_refuses_a_bridge_and_only_delays_what_ends_one() {
    let mut bench = Bench::new();
    bench.mailbox_full = true;
    bench.new_session("c", &offer());
    assert_eq!((bench.refusal().0, bench.edge.alive()), (503, EdgeAlive::default()));

    let mut bench = Bench::new();
    let bridge = bench.up();
    bench.mailbox_full = true;
    let before = bench.commands.len();
    bench.request(EdgeRequest::Release { edge_session_id: bench.token.clone() });
    bench.hangup();
    bench.run_ms(limits::MAILBOX_RETRY_MS);
    assert_eq!(bench.commands.len(), before);
    bench.mailbox_full = false;
    bench.run_ms(limits::MAILBOX_RETRY_MS);
    assert_eq!(bench.commands[before..], [BridgeCommand::Release { leg: LegName::A }, BridgeCommand::Close]);
    bench.close_bridge(bridge);
    bench.expect_nothing_left();
}

#[test]
fn silence_of_everybody_ends_the_session_in_bounded_time() {
    // The engine never answers.
    let mut bench = Bench::new();
    bench.new_session("c", &offer());
    bench.run_ms(limits::OPEN_MS_MAX);
    assert_eq!(bench.refusal(), (503, "engine_timeout".into()));
    bench.run_ms(limits::ENDING_MS_MAX);
    assert_eq!((bench.edge.alive().sessions, bench.edge.counters().sessions_abandoned), (0, 1));

    // The far side never answers; the bridge obeys.
    let mut bench = Bench::new();
    bench.new_session("c", &offer());
    let (bridge, _) = bench.opened_bridge();
    bench.open(bridge);
    bench.run_ms(33_000);
    assert!(bench.commands.contains(&BridgeCommand::Close));
    bench.close_bridge(bridge);
    assert_eq!(bench.ended(), Some(("sip".into(), "no_answer".into())));
    bench.expect_nothing_left();

    // Nobody releases.
    let mut bench = Bench::new();
    let bridge = bench.up();
    bench.run_ms(limits::HELD_MS_MAX);
    bench.close_bridge(bridge);
    assert_eq!(bench.ended(), Some(("tandem".into(), "never_released".into())));
}

#[test]
fn ended_sessions_are_remembered_for_a_while_and_no_longer() {
    let mut bench = Bench::new();
    let bridge = bench.up();
    let first = bench.token.clone();
    bench.hangup();
    bench.close_bridge(bridge);
    bench.new_session("c", &offer());
    assert_eq!(bench.created().edge_session_id, first);
    bench.new_session("c", &offer().replace("3480", "3482"));
    assert_eq!(bench.refusal(), (409, "call_id_in_use".into()));
    bench.run_ms(limits::SESSION_RETAINED_MS + 60_000);
    bench.new_session("c", &offer());
    bench.opened_bridge();
}

/// An edge whose engine and far side are played by the test.
struct Bench {
    edge: Edge,
    now: Instant,
    requests: u64,
    replies: Vec<Result<EdgeReply, control::call::EdgeError>>,
    opens: Vec<(BridgeId, engine::bridge::BridgeConfig)>,
    bridge: BridgeId,
    commands: Vec<BridgeCommand>,
    mailbox_full: bool,
    sip_sent: Vec<String>,
    events: Vec<EdgeEventKind>,
    steps: Vec<Step>,
    token: String,
    /// The INVITE that the far side answers.
    invite: String,
    /// What its store holds.
    kept: BTreeMap<String, KeptDialog>,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(|_| {})
    }

    /// With something else in its configuration.
    fn with(change: impl FnOnce(&mut EdgeConfig)) -> Bench {
        let sip = SipConfig {
            accept_incoming: false,
            ..SipConfig::new("127.0.0.1:5060".parse().unwrap(), "tandem", "tandem")
        };
        let mut config = EdgeConfig::new(sip, "127.0.0.1".parse().unwrap(), "sip:bot@127.0.0.1:5080");
        let route = config.default_route.as_mut().unwrap();
        route.headers.push(("X-Twilio-Account".into(), "AC1".into()));
        route.credentials = Some(Credentials { username: "u".into(), password: "p".into() });
        change(&mut config);
        Bench {
            edge: Edge::new(config, 1, Random::from_test_seed(3)),
            now: Instant::from_millis(1),
            requests: 0,
            replies: Vec::new(),
            opens: Vec::new(),
            bridge: BridgeId(0),
            commands: Vec::new(),
            mailbox_full: false,
            sip_sent: Vec::new(),
            events: Vec::new(),
            steps: Vec::new(),
            token: String::new(),
            invite: String::new(),
            kept: BTreeMap::new(),
        }
    }

    fn request(&mut self, what: EdgeRequest) {
        self.requests += 1;
        self.edge.handle_request(self.now, self.requests, what);
        self.drain();
    }

    fn new_session(&mut self, call_id: &str, sdp_offer: &str) {
        self.request(EdgeRequest::New(Box::new(NewSession {
            call_id: call_id.into(),
            sdp_offer: sdp_offer.into(),
            from: Some("447700900123".into()),
            hold_media: true,
            ..NewSession::default()
        })));
    }

    fn hangup(&mut self) {
        self.request(EdgeRequest::Hangup { edge_session_id: self.token.clone() });
        assert_eq!(self.replies.last(), Some(&Ok(EdgeReply::Done)));
    }

    fn opened_bridge(&mut self) -> (BridgeId, engine::bridge::BridgeConfig) {
        let opened = self.opens.pop().expect("no bridge was opened");
        self.bridge = opened.0;
        opened
    }

    fn open(&mut self, bridge: BridgeId) {
        let a = LocalLeg::Webrtc {
            ufrag: "ufraggfu".into(),
            pwd: "p".repeat(24),
            fingerprint: [7; 32],
            ssrc: 1,
            port: 20_000,
        };
        let b = LocalLeg::Rtp { ssrc: 2, port: 20_002 };
        self.edge.handle_engine(self.now, 0, Event::Opened { bridge, a, b });
        self.drain();
    }

    /// The same where both legs are RTP.
    fn open_rtp(&mut self, bridge: BridgeId) {
        let [a, b] = [(1, 20_000), (2, 20_002)].map(|(ssrc, port)| LocalLeg::Rtp { ssrc, port });
        self.edge.handle_engine(self.now, 0, Event::Opened { bridge, a, b });
        self.drain();
    }

    fn bridge_event(&mut self, event: BridgeEvent) {
        self.edge.handle_engine(self.now, 0, Event::Bridge { bridge: self.bridge, event });
        self.drain();
    }

    fn close_bridge(&mut self, bridge: BridgeId) {
        self.bridge = bridge;
        let end = End { side: Side::Engine, cause: Cause::Closed };
        self.bridge_event(BridgeEvent::Ended { end, stats: Default::default() });
    }

    /// A session whose far side rings, after it has demanded digest.
    fn ringing(&mut self) -> BridgeId {
        self.new_session("c", &offer());
        let (bridge, _) = self.opened_bridge();
        self.open(bridge);
        self.token = self.created().edge_session_id;
        let first = self.sip_request("INVITE");
        let challenge = "Proxy-Authenticate: Digest realm=\"r\", nonce=\"n\", qop=\"auth\", algorithm=MD5\r\n";
        self.sip(&respond("407 Proxy Authentication Required", &first, challenge));
        self.sip_request("ACK");
        self.invite = self.sip_request("INVITE");
        assert!(self.invite.contains("Proxy-Authorization: Digest"), "{}", self.invite);
        let invite = self.invite.clone();
        self.sip(&respond("180 Ringing", &invite, ""));
        assert_eq!(self.events, [EdgeEventKind::Ringing { code: 180, early_media: false }]);
        bridge
    }

    /// A session that is up on both sides.
    fn up(&mut self) -> BridgeId {
        let bridge = self.ringing();
        let contact = "Contact: <sip:bot@127.0.0.1:5080>\r\nContent-Type: application/sdp\r\n";
        let invite = self.invite.clone();
        self.sip(&with_body(&respond("200 OK", &invite, contact), ANSWER));
        self.sip_request("ACK");
        let nominated = LegEvent::IceNominated("203.0.113.49:3480".parse().unwrap());
        self.bridge_event(BridgeEvent::Leg { leg: LegName::A, event: nominated });
        let connected = LegEvent::DtlsConnected { version: DtlsVersion::V12, profile: SrtpProfile::AeadAes128Gcm };
        self.bridge_event(BridgeEvent::Leg { leg: LegName::A, event: connected });
        assert_eq!(self.events[1..], [EdgeEventKind::Answered, EdgeEventKind::MediaReady]);
        bridge
    }

    fn sip(&mut self, message: &str) {
        self.edge.handle_sip(self.now, "127.0.0.1:5080".parse().unwrap(), message.as_bytes());
        self.drain();
    }

    /// The oldest request with this method that was sent and not yet looked at.
    fn sip_request(&mut self, method: &str) -> String {
        let found = self.sip_sent.iter().position(|message| message.starts_with(&format!("{method} ")));
        self.sip_sent.remove(found.unwrap_or_else(|| panic!("no {method} in {:?}", self.sip_sent)))
    }

    fn sip_response(&mut self, status: &str, cseq: &str) -> String {
        let found = self.sip_sent.iter().position(|message| {
            message.starts_with(&format!("SIP/2.0 {status}")) && message.contains(&format!("CSeq: {cseq}"))
        });
        self.sip_sent.remove(found.unwrap_or_else(|| panic!("no {status} in {:?}", self.sip_sent)))
    }

    /// A request of the far side within the dialog.
    fn far_request(&self, method: &str, cseq: u32, sdp: &str) -> String {
        let value = |name: &str| {
            let prefix = format!("{name}: ");
            self.invite.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().to_owned()
        };
        let (from, to) = (format!("{};tag=far", value("To")), value("From"));
        let call_id = value("Call-ID");
        let head = format!(
            "{method} sip:tandem@127.0.0.1:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5080;branch=z9hG4bK{method}{cseq}\r\n\
             Max-Forwards: 70\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:bot@127.0.0.1:5080>\r\nContent-Type: application/sdp\r\nContent-Length: 0\r\n\r\n"
        );
        with_body(&head, sdp)
    }

    fn created(&self) -> SessionCreated {
        match self.replies.last() {
            Some(Ok(EdgeReply::Created(created))) => created.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn refusal(&self) -> (u16, String) {
        match self.replies.last() {
            Some(Err(error)) => (error.status, error.code.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn remote(&self) -> RtpRemote {
        let remotes = self.commands.iter().rev().filter_map(|command| match command {
            BridgeCommand::SetRemote { leg: LegName::B, remote } => Some(&**remote),
            _ => None,
        });
        match remotes.into_iter().next() {
            Some(LegRemote::Rtp(remote)) => remote.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// How the session ended; the one and last event.
    fn ended(&self) -> Option<(String, String)> {
        let ends: Vec<_> = self
            .events
            .iter()
            .filter_map(|event| match event {
                EdgeEventKind::Ended { side, cause, .. } => Some((side.clone(), cause.clone())),
                _ => None,
            })
            .collect();
        assert!(ends.len() <= 1, "{ends:?}");
        ends.into_iter().next()
    }

    /// SIP transactions outlive their calls by up to 32 s and then leave nothing behind (RFC 3261 §17).
    fn expect_nothing_left(&mut self) {
        assert_eq!(self.edge.alive().sessions, 0);
        self.run_ms(70_000);
        assert_eq!(self.edge.alive(), EdgeAlive::default());
        assert_eq!(self.edge.counters().sessions_abandoned, 0);
        self.run_ms(limits::SESSION_RETAINED_MS);
        assert_eq!(self.drain(), Instant::NEVER, "a timer is still set");
    }

    fn run_ms(&mut self, millis: u64) {
        let until = self.now.plus_millis(millis);
        for turn in 0.. {
            assert!(turn < 10_000, "deadlines do not advance");
            let due = self.drain();
            if due > until {
                break;
            }
            self.now = self.now.max(due);
            self.edge.handle_timeout(self.now);
        }
        self.now = until;
    }

    fn drain(&mut self) -> Instant {
        loop {
            match self.edge.poll_output(self.now) {
                EdgeOutput::Timeout(due) => return due,
                EdgeOutput::Reply { request, result } => {
                    assert!(request <= self.requests);
                    self.replies.push(result);
                }
                EdgeOutput::Engine { worker, command } if self.mailbox_full => {
                    self.edge.handle_mailbox_full(self.now, worker, command);
                }
                EdgeOutput::Engine { command: Command::Open { bridge, config }, .. } => {
                    self.opens.push((bridge, config))
                }
                EdgeOutput::Engine { command: Command::Bridge { command, .. }, .. } => self.commands.push(command),
                EdgeOutput::Engine { command: Command::Stop, .. } => panic!("the edge stops no worker"),
                EdgeOutput::Sip { bytes, .. } => self.sip_sent.push(String::from_utf8(bytes).unwrap()),
                EdgeOutput::Resolve { .. } => panic!("addresses need no look-up"),
                EdgeOutput::Notify { callback_url, event } => {
                    assert_eq!((callback_url, event.call_id.as_str()), (None, "c"));
                    self.events.push(event.kind);
                }
                EdgeOutput::Timeline(entry) => self.steps.push(entry.step),
                EdgeOutput::Trace(_) => panic!("tracing is off"),
                EdgeOutput::Dial(request) => panic!("{request:?} where no account takes calls out"),
                EdgeOutput::Linked { .. } => {}
                EdgeOutput::Store(Change::Dialog { key, dialog }) => drop(self.kept.insert(key, *dialog)),
                EdgeOutput::Store(Change::DialogOver { key }) => assert!(self.kept.remove(&key).is_some(), "{key}"),
                EdgeOutput::Store(other) => panic!("{other:?} of an edge"),
            }
        }
    }
}

/// A response to `request`: the headers that repeat are the request's (RFC 3261 §8.2.6.2).
fn respond(status: &str, request: &str, headers: &str) -> String {
    let mut response = format!("SIP/2.0 {status}\r\n");
    for line in request.lines().take_while(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap_or_default();
        match name {
            "Via" | "From" | "Call-ID" | "CSeq" => response.push_str(&format!("{line}\r\n")),
            "To" if line.contains(";tag=") => response.push_str(&format!("{line}\r\n")),
            "To" => response.push_str(&format!("{line};tag=far\r\n")),
            _ => {}
        }
    }
    format!("{response}{headers}Content-Length: 0\r\n\r\n")
}

fn with_body(message: &str, body: &str) -> String {
    format!("{}{body}", message.replace("Content-Length: 0", &format!("Content-Length: {}", body.len())))
}

/// The offer of the fixtures.
fn offer() -> String {
    sdp_of(include_bytes!("data/whatsapp/connect-uic.wire.json"))
}

/// That of a number which is set to SDES.
fn sdes_offer() -> String {
    sdp_of(include_bytes!("data/whatsapp/connect-uic-sdes.json"))
}

fn sdp_of(webhook: &[u8]) -> String {
    let connect: serde_json::Value = serde_json::from_slice(webhook).unwrap();
    connect.pointer("/entry/0/changes/0/value/calls/0/session/sdp").unwrap().as_str().unwrap().to_owned()
}
