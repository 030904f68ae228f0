//! DTLS-SRTP: handshake, fingerprint check, exported keys (RFC 5763, 5764). One small interface, backends behind it.

use crate::error::Cause;
use crate::sdp::Fingerprint;
use crate::srtp::SrtpKeys;
use crate::time::Instant;

/// Our certificate: ECDSA P-256, self-signed, one per process.
#[derive(Clone)]
pub struct Identity {}

impl Identity {
    /// Makes a fresh one. Costs about a millisecond.
    pub fn generate() -> Result<Identity, IdentityError> {
        todo!()
    }

    /// SHA-256 of the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        todo!()
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
    /// Both, the peer's ClientHello decides (servers), or 1.3 with fallback (clients).
    Auto,
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

/// One handshake and what follows it.
pub struct DtlsSession {}

impl DtlsSession {
    /// A session whose peer must show a certificate with `expected`.
    /// A client sends its first flight at the first `poll_output`; create it only after nomination.
    pub fn new(
        _now: Instant,
        _identity: &Identity,
        _role: DtlsRole,
        _versions: DtlsVersions,
        _expected: Fingerprint,
    ) -> DtlsSession {
        todo!()
    }

    /// Takes one datagram from the nominated address.
    pub fn handle_datagram(&mut self, _now: Instant, _datagram: &[u8]) {
        todo!()
    }

    /// Call when the instant of the last `Timeout` has come.
    pub fn handle_timeout(&mut self, _now: Instant) {
        todo!()
    }

    /// Call until `Timeout` or `Ended`.
    pub fn poll_output(&mut self, _now: Instant, _out: &mut [u8]) -> DtlsOutput {
        todo!()
    }

    /// Queues close_notify; poll once more afterwards.
    pub fn close(&mut self) {
        todo!()
    }
}
