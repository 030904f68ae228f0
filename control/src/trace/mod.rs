//! What happened in a call, and when.

pub mod redact;
pub mod timeline;
