//! G.711 and the phases of the filter in plain code without branches or tables: compilers turn it into vectors of whatever width is at hand.
//! Each version of the kernels has these compiled into itself, with its own instructions.
//!
//! Why the encoders go through floating point: a law's code is the exponent and the upper four bits of the fraction of its magnitude, so
//! the conversion that every vector unit has finds the segment. Below 2^24 it is exact.

use super::{SIDE_TAPS, check_between, check_halve};

/// What the exponent of a `f32` that is 1 reads.
const BIAS: i32 = 127;
/// Bits of a fraction below the upper four.
const BELOW: u32 = 19;

/// Mu-law of each sample of `pcm`, as far as both reach.
#[inline(always)]
pub fn mu_encode(pcm: &[i16], out: &mut [u8]) {
    for (byte, &sample) in out.iter_mut().zip(pcm) {
        let sign = i32::from(sample >> 15);
        let magnitude = (((i32::from(sample) ^ sign) >> 2) + 33).min(0x1fff);
        // From 33 on: the first segment's exponent is 5.
        let code = ((magnitude as f32).to_bits() >> BELOW) as i32 - ((BIAS + 5) << 4);
        *byte = (code ^ 0xff ^ (sign & 0x80)) as u8;
    }
}

/// A-law of each sample of `pcm`, as far as both reach.
#[inline(always)]
pub fn a_encode(pcm: &[i16], out: &mut [u8]) {
    for (byte, &sample) in out.iter_mut().zip(pcm) {
        let sign = i32::from(sample >> 15);
        let magnitude = (i32::from(sample) ^ sign) >> 4;
        // Two segments are linear; from 16 on the fraction says the same.
        let curved = ((magnitude as f32).to_bits() >> BELOW) as i32 - ((BIAS + 3) << 4);
        let code = if magnitude < 16 { magnitude } else { curved };
        *byte = (code ^ 0xd5 ^ (sign & 0x80)) as u8;
    }
}

/// The sample of each byte of mu-law, as far as both reach.
#[inline(always)]
pub fn mu_decode(payload: &[u8], out: &mut [i16]) {
    for (sample, &byte) in out.iter_mut().zip(payload) {
        let code = i16::from(!byte);
        let magnitude = ((2 * (code & 0x0f) + 33) << ((code >> 4 & 0x07) + 2)) - 4 * 33;
        // All ones where the sign bit of the wire is 0.
        let sign = -(code >> 7);
        *sample = (magnitude ^ sign) - sign;
    }
}

/// The sample of each byte of A-law, as far as both reach.
#[inline(always)]
pub fn a_decode(payload: &[u8], out: &mut [i16]) {
    for (sample, &byte) in out.iter_mut().zip(payload) {
        let code = i16::from(byte ^ 0x55);
        let segment = code >> 4 & 0x07;
        let curved = segment.min(1);
        let magnitude = (16 * (code & 0x0f) + 8 + 256 * curved) << (segment - curved);
        let sign = (code >> 7) - 1;
        *sample = (magnitude ^ sign) - sign;
    }
}

/// Outputs of the filter made at a time: 20 ms of 8 kHz.
pub const BLOCK: usize = 160;

/// Outputs that a version may make at once. They divide a block, so none of its sums is left over for plain code.
pub const LANES_MAX: usize = 32;
const _: () = assert!(BLOCK.is_multiple_of(LANES_MAX));

/// Every second sample of what a block's sums see, and room for vectors that reach beyond it.
pub type Phase = [i16; BLOCK + LANES_MAX];
const _: () = assert!(SIDE_TAPS - 1 <= LANES_MAX);

/// See [`super::Kernels::halve`]. `sums(seen, middle, outputs, made)` makes at least so many outputs of a block: `made[n]` is the scaled sum of
/// `seen[n..][..26]` by the side taps and of `middle[n + 12]` by the middle one.
#[inline(always)]
pub fn halve(window: &[i16], out: &mut [i16], sums: impl Fn(&Phase, &Phase, usize, &mut [i16; BLOCK])) {
    check_halve(window, out);
    let (mut even, mut odd, mut made) = ([0; BLOCK + LANES_MAX], [0; BLOCK + LANES_MAX], [0; BLOCK]);
    for (block, out) in out.chunks_mut(BLOCK).enumerate() {
        let window = &window[2 * BLOCK * block..];
        let window = &window[..window.len().min(2 * (out.len() + SIDE_TAPS - 1))];
        for ((even, odd), pair) in even.iter_mut().zip(&mut odd).zip(window.chunks_exact(2)) {
            (*even, *odd) = (pair[0], pair[1]);
        }
        if window.len() % 2 == 1 {
            even[window.len() / 2] = window[window.len() - 1];
        }
        sums(&even, &odd, out.len(), &mut made);
        out.copy_from_slice(&made[..out.len()]);
    }
}

/// See [`super::Kernels::between`]. `sums` as above, without the middle tap and scaled by a bit less.
#[inline(always)]
pub fn between(window: &[i16], out: &mut [i16], sums: impl Fn(&Phase, &Phase, usize, &mut [i16; BLOCK])) {
    check_between(window, out);
    let (mut seen, mut made) = ([0; BLOCK + LANES_MAX], [0; BLOCK]);
    for (block, out) in out.chunks_mut(BLOCK).enumerate() {
        let window = &window[BLOCK * block..][..out.len() + SIDE_TAPS - 1];
        seen[..window.len()].copy_from_slice(window);
        sums(&seen, &[0; BLOCK + LANES_MAX], out.len(), &mut made);
        out.copy_from_slice(&made[..out.len()]);
    }
}
