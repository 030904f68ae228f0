//! A whole bridge, both its peers, and a script of everything that can happen to it.
//!
//! The peers are honest legs of the engine, so that ICE and DTLS come up and SRTP opens; the script tampers with what they
//! send, lets them send payloads and headers of its own, adds datagrams of strangers on every port, gives commands and lets time
//! jump. Between two steps everything that was said is delivered at once.

use crate::script::Script;
use crate::{DRAIN_STEPS_MAX, identity};
use engine::bridge::{
    Bridge, BridgeCommand, BridgeConfig, BridgeEvent, LegConfig, LegName, LegRemote, Output, Port, Shared,
};
use engine::demux::{Class, classify};
use engine::dtls::{DtlsRole, DtlsVersions};
use engine::ice::{IceCredentials, IceRole};
use engine::leg::rtp::{RtpConfig, RtpLeg, RtpRemote};
use engine::leg::webrtc::{WebrtcChange, WebrtcConfig, WebrtcLeg, WebrtcRemote};
use engine::leg::{Component, EventFormat, Leg, LegOutput, LocalLeg, MediaFormat};
use engine::limits::DATAGRAM_BYTES_MAX;
use engine::metrics::Metrics;
use engine::random::Random;
use engine::rtp::header::{self, HEADER_BYTES};
use engine::rtp::telephone_event::Digit;
use engine::sdp::{Candidate, Codec, IceDescription, OpusParameters};
use engine::time::{Instant, RtpTimestamp, WallAnchor};
use std::collections::VecDeque;
use std::net::SocketAddr;

const ANCHOR: WallAnchor = WallAnchor { ntp_at_zero: 0xe000_0000_0000_0000 };

/// Steps of one script; the rest of a longer input is not read.
const STEPS_MAX: usize = 400;

/// Sequence numbers kept to see whether one is used twice.
const SEQUENCES_REMEMBERED: usize = 64;

/// Virtual time of one script.
const RUN_MS_MAX: u64 = 100_000;

/// How a leg is set up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The peer is lite and DTLS server.
    WhatsApp,
    /// The peer is full, controlling and DTLS client.
    Browser,
    Rtp,
}

/// One script of everything.
pub fn bridge(data: &[u8]) {
    let mut script = Script::new(data);
    let mut world = World::new(&mut script);
    world.settle();
    for _ in 0..STEPS_MAX {
        if script.is_over() || world.now >= Instant::from_millis(RUN_MS_MAX) {
            break;
        }
        world.step(&mut script);
        world.settle();
    }
    world.command(BridgeCommand::Close);
    world.settle();
    assert!(world.bridge.is_ended() && world.ends == 1, "closed, and {} ends", world.ends);
    assert_eq!(world.deadline, Instant::NEVER);
}

/// What the network does to the next datagrams of the peers.
#[derive(Clone, Copy)]
enum Disturbance {
    None,
    Lose(u8),
    Repeat(u8),
    Damage { count: u8, at: u16, mask: u8 },
    Cut { count: u8, len: u16 },
}

struct World {
    now: Instant,
    bridge: Bridge,
    metrics: Metrics,
    deadline: Instant,
    ends: u32,
    kinds: [Kind; 2],
    peers: [Peer; 2],
    disturbance: Disturbance,
    to_bridge: VecDeque<(Port, SocketAddr, Vec<u8>)>,
    left: [Left; 2],
}

/// RTP that left the bridge on one leg.
#[derive(Default)]
struct Left {
    ssrc: u32,
    /// The last ones, oldest first.
    sequences: VecDeque<u16>,
    /// Whether both legs ever had one codec.
    relayed: bool,
}

struct Peer {
    leg: Leg,
    format: MediaFormat,
    address: SocketAddr,
    deadline: Instant,
}

