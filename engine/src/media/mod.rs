//! Samples: jitter buffer, codecs, resampling. Knows nothing of packets' headers.

pub mod decode;
pub mod encode;
pub mod jitter;
pub mod resample;
pub mod simd;
