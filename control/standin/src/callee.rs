//! A user of WhatsApp who is called by the business: the phone rings, the relay answers the business's offer, the user picks up.
//!
//! ```text
//!  POST connect ─> webhook connect (answer) ─> RINGING ─> the user picks up: ACCEPTED, the voice flows ─> end ─> terminate
//! ```
//!
//! The relay is ICE-lite and the DTLS server; who it is for a user who calls is `call.rs`. `GET /standin/callees` shows the calls that
//! go on, `DELETE /standin/callees` has their users hang up.

use crate::graph::Connected;
use crate::webhook::{self, Outbound};
use crate::whatsapp::{self, WhatsApp};
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use control::client::audio::OpusSettings;
use control::client::webrtc_answerer::WebrtcAnswerer;
use control::client::webrtc_peer::WebrtcPeer;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long the phone rings before the user picks up.
const PICK_UP: Duration = Duration::from_millis(1_200);
/// How long a user talks who is not hung up on.
const TALK_MAX: Duration = Duration::from_secs(600);
/// Orders waiting for a call.
const ORDERS_MAX: usize = 8;

/// What has happened to such a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CalleeState {
    /// Statuses of its webhooks, in order: `200` for each that was taken.
    pub webhooks: Vec<u16>,
    /// The user has picked up.
    pub picked_up: bool,
    /// It is over.
    pub over: bool,
}

/// A call to a user, as others hold it.
pub struct Callee {
    /// Meta's id.
    pub id: String,
    /// The user's end of the media.
    pub peer: WebrtcPeer,
    /// What has happened.
    pub state: watch::Receiver<CalleeState>,
    orders: mpsc::Sender<Order>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// The business has ended it.
    Terminated,
    /// The user hangs up.
    HangUp,
}

impl Callee {
    /// The business has ended it.
    pub fn terminated(&self) {
        let _ = self.orders.try_send(Order::Terminated);
    }

    /// Hangs up, as the user.
    pub fn hang_up(&self) {
        let _ = self.orders.try_send(Order::HangUp);
    }
}

/// Rings a user's phone; the task that is started sends the webhooks. `None`: the offer cannot be answered.
pub async fn ring(
    whatsapp: &Arc<WhatsApp>,
    id: String,
    connected: &Connected,
    addresses: &[IpAddr],
) -> Option<Arc<Callee>> {
    let opus = OpusSettings::WHATSAPP;
    let answerer = WebrtcAnswerer::start(&connected.sdp, addresses, true, whatsapp.identity(), opus).await.ok()?;
    let (publish, state) = watch::channel(CalleeState::default());
    let (orders, incoming) = mpsc::channel(ORDERS_MAX);
    let callee = Arc::new(Callee { id, peer: answerer.peer, state, orders });
    let task = Task {
        whatsapp: Arc::clone(whatsapp),
        callee: Arc::clone(&callee),
        opaque: connected.opaque.clone(),
        answer: answerer.answer,
        publish,
    };
    tokio::spawn(task.run(incoming));
    Some(callee)
}

/// The HTTP side.
pub fn router(whatsapp: Weak<WhatsApp>) -> Router {
    Router::new().route("/standin/callees", get(list).delete(hang_up)).with_state(whatsapp)
}

async fn list(State(whatsapp): State<Weak<WhatsApp>>) -> Json<Vec<Value>> {
    let callees = whatsapp.upgrade().map(|whatsapp| whatsapp.callees()).unwrap_or_default();
    let view = |callee: &Arc<Callee>| {
        let (state, seen) = (callee.state.borrow().clone(), callee.peer.observed());
        let heard = seen.borrow().packets_received;
        json!({"id": callee.id, "webhooks": state.webhooks, "picked_up": state.picked_up, "over": state.over, "heard": heard})
    };
    Json(callees.iter().map(view).collect())
}

async fn hang_up(State(whatsapp): State<Weak<WhatsApp>>) -> Json<Value> {
    let callees = whatsapp.upgrade().map(|whatsapp| whatsapp.callees()).unwrap_or_default();
    callees.iter().for_each(|callee| callee.hang_up());
    Json(json!({"success": true}))
}

struct Task {
    whatsapp: Arc<WhatsApp>,
    callee: Arc<Callee>,
    opaque: Option<String>,
    answer: String,
    publish: watch::Sender<CalleeState>,
}

impl Task {
    async fn run(self, mut orders: mpsc::Receiver<Order>) {
        let call = Outbound { call_id: &self.callee.id, opaque: self.opaque.as_deref() };
        let account = self.whatsapp.account();
        // RINGING first: the order of the two is not promised.
        self.say("status", webhook::status(account, call, "RINGING", whatsapp::wall_seconds())).await;
        self.say("connect", webhook::answer(account, call, &self.answer, whatsapp::wall_seconds())).await;
        let mut picked_up_s = None;
        if tokio::time::timeout(PICK_UP, orders.recv()).await.is_err() {
            picked_up_s = Some(whatsapp::wall_seconds());
            self.callee.peer.release();
            self.publish.send_modify(|state| state.picked_up = true);
            self.say("status", webhook::status(account, call, "ACCEPTED", whatsapp::wall_seconds())).await;
            let mut seen = self.callee.peer.observed();
            tokio::select! {
                _ = tokio::time::timeout(TALK_MAX, orders.recv()) => {}
                ended = seen.wait_for(|seen| seen.ended.is_some()) => drop(ended),
            }
        }
        self.whatsapp.graph().lock().ended(&self.callee.id);
        let now_s = whatsapp::wall_seconds();
        self.say("terminate", webhook::outbound_end(account, call, picked_up_s.map(|from_s| (from_s, now_s)), now_s))
            .await;
        self.callee.peer.close();
        self.publish.send_modify(|state| state.over = true);
        self.whatsapp.forget_callee(&self.callee.id);
    }

    async fn say(&self, event: &str, body: Vec<u8>) {
        // All of Meta's webhooks come to one URL; the path says only what a relay in front might.
        let path = if event == "terminate" { "terminate" } else { "connect" };
        let status = self.whatsapp.send_webhook(path, body).await.unwrap_or(0);
        self.publish.send_modify(|state| state.webhooks.push(status));
    }
}