impl World {
    fn new(script: &mut Script<'_>) -> World {
        let now = Instant::from_millis(1_000);
        let mut random = Random::from_test_seed(5);
        let kinds = script.pick(&[
            [Kind::WhatsApp, Kind::Rtp],
            [Kind::Rtp, Kind::Rtp],
            [Kind::Browser, Kind::Rtp],
            [Kind::WhatsApp, Kind::Browser],
        ]);
        let choices = script.byte();
        let codec = |kind, bit: u8| match (kind, choices & bit != 0) {
            (Kind::Rtp, false) => Codec::Pcmu,
            (Kind::Rtp, true) => Codec::Pcma,
            (_, false) => Codec::Opus,
            (_, true) => Codec::Pcmu,
        };
        let peers = [
            Peer::new(now, kinds[0], LegName::A, codec(kinds[0], 1), &mut random),
            Peer::new(now, kinds[1], LegName::B, codec(kinds[1], 2), &mut random),
        ];
        let config = BridgeConfig {
            a: leg_config(kinds[0], &peers[0], choices & 4 != 0, choices & 8 == 0),
            b: leg_config(kinds[1], &peers[1], choices & 16 != 0, choices & 32 == 0),
        };
        let shared = Shared { identity: identity().clone(), anchor: ANCHOR };
        let mut world = World {
            now,
            bridge: Bridge::open(now, config, &shared, random.fork()),
            metrics: Metrics::default(),
            deadline: now,
            ends: 0,
            kinds,
            peers,
            disturbance: Disturbance::None,
            to_bridge: VecDeque::new(),
            left: [Left::default(), Left::default()],
        };
        world.answer_peers();
        world
    }

    /// Gives both peers our half.
    fn answer_peers(&mut self) {
        for (index, leg) in [LegName::A, LegName::B].into_iter().enumerate() {
            let address = bridge_address(Port { leg, component: Component::Rtp });
            let peer = &mut self.peers[index];
            match &mut peer.leg {
                Leg::Rtp(rtp) => rtp.set_remote(self.now, rtp_remote(address, peer.format)),
                Leg::Webrtc(webrtc) => {
                    let is_lite = self.kinds[index] == Kind::Browser;
                    let dtls = if is_lite { DtlsRole::Client } else { DtlsRole::Server };
                    let remote = webrtc_remote(&self.bridge.local(leg), is_lite, address, dtls, peer.format);
                    webrtc.set_remote(self.now, remote);
                }
            }
        }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() % 14 {
            0 => self.wait(script.millis()),
            1 => self.stranger(script),
            2 => self.forged_rtp(script),
            3 | 4 => self.payload(script),
            5 => self.talk(script),
            6 => self.describe(script),
            7 => self.command(BridgeCommand::Release { leg: leg_name(script.byte()) }),
            8 => {
                let digit = Digit::from_event(script.byte() % 16).expect("sixteen keys");
                let (leg, duration_ms) = (leg_name(script.byte()), script.long() >> (script.byte() % 32));
                self.command(BridgeCommand::SendDigit { leg, digit, duration_ms });
            }
            9 => self.peers[usize::from(script.byte() & 1)].leg.close(self.now),
            10 => self.disturb(script),
            11 => self.command(BridgeCommand::Release { leg: LegName::A }),
            12 => match script.byte() {
                0xff => self.command(BridgeCommand::Close),
                0xe0..=0xfe => self.restart(script),
                _ => self.wait(200),
            },
            _ => self.wait(20),
        }
    }

