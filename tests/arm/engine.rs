//! The engine's vector code alone, without what the engine depends on: builds for any processor in seconds.
#![allow(dead_code, missing_docs)]

#[path = "../../engine/src/media/g711.rs"]
pub mod g711;
#[path = "../../engine/src/media/resample.rs"]
pub mod resample;
#[path = "../../engine/src/media/simd/mod.rs"]
pub mod simd;

pub mod media {
    pub use crate::{g711, resample, simd};
}

/// What G.711 asks of the rest.
mod sdp {
    pub enum Codec {
        Opus,
        Pcmu,
        Pcma,
        G722,
    }
}
