//! Plays WhatsApp and a voice bot.
fn main() {}
