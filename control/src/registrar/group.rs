//! People who are called together.

/// A group of the configuration: a call to it rings every device of every member, and the first answer wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The number that is dialed for it, in E.164.
    pub number: Option<String>,
    /// Names of its users.
    pub users: Vec<String>,
}

impl Group {
    /// A group without a number.
    pub fn new(name: &str, users: &[&str]) -> Group {
        Group { name: name.to_owned(), number: None, users: users.iter().map(|user| (*user).to_owned()).collect() }
    }
}
