//! A call that nobody placed: somebody else's program asked for it over HTTP (`POST /calls`). A user of WhatsApp is called first, and
//! whoever is to speak with that user once there is an answer.
//!
//! ```text
//!  POST ─► Opening ─► hunt on seat A: WhatsApp ──answered──► hunt on seat B: the bot ──answered──► talking
//!                          └── lost: over                      └── lost: WhatsApp's call is ended
//! ```
//!
//! Why WhatsApp first: most calls of a business are not answered, and a bot that is called first speaks to nobody, and is paid for.
//! A bot answers within a second, which the user hears as a pause; a softphone may take as long as a caller would wait.

use super::*;
use crate::call::half::Formats;
use crate::route::Destination;
use engine::bridge::LegConfig;
use engine::leg::rtp::RtpConfig;

/// What such a call begins with.
pub(in crate::call) struct Origin {
    pub call_id: String,
    /// The user, as dialed.
    pub to: String,
    /// The account.
    pub near: Destination,
    /// Whom the user is connected to.
    pub far: Vec<Way>,
    /// What a trunk on that side dials.
    pub number: String,
}

impl Exchange {
    /// Asks the engine for a bridge toward a user of WhatsApp.
    pub fn originate(cx: &mut Context, origin: Origin) -> Result<Exchange, Refusal> {
        let wanted = |dialed: String, caller: Caller, ring_ms_max: u64| Wanted {
            dialed,
            caller,
            formats: Formats::default(),
            transcoding: true,
            headers: Vec::new(),
            max_forwards: None,
            early_media: false,
            until: cx.now.plus_millis(ring_ms_max),
        };
        let caller = Caller { user: origin.to.clone(), display: None };
        let far = wanted(origin.number, caller, 0);
        let near = wanted(origin.to, Caller::default(), CALL_RING_MS_MAX);
        let far = Wanted { headers: vec![("X-Tandem-Call-ID".to_owned(), origin.call_id.clone())], ..far };
        let mut hunt = Hunt::new(&origin.call_id, LegName::A, [Way::To(origin.near)], near);
        let a = hunt.first(cx).map_err(|lost| lost.refusal)?;
        // Its seat is taken by the leg of whoever answers there.
        let b = LegConfig::Rtp(RtpConfig { remote: None });
        cx.note(&origin.call_id, Step::Offer, "asked for over HTTP: WhatsApp first, then the other side".to_owned());
        let command = Command::Open { bridge: BridgeId(cx.number), config: BridgeConfig { a, b } };
        cx.out.push_back(EdgeOutput::Engine { worker: cx.worker, command });
        Ok(Exchange {
            call_id: origin.call_id,
            parties: [None, None],
            hunt: Some(Box::new(hunt)),
            answered: false,
            rung: false,
            answer: None,
            headers: Vec::new(),
            bridge: BridgeState::Opening,
            joining: None,
            far: Some(Box::new((origin.far, far))),
            end: None,
            end_detail: None,
            since: cx.now,
        })
    }

    /// The user of WhatsApp has: whoever is to speak with that user is called.
    pub(super) fn near_answered(&mut self, cx: &mut Context, won: Won) {
        let Some((ways, wanted)) = self.far.take().map(|far| *far) else { return };
        let words = format!("{}, {}; the other side is called", won.party.subject, codec_name(won.codec.codec));
        cx.note(&self.call_id, Step::Accept, words);
        let formats = won.party.half.formats();
        self.parties[0] = Some(won.party);
        self.answered = true;
        let until = cx.now.plus_millis(cx.config.ring_ms_max);
        let hunt = Hunt::new(&self.call_id, LegName::B, ways, Wanted { formats, until, ..wanted });
        let hunt = self.hunt.insert(Box::new(hunt));
        let hunted = hunt.start(cx);
        self.hunted(cx, hunted);
    }

    /// So has the other side.
    pub(super) fn far_answered(&mut self, cx: &mut Context, won: Won) {
        self.hunt = None;
        let words = format!("200 from {}, {}", won.party.subject, codec_name(won.codec.codec));
        cx.note(&self.call_id, Step::Answered, words);
        self.parties[1] = Some(won.party);
    }

    /// The other side has not.
    pub(super) fn far_lost(&mut self, cx: &mut Context, lost: Lost) {
        self.hunt = None;
        let words = lost.refusal.warning.unwrap_or_default();
        let cause = lost.end.map_or_else(|| "no_route".to_owned(), |end| sip_end(end).cause);
        self.end(cx, CallEnd::new("callee", &cause, format!("{} {words}", lost.refusal.code)));
    }
}
