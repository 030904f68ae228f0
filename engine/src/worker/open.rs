//! How a bridge comes to its ports, sockets and slot, and how it gives them back.
//!
//! Nothing is half open: whatever fails, the ports rest, the sockets are closed and control gets one `Refused`.
//!
//! Why the sockets come before the bridge: they are what can fail, and the bridge's keys are what costs.

use super::core::Core;
use super::pool::SlotKey;
use super::turn::{Worker, guard};
use super::{Event, RefuseReason};
use crate::bridge::{BridgeConfig, BridgeId, BridgeStats, LegConfig, LegName};
use crate::error::{Cause, End, Side};
use crate::io::socket::MediaSocket;
use crate::io::{Owner, SocketKey};
use crate::leg::LocalLeg;
use crate::limits::PORT_TRIES_MAX;
use crate::time::Instant;
use std::io;

/// A bridge and what it holds of the worker.
#[derive(Debug)]
pub(super) struct Slot<C> {
    pub(super) id: BridgeId,
    /// Gone once the bridge has ended.
    pub(super) core: Option<Box<C>>,
    /// By `index_of`; gone once they are told to close.
    pub(super) sockets: [Option<SocketKey>; 4],
    /// Sockets the kernel has not let go of.
    pub(super) sockets_open: u8,
    leases: [Lease; 2],
    /// Whether its last event was posted.
    pub(super) ended: bool,
}

/// The ports of one leg.
#[derive(Clone, Copy, Debug)]
struct Lease {
    port: u16,
    pair: bool,
}

/// A leg's ports, bound.
struct Bound {
    lease: Lease,
    sockets: [Option<MediaSocket>; 2],
}

impl<C: Core> Worker<C> {
    /// Opens a bridge, or refuses it. There must be room for the answer.
    pub(super) fn open_bridge(&mut self, now: Instant, id: BridgeId, config: BridgeConfig) {
        self.posted = true;
        let key = match self.seat(now, id, &config) {
            Ok(key) => key,
            Err(reason) => return self.refuse(id, reason),
        };
        let (random, shared) = (self.random.fork(), &self.shared);
        let opened = guard(|| {
            let core = Box::new(C::open(now, config, shared, random));
            let locals = [core.local(LegName::A), core.local(LegName::B)];
            (core, locals)
        });
        self.by_id.insert(id, key);
        self.metrics.bridges_opened += 1;
        let Some(slot) = self.pool.get_mut(key) else { return };
        match opened {
            Ok((core, [a, b])) => {
                slot.core = Some(core);
                let (a, b) = (with_port(a, slot.leases[0].port), with_port(b, slot.leases[1].port));
                if !self.mailbox.post(Event::Opened { bridge: id, a, b }) {
                    self.metrics.events_lost += 1;
                }
                self.settle(key, now, Ok(()));
            }
            Err(_) => {
                self.metrics.bridges_panicked += 1;
                let end = End { side: Side::Engine, cause: Cause::Panicked };
                self.post_ended(key, end, BridgeStats::default());
                self.close(key);
            }
        }
    }

    pub(super) fn refuse(&mut self, bridge: BridgeId, reason: RefuseReason) {
        self.metrics.bridges_refused += 1;
        self.mailbox.unload();
        if !self.mailbox.post(Event::Refused { bridge, reason }) {
            self.metrics.events_lost += 1;
        }
    }

    /// Finds ports, sockets and a slot.
    fn seat(&mut self, now: Instant, id: BridgeId, config: &BridgeConfig) -> Result<SlotKey, RefuseReason> {
        if self.by_id.contains_key(&id) {
            return Err(RefuseReason::Duplicate);
        }
        if self.pool.is_full() || self.stop_at.is_some() {
            return Err(RefuseReason::Full);
        }
        let a = self.bind_leg(&config.a, now)?;
        let b = match self.bind_leg(&config.b, now) {
            Ok(b) => b,
            Err(reason) => {
                self.release(a.lease, now);
                return Err(reason);
            }
        };
        let leases = [a.lease, b.lease];
        let slot = Slot { id, core: None, sockets: [None; 4], sockets_open: 0, leases, ended: false };
        let Some(key) = self.pool.insert_with(|_| slot) else {
            leases.iter().for_each(|&lease| self.release(lease, now));
            return Err(RefuseReason::Full);
        };
        for (index, socket) in a.sockets.into_iter().chain(b.sockets).enumerate() {
            let Some(socket) = socket else { continue };
            let owner = Owner { slot: key.index, generation: key.generation, port: index as u8 };
            match (self.net.open(socket, owner), self.pool.get_mut(key)) {
                (Ok(socket), Some(slot)) => {
                    slot.sockets[index] = Some(socket);
                    slot.sockets_open += 1;
                }
                _ => {
                    self.unseat(key, now);
                    return Err(RefuseReason::NoSocket);
                }
            }
        }
        Ok(key)
    }

    /// Gives up a slot that no bridge has moved into.
    fn unseat(&mut self, key: SlotKey, now: Instant) {
        let Some(slot) = self.pool.get_mut(key) else { return };
        slot.ended = true;
        if slot.sockets_open == 0 {
            self.vacate(key, now);
        } else {
            self.close(key);
        }
    }

    /// Lets the ports of a slot rest, and the next bridge in.
    pub(super) fn vacate(&mut self, key: SlotKey, now: Instant) {
        if let Some(slot) = self.pool.remove(key) {
            slot.leases.iter().for_each(|&lease| self.release(lease, now));
        }
    }

    fn bind_leg(&mut self, leg: &LegConfig, now: Instant) -> Result<Bound, RefuseReason> {
        let pair = matches!(leg, LegConfig::Rtp(_));
        for _ in 0..PORT_TRIES_MAX {
            let port = if pair { self.ports.take_pair(now) } else { self.ports.take_single(now) };
            let lease = Lease { port: port.ok_or(RefuseReason::NoPort)?, pair };
            match self.bind(lease) {
                Ok(sockets) => return Ok(Bound { lease, sockets }),
                // Somebody else has it: it rests like one of ours, and the next is tried.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => self.release(lease, now),
                Err(_) => {
                    self.release(lease, now);
                    return Err(RefuseReason::NoSocket);
                }
            }
        }
        Err(RefuseReason::NoPort)
    }

    fn bind(&self, lease: Lease) -> io::Result<[Option<MediaSocket>; 2]> {
        let rtp = MediaSocket::bind(self.family, self.bind, lease.port)?;
        let rtcp = match lease.pair {
            true => Some(MediaSocket::bind(self.family, self.bind, lease.port + 1)?),
            false => None,
        };
        Ok([Some(rtp), rtcp])
    }

    fn release(&mut self, lease: Lease, now: Instant) {
        match lease.pair {
            true => self.ports.release_pair(lease.port, now),
            false => self.ports.release_single(lease.port, now),
        }
    }
}

fn with_port(mut local: LocalLeg, bound: u16) -> LocalLeg {
    match &mut local {
        LocalLeg::Webrtc { port, .. } | LocalLeg::Rtp { port, .. } => *port = bound,
    }
    local
}
