use super::super::pairs::RTO_MS;
use super::super::stun::STUN_BYTES_MAX;
use super::*;
use crate::limits::{CANDIDATE_PAIRS_MAX, CONSENT_MS_MAX};
use crate::sdp::Candidate;

const V4: &str = "203.0.113.49:3480";
const V6: &str = "[2001:db8::49]:3480";
const US: &str = "usus";
const OUR_PWD: &str = "our-password-of-22-chars";
const THEM: &str = "themthem";
const THEIR_PWD: &str = "n4Fq+1zR8w/Kp0aYt3LdXg==";

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn credentials() -> IceCredentials {
    IceCredentials { ufrag: US.to_owned(), pwd: OUR_PWD.to_owned() }
}

/// WhatsApp's shape: the IPv6 candidate has the higher priority.
fn description(lite: bool) -> IceDescription {
    IceDescription {
        ufrag: THEM.to_owned(),
        pwd: THEIR_PWD.to_owned(),
        lite,
        candidates: vec![
            Candidate { address: address(V4), priority: 2_122_260_223 },
            Candidate { address: address(V6), priority: 2_122_262_783 },
        ],
    }
}

fn agent(role: IceRole) -> IceAgent {
    IceAgent::new(at(0), role, credentials(), Random::from_test_seed(7))
}

fn agent_toward(role: IceRole, lite: bool) -> IceAgent {
    let mut agent = agent(role);
    agent.set_remote(at(0), &description(lite));
    agent
}

/// What an agent did until it had nothing more to do.
#[derive(Debug, Default)]
struct Drained {
    sent: Vec<(SocketAddr, Vec<u8>)>,
    events: Vec<IceOutput>,
    timeout: Instant,
}

impl Drained {
    fn message(&self, index: usize) -> Message<'_> {
        Message::parse(&self.sent[index].1).unwrap()
    }

    fn is_quiet(&self) -> bool {
        self.sent.is_empty() && self.events.is_empty()
    }
}

fn drain(agent: &mut IceAgent, now: Instant) -> Drained {
    let mut drained = Drained::default();
    let mut out = [0; STUN_BYTES_MAX];
    for _ in 0..100 {
        match agent.poll_output(now, &mut out) {
            IceOutput::Transmit { to, len } => drained.sent.push((to, out[..len].to_vec())),
            IceOutput::Timeout(timeout) => {
                assert!(timeout > now, "a deadline lies in the past: {timeout:?} at {now:?}");
                drained.timeout = timeout;
                return drained;
            }
            event => drained.events.push(event),
        }
    }
    panic!("the agent does not come to rest");
}

/// Runs the agent alone from one deadline to the next until `end`; returns what it did and when.
fn run(agent: &mut IceAgent, start: Instant, end: Instant) -> Vec<(Instant, Drained)> {
    let (mut now, mut all) = (start, Vec::new());
    while now <= end {
        agent.handle_timeout(now);
        let drained = drain(agent, now);
        let next = drained.timeout;
        all.push((now, drained));
        now = next;
    }
    all
}

/// A check from the peer, as `write` fills it in.
fn request(username: &str, pwd: &str, write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut out = [0; STUN_BYTES_MAX];
    let mut writer = Writer::new(&mut out, Class::Request, &[9; 12]);
    writer.username(username.as_bytes());
    writer.priority(PEER_REFLEXIVE_PRIORITY);
    write(&mut writer);
    writer.integrity(&IntegrityKey::new(pwd));
    let len = writer.finish();
    out[..len].to_vec()
}

fn browser_check(use_candidate: bool) -> Vec<u8> {
    request("usus:themthem", OUR_PWD, |writer| {
        writer.role(RoleAttribute::Controlling(1));
        if use_candidate {
            writer.use_candidate();
        }
    })
}

fn answer(check: &[u8], pwd: &str, class: Class, write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let id = Message::parse(check).unwrap().id;
    let mut out = [0; STUN_BYTES_MAX];
    let mut writer = Writer::new(&mut out, class, &id);
    write(&mut writer);
    writer.integrity(&IntegrityKey::new(pwd));
    let len = writer.finish();
    out[..len].to_vec()
}

fn success(check: &[u8]) -> Vec<u8> {
    answer(check, THEIR_PWD, Class::Success, |writer| {
        writer.xor_mapped_address(address("192.0.2.10:40000"), &Message::parse(check).unwrap().id);
    })
}

