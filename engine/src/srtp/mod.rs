//! SRTP and SRTCP in place (RFC 3711, 7714).
//!
//! ```text
//! RTP  -> Protect::rtp    -> header | encrypted payload | tag                  -> Unprotect::rtp  -> RTP
//! RTCP -> Protect::rtcp   -> header | encrypted rest | E, index and tag        -> Unprotect::rtcp -> RTCP
//! ```
//!
//! `keys.rs` derives session keys, `cipher.rs` holds the transforms, `replay.rs` knows which packet indices were seen.
//! Order matters when receiving: estimate the index, look it up, authenticate, and only then move anything.
//!
//! A receiver that misses the first packets of a stream whose sequence numbers start just below a wrap cannot know its
//! rollover counter (RFC 3711 §3.3.1): senders, ours too, therefore draw their first sequence number below 2^15.
//!
//! Why our own: `webrtc-srtp` allocates up to five times a packet and hides its rollover and replay state; it serves as
//! the oracle of the tests below.

mod aead;
mod cipher;
mod keys;
mod protect;
mod replay;
mod unprotect;

pub use protect::Protect;
pub use unprotect::Unprotect;

use keys::Suite;

/// Longest master key plus salt of any profile: AES-256 (32) and 14.
pub const MASTER_BYTES_MAX: usize = 46;

/// What protects a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SrtpProfile {
    /// SRTP_AES128_CM_HMAC_SHA1_80
    AesCm128HmacSha1_80,
    /// AES_CM_128_HMAC_SHA1_32: SRTP tags of 4 bytes, SRTCP's of 10 (RFC 3711 §5.2). SDES only.
    AesCm128HmacSha1_32,
    /// AES_256_CM_HMAC_SHA1_80 (RFC 6188). SDES only.
    AesCm256HmacSha1_80,
    /// AES_256_CM_HMAC_SHA1_32 (RFC 6188). SDES only.
    AesCm256HmacSha1_32,
    /// SRTP_AEAD_AES_128_GCM
    AeadAes128Gcm,
    /// SRTP_AEAD_AES_256_GCM
    AeadAes256Gcm,
}

impl SrtpProfile {
    /// Bytes that `Protect::rtp` adds.
    pub const fn rtp_tag_bytes(self) -> usize {
        Suite::of(self).rtp_tag_bytes
    }

    /// Master key bytes.
    pub const fn key_bytes(self) -> usize {
        Suite::of(self).key_bytes
    }

    /// Master salt bytes.
    pub const fn salt_bytes(self) -> usize {
        Suite::of(self).salt_bytes
    }
}

/// Master key and salt of one direction: `bytes[..key_bytes]` then the salt. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey {
    /// Key, then salt, then zeroes.
    pub bytes: [u8; MASTER_BYTES_MAX],
}

impl core::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("MasterKey(redacted)")
    }
}

/// Both directions' keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrtpKeys {
    /// The profile of both.
    pub profile: SrtpProfile,
    /// Protects what we send.
    pub local: MasterKey,
    /// Protects what the peer sends.
    pub remote: MasterKey,
}

