//! Our end of the engine's mailboxes: the workers' wake-up call becomes something that tokio can wait for.

use engine::bridge::Shared;
use engine::config::{ConfigError, EngineConfig};
use engine::dtls::Identity;
use engine::io::clock;
use engine::metrics::Metrics;
use engine::worker::{Command, Engine, Event, MailboxFull, StartError};
use std::sync::Arc;
use tokio::sync::Notify;

/// A running engine, as the control plane sees it.
pub struct EngineLink {
    engine: Engine,
    wake: Arc<Notify>,
}

/// Why the engine does not run.
#[derive(Debug)]
pub enum EngineError {
    /// The system gave no key for our certificate.
    Identity,
    /// The workers did not start.
    Start(StartError),
}

impl std::fmt::Display for EngineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EngineError::Identity => write!(f, "the system gave no key for the DTLS certificate"),
            EngineError::Start(StartError::Config(ConfigError::MediaPortsTooFew)) => {
                write!(f, "MEDIA_PORTS (media.ports in the file) is too narrow: write four ports or more per worker")
            }
            EngineError::Start(StartError::Config(ConfigError::WorkersTooMany)) => {
                write!(f, "MEDIA_WORKERS (media.workers in the file) is too high: write a lower number, or 0")
            }
            EngineError::Start(StartError::Config(ConfigError::ComplexityRange)) => write!(
                f,
                "MEDIA_COMPLEXITY_MIN is above MEDIA_COMPLEXITY_MAX (media.complexity_min and _max in the file): write two numbers from \
                 0 to 10, the lower one first"
            ),
            EngineError::Start(StartError::Config(ConfigError::DscpRange)) => {
                write!(f, "MEDIA_DSCP (media.dscp in the file) is too high: write a number from 0 to 63")
            }
            EngineError::Start(StartError::Io(error)) => write!(f, "the engine did not start: {error}"),
        }
    }
}

impl std::error::Error for EngineError {}

impl EngineLink {
    /// Makes a certificate and starts the workers.
    pub fn start(config: &EngineConfig) -> Result<EngineLink, EngineError> {
        let identity = Identity::generate().map_err(|_| EngineError::Identity)?;
        let wake = Arc::new(Notify::new());
        let waker = wake.clone();
        let shared = Shared { identity, anchor: clock::wall_anchor() };
        let engine = Engine::start(config, shared, move || waker.notify_one()).map_err(EngineError::Start)?;
        Ok(EngineLink { engine, wake })
    }

    /// How many workers run.
    pub fn workers(&self) -> usize {
        self.engine.workers()
    }

    /// Sends a command; never waits. A full mailbox gives it back.
    pub fn command(&self, worker: usize, command: Command) -> Result<(), Box<Command>> {
        // The mailbox keeps what it takes, so what it may refuse has to be kept here.
        let kept = command.clone();
        self.engine.command(worker, command).map_err(|MailboxFull| Box::new(kept))
    }

    /// The next event of a worker.
    pub fn poll_event(&self, worker: usize) -> Option<Event> {
        self.engine.poll_event(worker)
    }

    /// A worker's counters.
    pub fn metrics(&self, worker: usize) -> Metrics {
        self.engine.metrics(worker)
    }

    /// Which kernel interface is in use.
    pub fn driver(&self) -> &'static str {
        match self.engine.driver() {
            engine::config::Driver::IoUring => "io_uring",
            engine::config::Driver::Mmsg => "mmsg",
            engine::config::Driver::Auto => "auto",
        }
    }

    /// Ready when a worker has posted events since the last time. A wake-up that comes between is not lost.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Stops the workers and waits for them.
    pub fn stop(self) {
        self.engine.stop();
    }
}
