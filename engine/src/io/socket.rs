//! UDP sockets for media, and many messages with one system call.
//!
//! A media socket is bound to one port on all addresses: dual stack where the host has IPv6, IPv4 otherwise. It never sets
//! SO_REUSEADDR: two processes on one media port would each get half of a call.
//!
//! Why not `std::net::UdpSocket`: it offers neither IPV6_V6ONLY before bind nor receive buffer sizes.
#![allow(unsafe_code)]

use super::address::{Family, RawAddress, unspecified};
use super::system::{Arena, check, raw};
use crate::limits::DATAGRAM_BYTES_MAX;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What the kernel may hold for one socket between two turns. The kernel doubles it, and a small packet occupies up to
/// 2.3 KiB of it: 100 packets, two seconds of one stream. A flood beyond it costs no memory.
const RECEIVE_BUFFER_BYTES: libc::c_int = 128 * 1024;

/// A bound UDP socket.
#[derive(Debug)]
pub struct MediaSocket {
    fd: OwnedFd,
    family: Family,
    /// Whether it is bound to one address of the host and not to all.
    has_address: bool,
}

impl MediaSocket {
    /// Binds `port` on `ip`, or on everything `family` reaches. Port 0 takes any.
    pub fn bind(family: Family, ip: Option<IpAddr>, port: u16) -> io::Result<MediaSocket> {
        let has_address = ip.is_some_and(|ip| !ip.is_unspecified());
        let ip = ip.unwrap_or(unspecified(family));
        let domain = match family {
            Family::V4 => libc::AF_INET,
            Family::Dual => libc::AF_INET6,
        };
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers; the answer is a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::socket(domain, kind, libc::IPPROTO_UDP))?) };
        if family == Family::Dual {
            set_option(fd.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
        }
        // A smaller buffer than wanted (net.core.rmem_max) still works.
        let _ = set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER_BYTES);
        let mut address = RawAddress::default();
        let Some(len) = address.write(family, SocketAddr::new(ip, port)) else {
            return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
        };
        // SAFETY: `address` holds `len` bytes of a socket address and lives through the call.
        check(unsafe { libc::bind(fd.as_raw_fd(), address.as_mut_ptr().cast(), len as libc::socklen_t) })?;
        Ok(MediaSocket { fd, family, has_address })
    }

    /// Marks what it sends with a code point (RFC 2474): in IPv4's type of service and, where it has both families, in IPv6's traffic class.
    pub fn mark(&self, dscp: u8) -> io::Result<()> {
        let class = libc::c_int::from(dscp) << 2;
        set_option(self.fd.as_fd(), libc::IPPROTO_IP, libc::IP_TOS, class)?;
        match self.family {
            Family::V4 => Ok(()),
            Family::Dual => set_option(self.fd.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_TCLASS, class),
        }
    }

    /// Which addresses it can reach.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Whether it is bound to one address of the host and not to all.
    pub fn has_address(&self) -> bool {
        self.has_address
    }

    /// The port it is bound to.
    pub fn port(&self) -> io::Result<u16> {
        self.local().map(|bound| bound.port())
    }

    /// What it is bound to; once connected, the host's address that speaks with the peer.
    pub fn local(&self) -> io::Result<SocketAddr> {
        let mut address = RawAddress::default();
        let mut len = RawAddress::BYTES as libc::socklen_t;
        // SAFETY: `address` has room for `len` bytes; both live through the call.
        check(unsafe { libc::getsockname(self.fd.as_raw_fd(), address.as_mut_ptr().cast(), &mut len) })?;
        RawAddress::parse(address.bytes()).ok_or(io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
    }

    /// Fixes the peer.
    pub fn connect(&self, to: SocketAddr) -> io::Result<()> {
        let mut address = RawAddress::default();
        let Some(len) = address.write(self.family, to) else {
            return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
        };
        // SAFETY: `address` holds `len` bytes of a socket address and lives through the call.
        check(unsafe { libc::connect(self.fd.as_raw_fd(), address.as_mut_ptr().cast(), len as libc::socklen_t) })
            .map(drop)
    }

    /// Frees it from its peer: anyone is heard again, at every address that it was bound to. Its port must be one that was asked for: the
    /// kernel takes one that it chose itself back.
    pub fn disconnect(&self) -> io::Result<()> {
        // `AF_UNSPEC` is zero.
        let address = [0u8; size_of::<libc::sockaddr>()];
        // SAFETY: `address` is as long as is said and lives through the call.
        check(unsafe { libc::connect(self.fd.as_raw_fd(), address.as_ptr().cast(), address.len() as libc::socklen_t) })
            .map(drop)
    }

    /// Whether each datagram comes with a control message that tells which of the host's addresses it was sent to; [`destination`] reads it.
    pub(super) fn tell_destination(&self, is_told: bool) -> io::Result<()> {
        let (level, name) = match self.family {
            Family::V4 => (libc::IPPROTO_IP, libc::IP_PKTINFO),
            Family::Dual => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        };
        set_option(self.fd.as_fd(), level, name, is_told.into())
    }
}

