//! Where a call goes: rules, people, and trunks by dial pattern and weight. Pure, and built once from the configuration.
//!
//! ```text
//! asked (dialed, from, source)
//!   1. rules of the configuration, in order: the first that takes the call decides
//!   2. a trunk's own `to`, for its inbound calls
//!   3. a user or group of that name or number
//!   4. for a user's call: the trunks whose pattern matches, lowest weight first
//!   5. for a call from WhatsApp: the default target
//! ```
//!
//! The answer is a list of destinations, tried one after the other, and for everything that was looked at and not taken the reason
//! in words: `tandem route` prints them, a failed call shows them.
//!
//! Why a trunk's call never goes out through another trunk by pattern (step 4 is for users only): who finds a gateway that connects
//! any caller to any number rings expensive numbers through it. Where it is wanted, a rule says so.

pub mod explain;
pub mod limits;
pub mod number;
pub mod pattern;
mod rule;
#[cfg(test)]
mod tests;
pub mod trunk;
mod weight;

pub use number::{NumberFormat, Numbering};
pub use pattern::{Pattern, PatternError};
pub use rule::{Rule, SourceRule};
pub use trunk::{CallerId, CallerIdRule, DtlsBackend, Ice, MediaProfile, Trunk, Whatsapp};
pub use weight::Load;

use crate::call::AcceptPolicy;
use crate::registrar::{Group, User};
pub use crate::sip::transport::Transport;
use crate::sip::uri::SipUri;
use crate::sip_io::tls::Server;
use engine::time::Instant;
use limits::{DESTINATIONS_MAX, DIALED_BYTES_MAX};
use number::without_separators;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A trunk, by its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrunkId(pub u16);

/// Where a call comes from, once its sender has been recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A webhook of WhatsApp.
    Whatsapp,
    /// A trunk.
    Trunk(TrunkId),
    /// A registered user, by name.
    User(String),
}

/// Who calls: user part (a number or a name) and display name of From.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Number or name, unescaped.
    pub user: String,
    /// Display name, without quotes.
    pub display: Option<String>,
}

/// A call that looks for its destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// User part of the Request-URI, unescaped; or the whole URI where its host is not ours.
    pub dialed: String,
    /// Who calls: number or name.
    pub from: String,
    /// Where it comes from.
    pub source: Source,
}

/// Where a call can go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Out through a trunk; the number is the one that was dialed.
    Trunk(TrunkId),
    /// To all devices of a user.
    User(String),
    /// To all devices of all members of a group.
    Group(String),
    /// To a SIP URI, without a trunk's rules.
    Uri(String),
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// `trunk siperb`, `rule support`, ...
    pub subject: String,
    /// Whether it is among the destinations.
    pub taken: bool,
    /// Why, or why not.
    pub why: String,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// To be tried in this order.
    pub destinations: Vec<Destination>,
    /// When a call from WhatsApp is accepted, if the rule says so.
    pub accept: Option<AcceptPolicy>,
    /// Everything that was looked at, in order.
    pub considered: Vec<Considered>,
}

impl Found {
    /// Why there is no destination, in one line.
    pub fn refusal(&self) -> String {
        let reasons: Vec<String> =
            self.considered.iter().filter(|c| !c.taken).map(|c| format!("{} {}", c.subject, c.why)).collect();
        match reasons.is_empty() {
            true => "nothing is configured that could take it".to_owned(),
            false => reasons.join("; "),
        }
    }

    fn take(&mut self, destination: Destination, subject: String, why: String) {
        let room = self.destinations.len() < DESTINATIONS_MAX && !self.destinations.contains(&destination);
        if room {
            self.destinations.push(destination);
        }
        self.considered.push(Considered { subject, taken: room, why });
    }

    fn leave(&mut self, subject: String, why: String) {
        self.considered.push(Considered { subject, taken: false, why });
    }
}

/// An incoming call's sender, as far as nobody can lie about it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// How it came.
    pub transport: Transport,
    /// From where.
    pub source: SocketAddr,
    /// Names of the certificate that its connection showed.
    pub certificate_names: &'a [String],
}

/// Whose an incoming call is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recognised {
    /// This trunk's.
    Trunk(TrunkId),
    /// It must know a trunk's password first: one of these.
    Challenge(Vec<TrunkId>),
    /// This trunk's by its address or certificate, but it came by another transport than the trunk's.
    WrongTransport(TrunkId),
    /// Nobody's: per trunk, why in words.
    Refused(Vec<Considered>),
}

/// Everything that decides where calls go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// In the order of the file; a `TrunkId` is an index.
    pub trunks: Vec<Trunk>,
    /// In the order of the file.
    pub rules: Vec<Rule>,
    /// By name.
    pub users: BTreeMap<String, User>,
    /// By name.
    pub groups: BTreeMap<String, Group>,
    /// How numbers are dialed here.
    pub numbering: Numbering,
    /// Where calls from WhatsApp go that no rule takes.
    pub default_target: Option<String>,
}

