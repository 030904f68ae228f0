//! The sender's packets, and what could be made of them.
//!
//! *Oracle*: every packet that ever arrived, decoded in order with in-band FEC wherever the next one arrived, libopus's concealment
//! elsewhere, no deadline. *Naive*: what has not come 60 ms after it was sent is concealed, FEC is not used.

use crate::gateway::{Direction, RECEIVER};
use engine::media::decode::{DECODED_SAMPLES_MAX, Decoder};
use engine::media::encode::{ENCODED_BYTES_MAX, Encoder, FRAME_SAMPLES};
use engine::media::resample::Decimator;
use engine::sdp::{Codec, OpusParameters};
use opus::{Application, Bandwidth, Bitrate, Channels};

/// The Opus sender: libopus 1.6.1, 16 kHz mono, wideband, VoIP, complexity 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// 20 kbit/s with in-band FEC, which makes it fall back to a narrow band.
    Fec20,
    /// 20 kbit/s without redundancy.
    Plain20,
    /// 32 kbit/s with in-band FEC.
    Fec32,
    /// 32 kbit/s with a fifth of a second of deep redundancy.
    Dred32,
}

impl Sender {
    /// In words, for the table.
    pub fn describe(self) -> String {
        let how = match self {
            Sender::Fec20 => "20 kbit/s, complexity 9, in-band FEC at 10 % expected loss",
            Sender::Plain20 => "20 kbit/s, complexity 9, no FEC",
            Sender::Fec32 => "32 kbit/s, complexity 9, in-band FEC at 10 % expected loss",
            Sender::Dred32 => "32 kbit/s, complexity 9, DRED of 200 ms at 10 % expected loss, no FEC",
        };
        format!("libopus 1.6.1, 16 kHz mono, wideband, VoIP, {how}")
    }
}

#[cfg(feature = "deep-plc")]
#[path = "../../engine/tests/dred/mod.rs"]
mod dred;

/// The delay of the naive reference.
const NAIVE_US: u64 = 60_000;

/// One packet of 20 ms per element; `None` where the sender pauses (DTX).
pub type Packets = Vec<Option<Vec<u8>>>;

/// What the sender makes of the speech.
pub fn packets(direction: Direction, wide: &[i16], sender: Sender, dtx: bool) -> Packets {
    match direction {
        #[cfg(feature = "deep-plc")]
        Direction::OpusToPcmu if sender == Sender::Dred32 => {
            let mut encoder = dred::DredEncoder::new(32_000, 20, 10);
            wide.chunks_exact(320).map(|frame| Some(encoder.encode(frame))).collect()
        }
        Direction::OpusToPcmu => opus_packets(wide, sender, dtx),
        Direction::PcmuToOpus | Direction::PcmuToLossyOpus => {
            let mut encoder = Encoder::new(Codec::Pcmu, &OpusParameters::default());
            halved(wide).chunks_exact(FRAME_SAMPLES).map(|frame| Some(encoded(&mut encoder, frame))).collect()
        }
    }
}

fn opus_packets(wide: &[i16], sender: Sender, dtx: bool) -> Packets {
    let mut encoder =
        opus::Encoder::new(16_000, Channels::Mono, Application::Voip).expect("16 kHz mono is a mode of libopus");
    let mut configure = || -> opus::Result<()> {
        encoder.set_bitrate(Bitrate::Bits(if sender == Sender::Fec32 { 32_000 } else { 20_000 }))?;
        encoder.set_bandwidth(Bandwidth::Wideband)?;
        encoder.set_complexity(9)?;
        let is_redundant = sender != Sender::Plain20;
        encoder.set_inband_fec(is_redundant)?;
        encoder.set_packet_loss_perc(if is_redundant { 10 } else { 0 })?;
        encoder.set_dtx(dtx)
    };
    configure().expect("every setting is one that libopus has");
    let mut packet = |frame: &[i16]| encoder.encode_vec(frame, 1_276).expect("a frame of 20 ms can be encoded");
    // libopus says by a packet of one or two bytes that there is nothing to send.
    wide.chunks_exact(320).map(|frame| Some(packet(frame)).filter(|packet| packet.len() > 2)).collect()
}

/// To 8 kHz, 1.6 ms of the filter's delay taken out again.
pub fn halved(wide: &[i16]) -> Vec<i16> {
    let mut padded = wide.to_vec();
    padded.extend([0; 24]);
    let mut out = vec![0; padded.len() / 2];
    Decimator::new().resample(&padded, &mut out);
    out[12..].to_vec()
}

fn encoded(encoder: &mut Encoder, frame: &[i16]) -> Vec<u8> {
    let mut payload = [0; ENCODED_BYTES_MAX];
    let len = encoder.encode(frame, &mut payload);
    payload[..len].to_vec()
}

