//! The fast versions, chosen once at start; the scalar ones are their oracle.
//!
//! ```text
//! x86-64   avx2, else scalar          aarch64   neon, which every such processor has
//! ```
//!
//! All of them compute the same sums of 16-bit products in 32 bits, so their results are equal bit by bit.
//!
//! Why the filter's input is taken apart first: every second tap of the half-band filter is zero. Once even and odd samples lie apart, pairs
//! of neighbouring taps meet pairs of neighbouring samples, which is what `madd` multiplies, and no product is by zero.
//!
//! Why no AVX-512: what runs beside it pays more than it saves (`cargo bench -p benches --bench simd`, docs/decisions.md).
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
pub mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use super::resample::{RESPONSE, TAPS};
use std::sync::OnceLock;

/// Taps beside the middle one that are not zero.
pub(super) const SIDE_TAPS: usize = TAPS / 2 + 1;

/// Those taps: every second one of the response.
const SIDE: [i16; SIDE_TAPS] = {
    let mut side = [0; SIDE_TAPS];
    let mut tap = 0;
    while tap < SIDE_TAPS {
        side[tap] = RESPONSE[2 * tap];
        tap += 1;
    }
    side
};

/// Where the middle tap meets the other phase: in its sample so far behind the first.
pub const MIDDLE: usize = TAPS / 4;
const _: () = assert!(RESPONSE[TAPS / 2] == 1 << 14 && TAPS / 2 == 2 * MIDDLE + 1);

/// Two neighbours of them in one word, as `madd` wants them.
#[cfg(target_arch = "x86_64")]
pub static SIDE_PAIRS: [i32; SIDE_TAPS / 2] = {
    assert!(SIDE_TAPS.is_multiple_of(2));
    let mut paired = [0; SIDE_TAPS / 2];
    let mut pair = 0;
    while pair < SIDE_TAPS / 2 {
        paired[pair] = (SIDE[2 * pair + 1] as i32) << 16 | SIDE[2 * pair] as u16 as i32;
        pair += 1;
    }
    paired
};

/// Filters a window of samples into `out`.
pub type Filter = fn(window: &[i16], out: &mut [i16]);

/// One version of everything that is done to samples in vectors.
#[derive(Debug)]
pub struct Kernels {
    /// `scalar`, or the instructions that it takes.
    pub name: &'static str,
    /// Filters and halves: `out[n]` is the response applied to `window[2 * n..][..51]`. `window` must reach as far as the last output sees:
    /// `2 * out.len() + 49` samples or one more; panics when it does not.
    pub halve: Filter,
    /// What lies between two samples when the rate is doubled: `out[n]` is twice the response's 26 side taps applied to `window[n..][..26]`.
    /// `window` must hold `out.len() + 25` samples; panics when it does not.
    pub between: Filter,
    /// The sum of the squares.
    pub energy: fn(pcm: &[i16]) -> u64,
    /// G.711, a byte a sample, as far as both slices reach.
    pub mu_encode: fn(pcm: &[i16], out: &mut [u8]),
    /// The way back.
    pub mu_decode: fn(payload: &[u8], out: &mut [i16]),
    /// The same in A-law.
    pub a_encode: fn(pcm: &[i16], out: &mut [u8]),
    /// The way back.
    pub a_decode: fn(payload: &[u8], out: &mut [i16]),
}

/// The fastest version for this processor.
pub fn kernels() -> &'static Kernels {
    static CHOSEN: OnceLock<&'static Kernels> = OnceLock::new();
    CHOSEN.get_or_init(|| available().next().unwrap_or(&scalar::KERNELS))
}

/// The plain version.
pub fn scalar() -> &'static Kernels {
    &scalar::KERNELS
}

/// All versions that this processor can run, the fastest first.
pub fn available() -> impl Iterator<Item = &'static Kernels> {
    #[cfg(target_arch = "x86_64")]
    let fast = [avx2::kernels()];
    #[cfg(target_arch = "aarch64")]
    let fast = [Some(&neon::KERNELS)];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let fast = [];
    fast.into_iter().flatten().chain([&scalar::KERNELS])
}

/// Checked once per call, so that the loops below need not.
fn check_halve(window: &[i16], out: &[i16]) {
    assert!(out.is_empty() || window.len() >= 2 * (out.len() - 1) + TAPS, "the window ends before the last output's");
}

