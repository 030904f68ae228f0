//! AVX2: 16 outputs of the filter at a time.

use super::lanes::{self, BLOCK, Phase};
use super::{Kernels, MIDDLE, SIDE_PAIRS};
use core::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_add_epi64, _mm256_and_si256, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_packs_epi32, _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_setr_epi8, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_srai_epi32, _mm256_srli_epi64, _mm256_storeu_si256,
};

static KERNELS: Kernels = Kernels {
    name: "avx2",
    // SAFETY: this and all the others are handed out by `kernels` alone, where there is AVX2.
    halve: |window, out| unsafe { halve(window, out) },
    // SAFETY: see `halve`.
    between: |window, out| unsafe { between(window, out) },
    // SAFETY: see `halve`.
    energy: |pcm| unsafe { energy(pcm) },
    // SAFETY: see `halve`.
    mu_encode: |pcm, out| unsafe { mu_encode(pcm, out) },
    // SAFETY: see `halve`.
    mu_decode: |payload, out| unsafe { mu_decode(payload, out) },
    // SAFETY: see `halve`.
    a_encode: |pcm, out| unsafe { a_encode(pcm, out) },
    // SAFETY: see `halve`.
    a_decode: |payload, out| unsafe { a_decode(payload, out) },
};

const LANES: usize = 16;

/// These, if the processor has what they take.
pub fn kernels() -> Option<&'static Kernels> {
    is_x86_feature_detected!("avx2").then_some(&KERNELS)
}

#[target_feature(enable = "avx2")]
fn halve(window: &[i16], out: &mut [i16]) {
    lanes::halve(window, out, |seen, middle, outputs, made| sums::<15>(seen, middle, outputs, made));
}

#[target_feature(enable = "avx2")]
fn between(window: &[i16], out: &mut [i16]) {
    lanes::between(window, out, |seen, middle, outputs, made| sums::<14>(seen, middle, outputs, made));
}

/// A word holds two neighbouring samples: those of even outputs begin at an even place, those of odd ones a sample later.
#[inline]
#[target_feature(enable = "avx2")]
fn sums<const SCALE: i32>(seen: &Phase, middle: &Phase, outputs: usize, made: &mut [i16; BLOCK]) {
    let load = |samples: &Phase, at: usize| {
        let vector: &[i16; LANES] = samples[at..at + LANES].try_into().expect("a whole vector");
        // SAFETY: `vector` is 16 samples, the 32 bytes of the load.
        unsafe { _mm256_loadu_si256(vector.as_ptr().cast::<__m256i>()) }
    };
    // Neighbours change places within each half: even outputs come first there.
    let order = _mm256_setr_epi8(
        0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15, 0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15,
    );
    for (block, made) in made.chunks_exact_mut(LANES).take(outputs.div_ceil(LANES)).enumerate() {
        let first = block * LANES;
        let mut even = _mm256_set1_epi32(1 << (SCALE - 1));
        let mut odd = even;
        for (pair, &taps) in SIDE_PAIRS.iter().enumerate() {
            let taps = _mm256_set1_epi32(taps);
            even = _mm256_add_epi32(even, _mm256_madd_epi16(load(seen, first + 2 * pair), taps));
            odd = _mm256_add_epi32(odd, _mm256_madd_epi16(load(seen, first + 2 * pair + 1), taps));
        }
        if SCALE == 15 {
            // The middle tap is 2^14; the other sample of the word counts nothing.
            let middle = load(middle, first + MIDDLE);
            even = _mm256_add_epi32(even, _mm256_madd_epi16(middle, _mm256_set1_epi32(1 << 14)));
            odd = _mm256_add_epi32(odd, _mm256_madd_epi16(middle, _mm256_set1_epi32(1 << 30)));
        }
        let packed = _mm256_packs_epi32(_mm256_srai_epi32::<SCALE>(even), _mm256_srai_epi32::<SCALE>(odd));
        // SAFETY: `made` is 16 samples, the 32 bytes of the store.
        unsafe { _mm256_storeu_si256(made.as_mut_ptr().cast(), _mm256_shuffle_epi8(packed, order)) };
    }
}

#[target_feature(enable = "avx2")]
fn energy(pcm: &[i16]) -> u64 {
    let (vectors, rest) = pcm.as_chunks::<LANES>();
    let low = _mm256_set1_epi64x(0xffff_ffff);
    let mut sum = _mm256_setzero_si256();
    for vector in vectors {
        // SAFETY: `vector` is 16 samples, the 32 bytes of the load.
        let samples = unsafe { _mm256_loadu_si256(vector.as_ptr().cast::<__m256i>()) };
        // Two squares make 2^31 at most: as unsigned words they are exact.
        let squares = _mm256_madd_epi16(samples, samples);
        sum = _mm256_add_epi64(sum, _mm256_and_si256(squares, low));
        sum = _mm256_add_epi64(sum, _mm256_srli_epi64::<32>(squares));
    }
    let mut sums = [0u64; 4];
    // SAFETY: four words of 64 bits are the 32 bytes of the store.
    unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), sum) };
    sums.iter().sum::<u64>() + (super::scalar().energy)(rest)
}

#[target_feature(enable = "avx2")]
fn mu_encode(pcm: &[i16], out: &mut [u8]) {
    lanes::mu_encode(pcm, out);
}

#[target_feature(enable = "avx2")]
fn mu_decode(payload: &[u8], out: &mut [i16]) {
    lanes::mu_decode(payload, out);
}

#[target_feature(enable = "avx2")]
fn a_encode(pcm: &[i16], out: &mut [u8]) {
    lanes::a_encode(pcm, out);
}

#[target_feature(enable = "avx2")]
fn a_decode(payload: &[u8], out: &mut [i16]) {
    lanes::a_decode(payload, out);
}
