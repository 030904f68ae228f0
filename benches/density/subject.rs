//! What is measured: the real gateway, or the floor, each a process of its own on the measured core.

use super::dial::{Dial, Dialler, EdgeDial, FloorDial, Http};
use super::driver::DriverDial;
use super::process::{Guarded, dies_with_this_thread, keep_on};
use super::rival::NgDial;
use anyhow::{Context, Result, bail};
use engine::io::clock;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Patience with a program that starts.
const START_TIME_MAX: Duration = Duration::from_secs(10);
/// Threads that place calls.
const DIALLERS: usize = 8;

/// The variable by which a process keeps to libopus as it is published.
const LIBOPUS_PLAIN: &str = "LIBOPUS_PLAIN";

/// Which functions of libopus a floor uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Functions {
    /// Those that everybody has: the floor.
    AsPublished,
    /// Those that the gateway puts in their place, where the machine allows it.
    OfTheGateway,
}

/// Where everything is, and on which cores.
#[derive(Clone)]
pub struct Site {
    /// Programs.
    pub programs: PathBuf,
    /// Speech and logs.
    pub folder: PathBuf,
    /// The measured core or cores.
    pub measured: Vec<usize>,
    /// All others.
    pub others: Vec<usize>,
}

/// A running gateway.
pub struct Subject {
    /// Its process.
    pub process: Guarded,
    /// Where its figures are read.
    http: Option<Http>,
}

/// Settings of a gateway beyond the usual.
#[derive(Clone, Default)]
pub struct Settings {
    /// Worker threads.
    pub workers: usize,
    /// Sessions that it accepts; 0: its default.
    pub sessions_max: usize,
    /// More variables of its environment.
    pub environment: Vec<(String, String)>,
}

