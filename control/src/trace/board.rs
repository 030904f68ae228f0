//! What is shown of calls: the list, and of one call its steps and its messages. Also makes the copies for a collector.
//!
//! Steps (`timeline`) are known by WhatsApp's call id or a Call-ID, messages by their Call-IDs; here they are shown as one call.

use super::hep::{self, Capture};
use super::ladder;
use super::mask::{Policy, without_numbers};
use super::messages::{LISTED_MAX, Listed, Messages, Seen};
use super::timeline::{Line, Timeline};
use crate::config::TraceSettings;
use crate::sip::TraceMessage;
use crate::sip::transport::Transport;
use engine::time::Instant;
use serde::Serialize;
use std::fmt::Write;
use std::net::SocketAddr;

/// What a person asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Calls that hold a text, newest first.
    List {
        /// Empty: all.
        search: String,
    },
    /// One call.
    Call {
        /// Call-ID or WhatsApp's call id.
        name: String,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To `List`.
    List(Vec<Listed>),
    /// To `Call`.
    Call(Box<View>),
    /// No such call is remembered.
    Unknown,
}

/// One call as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct View {
    /// What it was asked by.
    pub id: String,
    /// Its steps.
    pub steps: Vec<Line>,
    /// Places that were spoken with, in the order of their columns.
    pub places: Vec<String>,
    /// Its messages.
    pub messages: Vec<Shown>,
    /// Messages that found no room.
    pub lost: u64,
    /// The ladder as text, with all messages.
    #[serde(skip)]
    pub text: String,
}

/// One message as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Milliseconds since the first.
    pub at_ms: u64,
    /// Whether we sent it.
    pub sent: bool,
    /// The other end.
    pub place: String,
    /// What its arrow says.
    pub label: String,
    /// Whether it came before.
    pub repeated: bool,
    /// All of it, without secrets.
    pub text: String,
}

/// Everything that is remembered of SIP messages.
pub struct Board {
    messages: Messages,
    settings: TraceSettings,
    /// Our own address, for copies.
    local: SocketAddr,
}

impl Board {
    /// An empty board; `local` stands in copies where a message came to us or left us.
    pub fn new(settings: TraceSettings, local: SocketAddr) -> Board {
        let policy = Policy { numbers: settings.numbers };
        Board { messages: Messages::new(settings.bytes_max, policy), settings, local }
    }

    /// Whether messages are to be kept or copied at all.
    pub fn wants_messages(&self) -> bool {
        self.settings.messages || self.settings.hep.is_some()
    }

    /// Where copies go.
    pub fn collector(&self) -> Option<SocketAddr> {
        self.settings.hep
    }

    /// Keeps a message. Answers the copy for the collector, if there is one.
    pub fn take(&mut self, message: &TraceMessage, unix_micros: u64) -> Option<Vec<u8>> {
        let TraceMessage { at, sent, hop, call_id, bytes } = message;
        let kept = self.messages.push(Seen { at: *at, sent: *sent, hop, call_id, bytes });
        self.settings.hep?;
        let (source, destination) = if *sent { (self.local, hop.remote) } else { (hop.remote, self.local) };
        let capture = Capture {
            source,
            destination,
            datagram: hop.transport == Transport::Udp,
            unix_micros,
            correlation: call_id,
            payload: kept.as_bytes(),
        };
        Some(hep::packet(self.settings.hep_node, &self.settings.hep_password.0, &capture))
    }

    /// Both sides of a call belong together.
    pub fn link(&mut self, one: &str, other: &str) {
        if self.wants_messages() {
            self.messages.link(one, other);
        }
    }

    /// Calls remembered, and the bytes of their messages.
    pub fn figures(&self) -> (usize, usize) {
        self.messages.figures()
    }

    /// Answers a person.
    pub fn answer(&self, now: Instant, timeline: &Timeline, question: &Question) -> Answer {
        match question {
            Question::List { search } => Answer::List(self.list(now, timeline, search)),
            Question::Call { name } => self.call(timeline, name).map_or(Answer::Unknown, |v| Answer::Call(Box::new(v))),
        }
    }

    fn list(&self, now: Instant, timeline: &Timeline, search: &str) -> Vec<Listed> {
        let mut listed = self.messages.list(now, search);
        let lower = search.trim().to_lowercase();
        // Calls without a SIP message yet, or whose messages are gone.
        for call in timeline.calls() {
            let known = self.messages.entry(&call.call_id).is_some();
            let outcome = if call.ended { call.last_words } else { "under way".to_owned() };
            let outcome = if self.settings.numbers { outcome } else { without_numbers(&outcome) };
            let holds =
                lower.is_empty() || [&call.call_id, &outcome].iter().any(|text| text.to_lowercase().contains(&lower));
            if !known && holds && listed.len() < 2 * LISTED_MAX {
                listed.push(Listed {
                    id: call.call_id,
                    began_ms_ago: now.since(call.first).as_millis() as u64,
                    lasted_ms: call.last.since(call.first).as_millis() as u64,
                    from: String::new(),
                    to: String::new(),
                    outcome,
                    messages: 0,
                });
            }
        }
        listed.sort_by_key(|call| call.began_ms_ago);
        listed.truncate(LISTED_MAX);
        listed
    }