fn role_conflict(check: &[u8]) -> Vec<u8> {
    answer(check, THEIR_PWD, Class::Error, |writer| writer.error_code(487))
}

/// A controlling agent that nominated the IPv6 pair of a lite peer at 40 ms.
fn nominated_agent() -> IceAgent {
    let mut agent = agent_toward(IceRole::Controlling, true);
    let first = drain(&mut agent, at(0));
    agent.handle_datagram(at(30), address(V6), &success(&first.sent[0].1)).unwrap();
    let nomination = drain(&mut agent, at(30));
    agent.handle_datagram(at(40), address(V6), &success(&nomination.sent[0].1)).unwrap();
    assert_eq!(drain(&mut agent, at(40)).events, [IceOutput::Nominated(address(V6))]);
    agent
}

// ---- lite

#[test]
fn lite_agent_answers_by_its_own_password_before_the_description_is_known() {
    let mut agent = agent(IceRole::Lite);
    agent.handle_datagram(at(5), address(V4), &browser_check(true)).unwrap();
    let drained = drain(&mut agent, at(5));
    assert_eq!(drained.sent[0].0, address(V4));
    let reply = drained.message(0);
    assert_eq!((reply.class, reply.id, reply.mapped), (Class::Success, [9; 12], Some(address(V4))));
    assert!(reply.verify(&IntegrityKey::new(OUR_PWD)));
    assert!(agent.is_known_source(address(V4)));
    // The nomination is kept until there is somebody to speak DTLS with.
    assert!(drained.events.is_empty());
    assert_eq!((agent.nominated(), drained.timeout), (None, Instant::NEVER));
    agent.set_remote(at(900), &description(false));
    assert_eq!(drain(&mut agent, at(900)).events, [IceOutput::Nominated(address(V4))]);
    assert_eq!(agent.nominated(), Some(address(V4)));
}

#[test]
fn lite_agent_follows_every_move_of_the_browser_and_never_sends_a_check() {
    let mut agent = agent_toward(IceRole::Lite, false);
    for (millis, from) in [(10, V4), (20, V6), (30, V4)] {
        agent.handle_datagram(at(millis), address(from), &browser_check(true)).unwrap();
        let drained = drain(&mut agent, at(millis));
        assert_eq!(drained.events, [IceOutput::Nominated(address(from))]);
        assert_eq!(drained.message(0).class, Class::Success);
        agent.handle_datagram(at(millis + 1), address(from), &browser_check(true)).unwrap();
        assert!(drain(&mut agent, at(millis + 1)).events.is_empty(), "the same pair is nominated once");
    }
    assert_eq!(agent.last_heard(), Some(at(31)));
    assert!(run(&mut agent, at(32), at(600_000)).iter().all(|(_, drained)| drained.is_quiet()));
}

#[test]
fn lite_agent_tells_a_controlled_peer_to_control() {
    let mut agent = agent_toward(IceRole::Lite, false);
    let check = request("usus:x", OUR_PWD, |writer| writer.role(RoleAttribute::Controlled(u64::MAX)));
    agent.handle_datagram(at(1), address(V4), &check).unwrap();
    let drained = drain(&mut agent, at(1));
    assert_eq!(drained.message(0).error, Some(487));
    assert!(drained.message(0).verify(&IntegrityKey::new(OUR_PWD)));
    assert_eq!(agent.role(), IceRole::Lite);
}

#[test]
fn lite_agent_fails_twenty_seconds_after_a_first_check_that_leads_nowhere() {
    let mut agent = agent_toward(IceRole::Lite, false);
    assert_eq!(drain(&mut agent, at(0)).timeout, at(MEDIA_MS_MAX));
    agent.handle_datagram(at(25_000), address(V4), &browser_check(false)).unwrap();
    assert_eq!(drain(&mut agent, at(25_000)).timeout, at(25_000 + ICE_MS_MAX));
    let end = run(&mut agent, at(25_001), at(100_000));
    assert_eq!(end.last().unwrap().1.events, [IceOutput::Failed]);
    assert_eq!(end.last().unwrap().0, at(25_000 + ICE_MS_MAX));
}

