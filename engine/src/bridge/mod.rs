//! Two legs and the two flows between them.
//!
//! ```text
//!   peer ◄──► leg A ──► flow ──► leg B ◄──► peer
//!                  ◄── flow ◄──
//! ```
//!
//! A bridge takes datagrams, commands and the time; after each of them it is drained by `poll_output`, which runs whatever is
//! due in a fixed order: packets the flows wrote, events, leg A, leg B, the flows. When it ends, for whatever reason, both legs
//! say goodbye, the drain hands that out, and `Ended` is the last word.
//!
//! Beside A and B there can be spare legs (`spare.rs`): offers that are out while devices ring, or while a call is transferred.
//! They are set up and carry nothing, until one takes the seat of A or B.
//!
//! `flow.rs` is the page to read next. Why the legs do not know each other: whatever happens on one (re-INVITE, hold, a new
//! source) is absorbed here, so that the other one's stream goes on as if nothing had happened.

mod exit;
mod figures;
mod flow;
mod hearing;
mod hold;
mod outbox;
mod pace;
mod playout;
mod relay;
mod reorder;
mod silence;
mod source;
mod spare;
mod transcode;

use self::exit::Exit;
pub use self::exit::Passed;
use self::flow::{Flow, Plan};
use self::outbox::Outbox;
pub use self::playout::PlayoutStats;
use self::spare::{Spares, open_leg};
use crate::dtls::Identity;
use crate::error::{Cause, End, Side};
use crate::ice::IceCredentials;
use crate::leg::rtp::{RtpConfig, RtpRemote};
use crate::leg::webrtc::{WebrtcChange, WebrtcConfig, WebrtcRemote};
use crate::leg::{Component, Leg, LegEvent, LegOutput, LegStats, LocalLeg, Received};
use crate::limits::SPARES_MAX;
use crate::metrics::Metrics;
use crate::prefetch::prefetch;
use crate::random::Random;
use crate::rtp::telephone_event::{Digit, Pressed};
use crate::time::{Instant, WallAnchor};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Events of a bridge between two drains. Past it the newest is dropped and counted; `Ended` always has its place.
const BRIDGE_EVENTS_MAX: usize = 32;

/// Events that have their place from the start: more at once than a call that is up ever has.
const BRIDGE_EVENTS_USUAL: usize = 2;

/// A bridge of this process. Control chooses the numbers and never uses one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BridgeId(pub u64);

/// One of the legs: A and B are joined, the others are spares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LegName {
    /// The first.
    A,
    /// The second.
    B,
    /// A spare.
    C,
    /// A spare.
    D,
    /// A spare.
    E,
    /// A spare.
    F,
    /// A spare.
    G,
    /// A spare.
    H,
}

impl LegName {
    /// How many legs a bridge can have at once.
    pub const COUNT: usize = 2 + SPARES_MAX;

    /// All of them, in order.
    pub const ALL: [LegName; LegName::COUNT] =
        [LegName::A, LegName::B, LegName::C, LegName::D, LegName::E, LegName::F, LegName::G, LegName::H];

    /// The one at the far side; a spare has none yet and answers itself.
    pub const fn other(self) -> LegName {
        match self {
            LegName::A => LegName::B,
            LegName::B => LegName::A,
            spare => spare,
        }
    }

    /// Whether it is neither A nor B.
    pub const fn is_spare(self) -> bool {
        !matches!(self, LegName::A | LegName::B)
    }
}

/// One of a bridge's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    /// Whose.
    pub leg: LegName,
    /// Which of the leg's.
    pub component: Component,
}

/// How a leg begins.
#[expect(clippy::large_enum_variant, reason = "made once a leg, and moved once into it")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LegConfig {
    /// ICE + DTLS-SRTP
    Webrtc(Box<WebrtcConfig>),
    /// RTP/AVP
    Rtp(RtpConfig),
}

