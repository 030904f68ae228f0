//! Datagrams of thousands of sockets by io_uring, as cheaply as the kernel allows: for the floor, and for the load generator's calls that
//! are not up yet. Those that are share sockets (`crowd`), by which this ring sends too.
//!
//! Multishot receives into one provided buffer ring, registered files, sends whose success is not reported. What the gateway has to
//! care for (strangers, floods, kernels that refuse) is absent: every socket here is ours. With `stamped`, datagrams carry their source and
//! the kernel's receive time, so that a generator that is late does not measure itself.
//!
//! Why not the engine's loop: it is the thing that is measured, and it would hide its own cost in floor and generator alike.

use io_uring::types::{BufRingEntry, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Largest datagram.
pub const DATAGRAM_BYTES_MAX: usize = 1500;

/// Receive buffers; one per socket would be the most that can ever be filled at once.
const BUFFERS: u16 = 4096;
/// Their group.
const GROUP: u16 = 0;
/// Before the datagram, with `stamped`: `io_uring_recvmsg_out`, the source, one control message with a `timespec`.
const OUT_BYTES: usize = 16;
const NAME_BYTES: usize = 16;
const CONTROL_BYTES: usize = 32;
const STRIDE_BYTES: usize = (OUT_BYTES + NAME_BYTES + CONTROL_BYTES + DATAGRAM_BYTES_MAX).next_multiple_of(64);

/// Datagrams queued before they are handed over: few, so that the time noted for each is that of its departure.
const SENDS: usize = 8;
const SEND_BYTES: usize = DATAGRAM_BYTES_MAX.next_multiple_of(64);
/// `cmsghdr`, `in_pktinfo`, and the control message of both.
const CONTROL_HEAD_BYTES: usize = 16;
const PKTINFO_BYTES: usize = 12;
const SOURCE_BYTES: usize = CONTROL_HEAD_BYTES + PKTINFO_BYTES.next_multiple_of(8);

/// What completions are known by, beside the number of a socket.
const SEND: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;

/// Turns for which a socket that was left is still heard: what it had is handed over with the next.
const LEFT_TURNS: u32 = 4;

/// What the kernel may hold for one socket.
const RECEIVE_BUFFER_BYTES: libc::c_int = 256 * 1024;

/// Where nobody speaks: the discard port.
const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9);
const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// A socket of a [`Ring`].
pub type SocketIndex = u32;

/// One datagram, in a buffer of the ring until it is [released](Ring::release).
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
    buffer: u16,
    start: usize,
}

/// A completed receive.
struct Filled {
    socket: SocketIndex,
    buffer: u16,
    bytes: usize,
}

/// Memory that the kernel reads or writes; freed never, since a ring lives as long as its process.
pub(super) struct Area {
    start: NonNull<u8>,
    bytes: usize,
}

impl Area {
    pub(super) fn new(bytes: usize) -> io::Result<Area> {
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

    pub(super) fn pointer(&self, at: usize) -> *mut u8 {
        assert!(at < self.bytes);
        // SAFETY: `at` lies inside the mapping.
        unsafe { self.start.as_ptr().add(at) }
    }

    pub(super) fn slice(&mut self, at: usize, len: usize) -> &mut [u8] {
        assert!(at + len <= self.bytes);
        // SAFETY: inside the mapping, which is zeroed or written by the kernel, and borrowed through `self` alone. The callers
        // show only what the kernel has handed back.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(at), len) }
    }
}

/// Buffers that the kernel fills in turn.
struct Pool {
    count: u16,
    entries: Area,
    buffers: Area,
    tail: u16,
}

impl Pool {
    fn new(ring: &IoUring, count: u16) -> io::Result<Pool> {
        let entries = Area::new(usize::from(count) * size_of::<BufRingEntry>())?;
        // SAFETY: the area holds `count` entries, begins on a page and is never unmapped.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries.pointer(0) as u64, count, GROUP, 0)? };
        let buffers = Area::new(usize::from(count) * STRIDE_BYTES)?;
        let mut pool = Pool { count, entries, buffers, tail: 0 };
        (0..count).for_each(|buffer| pool.provide(buffer));
        pool.publish();
        Ok(pool)
    }

