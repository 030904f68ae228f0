//! The real loop on real sockets, with an echo in the bridge's place: both kernel interfaces, faults included.
//!
//! Waits are bounded by `PATIENCE`, which only a failing test reaches; nothing here measures time.

mod rig;

use engine::bridge::{BridgeCommand, BridgeEvent, BridgeId, LegName};
use engine::config::{COMPLEXITY_DEFAULT, DSCP_DEFAULT, Driver, EngineConfig};
use engine::error::{Cause, End, Side};
use engine::limits::{BRIDGES_PER_WORKER_MAX, COMMANDS_MAX, DATAGRAM_BYTES_MAX, EVENTS_MAX};
use engine::rtp::telephone_event::Digit;
use engine::worker::{Command, Engine, Event, MailboxFull, RefuseReason};
use rig::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Words of a peer until the worker has looked at its sockets, each 5 ms after the one before.
const TALKS_MAX: usize = 2_000;
const WAYS: [Way; 3] = [Way::Steered, Way::Own, Way::Mmsg];
/// Where peers are kept apart by the kernel.
const CONNECTED: [Way; 2] = [Way::Own, Way::Mmsg];

/// Words that may be lost in a row.
const LOST_MAX: usize = 4;

/// The tests take turns: some count the descriptors of the process, some load the machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_thousand_datagrams_over_fifty_bridges_come_back_intact() {
    let _alone = alone();
    for way in WAYS {
        let mut rig = Rig::start(way, 20_000..=20_399);
        let legs: Vec<_> = (0..50).map(|number| rig.open(number)).collect();
        for localhost in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let peer = peer(localhost);
            for round in 0..20u8 {
                for (index, legs) in legs.iter().enumerate() {
                    let port = [legs.webrtc, legs.rtp, legs.rtp + 1][usize::from(round) % 3];
                    let bytes = 1 + (index * 31 + usize::from(round) * 97) % DATAGRAM_BYTES_MAX;
                    let sent: Vec<u8> = (0..bytes).map(|at| (at as u8) ^ round ^ (index as u8)).collect();
                    peer.send_to(&sent, (localhost, port)).unwrap();
                    let mut came = [0; 2000];
                    let (len, from) = patiently(|| peer.recv_from(&mut came));
                    assert_eq!(
                        from,
                        SocketAddr::from((localhost, port)),
                        "the answer leaves by the port that was asked"
                    );
                    assert!(came[..len] == sent[..], "{way:?} {localhost} bridge {index} round {round}");
                }
            }
        }
        let metrics = rig.metrics_when(|metrics| metrics.datagrams_sent == 2_000);
        assert_eq!((metrics.datagrams_received, metrics.datagrams_unsent, metrics.socket_errors), (2_000, 0, 0));
        assert_eq!((metrics.bridges_open, metrics.sockets_open), (50, 150));
        rig.engine.stop();
    }
}

#[test]
fn no_packet_allocates_once_the_loop_is_warm() {
    let _alone = alone();
    for way in WAYS {
        let mut rig = Rig::start(way, 20_400..=20_499);
        let legs: Vec<_> = (0..8).map(|number| rig.open(number)).collect();
        let peer = peer(Ipv4Addr::LOCALHOST.into());
        let burst = |times: usize| {
            for _ in 0..times {
                for legs in &legs {
                    peer.send_to(&[7; 200], (Ipv4Addr::LOCALHOST, legs.webrtc)).unwrap();
                }
                for _ in &legs {
                    assert_eq!(patiently(|| peer.recv(&mut [0; 2000])), 200);
                }
            }
            rig.shared.allocations.load(Ordering::SeqCst)
        };
        let warm = burst(100);
        assert!(warm > 0, "the count counts nothing");
        assert_eq!(burst(500) - warm, 0, "{way:?}: allocations on the worker's thread in 4,000 packets");
        rig.engine.stop();
    }
}

