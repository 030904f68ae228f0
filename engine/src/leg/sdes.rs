//! SRTP on an rtp leg, by keys that came in descriptions (SDES, RFC 4568).
//!
//! A description with the key before keeps its context, rollover counter and replay window (RFC 4568 §6.4); another key
//! begins a new one. What the peer protected before it learned of the change is still on its way then, so the context before
//! lives on for a moment, for receiving only.
//!
//! Why both directions are looked at apart: the peer may change its key and we keep ours, or the other way round, and a
//! sender that began anew under an old key would use its keystream twice (RFC 3711 §9.1).

use crate::error::DropReason;
use crate::limits::DATAGRAM_BYTES_MAX;
use crate::srtp::{Protect, SrtpKeys, Unprotect};
use crate::time::Instant;

/// Time in which packets under the key before may still arrive.
const REKEY_MS_MAX: u64 = 2_000;

/// The contexts of one leg.
pub(super) struct Contexts {
    keys: SrtpKeys,
    protect: Protect,
    unprotect: Unprotect,
    before: Option<(Unprotect, Instant)>,
}

/// Which of the two a datagram is.
#[derive(Clone, Copy)]
enum Kind {
    Rtp,
    Rtcp,
}

impl Contexts {
    pub(super) fn new(keys: SrtpKeys) -> Contexts {
        let (protect, unprotect) =
            (Protect::new(keys.profile, &keys.local), Unprotect::new(keys.profile, &keys.remote));
        Contexts { keys, protect, unprotect, before: None }
    }

    /// Asks for the context of one direction.
    pub(super) fn prefetch(&self, is_received: bool) {
        match is_received {
            true => self.unprotect.prefetch(),
            false => self.protect.prefetch(),
        }
    }

    /// Goes on with `keys`; what did not change keeps its state.
    pub(super) fn change(&mut self, now: Instant, keys: SrtpKeys) {
        let is_same_suite = keys.profile == self.keys.profile;
        if !is_same_suite || keys.local != self.keys.local {
            self.protect = Protect::new(keys.profile, &keys.local);
        }
        if !is_same_suite || keys.remote != self.keys.remote {
            let before = core::mem::replace(&mut self.unprotect, Unprotect::new(keys.profile, &keys.remote));
            self.before = Some((before, now.plus_millis(REKEY_MS_MAX)));
        }
        self.keys = keys;
    }

    /// Checks and decrypts one SRTP packet in place; answers the length of the RTP packet.
    pub(super) fn open_rtp(&mut self, now: Instant, packet: &mut [u8]) -> Result<usize, DropReason> {
        self.open(now, packet, Kind::Rtp)
    }

    /// The same for SRTCP.
    pub(super) fn open_rtcp(&mut self, now: Instant, packet: &mut [u8]) -> Result<usize, DropReason> {
        self.open(now, packet, Kind::Rtcp)
    }

    fn open(&mut self, now: Instant, packet: &mut [u8], kind: Kind) -> Result<usize, DropReason> {
        if self.before.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.before = None;
        }
        let Some((before, _)) = &mut self.before else { return unprotect(&mut self.unprotect, packet, kind) };
        // A failed attempt may leave anything in the payload.
        let mut copy = [0; DATAGRAM_BYTES_MAX];
        let copy = copy.get_mut(..packet.len()).ok_or(DropReason::SrtpTooShort)?;
        copy.copy_from_slice(packet);
        let reason = match unprotect(&mut self.unprotect, packet, kind) {
            Ok(len) => return Ok(len),
            Err(reason) => reason,
        };
        let len = unprotect(before, copy, kind).map_err(|_| reason)?;
        packet[..len].copy_from_slice(&copy[..len]);
        Ok(len)
    }

    /// Encrypts `packet[..len]` in place; answers its new length.
    pub(super) fn seal_rtp(&mut self, packet: &mut [u8], len: usize) -> Result<usize, DropReason> {
        self.protect.rtp(packet, len)
    }

    /// The same for RTCP.
    pub(super) fn seal_rtcp(&mut self, packet: &mut [u8], len: usize) -> Result<usize, DropReason> {
        self.protect.rtcp(packet, len)
    }
}

fn unprotect(context: &mut Unprotect, packet: &mut [u8], kind: Kind) -> Result<usize, DropReason> {
    match kind {
        Kind::Rtp => context.rtp(packet),
        Kind::Rtcp => context.rtcp(packet),
    }
}
