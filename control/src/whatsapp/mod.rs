//! WhatsApp's side of a call: webhooks in, Graph requests out.

pub mod event;
pub mod graph;
pub mod graph_client;
pub mod signature;
