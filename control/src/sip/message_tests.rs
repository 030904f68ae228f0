//! Tests of the message parser and writer, and the torture messages of RFC 4475.

use super::*;
use proptest::prelude::*;

#[derive(Debug, PartialEq)]
enum Verdict {
    Good,
    Refused(Fault),
    Dropped(Malformed),
}
use Verdict::{Dropped, Good, Refused};

fn torture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/data/rfc4475/{name}.dat", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).expect("the torture messages are part of the repository")
}

fn verdict(bytes: &[u8]) -> Verdict {
    match Message::parse(bytes) {
        Err(malformed) => Dropped(malformed),
        Ok(message) => message.check().map_or_else(Refused, |()| Good),
    }
}

/// Where RFC 4475 leaves the choice between strict and liberal, the strict one is taken for what could be read in two ways
/// (`baddn`, `badaspec`, `escruri`) and the liberal one for headers this stack does not use (`baddate`).
const TORTURE: [(&str, Verdict); 49] = [
    ("badaspec", Refused(Fault::To)),
    ("badbranch", Good), // matched by the rules of RFC 2543
    ("baddate", Good),
    ("baddn", Refused(Fault::From)),
    ("badinv01", Refused(Fault::Via)),
    ("badvers", Refused(Fault::Version)),
    ("bcast", Good),  // dropped by the agent: its top Via is not ours
    ("bext01", Good), // 420 by the agent
    ("bigcode", Dropped(Malformed::StatusCode)),
    ("clerr", Refused(Fault::Truncated)),
    ("cparam01", Good),
    ("cparam02", Good),
    ("dblreq", Good), // the second request is beyond Content-Length
    ("esc01", Good),
    ("esc02", Good), // an unknown method: 405 by the agent
    ("escnull", Good),
    ("escruri", Refused(Fault::RequestLine)),
    ("insuf", Refused(Fault::From)),
    ("intmeth", Good),
    ("inv2543", Good),
    ("invut", Good), // 415 by the agent
    ("longreq", Good),
    ("ltgtruri", Refused(Fault::RequestLine)),
    ("lwsdisp", Good),
    ("lwsruri", Refused(Fault::RequestLine)),
    ("lwsstart", Refused(Fault::RequestLine)),
    ("mcl01", Refused(Fault::ContentLength)),
    ("mismatch01", Refused(Fault::CSeq)),
    ("mismatch02", Refused(Fault::CSeq)),
    ("mpart01", Good),
    ("multi01", Refused(Fault::From)),
    ("ncl", Refused(Fault::ContentLength)),
    ("noreason", Good),
    ("novelsc", Refused(Fault::Scheme)),
    ("quotbal", Refused(Fault::To)),
    ("regaut01", Good),
    ("regbadct", Refused(Fault::Contact)),
    ("regescrt", Good),
    ("scalar02", Refused(Fault::CSeq)),
    ("scalarlg", Refused(Fault::CSeq)),
    ("sdp01", Good),
    ("semiuri", Good),
    ("transports", Good),
    ("trws", Refused(Fault::RequestLine)),
    ("unkscm", Refused(Fault::Scheme)),
    ("unksm2", Good), // foreign schemes in To, From and Contact are the registrar's business
    ("unreason", Good),
    ("wsinv", Good),
    ("zeromf", Good), // 483 by the agent
];

#[test]
fn torture_messages_are_judged_as_rfc_4475_says() {
    for (name, expected) in TORTURE {
        assert_eq!(verdict(&torture(name)), expected, "{name}");
    }
}

#[test]
fn every_torture_message_survives_a_round_trip() {
    for (name, _) in TORTURE {
        let Ok(message) = Message::parse(&torture(name)) else { continue };
        let again = Message::parse(&message.to_bytes()).unwrap();
        let headers = |m: &Message| -> Vec<Header> {
            m.headers.iter().filter(|h| !long_name(&h.name).eq_ignore_ascii_case("Content-Length")).cloned().collect()
        };
        assert_eq!((&message.start, headers(&message)), (&again.start, headers(&again)), "{name}");
        assert_eq!(message.body, again.body, "{name}");
    }
}

#[test]
fn short_tortuous_invite_is_understood() {
    let m = Message::parse(&torture("wsinv")).unwrap();
    assert_eq!(m.to_tag(), Some("1918181833n"));
    assert_eq!(m.from_tag(), Some("98asjd8"));
    assert_eq!(m.cseq(), Some((9, "INVITE")));
    assert_eq!(m.max_forwards(), Some(68));
    let vias: Vec<_> = m.list("via").map(|v| Via::parse(v).unwrap()).collect();
    assert_eq!(vias.len(), 3);
    assert_eq!((vias[0].host, vias[1].transport, vias[2].host), ("192.0.2.2", "TCP", "192.168.255.111"));
    assert_eq!(vias[1].branch(), Some("z9hG4bK9ikj8"));
    assert_eq!(m.contact(), Some("sip:jdrosen@example.com"));
    assert_eq!(m.body.len(), 150);
}

#[test]
fn unusual_characters_are_kept() {
    let m = Message::parse(&torture("intmeth")).unwrap();
    assert_eq!(m.method(), Some("!interesting-Method0123456789_*+`.%indeed'~"));
    assert_eq!(m.call_id(), "intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{");
    assert_eq!(m.from_tag(), Some("_token~1'+`*%!-."));
}

#[test]
fn bytes_beyond_content_length_are_dropped() {
    let m = Message::parse(&torture("dblreq")).unwrap();
    assert_eq!((m.method(), m.body.len()), (Some("REGISTER"), 0));
}