#[test]
fn media_do_not_overtake_the_handshake_that_brings_their_keys() {
    let _alone = alone();
    for way in WAYS {
        let mut rig = Rig::start(way, 21_600..=21_619);
        let legs = rig.open(1);
        let peer = peer(Ipv4Addr::LOCALHOST.into());
        // Far more DTLS at once than a turn takes, with media right behind some of it.
        let sent: Vec<[u8; 3]> = (0..15).map(|number| [if number % 5 == 4 { 128 } else { 22 }, 0, number]).collect();
        for datagram in &sent {
            peer.send_to(datagram, (Ipv4Addr::LOCALHOST, legs.webrtc)).unwrap();
        }
        let mut came = [0; 2000];
        let answered: Vec<[u8; 3]> = (0..sent.len())
            .map(|_| {
                assert_eq!(patiently(|| peer.recv(&mut came)), 3);
                [came[0], came[1], came[2]]
            })
            .collect();
        assert_eq!(answered, sent, "{way:?}");
        let metrics = rig.metrics_when(|metrics| metrics.datagrams_sent == 15);
        assert!(metrics.handshakes_delayed > 0 && metrics.handshakes_dropped == 0, "{way:?}: nothing waited");
        rig.engine.stop();
    }
}

#[test]
fn a_leg_whose_peer_never_moves_hears_no_stranger() {
    let _alone = alone();
    for way in CONNECTED {
        let mut rig = Rig::start(way, 20_900..=20_999);
        let legs = rig.open(1);
        let (peer, stranger) = (peer(Ipv4Addr::LOCALHOST.into()), peer(Ipv4Addr::LOCALHOST.into()));
        let mut came = [0; 2000];
        let to = (Ipv4Addr::LOCALHOST, legs.webrtc);
        stranger.connect(to).unwrap();
        stranger.send(b"before").unwrap();
        assert_eq!(patiently(|| stranger.recv(&mut came)), 6);
        peer.send_to(b"connect", to).unwrap();
        assert_eq!(patiently(|| peer.recv(&mut came)), 7);
        rig.metrics_when(|metrics| metrics.datagrams_sent == 2);
        // The kernel answers the stranger that nobody is there, and the bridge goes on with its peer.
        let refused = (0..1_000).any(|_| stranger.send(b"after").is_err());
        assert!(refused, "{way:?}");
        peer.send_to(b"still here", to).unwrap();
        assert_eq!(patiently(|| peer.recv(&mut came)), 10);
        rig.engine.stop();
    }
}

#[test]
fn a_leg_hears_its_peer_alone_while_nobody_else_may_speak_and_anyone_again_soon_after() {
    let _alone = alone();
    let mut rig = Rig::start(Way::Own, 20_800..=20_899);
    let legs = rig.open(1);
    let (peer, stranger) = (peer(Ipv4Addr::LOCALHOST.into()), peer(Ipv4Addr::LOCALHOST.into()));
    let to = (Ipv4Addr::LOCALHOST, legs.webrtc);
    stranger.connect(to).unwrap();
    let mut came = [0; 2000];
    let mut speak = |words: &[u8]| {
        // While the kernel moves a socket from one table to another it finds it in neither: what comes in that moment is lost.
        let is_heard = (0..LOST_MAX).any(|_| {
            peer.send_to(words, to).unwrap();
            hurriedly(&peer, || peer.recv(&mut came)).is_some_and(|len| len == words.len())
        });
        assert!(is_heard, "the peer is heard no more");
        pause();
    };
    // Two looks of the worker: one asks where the peer sends to, one connects.
    speak(b"fix");
    let refused = (0..TALKS_MAX).any(|_| {
        speak(b"here");
        stranger.send(b"anyone?").is_err()
    });
    assert!(refused, "the kernel answers the stranger that nobody is there");
    speak(b"free");
    let mut answered = [0; 2000];
    let is_heard = (0..TALKS_MAX).any(|_| {
        speak(b"here");
        let _ = stranger.send(b"and now?");
        // An error is the kernel's answer to what was sent before; an empty socket must not hold up the peer's words.
        stranger.set_nonblocking(true).unwrap();
        pause();
        stranger.recv(&mut answered).is_ok_and(|len| &answered[..len] == b"and now?")
    });
    assert!(is_heard);
    rig.engine.stop();
}

/// The first bytes of an RTP packet, of a STUN request and of a STUN indication.
const RTP: &[u8] = &[0x80, 0, 0, 1];
const CHECK: &[u8] = &[0, 1, 0, 0];
const INDICATION: &[u8] = &[0, 0x11, 0, 0];

