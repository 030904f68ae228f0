//! One pinned thread per core. A bridge lives on one worker from first to last packet.
//!
//! ```text
//! control ──Command──> mailbox ──> turn ──> bridge ──> turn ──> mailbox ──Event──> control
//!                                  ▲  │                 │
//!                      io: packets ┘  └ timers          └ io: packets
//! ```
//!
//! [`Engine`] is control's end. On the other side each worker runs `turn`: it owns its sockets, ports, timers and bridges
//! alone, so that no packet meets a lock or an atomic. `open` finds a bridge its ports and sockets, `pool` its slot.
//!
//! Why a thread per core and not tasks that move: a call's packets find its keys, codecs and buffers in one core's cache,
//! and the time a turn takes can be read off one thread.

mod arrival;
pub mod core;
mod governor;
mod handshakes;
mod mailbox;
mod open;
pub mod pool;
pub mod timers;
mod turn;

use crate::bridge::{Bridge, BridgeCommand, BridgeConfig, BridgeEvent, BridgeId, Shared};
use crate::config::{Driver, EngineConfig};
use crate::io::ports::PortPool;
use crate::io::socket::MediaSocket;
use crate::io::steering::Steering;
use crate::io::{Net, clock, socket, system};
use crate::leg::LocalLeg;
use crate::limits::{BRIDGES_PER_WORKER_MAX, SOCKETS_PER_WORKER_MAX};
use crate::metrics::Metrics;
use crate::random::Random;
use crate::time::Duration;
use crate::worker::core::Core;
use governor::Governor;
use handshakes::Handshakes;
use mailbox::Mailbox;
use pool::Pool;
use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use timers::Timers;
use turn::{WindowStart, Worker};

/// From control to a worker. Plain data.
#[allow(
    clippy::large_enum_variant,
    reason = "the queue's places are made once, at start; a box would be made per call"
)]
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
    /// `BRIDGES_PER_WORKER_MAX` are open, or the core has no time for another call.
    Full,
    /// No media port is free.
    NoPort,
    /// The number is in use.
    Duplicate,
    /// The kernel gave no socket.
    NoSocket,
}

/// A running engine: its workers' ends of the mailboxes. Dropping it stops the workers and waits for them.
#[derive(Debug)]
pub struct Engine {
    workers: Vec<Handle>,
    driver: Driver,
}

/// Control's end of one worker.
#[derive(Debug)]
struct Handle {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
    /// The last counters that were read; between two reports they are the newest.
    metrics: Mutex<Metrics>,
}

/// The queue to a worker is full: refuse the call and count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailboxFull;

impl Engine {
    /// Starts the workers. `wake` is called from a worker's thread after it has posted events; it must not block.
    pub fn start(
        config: &EngineConfig,
        shared: Shared,
        wake: impl Fn() + Send + Sync + Clone + 'static,
    ) -> Result<Engine, StartError> {
        Engine::start_with::<Bridge>(config, shared, wake)
    }

    /// [`Engine::start`] with a core other than [`Bridge`].
    #[doc(hidden)]
    pub fn start_with<C: Core>(
        config: &EngineConfig,
        shared: C::Shared,
        wake: impl Fn() + Send + Sync + Clone + 'static,
    ) -> Result<Engine, StartError> {
        let cores = system::cores();
        let workers = config.check(cores.len()).map_err(StartError::Config)?;
        let open_files = system::raise_open_files();
        // The clock's zero lies before every worker's first turn.
        clock::now();
        let steering = steering(config);
        let mut engine = Engine { workers: Vec::with_capacity(workers), driver: Driver::IoUring };
        let (ready, started) = channel();
        for index in 0..workers {
            let mailbox = Arc::new(Mailbox::new().map_err(StartError::Io)?);
            let setup = Setup {
                index,
                workers,
                core: EngineConfig::core_of(index, &cores).filter(|_| config.pin),
                config: config.clone(),
                open_files,
                mailbox: Arc::clone(&mailbox),
                steering: steering.clone(),
            };
            let (shared, wake, ready) = (shared.clone(), Box::new(wake.clone()), ready.clone());
            let builder = std::thread::Builder::new().name(format!("media-{index}"));
            let thread = builder.spawn(move || run::<C>(setup, shared, wake, &ready)).map_err(StartError::Io)?;
            engine.workers.push(Handle { mailbox, thread: Some(thread), metrics: Mutex::default() });
        }
        drop(ready);
        let mut fallback = None;
        for _ in 0..workers {
            // A worker that dies before it answers takes the process with it.
            let ready = started.recv().map_err(|_| StartError::Io(io::ErrorKind::BrokenPipe.into()))?;
            let ready = ready.map_err(StartError::Io)?;
            if ready.driver == Driver::Mmsg {
                engine.driver = Driver::Mmsg;
            }
            fallback = ready.fallback.or(fallback);
        }
        if let Some(error) = fallback {
            tracing::warn!(%error, "media runs on recvmmsg, at a higher cost per packet: {}", remedy(&error));
        }
        Ok(engine)
    }

    /// How many workers run.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The worker with the fewest bridges.
    pub fn least_loaded(&self) -> usize {
        let load = |&index: &usize| self.workers[index].mailbox.load();
        (0..self.workers.len()).min_by_key(load).unwrap_or(0)
    }

    /// Sends a command to a worker; never waits. A worker that has stopped takes none.
    pub fn command(&self, worker: usize, command: Command) -> Result<(), MailboxFull> {
        self.workers[worker].mailbox.command(command)
    }

    /// The next event of a worker.
    pub fn poll_event(&self, worker: usize) -> Option<Event> {
        self.workers[worker].mailbox.poll_event()
    }

