//! Bringing calls together: attended transfer (RFC 5589 §7, RFC 3515, RFC 3891) and INVITEs that replace a call (RFC 3891).
//!
//! ```text
//!  customer ─ call 1 ─ bob, bob ─ call 2 ─ carol          bob: REFER in call 1, Refer-To with the dialog of call 2
//!      a leg is opened in each; both describe themselves to each other, and take bob's seats
//!  customer ─ call 1 ═ call 2 ─ carol                     bob: NOTIFY 200, BYE in both
//! ```
//!
//! An INVITE that names a dialog is the same with one call: the newcomer's leg takes the seat of whom it replaces, whether that
//! one talks or still rings. Until the seats are taken nothing has changed, so whatever fails leaves every call as it was.
//!
//! Why the two calls are joined by a pair of RTP legs on the loopback address, and nobody is invited or offered anew: the one who
//! stays in the second call may be a trunk or a browser, and neither need know Replaces, nor bear a new transport under its
//! session. Both bridges stay on their workers; the price is a second bridge, one hop inside the host, and that the media ports
//! must be bound to an address that takes loopback, as they are. Payloads pass untouched where both have one codec.

use super::super::arrive;
use super::super::half::{Addresses, Half, MediaKind};
use super::super::limits::{JOIN_MS_MAX, JOINED_MAX, JOINS_MAX};
use super::super::machine::CallEnd;
use super::super::negotiate::OPUS_WISHES;
use super::super::party::{Party, addresses};
use super::super::side::{Side, Stage, meet};
use super::super::transfer::Staying;
use super::*;
use crate::sip::Replaces;
use crate::trace::redact::CallTag;
use crate::trace::timeline::Step;
use engine::bridge::{LegName, LegRemote};
use engine::leg::LocalLeg;
use engine::sdp::{Codec, CodecFormat, OpusParameters};
use std::net::Ipv4Addr;

/// Where the legs between two calls are.
const INSIDE: Addresses<'static> = Addresses { webrtc: &[], rtp: IpAddr::V4(Ipv4Addr::LOCALHOST) };

/// The leg of a join; a call that is up has no other spare ones.
const JOIN_LEG: LegName = LegName::H;

/// Two calls, or a call and a newcomer, about to be brought together.
pub(super) struct Join {
    ends: Vec<End>,
    newcomer: Option<Newcomer>,
    until: Instant,
}

/// What happens in one call.
struct End {
    number: u64,
    seat: LegName,
    leg: LegName,
    local: Option<LocalLeg>,
    /// Who sits there then.
    subject: String,
    staying: Option<Staying>,
}

/// An INVITE that replaces a call.
struct Newcomer {
    call: SipCallId,
    replaced: SipCallId,
    /// The one who is replaced has not answered yet.
    rings: bool,
    party: Party,
    codec: Codec,
    wishes: OpusParameters,
}

impl Edge {
    /// A transfer to somebody who is in a call with the one who asks. Answers the event where it is to be served as a blind
    /// transfer: the other call has not been answered yet.
    pub(super) fn attend(&mut self, now: Instant, number: u64, event: SipEvent) -> Option<SipEvent> {
        let SipEvent::TransferAsked { call, refer_to, replaces: Some(replaces), referred_by } = event else {
            return Some(event);
        };
        let blind = SipEvent::TransferAsked { call, refer_to, replaces: None, referred_by };
        match self.begin_attended(now, number, call, &replaces) {
            Ok(true) => None,
            Ok(false) => Some(blind),
            Err(refusal) => {
                let words = refusal.warning.as_deref().unwrap_or_default();
                self.note(now, number, Step::Transfer, format!("refused: {words}"));
                self.sip.transfer_progress(now, call, refusal.code);
                None
            }
        }
    }

