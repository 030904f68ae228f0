//! One call: what both roles have in common.

use super::super::dialog::Dialog;
use super::super::digest::{Answered, Authorizer};
use super::super::gatekeeper::Refusal;
use super::super::limits::{DIALOG_FAILOVERS_MAX, REINVITE_MS_MAX, RESOLVE_MS_MAX, TIMEOUT_MS};
use super::super::message::{Message, reason_phrase};
use super::super::transaction::TransactionId;
use super::super::transport::{Hop, Transport};
use super::super::uri::{SipUri, escape};
use super::super::{SipCallId, SipEnd, SipEvent};
use super::refer::Transfer;
use super::reliable::Reliable;
use super::session::{OurReinvite, PeerReinvite, Session};
use super::uac::Uac;
use super::uas::{Pending2xx, Uas};
use super::{Core, Located, Owner, Want};
use engine::time::Instant;
use sha2::{Digest, Sha256};
use std::net::IpAddr;

/// What a transaction does for its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Our first INVITE, or its repetition.
    Invite,
    /// The CANCEL of one.
    Cancel,
    /// The end of a dialog.
    Bye { leg: usize },
    /// An offer or refresh of ours.
    Reinvite,
    /// A key by INFO.
    Info { leg: usize },
    /// The acknowledgement of a reliable provisional response.
    Prack { leg: usize },
    /// We ask for a transfer.
    Refer { leg: usize },
    /// How a transfer goes that the peer asked for.
    Notify { leg: usize },
    /// An INVITE of the peer, first or later.
    Serve,
}

/// The timers of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// UAC: `ring_ms_max`. UAS: nobody decides about the call.
    Ring,
    /// The address tried is silent and there is another one.
    Failover,
    /// Our 2xx is to be sent again.
    Repeat2xx,
    /// The session is to be refreshed, or has expired.
    Session,
    /// A re-INVITE waits for `answer_reinvite`.
    ReinviteAnswer,
    /// Our refresh met the peer's and is tried again.
    ReinviteRetry,
    /// Our reliable provisional response is to be sent again.
    Repeat18x,
}

const TIMERS: [Timer; 7] = [
    Timer::Ring,
    Timer::Failover,
    Timer::Repeat2xx,
    Timer::Session,
    Timer::ReinviteAnswer,
    Timer::ReinviteRetry,
    Timer::Repeat18x,
];

/// A dialog of the call, early or confirmed. An INVITE that forks has several.
pub(super) struct Leg {
    pub dialog: Dialog,
    /// A 2xx was sent or received.
    pub confirmed: bool,
    /// BYE was sent or received.
    pub closed: bool,
    /// Where the peer's last message came from.
    pub peer: Hop,
    pub ack: Option<Box<Ack>>,
    /// RSeq of the last reliable provisional response that was acknowledged (RFC 3262 §4).
    pub rseq: Option<u32>,
}

/// The ACK of the last 2xx, repeated whenever that is (RFC 3261 §13.2.2.4).
pub(super) struct Ack {
    pub cseq: u32,
    request: Message,
    /// Where to and what; `None` while the name of the next hop is being looked up.
    sent: Option<(Hop, Vec<u8>)>,
}

/// A request inside a dialog that has no final response yet.
pub(super) struct Outgoing {
    transaction: TransactionId,
    leg: usize,
    /// Without Via and credentials.
    request: Message,
    pub purpose: Purpose,
    hop: Hop,
    answered: Answered,
    tries: usize,
}

/// Where a request inside a dialog goes.
enum Next {
    Hop(Hop),
    /// The URI must be looked up.
    Name(String),
}

