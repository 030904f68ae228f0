//! The bridge in virtual time, and the endpoint behind it.

use crate::Point;
use crate::reference::{Packets, endpoint};
use engine::bridge::{Bridge, BridgeConfig, LegConfig, LegName, Output, PlayoutStats, Port, Shared};
use engine::demux::{self, Class};
use engine::dtls::Identity;
use engine::leg::rtp::{RtpConfig, RtpRemote};
use engine::leg::{Component, MediaFormat};
use engine::limits::DATAGRAM_BYTES_MAX;
use engine::media::decode::{DECODED_SAMPLES_MAX, Decoder};
use engine::media::encode::FRAME_SAMPLES;
use engine::metrics::Metrics;
use engine::random::Random;
use engine::rtp::header;
use engine::sdp::{Codec, OpusParameters};
use engine::time::{Instant, RtpTimestamp, WallAnchor};
use std::net::SocketAddr;

/// When the bridge opens, and when the first packet is sent: no multiple of a packet time after it.
const OPEN_MS: u64 = 1_000;
const FIRST_NANOS: u64 = 1_507_300_000;

/// What a receiver of Opus says of itself, as WhatsApp does.
pub const RECEIVER: OpusParameters = OpusParameters {
    max_average_bitrate: Some(20_000),
    max_playback_rate_hz: None,
    max_capture_rate_hz: None,
    min_ptime_ms: None,
    use_inband_fec: true,
    use_dtx: false,
    stereo: false,
};

/// How often the endpoint reports what it lost.
const REPORT_SECONDS: u16 = 5;

/// What the endpoint waits before it plays the first packet that it gets.
const ENDPOINT_NANOS: u64 = 60_000_000;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    OpusToPcmu,
    PcmuToOpus,
    /// The network lies behind the gateway: the receiver loses packets, and reports it.
    PcmuToLossyOpus,
}

impl Direction {
    pub fn source(self) -> Codec {
        match self {
            Direction::OpusToPcmu => Codec::Opus,
            Direction::PcmuToOpus | Direction::PcmuToLossyOpus => Codec::Pcmu,
        }
    }

    fn exit(self) -> Codec {
        match self {
            Direction::OpusToPcmu => Codec::Pcmu,
            Direction::PcmuToOpus | Direction::PcmuToLossyOpus => Codec::Opus,
        }
    }
}

/// What the endpoint played.
pub struct Heard {
    /// 8 kHz. The first sample belongs to the instant `begins_ms` after the first packet was sent, the endpoint's wait left out.
    pub pcm: Vec<i16>,
    pub begins_ms: f64,
    /// When each frame of 20 ms left the bridge, ms after the first packet was sent.
    pub left_ms: Vec<f64>,
    /// Frames that came too late for the endpoint.
    pub late: usize,
}

/// What the bridge counted.
pub struct Figures {
    pub concealed: u64,
    pub playout: Option<PlayoutStats>,
    pub redundant: u64,
    pub packets: usize,
}

fn address(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], port))
}

fn leg(codec: Codec, host: u8) -> LegConfig {
    let payload_type = match codec {
        Codec::Opus => 111,
        _ => 0,
    };
    let format = MediaFormat {
        codec,
        send_payload_type: payload_type,
        receive_payload_type: payload_type,
        opus: RECEIVER,
        telephone_event: None,
    };
    let remote = RtpRemote {
        address: address(host, 4_000),
        rtcp_address: address(host, 4_001),
        rtcp_mux: false,
        format,
        sending: true,
        srtp: None,
    };
    LegConfig::Rtp(RtpConfig { remote: Some(remote) })
}

