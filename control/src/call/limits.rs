//! Every capacity and patience of the call plane, what it costs and what happens when it is reached.

/// Calls one orchestrator carries unless configured otherwise. Past it a new call is rejected through Graph.
pub const CALLS_MAX: usize = 8_192;

/// Calls above the limit whose `reject` may be under way. Past it the webhook is only counted and WhatsApp rings out.
pub const REJECTS_MAX: usize = 1_024;

/// Ended call ids remembered, so that a late or repeated `connect` is not answered. Past it the oldest is forgotten.
pub const TOMBSTONES_MAX: usize = 32_768;

/// How long an ended call id is remembered. After this a repeated `connect` is stale by its timestamp.
pub const TOMBSTONE_MS: u64 = 600_000;

/// Age by its own timestamp at which a `connect` is ignored: WhatsApp rings for 30 to 60 s.
pub const CONNECT_AGE_S_MAX: u64 = 60;
const _: () = assert!(TOMBSTONE_MS > CONNECT_AGE_S_MAX * 1_000);

/// Time the SIP side may ring before it is cancelled.
pub const RING_MS_MAX: u64 = 25_000;

/// Time from the webhook to the far side's answer, seen by the orchestrator: a backstop behind `RING_MS_MAX`, for an edge
/// that says nothing.
pub const ANSWER_MS_MAX: u64 = 28_000;
const _: () = assert!(ANSWER_MS_MAX > RING_MS_MAX);

/// Time ICE and DTLS may take once the far side has answered and pre_accept has succeeded. Past it the call is rejected.
pub const MEDIA_READY_MS_MAX: u64 = 8_000;

/// Time from the webhook until `accept` must have left, retries included: past it nobody rings any more.
pub const ACCEPT_MS_MAX: u64 = 45_000;
const _: () = assert!(ACCEPT_MS_MAX > ANSWER_MS_MAX + MEDIA_READY_MS_MAX);

/// Time one Graph request may take before it counts as lost. A late reply is ignored.
pub const GRAPH_MS_MAX: u64 = 10_000;

/// Tries of `pre_accept` and `accept`.
pub const GRAPH_TRIES_MAX: u32 = 3;

/// Tries of `reject` and `terminate`: billing depends on them.
pub const GOODBYE_TRIES_MAX: u32 = 6;

/// First pause between two tries of a Graph request; it doubles, and a quarter of it is random.
pub const GRAPH_BACKOFF_MS: u64 = 300;

/// Longest pause between two tries.
pub const GRAPH_BACKOFF_MS_MAX: u64 = 8_000;

/// Time one edge request may take before it counts as lost.
pub const EDGE_MS_MAX: u64 = 5_000;

/// Tries of an edge request whose failure says nothing about it (no connection, no reply). All three are idempotent.
pub const EDGE_TRIES_MAX: u32 = 3;

/// First pause between two tries of an edge request; it doubles.
pub const EDGE_BACKOFF_MS: u64 = 200;

/// ICE restarts offered in a row to a softphone from which nothing comes. Past it the silence takes its course, and the call ends by it.
pub const ICE_RESTARTS_MAX: u32 = 3;

/// Live sessions of one edge unless configured otherwise. Past it `new` is refused with 503.
pub const SESSIONS_MAX: usize = 8_192;

/// Ended sessions kept, so that a repeated `new` gets the same answer. Past it the oldest is forgotten. About 2 KB each.
pub const SESSIONS_RETAINED_MAX: usize = 4_096;

/// How long an ended session is kept.
pub const SESSION_RETAINED_MS: u64 = 300_000;

/// Repeated `new` requests waiting for one session to open. Past it the repetition is refused with 429.
pub const SESSION_WAITERS_MAX: usize = 8;

/// Time the engine may take to open a bridge. Past it `new` is refused with 503.
pub const OPEN_MS_MAX: u64 = 5_000;

/// Time a session may be held without `release`. Past it its orchestrator is taken for dead and the session ends.
pub const HELD_MS_MAX: u64 = 60_000;
const _: () = assert!(HELD_MS_MAX > ACCEPT_MS_MAX + GRAPH_MS_MAX);

/// Time a session may take from its end until bridge and SIP call are both gone (SIP timer F is 32 s). Past it the session is
/// forgotten and counted as a bug.
pub const ENDING_MS_MAX: u64 = 45_000;

/// Pause before commands are offered again to a worker whose mailbox was full.
pub const MAILBOX_RETRY_MS: u64 = 20;

/// Longest call id, in bytes. WhatsApp's have about 120.
pub const CALL_ID_BYTES_MAX: usize = 512;

/// Seconds written into `Retry-After`.
pub const RETRY_AFTER_S: u32 = 5;

/// Destinations of one call that are tried one after the other. Past it the rest is not tried.
pub const HUNT_WAYS_MAX: usize = 16;

/// Time that the devices of a user or group may ring.
pub const USER_RING_MS_MAX: u64 = 60_000;

/// Time that a call between SIP parties, or a transfer, may take until somebody answers, all destinations together.
pub const CALL_RING_MS_MAX: u64 = 180_000;

/// Grace behind the ring limit, in which the SIP calls end by their own timers and say why.
pub const HUNT_GRACE_MS: u64 = 500;

/// Peers that OpenSSL serves because a handshake failed. About 150 bytes each; past it the longest unheard is forgotten, which
/// costs it one call.
pub const DTLS_PEERS_MAX: usize = 1_024;