impl Routes {
    /// The trunk of an id of this configuration.
    pub fn trunk(&self, id: TrunkId) -> Option<&Trunk> {
        self.trunks.get(usize::from(id.0))
    }

    /// The trunks and their ids, in the order of the file.
    pub fn trunks(&self) -> impl Iterator<Item = (TrunkId, &Trunk)> {
        (0..).map(TrunkId).zip(&self.trunks)
    }

    /// Where a call goes, and why not elsewhere.
    pub fn destinations(&self, now: Instant, load: &Load, asked: &Asked) -> Found {
        let mut found = Found::default();
        if asked.dialed.len() > DIALED_BYTES_MAX {
            found.leave("the number".to_owned(), format!("is longer than {DIALED_BYTES_MAX} characters"));
            return found;
        }
        let (dialed, from) = (self.forms(&asked.dialed), self.forms(&asked.from));
        let trunk_name = |id| self.trunk(id).map(|trunk| trunk.name.clone());
        for rule in &self.rules {
            let subject = format!("rule {}", rule.name);
            match rule.takes(&dialed, &from, &asked.source, trunk_name) {
                Err(why) => found.leave(subject, why),
                Ok(()) => {
                    found.accept = rule.accept;
                    for destination in &rule.to {
                        self.take_by_rule(now, load, &mut found, destination, &subject);
                    }
                    return found;
                }
            }
        }
        match &asked.source {
            Source::Trunk(id) => {
                if let Some((trunk, to)) = self.trunk(*id).and_then(|trunk| Some((trunk, trunk.to.as_ref()?))) {
                    found.take(to.clone(), format!("trunk {}", trunk.name), "sends its calls there".to_owned());
                    return found;
                }
                self.take_people(&mut found, &dialed);
            }
            Source::User(name) => {
                self.take_people(&mut found, &dialed);
                if found.destinations.is_empty() {
                    self.take_trunks(now, load, &mut found, name, &dialed);
                }
            }
            Source::Whatsapp => {
                self.take_people(&mut found, &dialed);
                if found.destinations.is_empty()
                    && let Some(target) = &self.default_target
                {
                    found.take(Destination::Uri(target.clone()), "sip.target".to_owned(), "takes the rest".to_owned());
                }
            }
        }
        found
    }

    /// Whose an incoming call is. `user`: who the call's digest answer says it is, if it carries one.
    pub fn recognise(&self, arrival: &Arrival, user: Option<&str>) -> Recognised {
        let mut refused = Vec::new();
        let mut challenge = Vec::new();
        let mut wrong_transport = None;
        for (id, trunk) in self.trunks() {
            let subject = format!("trunk {}", trunk.name);
            if let Err(why) = trunk.recognises(arrival.source.ip(), arrival.certificate_names) {
                refused.push(Considered { subject, taken: false, why });
            } else if trunk.transport != arrival.transport {
                let (wanted, had) = (trunk.transport.via_name(), arrival.transport.via_name());
                let why =
                    format!("takes its calls over {wanted}, and this one came over {had} from {}", arrival.source);
                refused.push(Considered { subject, taken: false, why });
                let proven = !trunk.allowed_sources.is_empty() || !trunk.certificate_names.is_empty();
                wrong_transport = wrong_transport.or(proven.then_some(id));
            } else if let Some(credentials) = &trunk.inbound {
                match user {
                    Some(user) if user != credentials.username => {
                        let why = "has another user name for digest".to_owned();
                        refused.push(Considered { subject, taken: false, why });
                    }
                    _ => challenge.push(id),
                }
            } else if challenge.is_empty() {
                return Recognised::Trunk(id);
            }
        }
        match (challenge.is_empty(), wrong_transport) {
            (false, None) => Recognised::Challenge(challenge),
            (_, Some(trunk)) => Recognised::WrongTransport(trunk),
            (true, None) => Recognised::Refused(refused),
        }
    }

    /// Servers of trunks that want something of their own of our connections. Where two trunks share one, it is verified as soon as
    /// one of them wants that, and shown the first's certificate.
    pub fn servers(&self) -> Vec<Server> {
        let mut servers: Vec<Server> = Vec::new();
        for trunk in &self.trunks {
            let proxy = trunk.proxy.as_deref().and_then(SipUri::parse).map(|proxy| proxy.host.to_owned());
            let name = proxy.unwrap_or_else(|| trunk.host.clone());
            let unverified = !trunk.verify_certificate;
            match servers.iter_mut().find(|known| known.name.eq_ignore_ascii_case(&name)) {
                Some(known) => {
                    known.unverified &= unverified;
                    known.alpn |= trunk.alpn;
                    known.certificate = known.certificate.take().or_else(|| trunk.certificate.clone());
                }
                None => {
                    let (certificate, alpn) = (trunk.certificate.clone(), trunk.alpn);
                    servers.push(Server { name, unverified, certificate, alpn });
                }
            }
        }
        servers.retain(|server| server.unverified || server.alpn || server.certificate.is_some());
        servers
    }

