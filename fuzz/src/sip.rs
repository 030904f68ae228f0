//! SIP: one message taken apart, and an agent at a table with a peer who says anything.

use crate::DRAIN_STEPS_MAX;
use crate::script::Script;
use control::sip::dialog::Dialog;
use control::sip::digest::{Algorithm, Answered, Authorizer};
use control::sip::gatekeeper::{Admission, Admitted, Asking, Gatekeeper, Refusal, Registered, Secret};
use control::sip::locate::{Naptr, Question, Records, Srv};
use control::sip::message::{Message, reason_phrase};
use control::sip::transport::stream::{Frame, Framer, Lost};
use control::sip::transport::{ConnectionId, Hop, PeerIdentity, TRANSPORTS, Transport};
use control::sip::uri::{NameAddr, SipUri};
use control::sip::{Credentials, Invite, Register, SipAgent, SipCallId, SipConfig, SipEvent, SipOutput, Watch};
use control::sip::{RegistrationId, WatchId};
use engine::random::Random;
use engine::time::Instant;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const US: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 5060);
const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 5060);
const SDP: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.2\r\ns=-\r\nc=IN IP4 192.0.2.2\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";

/// Messages of one input that are remembered, so that later ones can refer to them.
const REMEMBERED_MAX: usize = 64;

/// Calls that one input may place, and registrations, and watches.
const CALLS_MAX: usize = 8;

/// Longer than every timer of RFC 3261 and every patience of the agent, twice.
const REST_MS: u64 = 400_000;

/// One datagram. What was understood is written, and understood alike the second time.
pub fn sip_message(data: &[u8]) {
    let Ok(message) = Message::parse(data) else { return };
    let checked = message.check();
    for name in ["From", "To", "Contact", "Route", "Record-Route"] {
        for address in message.list(name).filter_map(NameAddr::parse) {
            if let Some(uri) = SipUri::parse(address.uri) {
                let _ = (uri.address(), uri.is_loose(), uri.param("transport"), address.tag());
            }
        }
    }
    let _ = (message.via(), message.cseq(), message.content_type(), message.sdp(), message.x_headers());
    let _ = (Dialog::uas(&message, "tag"), message.max_forwards(), message.contact());
    let written = message.to_bytes();
    let Ok(again) = Message::parse(&written) else {
        // Writing adds a Content-Length, which may be one byte or one header too many.
        assert!(checked.is_err() || written.len() > data.len(), "what we wrote is no message");
        return;
    };
    if checked.is_ok() {
        assert_eq!(again.check(), Ok(()), "a message that was right is wrong when written");
        assert_eq!((&again.start, &again.body), (&message.start, &message.body));
        assert_eq!((again.call_id(), again.cseq()), (message.call_id(), message.cseq()));
    }
    let mut response = Message::response(&message, 400, reason_phrase(400), Some("tag"));
    response.note_source(PEER);
    let _ = Message::parse(&response.to_bytes());
}

/// A byte stream in any pieces: its messages are the same in whatever pieces it comes.
pub fn sip_stream(data: &[u8]) {
    let mut script = Script::new(data);
    let mut pieces = Vec::new();
    while !script.is_over() {
        pieces.push(script.chunk());
    }
    let whole = pieces.concat();
    let expected = frames(&[&whole]);
    let bytes: Vec<&[u8]> = whole.chunks(1).collect();
    for cut in [frames(&pieces), frames(&bytes)] {
        assert_eq!(cut, expected, "the pieces of a stream changed its messages");
    }
    for message in &expected.0 {
        sip_message(message);
    }
}

/// The messages of a stream, and what lost it.
fn frames(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Option<Lost>) {
    let (mut framer, mut messages) = (Framer::default(), Vec::new());
    for piece in pieces {
        framer.push(piece);
        let mut steps = 0;
        loop {
            match framer.next_frame() {
                Ok(Some(Frame::Message(message))) => messages.push(message),
                Ok(Some(Frame::Ping | Frame::Pong)) => {}
                Ok(None) => break,
                Err(lost) => {
                    let _ = framer.last_words();
                    return (messages, Some(lost));
                }
            }
            steps += 1;
            assert!(steps < DRAIN_STEPS_MAX, "a stream that never runs dry");
        }
        let _ = (framer.is_inside_message(), framer.is_half_a_ping());
    }
    (messages, None)
}