pub(super) struct Call {
    pub id: SipCallId,
    pub call_id: String,
    pub local_tag: String,
    /// `Ended` was given: nothing more is told, but late messages are still answered.
    pub ended: bool,
    /// Transactions alive that the call owns.
    pub transactions: usize,
    /// Questions open.
    pub queries: usize,
    /// Until the call is answered and every INVITE has had its time.
    pub uac: Option<Box<Uac>>,
    /// The Call-ID is ours.
    pub is_caller: bool,
    pub uas: Option<Box<Uas>>,
    pub legs: Vec<Leg>,
    /// The leg that the call is about, once answered.
    pub main: Option<usize>,
    pub authorizer: Authorizer,
    pub local_sdp: String,
    /// SHA-256 of the peer's last description: the same again is a refresh.
    pub remote_sdp: Option<[u8; 32]>,
    pub session: Option<Session>,
    pub reinvite: Option<Box<OurReinvite>>,
    pub peer_reinvite: Option<Box<PeerReinvite>>,
    pub pending_2xx: Option<Box<Pending2xx>>,
    /// BYE waits for the ACK of our 2xx (RFC 3261 §15).
    pub bye_wanted: bool,
    pub reason: Option<String>,
    /// An offer of ours that waits for its turn.
    pub offer_wanted: Option<String>,
    /// A transfer that the peer asked for and is told about.
    pub transfer: Option<Transfer>,
    /// We asked for a transfer.
    pub transferring: bool,
    pub reliable: Option<Box<Reliable>>,
    pub outgoing: Vec<Outgoing>,
    /// What was told of the dialog to whoever keeps it: the leg and its target.
    pub kept: Option<(usize, Box<str>)>,
    /// Names looked up for this call: host, port as written, and the place that served.
    known: Vec<(String, Option<u16>, Hop)>,
    timers: [Instant; TIMERS.len()],
    /// What the agent's ordered set holds for this call.
    pub registered: Instant,
}

/// Names remembered per call: the next hops of its legs.
const KNOWN_MAX: usize = 4;

impl Leg {
    pub fn new(dialog: Dialog, peer: Hop) -> Leg {
        Leg { dialog, confirmed: false, closed: false, peer, ack: None, rseq: None }
    }
}

impl Call {
    pub fn new(core: &mut Core, id: SipCallId, call_id: String) -> Call {
        let local_tag = core.random.token(12);
        Call::resumed(core, id, call_id, local_tag)
    }

    /// A call whose tag is known already.
    pub fn resumed(core: &mut Core, id: SipCallId, call_id: String, local_tag: String) -> Call {
        core.dialogs.insert((call_id.clone(), local_tag.clone()), id);
        Call {
            id,
            call_id,
            local_tag,
            ended: false,
            transactions: 0,
            queries: 0,
            uac: None,
            is_caller: false,
            uas: None,
            legs: Vec::new(),
            main: None,
            authorizer: Authorizer::new(None),
            local_sdp: String::new(),
            remote_sdp: None,
            session: None,
            reinvite: None,
            peer_reinvite: None,
            pending_2xx: None,
            bye_wanted: false,
            reason: None,
            offer_wanted: None,
            transfer: None,
            transferring: false,
            reliable: None,
            outgoing: Vec::new(),
            kept: None,
            known: Vec::new(),
            timers: [Instant::NEVER; TIMERS.len()],
            registered: Instant::NEVER,
        }
    }

    /// Whether nothing can happen any more.
    pub fn is_over(&self) -> bool {
        self.ended && self.transactions == 0 && self.queries == 0 && self.pending_2xx.is_none()
    }

    pub fn deadline(&self) -> Instant {
        self.timers.iter().copied().min().unwrap_or(Instant::NEVER)
    }

    pub fn set(&mut self, timer: Timer, at: Instant) {
        self.timers[timer as usize] = at;
    }

    pub fn clear(&mut self, timer: Timer) {
        self.set(timer, Instant::NEVER);
    }

    /// Fires what is due, each timer at most once.
    pub fn handle_timeout(&mut self, core: &mut Core, now: Instant) {
        for timer in TIMERS {
            if self.timers[timer as usize] > now {
                continue;
            }
            self.clear(timer);
            match timer {
                Timer::Ring => self.on_ring_timeout(core, now),
                Timer::Failover => self.on_silent_address(core, now),
                Timer::Repeat2xx => self.repeat_2xx(core, now),
                Timer::Session => self.on_session_timer(core, now),
                Timer::ReinviteAnswer => self.answer_reinvite(core, now, None),
                Timer::ReinviteRetry => self.send_reinvite(core, now, Answered::default()),
                Timer::Repeat18x => self.repeat_18x(core, now),
            }
        }
    }

