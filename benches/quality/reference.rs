//! The sender's packets, and what could be made of them.
//!
//! *Oracle*: every packet that ever arrived, decoded in order with in-band FEC wherever the next one arrived, libopus's concealment
//! elsewhere, no deadline. *Naive*: what has not come 60 ms after it was sent is concealed, FEC is not used.

use crate::gateway::Direction;
use engine::media::decode::{DECODED_SAMPLES_MAX, Decoder};
use engine::media::encode::{ENCODED_BYTES_MAX, Encoder, FRAME_SAMPLES};
use engine::media::resample::Decimator;
use engine::sdp::{Codec, OpusParameters};
use opus::{Application, Bandwidth, Bitrate, Channels};

/// The Opus sender, in words.
pub const SENDER: &str =
    "libopus 1.6.1, 16 kHz mono, wideband, VoIP, 20 kbit/s, complexity 9, in-band FEC at 10 % expected loss";

/// The delay of the naive reference.
const NAIVE_US: u64 = 60_000;

/// One packet of 20 ms per element; `None` where the sender pauses (DTX).
pub type Packets = Vec<Option<Vec<u8>>>;

/// What the sender makes of the speech.
pub fn packets(direction: Direction, wide: &[i16], dtx: bool) -> Packets {
    match direction {
        Direction::OpusToPcmu => opus_packets(wide, dtx),
        Direction::PcmuToOpus => {
            let mut encoder = Encoder::new(Codec::Pcmu, &OpusParameters::default());
            halved(wide).chunks_exact(FRAME_SAMPLES).map(|frame| Some(encoded(&mut encoder, frame))).collect()
        }
    }
}

fn opus_packets(wide: &[i16], dtx: bool) -> Packets {
    let mut encoder =
        opus::Encoder::new(16_000, Channels::Mono, Application::Voip).expect("16 kHz mono is a mode of libopus");
    let mut configure = || -> opus::Result<()> {
        encoder.set_bitrate(Bitrate::Bits(20_000))?;
        encoder.set_bandwidth(Bandwidth::Wideband)?;
        encoder.set_complexity(9)?;
        encoder.set_inband_fec(true)?;
        encoder.set_packet_loss_perc(10)?;
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

/// Through the gateway's encoder, and an endpoint's decoder.
fn through_opus(pcm: &[i16]) -> Vec<i16> {
    let (mut encoder, mut decoder) = (Encoder::new(Codec::Opus, &OpusParameters::default()), endpoint());
    let mut heard = Vec::new();
    for frame in pcm.chunks_exact(FRAME_SAMPLES) {
        let mut out = [0; FRAME_SAMPLES];
        decoder.decode(&encoded(&mut encoder, frame), &mut out, false).expect("a frame of ours");
        heard.extend_from_slice(&out);
    }
    heard
}

/// The decoder of an endpoint, at 8 kHz.
pub fn endpoint() -> opus::Decoder {
    opus::Decoder::new(8_000, Channels::Mono).expect("8 kHz mono is a mode of libopus")
}

/// Every packet that ever arrived.
pub fn oracle(direction: Direction, sent: &Packets, flights: &[Option<u64>]) -> Vec<i16> {
    reference(direction, sent, &|index| flights[index].is_some(), true)
}

/// A fixed buffer without FEC.
pub fn naive(direction: Direction, sent: &Packets, flights: &[Option<u64>]) -> Vec<i16> {
    reference(direction, sent, &|index| flights[index].is_some_and(|flight| flight <= NAIVE_US), false)
}

/// Nothing lost.
pub fn clean(direction: Direction, sent: &Packets) -> Vec<i16> {
    reference(direction, sent, &|_| true, false)
}

fn reference(direction: Direction, sent: &Packets, is_here: &dyn Fn(usize) -> bool, uses_fec: bool) -> Vec<i16> {
    let source = direction.source();
    let mut decoder = Decoder::new(source);
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
    match direction {
        Direction::OpusToPcmu => through_pcmu(&halved(&pcm)),
        Direction::PcmuToOpus => through_opus(&pcm),
    }
}
