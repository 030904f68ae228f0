//! What scanners and broken clients send: WebSocket frames that are none, heads that do not end, header lines by the hundred. Each costs
//! its sender the message or the connection, and nobody else anything.

mod sip_wire;

use control::sip::transport::Transport;
use control::sip_io::websocket::Door;
use control::sip_io::{Heard, SipIo, SipIoSettings};
use engine::random::Random;
use sip_wire::{Node, SOON, everywhere};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpStream, UdpSocket};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Longest message that is taken, by each transport.
const LIMIT: usize = 65_535;

#[tokio::test]
async fn frames_that_are_none_end_their_connection_and_no_other() {
    let mut server = Server::start().await;
    let mut good = server.connect();
    let hello = options("good");
    good.write_all(&frame(0x81, hello.as_bytes())).await.unwrap();
    assert_eq!(server.next_message().await, hello);
    let unmasked = [&[0x81, 5][..], b"hello"].concat();
    let too_long = [&[0x81, 0x80 | 127][..], &(1_u64 << 62).to_be_bytes(), &[0; 4]].concat();
    let endless = [frame(0x01, &[b'x'; 60_000]), frame(0x00, &[b'x'; 60_000])].concat();
    for (what, bytes) in [
        ("a frame without its mask", unmasked),
        ("a reserved opcode", frame(0x83, b"x")),
        ("reserved bits", frame(0xf1, b"x")),
        ("a ping in pieces", frame(0x09, b"x")),
        ("a ping of 200 bytes", frame(0x89, &[0; 200])),
        ("a piece of nothing", frame(0x80, b"x")),
        ("a text that is none", frame(0x81, &[0xff, 0xfe, 0xc0])),
        ("a length of 2^62", too_long),
        ("a message too long", frame(0x81, &vec![b'x'; LIMIT + 1])),
        ("pieces without end", endless),
        ("a message inside another", [frame(0x01, b"a"), frame(0x81, b"b")].concat()),
        ("a close frame of one byte", frame(0x88, b"x")),
        ("half a frame", frame(0x81, b"hello")[..4].to_vec()),
    ] {
        let mut client = server.connect();
        // The server may have hung up before all of it was taken.
        let _ = client.write_all(&bytes).await;
        let _ = client.shutdown().await;
        server.lost(what).await;
    }
    // In pieces, as bytes, with a ping between them: all of that is a message still.
    let hello = options("pieces");
    let (first, rest) = hello.as_bytes().split_at(40);
    let pieces = [frame(0x02, first), frame(0x89, b"?"), frame(0x00, b""), frame(0x80, rest)].concat();
    good.write_all(&pieces).await.unwrap();
    assert_eq!(server.next_message().await, hello);
    let mut pong = [0; 3];
    good.read_exact(&mut pong).await.unwrap();
    assert_eq!(pong, [0x8a, 1, b'?'], "the ping was answered");
}

#[tokio::test]
async fn noise_on_a_websocket_ends_it_or_is_no_message() {
    let mut server = Server::start().await;
    let mut random = Random::from_test_seed(5);
    let whole = frame(0x81, options("noise").as_bytes());
    for _ in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..=random.below(8) {
            let at = random.below(bytes.len() as u32) as usize;
            bytes[at] = random.next_u32() as u8;
        }
        bytes.truncate(1 + random.below(bytes.len() as u32) as usize);
        let mut client = server.connect();
        let _ = client.write_all(&bytes).await;
        let _ = client.shutdown().await;
        server.lost("a noisy client").await;
    }
    let mut client = server.connect();
    client.write_all(&whole).await.unwrap();
    assert_eq!(server.next_message().await, options("noise"));
}

#[tokio::test]
async fn a_browser_that_never_reads_is_closed() {
    let mut server = Server::start().await;
    let mut client = server.connect();
    client.write_all(&frame(0x81, options("slow").as_bytes())).await.unwrap();
    let hop = loop {
        if let Heard::Message { hop, .. } = server.next().await {
            break hop;
        }
    };
    // Its window holds some; the queue holds some; then it is let go, and the writer was never waited for.
    while server.io.counters().stalled == 0 {
        server.io.send(&hop, vec![b'x'; 8_192]);
    }
    server.lost("a browser that never reads").await;
    server.io.send(&hop, options("late").into_bytes());
    let Heard::Lost { failed: true, .. } = server.next().await else { panic!("what is gone cannot be called") };
}

