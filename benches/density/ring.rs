//! Datagrams of thousands of sockets by io_uring, as cheaply as the kernel allows: for the load generator and for the floor.
//!
//! Multishot receives into one provided buffer ring, registered files, sends whose success is not reported. What the gateway has to
//! care for (strangers, floods, sockets that come and go, kernels that refuse) is absent: every socket here is ours and stays
//! open until the end. With `stamped`, datagrams carry the kernel's receive time, so that a generator that is late does not measure
//! itself.
//!
//! A socket *tells* of what comes (one multishot receive) until it is [hushed](Ring::hush): from then on it is *asked* when its owner
//! has time for it. That costs the generator half as much, and whoever sends nothing: a datagram for a socket that tells has to
//! wake it, on the sender's core and at the sender's expense, which no network card would ask of a gateway.
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

/// Receive buffers of sockets that tell; one per socket would be the most that can ever be filled at once.
const BUFFERS: u16 = 4096;
/// Sockets asked at once, and the buffers for what they answer: few, so that they stay in the cache.
const ASKS: usize = 64;
const ANSWERS: u16 = 2 * ASKS as u16;
/// Before the datagram, with `stamped`: `io_uring_recvmsg_out`, the source, one control message with a `timespec`.
const OUT_BYTES: usize = 16;
const NAME_BYTES: usize = 16;
const CONTROL_BYTES: usize = 32;
const STRIDE_BYTES: usize = (OUT_BYTES + NAME_BYTES + CONTROL_BYTES + DATAGRAM_BYTES_MAX).next_multiple_of(64);
/// Groups of buffers.
const TOLD: u16 = 0;
const ASKED: u16 = 1;

/// Datagrams queued before they are handed over: few, so that the time noted for each is that of its departure.
const SENDS: usize = 8;
const SEND_BYTES: usize = DATAGRAM_BYTES_MAX.next_multiple_of(64);

/// What completions are known by, beside the number of a socket that tells.
const SEND: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;
/// With it: the number of a socket that was asked, and behind it the place of its header.
const ASK: u64 = 1 << 62;

/// What the kernel may hold for one socket.
const RECEIVE_BUFFER_BYTES: libc::c_int = 256 * 1024;

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
    /// Its source; unspecified unless `stamped`, and where the socket was asked: that one is connected.
    pub from: SocketAddrV4,
    buffer: Buffer,
    start: usize,
}

/// Which buffer of which group.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    group: u16,
    index: u16,
}

/// A completed receive.
struct Filled {
    socket: SocketIndex,
    buffer: Buffer,
    bytes: usize,
    at_nanos: u64,
}

/// How a socket gives what it has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Tells,
    IsAsked { stamped: bool },
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

/// Buffers that the kernel fills in turn.
struct Pool {
    count: u16,
    entries: Area,
    buffers: Area,
    tail: u16,
}

