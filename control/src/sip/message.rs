//! SIP messages: reading and writing (RFC 3261 §7, §20, §25).
//!
//! Reading has two steps. [`Message::parse`] only finds the start line, the header lines and the body; what fails there
//! cannot be answered and is dropped. [`Message::check`] then judges what it found, so that a bad request can be refused
//! with the code its fault deserves, by a response that repeats the request's own headers.
//!
//! Header values are kept as they came: a response must repeat Via, From, To, Call-ID, CSeq and Record-Route unaltered
//! (§8.2.6.2, §12.1.1). Only the line breaks of folded lines are taken out, which §7.3.1 allows; so no stored value
//! can ever hold one. Bytes that are not UTF-8 survive too: each is held as one character of the range behind
//! `RAW_BYTE`, and written as the byte it was.
//!
//! Why not typed headers: a parser per header is a chance per header to change or refuse what only had to be repeated. This
//! stack understands about twenty of them, at the place where each is used.

use super::limits::{HEADERS_MAX, MESSAGE_BYTES_MAX};
use super::uri::{self, NameAddr, SipUri};
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

/// A request or a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The first line.
    pub start: Start,
    headers: Vec<Header>,
    /// The body; `Content-Length` is computed from it.
    pub body: Vec<u8>,
    /// What `parse` found wrong without losing the message.
    fault: Option<Fault>,
}

/// The first line of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// `METHOD uri SIP/2.0`.
    Request {
        /// Case-sensitive (§7.1).
        method: String,
        /// Request-URI as written.
        uri: String,
        /// `SIP/2.0`, or what stood in its place.
        version: String,
    },
    /// `SIP/2.0 code reason`.
    Response {
        /// 100 to 699.
        code: u16,
        /// Reason phrase, may be empty.
        reason: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    name: String,
    value: String,
}

/// Why a datagram is not a SIP message at all. It is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Nothing but line breaks: a keep-alive.
    Empty,
    /// No empty line behind the headers.
    NoHeaderEnd,
    /// Neither a request line nor a status line.
    StartLine,
    /// Not three digits from 100 to 699.
    StatusCode,
    /// Longer than [`MESSAGE_BYTES_MAX`].
    TooLong,
    /// More than [`HEADERS_MAX`] header lines.
    TooManyHeaders,
}

/// What is wrong with a message that could be taken apart. A request is refused with [`Fault::code`], a response dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Call-ID missing or repeated.
    CallId,
    /// A Contact that is no address.
    Contact,
    /// Content-Length repeated, or not a number.
    ContentLength,
    /// CSeq missing, repeated, out of range, or of another method.
    CSeq,
    /// From missing, repeated, or no address.
    From,
    /// A header line without a name.
    HeaderLine,
    /// Max-Forwards repeated or out of range.
    MaxForwards,
    /// White space or angle brackets in the request line, or a Request-URI that carries headers.
    RequestLine,
    /// A Request-URI of a scheme that is not ours.
    Scheme,
    /// To missing, repeated, or no address.
    To,
    /// Shorter than its Content-Length.
    Truncated,
    /// Not SIP/2.0.
    Version,
    /// Via missing or not well formed.
    Via,
}

impl Fault {
    /// The response it deserves.
    pub fn code(self) -> u16 {
        match self {
            Fault::Scheme => 416,
            Fault::Version => 505,
            _ => 400,
        }
    }

    /// A reason phrase that names the fault.
    pub fn reason(self) -> &'static str {
        match self {
            Fault::CallId => "Bad Call-ID",
            Fault::Contact => "Bad Contact",
            Fault::ContentLength => "Bad Content-Length",
            Fault::CSeq => "Bad CSeq",
            Fault::From => "Bad From",
            Fault::HeaderLine => "Bad Header Line",
            Fault::MaxForwards => "Bad Max-Forwards",
            Fault::RequestLine => "Bad Request Line",
            Fault::Scheme => "Unsupported URI Scheme",
            Fault::To => "Bad To",
            Fault::Truncated => "Truncated",
            Fault::Version => "Version Not Supported",
            Fault::Via => "Bad Via",
        }
    }
}

