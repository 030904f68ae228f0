//! WhatsApp, as it is to a business that calls: Graph with its failures, webhooks in any order and more than once, and a user who
//! answers or does not.

use super::*;
use control::whatsapp::event::{Answer, Status, Terminate, WebhookEvent};
use control::whatsapp::graph::{Callee, ConnectRequest, GraphAction, GraphError, GraphErrorKind, GraphRequest};

pub(crate) const WALL_S: u64 = 1_767_226_000;
pub(crate) const NUMBER_ID: &str = "118000000000021";

/// What the user does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Answers {
        after_ms: u64,
    },
    Declines {
        after_ms: u64,
    },
    /// WhatsApp gives up.
    LetsRing {
        ms: u64,
    },
    /// Answers; then the call has this long.
    HangsUp {
        after_ms: u64,
    },
}

/// What Graph and the webhooks' sender do wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wrong {
    /// Time of a reply.
    pub(crate) reply_ms: u64,
    /// Codes of the next `connect`s, 0 for success.
    pub(crate) failures: &'static [u32],
    /// Whether a failed request is carried out all the same.
    pub(crate) acts_all_the_same: bool,
    /// Replies to `connect` never come.
    pub(crate) is_mute: bool,
    /// Webhooks hold no `biz_opaque_callback_data`.
    pub(crate) forgets_names: bool,
    /// Webhooks come late by up to this, each by another time: in any order.
    pub(crate) late_ms_max: u32,
    pub(crate) duplicates_pct: u32,
    /// Graph requests that fail with 500.
    pub(crate) failing_pct: u32,
    /// The connect webhook never comes.
    pub(crate) without_answer: bool,
    /// ACCEPTED never comes.
    pub(crate) without_accepted: bool,
}

pub(crate) enum Said {
    Connected(u64, Result<String, GraphError>),
    Graph(u64, Result<(), GraphError>),
    Webhook(WebhookEvent),
}

struct Ringing {
    opaque: Option<String>,
    over: bool,
    /// A reply of Graph's has named it.
    named: bool,
}

pub(crate) struct Meta {
    pub(crate) user: User,
    pub(crate) wrong: Wrong,
    /// In order: `connect to 44...`, `terminate`.
    pub(crate) requests: Vec<String>,
    pub(crate) offers: Vec<String>,
    calls: BTreeMap<String, Ringing>,
    waiting: BTreeMap<(Instant, u64), Said>,
    count: u64,
    random: Random,
}

