//! The dimpl backend: DTLS 1.2 and 1.3, ECDSA, AEAD suites.
//!
//! Traps of the library, and what is done about each:
//! - it asserts that a poll's buffer holds the peer's certificate: until that has been seen it writes into a buffer
//!   larger than any chain its receive queue could hold;
//! - as `new_auto` client it fails on a first datagram that is not a whole ServerHello or HelloVerifyRequest, as any
//!   reordered flight begins: others wait until the version is known;
//! - as `new_auto` server it counts every datagram until a ClientHello is complete and fails at 64: only
//!   fragments of a ClientHello reach it, and each once;
//! - after a damaged record its 1.3 client acknowledges at every call, for ever: a call is made once an instant, and "at
//!   once" is `ACK_MS` later;
//! - it asks for a drain after every mutation: [`super::DtlsSession`] feeds one datagram at a time;
//! - its first retransmission comes after a second by default, and its server sends cookies: both are set here.
//!
//! Every error it returns is final; noise it drops by itself.

use super::farewell::{self, Ear, Farewell};
use super::record::{self, CLIENT_HELLO, ClientHello};
use super::{
    Admission, Backend, BackendEvent, DTLS_DATAGRAM_BYTES_MAX, DtlsRole, DtlsVersion, DtlsVersions, Failure,
    IdentityError, KeyingMaterial, fingerprint_of,
};
use crate::error::Cause;
use crate::io::clock::{from_std, to_std};
use crate::limits::{DATAGRAM_BYTES_MAX, DTLS_MS_MAX};
use crate::srtp::SrtpProfile;
use crate::time::{Duration, Instant};
use dimpl::{Config, ConfigBuilder, Dtls, DtlsCertificate, Error, Output, ProtocolVersion, SecurityError};
use std::sync::Arc;

/// First retransmission. WhatsApp's side drops what comes before its own ICE is ready, so a second would be audible.
const RETRANSMIT_MS: u64 = 150;

/// Retransmissions of one flight: 150 ms doubled eight times reaches past `DTLS_MS_MAX`.
const RETRIES_MAX: usize = 8;
const _: () = assert!(RETRANSMIT_MS << (RETRIES_MAX + 1) > DTLS_MS_MAX);

/// Pause before an acknowledgement that the library wants to send at once.
const ACK_MS: u64 = 20;

/// Datagrams the library holds while a message is incomplete. A chain that needs more ends the handshake.
const REASSEMBLY_DATAGRAMS_MAX: usize = 40;

/// Holds any certificate that fits into the reassembly queue.
const CERTIFICATE_BYTES_MAX: usize = REASSEMBLY_DATAGRAMS_MAX * DATAGRAM_BYTES_MAX;

/// Flights of ours that wait to be drained; the longest has six datagrams.
const FLIGHT_DATAGRAMS_MAX: usize = 16;

/// Different fragments of a ClientHello that reach an undecided server; browsers send two. Further ones are dropped, where
/// the library's own limit would end the handshake.
const HELLO_FRAGMENTS_MAX: usize = 32;

/// Certificate, key and settings, shared by all sessions: checking the settings costs more than a handshake.
pub(super) struct Credentials {
    certificate: DtlsCertificate,
    config: Arc<Config>,
}

impl Credentials {
    pub(super) fn generate(seed: Option<u64>) -> Result<Credentials, IdentityError> {
        let certificate = ::dimpl::certificate::generate_self_signed_certificate().map_err(|_| IdentityError)?;
        Credentials::with_certificate(certificate, seed, |settings| settings)
    }

