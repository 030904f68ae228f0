//! `[trunks.NAME]`: each provider, how it is reached, what it may send and what it is sent.

use super::ConfigError;
use super::section::Section;
use super::values::sip_uri_fault;
use crate::route::{
    CallerIdRule, Destination, DtlsBackend, Ice, MediaProfile, NumberFormat, Numbering, Pattern, PatternError,
    Transport, Trunk, limits, trunk,
};
use crate::sip::Credentials;
use crate::sip::uri::{is_token, split_host_port};
use engine::sdp::Codec;
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::PathBuf;

/// A trunk, and what was corrected while it was read.
pub(super) struct ReadTrunk {
    pub trunk: Trunk,
    /// `user:alice` and the like, resolved when all names are known.
    pub to: Option<String>,
    pub warning: Option<String>,
}

/// Headers of ours that a trunk's own would spoil.
const RESERVED_HEADERS: [&str; 14] = [
    "Via",
    "From",
    "To",
    "Call-ID",
    "CSeq",
    "Contact",
    "Max-Forwards",
    "Route",
    "Record-Route",
    "Content-Length",
    "Content-Type",
    "Authorization",
    "Proxy-Authorization",
    "P-Asserted-Identity",
];

/// Shortest and longest registration, seconds.
const REGISTER_S: std::ops::RangeInclusive<u32> = 60..=86_400;

/// How often a peer may be asked whether it lives.
pub(super) const OPTIONS_S: std::ops::RangeInclusive<u32> = 10..=3_600;

pub(super) fn read(name: &str, section: &Section<'_>, numbering: &Numbering) -> Result<ReadTrunk, ConfigError> {
    let host = host(section, "host")?
        .ok_or_else(|| section.missing("host", "write the name or address of the provider's SIP server"))?;
    let transport = section.one_of(
        "transport",
        &[("tls", Transport::Tls), ("tcp", Transport::Tcp), ("udp", Transport::Udp)],
        Transport::Tls,
    )?;
    let port =
        section.parsed("port", "write a port from 1 to 65535", |text| text.parse().ok().filter(|port| *port != 0))?;
    let (pattern, warning) = pattern(section, "pattern")?;
    let mut trunk = Trunk { port, pattern, ..Trunk::new(name, &host, transport) };
    trunk.proxy = sip_uri(section, "proxy")?;
    trunk.credentials = credentials(section, "user", "password", "password_env")?;
    trunk.inbound = credentials(section, "inbound_user", "inbound_password", "inbound_password_env")?;
    trunk.inbound_md5 = section.one_of("inbound_digest", &[("sha-256", false), ("md5", true)], false)?;
    read_registration(section, &mut trunk)?;
    trunk.options_s = options_s(section)?;
    read_sources(section, &mut trunk)?;
    read_media(section, &mut trunk)?;
    trunk.weight = section.number("weight", 0..=1_000_000, trunk.weight)?;
    trunk.calls_max = section.number("calls_max", 1..=100_000, trunk::CALLS_MAX_DEFAULT as u32)? as usize;
    trunk.ring_s = section.number("ring_s", 5..=600, trunk.ring_s)?;
    read_caller_id(section, &mut trunk, numbering)?;
    trunk.headers = headers(section)?;
    let to = section.text("to", TO_REMEDY)?;
    section.finish()?;
    Ok(ReadTrunk { trunk, to, warning })
}

/// What a destination looks like.
pub(super) const TO_REMEDY: &str = "write trunk:NAME, user:NAME, group:NAME, whatsapp:ACCOUNT or a SIP URI";

/// Reads a destination; names are checked by `known`.
pub(super) fn destination(
    text: &str,
    trunk: impl Fn(&str) -> Option<crate::route::TrunkId>,
    user: impl Fn(&str) -> bool,
    group: impl Fn(&str) -> bool,
) -> Result<Destination, String> {
    let nobody = |what: &str, name: &str| format!("names the {what} {name}, which is not in the configuration");
    match text.split_once(':') {
        Some(("trunk", name)) => trunk(name).map(Destination::Trunk).ok_or_else(|| nobody("trunk", name)),
        Some(("user", name)) if user(name) => Ok(Destination::User(name.to_owned())),
        Some(("user", name)) => Err(nobody("user", name)),
        Some(("group", name)) if group(name) => Ok(Destination::Group(name.to_owned())),
        Some(("group", name)) => Err(nobody("group", name)),
        _ => match sip_uri_fault(text) {
            None => Ok(Destination::Uri(text.to_owned())),
            Some(fault) => Err(fault),
        },
    }
}

