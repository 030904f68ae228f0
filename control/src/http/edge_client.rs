//! The other end of both halves of the edge's API: an orchestrator's client of a remote edge, and an edge's client of its
//! orchestrators' callbacks.

use crate::call::{EdgeError, EdgeEvent, EdgeEventKind, EdgeReply, EdgeRequest, SessionCreated, limits};
use crate::trace::redact::{CallTag, Secret};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Time for one request and its reply: shorter than the machine's patience.
const REQUEST_TIME_MAX: Duration = Duration::from_millis(limits::EDGE_MS_MAX - 500);

/// Time for the connection alone.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);

/// Bytes of a reply that are read: an answer and its session id.
const REPLY_BYTES_MAX: usize = 256 * 1024;

/// Callbacks under way at once. Further ones wait for their turn; their number is bounded by the sessions'.
const CALLBACKS_MAX: usize = 256;

/// Tries of a callback; of the last event of a session, without which its orchestrator would keep a dead call.
const CALLBACK_TRIES: u32 = 3;
const LAST_CALLBACK_TRIES: u32 = 8;

/// First pause between two tries; it doubles.
const CALLBACK_BACKOFF_MS: u64 = 250;

fn http_client() -> Result<reqwest::Client, String> {
    reqwest::Client::builder()
        .timeout(REQUEST_TIME_MAX)
        .connect_timeout(CONNECT_TIME_MAX)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| format!("no HTTP client: {error}"))
}

/// An orchestrator's way to an edge elsewhere.
#[derive(Clone)]
pub struct EdgeClient {
    http: reqwest::Client,
    base: String,
    token: Secret,
}

impl EdgeClient {
    /// A client of the edge at `base`.
    pub fn new(base: &str, token: Secret) -> Result<EdgeClient, String> {
        Ok(EdgeClient { http: http_client()?, base: base.trim_end_matches('/').to_owned(), token })
    }

    /// Asks once. Status 0 in the error: nobody knows whether the edge heard it.
    pub async fn ask(&self, what: &EdgeRequest) -> Result<EdgeReply, EdgeError> {
        let (path, body) = match what {
            EdgeRequest::New(session) => ("new", json!(session)),
            EdgeRequest::Release { edge_session_id } => ("release", json!({"edge_session_id": edge_session_id})),
            EdgeRequest::Hangup { edge_session_id } => ("hangup", json!({"edge_session_id": edge_session_id})),
        };
        let mut request = self.http.post(format!("{}/webrtc/{path}", self.base)).json(&body);
        if !self.token.0.is_empty() {
            request = request.bearer_auth(&self.token.0);
        }
        let response = request.send().await.map_err(|error| match error.is_connect() {
            true => EdgeError::lost("unreachable", "the edge cannot be reached"),
            false => EdgeError::lost("timeout", "the edge did not reply in time"),
        })?;
        let status = response.status().as_u16();
        let value = read_json(response).await;
        if !(200..300).contains(&status) {
            return Err(read_error(status, &value));
        }
        match what {
            EdgeRequest::New(_) => serde_json::from_value::<SessionCreated>(value)
                .map(EdgeReply::Created)
                .map_err(|_| EdgeError::new(502, "protocol", "the edge's reply holds no session")),
            EdgeRequest::Release { .. } | EdgeRequest::Hangup { .. } => Ok(EdgeReply::Done),
        }
    }
}

async fn read_json(mut response: reqwest::Response) -> Value {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > REPLY_BYTES_MAX {
            return Value::Null;
        }
    }
    serde_json::from_slice(&bytes).unwrap_or_default()
}

fn read_error(status: u16, value: &Value) -> EdgeError {
    let word = |key: &str| value.pointer(&format!("/error/{key}")).and_then(Value::as_str);
    let clean = |text: &str| text.chars().filter(|c| !c.is_control()).take(300).collect::<String>();
    let code = word("code").map_or_else(|| format!("http_{status}"), clean);
    EdgeError::new(status, &code, word("message").map(clean).unwrap_or_default())
}

/// An edge's way to its orchestrators.
#[derive(Clone)]
pub struct CallbackClient {
    http: reqwest::Client,
    token: Secret,
    turns: Arc<Semaphore>,
}

impl CallbackClient {
    /// A client that bears `token`.
    pub fn new(token: Secret) -> Result<CallbackClient, String> {
        Ok(CallbackClient { http: http_client()?, token, turns: Arc::new(Semaphore::new(CALLBACKS_MAX)) })
    }

    /// Posts an event in a task of its own. Events of one session may overtake each other; an orchestrator does not mind, since
    /// each tells a fact that stays true, and `Ended` is final.
    pub fn post(&self, url: String, event: EdgeEvent) {
        let client = self.clone();
        tokio::spawn(async move { client.deliver(&url, &event).await });
    }

    async fn deliver(&self, url: &str, event: &EdgeEvent) {
        let last = matches!(event.kind, EdgeEventKind::Ended { .. });
        let tries = if last { LAST_CALLBACK_TRIES } else { CALLBACK_TRIES };
        for attempt in 0..tries {
            let outcome = {
                let _turn = self.turns.acquire().await;
                let mut request = self.http.post(url).json(event);
                if !self.token.0.is_empty() {
                    request = request.bearer_auth(&self.token.0);
                }
                request.send().await.map(|response| response.status().as_u16())
            };
            match outcome {
                Ok(status) if status < 500 && status != 429 => {
                    if status >= 300 {
                        tracing::warn!(
                            call = %CallTag(&event.call_id),
                            status,
                            "the orchestrator refuses a callback: check EDGE_TOKEN"
                        );
                    }
                    return;
                }
                _ => tokio::time::sleep(Duration::from_millis(CALLBACK_BACKOFF_MS << attempt)).await,
            }
        }
        tracing::warn!(call = %CallTag(&event.call_id), "a callback could not be delivered");
    }
}
