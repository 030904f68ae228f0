//! The receive buffers that all sockets of a worker share.
//!
//! A buffer is in one of three places: provided to the kernel, lent out with a datagram in it, or spare. How many are
//! outside the spare stack follows the number of open sockets, two each: a ring that always turned over its largest size
//! would walk through 50 MiB and find none of it in the cache.
//!
//! Why one ring for all: a ring per socket would have to be as large as that socket's burst; shared, bursts even out.

use super::super::system::Arena;
use crate::limits::DATAGRAM_BYTES_MAX;
use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// What the kernel writes before the datagram: `io_uring_recvmsg_out`, then the source's address.
pub(super) const HEADER_BYTES: usize = 16 + NAME_BYTES;
/// Room for the source's address: `sockaddr_in6`, rounded up so that the datagram is aligned to 16.
pub(super) const NAME_BYTES: usize = 32;
/// Distance of two buffers.
const STRIDE_BYTES: usize = (HEADER_BYTES + DATAGRAM_BYTES_MAX).next_multiple_of(64);
/// The one buffer group.
pub(super) const GROUP: u16 = 0;
/// Buffers in circulation however few sockets there are: two bursts of a flooded one.
const BUFFERS_MIN: usize = 128;

/// Buffers and the ring by which the kernel gets them.
#[derive(Debug)]
pub(super) struct Buffers {
    ring: Arena,
    bytes: Arena,
    spare: Vec<u16>,
    entries: u16,
    tail: u16,
    /// Buffers that are not spare, and how many that should be.
    circulating: usize,
    wanted: usize,
}

impl Buffers {
    /// At most `entries` buffers, a power of two up to 32,768.
    pub(super) fn new(entries: u16) -> io::Result<Buffers> {
        debug_assert!(entries.is_power_of_two());
        let count = usize::from(entries);
        Ok(Buffers {
            ring: Arena::new(count * size_of::<BufRingEntry>())?,
            bytes: Arena::new(count * STRIDE_BYTES)?,
            spare: (0..entries).rev().collect(),
            entries,
            tail: 0,
            circulating: 0,
            wanted: 0,
        })
    }

    /// Tells the kernel where the ring is, and gives it the first buffers.
    pub(super) fn register(&mut self, ring: &IoUring) -> io::Result<()> {
        let address = self.ring.pointer(0) as u64;
        // SAFETY: the arena holds `entries` entries, begins on a page, and `Ring` drops it after the io_uring instance,
        // or leaks it when the kernel does not let go.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, self.entries, GROUP, 0)? };
        self.want(0);
        self.publish();
        Ok(())
    }

    /// Keeps enough buffers in circulation for `sockets` sockets.
    pub(super) fn want(&mut self, sockets: usize) {
        self.wanted = (2 * sockets).max(BUFFERS_MIN).min(usize::from(self.entries));
        while self.circulating < self.wanted {
            let Some(id) = self.spare.pop() else { break };
            self.circulating += 1;
            self.provide(id);
        }
    }

    /// Takes back a buffer whose datagram was handled.
    pub(super) fn recycle(&mut self, id: u16) {
        if self.circulating > self.wanted {
            self.circulating -= 1;
            self.spare.push(id);
        } else {
            self.provide(id);
        }
    }

    /// A whole buffer that the kernel has filled and not yet got back.
    pub(super) fn bytes(&mut self, id: u16) -> &mut [u8] {
        self.bytes.slice(usize::from(id) * STRIDE_BYTES, HEADER_BYTES + DATAGRAM_BYTES_MAX)
    }

    /// Keeps the memory for ever.
    pub(super) fn leak(&mut self) {
        self.ring.leak();
        self.bytes.leak();
    }

    fn provide(&mut self, id: u16) {
        let index = usize::from(self.tail & (self.entries - 1));
        let address = self.bytes.pointer(usize::from(id) * STRIDE_BYTES) as u64;
        let entry = self.ring.pointer(index * size_of::<BufRingEntry>()).cast::<BufRingEntry>();
        // SAFETY: `index` is below `entries`; entries from `tail` on belong to us until `publish`, since there are no more
        // buffers than entries. Only address, length and id are written: the fourth field of entry 0 is the tail.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len((HEADER_BYTES + DATAGRAM_BYTES_MAX) as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel what was provided. Call before each system call in which it may receive: it receives in no other.
    pub(super) fn publish(&mut self) {
        let base = self.ring.pointer(0).cast::<BufRingEntry>();
        // SAFETY: `base` is the first entry of the ring, whose fourth field is the tail: two aligned bytes that the kernel
        // only reads.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