    /// `tune` has the last word on the settings.
    fn with_certificate(
        certificate: DtlsCertificate,
        seed: Option<u64>,
        tune: impl FnOnce(ConfigBuilder) -> ConfigBuilder,
    ) -> Result<Credentials, IdentityError> {
        let mut builder = Config::builder()
            .with_crypto_provider(farewell::watched())
            .mtu(DTLS_DATAGRAM_BYTES_MAX)
            .max_queue_rx(REASSEMBLY_DATAGRAMS_MAX)
            .max_queue_tx(FLIGHT_DATAGRAMS_MAX)
            .flight_start_rto(Duration::from_millis(RETRANSMIT_MS))
            .flight_retries(RETRIES_MAX)
            .handshake_timeout(Duration::from_millis(DTLS_MS_MAX))
            // ICE has validated the address; a cookie would cost a round trip.
            .use_server_cookie(false)
            .require_client_certificate(true);
        if let Some(seed) = seed {
            builder = builder.dangerously_set_rng_seed(seed);
        }
        let config = Arc::new(tune(builder).build().map_err(|_| IdentityError)?);
        Ok(Credentials { certificate, config })
    }

    /// DER.
    pub(super) fn certificate(&self) -> &[u8] {
        &self.certificate.certificate
    }

    /// DER, PKCS #8.
    pub(super) fn private_key(&self) -> &[u8] {
        &self.certificate.private_key
    }
}

/// Whether the library can answer a client: with a suite of 1.3, or with one of its own of 1.2 and the extended master secret.
/// What it cannot answer it takes for noise.
pub(super) fn can_serve(hello: &ClientHello<'_>) -> bool {
    const SUITES_13: [u16; 3] = [0x1301, 0x1302, 0x1303];
    const SUITES_12: [u16; 3] = [0xc02b, 0xc02c, 0xcca9];
    const EXTENDED_MASTER_SECRET: u16 = 23;
    let offers = |suites: [u16; 3]| suites.into_iter().any(|suite| hello.offers(suite));
    offers(SUITES_13) || (offers(SUITES_12) && !hello.lacks(EXTENDED_MASTER_SECRET))
}

/// One association.
pub(super) struct Association {
    dtls: Dtls,
    /// What stands between the peer and a library that has not settled on a version.
    gate: Gate,
    certificate_seen: bool,
    /// Of the last record of 1.2 that was opened: the peer's Finished shows it first.
    ear: Option<Ear>,
}

/// Which datagrams reach the library.
enum Gate {
    /// All.
    Open,
    /// Client of unknown version: the first must decide it.
    UndecidedClient,
    /// Server of unknown version: only new fragments of a ClientHello.
    UndecidedServer { seen: Vec<Vec<u8>> },
}

impl Gate {
    fn admits(&self, datagram: &[u8]) -> Admission {
        let first = record::first_fragment(datagram);
        match (self, first) {
            (Gate::Open, _) => Admission::Now,
            (Gate::UndecidedClient, Some(first)) if first.decides_version() => Admission::Now,
            (Gate::UndecidedClient, _) if record::fatal_alert(datagram).is_some() => Admission::Now,
            (Gate::UndecidedClient, _) => Admission::Later,
            (Gate::UndecidedServer { seen }, Some(first)) if first.kind == CLIENT_HELLO => {
                let news = seen.len() < HELLO_FRAGMENTS_MAX && seen.iter().all(|bytes| bytes != first.bytes);
                if news { Admission::Now } else { Admission::Never }
            }
            (Gate::UndecidedServer { .. }, _) => Admission::Never,
        }
    }
}

impl Association {
    pub(super) fn new(now: Instant, credentials: &Credentials, role: DtlsRole, versions: DtlsVersions) -> Association {
        let (config, certificate) = (Arc::clone(&credentials.config), credentials.certificate.clone());
        let make = match versions {
            DtlsVersions::V12 | DtlsVersions::OpenSsl => Dtls::new_12,
            DtlsVersions::V13 => Dtls::new_13,
            DtlsVersions::Auto => Dtls::new_auto,
        };
        let mut dtls = make(config, certificate, to_std(now));
        dtls.set_active(role == DtlsRole::Client);
        let gate = match (versions, role) {
            (DtlsVersions::Auto, DtlsRole::Client) => Gate::UndecidedClient,
            (DtlsVersions::Auto, DtlsRole::Server) => Gate::UndecidedServer { seen: Vec::new() },
            _ => Gate::Open,
        };
        Association { dtls, gate, certificate_seen: false, ear: None }
    }