#[tokio::test]
async fn header_bombs_are_refused_or_dropped_and_the_next_request_is_answered() {
    let mut node = Node::start(everywhere(HOST), None).await;
    let request = |fill: &str| options("bomb").replace("Content-Length", &format!("{fill}Content-Length"));
    let bombs = [
        request(&"X-A: b\r\n".repeat(300)),
        request(&format!("X-Long: {}\r\n", "y".repeat(30_000))),
        request(&"Via: SIP/2.0/UDP h;branch=z9hG4bKx\r\n".repeat(200)),
        request(&format!("Contact: {}<sip:z@h>\r\n", "<sip:a@h>,".repeat(2_000))),
        request(&format!("X-Folded: a{}\r\n", "\r\n b".repeat(4_000))),
        request(&format!("Proxy-Authorization: Digest {}x=\"y\"\r\n", "a=\"b\", ".repeat(3_000))),
        request(&format!("Route: {}\r\n", "\"".repeat(5_000))),
        request(&format!("Content-Type: multipart/mixed;boundary={}\r\n", "b".repeat(9_000))),
    ];
    let udp = UdpSocket::bind((HOST, 0)).await.unwrap();
    for bomb in &bombs {
        assert!(bomb.len() > 1_000);
        udp.send_to(bomb.as_bytes(), node.io.address(Transport::Udp).unwrap()).await.unwrap();
        let mut stream = TcpStream::connect(node.io.address(Transport::Tcp).unwrap()).await.unwrap();
        stream.write_all(bomb.as_bytes()).await.unwrap();
        stream.write_all(options("after").as_bytes()).await.unwrap();
        let answered = answered_after(&mut stream);
        tokio::select! { answer = answered => assert!(answer, "{bomb:.80}"), () = async { loop { node.turn().await } } => {} }
    }
    // A head beyond its limit, and a body that claims to be: there is no next message on that stream.
    for bomb in [request(&"X-A: b\r\n".repeat(5_000)), options("bomb").replace("Length: 0", "Length: 99999999")] {
        let mut stream = TcpStream::connect(node.io.address(Transport::Tcp).unwrap()).await.unwrap();
        let _ = stream.write_all(bomb.as_bytes()).await;
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(SOON, stream.read_to_end(&mut rest));
        tokio::select! { closed = closed => drop(closed.expect("still open")), () = async { loop { node.turn().await } } => {} }
    }
    let server = node.io.address(Transport::Udp).unwrap();
    udp.send_to(options("last").as_bytes(), server).await.unwrap();
    let answered = async {
        let mut buffer = vec![0; LIMIT];
        loop {
            let (len, _) = udp.recv_from(&mut buffer).await.unwrap();
            let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
            if text.contains("Call-ID: last") {
                return text;
            }
        }
    };
    tokio::select! { text = answered => assert!(text.starts_with("SIP/2.0 200"), "{text}"), () = async { loop { node.turn().await } } => {} }
    assert_eq!(node.agent.alive().0, 0, "no call was made of any of it");
}

/// Whether the request behind the bomb is answered well, on the same stream.
async fn answered_after(stream: &mut TcpStream) -> bool {
    let mut heard = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        match tokio::time::timeout(SOON, stream.read(&mut buffer)).await.expect("an answer") {
            Ok(0) | Err(_) => return false,
            Ok(len) => heard.extend(&buffer[..len]),
        }
        let text = String::from_utf8_lossy(&heard);
        if let Some(at) = text.find("Call-ID: after") {
            return text[..at].rfind("SIP/2.0 ").is_some_and(|start| text[start..].starts_with("SIP/2.0 200"));
        }
    }
}

fn options(id: &str) -> String {
    format!(
        "OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:9;rport;branch=z9hG4bK{id}\r\nMax-Forwards: 70\r\n\
         From: <sip:s@x>;tag=s\r\nTo: <sip:x>\r\nCall-ID: {id}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}

/// A client's frame, masked (RFC 6455 §5.2).
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ ..126 => bytes.push(0x80 | len as u8),
        len @ ..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    let mask = [1, 2, 3, 4];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The sockets' side of WebSocket connections whose wire is a pipe.
struct Server {
    io: SipIo,
    door: Door,
    heard: Vec<Heard>,
}

impl Server {
    async fn start() -> Server {
        let io = SipIo::bind(&SipIoSettings::default()).await.unwrap();
        let door = io.door();
        Server { io, door, heard: Vec::new() }
    }

    /// A client that has shaken hands.
    fn connect(&self) -> DuplexStream {
        let (ours, theirs) = duplex(16_384);
        let door = self.door.clone();
        tokio::spawn(async move { door.carry(theirs, SocketAddr::from((HOST, 9)), true).await });
        ours
    }

    async fn next(&mut self) -> Heard {
        while self.heard.is_empty() {
            tokio::time::timeout(SOON, self.io.readable()).await.expect("nothing is heard");
            let heard = &mut self.heard;
            self.io.receive(|one| heard.push(one));
        }
        self.heard.remove(0)
    }

    async fn next_message(&mut self) -> String {
        match self.next().await {
            Heard::Message { bytes, .. } => String::from_utf8(bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// The next connection's end; messages before it may have been whole.
    async fn lost(&mut self, what: &str) {
        loop {
            match self.next().await {
                Heard::Lost { failed, .. } => return assert!(!failed, "{what}"),
                Heard::Message { .. } => {}
                Heard::Opened(_) => unreachable!(),
            }
        }
    }
}
