//! DTLS datagrams wait here when a turn has had its share of them, so that audio keeps its pace while many calls begin.
//!
//! ```text
//! packet ── DTLS? ──yes── share left, none waits ──────────────> bridge
//!              │     └─── else ──> waiting ─────────────────────> bridge, in a later turn, in the order they came
//!              └──no── media, and DTLS of its call waits that may bring the keys? ──yes──> waiting, behind it
//!                                                                             └────no──> bridge
//! ```
//!
//! A peer speaks right behind its last flight. Media that overtook it would find no keys and be lost, with it 20 ms until the next packet;
//! and so would the other leg's that come meanwhile. Only before a leg has its keys: DTLS that comes later, from whomever, keeps no
//! audio waiting.
//!
//! A turn that leaves some waiting is followed by the next one at once: handshakes get all time that audio leaves, in small pieces.
//!
//! Why a number of datagrams and not of microseconds: nobody has to read a clock in the middle of a turn, and a run can be replayed.

use super::pool::SlotKey;
use crate::limits::{HANDSHAKES_WAITING_MAX, TURN_HANDSHAKES_MAX};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// DTLS that waits, and what this turn may still handle of it.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    waiting: VecDeque<Waiting>,
    left: usize,
}

/// Why one waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// DTLS of a leg without keys: media of its bridge wait behind it.
    Keys,
    /// DTLS of a leg that has them.
    Dtls,
    /// Media that came behind [`Kind::Keys`]. They take nothing of a turn's share.
    Media,
}

/// One datagram.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Why.
    pub(super) kind: Kind,
    /// Whose.
    pub(super) key: SlotKey,
    /// Which of the bridge's sockets it came to.
    pub(super) place: u8,
    /// From where.
    pub(super) from: SocketAddr,
    /// What.
    pub(super) datagram: Box<[u8]>,
}

impl Handshakes {
    /// A turn begins.
    pub(super) fn begin_turn(&mut self) {
        self.left = TURN_HANDSHAKES_MAX;
    }

    /// Whether a datagram that has just come may be handled: this turn has some of its share left, and nobody came before.
    pub(super) fn admits(&mut self) -> bool {
        let admits = self.left > 0 && self.waiting.is_empty();
        self.left -= usize::from(admits);
        admits
    }

    /// Keeps one for later. False when too many wait: its sender will repeat it.
    pub(super) fn wait(&mut self, kind: Kind, key: SlotKey, place: u8, from: SocketAddr, datagram: &[u8]) -> bool {
        // Whoever sends media before there are keys takes no room from others' handshakes.
        let room = if kind == Kind::Media { HANDSHAKES_WAITING_MAX / 2 } else { HANDSHAKES_WAITING_MAX };
        let has_room = self.waiting.len() < room;
        if has_room {
            self.waiting.push_back(Waiting { kind, key, place, from, datagram: datagram.into() });
        }
        has_room
    }

