//! Dial patterns: regular expressions on the number that was dialed.
//!
//! Patterns are found by a linear-time engine (crate `regex`): whatever an operator writes and whatever is dialed, a look-up
//! costs the length of the number. A pattern is looked for anywhere in the number unless it is anchored, as its authors expect.
//!
//! Providers publish patterns on web pages, and web pages eat backslashes: `^\+?[1-9]\d{6,14}$` arrives as `^+?[1-9]d{6,14}$`,
//! which is a valid expression and matches no number at all. [`Pattern::new`] recognises that form and puts the backslashes back.
//!
//! Why correct instead of refuse: the pattern is copied from the provider's own guide, and everybody who copies it means the same.
//! The correction is reported, so that the file can be put right.

use super::limits::{PATTERN_BYTES_MAX, PATTERN_PROGRAM_BYTES_MAX};
use regex::{Regex, RegexBuilder};

/// A pattern, ready to be looked for.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// Longer than `PATTERN_BYTES_MAX`.
    TooLong,
    /// Larger than `PATTERN_PROGRAM_BYTES_MAX` once its repetitions are written out.
    TooLarge,
    /// Not a regular expression: what is wrong with it, in one line.
    Invalid(String),
}

impl Pattern {
    /// Reads a pattern. Beside it: the form that is used instead, when the backslashes had been lost.
    pub fn new(text: &str) -> Result<(Pattern, Option<String>), PatternError> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong);
        }
        let corrected = with_backslashes(text);
        let used = corrected.as_deref().unwrap_or(text);
        let regex = RegexBuilder::new(used).size_limit(PATTERN_PROGRAM_BYTES_MAX).build();
        let regex = regex.map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => PatternError::TooLarge,
            // The last line names the fault, those above it draw it.
            other => {
                let text = other.to_string();
                let last = text.lines().next_back().unwrap_or_default();
                PatternError::Invalid(last.trim_start_matches("error: ").to_owned())
            }
        })?;
        Ok((Pattern { text: used.to_owned(), regex }, corrected))
    }

    /// Whether it is found in `number`.
    pub fn matches(&self, number: &str) -> bool {
        self.regex.is_match(number)
    }

    /// The pattern as it is used.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

/// The pattern with its backslashes put back, if it looks as if they had been lost: there is none left, and a `+` stands where
/// nothing precedes it that could be repeated, or a `d` is repeated that belongs to no word.
fn with_backslashes(text: &str) -> Option<String> {
    if text.contains('\\') {
        return None;
    }
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len() + 4);
    let mut changed = false;
    for (at, &c) in chars.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| chars[before]);
        let after = chars.get(at + 1).copied();
        // A literal plus: at the start, or behind an anchor, a bar or an opening bracket.
        let plus = c == '+' && matches!(before, None | Some('^' | '(' | '|'));
        // A class of digits: repeated, and not the end of a word (`a`, then `d{2}`).
        let digits = c == 'd'
            && matches!(after, Some('{' | '+' | '*' | '?'))
            && !before.is_some_and(|before| before.is_alphabetic());
        if plus || digits {
            out.push('\\');
            changed = true;
        }
        out.push(c);
    }
    changed.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corrected(text: &str) -> Option<String> {
        Pattern::new(text).unwrap().1
    }

    #[test]
    fn the_published_pattern_is_corrected_and_matches_numbers() {
        let (pattern, corrected) = Pattern::new("^+?[1-9]d{6,14}$").unwrap();
        assert_eq!(corrected.as_deref(), Some(r"^\+?[1-9]\d{6,14}$"));
        assert_eq!(pattern.as_str(), r"^\+?[1-9]\d{6,14}$");
        for number in ["+447700900123", "447700900123", "+1555010"] {
            assert!(pattern.matches(number), "{number}");
        }
        for number in ["+0447700900123", "112", "+44770090012345678", "alice", "ddddddd", "1ddddddd"] {
            assert!(!pattern.matches(number), "{number}");
        }
    }

    #[test]
    fn lost_backslashes_are_put_back_wherever_they_stood() {
        for (lost, meant) in
            [("+44d+", r"\+44\d+"), ("^(+|00)49d*$", r"^(\+|00)49\d*$"), ("^0d{3}|^+1d{10}$", r"^0\d{3}|^\+1\d{10}$")]
        {
            assert_eq!(corrected(lost).as_deref(), Some(meant));
        }
    }

    #[test]
    fn what_is_meant_as_it_stands_is_left_alone() {
        for text in [r"^\+?[1-9]\d{6,14}$", ".", "^44", "^[+]?44", "^(sales|dev|add+)$", "^bob?$", "[0-9]{3}", "", "1+"]
        {
            assert_eq!(corrected(text), None, "{text}");
            assert_eq!(Pattern::new(text).unwrap().0.as_str(), text);
        }
    }

    #[test]
    fn a_pattern_that_would_take_too_much_is_refused() {
        assert_eq!(Pattern::new(&"1".repeat(PATTERN_BYTES_MAX + 1)), Err(PatternError::TooLong));
        assert_eq!(Pattern::new(r"((\w{100}){100}){100}"), Err(PatternError::TooLarge));
        let Err(PatternError::Invalid(fault)) = Pattern::new("^(44") else { panic!("a group was left open") };
        assert_eq!(fault, "unclosed group");
    }

    #[test]
    fn a_hostile_pattern_still_costs_the_length_of_the_number() {
        // Exponential for an engine that backtracks: this test would never end.
        let (pattern, _) = Pattern::new("^(1+)+(1*)*$").unwrap();
        assert!(!pattern.matches(&format!("{}x", "1".repeat(50_000))));
    }
}
