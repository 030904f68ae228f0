//! The SIP messages of each call, kept for a while after it and shown as a ladder.
//!
//! Messages belong together by their Call-ID; what carries WhatsApp's call id, and what the owner of the calls links, joins one
//! entry. Memory is bounded in bytes: of all calls, and of one call. Calls and other traffic (REGISTER, OPTIONS) have shares of
//! their own, so that ten thousand softphones that refresh do not push a call out. What was quiet for longest goes first.
//!
//! Why in memory: an operator asks about the call that failed a minute ago; what must be kept for months goes to a collector by
//! HEP3 ([`super::hep`]).

use super::mask::{Policy, masked, without_numbers};
use crate::sip::message::{Message, Start};
use crate::sip::transport::{Hop, Transport};
use crate::sip::uri::{NameAddr, SipUri};
use engine::time::Instant;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Messages of one entry. Past it further ones are counted only.
pub const ENTRY_MESSAGES_MAX: usize = 1_024;

/// Bytes of one entry. Past it further messages are counted only.
pub const ENTRY_BYTES_MAX: usize = 512 * 1_024;

/// Bytes of one message that are kept.
pub const MESSAGE_BYTES_KEPT: usize = 16 * 1_024;

/// Call-IDs that one entry joins. Further links are not made: a Call-ID beyond them has an entry of its own.
pub const ENTRY_CALL_IDS_MAX: usize = 64;

/// Entries that a list shows.
pub const LISTED_MAX: usize = 200;

/// The part of the memory that is for calls; the rest is for other traffic.
const CALLS_SHARE: (usize, usize) = (7, 8);

/// What an entry costs beside its messages.
const ENTRY_OVERHEAD: usize = 512;

/// Places for messages that an entry takes at a time.
const MESSAGES_MORE: usize = 4;

/// A message as it was seen.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// When.
    pub at: Instant,
    /// Whether we sent it.
    pub sent: bool,
    /// The other end.
    pub hop: &'a Hop,
    /// Call-ID.
    pub call_id: &'a str,
    /// The message, secrets included.
    pub bytes: &'a [u8],
}

/// A message as it is kept: without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// When.
    pub at: Instant,
    /// Whether we sent it.
    pub sent: bool,
    /// How it travelled.
    pub transport: Transport,
    /// The other end.
    pub remote: SocketAddr,
    /// What a ladder shows of it.
    pub label: String,
    /// Whether it came before, byte by byte.
    pub repeated: bool,
    /// The message.
    pub text: String,
}

/// All messages of one call.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// In order.
    pub messages: Vec<Kept>,
    /// Messages that found no room.
    pub lost: u64,
    /// Every Call-ID in it, and other names.
    pub call_ids: Vec<Arc<str>>,
    is_call: bool,
    from: String,
    to: String,
    outcome: String,
    last: Instant,
    bytes: usize,
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// What `ladder` is asked with.
    pub id: String,
    /// Milliseconds since the first message.
    pub began_ms_ago: u64,
    /// Milliseconds from the first to the last.
    pub lasted_ms: u64,
    /// Who called.
    pub from: String,
    /// What was called.
    pub to: String,
    /// The last final response to an INVITE, or what ended it.
    pub outcome: String,
    /// Messages.
    pub messages: usize,
}

/// The messages of all calls.
#[derive(Debug)]
pub struct Messages {
    entries: BTreeMap<Arc<str>, Box<Entry>>,
    /// Which entry a Call-ID is in.
    names: BTreeMap<Arc<str>, Arc<str>>,
    /// When each entry last changed, calls and others apart.
    quiet: [BTreeSet<(Instant, Arc<str>)>; 2],
    bytes: [usize; 2],
    bytes_max: [usize; 2],
    policy: Policy,
}

impl Messages {
    /// At most `bytes_max` bytes of messages.
    pub fn new(bytes_max: usize, policy: Policy) -> Messages {
        let calls = bytes_max / CALLS_SHARE.1 * CALLS_SHARE.0;
        Messages {
            entries: BTreeMap::new(),
            names: BTreeMap::new(),
            quiet: [BTreeSet::new(), BTreeSet::new()],
            bytes: [0, 0],
            bytes_max: [bytes_max - calls, calls],
            policy,
        }
    }