#[test]
fn ipv4_mapped_source_is_the_ipv4_source() {
    let mut agent = agent_toward(IceRole::Lite, false);
    agent.handle_datagram(at(1), address("[::ffff:203.0.113.49]:3480"), &browser_check(true)).unwrap();
    let drained = drain(&mut agent, at(1));
    assert_eq!(drained.sent[0].0, address(V4));
    assert_eq!(drained.message(0).mapped, Some(address(V4)));
    assert_eq!(agent.nominated(), Some(address(V4)));
    assert!(agent.is_known_source(address(V4)) && agent.is_known_source(address("[::ffff:203.0.113.49]:3480")));
}

#[test]
fn full_table_refuses_a_new_source_until_an_old_one_is_silent() {
    let mut agent = agent_toward(IceRole::Lite, false);
    let source = |port: u16| SocketAddr::new(address(V4).ip(), port);
    for port in 1..=CANDIDATE_PAIRS_MAX as u16 {
        agent.handle_datagram(at(1_000 + u64::from(port)), source(port), &browser_check(port == 1)).unwrap();
        drain(&mut agent, at(1_000 + u64::from(port)));
    }
    let newcomer = source(999);
    assert_eq!(agent.handle_datagram(at(2_000), newcomer, &browser_check(true)), Err(DropReason::StunUnknown));
    assert!(drain(&mut agent, at(2_000)).is_quiet());
    assert!(!agent.is_known_source(newcomer));
    let later = at(1_100 + CONSENT_MS_MAX);
    agent.handle_datagram(later, newcomer, &browser_check(true)).unwrap();
    assert_eq!(drain(&mut agent, later).events, [IceOutput::Nominated(newcomer)]);
    assert!(!agent.is_known_source(source(2)) && agent.is_known_source(source(1)));
}

// ---- noise

#[test]
fn noise_changes_nothing_and_gets_at_most_the_error_of_the_rfc() {
    let forged = browser_check(true);
    let mut wrong_key = request("usus:themthem", "another password of 22", |writer| writer.use_candidate());
    let mut bare = [0; STUN_BYTES_MAX];
    let len = Writer::new(&mut bare, Class::Request, &[9; 12]).finish();
    let mut no_username = [0; STUN_BYTES_MAX];
    let mut writer = Writer::new(&mut no_username, Class::Request, &[9; 12]);
    writer.integrity(&IntegrityKey::new(OUR_PWD));
    let no_username_len = writer.finish();
    let cases: [(&str, Vec<u8>, DropReason, Option<u16>); 9] = [
        ("truncated", forged[..forged.len() - 4].to_vec(), DropReason::StunMalformed, None),
        ("no fingerprint", without_fingerprint(&forged), DropReason::StunAuthFailed, None),
        ("wrong key", std::mem::take(&mut wrong_key), DropReason::StunAuthFailed, Some(401)),
        ("wrong ufrag", request("else:them", OUR_PWD, |_| {}), DropReason::StunUnknown, Some(401)),
        ("longer ufrag", request("ususu:them", OUR_PWD, |_| {}), DropReason::StunUnknown, Some(401)),
        ("no colon", request("usus", OUR_PWD, |_| {}), DropReason::StunUnknown, Some(401)),
        ("no credentials", bare[..len].to_vec(), DropReason::StunAuthFailed, Some(400)),
        ("no username", no_username[..no_username_len].to_vec(), DropReason::StunAuthFailed, Some(400)),
        ("answer to nothing", success(&forged), DropReason::StunUnknown, None),
    ];
    for role in [IceRole::Lite, IceRole::Controlling, IceRole::Controlled] {
        let mut agent = agent_toward(role, false);
        drain(&mut agent, at(0));
        drain(&mut agent, at(20));
        let before = drain(&mut agent, at(21)).timeout;
        for (name, datagram, reason, code) in &cases {
            assert_eq!(agent.handle_datagram(at(21), address(V4), datagram), Err(*reason), "{name}");
            let drained = drain(&mut agent, at(21));
            assert_eq!(drained.sent.len(), usize::from(code.is_some()), "{name}");
            if code.is_some() {
                assert_eq!((drained.message(0).error, drained.message(0).has_integrity()), (*code, false), "{name}");
                assert!(drained.sent[0].1.len() <= 36, "{name}: a stranger gets no amplifier");
            }
            assert!(drained.events.is_empty(), "{name}");
            assert_eq!(drained.timeout, before, "{name}");
        }
        assert_eq!((agent.role(), agent.nominated(), agent.last_heard()), (role, None, None));
        assert!(!agent.is_known_source(address(V4)));
    }
}

