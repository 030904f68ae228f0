//! AVX-512, tried: 32 outputs of the filter at a time, products and their sums in one instruction (VNNI). Not in the engine, since what runs
//! beside it pays more than it saves (docs/decisions.md, "Vectors for samples").

use core::arch::x86_64::{
    _mm_setr_epi8, _mm512_broadcast_i32x4, _mm512_dpwssd_epi32, _mm512_loadu_si512, _mm512_packs_epi32,
    _mm512_set1_epi32, _mm512_shuffle_epi8, _mm512_srai_epi32, _mm512_storeu_si512,
};
use engine::media::simd::lanes::{self, BLOCK, LANES_MAX, Phase};
use engine::media::simd::{Kernels, MIDDLE, SIDE_PAIRS, kernels as best};

static KERNELS: Kernels = Kernels {
    name: "avx512",
    // SAFETY: this and all the others are handed out by `kernels` alone, where there is AVX-512 with what they need.
    halve: |window, out| unsafe { halve(window, out) },
    // SAFETY: see `halve`.
    between: |window, out| unsafe { between(window, out) },
    energy: |pcm| (best().energy)(pcm),
    // SAFETY: see `halve`.
    mu_encode: |pcm, out| unsafe { mu_encode(pcm, out) },
    // SAFETY: see `halve`.
    mu_decode: |payload, out| unsafe { mu_decode(payload, out) },
    // SAFETY: see `halve`.
    a_encode: |pcm, out| unsafe { a_encode(pcm, out) },
    // SAFETY: see `halve`.
    a_decode: |payload, out| unsafe { a_decode(payload, out) },
};

const LANES: usize = LANES_MAX;

/// These, if the processor has what they take.
pub fn kernels() -> Option<&'static Kernels> {
    let able = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni");
    able.then_some(&KERNELS)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn halve(window: &[i16], out: &mut [i16]) {
    lanes::halve(window, out, |seen, middle, outputs, made| sums::<15>(seen, middle, outputs, made));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn between(window: &[i16], out: &mut [i16]) {
    lanes::between(window, out, |seen, middle, outputs, made| sums::<14>(seen, middle, outputs, made));
}

/// As AVX2's, twice as wide.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn sums<const SCALE: u32>(seen: &Phase, middle: &Phase, outputs: usize, made: &mut [i16; BLOCK]) {
    let load = |samples: &Phase, at: usize| {
        let vector: &[i16; LANES] = samples[at..at + LANES].try_into().expect("a whole vector");
        // SAFETY: `vector` is 32 samples, the 64 bytes of the load.
        unsafe { _mm512_loadu_si512(vector.as_ptr().cast()) }
    };
    let order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    for (block, made) in made.chunks_exact_mut(LANES).take(outputs.div_ceil(LANES)).enumerate() {
        let first = block * LANES;
        let mut even = _mm512_set1_epi32(1 << (SCALE - 1));
        let mut odd = even;
        for (pair, &taps) in SIDE_PAIRS.iter().enumerate() {
            let taps = _mm512_set1_epi32(taps);
            even = _mm512_dpwssd_epi32(even, load(seen, first + 2 * pair), taps);
            odd = _mm512_dpwssd_epi32(odd, load(seen, first + 2 * pair + 1), taps);
        }
        if SCALE == 15 {
            let middle = load(middle, first + MIDDLE);
            even = _mm512_dpwssd_epi32(even, middle, _mm512_set1_epi32(1 << 14));
            odd = _mm512_dpwssd_epi32(odd, middle, _mm512_set1_epi32(1 << 30));
        }
        let packed = _mm512_packs_epi32(_mm512_srai_epi32::<SCALE>(even), _mm512_srai_epi32::<SCALE>(odd));
        // SAFETY: `made` is 32 samples, the 64 bytes of the store.
        unsafe { _mm512_storeu_si512(made.as_mut_ptr().cast(), _mm512_shuffle_epi8(packed, order)) };
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn mu_encode(pcm: &[i16], out: &mut [u8]) {
    lanes::mu_encode(pcm, out);
}

#[target_feature(enable = "avx512f,avx512bw")]
fn mu_decode(payload: &[u8], out: &mut [i16]) {
    lanes::mu_decode(payload, out);
}

#[target_feature(enable = "avx512f,avx512bw")]
fn a_encode(pcm: &[i16], out: &mut [u8]) {
    lanes::a_encode(pcm, out);
}

#[target_feature(enable = "avx512f,avx512bw")]
fn a_decode(payload: &[u8], out: &mut [i16]) {
    lanes::a_decode(payload, out);
}
