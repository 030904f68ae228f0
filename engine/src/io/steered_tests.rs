//! Calls that share a socket: heard and answered as if each had its own. Needs the rights to steer; a test without them fails.

use super::address::Family;
use super::ring::Ring;
use super::tests::{Peer, Rig, Way, localhost};
use super::*;
use crate::limits::DATAGRAM_BYTES_MAX;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

/// `linux/capability.h`
const CAP_NET_ADMIN: u32 = 12;

/// Everything that a peer has got, once there is something: source and bytes.
fn got(peer: &mut Peer) -> Vec<(SocketAddr, Vec<u8>)> {
    socket::tests::until_there(&peer.socket);
    let (mut all, mut table) = (Vec::new(), socket::MessageTable::new(1).unwrap());
    while table.receive(peer.socket.as_fd(), 0, 1).is_ok() {
        let (len, _, from) = table.received(0);
        all.push((from.unwrap(), table.bytes(0, len).to_vec()));
    }
    all
}

/// Sends a datagram; answers which address of ours it is said to have come to.
fn heard_at(rig: &mut Rig, peer: &mut Peer, ip: [u8; 4], port: u16) -> Option<Ipv4Addr> {
    let before = rig.came.len();
    peer.send(SocketAddr::from((ip, port)), b"hello");
    rig.turn_until(|rig| rig.came.len() > before);
    rig.sent_to
}

/// What the next datagram's header says to a peer.
fn marks(rig: &mut Rig, from: SocketKey, peer: &Peer) -> socket::tests::Marks {
    socket::tests::show_marks(&peer.socket);
    rig.send(from, peer.address(), b"marked");
    rig.turn();
    socket::tests::until_there(&peer.socket);
    socket::tests::marks(&peer.socket)
}

/// The address of ours from which a socket answers.
fn answers_from(rig: &mut Rig, key: SocketKey, peer: &mut Peer) -> SocketAddr {
    rig.send(key, peer.address(), b"hello yourself");
    rig.turn();
    match &got(peer)[..] {
        [(from, bytes)] if bytes == b"hello yourself" => *from,
        other => panic!("{other:?}"),
    }
}

#[test]
fn calls_that_share_a_socket_hear_and_answer_each_as_its_own() {
    let mut rig = Rig::new(Way::Steered, 64);
    let sockets: Vec<(SocketKey, u16)> = (0..30).map(|slot| rig.open(Family::Dual, slot)).collect();
    assert_eq!(rig.net.sockets_steered(), 30);
    rig.turn();
    for (key, _) in &sockets {
        rig.net.answer_from(*key, Ipv4Addr::LOCALHOST);
    }
    let mut peers: Vec<Peer> = (0..30).map(|_| Peer::new([127, 0, 0, 1])).collect();
    for round in 0..20u8 {
        for (peer, (_, port)) in peers.iter_mut().zip(&sockets) {
            peer.send(localhost(*port), &[round; 40]);
        }
        rig.turn_until(|rig| rig.came.len() == 30);
        for (slot, from, bytes) in std::mem::take(&mut rig.came) {
            assert_eq!((from, bytes), (peers[slot as usize].address(), vec![round; 40]));
            rig.send(sockets[slot as usize].0, from, &[round, slot as u8]);
        }
        rig.turn();
        for (slot, (peer, (_, port))) in peers.iter_mut().zip(&sockets).enumerate() {
            assert_eq!(got(peer), [(localhost(*port), vec![round, slot as u8])]);
        }
    }
    assert_eq!((rig.metrics.datagrams_unsent, rig.metrics.datagrams_excess), (0, 0));
}

#[test]
fn what_leaves_by_the_raw_socket_has_the_checksum_that_the_kernel_wants() {
    let mut rig = Rig::new(Way::Steered, 4);
    let (key, port) = rig.open(Family::V4, 0);
    rig.turn();
    let mut peer = Peer::new([127, 0, 0, 1]);
    rig.net.answer_from(key, Ipv4Addr::LOCALHOST);
    for len in (0..=64).chain([160, 1_199, 1_200, 1_201, DATAGRAM_BYTES_MAX]) {
        // Bytes whose sum carries; the kernel drops what it finds wrong.
        let bytes: Vec<u8> = (0..len).map(|at| 255 - (at * 7 % 11) as u8).collect();
        rig.send(key, peer.address(), &bytes);
        rig.turn();
        assert_eq!(got(&mut peer), [(localhost(port), bytes)], "{len} bytes");
    }
}

