//! Raw sockets by which running calls speak: one for each address of the host that calls answer from, made when that is first learned.
//!
//! Why a raw socket: what leaves by it has the source port that we write. A UDP socket has one, and a thousand of them have been pushed out of
//! the cache when they have their turn. What it costs is that UDP's header is ours to write (RFC 768), the checksum too: some peers take none
//! for an error.
//!
//! Why IP's header is the kernel's, and hence one socket for each address: of a sender that writes its own (`IP_HDRINCL`) the kernel keeps no
//! route toward a peer on the same link. It makes and frees one for each packet, and frees them in batches that all others wait for.
//!
//! Why nothing is received by them: the kernel looks at each raw socket of protocol UDP for each UDP packet that comes to the host, and gives
//! it a copy. A socket that was disconnected once is in no list that it would be found in. Where a kernel lists it all the same, it is connected
//! to an address that no packet comes from.
#![allow(unsafe_code)]

use super::super::system::{check, raw};
use super::steered::{bind_to, grow, set_option, socket, socket_address};
use io_uring::types::Fd;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Bytes of a UDP header.
pub(super) const UDP_BYTES: usize = 8;
/// Addresses of the host that calls of one worker answer from by raw sockets; beyond them, calls send by their own sockets.
const SOURCES_MAX: usize = 64;
/// What may wait in one of the sockets for a network card.
const SEND_BUFFER_BYTES: libc::c_int = 4 * 1024 * 1024;
/// The group that is never assigned (RFC 1112 §4). No packet has a group for its source (RFC 1122 §3.2.1.3), and no route is needed to connect to
/// one.
const NOBODY: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 0);

/// The sockets of one worker.
pub(super) struct Sources {
    sources: Vec<Source>,
    dscp: u8,
}

struct Source {
    address: Ipv4Addr,
    socket: OwnedFd,
}

impl Sources {
    /// With the first address, if one is known already. Fails where raw sockets are forbidden.
    pub(super) fn new(first: Option<Ipv4Addr>, dscp: u8) -> io::Result<Sources> {
        let mut sources = Vec::with_capacity(SOURCES_MAX);
        let source = Source::new(first.unwrap_or(Ipv4Addr::LOCALHOST), dscp)?;
        sources.extend(first.map(|_| source));
        Ok(Sources { sources, dscp })
    }

    /// Calls answer from `address` from now on. Where there is no socket for it, theirs do.
    pub(super) fn add(&mut self, address: Ipv4Addr) {
        if address.is_unspecified() || self.sources.len() == SOURCES_MAX || self.of(address).is_some() {
            return;
        }
        self.sources.extend(Source::new(address, self.dscp));
    }

    /// By which socket packets leave from `address`.
    pub(super) fn of(&self, address: Ipv4Addr) -> Option<Fd> {
        self.sources.iter().find(|source| source.address == address).map(|source| Fd(source.socket.as_raw_fd()))
    }
}

impl Source {
    fn new(address: Ipv4Addr, dscp: u8) -> io::Result<Source> {
        let socket = socket(libc::SOCK_RAW, libc::IPPROTO_UDP)?;
        disconnect(&socket)?;
        bind_to(&socket, address)?;
        // Connected, it counts its packets itself (IP's identification); else the kernel would take numbers from a table that fits no cache.
        // The route to nobody, which would be looked at after each packet, goes when the type of service changes.
        let tos = libc::c_int::from(dscp) << 2;
        set_option(&socket, libc::IPPROTO_IP, libc::IP_TOS, tos ^ 1 << 2)?;
        connect(&socket, NOBODY)?;
        set_option(&socket, libc::IPPROTO_IP, libc::IP_TOS, tos)?;
        grow(&socket, (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF), SEND_BUFFER_BYTES);
        Ok(Source { address, socket })
    }
}

/// The kernel takes the socket out of its lists (`__udp_disconnect`).
fn disconnect(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: `sockaddr` is plain numbers, for which zero is valid; no family is 0 (`AF_UNSPEC`).
    connect_to(socket, &unsafe { std::mem::zeroed::<libc::sockaddr_in>() })
}

