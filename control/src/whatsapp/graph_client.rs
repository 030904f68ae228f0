//! The HTTP half of `graph`: one request, one outcome. It does not repeat anything; the call's machine knows what may be repeated.

use super::graph::{Callee, ConnectRequest, GraphAction, GraphError, GraphErrorKind, GraphFault, GraphRequest};
use crate::trace::redact::{CallTag, Secret};
use crate::trace::scrub::scrub;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Where the API is served unless configured otherwise. Versions live for about two years.
pub const BASE_DEFAULT: &str = "https://graph.facebook.com/v24.0";

/// The oldest version of the API that is still served; older ones are named in the log at start and in errors.
pub const VERSION_SERVED_MIN: u32 = 21;

/// Time for one request and its reply. Shorter than the machine's patience, so that the machine hears of it from here.
const REQUEST_TIME_MAX: Duration = Duration::from_millis(9_500);
const _: () = assert!(9_500 < crate::call::limits::GRAPH_MS_MAX);

/// Time for the connection alone.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(4);

/// Bytes of a reply that are read; the rest is ignored.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// Whose API it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub enum Provider {
    /// `POST {base}/{phone_number_id}/calls` with a bearer token.
    #[default]
    #[serde(rename = "meta")]
    Meta,
    /// `POST {base}/calling/calls` with `D360-API-KEY`, which names the number.
    #[serde(rename = "360dialog")]
    Dialog360,
}

/// Speaks to one Graph API.
#[derive(Clone)]
pub struct GraphClient {
    http: reqwest::Client,
    base: String,
    provider: Provider,
    header: (HeaderName, HeaderValue),
}

impl GraphClient {
    /// A client of the API at `base`. The error is a sentence for the operator.
    pub fn new(base: &str, token: &Secret, provider: Provider) -> Result<GraphClient, String> {
        let parsed = reqwest::Url::parse(base).map_err(|error| format!("{base} is no URL: {error}"))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(format!("{base} is neither http nor https"));
        }
        let (name, value) = match provider {
            Provider::Meta => (AUTHORIZATION, format!("Bearer {}", token.0)),
            Provider::Dialog360 => (HeaderName::from_static("d360-api-key"), token.0.clone()),
        };
        let mut value =
            HeaderValue::from_str(&value).map_err(|_| "the token holds characters that no header can".to_owned())?;
        value.set_sensitive(true);
        let http = reqwest::Client::builder()
            .timeout(REQUEST_TIME_MAX)
            .connect_timeout(CONNECT_TIME_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("tandem/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("no HTTP client: {error}"))?;
        Ok(GraphClient { http, base: base.trim_end_matches('/').to_owned(), provider, header: (name, value) })
    }

    /// Asks once.
    pub async fn ask(&self, request: &GraphRequest) -> Result<(), GraphError> {
        let (status, bytes) = self.post(&request.phone_number_id, &body(request)).await?;
        read_reply(status, &bytes).map_err(|error| self.explained(error))
    }

    /// Asks once for a call to a user; answers WhatsApp's id of it.
    pub async fn connect(&self, request: &ConnectRequest) -> Result<String, GraphError> {
        let (status, bytes) = self.post(&request.phone_number_id, &connect_body(request)).await?;
        read_connected(status, &bytes).map_err(|error| self.explained(error))
    }

    async fn post(&self, phone_number_id: &str, body: &Value) -> Result<(u16, Vec<u8>), GraphError> {
        let url = match self.provider {
            Provider::Meta => format!("{}/{phone_number_id}/calls", self.base),
            Provider::Dialog360 => format!("{}/calling/calls", self.base),
        };
        let asked = self.http.post(url).header(self.header.0.clone(), self.header.1.clone()).json(body).send();
        let mut response = asked.await.map_err(|error| lost(&error))?;
        let status = response.status().as_u16();
        let mut bytes = Vec::new();
        while bytes.len() < REPLY_BYTES_MAX {
            match response.chunk().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                // The status has come: a body that breaks off says no more than an empty one.
                Ok(None) | Err(_) => break,
            }
        }
        bytes.truncate(REPLY_BYTES_MAX);
        Ok((status, bytes))
    }

