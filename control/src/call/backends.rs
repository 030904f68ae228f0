//! Which DTLS library serves whom: the fast one, unless the configuration or a handshake that failed says otherwise.
//!
//! ```text
//!  first call: dimpl ──refused, and OpenSSL could serve it──► remembered ──next call: OpenSSL──► connected: remembered anew
//!                                                                 ▲                    └── refused: forgotten
//!                                                                 └── a day without a call: forgotten
//! ```
//!
//! Why it is learned from failures and not tried within the call: both ends have given the association up, and the description
//! that would begin another is one that WhatsApp takes from nobody.

use super::limits::{DTLS_PEER_MS, DTLS_PEERS_MAX};
use crate::route::DtlsBackend;
use engine::dtls::{DtlsVersions, may_suit_openssl};
use engine::error::Cause;
use engine::sdp::Fingerprint;
use engine::time::Instant;
use std::collections::BTreeMap;

/// With whom a handshake is done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peer {
    /// WhatsApp, for one business number.
    Number(String),
    /// Who asked the edge for a session that names no number.
    Caller(String),
    /// Who asked and said nothing about itself but its certificate's fingerprint.
    Certificate(Fingerprint),
    Trunk(String),
    User(String),
}

impl Peer {
    /// For the log: numbers stay out of it.
    fn name(&self) -> String {
        match self {
            Peer::Number(_) => "this business number".to_owned(),
            Peer::Caller(_) | Peer::Certificate(_) => "this caller of the edge".to_owned(),
            Peer::Trunk(name) => format!("trunk {name}"),
            Peer::User(name) => format!("user {name}"),
        }
    }
}

/// The library of one leg, and how it came to be chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    peer: Option<Peer>,
    wanted: DtlsBackend,
    is_openssl: bool,
}

impl Choice {
    /// The versions to speak: `otherwise` where the fast library serves.
    pub fn versions(&self, otherwise: DtlsVersions) -> DtlsVersions {
        if self.is_openssl { DtlsVersions::OpenSsl } else { otherwise }
    }

    /// Behind the role or version in words.
    pub fn words(&self) -> &'static str {
        match (self.is_openssl, self.wanted) {
            (false, _) => "",
            (true, DtlsBackend::Openssl) => " by OpenSSL (configured)",
            (true, _) => " by OpenSSL (an earlier handshake failed)",
        }
    }
}

/// Whom OpenSSL serves although nobody wrote so.
#[derive(Default)]
pub(super) struct Backends {
    /// Until when; the first to expire goes when there are too many.
    learned: BTreeMap<Peer, Instant>,
}

impl Backends {
    /// The library for a leg toward `peer`.
    pub fn choose(&self, now: Instant, wanted: DtlsBackend, peer: Option<Peer>) -> Choice {
        let is_learned = || peer.as_ref().and_then(|peer| self.learned.get(peer)).is_some_and(|until| *until > now);
        let is_openssl = match wanted {
            DtlsBackend::Openssl => true,
            DtlsBackend::Dimpl => false,
            DtlsBackend::Auto => is_learned(),
        };
        Choice { peer, wanted, is_openssl }
    }

    /// A handshake is done: what served is worth remembering for longer.
    pub fn connected(&mut self, now: Instant, choice: &Choice) {
        if let Some(until) = choice.peer.as_ref().and_then(|peer| self.learned.get_mut(peer))
            && choice.is_openssl
        {
            *until = now.plus_millis(DTLS_PEER_MS);
        }
    }

