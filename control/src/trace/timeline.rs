//! The timeline of each call: one line per step, kept for a while after the call and served by
//! `GET /calls/{call_id}/timeline`.
//!
//! Why a ring per call and not a log file: the caller's page, a test and an operator all ask about one call while it is
//! happening, and none of them should have to search. What a call writes is bounded (`ENTRIES_MAX`), and so is the number of
//! calls remembered (`CALLS_MAX`): the call that was quiet for longest is forgotten first.

use engine::time::Instant;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Calls remembered, live and ended. Past it the one that was quiet for longest is forgotten.
pub const CALLS_MAX: usize = 4_096;

/// Entries of one call. Past it further ones are counted, save `end`, which takes the last place.
pub const ENTRIES_MAX: usize = 128;

/// Places for entries that a call takes at a time.
const ENTRIES_MORE: usize = 4;

/// A step of a call. The names are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// WhatsApp's `connect` came.
    Webhook,
    /// The offer was understood and is answered.
    Offer,
    /// `pre_accept` succeeded or failed.
    PreAccept,
    /// ICE chose its pair.
    IcePair,
    /// DTLS is up.
    Dtls,
    /// The INVITE left.
    Invite,
    /// 401 or 407 came.
    Challenge,
    /// 18x came.
    Ringing,
    /// A destination failed and the next one is tried.
    Failover,
    /// 200 came.
    Answered,
    /// `accept` succeeded or failed.
    Accept,
    /// Held media was released.
    Release,
    /// First RTP packet from WhatsApp.
    FirstPacketFromWhatsapp,
    /// First RTP packet to WhatsApp.
    FirstPacketToWhatsapp,
    /// First RTP packet from the SIP side.
    FirstPacketFromSip,
    /// First RTP packet to the SIP side.
    FirstPacketToSip,
    /// A key was pressed.
    Digit,
    /// A side put the call on hold, or took it back.
    Hold,
    /// A transfer was asked for, done, or has failed.
    Transfer,
    /// The program was started again while the call was in progress.
    Restart,
    /// What a provider wrote into headers of its own, such as `x-wa-meta-...`.
    Meta,
    /// WhatsApp has not acknowledged the end of the call.
    Goodbye,
    /// The bridge is gone: what the media were like, and why there was silence.
    Media,
    /// The call ended: why and whose side.
    End,
}

impl Step {
    /// The step's name in JSON and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Step::Webhook => "webhook",
            Step::Offer => "offer",
            Step::PreAccept => "pre_accept",
            Step::IcePair => "ice_pair",
            Step::Dtls => "dtls",
            Step::Invite => "invite",
            Step::Challenge => "challenge",
            Step::Ringing => "ringing",
            Step::Failover => "failover",
            Step::Answered => "answered",
            Step::Accept => "accept",
            Step::Release => "release",
            Step::FirstPacketFromWhatsapp => "first_packet_from_whatsapp",
            Step::FirstPacketToWhatsapp => "first_packet_to_whatsapp",
            Step::FirstPacketFromSip => "first_packet_from_sip",
            Step::FirstPacketToSip => "first_packet_to_sip",
            Step::Digit => "digit",
            Step::Hold => "hold",
            Step::Transfer => "transfer",
            Step::Restart => "restart",
            Step::Meta => "meta",
            Step::Goodbye => "goodbye",
            Step::Media => "media",
            Step::End => "end",
        }
    }
}

/// One step of one call, as the orchestrator and the edge report it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which call.
    pub call_id: String,
    /// When.
    pub at: Instant,
    /// What.
    pub step: Step,
    /// In words, for a person.
    pub detail: String,
}

/// One entry as it is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Counts from 0 within the call.
    pub n: u64,
    /// Milliseconds since the call's first entry.
    pub at_ms: u64,
    /// What.
    pub step: Step,
    /// In words.
    pub detail: String,
}

/// The answer of `GET /calls/{call_id}/timeline`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Page {
    /// From the `n` that was asked for.
    pub entries: Vec<Line>,
    /// Whether `end` was written.
    pub ended: bool,
}

