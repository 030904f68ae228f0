//! What stays of an association of DTLS 1.2 once its handshake is certainly over: our close_notify, and an ear for the peer's.
//!
//! ```text
//!  association ──our last flight has arrived──► Farewell ── close ──► the sealed close_notify
//!     10 KB                                      0.2 KB  ◄── alert ── close_notify: ours goes back; or a fatal one
//! ```
//!
//! Why: a call needs of its association nothing else for hours, and a library keeps the transcript, both certificates and buffers for it:
//! half of what a relayed call takes. The close_notify is sealed while the library still has its keys, and sent when its time comes: records
//! may arrive late, so its number only has to be new (RFC 6347 §4.1). The peer's cannot be opened without its write key, which the library
//! tells nobody: it is seen where the library asks for a cipher, through the provider that it lets everybody bring (`watched`). Nothing
//! but alerts is ever opened with it.
//!
//! A peer may repeat its last flight for as long as ours has not arrived (RFC 6347 §4.2.4), so the association is kept until that is certain:
//! a client has the server's last word already, a server waits for the first media that the client's new keys protect.

use super::{Admission, Backend, BackendEvent, Failure, dimpl, record};
use crate::time::Instant;
use ::dimpl::CryptoError;
use ::dimpl::crypto::{
    Aad, Buf, Cipher, CryptoProvider, Dtls12CipherSuite, HashAlgorithm, Nonce, SupportedDtls12CipherSuite, TmpBuf,
    aws_lc_rs::default_provider,
};
use aws_lc_rs::aead::{self, AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use std::cell::Cell;
use std::sync::OnceLock;

/// A record with an alert: 13 bytes of header, 8 of explicit nonce, 2 of content, 16 of tag.
const SEALED_BYTES_MAX: usize = 13 + 8 + 2 + 16;

/// Longest key of a suite, and the nonce of all.
const KEY_BYTES_MAX: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// AlertLevel and AlertDescription (RFC 5246 §7.2).
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;

/// The end of an association.
pub(super) struct Farewell {
    sealed: [u8; SEALED_BYTES_MAX],
    sealed_len: u8,
    ear: Ear,
    is_closing: bool,
    has_heard: bool,
}

impl Farewell {
    /// Of our sealed close_notify, and the key that the peer writes with. `None` where it is no record of an alert.
    pub(super) fn new(close_notify: &[u8], ear: Ear) -> Option<Farewell> {
        let mut sealed = [0; SEALED_BYTES_MAX];
        sealed.get_mut(..close_notify.len())?.copy_from_slice(close_notify);
        record::sealed_alert(close_notify)?;
        let sealed_len = close_notify.len() as u8;
        Some(Farewell { sealed, sealed_len, ear, is_closing: false, has_heard: false })
    }
}

impl Backend for Farewell {
    fn admits(&self, datagram: &[u8]) -> Admission {
        if record::sealed_alert(datagram).is_some() { Admission::Now } else { Admission::Never }
    }

    fn handle_datagram(&mut self, _now: Instant, datagram: &[u8]) -> Result<(), Failure> {
        match record::sealed_alert(datagram).and_then(|alert| self.ear.open(&alert)) {
            Some([_, CLOSE_NOTIFY]) => {
                // RFC 5246 §7.2.1: it is answered with ours.
                (self.has_heard, self.is_closing) = (true, true);
                Ok(())
            }
            Some([FATAL, description]) => Err(dimpl::alert(description)),
            // A warning, or nothing that the peer has sealed.
            _ => Ok(()),
        }
    }

    fn handle_timeout(&mut self, _now: Instant) -> Result<(), Failure> {
        Ok(())
    }

    fn poll(&mut self, _now: Instant, out: &mut [u8]) -> BackendEvent {
        let len = usize::from(self.sealed_len);
        if core::mem::take(&mut self.has_heard) {
            return BackendEvent::Closed;
        }
        if core::mem::take(&mut self.is_closing)
            && let Some(place) = out.get_mut(..len)
        {
            // Once: two records of one number would be a replay.
            self.sealed_len = 0;
            place.copy_from_slice(&self.sealed[..len]);
            if len > 0 {
                return BackendEvent::Transmit(len);
            }
        }
        BackendEvent::Timeout(Instant::NEVER)
    }

    fn close(&mut self) {
        self.is_closing = true;
    }
}

/// The key that the peer writes its records with, as far as alerts need it.
#[derive(Clone, Copy)]
pub(super) struct Ear {
    suite: Dtls12CipherSuite,
    key: [u8; KEY_BYTES_MAX],
    /// The fixed part: four bytes of AES-GCM (RFC 5288 §3), all twelve of ChaCha20-Poly1305 (RFC 7905 §2).
    iv: [u8; NONCE_BYTES],
}

impl Ear {
    /// What a record shows that was opened with this key. The suite is one of `algorithm`'s.
    fn of(suite: Dtls12CipherSuite, key: &[u8], nonce: Nonce, aad: &[u8]) -> Option<Ear> {
        let mut ear = Ear { suite, key: [0; KEY_BYTES_MAX], iv: nonce.0 };
        ear.key.get_mut(..key.len())?.copy_from_slice(key);
        ear.algorithm()?;
        if ear.nonce_bytes() == 0 {
            mix(&mut ear.iv, aad.first_chunk()?);
        }
        Some(ear)
    }

    fn algorithm(&self) -> Option<&'static aead::Algorithm> {
        match self.suite {
            Dtls12CipherSuite::ECDHE_ECDSA_AES128_GCM_SHA256 => Some(&AES_128_GCM),
            Dtls12CipherSuite::ECDHE_ECDSA_AES256_GCM_SHA384 => Some(&AES_256_GCM),
            Dtls12CipherSuite::ECDHE_ECDSA_CHACHA20_POLY1305_SHA256 => Some(&CHACHA20_POLY1305),
            _ => None,
        }
    }

    /// Bytes of the nonce that each record carries.
    fn nonce_bytes(&self) -> usize {
        if self.suite == Dtls12CipherSuite::ECDHE_ECDSA_CHACHA20_POLY1305_SHA256 { 0 } else { 8 }
    }

    /// Level and description of an alert that the peer has sealed; `None` for anything else.
    fn open(&self, alert: &record::SealedAlert<'_>) -> Option<[u8; 2]> {
        let algorithm = self.algorithm()?;
        let (explicit, sealed) = alert.body.split_at_checked(self.nonce_bytes())?;
        let mut content: [u8; 2 + TAG_BYTES] = sealed.try_into().ok()?;
        let mut nonce = self.iv;
        match explicit.len() {
            0 => mix(&mut nonce, alert.number),
            len => nonce[NONCE_BYTES - len..].copy_from_slice(explicit),
        }
        // RFC 5246 §6.2.3.3, with epoch and sequence number for the number (RFC 6347 §4.1.2.1).
        let mut additional = [0; 13];
        additional[..8].copy_from_slice(alert.number);
        additional[8..].copy_from_slice(&[record::ALERT, 0xfe, 0xfd, 0, 2]);
        let key = LessSafeKey::new(UnboundKey::new(algorithm, &self.key[..algorithm.key_len()]).ok()?);
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        key.open_in_place(nonce, aead::Aad::from(additional), &mut content).ok()?.try_into().ok()
    }
}

