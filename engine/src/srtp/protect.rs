//! Sending: RTP to SRTP, RTCP to SRTCP.

use super::keys::{RTCP_HEADER_BYTES, RTCP_INDEX_BYTES, RtpHeader, SessionKeys, rtcp_ssrc};
use super::replay::SsrcTable;
use super::{MasterKey, SSRCS_MAX, SrtpProfile};
use crate::error::DropReason;
use crate::prefetch::prefetch_bytes;

/// What we send. Keeps a rollover counter per SSRC.
///
/// In this order in memory: what each RTP packet needs stands at the beginning.
#[repr(C)]
pub struct Protect {
    keys: SessionKeys,
    /// Indices already used per SSRC, at most `SSRCS_MAX`. None is ever forgotten: a source that came back with its
    /// rollover counter at zero would repeat its keystream.
    rtp: SsrcTable<SSRCS_MAX>,
    /// One count for all sources: unique for each of them (RFC 3711 §3.4 asks no more).
    rtcp_index: u32,
}

impl Protect {
    /// So many bytes from the beginning are what an RTP packet needs, but for its keys: `prefetch_keys` does.
    pub(crate) const FRONT_BYTES: usize = core::mem::offset_of!(Protect, rtp) + SsrcTable::<SSRCS_MAX>::FRONT_BYTES;

    /// Asks for these.
    pub(crate) fn prefetch(&self) {
        prefetch_bytes(core::ptr::from_ref(self).cast(), Self::FRONT_BYTES);
    }

    /// Asks for the keys of RTP.
    pub(crate) fn prefetch_keys(&self) {
        self.keys.rtp.prefetch();
    }

    /// Derives the session keys (RFC 3711 §4.3).
    pub fn new(profile: SrtpProfile, key: &MasterKey) -> Protect {
        Protect { keys: SessionKeys::derive(profile, key), rtp: SsrcTable::default(), rtcp_index: 0 }
    }

    /// Encrypts `packet[..len]`, one RTP packet, in place and returns its new length. `packet` needs room for the tag.
    /// Sequence numbers of one SSRC must not step back by more than reordering does.
    ///
    /// Errors leave the packet as it was: `SrtpReplayed` for a sequence number that was sent before (the same keystream
    /// twice would give the plaintext away), `SsrcTableFull` for an SSRC past `SSRCS_MAX`, `SrtpTooShort` when header or
    /// tag do not fit.
    pub fn rtp(&mut self, packet: &mut [u8], len: usize) -> Result<usize, DropReason> {
        let header = RtpHeader::read(packet.get(..len).ok_or(DropReason::SrtpTooShort)?, 0)?;
        if packet.len() < len + self.keys.rtp.tag_bytes() {
            return Err(DropReason::SrtpTooShort);
        }
        if !self.rtp.has_room(header.ssrc) {
            return Err(DropReason::SsrcTableFull);
        }
        let window = self.rtp.window(header.ssrc);
        let index = window.estimate(header.sequence).filter(|&index| window.is_fresh(index));
        let index = index.ok_or(DropReason::SrtpReplayed)?;
        let protected = self.keys.rtp.seal_rtp(packet, len, header.bytes, header.ssrc, index);
        self.rtp.accept(header.ssrc, index);
        Ok(protected)
    }

    /// Encrypts `packet[..len]`, one compound RTCP packet, in place and returns its new length (up to 20 bytes more).
    ///
    /// Errors leave the packet as it was: `SrtpTooShort` when header or tag do not fit, `RtcpMalformed` for another
    /// version, `SrtpReplayed` when all 2^31 indices are used.
    pub fn rtcp(&mut self, packet: &mut [u8], len: usize) -> Result<usize, DropReason> {
        let ssrc = rtcp_ssrc(packet.get(..len).ok_or(DropReason::SrtpTooShort)?, RTCP_HEADER_BYTES)?;
        if packet.len() < len + self.keys.rtcp.tag_bytes() + RTCP_INDEX_BYTES {
            return Err(DropReason::SrtpTooShort);
        }
        if self.rtcp_index > RTCP_INDEX_MAX {
            return Err(DropReason::SrtpReplayed);
        }
        let protected = self.keys.rtcp.seal_rtcp(packet, len, ssrc, self.rtcp_index);
        self.rtcp_index += 1;
        Ok(protected)
    }
}