    /// A leg is over. Answers what that means for the peer's next call, if it means anything.
    pub fn ended(&mut self, now: Instant, choice: &Choice, cause: Cause, said: Option<&str>) -> Option<&'static str> {
        let peer = choice.peer.as_ref().filter(|_| choice.wanted == DtlsBackend::Auto)?;
        if cause != Cause::DtlsRefused {
            return None;
        }
        if choice.is_openssl {
            self.learned.remove(peer)?;
            tracing::info!("OpenSSL's handshake with {} failed too: its next call is tried as the first", peer.name());
            return Some("OpenSSL could not serve it either: the next call is tried as the first");
        }
        if !may_suit_openssl(cause, said) {
            return None;
        }
        self.make_room(now);
        self.learned.insert(peer.clone(), now.plus_millis(DTLS_PEER_MS));
        let said = said.unwrap_or_default();
        tracing::info!("the DTLS handshake with {} failed ({said}): OpenSSL serves its next call", peer.name());
        Some("OpenSSL serves the next call")
    }

    fn make_room(&mut self, now: Instant) {
        if self.learned.len() < DTLS_PEERS_MAX {
            return;
        }
        self.learned.retain(|_, until| *until > now);
        if self.learned.len() >= DTLS_PEERS_MAX
            && let Some(first) = self.learned.iter().min_by_key(|(_, until)| **until).map(|(peer, _)| peer.clone())
        {
            self.learned.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Option<&str> = Some("peer sent a fatal alert: handshake_failure (40)");

    fn number(at: usize) -> Option<Peer> {
        Some(Peer::Number(format!("{at}")))
    }

    fn is_openssl(backends: &Backends, now: Instant, peer: Option<Peer>) -> bool {
        backends.choose(now, DtlsBackend::Auto, peer).versions(DtlsVersions::V12) == DtlsVersions::OpenSsl
    }

    /// A call whose handshake fails in the fast library.
    fn fail(backends: &mut Backends, now: Instant, at: usize) {
        let choice = backends.choose(now, DtlsBackend::Auto, number(at));
        assert!(backends.ended(now, &choice, Cause::DtlsRefused, REFUSED).is_some());
    }

    #[test]
    fn a_peer_is_remembered_for_a_day_from_its_last_handshake() {
        let mut backends = Backends::default();
        let start = Instant::ZERO.plus_millis(5);
        fail(&mut backends, start, 1);
        assert!(is_openssl(&backends, start, number(1)) && !is_openssl(&backends, start, number(2)));
        let later = start.plus_millis(DTLS_PEER_MS - 1);
        let choice = backends.choose(later, DtlsBackend::Auto, number(1));
        backends.connected(later, &choice);
        assert!(is_openssl(&backends, start.plus_millis(DTLS_PEER_MS + 1), number(1)));
        assert!(!is_openssl(&backends, later.plus_millis(DTLS_PEER_MS), number(1)));
    }

    #[test]
    fn only_a_refusal_that_openssl_could_mend_is_learned_from_and_only_where_nothing_is_written() {
        let mut backends = Backends::default();
        for (wanted, cause, said) in [
            (DtlsBackend::Auto, Cause::DtlsTimeout, Some("handshake timeout")),
            (DtlsBackend::Auto, Cause::DtlsFingerprintMismatch, Some("certificate has another fingerprint")),
            (DtlsBackend::Auto, Cause::DtlsRefused, Some("no SRTP profile in common")),
            (DtlsBackend::Auto, Cause::DtlsRefused, None),
            (DtlsBackend::Dimpl, Cause::DtlsRefused, REFUSED),
            (DtlsBackend::Openssl, Cause::DtlsRefused, REFUSED),
        ] {
            let choice = backends.choose(Instant::ZERO, wanted, number(1));
            assert_eq!(backends.ended(Instant::ZERO, &choice, cause, said), None, "{wanted:?} {cause:?} {said:?}");
            assert!(!is_openssl(&backends, Instant::ZERO, number(1)));
        }
        let stranger = backends.choose(Instant::ZERO, DtlsBackend::Auto, None);
        assert_eq!(backends.ended(Instant::ZERO, &stranger, Cause::DtlsRefused, REFUSED), None);
    }

    #[test]
    fn a_peer_that_neither_library_can_serve_is_forgotten() {
        let mut backends = Backends::default();
        fail(&mut backends, Instant::ZERO, 1);
        let choice = backends.choose(Instant::ZERO, DtlsBackend::Auto, number(1));
        assert!(backends.ended(Instant::ZERO, &choice, Cause::DtlsRefused, Some("no shared cipher")).is_some());
        assert!(!is_openssl(&backends, Instant::ZERO, number(1)));
    }

    #[test]
    fn past_the_limit_the_longest_unheard_peer_is_forgotten() {
        let mut backends = Backends::default();
        for at in 0..=DTLS_PEERS_MAX {
            fail(&mut backends, Instant::ZERO.plus_millis(at as u64), at);
        }
        let now = Instant::ZERO.plus_millis(DTLS_PEERS_MAX as u64);
        assert_eq!(backends.learned.len(), DTLS_PEERS_MAX);
        assert!(!is_openssl(&backends, now, number(0)) && is_openssl(&backends, now, number(1)));
    }
}
