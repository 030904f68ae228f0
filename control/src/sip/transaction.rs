//! Transactions: what makes requests and responses reliable over a network that loses, repeats and reorders
//! (RFC 3261 §17, corrected by RFC 6026).
//!
//! ```text
//! INVITE client   Calling -1xx-> Proceeding -2xx-> Accepted (M)      other client   Trying -1xx-> Proceeding -final-> Completed (K)
//!                 (A, B)         \-3xx+-> Completed (D, sends ACK)                  (E, F)
//! INVITE server   Proceeding -2xx-> Accepted (L)                     other server   Trying -final-> Completed (J)
//!                 (100 ms)   \-3xx+-> Completed (G, H) -ACK-> Confirmed (I)
//! ```
//!
//! The table decides which messages are repeats and absorbs them; what it passes on is new. On a reliable transport nothing is
//! repeated and the waiting states last no time. The 2xx of an INVITE and its ACK are end to end: the dialog's owner repeats them.
//!
//! Why one table with an ordered set of deadlines: the next deadline of thousands of transactions must be known after every
//! message, and the set answers in logarithmic time while its order is the same in every run.

use super::limits::{CLIENTS_MAX, SERVERS_MAX, T1_MS, T2_MS, T4_MS, TIMEOUT_MS, TIMER_D_MS, TRYING_MS};
use super::message::{Message, reason_phrase};
use super::transport::Hop;
use engine::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One transaction, either side. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransactionId(u64);

/// What a transaction wants from its surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionOutput {
    /// Send these bytes.
    Transmit {
        /// Where.
        to: Hop,
        /// What.
        bytes: Vec<u8>,
    },
    /// No final response in time (timer B or F, or a limit of ours). `Finished` follows.
    TimedOut(TransactionId),
    /// The transport lost the request (§17.1.4). `Finished` follows.
    Failed(TransactionId),
    /// The transaction is gone from the table.
    Finished(TransactionId),
}

/// What became of a request that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A new request. `merged`: the same request came before on another path (§8.2.2.2).
    New {
        /// Its transaction.
        id: TransactionId,
        /// Came before.
        merged: bool,
    },
    /// A repeat, or an ACK that belonged to a refusal: dealt with.
    Absorbed,
    /// An ACK for a 2xx: for the dialog.
    Acknowledged,
    /// The table is full.
    Full,
}

/// All transactions of one agent.
#[derive(Default)]
pub struct Transactions {
    next_id: u64,
    clients: BTreeMap<TransactionId, Client>,
    client_keys: BTreeMap<(String, String), TransactionId>,
    servers: BTreeMap<TransactionId, Server>,
    server_keys: BTreeMap<ServerKey, TransactionId>,
    merge_keys: BTreeMap<MergeKey, TransactionId>,
    deadlines: BTreeSet<(Instant, TransactionId)>,
    outputs: VecDeque<TransactionOutput>,
}

