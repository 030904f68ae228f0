//! The fast versions, chosen once at start; the scalar ones are their oracle.
//!
//! All of them compute the same sums of 16-bit products in 32 bits, so their results are equal bit by bit.
//!
//! Why the zero taps of the half-band filter are multiplied too: `madd` takes neighbouring samples in pairs, so an unshuffled load answers
//! eight outputs at once, and the shuffles that would bring the other phase together cost more than the products that they save.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod scalar;

use super::resample::{RESPONSE, TAPS};

/// Filters and halves: `out[n]` is the response applied to `window[2 * n..][..51]`. `window` must reach as far as the last output sees:
/// `2 * out.len() + 49` samples or one more; the functions panic when it does not.
pub type Decimate = fn(window: &[i16], out: &mut [i16]);

/// The fastest version for this processor.
pub fn decimate() -> Decimate {
    #[cfg(target_arch = "x86_64")]
    if avx2::is_available() {
        return avx2::decimate;
    }
    #[cfg(target_arch = "aarch64")]
    return neon::decimate;
    #[allow(unreachable_code)]
    scalar::decimate
}

/// Checked once per call, so that the loops below need not.
fn check(window: &[i16], out: &[i16]) {
    assert!(out.is_empty() || window.len() >= 2 * (out.len() - 1) + TAPS, "the window ends before the last output's");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn this_machine_runs_the_fast_version_if_it_can() {
        let fast = is_x86_feature_detected!("avx2");
        assert_eq!(fast, !std::ptr::fn_addr_eq(decimate(), scalar::decimate as Decimate));
    }

    #[test]
    fn the_loudest_inputs_saturate_alike() {
        for outputs in [1, 7, 8, 9, 160] {
            // The signs of the response itself, so that every product adds up.
            let mut window: Vec<i16> = vec![0; 2 * outputs + TAPS];
            for (place, sample) in window.iter_mut().enumerate() {
                *sample = if RESPONSE[place % TAPS] < 0 { i16::MIN } else { i16::MAX };
            }
            let (mut fast, mut slow) = (vec![0; outputs], vec![0; outputs]);
            decimate()(&window, &mut fast);
            scalar::decimate(&window, &mut slow);
            assert_eq!(fast, slow);
            assert_eq!(slow[0], i16::MAX);
        }
    }

    #[test]
    #[should_panic(expected = "window ends")]
    fn a_window_that_is_too_short_is_refused() {
        decimate()(&[0; TAPS + 1], &mut [0; 2]);
    }

    proptest! {
        #[test]
        fn the_fast_version_equals_the_scalar_one(
            (outputs, window) in (0usize..400)
                .prop_flat_map(|outputs| (Just(outputs), proptest::collection::vec(any::<i16>(), 2 * outputs + TAPS - 1))),
        ) {
            let (mut fast, mut slow) = (vec![0; outputs], vec![0; outputs]);
            decimate()(&window, &mut fast);
            scalar::decimate(&window, &mut slow);
            prop_assert_eq!(fast, slow);
        }
    }
}
