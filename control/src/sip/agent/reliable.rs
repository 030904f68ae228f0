//! Reliable provisional responses (RFC 3262), where the peer insists on them.
//!
//! As the callee of an INVITE that *requires* `100rel`, every 18x of ours carries an RSeq and is repeated until its PRACK comes; a
//! second one waits for that, and so does the 2xx behind an 18x with SDP. As the caller, every 18x with `Require: 100rel` is
//! acknowledged, whether or not we said that we can.
//!
//! Why not wherever the peer merely supports it: WhatsApp's clock runs while a PRACK is on its way, and nothing here depends on an
//! 18x that is lost.

use super::super::gatekeeper::Refusal;
use super::super::limits::{T1_MS, TIMEOUT_MS};
use super::super::message::Message;
use super::super::transaction::TransactionId;
use super::super::{SipEnd, SipEvent};
use super::Core;
use super::call::{Call, Purpose, Timer, digest_of};
use engine::time::Instant;

/// The callee's side of one INVITE.
pub(super) struct Reliable {
    /// Of the last response sent.
    rseq: u32,
    pending: Option<Pending>,
    /// Waits for the PRACK of `pending`.
    next: Option<(u16, Option<String>)>,
    /// So does the 2xx.
    accept: Option<String>,
    /// Our offer was in an 18x and the PRACK has answered it.
    pub offer_answered: bool,
}

/// An 18x that is not acknowledged.
struct Pending {
    code: u16,
    sdp: Option<String>,
    interval_ms: u64,
    until: Instant,
}

impl Reliable {
    pub fn new(core: &mut Core) -> Reliable {
        // RFC 3262 §3: drawn from 1 to 2^31 - 1.
        let rseq = core.random.below((1 << 31) - 1_000);
        Reliable { rseq, pending: None, next: None, accept: None, offer_answered: false }
    }
}

impl Call {
    pub fn ring_reliably(&mut self, core: &mut Core, now: Instant, code: u16, sdp: Option<&str>) {
        let Some(reliable) = &mut self.reliable else { return };
        let sdp = sdp.map(str::to_owned);
        if reliable.pending.is_some() {
            reliable.next = Some((code, sdp));
            return;
        }
        reliable.rseq += 1;
        reliable.pending = Some(Pending { code, sdp, interval_ms: T1_MS, until: now.plus_millis(TIMEOUT_MS) });
        self.send_18x(core, now);
        self.set(Timer::Repeat18x, now.plus_millis(T1_MS));
    }

    fn send_18x(&mut self, core: &mut Core, now: Instant) {
        let (Some(uas), Some(reliable)) = (&self.uas, &self.reliable) else { return };
        let Some(pending) = &reliable.pending else { return };
        let hop = &self.legs[0].peer;
        let mut response = self.dialog_response(core, &uas.request, hop, pending.code, pending.sdp.as_deref());
        response.push("Require", "100rel");
        response.push("RSeq", reliable.rseq.to_string());
        core.transactions.respond(now, uas.transaction, &response);
    }

    pub fn repeat_18x(&mut self, core: &mut Core, now: Instant) {
        let Some(pending) = self.reliable.as_mut().and_then(|reliable| reliable.pending.as_mut()) else { return };
        if now >= pending.until {
            // RFC 3262 §3: no PRACK, so no call.
            return self.reject(core, now, &Refusal::warned(504, "no PRACK came"), SipEnd::ProtocolError);
        }
        pending.interval_ms *= 2;
        let next = now.plus_millis(pending.interval_ms).min(pending.until);
        self.send_18x(core, now);
        self.set(Timer::Repeat18x, next);
    }

    /// Whether the 2xx waits for the PRACK of an 18x with SDP (RFC 3262 §3).
    pub fn accept_must_wait(&mut self, sdp: &str) -> bool {
        let Some(reliable) = self.reliable.as_mut() else { return false };
        let waits = reliable.pending.as_ref().is_some_and(|pending| pending.sdp.is_some());
        if waits {
            reliable.accept = Some(sdp.to_owned());
        }
        waits
    }

    pub fn on_prack(&mut self, core: &mut Core, now: Instant, id: TransactionId, request: &Message) {
        let invite = self.uas.as_ref().and_then(|uas| uas.request.cseq().map(|(number, _)| number));
        let reliable = self.reliable.as_mut().filter(|reliable| reliable.pending.is_some());
        let rack = request.header("RAck").and_then(parse_rack);
        let Some(reliable) = reliable.filter(|reliable| rack == invite.map(|invite| (reliable.rseq, invite))) else {
            return self.respond(core, now, id, request, 481);
        };
        let offered = reliable.pending.take().is_some_and(|pending| pending.sdp.is_some());
        let ours = offered && self.uas.as_ref().is_some_and(|uas| uas.request.sdp().is_none());
        let (next, accept) = (reliable.next.take(), reliable.accept.take());
        reliable.offer_answered |= ours && request.sdp().is_some();
        self.clear(Timer::Repeat18x);
        match request.sdp() {
            Some(answer) if ours => {
                self.remote_sdp = Some(digest_of(answer));
                self.emit(core, SipEvent::LateAnswer { call: self.id, sdp: answer.to_owned() });
                self.respond(core, now, id, request, 200);
            }
            // A further offer before the call is answered: not taken, the first one stays.
            Some(_) => self.respond(core, now, id, request, 488),
            None => self.respond(core, now, id, request, 200),
        }
        if let Some(sdp) = accept {
            self.accept(core, now, &sdp);
        } else if let Some((code, sdp)) = next {
            self.ring_reliably(core, now, code, sdp.as_deref());
        }
    }

    /// Acknowledges a reliable 18x of the peer. `false`: it is a repeat, or out of order, and says nothing new.
    pub fn acknowledge_18x(&mut self, core: &mut Core, now: Instant, invite: &Message, response: &Message) -> bool {
        let rseq = response.header("RSeq").and_then(|value| value.trim().parse::<u32>().ok());
        let Some(rseq) = rseq.filter(|_| response.lists("Require", "100rel")) else { return true };
        let Some(leg) = self.leg_of(response.to_tag()) else { return false };
        // RFC 3262 §4: the first sets the count; a gap means that one is missing and will be repeated.
        if self.legs[leg].rseq.is_some_and(|last| rseq != last.wrapping_add(1)) {
            return false;
        }
        self.legs[leg].rseq = Some(rseq);
        let mut prack = self.legs[leg].dialog.request("PRACK");
        prack.push("RAck", format!("{rseq} {} INVITE", invite.cseq().map_or(0, |(number, _)| number)));
        self.send_in_dialog(core, now, leg, prack, Purpose::Prack { leg });
        true
    }
}

/// RSeq and CSeq number; the method must be INVITE, the only one whose 1xx are reliable here.
fn parse_rack(value: &str) -> Option<(u32, u32)> {
    let mut parts = value.split_ascii_whitespace();
    let (rseq, cseq) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    (parts.next()? == "INVITE").then_some((rseq, cseq))
}
