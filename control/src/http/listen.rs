//! The HTTP servers' connections: how many, for how long, with or without TLS.
//!
//! A client that opens connections and says little, or reads nothing of what it asked for, must cost this program next to nothing:
//! headers have a time limit, which also ends idle connections; bodies have theirs where they are read; a write that stands still
//! ends the connection; and past a number of connections, in all or from one address, further ones are closed unheard.
//!
//! Why not `axum::serve`: it has none of these limits, and no TLS.

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;

/// Connections of one server. Past it a new one is closed at once and counted. An idle one costs about 10 KB.
pub const CONNECTIONS_MAX: usize = 4_096;

/// Connections of one address, so that no single client takes all of them.
pub const CONNECTIONS_OF_ADDRESS_MAX: usize = 1_024;
const _: () = assert!(CONNECTIONS_OF_ADDRESS_MAX * 2 <= CONNECTIONS_MAX);

/// Time a request's header may take, and time that a connection may be idle between two requests.
pub const HEADER_TIME_MAX: Duration = Duration::from_secs(10);

/// Time the TLS handshake may take.
const TLS_TIME_MAX: Duration = Duration::from_secs(10);

/// Time a write may stand still because the client does not read.
const WRITE_TIME_MAX: Duration = Duration::from_secs(20);

/// How long clients are waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// A request's header.
    pub header: Duration,
    /// A write that stands still.
    pub write: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { header: HEADER_TIME_MAX, write: WRITE_TIME_MAX }
    }
}

/// Bytes of a request's header, and of what is read ahead. Past it the answer is 431.
const BUFFER_BYTES: usize = 64 * 1024;

/// Time that open connections get to finish when the server stops.
const FINISH_TIME_MAX: Duration = Duration::from_secs(5);

/// Pause after the system refused to accept a connection, such as for want of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the servers count.
#[derive(Debug, Default)]
pub struct ConnectionCounters {
    /// Connections that are open.
    pub open: AtomicU64,
    /// Connections closed because there were too many.
    pub refused: AtomicU64,
    /// TLS handshakes that failed.
    pub tls_failed: AtomicU64,
}

