//! One far end of a call: what it says, how it says it, and a strict account of what it hears.
//!
//! A WebRTC end is a real leg of the engine (ICE, DTLS, SRTP) on a socket of the generator's ring; an RTP end writes twelve bytes before
//! a payload. What is heard is checked packet by packet: one SSRC, sequence +1, timestamps on the sample clock, and the tag of each
//! SRTP packet. When a packet came is the kernel's word, not ours.
//!
//! An end has a socket of its own until its call is up, and shares one after that (`crowd`).

use super::corpus::Frames;
use super::ring::{Ring, SocketIndex, real_nanos};
use control::client::webrtc_offerer::{self, AnswerError, offer_of, offerer_config, read_answer};
use control::client::{socket::local_with_port, system_random};
use engine::dtls::{DtlsVersions, Identity};
use engine::ice::IceRole;
use engine::io::clock;
use engine::leg::webrtc::{WebrtcConfig, WebrtcLeg};
use engine::leg::{LegEvent, LegOutput, LocalLeg, Received};
use engine::limits::DATAGRAM_BYTES_MAX;
use engine::prefetch::prefetch;
use engine::rtp::header;
use engine::sdp::{self, Codec, CodecFormat, Direction, OpusParameters, Setup, TelephoneEventFormat, WebrtcLocal};
use engine::time::{Instant, RtpTimestamp, WallAnchor};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

/// Payload types of the full caller's offer.
const OPUS_PAYLOAD_TYPE: u8 = 111;
const EVENT_PAYLOAD_TYPE: u8 = 110;

/// One packet time.
pub const PTIME_NANOS: u64 = 20_000_000;

/// A jump of the sequence number by more is no loss but another stream.
const GAP_MAX: u16 = 1_000;

/// Departures that are remembered, so that a packet finds the one that caused it: 160 ms.
const DEPARTURES: u64 = 8;

/// How an end is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// WhatsApp's relay: ICE-lite, DTLS server.
    Lite,
    /// A browser: full ICE, controlling, DTLS client.
    Full,
    /// Plain RTP.
    Rtp,
    /// Bare datagrams of RTP's size, for the floor.
    Bare,
}

/// What an end says.
#[derive(Clone)]
pub struct Talk {
    /// Coded speech.
    pub frames: Frames,
    /// The next frame.
    pub at: usize,
    /// Its RTP payload type.
    pub payload_type: u8,
    /// RTP ticks per frame.
    pub ticks: u32,
}

/// What a stream's packets were, since the window opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard {
    /// Packets in order.
    pub received: u64,
    /// Sequence numbers that never came.
    pub lost: u64,
    /// Packets behind their successors, or twice.
    pub late: u64,
    /// Timestamps that do not follow the sample clock.
    pub off_clock: u64,
    /// Another SSRC, or a payload type that was not agreed on.
    pub foreign: u64,
}

/// When an end's last packets left, nanoseconds of the real-time clock.
#[derive(Clone, Copy, Default)]
pub struct Departures {
    /// All packets ever.
    count: u64,
    at_nanos: [u64; DEPARTURES as usize],
}

impl Departures {
    fn note(&mut self, at_nanos: u64) {
        self.at_nanos[(self.count % DEPARTURES) as usize] = at_nanos;
        self.count += 1;
    }

    /// When packet `index` left, or the oldest that is remembered: what took so long took at least as long as since then.
    fn of(&self, index: u64) -> Option<u64> {
        let oldest = self.count.saturating_sub(DEPARTURES);
        (index < self.count).then(|| self.at_nanos[(index.max(oldest) % DEPARTURES) as usize])
    }

    /// The last packet that had left by then.
    fn last_before(&self, at_nanos: u64) -> Option<u64> {
        let oldest = self.count.saturating_sub(DEPARTURES);
        (oldest..self.count).rev().find(|index| self.of(*index).is_some_and(|left| left <= at_nanos))
    }
}

/// The account of one received stream.
#[derive(Default)]
pub struct Hear {
    next: Option<(u16, u32, u32)>,
    ticks: u32,
    /// Packet times since the first packet.
    index: u64,
    /// What is to be added to `index` for the packet of the other end that caused one.
    cause: Option<u64>,
    /// Since the window opened.
    pub heard: Heard,
    /// When each packet came, less its place on a perfect 20 ms grid; of stamped ends.
    pub offsets: Vec<i64>,
    /// When each of these came, nanoseconds of the real-time clock.
    pub arrived: Vec<u64>,
    /// From the other end's packet to the one that it caused; of stamped ends.
    pub residences: Vec<u32>,
    /// When each of these was over.
    pub resided: Vec<u64>,
    /// Payloads and their places, of calls that are scored.
    pub recording: Vec<(u64, Vec<u8>)>,
    /// Whether this call is scored.
    pub recorded: bool,
    /// When the very first packet came.
    pub first: Option<Instant>,
}

