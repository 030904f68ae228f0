//! The control plane of tandem: calls, routes, people. Never touches a packet.
#![forbid(unsafe_code)]

pub mod call;
pub mod client;
pub mod config;
pub mod http;
pub mod sip;
pub mod trace;
pub mod whatsapp;