/// The peer's description of a leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LegRemote {
    /// For a webrtc leg.
    Webrtc(WebrtcRemote),
    /// For a webrtc leg whose peer describes itself anew (re-INVITE).
    WebrtcChange(WebrtcChange),
    /// For an rtp leg.
    Rtp(RtpRemote),
}

/// How a bridge begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeConfig {
    /// Leg A.
    pub a: LegConfig,
    /// Leg B.
    pub b: LegConfig,
}

/// What control says to a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BridgeCommand {
    /// The peer's description of a leg came, or changed. Ignored where the leg is of the other kind (counted as a bug).
    SetRemote {
        /// Which leg.
        leg: LegName,
        /// What the peer said.
        remote: Box<LegRemote>,
    },
    /// Ends the hold of a leg.
    Release {
        /// Which leg.
        leg: LegName,
    },
    /// Nothing is sent to the peer of a leg until `Release`: it put the call on hold, or must not hear us yet. That the peer of an rtp leg
    /// holds is said by `SetRemote`.
    Hold {
        /// Which leg.
        leg: LegName,
    },
    /// An ICE restart of ours is about to be offered to the peer of a webrtc leg, with these credentials; `None`: it was refused. The
    /// answer comes as `SetRemote` with a `WebrtcChange`.
    OfferRestart {
        /// Which leg.
        leg: LegName,
        /// Ours, new ones.
        credentials: Option<IceCredentials>,
    },
    /// The peer of a leg must always hear something: from now on silence is sent to it where the other side is silent. Holds for
    /// whoever sits there later.
    Comfort {
        /// A or B.
        leg: LegName,
    },
    /// Presses a key toward a leg's peer.
    SendDigit {
        /// Which leg.
        leg: LegName,
        /// Which key.
        digit: Digit,
        /// How long.
        duration_ms: u32,
    },
    /// Opens a spare leg, answered by `LegOpened` or `LegRefused`. It has sockets of its own and carries nothing.
    OpenLeg {
        /// A name that no leg has at the moment.
        leg: LegName,
        /// How it begins.
        config: Box<LegConfig>,
    },
    /// Puts a spare leg into the seat of A or B. The leg that had it takes the spare's name, says goodbye and is closed. The
    /// leg at the far side goes on without a seam: same SSRC, next sequence number, timestamps on their clock.
    SeatLeg {
        /// The spare.
        leg: LegName,
        /// A or B.
        seat: LegName,
    },
    /// Closes a spare leg: goodbyes are sent, then `LegClosed`.
    CloseLeg {
        /// The spare.
        leg: LegName,
    },
    /// Ends the bridge: goodbyes are sent, then `Ended` with `Cause::Closed`.
    Close,
}

/// What a bridge says to control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BridgeEvent {
    /// Something on a leg (never `LegEvent::Ended`: that ends the bridge).
    Leg {
        /// Which.
        leg: LegName,
        /// What.
        event: LegEvent,
    },
    /// The peer of a leg pressed a key. It is already on its way to the other leg, if that one has telephone-event.
    Digit {
        /// Whose peer.
        leg: LegName,
        /// Which key.
        digit: Digit,
        /// How long.
        duration_ms: u32,
    },
    /// A spare leg is there.
    LegOpened {
        /// Which.
        leg: LegName,
        /// What to write into our description of it, ports filled in.
        local: LocalLeg,
    },
    /// There is no such spare leg: no port or socket was free, or the name is taken.
    LegRefused {
        /// Which.
        leg: LegName,
    },
    /// A spare leg is gone: closed, replaced, or dead by itself.
    LegClosed {
        /// Which.
        leg: LegName,
        /// Why it died; `None` when control wanted it closed.
        cause: Option<Cause>,
        /// Its figures.
        stats: LegStats,
    },
    /// What the protocol library said about the end of a leg, such as the name of a DTLS alert. Comes before `Ended`.
    EndDetail {
        /// Which leg.
        leg: LegName,
        /// One clause, in the library's words.
        text: Box<str>,
    },
    /// The last event of every bridge.
    Ended {
        /// Why.
        end: End,
        /// Figures of both legs and flows.
        stats: BridgeStats,
    },
}

