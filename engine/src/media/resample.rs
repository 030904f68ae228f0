//! 16 kHz to 8 kHz and back: a half-band FIR of 51 taps (Kaiser window, beta 5.8) in Q15.
//!
//! | Hz | up to 3,400 | 3,600 | 4,000 | 4,400 | from 4,600 |
//! |---|---|---|---|---|---|
//! | dB | within 0.01 | -0.4 | -6.0 | -27 | -61.7 or less |
//!
//! Linear phase; delay 25 samples of 16 kHz, 1.6 ms. Sums are exact in 32 bits, rounded once, and saturate.
//!
//! Why half-band: every second tap but the middle one is zero, and what folds back into the telephone band (above 4,600 Hz) is 60 dB down,
//! 20 dB below the noise of mu-law. What lies between folds to 3,400 to 4,000 Hz, where telephones do not listen.

use super::simd::{self, SIDE_TAPS};

/// Taps of the filter: the window of input that one output sees.
pub const TAPS: usize = 51;

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
    halve: simd::Filter,
    history: [i16; HISTORY],
}

impl Decimator {
    /// A filter at rest.
    pub fn new() -> Decimator {
        Decimator::with(simd::kernels())
    }

    /// The same with the scalar kernel, for comparison in tests and benches.
    pub fn scalar() -> Decimator {
        Decimator::with(simd::scalar())
    }

    /// The same with these kernels.
    pub fn with(kernels: &simd::Kernels) -> Decimator {
        Decimator { halve: kernels.halve, history: [0; HISTORY] }
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
            (self.halve)(window, &mut out[written..written + block.len() / 2]);
            self.history.copy_from_slice(&window[block.len()..]);
            written += block.len() / 2;
        }
        written
    }
}

/// Doubles the rate with the same filter: every output between two inputs is a sum over 26 of them, the others are the inputs themselves.
#[derive(Clone, Debug)]
pub struct Interpolator {
    between: simd::Filter,
    history: [i16; SIDE_TAPS - 1],
}

impl Interpolator {
    /// A filter at rest.
    pub fn new() -> Interpolator {
        Interpolator::with(simd::kernels())
    }

    /// The same with these kernels.
    pub fn with(kernels: &simd::Kernels) -> Interpolator {
        Interpolator { between: kernels.between, history: [0; SIDE_TAPS - 1] }
    }

    /// Filters `input` into `out` and answers the number of samples written, `2 * input.len()`. Delay: 25 samples of 16 kHz.
    ///
    /// # Panics
    /// When `out` is shorter than that.
    pub fn resample(&mut self, input: &[i16], out: &mut [i16]) -> usize {
        let history = self.history.len();
        let mut window = [0; SIDE_TAPS - 1 + BLOCK / 2];
        let mut between = [0; BLOCK / 2];
        let out = &mut out[..2 * input.len()];
        for (block, out) in input.chunks(BLOCK / 2).zip(out.chunks_mut(BLOCK)) {
            let window = &mut window[..history + block.len()];
            window[..history].copy_from_slice(&self.history);
            window[history..].copy_from_slice(block);
            let between = &mut between[..block.len()];
            (self.between)(window, between);
            for ((pair, &between), &input) in out.chunks_exact_mut(2).zip(&*between).zip(&window[SIDE_TAPS / 2..]) {
                pair.copy_from_slice(&[between, input]);
            }
            self.history.copy_from_slice(&window[block.len()..]);
        }
        out.len()
    }
}

impl Default for Interpolator {
    fn default() -> Self {
        Interpolator::new()
    }
}