    /// One answer of the library, with everything that does not concern us left out.
    fn poll_into(&mut self, now: Instant, buffer: &mut [u8]) -> Polled {
        match self.dtls.poll_output(buffer) {
            Output::Packet(packet) => Polled::Packet(packet.len()),
            Output::BufferTooSmall { needed } => Polled::TooSmall(needed),
            Output::Timeout(next) => Polled::Event(BackendEvent::Timeout(deadline(now, from_std(next)))),
            Output::PeerCert(certificate) => {
                self.certificate_seen = true;
                Polled::Event(BackendEvent::Certificate(fingerprint_of(certificate)))
            }
            Output::Connected => match self.dtls.protocol_version() {
                Some(ProtocolVersion::DTLS1_3) => Polled::Event(BackendEvent::Connected(DtlsVersion::V13)),
                _ => Polled::Event(BackendEvent::Connected(DtlsVersion::V12)),
            },
            Output::KeyingMaterial(material, profile) => match keys(&material, profile) {
                Some(event) => Polled::Event(event),
                None => Polled::Nothing,
            },
            Output::CloseNotify => Polled::Event(BackendEvent::Closed),
            // No data channel is ever negotiated.
            _ => Polled::Nothing,
        }
    }
}

/// What `poll_into` found.
enum Polled {
    Packet(usize),
    TooSmall(usize),
    Event(BackendEvent),
    Nothing,
}

impl Backend for Association {
    fn admits(&self, datagram: &[u8]) -> Admission {
        self.gate.admits(datagram)
    }

    fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Result<(), Failure> {
        self.dtls.handle_timeout(to_std(now)).map_err(failure)?;
        match (&mut self.gate, record::first_fragment(datagram)) {
            (Gate::UndecidedClient, None) => {
                if let Some(description) = record::fatal_alert(datagram) {
                    return Err(alert(description));
                }
            }
            (Gate::UndecidedServer { seen }, Some(first)) => seen.push(first.bytes.to_vec()),
            _ => {}
        }
        // Of another association, or of what `poll` opened.
        let _ = farewell::opened();
        let handled = self.dtls.handle_packet(datagram).map_err(failure);
        self.ear = farewell::opened().or(self.ear);
        handled?;
        if self.dtls.protocol_version().is_some() {
            self.gate = Gate::Open;
        }
        Ok(())
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), Failure> {
        self.dtls.handle_timeout(to_std(now)).map_err(failure)
    }

    fn poll(&mut self, now: Instant, out: &mut [u8]) -> BackendEvent {
        // Set-up only: once the certificate has been seen, `out` is written directly.
        let mut scratch = if self.certificate_seen { Vec::new() } else { vec![0; CERTIFICATE_BYTES_MAX] };
        loop {
            let polled = if scratch.is_empty() { self.poll_into(now, out) } else { self.poll_into(now, &mut scratch) };
            match polled {
                Polled::Packet(len) if scratch.is_empty() => return BackendEvent::Transmit(len),
                Polled::Packet(len) => {
                    // Longer than `out` is longer than the MTU: not sent, as on a path that drops it.
                    if let (Some(to), Some(from)) = (out.get_mut(..len), scratch.get(..len)) {
                        to.copy_from_slice(from);
                        return BackendEvent::Transmit(len);
                    }
                }
                // Application data that nobody reads, or a caller's buffer below the MTU: taken out and dropped.
                Polled::TooSmall(needed) => scratch = vec![0; needed],
                Polled::Event(event) => return event,
                Polled::Nothing => {}
            }
        }
    }

