//! Digest access authentication, both sides (RFC 7616, RFC 8760; RFC 2617 where the peer is older).
//!
//! As a client, [`Authorizer`] answers every challenge of 401 and 407 once per request and realm, once more when the server
//! calls the nonce stale, and never again: a second plain challenge means that the password is wrong. As a server, [`Guard`]
//! issues nonces that carry their time and a signature, so that it has to remember only which ones were used.
//!
//! Why MD5 at all: Twilio's challenge names no algorithm, which means MD5. SHA-256 is taken wherever it is offered.

use super::Credentials;
use super::gatekeeper::Secret;
use super::limits::{NONCE_MS_MAX, NONCES_MAX};
use super::message::Message;
use super::uri::{quote, split_list};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use engine::random::Random;
use engine::time::Instant;
use md5::Md5;
use sha2::{Digest, Sha256, Sha512_256};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Hash functions, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// RFC 2617; also when none is named.
    Md5,
    /// RFC 7616.
    Sha512Half,
    /// RFC 7616, RFC 8760.
    Sha256,
}

impl Algorithm {
    /// As registered (RFC 7616 §6.1).
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Md5 => "MD5",
            Algorithm::Sha512Half => "SHA-512-256",
            Algorithm::Sha256 => "SHA-256",
        }
    }

    /// The hash of `text` in hexadecimal.
    fn hash(self, text: &str) -> String {
        match self {
            Algorithm::Md5 => hex(&Md5::digest(text)),
            Algorithm::Sha256 => hex(&Sha256::digest(text)),
            Algorithm::Sha512Half => hex(&Sha512_256::digest(text)),
        }
    }
}

/// One challenge of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// From Proxy-Authenticate.
    pub proxy: bool,
    /// Text between the quotes, escapes kept.
    pub realm: String,
    nonce: String,
    opaque: Option<String>,
    algorithm: Algorithm,
    session: bool,
    /// As written by the server; repeated only if it wrote one.
    algorithm_name: Option<String>,
    qop: bool,
    /// The nonce was too old, the password was right.
    pub stale: bool,
}

impl Challenge {
    /// All challenges of a response that can be answered, in order.
    pub fn read(response: &Message) -> Vec<Challenge> {
        let mut challenges = Vec::new();
        for (name, proxy) in [("WWW-Authenticate", false), ("Proxy-Authenticate", true)] {
            for value in response.headers(name) {
                challenges
                    .extend(split_schemes(value).iter().filter_map(|fields| Challenge::from_fields(fields, proxy)));
            }
        }
        challenges
    }

    fn from_fields(fields: &[(&str, &str)], proxy: bool) -> Option<Challenge> {
        let algorithm_name = field(fields, "algorithm");
        let upper = algorithm_name.unwrap_or("MD5").to_ascii_uppercase();
        let (algorithm, session) = match upper.as_str() {
            "MD5" => (Algorithm::Md5, false),
            "MD5-SESS" => (Algorithm::Md5, true),
            "SHA-256" => (Algorithm::Sha256, false),
            "SHA-256-SESS" => (Algorithm::Sha256, true),
            "SHA-512-256" => (Algorithm::Sha512Half, false),
            _ => return None,
        };
        let qop = match field(fields, "qop") {
            // No protection for the body: `auth-int` alone is not understood here.
            Some(list) => split_list(list, ',').any(|q| q.eq_ignore_ascii_case("auth")).then_some(true)?,
            None => false,
        };
        Some(Challenge {
            proxy,
            realm: field(fields, "realm")?.to_owned(),
            nonce: field(fields, "nonce")?.to_owned(),
            opaque: field(fields, "opaque").map(str::to_owned),
            algorithm,
            session,
            algorithm_name: algorithm_name.map(str::to_owned),
            qop,
            stale: field(fields, "stale").is_some_and(|s| s.eq_ignore_ascii_case("true")),
        })
    }

