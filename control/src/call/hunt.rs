//! Finding somebody who answers: destinations one after the other, all devices of one at once.
//!
//! ```text
//!  ways: trunk a, trunk b, group support
//!          │ next way: one attempt per device (a leg and an offer each), at most as many as there are legs
//!          ▼
//!   attempts ──18x──► rings     ──2xx──► the first wins, its leg takes the seat; the others are cancelled
//!          └──refused, silent, no codec──► the last one gone: next way, or lost, with every reason in words
//! ```
//!
//! Every attempt has a leg and keys of its own. The first way's first attempt uses the leg that the bridge was opened with.
//!
//! Why not one leg for all devices: their ICE checks and handshakes would meet on one socket, and a device that answers a
//! moment too late could take the address from the one that won.

mod whatsapp;

use super::backends::{Choice, Peer};
use super::context::Context;
use super::edge::Route;
use super::half::{Formats, Half, MediaKind};
use super::limits::{HUNT_GRACE_MS, HUNT_WAYS_MAX, USER_RING_MS_MAX};
use super::party::{Party, addresses};
use crate::registrar::Binding;
use crate::route::{Caller, Destination, Source, TrunkId};
use crate::sip::gatekeeper::Refusal;
use crate::sip::{Invite, SipCallId, SipEnd, SipEvent};
use crate::trace::timeline::Step;
use engine::bridge::{BridgeCommand, LegConfig, LegName, LegRemote};
use engine::leg::LocalLeg;
use engine::sdp::{Codec, CodecFormat};
use engine::time::Instant;
use std::collections::VecDeque;

/// Codecs of devices and bots, in our order of preference where theirs is unknown.
pub(super) const DEVICE_CODECS: [Codec; 3] = [Codec::Opus, Codec::Pcmu, Codec::Pcma];
const ROUTE_CODECS: [Codec; 2] = [Codec::Pcmu, Codec::Pcma];

/// Why the others are cancelled: their users have missed nothing (RFC 3326 §2).
const ELSEWHERE: &str = "SIP;cause=200;text=\"Call completed elsewhere\"";
const GIVEN_UP: &str = "Q.850;cause=16;text=\"Normal call clearing\"";

/// One way to go.
#[derive(Clone)]
pub(super) enum Way {
    /// By the dial plan.
    To(Destination),
    /// A SIP URI with its own proxy and credentials.
    Route(Box<Route>),
}

/// On whose behalf somebody is called.
#[derive(Clone)]
pub(super) struct Wanted {
    /// The number or name that was asked for.
    pub dialed: String,
    pub caller: Caller,
    /// What the far side can take: the codec in force, if there is one.
    pub formats: Formats,
    /// Whether the far side's trunk lets its calls be transcoded.
    pub transcoding: bool,
    /// Passed on in every INVITE.
    pub headers: Vec<(String, String)>,
    pub max_forwards: Option<u8>,
    /// Whether media of a 18x is carried.
    pub early_media: bool,
    /// Nobody rings longer than until then.
    pub until: Instant,
}

/// What came of an event.
pub(super) enum Hunted {
    Nothing,
    /// Somebody rings; the codec of early media, if it flows from now on.
    Rings {
        code: u16,
        sdp: bool,
        early: Option<CodecFormat>,
    },
    Won(Box<Won>),
    Lost(Box<Lost>),
}

/// Somebody has answered, and sits on the seat.
pub(super) struct Won {
    pub party: Party,
    /// With the peer's number and wishes.
    pub codec: CodecFormat,
    /// `X-` headers of its answer.
    pub headers: Vec<(String, String)>,
}

/// Nobody has.
pub(super) struct Lost {
    /// For whoever asked.
    pub refusal: Refusal,
    /// How the most telling attempt ended.
    pub end: Option<SipEnd>,
}

/// The hunt.
pub(super) struct Hunt {
    call_id: String,
    /// Who wins sits here.
    pub seat: LegName,
    ways: VecDeque<Way>,
    wanted: Wanted,
    attempts: Vec<Attempt>,
    failures: Vec<Failure>,
    /// A way whose callee refused the codecs that pass untouched: it is tried once more with all that can be transcoded.
    again: Option<Way>,
    wide: bool,
}

