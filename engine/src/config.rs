//! What the engine needs to know at start; checked once, then immutable.

use crate::io::ports;
use crate::limits::WORKERS_MAX;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// The engine's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Number of workers; 0 means one per core, less one for control where there is more than one.
    pub workers: usize,
    /// Pin worker i to the i-th core of the process' affinity mask, counted from the end.
    pub pin: bool,
    /// UDP ports for media, split among the workers.
    pub media_ports: RangeInclusive<u16>,
    /// Address to bind media sockets to; `None`: all, dual stack where the host has IPv6.
    pub bind: Option<IpAddr>,
    /// Which kernel interface moves datagrams.
    pub driver: Driver,
    /// Whether what comes for running calls may be steered to one socket per worker, where the system allows it (see `io::steering`).
    pub steering: bool,
    /// Differentiated services code point of every datagram that media sockets send (RFC 2474), 0 to `DSCP_MAX`; 0: not marked.
    pub dscp: u8,
    /// The Opus encoder's complexity: the least and the most that load may choose, each 0 to `COMPLEXITY_MAX`. Both the same: fixed.
    pub complexity: RangeInclusive<u8>,
}

/// Six bits.
pub const DSCP_MAX: u8 = 63;

/// Expedited forwarding: what RFC 4594 §4.1 and RFC 8837 §5 have for interactive audio.
pub const DSCP_DEFAULT: u8 = 46;

/// The most that libopus has.
pub const COMPLEXITY_MAX: u8 = 10;

/// What load may choose unless the configuration says otherwise. From 0 to 1 a call costs a thirtieth more and a fifth to a third of what
/// lies between Opus and mu-law alone is gone (`docs/decisions.md`, "libopus: flags, application, memory"); 2 costs a quarter more than 1.
pub const COMPLEXITY_DEFAULT: RangeInclusive<u8> = 1..=5;

impl EngineConfig {
    /// Checks it for a process that may run on `cores` cores; answers the number of workers.
    pub fn check(&self, cores: usize) -> Result<usize, ConfigError> {
        let workers = match self.workers {
            0 => cores.saturating_sub(1).clamp(1, WORKERS_MAX),
            workers => workers,
        };
        if self.complexity.is_empty() || *self.complexity.end() > COMPLEXITY_MAX {
            return Err(ConfigError::ComplexityRange);
        }
        if self.dscp > DSCP_MAX {
            return Err(ConfigError::DscpRange);
        }
        if workers > WORKERS_MAX {
            return Err(ConfigError::WorkersTooMany);
        }
        if 2 * ports::pairs_of(&self.media_ports).len() < workers * ports::PORTS_MIN {
            return Err(ConfigError::MediaPortsTooFew);
        }
        Ok(workers)
    }

    /// The core that worker `index` is pinned to.
    pub fn core_of(index: usize, cores: &[usize]) -> Option<usize> {
        (!cores.is_empty()).then(|| cores[cores.len() - 1 - index % cores.len()])
    }
}

/// Which kernel interface moves datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// io_uring, or recvmmsg/sendmmsg with one warning where it is forbidden.
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// recvmmsg/sendmmsg.
    Mmsg,
}

/// Why a configuration cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The encoder's complexity is no range within 0 to 10.
    ComplexityRange,
    /// The code point has more than six bits.
    DscpRange,
    /// The range of media ports has fewer than four ports per worker.
    MediaPortsTooFew,
    /// More workers than `WORKERS_MAX`.
    WorkersTooMany,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(workers: usize, media_ports: RangeInclusive<u16>) -> EngineConfig {
        EngineConfig {
            workers,
            pin: false,
            media_ports,
            bind: None,
            driver: Driver::Auto,
            steering: true,
            dscp: DSCP_DEFAULT,
            complexity: COMPLEXITY_DEFAULT,
        }
    }

    #[test]
    fn a_complexity_that_libopus_lacks_is_refused() {
        let with = |complexity| EngineConfig { complexity, ..config(1, 10_000..=20_000) }.check(1);
        assert_eq!((with(0..=10), with(3..=3)), (Ok(1), Ok(1)));
        #[expect(clippy::reversed_empty_ranges, reason = "that is the point")]
        let backwards = with(5..=4);
        assert_eq!((backwards, with(0..=11)), (Err(ConfigError::ComplexityRange), Err(ConfigError::ComplexityRange)));
    }

    #[test]
    fn a_code_point_of_more_than_six_bits_is_refused() {
        let with = |dscp| EngineConfig { dscp, ..config(1, 10_000..=20_000) }.check(1);
        assert_eq!((with(0), with(63), with(64)), (Ok(1), Ok(1), Err(ConfigError::DscpRange)));
    }

    #[test]
    fn control_keeps_one_core_where_there_is_more_than_one() {
        let workers = |cores| config(0, 10_000..=20_000).check(cores);
        assert_eq!((workers(0), workers(1), workers(2), workers(64)), (Ok(1), Ok(1), Ok(1), Ok(63)));
        assert_eq!(config(2, 10_000..=20_000).check(1), Ok(2));
    }

    #[test]
    fn four_ports_in_whole_pairs_are_the_least_a_worker_can_have() {
        assert_eq!(config(1, 10_000..=10_003).check(1), Ok(1));
        assert_eq!(config(1, 10_001..=10_004).check(1), Err(ConfigError::MediaPortsTooFew));
        assert_eq!(config(2, 10_000..=10_006).check(1), Err(ConfigError::MediaPortsTooFew));
        #[expect(clippy::reversed_empty_ranges, reason = "that is the point")]
        let backwards = config(1, 20_000..=10_000);
        assert_eq!(backwards.check(1), Err(ConfigError::MediaPortsTooFew));
    }

    #[test]
    fn more_workers_than_any_machine_has_are_refused() {
        assert_eq!(config(WORKERS_MAX + 1, 1024..=65_535).check(1), Err(ConfigError::WorkersTooMany));
    }

    #[test]
    fn workers_are_pinned_from_the_last_core_of_the_mask_on() {
        let cores = [1, 3, 5];
        let pinned: Vec<_> = (0..4).map(|index| EngineConfig::core_of(index, &cores)).collect();
        assert_eq!(pinned, [Some(5), Some(3), Some(1), Some(5)]);
        assert_eq!(EngineConfig::core_of(0, &[]), None);
    }
}
