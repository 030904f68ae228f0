//! The plain versions: what the others must equal.

use super::{RESPONSE, check};

/// See [`super::Decimate`].
pub fn decimate(window: &[i16], out: &mut [i16]) {
    check(window, out);
    for (n, sample) in out.iter_mut().enumerate() {
        let seen = &window[2 * n..2 * n + RESPONSE.len()];
        let sum: i32 = seen.iter().zip(&RESPONSE).map(|(&x, &h)| i32::from(x) * i32::from(h)).sum();
        *sample = ((sum + (1 << 14)) >> 15).clamp(i16::MIN.into(), i16::MAX.into()) as i16;
    }
}