fn without_fingerprint(message: &[u8]) -> Vec<u8> {
    let mut bare = message[..message.len() - 8].to_vec();
    let length = (bare.len() - 20) as u16;
    bare[2..4].copy_from_slice(&length.to_be_bytes());
    bare
}

#[test]
fn unknown_required_attribute_is_answered_420_and_does_not_nominate() {
    let mut agent = agent_toward(IceRole::Lite, false);
    // UNKNOWN-ATTRIBUTES itself is known; an attribute of type 0x7F01 is not.
    let mut out = [0; STUN_BYTES_MAX];
    let mut writer = Writer::new(&mut out, Class::Request, &[9; 12]);
    writer.username(b"usus:themthem");
    writer.use_candidate();
    writer.raw(0x7F01, &[1, 2, 3]);
    writer.integrity(&IntegrityKey::new(OUR_PWD));
    let len = writer.finish();
    agent.handle_datagram(at(1), address(V4), &out[..len]).unwrap();
    let drained = drain(&mut agent, at(1));
    assert_eq!(drained.message(0).error, Some(420));
    assert!(drained.message(0).verify(&IntegrityKey::new(OUR_PWD)));
    assert!(drained.sent[0].1.windows(6).any(|bytes| bytes == [0, 0x0A, 0, 2, 0x7F, 0x01]));
    assert!(drained.events.is_empty());
    assert_eq!(agent.last_heard(), Some(at(1)));
}

#[test]
fn answers_that_nobody_drains_are_bounded() {
    let mut agent = agent_toward(IceRole::Lite, false);
    for _ in 0..1_000 {
        agent.handle_datagram(at(1), address(V4), &browser_check(false)).unwrap();
    }
    assert_eq!(drain(&mut agent, at(1)).sent.len(), REPLIES_MAX);
}

// ---- controlling

#[test]
fn first_check_goes_out_at_once_to_the_best_candidate_and_the_next_is_paced() {
    let mut agent = agent_toward(IceRole::Controlling, true);
    let first = drain(&mut agent, at(0));
    assert_eq!((first.sent.len(), first.sent[0].0, first.timeout), (1, address(V6), at(PACE_MS)));
    let check = first.message(0);
    assert_eq!(check.class, Class::Request);
    assert_eq!(check.username, Some(&b"themthem:usus"[..]));
    assert_eq!(check.priority, Some(PEER_REFLEXIVE_PRIORITY));
    assert!(matches!(check.role, Some(RoleAttribute::Controlling(_))) && !check.use_candidate);
    assert!(check.verify(&IntegrityKey::new(THEIR_PWD)));
    let second = drain(&mut agent, at(PACE_MS));
    assert_eq!(second.sent[0].0, address(V4));
    let again = drain(&mut agent, at(RTO_MS));
    assert_eq!(again.sent[0], first.sent[0], "the same bytes under the same transaction id");
}

#[test]
fn best_pair_is_nominated_once_and_never_left() {
    let mut agent = agent_toward(IceRole::Controlling, true);
    let v6 = drain(&mut agent, at(0));
    let v4 = drain(&mut agent, at(20));
    agent.handle_datagram(at(30), address(V6), &success(&v6.sent[0].1)).unwrap();
    let nomination = drain(&mut agent, at(40));
    assert_eq!((nomination.sent.len(), nomination.sent[0].0), (1, address(V6)));
    assert!(nomination.message(0).use_candidate);
    assert_ne!(nomination.message(0).id, v6.message(0).id);
    assert_eq!(agent.round_trip_ms(), Some(30));
    // The other pair answers while the nomination is on its way.
    agent.handle_datagram(at(41), address(V4), &success(&v4.sent[0].1)).unwrap();
    assert!(drain(&mut agent, at(41)).is_quiet());
    let again = drain(&mut agent, at(40 + RTO_MS));
    assert_eq!(again.sent, nomination.sent);
    agent.handle_datagram(at(250), address(V6), &success(&nomination.sent[0].1)).unwrap();
    assert_eq!(drain(&mut agent, at(250)).events, [IceOutput::Nominated(address(V6))]);
    assert_eq!(agent.nominated(), Some(address(V6)));
    let rest = run(&mut agent, at(251), at(CONSENT_MS_MAX));
    assert!(rest.iter().flat_map(|(_, drained)| &drained.sent).all(|(to, _)| *to == address(V6)));
    assert!(rest.iter().all(|(_, drained)| drained.events.is_empty()));
}

