//! In and out: the only system calls, the only clock.

pub mod clock;
