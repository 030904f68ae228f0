//! The ends whose calls are up: what they hear comes in two sockets, what they say leaves by one.
//!
//! ```text
//!  end n is 127.64.0.1 + n, and has one of two ports
//!  while its call comes up   a socket of its own, bound to address and port: the kernel prefers it
//!  after that                none; the port's socket, bound to every address, gets what comes (64 in a system call) and knows for whom
//! ```
//!
//! What the ends of stamped calls hear comes with the kernel's time for each packet. Nobody is woken by either socket: the generator looks for
//! what came when it has spoken. A waiting socket would have to wake it, on the sender's core and at the sender's expense, which no network
//! card would ask of a gateway.
//!
//! Why: a socket, its file and its queue are some fifteen cache lines for each packet, and those of thousands of ends do not fit a cache. With
//! one of its own for each end a generator had more to do than the gateway it loads. The gateway cannot tell: every end has an address and
//! port that no other has.
//!
//! Sends leave by a raw socket, with IP's and UDP's headers of ours (RFC 791, RFC 768), and without a checksum, which loopback does not
//! verify in either case. Where that is forbidden (CAP_NET_RAW), they leave by the port's socket, which is told its address each time.

use super::ring::{Area, DATAGRAM_BYTES_MAX, Ring, SocketIndex, bind, check, port_of, set_option, socket};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Address of the first end; the others follow.
const FIRST: u32 = Ipv4Addr::new(127, 64, 0, 1).to_bits();
/// Ends that have an address.
const ENDS_MAX: u32 = 1 << 20;

/// Bytes of an IPv4 header without options and of a UDP header.
pub const HEADERS_BYTES: usize = 28;
const TTL: u8 = 64;

/// Datagrams that one system call takes.
const BATCH: usize = 64;
const ROOM_BYTES: usize = DATAGRAM_BYTES_MAX.next_multiple_of(64);
const NAME_BYTES: usize = size_of::<libc::sockaddr_in>();
/// Control messages with a `timespec` and a `sockaddr_in`.
const CONTROL_BYTES: usize = 64;
/// `cmsghdr`.
const CONTROL_HEAD_BYTES: usize = 16;
/// What the kernel may hold for all ends of a port: a quarter of a second of 4,000 calls.
const RECEIVE_BUFFER_BYTES: libc::c_int = 64 * 1024 * 1024;

/// By what ends speak whose own sockets are closed.
#[derive(Clone, Copy)]
pub enum Voice {
    /// A raw socket.
    Raw(SocketIndex),
    /// The ports and their sockets.
    Ports([(u16, SocketIndex); 2]),
}

/// Where an end is.
pub fn address_of(end: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST + end % ENDS_MAX)
}

/// Which end is there.
pub fn end_of(address: Ipv4Addr) -> Option<u32> {
    address.to_bits().checked_sub(FIRST).filter(|end| *end < ENDS_MAX)
}

/// Opens the sockets of both ports, the one whose datagrams are not stamped first, and lets `ring` speak for all ends.
pub fn open(ring: &mut Ring) -> io::Result<[Ear; 2]> {
    let ears = [Ear::open(false)?, Ear::open(true)?];
    let voice = match socket(libc::SOCK_RAW, libc::IPPROTO_RAW) {
        Ok(raw) => Voice::Raw(ring.adopt(raw.as_fd())?),
        Err(_) => {
            let [one, other] = &ears;
            Voice::Ports([(one.port, ring.adopt(one.fd.as_fd())?), (other.port, ring.adopt(other.fd.as_fd())?)])
        }
    };
    ring.set_voice(voice);
    Ok(ears)
}

/// One datagram of an [`Ear`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Came {
    /// Which end it was sent to.
    pub end: u32,
    /// Its source.
    pub from: SocketAddrV4,
    /// When the kernel took it, nanoseconds of the real-time clock; 0 unless stamped.
    pub at_nanos: u64,
    /// Its length.
    pub len: usize,
}

/// The socket of a port at all addresses that have none of their own.
pub struct Ear {
    fd: OwnedFd,
    /// Its port.
    pub port: u16,
    headers: Box<[libc::mmsghdr; BATCH]>,
    _bytes: Box<[libc::iovec; BATCH]>,
    names: Area,
    controls: Area,
    rooms: Area,
    came: usize,
}

