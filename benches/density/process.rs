//! What the kernel says about a process: time, switches, memory; and how one is kept on its core.

use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// A child process that dies with its owner.
pub struct Guarded(pub Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has a program killed when this thread ends, however that happens: a gateway that outlives an interrupted run takes time of the next.
#[expect(unsafe_code, reason = "prctl(2) has no safe door")]
pub fn dies_with_this_thread(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only one system call is made, which neither allocates nor locks.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    }
}

/// Processor time and switches, since the process began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Nanoseconds on a processor, user and system.
    pub nanos: u64,
    /// Of these in user mode, by ticks of 10 ms.
    pub user_nanos: u64,
    /// And in the kernel.
    pub system_nanos: u64,
    /// Times a thread gave up its core by itself: wake-ups.
    pub sleeps: u64,
}

impl Usage {
    /// Of a process, all its threads.
    pub fn of(pid: u32) -> Result<Usage> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0) * 10_000_000;
        let mut usage = Usage { user_nanos: ticks(11), system_nanos: ticks(12), ..Usage::default() };
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            usage.nanos += first_number(&task.join("schedstat"));
            usage.sleeps += line_number(&task.join("status"), "voluntary_ctxt_switches:");
        }
        if usage.nanos == 0 {
            usage.nanos = usage.user_nanos + usage.system_nanos;
        }
        Ok(usage)
    }

    /// What was used since `earlier`.
    pub fn since(self, earlier: Usage) -> Usage {
        Usage {
            nanos: self.nanos.saturating_sub(earlier.nanos),
            user_nanos: self.user_nanos.saturating_sub(earlier.user_nanos),
            system_nanos: self.system_nanos.saturating_sub(earlier.system_nanos),
            sleeps: self.sleeps.saturating_sub(earlier.sleeps),
        }
    }
}

/// Resident bytes of a process, its own share of shared pages.
pub fn resident_bytes(pid: u32) -> u64 {
    line_number(&PathBuf::from(format!("/proc/{pid}/smaps_rollup")), "Pss:") * 1024
}

/// Bytes that the kernel holds for UDP sockets, of all processes.
pub fn udp_memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("UDP:")).unwrap_or_default();
    line.split(" mem ").nth(1).and_then(|pages| pages.trim().parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Kernel memory of sockets and their files, in bytes, of all processes; 0 where only root may know.
pub fn socket_memory_bytes() -> u64 {
    const SLABS: [&str; 4] = ["UDP", "UDPv6", "sock_inode_cache", "filp"];
    let text = std::fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let bytes_of = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let (active, _, bytes) = (words.next()?, words.next()?, words.next()?);
        Some(if SLABS.contains(&name) { active.parse::<u64>().ok()? * bytes.parse::<u64>().ok()? } else { 0 })
    };
    text.lines().filter_map(bytes_of).sum()
}

/// Asks for a better place among the programs of a busy machine: -20 is the best.
pub fn be_nice(value: i32) -> Result<()> {
    // Where the kernel groups programs by session, the group's place counts before that of its members.
    let _ = std::fs::write("/proc/self/autogroup", value.to_string());
    // SAFETY: numbers only.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).context("the priority cannot be chosen"),
    }
}

/// Datagrams that found a socket's receive buffer full, of all processes.
pub fn datagrams_lost() -> u64 {
    let text = std::fs::read_to_string("/proc/net/snmp").unwrap_or_default();
    let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let pairs = names.split(' ').zip(values.split(' '));
    pairs.filter(|(name, _)| *name == "RcvbufErrors").filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}

/// Keeps a process (0: this thread, and what it starts) on some cores.
pub fn keep_on(pid: i32, cores: &[usize]) -> Result<()> {
    // SAFETY: `cpu_set_t` is plain bits, for which zero is valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &core in cores.iter().filter(|core| **core < libc::CPU_SETSIZE as usize) {
        // SAFETY: `core` is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(core, &mut set) };
    }
    // SAFETY: `set` is readable and of the size that is named.
    match unsafe { libc::sched_setaffinity(pid, size_of::<libc::cpu_set_t>(), &set) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).context("the cores cannot be chosen"),
    }
}

/// What the machine is, without its name.
pub fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split(": ").nth(1).unwrap_or("unknown").to_owned()
    };
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.split('-').next().unwrap_or_default().trim().to_owned();
    let flags = field("flags");
    let width =
        ["avx512f", "avx2"].into_iter().find(|flag| flags.split(' ').any(|word| word == *flag)).unwrap_or("sse2");
    format!(
        "{} (family {}, model {}, {width}), {cores} cores, Linux {kernel}",
        field("model name"),
        field("cpu family"),
        field("model\t")
    )
}

fn first_number(path: &Path) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn line_number(path: &Path, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}