/// One element of a Via header (§20.42).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    /// `UDP`, `TCP`, `TLS`, ...
    pub transport: &'a str,
    /// Name or address; an IPv6 address keeps its brackets.
    pub host: &'a str,
    /// The port, if written.
    pub port: Option<u16>,
    /// Parameters, without the first `;`.
    pub params: &'a str,
}

/// A branch that starts with this is unique (§8.1.1.7).
pub const MAGIC_COOKIE: &str = "z9hG4bK";

impl<'a> Via<'a> {
    /// Reads one element; white space may stand around each `/` and `:`.
    pub fn parse(text: &'a str) -> Option<Via<'a>> {
        let (sent, params) = text.split_once(';').map_or((text, ""), |(sent, params)| (sent, params));
        let mut parts = sent.splitn(3, '/');
        let (name, version) = (parts.next()?.trim(), parts.next()?.trim());
        let (transport, sent_by) = parts.next()?.trim().split_once(|c: char| c.is_ascii_whitespace())?;
        if !name.eq_ignore_ascii_case("SIP") || version != "2.0" || !uri::is_token(transport) {
            return None;
        }
        let sent_by = sent_by.trim();
        let (host, port) = match sent_by.rsplit_once(|c: char| c.is_ascii_whitespace()) {
            None => uri::split_host_port(sent_by)?,
            Some(_) => {
                // `host : 5060` is legal and rare.
                let (host, port) = sent_by.rsplit_once(':')?;
                (uri::split_host_port(host.trim())?.0, Some(port.trim().parse().ok()?))
            }
        };
        uri::params_are_valid(params, text.contains(';')).then_some(Via { transport, host, port, params })
    }

    /// The value of a parameter; empty when it stands alone.
    pub fn param(&self, name: &str) -> Option<&'a str> {
        uri::param(self.params, name)
    }

    /// The branch, if it is one of RFC 3261: the cookie and something behind it.
    pub fn branch(&self) -> Option<&'a str> {
        self.param("branch").filter(|branch| {
            branch.len() > MAGIC_COOKIE.len()
                && branch[..].get(..7).is_some_and(|c| c.eq_ignore_ascii_case(MAGIC_COOKIE))
        })
    }
}

impl Message {
    /// A request without headers.
    pub fn request(method: &str, uri: &str) -> Message {
        let start = Start::Request { method: method.into(), uri: uri.into(), version: "SIP/2.0".into() };
        Message { start, headers: Vec::new(), body: Vec::new(), fault: None }
    }

    /// A response to `request`: Via, From, To, Call-ID and CSeq repeated (§8.2.6.2). `to_tag` is added unless To has a tag.
    pub fn response(request: &Message, code: u16, reason: &str, to_tag: Option<&str>) -> Message {
        let start = Start::Response { code, reason: reason.into() };
        let mut response = Message { start, headers: Vec::new(), body: Vec::new(), fault: None };
        for header in &request.headers {
            let name = long_name(&header.name);
            if !["Via", "From", "To", "Call-ID", "CSeq"].iter().any(|kept| name.eq_ignore_ascii_case(kept)) {
                continue;
            }
            let untagged = name.eq_ignore_ascii_case("To") && header_tag(&header.value).is_none();
            let value = match to_tag {
                Some(tag) if untagged => format!("{};tag={tag}", header.value),
                _ => header.value.clone(),
            };
            response.headers.push(Header { name: header.name.clone(), value });
        }
        response
    }

