//! Calls that come to us (RFC 3261 §8.2, §9.2, §13.3), and the requests that later arrive inside any call.

use super::super::dialog::Dialog;
use super::super::gatekeeper::Refusal;
use super::super::limits::{INCOMING_MS_MAX, T1_MS, T2_MS, TIMEOUT_MS};
use super::super::message::{Message, readable};
use super::super::transaction::TransactionId;
use super::super::transport::Hop;
use super::super::{Arrival, SipCallId, SipEnd, SipEvent};
use super::call::{Call, Leg, Purpose, Timer, digest_of};
use super::door::Caller;
use super::reliable::Reliable;
use super::{ALLOW, Core, SUPPORTED, is_secure};
use engine::time::Instant;

/// The INVITE that started the call.
pub(super) struct Uas {
    pub transaction: TransactionId,
    pub request: Message,
    pub reply_to: Hop,
    pub answered: bool,
}

/// A 2xx of ours that nobody has acknowledged: the dialog repeats it, on any transport (RFC 3261 §13.3.1.4).
pub(super) struct Pending2xx {
    pub cseq: u32,
    pub bytes: Vec<u8>,
    pub to: Hop,
    pub interval_ms: u64,
    pub until: Instant,
    /// Of the first INVITE.
    pub first: bool,
    /// The offer was ours, so the ACK carries the answer.
    pub wants_answer: bool,
}

impl Call {
    /// `None`: the INVITE was refused.
    pub fn incoming(
        core: &mut Core,
        now: Instant,
        id: SipCallId,
        transaction: TransactionId,
        arrival: Arrival,
        reply_to: &Hop,
    ) -> Option<Call> {
        let request = &arrival.request;
        let mut call = Call::new(core, id, request.call_id().to_owned());
        let refused = match Dialog::uas(request, &call.local_tag) {
            // Without a Contact there is nowhere to send BYE.
            None => Some(400),
            Some(_) if call.interval_is_too_small(request) => Some(422),
            Some(dialog) => {
                call.add_leg(Leg::new(dialog, reply_to.clone()));
                None
            }
        };
        if let Some(code) = refused {
            core.dialogs.remove(&(call.call_id.clone(), call.local_tag.clone()));
            core.refuse_with(now, transaction, request, code, |m| {
                if code == 422 {
                    m.push("Min-SE", Call::min_se());
                }
            });
            return None;
        }
        call.own(core, transaction, Purpose::Serve);
        call.remote_sdp = request.sdp().map(digest_of);
        call.set(Timer::Ring, now.plus_millis(INCOMING_MS_MAX));
        let (request, reply_to) = (request.clone(), reply_to.clone());
        call.reliable = request.lists("Require", "100rel").then(|| Box::new(Reliable::new(core)));
        let incoming = SipEvent::Incoming {
            call: id,
            target: request.uri().unwrap_or("").to_owned(),
            from: readable(request.header("From").unwrap_or("")),
            sdp: request.sdp().map(str::to_owned),
            headers: request.x_headers(),
            arrival: Box::new(arrival),
        };
        call.uas = Some(Box::new(Uas { transaction, request, reply_to, answered: false }));
        call.emit(core, incoming);
        Some(call)
    }

    pub fn ring(&mut self, core: &mut Core, now: Instant, sdp: Option<&str>) {
        let Some(uas) = self.uas.as_ref().filter(|uas| !uas.answered && !self.ended) else { return };
        let code = if sdp.is_some() { 183 } else { 180 };
        if self.reliable.is_some() {
            return self.ring_reliably(core, now, code, sdp);
        }
        let response = self.dialog_response(core, &uas.request, &uas.reply_to, code, sdp);
        core.transactions.respond(now, uas.transaction, &response);
    }

