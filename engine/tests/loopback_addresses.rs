//! A host with several addresses, media sockets bound to all of them, running calls in one socket: real bridges answer from the address that
//! their peers send to.

use engine::bridge::{BridgeCommand, BridgeConfig, BridgeId, LegConfig, LegName, LegRemote, Shared};
use engine::config::{COMPLEXITY_DEFAULT, DSCP_DEFAULT, Driver, EngineConfig};
use engine::dtls::Identity;
use engine::leg::rtp::{RtpConfig, RtpRemote};
use engine::leg::{LocalLeg, MediaFormat};
use engine::rtp::header;
use engine::sdp::{Codec, OpusParameters};
use engine::srtp::{MASTER_BYTES_MAX, MasterKey, Protect, SrtpKeys, SrtpProfile};
use engine::time::{RtpTimestamp, WallAnchor};
use engine::worker::{Command, Engine, Event};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Tries of what another thread must do first: only a failing test gets there.
const TRIES_MAX: u32 = 2_000;
const PROFILE: SrtpProfile = SrtpProfile::AesCm128HmacSha1_80;

fn remote(peer: &UdpSocket, srtp: Option<SrtpKeys>) -> RtpRemote {
    let address = peer.local_addr().unwrap();
    let format = MediaFormat {
        codec: Codec::Pcmu,
        send_payload_type: 0,
        receive_payload_type: 0,
        opus: OpusParameters::default(),
        telephone_event: None,
    };
    let rtcp_address = SocketAddr::new(address.ip(), address.port() ^ 1);
    RtpRemote { address, rtcp_address, rtcp_mux: false, format, sending: true, srtp }
}

#[expect(clippy::disallowed_methods, reason = "this is the peer's socket")]
fn peer() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    socket
}

fn keys() -> SrtpKeys {
    let key = |byte| MasterKey { bytes: [byte; MASTER_BYTES_MAX] };
    SrtpKeys { profile: PROFILE, local: key(3), remote: key(4) }
}

/// Whoever sends a stream to leg A.
struct Talker {
    socket: UdpSocket,
    protect: Option<Protect>,
    sequence: u16,
}

impl Talker {
    fn new(key: Option<&MasterKey>) -> Talker {
        Talker { socket: peer(), protect: key.map(|key| Protect::new(PROFILE, key)), sequence: 65 }
    }

    /// Sends a packet to one of the host's addresses.
    fn talk(&mut self, ip: [u8; 4], port: u16) {
        let mut packet = [0x55; 200];
        header::write(false, 0, self.sequence, RtpTimestamp(u32::from(self.sequence) * 160), 7, &mut packet);
        self.sequence += 1;
        let len = match &mut self.protect {
            Some(protect) => protect.rtp(&mut packet, 172).unwrap(),
            None => 172,
        };
        self.socket.send_to(&packet[..len], (Ipv4Addr::from(ip), port)).unwrap();
    }
}

/// A bridge between a talker at leg A and a peer at leg B, which is relayed to it.
struct Rig {
    engine: Engine,
    ports: [u16; 2],
    other: Talker,
}

impl Rig {
    fn start(first_port: u16, talker: &Talker, srtp: Option<SrtpKeys>) -> Rig {
        let config = EngineConfig {
            workers: 1,
            pin: false,
            media_ports: first_port..=first_port + 99,
            bind: None,
            steering: true,
            dscp: DSCP_DEFAULT,
            driver: Driver::IoUring,
            complexity: COMPLEXITY_DEFAULT,
        };
        let shared = Shared {
            identity: Identity::generate().unwrap(),
            anchor: WallAnchor { ntp_at_zero: 0xe000_0000_0000_0000 },
        };
        let engine = Engine::start(&config, shared, || {}).unwrap();
        let other = Talker::new(None);
        let leg = |remote| LegConfig::Rtp(RtpConfig { remote: Some(remote) });
        let config = BridgeConfig { a: leg(remote(&talker.socket, srtp)), b: leg(remote(&other.socket, None)) };
        engine.command(0, Command::Open { bridge: BridgeId(1), config }).unwrap();
        let mut rig = Rig { engine, ports: [0; 2], other };
        let is_open = rig.tries(|rig| match rig.engine.poll_event(0) {
            Some(Event::Opened { a: LocalLeg::Rtp { port: a, .. }, b: LocalLeg::Rtp { port: b, .. }, .. }) => {
                rig.ports = [a, b];
                true
            }
            _ => false,
        });
        assert!(is_open && rig.tries(|rig| rig.engine.metrics(0).sockets_steered == 2));
        rig
    }

    fn tries(&mut self, mut come: impl FnMut(&mut Rig) -> bool) -> bool {
        (0..TRIES_MAX).any(|_| {
            std::thread::park_timeout(Duration::from_millis(1));
            come(self)
        })
    }

    /// From which address of ours a listener hears what the other side says, the last digit.
    fn heard_from(&mut self, listener: &UdpSocket) -> u8 {
        let mut came = [0; 2_000];
        while listener.recv_from(&mut came).is_ok() {} // what was on its way before
        for _ in 0..TRIES_MAX {
            self.other.talk([127, 0, 0, 1], self.ports[1]);
            if let Ok((172.., SocketAddr::V4(from))) = listener.recv_from(&mut came) {
                assert_eq!(from.port(), self.ports[0]);
                return from.ip().octets()[3];
            }
        }
        panic!("nothing was heard");
    }