#[test]
fn a_steered_call_answers_from_the_address_that_its_peer_has_sent_to_and_no_stranger_moves_it() {
    let _alone = alone();
    let mut rig = Rig::start(Way::Steered, 20_800..=20_899);
    let legs = rig.open(1);
    rig.metrics_when(|metrics| metrics.sockets_steered >= 1);
    let (caller, stranger) = (peer(Ipv4Addr::LOCALHOST.into()), peer(Ipv4Addr::LOCALHOST.into()));
    // Sends to one of our addresses; answers from which the echo comes.
    let said = |socket: &UdpSocket, to: u8, words: &[&[u8]]| {
        socket.send_to(&words.concat(), (Ipv4Addr::new(127, 0, 0, to), legs.webrtc)).unwrap();
        let (_, from) = patiently(|| socket.recv_from(&mut [0; 2000]));
        assert_eq!(from.port(), legs.webrtc);
        match from.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            other => panic!("{other}"),
        }
    };
    // Until the leg has taken something the routing table decides: 1.
    assert_eq!(said(&stranger, 2, &[RTP]), 1);
    assert_eq!(said(&stranger, 3, &[INDICATION, b"take"]), 1, "an indication proves nothing");
    assert_eq!(said(&caller, 2, &[RTP, b"take"]), 2);
    assert_eq!(said(&stranger, 3, &[RTP]), 2, "a stranger");
    assert_eq!(said(&caller, 3, &[RTP, b"drop"]), 2, "what its leg drops may have any source");
    assert_eq!(said(&caller, 2, &[RTP]), 2);
    assert_eq!(said(&caller, 3, &[RTP]), 3, "the peer has moved");
    assert_eq!(said(&caller, 3, &[RTP]), 3);
    assert_eq!(said(&caller, 2, &[CHECK]), 2, "a check is answered from where it was sent to");
    assert_eq!(said(&stranger, 4, &[b"anyone?"]), 3, "and moves nothing else");
    assert_eq!(said(&stranger, 4, &[CHECK, b"drop"]), 3, "nor does what its leg drops");
    // A pair to another of our addresses is taken: media from there, too.
    assert_eq!(said(&stranger, 4, &[CHECK, b"take"]), 4);
    assert_eq!(said(&caller, 2, &[b"anyone?"]), 4);
    rig.engine.stop();
}

#[test]
fn an_address_of_another_host_is_refused_at_the_start() {
    let _alone = alone();
    let bind = Some(IpAddr::from([192, 0, 2, 7]));
    let config = EngineConfig {
        workers: 1,
        pin: false,
        media_ports: 20_700..=20_799,
        bind,
        driver: Driver::Auto,
        steering: true,
        dscp: DSCP_DEFAULT,
        complexity: COMPLEXITY_DEFAULT,
    };
    let started = Engine::start_with::<Echo>(&config, Arc::default(), || {});
    assert!(format!("{:?}", started.err()).contains("media sockets cannot be bound to 192.0.2.7"));
}

#[test]
fn a_flooded_socket_does_not_silence_another() {
    let _alone = alone();
    for way in WAYS {
        let mut rig = Rig::start(way, 20_500..=20_599);
        let (flooded, quiet) = (rig.open(1), rig.open(2));
        let stop = Arc::new(AtomicBool::new(false));
        let flood = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                // It never reads: the answers pile up and are dropped by the kernel.
                let socket = peer(Ipv4Addr::LOCALHOST.into());
                while !stop.load(Ordering::Relaxed) {
                    let _ = socket.send_to(&[1; 1000], (Ipv4Addr::LOCALHOST, flooded.webrtc));
                }
            }
        });
        let peer = peer(Ipv4Addr::LOCALHOST.into());
        rig.metrics_when(|metrics| metrics.datagrams_received > 5_000);
        for round in 0..500u32 {
            peer.send_to(&round.to_be_bytes(), (Ipv4Addr::LOCALHOST, quiet.webrtc)).unwrap();
            let mut came = [0; 16];
            let len = patiently(|| peer.recv(&mut came));
            assert_eq!(came[..len], round.to_be_bytes());
        }
        stop.store(true, Ordering::Relaxed);
        flood.join().unwrap();
        assert!(way == Way::Mmsg || rig.engine.metrics(0).sockets_paused > 0, "{:?}", rig.engine.metrics(0));
        rig.engine.stop();
    }
}

