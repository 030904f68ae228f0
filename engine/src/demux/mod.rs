//! Which protocol a datagram speaks (RFC 7983 §7).

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