fn connect(socket: &OwnedFd, address: Ipv4Addr) -> io::Result<()> {
    connect_to(socket, &socket_address(address))
}

fn connect_to(socket: &OwnedFd, address: &libc::sockaddr_in) -> io::Result<()> {
    let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: `address` holds `len` bytes of a socket address and lives through the call.
    check(unsafe { libc::connect(raw(socket.as_fd()), (&raw const *address).cast(), len) }).map(drop)
}

/// Writes UDP's header before the datagram that stands in `packet`.
pub(super) fn write_header(packet: &mut [u8], from: SocketAddrV4, to: SocketAddrV4) {
    let len = packet.len() as u16;
    packet[..2].copy_from_slice(&from.port().to_be_bytes());
    packet[2..4].copy_from_slice(&to.port().to_be_bytes());
    packet[4..6].copy_from_slice(&len.to_be_bytes());
    packet[6..8].fill(0);
    let checksum = udp_checksum(packet, *from.ip(), *to.ip());
    packet[6..8].copy_from_slice(&checksum.to_ne_bytes());
}

/// The checksum of UDP (RFC 768), in the order of bytes in memory: over both addresses, the protocol and UDP's length, header and datagram.
/// Its sum does not depend on the order of bytes (RFC 1071 §2).
fn udp_checksum(udp: &[u8], from: Ipv4Addr, to: Ipv4Addr) -> u16 {
    let (words, rest) = udp.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum += [last, from.octets(), to.octets()].map(|word| u64::from(u32::from_ne_bytes(word))).iter().sum::<u64>();
    sum += u64::from((libc::IPPROTO_UDP as u16).to_be()) + u64::from((udp.len() as u16).to_be());
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // 0 would mean that there is none.
    match !(sum as u16) {
        0 => 0xffff,
        checksum => checksum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    /// What came to a socket, if anything has.
    fn came_to(socket: &OwnedFd) -> Option<usize> {
        let mut bytes = [0u8; 64];
        let into = bytes.as_mut_ptr().cast();
        // SAFETY: `bytes` has room for what is asked for.
        let len = unsafe { libc::recv(raw(socket.as_fd()), into, bytes.len(), libc::MSG_DONTWAIT) };
        usize::try_from(len).ok()
    }

    /// A datagram from one address of the host to another, which has come when this ends.
    #[expect(clippy::disallowed_methods, reason = "a stranger and who hears it")]
    fn datagram(from: Ipv4Addr, to: Ipv4Addr) {
        let (sender, receiver) = (std::net::UdpSocket::bind((from, 0)), std::net::UdpSocket::bind((to, 0)));
        let (sender, receiver) = (sender.unwrap(), receiver.unwrap());
        sender.send_to(b"hello", receiver.local_addr().unwrap()).unwrap();
        assert_eq!(receiver.recv_from(&mut [0; 64]).unwrap(), (5, sender.local_addr().unwrap()));
    }

    #[test]
    fn a_raw_socket_gets_nothing_of_what_comes_to_its_address() {
        let (here, there) = (Ipv4Addr::new(127, 7, 0, 1), Ipv4Addr::new(127, 7, 0, 2));
        let any = socket(libc::SOCK_RAW, libc::IPPROTO_UDP).unwrap();
        bind_to(&any, here).unwrap();
        let source = Source::new(here, 0).unwrap();
        datagram(there, here);
        assert!(came_to(&any).is_some(), "another raw socket gets it");
        assert_eq!(came_to(&source.socket), None);
    }

    #[test]
    fn each_of_two_ways_to_hear_nothing_is_enough() {
        let (here, there) = (Ipv4Addr::new(127, 7, 0, 3), Ipv4Addr::new(127, 7, 0, 4));
        let raw = || socket(libc::SOCK_RAW, libc::IPPROTO_UDP).unwrap();
        let (unlisted, elsewhere) = (raw(), raw());
        disconnect(&unlisted).unwrap();
        bind_to(&unlisted, here).unwrap();
        bind_to(&elsewhere, here).unwrap();
        connect(&elsewhere, NOBODY).unwrap();
        datagram(there, here);
        assert_eq!((came_to(&unlisted), came_to(&elsewhere)), (None, None));
    }

    #[test]
    fn sockets_are_made_once_for_each_address_of_the_host_up_to_a_limit() {
        let mut sources = Sources::new(None, 46).unwrap();
        let first = Ipv4Addr::new(127, 8, 0, 0);
        assert!(sources.of(Ipv4Addr::LOCALHOST).is_none() && sources.of(first).is_none());
        for address in [first, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(192, 0, 2, 1), first] {
            sources.add(address);
            assert!(sources.of(first).is_some());
        }
        assert_eq!(sources.sources.len(), 1, "neither none nor another host's");
        (0..=255).for_each(|last| sources.add(Ipv4Addr::new(127, 8, 0, last)));
        assert_eq!(sources.sources.len(), SOURCES_MAX);
        assert!(sources.of(first).is_some() && sources.of(Ipv4Addr::new(127, 8, 0, 255)).is_none());
        assert!(Sources::new(Some(first), 0).unwrap().of(first).is_some());
    }

    #[test]
    fn a_checksum_is_that_of_rfc_768_and_never_zero() {
        // By hand: addresses a00:1 and a00:2, protocol 0x11, length twice, ports, data.
        let (from, to) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let with = |data: &[u8]| {
            let mut packet = [&[0; UDP_BYTES], data].concat();
            write_header(&mut packet, SocketAddrV4::new(from, 0x1234), SocketAddrV4::new(to, 0x5678));
            (packet[..6].to_vec(), u16::from_be_bytes([packet[6], packet[7]]))
        };
        let head = |len: u8| vec![0x12, 0x34, 0x56, 0x78, 0, len];
        // a00 + 1 + a00 + 2 + 11 + 8 + 1234 + 5678 + 8 = 7cd0
        assert_eq!(with(&[]), (head(8), !0x7cd0));
        // ... + 2 of length twice, + 9a00: a byte alone is the upper one. 7cd0 + 2 + 9a00 = 116d2, that is 16d3
        assert_eq!(with(&[0x9a]), (head(9), !0x16d3));
        // A sum of ffff: 7cd0 + 4 + 832b.
        assert_eq!(with(&[0x83, 0x2b]), (head(10), 0xffff));
    }

    #[test]
    fn packets_count_on_so_that_fragments_of_two_are_not_taken_for_one() {
        let (here, there) = (Ipv4Addr::new(127, 7, 0, 5), Ipv4Addr::new(127, 7, 0, 6));
        let heard = socket(libc::SOCK_RAW, libc::IPPROTO_UDP).unwrap();
        bind_to(&heard, there).unwrap();
        let source = Source::new(here, 0).unwrap();
        let to = socket_address(there);
        let ids = [(); 3].map(|()| {
            let mut packet = [0; UDP_BYTES + 20];
            let end = |ip| SocketAddrV4::new(ip, 9);
            write_header(&mut packet, end(here), end(there));
            let (fd, bytes) = (raw(source.socket.as_fd()), packet.as_ptr().cast());
            // SAFETY: both hold as many bytes as is said.
            let sent =
                unsafe { libc::sendto(fd, bytes, packet.len(), 0, (&raw const to).cast(), size_of_val(&to) as u32) };
            assert_eq!(sent, 28, "{}", io::Error::last_os_error());
            let mut got = [0u8; 64];
            // SAFETY: `got` has room for what is asked for.
            let len = unsafe { libc::recv(raw(heard.as_fd()), got.as_mut_ptr().cast(), got.len(), 0) };
            assert_eq!((len, SocketAddr::from(([got[12], got[13], got[14], got[15]], 0)).ip()), (48, here.into()));
            u16::from_be_bytes([got[4], got[5]])
        });
        assert!(ids[1] == ids[0].wrapping_add(1) && ids[2] == ids[1].wrapping_add(1), "{ids:?}");
    }
}