impl Hear {
    fn packet(&mut self, packet: &header::RtpPacket<'_>, at_nanos: u64, other: &Departures, open: bool, ticks: u32) {
        let place = (packet.sequence, packet.timestamp.0, packet.ssrc);
        let Some((sequence, timestamp, ssrc)) = self.next.filter(|next| next.2 == packet.ssrc) else {
            self.heard.foreign += u64::from(self.next.is_some());
            self.follow(place, 1, ticks);
            return;
        };
        let ahead = packet.sequence.wrapping_sub(sequence);
        if ahead > GAP_MAX {
            self.heard.late += 1;
            return;
        }
        let expected = timestamp.wrapping_add(u32::from(ahead) * self.ticks);
        let heard = &mut self.heard;
        heard.lost += u64::from(ahead);
        heard.received += 1;
        heard.off_clock += u64::from(packet.timestamp.0 != expected);
        self.index += u64::from(ahead) + 1;
        self.follow((packet.sequence, packet.timestamp.0, ssrc), 1, ticks);
        if !open {
            return;
        }
        if at_nanos > 0 {
            self.offsets.push(at_nanos as i64 - (self.index * PTIME_NANOS) as i64);
            self.arrived.push(at_nanos);
            self.reside(at_nanos, other);
        }
        if self.recorded {
            self.recording.push((self.index, packet.payload.to_vec()));
        }
    }

    /// Notes how long a packet's cause was under way. One packet in causes one out, so the distance of their numbers stays; it was
    /// taken for too small where a packet seems to come before its cause.
    fn reside(&mut self, at_nanos: u64, other: &Departures) {
        let since = |cause: u64| at_nanos.checked_sub(other.of(self.index.wrapping_add(cause))?);
        let nanos = self.cause.and_then(since).or_else(|| {
            self.cause = Some(other.last_before(at_nanos)?.wrapping_sub(self.index));
            self.cause.and_then(since)
        });
        if let Some(nanos) = nanos {
            self.residences.push(nanos.min(u64::from(u32::MAX)) as u32);
            self.resided.push(at_nanos);
        }
    }

    fn follow(&mut self, (sequence, timestamp, ssrc): (u16, u32, u32), packets: u16, ticks: u32) {
        self.ticks = ticks;
        self.next = Some((sequence.wrapping_add(packets), timestamp.wrapping_add(ticks), ssrc));
    }

    /// Forgets what was counted so far, and makes room for `packets`.
    pub fn open(&mut self, packets: usize) {
        self.heard = Heard::default();
        self.cause = None;
        self.offsets.clear();
        self.offsets.reserve(packets);
        self.residences.clear();
        self.residences.reserve(packets);
        for times in [&mut self.arrived, &mut self.resided] {
            times.clear();
            times.reserve(packets);
        }
        self.recording.clear();
    }
}

/// Where an end is, and whether what its call's ends hear is stamped.
#[derive(Clone, Copy)]
pub struct Place {
    /// Address and port.
    pub at: SocketAddrV4,
    /// Whether the kernel stamps what comes there.
    pub stamped: bool,
}

enum Link {
    Webrtc { leg: Box<WebrtcLeg>, full: bool },
    Rtp { sequence: u16, timestamp: u32, ssrc: u32 },
    Bare,
}

/// How far ahead of a packet memory is asked for.
#[derive(Clone, Copy)]
pub enum Stage {
    /// Six packets.
    End,
    /// Four packets.
    Leg,
    /// Two packets.
    Keys,
}

impl Stage {
    /// All, and how many packets ahead.
    pub const ALL: [(Stage, usize); 3] = [(Stage::End, 6), (Stage::Leg, 4), (Stage::Keys, 2)];
}

/// One far end. In this order: what it needs to speak are its first two lines.
#[repr(C, align(64))]
pub struct End {
    link: Link,
    /// What it says.
    pub talk: Talk,
    /// Frames sent.
    pub sent: u64,
    deadline: Instant,
    /// Its address and port.
    pub at: SocketAddrV4,
    /// Where it sends to.
    peer: SocketAddrV4,
    /// Whether it may speak.
    pub ready: bool,
    /// Whether its leg has died.
    pub dead: bool,
    /// Whether it has given up its own socket.
    shares: bool,
    /// Whether the kernel stamps what the call's ends hear.
    stamped: bool,
    /// Ticks and payload type of what it hears.
    hears: (u32, u8),
    /// What it hears.
    pub hear: Hear,
    /// When the last frames left, of a stamped call.
    pub departures: Departures,
    /// When it became ready.
    pub ready_at: Option<Instant>,
    /// Its own socket.
    pub socket: SocketIndex,
}

