//! WhatsApp's webhooks, byte for byte as Meta writes them: compact JSON, `\uXXXX` and `\/` escapes, HMAC-SHA256 over those bytes.
//!
//! Why the escapes matter: a receiver that parses the body and signs its own rendering of it works against every stand-in that sends
//! plain JSON, and fails against Meta.

use aws_lc_rs::hmac;
use serde::Serialize;
use serde_json::json;
use std::fmt::Write as _;

/// The business account that is called, and who calls it. All numbers are from ranges reserved for examples.
#[derive(Clone, Debug)]
pub struct Account {
    /// WhatsApp Business Account.
    pub waba_id: String,
    /// The number's Graph id.
    pub phone_number_id: String,
    /// The number that is called.
    pub number: String,
    /// Who calls.
    pub caller: String,
    /// The caller's name; not ASCII, so that escapes occur.
    pub caller_name: String,
    /// Signs webhooks; `None`: they are sent unsigned.
    pub app_secret: Option<String>,
}

impl Account {
    /// The account of the examples.
    pub fn example(app_secret: Option<String>) -> Account {
        Account {
            waba_id: "117000000000011".to_owned(),
            phone_number_id: "118000000000021".to_owned(),
            number: "15550100123".to_owned(),
            caller: "447700900123".to_owned(),
            caller_name: "Ana Olá / Example".to_owned(),
            app_secret,
        }
    }
}

/// Which of the two bodies is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `{"call_id": ..., "session": {...}}`, from a relay in front of the gateway.
    Flat,
    /// Meta's own.
    Envelope,
}

/// How a call ended, in a terminate webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Termination {
    /// Never answered.
    Unanswered,
    /// Answered and over; seconds since 1970.
    Completed {
        /// Accepted.
        start_s: u64,
        /// Ended.
        end_s: u64,
    },
    /// WhatsApp ended it since no media came: 138021.
    NoMedia {
        /// Accepted.
        start_s: u64,
        /// Ended.
        end_s: u64,
    },
}

/// What 138021 says.
const NO_MEDIA: &str = "WhatsApp client terminated the call due to not receiving any media for a long time.";

#[derive(Serialize)]
struct Session<'a> {
    sdp: &'a str,
    sdp_type: &'a str,
}

#[derive(Serialize)]
struct Call<'a> {
    id: &'a str,
    from: &'a str,
    to: &'a str,
    event: &'a str,
    timestamp: String,
    direction: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<Session<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    biz_opaque_callback_data: Option<&'a str>,
}

/// A call was placed.
pub fn connect(account: &Account, form: Form, call_id: &str, offer: &str, now_s: u64) -> Vec<u8> {
    let session = Session { sdp: offer, sdp_type: "offer" };
    let body = match form {
        Form::Flat => json!({
            "call_id": call_id, "from": account.caller, "to": account.number, "direction": "inbound",
            "timestamp": now_s.to_string(), "session": session,
        })
        .to_string(),
        Form::Envelope => {
            envelope(account, &Call { session: Some(session), ..call(account, call_id, "connect", now_s) })
        }
    };
    escape(&body).into_bytes()
}

/// A call is over.
pub fn terminate(account: &Account, form: Form, call_id: &str, how: Termination, now_s: u64) -> Vec<u8> {
    let mut call = call(account, call_id, "terminate", now_s);
    call.status = Some("COMPLETED");
    if let Termination::Completed { start_s, end_s } | Termination::NoMedia { start_s, end_s } = how {
        call.start_time = Some(start_s.to_string());
        call.end_time = Some(end_s.to_string());
        call.duration = Some(end_s.saturating_sub(start_s));
    }
    if let Termination::NoMedia { .. } = how {
        let title = format!("{NO_MEDIA} Please try again");
        call.status = Some("FAILED");
        call.errors = Some(json!([{
            "code": 138_021, "title": title, "message": title, "error_data": { "details": NO_MEDIA },
        }]));
    }
    let body = match form {
        Form::Flat => json!({ "call_id": call_id, "status": call.status }).to_string(),
        Form::Envelope => envelope(account, &call),
    };
    escape(&body).into_bytes()
}

fn call<'a>(account: &'a Account, id: &'a str, event: &'a str, now_s: u64) -> Call<'a> {
    Call {
        id,
        from: &account.caller,
        to: &account.number,
        event,
        timestamp: now_s.to_string(),
        direction: "USER_INITIATED",
        session: None,
        start_time: None,
        end_time: None,
        duration: None,
        status: None,
        errors: None,
        biz_opaque_callback_data: None,
    }
}

/// A call that the business has placed, as its webhooks name it.
#[derive(Clone, Copy, Debug)]
pub struct Outbound<'a> {
    /// Meta's id.
    pub call_id: &'a str,
    /// What the business named it.
    pub opaque: Option<&'a str>,
}

