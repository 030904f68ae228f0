//! Which devices a user has, and how each is reached (RFC 3261 §10, RFC 5626, RFC 3327).
//!
//! A binding remembers the hop that its REGISTER came by, not only its Contact: a browser writes a Contact that nobody can resolve
//! (RFC 7118 §5.2.3), and a phone behind a NAT writes an address nobody can reach. What connects by a stream is reached by that
//! connection or not at all, so the binding ends with it: a call never rings a page that was closed.
//!
//! Why no GRUU (RFC 5627): calls are placed to users, and each device is known by its binding while it rings.

use super::limits::{
    BINDINGS_MAX, CONTACTS_MAX, DEPARTED_MAX, DEPARTED_MS, EXPIRES_S_DEFAULT, EXPIRES_S_MAX, EXPIRES_S_MIN, PATHS_MAX,
    TEXT_BYTES_MAX,
};
use crate::sip::gatekeeper::Registered;
use crate::sip::message::Message;
use crate::sip::transport::{ConnectionId, Hop};
use crate::sip::uri::{NameAddr, SipUri, quote, unquote};
use engine::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One device of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Never reused.
    pub id: u64,
    /// The Contact's URI: the Request-URI of calls to the device.
    pub contact: String,
    /// Where requests to it are sent.
    pub hop: Hop,
    /// `+sip.instance`, without its quotes: the same device after a restart (RFC 5626 §4.1).
    pub instance: Option<String>,
    /// `reg-id`: which of the device's flows (RFC 5626 §4.2).
    pub reg_id: Option<u32>,
    /// Path headers: Route headers of requests to it, in this order (RFC 3327 §5.3).
    pub path: Vec<String>,
    /// Preference of the Contact, in thousandths.
    pub q: u16,
    /// User-Agent, cut to `TEXT_BYTES_MAX`.
    pub user_agent: String,
    /// When it was first registered.
    pub since: Instant,
    /// When it ends unless it is refreshed.
    pub expires_at: Instant,
    call_id: String,
    cseq: u32,
}

/// Everybody's devices.
#[derive(Debug, Default)]
pub struct Registrar {
    users: BTreeMap<String, Vec<Binding>>,
    /// Bindings of each connection: user and binding.
    connections: BTreeMap<ConnectionId, BTreeSet<(String, u64)>>,
    expiries: BTreeSet<(Instant, String, u64)>,
    /// REGISTERs that took bindings away: user, Call-ID and CSeq. A slower one that was sent before them must not bring them back.
    departed: VecDeque<Departed>,
    count: usize,
    next: u64,
}

#[derive(Debug)]
struct Departed {
    user: String,
    call_id: String,
    cseq: u32,
    until: Instant,
}

/// One Contact of a REGISTER.
struct Wish<'a> {
    uri: &'a str,
    instance: Option<String>,
    reg_id: Option<u32>,
    q: u16,
    expires_s: u32,
}

impl Registrar {
    /// Nobody is anywhere.
    pub fn new() -> Registrar {
        Registrar::default()
    }

    /// Carries out an authenticated REGISTER of `user`, which came by `hop`. Everything is checked before anything changes.
    pub fn register(
        &mut self,
        now: Instant,
        request: &Message,
        hop: &Hop,
        user: &str,
        devices_max: usize,
    ) -> Registered {
        self.handle_timeout(now);
        match self.change(now, request, hop, user, devices_max) {
            Ok(()) => self.listing(now, request, user),
            Err(refused) => *refused,
        }
    }

    /// The devices of a user, most preferred first.
    pub fn bindings(&self, user: &str) -> &[Binding] {
        self.users.get(user).map_or(&[], Vec::as_slice)
    }

    /// Whose device this connection belongs to.
    pub fn users_of(&self, connection: ConnectionId) -> impl Iterator<Item = &str> {
        self.connections.get(&connection).into_iter().flatten().map(|(user, _)| user.as_str())
    }

    /// Everybody who is registered, with their devices.
    pub fn all(&self) -> impl Iterator<Item = (&str, &[Binding])> {
        self.users.iter().map(|(user, bindings)| (user.as_str(), bindings.as_slice()))
    }

