//! The caller's page: a phone in the browser, and the timeline of its call as it happens.
//!
//! | call | does |
//! |---|---|
//! | `POST /api/call` `{sdp}` | places a call; `{id, sdp}` |
//! | `POST /api/hangup` `{id}` | hangs up; not an error when it is over |
//! | `GET /api/events?id=` | server-sent events: `step` (from tandem's timeline), `state`, `done` |
//! | `GET /api/call/{id}` | the call's state and counters, for tests |
//!
//! Keys need no call of their own: the browser sends them as telephone-event.

use crate::call::{Call, Media};
use crate::hosts;
use crate::relay::{Addresses, PageRelay, RelayError};
use crate::tandem::{Client, Entry};
use crate::webhook::Form;
use crate::whatsapp::{self, WhatsApp};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use control::client::observed::Observed;
use control::client::sip_answerer::Calls as BotCalls;
use engine::io::clock;
use engine::time::Instant;
use futures_util::Stream;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Calls whose state can still be asked for.
const CALLS_MAX: usize = 256;
/// How often the timeline is asked for.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long after the end the timeline may still grow.
const LINGER_MS: u64 = 4_000;
/// Events waiting for one browser.
const EVENTS_MAX: usize = 256;
/// Longest body read.
const BODY_BYTES_MAX: usize = 64 * 1024;

const INDEX: &str = include_str!("page/index.html");
const SCRIPT: &str = include_str!("page/app.js");
const STYLE: &str = include_str!("page/style.css");

/// What the page's handlers share.
#[derive(Clone)]
pub struct Page {
    whatsapp: Arc<WhatsApp>,
    tandem: Client,
    bot: Option<watch::Receiver<BotCalls>>,
    form: Form,
    calls: Arc<Mutex<BTreeMap<String, Arc<Call>>>>,
}

impl Page {
    /// A page whose calls go to `tandem`.
    pub fn new(whatsapp: Arc<WhatsApp>, tandem: Client, bot: Option<watch::Receiver<BotCalls>>, form: Form) -> Page {
        Page { whatsapp, tandem, bot, form, calls: Arc::default() }
    }

    /// Its HTTP side.
    pub fn router(self) -> Router {
        Router::new()
            .route("/", get(|| async { file("text/html; charset=utf-8", INDEX) }))
            .route("/app.js", get(|| async { file("text/javascript; charset=utf-8", SCRIPT) }))
            .route("/style.css", get(|| async { file("text/css; charset=utf-8", STYLE) }))
            .route("/api/call", post(place))
            .route("/api/call/{id}", get(state))
            .route("/api/hangup", post(hang_up))
            .route("/api/events", get(events))
            .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(self)
    }

    fn call(&self, id: &str) -> Option<Arc<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Remembers a call; the first that is over makes room.
    fn remember(&self, id: &str, call: &Arc<Call>) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() >= CALLS_MAX {
            let over = calls.iter().find(|(_, call)| call.state.borrow().ended.is_some()).map(|(id, _)| id.clone());
            over.into_iter().for_each(|id| drop(calls.remove(&id)));
        }
        calls.insert(id.to_owned(), Arc::clone(call));
    }

    /// What is known of a call.
    fn describe(&self, call: &Call) -> Value {
        let state = call.state.borrow().clone();
        let placed = state.placed.unwrap_or(Instant::ZERO);
        let after = |at: Option<Instant>| at.map(|at| at.since(placed).as_millis() as u64);
        let word = match (&state.ended, state.accepted) {
            (Some(_), _) => "ended",
            (None, Some(_)) => "connected",
            (None, None) => "calling",
        };
        let ended = state.ended.map(|(at, by)| json!({ "at_ms": after(Some(at)), "reason": by.text() }));
        let gateway = call.media.gateway();
        let mut described = json!({
            "call_id": call.id,
            "state": word,
            "webhook_status": state.webhook.map(|(_, status)| status),
            "pre_accepted_ms": after(state.pre_accepted),
            "accepted_ms": after(state.accepted),
            "ended": ended,
            "broken_rules": call.broken_rules(),
            "gateway": side(&gateway.borrow(), placed),
        });
        if let Media::Page(relay) = &call.media {
            described["browser"] = side(&relay.browser().borrow(), placed);
        }
        if let Some(bot) = self.bot_state(&call.id) {
            described["bot"] = bot;
        }
        described
    }

    /// What the bot knows of the same call.
    fn bot_state(&self, call_id: &str) -> Option<Value> {
        let calls = self.bot.as_ref()?.borrow().clone();
        let call = calls.into_values().find(|call| call.header("x-wa-call-id") == Some(call_id))?;
        let media = call.media.borrow();
        Some(json!({
            "answered": call.answered.is_some(),
            "digits": media.keys(),
            "packets_received": media.packets_received,
            "packets_sent": media.packets_sent,
            "ended": call.ended.map(|(_, end)| format!("{end:?}")),
        }))
    }
}

