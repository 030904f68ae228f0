//! Trunks as other programs play them. These tests run beside others: each needs little and has ports of its own.

mod meta;
mod sipp;
