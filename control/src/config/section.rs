//! Reading one section of the file: every mistake is told with file, line and what to write instead.
//!
//! A [`Section`] remembers which of its keys were asked for; `finish` then complains of the first that nobody knows. So a reader
//! cannot take a key without also naming it as known.
//!
//! Why not `serde`: its errors name a type that was expected, ours name what an operator should write.

use super::ConfigError;
use crate::trace::redact::Secret;
use std::cell::RefCell;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The file that is read.
#[derive(Clone, Copy)]
pub(super) struct Source<'t> {
    /// Its name, as the operator gave it.
    pub name: &'t str,
    /// Its text.
    pub text: &'t str,
    /// The environment, for `..._env` keys.
    pub environment: &'t dyn Fn(&str) -> Option<String>,
}

impl Source<'_> {
    /// `file:line`
    pub fn place(&self, span: &Range<usize>) -> String {
        let before = self.text.get(..span.start).unwrap_or_default();
        format!("{}:{}", self.name, before.matches('\n').count() + 1)
    }

    /// A mistake at a place.
    pub fn mistake(&self, span: &Range<usize>, what: &str) -> ConfigError {
        ConfigError(format!("{}: {what}", self.place(span)))
    }
}

/// One section, `[name]`.
pub(super) struct Section<'t> {
    /// As written between the brackets.
    pub name: String,
    source: Source<'t>,
    table: &'t DeTable<'t>,
    span: Range<usize>,
    known: RefCell<Vec<&'static str>>,
}

