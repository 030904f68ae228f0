//! What the edge counts, and how its trunks and peers are: for `/metrics`.
//!
//! Why names of trunks are labels and those of users are not: trunks stand in the configuration and are few; users and numbers are
//! people, and belong into no figure.

use super::peers::Peer;
use super::{Edge, Talk};
use crate::registrar::GateCounters;
use engine::bridge::BridgeId;
use engine::time::Instant;

/// What is alive at the edge; all zero when nothing is left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeAlive {
    /// Sessions that are not over.
    pub sessions: usize,
    /// SIP calls.
    pub sip_calls: usize,
    /// SIP transactions.
    pub sip_transactions: usize,
}

/// What the edge counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeCounters {
    /// Sessions begun.
    pub sessions_begun: u64,
    /// Sessions ended.
    pub sessions_ended: u64,
    /// `new` refused.
    pub sessions_refused: u64,
    /// Sessions forgotten because bridge or SIP call never ended: bugs.
    pub sessions_abandoned: u64,
    /// Commands that found a mailbox full.
    pub mailbox_full: u64,
    /// Datagrams at the SIP port that could not be read.
    pub sip_malformed: u64,
    /// SIP calls of the last run that were sent a BYE.
    pub sip_calls_cut: u64,
}

/// How a trunk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrunkFigures {
    /// Its name in the configuration.
    pub name: String,
    /// Calls that it carries, both directions.
    pub calls: usize,
    /// It gave no answer a moment ago, and is tried last.
    pub resting: bool,
    /// Whether it registers us; `None`: we do not ask it to.
    pub registered: Option<bool>,
    /// Whether it answers OPTIONS; `None`: it is not asked, or has not answered yet.
    pub alive: Option<bool>,
}

/// Who is registered here, and who was let in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateFigures {
    /// Users with a device at least.
    pub users: usize,
    /// Devices.
    pub devices: usize,
    /// Requests by what became of them.
    pub counters: GateCounters,
}

/// States of a call, in their order.
const STATES: [&str; 4] = ["opening", "ringing", "talking", "ending"];

impl Edge {
    /// Whether a session with this id has a bridge, whose figures are still to be told.
    pub fn carries_media_of(&self, call_id: &str) -> bool {
        let number = self.by_call_id.get(call_id);
        let talk = number.and_then(|number| self.sessions.get(number)).map(|entered| &entered.talk);
        matches!(talk, Some(Talk::Session(session)) if session.has_bridge())
    }

    /// What is alive.
    pub fn alive(&self) -> EdgeAlive {
        let (sip_calls, sip_transactions) = self.sip.alive();
        EdgeAlive { sessions: self.sessions.len(), sip_calls, sip_transactions }
    }

    /// Calls by how far they are, each state in its turn.
    pub fn states(&self) -> Vec<(&'static str, u64)> {
        let count =
            |state: &&str| self.sessions.values().filter(|entered| entered.talk.state() == *state).count() as u64;
        STATES.iter().map(|state| (*state, count(state))).collect()
    }

    /// What was counted so far.
    pub fn counters(&self) -> EdgeCounters {
        EdgeCounters { sip_malformed: self.sip.malformed(), ..self.counters }
    }

    /// How each trunk is.
    pub fn trunks(&self, now: Instant) -> Vec<TrunkFigures> {
        let registered =
            |name: &str| self.registrations.values().find(|(trunk, _)| trunk == name).map(|(_, held)| *held);
        let figures = self.gate.routes.trunks().map(|(id, trunk)| TrunkFigures {
            name: trunk.name.clone(),
            calls: self.load.calls(id),
            resting: self.load.is_resting(now, id),
            registered: registered(&trunk.name),
            alive: self.is_alive(Peer::Trunk(id)),
        });
        figures.collect()
    }

    /// Whether the SIP target answers OPTIONS, if it is asked.
    pub fn target_alive(&self) -> Option<bool> {
        self.is_alive(Peer::Target)
    }

    /// Who is registered.
    pub fn registered(&self) -> GateFigures {
        let registrar = &self.gate.registrar;
        GateFigures { users: registrar.all().count(), devices: registrar.count(), counters: self.gate.counters() }
    }

    /// What kind of peer is at each side of a bridge: `whatsapp`, `trunk`, `user` or `sip`.
    pub fn peers(&self, bridge: BridgeId) -> Option<[&'static str; 2]> {
        self.sessions.get(&bridge.0).map(|entered| entered.talk.peers())
    }
}
