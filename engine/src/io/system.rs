//! The few system calls that are not about sockets: wake-up, epoll, rest, memory lent to the kernel, cores, CPU time, file limit.
//!
//! Each is wrapped once, here, into something that cannot be misused; nothing outside `io` and no other code in it needs
//! `unsafe` for them.
//!
//! Why not a crate: the standard library lacks exactly these eight, and a crate that wraps the whole of libc would be a
//! larger thing to trust than this file.
#![allow(unsafe_code)]

use crate::time::Duration;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

/// Turns a C answer into a result.
pub(super) fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// The same for a wait, which a signal may end early.
fn check_wait(answer: libc::c_int) -> io::Result<libc::c_int> {
    match check(answer) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        answer => answer,
    }
}

fn timespec(duration: Duration) -> libc::timespec {
    let seconds = libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX);
    libc::timespec { tv_sec: seconds, tv_nsec: duration.subsec_nanos() as libc::c_long }
}

/// Lets `duration` pass, or less when a signal comes.
pub(super) fn rest(duration: Duration) {
    if duration > Duration::ZERO {
        let duration = timespec(duration);
        // SAFETY: `duration` lives through the call; what remains is not asked for.
        unsafe { libc::nanosleep(&duration, std::ptr::null_mut()) };
    }
}

/// CPU time that the calling thread has used.
pub fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) } != 0 {
        return Duration::ZERO;
    }
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Wakes a worker that waits in the kernel. Any thread may call [`WakeFd::wake`].
#[derive(Debug)]
pub struct WakeFd {
    fd: OwnedFd,
    /// Set by the first waker since the worker last looked: the others save the system call.
    notified: AtomicBool,
}

impl WakeFd {
    /// A new one.
    pub fn new() -> io::Result<WakeFd> {
        // Blocking, so that io_uring waits for it; nobody else reads it before epoll says so.
        // SAFETY: no pointers; the answer is a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::eventfd(0, libc::EFD_CLOEXEC))?) };
        Ok(WakeFd { fd, notified: AtomicBool::new(false) })
    }

    /// Ends the worker's wait, or keeps its next one from beginning. Call after what it shall see is in place.
    pub fn wake(&self) {
        if !self.notified.swap(true, Ordering::AcqRel) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: eight readable bytes. The counter cannot overflow: one write per turn of the worker.
            unsafe { libc::write(self.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }

    /// The worker is about to look at its queues: whatever comes after this wakes it again.
    pub fn looked(&self) {
        self.notified.swap(false, Ordering::AcqRel);
    }

    /// Takes the wake-ups that came, so that the descriptor is no longer readable. Call only when it is.
    pub(super) fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: eight writable bytes.
        unsafe { libc::read(self.fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Tells which of many descriptors can be read.
#[derive(Debug)]
pub(super) struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
    ready: usize,
}

impl Epoll {
    /// Answers at most `events_max` descriptors at once; the others come first the next time.
    pub(super) fn new(events_max: usize) -> io::Result<Epoll> {
        // SAFETY: no pointers; the answer is a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Epoll { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; events_max], ready: 0 })
    }

    /// Watches `fd`, which answers as `token`.
    pub(super) fn add(&self, fd: RawFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: `event` lives through the call.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) }).map(drop)
    }

    /// Watches `fd` no longer.
    pub(super) fn remove(&self, fd: RawFd) {
        // SAFETY: the kernel ignores the event pointer of a removal.
        unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    /// Waits at most `timeout`. Two calls, since epoll alone counts in milliseconds: rounded down it would spin, rounded up be late.
    pub(super) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.ready = 0;
        if timeout > Duration::ZERO {
            let mut readable = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let timeout = timespec(timeout);
            // SAFETY: one `pollfd`, which lives through the call like `timeout`; no signal mask.
            check_wait(unsafe { libc::ppoll(&mut readable, 1, &timeout, std::ptr::null()) })?;
        }
        let room = self.events.len() as libc::c_int;
        // SAFETY: `events` has room for `room` events.
        self.ready =
            check_wait(unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), room, 0) })? as usize;
        Ok(())
    }

    /// How many are ready.
    pub(super) fn ready(&self) -> usize {
        self.ready
    }

    /// Token of the `index`-th ready descriptor.
    pub(super) fn token(&self, index: usize) -> u64 {
        self.events[..self.ready][index].u64
    }
}

/// Zeroed memory of its own pages, for buffers that are lent to the kernel. Pages cost nothing before their first use.
#[derive(Debug)]
pub(super) struct Arena {
    start: NonNull<u8>,
    bytes: usize,
    leaked: bool,
}

