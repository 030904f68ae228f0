//! The OpenSSL backend: DTLS 1.2 for peers that the first one cannot serve, with RSA certificates and suites, CBC suites, or
//! without the extended master secret.
//!
//! Datagrams go in and out through two queues in memory; one `do_handshake` or `read` takes what is in the one and fills the
//! other. The certificate is the same as the other backend's, so a description does not depend on who will serve it.
//!
//! Traps of the library, and what is done about each:
//! - its retransmission timer reads the system's clock, and there is no way to give it another: this backend alone does not
//!   run in virtual time. It looks every `LOOK_MS` whether the timer has run out, and a simulated path must lose nothing;
//! - that timer starts at a second: a callback makes it `RETRANSMIT_MS`, doubled up to `RETRANSMIT_MS_MAX`;
//! - it asks the transport for its MTU and takes the least there is when it gets no answer: it is told, and told not to ask;
//! - it verifies chains, which a self-signed certificate is none of: the session compares fingerprints instead.
//!
//! Why not this one for all: a handshake costs four times as much, and it knows no DTLS 1.3 in the version of Debian 12.

use super::{
    Admission, Backend, BackendEvent, DTLS_DATAGRAM_BYTES_MAX, DtlsRole, DtlsVersion, Failure, KeyingMaterial,
    fingerprint_of,
};
use crate::error::Cause;
use crate::limits::DATAGRAM_BYTES_MAX;
use crate::srtp::SrtpProfile;
use crate::time::Instant;
use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::srtp::SrtpProfileId;
use openssl::ssl::{
    Error, ErrorCode, Ssl, SslContext, SslMethod, SslMode, SslOptions, SslRef, SslSessionCacheMode, SslStream,
    SslVerifyMode, SslVersion,
};
use openssl::x509::X509;
use std::collections::VecDeque;
use std::io::{self, Read, Write};

/// First retransmission, and the longest interval between two: twelve fit into `DTLS_MS_MAX`, as many as the library allows.
const RETRANSMIT_MS: u32 = 200;
const RETRANSMIT_MS_MAX: u32 = 2_000;

/// How often a handshake looks at the library's timer.
const LOOK_MS: u64 = 20;

/// Datagrams of ours that wait to be drained; a flight has at most eight. Past it the newest is lost, as on a path that drops it.
const FLIGHT_DATAGRAMS_MAX: usize = 32;

/// All that the library has, in its order: what both sides know decides. Level 1 takes RSA keys of 1,024 bits and SHA-1
/// signatures, which the peers that this is for may have; the fingerprint is what vouches for them (RFC 5763 §5).
const CIPHERS: &str = "ECDHE+AESGCM:ECDHE+CHACHA20:ALL:!aNULL:!eNULL:!PSK:!SRP:@SECLEVEL=1";

const SRTP_PROFILES: &str = "SRTP_AEAD_AES_256_GCM:SRTP_AEAD_AES_128_GCM:SRTP_AES128_CM_SHA1_80";

/// RFC 5764 §4.2.
const EXPORTER_LABEL: &str = "EXTRACTOR-dtls_srtp";

/// What all sessions of a certificate share.
pub(super) struct Credentials(SslContext);

impl Credentials {
    /// From a certificate and its private key, both DER.
    pub(super) fn new(certificate: &[u8], private_key: &[u8]) -> Result<Credentials, ErrorStack> {
        let mut context = SslContext::builder(SslMethod::dtls())?;
        context.set_min_proto_version(Some(SslVersion::DTLS1_2))?;
        context.set_certificate(X509::from_der(certificate)?.as_ref())?;
        context.set_private_key(PKey::private_key_from_der(private_key)?.as_ref())?;
        context.set_cipher_list(CIPHERS)?;
        context.set_tlsext_use_srtp(SRTP_PROFILES)?;
        context.set_options(SslOptions::NO_QUERY_MTU | SslOptions::NO_TICKET | SslOptions::NO_RENEGOTIATION);
        context.set_mode(SslMode::AUTO_RETRY);
        context.set_session_cache_mode(SslSessionCacheMode::OFF);
        context.set_verify_callback(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT, |_, _| true);
        Ok(Credentials(context.build()))
    }
}

