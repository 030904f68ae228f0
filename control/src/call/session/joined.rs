//! WhatsApp's call as a side of a transfer: who sits at its far end may be replaced by another call, or by a newcomer (RFC 3891).

use super::super::machine::CallEnd;
use super::super::side::{Side, Stage};
use super::super::transfer::Staying;
use super::*;
use engine::sdp::CodecFormat;

impl Session {
    /// WhatsApp's side, which stays.
    pub(super) fn staying(&self) -> Staying {
        Staying {
            caller: self.caller.clone(),
            formats: self.plan.formats(),
            transcoding: true,
            headers: call_id_header(&self.call_id),
            subject: "WhatsApp".to_owned(),
        }
    }

    /// The side that one of its SIP calls is.
    pub fn side(&self, call: SipCallId) -> Option<Side> {
        if let Some(hunt) = self.hunt.as_ref().filter(|hunt| hunt.owns(call)) {
            let (subject, source) = hunt.rung(call)?;
            let (formats, transcoding) = hunt.wanted();
            let stage = match self.far.is_some() || self.joining || self.bridge != BridgeState::Open {
                true => Stage::Busy,
                false => Stage::Ringing { formats: formats.clone(), transcoding, leg: hunt.free_leg() },
            };
            return Some(Side { seat: SIP, stage, source, subject });
        }
        let far = self.far.as_ref().filter(|far| far.call == Some(call))?;
        let stage = match () {
            () if self.end.is_some() => Stage::Over,
            () if self.joining || self.hunt.is_some() => Stage::Busy,
            () => Stage::Talking(self.staying()),
        };
        Some(Side { seat: SIP, stage, source: far.source.clone(), subject: far.subject.clone() })
    }

    /// Whether one of its calls rings, and nobody has answered yet.
    pub fn rings(&self, call: SipCallId) -> bool {
        self.far.is_none() && self.hunt.as_ref().is_some_and(|hunt| hunt.owns(call))
    }

    /// Who has answered is about to be replaced: it may go before that is done.
    pub fn begin_join(&mut self, _seat: LegName) {
        self.joining = true;
    }

    /// Another call, or a newcomer, has taken the far seat. WhatsApp's description and stream stay as they are.
    pub fn join(&mut self, cx: &mut Context, party: Party, codec: CodecFormat) {
        self.joining = false;
        let Some(far) = &self.far else {
            if let Some(mut hunt) = self.hunt.take() {
                hunt.taken(cx);
            }
            return self.answered(cx, Won { party, codec, headers: Vec::new() });
        };
        if let Some(call) = far.call {
            cx.sip.transfer_progress(cx.now, call, 200);
            cx.hangup(call, "SIP;cause=200;text=\"Transferred\"");
        }
        let words = format!("{} takes the place of {}", party.subject, far.subject);
        self.note(cx, Step::Transfer, words);
        self.far = Some(Box::new(party));
    }

    /// It came to nothing: the call goes on as it was, if somebody is still there.
    pub fn join_failed(&mut self, cx: &mut Context, _seat: LegName, refusal: &Refusal) {
        self.joining = false;
        if self.end.is_some() {
            return;
        }
        let words = refusal.warning.clone().unwrap_or_default();
        self.note(cx, Step::Transfer, format!("failed: {} {words}", refusal.code));
        match (&self.far, self.asker()) {
            (Some(_), None) => self.end(cx, CallEnd::new("tandem", "transfer_failed", words)),
            (Some(_), Some(call)) => cx.sip.transfer_progress(cx.now, call, refusal.code),
            (None, _) => {} // a newcomer that did not come; the others still ring
        }
    }

    /// Why it has ended, if it has.
    pub fn ended(&self) -> Option<&CallEnd> {
        self.end.as_ref()
    }

    /// The call behind its far side.
    pub fn joined(&self) -> [Option<u64>; 2] {
        [None, self.far.as_ref().and_then(|far| far.joined)]
    }

    /// Lets go of the call behind its far side.
    pub fn part(&mut self) -> [Option<u64>; 2] {
        let joined = self.joined();
        if let Some(far) = &mut self.far {
            far.joined = None;
        }
        joined
    }
}
