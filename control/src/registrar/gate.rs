//! The gate: which trunk or user an incoming request belongs to, or why it is nobody's.
//!
//! ```text
//! REGISTER ──> digest ──> is it the user's own address? ──> registrar
//! INVITE ────> by WebSocket? ──> digest ──> user
//!         └──> a trunk's address or certificate? ──> trunk    (with inbound_user: digest too)
//!                └── neither ──> digest ──> user or trunk, where there are passwords to know; else 403
//! ```
//!
//! The peer is told little and the log everything: which trunk wanted which transport, source or certificate, and what was shown.
//! Scanners knock all day, so the log takes `NOTES_PER_MINUTE_MAX` such lines a minute and then counts.
//!
//! Why From is compared with the digest's user: the number that the called party sees must be one that its caller may show.

use super::binding::Registrar;
use crate::route::{Arrival, Considered, Recognised, Routes, TrunkId, unescape};
use crate::sip::digest::Algorithm;
use crate::sip::gatekeeper::{Admission, Admitted, Asking, Gatekeeper, Refusal, Registered, Secret};
use crate::sip::message::Message;
use crate::sip::transport::{ConnectionId, Hop};
use crate::sip::uri::{NameAddr, SipUri};
use engine::time::Instant;
use std::collections::VecDeque;

/// Lines about refused requests that the log takes a minute.
const NOTES_PER_MINUTE_MAX: u32 = 30;

/// Lines that wait for the log.
const NOTES_MAX: usize = 64;

/// What the gate counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateCounters {
    /// Requests admitted as a trunk's.
    pub trunks_admitted: u64,
    /// Requests admitted as a user's.
    pub users_admitted: u64,
    /// Requests that were asked for a password.
    pub challenged: u64,
    /// Requests refused.
    pub refused: u64,
    /// REGISTERs carried out.
    pub registered: u64,
}

/// Decides who may call and register. Owns the routes and the registrar.
pub struct Gate {
    /// Where calls go.
    pub routes: Routes,
    /// Who is where.
    pub registrar: Registrar,
    realm: String,
    counters: GateCounters,
    notes: VecDeque<String>,
    minute: u64,
    noted: u32,
    unnoted: u64,
}

impl Gate {
    /// A gate; `realm` is the domain of its users.
    pub fn new(routes: Routes, realm: &str) -> Gate {
        Gate {
            routes,
            registrar: Registrar::new(),
            realm: realm.to_owned(),
            counters: GateCounters::default(),
            notes: VecDeque::new(),
            minute: 0,
            noted: 0,
            unnoted: 0,
        }
    }

    /// What was counted so far.
    pub fn counters(&self) -> GateCounters {
        self.counters
    }

    /// The next line for the log: what was refused, and why in full.
    pub fn poll_note(&mut self) -> Option<String> {
        self.notes.pop_front()
    }

    /// A connection is gone, and the devices that only it led to.
    pub fn connection_closed(&mut self, connection: ConnectionId) {
        self.registrar.connection_closed(connection);
    }

    /// When `handle_timeout` has something to do.
    pub fn deadline(&self) -> Instant {
        self.registrar.deadline()
    }

