//! Legs in waiting and legs that are replaced: forks, transfers, and what the far side must not notice.

use engine::bridge::{
    Bridge, BridgeCommand, BridgeConfig, BridgeEvent, LegConfig, LegName, LegRemote, Output, Port, Shared,
};
use engine::dtls::{DtlsRole, DtlsVersions, Identity};
use engine::error::{Cause, End, Side};
use engine::ice::IceRole;
use engine::leg::rtp::{RtpConfig, RtpLeg, RtpRemote};
use engine::leg::webrtc::{WebrtcConfig, WebrtcLeg, WebrtcRemote};
use engine::leg::{Component, EventFormat, Leg, LegOutput, LocalLeg, MediaFormat, Received};
use engine::limits::DATAGRAM_BYTES_MAX;
use engine::metrics::Metrics;
use engine::random::Random;
use engine::rtp::header;
use engine::sdp::{Candidate, Codec, Fingerprint, IceDescription, OpusParameters};
use engine::time::{Instant, RtpTimestamp, WallAnchor};
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

const ANCHOR: WallAnchor = WallAnchor { ntp_at_zero: 0xe000_0000_0000_0000 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A softphone: full ICE, DTLS client.
    Webrtc,
    Rtp,
}

/// What a peer heard of one packet, and of what it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packet {
    sequence: u16,
    timestamp: u32,
    ssrc: u32,
    marker: bool,
    payload_type: u8,
    hash: u64,
}

/// The far end of a leg; speaks packets of its own making, so that numbers can begin anywhere.
struct Peer {
    leg: Leg,
    address: SocketAddr,
    /// The leg of the bridge that it is connected to.
    at: LegName,
    sequence: u16,
    timestamp: u32,
    speaks: bool,
    frame: u64,
    said: Vec<Packet>,
    heard: Vec<Packet>,
    deadline: Instant,
}

/// A bridge and its peers on a wire without delay.
struct World {
    now: Instant,
    bridge: Bridge,
    peers: Vec<Peer>,
    metrics: Metrics,
    events: Vec<BridgeEvent>,
    deadline: Instant,
    random: Random,
    /// To the bridge: which leg's socket, from where.
    wire: VecDeque<(LegName, Component, SocketAddr, Vec<u8>)>,
}

fn format() -> MediaFormat {
    MediaFormat {
        codec: Codec::Opus,
        send_payload_type: 111,
        receive_payload_type: 111,
        opus: OpusParameters::default(),
        telephone_event: Some(EventFormat { send_payload_type: 126, receive_payload_type: 126, clock_rate_hz: 8_000 }),
    }
}

fn bridge_address(index: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 10_000 + 2 * index as u16))
}

fn ice_of(local: &LocalLeg, lite: bool, address: SocketAddr) -> (IceDescription, Fingerprint) {
    let LocalLeg::Webrtc { ufrag, pwd, fingerprint, .. } = local else { panic!("not a webrtc leg") };
    let candidates = vec![Candidate { address, priority: 2_130_706_431 }];
    (IceDescription { ufrag: ufrag.clone(), pwd: pwd.clone(), lite, candidates }, *fingerprint)
}

fn rtp_remote(address: SocketAddr) -> RtpRemote {
    let rtcp_address = SocketAddr::new(address.ip(), address.port() + 1);
    RtpRemote { address, rtcp_address, rtcp_mux: false, format: format(), sending: true, srtp: None }
}

fn open_config(kind: Kind) -> LegConfig {
    match kind {
        Kind::Rtp => LegConfig::Rtp(RtpConfig { remote: None }),
        Kind::Webrtc => LegConfig::Webrtc(Box::new(WebrtcConfig {
            ice: IceRole::Lite,
            versions: DtlsVersions::Auto,
            credentials: None,
            hold: false,
            remote: None,
        })),
    }
}

impl World {
    fn new(a: Kind, b: Kind) -> World {
        let now = Instant::from_millis(1_000);
        let mut random = Random::from_test_seed(7);
        let shared = Shared { identity: Identity::generate().unwrap(), anchor: ANCHOR };
        let config = BridgeConfig { a: open_config(a), b: open_config(b) };
        let bridge = Bridge::open(now, config, &shared, random.fork());
        let mut world = World {
            now,
            bridge,
            peers: Vec::new(),
            metrics: Metrics::default(),
            events: Vec::new(),
            deadline: now,
            random,
            wire: VecDeque::new(),
        };
        world.answer(LegName::A, a);
        world.answer(LegName::B, b);
        world.run_ms(500);
        world
    }

