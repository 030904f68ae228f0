//! The transforms: AES counter mode with HMAC-SHA1 (RFC 3711 §4) and AES-GCM (RFC 7714), in place.
//!
//! Why the counter loop is written here: the `ctr` crate keys a new stream object for every packet and `aws-lc-rs`
//! allocates one. Here the key schedule and the two halves of the HMAC are computed once, and a keystream block is made
//! for eight counters at a time, which is what AES-NI needs to be busy.

use crate::error::DropReason;
use crate::limits::DATAGRAM_BYTES_MAX;
use crate::prefetch::prefetch;
use aes::cipher::generic_array::GenericArray;
use aes::cipher::typenum::U16;
use aes::cipher::{BlockEncrypt, KeyInit};
use aes::{Aes128Enc, Aes256Enc};
use hmac::{Hmac, Mac};
use sha1::Sha1;

use super::aead::{AesGcm, NONCE_BYTES, TAG_BYTES as GCM_TAG_BYTES};
use super::keys::{RTCP_HEADER_BYTES, RTCP_INDEX_BYTES};

/// E: the packet is encrypted (RFC 3711 §3.4).
pub(super) const RTCP_ENCRYPTED: u32 = 1 << 31;

/// Session keys of one direction of RTP or of RTCP.
///
/// Boxed once at set-up: key schedules take about a kilobyte.
pub(super) enum Transform {
    CmHmac(Box<CmHmac>),
    Gcm(Box<Gcm>),
    /// For RTCP.
    SeldomGcm(Box<SeldomGcm>),
}

impl Transform {
    /// Bytes of the tag.
    pub(super) fn tag_bytes(&self) -> usize {
        match self {
            Transform::CmHmac(cm) => cm.tag_bytes,
            Transform::Gcm(_) | Transform::SeldomGcm(_) => GCM_TAG_BYTES,
        }
    }

    /// Asks for the memory that the next packet needs.
    pub(super) fn prefetch(&self) {
        match self {
            Transform::CmHmac(cm) => prefetch(&**cm),
            Transform::Gcm(gcm) => prefetch(&**gcm),
            Transform::SeldomGcm(gcm) => prefetch(&**gcm),
        }
    }

    /// Protects `packet[..len]`; the tag goes behind it. The caller has checked that header and tag fit.
    pub(super) fn seal_rtp(&self, packet: &mut [u8], len: usize, header_bytes: usize, ssrc: u32, index: u64) -> usize {
        match self {
            Transform::CmHmac(cm) => {
                cm.counter.apply(cm.rtp_iv(ssrc, index), &mut packet[header_bytes..len]);
                let tag = cm.tag(&packet[..len], roc(index));
                packet[len..len + cm.tag_bytes].copy_from_slice(&tag[..cm.tag_bytes]);
                len + cm.tag_bytes
            }
            Transform::Gcm(gcm) => gcm.seal_rtp(packet, len, header_bytes, ssrc, index),
            Transform::SeldomGcm(gcm) => gcm.ready().seal_rtp(packet, len, header_bytes, ssrc, index),
        }
    }

    /// Checks and decrypts one SRTP packet; returns the length of the RTP packet.
    pub(super) fn open_rtp(
        &self,
        packet: &mut [u8],
        header_bytes: usize,
        ssrc: u32,
        index: u64,
    ) -> Result<usize, DropReason> {
        let len = packet.len() - self.tag_bytes();
        match self {
            Transform::CmHmac(cm) => {
                let (message, tag) = packet.split_at_mut(len);
                cm.verify(message, roc(index), tag)?;
                cm.counter.apply(cm.rtp_iv(ssrc, index), &mut message[header_bytes..]);
            }
            Transform::Gcm(gcm) => gcm.open_rtp(packet, header_bytes, ssrc, index)?,
            Transform::SeldomGcm(gcm) => gcm.ready().open_rtp(packet, header_bytes, ssrc, index)?,
        }
        Ok(len)
    }

