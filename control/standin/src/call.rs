//! One call on WhatsApp's side, from the connect webhook to the last one: what a caller, a phone and Meta's servers do together.
//!
//! ```text
//! connect webhook ─> pre_accept: the relay takes the answer ─> accept: the caller's voice flows ─> end ─> terminate webhook
//! ```
//!
//! Meta's own rules end a call here as they do there: no accept within the ring time, or no media for 20 s after the accept and for 30 s
//! later (138021). Every end sends a terminate webhook, also those that the gateway asked for.

use crate::graph::Event;
use crate::relay::PageRelay;
use crate::webhook::{self, Form, Termination};
use crate::whatsapp::WhatsApp;
use control::client::observed::Observed;
use control::client::webrtc_offerer::WebrtcOfferer;
use engine::io::clock;
use engine::time::Instant;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long a phone rings.
pub const RING_MS_MAX: u64 = 45_000;
/// How long nothing may come after the accept.
pub const FIRST_MEDIA_MS_MAX: u64 = 20_000;
/// How long nothing may come later.
pub const MEDIA_MS_MAX: u64 = 30_000;
/// How often the rules are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// Orders waiting for a call.
const ORDERS_MAX: usize = 64;
/// Broken rules remembered.
const FAULTS_MAX: usize = 32;

/// The media of a call.
pub enum Media {
    /// A program speaks.
    Scripted(WebrtcOfferer),
    /// A person speaks, by way of the page.
    Page(PageRelay),
}

impl Media {
    /// What the gateway gets.
    pub fn offer(&self) -> &str {
        match self {
            Media::Scripted(offerer) => &offerer.offer,
            Media::Page(relay) => &relay.offer,
        }
    }

    /// What came from the gateway.
    pub fn gateway(&self) -> watch::Receiver<Observed> {
        match self {
            Media::Scripted(offerer) => offerer.peer.observed(),
            Media::Page(relay) => relay.gateway(),
        }
    }

    fn answer(&self, sdp: &str) -> Result<(), String> {
        match self {
            Media::Scripted(offerer) => offerer.answer(sdp),
            Media::Page(relay) => relay.answer(sdp),
        }
        .map_err(|error| error.to_string())
    }

    fn release(&self) {
        match self {
            Media::Scripted(offerer) => offerer.peer.release(),
            Media::Page(relay) => relay.release(),
        }
    }

    fn close(&self) {
        match self {
            Media::Scripted(offerer) => offerer.peer.close(),
            Media::Page(relay) => relay.close(),
        }
    }
}

/// Who ended a call on WhatsApp's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The caller hung up.
    Caller,
    /// The gateway said `reject`.
    Rejected,
    /// The gateway said `terminate`.
    Terminated,
    /// Nobody accepted in time.
    RingTime,
    /// 138021.
    NoMedia,
    /// The caller's media went away: a closed page, a lost network.
    Media,
    /// The gateway did not take the webhook.
    Webhook,
}

impl EndedBy {
    /// In words.
    pub const fn text(self) -> &'static str {
        match self {
            EndedBy::Caller => "the caller hung up",
            EndedBy::Rejected => "the business declined",
            EndedBy::Terminated => "the business hung up",
            EndedBy::RingTime => "nobody answered",
            EndedBy::NoMedia => "no media came from the business (138021)",
            EndedBy::Media => "the caller's connection ended",
            EndedBy::Webhook => "the business could not be reached",
        }
    }
}

/// What WhatsApp knows of a call.
#[derive(Clone, Debug, Default)]
pub struct CallState {
    /// When the webhook was sent.
    pub placed: Option<Instant>,
    /// When it was acknowledged, and with which status.
    pub webhook: Option<(Instant, u16)>,
    /// When the answer came.
    pub pre_accepted: Option<Instant>,
    /// When 200 was given to accept.
    pub accepted: Option<Instant>,
    /// How it ended.
    pub ended: Option<(Instant, EndedBy)>,
    /// Whether the terminate webhook was taken.
    pub terminated_status: Option<u16>,
    /// Rules that were broken.
    pub faults: Vec<String>,
}

