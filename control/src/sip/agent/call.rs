//! One call: what both roles have in common.

use super::super::dialog::Dialog;
use super::super::digest::{Answered, Authorizer};
use super::super::limits::{RESOLVE_MS_MAX, TIMEOUT_MS};
use super::super::message::{Message, reason_phrase};
use super::super::transaction::TransactionId;
use super::super::uri::escape;
use super::super::{SipCallId, SipEnd, SipEvent};
use super::session::{OurReinvite, PeerReinvite, Session};
use super::uac::Uac;
use super::uas::{Pending2xx, Uas};
use super::{Core, Place, Query, Want, place_of};
use engine::time::Instant;
use std::net::SocketAddr;

/// What a transaction does for its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Our first INVITE, or its repetition.
    Invite,
    /// The CANCEL of one.
    Cancel,
    /// The end of a dialog.
    Bye { leg: usize },
    /// A refresh of ours.
    Reinvite,
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
}

const TIMERS: [Timer; 6] =
    [Timer::Ring, Timer::Failover, Timer::Repeat2xx, Timer::Session, Timer::ReinviteAnswer, Timer::ReinviteRetry];

/// A dialog of the call, early or confirmed. An INVITE that forks has several.
pub(super) struct Leg {
    pub dialog: Dialog,
    /// A 2xx was sent or received.
    pub confirmed: bool,
    /// BYE was sent or received.
    pub closed: bool,
    /// Where the peer's last message came from.
    pub peer: SocketAddr,
    pub ack: Option<Ack>,
    answered: Answered,
    bye_reason: Option<String>,
}

/// The ACK of the last 2xx, repeated whenever that is (RFC 3261 §13.2.2.4).
pub(super) struct Ack {
    pub cseq: u32,
    pub bytes: Vec<u8>,
    /// `None` while the name of the next hop is being looked up.
    pub to: Option<SocketAddr>,
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
    pub uac: Option<Box<Uac>>,
    pub uas: Option<Box<Uas>>,
    pub legs: Vec<Leg>,
    /// The leg that the call is about, once answered.
    pub main: Option<usize>,
    pub authorizer: Authorizer,
    pub local_sdp: String,
    pub remote_sdp: Option<String>,
    pub session: Option<Session>,
    pub reinvite: Option<OurReinvite>,
    pub peer_reinvite: Option<PeerReinvite>,
    pub pending_2xx: Option<Pending2xx>,
    /// BYE waits for the ACK of our 2xx (RFC 3261 §15).
    pub bye_wanted: bool,
    pub reason: Option<String>,
    /// Names looked up for this call.
    pub known: Vec<(String, u16, SocketAddr)>,
    timers: [Instant; TIMERS.len()],
    /// What the agent's ordered set holds for this call.
    pub registered: Instant,
}

/// Names remembered per call: the next hops of its legs.
const KNOWN_MAX: usize = 4;

impl Leg {
    pub fn new(dialog: Dialog, peer: SocketAddr) -> Leg {
        let answered = Answered::default();
        Leg { dialog, confirmed: false, closed: false, peer, ack: None, answered, bye_reason: None }
    }
}

impl Call {
    pub fn new(core: &mut Core, id: SipCallId, call_id: String) -> Call {
        let local_tag = core.random.token(12);
        core.dialogs.insert((call_id.clone(), local_tag.clone()), id);
        Call {
            id,
            call_id,
            local_tag,
            ended: false,
            transactions: 0,
            queries: 0,
            uac: None,
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
            let reason = self.reason.clone();
            self.reject(core, now, 480, SipEnd::RejectedByUs(480), reason);
        } else {
            self.end(core, SipEnd::Cancelled);
            self.cancel_attempts(core, now);
        }
    }

    fn on_ring_timeout(&mut self, core: &mut Core, now: Instant) {
        if self.uas.is_some() {
            return self.reject(core, now, 480, SipEnd::TimedOut, None);
        }
        self.end(core, SipEnd::TimedOut);
        self.cancel_attempts(core, now);
    }

    /// A request of ours got no answer.
    pub fn on_timed_out(&mut self, core: &mut Core, now: Instant, id: TransactionId, purpose: Purpose) {
        match purpose {
            Purpose::Invite => self.on_invite_timeout(core, now, id),
            Purpose::Reinvite => {
                self.reinvite = None;
                self.drop_session(core, now, SipEnd::TimedOut);
            }
            Purpose::Cancel | Purpose::Bye { .. } | Purpose::Serve => {}
        }
    }

    pub fn on_finished(&mut self, id: TransactionId) {
        self.transactions -= 1;
        if let Some(uac) = &mut self.uac {
            uac.attempts.retain(|attempt| attempt.transaction != id);
        }
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
        if self.legs[leg].closed {
            return;
        }
        self.legs[leg].closed = true;
        self.legs[leg].bye_reason = self.reason.clone();
        self.repeat_bye(core, now, leg);
    }

    fn repeat_bye(&mut self, core: &mut Core, now: Instant, leg: usize) {
        let mut bye = self.legs[leg].dialog.request("BYE");
        if let Some(reason) = &self.legs[leg].bye_reason {
            bye.push("Reason", reason.as_str());
        }
        self.send_in_dialog(core, now, leg, bye, Purpose::Bye { leg });
    }

    pub fn on_bye_response(&mut self, core: &mut Core, now: Instant, leg: usize, response: &Message) {
        let challenged = matches!(response.code(), Some(401 | 407));
        if challenged && self.authorizer.take(response, &mut self.legs[leg].answered) {
            self.repeat_bye(core, now, leg);
        }
    }

