//! A call of the edge, of either kind: what the edge does with both alike.

use super::context::Context;
use super::exchange::Exchange;
use super::machine::CallEnd;
use super::session::Session;
use crate::sip::{SipCallId, SipEvent};
use engine::bridge::{BridgeEvent, LegName};
use engine::leg::LocalLeg;
use engine::time::Instant;
use engine::worker::RefuseReason;

/// A call of either kind.
pub(super) enum Talk {
    Session(Box<Session>),
    Exchange(Box<Exchange>),
}

impl Talk {
    pub(super) fn opened(&mut self, cx: &mut Context, a: &LocalLeg, b: &LocalLeg) {
        match self {
            Talk::Session(session) => session.opened(cx, a, b),
            Talk::Exchange(exchange) => exchange.opened(cx, a, b),
        }
    }

    pub(super) fn refused(&mut self, cx: &mut Context, reason: RefuseReason) {
        match self {
            Talk::Session(session) => session.refused(cx, reason),
            Talk::Exchange(exchange) => exchange.refused(cx, reason),
        }
    }

    pub(super) fn handle_bridge(&mut self, cx: &mut Context, event: BridgeEvent) {
        match self {
            Talk::Session(session) => session.handle_bridge(cx, event),
            Talk::Exchange(exchange) => exchange.handle_bridge(cx, event),
        }
    }

    pub(super) fn handle_sip(&mut self, cx: &mut Context, call: SipCallId, event: SipEvent) {
        match self {
            Talk::Session(session) => session.handle_sip(cx, call, event),
            Talk::Exchange(exchange) => exchange.handle_sip(cx, call, event),
        }
    }

    pub(super) fn end(&mut self, cx: &mut Context, end: CallEnd) {
        match self {
            Talk::Session(session) => session.end(cx, end),
            Talk::Exchange(exchange) => exchange.end(cx, end),
        }
    }

    pub(super) fn handle_timeout(&mut self, cx: &mut Context) -> bool {
        match self {
            Talk::Session(session) => session.handle_timeout(cx),
            Talk::Exchange(exchange) => exchange.handle_timeout(cx),
        }
    }

    pub(super) fn call_id(&self) -> &str {
        match self {
            Talk::Session(session) => &session.call_id,
            Talk::Exchange(exchange) => exchange.call_id(),
        }
    }

    /// What kind of peer is at each leg, for figures.
    pub(super) fn peers(&self) -> [&'static str; 2] {
        match self {
            Talk::Session(session) => ["whatsapp", session.far_subject().map_or("sip", kind)],
            Talk::Exchange(exchange) => [LegName::A, LegName::B].map(|leg| kind(&exchange.subject(leg))),
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        match self {
            Talk::Session(session) => session.deadline(),
            Talk::Exchange(exchange) => exchange.deadline(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        match self {
            Talk::Session(session) => session.is_over(),
            Talk::Exchange(exchange) => exchange.is_over(),
        }
    }

    pub(super) fn bury(&mut self, cx: &mut Context) {
        match self {
            Talk::Session(session) => session.bury(cx),
            Talk::Exchange(exchange) => exchange.bury(cx),
        }
    }
}

/// Subjects hold names; kinds are few.
fn kind(subject: &str) -> &'static str {
    match subject.split(' ').next() {
        Some("trunk") => "trunk",
        Some("user") => "user",
        _ => "sip",
    }
}
