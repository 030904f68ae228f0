//! The gateway itself, started as a child: its environment, its health, its timeline, its metrics, its end.
//!
//! Why a child and not a library call: what is shown is the program that is shipped, with the configuration that an operator writes.

use crate::whatsapp::{TOKEN, WhatsApp};
use anyhow::{Context, bail};
use control::sip::Credentials;
use engine::io::clock;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::{TcpListener, UdpSocket};
use tokio::process::{Child, Command};
use tokio::sync::Mutex as Waited;

/// Lines of the child's log that are kept for a failure's message.
const LOG_LINES_MAX: usize = 400;
/// Longest line kept.
const LOG_LINE_BYTES_MAX: usize = 2_000;
/// How long it may take to come up.
const START_LIMIT: Duration = Duration::from_secs(15);
/// How long it may drain after the first SIGTERM.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
/// How long it may take to end after the second.
const STOP_LIMIT: Duration = Duration::from_secs(8);
/// One request to it.
const REQUEST_LIMIT: Duration = Duration::from_secs(3);

/// How it is started.
#[derive(Clone)]
pub struct TandemConfig {
    /// The program.
    pub program: PathBuf,
    /// `SIP_TARGET`
    pub sip_target: String,
    /// `SIP_PROXY`
    pub sip_proxy: Option<String>,
    /// Digest credentials.
    pub credentials: Credentials,
    /// HTTP port; 0 draws one.
    pub port: u16,
    /// UDP range for media.
    pub media_ports: String,
    /// Further environment.
    pub environment: Vec<(String, String)>,
    /// Whether its log is also shown.
    pub verbose: bool,
    /// Whether there is a softphone's user, who is called first.
    pub agent: bool,
}

/// Where an agent signs in on the gateway's own page, and with which password.
pub const AGENT_PAGE: &str = "/agent?user=agent&domain=demo.example";
/// See [`AGENT_PAGE`].
pub const AGENT_PASSWORD: &str = "demo";

/// The gateway's configuration with an agent: WhatsApp's calls ring there while somebody is signed in, and go to the bot otherwise.
fn with_agent(sip_target: &str) -> String {
    format!(
        "[sip]\ndomain = \"demo.example\"\n[users.agent]\npassword = \"{AGENT_PASSWORD}\"\nname = \"Agent\"\n\
         [[routes]]\nname = \"the agent, else the bot\"\nsource = \"whatsapp\"\nto = [\"user:agent\", \"{sip_target}\"]\n"
    )
}

/// One step of a call.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Entry {
    /// Counts within the call.
    #[serde(default)]
    pub n: u64,
    /// Since the call's first step.
    pub at_ms: u64,
    /// Its name.
    pub step: String,
    /// In words.
    #[serde(default)]
    pub detail: String,
}

/// What the timeline endpoint answers.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Timeline {
    /// From the one asked for.
    pub entries: Vec<Entry>,
    /// Whether the call is over.
    #[serde(default)]
    pub ended: bool,
}

/// The gateway's HTTP side, whoever started it.
#[derive(Clone)]
pub struct Client {
    base: String,
    http: reqwest::Client,
}

impl Client {
    /// For the gateway at `base`.
    pub fn new(base: &str) -> anyhow::Result<Client> {
        let http = reqwest::Client::builder().no_proxy().timeout(REQUEST_LIMIT).build()?;
        Ok(Client { base: base.trim_end_matches('/').to_owned(), http })
    }

