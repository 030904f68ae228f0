//! When a socket may be connected to its peer, and when it is free again.
//!
//! Why a packet is asked where it was sent to: see [`Home`].

use super::super::SocketKey;
use super::{Ring, State};
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Which of the host's addresses a peer sends to. A socket that is bound to all of them must not be connected before that is known: it
/// would then hear at the one address from which the host reaches the peer, which may be another than the one the peer was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    Unknown,
    /// The next datagram of this peer tells.
    Asked(SocketAddr),
    /// This peer sends to this address.
    Known(SocketAddr, IpAddr),
    /// The host reaches a peer from another: never connected.
    Elsewhere,
}

impl Ring {
    pub(in crate::io) fn fix(&mut self, key: SocketKey, peer: Option<SocketAddr>) -> io::Result<()> {
        let State { sockets, homes, .. } = &mut self.state;
        let entry =
            sockets.get_mut(key.index as usize).filter(|entry| entry.generation == key.generation && !entry.closing);
        let Some(entry) = entry else { return Ok(()) };
        let wanted = peer.map(|peer| (peer.ip(), peer.port()));
        let Some(socket) = entry.socket.as_ref().filter(|_| entry.connected != wanted) else { return Ok(()) };
        if entry.connected.is_some() {
            socket.disconnect()?;
            entry.connected = None;
        }
        let Some(peer) = peer else { return Ok(()) };
        let home = &mut homes[key.index as usize];
        let expected = match *home {
            _ if socket.has_address() => None,
            Home::Known(of, ip) if of == peer => Some(ip),
            Home::Elsewhere => return Ok(()),
            Home::Asked(of) if of == peer => return Ok(()),
            Home::Unknown | Home::Asked(_) | Home::Known(..) => {
                socket.tell_destination(true)?;
                *home = Home::Asked(peer);
                return Ok(());
            }
        };
        socket.connect(peer)?;
        // From here on it is connected, whatever follows: the next look frees it where this one fails to.
        entry.connected = wanted;
        if expected.is_some_and(|ip| socket.local().map(|local| local.ip()).ok() != Some(ip)) {
            *home = Home::Elsewhere;
            socket.disconnect()?;
            entry.connected = None;
        }
        Ok(())
    }
}

impl State {
    /// A datagram told which address of the host it was sent to: that of the peer in question ends the asking.
    pub(super) fn note_home(&mut self, key: SocketKey, from: SocketAddr, sent_to: Option<IpAddr>) {
        let home = &mut self.homes[key.index as usize];
        let (Home::Asked(peer), Some(ip)) = (*home, sent_to) else { return };
        if peer != from {
            return;
        }
        *home = Home::Known(peer, ip);
        if let Some(socket) = self.live(key).and_then(|entry| entry.socket.as_ref()) {
            // Told once more, it is read once more.
            let _ = socket.tell_destination(false);
        }
    }
}
