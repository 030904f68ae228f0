//! One connection: its reader and its writer, side by side in one task, until either ends.

use super::limits::{
    FIRST_MESSAGE_TIME_MAX, HOST_ANSWERS_TIME_MAX, HOST_ASKED_TIME, IDLE_TIME_MAX, MESSAGE_TIME_MAX, PING_TIME,
    PONG_TIME_MAX, READ_BYTES, WEBSOCKET_BYTES_MAX, WRITE_TIME_MAX,
};
use super::{Heard, Opened, Shared};
use crate::sip::transport::stream::{Frame, Framer, Lost};
use crate::sip::transport::{Hop, PeerIdentity, Transport};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use socket2::{SockRef, TcpKeepalive};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error as WebSocketError, Message, Utf8Bytes};

/// Signals from a reader to its writer that may wait.
const SIGNALS_MAX: usize = 8;

/// Time that the answer to a stream's last message has to leave before the connection is closed.
const LAST_WORDS_TIME: Duration = Duration::from_millis(500);

/// Time that half a keep-alive waits for its other half.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// Has the kernel watch over a connection: a host that vanished says no FIN, and a phone need not answer pings (RFC 5626 §4.4.1).
pub(super) fn watch_over(stream: &TcpStream) {
    // A message is written whole; waiting to fill a segment only delays it.
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let asked = TcpKeepalive::new().with_time(HOST_ASKED_TIME).with_interval(HOST_ASKED_TIME / 3);
    let watched =
        socket.set_tcp_keepalive(&asked).and_then(|()| socket.set_tcp_user_timeout(Some(HOST_ANSWERS_TIME_MAX)));
    if let Err(error) = watched {
        tracing::debug!("a connection is not watched over by the kernel: {error}");
    }
}

/// Our end of a connection.
pub(crate) struct Line {
    pub hop: Hop,
    pub queued: mpsc::Receiver<Vec<u8>>,
    pub shared: Arc<Shared>,
}

/// Why a connection is over, or never was.
#[derive(Debug)]
pub(crate) enum Reason {
    Closed,
    Broken(String),
    /// The peer does not read.
    Stalled,
    /// It did not answer a ping.
    Dead,
    Idle,
    /// It connected and said nothing.
    Mute,
    /// A message began and did not end.
    Unfinished,
    Lost(Lost),
    /// Not TLS at a port with TLS.
    NotTls(&'static str),
    Tls(String),
    WebSocket(String),
    TimedOut,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Closed => f.write_str("closed by the peer"),
            Reason::Broken(error) => write!(f, "broken: {error}"),
            Reason::Stalled => f.write_str("closed, the peer does not read"),
            Reason::Dead => f.write_str("closed, the peer does not answer pings"),
            Reason::Idle => f.write_str("closed, no message for long"),
            Reason::Mute => f.write_str("closed, it connected and said nothing"),
            Reason::Unfinished => f.write_str("closed, a message began and did not end"),
            Reason::Lost(lost) => write!(f, "closed, {lost}"),
            Reason::NotTls(what) => write!(f, "closed, this port is for TLS, but it speaks {what}"),
            Reason::Tls(error) => write!(f, "TLS failed: {error}"),
            Reason::WebSocket(error) => write!(f, "WebSocket refused: {error}"),
            Reason::TimedOut => f.write_str("timed out"),
        }
    }
}

/// What a reader asks its writer for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Ping,
    Pong,
}

impl Line {
    /// A line for a connection that was accepted; the runtime learns of it before its first message.
    pub async fn accepted(shared: &Arc<Shared>, transport: Transport, remote: SocketAddr) -> Line {
        let (queue, queued) = mpsc::channel(super::limits::WRITE_QUEUE_MAX);
        let hop = Hop::connected(transport, remote, shared.take_id());
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        let opened = Opened { hop: hop.clone(), queue };
        let _ = shared.heard.send(Heard::Opened(Box::new(opened))).await;
        Line { hop, queued, shared: shared.clone() }
    }

    /// Tells the runtime that the connection is over.
    pub async fn over(self, reason: &Reason) {
        let Line { hop, shared, .. } = self;
        match reason {
            Reason::Stalled => {
                shared.stalled.fetch_add(1, Ordering::Relaxed);
                shared.complain(|| format!("SIP over {} to {}: {reason}", hop.transport, hop.remote));
            }
            Reason::Lost(_) => shared.failed(hop.transport, hop.remote, reason),
            _ => tracing::debug!("SIP over {} to {}: {reason}", hop.transport, hop.remote),
        }
        let _ = shared.heard.send(Heard::Lost { hop, failed: false }).await;
    }

