//! The answering side of SIP, as little of it as a callee needs who always says yes: 200 to INVITE, BYE and the rest, by copying headers
//! (RFC 3261 §8.2.6). A repeated INVITE gets the same answer again, since the tag is made from its Call-ID.
//!
//! Why not the product's own agent: the generator must be cheap, and a mistake made on both sides would not show.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

/// What a call's name begins with; its number follows.
pub const CALL_NAME: &str = "density-";

/// A request.
pub struct Request<'t> {
    /// Its method.
    pub method: &'t str,
    /// The number in `X-WA-Call-ID`.
    pub call: Option<usize>,
    text: &'t str,
}

impl<'t> Request<'t> {
    /// Reads one; responses are none.
    pub fn read(text: &'t str) -> Option<Request<'t>> {
        let (method, rest) = text.split_once(' ')?;
        if method.starts_with("SIP/") || !rest.contains("SIP/2.0\r\n") {
            return None;
        }
        let call = header(text, "X-WA-Call-ID").and_then(|id| id.strip_prefix(CALL_NAME)?.parse().ok());
        Some(Request { method, call, text })
    }

    /// Where the offer wants media.
    pub fn media(&self) -> Option<SocketAddrV4> {
        media_of(self.text)
    }

    /// A response with the request's own headers.
    pub fn reply(&self, status: &str, port: u16, sdp: &str) -> String {
        let mut reply = format!("SIP/2.0 {status}\r\n");
        for line in self.text.split("\r\n").skip(1).take_while(|line| !line.is_empty()) {
            let name = line.split(':').next().unwrap_or_default().trim();
            if ["Via", "v", "From", "f", "Call-ID", "i", "CSeq", "Record-Route"]
                .iter()
                .any(|n| n.eq_ignore_ascii_case(name))
            {
                let _ = write!(reply, "{line}\r\n");
            } else if name.eq_ignore_ascii_case("To") || name.eq_ignore_ascii_case("t") {
                let tag = if line.contains(";tag=") { String::new() } else { format!(";tag={:x}", self.tag()) };
                let _ = write!(reply, "{line}{tag}\r\n");
            }
        }
        let _ = write!(reply, "Contact: <sip:bot@127.0.0.1:{port}>\r\n");
        if !sdp.is_empty() {
            reply.push_str("Content-Type: application/sdp\r\n");
        }
        let _ = write!(reply, "Content-Length: {}\r\n\r\n{sdp}", sdp.len());
        reply
    }

    /// The same for every repetition: FNV-1a of the Call-ID.
    fn tag(&self) -> u64 {
        let id = header(self.text, "Call-ID").unwrap_or_default();
        id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    }
}

/// What an RTP end says about itself. RTCP of all goes to one port, at the end's own address.
pub fn answer(at: SocketAddrV4, rtcp_port: u16, payload_type: u8) -> String {
    let map = match payload_type {
        0 => "PCMU/8000".to_owned(),
        8 => "PCMA/8000".to_owned(),
        _ => "opus/48000/2".to_owned(),
    };
    let (ip, port) = (at.ip(), at.port());
    format!(
        "v=0\r\no=- {port} 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
         m=audio {port} RTP/AVP {payload_type}\r\na=rtpmap:{payload_type} {map}\r\na=ptime:20\r\n\
         a=rtcp:{rtcp_port}\r\na=sendrecv\r\n"
    )
}

/// Where a description wants audio.
pub fn media_of(text: &str) -> Option<SocketAddrV4> {
    let line = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix));
    let port = line("m=audio ")?.split(' ').next()?.parse().ok()?;
    let address: Ipv4Addr = line("c=IN IP4 ")?.trim().parse().ok()?;
    Some(SocketAddrV4::new(address, port))
}

fn header<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.split("\r\n").take_while(|line| !line.is_empty()).find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
