//! Takes numbers and addresses out of other people's words before they reach the log: reason phrases of SIP, texts of Graph's
//! errors. Such words are wanted in the log, and nobody promises that they hold no caller's number.
//!
//! Why by shape and not by place: these texts have no grammar. A run of eight digits or more is taken for a telephone number; error
//! codes and subcodes have seven at most. What belongs to a longer word, such as a trace id, stays.

use std::net::IpAddr;

/// Fewest digits that are taken for a telephone number.
const NUMBER_DIGITS: usize = 8;

/// The same text without numbers, IP addresses and the users of SIP URIs.
pub fn scrub(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(is_break).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        push_word(&mut out, word);
        let gap = tail.find(|c| !is_break(c)).unwrap_or(tail.len());
        out.push_str(&tail[..gap]);
        rest = &tail[gap..];
    }
    out
}

fn is_break(c: char) -> bool {
    c.is_whitespace() || matches!(c, ',' | ';' | '"' | '\'' | '(' | ')' | '<' | '>' | '=')
}

fn push_word(out: &mut String, word: &str) {
    let lower = word.to_ascii_lowercase();
    // Behind `sip:` alone stands no URI: it is a word of ours.
    let is_uri = |scheme: &&str| lower.len() > scheme.len() && lower.starts_with(scheme);
    if let Some(scheme) = ["sip:", "sips:", "tel:"].into_iter().find(is_uri) {
        out.push_str(&word[..scheme.len()]);
        out.push_str("[..]");
    } else if word.contains('@') {
        out.push_str("[..]");
    } else if is_address(word) {
        out.push_str("[address]");
    } else {
        push_without_numbers(out, word);
    }
}

fn is_address(word: &str) -> bool {
    let word = word.trim_end_matches(['.', ':']);
    let bare = word.trim_matches(['[', ']']);
    let without_port = word.rsplit_once(':').map(|(host, _)| host.trim_matches(['[', ']']));
    [Some(bare), without_port].into_iter().flatten().any(|host| host.parse::<IpAddr>().is_ok())
}

/// Digits, also with the usual signs between them; not as part of a word with letters.
fn push_without_numbers(out: &mut String, word: &str) {
    let digits = word.chars().filter(char::is_ascii_digit).count();
    let written_as_number =
        word.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | '/' | ':' | '*' | '#'));
    // `100/2494010`: a code and its subcode, neither of which is that long.
    let longest = word.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
    let grouped = word.contains('-') && !word.contains('/') && digits >= NUMBER_DIGITS;
    if written_as_number && (longest >= NUMBER_DIGITS || grouped) {
        let tail: String = word.chars().filter(char::is_ascii_digit).skip(digits - 2).collect();
        out.push_str(&format!("[{digits} digits, ..{tail}]"));
    } else {
        out.push_str(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_addresses_go_and_everything_else_stays() {
        for (text, scrubbed) in [
            ("486 Busy Here", "486 Busy Here"),
            ("404 No route to +447700900123", "404 No route to [12 digits, ..23]"),
            ("the user 1-555-010-0123 is busy", "the user [11 digits, ..23] is busy"),
            ("no answer from 192.0.2.7:5060, sorry", "no answer from [address], sorry"),
            ("peer [2001:db8::1]:5060 and 2001:db8::1.", "peer [address] and [address]"),
            ("call sip:alice@192.0.2.1;transport=udp <tel:+4477009001>", "call sip:[..];transport=udp <tel:[..]>"),
            ("bob@example.com was told", "[..] was told"),
            (
                "HTTP 400, code 100/2494010, Invalid parameter: Fingerprint algo is not SHA256 (fbtrace_id AbCdEfGhIjKlMn0123456789x)",
                "HTTP 400, code 100/2494010, Invalid parameter: Fingerprint algo is not SHA256 (fbtrace_id AbCdEfGhIjKlMn0123456789x)",
            ),
            ("recipient=447700900123", "recipient=[12 digits, ..23]"),
            ("DTLS 1.2, AEAD_AES_128_GCM", "DTLS 1.2, AEAD_AES_128_GCM"),
            ("side=sip cause=busy: 486 447700900123 busy", "side=sip cause=busy: 486 [12 digits, ..23] busy"),
            ("IPv4, remote port 40012", "IPv4, remote port 40012"),
            ("sip: 12 packets in", "sip: 12 packets in"),
        ] {
            assert_eq!(scrub(text), scrubbed);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_no_long_run_of_digits_survives_alone(text in "[ -~äß]{0,60}", number in "[0-9]{8,15}") {
            scrub(&text);
            let around = format!("{text} {number} {text}");
            proptest::prop_assert!(!scrub(&around).split(' ').any(|word| word == number));
        }
    }
}