    /// Anything, from anyone, to any port.
    fn stranger(&mut self, script: &mut Script<'_>) {
        let to = port(script.byte());
        let peer = self.peers[to.leg as usize].address;
        let from = match script.byte() {
            0..=63 => peer,
            64..=95 => SocketAddr::new(peer.ip(), peer.port() + 1),
            96..=127 => SocketAddr::new(peer.ip(), 9),
            byte @ 128..=200 => SocketAddr::from(([10, 0, 0, byte], 4_000)),
            byte => SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(byte)], 4_000)),
        };
        let mut bytes = script.chunk().to_vec();
        bytes.truncate(DATAGRAM_BYTES_MAX);
        self.receive(to, from, &mut bytes);
    }

    /// A packet with any header that a plain leg believes.
    fn forged_rtp(&mut self, script: &mut Script<'_>) {
        let leg = leg_name(script.byte());
        let peer = &self.peers[leg as usize];
        let from = peer.address;
        let (numbers, sequence, timestamp) = (script.byte(), script.word(), script.long());
        let audio = peer.format.send_payload_type;
        let payload_type = if numbers & 1 == 0 { audio } else { numbers >> 1 };
        let mut bytes = vec![0; HEADER_BYTES];
        header::write(
            numbers & 2 != 0,
            payload_type,
            sequence,
            RtpTimestamp(timestamp),
            u32::from(numbers >> 6),
            &mut bytes,
        );
        bytes.extend_from_slice(script.chunk());
        bytes.truncate(DATAGRAM_BYTES_MAX);
        self.receive(Port { leg, component: Component::Rtp }, from, &mut bytes);
    }

    /// The peer itself sends a payload of the script's, authenticated where the leg is.
    fn payload(&mut self, script: &mut Script<'_>) {
        let (index, choices) = (usize::from(script.byte() & 1), script.byte());
        let payload = script.chunk();
        let payload = &payload[..payload.len().min(DATAGRAM_BYTES_MAX - HEADER_BYTES - 32)];
        let is_event = choices & 1 != 0;
        self.send(index, payload, is_event, u32::from(choices >> 1) * 80);
    }

    /// Both peers talk for a while, 20 ms at a time.
    fn talk(&mut self, script: &mut Script<'_>) {
        let (frames, first) = (script.byte() % 64, script.byte());
        for frame in 0..frames {
            for index in 0..2 {
                let clock_rate_hz = self.peers[index].format.codec.clock_rate_hz();
                // A table of contents of any mode with one frame (RFC 6716 §3.1), and what looks like its bytes.
                let payload = [first & 0xfc, frame, first, 0x55, frame ^ first, 1, 2, 3];
                let g711 = [first ^ frame; 160];
                let is_opus = self.peers[index].format.codec == Codec::Opus;
                self.send(index, if is_opus { &payload } else { &g711 }, false, clock_rate_hz / 50);
            }
            self.settle();
            self.wait(20);
        }
    }

    fn send(&mut self, index: usize, payload: &[u8], is_event: bool, ticks: u32) {
        let peer = &mut self.peers[index];
        if !peer.leg.can_send() {
            return;
        }
        let mut packet = [0; DATAGRAM_BYTES_MAX];
        packet[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(payload);
        let len = match peer.format.telephone_event.filter(|_| is_event) {
            Some(event) => {
                let timestamp = peer.leg.sender().timestamp();
                let number = event.send_payload_type;
                peer.leg.sender().event(self.now, number, true, payload.len(), timestamp, &mut packet)
            }
            None => {
                let number = peer.format.send_payload_type;
                peer.leg.sender().audio(self.now, number, false, payload.len(), ticks, &mut packet)
            }
        };
        if let Some((_, len)) = peer.leg.send(self.now, &mut packet, len) {
            let port = Port { leg: leg_name(index as u8), component: Component::Rtp };
            self.to_bridge.push_back((port, peer.address, packet[..len].to_vec()));
        }
    }

    /// A description: the peer's own, or one that moved, changed its codec, or is of the other kind.
    fn describe(&mut self, script: &mut Script<'_>) {
        let (leg, choices) = (leg_name(script.byte()), script.byte());
        let peer = &self.peers[leg as usize];
        let as_rtp = (self.kinds[leg as usize] == Kind::Rtp) != (choices & 0x80 != 0);
        let remote = if as_rtp {
            let mut remote = rtp_remote(peer.address, mirrored(&peer.format));
            if choices & 1 != 0 {
                remote.address.set_port(script.word());
            }
            if choices & 2 != 0 {
                remote.format = format(script.pick(&[Codec::Opus, Codec::Pcmu, Codec::Pcma]));
                remote.format.receive_payload_type = script.byte() & 0x7f;
            }
            if choices & 4 != 0 {
                remote.format.telephone_event = None;
            }
            remote.sending = choices & 8 == 0;
            remote.rtcp_mux = choices & 16 != 0;
            LegRemote::Rtp(remote)
        } else {
            let is_lite = self.kinds[leg as usize] == Kind::WhatsApp;
            let dtls = if choices & 1 != 0 || is_lite { DtlsRole::Client } else { DtlsRole::Server };
            let mut local = peer.leg.local();
            if let LocalLeg::Rtp { .. } = local {
                local = LocalLeg::Webrtc {
                    ufrag: "abcd".to_owned(),
                    pwd: "abcdefghijklmnopqrstuv".to_owned(),
                    fingerprint: [0; 32],
                    ssrc: 1,
                    port: 0,
                };
            }
            LegRemote::Webrtc(webrtc_remote(&local, is_lite, peer.address, dtls, mirrored(&peer.format)))
        };
        self.command(BridgeCommand::SetRemote { leg, remote: Box::new(remote) });
    }

    /// An ICE restart: offered by us, followed by the peer, described to the bridge, each of them or not.
    fn restart(&mut self, script: &mut Script<'_>) {
        let (leg, choices) = (leg_name(script.byte()), script.byte());
        let mut random = Random::from_test_seed(u64::from(script.byte()));
        let [ours, theirs] = [0, 1].map(|_| IceCredentials::draw(&mut random));
        let credentials = (choices & 1 != 0).then(|| ours.clone());
        self.command(BridgeCommand::OfferRestart { leg, credentials });
        let (bridge, index) = (bridge_address(Port { leg, component: Component::Rtp }), leg as usize);
        let (is_lite, local) = (self.kinds[index] == Kind::WhatsApp, self.bridge.local(leg));
        let Peer { leg: Leg::Webrtc(peer), format, address, .. } = &mut self.peers[index] else { return };
        let dtls = if is_lite { DtlsRole::Server } else { DtlsRole::Client };
        let described = webrtc_remote(&peer.local(), is_lite, *address, dtls, mirrored(format));
        if choices & 2 != 0 {
            let WebrtcRemote { mut ice, fingerprint, .. } = webrtc_remote(&local, !is_lite, bridge, dtls, *format);
            (ice.ufrag, ice.pwd) = (ours.ufrag.clone(), ours.pwd.clone());
            let (credentials, format) = (theirs.clone(), *format);
            peer.change(self.now, WebrtcChange { ice, credentials, fingerprint, dtls, format, sending: true });
        }
        if choices & 4 != 0 {
            let WebrtcRemote { mut ice, mut fingerprint, format, .. } = described;
            (ice.ufrag, ice.pwd) = (theirs.ufrag, theirs.pwd);
            fingerprint[0] ^= u8::from(choices & 8 != 0);
            let dtls = if is_lite { DtlsRole::Client } else { DtlsRole::Server };
            let sending = choices & 16 == 0;
            let change = WebrtcChange { ice, credentials: ours, fingerprint, dtls, format, sending };
            self.command(BridgeCommand::SetRemote { leg, remote: Box::new(LegRemote::WebrtcChange(change)) });
        }
    }

    fn disturb(&mut self, script: &mut Script<'_>) {
        let (kind, count) = (script.byte(), script.byte());
        self.disturbance = match kind % 5 {
            0 => Disturbance::None,
            1 => Disturbance::Lose(count),
            2 => Disturbance::Repeat(count),
            3 => Disturbance::Damage { count, at: script.word(), mask: script.byte() },
            _ => Disturbance::Cut { count, len: script.word() },
        };
    }

    /// Time passes, deadline by deadline.
    fn wait(&mut self, millis: u64) {
        let end = self.now.plus_millis(millis);
        for _ in 0..DRAIN_STEPS_MAX * 10 {
            let peers = self.peers.iter().map(|peer| peer.deadline).min().expect("two peers");
            let next = self.deadline.min(peers).max(self.now);
            if next > end {
                self.now = end;
                return;
            }
            self.now = next;
            if self.deadline <= next {
                self.bridge.handle_timeout(next);
            }
            for peer in self.peers.iter_mut().filter(|peer| peer.deadline <= next) {
                peer.leg.handle_timeout(next);
            }
            self.settle();
        }
        panic!("time stands still at {:?}", self.now);
    }

    fn command(&mut self, command: BridgeCommand) {
        self.bridge.handle_command(self.now, command);
    }

    fn receive(&mut self, to: Port, from: SocketAddr, bytes: &mut [u8]) {
        self.bridge.handle_datagram(self.now, to, from, bytes, &mut self.metrics);
    }

    /// Everything that was said is delivered, until nobody says any more.
    fn settle(&mut self) {
        for _ in 0..DRAIN_STEPS_MAX {
            let said = self.drain_bridge();
            let peers_said = self.drain_peers();
            if self.to_bridge.is_empty() && !said && !peers_said {
                return;
            }
            while let Some((port, from, mut bytes)) = self.to_bridge.pop_front() {
                for _ in 0..self.copies(&mut bytes) {
                    self.receive(port, from, &mut bytes.clone());
                }
            }
        }
        panic!("bridge and peers answer each other without end");
    }

    /// Does to a datagram what the network does now; answers how often it arrives.
    fn copies(&mut self, bytes: &mut Vec<u8>) -> usize {
        let (left, copies) = match &mut self.disturbance {
            Disturbance::None => return 1,
            Disturbance::Lose(count) => (count, 0),
            Disturbance::Repeat(count) => (count, 2),
            Disturbance::Damage { count, at, mask } => {
                if !bytes.is_empty() {
                    let at = usize::from(*at) % bytes.len();
                    bytes[at] ^= *mask;
                }
                (count, 1)
            }
            Disturbance::Cut { count, len } => {
                bytes.truncate(usize::from(*len));
                (count, 1)
            }
        };
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.disturbance = Disturbance::None;
        }
        copies
    }

    fn drain_bridge(&mut self) -> bool {
        let mut out = [0; DATAGRAM_BYTES_MAX];
        let mut said = false;
        for _ in 0..DRAIN_STEPS_MAX {
            match self.bridge.poll_output(self.now, &mut out, &mut self.metrics) {
                Output::Transmit { port, to, len } => {
                    assert!((1..=out.len()).contains(&len));
                    self.check_stream(port, &out[..len]);
                    let (now, from) = (self.now, bridge_address(port));
                    let peer = &mut self.peers[port.leg as usize];
                    if to.ip() == peer.address.ip() {
                        let _ = peer.leg.handle_datagram(now, port.component, from, &mut out[..len]);
                        peer.deadline = now;
                        said = true;
                    }
                }
                Output::Event(BridgeEvent::Ended { .. }) => self.ends += 1,
                Output::Event(_) => assert_eq!(self.ends, 0, "an event after the end"),
                Output::Timeout(at) => {
                    assert!(at > self.now, "a deadline lies in the past");
                    assert_eq!(self.bridge.is_ended(), self.ends == 1, "{} ends", self.ends);
                    self.deadline = at;
                    return said;
                }
            }
        }
        panic!("the bridge never comes to rest");
    }

    /// One SSRC per leg for the whole call. Sequence numbers step by one; where a flow relays, gaps of its source stay gaps,
    /// but no number is used twice.
    fn check_stream(&mut self, port: Port, bytes: &[u8]) {
        if classify(bytes) != Class::Rtp {
            return;
        }
        let packet = header::parse(bytes).expect("what leaves is RTP");
        let left = &mut self.left[port.leg as usize];
        let codec = |leg| self.bridge.leg(leg).format().map(|format| format.codec);
        left.relayed |= codec(LegName::A) == codec(LegName::B);
        if let Some(&last) = left.sequences.back() {
            assert_eq!(packet.ssrc, left.ssrc, "a second SSRC");
            if left.relayed {
                assert!(!left.sequences.contains(&packet.sequence), "{} is used twice", packet.sequence);
            } else {
                assert_eq!(packet.sequence, last.wrapping_add(1), "a gap in the stream");
            }
        }
        left.ssrc = packet.ssrc;
        left.sequences.push_back(packet.sequence);
        if left.sequences.len() > SEQUENCES_REMEMBERED {
            left.sequences.pop_front();
        }
    }

    fn drain_peers(&mut self) -> bool {
        let mut said = false;
        for (index, peer) in self.peers.iter_mut().enumerate() {
            let mut out = [0; DATAGRAM_BYTES_MAX];
            let mut steps = 0;
            loop {
                steps += 1;
                assert!(steps < DRAIN_STEPS_MAX, "a peer never comes to rest");
                match peer.leg.poll_output(self.now, &mut out) {
                    LegOutput::Transmit { component, len, .. } => {
                        let from = SocketAddr::new(peer.address.ip(), peer.address.port() + component as u16);
                        let port = Port { leg: leg_name(index as u8), component };
                        self.to_bridge.push_back((port, from, out[..len].to_vec()));
                        said = true;
                    }
                    LegOutput::Event(_) => {}
                    LegOutput::Timeout(at) => break peer.deadline = at.max(self.now.plus_millis(1)),
                }
            }
        }
        said
    }
}

