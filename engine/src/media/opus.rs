//! Opus through libopus (RFC 6716, RFC 7587): the only file that names the library.
//!
//! Why no in-band FEC and a fixed complexity here: FEC costs clean quality and belongs to the loss that receiver reports show; the
//! complexity that a core can afford depends on its load. Both are decided elsewhere, with these as the start.

use super::decode::DecodeError;
use super::encode::FRAME_SAMPLES;
use super::jitter::Kind;
use crate::sdp::OpusParameters;
use ::opus::{Application, Bitrate, Channels};

/// Rate that we decode at.
pub const DECODE_RATE_HZ: u32 = 16_000;

/// Rate that the encoder is fed at.
const ENCODE_RATE_HZ: u32 = 8_000;

/// Effort of the encoder, 0 to 10: 5 costs 53 us a frame and scores 4.10 at 20 kbit/s (PESQ-NB; 0 costs 22 us and scores 4.04).
const COMPLEXITY: i32 = 5;

/// Bit rate when the receiver names none, and the most that narrowband speech is worth: 24,000 adds 0.03 PESQ.
const BITRATE_MAX: u32 = 20_000;

/// Lowest rate of RFC 7587 §7.1; a lower wish is not honoured.
const BITRATE_MIN: u32 = 6_000;

/// The smallest step of concealment: 2.5 ms.
const STEP_SAMPLES: usize = DECODE_RATE_HZ as usize / 400;

/// A decoder of one stream to 16 kHz mono, whatever the sender codes.
#[derive(Debug)]
pub struct OpusDecoder {
    state: ::opus::Decoder,
    /// Of the last good packet: what a lost one is taken to have held.
    packet_samples: usize,
}

impl OpusDecoder {
    /// Takes the decoder's memory.
    ///
    /// # Panics
    /// When the system has no memory left.
    pub fn new() -> OpusDecoder {
        let state = ::opus::Decoder::new(DECODE_RATE_HZ, Channels::Mono).expect("16 kHz mono is a mode of libopus");
        OpusDecoder { state, packet_samples: DECODE_RATE_HZ as usize / 50 }
    }

    /// Decodes one packet. A packet that is not Opus leaves the decoder as it was.
    pub fn decode(&mut self, payload: &[u8], out: &mut [i16]) -> Result<usize, DecodeError> {
        // libopus takes an empty packet for a lost one; here it is a malformed one.
        if payload.is_empty() {
            return Err(DecodeError);
        }
        let samples = self.state.decode(payload, out, false).map_err(|_| DecodeError)?;
        self.packet_samples = samples;
        Ok(samples)
    }

    /// Recovers the packet before `next` from its LBRR frame (RFC 6716 §2.1.7), or conceals where there is none.
    pub fn decode_fec(&mut self, next: &[u8], out: &mut [i16]) -> usize {
        let samples = self.missing_samples(out);
        if next.is_empty() {
            return self.conceal(out);
        }
        match self.state.decode(next, &mut out[..samples], true) {
            Ok(samples) => samples,
            Err(_) => self.conceal(out),
        }
    }

    /// Makes up one packet.
    pub fn conceal(&mut self, out: &mut [i16]) -> usize {
        let samples = self.missing_samples(out);
        match self.state.decode(&[], &mut out[..samples], false) {
            Ok(samples) => samples,
            Err(_) => {
                out[..samples].fill(0);
                samples
            }
        }
    }

    /// Playing time of a packet, rounded up.
    pub fn duration_ms(payload: &[u8]) -> Option<u32> {
        Some(OpusDecoder::duration_48k(payload)?.div_ceil(48))
    }

    /// Playing time of a packet in ticks of 48 kHz.
    pub fn duration_48k(payload: &[u8]) -> Option<u32> {
        ::opus::packet::get_nb_samples(payload, 48_000).ok().map(|ticks| ticks as u32)
    }

    /// A packet's worth, in whole steps, within `out`.
    fn missing_samples(&self, out: &[i16]) -> usize {
        self.packet_samples.min(out.len()) / STEP_SAMPLES * STEP_SAMPLES
    }
}

impl Default for OpusDecoder {
    fn default() -> Self {
        OpusDecoder::new()
    }
}

/// What a packet is to the jitter buffer, by its first bytes.
///
/// In-band FEC is announced by the LBRR flag, which follows the VAD flags of the first frame's one to three SILK frames (RFC 6716 §4.2.3);
/// all are coded with even odds, so they are that byte's highest bits. CELT frames have none. Packets of one or two bytes begin a pause
/// (RFC 7587 §3.1.3).
pub fn kind(payload: &[u8]) -> Kind {
    if payload.len() <= 2 {
        return Kind::Pause;
    }
    // §3.1: five bits of configuration, the stereo flag, two bits of frame count code.
    let (configuration, code) = (payload[0] >> 3, payload[0] & 3);
    let silk_frames = match configuration {
        0..12 => [1, 1, 2, 3][usize::from(configuration & 3)],
        12..16 => 1,
        _ => return Kind::Audio,
    };
    let first = match code {
        0 | 1 => 1,
        2 if payload[1] < 252 => 2,
        2 => 3,
        // Codes with a count of frames, padding and lengths: not worth reading, a lost packet tells.
        _ => return Kind::Redundant,
    };
    match payload.get(first) {
        Some(byte) if byte >> (7 - silk_frames) & 1 == 1 => Kind::Redundant,
        _ => Kind::Audio,
    }
}

/// An encoder of one stream from 8 kHz mono.
#[derive(Debug)]
pub struct OpusEncoder {
    state: ::opus::Encoder,
}

impl OpusEncoder {
    /// Takes the encoder's memory and sets it up for speech.
    ///
    /// # Panics
    /// When the system has no memory left.
    pub fn new(parameters: &OpusParameters) -> OpusEncoder {
        let configured = || -> ::opus::Result<::opus::Encoder> {
            let mut state = ::opus::Encoder::new(ENCODE_RATE_HZ, Channels::Mono, Application::Voip)?;
            state.set_complexity(COMPLEXITY)?;
            state.set_bitrate(Bitrate::Bits(bitrate(parameters) as i32))?;
            state.set_vbr(true)?;
            state.set_vbr_constraint(true)?;
            state.set_inband_fec(false)?;
            state.set_dtx(false)?;
            Ok(state)
        };
        OpusEncoder { state: configured().expect("every setting is one that libopus has") }
    }

    /// Encodes one frame of 20 ms and answers the payload's length.
    ///
    /// # Panics
    /// When `pcm` is not one frame or `out` is empty.
    pub fn encode(&mut self, pcm: &[i16], out: &mut [u8]) -> usize {
        assert_eq!(pcm.len(), FRAME_SAMPLES);
        self.state.encode(pcm, out).expect("a frame of 20 ms can be encoded into any buffer")
    }
}

fn bitrate(parameters: &OpusParameters) -> u32 {
    parameters.max_average_bitrate.unwrap_or(BITRATE_MAX).clamp(BITRATE_MIN, BITRATE_MAX)
}
