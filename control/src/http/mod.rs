//! What is served over HTTP, and to whom.
//!
//! Three kinds of callers, each with its own proof: WhatsApp signs its webhooks (`webhook`), the other plane bears a token
//! (`edge_api`), and people look at figures and timelines (`status`). Where nothing is configured that a caller could prove itself
//! with, only callers on this host are served; a request that went through a proxy or comes from a foreign web page is not one.

pub mod calls;
pub mod edge_api;
pub mod edge_client;
pub mod exposition;
pub mod listen;
pub mod originate;
pub mod status;
pub mod webhook;

use crate::runtime::Input;
use crate::trace::redact::Secret;
use crate::whatsapp::signature;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Time a request's body may take to arrive.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);

/// What every handler has.
#[derive(Clone)]
pub struct Shared {
    /// The way to the runtime.
    pub inputs: mpsc::Sender<Input>,
    /// Who may do what.
    pub access: Arc<Access>,
    /// What the handlers themselves count.
    pub counters: Arc<HttpCounters>,
    /// Set when the program is about to stop.
    pub draining: Arc<AtomicBool>,
}

impl Shared {
    /// Hands an input to the runtime without waiting; `false`: it has too much to do.
    pub fn offer(&self, input: Input) -> bool {
        let taken = self.inputs.try_send(input).is_ok();
        if !taken {
            self.counters.overloaded.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }
}

/// Counted by the handlers, before anything reaches the runtime.
#[derive(Debug, Default)]
pub struct HttpCounters {
    /// Webhooks taken.
    pub webhooks_taken: AtomicU64,
    /// Webhooks without a valid proof.
    pub webhooks_unproven: AtomicU64,
    /// Webhooks that could not be read.
    pub webhooks_unreadable: AtomicU64,
    /// Events of numbers that their webhook's sender has no say in.
    pub events_foreign: AtomicU64,
    /// Requests of the edge API without a valid token.
    pub edge_unauthorized: AtomicU64,
    /// Requests that found the runtime too busy.
    pub overloaded: AtomicU64,
    /// What the servers' connections count.
    pub connections: Arc<listen::ConnectionCounters>,
}

/// Who may do what.
#[derive(Debug, Default)]
pub struct Access {
    /// Demanded by the edge API, the callbacks and, from elsewhere, by figures and timelines.
    pub edge_token: Secret,
    /// Key of the webhooks' signatures.
    pub app_secret: Secret,
    /// `name: value` that webhooks must carry.
    pub shared_header: Secret,
    /// For the subscription check: that of `[whatsapp]` and those of accounts.
    pub verify_tokens: Vec<Secret>,
    /// Accounts whose webhooks prove themselves with a secret of their own.
    pub senders: Vec<Sender>,
    /// Webhooks that prove nothing are taken from anywhere.
    pub webhooks_open: bool,
    /// A flat `connect` is answered only when the call is accepted or over.
    pub flat_waits: bool,
}

/// A Meta app, or an account of a provider, with a secret of its own: it speaks for its own numbers only.
#[derive(Debug, Default)]
pub struct Sender {
    /// Key of its signatures; empty: it does not sign.
    pub app_secret: Secret,
    /// `name: value` that its webhooks carry; empty: none.
    pub shared_header: Secret,
    /// Its phone number ids.
    pub numbers: BTreeSet<String>,
}

/// Whose webhook it is, by what it proved.
#[derive(Debug)]
pub struct Proven {
    /// Of every number that has no sender of its own.
    others: bool,
    /// Of each sender.
    senders: Vec<bool>,
}

impl Proven {
    /// Whether it proved anything.
    pub fn any(&self) -> bool {
        self.others || self.senders.contains(&true)
    }
}

impl Access {
    /// The edge API and the callbacks: the token where there is one, else callers on this host.
    pub fn admits_plane(&self, peer: SocketAddr, headers: &HeaderMap) -> bool {
        if self.edge_token.0.is_empty() { is_local(peer, headers) } else { self.bears_token(headers) }
    }

