//! 16 kHz to 8 kHz: a half-band FIR of 51 taps (Kaiser window, beta 5.8) in Q15.
//!
//! | Hz | up to 3,400 | 3,600 | 4,000 | 4,400 | from 4,600 |
//! |---|---|---|---|---|---|
//! | dB | within 0.01 | -0.4 | -6.0 | -27 | -61.7 or less |
//!
//! Linear phase; delay 25 samples of 16 kHz, 1.6 ms. Sums are exact in 32 bits, rounded once, and saturate.
//!
//! Why half-band: every second tap but the middle one is zero, and what folds back into the telephone band (above 4,600 Hz) is 60 dB down,
//! 20 dB below the noise of mu-law. What lies between folds to 3,400 to 4,000 Hz, where telephones do not listen.

use super::simd;

/// Taps of the filter: the window of input that one output sees.
pub(super) const TAPS: usize = 51;

/// Impulse response, Q15. Its sum is one, so that speech keeps its level.
pub(super) const RESPONSE: [i16; TAPS] = [
    7, 0, -22, 0, 49, 0, -91, 0, 154, 0, -245, 0, 374, 0, -555, 0, 815, 0, -1207, 0, 1875, 0, -3346, 0, 10384, //
    16384, //
    10384, 0, -3346, 0, 1875, 0, -1207, 0, 815, 0, -555, 0, 374, 0, -245, 0, 154, 0, -91, 0, 49, 0, -22, 0, 7,
];

// Neither a sum of products nor its rounding can leave 32 bits.
const _: () = {
    let (mut sum, mut gain, mut tap) = (0i64, 0i64, 0);
    while tap < TAPS {
        sum += RESPONSE[tap].unsigned_abs() as i64;
        gain += RESPONSE[tap] as i64;
        tap += 1;
    }
    assert!(gain == 1 << 15);
    assert!(sum * (1 << 15) + (1 << 14) < i32::MAX as i64);
};

/// Input that later output still needs.
const HISTORY: usize = TAPS - 1;

/// Input filtered at a time: 20 ms.
const BLOCK: usize = 320;

/// Halves the rate: a half-band FIR, kept between frames. Delay and response stand in the module's docs.
#[derive(Clone, Debug)]
pub struct Decimator {
    kernel: simd::Decimate,
    history: [i16; HISTORY],
}

impl Decimator {
    /// A filter at rest.
    pub fn new() -> Decimator {
        Decimator { kernel: simd::decimate(), history: [0; HISTORY] }
    }

    /// The same with the scalar kernel, for comparison in tests and benches.
    pub fn scalar() -> Decimator {
        Decimator { kernel: simd::scalar::decimate, history: [0; HISTORY] }
    }

    /// Filters `input` (an even number of samples) into `out` and answers the number of samples written, `input.len() / 2`.
    ///
    /// # Panics
    /// When `out` is shorter than that.
    pub fn resample(&mut self, input: &[i16], out: &mut [i16]) -> usize {
        debug_assert!(input.len().is_multiple_of(2), "an odd sample would shift the phase");
        let mut written = 0;
        let mut window = [0; HISTORY + BLOCK];
        for block in input[..input.len() & !1].chunks(BLOCK) {
            let window = &mut window[..HISTORY + block.len()];
            window[..HISTORY].copy_from_slice(&self.history);
            window[HISTORY..].copy_from_slice(block);
            (self.kernel)(window, &mut out[written..written + block.len() / 2]);
            self.history.copy_from_slice(&window[block.len()..]);
            written += block.len() / 2;
        }
        written
    }
}

impl Default for Decimator {
    fn default() -> Self {
        Decimator::new()
    }
}