    fn call(&self, timeline: &Timeline, name: &str) -> Option<View> {
        let entry = self.messages.entry(name);
        let names = entry.into_iter().flat_map(|entry| entry.call_ids.iter().map(|id| &**id));
        let page = std::iter::once(name).chain(names).find_map(|name| timeline.page(name, 0));
        if entry.is_none() && page.is_none() {
            return None;
        }
        let steps = page.map(|page| page.entries).unwrap_or_default();
        let mut view = View { id: name.to_owned(), steps, ..View::default() };
        let mut text = String::new();
        if let Some(entry) = entry {
            let first = entry.messages.first().map_or(Instant::ZERO, |message| message.at);
            view.places = ladder::places(entry);
            view.lost = entry.lost;
            view.messages = entry
                .messages
                .iter()
                .map(|message| Shown {
                    at_ms: message.at.since(first).as_millis() as u64,
                    sent: message.sent,
                    place: ladder::place_of(message),
                    label: message.label.clone(),
                    repeated: message.repeated,
                    text: message.text.clone(),
                })
                .collect();
            text = ladder::text(name, entry, true);
        }
        if !view.steps.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "\nsteps");
        }
        for step in &view.steps {
            let _ = writeln!(text, "{:>9} {} {}", step.at_ms, step.step.name(), step.detail);
        }
        view.text = text;
        Some(view)
    }
}

/// The list as text.
pub fn list_text(calls: &[Listed]) -> String {
    let mut text = String::new();
    for call in calls {
        let ago = call.began_ms_ago / 1_000;
        let (lasted, outcome) = (call.lasted_ms as f64 / 1_000.0, &call.outcome);
        let people = match (call.from.as_str(), call.to.as_str()) {
            ("", "") => String::new(),
            (from, to) => format!("{from} -> {to}  "),
        };
        let _ = writeln!(text, "{ago:>7} s ago  {lasted:>8.1} s  {outcome:<12} {people}{}", call.id);
    }
    if calls.is_empty() {
        text.push_str("no call is remembered that holds this\n");
    }
    text.chars().filter(|c| !c.is_control() || *c == '\n').collect()
}

#[cfg(test)]
mod tests {
    use super::super::redact::Secret;
    use super::super::timeline::{Entry, Step};
    use super::*;
    use crate::sip::transport::Hop;

    fn settings() -> TraceSettings {
        TraceSettings {
            messages: true,
            numbers: true,
            bytes_max: 1 << 20,
            hep: Some(SocketAddr::from(([192, 0, 2, 9], 9_060))),
            hep_password: Secret("k".into()),
            hep_node: 7,
            cdr: None,
        }
    }

    fn message(call_id: &str, sent: bool) -> TraceMessage {
        let text = format!(
            "INVITE sip:b@h SIP/2.0\r\nFrom: <sip:a@h>;tag=1\r\nCall-ID: {call_id}\r\nCSeq: 1 INVITE\r\n\
             X-WA-Call-ID: wacid.1\r\nAuthorization: Bearer hunter2\r\n\r\n"
        );
        let hop = Hop::udp(SocketAddr::from(([198, 51, 100, 1], 5_060)));
        TraceMessage { at: Instant::from_millis(5), sent, hop, call_id: call_id.to_owned(), bytes: text.into_bytes() }
    }

    #[test]
    fn steps_and_messages_of_one_call_are_shown_together() {
        let mut board = Board::new(settings(), SocketAddr::from(([192, 0, 2, 1], 5_060)));
        let mut timeline = Timeline::new();
        for (id, step) in [("wacid.1", Step::Webhook), ("wacid.1", Step::Invite), ("wacid.2", Step::End)] {
            let entry = Entry { call_id: id.into(), at: Instant::ZERO, step, detail: "side=sip".into() };
            assert!(timeline.push(&entry));
        }
        board.take(&message("c1", true), 0);
        let now = Instant::from_millis(1_000);
        let Answer::List(calls) = board.answer(now, &timeline, &Question::List { search: String::new() }) else {
            panic!()
        };
        assert_eq!(calls.iter().map(|call| call.id.as_str()).collect::<Vec<_>>(), ["wacid.1", "wacid.2"]);
        assert!(list_text(&calls).contains("a -> b  wacid.1"), "{}", list_text(&calls));
        for name in ["c1", "wacid.1"] {
            let Answer::Call(view) = board.answer(now, &timeline, &Question::Call { name: name.into() }) else {
                panic!()
            };
            assert_eq!((view.messages.len(), view.steps.len()), (1, 2), "{name}");
            assert!(view.text.contains("INVITE b") && view.text.contains("webhook side=sip"), "{}", view.text);
            assert!(!view.text.contains("hunter2"));
        }
        assert_eq!(board.answer(now, &timeline, &Question::Call { name: "x".into() }), Answer::Unknown);
    }

    #[test]
    fn a_copy_for_the_collector_holds_no_secret() {
        let mut board = Board::new(settings(), SocketAddr::from(([192, 0, 2, 1], 5_060)));
        let packet = board.take(&message("c1", false), 1).unwrap();
        assert!(packet.starts_with(b"HEP3") && !packet.windows(7).any(|bytes| bytes == b"hunter2"));
        let mut quiet =
            Board::new(TraceSettings { hep: None, ..settings() }, SocketAddr::from(([192, 0, 2, 1], 5_060)));
        assert_eq!(quiet.take(&message("c1", false), 1), None);
    }
}