    fn begin_attended(
        &mut self,
        now: Instant,
        number: u64,
        call: SipCallId,
        replaces: &Replaces,
    ) -> Result<bool, Refusal> {
        let unknown = || Refusal::warned(481, "the call that is to be replaced is not there");
        let consulted = self.sip.named(replaces).ok_or_else(unknown)?;
        let other = self.calls.owner(consulted).ok_or_else(unknown)?;
        let (near, far) = (self.side(number, call), self.side(other, consulted).ok_or_else(unknown)?);
        let Some(Side { stage: Stage::Talking(staying), seat, source: Some(source), subject }) = near else {
            return Err(Refusal::warned(503, "the call cannot be transferred now"));
        };
        if far.source != Some(source) {
            return Err(Refusal::warned(403, "the call that is to be replaced is somebody else's"));
        }
        let target = match far.stage {
            Stage::Talking(_) if replaces.early_only => return Err(Refusal::warned(486, "it has been answered")),
            Stage::Talking(target) => target,
            Stage::Calling if number != other => {
                // The one who asks does not wait for the answer: the call is placed again, in its stead.
                let end = CallEnd::new("tandem", "transferred", format!("{subject} transfers without waiting"));
                self.with(now, other, |talk, cx| talk.end(cx, end));
                return Ok(false);
            }
            Stage::Over => return Err(unknown()),
            Stage::Calling | Stage::Ringing { .. } | Stage::Busy => {
                return Err(Refusal::warned(503, "the other call cannot be joined now"));
            }
        };
        self.may_join(number, other)?;
        let formats = meet(&staying, &target)?;
        let words = format!("asked for by {subject}: {} and {} are joined", staying.subject, target.subject);
        for (number, other) in [(number, other), (other, number)] {
            let behind = self.sessions.get(&other).map(|entered| CallTag(entered.talk.call_id()).to_string());
            let words = format!("{words}; the other call is {}", behind.unwrap_or_default());
            self.note(now, number, Step::Transfer, words);
        }
        let subjects = [target.subject.clone(), staying.subject.clone()];
        let stay = [(number, seat, target), (other, far.seat, staying)];
        let mut ends = Vec::new();
        for ((number, seat, behind), subject) in stay.into_iter().zip(subjects) {
            // What sits on the seat is the other call: its format is the one on which both meet.
            let behind = Staying { formats: formats.clone(), ..behind };
            ends.push(End { number, seat, leg: JOIN_LEG, local: None, subject, staying: Some(behind) });
        }
        let half = Half::outgoing(MediaKind::Rtp, formats, &mut self.random);
        for (number, seat) in ends.iter().map(|end| (end.number, end.seat)).collect::<Vec<_>>() {
            let config = Box::new(half.config());
            self.with(now, number, |talk, cx| {
                talk.begin_join(seat);
                cx.command(BridgeCommand::OpenLeg { leg: JOIN_LEG, config });
            });
        }
        self.joins.push(Join { ends, newcomer: None, until: now.plus_millis(JOIN_MS_MAX) });
        Ok(true)
    }

    /// Two calls that are behind one another already would be left with nobody, and a row of calls ends somewhere.
    fn may_join(&self, number: u64, other: u64) -> Result<(), Refusal> {
        if self.joins.len() >= JOINS_MAX {
            return Err(Refusal::warned(503, "too many calls are being joined"));
        }
        let row = self.row(number);
        if row.contains(&other) {
            return Err(Refusal::warned(403, "the two calls are one"));
        }
        match row.len() + self.row(other).len() > JOINED_MAX {
            true => Err(Refusal::warned(503, "too many transfers in a row")),
            false => Ok(()),
        }
    }

    /// A call and all that are joined with it, one behind the other.
    fn row(&self, number: u64) -> Vec<u64> {
        let mut row = vec![number];
        let mut at = 0;
        while let Some(entered) = row.get(at).and_then(|number| self.sessions.get(number)) {
            let behind = entered.talk.joined();
            row.extend(behind.into_iter().flatten().filter(|next| !row.contains(next)).collect::<Vec<_>>());
            at += 1;
        }
        row
    }

