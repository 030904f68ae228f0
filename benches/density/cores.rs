//! What became of a core's time: what everybody who ran there used of it, by the scheduler's clock.
//!
//! Why not by ticks: `/proc/stat` says what was running whenever the timer of the core interrupted it, and a gateway that sleeps until a
//! timer runs in those very moments more often than in others. A process' own time (`/proc/PID/schedstat`) is exact, so the difference of
//! the two found other programs where there were none. Here both sides are sums of what the scheduler charges when one task leaves the
//! core to another. In this order, as the kernel has it:
//!
//! 1. `cpuacct.usage_percpu` of the group of all programs: the clock by which a process is charged, too.
//! 2. `/proc/schedstat`: the time between arrival and departure, from which what the hypervisor stole and interrupts that are timed for
//!    themselves are taken off, since no process is charged for them.
//! 3. The ticks, as before.

use std::path::Path;

/// Nanoseconds of all tasks on each core; and what only the group of all programs has, not that of a container.
const USAGE: &str = "/sys/fs/cgroup/cpuacct/cpuacct.usage_percpu";
const SIGN_OF_ALL: &str = "/sys/fs/cgroup/cpuacct/release_agent";
/// A tick of `/proc/stat`.
const TICK_NANOS: i64 = 10_000_000;

/// What became of some cores' time since the machine started, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreTime {
    /// Used by tasks: threads of all programs and of the kernel.
    pub tasks: i64,
    /// Taken away by the hypervisor for somebody else.
    pub stolen: i64,
}

impl CoreTime {
    /// Of all `cores` together.
    pub fn of(cores: &[usize]) -> CoreTime {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let group = if Path::new(SIGN_OF_ALL).exists() { read(USAGE) } else { String::new() };
        CoreTime::read(cores, &group, &read("/proc/schedstat"), &read("/proc/stat"))
    }

    fn read(cores: &[usize], group: &str, queues: &str, stat: &str) -> CoreTime {
        let each = cores.iter().map(|&core| {
            let ticks = Ticks::read(core, stat);
            let by_queue = || Some(of_queue(core, queues)? - ticks.stolen - ticks.interrupts);
            CoreTime { tasks: of_group(core, group).or_else(by_queue).unwrap_or(ticks.tasks), stolen: ticks.stolen }
        });
        each.fold(CoreTime::default(), |all, one| CoreTime {
            tasks: all.tasks + one.tasks,
            stolen: all.stolen + one.stolen,
        })
    }

    /// What was added since `earlier`.
    pub fn since(self, earlier: CoreTime) -> CoreTime {
        CoreTime { tasks: self.tasks - earlier.tasks, stolen: self.stolen - earlier.stolen }
    }
}

/// One number for each core, in their order.
fn of_group(core: usize, text: &str) -> Option<i64> {
    text.split_whitespace().nth(core)?.parse().ok()
}

/// The seventh number behind a core's name: the time for which tasks ran there.
fn of_queue(core: usize, text: &str) -> Option<i64> {
    line_of(core, text)?.split_whitespace().nth(7)?.parse().ok()
}

fn line_of(core: usize, text: &str) -> Option<&str> {
    let name = format!("cpu{core}");
    text.lines().find(|line| line.split(' ').next() == Some(&name))
}

/// A core's line of `/proc/stat`, in nanoseconds.
#[derive(Default)]
struct Ticks {
    tasks: i64,
    /// Interrupts, where they are timed for themselves; 0 where whoever they interrupt pays for them.
    interrupts: i64,
    stolen: i64,
}

impl Ticks {
    fn read(core: usize, text: &str) -> Ticks {
        let words: Vec<&str> = line_of(core, text).unwrap_or_default().split_whitespace().collect();
        let nanos = |at: usize| words.get(at).and_then(|word| word.parse::<i64>().ok()).unwrap_or(0) * TICK_NANOS;
        let (user, nice, system, hard, soft, stolen) = (nanos(1), nanos(2), nanos(3), nanos(6), nanos(7), nanos(8));
        // A tick is an interrupt: only a kernel that times them sees any other.
        let (paid, interrupts) = if hard > 0 { (0, hard + soft) } else { (soft, 0) };
        Ticks { tasks: user + nice + system + paid, interrupts, stolen }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  10 0 10 9 9 0 9 9 0 0\ncpu0 1 1 1 9 9 0 1 1 0 0\ncpu1 300 20 100 9000 7 0 50 3 0 0\n\
                        cpu11 5 5 5 5 5 5 5 5 5 5\nintr 1 2\n";
    const QUEUES: &str = "version 17\ntimestamp 4300000000\ncpu0 0 0 1 2 3 4 5 6 7\ndomain0 MC 3 0 0\n\
                          cpu1 0 0 900 80 70 60 4123456789 55 44\ndomain0 MC 3 0 0\ncpu11 0 0 1 1 1 1 1 1 1\n";

    #[test]
    fn the_groups_account_is_taken_before_the_run_queues_and_that_before_the_ticks() {
        let stolen = 30_000_000;
        let tasks = |group: &str, queues: &str| CoreTime::read(&[1], group, queues, STAT);
        assert_eq!(tasks("111 4000000222 \n", QUEUES), CoreTime { tasks: 4_000_000_222, stolen });
        assert_eq!(tasks("", QUEUES), CoreTime { tasks: 4_123_456_789 - stolen, stolen });
        assert_eq!(tasks("", ""), CoreTime { tasks: 4_700_000_000, stolen }, "user, nice, system, softirq");
        assert_eq!(tasks("111\n", "version 17\n"), CoreTime { tasks: 4_700_000_000, stolen }, "no such core there");
    }

    #[test]
    fn interrupts_that_are_timed_for_themselves_are_nobodys() {
        let stat = "cpu1 300 20 100 9000 7 12 50 3 0 0\n";
        assert_eq!(CoreTime::read(&[1], "", "", stat).tasks, 4_200_000_000);
        assert_eq!(CoreTime::read(&[1], "", QUEUES, stat).tasks, 4_123_456_789 - 30_000_000 - 620_000_000);
        assert_eq!(CoreTime::read(&[1], "1 4000000222", QUEUES, stat).tasks, 4_000_000_222, "never charged");
    }

    #[test]
    fn several_cores_are_added_and_a_difference_is_what_came_since() {
        let before = CoreTime::read(&[0, 1], "100 200", "", STAT);
        let after = CoreTime::read(&[0, 1], "150 260", "", STAT);
        assert_eq!(after.since(before), CoreTime { tasks: 110, stolen: 0 });
        assert_eq!(CoreTime::read(&[5], "", "", ""), CoreTime::default(), "nothing is known");
    }

    #[test]
    fn this_machine_tells_of_its_first_core() {
        let core = engine::io::system::cores()[0];
        assert!(CoreTime::of(&[core]).tasks > 0);
    }
}
