//! What people look at: the page of calls, their ladders and messages, and the agent's softphone.
//!
//! The pages are part of the program and load nothing from elsewhere. Calls are shown to callers on this host or with the token,
//! like all figures; the softphone's page is shown to anybody, since it can do nothing without a user's password.

use super::{Shared, failure, overloaded};
use crate::runtime::Input;
use crate::sip_io::websocket::Door;
use crate::trace::board::{Answer, Question, list_text};
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::oneshot;

/// Time the runtime may take to answer.
const REPLY_TIME_MAX: Duration = Duration::from_secs(2);

const CALLS_HTML: &str = include_str!("page/calls.html");
const CALLS_JS: &str = include_str!("page/calls.js");
const AGENT_HTML: &str = include_str!("page/agent.html");
const AGENT_JS: &str = include_str!("page/agent.js");
const SIP_JS: &str = include_str!("page/sip.js");
const STYLE_CSS: &str = include_str!("page/style.css");

/// Nothing from elsewhere is loaded, whatever a caller's name may hold; `connect-src` is for the softphone's WebSocket.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws: wss:; \
    media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page of calls and what it asks for.
pub fn routes() -> Router<Shared> {
    let html = "text/html; charset=utf-8";
    let js = "text/javascript; charset=utf-8";
    Router::new()
        .route("/calls", get(move || async move { file(html, CALLS_HTML) }))
        .route("/calls/list", get(list))
        .route("/calls/{call_id}/ladder", get(ladder))
        .route("/agent", get(move || async move { file(html, AGENT_HTML) }))
        .route("/page/calls.js", get(move || async move { file(js, CALLS_JS) }))
        .route("/page/agent.js", get(move || async move { file(js, AGENT_JS) }))
        .route("/page/sip.js", get(move || async move { file(js, SIP_JS) }))
        .route("/page/style.css", get(|| async { file("text/css; charset=utf-8", STYLE_CSS) }))
}

/// SIP over WebSocket on the pages' own origin (RFC 7118): no further port, no further certificate. `tls`: the server itself speaks TLS.
pub fn softphones(door: Option<Door>, tls: bool) -> Router<Shared> {
    let Some(door) = door else { return Router::new() };
    let upgrade = move |ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request<Body>| async move {
        // Or TLS ends before us: at a proxy, which says so.
        let proto = request.headers().get("x-forwarded-proto").and_then(|value| value.to_str().ok());
        let secure = tls || proto.is_some_and(|proto| proto.eq_ignore_ascii_case("https"));
        door.upgrade(request, peer, secure)
    };
    Router::new().route("/sip", get(upgrade))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let mut response = ([(header::CONTENT_TYPE, kind)], text).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

async fn list(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let search = query.get("search").cloned().unwrap_or_default();
    let answer = match ask(&shared, peer, &headers, Question::List { search }).await {
        Ok(answer) => answer,
        Err(refusal) => return *refusal,
    };
    match answer {
        Answer::List(calls) if query.contains_key("text") => plain(list_text(&calls)),
        Answer::List(calls) => axum::Json(calls).into_response(),
        Answer::Call(_) | Answer::Unknown => unknown(),
    }
}

async fn ladder(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(name): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let answer = match ask(&shared, peer, &headers, Question::Call { name }).await {
        Ok(answer) => answer,
        Err(refusal) => return *refusal,
    };
    match answer {
        Answer::Call(view) if query.contains_key("text") => plain(view.text),
        Answer::Call(view) => axum::Json(view).into_response(),
        Answer::List(_) | Answer::Unknown => unknown(),
    }
}

async fn ask(
    shared: &Shared,
    peer: SocketAddr,
    headers: &HeaderMap,
    question: Question,
) -> Result<Answer, Box<Response>> {
    if !shared.access.admits_reader(peer, headers) {
        let refusal =
            failure(StatusCode::UNAUTHORIZED, "unauthorized", "calls are shown on this host or with the token");
        return Err(Box::new(refusal));
    }
    let (reply, answer) = oneshot::channel();
    if !shared.offer(Input::Board { question, reply }) {
        return Err(Box::new(overloaded()));
    }
    match tokio::time::timeout(REPLY_TIME_MAX, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        _ => Err(Box::new(overloaded())),
    }
}

fn plain(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

fn unknown() -> Response {
    failure(StatusCode::NOT_FOUND, "unknown_call", "no call with this id is remembered")
}
