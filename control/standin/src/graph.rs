//! The Graph API's side of a call: `POST /{version}/{phone_number_id}/calls`, with Meta's checks and Meta's errors.
//!
//! The checks are a pure object ([`Graph`]); [`router`] puts it on HTTP. A check that Meta documents or that was seen in a public
//! capture is made here; a gateway that passes here passes there, as far as anyone outside knows.
//!
//! Why so strict: every rule is one that live integrations have broken (a second fingerprint, `a=ice-lite` in the answer, another SDP in
//! accept than in pre_accept), and Meta's own answer to each is a call that fails minutes later.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use engine::io::clock;
use engine::time::Instant;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Requests remembered for `GET /standin/requests`.
const REQUESTS_MAX: usize = 1_000;
/// Calls remembered. Past it the oldest is forgotten, and requests for it get "unknown call".
const CALLS_MAX: usize = 1_000;
/// Orders for errors that wait.
const FAULTS_MAX: usize = 64;
/// Longest body read.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// What a request did to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The answer is known: the relay may take it.
    PreAccepted {
        /// The answer.
        sdp: String,
    },
    /// The call is accepted; its 200 is about to be written.
    Accepted {
        /// The answer.
        sdp: String,
        /// Media before this instant was too early.
        at: Instant,
    },
    /// Declined.
    Rejected,
    /// Ended by the business.
    Terminated,
    /// Placed by the business: the user's phone is about to ring.
    Connected(Connected),
}

/// A call that the business places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Who is called, digits.
    pub to: String,
    /// The offer.
    pub sdp: String,
    /// `biz_opaque_callback_data`, which webhooks repeat.
    pub opaque: Option<String>,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// JSON.
    pub body: Value,
    /// Which call, and what happened to it.
    pub event: Option<(String, Event)>,
    /// Wait this long before answering (a fault that was asked for).
    pub delay_ms: u64,
}

/// An error that is to be answered instead of the truth.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct Fault {
    /// For requests with this action.
    pub action: String,
    /// How often; 1 if not said.
    #[serde(default = "once")]
    pub times: u32,
    /// HTTP status; without one the request is only delayed.
    #[serde(default)]
    pub http_status: Option<u16>,
    /// Meta's code.
    #[serde(default)]
    pub code: u32,
    /// Wait first.
    #[serde(default)]
    pub delay_ms: u64,
}

fn once() -> u32 {
    1
}

#[derive(Clone, Debug, Default)]
struct Call {
    mid: String,
    payload_types: Vec<String>,
    pre_accepted: Option<String>,
    accepted: bool,
    ended: bool,
    /// The business has placed it.
    is_ours: bool,
}

/// Meta's memory of calls.
pub struct Graph {
    token: String,
    phone_number_id: String,
    calls: BTreeMap<String, Call>,
    order: VecDeque<String>,
    requests: VecDeque<Value>,
    faults: Vec<Fault>,
    traces: u64,
    /// Users who let the business call them.
    permitted: BTreeSet<String>,
}

impl Graph {
    /// Serves one number.
    pub fn new(token: &str, phone_number_id: &str) -> Graph {
        Graph {
            token: token.to_owned(),
            phone_number_id: phone_number_id.to_owned(),
            calls: BTreeMap::new(),
            order: VecDeque::new(),
            requests: VecDeque::new(),
            faults: Vec::new(),
            traces: 0,
            permitted: BTreeSet::new(),
        }
    }

    /// A user lets the business call.
    pub fn permit(&mut self, user: &str) {
        self.permitted.insert(user.to_owned());
    }

    /// A call was placed with `offer`.
    pub fn placed(&mut self, call_id: &str, offer: &str) {
        let payload_types = media_line(offer).map(|line| line.split(' ').skip(3).map(str::to_owned).collect());
        let call = Call {
            mid: attribute(offer, "mid").unwrap_or_default().to_owned(),
            payload_types: payload_types.unwrap_or_default(),
            ..Call::default()
        };
        self.insert(call_id, call);
    }

