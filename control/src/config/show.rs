//! The settings in force, one line each: what `tandem check` prints. Secrets are only said to be there or not.

use super::settings::SETTINGS;
use super::{Config, TlsFiles};
use crate::call::AcceptPolicy;
use crate::route::DtlsBackend;
use crate::trace::redact::Secret;
use crate::whatsapp::graph_client::Provider;
use engine::config::Driver;
use engine::sdp::Codec;
use std::fmt::Display;
use std::path::PathBuf;

impl Config {
    /// `key = value` and where it comes from, in the order of the file; what the operator's own tables hold is counted.
    pub fn lines(&self) -> Vec<String> {
        let values = self.values();
        let mut lines = Vec::new();
        for setting in SETTINGS {
            let origin = self.origins.get(setting.key);
            let value = values.iter().find(|(key, _)| *key == setting.key).map(|(_, value)| value.clone());
            let value = match (value, origin) {
                (Some(value), _) => value,
                (None, Some(_)) => "set".to_owned(),
                (None, None) => continue,
            };
            lines.push(format!("{} = {value}  ({})", setting.key, origin.map_or("default", String::as_str)));
        }
        for account in &self.accounts {
            let own = |secret: bool, word: &str| if secret { format!(", its own {word}") } else { String::new() };
            lines.push(format!(
                "accounts.{} = number {}{}{}",
                account.name,
                account.phone_number_id,
                own(account.token.is_some(), "token"),
                own(account.app_secret.is_some() || account.shared_header.is_some(), "webhook secret"),
            ));
        }
        for trunk in &self.routes.trunks {
            if let Some(whatsapp) = &trunk.whatsapp {
                let pattern =
                    trunk.pattern.as_ref().map_or("by rules only".to_owned(), |p| format!("pattern {}", p.as_str()));
                let (account, calls_max) = (&whatsapp.account, trunk.calls_max);
                lines.push(format!("accounts.{account} calls users: {pattern}, at most {calls_max} at once"));
                continue;
            }
            let credentials = if trunk.credentials.is_some() { ", with credentials" } else { "" };
            let port = trunk.port.map_or_else(String::new, |port| format!(":{port}"));
            lines.push(format!("trunks.{} = {}{port} by {}{credentials}", trunk.name, trunk.host, trunk.transport));
        }
        let (users, groups, rules) = (self.routes.users.len(), self.routes.groups.len(), self.routes.rules.len());
        if users + groups + rules > 0 {
            lines.push(format!("{users} users, {groups} groups, {rules} rules"));
        }
        lines
    }

    /// A setting by both of its names, and where it stands if it stands in the file.
    pub fn named(&self, key: &str) -> String {
        let variable = SETTINGS.iter().find(|setting| setting.key == key).map_or("", |setting| setting.variable);
        match self.origins.get(key).filter(|origin| origin.contains(':')) {
            Some(place) => format!("{place}: {key} ({variable})"),
            None => format!("{key} ({variable})"),
        }
    }

