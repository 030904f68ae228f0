//! A whole call without sockets: one bridge, the far ends of its legs, and what both say, made beforehand.
//!
//! ```text
//!  Call::set_up ── ICE, DTLS between bridge and far ends in virtual time ──> Call
//!  Call::prepare ── both ends speak once: protected datagrams ──> Frame ──> Call::carry (this alone is measured) ──> datagrams out
//! ```
//!
//! Benches and the count of instructions share it. Why the far ends are legs of the engine: their cost stays outside of what is
//! measured, and the bridge cannot tell.

use engine::bridge::{Bridge, BridgeConfig, LegConfig, LegName, Output, Passed, Port, Shared};
use engine::demux::{Class, classify};
use engine::dtls::{DtlsRole, DtlsVersions, Identity};
use engine::ice::IceRole;
use engine::leg::rtp::{RtpConfig, RtpLeg, RtpRemote};
use engine::leg::webrtc::{WebrtcConfig, WebrtcLeg, WebrtcRemote};
use engine::leg::{Component, Leg, LegOutput, LocalLeg, MediaFormat};
use engine::limits::DATAGRAM_BYTES_MAX;
use engine::media::g711::Law;
use engine::metrics::Metrics;
use engine::random::Random;
use engine::sdp::{Candidate, Codec, IceDescription, OpusParameters};
use engine::time::{Instant, WallAnchor};
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

const CALLER: &[u8] = include_bytes!("../control/standin/speech/caller-16k.wav");
const ANCHOR: WallAnchor = WallAnchor { ntp_at_zero: 0xe000_0000_0000_0000 };

/// Virtual time that a set-up may take.
const SET_UP_MS_MAX: u64 = 5_000;

/// Samples of the caller's recording, 16 kHz.
pub fn speech_16k() -> Vec<i16> {
    let data = CALLER.windows(4).position(|window| window == b"data").expect("a WAV file") + 8;
    CALLER[data..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// The same at 8 kHz: every other sample is good enough for what only costs time.
pub fn speech_8k() -> Vec<i16> {
    speech_16k().chunks_exact(2).map(|pair| ((i32::from(pair[0]) + i32::from(pair[1])) / 2) as i16).collect()
}

/// Frames that an end repeats: three seconds, since coding more would take longer than all that is measured under valgrind.
const PACKETS: usize = 150;

/// Wideband Opus at 20 kbit/s, one packet per 20 ms.
pub fn opus_packets() -> &'static [Vec<u8>] {
    static PACKETS_MADE: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    PACKETS_MADE.get_or_init(code_opus)
}

fn code_opus() -> Vec<Vec<u8>> {
    let mut encoder = opus::Encoder::new(16_000, opus::Channels::Mono, opus::Application::Voip).expect("a known mode");
    encoder.set_bitrate(opus::Bitrate::Bits(20_000)).expect("a known rate");
    let speech = speech_16k();
    speech
        .chunks_exact(320)
        .take(PACKETS)
        .map(|frame| encoder.encode_vec(frame, 1_276).expect("a whole frame"))
        .collect()
}

/// mu-law, one packet per 20 ms.
pub fn pcmu_packets() -> &'static [Vec<u8>] {
    static PACKETS_MADE: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    PACKETS_MADE.get_or_init(code_pcmu)
}

fn code_pcmu() -> Vec<Vec<u8>> {
    let code = |frame: &[i16]| {
        let mut bytes = vec![0; frame.len()];
        Law::Mu.encode(frame, &mut bytes);
        bytes
    };
    speech_8k().chunks_exact(160).take(PACKETS).map(code).collect()
}

/// Every so many frames the far ends hear audio: 20 s.
const LISTEN_FRAMES: usize = 1_000;

/// How a leg is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Toward WhatsApp: we are full, controlling and DTLS client. Opus.
    WhatsApp,
    /// Toward a browser: we are lite and DTLS server. Opus.
    Browser,
    /// Plain RTP.
    Rtp(Codec),
}

