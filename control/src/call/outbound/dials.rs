//! Every call to a user of WhatsApp: which event belongs to which, and what has to wait until that is known.

use super::dial::{Act, DIAL_TICKET_BITS, Dial};
use super::{DialEvent, DialEventKind, DialRequest, NewDial};
use crate::call::limits::*;
use crate::call::orchestrator::OrchestratorCounters;
use crate::sip::SipEnd;
use crate::store::{CallRecord, Change};
use crate::trace::timeline::Entry;
use crate::whatsapp::event::{Answer, Status, Terminate};
use crate::whatsapp::graph::{ConnectRequest, GraphError};
use engine::random::Random;
use engine::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What `poll` answers.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::call) enum DialOutput {
    Connect(ConnectRequest),
    Event(DialEvent),
    Timeline(Entry),
    Store(Change),
    /// WhatsApp must be told that this call is over; `timeline` is whose caller hung up.
    Goodbye {
        call_id: String,
        phone_number_id: String,
        timeline: String,
    },
    /// WhatsApp knows that this call is over.
    Over {
        call_id: String,
    },
}

/// Whose an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::call) enum Taken {
    /// A dial's.
    Yes,
    /// Perhaps a dial's whose id is still on its way: it waits.
    Kept,
    /// Another account's: it is not for its sender to say.
    Foreign,
    /// Nobody's here.
    No,
}

/// An event of a call that the business placed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Answer(Answer),
    Status(Status),
    Terminate(Terminate),
}

impl Event {
    /// Call id, our token, and the business number.
    fn names(&self) -> (&str, Option<&str>, Option<&str>) {
        let (id, opaque, number) = match self {
            Event::Answer(Answer { call_id, opaque, phone_number_id, .. })
            | Event::Status(Status { call_id, opaque, phone_number_id, .. })
            | Event::Terminate(Terminate { call_id, opaque, phone_number_id, .. }) => {
                (call_id, opaque, phone_number_id)
            }
        };
        (id, opaque.as_deref(), number.as_deref())
    }

    /// Whether the call goes on after it.
    fn is_alive(&self) -> bool {
        match self {
            Event::Answer(_) => true,
            Event::Status(status) => status.status != "REJECTED",
            Event::Terminate(_) => false,
        }
    }
}

struct Entered {
    dial: Dial,
    armed: Instant,
}

/// All of them.
#[derive(Default)]
pub(in crate::call) struct Dials {
    dials: BTreeMap<u64, Entered>,
    by_call_id: BTreeMap<String, u64>,
    by_token: BTreeMap<String, u64>,
    timers: BTreeSet<(Instant, u64)>,
    /// Events of calls that nobody has named yet, oldest first, and until when they wait.
    early: VecDeque<(Instant, Event)>,
    /// Of dials of the last run.
    next_forgotten: u64,
    out: VecDeque<DialOutput>,
}

/// Marks the numbers of dials of the last run.
const FORGOTTEN_BIT: u64 = 1 << 55;

/// What our tokens begin with, in webhooks and in the store.
const TOKEN_PREFIX: &str = "tandem.";

/// What an input needs beside the dials.
pub(in crate::call) struct Surroundings<'o> {
    pub now: Instant,
    pub wall_s: u64,
    pub random: &'o mut Random,
    pub counters: &'o mut OrchestratorCounters,
}

impl Dials {
    /// Whether a record of the store is that of a call without an id.
    pub fn is_token(name: &str) -> bool {
        name.starts_with(TOKEN_PREFIX)
    }

    /// A call of the last run that Graph may have begun, and whose id was never learned.
    pub fn restore(&mut self, now: Instant, token: String, record: &CallRecord) {
        self.next_forgotten += 1;
        let number = FORGOTTEN_BIT | self.next_forgotten;
        self.by_token.insert(token.clone(), number);
        self.dials.insert(number, Entered { dial: Dial::forgotten(now, number, token, record), armed: Instant::NEVER });
        self.settle(now, number);
    }

    /// Takes a request of the edge. `refusal`: why nothing can be placed now.
    pub fn handle_request(&mut self, env: &mut Surroundings, request: DialRequest, refusal: Option<&str>) {
        match request {
            DialRequest::Place(new) => self.place(env, *new, refusal),
            DialRequest::PickedUp { dial } => {
                let counters = &mut *env.counters;
                self.with(env.now, dial, |dial| {
                    counters.dials_answered += u64::from(!dial.is_talking());
                    dial.picked_up();
                });
            }
            DialRequest::HangUp { dial } => self.with(env.now, dial, |dial| dial.hang_up(env.now)),
        }
    }