#[test]
fn dead_ipv6_delays_ipv4_by_no_more_than_the_wait() {
    let mut agent = agent_toward(IceRole::Controlling, true);
    drain(&mut agent, at(0));
    let v4 = drain(&mut agent, at(20));
    agent.handle_datagram(at(50), address(V4), &success(&v4.sent[0].1)).unwrap();
    let waiting = run(&mut agent, at(50), at(50 + NOMINATION_WAIT_MS - 1));
    // The better pair gets its chance at once, and nothing carries USE-CANDIDATE yet.
    assert_eq!(waiting.iter().flat_map(|(_, drained)| &drained.sent).map(|(to, _)| *to).next(), Some(address(V6)));
    for (_, drained) in &waiting {
        assert!((0..drained.sent.len()).all(|index| !drained.message(index).use_candidate));
    }
    let nomination = drain(&mut agent, at(50 + NOMINATION_WAIT_MS));
    assert_eq!(nomination.sent[0].0, address(V4));
    assert!(nomination.message(0).use_candidate);
}

#[test]
fn better_pair_that_answers_within_the_wait_is_preferred() {
    let mut agent = agent_toward(IceRole::Controlling, true);
    let v6 = drain(&mut agent, at(0));
    let v4 = drain(&mut agent, at(20));
    agent.handle_datagram(at(50), address(V4), &success(&v4.sent[0].1)).unwrap();
    drain(&mut agent, at(50));
    agent.handle_datagram(at(90), address(V6), &success(&v6.sent[0].1)).unwrap();
    let nomination = drain(&mut agent, at(90));
    assert_eq!(nomination.sent[0].0, address(V6));
    assert!(nomination.message(0).use_candidate);
}

#[test]
fn checks_go_on_until_the_answerer_knows_us_and_stop_at_the_limit() {
    let mut agent = agent_toward(IceRole::Controlling, true);
    let all = run(&mut agent, at(0), at(60_000));
    let (end, last) = all.last().unwrap();
    assert_eq!((*end, &last.events[..]), (at(ICE_MS_MAX), &[IceOutput::Failed][..]));
    assert_eq!(last.timeout, Instant::NEVER);
    let mut times: Vec<u64> = Vec::new();
    let mut ids: Vec<(TransactionId, u32)> = Vec::new();
    for (now, drained) in &all {
        for (index, (to, _)) in drained.sent.iter().enumerate() {
            if *to == address(V6) {
                times.push(now.as_millis());
                let id = drained.message(index).id;
                match ids.last_mut() {
                    Some((known, count)) if *known == id => *count += 1,
                    _ => ids.push((id, 1)),
                }
            }
        }
    }
    assert_eq!(times[..5], [0, 200, 600, 1_100, 1_600]);
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= 540), "a peer that learns of us late is found soon");
    assert!(times.last().unwrap() + 540 >= ICE_MS_MAX);
    assert!(ids.iter().all(|(_, count)| *count <= CHECK_SENDS_MAX) && ids.len() > 3);
    assert_eq!(agent.handle_datagram(at(60_001), address(V6), &browser_check(false)), Err(DropReason::StunUnknown));
}

#[test]
fn unanswered_nomination_is_bounded_and_the_pair_must_prove_itself_again() {
    let mut agent = agent_toward(IceRole::Controlling, true);
    let first = drain(&mut agent, at(0));
    agent.handle_datagram(at(20), address(V6), &success(&first.sent[0].1)).unwrap();
    let all = run(&mut agent, at(20), at(ICE_MS_MAX));
    let nominations: Vec<_> = all
        .iter()
        .flat_map(|(_, drained)| (0..drained.sent.len()).map(|index| drained.message(index).use_candidate))
        .collect();
    let count = nominations.iter().filter(|is_nomination| **is_nomination).count();
    assert_eq!(count, (CHECK_SENDS_MAX * NOMINATION_TRANSACTIONS_MAX) as usize);
    // Meanwhile the other pair rests; afterwards both are asked without USE-CANDIDATE.
    assert!(nominations[..count].iter().all(|is_nomination| *is_nomination));
    assert!(nominations[count..].iter().all(|is_nomination| !*is_nomination) && nominations.len() > count + 10);
    assert_eq!(all.last().unwrap().1.events, [IceOutput::Failed]);
}

