//! Framing of byte streams.
