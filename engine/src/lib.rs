//! The media plane of tandem: legs, bridges, and one io_uring loop per core.
//!
//! A *leg* is one media connection (`webrtc` or `rtp`), a *bridge* is two of them, and each direction of a bridge is a *flow*.
//! The engine says A and B; which of them is WhatsApp, a trunk or a softphone is known to control alone.
//!
//! # The path of a packet
//!
//! | step | where | what |
//! |---|---|---|
//! | P1 | [`io`] | the kernel gives a datagram; the loop in [`worker`] finds its bridge by the socket |
//! | P2 | [`demux`] | the first byte says STUN, DTLS, RTP or RTCP (RFC 7983) |
//! | P3 | [`srtp`] | checked and decrypted in place; an rtp leg checks the source instead ([`leg`]) |
//! | P4 | [`media::jitter`] | put in order (Opus; G.711 goes on at once) |
//! | P5 | [`media::decode`] | samples; what is missing is recovered or concealed |
//! | P6 | [`media::resample`] | to 8 kHz |
//! | P7 | [`media::encode`] | the other leg's codec |
//! | P8 | [`rtp`], [`srtp`] | the one stream into that leg: sequence +1, timestamps on the sample clock; protected in place |
//! | P9 | [`io`] | sent with everything else of this turn |
//!
//! Between two legs of one codec P4 to P7 fall away: the payload passes bit for bit. [`bridge`] joins the steps; its `flow.rs`
//! is the page to read first.
//!
//! # The path of a bridge
//!
//! 1. `Open`: the worker binds the ports, both legs draw their credentials and SSRCs; control writes them into descriptions
//!    ([`sdp`]).
//! 2. The peer's description of a leg: a webrtc leg runs [`ice`], then [`dtls`], and has keys; an rtp leg can send.
//! 3. Both formats known: the two flows are made, with all memory they will ever need.
//! 4. `Release` ends the hold of a leg: what the other one said meanwhile is played from its start.
//! 5. Either leg's end, or `Close`: goodbyes on both legs, then `Ended` with side, cause and figures. Nothing is left.
//!
//! # How it is built
//!
//! Everything but [`io`] and [`worker`] is pure: bytes and the time go in; bytes, events and the next deadline come out. After
//! any change `poll_output` is called until it answers `Timeout`. Noise is dropped with a [`error::DropReason`], a call ends
//! with an [`error::End`], a bug panics and costs one bridge. Every capacity stands in [`limits`] or beside its one user, and
//! a frame of a call that is up allocates nothing.
//!
//! # What is deliberately absent
//!
//! No phone numbers, trunks, webhooks or SIP; no mixing, recording or video; no lock and no atomic on the path of a packet; no
//! upsampling (the Opus encoder is fed at 8 kHz); no second local port or shared port for WhatsApp legs; no early media, and no
//! hold of a relayed flow: what a relay cannot send at once is not kept.
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
pub mod prefetch;
pub mod random;
pub mod rtp;
pub mod sdp;
pub mod srtp;
pub mod time;
pub mod worker;