struct Attempt {
    leg: LegName,
    way: Way,
    target: Target,
    half: Half,
    /// `None` until the leg is there.
    call: Option<SipCallId>,
    rang: bool,
    /// WhatsApp has described its media, and took this codec; the user has not picked up.
    described: Option<CodecFormat>,
}

/// Somebody to be called.
struct Target {
    subject: String,
    trunk: Option<TrunkId>,
    user: Option<String>,
    kind: MediaKind,
    /// Which library does DTLS.
    backend: Choice,
    formats: Formats,
    /// More could be offered, to be transcoded.
    narrow: bool,
    transcoding: bool,
    invite: Invite,
    /// Called through Graph and not by `invite`.
    whatsapp: Option<whatsapp::Dialling>,
}

struct Failure {
    code: u16,
    words: String,
    end: Option<SipEnd>,
}

impl Hunt {
    /// A hunt that has not begun.
    pub fn new(call_id: &str, seat: LegName, ways: impl IntoIterator<Item = Way>, wanted: Wanted) -> Hunt {
        Hunt {
            call_id: call_id.to_owned(),
            seat,
            ways: ways.into_iter().take(HUNT_WAYS_MAX).collect(),
            wanted,
            attempts: Vec::new(),
            failures: Vec::new(),
            again: None,
            wide: false,
        }
    }

    /// Plans the first way that leads to somebody, and answers the leg that the bridge is to be opened with.
    pub fn first(&mut self, cx: &mut Context) -> Result<LegConfig, Box<Lost>> {
        while let Some(way) = self.ways.pop_front() {
            let legs = std::iter::once(self.seat).chain(LegName::ALL.into_iter().filter(|leg| leg.is_spare()));
            self.plan(cx, &way, legs);
            if let Some(first) = self.attempts.first() {
                return Ok(first.half.config());
            }
        }
        Err(Box::new(self.lost()))
    }

    /// The bridge is open: calls whoever the first way names.
    pub fn begin(&mut self, cx: &mut Context, local: LocalLeg) -> Hunted {
        self.open_spares(cx);
        self.leg_opened(cx, self.seat, local)
    }

    /// Begins in a call that is up; every attempt gets a leg beside the two that talk.
    pub fn start(&mut self, cx: &mut Context) -> Hunted {
        self.next_way(cx)
    }

    /// A leg of an attempt is there: its call can go out.
    pub fn leg_opened(&mut self, cx: &mut Context, leg: LegName, local: LocalLeg) -> Hunted {
        let Some(index) = self.attempts.iter().position(|attempt| attempt.leg == leg && attempt.call.is_none()) else {
            return Hunted::Nothing;
        };
        let attempt = &mut self.attempts[index];
        if !attempt.half.opened(local) {
            return self.failed(cx, index, 500, "the engine opened a leg of another kind".to_owned(), None);
        }
        let offer = attempt.half.offer(addresses(cx));
        if let Some(dialling) = attempt.target.whatsapp.clone() {
            let call = self.dial(cx, &self.attempts[index].target, dialling, offer);
            self.attempts[index].call = Some(call);
            return Hunted::Nothing;
        }
        let left_ms = self.wanted.until.since(cx.now).as_millis() as u64;
        let mut invite = Invite { sdp: offer, ..attempt.target.invite.clone() };
        invite.ring_ms_max = invite.ring_ms_max.min(left_ms).max(1);
        attempt.call = Some(cx.invite(invite, attempt.target.trunk, attempt.target.user.as_deref()));
        Hunted::Nothing
    }

    /// The engine has no such leg.
    pub fn leg_refused(&mut self, cx: &mut Context, leg: LegName) -> Hunted {
        match self.attempts.iter().position(|attempt| attempt.leg == leg && attempt.call.is_none()) {
            Some(index) => self.failed(cx, index, 503, "no media port or socket is free".to_owned(), None),
            None => Hunted::Nothing,
        }
    }