impl Meta {
    pub(crate) fn new(seed: u64) -> Meta {
        Meta {
            user: User::Answers { after_ms: 2_000 },
            wrong: Wrong { reply_ms: 300, ..Wrong::default() },
            requests: Vec::new(),
            offers: Vec::new(),
            calls: BTreeMap::new(),
            waiting: BTreeMap::new(),
            count: 0,
            random: Random::from_test_seed(seed ^ 0x3e7a),
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.waiting.first_key_value().map_or(Instant::NEVER, |((at, _), _)| *at)
    }

    pub(crate) fn poll(&mut self, now: Instant) -> Option<Said> {
        let ((at, _), _) = self.waiting.first_key_value()?;
        (*at <= now).then(|| self.waiting.pop_first())?.map(|(_, said)| said)
    }

    pub(crate) fn connect(&mut self, now: Instant, request: &ConnectRequest) {
        let (Callee::Number(to) | Callee::Scoped(to)) = &request.to;
        self.requests.push(format!("connect to {to}"));
        self.offers.push(request.sdp.clone());
        assert_eq!(request.phone_number_id, NUMBER_ID);
        let code = match self.wrong.failures.split_first() {
            Some((code, rest)) => {
                self.wrong.failures = rest;
                *code
            }
            None if self.random.below(100) < self.wrong.failing_pct => 138_004,
            None => 0,
        };
        let carries_out = code == 0 || self.wrong.acts_all_the_same;
        let id = format!("wacid.out.{}", self.calls.len() + 1);
        if carries_out {
            self.ring(now, &id, request.opaque.clone());
        }
        if !self.wrong.is_mute {
            if let Some(call) = self.calls.get_mut(&id).filter(|_| code == 0) {
                call.named = true;
            }
            let result = if code == 0 { Ok(id) } else { Err(failure(code)) };
            self.say(now.plus_millis(self.wrong.reply_ms), Said::Connected(request.request, result));
        }
    }

    /// `terminate` and its reply; the call's last webhook follows.
    pub(crate) fn act(&mut self, now: Instant, request: &GraphRequest) {
        assert_eq!(request.action, GraphAction::Terminate, "calls of the business are terminated");
        assert_eq!(request.phone_number_id, NUMBER_ID);
        self.requests.push("terminate".to_owned());
        let fails = self.random.below(100) < self.wrong.failing_pct;
        let known = self.calls.get(&request.call_id);
        let result = match known.map(|call| call.over) {
            _ if fails => Err(failure(138_004)),
            None | Some(true) => Err(failure(100)),
            Some(false) => Ok(()),
        };
        if result.is_ok() {
            self.end(now, &request.call_id);
        }
        self.say(now.plus_millis(self.wrong.reply_ms), Said::Graph(request.request, result));
    }

    /// Calls that a user's phone rings for, or that talk.
    pub(crate) fn live(&self) -> usize {
        self.calls.values().filter(|call| !call.over).count()
    }

    pub(crate) fn assert_nobody_is_left(&self) {
        assert_eq!(self.live(), 0, "a user's phone rings, and nobody knows of it");
    }

    /// The gateway is another one now: replies to its predecessor find nobody.
    pub(crate) fn forget_replies(&mut self) {
        for said in self.waiting.values() {
            if let Said::Connected(_, Ok(id)) = said {
                self.calls.get_mut(id).expect("a call").named = false;
            }
        }
        self.waiting.retain(|_, said| matches!(said, Said::Webhook(_)));
    }

    /// WhatsApp ends a call for want of media.
    pub(crate) fn end_by_itself(&mut self, id: &str) {
        self.calls.get_mut(id).expect("a call").over = true;
    }

    /// What a gateway that never heard a call's name cannot end, WhatsApp does.
    pub(crate) fn end_what_nobody_can_name(&mut self) {
        self.calls.values_mut().filter(|call| call.opaque.is_none() && !call.named).for_each(|call| call.over = true);
    }

    pub(crate) fn webhook(&mut self, at: Instant, event: WebhookEvent) {
        let copies = 1 + u32::from(self.random.below(100) < self.wrong.duplicates_pct);
        for _ in 0..copies {
            let late_ms = u64::from(self.random.below(self.wrong.late_ms_max + 1));
            self.say(at.plus_millis(late_ms), Said::Webhook(event.clone()));
        }
    }

    fn ring(&mut self, now: Instant, id: &str, opaque: String) {
        let opaque = Some(opaque).filter(|_| !self.wrong.forgets_names);
        let call_id = id.to_owned();
        self.calls.insert(call_id.clone(), Ringing { opaque: opaque.clone(), over: false, named: false });
        if !self.wrong.without_answer {
            let answer =
                Answer { call_id, phone_number_id: Some(NUMBER_ID.to_owned()), opaque, sdp: answer_of_whatsapp() };
            self.webhook(now.plus_millis(500), WebhookEvent::Answer(answer));
        }
        self.status(now.plus_millis(600), id, "RINGING");
        let sent = now.plus_millis(600);
        match self.user {
            User::Answers { after_ms } => self.answered(sent.plus_millis(after_ms), id),
            User::HangsUp { after_ms } => {
                self.answered(sent.plus_millis(1_000), id);
                self.end(sent.plus_millis(1_000 + after_ms), id);
            }
            User::Declines { after_ms } => {
                self.status(sent.plus_millis(after_ms), id, "REJECTED");
                self.end(sent.plus_millis(after_ms + 50), id);
            }
            User::LetsRing { ms } => self.end(sent.plus_millis(ms), id),
        }
    }

    fn answered(&mut self, at: Instant, id: &str) {
        if !self.wrong.without_accepted {
            self.status(at, id, "ACCEPTED");
        }
    }

    fn status(&mut self, at: Instant, id: &str, status: &str) {
        let opaque = self.calls[id].opaque.clone();
        let phone_number_id = Some(NUMBER_ID.to_owned());
        let status = Status { call_id: id.to_owned(), phone_number_id, opaque, status: status.to_owned() };
        self.webhook(at, WebhookEvent::Status(status));
    }

    fn end(&mut self, at: Instant, id: &str) {
        let call = self.calls.get_mut(id).expect("a call");
        if std::mem::replace(&mut call.over, true) {
            return;
        }
        let (opaque, phone_number_id) = (call.opaque.clone(), Some(NUMBER_ID.to_owned()));
        let status = Some("COMPLETED".to_owned());
        let end = Terminate { call_id: id.to_owned(), phone_number_id, status, opaque, ..Terminate::default() };
        self.webhook(at, WebhookEvent::Terminate(end));
    }

    fn say(&mut self, at: Instant, said: Said) {
        self.count += 1;
        self.waiting.insert((at, self.count), said);
    }
}

fn failure(code: u32) -> GraphError {
    let status = match code {
        138_004 => 500,
        138_006 | 190 => 401,
        138_002 | 138_005 => 429,
        _ => 400,
    };
    GraphError { kind: GraphErrorKind::Status(status), code: Some(code), ..GraphError::default() }
}

/// Meta's documented answer: ICE-lite, and DTLS client against its own advice.
pub(crate) fn answer_of_whatsapp() -> String {
    let text = include_str!("../data/whatsapp/connect-bic-answer.json");
    let events =
        control::whatsapp::event::parse(text.as_bytes(), control::whatsapp::event::FlatForm::ByContent).unwrap();
    match events.into_iter().next() {
        Some(WebhookEvent::Answer(answer)) => answer.sdp,
        other => panic!("{other:?}"),
    }
}
