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
    setting("whatsapp.webhook_auth", "WEBHOOK_AUTH", "write required, or none to take webhooks from anybody"),
    setting("whatsapp.flat_answer", "FLAT_ANSWER", "write at-once or when-accepted"),
    setting("whatsapp.accept", "ACCEPT_POLICY", "write on-answer, on-progress or immediate"),
    setting("whatsapp.calls_max", "CALLS_MAX", "write a number of calls from 1 to 100000"),
    setting("whatsapp.store", "STORE", "write the path of a file, such as /var/lib/tandem/tandem.redb, or none"),
    setting("http.bind", "BIND", "write an IP address, such as 0.0.0.0"),
    setting("http.port", "PORT", "write a port from 1 to 65535"),
    setting("http.certificate", "HTTP_CERTIFICATE", "write the path of a PEM file with the certificate and its chain"),
    setting("http.private_key", "HTTP_PRIVATE_KEY", "write the path of a PEM file with the certificate's key"),
    setting("edge.certificate", "EDGE_CERTIFICATE", "write the path of a PEM file with the certificate and its chain"),
    setting("edge.private_key", "EDGE_PRIVATE_KEY", "write the path of a PEM file with the certificate's key"),
    setting("edge.trusted", "EDGE_TRUSTED", "write the path of a PEM file with authorities that the planes trust"),
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
    setting("edge.codecs", "EDGE_CODECS", "write some of opus, pcmu and pcma, best first, comma separated"),
    setting("edge.dtls", "EDGE_DTLS", "write auto, dimpl or openssl"),
    setting("edge.sdes", "EDGE_SDES", "write true or false"),
    setting("edge.sessions_max", "SESSIONS_MAX", "write a number of sessions from 1 to 100000"),
    setting("sip.target", "SIP_TARGET", "write a SIP URI, such as sip:bot@127.0.0.1:5080"),
    setting("sip.proxy", "SIP_PROXY", "write a SIP URI, such as sip:us1.sip.twilio.com"),
    setting("sip.bind", "SIP_BIND", "write an address and port, such as 0.0.0.0:5060"),
    setting("sip.user", "TWILIO_SIP_USER", "write the digest user name"),
    setting("sip.pass", "TWILIO_SIP_PASS", "write the digest password"),
    setting("sip.account_header", "SIP_ACCOUNT_HEADER", "write true or false"),
    setting("sip.account_sid", "TWILIO_ACCOUNT_SID", "write the account SID, letters and digits only"),
    setting("sip.from_host", "SIP_FROM_HOST", "write a host name or address"),
    setting("sip.tcp", "SIP_TCP", "write true or false"),
    setting("sip.tls_bind", "SIP_TLS_BIND", "write an address and port, such as 0.0.0.0:5061"),
    setting("sip.wss_bind", "SIP_WSS_BIND", "write an address and port, such as 0.0.0.0:7443"),
    setting("sip.certificate", "SIP_CERTIFICATE", "write the name of a PEM file with the chain of the certificate"),
    setting("sip.private_key", "SIP_PRIVATE_KEY", "write the name of a PEM file with the certificate's key"),
    setting(
        "sip.trusted",
        "SIP_TRUSTED",
        "write the name of a PEM file with the authorities that are trusted beside the system's",
    ),
    setting("sip.options_s", "SIP_OPTIONS_S", "write seconds from 10 to 3600, or 0 for never"),
    setting("sip.domain", "SIP_DOMAIN", "write the domain of the softphones, such as voice.example.com"),
    setting("trace.messages", "TRACE_MESSAGES", "write true or false"),
    setting("trace.numbers", "TRACE_NUMBERS", "write shown or hidden"),
    setting("trace.mebibytes", "TRACE_MEBIBYTES", "write a number from 1 to 4096"),
    setting("trace.hep", "TRACE_HEP", "write the address and port of Homer's collector, such as 192.0.2.9:9060"),
    setting("trace.hep_password", "TRACE_HEP_PASSWORD", "write the collector's password"),
    setting("trace.cdr", "CDR_FILE", "write the path of a file, such as /var/log/tandem/cdr.jsonl"),
    setting("trace.hep_node", "TRACE_HEP_NODE", "write a number from 0 to 4294967295"),
    setting("media.ports", "MEDIA_PORTS", "write a range of UDP ports from 1024 up, such as 10000-60000"),
    setting("media.public_ip", "PUBLIC_IP", "write IP addresses, comma separated"),
    setting("media.bind", "MEDIA_BIND", "write one IP address of this host, or nothing for all of them"),
    setting("media.workers", "MEDIA_WORKERS", "write a number of threads, or 0 for one per core"),
    setting("media.pin", "MEDIA_PIN", "write true or false"),
    setting("media.steering", "MEDIA_STEERING", "write true or false"),
    setting(
        "media.dscp",
        "MEDIA_DSCP",
        "write a number from 0 to 63, such as 46 for expedited forwarding, or 0 for none",
    ),
    setting("media.driver", "MEDIA_DRIVER", "write auto, io_uring or mmsg"),
    setting(
        "media.complexity_min",
        "MEDIA_COMPLEXITY_MIN",
        "write a number from 0 to 10, at most MEDIA_COMPLEXITY_MAX",
    ),
    setting(
        "media.complexity_max",
        "MEDIA_COMPLEXITY_MAX",
        "write a number from 0 to 10, at least MEDIA_COMPLEXITY_MIN",
    ),
];

/// Tables whose keys are the operator's own.
pub(super) const TABLES: [&str; 3] = ["whatsapp.accept_by_number", "sip.routes", "sip.headers"];

/// What is wrong with a setting, under both of its names, and what to write.
pub(super) fn complain(key: &str, what: &str) -> ConfigError {
    match SETTINGS.iter().find(|setting| setting.key == key) {
        Some(setting) => ConfigError(format!("{} ({} in the file) {what}: {}", setting.variable, key, setting.remedy)),
        None => ConfigError(format!("{key} {what}")),
    }
}