/// The relay's answer to the business's offer.
pub fn answer(account: &Account, call: Outbound<'_>, sdp: &str, now_s: u64) -> Vec<u8> {
    let session = Session { sdp, sdp_type: "answer" };
    let body = envelope(account, &Call { session: Some(session), ..outbound(account, call, "connect", now_s) });
    escape(&body).into_bytes()
}

/// The end of a call that the business has placed; `talked` in seconds since 1970, if it was answered.
pub fn outbound_end(account: &Account, call: Outbound<'_>, talked: Option<(u64, u64)>, now_s: u64) -> Vec<u8> {
    let mut end = outbound(account, call, "terminate", now_s);
    end.status = Some("COMPLETED");
    if let Some((start_s, end_s)) = talked {
        (end.start_time, end.end_time) = (Some(start_s.to_string()), Some(end_s.to_string()));
        end.duration = Some(end_s.saturating_sub(start_s));
    }
    escape(&envelope(account, &end)).into_bytes()
}

/// RINGING, ACCEPTED or REJECTED.
pub fn status(account: &Account, call: Outbound<'_>, status: &str, now_s: u64) -> Vec<u8> {
    let mut said = json!({"id": call.call_id, "timestamp": now_s.to_string(), "type": "call", "status": status,
        "recipient_id": account.caller});
    if let Some(opaque) = call.opaque {
        said["biz_opaque_callback_data"] = opaque.into();
    }
    let metadata = json!({"display_phone_number": account.number, "phone_number_id": account.phone_number_id});
    let value = json!({"messaging_product": "whatsapp", "metadata": metadata, "statuses": [said]});
    let changes = json!([{"value": value, "field": "calls"}]);
    let body = json!({"object": "whatsapp_business_account", "entry": [{"id": account.waba_id, "changes": changes}]});
    escape(&body.to_string()).into_bytes()
}

fn outbound<'a>(account: &'a Account, call: Outbound<'a>, event: &'a str, now_s: u64) -> Call<'a> {
    Call {
        from: &account.number,
        to: &account.caller,
        direction: "BUSINESS_INITIATED",
        biz_opaque_callback_data: call.opaque,
        ..self::call(account, call.call_id, event, now_s)
    }
}

/// Meta's envelope around one call. Written by hand, since the order of keys is Meta's and not the alphabet's.
fn envelope(account: &Account, call: &Call<'_>) -> String {
    let text = |value: &str| serde_json::Value::from(value).to_string();
    let errors = call.errors.as_ref().map_or(String::new(), |errors| format!(",\"errors\":{errors}"));
    format!(
        "{{\"object\":\"whatsapp_business_account\",\"entry\":[{{\"id\":{},\"changes\":[{{\"value\":{{\
         \"messaging_product\":\"whatsapp\",\"metadata\":{{\"display_phone_number\":{},\"phone_number_id\":{}}},\
         \"contacts\":[{{\"profile\":{{\"name\":{}}},\"wa_id\":{}}}],\"calls\":[{}]{errors}}},\"field\":\"calls\"}}]}}]}}",
        text(&account.waba_id),
        text(&account.number),
        text(&account.phone_number_id),
        text(&account.caller_name),
        text(&account.caller),
        serde_json::to_string(call).unwrap_or_default(),
    )
}

/// Non-ASCII as `\uXXXX` with lower-case hex, `/` as `\/`.
pub fn escape(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + 64);
    for character in json.chars() {
        match character {
            '/' => out.push_str("\\/"),
            c if c.is_ascii() => out.push(c),
            c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                let _ = write!(out, "\\u{unit:04x}");
            }),
        }
    }
    out
}

