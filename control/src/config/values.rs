//! From what was written to what is meant: each value is read by the rule of its setting.

use super::section::{Source, plain};
use super::settings::{SETTINGS, TABLES, complain};
use super::trunks::{DTLS_BACKENDS, HEADERS_REMEDY, OPTIONS_S, codec_named, is_own_header};
use super::{
    Config, ConfigError, EdgeSettings, HttpSettings, MediaSettings, SipSettings, TlsFiles, TraceSettings,
    WhatsappSettings,
};
use crate::call::AcceptPolicy;
use crate::call::edge::CODECS_DEFAULT;
use crate::call::limits;
use crate::route::{DtlsBackend, Routes};
use crate::trace::redact::Secret;
use crate::whatsapp::graph_client::{BASE_DEFAULT, Provider};
use engine::config::{COMPLEXITY_DEFAULT, COMPLEXITY_MAX, DSCP_DEFAULT, DSCP_MAX, Driver};
use engine::sdp::Codec;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The values that were written, before they are understood.
#[derive(Default)]
pub(super) struct Values {
    /// Per key: the text, and `file:line` unless it came from the environment.
    pub(super) plain: BTreeMap<&'static str, (String, Option<String>)>,
    tables: BTreeMap<&'static str, BTreeMap<String, (String, String)>>,
}

impl Values {
    /// Takes every section of single values; `elsewhere` are read by others.
    pub(super) fn from_file(
        source: Source<'_>,
        document: &DeTable<'_>,
        elsewhere: &[&str],
    ) -> Result<Values, ConfigError> {
        let mut values = Values::default();
        for (section, content) in document {
            let section_name = section.get_ref();
            if elsewhere.contains(&section_name.as_ref()) {
                continue;
            }
            let Some(table) = content.get_ref().as_table() else {
                let what =
                    format!("{section_name} stands outside of a section: write it below [whatsapp], [sip] or the like");
                return Err(source.mistake(&section.span(), &what));
            };
            for (key, value) in table {
                let name = format!("{section_name}.{}", key.get_ref());
                if let Some(table) = TABLES.iter().find(|table| **table == name) {
                    values.tables.insert(table, string_table(source, &name, value)?);
                } else if let Some(setting) = SETTINGS.iter().find(|setting| setting.key == name) {
                    let text = text_of(source, &name, value)?;
                    values.plain.insert(setting.key, (text, Some(source.place(&value.span()))));
                } else {
                    let what = format!("{name} is no setting: remove it or correct its spelling");
                    return Err(source.mistake(&key.span(), &what));
                }
            }
        }
        Ok(values)
    }