/// Messages over any transport, calls and registrations of ours, decisions about calls, answers of a resolver, lost connections,
/// and waits.
pub fn sip_agent(data: &[u8]) {
    play(data);
}

fn play(data: &[u8]) -> Table {
    let mut script = Script::new(data);
    let mut table = Table::new(script.byte());
    while !script.is_over() {
        match script.byte() % 16 {
            0 => table.wait(script.millis()),
            1 => table.receive(script.chunk()),
            2 => table.invite(&mut script),
            3 => table.decide(&mut script),
            4 | 5 => table.reply(&mut script),
            6 | 7 => table.request(&mut script),
            8 => table.repeat(&mut script),
            9 => table.resolve(&mut script),
            10 => table.wait(script.millis() * 8),
            11 => table.fresh_request("INVITE", &mut script),
            12 => table.disconnect(&mut script),
            13 => table.act(&mut script),
            14 => table.enlist(&mut script),
            _ => table.fresh_request("REGISTER", &mut script),
        }
        table.drain();
    }
    table.come_to_rest();
    table
}

fn alice() -> Credentials {
    Credentials { username: "alice".to_owned(), password: "secret".to_owned() }
}

/// Who may come in.
struct Door {
    challenges: bool,
    accepts: bool,
}

impl Gatekeeper for Door {
    fn admit(&mut self, _now: Instant, asking: &Asking<'_>) -> Admission {
        match asking.user {
            _ if !self.accepts => Admission::Refuse(Refusal::code(404)),
            Some(user) => Admission::Accept(Admitted::User(user.to_owned())),
            None if self.challenges => {
                Admission::Challenge { realm: "realm".to_owned(), algorithms: vec![Algorithm::Sha256, Algorithm::Md5] }
            }
            None => Admission::Accept(Admitted::Anyone),
        }
    }

    fn secret(&self, _realm: &str, username: &str) -> Option<Secret> {
        let alice = alice();
        (username == alice.username).then_some(Secret::Password(alice.password))
    }

    fn is_registrar(&self) -> bool {
        self.accepts
    }

    fn register(&mut self, _now: Instant, request: &Message, _hop: &Hop, _admitted: &Admitted) -> Registered {
        let contact = request.header("Contact").unwrap_or("").to_owned();
        Registered { code: 200, headers: vec![("Contact".to_owned(), contact)] }
    }
}

/// An agent and everything that was said.
struct Table {
    agent: SipAgent,
    now: Instant,
    deadline: Instant,
    /// What the agent sent.
    sent: Vec<Message>,
    /// What it was sent.
    received: Vec<Vec<u8>>,
    /// Calls seen, and how often each ended.
    calls: BTreeMap<SipCallId, u32>,
    queries: Vec<(u64, Question)>,
    requests: u32,
    registrations: Vec<RegistrationId>,
    watches: Vec<WatchId>,
    door: Door,
    /// What the peer says is sent over this; streams have one connection at a time.
    transport: Transport,
    connections: u64,
    /// The peer's answers to our challenges.
    authorizer: Authorizer,
    random: Random,
    /// Events as they came, without their contents.
    #[cfg(test)]
    heard: Vec<String>,
}