    pub fn emit(&self, core: &mut Core, event: SipEvent) {
        if !self.ended {
            core.emit(event);
        }
    }

    /// Gives the last event and stops everything that would start something new.
    pub fn end(&mut self, core: &mut Core, end: SipEnd) {
        if self.ended {
            return;
        }
        core.emit(SipEvent::Ended { call: self.id, end });
        self.ended = true;
        for timer in TIMERS {
            if timer != Timer::Repeat2xx {
                self.clear(timer);
            }
        }
    }

    pub fn hangup(&mut self, core: &mut Core, now: Instant, reason: Option<&str>) {
        if self.ended {
            return;
        }
        self.reason = reason.map(printable);
        if self.main.is_some() {
            self.end(core, SipEnd::ByeSent);
            self.send_bye_when_allowed(core, now);
        } else if self.uas.is_some() {
            let refusal = Refusal { reason: self.reason.clone(), ..Refusal::code(480) };
            self.reject(core, now, &refusal, SipEnd::RejectedByUs(480));
        } else {
            self.end(core, SipEnd::Cancelled);
            self.cancel_attempts(core, now);
        }
    }

    fn on_ring_timeout(&mut self, core: &mut Core, now: Instant) {
        if self.uas.is_some() {
            return self.reject(core, now, &Refusal::code(480), SipEnd::TimedOut);
        }
        self.end(core, SipEnd::TimedOut);
        self.cancel_attempts(core, now);
    }

    pub fn on_response(
        &mut self,
        core: &mut Core,
        now: Instant,
        id: TransactionId,
        purpose: Purpose,
        response: &Message,
        hop: &Hop,
    ) {
        match purpose {
            Purpose::Invite => self.on_invite_response(core, now, id, response, hop),
            Purpose::Cancel | Purpose::Serve => {}
            Purpose::Reinvite => {
                if !self.sent_elsewhere(core, now, id, response) {
                    self.on_reinvite_response(core, now, response);
                }
            }
            Purpose::Bye { .. } | Purpose::Prack { .. } | Purpose::Notify { .. } => {
                self.sent_elsewhere(core, now, id, response);
                self.answered_challenge(core, now, id, response);
                if response.code().is_some_and(|code| code >= 200) {
                    self.outgoing.retain(|outgoing| outgoing.transaction != id);
                }
            }
            Purpose::Info { .. } => {
                let again = self.sent_elsewhere(core, now, id, response);
                if !again && !self.answered_challenge(core, now, id, response) && response.code() == Some(481) {
                    // RFC 3261 §12.2.1.2: the peer knows no such dialog.
                    self.drop_session(core, now, SipEnd::Rejected { code: 481, reason: reason_phrase(481).into() });
                }
            }
            Purpose::Refer { .. } => {
                let again = self.sent_elsewhere(core, now, id, response);
                if !again && !self.answered_challenge(core, now, id, response) {
                    self.on_refer_response(core, response.code().unwrap_or(0));
                }
            }
        }
    }

    /// A 503 to a request inside a dialog: another place of the same name may serve (RFC 3263 §4.3).
    fn sent_elsewhere(&mut self, core: &mut Core, now: Instant, id: TransactionId, response: &Message) -> bool {
        if response.code() != Some(503) {
            return false;
        }
        if let Some(outgoing) = self.outgoing.iter().find(|outgoing| outgoing.transaction == id) {
            core.places.note_dead(now, &outgoing.hop);
        }
        self.try_elsewhere(core, now, id)
    }

    fn try_elsewhere(&mut self, core: &mut Core, now: Instant, id: TransactionId) -> bool {
        let Some(at) = self.outgoing.iter().position(|outgoing| outgoing.transaction == id) else { return false };
        let uri = self.legs[self.outgoing[at].leg].dialog.next_hop().to_owned();
        let named = SipUri::parse(&uri).is_some_and(|uri| uri.address().is_none());
        if !named || self.outgoing[at].tries >= DIALOG_FAILOVERS_MAX {
            return false;
        }
        let outgoing = self.outgoing.remove(at);
        self.known.retain(|(_, _, hop)| *hop != outgoing.hop);
        let (leg, purpose, tries) = (outgoing.leg, outgoing.purpose, outgoing.tries + 1);
        let request = Box::new(outgoing.request.clone());
        match core.locate(now, &uri, || Want::Send { call: self.id, leg, request, purpose, tries }) {
            Located::Asked => self.queries += 1,
            Located::Known(hops) => {
                let Some(hop) = core.places.sorted(now, hops).into_iter().find(|hop| !hop.same_place(&outgoing.hop))
                else {
                    return false;
                };
                self.dispatch(core, now, leg, outgoing.request, purpose, hop, tries);
            }
        }
        true
    }

