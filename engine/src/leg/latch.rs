//! Where the peer of an rtp leg is: where its description says, or where its packets come from (symmetric RTP, RFC 4961).
//!
//! | a packet comes from | plain RTP | SRTP |
//! |---|---|---|
//! | the described address | played; whoever was taken in its place is left | played; the stream returns to it |
//! | the address that was taken | played | played |
//! | elsewhere, and the described address has not spoken yet | the first is taken, once per description, same IP family | taken |
//! | elsewhere, with the stream's SSRC, after [`SILENCE_MS`] without a packet | taken: a NAT forgot its binding | taken |
//! | elsewhere, otherwise | `UnknownSource` | taken, if it authenticates |
//! | where the description before pointed, for [`MOVE_MS_MAX`] after a re-INVITE | played, moves nothing | the same |
//!
//! To take is to send there from then on. An SSRC that changes at a known address (a transfer behind it) moves nothing.
//!
//! Why so strict on plain RTP: it authenticates nobody, so every further source that may move our stream is one more chance
//! for a stranger (RFC 7362 §5). The SSRC is the one thing that a sender off the path does not know.

use crate::time::Instant;
use std::net::SocketAddr;

/// Time in which packets from the address before a re-INVITE may still arrive. They are played, and move nothing.
pub(super) const MOVE_MS_MAX: u64 = 2_000;

/// Silence of the peer after which its stream may go on from elsewhere.
pub(super) const SILENCE_MS: u64 = 3_000;

/// Silence of the peer after which its socket is no longer connected to it: long enough for a comfort noise to come, and so much less
/// than [`SILENCE_MS`] that whoever is to be heard then finds an open door.
pub(super) const CONNECTED_SILENCE_MS: u64 = 1_000;
const _: () = assert!(CONNECTED_SILENCE_MS + crate::limits::SWEEP_MS < SILENCE_MS);

/// What is known of the peer's whereabouts under one description.
#[derive(Clone, Debug)]
pub(super) struct Latch {
    described: SocketAddr,
    /// RTP came from the described address: nobody else is needed.
    is_confirmed: bool,
    /// The other source that was taken.
    taken: Option<SocketAddr>,
    /// Where RTP came from under the description before, and until when that is no news.
    previous: Option<(SocketAddr, Instant)>,
    /// When the last packet from `whereabouts` came.
    heard_at: Option<Instant>,
}

/// What a packet is, by its source alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The peer, where it is thought to be.
    Known,
    /// The peer, where it was before a re-INVITE.
    Straggler,
    /// The described address, while another is taken.
    Described,
    /// Another source that may be taken once its packet proves valid.
    Takeable,
    /// A stranger.
    Stranger,
}

impl Latch {
    pub(super) fn new(described: SocketAddr) -> Latch {
        Latch { described, is_confirmed: false, taken: None, previous: None, heard_at: None }
    }

    /// A later description: the same address changes nothing, another begins anew.
    pub(super) fn redescribe(&mut self, now: Instant, described: SocketAddr) {
        if described != self.described {
            let previous = Some((self.whereabouts(), now.plus_millis(MOVE_MS_MAX)));
            *self = Latch { previous, ..Latch::new(described) };
        }
    }

    /// Where RTP goes.
    pub(super) fn whereabouts(&self) -> SocketAddr {
        self.taken.unwrap_or(self.described)
    }

    /// The one address from which anything would be played now: the described one, while it speaks.
    pub(super) fn only_source(&self, now: Instant) -> Option<SocketAddr> {
        let is_heard = self.heard_at.is_some_and(|at| now < at.plus_millis(CONNECTED_SILENCE_MS));
        let has_moved = self.taken.is_some() || self.previous.is_some_and(|(_, until)| now < until);
        (self.is_confirmed && is_heard && !has_moved).then_some(self.described)
    }

    /// Judges a source. `is_authentic`: its packets are proven by a key; `is_same_stream`: it has the SSRC of the stream.
    pub(super) fn judge(&self, now: Instant, from: SocketAddr, is_authentic: bool, is_same_stream: bool) -> Origin {
        if from == self.whereabouts() {
            return Origin::Known;
        }
        if from == self.described {
            return Origin::Described;
        }
        if self.previous.is_some_and(|(address, until)| from == address && now < until) {
            return Origin::Straggler;
        }
        let is_first = !self.is_confirmed && self.taken.is_none() && from.is_ipv4() == self.described.is_ipv4();
        let is_silent = self.heard_at.is_some_and(|at| at.plus_millis(SILENCE_MS) <= now);
        match is_authentic || is_first || (is_same_stream && is_silent) {
            true => Origin::Takeable,
            false => Origin::Stranger,
        }
    }

