//! Datagrams by epoll, recvmmsg and sendmmsg: for hosts that forbid io_uring.
//!
//! One turn: `wait` sends what is queued, runs of one socket together, and asks epoll; `collect` reads the ready sockets,
//! each at most [`SOCKET_PACKETS_MAX`] datagrams, until the table is full. Sockets that were not read stay ready and
//! come first the next time, so a flooded socket gets its share and no more; its excess is dropped by the kernel.
//!
//! Why not edge-triggered: every socket would have to be read dry each turn, which is what a flood wants.

use super::socket::{MediaSocket, MessageTable};
use super::system::{Epoll, WakeFd};
use super::{Owner, Packet, SENDS_BATCH, SENDS_MAX, SOCKET_PACKETS_MAX, SocketKey, clock, is_send_noise, system};
use crate::limits::{DATAGRAM_BYTES_MAX, TURN_PACKETS_MAX};
use crate::metrics::Metrics;
use crate::time::Instant;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

/// Ready sockets looked at in one turn.
const EVENTS_MAX: usize = 512;
const TOKEN_WAKE: u64 = u64::MAX;

/// Sockets, what came from them this turn and what goes out at its end.
#[derive(Debug)]
pub struct Mmsg {
    epoll: Epoll,
    wake: Arc<WakeFd>,
    sockets: Vec<Entry>,
    free: Vec<u32>,
    closed: VecDeque<Owner>,
    incoming: MessageTable,
    /// Whose each message of `incoming` is.
    received: Vec<SocketKey>,
    /// Messages of `received` that were handed out.
    handled: usize,
    outgoing: MessageTable,
    /// Whose each prepared message of `outgoing` is.
    queued: Vec<SocketKey>,
    /// When this turn began.
    now: Instant,
}

#[derive(Debug)]
struct Entry {
    socket: Option<MediaSocket>,
    owner: Owner,
    generation: u32,
    /// The peer that the socket is connected to.
    connected: Option<SocketAddr>,
}

impl Mmsg {
    /// Room for `sockets_max` sockets. `wake` ends a wait.
    pub fn new(sockets_max: usize, wake: &Arc<WakeFd>) -> io::Result<Mmsg> {
        let epoll = Epoll::new(EVENTS_MAX)?;
        epoll.add(wake.raw_fd(), TOKEN_WAKE)?;
        Ok(Mmsg {
            epoll,
            wake: Arc::clone(wake),
            sockets: (0..sockets_max)
                .map(|_| Entry { socket: None, owner: Owner::default(), generation: 0, connected: None })
                .collect(),
            free: (0..sockets_max as u32).rev().collect(),
            closed: VecDeque::with_capacity(sockets_max),
            incoming: MessageTable::new(TURN_PACKETS_MAX)?,
            received: Vec::with_capacity(TURN_PACKETS_MAX),
            handled: 0,
            outgoing: MessageTable::new(SENDS_MAX)?,
            queued: Vec::with_capacity(SENDS_MAX),
            now: Instant::ZERO,
        })
    }

    pub(super) fn open(&mut self, socket: MediaSocket, owner: Owner) -> io::Result<SocketKey> {
        let Some(index) = self.free.pop() else {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        };
        if let Err(error) = self.epoll.add(socket.as_fd().as_raw_fd(), u64::from(index)) {
            self.free.push(index);
            return Err(error);
        }
        let entry = &mut self.sockets[index as usize];
        entry.socket = Some(socket);
        entry.owner = owner;
        entry.connected = None;
        Ok(SocketKey { index, generation: entry.generation })
    }

    pub(super) fn connect(&mut self, key: SocketKey, to: SocketAddr) -> io::Result<()> {
        let socket = self.socket(key).ok_or(io::Error::from_raw_os_error(libc::EBADF))?;
        socket.connect(to)?;
        self.sockets[key.index as usize].connected = Some(to);
        Ok(())
    }

    pub(super) fn fix(&mut self, key: SocketKey, peer: Option<SocketAddr>) -> io::Result<()> {
        let Some(socket) = self.socket(key) else { return Ok(()) };
        let entry = &self.sockets[key.index as usize];
        if entry.connected == peer {
            return Ok(());
        }
        if entry.connected.is_some() {
            socket.disconnect()?;
        }
        // Which of the host's addresses the peer sends to is not asked here.
        let peer = peer.filter(|_| socket.has_address());
        let connected = peer.map_or(Ok(()), |peer| socket.connect(peer));
        self.sockets[key.index as usize].connected = peer.filter(|_| connected.is_ok());
        connected
    }

    pub(super) fn close(&mut self, key: SocketKey, metrics: &mut Metrics) {
        if self.socket(key).is_none() {
            return;
        }
        self.flush(metrics);
        let entry = &mut self.sockets[key.index as usize];
        if let Some(socket) = entry.socket.take() {
            self.epoll.remove(socket.as_fd().as_raw_fd());
        }
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(key.index);
        self.closed.push_back(entry.owner);
    }

