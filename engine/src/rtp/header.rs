//! The RTP header (RFC 3550 §5.1).
//!
//! ```text
//!  0 1 2 3 4 5 6 7 8 9 ...                                       31
//! |V=2|P|X|  CC   |M|     PT      |       sequence number         |
//! |                           timestamp                           |
//! |                             SSRC                              |
//! |                   CSRC list, CC words                         |
//! |  extension: profile 16, length in words 16, then that many    |   only with X
//! |  payload ...          | padding, the last byte is its length  |   only with P
//! ```
//!
//! Why so little: CSRCs and header extensions are skipped, not read. Nothing in a bridge of two legs needs them, and what we send
//! never carries them, so a header of ours is always 12 bytes and its payload can be written in place before it.

use crate::error::DropReason;
use crate::time::RtpTimestamp;

/// Bytes of a header without CSRCs and extension.
pub const HEADER_BYTES: usize = 12;

/// Payload type of comfort noise at 8 kHz, which has no other (RFC 3389 §5, RFC 3551 table 4).
pub const COMFORT_NOISE_PAYLOAD_TYPE: u8 = 13;

/// One packet, checked: CSRC list, extension and padding lie inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtpPacket<'p> {
    /// M
    pub marker: bool,
    /// PT
    pub payload_type: u8,
    /// Sequence number.
    pub sequence: u16,
    /// Timestamp.
    pub timestamp: RtpTimestamp,
    /// SSRC
    pub ssrc: u32,
    /// Without padding.
    pub payload: &'p [u8],
}

/// Reads a packet (already decrypted).
pub fn parse(packet: &[u8]) -> Result<RtpPacket<'_>, DropReason> {
    let Some((header, rest)) = packet.split_first_chunk::<HEADER_BYTES>() else {
        return Err(DropReason::RtpMalformed);
    };
    if header[0] >> 6 != 2 {
        return Err(DropReason::RtpMalformed);
    }
    let mut payload = rest.get(usize::from(header[0] & 0x0f) * 4..).ok_or(DropReason::RtpMalformed)?;
    if header[0] & 0x10 != 0 {
        let words = match *payload {
            [_, _, high, low, ..] => usize::from(u16::from_be_bytes([high, low])),
            _ => return Err(DropReason::RtpMalformed),
        };
        payload = payload.get(4 + words * 4..).ok_or(DropReason::RtpMalformed)?;
    }
    if header[0] & 0x20 != 0 {
        // The count includes itself, so zero is as wrong as too much.
        let padding = usize::from(*payload.last().ok_or(DropReason::RtpMalformed)?);
        if padding == 0 || padding > payload.len() {
            return Err(DropReason::RtpMalformed);
        }
        payload = &payload[..payload.len() - padding];
    }
    Ok(RtpPacket {
        marker: header[1] & 0x80 != 0,
        payload_type: header[1] & 0x7f,
        sequence: u16::from_be_bytes([header[2], header[3]]),
        timestamp: RtpTimestamp(u32::from_be_bytes([header[4], header[5], header[6], header[7]])),
        ssrc: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
        payload,
    })
}

/// Writes the 12 bytes of a header without CSRCs, extension and padding.
///
/// # Panics
/// When `out` is shorter than `HEADER_BYTES`.
pub fn write(marker: bool, payload_type: u8, sequence: u16, timestamp: RtpTimestamp, ssrc: u32, out: &mut [u8]) {
    let header = out.first_chunk_mut::<HEADER_BYTES>().expect("a packet buffer holds a header");
    header[0] = 2 << 6;
    header[1] = u8::from(marker) << 7 | payload_type & 0x7f;
    header[2..4].copy_from_slice(&sequence.to_be_bytes());
    header[4..8].copy_from_slice(&timestamp.0.to_be_bytes());
    header[8..12].copy_from_slice(&ssrc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn csrcs_extension_and_padding_are_skipped() {
        let mut packet = vec![0xb2, 0x80 | 111, 0x12, 0x34, 0, 0, 0, 9, 0xde, 0xad, 0xbe, 0xef];
        packet.extend([1; 8]); // two CSRCs
        packet.extend([0xbe, 0xde, 0, 2, 9, 9, 9, 9, 9, 9, 9, 9]); // an RFC 8285 extension of two words
        packet.extend(b"payload");
        packet.extend([0, 0, 3]);
        assert_eq!(
            parse(&packet),
            Ok(RtpPacket {
                marker: true,
                payload_type: 111,
                sequence: 0x1234,
                timestamp: RtpTimestamp(9),
                ssrc: 0xdead_beef,
                payload: b"payload",
            })
        );
    }

    #[test]
    fn every_structure_that_does_not_fit_is_malformed() {
        let packet = |first: u8, rest: &[u8]| {
            let mut packet = vec![first, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            packet.extend(rest);
            packet
        };
        for (what, bytes) in [
            ("empty", vec![]),
            ("eleven bytes", vec![0x80; 11]),
            ("version 1", packet(0x40, &[])),
            ("version 3", packet(0xc0, &[])),
            ("CSRC beyond the end", packet(0x81, &[0; 3])),
            ("no room for the extension's header", packet(0x90, &[0, 0, 0])),
            ("extension beyond the end", packet(0x90, &[0, 0, 0, 1, 0, 0, 0])),
            ("extension of the greatest length", packet(0x90, &[0, 0, 0xff, 0xff])),
            ("padding without a byte", packet(0xa0, &[])),
            ("padding of zero", packet(0xa0, &[7, 0])),
            ("padding longer than the payload", packet(0xa0, &[7, 3])),
            ("padding that reaches into the CSRCs", packet(0xa1, &[0, 0, 0, 0, 5])),
        ] {
            assert_eq!(parse(&bytes), Err(DropReason::RtpMalformed), "{what}");
        }
    }

    #[test]
    fn a_payload_of_padding_only_is_empty() {
        let packet = [0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4];
        assert_eq!(parse(&packet).unwrap().payload, b"");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            marker: bool, payload_type in 0u8..128, sequence: u16, timestamp: u32, ssrc: u32, payload: [u8; 5],
        ) {
            let mut packet = [0; HEADER_BYTES + 5];
            packet[HEADER_BYTES..].copy_from_slice(&payload);
            write(marker, payload_type, sequence, RtpTimestamp(timestamp), ssrc, &mut packet);
            let timestamp = RtpTimestamp(timestamp);
            let payload = &payload[..];
            prop_assert_eq!(
                parse(&packet), Ok(RtpPacket { marker, payload_type, sequence, timestamp, ssrc, payload })
            );
        }

        #[test]
        fn no_bytes_panic_and_the_payload_lies_inside(packet in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(read) = parse(&packet) {
                prop_assert!(read.payload.len() + HEADER_BYTES <= packet.len());
            }
        }
    }
}
