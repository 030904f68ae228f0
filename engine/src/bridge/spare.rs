//! Legs in waiting: offers that are out while devices ring, and the next leg of a call that is being transferred.
//!
//! ```text
//!  OpenLeg ──► spare ──SeatLeg──► A or B        (the leg that sat there takes the spare's name)
//!                │                                             │
//!                └──────────── CloseLeg ──► goodbyes ──► LegClosed
//! ```
//!
//! A spare runs its set-up (ICE answers checks, DTLS shakes hands once the peer is described) and nothing else: what its peer
//! says is dropped, as early media is.
//!
//! Why seats and not a new bridge: the leg at the far side must not notice. Its stream, its keys and its sockets stay where they
//! are; only the flow toward the new leg begins anew, and the flow from it sees a source that changed, which it knows how to join.

use super::{Bridge, BridgeEvent, LegConfig, LegName, Output, Phase, Polled, Shared};
use crate::error::Cause;
use crate::leg::rtp::RtpLeg;
use crate::leg::webrtc::WebrtcLeg;
use crate::leg::{Component, Leg, Received};
use crate::limits::SPARES_MAX;
use crate::metrics::Metrics;
use crate::random::Random;
use crate::time::Instant;
use std::net::SocketAddr;

/// Makes a leg of either kind.
pub(super) fn open_leg(now: Instant, config: LegConfig, shared: &Shared, random: &mut Random) -> Leg {
    match config {
        LegConfig::Webrtc(config) => {
            let leg = WebrtcLeg::new(now, *config, &shared.identity, shared.anchor, random.fork());
            Leg::Webrtc(Box::new(leg))
        }
        LegConfig::Rtp(config) => Leg::Rtp(Box::new(RtpLeg::new(now, config, shared.anchor, random.fork()))),
    }
}

/// The spare legs of a bridge, by name.
#[derive(Default)]
pub(super) struct Spares {
    legs: [Option<Spare>; SPARES_MAX],
    /// How many there are, so that a call without any pays one look.
    count: usize,
}

struct Spare {
    leg: Leg,
    /// Only its goodbyes are left.
    is_closing: bool,
    cause: Option<Cause>,
}

impl Spares {
    pub(super) fn leg(&self, name: LegName) -> Option<&Leg> {
        self.legs.get(index(name)?)?.as_ref().map(|spare| &spare.leg)
    }

    pub(super) fn leg_mut(&mut self, name: LegName) -> Option<&mut Leg> {
        self.legs.get_mut(index(name)?)?.as_mut().map(|spare| &mut spare.leg)
    }

    /// Starts a spare's goodbye.
    pub(super) fn close(&mut self, now: Instant, name: LegName) {
        if let Some(spare) = self.spare_mut(name) {
            spare.is_closing = true;
            spare.leg.close(now);
        }
    }

    pub(super) fn close_all(&mut self, now: Instant) {
        for spare in self.legs.iter_mut().flatten() {
            spare.is_closing = true;
            spare.leg.close(now);
        }
    }

    /// A spare ended by itself.
    pub(super) fn died(&mut self, now: Instant, name: LegName, cause: Cause) {
        if let Some(spare) = self.spare_mut(name) {
            spare.cause = Some(cause);
        }
        self.close(now, name);
    }

    fn spare_mut(&mut self, name: LegName) -> Option<&mut Spare> {
        self.legs.get_mut(index(name)?)?.as_mut()
    }

    fn insert(&mut self, name: LegName, leg: Leg) -> bool {
        let Some(place @ None) = index(name).and_then(|index| self.legs.get_mut(index)) else { return false };
        *place = Some(Spare { leg, is_closing: false, cause: None });
        self.count += 1;
        true
    }

    fn remove(&mut self, name: LegName) -> Option<Spare> {
        let spare = self.legs.get_mut(index(name)?)?.take()?;
        self.count -= 1;
        Some(spare)
    }
}

fn index(name: LegName) -> Option<usize> {
    (name as usize).checked_sub(LegName::C as usize)
}

impl Bridge {
    pub(super) fn open_spare(&mut self, now: Instant, name: LegName, config: LegConfig) {
        if !name.is_spare() || self.spares.leg(name).is_some() {
            return self.events.push_back(BridgeEvent::LegRefused { leg: name });
        }
        let leg = open_leg(now, config, &self.shared, &mut self.random);
        let local = leg.local();
        self.spares.insert(name, leg);
        self.events.push_back(BridgeEvent::LegOpened { leg: name, local });
    }

    /// The spare takes the seat; who sat there takes its name and says goodbye.
    pub(super) fn seat_spare(&mut self, now: Instant, name: LegName, seat: LegName) {
        if seat.is_spare() || self.spares.spare_mut(name).is_none_or(|spare| spare.is_closing) {
            return tracing::debug!(?name, ?seat, "no such leg to be seated");
        }
        let Some(Spare { leg, .. }) = self.spares.remove(name) else { return };
        let (place, toward) = match seat {
            LegName::A => (&mut self.a, &mut self.b_to_a),
            _ => (&mut self.b, &mut self.a_to_b),
        };
        let before = std::mem::replace(place, leg);
        // The stream into the new leg is another one, from its first packet on. The one from it goes on in its flow.
        if let Some(flow) = toward.take() {
            let index = usize::from(seat == LegName::A);
            self.concealed_before[index] += flow.concealed();
            self.redundant_before[index] += flow.redundant();
        }
        self.spares.insert(name, before);
        self.spares.close(now, name);
        self.join(now);
    }

    /// What a spare's peer says is for its set-up; audio is early media, which is not kept.
    pub(super) fn handle_spare_datagram(
        &mut self,
        now: Instant,
        name: LegName,
        component: Component,
        from: SocketAddr,
        datagram: &mut [u8],
        metrics: &mut Metrics,
    ) {
        let Some(leg) = self.spares.leg_mut(name) else { return };
        if let Received::Dropped(reason) = leg.handle_datagram(now, component, from, datagram) {
            metrics.drop(reason);
        }
    }

    /// One step of the spares: whoever has said goodbye is gone.
    pub(super) fn poll_spares(&mut self, now: Instant, out: &mut [u8]) -> Polled {
        let mut deadline = Instant::NEVER;
        if self.spares.count == 0 {
            return Polled::Idle(deadline);
        }
        for name in &LegName::ALL[2..] {
            let Some(is_closing) = self.spares.spare_mut(*name).map(|spare| spare.is_closing) else { continue };
            match self.poll_leg(now, *name, out) {
                // The last words of a leg that was replaced are no news of the one that has its seat now.
                Polled::Output(Output::Event(_)) if is_closing => return Polled::Changed,
                Polled::Output(output) => return Polled::Output(output),
                Polled::Changed => return Polled::Changed,
                Polled::Idle(_) if is_closing && self.phase == Phase::Open => {
                    if let Some(Spare { leg, cause, .. }) = self.spares.remove(*name) {
                        self.events.push_back(BridgeEvent::LegClosed { leg: *name, cause, stats: leg.stats() });
                    }
                    return Polled::Changed;
                }
                Polled::Idle(at) => deadline = deadline.min(at),
            }
        }
        Polled::Idle(deadline)
    }
}
