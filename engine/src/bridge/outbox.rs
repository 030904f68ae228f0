//! Packets that a flow wrote and `poll_output` has not handed out yet.
//!
//! One piece of memory, filled front to back. It is there only between the input that causes packets and the drain that follows it: the
//! bridges of one thread lend each other the same piece, which so stays in the innermost cache. Why not one buffer per packet: what one
//! input causes is usually one small packet, rarely (a late wake-up) a handful, and never more than this holds. Why not a piece for each
//! bridge: 2.5 KiB of each call, and five cache lines of each packet, that hold nothing for 19 of 20 ms.

use super::Port;
use crate::limits::DATAGRAM_BYTES_MAX;
use std::cell::Cell;
use std::net::SocketAddr;

/// Bytes of an outbox: one datagram of the largest size and two packets of speech, or ten of these.
const OUTBOX_BYTES_MAX: usize = DATAGRAM_BYTES_MAX + 500;

/// Packets of an outbox. Past either limit a packet is not written, and counted as unsent.
const OUTBOX_PACKETS_MAX: usize = 16;
const _: () = assert!(OUTBOX_BYTES_MAX <= u16::MAX as usize);

thread_local! {
    /// The piece that no bridge of this thread has packets in. One is enough: a worker drains each bridge before it goes on to the next.
    static SPARE_ROOM: Cell<Option<Box<Room>>> = const { Cell::new(None) };
}

/// One packet in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    port: Port,
    to: SocketAddr,
    start: u16,
    len: u16,
}

/// Packets waiting for `poll_output`, oldest first.
#[derive(Default)]
pub(super) struct Outbox {
    /// Where they are, while there are any.
    room: Option<Box<Room>>,
    unsent: u64,
}

struct Room {
    used: usize,
    next_out: usize,
    next_in: usize,
    entries: [Option<Entry>; OUTBOX_PACKETS_MAX],
    bytes: [u8; OUTBOX_BYTES_MAX],
}

impl Outbox {
    /// Room to write one packet of at most `bytes_max`, tag included; `commit` keeps it.
    pub(super) fn slot(&mut self, bytes_max: usize) -> Option<&mut [u8]> {
        let room = self.room.get_or_insert_with(Room::take);
        if room.next_in == OUTBOX_PACKETS_MAX || room.bytes.len() - room.used < bytes_max {
            self.unsent += 1;
            return None;
        }
        Some(&mut room.bytes[room.used..])
    }

    /// Keeps the first `len` bytes of the last slot.
    pub(super) fn commit(&mut self, port: Port, to: SocketAddr, len: usize) {
        let Some(room) = &mut self.room else { return };
        room.entries[room.next_in] = Some(Entry { port, to, start: room.used as u16, len: len as u16 });
        room.next_in += 1;
        room.used += len;
    }

    /// Copies the oldest packet into `out`.
    pub(super) fn pop(&mut self, out: &mut [u8]) -> Option<(Port, SocketAddr, usize)> {
        let popped = self.room.as_mut()?.pop(out);
        if self.is_empty() {
            SPARE_ROOM.set(self.room.take().map(Room::emptied));
        }
        popped
    }

    pub(super) fn is_empty(&self) -> bool {
        self.room.as_ref().is_none_or(|room| room.next_out == room.next_in)
    }

    /// Packets that found no room since the last call.
    pub(super) fn take_unsent(&mut self) -> u64 {
        core::mem::take(&mut self.unsent)
    }
}

impl Room {
    /// This thread's spare one, else a new one.
    fn take() -> Box<Room> {
        let spare = SPARE_ROOM.take();
        spare.unwrap_or_else(|| {
            Box::new(Room {
                used: 0,
                next_out: 0,
                next_in: 0,
                entries: [None; OUTBOX_PACKETS_MAX],
                bytes: [0; OUTBOX_BYTES_MAX],
            })
        })
    }

    /// The packets are gone: the next bridge may have it.
    fn emptied(mut self: Box<Room>) -> Box<Room> {
        (self.used, self.next_in, self.next_out) = (0, 0, 0);
        self
    }

    fn pop(&mut self, out: &mut [u8]) -> Option<(Port, SocketAddr, usize)> {
        let Entry { port, to, start, len } = self.entries[..self.next_in].get_mut(self.next_out)?.take()?;
        let (start, len) = (usize::from(start), usize::from(len));
        out[..len].copy_from_slice(&self.bytes[start..start + len]);
        self.next_out += 1;
        Some((port, to, len))
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
        let mut outbox = Outbox::default();
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
    fn a_full_outbox_refuses_and_counts_and_is_usable_after_a_drain() {
        let mut outbox = Outbox::default();
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