/// The value of `X-Hub-Signature-256`.
pub fn sign(app_secret: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, app_secret.as_bytes());
    let tag = hmac::sign(&key, body);
    tag.as_ref().iter().fold("sha256=".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body of a connect webhook as Meta's wire form has it (values invented).
    const WIRE: &str = r#"{"object":"whatsapp_business_account","entry":[{"id":"117000000000011","changes":[{"value":{"messaging_product":"whatsapp","metadata":{"display_phone_number":"15550100123","phone_number_id":"118000000000021"},"contacts":[{"profile":{"name":"Ana Example"},"wa_id":"447700900123"}],"calls":[{"id":"wacid.HBgMNDQ3NzAwOTAwMTIzFQIAEhggM0ZBODVGNjQ1NzE3NDU2MkIzRkMyQzk2M0Y2NkFGQTYcGAsxNTU1MDEwMDEyMxUCABUKAA==","from":"447700900123","to":"15550100123","event":"connect","timestamp":"1767225600","direction":"USER_INITIATED","session":{"sdp":"v=0\r\no=- 1767225600412 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE audio\r\na=msid-semantic: WMS 5d1f0c3e-9a7b-4c55-8f21-6b0e4d2a9c10\r\na=ice-lite\r\nm=audio 3480 UDP\/TLS\/RTP\/SAVPF 111 126\r\nc=IN IP4 203.0.113.49\r\na=rtcp:9 IN IP4 0.0.0.0\r\na=candidate:4011223344 1 udp 2122260223 203.0.113.49 3480 typ host generation 0 network-cost 50\r\na=candidate:2099887766 1 udp 2122262783 2001:db8:f36b:131:face:b00c:0:699c 3480 typ host generation 0 network-cost 50\r\na=ice-ufrag:QmZ7rT2xLp9VkDsA\r\na=ice-pwd:n4Fq+1zR8w\/Kp0aYt3LdXg==\r\na=fingerprint:sha-256 AE:89:C4:6B:2C:5F:E3:29:01:D4:8C:F2:52:A8:9D:F2:D9:F4:8C:5E:78:50:A8:ED:58:C7:5F:A5:25:92:14:0B\r\na=setup:actpass\r\na=mid:audio\r\na=sendrecv\r\na=msid:5d1f0c3e-9a7b-4c55-8f21-6b0e4d2a9c10 WhatsAppTrack1\r\na=rtcp-mux\r\na=rtpmap:111 opus\/48000\/2\r\na=rtcp-fb:111 transport-cc\r\na=fmtp:111 maxaveragebitrate=20000;maxplaybackrate=16000;minptime=20;sprop-maxcapturerate=16000;useinbandfec=1\r\na=rtpmap:126 telephone-event\/8000\r\na=maxptime:20\r\na=ptime:20\r\na=ssrc:2718281828 cname:WhatsAppAudioStream1\r\n","sdp_type":"offer"}}]},"field":"calls"}]}]}"#;

    fn account() -> Account {
        Account { caller_name: "Ana Example".to_owned(), ..Account::example(None) }
    }

    #[test]
    fn a_connect_webhook_is_metas_byte_for_byte_and_so_is_its_signature() {
        let parsed: serde_json::Value = serde_json::from_str(WIRE).unwrap();
        let call = &parsed["entry"][0]["changes"][0]["value"]["calls"][0];
        let (id, sdp) = (call["id"].as_str().unwrap(), call["session"]["sdp"].as_str().unwrap());
        let body = connect(&account(), Form::Envelope, id, sdp, 1_767_225_600);
        assert_eq!(String::from_utf8(body.clone()).unwrap(), WIRE);
        assert_eq!(
            sign("test-app-secret", &body),
            "sha256=4a64d1dacd562e7cbfd34211b92cbdd1ce8db017ac6f7634af18f1e4015f4b73"
        );
    }

    #[test]
    fn escapes_are_metas_and_the_meaning_is_kept() {
        assert_eq!(escape("\"Olá / 🙂\""), "\"Ol\\u00e1 \\/ \\ud83d\\ude42\"");
        let body = connect(&Account::example(None), Form::Envelope, "wacid.a/b+c==", "v=0\r\n", 7);
        assert!(body.is_ascii());
        let parsed: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let value = &parsed["entry"][0]["changes"][0]["value"];
        assert_eq!(value["contacts"][0]["profile"]["name"], "Ana Olá / Example");
        assert_eq!(value["calls"][0]["id"], "wacid.a/b+c==");
    }

    #[test]
    fn an_end_says_how_long_and_why() {
        let read = |how| -> serde_json::Value {
            let body = terminate(&account(), Form::Envelope, "wacid.1", how, 1_624);
            serde_json::from_slice::<serde_json::Value>(&body).unwrap()["entry"][0]["changes"][0]["value"].clone()
        };
        let unanswered = read(Termination::Unanswered);
        assert_eq!(unanswered["calls"][0]["status"], "COMPLETED");
        assert!(unanswered["calls"][0].get("duration").is_none());
        let completed = read(Termination::Completed { start_s: 1_500, end_s: 1_620 });
        assert_eq!(completed["calls"][0]["duration"], 120);
        assert_eq!(completed["calls"][0]["start_time"], "1500");
        let failed = read(Termination::NoMedia { start_s: 1_604, end_s: 1_624 });
        assert_eq!(failed["calls"][0]["status"], "FAILED");
        assert_eq!(failed["errors"][0]["code"], 138_021);
        assert_eq!(failed["calls"][0]["errors"], failed["errors"]);
    }

    #[test]
    fn the_flat_form_has_what_the_contract_names() {
        let body: serde_json::Value =
            serde_json::from_slice(&connect(&account(), Form::Flat, "wacid.1", "v=0\r\n", 9)).unwrap();
        assert_eq!((&body["call_id"], &body["session"]["sdp"]), (&json!("wacid.1"), &json!("v=0\r\n")));
        assert_eq!((&body["session"]["sdp_type"], &body["direction"]), (&json!("offer"), &json!("inbound")));
    }
}
