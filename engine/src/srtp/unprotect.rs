//! Receiving: SRTP to RTP, SRTCP to RTCP.

use super::cipher::RTCP_ENCRYPTED;
use super::keys::{RTCP_HEADER_BYTES, RTCP_INDEX_BYTES, RtpHeader, SessionKeys, rtcp_ssrc};
use super::replay::SsrcTable;
use super::{MasterKey, SSRCS_MAX, SrtpProfile};
use crate::error::DropReason;
use crate::prefetch::prefetch_bytes;

/// What the peer sends. Keeps rollover counter and replay window per SSRC, at most `SSRCS_MAX`.
///
/// In this order in memory: what each RTP packet needs stands at the beginning.
#[repr(C)]
pub struct Unprotect {
    keys: SessionKeys,
    rtp: SsrcTable<SSRCS_MAX>,
    /// Its own table: a receiver's report may come from an SSRC that sends no RTP.
    rtcp: SsrcTable<SSRCS_MAX>,
}

impl Unprotect {
    /// Derives the session keys (RFC 3711 §4.3).
    pub fn new(profile: SrtpProfile, key: &MasterKey) -> Unprotect {
        Unprotect { keys: SessionKeys::derive(profile, key), rtp: SsrcTable::default(), rtcp: SsrcTable::default() }
    }

    /// So many bytes from the beginning are what an RTP packet needs, but for its keys: `prefetch_keys` does.
    pub(crate) const FRONT_BYTES: usize = core::mem::offset_of!(Unprotect, rtp) + SsrcTable::<SSRCS_MAX>::FRONT_BYTES;

    /// Asks for these.
    pub(crate) fn prefetch(&self) {
        prefetch_bytes(core::ptr::from_ref(self).cast(), Self::FRONT_BYTES);
    }

    /// Asks for the keys of RTP.
    pub(crate) fn prefetch_keys(&self) {
        self.keys.rtp.prefetch();
    }

    /// Checks and decrypts one SRTP packet in place; returns the length of the RTP packet.
    /// A forged packet moves nothing: neither window nor rollover counter nor table.
    ///
    /// Errors: `SrtpTooShort`, `RtpMalformed` (version), `SrtpReplayed`, `SrtpAuthFailed`. After the last one the
    /// payload bytes of `packet` are unspecified.
    pub fn rtp(&mut self, packet: &mut [u8]) -> Result<usize, DropReason> {
        let header = RtpHeader::read(packet, self.keys.rtp.tag_bytes())?;
        let window = self.rtp.window(header.ssrc);
        let index = window.estimate(header.sequence).filter(|&index| window.is_fresh(index));
        let index = index.ok_or(DropReason::SrtpReplayed)?;
        let len = self.keys.rtp.open_rtp(packet, header.bytes, header.ssrc, index)?;
        self.rtp.accept(header.ssrc, index);
        Ok(len)
    }

