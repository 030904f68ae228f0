//! From master keys to session keys (RFC 3711 §4.3, RFC 6188, RFC 7714 §11), and what each profile is made of.

use super::cipher::{CmHmac, Counter, Gcm, SeldomGcm, Transform};
use super::{MasterKey, SrtpProfile};
use crate::error::DropReason;

/// What one protection profile consists of. Another profile is another row of [`Suite::of`].
pub(super) struct Suite {
    pub cipher: Cipher,
    pub key_bytes: usize,
    pub salt_bytes: usize,
    pub rtp_tag_bytes: usize,
    pub rtcp_tag_bytes: usize,
}

/// How payloads are enciphered and authenticated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cipher {
    /// AES in counter mode, HMAC-SHA1 (RFC 3711 §4.1.1, §4.2.1).
    CmHmacSha1,
    /// AES-GCM (RFC 7714).
    Gcm,
}

impl Suite {
    pub(super) const fn of(profile: SrtpProfile) -> Suite {
        let (cipher, key_bytes, salt_bytes, rtp_tag_bytes, rtcp_tag_bytes) = match profile {
            SrtpProfile::AesCm128HmacSha1_80 => (Cipher::CmHmacSha1, 16, 14, 10, 10),
            SrtpProfile::AesCm128HmacSha1_32 => (Cipher::CmHmacSha1, 16, 14, 4, 10),
            SrtpProfile::AesCm256HmacSha1_80 => (Cipher::CmHmacSha1, 32, 14, 10, 10),
            SrtpProfile::AesCm256HmacSha1_32 => (Cipher::CmHmacSha1, 32, 14, 4, 10),
            SrtpProfile::AeadAes128Gcm => (Cipher::Gcm, 16, 12, 16, 16),
            SrtpProfile::AeadAes256Gcm => (Cipher::Gcm, 32, 12, 16, 16),
        };
        Suite { cipher, key_bytes, salt_bytes, rtp_tag_bytes, rtcp_tag_bytes }
    }
}

/// The two session transforms that one master key gives.
pub(super) struct SessionKeys {
    pub rtp: Transform,
    pub rtcp: Transform,
}

impl SessionKeys {
    pub(super) fn derive(profile: SrtpProfile, master: &MasterKey) -> SessionKeys {
        let suite = Suite::of(profile);
        let derivation = Derivation::new(&suite, master);
        SessionKeys {
            rtp: derivation.transform(&suite, LABEL_RTP, suite.rtp_tag_bytes),
            rtcp: derivation.transform(&suite, LABEL_RTCP, suite.rtcp_tag_bytes),
        }
    }
}

/// First of the three labels of each protocol: encryption, authentication, salt (RFC 3711 §4.3.1, §4.3.2).
const LABEL_RTP: u8 = 0;
const LABEL_RTCP: u8 = 3;

/// HMAC-SHA1 keys are 160 bits (RFC 3711 §5.2).
const AUTH_KEY_BYTES: usize = 20;

/// The key derivation function: AES in counter mode over label and master salt (RFC 3711 §4.3.3; AES-256 by RFC 6188 §3).
/// The key derivation rate is zero, as DTLS-SRTP has it (RFC 5764 §4.1.2).
struct Derivation {
    prf: Counter,
    salt: [u8; 14],
}

impl Derivation {
    fn new(suite: &Suite, master: &MasterKey) -> Derivation {
        let (key, rest) = master.bytes.split_at(suite.key_bytes);
        let mut salt = [0; 14];
        // A 96-bit salt is padded on the right (RFC 7714 §11).
        salt[..suite.salt_bytes].copy_from_slice(&rest[..suite.salt_bytes]);
        Derivation { prf: Counter::new(key), salt }
    }

    fn fill(&self, label: u8, out: &mut [u8]) {
        let mut block = [0; 16];
        block[..14].copy_from_slice(&self.salt);
        // key_id is label || index/rate, 8 + 48 bits, right-aligned in the 112 bits of the salt.
        block[7] ^= label;
        out.fill(0);
        self.prf.apply(block, out);
    }

    fn transform(&self, suite: &Suite, label: u8, tag_bytes: usize) -> Transform {
        let mut key = [0; 32];
        let key = &mut key[..suite.key_bytes];
        self.fill(label, key);
        let mut salt = [0; 14];
        self.fill(label + 2, &mut salt[..suite.salt_bytes]);
        match suite.cipher {
            Cipher::CmHmacSha1 => {
                let mut auth_key = [0; AUTH_KEY_BYTES];
                self.fill(label + 1, &mut auth_key);
                Transform::CmHmac(Box::new(CmHmac::new(key, &salt, &auth_key, tag_bytes)))
            }
            Cipher::Gcm => {
                let mut nonce_salt = [0; 12];
                nonce_salt.copy_from_slice(&salt[..12]);
                match label {
                    LABEL_RTCP => Transform::SeldomGcm(Box::new(SeldomGcm::new(key, nonce_salt))),
                    _ => Transform::Gcm(Box::new(Gcm::new(key, nonce_salt))),
                }
            }
        }
    }
}

/// The fields of an RTP header that SRTP needs, and where the payload begins.
#[derive(Clone, Copy)]
pub(super) struct RtpHeader {
    pub bytes: usize,
    pub sequence: u16,
    pub ssrc: u32,
}

/// Fixed part of the RTP header.
const RTP_HEADER_BYTES: usize = 12;

