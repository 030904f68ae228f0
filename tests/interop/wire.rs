//! What was on the wire: tcpdump's file, read as far as UDP datagrams need it.

use super::Program;
use std::path::Path;
use std::process::Command;

/// The protocol of a datagram (RFC 7983 §7, RFC 5761 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// 0..=3
    Stun,
    /// 20..=63
    Dtls,
    /// 128..=191
    Rtp,
    /// 128..=191, second byte 192..=223
    Rtcp,
    /// Anything else.
    Other,
}

/// One UDP datagram over IPv4.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Unix time, seconds.
    pub at: f64,
    /// Source port.
    pub from_port: u16,
    /// Destination port.
    pub to_port: u16,
    /// Payload, as far as it was captured.
    pub payload: Vec<u8>,
}

impl Packet {
    /// Its protocol.
    pub fn class(&self) -> Class {
        match self.payload[..] {
            [0..=3, ..] => Class::Stun,
            [20..=63, ..] => Class::Dtls,
            [128..=191, 192..=223, ..] => Class::Rtcp,
            [128..=191, _, ..] => Class::Rtp,
            _ => Class::Other,
        }
    }

    /// RTP sequence number.
    pub fn sequence(&self) -> u16 {
        u16::from_be_bytes([self.payload[2], self.payload[3]])
    }

    /// RTP timestamp.
    pub fn timestamp(&self) -> u32 {
        self.word(4)
    }

    /// RTP SSRC.
    pub fn ssrc(&self) -> u32 {
        self.word(8)
    }

    /// Whether a STUN message holds an attribute of this type.
    pub fn has_stun_attribute(&self, kind: u16) -> bool {
        let mut rest = self.payload.get(20..).unwrap_or(&[]);
        while let [k0, k1, l0, l1, tail @ ..] = rest {
            if u16::from_be_bytes([*k0, *k1]) == kind {
                return true;
            }
            let length = usize::from(u16::from_be_bytes([*l0, *l1])).next_multiple_of(4);
            rest = tail.get(length..).unwrap_or(&[]);
        }
        false
    }

    /// The piece of a ClientHello that it carries: offset and length (RFC 6347 §4.2.3). `None` for all else.
    pub fn client_hello(&self) -> Option<(usize, usize)> {
        // A plaintext handshake record of epoch 0, and in it a message of type 1.
        let [22, _, _, 0, 0, _, _, _, _, _, _, _, _, 1, _, _, _, _, _, o0, o1, o2, l0, l1, l2, ..] = self.payload[..]
        else {
            return None;
        };
        let number = |bytes: [u8; 3]| bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        Some((number([o0, o1, o2]), number([l0, l1, l2])))
    }

    /// Whether it is a STUN request (RFC 8489 §5).
    pub fn is_stun_request(&self) -> bool {
        self.class() == Class::Stun && self.payload[..2] == [0, 1]
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }
}

/// Records all UDP of the loopback interface into `<folder>/wire.pcap`, 200 bytes of each packet, until it is stopped.
pub async fn capture(folder: &Path) -> Program {
    let mut command = Command::new("tcpdump");
    command.args(["-i", "lo", "-U", "-s", "200", "-Z", "root", "-w"]).arg(folder.join("wire.pcap")).arg("udp");
    let mut program = Program::start(folder, "tcpdump", &mut command);
    program.wait_for("listening on lo", 10).await;
    program
}

/// Reads a capture of an Ethernet-like interface (`-i lo`), microseconds, this machine's byte order.
///
/// # Panics
/// When it is another kind of file.
pub fn read(path: &Path) -> Vec<Packet> {
    let bytes = std::fs::read(path).expect("the capture");
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    assert_eq!(word(0), 0xa1b2_c3d4, "not a pcap file of this byte order");
    assert_eq!(word(20), 1, "not Ethernet");
    let mut packets = Vec::new();
    let mut at = 24;
    while at + 16 <= bytes.len() {
        let length = word(at + 8) as usize;
        let time = f64::from(word(at)) + f64::from(word(at + 4)) / 1e6;
        if at + 16 + length > bytes.len() {
            break; // the last packet was being written
        }
        packets.extend(datagram(time, &bytes[at + 16..at + 16 + length]));
        at += 16 + length;
    }
    packets
}

fn datagram(at: f64, frame: &[u8]) -> Option<Packet> {
    let ip = frame.get(14..)?;
    if frame[12..14] != [8, 0] || ip.get(9) != Some(&17) {
        return None;
    }
    let udp = ip.get(usize::from(ip[0] & 0x0f) * 4..)?;
    let port = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    (udp.len() >= 8).then(|| Packet { at, from_port: port(0), to_port: port(2), payload: udp[8..].to_vec() })
}