/// RFC 7905 §2: the record's number, padded on the left, exclusive-ored with the IV. Twice is not at all.
fn mix(iv: &mut [u8; NONCE_BYTES], number: &[u8; 8]) {
    for (byte, number) in iv[NONCE_BYTES - 8..].iter_mut().zip(number) {
        *byte ^= number;
    }
}

thread_local! {
    /// The last record that a library opened on this thread. Taken after each call into it, so that it never outlives one: the traits of
    /// the provider leave no other way back to the association that called.
    static OPENED: Cell<Option<Ear>> = const { Cell::new(None) };
}

/// The key of the last record that was opened since the last call, on this thread.
pub(super) fn opened() -> Option<Ear> {
    OPENED.take()
}

/// The library's own cryptography, with ciphers of 1.2 that show which key opens the peer's records.
pub(super) fn watched() -> CryptoProvider {
    static SUITES: OnceLock<Vec<Watched>> = OnceLock::new();
    static REFERENCES: OnceLock<Vec<&'static dyn SupportedDtls12CipherSuite>> = OnceLock::new();
    let suites = SUITES.get_or_init(|| default_provider().cipher_suites.iter().map(|&suite| Watched(suite)).collect());
    let references = REFERENCES.get_or_init(|| suites.iter().map(|suite| suite as _).collect());
    CryptoProvider { cipher_suites: references, ..default_provider() }
}

