//! A call of the edge, of either kind: what the edge does with both alike.

use super::context::Context;
use super::exchange::Exchange;
use super::machine::CallEnd;
use super::party::Party;
use super::session::Session;
use super::side::Side;
use crate::sip::gatekeeper::Refusal;
use crate::sip::{SipCallId, SipEvent};
use engine::bridge::{BridgeEvent, LegName};
use engine::leg::LocalLeg;
use engine::sdp::CodecFormat;
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

    /// How far it is, for figures.
    pub(super) fn state(&self) -> &'static str {
        match self {
            Talk::Session(session) => session.state(),
            Talk::Exchange(exchange) => exchange.state(),
        }
    }

    /// What kind of peer is at each leg, for figures.
    pub(super) fn peers(&self) -> [&'static str; 2] {
        match self {
            Talk::Session(session) => ["whatsapp", session.far_subject().map_or("sip", kind)],
            Talk::Exchange(exchange) => [LegName::A, LegName::B].map(|leg| kind(&exchange.subject(leg))),
        }
    }

    pub(super) fn side(&self, call: SipCallId) -> Option<Side> {
        match self {
            Talk::Session(session) => session.side(call),
            Talk::Exchange(exchange) => exchange.side(call),
        }
    }

    pub(super) fn rings(&self, call: SipCallId) -> bool {
        match self {
            Talk::Session(session) => session.rings(call),
            Talk::Exchange(exchange) => exchange.rings(call),
        }
    }

    pub(super) fn begin_join(&mut self, seat: LegName) {
        match self {
            Talk::Session(session) => session.begin_join(seat),
            Talk::Exchange(exchange) => exchange.begin_join(seat),
        }
    }

    pub(super) fn join(&mut self, cx: &mut Context, party: Party, codec: CodecFormat) {
        match self {
            Talk::Session(session) => session.join(cx, party, codec),
            Talk::Exchange(exchange) => exchange.join(cx, party, codec),
        }
    }

    pub(super) fn join_failed(&mut self, cx: &mut Context, seat: LegName, refusal: &Refusal) {
        match self {
            Talk::Session(session) => session.join_failed(cx, seat, refusal),
            Talk::Exchange(exchange) => exchange.join_failed(cx, seat, refusal),
        }
    }

    pub(super) fn ended(&self) -> Option<&CallEnd> {
        match self {
            Talk::Session(session) => session.ended(),
            Talk::Exchange(exchange) => exchange.ended(),
        }
    }

    pub(super) fn joined(&self) -> [Option<u64>; 2] {
        match self {
            Talk::Session(session) => session.joined(),
            Talk::Exchange(exchange) => exchange.joined(),
        }
    }

    pub(super) fn part(&mut self) -> [Option<u64>; 2] {
        match self {
            Talk::Session(session) => session.part(),
            Talk::Exchange(exchange) => exchange.part(),
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
        Some("whatsapp") => "whatsapp",
        _ => "sip",
    }
}
