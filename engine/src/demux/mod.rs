//! Which protocol a datagram speaks (RFC 7983 §7).
//!
//! ```text
//!   0..=3   STUN                20..=63   DTLS
//! 128..=191 RTP, or RTCP when the second byte is 192..=223 (RFC 5761 §4)
//! ```
//!
//! The rest is dropped: ZRTP (16..=19), TURN channels (64..=79) and QUIC (192..=255) are not spoken here.
//!
//! Why there is no routing table from socket, source and ufrag to a leg: every leg has its own socket, so the socket is
//! the leg. Meta's relays use a handful of fixed ports on shared addresses; on a shared socket two calls could have the
//! same five-tuple.

/// The protocol of a datagram, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// 0..=3
    Stun,
    /// 20..=63
    Dtls,
    /// 128..=191, second byte outside 192..=223 (RFC 5761 §4)
    Rtp,
    /// 128..=191, second byte 192..=223
    Rtcp,
    /// Anything else, and the empty datagram.
    Unknown,
}

/// Looks at the first two bytes only.
pub fn classify(datagram: &[u8]) -> Class {
    match datagram {
        [0..=3, ..] => Class::Stun,
        [20..=63, ..] => Class::Dtls,
        [128..=191, 192..=223, ..] => Class::Rtcp,
        [128..=191, _, ..] => Class::Rtp,
        _ => Class::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7983 §7, figure 3, for every first byte.
    #[test]
    fn the_first_byte_decides() {
        for first in 0..=u8::MAX {
            let expected = match first {
                0..=3 => Class::Stun,
                4..=19 => Class::Unknown,
                20..=63 => Class::Dtls,
                64..=127 => Class::Unknown,
                128..=191 => Class::Rtp,
                192..=255 => Class::Unknown,
            };
            assert_eq!(classify(&[first, 0, 0, 0]), expected, "{first}");
        }
    }

    #[test]
    fn the_second_byte_tells_rtcp_from_rtp() {
        for second in 0..=u8::MAX {
            for first in [128, 129, 160, 191] {
                let expected = if (192..=223).contains(&second) { Class::Rtcp } else { Class::Rtp };
                assert_eq!(classify(&[first, second]), expected, "{first} {second}");
            }
            // No other protocol looks at it.
            assert_eq!(classify(&[0, second]), Class::Stun);
            assert_eq!(classify(&[22, second]), Class::Dtls);
        }
    }

    #[test]
    fn sender_and_receiver_reports_are_rtcp_and_payload_types_with_marker_are_not() {
        for packet_type in 200..=207 {
            assert_eq!(classify(&[0x80, packet_type]), Class::Rtcp);
        }
        // The marker bit is the top bit of the second byte: payload types 64..=95 would collide and are never used.
        for payload_type in (0..64).chain(96..128) {
            assert_eq!(classify(&[0x80, payload_type | 0x80]), Class::Rtp, "{payload_type}");
        }
    }

    #[test]
    fn empty_and_single_byte_datagrams_are_classified_without_a_second_byte() {
        assert_eq!(classify(&[]), Class::Unknown);
        assert_eq!(classify(&[0]), Class::Stun);
        assert_eq!(classify(&[20]), Class::Dtls);
        // Too short to be told apart, and for either protocol.
        assert_eq!(classify(&[128]), Class::Unknown);
    }
}
