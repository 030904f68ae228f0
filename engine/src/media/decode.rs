//! Payload to samples.

use crate::sdp::Codec;

/// Samples of one decoded packet at most: 120 ms at 16 kHz (RFC 6716 §2.1.4).
pub const DECODED_SAMPLES_MAX: usize = 1_920;

/// A decoder. Opus is decoded at 16 kHz, G.711 at 8 kHz; mono.
pub enum Decoder {}

/// The payload is not of this codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError;

impl Decoder {
    /// Takes all memory that the stream needs.
    pub fn new(_codec: Codec) -> Decoder {
        todo!()
    }

    /// Rate of the samples it makes: 16,000 for Opus, 8,000 for G.711.
    pub fn sample_rate_hz(&self) -> u32 {
        todo!()
    }

    /// Decodes one payload into `out` and answers the number of samples.
    pub fn decode(&mut self, _payload: &[u8], _out: &mut [i16]) -> Result<usize, DecodeError> {
        todo!()
    }

    /// Recovers the packet before `next` (20 ms) from its in-band FEC, or conceals where there is none.
    pub fn decode_fec(&mut self, _next: &[u8], _out: &mut [i16]) -> usize {
        todo!()
    }

    /// Makes up 20 ms (libopus' own concealment; G.711: repetition of the last pitch with fading, ITU-T G.711 App. I in spirit).
    pub fn conceal(&mut self, _out: &mut [i16]) -> usize {
        todo!()
    }

    /// Playing time of a payload in ms, without decoding it; `None` when malformed. Opus: 2.5 rounds up to 3.
    pub fn duration_ms(&self, _payload: &[u8]) -> Option<u32> {
        todo!()
    }
}
