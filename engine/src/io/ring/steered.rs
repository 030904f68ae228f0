//! The half of [`Steering`] that belongs to one worker: the one socket in which running calls are heard, and the raw ones by which they speak ([`Sources`]).
//!
//! Each call keeps its own ports and its own sockets, which hold the ports and take over whenever something is not as usual: a flood (what
//! is too much must not be at the cost of others), IPv6, an address of ours that is not known yet.

use super::super::SocketKey;
use super::super::steering::Steering;
use super::super::system::{check, raw};
use super::sources::{Sources, write_header};
use super::{Family, GROUP, KIND_WAKE, NAME_BYTES, Ring, State, WAKE_STEERED, user_data};
use crate::limits::SOCKETS_PER_WORKER_MAX;
use crate::metrics::Metrics;
use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// What the kernel may hold for all calls of a worker between two turns: it doubles it, and a small packet occupies up to 2.3 KiB, so these
/// are 140 ms of 1,000 calls.
const RECEIVE_BUFFER_BYTES: libc::c_int = 16 * 1024 * 1024;
/// `SO_MEMINFO` answers so many numbers (`linux/sock_diag.h`), of which the last says what the socket has dropped.
const MEMINFO_NUMBERS: usize = 9;

/// A socket's number plus one is kept in 16 bits.
const _: () = assert!(SOCKETS_PER_WORKER_MAX < u16::MAX as usize);

/// The sockets, and whose each port is.
pub(super) struct Steered {
    steering: Arc<Steering>,
    worker: usize,
    receive: OwnedFd,
    sources: Sources,
    pub(super) is_armed: bool,
    /// By port, from the first that can be marked on: the socket's number plus one; 0: not steered.
    ports: Box<[u16]>,
    /// Datagrams that found no room in `receive` when it was last asked; the kernel counts on from zero when its number is full.
    overflowed: u32,
    /// Ports that are marked.
    pub(super) count: usize,
}

impl Steered {
    fn new(steering: &Arc<Steering>, worker: usize, bind: Option<Ipv4Addr>, dscp: u8) -> io::Result<Steered> {
        let receive = socket(libc::SOCK_DGRAM, libc::IPPROTO_UDP)?;
        // Nobody sends to this address: it is there because a socket without one cannot be steered to.
        bind_to(&receive, Ipv4Addr::LOCALHOST)?;
        set_option(&receive, libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR, 1)?;
        grow(&receive, (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), RECEIVE_BUFFER_BYTES);
        // In less, a worker that is held up for a few milliseconds would lose packets of all calls; a socket of each call's own would not.
        let granted = option(&receive, libc::SOL_SOCKET, libc::SO_RCVBUF)? / 2;
        if granted < RECEIVE_BUFFER_BYTES {
            return Err(io::Error::other(format!(
                "the socket of all calls may hold {granted} bytes and needs {RECEIVE_BUFFER_BYTES}: CAP_NET_ADMIN or the sysctl \
                 net.core.rmem_max would allow it"
            )));
        }
        let sources = Sources::new(bind, dscp)?;
        steering.receive_at(worker, receive.as_fd())?;
        let ports = vec![0; steering.ports().len()].into_boxed_slice();
        let steering = Arc::clone(steering);
        Ok(Steered { steering, worker, receive, sources, is_armed: false, ports, overflowed: 0, count: 0 })
    }

    /// Datagrams that the kernel has dropped since this was last asked, for want of room.
    fn overflowed(&mut self) -> u64 {
        let mut numbers = [0u32; MEMINFO_NUMBERS];
        let mut bytes = size_of_val(&numbers) as libc::socklen_t;
        let (fd, into) = (raw(self.receive.as_fd()), numbers.as_mut_ptr().cast());
        // SAFETY: `numbers` has room for `bytes`; both live through the call.
        let answer = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, into, &mut bytes) };
        if answer != 0 || bytes as usize != size_of_val(&numbers) {
            return 0;
        }
        let before = std::mem::replace(&mut self.overflowed, numbers[MEMINFO_NUMBERS - 1]);
        self.overflowed.wrapping_sub(before).into()
    }

    /// Which socket has a port.
    pub(super) fn index_of(&self, port: u16) -> Option<u32> {
        self.ports.get(self.place(port)?)?.checked_sub(1).map(u32::from)
    }

    /// Where a port stands in the table, if it does.
    fn place(&self, port: u16) -> Option<usize> {
        port.checked_sub(*self.steering.ports().start()).map(usize::from).filter(|place| *place < self.ports.len())
    }

    fn mark(&mut self, place: usize, port: u16, index: u32, address: Option<Ipv4Addr>) {
        self.ports[place] = index as u16 + 1;
        self.count += 1;
        self.steering.mark(port, self.worker, address);
    }

    fn unmark(&mut self, port: u16) {
        if let Some(place) = self.place(port) {
            self.steering.unmark(port);
            self.ports[place] = 0;
            self.count -= 1;
        }
    }
}

