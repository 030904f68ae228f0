//! Takes secrets out of a SIP message before anybody keeps it: passwords' answers, tokens, keys of SRTP and ICE, and keys that a
//! caller pressed; numbers too, where the operator wants that.
//!
//! Every secret is replaced by as many `*`, so that the message keeps its length and its Content-Length stays true for whoever
//! reads it next.
//!
//! Why when it is stored and not when it is shown: what is not there can be shown by no mistake.

/// What is taken out beside secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whether numbers stand as they came; otherwise only their last two digits.
    pub numbers: bool,
}

/// Fewest digits in a row that are taken for a telephone number.
const NUMBER_DIGITS: usize = 7;

/// Headers whose digest parameters hold what could be played back or guessed from.
const DIGEST_PARAMETERS: [&str; 2] = ["response", "cnonce"];

/// Headers in which people's numbers stand.
const NUMBER_HEADERS: [&str; 16] = [
    "from",
    "f",
    "to",
    "t",
    "contact",
    "m",
    "p-asserted-identity",
    "p-preferred-identity",
    "remote-party-id",
    "diversion",
    "history-info",
    "refer-to",
    "r",
    "referred-by",
    "b",
    "p-called-party-id",
];

/// The message as it may be kept. What is no UTF-8 becomes the replacement character.
pub fn masked(message: &[u8], policy: Policy) -> String {
    let text = String::from_utf8_lossy(message);
    let (head, body) = split_body(&text);
    let mut out = String::with_capacity(text.len());
    let mut last = String::new();
    for (at, line) in head.split_inclusive('\n').enumerate() {
        let folded = line.starts_with([' ', '\t']);
        if at == 0 {
            out.push_str(&if policy.numbers { line.to_owned() } else { without_numbers(line) });
            continue;
        }
        if !folded {
            last = line.split(':').next().unwrap_or_default().trim().to_ascii_lowercase();
        }
        out.push_str(&masked_header(&last, line, folded, policy));
    }
    out.push_str(&masked_body(body, policy));
    out
}

fn split_body(text: &str) -> (&str, &str) {
    let end = text.find("\r\n\r\n").map(|at| at + 4).or_else(|| text.find("\n\n").map(|at| at + 2));
    text.split_at(end.unwrap_or(text.len()))
}

fn masked_header(name: &str, line: &str, folded: bool, policy: Policy) -> String {
    let value_at = if folded { 0 } else { line.find(':').map_or(line.len(), |colon| colon + 1) };
    let (start, value) = line.split_at(value_at);
    let is_digest = || value.trim_start().get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("digest"));
    let secret = ["token", "secret", "password", "cookie", "api-key", "jwt"].iter().any(|word| name.contains(word));
    let masked = match name {
        "authorization" | "proxy-authorization" if folded || is_digest() => masked_digest(value),
        "authorization" | "proxy-authorization" => stars(value),
        _ if secret => stars(value),
        _ if !policy.numbers && (NUMBER_HEADERS.contains(&name) || name.starts_with("x-")) => without_numbers(value),
        _ => value.to_owned(),
    };
    format!("{start}{masked}")
}

/// Without the values of `response` and `cnonce`; a nonce alone is worth nothing.
fn masked_digest(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for part in value.split_inclusive(',') {
        let name = part.split('=').next().unwrap_or_default();
        let name = name.rsplit([' ', '\t']).next().unwrap_or_default();
        let secret = DIGEST_PARAMETERS.iter().any(|known| known.eq_ignore_ascii_case(name));
        match part.find('=') {
            Some(at) if secret => {
                out.push_str(&part[..=at]);
                out.push_str(&stars(&part[at + 1..]));
            }
            _ => out.push_str(part),
        }
    }
    out
}

