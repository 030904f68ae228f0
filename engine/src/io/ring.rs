//! Datagrams by io_uring: multishot receives into shared buffers, sends from a bounded pool, few system calls per turn.
//!
//! ```text
//! open ──> to_arm ──> Armed ──(last completion)──> to_arm          a receive ended by itself: armed again, counted
//!                       │ ▲
//!         (too much)    ▼ │ (PAUSE_MS)
//!                    Cancelling ──> paused                         a flooded socket rests
//!                       │
//!                     close ──(last receive, last send)──> free    only then is the number given away again
//! ```
//!
//! What the kernel has, it owns: a receive buffer comes back with its completion, a send slot too, and a closed socket's
//! entry stays until every completion of it has come. Generations in `user_data` tell old from new all the same.
//!
//! A send that succeeded has no completion: `MSG_DONTWAIT` makes every send end within the system call that hands it over, so that its
//! slot is free again when the queue is empty. Completions of sends would end the next wait at once, for nothing.
//!
//! Why multishot recvmsg and not recv: unconnected sockets need the source of each datagram. Why registered files only on
//! newer kernels: before 6.13 a file taken out of the table is closed only when every request that is older than its removal
//! has ended. A receive is armed for a whole call, so that one long call would keep the ports of all that ended meanwhile.
//! Descriptors cost two atomic operations per send, a hundredth of it.
#![allow(unsafe_code)]

mod buffers;
mod homes;
mod sends;
mod sources;
mod steered;

