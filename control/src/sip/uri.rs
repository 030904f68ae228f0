//! Addresses of SIP: URIs and the name-addr form around them (RFC 3261 §19.1, §25.1).
//!
//! Everything borrows from the header it was read from, and nothing is unescaped: what goes back on the wire is what came.
//!
//! Why no general URI library: SIP lets `;`, `?` and `/` stand in the user part, which generic parsers split in the wrong place.

use std::net::{IpAddr, SocketAddr};

/// Port of SIP over UDP and TCP when none is written (RFC 3261 §19.1.2).
pub const PORT_DEFAULT: u16 = 5060;

/// A `sip:` or `sips:` URI, split but not unescaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SipUri<'a> {
    /// `sips:`.
    pub secure: bool,
    /// What stands before `@`, password included.
    pub user: Option<&'a str>,
    /// Name or address; an IPv6 address keeps its brackets.
    pub host: &'a str,
    /// The port, if written.
    pub port: Option<u16>,
    /// Parameters, without the first `;`.
    pub params: &'a str,
    /// Headers, without the `?`.
    pub headers: &'a str,
}

impl<'a> SipUri<'a> {
    /// Splits a URI. `None`: another scheme, or not a URI.
    pub fn parse(text: &'a str) -> Option<SipUri<'a>> {
        let (scheme, rest) = text.split_once(':')?;
        let secure = match () {
            () if scheme.eq_ignore_ascii_case("sip") => false,
            () if scheme.eq_ignore_ascii_case("sips") => true,
            () => return None,
        };
        if !is_uri_text(rest) {
            return None;
        }
        // An unescaped `@` can stand nowhere but behind the user part (RFC 3261 §25.1), which itself may hold `;` and `?`.
        let (user, rest) = match rest.split_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        let (rest, headers) = rest.split_once('?').unwrap_or((rest, ""));
        let (host_port, params) = rest.split_once(';').unwrap_or((rest, ""));
        let (host, port) = split_host_port(host_port)?;
        Some(SipUri { secure, user, host, port, params, headers })
    }

    /// The value of a parameter; empty when it stands alone.
    pub fn param(&self, name: &str) -> Option<&'a str> {
        param(self.params, name)
    }

    /// Loose routing: the proxy behind this URI leaves the Request-URI alone (RFC 3261 §16.12).
    pub fn is_loose(&self) -> bool {
        self.param("lr").is_some()
    }

    /// The address, when the host is one.
    pub fn address(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.host.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        Some(SocketAddr::new(ip, self.port.unwrap_or(PORT_DEFAULT)))
    }
}

/// Splits `host[:port]`; brackets around IPv6 stay. `None`: neither a name nor an address, or no valid port.
pub fn split_host_port(text: &str) -> Option<(&str, Option<u16>)> {
    let host_end = match text.strip_prefix('[') {
        Some(inside) => inside.find(']')? + 2,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(host_end);
    let port = match rest.strip_prefix(':') {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
        Some(_) => return None,
        None if rest.is_empty() => None,
        None => return None,
    };
    let valid = match host.strip_prefix('[') {
        Some(inside) => inside.trim_end_matches(']').parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
    };
    valid.then_some((host, port))
}

/// A name-addr or addr-spec with its header parameters: the value of From, To, Contact, Route (RFC 3261 §25.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// Display name as written, quotes included.
    pub display: &'a str,
    /// The URI, any scheme.
    pub uri: &'a str,
    /// Header parameters, without the first `;`.
    pub params: &'a str,
}

impl<'a> NameAddr<'a> {
    /// Splits one element of a list. `None`: not well formed.
    pub fn parse(text: &'a str) -> Option<NameAddr<'a>> {
        let text = text.trim();
        let angle = match text.strip_prefix('"') {
            Some(inside) => {
                let rest = quoted_end(inside)? + 1;
                rest + text[rest..].find('<').filter(|gap| text[rest..rest + gap].trim().is_empty())?
            }
            None => match text.find(['<', ';', '?']) {
                Some(at) if text.as_bytes()[at] == b'<' => at,
                _ => return NameAddr::parse_addr_spec(text),
            },
        };
        let display = text[..angle].trim();
        if !display.starts_with('"') && !display.split_ascii_whitespace().all(is_token) {
            return None;
        }
        let (uri, rest) = text[angle + 1..].split_once('>')?;
        let rest = rest.trim();
        let params = if rest.is_empty() { "" } else { rest.strip_prefix(';')? };
        (is_uri_text(uri) && uri.contains(':') && params_are_valid(params, !rest.is_empty())).then_some(NameAddr {
            display,
            uri,
            params,
        })
    }

    /// Without angle brackets, everything behind `;` belongs to the header, and `?` and `,` may not occur (RFC 3261 §20.10).
    fn parse_addr_spec(text: &'a str) -> Option<NameAddr<'a>> {
        let (uri, params) = text.split_once(';').map_or((text, ""), |(uri, params)| (uri.trim_end(), params));
        let well_formed = is_uri_text(uri) && uri.contains(':') && !uri.contains(['?', ',']);
        (well_formed && params_are_valid(params, text.contains(';'))).then_some(NameAddr { display: "", uri, params })
    }

    /// The value of a header parameter; empty when it stands alone.
    pub fn param(&self, name: &str) -> Option<&'a str> {
        param(self.params, name)
    }

    /// The tag of a From or To; an empty one counts as none.
    pub fn tag(&self) -> Option<&'a str> {
        self.param("tag").filter(|tag| !tag.is_empty())
    }
}