    pub(super) fn wait(&mut self, until: Instant, gather: Duration, metrics: &mut Metrics) -> io::Result<()> {
        self.flush(metrics);
        let gathered = (self.now + gather).min(until);
        system::rest(gathered.since(clock::now()));
        self.epoll.wait(until.since(clock::now()))
    }

    pub(super) fn collect(&mut self, now: Instant, metrics: &mut Metrics) {
        self.now = now;
        self.received.clear();
        self.handled = 0;
        for ready in 0..self.epoll.ready() {
            match self.epoll.token(ready) {
                TOKEN_WAKE => self.wake.clear(),
                index if self.received.len() < self.incoming.len() => self.receive(index as u32, metrics),
                // Still ready: it comes first in the next turn.
                _ => {}
            }
        }
    }

    fn receive(&mut self, index: u32, metrics: &mut Metrics) {
        let entry = &self.sockets[index as usize];
        let Some(socket) = &entry.socket else { return };
        let key = SocketKey { index, generation: entry.generation };
        let first = self.received.len();
        let room = (self.incoming.len() - first).min(usize::from(SOCKET_PACKETS_MAX));
        match self.incoming.receive(socket.as_fd(), first, room) {
            Ok(count) => {
                metrics.datagrams_received += count as u64;
                self.received.extend(std::iter::repeat_n(key, count));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => metrics.socket_errors += 1,
        }
    }

    pub(super) fn next_packet(&mut self, metrics: &mut Metrics) -> Option<Packet<'_>> {
        while self.handled < self.received.len() {
            let index = self.handled;
            self.handled += 1;
            let key = self.received[index];
            let (len, truncated, from) = self.incoming.received(index);
            let entry = &self.sockets[key.index as usize];
            if entry.generation != key.generation {
                continue;
            }
            let Some(from) = from.filter(|_| !truncated) else {
                metrics.datagrams_malformed += 1;
                continue;
            };
            let owner = entry.owner;
            if self.queued.len() == self.outgoing.len() {
                self.flush(metrics);
            }
            let out = self.outgoing.bytes(self.queued.len(), DATAGRAM_BYTES_MAX);
            return Some(Packet { owner, from, sent_to: None, datagram: self.incoming.bytes(index, len), out });
        }
        None
    }

    pub(super) fn next_closed(&mut self) -> Option<Owner> {
        self.closed.pop_front()
    }

    pub(super) fn send_buffer(&mut self, metrics: &mut Metrics) -> &mut [u8] {
        if self.queued.len() == self.outgoing.len() {
            self.flush(metrics);
        }
        self.outgoing.bytes(self.queued.len(), DATAGRAM_BYTES_MAX)
    }

    pub(super) fn send(&mut self, key: SocketKey, to: SocketAddr, len: usize, metrics: &mut Metrics) {
        let Some(family) = self.socket(key).map(MediaSocket::family) else {
            metrics.datagrams_unsent += 1;
            return;
        };
        let to = (self.sockets[key.index as usize].connected != Some(to)).then_some(to);
        if self.outgoing.prepare(self.queued.len(), family, to, len) {
            self.queued.push(key);
            if self.queued.len() >= SENDS_BATCH {
                self.flush(metrics);
            }
        } else {
            metrics.datagrams_unsent += 1;
        }
    }

    /// Hands everything queued to the kernel, neighbours of one socket with one call.
    pub(super) fn flush(&mut self, metrics: &mut Metrics) {
        let mut first = 0;
        while first < self.queued.len() {
            let key = self.queued[first];
            let run = self.queued[first..].iter().take_while(|&&other| other == key).count();
            self.send_run(first, run, metrics);
            first += run;
        }
        self.queued.clear();
    }

    /// Sends `count` messages of one socket from `first` on. An error belongs to the first message that was not taken, or
    /// to an earlier one that a router answered: so each message is tried twice at most.
    fn send_run(&mut self, first: usize, count: usize, metrics: &mut Metrics) {
        let Some(socket) = &self.sockets[self.queued[first].index as usize].socket else {
            metrics.datagrams_unsent += count as u64;
            return;
        };
        let (mut sent, mut tried_again) = (0, false);
        while sent < count {
            match self.outgoing.send(socket.as_fd(), first + sent, count - sent) {
                Ok(0) => break,
                Ok(taken) => {
                    metrics.datagrams_sent += taken as u64;
                    sent += taken;
                    tried_again = false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_send_noise(error.raw_os_error().unwrap_or(0)) => {
                    metrics.socket_errors += 1;
                    if tried_again {
                        metrics.datagrams_unsent += 1;
                        sent += 1;
                    }
                    tried_again = !tried_again;
                }
                Err(_) => break,
            }
        }
        metrics.datagrams_unsent += (count - sent) as u64;
    }

    pub(super) fn sockets_open(&self) -> usize {
        self.sockets.len() - self.free.len()
    }

    pub(super) fn buffers_lent(&self) -> usize {
        self.received.len() - self.handled
    }

    fn socket(&self, key: SocketKey) -> Option<&MediaSocket> {
        let entry = self.sockets.get(key.index as usize)?;
        entry.socket.as_ref().filter(|_| entry.generation == key.generation)
    }
}