    /// A peer of that kind takes the offer of a leg and answers.
    fn answer(&mut self, at: LegName, kind: Kind) -> usize {
        let index = self.peers.len();
        let local = match self.events.iter().rev().find_map(|event| match event {
            BridgeEvent::LegOpened { leg, local } if *leg == at => Some(local.clone()),
            _ => None,
        }) {
            Some(local) => local,
            None => self.bridge.local(at),
        };
        let address = SocketAddr::from(([203, 0, 113, 10 + index as u8], 30_000));
        let (leg, remote) = self.answerer(kind, &local, index, address);
        self.peers.push(Peer {
            leg,
            address,
            at,
            sequence: 65_500,
            timestamp: u32::MAX - 48_000,
            speaks: false,
            frame: 0,
            said: Vec::new(),
            heard: Vec::new(),
            deadline: self.now,
        });
        self.command(BridgeCommand::SetRemote { leg: at, remote: Box::new(remote) });
        index
    }

    fn answerer(&mut self, kind: Kind, local: &LocalLeg, index: usize, address: SocketAddr) -> (Leg, LegRemote) {
        let (now, random) = (self.now, self.random.fork());
        match kind {
            Kind::Rtp => {
                let config = RtpConfig { remote: Some(rtp_remote(bridge_address(index))) };
                (Leg::Rtp(Box::new(RtpLeg::new(now, config, ANCHOR, random))), LegRemote::Rtp(rtp_remote(address)))
            }
            Kind::Webrtc => {
                let (ice, fingerprint) = ice_of(local, true, bridge_address(index));
                let remote = WebrtcRemote { ice, fingerprint, dtls: DtlsRole::Client, format: format() };
                let config = WebrtcConfig {
                    ice: IceRole::Controlling,
                    versions: DtlsVersions::Auto,
                    credentials: None,
                    hold: false,
                    remote: Some(remote),
                };
                let leg = WebrtcLeg::new(now, config, &Identity::generate().unwrap(), ANCHOR, random);
                let leg = Leg::Webrtc(Box::new(leg));
                let (ice, fingerprint) = ice_of(&leg.local(), false, address);
                (leg, LegRemote::Webrtc(WebrtcRemote { ice, fingerprint, dtls: DtlsRole::Server, format: format() }))
            }
        }
    }

    fn open(&mut self, leg: LegName, kind: Kind) {
        self.command(BridgeCommand::OpenLeg { leg, config: Box::new(open_config(kind)) });
    }

    /// The bridge swaps the legs, and the sockets go along.
    fn seat(&mut self, leg: LegName, seat: LegName) {
        for peer in &mut self.peers {
            peer.at = match peer.at {
                at if at == leg => seat,
                at if at == seat => leg,
                at => at,
            };
        }
        self.command(BridgeCommand::SeatLeg { leg, seat });
    }

    fn command(&mut self, command: BridgeCommand) {
        self.bridge.handle_command(self.now, command);
        self.drain();
    }

    fn run_ms(&mut self, millis: u64) {
        let end = self.now.plus_millis(millis);
        while self.now < end {
            // Frames leave every 20 ms; whatever is due between them has its turn at the next millisecond.
            let next = self.now.plus_millis(20 - self.now.as_millis() % 20);
            let due = self.peers.iter().map(|peer| peer.deadline).min().unwrap().min(self.deadline);
            self.now = next.min(due.max(self.now.plus_millis(1))).min(end);
            if self.now.as_millis().is_multiple_of(20) {
                (0..self.peers.len()).for_each(|index| self.speak(index));
            }
            for peer in self.peers.iter_mut().filter(|peer| peer.deadline <= self.now) {
                peer.leg.handle_timeout(self.now);
            }
            self.drain();
        }
    }