/// What all ends share.
pub struct Common {
    /// The certificate of every WebRTC end.
    pub identity: Identity,
    /// The calendar.
    pub anchor: WallAnchor,
    /// Whether what comes is being measured.
    pub window: bool,
    out: Vec<u8>,
}

impl Common {
    /// A fresh certificate.
    pub fn new() -> anyhow::Result<Common> {
        let identity = Identity::generate().map_err(|_| anyhow::anyhow!("the system gives no key"))?;
        Ok(Common { identity, anchor: clock::wall_anchor(), window: false, out: vec![0; DATAGRAM_BYTES_MAX] })
    }
}

impl End {
    /// Opens one that hears frames of `hears` (RTP ticks, payload type).
    pub fn open(
        ring: &mut Ring,
        common: &Common,
        place: Place,
        shape: Shape,
        talk: Talk,
        hears: (u32, u8),
    ) -> std::io::Result<End> {
        let Place { at, stamped } = place;
        let (socket, _) = ring.open_at(at)?;
        let mut random = system_random();
        let webrtc = |config: WebrtcConfig, full: bool| Link::Webrtc {
            leg: Box::new(WebrtcLeg::new(clock::now(), config, &common.identity, common.anchor, system_random())),
            full,
        };
        let link = match shape {
            Shape::Lite => webrtc(offerer_config(false), false),
            Shape::Full => webrtc(
                WebrtcConfig {
                    ice: IceRole::Controlling,
                    versions: DtlsVersions::V12,
                    credentials: None,
                    hold: false,
                    remote: None,
                },
                true,
            ),
            Shape::Rtp => Link::Rtp {
                sequence: random.next_u32() as u16 & 0x7fff,
                timestamp: random.next_u32(),
                ssrc: random.next_u32(),
            },
            Shape::Bare => Link::Bare,
        };
        Ok(End {
            link,
            talk,
            sent: 0,
            deadline: Instant::NEVER,
            at,
            peer: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
            ready: false,
            dead: false,
            shares: false,
            stamped,
            hears,
            hear: Hear::default(),
            departures: Departures::default(),
            ready_at: None,
            socket,
        })
    }

    /// What a WebRTC end offers; empty for the others.
    pub fn offer(&self) -> String {
        let Link::Webrtc { leg, full, .. } = &self.link else { return String::new() };
        let local = local_with_port(leg.local(), self.at.port());
        let address = IpAddr::V4(*self.at.ip());
        match full {
            true => full_offer(&local, address),
            false => offer_of(&local, &[address], 1_767_225_600_000 + u64::from(self.at.ip().to_bits())),
        }
    }

    /// The gateway's answer to that.
    pub fn answer(
        &mut self,
        now: Instant,
        text: &str,
        ring: &mut Ring,
        common: &mut Common,
    ) -> Result<(), AnswerError> {
        let Link::Webrtc { leg, full, .. } = &mut self.link else { return Ok(()) };
        let (opus, event) = match full {
            true => (OPUS_PAYLOAD_TYPE, EVENT_PAYLOAD_TYPE),
            false => (webrtc_offerer::OPUS_PAYLOAD_TYPE, webrtc_offerer::EVENT_PAYLOAD_TYPE),
        };
        leg.set_remote(now, read_answer(text, opus, event)?);
        self.drain(now, ring, common);
        Ok(())
    }

    /// Where an RTP end or a bare one sends.
    pub fn send_to(&mut self, now: Instant, address: SocketAddrV4) {
        if matches!(self.link, Link::Webrtc { .. }) {
            return;
        }
        self.peer = address;
        self.ready = true;
        self.ready_at = Some(now);
    }

    /// Asks for the memory that a packet needs: of the end itself, then what stands behind that, then its keys.
    pub fn prefetch(&self, stage: Stage, is_received: bool) {
        match (stage, &self.link) {
            (Stage::End, _) => {
                prefetch(&self.link);
                prefetch(&self.peer);
                if is_received {
                    prefetch(&self.hear);
                }
            }
            (Stage::Leg, Link::Webrtc { leg, .. }) if is_received => leg.prefetch_received(),
            (Stage::Leg, link) if !is_received => {
                self.talk.frames.prefetch(self.talk.at);
                if let Link::Webrtc { leg, .. } = link {
                    leg.prefetch_sent();
                }
            }
            (Stage::Keys, Link::Webrtc { leg, .. }) => leg.prefetch_keys(is_received),
            (Stage::Leg | Stage::Keys, _) => {}
        }
    }