    /// Takes a datagram apart. Bytes beyond Content-Length are dropped (§18.3).
    pub fn parse(datagram: &[u8]) -> Result<Message, Malformed> {
        if datagram.len() > MESSAGE_BYTES_MAX {
            return Err(Malformed::TooLong);
        }
        // Stray line breaks before a message are legal (§7.5), alone they are a keep-alive.
        let first = datagram.iter().position(|b| !matches!(b, b'\r' | b'\n')).ok_or(Malformed::Empty)?;
        let mut lines = Lines { rest: &datagram[first..] };
        let start = parse_start(&text(lines.next().ok_or(Malformed::NoHeaderEnd)?))?;
        let mut message = Message { start, headers: Vec::new(), body: Vec::new(), fault: None };
        loop {
            let line = lines.next().ok_or(Malformed::NoHeaderEnd)?;
            if line.is_empty() {
                break;
            }
            message.take_line(line)?;
        }
        for header in &mut message.headers {
            header.value.truncate(header.value.trim_end().len());
        }
        message.take_body(lines.rest);
        Ok(message)
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), Malformed> {
        let line = text(line);
        // A bare CR could be a line break to the next reader.
        if line.contains('\r') {
            self.fault = Some(Fault::HeaderLine);
        }
        if line.starts_with([' ', '\t']) {
            match self.headers.last_mut() {
                Some(header) if header.value.is_empty() => header.value.push_str(line.trim_start()),
                Some(header) => header.value.push_str(&line),
                None => self.fault = Some(Fault::HeaderLine),
            }
            return Ok(());
        }
        match line.split_once(':') {
            Some((name, value)) if uri::is_token(name.trim_end()) => {
                if self.headers.len() == HEADERS_MAX {
                    return Err(Malformed::TooManyHeaders);
                }
                self.headers.push(Header { name: name.trim_end().into(), value: value.trim_start().into() });
            }
            _ => self.fault = Some(Fault::HeaderLine),
        }
        Ok(())
    }

    fn take_body(&mut self, rest: &[u8]) {
        let mut lengths = self.headers("Content-Length");
        let length = match (lengths.next(), lengths.next()) {
            (None, _) => Ok(rest.len()),
            (Some(value), None) if is_number(value) => match value.parse::<usize>() {
                Ok(length) if length <= rest.len() => Ok(length),
                _ => Err(Fault::Truncated),
            },
            _ => Err(Fault::ContentLength),
        };
        drop(lengths);
        match length {
            Ok(length) => self.body = rest[..length].to_vec(),
            Err(fault) => self.fault = Some(fault),
        }
    }

    /// Judges what `parse` found (§8.1.1, §8.2). The headers everything depends on are well formed after `Ok`.
    pub fn check(&self) -> Result<(), Fault> {
        if let Start::Request { uri, version, .. } = &self.start {
            check_request_line(uri, version)?;
        }
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let mut vias = 0;
        for via in self.list("Via") {
            vias += 1;
            Via::parse(via).ok_or(Fault::Via)?;
        }
        if vias == 0 {
            return Err(Fault::Via);
        }
        let from = self.single("From").ok_or(Fault::From)?;
        NameAddr::parse(from).ok_or(Fault::From)?;
        let to = self.single("To").ok_or(Fault::To)?;
        NameAddr::parse(to).ok_or(Fault::To)?;
        self.single("Call-ID").filter(|id| !id.is_empty()).ok_or(Fault::CallId)?;
        self.single("CSeq").and_then(parse_cseq).ok_or(Fault::CSeq)?;
        if let (Some(method), Some((_, cseq_method))) = (self.method(), self.cseq())
            && method != cseq_method
        {
            return Err(Fault::CSeq);
        }
        if self.headers("Max-Forwards").next().is_some() && self.max_forwards().is_none() {
            return Err(Fault::MaxForwards);
        }
        if self.list("Contact").any(|contact| contact != "*" && NameAddr::parse(contact).is_none()) {
            return Err(Fault::Contact);
        }
        Ok(())
    }

    /// The method of a request.
    pub fn method(&self) -> Option<&str> {
        match &self.start {
            Start::Request { method, .. } => Some(method),
            Start::Response { .. } => None,
        }
    }

    /// The Request-URI of a request.
    pub fn uri(&self) -> Option<&str> {
        match &self.start {
            Start::Request { uri, .. } => Some(uri),
            Start::Response { .. } => None,
        }
    }