    pub fn accept(&mut self, core: &mut Core, now: Instant, sdp: &str) {
        if self.uas.as_ref().is_none_or(|uas| uas.answered) || self.ended || self.accept_must_wait(sdp) {
            return;
        }
        let Some(uas) = self.uas.as_mut() else { return };
        uas.answered = true;
        let (transaction, request, reply_to) = (uas.transaction, uas.request.clone(), uas.reply_to.clone());
        self.clear(Timer::Ring);
        self.clear(Timer::Repeat18x);
        self.legs[0].confirmed = true;
        self.main = Some(0);
        self.local_sdp = sdp.to_owned();
        self.send_2xx(core, now, transaction, &request, &reply_to, true);
    }

    /// Refuses a call that was not answered yet.
    pub fn reject(&mut self, core: &mut Core, now: Instant, refusal: &Refusal, end: SipEnd) {
        let Some(uas) = self.uas.as_mut().filter(|uas| !uas.answered && !self.ended) else { return };
        uas.answered = true;
        let mut response = refusal.response(&uas.request, &self.local_tag, &core.sent_by(uas.reply_to.transport));
        response.push("Server", core.config.product.as_str());
        core.transactions.respond(now, uas.transaction, &response);
        self.legs[0].closed = true;
        self.clear(Timer::Repeat18x);
        self.end(core, end);
    }

    /// `cancel` is answered; the INVITE too unless it has its final response (RFC 3261 §9.2).
    pub fn on_cancel(
        &mut self,
        core: &mut Core,
        now: Instant,
        id: TransactionId,
        cancel: &Message,
        invite: TransactionId,
        open: bool,
    ) {
        self.respond(core, now, id, cancel, 200);
        if !open {
            return;
        }
        if self.uas.as_ref().is_some_and(|uas| uas.transaction == invite) {
            self.reject(core, now, &Refusal::code(487), SipEnd::CancelReceived);
        } else if self.peer_reinvite.as_ref().is_some_and(|peer| peer.transaction == invite) {
            self.refuse_peer_reinvite(core, now, 487);
        }
    }

    /// Answers an INVITE with 200, `local_sdp` and all a dialog needs, and repeats that until it is acknowledged.
    pub fn send_2xx(
        &mut self,
        core: &mut Core,
        now: Instant,
        transaction: TransactionId,
        request: &Message,
        reply_to: &Hop,
        first: bool,
    ) {
        let mut response = self.dialog_response(core, request, reply_to, 200, Some(&self.local_sdp));
        self.agree_on_session(now, request, &mut response);
        core.transactions.respond(now, transaction, &response);
        let (cseq, bytes) = (request.cseq().map_or(0, |(number, _)| number), response.to_bytes());
        let answered = first && self.reliable.as_ref().is_some_and(|reliable| reliable.offer_answered);
        let (until, wants_answer) = (now.plus_millis(TIMEOUT_MS), request.sdp().is_none() && !answered);
        let pending = Pending2xx { cseq, bytes, to: reply_to.clone(), interval_ms: T1_MS, until, first, wants_answer };
        self.pending_2xx = Some(Box::new(pending));
        self.set(Timer::Repeat2xx, now.plus_millis(T1_MS));
    }

    pub fn repeat_2xx(&mut self, core: &mut Core, now: Instant) {
        let Some(pending) = &mut self.pending_2xx else { return };
        if now < pending.until {
            core.transmit(&pending.to, pending.bytes.clone());
            pending.interval_ms = (pending.interval_ms * 2).min(T2_MS);
            let next = now.plus_millis(pending.interval_ms).min(pending.until);
            return self.set(Timer::Repeat2xx, next);
        }
        self.pending_2xx = None;
        match self.main {
            Some(leg) if self.bye_wanted => self.send_bye(core, now, leg),
            _ => self.drop_session(core, now, SipEnd::ProtocolError),
        }
    }

