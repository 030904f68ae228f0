//! What happened in a call, and when.

pub mod timeline;
