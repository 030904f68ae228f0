//! Every capacity of the engine, what it costs and what happens when it is reached.

/// Largest datagram read or written: an Ethernet payload. Longer ones are truncated by the kernel and dropped as malformed.
pub const DATAGRAM_BYTES_MAX: usize = 1500;

/// Bridges one worker carries. Past it `Open` is refused with `RefuseReason::Full`; control answers 503.
pub const BRIDGES_PER_WORKER_MAX: usize = 4096;

/// Commands waiting for one worker. Past it control refuses the call and counts it; nobody waits.
pub const COMMANDS_MAX: usize = 4096;

/// Events waiting for control, per worker. Sized so that every live bridge can always post its `Ended`: the other
/// events of a bridge are dropped and counted when fewer than `BRIDGES_PER_WORKER_MAX` places are left.
pub const EVENTS_MAX: usize = BRIDGES_PER_WORKER_MAX * 4;
const _: () = assert!(EVENTS_MAX >= BRIDGES_PER_WORKER_MAX * 2);

/// Datagrams handled in one turn of a worker before it looks at timers and commands again.
pub const TURN_PACKETS_MAX: usize = 1024;

/// Remote candidates of one leg that are used; further ones of an offer are ignored. WhatsApp offers two.
pub const REMOTE_CANDIDATES_MAX: usize = 16;

/// Candidate pairs of one leg, peer-reflexive ones included. Past it a new source gets no pair and its check is dropped.
pub const CANDIDATE_PAIRS_MAX: usize = 32;

/// Longest description parsed, offer or answer. Past it the offer is refused (HTTP 413, SIP 513).
pub const SDP_BYTES_MAX: usize = 16 * 1024;

/// Time ICE may take from the first check to nomination.
pub const ICE_MS_MAX: u64 = 20_000;

/// Time the DTLS handshake may take from nomination.
pub const DTLS_MS_MAX: u64 = 20_000;

/// Silence of a whole leg (no RTP, no RTCP, no authenticated check) after which it is dead. RTCP alone keeps it alive.
pub const MEDIA_MS_MAX: u64 = 60_000;

/// Consent expiry (RFC 7675 §5.1).
pub const CONSENT_MS_MAX: u64 = 30_000;

/// The packet time everything here is built on; other packet times are cut or joined at the edges.
pub const PTIME_MS: usize = 20;

/// Packets one jitter buffer holds. A later arrival pushes out the oldest, which is counted as `JitterFull`.
pub const JITTER_PACKETS_MAX: usize = 64;
const _: () = assert!(JITTER_PACKETS_MAX * PTIME_MS >= 2 * PLAYOUT_DELAY_MS_MAX);

/// Delay of playout beyond the fastest path; reached only while an outage is caught up. Past it the oldest packets are skipped, and counted.
pub const PLAYOUT_DELAY_MS_MAX: usize = 500;

/// Bytes of all payloads in one jitter buffer, in pieces of 64. Opus at 20 kbit/s needs about 60 a packet: all 64 find room; at
/// 64 kbit/s 26, the longest delay of playout; at the 510 kbit/s of music four. Past it the oldest are pushed out, and counted as `JitterFull`.
pub const JITTER_BYTES_MAX: usize = 5_120;
const _: () = assert!(JITTER_BYTES_MAX / 64 / 3 * PTIME_MS >= PLAYOUT_DELAY_MS_MAX);

/// Bytes of one packet in a jitter buffer: an Opus frame is at most 1,275 (RFC 6716 §3.2). A longer payload (several such frames) is
/// dropped and counted as `JitterFull`.
pub const JITTER_PAYLOAD_BYTES_MAX: usize = 1_280;

/// Audio kept for a held leg: what the far side says between its answer and the release (the greeting). 2 s of 8 kHz
/// samples; past it the newest audio is dropped, so that the greeting's start survives.
pub const HOLD_MS_MAX: usize = 2_000;

/// DTMF digits waiting to be sent on one leg. Past it the newest is dropped and counted.
pub const DIGITS_MAX: usize = 32;

/// Time a released media port rests while a tenth of the range is free.
pub const PORT_REST_MS: u64 = 60_000;

/// Receive buffers of a worker's ring.
pub const RING_BUFFERS_MAX: usize = 32_768;

/// Workers of one process: more than any machine has cores for.
pub const WORKERS_MAX: usize = 256;

/// Sockets of one worker: an rtp leg has two.
pub const SOCKETS_PER_WORKER_MAX: usize = BRIDGES_PER_WORKER_MAX * 4;
const _: () = assert!(RING_BUFFERS_MAX >= SOCKETS_PER_WORKER_MAX * 2);

/// Commands handled in one turn. Opening a bridge costs some 100 us (keys, sockets); more of them would make the others'
/// audio late. The rest waits for the next turn.
pub const TURN_COMMANDS_MAX: usize = 16;

/// DTLS datagrams handled in one turn: each may cost 400 us (a certificate, a key, a signature). The others wait for the next turns.
pub const TURN_HANDSHAKES_MAX: usize = 3;

/// DTLS datagrams that may wait, per worker, each of 1.5 KB at most: 400 ms of work. Past it they are dropped and counted, as on a path
/// that loses them: whoever sent one will repeat it.
pub const HANDSHAKES_WAITING_MAX: usize = 1_024;

/// Time in which a worker looks once at each of its bridges whether its sockets may be connected to their peers, or no longer.
pub const SWEEP_MS: u64 = 1_000;

/// Ports tried for one leg, when some of the range are in use by others. Past it the bridge is refused with `NoPort`. A try that
/// fails costs about 2 us; another gateway on the same range holds as many in a row as it has legs.
pub const PORT_TRIES_MAX: usize = 512;

/// Outputs of one bridge in one drain. A bridge that has more says the same thing again and again: a bug, and its end.
pub const DRAIN_OUTPUTS_MAX: usize = 4096;

/// Time bridges have to say goodbye when a worker stops. They need none; past it they are ended without.
pub const STOP_MS_MAX: u64 = 1_000;

/// Spare legs of one bridge: devices that ring at once, or the next way of a transfer. Each takes the ports and sockets of a leg
/// until it is seated or closed. Past it a leg is refused, and that device does not ring.
pub const SPARES_MAX: usize = 6;
