//! Calling a user of WhatsApp, among other ways of a hunt.
//!
//! The leg is described by the webhook that brings WhatsApp's answer, mostly before the user has picked up: ICE and DTLS are done
//! while the phone rings. That answer is no early media, and the caller hears its own ringing tone; what picks up is ACCEPTED, or
//! the user's first packet.
//!
//! Why Opus alone is offered: WhatsApp's clients speak nothing else, and what else it took would be transcoded there.

use super::{Attempt, Failure, Hunt, Hunted, Target};
use crate::call::backends::Peer;
use crate::call::context::Context;
use crate::call::half::{Formats, MediaKind};
use crate::call::negotiate::OPUS_WISHES;
use crate::call::outbound::NewDial;
use crate::route::{Ice, Trunk, TrunkId, Whatsapp};
use crate::sip::{Invite, SipCallId};
use crate::trace::timeline::Step;
use crate::whatsapp::graph::Callee;
use engine::bridge::{BridgeCommand, LegName};
use engine::sdp::{Codec, CodecFormat, OpusParameters, TelephoneEventFormat};

/// Numbers that WhatsApp itself gives them.
const OPUS_PAYLOAD_TYPE: u8 = 111;
const EVENT_PAYLOAD_TYPE: u8 = 126;

/// What only an attempt to call a user of WhatsApp has.
#[derive(Clone)]
pub(super) struct Dialling {
    phone_number_id: String,
    to: Callee,
    ring_ms_max: u64,
}

impl Hunt {
    /// A user's first packet has come: whoever is heard has picked up.
    pub fn media_came(&mut self, cx: &mut Context, leg: LegName) -> Hunted {
        let heard =
            |attempt: &Attempt| attempt.leg == leg && attempt.described.is_some() && attempt.target.whatsapp.is_some();
        let Some(index) = self.attempts.iter().position(heard) else { return Hunted::Nothing };
        if let Some(call) = self.attempts[index].call {
            cx.picked_up(call);
        }
        self.picked_up(cx, index)
    }

    /// A spare leg is gone by itself: its media did not come up.
    pub fn leg_lost(&mut self, cx: &mut Context, leg: LegName) -> Hunted {
        let lost = |attempt: &Attempt| attempt.leg == leg && leg != self.seat && attempt.described.is_some();
        let Some(index) = self.attempts.iter().position(lost) else { return Hunted::Nothing };
        // There is no leg any more to be closed.
        self.attempts[index].leg = self.seat;
        if let Some(call) = self.attempts[index].call {
            cx.hangup(call, super::GIVEN_UP);
        }
        self.failed(cx, index, 503, "its media could not be set up".to_owned(), None)
    }

    /// Whom a trunk into WhatsApp leads to.
    pub(super) fn whatsapp_target(
        &self,
        cx: &Context,
        id: TrunkId,
        trunk: &Trunk,
        whatsapp: &Whatsapp,
    ) -> Result<Target, Failure> {
        let subject = format!("whatsapp {}", whatsapp.account);
        let refuse = |code, words: &str| Err(Failure { code, words: format!("{subject}: {words}"), end: None });
        let number = cx.gate.routes.numbering.e164(&self.wanted.dialed);
        let number = number.map(|number| Callee::Number(number.trim_start_matches('+').to_owned()));
        let Some(to) = number.or_else(|| Callee::scoped(&self.wanted.dialed)) else {
            return refuse(484, "what was dialed is neither a number in E.164 nor a business-scoped user id");
        };
        let theirs = self.wanted.formats.of(Codec::Opus);
        if theirs.is_none() && !self.wanted.transcoding {
            return refuse(488, "takes Opus only, the caller has none, and transcoding is off");
        }
        Ok(Target {
            trunk: Some(id),
            user: None,
            kind: MediaKind::Webrtc(Ice::Full),
            backend: cx.backends.choose(
                cx.now,
                trunk.dtls_backend,
                Some(Peer::Number(whatsapp.phone_number_id.clone())),
            ),
            formats: formats(theirs),
            narrow: false,
            transcoding: true,
            invite: Invite::default(),
            whatsapp: Some(Dialling {
                phone_number_id: whatsapp.phone_number_id.clone(),
                to,
                ring_ms_max: u64::from(trunk.ring_s) * 1_000,
            }),
            subject,
        })
    }

    /// The leg is there: WhatsApp is asked to ring the user.
    pub(super) fn dial(&self, cx: &mut Context, target: &Target, dialling: Dialling, sdp_offer: String) -> SipCallId {
        let left_ms = self.wanted.until.since(cx.now).as_millis() as u64;
        let new = NewDial {
            dial: 0,
            call_id: self.call_id.clone(),
            phone_number_id: dialling.phone_number_id,
            to: dialling.to,
            sdp_offer,
            ring_ms_max: dialling.ring_ms_max.min(left_ms).max(1),
        };
        cx.dial(new, target.trunk)
    }

    /// WhatsApp's answer: its leg is set up while the user's phone rings.
    pub(super) fn described(&mut self, cx: &mut Context, index: usize, sdp: &str) -> Hunted {
        let attempt = &mut self.attempts[index];
        if attempt.described.is_some() {
            return Hunted::Nothing;
        }
        match attempt.half.read_answer(sdp) {
            Ok((remote, codec)) => {
                attempt.described = Some(codec);
                let (leg, words) = (attempt.leg, format!("the answer of {} came", attempt.target.subject));
                cx.command(BridgeCommand::SetRemote { leg, remote: Box::new(remote) });
                self.note(cx, Step::Webhook, words);
                Hunted::Nothing
            }
            Err(fault) => {
                if let Some(call) = attempt.call {
                    cx.hangup(call, super::GIVEN_UP);
                }
                self.failed(cx, index, 488, fault, None)
            }
        }
    }

    /// The user has picked up.
    pub(super) fn picked_up(&mut self, cx: &mut Context, index: usize) -> Hunted {
        match self.attempts[index].described {
            Some(codec) => self.won(cx, index, None, codec, Vec::new()),
            None => Hunted::Nothing,
        }
    }
}

/// Whether another way is tried after WhatsApp: a refusal of Graph's says nothing about other ways to the same person, while
/// somebody who declined, or let it ring, was reached.
pub(super) fn goes_on(rang: bool, code: u16) -> bool {
    !rang && code != 486 && code < 600 || matches!(code, 500..=599)
}

/// Opus, with the caller's wishes where it has some: then payloads pass untouched.
fn formats(theirs: Option<CodecFormat>) -> Formats {
    let wishes = theirs.map_or(OPUS_WISHES, |theirs| OpusParameters { stereo: false, use_dtx: false, ..theirs.opus });
    Formats {
        codecs: vec![CodecFormat { codec: Codec::Opus, payload_type: OPUS_PAYLOAD_TYPE, opus: wishes }],
        events: vec![TelephoneEventFormat { payload_type: EVENT_PAYLOAD_TYPE, clock_rate_hz: 8_000 }],
    }
}
