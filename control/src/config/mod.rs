//! The configuration: environment over file over default, checked once at start.
//!
//! Every setting has one name in the file (`section.key`) and, where operators of the original know one, one in the environment.
//! An error names both and says what to write instead. The table `SETTINGS` is the whole list: reading, checking for unknown
//! keys and the texts of errors all come from it.

mod accounts;
mod routing;
mod section;
mod settings;
mod show;
mod trunks;
mod values;

use crate::call::AcceptPolicy;
use crate::call::edge::{EdgeConfig, Route};
use crate::call::limits;
use crate::call::orchestrator::{NumberPolicy, OrchestratorConfig};
use crate::route::{DtlsBackend, Routes};
use crate::sip::{Credentials, SipConfig};
use crate::trace::redact::Secret;
use crate::whatsapp::graph_client::Provider;
pub use accounts::{ACCOUNTS_MAX, Account};
use engine::config::{Driver, EngineConfig};
use engine::sdp::Codec;
use section::Source;
use settings::{SETTINGS, complain};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use toml::de::DeTable;
use values::{Values, not_toml};

/// Which planes run in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Both.
    Tandem,
    /// Webhooks and Graph only.
    Orchestrator,
    /// Media and SIP only.
    Edge,
}

impl Mode {
    /// Whether webhooks are served here.
    pub fn orchestrates(self) -> bool {
        self != Mode::Edge
    }
}

/// Everything that can be configured. `Debug` prints no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Graph API.
    pub whatsapp: WhatsappSettings,
    /// Business numbers with an account or a policy of their own.
    pub accounts: Vec<Account>,
    /// What is served, to whom.
    pub http: HttpSettings,
    /// The media edge, as seen from both sides of its API.
    pub edge: EdgeSettings,
    /// The SIP side.
    pub sip: SipSettings,
    /// The engine.
    pub media: MediaSettings,
    /// What is kept of SIP messages.
    pub trace: TraceSettings,
    /// Trunks, users, groups, rules.
    pub routes: Routes,
    /// What was corrected while reading, and what is rarely meant.
    pub warnings: Vec<String>,
    /// Where each setting that is written comes from: `file:line`, or its variable.
    pub origins: BTreeMap<&'static str, String>,
}

/// WhatsApp's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhatsappSettings {
    /// Bearer token, or the provider's key.
    pub token: Secret,
    /// For webhooks that name no number.
    pub phone_id: String,
    /// Base URL of the Graph API.
    pub base: String,
    /// Whose API it is.
    pub provider: Provider,
    /// Key of the webhooks' signatures.
    pub app_secret: Secret,
    /// For the subscription check.
    pub verify_token: Secret,
    /// `name: value` of a header that webhooks must carry, where the provider does not sign.
    pub shared_header: Secret,
    /// Whether webhooks that prove nothing are taken from anywhere.
    pub webhooks_open: bool,
    /// Whether a flat `connect` is answered only when the call is accepted or over.
    pub flat_waits: bool,
    /// When calls are accepted.
    pub accept: AcceptPolicy,
    /// The same per phone number id.
    pub accept_by_number: BTreeMap<String, AcceptPolicy>,
    /// Live calls.
    pub calls_max: usize,
    /// The file that remembers calls over a restart.
    pub store: Option<PathBuf>,
}

/// The orchestrator's HTTP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// Address to bind.
    pub bind: IpAddr,
    /// Its port.
    pub port: u16,
    /// For HTTPS.
    pub tls: Option<TlsFiles>,
}

/// A certificate with its chain, and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, our own certificate first.
    pub certificate: PathBuf,
    /// The key.
    pub private_key: PathBuf,
}