    fn explained(&self, mut error: GraphError) -> GraphError {
        if matches!(error.kind, GraphErrorKind::Status(400 | 404 | 410))
            && let Some(version) = outdated_version(&self.base)
        {
            error.message =
                format!("{} (API version v{version}.0 is probably no longer served: change WABA_BASE)", error.message);
        }
        error
    }
}

/// The clients of all business numbers.
#[derive(Clone, Default)]
pub struct GraphClients {
    /// For numbers without an account of their own.
    pub default: Option<GraphClient>,
    /// By phone number id.
    pub by_number: Arc<BTreeMap<String, GraphClient>>,
}

impl GraphClients {
    /// Asks once, with the number's own account. A failure is one line of the log: whose fault it is, and Meta's own figures.
    pub async fn ask(&self, request: &GraphRequest) -> Result<(), GraphError> {
        let result = match self.client(&request.phone_number_id) {
            Ok(client) => client.ask(request).await,
            Err(error) => Err(error),
        };
        result.inspect_err(|error| log_failure(&request.call_id, request.action.name(), error))
    }

    /// Asks once for a call to a user, as `ask` does.
    pub async fn connect(&self, request: &ConnectRequest) -> Result<String, GraphError> {
        let result = match self.client(&request.phone_number_id) {
            Ok(client) => client.connect(request).await,
            Err(error) => Err(error),
        };
        result.inspect_err(|error| log_failure(&request.call_id, "connect", error))
    }

    fn client(&self, phone_number_id: &str) -> Result<&GraphClient, GraphError> {
        let client = self.by_number.get(phone_number_id).or(self.default.as_ref());
        client.ok_or_else(|| GraphError { kind: GraphErrorKind::NoAccount, ..GraphError::default() })
    }
}

fn log_failure(call_id: &str, action: &str, error: &GraphError) {
    let (call, class) = (CallTag(call_id), error.class());
    let words = scrub(&error.to_string());
    match error.fault() {
        // Worth waking someone: no call of this number will come up.
        GraphFault::Operator => tracing::warn!(%call, action, class, "Graph refused: {words}"),
        GraphFault::Retry | GraphFault::Final => tracing::info!(%call, action, class, "Graph failed: {words}"),
    }
}

/// The version in `base`, if it is one that is no longer served.
pub fn outdated_version(base: &str) -> Option<u32> {
    let rest = base.split_once("graph.facebook.com/v")?.1;
    let version: u32 = rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    (version < VERSION_SERVED_MIN).then_some(version)
}

/// The JSON of a request. `sdp_type` is `answer` for both actions; Meta's table says otherwise and is wrong.
pub fn body(request: &GraphRequest) -> Value {
    let session = |sdp: &str| json!({"sdp_type": "answer", "sdp": sdp});
    let session = match &request.action {
        GraphAction::PreAccept { sdp } | GraphAction::Accept { sdp } => Some(session(sdp)),
        GraphAction::Reject | GraphAction::Terminate => None,
    };
    let action = request.action.name();
    let mut body = json!({"messaging_product": "whatsapp", "call_id": request.call_id, "action": action});
    if let Some(session) = session {
        body["session"] = session;
    }
    body
}

/// The JSON of a `connect`.
pub fn connect_body(request: &ConnectRequest) -> Value {
    let mut body = json!({
        "messaging_product": "whatsapp",
        "action": "connect",
        "session": {"sdp_type": "offer", "sdp": request.sdp},
        "biz_opaque_callback_data": request.opaque,
    });
    match &request.to {
        Callee::Number(number) => body["to"] = number.as_str().into(),
        Callee::Scoped(id) => body["recipient"] = id.as_str().into(),
    }
    body
}