    /// Devices registered.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Ends every binding that only this connection led to. Answers whose they were.
    pub fn connection_closed(&mut self, connection: ConnectionId) -> Vec<String> {
        let gone = self.connections.remove(&connection).unwrap_or_default();
        for (user, id) in &gone {
            self.remove(user, *id);
        }
        gone.into_iter().map(|(user, _)| user).collect()
    }

    /// When the next binding ends.
    pub fn deadline(&self) -> Instant {
        self.expiries.first().map_or(Instant::NEVER, |(at, ..)| *at)
    }

    /// Ends what was not refreshed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, ..)) = self.expiries.first()
            && *at <= now
            && let Some((_, user, id)) = self.expiries.pop_first()
        {
            self.remove(&user, id);
        }
        while self.departed.front().is_some_and(|departed| departed.until <= now) {
            self.departed.pop_front();
        }
    }

    fn change(
        &mut self,
        now: Instant,
        request: &Message,
        hop: &Hop,
        user: &str,
        devices_max: usize,
    ) -> Result<(), Box<Registered>> {
        let expires = request.header("Expires").map(read_expires);
        let contacts: Vec<&str> = request.list("Contact").take(CONTACTS_MAX + 1).collect();
        if contacts.is_empty() {
            return Ok(()); // a question (§10.2.3)
        }
        let (call_id, cseq) = (request.call_id(), request.cseq().map_or(0, |(number, _)| number));
        if contacts == ["*"] {
            if expires != Some(0) {
                return Err(refusal(400, "Contact: * needs Expires: 0"));
            }
            self.check_order(user, call_id, cseq, |_| true)?;
            self.remove_all(user);
            self.depart(now, user, call_id, cseq);
            return Ok(());
        }
        let path: Vec<String> = request.list("Path").take(PATHS_MAX + 1).map(str::to_owned).collect();
        let too_long = |text: &str| text.len() > TEXT_BYTES_MAX;
        if contacts.len() > CONTACTS_MAX || path.len() > PATHS_MAX || path.iter().any(|path| too_long(path)) {
            return Err(refusal(400, "too many Contact or Path headers, or too long ones"));
        }
        let wishes: Result<Vec<Wish<'_>>, _> = contacts.iter().map(|contact| read_contact(contact, expires)).collect();
        let wishes = wishes?;
        self.check_room(user, &wishes, call_id, cseq, devices_max)?;
        for wish in wishes {
            let replaced: Vec<Binding> = self.matching(user, &wish).cloned().collect();
            let since = replaced.first().map_or(now, |binding| binding.since);
            replaced.iter().for_each(|binding| self.remove(user, binding.id));
            if wish.expires_s == 0 {
                self.depart(now, user, call_id, cseq);
                continue;
            }
            self.insert(
                user,
                Binding {
                    id: self.next,
                    contact: wish.uri.to_owned(),
                    hop: hop.clone(),
                    instance: wish.instance,
                    reg_id: wish.reg_id,
                    path: path.clone(),
                    q: wish.q,
                    user_agent: cut(request.header("User-Agent").unwrap_or_default()),
                    since,
                    expires_at: now.plus_millis(u64::from(wish.expires_s) * 1_000),
                    call_id: call_id.to_owned(),
                    cseq,
                },
            );
        }
        Ok(())
    }

    fn check_room(
        &self,
        user: &str,
        wishes: &[Wish<'_>],
        call_id: &str,
        cseq: u32,
        devices_max: usize,
    ) -> Result<(), Box<Registered>> {
        let mut added = 0;
        for wish in wishes {
            self.check_order(user, call_id, cseq, |binding| wish.is(binding))?;
            let overtaken = |departed: &Departed| {
                (departed.user.as_str(), departed.call_id.as_str()) == (user, call_id) && departed.cseq >= cseq
            };
            if wish.expires_s > 0 && self.departed.iter().any(overtaken) {
                return Err(refusal(500, "this REGISTER is older than the one that took the device away"));
            }
            added += usize::from(wish.expires_s > 0 && self.matching(user, wish).next().is_none());
        }
        if added > 0 && self.bindings(user).len() + added > devices_max {
            return Err(refusal(403, &format!("this user has {devices_max} devices, and no more are allowed")));
        }
        if self.count + added > BINDINGS_MAX {
            let mut refused = refusal(503, "too many devices are registered");
            refused.headers.push(("Retry-After".to_owned(), "60".to_owned()));
            return Err(refused);
        }
        Ok(())
    }

    /// §10.3: a request that is older than the one before it changes nothing.
    fn check_order(
        &self,
        user: &str,
        call_id: &str,
        cseq: u32,
        concerns: impl Fn(&Binding) -> bool,
    ) -> Result<(), Box<Registered>> {
        let newer = |binding: &&Binding| concerns(binding) && binding.call_id == call_id && binding.cseq >= cseq;
        match self.bindings(user).iter().find(newer) {
            Some(_) => Err(refusal(500, "this REGISTER is older than the one before it")),
            None => Ok(()),
        }
    }

    fn depart(&mut self, now: Instant, user: &str, call_id: &str, cseq: u32) {
        if self.departed.len() >= DEPARTED_MAX {
            self.departed.pop_front();
        }
        let until = now.plus_millis(DEPARTED_MS);
        self.departed.push_back(Departed { user: user.to_owned(), call_id: call_id.to_owned(), cseq, until });
    }

    fn matching<'r>(&'r self, user: &str, wish: &'r Wish<'_>) -> impl Iterator<Item = &'r Binding> {
        self.bindings(user).iter().filter(|binding| wish.is(binding))
    }

    fn insert(&mut self, user: &str, binding: Binding) {
        self.next += 1;
        self.count += 1;
        self.expiries.insert((binding.expires_at, user.to_owned(), binding.id));
        if let Some(connection) = binding.hop.connection {
            self.connections.entry(connection).or_default().insert((user.to_owned(), binding.id));
        }
        let bindings = self.users.entry(user.to_owned()).or_default();
        bindings.push(binding);
        bindings.sort_by_key(|binding| (std::cmp::Reverse(binding.q), binding.since, binding.id));
    }

    fn remove(&mut self, user: &str, id: u64) {
        let Some(bindings) = self.users.get_mut(user) else { return };
        let Some(at) = bindings.iter().position(|binding| binding.id == id) else { return };
        let binding = bindings.remove(at);
        if bindings.is_empty() {
            self.users.remove(user);
        }
        self.count -= 1;
        self.expiries.remove(&(binding.expires_at, user.to_owned(), id));
        if let Some(connection) = binding.hop.connection
            && let Some(held) = self.connections.get_mut(&connection)
        {
            held.remove(&(user.to_owned(), id));
            if held.is_empty() {
                self.connections.remove(&connection);
            }
        }
    }

    fn remove_all(&mut self, user: &str) {
        let all: Vec<u64> = self.bindings(user).iter().map(|binding| binding.id).collect();
        all.into_iter().for_each(|id| self.remove(user, id));
    }

    /// 200 with every binding of the user (§10.3 step 8).
    fn listing(&self, now: Instant, request: &Message, user: &str) -> Registered {
        let mut headers = Vec::new();
        let mut outbound = false;
        for binding in self.bindings(user) {
            let seconds = binding.expires_at.since(now).as_secs();
            let mut contact = format!("<{}>;expires={seconds}", binding.contact);
            if let Some(instance) = &binding.instance {
                contact.push_str(&format!(";+sip.instance={}", quote(instance)));
            }
            if let Some(reg_id) = binding.reg_id {
                contact.push_str(&format!(";reg-id={reg_id}"));
            }
            if binding.q != Q_DEFAULT {
                contact.push_str(&format!(";q={}", q_text(binding.q)));
            }
            outbound |= binding.reg_id.is_some() && binding.call_id == request.call_id();
            headers.push(("Contact".to_owned(), contact));
        }
        headers.extend(request.list("Path").take(PATHS_MAX).map(|path| ("Path".to_owned(), path.to_owned())));
        headers.push(("Supported".to_owned(), "path, outbound".to_owned()));
        if outbound && request.lists("Supported", "outbound") {
            // RFC 5626 §6: so that the device knows that its flow is kept.
            headers.push(("Require".to_owned(), "outbound".to_owned()));
        }
        Registered { code: 200, headers }
    }
}