/// How long such a peer is remembered after its last handshake.
pub const DTLS_PEER_MS: u64 = 24 * 60 * 60 * 1_000;

/// Attended transfers and replacements that may be under way at once; each takes some milliseconds. Past it they are refused.
pub const JOINS_MAX: usize = 1_024;

/// Time the engine may take to open their legs. Past it the calls stay as they are.
pub const JOIN_MS_MAX: u64 = 5_000;

/// Calls that are joined one behind the other by attended transfers, each a bridge. Past it further transfers are refused.
pub const JOINED_MAX: usize = 8;

/// `x-wa-` headers of a call that are passed on. Past it the rest is left out.
pub const HEADERS_PASSED_MAX: usize = 16;

/// Characters of such a header that the timeline keeps.
pub const HEADER_NOTED_CHARS_MAX: usize = 256;

/// Shortest and longest lease of a session, in seconds. A wish outside of them is brought into them.
pub const LEASE_S_MIN: u32 = 5;
/// See `LEASE_S_MIN`: an edge keeps calls whose orchestrator has died for at most so long.
pub const LEASE_S_MAX: u32 = 600;

/// The lease that our own orchestrator asks for unless configured otherwise: longer than a restart takes, and so long that a
/// caller whose orchestrator is gone for good hears nothing for half a minute at most.
pub const LEASE_S: u32 = 30;

/// Pause between two keepalives of an orchestrator whose edge is elsewhere.
pub const KEEPALIVE_MS: u64 = 3_000;

/// Time without any reply of a remote edge after which its calls are ended: WhatsApp ends a call that gets no packets for 30 s.
pub const EDGE_SILENT_MS_MAX: u64 = 15_000;
const _: () = assert!(EDGE_SILENT_MS_MAX > 2 * (KEEPALIVE_MS + EDGE_MS_MAX) - EDGE_MS_MAX);
const _: () = assert!((LEASE_S as u64) * 1_000 > EDGE_SILENT_MS_MAX);

/// Sessions named in one keepalive; more calls take several. A session takes about 220 bytes of the body.
pub const KEEPALIVE_SESSIONS_MAX: usize = 256;

/// Changes that wait for the store's disk. Past it changes are lost and counted; calls go on. About 1.5 KB each at most.
pub const STORE_CHANGES_MAX: usize = 16_384;

/// Time that `accept` waits for the store. Past it the call is accepted all the same: a caller matters more than a restart.
pub const STORE_MS_MAX: u64 = 1_500;

/// Time that the messages of an INVITE wait until the store knows how to end its call. Past it they leave all the same. Shorter than the
/// 500 ms after which peers repeat themselves (RFC 3261 §17.1.1.1).
pub const WITHHELD_MS_MAX: u64 = 250;
const _: () = assert!(WITHHELD_MS_MAX < 500);

/// Messages that wait for the store. Past it they leave at once. About 2 KB each.
pub const WITHHELD_MAX: usize = 4_096;

/// Time during which a goodbye is repeated until Graph has acknowledged it. Past it WhatsApp is left to find out by itself.
pub const GOODBYE_MS_MAX: u64 = 1_800_000;

/// Longest pause between two tries of a goodbye.
pub const GOODBYE_BACKOFF_MS_MAX: u64 = 30_000;

/// Calls of which only a goodbye is left, repeated slowly. Past it a goodbye gets `GOODBYE_TRIES_MAX` tries.
pub const GOODBYES_MAX: usize = 16_384;

/// BYEs to calls of the last run that are said at once after a start; the next portion follows after `FAREWELL_PAUSE_MS`.
pub const FAREWELLS_AT_ONCE: usize = 64;

/// Pause between two portions of them.
pub const FAREWELL_PAUSE_MS: u64 = 40;
// The last of all calls hears of it within some seconds.
const _: () = assert!((crate::sip::limits::CALLS_MAX / FAREWELLS_AT_ONCE) as u64 * FAREWELL_PAUSE_MS <= 6_000);

/// Calls of the last run whose browser must register again before it hears the BYE. Past it the others hear none.
pub const FAREWELLS_AWAY_MAX: usize = 4_096;

/// Time they have for it. After that their calls are forgotten.
pub const FAREWELL_DEVICE_MS_MAX: u64 = 120_000;

/// Pause between two looks for them.
pub const FAREWELLS_AWAY_PAUSE_MS: u64 = 250;

/// Calls to users of WhatsApp at once, those included of which only an id is waited for. Past it further ones are refused (503).
/// About 3 KB each until WhatsApp has named it.
pub const DIALS_MAX: usize = 8_192;

/// Tries of `connect`, as long as Graph has certainly not acted on it, or says itself that it may be asked again.
pub const DIAL_TRIES_MAX: u32 = 2;

/// Time that WhatsApp's description of its media may take once the user has answered: without media it ends the call after 20 s.
pub const DIAL_DESCRIBED_MS_MAX: u64 = 10_000;

/// Time that a call is waited for which Graph may have begun and has not named: longer than a phone rings.
pub const DIAL_LEAVING_MS_MAX: u64 = 90_000;

/// Events kept of calls that Graph has not named yet. Past it the oldest is dropped and counted. About 2 KB each.
pub const EARLY_EVENTS_MAX: usize = 1_024;

/// How long they are kept: as long as a reply may take.
pub const EARLY_EVENT_MS_MAX: u64 = 15_000;
const _: () = assert!(EARLY_EVENT_MS_MAX > GRAPH_MS_MAX);
