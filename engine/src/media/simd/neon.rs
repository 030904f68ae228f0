//! NEON, which every aarch64 processor has: 16 outputs of the filter at a time.

use super::lanes::{self, BLOCK, Phase};
use super::{Kernels, MIDDLE, SIDE, SIDE_TAPS};
use core::arch::aarch64::{
    int16x8_t, int32x4_t, vaddvq_u64, vcombine_s16, vdupq_n_s32, vdupq_n_u64, vget_low_s16, vld1q_s16,
    vmlal_high_laneq_s16, vmlal_high_n_s16, vmlal_laneq_s16, vmlal_n_s16, vmull_high_s16, vmull_s16, vpadalq_u32,
    vqshrn_n_s32, vreinterpretq_u32_s32, vst1q_s16,
};

pub static KERNELS: Kernels = Kernels {
    name: "neon",
    halve: |window, out| lanes::halve(window, out, sums::<15>),
    between: |window, out| lanes::between(window, out, sums::<14>),
    energy,
    mu_encode: lanes::mu_encode,
    mu_decode: lanes::mu_decode,
    a_encode: lanes::a_encode,
    a_decode: lanes::a_decode,
};

const VECTOR: usize = 8;
const LANES: usize = 2 * VECTOR;

/// The side taps, eight to a vector.
static TAPS: [i16; 4 * VECTOR] = {
    let mut taps = [0; 4 * VECTOR];
    let mut tap = 0;
    while tap < SIDE_TAPS {
        taps[tap] = SIDE[tap];
        tap += 1;
    }
    taps
};

#[inline(always)]
fn sums<const SCALE: i32>(seen: &Phase, middle: &Phase, outputs: usize, made: &mut [i16; BLOCK]) {
    // SAFETY: NEON is part of every aarch64 target; eight samples of the table.
    let taps: [int16x8_t; 4] = core::array::from_fn(|vector| unsafe { vld1q_s16(TAPS.as_ptr().add(vector * VECTOR)) });
    let load = |samples: &Phase, at: usize| {
        let vector: &[i16; VECTOR] = samples[at..at + VECTOR].try_into().expect("a whole vector");
        // SAFETY: NEON, and the eight samples of the load.
        unsafe { vld1q_s16(vector.as_ptr()) }
    };
    for (block, made) in made.chunks_exact_mut(LANES).take(outputs.div_ceil(LANES)).enumerate() {
        let first = block * LANES;
        // SAFETY: NEON.
        let mut sums: [[int32x4_t; 2]; 2] = unsafe { [[vdupq_n_s32(1 << (SCALE - 1)); 2]; 2] };
        macro_rules! add {
            ($($lane:literal)*; $taps:expr, $from:expr) => {$(
                for (half, sums) in sums.iter_mut().enumerate() {
                    let samples = load(seen, first + half * VECTOR + $from + $lane);
                    // SAFETY: NEON.
                    unsafe {
                        sums[0] = vmlal_laneq_s16::<$lane>(sums[0], vget_low_s16(samples), $taps);
                        sums[1] = vmlal_high_laneq_s16::<$lane>(sums[1], samples, $taps);
                    }
                }
            )*};
        }
        add!(0 1 2 3 4 5 6 7; taps[0], 0);
        add!(0 1 2 3 4 5 6 7; taps[1], 8);
        add!(0 1 2 3 4 5 6 7; taps[2], 16);
        add!(0 1; taps[3], 24);
        for (half, mut sums) in sums.into_iter().enumerate() {
            let place = &mut made[half * VECTOR..][..VECTOR];
            // SAFETY: NEON, and `place` is the eight samples of the store.
            unsafe {
                if SCALE == 15 {
                    let middle = load(middle, first + half * VECTOR + MIDDLE);
                    sums[0] = vmlal_n_s16(sums[0], vget_low_s16(middle), 1 << 14);
                    sums[1] = vmlal_high_n_s16(sums[1], middle, 1 << 14);
                }
                let packed = vcombine_s16(vqshrn_n_s32::<SCALE>(sums[0]), vqshrn_n_s32::<SCALE>(sums[1]));
                vst1q_s16(place.as_mut_ptr(), packed);
            }
        }
    }
}

fn energy(pcm: &[i16]) -> u64 {
    let (vectors, rest) = pcm.as_chunks::<VECTOR>();
    // SAFETY: NEON, and the loads take the eight samples of their vector.
    let sum = unsafe {
        let mut sums = [vdupq_n_u64(0); 2];
        for vector in vectors {
            let samples = vld1q_s16(vector.as_ptr());
            let (low, high) =
                (vmull_s16(vget_low_s16(samples), vget_low_s16(samples)), vmull_high_s16(samples, samples));
            sums[0] = vpadalq_u32(sums[0], vreinterpretq_u32_s32(low));
            sums[1] = vpadalq_u32(sums[1], vreinterpretq_u32_s32(high));
        }
        vaddvq_u64(sums[0]) + vaddvq_u64(sums[1])
    };
    sum + (super::scalar().energy)(rest)
}