    /// Protects the compound packet `packet[..len]`: encrypted, with index and tag behind it.
    pub(super) fn seal_rtcp(&self, packet: &mut [u8], len: usize, ssrc: u32, index: u32) -> usize {
        match self {
            Transform::CmHmac(cm) => {
                let word = (RTCP_ENCRYPTED | index).to_be_bytes();
                // packet | E, index | tag (RFC 3711 figure 2); the HMAC covers all before the tag.
                let end = len + RTCP_INDEX_BYTES;
                cm.counter.apply(cm.rtp_iv(ssrc, u64::from(index)), &mut packet[RTCP_HEADER_BYTES..len]);
                packet[len..end].copy_from_slice(&word);
                let tag = cm.tag(&packet[..len], word);
                packet[end..end + cm.tag_bytes].copy_from_slice(&tag[..cm.tag_bytes]);
                end + cm.tag_bytes
            }
            Transform::Gcm(gcm) => gcm.seal_rtcp(packet, len, ssrc, index),
            Transform::SeldomGcm(gcm) => gcm.ready().seal_rtcp(packet, len, ssrc, index),
        }
    }

    /// E and index of an SRTCP packet that is long enough.
    pub(super) fn rtcp_word(&self, packet: &[u8]) -> u32 {
        let at = match self {
            Transform::CmHmac(cm) => packet.len() - cm.tag_bytes - RTCP_INDEX_BYTES,
            Transform::Gcm(_) | Transform::SeldomGcm(_) => packet.len() - RTCP_INDEX_BYTES,
        };
        u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
    }

    /// Checks and decrypts one SRTCP packet; returns the length of the RTCP packet. `word` is `rtcp_word` of it.
    pub(super) fn open_rtcp(&self, packet: &mut [u8], ssrc: u32, word: u32) -> Result<usize, DropReason> {
        let len = packet.len() - self.tag_bytes() - RTCP_INDEX_BYTES;
        match self {
            Transform::CmHmac(cm) => {
                let (message, trailer) = packet.split_at_mut(len);
                cm.verify(message, word.to_be_bytes(), &trailer[RTCP_INDEX_BYTES..])?;
                if word & RTCP_ENCRYPTED != 0 {
                    let index = u64::from(word & !RTCP_ENCRYPTED);
                    cm.counter.apply(cm.rtp_iv(ssrc, index), &mut message[RTCP_HEADER_BYTES..]);
                }
            }
            Transform::Gcm(gcm) => gcm.open_rtcp(packet, ssrc, word)?,
            Transform::SeldomGcm(gcm) => gcm.ready().open_rtcp(packet, ssrc, word)?,
        }
        Ok(len)
    }
}

/// The rollover counter of a packet index, as it is authenticated.
fn roc(index: u64) -> [u8; 4] {
    ((index >> 16) as u32).to_be_bytes()
}

/// Associated data of an encrypted SRTCP packet: the clear header, then E and index (RFC 7714 §9.2).
fn rtcp_aad(header: &[u8], word: [u8; 4]) -> [u8; RTCP_HEADER_BYTES + RTCP_INDEX_BYTES] {
    let mut aad = [0; RTCP_HEADER_BYTES + RTCP_INDEX_BYTES];
    aad[..RTCP_HEADER_BYTES].copy_from_slice(header);
    aad[RTCP_HEADER_BYTES..].copy_from_slice(&word);
    aad
}

type Block = GenericArray<u8, U16>;

/// Blocks of keystream made at once.
const BATCH_BLOCKS: usize = 8;

/// AES in counter mode, key schedule computed once.
#[expect(clippy::large_enum_variant, reason = "boxed as a whole, within `Transform`")]
pub(super) enum Counter {
    Aes128(Aes128Enc),
    Aes256(Aes256Enc),
}