impl Wish<'_> {
    /// Whether a binding is the one that this Contact is about: the same flow of the same device, else the same URI.
    fn is(&self, binding: &Binding) -> bool {
        match (&self.instance, &binding.instance) {
            (Some(ours), Some(theirs)) if ours == theirs => self.reg_id == binding.reg_id,
            _ => same_uri(self.uri, &binding.contact),
        }
    }
}

/// Preference where none is written (RFC 3261 §10.2.1.2 leaves it open).
const Q_DEFAULT: u16 = 1_000;

fn read_contact<'a>(contact: &'a str, header: Option<u32>) -> Result<Wish<'a>, Box<Registered>> {
    let broken = || refusal(400, "a Contact is no SIP address");
    let address = NameAddr::parse(contact).ok_or_else(broken)?;
    let uri = SipUri::parse(address.uri).filter(|_| address.uri.len() <= TEXT_BYTES_MAX).ok_or_else(broken)?;
    if !uri.headers.is_empty() {
        return Err(refusal(400, "a Contact must not carry headers"));
    }
    let instance = address.param("+sip.instance").map(unquote).filter(|instance| !instance.is_empty());
    if instance.as_ref().is_some_and(|instance| instance.len() > TEXT_BYTES_MAX || instance.contains(char::is_control))
    {
        return Err(refusal(400, "+sip.instance is too long"));
    }
    let asked = address.param("expires").map(read_expires).or(header).unwrap_or(EXPIRES_S_DEFAULT);
    if asked > 0 && asked < EXPIRES_S_MIN {
        let mut refused = refusal(423, "that is too short");
        refused.headers.push(("Min-Expires".to_owned(), EXPIRES_S_MIN.to_string()));
        return Err(refused);
    }
    Ok(Wish {
        uri: address.uri,
        // RFC 5626 §6: a reg-id means something only beside an instance.
        reg_id: address.param("reg-id").and_then(|id| id.parse().ok()).filter(|id| *id > 0 && instance.is_some()),
        instance,
        q: address.param("q").and_then(read_q).unwrap_or(Q_DEFAULT),
        expires_s: asked.min(EXPIRES_S_MAX),
    })
}