/// The media edge's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeSettings {
    /// Base URL of a remote edge; `None`: the edge is in this process.
    pub api: Option<String>,
    /// Address that our own edge API binds.
    pub bind: SocketAddr,
    /// For HTTPS.
    pub tls: Option<TlsFiles>,
    /// Authorities that the planes trust in each other's certificates, beside the system's.
    pub trusted: Option<PathBuf>,
    /// Demanded of and sent to the other plane.
    pub token: Secret,
    /// Where a remote edge posts events to this orchestrator.
    pub callback_url: Option<String>,
    /// Seconds that a remote edge keeps sessions whose orchestrator says nothing; 0: for ever.
    pub lease_s: u32,
    /// Prefixes of callback URLs allowed beside loopback.
    pub callbacks_allowed: Vec<String>,
    /// Prefixes of SIP URIs that a session may name.
    pub destinations_allowed: Vec<String>,
    /// Codecs taken from the offers of sessions, best first.
    pub codecs: Vec<Codec>,
    /// Who does DTLS in sessions that do not say.
    pub dtls: DtlsBackend,
    /// Whether sessions may be keyed by `a=crypto` where the offer has no fingerprint.
    pub sdes: bool,
    /// Live sessions.
    pub sessions_max: usize,
}

/// The SIP side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SipSettings {
    /// SIP URI of the default route.
    pub target: Option<String>,
    /// Outbound proxy.
    pub proxy: Option<String>,
    /// Our own address.
    pub bind: SocketAddr,
    /// Digest user.
    pub user: String,
    /// Digest password.
    pub pass: Secret,
    /// Value of `X-Twilio-Account`.
    pub account_sid: String,
    /// Whether that header is sent: Twilio reserves names that begin so, and may refuse calls for it (error 32113).
    pub account_header: bool,
    /// Host part of From.
    pub from_host: Option<String>,
    /// Routes that a session may name: name to SIP URI.
    pub routes: BTreeMap<String, String>,
    /// Headers of INVITEs to the target and to routes, beside those that the gateway writes.
    pub headers: Vec<(String, String)>,
    /// Whether TCP is served beside UDP, at the same address.
    pub tcp: bool,
    /// Where TLS is served; `None`: nowhere.
    pub tls_bind: Option<SocketAddr>,
    /// Where softphones connect by secure WebSocket, beside `/sip` of the HTTP server; `None`: nowhere.
    pub wss_bind: Option<SocketAddr>,
    /// PEM file of our certificate and its chain; `None`: one is made at start, which no browser trusts.
    pub certificate: Option<PathBuf>,
    /// PEM file of its key.
    pub private_key: Option<PathBuf>,
    /// PEM file of authorities that are trusted beside the system's.
    pub trusted: Option<PathBuf>,
    /// Seconds between two OPTIONS that ask whether the default route's target lives; 0: never.
    pub options_s: u32,
    /// Domain of our users: realm of digest, host of their addresses.
    pub domain: Option<String>,
}

/// What is kept of SIP messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSettings {
    /// Whether messages are kept at all.
    pub messages: bool,
    /// Whether numbers stand in them as they came; otherwise only their last two digits.
    pub numbers: bool,
    /// Bytes kept of all calls.
    pub bytes_max: usize,
    /// Where a copy goes by HEP3.
    pub hep: Option<SocketAddr>,
    /// Written into each of its packets.
    pub hep_password: Secret,
    /// Who we are to the collector.
    pub hep_node: u32,
    /// Where a record of every call is appended.
    pub cdr: Option<PathBuf>,
}

impl Default for TraceSettings {
    fn default() -> TraceSettings {
        TraceSettings {
            messages: true,
            numbers: true,
            bytes_max: 32 << 20,
            hep: None,
            hep_password: Secret::default(),
            hep_node: 2_001,
            cdr: None,
        }
    }
}

/// The engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaSettings {
    /// UDP ports.
    pub ports: RangeInclusive<u16>,
    /// Addresses to advertise; empty: those that this host would send from.
    pub public_ip: Vec<IpAddr>,
    /// Address of this host that media sockets are bound to; `None`: all of them.
    pub bind: Option<IpAddr>,
    /// Worker threads; 0: one per core, less one.
    pub workers: usize,
    /// Whether workers are pinned to cores.
    pub pin: bool,
    /// Whether running calls may share one socket per worker, where the system allows it.
    pub steering: bool,
    /// Differentiated services code point of media; 0: not marked.
    pub dscp: u8,
    /// Kernel interface.
    pub driver: Driver,
    /// Least effort of the Opus encoders, when the core is busy.
    pub complexity_min: u8,
    /// Most effort of the Opus encoders, when it is not.
    pub complexity_max: u8,
}

