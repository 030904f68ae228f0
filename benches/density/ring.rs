//! Datagrams of thousands of sockets by io_uring, as cheaply as the kernel allows: for the load generator and for the floor.
//!
//! Multishot receives into one provided buffer ring, registered files, sends whose success is not reported. What the gateway has to
//! care for (strangers, floods, sockets that come and go, kernels that refuse) is absent: every socket here is ours and stays
//! open until the end. With `stamped`, datagrams carry the kernel's receive time, so that a generator that is late does not measure
//! itself.
//!
//! Why not the engine's loop: it is the thing that is measured, and it would hide its own cost in floor and generator alike.

use io_uring::types::{BufRingEntry, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Largest datagram.
pub const DATAGRAM_BYTES_MAX: usize = 1500;

/// Receive buffers; one per socket would be the most that can ever be filled at once.
const BUFFERS: u16 = 4096;
/// Before the datagram, with `stamped`: `io_uring_recvmsg_out`, the source, one control message with a `timespec`.
const OUT_BYTES: usize = 16;
const NAME_BYTES: usize = 16;
const CONTROL_BYTES: usize = 32;
const STRIDE_BYTES: usize = (OUT_BYTES + NAME_BYTES + CONTROL_BYTES + DATAGRAM_BYTES_MAX).next_multiple_of(64);
const GROUP: u16 = 0;

/// Datagrams queued before they are handed over: few, so that the time noted for each is that of its departure.
const SENDS: usize = 8;
const SEND_BYTES: usize = DATAGRAM_BYTES_MAX.next_multiple_of(64);

const SEND: u64 = u64::MAX;

/// What the kernel may hold for one socket.
const RECEIVE_BUFFER_BYTES: libc::c_int = 256 * 1024;

/// A socket of a [`Ring`].
pub type SocketIndex = u32;

/// One datagram, whose bytes were copied out.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Where it came in.
    pub socket: SocketIndex,
    /// Its length.
    pub len: usize,
    /// When the kernel took it, nanoseconds of the real-time clock; 0 unless `stamped`.
    pub at_nanos: u64,
    /// Its source; unspecified unless `stamped`.
    pub from: SocketAddrV4,
}

/// Memory that the kernel reads or writes; freed never, since a ring lives as long as its process.
struct Area {
    start: NonNull<u8>,
    bytes: usize,
}

impl Area {
    fn new(bytes: usize) -> io::Result<Area> {
        let bytes = bytes.next_multiple_of(4096);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a fresh anonymous mapping; no address is asked for.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast()).map(|start| Area { start, bytes }).ok_or(io::ErrorKind::OutOfMemory.into())
    }

    fn pointer(&self, at: usize) -> *mut u8 {
        assert!(at < self.bytes);
        // SAFETY: `at` lies inside the mapping.
        unsafe { self.start.as_ptr().add(at) }
    }

    fn slice(&mut self, at: usize, len: usize) -> &mut [u8] {
        assert!(at + len <= self.bytes);
        // SAFETY: inside the mapping, which is zeroed or written by the kernel, and borrowed through `self` alone. The callers
        // show only what the kernel has handed back.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(at), len) }
    }
}

/// An io_uring instance and its sockets.
pub struct Ring {
    ring: IoUring,
    stamped: bool,
    entries: Area,
    buffers: Area,
    tail: u16,
    sends: Area,
    addresses: Box<[libc::sockaddr_in; SENDS]>,
    queued: usize,
    sockets: Vec<OwnedFd>,
    header: Box<libc::msghdr>,
    to_arm: Vec<SocketIndex>,
    received: VecDeque<(SocketIndex, u16, u32)>,
    /// Sends that the kernel refused.
    pub send_errors: u64,
    /// Errors of receives, such as a peer that has gone.
    pub receive_errors: u64,
    /// Receives that had to be armed again because buffers ran out.
    pub rearmed: u64,
}

