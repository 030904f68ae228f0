//! DTLS-SRTP: handshake, fingerprint check, exported keys (RFC 5763, 5764). One small interface, backends behind it.
//!
//! ```text
//!            new            certificate = fingerprint       keys of a profile we know
//! (flights) -----> Handshake ------------------------> ... ------------------------> Connected
//!                      |  DtlsTimeout, DtlsRefused, DtlsFingerprintMismatch              |  DtlsClosed, DtlsRefused
//!                      +------------------------------> Ended <--------------------------+
//! ```
//!
//! [`DtlsSession`] holds what is policy and the same for every library: the deadline, the fingerprint, the split of the
//! exported bytes, the cause of an end. A `Backend` is one library's handshake: `dimpl.rs`, or `openssl.rs` for peers that the
//! first cannot serve.
//!
//! After `Connected` the session stays: it answers a peer that did not get our last flight and it hears close_notify. No
//! media packet passes through it. Once that flight has certainly arrived, little is left of it (`farewell.rs`).
//!
//! Why a trait and two libraries: dimpl speaks ECDSA and AEAD suites only, and needs the extended master secret. A peer that
//! it cannot serve needs OpenSSL behind the same session, chosen when the session is made ([`DtlsVersions::OpenSsl`]), or by a
//! server that sees in the ClientHello that there is no other way: dimpl takes such a hello for noise, and the client waits.

mod dimpl;
mod farewell;
mod openssl;
mod record;

use crate::error::Cause;
use crate::limits::{DATAGRAM_BYTES_MAX, DTLS_MS_MAX};
use crate::sdp::Fingerprint;
use crate::srtp::{MASTER_BYTES_MAX, MasterKey, SrtpKeys, SrtpProfile};
use crate::time::Instant;
use ::openssl::error::ErrorStack;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

/// Largest datagram of a handshake that we send: passes through any tunnel that carries WebRTC.
pub const DTLS_DATAGRAM_BYTES_MAX: usize = 1200;

/// Datagrams that wait until the session is polled, or until the version is known. Past it the oldest is lost, as it may
/// be on the way.
pub const DTLS_QUEUE_MAX: usize = 16;

/// Our certificate: ECDSA P-256, self-signed, one per process.
/// Cloning shares it.
#[derive(Clone)]
pub struct Identity {
    shared: Arc<dimpl::Credentials>,
    /// The same certificate in the other library, once a session needs it.
    openssl: Arc<OnceLock<Result<openssl::Credentials, ErrorStack>>>,
}

impl Identity {
    /// Makes a fresh one. Costs about a millisecond.
    pub fn generate() -> Result<Identity, IdentityError> {
        Ok(Identity::from(dimpl::Credentials::generate(None)?))
    }

    /// One whose sessions draw their retransmission jitter and hello randoms from `seed`, so that a simulated run takes
    /// the same steps again. Keys and signatures stay random. Not for real peers: its hellos repeat.
    pub fn generate_for_simulation(seed: u64) -> Result<Identity, IdentityError> {
        Ok(Identity::from(dimpl::Credentials::generate(Some(seed))?))
    }

    fn from(credentials: dimpl::Credentials) -> Identity {
        Identity { shared: Arc::new(credentials), openssl: Arc::default() }
    }

    /// For the other library: made at the first call, which costs about a millisecond.
    fn openssl(&self) -> Result<&openssl::Credentials, &ErrorStack> {
        let make = || openssl::Credentials::new(self.shared.certificate(), self.shared.private_key());
        self.openssl.get_or_init(make).as_ref()
    }

    /// SHA-256 of the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint_of(self.shared.certificate())
    }
}

impl core::fmt::Debug for Identity {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Identity(redacted)")
    }
}

/// The system gave no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentityError;

/// Who starts the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DtlsRole {
    /// `setup:active`
    Client,
    /// `setup:passive`
    Server,
}

/// Versions to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DtlsVersions {
    /// 1.2 only: toward WhatsApp until 1.3 is confirmed there.
    V12,
    /// 1.3 only.
    V13,
    /// Both, the peer's ClientHello decides (servers; it may leave no choice but OpenSSL, here as with `V12`), or 1.3 with
    /// fallback (clients).
    Auto,
    /// 1.2 by OpenSSL, for a peer that the first library cannot serve: RSA suites, CBC suites, no extended master secret. Chosen
    /// for a number or a trunk, or after a handshake whose end [`may_suit_openssl`].
    OpenSsl,
}