    fn speak(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        if !peer.speaks || !peer.leg.can_send() {
            return;
        }
        let payload: Vec<u8> = (0..20 + peer.frame * 7 % 90)
            .map(|byte| (peer.frame.wrapping_mul(31) ^ byte.wrapping_mul(17) ^ index as u64) as u8)
            .collect();
        let marker = peer.frame.is_multiple_of(500);
        let mut packet = vec![0; DATAGRAM_BYTES_MAX];
        header::write(marker, 111, peer.sequence, RtpTimestamp(peer.timestamp), 0x5000 + index as u32, &mut packet);
        packet[12..12 + payload.len()].copy_from_slice(&payload);
        let (sequence, timestamp, ssrc) = (peer.sequence, peer.timestamp, 0);
        peer.said.push(Packet { sequence, timestamp, ssrc, marker, payload_type: 111, hash: hash(&payload) });
        peer.sequence = peer.sequence.wrapping_add(1);
        // Opus at 20 ms, and now and then a packet of 40 ms: the steps of the timestamp are the sender's.
        peer.timestamp = peer.timestamp.wrapping_add(if peer.frame.is_multiple_of(100) { 1_920 } else { 960 });
        peer.frame += 1;
        let (_, len) = peer.leg.send(self.now, &mut packet, 12 + payload.len()).unwrap();
        packet.truncate(len);
        self.wire.push_back((peer.at, Component::Rtp, peer.address, packet));
    }

    fn drain(&mut self) {
        let mut out = [0; DATAGRAM_BYTES_MAX];
        loop {
            match self.bridge.poll_output(self.now, &mut out, &mut self.metrics) {
                Output::Transmit { port, len, .. } => self.deliver(port, &mut out[..len]),
                Output::Event(event) => self.events.push(event),
                Output::Timeout(at) => {
                    assert!(at > self.now);
                    self.deadline = at;
                    self.drain_peers();
                    let Some((leg, component, from, mut bytes)) = self.wire.pop_front() else { return };
                    let port = Port { leg, component };
                    self.bridge.handle_datagram(self.now, port, from, &mut bytes, &mut self.metrics);
                }
            }
        }
    }

    fn deliver(&mut self, port: Port, bytes: &mut [u8]) {
        let now = self.now;
        let Some(index) = self.peers.iter().position(|peer| peer.at == port.leg) else { return };
        let peer = &mut self.peers[index];
        let ssrc = u32::from_be_bytes(bytes[8..12].try_into().unwrap());
        peer.deadline = now;
        if let Received::Rtp(packet) = peer.leg.handle_datagram(now, port.component, bridge_address(index), bytes) {
            peer.heard.push(Packet {
                sequence: packet.sequence,
                timestamp: packet.timestamp.0,
                ssrc,
                marker: packet.marker,
                payload_type: packet.payload_type,
                hash: hash(packet.payload),
            });
        }
    }

    fn drain_peers(&mut self) {
        let mut out = [0; DATAGRAM_BYTES_MAX];
        for peer in &mut self.peers {
            loop {
                match peer.leg.poll_output(self.now, &mut out) {
                    LegOutput::Transmit { component, len, .. } => {
                        self.wire.push_back((peer.at, component, peer.address, out[..len].to_vec()));
                    }
                    LegOutput::Event(_) => {}
                    LegOutput::Timeout(at) => {
                        peer.deadline = at.max(self.now.plus_millis(1));
                        break;
                    }
                }
            }
        }
    }

    fn closed(&self, name: LegName) -> usize {
        let closed = |event: &&BridgeEvent| matches!(event, BridgeEvent::LegClosed { leg, .. } if *leg == name);
        self.events.iter().filter(closed).count()
    }
}

fn hash(payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    payload.hash(&mut hasher);
    hasher.finish()
}

/// Packet by packet: payload, marker, payload type, and the steps of sequence and timestamp.
#[track_caller]
fn assert_same(said: &[Packet], heard: &[Packet]) {
    assert_eq!(said.len(), heard.len());
    for (number, (said_pair, heard_pair)) in said.windows(2).zip(heard.windows(2)).enumerate() {
        let ([before, said], [heard_before, heard]) = (said_pair, heard_pair) else { unreachable!() };
        assert_eq!((heard.hash, heard.marker, heard.payload_type), (said.hash, said.marker, said.payload_type));
        let step = (said.sequence.wrapping_sub(before.sequence), said.timestamp.wrapping_sub(before.timestamp));
        let heard_sequence = heard.sequence.wrapping_sub(heard_before.sequence);
        let heard_step = (heard_sequence, heard.timestamp.wrapping_sub(heard_before.timestamp));
        assert_eq!(heard_step, step, "packet {number}");
    }
}