#[test]
fn a_burst_beyond_a_sockets_share_is_dropped_and_counted_and_the_socket_lives() {
    let _alone = alone();
    let mut rig = Rig::start(Way::Own, 20_600..=20_699);
    let (slow, legs) = (rig.open(1), rig.open(2));
    let (peer_slow, peer) = (peer(Ipv4Addr::LOCALHOST.into()), peer(Ipv4Addr::LOCALHOST.into()));
    // While the worker stands still in one bridge, another's socket gets more than its share.
    rig.shared.hold.store(true, Ordering::SeqCst);
    peer_slow.send_to(b"hold", (Ipv4Addr::LOCALHOST, slow.webrtc)).unwrap();
    rig.wait_for("the worker to stand still", |rig| rig.shared.held.load(Ordering::SeqCst));
    for _ in 0..60 {
        peer.send_to(&[2; 100], (Ipv4Addr::LOCALHOST, legs.webrtc)).unwrap();
    }
    rig.shared.hold.store(false, Ordering::SeqCst);
    let metrics = rig.metrics_when(|metrics| metrics.datagrams_received == 61);
    // What the kernel had not yet handed over when the socket was put to rest came after it.
    assert!((1..=60 - 32).contains(&metrics.datagrams_excess) && metrics.sockets_paused > 0, "{metrics:?}");
    let mut came = [0; 2000];
    for _ in metrics.datagrams_excess..60 {
        assert_eq!(patiently(|| peer.recv(&mut came)), 100);
    }
    peer.send_to(b"alive", (Ipv4Addr::LOCALHOST, legs.webrtc)).unwrap();
    assert_eq!(patiently(|| peer.recv(&mut came)), 5);
    assert!(rig.metrics_when(|metrics| metrics.rearmed > 0).buffers_lent == 0);
    rig.engine.stop();
}

#[test]
fn what_running_calls_lose_while_their_worker_is_held_up_is_counted() {
    /// More than the socket holds, however little a datagram occupies: what is on its way takes at least 768 bytes.
    const SENT: u64 = 60_000;
    let _alone = alone();
    let mut rig = Rig::start(Way::Steered, 20_600..=20_699);
    let (slow, legs) = (rig.open(1), rig.open(2));
    let peer = peer(Ipv4Addr::LOCALHOST.into());
    rig.metrics_when(|metrics| metrics.sockets_steered == 4);
    assert_eq!(rig.engine.metrics(0).datagrams_overflowed, 0);
    rig.shared.hold.store(true, Ordering::SeqCst);
    peer.send_to(b"hold", (Ipv4Addr::LOCALHOST, slow.webrtc)).unwrap();
    rig.wait_for("the worker to stand still", |rig| rig.shared.held.load(Ordering::SeqCst));
    for _ in 0..SENT {
        peer.send_to(&[2; 160], (Ipv4Addr::LOCALHOST, legs.rtp)).unwrap();
    }
    rig.shared.hold.store(false, Ordering::SeqCst);
    let metrics = rig.metrics_when(|metrics| metrics.datagrams_received + metrics.datagrams_overflowed == SENT + 1);
    assert!(metrics.datagrams_overflowed > 0, "{metrics:?}");
    // What was too much for one call rests for a moment; then it is heard again.
    let quiet = self::peer(Ipv4Addr::LOCALHOST.into());
    quiet.send_to(b"alive", (Ipv4Addr::LOCALHOST, legs.webrtc)).unwrap();
    assert_eq!(patiently(|| quiet.recv(&mut [0; 2000])), 5);
    rig.engine.stop();
}

#[test]
fn opening_and_closing_leaks_no_descriptor_and_ports_rest() {
    let _alone = alone();
    for way in WAYS {
        // 21 pairs. A bridge takes one and a half, and the other half rests with its neighbour.
        let mut rig = Rig::start(way, 20_700..=20_741);
        let before = open_files();
        let mut seen = Vec::new();
        for number in 0..10 {
            let legs = rig.open(number);
            rig.command(number, BridgeCommand::Close);
            assert_eq!(rig.ended(number), Cause::Closed);
            rig.wait_for("the sockets' end", |_| open_files() == before);
            for port in [legs.webrtc, legs.rtp, legs.rtp + 1] {
                assert!(!seen.contains(&port), "port {port} came back before it had rested");
                seen.push(port);
            }
        }
        assert_eq!(rig.metrics_when(|metrics| metrics.sockets_open == 0).ports_taken_early, 0);
        // All have been used, none has rested.
        for number in 100..110 {
            rig.open(number);
        }
        assert!(rig.metrics_when(|metrics| metrics.bridges_open == 10).ports_taken_early > 0);
        rig.engine.stop();
    }
}