/// Reads a certificate chain and its key, both PEM. The error is a sentence for the operator.
pub fn tls(certificate: &Path, key: &Path) -> Result<TlsAcceptor, String> {
    let unreadable = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| unreadable(certificate, &error))?;
    if chain.is_empty() {
        return Err(unreadable(certificate, &"it holds no certificate in PEM form"));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret))
        .map_err(|error| format!("{} and {} do not go together: {error}", certificate.display(), key.display()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until `stopped`, then lets open requests finish.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    counters: Arc<ConnectionCounters>,
    patience: Patience,
    mut stopped: watch::Receiver<bool>,
) {
    let crowd = Crowd::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!("a connection was not accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = crowd.enter(peer.ip(), &counters) else { continue };
        let connection =
            Connection { tls: tls.clone(), router: router.clone(), peer, patience, stopped: stopped.clone() };
        let counters = counters.clone();
        tokio::spawn(async move {
            connection.serve(stream, &counters).await;
            drop(place);
        });
    }
    // Connections see the stop themselves.
    let empty = async {
        while crowd.len() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = tokio::time::timeout(FINISH_TIME_MAX, empty).await;
}

/// Who is connected.
#[derive(Clone, Default)]
struct Crowd(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// One connection's place among them.
struct Place {
    crowd: Crowd,
    address: IpAddr,
    counters: Arc<ConnectionCounters>,
}

impl Crowd {
    fn enter(&self, address: IpAddr, counters: &Arc<ConnectionCounters>) -> Option<Place> {
        let mut crowd = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = crowd.values().sum::<usize>() >= CONNECTIONS_MAX;
        let of_address = crowd.entry(address).or_default();
        if full || *of_address >= CONNECTIONS_OF_ADDRESS_MAX {
            counters.refused.fetch_add(1, Ordering::Relaxed);
            if *of_address == 0 {
                crowd.remove(&address);
            }
            return None;
        }
        *of_address += 1;
        counters.open.fetch_add(1, Ordering::Relaxed);
        Some(Place { crowd: self.clone(), address, counters: counters.clone() })
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut crowd = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_address) = crowd.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                crowd.remove(&self.address);
            }
        }
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Connection {
    tls: Option<TlsAcceptor>,
    router: Router,
    peer: SocketAddr,
    patience: Patience,
    stopped: watch::Receiver<bool>,
}

impl Connection {
    async fn serve(self, stream: TcpStream, counters: &ConnectionCounters) {
        let _ = stream.set_nodelay(true);
        let stream = Impatient::new(stream, self.patience.write);
        let Some(acceptor) = self.tls.clone() else { return self.speak(stream).await };
        match tokio::time::timeout(TLS_TIME_MAX, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.speak(stream).await,
            Ok(Err(_)) | Err(_) => drop(counters.tls_failed.fetch_add(1, Ordering::Relaxed)),
        }
    }

    async fn speak(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let (router, peer) = (TowerToHyperService::new(self.router), self.peer);
        let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            hyper::service::Service::call(&router, request)
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.patience.header)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(connection);
        // How a connection ends is the client's affair.
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = self.stopped.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

/// A stream whose writes may not stand still for long.
struct Impatient {
    stream: TcpStream,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    fn new(stream: TcpStream, patience: Duration) -> Impatient {
        Impatient { stream, patience, stalled: None }
    }

    fn judge<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Impatient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_takes_all_connections_and_places_come_back() {
        let (crowd, counters) = (Crowd::default(), Arc::new(ConnectionCounters::default()));
        let address = |n: u8| IpAddr::from([192, 0, 2, n]);
        let mut places: Vec<_> =
            (0..CONNECTIONS_OF_ADDRESS_MAX).map(|_| crowd.enter(address(1), &counters).expect("a place")).collect();
        assert!(crowd.enter(address(1), &counters).is_none());
        for n in 2..=(CONNECTIONS_MAX / CONNECTIONS_OF_ADDRESS_MAX) as u8 {
            places.extend((0..CONNECTIONS_OF_ADDRESS_MAX).filter_map(|_| crowd.enter(address(n), &counters)));
        }
        assert_eq!((places.len(), crowd.len()), (CONNECTIONS_MAX, CONNECTIONS_MAX));
        assert!(crowd.enter(address(99), &counters).is_none(), "one more than all");
        assert_eq!(counters.refused.load(Ordering::Relaxed), 2);
        places.clear();
        assert_eq!((crowd.len(), counters.open.load(Ordering::Relaxed)), (0, 0));
        assert!(crowd.0.lock().unwrap().is_empty(), "an address that left is forgotten");
    }

    /// A server with little patience, and how many connections it has.
    async fn impatient(patience: Patience) -> (SocketAddr, Arc<ConnectionCounters>, watch::Sender<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let counters = Arc::new(ConnectionCounters::default());
        let (stop, stopped) = watch::channel(false);
        let much = || async { vec![b'x'; 64 << 20] };
        let router = Router::new().route("/much", axum::routing::get(much));
        tokio::spawn(serve(listener, None, router, counters.clone(), patience, stopped));
        (address, counters, stop)
    }

    async fn until_open(counters: &ConnectionCounters, count: u64) {
        let reached = async {
            while counters.open.load(Ordering::Relaxed) != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reached).await.expect("connections come or go in time");
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_of_what_it_asked_for_is_let_go() {
        use tokio::io::AsyncWriteExt;
        let (write, header) = (Duration::from_millis(300), Duration::from_secs(60));
        let (address, counters, _stop) = impatient(Patience { header, write }).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        until_open(&counters, 1).await;
        until_open(&counters, 0).await;
        // One that reads slowly, but reads, gets all of it: no single write of it stands still for that long.
        let response = reqwest::get(format!("http://{address}/much")).await.unwrap();
        let mut response = response.error_for_status().unwrap();
        let mut bytes = 0;
        while let Some(chunk) = response.chunk().await.unwrap() {
            bytes += chunk.len();
            if bytes % (1 << 20) < chunk.len() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        assert_eq!(bytes, 64 << 20);
    }

    #[tokio::test]
    async fn a_header_that_is_too_long_or_too_slow_is_answered_in_kind() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (write, header) = (Duration::from_secs(60), Duration::from_millis(300));
        let (address, counters, _stop) = impatient(Patience { header, write }).await;
        let mut long = TcpStream::connect(address).await.unwrap();
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Junk: {}", "j".repeat(BUFFER_BYTES));
        long.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        long.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 431");
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-").await.unwrap();
        let mut rest = Vec::new();
        let _ = slow.read_to_end(&mut rest).await;
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
        drop(long);
        until_open(&counters, 0).await;
    }
}
