//! Every setting of one value: its name in the file, its name in the environment, and what to write.
//!
//! Why a table: reading, the check for unknown keys and the texts of errors all come from it, so none can forget a setting.

use super::ConfigError;

/// Name in the file, name in the environment (or nothing), what to write.
pub(super) struct Setting {
    pub(super) key: &'static str,
    pub(super) variable: &'static str,
    pub(super) remedy: &'static str,
}

const fn setting(key: &'static str, variable: &'static str, remedy: &'static str) -> Setting {
    Setting { key, variable, remedy }
}

/// All of them, in the order of the file.
pub(super) const SETTINGS: &[Setting] = &[
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
    setting("media.complexity_min", "MEDIA_COMPLEXITY_MIN", "write a number from 0 to 10, at most MEDIA_COMPLEXITY_MAX"),
    setting("media.complexity_max", "MEDIA_COMPLEXITY_MAX", "write a number from 0 to 10, at least MEDIA_COMPLEXITY_MIN"),
];

/// Tables whose keys are the operator's own.
pub(super) const TABLES: [&str; 2] = ["whatsapp.accept_by_number", "sip.routes"];

/// A value that cannot be read. Secrets are never among these: every text is a valid secret.
pub(super) fn wrong(key: &str, value: &str) -> ConfigError {
    complain(key, &format!("is \"{value}\""))
}

/// What is wrong with a setting, under both of its names, and what to write.
pub(super) fn complain(key: &str, what: &str) -> ConfigError {
    match SETTINGS.iter().find(|setting| setting.key == key) {
        Some(setting) => ConfigError(format!("{} ({} in the file) {what}: {}", setting.variable, key, setting.remedy)),
        None => ConfigError(format!("{key} {what}")),
    }
}