use super::address::Family;
use super::socket::{CONTROL_BYTES, MediaSocket, destination};
use super::system::WakeFd;
use super::{
    Owner, PAUSE_MS, Packet, SENDS_BATCH, SENDS_MAX, SOCKET_PACKETS_MAX, SocketKey, clock, is_noise, is_send_noise,
};
use crate::limits::{DATAGRAM_BYTES_MAX, RING_BUFFERS_MAX, TURN_PACKETS_MAX};
use crate::metrics::Metrics;
use crate::prefetch::prefetch;
use crate::time::{Duration, Instant};
use buffers::{Buffers, GROUP, HEADER_BYTES, NAME_BYTES, parse};
use homes::Home;
use io_uring::types::{Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use sends::Sends;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use steered::Steered;

/// Submission entries: every send of the pool and as many receives and cancellations; a full queue is handed over early.
const SUBMISSIONS: u32 = 2 * SENDS_MAX as u32;
/// Times a full submission queue is handed over before what does not fit waits for the next turn.
const SUBMIT_TRIES_MAX: u32 = 4;

/// Completions that end the gathering early: more of them make a turn no cheaper.
const GATHER_COMPLETIONS: usize = 256;

/// Completions whose memory is waited for at once.
const REAPED_TOGETHER: usize = 8;

const KIND_RECEIVE: u64 = 0;
const KIND_SEND: u64 = 1;
const KIND_WAKE: u64 = 2;
const KIND_CANCEL: u64 = 3;
/// With `KIND_WAKE`: the socket of all steered calls has something.
const WAKE_STEERED: u32 = 1;

/// `user_data`: kind in 2 bits, generation in 30, index in 32.
fn user_data(kind: u64, index: u32, generation: u32) -> u64 {
    (kind << 62) | (u64::from(generation & GENERATION_MASK) << 32) | u64::from(index)
}

const GENERATION_MASK: u32 = (1 << 30) - 1;

/// An io_uring instance with its sockets and all memory that is lent to it.
pub struct Ring {
    ring: IoUring,
    state: State,
    /// Copied out of the way when every send slot is lent: what is written here is lost and counted.
    scratch: Box<[u8]>,
    /// The slot that `send_buffer` last showed.
    current: Option<u16>,
    /// The buffer of the packet that `next_packet` last showed.
    lent: Option<u16>,
    /// Packets shown in this turn.
    shown: usize,
    wake_armed: bool,
    /// Whether sockets are in the table of registered files.
    registered: bool,
}

/// A socket by its place in the table, or by its number in the process.
enum Target {
    Registered(Fixed),
    Descriptor(Fd),
}

/// Everything that completions change.
struct State {
    sockets: Vec<Entry>,
    /// Of each socket, what is known of the host's address that its peer sends to.
    homes: Vec<Home>,
    free: Vec<u32>,
    closed: VecDeque<Owner>,
    to_arm: Vec<SocketKey>,
    to_cancel: Vec<SocketKey>,
    paused: VecDeque<(Instant, SocketKey)>,
    /// Entries whose last completion has come.
    to_finish: Vec<u32>,
    buffers: Buffers,
    received: VecDeque<Received>,
    sends: Sends,
    /// Where sockets can be steered.
    steered: Option<Steered>,
    wake_fired: bool,
    /// When this turn began.
    now: Instant,
    /// What a multishot receive shall deliver: only the lengths of the name and of control data count.
    receive_header: Box<libc::msghdr>,
    /// Where the wake-up's counter is read to.
    wake_count: Box<u64>,
    wake: Arc<WakeFd>,
}

/// One cache line: each packet reads two of them.
#[repr(align(64))]
struct Entry {
    socket: Option<MediaSocket>,
    owner: Owner,
    generation: u32,
    receive: Receive,
    /// Waits in `to_arm` or `paused`.
    waiting: bool,
    paused: bool,
    closing: bool,
    /// The peer that the socket is connected to.
    connected: Option<(IpAddr, u16)>,
    is_steered: bool,
    /// The port of one that is steered or was; 0: it never was.
    port: u16,
    /// The host's address from which it answers by a raw socket; unspecified until that is known. See [`super::Net::answer_from`].
    our_address: Ipv4Addr,
    armed_before: bool,
    /// Datagrams in `received`.
    queued: u16,
    /// Sends the kernel has.
    sending: u16,
}

const _: () = assert!(size_of::<Entry>() == 64);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Receive {
    Idle,
    Armed,
    Cancelling,
}

#[derive(Clone, Copy)]
struct Received {
    key: SocketKey,
    buffer: u16,
    len: u32,
}

impl Ring {
    /// Room for `sockets_max` sockets. `wake` ends a wait. Fails where the kernel (before 6.1), its settings or a container
    /// forbid io_uring.
    pub fn new(sockets_max: usize, wake: &Arc<WakeFd>) -> io::Result<Ring> {
        Ring::with_files(sockets_max, wake, true)
    }

    /// [`Ring::new`], without registered files where `register` is false.
    pub(super) fn with_files(sockets_max: usize, wake: &Arc<WakeFd>, register: bool) -> io::Result<Ring> {
        let entries = (2 * sockets_max).next_power_of_two().clamp(256, RING_BUFFERS_MAX);
        let ring = build((entries + SENDS_MAX) as u32)?;
        // The first feature flag after 6.13 is of 6.15.
        let registered = register && ring.params().is_feature_no_iowait();
        if registered {
            ring.submitter().register_files_sparse(sockets_max.max(1) as u32)?;
        }
        let mut buffers = Buffers::new(entries as u16)?;
        buffers.register(&ring)?;
        // SAFETY: `msghdr` is plain numbers and pointers, for which zero is valid.
        let mut receive_header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        receive_header.msg_namelen = NAME_BYTES as u32;
        receive_header.msg_controllen = CONTROL_BYTES;
        let state = State {
            sockets: (0..sockets_max).map(|_| Entry::new()).collect(),
            homes: vec![Home::Unknown; sockets_max],
            free: (0..sockets_max as u32).rev().collect(),
            closed: VecDeque::with_capacity(sockets_max),
            to_arm: Vec::with_capacity(2 * sockets_max),
            to_cancel: Vec::with_capacity(2 * sockets_max),
            paused: VecDeque::with_capacity(2 * sockets_max),
            to_finish: Vec::with_capacity(sockets_max),
            buffers,
            received: VecDeque::with_capacity(entries),
            sends: Sends::new()?,
            steered: None,
            wake_fired: false,
            now: clock::now(),
            receive_header,
            wake_count: Box::new(0),
            wake: Arc::clone(wake),
        };
        let scratch = vec![0; DATAGRAM_BYTES_MAX].into_boxed_slice();
        Ok(Ring { ring, state, scratch, current: None, lent: None, shown: 0, wake_armed: false, registered })
    }

    pub(super) fn open(&mut self, socket: MediaSocket, owner: Owner) -> io::Result<SocketKey> {
        let Some(index) = self.state.free.pop() else {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        };
        if let Err(error) = self.register(index, socket.as_fd().as_raw_fd()) {
            self.state.free.push(index);
            return Err(error);
        }
        let entry = &mut self.state.sockets[index as usize];
        *entry = Entry { socket: Some(socket), owner, generation: entry.generation, waiting: true, ..Entry::new() };
        let key = SocketKey { index, generation: entry.generation };
        self.state.homes[index as usize] = Home::Unknown;
        self.state.to_arm.push(key);
        self.state.buffers.want(self.sockets_open());
        Ok(key)
    }

    pub(super) fn connect(&mut self, key: SocketKey, to: SocketAddr) -> io::Result<()> {
        let entry = self.state.live(key).ok_or(io::Error::from_raw_os_error(libc::EBADF))?;
        if let Some(socket) = &entry.socket {
            socket.connect(to)?;
        }
        entry.connected = Some((to.ip(), to.port()));
        Ok(())
    }

    pub(super) fn close(&mut self, key: SocketKey) {
        if self.state.live(key).is_none() {
            return;
        }
        self.state.unsteer(key.index);
        let entry = &mut self.state.sockets[key.index as usize];
        entry.closing = true;
        if entry.receive == Receive::Armed {
            entry.receive = Receive::Cancelling;
            self.state.to_cancel.push(key);
        }
        self.state.finish_if_quiet(key.index);
        self.finish();
    }

    /// What the kernel does not take now, the wait that follows offers again.
    pub(super) fn hand_over(&mut self, metrics: &mut Metrics) {
        self.cancel();
        self.arm(metrics);
        self.arm_steered(metrics);
        self.arm_wake();
        if !self.ring.submission().is_empty() {
            self.submit();
        }
    }

    pub(super) fn wait(&mut self, until: Instant, gather: Duration, metrics: &mut Metrics) -> io::Result<()> {
        self.hand_over(metrics);
        self.state.buffers.publish();
        let until = self.state.paused.front().map_or(until, |&(resume, _)| resume.min(until));
        let until = if self.state.received.is_empty() { until } else { Instant::ZERO };
        let now = clock::now();
        let gathered = (self.state.now + gather).min(until);
        if now < gathered {
            self.enter(GATHER_COMPLETIONS, gathered.since(now))?;
            if !self.ring.completion().is_empty() {
                return Ok(());
            }
        }
        self.enter(1, until.since(clock::now()))
    }

    /// Hands over the queue and waits for `completions` of them, at most `timeout`.
    fn enter(&mut self, completions: usize, timeout: Duration) -> io::Result<()> {
        let timeout = Timespec::from(timeout);
        let answer = self.ring.submitter().submit_with_args(completions, &SubmitArgs::new().timespec(&timeout));
        self.reclaim();
        match answer {
            Ok(_) => Ok(()),
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn collect(&mut self, now: Instant, metrics: &mut Metrics) {
        self.shown = 0;
        self.state.now = now;
        self.reap(metrics);
        self.state.buffers.turned(self.state.received.len());
        while let Some(&(resume, key)) = self.state.paused.front() {
            if resume > now {
                break;
            }
            self.state.paused.pop_front();
            if let Some(entry) = self.state.live(key) {
                entry.paused = false;
                if entry.receive == Receive::Idle {
                    self.state.to_arm.push(key);
                } else {
                    // Its cancellation is still on the way: the last completion arms it.
                    entry.waiting = false;
                }
            }
        }
    }

    pub(super) fn next_packet(&mut self, metrics: &mut Metrics) -> Option<Packet<'_>> {
        if let Some(buffer) = self.lent.take() {
            self.state.buffers.recycle(buffer);
        }
        if self.shown == TURN_PACKETS_MAX {
            return None;
        }
        self.take_slot(metrics);
        loop {
            let Received { key, buffer, len } = self.state.received.pop_front()?;
            let Some(entry) = self.state.live(key) else {
                self.state.buffers.recycle(buffer);
                continue;
            };
            entry.queued -= 1;
            let (owner, our_address) = (entry.owner, entry.our_address);
            let filled = self.state.buffers.bytes(buffer);
            let Some((from, control_bytes, payload_bytes)) = parse(filled, len as usize) else {
                metrics.datagrams_malformed += 1;
                self.state.buffers.recycle(buffer);
                continue;
            };
            let mut sent_to = None;
            if control_bytes > 0 {
                let control = &filled[16 + NAME_BYTES..][..control_bytes];
                match steered::sent_to(control) {
                    Some((_, address)) => sent_to = Some(address).filter(|address| *address != our_address),
                    None => {
                        let sent_to = destination(control);
                        self.state.note_home(key, from, sent_to);
                    }
                }
            }
            self.shown += 1;
            self.lent = Some(buffer);
            let State { buffers, sends, .. } = &mut self.state;
            let datagram = &mut buffers.bytes(buffer)[HEADER_BYTES..][..payload_bytes];
            let out = self.current.map_or(&mut self.scratch[..], |slot| sends.datagram(slot));
            return Some(Packet { owner, from, sent_to, datagram, out });
        }
    }

    pub(super) fn prefetch_packet(&self, ahead: usize) {
        if let Some(packet) = self.state.received.get(ahead) {
            self.prefetch_socket(packet.key);
            self.state.buffers.prefetch(packet.buffer, packet.len as usize);
        }
    }

    pub(super) fn prefetch_socket(&self, key: SocketKey) {
        if let Some(entry) = self.state.sockets.get(key.index as usize) {
            prefetch(entry);
        }
    }

    pub(super) fn owner_ahead(&self, ahead: usize) -> Option<Owner> {
        let packet = self.state.received.get(ahead)?;
        self.state.entry(packet.key).map(|entry| entry.owner)
    }

    pub(super) fn next_closed(&mut self) -> Option<Owner> {
        self.state.closed.pop_front()
    }

    pub(super) fn send_buffer(&mut self, metrics: &mut Metrics) -> &mut [u8] {
        self.take_slot(metrics);
        self.current.map_or(&mut self.scratch[..], |slot| self.state.sends.datagram(slot))
    }

    /// Takes the slot for what is sent next, if one is to be had.
    fn take_slot(&mut self, metrics: &mut Metrics) {
        if self.current.is_none() {
            self.current = self.state.sends.free.pop();
        }
        if self.current.is_none() && self.submit() {
            self.reap(metrics);
            self.current = self.state.sends.free.pop();
        }
    }

    pub(super) fn send(&mut self, key: SocketKey, to: SocketAddr, len: usize, metrics: &mut Metrics) {
        let Some((slot, send)) = self.prepare(key, to, len.min(DATAGRAM_BYTES_MAX)) else {
            metrics.datagrams_unsent += 1;
            return;
        };
        let send = send.flags(squeue::Flags::SKIP_SUCCESS).user_data(user_data(KIND_SEND, u32::from(slot), 0));
        if self.push(&send) {
            self.current = None;
            self.state.sends.sockets[usize::from(slot)] = key.index;
            self.state.sends.queued.push(slot);
            self.state.sockets[key.index as usize].sending += 1;
            if self.state.sends.queued.len() >= SENDS_BATCH {
                self.submit();
            }
        } else {
            metrics.datagrams_unsent += 1;
        }
    }

    /// The slot that `send_buffer` showed, and what sends `len` bytes of it.
    fn prepare(&mut self, key: SocketKey, to: SocketAddr, len: usize) -> Option<(u16, squeue::Entry)> {
        let slot = self.current?;
        if let SocketAddr::V4(to) = to
            && let Some(send) = self.send_raw(slot, key, to, len)
        {
            return Some((slot, send));
        }
        let entry = self.state.entry(key).filter(|entry| !entry.closing)?;
        let is_connected = entry.connected == Some((to.ip(), to.port()));
        let family = entry.socket.as_ref().map_or(Family::V4, MediaSocket::family);
        let target = self.target(key.index);
        let sends = &mut self.state.sends;
        let (bytes, len) = (sends.datagram(slot).as_ptr(), len as u32);
        let mut send = match target {
            Target::Registered(file) => opcode::Send::new(file, bytes, len),
            Target::Descriptor(fd) => opcode::Send::new(fd, bytes, len),
        };
        if !is_connected {
            let name_bytes = sends.addresses[usize::from(slot)].write(family, to)?;
            send = send.dest_addr(sends.address(slot)).dest_addr_len(name_bytes as libc::socklen_t);
        }
        // MSG_DONTWAIT: a socket whose buffer is full loses the datagram. Late audio is worth nothing, and a send that waits
        // would keep its slot and hold up the socket's close.
        Some((slot, send.flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).build()))
    }

    pub(super) fn sockets_open(&self) -> usize {
        self.state.sockets.len() - self.state.free.len()
    }

    pub(super) fn buffers_lent(&self) -> usize {
        self.state.received.len() + usize::from(self.lent.is_some())
    }

    /// Arms the receives that wait for it.
    fn arm(&mut self, metrics: &mut Metrics) {
        while let Some(key) = self.state.to_arm.pop() {
            let header = &raw const *self.state.receive_header;
            let Some(entry) = self.state.live(key) else { continue };
            if entry.receive != Receive::Idle || entry.paused {
                continue;
            }
            let receive = match self.target(key.index) {
                Target::Registered(file) => opcode::RecvMsgMulti::new(file, header, GROUP).build(),
                Target::Descriptor(fd) => opcode::RecvMsgMulti::new(fd, header, GROUP).build(),
            };
            let receive = receive.user_data(user_data(KIND_RECEIVE, key.index, key.generation));
            if !self.push(&receive) {
                self.state.to_arm.push(key);
                return;
            }
            let entry = &mut self.state.sockets[key.index as usize];
            metrics.rearmed += u64::from(entry.armed_before);
            entry.armed_before = true;
            entry.waiting = false;
            entry.receive = Receive::Armed;
        }
    }

    /// Ends the receives of flooded and closing sockets. Their sends and their arming stand before it in the queue.
    fn cancel(&mut self) {
        while let Some(key) = self.state.to_cancel.pop() {
            if self.state.entry(key).is_none_or(|entry| entry.receive != Receive::Cancelling) {
                continue;
            }
            let target = user_data(KIND_RECEIVE, key.index, key.generation);
            let cancel =
                opcode::AsyncCancel::new(target).build().user_data(user_data(KIND_CANCEL, key.index, key.generation));
            if !self.push(&cancel) {
                self.state.to_cancel.push(key);
                return;
            }
        }
    }

    fn arm_wake(&mut self) {
        if self.state.wake_fired {
            self.state.wake_fired = false;
            self.wake_armed = false;
        }
        if !self.wake_armed {
            let into = (&raw mut *self.state.wake_count).cast::<u8>();
            let read =
                opcode::Read::new(Fd(self.state.wake.raw_fd()), into, 8).build().user_data(user_data(KIND_WAKE, 0, 0));
            self.wake_armed = self.push(&read);
        }
    }

    /// Queues one entry; hands a full queue over first. False when the kernel takes nothing now.
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        for _ in 0..SUBMIT_TRIES_MAX {
            // SAFETY: whatever the entry points to belongs to `state`, is owned by the kernel until its completion, and is
            // leaked when the ring cannot be emptied before it is dropped.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return true;
            }
            if !self.submit() {
                return false;
            }
        }
        false
    }

    /// Hands over the queue without waiting.
    fn submit(&mut self) -> bool {
        self.state.buffers.publish();
        let answer = self.ring.submitter().submit();
        self.reclaim();
        match answer {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::Interrupted,
        }
    }

    /// Takes back the slots of all sends once the kernel has taken the whole queue: it has ended each of them then.
    fn reclaim(&mut self) {
        if !self.ring.submission().is_empty() {
            return;
        }
        let state = &mut self.state;
        state.sends.sent += state.sends.queued.len() as u64;
        while let Some(slot) = state.sends.queued.pop() {
            let index = state.sends.sockets[usize::from(slot)];
            state.sends.free.push(slot);
            state.sockets[index as usize].sending -= 1;
            state.finish_if_quiet(index);
        }
        self.finish();
    }

    /// Takes all completions.
    fn reap(&mut self, metrics: &mut Metrics) {
        let Ring { ring, state, .. } = self;
        metrics.datagrams_sent += std::mem::take(&mut state.sends.sent);
        let mut completions = ring.completion();
        loop {
            // Whose they are is asked for before the first of them is looked at.
            let some: [Option<cqueue::Entry>; REAPED_TOGETHER] = std::array::from_fn(|_| {
                let completion = completions.next()?;
                state.prefetch(&completion);
                Some(completion)
            });
            some.iter().flatten().for_each(|completion| state.complete(completion, metrics));
            if some.last().is_none_or(Option::is_none) {
                break;
            }
        }
        drop(completions);
        self.finish();
    }

    /// Puts `fd` into the table of registered files, or empties its place (-1).
    fn register(&self, index: u32, fd: RawFd) -> io::Result<()> {
        match self.registered {
            true => self.ring.submitter().register_files_update(index, &[fd]).map(drop),
            false => Ok(()),
        }
    }

    /// How the kernel is to find the socket `index`.
    fn target(&self, index: u32) -> Target {
        match (self.registered, &self.state.sockets[index as usize].socket) {
            (false, Some(socket)) => Target::Descriptor(Fd(socket.as_fd().as_raw_fd())),
            (false, None) => Target::Descriptor(Fd(-1)),
            (true, _) => Target::Registered(Fixed(index)),
        }
    }

    /// Lets go of the sockets whose last completion has come.
    fn finish(&mut self) {
        while let Some(index) = self.state.to_finish.pop() {
            // An entry that cannot be emptied now is replaced when its number is used again.
            let _ = self.register(index, -1);
            let entry = &mut self.state.sockets[index as usize];
            let owner = entry.owner;
            *entry = Entry { generation: entry.generation.wrapping_add(1) & GENERATION_MASK, ..Entry::new() };
            self.state.free.push(index);
            self.state.closed.push_back(owner);
            self.state.buffers.want(self.sockets_open());
        }
    }
}

