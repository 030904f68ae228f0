//! What a socket carried, counted from the raw datagrams before any leg has seen them.
//!
//! Why apart from the leg: the facts asserted about the program under test (it was ICE-controlling, it opened DTLS, nothing came
//! before the accept) must not be the opinion of code that it shares with us. So this reads bytes: RFC 7983 §7 for the class,
//! RFC 8489 §5 for STUN attributes, RFC 6347 §4.2.2 for a ClientHello.

use engine::demux::{Class, classify};
use engine::time::Instant;

/// STUN: PRIORITY, USE-CANDIDATE, ICE-CONTROLLED, ICE-CONTROLLING (RFC 8445 §16.1).
const USE_CANDIDATE: u16 = 0x0025;
const ICE_CONTROLLED: u16 = 0x8029;
const ICE_CONTROLLING: u16 = 0x802a;
/// A Binding request.
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];

/// What came in on one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// RTP or SRTP packets.
    pub rtp: u64,
    /// RTCP or SRTCP packets.
    pub rtcp: u64,
    /// DTLS datagrams.
    pub dtls: u64,
    /// Binding requests.
    pub checks: u64,
    /// Of these, with ICE-CONTROLLING.
    pub controlling: u64,
    /// Of these, with ICE-CONTROLLED.
    pub controlled: u64,
    /// Of these, with USE-CANDIDATE.
    pub nominations: u64,
    /// ClientHellos: the peer is the DTLS client.
    pub client_hellos: u64,
    /// ServerHellos: the peer is the DTLS server.
    pub server_hellos: u64,
    /// Anything else.
    pub unknown: u64,
    /// SSRC of the first RTP packet; SRTP leaves the header readable (RFC 3711 §3.1).
    pub ssrc: Option<u32>,
    /// RTP packets with any other SSRC.
    pub other_ssrc: u64,
    /// When the first RTP packet came.
    pub first_rtp: Option<Instant>,
    /// When the first RTP or RTCP packet came.
    pub first_media: Option<Instant>,
}

impl Counters {
    /// Looks at one datagram.
    pub fn incoming(&mut self, now: Instant, datagram: &[u8]) {
        match classify(datagram) {
            Class::Stun => self.stun(datagram),
            Class::Dtls => self.dtls(datagram),
            Class::Rtp => {
                self.rtp += 1;
                self.first_rtp.get_or_insert(now);
                self.first_media.get_or_insert(now);
                if let Some(&[a, b, c, d]) = datagram.get(8..12) {
                    let ssrc = u32::from_be_bytes([a, b, c, d]);
                    self.other_ssrc += u64::from(*self.ssrc.get_or_insert(ssrc) != ssrc);
                }
            }
            Class::Rtcp => {
                self.rtcp += 1;
                self.first_media.get_or_insert(now);
            }
            Class::Unknown => self.unknown += 1,
        }
    }

    /// Whether any RTP or RTCP came before `instant`; `None` stands for "not yet".
    pub fn media_before(&self, instant: Option<Instant>) -> bool {
        match (self.first_media, instant) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(first), Some(instant)) => first < instant,
        }
    }

    fn stun(&mut self, datagram: &[u8]) {
        if datagram.len() < 20 || datagram[..2] != BINDING_REQUEST {
            return;
        }
        self.checks += 1;
        let mut rest = &datagram[20..];
        while let Some((head, body)) = rest.split_at_checked(4) {
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            match u16::from_be_bytes([head[0], head[1]]) {
                USE_CANDIDATE => self.nominations += 1,
                ICE_CONTROLLED => self.controlled += 1,
                ICE_CONTROLLING => self.controlling += 1,
                _ => {}
            }
            rest = body.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        }
    }

    fn dtls(&mut self, datagram: &[u8]) {
        const HANDSHAKE: u8 = 22;
        self.dtls += 1;
        // Record header of 13 bytes, then the handshake's type; epoch 0, since later ones are encrypted.
        if let [HANDSHAKE, _, _, 0, 0, ..] = datagram {
            match datagram.get(13) {
                Some(1) => self.client_hellos += 1,
                Some(2) => self.server_hellos += 1,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut out = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        out.extend([7; 12]);
        for (kind, value) in attributes {
            out.extend(kind.to_be_bytes());
            out.extend((value.len() as u16).to_be_bytes());
            out.extend(*value);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }

    #[test]
    fn roles_and_nominations_are_read_from_checks() {
        let mut wire = Counters::default();
        wire.incoming(Instant::ZERO, &check(&[(6, b"abcde"), (ICE_CONTROLLING, &[1; 8])]));
        wire.incoming(Instant::ZERO, &check(&[(ICE_CONTROLLING, &[1; 8]), (USE_CANDIDATE, b"")]));
        wire.incoming(Instant::ZERO, &check(&[(ICE_CONTROLLED, &[1; 8])]));
        assert_eq!((wire.checks, wire.controlling, wire.controlled, wire.nominations), (3, 2, 1, 1));
    }

    #[test]
    fn hellos_tell_who_opened_dtls() {
        let mut wire = Counters::default();
        let mut hello = vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 50, 1];
        wire.incoming(Instant::ZERO, &hello);
        hello[13] = 2;
        wire.incoming(Instant::ZERO, &hello);
        // Encrypted (epoch 1): its first byte means nothing.
        hello[4] = 1;
        wire.incoming(Instant::ZERO, &hello);
        assert_eq!((wire.client_hellos, wire.server_hellos, wire.dtls), (1, 1, 3));
    }

    #[test]
    fn early_media_is_anything_before_the_instant_rtcp_included() {
        let mut wire = Counters::default();
        assert!(!wire.media_before(None));
        wire.incoming(Instant::from_millis(5), &[0x80, 201, 0, 1]);
        assert!(wire.media_before(None));
        assert!(wire.media_before(Some(Instant::from_millis(6))));
        assert!(!wire.media_before(Some(Instant::from_millis(5))));
        wire.incoming(Instant::from_millis(9), &[0x80, 111, 0, 1]);
        assert_eq!((wire.first_rtp, wire.rtp, wire.rtcp), (Some(Instant::from_millis(9)), 1, 1));
    }

    #[test]
    fn a_second_source_is_counted() {
        let mut wire = Counters::default();
        for last in [7, 7, 8] {
            wire.incoming(Instant::ZERO, &[0x80, 111, 0, 1, 0, 0, 0, 0, 1, 2, 3, last, 0xff]);
        }
        assert_eq!((wire.ssrc, wire.other_ssrc), (Some(0x0102_0307), 1));
    }

    #[test]
    fn no_datagram_panics() {
        let mut wire = Counters::default();
        for first in 0..=255u8 {
            for length in 0..30 {
                wire.incoming(Instant::ZERO, &vec![first; length]);
            }
        }
        wire.incoming(Instant::ZERO, &check(&[(6, &[0xff; 3])])[..25]);
        assert!(wire.unknown > 0);
    }
}
