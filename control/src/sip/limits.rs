//! Every capacity and interval of the SIP stack, and what happens when it is reached.

/// Longest message parsed: what a UDP datagram can hold. Longer ones are dropped.
pub const MESSAGE_BYTES_MAX: usize = 65_535;

/// Longest head of a message on a stream. Past it the stream is lost, since nobody can tell where it ends.
pub const HEAD_BYTES_MAX: usize = 32_768;

/// Longest request sent as a datagram where the path's MTU is unknown and TCP is there too (RFC 3261 §18.1.1).
pub const UDP_BYTES_MAX: usize = 1_300;

/// Header lines of one message. Past it the message is dropped.
pub const HEADERS_MAX: usize = 256;

/// Calls alive at once, ended ones whose last transactions still run included. Past it our calls end with `Unreachable`,
/// incoming ones get 503.
pub const CALLS_MAX: usize = 8_192;

/// Client transactions alive at once. Past it a request is not sent, as if nobody had answered it.
pub const CLIENTS_MAX: usize = 4 * CALLS_MAX;

/// Server transactions alive at once. Past it a request is answered 503 without keeping state.
pub const SERVERS_MAX: usize = 4 * CALLS_MAX;

/// Dialogs that one INVITE of ours may fork into. The 2xx of a further one is not acknowledged, so its sender ends it.
pub const FORKS_MAX: usize = 8;

/// Redirections (3xx) followed for one call. Past it the 3xx ends the call.
pub const REDIRECTS_MAX: usize = 3;

/// Contacts of redirections waiting to be tried. Further ones are ignored.
pub const REDIRECT_TARGETS_MAX: usize = 8;

/// Outputs that the agent has room for from the start; a burst beyond it allocates.
pub const OUTPUTS_RESERVED: usize = 256;

/// Outbound registrations. Past it a further one fails at once.
pub const REGISTRATIONS_MAX: usize = 1_024;

/// Shortest and longest registration asked for, seconds.
pub const REGISTER_S_MIN: u32 = 60;
/// See [`REGISTER_S_MIN`].
pub const REGISTER_S_MAX: u32 = 86_400;

/// First wait after a registration that failed, seconds; it doubles with every further failure (RFC 5626 §4.5).
pub const REGISTER_RETRY_S: u64 = 30;

/// Longest such wait, seconds.
pub const REGISTER_RETRY_S_MAX: u64 = 1_800;

/// Shortest pause between two OPTIONS to one peer, ms: some providers ban whoever asks more often.
pub const WATCH_MS_MIN: u64 = 15_000;

/// Peers that are watched. Past it a further one is never asked.
pub const WATCHES_MAX: usize = 1_024;

/// Questions to the resolver without an answer. Past it a name counts as not resolvable.
pub const QUERIES_MAX: usize = CALLS_MAX;

/// Time the resolver may take; after it the name counts as not resolvable.
pub const RESOLVE_MS_MAX: u64 = 10_000;

/// Headers of the caller's own choice in one INVITE. Further ones are left out.
pub const EXTRA_HEADERS_MAX: usize = 32;

/// Bytes of one such value after quoting. Longer ones are cut: a datagram must stay below the path's MTU.
pub const EXTRA_VALUE_BYTES_MAX: usize = 512;

/// T1, the estimate of the round trip (RFC 3261 §17.1.1.1).
pub const T1_MS: u64 = 500;

/// T2, the longest interval between repeats of anything but an INVITE request (RFC 3261 §17.1.2.2).
pub const T2_MS: u64 = 4_000;

/// T4, the longest time a message stays in the network (RFC 3261 §17.1.2.2).
pub const T4_MS: u64 = 5_000;

/// 64 * T1: timers B, F, H, J, L and M (RFC 3261 §17, RFC 6026 §8).
pub const TIMEOUT_MS: u64 = 64 * T1_MS;

/// Timer D: how long a repeated final response to our INVITE is acknowledged (RFC 3261 §17.1.1.2).
pub const TIMER_D_MS: u64 = 32_000;

/// Silence after an incoming INVITE before 100 is sent (RFC 3261 §17.2.1).
pub const TRYING_MS: u64 = 200;

/// Silence of one address before the next one of the same name is tried.
pub const FAILOVER_MS: u64 = 4_000;

/// How long a place that did not answer is tried last.
pub const DEAD_MS: u64 = 30_000;

/// Longest Retry-After of a 503 that is believed, seconds.
pub const RETRY_AFTER_S_MAX: u64 = 600;

/// Places that are remembered as dead or busy. Past it further ones are found out by asking.
pub const PLACES_MAX: usize = 1_024;

/// Times a request inside a dialog is sent to another place after one did not answer.
pub const DIALOG_FAILOVERS_MAX: usize = 3;

/// How long an incoming call may wait for `accept` or `reject`; then it is refused with 480.
pub const INCOMING_MS_MAX: u64 = 180_000;

/// How long a re-INVITE may wait for `answer_reinvite`; then it is refused with 488.
pub const REINVITE_ANSWER_MS_MAX: u64 = 20_000;

/// How long our own re-INVITE may stay without a final response once a provisional one came.
pub const REINVITE_MS_MAX: u64 = 60_000;

/// Session interval we ask for (RFC 4028 §4).
pub const SESSION_EXPIRES_S: u32 = 1_800;

/// Shortest session interval we agree to (RFC 4028 §5 forbids less).
pub const MIN_SE_S: u32 = 90;

/// Longest session interval we agree to ask for after 422. Past it the 422 ends the call.
pub const SESSION_EXPIRES_S_MAX: u32 = 86_400;

/// Age at which a nonce of ours is stale.
pub const NONCE_MS_MAX: u64 = 300_000;

/// Nonces whose use is remembered, against replays. Past it the oldest is forgotten and refused as stale.
pub const NONCES_MAX: usize = 8_192;

const _: () = assert!(HEAD_BYTES_MAX < MESSAGE_BYTES_MAX);
const _: () = assert!(CLIENTS_MAX >= 2 * CALLS_MAX); // an INVITE and its CANCEL or BYE for every call
const _: () = assert!(FAILOVER_MS < TIMEOUT_MS);
