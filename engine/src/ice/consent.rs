//! Consent of a full agent (RFC 7675): the nominated peer must keep answering checks, or sending stops.

use super::stun::TransactionId;
use crate::limits::CONSENT_MS_MAX;
use crate::random::Random;
use crate::time::Instant;

/// Mean interval of consent checks (RFC 7675 §5.1), spread by a factor of 0.8 to 1.2.
pub(super) const CONSENT_INTERVAL_MS: u64 = 5_000;

/// Checks whose answers are still accepted: all that can be sent before consent expires.
const OUTSTANDING_MAX: usize = 8;
const _: () = assert!(CONSENT_MS_MAX < OUTSTANDING_MAX as u64 * CONSENT_INTERVAL_MS * 4 / 5);

/// The consent timer of one nominated pair.
#[derive(Debug)]
pub(super) struct Consent {
    next_at: Instant,
    given_at: Instant,
    outstanding: [Option<(TransactionId, Instant)>; OUTSTANDING_MAX],
    next_slot: usize,
}

impl Consent {
    /// Consent given at `now`: the nominated pair was just answered.
    pub(super) fn new(now: Instant, random: &mut Random) -> Consent {
        Consent {
            next_at: now.plus_millis(interval_ms(random)),
            given_at: now,
            outstanding: [None; OUTSTANDING_MAX],
            next_slot: 0,
        }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next_at <= now
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.expires_at() <= now
    }

    pub(super) fn given_at(&self) -> Instant {
        self.given_at
    }

    fn expires_at(&self) -> Instant {
        self.given_at.plus_millis(CONSENT_MS_MAX)
    }

    pub(super) fn deadline(&self) -> Instant {
        self.next_at.min(self.expires_at())
    }

    /// Books the check that is sent now. Each has an id of its own and is never sent again (RFC 7675 §5.1).
    pub(super) fn begin(&mut self, now: Instant, random: &mut Random) -> TransactionId {
        let mut id = [0; 12];
        random.fill(&mut id);
        self.outstanding[self.next_slot] = Some((id, now));
        self.next_slot = (self.next_slot + 1) % OUTSTANDING_MAX;
        self.next_at = now.plus_millis(interval_ms(random));
        id
    }

    /// When the check `id` was sent, if it waits for its answer.
    pub(super) fn sent_at(&self, id: &TransactionId) -> Option<Instant> {
        self.outstanding.iter().flatten().find(|(waiting, _)| waiting == id).map(|(_, sent_at)| *sent_at)
    }

    /// Takes the authenticated answer to `id`.
    pub(super) fn renew(&mut self, now: Instant, id: &TransactionId) {
        for slot in &mut self.outstanding {
            if slot.is_some_and(|(waiting, _)| waiting == *id) {
                *slot = None;
            }
        }
        self.given_at = now;
    }
}

fn interval_ms(random: &mut Random) -> u64 {
    CONSENT_INTERVAL_MS * 4 / 5 + u64::from(random.below(CONSENT_INTERVAL_MS as u32 * 2 / 5 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consent_checks_are_four_to_six_seconds_apart() {
        let mut random = Random::from_test_seed(1);
        let intervals: Vec<u64> = (0..2_000).map(|_| interval_ms(&mut random)).collect();
        assert!(intervals.iter().all(|interval| (4_000..=6_000).contains(interval)));
        assert!(intervals.iter().any(|interval| *interval < 4_100));
        assert!(intervals.iter().any(|interval| *interval > 5_900));
    }

    #[test]
    fn any_outstanding_check_renews_consent_and_only_once() {
        let mut random = Random::from_test_seed(2);
        let mut consent = Consent::new(Instant::ZERO, &mut random);
        let first = consent.begin(Instant::from_millis(5_000), &mut random);
        let second = consent.begin(Instant::from_millis(10_000), &mut random);
        assert_ne!(first, second);
        assert_eq!(consent.sent_at(&first), Some(Instant::from_millis(5_000)));
        consent.renew(Instant::from_millis(11_000), &first);
        assert_eq!(consent.sent_at(&first), None);
        assert!(consent.sent_at(&second).is_some());
        assert!(!consent.is_expired(Instant::from_millis(11_000 + CONSENT_MS_MAX - 1)));
        assert!(consent.is_expired(Instant::from_millis(11_000 + CONSENT_MS_MAX)));
    }
}
