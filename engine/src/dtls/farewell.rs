//! What stays of an association once its handshake is certainly over: our close_notify, and an ear for the peer's.
//!
//! ```text
//!  association ──nobody can miss a flight──► Farewell ── close ──► the sealed close_notify
//!     10 KB                                   0.2 KB  ◄── alert ── close_notify: ours goes back; or a fatal one
//! ```
//!
//! Why: a call needs of its association nothing else for hours, and a library keeps the transcript, both certificates and buffers for it:
//! half of what a relayed call takes. The close_notify is sealed while the library still has its keys, and sent when its time comes: records
//! may arrive late, so its number only has to be new (RFC 6347 §4.1). The peer's cannot be opened without the peer's keys, which the library
//! tells nobody. They are seen where the library asks for cryptography, through the provider that it lets everybody bring (`watched`): of
//! 1.2 the key and the nonce of a record that was opened, of 1.3 the peer's traffic secret when it is made. Nothing but alerts is
//! ever opened with them.
//!
//! A peer may repeat its last flight for as long as ours has not arrived, so the association is kept until that is certain. 1.2 (RFC 6347
//! §4.2.4): a client has the server's last word already, a server waits for the first media that the client's new keys protect. 1.3
//! (RFC 9147 §5.8.1): an acknowledgement that is lost makes the peer repeat itself within seconds, so half a minute without a word says it.

use super::{Admission, Backend, BackendEvent, DtlsRole, Failure, dimpl, record};
use crate::time::Instant;
use ::dimpl::CryptoError;
use ::dimpl::crypto::{
    Aad, Buf, Cipher, CryptoProvider, Dtls12CipherSuite, Dtls13CipherSuite, HashAlgorithm, HmacProvider, Nonce,
    SupportedDtls12CipherSuite, SupportedDtls13CipherSuite, TmpBuf, aws_lc_rs::default_provider,
};
use aws_lc_rs::aead::{self, AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use aws_lc_rs::hmac::{self, HMAC_SHA256, HMAC_SHA384};
use std::cell::Cell;
use std::sync::OnceLock;

/// A record with an alert: 13 bytes of header, 8 of explicit nonce, 2 of content, 16 of tag.
const SEALED_BYTES_MAX: usize = 13 + 8 + 2 + 16;

/// Longest key of a suite, longest traffic secret (SHA-384), and the nonce of all.
const KEY_BYTES_MAX: usize = 32;
const SECRET_BYTES_MAX: usize = 48;
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
        ear.may_hear(close_notify).then_some(())?;
        let sealed_len = close_notify.len() as u8;
        Some(Farewell { sealed, sealed_len, ear, is_closing: false, has_heard: false })
    }
}

impl Backend for Farewell {
    fn admits(&self, datagram: &[u8]) -> Admission {
        if self.ear.may_hear(datagram) { Admission::Now } else { Admission::Never }
    }