/// What is said where the handshake was done and gave no keys: no library changes that.
const NO_PROFILE: &str = "no SRTP profile in common";

/// OpenSSL's own words as a server: our certificate is ECDSA in either library.
const NO_SHARED_CIPHER: &str = "no shared cipher";

/// Whether an end, with its detail, may come from something that only the first library lacks: suites, certificate types or
/// extensions in common. The same peer is then worth a call with [`DtlsVersions::OpenSsl`].
pub fn may_suit_openssl(cause: Cause, detail: Option<&str>) -> bool {
    // Alerts: handshake_failure, the certificate ones, illegal_parameter, decrypt_error, protocol_version, insufficient_security,
    // internal_error, and the extension ones. What our own library says about the peer's messages has no alert in it.
    const ALERTS: [&str; 11] =
        ["(40)", "(42)", "(43)", "(46)", "(47)", "(51)", "(70)", "(71)", "(80)", "(109)", "(110)"];
    let hopeless = [NO_PROFILE, NO_SHARED_CIPHER];
    let Some(detail) = detail.filter(|detail| cause == Cause::DtlsRefused && !hopeless.contains(detail)) else {
        return false;
    };
    !detail.contains("fatal alert") || ALERTS.iter().any(|alert| detail.contains(alert))
}

/// The version in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DtlsVersion {
    /// DTLS 1.2 (RFC 6347)
    V12,
    /// DTLS 1.3 (RFC 9147)
    V13,
}

/// What `poll_output` answers.
pub enum DtlsOutput {
    /// `out[..len]` is to be sent to the nominated address.
    Transmit(usize),
    /// Handshake done, certificate checked; keys of both directions.
    Connected {
        /// Version in force.
        version: DtlsVersion,
        /// Exported keys.
        keys: SrtpKeys,
    },
    /// The association ended; the session is to be thrown away.
    Ended(Cause),
    /// Nothing to do before this instant.
    Timeout(Instant),
}

/// What a backend reports.
enum BackendEvent {
    /// `out[..len]` is to be sent.
    Transmit(usize),
    /// The peer's certificate, DER. Comes before `Keys`.
    Certificate(Fingerprint),
    /// The handshake is done.
    Connected(DtlsVersion),
    /// Exported keying material (RFC 5764 §4.2): client key, server key, client salt, server salt.
    Keys(SrtpProfile, KeyingMaterial),
    /// The peer said close_notify.
    Closed,
    /// Drained; nothing to do before this instant.
    Timeout(Instant),
}

/// Longest material: two keys and two salts of the longest profile.
type KeyingMaterial = [u8; 2 * MASTER_BYTES_MAX];

/// Why a backend can not go on.
struct Failure {
    cause: Cause,
    detail: String,
}

/// When a backend can make use of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    Now,
    /// It came before another that decides how it is read.
    Later,
    Never,
}

/// One library's DTLS association. Noise is dropped inside; a [`Failure`] is final, but what is queued can still be
/// drained, an alert for instance.
///
/// `handle_datagram` and `handle_timeout` are each followed by `poll` until `Timeout`; `now` never goes back.
trait Backend: Send {
    fn admits(&self, datagram: &[u8]) -> Admission;
    fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Result<(), Failure>;
    fn handle_timeout(&mut self, now: Instant) -> Result<(), Failure>;
    fn poll(&mut self, now: Instant, out: &mut [u8]) -> BackendEvent;
    fn close(&mut self);

    /// Called once everything was drained and the peer can miss no flight of ours any more: what may stand in for it from now on,
    /// if it has something smaller. Unless it answers `None`, it is done.
    fn settle(&mut self) -> Option<Box<dyn Backend>> {
        None
    }
}

/// One handshake and what follows it.
pub struct DtlsSession {
    backend: Box<dyn Backend>,
    /// Of a server whose first ClientHello decides between the libraries, until it has come.
    undecided: Option<Identity>,
    role: DtlsRole,
    expected: Fingerprint,
    state: State,
    /// When a handshake that is not done has failed.
    deadline: Instant,
    /// Waiting for the backend to be drained, at most `DTLS_QUEUE_MAX`.
    received: VecDeque<Vec<u8>>,
    /// The latest instant heard of: a library's clock must not run backwards.
    now: Instant,
    /// The instant the backend has been brought to.
    ticked: Option<Instant>,
    /// The backend may be asked whether it needs less memory.
    may_settle: bool,
    detail: Option<String>,
}