    /// A request that was too large for a datagram found nobody on TCP: in pieces it may still arrive (RFC 3261 §18.1.1).
    fn back_to_datagrams(&mut self, core: &mut Core, now: Instant, id: TransactionId) -> bool {
        let tcp = |outgoing: &Outgoing| outgoing.transaction == id && outgoing.hop.transport == Transport::Tcp;
        let Some(at) = self.outgoing.iter().position(tcp) else { return false };
        match self.next_hop(core, self.outgoing[at].leg) {
            Next::Hop(hop) if hop.transport == Transport::Udp && self.outgoing[at].tries < DIALOG_FAILOVERS_MAX => {
                let Outgoing { leg, request, purpose, tries, .. } = self.outgoing.remove(at);
                self.dispatch(core, now, leg, request, purpose, hop, tries + 1);
                true
            }
            Next::Hop(_) | Next::Name(_) => false,
        }
    }

    /// Sends a challenged request once more, with credentials. `false`: it was not challenged, or they will not help.
    fn answered_challenge(&mut self, core: &mut Core, now: Instant, id: TransactionId, response: &Message) -> bool {
        if !matches!(response.code(), Some(401 | 407)) {
            return false;
        }
        let Some(at) = self.outgoing.iter().position(|outgoing| outgoing.transaction == id) else { return false };
        if !self.authorizer.take(response, &mut self.outgoing[at].answered) {
            return false;
        }
        let Outgoing { leg, mut request, purpose, hop, answered, tries, .. } = self.outgoing.remove(at);
        self.legs[leg].dialog.renumber(&mut request);
        self.dispatch(core, now, leg, request, purpose, hop, tries);
        if let Some(outgoing) = self.outgoing.last_mut() {
            outgoing.answered = answered;
        }
        true
    }

    /// A request of ours got no answer; `lost`: the transport lost it.
    pub fn on_unanswered(&mut self, core: &mut Core, now: Instant, id: TransactionId, purpose: Purpose, lost: bool) {
        if let Some(outgoing) = self.outgoing.iter().find(|outgoing| outgoing.transaction == id) {
            core.places.note_dead(now, &outgoing.hop);
        }
        match purpose {
            Purpose::Invite => self.on_invite_timeout(core, now, id, lost),
            Purpose::Cancel | Purpose::Serve => {}
            _ if lost && self.back_to_datagrams(core, now, id) => {}
            _ if self.try_elsewhere(core, now, id) => {}
            Purpose::Reinvite => {
                self.reinvite = None;
                self.drop_session(core, now, if lost { SipEnd::Unreachable } else { SipEnd::TimedOut });
            }
            Purpose::Refer { .. } => self.on_refer_response(core, 408),
            Purpose::Bye { .. } | Purpose::Info { .. } | Purpose::Prack { .. } | Purpose::Notify { .. } => {}
        }
    }

    pub fn on_finished(&mut self, id: TransactionId) {
        self.transactions -= 1;
        self.outgoing.retain(|outgoing| outgoing.transaction != id);
        if let Some(uac) = &mut self.uac {
            uac.attempts.retain(|attempt| attempt.transaction != id);
        }
        self.let_go();
    }

    /// Gives back what only set-up and repeats needed: no INVITE of ours can be answered any more, nor its 2xx be repeated
    /// (the transactions live for as long as that lasts: RFC 6026 §7.2, timer M, and §7.1, timer L).
    fn let_go(&mut self) {
        let answerable = self.uac.as_ref().is_some_and(|uac| !uac.attempts.is_empty());
        if self.main.is_none() || answerable || self.queries > 0 {
            return;
        }
        self.uac = None;
        if self.transactions == 0 && self.pending_2xx.is_none() {
            self.uas.take_if(|uas| uas.answered);
        }
        if self.outgoing.iter().all(|outgoing| outgoing.purpose != Purpose::Reinvite) {
            self.legs.iter_mut().for_each(|leg| leg.ack = None);
        }
    }