    fn handle_datagram(&mut self, _now: Instant, datagram: &[u8]) -> Result<(), Failure> {
        match self.ear.hear(datagram) {
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

/// What opens the peer's alerts.
#[derive(Clone, Copy)]
pub(super) enum Ear {
    /// Of 1.2.
    V12(Key12),
    /// Of 1.3.
    V13(Dtls13CipherSuite, Secret),
}

impl Ear {
    /// Whether the datagram begins with a record that may hold an alert under the keys at hand.
    fn may_hear(&self, datagram: &[u8]) -> bool {
        match self {
            Ear::V12(_) => record::sealed_alert(datagram).is_some(),
            Ear::V13(..) => record::sealed_13(datagram).is_some(),
        }
    }

    /// Level and description of an alert that the peer has sealed; `None` for anything else.
    fn hear(&self, datagram: &[u8]) -> Option<[u8; 2]> {
        match self {
            Ear::V12(key) => key.open(&record::sealed_alert(datagram)?),
            Ear::V13(suite, secret) => open_13(*suite, secret, &record::sealed_13(datagram)?),
        }
    }
}

/// The key that the peer writes its records of 1.2 with.
#[derive(Clone, Copy)]
pub(super) struct Key12 {
    suite: Dtls12CipherSuite,
    key: [u8; KEY_BYTES_MAX],
    /// The fixed part: four bytes of AES-GCM (RFC 5288 §3), all twelve of ChaCha20-Poly1305 (RFC 7905 §2).
    iv: [u8; NONCE_BYTES],
}

impl Key12 {
    /// What a record shows that was opened with this key. `None`: a suite that is never negotiated here.
    fn of(suite: Dtls12CipherSuite, key: &[u8], nonce: Nonce, aad: &[u8]) -> Option<Key12> {
        let mut shown = Key12 { suite, key: [0; KEY_BYTES_MAX], iv: nonce.0 };
        shown.key.get_mut(..key.len())?.copy_from_slice(key);
        shown.algorithm()?;
        if shown.nonce_bytes() == 0 {
            mix(&mut shown.iv, aad.first_chunk()?);
        }
        Some(shown)
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
        open(algorithm, &self.key, nonce, &additional, &mut content)?.try_into().ok()
    }
}

/// An application traffic secret of 1.3 (RFC 8446 §7.1).
#[derive(Clone, Copy)]
pub(super) struct Secret {
    bytes: [u8; SECRET_BYTES_MAX],
    len: u8,
}

impl Secret {
    fn of(bytes: &[u8]) -> Option<Secret> {
        let mut secret = Secret { bytes: [0; SECRET_BYTES_MAX], len: bytes.len() as u8 };
        secret.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(secret)
    }

    /// HKDF-Expand-Label without a context (RFC 8446 §7.1, prefix of RFC 9147 §5.9), of which `len` bytes are used: one block holds them.
    fn expand(&self, hash: hmac::Algorithm, label: &[u8], len: usize) -> [u8; KEY_BYTES_MAX] {
        let mut info = vec![0, len as u8, (PREFIX.len() + label.len()) as u8];
        info.extend_from_slice(PREFIX);
        info.extend_from_slice(label);
        info.extend_from_slice(&[0, 1]);
        let block = hmac::sign(&hmac::Key::new(hash, &self.bytes[..usize::from(self.len)]), &info);
        let mut out = [0; KEY_BYTES_MAX];
        out[..len].copy_from_slice(&block.as_ref()[..len]);
        out
    }
}

const PREFIX: &[u8] = b"dtls13";

/// Opens a record of 1.3 (RFC 9147 §4); `None` unless it is an alert. Keys are derived for it alone: it is the last that comes, or forged.
fn open_13(suite: Dtls13CipherSuite, secret: &Secret, sealed: &record::Sealed13<'_>) -> Option<[u8; 2]> {
    let (algorithm, hash) = match suite {
        Dtls13CipherSuite::AES_128_GCM_SHA256 => (&AES_128_GCM, HMAC_SHA256),
        Dtls13CipherSuite::AES_256_GCM_SHA384 => (&AES_256_GCM, HMAC_SHA384),
        Dtls13CipherSuite::CHACHA20_POLY1305_SHA256 => (&CHACHA20_POLY1305, HMAC_SHA256),
        _ => return None,
    };
    let mut content = [0; ALERT_13_BYTES_MAX];
    let content = content.get_mut(..sealed.body.len())?;
    content.copy_from_slice(sealed.body);
    // §4.2.3: the number is masked by what follows it, and authenticated in the clear.
    let number_key = secret.expand(hash, b"sn", algorithm.key_len());
    let suites = default_provider().dtls13_cipher_suites;
    let masker = suites.iter().find(|each| each.suite() == suite)?;
    let mask = masker.encrypt_sn(&number_key[..algorithm.key_len()], sealed.body.first_chunk()?);
    let mut header = [0; 5];
    let header = header.get_mut(..sealed.header.len())?;
    header.copy_from_slice(sealed.header);
    let mut number = [0; 8];
    for at in 0..sealed.number_bytes {
        header[1 + at] ^= mask[at];
        // A peer that sends no data has come no further than these bits say.
        number[8 - sealed.number_bytes + at] = header[1 + at];
    }
    let mut nonce: [u8; NONCE_BYTES] = *secret.expand(hash, b"iv", NONCE_BYTES).first_chunk()?;
    mix(&mut nonce, &number);
    let key = secret.expand(hash, b"key", algorithm.key_len());
    // The content, its type, and any padding of zeros (§4).
    match open(algorithm, &key, nonce, header, content)? {
        [level, description, record::ALERT, padding @ ..] if padding.iter().all(|&byte| byte == 0) => {
            Some([*level, *description])
        }
        _ => None,
    }
}

/// An alert of 1.3: two bytes, its type, some padding, the tag.
const ALERT_13_BYTES_MAX: usize = 64;

fn open<'c>(
    algorithm: &'static aead::Algorithm,
    key: &[u8; KEY_BYTES_MAX],
    nonce: [u8; NONCE_BYTES],
    additional: &[u8],
    content: &'c mut [u8],
) -> Option<&'c [u8]> {
    let key = LessSafeKey::new(UnboundKey::new(algorithm, &key[..algorithm.key_len()]).ok()?);
    let nonce = aead::Nonce::assume_unique_for_key(nonce);
    key.open_in_place(nonce, aead::Aad::from(additional), content).ok().map(|content| &*content)
}

/// RFC 7905 §2, RFC 8446 §5.3: the record's number, padded on the left, exclusive-ored with the IV. Twice is not at all.
fn mix(iv: &mut [u8; NONCE_BYTES], number: &[u8; 8]) {
    for (byte, number) in iv[NONCE_BYTES - 8..].iter_mut().zip(number) {
        *byte ^= number;
    }
}

/// What an association has shown of its peer's keys.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    /// Of the last record of 1.2 that was opened.
    opened: Option<Key12>,
    /// Of 1.3.
    suite: Option<Dtls13CipherSuite>,
    /// The client's and the server's.
    secrets: [Option<Secret>; 2],
}

