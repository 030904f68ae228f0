//! Time as the engine sees it: a number handed in, never a clock that is read.

use core::ops::{Add, Sub};
pub use core::time::Duration;

/// Nanoseconds since the process (or the simulation) started. Virtual time therefore starts at zero and is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// When the process started.
    pub const ZERO: Instant = Instant(0);
    /// A deadline that never comes: "no timer is running".
    pub const NEVER: Instant = Instant(u64::MAX);

    /// The instant `nanos` after the start.
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    /// The instant `millis` after the start.
    pub const fn from_millis(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    /// Nanoseconds since the start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole milliseconds since the start.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Time since `earlier`; zero when `earlier` is later.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// `millis` later.
    pub const fn plus_millis(self, millis: u64) -> Instant {
        Instant(self.0.saturating_add(millis.saturating_mul(1_000_000)))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;

    fn sub(self, earlier: Instant) -> Duration {
        self.since(earlier)
    }
}

/// Joins the engine's clock to the calendar: read once at start, used by RTCP sender reports only.
#[derive(Clone, Copy, Debug)]
pub struct WallAnchor {
    /// NTP time (RFC 5905 §6: seconds since 1900 << 32 | fraction) at [`Instant::ZERO`].
    pub ntp_at_zero: u64,
}

impl WallAnchor {
    /// 64-bit NTP timestamp of `now` (RFC 3550 §4).
    pub fn ntp(self, now: Instant) -> u64 {
        let nanos = u128::from(now.as_nanos());
        self.ntp_at_zero.wrapping_add(((nanos << 32) / 1_000_000_000) as u64)
    }
}

/// An RTP timestamp: counts samples of its stream's clock rate, wraps (RFC 3550 §5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RtpTimestamp(pub u32);

impl RtpTimestamp {
    /// `ticks` later, wrapping.
    pub const fn plus(self, ticks: u32) -> RtpTimestamp {
        RtpTimestamp(self.0.wrapping_add(ticks))
    }

    /// Signed distance from `earlier` in ticks, correct across one wrap.
    pub const fn distance_from(self, earlier: RtpTimestamp) -> i32 {
        self.0.wrapping_sub(earlier.0) as i32
    }
}
