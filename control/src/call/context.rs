//! What every call of the edge shares: the agent, the way to the engine, and whose a SIP call is.

use super::backends::Backends;
use super::edge::{EdgeConfig, EdgeOutput};
use super::limits::{HEADER_NOTED_CHARS_MAX, HEADERS_PASSED_MAX};
use super::outbound::{DialRequest, NewDial};
use crate::registrar::Gate;
use crate::route::{Load, TrunkId};
use crate::sip::{Invite, SipAgent, SipCallId};
use crate::trace::timeline::{Entry, Step};
use engine::bridge::{BridgeCommand, BridgeId};
use engine::random::Random;
use engine::time::Instant;
use engine::worker::Command;
use std::collections::{BTreeMap, VecDeque};

/// Whose the SIP calls are.
#[derive(Default)]
pub(super) struct Calls {
    owners: BTreeMap<SipCallId, Owner>,
    /// SIP calls that have not ended, by session.
    live: BTreeMap<u64, usize>,
    /// The sessions that a user is in, with how many SIP calls: devices that ring for one call are one call.
    users: BTreeMap<String, BTreeMap<u64, usize>>,
    /// The number of the last call to a user of WhatsApp.
    last_dial: u64,
}

/// Marks calls to users of WhatsApp among SIP's, whose numbers count from 1.
const DIAL_BIT: u64 = 1 << 63;

/// The number of a call to a user of WhatsApp; `None`: it is SIP's.
pub(super) fn dial_of(call: SipCallId) -> Option<u64> {
    (call.0 & DIAL_BIT != 0).then_some(call.0 & !DIAL_BIT)
}

/// What a call to a user of WhatsApp is called among SIP's.
pub(super) fn call_of(dial: u64) -> SipCallId {
    SipCallId(dial | DIAL_BIT)
}

struct Owner {
    number: u64,
    trunk: Option<TrunkId>,
    user: Option<String>,
}

impl Calls {
    pub fn insert(&mut self, call: SipCallId, number: u64, trunk: Option<TrunkId>, user: Option<&str>) {
        let owner = Owner { number, trunk, user: user.map(str::to_owned) };
        if self.owners.insert(call, owner).is_none() {
            *self.live.entry(number).or_default() += 1;
            if let Some(user) = user {
                *self.users.entry(user.to_owned()).or_default().entry(number).or_default() += 1;
            }
        }
    }

    /// Calls that a user is in, or that ring for it, beside this one.
    pub fn of_user(&self, user: &str, number: u64) -> usize {
        self.users.get(user).map_or(0, |calls| calls.len() - usize::from(calls.contains_key(&number)))
    }

    pub fn owner(&self, call: SipCallId) -> Option<u64> {
        self.owners.get(&call).map(|owner| owner.number)
    }

    pub fn user(&self, call: SipCallId) -> Option<&str> {
        self.owners.get(&call)?.user.as_deref()
    }

    pub fn trunk(&self, call: SipCallId) -> Option<TrunkId> {
        self.owners.get(&call)?.trunk
    }

    /// The call is over; answers whose it was and which trunk carried it.
    pub fn remove(&mut self, call: SipCallId) -> Option<(u64, Option<TrunkId>)> {
        let Owner { number, trunk, user } = self.owners.remove(&call)?;
        if let Some(user) = user {
            self.leave(&user, number);
        }
        if let Some(live) = self.live.get_mut(&number) {
            *live -= 1;
            if *live == 0 {
                self.live.remove(&number);
            }
        }
        Some((number, trunk))
    }

    /// Forgets all calls of a session, and answers the trunks that carried them.
    pub fn forget(&mut self, number: u64) -> Vec<TrunkId> {
        if self.live.remove(&number).is_none() {
            return Vec::new();
        }
        let calls: Vec<SipCallId> =
            self.owners.iter().filter(|(_, owner)| owner.number == number).map(|(call, _)| *call).collect();
        let mut trunks = Vec::new();
        for call in calls {
            let Some(Owner { trunk, user, .. }) = self.owners.remove(&call) else { continue };
            trunks.extend(trunk);
            if let Some(user) = user {
                self.leave(&user, number);
            }
        }
        trunks
    }