/// A setting that cannot be used: where it stands, what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads the file, if one is named, and the environment.
    pub fn load(file: Option<&Path>, environment: impl Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let text = match file {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                ConfigError(format!("{} cannot be read: {error}; name another file with --config", path.display()))
            })?,
        };
        let name = file.map_or_else(String::new, |path| path.display().to_string());
        Config::read_named(&name, &text, environment)
    }

    /// Reads a file's text and the environment.
    pub fn read(text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        Config::read_named("the configuration file", text, environment)
    }

    fn read_named(name: &str, text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let source = Source { name, text, environment: &environment };
        let document = DeTable::parse(text).map_err(|error| not_toml(source, &error))?;
        let accounts = accounts::read(source, document.get_ref())?;
        let (mut routes, warnings) = routing::read(source, document.get_ref(), &accounts)?;
        let elsewhere: Vec<&str> = routing::SECTIONS.into_iter().chain([accounts::SECTION]).collect();
        let mut values = Values::from_file(source, document.get_ref(), &elsewhere)?;
        for setting in SETTINGS {
            // An empty variable is the way to say "unset" in unit files and compose files.
            if let Some(value) = environment(setting.variable).filter(|value| !value.trim().is_empty()) {
                values.plain.insert(setting.key, (value.trim().to_owned(), None));
            }
        }
        // systemd's StateDirectory= is where a service keeps such a file.
        if let Some(folder) = environment("STATE_DIRECTORY").filter(|folder| !folder.is_empty())
            && !values.plain.contains_key("whatsapp.store")
        {
            let first = folder.split(':').next().unwrap_or_default();
            let origin = Some("STATE_DIRECTORY".to_owned());
            values.plain.insert("whatsapp.store", (format!("{first}/tandem.redb"), origin));
        }
        routes.default_target = values.plain.get("sip.target").map(|(value, _)| value.clone());
        Ok(Config { accounts, ..values.build(routes, warnings)? })
    }

    /// What makes this configuration impossible in `mode`.
    pub fn check(&self, mode: Mode) -> Result<(), ConfigError> {
        let need =
            |key: &str, missing: bool| if missing { Err(complain(key, "is needed and not set")) } else { Ok(()) };
        let calls_users = self.accounts.iter().find(|account| account.outbound.is_some());
        if let Some(account) = calls_users.filter(|_| mode != Mode::Tandem || self.edge.api.is_some()) {
            return Err(ConfigError(format!(
                "accounts.{}: outbound = true needs both planes in one process: start tandem without a plane's name and without \
                 EDGE_API, or remove it",
                account.name
            )));
        }
        if mode.orchestrates() {
            let own_tokens = !self.accounts.is_empty() && self.accounts.iter().all(|account| account.token.is_some());
            need("whatsapp.token", self.whatsapp.token.0.is_empty() && !own_tokens)?;
            let needs_number = self.whatsapp.provider == Provider::Meta && self.whatsapp.phone_id.is_empty();
            if needs_number {
                // Envelopes name the number; only flat webhooks need the setting.
                tracing::warn!("WABA_PHONE_ID is not set: calls of flat webhooks cannot be accepted");
            }
        }
        let edge_is_here = mode != Mode::Orchestrator;
        if edge_is_here {
            let nowhere = self.sip.target.is_none() && self.sip.routes.is_empty();
            need("sip.target", nowhere && self.routes.rules.is_empty() && self.routes.users.is_empty())?;
            need("sip.certificate", self.sip.private_key.is_some() && self.sip.certificate.is_none())?;
            need("sip.private_key", self.sip.certificate.is_some() && self.sip.private_key.is_none())?;
        }
        if mode == Mode::Orchestrator {
            need("edge.api", self.edge.api.is_none())?;
        }
        if mode.orchestrates()
            && let Some(api) = &self.edge.api
        {
            // An edge elsewhere cannot reach our loopback, and where we do not listen on it, nobody can.
            let listens = self.http.bind.is_unspecified() || self.http.bind == IpAddr::from([127, 0, 0, 1]);
            need("edge.callback_url", self.edge.callback_url.is_none() && !(listens && is_on_loopback(api)))?;
        }
        Ok(())
    }

    /// The file that remembers calls over a restart. An edge has one of its own beside it, so that both processes may share a host
    /// and a configuration.
    pub fn store(&self, mode: Mode) -> Option<PathBuf> {
        let path = self.whatsapp.store.as_ref()?;
        if mode != Mode::Edge {
            return Some(path.clone());
        }
        let mut name = path.file_stem().unwrap_or_default().to_owned();
        name.push("-edge");
        if let Some(extension) = path.extension() {
            name.push(".");
            name.push(extension);
        }
        Some(path.with_file_name(name))
    }

    /// For the orchestrator.
    pub fn orchestrator(&self) -> OrchestratorConfig {
        OrchestratorConfig {
            phone_number_id: self.whatsapp.phone_id.clone(),
            accept: self.whatsapp.accept,
            numbers: self.numbers(),
            callback_url: self.edge.api.as_ref().map(|_| self.callback_url()),
            lease_s: self.edge.lease_s,
            calls_max: self.whatsapp.calls_max,
        }
    }

    /// What is particular to business numbers.
    fn numbers(&self) -> BTreeMap<String, NumberPolicy> {
        let mut numbers = BTreeMap::new();
        for (number, accept) in &self.whatsapp.accept_by_number {
            let policy = NumberPolicy { accept: Some(*accept), ..NumberPolicy::default() };
            numbers.insert(number.clone(), policy);
        }
        for account in &self.accounts {
            let policy: &mut NumberPolicy = numbers.entry(account.phone_number_id.clone()).or_default();
            policy.accept = account.accept.or(policy.accept);
            policy.destination.clone_from(&account.destination);
            policy.caller_id = account.caller_id.clone();
            policy.dtls = account.dtls;
        }
        numbers
    }

    /// For the engine.
    pub fn engine(&self) -> EngineConfig {
        let media = &self.media;
        EngineConfig {
            workers: media.workers,
            pin: media.pin,
            media_ports: media.ports.clone(),
            bind: media.bind,
            driver: media.driver,
            steering: media.steering,
            dscp: media.dscp,
            complexity: media.complexity_min..=media.complexity_max,
        }
    }

    /// For the edge: `sip_address` is what SIP peers reach us at, the others are written into descriptions.
    pub fn edge(&self, sip_address: SocketAddr, webrtc_addresses: Vec<IpAddr>, rtp_address: IpAddr) -> EdgeConfig {
        let credentials = (!self.sip.user.is_empty())
            .then(|| Credentials { username: self.sip.user.clone(), password: self.sip.pass.0.clone() });
        let mut headers = self.sip.headers.clone();
        if self.sip.account_header && !self.sip.account_sid.is_empty() {
            headers.push(("X-Twilio-Account".to_owned(), self.sip.account_sid.clone()));
        }
        let route = |target: &String| Route {
            target: target.clone(),
            proxy: self.sip.proxy.clone(),
            credentials: credentials.clone(),
            from_host: self.sip.from_host.clone(),
            headers: headers.clone(),
            options_s: None,
        };
        EdgeConfig {
            sip: SipConfig {
                accept_incoming: false,
                ..SipConfig::new(sip_address, "tandem", concat!("tandem/", env!("CARGO_PKG_VERSION")))
            },
            webrtc_addresses,
            rtp_address,
            dialplan: self.routes.clone(),
            realm: self.sip.domain.clone().unwrap_or_else(|| "tandem".to_owned()),
            default_route: self.sip.target.as_ref().map(|target| Route {
                options_s: Some(self.sip.options_s).filter(|seconds| *seconds != 0),
                ..route(target)
            }),
            routes: self.sip.routes.iter().map(|(name, target)| (name.clone(), route(target))).collect(),
            destinations_allowed: self.edge.destinations_allowed.clone(),
            callbacks_allowed: self.edge.callbacks_allowed.clone(),
            codecs: self.edge.codecs.clone(),
            dtls: self.edge.dtls,
            sdes: self.edge.sdes,
            sessions_max: self.edge.sessions_max,
            ring_ms_max: limits::RING_MS_MAX,
        }
    }

    fn callback_url(&self) -> String {
        self.edge.callback_url.clone().unwrap_or_else(|| format!("http://127.0.0.1:{}/edge/events", self.http.port))
    }
}

fn is_on_loopback(url: &str) -> bool {
    let host = reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