impl Counter {
    /// # Panics
    /// If `key` has neither 16 nor 32 bytes.
    pub(super) fn new(key: &[u8]) -> Counter {
        match key.len() {
            16 => Counter::Aes128(Aes128Enc::new(GenericArray::from_slice(key))),
            _ => Counter::Aes256(Aes256Enc::new(GenericArray::from_slice(key))),
        }
    }

    /// Adds the keystream that begins at `iv` to `data`. The low 16 bits of `iv` count blocks (RFC 3711 §4.1.1): no
    /// datagram comes near the 2^16 there are.
    pub(super) fn apply(&self, iv: [u8; 16], data: &mut [u8]) {
        debug_assert!(data.len() <= DATAGRAM_BYTES_MAX);
        let first = u128::from_be_bytes(iv);
        let mut counter = first;
        for chunk in data.chunks_mut(BATCH_BLOCKS * 16) {
            let mut keystream = [Block::default(); BATCH_BLOCKS];
            // A whole batch even for a short tail: eight blocks in parallel cost less than two in a row.
            for block in &mut keystream {
                *block = counter.to_be_bytes().into();
                counter = counter.wrapping_add(1);
            }
            match self {
                Counter::Aes128(aes) => aes.encrypt_blocks(&mut keystream),
                Counter::Aes256(aes) => aes.encrypt_blocks(&mut keystream),
            }
            for (piece, block) in chunk.chunks_mut(16).zip(&keystream) {
                if let Ok(piece) = <&mut [u8; 16]>::try_from(&mut *piece) {
                    let sum = u128::from_ne_bytes(*piece) ^ u128::from_ne_bytes((*block).into());
                    *piece = sum.to_ne_bytes();
                } else {
                    piece.iter_mut().zip(block).for_each(|(byte, key)| *byte ^= key);
                }
            }
        }
    }
}

/// AES counter mode and HMAC-SHA1.
pub(super) struct CmHmac {
    counter: Counter,
    /// k_s * 2^16
    salt: u128,
    /// Inner and outer state after the padded key: a packet starts from a copy.
    mac: Hmac<Sha1>,
    tag_bytes: usize,
}

impl CmHmac {
    pub(super) fn new(key: &[u8], salt: &[u8; 14], auth_key: &[u8], tag_bytes: usize) -> CmHmac {
        let mut padded = [0; 16];
        padded[..14].copy_from_slice(salt);
        CmHmac {
            counter: Counter::new(key),
            salt: u128::from_be_bytes(padded),
            // unwrap: HMAC takes keys of any length.
            mac: <Hmac<Sha1> as Mac>::new_from_slice(auth_key).unwrap(),
            tag_bytes,
        }
    }

    /// (k_s * 2^16) XOR (SSRC * 2^64) XOR (i * 2^16), RFC 3711 §4.1.1. An SRTCP index takes the place of i.
    fn rtp_iv(&self, ssrc: u32, index: u64) -> [u8; 16] {
        (self.salt ^ (u128::from(ssrc) << 64) ^ (u128::from(index) << 16)).to_be_bytes()
    }

    /// HMAC over the authenticated portion and what RFC 3711 §4.2 appends: the rollover counter, or E and index.
    fn mac(&self, message: &[u8], appended: [u8; 4]) -> Hmac<Sha1> {
        let mut mac = self.mac.clone();
        mac.update(message);
        mac.update(&appended);
        mac
    }

    pub(super) fn tag(&self, message: &[u8], appended: [u8; 4]) -> [u8; 20] {
        self.mac(message, appended).finalize().into_bytes().into()
    }

    /// Compares in constant time.
    fn verify(&self, message: &[u8], appended: [u8; 4], tag: &[u8]) -> Result<(), DropReason> {
        self.mac(message, appended).verify_truncated_left(tag).map_err(|_| DropReason::SrtpAuthFailed)
    }
}

/// AES-GCM.
pub(super) struct Gcm {
    key: AesGcm,
    salt: [u8; NONCE_BYTES],
}

