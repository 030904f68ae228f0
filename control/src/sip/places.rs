//! What is remembered about places that did not answer, so that the next call does not wait for them again.
//!
//! A place that was silent, refused the connection or lost it is *dead* for a while: it is tried last. One that said 503 with
//! Retry-After is *busy*: it is left alone until then (RFC 3261 §21.5.4). One good response clears both.
//!
//! Why not per call: the first call after a server's death pays four seconds for the discovery, and only the first should.

use super::limits::{DEAD_MS, PLACES_MAX, RETRY_AFTER_S_MAX};
use super::transport::{Hop, Transport};
use engine::time::Instant;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Marks on places.
#[derive(Default)]
pub struct Places {
    marks: BTreeMap<(Transport, SocketAddr), Mark>,
}

#[derive(Clone, Copy)]
struct Mark {
    until: Instant,
    busy: bool,
}

impl Places {
    /// Nobody answered there.
    pub fn note_dead(&mut self, now: Instant, hop: &Hop) {
        self.mark(now, hop, Mark { until: now.plus_millis(DEAD_MS), busy: false });
    }

    /// It asked to be left alone.
    pub fn note_busy(&mut self, now: Instant, hop: &Hop, retry_after_s: u64) {
        let until = now.plus_millis(retry_after_s.min(RETRY_AFTER_S_MAX) * 1_000);
        self.mark(now, hop, Mark { until, busy: true });
    }

    /// It answered.
    pub fn note_alive(&mut self, hop: &Hop) {
        if !self.marks.is_empty() {
            self.marks.remove(&(hop.transport, hop.remote));
        }
    }

    /// Whether it was found dead a short while ago.
    pub fn is_dead(&self, now: Instant, hop: &Hop) -> bool {
        self.of(now, hop).is_some_and(|mark| !mark.busy)
    }

    /// Whether it is to be left alone.
    pub fn is_busy(&self, now: Instant, hop: &Hop) -> bool {
        self.of(now, hop).is_some_and(|mark| mark.busy)
    }

    /// The same hops: the living first, then the dead; the busy are left out.
    pub fn sorted(&self, now: Instant, hops: Vec<Hop>) -> Vec<Hop> {
        let mut hops: Vec<Hop> = hops.into_iter().filter(|hop| !self.is_busy(now, hop)).collect();
        // Stable: the order of the DNS stays among equals.
        hops.sort_by_key(|hop| self.is_dead(now, hop));
        hops
    }

    fn of(&self, now: Instant, hop: &Hop) -> Option<Mark> {
        self.marks.get(&(hop.transport, hop.remote)).copied().filter(|mark| mark.until > now)
    }

    fn mark(&mut self, now: Instant, hop: &Hop, mark: Mark) {
        if self.marks.len() >= PLACES_MAX {
            self.marks.retain(|_, mark| mark.until > now);
        }
        // Full of fresh marks: a further dead place is found out by asking.
        if self.marks.len() < PLACES_MAX {
            self.marks.insert((hop.transport, hop.remote), mark);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_come_last_for_a_while_and_the_busy_not_at_all() {
        let hop = |last: u8| Hop::udp(SocketAddr::from(([192, 0, 2, last], 5060)));
        let (now, mut places) = (Instant::from_millis(1_000), Places::default());
        places.note_dead(now, &hop(1));
        places.note_busy(now, &hop(2), 10);
        let all = vec![hop(1), hop(2), hop(3), hop(4)];
        assert_eq!(places.sorted(now, all.clone()), [hop(3), hop(4), hop(1)]);
        assert_eq!(places.sorted(now.plus_millis(10_001), all.clone()), [hop(2), hop(3), hop(4), hop(1)]);
        assert_eq!(places.sorted(now.plus_millis(DEAD_MS + 1), all.clone()), all);
        places.note_alive(&hop(1));
        assert_eq!(places.sorted(now, all), [hop(1), hop(3), hop(4)]);
    }

    #[test]
    fn a_full_table_forgets_what_is_over_and_no_more() {
        let (now, mut places) = (Instant::ZERO, Places::default());
        for port in 0..PLACES_MAX as u16 + 1 {
            places.note_dead(now, &Hop::udp(SocketAddr::from(([192, 0, 2, 1], port))));
        }
        assert_eq!(places.marks.len(), PLACES_MAX);
        let later = now.plus_millis(DEAD_MS);
        places.note_dead(later, &Hop::udp(SocketAddr::from(([192, 0, 2, 2], 1))));
        assert_eq!(places.marks.len(), 1);
    }
}