fn masked_body(body: &str, policy: Policy) -> String {
    let mut out = String::with_capacity(body.len());
    for line in body.split_inclusive('\n') {
        let lower = line.to_ascii_lowercase();
        if let Some(at) = lower.strip_prefix("a=crypto:").and_then(|_| lower.find("inline:")) {
            // The lifetime behind the bar is no secret, and tells much (RFC 4568 §9.1).
            let key_at = at + "inline:".len();
            let end = line[key_at..].find(['|', ' ', '\r', '\n']).map_or(line.len(), |end| key_at + end);
            out.push_str(&line[..key_at]);
            out.push_str(&stars(&line[key_at..end]));
            out.push_str(&masked_body(&line[end..], policy));
        } else if lower.starts_with("a=ice-pwd:") || lower.starts_with("k=") || lower.starts_with("signal=") {
            let at = line
                .find([':', '='])
                .map_or(0, |first| if lower.starts_with("a=") { "a=ice-pwd:".len() } else { first + 1 });
            out.push_str(&line[..at]);
            out.push_str(&stars(&line[at..]));
        } else if !policy.numbers && !lower.starts_with("a=") {
            out.push_str(&without_numbers(line));
        } else {
            out.push_str(line);
        }
    }
    out
}

/// As many stars as there are characters, line breaks and separators aside.
fn stars(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '\r' | '\n' | ' ' | '\t' | '"' | ',') { c } else { '*' }).collect()
}

/// Every long row of digits without all but its last two.
pub fn without_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let length = rest[start..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - start);
        let digits = &rest[start..start + length];
        out.push_str(&rest[..start]);
        if length >= NUMBER_DIGITS {
            out.extend(std::iter::repeat_n('*', length - 2));
            out.push_str(&digits[length - 2..]);
        } else {
            out.push_str(digits);
        }
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVITE: &str = "INVITE sip:+447700900123@gw.example SIP/2.0\r\n\
        Via: SIP/2.0/TLS 192.0.2.1:5061;branch=z9hG4bK12345678\r\n\
        From: \"Ann\" <sip:+15550100123@a.example>;tag=x\r\n\
        Proxy-Authorization: Digest username=\"u\", realm=\"r\", nonce=\"abc\",\r\n response=\"0123456789abcdef\", cnonce=\"zz\", qop=auth\r\n\
        Authorization: Bearer eyJhbGciOi.J9\r\n\
        X-Siperb-Token: hunter2\r\n\
        Content-Length: 5\r\n\r\n\
        v=0\r\n\
        o=- 1 2 IN IP4 192.0.2.1\r\n\
        a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz|2^20|1:4 UNENCRYPTED_SRTCP\r\n\
        a=ice-ufrag:4ZcD\r\n\
        a=ice-pwd:2/1muCWoOi3uLifh0NuRHlgh\r\n\
        Signal=5\r\n";

    #[test]
    fn no_secret_of_a_message_is_kept_and_its_length_is() {
        let kept = masked(INVITE.as_bytes(), Policy { numbers: true });
        assert_eq!(kept.len(), INVITE.len());
        for secret in ["0123456789abcdef", "\"zz\"", "eyJ", "hunter2", "WVNf", "2/1mu", "Signal=5"] {
            assert!(!kept.contains(secret), "{secret} in {kept}");
        }
        for text in [
            "username=\"u\"",
            "nonce=\"abc\"",
            "qop=auth",
            "+447700900123",
            "|2^20|1:4 UNENCRYPTED_SRTCP",
            "a=ice-ufrag:4ZcD",
            "response=\"****************\", cnonce=\"**\"",
        ] {
            assert!(kept.contains(text), "{text} not in {kept}");
        }
    }

    #[test]
    fn numbers_are_hidden_where_people_stand_and_nowhere_else() {
        let kept = masked(INVITE.as_bytes(), Policy { numbers: false });
        assert_eq!(kept.len(), INVITE.len());
        assert!(kept.contains("INVITE sip:+**********23@gw.example"), "{kept}");
        assert!(kept.contains("<sip:+*********23@a.example>"), "{kept}");
        assert!(kept.contains("branch=z9hG4bK12345678") && kept.contains("192.0.2.1:5061"), "{kept}");
    }

    #[test]
    fn what_is_no_message_is_masked_without_harm() {
        for bytes in [
            &b""[..],
            b"\r\n\r\n",
            b"\xff\xfe: Authorization",
            b"Authorization",
            b"a=crypto:inline:",
            b"x\nAuthorization:",
        ] {
            masked(bytes, Policy::default());
        }
    }
}