impl State {
    fn entry(&self, key: SocketKey) -> Option<&Entry> {
        self.sockets.get(key.index as usize).filter(|entry| entry.generation == key.generation)
    }

    /// The socket, unless it is closed or closing.
    fn live(&mut self, key: SocketKey) -> Option<&mut Entry> {
        let entry = self.sockets.get_mut(key.index as usize)?;
        (entry.generation == key.generation && !entry.closing && entry.socket.is_some()).then_some(entry)
    }

    /// Asks for the memory that a completion will need.
    fn prefetch(&mut self, completion: &cqueue::Entry) {
        let data = completion.user_data();
        let index = match (data >> 62, data as u32, cqueue::buffer_select(completion.flags())) {
            (KIND_WAKE, WAKE_STEERED, Some(buffer)) => self.steered_to(buffer).map(|key| key.index),
            (KIND_RECEIVE, index, _) => Some(index),
            _ => None,
        };
        if let Some(entry) = index.and_then(|index| self.sockets.get(index as usize)) {
            prefetch(entry);
        }
    }

    fn complete(&mut self, completion: &cqueue::Entry, metrics: &mut Metrics) {
        let data = completion.user_data();
        let index = data as u32;
        match data >> 62 {
            KIND_RECEIVE => {
                let key = SocketKey { index, generation: (data >> 32) as u32 & GENERATION_MASK };
                self.received(key, completion, metrics);
            }
            KIND_SEND => self.unsent(completion.result(), metrics),
            KIND_WAKE if index == WAKE_STEERED => self.received_steered(completion, metrics),
            KIND_WAKE => self.wake_fired = true,
            _ => {
                // A receive that was busy when it was to be cancelled (EALREADY, ENOENT) has either ended by itself, which
                // its own completion tells, or is cancelled once more.
                let key = SocketKey { index, generation: (data >> 32) as u32 & GENERATION_MASK };
                let cancelling = self.entry(key).is_some_and(|entry| entry.receive == Receive::Cancelling);
                if completion.result() < 0 && cancelling {
                    self.to_cancel.push(key);
                }
            }
        }
    }