    /// Its base URL.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Whether it serves.
    pub async fn healthy(&self) -> bool {
        let answer = self.http.get(format!("{}/health", self.base)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// The steps of a call from `since` on.
    pub async fn timeline(&self, call_id: &str, since: u64) -> anyhow::Result<Timeline> {
        let url = format!("{}/calls/{}/timeline?since={since}", self.base, percent(call_id));
        let answer = self.http.get(url).send().await?;
        match answer.status().as_u16() {
            404 => Ok(Timeline::default()),
            200 => Ok(answer.json().await?),
            status => bail!("the timeline answered {status}"),
        }
    }

    /// Its metrics.
    pub async fn metrics(&self) -> anyhow::Result<Vec<Sample>> {
        let answer = self.http.get(format!("{}/metrics", self.base)).send().await?.error_for_status()?;
        Ok(parse_metrics(&answer.text().await?))
    }
}

/// One line of the metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Without labels.
    pub name: String,
    /// With labels, as written.
    pub series: String,
    /// Its value.
    pub value: f64,
}

/// Reads the text exposition; lines that are none are left out.
pub fn parse_metrics(text: &str) -> Vec<Sample> {
    let sample = |line: &str| {
        let (series, value) = line.trim().rsplit_once(' ')?;
        let name = series.split('{').next()?.to_owned();
        Some(Sample { name, series: series.to_owned(), value: value.parse().ok()? })
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

/// Endings of the names that stand for something alive; each must be zero when no call is.
const ALIVE: [&str; 9] =
    ["_alive", "_live", "_open", "_lent", "_active", "timers_set", "ports_in_use", "ports_used", "sessions"];

/// What of the metrics stands for something that a call leaves behind.
pub fn alive(samples: &[Sample]) -> Vec<&Sample> {
    samples.iter().filter(|sample| ALIVE.iter().any(|ending| sample.name.ends_with(ending))).collect()
}

/// Whether it may be alive for up to 32 s after the call: SIP keeps what answers repetitions (RFC 3261 §17.1.2.2, RFC 6026 §7.1).
pub fn rests(sample: &Sample) -> bool {
    sample.name.contains("sip_") && sample.name.ends_with("_alive")
}

/// A call id in a path.
pub fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}

type Log = Arc<Mutex<VecDeque<String>>>;

/// A running child.
pub struct Tandem {
    child: Waited<Child>,
    log: Log,
    /// Its HTTP side.
    pub client: Client,
    /// Base URL of its media edge.
    pub edge: String,
}

impl Tandem {
    /// Starts it and waits until it serves.
    pub async fn start(config: &TandemConfig, whatsapp: &WhatsApp) -> anyhow::Result<Tandem> {
        let port = if config.port == 0 { free_tcp_port().await? } else { config.port };
        let (edge_port, sip_port) = (free_tcp_port().await?, free_udp_port().await?);
        let edge = format!("http://127.0.0.1:{edge_port}");
        let mut command = Command::new(&config.program);
        for (name, _) in std::env::vars().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        command
            .env("PORT", port.to_string())
            .env("EDGE_BIND", format!("127.0.0.1:{edge_port}"))
            .env("EDGE_API", &edge)
            .env("SIP_BIND", format!("127.0.0.1:{sip_port}"))
            .env("PUBLIC_IP", public_ip(config.agent).to_string())
            .env("MEDIA_PORTS", &config.media_ports)
            .env("WABA_BASE", whatsapp.graph_base())
            .env("WABA_TOKEN", TOKEN)
            .env("WABA_PHONE_ID", &whatsapp.account().phone_number_id)
            .env("SIP_TARGET", &config.sip_target)
            .env("TWILIO_SIP_USER", &config.credentials.username)
            .env("TWILIO_SIP_PASS", &config.credentials.password)
            .env("NO_PROXY", "127.0.0.1,localhost");
        if let Some(secret) = &whatsapp.account().app_secret {
            command.env("META_APP_SECRET", secret);
        }
        if let Some(proxy) = &config.sip_proxy {
            command.env("SIP_PROXY", proxy);
        }
        let file = std::env::temp_dir().join(format!("tandem-standin-{}.toml", std::process::id()));
        if config.agent {
            std::fs::write(&file, with_agent(&config.sip_target)).context("the gateway's configuration")?;
            command.arg("--config").arg(&file);
        }
        command.envs(config.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("{} does not start", config.program.display()))?;
        let log = Log::default();
        keep_log(child.stdout.take(), &log, config.verbose);
        keep_log(child.stderr.take(), &log, config.verbose);
        let client = Client::new(&format!("http://127.0.0.1:{port}"))?;
        let mut tandem = Tandem { child: Waited::new(child), log, client, edge };
        let started = tandem.wait_healthy().await;
        let _ = std::fs::remove_file(&file);
        started?;
        whatsapp.set_tandem(tandem.client.base().to_owned());
        Ok(tandem)
    }

    async fn wait_healthy(&mut self) -> anyhow::Result<()> {
        let limit = clock::now() + START_LIMIT;
        while clock::now() < limit {
            if let Some(status) = self.child.get_mut().try_wait()? {
                // What it printed last arrives a moment after its end.
                tokio::time::sleep(Duration::from_millis(50)).await;
                bail!("tandem ended at once ({status}); its log:\n{}", self.log_tail(20));
            }
            if self.client.healthy().await {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("tandem does not answer /health after {} s; its log:\n{}", START_LIMIT.as_secs(), self.log_tail(20))
    }

    /// The last lines it wrote.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().skip(log.len().saturating_sub(lines)).map(|line| format!("  | {line}\n")).collect()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.get_mut().try_wait(), Ok(None))
    }

    /// Waits for its end.
    pub async fn ended(&self) -> String {
        self.child.lock().await.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    /// Asks it to end, and ends it if it does not. Answers whether it ended by itself.
    ///
    /// The first SIGTERM drains, which SIP's resting transactions prolong; the second ends what is left.
    pub async fn stop(self) -> bool {
        let mut child = self.child.into_inner();
        for limit in [DRAIN_LIMIT, STOP_LIMIT] {
            if let Some(id) = child.id() {
                // There is no safe kill(2) in the standard library; the shell's is everywhere.
                let _ = Command::new("sh").arg("-c").arg(format!("kill -TERM {id}")).status().await;
            }
            if tokio::time::timeout(limit, child.wait()).await.is_ok() {
                return true;
            }
        }
        let _ = child.kill().await;
        false
    }
}

/// A browser that is the agent sends nothing to 127.0.0.1: its own sockets have the host's addresses.
fn public_ip(agent: bool) -> IpAddr {
    let mut addresses = crate::hosts::advertised(None).into_iter();
    addresses.find(|address| agent && address.is_ipv4()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Names that the child reads and that must come from us alone.
fn is_ours(name: &str) -> bool {
    ["WABA_", "EDGE_", "SIP_", "TWILIO_", "META_", "WEBHOOK_", "MEDIA_"].iter().any(|start| name.starts_with(start))
        || matches!(name, "PORT" | "PUBLIC_IP")
}

fn keep_log(stream: Option<impl AsyncRead + Send + Unpin + 'static>, log: &Log, verbose: bool) {
    let Some(stream) = stream else { return };
    let log = Arc::clone(log);
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if verbose {
                eprintln!("tandem | {line}");
            }
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.len() == LOG_LINES_MAX {
                log.pop_front();
            }
            log.push_back(line.chars().take(LOG_LINE_BYTES_MAX).collect());
        }
    });
}

/// A port that was free a moment ago.
async fn free_tcp_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?.port())
}

/// A port that was free a moment ago.
async fn free_udp_port() -> anyhow::Result<u16> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_id_is_quoted_for_a_path() {
        assert_eq!(percent("wacid.a/b+c=="), "wacid.a%2Fb%2Bc%3D%3D");
    }

    #[test]
    fn metrics_are_read_and_what_is_alive_is_found() {
        let samples = parse_metrics(
            "# HELP x y\nengine_sockets_open{worker=\"0\"} 2\nengine_timers_set 0\ncalls_total 7\nbroken\nsip_calls_alive 1\n",
        );
        assert_eq!(samples.len(), 4);
        let found: Vec<(&str, f64)> =
            alive(&samples).iter().map(|sample| (sample.series.as_str(), sample.value)).collect();
        assert_eq!(
            found,
            [("engine_sockets_open{worker=\"0\"}", 2.0), ("engine_timers_set", 0.0), ("sip_calls_alive", 1.0)]
        );
        assert_eq!(samples.iter().filter(|sample| rests(sample)).count(), 1);
    }
}