    pub(super) fn build(self, routes: Routes, warnings: Vec<String>) -> Result<Config, ConfigError> {
        let v = &self;
        Ok(Config {
            accounts: Vec::new(),
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
                webhooks_open: v.one_of("whatsapp.webhook_auth", &[("required", false), ("none", true)], false)?,
                flat_waits: v.one_of("whatsapp.flat_answer", &[("at-once", false), ("when-accepted", true)], false)?,
                accept: v.one_of("whatsapp.accept", &POLICIES, AcceptPolicy::OnAnswer)?,
                accept_by_number: v.policies("whatsapp.accept_by_number")?,
                calls_max: v.count("whatsapp.calls_max", limits::CALLS_MAX)?,
                store: v.optional("whatsapp.store").filter(|path| path != "none").map(PathBuf::from),
            },
            http: HttpSettings {
                bind: v.parsed("http.bind", IpAddr::from([0, 0, 0, 0]))?,
                port: v.parsed_if("http.port", 3_000, |port: &u16| *port != 0)?,
                tls: v.tls("http.certificate", "http.private_key")?,
            },
            edge: EdgeSettings {
                api: v.url("edge.api")?,
                bind: v.parsed("edge.bind", SocketAddr::from(([127, 0, 0, 1], 8_080)))?,
                tls: v.tls("edge.certificate", "edge.private_key")?,
                trusted: v.optional("edge.trusted").map(PathBuf::from),
                token: v.header_value("edge.token")?,
                callback_url: v.url("edge.callback_url")?,
                lease_s: v.parsed_if("edge.lease_s", limits::LEASE_S, |seconds: &u32| {
                    *seconds == 0 || (limits::LEASE_S_MIN..=limits::LEASE_S_MAX).contains(seconds)
                })?,
                callbacks_allowed: v.list("edge.callbacks_allowed"),
                destinations_allowed: v.list("edge.destinations_allowed"),
                codecs: v.codecs("edge.codecs")?,
                dtls: v.one_of("edge.dtls", &DTLS_BACKENDS, DtlsBackend::Auto)?,
                sdes: v.one_of("edge.sdes", &YES_NO, true)?,
                sessions_max: v.count("edge.sessions_max", limits::SESSIONS_MAX)?,
            },
            sip: SipSettings {
                target: v.sip_uri("sip.target")?,
                proxy: v.sip_uri("sip.proxy")?,
                bind: v.parsed("sip.bind", SocketAddr::from(([0, 0, 0, 0], 5_060)))?,
                user: v.matching("sip.user", |c| !c.is_control() && c != '"')?,
                pass: Secret(v.text("sip.pass")),
                account_header: v.one_of("sip.account_header", &YES_NO, true)?,
                account_sid: v.matching("sip.account_sid", |c| c.is_ascii_alphanumeric())?,
                from_host: v.host("sip.from_host")?,
                routes: v.routes("sip.routes")?,
                headers: v.headers("sip.headers")?,
                tcp: v.one_of("sip.tcp", &YES_NO, true)?,
                tls_bind: v.address("sip.tls_bind")?,
                wss_bind: v.address("sip.wss_bind")?,
                certificate: v.optional("sip.certificate").map(PathBuf::from),
                private_key: v.optional("sip.private_key").map(PathBuf::from),
                trusted: v.optional("sip.trusted").map(PathBuf::from),
                options_s: v
                    .parsed_if("sip.options_s", 0, |seconds: &u32| *seconds == 0 || OPTIONS_S.contains(seconds))?,
                domain: v.host("sip.domain")?,
            },
            media: MediaSettings {
                ports: v.ports("media.ports", 10_000..=60_000)?,
                public_ip: v.addresses("media.public_ip")?,
                bind: v.ip("media.bind")?,
                workers: v.parsed_if("media.workers", 0, |count: &usize| *count <= 256)?,
                pin: v.one_of("media.pin", &YES_NO, true)?,
                steering: v.one_of("media.steering", &YES_NO, true)?,
                dscp: v.parsed_if("media.dscp", DSCP_DEFAULT, |dscp: &u8| *dscp <= DSCP_MAX)?,
                driver: v.one_of("media.driver", &DRIVERS, Driver::Auto)?,
                complexity_min: v.parsed_if("media.complexity_min", *COMPLEXITY_DEFAULT.start(), is_complexity)?,
                complexity_max: v.parsed_if("media.complexity_max", *COMPLEXITY_DEFAULT.end(), is_complexity)?,
            },
            trace: TraceSettings {
                messages: v.one_of("trace.messages", &YES_NO, true)?,
                numbers: v.one_of("trace.numbers", &[("shown", true), ("hidden", false)], true)?,
                bytes_max: v.parsed_if("trace.mebibytes", 32, |mib: &usize| (1..=4_096).contains(mib))? << 20,
                hep: v.address("trace.hep")?,
                hep_password: Secret(v.text("trace.hep_password")),
                hep_node: v.parsed("trace.hep_node", 2_001)?,
                cdr: v.optional("trace.cdr").map(Into::into),
            },
            routes,
            warnings,
            origins: v.origins(),
        })
    }

    /// Where each value comes from.
    fn origins(&self) -> BTreeMap<&'static str, String> {
        let variable = |key: &str| SETTINGS.iter().find(|setting| setting.key == key).map_or("", |s| s.variable);
        let origin = |(key, (_, place)): (&&'static str, &(String, Option<String>))| {
            (*key, place.clone().unwrap_or_else(|| variable(key).to_owned()))
        };
        self.plain.iter().map(origin).collect()
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
            Some(value) => value.parse().ok().filter(valid).ok_or_else(|| self.wrong(key, &value)),
        }
    }

    fn codecs(&self, key: &str) -> Result<Vec<Codec>, ConfigError> {
        let words = self.list(key);
        if words.is_empty() {
            return Ok(CODECS_DEFAULT.to_vec());
        }
        let known = |word: &String| {
            codec_named(word).filter(|codec| CODECS_DEFAULT.contains(codec)).ok_or_else(|| self.wrong(key, word))
        };
        words.iter().map(known).collect()
    }

    fn count(&self, key: &str, default: usize) -> Result<usize, ConfigError> {
        self.parsed_if(key, default, |count| (1..=100_000).contains(count))
    }

    fn matching(&self, key: &str, valid: impl Fn(char) -> bool) -> Result<String, ConfigError> {
        let value = self.text(key);
        if value.chars().all(valid) { Ok(value) } else { Err(self.wrong(key, &value)) }
    }

    fn one_of<T: Copy>(&self, key: &str, words: &[(&str, T)], default: T) -> Result<T, ConfigError> {
        let Some(value) = self.optional(key) else { return Ok(default) };
        let found = words.iter().find(|(word, _)| value.eq_ignore_ascii_case(word));
        found.map(|(_, meaning)| *meaning).ok_or_else(|| self.wrong(key, &value))
    }

    fn url(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let Some(value) = self.optional(key) else { return Ok(None) };
        let valid = reqwest::Url::parse(&value).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if valid { Ok(Some(value.trim_end_matches('/').to_owned())) } else { Err(self.wrong(key, &value)) }
    }

    fn sip_uri(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let Some(value) = self.optional(key) else { return Ok(None) };
        match sip_uri_fault(&value) {
            None => Ok(Some(value)),
            Some(fault) => Err(self.complain(key, &fault)),
        }
    }

    fn routes(&self, key: &str) -> Result<BTreeMap<String, String>, ConfigError> {
        let written = self.tables.get(key).into_iter().flatten();
        let read = written.map(|(name, (uri, place))| match sip_uri_fault(uri) {
            None => Ok((name.clone(), uri.clone())),
            Some(fault) => {
                let remedy = "write a SIP URI, such as sip:bot@127.0.0.1:5080";
                Err(ConfigError(format!("{place}: {key}.{name} {fault}: {remedy}")))
            }
        });
        read.collect()
    }

    fn headers(&self, key: &str) -> Result<Vec<(String, String)>, ConfigError> {
        let written = self.tables.get(key).into_iter().flatten();
        let read = written.map(|(name, (value, place))| match is_own_header(name, value) {
            true => Ok((name.clone(), value.clone())),
            false => Err(ConfigError(format!("{place}: {key}.{name} cannot be added: {HEADERS_REMEDY}"))),
        });
        read.collect()
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
            Err(_) => Err(self.complain(key, "holds characters that no HTTP header can")),
        }
    }

    /// Two files that belong together.
    fn tls(&self, certificate: &str, private_key: &str) -> Result<Option<TlsFiles>, ConfigError> {
        let path = |key: &str| self.optional(key).map(PathBuf::from);
        match (path(certificate), path(private_key)) {
            (Some(certificate), Some(private_key)) => Ok(Some(TlsFiles { certificate, private_key })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(complain(private_key, "is needed beside the certificate and not set")),
            (None, Some(_)) => Err(complain(certificate, "is needed beside the key and not set")),
        }
    }

    fn shared_header(&self, key: &str) -> Result<Secret, ConfigError> {
        let value = self.text(key);
        let shape = value.is_empty()
            || value.split_once(':').is_some_and(|(name, rest)| !name.trim().is_empty() && !rest.trim().is_empty());
        if shape { Ok(Secret(value)) } else { Err(self.complain(key, "is not of the form name: value")) }
    }

    fn policies(&self, key: &str) -> Result<BTreeMap<String, AcceptPolicy>, ConfigError> {
        let written = self.tables.get(key).into_iter().flatten();
        let read = written.map(|(number, (word, place))| {
            let found = POLICIES.iter().find(|(name, _)| name == word);
            let (_, policy) = found.ok_or_else(|| {
                ConfigError(format!("{place}: {key}.{number} is \"{word}\": write on-answer, on-progress or immediate"))
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
            _ => Err(self.wrong(key, &value)),
        }
    }

    fn address(&self, key: &str) -> Result<Option<SocketAddr>, ConfigError> {
        let Some(value) = self.optional(key) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| self.wrong(key, &value))
    }

    fn ip(&self, key: &str) -> Result<Option<IpAddr>, ConfigError> {
        let Some(value) = self.optional(key) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| self.wrong(key, &value))
    }

    fn addresses(&self, key: &str) -> Result<Vec<IpAddr>, ConfigError> {
        let parse = |part: String| part.parse().map_err(|_| self.wrong(key, &part));
        self.list(key).into_iter().map(parse).collect()
    }

    /// A value that cannot be read. Secrets are never among these: every text is a valid secret.
    fn wrong(&self, key: &str, value: &str) -> ConfigError {
        self.complain(key, &format!("is \"{value}\""))
    }

    /// With file and line, where it came from there.
    fn complain(&self, key: &str, what: &str) -> ConfigError {
        let ConfigError(text) = complain(key, what);
        match self.plain.get(key).and_then(|(_, place)| place.as_ref()) {
            Some(place) => ConfigError(format!("{place}: {text}")),
            None => ConfigError(text),
        }
    }
}

const YES_NO: [(&str, bool); 6] =
    [("true", true), ("1", true), ("yes", true), ("false", false), ("0", false), ("no", false)];
pub(super) const POLICIES: [(&str, AcceptPolicy); 3] = [
    ("on-answer", AcceptPolicy::OnAnswer),
    ("on-progress", AcceptPolicy::OnProgress),
    ("immediate", AcceptPolicy::Immediate),
];
const DRIVERS: [(&str, Driver); 3] = [("auto", Driver::Auto), ("io_uring", Driver::IoUring), ("mmsg", Driver::Mmsg)];

/// A value or a list of values, joined by commas.
fn text_of(source: Source<'_>, name: &str, value: &Spanned<DeValue<'_>>) -> Result<String, ConfigError> {
    let items = match value.get_ref().as_array() {
        Some(items) => items.iter().map(|item| plain(item.get_ref())).collect::<Option<Vec<String>>>(),
        None => plain(value.get_ref()).map(|text| vec![text.trim().to_owned()]),
    };
    let fault = || {
        let ConfigError(text) = complain(name, "is neither a text, a number, true or false, nor a list of these");
        source.mistake(&value.span(), &text)
    };
    items.map(|items| items.join(",")).ok_or_else(fault)
}

/// What is wrong with a SIP URI that calls are sent to.
pub(super) fn sip_uri_fault(value: &str) -> Option<String> {
    let lower = value.to_ascii_lowercase();
    let scheme = ["sip:", "sips:"].into_iter().find(|scheme| lower.starts_with(scheme));
    let clean = value.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"'));
    if !clean || scheme.is_none_or(|scheme| value.len() == scheme.len()) {
        return Some(format!("is \"{value}\""));
    }
    let transport = lower.split([';', '?']).find_map(|part| part.strip_prefix("transport="));
    let known = transport.is_none_or(|transport| ["udp", "tcp", "tls"].contains(&transport));
    (!known).then(|| format!("is \"{value}\", whose transport is none of udp, tcp and tls"))
}

/// The operator's own entries, each with its place.
fn string_table(
    source: Source<'_>,
    name: &str,
    value: &Spanned<DeValue<'_>>,
) -> Result<BTreeMap<String, (String, String)>, ConfigError> {
    let Some(table) = value.get_ref().as_table() else {
        let what = format!("{name} is not a section: write [{name}] and its entries below");
        return Err(source.mistake(&value.span(), &what));
    };
    let entry = |(key, value): (&Spanned<Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
        let text = text_of(source, &format!("{name}.{}", key.get_ref()), value)?;
        Ok((key.get_ref().to_string(), (text, source.place(&value.span()))))
    };
    table.iter().map(entry).collect()
}

/// Without the line itself, which may hold a secret.
pub(super) fn not_toml(source: Source<'_>, error: &toml::de::Error) -> ConfigError {
    let message = error.message().trim().replace('\n', ", ");
    let remedy = match &message {
        text if text.contains("escape") => ": write patterns in single quotes, which leave backslashes alone",
        text if text.contains("duplicate key") => {
            ": each key and each [section] stands once; remove or join one of the two"
        }
        _ => "",
    };
    source.mistake(&error.span().unwrap_or_default(), &format!("this is not TOML: {message}{remedy}"))
}

fn is_complexity(value: &u8) -> bool {
    *value <= COMPLEXITY_MAX
}
