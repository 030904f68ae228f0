//! The 49 messages of RFC 4475, each over UDP, TCP and TLS: what is said to it, and whether the connection lives on.
//!
//! Every message comes on a connection of its own; behind it a plain OPTIONS asks whether anybody still listens. The streams differ
//! from UDP in three messages only, whose Content-Length is what frames them.

mod sip_wire;

use control::sip::message::Message;
use control::sip::transport::Transport;
use control::sip_io::SipIoSettings;
use engine::io::clock;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sip_wire::{Certificates, Node, everywhere, folder};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What becomes of a message: the code of the response, or none because it is a response, or no SIP at all. INVITEs that are in order are
/// refused with 486 here; a registrar is not there (405).
const CASES: [(&str, Option<u16>); 49] = [
    ("badaspec", Some(400)),   // §3.1.2.16
    ("badbranch", Some(200)),  // §3.1.1.12: matched as RFC 2543 does
    ("baddate", Some(486)),    // §3.1.2.12: an element that does not use Date may ignore it
    ("baddn", Some(400)),      // §3.1.2.15
    ("badinv01", Some(400)),   // §3.1.2.1
    ("badvers", Some(505)),    // §3.1.2.16
    ("bcast", None),           // §3.3.13: a response with a second Via
    ("bext01", Some(420)),     // §3.3.7
    ("bigcode", None),         // §3.1.2.19: not a response
    ("clerr", Some(400)),      // §3.1.2.2
    ("cparam01", Some(405)),   // §3.3.11
    ("cparam02", Some(405)),   // §3.3.12
    ("dblreq", Some(405)),     // §3.1.1.8: the INVITE behind it is no part of the datagram
    ("esc01", Some(486)),      // §3.1.1.3
    ("esc02", Some(405)),      // §3.1.1.5: the method is not REGISTER
    ("escnull", Some(405)),    // §3.1.1.4
    ("escruri", Some(400)),    // §3.1.2.11
    ("insuf", Some(400)),      // §3.3.1
    ("intmeth", Some(405)),    // §3.1.1.2
    ("inv2543", Some(486)),    // §3.4.1
    ("invut", Some(415)),      // §3.3.6
    ("longreq", Some(486)),    // §3.1.1.7
    ("ltgtruri", Some(400)),   // §3.1.2.7
    ("lwsdisp", Some(200)),    // §3.1.1.6
    ("lwsruri", Some(400)),    // §3.1.2.8
    ("lwsstart", Some(400)),   // §3.1.2.9
    ("mcl01", Some(400)),      // §3.3.9
    ("mismatch01", Some(400)), // §3.1.2.17
    ("mismatch02", Some(400)), // §3.1.2.18
    ("mpart01", Some(405)),    // §3.1.1.11: MESSAGE is not spoken here
    ("multi01", Some(400)),    // §3.3.8
    ("ncl", Some(400)),        // §3.1.2.3
    ("noreason", None),        // §3.1.1.13: a response to nobody
    ("novelsc", Some(416)),    // §3.3.3
    ("quotbal", Some(400)),    // §3.1.2.6
    ("regaut01", Some(405)),   // §3.3.10
    ("regbadct", Some(400)),   // §3.1.2.14
    ("regescrt", Some(405)),   // §3.3.14
    ("scalar02", Some(400)),   // §3.1.2.4
    ("scalarlg", None),        // §3.1.2.5: a response whose CSeq is no number
    ("sdp01", Some(486)),      // §3.3.15
    ("semiuri", Some(200)),    // §3.1.1.9
    ("transports", Some(200)), // §3.1.1.10
    ("trws", Some(400)),       // §3.1.2.10
    ("unkscm", Some(416)),     // §3.3.2
    ("unksm2", Some(405)),     // §3.3.4
    ("unreason", None),        // §3.1.1.12: a response to nobody
    ("wsinv", Some(481)),      // §3.1.1.1: it has a To tag, of a dialog that is not here
    ("zeromf", Some(483)),     // §3.3.4
];

/// Streams end where nobody can tell where the next message begins.
const LOSES_THE_STREAM: [&str; 2] = ["mcl01", "ncl"];

/// Its body is shorter than it says: on a stream the rest may still come, and the OPTIONS behind it is taken for that.
const UNFINISHED: &str = "clerr";

fn torture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/data/rfc4475/{name}.dat", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).expect("the torture messages are part of the repository")
}