/// The id of the call that a `connect` began. A 2xx without one begins a call that only its webhooks can name: as good as lost.
pub fn read_connected(status: u16, bytes: &[u8]) -> Result<String, GraphError> {
    read_reply(status, bytes)?;
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let id = value.get("calls").and_then(|calls| calls.get(0)?.get("id")?.as_str());
    let id = id.filter(|id| !id.is_empty() && id.len() <= crate::call::limits::CALL_ID_BYTES_MAX);
    id.map(str::to_owned).ok_or_else(|| GraphError {
        kind: GraphErrorKind::Timeout,
        message: "the reply names no call".to_owned(),
        ..GraphError::default()
    })
}

/// What a reply means. A 2xx whose body cannot be read is a success: the status is the contract.
pub fn read_reply(status: u16, bytes: &[u8]) -> Result<(), GraphError> {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let succeeded = (200..300).contains(&status);
    if succeeded && value.get("success").and_then(Value::as_bool) != Some(false) {
        return Ok(());
    }
    let kind = if succeeded { GraphErrorKind::Unsuccessful } else { GraphErrorKind::Status(status) };
    let error = value.get("error").unwrap_or(&Value::Null);
    let word = |value: &Value, key: &str| -> Option<String> { Some(clean(value.get(key)?.as_str()?)) };
    let number = |key: &str| error.get(key).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
    Err(GraphError {
        kind,
        code: number("code"),
        subcode: number("error_subcode"),
        // 360dialog also answers {"error": "<text>"}.
        message: error.as_str().map(clean).or_else(|| word(error, "message")).unwrap_or_default(),
        details: error.get("error_data").and_then(|data| word(data, "details")),
        fbtrace_id: word(error, "fbtrace_id"),
        is_transient: error.get("is_transient").and_then(Value::as_bool).unwrap_or(false),
    })
}

/// A stranger's text, fit for one line of our log.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