impl Pool {
    fn new(ring: &IoUring, group: u16, count: u16) -> io::Result<Pool> {
        let entries = Area::new(usize::from(count) * size_of::<BufRingEntry>())?;
        // SAFETY: the area holds `count` entries, begins on a page and is never unmapped.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries.pointer(0) as u64, count, group, 0)? };
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

/// Where the kernel writes what it knows about the datagrams of stamped sockets that are asked.
struct Headers {
    messages: Box<[libc::msghdr; ASKS]>,
    controls: Box<[[u64; CONTROL_BYTES / 8]; ASKS]>,
}

/// An io_uring instance and its sockets.
pub struct Ring {
    ring: IoUring,
    stamped: bool,
    told: Pool,
    answers: Pool,
    sends: Area,
    addresses: Box<[libc::sockaddr_in; SENDS]>,
    queued: usize,
    sockets: Vec<OwnedFd>,
    manners: Vec<Manner>,
    header: Box<libc::msghdr>,
    headers: Headers,
    asks: usize,
    to_arm: Vec<SocketIndex>,
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
        // SAFETY: `msghdr` and `sockaddr_in` are plain numbers and pointers, for which zero is valid.
        let (mut header, messages, addresses) = unsafe {
            (Box::new(std::mem::zeroed::<libc::msghdr>()), Box::new(std::mem::zeroed()), Box::new(std::mem::zeroed()))
        };
        header.msg_namelen = NAME_BYTES as u32;
        header.msg_controllen = CONTROL_BYTES;
        Ok(Ring {
            told: Pool::new(&ring, TOLD, BUFFERS)?,
            answers: Pool::new(&ring, ASKED, ANSWERS)?,
            ring,
            stamped,
            sends: Area::new(SENDS * SEND_BYTES)?,
            addresses,
            queued: 0,
            sockets: Vec::with_capacity(sockets_max),
            manners: Vec::with_capacity(sockets_max),
            header,
            headers: Headers { messages, controls: Box::new([[0; CONTROL_BYTES / 8]; ASKS]) },
            asks: 0,
            to_arm: Vec::new(),
            received: VecDeque::with_capacity(usize::from(BUFFERS)),
            send_errors: 0,
            receive_errors: 0,
            rearmed: 0,
        })
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
        self.manners.push(Manner::Tells);
        self.to_arm.push(index);
        Ok((index, bound))
    }

    /// Datagrams that ever found a socket of this ring full.
    pub fn overrun(&self) -> u64 {
        self.sockets.iter().map(dropped).sum()
    }

    /// Fixes a socket's peer: sends to it are cheaper.
    pub fn connect(&self, socket: SocketIndex, to: SocketAddrV4) -> io::Result<()> {
        let address = raw(to);
        let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        let fd = self.sockets[socket as usize].as_raw_fd();
        // SAFETY: `address` holds `len` bytes of a socket address and lives through the call.
        check(unsafe { libc::connect(fd, (&raw const address).cast(), len) }).map(drop)
    }

    /// From now on a connected socket does not tell what comes: it has to be asked. `stamped`: with the kernel's time.
    pub fn hush(&mut self, socket: SocketIndex, stamped: bool) -> io::Result<()> {
        if self.stamped && !stamped {
            set_option(&self.sockets[socket as usize], libc::SO_TIMESTAMPNS, 0)?;
        }
        self.manners[socket as usize] = Manner::IsAsked { stamped };
        let cancel = opcode::AsyncCancel::new(u64::from(socket)).build();
        self.push(&cancel.flags(squeue::Flags::SKIP_SUCCESS).user_data(CANCEL));
        Ok(())
    }

    /// Asks a hushed socket for one datagram: it is there after `answers`, if there was one, which must follow for every
    /// [`ASKS`] at the latest.
    pub fn ask(&mut self, socket: SocketIndex) {
        let Manner::IsAsked { stamped } = self.manners[socket as usize] else { return };
        let (slot, flags) = (self.asks, libc::MSG_DONTWAIT);
        let receive = match stamped {
            true => {
                let (message, control) = (&mut self.headers.messages[slot], &mut self.headers.controls[slot]);
                control[0] = 0;
                message.msg_control = control.as_mut_ptr().cast();
                message.msg_controllen = CONTROL_BYTES;
                opcode::RecvMsg::new(Fixed(socket), message).buf_group(ASKED).flags(flags as u32).build()
            }
            false => {
                let room = DATAGRAM_BYTES_MAX as u32;
                opcode::Recv::new(Fixed(socket), std::ptr::null_mut(), room).buf_group(ASKED).flags(flags).build()
            }
        };
        let known_by = ASK | (slot as u64) << 32 | u64::from(socket);
        self.push(&receive.flags(squeue::Flags::BUFFER_SELECT).user_data(known_by));
        self.asks += 1;
    }

    /// Whether no more can be asked before `answers`.
    pub fn has_asked_enough(&self) -> bool {
        self.asks == ASKS
    }

    /// Hands over what is queued, and collects what was asked for.
    pub fn answers(&mut self) {
        self.submit();
        self.collect();
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
        let room = self.sends.slice(slot * SEND_BYTES, len);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let mut send = opcode::Send::new(Fixed(socket), room.as_ptr(), len as u32).flags(flags);
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
        self.collect();
        Ok(())
    }

    fn collect(&mut self) {
        self.asks = 0;
        for completion in self.ring.completion() {
            let (known_by, result) = (completion.user_data(), completion.result());
            match known_by {
                SEND => self.send_errors += 1,
                // Nothing was armed: there is nothing to cancel.
                CANCEL => {}
                _ => {
                    let (socket, is_answer) = (known_by as SocketIndex, known_by & ASK != 0);
                    let group = if is_answer { ASKED } else { TOLD };
                    if let Some(index) = cqueue::buffer_select(completion.flags()) {
                        let at_nanos = match self.manners[socket as usize] {
                            Manner::IsAsked { stamped: true } if is_answer => self.headers.at_nanos(known_by),
                            _ => 0,
                        };
                        let (buffer, bytes) = (Buffer { group, index }, result.max(0) as usize);
                        self.received.push_back(Filled { socket, buffer, bytes, at_nanos });
                    } else if result < 0 && ![-libc::EAGAIN, -libc::ENOBUFS, -libc::ECANCELED].contains(&result) {
                        self.receive_errors += 1;
                    }
                    let tells = self.manners[socket as usize] == Manner::Tells;
                    if !is_answer && tells && !cqueue::more(completion.flags()) {
                        self.rearmed += 1;
                        self.to_arm.push(socket);
                    }
                }
            }
        }
    }

    /// The next datagram that came.
    pub fn take(&mut self) -> Option<Arrival> {
        let Filled { socket, buffer, bytes, at_nanos } = self.received.pop_front()?;
        let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let arrival = Arrival { socket, len: bytes, at_nanos, from, buffer, start: 0 };
        match self.stamped && buffer.group == TOLD {
            true => Some(stamped(self.told.buffers.slice(usize::from(buffer.index) * STRIDE_BYTES, bytes), arrival)),
            false => Some(arrival),
        }
    }

    /// Whose datagram `take` will answer after so many others.
    pub fn ahead(&self, others: usize) -> Option<SocketIndex> {
        self.received.get(others).map(|filled| filled.socket)
    }

    /// Its bytes.
    pub fn bytes(&mut self, arrival: &Arrival) -> &mut [u8] {
        let at = usize::from(arrival.buffer.index) * STRIDE_BYTES + arrival.start;
        self.pool(arrival).buffers.slice(at, arrival.len)
    }

    /// Gives its buffer back.
    pub fn release(&mut self, arrival: Arrival) {
        let pool = self.pool(&arrival);
        pool.provide(arrival.buffer.index);
        pool.publish();
    }

    fn pool(&mut self, arrival: &Arrival) -> &mut Pool {
        match arrival.buffer.group {
            TOLD => &mut self.told,
            _ => &mut self.answers,
        }
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
            if self.manners[socket as usize] != Manner::Tells {
                continue;
            }
            let receive = match self.stamped {
                true => opcode::RecvMsgMulti::new(Fixed(socket), &raw const *self.header, TOLD).build(),
                false => opcode::RecvMulti::new(Fixed(socket), TOLD).build(),
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

impl Headers {
    /// The time in the header of an answer. `cmsghdr` has 16 bytes, then comes a `timespec`.
    fn at_nanos(&self, known_by: u64) -> u64 {
        let control = &self.controls[(known_by >> 32) as usize % ASKS];
        if control[0] == 0 { 0 } else { control[2] * 1_000_000_000 + control[3] }
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

/// Datagrams that a socket dropped, by the kernel's account of its memory.
fn dropped(fd: &OwnedFd) -> u64 {
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

fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
