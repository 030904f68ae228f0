//! A bridge, the peers of its two legs, and a seeded network between them, in virtual time.
//!
//! The peers are bare legs of this crate: real ICE, real DTLS, real SRTP. Time jumps to the next deadline or arrival.
#![allow(dead_code, reason = "each test binary uses its part")]

use engine::bridge::{
    Bridge, BridgeCommand, BridgeConfig, BridgeEvent, BridgeStats, LegConfig, LegName, LegRemote, Output, Passed, Port,
    Shared,
};
use engine::demux::{self, Class};
use engine::dtls::{DtlsRole, DtlsVersions, Identity};
use engine::error::{Cause, DropReason, End, Side};
use engine::ice::IceRole;
use engine::leg::rtp::{RtpConfig, RtpLeg, RtpRemote};
use engine::leg::webrtc::{WebrtcConfig, WebrtcLeg, WebrtcRemote};
use engine::leg::{Component, EventFormat, Leg, LegEvent, LegOutput, LocalLeg, MediaFormat, Received};
use engine::limits::DATAGRAM_BYTES_MAX;
use engine::media::decode::Decoder;
use engine::media::encode::{Encoder, FRAME_SAMPLES};
use engine::metrics::Metrics;
use engine::random::Random;
use engine::rtp::telephone_event::{Digit, EventSender};
use engine::sdp::{Candidate, Codec, IceDescription, OpusParameters};
use engine::srtp::{MASTER_BYTES_MAX, MasterKey, SrtpKeys, SrtpProfile};
use engine::time::{Duration, Instant, RtpTimestamp, WallAnchor};
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;

thread_local! {
    /// Whether the bridge is at work: an allocator that counts looks here.
    pub static IN_BRIDGE: Cell<bool> = const { Cell::new(false) };
}

fn in_bridge<T>(work: impl FnOnce() -> T) -> T {
    IN_BRIDGE.set(true);
    let result = work();
    IN_BRIDGE.set(false);
    result
}

const ANCHOR: WallAnchor = WallAnchor { ntp_at_zero: 0xe000_0000_0000_0000 };

/// How a leg is set up, seen from the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The peer offers, lite and DTLS server: we are controlling and DTLS client, DTLS 1.2.
    WhatsApp(Codec),
    /// The peer offers, full and controlling, DTLS client: we are lite and DTLS server, any version.
    Browser(Codec),
    /// Plain RTP.
    Rtp(Codec),
    /// SRTP with keys from descriptions.
    Sdes(Codec, SrtpProfile),
}

impl Kind {
    pub fn codec(self) -> Codec {
        match self {
            Kind::WhatsApp(codec) | Kind::Browser(codec) | Kind::Rtp(codec) | Kind::Sdes(codec, _) => codec,
        }
    }
}

/// What a link does to datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub loss_pct: u32,
    pub duplicate_pct: u32,
    pub jitter_ms: u32,
    /// Nothing passes.
    pub is_cut: bool,
    /// No DTLS passes.
    pub drops_dtls: bool,
}

/// One RTP packet that a peer heard.
#[derive(Clone, Debug)]
pub struct Heard {
    pub at: Instant,
    pub payload_type: u8,
    pub sequence: u16,
    pub timestamp: RtpTimestamp,
    pub ssrc: u32,
    pub marker: bool,
    pub payload: Vec<u8>,
}

/// One RTP packet that left the bridge, as its header in the clear shows it.
#[derive(Clone, Copy, Debug)]
pub struct Left {
    pub at: Instant,
    pub to: SocketAddr,
    pub payload_type: u8,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    pub marker: bool,
}

/// What a peer says every packet time.
pub enum Speech {
    Nothing,
    /// Packets of digital silence.
    Silence,
    /// A sine at this frequency.
    Tone(f64),
    /// A payload per packet, by its number.
    Payloads(fn(u64) -> Vec<u8>),
}

