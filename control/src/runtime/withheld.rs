//! SIP messages that wait until the store knows how to end their call: an INVITE, its responses, its ACK.
//!
//! Once one of them is out, a peer may believe in a call. If the program dies then, the next run must know of it: so the change goes to
//! the disk first, and the message afterwards. All changes that wait are one write, so a call is held up for as long as the disk takes
//! for one, twice: before its INVITE leaves and before its answer does.
//!
//! Why a limit in time: a disk that stalls must not stop calls. What it costs is what a crash within that time leaves behind.

use crate::call::limits::{WITHHELD_MAX, WITHHELD_MS_MAX};
use crate::sip::transport::Hop;
use engine::time::Instant;
use std::collections::VecDeque;

/// Messages that wait, in the order in which they were to leave.
#[derive(Default)]
pub(super) struct Withheld {
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    change: u64,
    until: Instant,
    hop: Hop,
    bytes: Vec<u8>,
}

impl Withheld {
    /// Takes a message until change number `change` is written.
    pub fn push(&mut self, now: Instant, change: u64, hop: Hop, bytes: Vec<u8>) {
        self.waiting.push_back(Waiting { change, until: now.plus_millis(WITHHELD_MS_MAX), hop, bytes });
    }

    /// The next message that may leave, now that all changes up to `written` are.
    pub fn pop(&mut self, now: Instant, written: u64) -> Option<(Hop, Vec<u8>)> {
        let first = self.waiting.front()?;
        let goes = first.change <= written || first.until <= now || self.waiting.len() > WITHHELD_MAX;
        let leaving = if goes { self.waiting.pop_front() } else { None };
        leaving.map(|first| (first.hop, first.bytes))
    }

    /// When the first of them leaves whatever the store says.
    pub fn deadline(&self) -> Instant {
        self.waiting.front().map_or(Instant::NEVER, |first| first.until)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Whether a message of ours makes its peer believe in a call.
pub(super) fn makes_a_call(bytes: &[u8]) -> bool {
    let is_response = bytes.starts_with(b"SIP/2.0 1") || bytes.starts_with(b"SIP/2.0 2");
    // With the line end of its last header.
    let head = || bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(bytes.len(), |end| end + 2);
    bytes.starts_with(b"INVITE ")
        || bytes.starts_with(b"ACK ")
        || is_response && bytes[..head()].windows(9).any(|window| window == b" INVITE\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_leaves_when_its_change_is_written_and_behind_those_before_it() {
        let (mut withheld, start) = (Withheld::default(), Instant::from_millis(1_000));
        let hop = Hop::udp("192.0.2.1:5060".parse().unwrap());
        for change in [3, 3, 4] {
            withheld.push(start, change, hop.clone(), vec![change as u8]);
        }
        let mut leaves =
            |now, written| std::iter::from_fn(|| Some(withheld.pop(now, written)?.1[0])).collect::<Vec<_>>();
        assert_eq!(leaves(start, 2), [0; 0]);
        assert_eq!(leaves(start, 3), [3, 3]);
        assert_eq!(leaves(start.plus_millis(WITHHELD_MS_MAX - 1), 3), [0; 0]);
        assert_eq!(leaves(start.plus_millis(WITHHELD_MS_MAX), 3), [4]);
        assert_eq!((withheld.deadline(), withheld.is_empty()), (Instant::NEVER, true));
    }

    #[test]
    fn past_the_limit_the_oldest_leaves() {
        let (mut withheld, start) = (Withheld::default(), Instant::from_millis(1_000));
        let hop = Hop::udp("192.0.2.1:5060".parse().unwrap());
        for _ in 0..=WITHHELD_MAX {
            withheld.push(start, 1, hop.clone(), Vec::new());
        }
        assert_eq!(std::iter::from_fn(|| withheld.pop(start, 0)).count(), 1);
        assert_eq!(withheld.deadline(), start.plus_millis(WITHHELD_MS_MAX));
    }

    #[test]
    fn what_belongs_to_an_invite_is_known() {
        for (message, belongs) in [
            ("INVITE sip:a@b SIP/2.0\r\nCSeq: 1 INVITE\r\n\r\n", true),
            ("ACK sip:a@b SIP/2.0\r\nCSeq: 1 ACK\r\n\r\n", true),
            ("SIP/2.0 180 Ringing\r\nCSeq: 1 INVITE\r\n\r\n", true),
            ("SIP/2.0 200 OK\r\nCSeq: 1 INVITE\r\nContent-Length: 3\r\n\r\nv=0", true),
            ("SIP/2.0 200 OK\r\nCSeq: 2 BYE\r\n\r\n INVITE\r\n", false),
            ("SIP/2.0 486 Busy Here\r\nCSeq: 1 INVITE\r\n\r\n", false),
            ("BYE sip:a@b SIP/2.0\r\nCSeq: 2 BYE\r\n\r\n", false),
            ("", false),
        ] {
            assert_eq!(makes_a_call(message.as_bytes()), belongs, "{message}");
        }
    }
}
