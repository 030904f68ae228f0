//! SRTP and SRTCP as they arrive, with fixed keys.

use crate::script::Script;
use engine::error::DropReason;
use engine::limits::DATAGRAM_BYTES_MAX;
use engine::srtp::{MASTER_BYTES_MAX, MasterKey, Protect, SrtpProfile, Unprotect};

/// More than any tag and index.
const ROOM: usize = 64;

const PROFILES: [SrtpProfile; 6] = [
    SrtpProfile::AesCm128HmacSha1_80,
    SrtpProfile::AeadAes128Gcm,
    SrtpProfile::AeadAes256Gcm,
    SrtpProfile::AesCm128HmacSha1_32,
    SrtpProfile::AesCm256HmacSha1_80,
    SrtpProfile::AesCm256HmacSha1_32,
];

/// Packets from a stranger are refused whatever they are; packets from the peer come out as they went in, once.
pub fn srtp(data: &[u8]) {
    let mut script = Script::new(data);
    let profile = script.pick(&PROFILES);
    let key = || {
        let mut bytes = [0; MASTER_BYTES_MAX];
        bytes.iter_mut().zip(1..).for_each(|(byte, number)| *byte = number);
        MasterKey { bytes }
    };
    let mut protect = Protect::new(profile, &key());
    let mut unprotect = Unprotect::new(profile, &key());
    while !script.is_over() {
        let choice = script.byte();
        let is_rtcp = choice & 1 != 0;
        // What the sockets give, and what goes out, fits in a datagram.
        let bytes = script.chunk();
        let bytes = &bytes[..bytes.len().min(DATAGRAM_BYTES_MAX - ROOM)];
        let mut packet = bytes.to_vec();
        if choice & 2 == 0 {
            let opened = if is_rtcp { unprotect.rtcp(&mut packet) } else { unprotect.rtp(&mut packet) };
            assert!(opened.is_err(), "a packet without a key was accepted");
            continue;
        }
        packet.resize(bytes.len() + ROOM, 0);
        let sealed =
            if is_rtcp { protect.rtcp(&mut packet, bytes.len()) } else { protect.rtp(&mut packet, bytes.len()) };
        let Ok(len) = sealed else {
            assert_eq!(packet[..bytes.len()], *bytes, "a packet that was refused was changed");
            continue;
        };
        packet.truncate(len);
        let sealed = packet.clone();
        if choice & 4 != 0 {
            script.damage(&mut packet);
        }
        let is_intact = packet == sealed;
        let opened = if is_rtcp { unprotect.rtcp(&mut packet) } else { unprotect.rtp(&mut packet) };
        match opened {
            Ok(len) => {
                assert!(is_intact, "a forged packet was accepted");
                assert_eq!(packet[..len], *bytes);
                let mut again = sealed.clone();
                let replayed = if is_rtcp { unprotect.rtcp(&mut again) } else { unprotect.rtp(&mut again) };
                assert_eq!(replayed, Err(DropReason::SrtpReplayed));
            }
            // The sender counts on from its own window, so that one that lost packets may refuse what is far ahead.
            Err(reason) => assert!(!is_intact || reason != DropReason::RtpMalformed, "{reason:?}"),
        }
    }
}
