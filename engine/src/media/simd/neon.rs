//! NEON: eight outputs at a time. Its loads take the two phases apart for nothing, so the zero taps are left out.

use super::{RESPONSE, TAPS, check, scalar};
use core::arch::aarch64::{
    int32x4_t, vcombine_s16, vdupq_n_s32, vget_high_s16, vget_low_s16, vld2q_s16, vmlal_n_s16, vqshrn_n_s32, vst1q_s16,
};

const LANES: usize = 8;
const MIDDLE: usize = TAPS / 2;

/// See [`super::Decimate`].
pub fn decimate(window: &[i16], out: &mut [i16]) {
    check(window, out);
    let mut done = 0;
    // The vector of the last tap reaches one sample beyond the last output's window.
    while done + LANES <= out.len() && 2 * (done + LANES) + TAPS - 1 <= window.len() {
        let seen = &window[2 * done..2 * (done + LANES) + TAPS - 1];
        // SAFETY: NEON is part of every aarch64 target; `tap` is even and at most `TAPS - 1`, so that 16 samples from it end at the end of
        // `seen`; the store takes the eight samples of the slice it is given.
        unsafe {
            let mut sums: [int32x4_t; 2] = [vdupq_n_s32(1 << 14); 2];
            for tap in (0..TAPS).step_by(2) {
                let samples = vld2q_s16(seen.as_ptr().add(tap)).0;
                sums[0] = vmlal_n_s16(sums[0], vget_low_s16(samples), RESPONSE[tap]);
                sums[1] = vmlal_n_s16(sums[1], vget_high_s16(samples), RESPONSE[tap]);
            }
            let middle = vld2q_s16(seen.as_ptr().add(MIDDLE - 1)).1;
            sums[0] = vmlal_n_s16(sums[0], vget_low_s16(middle), RESPONSE[MIDDLE]);
            sums[1] = vmlal_n_s16(sums[1], vget_high_s16(middle), RESPONSE[MIDDLE]);
            let packed = vcombine_s16(vqshrn_n_s32::<15>(sums[0]), vqshrn_n_s32::<15>(sums[1]));
            vst1q_s16(out[done..done + LANES].as_mut_ptr(), packed);
        }
        done += LANES;
    }
    scalar::decimate(&window[(2 * done).min(window.len())..], &mut out[done..]);
}
