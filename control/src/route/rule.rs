//! A rule of the configuration (`[[routes]]`): which calls go where.
//!
//! Rules are looked at in the order of the file, and the first whose conditions all hold decides. A condition that is not written
//! holds for every call.

use super::pattern::Pattern;
use super::{Destination, Source};
use crate::call::AcceptPolicy;

/// Which calls a rule is about, by where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceRule {
    /// Calls from WhatsApp's webhooks.
    Whatsapp,
    /// Calls from any trunk.
    Trunks,
    /// Calls from one trunk, by name.
    Trunk(String),
    /// Calls from any registered user.
    Users,
    /// Calls from one user.
    User(String),
}

impl SourceRule {
    fn holds(&self, source: &Source, trunk_name: impl Fn(super::TrunkId) -> Option<String>) -> bool {
        match (self, source) {
            (SourceRule::Whatsapp, Source::Whatsapp)
            | (SourceRule::Trunks, Source::Trunk(_))
            | (SourceRule::Users, Source::User(_)) => true,
            (SourceRule::Trunk(name), Source::Trunk(id)) => trunk_name(*id).as_ref() == Some(name),
            (SourceRule::User(name), Source::User(user)) => user == name,
            _ => false,
        }
    }

    /// As it is written in the configuration.
    pub fn words(&self) -> String {
        match self {
            SourceRule::Whatsapp => "whatsapp".to_owned(),
            SourceRule::Trunks => "trunks".to_owned(),
            SourceRule::Trunk(name) => format!("trunk:{name}"),
            SourceRule::Users => "users".to_owned(),
            SourceRule::User(name) => format!("user:{name}"),
        }
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name; its number in the file where none is written.
    pub name: String,
    /// Condition on the number that was dialed.
    pub dialed: Option<Pattern>,
    /// Condition on the caller's number or name.
    pub from: Option<Pattern>,
    /// Condition on where the call comes from; empty: anywhere.
    pub sources: Vec<SourceRule>,
    /// Where it goes: tried one after the other.
    pub to: Vec<Destination>,
    /// When a call from WhatsApp is accepted that this rule takes.
    pub accept: Option<AcceptPolicy>,
}

impl Rule {
    /// Whether it takes the call; the error says in words which condition does not hold.
    pub(super) fn takes(
        &self,
        dialed: &[String],
        from: &[String],
        source: &Source,
        trunk_name: impl Fn(super::TrunkId) -> Option<String> + Copy,
    ) -> Result<(), String> {
        if !self.sources.is_empty() && !self.sources.iter().any(|rule| rule.holds(source, trunk_name)) {
            let wanted: Vec<String> = self.sources.iter().map(SourceRule::words).collect();
            return Err(format!("is for calls from {}", wanted.join(", ")));
        }
        for (what, pattern, texts) in [("the number", &self.dialed, dialed), ("the caller", &self.from, from)] {
            if let Some(pattern) = pattern
                && !texts.iter().any(|text| pattern.matches(text))
            {
                return Err(format!("{} does not match {what}", pattern.as_str()));
            }
        }
        Ok(())
    }
}
