//! A bounded buffer that puts packets in order and says what to play (fixed target; the audio issue makes it adaptive).

use crate::error::DropReason;
use crate::rtp::sequence::ExtendedSequence;
use crate::time::Instant;

/// What the next packet time plays.
#[derive(Debug, PartialEq, Eq)]
pub enum Playout<'b> {
    /// A packet that is here.
    Packet(&'b [u8]),
    /// The packet is missing, the one after it is here: in-band FEC may recover it. That one stays in the buffer.
    Recover(&'b [u8]),
    /// The packet is missing.
    Missing,
    /// Nothing has begun, or the sender pauses (DTX): nothing is known to be missing.
    Empty,
}

/// Packets of one stream, by extended sequence number. All memory is taken in `new`.
pub struct JitterBuffer {}

impl JitterBuffer {
    /// `target_ms`: how long the first packet waits before it is played, and what is aimed at afterwards.
    pub fn new(_target_ms: usize) -> JitterBuffer {
        todo!()
    }

    /// Puts one packet in. Packets of one stream only; call `restart` on a new SSRC.
    pub fn insert(&mut self, _now: Instant, _sequence: ExtendedSequence, _payload: &[u8]) -> Result<(), DropReason> {
        todo!()
    }

    /// Forgets everything; the next packet begins anew with the target delay.
    pub fn restart(&mut self) {
        todo!()
    }

    /// What to play now. Call once per packet time. The first packet is answered when it has waited `target_ms`; when the buffer
    /// has run dry and later fills again, the target is rebuilt; when it holds much more than the target (2 packets) for a second, one
    /// packet is skipped, so that delay does not only grow.
    pub fn pop(&mut self, _now: Instant) -> Playout<'_> {
        todo!()
    }

    /// Packets held.
    pub fn len(&self) -> usize {
        todo!()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