impl CallState {
    fn fault(&mut self, fault: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }
}

/// What others say to a call.
pub enum Order {
    /// The Graph API was called.
    Graph(Event),
    /// The caller hangs up.
    HangUp,
}

/// A call, as others hold it.
pub struct Call {
    /// Meta's id.
    pub id: String,
    /// Its media.
    pub media: Media,
    /// What WhatsApp knows of it.
    pub state: watch::Receiver<CallState>,
    orders: mpsc::Sender<Order>,
}

impl Call {
    /// Hangs up, as the caller.
    pub fn hang_up(&self) {
        let _ = self.orders.try_send(Order::HangUp);
    }

    /// Passes on what the Graph API was told.
    pub fn graph(&self, event: Event) {
        let _ = self.orders.try_send(Order::Graph(event));
    }

    /// Waits until `fact` holds.
    pub async fn wait(&self, limit: Duration, fact: impl FnMut(&CallState) -> bool) -> bool {
        let mut state = self.state.clone();
        matches!(tokio::time::timeout(limit, state.wait_for(fact)).await, Ok(Ok(_)))
    }

    /// Rules of WhatsApp's that the gateway broke so far, from what the wire showed.
    pub fn broken_rules(&self) -> Vec<String> {
        let state = self.state.borrow().clone();
        let seen = self.media.gateway();
        let seen = seen.borrow();
        let wire = &seen.wire;
        let mut broken = state.faults.clone();
        let mut rule = |kept: bool, text: &str| {
            if !kept {
                broken.push(text.to_owned());
            }
        };
        rule(!wire.media_before(state.accepted), "RTP or RTCP came before the 200 of accept");
        rule(wire.other_ssrc == 0, "more than one SSRC came");
        if state.accepted.is_some() && seen.connected.is_some() {
            rule(
                wire.controlling > 0 && wire.controlled == 0,
                "the gateway was not ICE-controlling from its first check",
            );
            rule(wire.nominations > 0, "the gateway did not nominate");
            rule(wire.client_hellos > 0 && wire.server_hellos == 0, "the gateway was not the DTLS client");
        }
        broken
    }
}

/// Places a call: the task that is started sends the webhook.
pub fn place(whatsapp: &Arc<WhatsApp>, id: String, form: Form, media: Media) -> Arc<Call> {
    let (orders, incoming) = mpsc::channel(ORDERS_MAX);
    let (publish, state) = watch::channel(CallState::default());
    let call = Arc::new(Call { id, media, state, orders });
    let task = Task { whatsapp: Arc::clone(whatsapp), call: Arc::clone(&call), form, publish };
    tokio::spawn(task.run(incoming));
    call
}

struct Task {
    whatsapp: Arc<WhatsApp>,
    call: Arc<Call>,
    form: Form,
    publish: watch::Sender<CallState>,
}

impl Task {
    async fn run(self, mut orders: mpsc::Receiver<Order>) {
        let by = self.live(&mut orders).await;
        self.whatsapp.graph().lock().ended(&self.call.id);
        self.publish.send_modify(|state| state.ended = Some((clock::now(), by)));
        // The webhook first: an end that arrives by DTLS before it would be counted as a lost connection.
        if by != EndedBy::Webhook {
            let status = self.terminate(by).await;
            self.publish.send_modify(|state| state.terminated_status = status);
        }
        self.call.media.close();
        self.whatsapp.forget(&self.call.id);
    }