/// Room for the control message of `MediaSocket::tell_destination`, rounded up to 16.
pub(super) const CONTROL_BYTES: usize = 48;

/// Which of the host's addresses a datagram was sent to, by its control message.
pub(super) fn destination(control: &[u8]) -> Option<IpAddr> {
    const DATA: usize = size_of::<libc::cmsghdr>();
    let number = |at: usize| Some(i32::from_ne_bytes(control.get(at..at + 4)?.try_into().ok()?));
    let bytes = |at: usize, len: usize| control.get(at..at + len);
    // `cmsghdr`: its length, of the size of a word, then level and kind.
    match (number(DATA - 8)?, number(DATA - 4)?) {
        // `in_pktinfo`: interface, the address an answer would come from, the address it was sent to.
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            bytes(DATA + 8, 4)?.try_into().ok().map(|octets: [u8; 4]| IpAddr::from(octets))
        }
        // `in6_pktinfo`: the address it was sent to, interface.
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            bytes(DATA, 16)?.try_into().ok().map(|octets: [u8; 16]| IpAddr::from(octets).to_canonical())
        }
        _ => None,
    }
}

impl AsFd for MediaSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What media sockets of this host look like: `ip` decides, else whether the kernel gives a dual-stack one.
pub fn probe_family(ip: Option<IpAddr>) -> Family {
    match ip {
        Some(IpAddr::V4(_)) => Family::V4,
        Some(IpAddr::V6(_)) => Family::Dual,
        None if MediaSocket::bind(Family::Dual, None, 0).is_ok() => Family::Dual,
        None => Family::V4,
    }
}

fn set_option(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is `bytes` long and lives through the call.
    check(unsafe { libc::setsockopt(raw(fd), level, name, (&raw const value).cast(), bytes) }).map(drop)
}

/// Messages laid out once as `recvmmsg` and `sendmmsg` want them.
pub(super) struct MessageTable {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    addresses: Box<[RawAddress]>,
    bytes: Arena,
}

/// Room per message: a cache line more than the largest datagram needs, so that neighbours never share one.
const MESSAGE_BYTES: usize = DATAGRAM_BYTES_MAX.next_multiple_of(64);