    /// Carries a byte stream until it ends. `ours`: we connected.
    pub async fn carry_stream<S>(mut self, stream: S, peer: PeerIdentity, ours: bool)
    where
        S: AsyncRead + AsyncWrite,
    {
        let (reader, writer) = tokio::io::split(stream);
        let (signals, signalled) = mpsc::channel(SIGNALS_MAX);
        let watch = Watch::new(ours, Instant::now());
        let reading = read_stream(reader, &self.hop, Arc::new(peer), &self.shared, signals, watch);
        let writing = write_stream(writer, &mut self.queued, signalled);
        let reason = tokio::select! {
            reason = reading => reason,
            reason = writing => reason,
        };
        self.over(&reason).await;
    }

    /// Carries WebSocket messages until they end.
    pub async fn carry_websocket<S>(mut self, socket: WebSocketStream<S>, peer: PeerIdentity, ours: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (sink, stream) = socket.split();
        let (signals, signalled) = mpsc::channel(SIGNALS_MAX);
        let watch = Watch::new(ours, Instant::now());
        let reading = read_websocket(stream, &self.hop, Arc::new(peer), &self.shared, signals, watch);
        let writing = write_websocket(sink, &mut self.queued, signalled);
        let reason = tokio::select! {
            reason = reading => reason,
            reason = writing => reason,
        };
        self.over(&reason).await;
    }
}

/// How WebSocket messages are bounded.
pub(crate) fn websocket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(WEBSOCKET_BYTES_MAX))
        .max_frame_size(Some(WEBSOCKET_BYTES_MAX))
        .max_write_buffer_size(2 * WEBSOCKET_BYTES_MAX + 4_096)
        .write_buffer_size(4_096)
}

/// The times of one connection.
struct Watch {
    ours: bool,
    heard_at: Instant,
    message_at: Instant,
    /// The first byte of an unfinished message.
    begun_at: Option<Instant>,
    pinged_at: Option<Instant>,
    /// It answered a ping once.
    answers: bool,
    spoken: bool,
}

impl Watch {
    fn new(ours: bool, now: Instant) -> Watch {
        let (begun_at, pinged_at) = (None, None);
        Watch { ours, heard_at: now, message_at: now, begun_at, pinged_at, answers: false, spoken: ours }
    }

    fn on_bytes(&mut self, now: Instant) {
        self.heard_at = now;
        self.pinged_at = None;
    }

    fn on_message(&mut self, now: Instant) {
        self.message_at = now;
        self.spoken = true;
        self.begun_at = None;
    }

    fn deadline(&self) -> Instant {
        let idle = self.message_at + if self.spoken { IDLE_TIME_MAX } else { FIRST_MESSAGE_TIME_MAX };
        let ping = match self.pinged_at {
            Some(at) => at + PONG_TIME_MAX,
            None => self.heard_at + PING_TIME,
        };
        let message = self.begun_at.map_or(idle, |at| at + MESSAGE_TIME_MAX);
        idle.min(ping).min(message)
    }

    /// What to do when the deadline has come: a signal, or the end.
    fn on_deadline(&mut self, now: Instant) -> Result<Signal, Reason> {
        if self.begun_at.is_some_and(|at| now >= at + MESSAGE_TIME_MAX) {
            return Err(Reason::Unfinished);
        }
        if !self.spoken && now >= self.message_at + FIRST_MESSAGE_TIME_MAX {
            return Err(Reason::Mute);
        }
        if now >= self.message_at + IDLE_TIME_MAX {
            return Err(Reason::Idle);
        }
        match self.pinged_at {
            // Who never answered a ping may not know them (RFC 5626 §4.4.1 asks only those who agreed to).
            Some(at) if now >= at + PONG_TIME_MAX && self.answers => Err(Reason::Dead),
            _ => {
                self.pinged_at = Some(now);
                Ok(Signal::Ping)
            }
        }
    }
}

