//! One call to a user of WhatsApp, from `connect` to its end. Pure.
//!
//! ```text
//!  Ringing --ACCEPTED and described, or media--> Talking --hang-up, terminate--> over
//!     │                                                                          ▲
//!     └── hung up, or Graph lost, before the call had an id ──► Leaving ──the id──► goodbye
//! ```
//!
//! Why `Leaving`: a call that Graph may have begun rings at a user's phone although nobody waits for it any more, and can only be
//! ended by its id, which is still on its way.

use super::{DialEventKind, NewDial};
use crate::call::AcceptPolicy;
use crate::call::limits::*;
use crate::sip::SipEnd;
use crate::store::{Accepted, CallRecord, Change, Stage};
use crate::trace::redact::CallTag;
use crate::trace::timeline::Step;
use crate::whatsapp::event::Terminate;
use crate::whatsapp::graph::{Callee, ConnectRequest, GraphError, GraphErrorKind, GraphFault};
use engine::random::Random;
use engine::time::Instant;
use std::collections::VecDeque;

/// What a dial wants done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Act {
    Connect(ConnectRequest),
    Event(DialEventKind),
    Timeline(Step, String),
    Store(Change),
    /// WhatsApp must be told that this call is over.
    Goodbye(String),
    /// WhatsApp knows that this call is over.
    Over(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Ringing,
    Talking,
    /// The edge has been told that it is over; WhatsApp's id of it is not known.
    Leaving,
    Over,
}

/// The question to Graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Asked { ticket: u8, tries: u32, until: Instant },
    Paused { tries: u32, until: Instant },
    Done,
}

pub(super) struct Dial {
    number: u64,
    /// As in the caller's timeline.
    pub call_id: String,
    pub phone_number_id: String,
    /// `biz_opaque_callback_data`, and its name in the store while it has no id.
    pub token: String,
    pub wa_call_id: Option<String>,
    began_s: u64,
    to: Callee,
    sdp: String,
    phase: Phase,
    ask: Ask,
    /// A request has failed that Graph may have acted on.
    may_exist: bool,
    rung: bool,
    described: bool,
    accepted: bool,
    /// Of the phase.
    until: Instant,
    acts: VecDeque<Act>,
}

impl Dial {
    /// Asks Graph for the call.
    pub fn place(now: Instant, wall_s: u64, token: String, new: NewDial) -> Dial {
        let mut dial = Dial {
            number: new.dial,
            call_id: new.call_id,
            phone_number_id: new.phone_number_id,
            token,
            wa_call_id: None,
            began_s: wall_s,
            to: new.to,
            sdp: new.sdp_offer,
            phase: Phase::Ringing,
            ask: Ask::Done,
            may_exist: false,
            rung: false,
            described: false,
            accepted: false,
            until: now.plus_millis(new.ring_ms_max),
            acts: VecDeque::new(),
        };
        // The store must know before WhatsApp does: see `ConnectRequest` in the runtime.
        let change = Change::Call { call_id: dial.token.clone(), record: Box::new(dial.record(Stage::Opening)) };
        dial.acts.push_back(Act::Store(change));
        dial.note(Step::Invite, "connect sent to Graph".to_owned());
        dial.ask_graph(now, 1);
        dial
    }

    /// One of the last run, of which no more than its token is known: if WhatsApp ever names it, it is ended.
    pub fn forgotten(now: Instant, number: u64, token: String, record: &CallRecord) -> Dial {
        Dial {
            number,
            call_id: token.clone(),
            phone_number_id: record.phone_number_id.clone(),
            token,
            wa_call_id: None,
            began_s: record.began_s,
            to: Callee::Number(String::new()),
            sdp: String::new(),
            phase: Phase::Leaving,
            ask: Ask::Done,
            may_exist: true,
            rung: false,
            described: false,
            accepted: false,
            until: now.plus_millis(DIAL_LEAVING_MS_MAX),
            acts: VecDeque::new(),
        }
    }

    /// Graph's reply. One that comes after its time still brings the call's id.
    pub fn connected(&mut self, now: Instant, random: &mut Random, ticket: u8, result: Result<String, GraphError>) {
        let open = match self.ask {
            Ask::Asked { ticket: open, tries, .. } if open == ticket => Some(tries),
            _ => None,
        };
        if open.is_some() {
            self.ask = Ask::Done;
        }
        match (result, open) {
            (Ok(id), _) => self.learn(id),
            (Err(_), None) => {}
            // A webhook has named the call: what became of the reply does not matter.
            (Err(_), Some(_)) if self.wa_call_id.is_some() => {}
            (Err(error), Some(tries)) => self.refused(now, random, error, tries),
        }
    }

