//! Samples: jitter buffer, codecs, resampling. Knows nothing of packets' headers.
//!
//! ```text
//! Opus  -> PCMU   jitter -> decode at 16 kHz -> resample to 8 kHz -> encode by table     paced by playout
//! PCMU  -> Opus   decode by table -> encode at 8 kHz                                     paced by arrival
//! ```
//!
//! Everything is mono. Why these rates: a decoder asked for 16 kHz costs less than one asked for 8 (its own resampler is dearer than
//! our filter), and an encoder fed at 8 kHz costs half of one fed at 48.

pub mod arrivals;
pub mod comfort;
pub mod conceal;
pub mod decode;
#[cfg(feature = "deep-plc")]
pub mod deep;
pub mod encode;
pub mod g711;
pub mod g722;
pub mod jitter;
pub mod opus;
pub mod redundancy;
pub mod resample;
mod silk;
pub mod simd;
pub mod stretch;

#[cfg(test)]
mod chain;