    /// The code of a response.
    pub fn code(&self) -> Option<u16> {
        match self.start {
            Start::Response { code, .. } => Some(code),
            Start::Request { .. } => None,
        }
    }

    /// All values of a header, in order, compact names understood; lists are not split.
    pub fn headers<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let name = long_name(name).to_owned();
        self.headers.iter().filter(move |h| long_name(&h.name).eq_ignore_ascii_case(&name)).map(|h| h.value.as_str())
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).next()
    }

    /// The elements of a comma-joined, possibly repeated header; an empty header has none (§7.3.1).
    pub fn list<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.headers(name).filter(|value| !value.is_empty()).flat_map(|value| uri::split_list(value, ','))
    }

    /// Whether a list of tokens holds `token`.
    pub fn lists(&self, name: &str, token: &str) -> bool {
        self.list(name).any(|element| element.eq_ignore_ascii_case(token))
    }

    /// All headers whose name starts with `X-`, control characters removed, in order.
    pub fn x_headers(&self) -> Vec<(String, String)> {
        let is_x = |h: &&Header| h.name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("x-"));
        self.headers.iter().filter(is_x).map(|h| (h.name.clone(), readable(&h.value))).collect()
    }

    /// The top Via.
    pub fn via(&self) -> Option<Via<'_>> {
        self.list("Via").next().and_then(Via::parse)
    }

    /// CSeq number and method; the number is below 2^31 (§8.1.1.5).
    pub fn cseq(&self) -> Option<(u32, &str)> {
        self.header("CSeq").and_then(parse_cseq)
    }

    /// Call-ID.
    pub fn call_id(&self) -> &str {
        self.header("Call-ID").unwrap_or("")
    }

    /// Tag of From.
    pub fn from_tag(&self) -> Option<&str> {
        self.header("From").and_then(header_tag)
    }

    /// Tag of To.
    pub fn to_tag(&self) -> Option<&str> {
        self.header("To").and_then(header_tag)
    }

    /// URI of the first Contact.
    pub fn contact(&self) -> Option<&str> {
        self.list("Contact").next().and_then(NameAddr::parse).map(|addr| addr.uri)
    }

    /// Max-Forwards, 0 to 255 (§20.22). `None` also when it is no such number.
    pub fn max_forwards(&self) -> Option<u8> {
        self.single("Max-Forwards").filter(|v| is_number(v)).and_then(|v| v.parse().ok())
    }

    /// Media type of the body in lower case, without parameters.
    pub fn content_type(&self) -> Option<String> {
        let value = self.header("Content-Type")?;
        Some(value.split(';').next().unwrap_or("").trim().to_ascii_lowercase())
    }

    /// The session description: the body, or the part of a multipart body that is one. Must be UTF-8.
    pub fn sdp(&self) -> Option<&str> {
        if self.body.is_empty() {
            return None;
        }
        match self.content_type().as_deref() {
            None | Some("application/sdp") => std::str::from_utf8(&self.body).ok(),
            Some("multipart/mixed" | "multipart/alternative") => self.sdp_part(),
            Some(_) => None,
        }
    }

    /// Finds `application/sdp` among the parts of a multipart body (RFC 2046 §5.1).
    fn sdp_part(&self) -> Option<&str> {
        let boundary = uri::unquote(uri::param(self.header("Content-Type")?, "boundary")?);
        let body = std::str::from_utf8(&self.body).ok()?;
        body.split(&format!("--{boundary}")).skip(1).take(HEADERS_MAX).find_map(|part| {
            let (head, content) = part.split_once("\r\n\r\n")?;
            head.to_ascii_lowercase().contains("application/sdp").then(|| content.trim_end_matches("\r\n"))
        })
    }

    /// Adds a header. Line breaks cannot get in: control characters become spaces.
    pub fn push(&mut self, name: &str, value: impl Into<String>) {
        let mut value: String = value.into();
        if value.contains(['\r', '\n']) {
            value = value.replace(['\r', '\n'], " ");
        }
        self.headers.push(Header { name: name.into(), value });
    }

    /// Puts a header first: a Via stands above those below it.
    pub fn push_front(&mut self, name: &str, value: String) {
        self.headers.insert(0, Header { name: name.into(), value });
    }

    /// Removes every header of that name.
    pub fn remove(&mut self, name: &str) {
        let name = long_name(name);
        self.headers.retain(|h| !long_name(&h.name).eq_ignore_ascii_case(name));
    }

    /// Copies all headers of that name from `other`, unaltered and in order.
    pub fn copy(&mut self, other: &Message, name: &str) {
        let name = long_name(name);
        self.headers.extend(other.headers.iter().filter(|h| long_name(&h.name).eq_ignore_ascii_case(name)).cloned());
    }

    /// Sets the body and its type.
    pub fn set_body(&mut self, content_type: &str, body: &str) {
        self.push("Content-Type", content_type);
        self.body = body.as_bytes().to_vec();
    }

    /// Notes in the top Via where the request really came from (§18.2.1, RFC 3581 §4).
    pub fn note_source(&mut self, source: SocketAddr) {
        let Some(header) = self.headers.iter_mut().find(|h| long_name(&h.name).eq_ignore_ascii_case("Via")) else {
            return;
        };
        let top_end = uri::split_list(&header.value, ',').next().map_or(0, |top| {
            // The element is a slice of the value, trimmed: its end is where the parameters are added.
            top.as_ptr() as usize + top.len() - header.value.as_ptr() as usize
        });
        let (top, rest) = header.value.split_at(top_end);
        let Some(via) = Via::parse(top.trim()) else { return };
        let same_host = via.host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip == source.ip());
        let wants_port = via.param("rport").is_some();
        if same_host && !wants_port {
            return;
        }
        let mut noted = top.to_owned();
        if wants_port {
            noted = uri::split_list(top, ';')
                .filter(|part| !part.split('=').next().unwrap_or("").trim().eq_ignore_ascii_case("rport"))
                .collect::<Vec<_>>()
                .join(";");
            noted.push_str(&format!(";rport={}", source.port()));
        }
        header.value = format!("{noted};received={}{rest}", source.ip());
    }

    /// The bytes to send.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512 + self.body.len());
        match &self.start {
            Start::Request { method, uri, version } => write_text(&mut out, &format!("{method} {uri} {version}\r\n")),
            Start::Response { code, reason } => write_text(&mut out, &format!("SIP/2.0 {code} {reason}\r\n")),
        }
        for header in self.headers.iter().filter(|h| !long_name(&h.name).eq_ignore_ascii_case("Content-Length")) {
            write_text(&mut out, &header.name);
            out.extend_from_slice(b": ");
            write_text(&mut out, &header.value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", self.body.len()).as_bytes());
        out.extend_from_slice(&self.body);
        out
    }

    /// The value of a header that may occur once; `None` when it is missing or repeated.
    fn single(&self, name: &str) -> Option<&str> {
        let mut values = self.headers(name);
        let first = values.next()?;
        values.next().is_none().then_some(first)
    }
}