    /// Calls have one leg, but for forks.
    pub fn add_leg(&mut self, leg: Leg) {
        self.legs.reserve_exact(1);
        self.legs.push(leg);
    }

    /// Ends an answered call from our side.
    pub fn drop_session(&mut self, core: &mut Core, now: Instant, end: SipEnd) {
        if !self.ended {
            self.end(core, end);
            self.send_bye_when_allowed(core, now);
        }
    }

    /// A callee may not say BYE before its 2xx was acknowledged (RFC 3261 §15).
    fn send_bye_when_allowed(&mut self, core: &mut Core, now: Instant) {
        self.refuse_peer_reinvite(core, now, 487);
        match (self.main, &self.pending_2xx) {
            (Some(_), Some(_)) => self.bye_wanted = true,
            (Some(leg), None) => self.send_bye(core, now, leg),
            (None, _) => {}
        }
    }

    pub fn send_bye(&mut self, core: &mut Core, now: Instant, leg: usize) {
        self.bye_wanted = false;
        if self.legs[leg].closed {
            return;
        }
        self.legs[leg].closed = true;
        let mut bye = self.legs[leg].dialog.request("BYE");
        if let Some(reason) = &self.reason {
            bye.push("Reason", reason.as_str());
        }
        self.send_in_dialog(core, now, leg, bye, Purpose::Bye { leg });
    }

    /// The leg a message of the peer belongs to.
    pub fn leg_of(&self, remote_tag: Option<&str>) -> Option<usize> {
        let tag = remote_tag.unwrap_or("");
        self.legs.iter().position(|leg| leg.dialog.remote_tag == tag)
    }

    /// Sends a request built by the leg's dialog, with credentials, along its route.
    /// See [`super::SipAgent::peer_is_at`].
    pub fn peer_is_at(&mut self, contact: &str, hop: &Hop) {
        let Some(leg) = self.main.and_then(|main| self.legs.get_mut(main)) else { return };
        let (Some(known), Some(now)) = (SipUri::parse(leg.dialog.remote_target()), SipUri::parse(contact)) else {
            return;
        };
        let is_same = known.user == now.user && known.host.eq_ignore_ascii_case(now.host);
        if is_same && leg.peer.transport.is_websocket() && hop.transport.is_websocket() {
            leg.peer = Hop { domain: leg.peer.domain.clone(), ..hop.clone() };
        }
    }

    pub fn send_in_dialog(&mut self, core: &mut Core, now: Instant, leg: usize, request: Message, purpose: Purpose) {
        let hop = match self.next_hop(core, leg) {
            Next::Hop(hop) => hop,
            Next::Name(uri) => {
                let again = Box::new(request.clone());
                match core.locate(now, &uri, || Want::Send { call: self.id, leg, request: again, purpose, tries: 0 }) {
                    Located::Asked => return self.queries += 1,
                    Located::Known(hops) => self.best(core, now, leg, &uri, hops),
                }
            }
        };
        self.dispatch(core, now, leg, request, purpose, hop, 0);
    }

    #[allow(clippy::too_many_arguments)] // one request, and where it goes: a struct would be built here and taken apart there
    fn dispatch(
        &mut self,
        core: &mut Core,
        now: Instant,
        leg: usize,
        request: Message,
        purpose: Purpose,
        hop: Hop,
        tries: usize,
    ) {
        let mut sent = request.clone();
        self.authorizer.apply(&mut sent, &mut core.random);
        let hop = core.carrier_of(now, &hop, sent.to_bytes().len()).unwrap_or(hop);
        core.complete(&mut sent, hop.transport);
        if let Some(reinvite) = self.reinvite.as_mut().filter(|_| purpose == Purpose::Reinvite) {
            reinvite.request = sent.clone();
        }
        match core.transactions.start(now, sent, hop.clone()) {
            Some(id) => {
                self.own(core, id, purpose);
                if purpose == Purpose::Reinvite {
                    core.transactions.limit(id, now.plus_millis(REINVITE_MS_MAX.max(TIMEOUT_MS)));
                }
                let answered = Answered::default();
                self.outgoing.push(Outgoing { transaction: id, leg, request, purpose, hop, answered, tries });
            }
            None if purpose == Purpose::Reinvite => self.reinvite = None,
            None => {}
        }
    }

