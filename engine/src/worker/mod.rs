//! One pinned thread per core. A bridge lives on one worker from first to last packet.

use crate::bridge::{BridgeCommand, BridgeConfig, BridgeEvent, BridgeId, Shared};
use crate::config::EngineConfig;
use crate::leg::LocalLeg;
use crate::metrics::Metrics;

/// From control to a worker. Plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Open a bridge; answered by `Opened` or `Refused`.
    Open {
        /// Its number.
        bridge: BridgeId,
        /// How it begins.
        config: BridgeConfig,
    },
    /// For one bridge. Unknown numbers are ignored: the bridge has ended.
    Bridge {
        /// Which.
        bridge: BridgeId,
        /// What.
        command: BridgeCommand,
    },
    /// End every bridge with `Cause::Shutdown` and stop the worker.
    Stop,
}

/// From a worker to control. Plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Sockets are bound.
    Opened {
        /// Which.
        bridge: BridgeId,
        /// Leg A, ports filled in.
        a: LocalLeg,
        /// Leg B, ports filled in.
        b: LocalLeg,
    },
    /// There will be no such bridge.
    Refused {
        /// Which.
        bridge: BridgeId,
        /// Why.
        reason: RefuseReason,
    },
    /// From a bridge.
    Bridge {
        /// Which.
        bridge: BridgeId,
        /// What.
        event: BridgeEvent,
    },
}

/// Why a bridge was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefuseReason {
    /// `BRIDGES_PER_WORKER_MAX` are open.
    Full,
    /// No media port is free.
    NoPort,
    /// The number is in use.
    Duplicate,
    /// The kernel gave no socket.
    NoSocket,
}

/// A running engine: its workers' ends of the mailboxes.
pub struct Engine {}

/// The queue to a worker is full: refuse the call and count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailboxFull;

impl Engine {
    /// Starts the workers. `wake` is called from a worker's thread after it has posted events; it must not block.
    pub fn start(
        _config: &EngineConfig,
        _shared: Shared,
        _wake: impl Fn() + Send + Sync + Clone + 'static,
    ) -> Result<Engine, StartError> {
        todo!()
    }

    /// How many workers run.
    pub fn workers(&self) -> usize {
        todo!()
    }

    /// The worker with the fewest bridges.
    pub fn least_loaded(&self) -> usize {
        todo!()
    }

    /// Sends a command to a worker; never waits.
    pub fn command(&self, _worker: usize, _command: Command) -> Result<(), MailboxFull> {
        todo!()
    }

    /// The next event of a worker.
    pub fn poll_event(&self, _worker: usize) -> Option<Event> {
        todo!()
    }

    /// The worker's counters, at most a second old.
    pub fn metrics(&self, _worker: usize) -> Metrics {
        todo!()
    }

    /// Which kernel interface the workers ended up with.
    pub fn driver(&self) -> crate::config::Driver {
        todo!()
    }

    /// Stops all workers and waits for them.
    pub fn stop(self) {
        todo!()
    }
}

/// Why the engine did not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration.
    Config(crate::config::ConfigError),
    /// The system.
    Io(std::io::Error),
}
