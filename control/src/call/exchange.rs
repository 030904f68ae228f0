//! A call between two SIP parties: a trunk or a user on one side, whoever the routes name on the other. Pure.
//!
//! ```text
//!  INVITE ─► offer read, routes asked ─► Opening ─Opened─► ringing ─2xx─► both answered, talking ─BYE─► Ending ─► over
//!                 │ 404, 480, 488, 503                │ the hunt: fork, failover          │ hold, keys, transfer
//!                 └── refused in words                └── lost: refused in words          └── each absorbed on its side
//! ```
//!
//! The caller's leg is A, the callee's B. The caller is answered only when the callee has answered (or sends early media), with
//! the codec that the callee took: then payloads pass untouched. A caller that offers nothing is offered that codec in its 2xx, and
//! answers in its ACK.
//!
//! Why both sides are the same kind of thing (`Party`): after a transfer nobody is caller or callee any more, and whoever may
//! hold, press keys or hang up on one side may do so on the other.

use super::backends::Choice;
use super::context::Context;
use super::edge::EdgeOutput;
use super::half::Half;
use super::hunt::{Hunt, Hunted, Lost, Wanted, Way, Won};
use super::limits::*;
use super::machine::CallEnd;
use super::negotiate::{OPUS_WISHES, codec_name};
use super::party::{Party, addresses};
use super::session::{bridge_end, profile_name, reason_header, refused_end, sip_end, version_name};
use super::side::{Side, Stage};
use super::transfer::{self, Staying};
use crate::route::{Caller, Source};
use crate::sip::gatekeeper::Refusal;
use crate::sip::{SipCallId, SipEvent};
use crate::trace::timeline::Step;
use crate::trace::verdict;
use engine::bridge::{BridgeCommand, BridgeConfig, BridgeEvent, BridgeId, LegName};
use engine::error::{self, End};
use engine::leg::{LegEvent, LocalLeg};
use engine::rtp::telephone_event::Digit;
use engine::sdp::CodecFormat;
use engine::time::Instant;
use engine::worker::{Command, RefuseReason};

mod originated;

pub(super) use originated::Origin;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BridgeState {
    Opening,
    Open,
    Gone,
}

/// A call that came in.
pub(super) struct Arrived {
    pub call: SipCallId,
    /// Call-ID, for the timeline.
    pub call_id: String,
    pub half: Half,
    pub subject: String,
    pub caller: Caller,
    pub source: Source,
    pub transcoding: bool,
    pub dialed: String,
    pub ways: Vec<Way>,
    /// Passed on.
    pub headers: Vec<(String, String)>,
    pub max_forwards: Option<u8>,
}

impl Arrived {
    /// The user who calls, if it is one.
    pub fn user(&self) -> Option<&str> {
        match &self.source {
            Source::User(name) => Some(name),
            Source::Trunk(_) | Source::Whatsapp => None,
        }
    }
}

/// One call.
pub(super) struct Exchange {
    call_id: String,
    /// By seat.
    parties: [Option<Party>; 2],
    hunt: Option<Box<Hunt>>,
    /// Whether the caller has its 2xx.
    answered: bool,
    rung: bool,
    /// What the caller was answered, once it is known: with early media before the 2xx.
    answer: Option<String>,
    headers: Vec<(String, String)>,
    bridge: BridgeState,
    /// The seat whose party is about to be replaced by another call, or by a newcomer.
    joining: Option<LegName>,
    /// Nobody has called: whom the one on seat A is to be connected to, until that one has answered.
    far: Option<Box<(Vec<Way>, Wanted)>>,
    end: Option<CallEnd>,
    end_detail: Option<Box<str>>,
    since: Instant,
}