/// Figures of a bridge, for the end of the call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgeStats {
    /// Leg A.
    pub a: LegStats,
    /// Leg B.
    pub b: LegStats,
    /// Packets of A's peer that were concealed or recovered toward B.
    pub concealed_from_a: u64,
    /// Packets of B's peer that were concealed or recovered toward A.
    pub concealed_from_b: u64,
    /// Packets encoded for A's peer with in-band FEC, because it reported loss.
    pub redundant_to_a: u64,
    /// The same for B's peer.
    pub redundant_to_b: u64,
    /// Of the flow that playout paces; a bridge has one at most.
    pub playout: Option<PlayoutStats>,
}

/// What `poll_output` answers.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// `out[..len]` is to be sent from `port`'s socket to `to`.
    Transmit {
        /// From which socket.
        port: Port,
        /// Where.
        to: SocketAddr,
        /// How much of `out`.
        len: usize,
    },
    /// For control.
    Event(BridgeEvent),
    /// Nothing to do before this instant. `Instant::NEVER` after `Ended`.
    Timeout(Instant),
}

/// What all bridges of a worker share.
#[derive(Clone)]
pub struct Shared {
    /// Our certificate.
    pub identity: Identity,
    /// The calendar.
    pub anchor: WallAnchor,
}

/// Two legs and the two flows between them. Owns no socket, clock or thread.
pub struct Bridge {
    a: Leg,
    b: Leg,
    a_to_b: Option<Flow>,
    b_to_a: Option<Flow>,
    outbox: Outbox,
    events: VecDeque<BridgeEvent>,
    phase: Phase,
    /// Whether the peers of A and B must always hear something.
    comforts: [bool; 2],
    spares: Spares,
    /// What spare legs are made of.
    shared: Shared,
    random: Random,
    /// Legs whose timers ran in this drain: once is enough.
    timers_ran: [bool; LegName::COUNT],
    /// Concealed packets of flows that were replaced, A's peer's and B's.
    concealed_before: [u64; 2],
    concealed_counted: u64,
    /// Packets with redundancy of flows that were replaced, from A's peer and from B's.
    redundant_before: [u64; 2],
    redundant_counted: u64,
    events_lost: u64,
    /// Of encoders that will be made; `None`: their own choice.
    complexity: Option<u8>,
    /// Before this instant legs and flows have nothing to say; `ZERO` where they have to be asked. A packet that a relay passes on moves
    /// deadlines back at most, so it costs none of them a look: a fifth of what such a packet needs beside the kernel.
    quiet_until: Instant,
}

/// Where the bridge is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Goodbyes are being drained.
    Closing(End),
    Ended,
}

/// What one look at a leg found.
enum Polled {
    Output(Output),
    /// Something changed: look again.
    Changed,
    /// Nothing before this instant.
    Idle(Instant),
}

impl Bridge {
    /// Opens both legs. A leg that has its remote begins at once.
    pub fn open(now: Instant, config: BridgeConfig, shared: &Shared, mut random: Random) -> Bridge {
        let mut bridge = Bridge {
            a: open_leg(now, config.a, shared, &mut random),
            b: open_leg(now, config.b, shared, &mut random),
            a_to_b: None,
            b_to_a: None,
            outbox: Outbox::default(),
            events: VecDeque::with_capacity(BRIDGE_EVENTS_USUAL),
            phase: Phase::Open,
            comforts: [false; 2],
            spares: Spares::default(),
            shared: shared.clone(),
            random,
            timers_ran: [false; LegName::COUNT],
            concealed_before: [0; 2],
            concealed_counted: 0,
            redundant_before: [0; 2],
            redundant_counted: 0,
            events_lost: 0,
            complexity: None,
            quiet_until: Instant::ZERO,
        };
        bridge.join(now);
        bridge
    }

