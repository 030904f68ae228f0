//! The control plane of tandem: calls, routes, people. Never touches a packet.
//!
//! The path of a call: `http::webhook` proves and reads what WhatsApp says, `call::orchestrator` decides (one `call::machine` per
//! call), `call::edge` opens a session: a bridge of the engine (`engine_link`) and a call of the SIP agent (`sip`). Both planes
//! meet only in `call`'s messages, so they run in one process (`tandem`) or in two (`tandem orchestrator`, `tandem edge`) with the
//! same code. `runtime` is the one task that owns all of it.
//!
//! Why the machines are pure: a call is decided by the order in which webhooks, Graph replies, SIP messages and timers come, and
//! only what can be replayed from a seed can be tested in every order.
#![forbid(unsafe_code)]

pub mod call;
pub mod check;
pub mod cli;
mod cli_call;
pub mod client;
pub mod config;
pub mod engine_link;
pub mod figures;
pub mod http;
pub mod registrar;
pub mod route;
pub mod runtime;
pub mod server;
pub mod sip;
pub mod sip_io;
pub mod store;
pub mod trace;
pub mod whatsapp;

pub use server::run;