    /// A datagram, an error, or the end of a multishot receive; often the first and last together.
    fn received(&mut self, key: SocketKey, completion: &cqueue::Entry, metrics: &mut Metrics) {
        let result = completion.result();
        if let Some(buffer) = cqueue::buffer_select(completion.flags()) {
            metrics.datagrams_received += u64::from(result >= 0);
            self.queue(key, buffer, result, metrics);
        }
        let last = !cqueue::more(completion.flags());
        if result == -libc::ENOBUFS {
            self.buffers.ran_out();
        }
        let Some(entry) = self.sockets.get_mut(key.index as usize).filter(|e| e.generation == key.generation) else {
            return;
        };
        if result < 0 && result != -libc::ENOBUFS && result != -libc::ECANCELED && !entry.closing {
            metrics.socket_errors += 1;
            // What says nothing about the peer may come again at once: the socket rests, so that it cannot spin.
            if !is_noise(-result) {
                self.pause(key);
            }
        }
        if last {
            let entry = &mut self.sockets[key.index as usize];
            entry.receive = Receive::Idle;
            if entry.closing {
                self.finish_if_quiet(key.index);
            } else if !entry.waiting {
                entry.waiting = true;
                self.to_arm.push(key);
            }
        }
    }

    /// Keeps a datagram for `next_packet`, unless its socket is gone or has too many there.
    fn queue(&mut self, key: SocketKey, buffer: u16, result: i32, metrics: &mut Metrics) {
        let Some(entry) = self.live(key).filter(|_| result >= 0) else {
            self.buffers.recycle(buffer);
            return;
        };
        if entry.queued < SOCKET_PACKETS_MAX {
            entry.queued += 1;
            self.received.push_back(Received { key, buffer, len: result as u32 });
            return;
        }
        self.buffers.recycle(buffer);
        metrics.datagrams_excess += 1;
        if !self.sockets[key.index as usize].paused {
            metrics.sockets_paused += 1;
            self.pause(key);
        }
    }

