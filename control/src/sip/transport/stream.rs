//! Cuts a byte stream into SIP messages (RFC 3261 §18.3), and finds the keep-alives between them (RFC 5626 §4.4.1).
//!
//! ```text
//! between messages  -CRLF CRLF-> Ping   -CRLF-> Pong (or stray, §7.5)   -other byte-> head
//! head              -empty line-> body of Content-Length bytes -> Message
//!                   -longer than HEAD_BYTES_MAX, or no usable length-> Lost
//! ```
//!
//! Every error inside a message costs that message only: the framer does not look at start lines or header values, but for the
//! length. Only when nobody can tell where the next message begins is the stream lost.
//!
//! Why a message without Content-Length does not end the stream here: RFC 3261 requires the header on streams, and peers that leave it
//! out of a request without a body exist; a length of 0 is what they mean, and if it is not, everything up to the next start line is
//! dropped.

use super::super::limits::{HEAD_BYTES_MAX, MESSAGE_BYTES_MAX};

/// What was found in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// One message, whole.
    Message(Vec<u8>),
    /// CRLF CRLF: to be answered with CRLF.
    Ping,
    /// CRLF alone: the answer to a ping of ours, or stray.
    Pong,
}

/// Why nobody can tell where the next message begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The first bytes are a TLS record: a TLS client at a port without TLS.
    TlsRecord,
    /// The first bytes are an HTTP request: a browser, or a WebSocket client at the wrong port.
    Http,
    /// The head does not end within [`HEAD_BYTES_MAX`].
    HeadTooLong,
    /// Content-Length is no number, contradicts itself, or is beyond [`MESSAGE_BYTES_MAX`].
    Length,
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Lost::TlsRecord => "it speaks TLS, but this port is for SIP over plain TCP: it must use the TLS port",
            Lost::Http => "it speaks HTTP, but this port is for SIP: WebSocket clients must use the WSS port",
            Lost::HeadTooLong => "the head of a message does not end",
            Lost::Length => "Content-Length is missing its number, or too large",
        })
    }
}

/// The reader's side of one connection.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: Vec<u8>,
    /// Bytes of the head that were searched for its end.
    searched: usize,
    /// Head and body of the message under way, once the head is there.
    length: Option<usize>,
    /// A message was seen: the stream is SIP.
    known: bool,
    /// The last message did not say how long its body was: what is no start line belongs to it.
    open_ended: bool,
}

impl Framer {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next thing in the stream; `None`: more bytes are needed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Lost> {
        if self.length.is_none() {
            if let Some(keep_alive) = self.keep_alive() {
                return Ok(Some(keep_alive));
            }
            if !self.known {
                self.check_protocol()?;
            }
            if self.open_ended && !self.find_start() {
                return if self.buffer.len() >= HEAD_BYTES_MAX { Err(Lost::HeadTooLong) } else { Ok(None) };
            }
            self.length = self.head()?;
        }
        let Some(length) = self.length.filter(|&length| length <= self.buffer.len()) else { return Ok(None) };
        let rest = self.buffer.split_off(length);
        let message = std::mem::replace(&mut self.buffer, rest);
        (self.length, self.searched, self.known) = (None, 0, true);
        Ok(Some(Frame::Message(message)))
    }

    /// Whether a message has begun and is not over: then silence is a fault.
    pub fn is_inside_message(&self) -> bool {
        self.buffer.iter().any(|byte| !matches!(byte, b'\r' | b'\n'))
    }

    /// Line breaks between messages.
    fn keep_alive(&mut self) -> Option<Frame> {
        // A lone LF is no keep-alive but must not stand before one, nor before a start line.
        let line_feeds = self.buffer.iter().take_while(|&&byte| byte == b'\n').count();
        self.buffer.drain(..line_feeds);
        if self.buffer.starts_with(b"\r\n\r\n") {
            self.buffer.drain(..4);
            return Some(Frame::Ping);
        }
        // The second half of a ping may be on its way; anything else behind CRLF shows that it stood alone.
        if self.buffer.starts_with(b"\r\n") && self.buffer.len() > 2 && !b"\r\n".starts_with(&self.buffer[2..]) {
            self.buffer.drain(..2);
            return Some(Frame::Pong);
        }
        None
    }

    /// Whether CRLF stands alone: an answer to a ping of ours, or half a ping.
    pub fn is_half_a_ping(&self) -> bool {
        self.buffer == b"\r\n"
    }