/// The far end of a leg.
pub struct Peer {
    pub leg: Leg,
    pub address: SocketAddr,
    pub speech: Speech,
    /// Length of its packets.
    pub ptime_ms: u64,
    /// Clock error in parts per million: positive is fast.
    pub drift_ppm: i64,
    pub keys: EventSender,
    pub heard: Vec<Heard>,
    pub rtcp_heard: u64,
    pub events: Vec<(Instant, LegEvent)>,
    encoder: Encoder,
    codec: Codec,
    started: Option<Instant>,
    spoken: u64,
    phase: f64,
    deadline: Instant,
    name: LegName,
}

/// A datagram on its way: when it arrives, a number that keeps order, where to, where from.
type Flying = (Instant, u64, Place, SocketAddr, Vec<u8>);

/// Everything.
pub struct World {
    pub now: Instant,
    pub bridge: Bridge,
    pub metrics: Metrics,
    pub peers: [Peer; 2],
    /// Peer A to bridge, bridge to peer A, and the same for B.
    pub links: [Faults; 4],
    pub events: Vec<(Instant, BridgeEvent)>,
    /// RTP that left the bridge, per leg.
    pub left: [Vec<Left>; 2],
    /// RTCP that left the bridge, per leg.
    pub rtcp_left: [u64; 2],
    /// The worker's look at its sockets comes about once a second: until then strangers reach the bridge.
    pub hears_strangers: bool,
    pub deadline: Instant,
    random: Random,
    wire: BinaryHeap<Reverse<Flying>>,
    count: u64,
}

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Bridge(u8, u8),
    Peer(u8, u8),
}

pub fn bridge_address(port: Port) -> SocketAddr {
    let base = if port.leg == LegName::A { 10_000 } else { 20_000 };
    SocketAddr::from(([192, 0, 2, 1], base + port.component as u16))
}

fn peer_address(leg: LegName) -> SocketAddr {
    match leg {
        LegName::A => SocketAddr::from(([198, 51, 100, 1], 3_480)),
        other => SocketAddr::from(([203, 0, 113, 4 + other as u8], 30_000)),
    }
}

/// What the bridge negotiated for a leg; numbers differ per direction where they may.
pub fn format(codec: Codec) -> MediaFormat {
    let (payload_type, events) = match codec {
        Codec::Opus => (111, (126, 126)),
        Codec::Pcmu => (0, (101, 96)),
        Codec::Pcma => (8, (101, 96)),
        Codec::G722 => (9, (101, 96)),
    };
    MediaFormat {
        codec,
        send_payload_type: payload_type,
        receive_payload_type: payload_type,
        opus: OpusParameters { use_inband_fec: true, ..OpusParameters::default() },
        telephone_event: Some(EventFormat {
            send_payload_type: events.0,
            receive_payload_type: events.1,
            clock_rate_hz: 8_000,
        }),
    }
}

