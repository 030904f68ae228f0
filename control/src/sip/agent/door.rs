//! What comes from outside: checks every request must pass, and who may call and register.

use super::super::digest::{Algorithm, Verdict};
use super::super::gatekeeper::{Admission, Admitted, Asking, Gatekeeper, Refusal};
use super::super::limits::CALLS_MAX;
use super::super::message::{Message, reason_phrase};
use super::super::transaction::TransactionId;
use super::super::transport::{Hop, PeerIdentity};
use super::super::{Arrival, Replaces, SipCallId};
use super::call::{Call, printable};
use super::refer::replaces_of;
use super::{ALLOW, Core, SUPPORTED, SipAgent};
use engine::time::Instant;

/// A request, and where it came from.
pub(super) struct Caller<'a> {
    pub request: &'a Message,
    pub hop: &'a Hop,
    pub peer: &'a PeerIdentity,
    pub reply_to: Hop,
}

impl SipAgent {
    /// RFC 3261 §8.2, in its order: method, headers, body, then what the request is about.
    pub(super) fn handle_new_request(
        &mut self,
        now: Instant,
        id: TransactionId,
        caller: Caller<'_>,
        gatekeeper: &mut dyn Gatekeeper,
    ) {
        let request = caller.request;
        let method = request.method().unwrap_or("");
        if method == "CANCEL" {
            return self.handle_cancel(now, id, request);
        }
        if request.max_forwards() == Some(0) {
            return self.core.refuse(now, id, request, 483);
        }
        let registers = method == "REGISTER" && gatekeeper.is_registrar();
        if !registers && !ALLOW.split(", ").any(|allowed| allowed == method) {
            return self.core.refuse_with(now, id, request, 405, |m| m.push("Allow", ALLOW));
        }
        let known = |tag: &str| {
            SUPPORTED.iter().any(|known| known.eq_ignore_ascii_case(tag))
                || (registers && ["path", "outbound", "gruu"].iter().any(|known| known.eq_ignore_ascii_case(tag)))
        };
        let unknown: Vec<&str> = request.list("Require").filter(|tag| !known(tag)).collect();
        if !unknown.is_empty() {
            return self.core.refuse_with(now, id, request, 420, |m| m.push("Unsupported", unknown.join(", ")));
        }
        if request.header("Content-Encoding").is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
            return self.core.refuse_with(now, id, request, 415, |m| m.push("Accept-Encoding", "identity"));
        }
        let body_unusable = !request.body.is_empty() && request.sdp().is_none();
        if matches!(method, "INVITE" | "UPDATE" | "PRACK") && body_unusable {
            return self.core.refuse_with(now, id, request, 415, |m| m.push("Accept", "application/sdp"));
        }
        if method != "INVITE" && request.header("Replaces").is_some() {
            // RFC 3891 §3.
            return self.core.refuse(now, id, request, 400);
        }
        if request.to_tag().is_some() && !registers {
            return match self.call_of(request) {
                Some(call) => self.with(now, call, |call, core| call.on_request(core, now, id, &caller)),
                None => self.core.refuse(now, id, request, 481),
            };
        }
        match method {
            "INVITE" => self.handle_invite(now, id, &caller, gatekeeper),
            "REGISTER" => self.handle_register(now, id, &caller, gatekeeper),
            "OPTIONS" => self.core.refuse_with(now, id, request, 200, |m| {
                m.push("Allow", ALLOW);
                m.push("Accept", "application/sdp");
                m.push("Supported", SUPPORTED.join(", "));
            }),
            _ => self.core.refuse(now, id, request, 481),
        }
    }

    fn handle_invite(&mut self, now: Instant, id: TransactionId, caller: &Caller<'_>, gatekeeper: &mut dyn Gatekeeper) {
        let request = caller.request;
        let Some(admitted) = self.core.admit(now, id, caller, gatekeeper) else { return };
        if self.calls.len() >= CALLS_MAX {
            return self.core.refuse_with(now, id, request, 503, |m| m.push("Retry-After", "5"));
        }
        let replaces = match self.replaced_by(request) {
            Ok(replaces) => replaces,
            Err(code) => return self.core.refuse(now, id, request, code),
        };
        let call_id = SipCallId(self.next_call);
        let arrival = Arrival {
            request: request.clone(),
            hop: caller.hop.clone(),
            peer: caller.peer.clone(),
            admitted,
            replaces,
        };
        let Some(call) = Call::incoming(&mut self.core, now, call_id, id, arrival, &caller.reply_to) else { return };
        self.next_call += 1;
        self.calls.insert(call_id, Box::new(call));
        self.settle(call_id);
    }

    /// The call that an INVITE is to replace, by the rules of RFC 3891 §3; the error is the code of the refusal. Whether its
    /// sender may do so is for the owner of the calls to say.
    fn replaced_by(&self, invite: &Message) -> Result<Option<SipCallId>, u16> {
        let mut headers = invite.headers("Replaces");
        let Some(first) = headers.next() else { return Ok(None) };
        let named = replaces_of(first).filter(|_| headers.next().is_none() && invite.header("Join").is_none());
        let named = named.ok_or(400u16)?;
        let (id, call, leg) = self.dialog(&named.call_id, &named.to_tag, &named.from_tag).ok_or(481u16)?;
        match call.main {
            _ if call.ended || call.legs[leg].closed => Err(603),
            Some(main) if main != leg => Err(481),
            Some(_) if named.early_only => Err(486),
            // An early dialog can be replaced by whoever began it only.
            None if call.uas.is_some() => Err(481),
            _ => Ok(Some(id)),
        }
    }

    fn dialog(&self, call_id: &str, local_tag: &str, remote_tag: &str) -> Option<(SipCallId, &Call, usize)> {
        let id = *self.core.dialogs.get(&(call_id.to_owned(), local_tag.to_owned()))?;
        let call = self.calls.get(&id)?;
        Some((id, call, call.leg_of(Some(remote_tag))?))
    }

    /// The call that a Refer-To names, of those that are alive. Its tags are those of whoever is to get the INVITE, which is us; since
    /// some clients write them by who called whom instead, the other order is understood too.
    pub fn named(&self, replaces: &Replaces) -> Option<SipCallId> {
        let Replaces { call_id, to_tag, from_tag, .. } = replaces;
        let found = self.dialog(call_id, to_tag, from_tag).or_else(|| self.dialog(call_id, from_tag, to_tag));
        found.filter(|(_, call, leg)| !call.ended && !call.legs[*leg].closed).map(|(id, ..)| id)
    }

    fn handle_register(
        &mut self,
        now: Instant,
        id: TransactionId,
        caller: &Caller<'_>,
        gatekeeper: &mut dyn Gatekeeper,
    ) {
        let Some(admitted) = self.core.admit(now, id, caller, gatekeeper) else { return };
        let answer = gatekeeper.register(now, caller.request, caller.hop, &admitted);
        self.core.refuse_with(now, id, caller.request, answer.code, |m| {
            for (name, value) in &answer.headers {
                m.push(name, value.as_str());
            }
        });
    }
}