/// Printable text of a header value, for people and for other protocols.
pub fn readable(value: &str) -> String {
    value.chars().map(|c| if c.is_control() || u32::from(c) >= RAW_BYTE { ' ' } else { c }).collect()
}

/// The standard reason phrase of a code (§21).
pub fn reason_phrase(code: u16) -> &'static str {
    match code {
        100 => "Trying",
        180 => "Ringing",
        183 => "Session Progress",
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        422 => "Session Interval Too Small",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        491 => "Request Pending",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        600 => "Busy Everywhere",
        603 => "Decline",
        _ => match code / 100 {
            1 => "Progress",
            2 => "OK",
            3 => "Redirected",
            4 => "Request Failure",
            5 => "Server Failure",
            _ => "Global Failure",
        },
    }
}

/// First of the characters that stand for single bytes which are not UTF-8: byte `b` is `RAW_BYTE + b`. They end the last
/// private plane; where the input itself uses one, its bytes are held one by one, so that nothing is ambiguous.
const RAW_BYTE: u32 = 0x10_FF00;

/// Bytes to text, without loss.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| u32::from(c) >= RAW_BYTE) => return Cow::Borrowed(text),
        _ => {}
    }
    let mut out = String::with_capacity(bytes.len() * 2);
    let push_raw = |out: &mut String, raw: &[u8]| {
        // RAW_BYTE + 255 is the last code point, and none of the range is a surrogate.
        out.extend(raw.iter().map(|&b| char::from_u32(RAW_BYTE + u32::from(b)).unwrap_or(' ')));
    };
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match u32::from(c) >= RAW_BYTE {
                true => push_raw(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
                false => out.push(c),
            }
        }
        push_raw(&mut out, chunk.invalid());
    }
    Cow::Owned(out)
}