impl Gcm {
    /// # Panics
    /// If `key` has neither 16 nor 32 bytes.
    pub(super) fn new(key: &[u8], salt: [u8; NONCE_BYTES]) -> Gcm {
        Gcm { key: AesGcm::new(key), salt }
    }

    fn seal_rtp(&self, packet: &mut [u8], len: usize, header_bytes: usize, ssrc: u32, index: u64) -> usize {
        let (header, rest) = packet.split_at_mut(header_bytes);
        self.seal(self.rtp_nonce(ssrc, index), header, rest, len - header_bytes);
        len + GCM_TAG_BYTES
    }

    fn open_rtp(&self, packet: &mut [u8], header_bytes: usize, ssrc: u32, index: u64) -> Result<(), DropReason> {
        let (header, rest) = packet.split_at_mut(header_bytes);
        self.open(self.rtp_nonce(ssrc, index), header, rest)
    }

    /// packet | tag | E, index (RFC 7714 figure 2).
    fn seal_rtcp(&self, packet: &mut [u8], len: usize, ssrc: u32, index: u32) -> usize {
        let word = (RTCP_ENCRYPTED | index).to_be_bytes();
        let end = len + GCM_TAG_BYTES;
        let (header, rest) = packet.split_at_mut(RTCP_HEADER_BYTES);
        let aad = rtcp_aad(header, word);
        self.seal(self.rtcp_nonce(ssrc, index), &aad, rest, len - RTCP_HEADER_BYTES);
        packet[end..end + RTCP_INDEX_BYTES].copy_from_slice(&word);
        end + RTCP_INDEX_BYTES
    }

    fn open_rtcp(&self, packet: &mut [u8], ssrc: u32, word: u32) -> Result<(), DropReason> {
        let nonce = self.rtcp_nonce(ssrc, word & !RTCP_ENCRYPTED);
        let sealed = packet.len() - RTCP_INDEX_BYTES;
        if word & RTCP_ENCRYPTED != 0 {
            let (header, rest) = packet[..sealed].split_at_mut(RTCP_HEADER_BYTES);
            self.open(nonce, &rtcp_aad(header, word.to_be_bytes()), rest)
        } else {
            self.check(nonce, &mut packet[..sealed], sealed - GCM_TAG_BYTES, word.to_be_bytes())
        }
    }

    /// 0, SSRC, ROC, SEQ, in 16, 32, 32 and 16 bits, XOR salt (RFC 7714 §8.1).
    fn rtp_nonce(&self, ssrc: u32, index: u64) -> [u8; NONCE_BYTES] {
        self.nonce((u128::from(ssrc) << 48) | u128::from(index))
    }

    /// 0, SSRC, 0, index, in 16, 32, 16 and 32 bits, XOR salt (RFC 7714 §9.1).
    fn rtcp_nonce(&self, ssrc: u32, index: u32) -> [u8; NONCE_BYTES] {
        self.nonce((u128::from(ssrc) << 48) | u128::from(index))
    }

    fn nonce(&self, low_96_bits: u128) -> [u8; NONCE_BYTES] {
        let mut bytes = self.salt;
        bytes.iter_mut().zip(&low_96_bits.to_be_bytes()[4..]).for_each(|(byte, x)| *byte ^= x);
        bytes
    }

