//! `[numbers]`, `[trunks]`, `[users]`, `[groups]` and `[[routes]]`: everything that decides where calls go.

use super::ConfigError;
use super::accounts::Account;
use super::section::{Section, Source};
use super::trunks::{self, TO_REMEDY};
use super::values::POLICIES;
use crate::registrar::{Group, User, limits as people};
use crate::route::{Destination, Numbering, Routes, Rule, SourceRule, Trunk, TrunkId, limits};
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Sections that are read here.
pub(super) const SECTIONS: [&str; 5] = ["numbers", "trunks", "users", "groups", "routes"];

/// Reads all of them; beside the routes what was corrected. Accounts that call users are ways among the trunks.
pub(super) fn read(
    source: Source<'_>,
    document: &DeTable<'_>,
    accounts: &[Account],
) -> Result<(Routes, Vec<String>), ConfigError> {
    let find = |name: &str| document.iter().find(|(key, _)| key.get_ref().as_ref() == name).map(|(_, value)| value);
    let section = |name: &str| find(name).map(|value| Section::new(source, name, value)).transpose();
    let mut routes = Routes::default();
    let mut warnings = Vec::new();
    if let Some(numbers) = section("numbers")? {
        routes.numbering = read_numbering(&numbers)?;
    }
    if let Some(users) = section("users")? {
        routes.users = read_users(&users, &routes.numbering)?;
    }
    if let Some(groups) = section("groups")? {
        routes.groups = read_groups(&groups, &routes)?;
    }
    let mut pending = Vec::new();
    if let Some(trunks) = section("trunks")? {
        for (name, section) in trunks.children()? {
            check_name(&section, name)?;
            let read = trunks::read(name, &section, &routes.numbering)?;
            if read.trunk.inbound.as_ref().is_some_and(|inbound| routes.users.contains_key(&inbound.username)) {
                return Err(section.wrong("inbound_user", "is the name of a user", "write another name"));
            }
            warnings.extend(read.warning);
            pending.extend(read.to.map(|to| (routes.trunks.len(), section, to)));
            routes.trunks.push(read.trunk);
        }
        if routes.trunks.len() > limits::TRUNKS_MAX {
            return Err(trunks.mistake(&format!("are {}: write at most {}", routes.trunks.len(), limits::TRUNKS_MAX)));
        }
    }
    routes.trunks.extend(accounts.iter().filter_map(|account| account.outbound.clone()));
    for (index, section, to) in pending {
        let found = destination(&routes, accounts, &to).map_err(|fault| section.wrong("to", &fault, TO_REMEDY))?;
        routes.trunks[index].to = Some(found);
    }
    if let Some(rules) = find("routes") {
        read_rules(source, rules, accounts, &mut routes, &mut warnings)?;
    }
    check_numbers(&routes, section("users")?, section("groups")?)?;
    warnings.extend(doubts(&routes));
    Ok((routes, warnings))
}

/// What can be meant, but rarely is.
fn doubts(routes: &Routes) -> Vec<String> {
    let mut doubts = Vec::new();
    for trunk in &routes.trunks {
        let named = |trunk: &Trunk| {
            let id = routes.trunks().find(|(_, other)| other.name == trunk.name).map(|(id, _)| Destination::Trunk(id));
            routes.rules.iter().any(|rule| rule.to.iter().any(|to| Some(to) == id.as_ref()))
        };
        if let Some(whatsapp) = trunk.whatsapp.as_ref().filter(|_| trunk.pattern.is_none() && !named(trunk)) {
            let account = &whatsapp.account;
            doubts.push(format!(
                "accounts.{account} has outbound = true and calls nobody: write pattern, or a route to whatsapp:{account}"
            ));
        } else if !trunk.takes_calls() && trunk.pattern.is_none() && !named(trunk) {
            doubts.push(format!(
                "trunks.{} carries no call: write pattern for calls out, allowed_sources, certificate_names or inbound_user for calls in",
                trunk.name
            ));
        }
        if !trunk.verify_certificate {
            doubts.push(format!(
                "trunks.{} does not verify its provider's certificate: anybody on the way can listen",
                trunk.name
            ));
        }
    }
    doubts
}