/// One SSRC and no sequence number left out, in all that a peer heard.
#[track_caller]
fn assert_one_stream(heard: &[Packet]) {
    for pair in heard.windows(2) {
        assert_eq!(pair[1].ssrc, pair[0].ssrc);
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1));
        let step = pair[1].timestamp.wrapping_sub(pair[0].timestamp);
        assert!(step > 0 && step < 48_000 * 20 && step.is_multiple_of(960), "a timestamp step of {step}");
    }
}

#[test]
fn ten_minutes_pass_bit_for_bit_through_a_rollover_and_a_transfer() {
    for (a, b, next) in [(Kind::Rtp, Kind::Webrtc, Kind::Webrtc), (Kind::Webrtc, Kind::Rtp, Kind::Webrtc)] {
        let mut world = World::new(a, b);
        world.peers.iter_mut().for_each(|peer| peer.speaks = true);
        // 65,500 at the start of each source: its numbers roll over after 36 packets.
        world.run_ms(300_000);
        assert_eq!(world.bridge.relays(), [Some(true); 2], "a relay has no codec");

        world.open(LegName::C, next);
        world.answer(LegName::C, next);
        world.run_ms(1_000);
        let said_before = world.peers[0].said.len();
        assert_eq!(world.peers[1].heard.len(), said_before);
        world.peers[1].speaks = false;
        let heard_before = world.peers[0].heard.len();
        world.seat(LegName::C, LegName::B);
        assert_eq!(world.closed(LegName::C), 1, "the leg that was replaced said goodbye");
        world.peers[2].speaks = true;
        world.run_ms(300_000);

        assert_eq!(world.bridge.relays(), [Some(true); 2]);
        let [caller, first, second] = &world.peers[..] else { unreachable!() };
        assert!(second.said.len() > 14_900 && caller.said.len() > 29_900);
        assert_same(&first.said, &caller.heard[..heard_before]);
        assert_same(&second.said, &caller.heard[heard_before..]);
        assert_one_stream(&caller.heard);
        assert_same(&caller.said[..said_before], &first.heard);
        assert_same(&caller.said[said_before..], &second.heard);
        assert_one_stream(&second.heard);
        assert_eq!(world.metrics.dropped.iter().sum::<u64>(), 0);
    }
}

#[test]
fn a_peer_that_must_always_hear_something_hears_silence_until_the_other_side_speaks_and_when_it_stops() {
    for kind in [Kind::Rtp, Kind::Webrtc] {
        let mut world = World::new(kind, Kind::Webrtc);
        assert_eq!(world.peers[0].heard, [], "nobody asked for it");
        world.command(BridgeCommand::Comfort { leg: LegName::A });
        world.run_ms(1_000);
        let silence = hash(&[0xf8, 0xff, 0xfe]);
        let is_silence = |packet: &&Packet| packet.hash == silence;
        let before = world.peers[0].heard.len();
        assert!((49..=51).contains(&before), "{before} packets in a second");
        assert_eq!(world.peers[1].heard, [], "the other side has speech of its own to come");

        world.peers[1].speaks = true;
        world.run_ms(2_000);
        let heard = &world.peers[0].heard[before..];
        let first = heard.iter().position(|packet| !is_silence(&packet)).unwrap();
        assert!(first <= 1, "{first} packets of silence before the first word");
        // What is relayed is left alone.
        assert_same(&world.peers[1].said, &heard[first..]);

        // A pause as DTX makes it is the source's own; a longer one is filled from its second on.
        world.peers[1].speaks = false;
        let before = world.peers[0].heard.len();
        world.run_ms(900);
        assert_eq!(world.peers[0].heard.len(), before);
        world.run_ms(5_000);
        assert!((240..=252).contains(&(world.peers[0].heard.len() - before)));
        world.peers[1].speaks = true;
        world.run_ms(1_000);
        assert_one_stream(&world.peers[0].heard);
        assert_eq!(world.peers[0].heard.iter().filter(|packet| !is_silence(packet)).count(), world.peers[1].said.len());
    }
}