fn lost(error: &reqwest::Error) -> GraphError {
    let kind = if error.is_connect() || error.is_builder() { GraphErrorKind::Connect } else { GraphErrorKind::Timeout };
    // Without the URL, which holds the phone number id; the source tells more than the error itself.
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    GraphError { kind, message: clean(&source), ..GraphError::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_classified_as_the_reference_says() {
        let responses = include_str!("../../tests/data/whatsapp/graph-responses.json");
        let responses: Value = serde_json::from_str(responses).unwrap();
        let outcome = |name: &str| {
            let response = &responses[name];
            let bytes = serde_json::to_vec(&response["body"]).unwrap();
            read_reply(response["http_status"].as_u64().unwrap() as u16, &bytes)
        };
        for name in ["pre_accept_ok", "accept_ok", "terminate_ok", "terminate_ok_short"] {
            assert_eq!(outcome(name), Ok(()), "{name}");
        }
        for (name, fault) in [
            ("sdp_invalid_fingerprint", GraphFault::Final),
            ("sdp_invalid_138008", GraphFault::Final),
            ("no_permission", GraphFault::Final),
            ("sip_enabled", GraphFault::Operator),
            ("concurrency_limit", GraphFault::Retry),
            ("connection_error", GraphFault::Retry),
            ("token_expired", GraphFault::Operator),
        ] {
            assert_eq!(outcome(name).unwrap_err().fault(), fault, "{name}");
        }
        for (name, remedy) in [("token_expired", "WABA_TOKEN"), ("sip_enabled", "SIP mode")] {
            assert!(outcome(name).unwrap_err().to_string().contains(remedy), "{name}");
        }
        let version = read_reply(400, br#"{"error":{"code":2635,"message":"You are calling a deprecated version"}}"#);
        assert_eq!(version.as_ref().unwrap_err().fault(), GraphFault::Operator);
        assert!(version.unwrap_err().to_string().contains("WABA_BASE"));
        let error = outcome("sdp_invalid_fingerprint").unwrap_err().to_string();
        for part in ["HTTP 400", "100/2494010", "Fingerprint algo is not SHA256", "AbCdEfGhIjKlMnOpQrStUvW"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn odd_replies_are_read_by_their_status() {
        assert_eq!(read_reply(200, b""), Ok(()));
        assert_eq!(read_reply(200, b"<html>"), Ok(()));
        assert_eq!(read_reply(200, br#"{"success":false}"#).unwrap_err().kind, GraphErrorKind::Unsuccessful);
        let text = read_reply(400, br#"{"error":"no\nsuch call"}"#).unwrap_err();
        assert_eq!((text.message.as_str(), text.fault()), ("nosuch call", GraphFault::Final));
        assert_eq!(read_reply(502, b"<html>").unwrap_err().fault(), GraphFault::Retry);
        assert_eq!(read_reply(429, b"").unwrap_err().fault(), GraphFault::Retry);
        assert_eq!(read_reply(403, b"").unwrap_err().fault(), GraphFault::Operator);
        assert_eq!(read_reply(302, b"").unwrap_err().fault(), GraphFault::Final);
    }

    #[test]
    fn bodies_carry_the_answer_where_one_belongs() {
        let request =
            |action| GraphRequest { request: 1, phone_number_id: "118".into(), call_id: "wacid.A".into(), action };
        let accept = body(&request(GraphAction::Accept { sdp: "v=0\r\n".into() }));
        assert_eq!(accept["session"], json!({"sdp_type": "answer", "sdp": "v=0\r\n"}));
        assert_eq!((&accept["action"], &accept["messaging_product"]), (&json!("accept"), &json!("whatsapp")));
        let terminate = body(&request(GraphAction::Terminate));
        assert_eq!(terminate, json!({"messaging_product": "whatsapp", "call_id": "wacid.A", "action": "terminate"}));
    }

    #[test]
    fn a_call_to_a_user_is_asked_for_with_our_offer_and_named_by_the_reply() {
        let mut request = ConnectRequest {
            request: 1,
            phone_number_id: "118".into(),
            to: Callee::Number("447700900123".into()),
            sdp: "v=0\r\n".into(),
            opaque: "tandem.x".into(),
            call_id: "c".into(),
        };
        assert_eq!(
            connect_body(&request),
            json!({"messaging_product": "whatsapp", "action": "connect", "to": "447700900123",
                "session": {"sdp_type": "offer", "sdp": "v=0\r\n"}, "biz_opaque_callback_data": "tandem.x"})
        );
        assert!(!format!("{request:?}").contains("447700900123"), "a number is no matter for a log");
        request.to = Callee::scoped("GB.20000000000000000001").unwrap();
        let body = connect_body(&request);
        assert_eq!((&body["recipient"], &body["to"]), (&json!("GB.20000000000000000001"), &Value::Null));
        assert!(
            ["447700900123", "gb.1", "GB.", "GB.1 2", "alice.smith"].iter().all(|text| Callee::scoped(text).is_none())
        );

        let responses = include_str!("../../tests/data/whatsapp/graph-responses.json");
        let responses: Value = serde_json::from_str(responses).unwrap();
        let read = |name: &str| {
            let bytes = serde_json::to_vec(&responses[name]["body"]).unwrap();
            read_connected(responses[name]["http_status"].as_u64().unwrap() as u16, &bytes)
        };
        assert!(read("connect_ok").unwrap().starts_with("wacid."));
        let refused = read("no_permission").unwrap_err();
        assert_eq!(refused.sip_code(), 403);
        assert!(refused.to_string().contains("call_permission_request"), "{refused}");
        for (name, code) in [
            ("sdp_invalid_138008", 488),
            ("sip_enabled", 503),
            ("concurrency_limit", 503),
            ("connection_error", 503),
            ("token_expired", 503),
        ] {
            assert_eq!(read(name).unwrap_err().sip_code(), code, "{name}");
        }
        for body in ["", "{}", "{\"calls\":[]}", "{\"calls\":[{\"id\":\"\"}]}", "<html>"] {
            let error = read_connected(200, body.as_bytes()).unwrap_err();
            assert!(error.may_have_acted() && error.sip_code() == 504, "{body}");
        }
    }

    #[test]
    fn a_version_that_is_no_longer_served_is_recognised() {
        assert_eq!(outdated_version("https://graph.facebook.com/v20.0"), Some(20));
        assert_eq!(outdated_version(BASE_DEFAULT), None);
        assert_eq!(outdated_version("http://127.0.0.1:4000/v20.0"), None);
    }
}