#[test]
fn answer_from_another_address_or_under_another_key_makes_no_pair_valid() {
    let mut agent = agent_toward(IceRole::Controlling, true);
    let check = drain(&mut agent, at(0)).sent.remove(0).1;
    let stranger = address("198.51.100.1:3480");
    assert_eq!(agent.handle_datagram(at(10), stranger, &success(&check)), Err(DropReason::StunUnknown));
    assert_eq!(agent.handle_datagram(at(10), address(V4), &success(&check)), Err(DropReason::StunUnknown));
    let forged = answer(&check, OUR_PWD, Class::Success, |_| {});
    assert_eq!(agent.handle_datagram(at(10), address(V6), &forged), Err(DropReason::StunAuthFailed));
    let refused = answer(&check, OUR_PWD, Class::Error, |writer| writer.error_code(401));
    assert_eq!(agent.handle_datagram(at(10), address(V6), &refused), Err(DropReason::StunAuthFailed));
    assert_eq!(agent.last_heard(), None);
    agent.handle_datagram(at(11), address(V6), &success(&check)).unwrap();
    assert_eq!(agent.handle_datagram(at(12), address(V6), &success(&check)), Err(DropReason::StunUnknown));
}

#[test]
fn success_with_an_unknown_required_attribute_is_discarded() {
    let mut agent = agent_toward(IceRole::Controlling, true);
    let check = drain(&mut agent, at(0)).sent.remove(0).1;
    let strange = answer(&check, THEIR_PWD, Class::Success, |writer| writer.raw(0x7F01, &[]));
    assert_eq!(agent.handle_datagram(at(10), address(V6), &strange), Err(DropReason::StunUnknown));
    agent.handle_datagram(at(11), address(V6), &success(&check)).unwrap();
}

#[test]
fn lite_peer_cannot_turn_the_role() {
    let mut agent = agent_toward(IceRole::Controlling, true);
    let check = drain(&mut agent, at(0)).sent.remove(0).1;
    agent.handle_datagram(at(10), address(V6), &role_conflict(&check)).unwrap();
    assert_eq!(agent.role(), IceRole::Controlling);
    let claim = request("usus:x", OUR_PWD, |writer| writer.role(RoleAttribute::Controlling(u64::MAX)));
    agent.handle_datagram(at(11), address(V6), &claim).unwrap();
    assert_eq!(drain(&mut agent, at(11)).message(0).error, Some(487));
    assert_eq!(agent.role(), IceRole::Controlling);
    // The refused check is asked again under another id.
    let again = run(&mut agent, at(12), at(300));
    let retry = again.iter().flat_map(|(_, drained)| &drained.sent).find(|(to, _)| *to == address(V6)).unwrap();
    assert_ne!(Message::parse(&retry.1).unwrap().id, Message::parse(&check).unwrap().id);
}

#[test]
fn full_agent_controls_a_lite_peer_even_if_it_was_made_controlled() {
    assert_eq!(agent_toward(IceRole::Controlled, true).role(), IceRole::Controlling);
    assert_eq!(agent_toward(IceRole::Controlled, false).role(), IceRole::Controlled);
}

#[test]
fn ufrag_too_long_to_be_written_ends_in_failure_not_in_a_panic() {
    let mut agent = agent(IceRole::Controlling);
    agent.set_remote(at(0), &IceDescription { ufrag: "u".repeat(600), ..description(true) });
    let all = run(&mut agent, at(0), at(60_000));
    assert!(all.iter().all(|(_, drained)| drained.sent.is_empty()));
    assert_eq!(all.last().unwrap().1.events, [IceOutput::Failed]);
}