impl MessageTable {
    /// `count` messages.
    pub(super) fn new(count: usize) -> io::Result<MessageTable> {
        let bytes = Arena::new(count * MESSAGE_BYTES)?;
        let mut addresses = vec![RawAddress::default(); count].into_boxed_slice();
        let mut vectors: Box<[libc::iovec]> = (0..count)
            .map(|index| libc::iovec {
                iov_base: bytes.pointer(index * MESSAGE_BYTES).cast(),
                iov_len: DATAGRAM_BYTES_MAX,
            })
            .collect();
        // SAFETY: `mmsghdr` is plain numbers and pointers, for which zero is valid.
        let zero: libc::mmsghdr = unsafe { std::mem::zeroed() };
        let mut headers = vec![zero; count].into_boxed_slice();
        for ((header, vector), address) in headers.iter_mut().zip(vectors.iter_mut()).zip(addresses.iter_mut()) {
            header.msg_hdr.msg_name = address.as_mut_ptr();
            header.msg_hdr.msg_namelen = RawAddress::BYTES as u32;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        Ok(MessageTable { headers, vectors, addresses, bytes })
    }

    /// How many messages it holds.
    pub(super) fn len(&self) -> usize {
        self.headers.len()
    }

    /// The bytes of one message.
    pub(super) fn bytes(&mut self, index: usize, len: usize) -> &mut [u8] {
        debug_assert!(len <= DATAGRAM_BYTES_MAX);
        self.bytes.slice(index * MESSAGE_BYTES, len)
    }

    /// Receives into the messages `first .. first + count`; answers how many came.
    pub(super) fn receive(&mut self, fd: BorrowedFd<'_>, first: usize, count: usize) -> io::Result<usize> {
        let headers = &mut self.headers[first..first + count];
        for header in headers.iter_mut() {
            header.msg_hdr.msg_namelen = RawAddress::BYTES as u32;
            header.msg_hdr.msg_flags = 0;
        }
        // SAFETY: each header points into `addresses`, `vectors` and `bytes`, which live as long as `self` and are
        // borrowed by nobody during the call.
        let answer = unsafe {
            libc::recvmmsg(raw(fd), headers.as_mut_ptr(), count as u32, libc::MSG_DONTWAIT, std::ptr::null_mut())
        };
        check(answer).map(|count| count as usize)
    }

    /// What `receive` put into a message: its length, whether it was longer than that, and its source.
    pub(super) fn received(&self, index: usize) -> (usize, bool, Option<SocketAddr>) {
        let header = &self.headers[index];
        let truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        let name_bytes = (header.msg_hdr.msg_namelen as usize).min(RawAddress::BYTES);
        let from = RawAddress::parse(&self.addresses[index].bytes()[..name_bytes]);
        ((header.msg_len as usize).min(DATAGRAM_BYTES_MAX), truncated, from)
    }

    /// Prepares a message for `send`: its first `len` bytes go to `to`, `None` on a connected socket. False when such a socket cannot
    /// reach it.
    pub(super) fn prepare(&mut self, index: usize, family: Family, to: Option<SocketAddr>, len: usize) -> bool {
        let name_bytes = match to {
            Some(to) => self.addresses[index].write(family, to),
            None => Some(0),
        };
        let Some(name_bytes) = name_bytes else { return false };
        self.headers[index].msg_hdr.msg_namelen = name_bytes as u32;
        self.vectors[index].iov_len = len.min(DATAGRAM_BYTES_MAX);
        true
    }

    /// Sends the messages `first .. first + count`; answers how many the kernel took.
    pub(super) fn send(&mut self, fd: BorrowedFd<'_>, first: usize, count: usize) -> io::Result<usize> {
        let headers = &mut self.headers[first..first + count];
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: as in `receive`; the kernel reads only.
        let answer = unsafe { libc::sendmmsg(raw(fd), headers.as_mut_ptr(), count as u32, flags) };
        check(answer).map(|count| count as usize)
    }
}

impl std::fmt::Debug for MessageTable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("MessageTable").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What the header of a datagram said.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(in crate::io) struct Marks {
        /// IPv4's time to live.
        pub(in crate::io) ttl: i32,
        /// IPv4's type of service, IPv6's traffic class.
        pub(in crate::io) tos: i32,
    }

    /// Until there is something to read: on a busy core the kernel delivers what was sent over loopback a moment after it took it.
    pub(in crate::io) fn until_there(socket: &MediaSocket) {
        const ONLY_WHERE_NOTHING_COMES_MS: libc::c_int = 5_000;
        let mut fd = libc::pollfd { fd: raw(socket.as_fd()), events: libc::POLLIN, revents: 0 };
        // SAFETY: `fd` is one entry and lives through the call.
        assert_eq!(unsafe { libc::poll(&raw mut fd, 1, ONLY_WHERE_NOTHING_COMES_MS) }, 1, "nothing has come");
    }