    /// What to write into our description of a leg.
    pub fn local(&self, leg: LegName) -> LocalLeg {
        self.leg(leg).local()
    }

    /// See [`crate::leg::webrtc::WebrtcLeg::fixed_peer`] and [`crate::leg::rtp::RtpLeg::fixed_peer`].
    pub fn fixed_peer(&self, now: Instant, leg: LegName) -> Option<SocketAddr> {
        match self.leg_at(leg)? {
            Leg::Webrtc(leg) => leg.fixed_peer(),
            Leg::Rtp(leg) => leg.fixed_peer(now),
        }
    }

    /// Where the RTP of a leg goes, once that is known.
    pub fn destination(&self, leg: LegName) -> Option<SocketAddr> {
        match self.leg_at(leg)? {
            Leg::Webrtc(leg) => leg.destination(),
            Leg::Rtp(leg) => leg.destination(),
        }
    }

    fn leg_at(&self, leg: LegName) -> Option<&Leg> {
        match leg {
            LegName::A => Some(&self.a),
            LegName::B => Some(&self.b),
            spare => self.spares.leg(spare),
        }
    }

    /// A leg, to look at.
    ///
    /// # Panics
    /// When there is no such spare leg.
    pub fn leg(&self, leg: LegName) -> &Leg {
        self.leg_at(leg).expect("the caller names a leg that is there")
    }

    /// Whether each direction, A to B and B to A, passes payloads as they are, without any codec; `None` while there is no flow.
    pub fn relays(&self) -> [Option<bool>; 2] {
        [self.a_to_b.as_ref().map(Flow::is_relay), self.b_to_a.as_ref().map(Flow::is_relay)]
    }

    /// Whether media can flow: both directions have their flow.
    pub fn carries(&self) -> bool {
        self.a_to_b.is_some() && self.b_to_a.is_some()
    }

    fn leg_mut(&mut self, leg: LegName) -> Option<&mut Leg> {
        match leg {
            LegName::A => Some(&mut self.a),
            LegName::B => Some(&mut self.b),
            spare => self.spares.leg_mut(spare),
        }
    }

    /// Asks for memory that a datagram at `port` will need. `step` counts from 0 to 2: each reads what the one before has asked for, so a
    /// packet's time lies between two of them.
    pub fn prefetch(&self, port: Port, step: usize) {
        let (entrance, flow, exit) = match port.leg {
            LegName::A => (&self.a, &self.a_to_b, &self.b),
            LegName::B => (&self.b, &self.b_to_a, &self.a),
            _ => return,
        };
        match step {
            0 => {
                prefetch(&self.phase);
                prefetch(&self.quiet_until);
                prefetch(entrance);
                prefetch(flow);
                prefetch(exit);
                prefetch(&self.events);
                prefetch(&self.outbox);
            }
            1 => {
                entrance.prefetch_received();
                exit.prefetch_sent();
                if let Some(flow) = flow {
                    flow.prefetch();
                }
            }
            _ => {
                entrance.prefetch_keys(true);
                exit.prefetch_keys(false);
            }
        }
    }