impl Arena {
    /// `bytes` of memory, rounded up to whole pages.
    pub(super) fn new(bytes: usize) -> io::Result<Arena> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let bytes = bytes.max(1);
        // SAFETY: a fresh anonymous mapping touches no memory that exists.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Ok(Arena { start, bytes, leaked: false }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Where `range` begins, for the kernel.
    pub(super) fn pointer(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.bytes);
        self.start.as_ptr().wrapping_add(offset)
    }

    /// `len` bytes from `offset`. Ask only for what is not lent to the kernel.
    pub(super) fn slice(&mut self, offset: usize, len: usize) -> &mut [u8] {
        assert!(offset <= self.bytes && len <= self.bytes - offset);
        // SAFETY: in bounds by the line above, initialised by the kernel (zeroes), and unique through `&mut self`; the
        // kernel writes only into buffers that are lent to it, for which the drivers never ask a slice.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(offset), len) }
    }

    /// Never gives the memory back: the kernel may still write into it.
    pub(super) fn leak(&mut self) {
        self.leaked = true;
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if !self.leaked {
            // SAFETY: the mapping is ours, and no slice outlives `self`.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        }
    }
}

/// The cores this process may run on, ascending.
pub fn cores() -> Vec<usize> {
    // SAFETY: `cpu_set_t` is plain bits, for which zero is valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is writable and of the size that is named.
    let answer = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    if answer != 0 {
        return vec![0];
    }
    // SAFETY: every index is below CPU_SETSIZE.
    (0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect()
}

/// Keeps the calling thread on one core.
pub fn pin_to(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: `cpu_set_t` is plain bits, for which zero is valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `core` is below CPU_SETSIZE.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: `set` is readable and of the size that is named.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) }).map(drop)
}

/// Raises the number of files this process may open as far as it is allowed to: a bridge has three sockets, and the usual
/// soft limit is 1,024. Answers the limit now in force.
pub fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return 1024;
    }
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
        // SAFETY: `raised` is readable.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0 {
            return raised.rlim_cur;
        }
    }
    limit.rlim_cur
}

/// A borrowed descriptor's number.
pub(super) fn raw(fd: BorrowedFd<'_>) -> RawFd {
    fd.as_raw_fd()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes `io_uring_setup` answer EPERM on this thread, as a container's seccomp profile does.
    pub(in crate::io) fn forbid_io_uring() {
        forbid(libc::SYS_io_uring_setup);
    }

    /// Makes one system call answer EPERM on this thread.
    pub(in crate::io) fn forbid(system_call: libc::c_long) {
        let op = |code: u32, jump_true, jump_false, k| libc::sock_filter {
            code: code as u16,
            jt: jump_true,
            jf: jump_false,
            k,
        };
        let mut filter = [
            op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0), // the number of the system call
            op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, system_call as u32),
            op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
            op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: plain numbers; concerns this thread only.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).unwrap();
        // SAFETY: `program` and the filter it points to live through the call; concerns this thread only.
        check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) }).unwrap();
    }

    /// Takes one right from this thread (capset(2)).
    pub(in crate::io) fn give_up(capability: u32) {
        const VERSION_3: u32 = 0x2008_0522;
        // Version and thread; effective, permitted and inheritable rights, twice 32 of them.
        let (mut header, mut rights) = ([VERSION_3, 0], [[0u32; 3]; 2]);
        let (head, data) = (header.as_mut_ptr(), rights.as_mut_ptr());
        // SAFETY: both are as long as version 3 says, and concern this thread only.
        assert_eq!(unsafe { libc::syscall(libc::SYS_capget, head, data) }, 0);
        rights[capability as usize / 32][0] &= !(1 << (capability % 32));
        // SAFETY: as above.
        assert_eq!(unsafe { libc::syscall(libc::SYS_capset, head, rights.as_mut_ptr()) }, 0);
    }

    #[test]
    fn a_wake_before_the_wait_is_not_lost_and_counts_once() {
        let wake = WakeFd::new().unwrap();
        let mut epoll = Epoll::new(4).unwrap();
        epoll.add(wake.raw_fd(), 7).unwrap();
        wake.wake();
        wake.wake();
        epoll.wait(Duration::ZERO).unwrap();
        assert_eq!((epoll.ready(), epoll.token(0)), (1, 7));
        wake.clear();
        wake.looked();
        epoll.wait(Duration::ZERO).unwrap();
        assert_eq!(epoll.ready(), 0);
        wake.wake();
        epoll.wait(Duration::ZERO).unwrap();
        assert_eq!(epoll.ready(), 1);
    }

    #[test]
    fn an_arena_is_zeroed_and_its_slices_do_not_overlap() {
        let mut arena = Arena::new(10_000).unwrap();
        arena.slice(0, 100).fill(1);
        arena.slice(100, 100).fill(2);
        assert!(arena.slice(0, 100).iter().all(|&byte| byte == 1));
        assert!(arena.slice(200, 9_800).iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_thread_can_be_kept_on_its_last_core() {
        let last = *cores().last().unwrap();
        std::thread::spawn(move || {
            pin_to(last).unwrap();
            assert_eq!(cores(), [last]);
        })
        .join()
        .unwrap();
        assert!(pin_to(usize::MAX).is_err());
    }
}