impl Kind {
    fn codec(self) -> Codec {
        match self {
            Kind::WhatsApp | Kind::Browser => Codec::Opus,
            Kind::Rtp(codec) => codec,
        }
    }
}

/// What both ends said in one packet time.
pub struct Frame {
    now: Instant,
    datagrams: [(Vec<u8>, SocketAddr); 2],
}

/// A far end.
struct Far {
    leg: Leg,
    address: SocketAddr,
    packets: &'static [Vec<u8>],
    payload_type: u8,
    ticks: u32,
    deadline: Instant,
}

/// A call that is up.
pub struct Call {
    bridge: Bridge,
    ends: [Far; 2],
    metrics: Metrics,
    out: Box<[u8]>,
    spoken: usize,
    now: Instant,
    deadline: Instant,
    /// Datagrams that left the bridge.
    pub sent: u64,
    /// Per leg, what left the bridge last that its far end must hear: a check, a report, now and then audio.
    unheard: [(Vec<u8>, Component); 2],
}

impl Call {
    /// Brings a call up.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn set_up(a: Kind, b: Kind) -> Call {
        let mut random = Random::from_test_seed(1);
        let now = Instant::from_millis(1_000);
        let identity = Identity::generate().expect("the system gives a key");
        let shared = Shared { identity, anchor: ANCHOR };
        let ends = [Far::new(now, a, 0, &mut random), Far::new(now, b, 1, &mut random)];
        let config = BridgeConfig { a: ends[0].our_side(a), b: ends[1].our_side(b) };
        let bridge = Bridge::open(now, config, &shared, random.fork());
        let out = vec![0; DATAGRAM_BYTES_MAX].into_boxed_slice();
        let metrics = Metrics::default();
        let unheard = [0, 1].map(|_| (Vec::with_capacity(DATAGRAM_BYTES_MAX), Component::Rtp));
        let mut call = Call { bridge, ends, metrics, out, spoken: 0, now, deadline: now, sent: 0, unheard };
        for (index, kind) in [a, b].into_iter().enumerate() {
            let local = call.bridge.local(leg_name(index));
            call.ends[index].meet(now, kind, &local, bridge_address(index));
        }
        while !call.is_up() {
            assert!(call.now < now.plus_millis(SET_UP_MS_MAX), "no set-up in virtual time");
            call.now = call.now.plus_millis(1);
            call.exchange();
        }
        call
    }

    fn is_up(&self) -> bool {
        self.ends.iter().all(|end| end.leg.can_send())
            && [LegName::A, LegName::B].iter().all(|leg| self.bridge.leg(*leg).can_send())
    }

    /// Whatever anybody has to say arrives at once.
    fn exchange(&mut self) {
        let now = self.now;
        for index in 0..2 {
            if self.ends[index].deadline <= now {
                self.ends[index].leg.handle_timeout(now);
            }
            while let Some(mut datagram) = self.ends[index].next_datagram(now) {
                let from = self.ends[index].address;
                self.bridge.handle_datagram(now, port(index), from, &mut datagram, &mut self.metrics);
            }
        }
        self.bridge.handle_timeout(now);
        loop {
            match self.bridge.poll_output(now, &mut self.out, &mut self.metrics) {
                Output::Transmit { port, len, .. } => {
                    let (index, from) = (port.leg as usize, bridge_address(port.leg as usize));
                    let datagram = &mut self.out[..len];
                    let _ = self.ends[index].leg.handle_datagram(now, port.component, from, datagram);
                }
                Output::Event(_) => {}
                Output::Timeout(at) => {
                    self.deadline = at;
                    return;
                }
            }
        }
    }

    /// Lets both ends speak once, 20 ms after the last time.
    pub fn prepare(&mut self) -> Frame {
        self.now = self.now.plus_millis(20);
        self.keep_alive();
        let (now, spoken) = (self.now, self.spoken);
        self.spoken += 1;
        let datagrams = self.ends.each_mut().map(|end| (end.speak(now, spoken), end.address));
        Frame { now, datagrams }
    }

    /// Checks and reports between the far ends and the bridge, every few seconds: without them the legs would lose consent.
    fn keep_alive(&mut self) {
        let now = self.now;
        for (index, end) in self.ends.iter_mut().enumerate() {
            let (datagram, component) = &mut self.unheard[index];
            if !datagram.is_empty() {
                let _ = end.leg.handle_datagram(now, *component, bridge_address(index), datagram);
                datagram.clear();
                end.deadline = now;
            }
        }
        if self.ends.iter().any(|end| end.deadline <= now) {
            self.exchange();
        }
    }

    /// Carries one packet time both ways: what is measured. Answers how many datagrams left.
    #[inline(never)]
    pub fn carry(&mut self, frame: &mut Frame) -> u64 {
        let before = self.sent;
        for (index, (datagram, from)) in frame.datagrams.iter_mut().enumerate() {
            let (now, out, metrics) = (frame.now, &mut self.out, &mut self.metrics);
            let passed = self.bridge.pass_datagram(now, port(index), *from, datagram, out, metrics);
            if let Some(Passed { port, len, .. }) = passed {
                self.note_sent(port, len);
            }
            if !passed.is_some_and(|passed| passed.is_all) {
                self.drain(now);
            }
        }
        // What is played out has its own time.
        let end = frame.now.plus_millis(20);
        while self.deadline < end {
            let now = self.deadline;
            self.bridge.handle_timeout(now);
            self.drain(now);
        }
        self.sent - before
    }

    /// Notes that the first `len` bytes of `out` leave. Audio is heard only as often as it takes to be no dead leg: rare, and outside of any
    /// mean.
    fn note_sent(&mut self, port: Port, len: usize) {
        self.sent += 1;
        if self.spoken.is_multiple_of(LISTEN_FRAMES) || classify(&self.out[..len]) != Class::Rtp {
            let (datagram, component) = &mut self.unheard[port.leg as usize];
            *component = port.component;
            datagram.clear();
            datagram.extend_from_slice(&self.out[..len]);
        }
    }

    fn drain(&mut self, now: Instant) {
        loop {
            match self.bridge.poll_output(now, &mut self.out, &mut self.metrics) {
                Output::Transmit { port, len, .. } => self.note_sent(port, len),
                Output::Event(_) => {}
                Output::Timeout(at) => {
                    self.deadline = at;
                    return;
                }
            }
        }
    }
}