    /// From now on it speaks and hears by what all ends share whose calls are up.
    pub fn share(&mut self, ring: &mut Ring) {
        if self.peer.port() != 0 && !self.shares {
            self.shares = ring.leave(self.socket).is_ok();
        }
    }

    /// Takes a datagram. `other`: when the other end of the call spoke. Answers whether it was media; else the end has more to do.
    pub fn arrival(
        &mut self,
        now: Instant,
        (from, at_nanos): (SocketAddrV4, u64),
        datagram: &mut [u8],
        other: &Departures,
        window: bool,
    ) -> bool {
        let (ticks, payload_type) = self.hears;
        let is_peer = from == self.peer || self.peer.port() == 0;
        match &mut self.link {
            Link::Webrtc { leg, .. } => {
                match leg.handle_datagram(now, SocketAddr::V4(from), datagram) {
                    Received::Rtp(packet) => {
                        self.hear.first.get_or_insert(now);
                        self.hear.packet(&packet, at_nanos, other, window, ticks);
                        return true;
                    }
                    Received::Consumed => {}
                    Received::Dropped(_) => self.hear.heard.foreign += u64::from(self.ready),
                }
                false
            }
            Link::Rtp { .. } => {
                match header::parse(datagram) {
                    Ok(packet) if packet.payload_type == payload_type && is_peer => {
                        self.hear.first.get_or_insert(now);
                        self.hear.packet(&packet, at_nanos, other, window, ticks);
                    }
                    _ => self.hear.heard.foreign += 1,
                }
                true
            }
            Link::Bare => {
                self.hear.first.get_or_insert(now);
                self.hear.heard.received += 1;
                self.hear.index += 1;
                if window && at_nanos > 0 {
                    self.hear.reside(at_nanos, other);
                }
                true
            }
        }
    }

    /// Says the next frame.
    pub fn speak(&mut self, now: Instant, ring: &mut Ring, common: &mut Common) {
        if self.deadline <= now {
            self.timeout(now, ring, common);
        }
        if !self.ready || self.dead {
            return;
        }
        let Talk { frames, at, payload_type, ticks } = &mut self.talk;
        let payload = frames.get(*at);
        *at = if *at + 1 == frames.len() { 0 } else { *at + 1 };
        let out = ring.room();
        out[12..12 + payload.len()].copy_from_slice(payload);
        let sent = match &mut self.link {
            Link::Webrtc { leg, .. } => {
                let len = leg.sender().audio(now, *payload_type, self.sent == 0, payload.len(), *ticks, out);
                leg.send(now, out, len).and_then(|(to, len)| Some((v4(to)?, len)))
            }
            Link::Rtp { sequence, timestamp, ssrc } => {
                header::write(self.sent == 0, *payload_type, *sequence, RtpTimestamp(*timestamp), *ssrc, out);
                *sequence = sequence.wrapping_add(1);
                *timestamp = timestamp.wrapping_add(*ticks);
                Some((self.peer, 12 + payload.len()))
            }
            Link::Bare => Some((self.peer, 12 + payload.len())),
        };
        if let Some((to, len)) = sent {
            self.sent += 1;
            if self.stamped {
                self.departures.note(real_nanos());
            }
            self.send_room(to, len, ring);
        }
    }

    /// Queues what was written into the ring's room.
    fn send_room(&self, to: SocketAddrV4, len: usize, ring: &mut Ring) {
        match self.shares {
            true => ring.send_as(self.at, to, len),
            false => ring.send_room(self.socket, Some(to), len),
        }
    }

    /// When it wants its turn.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Call when that has come.
    pub fn timeout(&mut self, now: Instant, ring: &mut Ring, common: &mut Common) {
        if let Link::Webrtc { leg, .. } = &mut self.link {
            leg.handle_timeout(now);
            self.drain(now, ring, common);
        }
    }

    /// Sends what the leg has to say besides media.
    pub fn drain(&mut self, now: Instant, ring: &mut Ring, common: &mut Common) {
        loop {
            let Link::Webrtc { leg, .. } = &mut self.link else { return };
            match leg.poll_output(now, &mut common.out) {
                LegOutput::Transmit { to, len, .. } => {
                    ring.room()[..len].copy_from_slice(&common.out[..len]);
                    v4(to).inspect(|to| self.send_room(*to, len, ring));
                }
                LegOutput::Event(LegEvent::DtlsConnected { .. }) => {
                    self.ready = true;
                    self.ready_at = Some(now);
                }
                LegOutput::Event(LegEvent::IceNominated(SocketAddr::V4(to))) => self.peer = to,
                LegOutput::Event(LegEvent::Ended(_)) => self.dead = true,
                LegOutput::Event(_) => {}
                LegOutput::Timeout(at) => {
                    self.deadline = at;
                    return;
                }
            }
        }
    }
}

