//! How calls are placed at a gateway: a few threads with a connection each, so that the loop that carries media never waits.

use super::sip::CALL_NAME;
use anyhow::{Context, Result, anyhow};
use engine::io::clock;
use engine::time::Instant;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longest answer read.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Patience with one request.
const REPLY_TIME_MAX: Duration = Duration::from_secs(10);

/// Which end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first, a WebRTC caller.
    A = 0,
    /// The second.
    B = 1,
}

/// A call to be placed.
pub struct Order {
    /// Its number.
    pub call: u32,
    /// The offers of WebRTC ends; empty for others.
    pub offers: [String; 2],
    /// Where the ends are.
    pub at: [SocketAddrV4; 2],
    /// Where RTP ends want RTCP.
    pub rtcp_port: u16,
    /// What the second end hears, if it is an RTP end.
    pub payload_type: u8,
}

/// What the gateway said.
#[derive(Default)]
pub struct Dialed {
    /// Which call.
    pub call: u32,
    /// An HTTP status, or 0 where the gateway's protocol knows none and all went well.
    pub status: u16,
    /// Answers to the offers.
    pub answers: [String; 2],
    /// Where ends without an offer send to.
    pub to: [Option<SocketAddrV4>; 2],
    /// The gateway's name of the call.
    pub token: String,
    /// When a thread took the order.
    pub asked: Instant,
    /// When the gateway's answer was there.
    pub answered: Instant,
}

/// A connection to a gateway.
pub trait Dial: Send {
    /// Places a call and waits for the answer.
    fn dial(&mut self, order: &Order) -> Result<Dialed>;
    /// Ends one.
    fn hang_up(&mut self, token: &str) -> Result<()>;
}

enum Job {
    Dial(Order),
    HangUp(String),
}

/// The threads.
pub struct Dialler {
    jobs: Sender<Job>,
    done: Receiver<Dialed>,
}

impl Dialler {
    /// One thread for each of `connections`.
    pub fn start(connections: Vec<Box<dyn Dial>>) -> Dialler {
        let (jobs, waiting) = channel::<Job>();
        let (finished, done) = channel();
        let waiting = Arc::new(Mutex::new(waiting));
        for mut connection in connections {
            let (waiting, finished) = (Arc::clone(&waiting), finished.clone());
            std::thread::spawn(move || {
                loop {
                    let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let dialed = match job {
                        Err(_) => return,
                        Ok(Job::HangUp(token)) => {
                            let _ = connection.hang_up(&token);
                            continue;
                        }
                        Ok(Job::Dial(order)) => {
                            let asked = clock::now();
                            let dialed = connection.dial(&order).unwrap_or_else(|error| {
                                eprintln!("density: call {} was not placed: {error:#}", order.call);
                                Dialed { call: order.call, status: 598, ..Dialed::default() }
                            });
                            Dialed { asked, answered: clock::now(), ..dialed }
                        }
                    };
                    if finished.send(dialed).is_err() {
                        return;
                    }
                }
            });
        }
        Dialler { jobs, done }
    }

    /// Places a call.
    pub fn dial(&self, order: Order) -> Result<()> {
        self.jobs.send(Job::Dial(order)).map_err(|_| anyhow!("the diallers are gone"))
    }

    /// Ends a call.
    pub fn hang_up(&self, token: String) -> Result<()> {
        self.jobs.send(Job::HangUp(token)).map_err(|_| anyhow!("the diallers are gone"))
    }

    /// What was answered meanwhile.
    pub fn next(&self) -> Option<Dialed> {
        self.done.try_recv().ok()
    }
}

/// HTTP/1.1 with one connection that is kept.
pub struct Http {
    port: u16,
    stream: Option<BufReader<TcpStream>>,
}

impl Http {
    /// To a port of this host.
    pub fn new(port: u16) -> Http {
        Http { port, stream: None }
    }

    /// One request; answers status and body. A kept connection that the server has meanwhile closed is opened once more.
    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        if let Some(stream) = self.stream.take()
            && let Ok(answer) = self.exchange(stream, method, path, body)
        {
            return Ok(answer);
        }
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIME_MAX))?;
        self.exchange(BufReader::new(stream), method, path, body)
    }

    fn exchange(
        &mut self,
        mut stream: BufReader<TcpStream>,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<(u16, String)> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.get_mut().write_all(request.as_bytes())?;
        let answer = read_answer(&mut stream)?;
        self.stream = Some(stream);
        Ok(answer)
    }
}

fn read_answer(stream: &mut BufReader<TcpStream>) -> Result<(u16, String)> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).context("no HTTP status")?;
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<usize>()?;
        }
    }
    if length > BODY_BYTES_MAX {
        return Err(anyhow!("an answer of {length} bytes"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((status, String::from_utf8(body)?))
}

/// `tandem edge`: `POST /webrtc/new`.
pub struct EdgeDial(pub Http);

impl Dial for EdgeDial {
    fn dial(&mut self, order: &Order) -> Result<Dialed> {
        let body = json!({"call_id": format!("{CALL_NAME}{}", order.call), "sdp_offer": order.offers[0]});
        let (status, body) = self.0.ask("POST", "/webrtc/new", &body.to_string())?;
        let body: Value = serde_json::from_str(&body).unwrap_or_default();
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let answers = [text("sdp_answer"), String::new()];
        // Where the second end sends to is said in the INVITE.
        Ok(Dialed {
            call: order.call,
            status,
            answers,
            to: [None; 2],
            token: text("edge_session_id"),
            ..Dialed::default()
        })
    }

    fn hang_up(&mut self, token: &str) -> Result<()> {
        self.0.ask("POST", "/webrtc/hangup", &json!({ "edge_session_id": token }).to_string()).map(drop)
    }
}

/// The floor, over its standard input and output: two ports each way.
pub struct FloorDial<W, R> {
    /// To the program.
    pub to: W,
    /// From it.
    pub from: R,
}

impl<W: Write + Send, R: BufRead + Send> Dial for FloorDial<W, R> {
    fn dial(&mut self, order: &Order) -> Result<Dialed> {
        writeln!(self.to, "{} {} {}", order.call, order.at[0], order.at[1])?;
        self.to.flush()?;
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        let ports: Vec<u16> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [a, b] = ports[..] else { return Err(anyhow!("the floor said {line:?}")) };
        let to = [a, b].map(|port| Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)));
        Ok(Dialed { call: order.call, status: 200, to, ..Dialed::default() })
    }

    fn hang_up(&mut self, _token: &str) -> Result<()> {
        Ok(())
    }
}