/// Where the association stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Handshake {
        /// The peer has shown the certificate of its description.
        certificate_matches: bool,
        /// The library has finished.
        version: Option<DtlsVersion>,
    },
    Connected,
    /// To be reported once the backend is drained.
    Ending(Cause),
    Ended,
}

impl DtlsSession {
    /// A session whose peer must show a certificate with `expected`.
    /// A client sends its first flight at the first `poll_output`; create it only after nomination.
    pub fn new(
        now: Instant,
        identity: &Identity,
        role: DtlsRole,
        versions: DtlsVersions,
        expected: Fingerprint,
    ) -> DtlsSession {
        DtlsSession {
            backend: match versions {
                DtlsVersions::OpenSsl => Box::new(openssl::Association::new(identity.openssl(), role)),
                _ => Box::new(dimpl::Association::new(now, &identity.shared, role, versions)),
            },
            undecided: match (role, versions) {
                (DtlsRole::Server, DtlsVersions::V12 | DtlsVersions::Auto) => Some(identity.clone()),
                _ => None,
            },
            role,
            expected,
            state: State::Handshake { certificate_matches: false, version: None },
            deadline: now.plus_millis(DTLS_MS_MAX),
            received: VecDeque::new(),
            now,
            ticked: None,
            may_settle: false,
            detail: None,
        }
    }