    fn insert(&mut self, call_id: &str, call: Call) {
        self.calls.insert(call_id.to_owned(), call);
        self.order.push_back(call_id.to_owned());
        if self.order.len() > CALLS_MAX {
            self.order.pop_front().into_iter().for_each(|oldest| drop(self.calls.remove(&oldest)));
        }
    }

    /// A call ended by itself or by its caller.
    pub fn ended(&mut self, call_id: &str) {
        if let Some(call) = self.calls.get_mut(call_id) {
            call.ended = true;
        }
    }

    /// Answers the next requests with an error. `false`: too many wait.
    pub fn fault(&mut self, fault: Fault) -> bool {
        let room = self.faults.len() < FAULTS_MAX;
        if room {
            self.faults.push(fault);
        }
        room
    }

    /// All requests so far, oldest first.
    pub fn requests(&self) -> Vec<Value> {
        self.requests.iter().cloned().collect()
    }

    /// Answers one request.
    pub fn handle(&mut self, now: Instant, authorization: Option<&str>, phone_number_id: &str, body: &[u8]) -> Reply {
        let parsed: Option<Value> = serde_json::from_slice(body).ok();
        let mut reply = match self.check(now, authorization, phone_number_id, parsed.as_ref()) {
            Ok((call_id, event)) => {
                let body = match event {
                    Event::Connected(_) => json!({ "messaging_product": "whatsapp", "calls": [{ "id": call_id }] }),
                    _ => json!({ "messaging_product": "whatsapp", "success": true }),
                };
                Reply { status: 200, body, event: Some((call_id, event)), delay_ms: 0 }
            }
            Err(refusal) => refusal.reply(),
        };
        let action = parsed.as_ref().and_then(|body| body["action"].as_str()).unwrap_or_default();
        let fault = self.take_fault(action);
        reply.delay_ms = fault.as_ref().map_or(0, |fault| fault.delay_ms);
        if let Some((status, fault)) = fault.and_then(|fault| fault.http_status.map(|status| (status, fault))) {
            reply = Reply { delay_ms: fault.delay_ms, ..Refusal::new(status, fault.code, "asked for").reply() };
        }
        // Only what is answered with success happened.
        if let Some((call_id, event)) = reply.event.clone() {
            self.apply(&call_id, &event);
        }
        self.traces += 1;
        if let Some(error) = reply.body.get_mut("error") {
            error["fbtrace_id"] = format!("AStandIn{:015}", self.traces).into();
        }
        self.log(now, parsed, &reply);
        reply
    }

    fn check(
        &self,
        now: Instant,
        authorization: Option<&str>,
        phone_number_id: &str,
        body: Option<&Value>,
    ) -> Result<(String, Event), Refusal> {
        if authorization.and_then(|value| value.strip_prefix("Bearer ")) != Some(self.token.as_str()) {
            return Err(Refusal::token());
        }
        if phone_number_id != self.phone_number_id {
            return Err(Refusal::invalid("Unknown phone number id"));
        }
        let body = body.ok_or(Refusal::invalid("The body is not JSON"))?;
        if body["messaging_product"] != "whatsapp" {
            return Err(Refusal::invalid("messaging_product must be whatsapp"));
        }
        if body["action"] == "connect" {
            return self.check_connect(body);
        }
        let call_id = body["call_id"].as_str().ok_or(Refusal::invalid("call_id is required"))?;
        let call = self.calls.get(call_id).ok_or(Refusal::invalid("Unknown call id"))?;
        if call.ended {
            return Err(Refusal::invalid("The call has already ended"));
        }
        let event = match body["action"].as_str() {
            Some("pre_accept" | "accept" | "reject") if call.is_ours => {
                return Err(Refusal::invalid("The business has placed this call"));
            }
            Some("pre_accept") if call.pre_accepted.is_some() || call.accepted => {
                return Err(Refusal::invalid("The call is already in progress"));
            }
            Some("pre_accept") => Event::PreAccepted { sdp: session(body, call)?.to_owned() },
            Some("accept") if call.accepted => return Err(Refusal::invalid("The call is already accepted")),
            Some("accept") => {
                let sdp = session(body, call)?;
                if call.pre_accepted.as_deref().is_some_and(|earlier| earlier != sdp) {
                    return Err(Refusal::invalid("The SDP of accept differs from that of pre_accept"));
                }
                Event::Accepted { sdp: sdp.to_owned(), at: now }
            }
            Some("reject") if call.accepted => return Err(Refusal::invalid("The call is already accepted")),
            Some("reject") => Event::Rejected,
            Some("terminate") => Event::Terminated,
            _ => return Err(Refusal::invalid("Unknown action")),
        };
        Ok((call_id.to_owned(), event))
    }

