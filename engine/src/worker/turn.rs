//! The loop of a worker.
//!
//! One turn: hand out what is queued and wait; read the clock once; then packets, timers and commands, each of which is
//! given to its bridge, whose answers are drained at once into the send queue. The next wait submits them together.
//!
//! A panic inside a bridge is caught at its border: it ends that bridge, with `Cause::Panicked`, and no other. A panic of the
//! worker itself ends the process, since nobody would carry its calls.
//!
//! Why one clock reading for a whole turn: all that happens in it happened while we were waiting or working; a second
//! reading would make the order of a turn visible to the protocols and every replay different.

use super::arrival::Arrival;
use super::core::Core;
use super::governor::{Governor, WINDOW_MS, Window};
use super::handshakes::{Handshakes, Kind, Waiting};
use super::mailbox::Mailbox;
use super::open::Slot;
use super::pool::{Pool, SlotKey};
use super::timers::Timers;
use super::{Command, Event, RefuseReason};
use crate::bridge::{BridgeCommand, BridgeEvent, BridgeId, BridgeStats, Output, Passed};
use crate::demux;
use crate::error::{Cause, End, Side};
use crate::io::address::Family;
use crate::io::ports::PortPool;
use crate::io::{Net, clock, system};
use crate::limits::{DRAIN_OUTPUTS_MAX, STOP_MS_MAX, TURN_COMMANDS_MAX};
use crate::metrics::{LATENESS_BUCKETS, Metrics};
use crate::random::Random;
use crate::time::{Duration, Instant};
use std::collections::HashMap;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Deadlines are met on a grid of this: those of one tick share a turn, its clock reading and its system call. A tick of
/// 1 ms is a twentieth of a packet and cannot be heard; packets are never held back by it.
const TICK_NANOS: u64 = 1_000_000;

/// Steps in which a core asks for its memory, see [`Core::prefetch`].
const CORE_STEPS: usize = 3;

/// How many packets ahead a worker begins to ask for memory: two steps for the way to the core, and the core's own, of which the last is
/// taken one packet before that packet's turn. Between two steps lies one packet, half a microsecond.
const LOOK_AHEAD: usize = CORE_STEPS + 2;

/// How often the counters are copied out.
const REPORT_MS: u64 = 1_000;

/// A full receive buffer is spoken of once in this time.
const OVERFLOW_QUIET_MS: u64 = 60_000;

/// When a worker that has no room for answers looks again whether control has read some.
const ROOM_RETRY_MS: u64 = 10;

/// One core's share of the engine. Stays on the thread that made it.
pub(super) struct Worker<C: Core> {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) wake: Box<dyn Fn()>,
    pub(super) net: Net,
    pub(super) ports: PortPool,
    pub(super) family: Family,
    pub(super) bind: Option<IpAddr>,
    /// The code point of what is sent; 0: not marked.
    pub(super) dscp: u8,
    pub(super) pool: Pool<Slot<C>>,
    /// Bridges that have not ended. Never iterated.
    pub(super) by_id: HashMap<BridgeId, SlotKey>,
    pub(super) timers: Timers,
    pub(super) metrics: Metrics,
    pub(super) random: Random,
    pub(super) shared: C::Shared,
    pub(super) report_at: Instant,
    /// Which worker of the engine it is.
    pub(super) index: usize,
    /// When a full receive buffer was last spoken of.
    pub(super) overflow_said_at: Option<Instant>,
    pub(super) governor: Governor,
    pub(super) window: WindowStart,
    /// CPU time of this thread when the turn began.
    pub(super) cpu: Duration,
    /// Bridges on which media can flow.
    pub(super) carrying: u32,
    pub(super) handshakes: Handshakes,
    /// The slot that was last looked at by `sweep`, and when.
    pub(super) swept: u32,
    pub(super) swept_at: Instant,
    /// Once `Stop` came: when patience ends.
    pub(super) stop_at: Option<Instant>,
    /// Whether control is to be woken at the end of this turn.
    pub(super) posted: bool,
}

/// Where a window of the load begins, and the rest since then.
#[derive(Debug, Default)]
pub(super) struct WindowStart {
    pub(super) at: Instant,
    pub(super) cpu: Duration,
    pub(super) carrying: u32,
    pub(super) lateness: [u64; LATENESS_BUCKETS],
    pub(super) rested: Duration,
}

/// A bug in a bridge, caught at its border.
pub(super) struct Panicked;