#[test]
fn a_port_in_use_is_skipped_and_an_empty_range_refuses() {
    let _alone = alone();
    for (way, first) in WAYS.into_iter().zip([20_800u16, 20_810, 20_820]) {
        #[expect(clippy::disallowed_methods, reason = "a stranger on the system")]
        let _stranger = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, first + 3)).unwrap();
        let mut rig = Rig::start(way, first..=first + 5);
        let legs = rig.open(1);
        assert_eq!((legs.webrtc, legs.rtp), (first, first + 4));
        assert_eq!(rig.refused(2), RefuseReason::NoPort);
        assert_eq!(rig.refused(1), RefuseReason::Duplicate);
        assert_eq!(rig.engine.least_loaded(), 0);
        rig.engine.stop();
    }
}

#[test]
fn an_icmp_answer_is_noise() {
    let _alone = alone();
    for (way, first) in WAYS.into_iter().zip([20_900u16, 20_920, 20_940]) {
        let mut rig = Rig::start(way, first..=first + 19);
        let legs = rig.open(1);
        let gone = peer(Ipv4Addr::LOCALHOST.into());
        // The echo answers to a port that is closed by then.
        for _ in 0..5 {
            gone.send_to(b"into the void", (Ipv4Addr::LOCALHOST, legs.webrtc)).unwrap();
        }
        drop(gone);
        let peer = peer(Ipv4Addr::LOCALHOST.into());
        peer.send_to(b"still there", (Ipv4Addr::LOCALHOST, legs.webrtc)).unwrap();
        let mut came = [0; 100];
        assert_eq!(patiently(|| peer.recv(&mut came)), 11);
        rig.engine.stop();
    }
}

#[test]
fn a_panic_ends_its_bridge_and_no_other() {
    let _alone = alone();
    for (way, first) in WAYS.into_iter().zip([21_000u16, 21_020, 21_040]) {
        let mut rig = Rig::start(way, first..=first + 19);
        rig.open(1);
        let legs = rig.open(2);
        rig.command(1, BridgeCommand::Release { leg: LegName::A });
        assert_eq!(rig.ended(1), Cause::Panicked);
        let peer = peer(Ipv4Addr::LOCALHOST.into());
        peer.send_to(b"hello", (Ipv4Addr::LOCALHOST, legs.webrtc)).unwrap();
        assert_eq!(patiently(|| peer.recv(&mut [0; 100])), 5);
        peer.send_to(b"panic", (Ipv4Addr::LOCALHOST, legs.webrtc)).unwrap();
        assert_eq!(rig.ended(2), Cause::Panicked);
        let metrics = rig.metrics_when(|metrics| metrics.bridges_panicked == 2 && metrics.sockets_open == 0);
        assert_eq!((metrics.bridges_ended, metrics.bridges_open, metrics.timers_set), (2, 0, 0));
        rig.engine.stop();
    }
}

#[test]
fn a_deadline_comes_though_no_packet_does() {
    let _alone = alone();
    for (way, first) in WAYS.into_iter().zip([21_100u16, 21_120, 21_140]) {
        let mut rig = Rig::start(way, first..=first + 19);
        rig.open(1);
        let digit = Digit::from_char('5').unwrap();
        rig.command(1, BridgeCommand::SendDigit { leg: LegName::B, digit, duration_ms: 30 });
        let event = rig.next_event();
        let expected = BridgeEvent::Digit { leg: LegName::B, digit, duration_ms: 30 };
        assert_eq!(event, Event::Bridge { bridge: BridgeId(1), event: expected });
        rig.engine.stop();
    }
}

#[test]
fn stop_says_goodbye_and_every_bridge_ends_once() {
    let _alone = alone();
    for (way, first) in WAYS.into_iter().zip([21_200u16, 21_300, 20_600]) {
        let mut rig = Rig::start(way, first..=first + 99);
        let peer = peer(Ipv4Addr::LOCALHOST.into());
        for number in 0..20 {
            let legs = rig.open(number);
            peer.send_to(b"hello", (Ipv4Addr::LOCALHOST, legs.webrtc)).unwrap();
            assert_eq!(patiently(|| peer.recv(&mut [0; 100])), 5);
        }
        rig.engine.command(0, Command::Stop).unwrap();
        let mut came = [0; 100];
        for _ in 0..20 {
            let len = patiently(|| peer.recv(&mut came));
            assert_eq!(&came[..len], b"goodbye");
        }
        let mut ended: Vec<u64> = (0..20)
            .map(|_| match rig.next_event() {
                Event::Bridge { bridge, event: BridgeEvent::Ended { end, .. } } => {
                    assert_eq!(end, End { side: Side::Engine, cause: Cause::Shutdown });
                    bridge.0
                }
                other => panic!("{other:?}"),
            })
            .collect();
        ended.sort_unstable();
        assert!(ended.into_iter().eq(0..20));
        rig.wait_for("the worker to take no more", |rig| rig.engine.command(0, Command::Stop).is_err());
        assert_eq!(rig.engine.metrics(0).sockets_open, 0);
        rig.engine.stop();
    }
}

