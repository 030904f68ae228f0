//! SIP over WebSocket (RFC 7118): the handshake's rules, and the door for connections that an HTTP server has taken.
//!
//! [`Door::upgrade`] makes `/sip` of any HTTP server a way in: it judges the request, answers 101, and hands the upgraded stream to a
//! task of its own. A browser page of the same origin needs no further port and no further certificate that way.

use super::Shared;
use super::connection::{Line, Reason, websocket_config};
use crate::sip::transport::{PeerIdentity, Transport};
use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode, header};
use base64::Engine;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse};
use tokio_tungstenite::tungstenite::protocol::Role;

/// The subprotocol's name (RFC 7118 §8.2).
const SUBPROTOCOL: &str = "sip";

/// Judges a handshake at a listener of ours.
pub(super) struct Handshake<'a> {
    pub origins_allowed: &'a [String],
}

impl Callback for Handshake<'_> {
    fn on_request(
        self,
        request: &tokio_tungstenite::tungstenite::handshake::server::Request,
        mut response: tokio_tungstenite::tungstenite::handshake::server::Response,
    ) -> Result<tokio_tungstenite::tungstenite::handshake::server::Response, ErrorResponse> {
        match judge(request.headers(), self.origins_allowed) {
            Ok(()) => {
                let name = header::HeaderValue::from_static(SUBPROTOCOL);
                response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, name);
                Ok(response)
            }
            Err((status, why)) => {
                let mut refusal = ErrorResponse::new(Some(why.to_owned()));
                *refusal.status_mut() = status;
                Err(refusal)
            }
        }
    }
}

/// RFC 7118 §4.1, and the Origin rule of RFC 6455 §10.2.
fn judge(headers: &HeaderMap, origins_allowed: &[String]) -> Result<(), (StatusCode, &'static str)> {
    let mut offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    if !offered.any(|list| list.split(',').any(|name| name.trim().eq_ignore_ascii_case(SUBPROTOCOL))) {
        return Err((StatusCode::BAD_REQUEST, "ask for the WebSocket subprotocol sip"));
    }
    // Programs that are no browsers send no Origin, and could forge one.
    let origin = headers.get(header::ORIGIN).and_then(|value| value.to_str().ok());
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let allowed = match origin {
        None => true,
        Some(_) if origins_allowed.is_empty() => true,
        Some(origin) => {
            let own = host.is_some_and(|host| origin.split_once("://").is_some_and(|(_, of)| of == host));
            own || origins_allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
        }
    };
    if allowed { Ok(()) } else { Err((StatusCode::FORBIDDEN, "pages of this origin may not connect")) }
}

/// The way in for WebSocket connections that an HTTP server takes.
#[derive(Clone)]
pub struct Door {
    shared: Arc<Shared>,
}

impl Door {
    pub(super) fn new(shared: Arc<Shared>) -> Door {
        Door { shared }
    }

    /// Answers a request to upgrade. `secure`: it came over TLS, so the transport is WSS; behind a proxy that ends TLS it is too.
    pub fn upgrade(&self, mut request: Request<Body>, remote: SocketAddr, secure: bool) -> Response<Body> {
        let key = match self.check(request.headers()) {
            Ok(key) => key,
            Err((status, why)) => {
                self.shared.failed(transport(secure), remote, &Reason::WebSocket(why.to_owned()));
                return plain(status, why);
            }
        };
        let seat = match self.shared.admit(remote.ip()) {
            Ok(seat) => seat,
            Err(why) => return plain(StatusCode::SERVICE_UNAVAILABLE, why),
        };
        let (door, upgrade) = (self.clone(), hyper::upgrade::on(&mut request));
        tokio::spawn(async move {
            match upgrade.await {
                Ok(upgraded) => door.carry(TokioIo::new(upgraded), remote, secure).await,
                Err(error) => door.shared.failed(transport(secure), remote, &Reason::WebSocket(error.to_string())),
            }
            drop(seat);
        });
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
            .header(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
            .body(Body::empty());
        response.unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be written"))
    }

    /// Carries a WebSocket connection whose handshake is over, until it ends.
    pub async fn carry<S>(&self, stream: S, remote: SocketAddr, secure: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(websocket_config())).await;
        let line = Line::accepted(&self.shared, transport(secure), remote).await;
        line.carry_websocket(socket, PeerIdentity::default(), false).await;
    }

    /// RFC 6455 §4.2.1: the key of a request that may be upgraded.
    fn check(&self, headers: &HeaderMap) -> Result<String, (StatusCode, &'static str)> {
        let has = |name: header::HeaderName, token: &str| {
            let values = headers.get_all(name);
            values
                .iter()
                .filter_map(|value| value.to_str().ok())
                .any(|list| list.split(',').any(|element| element.trim().eq_ignore_ascii_case(token)))
        };
        if !has(header::CONNECTION, "upgrade") || !has(header::UPGRADE, "websocket") {
            return Err((StatusCode::UPGRADE_REQUIRED, "SIP is spoken over WebSocket here"));
        }
        if !has(header::SEC_WEBSOCKET_VERSION, "13") {
            return Err((StatusCode::BAD_REQUEST, "WebSocket version 13 is spoken here"));
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY).and_then(|value| value.to_str().ok()).unwrap_or("");
        let decoded = base64::engine::general_purpose::STANDARD.decode(key);
        if decoded.is_ok_and(|bytes| bytes.len() == 16) {
            judge(headers, &self.shared.origins_allowed)?;
            return Ok(key.to_owned());
        }
        Err((StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing"))
    }
}

fn transport(secure: bool) -> Transport {
    if secure { Transport::Wss } else { Transport::Ws }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_subprotocol_is_demanded_and_foreign_pages_are_kept_out_where_that_is_configured() {
        let own = ["https://agents.example".to_owned()];
        let ask = |pairs: &[(&'static str, &str)], allowed: &[String]| {
            judge(&headers(pairs), allowed).map_err(|(s, _)| s.as_u16())
        };
        assert_eq!(ask(&[], &[]), Err(400));
        assert_eq!(ask(&[("sec-websocket-protocol", "chat")], &[]), Err(400));
        let sip = ("sec-websocket-protocol", "chat, SIP");
        assert_eq!(ask(&[sip], &own), Ok(()));
        assert_eq!(ask(&[sip, ("origin", "https://evil.example")], &[]), Ok(()));
        assert_eq!(ask(&[sip, ("origin", "https://evil.example")], &own), Err(403));
        assert_eq!(ask(&[sip, ("origin", "https://agents.example")], &own), Ok(()));
        assert_eq!(ask(&[sip, ("origin", "https://gw:7443"), ("host", "gw:7443")], &own), Ok(()));
    }
}