impl Seen {
    /// Adds what was shown on this thread since the last call.
    pub(super) fn absorb(&mut self) {
        let news = SEEN.take();
        self.opened = news.opened.or(self.opened);
        self.suite = news.suite.or(self.suite);
        for (secret, news) in self.secrets.iter_mut().zip(news.secrets) {
            *secret = news.or(*secret);
        }
    }

    /// What opens the alerts of a peer, whose role is not `role`.
    pub(super) fn ear(&self, role: DtlsRole) -> Option<Ear> {
        let peer = match role {
            DtlsRole::Client => 1,
            DtlsRole::Server => 0,
        };
        let v13 = || Some(Ear::V13(self.suite?, self.secrets[peer]?));
        self.opened.map(Ear::V12).or_else(v13)
    }
}

thread_local! {
    /// What the provider was shown on this thread. Taken after each call into a library, so that it never outlives one: the traits of the
    /// provider leave no other way back to the association that called.
    static SEEN: Cell<Seen> = const { Cell::new(Seen { opened: None, suite: None, secrets: [None; 2] }) };
}

fn show(change: impl FnOnce(&mut Seen)) {
    let mut seen = SEEN.get();
    change(&mut seen);
    SEEN.set(seen);
}

/// Forgets what was shown since the last call.
pub(super) fn forget() {
    SEEN.take();
}

/// The library's own cryptography, but what it is asked for shows which keys open the peer's records.
pub(super) fn watched() -> CryptoProvider {
    static PROVIDER: OnceLock<CryptoProvider> = OnceLock::new();
    let make = || {
        let own = default_provider();
        // Once a process: the library wants them for as long as it runs.
        let suites_12 = own
            .cipher_suites
            .iter()
            .map(|&suite| -> &dyn SupportedDtls12CipherSuite { Box::leak(Box::new(Watched(suite))) });
        let suites_13 = own
            .dtls13_cipher_suites
            .iter()
            .map(|&suite| -> &dyn SupportedDtls13CipherSuite { Box::leak(Box::new(Watched(suite))) });
        CryptoProvider {
            cipher_suites: Vec::leak(suites_12.collect()),
            dtls13_cipher_suites: Vec::leak(suites_13.collect()),
            hmac_provider: Box::leak(Box::new(Watched(own.hmac_provider))),
            ..own
        }
    };
    PROVIDER.get_or_init(make).clone()
}

/// A part of the library's cryptography.
#[derive(Debug)]
struct Watched<T: ?Sized + 'static>(&'static T);

impl HmacProvider for Watched<dyn HmacProvider> {
    fn hmac(&self, hash: HashAlgorithm, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<usize, CryptoError> {
        let len = self.0.hmac(hash, key, data, out)?;
        // HkdfLabel (RFC 8446 §7.1): two bytes of length, one of the label's, the label.
        let label = data.get(3..).unwrap_or_default().strip_prefix(PREFIX).unwrap_or_default();
        let sides: [&[u8]; 2] = [b"c ap traffic", b"s ap traffic"];
        if let Some(side) = sides.iter().position(|side| label.starts_with(side)) {
            show(|seen| seen.secrets[side] = out.get(..len).and_then(Secret::of));
        }
        Ok(len)
    }
}

impl SupportedDtls13CipherSuite for Watched<dyn SupportedDtls13CipherSuite> {
    fn suite(&self) -> Dtls13CipherSuite {
        self.0.suite()
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        self.0.hash_algorithm()
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn iv_len(&self) -> usize {
        self.0.iv_len()
    }

    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }

    fn min_protected_fragment_len(&self) -> usize {
        self.0.min_protected_fragment_len()
    }

    fn create_cipher(&self, key: &[u8]) -> Result<Box<dyn Cipher>, CryptoError> {
        show(|seen| seen.suite = Some(self.suite()));
        self.0.create_cipher(key)
    }