/// The value of `name` among `;`-separated parameters, quotes kept; empty when it stands alone.
pub fn param<'a>(params: &'a str, name: &str) -> Option<&'a str> {
    split_list(params, ';').find_map(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Whether `params` is a list without empty elements. `present`: a `;` was written, so that an empty list is an error.
pub fn params_are_valid(params: &str, present: bool) -> bool {
    if params.trim().is_empty() {
        return !present;
    }
    split_list(params, ';').all(|part| {
        let (key, _) = part.split_once('=').unwrap_or((part, ""));
        is_token(key.trim())
    })
}

/// Splits at `separator`, but not inside quoted strings or angle brackets. Elements are trimmed and may be empty.
pub fn split_list(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let current = rest?;
        let (mut quoted, mut escaped, mut angle) = (false, false, false);
        let end = current.char_indices().find(|&(_, c)| {
            if escaped {
                escaped = false;
                return false;
            }
            match c {
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                '<' if !quoted => angle = true,
                '>' if !quoted => angle = false,
                _ => {}
            }
            c == separator && !quoted && !angle
        });
        let element = match end {
            Some((at, _)) => {
                rest = Some(&current[at + separator.len_utf8()..]);
                &current[..at]
            }
            None => {
                rest = None;
                current
            }
        };
        Some(element.trim())
    })
}

/// `token` of RFC 3261 §25.1.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&b))
}

/// Takes the quotes off a quoted string and resolves its escapes; other text is returned as it is.
pub fn unquote(text: &str) -> String {
    let text = text.trim();
    let Some(inside) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return text.to_owned();
    };
    let mut out = String::with_capacity(inside.len());
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

/// Writes a quoted string; control characters become spaces (RFC 3261 §25.1).
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Escapes a user part: everything but unreserved and user-unreserved becomes %XX (RFC 3261 §25.1).
pub fn escape_user(text: &str) -> String {
    escape(text, |b| b.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&b))
}

/// Replaces every byte that `keep` does not name by %XX.
pub fn escape(text: &str, keep: impl Fn(u8) -> bool) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, b| {
        if keep(b) {
            out.push(char::from(b));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{b:02X}");
        }
        out
    })
}

/// Resolves %XX; what is no such escape stays as it is. Bytes that are not UTF-8 become replacement characters.
pub fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Index behind the closing quote's predecessor: where, in `inside` (the text behind the opening quote), the quote closes, plus one.
fn quoted_end(inside: &str) -> Option<usize> {
    let mut escaped = false;
    inside.char_indices().find_map(|(at, c)| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes.then_some(at + 1)
    })
}

/// No white space, control character, quote or angle bracket: none can stand in a URI unescaped.
fn is_uri_text(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| !c.is_whitespace() && !c.is_control() && !matches!(c, '<' | '>' | '"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_part_may_hold_semicolons_and_question_marks() {
        let uri = SipUri::parse("sip:user;par=u%40example.net?x@example.com:5070;lr;maddr=1.2.3.4?Route=%3C").unwrap();
        assert_eq!(uri.user, Some("user;par=u%40example.net?x"));
        assert_eq!((uri.host, uri.port, uri.headers), ("example.com", Some(5070), "Route=%3C"));
        assert!(uri.is_loose());
        assert_eq!(uri.param("MADDR"), Some("1.2.3.4"));
    }

    #[test]
    fn addresses_are_read_from_both_families() {
        assert_eq!(SipUri::parse("sip:a@192.0.2.1").unwrap().address(), Some("192.0.2.1:5060".parse().unwrap()));
        assert_eq!(SipUri::parse("sip:[::1]:5099;lr").unwrap().address(), Some("[::1]:5099".parse().unwrap()));
        assert_eq!(SipUri::parse("sip:a@example.com").unwrap().address(), None);
    }

    #[test]
    fn broken_uris_are_refused() {
        for text in [
            "",
            "sip:",
            "tel:+1",
            "sip:a b@c",
            "sip:a@",
            "sip:a@h:99999",
            "sip:a@h:",
            "sip:a@[::1",
            "sip:a@h\r\nX: y",
            "sip:a@h>",
        ] {
            assert_eq!(SipUri::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn display_names_may_hold_the_separators() {
        let text = r#""Smith, \"J\" <x>; y" <sip:j@example.com;lr>;tag=a;p="b;c""#;
        let addr = NameAddr::parse(text).unwrap();
        assert_eq!(addr.uri, "sip:j@example.com;lr");
        assert_eq!((addr.tag(), addr.param("p")), (Some("a"), Some("\"b;c\"")));
        assert_eq!(unquote(addr.display), "Smith, \"J\" <x>; y");
        assert_eq!(split_list(&format!("{text}, <sip:b>,c"), ',').count(), 3);
    }

    #[test]
    fn addr_spec_gives_its_parameters_to_the_header() {
        let addr = NameAddr::parse("sip:vivekg@chair.example.com ;   tag    = 19").unwrap();
        assert_eq!((addr.uri, addr.tag()), ("sip:vivekg@chair.example.com", Some("19")));
        for text in [
            "sip:u@e.com?Route=x",
            "\"open <sip:a@b>",
            "A, B <sip:a@b>",
            "< sip:a@b >",
            "<sip:a@b>;;",
            "<sip:a@b> x",
            "sip:a@b;",
        ] {
            assert_eq!(NameAddr::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn quoting_is_undone_by_unquoting() {
        assert_eq!(unquote(&quote(r#"a"b\c;<>"#)), r#"a"b\c;<>"#);
        assert_eq!(quote("a\r\nVia: x"), "\"a  Via: x\"");
        assert_eq!(escape_user("+55 11@x\r\n"), "+55%2011%40x%0D%0A");
        assert_eq!(unescape("+55%2011%40x%0D%0A"), "+55 11@x\r\n");
        assert_eq!(unescape("%%4z%E9%"), "%%4z\u{fffd}%");
    }
}