/// What is no number counts as an hour (§10.2.1.1); one that is too large as the largest.
fn read_expires(text: &str) -> u32 {
    let text = text.trim();
    match text.parse::<u32>() {
        Ok(seconds) => seconds,
        Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => u32::MAX,
        Err(_) => 3_600,
    }
}

/// `0` to `1` with at most three decimals (§25.1), in thousandths.
fn read_q(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let valid = decimals.len() <= 3 && decimals.bytes().all(|byte| byte.is_ascii_digit());
    let thousandths: u16 = format!("{decimals:0<3}").parse().ok().filter(|_| valid)?;
    match whole {
        "0" => Some(thousandths),
        "1" => Some(1_000),
        _ => None,
    }
}

fn q_text(q: u16) -> String {
    if q >= 1_000 { "1".to_owned() } else { format!("0.{q:03}") }
}

/// Whether two Contacts name one device: user as written, host without case, port and transport (a part of §19.1.4).
fn same_uri(a: &str, b: &str) -> bool {
    let (Some(a), Some(b)) = (SipUri::parse(a), SipUri::parse(b)) else { return a == b };
    let transport = |uri: &SipUri<'_>| uri.param("transport").map(str::to_ascii_lowercase);
    (a.secure, a.user, a.port) == (b.secure, b.user, b.port)
        && a.host.eq_ignore_ascii_case(b.host)
        && transport(&a) == transport(&b)
}

fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_BYTES_MAX / 4).collect()
}

fn refusal(code: u16, why: &str) -> Box<Registered> {
    Box::new(Registered { code, headers: vec![("Warning".to_owned(), format!("399 tandem {}", quote(why)))] })
}

#[cfg(test)]
#[path = "binding_tests.rs"]
mod tests;
