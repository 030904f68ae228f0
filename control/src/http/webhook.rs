//! The orchestrator's webhooks: proven, read, acknowledged at once; the work is done afterwards.

use super::{Shared, failure, overloaded, read_body};
use crate::call::limits;
use crate::runtime::Input;
use crate::whatsapp::event::{self, Answer, BodyError, Connect, FlatForm, Status, Terminate, WebhookEvent};
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// Longest webhook: a batch of 1,000 updates of about 2.5 KB each. Past it the answer is 413.
pub const WEBHOOK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest challenge that is echoed.
const CHALLENGE_BYTES_MAX: usize = 256;

/// Time a flat `connect` may wait for its call: a little longer than the call may take to be accepted.
const WAIT_TIME_MAX: Duration = Duration::from_millis(limits::ACCEPT_MS_MAX + limits::GRAPH_MS_MAX);

/// The routes; `/wa/webhook` is the one URL for everything.
pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/wa/calling/connect", get(subscribe).post(connect))
        .route("/wa/calling/terminate", get(subscribe).post(terminate))
        .route("/wa/webhook", get(subscribe).post(anything))
}

/// `hub.mode=subscribe` with our token gets the bare challenge back.
async fn subscribe(State(shared): State<Shared>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    let value = |key: &str| query.get(key).map(String::as_str).unwrap_or_default();
    let proven = shared.access.is_verify_token(value("hub.verify_token"));
    let challenge = value("hub.challenge");
    if value("hub.mode") == "subscribe" && proven && challenge.len() <= CHALLENGE_BYTES_MAX {
        return challenge.to_owned().into_response();
    }
    failure(StatusCode::FORBIDDEN, "forbidden", "mode or verify token is wrong")
}

type Peer = ConnectInfo<SocketAddr>;

async fn connect(state: State<Shared>, peer: Peer, headers: HeaderMap, body: Body) -> Response {
    take(state, peer, headers, body, FlatForm::Connect).await
}

async fn terminate(state: State<Shared>, peer: Peer, headers: HeaderMap, body: Body) -> Response {
    take(state, peer, headers, body, FlatForm::Terminate).await
}

async fn anything(state: State<Shared>, peer: Peer, headers: HeaderMap, body: Body) -> Response {
    take(state, peer, headers, body, FlatForm::ByContent).await
}

async fn take(
    State(shared): State<Shared>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    body: Body,
    flat: FlatForm,
) -> Response {
    let bytes = match read_body(body, WEBHOOK_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(response) => return response,
    };
    let proven = shared.access.proven(peer, &headers, &bytes);
    if !proven.any() {
        shared.counters.webhooks_unproven.fetch_add(1, Ordering::Relaxed);
        tracing::debug!("a webhook without valid proof was refused");
        return failure(StatusCode::UNAUTHORIZED, "unauthorized", "signature or shared header is missing or wrong");
    }
    let events = match event::parse(&bytes, flat) {
        Ok(events) => events,
        Err(error) => {
            shared.counters.webhooks_unreadable.fetch_add(1, Ordering::Relaxed);
            let message = match error {
                BodyError::NotJson => "the body is not JSON",
                BodyError::NotAnEvent => "the body is neither an envelope nor a flat event",
                BodyError::WithoutCallId => "call_id is missing",
                BodyError::WithoutSdp => "session.sdp is missing, or is no offer",
            };
            return failure(StatusCode::BAD_REQUEST, "bad_request", message);
        }
    };
    let count = events.len();
    let mut events = events;
    events.retain(|event| match event {
        WebhookEvent::Connect(Connect { phone_number_id, .. })
        | WebhookEvent::Terminate(Terminate { phone_number_id, .. })
        | WebhookEvent::Answer(Answer { phone_number_id, .. })
        | WebhookEvent::Status(Status { phone_number_id, .. })
        | WebhookEvent::Permission { phone_number_id, .. } => {
            shared.access.speaks_for(&proven, phone_number_id.as_deref())
        }
        // They are counted, and change nothing.
        WebhookEvent::Unknown { .. } => true,
    });
    if events.len() < count {
        shared.counters.events_foreign.fetch_add((count - events.len()) as u64, Ordering::Relaxed);
        tracing::warn!("a webhook names numbers of another account than the one whose secret it carries");
        if events.is_empty() {
            return failure(StatusCode::FORBIDDEN, "foreign_number", "the secret is that of another number's account");
        }
    }
    let events = match <[WebhookEvent; 1]>::try_from(events) {
        Ok([WebhookEvent::Connect(connect)]) if shared.access.flat_waits && event::is_flat(&bytes) => {
            return wait(&shared, connect).await;
        }
        Ok([event]) => vec![event],
        Err(events) => events,
    };
    if !shared.offer(Input::Webhook(events)) {
        return overloaded(); // WhatsApp sends it again
    }
    shared.counters.webhooks_taken.fetch_add(1, Ordering::Relaxed);
    ([("content-type", "application/json")], "{\"success\":true}").into_response()
}

/// Answers a flat `connect` as the original does: when the call is accepted, or over before that.
async fn wait(shared: &Shared, connect: Connect) -> Response {
    let (reply, outcome) = oneshot::channel();
    if !shared.offer(Input::ConnectAndWait { connect: Box::new(connect), reply }) {
        return overloaded();
    }
    shared.counters.webhooks_taken.fetch_add(1, Ordering::Relaxed);
    match tokio::time::timeout(WAIT_TIME_MAX, outcome).await {
        Ok(Ok(true)) => ([("content-type", "application/json")], "{\"success\":true}").into_response(),
        Ok(Ok(false)) => failure(StatusCode::CONFLICT, "not_accepted", "the call is over and was not accepted"),
        Ok(Err(_)) | Err(_) => failure(StatusCode::GATEWAY_TIMEOUT, "undecided", "the call's outcome is not known yet"),
    }
}
