//! Steering: the kernel puts what comes to the ports of running calls into one socket per worker (BPF `sk_lookup`, Linux 5.9).
//!
//! ```text
//!  datagram ── port is marked with a worker ──────> the worker's one socket, with the port that it was sent to
//!          └─ not marked, or not of our address ──> the port's own socket, as ever
//! ```
//!
//! A program of some thirty instructions, attached to the network namespace, looks a datagram's port up in a table that this process writes by
//! plain stores. It sees only what no connected socket takes. When this process ends, by whatever means, the kernel detaches it.
//!
//! Why: a socket, its file, its queue and its receive request are some fifteen cache lines for each packet, none of which is still in the
//! cache when a thousand other calls have had their turn. One socket is always there. With a raw socket for what is sent
//! (`ring/steered.rs`) a relayed packet costs the kernel a quarter less.
//!
//! Why not from a call's first packet on: what is not a call yet stays in a socket of its own, whose queue is its own too.
//!
//! Wants CAP_BPF (or CAP_SYS_ADMIN) and CAP_NET_ADMIN. Where anything is refused, everything works as without it.
#![allow(unsafe_code)]

use super::system::check;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// Workers of one process that can be steered to.
const WORKERS_MAX: usize = 256;
/// What `bpftool` shows.
const PROGRAM_NAME: [u8; 16] = *b"tandem_steering\0";

/// Commands of bpf(2).
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
/// How often a program is offered to a kernel that is interrupted.
const PROG_LOAD_TRIES_MAX: usize = 10;
const LINK_CREATE: libc::c_int = 28;
/// Kinds of maps and programs, and flags.
const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_SOCKMAP: u32 = 15;
const MAP_FLAG_MMAPABLE: u32 = 1 << 10;
const PROG_TYPE_SK_LOOKUP: u32 = 30;
const ATTACH_SK_LOOKUP: u32 = 36;

/// `bpf_attr` of `MAP_CREATE`, as far as it is used.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// `bpf_attr` of `MAP_UPDATE_ELEM`.
#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `bpf_attr` of `PROG_LOAD`, as far as it is used.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// `bpf_attr` of `LINK_CREATE`, as far as it is used.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// The attached program and its tables. Workers share it; each marks ports of its own.
#[derive(Debug)]
pub struct Steering {
    sockets: OwnedFd,
    marks: Marks,
    ports: RangeInclusive<u16>,
    _link: OwnedFd,
}

/// The table of ports, as this process sees it. An entry is the worker's number plus one, and the address of the host in the upper half,
/// as the kernel writes addresses; 0: any. An entry of 0 is no mark.
#[derive(Debug)]
struct Marks {
    start: NonNull<AtomicU64>,
    /// The port of the first entry, and how many there are.
    first: u16,
    count: usize,
}

// SAFETY: the entries are atomic, and the mapping ends with `Marks`.
unsafe impl Send for Marks {}
// SAFETY: as above.
unsafe impl Sync for Marks {}

impl Steering {
    /// Attaches the program to this process' network namespace, for `ports`, each of which costs eight bytes. Fails where the system or its
    /// settings forbid it.
    pub fn start(ports: RangeInclusive<u16>) -> io::Result<Steering> {
        let sockets = create_map(MAP_TYPE_SOCKMAP, WORKERS_MAX as u32, 0)?;
        let table = create_map(MAP_TYPE_ARRAY, ports.len() as u32, MAP_FLAG_MMAPABLE)?;
        let marks = Marks::map(&table, &ports)?;
        let program = load(&program(*ports.start(), table.as_raw_fd(), sockets.as_raw_fd()))?;
        let namespace = File::open("/proc/self/ns/net")?;
        let link = bpf(
            LINK_CREATE,
            &LinkCreate {
                prog_fd: program.as_raw_fd() as u32,
                target_fd: namespace.as_raw_fd() as u32,
                attach_type: ATTACH_SK_LOOKUP,
                flags: 0,
            },
        )?;
        Ok(Steering { sockets, marks, ports, _link: link })
    }

    /// The ports that can be marked.
    pub(super) fn ports(&self) -> &RangeInclusive<u16> {
        &self.ports
    }