/// Calls into a bridge.
pub(super) fn guard<R>(call: impl FnOnce() -> R) -> Result<R, Panicked> {
    // What the bridge left half done is thrown away with it.
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| Panicked)
}

impl<C: Core> Worker<C> {
    /// Runs until `Stop`.
    pub(super) fn run(mut self) {
        let mut now = clock::now();
        while self.stop_at.is_none_or(|stop_at| !self.pool.is_empty() && now < stop_at) {
            now = self.turn(now);
        }
        self.end_the_rest();
        self.publish();
        self.mailbox.set_stopped();
        (self.wake)();
    }

    fn turn(&mut self, last: Instant) -> Instant {
        let now = self.rest(last);

        self.net.collect(now, &mut self.metrics);
        self.handshakes.begin_turn();
        let worked = self.handle_packets(now) + self.handle_timers(now);
        let worked = worked + self.handle_handshakes(now) + self.handle_commands(now);
        self.handle_closed(now);
        self.sweep(now);

        self.metrics.turns += 1;
        self.metrics.turns_idle += u64::from(worked == 0);
        if now >= self.window.at.plus_millis(WINDOW_MS) {
            self.judge_load(now);
        }
        if now >= self.report_at {
            self.report_at = now.plus_millis(REPORT_MS);
            self.count_overflow(now);
            self.publish();
        }
        if std::mem::take(&mut self.posted) {
            (self.wake)();
        }
        now
    }

    /// Hands over what this turn sends and waits for the next one. What of the wait was no work of this thread was rest: receiving is work
    /// that the kernel does on our account while we wait.
    fn rest(&mut self, last: Instant) -> Instant {
        let until = self.wait_until(last);
        self.net.hand_over(&mut self.metrics);
        let (handed_over, cpu) = (clock::now(), system::thread_cpu());
        let waited = self.net.wait(until, self.governor.gather(), &mut self.metrics);
        waited.expect("a wait that is neither interrupted nor timed out fails only when our own calls are wrong");
        let now = clock::now();
        self.cpu = system::thread_cpu();
        self.window.rested += now.since(handed_over).saturating_sub(self.cpu.saturating_sub(cpu));
        now
    }

    fn wait_until(&self, last: Instant) -> Instant {
        let next = tick_after(self.timers.earliest()).min(self.report_at);
        let next = next.min(self.stop_at.unwrap_or(Instant::NEVER));
        if !self.handshakes.is_empty() {
            return Instant::ZERO;
        }
        match (self.mailbox.has_commands(), self.mailbox.has_room()) {
            (true, true) => Instant::ZERO,
            (true, false) => next.min(last.plus_millis(ROOM_RETRY_MS)),
            (false, _) => next,
        }
    }

    fn handle_packets(&mut self, now: Instant) -> usize {
        let mut count = 0;
        for ahead in 0..LOOK_AHEAD {
            self.look_ahead(ahead);
        }
        loop {
            self.look_ahead(LOOK_AHEAD);
            let Some(packet) = self.net.next_packet(&mut self.metrics) else { return count };
            let key = SlotKey { index: packet.owner.slot, generation: packet.owner.generation };
            count += 1;
            let Some(slot) = self.pool.get_mut(key) else { continue };
            if let Some(kind) = slot.waits_as(packet.owner.port, demux::classify(packet.datagram))
                && (kind == Kind::Media || !self.handshakes.admits())
            {
                let is_kept = self.handshakes.wait(kind, key, packet.owner.port, packet.from, packet.datagram);
                slot.held += u16::from(is_kept && kind != Kind::Dtls);
                self.metrics.handshakes_delayed += u64::from(is_kept && kind != Kind::Media);
                self.metrics.handshakes_dropped += u64::from(!is_kept && kind != Kind::Media);
                // Media for which there is no room try their luck.
                if is_kept || kind != Kind::Media {
                    continue;
                }
            }
            let Some(port) = slot.port_of(packet.owner.port) else { continue };
            let elsewhere = packet.sent_to.and_then(|at| Some((at, slot.socket_of(port)?)));
            let Some(core) = slot.core.as_deref_mut() else { continue };
            let arrival = elsewhere.and_then(|(at, socket)| {
                Arrival::new((at, packet.from, packet.datagram), (port.leg, socket), core, &self.metrics)
            });
            let (metrics, from) = (&mut self.metrics, packet.from);
            let done = guard(|| core.pass_datagram(now, port, from, packet.datagram, packet.out, metrics));
            let arrival = arrival.filter(|_| done.is_ok());
            let detour = arrival.and_then(|arrival| arrival.follow(core, &mut self.net, &self.metrics));
            let passed = done.as_ref().ok().copied().flatten();
            if let Some(Passed { port, to, len, .. }) = passed {
                match slot.socket_of(port) {
                    Some(socket) => self.net.send(socket, to, len, &mut self.metrics),
                    None => self.metrics.datagrams_unsent += 1,
                }
            }
            if !passed.is_some_and(|passed| passed.is_all) {
                self.settle(key, now, done.map(drop));
            }
            if let Some(detour) = detour {
                let core = self.pool.get(key).and_then(|slot| slot.core.as_deref());
                detour.end(core, &mut self.net);
            }
        }
    }