impl Core {
    /// Asks the gatekeeper, and challenges where it says so. `None`: the request is dealt with.
    fn admit(
        &mut self,
        now: Instant,
        id: TransactionId,
        caller: &Caller<'_>,
        gatekeeper: &mut dyn Gatekeeper,
    ) -> Option<Admitted> {
        let Caller { request, hop, peer, .. } = *caller;
        let (realm, algorithms) = match gatekeeper.admit(now, &Asking { request, hop, peer, user: None }) {
            Admission::Accept(admitted) => return Some(admitted),
            Admission::Refuse(refusal) => return self.turn_away(now, id, request, &refusal),
            Admission::Ignore => return self.ignore(id),
            Admission::Challenge { realm, algorithms } => (realm, algorithms),
        };
        let algorithms = match () {
            // Libraries in browsers give up on a challenge they do not know, whatever stands beside it.
            () if hop.transport.is_websocket() => vec![Algorithm::Md5],
            () if algorithms.is_empty() => vec![Algorithm::Sha256, Algorithm::Md5],
            () => algorithms,
        };
        let (code, asks, answers) = match request.method() {
            Some("REGISTER") => (401, "WWW-Authenticate", "Authorization"),
            _ => (407, "Proxy-Authenticate", "Proxy-Authorization"),
        };
        let secret = |name: &str| gatekeeper.secret(&realm, name);
        match self.guard.verify(now, request, answers, &realm, &algorithms, &secret) {
            Verdict::Granted(user) => {
                match gatekeeper.admit(now, &Asking { request, hop, peer, user: Some(&user) }) {
                    Admission::Accept(admitted) => Some(admitted),
                    Admission::Refuse(refusal) => self.turn_away(now, id, request, &refusal),
                    Admission::Ignore => self.ignore(id),
                    // Right credentials, wrong realm for what it wants.
                    Admission::Challenge { .. } => self.turn_away(now, id, request, &Refusal::code(403)),
                }
            }
            Verdict::Denied { stale } => {
                let challenges = self.guard.challenges(now, &realm, &algorithms, stale, &mut self.random);
                self.refuse_with(now, id, request, code, |m| {
                    challenges.into_iter().for_each(|challenge| m.push(asks, challenge));
                });
                None
            }
        }
    }

    fn turn_away<T>(&mut self, now: Instant, id: TransactionId, request: &Message, refusal: &Refusal) -> Option<T> {
        let tag = self.random.token(12);
        let mut response = refusal.response(request, &tag, &self.sent_by(super::Transport::Udp));
        response.push("Server", self.config.product.as_str());
        self.transactions.respond(now, id, &response);
        None
    }

    fn ignore<T>(&mut self, id: TransactionId) -> Option<T> {
        self.transactions.forget(id);
        None
    }
}

impl Refusal {
    /// The response. `agent`: who warns (RFC 3261 §20.43).
    pub(super) fn response(&self, request: &Message, tag: &str, agent: &str) -> Message {
        let code = self.final_code();
        let phrase = self.phrase.as_deref().map(printable);
        let mut response =
            Message::response(request, code, phrase.as_deref().unwrap_or(reason_phrase(code)), Some(tag));
        if let Some(warning) = &self.warning {
            response.push("Warning", format!("399 {agent} {}", super::super::uri::quote(warning)));
        }
        if let Some(reason) = &self.reason {
            response.push("Reason", printable(reason));
        }
        if let Some(seconds) = self.retry_after_s {
            response.push("Retry-After", seconds.to_string());
        }
        for contact in &self.contacts {
            response.push("Contact", format!("<{}>", printable(contact)));
        }
        response
    }
}