fn read_numbering(section: &Section<'_>) -> Result<Numbering, ConfigError> {
    let default = Numbering::default();
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.to_owned());
    let prefix = |key, default: String| -> Result<String, ConfigError> {
        // Not `parsed`: an empty national prefix is a setting too.
        let read = section.list(key, "write digits, such as 00", digits)?;
        Ok(read.into_iter().next().unwrap_or(default))
    };
    let country = |text: &str| digits(text.trim_start_matches('+')).filter(|text| (1..=3).contains(&text.len()));
    let numbering = Numbering {
        country: section.parsed("country", "write the country code, such as 44", country)?,
        international_prefix: prefix("international_prefix", default.international_prefix)?,
        national_prefix: prefix("national_prefix", default.national_prefix)?,
    };
    section.finish()?;
    Ok(numbering)
}

fn read_users(users: &Section<'_>, numbering: &Numbering) -> Result<BTreeMap<String, User>, ConfigError> {
    let mut read = BTreeMap::new();
    for (name, section) in users.children()? {
        check_name(&section, name)?;
        let password = section.secret("password", "password_env")?;
        let password = password.ok_or_else(|| section.missing("password", "write the password of its softphones"))?;
        let display = |text: &str| (!text.chars().any(char::is_control)).then(|| text.to_owned());
        let default = User::new(name, "");
        let user = User {
            password,
            display: section.parsed("name", "write the name that others see, in one line", display)?,
            number: trunks::number(&section, "number", numbering)?,
            outbound: section.flag("outbound", true)?,
            devices_max: section.number("devices_max", 1..=people::DEVICES_MAX as u32, default.devices_max as u32)?
                as usize,
            calls_max: section.number("calls_max", 1..=1_000, default.calls_max as u32)? as usize,
            ..default
        };
        section.finish()?;
        read.insert(name.to_owned(), user);
    }
    if read.len() > people::USERS_MAX {
        return Err(users.mistake(&format!("are {}: write at most {}", read.len(), people::USERS_MAX)));
    }
    Ok(read)
}

fn read_groups(groups: &Section<'_>, routes: &Routes) -> Result<BTreeMap<String, Group>, ConfigError> {
    let mut read = BTreeMap::new();
    for (name, section) in groups.children()? {
        check_name(&section, name)?;
        let known = |text: &str| routes.users.contains_key(text).then(|| text.to_owned());
        let users = section.list("users", "write names of [users]", known)?;
        if users.is_empty() || users.len() > people::GROUP_USERS_MAX {
            let remedy = format!("write 1 to {} names of [users]", people::GROUP_USERS_MAX);
            return Err(section.wrong("users", &format!("holds {} names", users.len()), &remedy));
        }
        if routes.users.contains_key(name) {
            return Err(section.mistake("has the name of a user: rename one of them"));
        }
        let group =
            Group { name: name.to_owned(), number: trunks::number(&section, "number", &routes.numbering)?, users };
        section.finish()?;
        read.insert(name.to_owned(), group);
    }
    Ok(read)
}

