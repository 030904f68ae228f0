//! Accepting: limits first, then the handshakes, then the connection's own task.

use super::connection::{Line, Reason, watch_over, websocket_config};
use super::limits::HANDSHAKE_TIME_MAX;
use super::tls::peer_identity;
use super::websocket::Handshake;
use super::{Seat, Shared};
use crate::sip::transport::{PeerIdentity, Transport};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// Pause after the system refused a connection, for want of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts for as long as the program runs.
pub(super) async fn run(socket: TcpListener, transport: Transport, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>) {
    loop {
        // Held until the handshake is over. The semaphore is never closed.
        let Ok(permit) = shared.handshakes.clone().acquire_owned().await else { return };
        let (stream, remote) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                shared.complain(|| format!("SIP over {transport}: no connection can be accepted: {error}"));
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match shared.admit(remote.ip()) {
            Ok(seat) => {
                let (acceptor, shared) = (acceptor.clone(), shared.clone());
                tokio::spawn(accepted(stream, remote, transport, acceptor, shared, (permit, seat)));
            }
            Err(why) => shared.complain(|| format!("SIP over {transport} from {remote}: refused, {why}")),
        }
    }
}

async fn accepted(
    stream: TcpStream,
    remote: SocketAddr,
    transport: Transport,
    acceptor: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    (permit, seat): (OwnedSemaphorePermit, Seat),
) {
    watch_over(&stream);
    let Some(acceptor) = acceptor else {
        return serve(stream, PeerIdentity::default(), remote, transport, &shared, (permit, seat)).await;
    };
    let secured = timeout(HANDSHAKE_TIME_MAX, async {
        check_tls(&stream).await?;
        acceptor.accept(stream).await.map_err(|error| Reason::Tls(error.to_string()))
    });
    match secured.await.unwrap_or(Err(Reason::TimedOut)) {
        Ok(stream) => {
            let peer = peer_identity(stream.get_ref().1.peer_certificates());
            serve(stream, peer, remote, transport, &shared, (permit, seat)).await;
        }
        Err(reason) => shared.failed(transport, remote, &reason),
    }
}

/// What is spoken once the bytes flow.
async fn serve<S>(
    stream: S,
    peer: PeerIdentity,
    remote: SocketAddr,
    transport: Transport,
    shared: &Arc<Shared>,
    (permit, seat): (OwnedSemaphorePermit, Seat),
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if !transport.is_websocket() {
        drop(permit);
        let line = Line::accepted(shared, transport, remote).await;
        line.carry_stream(stream, peer, false).await;
        return drop(seat);
    }
    let handshake = Handshake { origins_allowed: &shared.origins_allowed };
    let config = Some(websocket_config());
    let upgraded = tokio_tungstenite::accept_hdr_async_with_config(stream, handshake, config);
    match timeout(HANDSHAKE_TIME_MAX, upgraded).await {
        Ok(Ok(socket)) => {
            drop(permit);
            let line = Line::accepted(shared, transport, remote).await;
            line.carry_websocket(socket, peer, false).await;
        }
        Ok(Err(error)) => shared.failed(transport, remote, &Reason::WebSocket(error.to_string())),
        Err(_) => shared.failed(transport, remote, &Reason::TimedOut),
    }
    drop(seat);
}

/// Looks at the first bytes: a peer that came to the wrong port is told apart from one whose TLS is bad.
async fn check_tls(stream: &TcpStream) -> Result<(), Reason> {
    let mut first = [0; 8];
    let len = stream.peek(&mut first).await.map_err(|error| Reason::Broken(error.to_string()))?;
    match &first[..len] {
        [] => Err(Reason::Closed),
        // A handshake record (RFC 8446 §5.1).
        [0x16, ..] => Ok(()),
        bytes if [&b"GET "[..], b"POST ", b"HEAD "].iter().any(|start| bytes.starts_with(start)) => {
            Err(Reason::NotTls("plain HTTP: use https or wss"))
        }
        _ => Err(Reason::NotTls("plain SIP: use transport=tls, or the TCP port")),
    }
}