    /// Books a valid packet of `origin`; answers whether the stream moves with it.
    pub(super) fn accept(&mut self, now: Instant, from: SocketAddr, origin: Origin) -> bool {
        match origin {
            Origin::Known => {
                self.is_confirmed |= from == self.described;
                self.heard_at = Some(now);
            }
            Origin::Described => {
                (self.is_confirmed, self.taken, self.heard_at) = (true, None, Some(now));
                return true;
            }
            Origin::Takeable => {
                (self.taken, self.heard_at) = (Some(from), Some(now));
                return true;
            }
            Origin::Straggler | Origin::Stranger => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::ZERO;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 4_000))
    }

    fn hear(latch: &mut Latch, millis: u64, from: SocketAddr, is_same_stream: bool) -> Origin {
        let now = Instant::from_millis(millis);
        let origin = latch.judge(now, from, false, is_same_stream);
        latch.accept(now, from, origin);
        origin
    }

    #[test]
    fn a_nat_that_forgets_its_binding_takes_the_stream_along_after_the_silence() {
        let mut latch = Latch::new(address(1));
        assert_eq!(hear(&mut latch, 0, address(1), true), Origin::Known);
        assert_eq!(hear(&mut latch, 2_999, address(2), true), Origin::Stranger, "the peer is not silent yet");
        assert_eq!(hear(&mut latch, 3_000, address(2), false), Origin::Stranger, "another stream");
        assert_eq!(hear(&mut latch, 3_000, address(2), true), Origin::Takeable);
        assert_eq!(latch.whereabouts(), address(2));
        // And again, as often as it happens.
        assert_eq!(hear(&mut latch, 5_999, address(3), true), Origin::Stranger);
        assert_eq!(hear(&mut latch, 6_000, address(3), true), Origin::Takeable);
        assert_eq!(hear(&mut latch, 6_020, address(1), true), Origin::Described);
        assert_eq!(latch.whereabouts(), address(1));
    }

    #[test]
    fn there_is_one_source_while_the_described_address_speaks_and_nobody_else_may() {
        let mut latch = Latch::new(address(1));
        let only = |latch: &Latch, millis| latch.only_source(Instant::from_millis(millis));
        assert_eq!(only(&latch, 0), None, "nobody has spoken");
        hear(&mut latch, 0, address(2), true);
        assert_eq!(only(&latch, 1), None, "the described address may speak yet");
        hear(&mut latch, 10, address(1), true);
        assert_eq!(only(&latch, 20), Some(address(1)));
        assert_eq!(only(&latch, 10 + CONNECTED_SILENCE_MS), None, "silent: soon another may be it");
        hear(&mut latch, 2_000, address(1), true);
        latch.redescribe(Instant::from_millis(2_001), address(3));
        hear(&mut latch, 2_002, address(3), true);
        assert_eq!(only(&latch, 2_003), None, "the address before is played for a while");
        hear(&mut latch, 2_001 + MOVE_MS_MAX, address(3), true);
        assert_eq!(only(&latch, 2_001 + MOVE_MS_MAX), Some(address(3)));
    }

    #[test]
    fn silence_before_the_first_packet_is_none() {
        let mut latch = Latch::new(address(1));
        assert_eq!(hear(&mut latch, 60_000, address(2), false), Origin::Takeable);
        assert_eq!(hear(&mut latch, 60_020, address(3), false), Origin::Stranger);
        assert_eq!(hear(&mut latch, 90_000, address(3), false), Origin::Stranger);
    }

    #[test]
    fn what_authenticates_is_followed_at_once_except_from_where_it_was_before() {
        let mut latch = Latch::new(address(1));
        assert_eq!(latch.judge(START, address(2), true, false), Origin::Takeable);
        latch.accept(START, address(2), Origin::Takeable);
        latch.redescribe(START, address(9));
        assert_eq!(latch.judge(START, address(2), true, true), Origin::Straggler);
        assert!(!latch.accept(START, address(2), Origin::Straggler));
        assert_eq!(latch.whereabouts(), address(9));
        assert_eq!(latch.judge(START.plus_millis(MOVE_MS_MAX), address(2), true, true), Origin::Takeable);
    }

    #[test]
    fn the_same_description_again_changes_nothing() {
        let mut latch = Latch::new(address(1));
        latch.accept(START, address(2), Origin::Takeable);
        latch.redescribe(START, address(1));
        assert_eq!(latch.whereabouts(), address(2));
    }

    #[test]
    fn another_ip_family_is_not_taken() {
        let latch = Latch::new(address(1));
        let v6 = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 4_000));
        assert_eq!(latch.judge(START, v6, false, false), Origin::Stranger);
    }
}