impl<'t> Section<'t> {
    /// A section; its value must be a table.
    pub fn new(source: Source<'t>, name: &str, value: &'t Spanned<DeValue<'t>>) -> Result<Section<'t>, ConfigError> {
        let Some(table) = value.get_ref().as_table() else {
            return Err(source
                .mistake(&value.span(), &format!("{name} is not a section: write [{name}] and its entries below")));
        };
        Ok(Section { name: name.to_owned(), source, table, span: value.span(), known: RefCell::default() })
    }

    /// Sections below this one, `[name.key]`, in the order of the file.
    pub fn children(&self) -> Result<Vec<(&'t str, Section<'t>)>, ConfigError> {
        let mut entries: Vec<_> = self.table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let child = |(key, value): (&'t Spanned<std::borrow::Cow<'t, str>>, &'t Spanned<DeValue<'t>>)| {
            let name: &'t str = key.get_ref();
            let mut section = Section::new(self.source, &format!("{}.{name}", self.name), value)?;
            section.span = key.span();
            Ok((name, section))
        };
        entries.into_iter().map(child).collect()
    }

    /// Whether one of these keys is written.
    pub fn has(&self, keys: &[&str]) -> bool {
        self.table.iter().any(|(key, _)| keys.contains(&key.get_ref().as_ref()))
    }

    /// A text, a number, or true and false, as text.
    pub fn text(&self, key: &'static str, remedy: &str) -> Result<Option<String>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match plain(value.get_ref()) {
            Some(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
            None => Err(self.wrong(key, "is not one value", remedy)),
        }
    }

    /// A value that `read` understands.
    pub fn parsed<T>(
        &self,
        key: &'static str,
        remedy: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.text(key, remedy)? else { return Ok(None) };
        read(&text).map(Some).ok_or_else(|| self.wrong(key, &format!("is \"{text}\""), remedy))
    }

    /// One of a few words.
    pub fn one_of<T: Copy>(&self, key: &'static str, words: &[(&str, T)], default: T) -> Result<T, ConfigError> {
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let remedy = format!("write {}", names.join(" or "));
        let find =
            |text: &str| words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, meaning)| *meaning);
        Ok(self.parsed(key, &remedy, find)?.unwrap_or(default))
    }

    /// True or false.
    pub fn flag(&self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        self.one_of(key, &[("true", true), ("false", false)], default)
    }

    /// A number between two others.
    pub fn number(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<u32>,
        default: u32,
    ) -> Result<u32, ConfigError> {
        let remedy = format!("write a number from {} to {}", range.start(), range.end());
        Ok(self.parsed(key, &remedy, |text| text.parse().ok().filter(|n| range.contains(n)))?.unwrap_or(default))
    }

    /// A list; one value alone is a list too. Each element must be understood by `read`.
    pub fn list<T>(
        &self,
        key: &'static str,
        remedy: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(Vec::new()) };
        let one = std::slice::from_ref(value);
        let items = value.get_ref().as_array().map_or(one, |items| items);
        let element = |item: &Spanned<DeValue<'_>>| {
            let Some(text) = plain(item.get_ref()) else {
                return Err(self.wrong(key, "holds a list or a section", remedy));
            };
            read(text.trim()).ok_or_else(|| {
                self.source.mistake(&item.span(), &format!("{}.{key} holds \"{}\": {remedy}", self.name, text.trim()))
            })
        };
        items.iter().map(element).collect()
    }

    /// Pairs of the operator's own, `key = { a = "b" }`.
    pub fn pairs(&self, key: &'static str, remedy: &str) -> Result<Vec<(String, String)>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(Vec::new()) };
        let Some(table) = value.get_ref().as_table() else {
            return Err(self.wrong(key, "is no list of pairs", remedy));
        };
        let pair = |(name, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
            let text = plain(value.get_ref()).ok_or_else(|| self.wrong(key, "holds more than texts", remedy))?;
            Ok((name.get_ref().to_string(), text.trim().to_owned()))
        };
        table.iter().map(pair).collect()
    }

    /// A secret, in the file or in the variable that `key_env` names. Never printed.
    pub fn secret(&self, key: &'static str, key_env: &'static str) -> Result<Option<Secret>, ConfigError> {
        let here = match self.value(key) {
            None => None,
            Some(value) => match plain(value.get_ref()) {
                Some(text) if !text.chars().any(char::is_control) => Some(Secret(text)),
                _ => return Err(self.wrong(key, "is not a text in one line", "write the password in quotes")),
            },
        };
        let remedy = "write the name of a variable of the environment";
        match (here, self.text(key_env, remedy)?) {
            (Some(_), Some(_)) => Err(self.wrong(key_env, &format!("stands beside {key}"), "write one of the two")),
            (None, Some(variable)) => match (self.source.environment)(&variable).filter(|value| !value.is_empty()) {
                Some(value) => Ok(Some(Secret(value))),
                None => Err(self.wrong(
                    key_env,
                    &format!("names {variable}, which is not set"),
                    "set it, or correct its name",
                )),
            },
            (here, None) => Ok(here.filter(|secret| !secret.0.is_empty())),
        }
    }

    /// A mistake in the value of a key.
    pub fn wrong(&self, key: &str, what: &str, remedy: &str) -> ConfigError {
        let span = self.raw(key).map_or(self.span.clone(), Spanned::span);
        self.source.mistake(&span, &format!("{}.{key} {what}: {remedy}", self.name))
    }

    /// A key that is needed and not there.
    pub fn missing(&self, key: &str, remedy: &str) -> ConfigError {
        self.source.mistake(&self.span, &format!("{} has no {key}: {remedy}", self.name))
    }

    /// A mistake of the whole section.
    pub fn mistake(&self, what: &str) -> ConfigError {
        self.source.mistake(&self.span, &format!("{} {what}", self.name))
    }

    /// Where the value of a key stands.
    pub fn place(&self, key: &str) -> String {
        self.source.place(&self.raw(key).map_or(self.span.clone(), Spanned::span))
    }

    /// Complains of a key that nobody asked for.
    pub fn finish(&self) -> Result<(), ConfigError> {
        let mut known = self.known.borrow().clone();
        let stranger = self.table.iter().find(|(key, _)| !known.iter().any(|name| *name == key.get_ref().as_ref()));
        let Some((key, _)) = stranger else { return Ok(()) };
        known.sort_unstable();
        known.dedup();
        let what = format!(
            "{}.{} is no setting: remove it or correct its spelling; known are {}",
            self.name,
            key.get_ref(),
            known.join(", ")
        );
        Err(self.source.mistake(&key.span(), &what))
    }

    fn value(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.known.borrow_mut().push(key);
        self.raw(key)
    }

    fn raw(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.table.iter().find(|(name, _)| name.get_ref().as_ref() == key).map(|(_, value)| value)
    }
}

/// A value that is no collection, as text.
pub(super) fn plain(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}