    /// Whether a SIP call is one of the hunt's.
    pub fn owns(&self, call: SipCallId) -> bool {
        self.attempts.iter().any(|attempt| attempt.call == Some(call))
    }

    /// Which library does DTLS on an attempt's leg.
    pub fn backend_of(&self, leg: LegName) -> Option<&Choice> {
        self.attempts.iter().find(|attempt| attempt.leg == leg).map(|attempt| &attempt.half.backend)
    }

    /// Takes an event of one of its calls.
    pub fn handle_sip(&mut self, cx: &mut Context, call: SipCallId, event: SipEvent) -> Hunted {
        let Some(index) = self.attempts.iter().position(|attempt| attempt.call == Some(call)) else {
            return Hunted::Nothing;
        };
        let subject = self.attempts[index].target.subject.clone();
        match event {
            SipEvent::InviteSent { .. } => self.note(cx, Step::Invite, format!("INVITE sent to {subject}")),
            SipEvent::Challenged { code, .. } => self.note(cx, Step::Challenge, format!("{code} from {subject}")),
            SipEvent::Provisional { sdp: Some(sdp), .. } if self.attempts[index].target.whatsapp.is_some() => {
                return self.described(cx, index, &sdp);
            }
            SipEvent::Provisional { code, sdp, .. } => return self.rings(cx, index, code, sdp),
            SipEvent::Answered { .. } if self.attempts[index].target.whatsapp.is_some() => {
                return self.picked_up(cx, index);
            }
            SipEvent::Answered { sdp, headers, .. } => return self.answered(cx, index, &sdp, headers),
            SipEvent::Ended { end, .. } => {
                let (code, words) = failure(&end, self.attempts[index].rang);
                return self.failed(cx, index, code, words, Some(end));
            }
            _ => {}
        }
        Hunted::Nothing
    }

    /// When `handle_timeout` is to be called.
    pub fn deadline(&self) -> Instant {
        self.wanted.until.plus_millis(HUNT_GRACE_MS)
    }

    /// Nobody has answered in time.
    pub fn handle_timeout(&mut self, cx: &mut Context) -> Hunted {
        if cx.now < self.deadline() {
            return Hunted::Nothing;
        }
        self.failures.push(Failure {
            code: 480,
            words: "nobody answered in time".to_owned(),
            end: Some(SipEnd::TimedOut),
        });
        self.ways.clear();
        self.again = None;
        self.stop(cx);
        Hunted::Lost(Box::new(self.lost()))
    }

    /// Whose device a call of the hunt rings, for people and for who may take it over.
    pub fn rung(&self, call: SipCallId) -> Option<(String, Option<Source>)> {
        let attempt = self.attempts.iter().find(|attempt| attempt.call == Some(call))?;
        let Target { subject, trunk, user, .. } = &attempt.target;
        Some((subject.clone(), trunk.map(Source::Trunk).or(user.clone().map(Source::User))))
    }

    /// What the one who waits can take, and whether that may be transcoded.
    pub fn wanted(&self) -> (&Formats, bool) {
        (&self.wanted.formats, self.wanted.transcoding)
    }

    /// A spare leg that no device has.
    pub fn free_leg(&self) -> Option<LegName> {
        let is_free = |leg: &LegName| leg.is_spare() && self.attempts.iter().all(|attempt| attempt.leg != *leg);
        LegName::ALL.into_iter().rev().find(is_free)
    }

    /// Somebody takes the call who was not asked (RFC 3891): its leg sits on the seat already. Nobody else rings any more.
    pub fn taken(&mut self, cx: &mut Context) {
        self.drop_attempts(cx, ELSEWHERE);
        self.ways.clear();
    }

    /// Cancels every attempt.
    pub fn stop(&mut self, cx: &mut Context) {
        self.drop_attempts(cx, GIVEN_UP);
    }

