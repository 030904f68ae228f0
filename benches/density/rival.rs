//! The same load on another gateway: rtpengine as Debian packages it (`rtpengine-daemon`), in user space, at its defaults, on the same
//! core. Calls are placed by its NG protocol: a cookie and a bencoded dictionary each way.
//!
//! What differs and cannot be helped: rtpengine has no SIP, so its set-up is cheaper; it resamples to 48 kHz and encodes Opus at
//! complexity 10. Both are how an operator would meet it.

use super::dial::{Dial, Dialed, Order};
use super::sip;
use anyhow::{Context, Result, anyhow, bail};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

/// Longest message; a datagram of UDP.
const MESSAGE_BYTES_MAX: usize = 65_536;
/// Dictionaries in dictionaries that are read.
const DEPTH_MAX: usize = 16;
const REPLY_TIME_MAX: Duration = Duration::from_secs(3);

/// What bencode can say, as far as it is needed.
#[derive(Debug)]
enum Word {
    Text(String),
    Number,
    List,
    Dictionary(BTreeMap<String, Word>),
}

/// A connection to rtpengine.
pub struct NgDial {
    socket: UdpSocket,
    cookie: u64,
    transcode: bool,
}

impl NgDial {
    /// To a port of this host. With `transcode` the second end speaks PCMU.
    pub fn new(port: u16, transcode: bool) -> Result<NgDial> {
        #[expect(
            clippy::disallowed_methods,
            reason = "the rival's control protocol runs on UDP; a dialler thread may wait"
        )]
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_read_timeout(Some(REPLY_TIME_MAX))?;
        Ok(NgDial { socket, cookie: 0, transcode })
    }

    /// Whether it answers.
    pub fn is_ready(&mut self) -> bool {
        self.ask("d7:command4:pinge").is_ok()
    }

    fn ask(&mut self, message: &str) -> Result<BTreeMap<String, Word>> {
        self.cookie += 1;
        let cookie = format!("{:x}-{}", self.socket.local_addr()?.port(), self.cookie);
        self.socket.send(format!("{cookie} {message}").as_bytes())?;
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        loop {
            let len = self.socket.recv(&mut buffer)?;
            let Some(rest) = buffer[..len].strip_prefix(cookie.as_bytes()) else { continue };
            let mut rest = rest.get(1..).unwrap_or_default();
            let Some(Word::Dictionary(answer)) = read(&mut rest, 0) else { bail!("an unreadable answer") };
            return match answer.get("result") {
                Some(Word::Text(result)) if result == "ok" || result == "pong" => Ok(answer),
                _ => Err(anyhow!("refused: {answer:?}")),
            };
        }
    }

    /// One half of the exchange; answers the description for the other side.
    fn exchange(&mut self, command: &str, call: &str, sdp: &str, more: &str) -> Result<String> {
        let to_tag = if command == "answer" { text("to-tag") + &text("b") } else { String::new() };
        let message = format!(
            "d{}{}{}{}{}{}{to_tag}{}{}{more}e",
            text("command"),
            text(command),
            text("call-id"),
            text(call),
            text("from-tag"),
            text("a"),
            text("sdp"),
            text(sdp)
        );
        match self.ask(&message)?.remove("sdp") {
            Some(Word::Text(sdp)) => Ok(sdp),
            _ => bail!("no description"),
        }
    }
}

impl Dial for NgDial {
    fn dial(&mut self, order: &Order) -> Result<Dialed> {
        let call = format!("{}{}", sip::CALL_NAME, order.call);
        let [a, b] = &order.offers;
        let list = |items: &[&str]| format!("l{}e", items.iter().map(|item| text(item)).collect::<String>());
        let codec = match self.transcode {
            true => format!(
                "{}d{}{}{}{}e",
                text("codec"),
                text("mask"),
                list(&["opus"]),
                text("transcode"),
                list(&["PCMU"])
            ),
            false => String::new(),
        };
        let mut answered = Dialed { call: order.call, status: 200, token: call.clone(), ..Dialed::default() };
        if !b.is_empty() {
            bail!("two offers cannot be joined by an exchange of offer and answer");
        }
        let plain = format!(
            "{}{}{}{}{}{}{codec}",
            text("ICE"),
            text("remove"),
            text("transport-protocol"),
            text("RTP/AVP"),
            text("rtcp-mux"),
            list(&["demux"])
        );
        let for_b = self.exchange("offer", &call, a, &plain).context("offer")?;
        let to = sip::media_of(&for_b).context("no media port in rtpengine's offer")?;
        answered.to = [None, Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, to.port()))];
        let answer = sip::answer(order.at[1], order.rtcp_port, order.payload_type);
        let ice = format!("{}{}", text("ICE"), text("force"));
        answered.answers[0] = self.exchange("answer", &call, &answer, &ice).context("answer")?;
        Ok(answered)
    }

    fn hang_up(&mut self, token: &str) -> Result<()> {
        let message = format!(
            "d{}{}{}{}{}{}e",
            text("command"),
            text("delete"),
            text("call-id"),
            text(token),
            text("from-tag"),
            text("a")
        );
        self.ask(&message).map(drop)
    }
}

fn text(text: &str) -> String {
    format!("{}:{text}", text.len())
}

fn read(rest: &mut &[u8], depth: usize) -> Option<Word> {
    let first = *rest.first().filter(|_| depth < DEPTH_MAX)?;
    if first.is_ascii_digit() {
        return read_text(rest).map(Word::Text);
    }
    *rest = &rest[1..];
    match first {
        b'i' => {
            let end = rest.iter().position(|byte| *byte == b'e')?;
            *rest = &rest[end + 1..];
            Some(Word::Number)
        }
        b'l' => {
            while *rest.first()? != b'e' {
                read(rest, depth + 1)?;
            }
            *rest = &rest[1..];
            Some(Word::List)
        }
        b'd' => {
            let mut words = BTreeMap::new();
            while *rest.first()? != b'e' {
                let name = read_text(rest)?;
                words.insert(name, read(rest, depth + 1)?);
            }
            *rest = &rest[1..];
            Some(Word::Dictionary(words))
        }
        _ => None,
    }
}

fn read_text(rest: &mut &[u8]) -> Option<String> {
    let colon = rest.iter().position(|byte| *byte == b':')?;
    let len: usize = std::str::from_utf8(&rest[..colon]).ok()?.parse().ok()?;
    let text = rest.get(colon + 1..)?.get(..len)?;
    *rest = &rest[colon + 1 + len..];
    Some(String::from_utf8_lossy(text).into_owned())
}
