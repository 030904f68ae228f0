//! The little of a DTLS record that must be looked at before a library sees it (RFC 6347 §4.1, RFC 9147 §4).
//!
//! Why: a library that has not settled on a version yet gives up, or fills a small table, on datagrams that are only
//! early or stray. What cannot be the peer's first words is kept from it.

/// Type, version, epoch, sequence number, length.
const RECORD_HEADER_BYTES: usize = 13;

/// Type, length, message_seq, fragment_offset, fragment_length.
const HANDSHAKE_HEADER_BYTES: usize = 12;

pub(super) const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// Whether the datagram may begin with a DTLS record: a known type, a DTLS version and a length that fits, or the unified
/// header of DTLS 1.3 (RFC 9147 §4).
pub(super) fn is_plausible(datagram: &[u8]) -> bool {
    match datagram {
        [20..=26, ..] => body(datagram).is_some(),
        // 001CSLEE, then at least two bytes, and a tag that no record is without.
        [32..=63, rest @ ..] => rest.len() >= 16 + 2,
        _ => false,
    }
}

/// The first record's content, if it is in the clear (epoch 0).
fn clear_body(datagram: &[u8], content_type: u8) -> Option<&[u8]> {
    let body = body(datagram)?;
    (datagram[0] == content_type && datagram[3..5] == [0, 0]).then_some(body)
}

fn body(datagram: &[u8]) -> Option<&[u8]> {
    let (header, rest) = datagram.split_first_chunk::<RECORD_HEADER_BYTES>()?;
    // 1.0 in the first hello of some, 1.2 in all others, 1.3 included.
    if header[1] != 0xfe || !matches!(header[2], 0xff | 0xfd) {
        return None;
    }
    rest.get(..usize::from(u16::from_be_bytes([header[11], header[12]])))
}

/// A fatal alert in the clear: its description (RFC 5246 §7.2).
pub(super) fn fatal_alert(datagram: &[u8]) -> Option<u8> {
    match clear_body(datagram, ALERT)? {
        [2, description] => Some(*description),
        _ => None,
    }
}

/// An alert of DTLS 1.2 under the first keys of an association.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SealedAlert<'d> {
    /// Epoch and sequence number.
    pub number: &'d [u8; 8],
    /// Explicit nonce, if the suite has one, ciphertext and tag.
    pub body: &'d [u8],
}

/// The alert in the first record, if it is sealed under epoch 1: there is no renegotiation.
pub(super) fn sealed_alert(datagram: &[u8]) -> Option<SealedAlert<'_>> {
    let body = body(datagram)?;
    let number = datagram.get(3..11)?.first_chunk()?;
    (datagram[0] == ALERT && number[..2] == [0, 1]).then_some(SealedAlert { number, body })
}

/// A handshake message's fragment at the beginning of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment<'d> {
    /// HandshakeType.
    pub kind: u8,
    /// Whether it is the whole message.
    pub whole: bool,
    /// Handshake header and fragment: the same bytes when it is sent again.
    pub bytes: &'d [u8],
}

/// HandshakeType client_hello.
pub(super) const CLIENT_HELLO: u8 = 1;
/// HandshakeType server_hello.
const SERVER_HELLO: u8 = 2;
/// HandshakeType hello_verify_request (RFC 6347 §4.3.2).
const HELLO_VERIFY_REQUEST: u8 = 3;

impl Fragment<'_> {
    /// Whether it tells a client the server's version: a whole ServerHello (a HelloRetryRequest is one, RFC 8446 §4.1.4)
    /// or HelloVerifyRequest, which only 1.2 has.
    pub(super) fn decides_version(&self) -> bool {
        self.whole && matches!(self.kind, SERVER_HELLO | HELLO_VERIFY_REQUEST)
    }
}

/// The handshake fragment in the clear with which the datagram begins.
pub(super) fn first_fragment(datagram: &[u8]) -> Option<Fragment<'_>> {
    let body = clear_body(datagram, HANDSHAKE)?;
    let header = body.first_chunk::<HANDSHAKE_HEADER_BYTES>()?;
    let number =
        |at: usize| usize::from(header[at]) << 16 | usize::from(header[at + 1]) << 8 | usize::from(header[at + 2]);
    let (length, offset, fragment_length) = (number(1), number(6), number(9));
    if offset + fragment_length > length {
        return None;
    }
    let bytes = body.get(..HANDSHAKE_HEADER_BYTES + fragment_length)?;
    Some(Fragment { kind: header[0], whole: fragment_length == length, bytes })
}

/// What a ClientHello offers, as far as its first fragment goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientHello<'d> {
    /// Two bytes each.
    pub suites: &'d [u8],
    /// Type, length and content of each; `None` where they may go on in another fragment.
    extensions: Option<&'d [u8]>,
}

impl ClientHello<'_> {
    /// Whether the client has a suite.
    pub(super) fn offers(&self, suite: u16) -> bool {
        self.suites.chunks_exact(2).any(|offered| offered == suite.to_be_bytes())
    }

    /// Whether it certainly lacks an extension.
    pub(super) fn lacks(&self, extension: u16) -> bool {
        let Some(mut rest) = self.extensions else { return false };
        while let Some((header, after)) = rest.split_first_chunk::<4>() {
            if header[..2] == extension.to_be_bytes() {
                return false;
            }
            rest = after.get(usize::from(u16::from_be_bytes([header[2], header[3]]))..).unwrap_or_default();
        }
        true
    }
}