    /// The type of service of the next packet that a listener hears of the other side.
    fn heard_marked(&mut self, listener: &UdpSocket) -> u8 {
        self.heard_from(listener);
        self.other.talk([127, 0, 0, 1], self.ports[1]);
        let mut tos = None;
        assert!(self.tries(|_| {
            tos = receive_tos(listener);
            tos.is_some()
        }));
        tos.unwrap()
    }

    /// Says something to one of our addresses until an answer comes from another than before.
    fn moves(&mut self, talker: &mut Talker, to: u8, from: u8) -> bool {
        let port = self.ports[0];
        (0..TRIES_MAX).any(|_| {
            talker.talk([127, 0, 0, to], port);
            self.heard_from(&talker.socket) != from
        })
    }
}

#[test]
fn a_plain_peer_is_answered_from_where_it_sends_to_though_a_stranger_is_there_too() {
    let (mut talker, mut stranger) = (Talker::new(None), Talker::new(None));
    let mut rig = Rig::start(24_200, &talker, None);
    assert_eq!(rig.heard_from(&talker.socket), 1, "nobody has spoken: the routing table decides");
    assert!(rig.moves(&mut talker, 2, 1));
    for _ in 0..20 {
        stranger.talk([127, 0, 0, 3], rig.ports[0]);
    }
    assert_eq!(rig.heard_from(&talker.socket), 2);
    // Another of our addresses was told in a re-INVITE.
    assert!(rig.moves(&mut talker, 4, 2));
    assert_eq!(rig.heard_from(&talker.socket), 4);
    // The peer itself is another one now, which was told yet another.
    let mut next = Talker::new(None);
    let described = Box::new(LegRemote::Rtp(remote(&next.socket, None)));
    let command = BridgeCommand::SetRemote { leg: LegName::A, remote: described };
    rig.engine.command(0, Command::Bridge { bridge: BridgeId(1), command }).unwrap();
    assert!(rig.moves(&mut next, 5, 4));
    // Stragglers of the one before are played, and move nothing.
    talker.talk([127, 0, 0, 4], rig.ports[0]);
    assert_eq!(rig.heard_from(&next.socket), 5);
    rig.engine.stop();
}

/// Has the kernel tell with each datagram its type of service.
#[expect(unsafe_code, reason = "std has no such option")]
fn show_tos(socket: &UdpSocket) {
    let (fd, on) = (socket.as_raw_fd(), 1i32);
    let bytes = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the value is `bytes` long and lives through the call.
    let answer = unsafe { libc::setsockopt(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, (&raw const on).cast(), bytes) };
    assert_eq!(answer, 0);
}

/// The type of service of the next datagram, if one comes before the socket's time is up.
#[expect(unsafe_code, reason = "std reads no control messages")]
fn receive_tos(socket: &UdpSocket) -> Option<u8> {
    let (mut bytes, mut control) = ([0u8; 2_000], [0u64; 8]);
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: `msghdr` is plain numbers and pointers, for which zero is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&mut vector, 1);
    (header.msg_control, header.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control));
    // SAFETY: `header` points to what lives through the call.
    if unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, 0) } < 0 {
        return None;
    }
    // SAFETY: the kernel has written one message: of the option that was asked for, whose data is one byte.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(&header);
        assert_eq!(((*message).cmsg_level, (*message).cmsg_type), (libc::IPPROTO_IP, libc::IP_TOS));
        Some(*libc::CMSG_DATA(message))
    }
}

#[test]
fn media_are_marked_as_expedited_by_whichever_socket_they_leave() {
    let mut talker = Talker::new(None);
    show_tos(&talker.socket);
    let mut rig = Rig::start(24_400, &talker, None);
    assert_eq!(rig.heard_marked(&talker.socket) >> 2, 46, "by the call's own");
    assert!(rig.moves(&mut talker, 2, 1));
    assert_eq!(rig.heard_marked(&talker.socket) >> 2, 46, "by the raw one");
    rig.engine.stop();
}

#[test]
fn where_keys_prove_a_packet_only_that_moves_answers() {
    let (mut talker, mut forger) = (Talker::new(Some(&keys().remote)), Talker::new(Some(&keys().local)));
    let mut rig = Rig::start(24_300, &talker, Some(keys()));
    for _ in 0..20 {
        forger.talk([127, 0, 0, 3], rig.ports[0]);
    }
    assert_eq!(rig.heard_from(&talker.socket), 1);
    assert!(rig.moves(&mut talker, 2, 1));
    for _ in 0..20 {
        forger.talk([127, 0, 0, 3], rig.ports[0]);
    }
    assert_eq!(rig.heard_from(&talker.socket), 2);
    // Behind a NAT that has chosen another port, and at another address of ours.
    talker.socket = peer();
    assert!((0..TRIES_MAX).any(|_| {
        talker.talk([127, 0, 0, 4], rig.ports[0]);
        rig.other.talk([127, 0, 0, 1], rig.ports[1]);
        talker.socket.recv_from(&mut [0; 2_000]).is_ok()
    }));
    assert_eq!(rig.heard_from(&talker.socket), 4);
    rig.engine.stop();
}