impl Subject {
    /// Starts `tandem edge`, which calls the SIP user agent at `sip_port`.
    pub fn tandem(site: &Site, sip_port: u16, settings: &Settings) -> Result<(Subject, Dialler)> {
        let (http, sip) = (free_port()?, free_port()?);
        let program = site.programs.join("tandem");
        let log = File::create(site.folder.join("gateway.log"))?;
        let mut command = Command::new(&program);
        command
            .arg("edge")
            .env_clear()
            .env("SIP_TARGET", format!("sip:bot@127.0.0.1:{sip_port}"))
            .env("SIP_BIND", format!("127.0.0.1:{sip}"))
            .env("EDGE_BIND", format!("127.0.0.1:{http}"))
            .env("PUBLIC_IP", "127.0.0.1")
            .env("MEDIA_BIND", "127.0.0.1")
            .env("MEDIA_PORTS", "10000-31999")
            .env("MEDIA_WORKERS", settings.workers.max(1).to_string())
            .env("RUST_LOG", "warn")
            .envs(settings.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if settings.sessions_max > 0 {
            command.env("SESSIONS_MAX", settings.sessions_max.to_string());
        }
        let process = start(&mut command, &site.measured, &site.others)
            .with_context(|| format!("{} does not start: cargo build --release -p control", program.display()))?;
        let mut subject = Subject { process, http: Some(Http::new(http)) };
        subject.wait_until_ready(site, http)?;
        let connections = (0..DIALLERS).map(|_| Box::new(EdgeDial(Http::new(http))) as Box<dyn Dial>);
        Ok((subject, Dialler::start(connections.collect())))
    }

    /// Starts the engine alone.
    pub fn driver(site: &Site, workers: usize) -> Result<(Subject, Dialler)> {
        let http = free_port()?;
        let log = File::create(site.folder.join("gateway.log"))?;
        let mut command = Command::new(site.programs.join("density"));
        command.args(["gateway", &http.to_string(), &workers.to_string()]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = start(&mut command, &site.measured, &site.others)?;
        let mut subject = Subject { process, http: Some(Http::new(http)) };
        subject.wait_until_ready(site, http)?;
        let connections = (0..DIALLERS).map(|_| Box::new(DriverDial(Http::new(http))) as Box<dyn Dial>);
        Ok((subject, Dialler::start(connections.collect())))
    }

    /// Starts rtpengine in user space with one thread for each kind of work.
    pub fn rtpengine(site: &Site, transcode: bool) -> Result<(Subject, Dialler)> {
        let port = free_port()?;
        let log = File::create(site.folder.join("rtpengine.log"))?;
        let mut command = Command::new("rtpengine");
        command.args(["--foreground", "--log-stderr", "--log-level=4", "--table=-1", "--interface=127.0.0.1"]);
        command.args([
            "--port-min=10000",
            "--port-max=31999",
            "--num-threads=1",
            "--media-num-threads=1",
            "--timeout=600",
        ]);
        command.arg(format!("--listen-ng=127.0.0.1:{port}")).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = start(&mut command, &site.measured, &site.others)
            .context("rtpengine is missing: apt-get install rtpengine-daemon")?;
        let deadline = clock::now() + START_TIME_MAX;
        while !NgDial::new(port, transcode)?.is_ready() {
            if clock::now() > deadline {
                bail!("rtpengine is not ready: see {}", site.folder.join("rtpengine.log").display());
            }
            pause(Duration::from_millis(20));
        }
        let connections =
            (0..DIALLERS).map(|_| NgDial::new(port, transcode).map(|dial| Box::new(dial) as Box<dyn Dial>));
        Ok((Subject { process, http: None }, Dialler::start(connections.collect::<Result<_>>()?)))
    }

    fn wait_until_ready(&mut self, site: &Site, port: u16) -> Result<()> {
        let deadline = clock::now() + START_TIME_MAX;
        while !matches!(Http::new(port).ask("GET", "/health", ""), Ok((200, _))) {
            if clock::now() > deadline || self.process.0.try_wait()?.is_some() {
                bail!("the gateway is not ready: see {}", site.folder.join("gateway.log").display());
            }
            pause(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Starts the floor. `functions`: of libopus.
    pub fn floor(
        site: &Site,
        flows_max: usize,
        complexity: Option<i32>,
        functions: Functions,
    ) -> Result<(Subject, Dialler)> {
        let program = std::env::current_exe()?;
        let mut command = Command::new(program);
        match functions {
            Functions::AsPublished => command.env(LIBOPUS_PLAIN, "1"),
            Functions::OfTheGateway => command.env_remove(LIBOPUS_PLAIN),
        };
        command.arg("floor").arg(flows_max.to_string()).arg(complexity.map_or("relay".into(), |c| c.to_string()));
        command.arg(&site.folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = start(&mut command, &site.measured, &site.others)?;
        let to = process.0.stdin.take().context("a pipe")?;
        let mut from = BufReader::new(process.0.stdout.take().context("a pipe")?);
        let mut line = String::new();
        from.read_line(&mut line)?;
        if line.trim() != "ready" {
            bail!("the floor does not start");
        }
        Ok((Subject { process, http: None }, Dialler::start(vec![Box::new(FloorDial { to, from })])))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Its counters and gauges, by name; empty where it has none.
    pub fn figures(&mut self) -> BTreeMap<String, f64> {
        let Some(Ok((200, text))) = self.http.as_mut().map(|http| http.ask("GET", "/metrics", "")) else {
            return BTreeMap::new();
        };
        let pairs = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
    }
}

/// Starts a program on some cores: a child inherits those of the thread that makes it.
fn start(command: &mut Command, measured: &[usize], others: &[usize]) -> Result<Guarded> {
    keep_on(0, measured)?;
    let child = dies_with_this_thread(command).spawn();
    keep_on(0, others)?;
    Ok(Guarded(child?))
}

/// A port that was free a moment ago, for TCP and UDP, and that the system lends to nobody: the generator's sockets have its others.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 6_100;
    const COUNT: u16 = 3_000;
    let start = (std::process::id() % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        #[expect(clippy::disallowed_methods, reason = "only to see whether somebody has the port")]
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port));
        if udp.is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port from {FIRST} on is free")
}

/// Waits; the only place that does, for programs that start.
pub fn pause(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "nothing tells when another program is ready")]
    std::thread::sleep(time);
}

/// The folder of this program: release programs stand together.
pub fn programs() -> Result<PathBuf> {
    Ok(std::env::current_exe()?.parent().unwrap_or(Path::new(".")).to_owned())
}

/// What a program says to `--version`.
pub fn version_of(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text)
        .lines()
        .next()
        .map(|line| format!("{program} {}", line.trim_start_matches("Version: ")))
}