    fn provide(&mut self, buffer: u16) {
        let index = usize::from(self.tail & (self.count - 1));
        let address = self.buffers.pointer(usize::from(buffer) * STRIDE_BYTES) as u64;
        let entry = self.entries.pointer(index * size_of::<BufRingEntry>()).cast::<BufRingEntry>();
        // SAFETY: `index` is below `count`; entries from `tail` on are ours until `publish`. The fourth field, which is the tail in
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

/// What says from which of our addresses a datagram leaves.
struct Sources {
    messages: Box<[libc::msghdr; SENDS]>,
    bytes: Box<[libc::iovec; SENDS]>,
    controls: Box<[[u8; SOURCE_BYTES]; SENDS]>,
}

/// An io_uring instance and its sockets.
pub struct Ring {
    ring: IoUring,
    stamped: bool,
    pool: Pool,
    sends: Area,
    addresses: Box<[libc::sockaddr_in; SENDS]>,
    sources: Sources,
    queued: usize,
    sockets: Vec<Option<OwnedFd>>,
    /// Sockets of somebody else's, and their ports.
    adopted: Vec<(u16, SocketIndex)>,
    header: Box<libc::msghdr>,
    to_arm: Vec<SocketIndex>,
    /// Sockets that were left, and the turn after which they are closed.
    left: VecDeque<(SocketIndex, u32)>,
    turns: u32,
    /// What found sockets full that are closed.
    overrun_left: u64,
    received: VecDeque<Filled>,
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
        // SAFETY: `msghdr`, `sockaddr_in` and `iovec` are plain numbers and pointers, for which zero is valid.
        let (mut header, addresses, messages, bytes) = unsafe {
            let header = Box::new(std::mem::zeroed::<libc::msghdr>());
            (header, Box::new(std::mem::zeroed()), Box::new(std::mem::zeroed()), Box::new(std::mem::zeroed()))
        };
        header.msg_namelen = NAME_BYTES as u32;
        header.msg_controllen = CONTROL_BYTES;
        Ok(Ring {
            pool: Pool::new(&ring, BUFFERS)?,
            ring,
            stamped,
            sends: Area::new(SENDS * SEND_BYTES)?,
            addresses,
            sources: Sources { messages, bytes, controls: Box::new([[0; SOURCE_BYTES]; SENDS]) },
            queued: 0,
            sockets: Vec::with_capacity(sockets_max),
            adopted: Vec::new(),
            header,
            to_arm: Vec::new(),
            left: VecDeque::new(),
            turns: 0,
            overrun_left: 0,
            received: VecDeque::with_capacity(usize::from(BUFFERS)),
            send_errors: 0,
            receive_errors: 0,
            rearmed: 0,
        })
    }

    /// Opens a socket on loopback; port 0 takes any. Answers its index and port.
    pub fn open(&mut self, port: u16) -> io::Result<(SocketIndex, u16)> {
        self.open_at(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
    }

    /// Opens one at an address of this host.
    pub fn open_at(&mut self, at: SocketAddrV4) -> io::Result<(SocketIndex, u16)> {
        let fd = bind(at, RECEIVE_BUFFER_BYTES)?;
        if self.stamped {
            set_option(&fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        }
        let bound = port_of(&fd)?;
        let index = self.register(fd.as_fd())?;
        self.sockets.push(Some(fd));
        self.to_arm.push(index);
        Ok((index, bound))
    }

    /// From now on [`Ring::send_as`] sends by somebody else's socket what is to come from its port.
    pub fn adopt(&mut self, port: u16, fd: BorrowedFd<'_>) -> io::Result<()> {
        let index = self.register(fd)?;
        self.sockets.push(None);
        self.adopted.push((port, index));
        Ok(())
    }

    fn register(&mut self, fd: BorrowedFd<'_>) -> io::Result<SocketIndex> {
        let index = self.sockets.len() as SocketIndex;
        self.ring.submitter().register_files_update(index, &[fd.as_raw_fd()])?;
        Ok(index)
    }

    /// Datagrams that ever found a socket of this ring full, but one that is adopted.
    pub fn overrun(&self) -> u64 {
        self.overrun_left + self.sockets.iter().flatten().map(dropped).sum::<u64>()
    }

    /// Fixes a socket's peer: sends to it are cheaper.
    pub fn connect(&self, socket: SocketIndex, to: SocketAddrV4) -> io::Result<()> {
        let address = raw(to);
        let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        let Some(fd) = &self.sockets[socket as usize] else { return Err(io::ErrorKind::NotConnected.into()) };
        // SAFETY: `address` holds `len` bytes of a socket address and lives through the call.
        check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), len) }).map(drop)
    }

    /// From now on nothing comes to a socket: whoever is bound to its port at every address gets it. What has come already is handed over
    /// before anything that the other gets after the next turn; then it is closed.
    pub fn leave(&mut self, socket: SocketIndex) -> io::Result<()> {
        // Of a socket that is connected the kernel takes only what its peer sends, and this one never does.
        self.connect(socket, NOBODY)?;
        self.left.push_back((socket, self.turns.wrapping_add(LEFT_TURNS)));
        Ok(())
    }

