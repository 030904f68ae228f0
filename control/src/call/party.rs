//! One side of a call that is up: its dialog, its leg, and what its peer changes about them.

use super::context::{Context, dial_of};
use super::half::{Addresses, Half};
use crate::route::{Caller, Source};
use crate::sip::{SipCallId, SipEvent};
use engine::bridge::{BridgeCommand, LegName, LegRemote};

/// One side, with SIP behind it.
pub(super) struct Party {
    /// Its leg.
    pub seat: LegName,
    /// Its dialog; `None` once it hung up (while others take its place), has been replaced, or sits in another call.
    pub call: Option<SipCallId>,
    /// The call behind this side, after an attended transfer: who is meant sits there.
    pub joined: Option<u64>,
    pub half: Half,
    /// `user alice`, `trunk siperb`: for people.
    pub subject: String,
    /// Who it is to whoever is called on its behalf.
    pub caller: Caller,
    /// Which rules hold for what it asks for.
    pub source: Option<Source>,
    /// Whether its trunk lets its calls be transcoded.
    pub transcoding: bool,
    /// It put us on hold.
    pub held: bool,
}

/// What we write into descriptions.
pub(super) fn addresses<'c>(cx: &Context<'c>) -> Addresses<'c> {
    Addresses { webrtc: &cx.config.webrtc_addresses, rtp: cx.config.rtp_address }
}

impl Party {
    /// Tells the leg about its peer.
    pub fn set_remote(&self, cx: &mut Context, remote: LegRemote) {
        cx.command(BridgeCommand::SetRemote { leg: self.seat, remote: Box::new(remote) });
    }

    /// A re-INVITE: hold, resume, a new address. Whatever changes here stays here: the bridge absorbs it, and the far side's
    /// description is not touched. Answers what happened, in words, if it is worth a line.
    pub fn reinvited(&mut self, cx: &mut Context, call: SipCallId, sdp: Option<&str>) -> Option<&'static str> {
        let addresses = addresses(cx);
        let Some(offer) = sdp else {
            // The peer wants our offer; its answer comes as `LateAnswer`, in the ACK.
            let offer = self.half.offer(addresses);
            cx.sip.answer_reinvite(cx.now, call, Some(&offer));
            return None;
        };
        let reoffer = match self.half.read_offer(addresses, offer) {
            Ok(reoffer) => reoffer,
            Err(refusal) => {
                tracing::debug!(words = ?refusal.warning, "a re-INVITE is refused");
                cx.sip.answer_reinvite(cx.now, call, None);
                return None;
            }
        };
        cx.sip.answer_reinvite(cx.now, call, Some(&reoffer.answer));
        self.set_remote(cx, reoffer.remote);
        let changed = reoffer.held != std::mem::replace(&mut self.held, reoffer.held);
        changed.then_some(if reoffer.held { "on hold" } else { "resumed" })
    }

    /// Nothing comes from its peer any more: it is offered an ICE restart, if it may answer one (WhatsApp takes no later offer). Answers
    /// whether it was.
    pub fn restart_ice(&mut self, cx: &mut Context) -> bool {
        let Some(call) = self.call.filter(|call| dial_of(*call).is_none()) else { return false };
        let Some(restart) = self.half.offer_restart(addresses(cx)) else { return false };
        let credentials = Some(restart.credentials);
        cx.command(BridgeCommand::OfferRestart { leg: self.seat, credentials });
        // Who changed its network has a new connection as well.
        cx.follow(call);
        cx.sip.reinvite(cx.now, call, &restart.offer);
        true
    }

    /// What the peer made of our offer: an ICE restart, there is no other. Answers what happened, in words.
    pub fn reoffer_over(&mut self, cx: &mut Context, event: &SipEvent) -> Option<String> {
        let fault = match event {
            SipEvent::ReInviteAnswered { sdp, .. } => match self.half.read_restart(sdp) {
                Ok(change) => {
                    self.set_remote(cx, LegRemote::WebrtcChange(change));
                    return Some("ICE begins anew".to_owned());
                }
                Err(fault) => fault.to_owned(),
            },
            SipEvent::ReInviteRefused { code, .. } if self.half.restart_refused() => format!("refused with {code}"),
            _ => return None,
        };
        cx.command(BridgeCommand::OfferRestart { leg: self.seat, credentials: None });
        Some(format!("no ICE restart: {fault}"))
    }

    /// The answer to an offer of ours in a 2xx (RFC 3264 §5). One that cannot be used leaves the call as it was; the error says
    /// that there was nothing before.
    pub fn answered_late(&mut self, cx: &mut Context, sdp: &str) -> Result<(), String> {
        let is_first = self.half.is_ours_to_offer();
        match self.half.read_answer(sdp) {
            Ok((remote, _)) if is_first => {
                self.half.fix_codec();
                self.set_remote(cx, remote);
            }
            Ok((remote @ LegRemote::Rtp(_), _)) => self.set_remote(cx, remote),
            Err(fault) if is_first => return Err(fault),
            Ok(_) | Err(_) => {}
        }
        Ok(())
    }
}