    pub fn own(&mut self, core: &mut Core, id: TransactionId, purpose: Purpose) {
        self.transactions += 1;
        core.owners.insert(id, Owner::Call(self.id, purpose));
    }

    /// Acknowledges a 2xx, with the credentials of its INVITE (RFC 3261 §22.3).
    pub fn send_ack(&mut self, core: &mut Core, now: Instant, leg: usize, invite: &Message) {
        let cseq = invite.cseq().map_or(0, |(number, _)| number);
        let mut request = self.legs[leg].dialog.ack(cseq);
        request.copy(invite, "Authorization");
        request.copy(invite, "Proxy-Authorization");
        self.legs[leg].ack = Some(Box::new(Ack { cseq, request, sent: None }));
        let hop = match self.next_hop(core, leg) {
            Next::Hop(hop) => hop,
            Next::Name(uri) => match core.locate(now, &uri, || Want::Ack { call: self.id, leg }) {
                Located::Asked => return self.queries += 1,
                Located::Known(hops) => self.best(core, now, leg, &uri, hops),
            },
        };
        self.send_ack_to(core, leg, hop);
    }

    fn send_ack_to(&mut self, core: &mut Core, leg: usize, hop: Hop) {
        let Some(ack) = &mut self.legs[leg].ack else { return };
        let mut request = ack.request.clone();
        core.complete(&mut request, hop.transport);
        let bytes = request.to_bytes();
        core.transmit(&hop, bytes.clone());
        ack.sent = Some((hop, bytes));
    }

    pub fn repeat_ack(&self, core: &mut Core, leg: usize, cseq: u32) {
        if let Some(ack) = self.legs[leg].ack.as_ref().filter(|ack| ack.cseq == cseq)
            && let Some((hop, bytes)) = &ack.sent
        {
            core.transmit(hop, bytes.clone());
        }
    }

    /// The resolver answered, or gave up.
    pub fn located(&mut self, core: &mut Core, now: Instant, want: Want, hops: Vec<Hop>) {
        self.queries -= 1;
        match want {
            Want::Invite { .. } => self.on_hops(core, now, hops),
            Want::Ack { leg, .. } => {
                let uri = self.legs[leg].dialog.next_hop().to_owned();
                let hop = self.best(core, now, leg, &uri, hops);
                self.send_ack_to(core, leg, hop);
            }
            Want::Send { leg, request, purpose, tries, .. } => {
                let uri = self.legs[leg].dialog.next_hop().to_owned();
                let hop = self.best(core, now, leg, &uri, hops);
                self.dispatch(core, now, leg, *request, purpose, hop, tries);
            }
            Want::Register(_) | Want::Options(_) => {}
        }
    }

    /// The best of several places; the peer's own where there is none. What served is remembered.
    fn best(&mut self, core: &Core, now: Instant, leg: usize, uri: &str, hops: Vec<Hop>) -> Hop {
        let peer = self.legs[leg].peer.clone();
        let sorted = core.places.sorted(now, hops);
        // A connection that the peer holds open already leads there.
        let reused = sorted.iter().any(|hop| peer.connection.is_some() && leads_there(&peer, hop));
        let hop = match sorted.into_iter().next() {
            Some(hop) if reused => Hop { connection: peer.connection, ..hop },
            Some(hop) => hop,
            None => return peer,
        };
        self.remember(uri, hop.clone());
        hop
    }

    /// Notes where a URI led, for later requests to the same host.
    pub fn remember(&mut self, uri: &str, hop: Hop) {
        let Some(uri) = SipUri::parse(uri).filter(|uri| uri.address().is_none()) else { return };
        let host = uri.host.to_ascii_lowercase();
        self.known.retain(|(known, port, _)| (known, *port) != (&host, uri.port));
        self.known.truncate(KNOWN_MAX - 1);
        self.known.push((host, uri.port, hop));
    }

