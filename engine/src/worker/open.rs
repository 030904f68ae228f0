//! How a bridge comes to its ports, sockets and slot, and how it gives them back.
//!
//! Nothing is half open: whatever fails, the ports rest, the sockets are closed and control gets one `Refused`.
//!
//! Why the sockets come before the bridge: they are what can fail, and the bridge's keys are what costs.

use super::core::Core;
use super::handshakes::Kind;
use super::pool::SlotKey;
use super::turn::{Worker, guard};
use super::{Event, RefuseReason};
use crate::bridge::{BridgeCommand, BridgeConfig, BridgeEvent, BridgeId, BridgeStats, LegConfig, LegName, Port};
use crate::demux::Class;
use crate::error::{Cause, End, Side};
use crate::io::socket::MediaSocket;
use crate::io::{Owner, SocketKey};
use crate::leg::{Component, LegEvent, LocalLeg};
use crate::limits::{PORT_TRIES_MAX, SWEEP_MS};
use crate::time::{Duration, Instant};
use std::io;

/// A bridge and what it holds of the worker.
#[derive(Debug)]
pub(super) struct Slot<C> {
    pub(super) id: BridgeId,
    /// Gone once the bridge has ended.
    pub(super) core: Option<Box<C>>,
    /// Two of each pair of places; gone once they are told to close.
    pub(super) sockets: [Option<SocketKey>; 2 * LegName::COUNT],
    /// Sockets the kernel has not let go of.
    pub(super) sockets_open: u8,
    /// The ports of each pair, until the kernel has let go of its sockets.
    leases: [Option<Lease>; LegName::COUNT],
    /// Which leg a pair is of: a leg that is seated takes its sockets along.
    leg_of: [Option<LegName>; LegName::COUNT],
    /// Whether its last event was posted.
    pub(super) ended: bool,
    /// Whether it is counted as one on which media can flow.
    pub(super) carries: bool,
    /// Legs that have their keys, by pair.
    has_keys: [bool; LegName::COUNT],
    /// DTLS of it that waits and may bring a leg's keys, and media behind that: more media wait behind them.
    pub(super) held: u16,
}

impl<C> Slot<C> {
    /// A place for a bridge whose sockets are yet to be opened.
    fn new(id: BridgeId) -> Slot<C> {
        Slot {
            id,
            core: None,
            sockets: [None; 2 * LegName::COUNT],
            sockets_open: 0,
            leases: [None; LegName::COUNT],
            leg_of: [None; LegName::COUNT],
            ended: false,
            carries: false,
            has_keys: [false; LegName::COUNT],
            held: 0,
        }
    }

    /// Whose a socket is, by its place.
    pub(super) fn port_of(&self, place: u8) -> Option<Port> {
        let leg = self.leg_of.get(usize::from(place / 2)).copied().flatten()?;
        let component = if place.is_multiple_of(2) { Component::Rtp } else { Component::Rtcp };
        Some(Port { leg, component })
    }

    /// The other socket that a packet at `port` will need: the one from which it is passed on.
    pub(super) fn exit_of(&self, port: Port) -> Option<SocketKey> {
        self.socket_of(Port { leg: port.leg.other(), component: Component::Rtp })
    }

    /// The socket of a port.
    pub(super) fn socket_of(&self, port: Port) -> Option<SocketKey> {
        let pair = self.pair_of(port.leg)?;
        self.sockets[2 * pair + usize::from(port.component == Component::Rtcp)]
    }

    /// Why a datagram of `class` at `place` would have to wait, if it did; `None` where it never does.
    pub(super) fn waits_as(&self, place: u8, class: Class) -> Option<Kind> {
        match class {
            Class::Dtls if self.has_keys.get(usize::from(place / 2)) == Some(&false) => Some(Kind::Keys),
            Class::Dtls => Some(Kind::Dtls),
            Class::Rtp | Class::Rtcp if self.held > 0 => Some(Kind::Media),
            Class::Rtp | Class::Rtcp | Class::Stun | Class::Unknown => None,
        }
    }

    fn pair_of(&self, leg: LegName) -> Option<usize> {
        self.leg_of.iter().position(|name| *name == Some(leg))
    }
}

