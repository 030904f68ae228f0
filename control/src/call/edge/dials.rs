//! Calls to users of WhatsApp, as the edge sees them: calls among SIP's, whose other end is the orchestrator beside it.
//!
//! Why in SIP's words: who hunts, transfers, holds or hangs up does the same with whoever was called.

use super::Edge;
use crate::call::context::call_of;
use crate::call::outbound::{DialEvent, DialEventKind};
use crate::sip::SipEvent;
use engine::time::Instant;

impl Edge {
    /// Takes what became of a call to a user of WhatsApp.
    pub fn handle_dial(&mut self, now: Instant, event: DialEvent) {
        let call = call_of(event.dial);
        let event = match event.kind {
            DialEventKind::Described { sdp } => SipEvent::Provisional { call, code: 183, sdp: Some(sdp) },
            DialEventKind::Ringing => SipEvent::Provisional { call, code: 180, sdp: None },
            DialEventKind::Answered => SipEvent::Answered { call, sdp: String::new(), headers: Vec::new() },
            DialEventKind::Ended(end) => SipEvent::Ended { call, end },
        };
        self.handle_sip_event(now, event);
    }
}
