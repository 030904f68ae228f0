use super::*;
use bytecodec::{DecodeExt, EncodeExt};
use proptest::prelude::*;
use stun_codec::rfc5245::attributes::{IceControlled, IceControlling, Priority, UseCandidate};
use stun_codec::rfc5389::attributes::{
    ErrorCode, Fingerprint, MessageIntegrity, Software, UnknownAttributes, Username, XorMappedAddress,
};
use stun_codec::{MessageClass, MessageDecoder, MessageEncoder, define_attribute_enums, rfc5389::methods::BINDING};

define_attribute_enums!(
    Attribute,
    AttributeDecoder,
    AttributeEncoder,
    [
        Username,
        MessageIntegrity,
        ErrorCode,
        UnknownAttributes,
        XorMappedAddress,
        Software,
        Fingerprint,
        Priority,
        UseCandidate,
        IceControlled,
        IceControlling
    ]
);

type OracleMessage = stun_codec::Message<Attribute>;

const VECTOR_PWD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

/// RFC 5769 §2.1: a request with SOFTWARE, PRIORITY, ICE-CONTROLLED, USERNAME, MESSAGE-INTEGRITY, FINGERPRINT.
const VECTOR_REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74\
    002400046e0001ff80290008932ff9b151263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249\
    c1b571a280280004e57a3bcf";

/// RFC 5769 §2.2: a response with SOFTWARE, XOR-MAPPED-ADDRESS (IPv4), MESSAGE-INTEGRITY, FINGERPRINT.
const VECTOR_RESPONSE_V4: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220\
    002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";

/// RFC 5769 §2.3: the same with an IPv6 address.
const VECTOR_RESPONSE_V6: &str = "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220\
    002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c";

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn check(use_candidate: bool) -> Vec<u8> {
    let mut out = [0; STUN_BYTES_MAX];
    let mut writer = Writer::new(&mut out, Class::Request, &[7; 12]);
    writer.username(b"them:us");
    writer.priority(12);
    writer.role(RoleAttribute::Controlling(34));
    if use_candidate {
        writer.use_candidate();
    }
    writer.integrity(&IntegrityKey::new("password"));
    let len = writer.finish();
    out[..len].to_vec()
}

/// The message with `bytes` appended as attributes and its FINGERPRINT redone.
fn with_tail(message: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut out = [message, bytes].concat();
    let length = (out.len() + 8 - HEADER_BYTES) as u16;
    out[2..4].copy_from_slice(&length.to_be_bytes());
    let sum = (crc32(&out) ^ FINGERPRINT_XOR).to_be_bytes();
    out.extend_from_slice(&[0x80, 0x28, 0, 4]);
    out.extend_from_slice(&sum);
    out
}