    /// The leg a message of the peer belongs to.
    pub fn leg_of(&self, remote_tag: Option<&str>) -> Option<usize> {
        let tag = remote_tag.unwrap_or("");
        self.legs.iter().position(|leg| leg.dialog.remote_tag == tag)
    }

    /// Sends a request built by the leg's dialog, with credentials, along its route.
    pub fn send_in_dialog(
        &mut self,
        core: &mut Core,
        now: Instant,
        leg: usize,
        mut request: Message,
        purpose: Purpose,
    ) {
        core.complete(&mut request);
        self.authorizer.apply(&mut request, &mut core.random);
        if let Some(reinvite) = self.reinvite.as_mut().filter(|_| purpose == Purpose::Reinvite) {
            reinvite.request = request.clone();
        }
        match self.next_hop(leg) {
            Ok(to) => self.start_in_dialog(core, now, request, purpose, to),
            Err((host, port)) => {
                let want = Want::Send { leg, request: Box::new(request.clone()), purpose };
                if core.ask(now, self.id, host, port, want) {
                    self.queries += 1;
                } else {
                    let to = self.legs[leg].peer;
                    self.start_in_dialog(core, now, request, purpose, to);
                }
            }
        }
    }

    fn start_in_dialog(&mut self, core: &mut Core, now: Instant, request: Message, purpose: Purpose, to: SocketAddr) {
        let is_reinvite = purpose == Purpose::Reinvite;
        match core.transactions.start(now, request, to, false) {
            Some(id) => {
                self.own(core, id, purpose);
                if is_reinvite {
                    core.transactions.limit(id, now.plus_millis(super::super::limits::REINVITE_MS_MAX.max(TIMEOUT_MS)));
                }
            }
            None if is_reinvite => self.reinvite = None,
            None => {}
        }
    }

    pub fn own(&mut self, core: &mut Core, id: TransactionId, purpose: Purpose) {
        self.transactions += 1;
        core.owners.insert(id, (self.id, purpose));
    }

    /// Acknowledges a 2xx, with the credentials of its INVITE (RFC 3261 §22.3).
    pub fn send_ack(&mut self, core: &mut Core, now: Instant, leg: usize, invite: &Message) {
        let cseq = invite.cseq().map_or(0, |(number, _)| number);
        let mut ack = self.legs[leg].dialog.ack(cseq);
        core.complete(&mut ack);
        ack.copy(invite, "Authorization");
        ack.copy(invite, "Proxy-Authorization");
        let to = match self.next_hop(leg) {
            Ok(to) => Some(to),
            Err((host, port)) if core.ask(now, self.id, host.clone(), port, Want::Ack { leg }) => {
                self.queries += 1;
                None
            }
            Err(_) => Some(self.legs[leg].peer),
        };
        self.legs[leg].ack = Some(Ack { cseq, bytes: ack.to_bytes(), to });
        self.repeat_ack(core, leg, cseq);
    }

    pub fn repeat_ack(&self, core: &mut Core, leg: usize, cseq: u32) {
        if let Some(ack) = self.legs[leg].ack.as_ref().filter(|ack| ack.cseq == cseq)
            && let Some(to) = ack.to
        {
            core.transmit(to, ack.bytes.clone());
        }
    }

    /// The resolver answered, or gave up.
    pub fn located(&mut self, core: &mut Core, now: Instant, query: Query, addresses: &[SocketAddr]) {
        self.queries -= 1;
        if let Some(&address) = addresses.first() {
            self.remember(query.host, query.port, address);
        }
        match query.want {
            Want::Invite => self.on_addresses(core, now, addresses),
            Want::Ack { leg } => {
                let to = addresses.first().copied().unwrap_or(self.legs[leg].peer);
                if let Some(ack) = &mut self.legs[leg].ack {
                    ack.to = Some(to);
                    let cseq = ack.cseq;
                    self.repeat_ack(core, leg, cseq);
                }
            }
            Want::Send { leg, request, purpose } => {
                let to = addresses.first().copied().unwrap_or(self.legs[leg].peer);
                self.start_in_dialog(core, now, *request, purpose, to);
            }
        }
    }

    pub fn remember(&mut self, host: String, port: u16, address: SocketAddr) {
        self.known.retain(|(known, at, _)| (known, *at) != (&host, port));
        self.known.truncate(KNOWN_MAX - 1);
        self.known.push((host, port, address));
    }

    /// Where requests of a leg go: its first route or target. A hop of another transport, or none at all, is replaced by
    /// the place the peer's messages come from.
    fn next_hop(&self, leg: usize) -> Result<SocketAddr, (String, u16)> {
        let leg = &self.legs[leg];
        match place_of(leg.dialog.next_hop()) {
            Place::Address(address) if address.is_ipv4() == leg.peer.is_ipv4() => Ok(address),
            Place::Address(_) | Place::Nowhere => Ok(leg.peer),
            Place::Name(host, port) => {
                let known = self.known.iter().find(|(known, at, _)| (known, *at) == (&host, port));
                known.map_or(Err((host, port)), |&(_, _, address)| Ok(address))
            }
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

/// Header text made of what the caller gave: everything outside printable ASCII is written as %XX.
pub(super) fn printable(text: &str) -> String {
    escape(text, |b| (0x20..0x7f).contains(&b))
}

const _: () = assert!(RESOLVE_MS_MAX < TIMEOUT_MS);