#[test]
fn a_peer_on_hold_hears_nothing_and_then_goes_on_where_the_clock_is() {
    let mut world = World::new(Kind::Rtp, Kind::Webrtc);
    world.peers.iter_mut().for_each(|peer| peer.speaks = true);
    world.run_ms(1_000);
    world.command(BridgeCommand::Hold { leg: LegName::B });
    let (before, said) = (world.peers[1].heard.len(), world.peers[1].said.len());
    world.run_ms(2_000);
    assert_eq!(world.peers[1].heard.len(), before);
    assert!(world.peers[0].heard.len() > said + 90, "the one who holds may speak");
    world.command(BridgeCommand::Release { leg: LegName::B });
    world.run_ms(1_000);
    assert!(world.peers[1].heard.len() > before + 45);
    assert_one_stream(&world.peers[1].heard);
}

#[test]
fn a_spare_carries_nothing_and_a_second_of_its_name_is_refused() {
    let mut world = World::new(Kind::Rtp, Kind::Webrtc);
    world.peers.iter_mut().for_each(|peer| peer.speaks = true);
    world.open(LegName::D, Kind::Webrtc);
    world.open(LegName::D, Kind::Rtp);
    assert!(world.events.contains(&BridgeEvent::LegRefused { leg: LegName::D }));
    let spare = world.answer(LegName::D, Kind::Webrtc);
    world.peers[spare].speaks = true;
    world.run_ms(2_000);
    assert!(world.peers[spare].said.len() > 50, "the spare's keys are there");
    assert_eq!(world.peers[spare].heard, []);
    assert_same(&world.peers[1].said, &world.peers[0].heard);
    world.command(BridgeCommand::CloseLeg { leg: LegName::D });
    assert_eq!(world.closed(LegName::D), 1);
    world.command(BridgeCommand::CloseLeg { leg: LegName::D });
    assert_eq!(world.closed(LegName::D), 1);
    // A name can be used again.
    world.open(LegName::D, Kind::Rtp);
    assert_eq!(world.events.iter().filter(|event| matches!(event, BridgeEvent::LegOpened { .. })).count(), 2);
}

#[test]
fn seats_are_taken_by_spares_only_and_a_leg_that_is_not_there_changes_nothing() {
    let mut world = World::new(Kind::Rtp, Kind::Rtp);
    world.peers.iter_mut().for_each(|peer| peer.speaks = true);
    for (leg, seat) in [(LegName::C, LegName::B), (LegName::A, LegName::B), (LegName::C, LegName::D)] {
        world.bridge.handle_command(world.now, BridgeCommand::SeatLeg { leg, seat });
    }
    world.open(LegName::A, Kind::Rtp);
    assert!(world.events.contains(&BridgeEvent::LegRefused { leg: LegName::A }));
    world.run_ms(1_000);
    assert_same(&world.peers[0].said, &world.peers[1].heard);
}

#[test]
fn a_spare_that_dies_costs_nobody_else_anything() {
    let mut world = World::new(Kind::Rtp, Kind::Rtp);
    world.peers.iter_mut().for_each(|peer| peer.speaks = true);
    world.open(LegName::C, Kind::Webrtc);
    world.answer(LegName::C, Kind::Webrtc);
    world.peers.pop();
    world.run_ms(120_000);
    let died = |event: &BridgeEvent| matches!(event, BridgeEvent::LegClosed { leg: LegName::C, cause: Some(_), .. });
    assert!(world.events.iter().any(died), "{:?}", world.events);
    assert_same(&world.peers[0].said, &world.peers[1].heard);
}

#[test]
fn the_end_of_a_bridge_takes_its_spares_along() {
    let mut world = World::new(Kind::Rtp, Kind::Rtp);
    for leg in &LegName::ALL[2..] {
        world.open(*leg, Kind::Webrtc);
    }
    world.bridge.handle_command(world.now, BridgeCommand::Close);
    let mut out = [0; DATAGRAM_BYTES_MAX];
    let mut ended = Vec::new();
    loop {
        match world.bridge.poll_output(world.now, &mut out, &mut world.metrics) {
            Output::Event(BridgeEvent::Ended { end, .. }) => ended.push(end),
            Output::Timeout(at) => {
                assert_eq!(at, Instant::NEVER);
                break;
            }
            _ => {}
        }
    }
    assert_eq!(ended, [End { side: Side::Engine, cause: Cause::Closed }]);
    assert!(world.bridge.is_ended());
}