#[test]
fn answers_leave_from_the_address_that_was_told_and_not_from_where_somebody_has_sent_to() {
    let mut rig = Rig::new(Way::Steered, 4);
    let (key, port) = rig.open(Family::Dual, 0);
    rig.turn();
    let mut peer = Peer::new([127, 0, 0, 1]);
    let (second, third) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    // Whoever it is from: what is done with it is not decided here.
    for _ in 0..2 {
        assert_eq!(heard_at(&mut rig, &mut peer, [127, 0, 0, 2], port), Some(second));
        assert_eq!(answers_from(&mut rig, key, &mut peer), localhost(port), "as the routing table says");
    }
    assert_eq!(rig.net.answer_from(key, second), Ipv4Addr::UNSPECIFIED);
    assert_eq!(heard_at(&mut rig, &mut peer, [127, 0, 0, 2], port), None, "no news");
    assert_eq!(answers_from(&mut rig, key, &mut peer), (second, port).into());
    assert_eq!(heard_at(&mut rig, &mut peer, [127, 0, 0, 3], port), Some(third));
    assert_eq!(answers_from(&mut rig, key, &mut peer), (second, port).into());
    assert_eq!(rig.net.answer_from(key, third), second);
    assert_eq!(answers_from(&mut rig, key, &mut peer), (third, port).into());
    rig.net.close(key, &mut rig.metrics);
    rig.net.answer_from(key, second);
}

#[test]
fn a_port_outside_the_range_that_is_steered_is_heard_by_its_own_socket() {
    // Ports that are free now: one below the range, its two ends and one above it.
    let all = (20_000..60_000u16)
        .find_map(|first| {
            let bind = |port| MediaSocket::bind(Family::V4, None, port).ok();
            Some([bind(first)?, bind(first + 1)?, bind(first + 2)?, bind(first + 3)?])
        })
        .expect("four ports in a row");
    let first = all[0].port().unwrap();
    let wake = Arc::new(WakeFd::new().unwrap());
    let mut rig = Rig::of(Net::Ring(Box::new(Ring::new(4, &wake).unwrap())));
    let steering = Arc::new(Steering::start(first + 1..=first + 2).unwrap());
    rig.net.be_steered(&steering, 0, None, 0).unwrap();
    let mut peer = Peer::new([127, 0, 0, 1]);
    for (slot, socket) in (0..).zip(all) {
        let key = rig.net.open(socket, Owner { slot, generation: 0, port: 0 }).unwrap();
        rig.net.steer(key).unwrap();
    }
    assert_eq!(rig.net.sockets_steered(), 2);
    rig.turn();
    for slot in 0..4u16 {
        // Only what is steered tells where it was sent to.
        let is_steered = heard_at(&mut rig, &mut peer, [127, 0, 0, 2], first + slot).is_some();
        assert_eq!((is_steered, rig.came.last().unwrap().0), (slot == 1 || slot == 2, slot.into()));
    }
}

#[test]
fn packets_of_the_raw_socket_may_take_as_many_hops_as_those_of_others() {
    let mut rig = Rig::new(Way::Steered, 4);
    let (key, port) = rig.open(Family::V4, 0);
    rig.turn();
    let mut peer = Peer::new([127, 0, 0, 1]);
    let own = marks(&mut rig, key, &peer);
    rig.net.answer_from(key, Ipv4Addr::new(127, 0, 0, 2));
    assert_eq!(answers_from(&mut rig, key, &mut peer), SocketAddr::from(([127, 0, 0, 2], port)), "by the raw socket");
    assert_eq!(marks(&mut rig, key, &peer), own);
    let default = std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap();
    assert_eq!(own.ttl.to_string(), default.trim());
}

#[test]
fn packets_of_the_raw_socket_carry_the_code_point_that_is_wanted() {
    for dscp in [0, 46, 63] {
        let wake = Arc::new(WakeFd::new().unwrap());
        let mut rig = Rig::of(Net::Ring(Box::new(Ring::new(4, &wake).unwrap())));
        rig.net.be_steered(&Arc::new(Steering::start(0..=u16::MAX).unwrap()), 0, None, dscp).unwrap();
        let (key, port) = rig.open(Family::V4, 0);
        rig.turn();
        let mut peer = Peer::new([127, 0, 0, 1]);
        rig.net.answer_from(key, Ipv4Addr::new(127, 0, 0, 2));
        assert_eq!(answers_from(&mut rig, key, &mut peer), SocketAddr::from(([127, 0, 0, 2], port)));
        assert_eq!(marks(&mut rig, key, &peer).tos, i32::from(dscp) << 2);
    }
}