impl RtpHeader {
    /// CSRCs and extension stay in the clear (RFC 3711 §3.1), so they belong to the header. `tag_bytes` must follow it.
    pub(super) fn read(packet: &[u8], tag_bytes: usize) -> Result<RtpHeader, DropReason> {
        let Some(fixed) = packet.first_chunk::<RTP_HEADER_BYTES>() else {
            return Err(DropReason::SrtpTooShort);
        };
        if fixed[0] >> 6 != 2 {
            return Err(DropReason::RtpMalformed);
        }
        let mut bytes = RTP_HEADER_BYTES + 4 * usize::from(fixed[0] & 0x0f);
        if fixed[0] & 0x10 != 0 {
            let Some(&[_, _, high, low]) = packet.get(bytes..bytes + 4) else {
                return Err(DropReason::SrtpTooShort);
            };
            bytes += 4 + 4 * usize::from(u16::from_be_bytes([high, low]));
        }
        if packet.len() < bytes + tag_bytes {
            return Err(DropReason::SrtpTooShort);
        }
        let sequence = u16::from_be_bytes([fixed[2], fixed[3]]);
        let ssrc = u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]);
        Ok(RtpHeader { bytes, sequence, ssrc })
    }
}

/// What of an RTCP packet stays in the clear: the first header and its SSRC (RFC 3711 §3.4).
pub(super) const RTCP_HEADER_BYTES: usize = 8;

/// E flag and 31-bit index.
pub(super) const RTCP_INDEX_BYTES: usize = 4;

/// The sender's SSRC of an RTCP packet of at least `bytes_min`.
pub(super) fn rtcp_ssrc(packet: &[u8], bytes_min: usize) -> Result<u32, DropReason> {
    match *packet {
        [first, _, _, _, a, b, c, d, ..] if packet.len() >= bytes_min => match first >> 6 {
            2 => Ok(u32::from_be_bytes([a, b, c, d])),
            _ => Err(DropReason::RtcpMalformed),
        },
        _ => Err(DropReason::SrtpTooShort),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::hex;
    use super::*;

    fn derived(suite: &Suite, key: &str, salt: &str, label: u8, count: usize) -> Vec<u8> {
        let mut master = MasterKey { bytes: [0; super::super::MASTER_BYTES_MAX] };
        let (key, salt) = (hex(key), hex(salt));
        master.bytes[..key.len()].copy_from_slice(&key);
        master.bytes[key.len()..key.len() + salt.len()].copy_from_slice(&salt);
        let mut out = vec![0xee; count];
        Derivation::new(suite, &master).fill(label, &mut out);
        out
    }

    #[test]
    fn session_keys_of_rfc_3711_b3() {
        let suite = Suite::of(SrtpProfile::AesCm128HmacSha1_80);
        let key = "E1F97A0D3E018BE0D64FA32C06DE4139";
        let salt = "0EC675AD498AFEEBB6960B3AABE6";
        assert_eq!(derived(&suite, key, salt, 0, 16), hex("C61E7A93744F39EE10734AFE3FF7A087"));
        assert_eq!(derived(&suite, key, salt, 2, 14), hex("30CBBC08863D8C85D49DB34A9AE1"));
        let auth = "CEBE321F6FF7716B6FD4AB49AF256A156D38BAA48F0A0ACF3C34E2359E6CDBCEE049646C43D9327AD175578EF722\
                    70986371C10C9A369AC2F94A8C5FBCDDDC256D6E919A48B610EF17C2041E474035766B68642C59BBFC2F34DB60DBDFB2";
        assert_eq!(derived(&suite, key, salt, 1, 94), hex(auth)[..94]);
    }

    #[test]
    fn session_keys_of_rfc_6188_7_4() {
        let suite = Suite::of(SrtpProfile::AesCm256HmacSha1_80);
        let key = "f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b6";
        let salt = "3b04803de51ee7c96423ab5b78d2";
        let cipher = "5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4";
        assert_eq!(derived(&suite, key, salt, 0, 32), hex(cipher));
        assert_eq!(derived(&suite, key, salt, 2, 14), hex("fa31791685ca444a9e07c6c64e93"));
        assert_eq!(derived(&suite, key, salt, 1, 20), hex("fd9c32d39ed5fbb5a9dc96b30818454d1313dc05"));
    }

    #[test]
    fn csrcs_and_extension_belong_to_the_header() {
        let mut packet = vec![0; 200];
        packet[0] = 0x80 | 0x10 | 3;
        packet[12 + 12 + 3] = 5;
        assert_eq!(RtpHeader::read(&packet, 10).unwrap().bytes, 12 + 12 + 4 + 20);
    }

    #[test]
    fn a_header_that_leaves_no_room_for_the_tag_is_too_short() {
        let mut packet = vec![0; 12 + 4 + 8 + 10];
        packet[0] = 0x90;
        packet[15] = 2;
        for length in 0..packet.len() {
            assert_eq!(RtpHeader::read(&packet[..length], 10).err(), Some(DropReason::SrtpTooShort), "{length}");
        }
        assert!(RtpHeader::read(&packet, 10).is_ok());
        packet[14] = 0xff;
        assert_eq!(RtpHeader::read(&packet, 10).err(), Some(DropReason::SrtpTooShort));
        packet[0] = 0x40;
        assert_eq!(RtpHeader::read(&packet, 10).err(), Some(DropReason::RtpMalformed));
    }
}
