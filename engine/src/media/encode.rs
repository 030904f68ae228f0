//! Samples to payload.

use crate::sdp::{Codec, OpusParameters};

/// An encoder for 20 ms frames of 8 kHz mono.
pub enum Encoder {}

/// Samples of one frame.
pub const FRAME_SAMPLES: usize = 160;

impl Encoder {
    /// `opus`: the receiver's wishes; `maxaveragebitrate` is a ceiling (20,000 when it does not say).
    pub fn new(_codec: Codec, _opus: &OpusParameters) -> Encoder {
        todo!()
    }

    /// Encodes one frame of `FRAME_SAMPLES` into `out` and answers the payload's length. `out` needs 400 bytes.
    pub fn encode(&mut self, _pcm: &[i16], _out: &mut [u8]) -> usize {
        todo!()
    }
}
