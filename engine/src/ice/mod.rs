//! Connectivity: one agent, lite or full (RFC 8445), regular nomination, consent (RFC 7675).
//!
//! ```text
//!  full:  Checking --first success, short wait--> Nominating --answer--> Nominated --30 s without answer--> ConsentLost
//!            |                                        |
//!            +---------------- ICE_MS_MAX ------------+--> Failed
//!  lite:  Listening --USE-CANDIDATE--> Nominated (moves with every later USE-CANDIDATE)
//! ```
//!
//! `agent` holds the states and decides, `pairs` is the bounded table of remote addresses with their checks, `consent`
//! the checks after nomination, `stun` the messages. One component and one local socket per leg, so a candidate pair is
//! a remote address and nothing is ever frozen.
//!
//! Nobody but the holder of a password moves the agent: what is not authenticated is dropped with a reason, at most
//! answered with the error that RFC 8489 §9.1.3 asks for, and changes nothing.
//!
//! **Why** an agent of our own: toward WhatsApp the gateway must control, nominate once and never switch the pair; the
//! libraries re-nominate or are asynchronous. The two roles share everything but the decision to send.

mod agent;
mod consent;
mod pairs;
#[cfg(test)]
mod simulation;
mod stun;

pub use agent::{IceAgent, IceCredentials, IceOutput, IceRole};
