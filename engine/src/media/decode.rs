//! Payload to samples.
//!
//! Why a lost packet is taken to have been as long as the one before it: nothing else is known of it, and senders change their packet
//! time rarely. So `conceal` and `decode_fec` make one packet time of samples, 20 ms until a packet has said otherwise.

use super::conceal::Concealer;
use super::g711::Law;
use super::opus::{self, OpusDecoder};
use crate::sdp::Codec;

/// Samples of one decoded packet at most: 120 ms at 16 kHz (RFC 6716 §2.1.4).
pub const DECODED_SAMPLES_MAX: usize = 1_920;

const G711_RATE_HZ: u32 = 8_000;

/// A decoder. Opus is decoded at 16 kHz, G.711 at 8 kHz; mono.
#[derive(Debug)]
pub struct Decoder(Kind);

#[derive(Debug)]
enum Kind {
    Opus(OpusDecoder),
    G711 { law: Law, concealer: Box<Concealer>, packet_samples: usize },
}

/// The payload is not of this codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError;

impl Decoder {
    /// Takes all memory that the stream needs.
    pub fn new(codec: Codec) -> Decoder {
        Decoder(match Law::of(codec) {
            Some(law) => Kind::G711 { law, concealer: Box::new(Concealer::new()), packet_samples: 160 },
            None => Kind::Opus(OpusDecoder::new()),
        })
    }

    /// Rate of the samples it makes: 16,000 for Opus, 8,000 for G.711.
    pub fn sample_rate_hz(&self) -> u32 {
        match &self.0 {
            Kind::Opus(_) => opus::DECODE_RATE_HZ,
            Kind::G711 { .. } => G711_RATE_HZ,
        }
    }

    /// Decodes one payload into `out` and answers the number of samples. `out` needs `DECODED_SAMPLES_MAX`. After an error the stream
    /// goes on as if the packet were missing: call `conceal` in its place.
    pub fn decode(&mut self, payload: &[u8], out: &mut [i16]) -> Result<usize, DecodeError> {
        match &mut self.0 {
            Kind::Opus(decoder) => decoder.decode(payload, out),
            Kind::G711 { law, concealer, packet_samples } => {
                // One byte per sample (RFC 3551 §4.5.14).
                let out = out.get_mut(..payload.len()).filter(|out| !out.is_empty()).ok_or(DecodeError)?;
                law.decode(payload, out);
                concealer.received(out);
                *packet_samples = out.len();
                Ok(out.len())
            }
        }
    }

    /// Recovers the packet before `next` (as long as the last one) from its in-band FEC, or conceals where there is none.
    pub fn decode_fec(&mut self, next: &[u8], out: &mut [i16]) -> usize {
        match &mut self.0 {
            Kind::Opus(decoder) => decoder.decode_fec(next, out),
            Kind::G711 { .. } => self.conceal(out),
        }
    }

    /// Makes up one packet as long as the last one (libopus' own concealment; G.711: repetition of the last pitch with fading,
    /// ITU-T G.711 App. I in spirit).
    pub fn conceal(&mut self, out: &mut [i16]) -> usize {
        match &mut self.0 {
            Kind::Opus(decoder) => decoder.conceal(out),
            Kind::G711 { concealer, packet_samples, .. } => {
                let samples = (*packet_samples).min(out.len());
                concealer.conceal(&mut out[..samples]);
                samples
            }
        }
    }

    /// Playing time of a payload in ms, without decoding it; `None` when malformed. Opus: 2.5 rounds up to 3.
    pub fn duration_ms(&self, payload: &[u8]) -> Option<u32> {
        match &self.0 {
            Kind::Opus(_) => OpusDecoder::duration_ms(payload),
            Kind::G711 { .. } if payload.is_empty() => None,
            Kind::G711 { .. } => Some(payload.len().div_ceil(8) as u32),
        }
    }
}
