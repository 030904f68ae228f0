//! The bodies of the fuzz targets: one per parser, and one whole bridge.
//!
//! Each takes any bytes and comes back. What must hold is asserted inside: no panic, every drain ends, no deadline lies in the
//! past, a call or a bridge ends once, what is written can be read. `fuzz_targets/` gives them to libFuzzer, `tests/replay.rs`
//! runs the saved inputs and changed copies of them in every `cargo test`.
//!
//! Where a lock would stop any input at the first byte (STUN's integrity, DTLS, SRTP), the target holds the key: an input then is a
//! script ([`script::Script`]) of what an honest peer does and of how it is disturbed.

mod bridge;
mod dtls;
mod rtp;
pub mod script;
mod sdp;
mod sip;
mod srtp;
pub mod stun;
mod webhook;

pub use bridge::bridge;
pub use dtls::dtls;
pub use rtp::{rtcp, rtp_header, telephone_event};
pub use sdp::sdp;
pub use sip::{sip_agent, sip_message, sip_stream};
pub use srtp::srtp;
pub use stun::stun;
pub use webhook::webhook;

use engine::dtls::Identity;
use std::sync::OnceLock;

/// Steps of one drain, or of one wait; more means that a machine never comes to rest.
const DRAIN_STEPS_MAX: usize = 10_000;

/// A target's name and body.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 12] = [
    ("bridge", bridge),
    ("dtls", dtls),
    ("rtcp", rtcp),
    ("rtp_header", rtp_header),
    ("sdp", sdp),
    ("sip_agent", sip_agent),
    ("sip_message", sip_message),
    ("sip_stream", sip_stream),
    ("srtp", srtp),
    ("stun", stun),
    ("telephone_event", telephone_event),
    ("webhook", webhook),
];

/// One certificate for all inputs: making one costs more than a run.
fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| Identity::generate_for_simulation(7).expect("a certificate"))
}
