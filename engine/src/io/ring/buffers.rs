//! The receive buffers that all sockets of a worker share.
//!
//! A buffer is in one of three places: provided to the kernel, lent out with a datagram in it, or spare. The kernel takes them in turn, so
//! how many are outside the spare stack decides whether it finds them in the cache: four times the most that lately came in one
//! turn, and never more than two for each open socket. Where that is too few (a thread that was held up), receives end and are armed
//! again, nothing is lost, and for a while there are as many as there may be.
//!
//! Why one ring for all: a ring per socket would have to be as large as that socket's burst; shared, bursts even out.

use super::super::address::RawAddress;
use super::super::socket::CONTROL_BYTES;
use super::super::system::Arena;
use crate::limits::DATAGRAM_BYTES_MAX;
use crate::prefetch::prefetch_bytes;
use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

/// What the kernel writes before the datagram: `io_uring_recvmsg_out`, then the source's address, then a control message where one
/// was asked for.
pub(super) const HEADER_BYTES: usize = 16 + NAME_BYTES + CONTROL_BYTES;
/// Room for the source's address: `sockaddr_in6`, rounded up so that the datagram is aligned to 16.
pub(super) const NAME_BYTES: usize = 32;
/// Distance of two buffers.
const STRIDE_BYTES: usize = (HEADER_BYTES + DATAGRAM_BYTES_MAX).next_multiple_of(64);
/// The one buffer group.
pub(super) const GROUP: u16 = 0;
/// Buffers in circulation however few sockets there are: two bursts of a flooded one.
const BUFFERS_MIN: usize = 128;
/// Buffers for each datagram of the largest turn.
const BUFFERS_PER_DATAGRAM: usize = 4;
/// Turns after which a large one is forgotten, or twice as many: one to four seconds.
const ROUND_TURNS: u32 = 2_048;

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
    /// The most that may circulate.
    limit: usize,
    /// Datagrams of the largest turn of this round and of the one before, and turns of this one.
    peak: usize,
    peak_before: usize,
    turns: u32,
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
            limit: 0,
            peak: 0,
            peak_before: 0,
            turns: 0,
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

    /// There are `sockets` sockets.
    pub(super) fn want(&mut self, sockets: usize) {
        self.limit = (2 * sockets).max(BUFFERS_MIN).min(usize::from(self.entries));
        self.circulate();
    }

    /// A turn brought `datagrams`.
    pub(super) fn turned(&mut self, datagrams: usize) {
        self.turns += 1;
        if self.turns == ROUND_TURNS {
            (self.turns, self.peak_before) = (0, std::mem::take(&mut self.peak));
        } else if datagrams <= self.peak {
            return;
        }
        self.peak = self.peak.max(datagrams);
        self.circulate();
    }

    /// A datagram found no buffer.
    pub(super) fn ran_out(&mut self) {
        self.peak = usize::from(self.entries);
        self.circulate();
    }

    fn circulate(&mut self) {
        let wanted = BUFFERS_PER_DATAGRAM * self.peak.max(self.peak_before);
        self.wanted = wanted.max(BUFFERS_MIN).min(self.limit);
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

    /// Asks for what the kernel wrote into a buffer.
    pub(super) fn prefetch(&self, id: u16, len: usize) {
        prefetch_bytes(self.bytes.pointer(usize::from(id) * STRIDE_BYTES), len);
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

/// Reads what the kernel wrote before the datagram (`io_uring_recvmsg_out`: lengths of name, control data and payload, and
/// flags). Answers source and the lengths of control data and datagram; `None` when it was cut off or has no usable source.
pub(super) fn parse(buffer: &[u8], len: usize) -> Option<(SocketAddr, usize, usize)> {
    let field = |index: usize| buffer[4 * index..4 * index + 4].try_into().map(u32::from_ne_bytes).unwrap_or(0);
    let (name_bytes, control_bytes, payload_bytes) = (field(0) as usize, field(1) as usize, field(2) as usize);
    let flags = field(3) as i32;
    if len < HEADER_BYTES || flags & libc::MSG_TRUNC != 0 || payload_bytes > buffer.len() - HEADER_BYTES {
        return None;
    }
    let from = RawAddress::parse(&buffer[16..][..name_bytes.min(NAME_BYTES)])?;
    Some((from, control_bytes.min(CONTROL_BYTES), payload_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Turns of `datagrams` each; answers how many buffers circulate afterwards.
    fn turns(buffers: &mut Buffers, count: u32, datagrams: usize) -> usize {
        for _ in 0..count {
            buffers.turned(datagrams);
            let lent: Vec<u16> = (0..datagrams.min(buffers.circulating) as u16).collect();
            // Which buffers the kernel would have taken does not matter to how many there are.
            lent.into_iter().for_each(|id| buffers.recycle(id));
        }
        buffers.circulating
    }

    #[test]
    fn buffers_follow_the_largest_turn_and_forget_it() {
        let mut buffers = Buffers::new(4_096).unwrap();
        buffers.want(1_000);
        assert_eq!(buffers.circulating, BUFFERS_MIN);
        assert_eq!(turns(&mut buffers, 1, 100), 400);
        assert_eq!(turns(&mut buffers, 1, 900), 2_000, "never more than two for each socket");
        assert_eq!(turns(&mut buffers, 3 * ROUND_TURNS, 50), 200);
        assert_eq!(turns(&mut buffers, 3 * ROUND_TURNS, 1), BUFFERS_MIN);
        buffers.ran_out();
        assert_eq!(buffers.circulating, 2_000, "what ran short is given all there may be");
        buffers.want(10);
        assert_eq!(turns(&mut buffers, 1, 0).min(buffers.wanted), BUFFERS_MIN);
    }

    #[test]
    fn an_idle_ring_still_forgets() {
        let mut buffers = Buffers::new(1_024).unwrap();
        buffers.want(500);
        turns(&mut buffers, 1, 200);
        turns(&mut buffers, 2 * ROUND_TURNS, 0);
        assert_eq!(buffers.wanted, BUFFERS_MIN);
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_a_panic(head in proptest::collection::vec(any::<u8>(), 48), len in 0usize..2000) {
            let mut buffer = vec![0u8; HEADER_BYTES + DATAGRAM_BYTES_MAX];
            buffer[..48].copy_from_slice(&head);
            if let Some((_, control_bytes, payload_bytes)) = parse(&buffer, len) {
                prop_assert!(control_bytes <= CONTROL_BYTES && payload_bytes <= DATAGRAM_BYTES_MAX);
            }
        }
    }
}