    fn close(&mut self) {
        // It fails only when there is nothing left to close.
        let _ = self.dtls.close();
    }

    /// 1.2 only: of 1.3 the library shows neither the IV nor the key of the record numbers before the peer has used them.
    fn settle(&mut self) -> Option<Box<dyn Backend>> {
        let ear = self.ear.filter(|_| self.dtls.protocol_version() == Some(ProtocolVersion::DTLS1_2))?;
        self.dtls.close().ok()?;
        // Everything else was drained: it is the one thing that waits.
        let mut sealed = [0; DTLS_DATAGRAM_BYTES_MAX];
        let Output::Packet(close_notify) = self.dtls.poll_output(&mut sealed) else { return None };
        Some(Box::new(Farewell::new(close_notify, ear)?))
    }
}

/// The library says "in ten years" when no timer runs, and "now" for an acknowledgement of a gap. After a damaged record it
/// repeats that one as often as it is asked, so "now" is made `ACK_MS`: a peer gets at most 50 a second.
fn deadline(now: Instant, next: Instant) -> Instant {
    const IDLE: Duration = Duration::from_secs(24 * 60 * 60);
    match next {
        next if next.since(now) > IDLE => Instant::NEVER,
        next if next > now => next,
        _ => now.plus_millis(ACK_MS),
    }
}

fn keys(material: &[u8], profile: dimpl::SrtpProfile) -> Option<BackendEvent> {
    let profile = match profile {
        dimpl::SrtpProfile::AES128_CM_SHA1_80 => SrtpProfile::AesCm128HmacSha1_80,
        dimpl::SrtpProfile::AEAD_AES_128_GCM => SrtpProfile::AeadAes128Gcm,
        dimpl::SrtpProfile::AEAD_AES_256_GCM => SrtpProfile::AeadAes256Gcm,
        _ => return None,
    };
    let mut padded: KeyingMaterial = [0; _];
    padded.get_mut(..material.len())?.copy_from_slice(material);
    Some(BackendEvent::Keys(profile, padded))
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Timeout(_) => Failure { cause: Cause::DtlsTimeout, detail: error.to_string() },
        Error::ConnectionClosed => Failure { cause: Cause::DtlsClosed, detail: error.to_string() },
        Error::SecurityError(SecurityError::FatalAlert { description }) => alert(description),
        _ => Failure { cause: Cause::DtlsRefused, detail: error.to_string() },
    }
}

pub(super) fn alert(description: u8) -> Failure {
    let detail = format!("peer sent a fatal alert: {} ({description})", record::alert_name(description));
    Failure { cause: Cause::DtlsRefused, detail }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::dtls::Identity;

    /// Some 5 kB: a few hundred alternative names.
    pub(in crate::dtls) fn identity_with_long_certificate() -> Identity {
        let names: Vec<String> = (0..200).map(|at| format!("a-rather-long-name-{at}.test")).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let certificate =
            DtlsCertificate { certificate: made.cert.der().to_vec(), private_key: made.signing_key.serialize_der() };
        assert!(certificate.certificate.len() > 2 * DATAGRAM_BYTES_MAX);
        Identity::from(Credentials::with_certificate(certificate, Some(3), |settings| settings).unwrap())
    }

    /// Of a server that answers a first ClientHello with a question: for a cookie (RFC 6347 §4.2.1, RFC 9147 §5.1), or for a key
    /// of another group than the client sent one of (RFC 8446 §4.1.4).
    pub(in crate::dtls) fn identity_that_asks(for_cookie: bool) -> Identity {
        let certificate = ::dimpl::certificate::generate_self_signed_certificate().unwrap();
        let tune = |settings: ConfigBuilder| match for_cookie {
            true => settings.use_server_cookie(true),
            false => settings.kx_groups(&[::dimpl::NamedGroup::Secp384r1]),
        };
        Identity::from(Credentials::with_certificate(certificate, Some(4), tune).unwrap())
    }
}