fn options(call_id: &str, transport: Transport) -> Vec<u8> {
    let via = transport.via_name();
    format!(
        "OPTIONS sip:x@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/{via} 127.0.0.1:9;branch=z9hG4bK{call_id};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:p@x>;tag=1\r\nTo: <sip:x@127.0.0.1>\r\nCall-ID: {call_id}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

/// Codes of the responses that the node sent, but for 100 and those to the OPTIONS behind; and whether that was answered.
fn outcome(node: &mut Node, after: &str) -> (Vec<u16>, bool) {
    let said: Vec<Message> =
        node.traced.drain(..).filter(|m| m.sent).filter_map(|m| Message::parse(&m.bytes).ok()).collect();
    let codes = said.iter().filter(|m| m.call_id() != after).filter_map(Message::code).filter(|&code| code > 100);
    (codes.collect(), said.iter().any(|m| m.call_id() == after))
}

async fn node(transport: Transport) -> (Node, Certificates) {
    let certificates = Certificates::make(&folder(&format!("torture-{transport}")), "both", &["127.0.0.1"]);
    let mut node = Node::start(SipIoSettings { certificates: certificates.settings(), ..everywhere(HOST) }, None).await;
    node.agent.set_tracing(true);
    node.refuses_with = Some(486);
    (node, certificates)
}

async fn listen(node: &mut Node, done: impl Fn(&Node) -> bool) {
    let limit = clock::now().plus_millis(10_000);
    while !done(node) && clock::now() < limit {
        node.turn().await;
    }
}

fn answered(after: &str) -> impl Fn(&Node) -> bool {
    let wanted = format!("Call-ID: {after}\r\n");
    move |node| node.traced.iter().any(|m| m.sent && String::from_utf8_lossy(&m.bytes).contains(&wanted))
}

#[tokio::test]
async fn torture_messages_are_answered_as_rfc_4475_says_over_udp() {
    let (mut node, _) = node(Transport::Udp).await;
    let socket = UdpSocket::bind((HOST, 0)).await.unwrap();
    socket.connect(node.io.address(Transport::Udp).unwrap()).await.unwrap();
    for (name, code) in CASES {
        let after = format!("after-{name}");
        socket.send(&torture(name)).await.unwrap();
        socket.send(&options(&after, Transport::Udp)).await.unwrap();
        listen(&mut node, answered(&after)).await;
        let (codes, alive) = outcome(&mut node, &after);
        // A refusal of an INVITE that nobody acknowledges is repeated.
        let mut distinct = codes.clone();
        distinct.dedup();
        assert!(alive, "{name}: nobody listens any more");
        assert!(distinct.contains(&code.unwrap_or(0)) == code.is_some(), "{name}: {codes:?} instead of {code:?}");
    }
}

async fn over_streams<S, C>(transport: Transport, mut connect: C)
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: AsyncFnMut(std::net::SocketAddr, &Certificates) -> S,
{
    for (name, code) in CASES {
        let (mut node, certificates) = node(transport).await;
        let address = node.io.address(transport).unwrap();
        let after = format!("after-{name}");
        let connecting = connect(address, &certificates);
        let mut stream = tokio::select! {
            stream = connecting => stream,
            () = async { loop { node.turn().await } } => unreachable!(),
        };
        stream.write_all(&torture(name)).await.unwrap();
        let _ = stream.write_all(&options(&after, transport)).await;
        let is_lost = LOSES_THE_STREAM.contains(&name);
        let is_over = answered(&after);
        let waited = clock::now();
        listen(&mut node, |node| match name {
            UNFINISHED => clock::now().since(waited) > Duration::from_millis(300),
            _ => is_over(node) || (is_lost && !node.lost.is_empty()),
        })
        .await;
        let (codes, alive) = outcome(&mut node, &after);
        if name == UNFINISHED {
            assert_eq!((codes, alive), (Vec::new(), false), "{name}");
            continue;
        }
        assert_eq!(alive, !is_lost, "{name} over {transport}");
        let mut expected: Vec<u16> = code.into_iter().collect();
        if name == "dblreq" {
            // On a stream the second message is one; it has no Contact.
            expected.push(400);
        }
        assert_eq!(codes, expected, "{name} over {transport}");
        if is_lost {
            let mut rest = Vec::new();
            let _ =
                tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.expect("still open");
        }
    }
}

#[tokio::test]
async fn torture_messages_are_answered_as_rfc_4475_says_over_tcp() {
    over_streams(Transport::Tcp, async |address, _: &Certificates| TcpStream::connect(address).await.unwrap()).await;
}

#[tokio::test]
async fn torture_messages_are_answered_as_rfc_4475_says_over_tls() {
    over_streams(Transport::Tls, async |address, certificates: &Certificates| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&certificates.authority).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = rustls::pki_types::ServerName::IpAddress(HOST.into());
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    })
    .await;
}