    fn encrypt_sn(&self, sn_key: &[u8], sample: &[u8; 16]) -> [u8; 16] {
        self.0.encrypt_sn(sn_key, sample)
    }
}

impl SupportedDtls12CipherSuite for Watched<dyn SupportedDtls12CipherSuite> {
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
        let key = Key12::of(self.suite, &self.key, nonce, &aad);
        self.cipher.decrypt(ciphertext, aad, nonce)?;
        show(|seen| seen.opened = key);
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
        let ear = Key12 { suite, key: [7; KEY_BYTES_MAX], iv: [9; NONCE_BYTES] };
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
        Ear::V12(Key12::of(suite, &[7; KEY_BYTES_MAX][..key_bytes], Nonce(nonce), &number).unwrap())
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

    const SUITES_13: [Dtls13CipherSuite; 3] = [
        Dtls13CipherSuite::AES_128_GCM_SHA256,
        Dtls13CipherSuite::AES_256_GCM_SHA384,
        Dtls13CipherSuite::CHACHA20_POLY1305_SHA256,
    ];

    /// The same for 1.3: flags, number and content as given, sealed and masked the way RFC 9147 §4 says.
    fn sealed_13(suite: Dtls13CipherSuite, flags: u8, number: u16, content: &[u8]) -> Vec<u8> {
        let Ear::V13(_, secret) = ear_13(suite) else { unreachable!() };
        let (algorithm, hash) = match suite {
            Dtls13CipherSuite::AES_128_GCM_SHA256 => (&AES_128_GCM, HMAC_SHA256),
            Dtls13CipherSuite::AES_256_GCM_SHA384 => (&AES_256_GCM, HMAC_SHA384),
            _ => (&CHACHA20_POLY1305, HMAC_SHA256),
        };
        let mut header = vec![flags];
        match flags & 8 {
            0 => header.push(number as u8),
            _ => header.extend(number.to_be_bytes()),
        }
        let number_bytes = header.len() - 1;
        if flags & 4 != 0 {
            header.extend(((content.len() + TAG_BYTES) as u16).to_be_bytes());
        }
        let mut nonce: [u8; NONCE_BYTES] = *secret.expand(hash, b"iv", NONCE_BYTES).first_chunk().unwrap();
        mix(&mut nonce, &u64::from(number).to_be_bytes());
        let key = secret.expand(hash, b"key", algorithm.key_len());
        let key = LessSafeKey::new(UnboundKey::new(algorithm, &key[..algorithm.key_len()]).unwrap());
        let mut body = content.to_vec();
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce, aead::Aad::from(&header), &mut body).unwrap();
        let number_key = secret.expand(hash, b"sn", algorithm.key_len());
        let suites = default_provider().dtls13_cipher_suites;
        let masker = suites.iter().find(|each| each.suite() == suite).unwrap();
        let mask = masker.encrypt_sn(&number_key[..algorithm.key_len()], body.first_chunk().unwrap());
        for at in 0..number_bytes {
            header[1 + at] ^= mask[at];
        }
        [header, body].concat()
    }

    fn ear_13(suite: Dtls13CipherSuite) -> Ear {
        Ear::V13(suite, Secret::of(&[5; SECRET_BYTES_MAX][..if suite == SUITES_13[1] { 48 } else { 32 }]).unwrap())
    }

    #[test]
    fn an_alert_of_1_3_is_heard_in_every_form_of_its_header_and_nothing_else_is() {
        for suite in SUITES_13 {
            let ear = ear_13(suite);
            for flags in [0b0010_1111, 0b0010_1011, 0b0010_0111, 0b0010_0011] {
                let genuine = sealed_13(suite, flags, 200, &[1, CLOSE_NOTIFY, record::ALERT]);
                assert_eq!(ear.hear(&genuine), Some([1, CLOSE_NOTIFY]), "{suite:?} {flags:b}");
                for at in 0..genuine.len() {
                    let mut damaged = genuine.clone();
                    damaged[at] ^= 1;
                    assert_eq!(ear.hear(&damaged), None, "{suite:?} {flags:b} {at}");
                    assert_eq!(ear.hear(&genuine[..at]), None, "{suite:?} {flags:b} {at}");
                }
            }
            let padded = sealed_13(suite, 0b0010_1111, 3, &[FATAL, 80, record::ALERT, 0, 0, 0]);
            assert_eq!(ear.hear(&padded), Some([FATAL, 80]));
            for content in [&[1, CLOSE_NOTIFY, 23][..], &[record::ALERT], &[1, 0, record::ALERT, 1], &[0; 60]] {
                assert_eq!(ear.hear(&sealed_13(suite, 0b0010_1111, 3, content)), None, "{content:?}");
            }
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