    /// Asks for the memory of packets to come, each pointer of the chain from a socket to its keys a packet after the one before:
    /// `ahead` places behind the next packet stands the one that is looked at first.
    #[inline]
    fn look_ahead(&self, ahead: usize) {
        self.net.prefetch_packet(ahead);
        let owner = |step: usize| self.net.owner_ahead(ahead.checked_sub(step)?);
        if let Some(owner) = owner(1) {
            self.pool.prefetch(owner.slot);
            self.timers.prefetch(owner.slot);
        }
        for step in 0..CORE_STEPS {
            let Some(owner) = owner(2 + step) else { return };
            let key = SlotKey { index: owner.slot, generation: owner.generation };
            let Some(slot) = self.pool.get(key) else { continue };
            let (Some(port), Some(core)) = (slot.port_of(owner.port), slot.core.as_deref()) else { continue };
            if let (0, Some(socket)) = (step, slot.exit_of(port)) {
                self.net.prefetch_socket(socket);
            }
            core.prefetch(port, step);
        }
    }

    /// Goes on with handshakes that earlier turns had no time for, or that this one had none for among its packets.
    fn handle_handshakes(&mut self, now: Instant) -> usize {
        let mut count = 0;
        while let Some(Waiting { kind, key, place, from, mut datagram }) = self.handshakes.next() {
            count += 1;
            let Some(slot) = self.pool.get_mut(key) else { continue };
            slot.held -= u16::from(kind != Kind::Dtls);
            let (Some(port), Some(core)) = (slot.port_of(place), slot.core.as_deref_mut()) else { continue };
            let metrics = &mut self.metrics;
            let done = guard(|| core.handle_datagram(now, port, from, &mut datagram, metrics));
            self.settle(key, now, done);
        }
        count
    }

    fn handle_timers(&mut self, now: Instant) -> usize {
        let mut count = 0;
        // Whatever is set meanwhile lies behind `now`: this ends.
        while let Some((index, deadline)) = self.timers.pop_due(now) {
            count += 1;
            self.metrics.timer(now.since(tick_after(deadline)));
            let Some(key) = self.pool.key_at(index) else { continue };
            let Some(core) = self.pool.get_mut(key).and_then(|slot| slot.core.as_deref_mut()) else { continue };
            let done = guard(|| core.handle_timeout(now));
            self.settle(key, now, done);
        }
        count
    }

    fn handle_commands(&mut self, now: Instant) -> usize {
        self.mailbox.looked();
        if self.mailbox.stop_wanted() {
            self.stop(now);
        }
        for count in 0..TURN_COMMANDS_MAX {
            if !self.mailbox.has_room() {
                return count;
            }
            match self.mailbox.next_command() {
                None => return count,
                Some(Command::Open { bridge, config }) => self.open_bridge(now, bridge, config),
                Some(Command::Bridge { bridge, command }) => {
                    if let Some(&key) = self.by_id.get(&bridge) {
                        self.command(now, key, command);
                    }
                }
                Some(Command::Stop) => self.stop(now),
            }
        }
        TURN_COMMANDS_MAX
    }

    /// Looks at what the last window cost; the encoders follow.
    fn judge_load(&mut self, now: Instant) {
        let began = &self.window;
        let passed = now.since(began.at).as_micros().max(1);
        let permille = |time: Duration| (time.as_micros() * 1_000 / passed).min(1_000) as u32;
        let (busy, cpu) = (1_000 - permille(began.rested), permille(self.cpu.saturating_sub(began.cpu)));
        let lateness = std::array::from_fn(|bucket| self.metrics.lateness[bucket] - began.lateness[bucket]);
        let window = Window { busy, cpu, carrying: began.carrying, open: self.by_id.len() as u32, lateness };
        self.window = WindowStart {
            at: now,
            cpu: self.cpu,
            carrying: self.carrying,
            lateness: self.metrics.lateness,
            rested: Duration::ZERO,
        };
        (self.metrics.busy_permille, self.metrics.cpu_permille) = (busy.into(), cpu.into());
        if let Some(complexity) = self.governor.judge(now, window) {
            for index in 0..self.pool.capacity() as u32 {
                let Some(key) = self.pool.key_at(index) else { continue };
                let Some(core) = self.pool.get_mut(key).and_then(|slot| slot.core.as_deref_mut()) else { continue };
                let done = guard(|| core.set_complexity(complexity));
                self.settle(key, now, done);
            }
        }
        self.metrics.complexity = self.governor.complexity().into();
    }

