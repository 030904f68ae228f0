//! Telephone numbers in E.164: what was dialed, what is shown, and what a trunk wants to see.
//!
//! A number is in E.164 when it starts with `+` and has 7 to 15 digits (ITU-T E.164 §6.2.1; RFC 3966 §5.1.4). Everything else is
//! brought to it by rules that the operator states: the prefix for other countries, the prefix for the own one, and which it is.
//!
//! Why the rules are few: a dial plan that guesses sends calls to strangers. What no rule covers stays as it was dialed.

/// How numbers are dialed here (`[numbers]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbering {
    /// The own country code, digits only; `None`: numbers without any prefix are taken for international ones.
    pub country: Option<String>,
    /// What stands for `+` when dialed, such as 00.
    pub international_prefix: String,
    /// What precedes a number of the own country, such as 0; may be empty.
    pub national_prefix: String,
}

impl Default for Numbering {
    fn default() -> Numbering {
        Numbering { country: None, international_prefix: "00".to_owned(), national_prefix: "0".to_owned() }
    }
}

/// How a trunk wants its numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NumberFormat {
    /// `+447700900123`
    #[default]
    E164,
    /// `447700900123`
    Digits,
    /// As it came.
    AsDialed,
}

/// Fewest and most digits of a number in E.164.
const DIGITS: std::ops::RangeInclusive<usize> = 7..=15;

impl Numbering {
    /// The number in E.164; `None`: it is none, or the rules do not say which.
    pub fn e164(&self, dialed: &str) -> Option<String> {
        let plain = without_separators(dialed);
        let digits = if let Some(international) = plain.strip_prefix('+') {
            international.to_owned()
        } else if let Some(rest) = strip(&plain, &self.international_prefix) {
            rest.to_owned()
        } else {
            match &self.country {
                None => plain,
                Some(country) => match strip(&plain, &self.national_prefix) {
                    Some(national) => format!("{country}{national}"),
                    // Already with its country code, as WhatsApp writes numbers.
                    None if plain.starts_with(country.as_str()) => plain,
                    None if self.national_prefix.is_empty() => format!("{country}{plain}"),
                    None => return None,
                },
            }
        };
        let valid = DIGITS.contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && !digits.starts_with('0');
        valid.then(|| format!("+{digits}"))
    }
}

impl NumberFormat {
    /// Writes `number` in this form. One that is not in E.164 stays as it was dialed.
    pub fn write(self, number: &str, numbering: &Numbering) -> String {
        match (self, numbering.e164(number)) {
            (NumberFormat::E164, Some(number)) => number,
            (NumberFormat::Digits, Some(number)) => number.trim_start_matches('+').to_owned(),
            (NumberFormat::AsDialed, _) | (_, None) => number.to_owned(),
        }
    }
}

/// Without what people put between digits to read them (RFC 3966 §5.1.1), if nothing but a number is left.
pub fn without_separators(dialed: &str) -> String {
    let text = dialed.trim();
    let separator = |c: char| matches!(c, '-' | '.' | '(' | ')' | ' ');
    let number = text.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | '*' | '#') || separator(c));
    if number { text.chars().filter(|c| !separator(*c)).collect() } else { text.to_owned() }
}

/// Without a prefix that is not empty.
fn strip<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    if prefix.is_empty() { None } else { text.strip_prefix(prefix) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_brought_to_e164_by_the_rules_of_the_country() {
        let british = Numbering { country: Some("44".into()), ..Numbering::default() };
        let american =
            Numbering { country: Some("1".into()), international_prefix: "011".into(), national_prefix: String::new() };
        for (rules, dialed, expected) in [
            (&british, "+447700900123", Some("+447700900123")),
            (&british, "07700 900123", Some("+447700900123")),
            (&british, "00447700900123", Some("+447700900123")),
            (&british, "447700900123", Some("+447700900123")),
            (&british, "+44 (7700) 900-123", Some("+447700900123")),
            (&british, "7700900123", None),
            (&british, "999", None),
            (&british, "alice", None),
            (&british, "+44770090012345678", None),
            (&british, "+0447700900", None),
            (&american, "5550100123", Some("+15550100123")),
            (&american, "15550100123", Some("+15550100123")),
            (&american, "011447700900123", Some("+447700900123")),
        ] {
            assert_eq!(rules.e164(dialed).as_deref(), expected, "{dialed}");
        }
        assert_eq!(Numbering::default().e164("447700900123").as_deref(), Some("+447700900123"));
        assert_eq!(Numbering::default().e164("07700900123"), None);
    }

    #[test]
    fn a_trunk_sees_numbers_in_its_own_form() {
        let rules = Numbering { country: Some("44".into()), ..Numbering::default() };
        assert_eq!(NumberFormat::E164.write("07700900123", &rules), "+447700900123");
        assert_eq!(NumberFormat::Digits.write("07700900123", &rules), "447700900123");
        assert_eq!(NumberFormat::AsDialed.write("07700900123", &rules), "07700900123");
        assert_eq!(NumberFormat::E164.write("echo-test", &rules), "echo-test");
    }
}