    /// Graph's reply to a `Connect`.
    pub fn connected(&mut self, env: &mut Surroundings, request: u64, result: Result<String, GraphError>) {
        let (number, ticket) = (request >> DIAL_TICKET_BITS, request as u8);
        let id = result.as_ref().ok().cloned();
        let counters = &mut *env.counters;
        // A dial that is not there any more was ended by WhatsApp before Graph had replied.
        self.with(env.now, number, |dial| {
            dial.connected(env.now, env.random, ticket, result);
            counters.graph_retries += u64::from(dial.is_paused());
            counters.graph_failures += u64::from(id.is_none() && !dial.is_paused());
        });
        if let Some(id) = id {
            self.replay(env, &id);
        }
    }

    /// Takes WhatsApp's answer to an offer of ours.
    pub fn handle_answer(&mut self, env: &mut Surroundings, answer: Answer) -> Taken {
        self.handle(env, Event::Answer(answer))
    }

    /// Takes RINGING, ACCEPTED or REJECTED.
    pub fn handle_status(&mut self, env: &mut Surroundings, status: Status) -> Taken {
        self.handle(env, Event::Status(status))
    }

    /// Takes the end of a call.
    pub fn handle_terminate(&mut self, env: &mut Surroundings, terminate: &Terminate) -> Taken {
        self.handle(env, Event::Terminate(terminate.clone()))
    }

    /// Ends all of them.
    pub fn shut_down(&mut self, now: Instant) {
        let numbers: Vec<u64> = self.dials.keys().copied().collect();
        for number in numbers {
            self.with(now, number, |dial| dial.hang_up(now));
        }
    }

    /// Call when `deadline` has come.
    pub fn handle_timeout(&mut self, env: &mut Surroundings) {
        while let Some(&(due, number)) = self.timers.first()
            && due <= env.now
        {
            let (was_live, counters) = (self.is_live(number), &mut *env.counters);
            self.with(env.now, number, |dial| {
                dial.handle_timeout(env.now, env.random);
                counters.dials_lost += u64::from(!was_live && dial.is_over());
            });
        }
        while self.early.front().is_some_and(|(until, _)| *until <= env.now) {
            self.early.pop_front();
            env.counters.events_unknown += 1;
        }
    }

    /// When `handle_timeout` is to be called.
    pub fn deadline(&self) -> Instant {
        let early = self.early.front().map_or(Instant::NEVER, |(until, _)| *until);
        self.timers.first().map_or(Instant::NEVER, |(due, _)| *due).min(early)
    }

    pub fn poll(&mut self) -> Option<DialOutput> {
        self.out.pop_front()
    }

    /// All that are not over.
    pub fn alive(&self) -> usize {
        self.dials.len()
    }

    /// Those that a program which drains waits for.
    pub fn pending(&self) -> usize {
        self.dials.values().filter(|entered| entered.dial.is_pending()).count()
    }

    fn place(&mut self, env: &mut Surroundings, new: NewDial, refusal: Option<&str>) {
        let full = (self.dials.len() >= DIALS_MAX).then_some("as many calls to users as there may be go on");
        if let Some(words) = refusal.or(full) {
            let end = SipEnd::Rejected { code: 503, reason: words.to_owned() };
            let event = DialEvent { dial: new.dial, kind: DialEventKind::Ended(end) };
            env.counters.dials_refused += 1;
            return self.out.push_back(DialOutput::Event(event));
        }
        env.counters.dials_begun += 1;
        let (number, token) = (new.dial, format!("{TOKEN_PREFIX}{}", env.random.token(22)));
        self.by_token.insert(token.clone(), number);
        let dial = Dial::place(env.now, env.wall_s, token, new);
        self.dials.insert(number, Entered { dial, armed: Instant::NEVER });
        self.settle(env.now, number);
    }