/// A call that is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Which.
    pub call_id: String,
    /// Its first entry.
    pub first: Instant,
    /// Its last.
    pub last: Instant,
    /// Whether `end` was written.
    pub ended: bool,
    /// The detail of its last entry.
    pub last_words: String,
}

/// The timelines of all calls remembered.
#[derive(Debug, Default)]
pub struct Timeline {
    calls: BTreeMap<Arc<str>, Box<CallTimeline>>,
    /// When each call last wrote, to find the quietest.
    quiet: BTreeSet<(Instant, Arc<str>)>,
    entries_lost: u64,
}

#[derive(Debug)]
struct CallTimeline {
    call_id: Arc<str>,
    first: Instant,
    last: Instant,
    lines: Vec<Line>,
    ended: bool,
}

impl Timeline {
    /// An empty one.
    pub fn new() -> Timeline {
        Timeline::default()
    }

    /// Writes one entry. Answers whether it was kept: a second `end` and anything past the limit is not.
    pub fn push(&mut self, entry: &Entry) -> bool {
        if !self.calls.contains_key(&*entry.call_id) {
            self.make_room();
            let call_id: Arc<str> = entry.call_id.as_str().into();
            let (first, last) = (entry.at, entry.at);
            let call = CallTimeline { call_id: call_id.clone(), first, last, lines: Vec::new(), ended: false };
            self.calls.insert(call_id, Box::new(call));
        }
        let Some(call) = self.calls.get_mut(&*entry.call_id) else { return false };
        let last = call.last.max(entry.at);
        if last != call.last || call.lines.is_empty() {
            self.quiet.remove(&(call.last, call.call_id.clone()));
            self.quiet.insert((last, call.call_id.clone()));
            call.last = last;
        }

        let ends = entry.step == Step::End;
        if ends && call.ended {
            return false; // both planes report the end; the first knows why
        }
        if call.lines.len() + usize::from(!ends) > ENTRIES_MAX {
            self.entries_lost += 1;
            return false;
        }
        call.ended |= ends;
        let n = call.lines.len() as u64;
        let at_ms = u64::try_from(entry.at.since(call.first).as_millis()).unwrap_or(u64::MAX);
        if call.lines.len() == call.lines.capacity() {
            call.lines.reserve_exact(ENTRIES_MORE);
        }
        call.lines.push(Line { n, at_ms, step: entry.step, detail: entry.detail.clone() });
        true
    }

    /// The entries of a call from number `since` on; `None` for a call that is not remembered.
    pub fn page(&self, call_id: &str, since: u64) -> Option<Page> {
        let call = self.calls.get(call_id)?;
        let since = usize::try_from(since).unwrap_or(usize::MAX).min(call.lines.len());
        Some(Page { entries: call.lines[since..].to_vec(), ended: call.ended })
    }

    /// All entries of a call.
    pub fn lines(&self, call_id: &str) -> &[Line] {
        self.calls.get(call_id).map_or(&[], |call| &call.lines)
    }

    /// Every call remembered, the one that wrote last first.
    pub fn calls(&self) -> impl Iterator<Item = Remembered> {
        self.quiet.iter().rev().filter_map(|(_, call_id)| {
            let call = self.calls.get(&**call_id)?;
            let last_words = call.lines.last().map_or_else(String::new, |line| line.detail.clone());
            Some(Remembered {
                call_id: String::from(&**call_id),
                first: call.first,
                last: call.last,
                ended: call.ended,
                last_words,
            })
        })
    }

    /// Calls remembered, and entries that found no room.
    pub fn figures(&self) -> (usize, u64) {
        (self.calls.len(), self.entries_lost)
    }

    fn make_room(&mut self) {
        while self.calls.len() >= CALLS_MAX {
            let Some((_, quietest)) = self.quiet.pop_first() else { return };
            self.calls.remove(&quietest);
        }
    }
}