    fn command(&mut self, now: Instant, key: SlotKey, command: BridgeCommand) {
        let Some(command) = self.before_command(now, key, command) else { return };
        if let Some(core) = self.pool.get_mut(key).and_then(|slot| slot.core.as_deref_mut()) {
            let done = guard(|| core.handle_command(now, command));
            self.settle(key, now, done);
            self.note_carrying(key);
            self.fix_peers(key, now);
        }
    }

    /// Counts a bridge once media can flow on it: a command has made its flows.
    pub(super) fn note_carrying(&mut self, key: SlotKey) {
        let Some(slot) = self.pool.get_mut(key).filter(|slot| !slot.carries) else { return };
        slot.carries = slot.core.as_deref().is_some_and(Core::carries);
        self.carrying += u32::from(slot.carries);
    }

    /// Ends every bridge with its goodbyes; the loop ends when they are gone.
    fn stop(&mut self, now: Instant) {
        if self.stop_at.is_some() {
            return;
        }
        self.stop_at = Some(now.plus_millis(STOP_MS_MAX));
        for index in 0..self.pool.capacity() as u32 {
            if let Some(key) = self.pool.key_at(index) {
                self.command(now, key, BridgeCommand::Close);
            }
        }
    }

    /// After every call into a bridge: drains it, or ends it if the call panicked.
    pub(super) fn settle(&mut self, key: SlotKey, now: Instant, done: Result<(), Panicked>) {
        if done.and_then(|()| self.drain(key, now)).is_err() {
            self.metrics.bridges_panicked += 1;
            self.post_ended(key, End { side: Side::Engine, cause: Cause::Panicked }, BridgeStats::default());
            self.close(key);
        }
    }

    /// Takes everything a bridge has to say, to the kernel, to control and to the timers.
    fn drain(&mut self, key: SlotKey, now: Instant) -> Result<(), Panicked> {
        for _ in 0..DRAIN_OUTPUTS_MAX {
            let Some(slot) = self.pool.get_mut(key) else { return Ok(()) };
            let Some(core) = slot.core.as_deref_mut() else { return Ok(()) };
            let out = self.net.send_buffer(&mut self.metrics);
            let room = out.len();
            match guard(|| core.poll_output(now, out, &mut self.metrics))? {
                Output::Transmit { port, to, len } if len <= room => match slot.socket_of(port) {
                    Some(socket) => self.net.send(socket, to, len, &mut self.metrics),
                    None => self.metrics.datagrams_unsent += 1,
                },
                Output::Transmit { .. } => return Err(Panicked),
                Output::Event(BridgeEvent::Ended { end, stats }) => self.post_ended(key, end, stats),
                Output::Event(event) => {
                    let event = self.before_event(now, key, event);
                    self.post(key, event);
                }
                Output::Timeout(deadline) => {
                    if !core.is_ended() {
                        // Not before the next turn: a bridge must not keep this one from ending.
                        self.timers.set(key.index, deadline.max(now + Duration::from_nanos(1)));
                        return Ok(());
                    }
                    if !slot.ended {
                        return Err(Panicked);
                    }
                    self.close(key);
                    return Ok(());
                }
            }
        }
        Err(Panicked)
    }

    pub(super) fn post(&mut self, key: SlotKey, event: BridgeEvent) {
        let Some(slot) = self.pool.get_mut(key).filter(|slot| !slot.ended) else { return };
        self.posted = true;
        if !self.mailbox.post(Event::Bridge { bridge: slot.id, event }) {
            self.metrics.events_lost += 1;
        }
    }

