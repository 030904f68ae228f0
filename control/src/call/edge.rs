//! The edge: every session that joins a WebRTC leg to a SIP call. Pure: requests, engine events, SIP datagrams and `now` in;
//! replies, engine commands, SIP datagrams and the next deadline out.

use super::{EdgeError, EdgeEvent, EdgeReply, EdgeRequest, limits};
use crate::sip::{Credentials, SipConfig};
use crate::trace::timeline::Entry;
use engine::random::Random;
use engine::time::Instant;
use engine::worker::{Command, Event};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Where calls go and what we say about ourselves.
#[derive(Clone)]
pub struct EdgeConfig {
    /// Our user agent.
    pub sip: SipConfig,
    /// Addresses written into WebRTC descriptions as candidates, best first.
    pub webrtc_addresses: Vec<IpAddr>,
    /// Address written into RTP descriptions.
    pub rtp_address: IpAddr,
    /// For sessions that name no destination.
    pub default_route: Option<Route>,
    /// Routes that a session may name as its destination.
    pub routes: BTreeMap<String, Route>,
    /// SIP URIs that a session may name as its destination, by prefix. They use the default route's proxy and credentials.
    pub destinations_allowed: Vec<String>,
    /// Prefixes of callback URLs that are allowed beside loopback.
    pub callbacks_allowed: Vec<String>,
    /// Live sessions; past it `new` is refused.
    pub sessions_max: usize,
    /// Time the SIP side may ring.
    pub ring_ms_max: u64,
}

impl EdgeConfig {
    /// An edge that sends every call to `target`, with all else at its default.
    pub fn new(sip: SipConfig, address: IpAddr, target: &str) -> EdgeConfig {
        EdgeConfig {
            sip,
            webrtc_addresses: vec![address],
            rtp_address: address,
            default_route: Some(Route::new(target)),
            routes: BTreeMap::new(),
            destinations_allowed: Vec::new(),
            callbacks_allowed: Vec::new(),
            sessions_max: limits::SESSIONS_MAX,
            ring_ms_max: limits::RING_MS_MAX,
        }
    }
}

/// One way to the SIP side.
#[derive(Clone)]
pub struct Route {
    /// Request-URI.
    pub target: String,
    /// Outbound proxy.
    pub proxy: Option<String>,
    /// For 401 and 407.
    pub credentials: Option<Credentials>,
    /// Host part of From; our own address when `None`.
    pub from_host: Option<String>,
    /// Headers beside `X-WA-Call-ID`, such as `X-Twilio-Account`.
    pub headers: Vec<(String, String)>,
}

impl Route {
    /// Straight to `target`, without credentials.
    pub fn new(target: &str) -> Route {
        Route { target: target.to_owned(), proxy: None, credentials: None, from_host: None, headers: Vec::new() }
    }
}

/// What `poll_output` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeOutput {
    /// The outcome of a request.
    Reply {
        /// Which.
        request: u64,
        /// What.
        result: Result<EdgeReply, EdgeError>,
    },
    /// For an engine's worker. When its mailbox is full, give the command back with `handle_mailbox_full`.
    Engine {
        /// Which worker.
        worker: usize,
        /// What.
        command: Command,
    },
    /// One SIP datagram.
    Sip {
        /// Where.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// Look up `host` and answer with `resolved`.
    Resolve {
        /// Names the question.
        query: u64,
        /// The name.
        host: String,
        /// The port to be put behind every address.
        port: u16,
    },
    /// For the orchestrator: in this process, or by POST where the session named a URL.
    Notify {
        /// Where to.
        callback_url: Option<String>,
        /// What.
        event: EdgeEvent,
    },
    /// For the call's timeline.
    Timeline(Entry),
    /// Nothing to do before this instant.
    Timeout(Instant),
}

/// What is alive at the edge; all zero when nothing is left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeAlive {
    /// Sessions that are not over.
    pub sessions: usize,
    /// SIP calls.
    pub sip_calls: usize,
    /// SIP transactions.
    pub sip_transactions: usize,
}

/// What the edge counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeCounters {
    /// Sessions begun.
    pub sessions_begun: u64,
    /// Sessions ended.
    pub sessions_ended: u64,
    /// `new` refused.
    pub sessions_refused: u64,
    /// Sessions forgotten because bridge or SIP call never ended: bugs.
    pub sessions_abandoned: u64,
    /// Commands that found a mailbox full.
    pub mailbox_full: u64,
}

/// Every session of this process.
pub struct Edge {}

impl Edge {
    /// An edge without sessions, in front of an engine with that many workers (at least one).
    pub fn new(_config: EdgeConfig, _workers: usize, _random: Random) -> Edge {
        todo!()
    }

    /// Takes one request; answered by `Reply` with the same number.
    pub fn handle_request(&mut self, _now: Instant, _request: u64, _what: EdgeRequest) {
        todo!()
    }

    /// Takes one event of an engine's worker.
    pub fn handle_engine(&mut self, _now: Instant, _worker: usize, _event: Event) {
        todo!()
    }

    /// Takes back a command that found the worker's mailbox full: `Open` is refused, all else is offered again soon, in order.
    pub fn handle_mailbox_full(&mut self, _now: Instant, _worker: usize, _command: Command) {
        todo!()
    }

    /// Takes one SIP datagram.
    pub fn handle_sip(&mut self, _now: Instant, _from: SocketAddr, _bytes: &[u8]) {
        todo!()
    }

    /// The answer to `Resolve`; an empty list: no such name.
    pub fn resolved(&mut self, _now: Instant, _query: u64, _addresses: &[SocketAddr]) {
        todo!()
    }

    /// Refuses new sessions from now on; live ones go on.
    pub fn drain(&mut self) {
        todo!()
    }

    /// Ends every session. For a program that stops.
    pub fn shut_down(&mut self, _now: Instant) {
        todo!()
    }

    /// Call when the instant of the last `Timeout` has come.
    pub fn handle_timeout(&mut self, _now: Instant) {
        todo!()
    }

    /// Call until `Timeout`.
    pub fn poll_output(&mut self, _now: Instant) -> EdgeOutput {
        todo!()
    }

    /// What is alive.
    pub fn alive(&self) -> EdgeAlive {
        todo!()
    }

    /// What was counted so far.
    pub fn counters(&self) -> EdgeCounters {
        todo!()
    }
}