/// The same.
fn check_between(window: &[i16], out: &[i16]) {
    assert!(out.is_empty() || window.len() >= out.len() - 1 + SIDE_TAPS, "the window ends before the last output's");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names() -> Vec<&'static str> {
        available().map(|kernels| kernels.name).collect()
    }

    #[test]
    fn a_processor_takes_the_best_that_it_can_run() {
        #[cfg(target_arch = "x86_64")]
        let able = [is_x86_feature_detected!("avx2").then_some("avx2"), Some("scalar")];
        #[cfg(target_arch = "aarch64")]
        let able = [Some("neon"), Some("scalar")];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let able = [Some("scalar")];
        let able: Vec<&str> = able.into_iter().flatten().collect();
        assert_eq!(names(), able);
        assert_eq!(kernels().name, able[0]);
    }

    #[test]
    fn the_loudest_inputs_saturate_alike() {
        for outputs in [1, 7, 8, 9, 31, 32, 33, 160, 161, 320] {
            // The signs of the response itself, so that every product adds up.
            let sign = |tap: i16| if tap < 0 { i16::MIN } else { i16::MAX };
            let halved: Vec<i16> = (0..2 * outputs + TAPS - 1).map(|place| sign(RESPONSE[place % TAPS])).collect();
            let doubled: Vec<i16> = (0..outputs + SIDE_TAPS - 1).map(|place| sign(SIDE[place % SIDE_TAPS])).collect();
            for (window, filter) in
                [(&halved, (|kernels| kernels.halve) as fn(&Kernels) -> Filter), (&doubled, |kernels| kernels.between)]
            {
                let mut slow = vec![0; outputs];
                filter(scalar())(window, &mut slow);
                assert_eq!(slow[0], i16::MAX);
                for kernels in available() {
                    let mut fast = vec![0; outputs];
                    filter(kernels)(window, &mut fast);
                    assert_eq!(fast, slow, "{}", kernels.name);
                }
            }
            for sample in [i16::MIN, i16::MAX, -1, 0] {
                for kernels in available() {
                    let square = u64::from(sample.unsigned_abs()).pow(2);
                    assert_eq!((kernels.energy)(&vec![sample; outputs]), square * outputs as u64, "{}", kernels.name);
                }
            }
        }
    }

    #[test]
    fn a_window_that_is_too_short_is_refused() {
        for kernels in available() {
            for (filter, window) in [(kernels.halve, TAPS + 1), (kernels.between, SIDE_TAPS)] {
                let short = std::panic::catch_unwind(|| filter(&vec![0; window], &mut [0; 2]));
                assert!(short.is_err(), "{}", kernels.name);
            }
        }
    }

    /// Whole frames, and lengths and places that no vector divides.
    #[test]
    fn g711_is_the_recommendation_s_for_every_sample_and_byte() {
        let samples: Vec<i16> = (i16::MIN..=i16::MAX).collect();
        let bytes: Vec<u8> = (0..=255).collect();
        for kernels in available() {
            for frame in [65_536, 160, 240, 33, 1] {
                for (encode, decode, encoded, decoded) in [
                    (
                        kernels.mu_encode,
                        kernels.mu_decode,
                        scalar::mu_encode as fn(i16) -> u8,
                        scalar::mu_decode as fn(u8) -> i16,
                    ),
                    (kernels.a_encode, kernels.a_decode, scalar::a_encode, scalar::a_decode),
                ] {
                    for samples in samples.chunks(frame) {
                        let mut out = vec![0; samples.len()];
                        encode(samples, &mut out);
                        assert!(
                            out.iter().zip(samples).all(|(&byte, &sample)| byte == encoded(sample)),
                            "{}",
                            kernels.name
                        );
                    }
                    for bytes in bytes.chunks(frame) {
                        let mut out = vec![0; bytes.len()];
                        decode(bytes, &mut out);
                        assert!(
                            out.iter().zip(bytes).all(|(&sample, &byte)| sample == decoded(byte)),
                            "{}",
                            kernels.name
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn g711_stops_at_the_end_of_the_shorter_slice() {
        for kernels in available() {
            for (samples, bytes) in [(100, 64), (64, 100), (0, 40), (40, 0)] {
                let (pcm, payload) = (vec![1_000; samples], vec![0; bytes]);
                let (mut encoded, mut decoded) = (vec![7; bytes], vec![7; samples]);
                (kernels.a_encode)(&pcm, &mut encoded);
                (kernels.mu_encode)(&pcm, &mut encoded);
                (kernels.a_decode)(&payload, &mut decoded);
                (kernels.mu_decode)(&payload, &mut decoded);
                let both = samples.min(bytes);
                assert!(encoded[both..].iter().all(|&byte| byte == 7), "{}", kernels.name);
                assert!(decoded[both..].iter().all(|&sample| sample == 7), "{}", kernels.name);
                assert!(decoded[..both].iter().all(|&sample| sample == -32_124), "{}", kernels.name);
            }
        }
    }

    proptest! {
        #[test]
        fn every_version_equals_the_scalar_one(
            (outputs, window) in (0usize..400)
                .prop_flat_map(|outputs| (Just(outputs), proptest::collection::vec(any::<i16>(), 2 * outputs + TAPS - 1))),
        ) {
            let (mut fast, mut slow) = (vec![0; outputs], vec![0; outputs]);
            for kernels in available() {
                (kernels.halve)(&window, &mut fast);
                (scalar().halve)(&window, &mut slow);
                prop_assert_eq!(&fast, &slow, "{}", kernels.name);
                (kernels.between)(&window, &mut fast);
                (scalar().between)(&window, &mut slow);
                prop_assert_eq!(&fast, &slow, "{}", kernels.name);
                prop_assert_eq!((kernels.energy)(&window), (scalar().energy)(&window), "{}", kernels.name);
            }
        }
    }
}