    /// Posts the last event of a bridge, once.
    pub(super) fn post_ended(&mut self, key: SlotKey, mut end: End, stats: BridgeStats) {
        let Some(slot) = self.pool.get_mut(key).filter(|slot| !slot.ended) else { return };
        // `Close` is the only goodbye a bridge knows; that it was the worker's and not control's is known here.
        if self.stop_at.is_some() && end.cause == Cause::Closed {
            end = End { side: Side::Engine, cause: Cause::Shutdown };
        }
        slot.ended = true;
        let bridge = slot.id;
        self.by_id.remove(&bridge);
        self.posted = true;
        self.metrics.bridges_ended += 1;
        if !self.mailbox.post_last(Event::Bridge { bridge, event: BridgeEvent::Ended { end, stats } }) {
            self.metrics.events_lost += 1;
        }
        self.mailbox.unload();
    }

    /// Throws a bridge away and closes its sockets. Its slot and ports stay taken until the kernel has let go of them.
    pub(super) fn close(&mut self, key: SlotKey) {
        let Some(slot) = self.pool.get_mut(key) else { return };
        self.timers.set(key.index, Instant::NEVER);
        self.carrying -= u32::from(std::mem::take(&mut slot.carries));
        if let Some(core) = slot.core.take() {
            // A bridge that panicked may do so again when it is dropped.
            let _ = guard(|| drop(core));
        }
        for socket in slot.sockets.iter_mut().filter_map(Option::take) {
            self.net.close(socket, &mut self.metrics);
        }
    }

    fn handle_closed(&mut self, now: Instant) {
        while let Some(owner) = self.net.next_closed() {
            let key = SlotKey { index: owner.slot, generation: owner.generation };
            let Some(slot) = self.pool.get_mut(key) else { continue };
            slot.sockets_open -= 1;
            match slot.sockets_open {
                0 => self.vacate(key, now),
                _ => self.socket_closed(key, now, owner.port),
            }
        }
    }

    /// At the end of a stop: whoever is still there ends without a goodbye, and whoever came too late is refused.
    fn end_the_rest(&mut self) {
        while let Some(command) = self.mailbox.next_command() {
            if let Command::Open { bridge, .. } = command {
                self.refuse(bridge, RefuseReason::Full);
            }
        }
        for index in 0..self.pool.capacity() as u32 {
            if let Some(key) = self.pool.key_at(index) {
                let end = End { side: Side::Engine, cause: Cause::Shutdown };
                self.post_ended(key, end, BridgeStats::default());
                self.close(key);
            }
        }
    }

    /// What the kernel has dropped before this worker could see it.
    fn count_overflow(&mut self, now: Instant) {
        let lost = self.net.overflowed();
        self.metrics.datagrams_overflowed += lost;
        let is_said = self.overflow_said_at.is_some_and(|at| now < at.plus_millis(OVERFLOW_QUIET_MS));
        if lost > 0 && !is_said {
            self.overflow_said_at = Some(now);
            let worker = self.index;
            tracing::warn!(
                worker,
                lost,
                "packets of running calls were lost: this worker was held up, or has too many calls"
            );
        }
    }

    fn publish(&mut self) {
        self.metrics.bridges_open = self.by_id.len() as u64;
        self.metrics.sockets_open = self.net.sockets_open() as u64;
        self.metrics.sockets_steered = self.net.sockets_steered() as u64;
        self.metrics.timers_set = self.timers.len() as u64;
        self.metrics.buffers_lent = self.net.buffers_lent() as u64;
        self.metrics.ports_taken_early = self.ports.taken_early();
        self.mailbox.publish(self.metrics);
    }
}

/// The end of the tick `deadline` lies in.
fn tick_after(deadline: Instant) -> Instant {
    match deadline.as_nanos().checked_next_multiple_of(TICK_NANOS) {
        Some(nanos) => Instant::from_nanos(nanos),
        None => Instant::NEVER,
    }
}

/// A started worker must not leave its thread: the kernel knows which one submits.
const _: fn() = || {
    trait AmbiguousIfSend<A> {
        fn check() {}
    }
    impl<T: ?Sized> AmbiguousIfSend<()> for T {}
    struct IsSend;
    impl<T: ?Sized + Send> AmbiguousIfSend<IsSend> for T {}
    // Does not compile when both implementations apply.
    let _ = <Net as AmbiguousIfSend<_>>::check;
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_of_one_tick_share_its_end_and_never_stays_never() {
        let at = |nanos| tick_after(Instant::from_nanos(nanos)).as_nanos();
        assert_eq!(
            (at(0), at(1), at(999_999), at(1_000_000), at(1_000_001)),
            (0, 1_000_000, 1_000_000, 1_000_000, 2_000_000)
        );
        assert_eq!(tick_after(Instant::NEVER), Instant::NEVER);
    }
}
