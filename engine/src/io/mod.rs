//! In and out: the only system calls, the only clock.
//!
//! ```text
//! sockets ──> Net::collect ──> Net::next_packet ──> bridge ──> Net::send_buffer, Net::send ──> Net::wait ──> sockets
//! ```
//!
//! A worker sees one [`Net`], whichever kernel interface moves its datagrams: [`ring`] (io_uring) where the kernel and the
//! container allow it, else [`mmsg`] (epoll, recvmmsg, sendmmsg). Both take a socket with an [`Owner`] and hand every
//! datagram back with that owner, and never with another: a socket that was closed is forgotten before its number is
//! given away again.
//!
//! Why not a trait: there are two interfaces, both are known here, and the one branch per packet is predicted. A trait
//! would make the worker generic twice for nothing.

pub mod address;
pub mod clock;
pub mod mmsg;
pub mod ports;
pub mod ring;
pub mod socket;
pub mod steering;
pub mod system;

use crate::config::Driver;
use crate::metrics::Metrics;
use crate::time::{Duration, Instant};
use mmsg::Mmsg;
use ring::Ring;
use socket::MediaSocket;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use steering::Steering;
use system::WakeFd;

/// Datagrams of one socket that may wait for the worker at once. A socket that exceeds it is flooded: what is too much is
/// dropped and counted, and on io_uring the socket rests for [`PAUSE_MS`], so that it takes neither buffers nor turns from
/// others. 32 packets are 640 ms of one stream.
pub const SOCKET_PACKETS_MAX: u16 = 32;

/// Rest of a flooded socket. Its kernel buffer holds what comes meanwhile: a quarter of a packet time loses nothing that
/// is real.
pub const PAUSE_MS: u64 = 5;

/// Datagrams that may be on their way to the kernel at once; each costs 1.7 KiB. When all are lent, the queue is handed
/// over in the middle of a turn; when that frees none, the datagram is lost and counted as unsent.
pub const SENDS_MAX: usize = 1024;

/// Datagrams that are handed to the kernel in the middle of a turn, once so many are queued: the first frames of a long turn, one that
/// catches up, do not wait for its last. One more system call for each costs a four-hundredth of what the sends cost.
pub const SENDS_BATCH: usize = 64;
const _: () = assert!(SENDS_BATCH <= SENDS_MAX);

/// How long after the beginning of a turn the next one begins at the earliest, unless a deadline comes first, where the worker has time to
/// spare: what comes within that time shares a turn, its system call and its wake-up. A worker with nothing to do answers its first packet
/// at once; one that is busy for longer than this waits for nothing.
pub const GATHER_MIN: Duration = Duration::from_micros(250);

/// The same for a busy worker: there calls count, not tenths of milliseconds.
pub const GATHER_MAX: Duration = Duration::from_micros(400);

/// Whose a socket is. Means nothing to `io`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Slot of the worker's pool.
    pub slot: u32,
    /// Its generation.
    pub generation: u32,
    /// Which of the bridge's sockets.
    pub port: u8,
}

/// An open socket. A key of a closed one is recognised and does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketKey {
    index: u32,
    generation: u32,
}

/// One datagram as it came.
#[derive(Debug)]
pub struct Packet<'n> {
    /// Whose socket it came to.
    pub owner: Owner,
    /// From where; never IPv4-mapped.
    pub from: SocketAddr,
    /// Which address of ours it was sent to, where that is known and not the one that its socket answers from: see [`Net::answer_from`].
    pub sent_to: Option<Ipv4Addr>,
    /// Its payload, to be decrypted in place.
    pub datagram: &'n mut [u8],
    /// What [`Net::send_buffer`] would show now: what it causes may be written there at once.
    pub out: &'n mut [u8],
}

/// Whichever kernel interface moves the datagrams. Made and used on one thread.
#[derive(Debug)]
pub enum Net {
    /// io_uring
    Ring(Box<Ring>),
    /// epoll, recvmmsg, sendmmsg
    Mmsg(Box<Mmsg>),
}