    /// A call to a user: permission first, as there.
    fn check_connect(&self, body: &Value) -> Result<(String, Event), Refusal> {
        let is_number = |to: &&str| (7..=15).contains(&to.len()) && to.bytes().all(|byte| byte.is_ascii_digit());
        let to = body["to"].as_str().filter(is_number).ok_or(Refusal::invalid("to is required"))?;
        if body["session"]["sdp_type"] != "offer" {
            return Err(Refusal::invalid("session.sdp_type must be offer"));
        }
        let sdp = body["session"]["sdp"].as_str().ok_or(Refusal::invalid("session.sdp is required"))?;
        check_offer(sdp)?;
        let opaque = body["biz_opaque_callback_data"].as_str();
        if opaque.is_some_and(|opaque| opaque.len() > 512) {
            return Err(Refusal::invalid("biz_opaque_callback_data is too long"));
        }
        if !self.permitted.contains(to) {
            return Err(Refusal::new(401, 138_006, "No approved call permission from the recipient"));
        }
        let call_id =
            format!("wacid.{}", base64::engine::general_purpose::STANDARD.encode(format!("{to}/{}", self.traces)));
        let connected = Connected { to: to.to_owned(), sdp: sdp.to_owned(), opaque: opaque.map(str::to_owned) };
        Ok((call_id, Event::Connected(connected)))
    }

    fn take_fault(&mut self, action: &str) -> Option<Fault> {
        let index = self.faults.iter().position(|fault| fault.action == action)?;
        self.faults[index].times = self.faults[index].times.saturating_sub(1);
        let fault = self.faults[index].clone();
        if fault.times == 0 {
            self.faults.remove(index);
        }
        Some(fault)
    }

    fn apply(&mut self, call_id: &str, event: &Event) {
        if let Event::Connected(_) = event {
            return self.insert(call_id, Call { is_ours: true, ..Call::default() });
        }
        let Some(call) = self.calls.get_mut(call_id) else { return };
        match event {
            Event::PreAccepted { sdp } => call.pre_accepted = Some(sdp.clone()),
            Event::Accepted { .. } => call.accepted = true,
            Event::Rejected | Event::Terminated => call.ended = true,
            Event::Connected(_) => {}
        }
    }

    fn log(&mut self, now: Instant, body: Option<Value>, reply: &Reply) {
        if self.requests.len() == REQUESTS_MAX {
            self.requests.pop_front();
        }
        self.requests.push_back(json!({
            "at_ms": now.as_millis(), "request": body, "http_status": reply.status, "response": reply.body,
        }));
    }
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    status: u16,
    code: u32,
    details: &'static str,
}

impl Refusal {
    fn new(status: u16, code: u32, details: &'static str) -> Refusal {
        Refusal { status, code, details }
    }

    fn invalid(details: &'static str) -> Refusal {
        Refusal::new(400, 100, details)
    }

    fn sdp() -> Refusal {
        Refusal::new(400, 138_008, "Provided SDP is invalid")
    }

    fn token() -> Refusal {
        Refusal::new(401, 190, "")
    }