fn v4(address: SocketAddr) -> Option<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    }
}

/// What a browser would say, cut down to one host candidate.
fn full_offer(local: &LocalLeg, address: IpAddr) -> String {
    let LocalLeg::Webrtc { ufrag, pwd, fingerprint, ssrc, port } = local else { return String::new() };
    let opus = OpusParameters { min_ptime_ms: Some(10), use_inband_fec: true, ..OpusParameters::default() };
    sdp::write_webrtc_offer(
        &WebrtcLocal {
            addresses: vec![address],
            port: *port,
            ufrag: ufrag.clone(),
            pwd: pwd.clone(),
            lite: false,
            fingerprint: *fingerprint,
            setup: Setup::ActPass,
            ssrc: *ssrc,
            codec: CodecFormat { codec: Codec::Opus, payload_type: OPUS_PAYLOAD_TYPE, opus },
            telephone_event: Some(TelephoneEventFormat { payload_type: EVENT_PAYLOAD_TYPE, clock_rate_hz: 8_000 }),
            session_id: u64::from(*ssrc),
            session_version: 1,
            direction: Direction::SendRecv,
        },
        "0",
        &[],
        &[],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn packet(sequence: u16, timestamp: u32) -> header::RtpPacket<'static> {
        let mut bytes = [0; 13];
        header::write(false, 0, sequence, RtpTimestamp(timestamp), 7, &mut bytes);
        header::parse(bytes.to_vec().leak()).unwrap()
    }

    /// The other end has spoken every 20 ms, so often.
    fn spoken(times: u64) -> Departures {
        let mut departures = Departures::default();
        (0..times).for_each(|index| departures.note(1_000 * MS + index * PTIME_NANOS));
        departures
    }

    #[test]
    fn a_packet_kept_for_longer_than_a_packet_time_is_seen_to_be() {
        let mut hear = Hear::default();
        // Half a millisecond each, but the fifth 24 ms and the sixth, behind it, 4.
        for (index, late) in [500, 500, 500, 500, 24_000, 4_500].into_iter().enumerate() {
            let at = 1_000 * MS + index as u64 * PTIME_NANOS + late * 1_000;
            // What came is looked at when the other end has spoken once more.
            hear.packet(&packet(index as u16, index as u32 * 160), at, &spoken(index as u64 + 2), true, 160);
        }
        // The first says where the stream begins.
        assert_eq!(hear.residences, [500_000, 500_000, 500_000, 24_000_000, 4_500_000]);
        assert_eq!((hear.heard.received, hear.heard.lost, hear.heard.off_clock), (5, 0, 0));
    }

    #[test]
    fn a_cause_that_was_taken_for_too_early_is_corrected() {
        let mut hear = Hear::default();
        // The first two are late by 30 ms, which looks like 10.
        for (index, late) in [30, 30, 1, 1].into_iter().enumerate() {
            let at = 1_000 * MS + index as u64 * PTIME_NANOS + late * MS;
            hear.packet(&packet(index as u16, index as u32 * 160), at, &spoken(8), true, 160);
        }
        assert_eq!(hear.residences, [10 * MS as u32, MS as u32, MS as u32]);
    }

    #[test]
    fn what_is_older_than_all_that_is_remembered_took_at_least_as_long() {
        let departures = spoken(20);
        assert_eq!(departures.of(3), departures.of(12));
        assert_eq!(departures.of(20), None);
        assert_eq!(departures.last_before(1_000 * MS + 15 * PTIME_NANOS + 1), Some(15));
        assert_eq!(departures.last_before(1_000 * MS), None);
    }

    #[test]
    fn gaps_late_packets_and_jumps_of_the_clock_are_counted() {
        let mut hear = Hear::default();
        for (sequence, timestamp) in [(1, 160), (2, 320), (5, 800), (4, 640), (6, 961)] {
            hear.packet(&packet(sequence, timestamp), 0, &Departures::default(), true, 160);
        }
        let Heard { received, lost, late, off_clock, foreign } = hear.heard;
        assert_eq!((received, lost, late, off_clock, foreign), (3, 2, 1, 1, 0));
        assert!(hear.offsets.is_empty(), "no stamp, no place in time");
    }
}
