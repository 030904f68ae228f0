//! The other end of both halves of the edge's API: an orchestrator's client of a remote edge, and an edge's client of its
//! orchestrators' callbacks.

use crate::call::lease::SessionState;
use crate::call::{EdgeError, EdgeEvent, EdgeEventKind, EdgeReply, EdgeRequest, SessionCreated, limits};
use crate::http::listen::HEADER_TIME_MAX;
use crate::trace::redact::{CallTag, Secret};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
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

/// Events of one session that wait for their turn. Past it the oldest is left out; keepalives tell its fact all the same.
const CALLBACKS_WAITING_MAX: usize = 16;

/// Tries of a callback; of the last event of a session, without which its orchestrator would keep a dead call.
const CALLBACK_TRIES: u32 = 3;
const LAST_CALLBACK_TRIES: u32 = 8;

/// First pause between two tries; it doubles.
const CALLBACK_BACKOFF_MS: u64 = 250;

/// Idle connections are closed before the server at the other end does it, so that no request meets a closing one.
const IDLE_TIME_MAX: Duration = Duration::from_secs(7);
const _: () = assert!(IDLE_TIME_MAX.as_secs() < HEADER_TIME_MAX.as_secs());

/// `trusted` holds authorities in PEM, beside the system's.
fn http_client(trusted: Option<&Path>) -> Result<reqwest::Client, String> {
    let mut authorities = Vec::new();
    if let Some(path) = trusted {
        let unreadable = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let pem = std::fs::read(path).map_err(|error| unreadable(&error))?;
        authorities = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unreadable(&error))?;
    }
    reqwest::Client::builder()
        .tls_certs_merge(authorities)
        .pool_idle_timeout(IDLE_TIME_MAX)
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
    pub fn new(base: &str, token: Secret, trusted: Option<&Path>) -> Result<EdgeClient, String> {
        Ok(EdgeClient { http: http_client(trusted)?, base: base.trim_end_matches('/').to_owned(), token })
    }

    /// Asks once. Status 0 in the error: nobody knows whether the edge heard it.
    pub async fn ask(&self, what: &EdgeRequest) -> Result<EdgeReply, EdgeError> {
        let (path, body) = match what {
            EdgeRequest::New(session) => ("new", json!(session)),
            EdgeRequest::Release { edge_session_id } => ("release", json!({"edge_session_id": edge_session_id})),
            EdgeRequest::Hangup { edge_session_id } => ("hangup", json!({"edge_session_id": edge_session_id})),
            EdgeRequest::Keepalive { sessions } => ("keepalive", json!({"sessions": sessions})),
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
        let body = read_body(response).await;
        if !(200..300).contains(&status) {
            let value = body.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
            return Err(read_error(status, &value));
        }
        // The status alone answers these two; the others are nothing without their body, and may be asked again.
        let body = match what {
            EdgeRequest::Release { .. } | EdgeRequest::Hangup { .. } => return Ok(EdgeReply::Done),
            EdgeRequest::New(_) | EdgeRequest::Keepalive { .. } => body?,
        };
        let protocol = |_| EdgeError::new(502, "protocol", "the edge's reply cannot be read");
        match what {
            EdgeRequest::Keepalive { .. } => serde_json::from_slice::<States>(&body)
                .map(|states| EdgeReply::States(states.sessions))
                .map_err(protocol),
            _ => serde_json::from_slice::<SessionCreated>(&body).map(EdgeReply::Created).map_err(protocol),
        }
    }
}

#[derive(Deserialize)]
struct States {
    sessions: Vec<SessionState>,
}

/// A body that breaks off says nothing about the request.
async fn read_body(mut response: reqwest::Response) -> Result<Vec<u8>, EdgeError> {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return Ok(bytes),
            Err(_) => return Err(EdgeError::lost("broken_off", "the edge's reply broke off")),
        }
        if bytes.len() > REPLY_BYTES_MAX {
            return Err(EdgeError::new(502, "protocol", "the edge's reply is too long"));
        }
    }
}

fn read_error(status: u16, value: &Value) -> EdgeError {
    let word = |key: &str| value.pointer(&format!("/error/{key}")).and_then(Value::as_str);
    let clean = |text: &str| text.chars().filter(|c| !c.is_control()).take(300).collect::<String>();
    let code = word("code").map_or_else(|| format!("http_{status}"), clean);
    EdgeError::new(status, &code, word("message").map(clean).unwrap_or_default())
}

/// An edge's way to its orchestrators. The events of one session arrive in their order, each when the one before was taken or
/// given up; sessions do not wait for each other.
#[derive(Clone)]
pub struct CallbackClient {
    http: reqwest::Client,
    token: Secret,
    turns: Arc<Semaphore>,
    /// Per session with a task that delivers: what waits behind the event that is under way.
    waiting: Arc<Mutex<BTreeMap<String, VecDeque<EdgeEvent>>>>,
}

impl CallbackClient {
    /// A client that bears `token`.
    pub fn new(token: Secret, trusted: Option<&Path>) -> Result<CallbackClient, String> {
        let turns = Arc::new(Semaphore::new(CALLBACKS_MAX));
        Ok(CallbackClient { http: http_client(trusted)?, token, turns, waiting: Arc::default() })
    }

    /// Posts an event from a task; never waits.
    pub fn post(&self, url: String, event: EdgeEvent) {
        let session = event.edge_session_id.clone();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = waiting.get_mut(&session) {
            if is_last(&event) {
                queue.clear(); // nothing that came before matters any more
            } else if queue.len() >= CALLBACKS_WAITING_MAX {
                queue.pop_front(); // a keepalive tells what is left out
            }
            queue.push_back(event);
            return;
        }
        waiting.insert(session.clone(), VecDeque::from([event]));
        drop(waiting);
        let client = self.clone();
        tokio::spawn(async move {
            while let Some(event) = client.next(&session) {
                client.deliver(&url, &event).await;
            }
        });
    }

    /// The next event of a session; without one the session has no task any more.
    fn next(&self, session: &str) -> Option<EdgeEvent> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let event = waiting.get_mut(session).and_then(VecDeque::pop_front);
        if event.is_none() {
            waiting.remove(session);
        }
        event
    }

    /// Whether the last event of a session waits.
    fn last_waits(&self, session: &str) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.get(session).is_some_and(|queue| queue.iter().any(is_last))
    }

    async fn deliver(&self, url: &str, event: &EdgeEvent) {
        let tries = if is_last(event) { LAST_CALLBACK_TRIES } else { CALLBACK_TRIES };
        for attempt in 0..tries {
            if attempt > 0 && self.last_waits(&event.edge_session_id) {
                return;
            }
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

fn is_last(event: &EdgeEvent) -> bool {
    matches!(event.kind, EdgeEventKind::Ended { .. })
}