    /// From now on datagrams to ports marked with `worker` come to `socket`, until that is closed.
    pub(super) fn receive_at(&self, worker: usize, socket: BorrowedFd<'_>) -> io::Result<()> {
        if worker >= WORKERS_MAX {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        let (key, value) = (worker as u32, socket.as_raw_fd() as u64);
        let update = MapUpdate {
            map_fd: self.sockets.as_raw_fd() as u32,
            key: &raw const key as u64,
            value: &raw const value as u64,
            flags: 0,
        };
        // SAFETY: `update` is readable, and so are key and value, of the sizes that the map was made with.
        check(unsafe { call(MAP_UPDATE_ELEM, &update) }).map(drop)
    }

    /// Marks a port with a worker; `address`: only of datagrams to it.
    pub(super) fn mark(&self, port: u16, worker: usize, address: Option<Ipv4Addr>) {
        let address = address.map_or(0, |address| u32::from_ne_bytes(address.octets()));
        if let Some(entry) = self.marks.entry(port) {
            entry.store(u64::from(address) << 32 | (worker as u64 + 1), Ordering::Relaxed);
        }
    }

    /// The port's own socket gets what comes to it again.
    pub(super) fn unmark(&self, port: u16) {
        if let Some(entry) = self.marks.entry(port) {
            entry.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
impl Steering {
    /// Whether a port has a mark.
    pub(super) fn is_marked(&self, port: u16) -> bool {
        self.marks.entry(port).is_some_and(|entry| entry.load(Ordering::Relaxed) != 0)
    }
}

impl Marks {
    fn map(table: &OwnedFd, ports: &RangeInclusive<u16>) -> io::Result<Marks> {
        let (access, fd) = (libc::PROT_READ | libc::PROT_WRITE, table.as_raw_fd());
        let (first, count) = (*ports.start(), ports.len());
        let bytes = count * size_of::<u64>();
        // SAFETY: a fresh mapping; no address is asked for.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast()).map(|start| Marks { start, first, count }).ok_or(io::ErrorKind::OutOfMemory.into())
    }

    fn entry(&self, port: u16) -> Option<&AtomicU64> {
        let index = usize::from(port.checked_sub(self.first)?);
        // SAFETY: the mapping has `count` entries and lives as long as `self`; the kernel only reads it.
        (index < self.count).then(|| unsafe { self.start.add(index).as_ref() })
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and borrowed by nobody any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.count * size_of::<u64>()) };
    }
}

/// # Safety
/// What `attributes` points to must be as the command wants it.
unsafe fn call<A>(command: libc::c_int, attributes: &A) -> libc::c_int {
    // SAFETY: `attributes` is readable and as long as is said; the rest is the caller's.
    unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<A>()) as libc::c_int }
}

/// A command whose answer is a descriptor.
fn bpf<A>(command: libc::c_int, attributes: &A) -> io::Result<OwnedFd> {
    // SAFETY: the callers' attributes point to what lives through the call and is as long as they say; the answer is a fresh
    // descriptor that nobody else owns.
    unsafe { Ok(OwnedFd::from_raw_fd(check(call(command, attributes))?)) }
}

fn create_map(map_type: u32, max_entries: u32, map_flags: u32) -> io::Result<OwnedFd> {
    bpf(MAP_CREATE, &MapCreate { map_type, key_size: 4, value_size: 8, max_entries, map_flags })
}