    /// Puts a socket to rest: its receive is cancelled and armed again after `PAUSE_MS`.
    fn pause(&mut self, key: SocketKey) {
        let resume = self.now.plus_millis(PAUSE_MS);
        let Some(entry) = self.live(key) else { return };
        if entry.paused {
            return;
        }
        self.unsteer(key.index);
        let entry = &mut self.sockets[key.index as usize];
        entry.paused = true;
        entry.waiting = true;
        let armed = entry.receive == Receive::Armed;
        if armed {
            entry.receive = Receive::Cancelling;
            self.to_cancel.push(key);
        }
        self.paused.push_back((resume, key));
    }

    /// A send that failed: it was counted with the others.
    fn unsent(&mut self, result: i32, metrics: &mut Metrics) {
        metrics.datagrams_sent -= 1;
        metrics.datagrams_unsent += 1;
        metrics.socket_errors += u64::from(is_send_noise(-result));
    }

    fn finish_if_quiet(&mut self, index: u32) {
        let entry = &self.sockets[index as usize];
        if entry.closing && entry.receive == Receive::Idle && entry.sending == 0 {
            self.to_finish.push(index);
        }
    }
}

impl Entry {
    fn new() -> Entry {
        Entry {
            socket: None,
            owner: Owner::default(),
            generation: 0,
            receive: Receive::Idle,
            waiting: false,
            paused: false,
            closing: false,
            connected: None,
            is_steered: false,
            port: 0,
            our_address: Ipv4Addr::UNSPECIFIED,
            armed_before: false,
            queued: 0,
            sending: 0,
        }
    }
}