/// Remote SSRCs one leg keeps state for; the longest-silent one is replaced by a new one that authenticates.
pub const SSRCS_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::DropReason;
    use crate::random::Random;
    use webrtc_srtp::context::Context;
    use webrtc_srtp::protection_profile::ProtectionProfile;

    pub(super) const PROFILES: [SrtpProfile; 6] = [
        SrtpProfile::AesCm128HmacSha1_80,
        SrtpProfile::AesCm128HmacSha1_32,
        SrtpProfile::AesCm256HmacSha1_80,
        SrtpProfile::AesCm256HmacSha1_32,
        SrtpProfile::AeadAes128Gcm,
        SrtpProfile::AeadAes256Gcm,
    ];

    /// Thousands of packets across several wraps, lost, doubled and late: both sides read what the other writes.
    #[test]
    fn rtp_agrees_with_the_oracle_in_both_directions() {
        for profile in PROFILES {
            for seed in 0..4 {
                let mut random = Random::from_test_seed(seed);
                let key = master(seed as u8);
                let (mut ours, mut theirs) = (Protect::new(profile, &key), oracle(profile, &key));
                let (mut our_ear, mut their_ear) = (Unprotect::new(profile, &key), oracle(profile, &key));
                let mut late: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
                let mut taken = 0;
                for step in 0..3000_u32 {
                    // A stride of up to 99 crosses 65535 twice in this many packets.
                    let sequence = (30_000 + step * 50 + random.below(50)) as u16;
                    let plain = random_rtp(&mut random, sequence);
                    let mut protected = plain.clone();
                    protected.resize(plain.len() + 16, 0);
                    let len = ours.rtp(&mut protected, plain.len()).unwrap();
                    protected.truncate(len);
                    assert_eq!(len, plain.len() + profile.rtp_tag_bytes());
                    assert_eq!(protected, theirs.encrypt_rtp(&plain).unwrap());
                    match random.below(10) {
                        0 => continue,
                        1 => {
                            late.push((protected, plain));
                            continue;
                        }
                        _ => {}
                    }
                    taken += receive(&mut our_ear, &mut their_ear, &protected, &plain);
                    if random.below(8) == 0 {
                        assert_eq!(our_ear.rtp(&mut protected.clone()), Err(DropReason::SrtpReplayed));
                    }
                    if late.len() > 1 || step % 7 == 0 {
                        late.drain(..).for_each(|(protected, plain)| {
                            // One or two packets late is 50 to 150 sequence numbers: inside our window or behind it.
                            match our_ear.rtp(&mut protected.clone()) {
                                Ok(len) => {
                                    assert_eq!(len, plain.len());
                                    taken += 1;
                                }
                                Err(reason) => assert_eq!(reason, DropReason::SrtpReplayed),
                            }
                        });
                    }
                }
                assert!(taken > 2400, "{taken}");
            }
        }
    }

    #[test]
    fn rtcp_agrees_with_the_oracle_in_both_directions() {
        for profile in PROFILES {
            let mut random = Random::from_test_seed(11);
            let key = master(3);
            let (mut ours, mut their_ear) = (Protect::new(profile, &key), oracle(profile, &key));
            let (mut theirs, mut our_ear) = (oracle(profile, &key), Unprotect::new(profile, &key));
            for step in 0..2000_u32 {
                let plain = rtcp_packet(0xfeed_0000 + step % 3, 8 + 4 * random.below(100) as usize);
                let mut protected = plain.clone();
                protected.resize(plain.len() + 20, 0);
                let len = ours.rtcp(&mut protected, plain.len()).unwrap();
                assert_eq!(their_ear.decrypt_rtcp(&protected[..len]).unwrap(), plain);

                let protected = theirs.encrypt_rtcp(&plain).unwrap();
                let mut packet = protected.to_vec();
                let len = our_ear.rtcp(&mut packet).unwrap();
                assert_eq!(packet[..len], plain);
                assert_eq!(our_ear.rtcp(&mut protected.to_vec()), Err(DropReason::SrtpReplayed));
            }
        }
    }

    fn receive(ours: &mut Unprotect, theirs: &mut Context, protected: &[u8], plain: &[u8]) -> u32 {
        let mut packet = protected.to_vec();
        let len = ours.rtp(&mut packet).unwrap();
        assert_eq!(packet[..len], *plain);
        assert_eq!(theirs.decrypt_rtp(protected).unwrap(), plain);
        1
    }

    fn oracle(profile: SrtpProfile, key: &MasterKey) -> Context {
        let theirs = match profile {
            SrtpProfile::AesCm128HmacSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
            SrtpProfile::AesCm128HmacSha1_32 => ProtectionProfile::Aes128CmHmacSha1_32,
            SrtpProfile::AesCm256HmacSha1_80 => ProtectionProfile::Aes256CmHmacSha1_80,
            SrtpProfile::AesCm256HmacSha1_32 => ProtectionProfile::Aes256CmHmacSha1_32,
            SrtpProfile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
            SrtpProfile::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
        };
        let (key, rest) = key.bytes.split_at(profile.key_bytes());
        Context::new(key, &rest[..profile.salt_bytes()], theirs, None, None).unwrap()
    }

    /// CSRCs, extension and length at random.
    fn random_rtp(random: &mut Random, sequence: u16) -> Vec<u8> {
        let csrcs = random.below(4) as usize;
        let extension = (random.below(2) == 1).then(|| random.below(5) as usize);
        let mut packet = rtp_packet(0x1234_5678, sequence, 0);
        packet[0] |= csrcs as u8;
        packet.resize(12 + 4 * csrcs, 0xcc);
        if let Some(words) = extension {
            packet[0] |= 0x10;
            packet.extend([0xbe, 0xde, 0, words as u8]);
            // Profile BEDE with padding only: one-byte elements of id 0 (RFC 8285 §4.2).
            packet.resize(packet.len() + 4 * words, 0);
        }
        let mut payload = vec![0; random.below(1000) as usize];
        random.fill(&mut payload);
        packet.extend(payload);
        packet
    }

    pub(super) fn rtp_packet(ssrc: u32, sequence: u16, payload_bytes: usize) -> Vec<u8> {
        let mut packet = vec![0x80, 111];
        packet.extend(sequence.to_be_bytes());
        packet.extend((u32::from(sequence) * 960).to_be_bytes());
        packet.extend(ssrc.to_be_bytes());
        packet.extend((0..payload_bytes).map(|at| at as u8));
        packet
    }

    /// A sender report by its first bytes; `bytes` long.
    pub(super) fn rtcp_packet(ssrc: u32, bytes: usize) -> Vec<u8> {
        let mut packet = vec![0x80, 200, 0, (bytes / 4 - 1) as u8];
        packet.extend(ssrc.to_be_bytes());
        packet.extend((8..bytes).map(|at| at as u8));
        packet
    }

    pub(super) fn protected_rtp(protect: &mut Protect, ssrc: u32, sequence: u16) -> Vec<u8> {
        let mut packet = rtp_packet(ssrc, sequence, 60);
        let len = packet.len();
        packet.resize(len + 16, 0);
        let len = protect.rtp(&mut packet, len).unwrap();
        packet.truncate(len);
        packet
    }

    pub(super) fn protected_rtcp(protect: &mut Protect, ssrc: u32) -> Vec<u8> {
        let mut packet = rtcp_packet(ssrc, 28);
        packet.resize(28 + 20, 0);
        let len = protect.rtcp(&mut packet, 28).unwrap();
        packet.truncate(len);
        packet
    }

    pub(super) fn master(seed: u8) -> MasterKey {
        MasterKey { bytes: core::array::from_fn(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)) }
    }

    pub(super) fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }
}
