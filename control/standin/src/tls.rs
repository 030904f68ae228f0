//! The page over self-signed HTTPS: a browser gives the microphone to a page from another host only over TLS.

use anyhow::Context;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::server::TlsStream;

/// Handshakes at a time; further connections wait in the kernel.
const HANDSHAKES_MAX: usize = 64;
/// A handshake may take this long.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Wait after a failed accept: the system is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections whose handshake is done. Handshakes run beside each other, so that one that stalls stops nobody.
pub struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    local: SocketAddr,
}

impl TlsListener {
    /// Listens on all addresses with a certificate made now, for `names`.
    pub async fn bind(port: u16, names: Vec<String>) -> anyhow::Result<TlsListener> {
        let listener = match TcpListener::bind((IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)).await?,
        };
        let local = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(Arc::new(server_config(names)?));
        let (sender, ready) = mpsc::channel(HANDSHAKES_MAX);
        tokio::spawn(accept(listener, acceptor, sender));
        Ok(TlsListener { ready, local })
    }

    /// The bound port.
    pub fn port(&self) -> u16 {
        self.local.port()
    }
}

fn server_config(names: Vec<String>) -> anyhow::Result<ServerConfig> {
    let made = rcgen::generate_simple_self_signed(names).context("the page's certificate")?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    Ok(ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?)
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    sender: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        if sender.is_closed() {
            return;
        }
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        tokio::spawn(async move {
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                let _ = sender.send((stream, from)).await;
            }
            drop(permit);
        });
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The accepting task lives as long as this receiver.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(self.local)
    }
}