    fn note(&self, cx: &mut Context, step: Step, detail: String) {
        cx.note(&self.call_id, step, detail);
    }

    fn drop_attempts(&mut self, cx: &mut Context, reason: &str) {
        for attempt in std::mem::take(&mut self.attempts) {
            self.drop_attempt(cx, &attempt, reason);
        }
    }

    fn drop_attempt(&self, cx: &mut Context, attempt: &Attempt, reason: &str) {
        if let Some(call) = attempt.call {
            cx.hangup(call, reason);
        }
        if attempt.leg != self.seat {
            cx.command(BridgeCommand::CloseLeg { leg: attempt.leg });
        }
    }

    fn rings(&mut self, cx: &mut Context, index: usize, code: u16, sdp: Option<String>) -> Hunted {
        let is_alone = self.attempts.len() == 1;
        let attempt = &mut self.attempts[index];
        attempt.rang = true;
        let detail = format!("{code}{} from {}", if sdp.is_some() { " with SDP" } else { "" }, attempt.target.subject);
        let mut early = None;
        if let (Some(sdp), true, true) = (&sdp, is_alone, self.wanted.early_media)
            && let Ok((remote, codec)) = attempt.half.read_answer(sdp)
        {
            let leg = std::mem::replace(&mut attempt.leg, self.seat);
            cx.command(BridgeCommand::SetRemote { leg, remote: Box::new(remote) });
            if leg != self.seat {
                cx.command(BridgeCommand::SeatLeg { leg, seat: self.seat });
            }
            early = Some(codec);
        }
        self.note(cx, Step::Ringing, detail);
        Hunted::Rings { code, sdp: sdp.is_some(), early }
    }

    /// The near side has been answered already (early media): whoever comes next must fit.
    pub fn narrow(&mut self, formats: Formats) {
        self.wanted.formats = formats;
    }

    /// The first answer wins; the others are cancelled, and a 2xx of theirs that crosses gets ACK and BYE.
    fn answered(&mut self, cx: &mut Context, index: usize, sdp: &str, headers: Vec<(String, String)>) -> Hunted {
        let (remote, codec) = match self.attempts[index].half.read_answer(sdp) {
            Ok(read) => read,
            Err(fault) => {
                if let Some(call) = self.attempts[index].call {
                    cx.hangup(call, "SIP;cause=488;text=\"Not Acceptable Here\"");
                }
                return self.failed(cx, index, 488, fault, Some(SipEnd::ProtocolError));
            }
        };
        self.won(cx, index, Some(remote), codec, headers)
    }

    /// `remote`: what its leg must know yet.
    fn won(
        &mut self,
        cx: &mut Context,
        index: usize,
        remote: Option<LegRemote>,
        codec: CodecFormat,
        headers: Vec<(String, String)>,
    ) -> Hunted {
        let winner = self.attempts.swap_remove(index);
        self.drop_attempts(cx, ELSEWHERE);
        self.ways.clear();
        if let Some(remote) = remote {
            cx.command(BridgeCommand::SetRemote { leg: winner.leg, remote: Box::new(remote) });
        }
        if winner.leg != self.seat {
            cx.command(BridgeCommand::SeatLeg { leg: winner.leg, seat: self.seat });
        }
        if let Some(trunk) = winner.target.trunk {
            cx.load.answered(trunk);
        }
        let Target { subject, trunk, user, transcoding, .. } = winner.target;
        let source = trunk.map(Source::Trunk).or(user.clone().map(Source::User));
        let caller = match &user {
            Some(user) => cx.gate.routes.caller_of_user(user),
            None => Caller { user: self.wanted.dialed.clone(), display: None },
        };
        let mut half = winner.half;
        if !(transcoding && self.wanted.transcoding) {
            half.fix_codec();
        }
        let call = winner.call;
        let seat = self.seat;
        let party = Party { seat, call, joined: None, half, subject, caller, source, transcoding, held: false };
        Hunted::Won(Box::new(Won { party, codec, headers }))
    }

