//! What lets two processes outlive each other: a session's lease, and the facts about it that can be asked for again.
//!
//! An orchestrator in another process sends `POST /webrtc/keepalive` with the names of its sessions every few seconds. That renews
//! their leases, so an edge whose orchestrator has died ends them; and the reply says how each session is, so an orchestrator
//! learns what a lost callback would have told it, finds its sessions again after a restart, and notices an edge that has died.
//!
//! Why a question and not a stream of events from the edge: an event stream that breaks has to be repaired by such a question
//! anyway, and callbacks already carry events at once. Every fact here stays true once it is, so asking twice does no harm.

use super::EdgeEventKind;
use super::limits::{LEASE_S_MAX, LEASE_S_MIN};
use engine::time::Instant;
use serde::{Deserialize, Serialize};

/// How an orchestrator names a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionName {
    /// The call.
    pub call_id: String,
    /// Opaque; empty: whichever session the call has.
    #[serde(default)]
    pub edge_session_id: String,
}

/// How a session is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    /// The call.
    pub call_id: String,
    /// Opaque; as asked for where no session is known.
    pub edge_session_id: String,
    /// Whether the edge knows it. All else is at its default where it does not.
    pub known: bool,
    /// What has happened to it.
    #[serde(flatten)]
    pub facts: Facts,
}

/// What has happened to a session, as its events told it one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The number of its last event.
    #[serde(default)]
    pub sequence: u32,
    /// ICE and DTLS came up.
    #[serde(default)]
    pub media_ready: bool,
    /// The far side sent early media.
    #[serde(default)]
    pub early_media: bool,
    /// The far side answered.
    #[serde(default)]
    pub answered: bool,
    /// It is over: side, cause and one sentence, as in the event `ended`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<EndFacts>,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndFacts {
    /// `whatsapp`, `sip` or `tandem`.
    pub side: String,
    /// A stable word.
    pub cause: String,
    /// One sentence.
    pub detail: String,
}

impl Facts {
    /// Takes note of an event and answers its number.
    pub(super) fn record(&mut self, kind: &EdgeEventKind) -> u32 {
        self.sequence = self.sequence.saturating_add(1);
        match kind {
            EdgeEventKind::MediaReady => self.media_ready = true,
            EdgeEventKind::Ringing { early_media, .. } => self.early_media |= early_media,
            EdgeEventKind::Answered => self.answered = true,
            EdgeEventKind::Ended { side, cause, detail } => {
                let (side, cause, detail) = (side.clone(), cause.clone(), detail.clone());
                self.ended = Some(EndFacts { side, cause, detail });
            }
        }
        self.sequence
    }

    /// The events that would tell an orchestrator these facts.
    pub(super) fn events(&self) -> Vec<EdgeEventKind> {
        let mut events = Vec::new();
        if self.media_ready {
            events.push(EdgeEventKind::MediaReady);
        }
        if self.early_media {
            events.push(EdgeEventKind::Ringing { code: 183, early_media: true });
        }
        if self.answered {
            events.push(EdgeEventKind::Answered);
        }
        if let Some(EndFacts { side, cause, detail }) = self.ended.clone() {
            events.push(EdgeEventKind::Ended { side, cause, detail });
        }
        events
    }
}

/// A session's time to live without its orchestrator.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    millis: Option<u64>,
    until: Instant,
}

impl Lease {
    /// From what `new` asks for, brought into the limits.
    pub fn new(now: Instant, lease_s: Option<u32>) -> Lease {
        let millis = lease_s.map(|seconds| u64::from(seconds.clamp(LEASE_S_MIN, LEASE_S_MAX)) * 1_000);
        let mut lease = Lease { millis, until: Instant::NEVER };
        lease.renew(now);
        lease
    }

    /// The orchestrator lives.
    pub fn renew(&mut self, now: Instant) {
        if let Some(millis) = self.millis {
            self.until = now.plus_millis(millis);
        }
    }

    /// When it ends.
    pub fn until(&self) -> Instant {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_told_again_by_the_events_that_made_them() {
        let kinds = [
            EdgeEventKind::Ringing { code: 180, early_media: false },
            EdgeEventKind::MediaReady,
            EdgeEventKind::Ringing { code: 183, early_media: true },
            EdgeEventKind::Answered,
            EdgeEventKind::Ended { side: "sip".into(), cause: "bye".into(), detail: "gone".into() },
        ];
        let mut facts = Facts::default();
        assert!(facts.events().is_empty());
        for (index, kind) in kinds.iter().enumerate() {
            assert_eq!(facts.record(kind) as usize, index + 1);
        }
        let mut again = Facts::default();
        for kind in facts.events() {
            again.record(&kind);
        }
        assert_eq!(Facts { sequence: facts.sequence, ..again }, facts);
    }

    #[test]
    fn a_lease_is_as_long_as_asked_for_within_its_limits_and_none_lasts_for_ever() {
        let now = Instant::from_millis(1_000);
        assert_eq!(Lease::new(now, Some(30)).until(), now.plus_millis(30_000));
        assert_eq!(Lease::new(now, Some(0)).until(), now.plus_millis(u64::from(LEASE_S_MIN) * 1_000));
        assert_eq!(Lease::new(now, Some(u32::MAX)).until(), now.plus_millis(u64::from(LEASE_S_MAX) * 1_000));
        let mut none = Lease::new(now, None);
        none.renew(now);
        assert_eq!(none.until(), Instant::NEVER);
    }
}
