//! `X-Hub-Signature-256`: HMAC-SHA256 over the raw bytes of the body, keyed with the app secret.
//!
//! The bytes are those that came: WhatsApp signs its own escaping (`\u00e9`, `\/`), which no JSON library writes the same way.

use aws_lc_rs::{constant_time, hmac};

/// The header's name, in the form that HTTP libraries use.
pub const HEADER: &str = "x-hub-signature-256";

/// What webhooks must prove.
#[derive(Clone, PartialEq, Eq)]
pub enum Proof {
    /// A signature with this app secret.
    Signature(String),
    /// A header with this name and value, for providers that keep the app secret to themselves.
    SharedHeader(String, String),
}

/// Whether `header` is the signature of `body`. Takes the same time wherever the two differ.
pub fn is_signed(secret: &str, body: &[u8], header: &str) -> bool {
    let Some(signature) = header.trim().strip_prefix("sha256=").and_then(from_hex) else { return false };
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::verify(&key, body, &signature).is_ok()
}

/// The header's value for `body`: what a sender of webhooks writes.
pub fn sign(secret: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, body);
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

/// Whether two secrets are the same, in a time that does not tell where they differ.
pub fn same_secret(ours: &str, theirs: &str) -> bool {
    constant_time::verify_slices_are_equal(ours.as_bytes(), theirs.as_bytes()).is_ok()
}

fn from_hex(hex: &str) -> Option<[u8; 32]> {
    let digits = hex.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "test-app-secret";
    const CONNECT: &[u8] = include_bytes!("../../tests/data/whatsapp/connect-uic.wire.json");
    const BATCH: &[u8] = include_bytes!("../../tests/data/whatsapp/batch-mixed.wire.json");
    const CONNECT_SIGNED: &str = "sha256=4a64d1dacd562e7cbfd34211b92cbdd1ce8db017ac6f7634af18f1e4015f4b73";
    const BATCH_SIGNED: &str = "sha256=1f8302d225da3f3bc5c1b5402cd8e159d6df796859a16077ed9c4335998d2823";

    #[test]
    fn signatures_of_bodies_as_sent_verify() {
        assert!(is_signed(SECRET, CONNECT, CONNECT_SIGNED));
        assert!(is_signed(SECRET, BATCH, BATCH_SIGNED));
        assert_eq!(sign(SECRET, BATCH), BATCH_SIGNED);
    }

    #[test]
    fn anything_else_does_not() {
        let mut changed = CONNECT.to_vec();
        changed[40] ^= 1;
        let hex = CONNECT_SIGNED.trim_start_matches("sha256=");
        for (secret, body, header) in [
            (SECRET, changed.as_slice(), CONNECT_SIGNED),
            ("another", CONNECT, CONNECT_SIGNED),
            (SECRET, CONNECT, BATCH_SIGNED),
            (SECRET, CONNECT, hex),
            (SECRET, CONNECT, ""),
            (SECRET, CONNECT, "sha256="),
            (SECRET, CONNECT, &CONNECT_SIGNED[..70]),
            (SECRET, CONNECT, &format!("{CONNECT_SIGNED}00")),
            (SECRET, CONNECT, "sha256=éééééééééééééééééééééééééééééééé"),
        ] {
            assert!(!is_signed(secret, body, header), "{header}");
        }
    }

    #[test]
    fn secrets_of_different_length_differ() {
        assert!(same_secret("a", "a") && !same_secret("a", "ab") && !same_secret("", "a"));
    }
}