fn side(seen: &Observed, placed: Instant) -> Value {
    let wire = &seen.wire;
    let after = |at: Option<Instant>| at.map(|at| at.since(placed).as_millis() as u64);
    json!({
        "ice_ms": after(seen.nominated.map(|(at, _)| at)),
        "dtls_ms": after(seen.connected.map(|(at, _, _)| at)),
        "dtls": seen.connected.map(|(_, version, profile)| format!("{version:?} {profile:?}")),
        "rtp_received": wire.rtp, "rtcp_received": wire.rtcp, "rtp_sent": seen.packets_sent,
        "first_rtp_ms": after(wire.first_rtp),
        "checks": wire.checks, "controlling": wire.controlling, "controlled": wire.controlled,
        "nominations": wire.nominations, "client_hellos": wire.client_hellos,
        "ssrc": wire.ssrc, "other_ssrc": wire.other_ssrc,
        "digits": seen.keys(),
    })
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let policy = "default-src 'self'; img-src 'self' data:; media-src 'self' blob: mediastream:";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": message }))).into_response()
}

#[derive(Deserialize)]
struct NewCall {
    sdp: String,
}

async fn place(State(page): State<Page>, headers: HeaderMap, Json(body): Json<NewCall>) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let browser = hosts::advertised(hosts::address_of_host(host));
    let gateway = whatsapp::relay_addresses().await;
    let addresses = Addresses { browser: &browser, gateway: &gateway, session_id: whatsapp::wall_millis() };
    let relay = match PageRelay::start(&body.sdp, &addresses, page.whatsapp.identity()).await {
        Ok(relay) => relay,
        Err(error @ RelayError::Offer(_)) => return refuse(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()),
        Err(error) => return refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    };
    let sdp = relay.browser_answer.clone();
    let Some(call) = page.whatsapp.place(page.form, Media::Page(relay)) else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "too many calls are going on");
    };
    let id = control::client::system_random().token(20);
    page.remember(&id, &call);
    Json(json!({ "id": id, "sdp": sdp, "call_id": call.id })).into_response()
}

#[derive(Deserialize)]
struct ById {
    id: String,
}

async fn hang_up(State(page): State<Page>, Json(body): Json<ById>) -> StatusCode {
    page.call(&body.id).into_iter().for_each(|call| call.hang_up());
    StatusCode::NO_CONTENT
}

async fn state(State(page): State<Page>, Path(id): Path<String>) -> Response {
    match page.call(&id) {
        Some(call) => Json(page.describe(&call)).into_response(),
        None => refuse(StatusCode::NOT_FOUND, "no such call"),
    }
}

async fn events(State(page): State<Page>, Query(query): Query<ById>) -> Response {
    let Some(call) = page.call(&query.id) else { return refuse(StatusCode::NOT_FOUND, "no such call") };
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    tokio::spawn(follow(page, call, sender));
    Sse::new(stream(events)).keep_alive(KeepAlive::default()).into_response()
}

fn stream(events: mpsc::Receiver<Event>) -> impl Stream<Item = Result<Event, Infallible>> {
    futures_util::stream::unfold(events, |mut events| async {
        let event = events.recv().await?;
        Some((Ok(event), events))
    })
}

/// Asks tandem for what is new and passes it on, until the call is over or the browser has gone.
async fn follow(page: Page, call: Arc<Call>, events: mpsc::Sender<Event>) {
    let (mut next, mut last, mut finished) = (0, Value::Null, false);
    let mut ended_at = None;
    loop {
        if let Ok(timeline) = page.tandem.timeline(&call.id, next).await {
            for entry in &timeline.entries {
                next = next.max(entry.n + 1);
                finished |= entry.step == "end";
                if events.send(step_event(entry)).await.is_err() {
                    return;
                }
            }
            finished |= timeline.ended;
        }
        let state = page.describe(&call);
        if state["ended"].is_object() {
            ended_at.get_or_insert_with(clock::now);
        }
        if state != last && events.send(Event::default().event("state").data(state.to_string())).await.is_err() {
            return;
        }
        last = state;
        let lingered = ended_at.is_some_and(|at| clock::now().since(at).as_millis() as u64 > LINGER_MS);
        if ended_at.is_some() && (finished || lingered) {
            let _ = events.send(Event::default().event("done").data("{}")).await;
            return;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn step_event(entry: &Entry) -> Event {
    let data = json!({ "step": entry.step, "detail": entry.detail, "at_ms": entry.at_ms });
    Event::default().event("step").data(data.to_string())
}