    fn close_left(&mut self) {
        while let Some((socket, _)) = self.left.pop_front_if(|(_, after)| self.turns.wrapping_sub(*after) as i32 >= 0) {
            let cancel = opcode::AsyncCancel::new(u64::from(socket)).build();
            self.push(&cancel.flags(squeue::Flags::SKIP_SUCCESS).user_data(CANCEL));
            // The receive keeps the file until it is cancelled.
            let _ = self.ring.submitter().register_files_update(socket, &[-1]);
            self.overrun_left += self.sockets[socket as usize].take().as_ref().map_or(0, dropped);
        }
    }

    /// Room for the next datagram that [`Ring::send_room`] sends.
    pub fn room(&mut self) -> &mut [u8] {
        if self.queued == SENDS {
            self.submit();
        }
        self.sends.slice(self.queued * SEND_BYTES, SEND_BYTES)
    }

    /// Queues a datagram; `to` is `None` on a connected socket.
    pub fn send(&mut self, socket: SocketIndex, to: Option<SocketAddrV4>, datagram: &[u8]) {
        self.room()[..datagram.len()].copy_from_slice(datagram);
        self.send_room(socket, to, datagram.len());
    }

    /// Queues what was written into [`Ring::room`].
    pub fn send_room(&mut self, socket: SocketIndex, to: Option<SocketAddrV4>, len: usize) {
        let slot = self.queued;
        let bytes = self.sends.slice(slot * SEND_BYTES, len).as_ptr();
        let mut send = opcode::Send::new(Fixed(socket), bytes, len as u32).flags(SEND_FLAGS);
        if let Some(to) = to {
            self.addresses[slot] = raw(to);
            let address = &raw const self.addresses[slot];
            send = send.dest_addr(address.cast()).dest_addr_len(size_of::<libc::sockaddr_in>() as u32);
        }
        self.queue(send.build());
    }

    /// The same, from an address of ours and the port of an adopted socket.
    pub fn send_as(&mut self, from: SocketAddrV4, to: SocketAddrV4, len: usize) {
        let Some(&(_, socket)) = self.adopted.iter().find(|(port, _)| *port == from.port()) else { return };
        let slot = self.queued;
        let bytes = self.sends.slice(slot * SEND_BYTES, len).as_mut_ptr();
        self.addresses[slot] = raw(to);
        let Sources { messages, bytes: places, controls } = &mut self.sources;
        controls[slot] = source(*from.ip());
        places[slot] = libc::iovec { iov_base: bytes.cast(), iov_len: len };
        let message = &mut messages[slot];
        message.msg_name = (&raw mut self.addresses[slot]).cast();
        message.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
        message.msg_iov = &raw mut places[slot];
        message.msg_iovlen = 1;
        message.msg_control = controls[slot].as_mut_ptr().cast();
        message.msg_controllen = SOURCE_BYTES;
        let send = opcode::SendMsg::new(Fixed(socket), message).flags(SEND_FLAGS as u32).build();
        self.queue(send);
    }

    fn queue(&mut self, send: squeue::Entry) {
        // With MSG_DONTWAIT a UDP send is over when it was handed over, so its slot is free after the next `submit`.
        self.push(&send.flags(squeue::Flags::SKIP_SUCCESS).user_data(SEND));
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
        self.collect();
        self.turns = self.turns.wrapping_add(1);
        self.close_left();
        Ok(())
    }

    fn collect(&mut self) {
        for completion in self.ring.completion() {
            let (known_by, result) = (completion.user_data(), completion.result());
            match known_by {
                SEND => self.send_errors += 1,
                // Nothing was armed: there is nothing to cancel.
                CANCEL => {}
                _ => {
                    let socket = known_by as SocketIndex;
                    if let Some(buffer) = cqueue::buffer_select(completion.flags()) {
                        self.received.push_back(Filled { socket, buffer, bytes: result.max(0) as usize });
                    } else if result < 0 && ![-libc::ENOBUFS, -libc::ECANCELED].contains(&result) {
                        self.receive_errors += 1;
                    }
                    if !cqueue::more(completion.flags()) && self.sockets[socket as usize].is_some() {
                        self.rearmed += 1;
                        self.to_arm.push(socket);
                    }
                }
            }
        }
    }

    /// The next datagram that came.
    pub fn take(&mut self) -> Option<Arrival> {
        let Filled { socket, buffer, bytes } = self.received.pop_front()?;
        let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let arrival = Arrival { socket, len: bytes, at_nanos: 0, from, buffer, start: 0 };
        match self.stamped {
            true => Some(stamped(self.pool.buffers.slice(usize::from(buffer) * STRIDE_BYTES, bytes), arrival)),
            false => Some(arrival),
        }
    }

