//! The only clock of the engine.

use crate::time::{Instant, WallAnchor};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

static START: OnceLock<std::time::Instant> = OnceLock::new();

/// Now, counted from the first call in this process.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
pub fn now() -> Instant {
    let start = *START.get_or_init(std::time::Instant::now);
    Instant::from_nanos(start.elapsed().as_nanos() as u64)
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