    /// Takes one datagram; decrypts in place. Noise is counted in `metrics` and never ends the call.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        port: Port,
        from: SocketAddr,
        datagram: &mut [u8],
        metrics: &mut Metrics,
    ) {
        self.pass_datagram(now, port, from, datagram, &mut [], metrics);
    }

    /// [`Bridge::handle_datagram`], which writes the packet that the datagram causes to `out`, where it can: that is to be sent before
    /// anything that `poll_output` says.
    pub fn pass_datagram(
        &mut self,
        now: Instant,
        port: Port,
        from: SocketAddr,
        datagram: &mut [u8],
        out: &mut [u8],
        metrics: &mut Metrics,
    ) -> Option<Passed> {
        if self.phase != Phase::Open {
            return None;
        }
        let quiet_until = core::mem::replace(&mut self.quiet_until, Instant::ZERO);
        let (entrance, flow, exit) = match port.leg {
            LegName::A => (&mut self.a, &mut self.a_to_b, &mut self.b),
            LegName::B => (&mut self.b, &mut self.b_to_a, &mut self.a),
            spare => {
                self.handle_spare_datagram(now, spare, port.component, from, datagram, metrics);
                return None;
            }
        };
        let packet = match entrance.handle_datagram(now, port.component, from, datagram) {
            Received::Rtp(packet) => packet,
            Received::Dropped(reason) => {
                metrics.drop(reason);
                return None;
            }
            Received::Consumed => {
                self.pass_report(port.leg);
                return None;
            }
        };
        // Until both formats are known there is nowhere to go: early media is not kept.
        let flow = flow.as_mut()?;
        let is_event = entrance.format().is_some_and(|format| format.receives_event(packet.payload_type));
        let name = port.leg.other();
        let mut exit = Exit { place: out, ..Exit::new(now, exit, name, &mut self.outbox) };
        let handled = flow.handle(&packet, is_event, &mut exit);
        let placed = exit.placed;
        match handled {
            Ok(Some(pressed)) => self.say_pressed(port.leg, pressed),
            Ok(None) if flow.is_relay() && !is_event && !entrance.has_notices() && !exit.leg.has_notices() => {
                self.quiet_until = quiet_until;
            }
            Ok(None) => {}
            Err(reason) => metrics.drop(reason),
        }
        let is_all = now < self.quiet_until && self.outbox.is_empty() && self.events.is_empty();
        placed.map(|(to, len)| Passed { port: Port { leg: name, component: Component::Rtp }, to, len, is_all })
    }

    /// What the peer of `leg` reports of a stream that is relayed to it concerns the peer that sends it: the gaps of both
    /// paths are in it.
    fn pass_report(&mut self, leg: LegName) {
        let (flow, to, from) = match leg {
            LegName::A => (&self.b_to_a, &self.a, &mut self.b),
            LegName::B => (&self.a_to_b, &self.b, &mut self.a),
            _ => return,
        };
        if let (true, Some((report, at))) = (flow.as_ref().is_some_and(Flow::is_relay), to.remote_report()) {
            from.set_downstream(report.fraction_lost, at);
        }
    }

    /// Takes one command.
    pub fn handle_command(&mut self, now: Instant, command: BridgeCommand) {
        if self.phase != Phase::Open {
            return;
        }
        self.quiet_until = Instant::ZERO;
        match command {
            BridgeCommand::SetRemote { leg, remote } => self.set_remote(now, leg, *remote),
            BridgeCommand::Release { leg } => {
                if let Some(leg) = self.leg_mut(leg) {
                    leg.release(now);
                }
            }
            BridgeCommand::Hold { leg } => {
                if let Some(leg) = self.leg_mut(leg) {
                    leg.hold();
                }
            }
            BridgeCommand::OfferRestart { leg, credentials } => {
                if let Some(leg) = self.leg_mut(leg) {
                    leg.offer_restart(now, credentials);
                }
            }
            BridgeCommand::Comfort { leg } => {
                if let Some(comfort) = self.comforts.get_mut(leg as usize) {
                    *comfort = true;
                }
            }
            BridgeCommand::OpenLeg { leg, config } => self.open_spare(now, leg, *config),
            BridgeCommand::SeatLeg { leg, seat } => self.seat_spare(now, leg, seat),
            BridgeCommand::CloseLeg { leg } => self.spares.close(now, leg),
            BridgeCommand::SendDigit { leg, digit, duration_ms } => {
                let flow = match leg {
                    LegName::A => &mut self.b_to_a,
                    LegName::B => &mut self.a_to_b,
                    _ => &mut None,
                };
                let is_pressed = flow.as_mut().is_some_and(|flow| flow.press(Pressed { digit, duration_ms }));
                if !is_pressed {
                    tracing::debug!(?leg, "a key is not sent: the leg has no telephone-event, or too many keys wait");
                }
            }
            BridgeCommand::Close => self.end(now, End { side: Side::Engine, cause: Cause::Closed }),
        }
    }

    fn set_remote(&mut self, now: Instant, name: LegName, remote: LegRemote) {
        match (self.leg_mut(name), remote) {
            (Some(Leg::Webrtc(leg)), LegRemote::Webrtc(remote)) => leg.set_remote(now, remote),
            (Some(Leg::Webrtc(leg)), LegRemote::WebrtcChange(change)) => leg.change(now, change),
            (Some(Leg::Rtp(leg)), LegRemote::Rtp(remote)) => leg.set_remote(now, remote),
            (None, _) => return, // a spare that has gone meanwhile
            _ => return tracing::warn!(leg = ?name, "a description of the other kind of leg: a bug in control"),
        }
        self.join(now);
    }

    /// Makes the flows once both formats are known, and again where a new format needs it.
    fn join(&mut self, now: Instant) {
        let Bridge { a, b, a_to_b, b_to_a, outbox, complexity, .. } = self;
        let (Some(format_a), Some(format_b)) = (a.format(), b.format()) else { return };
        let plans = [Plan::new(format_a, format_b), Plan::new(format_b, format_a)];
        let ways = [(a_to_b, b, LegName::B), (b_to_a, a, LegName::A)];
        for (index, ((flow, leg, name), plan)) in ways.into_iter().zip(plans).enumerate() {
            if flow.as_ref().is_some_and(|flow| *flow.plan() == plan) {
                continue;
            }
            if let Some(before) = flow {
                self.concealed_before[index] += before.concealed();
                self.redundant_before[index] += before.redundant();
                before.hand_over(&mut Exit::new(now, leg, name, outbox));
            }
            let flow = flow.insert(Flow::new(plan));
            if let Some(complexity) = *complexity {
                flow.set_complexity(complexity);
            }
        }
    }

    /// Sets the effort of the encoders, 0 to 10, of this moment's and of those to come.
    pub fn set_complexity(&mut self, complexity: u8) {
        self.complexity = Some(complexity);
        for flow in [&mut self.a_to_b, &mut self.b_to_a].into_iter().flatten() {
            flow.set_complexity(complexity);
        }
    }

    /// Ends the bridge from outside: goodbyes are drained, then `Ended` says `end`. What ended before stays as it was.
    pub fn end(&mut self, now: Instant, end: End) {
        if self.phase == Phase::Open {
            self.quiet_until = Instant::ZERO;
            self.phase = Phase::Closing(end);
            self.a.close(now);
            self.b.close(now);
            self.spares.close_all(now);
        }
    }

    /// Call when the instant of the last `Timeout` has come. Everything due runs in the drain that follows.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// Call until `Timeout`. Only then is the bridge consistent.
    pub fn poll_output(&mut self, now: Instant, out: &mut [u8], metrics: &mut Metrics) -> Output {
        loop {
            if let Some((port, to, len)) = self.outbox.pop(out) {
                return Output::Transmit { port, to, len };
            }
            if let Some(event) = self.events.pop_front() {
                return Output::Event(event);
            }
            if self.phase == Phase::Ended {
                return Output::Timeout(Instant::NEVER);
            }
            if now < self.quiet_until {
                return Output::Timeout(self.quiet_until);
            }
            let mut deadline = Instant::NEVER;
            match self.poll_leg(now, LegName::A, out) {
                Polled::Output(output) => return output,
                Polled::Changed => continue,
                Polled::Idle(at) => deadline = deadline.min(at),
            }
            match self.poll_leg(now, LegName::B, out) {
                Polled::Output(output) => return output,
                Polled::Changed => continue,
                Polled::Idle(at) => deadline = deadline.min(at),
            }
            match self.poll_spares(now, out) {
                Polled::Output(output) => return output,
                Polled::Changed => continue,
                Polled::Idle(at) => deadline = deadline.min(at),
            }
            if let Phase::Closing(end) = self.phase {
                self.phase = Phase::Ended;
                self.count(metrics);
                self.events.push_back(BridgeEvent::Ended { end, stats: self.stats() });
                continue;
            }
            deadline = deadline.min(self.run_flows(now));
            if self.outbox.is_empty() && self.events.is_empty() {
                self.timers_ran = [false; LegName::COUNT];
                self.count(metrics);
                // A leg that is due again at once gets its turn in a millisecond: a drain always ends, and ends in the future.
                self.quiet_until = if deadline > now { deadline } else { now.plus_millis(1) };
                return Output::Timeout(self.quiet_until);
            }
        }
    }

    /// One step of a leg. Its timers run here, once per drain: so the order of a worker's calls does not matter.
    fn poll_leg(&mut self, now: Instant, name: LegName, out: &mut [u8]) -> Polled {
        let may_fire = self.phase == Phase::Open && !self.timers_ran[name as usize];
        let Some(leg) = self.leg_mut(name) else { return Polled::Idle(Instant::NEVER) };
        match leg.poll_output(now, out) {
            LegOutput::Transmit { component, to, len } => {
                Polled::Output(Output::Transmit { port: Port { leg: name, component }, to, len })
            }
            LegOutput::Event(LegEvent::Ended(cause)) if name.is_spare() => {
                self.spares.died(now, name, cause);
                Polled::Changed
            }
            LegOutput::Event(LegEvent::Ended(cause)) => {
                let side = if name == LegName::A { Side::A } else { Side::B };
                let text = leg.take_end_detail();
                self.end(now, End { side, cause });
                if let Some(text) = text {
                    self.events.push_back(BridgeEvent::EndDetail { leg: name, text });
                }
                Polled::Changed
            }
            LegOutput::Event(event) => Polled::Output(Output::Event(BridgeEvent::Leg { leg: name, event })),
            LegOutput::Timeout(at) if at <= now && may_fire => {
                leg.handle_timeout(now);
                self.timers_ran[name as usize] = true;
                Polled::Changed
            }
            LegOutput::Timeout(at) => Polled::Idle(at),
        }
    }

    /// Lets both flows send what is due; answers when the next of them is.
    fn run_flows(&mut self, now: Instant) -> Instant {
        let Bridge { a, b, a_to_b, b_to_a, outbox, comforts, .. } = self;
        let mut pressed = [None; 2];
        let mut deadline = Instant::NEVER;
        let ways = [(a_to_b, b, LegName::B), (b_to_a, a, LegName::A)];
        for (index, (flow, leg, name)) in ways.into_iter().enumerate() {
            let Some(flow) = flow else { continue };
            let mut exit = Exit::new(now, leg, name, outbox);
            pressed[index] = flow.run(&mut exit);
            if comforts[name as usize] {
                flow.comfort(&mut exit);
                deadline = deadline.min(flow.comfort_deadline(exit.can_send()));
            }
            deadline = deadline.min(flow.deadline(exit.can_send()));
        }
        for (leg, pressed) in [LegName::A, LegName::B].into_iter().zip(pressed) {
            if let Some(pressed) = pressed {
                self.say_pressed(leg, pressed);
            }
        }
        deadline
    }

    fn say_pressed(&mut self, leg: LegName, Pressed { digit, duration_ms }: Pressed) {
        if self.events.len() < BRIDGE_EVENTS_MAX {
            self.events.push_back(BridgeEvent::Digit { leg, digit, duration_ms });
        } else {
            self.events_lost += 1;
        }
    }

    /// Whether `Ended` was said: nothing is left to do but drop it.
    pub fn is_ended(&self) -> bool {
        self.phase == Phase::Ended && self.events.is_empty()
    }
}
