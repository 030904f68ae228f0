//! Memory of a call: what as many calls again add, over several steps.
//!
//! ```text
//! live bytes     `counted`, whose allocator knows whether a media worker or somebody else asked: the engine's and control's, exact
//! resident       `tandem` as it is shipped, by smaps_rollup: what the allocator makes of it, in pages
//! kernel         sockets and their files by slabinfo, receive queues by sockstat
//! ```
//! The targets are held against the live bytes: they are what the program asks for, and no page of another's counts in them.
//!
//! Why so long: SIP's transactions live for 32 s after a call has come up (RFC 3261 §17), and are no part of a call that lasts.

use super::super::dial::{Dial, Dialler, EdgeDial, Http};
use super::super::driver::DriverDial;
use super::super::generator::Generator;
use super::super::measure::round;
use super::super::process::{self, Guarded};
use super::super::subject::{Settings, Subject, free_port, pause};
use super::{EndKind, Run, progress};
use anyhow::{Context, Result, bail};
use engine::io::clock;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Calls that each step adds, and steps.
const CALLS: usize = 60;
const STEPS: usize = 3;
/// Calls begun a second.
const RAMP_PER_SECOND: f64 = 60.0;
/// What is read is read so long after the last call of a step is up: handshakes are forgotten by then.
const SETTLED: Duration = Duration::from_secs(8);
/// Beyond the longest of SIP's timers.
const SIP_SETTLED: Duration = Duration::from_secs(34);
/// Patience with a program that starts.
const START_TIME_MAX: Duration = Duration::from_secs(10);
/// Threads that place calls.
const DIALLERS: usize = 8;

/// Of the calls of a step so many must be up: some may be refused where others use the machine up.
const UP_SHARE_MIN: f64 = 0.9;

/// What was read at one step.
struct Reading {
    calls: f64,
    /// Bytes, in the order in which they are read.
    bytes: Vec<f64>,
}

/// A gateway that counts.
struct Counted {
    http: Http,
    /// Ends with it.
    _process: Guarded,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Counted {
    /// Bridges that it has.
    fn bridges(&mut self) -> Option<usize> {
        let (_, figures) = self.http.ask("GET", "/metrics", "").ok()?;
        let line = figures.lines().find_map(|line| line.strip_prefix("engine_bridges_open "))?;
        line.trim().parse().ok()
    }

    /// Live bytes that the workers asked for, that everybody else did, and of C's heap.
    fn read(&mut self) -> Result<Vec<f64>> {
        let mut line = String::new();
        writeln!(self.to)?;
        self.to.flush()?;
        self.from.read_line(&mut line)?;
        let figures: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if figures.len() != 3 { bail!("the counting gateway says {line:?}") } else { Ok(figures) }
    }
}

impl Run {
    /// Bytes per call.
    pub fn memory(&self) -> Result<Value> {
        let whole = self.counted(self.telephone(), true)?;
        let relayed = self.counted(self.relayed(), false)?;
        let shipped = self.resident(self.telephone(), true)?;
        let shipped_relayed = self.resident(self.relayed(), false)?;
        let kib = |series: &[Reading], of: &[usize]| round(of.iter().map(|&at| slope(series, at)).sum::<f64>(), 1);
        let value = json!({
            "transcoded_engine_kib": kib(&whole, &[0, 2]),
            "transcoded_engine_in_c_kib": kib(&whole, &[2]),
            "relayed_engine_kib": kib(&relayed, &[0, 2]),
            "control_kib": kib(&whole, &[1]),
            "transcoded_resident_kib": kib(&shipped, &[0]),
            // The engine behind the bench's own door.
            "relayed_resident_kib": kib(&shipped_relayed, &[0]),
            // The gateway's three sockets: the generator's ends have none once a call is up.
            "kernel_socket_objects_kib": kib(&shipped, &[1]),
            "kernel_receive_memory_accounted_kib": kib(&shipped, &[2]),
            "each_step_kib": {
                "transcoded_workers_control_c": steps(&whole), "relayed_workers_door_c": steps(&relayed),
                "transcoded_resident_sockets_receive": steps(&shipped), "relayed_resident_sockets_receive": steps(&shipped_relayed),
            },
            "how": format!(
                "slope over {STEPS} steps of {CALLS} calls; engine and control by live bytes, each asked for by its threads; resident by \
                 smaps_rollup of the shipped program; kernel by slabinfo and sockstat"
            ),
        });
        progress(&format!("memory per call: {value}"));
        Ok(value)
    }

    /// Live bytes at each step: of the shipped edge, or of the engine alone.
    fn counted(&self, b: EndKind, edge: bool) -> Result<Vec<Reading>> {
        let mut generator = self.generator(self.caller(), b)?;
        let (mut counted, dialler) = self.start_counted(generator.sip_port, edge)?;
        generator.set_dialler(dialler);
        self.each_step(&mut generator, edge, &mut || Ok((counted.bridges(), counted.read()?)))
    }

