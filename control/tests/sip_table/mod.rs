//! An agent, and the peer that a test plays, at one table.
#![allow(dead_code)] // each test file uses its share

use control::sip::locate::{Question, Records};
use control::sip::message::{Message, reason_phrase};
use control::sip::transport::{Hop, PeerIdentity, Transport};
use control::sip::{Credentials, Invite, SipAgent, SipCallId, SipConfig, SipEnd, SipEvent, SipOutput, TraceMessage};
use engine::random::Random;
use engine::time::Instant;
use std::net::SocketAddr;

pub const US: &str = "192.0.2.1:5060";
pub const PEER: &str = "192.0.2.2:5060";
pub const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\n";
pub const ANSWER: &str = "v=0\r\no=- 2 2 IN IP4 192.0.2.2\r\ns=-\r\n";

pub struct Table {
    pub agent: SipAgent,
    pub now: Instant,
    pub call: SipCallId,
    pub sent: Vec<(Hop, Message)>,
    pub traced: Vec<TraceMessage>,
    pub question: Option<Question>,
    pub heard: Vec<SipEvent>,
    pub query: Option<u64>,
    pub from: SocketAddr,
    /// Call-ID, the agent's tag, the peer's tag.
    pub dialog: Option<(String, String, String)>,
}

pub fn account(password: &str) -> Credentials {
    Credentials { username: "alice".into(), password: password.into() }
}

pub fn config(demand: Option<(String, Credentials)>, accept_incoming: bool) -> SipConfig {
    let advertised = US.parse().unwrap();
    SipConfig { demand, accept_incoming, ..SipConfig::new(advertised, "gw", "tandem/1") }
}

/// An agent that has every transport.
pub fn everywhere() -> SipConfig {
    let mut config = config(None, true);
    let at = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
    config.reach = vec![(Transport::Tcp, at(5060)), (Transport::Tls, at(5061)), (Transport::Wss, at(7443))];
    config
}

pub fn invitation() -> Invite {
    Invite {
        target: "sip:bot@192.0.2.2".into(),
        from_user: "a".into(),
        sdp: OFFER.into(),
        credentials: Some(account("secret")),
        ring_ms_max: 25_000,
        ..Invite::default()
    }
}

pub fn answer(m: &mut Message, contact: &str) {
    m.push("Contact", contact);
    m.set_body("application/sdp", ANSWER);
}

pub fn offer(m: &mut Message) {
    m.set_body("application/sdp", ANSWER);
}

pub fn branch(m: &mut Message, branch: &str) {
    m.remove("Via");
    m.push_front("Via", format!("SIP/2.0/UDP 192.0.2.2:5060;branch={branch};rport"));
}

impl Table {
    pub fn new(config: SipConfig) -> Table {
        let agent = SipAgent::new(config, Random::from_test_seed(11));
        let (sent, heard, from) = (Vec::new(), Vec::new(), PEER.parse().unwrap());
        let (traced, question) = (Vec::new(), None);
        let call = SipCallId(0);
        Table { agent, now: Instant::ZERO, call, sent, traced, question, heard, query: None, from, dialog: None }
    }

    pub fn listening(demand: Option<(String, Credentials)>) -> Table {
        Table::new(config(demand, true))
    }

    /// A call has come in; its events are read.
    pub fn incoming() -> Table {
        let mut t = Table::listening(None);
        t.request("INVITE", 1, offer);
        let events = t.events();
        let [SipEvent::Incoming { call, .. }] = &events[..] else { panic!("{events:?}") };
        t.call = *call;
        t
    }

    pub fn calling() -> Table {
        Table::calling_with(|_| {})
    }

    pub fn calling_with(change: impl FnOnce(&mut Invite)) -> Table {
        let mut t = Table::listening(None);
        let mut invite = Invite {
            target: "sip:bot@192.0.2.2".into(),
            proxy: None,
            from_display: None,
            from_user: "a".into(),
            from_host: None,
            headers: Vec::new(),
            sdp: OFFER.into(),
            credentials: Some(account("secret")),
            ring_ms_max: 25_000,
            ..Invite::default()
        };
        change(&mut invite);
        t.call = t.agent.invite(t.now, invite);
        t.pump();
        t
    }

    /// A call of ours that was answered and acknowledged.
    pub fn answered(change: impl FnOnce(&mut Message)) -> Table {
        let mut t = Table::calling();
        let invite = t.take();
        t.reply(&invite, 200, |m| {
            change(m);
            answer(m, "<sip:192.0.2.2>");
        });
        assert_eq!(t.take().method(), Some("ACK"));
        t.dialog = Some((invite.call_id().into(), invite.from_tag().unwrap().into(), "peer".into()));
        t
    }

    /// Later requests of the peer belong to the dialog this response made.
    pub fn follow(&mut self, response: &Message) {
        self.dialog = Some((response.call_id().into(), response.to_tag().unwrap().into(), "peer".into()));
    }

    pub fn reply(&mut self, request: &Message, code: u16, change: impl FnOnce(&mut Message)) {
        self.reply_as(request, code, "peer", change);
    }