/// The same, seen by the peer.
pub fn mirrored(format: &MediaFormat) -> MediaFormat {
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

pub fn ice_of(local: &LocalLeg, lite: bool, address: SocketAddr) -> (IceDescription, engine::sdp::Fingerprint) {
    let LocalLeg::Webrtc { ufrag, pwd, fingerprint, .. } = local else { panic!("not a webrtc leg") };
    let candidates = vec![Candidate { address, priority: 2_130_706_431 }];
    (IceDescription { ufrag: ufrag.clone(), pwd: pwd.clone(), lite, candidates }, *fingerprint)
}

pub fn rtp_remote(address: SocketAddr, format: MediaFormat) -> RtpRemote {
    let rtcp_address = SocketAddr::new(address.ip(), address.port() + 1);
    RtpRemote { address, rtcp_address, rtcp_mux: false, format, sending: true, srtp: None }
}

/// The keys of an SDES leg of the bridge, as its and its peer's first descriptions have them.
fn sdes_keys(kind: Kind, leg: LegName) -> Option<SrtpKeys> {
    let Kind::Sdes(_, profile) = kind else { return None };
    let seed = 2 * leg as u8 + 1;
    Some(SrtpKeys { profile, local: master_key(seed), remote: master_key(seed + 1) })
}

pub fn master_key(seed: u8) -> MasterKey {
    let mut bytes = [0; MASTER_BYTES_MAX];
    Random::from_test_seed(u64::from(seed)).fill(&mut bytes);
    MasterKey { bytes }
}

/// The same keys, seen by the peer.
pub fn reversed(keys: SrtpKeys) -> SrtpKeys {
    SrtpKeys { profile: keys.profile, local: keys.remote, remote: keys.local }
}

impl World {
    /// Opens a bridge; leg A's peer has offered, leg B's answer comes with `answer_b`.
    pub fn new(seed: u64, a: Kind, b: Kind, hold: bool) -> World {
        World::with(seed, a, b, hold, |_| {})
    }

    /// The same, with a word on the configuration.
    pub fn with(seed: u64, a: Kind, b: Kind, hold: bool, change: impl FnOnce(&mut BridgeConfig)) -> World {
        let mut random = Random::from_test_seed(seed);
        let now = Instant::from_millis(1_000);
        let identity = Identity::generate_for_simulation(seed).unwrap();
        let shared = Shared { identity, anchor: ANCHOR };
        let peers = [Peer::new(now, a, LegName::A, &mut random), Peer::new(now, b, LegName::B, &mut random)];
        let mut config =
            BridgeConfig { a: leg_config(a, &peers[0], hold, true), b: leg_config(b, &peers[1], false, false) };
        change(&mut config);
        // What it is handed is its own from here on.
        let bridge = in_bridge(|| Bridge::open(now, config.clone(), &shared, random.fork()));
        let mut world = World {
            now,
            bridge,
            metrics: Metrics::default(),
            peers,
            links: [Faults::default(); 4],
            events: Vec::new(),
            hears_strangers: false,
            left: [Vec::new(), Vec::new()],
            rtcp_left: [0; 2],
            deadline: now,
            random,
            wire: BinaryHeap::new(),
            count: 0,
        };
        world.answer_peer(LegName::A, a);
        world.drain_all();
        world
    }

    /// A call that is up: both legs described, nothing held, half a second old.
    pub fn connected(seed: u64, a: Kind, b: Kind) -> World {
        let mut world = World::new(seed, a, b, false);
        world.answer_b(b);
        world.run_ms(1_000);
        world
    }

    /// Gives the peer our half.
    fn answer_peer(&mut self, leg: LegName, kind: Kind) {
        let address = bridge_address(Port { leg, component: Component::Rtp });
        let local = self.bridge.local(leg);
        let now = self.now;
        let format = mirrored(&format(kind.codec()));
        match (&mut self.peers[leg as usize].leg, kind) {
            (Leg::Webrtc(peer), Kind::WhatsApp(_)) => {
                let (ice, fingerprint) = ice_of(&local, false, address);
                let Leg::Webrtc(ours) = self.bridge.leg(leg) else { panic!("a webrtc leg") };
                let dtls = match ours.dtls_role() {
                    Some(DtlsRole::Server) => DtlsRole::Client,
                    _ => DtlsRole::Server,
                };
                peer.set_remote(now, WebrtcRemote { ice, fingerprint, dtls, format });
            }
            (Leg::Webrtc(peer), _) => {
                let (ice, fingerprint) = ice_of(&local, true, address);
                peer.set_remote(now, WebrtcRemote { ice, fingerprint, dtls: DtlsRole::Client, format });
            }
            (Leg::Rtp(peer), kind) => {
                let srtp = sdes_keys(kind, leg).map(reversed);
                peer.set_remote(now, RtpRemote { srtp, ..rtp_remote(address, format) });
            }
        }
    }

    /// Leg B's peer has answered.
    pub fn answer_b(&mut self, kind: Kind) {
        self.answer_peer(LegName::B, kind);
        let remote = match leg_config(kind, &self.peers[1], false, true) {
            LegConfig::Webrtc(config) => LegRemote::Webrtc(config.remote.unwrap()),
            LegConfig::Rtp(config) => LegRemote::Rtp(config.remote.unwrap()),
        };
        self.command(BridgeCommand::SetRemote { leg: LegName::B, remote: Box::new(remote) });
    }

    pub fn command(&mut self, command: BridgeCommand) {
        let now = self.now;
        in_bridge(|| self.bridge.handle_command(now, command.clone()));
        self.drain_all();
    }

    pub fn run_ms(&mut self, millis: u64) {
        let end = self.now.plus_millis(millis);
        while self.step(end) {}
        self.now = end;
        self.drain_all();
    }

    /// Goes to the next thing that happens, unless that is after `end`.
    fn step(&mut self, end: Instant) -> bool {
        let wire = self.wire.peek().map_or(Instant::NEVER, |Reverse(item)| item.0);
        let peers = self.peers.iter().map(|peer| peer.deadline.min(peer.speaks_at())).min().unwrap();
        let next = wire.min(peers).min(self.deadline).max(self.now);
        if next > end {
            return false;
        }
        self.now = next;
        while self.wire.peek().is_some_and(|Reverse(item)| item.0 <= next) {
            let Reverse((_, _, end, from, bytes)) = self.wire.pop().unwrap();
            self.deliver(end, from, bytes);
        }
        if self.deadline <= next {
            in_bridge(|| self.bridge.handle_timeout(next));
        }
        for index in 0..2 {
            if self.peers[index].deadline <= next {
                self.peers[index].leg.handle_timeout(next);
            }
            while self.peers[index].speaks_at() <= next {
                for packet in self.peers[index].speak(next) {
                    let address = self.peers[index].address;
                    let port = Port { leg: leg_name(index), component: Component::Rtp };
                    self.send_to_bridge(port, address, packet);
                }
            }
        }
        self.drain_all();
        true
    }

    fn deliver(&mut self, end: Place, from: SocketAddr, mut bytes: Vec<u8>) {
        let now = self.now;
        match end {
            Place::Bridge(leg, component) => {
                let port = Port { leg: leg_name(usize::from(leg)), component: component_name(component) };
                // A worker connects the socket of a leg with one peer: the kernel keeps all others from it.
                let only = self.bridge.fixed_peer(now, port.leg).filter(|_| port.component == Component::Rtp);
                if only.is_some_and(|peer| peer != from) && !self.hears_strangers {
                    return;
                }
                let (mut out, metrics) = ([0; DATAGRAM_BYTES_MAX], &mut self.metrics);
                let passed = in_bridge(|| self.bridge.pass_datagram(now, port, from, &mut bytes, &mut out, metrics));
                if let Some(Passed { port, to, len, .. }) = passed {
                    self.transmitted(port, to, out[..len].to_vec());
                }
                if passed.is_some_and(|passed| passed.is_all) {
                    // A worker does not ask: it must have nothing to be told.
                    let told = self.bridge.poll_output(now, &mut out, &mut self.metrics);
                    assert_eq!(told, Output::Timeout(self.deadline));
                } else {
                    self.drain_bridge();
                }
            }
            Place::Peer(leg, component) => {
                self.peers[usize::from(leg)].hear(now, component_name(component), from, &mut bytes);
                self.drain_peer(usize::from(leg));
            }
        }
    }

    /// Puts a datagram on the wire toward the bridge.
    pub fn send_to_bridge(&mut self, port: Port, from: SocketAddr, bytes: Vec<u8>) {
        self.travel(2 * port.leg as usize, Place::Bridge(port.leg as u8, port.component as u8), from, bytes);
    }

    fn travel(&mut self, link: usize, end: Place, from: SocketAddr, bytes: Vec<u8>) {
        let faults = self.links[link];
        let copies = 1 + u32::from(self.random.below(100) < faults.duplicate_pct);
        for _ in 0..copies {
            let is_dropped = faults.drops_dtls && demux::classify(&bytes) == Class::Dtls;
            if faults.is_cut || is_dropped || self.random.below(100) < faults.loss_pct {
                continue;
            }
            let delay_us = 10_000 + self.random.below(faults.jitter_ms * 1_000 + 1);
            self.count += 1;
            let at = self.now + Duration::from_micros(u64::from(delay_us));
            self.wire.push(Reverse((at, self.count, end, from, bytes.clone())));
        }
    }

    pub fn drain_all(&mut self) {
        self.drain_bridge();
        self.drain_peer(0);
        self.drain_peer(1);
    }

    fn drain_bridge(&mut self) {
        let mut out = [0; DATAGRAM_BYTES_MAX];
        let now = self.now;
        loop {
            match in_bridge(|| self.bridge.poll_output(now, &mut out, &mut self.metrics)) {
                Output::Transmit { port, to, len } => self.transmitted(port, to, out[..len].to_vec()),
                Output::Event(event) => self.events.push((now, event)),
                Output::Timeout(at) => {
                    assert!(at > now, "a deadline in the past after a drain");
                    self.deadline = at;
                    return;
                }
            }
        }
    }

    fn transmitted(&mut self, port: Port, to: SocketAddr, bytes: Vec<u8>) {
        let leg = port.leg as usize;
        match demux::classify(&bytes) {
            Class::Rtp => self.left[leg].push(Left {
                at: self.now,
                to,
                payload_type: bytes[1] & 0x7f,
                marker: bytes[1] & 0x80 != 0,
                sequence: u16::from_be_bytes(bytes[2..4].try_into().unwrap()),
                timestamp: u32::from_be_bytes(bytes[4..8].try_into().unwrap()),
                ssrc: u32::from_be_bytes(bytes[8..12].try_into().unwrap()),
            }),
            Class::Rtcp => self.rtcp_left[leg] += 1,
            _ => {}
        }
        let peer = self.peers[leg].address;
        if to.ip() == peer.ip() {
            let component = if to.port() == peer.port() { Component::Rtp } else { Component::Rtcp };
            self.travel(2 * leg + 1, Place::Peer(leg as u8, component as u8), bridge_address(port), bytes);
        }
    }

    fn drain_peer(&mut self, index: usize) {
        let mut out = [0; DATAGRAM_BYTES_MAX];
        loop {
            match self.peers[index].leg.poll_output(self.now, &mut out) {
                LegOutput::Transmit { component, len, .. } => {
                    let port = Port { leg: leg_name(index), component };
                    let base = self.peers[index].address;
                    let from = SocketAddr::new(base.ip(), base.port() + component as u16);
                    self.send_to_bridge(port, from, out[..len].to_vec());
                }
                LegOutput::Event(event) => self.peers[index].events.push((self.now, event)),
                LegOutput::Timeout(at) => {
                    self.peers[index].deadline = at.max(self.now.plus_millis(1));
                    return;
                }
            }
        }
    }

    /// How the bridge ended, if it did; it ends once.
    pub fn ended(&self) -> Option<(End, BridgeStats)> {
        let mut ends = self.events.iter().filter_map(|(_, event)| match event {
            BridgeEvent::Ended { end, stats } => Some((*end, *stats)),
            _ => None,
        });
        let end = ends.next();
        assert!(ends.next().is_none(), "two ends");
        assert!(end.is_none() || matches!(self.events.last(), Some((_, BridgeEvent::Ended { .. }))));
        end
    }

    #[track_caller]
    pub fn assert_ended(&self, side: Side, cause: Cause) {
        let (end, _) = self.ended().expect("the bridge has not ended");
        assert_eq!(end, End { side, cause });
        assert!(self.bridge.is_ended());
        assert_eq!(self.deadline, Instant::NEVER);
    }

    pub fn has_leg_event(&self, leg: LegName, wanted: LegEvent) -> usize {
        let wanted = BridgeEvent::Leg { leg, event: wanted };
        self.events.iter().filter(|(_, event)| *event == wanted).count()
    }

    pub fn digits(&self, leg: LegName) -> String {
        let digit = |(_, event): &(Instant, BridgeEvent)| match event {
            BridgeEvent::Digit { leg: from, digit, .. } if *from == leg => Some(digit.as_char()),
            _ => None,
        };
        self.events.iter().filter_map(digit).collect()
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.metrics.dropped[reason as usize]
    }

    /// Every packet of ours steps sequence by one, and timestamps follow the sample clock: `ticks` per packet, a key's
    /// packets taking the place of audio. One SSRC.
    #[track_caller]
    pub fn assert_continuous(&self, leg: LegName, ticks: u32) {
        let left = &self.left[leg as usize];
        let audio = format_of(&self.bridge, leg).send_payload_type;
        let mut clock: Option<u32> = None;
        for (index, packet) in left.iter().enumerate() {
            if let Some(before) = index.checked_sub(1).map(|before| left[before]) {
                assert_eq!(packet.sequence, before.sequence.wrapping_add(1), "packet {index}");
                assert_eq!(packet.ssrc, before.ssrc, "packet {index}");
            }
            match clock {
                Some(at) if packet.payload_type == audio => {
                    assert_eq!(packet.timestamp, at, "packet {index} at {:?}", packet.at)
                }
                _ => {}
            }
            let at = clock.unwrap_or(packet.timestamp);
            clock = Some(at.wrapping_add(ticks));
        }
        assert!(left.len() > 10, "too few packets to tell");
    }

    /// How much of what the peer of `leg` heard since `since` is a tone of `hz`: 0 to 1, of the energy.
    pub fn tone_share(&self, leg: LegName, hz: f64, since: Instant) -> f64 {
        let peer = &self.peers[leg as usize];
        let pcm = peer.decode_heard(since);
        tone_share(&pcm.0, pcm.1, hz)
    }
}

fn format_of(bridge: &Bridge, leg: LegName) -> MediaFormat {
    *bridge.leg(leg).format().unwrap()
}

pub fn leg_name(index: usize) -> LegName {
    [LegName::A, LegName::B][index]
}

fn component_name(index: u8) -> Component {
    [Component::Rtp, Component::Rtcp][usize::from(index)]
}

/// Our side of a leg toward `peer`.
fn leg_config(kind: Kind, peer: &Peer, hold: bool, with_remote: bool) -> LegConfig {
    let format = format(kind.codec());
    let (ice, versions, dtls, lite) = match kind {
        Kind::WhatsApp(_) => (IceRole::Controlling, DtlsVersions::V12, DtlsRole::Client, true),
        Kind::Browser(_) => (IceRole::Lite, DtlsVersions::Auto, DtlsRole::Server, false),
        Kind::Rtp(_) | Kind::Sdes(..) => {
            let srtp = sdes_keys(kind, peer.name);
            let remote = with_remote.then(|| RtpRemote { srtp, ..rtp_remote(peer.address, format) });
            return LegConfig::Rtp(RtpConfig { remote });
        }
    };
    let (description, fingerprint) = ice_of(&peer.leg.local(), lite, peer.address);
    let remote = with_remote.then_some(WebrtcRemote { ice: description, fingerprint, dtls, format });
    LegConfig::Webrtc(Box::new(WebrtcConfig { ice, versions, credentials: None, hold, remote }))
}

impl Peer {
    fn new(now: Instant, kind: Kind, leg: LegName, random: &mut Random) -> Peer {
        let webrtc = |ice, versions, random: &mut Random| {
            let config = WebrtcConfig { ice, versions, credentials: None, hold: false, remote: None };
            let identity = Identity::generate_for_simulation(random.next_u64()).unwrap();
            Leg::Webrtc(Box::new(WebrtcLeg::new(now, config, &identity, ANCHOR, random.fork())))
        };
        let codec = kind.codec();
        Peer {
            leg: match kind {
                Kind::WhatsApp(_) => webrtc(IceRole::Lite, DtlsVersions::V12, random),
                Kind::Browser(_) => webrtc(IceRole::Controlling, DtlsVersions::Auto, random),
                Kind::Rtp(_) | Kind::Sdes(..) => {
                    Leg::Rtp(Box::new(RtpLeg::new(now, RtpConfig { remote: None }, ANCHOR, random.fork())))
                }
            },
            address: peer_address(leg),
            speech: Speech::Nothing,
            ptime_ms: 20,
            drift_ppm: 0,
            keys: EventSender::new(8_000),
            heard: Vec::new(),
            rtcp_heard: 0,
            events: Vec::new(),
            encoder: Encoder::new(codec, &OpusParameters::default()),
            codec,
            started: None,
            spoken: 0,
            phase: 0.0,
            deadline: Instant::ZERO,
            name: leg,
        }
    }

    /// Begins to speak now; `speech` may be changed at any time.
    pub fn start(&mut self, now: Instant, speech: Speech) {
        self.speech = speech;
        self.started = Some(now);
        self.spoken = 0;
    }

    pub fn press(&mut self, digits: &str) {
        for digit in digits.chars() {
            assert!(self.keys.press(Digit::from_char(digit).unwrap(), 100));
        }
    }

    fn speaks_at(&self) -> Instant {
        let Some(started) = self.started else { return Instant::NEVER };
        let nanos = self.spoken * self.ptime_ms * 1_000_000;
        let drift = nanos as i128 * i128::from(self.drift_ppm) / 1_000_000;
        Instant::from_nanos((i128::from(started.as_nanos()) + i128::from(nanos) - drift) as u64)
    }

    fn speak(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let number = self.spoken;
        self.spoken += 1;
        if !self.leg.can_send() {
            return Vec::new();
        }
        let format = *self.leg.format().unwrap();
        let ticks = format.codec.clock_rate_hz() / 1_000 * self.ptime_ms as u32;
        let mut packet = vec![0; DATAGRAM_BYTES_MAX];
        let at = self.leg.sender().timestamp();
        let len = if let Some(event) = self.keys.next(at) {
            packet[12..16].copy_from_slice(&event.payload);
            let payload_type = format.telephone_event.unwrap().send_payload_type;
            let len = self.leg.sender().event(now, payload_type, event.marker, 4, event.timestamp, &mut packet);
            self.leg.sender().skip(ticks);
            len
        } else {
            let payload = match &self.speech {
                Speech::Nothing => {
                    self.leg.sender().skip(ticks);
                    return Vec::new();
                }
                Speech::Payloads(payload) => payload(number),
                Speech::Silence => self.sound(0.0, 0.0),
                Speech::Tone(hz) => {
                    let hz = *hz;
                    self.sound(hz, 8_000.0)
                }
            };
            packet[12..12 + payload.len()].copy_from_slice(&payload);
            self.leg.sender().audio(now, format.send_payload_type, number == 0, payload.len(), ticks, &mut packet)
        };
        let (_, len) = self.leg.send(now, &mut packet, len).unwrap();
        packet.truncate(len);
        vec![packet]
    }

    fn sound(&mut self, hz: f64, amplitude: f64) -> Vec<u8> {
        let rate_hz = self.encoder.sample_rate_hz();
        let mut pcm = vec![0; self.ptime_ms as usize * rate_hz as usize / 1_000];
        for sample in &mut pcm {
            *sample = (self.phase.sin() * amplitude) as i16;
            self.phase += core::f64::consts::TAU * hz / f64::from(rate_hz);
        }
        let mut payload = vec![0; 4_000];
        let mut len = 0;
        if matches!(self.codec, Codec::Opus | Codec::G722) {
            assert_eq!(self.ptime_ms, 20);
            len = self.encoder.encode(&pcm, &mut payload);
        } else {
            // G.711 has no frames: any length can be encoded in pieces, the last one padded.
            for piece in pcm.chunks(FRAME_SAMPLES) {
                let mut frame = [0; FRAME_SAMPLES];
                frame[..piece.len()].copy_from_slice(piece);
                self.encoder.encode(&frame, &mut payload[len..]);
                len += piece.len();
            }
        }
        payload.truncate(len);
        payload
    }

    fn hear(&mut self, now: Instant, component: Component, from: SocketAddr, bytes: &mut [u8]) {
        if demux::classify(bytes) == Class::Rtcp {
            self.rtcp_heard += 1;
        }
        if let Received::Rtp(packet) = self.leg.handle_datagram(now, component, from, bytes) {
            self.heard.push(Heard {
                at: now,
                payload_type: packet.payload_type,
                sequence: packet.sequence,
                timestamp: packet.timestamp,
                ssrc: packet.ssrc,
                marker: packet.marker,
                payload: packet.payload.to_vec(),
            });
        }
    }

    /// Samples of what was heard since `since`, and their rate.
    pub fn decode_heard(&self, since: Instant) -> (Vec<f64>, u32) {
        let mut decoder = Decoder::new(self.codec);
        let audio = self.leg.format().unwrap().receive_payload_type;
        let mut pcm = Vec::new();
        let mut out = [0; 1_920];
        // In the order they were sent: what a jitter buffer would do.
        let mut packets: Vec<_> = self.heard.iter().filter(|heard| heard.payload_type == audio).collect();
        let first = packets.first().map_or(0, |heard| heard.sequence);
        packets.sort_by_key(|heard| heard.sequence.wrapping_sub(first) as i16);
        packets.dedup_by_key(|heard| heard.sequence);
        for heard in packets {
            let samples = decoder.decode(&heard.payload, &mut out).unwrap();
            if heard.at >= since {
                pcm.extend(out[..samples].iter().map(|&sample| f64::from(sample)));
            }
        }
        (pcm, decoder.sample_rate_hz())
    }

    /// Digits heard, by the timestamps of their events.
    pub fn digits_heard(&self) -> String {
        let events = self.leg.format().unwrap().telephone_event.unwrap().receive_payload_type;
        let mut seen = Vec::new();
        let mut digits = String::new();
        for heard in self.heard.iter().filter(|heard| heard.payload_type == events) {
            if !seen.contains(&heard.timestamp) {
                seen.push(heard.timestamp);
                digits.push(Digit::from_event(heard.payload[0]).unwrap().as_char());
            }
        }
        digits
    }
}

/// Share of the energy that lies at `hz`, measured in windows of 40 ms so that a change of phase does not hide it.
pub fn tone_share(pcm: &[f64], rate_hz: u32, hz: f64) -> f64 {
    let window = rate_hz as usize / 25;
    let (mut tone, mut total) = (0.0, 0.0);
    for samples in pcm.chunks_exact(window) {
        let step = core::f64::consts::TAU * hz / f64::from(rate_hz);
        let (mut re, mut im, mut energy) = (0.0, 0.0, 0.0);
        for (index, sample) in samples.iter().enumerate() {
            re += sample * (step * index as f64).cos();
            im += sample * (step * index as f64).sin();
            energy += sample * sample;
        }
        tone += 2.0 * (re * re + im * im) / window as f64;
        total += energy;
    }
    // Silence is no tone.
    if total < pcm.len() as f64 * 100.0 { 0.0 } else { tone / total }
}