    /// Takes one datagram from the nominated address. Whatever is no DTLS is dropped, and the oldest of what is more than
    /// `DTLS_QUEUE_MAX`.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        self.now = self.now.max(now);
        let listening = matches!(self.state, State::Handshake { .. } | State::Connected);
        if listening && datagram.len() <= DATAGRAM_BYTES_MAX && record::is_plausible(datagram) {
            if self.received.len() >= DTLS_QUEUE_MAX {
                self.received.pop_front();
            }
            self.received.push_back(datagram.to_vec());
        }
    }

    /// Call when the instant of the last `Timeout` has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Call until `Timeout` or `Ended`. `out` must hold `DTLS_DATAGRAM_BYTES_MAX`.
    pub fn poll_output(&mut self, now: Instant, out: &mut [u8]) -> DtlsOutput {
        self.now = self.now.max(now);
        self.advance();
        loop {
            if self.state == State::Ended {
                return DtlsOutput::Timeout(Instant::NEVER);
            }
            let next = match self.backend.poll(self.now, out) {
                BackendEvent::Transmit(len) => return DtlsOutput::Transmit(len),
                BackendEvent::Timeout(next) => next,
                event => {
                    if let Some(output) = self.take(event) {
                        return output;
                    }
                    continue;
                }
            };
            if let State::Handshake { version: Some(_), .. } = self.state {
                // Finished, drained, and no keys came: the peer took no use_srtp (RFC 5764 §4.1).
                self.end(Cause::DtlsRefused, NO_PROFILE);
            }
            if let State::Ending(cause) = self.state {
                self.state = State::Ended;
                return DtlsOutput::Ended(cause);
            }
            let Some(datagram) = self.next_datagram() else {
                self.settle();
                return DtlsOutput::Timeout(self.next_deadline(next));
            };
            self.decide(&datagram);
            let result = self.backend.handle_datagram(self.now, &datagram);
            self.fail_if(result);
        }
    }

    /// Says that the peer has shown that it has the keys: it cannot miss our last flight any more. Poll once more afterwards.
    pub fn confirm(&mut self) {
        self.may_settle |= self.state == State::Connected;
    }

    /// Lets the backend go when it has been drained and a smaller one can do what is left.
    fn settle(&mut self) {
        if core::mem::take(&mut self.may_settle)
            && self.state == State::Connected
            && let Some(rest) = self.backend.settle()
        {
            self.backend = rest;
            self.received = VecDeque::new();
        }
    }

    /// Queues close_notify; poll once more afterwards. Before `Connected` the handshake is given up silently.
    pub fn close(&mut self) {
        if matches!(self.state, State::Handshake { .. } | State::Connected) {
            self.received.clear();
            self.backend.close();
        }
    }

    /// What the library or the peer's alert said about the end, for people.
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// Brings time to the backend, once an instant: a library that answers an acknowledgement that is due now with another
    /// one that is due now would otherwise never be drained.
    fn advance(&mut self) {
        if self.ticked == Some(self.now) {
            return;
        }
        self.ticked = Some(self.now);
        match self.state {
            State::Handshake { .. } if self.now >= self.deadline => self.end(Cause::DtlsTimeout, "handshake timeout"),
            State::Handshake { .. } | State::Connected => {
                let result = self.backend.handle_timeout(self.now);
                self.fail_if(result);
            }
            State::Ending(_) | State::Ended => {}
        }
    }

    /// The first ClientHello says which library can answer it.
    fn decide(&mut self, datagram: &[u8]) {
        let Some(hello) = record::client_hello(datagram) else { return };
        if let Some(identity) = self.undecided.take()
            && !dimpl::can_serve(&hello)
        {
            self.backend = Box::new(openssl::Association::new(identity.openssl(), self.role));
        }
    }

    /// The first datagram that the backend can use now; what it never will is dropped on the way.
    fn next_datagram(&mut self) -> Option<Vec<u8>> {
        let backend = &self.backend;
        self.received.retain(|datagram| backend.admits(datagram) != Admission::Never);
        let at = self.received.iter().position(|datagram| backend.admits(datagram) == Admission::Now)?;
        self.received.remove(at)
    }

    fn next_deadline(&self, backend: Instant) -> Instant {
        match self.state {
            State::Handshake { .. } => backend.min(self.deadline),
            _ => backend,
        }
    }

    /// Judges what the backend reports.
    fn take(&mut self, event: BackendEvent) -> Option<DtlsOutput> {
        let State::Handshake { certificate_matches, version } = &mut self.state else {
            if matches!(event, BackendEvent::Closed) && self.state == State::Connected {
                self.end(Cause::DtlsClosed, "close_notify");
            }
            return None;
        };
        match event {
            BackendEvent::Certificate(shown) if verify_slices_are_equal(&shown, &self.expected).is_ok() => {
                *certificate_matches = true;
            }
            // RFC 5763 §5: such a peer gets no further; it is not told why.
            BackendEvent::Certificate(_) => return Some(self.end_at_once(Cause::DtlsFingerprintMismatch)),
            BackendEvent::Connected(negotiated) => *version = Some(negotiated),
            // Keys are released to nobody but the owner of that certificate (RFC 8122 §6.2).
            BackendEvent::Keys(..) if !*certificate_matches => {
                return Some(self.end_at_once(Cause::DtlsFingerprintMismatch));
            }
            BackendEvent::Keys(profile, material) => {
                let version = (*version)?;
                self.state = State::Connected;
                // The last flight of 1.2 is the server's (RFC 6347 §4.2.4): a client that has it owes nothing.
                self.may_settle = self.role == DtlsRole::Client;
                return Some(DtlsOutput::Connected { version, keys: split_keys(profile, self.role, &material) });
            }
            BackendEvent::Closed => self.end(Cause::DtlsClosed, "close_notify"),
            BackendEvent::Transmit(_) | BackendEvent::Timeout(_) => {}
        }
        None
    }

    fn fail_if(&mut self, result: Result<(), Failure>) {
        if let Err(failure) = result {
            self.end(failure.cause, &failure.detail);
        }
    }

    fn end(&mut self, cause: Cause, detail: &str) {
        self.state = State::Ending(cause);
        self.received.clear();
        self.detail = Some(detail.to_owned());
    }

    fn end_at_once(&mut self, cause: Cause) -> DtlsOutput {
        self.end(cause, "certificate has another fingerprint");
        self.state = State::Ended;
        DtlsOutput::Ended(cause)
    }
}

fn fingerprint_of(certificate: &[u8]) -> Fingerprint {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest(&SHA256, certificate).as_ref());
    fingerprint
}

/// Client key, server key, client salt, server salt (RFC 5764 §4.2): the client protects with the client's.
fn split_keys(profile: SrtpProfile, role: DtlsRole, material: &KeyingMaterial) -> SrtpKeys {
    let (key_bytes, salt_bytes) = (profile.key_bytes(), profile.salt_bytes());
    let master = |side: usize| {
        let mut bytes = [0; MASTER_BYTES_MAX];
        let (key_at, salt_at) = (side * key_bytes, 2 * key_bytes + side * salt_bytes);
        bytes[..key_bytes].copy_from_slice(&material[key_at..key_at + key_bytes]);
        bytes[key_bytes..key_bytes + salt_bytes].copy_from_slice(&material[salt_at..salt_at + salt_bytes]);
        MasterKey { bytes }
    };
    let (client, server) = (master(0), master(1));
    match role {
        DtlsRole::Client => SrtpKeys { profile, local: client, remote: server },
        DtlsRole::Server => SrtpKeys { profile, local: server, remote: client },
    }
}

#[cfg(test)]
mod tests;