impl Peer {
    fn new(now: Instant, kind: Kind, leg: LegName, codec: Codec, random: &mut Random) -> Peer {
        let webrtc = |ice, versions, random: &mut Random| {
            let config = WebrtcConfig { ice, versions, credentials: None, hold: false, remote: None };
            Leg::Webrtc(Box::new(WebrtcLeg::new(now, config, identity(), ANCHOR, random.fork())))
        };
        Peer {
            leg: match kind {
                Kind::WhatsApp => webrtc(IceRole::Lite, DtlsVersions::V12, random),
                Kind::Browser => webrtc(IceRole::Controlling, DtlsVersions::Auto, random),
                Kind::Rtp => Leg::Rtp(Box::new(RtpLeg::new(now, RtpConfig { remote: None }, ANCHOR, random.fork()))),
            },
            format: mirrored(&format(codec)),
            address: match leg {
                LegName::A => SocketAddr::from(([198, 51, 100, 1], 3_480)),
                other => SocketAddr::from(([203, 0, 113, 4 + other as u8], 30_000)),
            },
            deadline: now,
        }
    }
}

fn leg_name(choice: u8) -> LegName {
    [LegName::A, LegName::B][usize::from(choice & 1)]
}

fn port(choice: u8) -> Port {
    let component = if choice & 2 == 0 { Component::Rtp } else { Component::Rtcp };
    Port { leg: leg_name(choice), component }
}

