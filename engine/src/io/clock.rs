//! The only clock of the engine.

use crate::time::{Duration, Instant, WallAnchor};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

static START: OnceLock<std::time::Instant> = OnceLock::new();

/// Now, counted from the first call in this process.
pub fn now() -> Instant {
    Instant::from_nanos(start().elapsed().as_nanos() as u64)
}

/// Our instant as the standard library's, for a library that wants one. The base is the process start, taken once: no
/// clock is read here, so virtual time passes through unchanged.
pub fn to_std(instant: Instant) -> std::time::Instant {
    /// Where `Instant::NEVER` and its like end up: 100 years, which every platform can represent.
    const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    start() + instant.since(Instant::ZERO).min(FAR)
}

/// The inverse of [`to_std`].
pub fn from_std(instant: std::time::Instant) -> Instant {
    Instant::ZERO + instant.saturating_duration_since(start())
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
fn start() -> std::time::Instant {
    *START.get_or_init(std::time::Instant::now)
}

/// Joins `now` to the calendar. Read once at start.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the calendar")]
pub fn wall_anchor() -> WallAnchor {
    /// Seconds from 1900 to 1970 (RFC 5905 §6).
    const NTP_UNIX_OFFSET: u64 = 2_208_988_800;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at_zero = since_epoch.saturating_sub(now().since(Instant::ZERO));
    let fraction = (u64::from(at_zero.subsec_nanos()) << 32) / 1_000_000_000;
    WallAnchor { ntp_at_zero: ((at_zero.as_secs() + NTP_UNIX_OFFSET) << 32) | fraction }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_time_passes_through_the_standard_instant_unchanged() {
        for nanos in [0, 1, 20_000_000, u64::from(u32::MAX) * 1_000_000_007 / 3] {
            let instant = Instant::from_nanos(nanos);
            assert_eq!(from_std(to_std(instant)), instant);
        }
        assert_eq!(to_std(Instant::from_millis(70)) - to_std(Instant::from_millis(50)), Duration::from_millis(20));
        assert!(to_std(Instant::NEVER) > to_std(Instant::from_millis(1 << 40)));
    }
}
