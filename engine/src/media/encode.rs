//! Samples to payload.

use super::g711::Law;
use super::g722::G722Encoder;
use super::opus::OpusEncoder;
use crate::sdp::{Codec, OpusParameters};

/// An encoder for 20 ms frames, mono: G.711 of 8 kHz, G.722 of 16, Opus of either.
#[derive(Debug)]
pub struct Encoder(Kind);

#[derive(Debug)]
enum Kind {
    Opus(OpusEncoder),
    G711(Law),
    G722(Box<G722Encoder>),
}

/// Samples of one frame at 8 kHz.
pub const FRAME_SAMPLES: usize = 160;

/// Samples of one frame at most: 20 ms of 16 kHz.
pub const FRAME_SAMPLES_MAX: usize = 320;

/// Bytes that `Encoder::encode` may ask of its output.
pub const ENCODED_BYTES_MAX: usize = 400;
const _: () = assert!(FRAME_SAMPLES <= ENCODED_BYTES_MAX);

impl Encoder {
    /// For narrowband speech where the codec leaves the choice. `opus`: the receiver's wishes; `maxaveragebitrate` is a ceiling (20,000
    /// when it does not say).
    pub fn new(codec: Codec, opus: &OpusParameters) -> Encoder {
        Encoder::at_rate(codec, opus, 8_000)
    }

    /// For speech of this rate, 8,000 or 16,000, where the codec leaves the choice.
    pub fn at_rate(codec: Codec, opus: &OpusParameters, rate_hz: u32) -> Encoder {
        Encoder(match (Law::of(codec), codec) {
            (Some(law), _) => Kind::G711(law),
            (None, Codec::G722) => Kind::G722(Box::default()),
            (None, _) => Kind::Opus(OpusEncoder::at_rate(opus, rate_hz)),
        })
    }

    /// Sets the effort of an Opus encoder, 0 to 10; G.711 has none.
    pub fn set_complexity(&mut self, complexity: u8) {
        if let Kind::Opus(encoder) = &mut self.0 {
            encoder.set_complexity(complexity);
        }
    }

    /// Sends in-band FEC for a path that loses so many percent, none for 0; G.711 has none.
    pub fn set_expected_loss(&mut self, pct: u8) {
        if let Kind::Opus(encoder) = &mut self.0 {
            encoder.set_expected_loss(pct);
        }
    }

    /// Whether in-band FEC is sent.
    pub fn is_redundant(&self) -> bool {
        matches!(&self.0, Kind::Opus(encoder) if encoder.is_redundant())
    }

    /// Rate of the samples that `encode` wants.
    pub fn sample_rate_hz(&self) -> u32 {
        match &self.0 {
            Kind::Opus(encoder) => encoder.sample_rate_hz(),
            Kind::G711(_) => 8_000,
            Kind::G722(_) => 16_000,
        }
    }

    /// Encodes one frame, 20 ms at `sample_rate_hz`, into `out` and answers the payload's length. `out` needs 400 bytes.
    ///
    /// # Panics
    /// When `pcm` is not one frame, or `out` too short.
    pub fn encode(&mut self, pcm: &[i16], out: &mut [u8]) -> usize {
        assert_eq!(pcm.len(), self.sample_rate_hz() as usize / 50);
        let out = &mut out[..ENCODED_BYTES_MAX];
        match &mut self.0 {
            Kind::Opus(encoder) => encoder.encode(pcm, out),
            Kind::G711(law) => {
                law.encode(pcm, out);
                FRAME_SAMPLES
            }
            Kind::G722(encoder) => encoder.encode(pcm, out),
        }
    }
}