fn read_rules(
    source: Source<'_>,
    rules: &Spanned<DeValue<'_>>,
    accounts: &[Account],
    routes: &mut Routes,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    let Some(rules) = rules.get_ref().as_array() else {
        return Err(
            source.mistake(&rules.span(), "routes is no list: write [[routes]] with two brackets, once per rule")
        );
    };
    if rules.len() > limits::RULES_MAX {
        let what = format!("{} rules: write at most {}", rules.len(), limits::RULES_MAX);
        return Err(ConfigError(format!("{}: {what}", source.name)));
    }
    for (index, rule) in rules.iter().enumerate() {
        let section = Section::new(source, &format!("routes[{}]", index + 1), rule)?;
        let name = section.text("name", "write a name")?.unwrap_or_else(|| (index + 1).to_string());
        let (dialed, warning) = trunks::pattern(&section, "dialed")?;
        warnings.extend(warning);
        let (from, warning) = trunks::pattern(&section, "from")?;
        warnings.extend(warning);
        let remedy = "write whatsapp, trunks, trunk:NAME, users or user:NAME";
        let sources = section.list("source", remedy, |text| source_rule(routes, text))?;
        let texts = section.list("to", TO_REMEDY, |text| Some(text.to_owned()))?;
        let to: Result<Vec<Destination>, String> =
            texts.iter().map(|text| destination(routes, accounts, text)).collect();
        let to = to.map_err(|fault| section.wrong("to", &fault, TO_REMEDY))?;
        if to.is_empty() || to.len() > limits::DESTINATIONS_MAX {
            let what = format!("has {} destinations", to.len());
            return Err(section.wrong("to", &what, &format!("write 1 to {}", limits::DESTINATIONS_MAX)));
        }
        let policy = |text: &str| POLICIES.iter().find(|(word, _)| *word == text).map(|(_, policy)| *policy);
        let accept = section.parsed("accept", "write on-answer, on-progress or immediate", policy)?;
        section.finish()?;
        routes.rules.push(Rule { name, dialed, from, sources, to, accept });
    }
    Ok(())
}

fn source_rule(routes: &Routes, text: &str) -> Option<SourceRule> {
    match text.split_once(':') {
        None => match text {
            "whatsapp" => Some(SourceRule::Whatsapp),
            "trunks" => Some(SourceRule::Trunks),
            "users" => Some(SourceRule::Users),
            _ => None,
        },
        Some(("trunk", name)) => trunk_id(routes, name).map(|_| SourceRule::Trunk(name.to_owned())),
        Some(("user", name)) => routes.users.contains_key(name).then(|| SourceRule::User(name.to_owned())),
        Some(_) => None,
    }
}

fn destination(routes: &Routes, accounts: &[Account], text: &str) -> Result<Destination, String> {
    if let Some(name) = text.strip_prefix("whatsapp:") {
        return match (trunk_id(routes, text), accounts.iter().any(|account| account.name == name)) {
            (Some(id), _) => Ok(Destination::Trunk(id)),
            (None, true) => {
                Err(format!("names an account that calls nobody: write outbound = true in [accounts.{name}]"))
            }
            (None, false) => Err(format!("names the account {name}, which is not in the configuration")),
        };
    }
    let user = |name: &str| routes.users.contains_key(name);
    let group = |name: &str| routes.groups.contains_key(name);
    trunks::destination(text, |name| trunk_id(routes, name), user, group)
}

fn trunk_id(routes: &Routes, name: &str) -> Option<TrunkId> {
    routes.trunks().find(|(_, trunk)| trunk.name == name).map(|(id, _)| id)
}

/// Names stand in SIP URIs, in the log and on the command line.
fn check_name(section: &Section<'_>, name: &str) -> Result<(), ConfigError> {
    let valid =
        (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b));
    if valid {
        Ok(())
    } else {
        Err(section.mistake("has a name that cannot stand in a URI: write letters, digits, - _ . or +"))
    }
}

/// A number that two people answer to would ring one of them at random.
fn check_numbers(routes: &Routes, users: Option<Section<'_>>, groups: Option<Section<'_>>) -> Result<(), ConfigError> {
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    let of_users = routes.users.values().map(|user| (&user.number, user.name.as_str(), &users));
    let of_groups = routes.groups.values().map(|group| (&group.number, group.name.as_str(), &groups));
    for (number, name, section) in of_users.chain(of_groups) {
        let Some(number) = number else { continue };
        if let Some(other) = owners.insert(number, name) {
            let what = format!(
                "give {number} to {name} and to {other}: a number has one owner, a group can have several users"
            );
            return Err(section.as_ref().map_or_else(|| ConfigError(what.clone()), |section| section.mistake(&what)));
        }
    }
    Ok(())
}
