//! STUN Binding messages, read and written in place (RFC 8489; the ICE attributes of RFC 8445 §16.1).
//!
//! [`Message::parse`] walks a datagram once and remembers where things are; [`Writer`] fills a caller's buffer. Neither
//! allocates, and both take HMAC keys that were prepared once ([`IntegrityKey`]), since the key schedule is half the cost
//! of a short HMAC.
//!
//! Reading is strict where the RFC is: bad lengths, a wrong cookie, an attribute that leaves the message or FINGERPRINT
//! anywhere but at the end make a message malformed. What follows MESSAGE-INTEGRITY is ignored except FINGERPRINT
//! (§14.5); of a repeated attribute the first counts (§14).
//!
//! **Why** not `stun_codec`: a request costs it 4.5 us and 25 allocations, and consent checks run all through a call. It
//! is the oracle of this file's tests.

use hmac::{Hmac, Mac};
use sha1::Sha1;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of the fixed header (RFC 8489 §5).
pub(super) const HEADER_BYTES: usize = 20;

/// Longest message this module writes: a check with the longest USERNAME needs 612 bytes.
pub(super) const STUN_BYTES_MAX: usize = 640;

/// Longest USERNAME (RFC 8489 §14.3 says fewer than 509 bytes, RFC 5389 §15.3 fewer than 513).
pub(super) const USERNAME_BYTES_MAX: usize = 512;

/// Unknown comprehension-required attributes that a 420 lists; further ones are left out.
pub(super) const UNKNOWN_ATTRIBUTES_MAX: usize = 4;

const _: () = assert!(HEADER_BYTES + 4 + USERNAME_BYTES_MAX + 8 + 12 + 4 + 24 + 8 <= STUN_BYTES_MAX);

const MAGIC_COOKIE: u32 = 0x2112_A442;
const FINGERPRINT_XOR: u32 = 0x5354_554E;

const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLED: u16 = 0x8029;
const ICE_CONTROLLING: u16 = 0x802A;

/// Comprehension-required attributes that mean nothing in a Binding exchange under short-term credentials but are known:
/// MAPPED-ADDRESS, REALM, NONCE, MESSAGE-INTEGRITY-SHA256, PASSWORD-ALGORITHM, USERHASH.
const IGNORED: [u16; 6] = [0x0001, 0x0014, 0x0015, 0x001C, 0x001D, 0x001E];

/// 96 random bits that join a response to its request (RFC 8489 §5).
pub(super) type TransactionId = [u8; 12];

/// Class of a message (RFC 8489 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Request,
    Indication,
    Success,
    Error,
}

/// The role attribute of a check (RFC 8445 §7.1.3) with the sender's tie-breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RoleAttribute {
    Controlling(u64),
    Controlled(u64),
}

/// Unknown comprehension-required attributes of a message, the first few.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UnknownTypes {
    types: [u16; UNKNOWN_ATTRIBUTES_MAX],
    count: usize,
}

impl UnknownTypes {
    pub(super) fn as_slice(&self) -> &[u16] {
        &self.types[..self.count]
    }

    pub(super) fn push(&mut self, kind: u16) {
        if self.count < UNKNOWN_ATTRIBUTES_MAX {
            self.types[self.count] = kind;
            self.count += 1;
        }
    }
}

/// Why a datagram is no STUN message that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadError {
    /// Not well formed.
    Malformed,
    /// FINGERPRINT is missing or wrong.
    Fingerprint,
    /// Well formed, but not the Binding method.
    Method,
}

/// An HMAC-SHA1 key with its schedule done: copying it costs two SHA-1 states.
#[derive(Clone)]
pub(super) struct IntegrityKey(Hmac<Sha1>);

impl IntegrityKey {
    /// Short-term credentials use the password itself as key (RFC 8489 §9.1.1).
    pub(super) fn new(pwd: &str) -> IntegrityKey {
        // INVARIANT: HMAC takes keys of any length, so this never fails.
        IntegrityKey(Hmac::new_from_slice(pwd.as_bytes()).expect("HMAC takes keys of any length"))
    }

    /// HMAC of `message`, its length field read as if it ended after MESSAGE-INTEGRITY (RFC 8489 §14.5).
    fn mac(&self, message: &[u8]) -> Hmac<Sha1> {
        let length = (message.len() + 24 - HEADER_BYTES) as u16;
        let mut mac = self.0.clone();
        mac.update(&message[..2]);
        mac.update(&length.to_be_bytes());
        mac.update(&message[4..]);
        mac
    }
}

