//! Bytes of a webhook to typed events: Meta's envelope with its batches, and the flat form of a relay in front of it.
//!
//! Read leniently: whatever is missing or of another type than documented costs that field or that event, never the batch. What
//! this program does not handle becomes `Unknown`, which is acknowledged and counted.
//!
//! Why not `serde` derives: one field of an unexpected type would refuse a body of a thousand events, and a refused body comes
//! again for a week.

use serde_json::Value;

/// Events taken out of one body; WhatsApp batches at most 1,000 updates. Past it the rest is not read.
pub const EVENTS_MAX: usize = 4_096;

/// Why a body yields no events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// Neither an envelope nor a flat body.
    NotAnEvent,
    /// Not JSON.
    NotJson,
    /// A flat body without `call_id`.
    WithoutCallId,
    /// A flat `connect` without `session.sdp`.
    WithoutSdp,
}

/// One event of a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookEvent {
    /// A user calls.
    Connect(Connect),
    /// A call ended, in whatever state it was.
    Terminate(Terminate),
    /// The answer to our offer, in the `connect` of a call that the business placed.
    Answer(Answer),
    /// RINGING, ACCEPTED, REJECTED of a call that the business placed.
    Status(Status),
    /// A user was asked whether the business may call, and has decided (on field `messages`).
    Permission {
        /// `metadata.phone_number_id`
        phone_number_id: Option<String>,
        /// Whether it may.
        granted: bool,
    },
    /// Something that this program does not handle; acknowledged and counted.
    Unknown {
        /// What it was.
        what: String,
    },
}

/// A `connect` that a user initiated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connect {
    /// Opaque.
    pub call_id: String,
    /// `metadata.phone_number_id`; absent in the flat form.
    pub phone_number_id: Option<String>,
    /// Digits of the caller, or else the business-scoped user id.
    pub from: Option<String>,
    /// The caller's display name.
    pub from_name: Option<String>,
    /// Digits that were called.
    pub to: Option<String>,
    /// Unix seconds, if readable.
    pub timestamp_s: Option<u64>,
    /// The offer.
    pub sdp: String,
}

/// A `connect` of a call that the business placed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Which call.
    pub call_id: String,
    /// `metadata.phone_number_id`
    pub phone_number_id: Option<String>,
    /// `biz_opaque_callback_data`: what our request named the call.
    pub opaque: Option<String>,
    /// The answer.
    pub sdp: String,
}

/// How far a call has come that the business placed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Which call.
    pub call_id: String,
    /// `metadata.phone_number_id`
    pub phone_number_id: Option<String>,
    /// `biz_opaque_callback_data`: what our request named the call.
    pub opaque: Option<String>,
    /// RINGING, ACCEPTED or REJECTED, in upper case.
    pub status: String,
}

/// The end of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terminate {
    /// Which call.
    pub call_id: String,
    /// `metadata.phone_number_id`; rarely there in the flat form.
    pub phone_number_id: Option<String>,
    /// `COMPLETED`, `FAILED`, in upper case.
    pub status: Option<String>,
    /// The first of `errors`: code and text.
    pub error: Option<(u64, String)>,
    /// Seconds of the call, when it was picked up.
    pub duration_s: Option<u64>,
    /// `biz_opaque_callback_data`: what our request named the call, if the business placed it.
    pub opaque: Option<String>,
}

/// What a flat body means on the path it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlatForm {
    /// `/wa/calling/connect`
    Connect,
    /// `/wa/calling/terminate`
    Terminate,
    /// The URL for everything: its `event` says, or else whether it has an SDP.
    ByContent,
}

/// Reads one body.
pub fn parse(body: &[u8], flat: FlatForm) -> Result<Vec<WebhookEvent>, BodyError> {
    let value = read(body).ok_or(BodyError::NotJson)?;
    if !value.is_object() {
        return Err(BodyError::NotAnEvent);
    }
    if value.get("entry").is_some() || value.get("object").is_some() {
        let mut events = Vec::new();
        for change in list(&value, "entry").flat_map(|entry| list(entry, "changes")) {
            read_change(change, &mut events);
        }
        events.truncate(EVENTS_MAX);
        return Ok(events);
    }
    Ok(vec![read_flat(&value, flat)?])
}

