//! The media plane of tandem: legs, bridges, and one io_uring loop per core.
//!
//! The full map of both paths is written by the last hand on this crate.
#![deny(unsafe_code)]

pub mod bridge;
pub mod config;
pub mod demux;
pub mod dtls;
pub mod error;
pub mod ice;
pub mod io;
pub mod leg;
pub mod limits;
pub mod media;
pub mod metrics;
pub mod random;
pub mod rtp;
pub mod sdp;
pub mod srtp;
pub mod time;
pub mod worker;