    /// In the shape of the real ones.
    fn reply(self) -> Reply {
        let mut error = json!({ "type": "OAuthException", "code": self.code, "fbtrace_id": "" });
        match self.code {
            100 => {
                error["message"] = "Invalid parameter".into();
                error["error_subcode"] = 2_494_010.into();
                error["is_transient"] = false.into();
                error["error_user_title"] = "Parameter Invalid".into();
                error["error_user_msg"] = "Check input parameters and retry the request".into();
            }
            138_008 => error["message"] = "(#138008) SDP Validation error".into(),
            190 => {
                error["message"] = "Error validating access token: Session has expired".into();
                error["error_subcode"] = 463.into();
            }
            138_004 => error["message"] = "(#138004) Connection error".into(),
            code => error["message"] = format!("(#{code}) {}", self.details).into(),
        }
        if !self.details.is_empty() {
            error["error_data"] = json!({ "messaging_product": "whatsapp", "details": self.details });
        }
        Reply { status: self.status, body: json!({ "error": error }), event: None, delay_ms: 0 }
    }
}

/// The answer of a request, checked.
fn session<'b>(body: &'b Value, call: &Call) -> Result<&'b str, Refusal> {
    if body["session"]["sdp_type"] != "answer" {
        return Err(Refusal::invalid("session.sdp_type must be answer"));
    }
    let sdp = body["session"]["sdp"].as_str().ok_or(Refusal::invalid("session.sdp is required"))?;
    check_answer(sdp, call)?;
    Ok(sdp)
}

/// Meta's rules for an answer, and those that make a call silent when they are broken.
fn check_answer(sdp: &str, call: &Call) -> Result<(), Refusal> {
    let media = check_transport(sdp)?;
    if sdp.contains("\r\na=ice-lite\r\n") {
        return Err(Refusal::invalid("a=ice-lite must not appear in the answer"));
    }
    if !matches!(attribute(sdp, "setup"), Some("active" | "passive")) {
        return Err(Refusal::invalid("a=setup must be active or passive"));
    }
    if attribute(sdp, "mid") != Some(call.mid.as_str()) {
        return Err(Refusal::invalid("a=mid differs from the offer"));
    }
    check_credentials(sdp)?;
    check_media(sdp, media, Some(call))
}

/// The same for an offer. Meta's relay is lite, and learns no candidate later.
fn check_offer(sdp: &str) -> Result<(), Refusal> {
    let media = check_transport(sdp)?;
    if sdp.contains("\r\na=ice-lite\r\n") {
        return Err(Refusal::invalid("a=ice-lite must not appear in the offer"));
    }
    if !matches!(attribute(sdp, "setup"), Some("actpass" | "active")) {
        return Err(Refusal::invalid("a=setup must be actpass or active"));
    }
    if attribute(sdp, "candidate").is_none() {
        return Err(Refusal::invalid("The offer has no candidate"));
    }
    check_credentials(sdp)?;
    check_media(sdp, media, None)
}

/// One audio section over DTLS, with one SHA-256 fingerprint; answers its `m=` line.
fn check_transport(sdp: &str) -> Result<&str, Refusal> {
    if !sdp.starts_with("v=0\r\n") || !sdp.ends_with("\r\n") || sdp.replace("\r\n", "").contains(['\r', '\n']) {
        return Err(Refusal::sdp());
    }
    let media = media_line(sdp).ok_or(Refusal::sdp())?;
    if sdp.matches("\r\nm=").count() != 1 || !media.contains(" UDP/TLS/RTP/SAVPF ") {
        return Err(Refusal::sdp());
    }
    let fingerprints: Vec<&str> = attributes(sdp, "fingerprint").collect();
    if fingerprints.is_empty() {
        return Err(Refusal::invalid("No fingerprint found in SDP"));
    }
    let sha256 = |value: &str| value.to_ascii_lowercase().starts_with("sha-256 ");
    if fingerprints.len() != 1 || !fingerprints.iter().all(|value| sha256(value)) {
        return Err(Refusal::invalid("Fingerprint algo is not SHA256"));
    }
    Ok(media)
}