    fn failed(&mut self, cx: &mut Context, index: usize, code: u16, words: String, end: Option<SipEnd>) -> Hunted {
        let attempt = self.attempts.swap_remove(index);
        if attempt.leg != self.seat {
            cx.command(BridgeCommand::CloseLeg { leg: attempt.leg });
        }
        let says_nothing = matches!(code, 500..=599) || (code == 408 && !attempt.rang);
        if let (Some(trunk), true) = (attempt.target.trunk, says_nothing) {
            cx.load.failed(cx.now, trunk);
        }
        if attempt.target.narrow && matches!(code, 415 | 488) {
            self.again = Some(attempt.way.clone());
        }
        let goes_on = match attempt.target.whatsapp {
            Some(_) => whatsapp::goes_on(attempt.rang, code),
            None => goes_on(attempt.target.trunk.is_some(), code),
        };
        self.failures.push(Failure { code, words: format!("{}: {words}", attempt.target.subject), end });
        if !goes_on {
            self.ways.clear();
        }
        match (self.attempts.is_empty(), code >= 600) {
            (true, _) => self.next_way(cx),
            // A device that declines for everybody (RFC 3261 §21.6).
            (false, true) => {
                self.stop(cx);
                Hunted::Lost(Box::new(self.lost()))
            }
            (false, false) => Hunted::Nothing,
        }
    }

    fn next_way(&mut self, cx: &mut Context) -> Hunted {
        if let Some(way) = self.again.take() {
            self.wide = true;
            self.ways.push_front(way);
        }
        while let Some(way) = self.ways.pop_front() {
            if let Some(failure) = self.failures.last() {
                let words = failure.words.clone();
                self.note(cx, Step::Failover, words);
            }
            self.plan(cx, &way, LegName::ALL.into_iter().filter(|leg| leg.is_spare()));
            self.open_spares(cx);
            if !self.attempts.is_empty() {
                return Hunted::Nothing;
            }
        }
        Hunted::Lost(Box::new(self.lost()))
    }

    fn open_spares(&self, cx: &mut Context) {
        for attempt in self.attempts.iter().filter(|attempt| attempt.leg != self.seat && attempt.call.is_none()) {
            cx.command(BridgeCommand::OpenLeg { leg: attempt.leg, config: Box::new(attempt.half.config()) });
        }
    }

    /// One attempt per target of a way, as far as there are legs.
    fn plan(&mut self, cx: &mut Context, way: &Way, legs: impl Iterator<Item = LegName>) {
        let targets = match self.targets(cx, way) {
            Ok(targets) => targets,
            Err((code, words)) => return self.failures.push(Failure { code, words, end: None }),
        };
        let count = targets.len();
        for (leg, target) in legs.zip(targets) {
            let (kind, formats) = (target.kind, target.formats.clone());
            let mut half = match target.whatsapp {
                Some(_) => Half::toward_whatsapp(formats, cx.random),
                None => Half::outgoing(kind, formats, cx.random),
            };
            half.backend = target.backend.clone();
            let (way, call, rang, described) = (way.clone(), None, false, None);
            self.attempts.push(Attempt { leg, way, target, half, call, rang, described });
        }
        if count > self.attempts.len() {
            tracing::warn!(devices = count, rung = self.attempts.len(), "more devices than can ring at once");
        }
    }

    fn targets(&self, cx: &Context, way: &Way) -> Result<Vec<Target>, (u16, String)> {
        let plan = &cx.gate.routes;
        match way {
            Way::Route(route) => Ok(vec![self.route_target(route)?]),
            Way::To(Destination::Trunk(id)) => Ok(vec![self.trunk_target(cx, *id)?]),
            Way::To(Destination::User(name)) => self.device_targets(cx, std::slice::from_ref(name)),
            Way::To(Destination::Group(name)) => match plan.groups.get(name) {
                Some(group) => self.device_targets(cx, &group.users),
                None => Err((404, format!("there is no group {name}"))),
            },
            Way::To(Destination::Uri(uri)) => {
                let default = cx.config.default_route.clone();
                let route = default.map_or_else(|| Route::new(uri), |route| Route { target: uri.clone(), ..route });
                Ok(vec![self.route_target(&route)?])
            }
        }
    }

