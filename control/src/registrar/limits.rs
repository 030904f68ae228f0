//! What the registrar can hold.

/// Users of one configuration.
pub const USERS_MAX: usize = 20_000;

/// Users of one group; a call to it forks to all their devices, at most `exchange`'s own limit.
pub const GROUP_USERS_MAX: usize = 64;

/// Devices that one user can be allowed to have at once.
pub const DEVICES_MAX: usize = 32;

/// Registrations of all users at once. Each costs about 1 KiB; past it further ones are refused with 503.
pub const BINDINGS_MAX: usize = 40_000;

/// REGISTERs remembered that took a device away; each costs a walk past it at a later REGISTER. Past it the oldest is forgotten.
pub const DEPARTED_MAX: usize = 1_024;

/// How long they are remembered: two lives of a transaction (timer F), which a REGISTER with its challenge takes at most.
pub const DEPARTED_MS: u64 = 64_000;

/// Shortest registration that is granted, seconds: less is answered 423 (RFC 3261 §10.3), since every refresh costs a digest.
pub const EXPIRES_S_MIN: u32 = 60;

/// What is granted where the device names no time, seconds.
pub const EXPIRES_S_DEFAULT: u32 = 300;

/// Longest registration that is granted, seconds.
pub const EXPIRES_S_MAX: u32 = 3_600;

/// Contacts in one REGISTER. More are refused with 400.
pub const CONTACTS_MAX: usize = 8;

/// Path headers of one REGISTER. More are refused with 400.
pub const PATHS_MAX: usize = 8;

/// Characters of a Contact, a Path or a user agent that are kept. A longer Contact or Path is refused with 400.
pub const TEXT_BYTES_MAX: usize = 1_024;

const _: () = assert!(EXPIRES_S_MIN <= EXPIRES_S_DEFAULT && EXPIRES_S_DEFAULT <= EXPIRES_S_MAX);
const _: () = assert!(BINDINGS_MAX >= 2 * USERS_MAX);