    /// Figures and timelines: callers on this host, or with the token.
    pub fn admits_reader(&self, peer: SocketAddr, headers: &HeaderMap) -> bool {
        is_local(peer, headers) || self.bears_token(headers)
    }

    /// Whose a webhook is: every proof that is configured for a sender must be there.
    pub fn proven(&self, peer: SocketAddr, headers: &HeaderMap, body: &[u8]) -> Proven {
        let others = match (self.app_secret.0.as_str(), self.shared_header.0.as_str()) {
            ("", "") => self.webhooks_open || is_local(peer, headers),
            _ => is_proven(&self.app_secret, &self.shared_header, headers, body),
        };
        let proven = |sender: &Sender| is_proven(&sender.app_secret, &sender.shared_header, headers, body);
        Proven { others, senders: self.senders.iter().map(proven).collect() }
    }

    /// Whether who has proven that may speak for a number; none is named by flat webhooks.
    pub fn speaks_for(&self, proven: &Proven, number: Option<&str>) -> bool {
        let of = number.and_then(|number| self.senders.iter().position(|sender| sender.numbers.contains(number)));
        of.map_or(proven.others, |sender| proven.senders.get(sender) == Some(&true))
    }

    /// Whether it is one of our tokens of the subscription check.
    pub fn is_verify_token(&self, token: &str) -> bool {
        self.verify_tokens.iter().any(|ours| !ours.0.is_empty() && signature::same_secret(&ours.0, token))
    }

    fn bears_token(&self, headers: &HeaderMap) -> bool {
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer ")));
        !self.edge_token.0.is_empty()
            && token.is_some_and(|token| signature::same_secret(&self.edge_token.0, token.trim()))
    }
}

fn is_proven(app_secret: &Secret, shared_header: &Secret, headers: &HeaderMap, body: &[u8]) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let shared = match shared_header.0.split_once(':') {
        Some((name, value)) => signature::same_secret(value.trim(), text(name.trim())),
        None => true,
    };
    // The cheap one first: a body may be long.
    shared && (app_secret.0.is_empty() || signature::is_signed(&app_secret.0, body, text(signature::HEADER)))
}

/// Whether the caller is a program on this host: not a proxy's client, and not a web page of somebody else.
fn is_local(peer: SocketAddr, headers: &HeaderMap) -> bool {
    let forwarded = ["forwarded", "x-forwarded-for", "x-real-ip", "via"].iter().any(|name| headers.contains_key(*name));
    let foreign_page = headers.get(header::ORIGIN).is_some_and(|origin| !origin.to_str().is_ok_and(is_loopback_origin));
    peer.ip().to_canonical().is_loopback() && !forwarded && !foreign_page
}