/// The ClientHello (RFC 6347 §4.2.1) whose beginning stands at the beginning of the datagram.
pub(super) fn client_hello(datagram: &[u8]) -> Option<ClientHello<'_>> {
    let fragment = first_fragment(datagram).filter(|fragment| fragment.kind == CLIENT_HELLO)?;
    let (header, body) = fragment.bytes.split_first_chunk::<HANDSHAKE_HEADER_BYTES>()?;
    if header[6..9] != [0; 3] {
        return None;
    }
    // Version and random, then session id, cookie, suites and compression methods, each behind its length.
    let (_, rest) = skip(body.get(2 + 32..)?, 1)?;
    let (_, rest) = skip(rest, 1)?;
    let (suites, rest) = skip(rest, 2)?;
    let extensions =
        skip(rest, 1).filter(|_| fragment.whole).map(|(_, rest)| skip(rest, 2).map_or(&rest[..0], |(all, _)| all));
    Some(ClientHello { suites, extensions })
}

/// What stands behind a length of one or two bytes, and the rest.
fn skip(bytes: &[u8], length_bytes: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(length_bytes)?;
    rest.split_at_checked(length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
}

/// The registered name of an alert (RFC 8446 §6, RFC 5246 §7.2).
pub(super) fn alert_name(description: u8) -> &'static str {
    match description {
        10 => "unexpected_message",
        20 => "bad_record_mac",
        22 => "record_overflow",
        40 => "handshake_failure",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        109 => "missing_extension",
        110 => "unsupported_extension",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => "unregistered",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(content_type: u8, epoch: u8, body: &[u8]) -> Vec<u8> {
        let mut datagram = vec![content_type, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, 0, 0, body.len() as u8];
        datagram.extend(body);
        datagram
    }

    #[test]
    fn a_fatal_alert_is_told_from_a_warning_and_from_ciphertext() {
        assert_eq!(fatal_alert(&record(ALERT, 0, &[2, 40])), Some(40));
        assert_eq!(fatal_alert(&record(ALERT, 0, &[1, 0])), None);
        assert_eq!(fatal_alert(&record(ALERT, 1, &[2, 40])), None);
        assert_eq!(fatal_alert(&record(HANDSHAKE, 0, &[2, 40])), None);
        assert_eq!(alert_name(40), "handshake_failure");
    }

    #[test]
    fn a_fragment_must_lie_inside_its_message_and_its_record() {
        let message = |offset: u8, length: u8, present: usize| {
            let mut body = vec![CLIENT_HELLO, 0, 0, 50, 0, 0, 0, 0, offset, 0, 0, length];
            body.resize(12 + present, 7);
            record(HANDSHAKE, 0, &body)
        };
        assert!(first_fragment(&message(0, 50, 50)).unwrap().whole);
        assert!(!first_fragment(&message(20, 30, 30)).unwrap().whole);
        assert_eq!(first_fragment(&message(20, 31, 31)), None);
        assert_eq!(first_fragment(&message(0, 50, 49)), None);
    }

    #[test]
    fn a_client_hello_tells_its_suites_and_what_it_lacks() {
        let mut hello = vec![0xfe, 0xfd];
        hello.extend([5; 32]);
        hello.extend([0, 0]); // no session, no cookie
        hello.extend([0, 4, 0xc0, 0x2b, 0, 0x2f, 1, 0]);
        let bare = hello.clone();
        hello.extend([0, 9, 0, 14, 0, 1, 9, 0, 23, 0, 0]);
        let message = |body: &[u8], length: usize, offset: u8| {
            let mut message = vec![CLIENT_HELLO, 0, 0, length as u8, 0, 0, 0, 0, offset, 0, 0, body.len() as u8];
            message.extend(body);
            record(HANDSHAKE, 0, &message)
        };
        let datagram = message(&hello, hello.len(), 0);
        let whole = client_hello(&datagram).unwrap();
        assert!(whole.offers(0xc02b) && whole.offers(0x002f) && !whole.offers(0x2b00));
        assert!(!whole.lacks(23) && !whole.lacks(14) && whole.lacks(13));
        let datagram = message(&bare, bare.len(), 0);
        assert!(client_hello(&datagram).unwrap().lacks(23), "a hello may end before the extensions");
        let datagram = message(&bare, hello.len(), 0);
        assert!(!client_hello(&datagram).unwrap().lacks(23), "they may come with the next fragment");
        assert_eq!(client_hello(&message(&hello[2..], hello.len(), 2)), None);
        for len in 0..bare.len() - 2 {
            assert_eq!(client_hello(&message(&bare[..len], len, 0)), None, "{len}");
        }
    }

    #[test]
    fn cut_and_foreign_datagrams_are_implausible() {
        let whole = record(HANDSHAKE, 0, &[1; 40]);
        for length in 0..whole.len() {
            assert!(!is_plausible(&whole[..length]));
        }
        assert!(is_plausible(&whole));
        let mut tls = whole.clone();
        tls[1] = 3;
        assert!(!is_plausible(&tls));
        assert!(!is_plausible(&[64; 60]) && !is_plausible(&[0x80; 60]) && !is_plausible(&[0x2f; 18]));
        assert!(is_plausible(&[0x2f; 19]));
    }
}