/// A started interface, and why it is not the wanted one.
#[derive(Debug)]
pub struct Started {
    /// The interface.
    pub net: Net,
    /// Why io_uring is not used though it was preferred.
    pub fallback: Option<io::Error>,
}

impl Net {
    /// Starts the interface `driver` asks for, with room for `sockets_max` sockets. `wake` ends a [`Net::wait`].
    pub fn start(driver: Driver, sockets_max: usize, wake: &Arc<WakeFd>) -> io::Result<Started> {
        let mmsg = || Mmsg::new(sockets_max, wake).map(|mmsg| Net::Mmsg(Box::new(mmsg)));
        match driver {
            Driver::Mmsg => Ok(Started { net: mmsg()?, fallback: None }),
            Driver::IoUring => Ok(Started { net: Net::Ring(Box::new(Ring::new(sockets_max, wake)?)), fallback: None }),
            Driver::Auto => match Ring::new(sockets_max, wake) {
                Ok(ring) => Ok(Started { net: Net::Ring(Box::new(ring)), fallback: None }),
                Err(error) => Ok(Started { net: mmsg()?, fallback: Some(error) }),
            },
        }
    }

    /// Which it is.
    pub fn driver(&self) -> Driver {
        match self {
            Net::Ring(_) => Driver::IoUring,
            Net::Mmsg(_) => Driver::Mmsg,
        }
    }

    /// Takes a bound socket. Its datagrams come with `owner`.
    pub fn open(&mut self, socket: MediaSocket, owner: Owner) -> io::Result<SocketKey> {
        match self {
            Net::Ring(ring) => ring.open(socket, owner),
            Net::Mmsg(mmsg) => mmsg.open(socket, owner),
        }
    }

    /// Fixes a socket's peer: cheaper sends, and the kernel drops strangers.
    pub fn connect(&mut self, key: SocketKey, to: SocketAddr) -> io::Result<()> {
        match self {
            Net::Ring(ring) => ring.connect(key, to),
            Net::Mmsg(mmsg) => mmsg.connect(key, to),
        }
    }

    /// Fixes a socket's peer as [`Net::connect`] does, as soon as it is known that the peer sends to the very address from which the host
    /// reaches it: call it again until then. `None`: anyone is heard again. What is so already costs nothing.
    pub fn fix(&mut self, key: SocketKey, peer: Option<SocketAddr>) -> io::Result<()> {
        match self {
            Net::Ring(ring) => ring.fix(key, peer),
            Net::Mmsg(mmsg) => mmsg.fix(key, peer),
        }
    }

    /// From now on [`Net::steer`] steers, where the interface and the system can. `bind`: the one address of media sockets; `dscp`: their mark,
    /// see [`MediaSocket::mark`].
    pub fn be_steered(
        &mut self,
        steering: &Arc<Steering>,
        worker: usize,
        bind: Option<IpAddr>,
        dscp: u8,
    ) -> io::Result<()> {
        match (self, bind) {
            (Net::Ring(ring), None) => ring.be_steered(steering, worker, None, dscp),
            (Net::Ring(ring), Some(IpAddr::V4(ip))) => {
                ring.be_steered(steering, worker, Some(ip).filter(|ip| !ip.is_unspecified()), dscp)
            }
            _ => Ok(()),
        }
    }

    /// Whether sockets can be steered here.
    pub fn steers(&self) -> bool {
        match self {
            Net::Ring(ring) => ring.steers(),
            Net::Mmsg(_) => false,
        }
    }

    /// Has what comes to a socket come with that of all other running calls, if that can be; see [`steering`]. What is so already costs
    /// nothing.
    pub fn steer(&mut self, key: SocketKey) -> io::Result<()> {
        match self {
            Net::Ring(ring) => ring.steer(key),
            Net::Mmsg(_) => Ok(()),
        }
    }

