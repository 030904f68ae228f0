//! HEP3, the protocol by which Homer collects messages (HEP/EEP draft, revision 3): one datagram per message.
//!
//! ```text
//! "HEP3" | length u16 | chunk*        chunk: vendor u16 = 0 | type u16 | length u16 with these six | value
//! ```
//!
//! Why our own writer: the packet is a dozen chunks of fixed shape, and the crates that exist bring a capture stack along.

use std::net::{IpAddr, SocketAddr};

/// One message on its way between two places.
#[derive(Clone, Copy, Debug)]
pub struct Capture<'a> {
    /// Where it came from.
    pub source: SocketAddr,
    /// Where it went.
    pub destination: SocketAddr,
    /// Whether it travelled in a datagram; otherwise on a stream.
    pub datagram: bool,
    /// Unix time in microseconds.
    pub unix_micros: u64,
    /// What holds a call's messages together.
    pub correlation: &'a str,
    /// The message.
    pub payload: &'a [u8],
}

/// Longest packet: what one datagram can carry (RFC 768, less the headers of IPv6).
const PACKET_BYTES_MAX: usize = 65_487;

/// Longest correlation id that is written.
const CORRELATION_BYTES_MAX: usize = 256;

const FAMILY: u16 = 1;
const PROTOCOL: u16 = 2;
const SOURCE_V4: u16 = 3;
const DESTINATION_V4: u16 = 4;
const SOURCE_V6: u16 = 5;
const DESTINATION_V6: u16 = 6;
const SOURCE_PORT: u16 = 7;
const DESTINATION_PORT: u16 = 8;
const SECONDS: u16 = 9;
const MICROSECONDS: u16 = 10;
const PROTOCOL_TYPE: u16 = 11;
const NODE: u16 = 12;
const KEY: u16 = 14;
const PAYLOAD: u16 = 15;
const CORRELATION: u16 = 17;

/// `AF_INET` and `AF_INET6` of Linux, as collectors expect them.
const AF: (u8, u8) = (2, 10);

/// Payload type SIP.
const SIP: u8 = 1;

/// One packet. `node` tells the collector who we are, `key` that we may. A payload that is too long is cut at its end.
pub fn packet(node: u32, key: &str, capture: &Capture<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + capture.payload.len());
    out.extend_from_slice(b"HEP3\0\0");
    let (source, destination) = (capture.source.ip().to_canonical(), capture.destination.ip().to_canonical());
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            chunk(&mut out, FAMILY, &[AF.0]);
            chunk(&mut out, SOURCE_V4, &source.octets());
            chunk(&mut out, DESTINATION_V4, &destination.octets());
        }
        (source, destination) => {
            chunk(&mut out, FAMILY, &[AF.1]);
            chunk(&mut out, SOURCE_V6, &v6(source));
            chunk(&mut out, DESTINATION_V6, &v6(destination));
        }
    }
    chunk(&mut out, PROTOCOL, &[if capture.datagram { 17 } else { 6 }]);
    chunk(&mut out, SOURCE_PORT, &capture.source.port().to_be_bytes());
    chunk(&mut out, DESTINATION_PORT, &capture.destination.port().to_be_bytes());
    // Seconds are 32 bits wide in the format: the last fit until 2106.
    chunk(&mut out, SECONDS, &((capture.unix_micros / 1_000_000) as u32).to_be_bytes());
    chunk(&mut out, MICROSECONDS, &((capture.unix_micros % 1_000_000) as u32).to_be_bytes());
    chunk(&mut out, PROTOCOL_TYPE, &[SIP]);
    chunk(&mut out, NODE, &node.to_be_bytes());
    if !key.is_empty() {
        chunk(&mut out, KEY, &key.as_bytes()[..key.len().min(CORRELATION_BYTES_MAX)]);
    }
    let correlation = capture.correlation.as_bytes();
    chunk(&mut out, CORRELATION, &correlation[..correlation.len().min(CORRELATION_BYTES_MAX)]);
    let room = PACKET_BYTES_MAX - out.len() - 6;
    chunk(&mut out, PAYLOAD, &capture.payload[..capture.payload.len().min(room)]);
    // At most `PACKET_BYTES_MAX`, which fits.
    let length = (out.len() as u16).to_be_bytes();
    out[4..6].copy_from_slice(&length);
    out
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn chunk(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&((value.len() + 6) as u16).to_be_bytes());
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(payload: &[u8]) -> Capture<'_> {
        Capture {
            source: SocketAddr::from(([192, 0, 2, 1], 5_060)),
            destination: SocketAddr::from(([198, 51, 100, 7], 5_061)),
            datagram: true,
            unix_micros: 1_234_567_890_123_456,
            correlation: "c1",
            payload,
        }
    }

    #[test]
    fn a_packet_is_written_byte_by_byte_as_the_format_says() {
        let expected = [
            b"HEP3".as_slice(),
            &[0, 125],
            &[0, 0, 0, 1, 0, 7, 2],
            &[0, 0, 0, 3, 0, 10, 192, 0, 2, 1],
            &[0, 0, 0, 4, 0, 10, 198, 51, 100, 7],
            &[0, 0, 0, 2, 0, 7, 17],
            &[0, 0, 0, 7, 0, 8, 0x13, 0xc4],
            &[0, 0, 0, 8, 0, 8, 0x13, 0xc5],
            &[0, 0, 0, 9, 0, 10, 0x49, 0x96, 0x02, 0xd2],
            &[0, 0, 0, 10, 0, 10, 0x00, 0x01, 0xe2, 0x40],
            &[0, 0, 0, 11, 0, 7, 1],
            &[0, 0, 0, 12, 0, 10, 0, 0, 7, 0xd1],
            &[0, 0, 0, 14, 0, 12],
            b"secret",
            &[0, 0, 0, 17, 0, 8],
            b"c1",
            &[0, 0, 0, 15, 0, 12],
            b"BYE s:",
        ]
        .concat();
        let packet = packet(2_001, "secret", &capture(b"BYE s:"));
        assert_eq!(packet.len(), 125);
        assert_eq!(packet, expected);
    }

    #[test]
    fn mixed_families_are_written_as_version_6_and_no_key_leaves_no_chunk() {
        let mixed = Capture { source: "[2001:db8::1]:5060".parse().unwrap(), datagram: false, ..capture(b"x") };
        let packet = packet(1, "", &mixed);
        assert_eq!(packet[6..13], [0, 0, 0, 1, 0, 7, 10]);
        assert_eq!(packet[13..19], [0, 0, 0, 5, 0, 22]);
        let mapped: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 7];
        assert_eq!(packet[41..57], mapped);
        assert_eq!(packet[57..64], [0, 0, 0, 2, 0, 7, 6]);
        assert!(!packet.windows(6).any(|bytes| bytes[..4] == [0, 0, 0, 14] && bytes[4] == 0));
    }

    #[test]
    fn a_message_that_is_too_long_for_a_datagram_is_cut() {
        let long = vec![b'x'; 100_000];
        let packet = packet(1, &"k".repeat(1_000), &capture(&long));
        assert_eq!(packet.len(), PACKET_BYTES_MAX);
        assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])), packet.len());
    }
}