    /// A call that is to take the place of one that is here (RFC 3891 §3; the agent has seen to its rules).
    pub(super) fn arrive_instead(
        &mut self,
        now: Instant,
        call: SipCallId,
        from: &str,
        sdp: Option<&str>,
        arrival: &Arrival,
        replaced: SipCallId,
    ) -> Result<(), Refusal> {
        let unknown = || Refusal::warned(481, "the call that is to be replaced is not there");
        let number = self.calls.owner(replaced).ok_or_else(unknown)?;
        let side = self.side(number, replaced).ok_or_else(unknown)?;
        let worker = self.sessions.get(&number).map_or(0, |entered| entered.worker);
        let caller = arrive::caller(&self.context(now, number, worker), from, arrival)?;
        if side.source != Some(caller.source.clone()) {
            return Err(Refusal::warned(403, "the call that is to be replaced is somebody else's"));
        }
        if self.joins.len() >= JOINS_MAX {
            return Err(Refusal::warned(503, "too many calls are being joined"));
        }
        let (formats, transcoding, leg, rings) = match side.stage {
            Stage::Talking(staying) => (staying.formats, staying.transcoding, JOIN_LEG, false),
            Stage::Ringing { formats, transcoding, leg: Some(leg) } => (formats, transcoding, leg, true),
            Stage::Over => return Err(Refusal::code(603)),
            Stage::Calling => return Err(unknown()),
            Stage::Ringing { leg: None, .. } | Stage::Busy => {
                return Err(Refusal::warned(480, "the call cannot be replaced now"));
            }
        };
        let half = match sdp {
            Some(sdp) => Half::incoming(sdp, &mut self.random)?,
            None => arrive::offering(&mut self.context(now, number, worker), caller.trunk, arrival),
        };
        let (half, codec, wishes) = fitted(half, &formats.codecs, transcoding && caller.transcoding)?;
        let config = Box::new(half.config());
        let user = match &caller.source {
            Source::User(name) => Some(name.clone()),
            Source::Trunk(_) | Source::Whatsapp => None,
        };
        let party = Party {
            seat: side.seat,
            call: Some(call),
            joined: None,
            half,
            subject: caller.subject.clone(),
            caller: caller.caller,
            source: Some(caller.source),
            transcoding: caller.transcoding,
            held: false,
        };
        if let Some(trunk) = caller.trunk {
            self.load.begin(trunk);
        }
        self.calls.insert(call, number, caller.trunk, user.as_deref());
        let (seat, subject) = (side.seat, caller.subject);
        self.with(now, number, |talk, cx| {
            talk.begin_join(seat);
            cx.command(BridgeCommand::OpenLeg { leg, config });
        });
        let newcomer = Some(Newcomer { call, replaced, rings, party, codec, wishes });
        let ends = vec![End { number, seat, leg, local: None, subject, staying: None }];
        self.joins.push(Join { ends, newcomer, until: now.plus_millis(JOIN_MS_MAX) });
        Ok(())
    }

    /// Takes the event of a bridge if it is about the leg of a join.
    pub(super) fn join_heard(&mut self, now: Instant, number: u64, event: &BridgeEvent) -> bool {
        let (leg, local) = match event {
            BridgeEvent::LegOpened { leg, local } => (*leg, Some(local.clone())),
            BridgeEvent::LegRefused { leg } => (*leg, None),
            _ => return false,
        };
        let is_it = |end: &End| end.number == number && end.leg == leg && end.local.is_none();
        let Some(at) = self.joins.iter().position(|join| join.ends.iter().any(is_it)) else { return false };
        let Some(end) = self.joins[at].ends.iter_mut().find(|end| is_it(end)) else { return false };
        match local {
            Some(local) => end.local = Some(local),
            None => {
                // There is no such leg to be closed.
                self.abandon_join(now, at, Some(number), &Refusal::warned(503, "no media port or socket is free"));
                return true;
            }
        }
        if self.joins[at].ends.iter().all(|end| end.local.is_some()) {
            let join = self.joins.swap_remove(at);
            self.complete(now, join);
        }
        true
    }

