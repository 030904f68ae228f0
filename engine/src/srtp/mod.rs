//! SRTP and SRTCP in place (RFC 3711, 7714).

use crate::error::DropReason;

/// Longest master key plus salt of any profile: AES-256 (32) and 14.
pub const MASTER_BYTES_MAX: usize = 46;

/// What protects a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SrtpProfile {
    /// SRTP_AES128_CM_HMAC_SHA1_80
    AesCm128HmacSha1_80,
    /// SRTP_AEAD_AES_128_GCM
    AeadAes128Gcm,
    /// SRTP_AEAD_AES_256_GCM
    AeadAes256Gcm,
}

impl SrtpProfile {
    /// Bytes that `Protect::rtp` adds.
    pub const fn rtp_tag_bytes(self) -> usize {
        match self {
            SrtpProfile::AesCm128HmacSha1_80 => 10,
            SrtpProfile::AeadAes128Gcm | SrtpProfile::AeadAes256Gcm => 16,
        }
    }

    /// Master key bytes.
    pub const fn key_bytes(self) -> usize {
        match self {
            SrtpProfile::AesCm128HmacSha1_80 | SrtpProfile::AeadAes128Gcm => 16,
            SrtpProfile::AeadAes256Gcm => 32,
        }
    }

    /// Master salt bytes.
    pub const fn salt_bytes(self) -> usize {
        match self {
            SrtpProfile::AesCm128HmacSha1_80 => 14,
            SrtpProfile::AeadAes128Gcm | SrtpProfile::AeadAes256Gcm => 12,
        }
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

/// What we send. Keeps a rollover counter per SSRC.
pub struct Protect {}

impl Protect {
    /// Derives the session keys (RFC 3711 §4.3).
    pub fn new(_profile: SrtpProfile, _key: &MasterKey) -> Protect {
        todo!()
    }

    /// Encrypts `packet[..len]`, one RTP packet, in place and returns its new length. `packet` needs room for the tag.
    /// Sequence numbers of one SSRC must not step back by more than reordering does.
    pub fn rtp(&mut self, _packet: &mut [u8], _len: usize) -> Result<usize, DropReason> {
        todo!()
    }

    /// Encrypts `packet[..len]`, one compound RTCP packet, in place and returns its new length (up to 20 bytes more).
    pub fn rtcp(&mut self, _packet: &mut [u8], _len: usize) -> Result<usize, DropReason> {
        todo!()
    }
}

/// What the peer sends. Keeps rollover counter and replay window per SSRC, at most `SSRCS_MAX`.
pub struct Unprotect {}

/// Remote SSRCs one leg keeps state for; the longest-silent one is replaced by a new one that authenticates.
pub const SSRCS_MAX: usize = 4;

impl Unprotect {
    /// Derives the session keys (RFC 3711 §4.3).
    pub fn new(_profile: SrtpProfile, _key: &MasterKey) -> Unprotect {
        todo!()
    }

    /// Checks and decrypts one SRTP packet in place; returns the length of the RTP packet.
    /// A forged packet moves nothing: neither window nor rollover counter nor table.
    pub fn rtp(&mut self, _packet: &mut [u8]) -> Result<usize, DropReason> {
        todo!()
    }

    /// Checks and decrypts one SRTCP packet in place; returns the length of the RTCP packet.
    pub fn rtcp(&mut self, _packet: &mut [u8]) -> Result<usize, DropReason> {
        todo!()
    }
}
