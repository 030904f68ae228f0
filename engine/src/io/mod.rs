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
pub mod system;

use crate::config::Driver;
use crate::metrics::Metrics;
use crate::time::Instant;
use mmsg::Mmsg;
use ring::Ring;
use socket::MediaSocket;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
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
    /// Its payload, to be decrypted in place.
    pub datagram: &'n mut [u8],
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
            Driver::IoUring => {
                Ok(Started { net: Net::Ring(Box::new(Ring::new(sockets_max, wake)?)), fallback: None })
            }
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

    /// Sends what is queued on a socket, then closes it. From now on no datagram of it is seen; [`Net::next_closed`] tells
    /// when the kernel has let go of it.
    pub fn close(&mut self, key: SocketKey, metrics: &mut Metrics) {
        match self {
            Net::Ring(ring) => ring.close(key),
            Net::Mmsg(mmsg) => mmsg.close(key, metrics),
        }
    }

    /// Hands all queued datagrams to the kernel and waits for something to happen, at most `until`.
    pub fn wait(&mut self, until: Instant, metrics: &mut Metrics) -> io::Result<()> {
        match self {
            Net::Ring(ring) => ring.wait(until, metrics),
            Net::Mmsg(mmsg) => mmsg.wait(until, metrics),
        }
    }

    /// Begins a turn: collects what has come.
    pub fn collect(&mut self, now: Instant, metrics: &mut Metrics) {
        match self {
            Net::Ring(ring) => ring.collect(now, metrics),
            Net::Mmsg(mmsg) => mmsg.collect(metrics),
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

/// Whether an error of a socket says something about its peer or path only: noise.
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
            | libc::EPERM
            | libc::EADDRNOTAVAIL
            | libc::EINVAL
            | libc::EPROTO
    )
}
