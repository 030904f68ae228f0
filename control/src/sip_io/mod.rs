//! The sockets of SIP: UDP, TCP, TLS and WebSocket, listening and connecting.
//!
//! ```text
//! listeners -accept-> connection task [ reader -> framer ]--Heard--> runtime (one task, owns SipIo)
//!                                     [ writer <- queue  ]<--bytes-- SipIo::send(hop)
//! SipIo::send -no connection yet-> connection task: connect, TLS, WebSocket; what was sent meanwhile waits in its queue
//! ```
//!
//! Each connection is one task that polls its reader and its writer side by side: a peer that never reads fills its own queue and is
//! closed for it, and nobody else notices. The runtime never waits for a connection: a full queue is a closed connection, not a pause.
//! Readers do wait for the runtime, one message each, and the channel serves them in turn.
//!
//! Why datagrams do not go through tasks: they need no handshake and no order, and the runtime reads them where it writes them.

mod connection;
pub mod limits;
mod listener;
mod outgoing;
pub mod resolver;
pub mod tls;
pub mod websocket;

use crate::sip::transport::{ConnectionId, Hop, PeerIdentity, Transport};
use connection::{Line, Reason};
use engine::io::clock;
use limits::{
    COMPLAINTS_PER_MINUTE_MAX, CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX, HEARD_MAX, TURN_MAX, WRITE_QUEUE_MAX,
};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tls::{Server, TlsSettings};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Semaphore, mpsc};

/// Longest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Where SIP is served, and how.
#[derive(Clone, Default)]
pub struct SipIoSettings {
    /// UDP, if served.
    pub udp: Option<SocketAddr>,
    /// TCP, if served.
    pub tcp: Option<SocketAddr>,
    /// TLS, if served.
    pub tls: Option<SocketAddr>,
    /// WebSocket without TLS, if served: behind a proxy that ends TLS, and for tests.
    pub ws: Option<SocketAddr>,
    /// WebSocket over TLS, if served.
    pub wss: Option<SocketAddr>,
    /// Certificates, ours and others'.
    pub certificates: TlsSettings,
    /// Origins that pages may connect from (RFC 6455 §10.2), such as `https://agents.example.com`; empty: any, since digest decides.
    pub origins_allowed: Vec<String>,
    /// Connections from one address; 0: the default.
    pub connections_per_address_max: usize,
    /// Servers that want something of their own when we connect.
    pub servers: Vec<Server>,
}

/// What reaches the runtime from the sockets.
#[derive(Debug)]
pub enum Heard {
    /// A message.
    Message {
        /// Where it came from.
        hop: Hop,
        /// What TLS proved.
        peer: Arc<PeerIdentity>,
        /// All of it.
        bytes: Vec<u8>,
    },
    /// A connection is gone; `failed`: it never came to be, so what was sent to it has got nowhere.
    Lost {
        /// Where it led.
        hop: Hop,
        /// It never came to be.
        failed: bool,
    },
    /// For the table of connections; `receive` swallows it.
    #[doc(hidden)]
    Opened(Box<Opened>),
}

/// A connection that was accepted.
#[derive(Debug)]
#[doc(hidden)]
pub struct Opened {
    hop: Hop,
    queue: mpsc::Sender<Vec<u8>>,
}

/// What the sockets count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SipIoCounters {
    /// Connections alive.
    pub connections: usize,
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Connections refused for a limit.
    pub refused: u64,
    /// Connections that spoke the wrong protocol, or whose handshake failed.
    pub handshakes_failed: u64,
    /// Connections closed because their peer did not read.
    pub stalled: u64,
    /// Connections of ours that could not be made.
    pub unreachable: u64,
    /// Datagrams and messages that no socket took.
    pub unsent: u64,
}