    /// From now on a steered socket answers from `address`, one of the host's; the answer is the one before, unspecified where none was known.
    /// Until one is known it sends by itself, from where the routing table says. Who calls it knows that the peer has sent there: the
    /// source of a datagram proves nothing.
    pub fn answer_from(&mut self, key: SocketKey, address: Ipv4Addr) -> Ipv4Addr {
        match self {
            Net::Ring(ring) => ring.answer_from(key, address),
            Net::Mmsg(_) => address,
        }
    }

    /// Sockets that are steered.
    pub fn sockets_steered(&self) -> usize {
        match self {
            Net::Ring(ring) => ring.sockets_steered(),
            Net::Mmsg(_) => 0,
        }
    }

    /// Datagrams of running calls that the kernel has dropped since this was last asked, because the socket that they share was full.
    pub fn overflowed(&mut self) -> u64 {
        match self {
            Net::Ring(ring) => ring.overflowed(),
            Net::Mmsg(_) => 0,
        }
    }

    /// Sends what is queued on a socket, then closes it. From now on no datagram of it is seen; [`Net::next_closed`] tells
    /// when the kernel has let go of it.
    pub fn close(&mut self, key: SocketKey, metrics: &mut Metrics) {
        match self {
            Net::Ring(ring) => ring.close(key),
            Net::Mmsg(mmsg) => mmsg.close(key, metrics),
        }
    }

    /// Hands everything that is queued to the kernel. [`Net::wait`] does so too: apart from it, what follows is rest and no work.
    pub fn hand_over(&mut self, metrics: &mut Metrics) {
        match self {
            Net::Ring(ring) => ring.hand_over(metrics),
            Net::Mmsg(mmsg) => mmsg.flush(metrics),
        }
    }

    /// Hands all queued datagrams to the kernel and waits for something to happen, at most `until`. What comes within `gather` of the
    /// turn's beginning waits for each other: [`GATHER_MIN`] to [`GATHER_MAX`].
    pub fn wait(&mut self, until: Instant, gather: Duration, metrics: &mut Metrics) -> io::Result<()> {
        match self {
            Net::Ring(ring) => ring.wait(until, gather, metrics),
            Net::Mmsg(mmsg) => mmsg.wait(until, gather, metrics),
        }
    }

    /// Begins a turn: collects what has come.
    pub fn collect(&mut self, now: Instant, metrics: &mut Metrics) {
        match self {
            Net::Ring(ring) => ring.collect(now, metrics),
            Net::Mmsg(mmsg) => mmsg.collect(now, metrics),
        }
    }

    /// The next datagram of this turn, at most `TURN_PACKETS_MAX`. Its buffer goes back with the next call.
    #[inline]
    pub fn next_packet(&mut self, metrics: &mut Metrics) -> Option<Packet<'_>> {
        match self {
            Net::Ring(ring) => ring.next_packet(metrics),
            Net::Mmsg(mmsg) => mmsg.next_packet(metrics),
        }
    }

    /// Asks for the memory of the packet that stands `ahead` places behind the next one.
    #[inline]
    pub fn prefetch_packet(&self, ahead: usize) {
        if let Net::Ring(ring) = self {
            ring.prefetch_packet(ahead);
        }
    }

    /// Asks for the memory of a socket that will be sent from.
    #[inline]
    pub fn prefetch_socket(&self, key: SocketKey) {
        if let Net::Ring(ring) = self {
            ring.prefetch_socket(key);
        }
    }

    /// Whose the packet is that stands `ahead` places behind the next one; `None` where that is not known in advance.
    #[inline]
    pub fn owner_ahead(&self, ahead: usize) -> Option<Owner> {
        match self {
            Net::Ring(ring) => ring.owner_ahead(ahead),
            Net::Mmsg(_) => None,
        }
    }

    /// The next socket that is closed for good.
    pub fn next_closed(&mut self) -> Option<Owner> {
        match self {
            Net::Ring(ring) => ring.next_closed(),
            Net::Mmsg(mmsg) => mmsg.next_closed(),
        }
    }

    /// Room for one datagram of `DATAGRAM_BYTES_MAX`, the same room until [`Net::send`] takes it.
    #[inline]
    pub fn send_buffer(&mut self, metrics: &mut Metrics) -> &mut [u8] {
        match self {
            Net::Ring(ring) => ring.send_buffer(metrics),
            Net::Mmsg(mmsg) => mmsg.send_buffer(metrics),
        }
    }

    /// Queues the first `len` bytes of the send buffer.
    #[inline]
    pub fn send(&mut self, key: SocketKey, to: SocketAddr, len: usize, metrics: &mut Metrics) {
        match self {
            Net::Ring(ring) => ring.send(key, to, len, metrics),
            Net::Mmsg(mmsg) => mmsg.send(key, to, len, metrics),
        }
    }

    /// Sockets the kernel holds for us.
    pub fn sockets_open(&self) -> usize {
        match self {
            Net::Ring(ring) => ring.sockets_open(),
            Net::Mmsg(mmsg) => mmsg.sockets_open(),
        }
    }

    /// Receive buffers that hold datagrams not yet handled.
    pub fn buffers_lent(&self) -> usize {
        match self {
            Net::Ring(ring) => ring.buffers_lent(),
            Net::Mmsg(mmsg) => mmsg.buffers_lent(),
        }
    }
}