fn header_only(kind: u16) -> Vec<u8> {
    let mut header = vec![0; HEADER_BYTES];
    header[..2].copy_from_slice(&kind.to_be_bytes());
    header[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    header
}

#[test]
fn rfc_5769_request_is_read_and_verified() {
    let bytes = unhex(VECTOR_REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.class, Class::Request);
    assert_eq!(message.username, Some(&b"evtj:h6vY"[..]));
    assert_eq!(message.priority, Some(0x6e00_01ff));
    assert_eq!(message.role, Some(RoleAttribute::Controlled(0x932f_f9b1_5126_3b36)));
    assert!(!message.use_candidate);
    assert!(message.unknown.as_slice().is_empty());
    assert!(message.verify(&IntegrityKey::new(VECTOR_PWD)));
    assert!(!message.verify(&IntegrityKey::new("VOkJxbRl1RmTxUk/WvJxBT")));
}

#[test]
fn rfc_5769_responses_carry_both_address_families() {
    for (vector, address) in
        [(VECTOR_RESPONSE_V4, "192.0.2.1:32853"), (VECTOR_RESPONSE_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
    {
        let bytes = unhex(vector);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.class, Class::Success);
        assert_eq!(message.mapped, Some(address.parse().unwrap()));
        assert!(message.verify(&IntegrityKey::new(VECTOR_PWD)));
    }
}

#[test]
fn every_truncation_and_every_flipped_bit_of_a_check_is_refused() {
    let bytes = check(true);
    assert!(Message::parse(&bytes).is_ok());
    for len in 0..bytes.len() {
        assert!(Message::parse(&bytes[..len]).is_err(), "{len} bytes");
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Message::parse(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn missing_fingerprint_is_told_from_malformed() {
    let bytes = check(false);
    let mut bare = bytes[..bytes.len() - 8].to_vec();
    let length = (bare.len() - HEADER_BYTES) as u16;
    bare[2..4].copy_from_slice(&length.to_be_bytes());
    assert_eq!(Message::parse(&bare).unwrap_err(), ReadError::Fingerprint);
    assert_eq!(Message::parse(&bytes[1..]).unwrap_err(), ReadError::Malformed);
    assert_eq!(Message::parse(&[]).unwrap_err(), ReadError::Malformed);
}

#[test]
fn attributes_after_integrity_are_ignored_and_none_may_follow_the_fingerprint() {
    let bytes = check(false);
    let unsigned = &bytes[..bytes.len() - 8];
    let appended = with_tail(unsigned, &[0, 0x25, 0, 0, 0x7F, 0x01, 0, 0]);
    let message = Message::parse(&appended).unwrap();
    assert!(!message.use_candidate);
    assert!(message.unknown.as_slice().is_empty());
    assert!(message.verify(&IntegrityKey::new("password")));
    assert_eq!(Message::parse(&with_tail(&bytes, &[])).unwrap_err(), ReadError::Malformed);
}

#[test]
fn first_of_a_repeated_attribute_counts() {
    let twice = with_tail(&header_only(1), &[0, 0x24, 0, 4, 0, 0, 0, 1, 0, 0x24, 0, 4, 0, 0, 0, 2]);
    assert_eq!(Message::parse(&twice).unwrap().priority, Some(1));
}

#[test]
fn unknown_comprehension_required_attributes_are_listed_up_to_the_limit() {
    let mut tail = vec![0xC0, 0x57, 0, 4, 0, 0, 0, 0]; // comprehension-optional (libwebrtc sends this one)
    for kind in 0x7F01..=0x7F06_u16 {
        tail.extend_from_slice(&kind.to_be_bytes());
        tail.extend_from_slice(&[0, 0]);
    }
    let bytes = with_tail(&header_only(1), &tail);
    assert_eq!(Message::parse(&bytes).unwrap().unknown.as_slice(), [0x7F01, 0x7F02, 0x7F03, 0x7F04]);
}

#[test]
fn attributes_of_the_wrong_size_are_malformed() {
    let wrong: [&[u8]; 8] = [
        &[0, 0x24, 0, 3, 0, 0, 0, 0],
        &[0x80, 0x29, 0, 4, 0, 0, 0, 0],
        &[0, 0x20, 0, 4, 0, 1, 0, 0],
        &[0, 0x20, 0, 8, 0, 3, 0, 0, 0, 0, 0, 0],
        &[0, 0x09, 0, 4, 0, 0, 7, 0],
        &[0, 0x09, 0, 4, 0, 0, 4, 100],
        &[0, 0x08, 0, 4, 0, 0, 0, 0],
        &[0, 0x06, 0, 90, 0, 0, 0, 0],
    ];
    for tail in wrong {
        assert_eq!(Message::parse(&with_tail(&header_only(1), tail)).unwrap_err(), ReadError::Malformed, "{tail:x?}");
    }
}

#[test]
fn other_methods_are_not_ours() {
    assert_eq!(Message::parse(&with_tail(&header_only(0x0003), &[])).unwrap_err(), ReadError::Method);
    assert_eq!(Message::parse(&with_tail(&header_only(0x0011), &[])).unwrap().class, Class::Indication);
}

#[test]
fn longest_username_fits_the_buffer() {
    let mut out = [0; STUN_BYTES_MAX];
    let username = [b'u'; USERNAME_BYTES_MAX];
    let mut writer = Writer::new(&mut out, Class::Request, &[1; 12]);
    writer.username(&username);
    writer.priority(u32::MAX);
    writer.role(RoleAttribute::Controlled(u64::MAX));
    writer.use_candidate();
    writer.integrity(&IntegrityKey::new("password"));
    let len = writer.finish();
    assert_eq!(Message::parse(&out[..len]).unwrap().username, Some(&username[..]));
}

#[derive(Clone, Debug)]
struct Fields {
    class: Class,
    id: TransactionId,
    username: Option<String>,
    priority: Option<u32>,
    use_candidate: bool,
    role: Option<RoleAttribute>,
    mapped: Option<SocketAddr>,
    error: Option<u16>,
    pwd: String,
}

fn fields() -> impl Strategy<Value = Fields> {
    let class = prop_oneof![Just(Class::Request), Just(Class::Indication), Just(Class::Success), Just(Class::Error)];
    let role = prop_oneof![
        any::<u64>().prop_map(RoleAttribute::Controlling),
        any::<u64>().prop_map(RoleAttribute::Controlled)
    ];
    let mapped = (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port));
    // RFC 8489 §14.8 allows 6xx, which the oracle refuses.
    let code = (3_u16..=5, 0_u16..100).prop_map(|(class, number)| class * 100 + number);
    (
        (class, any::<TransactionId>(), proptest::option::of("[a-zA-Z0-9+/:=]{0,80}"), any::<Option<u32>>()),
        (any::<bool>(), proptest::option::of(role), proptest::option::of(mapped), proptest::option::of(code)),
        "[a-zA-Z0-9+/=]{1,90}",
    )
        .prop_map(|((class, id, username, priority), (use_candidate, role, mapped, error), pwd)| Fields {
            class,
            id,
            username,
            priority,
            use_candidate,
            role,
            mapped,
            error,
            pwd,
        })
}

fn write(fields: &Fields) -> Vec<u8> {
    let mut out = [0xAA; STUN_BYTES_MAX];
    let mut writer = Writer::new(&mut out, fields.class, &fields.id);
    if let Some(username) = &fields.username {
        writer.username(username.as_bytes());
    }
    if let Some(priority) = fields.priority {
        writer.priority(priority);
    }
    if fields.use_candidate {
        writer.use_candidate();
    }
    if let Some(role) = fields.role {
        writer.role(role);
    }
    if let Some(mapped) = fields.mapped {
        writer.xor_mapped_address(mapped, &fields.id);
    }
    if let Some(error) = fields.error {
        writer.error_code(error);
    }
    writer.integrity(&IntegrityKey::new(&fields.pwd));
    let len = writer.finish();
    out[..len].to_vec()
}

fn write_by_oracle(fields: &Fields) -> Vec<u8> {
    let class = match fields.class {
        Class::Request => MessageClass::Request,
        Class::Indication => MessageClass::Indication,
        Class::Success => MessageClass::SuccessResponse,
        Class::Error => MessageClass::ErrorResponse,
    };
    let mut message = OracleMessage::new(class, BINDING, stun_codec::TransactionId::new(fields.id));
    message.add_attribute(Software::new("oracle".to_owned()).unwrap());
    if let Some(username) = &fields.username {
        message.add_attribute(Username::new(username.clone()).unwrap());
    }
    if let Some(priority) = fields.priority {
        message.add_attribute(Priority::new(priority));
    }
    if fields.use_candidate {
        message.add_attribute(UseCandidate::new());
    }
    match fields.role {
        Some(RoleAttribute::Controlling(tie_breaker)) => message.add_attribute(IceControlling::new(tie_breaker)),
        Some(RoleAttribute::Controlled(tie_breaker)) => message.add_attribute(IceControlled::new(tie_breaker)),
        None => {}
    }
    if let Some(mapped) = fields.mapped {
        message.add_attribute(XorMappedAddress::new(mapped));
    }
    if let Some(error) = fields.error {
        message.add_attribute(ErrorCode::new(error, "some reason".to_owned()).unwrap());
    }
    message.add_attribute(MessageIntegrity::new_short_term_credential(&message, &fields.pwd).unwrap());
    message.add_attribute(Fingerprint::new(&message).unwrap());
    MessageEncoder::new().encode_into_bytes(message).unwrap()
}

fn assert_holds(message: &Message<'_>, fields: &Fields) {
    assert_eq!(message.class, fields.class);
    assert_eq!(message.id, fields.id);
    assert_eq!(message.username, fields.username.as_ref().map(String::as_bytes));
    assert_eq!(message.priority, fields.priority);
    assert_eq!(message.use_candidate, fields.use_candidate);
    assert_eq!(message.role, fields.role);
    assert_eq!(message.mapped, fields.mapped);
    assert_eq!(message.error, fields.error);
    assert!(message.verify(&IntegrityKey::new(&fields.pwd)));
    assert!(!message.verify(&IntegrityKey::new("another password")));
}

proptest! {
    #[test]
    fn what_we_write_we_read(fields in fields()) {
        let bytes = write(&fields);
        assert_holds(&Message::parse(&bytes).unwrap(), &fields);
    }

    #[test]
    fn what_the_oracle_writes_we_read(fields in fields()) {
        let bytes = write_by_oracle(&fields);
        assert_holds(&Message::parse(&bytes).unwrap(), &fields);
    }

    #[test]
    fn what_we_write_the_oracle_reads(fields in fields()) {
        let bytes = write(&fields);
        let message = MessageDecoder::<Attribute>::new().decode_from_bytes(&bytes).unwrap().unwrap();
        prop_assert_eq!(message.transaction_id(), stun_codec::TransactionId::new(fields.id));
        prop_assert_eq!(message.get_attribute::<Username>().map(Username::name), fields.username.as_deref());
        prop_assert_eq!(message.get_attribute::<Priority>().map(Priority::prio), fields.priority);
        prop_assert_eq!(message.get_attribute::<UseCandidate>().is_some(), fields.use_candidate);
        prop_assert_eq!(message.get_attribute::<XorMappedAddress>().map(XorMappedAddress::address), fields.mapped);
        prop_assert_eq!(message.get_attribute::<ErrorCode>().map(ErrorCode::code), fields.error);
        let controlling = message.get_attribute::<IceControlling>().map(|role| RoleAttribute::Controlling(role.prio()));
        let controlled = message.get_attribute::<IceControlled>().map(|role| RoleAttribute::Controlled(role.prio()));
        prop_assert_eq!(controlling.or(controlled), fields.role);
        let integrity = message.get_attribute::<MessageIntegrity>().unwrap();
        prop_assert!(integrity.check_short_term_credential(&fields.pwd).is_ok());
        prop_assert!(message.get_attribute::<Fingerprint>().is_some());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Message::parse(&bytes);
    }

    #[test]
    fn arbitrary_attributes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..120), kind in 0_u16..0x4000) {
        let padded = [&tail[..], &vec![0; tail.len().next_multiple_of(4) - tail.len()]].concat();
        let bytes = with_tail(&header_only(kind), &padded);
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert!(!message.verify(&IntegrityKey::new("password")));
        }
    }
}
