//! A person with softphones.

use crate::trace::redact::Secret;

/// A user of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name that stands in the address of record and in digest.
    pub name: String,
    /// For digest.
    pub password: Secret,
    /// The name that others see.
    pub display: Option<String>,
    /// The number that others see and dial, in E.164.
    pub number: Option<String>,
    /// Whether this user may call out through trunks.
    pub outbound: bool,
    /// Devices registered at once.
    pub devices_max: usize,
    /// Calls at once.
    pub calls_max: usize,
}

/// Devices of a user at once, unless the configuration says otherwise.
pub const DEVICES_MAX_DEFAULT: usize = 8;

/// Calls of a user at once, unless the configuration says otherwise.
pub const CALLS_MAX_DEFAULT: usize = 8;

impl User {
    /// A user with all else at its default.
    pub fn new(name: &str, password: &str) -> User {
        User {
            name: name.to_owned(),
            password: Secret(password.to_owned()),
            display: None,
            number: None,
            outbound: true,
            devices_max: DEVICES_MAX_DEFAULT,
            calls_max: CALLS_MAX_DEFAULT,
        }
    }
}