impl Default for Decimator {
    fn default() -> Self {
        Decimator::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::f64::consts::TAU;

    const AMPLITUDE: f64 = 16_000.0;

    #[test]
    fn doubling_keeps_the_telephone_band_and_leaves_no_image_of_it() {
        for hz in [300.0, 1_000.0, 2_500.0, 3_400.0] {
            let tone: Vec<i16> =
                (0..8_000).map(|n| (AMPLITUDE * (TAU * hz * f64::from(n) / 8_000.0).sin()).round() as i16).collect();
            let mut out = vec![0; 16_000];
            let mut interpolator = Interpolator::new();
            for (input, out) in tone.chunks(160).zip(out.chunks_mut(320)) {
                assert_eq!(interpolator.resample(input, out), 320);
            }
            let at = |hz: f64| {
                let (mut re, mut im) = (0.0, 0.0);
                for (n, &sample) in out[800..].iter().enumerate() {
                    let phase = TAU * hz * n as f64 / 16_000.0;
                    re += f64::from(sample) * phase.cos();
                    im += f64::from(sample) * phase.sin();
                }
                20.0 * (2.0 * (re * re + im * im).sqrt() / (out.len() - 800) as f64 / AMPLITUDE).log10()
            };
            assert!(at(hz).abs() < 0.1, "{hz}: {:.2} dB", at(hz));
            assert!(at(8_000.0 - hz) < -55.0, "{hz}: {:.1} dB", at(8_000.0 - hz));
        }
    }

    fn tone(hz: f64, samples: usize) -> Vec<i16> {
        (0..samples).map(|n| (AMPLITUDE * (TAU * hz * n as f64 / 16_000.0).sin()).round() as i16).collect()
    }

    fn resampled(decimator: &mut Decimator, input: &[i16]) -> Vec<i16> {
        let mut out = vec![0; input.len() / 2];
        assert_eq!(decimator.resample(input, &mut out), out.len());
        out
    }

    /// Level of what comes out of a tone, relative to what went in, once the filter is full.
    fn gain_db(hz: f64) -> f64 {
        let out = resampled(&mut Decimator::new(), &tone(hz, 16_000));
        let settled = &out[TAPS..];
        let power = settled.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / settled.len() as f64;
        10.0 * (power / (AMPLITUDE * AMPLITUDE / 2.0)).log10()
    }

    #[test]
    fn the_telephone_band_is_flat() {
        for hz in (100..=3_400).step_by(50) {
            let gain = gain_db(f64::from(hz));
            assert!(gain.abs() < 0.02, "{hz} Hz: {gain:.3} dB");
        }
    }

    #[test]
    fn what_would_fold_into_the_telephone_band_is_60_db_down() {
        for hz in (4_600..8_000).step_by(50) {
            let gain = gain_db(f64::from(hz));
            assert!(gain < -60.0, "{hz} Hz: {gain:.1} dB");
        }
    }

    #[test]
    fn a_tone_keeps_its_pitch_and_comes_after_25_samples() {
        let out = resampled(&mut Decimator::new(), &tone(1_000.0, 3_200));
        for (n, &sample) in out.iter().enumerate().skip(TAPS) {
            let expected = AMPLITUDE * (TAU * 1_000.0 * (2.0 * n as f64 - 25.0) / 16_000.0).sin();
            assert!((f64::from(sample) - expected).abs() < 4.0, "{n}: {sample} for {expected}");
        }
    }

    #[test]
    fn full_scale_square_waves_saturate_and_do_not_wrap() {
        let input: Vec<i16> = (0..3_200).map(|n| if n / 20 % 2 == 0 { i16::MAX } else { i16::MIN }).collect();
        let out = resampled(&mut Decimator::new(), &input);
        assert!(out.contains(&i16::MAX) && out.contains(&i16::MIN));
        // Ten output samples a half wave: after the ringing of its edge each one keeps its sign.
        for half in out[40..].chunks_exact(10).skip(1) {
            assert!(half[4..7].windows(2).all(|pair| pair[0].signum() == pair[1].signum()), "{half:?}");
        }
    }

    #[test]
    fn silence_stays_silence() {
        assert!(resampled(&mut Decimator::new(), &[0; 640]).iter().all(|&sample| sample == 0));
    }

    proptest! {
        #[test]
        fn chunks_of_any_even_length_make_the_same_samples(
            input in proptest::collection::vec(any::<i16>(), 0..1_000).prop_map(|mut input| {
                input.truncate(input.len() & !1);
                input
            }),
            cuts in proptest::collection::vec(0usize..700, 0..6),
        ) {
            let whole = resampled(&mut Decimator::scalar(), &input);
            let mut decimator = Decimator::new();
            let mut pieces = Vec::new();
            let mut rest = &input[..];
            for cut in cuts {
                let (piece, after) = rest.split_at((cut & !1).min(rest.len()));
                pieces.extend(resampled(&mut decimator, piece));
                rest = after;
            }
            pieces.extend(resampled(&mut decimator, rest));
            prop_assert_eq!(pieces, whole);
        }

        #[test]
        fn doubling_in_chunks_of_any_length_makes_what_the_sums_by_the_response_are(
            input in proptest::collection::vec(any::<i16>(), 0..700),
            cuts in proptest::collection::vec(0usize..400, 0..6),
        ) {
            let mut expected = Vec::new();
            for n in 0..input.len() {
                let at = |back: usize| n.checked_sub(back).map_or(0, |place| i32::from(input[place]));
                let sum: i32 = (0..SIDE_TAPS).map(|tap| i32::from(RESPONSE[2 * tap]) * at(SIDE_TAPS - 1 - tap)).sum();
                expected.push(((sum + (1 << 13)) >> 14).clamp(i16::MIN.into(), i16::MAX.into()) as i16);
                expected.push(at(12) as i16);
            }
            let mut interpolator = Interpolator::new();
            let mut pieces = Vec::new();
            let mut rest = &input[..];
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                let mut out = vec![0; 2 * piece.len()];
                prop_assert_eq!(interpolator.resample(piece, &mut out), out.len());
                pieces.extend(out);
                rest = after;
            }
            prop_assert_eq!(pieces, expected);
        }
    }
}