/// A suite of the library.
#[derive(Debug)]
struct Watched(&'static dyn SupportedDtls12CipherSuite);

impl SupportedDtls12CipherSuite for Watched {
    fn suite(&self) -> Dtls12CipherSuite {
        self.0.suite()
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        self.0.hash_algorithm()
    }

    fn key_lengths(&self) -> (usize, usize, usize) {
        self.0.key_lengths()
    }

    fn explicit_nonce_len(&self) -> usize {
        self.0.explicit_nonce_len()
    }

    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }

    fn min_protected_fragment_len(&self) -> usize {
        self.0.min_protected_fragment_len()
    }

    fn create_cipher(&self, key: &[u8]) -> Result<Box<dyn Cipher>, CryptoError> {
        let cipher = self.0.create_cipher(key)?;
        Ok(Box::new(WatchedCipher { cipher, suite: self.suite(), key: key.into() }))
    }
}

/// A cipher of the library, for one direction of one association.
struct WatchedCipher {
    cipher: Box<dyn Cipher>,
    suite: Dtls12CipherSuite,
    key: Box<[u8]>,
}

impl core::fmt::Debug for WatchedCipher {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("WatchedCipher(redacted)")
    }
}

impl Cipher for WatchedCipher {
    fn encrypt(&mut self, plaintext: &mut Buf, aad: Aad, nonce: Nonce) -> Result<(), CryptoError> {
        self.cipher.encrypt(plaintext, aad, nonce)
    }

    fn decrypt(&mut self, ciphertext: &mut TmpBuf, aad: Aad, nonce: Nonce) -> Result<(), CryptoError> {
        let ear = Ear::of(self.suite, &self.key, nonce, &aad);
        self.cipher.decrypt(ciphertext, aad, nonce)?;
        OPENED.set(ear);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Cause;

    const SUITES: [Dtls12CipherSuite; 3] = [
        Dtls12CipherSuite::ECDHE_ECDSA_AES128_GCM_SHA256,
        Dtls12CipherSuite::ECDHE_ECDSA_AES256_GCM_SHA384,
        Dtls12CipherSuite::ECDHE_ECDSA_CHACHA20_POLY1305_SHA256,
    ];

    /// The peer's half: seals a record the way RFC 5288 and RFC 7905 say, with keys made of 7 and IVs made of 9.
    fn sealed(suite: Dtls12CipherSuite, content_type: u8, sequence: u8, content: [u8; 2]) -> Vec<u8> {
        let ear = Ear { suite, key: [7; KEY_BYTES_MAX], iv: [9; NONCE_BYTES] };
        let algorithm = ear.algorithm().unwrap();
        let number = [0, 1, 0, 0, 0, 0, 0, sequence];
        let mut nonce = ear.iv;
        let explicit: &[u8] = if ear.nonce_bytes() == 0 { &[] } else { &[1, 2, 3, 4, 5, 6, 7, 8] };
        match explicit.len() {
            0 => mix(&mut nonce, &number),
            _ => nonce[4..].copy_from_slice(explicit),
        }
        let mut additional = number.to_vec();
        additional.extend([content_type, 0xfe, 0xfd, 0, 2]);
        let key = LessSafeKey::new(UnboundKey::new(algorithm, &[7; KEY_BYTES_MAX][..algorithm.key_len()]).unwrap());
        let mut body = content.to_vec();
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce, aead::Aad::from(additional), &mut body).unwrap();
        let mut datagram = vec![content_type, 0xfe, 0xfd];
        datagram.extend(number);
        datagram.extend(((explicit.len() + body.len()) as u16).to_be_bytes());
        datagram.extend(explicit);
        datagram.extend(body);
        datagram
    }