    /// The head of the message that lost the stream, where its sender can be told what is wrong with it.
    pub fn last_words(&self) -> Option<Vec<u8>> {
        head_end(&self.buffer).map(|end| self.buffer[..end].to_vec())
    }

    /// Takes a CRLF that nothing followed for a while as the answer to our ping.
    pub fn settle(&mut self) -> Option<Frame> {
        (self.buffer == b"\r\n").then(|| {
            self.buffer.clear();
            Frame::Pong
        })
    }

    /// Drops lines until one begins a message.
    fn find_start(&mut self) -> bool {
        while let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
            let line = self.buffer[..end].trim_ascii();
            if line.ends_with(b"SIP/2.0") || line.starts_with(b"SIP/2.0 ") {
                self.open_ended = false;
                return true;
            }
            self.buffer.drain(..=end);
        }
        false
    }

    fn check_protocol(&self) -> Result<(), Lost> {
        match self.buffer.as_slice() {
            // A TLS handshake record (RFC 8446 §5.1).
            [0x16, 0x03, ..] => Err(Lost::TlsRecord),
            bytes if [&b"GET /"[..], b"POST /", b"HEAD /"].iter().any(|start| bytes.starts_with(start)) => {
                Err(Lost::Http)
            }
            _ => Ok(()),
        }
    }

    /// Length of the whole message, when its head is there.
    fn head(&mut self) -> Result<Option<usize>, Lost> {
        // The end may have been cut in the middle by the last read.
        let from = self.searched.saturating_sub(3);
        let window = &self.buffer[from..self.buffer.len().min(HEAD_BYTES_MAX)];
        let Some(end) = head_end(window) else {
            self.searched = self.buffer.len();
            return if self.buffer.len() >= HEAD_BYTES_MAX { Err(Lost::HeadTooLong) } else { Ok(None) };
        };
        let end = from + end;
        let body = content_length(&self.buffer[..end])?;
        self.open_ended = body.is_none();
        let length = end + body.unwrap_or(0);
        if length > MESSAGE_BYTES_MAX { Err(Lost::Length) } else { Ok(Some(length)) }
    }
}

/// Behind the empty line that ends a head. Lines end with CRLF or LF alone, as for `Message::parse`: were a line of several CRs empty
/// here and not there, two readers of one stream would see different messages.
fn head_end(bytes: &[u8]) -> Option<usize> {
    let mut line_start = false;
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' if line_start => return Some(at + 1),
            b'\n' => line_start = true,
            b'\r' if line_start && bytes[at - 1] == b'\n' => {}
            _ => line_start = false,
        }
    }
    None
}

