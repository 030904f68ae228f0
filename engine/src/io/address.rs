//! Socket addresses as the kernel reads and writes them.
//!
//! Above this module an IPv4 address is IPv4, whatever socket it came from; below it, a dual-stack socket speaks of
//! `::ffff:a.b.c.d`. Both translations happen here, byte by byte and without `unsafe`.
//!
//! Why not `libc::sockaddr_storage`: it is 128 bytes, and reading it takes casts that the compiler cannot check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Which addresses a socket can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// AF_INET
    V4,
    /// AF_INET6 with IPV6_V6ONLY off: both.
    Dual,
}

/// A `sockaddr_in` or `sockaddr_in6`, with room to spare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct RawAddress([u8; RawAddress::BYTES]);

impl RawAddress {
    /// Its size: `sockaddr_in6` has 28 bytes.
    pub const BYTES: usize = 32;
    const V4_BYTES: usize = size_of::<libc::sockaddr_in>();
    const V6_BYTES: usize = size_of::<libc::sockaddr_in6>();

    /// From bytes the kernel wrote. `None` when they are no internet address.
    pub fn parse(bytes: &[u8]) -> Option<SocketAddr> {
        let family = u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]);
        let port = u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]);
        match i32::from(family) {
            libc::AF_INET => {
                let octets: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
                Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(octets), port)))
            }
            libc::AF_INET6 => {
                let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
                let ip = Ipv6Addr::from(octets);
                if let Some(mapped) = ip.to_ipv4_mapped() {
                    return Some(SocketAddr::V4(SocketAddrV4::new(mapped, port)));
                }
                let scope = u32::from_ne_bytes(bytes.get(24..28)?.try_into().ok()?);
                Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)))
            }
            _ => None,
        }
    }

    /// Writes `address` for a socket of `family`; answers its length, `None` when such a socket cannot reach it.
    pub fn write(&mut self, family: Family, address: SocketAddr) -> Option<usize> {
        let port = address.port().to_be_bytes();
        match (family, address) {
            (Family::V4, SocketAddr::V4(v4)) => {
                self.0[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                self.0[2..4].copy_from_slice(&port);
                self.0[4..8].copy_from_slice(&v4.ip().octets());
                self.0[8..].fill(0);
                Some(RawAddress::V4_BYTES)
            }
            (Family::V4, SocketAddr::V6(_)) => None,
            (Family::Dual, address) => {
                let (ip, scope) = match address {
                    SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
                    SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
                };
                self.0[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                self.0[2..4].copy_from_slice(&port);
                self.0[4..8].fill(0);
                self.0[8..24].copy_from_slice(&ip.octets());
                self.0[24..28].copy_from_slice(&scope.to_ne_bytes());
                self.0[28..].fill(0);
                Some(RawAddress::V6_BYTES)
            }
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; RawAddress::BYTES] {
        &self.0
    }

    /// Where the kernel may write or read it.
    pub fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.0.as_mut_ptr().cast()
    }
}

/// The address every interface answers to, in the shape `family` wants.
pub fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::Dual => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_ipv4_address_comes_back_the_same_through_either_kind_of_socket(ip: u32, port: u16) {
            let address = SocketAddr::from((Ipv4Addr::from(ip), port));
            for (family, bytes) in [(Family::V4, 16), (Family::Dual, 28)] {
                let mut raw = RawAddress::default();
                prop_assert_eq!(raw.write(family, address), Some(bytes));
                prop_assert_eq!(RawAddress::parse(&raw.bytes()[..bytes]), Some(address));
            }
        }

        #[test]
        fn an_ipv6_address_comes_back_the_same_unless_it_is_mapped(ip: u128, port: u16, scope: u32) {
            let ip = Ipv6Addr::from(ip);
            prop_assume!(ip.to_ipv4_mapped().is_none());
            let address = SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope));
            let mut raw = RawAddress::default();
            prop_assert_eq!(raw.write(Family::Dual, address), Some(28));
            prop_assert_eq!(RawAddress::parse(raw.bytes()), Some(address));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = RawAddress::parse(&bytes);
        }
    }

    #[test]
    fn a_socket_without_ipv6_cannot_reach_an_ipv6_address() {
        let address = SocketAddr::from((Ipv6Addr::LOCALHOST, 9));
        assert_eq!(RawAddress::default().write(Family::V4, address), None);
    }

    #[test]
    fn an_address_of_another_family_or_cut_short_is_not_read() {
        let mut bytes = [0u8; 28];
        bytes[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
        assert_eq!(RawAddress::parse(&bytes), None);
        bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        assert_eq!(RawAddress::parse(&bytes[..20]), None);
        assert_eq!(RawAddress::parse(&[]), None);
    }

    #[test]
    fn the_layout_is_the_kernels() {
        let mut raw = RawAddress::default();
        raw.write(Family::V4, SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 0x1234)));
        let family = (libc::AF_INET as u16).to_ne_bytes();
        assert_eq!(raw.bytes()[..8], [family[0], family[1], 0x12, 0x34, 192, 0, 2, 1]);
    }
}