    /// Keeps one message; answers what is kept of it, for who wants a copy.
    pub fn push(&mut self, seen: Seen<'_>) -> String {
        let kept_bytes = &seen.bytes[..seen.bytes.len().min(MESSAGE_BYTES_KEPT)];
        let text = masked(kept_bytes, self.policy);
        let parsed = Message::parse(seen.bytes).ok();
        let name = self.name_of(seen.call_id, parsed.as_ref());
        let mut entry = self.take(&name);
        if entry.messages.is_empty() {
            entry.begin(parsed.as_ref(), self.policy);
        }
        entry.is_named(seen.call_id);
        entry.is_named(&name);
        entry.last = seen.at;
        entry.note_outcome(parsed.as_ref());
        let cost = text.len() + 128;
        if entry.messages.len() >= ENTRY_MESSAGES_MAX || entry.bytes + cost > ENTRY_BYTES_MAX {
            entry.lost += 1;
        } else {
            let label = parsed.as_ref().map_or_else(|| "not SIP".to_owned(), |message| label(message, self.policy));
            let repeated = entry
                .messages
                .iter()
                .any(|known| known.sent == seen.sent && known.remote == seen.hop.remote && known.text == text);
            entry.bytes += cost;
            if entry.messages.len() == entry.messages.capacity() {
                entry.messages.reserve_exact(MESSAGES_MORE);
            }
            entry.messages.push(Kept {
                at: seen.at,
                sent: seen.sent,
                transport: seen.hop.transport,
                remote: seen.hop.remote,
                label,
                repeated,
                text: text.clone(),
            });
        }
        self.put_back(name, entry);
        text
    }

    /// Puts two calls into one entry: both sides of an exchange. Either may still be unknown.
    pub fn link(&mut self, one: &str, other: &str) {
        let name = self.names.get(one).cloned().unwrap_or_else(|| one.into());
        let gone = self.names.get(other).cloned().unwrap_or_else(|| other.into());
        if name == gone {
            return;
        }
        let mut entry = self.take(&name);
        let joined = self.take(&gone);
        if entry.call_ids.len() + joined.call_ids.len() > ENTRY_CALL_IDS_MAX {
            self.put_back(name, entry);
            return self.put_back(gone, joined);
        }
        joined.call_ids.iter().for_each(|id| entry.is_named(id));
        entry.is_named(one);
        entry.is_named(other);
        entry.messages.reserve_exact(joined.messages.len());
        entry.messages.extend(joined.messages);
        entry.messages.sort_by_key(|message| message.at);
        let cut = entry.messages.len().saturating_sub(ENTRY_MESSAGES_MAX);
        entry.messages.truncate(ENTRY_MESSAGES_MAX);
        entry.lost += joined.lost + cut as u64;
        entry.bytes = ENTRY_OVERHEAD + entry.messages.iter().map(|message| message.text.len() + 128).sum::<usize>();
        entry.is_call |= joined.is_call;
        entry.last = entry.last.max(joined.last);
        if entry.from.is_empty() {
            (entry.from, entry.to, entry.outcome) = (joined.from, joined.to, joined.outcome);
        }
        self.put_back(name, entry);
    }

    /// The messages of a call, by its Call-ID or by whatever else it was linked with.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        let entry = self.entries.get(self.names.get(name).map_or(name, |name| name));
        entry.map(|entry| &**entry).filter(|entry| !entry.messages.is_empty())
    }

    /// Calls, newest first, whose ids, people, places or outcome hold `search`.
    pub fn list(&self, now: Instant, search: &str) -> Vec<Listed> {
        let search = search.trim().to_lowercase();
        let [others, calls] = &self.quiet;
        let named = [calls, others].into_iter().flat_map(|quiet| quiet.iter().rev());
        let entries = named.filter_map(|(_, name)| self.entries.get(name).map(|entry| (name, entry)));
        let found = entries.filter(|(_, entry)| !entry.messages.is_empty() && entry.holds(&search));
        let listed = found.map(|(name, entry)| {
            let first = entry.messages.first().map_or(entry.last, |message| message.at);
            Listed {
                id: String::from(&**name),
                began_ms_ago: now.since(first).as_millis() as u64,
                lasted_ms: entry.last.since(first).as_millis() as u64,
                from: entry.from.clone(),
                to: entry.to.clone(),
                outcome: entry.outcome.clone(),
                messages: entry.messages.len(),
            }
        });
        listed.take(LISTED_MAX).collect()
    }

    /// Entries remembered, and their bytes.
    pub fn figures(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes[0] + self.bytes[1])
    }

    /// The entry that a message belongs to: its Call-ID's, or the one of the WhatsApp call that it carries.
    fn name_of(&mut self, call_id: &str, parsed: Option<&Message>) -> Arc<str> {
        if let Some(name) = self.names.get(call_id) {
            return name.clone();
        }
        let carried = parsed.and_then(|message| message.header("X-WA-Call-ID")).filter(|id| !id.is_empty());
        match carried {
            Some(carried) => {
                let name = self.names.get(carried).cloned().unwrap_or_else(|| carried.into());
                let is_full = self.entries.get(&name).is_some_and(|entry| entry.call_ids.len() >= ENTRY_CALL_IDS_MAX);
                if is_full { call_id.into() } else { name }
            }
            None => call_id.into(),
        }
    }

    /// Takes an entry out of every index, or makes a new one.
    fn take(&mut self, name: &str) -> Box<Entry> {
        let Some(entry) = self.entries.remove(name) else {
            return Box::new(Entry { bytes: ENTRY_OVERHEAD, ..Entry::default() });
        };
        let kind = usize::from(entry.is_call);
        self.quiet[kind].remove(&(entry.last, name.into()));
        self.bytes[kind] -= entry.bytes;
        for id in &entry.call_ids {
            self.names.remove(id);
        }
        entry
    }

    fn put_back(&mut self, name: Arc<str>, entry: Box<Entry>) {
        let kind = usize::from(entry.is_call);
        self.bytes[kind] += entry.bytes;
        self.quiet[kind].insert((entry.last, name.clone()));
        for id in &entry.call_ids {
            self.names.insert(id.clone(), name.clone());
        }
        self.entries.insert(name, entry);
        while self.bytes[kind] > self.bytes_max[kind]
            && let Some((_, quietest)) = self.quiet[kind].first().cloned()
        {
            self.take(&quietest);
        }
    }
}

