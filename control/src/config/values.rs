//! From what was written to what is meant: each value is read by the rule of its setting.

use super::settings::{SETTINGS, TABLES, complain, wrong};
use super::{Config, ConfigError, EdgeSettings, HttpSettings, MediaSettings, SipSettings, WhatsappSettings};
use crate::call::AcceptPolicy;
use crate::call::limits;
use crate::trace::redact::Secret;
use crate::whatsapp::graph_client::{BASE_DEFAULT, Provider};
use engine::config::{COMPLEXITY_DEFAULT, COMPLEXITY_MAX, Driver};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// The values that were written, before they are understood.
#[derive(Default)]
pub(super) struct Values {
    /// Per key: the text, and whether it came from the environment.
    pub(super) plain: BTreeMap<&'static str, (String, bool)>,
    tables: BTreeMap<&'static str, BTreeMap<String, String>>,
}

impl Values {
    pub(super) fn from_file(text: &str) -> Result<Values, ConfigError> {
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

    pub(super) fn build(self) -> Result<Config, ConfigError> {
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
                complexity_min: v.parsed_if("media.complexity_min", *COMPLEXITY_DEFAULT.start(), is_complexity)?,
                complexity_max: v.parsed_if("media.complexity_max", *COMPLEXITY_DEFAULT.end(), is_complexity)?,
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

fn is_complexity(value: &u8) -> bool {
    *value <= COMPLEXITY_MAX
}
