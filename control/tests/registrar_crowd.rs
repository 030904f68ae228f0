//! The registrar behind the SIP agent: digest for ten thousand phones, phones that vanish, and frames that are no messages.

use control::registrar::{Gate, User};
use control::route::Routes;
use control::sip::digest::{Answered, Authorizer};
use control::sip::message::Message;
use control::sip::transport::{ConnectionId, Hop, PeerIdentity, Transport};
use control::sip::{Credentials, SipAgent, SipConfig, SipOutput};
use engine::random::Random;
use engine::time::Instant;
use std::collections::BTreeMap;
use std::net::SocketAddr;

const PHONES: u64 = 10_000;

#[test]
fn ten_thousand_phones_register_by_digest_and_leave_with_their_connections() {
    let mut bench = Bench::new(PHONES);
    for n in 0..PHONES {
        assert_eq!(bench.register(n, "secret"), 200, "phone {n}");
    }
    assert_eq!(bench.gate.registrar.count(), PHONES as usize);
    for n in 0..PHONES {
        bench.gate.connection_closed(ConnectionId(n));
    }
    assert_eq!(bench.gate.registrar.count(), 0);
    // Transactions end by their timers, and nothing else was kept.
    bench.now = bench.now.plus_millis(60_000);
    bench.agent.handle_timeout(bench.now);
    assert_eq!(bench.agent.alive(), (0, 0));
}

#[test]
fn a_wrong_password_and_a_phone_that_vanishes_in_between_leave_nothing() {
    let mut bench = Bench::new(2);
    assert_eq!(bench.register(0, "guess"), 401);
    let asked = bench.send(1, &request(1, 1));
    assert_eq!(asked.code(), Some(401));
    bench.agent.connection_closed(bench.now, &hop(1));
    bench.gate.connection_closed(ConnectionId(1));
    assert_eq!(bench.gate.registrar.count(), 0);
}

#[test]
fn frames_that_are_no_messages_change_nothing() {
    let mut bench = Bench::new(2);
    assert_eq!(bench.register(0, "secret"), 200);
    let good = request(1, 1).to_bytes();
    let mut random = Random::from_test_seed(11);
    for _ in 0..20_000 {
        let mut frame = good.clone();
        for _ in 0..=random.below(6) {
            let at = random.below(frame.len() as u32) as usize;
            match random.below(3) {
                0 => frame[at] = random.next_u32() as u8,
                1 => frame.truncate(at.max(1)),
                _ => frame.insert(at, random.next_u32() as u8),
            }
        }
        bench.agent.handle_message(bench.now, &hop(1), &PeerIdentity::default(), &frame, &mut bench.gate);
        while !matches!(bench.agent.poll_output(bench.now), SipOutput::Timeout(_)) {}
    }
    assert_eq!(bench.gate.registrar.count(), 1, "nobody registers without a password");
    assert_eq!(bench.register(1, "secret"), 200);
}

struct Bench {
    agent: SipAgent,
    gate: Gate,
    random: Random,
    now: Instant,
}

impl Bench {
    fn new(users: u64) -> Bench {
        let user = |n: u64| (format!("u{n}"), User::new(&format!("u{n}"), "secret"));
        let users: BTreeMap<String, User> = (0..users).map(user).collect();
        let gate = Gate::new(Routes { users, ..Routes::default() }, "voice.example");
        let config = SipConfig::new(SocketAddr::from(([192, 0, 2, 1], 5_060)), "tandem", "tandem");
        let mut random = Random::from_test_seed(3);
        Bench { agent: SipAgent::new(config, random.fork()), gate, random, now: Instant::from_millis(1_000) }
    }

    /// REGISTER, and once more with an answer to the challenge. Answers the last code.
    fn register(&mut self, n: u64, password: &str) -> u16 {
        self.now = self.now.plus_millis(1);
        let mut phone = Authorizer::new(Some(Credentials { username: format!("u{n}"), password: password.into() }));
        let challenge = self.send(n, &request(n, 1));
        assert_eq!(challenge.code(), Some(401));
        assert!(
            challenge.header("WWW-Authenticate").is_some_and(|value| !value.contains("SHA")),
            "JsSIP knows MD5 only"
        );
        assert!(phone.take(&challenge, &mut Answered::default()));
        let mut again = request(n, 2);
        phone.apply(&mut again, &mut self.random);
        self.send(n, &again).code().unwrap_or(0)
    }

    fn send(&mut self, n: u64, request: &Message) -> Message {
        let bytes = request.to_bytes();
        self.agent.handle_message(self.now, &hop(n), &PeerIdentity::default(), &bytes, &mut self.gate);
        let mut answer = None;
        loop {
            match self.agent.poll_output(self.now) {
                SipOutput::Transmit { hop: to, bytes } => {
                    assert_eq!(to.connection, Some(ConnectionId(n)), "the answer goes where the request came from");
                    answer = Message::parse(&bytes).ok();
                }
                SipOutput::Timeout(_) => return answer.expect("an answer"),
                _ => {}
            }
        }
    }
}

fn hop(n: u64) -> Hop {
    Hop::connected(Transport::Wss, SocketAddr::from(([198, 51, 100, 1], 40_000)), ConnectionId(n))
}

fn request(n: u64, cseq: u32) -> Message {
    let mut request = Message::request("REGISTER", "sip:voice.example");
    request.push("Via", format!("SIP/2.0/WSS p{n}.invalid;branch=z9hG4bK{n}x{cseq}"));
    request.push("Max-Forwards", "70");
    request.push("From", format!("<sip:u{n}@voice.example>;tag={n}"));
    request.push("To", format!("<sip:u{n}@voice.example>"));
    request.push("Call-ID", format!("c{n}"));
    request.push("CSeq", format!("{cseq} REGISTER"));
    request.push("Contact", format!("<sip:x@p{n}.invalid;transport=ws>;expires=300"));
    request
}