impl Ring {
    /// Room for `sockets_max` sockets.
    pub fn new(sockets_max: usize, stamped: bool) -> io::Result<Ring> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(2 * u32::from(BUFFERS))
            .build(1024)?;
        ring.submitter().register_files_sparse(sockets_max as u32)?;
        let entries = Area::new(usize::from(BUFFERS) * size_of::<BufRingEntry>())?;
        // SAFETY: the area holds BUFFERS entries, begins on a page and is never unmapped.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries.pointer(0) as u64, BUFFERS, GROUP, 0)? };
        // SAFETY: `msghdr` and `sockaddr_in` are plain numbers and pointers, for which zero is valid.
        let (mut header, addresses) =
            unsafe { (Box::new(std::mem::zeroed::<libc::msghdr>()), Box::new(std::mem::zeroed())) };
        header.msg_namelen = NAME_BYTES as u32;
        header.msg_controllen = CONTROL_BYTES;
        let mut ring = Ring {
            ring,
            stamped,
            entries,
            buffers: Area::new(usize::from(BUFFERS) * STRIDE_BYTES)?,
            tail: 0,
            sends: Area::new(SENDS * SEND_BYTES)?,
            addresses,
            queued: 0,
            sockets: Vec::with_capacity(sockets_max),
            header,
            to_arm: Vec::new(),
            received: VecDeque::with_capacity(usize::from(BUFFERS)),
            send_errors: 0,
            receive_errors: 0,
            rearmed: 0,
        };
        for buffer in 0..BUFFERS {
            ring.provide(buffer);
        }
        ring.publish();
        Ok(ring)
    }

    /// Opens a socket on loopback; port 0 takes any. Answers its index and port.
    pub fn open(&mut self, port: u16) -> io::Result<(SocketIndex, u16)> {
        let fd = bind(port)?;
        if self.stamped {
            set_option(&fd, libc::SO_TIMESTAMPNS, 1)?;
        }
        let index = self.sockets.len() as SocketIndex;
        self.ring.submitter().register_files_update(index, &[fd.as_raw_fd()])?;
        let bound = port_of(&fd)?;
        self.sockets.push(fd);
        self.to_arm.push(index);
        Ok((index, bound))
    }

    /// Fixes a socket's peer: sends to it are cheaper.
    pub fn connect(&self, socket: SocketIndex, to: SocketAddrV4) -> io::Result<()> {
        let address = raw(to);
        let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        let fd = self.sockets[socket as usize].as_raw_fd();
        // SAFETY: `address` holds `len` bytes of a socket address and lives through the call.
        check(unsafe { libc::connect(fd, (&raw const address).cast(), len) }).map(drop)
    }

    /// Queues a datagram; `to` is `None` on a connected socket.
    pub fn send(&mut self, socket: SocketIndex, to: Option<SocketAddrV4>, datagram: &[u8]) {
        if self.queued == SENDS {
            self.submit();
        }
        let slot = self.queued;
        let room = self.sends.slice(slot * SEND_BYTES, SEND_BYTES);
        room[..datagram.len()].copy_from_slice(datagram);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let mut send = opcode::Send::new(Fixed(socket), room.as_ptr(), datagram.len() as u32).flags(flags);
        if let Some(to) = to {
            self.addresses[slot] = raw(to);
            let address = &raw const self.addresses[slot];
            send = send.dest_addr(address.cast()).dest_addr_len(size_of::<libc::sockaddr_in>() as u32);
        }
        // With MSG_DONTWAIT a UDP send is over when it was handed over, so its slot is free after the next `submit`.
        let send = send.build().flags(squeue::Flags::SKIP_SUCCESS).user_data(SEND);
        self.push(&send);
        self.queued += 1;
    }

    /// Hands over what is queued.
    pub fn submit(&mut self) {
        // A full completion queue answers EBUSY: the next `turn` empties it.
        let _ = self.ring.submitter().submit();
        self.queued = 0;
    }

    /// Hands over what is queued, waits at most `timeout` for `datagrams` to come, and collects what did.
    pub fn turn(&mut self, datagrams: usize, timeout: Duration) -> io::Result<()> {
        self.arm();
        let timeout = Timespec::from(timeout);
        match self.ring.submitter().submit_with_args(datagrams, &SubmitArgs::new().timespec(&timeout)) {
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY)) => {}
            Err(error) => return Err(error),
        }
        self.queued = 0;
        for completion in self.ring.completion() {
            if completion.user_data() == SEND {
                self.send_errors += 1;
                continue;
            }
            let socket = completion.user_data() as SocketIndex;
            if let Some(buffer) = cqueue::buffer_select(completion.flags()) {
                self.received.push_back((socket, buffer, completion.result().max(0) as u32));
            } else if completion.result() < 0 && completion.result() != -libc::ENOBUFS {
                self.receive_errors += 1;
            }
            if !cqueue::more(completion.flags()) {
                self.rearmed += 1;
                self.to_arm.push(socket);
            }
        }
        Ok(())
    }

    /// The next datagram that came, copied into `into`.
    pub fn next(&mut self, into: &mut [u8]) -> Option<Arrival> {
        let (socket, buffer, bytes) = self.received.pop_front()?;
        let filled = self.buffers.slice(usize::from(buffer) * STRIDE_BYTES, bytes as usize);
        let arrival = match self.stamped {
            true => stamped(filled, into, socket),
            false => {
                into[..filled.len()].copy_from_slice(filled);
                let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
                Arrival { socket, len: filled.len(), at_nanos: 0, from }
            }
        };
        self.provide(buffer);
        self.publish();
        Some(arrival)
    }

    fn arm(&mut self) {
        while let Some(socket) = self.to_arm.pop() {
            let receive = match self.stamped {
                true => opcode::RecvMsgMulti::new(Fixed(socket), &raw const *self.header, GROUP).build(),
                false => opcode::RecvMulti::new(Fixed(socket), GROUP).build(),
            };
            self.push(&receive.user_data(u64::from(socket)));
        }
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: what the entry points to belongs to areas and boxes of `self` that live as long as the process' ring.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            let _ = self.ring.submitter().submit();
        }
    }

    fn provide(&mut self, buffer: u16) {
        let index = usize::from(self.tail & (BUFFERS - 1));
        let address = self.buffers.pointer(usize::from(buffer) * STRIDE_BYTES) as u64;
        let entry = self.entries.pointer(index * size_of::<BufRingEntry>()).cast::<BufRingEntry>();
        // SAFETY: `index` is below BUFFERS; entries from `tail` on are ours until `publish`. The fourth field, which is the tail in
        // entry 0, is not touched.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len(STRIDE_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        let base = self.entries.pointer(0).cast::<BufRingEntry>();
        // SAFETY: the first entry's fourth field is the ring's tail, which the kernel only reads.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

/// Reads `io_uring_recvmsg_out`, source and time stamp that stand before a datagram.
fn stamped(filled: &[u8], into: &mut [u8], socket: SocketIndex) -> Arrival {
    let (head, payload) = filled.split_at((OUT_BYTES + NAME_BYTES + CONTROL_BYTES).min(filled.len()));
    let len = payload.len().min(into.len());
    into[..len].copy_from_slice(&payload[..len]);
    let number = |at: usize| head.get(at..at + 8).map_or(0, |b| u64::from_ne_bytes(b.try_into().unwrap_or_default()));
    let name = head.get(OUT_BYTES..OUT_BYTES + 8).unwrap_or(&[0; 8]);
    let from = SocketAddrV4::new([name[4], name[5], name[6], name[7]].into(), u16::from_be_bytes([name[2], name[3]]));
    // `cmsghdr` has 16 bytes, then comes a `timespec`.
    let stamp = OUT_BYTES + NAME_BYTES + 16;
    let control_bytes = head.get(4..8).map_or(0, |b| u32::from_ne_bytes(b.try_into().unwrap_or_default()));
    let at_nanos = if control_bytes == 0 { 0 } else { number(stamp) * 1_000_000_000 + number(stamp + 8) };
    Arrival { socket, len, at_nanos, from }
}

/// Nanoseconds of the real-time clock, which the kernel stamps datagrams with.
pub fn real_nanos() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn bind(port: u16) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the answer is a fresh descriptor that nobody else owns.
    let fd =
        unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?) };
    set_option(&fd, libc::SO_RCVBUF, RECEIVE_BUFFER_BYTES)?;
    let address = raw(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: `address` holds `len` bytes of a socket address and lives through the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(fd)
}

fn port_of(fd: &OwnedFd) -> io::Result<u16> {
    let mut address = raw(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
    let mut len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: `address` has room for `len` bytes; both live through the call.
    check(unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &mut len) })?;
    Ok(u16::from_be(address.sin_port))
}

fn set_option(fd: &OwnedFd, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is `len` bytes long and lives through the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, (&raw const value).cast(), len) }).map(drop)
}

fn raw(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