    fn handle(&mut self, env: &mut Surroundings, event: Event) -> Taken {
        let (call_id, opaque, phone_number_id) = event.names();
        let by_token = opaque.and_then(|opaque| self.by_token.get(opaque));
        let Some(number) = self.by_call_id.get(call_id).or(by_token).copied() else { return self.keep(env, event) };
        let ours = self.dials.get(&number).map_or("", |entered| entered.dial.phone_number_id.as_str());
        // One account must not speak for the calls of another.
        if phone_number_id.is_some_and(|theirs| theirs != ours) {
            return Taken::Foreign;
        }
        let known = self.dials.get(&number).and_then(|entered| entered.dial.wa_call_id.clone());
        if known.as_ref().is_some_and(|known| known != call_id) {
            // A request that had failed was carried out all the same: one user is not called twice.
            if event.is_alive() {
                let id = call_id.to_owned();
                self.with(env.now, number, |dial| dial.learn(id));
            }
            return Taken::Yes;
        }
        let (id, counters, now) = (call_id.to_owned(), &mut *env.counters, env.now);
        self.with(now, number, |dial| {
            if known.is_none() {
                match event.is_alive() {
                    true => dial.learn(id),
                    false => dial.wa_call_id = Some(id),
                }
            }
            let before = dial.is_talking();
            match event {
                Event::Answer(answer) => dial.answer(answer.sdp),
                Event::Status(status) => dial.status(now, &status.status),
                Event::Terminate(terminate) => dial.terminate(&terminate),
            }
            counters.dials_answered += u64::from(!before && dial.is_talking());
        });
        if known.is_none() {
            let id = self.dials.get(&number).and_then(|entered| entered.dial.wa_call_id.clone());
            id.into_iter().for_each(|id| self.replay(env, &id));
        }
        Taken::Yes
    }

    /// An event of a call that nobody here knows, while a reply is outstanding that may name it.
    fn keep(&mut self, env: &mut Surroundings, event: Event) -> Taken {
        let waits = self.dials.values().any(|entered| entered.dial.wa_call_id.is_none());
        if !waits {
            return Taken::No;
        }
        if self.early.len() >= EARLY_EVENTS_MAX {
            self.early.pop_front();
            env.counters.events_unknown += 1;
        }
        self.early.push_back((env.now.plus_millis(EARLY_EVENT_MS_MAX), event));
        Taken::Kept
    }

    /// What came before the call had its id.
    fn replay(&mut self, env: &mut Surroundings, call_id: &str) {
        let (theirs, rest): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.early).into_iter().partition(|(_, event)| event.names().0 == call_id);
        self.early = rest;
        for (_, event) in theirs {
            if self.by_call_id.contains_key(call_id) {
                self.handle(env, event);
            }
        }
    }

    fn is_live(&self, number: u64) -> bool {
        self.dials.get(&number).is_some_and(|entered| entered.dial.is_live())
    }

    fn with(&mut self, now: Instant, number: u64, change: impl FnOnce(&mut Dial)) {
        if let Some(entered) = self.dials.get_mut(&number) {
            change(&mut entered.dial);
            self.settle(now, number);
        }
    }

    /// Carries out what a dial wants, sets its timer anew, and removes it when it is over.
    fn settle(&mut self, now: Instant, number: u64) {
        let Some(Entered { dial, armed }) = self.dials.get_mut(&number) else { return };
        if let Some(id) = &dial.wa_call_id
            && !self.by_call_id.contains_key(id)
        {
            self.by_call_id.insert(id.clone(), number);
        }
        while let Some(act) = dial.poll_act() {
            self.out.push_back(match act {
                Act::Connect(request) => DialOutput::Connect(request),
                Act::Event(kind) => DialOutput::Event(DialEvent { dial: number, kind }),
                Act::Timeline(step, detail) => {
                    DialOutput::Timeline(Entry { call_id: dial.call_id.clone(), at: now, step, detail })
                }
                Act::Store(change) => DialOutput::Store(change),
                Act::Goodbye(call_id) => DialOutput::Goodbye {
                    call_id,
                    phone_number_id: dial.phone_number_id.clone(),
                    timeline: dial.call_id.clone(),
                },
                Act::Over(call_id) => DialOutput::Over { call_id },
            });
        }
        self.timers.remove(&(*armed, number));
        if dial.is_over() {
            if let Some(id) = &dial.wa_call_id {
                self.by_call_id.remove(id);
            }
            self.by_token.remove(&dial.token);
            self.dials.remove(&number);
            return;
        }
        *armed = dial.deadline();
        if *armed != Instant::NEVER {
            self.timers.insert((*armed, number));
        }
    }
}