    /// The next one that waits, as far as this turn's share goes.
    pub(super) fn next(&mut self) -> Option<Waiting> {
        let cost = usize::from(self.waiting.front()?.kind != Kind::Media);
        self.left = self.left.checked_sub(cost)?;
        self.waiting.pop_front()
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{Duration, Instant};

    const KEY: SlotKey = SlotKey { index: 3, generation: 1 };

    fn wait(handshakes: &mut Handshakes, byte: u8) -> bool {
        wait_as(handshakes, Kind::Keys, byte)
    }

    fn wait_as(handshakes: &mut Handshakes, kind: Kind, byte: u8) -> bool {
        handshakes.wait(kind, KEY, 0, "192.0.2.1:4000".parse().unwrap(), &[byte])
    }

    #[test]
    fn media_that_wait_leave_half_of_the_room_to_handshakes() {
        let mut handshakes = Handshakes::default();
        let media = (0..HANDSHAKES_WAITING_MAX).filter(|_| wait_as(&mut handshakes, Kind::Media, 1)).count();
        let keys = (0..HANDSHAKES_WAITING_MAX).filter(|_| wait(&mut handshakes, 2)).count();
        assert_eq!((media, keys), (HANDSHAKES_WAITING_MAX / 2, HANDSHAKES_WAITING_MAX - HANDSHAKES_WAITING_MAX / 2));
    }

    #[test]
    fn media_wait_for_the_keys_before_them_and_take_nothing_of_the_share() {
        let mut handshakes = Handshakes::default();
        for byte in 0..TURN_HANDSHAKES_MAX as u8 + 1 {
            assert!(wait(&mut handshakes, byte) && wait_as(&mut handshakes, Kind::Media, 100 + byte));
        }
        handshakes.begin_turn();
        let turn: Vec<u8> = std::iter::from_fn(|| handshakes.next()).map(|waiting| waiting.datagram[0]).collect();
        assert_eq!(turn, [0, 100, 1, 101, 2, 102], "with the last keys come the media behind them");
        handshakes.begin_turn();
        assert_eq!(std::iter::from_fn(|| handshakes.next()).count(), 2);
        assert!(handshakes.is_empty() && handshakes.next().is_none() && handshakes.admits());
    }

    #[test]
    fn a_turn_handles_its_share_and_the_rest_keeps_its_order() {
        let mut handshakes = Handshakes::default();
        handshakes.begin_turn();
        assert_eq!((0..20).filter(|_| handshakes.admits()).count(), TURN_HANDSHAKES_MAX);
        for byte in 0..10 {
            assert!(wait(&mut handshakes, byte));
        }
        assert!(handshakes.next().is_none(), "the share is used up");
        let mut seen = Vec::new();
        while !handshakes.is_empty() {
            handshakes.begin_turn();
            let before = seen.len();
            while let Some(waiting) = handshakes.next() {
                seen.push(waiting.datagram[0]);
            }
            assert!(seen.len() - before <= TURN_HANDSHAKES_MAX);
            // One that comes now is behind those that wait.
            assert_eq!(handshakes.admits(), handshakes.is_empty() && seen.len() - before < TURN_HANDSHAKES_MAX);
        }
        assert_eq!(seen, (0..10).collect::<Vec<u8>>());
    }

    #[test]
    fn no_more_wait_than_the_limit_says() {
        let mut handshakes = Handshakes::default();
        assert_eq!(
            (0..HANDSHAKES_WAITING_MAX + 5).filter(|_| wait(&mut handshakes, 0)).count(),
            HANDSHAKES_WAITING_MAX
        );
    }

    /// What one datagram of a handshake takes at most (a certificate checked, a key agreed, a signature made), and a frame of audio.
    const HANDSHAKE: Duration = Duration::from_micros(400);
    const FRAME: Duration = Duration::from_micros(60);

    /// The worst lateness of 200 running calls, 20 ms apart each and spread evenly, while `flood` handshakes are there from the start.
    fn worst_lateness(flood: usize, is_budgeted: bool) -> Duration {
        let mut handshakes = Handshakes::default();
        (0..flood).for_each(|_| assert!(wait(&mut handshakes, 0)));
        let mut due: Vec<Instant> = (0..200).map(|call| Instant::ZERO + Duration::from_micros(100 * call)).collect();
        let (mut now, mut worst) = (Instant::ZERO, Duration::ZERO);
        while now < Instant::from_millis(1_000) {
            for due in &mut due {
                if *due <= now {
                    worst = worst.max(now.since(*due));
                    *due = due.plus_millis(20);
                    now = now + FRAME;
                }
            }
            handshakes.begin_turn();
            while let Some(_datagram) = handshakes.next() {
                now = now + HANDSHAKE;
                if !is_budgeted {
                    handshakes.begin_turn();
                }
            }
            now = now + Duration::from_micros(50);
        }
        assert!(handshakes.is_empty(), "handshakes get what audio leaves");
        worst
    }

    #[test]
    fn running_calls_keep_their_pace_while_hundreds_of_calls_begin_at_once() {
        let calm = worst_lateness(0, true);
        assert!(worst_lateness(500, true) < calm + 2 * HANDSHAKE * TURN_HANDSHAKES_MAX as u32);
        assert!(worst_lateness(500, false) > Duration::from_millis(150), "without the share the audio would stop");
    }
}
