//! Who is where, and who may call: users, their devices, groups of users, and the gate that asks for passwords.

mod binding;
mod gate;
mod group;
pub mod limits;
mod user;

pub use binding::{Binding, Registrar};
pub use gate::{Gate, GateCounters};
pub use group::Group;
pub use user::User;