    /// Where requests of a leg go: its first route or target. A hop that nothing leads to from here is replaced by the place the
    /// peer's messages come from: another family, a transport we have not, a name that stands for no host (RFC 7118 §5), an
    /// address that softphones write for want of one.
    fn next_hop(&self, core: &Core, leg: usize) -> Next {
        let Leg { dialog, peer, .. } = &self.legs[leg];
        let text = dialog.next_hop();
        let reuse = || Next::Hop(peer.clone());
        let Some(uri) = SipUri::parse(text) else { return reuse() };
        if peer.transport.is_websocket() || is_nowhere(uri.host) {
            return reuse();
        }
        let written = uri.param("transport").map(Transport::parse);
        let Some(address) = uri.param("maddr").is_none().then(|| uri.address()).flatten() else {
            let host = uri.host.to_ascii_lowercase();
            let known = self.known.iter().find(|(known, port, hop)| {
                (known, *port) == (&host, uri.port) && written.is_none_or(|transport| transport == Some(hop.transport))
            });
            return match known {
                Some((_, _, hop)) if peer.connection.is_some() && leads_there(peer, hop) => {
                    Next::Hop(Hop { connection: peer.connection, ..hop.clone() })
                }
                Some((_, _, hop)) => Next::Hop(hop.clone()),
                None => Next::Name(text.to_owned()),
            };
        };
        let transport = match written {
            Some(None) => return reuse(),
            Some(Some(transport)) if uri.secure => transport.secured(),
            Some(Some(transport)) => transport,
            None if uri.secure => Transport::Tls,
            // On the wire many forget the parameter; the connection they use says it.
            None if peer.transport.is_reliable() && peer.remote.ip() == address.ip() => peer.transport,
            None => Transport::Udp,
        };
        let unreachable = peer.connection.is_some() && is_private(address.ip()) && !is_private(peer.remote.ip());
        if core.config.reach(transport).is_none() || address.is_ipv4() != peer.remote.is_ipv4() || unreachable {
            return reuse();
        }
        let address = std::net::SocketAddr::new(address.ip(), uri.port.unwrap_or(transport.port()));
        let hop = Hop { domain: peer.domain.clone(), ..Hop::new(transport, address) };
        match peer.connection.is_some() && leads_there(peer, &hop) {
            true => Next::Hop(Hop { connection: peer.connection, ..hop }),
            false => Next::Hop(hop),
        }
    }

    /// A response of ours inside the call.
    pub fn response(&self, core: &Core, request: &Message, code: u16) -> Message {
        let mut response = Message::response(request, code, reason_phrase(code), Some(&self.local_tag));
        response.push("Server", core.config.product.as_str());
        response
    }

    pub fn respond(&self, core: &mut Core, now: Instant, id: TransactionId, request: &Message, code: u16) {
        let response = self.response(core, request, code);
        core.transactions.respond(now, id, &response);
    }
}

/// Whether the peer's connection leads to the same host, over the same transport.
fn leads_there(peer: &Hop, hop: &Hop) -> bool {
    peer.transport == hop.transport && peer.remote.ip() == hop.remote.ip()
}

/// Names and addresses that stand for nothing: RFC 7118 §5 has clients invent `.invalid` names, others write TEST-NET-1.
fn is_nowhere(host: &str) -> bool {
    host.len() >= 8 && host.is_char_boundary(host.len() - 8) && host[host.len() - 8..].eq_ignore_ascii_case(".invalid")
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        // TEST-NET-1 is what softphones write for want of an address.
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.octets()[..3] == [192, 0, 2],
        IpAddr::V6(v6) => v6.is_loopback() || (v6.segments()[0] & 0xfe00) == 0xfc00 || v6.segments()[0] == 0xfe80,
    }
}

/// What is kept of a peer's description.
pub(super) fn digest_of(sdp: &str) -> [u8; 32] {
    Sha256::digest(sdp.as_bytes()).into()
}

/// Header text made of what the caller gave: everything outside printable ASCII is written as %XX.
pub(super) fn printable(text: &str) -> String {
    escape(text, |b| (0x20..0x7f).contains(&b))
}

const _: () = assert!(RESOLVE_MS_MAX < TIMEOUT_MS);