impl Ear {
    fn open(stamped: bool) -> io::Result<Ear> {
        let fd = bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), RECEIVE_BUFFER_BYTES)?;
        // The sockets of ends that are bound to one of its addresses.
        set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        set_option(&fd, libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR, 1)?;
        if stamped {
            set_option(&fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        }
        let (names, controls) = (Area::new(BATCH * NAME_BYTES)?, Area::new(BATCH * CONTROL_BYTES)?);
        let rooms = Area::new(BATCH * ROOM_BYTES)?;
        // SAFETY: `mmsghdr` and `iovec` are plain numbers and pointers, for which zero is valid.
        let (mut headers, mut bytes): (Box<[libc::mmsghdr; BATCH]>, Box<[libc::iovec; BATCH]>) =
            unsafe { (Box::new(std::mem::zeroed()), Box::new(std::mem::zeroed())) };
        for at in 0..BATCH {
            bytes[at] = libc::iovec { iov_base: rooms.pointer(at * ROOM_BYTES).cast(), iov_len: ROOM_BYTES };
            let header = &mut headers[at].msg_hdr;
            header.msg_name = names.pointer(at * NAME_BYTES).cast();
            header.msg_iov = &raw mut bytes[at];
            header.msg_iovlen = 1;
            header.msg_control = controls.pointer(at * CONTROL_BYTES).cast();
        }
        let port = port_of(&fd)?;
        Ok(Ear { fd, port, headers, _bytes: bytes, names, controls, rooms, came: BATCH })
    }

    /// Takes what came, as much as one system call can. Answers how much it is; fewer than [`Ear::BATCH`]: there is no more.
    pub fn receive(&mut self) -> usize {
        for header in &mut self.headers[..self.came] {
            header.msg_hdr.msg_namelen = NAME_BYTES as u32;
            header.msg_hdr.msg_controllen = CONTROL_BYTES;
        }
        let (headers, none) = (self.headers.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: each header points to a name, control messages and bytes of the lengths that it says, all of which `self` owns.
        let came =
            check(unsafe { libc::recvmmsg(self.fd.as_raw_fd(), headers, BATCH as u32, libc::MSG_DONTWAIT, none) });
        self.came = came.map_or(0, |came| came as usize);
        self.came
    }

    /// What `receive` takes at most.
    pub const BATCH: usize = BATCH;

    /// One of those that came; `None` beyond them, and where it was sent to nobody.
    pub fn came(&mut self, at: usize) -> Option<Came> {
        let header = self.headers[..self.came].get(at)?;
        let (len, told) = (header.msg_len as usize, header.msg_hdr.msg_controllen.min(CONTROL_BYTES));
        let name = self.names.slice(at * NAME_BYTES, NAME_BYTES);
        let from = socket_address(name)?;
        let (to, at_nanos) = controls(self.controls.slice(at * CONTROL_BYTES, told));
        Some(Came { end: end_of(*to?.ip())?, from, at_nanos, len: len.min(ROOM_BYTES) })
    }

    /// Its bytes.
    pub fn bytes(&mut self, at: usize, came: &Came) -> &mut [u8] {
        self.rooms.slice(at * ROOM_BYTES, came.len)
    }
}

/// Where a datagram was sent to (`IP_ORIGDSTADDR`) and when it came (`SCM_TIMESTAMPNS`), by its control messages.
fn controls(mut bytes: &[u8]) -> (Option<SocketAddrV4>, u64) {
    let (mut to, mut at_nanos) = (None, 0);
    while let Some((head, data)) = bytes.split_first_chunk::<CONTROL_HEAD_BYTES>() {
        let [len, kind] = head.as_chunks::<8>().0 else { break };
        let len = (u64::from_ne_bytes(*len) as usize).saturating_sub(CONTROL_HEAD_BYTES);
        let [level, kind] = kind.as_chunks::<4>().0 else { break };
        let kind = (i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind));
        let Some(payload) = data.get(..len) else { break };
        if kind == (libc::IPPROTO_IP, libc::IP_ORIGDSTADDR) {
            to = socket_address(payload);
        } else if let ((libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS), [seconds, nanos]) = (kind, payload.as_chunks::<8>().0)
        {
            at_nanos = u64::from_ne_bytes(*seconds) * 1_000_000_000 + u64::from_ne_bytes(*nanos);
        }
        bytes = data.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    (to, at_nanos)
}

/// A `sockaddr_in`.
fn socket_address(bytes: &[u8]) -> Option<SocketAddrV4> {
    let [_, _, p0, p1, a, b, c, d, ..] = *bytes else { return None };
    Some(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([p0, p1])))
}

/// Writes IP's and UDP's headers before the datagram in `packet`. The kernel fills in IP's checksum; UDP's is left out.
pub fn write_headers(packet: &mut [u8], from: SocketAddrV4, to: SocketAddrV4) {
    let (total, udp) = (packet.len() as u16, (packet.len() - 20) as u16);
    let Some(head) = packet.first_chunk_mut::<HEADERS_BYTES>() else { return };
    let ([t0, t1], [u0, u1]) = (total.to_be_bytes(), udp.to_be_bytes());
    let ([f0, f1], [p0, p1]) = (from.port().to_be_bytes(), to.port().to_be_bytes());
    let ([a, b, c, d], [e, f, g, h]) = (from.ip().octets(), to.ip().octets());
    // Version 4, five words; "don't fragment", so that the identification says nothing (RFC 6864); 0 would ask the kernel for one.
    *head = [
        0x45,
        0,
        t0,
        t1,
        0,
        1,
        0x40,
        0,
        TTL,
        libc::IPPROTO_UDP as u8,
        0,
        0,
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        f0,
        f1,
        p0,
        p1,
        u0,
        u1,
        0,
        0,
    ];
}
