//! Packets that a flow wrote and `poll_output` has not handed out yet.
//!
//! One piece of memory per bridge, filled front to back and empty again after each drain. Why not one buffer per packet: what
//! one input causes is usually one small packet, rarely (a late wake-up) a handful, and never more than this holds. Room for a handful, or for
//! a datagram of the largest size, is taken by the bridge that first needs it, and kept.

use super::Port;
use crate::limits::DATAGRAM_BYTES_MAX;
use crate::prefetch::prefetch;
use std::net::SocketAddr;

/// Bytes of an outbox: one datagram of the largest size and two packets of speech, or ten of these. 4,096 bridges take 8 MB.
const OUTBOX_BYTES_MAX: usize = DATAGRAM_BYTES_MAX + 500;

/// What it begins with: two packets of speech, of which the second may be the longest that an encoder makes.
const OUTBOX_BYTES_FIRST: usize = 1_000;
const _: () = assert!(OUTBOX_BYTES_FIRST < OUTBOX_BYTES_MAX);

/// A packet of speech at 20 to 32 kbit/s, with header and tag.
const FIRST_BYTES: usize = 128;

/// Packets of an outbox. Past either limit a packet is not written, and counted as unsent.
const OUTBOX_PACKETS_MAX: usize = 16;
const _: () = assert!(OUTBOX_BYTES_MAX <= u16::MAX as usize);

/// One packet in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    port: Port,
    to: SocketAddr,
    start: u16,
    len: u16,
}

/// Packets waiting for `poll_output`, oldest first.
pub(super) struct Outbox {
    bytes: Box<[u8]>,
    used: usize,
    entries: [Option<Entry>; OUTBOX_PACKETS_MAX],
    next_out: usize,
    next_in: usize,
    unsent: u64,
}

impl Outbox {
    pub(super) fn new() -> Outbox {
        Outbox {
            bytes: vec![0; OUTBOX_BYTES_FIRST].into_boxed_slice(),
            used: 0,
            entries: [None; OUTBOX_PACKETS_MAX],
            next_out: 0,
            next_in: 0,
            unsent: 0,
        }
    }

    /// Asks for the places of the first packet: there is rarely a second.
    pub(super) fn prefetch(&self) {
        prefetch(&self.bytes);
        prefetch(&self.used);
        prefetch(&self.next_out);
        prefetch(&self.entries[0]);
    }

    /// Asks for the bytes of the first packet.
    pub(super) fn prefetch_bytes(&self) {
        prefetch(&self.bytes[..FIRST_BYTES]);
    }

    /// Room to write one packet of at most `bytes_max`, tag included; `commit` keeps it.
    pub(super) fn slot(&mut self, bytes_max: usize) -> Option<&mut [u8]> {
        if self.bytes.len() - self.used < bytes_max {
            self.grow();
        }
        if self.next_in == OUTBOX_PACKETS_MAX || self.bytes.len() - self.used < bytes_max {
            self.unsent += 1;
            return None;
        }
        Some(&mut self.bytes[self.used..])
    }

    /// Takes the rest of its room, once.
    #[cold]
    fn grow(&mut self) {
        if self.bytes.len() < OUTBOX_BYTES_MAX {
            let mut bytes = vec![0; OUTBOX_BYTES_MAX].into_boxed_slice();
            bytes[..self.used].copy_from_slice(&self.bytes[..self.used]);
            self.bytes = bytes;
        }
    }

    /// Keeps the first `len` bytes of the last slot.
    pub(super) fn commit(&mut self, port: Port, to: SocketAddr, len: usize) {
        self.entries[self.next_in] = Some(Entry { port, to, start: self.used as u16, len: len as u16 });
        self.next_in += 1;
        self.used += len;
    }

    /// Copies the oldest packet into `out`.
    pub(super) fn pop(&mut self, out: &mut [u8]) -> Option<(Port, SocketAddr, usize)> {
        if self.next_out == self.next_in {
            return None;
        }
        let Entry { port, to, start, len } = self.entries[self.next_out].take()?;
        let (start, len) = (usize::from(start), usize::from(len));
        out[..len].copy_from_slice(&self.bytes[start..start + len]);
        self.next_out += 1;
        if self.is_empty() {
            (self.used, self.next_in, self.next_out) = (0, 0, 0);
        }
        Some((port, to, len))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next_out == self.next_in
    }

    /// Packets that found no room since the last call.
    pub(super) fn take_unsent(&mut self) -> u64 {
        core::mem::take(&mut self.unsent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::LegName;
    use crate::leg::Component;

    const PORT: Port = Port { leg: LegName::A, component: Component::Rtp };

    fn address() -> SocketAddr {
        "192.0.2.1:4000".parse().unwrap()
    }

    #[test]
    fn packets_come_out_in_order_and_unchanged() {
        let mut outbox = Outbox::new();
        for byte in 1..=3 {
            outbox.slot(200).unwrap()[..100].fill(byte);
            outbox.commit(PORT, address(), 100);
        }
        let mut out = [0; DATAGRAM_BYTES_MAX];
        for byte in 1..=3 {
            assert_eq!(outbox.pop(&mut out), Some((PORT, address(), 100)));
            assert!(out[..100].iter().all(|&b| b == byte));
        }
        assert!(outbox.is_empty());
        assert_eq!(outbox.pop(&mut out), None);
    }

    #[test]
    fn what_waits_survives_that_more_room_is_taken() {
        let mut outbox = Outbox::new();
        outbox.slot(300).unwrap()[..300].fill(1);
        outbox.commit(PORT, address(), 300);
        assert_eq!(outbox.bytes.len(), OUTBOX_BYTES_FIRST);
        outbox.slot(DATAGRAM_BYTES_MAX).unwrap()[..DATAGRAM_BYTES_MAX].fill(2);
        outbox.commit(PORT, address(), DATAGRAM_BYTES_MAX);
        let mut out = [0; DATAGRAM_BYTES_MAX];
        for (byte, len) in [(1, 300), (2, DATAGRAM_BYTES_MAX)] {
            assert_eq!(outbox.pop(&mut out), Some((PORT, address(), len)));
            assert!(out[..len].iter().all(|&b| b == byte));
        }
    }

    #[test]
    fn a_full_outbox_refuses_and_counts_and_is_usable_after_a_drain() {
        let mut outbox = Outbox::new();
        let mut kept = 0;
        while outbox.slot(60).is_some() {
            outbox.commit(PORT, address(), 60);
            kept += 1;
        }
        assert_eq!((kept, outbox.take_unsent()), (OUTBOX_PACKETS_MAX, 1));
        let mut out = [0; DATAGRAM_BYTES_MAX];
        while outbox.pop(&mut out).is_some() {}
        assert_eq!(outbox.take_unsent(), 0);
        assert!(outbox.slot(DATAGRAM_BYTES_MAX).is_some());
        outbox.commit(PORT, address(), DATAGRAM_BYTES_MAX);
        assert!(outbox.slot(OUTBOX_BYTES_MAX - DATAGRAM_BYTES_MAX).is_some());
        outbox.commit(PORT, address(), OUTBOX_BYTES_MAX - DATAGRAM_BYTES_MAX);
        assert!(outbox.slot(1).is_none());
    }
}