    /// Everything up to the end.
    async fn live(&self, orders: &mut mpsc::Receiver<Order>) -> EndedBy {
        let placed = clock::now();
        self.publish.send_modify(|state| state.placed = Some(placed));
        let body = webhook::connect(
            self.whatsapp.account(),
            self.form,
            &self.call.id,
            self.call.media.offer(),
            crate::whatsapp::wall_seconds(),
        );
        // Whatever the gateway does with the call may come back before its acknowledgement does: both are awaited together.
        let mut acknowledged = std::pin::pin!(self.whatsapp.send_webhook("connect", body));
        let mut waiting = true;
        let mut seen = self.call.media.gateway();
        let mut rules = tokio::time::interval(WATCH_INTERVAL);
        let mut heard = Heard { packets: 0, at: placed };
        loop {
            tokio::select! {
                status = &mut acknowledged, if waiting => {
                    waiting = false;
                    self.publish.send_modify(|state| state.webhook = Some((clock::now(), status.unwrap_or(0))));
                    if !status.is_some_and(|status| (200..300).contains(&status)) {
                        return EndedBy::Webhook;
                    }
                }
                order = orders.recv() => if let Some(by) = self.order(order) {
                    return by;
                },
                // Whether the media ended; a change in anything else is looked at by the clock below.
                ended = seen.wait_for(|seen| seen.ended.is_some()) => {
                    drop(ended);
                    return EndedBy::Media;
                }
                _ = rules.tick() => if let Some(by) = self.rules(placed, &mut heard) {
                    return by;
                },
            }
        }
    }

    fn order(&self, order: Option<Order>) -> Option<EndedBy> {
        let event = match order {
            Some(Order::Graph(event)) => event,
            Some(Order::HangUp) | None => return Some(EndedBy::Caller),
        };
        match event {
            Event::PreAccepted { sdp } => self.take_answer(&sdp),
            Event::Accepted { sdp, at } => {
                if self.publish.borrow().pre_accepted.is_none() {
                    self.take_answer(&sdp);
                }
                self.publish.send_modify(|state| state.accepted = Some(at));
                self.call.media.release();
            }
            Event::Rejected => return Some(EndedBy::Rejected),
            Event::Terminated => return Some(EndedBy::Terminated),
            // A call that the business places is a `callee`'s.
            Event::Connected(_) => {}
        }
        None
    }

    fn take_answer(&self, sdp: &str) {
        let taken = self.call.media.answer(sdp);
        self.publish.send_modify(|state| {
            state.pre_accepted = Some(clock::now());
            if let Err(why) = taken {
                state.fault(format!("the answer cannot be used: {why}"));
            }
        });
    }

    /// Meta's time limits.
    fn rules(&self, placed: Instant, heard: &mut Heard) -> Option<EndedBy> {
        let now = clock::now();
        let seen = self.call.media.gateway();
        let wire = seen.borrow().wire;
        if wire.rtp + wire.rtcp > heard.packets {
            *heard = Heard { packets: wire.rtp + wire.rtcp, at: now };
        }
        let silent_ms = |since: Instant| now.since(since).as_millis() as u64;
        match self.publish.borrow().accepted {
            None if silent_ms(placed) > RING_MS_MAX => Some(EndedBy::RingTime),
            Some(at) if wire.rtp == 0 && silent_ms(at) > FIRST_MEDIA_MS_MAX => Some(EndedBy::NoMedia),
            Some(at) if silent_ms(heard.at.max(at)) > MEDIA_MS_MAX => Some(EndedBy::NoMedia),
            _ => None,
        }
    }

    async fn terminate(&self, by: EndedBy) -> Option<u16> {
        let end_s = crate::whatsapp::wall_seconds();
        let talked = self.publish.borrow().accepted.map(|at| clock::now().since(at).as_secs());
        let how = match (talked, by) {
            (None, _) => Termination::Unanswered,
            (Some(talked), EndedBy::NoMedia) => Termination::NoMedia { start_s: end_s - talked, end_s },
            (Some(talked), _) => Termination::Completed { start_s: end_s - talked, end_s },
        };
        let body = webhook::terminate(self.whatsapp.account(), self.form, &self.call.id, how, end_s);
        self.whatsapp.send_webhook("terminate", body).await
    }
}

/// How much came from the gateway, and when there was more of it last.
struct Heard {
    packets: u64,
    at: Instant,
}