/// The ports of one leg.
#[derive(Clone, Copy, Debug)]
struct Lease {
    port: u16,
    pair: bool,
    /// Sockets of a closed leg that the kernel still has.
    closing: u8,
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
        let (random, shared, complexity) = (self.random.fork(), &self.shared, self.governor.complexity());
        let opened = guard(|| {
            let mut core = Box::new(C::open(now, config, shared, random));
            core.set_complexity(complexity);
            let locals = [core.local(LegName::A), core.local(LegName::B)];
            (core, locals)
        });
        self.by_id.insert(id, key);
        self.metrics.bridges_opened += 1;
        let Some(slot) = self.pool.get_mut(key) else { return };
        match opened {
            Ok((core, [a, b])) => {
                slot.core = Some(core);
                let port = |pair: usize| slot.leases[pair].map_or(0, |lease| lease.port);
                let (a, b) = (with_port(a, port(0)), with_port(b, port(1)));
                if !self.mailbox.post(Event::Opened { bridge: id, a, b }) {
                    self.metrics.events_lost += 1;
                }
                self.settle(key, now, Ok(()));
                self.note_carrying(key);
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
        if !self.governor.has_time_for_another(self.by_id.len()) {
            self.metrics.bridges_refused_busy += 1;
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
        let slot = Slot::new(id);
        let leases = [a.lease, b.lease];
        let Some(key) = self.pool.insert_with(|_| slot) else {
            leases.into_iter().for_each(|lease| self.release(lease, now));
            return Err(RefuseReason::Full);
        };
        let a = self.open_pair(key, 0, LegName::A, a);
        if a.and_then(|()| self.open_pair(key, 1, LegName::B, b)).is_err() {
            if let Some(slot) = self.pool.get_mut(key) {
                slot.leases[..2].copy_from_slice(&leases.map(Some)); // both rest, opened or not
            }
            self.unseat(key, now);
            return Err(RefuseReason::NoSocket);
        }
        Ok(key)
    }

    /// Hands a leg's bound sockets to the kernel's loop, at a pair of places.
    fn open_pair(&mut self, key: SlotKey, pair: usize, leg: LegName, bound: Bound) -> Result<(), RefuseReason> {
        for (index, socket) in bound.sockets.into_iter().enumerate() {
            let Some(socket) = socket else { continue };
            let place = 2 * pair + index;
            let owner = Owner { slot: key.index, generation: key.generation, port: place as u8 };
            match (self.net.open(socket, owner), self.pool.get_mut(key)) {
                (Ok(socket), Some(slot)) => {
                    slot.sockets[place] = Some(socket);
                    slot.sockets_open += 1;
                }
                _ => return Err(RefuseReason::NoSocket),
            }
        }
        if let Some(slot) = self.pool.get_mut(key) {
            (slot.leases[pair], slot.leg_of[pair]) = (Some(bound.lease), Some(leg));
        }
        Ok(())
    }

    /// What a command means for the sockets, before the bridge sees it; `None` when there is none for a leg that it opens.
    pub(super) fn before_command(
        &mut self,
        now: Instant,
        key: SlotKey,
        command: BridgeCommand,
    ) -> Option<BridgeCommand> {
        match &command {
            BridgeCommand::OpenLeg { leg, config } if self.bind_spare(now, key, *leg, config).is_err() => {
                self.post(key, BridgeEvent::LegRefused { leg: *leg });
                return None;
            }
            BridgeCommand::SeatLeg { leg, seat } => {
                // The bridge does the same with the legs: both know the same spares between two commands.
                let slot = self.pool.get_mut(key)?;
                if let (Some(from), Some(to), true) = (slot.pair_of(*leg), slot.pair_of(*seat), leg.is_spare()) {
                    (slot.leg_of[from], slot.leg_of[to]) = (Some(*seat), Some(*leg));
                }
            }
            _ => {}
        }
        Some(command)
    }

    fn bind_spare(&mut self, now: Instant, key: SlotKey, leg: LegName, config: &LegConfig) -> Result<(), RefuseReason> {
        let slot = self.pool.get_mut(key).filter(|slot| slot.core.is_some() && slot.pair_of(leg).is_none());
        let free = slot.and_then(|slot| slot.leases.iter().position(Option::is_none));
        let (Some(pair), None) = (free, self.stop_at) else { return Err(RefuseReason::Full) };
        let bound = self.bind_leg(config, now)?;
        let lease = bound.lease;
        self.open_pair(key, pair, leg, bound).inspect_err(|_| {
            if let Some(slot) = self.pool.get_mut(key) {
                slot.leases[pair] = Some(lease);
            }
            self.close_pair(now, key, pair);
        })
    }

    /// What an event means for the sockets, and the port that only the worker knows.
    pub(super) fn before_event(&mut self, now: Instant, key: SlotKey, event: BridgeEvent) -> BridgeEvent {
        let Some(slot) = self.pool.get_mut(key) else { return event };
        match event {
            BridgeEvent::LegOpened { leg, local } => {
                let lease = slot.pair_of(leg).and_then(|pair| slot.leases[pair]);
                BridgeEvent::LegOpened { leg, local: with_port(local, lease.map_or(0, |lease| lease.port)) }
            }
            BridgeEvent::LegClosed { leg, .. } => {
                if let Some(pair) = slot.pair_of(leg) {
                    self.close_pair(now, key, pair);
                }
                event
            }
            BridgeEvent::Leg { leg, event: LegEvent::DtlsConnected { .. } } => {
                if let Some(pair) = slot.pair_of(leg) {
                    slot.has_keys[pair] = true;
                }
                self.connect(key, now, leg);
                event
            }
            event => event,
        }
    }

    /// Connects a leg's socket at once where its peer will never move.
    fn connect(&mut self, key: SlotKey, now: Instant, leg: LegName) {
        let Some(slot) = self.pool.get_mut(key) else { return };
        let socket = slot.socket_of(Port { leg, component: Component::Rtp });
        let peer = slot.core.as_deref().and_then(|core| core.fixed_peer(now, leg));
        if let (Some(socket), Some(peer)) = (socket, peer)
            && !self.net.steers()
            && self.net.connect(socket, peer).is_err()
        {
            // It goes on unconnected.
            self.metrics.socket_errors += 1;
        }
    }

    /// Steers the sockets of a bridge that carries media, where that can be done. Elsewhere connects them where there is one peer to be
    /// heard, and frees them where there may be another: sends to it cost less, and strangers end in the kernel.
    pub(super) fn fix_peers(&mut self, key: SlotKey, now: Instant) {
        let Some(slot) = self.pool.get(key) else { return };
        let Some(core) = slot.core.as_deref() else { return };
        for pair in 0..LegName::COUNT {
            let (Some(leg), Some(socket)) = (slot.leg_of[pair], slot.sockets[2 * pair]) else { continue };
            let done = match (self.net.steers(), core.carries()) {
                (true, true) => self.net.steer(socket),
                (true, false) => Ok(()),
                (false, _) => self.net.fix(socket, core.fixed_peer(now, leg)),
            };
            if done.is_err() {
                self.metrics.socket_errors += 1;
            }
        }
    }

    /// Looks at as many slots as the time since the last turn asks for, so that each is looked at once in [`SWEEP_MS`].
    pub(super) fn sweep(&mut self, now: Instant) {
        let capacity = self.pool.capacity() as u64;
        let step = SWEEP_MS * 1_000_000 / capacity.max(1);
        let count = (now.since(self.swept_at).as_nanos() / u128::from(step)).min(capacity.into()) as u64;
        self.swept_at = if count < capacity { self.swept_at + Duration::from_nanos(count * step) } else { now };
        for _ in 0..count {
            self.swept = (self.swept + 1) % capacity as u32;
            if let Some(key) = self.pool.key_at(self.swept) {
                self.fix_peers(key, now);
            }
        }
    }

    /// Closes the sockets of one leg; its ports stay taken until the kernel has let go of them.
    fn close_pair(&mut self, now: Instant, key: SlotKey, pair: usize) {
        let Some(slot) = self.pool.get_mut(key) else { return };
        (slot.leg_of[pair], slot.has_keys[pair]) = (None, false);
        let sockets = [slot.sockets[2 * pair].take(), slot.sockets[2 * pair + 1].take()];
        let Some(lease) = &mut slot.leases[pair] else { return };
        lease.closing = sockets.iter().flatten().count() as u8;
        if lease.closing == 0 {
            let lease = *lease;
            slot.leases[pair] = None;
            return self.release(lease, now);
        }
        for socket in sockets.into_iter().flatten() {
            self.net.close(socket, &mut self.metrics);
        }
    }

    /// The kernel has let go of one socket of a bridge that goes on: with the last of a leg's its ports rest.
    pub(super) fn socket_closed(&mut self, key: SlotKey, now: Instant, place: u8) {
        let pair = usize::from(place / 2);
        let Some(slot) = self.pool.get_mut(key) else { return };
        let Some(lease) = slot.leases.get_mut(pair) else { return };
        match lease {
            Some(Lease { closing: 0, .. }) | None => {}
            Some(Lease { closing: 1, .. }) => {
                if let Some(lease) = lease.take() {
                    self.release(lease, now);
                }
            }
            Some(lease) => lease.closing -= 1,
        }
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
            slot.leases.into_iter().flatten().for_each(|lease| self.release(lease, now));
        }
    }

    fn bind_leg(&mut self, leg: &LegConfig, now: Instant) -> Result<Bound, RefuseReason> {
        let pair = matches!(leg, LegConfig::Rtp(_));
        for _ in 0..PORT_TRIES_MAX {
            let port = if pair { self.ports.take_pair(now) } else { self.ports.take_single(now) };
            let lease = Lease { port: port.ok_or(RefuseReason::NoPort)?, pair, closing: 0 };
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
        let bind = |port| {
            let socket = MediaSocket::bind(self.family, self.bind, port)?;
            if self.dscp != 0 {
                // Where the system refuses it, media go unmarked.
                let _ = socket.mark(self.dscp);
            }
            Ok::<_, io::Error>(socket)
        };
        let rtp = bind(lease.port)?;
        let rtcp = if lease.pair { Some(bind(lease.port + 1)?) } else { None };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_wait_behind_dtls_of_a_leg_without_keys_only() {
        let mut slot = Slot::<()>::new(BridgeId(1));
        let (webrtc, rtp) = (0, 2);
        assert_eq!(slot.waits_as(webrtc, Class::Dtls), Some(Kind::Keys));
        assert_eq!(slot.waits_as(rtp, Class::Rtp), None, "nothing waits");
        slot.held = 1;
        let both = [webrtc, rtp].map(|place| slot.waits_as(place, Class::Rtp));
        assert_eq!(both, [Some(Kind::Media); 2], "either leg's media need the keys");
        assert_eq!(slot.waits_as(webrtc, Class::Stun), None, "a check is answered at once");
        slot.has_keys[0] = true;
        assert_eq!(slot.waits_as(webrtc, Class::Dtls), Some(Kind::Dtls), "a stranger's handshake holds up no audio");
    }
}