    fn values(&self) -> Vec<(&'static str, String)> {
        let (whatsapp, http, edge) = (&self.whatsapp, &self.http, &self.edge);
        let (sip, media, trace) = (&self.sip, &self.media, &self.trace);
        vec![
            ("whatsapp.token", secret(&whatsapp.token)),
            ("whatsapp.phone_id", text(&whatsapp.phone_id)),
            ("whatsapp.base", whatsapp.base.clone()),
            ("whatsapp.provider", if whatsapp.provider == Provider::Meta { "meta" } else { "360dialog" }.to_owned()),
            ("whatsapp.app_secret", secret(&whatsapp.app_secret)),
            ("whatsapp.verify_token", secret(&whatsapp.verify_token)),
            ("whatsapp.shared_header", secret(&whatsapp.shared_header)),
            ("whatsapp.webhook_auth", if whatsapp.webhooks_open { "none" } else { "required" }.to_owned()),
            ("whatsapp.flat_answer", if whatsapp.flat_waits { "when-accepted" } else { "at-once" }.to_owned()),
            ("whatsapp.accept", policy(whatsapp.accept).to_owned()),
            ("whatsapp.calls_max", whatsapp.calls_max.to_string()),
            ("whatsapp.store", path(whatsapp.store.as_ref())),
            ("http.bind", http.bind.to_string()),
            ("http.port", http.port.to_string()),
            ("http.certificate", path(http.tls.as_ref().map(|files: &TlsFiles| &files.certificate))),
            ("http.private_key", path(http.tls.as_ref().map(|files: &TlsFiles| &files.private_key))),
            ("edge.certificate", path(edge.tls.as_ref().map(|files| &files.certificate))),
            ("edge.private_key", path(edge.tls.as_ref().map(|files| &files.private_key))),
            ("edge.trusted", path(edge.trusted.as_ref())),
            ("edge.api", optional(edge.api.as_ref())),
            ("edge.bind", edge.bind.to_string()),
            ("edge.token", secret(&edge.token)),
            ("edge.callback_url", optional(edge.callback_url.as_ref())),
            ("edge.lease_s", edge.lease_s.to_string()),
            ("edge.callbacks_allowed", text(&edge.callbacks_allowed.join(", "))),
            ("edge.destinations_allowed", text(&edge.destinations_allowed.join(", "))),
            ("edge.codecs", codecs(&edge.codecs)),
            ("edge.dtls", backend(edge.dtls).to_owned()),
            ("edge.sdes", edge.sdes.to_string()),
            ("edge.sessions_max", edge.sessions_max.to_string()),
            ("sip.target", optional(sip.target.as_ref())),
            ("sip.proxy", optional(sip.proxy.as_ref())),
            ("sip.bind", sip.bind.to_string()),
            ("sip.user", text(&sip.user)),
            ("sip.pass", secret(&sip.pass)),
            ("sip.account_sid", text(&sip.account_sid)),
            ("sip.account_header", sip.account_header.to_string()),
            ("sip.from_host", optional(sip.from_host.as_ref())),
            ("sip.tcp", sip.tcp.to_string()),
            ("sip.tls_bind", optional(sip.tls_bind)),
            ("sip.wss_bind", optional(sip.wss_bind)),
            ("sip.certificate", path(sip.certificate.as_ref())),
            ("sip.private_key", path(sip.private_key.as_ref())),
            ("sip.trusted", path(sip.trusted.as_ref())),
            ("sip.options_s", if sip.options_s == 0 { "never".to_owned() } else { sip.options_s.to_string() }),
            ("sip.domain", optional(sip.domain.as_ref())),
            ("trace.messages", trace.messages.to_string()),
            ("trace.numbers", if trace.numbers { "shown" } else { "hidden" }.to_owned()),
            ("trace.mebibytes", (trace.bytes_max >> 20).to_string()),
            ("trace.hep", optional(trace.hep)),
            ("trace.hep_password", secret(&trace.hep_password)),
            ("trace.hep_node", trace.hep_node.to_string()),
            ("trace.cdr", path(trace.cdr.as_ref())),
            ("media.ports", format!("{}-{}", media.ports.start(), media.ports.end())),
            ("media.public_ip", text(&media.public_ip.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))),
            ("media.bind", optional(media.bind)),
            ("media.workers", if media.workers == 0 { "one per core".to_owned() } else { media.workers.to_string() }),
            ("media.pin", media.pin.to_string()),
            ("media.steering", media.steering.to_string()),
            ("media.dscp", media.dscp.to_string()),
            ("media.driver", driver(media.driver).to_owned()),
            ("media.complexity_min", media.complexity_min.to_string()),
            ("media.complexity_max", media.complexity_max.to_string()),
        ]
    }
}

fn secret(secret: &Secret) -> String {
    if secret.0.is_empty() { "not set" } else { "set" }.to_owned()
}

fn text(text: &str) -> String {
    if text.is_empty() { "not set".to_owned() } else { text.to_owned() }
}

fn optional(value: Option<impl Display>) -> String {
    value.map_or_else(|| "not set".to_owned(), |value| value.to_string())
}

fn path(path: Option<&PathBuf>) -> String {
    optional(path.map(|path| path.display()))
}

fn policy(policy: AcceptPolicy) -> &'static str {
    match policy {
        AcceptPolicy::OnAnswer => "on-answer",
        AcceptPolicy::OnProgress => "on-progress",
        AcceptPolicy::Immediate => "immediate",
    }
}

fn backend(backend: DtlsBackend) -> &'static str {
    match backend {
        DtlsBackend::Auto => "auto",
        DtlsBackend::Dimpl => "dimpl",
        DtlsBackend::Openssl => "openssl",
    }
}

fn driver(driver: Driver) -> &'static str {
    match driver {
        Driver::Auto => "auto",
        Driver::IoUring => "io_uring",
        Driver::Mmsg => "mmsg",
    }
}

fn codecs(codecs: &[Codec]) -> String {
    let name = |codec: &Codec| match codec {
        Codec::Opus => "opus",
        Codec::Pcmu => "pcmu",
        Codec::Pcma => "pcma",
        Codec::G722 => "g722",
    };
    codecs.iter().map(name).collect::<Vec<_>>().join(", ")
}