impl Table {
    fn new(choice: u8) -> Table {
        let transport = TRANSPORTS[usize::from(choice >> 2) % TRANSPORTS.len()];
        let reach = match transport {
            Transport::Udp => Vec::new(),
            _ => TRANSPORTS.into_iter().map(|known| (known, SocketAddr::new(US.ip(), known.port()))).collect(),
        };
        let config = SipConfig { reach, ..SipConfig::new(US, "gw", "fuzz") };
        let now = Instant::from_millis(1_000);
        Table {
            agent: SipAgent::new(config, Random::from_test_seed(3)),
            now,
            deadline: Instant::NEVER,
            sent: Vec::new(),
            received: Vec::new(),
            calls: BTreeMap::new(),
            queries: Vec::new(),
            requests: 0,
            registrations: Vec::new(),
            watches: Vec::new(),
            door: Door { challenges: choice & 1 != 0, accepts: choice & 2 == 0 },
            transport,
            connections: 0,
            authorizer: Authorizer::new(Some(alice())),
            random: Random::from_test_seed(4),
            #[cfg(test)]
            heard: Vec::new(),
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        if self.received.len() < REMEMBERED_MAX {
            self.received.push(bytes.to_vec());
        }
        self.deliver(bytes);
    }

    fn deliver(&mut self, bytes: &[u8]) {
        let hop = self.hop();
        self.agent.handle_message(self.now, &hop, &PeerIdentity::default(), bytes, &mut self.door);
    }

    /// Where the peer speaks from.
    fn hop(&self) -> Hop {
        match self.transport {
            Transport::Udp => Hop::udp(PEER),
            stream => Hop::connected(stream, PEER, ConnectionId(self.connections)),
        }
    }

    /// The connection is lost and the peer comes back on another; or nothing reaches a place any more.
    fn disconnect(&mut self, script: &mut Script<'_>) {
        let hop = self.hop();
        match script.byte() % 3 {
            0 => {
                self.agent.connection_closed(self.now, &hop);
                self.connections += 1;
            }
            1 => self.agent.transport_failed(self.now, &Hop { connection: None, ..hop }),
            _ => {
                let transport = script.pick(&TRANSPORTS);
                self.agent
                    .transport_failed(self.now, &Hop::new(transport, SocketAddr::new(PEER.ip(), transport.port())));
            }
        }
    }

    /// What we want of calls that are there.
    fn act(&mut self, script: &mut Script<'_>) {
        let Some(&call) = self.calls.keys().nth(usize::from(script.byte()) % self.calls.len().max(1)) else { return };
        let now = self.now;
        match script.byte() % 6 {
            0 => self.agent.reinvite(now, call, &SDP.replace("4000", "4004")),
            1 => self.agent.info(now, call, '5', 160),
            2 => self.agent.refer(now, call, "sip:c@192.0.2.2", Some("<sip:gw@192.0.2.1>")),
            3 => self.agent.transfer_progress(now, call, script.pick(&[180, 200, 486])),
            4 => self.agent.refuse(now, call, &Refusal { retry_after_s: Some(5), ..Refusal::warned(503, "full") }),
            _ => self.agent.set_tracing(script.byte() & 1 == 0),
        }
    }

    /// Registrations and watches begin and end.
    fn enlist(&mut self, script: &mut Script<'_>) {
        let proxy = || Some("sip:192.0.2.2".to_owned());
        match script.byte() % 6 {
            0 | 1 if self.registrations.len() < CALLS_MAX => {
                let what = Register {
                    registrar: "sip:bot.example".to_owned(),
                    proxy: (script.byte() & 1 == 0).then(proxy).flatten(),
                    aor: "sip:alice@bot.example".to_owned(),
                    credentials: Some(alice()),
                    expires_s: 300,
                    ..Register::default()
                };
                self.registrations.push(self.agent.register(self.now, what));
            }
            2 | 3 if self.watches.len() < CALLS_MAX => {
                let proxy = (script.byte() & 1 == 0).then(proxy).flatten();
                let what = Watch { target: "sip:bot.example".to_owned(), proxy, every_ms: 30_000 };
                self.watches.push(self.agent.watch(self.now, what));
            }
            4 => self.registrations.pop().into_iter().for_each(|id| self.agent.unregister(self.now, id)),
            5 => self.watches.pop().into_iter().for_each(|id| self.agent.unwatch(id)),
            _ => {}
        }
    }

    fn invite(&mut self, script: &mut Script<'_>) {
        if self.calls.len() >= CALLS_MAX {
            return;
        }
        let targets = ["sip:bot@192.0.2.2", "sip:bot@bot.example", "sip:bot@192.0.2.2;transport=tcp", "tel:1", ""];
        let target = script.pick(&targets).to_owned();
        let choice = script.byte();
        let call = self.agent.invite(
            self.now,
            Invite {
                target,
                proxy: (choice & 1 != 0).then(|| "sip:192.0.2.2:5070;lr".to_owned()),
                from_display: None,
                from_user: "a".to_owned(),
                from_host: None,
                headers: vec![("X-Fuzz".to_owned(), "1".to_owned())],
                sdp: SDP.to_owned(),
                credentials: (choice & 2 == 0).then(alice),
                ring_ms_max: 25_000,
                reliable_provisionals: choice & 4 != 0,
                hop: (choice & 8 != 0).then(|| self.hop()),
                ..Invite::default()
            },
        );
        self.calls.insert(call, 0);
    }

    fn decide(&mut self, script: &mut Script<'_>) {
        let Some(&call) = self.calls.keys().nth(usize::from(script.byte()) % self.calls.len().max(1)) else { return };
        let now = self.now;
        match script.byte() % 8 {
            0 => self.agent.ring(now, call, None),
            1 => self.agent.ring(now, call, Some(SDP)),
            2 | 3 => self.agent.accept(now, call, SDP),
            4 => self.agent.reject(now, call, script.word()),
            5 => self.agent.hangup(now, call, Some("Q.850;cause=16")),
            6 => self.agent.answer_reinvite(now, call, Some(SDP)),
            _ => self.agent.answer_reinvite(now, call, None),
        }
    }

    /// Answers a request of the agent.
    fn reply(&mut self, script: &mut Script<'_>) {
        let requests: Vec<&Message> = self.sent.iter().rev().filter(|message| message.method().is_some()).collect();
        let Some(request) = requests.get(usize::from(script.byte()) % requests.len().max(1)) else { return };
        let code = script.pick(&[100, 180, 183, 200, 200, 200, 302, 401, 407, 408, 481, 486, 487, 491, 500, 603]);
        let tag = script.pick(&["peer", "fork"]);
        let mut response = Message::response(request, code, reason_phrase(code), (code > 100).then_some(tag));
        let parts = script.byte();
        if parts & 1 == 0 {
            response.push("Contact", "<sip:192.0.2.2>");
            response.set_body("application/sdp", SDP);
        }
        if parts & 2 != 0 {
            response.push("Record-Route", "<sip:192.0.2.3;lr>, <sip:proxy.example>");
        }
        if parts & 4 == 0 && matches!(code, 401 | 407) {
            let name = if code == 401 { "WWW-Authenticate" } else { "Proxy-Authenticate" };
            response.push(name, "Digest realm=\"r\", nonce=\"n\", qop=\"auth\", algorithm=SHA-256");
        }
        if parts & 32 != 0 {
            response.push("Require", "100rel");
            response.push("RSeq", script.byte().to_string());
        }
        self.send(response, parts, script);
    }

    /// A request inside a dialog that the agent knows, or almost.
    fn request(&mut self, script: &mut Script<'_>) {
        let Some(said) = self.sent.iter().rev().nth(usize::from(script.byte()) % self.sent.len().max(1)) else {
            return;
        };
        let ours_is_from = said.method().is_some();
        let (from, to) = if ours_is_from { ("To", "From") } else { ("From", "To") };
        let header = |name| said.header(name).unwrap_or("<sip:x>").to_owned();
        let (mut from, to, call_id) = (header(from), header(to), said.call_id().to_owned());
        if !from.contains("tag=") {
            from.push_str(";tag=peer");
        }
        let method =
            script.pick(&["BYE", "ACK", "INVITE", "CANCEL", "INFO", "OPTIONS", "UPDATE", "NOTIFY", "PRACK", "REFER"]);
        let number = match script.byte() {
            0 => said.cseq().map_or(1, |(number, _)| number),
            number => u32::from(number),
        };
        let rack = said.header("RSeq").map(|rseq| (rseq.to_owned(), said.header("CSeq").unwrap_or("").to_owned()));
        let mut request = Message::request(method, "sip:gw@192.0.2.1");
        self.requests += 1;
        let branch = if matches!(method, "ACK" | "CANCEL") && script.byte() & 1 == 0 {
            said.via().and_then(|via| via.branch().map(str::to_owned)).unwrap_or_default()
        } else {
            format!("z9hG4bK{}", self.requests)
        };
        request.push("Via", format!("SIP/2.0/{} 192.0.2.2:5060;branch={branch};rport", self.transport.via_name()));
        request.push("Max-Forwards", "70");
        request.push("From", from);
        request.push("To", to);
        request.push("Call-ID", call_id);
        request.push("CSeq", format!("{number} {method}"));
        let parts = script.byte();
        if parts & 1 == 0 {
            request.push("Contact", "<sip:192.0.2.2>");
        }
        if parts & 2 != 0 {
            // Another description is an offer, the same one a refresh.
            let sdp = if parts & 4 != 0 { SDP.replace("4000", "4002") } else { SDP.to_owned() };
            request.set_body("application/sdp", &sdp);
        } else if method == "INFO" {
            request.set_body("application/dtmf-relay", "Signal=5\r\nDuration=160\r\n");
        } else if method == "NOTIFY" {
            request.push("Event", "refer");
            request.push("Subscription-State", if parts & 4 != 0 { "terminated" } else { "active" });
            request.set_body("message/sipfrag", "SIP/2.0 200 OK\r\n");
        } else if method == "REFER" {
            request.push("Refer-To", "<sip:c@192.0.2.2>");
        }
        if method == "PRACK" {
            let (rseq, cseq) = rack.unwrap_or_default();
            request.push("RAck", format!("{rseq} {cseq}"));
        }
        self.send(request, parts, script);
    }

    /// A call or a registration of the peer.
    fn fresh_request(&mut self, method: &str, script: &mut Script<'_>) {
        self.requests += 1;
        let number = self.requests;
        let mut request = Message::request(method, "sip:gw@192.0.2.1");
        request
            .push("Via", format!("SIP/2.0/{} 192.0.2.2:5060;branch=z9hG4bK{number};rport", self.transport.via_name()));
        request.push("Max-Forwards", "70");
        request.push("From", "<sip:p@192.0.2.2>;tag=peer");
        request.push("To", "<sip:gw@192.0.2.1>");
        request.push("Call-ID", format!("call-{}", script.byte() % 4));
        request.push("CSeq", format!("{} {method}", script.byte()));
        request.push("Contact", "<sip:p@192.0.2.2>");
        let parts = script.byte();
        if parts & 1 == 0 && method == "INVITE" {
            request.set_body("application/sdp", SDP);
        }
        if parts & 2 != 0 {
            request.push("Require", "100rel");
        }
        if parts & 4 != 0 {
            self.authorizer.apply(&mut request, &mut self.random);
        }
        self.send(request, parts, script);
    }

    /// Sends what was prepared, with a header of the input's and with damage if it says so.
    fn send(&mut self, mut message: Message, parts: u8, script: &mut Script<'_>) {
        if parts & 8 != 0 {
            let name = script.pick(&[
                "Session-Expires",
                "Min-SE",
                "Require",
                "Supported",
                "Record-Route",
                "Contact",
                "Via",
                "Retry-After",
                "RSeq",
                "WWW-Authenticate",
                "Proxy-Authenticate",
                "Proxy-Authorization",
                "Reason",
                "X-Fuzz",
                "Expires",
                "Route",
                "Replaces",
                "RAck",
                "Refer-To",
                "Refer-Sub",
            ]);
            message.push(name, String::from_utf8_lossy(script.chunk()));
        }
        let mut bytes = message.to_bytes();
        if parts & 16 != 0 {
            script.damage(&mut bytes);
        }
        self.receive(&bytes);
    }

    fn repeat(&mut self, script: &mut Script<'_>) {
        let at = usize::from(script.byte()) % self.received.len().max(1);
        let Some(mut bytes) = self.received.get(at).cloned() else { return };
        script.damage(&mut bytes);
        self.deliver(&bytes);
    }

    /// The resolver answers the last question: a name that has addresses and nothing else, or with whatever the input says.
    fn resolve(&mut self, script: &mut Script<'_>) {
        let choice = script.byte();
        let count = u16::from(choice % 4);
        let Some((query, mut question)) = self.queries.pop() else { return };
        let addresses =
            [PEER.ip(), IpAddr::from([192, 0, 2, 9]), IpAddr::from([0u16; 8])][..usize::from(count)].to_vec();
        let srv = |port| Srv { priority: port % 3, weight: port, port, target: "h.example.com".to_owned() };
        let naptr = |order: u16| Naptr {
            order,
            preference: 0,
            services: ["SIP+D2U", "SIP+D2T", "SIPS+D2T", "X"][usize::from(order % 4)].to_owned(),
            replacement: "_sip._udp.example.com".to_owned(),
        };
        let records = match (choice >> 2) % 5 {
            0 => {
                // The agent asks on until it has an address.
                while !matches!(question, Question::Address(_)) {
                    self.agent.resolved(self.now, query, &Records::Nothing);
                    self.drain();
                    let Some((_, next)) = self.queries.pop_if(|(known, _)| *known == query) else { return };
                    question = next;
                }
                Records::Addresses(addresses)
            }
            1 => Records::Nothing,
            2 => Records::Srv((0..count).map(srv).collect()),
            3 => Records::Naptr((0..count).map(naptr).collect()),
            _ => Records::Addresses(addresses),
        };
        self.agent.resolved(self.now, query, &records);
    }

    fn wait(&mut self, millis: u64) {
        let end = self.now.plus_millis(millis);
        for _ in 0..DRAIN_STEPS_MAX {
            if self.deadline > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(self.deadline);
            self.agent.handle_timeout(self.now);
            self.drain();
            assert!(self.deadline > self.now, "a deadline lies in the past after it was served");
        }
        panic!("time stands still at {:?}", self.now);
    }

    fn drain(&mut self) {
        for _ in 0..DRAIN_STEPS_MAX {
            match self.agent.poll_output(self.now) {
                SipOutput::Transmit { bytes, .. } => {
                    let message = Message::parse(&bytes).expect("what the agent sends is SIP");
                    if matches!(message.code(), Some(401 | 407)) {
                        self.authorizer.take(&message, &mut Answered::default());
                    }
                    if self.sent.len() >= REMEMBERED_MAX {
                        self.sent.remove(0);
                    }
                    self.sent.push(message);
                }
                SipOutput::Event(event) => self.note(&event),
                SipOutput::Resolve { query, question } => self.queries.push((query, question)),
                SipOutput::Trace(_) => {}
                SipOutput::Timeout(at) => {
                    self.deadline = at;
                    return;
                }
            }
        }
        panic!("the agent never comes to rest");
    }

    fn note(&mut self, event: &SipEvent) {
        #[cfg(test)]
        self.heard.push(format!("{event:?}").split(' ').next().unwrap_or_default().to_owned());
        let Some(call) = event.call() else { return };
        let ended = matches!(event, SipEvent::Ended { .. });
        let ends = self.calls.entry(call).or_default();
        assert_eq!(*ends, 0, "{event:?} after the end of its call");
        *ends += u32::from(ended);
    }

    /// Every call is hung up, every registration taken back, and nothing is left once all timers are over.
    fn come_to_rest(&mut self) {
        self.drain();
        for call in self.calls.keys().copied().collect::<Vec<_>>() {
            self.agent.hangup(self.now, call, None);
            self.drain();
        }
        for id in std::mem::take(&mut self.watches) {
            self.agent.unwatch(id);
        }
        for id in std::mem::take(&mut self.registrations) {
            self.agent.unregister(self.now, id);
            self.drain();
        }
        self.wait(REST_MS);
        assert!(self.calls.values().all(|&ends| ends == 1), "{:?}", self.calls);
        assert_eq!(self.agent.alive(), (0, 0), "calls and transactions are left");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this were not so, the saved scripts would begin far from where calls are.
    #[test]
    fn the_saved_scripts_reach_every_state_of_a_call() {
        for (input, wanted) in [
            (
                &include_bytes!("../corpus/sip_agent/outgoing")[..],
                &["Challenged", "Provisional", "Answered", "ReInvite"][..],
            ),
            (include_bytes!("../corpus/sip_agent/outgoing-named"), &["Answered"]),
            (include_bytes!("../corpus/sip_agent/outgoing-forked"), &["Provisional", "Answered"]),
            (include_bytes!("../corpus/sip_agent/outgoing-session-timer"), &["Answered"]),
            (include_bytes!("../corpus/sip_agent/incoming"), &["Incoming", "Acknowledged", "InfoDigit", "ReInvite"]),
            (include_bytes!("../corpus/sip_agent/incoming-cancelled"), &["Incoming", "Ended"]),
            (include_bytes!("../corpus/sip_agent/incoming-reliable"), &["Incoming", "Acknowledged"]),
            (include_bytes!("../corpus/sip_agent/outgoing-reliable"), &["Provisional", "Answered"]),
            (
                include_bytes!("../corpus/sip_agent/outgoing-transfers"),
                &["Answered", "ReInviteAnswered", "TransferProgress", "TransferAsked"],
            ),
            (include_bytes!("../corpus/sip_agent/peer-over-tcp"), &["Incoming", "Acknowledged"]),
            (include_bytes!("../corpus/sip_agent/peer-over-wss"), &["Incoming", "Acknowledged"]),
            (include_bytes!("../corpus/sip_agent/registration-and-watch"), &["Registered", "PeerAlive"]),
        ] {
            let heard = play(input).heard;
            for event in wanted {
                assert!(heard.iter().any(|heard| heard == event), "no {event} in {heard:?}");
            }
        }
    }
}