/// One association.
pub(super) struct Association {
    /// The error that kept it from being made is the first that it reports.
    stream: Result<SslStream<Datagrams>, Option<ErrorStack>>,
    is_connected: bool,
    events: VecDeque<BackendEvent>,
}

/// Both directions, a datagram a piece.
#[derive(Default)]
struct Datagrams {
    received: Option<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

impl Read for Datagrams {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let datagram = self.received.take().ok_or(io::ErrorKind::WouldBlock)?;
        let len = datagram.len().min(out.len());
        out[..len].copy_from_slice(&datagram[..len]);
        Ok(len)
    }
}

impl Write for Datagrams {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        if self.sent.len() < FLIGHT_DATAGRAMS_MAX {
            self.sent.push_back(datagram.to_vec());
        }
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Association {
    pub(super) fn new(credentials: Result<&Credentials, &ErrorStack>, role: DtlsRole) -> Association {
        let stream = credentials.map_err(Clone::clone).and_then(|credentials| {
            let mut ssl = Ssl::new(&credentials.0)?;
            match role {
                DtlsRole::Client => ssl.set_connect_state(),
                DtlsRole::Server => ssl.set_accept_state(),
            }
            control::tune(&mut ssl, DTLS_DATAGRAM_BYTES_MAX);
            SslStream::new(ssl, Datagrams::default())
        });
        Association { stream: stream.map_err(Some), is_connected: false, events: VecDeque::new() }
    }

    /// Lets the library take what has come and do what is due.
    fn run(&mut self) -> Result<(), Failure> {
        let stream = match &mut self.stream {
            Ok(stream) => stream,
            Err(error) => return error.take().map_or(Ok(()), |error| Err(refused(error.to_string()))),
        };
        if !self.is_connected {
            match stream.do_handshake() {
                Ok(()) => {
                    self.is_connected = true;
                    self.events.extend(outcome(stream.ssl()));
                }
                Err(error) if is_patient(&error) => return Ok(()),
                Err(error) => return Err(refused(reason(&error))),
            }
        }
        // Nobody sends data: what is read is a repeated flight, which it answers, an alert, or the end.
        let mut nothing = [0; DATAGRAM_BYTES_MAX];
        loop {
            match stream.ssl_read(&mut nothing) {
                Ok(_) => {}
                Err(error) if is_patient(&error) => return Ok(()),
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => {
                    self.events.push_back(BackendEvent::Closed);
                    return Ok(());
                }
                Err(error) => return Err(Failure { cause: Cause::DtlsClosed, detail: reason(&error) }),
            }
        }
    }
}

impl Backend for Association {
    fn admits(&self, _datagram: &[u8]) -> Admission {
        Admission::Now
    }

    fn handle_datagram(&mut self, _now: Instant, datagram: &[u8]) -> Result<(), Failure> {
        if let Ok(stream) = &mut self.stream {
            stream.get_mut().received = Some(datagram.to_vec());
        }
        self.run()
    }

    fn handle_timeout(&mut self, _now: Instant) -> Result<(), Failure> {
        if self.is_connected { Ok(()) } else { self.run() }
    }

    fn poll(&mut self, now: Instant, out: &mut [u8]) -> BackendEvent {
        if let Ok(stream) = &mut self.stream
            && let Some(datagram) = stream.get_mut().sent.pop_front()
            && let Some(place) = out.get_mut(..datagram.len())
        {
            place.copy_from_slice(&datagram);
            return BackendEvent::Transmit(datagram.len());
        }
        let idle = if self.is_connected { Instant::NEVER } else { now.plus_millis(LOOK_MS) };
        self.events.pop_front().unwrap_or(BackendEvent::Timeout(idle))
    }

