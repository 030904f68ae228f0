//! Two agents over real sockets of every transport, and peers that misbehave.

mod sip_wire;

use control::sip::transport::Transport;
use control::sip::{Credentials, SipEnd, SipEvent};
use control::sip_io::SipIoSettings;
use control::sip_io::tls::Server;
use engine::io::clock;
use sip_wire::{Certificates, Node, SDP, everywhere, folder, play, play_one};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn account() -> Credentials {
    Credentials { username: "alice".to_owned(), password: "secret".to_owned() }
}

async fn pair(name: &str) -> (Node, Node) {
    let certificates = Certificates::make(&folder(name), "both", &["127.0.0.1", "localhost"]);
    let settings = SipIoSettings { certificates: certificates.settings(), ..everywhere(HOST) };
    let a = Node::start(settings.clone(), None).await;
    let mut b = Node::start(settings, Some(("realm".to_owned(), account()))).await;
    b.answers_with = Some(SDP);
    (a, b)
}

#[tokio::test]
async fn a_call_with_digest_goes_both_ways_over_every_transport_and_uses_one_connection() {
    for transport in control::sip::transport::TRANSPORTS {
        let (mut a, mut b) = pair(&format!("every-{transport}")).await;
        let target = b.uri(transport);
        let call = a.call(&target, Some(account()));
        play(&mut a, &mut b, &format!("an answer over {transport}"), |a, b| {
            a.answered() && b.has(|event| matches!(event, SipEvent::Acknowledged { .. }))
        })
        .await;
        let (hop, _) = b.last.clone().unwrap();
        assert_eq!(hop.transport, transport);
        // The callee's requests go back over the connection that is there.
        let SipEvent::Incoming { call: theirs, .. } =
            *b.heard.iter().find(|e| matches!(e, SipEvent::Incoming { .. })).unwrap()
        else {
            unreachable!()
        };
        b.agent.reinvite(clock::now(), theirs, &SDP.replace("4000", "4002"));
        a.answers_with = Some(SDP);
        play(&mut a, &mut b, "the answer to a re-INVITE of the callee", |_, b| {
            b.has(|event| matches!(event, SipEvent::ReInviteAnswered { .. }))
        })
        .await;
        a.agent.hangup(clock::now(), call, None);
        play(&mut a, &mut b, "the end", |a, b| a.ended() && b.ended()).await;
        let connections = if transport == Transport::Udp { 0 } else { 1 };
        assert_eq!(
            (a.io.counters().connections, b.io.counters().connections),
            (connections, connections),
            "{transport}"
        );
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_or_of_an_unknown_authority_is_not_accepted() {
    let folder = folder("wrong-name");
    let good = Certificates::make(&folder, "good", &["localhost", "*.example.test"]);
    let other = Certificates::make(&folder, "other", &["elsewhere.example"]);
    for (shown, trusted, domain, accepted) in [
        (&good, &good, "localhost", true),
        (&good, &good, "sbc.example.test", true),
        (&good, &good, "a.b.example.test", false),
        (&other, &other, "localhost", false),
        (&good, &other, "localhost", false),
    ] {
        let mut server = everywhere(HOST);
        server.certificates = shown.settings();
        let mut client = everywhere(HOST);
        client.certificates = trusted.settings();
        let (mut a, mut b) = (Node::start(client, None).await, Node::start(server, None).await);
        b.answers_with = Some(SDP);
        let hop = control::sip::transport::Hop::new(Transport::Tls, b.io.address(Transport::Tls).unwrap());
        let invite = control::sip::Invite {
            target: format!("sip:x@{domain};transport=tls"),
            hop: Some(hop.for_domain(domain)),
            sdp: SDP.to_owned(),
            ring_ms_max: 10_000,
            ..control::sip::Invite::default()
        };
        a.agent.invite(clock::now(), invite);
        play(&mut a, &mut b, "an outcome", |a, _| a.answered() || a.ended()).await;
        assert_eq!(a.answered(), accepted, "{domain}");
        if !accepted {
            assert!(a.has(|event| matches!(event, SipEvent::Ended { end: SipEnd::Unreachable, .. })), "{:?}", a.heard);
        }
    }
}

#[tokio::test]
async fn a_client_certificate_tells_who_the_peer_is() {
    let certificates = Certificates::make(&folder("client-certificate"), "both", &["127.0.0.1", "trunk.example"]);
    let mut settings = everywhere(HOST);
    settings.certificates = certificates.settings();
    let mut b = Node::start(settings.clone(), None).await;
    b.answers_with = Some(SDP);
    settings.certificates.client_certificate = true;
    let mut a = Node::start(settings, None).await;
    let target = b.uri(Transport::Tls);
    a.call(&target, None);
    play(&mut a, &mut b, "an answer", |a, _| a.answered()).await;
    let (_, peer) = b.last.clone().unwrap();
    assert_eq!(peer.certificate_names, ["127.0.0.1", "trunk.example"]);
}

#[tokio::test]
async fn a_server_is_shown_the_certificate_that_was_made_for_it() {
    let folder = folder("server-certificate");
    let ours = Certificates::make(&folder, "ours", &["127.0.0.1"]);
    let theirs = Certificates::make(&folder, "theirs", &["gateway.customer.example"]);
    let mut server = everywhere(HOST);
    // The server trusts both; it is told by what it is shown which customer this is.
    server.certificates = ours.settings();
    server.certificates.trusted = Some(Certificates::bundle(&folder, &[&ours, &theirs]));
    server.certificates.alpn = true;
    let mut client = everywhere(HOST);
    client.certificates = ours.settings();
    let own = Server {
        name: "127.0.0.1".to_owned(),
        certificate: Some((theirs.certificate.clone(), theirs.key.clone())),
        alpn: true,
        ..Server::default()
    };
    let others = Server { name: "elsewhere.example".to_owned(), ..own.clone() };
    for (servers, shown) in [(vec![others.clone()], vec![]), (vec![others, own], vec!["gateway.customer.example"])] {
        let mut b = Node::start(server.clone(), None).await;
        b.answers_with = Some(SDP);
        let mut a = Node::start(SipIoSettings { servers, ..client.clone() }, None).await;
        let target = b.uri(Transport::Tls);
        a.call(&target, None);
        play(&mut a, &mut b, "an answer", |a, _| a.answered()).await;
        assert_eq!(b.last.clone().unwrap().1.certificate_names, shown);
    }
}

#[tokio::test]
async fn a_refused_connection_ends_the_call_at_once_and_a_large_invite_falls_back_to_udp() {
    let (mut a, mut b) = pair("refused").await;
    // Bound and not listening.
    let port = std::net::TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap().port();
    a.call(&format!("sip:x@127.0.0.1:{port};transport=tcp"), None);
    let begun = clock::now();
    play(&mut a, &mut b, "the end", |a, _| a.ended()).await;
    assert!(clock::now().since(begun) < Duration::from_secs(3));
    a.heard.clear();
    let invite = control::sip::Invite {
        target: b.uri(Transport::Udp),
        sdp: format!("{SDP}{}", "a=x-padding:0123456789\r\n".repeat(80)),
        credentials: Some(account()),
        ring_ms_max: 10_000,
        ..control::sip::Invite::default()
    };
    a.agent.invite(clock::now(), invite);
    play(&mut a, &mut b, "an answer", |a, _| a.answered()).await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_closed_and_stops_nobody() {
    let (mut a, mut b) = pair("stall").await;
    let address = b.io.address(Transport::Tcp).unwrap();
    let mut staller = TcpStream::connect(address).await.unwrap();
    let flood = tokio::spawn(async move {
        let options = |n: u32| {
            format!(
                "OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:9;branch=z9hG4bKstall{n}\r\nMax-Forwards: 70\r\n\
                 From: <sip:s@x>;tag=s\r\nTo: <sip:x>\r\nCall-ID: stall{n}\r\nCSeq: 1 OPTIONS\r\nX-Fill: {}\r\n\
                 Content-Length: 0\r\n\r\n",
                "f".repeat(8_000)
            )
        };
        for n in 0..200_000 {
            if staller.write_all(options(n).as_bytes()).await.is_err() {
                return n;
            }
        }
        panic!("nobody closed the connection");
    });
    let target = b.uri(Transport::Tcp);
    for round in 0..3 {
        a.heard.clear();
        let call = a.call(&target, Some(account()));
        play(&mut a, &mut b, &format!("answer {round} beside a peer that never reads"), |a, _| a.answered()).await;
        a.agent.hangup(clock::now(), call, None);
        play(&mut a, &mut b, "the end", |a, _| a.ended()).await;
    }
    play_one(&mut b, "the end of the peer that never reads", |b| b.io.counters().stalled > 0).await;
    let limit = clock::now().plus_millis(20_000);
    while !flood.is_finished() {
        assert!(clock::now() < limit, "the connection is still open");
        b.turn().await;
    }
    assert!(flood.await.unwrap() > 0);
}

#[tokio::test]
async fn the_wrong_protocol_is_closed_and_counted() {
    let (_, mut b) = pair("wrong").await;
    let tls_hello = [&[0x16, 3, 1, 2, 0, 1][..], &[0; 60]].concat();
    for (transport, bytes) in [
        (Transport::Tcp, tls_hello.as_slice()),
        (Transport::Tcp, b"GET /sip HTTP/1.1\r\nHost: x\r\n\r\n"),
        (Transport::Tls, b"OPTIONS sip:x SIP/2.0\r\n\r\n"),
        (Transport::Tls, b"GET / HTTP/1.1\r\n\r\n"),
        (Transport::Ws, b"OPTIONS sip:x SIP/2.0\r\n\r\n"),
        (Transport::Ws, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: chat\r\n\r\n"),
    ] {
        let before = b.io.counters().handshakes_failed;
        let mut stream = TcpStream::connect(b.io.address(transport).unwrap()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        play_one(&mut b, "the end of a connection", |b| b.io.counters().handshakes_failed > before).await;
        let mut rest = Vec::new();
        // Reset or closed, with a refusal or without.
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.expect("still open");
    }
}

#[tokio::test]
async fn crlf_pings_are_answered_and_a_bad_length_is_told_before_the_stream_is_closed() {
    let (_, mut b) = pair("pings").await;
    let mut stream = TcpStream::connect(b.io.address(Transport::Tcp).unwrap()).await.unwrap();
    stream.write_all(b"\r\n\r\n").await.unwrap();
    let mut pong = [0; 2];
    let reading = async { stream.read_exact(&mut pong).await.unwrap() };
    tokio::select! { _ = reading => {}, () = async { loop { b.turn().await } } => {} }
    assert_eq!(&pong, b"\r\n");
    let request = "OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:9;branch=z9hG4bKa\r\nMax-Forwards: 70\r\n\
                   From: <sip:s@x>;tag=s\r\nTo: <sip:x>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\nContent-Length: -999\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    let reading = async { stream.read_to_end(&mut said).await };
    tokio::select! { _ = reading => {}, () = async { loop { b.turn().await } } => {} }
    let said = String::from_utf8(said).unwrap();
    assert!(said.starts_with("SIP/2.0 400 "), "{said}");
}

#[tokio::test]
async fn connections_from_one_address_have_a_limit_and_a_mute_one_keeps_its_seat_only_for_a_while() {
    let mut settings = everywhere(HOST);
    settings.connections_per_address_max = 3;
    let mut b = Node::start(settings, None).await;
    let address: SocketAddr = b.io.address(Transport::Tcp).unwrap();
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(TcpStream::connect(address).await.unwrap());
    }
    play_one(&mut b, "two refusals", |b| b.io.counters().refused == 2).await;
    assert_eq!(b.io.counters().connections, 3);
    drop(open);
    play_one(&mut b, "the ends", |b| b.io.counters().connections == 0).await;
}