fn check_credentials(sdp: &str) -> Result<(), Refusal> {
    let is_long = |name, least| attribute(sdp, name).is_some_and(|value| value.len() >= least);
    if is_long("ice-ufrag", 4) && is_long("ice-pwd", 22) { Ok(()) } else { Err(Refusal::sdp()) }
}

/// `call`: whose offer is answered.
fn check_media(sdp: &str, media: &str, call: Option<&Call>) -> Result<(), Refusal> {
    let lines = |direction: &str| sdp.contains(&format!("\r\na={direction}\r\n"));
    if lines("recvonly") || lines("sendonly") || lines("inactive") {
        return Err(Refusal::invalid("The answer must be sendrecv"));
    }
    let numbers: Vec<&str> = media.split(' ').skip(3).collect();
    let is_offered = |number: &&str| call.is_none_or(|call| call.payload_types.iter().any(|offered| offered == number));
    if !numbers.iter().all(is_offered) {
        return Err(Refusal::invalid("The answer holds a codec that was not offered"));
    }
    if !attributes(sdp, "rtpmap").any(|map| map.to_ascii_lowercase().ends_with(" opus/48000/2"))
        && !numbers.iter().any(|number| matches!(*number, "0" | "8"))
    {
        return Err(Refusal::invalid("No supported codec"));
    }
    let event_rate = attributes(sdp, "rtpmap").find_map(|map| map.split_once("telephone-event/").map(|(_, rate)| rate));
    if event_rate.is_some_and(|rate| rate != "8000") {
        return Err(Refusal::invalid("telephone-event must run at 8000 Hz"));
    }
    if attribute(sdp, "ptime").is_some_and(|ptime| ptime != "20") {
        return Err(Refusal::invalid("ptime must be 20"));
    }
    let mut sources: Vec<&str> = attributes(sdp, "ssrc").filter_map(|value| value.split(' ').next()).collect();
    sources.dedup();
    if sources.len() > 1 {
        return Err(Refusal::invalid("More than one SSRC"));
    }
    Ok(())
}

fn media_line(sdp: &str) -> Option<&str> {
    sdp.split("\r\n").find_map(|line| line.strip_prefix("m=audio ").map(|_| line))
}

fn attributes<'s>(sdp: &'s str, name: &'s str) -> impl Iterator<Item = &'s str> {
    sdp.split("\r\n").filter_map(move |line| line.strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':'))
}

fn attribute<'s>(sdp: &'s str, name: &'s str) -> Option<&'s str> {
    attributes(sdp, name).next()
}

type OnEvent = dyn Fn(&str, Event) + Send + Sync;

/// The Graph stand-in as HTTP handlers share it. `on_event` must not block.
#[derive(Clone)]
pub struct Shared {
    graph: Arc<Mutex<Graph>>,
    on_event: Arc<OnEvent>,
}

impl Shared {
    /// Joins Meta's memory to whoever plays the calls.
    pub fn new(graph: Graph, on_event: impl Fn(&str, Event) + Send + Sync + 'static) -> Shared {
        Shared { graph: Arc::new(Mutex::new(graph)), on_event: Arc::new(on_event) }
    }

    /// The memory.
    pub fn lock(&self) -> MutexGuard<'_, Graph> {
        // A poisoned lock means that a check panicked; what it left is still whole, since every change is one assignment.
        self.graph.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The HTTP side.
pub fn router(shared: Shared) -> Router {
    Router::new()
        .route("/{version}/{phone_number_id}/calls", post(calls))
        .route("/standin/requests", get(requests))
        .route("/standin/faults", post(faults))
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

async fn calls(
    State(shared): State<Shared>,
    Path((_version, phone_number_id)): Path<(String, String)>,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Response {
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok());
    let reply = shared.lock().handle(clock::now(), authorization, &phone_number_id, &body);
    if reply.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(reply.delay_ms)).await;
    }
    if let Some((call_id, event)) = reply.event {
        let event = match event {
            // The delay of a fault belongs to the time before the 200.
            Event::Accepted { sdp, .. } => Event::Accepted { sdp, at: clock::now() },
            other => other,
        };
        (shared.on_event)(&call_id, event);
    }
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(reply.body)).into_response()
}