    fn leave(&mut self, user: &str, number: u64) {
        let Some(calls) = self.users.get_mut(user) else { return };
        if let Some(count) = calls.get_mut(&number) {
            *count -= 1;
            if *count == 0 {
                calls.remove(&number);
            }
        }
        if calls.is_empty() {
            self.users.remove(user);
        }
    }

    pub fn live(&self, number: u64) -> usize {
        self.live.get(&number).copied().unwrap_or(0)
    }
}

/// What a session or call needs from its edge at every input.
pub(super) struct Context<'e> {
    pub now: Instant,
    pub config: &'e EdgeConfig,
    pub sip: &'e mut SipAgent,
    pub out: &'e mut VecDeque<EdgeOutput>,
    pub random: &'e mut Random,
    pub load: &'e mut Load,
    /// Routes, and where users are.
    pub gate: &'e Gate,
    pub calls: &'e mut Calls,
    /// Which DTLS library serves whom.
    pub backends: &'e mut Backends,
    /// Of the session, which is its bridge's too.
    pub number: u64,
    pub worker: usize,
}

impl Context<'_> {
    /// Tells the session's bridge something.
    pub fn command(&mut self, command: BridgeCommand) {
        let command = Command::Bridge { bridge: BridgeId(self.number), command };
        self.out.push_back(EdgeOutput::Engine { worker: self.worker, command });
    }

    /// Places a SIP call for the session.
    pub fn invite(&mut self, invite: Invite, trunk: Option<TrunkId>, user: Option<&str>) -> SipCallId {
        let call = self.sip.invite(self.now, invite);
        self.calls.insert(call, self.number, trunk, user);
        if let Some(trunk) = trunk {
            self.load.begin(trunk);
        }
        call
    }

    /// A softphone that lost its connection has registered from another: what is sent to it inside its call goes there.
    pub fn follow(&mut self, call: SipCallId) {
        let Some(user) = self.calls.user(call) else { return };
        for binding in self.gate.registrar.bindings(user) {
            self.sip.peer_is_at(self.now, call, &binding.contact, &binding.hop);
        }
    }

    /// Calls a user of WhatsApp for the session; `new` gets its number here.
    pub fn dial(&mut self, new: NewDial, trunk: Option<TrunkId>) -> SipCallId {
        self.calls.last_dial += 1;
        let dial = self.calls.last_dial;
        self.out.push_back(EdgeOutput::Dial(DialRequest::Place(Box::new(NewDial { dial, ..new }))));
        self.calls.insert(call_of(dial), self.number, trunk, None);
        if let Some(trunk) = trunk {
            self.load.begin(trunk);
        }
        call_of(dial)
    }

    /// The user of WhatsApp who was called is heard.
    pub fn picked_up(&mut self, call: SipCallId) {
        if let Some(dial) = dial_of(call) {
            self.out.push_back(EdgeOutput::Dial(DialRequest::PickedUp { dial }));
        }
    }

    /// Ends a call, SIP's or one to a user of WhatsApp.
    pub fn hangup(&mut self, call: SipCallId, reason: &str) {
        match dial_of(call) {
            Some(dial) => self.out.push_back(EdgeOutput::Dial(DialRequest::HangUp { dial })),
            None => {
                self.follow(call);
                self.sip.hangup(self.now, call, Some(reason));
            }
        }
    }

    /// Writes down what a provider said about a call in headers of its own.
    pub fn note_headers(&mut self, call_id: &str, subject: &str, headers: &[(String, String)]) {
        let said = headers.iter().take(HEADERS_PASSED_MAX).map(|(name, value)| {
            let cut: String = value.chars().take(HEADER_NOTED_CHARS_MAX).collect();
            format!("{name}: {cut}")
        });
        let words = said.collect::<Vec<_>>().join("; ");
        if !words.is_empty() {
            self.note(call_id, Step::Meta, format!("{subject} says {words}"));
        }
    }

    /// Writes a line on the call's timeline.
    pub fn note(&mut self, call_id: &str, step: Step, detail: String) {
        self.out.push_back(EdgeOutput::Timeline(Entry { call_id: call_id.to_owned(), at: self.now, step, detail }));
    }
}