fn load(program: &[u64]) -> io::Result<OwnedFd> {
    let license = c"MIT";
    let attributes = ProgLoad {
        prog_type: PROG_TYPE_SK_LOOKUP,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: PROGRAM_NAME,
        prog_ifindex: 0,
        expected_attach_type: ATTACH_SK_LOOKUP,
    };
    // The kernel gives up checking a program when the thread is wanted for something else (a signal, io_uring's work).
    let mut tries = (1..PROG_LOAD_TRIES_MAX).map(|_| bpf(PROG_LOAD, &attributes));
    let passing =
        |loaded: &io::Result<OwnedFd>| matches!(loaded, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    tries.find(|loaded| !passing(loaded)).unwrap_or_else(|| bpf(PROG_LOAD, &attributes))
}

/// One instruction (`linux/bpf.h`): operation, registers, jump, number.
const fn insn(code: u8, to: u8, from: u8, jump: i16, number: i32) -> u64 {
    (code as u64) | ((to | from << 4) as u64) << 8 | (jump as u16 as u64) << 16 | (number as u32 as u64) << 32
}

/// The program. Its one argument is a `bpf_sk_lookup`; 1 means that the lookup goes on, with the socket that was assigned or without.
fn program(first: u16, table: libc::c_int, sockets: libc::c_int) -> Vec<u64> {
    const MOVE: u8 = 0xbf;
    const SET: u8 = 0xb7;
    const ADD: u8 = 0x07;
    const LOAD_32: u8 = 0x61;
    const STORE_32: u8 = 0x63;
    const LOAD_MAP: u8 = 0x18;
    const MAP_OF_FD: u8 = 1;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const IF_EQUAL: u8 = 0x15;
    const IF_OTHER: u8 = 0x55;
    const IF_OTHER_REGISTER: u8 = 0x5d;
    const MAP_LOOKUP_ELEM: i32 = 1;
    const SK_RELEASE: i32 = 86;
    const SK_ASSIGN: i32 = 124;
    // Places in `bpf_sk_lookup`.
    const FAMILY: i16 = 8;
    const PROTOCOL: i16 = 12;
    const LOCAL_IP4: i16 = 40;
    const LOCAL_PORT: i16 = 60;
    const OUT: i16 = i16::MAX;
    let mut program = vec![
        insn(MOVE, 6, 1, 0, 0),
        insn(LOAD_32, 2, 6, FAMILY, 0),
        insn(IF_OTHER, 2, 0, OUT, libc::AF_INET),
        insn(LOAD_32, 2, 6, PROTOCOL, 0),
        insn(IF_OTHER, 2, 0, OUT, libc::IPPROTO_UDP),
        // The port's mark: r0. A port below the first has a number that no table holds.
        insn(LOAD_32, 2, 6, LOCAL_PORT, 0),
        insn(ADD, 2, 0, 0, -i32::from(first)),
        insn(STORE_32, 10, 2, -4, 0),
        insn(MOVE, 2, 10, 0, 0),
        insn(ADD, 2, 0, 0, -4),
        insn(LOAD_MAP, 1, MAP_OF_FD, 0, table),
        0,
        insn(CALL, 0, 0, 0, MAP_LOOKUP_ELEM),
        insn(IF_EQUAL, 0, 0, OUT, 0),
        insn(LOAD_32, 2, 0, 0, 0),
        insn(IF_EQUAL, 2, 0, OUT, 0),
        // Our address, or any.
        insn(LOAD_32, 3, 0, 4, 0),
        insn(IF_EQUAL, 3, 0, 2, 0),
        insn(LOAD_32, 4, 6, LOCAL_IP4, 0),
        insn(IF_OTHER_REGISTER, 3, 4, OUT, 0),
        // The worker's socket: r7.
        insn(ADD, 2, 0, 0, -1),
        insn(STORE_32, 10, 2, -4, 0),
        insn(MOVE, 2, 10, 0, 0),
        insn(ADD, 2, 0, 0, -4),
        insn(LOAD_MAP, 1, MAP_OF_FD, 0, sockets),
        0,
        insn(CALL, 0, 0, 0, MAP_LOOKUP_ELEM),
        insn(IF_EQUAL, 0, 0, OUT, 0),
        insn(MOVE, 7, 0, 0, 0),
        insn(MOVE, 1, 6, 0, 0),
        insn(MOVE, 2, 7, 0, 0),
        insn(SET, 3, 0, 0, 0),
        insn(CALL, 0, 0, 0, SK_ASSIGN),
        insn(MOVE, 1, 7, 0, 0),
        insn(CALL, 0, 0, 0, SK_RELEASE),
        insn(SET, 0, 0, 0, 1),
        insn(EXIT, 0, 0, 0, 0),
    ];
    let out = program.len() - 2;
    for (at, instruction) in program.iter_mut().enumerate() {
        if *instruction >> 16 & 0xffff == OUT as u64 {
            *instruction = *instruction & !(0xffff << 16) | ((out - at - 1) as u64) << 16;
        }
    }
    program
}