async fn requests(State(shared): State<Shared>) -> Json<Vec<Value>> {
    Json(shared.lock().requests())
}

async fn faults(State(shared): State<Shared>, Json(fault): Json<Fault>) -> StatusCode {
    if shared.lock().fault(fault) { StatusCode::NO_CONTENT } else { StatusCode::TOO_MANY_REQUESTS }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\r\nm=audio 3480 UDP/TLS/RTP/SAVPF 111 126\r\na=ice-lite\r\na=mid:audio\r\n";
    const ANSWER: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.10\r\ns=-\r\nt=0 0\r\na=group:BUNDLE audio\r\nm=audio 40000 UDP/TLS/RTP/SAVPF 111 126\r\nc=IN IP4 192.0.2.10\r\na=ice-ufrag:kP2s\r\na=ice-pwd:7fJSbV2N5qWiA5QiDKwK3vuh\r\na=fingerprint:sha-256 2E:35\r\na=setup:active\r\na=mid:audio\r\na=sendrecv\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\na=rtpmap:126 telephone-event/8000\r\na=maxptime:20\r\na=ptime:20\r\na=ssrc:330833028 cname:gw\r\n";

    fn graph() -> Graph {
        let mut graph = Graph::new("token", "118");
        graph.placed("wacid.1", OFFER);
        graph
    }

    fn body(action: &str, sdp: Option<&str>) -> Vec<u8> {
        let mut body = json!({ "messaging_product": "whatsapp", "call_id": "wacid.1", "action": action });
        if let Some(sdp) = sdp {
            body["session"] = json!({ "sdp_type": "answer", "sdp": sdp });
        }
        body.to_string().into_bytes()
    }

    fn send(graph: &mut Graph, action: &str, sdp: Option<&str>) -> Reply {
        graph.handle(Instant::from_millis(5), Some("Bearer token"), "118", &body(action, sdp))
    }

    #[test]
    fn the_ordinary_order_is_served() {
        let mut graph = graph();
        let reply = send(&mut graph, "pre_accept", Some(ANSWER));
        assert_eq!((reply.status, &reply.body), (200, &json!({ "messaging_product": "whatsapp", "success": true })));
        assert_eq!(reply.event, Some(("wacid.1".to_owned(), Event::PreAccepted { sdp: ANSWER.to_owned() })));
        let reply = send(&mut graph, "accept", Some(ANSWER));
        let accepted = Event::Accepted { sdp: ANSWER.to_owned(), at: Instant::from_millis(5) };
        assert_eq!(reply.event, Some(("wacid.1".to_owned(), accepted)));
        assert_eq!(send(&mut graph, "terminate", None).event, Some(("wacid.1".to_owned(), Event::Terminated)));
        assert_eq!(graph.requests().len(), 3);
    }

    #[test]
    fn a_call_is_accepted_once_with_one_description_and_not_after_its_end() {
        let mut calls = graph();
        send(&mut calls, "pre_accept", Some(ANSWER));
        let other = ANSWER.replace("o=- 1 1", "o=- 1 2");
        let details = |reply: &Reply| reply.body["error"]["error_data"]["details"].as_str().unwrap().to_owned();
        assert_eq!(
            details(&send(&mut calls, "accept", Some(&other))),
            "The SDP of accept differs from that of pre_accept"
        );
        assert_eq!(send(&mut calls, "accept", Some(ANSWER)).status, 200);
        assert_eq!(details(&send(&mut calls, "accept", Some(ANSWER))), "The call is already accepted");
        assert_eq!(details(&send(&mut calls, "reject", None)), "The call is already accepted");
        calls.ended("wacid.1");
        assert_eq!(details(&send(&mut calls, "terminate", None)), "The call has already ended");
    }

    #[test]
    fn token_number_product_and_call_must_be_right() {
        let mut graph = graph();
        let now = Instant::ZERO;
        let wrong_token = graph.handle(now, Some("Bearer other"), "118", &body("reject", None));
        assert_eq!((wrong_token.status, &wrong_token.body["error"]["code"]), (401, &json!(190)));
        assert_eq!(graph.handle(now, None, "118", &body("reject", None)).status, 401);
        assert_eq!(graph.handle(now, Some("Bearer token"), "119", &body("reject", None)).status, 400);
        assert_eq!(graph.handle(now, Some("Bearer token"), "118", b"{").status, 400);
        assert_eq!(send(&mut graph, "dance", None).status, 400);
        let unknown = json!({ "messaging_product": "whatsapp", "call_id": "wacid.2", "action": "reject" }).to_string();
        assert_eq!(graph.handle(now, Some("Bearer token"), "118", unknown.as_bytes()).status, 400);
        let product = body("reject", None);
        let product = String::from_utf8(product).unwrap().replace("\"whatsapp\"", "\"wa\"");
        assert_eq!(graph.handle(now, Some("Bearer token"), "118", product.as_bytes()).status, 400);
        assert_eq!(send(&mut graph, "reject", None).status, 200);
    }

    #[test]
    fn each_way_to_answer_wrongly_has_its_error() {
        let cases = [
            ("a=fingerprint:sha-256 2E:35\r\n", "", 100, "No fingerprint found in SDP"),
            (
                "a=fingerprint:sha-256",
                "a=fingerprint:sha-384 1A\r\na=fingerprint:sha-256",
                100,
                "Fingerprint algo is not SHA256",
            ),
            ("sha-256 2E:35", "sha-1 2E:35", 100, "Fingerprint algo is not SHA256"),
            ("t=0 0\r\n", "t=0 0\r\na=ice-lite\r\n", 100, "a=ice-lite must not appear in the answer"),
            ("setup:active", "setup:actpass", 100, "a=setup must be active or passive"),
            ("mid:audio", "mid:0", 100, "a=mid differs from the offer"),
            ("SAVPF 111 126", "SAVPF 111 126 9", 100, "The answer holds a codec that was not offered"),
            ("opus/48000/2", "opus/8000", 100, "No supported codec"),
            ("telephone-event/8000", "telephone-event/48000", 100, "telephone-event must run at 8000 Hz"),
            ("a=ptime:20", "a=ptime:40", 100, "ptime must be 20"),
            ("a=sendrecv", "a=recvonly", 100, "The answer must be sendrecv"),
            ("cname:gw\r\n", "cname:gw\r\na=ssrc:7 cname:gw\r\n", 100, "More than one SSRC"),
            ("\r\ns=-", "\ns=-", 138_008, "Provided SDP is invalid"),
            ("m=audio", "m=video", 138_008, "Provided SDP is invalid"),
            ("7fJSbV2N5qWiA5QiDKwK3vuh", "short", 138_008, "Provided SDP is invalid"),
        ];
        for (from, to, code, details) in cases {
            let wrong = ANSWER.replace(from, to);
            assert_ne!(wrong, ANSWER, "{from} is not in the answer");
            let error = send(&mut graph(), "pre_accept", Some(&wrong)).body["error"].clone();
            assert_eq!(
                (&error["code"], &error["error_data"]["details"]),
                (&json!(code), &json!(details)),
                "{from} -> {to}"
            );
            assert!(error["fbtrace_id"].as_str().is_some_and(|id| id.len() > 10));
        }
        assert_eq!(send(&mut graph(), "pre_accept", None).status, 400);
    }

    fn offer(sdp: &str, to: &str) -> Vec<u8> {
        let session = json!({ "sdp_type": "offer", "sdp": sdp });
        json!({ "messaging_product": "whatsapp", "action": "connect", "to": to, "session": session,
            "biz_opaque_callback_data": "x" })
        .to_string()
        .into_bytes()
    }

    #[test]
    fn a_user_who_has_permitted_it_is_called_with_an_offer_that_metas_relay_can_answer() {
        let ours = ANSWER
            .replace("setup:active", "setup:actpass")
            .replace("a=ice-ufrag", "a=candidate:1 1 udp 2130706431 192.0.2.10 40000 typ host\r\na=ice-ufrag");
        let mut graph = graph();
        let mut connect =
            |sdp: &str, to: &str| graph.handle(Instant::ZERO, Some("Bearer token"), "118", &offer(sdp, to));
        let refused = connect(&ours, "447700900123");
        assert_eq!((refused.status, &refused.body["error"]["code"]), (401, &json!(138_006)));
        graph.permit("447700900123");
        let mut connect =
            |sdp: &str, to: &str| graph.handle(Instant::ZERO, Some("Bearer token"), "118", &offer(sdp, to));
        for (from, to, details) in [
            ("t=0 0\r\n", "t=0 0\r\na=ice-lite\r\n", "a=ice-lite must not appear in the offer"),
            ("setup:actpass", "setup:passive", "a=setup must be actpass or active"),
            ("a=candidate", "a=other", "The offer has no candidate"),
            (
                "a=fingerprint:sha-256",
                "a=fingerprint:sha-384 1A\r\na=fingerprint:sha-256",
                "Fingerprint algo is not SHA256",
            ),
            ("telephone-event/8000", "telephone-event/48000", "telephone-event must run at 8000 Hz"),
        ] {
            let reply = connect(&ours.replace(from, to), "447700900123");
            assert_eq!(reply.body["error"]["error_data"]["details"], *details, "{from} -> {to}");
        }
        assert_eq!(connect(&ours, "+447700900123").status, 400);
        let reply = connect(&ours, "447700900123");
        let id = reply.body["calls"][0]["id"].as_str().unwrap().to_owned();
        let connected = Connected { to: "447700900123".to_owned(), sdp: ours.clone(), opaque: Some("x".to_owned()) };
        assert_eq!(reply.event, Some((id.clone(), Event::Connected(connected))));
        for (action, status) in [("reject", 400), ("terminate", 200), ("terminate", 400)] {
            let body = json!({ "messaging_product": "whatsapp", "call_id": id, "action": action }).to_string();
            let reply = graph.handle(Instant::ZERO, Some("Bearer token"), "118", body.as_bytes());
            assert_eq!(reply.status, status, "{action}");
        }
    }

    #[test]
    fn a_fault_is_answered_as_often_as_asked_and_changes_nothing() {
        let mut graph = graph();
        let fault = Fault { action: "accept".to_owned(), times: 2, http_status: Some(500), code: 138_004, delay_ms: 0 };
        assert!(graph.fault(fault));
        assert_eq!(send(&mut graph, "pre_accept", Some(ANSWER)).status, 200);
        let first = send(&mut graph, "accept", Some(ANSWER));
        assert_eq!((first.status, first.event, &first.body["error"]["code"]), (500, None, &json!(138_004)));
        assert_eq!(send(&mut graph, "accept", Some(ANSWER)).status, 500);
        assert_eq!(send(&mut graph, "accept", Some(ANSWER)).status, 200);
        assert_eq!(send(&mut graph, "accept", Some(ANSWER)).status, 400);
    }

    #[test]
    fn a_delayed_success_still_happens_once() {
        let mut graph = graph();
        let delay = Fault { action: "pre_accept".to_owned(), times: 1, http_status: None, code: 0, delay_ms: 300 };
        graph.fault(delay);
        let reply = send(&mut graph, "pre_accept", Some(ANSWER));
        assert_eq!((reply.status, reply.delay_ms), (200, 300));
        assert_eq!(send(&mut graph, "pre_accept", Some(ANSWER)).status, 400);
    }
}