    fn route_target(&self, route: &Route) -> Result<Target, (u16, String)> {
        let offered = self.formats(&ROUTE_CODECS, self.wanted.transcoding);
        let (formats, narrow) = offered.map_err(|words| (488, words))?;
        let invite = Invite {
            target: route.target.clone(),
            proxy: route.proxy.clone(),
            from_display: self.wanted.caller.display.clone(),
            from_user: self.wanted.caller.user.clone(),
            from_host: route.from_host.clone(),
            headers: self.headers(&route.headers),
            credentials: route.credentials.clone(),
            max_forwards: self.wanted.max_forwards,
            ring_ms_max: u64::MAX,
            ..Invite::default()
        };
        Ok(Target {
            subject: "the SIP target".to_owned(),
            trunk: None,
            user: None,
            kind: MediaKind::Rtp,
            backend: Choice::default(),
            formats,
            narrow,
            transcoding: true,
            invite,
            whatsapp: None,
        })
    }

    fn trunk_target(&self, cx: &Context, id: TrunkId) -> Result<Target, (u16, String)> {
        let plan = &cx.gate.routes;
        let Some(trunk) = plan.trunk(id) else { return Err((500, "the trunk is gone".to_owned())) };
        let subject = format!("trunk {}", trunk.name);
        if cx.load.calls(id) >= trunk.calls_max {
            return Err((503, format!("{subject}: has as many calls as it may (calls_max)")));
        }
        if let Some(whatsapp) = &trunk.whatsapp {
            return self.whatsapp_target(cx, id, trunk, whatsapp).map_err(|Failure { code, words, .. }| (code, words));
        }
        let transcoding = trunk.transcoding && self.wanted.transcoding;
        let formats = self.formats(&trunk.codecs, transcoding);
        let (formats, narrow) = formats.map_err(|words| (488, format!("{subject}: {words}")))?;
        let id_shown = trunk.caller_id(&self.wanted.caller, &plan.numbering);
        let mut headers = self.headers(&trunk.headers);
        if id_shown.private {
            headers.push(("Privacy".to_owned(), "id".to_owned()));
        }
        let invite = Invite {
            target: trunk.target(&self.wanted.dialed, &plan.numbering),
            proxy: trunk.proxy.clone(),
            asserted_identity: id_shown.asserted.map(|number| format!("<tel:{number}>")),
            from_display: id_shown.display,
            from_user: id_shown.user,
            from_host: id_shown.host,
            headers,
            credentials: trunk.credentials.clone(),
            max_forwards: self.wanted.max_forwards,
            ring_ms_max: u64::from(trunk.ring_s) * 1_000,
            ..Invite::default()
        };
        let kind = MediaKind::of_trunk(trunk);
        let transcoding = trunk.transcoding;
        let backend = cx.backends.choose(cx.now, trunk.dtls_backend, Some(Peer::Trunk(trunk.name.clone())));
        let (trunk, user, whatsapp) = (Some(id), None, None);
        Ok(Target { subject, trunk, user, kind, backend, formats, narrow, transcoding, invite, whatsapp })
    }

    /// Every device of every user, each once.
    fn device_targets(&self, cx: &Context, users: &[String]) -> Result<Vec<Target>, (u16, String)> {
        let offered = self.formats(&DEVICE_CODECS, self.wanted.transcoding).map_err(|words| (488, words))?;
        let has_room = |user: &&String| {
            let calls_max = cx.gate.routes.users.get(*user).map_or(usize::MAX, |user| user.calls_max);
            cx.calls.of_user(user, cx.number) < calls_max
        };
        let (free, busy): (Vec<&String>, Vec<&String>) = users.iter().partition(has_room);
        let devices =
            free.iter().flat_map(|user| cx.gate.registrar.bindings(user).iter().map(move |device| (user, device)));
        let targets: Vec<Target> =
            devices.map(|(user, device)| self.device_target(cx, user, device, &offered)).collect();
        match (targets.is_empty(), busy.is_empty()) {
            (false, _) => Ok(targets),
            (true, true) => Err((480, format!("no device is registered for {}", users.join(", ")))),
            (true, false) => {
                let busy: Vec<&str> = busy.into_iter().map(String::as_str).collect();
                Err((486, format!("user {}: has as many calls as it may (calls_max)", busy.join(", "))))
            }
        }
    }