impl Entry {
    /// Notes one of its names.
    fn is_named(&mut self, id: &str) {
        if self.call_ids.iter().all(|known| **known != *id) {
            self.call_ids.reserve_exact(1);
            self.call_ids.push(id.into());
        }
    }

    fn begin(&mut self, parsed: Option<&Message>, policy: Policy) {
        let Some(message) = parsed else { return };
        self.is_call |= message.cseq().is_some_and(|(_, method)| method == "INVITE");
        self.from = person(message.header("From").unwrap_or_default(), policy);
        self.to = match message.uri() {
            Some(uri) => person(&format!("<{uri}>"), policy),
            None => person(message.header("To").unwrap_or_default(), policy),
        };
    }

    fn note_outcome(&mut self, parsed: Option<&Message>) {
        let Some(message) = parsed else { return };
        match &message.start {
            Start::Request { method, .. } if matches!(method.as_str(), "BYE" | "CANCEL") => {
                self.outcome = method.clone()
            }
            Start::Response { code, .. } if *code >= 200 => {
                let of_invite = message.cseq().is_some_and(|(_, method)| method == "INVITE");
                // What ended a call is worth more than the answers to that.
                if (of_invite && self.outcome != "BYE") || !self.is_call {
                    self.outcome = code.to_string();
                }
            }
            _ => {}
        }
    }

    fn holds(&self, search: &str) -> bool {
        search.is_empty()
            || self.call_ids.iter().any(|id| id.to_lowercase().contains(search))
            || [&self.from, &self.to, &self.outcome].iter().any(|text| text.to_lowercase().contains(search))
            || self.messages.iter().any(|message| {
                message.remote.to_string().contains(search) || message.label.to_lowercase().contains(search)
            })
    }
}

/// A name and a user part, as a list shows them.
fn person(header: &str, policy: Policy) -> String {
    let shown = match NameAddr::parse(header) {
        None => String::new(),
        Some(address) => {
            let user = SipUri::parse(address.uri).map_or(address.uri, |uri| uri.user.unwrap_or(uri.host));
            let display = crate::sip::uri::unquote(address.display);
            if display.is_empty() { user.to_owned() } else { format!("{display} {user}") }
        }
    };
    if policy.numbers { shown } else { without_numbers(&shown) }
}

/// What an arrow of the ladder says: the method or the code, whether a description is inside, and for a refusal why in words.
fn label(message: &Message, policy: Policy) -> String {
    let mut label = match &message.start {
        Start::Request { method, uri, .. } => match method.as_str() {
            "INVITE" | "REGISTER" | "REFER" | "MESSAGE" => format!("{method} {}", person(&format!("<{uri}>"), policy)),
            _ => method.clone(),
        },
        Start::Response { code, reason } => {
            let method = message.cseq().map_or("", |(_, method)| method);
            format!("{code} {reason} ({method})")
        }
    };
    if message.header("Content-Type").is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/sdp")) {
        label.push_str(" SDP");
    }
    if message.code().is_none_or(|code| code >= 300) {
        let warning = message.header("Warning").and_then(|warning| warning.splitn(3, ' ').nth(2));
        let reason = warning.map(crate::sip::uri::unquote).or_else(|| message.header("Reason").map(str::to_owned));
        if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
            label.push_str(&format!(": {reason}"));
        }
    }
    label.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
#[path = "messages_tests.rs"]
mod tests;