    fn header_name(&self) -> &'static str {
        if self.proxy { "Proxy-Authorization" } else { "Authorization" }
    }

    /// The value of the answer (RFC 7616 §3.4).
    fn answer(&self, credentials: &Credentials, method: &str, uri: &str, nc: u32, cnonce: &str) -> String {
        let nc = format!("{nc:08x}");
        let qop = self.qop.then_some((nc.as_str(), cnonce));
        let secret = self.secret(credentials, cnonce);
        let response = response_of(self.algorithm, &secret, &self.nonce, qop, method, uri);
        let mut out = format!(
            "Digest username={}, realm=\"{}\", nonce=\"{}\", uri=\"{uri}\", response=\"{response}\"",
            quote(&credentials.username),
            self.realm,
            self.nonce
        );
        if let Some(name) = &self.algorithm_name {
            out.push_str(&format!(", algorithm={name}"));
        }
        if self.qop {
            out.push_str(&format!(", cnonce=\"{cnonce}\", qop=auth, nc={nc}"));
        } else if self.session {
            out.push_str(&format!(", cnonce=\"{cnonce}\""));
        }
        if let Some(opaque) = &self.opaque {
            out.push_str(&format!(", opaque=\"{opaque}\""));
        }
        out
    }

    fn secret(&self, credentials: &Credentials, cnonce: &str) -> String {
        let Credentials { username, password } = credentials;
        let secret = self.algorithm.hash(&format!("{username}:{}:{password}", self.realm));
        match self.session {
            true => self.algorithm.hash(&format!("{secret}:{}:{cnonce}", self.nonce)),
            false => secret,
        }
    }
}

/// Which challenges one request has answered already.
#[derive(Clone, Debug, Default)]
pub struct Answered(Vec<(bool, String, u8)>);

/// Realms one request answers; a chain of proxies rarely has two.
const REALMS_MAX: usize = 4;

/// The client side for one call: its credentials and the challenges met so far.
#[derive(Default)]
pub struct Authorizer {
    credentials: Option<Credentials>,
    /// The challenge in force per realm, and how often it was answered.
    challenges: Vec<(Challenge, u32)>,
}

impl Authorizer {
    /// Nothing met yet.
    pub fn new(credentials: Option<Credentials>) -> Authorizer {
        Authorizer { credentials, challenges: Vec::new() }
    }

    /// The user name, if there are credentials.
    pub fn username(&self) -> Option<&str> {
        self.credentials.as_ref().map(|credentials| credentials.username.as_str())
    }

    /// Takes the challenges of a 401 or 407. `false`: give up, sending the request again cannot help.
    pub fn take(&mut self, response: &Message, answered: &mut Answered) -> bool {
        if self.credentials.is_none() {
            return false;
        }
        let mut challenges = Challenge::read(response);
        // Stable, so that among equals the server's order decides (RFC 8760 §2.4).
        challenges.sort_by_key(|c| std::cmp::Reverse(c.algorithm));
        let mut any = false;
        let mut done: Vec<(bool, String)> = Vec::new();
        for challenge in challenges {
            let realm = (challenge.proxy, challenge.realm.clone());
            if done.contains(&realm) {
                continue;
            }
            done.push(realm);
            if !answered.allows(&challenge) {
                return false;
            }
            self.challenges.retain(|(known, _)| (known.proxy, &known.realm) != (challenge.proxy, &challenge.realm));
            if self.challenges.len() == REALMS_MAX {
                return false;
            }
            self.challenges.reserve_exact(1);
            self.challenges.push((challenge, 0));
            any = true;
        }
        any
    }

    /// Adds an answer for each challenge met so far; replaces those of an earlier try.
    pub fn apply(&mut self, request: &mut Message, random: &mut Random) {
        request.remove("Authorization");
        request.remove("Proxy-Authorization");
        let Some(credentials) = &self.credentials else { return };
        let method = request.method().unwrap_or("").to_owned();
        let uri = request.uri().unwrap_or("").to_owned();
        for (challenge, count) in &mut self.challenges {
            *count += 1;
            let value = challenge.answer(credentials, &method, &uri, *count, &random.token(16));
            request.push(challenge.header_name(), value);
        }
    }
}

