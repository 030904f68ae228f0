//! Datagrams on their way out: a bounded pool of slots, each with room for the header that a raw socket wants.

use super::super::SENDS_MAX;
use super::super::address::RawAddress;
use super::super::system::Arena;
use super::sources::UDP_BYTES;
use crate::limits::DATAGRAM_BYTES_MAX;
use std::io;

/// Before a datagram: room for UDP's header, rounded up so that the datagram is aligned to 16.
const HEAD_BYTES: usize = UDP_BYTES.next_multiple_of(16);
/// Distance of two slots.
const SLOT_BYTES: usize = (HEAD_BYTES + DATAGRAM_BYTES_MAX).next_multiple_of(64);

/// The slots. One belongs to the kernel from `send` to its completion.
pub(super) struct Sends {
    bytes: Arena,
    pub(super) addresses: Box<[RawAddress]>,
    pub(super) sockets: Box<[u32]>,
    pub(super) free: Vec<u16>,
    /// Slots in the submission queue.
    pub(super) queued: Vec<u16>,
    /// Handed over since the last turn.
    pub(super) sent: u64,
}

impl Sends {
    pub(super) fn new() -> io::Result<Sends> {
        Ok(Sends {
            bytes: Arena::new(SENDS_MAX * SLOT_BYTES)?,
            addresses: vec![RawAddress::default(); SENDS_MAX].into_boxed_slice(),
            sockets: vec![0; SENDS_MAX].into_boxed_slice(),
            free: (0..SENDS_MAX as u16).rev().collect(),
            queued: Vec::with_capacity(SENDS_MAX),
            sent: 0,
        })
    }

    /// Room for the datagram of a slot.
    pub(super) fn datagram(&mut self, slot: u16) -> &mut [u8] {
        self.bytes.slice(usize::from(slot) * SLOT_BYTES + HEAD_BYTES, DATAGRAM_BYTES_MAX)
    }

    /// A slot's datagram of `len` bytes and the room for UDP's header right before it.
    pub(super) fn packet(&mut self, slot: u16, len: usize) -> &mut [u8] {
        let start = usize::from(slot) * SLOT_BYTES + HEAD_BYTES - UDP_BYTES;
        self.bytes.slice(start, UDP_BYTES + len.min(DATAGRAM_BYTES_MAX))
    }

    /// Where a slot's datagram goes, as the kernel reads it.
    pub(super) fn address(&mut self, slot: u16) -> *const libc::sockaddr {
        self.addresses[usize::from(slot)].as_mut_ptr().cast_const().cast()
    }

    /// Keeps the memory for ever.
    pub(super) fn leak(&mut self) {
        self.bytes.leak();
    }
}
