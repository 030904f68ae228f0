//! Who is where: users, their devices, and groups of users.

mod group;
mod user;

pub use group::Group;
pub use user::User;