impl Answered {
    /// Once for any reason, once more for a stale nonce.
    fn allows(&mut self, challenge: &Challenge) -> bool {
        let room = self.0.len() < REALMS_MAX;
        let known = self
            .0
            .iter_mut()
            .find(|(proxy, realm, _)| (*proxy, &**realm) == (challenge.proxy, challenge.realm.as_str()));
        match known {
            Some((_, _, count)) => {
                *count += 1;
                *count == 2 && challenge.stale
            }
            None if room => {
                self.0.push((challenge.proxy, challenge.realm.clone(), 1));
                true
            }
            None => false,
        }
    }
}

/// What the guard says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The credentials are right: who it is.
    Granted(String),
    /// Challenge it.
    Denied {
        /// The credentials were right but the nonce too old, or used before.
        stale: bool,
    },
}

/// The server side, for every realm: it issues nonces and judges answers. Whose secret is what, others know.
pub struct Guard {
    key: hmac::Key,
    opaque: String,
    /// Highest count seen per nonce. Nonces start with their time, so the first is the oldest.
    used: BTreeMap<String, u32>,
}

impl Guard {
    /// A guard with a signing key of its own.
    pub fn new(random: &mut Random) -> Guard {
        let mut key = [0; 32];
        random.fill(&mut key);
        Guard { key: hmac::Key::new(hmac::HMAC_SHA256, &key), opaque: random.token(16), used: BTreeMap::new() }
    }

    /// The values of WWW-Authenticate or Proxy-Authenticate headers, one per algorithm, in that order (RFC 8760 §2.3).
    ///
    /// MD5 alone is written without a name: peers of RFC 2617 know no other form.
    pub fn challenges(
        &self,
        now: Instant,
        realm: &str,
        algorithms: &[Algorithm],
        stale: bool,
        random: &mut Random,
    ) -> Vec<String> {
        let realm = written(realm);
        let stale = if stale { ",stale=true" } else { "" };
        let one = |algorithm: &Algorithm| {
            let body = format!("{:016x}{:016x}", now.as_millis(), random.next_u64());
            let nonce = format!("{body}{}", self.sign(&body));
            let name = match algorithms {
                [Algorithm::Md5] => String::new(),
                _ => format!(",algorithm={}", algorithm.name()),
            };
            let opaque = &self.opaque;
            format!("Digest realm=\"{realm}\",qop=\"auth\",nonce=\"{nonce}\",opaque=\"{opaque}\"{name}{stale}")
        };
        algorithms.iter().map(one).collect()
    }

    /// Judges the Authorization or Proxy-Authorization headers (`header`) of a request for `realm`. `secret` answers for a user name.
    pub fn verify(
        &mut self,
        now: Instant,
        request: &Message,
        header: &str,
        realm: &str,
        algorithms: &[Algorithm],
        secret: &dyn Fn(&str) -> Option<Secret>,
    ) -> Verdict {
        let realm = Realm { written: written(realm), algorithms };
        let method = request.method().unwrap_or("");
        let mut verdict = Verdict::Denied { stale: false };
        for value in request.headers(header) {
            for fields in split_schemes(value) {
                match self.judge(now, method, &fields, &realm, secret) {
                    Some(granted @ Verdict::Granted(_)) => return granted,
                    Some(denied) => verdict = denied,
                    None => {}
                }
            }
        }
        verdict
    }