    fn complete(&mut self, now: Instant, join: Join) {
        match join.newcomer {
            Some(newcomer) => self.seat_newcomer(now, join.ends, newcomer),
            None => self.seat_each_other(now, join.ends),
        }
    }

    fn seat_each_other(&mut self, now: Instant, ends: Vec<End>) {
        let Some(described) = self.describe(&ends) else {
            let at = self.joins.len();
            self.joins.push(Join { ends, newcomer: None, until: now });
            return self.abandon_join(
                now,
                at,
                None,
                &Refusal::warned(500, "the two legs do not understand each other"),
            );
        };
        let numbers: Vec<u64> = ends.iter().rev().map(|end| end.number).collect();
        for ((end, (half, remote, codec)), other) in ends.into_iter().zip(described).zip(numbers) {
            let End { number, seat, leg, subject, staying: Some(staying), .. } = end else { continue };
            let party = Party {
                seat,
                call: None,
                joined: Some(other),
                half,
                subject,
                caller: staying.caller,
                source: None,
                transcoding: staying.transcoding,
                held: false,
            };
            self.with(now, number, |talk, cx| {
                cx.command(BridgeCommand::SetRemote { leg, remote: Box::new(remote) });
                cx.command(BridgeCommand::SeatLeg { leg, seat });
                // The other call counts as gone when nothing comes from this one.
                cx.command(BridgeCommand::Comfort { leg: seat });
                talk.join(cx, party, codec);
            });
        }
    }

    /// What the two legs are told about each other, by an offer and an answer that nobody else sees.
    fn describe(&mut self, ends: &[End]) -> Option<[(Half, LegRemote, CodecFormat); 2]> {
        let [first, second] = ends else { return None };
        let formats = first.staying.as_ref()?.formats.clone();
        let mut offering = Half::outgoing(MediaKind::Rtp, formats, &mut self.random);
        offering.opened(first.local.clone()?).then_some(())?;
        let offer = offering.offer(INSIDE);
        let mut answering = Half::incoming(&offer, &mut self.random).ok()?;
        answering.opened(second.local.clone()?).then_some(())?;
        let codec = *answering.formats().codecs.first()?;
        let (answer, offerer) = answering.answer(INSIDE, codec.codec, codec.opus).ok()?;
        let (answerer, taken) = offering.read_answer(&answer).ok()?;
        Some([(offering, answerer, taken), (answering, offerer, codec)])
    }

    fn seat_newcomer(&mut self, now: Instant, mut ends: Vec<End>, newcomer: Newcomer) {
        let Newcomer { call, replaced, rings, mut party, codec, wishes } = newcomer;
        let Some(End { number, seat, leg, local: Some(local), .. }) = ends.pop() else { return };
        let mut refused = None;
        self.with(now, number, |talk, cx| {
            let answered = match () {
                // Somebody has answered meanwhile.
                () if rings && !talk.rings(replaced) => Err(Refusal::warned(486, "it has been answered")),
                () if !party.half.opened(local) => Err(Refusal::code(500)),
                // Its answer comes in the ACK.
                () if party.half.is_ours_to_offer() => Ok((party.half.offer(addresses(cx)), None)),
                () => party.half.answer(addresses(cx), codec, wishes).map(|(answer, remote)| (answer, Some(remote))),
            };
            match answered {
                Ok((answer, remote)) => {
                    let taken = party.half.formats().codecs.first().copied();
                    if let Some(remote) = remote {
                        cx.command(BridgeCommand::SetRemote { leg, remote: Box::new(remote) });
                    }
                    cx.command(BridgeCommand::SeatLeg { leg, seat });
                    cx.command(BridgeCommand::Comfort { leg: seat });
                    if let Some(taken) = taken {
                        talk.join(cx, party, taken);
                    }
                    cx.sip.accept(cx.now, call, &answer);
                }
                Err(refusal) => {
                    cx.command(BridgeCommand::CloseLeg { leg });
                    talk.join_failed(cx, seat, &refusal);
                    refused = Some(refusal);
                }
            }
        });
        if let Some(refusal) = refused {
            self.sip.refuse(now, call, &refusal);
        }
    }