    /// WhatsApp's id of the call is known, from Graph or from a webhook that bears our token.
    pub fn learn(&mut self, id: String) {
        match &self.wa_call_id {
            Some(known) if *known == id => return,
            // Two requests were carried out, of which one counts.
            Some(_) => return self.acts.push_back(Act::Goodbye(id)),
            None => {}
        }
        self.note(Step::Webhook, format!("WhatsApp's call is {}", CallTag(&id)));
        let change = Change::Call { call_id: id.clone(), record: Box::new(self.record(Stage::InCall)) };
        self.acts.push_back(Act::Store(change));
        self.acts.push_back(Act::Store(Change::Over { call_id: self.token.clone() }));
        self.wa_call_id = Some(id.clone());
        (self.sdp, self.to) = (String::new(), Callee::Number(String::new()));
        match self.phase {
            Phase::Leaving | Phase::Over => {
                self.acts.push_back(Act::Goodbye(id));
                self.phase = Phase::Over;
            }
            Phase::Ringing | Phase::Talking => {}
        }
    }

    /// WhatsApp's answer.
    pub fn answer(&mut self, sdp: String) {
        if self.described || !self.is_live() {
            return;
        }
        self.described = true;
        self.acts.push_back(Act::Event(DialEventKind::Described { sdp }));
        self.answered();
    }

    /// RINGING, ACCEPTED, REJECTED.
    pub fn status(&mut self, now: Instant, status: &str) {
        match status {
            "RINGING" if self.phase == Phase::Ringing && !self.rung && !self.accepted => {
                self.rung = true;
                self.acts.push_back(Act::Event(DialEventKind::Ringing));
            }
            "ACCEPTED" if self.phase == Phase::Ringing && !self.accepted => {
                self.accepted = true;
                // Its answer is what is missing, and WhatsApp gives a call without media 20 s.
                self.until = self.until.min(now.plus_millis(DIAL_DESCRIBED_MS_MAX));
                self.answered();
            }
            "REJECTED" if self.phase == Phase::Ringing => {
                self.over(SipEnd::Rejected { code: 486, reason: "the user declined".to_owned() });
            }
            _ => {}
        }
    }

    /// WhatsApp says that it is over.
    pub fn terminate(&mut self, terminate: &Terminate) {
        let end = match (&terminate.error, self.phase) {
            (_, Phase::Leaving | Phase::Over) => return self.over(SipEnd::Cancelled),
            (Some((code, text)), Phase::Talking) => SipEnd::ByeReceived(Some(format!("WhatsApp: {code} {text}"))),
            (None, Phase::Talking) => SipEnd::ByeReceived(Some("the WhatsApp user hung up".to_owned())),
            (Some((code, text)), Phase::Ringing) => {
                let error = GraphError { code: u32::try_from(*code).ok(), ..GraphError::default() };
                SipEnd::Rejected { code: error.sip_code(), reason: format!("WhatsApp: {code} {text}") }
            }
            (None, Phase::Ringing) if terminate.status.as_deref() == Some("FAILED") => {
                SipEnd::Rejected { code: 503, reason: "the call failed at WhatsApp".to_owned() }
            }
            (None, Phase::Ringing) => SipEnd::Rejected { code: 480, reason: "the user did not answer".to_owned() },
        };
        self.over(end);
    }

    /// The edge has heard the user.
    pub fn picked_up(&mut self) {
        if self.phase == Phase::Ringing {
            (self.accepted, self.phase) = (true, Phase::Talking);
        }
    }

    /// The edge ends it.
    pub fn hang_up(&mut self, now: Instant) {
        if self.is_live() {
            let end = if self.phase == Phase::Talking { SipEnd::ByeSent } else { SipEnd::Cancelled };
            self.leave(now, end);
        }
    }

    /// Call when `deadline` has come.
    pub fn handle_timeout(&mut self, now: Instant, random: &mut Random) {
        match self.ask {
            Ask::Asked { ticket, until, .. } if now >= until => {
                let lost = GraphError { kind: GraphErrorKind::Timeout, ..GraphError::default() };
                self.connected(now, random, ticket, Err(lost));
            }
            Ask::Paused { tries, until } if now >= until => self.ask_graph(now, tries + 1),
            _ => {}
        }
        match self.phase {
            Phase::Ringing if now >= self.until && self.accepted => {
                let reason = "the user answered, and WhatsApp sent no description of its media".to_owned();
                self.leave(now, SipEnd::Rejected { code: 504, reason });
            }
            Phase::Ringing if now >= self.until => self.leave(now, SipEnd::TimedOut),
            Phase::Leaving if now >= self.until => {
                self.acts.push_back(Act::Store(Change::Over { call_id: self.token.clone() }));
                self.phase = Phase::Over;
            }
            _ => {}
        }
    }