#[test]
fn unusable_and_surplus_candidates_are_left_out() {
    let mut agent = agent(IceRole::Controlling);
    let mut remote = description(true);
    remote.candidates.push(Candidate { address: address("192.0.2.1:0"), priority: 1 });
    remote.candidates.push(Candidate { address: address("0.0.0.0:5"), priority: 1 });
    remote
        .candidates
        .extend((1..100).map(|port| Candidate { address: SocketAddr::new(address(V4).ip(), port), priority: 1 }));
    agent.set_remote(at(0), &remote);
    assert_eq!(agent.pairs.as_slice().len(), REMOTE_CANDIDATES_MAX - 2);
}

// ---- roles between full agents

#[test]
fn larger_tie_breaker_keeps_its_role_and_the_smaller_one_turns() {
    for (role, attribute, other) in [
        (IceRole::Controlling, RoleAttribute::Controlling as fn(u64) -> RoleAttribute, IceRole::Controlled),
        (IceRole::Controlled, RoleAttribute::Controlled, IceRole::Controlling),
    ] {
        // A controlling agent with the larger tie-breaker stays; a controlled one with the larger takes control.
        let wins = |agent: &IceAgent| agent.tie_breaker.wrapping_sub(1);
        let mut agent = agent_toward(role, false);
        let check = request("usus:x", OUR_PWD, |writer| writer.role(attribute(wins(&agent))));
        agent.handle_datagram(at(1), address(V4), &check).unwrap();
        let reply = drain(&mut agent, at(1));
        let (expected, error) = if role == IceRole::Controlling { (role, Some(487)) } else { (other, None) };
        assert_eq!((agent.role(), reply.message(0).error), (expected, error));

        let mut agent = agent_toward(role, false);
        let check = request("usus:x", OUR_PWD, |writer| writer.role(attribute(u64::MAX)));
        agent.handle_datagram(at(1), address(V4), &check).unwrap();
        let reply = drain(&mut agent, at(1));
        let (expected, error) = if role == IceRole::Controlling { (other, None) } else { (role, Some(487)) };
        assert_eq!((agent.role(), reply.message(0).error), (expected, error));
    }
}

#[test]
fn role_conflict_turns_the_role_once_per_check_and_draws_a_new_tie_breaker() {
    let mut agent = agent_toward(IceRole::Controlling, false);
    let v6 = drain(&mut agent, at(0)).sent.remove(0).1;
    let v4 = drain(&mut agent, at(20)).sent.remove(0).1;
    let tie_breaker = agent.tie_breaker;
    agent.handle_datagram(at(30), address(V6), &role_conflict(&v6)).unwrap();
    assert_eq!(agent.role(), IceRole::Controlled);
    assert_ne!(agent.tie_breaker, tie_breaker);
    let retry = drain(&mut agent, at(40));
    assert_eq!(retry.sent[0].0, address(V6));
    assert!(matches!(retry.message(0).role, Some(RoleAttribute::Controlled(_))));
    // The other check was sent in the old role: its conflict is settled already.
    agent.handle_datagram(at(41), address(V4), &role_conflict(&v4)).unwrap();
    assert_eq!(agent.role(), IceRole::Controlled);
}

#[test]
fn controlled_agent_checks_back_before_it_follows_a_nomination() {
    let mut agent = agent_toward(IceRole::Controlled, false);
    drain(&mut agent, at(0));
    let from = address("198.51.100.9:4000"); // peer-reflexive
    agent.handle_datagram(at(20), from, &browser_check(true)).unwrap();
    let drained = drain(&mut agent, at(20));
    assert_eq!(drained.message(0).class, Class::Success);
    assert_eq!(drained.sent[1].0, from, "the triggered check goes before the ordinary one");
    assert!(drained.events.is_empty() && agent.nominated().is_none());
    agent.handle_datagram(at(30), from, &success(&drained.sent[1].1)).unwrap();
    assert_eq!(drain(&mut agent, at(30)).events, [IceOutput::Nominated(from)]);
}

#[test]
fn controlled_agent_takes_the_best_of_many_nominations_at_first_and_any_move_later() {
    let mut agent = agent_toward(IceRole::Controlled, false);
    let v6 = drain(&mut agent, at(0)).sent.remove(0).1;
    let v4 = drain(&mut agent, at(20)).sent.remove(0).1;
    agent.handle_datagram(at(30), address(V4), &success(&v4)).unwrap();
    agent.handle_datagram(at(30), address(V6), &success(&v6)).unwrap();
    let mut nominate = |millis: u64, from: &str| {
        agent.handle_datagram(at(millis), address(from), &browser_check(true)).unwrap();
        drain(&mut agent, at(millis)).events
    };
    assert_eq!(nominate(31, V4), [IceOutput::Nominated(address(V4))]);
    assert_eq!(nominate(32, V6), [IceOutput::Nominated(address(V6))]);
    assert_eq!(nominate(33, V4), []);
    assert_eq!(nominate(31 + NOMINATIONS_SETTLE_MS, V4), [IceOutput::Nominated(address(V4))]);
}

