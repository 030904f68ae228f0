//! Every capacity and time of the SIP sockets, and what happens when it is reached.

use std::time::Duration;

/// Connections alive at once, both directions. Past it a new one is closed as soon as it is accepted. A connection costs about 40 KiB
/// with TLS, most of it TLS buffers.
pub const CONNECTIONS_MAX: usize = 16_384;

/// Connections from one address, unless configured. Past it a new one from there is closed.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 4_096;

/// Handshakes (TLS, WebSocket) under way at once. Past it new connections wait in the listener's backlog.
pub const HANDSHAKES_MAX: usize = 4_096;

/// Messages and other news waiting for the runtime. Past it readers wait, each with one message.
pub const HEARD_MAX: usize = 4_096;

/// Messages waiting to be written to one connection. Past it the connection is closed: its peer does not read.
pub const WRITE_QUEUE_MAX: usize = 256;

/// Time one write may take. Past it the connection is closed: its peer does not read.
pub const WRITE_TIME_MAX: Duration = Duration::from_secs(10);

/// Time to connect, TLS and WebSocket handshakes included.
pub const CONNECT_TIME_MAX: Duration = Duration::from_secs(4);

/// Time an incoming connection has for its handshakes.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);

/// Time an incoming connection has for its first message.
pub const FIRST_MESSAGE_TIME_MAX: Duration = Duration::from_secs(30);

/// Time a message may take from its first byte to its last.
pub const MESSAGE_TIME_MAX: Duration = Duration::from_secs(20);

/// Silence after which a connection is asked whether it lives: CRLF CRLF, or a WebSocket ping.
pub const PING_TIME: Duration = Duration::from_secs(25);

/// Time for the answer to that (RFC 5626 §4.4.1). Past it the connection is closed, if the peer has ever answered one.
pub const PONG_TIME_MAX: Duration = Duration::from_secs(10);

/// Time without any message after which a connection is closed. Longer than any registration asks for here, so that a binding's
/// connection stays.
pub const IDLE_TIME_MAX: Duration = Duration::from_secs(4_000);

/// Silence after which the kernel asks whether the peer's host lives: phones without pings of their own vanish too.
pub const HOST_ASKED_TIME: Duration = Duration::from_secs(30);

/// Time that it has to answer, and to acknowledge what was written. Past it the connection is closed, and what registered by it is gone.
pub const HOST_ANSWERS_TIME_MAX: Duration = Duration::from_secs(30);

/// Bytes read from a socket at once.
pub const READ_BYTES: usize = 4_096;

/// Bytes of a WebSocket message.
pub const WEBSOCKET_BYTES_MAX: usize = 65_535;

/// Lines about connections that came wrong which the log takes a minute.
pub const COMPLAINTS_PER_MINUTE_MAX: u32 = 30;

/// Datagrams or news taken in one turn.
pub const TURN_MAX: usize = 256;

const _: () = assert!(PONG_TIME_MAX.as_secs() < PING_TIME.as_secs());
const _: () = assert!(WEBSOCKET_BYTES_MAX <= crate::sip::limits::MESSAGE_BYTES_MAX);