    /// Gives a join up: its legs are closed, but for that of `without`, and every call is as it was.
    fn abandon_join(&mut self, now: Instant, at: usize, without: Option<u64>, refusal: &Refusal) {
        let Join { ends, newcomer, .. } = self.joins.swap_remove(at);
        for End { number, seat, leg, .. } in ends {
            self.with(now, number, |talk, cx| {
                if without != Some(number) && talk.ended().is_none() {
                    cx.command(BridgeCommand::CloseLeg { leg });
                }
                talk.join_failed(cx, seat, refusal);
            });
        }
        if let Some(newcomer) = newcomer {
            self.sip.refuse(now, newcomer.call, refusal);
        }
    }

    /// A SIP call is over: if it was a newcomer's, it takes nobody's place.
    pub(super) fn newcomer_left(&mut self, now: Instant, call: SipCallId) {
        let is_it = |join: &Join| join.newcomer.as_ref().is_some_and(|newcomer| newcomer.call == call);
        if let Some(at) = self.joins.iter().position(is_it) {
            self.abandon_join(now, at, None, &Refusal::warned(487, "the caller gave up"));
        }
    }

    /// A call has ended: so do those that are joined with it, and what was to be joined with it stays as it is.
    pub(super) fn part(&mut self, now: Instant, number: u64) {
        let Some(entered) = self.sessions.get_mut(&number) else { return };
        let Some(end) = entered.talk.ended().cloned() else { return };
        for other in entered.talk.part().into_iter().flatten() {
            let end = end.clone();
            self.with(now, other, |talk, cx| talk.end(cx, end));
        }
        while let Some(at) = self.joins.iter().position(|join| join.ends.iter().any(|end| end.number == number)) {
            self.abandon_join(now, at, Some(number), &Refusal::warned(481, "the other call has ended"));
        }
    }

    /// When `joins_timeout` has something to do.
    pub(super) fn joins_deadline(&self) -> Instant {
        self.joins.iter().map(|join| join.until).min().unwrap_or(Instant::NEVER)
    }

    /// Gives up what the engine did not open in time.
    pub(super) fn joins_timeout(&mut self, now: Instant) {
        while let Some(at) = self.joins.iter().position(|join| join.until <= now) {
            self.abandon_join(now, at, None, &Refusal::warned(503, "the engine did not open the legs in time"));
        }
    }

    fn side(&self, number: u64, call: SipCallId) -> Option<Side> {
        self.sessions.get(&number)?.talk.side(call)
    }

    fn note(&mut self, now: Instant, number: u64, step: Step, words: String) {
        self.with(now, number, |talk, cx| {
            let call_id = talk.call_id().to_owned();
            cx.note(&call_id, step, words);
        });
    }
}

/// A newcomer's half with the codec that it gets, and what it may send us: one of those that the other side takes, or its own first
/// where that may be transcoded.
fn fitted(mut half: Half, theirs: &[CodecFormat], transcoding: bool) -> Result<(Half, Codec, OpusParameters), Refusal> {
    let formats = half.formats();
    let both = theirs.iter().find(|format| formats.of(format.codec).is_some());
    let (codec, wishes) = match (both, formats.codecs.first()) {
        (Some(format), _) => (format.codec, format.opus),
        (None, Some(first)) if transcoding => (first.codec, OPUS_WISHES),
        _ => return Err(Refusal::warned(488, "no codec in common, and transcoding is off")),
    };
    match half.is_ours_to_offer() {
        true => half.prefer(codec, !transcoding),
        false if !transcoding => half.fix_codec(),
        false => {}
    }
    Ok((half, codec, wishes))
}