// ---- consent

#[test]
fn consent_is_asked_every_four_to_six_seconds_and_lost_thirty_seconds_after_the_last_answer() {
    let mut agent = nominated_agent();
    let all = run(&mut agent, at(41), at(60_000));
    let times: Vec<u64> = all.iter().flat_map(|(now, drained)| drained.sent.iter().map(|_| now.as_millis())).collect();
    assert!((5..=7).contains(&times.len()), "{times:?}");
    assert!(times.windows(2).all(|pair| (4_000..=6_000).contains(&(pair[1] - pair[0]))), "{times:?}");
    for (_, drained) in &all {
        for index in 0..drained.sent.len() {
            assert!(!drained.message(index).use_candidate && drained.sent[index].0 == address(V6));
        }
    }
    let (end, last) = all.last().unwrap();
    assert_eq!((*end, &last.events[..]), (at(40 + CONSENT_MS_MAX), &[IceOutput::ConsentLost][..]));
    assert_eq!(last.timeout, Instant::NEVER);
}

#[test]
fn only_authenticated_answers_from_the_nominated_address_renew_consent() {
    let mut agent = nominated_agent();
    let due = drain(&mut agent, at(41)).timeout;
    let check = drain(&mut agent, due).sent.remove(0).1;
    let later = due.plus_millis(10);
    assert_eq!(agent.handle_datagram(later, address(V4), &success(&check)), Err(DropReason::StunUnknown));
    let forged = answer(&check, OUR_PWD, Class::Success, |_| {});
    assert_eq!(agent.handle_datagram(later, address(V6), &forged), Err(DropReason::StunAuthFailed));
    assert_eq!(agent.last_heard(), Some(at(40)));
    agent.handle_datagram(later, address(V6), &role_conflict(&check)).unwrap(); // heard, but no consent
    assert_eq!(agent.last_heard(), Some(later));
    agent.handle_datagram(later.plus_millis(1), address(V6), &success(&check)).unwrap();
    assert_eq!(agent.round_trip_ms(), Some(11));
    let all = run(&mut agent, later.plus_millis(2), at(80_000));
    assert_eq!(all.last().unwrap().0, later.plus_millis(1 + CONSENT_MS_MAX));
}

#[test]
fn answered_consent_lasts_for_an_hour_and_the_pair_stays() {
    let mut agent = nominated_agent();
    let (mut now, mut checks) = (at(41), 0);
    while now < at(3_600_000) {
        let drained = drain(&mut agent, now);
        assert!(drained.events.is_empty());
        for (to, check) in &drained.sent {
            assert_eq!(*to, address(V6));
            checks += 1;
            agent.handle_datagram(now.plus_millis(30), *to, &success(check)).unwrap();
        }
        now = drained.timeout;
    }
    assert!((600..=900).contains(&checks), "{checks}");
    assert_eq!(agent.nominated(), Some(address(V6)));
}

#[test]
fn peers_checks_are_answered_after_nomination_without_a_switch() {
    let mut agent = nominated_agent();
    agent
        .handle_datagram(
            at(100),
            address(V4),
            &request("usus:x", OUR_PWD, |writer| {
                writer.role(RoleAttribute::Controlled(1));
                writer.use_candidate();
            }),
        )
        .unwrap();
    let drained = drain(&mut agent, at(100));
    assert_eq!((drained.sent.len(), drained.message(0).class), (1, Class::Success));
    assert!(drained.events.is_empty());
    assert_eq!(agent.nominated(), Some(address(V6)));
}

#[test]
fn second_description_is_ignored() {
    let mut agent = nominated_agent();
    agent.set_remote(at(50), &IceDescription { pwd: "x".repeat(22), candidates: Vec::new(), ..description(true) });
    assert!(drain(&mut agent, at(50)).is_quiet());
    assert_eq!(agent.nominated(), Some(address(V6)));
}
