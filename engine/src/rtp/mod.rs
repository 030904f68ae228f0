//! RTP and RTCP: packets, not samples (RFC 3550, 3551, 4733).

pub mod header;
pub mod rtcp;
pub mod sender;
pub mod sequence;
pub mod telephone_event;
