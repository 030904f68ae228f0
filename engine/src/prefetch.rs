//! Cache lines asked for before they are needed.
//!
//! A packet of a relayed call touches some forty cache lines of its call, each behind a pointer in the one before, and between two packets of
//! one call a core with hundreds of them has seen everything else: nearly all of a relay's time beside the kernel was spent waiting for
//! memory. A worker knows the packets of a turn in advance, so it asks for the lines of the next ones while it handles this one
//! (`worker/turn.rs`, `look_ahead`).
//!
//! Why every structure says itself which of its fields a packet needs: a leg has 55 lines, ten of which a packet touches.
#![allow(unsafe_code)]

/// Size of a cache line on everything this runs on; where it is larger, a line is asked for twice.
const LINE_BYTES: usize = 64;

/// Asks for all lines of `value`; waits for nothing and changes nothing.
#[inline(always)]
pub(crate) fn prefetch<T: ?Sized>(value: &T) {
    prefetch_bytes(core::ptr::from_ref(value).cast(), size_of_val(value));
}

/// Asks for `bytes` bytes of what `option` holds, from `offset` on. Whether it holds anything is not looked at: that would wait for the
/// very memory that is asked for.
#[inline(always)]
pub(crate) fn prefetch_held<T>(option: &Option<T>, offset: usize, bytes: usize) {
    // What an option holds stands at its beginning, or a word behind it; all that hangs on it is speed.
    prefetch_bytes(core::ptr::from_ref(option).cast::<u8>().wrapping_add(offset), bytes);
}

/// Asks for all lines of `bytes` bytes from `start`, which need not be a valid address.
#[inline(always)]
pub(crate) fn prefetch_bytes(start: *const u8, bytes: usize) {
    let first = start.addr() & (LINE_BYTES - 1);
    let mut at = 0;
    while at < first + bytes {
        // The first line's address lies inside what is asked for, the others' on the beginning of a line.
        line(start.wrapping_add(at.saturating_sub(first)));
        at += LINE_BYTES;
    }
}

#[inline(always)]
fn line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads no memory that a program could see, and never faults.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the same.
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_any_size_and_place_can_be_asked_for() {
        let bytes = [7_u8; 1_000];
        for start in 0..130 {
            for len in [0, 1, 63, 64, 65, 500] {
                prefetch(&bytes[start..start + len]);
            }
        }
        prefetch(&());
        assert!(bytes.iter().all(|byte| *byte == 7));
    }
}
