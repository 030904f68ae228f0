//! AVX2: eight outputs at a time.

use super::{RESPONSE, TAPS, check, scalar};
use core::arch::x86_64::{
    __m256i, _mm_packs_epi32, _mm_storeu_si128, _mm256_add_epi32, _mm256_castsi256_si128, _mm256_extracti128_si256,
    _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi32, _mm256_srai_epi32,
};

const PAIRS: usize = TAPS.div_ceil(2);
const LANES: usize = 8;

/// Two neighbouring taps in one word, as `madd` wants them; the last pair ends in a zero.
static PAIRED: [i32; PAIRS] = {
    let mut paired = [0; PAIRS];
    let mut pair = 0;
    while pair < PAIRS {
        let second = if 2 * pair + 1 < TAPS { RESPONSE[2 * pair + 1] } else { 0 };
        paired[pair] = (second as i32) << 16 | RESPONSE[2 * pair] as u16 as i32;
        pair += 1;
    }
    paired
};

/// Whether this processor can.
pub fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
}

/// See [`super::Decimate`].
pub fn decimate(window: &[i16], out: &mut [i16]) {
    // SAFETY: `super::decimate` hands this function out only after `is_available` said yes, and the module is private to it.
    unsafe { decimate_avx2(window, out) }
}

#[target_feature(enable = "avx2")]
fn decimate_avx2(window: &[i16], out: &mut [i16]) {
    check(window, out);
    let mut done = 0;
    // A vector of the last pair reaches one sample beyond the last output's window.
    while done + LANES <= out.len() && 2 * (done + LANES) + 2 * (PAIRS - 1) <= window.len() {
        let seen = &window[2 * done..2 * (done + LANES) + 2 * (PAIRS - 1)];
        let mut sum = _mm256_set1_epi32(1 << 14);
        for (pair, &taps) in PAIRED.iter().enumerate() {
            // SAFETY: 16 samples from `2 * pair` end at `2 * (PAIRS - 1) + 16` at most, the length of `seen`.
            let samples = unsafe { _mm256_loadu_si256(seen.as_ptr().add(2 * pair).cast::<__m256i>()) };
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(samples, _mm256_set1_epi32(taps)));
        }
        let scaled = _mm256_srai_epi32::<15>(sum);
        let packed = _mm_packs_epi32(_mm256_castsi256_si128(scaled), _mm256_extracti128_si256::<1>(scaled));
        let place = &mut out[done..done + LANES];
        // SAFETY: `place` is eight samples, the 16 bytes of the store.
        unsafe { _mm_storeu_si128(place.as_mut_ptr().cast(), packed) };
        done += LANES;
    }
    scalar::decimate(&window[(2 * done).min(window.len())..], &mut out[done..]);
}