impl Drop for Steered {
    fn drop(&mut self) {
        for (port, _) in self.steering.ports().clone().zip(&self.ports).filter(|(_, index)| **index != 0) {
            self.steering.unmark(port);
        }
    }
}

impl Ring {
    /// From now on sockets can be steered. `bind`: the one address that media sockets are bound to.
    pub(in crate::io) fn be_steered(
        &mut self,
        steering: &Arc<Steering>,
        worker: usize,
        bind: Option<Ipv4Addr>,
        dscp: u8,
    ) -> io::Result<()> {
        self.state.steered = Some(Steered::new(steering, worker, bind, dscp)?);
        Ok(())
    }

    pub(in crate::io) fn steers(&self) -> bool {
        self.state.steered.is_some()
    }

    /// What comes to the socket's port comes with that of all others from now on.
    pub(in crate::io) fn steer(&mut self, key: SocketKey) -> io::Result<()> {
        let State { steered, sockets, .. } = &mut self.state;
        let Some(steered) = steered else { return Ok(()) };
        let entry = sockets.get_mut(key.index as usize).filter(|entry| entry.generation == key.generation);
        let Some(entry) = entry.filter(|entry| !entry.closing && !entry.paused && !entry.is_steered) else {
            return Ok(());
        };
        let Some(socket) = &entry.socket else { return Ok(()) };
        // A connected socket comes first in the kernel's eyes.
        if entry.connected.is_some() {
            socket.disconnect()?;
            entry.connected = None;
        }
        let local = socket.local()?;
        let address = match local.ip().to_canonical() {
            IpAddr::V4(address) => Some(address).filter(|address| !address.is_unspecified()),
            IpAddr::V6(address) if address.is_unspecified() => None,
            IpAddr::V6(_) => return Ok(()),
        };
        let Some(place) = steered.place(local.port()) else { return Ok(()) };
        (entry.is_steered, entry.port) = (true, local.port());
        if let Some(address) = address {
            entry.our_address = address;
            steered.sources.add(address);
        }
        steered.mark(place, local.port(), key.index, address);
        Ok(())
    }

    /// Sockets that are steered.
    pub(in crate::io) fn sockets_steered(&self) -> usize {
        self.state.steered.as_ref().map_or(0, |steered| steered.count)
    }

    /// See [`super::super::Net::answer_from`].
    pub(in crate::io) fn answer_from(&mut self, key: SocketKey, address: Ipv4Addr) -> Ipv4Addr {
        let Some(entry) = self.state.live(key) else { return address };
        let before = std::mem::replace(&mut entry.our_address, address);
        if let Some(steered) = &mut self.state.steered {
            steered.sources.add(address);
        }
        before
    }

    /// See [`super::super::Net::overflowed`].
    pub(in crate::io) fn overflowed(&mut self) -> u64 {
        self.state.steered.as_mut().map_or(0, Steered::overflowed)
    }

    /// Arms the receive of the one socket, if there is one and it has ended.
    pub(super) fn arm_steered(&mut self, metrics: &mut Metrics) {
        let Some(steered) = self.state.steered.as_ref().filter(|steered| !steered.is_armed) else { return };
        let (header, fd) = (&raw const *self.state.receive_header, steered.receive.as_raw_fd());
        let receive = opcode::RecvMsgMulti::new(Fd(fd), header, GROUP).build();
        let receive = receive.user_data(user_data(KIND_WAKE, WAKE_STEERED, 0));
        let is_armed = self.push(&receive);
        if let Some(steered) = &mut self.state.steered {
            metrics.rearmed += u64::from(is_armed && steered.count > 0);
            steered.is_armed = is_armed;
        }
    }

    /// What sends a slot's datagram by a raw socket; `None` where it has to go by its own.
    pub(super) fn send_raw(
        &mut self,
        slot: u16,
        key: SocketKey,
        to: SocketAddrV4,
        len: usize,
    ) -> Option<squeue::Entry> {
        let State { steered, sockets, sends, .. } = &mut self.state;
        let entry = sockets.get(key.index as usize).filter(|entry| entry.generation == key.generation)?;
        if entry.closing || entry.port == 0 {
            return None;
        }
        let source = steered.as_ref()?.sources.of(entry.our_address)?;
        let packet = sends.packet(slot, len);
        write_header(packet, SocketAddrV4::new(entry.our_address, entry.port), to);
        let (bytes, len) = (packet.as_ptr(), packet.len() as u32);
        let name_bytes = sends.addresses[usize::from(slot)].write(Family::V4, to.into())?;
        let send = opcode::Send::new(source, bytes, len);
        let send = send.dest_addr(sends.address(slot)).dest_addr_len(name_bytes as libc::socklen_t);
        Some(send.flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).build())
    }
}

