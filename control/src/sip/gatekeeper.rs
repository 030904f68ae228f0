//! Who may call and register: the questions that the stack asks its owner about requests from outside any dialog.
//!
//! The stack knows how a challenge is written and verified; whether one is due, for whom and with which password is its owner's
//! to say. [`Gatekeeper::admit`] is asked first with nobody known; when it demands a challenge and the request answers it well,
//! it is asked again with the user's name, so that it can still refuse a user who claims another's number.
//!
//! Why questions and no events: an unknown caller must cost one answer and no state, and that answer is known at once.

use super::Credentials;
use super::digest::Algorithm;
use super::message::Message;
use super::transport::{Hop, PeerIdentity};
use engine::time::Instant;

/// Decides about INVITE and REGISTER and whatever else comes from outside a dialog.
pub trait Gatekeeper {
    /// What is to happen to an INVITE or REGISTER, or to another request that would be served (OPTIONS never asks).
    fn admit(&mut self, now: Instant, asking: &Asking<'_>) -> Admission;

    /// The secret of a user of a realm; `None`: nobody of that name.
    fn secret(&self, realm: &str, username: &str) -> Option<Secret>;

    /// Whether REGISTER is understood at all; otherwise it is answered 405.
    fn is_registrar(&self) -> bool;

    /// Carries out a REGISTER that was admitted (RFC 3261 §10.3).
    fn register(&mut self, now: Instant, request: &Message, hop: &Hop, admitted: &Admitted) -> Registered;
}

/// A request at the door.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The request.
    pub request: &'a Message,
    /// Where it came from.
    pub hop: &'a Hop,
    /// What TLS proved about that place.
    pub peer: &'a PeerIdentity,
    /// Who answered the challenge well.
    pub user: Option<&'a str>,
}

/// What is to happen to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Serve it.
    Accept(Admitted),
    /// Digest (RFC 8760): one challenge per algorithm, in this order. Over WebSocket only MD5 is offered, since browsers'
    /// libraries give up on a challenge that they do not know. Empty: SHA-256, then MD5.
    Challenge {
        /// The realm.
        realm: String,
        /// In order of preference.
        algorithms: Vec<Algorithm>,
    },
    /// A final refusal.
    Refuse(Refusal),
    /// No answer at all: scanners learn nothing.
    Ignore,
}

/// As whom a request was admitted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Admitted {
    /// Nobody in particular.
    #[default]
    Anyone,
    /// A trunk, by its name in the configuration.
    Trunk(String),
    /// A user, by name.
    User(String),
}

/// A final response, with the reason in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// 300 to 699; anything else becomes 480.
    pub code: u16,
    /// Reason phrase; the code's own when `None`.
    pub phrase: Option<String>,
    /// Written as `Warning: 399` (RFC 3261 §20.43).
    pub warning: Option<String>,
    /// Written as `Reason` (RFC 3326), such as `Q.850;cause=17`.
    pub reason: Option<String>,
    /// Written as `Retry-After`, seconds.
    pub retry_after_s: Option<u32>,
    /// Written as Contact: where else to try, with a code of 300 to 399.
    pub contacts: Vec<String>,
}

impl Refusal {
    /// Just a code.
    pub fn code(code: u16) -> Refusal {
        Refusal { code, ..Refusal::default() }
    }

    /// A code, and why in words.
    pub fn warned(code: u16, warning: &str) -> Refusal {
        Refusal { code, warning: Some(warning.to_owned()), ..Refusal::default() }
    }

    /// The code that is sent.
    pub fn final_code(&self) -> u16 {
        if (300..700).contains(&self.code) { self.code } else { 480 }
    }
}

/// What a user proves its name with.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// In clear.
    Password(String),
    /// `H(username:realm:password)` in hexadecimal, per algorithm; only those can be demanded.
    Hashed(Vec<(Algorithm, String)>),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// The answer to a REGISTER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// 200, or a refusal such as 423 or 503.
    pub code: u16,
    /// Headers to add: Contact, Expires, Min-Expires, Service-Route, Supported, Path...
    pub headers: Vec<(String, String)>,
}

/// The gatekeeper of an agent that has no other: one account or none, and no registrar.
#[derive(Clone)]
pub struct Doorman {
    /// Realm and account demanded of every INVITE.
    pub demand: Option<(String, Credentials)>,
    /// Whether INVITEs are taken at all.
    pub accept_incoming: bool,
}

impl Gatekeeper for Doorman {
    fn admit(&mut self, _now: Instant, asking: &Asking<'_>) -> Admission {
        match &self.demand {
            _ if !self.accept_incoming => Admission::Refuse(Refusal::code(404)),
            Some((realm, _)) if asking.user.is_none() => {
                Admission::Challenge { realm: realm.clone(), algorithms: vec![Algorithm::Md5] }
            }
            _ => Admission::Accept(Admitted::Anyone),
        }
    }

    fn secret(&self, realm: &str, username: &str) -> Option<Secret> {
        let (own, credentials) = self.demand.as_ref()?;
        (own == realm && credentials.username == username).then(|| Secret::Password(credentials.password.clone()))
    }

    fn is_registrar(&self) -> bool {
        false
    }

    fn register(&mut self, _now: Instant, _request: &Message, _hop: &Hop, _admitted: &Admitted) -> Registered {
        Registered { code: 404, headers: Vec::new() }
    }
}
