//! The configuration: environment over file over default, checked once at start.
//!
//! Every setting has one name in the file (`section.key`) and, where operators of the original know one, one in the environment.
//! An error names both and says what to write instead. The table `SETTINGS` is the whole list: reading, checking for unknown
//! keys and the texts of errors all come from it.

use crate::call::AcceptPolicy;
use crate::call::edge::{EdgeConfig, Route};
use crate::call::limits;
use crate::call::orchestrator::OrchestratorConfig;
use crate::sip::{Credentials, SipConfig};
use crate::trace::redact::Secret;
use crate::whatsapp::graph_client::{BASE_DEFAULT, Provider};
use engine::config::{Driver, EngineConfig};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

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
    /// What is served, to whom.
    pub http: HttpSettings,
    /// The media edge, as seen from both sides of its API.
    pub edge: EdgeSettings,
    /// The SIP side.
    pub sip: SipSettings,
    /// The engine.
    pub media: MediaSettings,
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
}

/// The media edge's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeSettings {
    /// Base URL of a remote edge; `None`: the edge is in this process.
    pub api: Option<String>,
    /// Address that our own edge API binds.
    pub bind: SocketAddr,
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
    /// Host part of From.
    pub from_host: Option<String>,
    /// Routes that a session may name: name to SIP URI.
    pub routes: BTreeMap<String, String>,
}

/// The engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaSettings {
    /// UDP ports.
    pub ports: RangeInclusive<u16>,
    /// Addresses to advertise; empty: those that this host would send from.
    pub public_ip: Vec<IpAddr>,
    /// Worker threads; 0: one per core, less one.
    pub workers: usize,
    /// Whether workers are pinned to cores.
    pub pin: bool,
    /// Kernel interface.
    pub driver: Driver,
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

/// Name in the file, name in the environment (or nothing), what to write.
struct Setting {
    key: &'static str,
    variable: &'static str,
    remedy: &'static str,
}

const fn setting(key: &'static str, variable: &'static str, remedy: &'static str) -> Setting {
    Setting { key, variable, remedy }
}

const SETTINGS: &[Setting] = &[
    setting("whatsapp.token", "WABA_TOKEN", "write the Graph API's access token"),
    setting("whatsapp.phone_id", "WABA_PHONE_ID", "write the phone number id, digits only"),
    setting("whatsapp.base", "WABA_BASE", "write a URL such as https://graph.facebook.com/v24.0"),
    setting("whatsapp.provider", "WABA_PROVIDER", "write meta or 360dialog"),
    setting("whatsapp.app_secret", "META_APP_SECRET", "write the app secret of the webhooks' app"),
    setting("whatsapp.verify_token", "WEBHOOK_VERIFY_TOKEN", "write the token of the webhook subscription"),
    setting("whatsapp.shared_header", "WEBHOOK_SHARED_HEADER", "write name: value"),
    setting("whatsapp.webhooks_open", "WEBHOOKS_OPEN", "write true or false"),
    setting("whatsapp.accept", "ACCEPT_POLICY", "write on-answer, on-progress or immediate"),
    setting("whatsapp.calls_max", "CALLS_MAX", "write a number of calls from 1 to 100000"),
    setting("whatsapp.store", "STORE", "write the path of a file, such as /var/lib/tandem/tandem.redb, or none"),
    setting("http.bind", "BIND", "write an IP address, such as 0.0.0.0"),
    setting("http.port", "PORT", "write a port from 1 to 65535"),
    setting(
        "edge.api",
        "EDGE_API",
        "write a URL such as http://127.0.0.1:8080, or nothing for the edge in this process",
    ),
    setting("edge.bind", "EDGE_BIND", "write an address and port, such as 127.0.0.1:8080"),
    setting("edge.token", "EDGE_TOKEN", "write a secret, the same on both sides"),
    setting(
        "edge.callback_url",
        "CALLBACK_URL",
        "write the URL of this orchestrator's /edge/events as the edge sees it",
    ),
    setting("edge.lease_s", "EDGE_LEASE_S", "write seconds from 5 to 600, or 0 for no lease"),
    setting("edge.callbacks_allowed", "CALLBACKS_ALLOWED", "write URL prefixes, comma separated"),
    setting("edge.destinations_allowed", "DESTINATIONS_ALLOWED", "write SIP URI prefixes, comma separated"),
    setting("edge.sessions_max", "SESSIONS_MAX", "write a number of sessions from 1 to 100000"),
    setting("sip.target", "SIP_TARGET", "write a SIP URI, such as sip:bot@127.0.0.1:5080"),
    setting("sip.proxy", "SIP_PROXY", "write a SIP URI, such as sip:us1.sip.twilio.com"),
    setting("sip.bind", "SIP_BIND", "write an address and port, such as 0.0.0.0:5060"),
    setting("sip.user", "TWILIO_SIP_USER", "write the digest user name"),
    setting("sip.pass", "TWILIO_SIP_PASS", "write the digest password"),
    setting("sip.account_sid", "TWILIO_ACCOUNT_SID", "write the account SID, letters and digits only"),
    setting("sip.from_host", "SIP_FROM_HOST", "write a host name or address"),
    setting("media.ports", "MEDIA_PORTS", "write a range of UDP ports from 1024 up, such as 10000-60000"),
    setting("media.public_ip", "PUBLIC_IP", "write IP addresses, comma separated"),
    setting("media.workers", "MEDIA_WORKERS", "write a number of threads, or 0 for one per core"),
    setting("media.pin", "MEDIA_PIN", "write true or false"),
    setting("media.driver", "MEDIA_DRIVER", "write auto, io_uring or mmsg"),
];