    /// Its bytes.
    pub fn bytes(&mut self, arrival: &Arrival) -> &mut [u8] {
        self.pool.buffers.slice(usize::from(arrival.buffer) * STRIDE_BYTES + arrival.start, arrival.len)
    }

    /// Gives its buffer back.
    pub fn release(&mut self, arrival: Arrival) {
        self.pool.provide(arrival.buffer);
        self.pool.publish();
    }

    /// The next datagram that came, copied into `into`.
    pub fn next(&mut self, into: &mut [u8]) -> Option<Arrival> {
        let arrival = self.take()?;
        into[..arrival.len].copy_from_slice(self.bytes(&arrival));
        self.release(arrival);
        Some(arrival)
    }

    fn arm(&mut self) {
        while let Some(socket) = self.to_arm.pop() {
            if self.sockets[socket as usize].is_none() {
                continue;
            }
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
}

/// Reads `io_uring_recvmsg_out`, source and time stamp that stand before a datagram.
fn stamped(filled: &[u8], arrival: Arrival) -> Arrival {
    let start = (OUT_BYTES + NAME_BYTES + CONTROL_BYTES).min(filled.len());
    let head = &filled[..start];
    let number = |at: usize| head.get(at..at + 8).map_or(0, |b| u64::from_ne_bytes(b.try_into().unwrap_or_default()));
    let name = head.get(OUT_BYTES..OUT_BYTES + 8).unwrap_or(&[0; 8]);
    let from = SocketAddrV4::new([name[4], name[5], name[6], name[7]].into(), u16::from_be_bytes([name[2], name[3]]));
    // `cmsghdr` has 16 bytes, then comes a `timespec`.
    let stamp = OUT_BYTES + NAME_BYTES + 16;
    let control_bytes = head.get(4..8).map_or(0, |b| u32::from_ne_bytes(b.try_into().unwrap_or_default()));
    let at_nanos = if control_bytes == 0 { 0 } else { number(stamp) * 1_000_000_000 + number(stamp + 8) };
    Arrival { len: filled.len() - start, at_nanos, from, start, ..arrival }
}

/// The control message that says from which address a datagram leaves: `cmsghdr`, then an `in_pktinfo` (interface, source, and what is not
/// read).
fn source(address: Ipv4Addr) -> [u8; SOURCE_BYTES] {
    let mut control = [0; SOURCE_BYTES];
    control[..8].copy_from_slice(&((CONTROL_HEAD_BYTES + PKTINFO_BYTES) as u64).to_ne_bytes());
    control[8..12].copy_from_slice(&libc::IPPROTO_IP.to_ne_bytes());
    control[12..16].copy_from_slice(&libc::IP_PKTINFO.to_ne_bytes());
    control[20..24].copy_from_slice(&address.octets());
    control
}

/// Nanoseconds of the real-time clock, which the kernel stamps datagrams with.
pub fn real_nanos() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A socket at an address of this host, which several may have. `buffer_bytes`: what the kernel may hold for it.
pub(super) fn bind(at: SocketAddrV4, buffer_bytes: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the answer is a fresh descriptor that nobody else owns.
    let fd =
        unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?) };
    if set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, buffer_bytes).is_err() {
        set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, buffer_bytes)?;
    }
    if at.port() != 0 {
        set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    }
    let address = raw(at);
    let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: `address` holds `len` bytes of a socket address and lives through the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(fd)
}

pub(super) fn port_of(fd: &OwnedFd) -> io::Result<u16> {
    let mut address = raw(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
    let mut len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: `address` has room for `len` bytes; both live through the call.
    check(unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &mut len) })?;
    Ok(u16::from_be(address.sin_port))
}

pub(super) fn set_option(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is `len` bytes long and lives through the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) }).map(drop)
}

/// Datagrams that a socket dropped, by the kernel's account of its memory.
pub(super) fn dropped(fd: &OwnedFd) -> u64 {
    /// `SK_MEMINFO_DROPS`, the last of `SK_MEMINFO_VARS` numbers.
    const DROPS: usize = 8;
    let mut numbers = [0u32; DROPS + 1];
    let mut len = size_of_val(&numbers) as libc::socklen_t;
    // SAFETY: `numbers` has room for `len` bytes; both live through the call.
    let answer = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, numbers.as_mut_ptr().cast(), &mut len)
    };
    if answer == 0 { u64::from(numbers[DROPS]) } else { 0 }
}

fn raw(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

pub(super) fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