async fn read_stream<S: AsyncRead>(
    mut reader: ReadHalf<S>,
    hop: &Hop,
    peer: Arc<PeerIdentity>,
    shared: &Shared,
    signals: mpsc::Sender<Signal>,
    mut watch: Watch,
) -> Reason {
    let mut framer = Framer::default();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let settles = framer.is_half_a_ping();
        let deadline = if settles { Instant::now() + SETTLE_TIME } else { watch.deadline() };
        match timeout_at(deadline, reader.read(&mut buffer)).await {
            Ok(Ok(0)) => return Reason::Closed,
            Ok(Err(error)) => return Reason::Broken(error.to_string()),
            Ok(Ok(len)) => {
                watch.on_bytes(Instant::now());
                framer.push(&buffer[..len]);
            }
            Err(_) if settles => watch.answers |= framer.settle().is_some(),
            Err(_) => match watch.on_deadline(Instant::now()) {
                // Only the side that connected asks (RFC 5626 §4.4.1).
                Ok(Signal::Ping) if !watch.ours => {}
                Ok(signal) => drop(signals.try_send(signal)),
                Err(reason) => return reason,
            },
        }
        loop {
            match framer.next_frame() {
                Ok(Some(Frame::Message(bytes))) => {
                    watch.on_message(Instant::now());
                    let message = Heard::Message { hop: hop.clone(), peer: peer.clone(), bytes };
                    if shared.heard.send(message).await.is_err() {
                        return Reason::Closed;
                    }
                }
                Ok(Some(Frame::Ping)) => drop(signals.try_send(Signal::Pong)),
                Ok(Some(Frame::Pong)) => watch.answers = true,
                Ok(None) => break,
                Err(lost) => {
                    // Its sender is told, where it can be (RFC 4475 §3.1.2.4 asks for 400), and then it is closed.
                    if let Some(bytes) = framer.last_words() {
                        let _ = shared.heard.send(Heard::Message { hop: hop.clone(), peer, bytes }).await;
                        sleep(LAST_WORDS_TIME).await;
                    }
                    return Reason::Lost(lost);
                }
            }
        }
        match framer.is_inside_message() {
            true => watch.begun_at = watch.begun_at.or_else(|| Some(Instant::now())),
            false => watch.begun_at = None,
        }
    }
}

async fn write_stream<S: AsyncWrite>(
    mut writer: WriteHalf<S>,
    queued: &mut mpsc::Receiver<Vec<u8>>,
    mut signals: mpsc::Receiver<Signal>,
) -> Reason {
    loop {
        let bytes = tokio::select! {
            biased;
            signal = signals.recv() => match signal {
                Some(Signal::Ping) => b"\r\n\r\n".to_vec(),
                Some(Signal::Pong) => b"\r\n".to_vec(),
                None => return Reason::Closed,
            },
            message = queued.recv() => match message {
                Some(message) => message,
                // The runtime let go: it has not been read for long.
                None => return Reason::Closed,
            },
        };
        let write = async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        };
        match timeout(WRITE_TIME_MAX, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Reason::Broken(error.to_string()),
            Err(_) => return Reason::Stalled,
        }
    }
}

async fn read_websocket<S>(
    mut stream: S,
    hop: &Hop,
    peer: Arc<PeerIdentity>,
    shared: &Shared,
    signals: mpsc::Sender<Signal>,
    mut watch: Watch,
) -> Reason
where
    S: Stream<Item = Result<Message, WebSocketError>> + Unpin,
{
    // RFC 6455 §5.5.3: a ping is always answered.
    watch.answers = true;
    loop {
        let bytes = match timeout_at(watch.deadline(), stream.next()).await {
            Ok(None) | Ok(Some(Err(WebSocketError::ConnectionClosed))) | Ok(Some(Ok(Message::Close(_)))) => {
                return Reason::Closed;
            }
            Ok(Some(Err(error))) => return Reason::Broken(error.to_string()),
            Ok(Some(Ok(Message::Text(text)))) => Bytes::from(text),
            Ok(Some(Ok(Message::Binary(bytes)))) => bytes,
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => {
                watch.on_bytes(Instant::now());
                continue;
            }
            Err(_) => match watch.on_deadline(Instant::now()) {
                Ok(signal) => {
                    let _ = signals.try_send(signal);
                    continue;
                }
                Err(reason) => return reason,
            },
        };
        watch.on_bytes(Instant::now());
        match bytes.as_ref() {
            // Keep-alives of RFC 7118 §6, which are no messages.
            b"\r\n\r\n" => drop(signals.try_send(Signal::Pong)),
            b"\r\n" | b"" => {}
            _ => {
                watch.on_message(Instant::now());
                let message = Heard::Message { hop: hop.clone(), peer: peer.clone(), bytes: bytes.to_vec() };
                if shared.heard.send(message).await.is_err() {
                    return Reason::Closed;
                }
            }
        }
    }
}