fn is_loopback_origin(origin: &str) -> bool {
    let Some((_, authority)) = origin.split_once("://") else { return false };
    let host = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A failure with its two texts: this one is for the client, the log has its own.
pub fn failure(status: StatusCode, code: &str, message: &str) -> Response {
    let body = json!({"error": {"code": code, "message": message}});
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// Every answer is JSON, also to what nobody serves.
pub fn complete(routes: Router<Shared>) -> Router<Shared> {
    let nowhere = || async { failure(StatusCode::NOT_FOUND, "not_found", "nothing is served at this path") };
    let otherwise =
        || async { failure(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path wants another method") };
    routes.fallback(nowhere).method_not_allowed_fallback(otherwise)
}

/// Reads a body of at most `limit` bytes.
pub async fn read_body(body: Body, limit: usize) -> Result<Bytes, Response> {
    match tokio::time::timeout(BODY_TIME_MAX, axum::body::to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(failure(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the body is longer than the limit")),
        Err(_) => Err(failure(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body did not arrive in time")),
    }
}

/// The answer when the runtime has too much to do.
pub fn overloaded() -> Response {
    let mut response = failure(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "too much to do: try again");
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>()
    }

    #[test]
    fn a_caller_on_this_host_is_neither_a_proxys_client_nor_a_foreign_page() {
        let local: SocketAddr = "127.0.0.1:5000".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:127.0.0.1]:5000".parse().unwrap();
        assert!(is_local(local, &headers(&[])) && is_local(mapped, &headers(&[])));
        assert!(is_local(local, &headers(&[("origin", "http://localhost:9000")])));
        assert!(!is_local("192.0.2.1:5000".parse().unwrap(), &headers(&[])));
        for pair in [
            ("x-forwarded-for", "127.0.0.1"),
            ("forwarded", "for=127.0.0.1"),
            ("origin", "https://evil.example"),
            ("origin", "http://127.0.0.1.evil.example"),
            ("origin", "null"),
        ] {
            assert!(!is_local(local, &headers(&[pair])), "{pair:?}");
        }
    }

    #[test]
    fn a_token_is_demanded_of_callers_on_this_host_too() {
        let access = Access { edge_token: Secret("t".into()), ..Access::default() };
        let local: SocketAddr = "127.0.0.1:5000".parse().unwrap();
        assert!(!access.admits_plane(local, &headers(&[])));
        assert!(!access.admits_plane(local, &headers(&[("authorization", "Bearer x")])));
        assert!(access.admits_plane("192.0.2.1:1".parse().unwrap(), &headers(&[("authorization", "Bearer t")])));
        assert!(
            !Access::default().admits_reader("192.0.2.1:1".parse().unwrap(), &headers(&[("authorization", "Bearer ")]))
        );
    }

    #[test]
    fn every_configured_proof_must_be_there() {
        let peer: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let signed = signature::sign("s", b"body");
        let both =
            Access { app_secret: Secret("s".into()), shared_header: Secret("X-Key: k".into()), ..Access::default() };
        let takes =
            |access: &Access, pairs: &[(&'static str, &str)]| access.proven(peer, &headers(pairs), b"body").any();
        assert!(takes(&both, &[("x-hub-signature-256", &signed), ("x-key", "k")]));
        assert!(!takes(&both, &[("x-hub-signature-256", &signed)]));
        assert!(!takes(&both, &[("x-key", "k")]));
        assert!(!takes(&Access::default(), &[]));
        assert!(takes(&Access { webhooks_open: true, ..Access::default() }, &[]));
    }

    #[test]
    fn a_sender_speaks_for_its_own_numbers_only() {
        let peer: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let sender = |app_secret: &str, header: &str, numbers: &[&str]| Sender {
            app_secret: Secret(app_secret.into()),
            shared_header: Secret(header.into()),
            numbers: numbers.iter().map(|number| (*number).to_owned()).collect(),
        };
        let access = Access {
            app_secret: Secret("main".into()),
            senders: vec![sender("sales", "", &["118", "119"]), sender("", "X-Key: k", &["120"])],
            verify_tokens: vec![Secret("a".into()), Secret(String::new()), Secret("b".into())],
            ..Access::default()
        };
        let signed = |secret: &str| signature::sign(secret, b"body");
        for (pairs, speaks_for) in [
            (vec![("x-hub-signature-256", signed("main"))], vec![None, Some("1")]),
            (vec![("x-hub-signature-256", signed("sales"))], vec![Some("118"), Some("119")]),
            (vec![("x-key", "k".to_owned())], vec![Some("120")]),
            (
                vec![("x-hub-signature-256", signed("sales")), ("x-key", "k".to_owned())],
                vec![Some("118"), Some("119"), Some("120")],
            ),
            (vec![("x-hub-signature-256", signed("other")), ("x-key", "l".to_owned())], vec![]),
        ] {
            let pairs: Vec<(&'static str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let proven = access.proven(peer, &headers(&pairs), b"body");
            let numbers = [None, Some("1"), Some("118"), Some("119"), Some("120")];
            let heard: Vec<Option<&str>> =
                numbers.into_iter().filter(|number| access.speaks_for(&proven, *number)).collect();
            assert_eq!((&heard, proven.any()), (&speaks_for, !speaks_for.is_empty()), "{pairs:?}");
        }
        assert!(access.is_verify_token("a") && access.is_verify_token("b"));
        assert!(!access.is_verify_token("") && !access.is_verify_token("c"));
    }
}
