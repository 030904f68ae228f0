//! A trunk's signalling: one call over TLS (RFC 3261), written by hand. Whatever the gateway asks inside the call is answered and kept.

use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

/// Who calls.
#[derive(Clone, Copy)]
pub struct Caller {
    /// In From.
    pub host: &'static str,
    /// Its Call-ID.
    pub call_id: &'static str,
    /// Further header lines of its INVITE.
    pub headers: &'static str,
}

/// One connection with one call.
pub struct Line {
    /// Methods of what the gateway asked.
    pub requests: Vec<String>,
    caller: Caller,
    input: ChildStdin,
    messages: mpsc::Receiver<String>,
    target: String,
    to: String,
    sequence: u32,
    _program: Child,
}

impl Line {
    /// Connects. TLS is openssl's.
    pub async fn open(gateway: &str, caller: Caller) -> Line {
        let mut program = Command::new("openssl")
            .args(["s_client", "-quiet", "-nocommands", "-connect", gateway])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("openssl starts");
        let input = program.stdin.take().expect("its input");
        let output = program.stdout.take().expect("its output");
        let (tell, messages) = mpsc::channel(64);
        tokio::spawn(async move {
            let mut reader = BufReader::new(output);
            while let Some(message) = read(&mut reader).await {
                if tell.send(message).await.is_err() {
                    return;
                }
            }
        });
        Line {
            requests: Vec::new(),
            caller,
            input,
            messages,
            target: String::new(),
            to: String::new(),
            sequence: 1,
            _program: program,
        }
    }

    /// Calls `number` and answers the description of the 2xx.
    pub async fn call(&mut self, number: &str, offer: &str) -> String {
        self.target = format!("sip:{number}@10.77.0.1:5061;transport=tls");
        self.to = format!("<{}>", self.target);
        self.send("INVITE", offer).await;
        let answer = self.final_answer("INVITE").await;
        self.target = header(&answer, "Contact").trim_matches(['<', '>']).to_owned();
        self.send("ACK", "").await;
        answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
    }

    /// Says BYE.
    pub async fn hang_up(&mut self) {
        self.sequence += 1;
        self.send("BYE", "").await;
        self.final_answer("BYE").await;
    }

    async fn send(&mut self, method: &str, body: &str) {
        let Line { target, to, sequence, caller: Caller { host, call_id, headers }, .. } = self;
        let headers = if method == "INVITE" { headers } else { "" };
        let text = format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/TLS 10.77.0.1:5071;branch=z9hG4bK{sequence}{method};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:+447700900123@{host}>;tag=trunk\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {sequence} {method}\r\n\
             Contact: <sip:+447700900123@10.77.0.1:5071;transport=tls>\r\n{headers}Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.write(&text).await;
    }

    async fn write(&mut self, text: &str) {
        self.input.write_all(text.as_bytes()).await.expect("the connection takes it");
        self.input.flush().await.expect("the connection takes it");
    }

    async fn final_answer(&mut self, method: &str) -> String {
        loop {
            let wait = tokio::time::timeout(std::time::Duration::from_secs(40), self.messages.recv()).await;
            let message = wait.unwrap_or_else(|_| panic!("no answer to {method}")).expect("the connection stays");
            if !message.starts_with("SIP/2.0") {
                self.answer(&message).await;
                continue;
            }
            if message.starts_with("SIP/2.0 1") || !header(&message, "CSeq").ends_with(method) {
                continue;
            }
            assert!(message.starts_with("SIP/2.0 200 "), "{message}");
            self.to = header(&message, "To").to_owned();
            return message;
        }
    }

    async fn answer(&mut self, request: &str) {
        let method = request.split(' ').next().unwrap_or_default().to_owned();
        let lines = request.lines().filter(|line| {
            ["Via:", "From:", "To:", "Call-ID:", "CSeq:", "Record-Route:"].iter().any(|name| line.starts_with(name))
        });
        let echoed: Vec<&str> = lines.collect();
        let text = format!("SIP/2.0 200 OK\r\n{}\r\nContent-Length: 0\r\n\r\n", echoed.join("\r\n"));
        self.requests.push(method);
        self.write(&text).await;
    }
}

fn header<'m>(message: &'m str, name: &str) -> &'m str {
    let found = message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.unwrap_or_else(|| panic!("no {name} in {message}")).trim()
}

/// One message: header lines, and as much body as they say.
async fn read(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Option<String> {
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        if reader.read_line(&mut text).await.ok()? == 0 {
            return None;
        }
        if text == "\r\n" {
            text.clear();
        }
    }
    let length = header(&text, "Content-Length").parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await.ok()?;
    Some(text + &String::from_utf8_lossy(&body))
}