impl Drop for Ring {
    /// Takes everything back from the kernel before the memory goes; what it does not give back is leaked.
    fn drop(&mut self) {
        let patience = Timespec::new().sec(1);
        let cancel = io_uring::types::CancelBuilder::any();
        let _ = self.submit();
        let emptied = match self.ring.submitter().register_sync_cancel(Some(patience), cancel) {
            Ok(()) => true,
            Err(error) => error.raw_os_error() == Some(libc::ENOENT),
        };
        if !emptied {
            self.state.buffers.leak();
            self.state.sends.leak();
            std::mem::forget(std::mem::take(&mut self.state.wake_count));
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Ring").field("sockets_open", &self.sockets_open()).finish_non_exhaustive()
    }
}

/// `IORING_SETUP_DEFER_TASKRUN` is of 6.1, and so is a send that names its destination: where the former is refused there is no use in
/// trying.
fn build(completions: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    let completions = completions.next_power_of_two();
    builder.setup_cqsize(completions).setup_clamp().setup_submit_all().setup_single_issuer().setup_defer_taskrun();
    builder.build(SUBMISSIONS)
}

/// Answers of a wait that say nothing is wrong: time is up, a signal came, or completions must be taken first.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_generation_and_index_survive_the_kernel() {
        let data = user_data(KIND_CANCEL, u32::MAX, GENERATION_MASK);
        assert_eq!((data >> 62, data as u32, (data >> 32) as u32 & GENERATION_MASK), (3, u32::MAX, GENERATION_MASK));
    }
}