impl Exchange {
    /// How far it is, for figures.
    pub fn state(&self) -> &'static str {
        match (&self.end, self.bridge) {
            (Some(_), _) => "ending",
            (None, BridgeState::Opening) => "opening",
            (None, _) if self.answered => "talking",
            (None, _) => "ringing",
        }
    }

    /// As in its timeline: the Call-ID of the call that came in.
    pub fn call_id(&self) -> &str {
        &self.call_id
    }

    /// Asks the engine for a bridge toward the first way that leads to somebody.
    pub fn open(cx: &mut Context, arrived: Arrived) -> Result<Exchange, Refusal> {
        let wanted = Wanted {
            dialed: arrived.dialed,
            caller: arrived.caller.clone(),
            formats: arrived.half.formats(),
            transcoding: arrived.transcoding,
            headers: arrived.headers.clone(),
            max_forwards: arrived.max_forwards,
            early_media: true,
            until: cx.now.plus_millis(CALL_RING_MS_MAX),
        };
        let mut hunt = Hunt::new(&arrived.call_id, LegName::B, arrived.ways, wanted);
        let b = hunt.first(cx).map_err(|lost| lost.refusal)?;
        let a = arrived.half.config();
        let near = Party {
            seat: LegName::A,
            call: Some(arrived.call),
            joined: None,
            half: arrived.half,
            subject: arrived.subject,
            caller: arrived.caller,
            source: Some(arrived.source),
            transcoding: arrived.transcoding,
            held: false,
        };
        let words = format!("{} offers {} over {}", near.subject, near.half.formats().names(), near.half.kind.name());
        cx.note(&arrived.call_id, Step::Offer, words);
        cx.note_headers(&arrived.call_id, &near.subject, &arrived.headers);
        let command = Command::Open { bridge: BridgeId(cx.number), config: BridgeConfig { a, b } };
        cx.out.push_back(EdgeOutput::Engine { worker: cx.worker, command });
        Ok(Exchange {
            call_id: arrived.call_id,
            parties: [Some(near), None],
            hunt: Some(Box::new(hunt)),
            answered: false,
            rung: false,
            answer: None,
            headers: arrived.headers,
            bridge: BridgeState::Opening,
            joining: None,
            far: None,
            end: None,
            end_detail: None,
            since: cx.now,
        })
    }

    /// The engine has bound the sockets: the callee rings.
    pub fn opened(&mut self, cx: &mut Context, a: &LocalLeg, b: &LocalLeg) {
        self.bridge = BridgeState::Open;
        if self.end.is_some() {
            return; // Close is on its way
        }
        // Where nobody has called, the first callee sits on seat A.
        let (fits, first) = match &mut self.parties[0] {
            Some(near) => (near.half.opened(a.clone()), b),
            None => (true, a),
        };
        if !fits {
            return self.end(cx, CallEnd::new("tandem", "bug", "the engine opened a leg of another kind"));
        }
        // Providers wait for our first packet, and end a call that brings none for long: a callee on hold must not cost it.
        cx.command(BridgeCommand::Comfort { leg: LegName::A });
        cx.command(BridgeCommand::Comfort { leg: LegName::B });
        let hunted = self.hunt.as_mut().map_or(Hunted::Nothing, |hunt| hunt.begin(cx, first.clone()));
        self.hunted(cx, hunted);
    }

    /// The engine has no bridge for us.
    pub fn refused(&mut self, cx: &mut Context, reason: RefuseReason) {
        self.bridge = BridgeState::Gone;
        self.end(cx, refused_end(reason));
    }

    /// Takes one event of the bridge.
    pub fn handle_bridge(&mut self, cx: &mut Context, event: BridgeEvent) {
        match event {
            BridgeEvent::Leg { leg, event } => self.handle_leg(cx, leg, event),
            BridgeEvent::Digit { leg, digit, duration_ms } => {
                let words = format!("{} from {}, {duration_ms} ms", digit.as_char(), self.subject(leg));
                cx.note(&self.call_id, Step::Digit, words);
            }
            BridgeEvent::LegOpened { leg, local } => {
                let hunted = self.hunt.as_mut().map_or(Hunted::Nothing, |hunt| hunt.leg_opened(cx, leg, local));
                self.hunted(cx, hunted);
            }
            BridgeEvent::LegRefused { leg } => {
                let hunted = self.hunt.as_mut().map_or(Hunted::Nothing, |hunt| hunt.leg_refused(cx, leg));
                self.hunted(cx, hunted);
            }
            BridgeEvent::LegClosed { leg, cause: Some(_), .. } => {
                let hunted = self.hunt.as_mut().map_or(Hunted::Nothing, |hunt| hunt.leg_lost(cx, leg));
                self.hunted(cx, hunted);
            }
            BridgeEvent::LegClosed { .. } => {}
            BridgeEvent::EndDetail { text, .. } => self.end_detail = Some(text),
            BridgeEvent::Ended { end, stats } => {
                self.bridge = BridgeState::Gone;
                let detail = self.end_detail.take();
                self.learn(cx, end, detail.as_deref());
                let names = [self.subject(LegName::A), self.subject(LegName::B)];
                cx.note(&self.call_id, Step::Media, verdict::media(&stats, [&names[0], &names[1]]));
                self.end(cx, bridge_end(end, [&names[0], &names[1]], detail.as_deref()));
            }
        }
    }

    /// Takes one event of one of its SIP calls.
    pub fn handle_sip(&mut self, cx: &mut Context, call: SipCallId, event: SipEvent) {
        if let Some(hunt) = self.hunt.as_mut().filter(|hunt| hunt.owns(call)) {
            let hunted = hunt.handle_sip(cx, call, event);
            return self.hunted(cx, hunted);
        }
        let Some(index) = self.parties.iter().position(|p| p.as_ref().is_some_and(|p| p.call == Some(call))) else {
            if let (SipEvent::ReInvite { .. }, true) = (&event, self.end.is_some()) {
                cx.sip.answer_reinvite(cx.now, call, None);
            }
            return;
        };
        let Some(party) = &mut self.parties[index] else { return };
        let subject = party.subject.clone();
        match event {
            SipEvent::ReInvite { sdp, .. } if self.end.is_none() => {
                if let Some(words) = party.reinvited(cx, call, sdp.as_deref()) {
                    cx.note(&self.call_id, Step::Hold, format!("{subject}: {words}"));
                }
            }
            SipEvent::ReInvite { .. } => cx.sip.answer_reinvite(cx.now, call, None),
            SipEvent::LateAnswer { sdp, .. } if self.end.is_none() => {
                if let Err(words) = party.answered_late(cx, &sdp) {
                    let words = format!("the answer to our offer cannot be used: {words}");
                    self.end(cx, CallEnd::new(&subject, "bad_sdp", words));
                }
            }
            SipEvent::InfoDigit { digit, duration_ms, .. } => {
                let leg = party.seat.other();
                cx.note(&self.call_id, Step::Digit, format!("{digit} from {subject}, {duration_ms} ms, by INFO"));
                if let Some(digit) = Digit::from_char(digit) {
                    cx.command(BridgeCommand::SendDigit { leg, digit, duration_ms });
                }
            }
            SipEvent::TransferAsked { refer_to, referred_by, .. } => {
                self.transfer(cx, index, call, &refer_to, referred_by.as_deref());
            }
            SipEvent::ReInviteAnswered { .. } | SipEvent::ReInviteRefused { .. } if self.end.is_none() => {
                if let Some(words) = party.reoffer_over(cx, &event) {
                    cx.note(&self.call_id, Step::IcePair, format!("{subject}: {words}"));
                }
            }
            SipEvent::ByeHeaders { headers, .. } => cx.note_headers(&self.call_id, &subject, &headers),
            SipEvent::Ended { end, .. } => {
                party.call = None;
                // Who asked for a transfer may go before it is done.
                let seat = self.hunt.as_ref().map(|hunt| hunt.seat).or(self.joining);
                let is_replaced = self.answered && seat.is_some_and(|seat| seat as usize == index);
                if !is_replaced {
                    self.end(cx, CallEnd { side: subject, ..sip_end(end) });
                }
            }
            _ => {}
        }
    }

    /// Ends the call. A second end changes nothing.
    pub fn end(&mut self, cx: &mut Context, end: CallEnd) {
        if self.end.is_some() {
            return;
        }
        if let Some(mut hunt) = self.hunt.take() {
            hunt.stop(cx);
        }
        if self.bridge != BridgeState::Gone {
            cx.command(BridgeCommand::Close);
        }
        let reason = reason_header(&end);
        for (index, party) in self.parties.iter().enumerate() {
            match party.as_ref().and_then(|party| party.call) {
                Some(call) if index == 0 && !self.answered => {
                    let refusal = Refusal { reason: Some(reason.to_owned()), ..Refusal::warned(503, &end.detail) };
                    cx.sip.refuse(cx.now, call, &refusal);
                }
                Some(call) => cx.hangup(call, reason),
                None => {}
            }
        }
        self.since = cx.now;
        self.end = Some(end);
    }

    /// Call when `deadline` has come. Answers whether the call must be abandoned: something that had to end did not.
    pub fn handle_timeout(&mut self, cx: &mut Context) -> bool {
        if cx.now < self.deadline() {
            return false;
        }
        if self.end.is_some() {
            return true;
        }
        if self.bridge == BridgeState::Opening {
            let words = "the engine did not open the bridge in time";
            self.end(cx, CallEnd::new("tandem", "engine_timeout", words));
            return false;
        }
        let hunted = self.hunt.as_mut().map_or(Hunted::Nothing, |hunt| hunt.handle_timeout(cx));
        self.hunted(cx, hunted);
        false
    }

    /// When `handle_timeout` is to be called.
    pub fn deadline(&self) -> Instant {
        match (&self.end, self.bridge, &self.hunt) {
            (Some(_), ..) => self.since.plus_millis(ENDING_MS_MAX),
            (None, BridgeState::Opening, _) => self.since.plus_millis(OPEN_MS_MAX),
            (None, _, Some(hunt)) => hunt.deadline(),
            (None, _, None) => Instant::NEVER,
        }
    }

    /// Whether it has ended and the bridge is gone; its SIP calls are the edge's to count.
    pub fn is_over(&self) -> bool {
        self.end.is_some() && self.bridge == BridgeState::Gone
    }

    /// Says the last words.
    pub fn bury(&mut self, cx: &mut Context) {
        if let Some(end) = self.end.take() {
            cx.note(&self.call_id, Step::End, end.line());
        }
    }

    /// The side that one of its SIP calls is.
    pub fn side(&self, call: SipCallId) -> Option<Side> {
        if let Some(hunt) = self.hunt.as_ref().filter(|hunt| hunt.owns(call)) {
            let (subject, source) = hunt.rung(call)?;
            let (formats, transcoding) = hunt.wanted();
            let stage = match self.answered || self.joining.is_some() || self.bridge != BridgeState::Open {
                true => Stage::Busy,
                false => Stage::Ringing { formats: formats.clone(), transcoding, leg: hunt.free_leg() },
            };
            return Some(Side { seat: hunt.seat, stage, source, subject });
        }
        let index = self.parties.iter().position(|party| party.as_ref().is_some_and(|p| p.call == Some(call)))?;
        let party = self.parties[index].as_ref()?;
        let stage = match self.staying(index) {
            _ if self.end.is_some() => Stage::Over,
            _ if self.joining.is_some() || (self.answered && self.hunt.is_some()) => Stage::Busy,
            Some(staying) => Stage::Talking(staying),
            None => Stage::Calling,
        };
        Some(Side { seat: party.seat, stage, source: party.source.clone(), subject: party.subject.clone() })
    }

    /// Whether one of its calls rings, and nobody has answered yet.
    pub fn rings(&self, call: SipCallId) -> bool {
        !self.answered && self.hunt.as_ref().is_some_and(|hunt| hunt.owns(call))
    }

    /// The party of that seat is about to be replaced: it may go before that is done.
    pub fn begin_join(&mut self, seat: LegName) {
        self.joining = Some(seat);
    }

    /// Another call, or a newcomer, has taken the seat of the party.
    pub fn join(&mut self, cx: &mut Context, party: Party, codec: CodecFormat) {
        self.joining = None;
        if let Some(mut hunt) = self.hunt.take() {
            hunt.taken(cx);
            return self.callee_answered(cx, Won { party, codec, headers: Vec::new() });
        }
        let index = party.seat as usize;
        if let Some(call) = self.parties[index].as_ref().and_then(|before| before.call) {
            cx.sip.transfer_progress(cx.now, call, 200);
            cx.hangup(call, "SIP;cause=200;text=\"Transferred\"");
        }
        cx.note(
            &self.call_id,
            Step::Transfer,
            format!("{} takes the place of {}", party.subject, self.subject(party.seat)),
        );
        self.parties[index] = Some(party);
    }

    /// It came to nothing: the call goes on as it was, if both are still there.
    pub fn join_failed(&mut self, cx: &mut Context, seat: LegName, refusal: &Refusal) {
        self.joining = None;
        if self.end.is_some() {
            return;
        }
        let words = refusal.warning.clone().unwrap_or_default();
        cx.note(&self.call_id, Step::Transfer, format!("failed: {} {words}", refusal.code));
        if self.hunt.is_some() {
            return; // a newcomer that did not come; the others still ring
        }
        match self.parties[seat as usize].as_ref().and_then(|party| party.call) {
            Some(call) => cx.sip.transfer_progress(cx.now, call, refusal.code),
            None => self.end(cx, CallEnd::new("tandem", "transfer_failed", words)),
        }
    }

    /// Why it has ended, if it has.
    pub fn ended(&self) -> Option<&CallEnd> {
        self.end.as_ref()
    }

    /// The calls that are behind its sides.
    pub fn joined(&self) -> [Option<u64>; 2] {
        [0, 1].map(|index| self.parties[index].as_ref().and_then(|party| party.joined))
    }

    /// Lets go of the calls behind its sides.
    pub fn part(&mut self) -> [Option<u64>; 2] {
        let joined = self.joined();
        self.parties.iter_mut().flatten().for_each(|party| party.joined = None);
        joined
    }

    pub fn subject(&self, leg: LegName) -> String {
        let party = self.parties.get(leg as usize).and_then(Option::as_ref);
        party.map_or_else(|| "the callee".to_owned(), |party| party.subject.clone())
    }

    fn handle_leg(&mut self, cx: &mut Context, leg: LegName, event: LegEvent) {
        let subject = self.subject(leg);
        match event {
            LegEvent::PathSilent => {
                let party = self.parties.get_mut(leg as usize).and_then(Option::as_mut).filter(|_| self.end.is_none());
                if party.is_some_and(|party| party.restart_ice(cx)) {
                    let words = format!("{subject}: nothing comes from it; an ICE restart is offered");
                    cx.note(&self.call_id, Step::IcePair, words);
                }
            }
            LegEvent::IceNominated(address) => {
                if let Some(party) = self.parties.get_mut(leg as usize).and_then(Option::as_mut) {
                    party.half.path_is_good();
                }
                let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
                cx.note(&self.call_id, Step::IcePair, format!("{subject}: {family}, remote port {}", address.port()));
            }
            LegEvent::DtlsConnected { version, profile } => {
                let backend = self.backend_of(leg).cloned().unwrap_or_default();
                cx.backends.connected(cx.now, &backend);
                let version = format!("{}{}", version_name(version), backend.words());
                let words = format!("{subject}: {version}, {}", profile_name(profile));
                cx.note(&self.call_id, Step::Dtls, words);
            }
            LegEvent::FirstReceived => {
                cx.note(&self.call_id, Step::FirstPacketFromSip, subject);
                let hunted = self.hunt.as_mut().map_or(Hunted::Nothing, |hunt| hunt.media_came(cx, leg));
                self.hunted(cx, hunted);
            }
            LegEvent::FirstSent => cx.note(&self.call_id, Step::FirstPacketToSip, subject),
            LegEvent::Latched(_) | LegEvent::Ended(_) => {}
        }
    }

    /// Which library does DTLS on a leg.
    fn backend_of(&self, leg: LegName) -> Option<&Choice> {
        let party = self.parties.get(leg as usize).and_then(Option::as_ref);
        let hunted = || self.hunt.as_ref().and_then(|hunt| hunt.backend_of(leg));
        party.map(|party| &party.half.backend).or_else(hunted)
    }

    /// What the end of a leg says about the next call with its peer.
    fn learn(&mut self, cx: &mut Context, end: End, said: Option<&str>) {
        let leg = match end.side {
            error::Side::A => LegName::A,
            error::Side::B => LegName::B,
            error::Side::Engine => return,
        };
        let learned = self.backend_of(leg).and_then(|choice| cx.backends.ended(cx.now, choice, end.cause, said));
        if let Some(words) = learned {
            let words = format!("{}: the handshake failed: {words}", self.subject(leg));
            cx.note(&self.call_id, Step::Dtls, words);
        }
    }

    /// What the hunt says, of a call that comes up or of a transfer.
    fn hunted(&mut self, cx: &mut Context, hunted: Hunted) {
        match (hunted, self.answered) {
            (Hunted::Nothing, _) => {}
            (Hunted::Rings { code, early, .. }, false) => self.caller_rings(cx, code, early),
            (Hunted::Rings { code, .. }, true) => self.transfer_goes(cx, code),
            (Hunted::Won(won), false) if self.far.is_some() => self.near_answered(cx, *won),
            (Hunted::Won(won), true) if self.parties[1].is_none() => self.far_answered(cx, *won),
            (Hunted::Lost(lost), true) if self.parties[1].is_none() => self.far_lost(cx, *lost),
            (Hunted::Won(won), false) => self.callee_answered(cx, *won),
            (Hunted::Won(won), true) => self.transferred(cx, *won),
            (Hunted::Lost(lost), false) => self.nobody_answered(cx, *lost),
            (Hunted::Lost(lost), true) => self.transfer_failed(cx, &lost.refusal),
        }
    }

    fn caller_rings(&mut self, cx: &mut Context, code: u16, early: Option<CodecFormat>) {
        let offers = self.parties[0].as_ref().filter(|near| near.half.is_ours_to_offer());
        if offers.and_then(|near| near.call).is_some_and(|call| cx.sip.rings_reliably(call)) {
            return; // a reliable 18x would have to bring the offer (RFC 3262 §5), and what to offer is not known yet
        }
        let early = early.filter(|_| offers.is_none());
        let answer = early.map(|codec| self.answer_caller(cx, codec));
        let Some(near) = self.parties[0].as_ref().and_then(|near| near.call) else { return };
        match answer {
            Some(Ok(answer)) => {
                self.rung = true;
                cx.sip.ring(cx.now, near, Some(&answer));
            }
            // A caller that cannot be answered early is answered later.
            Some(Err(_)) | None if !self.rung && (180..200).contains(&code) => {
                self.rung = true;
                cx.sip.ring(cx.now, near, None);
            }
            _ => {}
        }
    }

    /// Answers the caller's offer with the codec that the callee took, or with its first where that has to be transcoded.
    fn answer_caller(&mut self, cx: &mut Context, theirs: CodecFormat) -> Result<String, Refusal> {
        if let Some(answer) = &self.answer {
            return Ok(answer.clone());
        }
        let may_transcode = self.parties.iter().flatten().all(|party| party.transcoding);
        let Some(near) = &mut self.parties[0] else { return Err(Refusal::code(500)) };
        if near.half.is_ours_to_offer() {
            near.half.prefer(theirs.codec, !may_transcode);
            let offer = near.half.offer(addresses(cx));
            self.answer = Some(offer.clone());
            return Ok(offer);
        }
        let formats = near.half.formats();
        let (codec, wishes) = match (formats.of(theirs.codec), formats.codecs.first()) {
            // Relayed: what the callee wishes to receive is for the caller to follow.
            (Some(_), _) => (theirs.codec, theirs.opus),
            (None, Some(first)) => (first.codec, OPUS_WISHES),
            (None, None) => return Err(Refusal::code(488)),
        };
        let (answer, remote) = near.half.answer(addresses(cx), codec, wishes)?;
        if codec == theirs.codec {
            near.half.fix_codec();
        }
        near.set_remote(cx, remote);
        let in_force = near.half.formats();
        if let Some(hunt) = &mut self.hunt {
            hunt.narrow(in_force);
        }
        self.answer = Some(answer.clone());
        Ok(answer)
    }

    fn callee_answered(&mut self, cx: &mut Context, won: Won) {
        self.hunt = None;
        let subject = won.party.subject.clone();
        self.parties[1] = Some(won.party);
        let answer = match self.answer_caller(cx, won.codec) {
            Ok(answer) => answer,
            Err(refusal) => {
                let words = refusal.warning.unwrap_or_default();
                return self.end(cx, CallEnd::new("tandem", "not_acceptable", words));
            }
        };
        let Some(near) = &self.parties[0] else { return };
        let ours = near.half.formats().codecs.first().map(|format| format.codec);
        let passes = if ours == Some(won.codec.codec) { "passed through" } else { "transcoded" };
        let words = format!("200 from {subject}, {}, {passes}", codec_name(won.codec.codec));
        cx.note(&self.call_id, Step::Answered, words);
        if let Some(call) = near.call {
            self.answered = true;
            cx.sip.accept(cx.now, call, &answer);
        }
    }

    fn nobody_answered(&mut self, cx: &mut Context, lost: Lost) {
        self.hunt = None;
        let words = lost.refusal.warning.clone().unwrap_or_default();
        if let Some(call) = self.parties[0].as_mut().and_then(|near| near.call.take()) {
            cx.sip.refuse(cx.now, call, &lost.refusal);
        }
        let cause = lost.end.map_or_else(|| "no_route".to_owned(), |end| sip_end(end).cause);
        self.end(cx, CallEnd::new("callee", &cause, format!("{} {words}", lost.refusal.code)));
    }

    fn transfer(&mut self, cx: &mut Context, index: usize, call: SipCallId, refer_to: &str, referred_by: Option<&str>) {
        let planned = match (&self.parties[index], self.staying(index)) {
            (Some(asking), Some(staying)) if self.hunt.is_none() && self.joining.is_none() => {
                transfer::plan(cx, asking, staying, refer_to, referred_by).map(|plan| (plan, asking.seat))
            }
            _ => Err(Refusal::warned(503, "the call cannot be transferred now")),
        };
        match planned {
            Err(refusal) => {
                let words = refusal.warning.unwrap_or_default();
                cx.note(&self.call_id, Step::Transfer, format!("refused: {words}"));
                cx.sip.transfer_progress(cx.now, call, refusal.code);
            }
            Ok(((ways, wanted), seat)) => {
                cx.note(&self.call_id, Step::Transfer, format!("asked for by {}", self.subject(seat)));
                let hunt = self.hunt.insert(Box::new(Hunt::new(&self.call_id, seat, ways, wanted)));
                let hunted = hunt.start(cx);
                self.hunted(cx, hunted);
            }
        }
    }

    /// Who stays when the party of that seat goes; nobody before the answer and after the end.
    fn staying(&self, index: usize) -> Option<Staying> {
        let staying = self.parties[1 - index].as_ref().filter(|_| self.answered && self.end.is_none())?;
        Some(Staying {
            caller: staying.caller.clone(),
            formats: staying.half.formats(),
            transcoding: staying.transcoding,
            headers: self.headers.clone(),
            subject: staying.subject.clone(),
        })
    }

    /// Whoever asked for the transfer, if it is still there.
    fn asker(&self) -> Option<SipCallId> {
        let seat = self.hunt.as_ref()?.seat;
        self.parties[seat as usize].as_ref()?.call
    }

    fn transfer_goes(&self, cx: &mut Context, code: u16) {
        if let Some(call) = self.asker() {
            cx.sip.transfer_progress(cx.now, call, code);
        }
    }

    fn transferred(&mut self, cx: &mut Context, won: Won) {
        if let Some(call) = self.asker() {
            cx.sip.transfer_progress(cx.now, call, 200);
            cx.hangup(call, "SIP;cause=200;text=\"Transferred\"");
        }
        self.hunt = None;
        cx.note(&self.call_id, Step::Transfer, format!("{} answered", won.party.subject));
        let index = won.party.seat as usize;
        self.parties[index] = Some(won.party);
    }

    fn transfer_failed(&mut self, cx: &mut Context, refusal: &Refusal) {
        let words = refusal.warning.clone().unwrap_or_default();
        cx.note(&self.call_id, Step::Transfer, format!("failed: {} {words}", refusal.code));
        let asker = self.asker();
        self.hunt = None;
        match asker {
            Some(call) => cx.sip.transfer_progress(cx.now, call, refusal.code),
            None => self.end(cx, CallEnd::new("tandem", "transfer_failed", words)),
        }
    }
}
