//! `POST /calls` and `DELETE /calls/{call_id}`: a program has users of WhatsApp called.
//!
//! Who may do so can spend the operator's money and lose the permission of users: the edge's token is demanded where there is one,
//! else the program must be on this host.

use super::edge_api::{read_limited, refusal};
use super::{Shared, failure, overloaded};
use crate::call::EdgeError;
use crate::call::edge::{NEW_CALL_BYTES_MAX, NewCall};
use crate::runtime::Input;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, post};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// Time the runtime may take.
const REPLY_TIME_MAX: Duration = Duration::from_secs(2);

/// The routes; `GET /calls` is the page of all calls.
pub fn routes() -> Router<Shared> {
    Router::new().route("/calls", post(begin)).route("/calls/{call_id}", delete(end))
}

type Peer = ConnectInfo<SocketAddr>;

async fn begin(State(shared): State<Shared>, ConnectInfo(peer): Peer, headers: HeaderMap, body: Body) -> Response {
    let new = match read_limited::<NewCall>(&shared, peer, &headers, body, NEW_CALL_BYTES_MAX).await {
        Ok(new) => new,
        Err(response) => return response,
    };
    let (reply, answer) = oneshot::channel();
    if !shared.offer(Input::Originate { new: Box::new(new), reply }) {
        return overloaded();
    }
    match tokio::time::timeout(REPLY_TIME_MAX, answer).await {
        Ok(Ok(Ok(call_id))) => json_of(StatusCode::ACCEPTED, &json!({"call_id": call_id})),
        Ok(Ok(Err(error))) => refusal(&error),
        Ok(Err(_)) | Err(_) => overloaded(),
    }
}

async fn end(
    State(shared): State<Shared>,
    ConnectInfo(peer): Peer,
    Path(call_id): Path<String>,
    headers: HeaderMap,
) -> Response {
    if !shared.access.admits_plane(peer, &headers) {
        shared.counters.edge_unauthorized.fetch_add(1, Ordering::Relaxed);
        return failure(StatusCode::UNAUTHORIZED, "unauthorized", "the bearer token is missing or wrong");
    }
    let (reply, answer) = oneshot::channel();
    if !shared.offer(Input::HangUp { call_id, reply }) {
        return overloaded();
    }
    match tokio::time::timeout(REPLY_TIME_MAX, answer).await {
        Ok(Ok(true)) => json_of(StatusCode::OK, &json!({"success": true})),
        Ok(Ok(false)) => refusal(&EdgeError::new(404, "unknown_call", "no call of this API with this id goes on")),
        Ok(Err(_)) | Err(_) => overloaded(),
    }
}

fn json_of(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