#[test]
fn a_response_repeats_headers_byte_for_byte() {
    let raw = b"INVITE sip:a@b SIP/2.0\r\nv: SIP/2.0/UDP h;branch=z9hG4bK1;twnat=\"x,y\" , SIP/2.0/UDP g\r\nVIA:SIP/2.0/UDP k\r\n\
        f: \"Gr\xfc\xdfe, \xf4\x8f\xbf\xbf\" <sip:a@b>;tag=1\r\nt: <sip:c@d>\r\ni: x\r\nCSeq: 1 INVITE\r\n\r\n";
    let request = Message::parse(raw).unwrap();
    let bytes = Message::response(&request, 180, "Ringing", Some("me")).to_bytes();
    let expected: &[u8] = b"SIP/2.0 180 Ringing\r\nv: SIP/2.0/UDP h;branch=z9hG4bK1;twnat=\"x,y\" , SIP/2.0/UDP g\r\nVIA: SIP/2.0/UDP k\r\n\
        f: \"Gr\xfc\xdfe, \xf4\x8f\xbf\xbf\" <sip:a@b>;tag=1\r\nt: <sip:c@d>;tag=me\r\ni: x\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(expected));
    assert_eq!(bytes, expected);
}

#[test]
fn the_source_is_noted_in_the_top_via_only() {
    let noted = |via: &str| {
        let mut m = Message::request("OPTIONS", "sip:a@b");
        m.push("Via", via);
        m.note_source("192.0.2.9:4444".parse().unwrap());
        m.header("Via").unwrap().to_owned()
    };
    assert_eq!(
        noted("SIP/2.0/UDP h;rport;branch=z9hG4bK1"),
        "SIP/2.0/UDP h;branch=z9hG4bK1;rport=4444;received=192.0.2.9"
    );
    assert_eq!(
        noted("SIP/2.0/UDP h;branch=z9hG4bK1, SIP/2.0/UDP g;rport"),
        "SIP/2.0/UDP h;branch=z9hG4bK1;received=192.0.2.9, SIP/2.0/UDP g;rport"
    );
    assert_eq!(noted("SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bK1"), "SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bK1");
}

#[test]
fn limits_are_enforced() {
    let mut long = b"OPTIONS sip:a@b SIP/2.0\r\n".to_vec();
    long.extend(std::iter::repeat_n(b"X: y\r\n".as_slice(), HEADERS_MAX + 1).flatten());
    long.extend_from_slice(b"\r\n");
    assert_eq!(Message::parse(&long), Err(Malformed::TooManyHeaders));
    assert_eq!(Message::parse(&vec![b'x'; MESSAGE_BYTES_MAX + 1]), Err(Malformed::TooLong));
    assert_eq!(Message::parse(b"\r\n\r\n"), Err(Malformed::Empty));
    assert_eq!(Message::parse(b"hello\r\n\r\n"), Err(Malformed::StartLine));
    assert_eq!(Message::parse(b"OPTIONS sip:a@b SIP/2.0\r\nTo: x\r\n"), Err(Malformed::NoHeaderEnd));
}

#[test]
fn a_bare_carriage_return_is_refused() {
    let raw = b"OPTIONS sip:a@b SIP/2.0\r\nX: y\rVia: z\r\n\r\n";
    assert_eq!(Message::parse(raw).unwrap().check(), Err(Fault::HeaderLine));
}

#[test]
fn pushed_values_cannot_add_lines() {
    let mut m = Message::request("INVITE", "sip:a@b");
    m.push("X-Id", "a\r\nEvil: yes");
    assert_eq!(Message::parse(&m.to_bytes()).unwrap().header("Evil"), None);
}

#[test]
fn sdp_is_found_inside_a_multipart_body() {
    let mut m = Message::request("INVITE", "sip:a@b");
    m.set_body("multipart/mixed;boundary=\"b1\"", "--b1\r\nContent-Type: application/isup\r\n\r\nx\r\n--b1\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n--b1--\r\n");
    assert_eq!(m.sdp(), Some("v=0"));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(m) = Message::parse(&bytes) { let _ = m.check(); }
    }

    #[test]
    fn no_mutation_of_a_real_message_panics(index in 0usize..49, at in 0usize..2000, byte in any::<u8>(), cut in 0usize..2000) {
        let mut bytes = torture(TORTURE[index].0);
        if let Some(b) = bytes.get_mut(at) { *b = byte; }
        bytes.truncate(bytes.len().saturating_sub(cut / 4));
        if let Ok(mut m) = Message::parse(&bytes) {
            if m.check().is_ok() { m.note_source("[::1]:1".parse().unwrap()); }
            let _ = (m.to_bytes(), m.sdp(), m.x_headers(), m.contact());
        }
    }

    #[test]
    fn header_bytes_survive(value in proptest::collection::vec(any::<u8>().prop_filter("no line break", |b| !matches!(b, b'\r' | b'\n')), 1..60)) {
        let mut raw = b"OPTIONS sip:a@b SIP/2.0\r\nX: <".to_vec();
        raw.extend_from_slice(&value);
        raw.extend_from_slice(b">\r\nContent-Length: 0\r\n\r\n");
        prop_assert_eq!(Message::parse(&raw).unwrap().to_bytes(), raw);
    }
}

#[test]
fn a_bare_carriage_return_is_a_fault_in_a_folded_line_too() {
    let head = "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\n\
        Call-ID: x\r\nCSeq: 1 OPTIONS\r\n";
    for (line, judged) in [("X: a\r\n b\r\n", Ok(())), ("X: a\r\n b\rX-Admin: c\r\n", Err(Fault::HeaderLine))] {
        let message = Message::parse(format!("{head}{line}\r\n").as_bytes()).unwrap();
        assert_eq!(message.check(), judged, "{line:?}");
    }
}
