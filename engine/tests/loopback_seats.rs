//! Spare legs on real sockets: they get ports of their own, take a seat with them, and give them back.

use engine::bridge::{BridgeCommand, BridgeConfig, BridgeEvent, BridgeId, LegConfig, LegName, LegRemote, Shared};
use engine::config::{Driver, EngineConfig};
use engine::dtls::Identity;
use engine::leg::rtp::{RtpConfig, RtpRemote};
use engine::leg::{LocalLeg, MediaFormat};
use engine::rtp::header;
use engine::sdp::{Codec, OpusParameters};
use engine::time::{RtpTimestamp, WallAnchor};
use engine::worker::{Command, Engine, Event};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Tries of what another thread must do first, one millisecond apart: only a failing test gets there.
const TRIES_MAX: u32 = 20_000;

fn remote(peer: &UdpSocket) -> Box<LegRemote> {
    let address = peer.local_addr().unwrap();
    let format = MediaFormat {
        codec: Codec::Pcmu,
        send_payload_type: 0,
        receive_payload_type: 0,
        opus: OpusParameters::default(),
        telephone_event: None,
    };
    let rtcp_address = SocketAddr::new(address.ip(), address.port() ^ 1);
    let remote = RtpRemote { address, rtcp_address, rtcp_mux: false, format, sending: true, srtp: None };
    Box::new(LegRemote::Rtp(remote))
}

fn port(local: &LocalLeg) -> u16 {
    match local {
        LocalLeg::Rtp { port, .. } | LocalLeg::Webrtc { port, .. } => *port,
    }
}

fn rtp() -> LegConfig {
    LegConfig::Rtp(RtpConfig { remote: None })
}

#[expect(clippy::disallowed_methods, reason = "this is the peer's socket")]
fn peer() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    socket
}

struct Rig {
    engine: Engine,
    sequence: u16,
}

impl Rig {
    fn command(&self, command: BridgeCommand) {
        self.engine.command(0, Command::Bridge { bridge: BridgeId(1), command }).unwrap();
    }

    /// The next event that `wanted` takes; others are left out.
    fn wait<T>(&self, wanted: impl Fn(Event) -> Option<T>) -> T {
        for _ in 0..TRIES_MAX {
            match self.engine.poll_event(0).and_then(&wanted) {
                Some(found) => return found,
                None => std::thread::park_timeout(Duration::from_millis(1)),
            }
        }
        panic!("it never came");
    }

    /// Sends packets from one peer until the other hears one, and answers from where: what was commanded a moment ago may not
    /// be in force yet.
    fn crosses(&mut self, from: &UdpSocket, to_port: u16, heard_by: &UdpSocket) -> SocketAddr {
        let mut came = [0; 2_000];
        while heard_by.recv_from(&mut came).is_ok() {} // what was on its way before
        for _ in 0..TRIES_MAX {
            let mut packet = [0x55; 172];
            header::write(false, 0, self.sequence, RtpTimestamp(u32::from(self.sequence) * 160), 7, &mut packet);
            self.sequence += 1;
            from.send_to(&packet, (Ipv4Addr::LOCALHOST, to_port)).unwrap();
            // RTCP may come between.
            while let Ok((len, source)) = heard_by.recv_from(&mut came) {
                if len == 172 && came[12..172] == packet[12..172] {
                    return source;
                }
            }
        }
        panic!("nothing was heard");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a port is tried whether it is free")]
fn a_spare_leg_brings_its_sockets_to_the_seat_and_the_replaced_one_gives_its_ports_back() {
    for driver in [Driver::IoUring, Driver::Mmsg] {
        let config = EngineConfig {
            workers: 1,
            pin: false,
            media_ports: 24_000..=24_099,
            bind: None,
            steering: true,
            dscp: 0,
            driver,
            complexity: 5..=5,
        };
        let shared = Shared {
            identity: Identity::generate().unwrap(),
            anchor: WallAnchor { ntp_at_zero: 0xe000_0000_0000_0000 },
        };
        let engine = Engine::start(&config, shared, || {}).unwrap();
        let mut rig = Rig { engine, sequence: 65 };
        let config = BridgeConfig { a: rtp(), b: rtp() };
        rig.engine.command(0, Command::Open { bridge: BridgeId(1), config }).unwrap();
        let (a, b) = rig.wait(|event| match event {
            Event::Opened { a, b, .. } => Some((port(&a), port(&b))),
            _ => None,
        });
        let (caller, first, second) = (peer(), peer(), peer());
        for (leg, peer) in [(LegName::A, &caller), (LegName::B, &first)] {
            rig.command(BridgeCommand::SetRemote { leg, remote: remote(peer) });
        }
        assert_eq!(rig.crosses(&caller, a, &first).port(), b);

        rig.command(BridgeCommand::OpenLeg { leg: LegName::C, config: Box::new(rtp()) });
        let c = rig.wait(|event| match event {
            Event::Bridge { event: BridgeEvent::LegOpened { leg: LegName::C, local }, .. } => Some(port(&local)),
            _ => None,
        });
        assert!(![0, a, b].contains(&c) && c.is_multiple_of(2), "a pair of its own: {c}");
        // A name that is taken gets no second leg, and no sockets.
        rig.command(BridgeCommand::OpenLeg { leg: LegName::C, config: Box::new(rtp()) });
        rig.wait(|event| {
            matches!(event, Event::Bridge { event: BridgeEvent::LegRefused { leg: LegName::C }, .. }).then_some(())
        });
        rig.command(BridgeCommand::SetRemote { leg: LegName::C, remote: remote(&second) });
        assert_eq!(rig.crosses(&caller, a, &first).port(), b, "a spare changes nothing");

        rig.command(BridgeCommand::SeatLeg { leg: LegName::C, seat: LegName::B });
        rig.wait(|event| {
            matches!(event, Event::Bridge { event: BridgeEvent::LegClosed { leg: LegName::C, .. }, .. }).then_some(())
        });
        assert_eq!(rig.crosses(&caller, a, &second).port(), c, "the new leg speaks from its own port");
        assert_eq!(rig.crosses(&second, c, &caller).port(), a, "and the caller hears it from where it always did");
        // The port that was given up answers nobody and can be bound again.
        let mut bound = None;
        for _ in 0..TRIES_MAX {
            bound = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, b)).ok();
            if bound.is_some() {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        assert!(bound.is_some(), "{driver:?}: port {b} is still taken");
        // Seats can be taken again and again; every leg's sockets come and go.
        for _ in 0..20 {
            rig.command(BridgeCommand::OpenLeg { leg: LegName::D, config: Box::new(rtp()) });
            rig.command(BridgeCommand::CloseLeg { leg: LegName::D });
            rig.wait(|event| {
                matches!(
                    event,
                    Event::Bridge {
                        event: BridgeEvent::LegClosed { leg: LegName::D, .. }
                            | BridgeEvent::LegRefused { leg: LegName::D },
                        ..
                    }
                )
                .then_some(())
            });
        }
        assert_eq!(rig.crosses(&caller, a, &second).port(), c);
        rig.command(BridgeCommand::Close);
        rig.wait(|event| matches!(event, Event::Bridge { event: BridgeEvent::Ended { .. }, .. }).then_some(()));
        rig.engine.stop();
    }
}