/// A Binding message in the datagram it came in. Its FINGERPRINT was checked, its integrity not yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'d> {
    bytes: &'d [u8],
    pub(super) class: Class,
    pub(super) id: TransactionId,
    /// Verbatim.
    pub(super) username: Option<&'d [u8]>,
    pub(super) priority: Option<u32>,
    pub(super) use_candidate: bool,
    pub(super) role: Option<RoleAttribute>,
    pub(super) mapped: Option<SocketAddr>,
    /// ERROR-CODE as class * 100 + number.
    pub(super) error: Option<u16>,
    pub(super) unknown: UnknownTypes,
    /// Where MESSAGE-INTEGRITY starts.
    integrity_at: Option<usize>,
}

impl<'d> Message<'d> {
    /// Reads `datagram`, which must be one whole message with a right FINGERPRINT (RFC 8445 §7.1 demands it on checks).
    pub(super) fn parse(datagram: &'d [u8]) -> Result<Message<'d>, ReadError> {
        let (class, method, id) = parse_header(datagram)?;
        let mut message = Message {
            bytes: datagram,
            class,
            id,
            username: None,
            priority: None,
            use_candidate: false,
            role: None,
            mapped: None,
            error: None,
            unknown: UnknownTypes::default(),
            integrity_at: None,
        };
        let mut fingerprint = None;
        let mut at = HEADER_BYTES;
        while at < datagram.len() {
            if fingerprint.is_some() {
                return Err(ReadError::Malformed); // FINGERPRINT is the last attribute (RFC 8489 §14.7)
            }
            let (kind, value, next) = read_attribute(datagram, at)?;
            if kind == FINGERPRINT {
                fingerprint = Some((at, be_u32(value)?));
            } else if message.integrity_at.is_none() {
                message.read_known(kind, value, at)?;
            }
            at = next;
        }
        let (start, written) = fingerprint.ok_or(ReadError::Fingerprint)?;
        if crc32(&datagram[..start]) ^ FINGERPRINT_XOR != written {
            return Err(ReadError::Fingerprint);
        }
        // A wrong method is told apart only now: noise that happens to have the cookie is noise.
        if method != 0x001 {
            return Err(ReadError::Method);
        }
        Ok(message)
    }

    fn read_known(&mut self, kind: u16, value: &'d [u8], at: usize) -> Result<(), ReadError> {
        match kind {
            USERNAME => self.username = self.username.or(Some(value)),
            MESSAGE_INTEGRITY if value.len() == 20 => self.integrity_at = Some(at),
            MESSAGE_INTEGRITY => return Err(ReadError::Malformed),
            PRIORITY => self.priority = self.priority.or(Some(be_u32(value)?)),
            USE_CANDIDATE => self.use_candidate = true,
            ICE_CONTROLLED => self.role = self.role.or(Some(RoleAttribute::Controlled(be_u64(value)?))),
            ICE_CONTROLLING => self.role = self.role.or(Some(RoleAttribute::Controlling(be_u64(value)?))),
            XOR_MAPPED_ADDRESS => self.mapped = self.mapped.or(Some(read_xor_address(value, &self.id)?)),
            ERROR_CODE => self.error = self.error.or(Some(read_error_code(value)?)),
            // Types below 0x8000 must be understood (RFC 8489 §14).
            0..=0x7FFF if kind != UNKNOWN_ATTRIBUTES && !IGNORED.contains(&kind) => self.unknown.push(kind),
            _ => {}
        }
        Ok(())
    }

    /// Whether MESSAGE-INTEGRITY is there at all.
    pub(super) fn has_integrity(&self) -> bool {
        self.integrity_at.is_some()
    }

    /// Whether MESSAGE-INTEGRITY is there and right under `key`; compared in constant time.
    pub(super) fn verify(&self, key: &IntegrityKey) -> bool {
        let Some(at) = self.integrity_at else { return false };
        key.mac(&self.bytes[..at]).verify_slice(&self.bytes[at + 4..at + 24]).is_ok()
    }
}

fn parse_header(datagram: &[u8]) -> Result<(Class, u16, TransactionId), ReadError> {
    if datagram.len() < HEADER_BYTES || !datagram.len().is_multiple_of(4) {
        return Err(ReadError::Malformed);
    }
    let kind = u16::from_be_bytes([datagram[0], datagram[1]]);
    let length = usize::from(u16::from_be_bytes([datagram[2], datagram[3]]));
    let cookie_is_right = datagram[4..8] == MAGIC_COOKIE.to_be_bytes();
    if kind & 0xC000 != 0 || length != datagram.len() - HEADER_BYTES || !cookie_is_right {
        return Err(ReadError::Malformed);
    }
    // The two class bits stand between the method's (RFC 8489 §5, figure 3).
    let class = match kind & 0x0110 {
        0x0000 => Class::Request,
        0x0010 => Class::Indication,
        0x0100 => Class::Success,
        _ => Class::Error,
    };
    let method = (kind & 0x000F) | ((kind & 0x00E0) >> 1) | ((kind & 0x3E00) >> 2);
    let mut id = [0; 12];
    id.copy_from_slice(&datagram[8..20]);
    Ok((class, method, id))
}

/// Type, value and the start of the next attribute.
fn read_attribute(datagram: &[u8], at: usize) -> Result<(u16, &[u8], usize), ReadError> {
    let head = datagram.get(at..at + 4).ok_or(ReadError::Malformed)?;
    let kind = u16::from_be_bytes([head[0], head[1]]);
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let value = datagram.get(at + 4..at + 4 + length).ok_or(ReadError::Malformed)?;
    let next = at + 4 + length.next_multiple_of(4);
    if next > datagram.len() {
        return Err(ReadError::Malformed);
    }
    Ok((kind, value, next))
}

fn be_u32(value: &[u8]) -> Result<u32, ReadError> {
    value.try_into().map(u32::from_be_bytes).map_err(|_| ReadError::Malformed)
}

fn be_u64(value: &[u8]) -> Result<u64, ReadError> {
    value.try_into().map(u64::from_be_bytes).map_err(|_| ReadError::Malformed)
}

/// RFC 8489 §14.2: the port is XORed with the cookie's upper half, the address with cookie and transaction id.
fn read_xor_address(value: &[u8], id: &TransactionId) -> Result<SocketAddr, ReadError> {
    let [_, family, port_high, port_low, address @ ..] = value else { return Err(ReadError::Malformed) };
    let port = u16::from_be_bytes([*port_high, *port_low]) ^ (MAGIC_COOKIE >> 16) as u16;
    let ip = match family {
        1 => IpAddr::V4(Ipv4Addr::from(be_u32(address)? ^ MAGIC_COOKIE)),
        2 => {
            let octets: [u8; 16] = address.try_into().map_err(|_| ReadError::Malformed)?;
            IpAddr::V6(Ipv6Addr::from(u128::from_be_bytes(octets) ^ xor_pad(id)))
        }
        _ => return Err(ReadError::Malformed),
    };
    Ok(SocketAddr::new(ip, port))
}

fn read_error_code(value: &[u8]) -> Result<u16, ReadError> {
    match value {
        [_, _, class, number, ..] if (3..=6).contains(&(class & 7)) && *number < 100 => {
            Ok(u16::from(class & 7) * 100 + u16::from(*number))
        }
        _ => Err(ReadError::Malformed),
    }
}

fn xor_pad(id: &TransactionId) -> u128 {
    let mut pad = [0; 16];
    pad[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    pad[4..].copy_from_slice(id);
    u128::from_be_bytes(pad)
}

/// Writes one Binding message into a caller's buffer.
///
/// # Panics
/// When the buffer is shorter than the message; `STUN_BYTES_MAX` bytes always suffice.
pub(super) struct Writer<'o> {
    out: &'o mut [u8],
    len: usize,
}

impl<'o> Writer<'o> {
    /// Writes the header.
    pub(super) fn new(out: &'o mut [u8], class: Class, id: &TransactionId) -> Writer<'o> {
        let kind: u16 = match class {
            Class::Request => 0x0001,
            Class::Indication => 0x0011,
            Class::Success => 0x0101,
            Class::Error => 0x0111,
        };
        out[..2].copy_from_slice(&kind.to_be_bytes());
        out[2..4].fill(0);
        out[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        out[8..20].copy_from_slice(id);
        Writer { out, len: HEADER_BYTES }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let (start, end) = (self.len + 4, self.len + 4 + value.len());
        self.out[self.len..self.len + 2].copy_from_slice(&kind.to_be_bytes());
        self.out[self.len + 2..start].copy_from_slice(&(value.len() as u16).to_be_bytes());
        self.out[start..end].copy_from_slice(value);
        self.len = end.next_multiple_of(4);
        self.out[end..self.len].fill(0);
        let length = (self.len - HEADER_BYTES) as u16;
        self.out[2..4].copy_from_slice(&length.to_be_bytes());
    }

    /// Any attribute, for tests of what we do not know.
    #[cfg(test)]
    pub(super) fn raw(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, value);
    }

    pub(super) fn username(&mut self, value: &[u8]) {
        self.attribute(USERNAME, value);
    }

    pub(super) fn priority(&mut self, priority: u32) {
        self.attribute(PRIORITY, &priority.to_be_bytes());
    }

    pub(super) fn use_candidate(&mut self) {
        self.attribute(USE_CANDIDATE, &[]);
    }

    pub(super) fn role(&mut self, role: RoleAttribute) {
        match role {
            RoleAttribute::Controlling(tie_breaker) => self.attribute(ICE_CONTROLLING, &tie_breaker.to_be_bytes()),
            RoleAttribute::Controlled(tie_breaker) => self.attribute(ICE_CONTROLLED, &tie_breaker.to_be_bytes()),
        }
    }

    pub(super) fn xor_mapped_address(&mut self, address: SocketAddr, id: &TransactionId) {
        let port = (address.port() ^ (MAGIC_COOKIE >> 16) as u16).to_be_bytes();
        let mut value = [0; 20];
        value[2..4].copy_from_slice(&port);
        match address.ip() {
            IpAddr::V4(ip) => {
                value[1] = 1;
                value[4..8].copy_from_slice(&(u32::from(ip) ^ MAGIC_COOKIE).to_be_bytes());
                self.attribute(XOR_MAPPED_ADDRESS, &value[..8]);
            }
            IpAddr::V6(ip) => {
                value[1] = 2;
                value[4..].copy_from_slice(&(u128::from(ip) ^ xor_pad(id)).to_be_bytes());
                self.attribute(XOR_MAPPED_ADDRESS, &value);
            }
        }
    }

    /// ERROR-CODE with an empty reason phrase: it is for people, and nobody reads it here.
    pub(super) fn error_code(&mut self, code: u16) {
        self.attribute(ERROR_CODE, &[0, 0, (code / 100) as u8, (code % 100) as u8]);
    }

    pub(super) fn unknown_attributes(&mut self, types: &UnknownTypes) {
        let mut value = [0; 2 * UNKNOWN_ATTRIBUTES_MAX];
        for (bytes, kind) in value.chunks_exact_mut(2).zip(types.as_slice()) {
            bytes.copy_from_slice(&kind.to_be_bytes());
        }
        self.attribute(UNKNOWN_ATTRIBUTES, &value[..2 * types.as_slice().len()]);
    }

    pub(super) fn integrity(&mut self, key: &IntegrityKey) {
        let digest: [u8; 20] = key.mac(&self.out[..self.len]).finalize().into_bytes().into();
        self.attribute(MESSAGE_INTEGRITY, &digest);
    }

    /// Writes FINGERPRINT and returns the message's length.
    pub(super) fn finish(mut self) -> usize {
        // The length field already counts FINGERPRINT when the sum is taken (RFC 8489 §14.7).
        let length = (self.len + 8 - HEADER_BYTES) as u16;
        self.out[2..4].copy_from_slice(&length.to_be_bytes());
        let sum = crc32(&self.out[..self.len]) ^ FINGERPRINT_XOR;
        self.attribute(FINGERPRINT, &sum.to_be_bytes());
        self.len
    }
}

/// CRC-32 of ISO 3309 (RFC 8489 §14.7), four bits at a time: a table of one cache line for messages of 100 bytes.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = crc32_table();
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        crc = (crc >> 4) ^ TABLE[(crc & 15) as usize];
        crc = (crc >> 4) ^ TABLE[(crc & 15) as usize];
    }
    !crc
}

const fn crc32_table() -> [u32; 16] {
    let mut table = [0; 16];
    let mut index = 0;
    while index < 16 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 4 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
#[path = "stun_tests.rs"]
mod tests;
