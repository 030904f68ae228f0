//! What happened in a call, and when: steps (`timeline`), SIP messages (`messages`), and how both are shown.

pub mod board;
pub mod cdr;
pub mod hep;
pub mod ladder;
pub mod log;
pub mod mask;
pub mod messages;
pub mod redact;
pub mod scrub;
pub mod timeline;
pub mod verdict;