    /// Encrypts `rest[..len]` and puts the tag behind it.
    fn seal(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], rest: &mut [u8], len: usize) {
        let (plain, room) = rest.split_at_mut(len);
        room[..GCM_TAG_BYTES].copy_from_slice(&self.key.seal(&nonce, aad, plain));
    }

    /// Decrypts `sealed`, ciphertext and tag.
    fn open(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], sealed: &mut [u8]) -> Result<(), DropReason> {
        match self.key.open(&nonce, aad, sealed) {
            true => Ok(()),
            false => Err(DropReason::SrtpAuthFailed),
        }
    }

    /// Checks an SRTCP packet that is only authenticated: the whole packet, E and index are associated data
    /// (RFC 7714 §9.3). `sealed` is `len` bytes of packet and the tag.
    fn check(&self, nonce: [u8; NONCE_BYTES], sealed: &mut [u8], len: usize, word: [u8; 4]) -> Result<(), DropReason> {
        let mut aad = [0; DATAGRAM_BYTES_MAX];
        let end = len + RTCP_INDEX_BYTES;
        let Some(aad) = aad.get_mut(..end) else {
            return Err(DropReason::RtcpMalformed);
        };
        aad[..len].copy_from_slice(&sealed[..len]);
        aad[len..].copy_from_slice(&word);
        self.open(nonce, aad, &mut sealed[len..])
    }
}

/// AES-GCM for a packet every few seconds: the bare key, in place of a schedule and tables of ten times its size that would be used as
/// seldom. They are made anew for each packet.
pub(super) struct SeldomGcm {
    key: [u8; 32],
    key_bytes: usize,
    salt: [u8; NONCE_BYTES],
}

impl SeldomGcm {
    /// # Panics
    /// If `key` has neither 16 nor 32 bytes.
    pub(super) fn new(key: &[u8], salt: [u8; NONCE_BYTES]) -> SeldomGcm {
        assert!(matches!(key.len(), 16 | 32), "a key of AES-128 or AES-256");
        let mut bytes = [0; 32];
        bytes[..key.len()].copy_from_slice(key);
        SeldomGcm { key: bytes, key_bytes: key.len(), salt }
    }

