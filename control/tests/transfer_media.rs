//! An attended transfer with the real engine: a trunk's call and a consultation become one call, and the trunk's side hears another
//! person on the same stream, packet after packet.

mod sip_wire;

use control::config::{Config, Mode};
use control::runtime::Input;
use control::server::start;
use control::sip::{Credentials, Invite, Register, SipCallId, SipEvent};
use control::sip_io::SipIoSettings;
use engine::io::clock;
use sip_wire::{Node, SOON};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;

/// What each says, in every byte of PCMU.
const CUSTOMER: u8 = 0x11;
const BOB: u8 = 0x22;
const CAROL: u8 = 0x33;

/// Packets heard of somebody before that counts as talking.
const TALKING: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn whom_the_customer_hears_changes_and_its_stream_does_not() {
    let mut config = Config::read(
        "[users.bob]\npassword = \"secret\"\n[users.carol]\npassword = \"secret\"\n\
         [trunks.customer]\nhost = \"127.0.0.3\"\ntransport = \"udp\"\nallowed_sources = [\"127.0.0.3\"]\n",
        |name| match name {
            "SIP_BIND" | "EDGE_BIND" => Some("127.0.0.1:0".to_owned()),
            "PUBLIC_IP" => Some("127.0.0.1".to_owned()),
            "MEDIA_WORKERS" => Some("2".to_owned()),
            "MEDIA_PORTS" => Some("30400-30499".to_owned()),
            _ => None,
        },
    )
    .unwrap();
    config.media.pin = false;
    let gateway = start(config, Mode::Edge).await.unwrap();
    let mut world = World::new(gateway.sip.unwrap()).await;
    for user in ["bob", "carol"] {
        world.register(user);
    }
    let registered = |node: &Node| node.has(|event| matches!(event, SipEvent::Registered { .. }));
    world.until("both registrations", |world| registered(&world.bob) && registered(&world.carol)).await;

    // The customer talks to bob.
    let (sdp, target) = (world.voices[0].sdp(), format!("sip:bob@{}", world.gateway));
    world.customer.agent.invite(clock::now(), invite(&target, "+447700900123", sdp, false));
    world.until("bob's answer", |world| world.customer.answered()).await;
    world.voices[0].gateway = Some(audio(&answered(&world.customer).1));
    world.voices[1].gateway = Some(audio(&incoming(&world.bob).1));
    world.until("talk", |world| world.voices[0].hears(BOB) && world.voices[1].hears(CUSTOMER)).await;

    // Bob asks carol.
    let (sdp, target) = (world.voices[2].sdp(), format!("sip:carol@{}", world.gateway));
    world.bob.agent.invite(clock::now(), invite(&target, "bob", sdp, true));
    world.until("carol's answer", |world| world.bob.answered()).await;
    world.voices[2].gateway = Some(audio(&answered(&world.bob).1));
    world.voices[3].gateway = Some(audio(&incoming(&world.carol).1));
    world.until("a consultation", |world| world.voices[2].hears(CAROL) && world.voices[3].hears(BOB)).await;

    // And leaves both to each other.
    let (first, second) = (incoming(&world.bob).0, answered(&world.bob).0);
    let named = world.bob.agent.replaces(second).unwrap().header().replace(';', "%3B").replace('=', "%3D");
    let refer_to = format!("sip:carol@{}?Replaces={named}", world.gateway);
    world.bob.agent.refer(clock::now(), first, &refer_to, None);
    let done = |event: &SipEvent| matches!(event, SipEvent::TransferProgress { code: 200, over: true, .. });
    world.until("the transfer", |world| world.bob.has(done)).await;
    let ended = |node: &Node| node.heard.iter().filter(|event| matches!(event, SipEvent::Ended { .. })).count();
    world.until("the end of both calls for bob", |world| ended(&world.bob) == 2).await;
    world.until("their talk", |world| world.voices[0].hears(CAROL) && world.voices[3].hears(CUSTOMER)).await;

    for (voice, others) in [(0, [BOB, CAROL]), (3, [BOB, CUSTOMER])] {
        let heard = &world.voices[voice].heard;
        for pair in heard.windows(2) {
            assert_eq!(pair[0].ssrc, pair[1].ssrc, "one SSRC from first to last");
            assert_eq!(pair[1].sequence.wrapping_sub(pair[0].sequence), 1, "{pair:?}");
            assert!(pair[1].timestamp.wrapping_sub(pair[0].timestamp) < 1 << 31, "{pair:?}");
        }
        let order: Vec<u8> = heard.iter().map(|packet| packet.says).filter(|says| others.contains(says)).collect();
        assert!(order.is_sorted_by_key(|says| *says == others[1]), "first one, then the other");
    }
    let customer = answered(&world.customer).0;
    world.customer.agent.hangup(clock::now(), customer, None);
    world.until("carol's end", |world| world.carol.ended()).await;
    gateway.inputs.send(Input::Stop).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), gateway.finished()).await.unwrap().unwrap();
}

#[derive(Debug)]
struct Packet {
    sequence: u16,
    timestamp: u32,
    ssrc: u32,
    says: u8,
}

/// One end of a call's media.
struct Voice {
    socket: UdpSocket,
    says: u8,
    gateway: Option<u16>,
    sequence: u16,
    heard: Vec<Packet>,
}