    /// Checks and decrypts one SRTCP packet in place; returns the length of the RTCP packet.
    ///
    /// A packet that is only authenticated (E is zero) is taken too (RFC 3711 §3.4). Errors as for `rtp`, with
    /// `RtcpMalformed` for another version.
    pub fn rtcp(&mut self, packet: &mut [u8]) -> Result<usize, DropReason> {
        let bytes_min = RTCP_HEADER_BYTES + RTCP_INDEX_BYTES + self.keys.rtcp.tag_bytes();
        let ssrc = rtcp_ssrc(packet, bytes_min)?;
        let word = self.keys.rtcp.rtcp_word(packet);
        let index = u64::from(word & !RTCP_ENCRYPTED);
        if !self.rtcp.window(ssrc).is_fresh(index) {
            return Err(DropReason::SrtpReplayed);
        }
        let len = self.keys.rtcp.open_rtcp(packet, ssrc, word)?;
        self.rtcp.accept(ssrc, index);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Protect;
    use super::super::keys::Suite;
    use super::super::tests::{PROFILES, master, protected_rtcp, protected_rtp, rtcp_packet, rtp_packet};
    use super::*;

    fn pair(profile: SrtpProfile) -> (Protect, Unprotect) {
        (Protect::new(profile, &master(1)), Unprotect::new(profile, &master(1)))
    }

    #[test]
    fn forged_packet_moves_nothing() {
        for profile in PROFILES {
            let (mut protect, mut unprotect) = pair(profile);
            let mut first = protected_rtp(&mut protect, 9, 65_530);
            unprotect.rtp(&mut first).unwrap();
            // Far ahead, so that a window or rollover counter it moved would refuse the genuine one.
            for sequence in [65_531, 30_000, 5] {
                for byte in 12..40 {
                    let mut forged = rtp_packet(9, sequence, 60);
                    forged[byte] ^= 1;
                    assert_eq!(unprotect.rtp(&mut forged), Err(DropReason::SrtpAuthFailed));
                }
            }
            // Nor may strangers push the source out of its table.
            for ssrc in 100..120 {
                let mut forged = rtp_packet(ssrc, 1, 60);
                assert_eq!(unprotect.rtp(&mut forged), Err(DropReason::SrtpAuthFailed));
            }
            let mut next = protected_rtp(&mut protect, 9, 65_531);
            assert!(unprotect.rtp(&mut next).is_ok());
            let mut replayed = protected_rtp(&mut Protect::new(profile, &master(1)), 9, 65_530);
            assert_eq!(unprotect.rtp(&mut replayed), Err(DropReason::SrtpReplayed));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_packet_is_noticed() {
        for profile in PROFILES {
            let (mut protect, mut unprotect) = pair(profile);
            let genuine = protected_rtp(&mut protect, 9, 100);
            for bit in 0..genuine.len() * 8 {
                let mut forged = genuine.clone();
                forged[bit / 8] ^= 1 << (bit % 8);
                assert!(unprotect.rtp(&mut forged).is_err(), "bit {bit}");
            }
            assert!(unprotect.rtp(&mut genuine.clone()).is_ok());
            let genuine = protected_rtcp(&mut protect, 9);
            for bit in 0..genuine.len() * 8 {
                let mut forged = genuine.clone();
                forged[bit / 8] ^= 1 << (bit % 8);
                assert!(unprotect.rtcp(&mut forged).is_err(), "bit {bit}");
            }
            assert!(unprotect.rtcp(&mut genuine.clone()).is_ok());
        }
    }

    #[test]
    fn a_packet_is_taken_once() {
        for profile in PROFILES {
            let (mut protect, mut unprotect) = pair(profile);
            let rtp = protected_rtp(&mut protect, 9, 0);
            let rtcp = protected_rtcp(&mut protect, 9);
            assert!(unprotect.rtp(&mut rtp.clone()).is_ok() && unprotect.rtcp(&mut rtcp.clone()).is_ok());
            assert_eq!(unprotect.rtp(&mut rtp.clone()), Err(DropReason::SrtpReplayed));
            assert_eq!(unprotect.rtcp(&mut rtcp.clone()), Err(DropReason::SrtpReplayed));
        }
    }

    #[test]
    fn short_packets_of_every_length_are_refused() {
        for profile in PROFILES {
            let (mut protect, mut unprotect) = pair(profile);
            let rtp = protected_rtp(&mut protect, 9, 0);
            let rtcp = protected_rtcp(&mut protect, 9);
            for length in 0..rtp.len() {
                let too_short = length < 12 + profile.rtp_tag_bytes();
                let expected = if too_short { DropReason::SrtpTooShort } else { DropReason::SrtpAuthFailed };
                assert_eq!(unprotect.rtp(&mut rtp[..length].to_vec()), Err(expected));
            }
            for length in 0..rtcp.len() {
                let result = unprotect.rtcp(&mut rtcp[..length].to_vec());
                if length < 8 + 4 + Suite::of(profile).rtcp_tag_bytes {
                    assert_eq!(result, Err(DropReason::SrtpTooShort));
                } else {
                    assert_eq!(result, Err(DropReason::SrtpAuthFailed));
                }
            }
            assert_eq!(unprotect.rtp(&mut [0x40; 60]), Err(DropReason::RtpMalformed));
            assert_eq!(unprotect.rtcp(&mut [0x40; 60]), Err(DropReason::RtcpMalformed));
        }
    }

    #[test]
    fn a_fifth_source_that_authenticates_replaces_the_longest_silent() {
        let (mut protect, mut unprotect) = pair(SrtpProfile::AesCm128HmacSha1_80);
        let first = protected_rtp(&mut protect, 0, 1);
        unprotect.rtp(&mut first.clone()).unwrap();
        for ssrc in 1..=SSRCS_MAX as u32 {
            let mut packet = protected_rtp(&mut Protect::new(SrtpProfile::AesCm128HmacSha1_80, &master(1)), ssrc, 1);
            assert_eq!(unprotect.rtp(&mut first.clone()), Err(DropReason::SrtpReplayed));
            unprotect.rtp(&mut packet).unwrap();
        }
        assert!(unprotect.rtp(&mut first.clone()).is_ok());
    }

    /// RFC 3711 §5.2, RFC 4568 §6.2: what is short is SRTP's tag alone.
    #[test]
    fn short_tags_are_for_rtp_only() {
        for profile in [SrtpProfile::AesCm128HmacSha1_32, SrtpProfile::AesCm256HmacSha1_32] {
            let (mut protect, _) = pair(profile);
            assert_eq!(protected_rtp(&mut protect, 9, 0).len(), rtp_packet(9, 0, 60).len() + 4);
            assert_eq!(protected_rtcp(&mut protect, 9).len(), 28 + RTCP_INDEX_BYTES + 10);
        }
    }

    #[test]
    fn srtcp_without_encryption_is_taken() {
        let profile = SrtpProfile::AesCm128HmacSha1_80;
        let keys = SessionKeys::derive(profile, &master(1));
        let super::super::cipher::Transform::CmHmac(cm) = &keys.rtcp else { panic!("counter mode") };
        let plain = rtcp_packet(9, 28);
        let word = 77_u32.to_be_bytes();
        let tag = cm.tag(&plain, word);
        let mut packet = [&plain[..], &word, &tag[..10]].concat();
        let mut unprotect = Unprotect::new(profile, &master(1));
        assert_eq!(unprotect.rtcp(&mut packet), Ok(plain.len()));
        assert_eq!(packet[..plain.len()], plain);
        assert_eq!(unprotect.rtcp(&mut packet), Err(DropReason::SrtpReplayed));
    }
}