impl Far {
    fn new(now: Instant, kind: Kind, index: u8, random: &mut Random) -> Far {
        let identity = Identity::generate().expect("the system gives a key");
        let webrtc = |ice: IceRole, random: &mut Random| {
            let versions = DtlsVersions::V12;
            let config = WebrtcConfig { ice, versions, credentials: None, hold: false, remote: None };
            Leg::Webrtc(Box::new(WebrtcLeg::new(now, config, &identity, ANCHOR, random.fork())))
        };
        let leg = match kind {
            Kind::WhatsApp => webrtc(IceRole::Lite, random),
            Kind::Browser => webrtc(IceRole::Controlling, random),
            Kind::Rtp(_) => Leg::Rtp(Box::new(RtpLeg::new(now, RtpConfig { remote: None }, ANCHOR, random.fork()))),
        };
        let opus = kind.codec() == Codec::Opus;
        Far {
            leg,
            address: SocketAddr::new(IpAddr::from([198, 51, 100, index]), 30_000),
            packets: if opus { opus_packets() } else { pcmu_packets() },
            payload_type: format(kind).send_payload_type,
            ticks: if opus { 960 } else { 160 },
            deadline: now,
        }
    }

    /// How the bridge opens its leg toward this end.
    fn our_side(&self, kind: Kind) -> LegConfig {
        let format = format(kind);
        let (ice, dtls, lite) = match kind {
            Kind::WhatsApp => (IceRole::Controlling, DtlsRole::Client, true),
            Kind::Browser => (IceRole::Lite, DtlsRole::Server, false),
            Kind::Rtp(_) => return LegConfig::Rtp(RtpConfig { remote: Some(rtp_remote(self.address, format)) }),
        };
        let (ice_remote, fingerprint) = ice_of(&self.leg.local(), lite, self.address);
        let remote = Some(WebrtcRemote { ice: ice_remote, fingerprint, dtls, format });
        let versions = DtlsVersions::V12;
        LegConfig::Webrtc(Box::new(WebrtcConfig { ice, versions, credentials: None, hold: false, remote }))
    }

