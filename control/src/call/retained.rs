//! Ended sessions, kept for a while: a repeated `new` gets the same answer, and no second call.

use super::lease::Facts;
use super::{SessionCreated, limits};
use engine::time::Instant;
use std::collections::{BTreeMap, VecDeque};

/// What is left of a session that ended, so that a repeated `new` gets the same answer.
pub(super) struct Ended {
    pub offer_digest: [u8; 32],
    pub created: SessionCreated,
    pub facts: Facts,
}

/// Ended sessions, for a while.
#[derive(Default)]
pub(super) struct Retained {
    ended: BTreeMap<String, Ended>,
    /// In the order of their expiry.
    order: VecDeque<(Instant, String)>,
}

impl Retained {
    pub fn insert(&mut self, now: Instant, call_id: String, ended: Ended) {
        self.order.push_back((now.plus_millis(limits::SESSION_RETAINED_MS), call_id.clone()));
        self.ended.insert(call_id, ended);
        while self.order.len() > limits::SESSIONS_RETAINED_MAX {
            self.drop_oldest();
        }
    }

    pub fn find(&self, call_id: &str) -> Option<&Ended> {
        self.ended.get(call_id)
    }

    pub fn deadline(&self) -> Instant {
        self.order.front().map_or(Instant::NEVER, |(expires, _)| *expires)
    }

    pub fn expire(&mut self, now: Instant) {
        while self.deadline() <= now {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, call_id)) = self.order.pop_front() {
            self.ended.remove(&call_id);
        }
    }
}