    /// When `handle_timeout` is to be called.
    pub fn deadline(&self) -> Instant {
        let ask = match self.ask {
            Ask::Asked { until, .. } | Ask::Paused { until, .. } => until,
            Ask::Done => Instant::NEVER,
        };
        match self.phase {
            Phase::Ringing | Phase::Leaving => ask.min(self.until),
            Phase::Talking | Phase::Over => ask,
        }
    }

    pub fn poll_act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    /// Whether the edge waits for it, or talks.
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Ringing | Phase::Talking)
    }

    /// Whether Graph is asked again after a pause.
    pub fn is_paused(&self) -> bool {
        matches!(self.ask, Ask::Paused { .. })
    }

    pub fn is_talking(&self) -> bool {
        self.phase == Phase::Talking
    }

    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether a program that drains waits for it: what only a late webhook can bring is left to the store.
    pub fn is_pending(&self) -> bool {
        self.is_live() || self.phase == Phase::Leaving && matches!(self.ask, Ask::Asked { .. })
    }

    fn answered(&mut self) {
        if self.accepted && self.described && self.phase == Phase::Ringing {
            self.phase = Phase::Talking;
            self.acts.push_back(Act::Event(DialEventKind::Answered));
        }
    }

    fn refused(&mut self, now: Instant, random: &mut Random, error: GraphError, tries: u32) {
        self.may_exist |= error.may_have_acted();
        let passes = error.fault() == GraphFault::Retry && error.kind != GraphErrorKind::Timeout;
        if passes && tries < DIAL_TRIES_MAX && self.phase == Phase::Ringing {
            let pause = GRAPH_BACKOFF_MS << (tries - 1).min(16);
            let jitter = u64::from(random.below(pause as u32 / 4 + 1));
            self.ask = Ask::Paused { tries, until: now.plus_millis(pause + jitter) };
            return;
        }
        if self.phase == Phase::Ringing {
            let reason = format!("WhatsApp refuses the call: {error}");
            self.leave(now, SipEnd::Rejected { code: error.sip_code(), reason });
        } else if !self.may_exist {
            self.forget();
        }
    }

    /// It is over for the edge; WhatsApp is told as soon as that is possible.
    fn leave(&mut self, now: Instant, end: SipEnd) {
        self.acts.push_back(Act::Event(DialEventKind::Ended(end)));
        let is_asked = matches!(self.ask, Ask::Asked { .. });
        match self.wa_call_id.clone() {
            Some(id) => {
                self.acts.push_back(Act::Goodbye(id));
                self.phase = Phase::Over;
            }
            None if is_asked || self.may_exist => {
                self.phase = Phase::Leaving;
                self.until = now.plus_millis(DIAL_LEAVING_MS_MAX);
                if !is_asked {
                    self.ask = Ask::Done;
                }
            }
            None => self.forget(),
        }
    }

    /// WhatsApp knows that it is over.
    fn over(&mut self, end: SipEnd) {
        if self.is_live() {
            self.acts.push_back(Act::Event(DialEventKind::Ended(end)));
        }
        self.forget();
        self.acts.extend(self.wa_call_id.clone().map(Act::Over));
    }

    /// Nothing is left to be said to WhatsApp.
    fn forget(&mut self) {
        self.phase = Phase::Over;
        self.ask = Ask::Done;
        self.acts.push_back(Act::Store(Change::Over { call_id: self.token.clone() }));
    }

    fn ask_graph(&mut self, now: Instant, tries: u32) {
        let ticket = tries as u8;
        self.ask = Ask::Asked { ticket, tries, until: now.plus_millis(GRAPH_MS_MAX) };
        self.acts.push_back(Act::Connect(ConnectRequest {
            request: self.number << DIAL_TICKET_BITS | u64::from(ticket),
            phone_number_id: self.phone_number_id.clone(),
            to: self.to.clone(),
            sdp: self.sdp.clone(),
            opaque: self.token.clone(),
            call_id: self.call_id.clone(),
        }));
    }

    /// What a restart needs: a call that can only be ended.
    fn record(&self, stage: Stage) -> CallRecord {
        CallRecord {
            phone_number_id: self.phone_number_id.clone(),
            began_s: self.began_s,
            policy: AcceptPolicy::default(),
            stage,
            accepted: Accepted::Yes,
            session: String::new(),
            answer: String::new(),
            owes_goodbye: true,
        }
    }

    fn note(&mut self, step: Step, detail: String) {
        // Nobody looks at a call of the last run.
        if self.call_id != self.token {
            self.acts.push_back(Act::Timeline(step, detail));
        }
    }
}

/// A request's number holds the dial's and the try.
pub(super) const DIAL_TICKET_BITS: u32 = 8;
const _: () = assert!((DIAL_TRIES_MAX as u64) < 1 << DIAL_TICKET_BITS);