    /// The ear that the peer's Finished, number 0, shows.
    fn ear(suite: Dtls12CipherSuite) -> Ear {
        let mut nonce = [9; NONCE_BYTES];
        let number = [0, 1, 0, 0, 0, 0, 0, 0];
        match suite {
            Dtls12CipherSuite::ECDHE_ECDSA_CHACHA20_POLY1305_SHA256 => mix(&mut nonce, &number),
            _ => nonce[4..].fill(0x55),
        }
        let key_bytes = if suite == SUITES[0] { 16 } else { 32 };
        Ear::of(suite, &[7; KEY_BYTES_MAX][..key_bytes], Nonce(nonce), &number).unwrap()
    }

    fn farewell(suite: Dtls12CipherSuite) -> Farewell {
        Farewell::new(&sealed(suite, record::ALERT, 1, [1, 0]), ear(suite)).unwrap()
    }

    fn polled(farewell: &mut Farewell) -> (bool, Vec<u8>) {
        let (mut is_closed, mut sent, mut out) = (false, Vec::new(), [0; 100]);
        loop {
            match farewell.poll(Instant::ZERO, &mut out) {
                BackendEvent::Closed => is_closed = true,
                BackendEvent::Transmit(len) => sent.extend_from_slice(&out[..len]),
                _ => return (is_closed, sent),
            }
        }
    }

    #[test]
    fn a_close_notify_of_each_suite_is_heard_and_answered_once() {
        for suite in SUITES {
            let mut farewell = farewell(suite);
            assert_eq!(polled(&mut farewell), (false, vec![]));
            let goodbye = sealed(suite, record::ALERT, 200, [1, 0]);
            assert_eq!(farewell.admits(&goodbye), Admission::Now);
            assert!(farewell.handle_datagram(Instant::ZERO, &goodbye).is_ok());
            assert_eq!(polled(&mut farewell), (true, sealed(suite, record::ALERT, 1, [1, 0])));
            farewell.close();
            assert_eq!(polled(&mut farewell), (false, vec![]));
        }
    }

    #[test]
    fn a_fatal_alert_ends_it_with_its_name_and_a_warning_does_not() {
        let mut farewell = farewell(SUITES[0]);
        let alert = sealed(SUITES[0], record::ALERT, 2, [FATAL, 80]);
        let failure = farewell.handle_datagram(Instant::ZERO, &alert).unwrap_err();
        assert_eq!(failure.cause, Cause::DtlsRefused);
        assert!(failure.detail.contains("internal_error"), "{}", failure.detail);
        let warning = sealed(SUITES[0], record::ALERT, 3, [1, 90]);
        assert!(farewell.handle_datagram(Instant::ZERO, &warning).is_ok());
        assert_eq!(polled(&mut farewell), (false, vec![]));
    }

    #[test]
    fn what_the_peer_has_not_sealed_is_not_heard() {
        for suite in SUITES {
            let mut farewell = farewell(suite);
            let genuine = sealed(suite, record::ALERT, 4, [1, 0]);
            for at in 0..genuine.len() {
                let mut damaged = genuine.clone();
                damaged[at] ^= 1;
                if farewell.admits(&damaged) == Admission::Now {
                    assert!(farewell.handle_datagram(Instant::ZERO, &damaged).is_ok());
                }
                let cut = &genuine[..at];
                assert!(farewell.handle_datagram(Instant::ZERO, cut).is_ok());
                assert_eq!(polled(&mut farewell), (false, vec![]), "{suite:?} {at}");
            }
            // Sealed by the peer, and no alert.
            let other = sealed(suite, 23, 4, [1, 0]);
            assert_eq!(farewell.admits(&other), Admission::Never);
            assert!(farewell.handle_datagram(Instant::ZERO, &other).is_ok());
            assert_eq!(polled(&mut farewell), (false, vec![]));
        }
    }
}
