//! The media edge's API (`POST /webrtc/new`, `/webrtc/release`, `/webrtc/hangup`, `/webrtc/keepalive`), and the callbacks that a
//! remote edge posts to our orchestrator (`POST /edge/events`).

use super::{Shared, failure, overloaded, read_body};
use crate::call::lease::SessionName;
use crate::call::{EdgeError, EdgeEvent, EdgeReply, EdgeRequest, NewSession, limits};
use crate::runtime::Input;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// Longest body: the longest description, every character escaped at its worst, and room for the other fields.
pub const EDGE_BYTES_MAX: usize = 6 * engine::limits::SDP_BYTES_MAX + 16 * 1024;

/// Time the edge may take for one request.
const REPLY_TIME_MAX: Duration = Duration::from_millis(limits::OPEN_MS_MAX + 2_000);

/// The edge's own routes.
pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/webrtc/new", post(new))
        .route("/webrtc/release", post(release))
        .route("/webrtc/hangup", post(hangup))
        .route("/webrtc/keepalive", post(keepalive))
}

/// The orchestrator's route for a remote edge.
pub fn callback_routes() -> Router<Shared> {
    Router::new().route("/edge/events", post(event))
}

#[derive(Deserialize)]
struct Named {
    edge_session_id: String,
}

#[derive(Deserialize)]
struct Alive {
    sessions: Vec<SessionName>,
}

type Peer = ConnectInfo<SocketAddr>;

async fn new(State(shared): State<Shared>, ConnectInfo(peer): Peer, headers: HeaderMap, body: Body) -> Response {
    match read::<NewSession>(&shared, peer, &headers, body).await {
        Ok(session) => ask(&shared, EdgeRequest::New(Box::new(session))).await,
        Err(response) => response,
    }
}

async fn release(State(shared): State<Shared>, ConnectInfo(peer): Peer, headers: HeaderMap, body: Body) -> Response {
    match read::<Named>(&shared, peer, &headers, body).await {
        Ok(Named { edge_session_id }) => ask(&shared, EdgeRequest::Release { edge_session_id }).await,
        Err(response) => response,
    }
}

async fn hangup(State(shared): State<Shared>, ConnectInfo(peer): Peer, headers: HeaderMap, body: Body) -> Response {
    match read::<Named>(&shared, peer, &headers, body).await {
        Ok(Named { edge_session_id }) => ask(&shared, EdgeRequest::Hangup { edge_session_id }).await,
        Err(response) => response,
    }
}

async fn keepalive(State(shared): State<Shared>, ConnectInfo(peer): Peer, headers: HeaderMap, body: Body) -> Response {
    match read::<Alive>(&shared, peer, &headers, body).await {
        Ok(Alive { sessions }) if sessions.len() > limits::KEEPALIVE_SESSIONS_MAX => {
            let message = format!("one keepalive names at most {} sessions", limits::KEEPALIVE_SESSIONS_MAX);
            failure(StatusCode::BAD_REQUEST, "too_many_sessions", &message)
        }
        Ok(Alive { sessions }) => ask(&shared, EdgeRequest::Keepalive { sessions }).await,
        Err(response) => response,
    }
}

async fn event(State(shared): State<Shared>, ConnectInfo(peer): Peer, headers: HeaderMap, body: Body) -> Response {
    match read::<EdgeEvent>(&shared, peer, &headers, body).await {
        Ok(event) => match shared.offer(Input::EdgeEvent(event)) {
            true => success(json!({"success": true})),
            false => overloaded(),
        },
        Err(response) => response,
    }
}

async fn read<T: DeserializeOwned>(
    shared: &Shared,
    peer: SocketAddr,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Response> {
    read_limited(shared, peer, headers, body, EDGE_BYTES_MAX).await
}

/// Reads the body of who bears the token, of at most `limit` bytes.
pub(super) async fn read_limited<T: DeserializeOwned>(
    shared: &Shared,
    peer: SocketAddr,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<T, Response> {
    if !shared.access.admits_plane(peer, headers) {
        shared.counters.edge_unauthorized.fetch_add(1, Ordering::Relaxed);
        return Err(failure(StatusCode::UNAUTHORIZED, "unauthorized", "the bearer token is missing or wrong"));
    }
    let bytes = read_body(body, limit).await?;
    // serde would take a list for an object whose fields come in their order.
    if bytes.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok();
        let kind = if is_json { "bad_field" } else { "bad_json" };
        return Err(failure(StatusCode::BAD_REQUEST, kind, "the body is no JSON object"));
    }
    // serde's message names the field and the place, and repeats nothing of the body.
    serde_json::from_slice(&bytes).map_err(|error| {
        let kind = if error.is_data() { "bad_field" } else { "bad_json" };
        failure(StatusCode::BAD_REQUEST, kind, &format!("the body cannot be read: {error}"))
    })
}

async fn ask(shared: &Shared, what: EdgeRequest) -> Response {
    let (reply, answer) = oneshot::channel();
    if !shared.offer(Input::EdgeRequest { what, reply }) {
        return overloaded();
    }
    match tokio::time::timeout(REPLY_TIME_MAX, answer).await {
        Ok(Ok(Ok(EdgeReply::Created(created)))) => success(json!(created)),
        Ok(Ok(Ok(EdgeReply::States(sessions)))) => success(json!({"sessions": sessions})),
        Ok(Ok(Ok(EdgeReply::Done))) => success(json!({"success": true})),
        Ok(Ok(Err(error))) => refusal(&error),
        Ok(Err(_)) | Err(_) => overloaded(),
    }
}

fn success(body: serde_json::Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// An edge's refusal as HTTP has it.
pub(super) fn refusal(error: &EdgeError) -> Response {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = failure(status, &error.code, &error.message);
    if let Some(seconds) = error.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
