//! What routing can hold.

use engine::time::Duration;

/// Trunks of one configuration. Each costs a few hundred bytes and one pattern; a look-up visits them all.
pub const TRUNKS_MAX: usize = 256;

/// Rules of one configuration (`[[routes]]`). A look-up visits them in order until one matches.
pub const RULES_MAX: usize = 1_024;

/// Characters of a pattern.
pub const PATTERN_BYTES_MAX: usize = 1_024;

/// Bytes of a compiled pattern; repetitions of repetitions grow fast.
pub const PATTERN_PROGRAM_BYTES_MAX: usize = 256 * 1_024;

/// Characters of a dialed number or name that are looked at; longer ones match nothing.
pub const DIALED_BYTES_MAX: usize = 128;

/// Destinations of one call, in the order in which they are tried. What stands behind is left out and said so.
pub const DESTINATIONS_MAX: usize = 16;

/// Entries of a trunk's `allowed_sources` and `certificate_names`.
pub const SOURCES_MAX: usize = 256;

/// How long a trunk that gave no answer is tried after all others.
pub const TRUNK_REST: Duration = Duration::from_secs(30);