/// A dial pattern; beside it a warning, when its backslashes had been lost.
pub(super) fn pattern(
    section: &Section<'_>,
    key: &'static str,
) -> Result<(Option<Pattern>, Option<String>), ConfigError> {
    let remedy = r"write a regular expression in single quotes, such as '^\+?[1-9]\d{6,14}$'";
    let Some(text) = section.text(key, remedy)? else { return Ok((None, None)) };
    match Pattern::new(&text) {
        Ok((pattern, None)) => Ok((Some(pattern), None)),
        Ok((pattern, Some(corrected))) => {
            let warning = format!(
                "{}: {}.{key} \"{text}\" has lost its backslashes: '{corrected}' is used; write it so, in single quotes",
                section.place(key),
                section.name
            );
            Ok((Some(pattern), Some(warning)))
        }
        Err(PatternError::TooLong) => {
            Err(section.wrong(key, &format!("is longer than {} characters", limits::PATTERN_BYTES_MAX), "shorten it"))
        }
        Err(PatternError::TooLarge) => {
            Err(section.wrong(key, "repeats repetitions, which takes too much memory", "use smaller counts"))
        }
        Err(PatternError::Invalid(fault)) => {
            Err(section.wrong(key, &format!("is no regular expression ({fault})"), remedy))
        }
    }
}

/// A number that must be one in E.164.
pub(super) fn number(
    section: &Section<'_>,
    key: &'static str,
    numbering: &Numbering,
) -> Result<Option<String>, ConfigError> {
    section.parsed(key, "write it in E.164, such as +441632960001", |text| numbering.e164(text))
}

fn read_registration(section: &Section<'_>, trunk: &mut Trunk) -> Result<(), ConfigError> {
    let every = section.number("register_s", REGISTER_S, 300)?;
    if section.flag("register", false)? {
        if trunk.credentials.is_none() {
            return Err(section.missing("user", "register = true needs user and password"));
        }
        trunk.register_s = Some(every);
    }
    Ok(())
}

/// Seconds between two OPTIONS; 0 is never.
fn options_s(section: &Section<'_>) -> Result<Option<u32>, ConfigError> {
    let remedy = "write seconds from 10 to 3600, or 0 for never";
    let seconds = |text: &str| text.parse().ok().filter(|seconds| *seconds == 0 || OPTIONS_S.contains(seconds));
    Ok(section.parsed("options_s", remedy, seconds)?.filter(|seconds| *seconds != 0))
}

fn read_sources(section: &Section<'_>, trunk: &mut Trunk) -> Result<(), ConfigError> {
    let network = |text: &str| {
        text.parse::<IpNet>()
            .ok()
            .or_else(|| text.parse::<IpAddr>().ok().map(|address| IpNet::from(address.to_canonical())))
    };
    let remedy = "write addresses or networks, such as 203.0.113.0/24";
    trunk.allowed_sources = section.list("allowed_sources", remedy, network)?;
    let name = |text: &str| split_host_port(text.strip_prefix("*.").unwrap_or(text)).map(|_| text.to_ascii_lowercase());
    trunk.certificate_names =
        section.list("certificate_names", "write host names, such as sbc.provider.example", name)?;
    if !trunk.certificate_names.is_empty() && trunk.transport != Transport::Tls {
        return Err(section.wrong("certificate_names", "needs TLS", "write transport = \"tls\""));
    }
    for (key, count) in
        [("allowed_sources", trunk.allowed_sources.len()), ("certificate_names", trunk.certificate_names.len())]
    {
        if count > limits::SOURCES_MAX {
            return Err(section.wrong(
                key,
                &format!("has {count} entries"),
                &format!("write at most {}", limits::SOURCES_MAX),
            ));
        }
    }
    trunk.verify_certificate = section.flag("verify_certificate", true)?;
    read_tls(section, trunk)
}

/// What we show its server.
fn read_tls(section: &Section<'_>, trunk: &mut Trunk) -> Result<(), ConfigError> {
    let file = |key| section.text(key, "write the name of a PEM file").map(|name| name.map(PathBuf::from));
    trunk.certificate = match (file("certificate")?, file("private_key")?) {
        (Some(certificate), Some(key)) => {
            trunk.certificate_place = section.place("certificate");
            Some((certificate, key))
        }
        (None, None) => None,
        (Some(_), None) => return Err(section.missing("private_key", "write its PEM file beside certificate")),
        (None, Some(_)) => return Err(section.missing("certificate", "write its PEM file beside private_key")),
    };
    trunk.alpn = section.flag("alpn", false)?;
    for (key, is_set) in [("certificate", trunk.certificate.is_some()), ("alpn", trunk.alpn)] {
        if is_set && trunk.transport != Transport::Tls {
            return Err(section.wrong(key, "needs TLS", "write transport = \"tls\""));
        }
    }
    Ok(())
}

/// Who does DTLS, in words.
pub(super) const DTLS_BACKENDS: [(&str, DtlsBackend); 3] =
    [("auto", DtlsBackend::Auto), ("dimpl", DtlsBackend::Dimpl), ("openssl", DtlsBackend::Openssl)];