/// The number in Content-Length or `l`. Folded lines belong to the line before.
fn content_length(head: &[u8]) -> Result<Option<usize>, Lost> {
    let mut found = None;
    let mut lines = head.split(|&byte| byte == b'\n').skip(1).peekable();
    while let Some(line) = lines.next() {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let name = line[..colon].trim_ascii();
        if !name.eq_ignore_ascii_case(b"Content-Length") && !name.eq_ignore_ascii_case(b"l") {
            continue;
        }
        let mut value = line[colon + 1..].trim_ascii().to_vec();
        while let Some(folded) = lines.next_if(|next| next.first().is_some_and(|&byte| matches!(byte, b' ' | b'\t'))) {
            value.extend_from_slice(folded.trim_ascii());
        }
        let digits = std::str::from_utf8(&value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let length: usize = digits.and_then(|text| text.parse().ok()).ok_or(Lost::Length)?;
        // Two that agree say one thing; two that do not may hide a message in a body.
        if found.is_some_and(|other| other != length) {
            return Err(Lost::Length);
        }
        found = Some(length);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &[u8] = b"OPTIONS sip:a@b SIP/2.0\r\nContent-Length: 0\r\n\r\n";
    const INVITE: &[u8] = b"INVITE sip:a@b SIP/2.0\r\nl : \r\n 5\r\nX: y\r\n\r\nv=0\r\n";

    fn all(framer: &mut Framer) -> Vec<Frame> {
        std::iter::from_fn(|| framer.next_frame().unwrap()).collect()
    }

    fn message(bytes: &[u8]) -> Frame {
        Frame::Message(bytes.to_vec())
    }

    #[test]
    fn messages_are_found_whatever_the_reads_cut() {
        let stream = [OPTIONS, INVITE, b"\r\n\r\n", OPTIONS, b"\r\n", INVITE].concat();
        let expected = [message(OPTIONS), message(INVITE), Frame::Ping, message(OPTIONS), Frame::Pong, message(INVITE)];
        for size in 1..=stream.len() {
            let (mut framer, mut found) = (Framer::default(), Vec::new());
            for piece in stream.chunks(size) {
                framer.push(piece);
                found.extend(all(&mut framer));
            }
            assert_eq!(found, expected, "{size} bytes a read");
            assert!(!framer.is_inside_message());
        }
    }

    #[test]
    fn half_a_ping_waits_and_a_pong_alone_is_settled() {
        let mut framer = Framer::default();
        framer.push(b"\r\n");
        assert_eq!(framer.next_frame(), Ok(None));
        framer.push(b"\r");
        assert_eq!((framer.next_frame(), framer.settle()), (Ok(None), None));
        framer.push(b"\n");
        assert_eq!(framer.next_frame(), Ok(Some(Frame::Ping)));
        framer.push(b"\r\n");
        assert_eq!((framer.next_frame(), framer.settle()), (Ok(None), Some(Frame::Pong)));
        assert_eq!(framer.settle(), None);
    }

    #[test]
    fn a_line_feed_before_a_keep_alive_changes_nothing() {
        let mut framer = Framer::default();
        framer.push(&[OPTIONS, b"\n\r\n\r\n\n\r\n", OPTIONS].concat());
        assert_eq!(all(&mut framer), [message(OPTIONS), Frame::Ping, Frame::Pong, message(OPTIONS)]);
    }

    #[test]
    fn several_carriage_returns_are_no_empty_line_however_they_come() {
        let stream = b"BYE sip:a SIP/2.0\r\n\r\r\r\r\nl: 0\r\n\r\n";
        for size in 1..=stream.len() {
            let mut framer = Framer::default();
            let found: Vec<Frame> = stream
                .chunks(size)
                .flat_map(|piece| {
                    framer.push(piece);
                    all(&mut framer)
                })
                .collect();
            assert_eq!(found, [message(stream)], "{size} bytes a read");
        }
    }

    #[test]
    fn garbage_with_an_end_costs_only_itself() {
        let mut framer = Framer::default();
        framer.push(b"!! no start line\r\nneither a header\r\n\r\n");
        framer.push(OPTIONS);
        assert_eq!(all(&mut framer).len(), 2);
    }

    #[test]
    fn a_body_without_a_length_is_dropped_and_the_next_message_found() {
        let mut framer = Framer::default();
        framer.push(b"INVITE sip:a@b SIP/2.0\r\nVia: x\r\n\r\nv=0\r\no=- 1 1 IN IP4 x\r\n");
        assert_eq!(all(&mut framer).len(), 1);
        framer.push(OPTIONS);
        framer.push(b"SIP/2.0 200 OK\r\n\r\nleft over");
        framer.push(b"\r\n");
        framer.push(INVITE);
        let found = all(&mut framer);
        assert_eq!(found, [message(OPTIONS), message(b"SIP/2.0 200 OK\r\n\r\n"), message(INVITE)]);
    }

    #[test]
    fn a_length_that_nobody_can_trust_loses_the_stream() {
        for value in ["18446744073709551616", "-1", "5x", "70000", "5\r\nl: 6", "0x10", "5, 5"] {
            let mut framer = Framer::default();
            framer.push(format!("BYE sip:a SIP/2.0\r\nContent-Length: {value}\r\n\r\n").as_bytes());
            assert_eq!(framer.next_frame(), Err(Lost::Length), "{value}");
        }
        let mut framer = Framer::default();
        framer.push(b"BYE sip:a SIP/2.0\r\nContent-Length: 0\r\nl: 0\r\n\r\n");
        assert!(matches!(framer.next_frame(), Ok(Some(Frame::Message(_)))));
    }

    #[test]
    fn a_head_without_end_and_foreign_protocols_lose_the_stream() {
        let mut framer = Framer::default();
        framer.push(&vec![b'a'; HEAD_BYTES_MAX]);
        assert_eq!(framer.next_frame(), Err(Lost::HeadTooLong));
        for (bytes, lost) in
            [(&b"\x16\x03\x01\x02\x00\x01"[..], Lost::TlsRecord), (b"GET /sip HTTP/1.1\r\n", Lost::Http)]
        {
            let mut framer = Framer::default();
            framer.push(bytes);
            assert_eq!(framer.next_frame(), Err(lost));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end_in_frames_or_a_loss(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let mut framer = Framer::default();
            for piece in bytes.chunks(7) {
                framer.push(piece);
                while let Ok(Some(_)) = framer.next_frame() {}
            }
        }
    }
}