    /// Forgets devices that were not refreshed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.registrar.handle_timeout(now);
    }

    fn challenge(&mut self, algorithms: Vec<Algorithm>) -> Admission {
        self.counters.challenged += 1;
        Admission::Challenge { realm: self.realm.clone(), algorithms }
    }

    /// Of users MD5 is asked for, over every transport: phones give up on a challenge they do not know, whatever stands beside it.
    fn challenge_user(&mut self) -> Admission {
        self.challenge(vec![Algorithm::Md5])
    }

    /// Refuses with a sentence for the peer and one for the log.
    fn refuse(&mut self, now: Instant, asking: &Asking<'_>, code: u16, words: &str, log: &str) -> Admission {
        self.counters.refused += 1;
        let method = asking.request.method().unwrap_or("a request");
        let (transport, remote) = (asking.hop.transport.via_name(), asking.hop.remote);
        self.note(now, format!("{method} over {transport} from {remote} refused with {code}: {log}"));
        Admission::Refuse(Refusal::warned(code, words))
    }

    fn note(&mut self, now: Instant, note: String) {
        let minute = now.as_millis() / 60_000;
        if minute != self.minute {
            let unnoted = std::mem::take(&mut self.unnoted);
            (self.minute, self.noted) = (minute, 0);
            if unnoted > 0 {
                self.notes.push_back(format!("{unnoted} more requests were refused the minute before"));
            }
        }
        if self.noted >= NOTES_PER_MINUTE_MAX || self.notes.len() >= NOTES_MAX {
            self.unnoted += 1;
            return;
        }
        self.noted += 1;
        self.notes.push_back(note);
    }

    fn admit_register(&mut self, now: Instant, asking: &Asking<'_>) -> Admission {
        let Some(user) = asking.user else { return self.challenge_user() };
        let address = asking.request.header("To").and_then(user_of);
        if address.as_deref() == Some(user) && self.routes.users.contains_key(user) {
            return Admission::Accept(Admitted::User(user.to_owned()));
        }
        let words = "the password is another user's than the address of record";
        self.refuse(now, asking, 403, words, &format!("{words}: the password is {user}'s"))
    }

    fn admit_call(&mut self, now: Instant, asking: &Asking<'_>) -> Admission {
        if asking.hop.transport.is_websocket() {
            return match asking.user {
                None => self.challenge_user(),
                Some(user) => self.admit_user(now, asking, user),
            };
        }
        let arrival = Arrival {
            transport: asking.hop.transport,
            source: asking.hop.remote,
            certificate_names: &asking.peer.certificate_names,
        };
        if let Some(user) = asking.user
            && self.routes.users.contains_key(user)
        {
            return self.admit_user(now, asking, user);
        }
        match self.routes.recognise(&arrival, asking.user) {
            Recognised::Trunk(id) => self.admit_trunk(id),
            Recognised::Challenge(trunks) => match (asking.user, trunks.first()) {
                (Some(_), Some(id)) => self.admit_trunk(*id),
                _ => {
                    let wants_md5 = |id: &TrunkId| self.routes.trunk(*id).is_some_and(|trunk| trunk.inbound_md5);
                    let only_md5 = trunks.iter().any(wants_md5);
                    self.challenge(if only_md5 { vec![Algorithm::Md5] } else { Vec::new() })
                }
            },
            Recognised::WrongTransport(trunk) => {
                let wanted = self.routes.trunk(trunk).map_or("another transport", |trunk| trunk.transport.via_name());
                let name = self.routes.trunk(trunk).map_or("?", |trunk| &trunk.name).to_owned();
                let words = format!("calls from here must come over {wanted}");
                self.refuse(now, asking, 403, &words, &format!("trunk {name} takes its calls over {wanted}"))
            }
            Recognised::Refused(_) if asking.user.is_none() && !self.routes.users.is_empty() => self.challenge_user(),
            Recognised::Refused(why) => {
                let why: Vec<String> =
                    why.iter().map(|Considered { subject, why, .. }| format!("{subject} {why}")).collect();
                let why = if why.is_empty() { "there is no trunk that takes calls".to_owned() } else { why.join("; ") };
                self.refuse(now, asking, 403, "this gateway takes no calls from there", &why)
            }
        }
    }

    fn admit_user(&mut self, now: Instant, asking: &Asking<'_>, user: &str) -> Admission {
        let claimed = asking.request.header("From").and_then(user_of).unwrap_or_default();
        let numbering = &self.routes.numbering;
        let own_number = self.routes.users.get(user).and_then(|user| user.number.clone());
        let own = claimed == user || own_number.is_some_and(|number| numbering.e164(&claimed) == Some(number));
        if !self.routes.users.contains_key(user) || !own {
            let words = "From is neither the name nor the number of whose password it is";
            return self.refuse(now, asking, 403, words, &format!("{words}: it is {user}'s"));
        }
        self.counters.users_admitted += 1;
        Admission::Accept(Admitted::User(user.to_owned()))
    }

    fn admit_trunk(&mut self, id: TrunkId) -> Admission {
        self.counters.trunks_admitted += 1;
        Admission::Accept(Admitted::Trunk(self.routes.trunk(id).map_or_else(String::new, |trunk| trunk.name.clone())))
    }
}

impl Gatekeeper for Gate {
    fn is_registrar(&self) -> bool {
        !self.routes.users.is_empty()
    }

    fn admit(&mut self, now: Instant, asking: &Asking<'_>) -> Admission {
        match asking.request.method() {
            Some("REGISTER") => self.admit_register(now, asking),
            _ => self.admit_call(now, asking),
        }
    }

    fn secret(&self, realm: &str, username: &str) -> Option<Secret> {
        if realm != self.realm {
            return None;
        }
        let user = self.routes.users.get(username).map(|user| user.password.0.clone());
        let trunk = || {
            let credentials = self.routes.trunks.iter().filter_map(|trunk| trunk.inbound.as_ref());
            credentials.into_iter().find(|known| known.username == username).map(|known| known.password.clone())
        };
        user.or_else(trunk).map(Secret::Password)
    }

    fn register(&mut self, now: Instant, request: &Message, hop: &Hop, admitted: &Admitted) -> Registered {
        let Admitted::User(user) = admitted else { return Registered { code: 403, headers: Vec::new() } };
        let devices_max = self.routes.users.get(user).map_or(0, |user| user.devices_max);
        let answer = self.registrar.register(now, request, hop, user, devices_max);
        self.counters.registered += u64::from(answer.code == 200);
        if answer.code >= 300 {
            let why = answer.headers.iter().find(|(name, _)| name == "Warning").map_or("", |(_, value)| value.as_str());
            self.note(now, format!("REGISTER of {user} from {} refused with {}: {why}", hop.remote, answer.code));
        }
        answer
    }
}

/// The user part of a From or To, unescaped.
fn user_of(header: &str) -> Option<String> {
    let address = NameAddr::parse(header)?;
    SipUri::parse(address.uri)?.user.map(|user| unescape(user.split(':').next().unwrap_or(user)))
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