fn read_media(section: &Section<'_>, trunk: &mut Trunk) -> Result<(), ConfigError> {
    let profiles = [("rtp", MediaProfile::Rtp), ("sdes", MediaProfile::Sdes), ("webrtc", MediaProfile::Webrtc)];
    trunk.media = section.one_of("media", &profiles, MediaProfile::Rtp)?;
    if trunk.media == MediaProfile::Sdes && trunk.transport != Transport::Tls {
        return Err(section.wrong(
            "media",
            "is \"sdes\" without TLS, which would show its keys",
            "write transport = \"tls\"",
        ));
    }
    trunk.ice = section.one_of("ice", &[("full", Ice::Full), ("lite", Ice::Lite)], Ice::Full)?;
    trunk.dtls_backend = section.one_of("dtls", &DTLS_BACKENDS, DtlsBackend::Auto)?;
    trunk.transcoding = section.flag("transcoding", true)?;
    let codecs = section.list("codecs", "write opus, g722, pcmu or pcma, best first", codec_named)?;
    if !codecs.is_empty() {
        trunk.codecs = codecs;
    }
    Ok(())
}

/// A codec by the name of its encoding (RFC 3551, RFC 7587).
pub(super) fn codec_named(text: &str) -> Option<Codec> {
    match text.to_ascii_lowercase().as_str() {
        "opus" => Some(Codec::Opus),
        "pcmu" => Some(Codec::Pcmu),
        "pcma" => Some(Codec::Pcma),
        "g722" => Some(Codec::G722),
        _ => None,
    }
}

fn read_caller_id(section: &Section<'_>, trunk: &mut Trunk, numbering: &Numbering) -> Result<(), ConfigError> {
    let formats =
        [("e164", NumberFormat::E164), ("digits", NumberFormat::Digits), ("as-dialed", NumberFormat::AsDialed)];
    trunk.numbers = section.one_of("numbers", &formats, NumberFormat::E164)?;
    let dialable = |text: &str| text.chars().all(|c| c.is_ascii_digit() || "+*#".contains(c)).then(|| text.to_owned());
    trunk.prefix = section.parsed("prefix", "write digits, +, * or #", dialable)?.unwrap_or_default();
    trunk.number = number(section, "number", numbering)?;
    let rule = section.one_of("caller_id", &[("pass", 0_u8), ("fixed", 1), ("anonymous", 2)], 0)?;
    trunk.caller_id = match rule {
        1 if trunk.number.is_none() => {
            return Err(section.missing("number", "caller_id = \"fixed\" needs number, in E.164"));
        }
        1 => CallerIdRule::Fixed,
        2 => CallerIdRule::Anonymous,
        _ => CallerIdRule::Pass,
    };
    let word =
        |text: &str| text.chars().all(|c| c.is_ascii_graphic() && !"<>\"@ ".contains(c)).then(|| text.to_owned());
    trunk.from_user = section.parsed("from_user", "write a user name or number without spaces", word)?;
    trunk.from_host = host(section, "from_host")?;
    Ok(())
}

/// What to write instead of a header that is not the operator's to write.
pub(super) const HEADERS_REMEDY: &str = "write headers of your own, such as X-Account";

/// Whether an operator may add it to INVITEs.
pub(super) fn is_own_header(name: &str, value: &str) -> bool {
    let reserved = RESERVED_HEADERS.iter().any(|known| known.eq_ignore_ascii_case(name));
    !reserved && is_token(name) && !value.chars().any(char::is_control)
}

fn headers(section: &Section<'_>) -> Result<Vec<(String, String)>, ConfigError> {
    let headers = section.pairs("headers", "write headers = { X-Name = \"value\" }")?;
    for (name, value) in &headers {
        if !is_own_header(name, value) {
            return Err(section.wrong("headers", &format!("holds {name}, which cannot be added"), HEADERS_REMEDY));
        }
    }
    Ok(headers)
}

fn credentials(
    section: &Section<'_>,
    user: &'static str,
    password: &'static str,
    password_env: &'static str,
) -> Result<Option<Credentials>, ConfigError> {
    let clean = |text: &str| (!text.chars().any(|c| c.is_control() || c == '"')).then(|| text.to_owned());
    let username = section.parsed(user, "write the digest user name", clean)?;
    match (username, section.secret(password, password_env)?) {
        (Some(username), Some(password)) => Ok(Some(Credentials { username, password: password.0 })),
        (None, None) => Ok(None),
        (Some(_), None) => {
            Err(section.missing(password, &format!("write it beside {user}, or {password_env} with a variable's name")))
        }
        (None, Some(_)) => Err(section.missing(user, &format!("write it beside {password}"))),
    }
}

fn host(section: &Section<'_>, key: &'static str) -> Result<Option<String>, ConfigError> {
    let valid = |text: &str| {
        let address = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        let name = split_host_port(text).is_some_and(|(_, port)| port.is_none());
        (address || name).then(|| text.trim_start_matches('[').trim_end_matches(']').to_owned())
    };
    section.parsed(key, "write a host name or address, without a port", valid)
}

fn sip_uri(section: &Section<'_>, key: &'static str) -> Result<Option<String>, ConfigError> {
    let remedy = "write a SIP URI, such as sip:sbc.provider.example:5061;transport=tls";
    section.parsed(key, remedy, |text| sip_uri_fault(text).is_none().then(|| text.to_owned()))
}