    /// Learns of the bridge's leg.
    fn meet(&mut self, now: Instant, kind: Kind, local: &LocalLeg, address: SocketAddr) {
        let format = format(kind);
        match &mut self.leg {
            Leg::Webrtc(leg) => {
                let (dtls, lite) = match kind {
                    Kind::WhatsApp => (DtlsRole::Server, false),
                    _ => (DtlsRole::Client, true),
                };
                let (ice, fingerprint) = ice_of(local, lite, address);
                leg.set_remote(now, WebrtcRemote { ice, fingerprint, dtls, format });
            }
            Leg::Rtp(leg) => leg.set_remote(now, rtp_remote(address, format)),
        }
    }

    fn next_datagram(&mut self, now: Instant) -> Option<Vec<u8>> {
        let mut out = [0; DATAGRAM_BYTES_MAX];
        loop {
            match self.leg.poll_output(now, &mut out) {
                LegOutput::Transmit { len, .. } => return Some(out[..len].to_vec()),
                LegOutput::Event(_) => {}
                LegOutput::Timeout(at) => {
                    self.deadline = at;
                    return None;
                }
            }
        }
    }

    fn speak(&mut self, now: Instant, spoken: usize) -> Vec<u8> {
        let payload = &self.packets[spoken % self.packets.len()];
        let mut packet = vec![0; DATAGRAM_BYTES_MAX];
        packet[12..12 + payload.len()].copy_from_slice(payload);
        let len = self.leg.sender().audio(now, self.payload_type, spoken == 0, payload.len(), self.ticks, &mut packet);
        let (_, len) = self.leg.send(now, &mut packet, len).expect("a leg that is up");
        packet.truncate(len);
        packet
    }
}

fn format(kind: Kind) -> MediaFormat {
    let payload_type = match kind.codec() {
        Codec::Opus => 111,
        Codec::Pcma => 8,
        _ => 0,
    };
    MediaFormat {
        codec: kind.codec(),
        send_payload_type: payload_type,
        receive_payload_type: payload_type,
        opus: OpusParameters::default(),
        telephone_event: None,
    }
}

fn ice_of(local: &LocalLeg, lite: bool, address: SocketAddr) -> (IceDescription, engine::sdp::Fingerprint) {
    let LocalLeg::Webrtc { ufrag, pwd, fingerprint, .. } = local else { panic!("not a webrtc leg") };
    let candidates = vec![Candidate { address, priority: 2_130_706_431 }];
    (IceDescription { ufrag: ufrag.clone(), pwd: pwd.clone(), lite, candidates }, *fingerprint)
}

fn rtp_remote(address: SocketAddr, format: MediaFormat) -> RtpRemote {
    let rtcp_address = SocketAddr::new(address.ip(), address.port() + 1);
    RtpRemote { address, rtcp_address, rtcp_mux: false, format, sending: true, srtp: None }
}

fn leg_name(index: usize) -> LegName {
    [LegName::A, LegName::B][index]
}

fn port(index: usize) -> Port {
    Port { leg: leg_name(index), component: Component::Rtp }
}

fn bridge_address(index: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::from([192, 0, 2, 1]), 10_000 + index as u16 * 1_000)
}