    /// `None`: meant for another realm.
    fn judge(
        &mut self,
        now: Instant,
        method: &str,
        fields: &[(&str, &str)],
        realm: &Realm<'_>,
        secret: &dyn Fn(&str) -> Option<Secret>,
    ) -> Option<Verdict> {
        let get = |name| field(fields, name);
        if get("realm")? != realm.written {
            return None;
        }
        let denied = Some(Verdict::Denied { stale: false });
        let (Some(nonce), Some(uri), Some(given)) = (get("nonce"), get("uri"), get("response")) else { return denied };
        let (Some(cnonce), Some(nc), Some("auth")) = (get("cnonce"), get("nc"), get("qop")) else { return denied };
        let Ok(count) = u32::from_str_radix(nc, 16) else { return denied };
        let Some(issued) = self.issued(nonce) else { return denied };
        let name = get("algorithm").unwrap_or("MD5");
        let algorithm = realm.algorithms.iter().copied().find(|known| known.name().eq_ignore_ascii_case(name));
        let (Some(algorithm), Some(username)) = (algorithm, get("username")) else { return denied };
        let username = super::uri::unquote(&format!("\"{username}\""));
        let secret = secret(&username);
        let known = secret.is_some();
        let hashed = match secret {
            Some(Secret::Password(password)) => algorithm.hash(&format!("{username}:{}:{password}", realm.written)),
            Some(Secret::Hashed(hashes)) => match hashes.into_iter().find(|(of, _)| *of == algorithm) {
                Some((_, hashed)) => hashed.to_ascii_lowercase(),
                None => return denied,
            },
            // A nobody takes as long as a wrong password.
            None => algorithm.hash(&format!("{username}:{}:", self.opaque)),
        };
        let expected = response_of(algorithm, &hashed, nonce, Some((nc, cnonce)), method, uri);
        let right = verify_slices_are_equal(expected.as_bytes(), given.to_ascii_lowercase().as_bytes()).is_ok();
        if !right || !known || get("opaque") != Some(&self.opaque) {
            return denied;
        }
        let fresh = now.since(issued).as_millis() <= u128::from(NONCE_MS_MAX) && self.count_is_new(nonce, count);
        Some(if fresh { Verdict::Granted(username) } else { Verdict::Denied { stale: true } })
    }

    /// When a nonce of ours was issued; `None`: not ours.
    fn issued(&self, nonce: &str) -> Option<Instant> {
        let (body, signature) = nonce.split_at_checked(32)?;
        verify_slices_are_equal(self.sign(body).as_bytes(), signature.as_bytes()).ok()?;
        Some(Instant::from_millis(u64::from_str_radix(body.get(..16)?, 16).ok()?))
    }

    /// A count may only grow: a captured answer cannot be played back.
    fn count_is_new(&mut self, nonce: &str, count: u32) -> bool {
        let oldest = self.used.first_key_value().map_or("", |(nonce, _)| nonce);
        if self.used.len() >= NONCES_MAX && nonce <= oldest {
            return false;
        }
        let last = self.used.entry(nonce.to_owned()).or_insert(0);
        let new = count > *last;
        *last = count.max(*last);
        if self.used.len() > NONCES_MAX {
            self.used.pop_first();
        }
        new
    }

    fn sign(&self, body: &str) -> String {
        hex(&hmac::sign(&self.key, body.as_bytes()).as_ref()[..16])
    }
}

/// What is demanded.
struct Realm<'a> {
    written: String,
    algorithms: &'a [Algorithm],
}

/// A realm as it stands between its quotes: both sides hash it that way.
fn written(realm: &str) -> String {
    let quoted = quote(realm);
    quoted[1..quoted.len() - 1].to_owned()
}

/// RFC 7616 §3.4.1; without qop RFC 2069.
fn response_of(
    algorithm: Algorithm,
    secret: &str,
    nonce: &str,
    qop: Option<(&str, &str)>,
    method: &str,
    uri: &str,
) -> String {
    let request = algorithm.hash(&format!("{method}:{uri}"));
    match qop {
        Some((nc, cnonce)) => algorithm.hash(&format!("{secret}:{nonce}:{nc}:{cnonce}:auth:{request}")),
        None => algorithm.hash(&format!("{secret}:{nonce}:{request}")),
    }
}

/// The fields of each `Digest` part of a header; several challenges may share one line.
fn split_schemes(value: &str) -> Vec<Vec<(&str, &str)>> {
    let mut schemes: Vec<Option<Vec<(&str, &str)>>> = Vec::new();
    for part in split_list(value, ',') {
        let (key, text) = part.split_once('=').unwrap_or((part, ""));
        let mut key = key.trim();
        if let Some((scheme, first)) = key.split_once(|c: char| c.is_ascii_whitespace()) {
            schemes.push(scheme.eq_ignore_ascii_case("Digest").then(Vec::new));
            key = first.trim();
        }
        if let Some(Some(fields)) = schemes.last_mut() {
            let text = text.trim();
            fields.push((key, text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text)));
        }
    }
    schemes.into_iter().flatten().collect()
}