    /// The ACK of a 2xx.
    pub fn on_ack(&mut self, core: &mut Core, now: Instant, ack: &Message) {
        let Some(leg) = self.leg_of(ack.from_tag()) else { return };
        let number = ack.cseq().map(|(number, _)| number);
        let Some(pending) = self.pending_2xx.take_if(|pending| Some(pending.cseq) == number) else { return };
        self.clear(Timer::Repeat2xx);
        if self.bye_wanted {
            return self.send_bye(core, now, leg);
        }
        if pending.wants_answer {
            match ack.sdp() {
                Some(sdp) => {
                    self.remote_sdp = Some(digest_of(sdp));
                    self.emit(core, SipEvent::LateAnswer { call: self.id, sdp: sdp.to_owned() });
                }
                None => return self.drop_session(core, now, SipEnd::ProtocolError),
            }
        }
        if pending.first {
            self.emit(core, SipEvent::Acknowledged { call: self.id });
        }
    }

    /// A request inside the dialog, other than ACK and CANCEL.
    pub fn on_request(&mut self, core: &mut Core, now: Instant, id: TransactionId, caller: &Caller<'_>) {
        let request = caller.request;
        let Some(leg) = self.leg_of(request.from_tag()) else {
            return self.respond(core, now, id, request, 481);
        };
        let number = request.cseq().map_or(0, |(number, _)| number);
        if !self.legs[leg].dialog.take_cseq(number) {
            return self.respond(core, now, id, request, 500);
        }
        // A peer that lost its connection comes back on another.
        let domain = self.legs[leg].peer.domain.clone();
        self.legs[leg].peer = Hop { domain, ..caller.reply_to.clone() };
        match request.method().unwrap_or("") {
            "BYE" => self.on_bye(core, now, id, request, leg),
            _ if self.ended || self.legs[leg].closed => self.respond(core, now, id, request, 481),
            "INVITE" => self.on_reinvite(core, now, id, request, leg, &caller.reply_to),
            "UPDATE" => self.on_update(core, now, id, request, leg, &caller.reply_to),
            "INFO" => self.on_info(core, now, id, request),
            "PRACK" => self.on_prack(core, now, id, request),
            "REFER" => self.on_refer(core, now, id, request, leg),
            "NOTIFY" => self.on_notify(core, now, id, request),
            _ => {
                let mut response = self.response(core, request, 200);
                response.push("Allow", ALLOW);
                response.push("Accept", "application/sdp");
                core.transactions.respond(now, id, &response);
            }
        }
    }

    fn on_bye(&mut self, core: &mut Core, now: Instant, id: TransactionId, bye: &Message, leg: usize) {
        self.respond(core, now, id, bye, 200);
        self.legs[leg].closed = true;
        let end = SipEnd::ByeReceived(bye.header("Reason").map(readable));
        if self.main == Some(leg) {
            let headers = bye.x_headers();
            if !headers.is_empty() {
                self.emit(core, SipEvent::ByeHeaders { call: self.id, headers });
            }
            self.refuse_peer_reinvite(core, now, 487);
            self.pending_2xx = None;
            self.bye_wanted = false; // the peer's own says it all
            self.clear(Timer::Repeat2xx);
            self.end(core, end);
        } else if self.uas.is_some() {
            self.reject(core, now, &Refusal::code(487), end);
        }
    }

    /// A response that makes or keeps a dialog: Record-Route repeated, Contact and capabilities added (RFC 3261 §12.1.1).
    pub fn dialog_response(
        &self,
        core: &Core,
        request: &Message,
        reply_to: &Hop,
        code: u16,
        sdp: Option<&str>,
    ) -> Message {
        let mut response = self.response(core, request, code);
        response.copy(request, "Record-Route");
        let secure = request.uri().is_some_and(is_secure);
        response.push("Contact", core.contact(reply_to.transport, secure, None));
        response.push("Allow", ALLOW);
        response.push("Supported", SUPPORTED.join(", "));
        if let Some(sdp) = sdp {
            response.set_body("application/sdp", sdp);
        }
        response
    }
}