    /// The name and number that others see when this user calls.
    pub fn caller_of_user(&self, name: &str) -> Caller {
        let user = self.users.get(name);
        Caller {
            user: user.and_then(|user| user.number.clone()).unwrap_or_else(|| name.to_owned()),
            display: user.and_then(|user| user.display.clone()),
        }
    }

    /// What a pattern may match: the number without separators, and the same in E.164.
    fn forms(&self, text: &str) -> Vec<String> {
        let mut forms = vec![without_separators(text)];
        forms.extend(self.numbering.e164(text).filter(|number| *number != forms[0]));
        forms
    }

    fn take_by_rule(&self, now: Instant, load: &Load, found: &mut Found, to: &Destination, rule: &str) {
        match to {
            Destination::Trunk(id) => {
                let Some(trunk) = self.trunk(*id) else { return };
                let subject = format!("trunk {}", trunk.name);
                match self.full(load, *id, trunk) {
                    Some(why) => found.leave(subject, why),
                    None => {
                        let resting = if load.is_resting(now, *id) { ", although it failed a moment ago" } else { "" };
                        found.take(to.clone(), subject, format!("{rule} names it{resting}"));
                    }
                }
            }
            Destination::User(name) => found.take(to.clone(), format!("user {name}"), format!("{rule} names it")),
            Destination::Group(name) => found.take(to.clone(), format!("group {name}"), format!("{rule} names it")),
            Destination::Uri(_) => found.take(to.clone(), "a SIP URI".to_owned(), format!("{rule} names it")),
        }
    }

    fn take_people(&self, found: &mut Found, dialed: &[String]) {
        let is_dialed = |name: &str, number: Option<&String>| {
            dialed.iter().any(|form| form.eq_ignore_ascii_case(name) || Some(form) == number)
        };
        if let Some(user) = self.users.values().find(|user| is_dialed(&user.name, user.number.as_ref())) {
            found.take(Destination::User(user.name.clone()), format!("user {}", user.name), "was dialed".to_owned());
        } else if let Some(group) = self.groups.values().find(|group| is_dialed(&group.name, group.number.as_ref())) {
            found.take(
                Destination::Group(group.name.clone()),
                format!("group {}", group.name),
                "was dialed".to_owned(),
            );
        } else {
            found.leave("users and groups".to_owned(), "have nobody of that name or number".to_owned());
        }
    }

    fn take_trunks(&self, now: Instant, load: &Load, found: &mut Found, user: &str, dialed: &[String]) {
        if self.users.get(user).is_some_and(|user| !user.outbound) {
            return found.leave(format!("user {user}"), "may not call out (outbound = false)".to_owned());
        }
        let mut taken = Vec::new();
        for (id, trunk) in self.trunks() {
            let why = match &trunk.pattern {
                None => Some("has no pattern: only rules send calls there".to_owned()),
                Some(pattern) if !dialed.iter().any(|form| pattern.matches(form)) => {
                    Some(format!("pattern {} does not match", pattern.as_str()))
                }
                Some(_) => self.full(load, id, trunk),
            };
            match why {
                Some(why) => found.leave(format!("trunk {}", trunk.name), why),
                None => taken.push((id, trunk.weight)),
            }
        }
        load.sort(now, &mut taken);
        for (id, _) in taken {
            let Some(trunk) = self.trunk(id) else { continue };
            let pattern = trunk.pattern.as_ref().map_or("", Pattern::as_str);
            let resting = if load.is_resting(now, id) { "; it failed a moment ago, so it is tried last" } else { "" };
            let why = format!("pattern {pattern} matches, {}{resting}", trunk.summary());
            found.take(Destination::Trunk(id), format!("trunk {}", trunk.name), why);
        }
    }

    fn full(&self, load: &Load, id: TrunkId, trunk: &Trunk) -> Option<String> {
        let calls = load.calls(id);
        (calls >= trunk.calls_max).then(|| format!("has {calls} calls, and no more are allowed (calls_max)"))
    }
}

/// What was dialed, of a Request-URI: its user part, unescaped; the whole URI where there is none.
pub fn dialed(request_uri: &str) -> String {
    let user = SipUri::parse(request_uri).and_then(|uri| uri.user);
    // Parameters in the user part (RFC 3966) and a password are not the number.
    user.map_or_else(|| request_uri.to_owned(), |user| unescape(user.split([';', ':']).next().unwrap_or(user)))
}

/// Resolves %XX; what is no UTF-8 then stays as it was.
pub fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = text.get(at + 1..at + 3).filter(|hex| byte == b'%' && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}