/// The sockets, owned by the task that owns the calls.
pub struct SipIo {
    udp: Option<UdpSocket>,
    heard: mpsc::Receiver<Heard>,
    /// Received while waiting.
    next: Option<Heard>,
    shared: Arc<Shared>,
    connector: outgoing::Connector,
    lines: BTreeMap<ConnectionId, mpsc::Sender<Vec<u8>>>,
    /// Connections of ours, by where they lead.
    outgoing: BTreeMap<Hop, ConnectionId>,
    /// Where each connection leads.
    hops: BTreeMap<ConnectionId, Hop>,
    bound: Vec<(Transport, SocketAddr)>,
    unsent: u64,
    datagram: Vec<u8>,
}

/// What all connection tasks share.
pub(crate) struct Shared {
    heard: mpsc::Sender<Heard>,
    next: AtomicU64,
    alive: AtomicUsize,
    handshakes: Arc<Semaphore>,
    per_address: Mutex<BTreeMap<IpAddr, usize>>,
    per_address_max: usize,
    origins_allowed: Vec<String>,
    accepted: AtomicU64,
    refused: AtomicU64,
    handshakes_failed: AtomicU64,
    stalled: AtomicU64,
    unreachable: AtomicU64,
    complaints: Mutex<Complaints>,
}

/// The budget of log lines.
#[derive(Default)]
struct Complaints {
    minute: u64,
    written: u32,
    dropped: u64,
}

