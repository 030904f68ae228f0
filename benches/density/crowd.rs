//! The ends whose calls are up: what they hear comes in two sockets, what they say leaves by the same.
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
//! Each datagram says its source (`IP_PKTINFO`); the kernel writes the headers, so what arrives is what a socket of the end's own would have sent.
//! A raw socket does not cost less: with headers of ours (`IP_HDRINCL`) the kernel keeps no route for a peer on the same link and makes
//! a new one for each packet, 0.4 us a pair.

use super::ring::{Area, DATAGRAM_BYTES_MAX, Ring, bind, check, dropped, port_of, set_option};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Address of the first end; the others follow.
const FIRST: u32 = Ipv4Addr::new(127, 64, 0, 1).to_bits();
/// Ends that have an address.
const ENDS_MAX: u32 = 1 << 20;

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
    for ear in &ears {
        ring.adopt(ear.port, ear.fd.as_fd())?;
    }
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
    /// Datagrams of the last `receive`.
    count: usize,
    came: Box<[Option<Came>; BATCH]>,
}

impl Ear {
    fn open(stamped: bool) -> io::Result<Ear> {
        let fd = bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), RECEIVE_BUFFER_BYTES)?;
        // The sockets of ends that are bound to one of its addresses.
        set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        set_option(&fd, libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR, 1)?;
        // "Don't fragment": the kernel need not think of an identification (RFC 6864), whose table does not fit the cache.
        set_option(&fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
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
        Ok(Ear {
            fd,
            port,
            headers,
            _bytes: bytes,
            names,
            controls,
            rooms,
            count: BATCH,
            came: Box::new([None; BATCH]),
        })
    }

    /// Takes what came, as much as one system call can. Answers how much it is; fewer than [`Ear::BATCH`]: there is no more.
    pub fn receive(&mut self) -> usize {
        for header in &mut self.headers[..self.count] {
            header.msg_hdr.msg_namelen = NAME_BYTES as u32;
            header.msg_hdr.msg_controllen = CONTROL_BYTES;
        }
        let (headers, none) = (self.headers.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: each header points to a name, control messages and bytes of the lengths that it says, all of which `self` owns.
        let came =
            check(unsafe { libc::recvmmsg(self.fd.as_raw_fd(), headers, BATCH as u32, libc::MSG_DONTWAIT, none) });
        self.count = came.map_or(0, |came| came as usize);
        for at in 0..self.count {
            self.came[at] = self.read(at);
        }
        self.count
    }

    /// Datagrams that ever found it full.
    pub fn overrun(&self) -> u64 {
        dropped(&self.fd)
    }

    /// What `receive` takes at most.
    pub const BATCH: usize = BATCH;

    /// One of those that came; `None` beyond them, and where it was sent to nobody.
    pub fn came(&self, at: usize) -> Option<Came> {
        *self.came[..self.count].get(at)?
    }

    fn read(&mut self, at: usize) -> Option<Came> {
        let header = &self.headers[at];
        let (len, told) = (header.msg_len as usize, header.msg_hdr.msg_controllen.min(CONTROL_BYTES));
        let from = socket_address(self.names.slice(at * NAME_BYTES, NAME_BYTES))?;
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

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the far side of a socket")]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    /// A ring, its ears, and somebody who waits for an answer.
    fn crowd() -> (Ring, [Ear; 2], UdpSocket) {
        let mut ring = Ring::new(8, true).unwrap();
        let ears = open(&mut ring).unwrap();
        let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        (ring, ears, peer)
    }

    fn address(socket: &UdpSocket) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, socket.local_addr().unwrap().port())
    }

    /// What came: for whom, from whom, whether stamped, and the bytes.
    fn heard(ear: &mut Ear) -> Vec<(u32, SocketAddrV4, bool, Vec<u8>)> {
        let count = ear.receive();
        let one = |at: usize| {
            let came = ear.came(at).unwrap();
            (came.end, came.from, came.at_nanos > 0, ear.bytes(at, &came).to_vec())
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn every_end_has_an_address_of_its_own_and_is_found_by_it() {
        for end in [0, 1, 254, 255, 256, 15_999, ENDS_MAX - 1] {
            assert!(address_of(end).is_loopback());
            assert_eq!(end_of(address_of(end)), Some(end));
        }
        assert_eq!(end_of(Ipv4Addr::LOCALHOST), None);
        assert_eq!(end_of(Ipv4Addr::from_bits(FIRST + ENDS_MAX)), None);
    }

    #[test]
    fn ends_that_share_a_socket_speak_and_hear_each_by_its_own_address() {
        let (mut ring, mut ears, peer) = crowd();
        for (stamped, ear) in [false, true].into_iter().zip(&mut ears) {
            for end in 0..100u32 {
                let at = SocketAddrV4::new(address_of(end), ear.port);
                let text = format!("end {end}");
                ring.room()[..text.len()].copy_from_slice(text.as_bytes());
                ring.send_as(at, address(&peer), text.len());
                ring.submit();
                let mut bytes = [0; 64];
                let (len, from) = peer.recv_from(&mut bytes).unwrap();
                assert_eq!((from, &bytes[..len]), (at.into(), text.as_bytes()));
                peer.send_to(text.as_bytes(), at).unwrap();
            }
            let all = [heard(ear), heard(ear), heard(ear)].concat();
            let expected = |end: u32| (end, address(&peer), stamped, format!("end {end}").into_bytes());
            assert_eq!(all, (0..100).map(expected).collect::<Vec<_>>());
        }
        assert_eq!(ring.send_errors, 0);
    }

    #[test]
    fn an_end_that_gives_up_its_own_socket_hears_everything_and_in_order() {
        let (mut ring, mut ears, peer) = crowd();
        let at = SocketAddrV4::new(address_of(7), ears[0].port);
        let (own, _) = ring.open_at(at).unwrap();
        ring.turn(1, Duration::ZERO).unwrap();
        let mut by_own = Vec::new();
        for turn in 0..12u8 {
            peer.send_to(&[turn], at).unwrap();
            if turn == 3 {
                // What came just before is still there.
                ring.leave(own).unwrap();
                assert!(heard(&mut ears[0]).is_empty());
            }
            if turn != 2 {
                ring.turn(1, Duration::ZERO).unwrap();
            }
            while let Some(arrival) = ring.take() {
                assert_eq!(arrival.from, address(&peer));
                by_own.extend_from_slice(ring.bytes(&arrival));
                ring.release(arrival);
            }
        }
        assert_eq!(by_own, [0, 1, 2, 3]);
        let by_all: Vec<u8> = heard(&mut ears[0]).into_iter().flat_map(|heard| heard.3).collect();
        assert_eq!(by_all, (4..12).collect::<Vec<_>>());
    }

    #[test]
    fn control_messages_of_any_kind_and_length_are_read_or_passed_over() {
        let message = |level: i32, kind: i32, data: &[u8]| {
            let mut bytes = ((CONTROL_HEAD_BYTES + data.len()) as u64).to_ne_bytes().to_vec();
            bytes.extend([level.to_ne_bytes(), kind.to_ne_bytes()].concat());
            bytes.extend(data);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            bytes
        };
        let to =
            message(libc::IPPROTO_IP, libc::IP_ORIGDSTADDR, &[2, 0, 0x12, 0x34, 127, 64, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
        let time = [3_u64.to_ne_bytes(), 5_u64.to_ne_bytes()].concat();
        let time = message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &time);
        let other = message(libc::IPPROTO_IP, libc::IP_TTL, &[64, 0, 0, 0]);
        let expected = (Some(SocketAddrV4::new(Ipv4Addr::new(127, 64, 0, 9), 0x1234)), 3_000_000_005);
        assert_eq!(controls(&[&time[..], &other, &to].concat()), expected);
        assert_eq!(controls(&[&to[..], &time].concat()), expected);
        assert_eq!(controls(&[&to[..], &time[..20]].concat()), (expected.0, 0));
        assert_eq!(controls(&to[..to.len() - 1]), (None, 0));
        assert_eq!(controls(&[0; 64]), (None, 0));
        assert_eq!(controls(&[]), (None, 0));
    }
}