/// Tables whose keys are the operator's own.
const TABLES: [&str; 2] = ["whatsapp.accept_by_number", "sip.routes"];

impl Config {
    /// Reads the file, if one is named, and the environment.
    pub fn load(file: Option<&Path>, environment: impl Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let text = match file {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                ConfigError(format!("{} cannot be read: {error}; name another file with --config", path.display()))
            })?,
        };
        Config::read(&text, environment)
    }

    /// Reads a file's text and the environment.
    pub fn read(text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let mut values = Values::from_file(text)?;
        for setting in SETTINGS {
            // An empty variable is the way to say "unset" in unit files and compose files.
            if let Some(value) = environment(setting.variable).filter(|value| !value.trim().is_empty()) {
                values.plain.insert(setting.key, (value.trim().to_owned(), true));
            }
        }
        // systemd's StateDirectory= is where a service keeps such a file.
        if let Some(folder) = environment("STATE_DIRECTORY").filter(|folder| !folder.is_empty())
            && !values.plain.contains_key("whatsapp.store")
        {
            let first = folder.split(':').next().unwrap_or_default();
            values.plain.insert("whatsapp.store", (format!("{first}/tandem.redb"), true));
        }
        values.build()
    }

    /// What makes this configuration impossible in `mode`.
    pub fn check(&self, mode: Mode) -> Result<(), ConfigError> {
        let need =
            |key: &str, missing: bool| if missing { Err(complain(key, "is needed and not set")) } else { Ok(()) };
        if mode.orchestrates() {
            need("whatsapp.token", self.whatsapp.token.0.is_empty())?;
            let needs_number = self.whatsapp.provider == Provider::Meta && self.whatsapp.phone_id.is_empty();
            if needs_number {
                // Envelopes name the number; only flat webhooks need the setting.
                tracing::warn!("WABA_PHONE_ID is not set: calls of flat webhooks cannot be accepted");
            }
        }
        let edge_is_here = mode != Mode::Orchestrator;
        if edge_is_here {
            need("sip.target", self.sip.target.is_none() && self.sip.routes.is_empty())?;
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

    /// For the orchestrator.
    pub fn orchestrator(&self) -> OrchestratorConfig {
        OrchestratorConfig {
            phone_number_id: self.whatsapp.phone_id.clone(),
            accept: self.whatsapp.accept,
            accept_by_number: self.whatsapp.accept_by_number.clone(),
            callback_url: self.edge.api.as_ref().map(|_| self.callback_url()),
            lease_s: self.edge.lease_s,
            calls_max: self.whatsapp.calls_max,
        }
    }

    /// Where calls are remembered.
    pub fn store_path(&self) -> Option<PathBuf> {
        self.whatsapp.store.clone()
    }

    /// For the engine.
    pub fn engine(&self) -> EngineConfig {
        let media = &self.media;
        EngineConfig {
            workers: media.workers,
            pin: media.pin,
            media_ports: media.ports.clone(),
            bind: None,
            driver: media.driver,
        }
    }

    /// For the edge: `sip_address` is what SIP peers reach us at, the others are written into descriptions.
    pub fn edge(&self, sip_address: SocketAddr, webrtc_addresses: Vec<IpAddr>, rtp_address: IpAddr) -> EdgeConfig {
        let credentials = (!self.sip.user.is_empty())
            .then(|| Credentials { username: self.sip.user.clone(), password: self.sip.pass.0.clone() });
        let mut headers = Vec::new();
        if !self.sip.account_sid.is_empty() {
            headers.push(("X-Twilio-Account".to_owned(), self.sip.account_sid.clone()));
        }
        let route = |target: &String| Route {
            target: target.clone(),
            proxy: self.sip.proxy.clone(),
            credentials: credentials.clone(),
            from_host: self.sip.from_host.clone(),
            headers: headers.clone(),
        };
        EdgeConfig {
            sip: SipConfig {
                advertised: sip_address,
                contact_user: "tandem".to_owned(),
                product: concat!("tandem/", env!("CARGO_PKG_VERSION")).to_owned(),
                demand: None,
                accept_incoming: false,
            },
            webrtc_addresses,
            rtp_address,
            default_route: self.sip.target.as_ref().map(route),
            routes: self.sip.routes.iter().map(|(name, target)| (name.clone(), route(target))).collect(),
            destinations_allowed: self.edge.destinations_allowed.clone(),
            callbacks_allowed: self.edge.callbacks_allowed.clone(),
            sessions_max: self.edge.sessions_max,
            ring_ms_max: limits::RING_MS_MAX,
        }
    }

    fn callback_url(&self) -> String {
        self.edge.callback_url.clone().unwrap_or_else(|| format!("http://127.0.0.1:{}/edge/events", self.http.port))
    }
}

/// The values that were written, before they are understood.
#[derive(Default)]
struct Values {
    /// Per key: the text, and whether it came from the environment.
    plain: BTreeMap<&'static str, (String, bool)>,
    tables: BTreeMap<&'static str, BTreeMap<String, String>>,
}

impl Values {
    fn from_file(text: &str) -> Result<Values, ConfigError> {
        let document: toml::Table =
            text.parse().map_err(|error: toml::de::Error| ConfigError(not_toml(text, &error)))?;
        let mut values = Values::default();
        for (section, content) in &document {
            let Some(content) = content.as_table() else {
                return Err(ConfigError(format!(
                    "{section} stands outside of a section: write it below [whatsapp], [sip] or the like"
                )));
            };
            for (key, value) in content {
                let name = format!("{section}.{key}");
                if let Some(table) = TABLES.iter().find(|table| **table == name) {
                    values.tables.insert(table, string_table(&name, value)?);
                } else if let Some(setting) = SETTINGS.iter().find(|setting| setting.key == name) {
                    values.plain.insert(setting.key, (plain(&name, value)?, false));
                } else {
                    return Err(ConfigError(format!("{name} is no setting: remove it or correct its spelling")));
                }
            }
        }
        Ok(values)
    }

    fn build(self) -> Result<Config, ConfigError> {
        let v = &self;
        Ok(Config {
            whatsapp: WhatsappSettings {
                token: v.header_value("whatsapp.token")?,
                phone_id: v.matching("whatsapp.phone_id", |c| c.is_ascii_digit())?,
                base: v.url("whatsapp.base")?.unwrap_or_else(|| BASE_DEFAULT.to_owned()),
                provider: v.one_of(
                    "whatsapp.provider",
                    &[("meta", Provider::Meta), ("360dialog", Provider::Dialog360)],
                    Provider::Meta,
                )?,
                app_secret: Secret(v.text("whatsapp.app_secret")),
                verify_token: Secret(v.text("whatsapp.verify_token")),
                shared_header: v.shared_header("whatsapp.shared_header")?,
                webhooks_open: v.one_of("whatsapp.webhooks_open", &YES_NO, false)?,
                accept: v.one_of("whatsapp.accept", &POLICIES, AcceptPolicy::OnAnswer)?,
                accept_by_number: v.policies("whatsapp.accept_by_number")?,
                calls_max: v.count("whatsapp.calls_max", limits::CALLS_MAX)?,
                store: v.optional("whatsapp.store").filter(|path| path != "none").map(PathBuf::from),
            },
            http: HttpSettings {
                bind: v.parsed("http.bind", IpAddr::from([0, 0, 0, 0]))?,
                port: v.parsed_if("http.port", 3_000, |port: &u16| *port != 0)?,
            },
            edge: EdgeSettings {
                api: v.url("edge.api")?,
                bind: v.parsed("edge.bind", SocketAddr::from(([127, 0, 0, 1], 8_080)))?,
                token: v.header_value("edge.token")?,
                callback_url: v.url("edge.callback_url")?,
                lease_s: v.parsed_if("edge.lease_s", limits::LEASE_S, |seconds: &u32| {
                    *seconds == 0 || (limits::LEASE_S_MIN..=limits::LEASE_S_MAX).contains(seconds)
                })?,
                callbacks_allowed: v.list("edge.callbacks_allowed"),
                destinations_allowed: v.list("edge.destinations_allowed"),
                sessions_max: v.count("edge.sessions_max", limits::SESSIONS_MAX)?,
            },
            sip: SipSettings {
                target: v.sip_uri("sip.target")?,
                proxy: v.sip_uri("sip.proxy")?,
                bind: v.parsed("sip.bind", SocketAddr::from(([0, 0, 0, 0], 5_060)))?,
                user: v.matching("sip.user", |c| !c.is_control() && c != '"')?,
                pass: Secret(v.text("sip.pass")),
                account_sid: v.matching("sip.account_sid", |c| c.is_ascii_alphanumeric())?,
                from_host: v.host("sip.from_host")?,
                routes: v.routes("sip.routes")?,
            },
            media: MediaSettings {
                ports: v.ports("media.ports", 10_000..=60_000)?,
                public_ip: v.addresses("media.public_ip")?,
                workers: v.parsed_if("media.workers", 0, |count: &usize| *count <= 256)?,
                pin: v.one_of("media.pin", &YES_NO, true)?,
                driver: v.one_of("media.driver", &DRIVERS, Driver::Auto)?,
            },
        })
    }

    fn optional(&self, key: &str) -> Option<String> {
        self.plain.get(key).map(|(value, _)| value.clone()).filter(|value| !value.is_empty())
    }

    fn text(&self, key: &str) -> String {
        self.optional(key).unwrap_or_default()
    }

    fn list(&self, key: &str) -> Vec<String> {
        self.text(key).split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    fn parsed<T: FromStr>(&self, key: &str, default: T) -> Result<T, ConfigError> {
        self.parsed_if(key, default, |_| true)
    }

    fn parsed_if<T: FromStr>(&self, key: &str, default: T, valid: impl Fn(&T) -> bool) -> Result<T, ConfigError> {
        match self.optional(key) {
            None => Ok(default),
            Some(value) => value.parse().ok().filter(valid).ok_or_else(|| wrong(key, &value)),
        }
    }

    fn count(&self, key: &str, default: usize) -> Result<usize, ConfigError> {
        self.parsed_if(key, default, |count| (1..=100_000).contains(count))
    }

    fn matching(&self, key: &str, valid: impl Fn(char) -> bool) -> Result<String, ConfigError> {
        let value = self.text(key);
        if value.chars().all(valid) { Ok(value) } else { Err(wrong(key, &value)) }
    }

    fn one_of<T: Copy>(&self, key: &str, words: &[(&str, T)], default: T) -> Result<T, ConfigError> {
        let Some(value) = self.optional(key) else { return Ok(default) };
        let found = words.iter().find(|(word, _)| value.eq_ignore_ascii_case(word));
        found.map(|(_, meaning)| *meaning).ok_or_else(|| wrong(key, &value))
    }

    fn url(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let Some(value) = self.optional(key) else { return Ok(None) };
        let valid = reqwest::Url::parse(&value).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if valid { Ok(Some(value.trim_end_matches('/').to_owned())) } else { Err(wrong(key, &value)) }
    }

    fn sip_uri(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let Some(value) = self.optional(key) else { return Ok(None) };
        sip_uri_fault(&value).map_or(Ok(Some(value)), |fault| Err(complain(key, &fault)))
    }

    fn routes(&self, key: &str) -> Result<BTreeMap<String, String>, ConfigError> {
        let routes = self.tables.get(key).cloned().unwrap_or_default();
        let fault =
            routes.iter().find_map(|(name, uri)| sip_uri_fault(uri).map(|fault| format!("{key}.{name} {fault}")));
        let remedy = "write a SIP URI, such as sip:bot@127.0.0.1:5080";
        fault.map_or(Ok(routes), |fault| Err(ConfigError(format!("{fault}: {remedy}"))))
    }

    fn host(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        self.matching(key, valid)?;
        Ok(self.optional(key))
    }

    fn header_value(&self, key: &str) -> Result<Secret, ConfigError> {
        let value = self.text(key);
        match reqwest::header::HeaderValue::from_str(&value) {
            Ok(_) => Ok(Secret(value)),
            Err(_) => Err(complain(key, "holds characters that no HTTP header can")),
        }
    }

    fn shared_header(&self, key: &str) -> Result<Secret, ConfigError> {
        let value = self.text(key);
        let shape = value.is_empty()
            || value.split_once(':').is_some_and(|(name, rest)| !name.trim().is_empty() && !rest.trim().is_empty());
        if shape { Ok(Secret(value)) } else { Err(complain(key, "is not of the form name: value")) }
    }

    fn policies(&self, key: &str) -> Result<BTreeMap<String, AcceptPolicy>, ConfigError> {
        let written = self.tables.get(key).into_iter().flatten();
        let read = written.map(|(number, word)| {
            let found = POLICIES.iter().find(|(name, _)| name == word);
            let (_, policy) = found.ok_or_else(|| {
                ConfigError(format!("{key}.{number} is \"{word}\": write on-answer, on-progress or immediate"))
            })?;
            Ok((number.clone(), *policy))
        });
        read.collect()
    }

    fn ports(&self, key: &str, default: RangeInclusive<u16>) -> Result<RangeInclusive<u16>, ConfigError> {
        let Some(value) = self.optional(key) else { return Ok(default) };
        let range = value
            .split_once('-')
            .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
        match range {
            Some((first, last)) if first >= 1_024_u16 && last >= first => Ok(first..=last),
            _ => Err(wrong(key, &value)),
        }
    }

    fn addresses(&self, key: &str) -> Result<Vec<IpAddr>, ConfigError> {
        let parse = |part: String| part.parse().map_err(|_| wrong(key, &part));
        self.list(key).into_iter().map(parse).collect()
    }
}

const YES_NO: [(&str, bool); 6] =
    [("true", true), ("1", true), ("yes", true), ("false", false), ("0", false), ("no", false)];
const POLICIES: [(&str, AcceptPolicy); 3] = [
    ("on-answer", AcceptPolicy::OnAnswer),
    ("on-progress", AcceptPolicy::OnProgress),
    ("immediate", AcceptPolicy::Immediate),
];
const DRIVERS: [(&str, Driver); 3] = [("auto", Driver::Auto), ("io_uring", Driver::IoUring), ("mmsg", Driver::Mmsg)];

fn plain(name: &str, value: &toml::Value) -> Result<String, ConfigError> {
    match value {
        toml::Value::String(text) => Ok(text.trim().to_owned()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Boolean(flag) => Ok(flag.to_string()),
        toml::Value::Array(items) => {
            let items: Result<Vec<String>, ConfigError> = items.iter().map(|item| plain(name, item)).collect();
            Ok(items?.join(","))
        }
        _ => Err(complain(name, "is neither a text, a number, true or false, nor a list of these")),
    }
}

/// What is wrong with a SIP URI that calls are sent to.
fn sip_uri_fault(value: &str) -> Option<String> {
    let lower = value.to_ascii_lowercase();
    let scheme = ["sip:", "sips:"].into_iter().find(|scheme| lower.starts_with(scheme));
    let clean = value.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"'));
    if !clean || scheme.is_none_or(|scheme| value.len() == scheme.len()) {
        return Some(format!("is \"{value}\""));
    }
    let transport = lower.split([';', '?']).find_map(|part| part.strip_prefix("transport="));
    let udp = scheme == Some("sip:") && transport.is_none_or(|transport| transport == "udp");
    (!udp).then(|| format!("is \"{value}\", and UDP is the only transport so far"))
}

fn string_table(name: &str, value: &toml::Value) -> Result<BTreeMap<String, String>, ConfigError> {
    let Some(table) = value.as_table() else {
        return Err(ConfigError(format!("{name} is not a section: write [{name}] and its entries below")));
    };
    table.iter().map(|(key, value)| Ok((key.clone(), plain(&format!("{name}.{key}"), value)?))).collect()
}

/// Without the line itself, which may hold a secret.
fn not_toml(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    format!("the configuration file is not TOML: {} in line {line}", error.message().trim().replace('\n', ", "))
}

fn is_on_loopback(url: &str) -> bool {
    let host = reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// A value that cannot be read. Secrets are never among these: every text is a valid secret.
fn wrong(key: &str, value: &str) -> ConfigError {
    complain(key, &format!("is \"{value}\""))
}

fn complain(key: &str, what: &str) -> ConfigError {
    match SETTINGS.iter().find(|setting| setting.key == key) {
        Some(setting) => ConfigError(format!("{} ({} in the file) {what}: {}", setting.variable, key, setting.remedy)),
        None => ConfigError(format!("{key} {what}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let find = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Config::read(text, find)
    }

    #[test]
    fn a_file_that_is_not_toml_is_refused_without_its_secrets() {
        for text in
            ["\n[edge]\ntoken = \"EAAGsecret\n", "\n[edge]\ntoken = \"x\" \"EAAGsecret\"\n", "\n\ntoken EAAGsecret"]
        {
            let error = with(text, &[]).unwrap_err().0;
            assert!(error.contains("not TOML") && error.contains("in line 3") && !error.contains("EAAG"), "{error}");
        }
    }

    #[test]
    fn what_would_fail_every_call_is_refused_at_start() {
        for (text, variable, value, names) in [
            ("", "SIP_TARGET", "sip:bot@bots.example;transport=tls", ["SIP_TARGET (sip.target", "UDP"]),
            ("", "SIP_PROXY", "sips:bots.example", ["SIP_PROXY (sip.proxy", "UDP"]),
            ("", "SIP_FROM_HOST", "a b", ["SIP_FROM_HOST (sip.from_host", "host name"]),
            ("", "WABA_TOKEN", "a\nb", ["WABA_TOKEN (whatsapp.token", "access token"]),
            ("", "EDGE_TOKEN", "a\nb", ["EDGE_TOKEN (edge.token", "secret"]),
            ("[sip.routes]\nsales = \"nonsense\"", "", "", ["sip.routes.sales", "sip:bot@127.0.0.1:5080"]),
        ] {
            let error = with(text, &[(variable, value)]).unwrap_err().0;
            assert!(names.iter().all(|name| error.contains(name)), "{error}");
        }
        assert!(with("", &[("SIP_TARGET", "sip:bot@127.0.0.1:5080;transport=UDP")]).is_ok());
    }

    #[test]
    fn the_environment_of_the_original_is_understood() {
        let config = with(
            "",
            &[
                ("WABA_TOKEN", "t"),
                ("WABA_PHONE_ID", "118"),
                ("PORT", "3100"),
                ("TWILIO_SIP_USER", "u"),
                ("TWILIO_SIP_PASS", "p"),
                ("TWILIO_ACCOUNT_SID", "AC1"),
                ("SIP_TARGET", "sip:bot@127.0.0.1:5080;transport=udp"),
                ("PUBLIC_IP", "203.0.113.5, 2001:db8::5"),
                ("MEDIA_PORTS", "20000-20100"),
            ],
        )
        .unwrap();
        config.check(Mode::Tandem).unwrap();
        assert_eq!((config.http.port, config.media.ports.clone()), (3_100, 20_000..=20_100));
        assert_eq!(config.media.public_ip.len(), 2);
        let edge = config.edge(SocketAddr::from(([127, 0, 0, 1], 5_060)), Vec::new(), IpAddr::from([127, 0, 0, 1]));
        let route = edge.default_route.unwrap();
        assert_eq!(route.headers, [("X-Twilio-Account".to_owned(), "AC1".to_owned())]);
        assert_eq!(route.credentials.unwrap().username, "u");
        assert_eq!(config.whatsapp.base, BASE_DEFAULT);
        assert_eq!(config.orchestrator().callback_url, None);
    }

    #[test]
    fn the_environment_wins_over_the_file_and_an_empty_variable_does_not() {
        let file = "[http]\nport = 4000\n[sip]\ntarget = \"sip:file@h\"\n[sip.routes]\nsales = \"sip:s@h\"\n[media]\npublic_ip = [\"192.0.2.1\"]";
        let config = with(file, &[("PORT", "5000"), ("SIP_TARGET", "")]).unwrap();
        assert_eq!((config.http.port, config.sip.target.as_deref()), (5_000, Some("sip:file@h")));
        assert_eq!(config.sip.routes["sales"], "sip:s@h");
        assert_eq!(config.media.public_ip, [IpAddr::from([192, 0, 2, 1])]);
    }

    #[test]
    fn an_error_names_the_setting_and_the_remedy() {
        for (file, environment, parts) in [
            ("", ("PORT", "x"), ["PORT", "http.port", "65535"]),
            ("", ("PORT", "0"), ["PORT", "\"0\"", "65535"]),
            ("", ("MEDIA_PORTS", "60000-10000"), ["MEDIA_PORTS", "media.ports", "10000-60000"]),
            ("", ("SIP_TARGET", "bot@host"), ["SIP_TARGET", "sip.target", "sip:bot@"]),
            ("", ("SIP_TARGET", "sip:a@b>\r\nX: y"), ["SIP_TARGET", "sip.target", "sip:bot@"]),
            ("", ("PUBLIC_IP", "1.2.3"), ["PUBLIC_IP", "1.2.3", "comma"]),
            ("", ("WABA_BASE", "graph"), ["WABA_BASE", "graph", "https://"]),
            ("", ("ACCEPT_POLICY", "never"), ["ACCEPT_POLICY", "never", "on-answer"]),
            ("[http]\nprot = 1", ("", ""), ["http.prot", "no setting", "spelling"]),
            ("port = 1", ("", ""), ["port", "outside of a section", "["]),
            ("[http", ("", ""), ["TOML", "", ""]),
            ("[whatsapp.accept_by_number]\n118 = \"no\"", ("", ""), ["accept_by_number.118", "no", "immediate"]),
        ] {
            let error = with(file, &[environment]).unwrap_err().0;
            for part in parts {
                assert!(error.contains(part), "{error}");
            }
        }
    }

    #[test]
    fn what_a_mode_needs_is_asked_for_by_name() {
        let empty = with("", &[]).unwrap();
        assert!(empty.check(Mode::Tandem).unwrap_err().0.contains("WABA_TOKEN"));
        assert!(empty.check(Mode::Edge).unwrap_err().0.contains("SIP_TARGET"));
        let token = with("", &[("WABA_TOKEN", "t")]).unwrap();
        assert!(token.check(Mode::Orchestrator).unwrap_err().0.contains("EDGE_API"));
        let split = with("", &[("WABA_TOKEN", "t"), ("EDGE_API", "http://127.0.0.1:8080/")]).unwrap();
        split.check(Mode::Orchestrator).unwrap();
        assert_eq!(split.orchestrator().callback_url.as_deref(), Some("http://127.0.0.1:3000/edge/events"));
        let apart = with("", &[("WABA_TOKEN", "t"), ("EDGE_API", "https://edge.example")]).unwrap();
        assert!(apart.check(Mode::Orchestrator).unwrap_err().0.contains("CALLBACK_URL"));
        let bound =
            with("", &[("WABA_TOKEN", "t"), ("EDGE_API", "http://127.0.0.1:8080/"), ("BIND", "192.0.2.7")]).unwrap();
        assert!(bound.check(Mode::Orchestrator).unwrap_err().0.contains("CALLBACK_URL"));
    }

    #[test]
    fn no_secret_is_printed() {
        let names = ["WABA_TOKEN", "META_APP_SECRET", "WEBHOOK_VERIFY_TOKEN", "EDGE_TOKEN", "TWILIO_SIP_PASS"];
        let environment: Vec<_> = names.iter().map(|name| (*name, "hunter2")).collect();
        let printed = format!("{:?}", with("", &environment).unwrap());
        assert!(!printed.contains("hunter2"), "{printed}");
        assert!(printed.matches("set").count() >= names.len());
    }
}