/// Sends the packets into leg A as the network lets them arrive; answers what is heard behind leg B.
pub fn play(point: &Point, sent: &Packets, flights: &[Option<u64>]) -> (Heard, Figures) {
    let before = point.direction != Direction::PcmuToLossyOpus;
    let mut arrivals: Vec<(u64, usize)> = flights
        .iter()
        .map(|flight| if before { *flight } else { Some(0) })
        .enumerate()
        .filter(|(index, _)| sent[*index].is_some())
        .filter_map(|(index, flight)| Some((FIRST_NANOS + point.network.sent_nanos(index) + flight? * 1_000, index)))
        .collect();
    arrivals.sort_unstable();
    let shared =
        Shared { identity: Identity::generate().expect("a certificate"), anchor: WallAnchor { ntp_at_zero: 1 << 63 } };
    let config = BridgeConfig { a: leg(point.direction.source(), 1), b: leg(point.direction.exit(), 2) };
    let mut now = Instant::from_millis(OPEN_MS);
    let mut world = World {
        bridge: Bridge::open(now, config, &shared, Random::from_test_seed(7)),
        metrics: Metrics::default(),
        endpoint: Endpoint {
            lost: if before { Vec::new() } else { flights.iter().map(Option::is_none).collect() },
            ..Endpoint::default()
        },
        deadline: now,
        kept_alive: 0,
    };
    // Of concealment alone: PCMU, which the bridge encodes here, knows no effort.
    if point.direction == Direction::OpusToPcmu {
        world.bridge.set_complexity(if point.networks { 5 } else { 0 });
    }
    world.drain(now);
    let end = Instant::from_nanos(FIRST_NANOS + point.network.sent_nanos(sent.len()) + 500_000_000);
    // Sequence numbers count packets that were sent, timestamps count time: a pause shows in these alone.
    let mut sequences = vec![0u16; sent.len()];
    let mut sequence = 65_000u16;
    for (index, packet) in sent.iter().enumerate() {
        sequences[index] = sequence;
        sequence = sequence.wrapping_add(u16::from(packet.is_some()));
    }
    let mut arrivals = arrivals.into_iter().peekable();
    while now < end {
        let arrival = arrivals.peek().map_or(Instant::NEVER, |&(at, _)| Instant::from_nanos(at));
        now = arrival.min(world.deadline).max(now);
        if arrival <= now {
            let (_, index) = arrivals.next().expect("it was peeked at");
            world.receive(
                now,
                point.direction.source(),
                index,
                sequences[index],
                sent[index].as_deref().unwrap_or_default(),
            );
        } else {
            world.bridge.handle_timeout(now);
        }
        world.keep_alive(now, point.direction.exit());
        world.drain(now);
    }
    let stats = world.bridge.stats();
    let figures = Figures {
        playout: stats.playout,
        concealed: stats.concealed_from_a,
        redundant: stats.redundant_to_b,
        packets: world.endpoint.packets.len(),
    };
    (world.endpoint.played(point.direction.exit()), figures)
}

struct World {
    bridge: Bridge,
    metrics: Metrics,
    endpoint: Endpoint,
    deadline: Instant,
    /// Packets that the endpoint sent.
    kept_alive: u16,
}

impl World {
    /// The endpoint says something every second: a leg that hears nothing for a minute is dead.
    fn keep_alive(&mut self, now: Instant, codec: Codec) {
        if now.as_millis() / 1_000 <= u64::from(self.kept_alive) {
            return;
        }
        self.kept_alive += 1;
        let payload_type = if codec == Codec::Opus { 111 } else { 0 };
        let mut packet = [0xff; header::HEADER_BYTES + 160];
        let timestamp = RtpTimestamp(u32::from(self.kept_alive) * codec.clock_rate_hz());
        header::write(false, payload_type, self.kept_alive, timestamp, 99, &mut packet);
        let port = Port { leg: LegName::B, component: Component::Rtp };
        self.bridge.handle_datagram(now, port, address(2, 4_000), &mut packet, &mut self.metrics);
        if self.kept_alive.is_multiple_of(REPORT_SECONDS)
            && let Some(mut report) = self.endpoint.report()
        {
            let port = Port { leg: LegName::B, component: Component::Rtcp };
            self.bridge.handle_datagram(now, port, address(2, 4_001), &mut report, &mut self.metrics);
        }
    }

    fn receive(&mut self, now: Instant, codec: Codec, index: usize, sequence: u16, payload: &[u8]) {
        let (payload_type, ticks) = if codec == Codec::Opus { (111, 960) } else { (0, 160) };
        let mut packet = vec![0; header::HEADER_BYTES + payload.len()];
        header::write(index == 0, payload_type, sequence, RtpTimestamp(index as u32 * ticks), 77, &mut packet);
        packet[header::HEADER_BYTES..].copy_from_slice(payload);
        let port = Port { leg: LegName::A, component: Component::Rtp };
        self.bridge.handle_datagram(now, port, address(1, 4_000), &mut packet, &mut self.metrics);
    }