    pub fn reply_as(&mut self, request: &Message, code: u16, tag: &str, change: impl FnOnce(&mut Message)) {
        let mut response = Message::response(request, code, reason_phrase(code), (code > 100).then_some(tag));
        change(&mut response);
        self.agent.handle_datagram(self.now, PEER.parse().unwrap(), &response.to_bytes());
        self.pump();
    }

    /// A request of the peer, inside the dialog if there is one.
    pub fn request(&mut self, method: &str, cseq: u32, change: impl FnOnce(&mut Message)) {
        let mut m = Message::request(method, "sip:gw@192.0.2.1");
        branch(&mut m, &format!("z9hG4bKpeer{cseq}{method}"));
        m.push("Max-Forwards", "70");
        let (call_id, ours, theirs) = self.dialog.clone().unwrap_or(("c1".into(), String::new(), "peer".into()));
        m.push("From", format!("\"P\" <sip:p@192.0.2.2>;tag={theirs}"));
        let tag = if ours.is_empty() { String::new() } else { format!(";tag={ours}") };
        m.push("To", format!("<sip:gw@192.0.2.1>{tag}"));
        m.push("Call-ID", call_id);
        m.push("CSeq", format!("{cseq} {method}"));
        if method != "CANCEL" {
            m.push("Contact", "<sip:p@10.1.1.1:5060>");
        }
        change(&mut m);
        self.agent.handle_datagram(self.now, self.from, &m.to_bytes());
        self.pump();
    }

    /// A message of the peer over any transport.
    pub fn receive(&mut self, hop: &Hop, message: &Message) {
        self.agent.handle_from_anyone(self.now, hop, &PeerIdentity::default(), &message.to_bytes());
        self.pump();
    }

    /// Answers the question that is open.
    pub fn answer_question(&mut self, wanted: Question, records: Records) {
        self.pump();
        assert_eq!(self.question.take(), Some(wanted));
        let query = self.query.take().unwrap();
        self.agent.resolved(self.now, query, &records);
        self.pump();
    }

    /// Reads all outputs; returns the next deadline.
    pub fn pump(&mut self) -> Instant {
        for _ in 0..10_000 {
            match self.agent.poll_output(self.now) {
                SipOutput::Timeout(at) => return at,
                SipOutput::Event(event) => self.heard.push(event),
                SipOutput::Resolve { query, question } => {
                    self.query = Some(query);
                    self.question = Some(question);
                }
                SipOutput::Trace(message) => self.traced.push(message),
                SipOutput::Transmit { hop, bytes } => {
                    let message = Message::parse(&bytes).unwrap();
                    if message.method().is_some() {
                        assert_eq!(message.check(), Ok(()));
                    }
                    self.sent.push((hop, message));
                }
            }
        }
        panic!("the agent never comes to rest");
    }

    pub fn take_with_address(&mut self) -> (SocketAddr, Message) {
        let (hop, message) = self.take_with_hop();
        (hop.remote, message)
    }

    pub fn take_with_hop(&mut self) -> (Hop, Message) {
        self.pump();
        assert!(!self.sent.is_empty(), "nothing was sent");
        self.sent.remove(0)
    }

    pub fn take(&mut self) -> Message {
        self.take_with_address().1
    }

    /// Answers the agent's questions: no NAPTR, no SRV, these addresses.
    pub fn resolve(&mut self, addresses: &[&str]) {
        for _ in 0..10 {
            self.pump();
            let (Some(query), Some(question)) = (self.query.take(), self.question.take()) else { return };
            let records = match question {
                Question::Address(_) => Records::Addresses(addresses.iter().map(|a| a.parse().unwrap()).collect()),
                _ => Records::Nothing,
            };
            self.agent.resolved(self.now, query, &records);
        }
        panic!("the agent never stops asking");
    }

    pub fn assert_silent(&mut self) {
        self.pump();
        assert!(self.sent.is_empty(), "{:?}", self.sent);
    }

    pub fn events(&mut self) -> Vec<SipEvent> {
        self.pump();
        std::mem::take(&mut self.heard)
    }

    pub fn ended(&self, end: SipEnd) -> SipEvent {
        SipEvent::Ended { call: self.call, end }
    }

    pub fn run_for(&mut self, millis: u64) {
        self.run_to(self.now.plus_millis(millis));
    }

    pub fn run_until(&mut self, millis: u64) {
        self.run_to(Instant::from_millis(millis));
    }

    fn run_to(&mut self, until: Instant) {
        for _ in 0..10_000 {
            let at = self.pump();
            if at > until {
                self.now = until;
                return;
            }
            self.now = self.now.max(at);
            self.agent.handle_timeout(self.now);
        }
        panic!("the agent's deadlines do not move");
    }

    /// Runs until nothing is left to do; then nothing may be left at all.
    pub fn run_out(&mut self) {
        for _ in 0..10_000 {
            match self.pump() {
                Instant::NEVER => return assert_eq!(self.agent.alive(), (0, 0)),
                at => {
                    self.now = self.now.max(at);
                    self.agent.handle_timeout(self.now);
                }
            }
        }
        panic!("the agent's deadlines do not move");
    }
}