async fn write_websocket<S>(
    mut sink: S,
    queued: &mut mpsc::Receiver<Vec<u8>>,
    mut signals: mpsc::Receiver<Signal>,
) -> Reason
where
    S: Sink<Message, Error = WebSocketError> + Unpin,
{
    loop {
        let message = tokio::select! {
            biased;
            signal = signals.recv() => match signal {
                Some(Signal::Ping) => Message::Ping(Bytes::new()),
                Some(Signal::Pong) => Message::Text(Utf8Bytes::from_static("\r\n")),
                None => return Reason::Closed,
            },
            message = queued.recv() => match message {
                // One message of SIP in one of WebSocket (RFC 7118 §5); what is not UTF-8 goes as bytes (§4.2).
                Some(bytes) => match String::from_utf8(bytes) {
                    Ok(text) => Message::Text(text.into()),
                    Err(error) => Message::Binary(error.into_bytes().into()),
                },
                None => return Reason::Closed,
            },
        };
        match timeout(WRITE_TIME_MAX, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Reason::Broken(error.to_string()),
            Err(_) => return Reason::Stalled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(begun: Instant, seconds: u64) -> Instant {
        begun + Duration::from_secs(seconds)
    }

    #[tokio::test]
    async fn the_kernel_watches_over_both_ends_of_a_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), TcpStream::connect(listener.local_addr().unwrap()));
        for stream in [accepted.unwrap().0, connected.unwrap()] {
            watch_over(&stream);
            let socket = SockRef::from(&stream);
            assert!(socket.keepalive().unwrap() && stream.nodelay().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), HOST_ASKED_TIME);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(HOST_ANSWERS_TIME_MAX));
        }
    }

    #[test]
    fn a_client_that_vanishes_is_asked_once_and_then_dead() {
        let begun = Instant::now();
        let mut watch = Watch::new(false, begun);
        watch.answers = true; // as every WebSocket does
        watch.on_bytes(at(begun, 1));
        watch.on_message(at(begun, 1));
        assert_eq!(watch.deadline(), at(begun, 1) + PING_TIME);
        assert_eq!(watch.on_deadline(watch.deadline()).unwrap(), Signal::Ping);
        assert_eq!(watch.deadline(), at(begun, 1) + PING_TIME + PONG_TIME_MAX);
        assert!(matches!(watch.on_deadline(watch.deadline()), Err(Reason::Dead)));
        // One that answers goes on.
        watch.on_bytes(at(begun, 30));
        assert_eq!(watch.deadline(), at(begun, 30) + PING_TIME);
    }

    #[test]
    fn a_phone_that_never_answered_a_ping_is_kept_while_its_registration_may_last() {
        let begun = Instant::now();
        let mut watch = Watch::new(false, begun);
        watch.on_bytes(begun);
        watch.on_message(begun);
        let mut asked = 0;
        let end = loop {
            let now = watch.deadline();
            match watch.on_deadline(now) {
                Ok(Signal::Ping) => asked += 1,
                Ok(Signal::Pong) => unreachable!(),
                Err(reason) => break (now, reason),
            }
        };
        assert!(asked > 100 && matches!(end, (now, Reason::Idle) if now == begun + IDLE_TIME_MAX), "{asked} {end:?}");
        assert!(IDLE_TIME_MAX.as_secs() > u64::from(crate::registrar::limits::EXPIRES_S_MAX));
    }

    #[test]
    fn who_says_nothing_or_never_ends_its_message_is_let_go() {
        let begun = Instant::now();
        let mut mute = Watch::new(false, begun);
        assert_eq!(mute.on_deadline(mute.deadline()).unwrap(), Signal::Ping);
        while mute.deadline() < begun + FIRST_MESSAGE_TIME_MAX {
            mute.on_deadline(mute.deadline()).unwrap();
        }
        assert!(matches!(mute.on_deadline(begun + FIRST_MESSAGE_TIME_MAX), Err(Reason::Mute)));
        let mut slow = Watch::new(false, begun);
        slow.begun_at = Some(at(begun, 2));
        // Bytes that drip in do not put it off.
        slow.on_bytes(at(begun, 21));
        assert_eq!(slow.deadline(), at(begun, 2) + MESSAGE_TIME_MAX);
        assert!(matches!(slow.on_deadline(slow.deadline()), Err(Reason::Unfinished)));
    }
}