fn bridge_address(port: Port) -> SocketAddr {
    let base = if port.leg == LegName::A { 10_000 } else { 20_000 };
    SocketAddr::from(([192, 0, 2, 1], base + port.component as u16))
}

fn leg_config(kind: Kind, peer: &Peer, hold: bool, with_remote: bool) -> LegConfig {
    let format = mirrored(&peer.format);
    let (ice, versions, dtls, lite) = match kind {
        Kind::WhatsApp => (IceRole::Controlling, DtlsVersions::V12, DtlsRole::Client, true),
        Kind::Browser => (IceRole::Lite, DtlsVersions::Auto, DtlsRole::Server, false),
        Kind::Rtp => {
            let remote = with_remote.then(|| rtp_remote(peer.address, format));
            return LegConfig::Rtp(RtpConfig { remote });
        }
    };
    let remote = with_remote.then(|| webrtc_remote(&peer.leg.local(), lite, peer.address, dtls, format));
    LegConfig::Webrtc(Box::new(WebrtcConfig { ice, versions, credentials: None, hold, remote }))
}

/// The description of a webrtc leg, for the other side; `dtls` is the role of that other side.
fn webrtc_remote(
    local: &LocalLeg,
    lite: bool,
    address: SocketAddr,
    dtls: DtlsRole,
    format: MediaFormat,
) -> WebrtcRemote {
    let LocalLeg::Webrtc { ufrag, pwd, fingerprint, .. } = local else { panic!("not a webrtc leg") };
    let candidates = vec![Candidate { address, priority: 2_130_706_431 }];
    let ice = IceDescription { ufrag: ufrag.clone(), pwd: pwd.clone(), lite, candidates };
    WebrtcRemote { ice, fingerprint: *fingerprint, dtls, format }
}