/// Whether an error of a socket says something about its peer or path only: noise. Each answers one datagram of ours.
fn is_noise(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNREFUSED
            | libc::ECONNRESET
            | libc::EHOSTUNREACH
            | libc::EHOSTDOWN
            | libc::ENETUNREACH
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EMSGSIZE
            | libc::EACCES
            | libc::EPROTO
    )
}

/// Whether an error of a send says something about its destination or path only. What a firewall or the routing table refuses is noise
/// too; of a receive it would say that the next one fails alike.
fn is_send_noise(errno: i32) -> bool {
    is_noise(errno) || matches!(errno, libc::EPERM | libc::EADDRNOTAVAIL | libc::EINVAL)
}

#[cfg(test)]
mod steered_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DATAGRAM_BYTES_MAX;
    use address::Family;
    use std::net::Ipv6Addr;
    use std::os::fd::AsFd;

    /// Every way datagrams can move.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub(super) enum Way {
        Registered,
        Descriptors,
        Steered,
        Mmsg,
    }

    const WAYS: [Way; 4] = [Way::Registered, Way::Descriptors, Way::Steered, Way::Mmsg];
    /// Turns after which a test gives up; each waits 10 ms at most.
    const TURNS_MAX: usize = 1_000;

    pub(super) struct Rig {
        pub(super) net: Net,
        pub(super) metrics: Metrics,
        /// Owner's slot and datagram, in the order they came.
        pub(super) came: Vec<(u32, SocketAddr, Vec<u8>)>,
        /// Where the last datagram was sent to, if answers leave from elsewhere.
        pub(super) sent_to: Option<Ipv4Addr>,
    }

    impl Rig {
        pub(super) fn new(way: Way, sockets_max: usize) -> Rig {
            let wake = Arc::new(WakeFd::new().unwrap());
            let mut net = match way {
                Way::Registered | Way::Steered => Net::Ring(Box::new(Ring::new(sockets_max, &wake).unwrap())),
                Way::Descriptors => Net::Ring(Box::new(Ring::with_files(sockets_max, &wake, false).unwrap())),
                Way::Mmsg => Net::Mmsg(Box::new(Mmsg::new(sockets_max, &wake).unwrap())),
            };
            if way == Way::Steered {
                let steering = Arc::new(Steering::start(0..=u16::MAX).expect("root may load and attach a BPF program"));
                net.be_steered(&steering, 0, None, 0).unwrap();
            }
            Rig::of(net)
        }

        pub(super) fn of(net: Net) -> Rig {
            Rig { net, metrics: Metrics::default(), came: Vec::new(), sent_to: None }
        }

        /// Opens a socket, and steers it where that is the way.
        pub(super) fn open(&mut self, family: Family, slot: u32) -> (SocketKey, u16) {
            let socket = MediaSocket::bind(family, None, 0).unwrap();
            let port = socket.port().unwrap();
            let key = self.net.open(socket, Owner { slot, generation: 0, port: 0 }).unwrap();
            self.net.steer(key).unwrap();
            (key, port)
        }

        pub(super) fn send(&mut self, from: SocketKey, to: SocketAddr, bytes: &[u8]) {
            self.net.send_buffer(&mut self.metrics)[..bytes.len()].copy_from_slice(bytes);
            self.net.send(from, to, bytes.len(), &mut self.metrics);
        }

        pub(super) fn turn(&mut self) {
            self.net.wait(clock::now().plus_millis(10), GATHER_MIN, &mut self.metrics).unwrap();
            self.net.collect(clock::now(), &mut self.metrics);
            while let Some(packet) = self.net.next_packet(&mut self.metrics) {
                self.sent_to = packet.sent_to;
                self.came.push((packet.owner.slot, packet.from, packet.datagram.to_vec()));
            }
        }

        pub(super) fn turn_until(&mut self, come: impl Fn(&Rig) -> bool) {
            for _ in 0..TURNS_MAX {
                if come(self) {
                    return;
                }
                self.turn();
            }
            panic!("waited in vain: {:?}, {} came", self.metrics, self.came.len());
        }
    }

    pub(super) fn localhost(port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    #[test]
    fn a_connection_refused_is_counted_and_the_socket_goes_on() {
        // One that is steered is not connected.
        for way in WAYS.into_iter().filter(|way| *way != Way::Steered) {
            let mut rig = Rig::new(way, 8);
            let (socket, port) = rig.open(Family::Dual, 1);
            let gone = MediaSocket::bind(Family::V4, None, 0).unwrap();
            let gone_port = gone.port().unwrap();
            rig.net.connect(socket, localhost(gone_port)).unwrap();
            drop(gone);
            for _ in 0..3 {
                rig.send(socket, localhost(gone_port), b"anyone?");
                rig.turn();
            }
            rig.turn_until(|rig| rig.metrics.socket_errors > 0);
            let back = MediaSocket::bind(Family::V4, Some(Ipv4Addr::LOCALHOST.into()), gone_port).unwrap();
            let mut table = socket::MessageTable::new(1).unwrap();
            table.bytes(0, 4).copy_from_slice(b"here");
            assert!(table.prepare(0, Family::V4, Some(localhost(port)), 4));
            table.send(back.as_fd(), 0, 1).unwrap();
            rig.turn_until(|rig| !rig.came.is_empty());
            assert_eq!(rig.came, [(1, localhost(gone_port), b"here".to_vec())], "{way:?}");
        }
    }

    /// A peer on loopback, bound to an address of its own.
    pub(super) struct Peer {
        pub(super) socket: MediaSocket,
        table: socket::MessageTable,
    }

    impl Peer {
        pub(super) fn new(ip: [u8; 4]) -> Peer {
            let socket = MediaSocket::bind(Family::V4, Some(ip.into()), 0).unwrap();
            Peer { socket, table: socket::MessageTable::new(1).unwrap() }
        }

        pub(super) fn address(&self) -> SocketAddr {
            self.socket.local().unwrap()
        }

        pub(super) fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
            self.table.bytes(0, bytes.len()).copy_from_slice(bytes);
            assert!(self.table.prepare(0, Family::V4, Some(to), bytes.len()));
            self.table.send(self.socket.as_fd(), 0, 1).unwrap();
        }
    }

    /// A socket bound to a port that was asked for: the kernel takes one that it chose itself back when the socket is freed.
    fn bound(family: Family, ip: Option<std::net::IpAddr>) -> (MediaSocket, u16) {
        for _ in 0..100 {
            let port = MediaSocket::bind(family, ip, 0).unwrap().port().unwrap();
            if let Ok(socket) = MediaSocket::bind(family, ip, port) {
                return (socket, port);
            }
        }
        panic!("no port stays free");
    }

    /// What a socket hears of a peer and of a stranger, the peer last.
    fn heard(rig: &mut Rig, port: u16, peer: &mut Peer, stranger: &mut Peer) -> Vec<SocketAddr> {
        rig.came.clear();
        stranger.send(localhost(port), b"stranger");
        peer.send(localhost(port), b"peer");
        let from = peer.address();
        rig.turn_until(|rig| rig.came.iter().any(|came| came.1 == from));
        rig.came.drain(..).map(|came| came.1).collect()
    }

    #[test]
    fn a_fixed_socket_hears_its_peer_alone_and_a_freed_one_anyone() {
        for (way, ip) in WAYS.into_iter().flat_map(|way| [(way, None), (way, Some(Ipv4Addr::LOCALHOST.into()))]) {
            let mut rig = Rig::new(way, 8);
            let (socket, port) = bound(if ip.is_some() { Family::V4 } else { Family::Dual }, ip);
            let key = rig.net.open(socket, Owner { slot: 1, generation: 0, port: 0 }).unwrap();
            rig.turn();
            let (mut peer, mut stranger) = (Peer::new([127, 0, 0, 1]), Peer::new([127, 0, 0, 1]));
            let (a, b) = (peer.address(), stranger.address());
            assert_eq!(heard(&mut rig, port, &mut peer, &mut stranger), [b, a]);
            for round in 0..2 {
                // A socket that is bound to all addresses learns first which of them the peer sends to.
                rig.net.fix(key, Some(a)).unwrap();
                if ip.is_none() && round == 0 {
                    assert_eq!(heard(&mut rig, port, &mut peer, &mut stranger), [b, a], "{way:?}");
                    rig.net.fix(key, Some(a)).unwrap();
                }
                let is_fixed = ip.is_some() || way != Way::Mmsg;
                let alone = if is_fixed { vec![a] } else { vec![b, a] };
                assert_eq!(heard(&mut rig, port, &mut peer, &mut stranger), alone, "{way:?} {ip:?}");
                // What goes elsewhere, a report to the port beside, goes there all the same.
                let before = rig.metrics.datagrams_sent;
                rig.send(key, b, b"to another");
                rig.turn_until(|rig| rig.metrics.datagrams_sent > before);
                rig.net.fix(key, None).unwrap();
                assert_eq!(heard(&mut rig, port, &mut peer, &mut stranger), [b, a], "{way:?} {ip:?}");
            }
            assert_eq!(rig.metrics.datagrams_unsent, 0);
        }
    }

    #[test]
    fn a_peer_that_sends_to_another_address_than_the_host_would_answer_from_is_heard_on() {
        for way in WAYS {
            let mut rig = Rig::new(way, 8);
            let (socket, port) = bound(Family::Dual, None);
            let key = rig.net.open(socket, Owner { slot: 1, generation: 0, port: 0 }).unwrap();
            let mut peer = Peer::new([127, 0, 0, 1]);
            let to = SocketAddr::from(([127, 0, 0, 2], port));
            for count in 1..5 {
                rig.net.fix(key, Some(peer.address())).unwrap();
                peer.send(to, b"to the second address");
                rig.turn_until(|rig| rig.came.len() == count);
            }
        }
    }

    #[test]
    fn the_next_peer_of_a_socket_may_send_to_another_address_than_the_one_before() {
        for way in WAYS {
            let mut rig = Rig::new(way, 8);
            let (socket, port) = bound(Family::Dual, None);
            let key = rig.net.open(socket, Owner { slot: 1, generation: 0, port: 0 }).unwrap();
            let (mut first, mut next) = (Peer::new([127, 0, 0, 1]), Peer::new([127, 0, 0, 1]));
            for (peer, ip) in [(&mut first, [127, 0, 0, 1]), (&mut next, [127, 0, 0, 2])] {
                for _ in 0..4 {
                    rig.came.clear();
                    rig.net.fix(key, Some(peer.address())).unwrap();
                    peer.send(SocketAddr::from((ip, port)), b"to the address that it was told");
                    rig.turn_until(|rig| rig.came.len() == 1);
                }
            }
        }
    }

    #[test]
    fn a_peer_that_cannot_be_reached_is_an_error_and_the_socket_hears_on() {
        for way in WAYS {
            let mut rig = Rig::new(way, 8);
            let (socket, port) = bound(Family::V4, Some(Ipv4Addr::LOCALHOST.into()));
            let key = rig.net.open(socket, Owner { slot: 1, generation: 0, port: 0 }).unwrap();
            let (mut peer, mut stranger) = (Peer::new([127, 0, 0, 1]), Peer::new([127, 0, 0, 1]));
            let (a, b) = (peer.address(), stranger.address());
            rig.net.fix(key, Some(a)).unwrap();
            assert!(rig.net.fix(key, Some(SocketAddr::from((Ipv6Addr::LOCALHOST, 9)))).is_err());
            assert_eq!(heard(&mut rig, port, &mut peer, &mut stranger), [b, a], "{way:?}");
            let before = rig.metrics.datagrams_sent;
            rig.send(key, a, b"to the peer before");
            rig.turn_until(|rig| rig.metrics.datagrams_sent > before);
        }
    }

    #[test]
    fn datagrams_of_a_closed_socket_never_reach_the_next_owner_of_its_number() {
        for way in WAYS {
            let mut rig = Rig::new(way, 2);
            let (sender, _) = rig.open(Family::Dual, 0);
            for slot in 1..100 {
                let (socket, port) = rig.open(Family::Dual, slot);
                for _ in 0..3 {
                    rig.send(sender, localhost(port), &slot.to_be_bytes());
                }
                match slot % 3 {
                    // Closed before anything was seen, after some of it came, after all.
                    0 => {}
                    1 => rig.turn(),
                    _ => rig.turn_until(|rig| rig.came.len() == 3),
                }
                rig.net.close(socket, &mut rig.metrics);
                let came = rig.came.len();
                let mut closed = None;
                for _ in 0..TURNS_MAX {
                    closed = closed.or(rig.net.next_closed());
                    if closed.is_some() {
                        break;
                    }
                    rig.turn();
                }
                assert_eq!(closed.map(|owner| owner.slot), Some(slot));
                assert_eq!(rig.came.len(), came, "{way:?}: a closed socket is silent");
                rig.send(socket, localhost(port), b"old key");
                assert!(rig.came.drain(..).all(|(owner, _, bytes)| owner == slot && bytes == slot.to_be_bytes()));
            }
            assert_eq!((rig.metrics.datagrams_unsent, rig.net.sockets_open()), (99, 1));
        }
    }

    #[test]
    fn a_batch_leaves_in_the_middle_of_a_turn_and_less_waits_for_its_end() {
        for way in WAYS {
            let mut rig = Rig::new(way, 4);
            let (sender, _) = rig.open(Family::V4, 0);
            rig.turn();
            let far_end = MediaSocket::bind(Family::V4, None, 0).unwrap();
            let port = far_end.port().unwrap();
            let mut table = socket::MessageTable::new(1).unwrap();
            for _ in 1..SENDS_BATCH {
                rig.send(sender, localhost(port), b"one of many");
            }
            let nothing = table.receive(far_end.as_fd(), 0, 1).unwrap_err();
            assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock, "{way:?}");
            rig.send(sender, localhost(port), b"the last of them");
            let mut epoll = system::Epoll::new(1).unwrap();
            epoll.add(system::raw(far_end.as_fd()), 0).unwrap();
            epoll.wait(Duration::from_secs(10)).unwrap();
            assert_eq!(table.receive(far_end.as_fd(), 0, 1).unwrap(), 1, "{way:?}");
        }
    }

    #[test]
    fn more_datagrams_than_send_slots_leave_in_one_turn_in_order() {
        for way in WAYS {
            let mut rig = Rig::new(way, 64);
            let (sender, _) = rig.open(Family::V4, 0);
            let ports: Vec<u16> = (1..=60).map(|slot| rig.open(Family::Dual, slot).1).collect();
            rig.turn();
            for index in 0..50u32 {
                for &port in &ports {
                    rig.send(sender, localhost(port), &index.to_be_bytes());
                }
            }
            // What a socket may hold at once is less than it got: what came is in order all the same.
            rig.turn_until(|rig| rig.metrics.datagrams_received == 3_000);
            assert_eq!((rig.metrics.datagrams_sent, rig.metrics.datagrams_unsent), (3_000, 0));
            assert_eq!(rig.came.len() as u64 + rig.metrics.datagrams_excess, 3_000);
            for slot in 1..=60 {
                let own: Vec<&Vec<u8>> = rig.came.iter().filter(|came| came.0 == slot).map(|came| &came.2).collect();
                assert!(own.len() >= 32 && own.is_sorted(), "{way:?} {}", own.len());
            }
            assert_eq!(rig.net.buffers_lent(), 0);
        }
    }

    #[test]
    fn what_was_sent_does_not_end_the_next_wait() {
        for way in WAYS {
            let mut rig = Rig::new(way, 8);
            let (socket, _) = rig.open(Family::Dual, 1);
            let listener = MediaSocket::bind(Family::V4, None, 0).unwrap();
            let to = localhost(listener.port().unwrap());
            rig.turn();
            for round in 0..3 {
                rig.send(socket, to, b"on its way");
                let until = clock::now().plus_millis(5);
                rig.net.wait(until, GATHER_MAX, &mut rig.metrics).unwrap();
                assert!(clock::now() >= until, "{way:?} round {round}: nothing came, and the wait ended");
                rig.net.collect(clock::now(), &mut rig.metrics);
                assert_eq!(rig.metrics.datagrams_sent, round + 1);
            }
        }
    }

    #[test]
    fn a_datagram_too_long_or_to_an_unreachable_family_is_counted() {
        for way in WAYS {
            let mut rig = Rig::new(way, 8);
            let (v4, port) = rig.open(Family::V4, 1);
            rig.send(v4, SocketAddr::from((Ipv6Addr::LOCALHOST, 9)), b"no way");
            assert_eq!(rig.metrics.datagrams_unsent, 1);
            #[expect(clippy::disallowed_methods, reason = "only a stranger sends more than we can")]
            let stranger = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            rig.turn();
            stranger.send_to(&[1; DATAGRAM_BYTES_MAX + 1], localhost(port)).unwrap();
            stranger.send_to(&[2; DATAGRAM_BYTES_MAX], localhost(port)).unwrap();
            stranger.send_to(&[], localhost(port)).unwrap();
            rig.turn_until(|rig| rig.came.len() == 2);
            assert_eq!(rig.metrics.datagrams_malformed, 1);
            assert_eq!((rig.came[0].2.len(), rig.came[1].2.len()), (DATAGRAM_BYTES_MAX, 0), "{way:?}");
        }
    }

    #[test]
    fn where_io_uring_is_forbidden_auto_falls_back_and_says_why() {
        std::thread::spawn(|| {
            system::tests::forbid_io_uring();
            let wake = Arc::new(WakeFd::new().unwrap());
            let started = Net::start(Driver::Auto, 4, &wake).unwrap();
            assert_eq!(started.net.driver(), Driver::Mmsg);
            assert_eq!(started.fallback.and_then(|error| error.raw_os_error()), Some(libc::EPERM));
            assert!(Net::start(Driver::IoUring, 4, &wake).is_err(), "io_uring or nothing");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn one_socket_more_than_there_is_room_for_is_refused() {
        for way in WAYS {
            let mut rig = Rig::new(way, 1);
            let (first, _) = rig.open(Family::V4, 1);
            let second = MediaSocket::bind(Family::V4, None, 0).unwrap();
            assert!(rig.net.open(second, Owner::default()).is_err());
            rig.net.close(first, &mut rig.metrics);
            rig.turn_until(|rig| rig.net.sockets_open() == 0);
            rig.open(Family::V4, 2);
        }
    }
}
