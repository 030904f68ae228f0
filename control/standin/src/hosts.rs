//! Addresses of this machine, for the candidates that a browser gets.
//!
//! Read from the kernel's tables in /proc: the standard library has no list of interfaces, and a library for ten lines is not worth it.
//! Where the tables cannot be read, the loopback address and the one that the page was asked for still work.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Candidates that one answer carries at most.
pub const ADDRESSES_MAX: usize = 8;

/// Addresses to advertise: the one that the page was asked for first, then the others, loopback last.
pub fn advertised(requested: Option<IpAddr>) -> Vec<IpAddr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut all: Vec<IpAddr> = requested.filter(|address| !address.is_unspecified()).into_iter().collect();
    all.extend(ipv4_local(&read("/proc/net/fib_trie")).into_iter().map(IpAddr::V4));
    all.extend(ipv6_global(&read("/proc/net/if_inet6")).into_iter().map(IpAddr::V6));
    let mut kept: Vec<IpAddr> = Vec::new();
    for address in all {
        if !kept.contains(&address) && (!address.is_loopback() || Some(address) == requested) {
            kept.push(address);
        }
    }
    kept.truncate(ADDRESSES_MAX - 1);
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    if !kept.contains(&loopback) {
        kept.push(loopback);
    }
    kept
}

/// The host part of a `Host` header, if it is an address.
pub fn address_of_host(host: &str) -> Option<IpAddr> {
    if let Some(inner) = host.strip_prefix('[') {
        return inner.split(']').next()?.parse().ok();
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if name == "localhost" { Some(IpAddr::V4(Ipv4Addr::LOCALHOST)) } else { name.parse().ok() }
}

/// Leaves of the routing trie that are marked as local.
fn ipv4_local(fib_trie: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut leaf = None;
    for line in fib_trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(leaf.filter(|leaf| !found.contains(leaf)));
        }
    }
    found
}

/// Global addresses: scope 00.
fn ipv6_global(if_inet6: &str) -> Vec<Ipv6Addr> {
    if_inet6
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let address = u128::from_str_radix(fields.next()?, 16).ok()?;
            (fields.nth(2)? == "00").then(|| Ipv6Addr::from_bits(address))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 192.0.2.0/24 2 0 2\n        |-- 192.0.2.0\n           /24 link UNICAST\n        |-- 192.0.2.7\n           /32 host LOCAL\nLocal:\n        |-- 192.0.2.7\n           /32 host LOCAL\n        |-- 127.0.0.1\n           /32 host LOCAL\n";
        assert_eq!(ipv4_local(trie), [Ipv4Addr::new(192, 0, 2, 7), Ipv4Addr::LOCALHOST]);
        let inet6 = "20010db8000000000000000000000007 02 40 00 80     eth0\nfe800000000000000000000000000001 02 40 20 80     eth0\n00000000000000000000000000000001 01 80 10 80       lo\n";
        assert_eq!(ipv6_global(inet6), ["2001:db8::7".parse::<Ipv6Addr>().unwrap()]);
    }

    #[test]
    fn a_host_header_names_an_address_or_not() {
        assert_eq!(address_of_host("192.0.2.7:8443"), "192.0.2.7".parse().ok());
        assert_eq!(address_of_host("[2001:db8::7]:8443"), "2001:db8::7".parse().ok());
        assert_eq!(address_of_host("localhost:8000"), Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        assert_eq!(address_of_host("phone.example:8443"), None);
    }

    #[test]
    fn the_asked_address_comes_first_and_loopback_is_there() {
        let asked: IpAddr = "198.51.100.9".parse().unwrap();
        let all = advertised(Some(asked));
        assert_eq!(all.first(), Some(&asked));
        assert!(all.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)) && all.len() <= ADDRESSES_MAX);
    }
}
