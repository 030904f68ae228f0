//! The far ends of a call, over real sockets: a WebRTC caller, an ICE-lite offerer, a SIP answerer.
//!
//! `tandem call`, the stand-ins, tests and benches share them. Each runs in one tokio task that owns its sockets and one leg
//! of the engine; what it sees and hears is published in a [`tokio::sync::watch`] channel, so that a test can wait for a fact
//! instead of sleeping.
//!
//! ```text
//! socket ─ datagram ─> wire::Counters ─> leg ─> audio::Receiver ─> Observed.heard
//! Observed.sent_speech <─ audio::Sender (20 ms clock) ─> leg ─ datagram ─> socket
//! ```
//!
//! Why real legs of our own and not a second WebRTC implementation: these are tools, and the proof against foreign code is
//! made by the interop tests. What the wire carried is nevertheless counted from the raw datagrams, before any of our protocol
//! code has looked at them: "no RTP before accept" must not depend on the code under test.

pub mod audio;
pub mod dial;
pub mod observed;
pub mod pcm;
pub mod sip_answerer;
pub mod socket;
pub mod speech;
pub mod wav;
pub mod webrtc_answerer;
pub mod webrtc_caller;
pub mod webrtc_offerer;
pub mod webrtc_peer;
pub mod wire;

#[cfg(test)]
mod tests;

use engine::random::Random;

/// A random stream seeded by the system.
pub fn system_random() -> Random {
    let mut seed = [0; 32];
    // Fails only where the system has no entropy source at all; nothing could be encrypted there.
    aws_lc_rs::rand::fill(&mut seed).expect("the system gives random bytes");
    Random::from_seed(seed)
}
