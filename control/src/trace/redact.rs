//! Keeps numbers, addresses, tokens and descriptions out of logs.

use sha2::{Digest, Sha256};
use std::fmt;

/// Prints how long a value is and its last two characters, so that two lines about the same number can be matched.
pub struct Redact<'t>(pub &'t str);

impl fmt::Display for Redact<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.chars().count();
        if count < 8 {
            return write!(f, "[{count} chars]");
        }
        let tail: String = self.0.chars().skip(count - 2).collect();
        write!(f, "[{count} chars, ..{tail}]")
    }
}

impl fmt::Debug for Redact<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Stands for a call id, from which both phone numbers can be decoded: the first 12 digits of its SHA-256. Who has the id finds
/// the lines with `printf %s "$id" | sha256sum`.
pub struct CallTag<'t>(pub &'t str);

impl fmt::Display for CallTag<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Sha256::digest(self.0.as_bytes()).iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A secret: printed as set or unset, never more.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "unset" } else { "set" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_secret_cannot_be_read_from_the_log() {
        assert_eq!(format!("{} {:?}", Redact("447700900123"), Redact("bob")), "[12 chars, ..23] [3 chars]");
        // `wacid.` and base64 of `447700900123`, among others.
        assert_eq!(CallTag("wacid.NDQ3NzAwOTAwMTIz").to_string(), "0f87ccc53d57");
        assert_eq!(format!("{:?} {:?}", Secret("hunter2".into()), Secret::default()), "set unset");
    }
}