    /// The worker's counters, at most a second old.
    pub fn metrics(&self, worker: usize) -> Metrics {
        let handle = &self.workers[worker];
        let mut newest = handle.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(metrics) = handle.mailbox.newest_metrics() {
            *newest = metrics;
        }
        *newest
    }

    /// Which kernel interface the workers ended up with: `IoUring` when all of them have it.
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// Stops all workers and waits for them: every bridge says goodbye, at most `STOP_MS_MAX`. Who wants to see the last
    /// events sends `Command::Stop` first and reads until each bridge has ended.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for handle in &self.workers {
            handle.mailbox.stop();
        }
        for thread in self.workers.iter_mut().filter_map(|handle| handle.thread.take()) {
            // A worker that panicked has ended the process already.
            let _ = thread.join();
        }
    }
}

/// What a worker is told at start.
struct Setup {
    index: usize,
    workers: usize,
    core: Option<usize>,
    config: EngineConfig,
    open_files: u64,
    mailbox: Arc<Mailbox>,
    steering: Option<Arc<Steering>>,
}

/// What is said where steering is refused.
const NOT_STEERED: &str = "calls are heard by a socket each, at a higher cost per packet: CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW \
                           would let them share one";

/// Steering for all workers, if it is wanted and allowed.
fn steering(config: &EngineConfig) -> Option<Arc<Steering>> {
    if !config.steering || config.driver == Driver::Mmsg {
        return None;
    }
    match Steering::start(config.media_ports.clone()) {
        Ok(steering) => Some(Arc::new(steering)),
        Err(error) => {
            tracing::info!(%error, "{NOT_STEERED}");
            None
        }
    }
}

/// What a worker says when it has started.
struct Ready {
    driver: Driver,
    fallback: Option<io::Error>,
}

/// The whole life of a worker's thread. A panic in it ends the process: its calls could neither go on nor be ended.
fn run<C: Core>(setup: Setup, shared: C::Shared, wake: Box<dyn Fn()>, ready: &Sender<io::Result<Ready>>) {
    let mailbox = Arc::clone(&setup.mailbox);
    let lived = catch_unwind(AssertUnwindSafe(|| match begin::<C>(setup, shared, wake) {
        Ok((worker, started)) => {
            let _ = ready.send(Ok(started));
            worker.run();
        }
        Err(error) => {
            mailbox.set_stopped();
            let _ = ready.send(Err(error));
        }
    }));
    if lived.is_err() {
        tracing::error!("a media worker panicked: the process ends");
        eprintln!("a media worker panicked: the process ends");
        std::process::abort();
    }
}

fn begin<C: Core>(setup: Setup, shared: C::Shared, wake: Box<dyn Fn()>) -> io::Result<(Worker<C>, Ready)> {
    if let Some(core) = setup.core
        && let Err(error) = system::pin_to(core)
    {
        tracing::warn!(worker = setup.index, core, %error, "a media worker is not pinned");
    }
    let family = socket::probe_family(setup.config.bind);
    if let Some(ip) = setup.config.bind
        && let Err(error) = MediaSocket::bind(family, Some(ip), 0)
    {
        return Err(io::Error::new(error.kind(), format!("media sockets cannot be bound to {ip}: {error}")));
    }
    let ports = PortPool::new(&setup.config.media_ports, setup.index, setup.workers);
    let open_files = usize::try_from(setup.open_files).unwrap_or(usize::MAX);
    let sockets_max = ports.len().min(SOCKETS_PER_WORKER_MAX).min(open_files);
    let mut started = Net::start(setup.config.driver, sockets_max, setup.mailbox.wake_fd())?;
    if let Some(steering) = setup.steering
        && let Err(error) = started.net.be_steered(&steering, setup.index, setup.config.bind, setup.config.dscp)
    {
        tracing::info!(worker = setup.index, %error, "{NOT_STEERED}");
    }
    let ready = Ready { driver: started.net.driver(), fallback: started.fallback };
    let mut seed = [0; 32];
    aws_lc_rs::rand::fill(&mut seed).map_err(|_| io::Error::other("the system gives no randomness"))?;
    let worker = Worker {
        mailbox: setup.mailbox,
        wake,
        net: started.net,
        ports,
        family,
        bind: setup.config.bind,
        dscp: setup.config.dscp,
        pool: Pool::new(BRIDGES_PER_WORKER_MAX),
        by_id: HashMap::with_capacity(BRIDGES_PER_WORKER_MAX),
        timers: Timers::new(BRIDGES_PER_WORKER_MAX),
        metrics: Metrics::default(),
        random: Random::from_seed(seed),
        shared,
        report_at: clock::now(),
        index: setup.index,
        overflow_said_at: None,
        governor: Governor::new(setup.config.complexity.clone()),
        window: WindowStart { at: clock::now(), cpu: system::thread_cpu(), ..WindowStart::default() },
        cpu: Duration::ZERO,
        carrying: 0,
        handshakes: Handshakes::default(),
        swept: 0,
        swept_at: clock::now(),
        stop_at: None,
        posted: false,
    };
    Ok((worker, ready))
}

/// What lets io_uring start the next time.
fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => {
            "io_uring is forbidden here; set the sysctl kernel.io_uring_disabled to 0, and in a container allow \
             io_uring_setup, io_uring_enter and io_uring_register in its seccomp profile"
        }
        Some(libc::ENOMEM) => {
            "raise the limit of locked memory (ulimit -l, LimitMEMLOCK=infinity, --ulimit memlock=-1)"
        }
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files (ulimit -n, LimitNOFILE)",
        Some(libc::EINVAL) => "io_uring needs Linux 6.1 or newer",
        _ => "io_uring did not start",
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