    fn drain(&mut self, now: Instant) {
        let mut out = [0; DATAGRAM_BYTES_MAX];
        loop {
            match self.bridge.poll_output(now, &mut out, &mut self.metrics) {
                Output::Transmit { port, len, .. } => {
                    if port.leg == LegName::B && demux::classify(&out[..len]) == Class::Rtp {
                        self.endpoint.hear(now, &out[..len]);
                    }
                }
                Output::Event(_) => {}
                Output::Timeout(at) => {
                    self.deadline = at;
                    return;
                }
            }
        }
    }
}

/// A far end with a fixed buffer.
#[derive(Default)]
struct Endpoint {
    packets: Vec<(Instant, u16, u32, Vec<u8>)>,
    /// Packets that the network behind the gateway loses, by when they were sent.
    lost: Vec<bool>,
    ssrc: u32,
    /// Since the last report: packets expected, and those of them that were lost.
    expected: u32,
    missing: u32,
}

impl Endpoint {
    fn hear(&mut self, now: Instant, bytes: &[u8]) {
        let packet = header::parse(bytes).expect("a packet of the bridge");
        let place = (now.as_nanos() as i64 - FIRST_NANOS as i64).div_euclid(20_000_000);
        let is_lost = usize::try_from(place).is_ok_and(|place| self.lost.get(place).is_some_and(|lost| *lost));
        self.ssrc = packet.ssrc;
        self.expected += 1;
        self.missing += u32::from(is_lost);
        let payload = if is_lost { Vec::new() } else { packet.payload.to_vec() };
        self.packets.push((now, packet.sequence, packet.timestamp.0, payload));
    }

    /// A receiver report (RFC 3550 §6.4.2) of what was lost since the last; none before anything came.
    fn report(&mut self) -> Option<Vec<u8>> {
        let &(_, highest, ..) = self.packets.last()?;
        let fraction = (self.missing * 256 / self.expected.max(1)).min(255);
        (self.expected, self.missing) = (0, 0);
        let words = [0x81c9_0007, 99, self.ssrc, fraction << 24, u32::from(highest), 0, 0, 0];
        Some(words.into_iter().flat_map(u32::to_be_bytes).collect())
    }

    /// Plays each packet 60 ms behind the first, by its timestamp; what is later than that is concealed.
    fn played(&self, codec: Codec) -> Heard {
        let &(first_at, _, first_timestamp, _) = self.packets.first().expect("the bridge speaks from the beginning");
        let ticks = codec.clock_rate_hz() / 50;
        let frames = self.packets.iter().map(|packet| packet.2.wrapping_sub(first_timestamp) / ticks).max().unwrap_or(0)
            as usize
            + 1;
        let mut slots: Vec<Option<&[u8]>> = vec![None; frames];
        let after_first = |at: Instant| (at.as_nanos() as f64 - FIRST_NANOS as f64) / 1e6;
        let mut left_ms = vec![f64::NAN; frames];
        let mut late = 0;
        for (at, _, timestamp, payload) in &self.packets {
            let frame = (timestamp.wrapping_sub(first_timestamp) / ticks) as usize;
            left_ms[frame] = after_first(*at);
            let due = first_at.as_nanos() + ENDPOINT_NANOS + frame as u64 * 20_000_000;
            if payload.is_empty() {
                continue;
            }
            if at.as_nanos() <= due {
                slots[frame] = Some(payload);
            } else {
                late += 1;
            }
        }
        let pcm = match codec {
            Codec::Opus => {
                let mut decoder = endpoint();
                let mut frame = [0; FRAME_SAMPLES];
                let mut pcm = Vec::new();
                for (index, slot) in slots.iter().enumerate() {
                    let next = slots.get(index + 1).copied().flatten();
                    let (packet, fec) = match (slot, next) {
                        (Some(packet), _) => (*packet, false),
                        (None, Some(next)) => (next, true),
                        (None, None) => (&[][..], false),
                    };
                    decoder.decode(packet, &mut frame, fec).expect("a packet of the bridge");
                    pcm.extend_from_slice(&frame);
                }
                pcm
            }
            _ => {
                let mut decoder = Decoder::new(codec);
                let mut pcm = Vec::new();
                for slot in slots {
                    let mut out = [0; DECODED_SAMPLES_MAX];
                    let samples = match slot {
                        Some(payload) => decoder.decode(payload, &mut out).expect("a packet of the bridge"),
                        None => decoder.conceal(&mut out),
                    };
                    pcm.extend_from_slice(&out[..samples]);
                }
                pcm
            }
        };
        Heard { pcm, begins_ms: after_first(first_at), left_ms, late }
    }
}