#[test]
fn dropping_the_engine_frees_every_port_and_descriptor() {
    let _alone = alone();
    for way in WAYS {
        let before = open_files();
        let mut rig = Rig::start(way, 21_400..=21_419);
        let legs = rig.open(1);
        drop(rig);
        assert_eq!(open_files(), before);
        #[expect(clippy::disallowed_methods, reason = "that the port is free is the question")]
        let again = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, legs.rtp));
        assert!(again.is_ok(), "{way:?}: {again:?}");
    }
}

#[test]
fn no_worker_takes_more_bridges_than_it_has_slots_for() {
    let _alone = alone();
    let mut rig = Rig::start(Way::Mmsg, 22_000..=32_699);
    let wanted = BRIDGES_PER_WORKER_MAX.min(3_500);
    for number in 0..wanted {
        rig.send_open(number as u64);
    }
    let mut opened = 0;
    for _ in 0..wanted {
        opened += usize::from(matches!(rig.next_event(), Event::Opened { .. }));
    }
    // 10,700 ports are room for 3,566 bridges.
    assert_eq!(opened, wanted);
    assert_eq!(rig.metrics_when(|metrics| metrics.bridges_open == wanted as u64).sockets_open, 3 * wanted as u64);
    rig.engine.stop();
}

#[test]
fn a_control_that_does_not_read_is_held_back_and_still_gets_every_end() {
    let _alone = alone();
    for way in WAYS {
        let mut rig = Rig::start(way, 22_000..=23_999);
        for number in 0..100 {
            rig.open(number);
        }
        // Each asks for an event, and none is read: the worker stops taking commands, and its queue fills up.
        let digit = Digit::from_char('1').unwrap();
        let press = |number: u64| {
            let command = BridgeCommand::SendDigit { leg: LegName::A, digit, duration_ms: 0 };
            rig.engine.command(0, Command::Bridge { bridge: BridgeId(number % 100), command })
        };
        let (mut sent, mut refused) = (0, 0);
        while refused < 100 {
            match press(sent) {
                Ok(()) => (sent, refused) = (sent + 1, 0),
                Err(MailboxFull) => {
                    refused += 1;
                    pause();
                }
            }
        }
        assert!(sent >= COMMANDS_MAX as u64);
        let (mut events, mut ended, mut stopping) = (0, 0, false);
        while ended < 100 {
            let event = rig.next_event();
            events += 1;
            ended += u32::from(matches!(event, Event::Bridge { event: BridgeEvent::Ended { .. }, .. }));
            stopping = stopping || rig.engine.command(0, Command::Stop).is_ok();
        }
        assert!(
            events >= EVENTS_MAX - BRIDGES_PER_WORKER_MAX,
            "{way:?}: {events} events are not all there was room for"
        );
        rig.engine.stop();
    }
}

#[test]
fn several_workers_share_the_load_and_the_ports() {
    let _alone = alone();
    let mut rig = Rig::start_with(Way::Steered, 21_500..=21_599, 3);
    let mut ports = Vec::new();
    for number in 0..9 {
        let worker = rig.engine.least_loaded();
        assert_eq!(worker, number as usize % 3);
        rig.engine.command(worker, Command::Open { bridge: BridgeId(number), config: config() }).unwrap();
        rig.wait_for("an answer", |rig| match rig.engine.poll_event(worker) {
            Some(Event::Opened { a, b, .. }) => {
                ports.extend([port(&a), port(&b)]);
                true
            }
            Some(other) => panic!("{other:?}"),
            None => false,
        });
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 18);
    rig.metrics_when(|metrics| metrics.bridges_open == 3 && metrics.sockets_steered >= 3);
    rig.engine.stop();
}