/// Whether a body that was read is flat.
pub fn is_flat(body: &[u8]) -> bool {
    let value = read(body).unwrap_or_default();
    value.is_object() && value.get("entry").is_none() && value.get("object").is_none()
}

/// A name that was cut in the middle of a character must not cost a batch: half of one becomes U+FFFD.
fn read(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body).or_else(|_| serde_json::from_str(&mended(body))).ok()
}

/// The same JSON without bytes that are no UTF-8 and without escapes of half a surrogate pair (RFC 8259 §8.2).
fn mended(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let unit = |text: &str| {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let (mut whole, mut rest) = (String::with_capacity(text.len()), &*text);
    while let Some(at) = rest.find('\\') {
        whole.push_str(&rest[..at]);
        rest = &rest[at..];
        // An escape is two characters long, one of a UTF-16 unit six.
        let (kept, taken) = match unit(rest) {
            Some(0xD800..0xDC00) if rest.get(6..).and_then(unit).is_some_and(|low| (0xDC00..0xE000).contains(&low)) => {
                (&rest[..12], 12)
            }
            Some(0xD800..0xE000) => ("\u{fffd}", 6),
            Some(_) => (&rest[..6], 6),
            None => {
                let taken = rest.chars().take(2).map(char::len_utf8).sum();
                (&rest[..taken], taken)
            }
        };
        whole.push_str(kept);
        rest = &rest[taken..];
    }
    whole + rest
}

fn read_flat(value: &Value, flat: FlatForm) -> Result<WebhookEvent, BodyError> {
    let call_id = text(value, "call_id").or_else(|| text(value, "id"));
    // What a body says of itself counts for more than the path that it came to.
    let terminate = match (text(value, "event").as_deref(), flat) {
        (Some("connect"), _) => false,
        (Some("terminate"), _) => true,
        (_, FlatForm::Connect) => false,
        (_, FlatForm::Terminate) => true,
        (Some(_), FlatForm::ByContent) => return Err(BodyError::NotAnEvent),
        (None, FlatForm::ByContent) if call_id.is_none() => return Err(BodyError::NotAnEvent),
        (None, FlatForm::ByContent) => value.get("session").is_none(),
    };
    let call_id = call_id.ok_or(BodyError::WithoutCallId)?;
    if terminate {
        return Ok(WebhookEvent::Terminate(read_terminate(value, value, call_id)));
    }
    let sdp = description(value, "offer").ok_or(BodyError::WithoutSdp)?;
    Ok(WebhookEvent::Connect(Connect {
        call_id,
        phone_number_id: text(value, "phone_number_id"),
        from: text(value, "from").or_else(|| text(value, "from_user_id")),
        from_name: None,
        to: text(value, "to"),
        timestamp_s: number(value, "timestamp"),
        sdp,
    }))
}

fn read_change(change: &Value, events: &mut Vec<WebhookEvent>) {
    let field = text(change, "field").unwrap_or_default();
    let phone_number_id = |value: &Value| text(value.get("metadata")?, "phone_number_id");
    let Some(value) = change.get("value").filter(|_| field == "calls") else {
        let replies = change.get("value").filter(|_| field == "messages").map(|value| {
            let granted = list(value, "messages").filter_map(permission);
            granted.map(|granted| WebhookEvent::Permission { phone_number_id: phone_number_id(value), granted })
        });
        let before = events.len();
        events.extend(replies.into_iter().flatten());
        if events.len() == before {
            events.push(unknown(&field));
        }
        return;
    };
    for call in list(value, "calls") {
        events.push(read_call(value, call));
    }
    for status in list(value, "statuses") {
        events.push(WebhookEvent::Status(Status {
            call_id: text(status, "id").unwrap_or_default(),
            phone_number_id: phone_number_id(value),
            opaque: text(status, "biz_opaque_callback_data"),
            status: text(status, "status").unwrap_or_default().to_ascii_uppercase(),
        }));
    }
}

/// Whether a message is the answer to a request for a call permission, and which.
fn permission(message: &Value) -> Option<bool> {
    let reply = message.get("interactive")?.get("call_permission_reply")?;
    Some(text(reply, "response").is_some_and(|response| response.eq_ignore_ascii_case("accept")))
}

fn read_call(value: &Value, call: &Value) -> WebhookEvent {
    let event = text(call, "event").unwrap_or_default();
    let Some(call_id) = text(call, "id") else { return unknown(&event) };
    match event.as_str() {
        "terminate" => WebhookEvent::Terminate(read_terminate(value, call, call_id)),
        "connect" => {
            let ours = text(call, "direction").is_some_and(|direction| direction == "BUSINESS_INITIATED");
            let (wanted, what) =
                if ours { ("answer", "connect without an answer") } else { ("offer", "connect without an offer") };
            match (description(call, wanted), ours) {
                (Some(sdp), false) => WebhookEvent::Connect(read_connect(value, call, call_id, sdp)),
                (Some(sdp), true) => WebhookEvent::Answer(Answer {
                    call_id,
                    phone_number_id: value.get("metadata").and_then(|metadata| text(metadata, "phone_number_id")),
                    opaque: text(call, "biz_opaque_callback_data"),
                    sdp,
                }),
                (None, _) => unknown(what),
            }
        }
        _ => unknown(&event),
    }
}

fn read_connect(value: &Value, call: &Value, call_id: String, sdp: String) -> Connect {
    let contact = list(value, "contacts").next();
    let of_contact = |key| contact.and_then(|contact| text(contact, key));
    let metadata = value.get("metadata");
    Connect {
        call_id,
        phone_number_id: metadata.and_then(|metadata| text(metadata, "phone_number_id")),
        // A user who has adopted a username shows no number; the business-scoped id takes its place.
        from: text(call, "from")
            .or_else(|| of_contact("wa_id"))
            .or_else(|| text(call, "from_user_id"))
            .or_else(|| of_contact("user_id")),
        from_name: contact.and_then(|contact| text(contact.get("profile")?, "name")),
        to: text(call, "to"),
        timestamp_s: number(call, "timestamp"),
        sdp,
    }
}

fn read_terminate(value: &Value, call: &Value, call_id: String) -> Terminate {
    // Documented beside the calls, observed inside them as well.
    let error = list(call, "errors").chain(list(value, "errors")).next();
    let status = call.get("status");
    let status = status.and_then(|status| status.as_str().or_else(|| status.get(0)?.as_str()));
    Terminate {
        call_id,
        phone_number_id: value
            .get("metadata")
            .and_then(|metadata| text(metadata, "phone_number_id"))
            .or_else(|| text(value, "phone_number_id")),
        status: status.map(str::to_ascii_uppercase),
        error: error.and_then(|error| {
            let details = error.get("error_data").and_then(|data| text(data, "details"));
            let words = details.or_else(|| text(error, "message")).or_else(|| text(error, "title"));
            Some((number(error, "code")?, words.unwrap_or_default()))
        }),
        duration_s: number(call, "duration"),
        opaque: text(call, "biz_opaque_callback_data"),
    }
}

/// The description of a `connect`, if it is the `wanted` one: an answer is no offer.
fn description(call: &Value, wanted: &str) -> Option<String> {
    let session = call.get("session")?;
    let is_wanted = text(session, "sdp_type").is_none_or(|kind| kind.eq_ignore_ascii_case(wanted));
    text(session, "sdp").filter(|_| is_wanted)
}

fn unknown(what: &str) -> WebhookEvent {
    WebhookEvent::Unknown { what: what.chars().take(64).collect() }
}

fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// A string that is not empty.
fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// A number, or a string that holds one.
fn number(value: &Value, key: &str) -> Option<u64> {
    let value = value.get(key)?;
    value
        .as_u64()
        .or_else(|| value.as_f64().filter(|n| *n >= 0.0).map(|n| n as u64))
        .or_else(|| value.as_str()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(name: &str) -> Vec<WebhookEvent> {
        let path = format!("{}/tests/data/whatsapp/{name}", env!("CARGO_MANIFEST_DIR"));
        parse(&std::fs::read(path).unwrap(), FlatForm::ByContent).unwrap()
    }

    #[test]
    fn a_connect_is_read_from_both_forms_of_its_bytes() {
        let events = read("connect-uic.json");
        assert_eq!(events, read("connect-uic.wire.json"));
        let [WebhookEvent::Connect(connect)] = events.as_slice() else { panic!("{events:?}") };
        assert!(connect.call_id.starts_with("wacid.") && connect.sdp.starts_with("v=0\r\n"));
        assert_eq!(connect.phone_number_id.as_deref(), Some("118000000000021"));
        assert_eq!((connect.from.as_deref(), connect.to.as_deref()), (Some("447700900123"), Some("15550100123")));
        assert_eq!(connect.timestamp_s, Some(1_767_225_600));
    }

    #[test]
    fn a_caller_without_a_number_is_known_by_the_scoped_id() {
        let events = read("connect-uic-username.json");
        let [WebhookEvent::Connect(connect)] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(connect.from.as_deref(), Some("GB.20000000000000000001"));
    }

    #[test]
    fn a_failed_terminate_carries_its_code() {
        let events = read("terminate-failed-138021.json");
        let [WebhookEvent::Terminate(terminate)] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(terminate.status.as_deref(), Some("FAILED"));
        assert_eq!(terminate.error.as_ref().map(|(code, _)| *code), Some(138_021));
        assert_eq!(terminate.duration_s, Some(20));
        let events = read("terminate-completed.json");
        assert!(matches!(&events[..], [WebhookEvent::Terminate(Terminate { error: None, duration_s: Some(120), .. })]));
        assert!(matches!(&read("terminate-unanswered.json")[..], [WebhookEvent::Terminate(_)]));
    }

    #[test]
    fn a_batch_is_read_in_its_order_with_everything_in_it() {
        let kinds = |name| -> Vec<String> {
            read(name)
                .iter()
                .map(|event| match event {
                    WebhookEvent::Connect(_) => "connect".to_owned(),
                    WebhookEvent::Terminate(_) => "terminate".to_owned(),
                    WebhookEvent::Answer(_) => "answer".to_owned(),
                    WebhookEvent::Permission { granted, .. } => format!("permission {granted}"),
                    WebhookEvent::Status(status) => status.status.clone(),
                    WebhookEvent::Unknown { what } => format!("? {what}"),
                })
                .collect()
        };
        let expected = [
            "terminate",
            "connect",
            "RINGING",
            "ACCEPTED",
            "? messages",
            "connect",
            "connect",
            "? call_recording_available",
        ];
        assert_eq!(kinds("batch-mixed.json"), expected);
        assert_eq!(kinds("batch-mixed.wire.json"), expected);
    }

    #[test]
    fn what_comes_of_a_call_that_the_business_placed_is_read_with_the_name_that_it_was_given() {
        for (name, setup) in
            [("connect-bic-answer.json", "a=setup:active"), ("connect-bic-answer-passive.json", "a=setup:passive")]
        {
            let events = read(name);
            let [WebhookEvent::Answer(answer)] = events.as_slice() else { panic!("{events:?}") };
            assert!(answer.call_id.starts_with("wacid.") && answer.sdp.contains(setup), "{name}");
            assert_eq!(answer.phone_number_id.as_deref(), Some("118000000000021"));
            assert_eq!(answer.opaque.as_deref(), Some("gw:bic-19"));
        }
        for (name, wanted, opaque) in [
            ("status-ringing.json", "RINGING", Some("gw:bic-19")),
            ("status-accepted.json", "ACCEPTED", Some("gw:bic-19")),
            ("status-rejected.json", "REJECTED", None),
        ] {
            let events = read(name);
            let [WebhookEvent::Status(status)] = events.as_slice() else { panic!("{events:?}") };
            assert_eq!((status.status.as_str(), status.opaque.as_deref()), (wanted, opaque));
            assert_eq!(status.phone_number_id.as_deref(), Some("118000000000021"));
        }
        let phone_number_id = Some("118000000000021".to_owned());
        assert_eq!(read("permission-reply.json"), [WebhookEvent::Permission { phone_number_id, granted: true }]);
    }

    #[test]
    fn flat_bodies_say_what_they_lack() {
        let connect =
            br#"{"call_id":"a","session":{"sdp":"v=0","sdp_type":"offer"},"direction":"inbound","timestamp":7}"#;
        let events = parse(connect, FlatForm::Connect).unwrap();
        assert!(matches!(&events[..], [WebhookEvent::Connect(Connect { timestamp_s: Some(7), .. })]));
        assert_eq!(parse(connect, FlatForm::ByContent).unwrap(), events);
        assert!(matches!(parse(br#"{"call_id":"a"}"#, FlatForm::Terminate).unwrap()[..], [WebhookEvent::Terminate(_)]));
        assert!(matches!(parse(br#"{"call_id":"a"}"#, FlatForm::ByContent).unwrap()[..], [WebhookEvent::Terminate(_)]));
        for (body, form, error) in [
            (&b"{"[..], FlatForm::Connect, BodyError::NotJson),
            (b"[]", FlatForm::Connect, BodyError::NotAnEvent),
            (b"{}", FlatForm::ByContent, BodyError::NotAnEvent),
            (b"{}", FlatForm::Terminate, BodyError::WithoutCallId),
            (br#"{"call_id":""}"#, FlatForm::Connect, BodyError::WithoutCallId),
            (br#"{"call_id":7}"#, FlatForm::Connect, BodyError::WithoutCallId),
            (br#"{"call_id":"a"}"#, FlatForm::Connect, BodyError::WithoutSdp),
            (br#"{"call_id":"a","session":{"sdp":5}}"#, FlatForm::Connect, BodyError::WithoutSdp),
            (
                br#"{"call_id":"a","session":{"sdp":"v=0","sdp_type":"answer"}}"#,
                FlatForm::Connect,
                BodyError::WithoutSdp,
            ),
        ] {
            assert_eq!(parse(body, form), Err(error), "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_flat_body_that_names_its_event_is_that_on_either_path() {
        let connect = br#"{"call_id":"a","event":"connect","session":{"sdp":"v=0","sdp_type":"offer"}}"#;
        let terminate = br#"{"call_id":"a","event":"terminate"}"#;
        for form in [FlatForm::Connect, FlatForm::Terminate, FlatForm::ByContent] {
            assert!(matches!(parse(connect, form).unwrap()[..], [WebhookEvent::Connect(_)]), "{form:?}");
            assert!(matches!(parse(terminate, form).unwrap()[..], [WebhookEvent::Terminate(_)]), "{form:?}");
        }
    }

    #[test]
    fn a_name_that_was_cut_in_a_character_costs_that_character() {
        let body = std::fs::read(format!("{}/tests/data/whatsapp/connect-uic.wire.json", env!("CARGO_MANIFEST_DIR")));
        let body = body.unwrap();
        let renamed = |name: &[u8]| {
            let at = body.windows(11).position(|window| window == b"Ana Example").unwrap();
            [&body[..at], name, &body[at + 11..]].concat()
        };
        let named = |name: &[u8]| match &parse(&renamed(name), FlatForm::ByContent).unwrap()[..] {
            [WebhookEvent::Connect(connect)] => connect.from_name.clone().unwrap(),
            other => panic!("{other:?}"),
        };
        for (name, read) in [
            (&br"Ana \ud83d"[..], "Ana \u{fffd}"),
            (br"\ude00 Ana \\ud83d", "\u{fffd} Ana \\ud83d"),
            (br#"\ud83d\ud83d\ude00\u00e9\""#, "\u{fffd}\u{1f600}\u{e9}\""),
            (br"\ud83dx\ud83d\u0041", "\u{fffd}x\u{fffd}A"),
            (b"Ana \xf0\x9f\x98", "Ana \u{fffd}"),
        ] {
            assert_eq!(named(name), read, "{}", String::from_utf8_lossy(name));
        }
        for broken in [&br#"{"a":"\"#[..], br#"{"a":"\u"#, br#"{"a":"\ud83d\"#, b"\\\xff"] {
            assert_eq!(parse(broken, FlatForm::ByContent), Err(BodyError::NotJson));
        }
    }

    #[test]
    fn an_envelope_of_surprises_costs_only_the_surprises() {
        let body = br#"{"object":"whatsapp_business_account","entry":[7,{"changes":"none"},{"changes":[null,
            {"field":"calls","value":{"calls":[{"id":5,"event":"connect"},{"id":"x","event":"terminate","status":["Failed"],
            "errors":[{"code":"138021"}]},"what"],"statuses":[{}]}}]}]}"#;
        let events = parse(body, FlatForm::ByContent).unwrap();
        let WebhookEvent::Terminate(terminate) = &events[2] else { panic!("{events:?}") };
        assert_eq!(
            (terminate.status.as_deref(), terminate.error.as_ref().map(|e| e.0)),
            (Some("FAILED"), Some(138_021))
        );
        assert_eq!(events.len(), 5);
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(&body, FlatForm::ByContent);
        }
    }
}