    fn ready(&self) -> Gcm {
        Gcm::new(&self.key[..self.key_bytes], self.salt)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::hex;
    use super::*;

    #[test]
    fn keystream_of_rfc_3711_b2() {
        let cm = CmHmac::new(
            &hex("2B7E151628AED2A6ABF7158809CF4F3C"),
            hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD").as_slice().try_into().unwrap(),
            &[0; 20],
            10,
        );
        let mut first = [0; 48];
        cm.counter.apply(cm.rtp_iv(0, 0), &mut first);
        let expected =
            "E03EAD0935C95E80E166B16DD92B4EB4D23513162B02D0F72A43A2FE4A5F97AB41E95B3BB0A2E8DD477901E4FCA894C0";
        assert_eq!(first.to_vec(), hex(expected));

        let mut late_iv = cm.rtp_iv(0, 0);
        late_iv[14..].copy_from_slice(&[0xfe, 0xff]);
        let mut late = [0; 48];
        cm.counter.apply(late_iv, &mut late);
        let expected =
            "EC8CDF7398607CB0F2D21675EA9EA1E4362B7C3C6773516318A077D7FC5073AE6A2CC3787889374FBEB4C81B17BA6C44";
        assert_eq!(late.to_vec(), hex(expected));
    }

    #[test]
    fn keystream_of_rfc_6188_7_3() {
        let counter = Counter::new(&hex("57f82fe3613fd170a85ec93c40b1f0922ec4cb0dc025b58272147cc438944a98"));
        let mut iv = [0; 16];
        iv[..14].copy_from_slice(&hex("f0f1f2f3f4f5f6f7f8f9fafbfcfd"));
        let mut out = [0; 32];
        counter.apply(iv, &mut out);
        assert_eq!(out.to_vec(), hex("92bdd28a93c3f52511c677d08b5515a49da71b2378a854f67050756ded165bac"));
    }

    #[test]
    fn keystream_does_not_depend_on_the_batch() {
        let counter = Counter::new(&[7; 16]);
        let whole = {
            let mut out = [0; 1500];
            counter.apply([9; 16], &mut out);
            out
        };
        for length in 0..whole.len() {
            let mut out = vec![0; length];
            counter.apply([9; 16], &mut out);
            assert_eq!(out, whole[..length]);
        }
    }

    const GALLIA: &str = "47616c6c696120657374206f6d6e697320646976697361\
                          20696e207061727465732074726573";

    /// RFC 7714 §16: header, plaintext "Gallia est omnis divisa in partes tres", salt "Quid pro quo".
    fn rfc_7714_rtp(key: &str, sealed: &str) {
        let transform = Transform::Gcm(Box::new(Gcm::new(&hex(key), *b"Quid pro quo")));
        let plain = [hex("8040f17b8041f8d35501a0b2"), hex(GALLIA)].concat();
        let mut packet = [plain.clone(), vec![0; 16]].concat();
        let (ssrc, index) = (0x5501_a0b2, 0xf17b);
        assert_eq!(transform.seal_rtp(&mut packet, plain.len(), 12, ssrc, index), packet.len());
        assert_eq!(packet[12..], hex(sealed));
        assert_eq!(transform.open_rtp(&mut packet, 12, ssrc, index), Ok(plain.len()));
        assert_eq!(packet[..plain.len()], plain);
    }

    #[test]
    fn srtp_of_rfc_7714_16_1() {
        let sealed = "f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833\
                      899d7f27beb16a9152cf765ee4390cce";
        rfc_7714_rtp("000102030405060708090a0b0c0d0e0f", sealed);
    }

    #[test]
    fn srtp_of_rfc_7714_16_2() {
        let sealed = "32b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b\
                      7aa3db36dfffd6b0f9bb7878d7a76c13";
        rfc_7714_rtp("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", sealed);
    }

    const RTCP: &str = "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61\
                        deadbeefdeadbeefdeadbeefdeadbeefdeadbeef";

    fn rfc_7714_rtcp(key: &str, protected: &str) {
        let (key, salt) = (hex(key), *b"Quid pro quo");
        for transform in
            [Transform::Gcm(Box::new(Gcm::new(&key, salt))), Transform::SeldomGcm(Box::new(SeldomGcm::new(&key, salt)))]
        {
            let (ssrc, index) = (0x4d61_7273, 0x5d4);
            let plain = hex(RTCP);
            let mut packet = [plain.clone(), vec![0; 20]].concat();
            assert_eq!(transform.seal_rtcp(&mut packet, plain.len(), ssrc, index), packet.len());
            assert_eq!(packet, hex(protected));
            let word = transform.rtcp_word(&packet);
            assert_eq!(word, 0x8000_05d4);
            assert_eq!(transform.open_rtcp(&mut packet, ssrc, word), Ok(plain.len()));
            assert_eq!(packet[..plain.len()], plain);
        }
    }

    #[test]
    fn srtcp_of_rfc_7714_17_1() {
        let protected = "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda\
                         4ce09b4686303ded0bb9275bc84aa45896cf4d2fc5abf87245d9eade800005d4";
        rfc_7714_rtcp("000102030405060708090a0b0c0d0e0f", protected);
    }

    #[test]
    fn srtcp_that_is_only_authenticated() {
        for key in [vec![1; 16], vec![2; 32]] {
            let gcm = Gcm::new(&key, [3; 12]);
            let plain = hex(RTCP);
            let word = 0x5d4_u32;
            let aad = [plain.clone(), word.to_be_bytes().to_vec()].concat();
            let mut tag = [0; 16];
            gcm.seal(gcm.rtcp_nonce(0x4d61_7273, word), &aad, &mut tag, 0);
            let mut packet = [plain.clone(), tag.to_vec(), word.to_be_bytes().to_vec()].concat();
            let transform = Transform::Gcm(Box::new(gcm));
            assert_eq!(transform.rtcp_word(&packet), word);
            let len = transform.open_rtcp(&mut packet, 0x4d61_7273, word).unwrap();
            assert_eq!(packet[..len], plain);
            packet[9] ^= 1;
            let again = transform.open_rtcp(&mut packet, 0x4d61_7273, word);
            assert_eq!(again, Err(DropReason::SrtpAuthFailed));
        }
    }
}