fn field<'a>(fields: &[(&str, &'a str)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|&(_, value)| value)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(password: &str) -> Credentials {
        Credentials { username: "Mufasa".into(), password: password.into() }
    }

    fn challenge_of(value: &str) -> Challenge {
        let mut m = Message::request("X", "sip:x");
        m.push("Proxy-Authenticate", value);
        Challenge::read(&m).remove(0)
    }

    fn response_field(answer: &str, name: &str) -> String {
        field(&split_schemes(answer)[0], name).unwrap_or_default().to_owned()
    }

    #[test]
    fn rfc_2617_example() {
        let c = challenge_of(
            "Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"",
        );
        let answer = c.answer(&account("Circle Of Life"), "GET", "/dir/index.html", 1, "0a4f113b");
        assert_eq!(response_field(&answer, "response"), "6629fae49393a05397450978507c4ef1");
        assert_eq!(response_field(&answer, "opaque"), "5ccc069c403ebaf9f0171e9517f40e41");
        assert_eq!(response_field(&answer, "nc"), "00000001");
        assert!(!answer.contains("algorithm"));
    }

    #[test]
    fn rfc_7616_examples_and_the_choice_between_them() {
        let nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
        let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        let offer = |algorithm: &str| {
            format!(
                "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm={algorithm}, nonce=\"{nonce}\", opaque=\"x\""
            )
        };
        for (algorithm, expected) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let answer =
                challenge_of(&offer(algorithm)).answer(&account("Circle of Life"), "GET", "/dir/index.html", 1, cnonce);
            assert_eq!(response_field(&answer, "response"), expected);
        }
        let mut response = Message::request("X", "sip:x");
        response.push("WWW-Authenticate", format!("{}, {}", offer("MD5"), offer("SHA-256")));
        let mut authorizer = Authorizer::new(Some(account("x")));
        assert!(authorizer.take(&response, &mut Answered::default()));
        let mut request = Message::request("INVITE", "sip:a@b");
        authorizer.apply(&mut request, &mut Random::from_test_seed(1));
        assert_eq!(request.headers("Authorization").count(), 1);
        assert!(request.header("Authorization").unwrap().contains("algorithm=SHA-256"));
    }

    #[test]
    fn challenges_without_qop_and_with_session_keys_are_answered() {
        let c = challenge_of("Digest realm=\"testrealm@host.com\", nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\"");
        let answer = c.answer(&account("Circle Of Life"), "GET", "/dir/index.html", 1, "0a4f113b");
        assert_eq!(response_field(&answer, "response"), "670fd8c2df070c60b045671b8b24ff02");
        let c = challenge_of("Digest realm=\"r\", nonce=\"n\", algorithm=MD5-sess, qop=\"auth\"");
        let secret = Algorithm::Md5.hash(&format!("{}:n:c", Algorithm::Md5.hash("Mufasa:r:p")));
        let expected = Algorithm::Md5.hash(&format!("{secret}:n:00000001:c:auth:{}", Algorithm::Md5.hash("BYE:sip:x")));
        assert_eq!(response_field(&c.answer(&account("p"), "BYE", "sip:x", 1, "c"), "response"), expected);
    }

    #[test]
    fn unknown_algorithms_and_schemes_are_not_answered() {
        for value in [
            "Digest realm=\"r\", nonce=\"n\", algorithm=FUTURE",
            "Basic realm=\"r\"",
            "Digest realm=\"r\"",
            "Digest realm=\"r\",nonce=\"n\",qop=\"auth-int\"",
            "",
        ] {
            let mut m = Message::request("X", "sip:x");
            m.push("WWW-Authenticate", value);
            assert!(!Authorizer::new(Some(account("p"))).take(&m, &mut Answered::default()), "{value}");
        }
    }

    #[test]
    fn a_request_answers_once_and_once_more_when_stale() {
        let challenge = |stale: bool| {
            let mut m = Message::request("X", "sip:x");
            m.push("Proxy-Authenticate", format!("Digest realm=\"r\", nonce=\"n{stale}\", stale={stale}"));
            m
        };
        let mut authorizer = Authorizer::new(Some(account("p")));
        let mut answered = Answered::default();
        assert!(authorizer.take(&challenge(false), &mut answered));
        assert!(authorizer.take(&challenge(true), &mut answered));
        assert!(!authorizer.take(&challenge(true), &mut answered));
        let mut answered = Answered::default();
        assert!(authorizer.take(&challenge(false), &mut answered));
        assert!(!authorizer.take(&challenge(false), &mut answered));
    }

    #[test]
    fn the_guard_grants_each_count_once_and_calls_old_nonces_stale() {
        let mut random = Random::from_test_seed(3);
        let mut guard = Guard::new(&mut random);
        let realm = "sip \"x\"";
        for algorithms in [&[Algorithm::Md5][..], &[Algorithm::Sha256, Algorithm::Md5], &[Algorithm::Sha512Half]] {
            let now = Instant::from_millis(5_000);
            let knows = |name: &str| (name == "Mufasa").then(|| Secret::Password("right".into()));
            let ask = |guard: &mut Guard, now, password: &str, challenge: &str, nc| {
                let mut request = Message::request("INVITE", "sip:a@b");
                let answer = challenge_of(challenge).answer(&account(password), "INVITE", "sip:a@b", nc, "cn");
                request.push("Proxy-Authorization", answer);
                guard.verify(now, &request, "Proxy-Authorization", realm, algorithms, &knows)
            };
            let granted = Verdict::Granted("Mufasa".into());
            let challenges = guard.challenges(now, realm, algorithms, false, &mut random);
            assert_eq!(challenges.len(), algorithms.len());
            for challenge in challenges {
                assert_eq!(challenge.contains("algorithm"), algorithms != [Algorithm::Md5]);
                assert!(challenge.contains("qop=\"auth\"") && challenge.contains("opaque="));
                assert_eq!(ask(&mut guard, now, "wrong", &challenge, 1), Verdict::Denied { stale: false });
                assert_eq!(ask(&mut guard, now, "right", &challenge, 1), granted);
                assert_eq!(ask(&mut guard, now, "right", &challenge, 1), Verdict::Denied { stale: true });
                assert_eq!(ask(&mut guard, now, "right", &challenge, 2), granted);
                let late = now.plus_millis(NONCE_MS_MAX + 1);
                assert_eq!(ask(&mut guard, late, "right", &challenge, 3), Verdict::Denied { stale: true });
                let forged = challenge.replace("nonce=\"0", "nonce=\"1");
                assert_eq!(ask(&mut guard, now, "right", &forged, 1), Verdict::Denied { stale: false });
            }
            let bare = Message::request("INVITE", "sip:a@b");
            let verdict = guard.verify(now, &bare, "Proxy-Authorization", realm, algorithms, &knows);
            assert_eq!(verdict, Verdict::Denied { stale: false });
        }
    }

    #[test]
    fn a_stored_hash_serves_its_own_algorithm_only_and_strangers_are_denied() {
        let mut random = Random::from_test_seed(4);
        let mut guard = Guard::new(&mut random);
        let hashed = Algorithm::Sha256.hash("Mufasa:r:right");
        let knows = |name: &str| {
            (name == "Mufasa").then(|| Secret::Hashed(vec![(Algorithm::Sha256, hashed.to_ascii_uppercase())]))
        };
        let both = [Algorithm::Sha256, Algorithm::Md5];
        let challenges = guard.challenges(Instant::ZERO, "r", &both, false, &mut random);
        for (challenge, name, granted) in
            [(&challenges[0], "Mufasa", true), (&challenges[1], "Mufasa", false), (&challenges[0], "Scar", false)]
        {
            let account = Credentials { username: name.into(), password: "right".into() };
            let mut request = Message::request("REGISTER", "sip:r");
            request.push("Authorization", challenge_of(challenge).answer(&account, "REGISTER", "sip:r", 1, "cn"));
            let verdict = guard.verify(Instant::ZERO, &request, "Authorization", "r", &both, &knows);
            assert_eq!(matches!(verdict, Verdict::Granted(_)), granted, "{name}");
        }
    }
}