    /// Pages at each step: resident of the process, and the kernel's for sockets and for receive queues. What the kernel has put down for
    /// receive queues is mostly a promise: a socket gives back what it was granted only when a quarter of its buffer has gathered.
    fn resident(&self, b: EndKind, edge: bool) -> Result<Vec<Reading>> {
        let mut generator = self.generator(self.caller(), b)?;
        let (mut subject, dialler) = match edge {
            true => Subject::tandem(&self.site, generator.sip_port, &Settings::default())?,
            false => Subject::driver(&self.site, 1)?,
        };
        generator.set_dialler(dialler);
        self.each_step(&mut generator, edge, &mut || {
            let kernel = [process::socket_memory_bytes(), process::udp_memory_bytes()];
            let reading = [process::resident_bytes(subject.pid()), kernel[0], kernel[1]].map(|bytes| bytes as f64);
            let bridges = subject.figures().get("engine_bridges_open").map(|&bridges| bridges as usize);
            Ok((bridges, reading.to_vec()))
        })
    }

    fn each_step(
        &self,
        generator: &mut Generator,
        has_sip: bool,
        read: &mut dyn FnMut() -> Result<(Option<usize>, Vec<f64>)>,
    ) -> Result<Vec<Reading>> {
        let mut readings = Vec::new();
        for step in 1..=STEPS {
            generator.ramp(CALLS, RAMP_PER_SECOND, Duration::from_secs(5))?;
            generator.run_for(if has_sip { SIP_SETTLED } else { SETTLED })?;
            let (bridges, bytes) = read()?;
            let calls = bridges.unwrap_or(0) as f64;
            if calls < (step * CALLS) as f64 * UP_SHARE_MIN {
                bail!("{calls} calls are up where {} should be", step * CALLS);
            }
            readings.push(Reading { calls, bytes });
        }
        Ok(readings)
    }

    fn start_counted(&self, sip_port: u16, edge: bool) -> Result<(Counted, Dialler)> {
        let (http, program) = (free_port()?, self.site.programs.join("counted"));
        let mut command = Command::new(&program);
        match edge {
            true => command
                .arg("edge")
                .env_clear()
                .env("SIP_TARGET", format!("sip:bot@127.0.0.1:{sip_port}"))
                .env("SIP_BIND", format!("127.0.0.1:{}", free_port()?))
                .env("EDGE_BIND", format!("127.0.0.1:{http}"))
                .env("PUBLIC_IP", "127.0.0.1")
                .env("MEDIA_BIND", "127.0.0.1")
                .env("MEDIA_PORTS", "10000-31999")
                .env("MEDIA_WORKERS", "1")
                .env("RUST_LOG", "warn"),
            false => command.args(["gateway", &http.to_string(), "1"]),
        };
        let log = File::create(self.site.folder.join("gateway.log"))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        process::keep_on(0, &self.site.measured)?;
        let child = process::dies_with_this_thread(&mut command).spawn();
        process::keep_on(0, &self.site.others)?;
        let child = child.with_context(|| format!("{}: cargo build --release -p benches", program.display()))?;
        let mut process = Guarded(child);
        let to = process.0.stdin.take().context("a pipe")?;
        let from = BufReader::new(process.0.stdout.take().context("a pipe")?);
        let deadline = clock::now() + START_TIME_MAX;
        while !matches!(Http::new(http).ask("GET", "/health", ""), Ok((200, _))) {
            if clock::now() > deadline || process.0.try_wait()?.is_some() {
                bail!("the counting gateway is not ready: see {}", self.site.folder.join("gateway.log").display());
            }
            pause(Duration::from_millis(20));
        }
        let connections = (0..DIALLERS).map(|_| match edge {
            true => Box::new(EdgeDial(Http::new(http))) as Box<dyn Dial>,
            false => Box::new(DriverDial(Http::new(http))),
        });
        Ok((Counted { http: Http::new(http), _process: process, to, from }, Dialler::start(connections.collect())))
    }
}

/// KiB of one more call, by least squares over the steps.
fn slope(series: &[Reading], at: usize) -> f64 {
    let mean = |of: &dyn Fn(usize) -> f64| (0..series.len()).map(of).sum::<f64>() / series.len().max(1) as f64;
    let (calls, bytes) = (|step: usize| series[step].calls, |step: usize| series[step].bytes[at]);
    let (calls_mean, bytes_mean) = (mean(&calls), mean(&bytes));
    let together = mean(&|step| (calls(step) - calls_mean) * (bytes(step) - bytes_mean));
    let alone = mean(&|step| (calls(step) - calls_mean).powi(2));
    together / alone / 1_024.0
}

/// KiB a call that each step but the first has added, for whoever wants to see how much it varies.
fn steps(series: &[Reading]) -> Value {
    let each = |pair: &[Reading]| -> Vec<f64> {
        let more = (pair[1].calls - pair[0].calls).max(1.0);
        let both = pair[1].bytes.iter().zip(&pair[0].bytes);
        both.map(|(after, before)| round((after - before) / more / 1_024.0, 1)).collect()
    };
    json!(series.windows(2).map(each).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_what_a_call_adds_whatever_all_share() {
        let reading = |calls: f64| Reading { calls, bytes: vec![1e9 + calls * 2_048.0] };
        let series: Vec<Reading> = [40.0, 79.0, 120.0].map(reading).into();
        assert!((slope(&series, 0) - 2.0).abs() < 1e-6);
        assert_eq!(steps(&series), json!([[2.0], [2.0]]));
    }
}