impl Voice {
    async fn new(ip: IpAddr, says: u8) -> Voice {
        let socket = UdpSocket::bind((ip, 0)).await.unwrap();
        Voice { socket, says, gateway: None, sequence: 0, heard: Vec::new() }
    }

    fn sdp(&self) -> &'static str {
        let at = self.socket.local_addr().unwrap();
        let (ip, port) = (at.ip(), at.port());
        let text = format!(
            "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\na=rtcp-mux\r\n"
        );
        Box::leak(text.into_boxed_str())
    }

    fn speak(&mut self, gateway: IpAddr) {
        let Some(port) = self.gateway else { return };
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = vec![0x80, 0];
        packet.extend(self.sequence.to_be_bytes());
        packet.extend((u32::from(self.sequence) * 160).to_be_bytes());
        packet.extend([self.says; 4]);
        packet.extend([self.says; 160]);
        let _ = self.socket.try_send_to(&packet, (gateway, port).into());
    }

    fn listen(&mut self) {
        let mut packet = [0; 2_048];
        while let Ok(len) = self.socket.try_recv(&mut packet) {
            // RTP of PCMU only; RTCP shares the port.
            if len == 172 && packet[1] & 0x7f == 0 {
                let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
                let sequence = u16::from_be_bytes([packet[2], packet[3]]);
                self.heard.push(Packet { sequence, timestamp: word(4), ssrc: word(8), says: packet[100] });
            }
        }
    }

    fn hears(&self, says: u8) -> bool {
        self.heard.iter().filter(|packet| packet.says == says).count() >= TALKING
    }
}

struct World {
    gateway: SocketAddr,
    customer: Node,
    bob: Node,
    carol: Node,
    /// The customer's, bob's with the customer, bob's with carol, carol's.
    voices: [Voice; 4],
}

impl World {
    async fn new(gateway: SocketAddr) -> World {
        // The trunk is known by its address: everybody has one of its own.
        let ips: [IpAddr; 3] = ["127.0.0.3", "127.0.0.4", "127.0.0.5"].map(|ip| ip.parse().unwrap());
        let node = |ip| SipIoSettings { udp: Some(SocketAddr::new(ip, 0)), ..SipIoSettings::default() };
        let mut world = World {
            gateway,
            customer: Node::start(node(ips[0]), None).await,
            bob: Node::start(node(ips[1]), None).await,
            carol: Node::start(node(ips[2]), None).await,
            voices: [
                Voice::new(ips[0], CUSTOMER).await,
                Voice::new(ips[1], BOB).await,
                Voice::new(ips[1], BOB).await,
                Voice::new(ips[2], CAROL).await,
            ],
        };
        (world.bob.answers_with, world.carol.answers_with) = (Some(world.voices[1].sdp()), Some(world.voices[3].sdp()));
        world
    }

    fn register(&mut self, user: &str) {
        let node = if user == "bob" { &mut self.bob } else { &mut self.carol };
        let register = Register {
            registrar: format!("sip:{}", self.gateway),
            aor: format!("sip:{user}@{}", self.gateway.ip()),
            contact_user: Some(user.to_owned()),
            credentials: Some(Credentials { username: user.to_owned(), password: "secret".to_owned() }),
            expires_s: 3_600,
            ..Register::default()
        };
        node.agent.register(clock::now(), register);
    }

    /// Everybody plays and talks until `done`.
    async fn until(&mut self, what: &str, done: impl Fn(&World) -> bool) {
        let limit = clock::now().plus_millis(SOON.as_millis() as u64);
        let mut next = clock::now();
        while !done(self) {
            assert!(
                clock::now() < limit,
                "{what} did not come: {:#?}",
                [&self.customer, &self.bob, &self.carol].map(|n| &n.heard)
            );
            tokio::join!(self.customer.turn(), self.bob.turn(), self.carol.turn());
            for voice in &mut self.voices {
                voice.listen();
                if next <= clock::now() {
                    voice.speak(self.gateway.ip());
                }
            }
            if next <= clock::now() {
                next = next.plus_millis(20).max(clock::now());
            }
        }
    }
}

fn invite(target: &str, from: &str, sdp: &str, is_user: bool) -> Invite {
    Invite {
        target: target.to_owned(),
        from_user: from.to_owned(),
        sdp: sdp.to_owned(),
        credentials: is_user.then(|| Credentials { username: from.to_owned(), password: "secret".to_owned() }),
        ring_ms_max: 25_000,
        ..Invite::default()
    }
}

fn answered(node: &Node) -> (SipCallId, String) {
    let found = node.heard.iter().find_map(|event| match event {
        SipEvent::Answered { call, sdp, .. } => Some((*call, sdp.clone())),
        _ => None,
    });
    found.expect("an answered call")
}

fn incoming(node: &Node) -> (SipCallId, String) {
    let found = node.heard.iter().find_map(|event| match event {
        SipEvent::Incoming { call, sdp: Some(sdp), .. } => Some((*call, sdp.clone())),
        _ => None,
    });
    found.expect("a call that came")
}

/// The port of the audio section.
fn audio(sdp: &str) -> u16 {
    let line = sdp.lines().find_map(|line| line.strip_prefix("m=audio ")).expect("an audio section");
    line.split(' ').next().and_then(|port| port.parse().ok()).expect("a port")
}
