use super::*;

fn hop(last: u8) -> Hop {
    Hop::new(Transport::Tls, SocketAddr::from(([192, 0, 2, last], 5_061)))
}

fn request(method: &str, call_id: &str, extra: &str) -> String {
    format!(
        "{method} sip:+447700900123@gw.example SIP/2.0\r\nVia: SIP/2.0/TLS h;branch=z9hG4bK1\r\n\
         From: \"Ann\" <sip:alice@a.example>;tag=1\r\nTo: <sip:+447700900123@gw.example>\r\nCall-ID: {call_id}\r\n\
         CSeq: 1 {method}\r\n{extra}Content-Length: 0\r\n\r\n"
    )
}

fn response(code: u16, call_id: &str, method: &str, extra: &str) -> String {
    format!(
        "SIP/2.0 {code} Word\r\nVia: SIP/2.0/TLS h;branch=z9hG4bK1\r\nFrom: <sip:alice@a.example>;tag=1\r\n\
         To: <sip:b@gw.example>;tag=2\r\nCall-ID: {call_id}\r\nCSeq: 1 {method}\r\n{extra}Content-Length: 0\r\n\r\n"
    )
}

fn push(messages: &mut Messages, ms: u64, sent: bool, call_id: &str, text: &str) {
    let at = Instant::from_millis(ms);
    messages.push(Seen { at, sent, hop: &hop(1), call_id, bytes: text.as_bytes() });
}

fn shown() -> Policy {
    Policy { numbers: true }
}

#[test]
fn a_call_is_found_by_its_people_places_and_outcome() {
    let mut messages = Messages::new(1 << 20, shown());
    push(&mut messages, 0, false, "c1", &request("INVITE", "c1", ""));
    push(&mut messages, 50, true, "c1", &response(488, "c1", "INVITE", "Warning: 399 gw \"no codec in common\"\r\n"));
    push(&mut messages, 10, false, "c2", &request("OPTIONS", "c2", ""));
    let now = Instant::from_millis(1_000);
    for search in ["", "alice", "+447700900123", "192.0.2.1", "488", "no codec", "C1"] {
        assert_eq!(messages.list(now, search)[0].id, "c1", "{search}");
    }
    let listed = &messages.list(now, "alice")[0];
    assert_eq!(
        (listed.from.as_str(), listed.to.as_str(), listed.outcome.as_str()),
        ("Ann alice", "+447700900123", "488")
    );
    assert_eq!((listed.began_ms_ago, listed.lasted_ms, listed.messages), (1_000, 50, 2));
    assert!(messages.list(now, "nobody").is_empty());
    assert_eq!(messages.entry("c1").unwrap().messages[1].label, "488 Word (INVITE): no codec in common");
}

#[test]
fn whoever_names_one_call_in_ever_new_ones_fills_no_entry_with_names() {
    let mut messages = Messages::new(16 << 20, shown());
    for n in 0..1_000 {
        let call_id = format!("c{n}");
        push(&mut messages, n, false, &call_id, &request("INVITE", &call_id, "X-WA-Call-ID: wacid.X\r\n"));
    }
    assert!(messages.entry("wacid.X").unwrap().call_ids.len() <= ENTRY_CALL_IDS_MAX + 1);
    assert_eq!(messages.entry("c999").unwrap().messages.len(), 1);
}

#[test]
fn a_message_that_came_before_is_marked_as_repeated() {
    let mut messages = Messages::new(1 << 20, shown());
    let invite = request("INVITE", "c1", "");
    push(&mut messages, 0, true, "c1", &invite);
    push(&mut messages, 500, true, "c1", &invite);
    let repeated: Vec<bool> = messages.entry("c1").unwrap().messages.iter().map(|message| message.repeated).collect();
    assert_eq!(repeated, [false, true]);
}

#[test]
fn both_sides_of_a_call_are_one_entry_whoever_is_known_first() {
    let mut messages = Messages::new(1 << 20, shown());
    push(&mut messages, 0, false, "a", &request("INVITE", "a", ""));
    messages.link("a", "b");
    push(&mut messages, 10, true, "b", &request("INVITE", "b", ""));
    push(&mut messages, 20, true, "c", &request("INVITE", "c", ""));
    messages.link("a", "c");
    push(&mut messages, 30, false, "c", &response(486, "c", "INVITE", ""));
    for name in ["a", "b", "c"] {
        let labels: Vec<u64> = messages.entry(name).unwrap().messages.iter().map(|m| m.at.as_millis()).collect();
        assert_eq!(labels, [0, 10, 20, 30], "{name}");
    }
    assert_eq!(messages.list(Instant::ZERO, "").len(), 1);
    push(&mut messages, 40, true, "d", &request("INVITE", "d", "X-WA-Call-ID: wacid.X\r\n"));
    push(&mut messages, 50, false, "d", &response(200, "d", "INVITE", ""));
    assert_eq!(messages.entry("wacid.X").unwrap().messages.len(), 2);
    assert_eq!(messages.entry("d").unwrap().messages.len(), 2);
}

#[test]
fn memory_is_bounded_and_refreshing_phones_push_no_call_out() {
    let mut messages = Messages::new(1 << 20, shown());
    push(&mut messages, 0, false, "call", &request("INVITE", "call", ""));
    for n in 0..20_000_u64 {
        let id = format!("r{n}");
        push(&mut messages, n, false, &id, &request("REGISTER", &id, ""));
    }
    assert!(messages.entry("call").is_some());
    assert!(messages.figures().1 <= 1 << 20);
    for n in 0..20_000_u64 {
        let id = format!("i{n}");
        push(&mut messages, 20_000 + n, false, &id, &request("INVITE", &id, ""));
    }
    assert!(messages.entry("call").is_none(), "the quietest call goes first");
    assert!(messages.entry("i19999").is_some());
    let (entries, bytes) = messages.figures();
    assert!(bytes <= 1 << 20 && entries < 5_000, "{entries} {bytes}");
    assert_eq!(messages.names.len(), entries);
}

#[test]
fn one_call_takes_no_more_than_its_part() {
    let mut messages = Messages::new(64 << 20, shown());
    for n in 0..2_000_u64 {
        push(&mut messages, n, false, "c", &request("INFO", "c", &format!("X-N: {n}\r\n")));
    }
    let entry = messages.entry("c").unwrap();
    assert_eq!((entry.messages.len(), entry.lost), (ENTRY_MESSAGES_MAX, 2_000 - ENTRY_MESSAGES_MAX as u64));
    push(&mut messages, 1, false, "big", &format!("{}{}", request("INFO", "big", ""), "x".repeat(60_000)));
    assert_eq!(messages.entry("big").unwrap().messages[0].text.len(), MESSAGE_BYTES_KEPT);
}

#[test]
fn numbers_are_hidden_from_the_list_and_the_ladder_where_the_operator_wants_that() {
    let mut messages = Messages::new(1 << 20, Policy { numbers: false });
    push(&mut messages, 0, false, "c1", &request("INVITE", "c1", ""));
    let kept = messages.entry("c1").unwrap();
    assert!(!kept.messages[0].text.contains("447700") && !kept.messages[0].label.contains("447700"));
    assert_eq!(messages.list(Instant::ZERO, "")[0].to, "+**********23");
}