    fn device_target(&self, cx: &Context, user: &str, device: &Binding, offered: &(Formats, bool)) -> Target {
        let kind = MediaKind::of_device(device.hop.transport);
        let invite = Invite {
            target: device.contact.clone(),
            hop: Some(device.hop.clone()),
            routes: device.path.clone(),
            from_display: self.wanted.caller.display.clone(),
            from_user: self.wanted.caller.user.clone(),
            headers: self.headers(&[]),
            max_forwards: self.wanted.max_forwards,
            ring_ms_max: USER_RING_MS_MAX,
            ..Invite::default()
        };
        Target {
            subject: format!("user {user}"),
            trunk: None,
            user: Some(user.to_owned()),
            kind,
            backend: cx.backends.choose(cx.now, cx.config.dtls, Some(Peer::User(user.to_owned()))),
            formats: offered.0.clone(),
            narrow: offered.1,
            transcoding: true,
            invite,
            whatsapp: None,
        }
    }

    fn formats(&self, allowed: &[Codec], transcoding: bool) -> Result<(Formats, bool), String> {
        self.wanted.formats.toward(allowed, transcoding, self.wide)
    }

    fn headers(&self, own: &[(String, String)]) -> Vec<(String, String)> {
        self.wanted.headers.iter().chain(own).cloned().collect()
    }

    /// The most telling refusal (RFC 3261 §16.7: 6xx, else what says most about the person who was called), and all reasons.
    fn lost(&mut self) -> Lost {
        let rank = |failure: &&Failure| match failure.code {
            600.. => 6,
            486 | 487 => 5,
            480 | 408 if failure.end.is_some() => 4,
            400..=499 => 3,
            _ => 2,
        };
        let words: Vec<&str> = self.failures.iter().map(|failure| failure.words.as_str()).collect();
        let warning = if words.is_empty() { "there is no destination".to_owned() } else { words.join("; ") };
        let best = self.failures.iter().rev().max_by_key(rank);
        let code = best.map_or(404, |failure| failure.code);
        Lost { refusal: Refusal::warned(code, &warning), end: best.and_then(|failure| failure.end.clone()) }
    }
}

/// Whether another way is tried: a trunk that says something about the person who was called speaks for all trunks.
fn goes_on(is_trunk: bool, code: u16) -> bool {
    match is_trunk {
        true => matches!(code, 408 | 415 | 488 | 500..=599),
        false => code < 600,
    }
}

/// An end as a response code and in words.
fn failure(end: &SipEnd, rang: bool) -> (u16, String) {
    match end {
        // Every place that it named was tried, or asked before: that says nothing about who was called.
        SipEnd::Rejected { code: code @ ..400, reason } => (502, format!("{code} {reason}, which leads nowhere")),
        SipEnd::Rejected { code, reason } => (*code, format!("{code} {reason}")),
        SipEnd::TimedOut if rang => (480, "nobody answered in time".to_owned()),
        SipEnd::TimedOut => (408, "no response".to_owned()),
        SipEnd::Unreachable => (503, "cannot be resolved or reached".to_owned()),
        SipEnd::Unauthorized => (503, "refused our credentials".to_owned()),
        SipEnd::ProtocolError => (502, "its answer cannot be used".to_owned()),
        SipEnd::ByeReceived(_) | SipEnd::ByeSent | SipEnd::Cancelled | SipEnd::CancelReceived => {
            (487, "was cancelled".to_owned())
        }
        SipEnd::RejectedByUs(code) => (*code, "was refused here".to_owned()),
    }
}
