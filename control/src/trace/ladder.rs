//! A call's messages as a ladder of text: who said what to whom, and when.
//!
//! ```text
//!     at ms  192.0.2.1:5061 TLS            tandem                198.51.100.7:443 WSS
//!         0           |--INVITE +4477 SDP---->|                           |
//!         2           |                       |------INVITE bob SDP------>|
//! ```
//!
//! Every place that was spoken with has a column, in the order of its first message; ours is the second, so that a call that goes
//! through us reads from left to right.

use super::messages::{Entry, Kept};
use std::fmt::Write;

/// Places that get a column; further ones share the last.
const COLUMNS_MAX: usize = 6;

/// Characters of one column, fewest and most.
const WIDTH: std::ops::RangeInclusive<usize> = 26..=48;

/// The ladder, and below it each message in full if `whole`.
pub fn text(name: &str, entry: &Entry, whole: bool) -> String {
    let places = places(entry);
    let widest = entry.messages.iter().map(|message| shown(message).chars().count() + 6).max().unwrap_or(0);
    let width = widest.clamp(*WIDTH.start(), *WIDTH.end());
    // Tandem's column comes second.
    let mut columns: Vec<String> = places.clone();
    columns.insert(1.min(columns.len()), "tandem".to_owned());
    let mut out = format!("{name}\n\n{:>9}", "at ms");
    for column in &columns {
        let _ = write!(out, "{:^width$}", cut(column, width - 1));
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    let first = entry.messages.first().map_or(engine::time::Instant::ZERO, |message| message.at);
    for message in &entry.messages {
        let place = places.iter().position(|place| *place == place_of(message)).unwrap_or(places.len() - 1);
        let other = if place == 0 { 0 } else { place + 1 };
        let (from, to) = if message.sent { (1, other) } else { (other, 1) };
        let rungs = rungs(columns.len(), width, from, to, &shown(message));
        let _ = writeln!(out, "{:>9}{}", message.at.since(first).as_millis(), rungs.trim_end());
    }
    if entry.lost > 0 {
        let _ = writeln!(out, "{:>9} {} more messages found no room", "", entry.lost);
    }
    if whole {
        for (n, message) in entry.messages.iter().enumerate() {
            let direction = if message.sent { "sent to" } else { "received from" };
            let at = message.at.since(first).as_millis();
            let _ =
                write!(out, "\n--- {}. at {at} ms {direction} {}\n{}", n + 1, place_of(message), lines(&message.text));
        }
    }
    out
}

/// The places that were spoken with, in the order of their first message.
pub fn places(entry: &Entry) -> Vec<String> {
    let mut places: Vec<String> = Vec::new();
    for place in entry.messages.iter().map(place_of) {
        if !places.contains(&place) && places.len() < COLUMNS_MAX {
            places.push(place);
        }
    }
    places
}

/// `192.0.2.1:5061 TLS`
pub fn place_of(message: &Kept) -> String {
    format!("{} {}", message.remote, message.transport.via_name())
}

fn shown(message: &Kept) -> String {
    if message.repeated { format!("{} (again)", message.label) } else { message.label.clone() }
}

/// One line: a bar per column, and an arrow with its label between two of them.
fn rungs(columns: usize, width: usize, from: usize, to: usize, label: &str) -> String {
    let bar = |column: usize| column * width + width / 2;
    let mut line: Vec<char> = vec![' '; columns * width];
    (0..columns).for_each(|column| line[bar(column)] = '|');
    let (left, right) = (bar(from.min(to)), bar(from.max(to)));
    if left < right {
        line[left + 1..right].fill('-');
        line[if from < to { right - 1 } else { left + 1 }] = if from < to { '>' } else { '<' };
        let room = right - left - 5;
        let label = cut(label, room);
        let start = left + 3 + (room - label.chars().count()) / 2;
        label.chars().enumerate().for_each(|(at, c)| line[start + at] = c);
    }
    line.into_iter().collect()
}

fn cut(text: &str, room: usize) -> String {
    match text.chars().count() <= room {
        true => text.to_owned(),
        false => text.chars().take(room.saturating_sub(2)).chain("..".chars()).collect(),
    }
}

/// A message's lines without their CR and without control characters: they are shown on a terminal.
fn lines(text: &str) -> String {
    let clean = text.lines().map(|line| line.chars().filter(|c| !c.is_control() || *c == '\t').collect::<String>());
    clean.map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::mask::Policy;
    use super::super::messages::{Messages, Seen};
    use super::*;
    use crate::sip::transport::{Hop, Transport};
    use engine::time::Instant;
    use std::net::SocketAddr;

    #[test]
    fn a_call_through_us_reads_from_left_to_right() {
        let mut messages = Messages::new(1 << 20, Policy { numbers: true });
        let left = Hop::new(Transport::Tls, SocketAddr::from(([192, 0, 2, 1], 5_061)));
        let right = Hop::new(Transport::Wss, SocketAddr::from(([198, 51, 100, 7], 443)));
        for (ms, sent, hop, call_id, start) in [
            (0, false, &left, "a", "INVITE sip:+4477@gw SIP/2.0"),
            (2, true, &right, "b", "INVITE sip:bob@x.invalid SIP/2.0"),
            (900, false, &right, "b", "SIP/2.0 200 OK"),
            (901, true, &left, "a", "SIP/2.0 200 OK"),
            (1_401, true, &left, "a", "SIP/2.0 200 OK"),
        ] {
            let text =
                format!("{start}\r\nFrom: <sip:x@y>;tag=1\r\nCall-ID: {call_id}\r\nCSeq: 1 INVITE\r\n\r\n\x1b[31m");
            messages.link("a", call_id);
            messages.push(Seen { at: Instant::from_millis(ms), sent, hop, call_id, bytes: text.as_bytes() });
        }
        let ladder = text("a", messages.entry("a").unwrap(), true);
        let drawn: Vec<&str> = ladder.lines().take(8).collect();
        let expected = [
            "a",
            "",
            "    at ms     192.0.2.1:5061 TLS                 tandem                198.51.100.7:443 WSS",
            "        0              |--------INVITE +4477------->|                            |",
            "        2              |                            |---------INVITE bob-------->|",
            "      900              |                            |<-----200 OK (INVITE)-------|",
            "      901              |<-----200 OK (INVITE)-------|                            |",
            "     1401              |<-200 OK (INVITE) (again)---|                            |",
        ];
        assert_eq!(drawn, expected, "{ladder}");
        assert!(ladder.contains("--- 3. at 900 ms received from 198.51.100.7:443 WSS\nSIP/2.0 200 OK\n"), "{ladder}");
        assert!(!ladder.contains('\x1b'), "no control character reaches a terminal");
    }

    #[test]
    fn a_call_with_many_places_still_fits() {
        let mut messages = Messages::new(1 << 20, Policy::default());
        for n in 0..20_u8 {
            let hop = Hop::new(Transport::Udp, SocketAddr::from(([192, 0, 2, n], 5_060)));
            let text = "OPTIONS sip:x SIP/2.0\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n\r\n";
            messages.push(Seen { at: Instant::ZERO, sent: true, hop: &hop, call_id: "c", bytes: text.as_bytes() });
        }
        let ladder = text("c", messages.entry("c").unwrap(), false);
        assert!(ladder.lines().all(|line| line.len() < 400), "{ladder}");
    }
}