/// RFC 3711 §9.2: after that many packets the key is used up.
const RTCP_INDEX_MAX: u32 = (1 << 31) - 1;

#[cfg(test)]
mod tests {
    use super::super::tests::{PROFILES, master, rtcp_packet, rtp_packet};
    use super::*;

    #[test]
    fn an_index_is_never_used_twice() {
        for profile in PROFILES {
            let mut protect = Protect::new(profile, &master(1));
            let send = |protect: &mut Protect, sequence| {
                let mut packet = rtp_packet(7, sequence, 20);
                let len = packet.len();
                packet.resize(len + 16, 0);
                protect.rtp(&mut packet, len).map(|_| ())
            };
            assert_eq!(send(&mut protect, 65_534), Ok(()));
            assert_eq!(send(&mut protect, 1), Ok(()));
            assert_eq!(send(&mut protect, 65_535), Ok(()));
            assert_eq!(send(&mut protect, 1), Err(DropReason::SrtpReplayed));
            assert_eq!(send(&mut protect, 65_535), Err(DropReason::SrtpReplayed));
            assert_eq!(send(&mut protect, 60_000), Err(DropReason::SrtpReplayed));
        }
    }

    #[test]
    fn a_source_past_the_limit_is_refused() {
        let mut protect = Protect::new(SrtpProfile::AeadAes128Gcm, &master(1));
        for ssrc in 0..=SSRCS_MAX as u32 {
            let mut packet = rtp_packet(ssrc, 1, 20);
            let len = packet.len();
            packet.resize(len + 16, 0);
            let expected = if ssrc < SSRCS_MAX as u32 { Ok(len + 16) } else { Err(DropReason::SsrcTableFull) };
            assert_eq!(protect.rtp(&mut packet, len), expected);
        }
    }

    #[test]
    fn a_buffer_without_room_for_the_tag_is_refused_and_untouched() {
        for profile in PROFILES {
            let mut protect = Protect::new(profile, &master(1));
            let mut packet = rtp_packet(1, 1, 20);
            let (before, len) = (packet.clone(), packet.len());
            packet.resize(len + profile.rtp_tag_bytes() - 1, 0);
            assert_eq!(protect.rtp(&mut packet, len), Err(DropReason::SrtpTooShort));
            assert_eq!(protect.rtp(&mut packet, 5000), Err(DropReason::SrtpTooShort));
            assert_eq!(packet[..len], before);
            let mut packet = rtcp_packet(1, 20);
            let (before, len) = (packet.clone(), packet.len());
            packet.resize(len + profile.rtp_tag_bytes() + 3, 0);
            assert_eq!(protect.rtcp(&mut packet, len), Err(DropReason::SrtpTooShort));
            assert_eq!(protect.rtcp(&mut packet, 7), Err(DropReason::SrtpTooShort));
            assert_eq!(packet[..len], before);
        }
    }

    #[test]
    fn srtcp_ends_when_its_indices_are_used_up() {
        let mut protect = Protect::new(SrtpProfile::AesCm128HmacSha1_80, &master(1));
        protect.rtcp_index = RTCP_INDEX_MAX;
        let mut packet = rtcp_packet(1, 20);
        let len = packet.len();
        packet.resize(len + 20, 0);
        assert_eq!(protect.rtcp(&mut packet.clone(), len), Ok(len + 14));
        assert_eq!(protect.rtcp(&mut packet, len), Err(DropReason::SrtpReplayed));
    }
}
