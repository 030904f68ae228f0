//! 16 kHz to 8 kHz.

/// Halves the rate: a half-band FIR, kept between frames. Delay and response stand in the module's docs.
pub struct Decimator {}

impl Decimator {
    /// A filter at rest.
    pub fn new() -> Decimator {
        todo!()
    }

    /// Filters `input` (an even number of samples) into `out` and answers the number of samples written, `input.len() / 2`.
    pub fn resample(&mut self, _input: &[i16], _out: &mut [i16]) -> usize {
        todo!()
    }
}

impl Default for Decimator {
    fn default() -> Self {
        Decimator::new()
    }
}
