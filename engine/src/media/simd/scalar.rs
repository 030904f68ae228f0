//! The plain versions: what the others must equal. G.711 by table.
//!
//! Mu-law reads 14 bits of a sample and A-law 12, so tables of 16 KB and 4 KB indexed by the upper bits answer for every one of the 65,536
//! samples. Both are computed by the compiler from the recommendation's algorithm. A table of 64 KB indexed by the whole sample would save
//! one shift, and take more than the whole first-level cache, which the codec beside it needs.

use super::{Kernels, RESPONSE, SIDE, check_between, check_halve};

/// Runs everywhere.
pub static KERNELS: Kernels = Kernels {
    name: "scalar",
    halve,
    between,
    energy,
    mu_encode: mu_encode_by_table,
    mu_decode: mu_decode_by_table,
    a_encode: a_encode_by_table,
    a_decode: a_decode_by_table,
};

fn halve(window: &[i16], out: &mut [i16]) {
    check_halve(window, out);
    for (n, sample) in out.iter_mut().enumerate() {
        *sample = sum::<15>(&window[2 * n..], &RESPONSE);
    }
}

fn between(window: &[i16], out: &mut [i16]) {
    check_between(window, out);
    for (n, sample) in out.iter_mut().enumerate() {
        *sample = sum::<14>(&window[n..], &SIDE);
    }
}

fn sum<const SCALE: u32>(seen: &[i16], taps: &[i16]) -> i16 {
    let sum: i32 = seen[..taps.len()].iter().zip(taps).map(|(&x, &h)| i32::from(x) * i32::from(h)).sum();
    ((sum + (1 << (SCALE - 1))) >> SCALE).clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

fn energy(pcm: &[i16]) -> u64 {
    pcm.iter().map(|&sample| u64::from(sample.unsigned_abs()).pow(2)).sum()
}

fn mu_encode_by_table(pcm: &[i16], out: &mut [u8]) {
    for (byte, &sample) in out.iter_mut().zip(pcm) {
        *byte = MU_ENCODED[usize::from(sample as u16 >> 2)];
    }
}

fn a_encode_by_table(pcm: &[i16], out: &mut [u8]) {
    for (byte, &sample) in out.iter_mut().zip(pcm) {
        *byte = A_ENCODED[usize::from(sample as u16 >> 4)];
    }
}

fn mu_decode_by_table(payload: &[u8], out: &mut [i16]) {
    for (sample, &byte) in out.iter_mut().zip(payload) {
        *sample = MU_DECODED[usize::from(byte)];
    }
}

fn a_decode_by_table(payload: &[u8], out: &mut [i16]) {
    for (sample, &byte) in out.iter_mut().zip(payload) {
        *sample = A_DECODED[usize::from(byte)];
    }
}

static MU_ENCODED: [u8; 1 << 14] = {
    let mut table = [0; 1 << 14];
    let mut index = 0;
    while index < table.len() {
        table[index] = mu_encode((index << 2) as u16 as i16);
        index += 1;
    }
    table
};

static A_ENCODED: [u8; 1 << 12] = {
    let mut table = [0; 1 << 12];
    let mut index = 0;
    while index < table.len() {
        table[index] = a_encode((index << 4) as u16 as i16);
        index += 1;
    }
    table
};

static MU_DECODED: [i16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = mu_decode(byte as u8);
        byte += 1;
    }
    table
};

static A_DECODED: [i16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = a_decode(byte as u8);
        byte += 1;
    }
    table
};

/// Mu-law of one sample. Negative samples are taken in one's complement, as the recommendation's sign and magnitude.
pub const fn mu_encode(sample: i16) -> u8 {
    let positive = sample >= 0;
    let magnitude = (if positive { sample } else { !sample } as u16 >> 2) + 33;
    let magnitude = if magnitude > 0x1fff { 0x1fff } else { magnitude };
    // The position of the leading one names the segment: 1 to 8.
    let segment = 16 - (magnitude >> 6).leading_zeros() + 1;
    let high = 8 - segment as u8;
    let low = 0x0f - (magnitude >> segment & 0x0f) as u8;
    (positive as u8) << 7 | high << 4 | low
}

/// The sample of one byte of mu-law.
pub const fn mu_decode(byte: u8) -> i16 {
    let exponent = !byte >> 4 & 0x07;
    let mantissa = (!byte & 0x0f) as i16;
    let step = 8 << exponent;
    let magnitude = (0x80 << exponent) + step * mantissa + step / 2 - 4 * 33;
    if byte & 0x80 != 0 { magnitude } else { -magnitude }
}

/// A-law of one sample.
pub const fn a_encode(sample: i16) -> u8 {
    let positive = sample >= 0;
    let mut code = if positive { sample } else { !sample } as u16 >> 4;
    if code > 15 {
        let segment = 16 - (code >> 5).leading_zeros() + 1;
        code = (code >> (segment - 1)) - 16 + ((segment as u16) << 4);
    }
    ((positive as u8) << 7 | code as u8) ^ 0x55
}

/// The sample of one byte of A-law.
pub const fn a_decode(byte: u8) -> i16 {
    let code = byte ^ 0x55;
    let exponent = code >> 4 & 0x07;
    let mantissa = (code & 0x0f) as i16;
    let magnitude = match exponent {
        0 => (mantissa << 4) + 8,
        exponent => (((mantissa + 16) << 4) + 8) << (exponent - 1),
    };
    if byte & 0x80 != 0 { magnitude } else { -magnitude }
}