/// Through the law and back.
fn through_pcmu(pcm: &[i16]) -> Vec<i16> {
    let (mut encoder, mut decoder) = (Encoder::new(Codec::Pcmu, &OpusParameters::default()), Decoder::new(Codec::Pcmu));
    let mut heard = Vec::new();
    for frame in pcm.chunks_exact(FRAME_SAMPLES) {
        let mut out = [0; DECODED_SAMPLES_MAX];
        let samples = decoder.decode(&encoded(&mut encoder, frame), &mut out).expect("a frame of ours");
        heard.extend_from_slice(&out[..samples]);
    }
    heard
}

/// Through the gateway's encoder, and an endpoint's decoder, which misses what is not here.
fn through_opus(pcm: &[i16], expected_loss_pct: u8, is_here: &dyn Fn(usize) -> bool) -> Vec<i16> {
    let (mut encoder, mut decoder) = (Encoder::new(Codec::Opus, &RECEIVER), endpoint());
    encoder.set_expected_loss(expected_loss_pct);
    let packets: Vec<Vec<u8>> = pcm.chunks_exact(FRAME_SAMPLES).map(|frame| encoded(&mut encoder, frame)).collect();
    let mut heard = Vec::new();
    for (index, packet) in packets.iter().enumerate() {
        let mut out = [0; FRAME_SAMPLES];
        let next = packets.get(index + 1).filter(|_| is_here(index + 1));
        let (packet, fec) = match next {
            _ if is_here(index) => (&packet[..], false),
            Some(next) => (&next[..], true),
            None => (&[][..], false),
        };
        decoder.decode(packet, &mut out, fec).expect("a frame of ours");
        heard.extend_from_slice(&out);
    }
    heard
}

/// The decoder of an endpoint, at 8 kHz.
pub fn endpoint() -> opus::Decoder {
    opus::Decoder::new(8_000, Channels::Mono).expect("8 kHz mono is a mode of libopus")
}

/// Every packet that ever arrived. Behind the gateway: an encoder that knows the loss from the first packet.
pub fn oracle(direction: Direction, sent: &Packets, flights: &[Option<u64>]) -> Vec<i16> {
    if direction == Direction::PcmuToLossyOpus {
        let lost = flights.iter().filter(|flight| flight.is_none()).count();
        let pct = (lost * 100).div_ceil(flights.len().max(1)) as u8;
        return lossy(sent, flights, if pct >= 3 { pct } else { 0 });
    }
    reference(direction, sent, &|index| flights[index].is_some(), true)
}

/// A fixed buffer without FEC.
pub fn naive(direction: Direction, sent: &Packets, flights: &[Option<u64>]) -> Vec<i16> {
    if direction == Direction::PcmuToLossyOpus {
        return lossy(sent, flights, 0);
    }
    reference(direction, sent, &|index| flights[index].is_some_and(|flight| flight <= NAIVE_US), false)
}

/// Nothing lost.
pub fn clean(direction: Direction, sent: &Packets) -> Vec<i16> {
    reference(direction, sent, &|_| true, false)
}

fn lossy(sent: &Packets, flights: &[Option<u64>], expected_loss_pct: u8) -> Vec<i16> {
    let pcm = decoded(Direction::PcmuToLossyOpus, sent, &|_| true, false);
    through_opus(&pcm, expected_loss_pct, &|index| flights.get(index).is_none_or(Option::is_some))
}

fn reference(direction: Direction, sent: &Packets, is_here: &dyn Fn(usize) -> bool, uses_fec: bool) -> Vec<i16> {
    let pcm = decoded(direction, sent, is_here, uses_fec);
    match direction {
        Direction::OpusToPcmu => through_pcmu(&halved(&pcm)),
        Direction::PcmuToOpus | Direction::PcmuToLossyOpus => through_opus(&pcm, 0, &|_| true),
    }
}

fn decoded(direction: Direction, sent: &Packets, is_here: &dyn Fn(usize) -> bool, uses_fec: bool) -> Vec<i16> {
    let source = direction.source();
    let mut decoder = Decoder::new(source);
    // Both references are libopus without networks, whatever is linked.
    decoder.set_complexity(0);
    let mut pcm = Vec::new();
    for (index, packet) in sent.iter().enumerate() {
        let mut out = [0; DECODED_SAMPLES_MAX];
        let next = sent.get(index + 1).and_then(Option::as_ref).filter(|_| uses_fec && is_here(index + 1));
        let samples = match (packet, next) {
            (Some(packet), _) if is_here(index) => decoder.decode(packet, &mut out).expect("a packet of the sender"),
            (Some(_), Some(next)) => decoder.decode_fec(next, &mut out),
            _ => decoder.conceal(&mut out),
        };
        pcm.extend_from_slice(&out[..samples]);
    }
    pcm
}
