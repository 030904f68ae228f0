//! What carries SIP: the five transports, the places messages come from and go to, and the framing of byte streams.
//!
//! A [`Hop`] names one end of a conversation: transport, address, the name that its certificate must carry, and, where only one
//! connection leads there, that connection. The stack thinks in hops; sockets exist in `sip_io` alone.
//!
//! Why the connection is part of a hop: a WebSocket client behind a NAT has no address that anybody could connect to (RFC 7118
//! §5), so a response, a forked INVITE and a BYE reach it on the connection it opened or not at all.

pub mod stream;

use std::net::SocketAddr;
use std::sync::Arc;

/// A transport of SIP, in the order in which a target that offers several is tried when nobody else decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// RFC 3261 §18.
    Udp,
    /// RFC 3261 §18.
    Tcp,
    /// RFC 3261 §26.2.
    Tls,
    /// RFC 7118, without TLS.
    Ws,
    /// RFC 7118 over TLS.
    Wss,
}

/// Every transport.
pub const TRANSPORTS: [Transport; 5] = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];

impl Transport {
    /// As written in Via (RFC 3261 §20.42, RFC 7118 §5.2.1).
    pub fn via_name(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
            Transport::Ws => "WS",
            Transport::Wss => "WSS",
        }
    }

    /// As written in `;transport=`. Clients write `wss` too, though RFC 7118 §5.2.2 has only `ws`.
    pub fn parameter(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Ws => "ws",
            Transport::Wss => "wss",
        }
    }

    /// Reads either spelling, in any case.
    pub fn parse(text: &str) -> Option<Transport> {
        TRANSPORTS.into_iter().find(|transport| transport.parameter().eq_ignore_ascii_case(text))
    }

    /// Whether it loses nothing: then nothing is repeated (RFC 3261 §17).
    pub fn is_reliable(self) -> bool {
        self != Transport::Udp
    }

    /// Whether nobody on the way can read it.
    pub fn is_secure(self) -> bool {
        matches!(self, Transport::Tls | Transport::Wss)
    }

    /// Whether messages are WebSocket messages.
    pub fn is_websocket(self) -> bool {
        matches!(self, Transport::Ws | Transport::Wss)
    }

    /// The same over TLS, for `sips:`.
    pub fn secured(self) -> Transport {
        match self {
            Transport::Udp | Transport::Tcp | Transport::Tls => Transport::Tls,
            Transport::Ws | Transport::Wss => Transport::Wss,
        }
    }

    /// The port when none is written (RFC 3261 §19.1.2, RFC 7118 §8.3).
    pub fn port(self) -> u16 {
        match self {
            Transport::Udp | Transport::Tcp => 5060,
            Transport::Tls => 5061,
            Transport::Ws => 80,
            Transport::Wss => 443,
        }
    }
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.parameter())
    }
}

/// One connection of a reliable transport, either direction. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Where a message came from, or goes to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    /// The transport.
    pub transport: Transport,
    /// The address at the other end.
    pub remote: SocketAddr,
    /// The connection, if it is to be that one while it lives. A WebSocket client is reachable by nothing else.
    pub connection: Option<ConnectionId>,
    /// The name that the other end's certificate must carry (RFC 5922 §7.1): the domain that was asked for, never the name that
    /// the DNS led to. `None`: the address itself, or nobody checks.
    pub domain: Option<Arc<str>>,
}

impl Hop {
    /// The sender or receiver of a datagram.
    pub fn udp(remote: SocketAddr) -> Hop {
        Hop::new(Transport::Udp, remote)
    }

    /// A place that any connection may lead to.
    pub fn new(transport: Transport, remote: SocketAddr) -> Hop {
        Hop { transport, remote, connection: None, domain: None }
    }

    /// The other end of a connection.
    pub fn connected(transport: Transport, remote: SocketAddr, connection: ConnectionId) -> Hop {
        Hop { transport, remote, connection: Some(connection), domain: None }
    }

    /// The same place, whose certificate must carry `domain`.
    pub fn for_domain(mut self, domain: &str) -> Hop {
        self.domain = Some(Arc::from(domain.to_ascii_lowercase()));
        self
    }

    /// Whether both lead to the same peer, by whatever connection.
    pub fn same_place(&self, other: &Hop) -> bool {
        (self.transport, self.remote) == (other.transport, other.remote)
    }
}

/// What TLS proved about the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerIdentity {
    /// DNS names, IP addresses and `sip:` URIs of a verified client certificate; empty when there was none.
    pub certificate_names: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_transport_is_read_back_from_both_spellings() {
        for transport in TRANSPORTS {
            assert_eq!(Transport::parse(transport.via_name()), Some(transport));
            assert_eq!(Transport::parse(transport.parameter()), Some(transport));
            assert!(transport.secured().is_secure());
        }
        assert_eq!(Transport::parse("sctp"), None);
    }
}
