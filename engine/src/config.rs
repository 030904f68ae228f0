//! What the engine needs to know at start; checked once, then immutable.

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
    /// The range of media ports has fewer than four ports per worker.
    MediaPortsTooFew,
    /// More workers than `WORKERS_MAX`.
    WorkersTooMany,
}