/// Branch (or all that stands for one in RFC 2543), sent-by, and method with ACK counted as INVITE (§17.2.3).
type ServerKey = (String, String, String);
/// Call-ID, From tag and CSeq.
type MergeKey = (String, String, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientState {
    /// Calling or Trying: nothing heard.
    Silent,
    Proceeding,
    Completed,
    Accepted,
}

struct Client {
    key: (String, String),
    request: Message,
    bytes: Vec<u8>,
    to: Hop,
    reliable: bool,
    state: ClientState,
    /// `end_at` was set by `limit`: no provisional response lifts it.
    limited: bool,
    ack: Option<Vec<u8>>,
    timers: Timers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServerState {
    /// Trying or Proceeding: no final response yet.
    Proceeding,
    Completed,
    Confirmed,
    Accepted,
}

struct Server {
    key: ServerKey,
    merge_key: Option<MergeKey>,
    is_invite: bool,
    to: Hop,
    reliable: bool,
    state: ServerState,
    /// The 100 to be sent when nothing else was.
    trying: Option<Vec<u8>>,
    response: Option<Vec<u8>>,
    timers: Timers,
}

/// Every timer of a transaction: it repeats something, and it ends.
struct Timers {
    /// A, E or G; the 100 of an INVITE server.
    repeat_at: Instant,
    interval_ms: u64,
    interval_ms_max: u64,
    /// B, D, F, H, I, J, K, L or M.
    end_at: Instant,
    /// What the ordered set holds for this transaction.
    registered: Instant,
}

impl Timers {
    fn new(end_at: Instant) -> Timers {
        let never = Instant::NEVER;
        Timers { repeat_at: never, interval_ms: T1_MS, interval_ms_max: T2_MS, end_at, registered: never }
    }

    fn repeat_from(&mut self, now: Instant) {
        self.repeat_at = now.plus_millis(self.interval_ms);
    }

    fn back_off(&mut self, now: Instant) {
        self.interval_ms = (self.interval_ms * 2).min(self.interval_ms_max);
        self.repeat_from(now);
    }

    /// Enters a waiting state: nothing is repeated, and after `millis` all is over.
    fn linger(&mut self, now: Instant, millis: u64, reliable: bool) {
        self.repeat_at = Instant::NEVER;
        self.end_at = now.plus_millis(if reliable { 0 } else { millis });
    }
}

impl Transactions {
    /// Sends a request that has its Via and starts its timers. `None`: no Via, or the table is full.
    pub fn start(&mut self, now: Instant, request: Message, to: Hop) -> Option<TransactionId> {
        let reliable = to.transport.is_reliable();
        if self.clients.len() >= CLIENTS_MAX {
            return None;
        }
        let key = (request.via()?.branch()?.to_owned(), request.method()?.to_owned());
        let id = self.take_id();
        let mut timers = Timers::new(now.plus_millis(TIMEOUT_MS));
        if !reliable {
            // An INVITE backs off without a ceiling (timer A), all else up to T2 (timer E).
            timers.interval_ms_max = if key.1 == "INVITE" { TIMEOUT_MS } else { T2_MS };
            timers.repeat_from(now);
        }
        let bytes = request.to_bytes();
        self.outputs.push_back(TransactionOutput::Transmit { to: to.clone(), bytes: bytes.clone() });
        self.client_keys.insert(key.clone(), id);
        let state = ClientState::Silent;
        let client = Client { key, request, bytes, to, reliable, state, limited: false, ack: None, timers };
        self.clients.insert(id, client);
        self.register(id);
        Some(id)
    }

    /// Goes on with an INVITE of an earlier run that had a provisional response: nothing is sent.
    pub fn resume(&mut self, request: Message, to: Hop) -> Option<TransactionId> {
        if self.clients.len() >= CLIENTS_MAX {
            return None;
        }
        let key = (request.via()?.branch()?.to_owned(), request.method()?.to_owned());
        let id = self.take_id();
        let (reliable, state) = (to.transport.is_reliable(), ClientState::Proceeding);
        let (bytes, timers) = (Vec::new(), Timers::new(Instant::NEVER));
        self.client_keys.insert(key.clone(), id);
        self.clients.insert(id, Client { key, request, bytes, to, reliable, state, limited: false, ack: None, timers });
        self.register(id);
        Some(id)
    }

    /// Takes a response. `Some`: it is news for the owner of that transaction.
    pub fn handle_response(&mut self, now: Instant, response: &Message) -> Option<TransactionId> {
        let (_, method) = response.cseq()?;
        let key = (response.via()?.branch()?.to_owned(), method.to_owned());
        let id = *self.client_keys.get(&key)?;
        let client = self.clients.get_mut(&id)?;
        let passed = match method == "INVITE" {
            true => client.invite_response(now, response, &mut self.outputs),
            false => client.other_response(now, response),
        };
        self.register(id);
        passed.then_some(id)
    }

    /// Takes a request, which will be answered to `reply_to`.
    pub fn handle_request(&mut self, now: Instant, request: &Message, reply_to: &Hop) -> Received {
        let Some(key) = server_key(request, request.method().unwrap_or("")) else { return Received::Absorbed };
        let is_ack = request.method() == Some("ACK");
        if let Some(&id) = self.server_keys.get(&key) {
            let Some(server) = self.servers.get_mut(&id) else { return Received::Absorbed };
            if is_ack && server.state == ServerState::Accepted {
                return Received::Acknowledged;
            }
            server.repeated(now, is_ack, &mut self.outputs);
            self.register(id);
            return Received::Absorbed;
        }
        if is_ack {
            return Received::Acknowledged;
        }
        if self.servers.len() >= SERVERS_MAX {
            return Received::Full;
        }
        let id = self.take_id();
        let merge_key = merge_key(request);
        let merged = merge_key.as_ref().is_some_and(|key| self.merge_keys.contains_key(key));
        let merge_key = merge_key.filter(|_| !merged);
        if let Some(key) = &merge_key {
            self.merge_keys.insert(key.clone(), id);
        }
        self.server_keys.insert(key.clone(), id);
        let mut server = Server::new(key, request, reply_to.clone());
        server.merge_key = merge_key;
        if server.is_invite {
            server.timers.repeat_at = now.plus_millis(TRYING_MS);
        }
        self.servers.insert(id, server);
        self.register(id);
        Received::New { id, merged }
    }

    /// Answers a request. Ignored once a final response was given.
    pub fn respond(&mut self, now: Instant, id: TransactionId, response: &Message) {
        let (Some(server), Some(code)) = (self.servers.get_mut(&id), response.code()) else { return };
        if server.state != ServerState::Proceeding {
            return;
        }
        let bytes = response.to_bytes();
        self.outputs.push_back(TransactionOutput::Transmit { to: server.to.clone(), bytes: bytes.clone() });
        server.respond(now, code, bytes);
        self.register(id);
    }

    /// Drops a request without an answer: its repeats are new again.
    pub fn forget(&mut self, id: TransactionId) {
        self.remove_server(id);
    }

    /// The INVITE transaction that a CANCEL means (§9.2), and whether it is still unanswered.
    pub fn cancelled_by(&self, cancel: &Message) -> Option<(TransactionId, bool)> {
        let id = *self.server_keys.get(&server_key(cancel, "INVITE")?)?;
        self.servers.get(&id).map(|server| (id, server.state == ServerState::Proceeding))
    }

    /// Stops repeating a request nobody answers, but still listens for late responses.
    pub fn stop_repeating(&mut self, id: TransactionId) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.timers.repeat_at = Instant::NEVER;
            self.register(id);
        }
    }

    /// Gives a request without final response until `end_at`: one that was cancelled (§9.1), or a re-INVITE.
    pub fn limit(&mut self, id: TransactionId, end_at: Instant) {
        if let Some(client) = self.clients.get_mut(&id)
            && matches!(client.state, ClientState::Silent | ClientState::Proceeding)
        {
            client.timers.end_at = end_at;
            client.limited = true;
            self.register(id);
        }
    }

    /// Nothing can be sent to that place, or the connection is gone: requests that wait for a response there have failed.
    pub fn fail(&mut self, hop: &Hop) {
        let lost = |client: &Client| match (hop.connection, client.to.connection) {
            // A WebSocket peer cannot answer on another connection; others may connect to us (§18.2.2).
            (Some(gone), Some(used)) if gone == used => {
                client.state == ClientState::Silent
                    || (client.state == ClientState::Proceeding && hop.transport.is_websocket())
            }
            (_, None) => client.to.same_place(hop) && client.state == ClientState::Silent,
            (None, Some(_)) => client.to.same_place(hop) && client.state == ClientState::Silent,
            (Some(_), Some(_)) => false,
        };
        let failed: Vec<TransactionId> =
            self.clients.iter().filter(|(_, client)| lost(client)).map(|(&id, _)| id).collect();
        for id in failed {
            self.outputs.push_back(TransactionOutput::Failed(id));
            self.remove_client(id);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.deadlines.first()
            && at <= now
        {
            if self.clients.contains_key(&id) {
                self.client_timeout(now, id);
            } else {
                self.server_timeout(now, id);
            }
        }
    }

    /// Next output, if any.
    pub fn poll(&mut self) -> Option<TransactionOutput> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` has something to do.
    pub fn deadline(&self) -> Instant {
        self.deadlines.first().map_or(Instant::NEVER, |&(at, _)| at)
    }

    /// Transactions alive.
    pub fn count(&self) -> usize {
        self.clients.len() + self.servers.len()
    }

    fn client_timeout(&mut self, now: Instant, id: TransactionId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if client.timers.end_at <= now {
            if matches!(client.state, ClientState::Silent | ClientState::Proceeding) {
                self.outputs.push_back(TransactionOutput::TimedOut(id));
            }
            self.remove_client(id);
            return;
        }
        self.outputs.push_back(TransactionOutput::Transmit { to: client.to.clone(), bytes: client.bytes.clone() });
        client.timers.back_off(now);
        self.register(id);
    }

    fn server_timeout(&mut self, now: Instant, id: TransactionId) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        if server.timers.end_at <= now {
            self.remove_server(id);
            return;
        }
        if server.state == ServerState::Proceeding {
            server.timers.repeat_at = Instant::NEVER;
            server.response = server.trying.take();
        } else {
            server.timers.back_off(now);
        }
        server.repeat(&mut self.outputs);
        self.register(id);
    }

    fn remove_client(&mut self, id: TransactionId) {
        if let Some(client) = self.clients.remove(&id) {
            self.client_keys.remove(&client.key);
            self.deadlines.remove(&(client.timers.registered, id));
            self.outputs.push_back(TransactionOutput::Finished(id));
        }
    }

    fn remove_server(&mut self, id: TransactionId) {
        if let Some(server) = self.servers.remove(&id) {
            self.server_keys.remove(&server.key);
            if let Some(key) = &server.merge_key {
                self.merge_keys.remove(key);
            }
            self.deadlines.remove(&(server.timers.registered, id));
            self.outputs.push_back(TransactionOutput::Finished(id));
        }
    }

    /// Brings the ordered set up to date with the timers of `id`.
    fn register(&mut self, id: TransactionId) {
        let timers = match (self.clients.get_mut(&id), self.servers.get_mut(&id)) {
            (Some(client), _) => &mut client.timers,
            (None, Some(server)) => &mut server.timers,
            (None, None) => return,
        };
        let next = timers.repeat_at.min(timers.end_at);
        if next != timers.registered {
            self.deadlines.remove(&(timers.registered, id));
            timers.registered = next;
            if next != Instant::NEVER {
                self.deadlines.insert((next, id));
            }
        }
    }

    fn take_id(&mut self) -> TransactionId {
        self.next_id += 1;
        TransactionId(self.next_id)
    }
}

impl Client {
    /// §17.1.1.2 and RFC 6026 §7.2.
    fn invite_response(&mut self, now: Instant, response: &Message, outputs: &mut VecDeque<TransactionOutput>) -> bool {
        let code = response.code().unwrap_or(0);
        let open = matches!(self.state, ClientState::Silent | ClientState::Proceeding);
        match code {
            100..200 if open => {
                if self.state == ClientState::Silent && !self.limited {
                    // From here on a person may be picking up a telephone: the transaction waits without limit.
                    self.timers.end_at = Instant::NEVER;
                }
                self.state = ClientState::Proceeding;
                self.timers.repeat_at = Instant::NEVER;
                true
            }
            200..300 if open => {
                self.state = ClientState::Accepted;
                // Not shortened on reliable transports: forks answer late on any (RFC 6026 §7.2, timer M).
                self.timers.linger(now, TIMEOUT_MS, false);
                true
            }
            200..300 => self.state == ClientState::Accepted,
            300.. if open => {
                self.state = ClientState::Completed;
                self.timers.linger(now, TIMER_D_MS, self.reliable);
                self.ack = Some(self.acknowledgement(response).to_bytes());
                self.send_ack(outputs);
                true
            }
            300.. if self.state == ClientState::Completed => {
                self.send_ack(outputs);
                false
            }
            _ => false,
        }
    }

    /// §17.1.2.2.
    fn other_response(&mut self, now: Instant, response: &Message) -> bool {
        if self.state == ClientState::Completed {
            return false;
        }
        if response.code().is_some_and(|code| code < 200) {
            self.state = ClientState::Proceeding;
            // Still repeated, but at T2 (timer E).
            self.timers.interval_ms = T2_MS;
        } else {
            self.state = ClientState::Completed;
            self.timers.linger(now, T4_MS, self.reliable);
        }
        true
    }

    /// The ACK of a refusal belongs to the INVITE's transaction (§17.1.1.3).
    fn acknowledgement(&self, response: &Message) -> Message {
        let mut ack = Message::request("ACK", self.request.uri().unwrap_or(""));
        if let Some(via) = self.request.list("Via").next() {
            ack.push("Via", via);
        }
        ack.push("Max-Forwards", "70");
        ack.copy(&self.request, "Route");
        ack.copy(&self.request, "From");
        ack.copy(response, "To");
        ack.copy(&self.request, "Call-ID");
        ack.push("CSeq", format!("{} ACK", self.request.cseq().map_or(0, |(number, _)| number)));
        ack
    }

    fn send_ack(&self, outputs: &mut VecDeque<TransactionOutput>) {
        if let Some(bytes) = self.ack.clone() {
            outputs.push_back(TransactionOutput::Transmit { to: self.to.clone(), bytes });
        }
    }
}

impl Server {
    fn new(key: ServerKey, request: &Message, to: Hop) -> Server {
        let reliable = to.transport.is_reliable();
        let is_invite = key.2 == "INVITE";
        let trying = is_invite.then(|| Message::response(request, 100, reason_phrase(100), None).to_bytes());
        let (state, timers) = (ServerState::Proceeding, Timers::new(Instant::NEVER));
        Server { key, merge_key: None, is_invite, to, reliable, state, trying, response: None, timers }
    }

    /// A repeated request, or the ACK of a refusal (§17.2.1, §17.2.2).
    fn repeated(&mut self, now: Instant, is_ack: bool, outputs: &mut VecDeque<TransactionOutput>) {
        match (is_ack, self.state) {
            (true, ServerState::Completed) if self.is_invite => {
                self.state = ServerState::Confirmed;
                self.timers.linger(now, T4_MS, self.reliable);
            }
            (false, ServerState::Proceeding | ServerState::Completed) => self.repeat(outputs),
            _ => {}
        }
    }

    fn respond(&mut self, now: Instant, code: u16, bytes: Vec<u8>) {
        self.trying = None;
        self.timers.repeat_at = Instant::NEVER;
        self.response = Some(bytes);
        match code {
            ..200 => {}
            200..300 if self.is_invite => {
                self.state = ServerState::Accepted;
                // Not shortened on reliable transports either (RFC 6026 §7.1, timer L).
                self.timers.linger(now, TIMEOUT_MS, false);
            }
            _ if self.is_invite => {
                self.state = ServerState::Completed;
                self.timers.end_at = now.plus_millis(TIMEOUT_MS);
                if !self.reliable {
                    self.timers.repeat_from(now);
                }
            }
            _ => {
                self.state = ServerState::Completed;
                self.timers.linger(now, TIMEOUT_MS, self.reliable);
            }
        }
    }

    fn repeat(&self, outputs: &mut VecDeque<TransactionOutput>) {
        if let Some(bytes) = self.response.clone() {
            outputs.push_back(TransactionOutput::Transmit { to: self.to.clone(), bytes });
        }
    }
}

/// What identifies a request's transaction (§17.2.3); without the cookie, by the headers RFC 2543 compares.
fn server_key(request: &Message, method: &str) -> Option<ServerKey> {
    let via = request.via()?;
    let method = if method == "ACK" { "INVITE" } else { method };
    let sent_by = format!("{}:{}", via.host.to_ascii_lowercase(), via.port.unwrap_or(super::uri::PORT_DEFAULT));
    let branch = match via.branch() {
        Some(branch) => branch.to_owned(),
        None => {
            let (number, _) = request.cseq()?;
            let top = via.param("branch").unwrap_or("");
            format!("{} {} {} {number} {top}", request.uri()?, request.from_tag().unwrap_or(""), request.call_id())
        }
    };
    Some((branch, sent_by, method.to_owned()))
}

/// Only requests outside a dialog can be merged.
fn merge_key(request: &Message) -> Option<MergeKey> {
    let (number, method) = request.cseq()?;
    let eligible = request.to_tag().is_none() && method != "CANCEL";
    let from = request.from_tag().unwrap_or("").to_owned();
    eligible.then(|| (request.call_id().to_owned(), from, format!("{number} {method}")))
}

#[cfg(test)]
mod tests {
    use super::super::transport::Transport;
    use super::*;
    use TransactionOutput::{Failed, Finished, TimedOut, Transmit};

    const PEER: &str = "192.0.2.2:5060";

    fn hop(reliable: bool) -> Hop {
        let transport = if reliable { Transport::Tcp } else { Transport::Udp };
        Hop::new(transport, PEER.parse().unwrap())
    }

    fn request(method: &str) -> Message {
        let mut m = Message::request(method, "sip:bob@192.0.2.2");
        m.push("Via", "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKone;rport");
        m.push("From", "<sip:a@192.0.2.1>;tag=a");
        m.push("To", "<sip:bob@192.0.2.2>");
        m.push("Call-ID", "call");
        m.push("CSeq", format!("7 {method}"));
        m
    }

    fn answer(to: &Message, code: u16) -> Message {
        Message::response(to, code, reason_phrase(code), Some("b"))
    }

    /// Runs until nothing is left; returns the milliseconds of each transmission and of the end.
    fn run(t: &mut Transactions, until_ms: u64) -> (Vec<u64>, Option<u64>, bool) {
        let (mut sent, mut finished, mut timed_out, mut now) = (Vec::new(), None, false, Instant::ZERO);
        loop {
            while let Some(output) = t.poll() {
                match output {
                    Transmit { .. } => sent.push(now.as_millis()),
                    TimedOut(_) | Failed(_) => timed_out = true,
                    Finished(_) => finished = Some(now.as_millis()),
                }
            }
            now = t.deadline();
            if now > Instant::from_millis(until_ms) {
                return (sent, finished, timed_out);
            }
            t.handle_timeout(now);
        }
    }

    #[test]
    fn an_unanswered_invite_backs_off_and_ends_with_timer_b() {
        let mut t = Transactions::default();
        t.start(Instant::ZERO, request("INVITE"), hop(false)).unwrap();
        assert_eq!(run(&mut t, 60_000), (vec![0, 500, 1500, 3500, 7500, 15500, 31500], Some(32_000), true));
        assert_eq!(t.count(), 0);
    }

    #[test]
    fn another_request_backs_off_to_t2_and_ends_with_timer_f() {
        let mut t = Transactions::default();
        t.start(Instant::ZERO, request("BYE"), hop(false)).unwrap();
        let expected = vec![0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500];
        assert_eq!(run(&mut t, 60_000), (expected, Some(32_000), true));
    }

    #[test]
    fn reliable_transports_repeat_nothing() {
        let mut t = Transactions::default();
        t.start(Instant::ZERO, request("INVITE"), hop(true)).unwrap();
        assert_eq!(run(&mut t, 60_000), (vec![0], Some(32_000), true));
        let bye = request("BYE");
        t.start(Instant::ZERO, bye.clone(), hop(true)).unwrap();
        assert!(t.handle_response(Instant::ZERO, &answer(&bye, 200)).is_some());
        assert_eq!(run(&mut t, 60_000), (vec![0], Some(0), false));
    }

    #[test]
    fn a_refusal_is_acknowledged_each_time_but_passed_once() {
        let (mut t, invite) = (Transactions::default(), request("INVITE"));
        let id = t.start(Instant::ZERO, invite.clone(), hop(false)).unwrap();
        assert_eq!(t.handle_response(Instant::ZERO, &answer(&invite, 180)), Some(id));
        let busy = answer(&invite, 486);
        assert_eq!(t.handle_response(Instant::ZERO, &busy), Some(id));
        assert_eq!(t.handle_response(Instant::ZERO, &busy), None);
        t.poll();
        let (Some(Transmit { bytes, .. }), Some(Transmit { bytes: again, .. })) = (t.poll(), t.poll()) else {
            panic!()
        };
        assert_eq!(bytes, again);
        let ack = Message::parse(&bytes).unwrap();
        assert_eq!(ack.check(), Ok(()));
        assert_eq!((ack.method(), ack.to_tag(), ack.cseq()), (Some("ACK"), Some("b"), Some((7, "ACK"))));
        assert_eq!(ack.header("Via"), invite.header("Via"));
        assert_eq!(run(&mut t, 60_000), (vec![], Some(32_000), false));
    }

    #[test]
    fn a_limit_outlives_the_provisional_response_that_lifts_timer_b() {
        for (limited, ended) in [(true, Some(60_000)), (false, None)] {
            let (mut t, invite) = (Transactions::default(), request("INVITE"));
            let id = t.start(Instant::ZERO, invite.clone(), hop(false)).unwrap();
            if limited {
                t.limit(id, Instant::from_millis(60_000));
            }
            assert_eq!(t.handle_response(Instant::ZERO, &answer(&invite, 100)), Some(id));
            t.handle_timeout(Instant::from_millis(59_999));
            assert_eq!(t.count(), 1);
            assert_eq!(t.deadline(), ended.map_or(Instant::NEVER, Instant::from_millis));
        }
    }

    #[test]
    fn every_2xx_is_passed_until_timer_m() {
        let (mut t, invite) = (Transactions::default(), request("INVITE"));
        let id = t.start(Instant::ZERO, invite.clone(), hop(false)).unwrap();
        for _ in 0..3 {
            assert_eq!(t.handle_response(Instant::ZERO, &answer(&invite, 200)), Some(id));
        }
        assert_eq!(t.handle_response(Instant::ZERO, &answer(&invite, 486)), None);
        assert_eq!(run(&mut t, 60_000), (vec![0], Some(32_000), false));
    }

    #[test]
    fn a_response_of_another_method_or_branch_is_not_ours() {
        let (mut t, invite) = (Transactions::default(), request("INVITE"));
        t.start(Instant::ZERO, invite, hop(false)).unwrap();
        assert_eq!(t.handle_response(Instant::ZERO, &answer(&request("CANCEL"), 200)), None);
    }

    #[test]
    fn an_invite_server_says_100_after_200_ms_and_repeats_its_refusal_until_timer_h() {
        let (mut t, invite) = (Transactions::default(), request("INVITE"));
        let received = t.handle_request(Instant::ZERO, &invite, &hop(false));
        let Received::New { id, merged: false } = received else { panic!("{received:?}") };
        assert_eq!(t.deadline(), Instant::from_millis(200));
        t.handle_timeout(Instant::from_millis(200));
        let Some(Transmit { bytes, .. }) = t.poll() else { panic!() };
        assert!(bytes.starts_with(b"SIP/2.0 100 Trying\r\n"));
        assert_eq!(t.handle_request(Instant::ZERO, &invite, &hop(false)), Received::Absorbed);
        assert!(matches!(t.poll(), Some(Transmit { .. })));
        t.respond(Instant::ZERO, id, &answer(&invite, 486));
        assert_eq!(
            run(&mut t, 60_000),
            (vec![0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500], Some(32_000), false)
        );
    }

    #[test]
    fn the_ack_of_a_refusal_ends_its_repeats() {
        let (mut t, invite) = (Transactions::default(), request("INVITE"));
        let Received::New { id, .. } = t.handle_request(Instant::ZERO, &invite, &hop(false)) else { panic!() };
        t.respond(Instant::ZERO, id, &answer(&invite, 486));
        assert_eq!(t.handle_request(Instant::ZERO, &request("ACK"), &hop(false)), Received::Absorbed);
        assert_eq!(run(&mut t, 60_000), (vec![0], Some(5_000), false));
    }

    #[test]
    fn an_accepted_invite_absorbs_repeats_and_passes_its_ack() {
        let (mut t, invite) = (Transactions::default(), request("INVITE"));
        let Received::New { id, .. } = t.handle_request(Instant::ZERO, &invite, &hop(false)) else { panic!() };
        t.respond(Instant::ZERO, id, &answer(&invite, 200));
        assert_eq!(t.handle_request(Instant::ZERO, &invite, &hop(false)), Received::Absorbed);
        assert_eq!(t.handle_request(Instant::ZERO, &request("ACK"), &hop(false)), Received::Acknowledged);
        assert_eq!(run(&mut t, 60_000), (vec![0], Some(32_000), false));
    }

    #[test]
    fn a_request_that_took_two_paths_is_called_merged() {
        let (mut t, invite) = (Transactions::default(), request("INVITE"));
        t.handle_request(Instant::ZERO, &invite, &hop(false));
        let mut other = invite.clone();
        other.remove("Via");
        other.push("Via", "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKtwo");
        let received = t.handle_request(Instant::ZERO, &other, &hop(false));
        assert!(matches!(received, Received::New { merged: true, .. }));
    }

    #[test]
    fn a_cancel_finds_its_invite() {
        let (mut t, invite) = (Transactions::default(), request("INVITE"));
        let Received::New { id, .. } = t.handle_request(Instant::ZERO, &invite, &hop(false)) else { panic!() };
        assert_eq!(t.cancelled_by(&request("CANCEL")), Some((id, true)));
        t.respond(Instant::ZERO, id, &answer(&invite, 200));
        assert_eq!(t.cancelled_by(&request("CANCEL")), Some((id, false)));
    }

    #[test]
    fn senders_of_rfc_2543_are_told_apart_without_branches() {
        let mut t = Transactions::default();
        let mut old = request("INVITE");
        old.remove("Via");
        old.push("Via", "SIP/2.0/UDP 192.0.2.1");
        assert!(matches!(t.handle_request(Instant::ZERO, &old, &hop(false)), Received::New { .. }));
        assert_eq!(t.handle_request(Instant::ZERO, &old, &hop(false)), Received::Absorbed);
        old.remove("CSeq");
        old.push("CSeq", "8 INVITE");
        assert!(matches!(t.handle_request(Instant::ZERO, &old, &hop(false)), Received::New { .. }));
    }
}
