//! One UDP socket for IPv4 and IPv6, speaking plain addresses.
//!
//! A dual-stack socket shows an IPv4 peer as `::ffff:a.b.c.d`. The engine compares addresses with those of descriptions, so the
//! mapping is undone on the way in and redone on the way out, here and nowhere else.

use engine::leg::LocalLeg;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::UdpSocket;

/// Pairs of ports tried before giving up.
const PAIR_TRIES_MAX: usize = 64;

/// A bound UDP socket.
pub struct MediaSocket {
    socket: UdpSocket,
    mapped: bool,
}

impl MediaSocket {
    /// Both families where the host has IPv6, else IPv4; port 0 draws one.
    pub async fn bind(port: u16) -> io::Result<MediaSocket> {
        match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).await {
            Ok(socket) => Ok(MediaSocket { socket, mapped: true }),
            Err(_) => MediaSocket::bind_to(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port).await,
        }
    }

    /// One address.
    pub async fn bind_to(address: IpAddr, port: u16) -> io::Result<MediaSocket> {
        Ok(MediaSocket { socket: UdpSocket::bind((address, port)).await?, mapped: false })
    }

    /// An even port for RTP and the next one for RTCP (RFC 3550 §11).
    pub async fn bind_pair(address: IpAddr) -> io::Result<(MediaSocket, MediaSocket)> {
        let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..PAIR_TRIES_MAX {
            let first = MediaSocket::bind_to(address, 0).await?;
            let port = first.port();
            let other = if port.is_multiple_of(2) { port.checked_add(1) } else { port.checked_sub(1) };
            let Some(other) = other else { continue };
            match MediaSocket::bind_to(address, other).await {
                Ok(second) if other > port => return Ok((first, second)),
                Ok(second) => return Ok((second, first)),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// The bound port.
    pub fn port(&self) -> u16 {
        self.socket.local_addr().map_or(0, |address| address.port())
    }

    /// Receives one datagram.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (len, from) = self.socket.recv_from(buffer).await?;
        Ok((len, SocketAddr::new(from.ip().to_canonical(), from.port())))
    }

    /// Sends one datagram. Errors are noise on UDP (a peer that has gone answers with ECONNREFUSED): answers whether it left.
    pub async fn send(&self, datagram: &[u8], to: SocketAddr) -> bool {
        let to = match to.ip() {
            IpAddr::V4(v4) if self.mapped => SocketAddr::new(IpAddr::V6(v4.to_ipv6_mapped()), to.port()),
            _ => to,
        };
        self.socket.send_to(datagram, to).await.is_ok()
    }
}

/// What a bare leg says about itself, with the port of its socket.
pub fn local_with_port(local: LocalLeg, socket_port: u16) -> LocalLeg {
    match local {
        LocalLeg::Webrtc { ufrag, pwd, fingerprint, ssrc, .. } => {
            LocalLeg::Webrtc { ufrag, pwd, fingerprint, ssrc, port: socket_port }
        }
        LocalLeg::Rtp { ssrc, .. } => LocalLeg::Rtp { ssrc, port: socket_port },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_socket_serves_both_families_under_their_plain_addresses() {
        let both = MediaSocket::bind(0).await.unwrap();
        let peer = MediaSocket::bind_to(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).await.unwrap();
        let mut buffer = [0; 16];
        assert!(peer.send(b"there", (Ipv4Addr::LOCALHOST, both.port()).into()).await);
        let (_, from) = both.receive(&mut buffer).await.unwrap();
        assert_eq!(from, SocketAddr::from((Ipv4Addr::LOCALHOST, peer.port())));
        assert!(both.send(b"back", from).await);
        assert_eq!(peer.receive(&mut buffer).await.unwrap().0, 4);
    }

    #[tokio::test]
    async fn a_pair_is_even_and_odd() {
        let (rtp, rtcp) = MediaSocket::bind_pair(IpAddr::V4(Ipv4Addr::LOCALHOST)).await.unwrap();
        assert!(rtp.port().is_multiple_of(2));
        assert_eq!(rtcp.port(), rtp.port() + 1);
    }
}
