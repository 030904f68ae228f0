//! Connectivity: one agent, lite or full (RFC 8445), regular nomination, consent (RFC 7675).

use crate::error::DropReason;
use crate::sdp::IceDescription;
use crate::time::Instant;
use std::net::SocketAddr;

/// What the agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IceRole {
    /// Answers checks, never sends one (RFC 8445 §2.5): toward browsers and softphones.
    Lite,
    /// Sends checks and nominates once (regular nomination, no switch later): toward WhatsApp.
    Controlling,
    /// Full agent that starts as controlled: toward a full offerer. A role conflict may turn it (RFC 8445 §7.3.1.1).
    Controlled,
}

/// Our half of the credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IceCredentials {
    /// At least 4 characters (RFC 8839 §5.4).
    pub ufrag: String,
    /// At least 22 characters.
    pub pwd: String,
}

/// What `poll_output` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IceOutput {
    /// `out[..len]` is to be sent to `to`.
    Transmit {
        /// Where.
        to: SocketAddr,
        /// How much of `out`.
        len: usize,
    },
    /// The one pair that media uses: DTLS may start. For a lite agent a browser may move it later (USE-CANDIDATE on another pair).
    Nominated(SocketAddr),
    /// No pair answered in `ICE_MS_MAX`.
    Failed,
    /// Consent expired (a full agent), 30 s after the last answer.
    ConsentLost,
    /// Nothing to do before this instant.
    Timeout(Instant),
}

/// One leg's ICE agent. One component, one local socket.
pub struct IceAgent {}

impl IceAgent {
    /// `seed` feeds transaction ids and the tie-breaker.
    pub fn new(_now: Instant, _role: IceRole, _local: IceCredentials, _random: crate::random::Random) -> IceAgent {
        todo!()
    }

    /// What `local` was.
    pub fn local(&self) -> &IceCredentials {
        todo!()
    }

    /// The role in force (a conflict may have changed it).
    pub fn role(&self) -> IceRole {
        todo!()
    }

    /// Gives the peer's credentials and candidates; a full agent begins its checks.
    pub fn set_remote(&mut self, _now: Instant, _remote: &IceDescription) {
        todo!()
    }

    /// Takes a datagram that `demux::classify` called STUN. Every authenticated message counts as a sign of life.
    pub fn handle_datagram(&mut self, _now: Instant, _from: SocketAddr, _datagram: &[u8]) -> Result<(), DropReason> {
        todo!()
    }

    /// Call when the instant of the last `Timeout` has come.
    pub fn handle_timeout(&mut self, _now: Instant) {
        todo!()
    }

    /// Call until `Timeout`. Allocates nothing.
    pub fn poll_output(&mut self, _now: Instant, _out: &mut [u8]) -> IceOutput {
        todo!()
    }

    /// The nominated remote address.
    pub fn nominated(&self) -> Option<SocketAddr> {
        todo!()
    }

    /// Whether `address` answered or sent an authenticated check: media from it is acceptable.
    pub fn is_known_source(&self, _address: SocketAddr) -> bool {
        todo!()
    }

    /// When the last authenticated message from the peer came.
    pub fn last_heard(&self) -> Option<Instant> {
        todo!()
    }

    /// Round trip of the last answered check, ms.
    pub fn round_trip_ms(&self) -> Option<u32> {
        todo!()
    }
}
