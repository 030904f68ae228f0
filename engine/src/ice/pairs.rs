//! The candidate pairs of one leg. There is one local socket, so a pair is a remote address.
//!
//! A pair is checked until it is valid or ICE is over: a check that nobody answers is sent again under the same
//! transaction id at growing intervals, and when `CHECK_SENDS_MAX` sends were in vain a new transaction begins. **Why**
//! pairs do not fail for good (RFC 8445 §7.2.5.2.3 would): the peer may learn of us seconds after our first check, when
//! its own signalling has carried our answer.

use super::stun::TransactionId;
use crate::limits::{CANDIDATE_PAIRS_MAX, CONSENT_MS_MAX};
use crate::time::Instant;
use std::cmp::Reverse;
use std::net::SocketAddr;

/// First retransmission interval of a check. RFC 8445 §14.3 starts at 500 ms; call set-up cannot wait that long on loss.
pub(super) const RTO_MS: u64 = 200;

/// Longest retransmission interval: what a peer that learns of us late costs at most.
pub(super) const RTO_MS_MAX: u64 = 500;

/// Sends of one transaction (Rc of RFC 8489 §6.2.1).
pub(super) const CHECK_SENDS_MAX: u32 = 7;

/// Priority of our host candidate: type 126, local preference 65535, component 1 (RFC 8445 §5.1.2.1).
pub(super) const HOST_PRIORITY: u32 = (126 << 24) | (65535 << 8) | 255;

/// What PRIORITY says: the priority of a peer-reflexive candidate learned from the check (RFC 8445 §7.1.1).
pub(super) const PEER_REFLEXIVE_PRIORITY: u32 = (110 << 24) | (65535 << 8) | 255;

/// A check under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transaction {
    pub(super) id: TransactionId,
    pub(super) use_candidate: bool,
    /// Whether it said ICE-CONTROLLING.
    pub(super) controlling: bool,
    pub(super) sends: u32,
    pub(super) sent_at: Instant,
}

/// One remote address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) remote: SocketAddr,
    pub(super) remote_priority: u32,
    /// Last authenticated message from it.
    pub(super) heard_at: Option<Instant>,
    /// Our check was answered (for a lite agent: the peer nominated it).
    pub(super) valid: bool,
    /// The controlling peer sent USE-CANDIDATE on it before it was valid.
    pub(super) wanted: bool,
    /// Goes before ordinary checks (RFC 8445 §6.1.4.2).
    pub(super) triggered: bool,
    /// When the next check is to be sent; `NEVER` when none is.
    pub(super) due: Instant,
    pub(super) transaction: Option<Transaction>,
}

impl Pair {
    /// Starts a new check at `now`.
    pub(super) fn trigger(&mut self, now: Instant) {
        self.transaction = None;
        self.prod(now);
    }

    /// Sends the check under way (or a new one) at `now` instead of later.
    pub(super) fn prod(&mut self, now: Instant) {
        self.due = now;
        self.triggered = true;
    }

    /// Sends nothing more.
    pub(super) fn rest(&mut self) {
        self.transaction = None;
        self.due = Instant::NEVER;
        self.triggered = false;
    }

    /// Books a send of the transaction under way.
    pub(super) fn book_send(&mut self, now: Instant) {
        self.triggered = false;
        if let Some(transaction) = &mut self.transaction {
            let doublings = transaction.sends.min(4);
            transaction.sends += 1;
            transaction.sent_at = now;
            self.due = now.plus_millis((RTO_MS << doublings).min(RTO_MS_MAX));
        }
    }

    /// Whether the transaction under way was sent as often as it may.
    pub(super) fn is_exhausted(&self) -> bool {
        self.transaction.is_some_and(|transaction| transaction.sends >= CHECK_SENDS_MAX)
    }

    /// RFC 8445 §6.1.2.3.
    pub(super) fn priority(&self, controlling: bool) -> u64 {
        let (local, remote) = (u64::from(HOST_PRIORITY), u64::from(self.remote_priority));
        let (g, d) = if controlling { (local, remote) } else { (remote, local) };
        (g.min(d) << 32) + 2 * g.max(d) + u64::from(g > d)
    }
}

/// Pairs that have their place from the start: two of a relay, four of a browser. A table of the largest size would be most of a leg.
const PAIRS_USUAL: usize = 4;

/// All pairs of a leg, in the order in which they were learned.
#[derive(Debug)]
pub(super) struct PairTable(Vec<Pair>);

impl PairTable {
    pub(super) fn new() -> PairTable {
        PairTable(Vec::with_capacity(PAIRS_USUAL))
    }

    pub(super) fn as_slice(&self) -> &[Pair] {
        &self.0
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [Pair] {
        &mut self.0
    }

    pub(super) fn position(&self, remote: SocketAddr) -> Option<usize> {
        self.0.iter().position(|pair| pair.remote == remote)
    }

    /// The pair of `remote`, made if there is room. A full table gives up an address that was silent for as long as
    /// consent lasts and is not `keep`: a phone that changes networks all day must not lock itself out.
    pub(super) fn find_or_add(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        remote_priority: u32,
        keep: Option<SocketAddr>,
    ) -> Option<usize> {
        if let Some(index) = self.position(remote) {
            return Some(index);
        }
        let pair = Pair {
            remote,
            remote_priority,
            heard_at: None,
            valid: false,
            wanted: false,
            triggered: false,
            due: Instant::NEVER,
            transaction: None,
        };
        if self.0.len() < CANDIDATE_PAIRS_MAX {
            self.0.push(pair);
            return Some(self.0.len() - 1);
        }
        // Without a nominated pair nothing is given up: every address may still be the one.
        let keep = keep?;
        let silent_since = |pair: &Pair| pair.heard_at.unwrap_or(Instant::ZERO);
        let is_stale = |pair: &Pair| pair.remote != keep && silent_since(pair).plus_millis(CONSENT_MS_MAX) < now;
        let (index, _) =
            self.0.iter().enumerate().filter(|(_, pair)| is_stale(pair)).min_by_key(|(_, pair)| silent_since(pair))?;
        self.0[index] = pair;
        Some(index)
    }

    /// The pair to check first of those due at `now`: triggered ones, then by due time, then by priority.
    pub(super) fn next_due(&self, now: Instant, controlling: bool) -> Option<usize> {
        let due = self.0.iter().enumerate().filter(|(_, pair)| pair.due <= now);
        due.min_by_key(|(_, pair)| (!pair.triggered, pair.due, Reverse(pair.priority(controlling))))
            .map(|(index, _)| index)
    }

    /// The earliest due time of all.
    pub(super) fn earliest_due(&self) -> Instant {
        self.0.iter().map(|pair| pair.due).min().unwrap_or(Instant::NEVER)
    }

    /// The valid pair of highest priority, and whether it leads all pairs, valid or not.
    pub(super) fn best_valid(&self, controlling: bool) -> Option<(usize, bool)> {
        let priority = |index: &usize| self.0[*index].priority(controlling);
        let best = (0..self.0.len()).filter(|index| self.0[*index].valid).max_by_key(priority)?;
        let leads = self.0.iter().all(|pair| pair.valid || pair.priority(controlling) <= priority(&best));
        Some((best, leads))
    }
}