#[test]
fn a_flooded_call_answers_on_from_the_address_that_its_peer_knows() {
    let mut rig = Rig::new(Way::Steered, 4);
    let (key, port) = rig.open(Family::Dual, 0);
    rig.turn();
    let (mut peer, mut stranger) = (Peer::new([127, 0, 0, 1]), Peer::new([127, 0, 0, 1]));
    let second = Ipv4Addr::new(127, 0, 0, 2);
    rig.net.answer_from(key, second);
    while rig.net.sockets_steered() > 0 {
        for _ in 0..100 {
            stranger.send(localhost(port), &[1; 40]);
        }
        rig.turn();
    }
    assert_eq!(answers_from(&mut rig, key, &mut peer), (second, port).into());
    // Until it has rested.
    for _ in 0..1_000 {
        rig.turn();
        rig.net.steer(key).unwrap();
        if rig.net.sockets_steered() == 1 {
            break;
        }
    }
    assert_eq!((rig.net.sockets_steered(), answers_from(&mut rig, key, &mut peer)), (1, (second, port).into()));
}

#[test]
fn a_socket_of_one_address_answers_from_it_from_the_beginning() {
    let mut rig = Rig::new(Way::Steered, 4);
    let second = Ipv4Addr::new(127, 0, 0, 2);
    let socket = MediaSocket::bind(Family::V4, Some(second.into()), 0).unwrap();
    let port = socket.port().unwrap();
    let key = rig.net.open(socket, Owner::default()).unwrap();
    rig.net.steer(key).unwrap();
    rig.turn();
    let mut peer = Peer::new([127, 0, 0, 1]);
    assert_eq!(answers_from(&mut rig, key, &mut peer), (second, port).into());
    assert_eq!(heard_at(&mut rig, &mut peer, [127, 0, 0, 2], port), None);
}

#[test]
fn answers_from_more_addresses_than_there_are_raw_sockets_for_leave_by_the_call_s_own() {
    let mut rig = Rig::new(Way::Steered, 4);
    let (key, port) = rig.open(Family::Dual, 0);
    rig.turn();
    let mut peer = Peer::new([127, 0, 0, 1]);
    let address = |last| Ipv4Addr::new(127, 9, 0, last);
    for last in 1..=100 {
        rig.net.answer_from(key, address(last));
    }
    assert_eq!(answers_from(&mut rig, key, &mut peer), localhost(port), "as the routing table says");
    rig.net.answer_from(key, address(1));
    assert_eq!(answers_from(&mut rig, key, &mut peer), (address(1), port).into());
}