impl State {
    /// The socket hears by itself again.
    pub(super) fn unsteer(&mut self, index: u32) {
        let entry = &mut self.sockets[index as usize];
        let is_steered = std::mem::take(&mut entry.is_steered);
        if let (Some(steered), true) = (&mut self.steered, is_steered) {
            steered.unmark(entry.port);
        }
    }

    /// A datagram of the one socket, or the end of its receive.
    pub(super) fn received_steered(&mut self, completion: &cqueue::Entry, metrics: &mut Metrics) {
        let result = completion.result();
        if let Some(buffer) = cqueue::buffer_select(completion.flags()) {
            metrics.datagrams_received += u64::from(result >= 0);
            match self.steered_to(buffer) {
                Some(key) => self.queue(key, buffer, result, metrics),
                // Its call has ended meanwhile, or there was too much of it.
                None => {
                    metrics.datagrams_excess += 1;
                    self.buffers.recycle(buffer);
                }
            }
        }
        if result == -libc::ENOBUFS {
            self.buffers.ran_out();
        }
        if let (Some(steered), false) = (&mut self.steered, cqueue::more(completion.flags())) {
            steered.is_armed = false;
        }
    }

    /// Whose a datagram of the one socket is.
    pub(super) fn steered_to(&mut self, buffer: u16) -> Option<SocketKey> {
        let (port, _) = sent_to(&self.buffers.bytes(buffer)[16 + NAME_BYTES..])?;
        let index = self.steered.as_ref()?.index_of(port)?;
        Some(SocketKey { index, generation: self.sockets[index as usize].generation })
    }
}

/// Port and address that a datagram was sent to, by its control message (`IP_ORIGDSTADDR`).
pub(super) fn sent_to(control: &[u8]) -> Option<(u16, Ipv4Addr)> {
    const DATA: usize = size_of::<libc::cmsghdr>();
    let control: &[u8; DATA + 8] = control.first_chunk()?;
    let number = |at: usize| i32::from_ne_bytes([control[at], control[at + 1], control[at + 2], control[at + 3]]);
    // `cmsghdr` ends with level and kind; then comes a `sockaddr_in`.
    if (number(DATA - 8), number(DATA - 4)) != (libc::IPPROTO_IP, libc::IP_ORIGDSTADDR) {
        return None;
    }
    let port = u16::from_be_bytes([control[DATA + 2], control[DATA + 3]]);
    Some((port, Ipv4Addr::new(control[DATA + 4], control[DATA + 5], control[DATA + 6], control[DATA + 7])))
}

pub(super) fn socket(kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the answer is a fresh descriptor that nobody else owns.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, protocol))?)) }
}

pub(super) fn bind_to(fd: &OwnedFd, address: Ipv4Addr) -> io::Result<()> {
    let (address, len) = (socket_address(address), size_of::<libc::sockaddr_in>() as libc::socklen_t);
    // SAFETY: `address` holds `len` bytes of a socket address and lives through the call.
    check(unsafe { libc::bind(raw(fd.as_fd()), (&raw const address).cast(), len) }).map(drop)
}

/// An address without a port.
pub(super) fn socket_address(address: Ipv4Addr) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
        sin_zero: [0; 8],
    }
}

pub(super) fn set_option(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is `bytes` long and lives through the call.
    check(unsafe { libc::setsockopt(raw(fd.as_fd()), level, name, (&raw const value).cast(), bytes) }).map(drop)
}

fn option(fd: &OwnedFd, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` has room for `bytes`; both live through the call.
    check(unsafe { libc::getsockopt(raw(fd.as_fd()), level, name, (&raw mut value).cast(), &mut bytes) })?;
    Ok(value)
}

/// As much as is wanted, or as the system's limits allow.
pub(super) fn grow(fd: &OwnedFd, (by_force, politely): (libc::c_int, libc::c_int), bytes: libc::c_int) {
    if set_option(fd, libc::SOL_SOCKET, by_force, bytes).is_err() {
        let _ = set_option(fd, libc::SOL_SOCKET, politely, bytes);
    }
}
