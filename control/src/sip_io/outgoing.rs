//! Connecting: TCP, then TLS against the name that was asked for, then WebSocket.

use super::connection::{Line, Reason, watch_over, websocket_config};
use super::limits::CONNECT_TIME_MAX;
use super::tls::{Server, peer_identity};
use super::{Heard, SipIoSettings};
use crate::sip::transport::{Hop, PeerIdentity, Transport};
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

/// What every connection of ours needs.
#[derive(Clone)]
pub(super) struct Connector {
    tls: TlsConnector,
    /// By name, for servers that want something of their own.
    own: Arc<[(String, TlsConnector)]>,
}

impl Connector {
    pub fn new(settings: &SipIoSettings) -> io::Result<Connector> {
        let certificates = &settings.certificates;
        let own = |server: &Server| Ok((server.name.clone(), certificates.connector(Some(server))?));
        let own = settings.servers.iter().map(own).collect::<io::Result<Vec<_>>>()?;
        Ok(Connector { tls: certificates.connector(None)?, own: own.into() })
    }

    /// The one for a server: `asked` is its name, or its address where it has none.
    fn toward(&self, asked: &str) -> &TlsConnector {
        let own = self.own.iter().find(|(name, _)| name.eq_ignore_ascii_case(asked));
        own.map_or(&self.tls, |(_, connector)| connector)
    }
}

/// Connects, and carries what was queued meanwhile and everything after it.
pub(super) async fn run(connector: Connector, line: Line) {
    let hop = line.hop.clone();
    let seat = match line.shared.admit(hop.remote.ip()) {
        Ok(seat) => seat,
        Err(why) => return give_up(line, &Reason::Broken(why.to_owned())).await,
    };
    let connecting = connect(connector, &hop);
    match timeout(CONNECT_TIME_MAX, connecting).await.unwrap_or(Err(Reason::TimedOut)) {
        Ok(Stream::Tcp(stream)) => line.carry_stream(stream, PeerIdentity::default(), true).await,
        Ok(Stream::Tls(stream)) => {
            let peer = peer_identity(stream.get_ref().1.peer_certificates());
            line.carry_stream(stream, peer, true).await;
        }
        Ok(Stream::Ws(socket)) => line.carry_websocket(socket, PeerIdentity::default(), true).await,
        Ok(Stream::Wss(socket)) => {
            let peer = peer_identity(socket.get_ref().get_ref().1.peer_certificates());
            line.carry_websocket(*socket, peer, true).await;
        }
        Err(reason) => give_up(line, &reason).await,
    }
    drop(seat);
}

#[expect(clippy::large_enum_variant, reason = "one per connection, moved once into its task")]
enum Stream {
    Tcp(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    Ws(WebSocketStream<TcpStream>),
    Wss(Box<WebSocketStream<tokio_rustls::client::TlsStream<TcpStream>>>),
}

async fn give_up(line: Line, reason: &Reason) {
    let Line { hop, shared, .. } = line;
    shared.unreachable.fetch_add(1, Ordering::Relaxed);
    shared.complain(|| {
        let name = hop.domain.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
        format!("SIP over {} to {}{name}: cannot connect, {reason}", hop.transport, hop.remote)
    });
    let _ = shared.heard.send(Heard::Lost { hop, failed: true }).await;
}

async fn connect(connector: Connector, hop: &Hop) -> Result<Stream, Reason> {
    let stream = TcpStream::connect(hop.remote).await.map_err(|error| Reason::Broken(error.to_string()))?;
    watch_over(&stream);
    match hop.transport {
        // Datagrams do not come here.
        Transport::Udp | Transport::Tcp => Ok(Stream::Tcp(stream)),
        Transport::Ws => Ok(Stream::Ws(upgrade(stream, hop).await?)),
        Transport::Tls => Ok(Stream::Tls(Box::new(secure(connector, stream, hop).await?))),
        Transport::Wss => {
            let stream = secure(connector, stream, hop).await?;
            Ok(Stream::Wss(Box::new(upgrade(stream, hop).await?)))
        }
    }
}

/// TLS with SNI, verified against the domain that was asked for (RFC 5922 §7.1); an address against itself.
/// Of servers that need not prove who they are, only the handshake's signature is checked.
async fn secure(
    connector: Connector,
    stream: TcpStream,
    hop: &Hop,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Reason> {
    let name = match hop.domain.as_deref().filter(|domain| domain.parse::<std::net::IpAddr>().is_err()) {
        Some(domain) => ServerName::try_from(domain.to_owned())
            .map_err(|_| Reason::Tls(format!("{domain} is no name that a certificate could carry")))?,
        None => ServerName::IpAddress(hop.remote.ip().into()),
    };
    let asked = name.to_str();
    connector.toward(&asked).connect(name.clone(), stream).await.map_err(|error| Reason::Tls(error.to_string()))
}

/// RFC 7118 §4.1: the subprotocol is asked for and must be granted.
async fn upgrade<S>(stream: S, hop: &Hop) -> Result<WebSocketStream<S>, Reason>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let scheme = if hop.transport == Transport::Wss { "wss" } else { "ws" };
    let host = hop.domain.as_deref().map(|domain| authority(domain, hop.remote)).unwrap_or(hop.remote.to_string());
    let refused = |error: tokio_tungstenite::tungstenite::Error| Reason::WebSocket(error.to_string());
    let mut request = format!("{scheme}://{host}/").into_client_request().map_err(refused)?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("sip"));
    let config = Some(websocket_config());
    let (socket, response) =
        tokio_tungstenite::client_async_with_config(request, stream, config).await.map_err(refused)?;
    let granted = response.headers().get("Sec-WebSocket-Protocol").is_some_and(|protocol| protocol == "sip");
    if granted { Ok(socket) } else { Err(Reason::WebSocket("the server does not speak sip".to_owned())) }
}

fn authority(domain: &str, remote: SocketAddr) -> String {
    format!("{domain}:{}", remote.port())
}