#[test]
fn a_port_that_is_steered_at_one_address_is_left_to_others_at_the_next() {
    let mut rig = Rig::new(Way::Steered, 4);
    let ours = MediaSocket::bind(Family::V4, Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
    let port = ours.port().unwrap();
    let theirs = MediaSocket::bind(Family::V4, Some([127, 0, 0, 2].into()), port).unwrap();
    let key = rig.net.open(ours, Owner::default()).unwrap();
    rig.net.steer(key).unwrap();
    rig.turn();
    let mut peer = Peer::new([127, 0, 0, 1]);
    peer.send(SocketAddr::from(([127, 0, 0, 2], port)), b"theirs");
    peer.send(localhost(port), b"ours");
    rig.turn_until(|rig| !rig.came.is_empty());
    assert_eq!(rig.came.iter().map(|came| &came.2[..]).collect::<Vec<_>>(), [b"ours"]);
    let mut table = socket::MessageTable::new(1).unwrap();
    assert_eq!(table.receive(theirs.as_fd(), 0, 1).unwrap(), 1);
}

#[test]
fn ipv6_goes_on_by_the_call_s_own_socket() {
    let mut rig = Rig::new(Way::Steered, 4);
    let (key, port) = rig.open(Family::Dual, 7);
    rig.turn();
    #[expect(clippy::disallowed_methods, reason = "a peer of IPv6")]
    let peer = std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    peer.send_to(b"hello", (Ipv6Addr::LOCALHOST, port)).unwrap();
    rig.turn_until(|rig| !rig.came.is_empty());
    assert_eq!(rig.came, [(7, peer.local_addr().unwrap(), b"hello".to_vec())]);
    rig.send(key, peer.local_addr().unwrap(), b"hello yourself");
    rig.turn();
    let mut bytes = [0; 64];
    assert_eq!(peer.recv(&mut bytes).unwrap(), 14);
}

#[test]
fn a_flood_at_one_port_is_kept_out_of_the_socket_that_all_share() {
    let mut rig = Rig::new(Way::Steered, 8);
    let (_, flooded) = rig.open(Family::V4, 0);
    let (_, quiet) = rig.open(Family::V4, 1);
    rig.turn();
    let (mut stranger, mut peer) = (Peer::new([127, 0, 0, 1]), Peer::new([127, 0, 0, 1]));
    let mut heard = 0;
    for round in 0..20 {
        for _ in 0..1_000 {
            stranger.send(localhost(flooded), &[1; 900]);
        }
        peer.send(localhost(quiet), &[2; 40]);
        rig.turn_until(|rig| rig.came.iter().any(|came| came.0 == 1));
        heard += rig.came.drain(..).filter(|came| came.0 == 1).count();
        assert_eq!(heard, round + 1);
        if round == 0 {
            assert_eq!(rig.net.sockets_steered(), 1, "the flooded one hears by itself");
        }
    }
    assert!(rig.metrics.sockets_paused > 0 && rig.metrics.datagrams_excess > 0);
}

#[test]
fn what_finds_no_room_in_the_socket_that_all_share_is_counted_once() {
    /// More than it holds, however little a datagram occupies: what is on its way takes at least 768 bytes.
    const SENT: u64 = 60_000;
    let mut rig = Rig::new(Way::Steered, 4);
    let (_, port) = rig.open(Family::V4, 0);
    rig.turn();
    let mut peer = Peer::new([127, 0, 0, 1]);
    assert_eq!(rig.net.overflowed(), 0);
    for _ in 0..SENT {
        peer.send(localhost(port), &[7; 160]);
    }
    let lost = rig.net.overflowed();
    rig.turn_until(|rig| rig.metrics.datagrams_received + lost == SENT);
    assert!(lost > 0 && lost < SENT && rig.net.overflowed() == 0, "{lost}");
}

#[test]
fn where_the_shared_socket_may_not_be_large_calls_keep_their_own() {
    std::thread::spawn(|| {
        let steering = Arc::new(Steering::start(0..=u16::MAX).unwrap());
        let wake = Arc::new(WakeFd::new().unwrap());
        let mut net = Net::Ring(Box::new(Ring::new(4, &wake).unwrap()));
        system::tests::give_up(CAP_NET_ADMIN);
        let rmem_max: u32 = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap().trim().parse().unwrap();
        match net.be_steered(&steering, 0, None, 0) {
            Ok(()) => assert!(rmem_max >= 16 << 20),
            Err(error) => assert!(rmem_max < 16 << 20 && error.to_string().contains("net.core.rmem_max"), "{error}"),
        }
        assert_eq!(net.steers(), rmem_max >= 16 << 20);
    })
    .join()
    .unwrap();
}

#[test]
fn a_socket_that_is_closed_or_whose_worker_ends_leaves_no_mark() {
    let steering = Arc::new(Steering::start(0..=u16::MAX).unwrap());
    let wake = Arc::new(WakeFd::new().unwrap());
    let mut metrics = Metrics::default();
    let ports = {
        let mut net = Net::Ring(Box::new(Ring::new(4, &wake).unwrap()));
        net.be_steered(&steering, 0, None, 0).unwrap();
        let mut open = || {
            let socket = MediaSocket::bind(Family::V4, None, 0).unwrap();
            let port = socket.port().unwrap();
            let key = net.open(socket, Owner::default()).unwrap();
            net.steer(key).unwrap();
            (key, port)
        };
        let ((closed, first), (_, second)) = (open(), open());
        assert!(steering.is_marked(first) && steering.is_marked(second));
        net.close(closed, &mut metrics);
        assert!(!steering.is_marked(first) && steering.is_marked(second));
        [first, second]
    };
    assert!(!ports.into_iter().any(|port| steering.is_marked(port)));
}

#[test]
fn two_processes_steer_each_their_own_ports() {
    let (mut one, mut other) = (Rig::new(Way::Steered, 4), Rig::new(Way::Steered, 4));
    let ((_, a), (_, b)) = (one.open(Family::V4, 1), other.open(Family::V4, 2));
    one.turn();
    other.turn();
    let mut peer = Peer::new([127, 0, 0, 1]);
    peer.send(localhost(a), b"one");
    peer.send(localhost(b), b"other");
    one.turn_until(|rig| !rig.came.is_empty());
    other.turn_until(|rig| !rig.came.is_empty());
    assert_eq!((one.came[0].0, &one.came[0].2[..], one.came.len()), (1, &b"one"[..], 1));
    assert_eq!((other.came[0].0, &other.came[0].2[..], other.came.len()), (2, &b"other"[..], 1));
}

#[test]
fn where_bpf_is_forbidden_steering_says_so() {
    std::thread::spawn(|| {
        system::tests::forbid(libc::SYS_bpf);
        assert_eq!(Steering::start(0..=u16::MAX).unwrap_err().raw_os_error(), Some(libc::EPERM));
    })
    .join()
    .unwrap();
}
