//! Two legs and the two flows between them.

use crate::dtls::Identity;
use crate::error::End;
use crate::leg::rtp::{RtpConfig, RtpRemote};
use crate::leg::webrtc::{WebrtcConfig, WebrtcRemote};
use crate::leg::{Component, LegEvent, LegStats, LocalLeg};
use crate::metrics::Metrics;
use crate::random::Random;
use crate::rtp::telephone_event::Digit;
use crate::time::{Instant, WallAnchor};
use std::net::SocketAddr;

/// A bridge of this process. Control chooses the numbers and never uses one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BridgeId(pub u64);

/// One of the two legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LegName {
    /// The first.
    A,
    /// The second.
    B,
}

impl LegName {
    /// The other one.
    pub const fn other(self) -> LegName {
        match self {
            LegName::A => LegName::B,
            LegName::B => LegName::A,
        }
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
    /// Presses a key toward a leg's peer.
    SendDigit {
        /// Which leg.
        leg: LegName,
        /// Which key.
        digit: Digit,
        /// How long.
        duration_ms: u32,
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
pub struct Bridge {}

impl Bridge {
    /// Opens both legs. A leg that has its remote begins at once.
    pub fn open(_now: Instant, _config: BridgeConfig, _shared: &Shared, _random: Random) -> Bridge {
        todo!()
    }

    /// What to write into our description of a leg.
    pub fn local(&self, _leg: LegName) -> LocalLeg {
        todo!()
    }

    /// Takes one datagram; decrypts in place. Noise is counted in `metrics` and never ends the call.
    pub fn handle_datagram(
        &mut self,
        _now: Instant,
        _port: Port,
        _from: SocketAddr,
        _datagram: &mut [u8],
        _metrics: &mut Metrics,
    ) {
        todo!()
    }

    /// Takes one command.
    pub fn handle_command(&mut self, _now: Instant, _command: BridgeCommand) {
        todo!()
    }

    /// Call when the instant of the last `Timeout` has come.
    pub fn handle_timeout(&mut self, _now: Instant) {
        todo!()
    }

    /// Call until `Timeout`. Only then is the bridge consistent.
    pub fn poll_output(&mut self, _now: Instant, _out: &mut [u8], _metrics: &mut Metrics) -> Output {
        todo!()
    }

    /// Whether `Ended` was said: nothing is left to do but drop it.
    pub fn is_ended(&self) -> bool {
        todo!()
    }
}