fn rtp_remote(address: SocketAddr, format: MediaFormat) -> RtpRemote {
    let rtcp_address = SocketAddr::new(address.ip(), address.port() + 1);
    RtpRemote { address, rtcp_address, rtcp_mux: false, format, sending: true, srtp: None }
}

/// What the bridge negotiated.
fn format(codec: Codec) -> MediaFormat {
    let (payload_type, events) = match codec {
        Codec::Opus => (111, (126, 126)),
        Codec::Pcmu => (0, (101, 96)),
        Codec::Pcma => (8, (101, 96)),
        Codec::G722 => (9, (101, 96)),
    };
    let (send_payload_type, receive_payload_type) = events;
    MediaFormat {
        codec,
        send_payload_type: payload_type,
        receive_payload_type: payload_type,
        opus: OpusParameters::default(),
        telephone_event: Some(EventFormat { send_payload_type, receive_payload_type, clock_rate_hz: 8_000 }),
    }
}

/// The same, seen by the peer.
fn mirrored(format: &MediaFormat) -> MediaFormat {
    MediaFormat {
        send_payload_type: format.receive_payload_type,
        receive_payload_type: format.send_payload_type,
        telephone_event: format.telephone_event.map(|event| EventFormat {
            send_payload_type: event.receive_payload_type,
            receive_payload_type: event.send_payload_type,
            ..event
        }),
        ..*format
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this were not so, the scripts would test a bridge that is not up.
    #[test]
    fn every_kind_of_bridge_comes_up_and_carries_audio_both_ways() {
        for kinds in 0..4 {
            let bytes = [kinds, 0];
            let mut world = World::new(&mut Script::new(&bytes));
            world.settle();
            world.wait(1_000);
            world.talk(&mut Script::new(&[60, 0xa5]));
            let (a, b) = (world.bridge.leg(LegName::A).stats(), world.bridge.leg(LegName::B).stats());
            assert!(a.packets_received >= 50 && b.packets_received >= 50, "{kinds}: {a:?} {b:?}");
            assert!(a.packets_sent >= 20 && b.packets_sent >= 20, "{kinds}: {a:?} {b:?}");
        }
    }
}