impl SipIo {
    /// Binds what is configured. Ports of 0 are chosen by the system.
    pub async fn bind(settings: &SipIoSettings) -> io::Result<SipIo> {
        let (sender, heard) = mpsc::channel(HEARD_MAX);
        let per_address_max = match settings.connections_per_address_max {
            0 => CONNECTIONS_PER_ADDRESS_MAX,
            configured => configured,
        };
        let shared = Arc::new(Shared {
            heard: sender,
            next: AtomicU64::new(0),
            alive: AtomicUsize::new(0),
            handshakes: Arc::new(Semaphore::new(limits::HANDSHAKES_MAX)),
            per_address: Mutex::new(BTreeMap::new()),
            per_address_max,
            origins_allowed: settings.origins_allowed.clone(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            handshakes_failed: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
            unreachable: AtomicU64::new(0),
            complaints: Mutex::new(Complaints::default()),
        });
        let mut bound = Vec::new();
        let udp = match settings.udp {
            Some(address) => {
                let socket =
                    UdpSocket::bind(address).await.map_err(|error| not_bound(address, Transport::Udp, error))?;
                bound.push((Transport::Udp, socket.local_addr()?));
                Some(socket)
            }
            None => None,
        };
        let listeners = [
            (Transport::Tcp, settings.tcp),
            (Transport::Tls, settings.tls),
            (Transport::Ws, settings.ws),
            (Transport::Wss, settings.wss),
        ];
        for (transport, address) in listeners {
            let Some(address) = address else { continue };
            let socket = TcpListener::bind(address).await.map_err(|error| not_bound(address, transport, error))?;
            bound.push((transport, socket.local_addr()?));
            let acceptor = transport.is_secure().then(|| settings.certificates.acceptor(transport)).transpose()?;
            tokio::spawn(listener::run(socket, transport, acceptor, shared.clone()));
        }
        let connector = outgoing::Connector::new(settings)?;
        Ok(SipIo {
            udp,
            heard,
            next: None,
            shared,
            connector,
            lines: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            hops: BTreeMap::new(),
            bound,
            unsent: 0,
            datagram: vec![0; DATAGRAM_BYTES_MAX],
        })
    }

    /// What is served where.
    pub fn bound(&self) -> &[(Transport, SocketAddr)] {
        &self.bound
    }

    /// The address that a transport is served at.
    pub fn address(&self, transport: Transport) -> Option<SocketAddr> {
        self.bound.iter().find(|(known, _)| *known == transport).map(|&(_, address)| address)
    }

    /// For WebSocket connections that the HTTP server takes.
    pub fn door(&self) -> websocket::Door {
        websocket::Door::new(self.shared.clone())
    }

    /// What was counted so far.
    pub fn counters(&self) -> SipIoCounters {
        let shared = &self.shared;
        SipIoCounters {
            connections: shared.alive.load(Ordering::Relaxed),
            accepted: shared.accepted.load(Ordering::Relaxed),
            refused: shared.refused.load(Ordering::Relaxed),
            handshakes_failed: shared.handshakes_failed.load(Ordering::Relaxed),
            stalled: shared.stalled.load(Ordering::Relaxed),
            unreachable: shared.unreachable.load(Ordering::Relaxed),
            unsent: self.unsent,
        }
    }

    /// Waits until `receive` has something to give. Nothing is lost when the future is dropped.
    pub async fn readable(&mut self) {
        if self.next.is_some() {
            return;
        }
        let udp = async {
            match &self.udp {
                Some(udp) => drop(udp.readable().await),
                None => std::future::pending().await,
            }
        };
        // What is received is kept at once: there is no moment at which a dropped future could take it along.
        tokio::select! {
            () = udp => {}
            heard = self.heard.recv() => self.next = heard,
        }
    }

    /// Gives everything that has come, at most a turn's worth.
    pub fn receive(&mut self, mut take: impl FnMut(Heard)) {
        for _ in 0..TURN_MAX {
            let Some(udp) = &self.udp else { break };
            match udp.try_recv_from(&mut self.datagram) {
                Ok((len, from)) => take(Heard::Message {
                    hop: Hop::udp(from),
                    peer: Arc::default(),
                    bytes: self.datagram[..len].to_vec(),
                }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // ECONNREFUSED and the like belong to something that was sent earlier.
                Err(_) => {}
            }
        }
        for _ in 0..TURN_MAX {
            match self.next.take().or_else(|| self.heard.try_recv().ok()) {
                Some(Heard::Opened(opened)) => self.enter(*opened),
                Some(Heard::Lost { hop, failed }) => {
                    self.forget(&hop);
                    take(Heard::Lost { hop, failed });
                }
                Some(message) => take(message),
                None => break,
            }
        }
    }

    /// Sends one message. Never waits: what cannot be queued is lost, as a datagram would be, and a connection whose peer does not read
    /// is closed.
    pub fn send(&mut self, hop: &Hop, bytes: Vec<u8>) {
        if hop.transport == Transport::Udp {
            // SIP repeats what is lost (RFC 3261 §17); waiting for a socket would stop every call.
            let sent = self.udp.as_ref().map(|udp| udp.try_send_to(&bytes, hop.remote));
            self.unsent += u64::from(!matches!(sent, Some(Ok(_))));
            return;
        }
        let known = hop.connection.filter(|id| self.lines.contains_key(id)).or_else(|| {
            let place = Hop { connection: None, ..hop.clone() };
            self.outgoing.get(&place).copied()
        });
        match known {
            Some(id) => self.write(id, bytes),
            // A WebSocket client cannot be connected to (RFC 7118 §5).
            None if hop.transport.is_websocket() && hop.connection.is_some() => {
                self.unsent += 1;
                self.report(Heard::Lost { hop: hop.clone(), failed: true });
            }
            None => self.connect(hop, bytes),
        }
    }

    fn write(&mut self, id: ConnectionId, bytes: Vec<u8>) {
        let Some(queue) = self.lines.get(&id) else { return };
        match queue.try_send(bytes) {
            Ok(()) => {}
            Err(error) => {
                self.unsent += 1;
                if matches!(error, mpsc::error::TrySendError::Full(_)) {
                    self.shared.stalled.fetch_add(1, Ordering::Relaxed);
                    if let Some(hop) = self.hops.get(&id) {
                        let hop = hop.clone();
                        self.shared.complain(|| {
                            format!("SIP over {} to {}: closed, the peer does not read", hop.transport, hop.remote)
                        });
                    }
                }
                // Without its queue the connection's task ends, and says so.
                self.lines.remove(&id);
            }
        }
    }

    fn connect(&mut self, hop: &Hop, bytes: Vec<u8>) {
        let place = Hop { connection: None, ..hop.clone() };
        if self.shared.alive.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            self.unsent += 1;
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            return self.report(Heard::Lost { hop: place, failed: true });
        }
        let id = self.shared.take_id();
        let (queue, queued) = mpsc::channel(WRITE_QUEUE_MAX);
        let line = Line { hop: Hop { connection: Some(id), ..place.clone() }, queued, shared: self.shared.clone() };
        self.lines.insert(id, queue);
        self.outgoing.insert(place.clone(), id);
        self.hops.insert(id, place);
        self.write(id, bytes);
        tokio::spawn(outgoing::run(self.connector.clone(), line));
    }

    fn enter(&mut self, opened: Opened) {
        if let Some(id) = opened.hop.connection {
            self.lines.insert(id, opened.queue);
            self.hops.insert(id, Hop { connection: None, ..opened.hop });
        }
    }

    fn forget(&mut self, hop: &Hop) {
        let Some(id) = hop.connection else { return };
        self.lines.remove(&id);
        if let Some(place) = self.hops.remove(&id)
            && self.outgoing.get(&place) == Some(&id)
        {
            self.outgoing.remove(&place);
        }
    }

    /// Tells the runtime, in its next turn.
    fn report(&self, heard: Heard) {
        // Full: the runtime is behind with thousands of messages; the transaction's own timer ends it.
        let _ = self.shared.heard.try_send(heard);
    }
}

fn not_bound(address: SocketAddr, transport: Transport, error: io::Error) -> io::Error {
    let name = match transport {
        Transport::Udp | Transport::Tcp => "SIP_BIND",
        Transport::Tls => "SIP_TLS_BIND",
        Transport::Ws | Transport::Wss => "SIP_WSS_BIND",
    };
    let text = format!("{address} cannot be bound for SIP over {transport}: choose another with {name} ({error})");
    io::Error::new(error.kind(), text)
}

impl Shared {
    fn take_id(&self) -> ConnectionId {
        ConnectionId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Counts a connection in, if there is room. The guard counts it out.
    pub(crate) fn admit(self: &Arc<Self>, remote: IpAddr) -> Result<Seat, &'static str> {
        if self.alive.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err("there are as many connections as may be");
        }
        let mut counts = self.per_address.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = counts.entry(remote).or_insert(0);
        if *count >= self.per_address_max {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err("there are as many connections from this address as may be");
        }
        *count += 1;
        drop(counts);
        self.alive.fetch_add(1, Ordering::Relaxed);
        Ok(Seat { shared: self.clone(), remote })
    }

    /// One line in the log, unless there were too many this minute.
    pub(crate) fn complain(&self, text: impl FnOnce() -> String) {
        let minute = clock::now().as_millis() / 60_000;
        let mut complaints = self.complaints.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if minute != complaints.minute {
            if complaints.dropped > 0 {
                tracing::warn!("SIP: {} more complaints about connections in the last minute", complaints.dropped);
            }
            *complaints = Complaints { minute, ..Complaints::default() };
        }
        if complaints.written >= COMPLAINTS_PER_MINUTE_MAX {
            complaints.dropped += 1;
            return;
        }
        complaints.written += 1;
        drop(complaints);
        tracing::warn!("{}", text());
    }

    fn failed(&self, transport: Transport, remote: SocketAddr, reason: &Reason) {
        self.handshakes_failed.fetch_add(1, Ordering::Relaxed);
        self.complain(|| format!("SIP over {transport} from {remote}: {reason}"));
    }
}

/// A connection that is counted.
pub(crate) struct Seat {
    shared: Arc<Shared>,
    remote: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.alive.fetch_sub(1, Ordering::Relaxed);
        let mut counts = self.shared.per_address.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.remote) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.remote);
            }
        }
    }
}