    fn close(&mut self) {
        if let (Ok(stream), true) = (&mut self.stream, self.is_connected) {
            // It fails only when there is nothing left to close.
            let _ = stream.shutdown();
        }
    }
}

/// What a handshake came to; without a profile the keys are left out, and the session ends.
fn outcome(ssl: &SslRef) -> Vec<BackendEvent> {
    let mut events = Vec::new();
    if let Some(certificate) = ssl.peer_certificate().and_then(|certificate| certificate.to_der().ok()) {
        events.push(BackendEvent::Certificate(fingerprint_of(&certificate)));
    }
    events.push(BackendEvent::Connected(DtlsVersion::V12));
    let profile = ssl.selected_srtp_profile().and_then(|profile| match profile.id() {
        SrtpProfileId::SRTP_AES128_CM_SHA1_80 => Some(SrtpProfile::AesCm128HmacSha1_80),
        SrtpProfileId::SRTP_AEAD_AES_128_GCM => Some(SrtpProfile::AeadAes128Gcm),
        SrtpProfileId::SRTP_AEAD_AES_256_GCM => Some(SrtpProfile::AeadAes256Gcm),
        _ => None,
    });
    if let Some(profile) = profile {
        let mut material: KeyingMaterial = [0; _];
        let bytes = 2 * (profile.key_bytes() + profile.salt_bytes());
        if ssl.export_keying_material(&mut material[..bytes], EXPORTER_LABEL, None).is_ok() {
            events.push(BackendEvent::Keys(profile, material));
        }
    }
    events
}

/// Whether the library only waits for more.
fn is_patient(error: &Error) -> bool {
    matches!(error.code(), ErrorCode::WANT_READ | ErrorCode::WANT_WRITE)
}

fn refused(detail: String) -> Failure {
    Failure { cause: Cause::DtlsRefused, detail }
}

/// The library's own words, such as `sslv3 alert handshake failure` or `no shared cipher`.
fn reason(error: &Error) -> String {
    let first = error.ssl_error().and_then(|stack| stack.errors().first()).and_then(openssl::error::Error::reason);
    first.map_or_else(|| error.to_string(), str::to_owned)
}

/// The two settings that the crate has no words for.
mod control {
    #![expect(unsafe_code, reason = "the crate wraps neither the MTU nor the timer of DTLS")]

    use super::{RETRANSMIT_MS, RETRANSMIT_MS_MAX};
    use foreign_types::ForeignTypeRef;
    use openssl::ssl::SslRef;
    use std::ffi::{c_int, c_long, c_uint};

    /// `SSL_CTRL_SET_MTU` of ssl.h.
    const SET_MTU: c_int = 17;

    type TimerCallback = extern "C" fn(*mut openssl_sys::SSL, c_uint) -> c_uint;

    unsafe extern "C" {
        fn DTLS_set_timer_cb(ssl: *mut openssl_sys::SSL, callback: TimerCallback);
    }

    /// Microseconds of the first timer (0 is given), and of each after it.
    extern "C" fn next_timer(_: *mut openssl_sys::SSL, before_us: c_uint) -> c_uint {
        match before_us {
            0 => RETRANSMIT_MS * 1_000,
            before_us => before_us.saturating_mul(2).min(RETRANSMIT_MS_MAX * 1_000),
        }
    }

    pub(super) fn tune(ssl: &mut SslRef, mtu: usize) {
        // SAFETY: the pointer is a live SSL's, for as long as `ssl` is borrowed; the callback is a plain function that touches
        // nothing, and `SSL_CTRL_SET_MTU` takes no pointer.
        unsafe {
            DTLS_set_timer_cb(ssl.as_ptr(), next_timer);
            openssl_sys::SSL_ctrl(ssl.as_ptr(), SET_MTU, mtu as c_long, core::ptr::null_mut());
        }
    }
}