    /// From now on the kernel tells a socket what headers say.
    pub(in crate::io) fn show_marks(socket: &MediaSocket) {
        set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_RECVTTL, 1).unwrap();
        set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_RECVTOS, 1).unwrap();
        if socket.family() == Family::Dual {
            set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1).unwrap();
        }
    }

    /// What the next datagram's header said.
    pub(in crate::io) fn marks(socket: &MediaSocket) -> Marks {
        let (mut bytes, mut control) = ([0u8; 2048], [0u64; 32]);
        let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: `msghdr` is plain numbers and pointers, for which zero is valid.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        (header.msg_iov, header.msg_iovlen) = (&mut vector, 1);
        (header.msg_control, header.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control));
        // SAFETY: `header` points to what lives through the call.
        let len = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &mut header, 0) };
        assert!(len >= 0, "{}", io::Error::last_os_error());
        let mut marks = Marks::default();
        // SAFETY: the kernel has filled `control` with whole messages, and `header` says how long they are.
        let mut message = unsafe { libc::CMSG_FIRSTHDR(&header) };
        while !message.is_null() {
            // SAFETY: as above; what follows each header is at least as long as is read of it.
            unsafe {
                let data = libc::CMSG_DATA(message);
                match ((*message).cmsg_level, (*message).cmsg_type) {
                    (libc::IPPROTO_IP, libc::IP_TTL) => marks.ttl = data.cast::<i32>().read_unaligned(),
                    (libc::IPPROTO_IP, libc::IP_TOS) => marks.tos = (*data).into(),
                    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => marks.tos = data.cast::<i32>().read_unaligned(),
                    _ => {}
                }
                message = libc::CMSG_NXTHDR(&header, message);
            }
        }
        marks
    }

    #[test]
    fn what_a_marked_socket_sends_carries_its_code_point_over_both_families() {
        for (family, ip) in [(Family::V4, "127.0.0.1"), (Family::Dual, "127.0.0.1"), (Family::Dual, "::1")] {
            let ip: IpAddr = ip.parse().unwrap();
            let far_family = if ip.is_ipv4() { Family::V4 } else { Family::Dual };
            let far = MediaSocket::bind(far_family, Some(ip), 0).unwrap();
            show_marks(&far);
            let socket = MediaSocket::bind(family, None, 0).unwrap();
            for dscp in [46, 0, 63] {
                socket.mark(dscp).unwrap();
                let mut table = MessageTable::new(1).unwrap();
                assert!(table.prepare(0, family, Some(far.local().unwrap()), 10));
                table.send(socket.as_fd(), 0, 1).unwrap();
                assert_eq!(marks(&far).tos >> 2, dscp.into(), "{family:?} {ip}");
            }
        }
    }

    #[test]
    fn a_port_in_use_is_refused_and_not_shared() {
        let family = probe_family(None);
        let first = MediaSocket::bind(family, None, 0).unwrap();
        let second = MediaSocket::bind(family, None, first.port().unwrap());
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn an_ipv6_address_on_an_ipv4_socket_is_an_error() {
        let socket = MediaSocket::bind(Family::V4, None, 0).unwrap();
        let error = socket.connect("[::1]:9".parse().unwrap()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EAFNOSUPPORT));
    }

    #[test]
    fn many_messages_cross_with_one_call_and_keep_their_order_and_source() {
        let localhost = Some("127.0.0.1".parse().unwrap());
        let (a, b) = (MediaSocket::bind(Family::V4, localhost, 0), MediaSocket::bind(Family::V4, localhost, 0));
        let (a, b) = (a.unwrap(), b.unwrap());
        let to = SocketAddr::from(([127, 0, 0, 1], b.port().unwrap()));
        let (mut out, mut into) = (MessageTable::new(8).unwrap(), MessageTable::new(8).unwrap());
        for index in 0..8 {
            out.bytes(index, 100).fill(index as u8);
            assert!(out.prepare(index, Family::V4, Some(to), 10 * (index + 1)));
        }
        assert_eq!(out.send(a.as_fd(), 0, 8).unwrap(), 8);
        assert_eq!(into.receive(b.as_fd(), 0, 8).unwrap(), 8);
        for index in 0..8 {
            let (len, truncated, from) = into.received(index);
            assert_eq!((len, truncated), (10 * (index + 1), false));
            assert_eq!(from, Some(SocketAddr::from(([127, 0, 0, 1], a.port().unwrap()))));
            assert!(into.bytes(index, len).iter().all(|&byte| byte == index as u8));
        }
        assert_eq!(into.receive(b.as_fd(), 0, 8).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
