//! From which of the host's addresses a socket that is bound to all of them answers: the one that its peer sends to.
//!
//! | a datagram at another address than answers leave from | answers leave from there |
//! |---|---|
//! | RTP or RTCP that the leg took, from where its media go | from now on |
//! | an ICE check, or the answer to one of ours, that proves to be the peer's | from now on where none was known, or where it moves the leg's media to its source; else this one answer |
//! | anything else | no |
//!
//! Why not the first datagram's, whoever it is from: a stranger that hits a port before its peer would have the call answer from an
//! address that the peer never sent to, and a peer that moves to another of our addresses would hear nothing.
//!
//! Why an ICE check's answer is an exception: it must leave from where the check was sent to (RFC 8445 §7.2.5.2.1), and a peer may try
//! pairs that it does not take.

use super::core::Core;
use crate::bridge::LegName;
use crate::demux::{self, Class};
use crate::io::{Net, SocketKey};
use crate::metrics::Metrics;
use std::net::{Ipv4Addr, SocketAddr};

/// A datagram that was sent to another address of ours than its socket answers from, before its leg sees it.
pub(super) struct Arrival {
    at: Ipv4Addr,
    from: SocketAddr,
    leg: LegName,
    socket: SocketKey,
    kind: Kind,
    /// Where the leg's media went before.
    to: Option<SocketAddr>,
    /// Datagrams dropped before.
    dropped: u64,
}

/// What may move answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Media,
    Check,
}

/// An answer that alone leaves from another address.
pub(super) struct Detour {
    arrival: Arrival,
    before: Ipv4Addr,
}

impl Arrival {
    /// Looks at a datagram that came to `at`; `None` where it moves nothing, whatever its leg says.
    pub(super) fn new<C: Core>(
        (at, from, datagram): (Ipv4Addr, SocketAddr, &[u8]),
        (leg, socket): (LegName, SocketKey),
        core: &C,
        metrics: &Metrics,
    ) -> Option<Arrival> {
        let kind = Kind::of(datagram)?;
        Some(Arrival { at, from, leg, socket, kind, to: core.destination(leg), dropped: dropped(metrics) })
    }

    /// The leg has seen it: answers leave from there, where it took it.
    pub(super) fn follow<C: Core>(self, core: &C, net: &mut Net, metrics: &Metrics) -> Option<Detour> {
        if dropped(metrics) != self.dropped {
            return None;
        }
        match self.kind {
            Kind::Media => {
                if core.destination(self.leg) == Some(self.from) {
                    net.answer_from(self.socket, self.at);
                }
                None
            }
            Kind::Check => {
                let before = net.answer_from(self.socket, self.at);
                (!before.is_unspecified()).then_some(Detour { arrival: self, before })
            }
        }
    }
}

impl Detour {
    /// The answer has left: what follows leaves from where it did before, unless the peer's media go to the source of the check now and
    /// did not before.
    pub(super) fn end<C: Core>(self, core: Option<&C>, net: &mut Net) {
        let Arrival { from, leg, socket, to, .. } = self.arrival;
        let now = core.and_then(|core| core.destination(leg));
        if now == to || now != Some(from) {
            net.answer_from(socket, self.before);
        }
    }
}

impl Kind {
    fn of(datagram: &[u8]) -> Option<Kind> {
        /// One of the two bits of a STUN message's class (RFC 8489 §5): set in indications, which prove nothing, and errors.
        const CLASS_BIT_0: u8 = 0x10;
        match demux::classify(datagram) {
            Class::Rtp | Class::Rtcp => Some(Kind::Media),
            Class::Stun if datagram.get(1).is_some_and(|byte| byte & CLASS_BIT_0 == 0) => Some(Kind::Check),
            _ => None,
        }
    }
}

/// A leg that takes a datagram drops nothing.
fn dropped(metrics: &Metrics) -> u64 {
    metrics.dropped.iter().sum()
}