/// The reverse of `text`.
fn write_text(out: &mut Vec<u8>, text: &str) {
    for c in text.chars() {
        match u32::from(c).checked_sub(RAW_BYTE) {
            Some(byte) => out.push(byte as u8),
            None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Lines of the head; CRLF, and LF alone as some senders write.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|&b| b == b'\n')?;
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

fn parse_start(line: &str) -> Result<Start, Malformed> {
    if let Some(rest) = line.get(..8).filter(|v| v.eq_ignore_ascii_case("SIP/2.0 ")).and_then(|_| line.get(8..)) {
        let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
        let code = match code.parse::<u16>() {
            Ok(number) if code.len() == 3 && (100..700).contains(&number) => number,
            _ => return Err(Malformed::StatusCode),
        };
        return Ok(Start::Response { code, reason: reason.into() });
    }
    let (method, rest) = line.split_once(' ').ok_or(Malformed::StartLine)?;
    let (uri, version) = rest.rsplit_once(' ').ok_or(Malformed::StartLine)?;
    if !uri::is_token(method) {
        return Err(Malformed::StartLine);
    }
    Ok(Start::Request { method: method.into(), uri: uri.into(), version: version.into() })
}

fn check_request_line(uri: &str, version: &str) -> Result<(), Fault> {
    match version.strip_prefix("SIP/") {
        Some("2.0") => {}
        Some(_) => return Err(Fault::Version),
        None => return Err(Fault::RequestLine),
    }
    if uri.is_empty() || uri.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | '"')) {
        return Err(Fault::RequestLine);
    }
    let scheme = uri.split(':').next().unwrap_or("");
    if !scheme.eq_ignore_ascii_case("sip") && !scheme.eq_ignore_ascii_case("sips") {
        return Err(Fault::Scheme);
    }
    match SipUri::parse(uri) {
        Some(uri) if uri.headers.is_empty() => Ok(()),
        _ => Err(Fault::RequestLine),
    }
}

fn parse_cseq(value: &str) -> Option<(u32, &str)> {
    let (number, method) = value.split_once(|c: char| c.is_ascii_whitespace())?;
    let number: u32 = number.parse().ok().filter(|&n| n < 1 << 31 && is_number(number))?;
    Some((number, method.trim())).filter(|(_, method)| uri::is_token(method))
}

fn header_tag(value: &str) -> Option<&str> {
    NameAddr::parse(value)?.tag()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// The long form of a compact name (§7.3.3, and the extensions that registered one).
fn long_name(name: &str) -> &str {
    if name.len() != 1 {
        return name;
    }
    match name.as_bytes()[0].to_ascii_lowercase() {
        b'c' => "Content-Type",
        b'e' => "Content-Encoding",
        b'f' => "From",
        b'i' => "Call-ID",
        b'k' => "Supported",
        b'l' => "Content-Length",
        b'm' => "Contact",
        b's' => "Subject",
        b't' => "To",
        b'v' => "Via",
        b'x' => "Session-Expires",
        _ => name,
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
