//! What is asked of peers without a call: trunks are registered at, and asked with OPTIONS whether they live (RFC 3261 §11).
//!
//! A trunk that has ceased to answer is tried after all others until it answers again, so that no call has to find out by waiting. The
//! questions also keep connections and NAT bindings open.
//!
//! Why any answer counts as life: a 405 or 403 comes from a server that works.

use super::Edge;
use crate::route::TrunkId;
use crate::sip::{SipEvent, Watch, WatchId};
use engine::time::Instant;

/// Who is asked, and what is known.
pub(super) struct Watched {
    peer: Peer,
    pub alive: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Trunk(TrunkId),
    /// That of the default route.
    Target,
}

impl Edge {
    /// Registers at every trunk that wants it, and begins to ask those that are to be asked. For a program that starts.
    pub fn register_trunks(&mut self, now: Instant) {
        let wanted =
            self.gate.routes.trunks.iter().filter_map(|trunk| Some((trunk.name.clone(), trunk.registration()?)));
        for (name, register) in wanted.collect::<Vec<_>>() {
            let id = self.sip.register(now, register);
            self.registrations.insert(id, (name, false));
        }
        let trunks = self.gate.routes.trunks().filter_map(|(id, trunk)| Some((Peer::Trunk(id), trunk.watch()?)));
        let target = self.config.default_route.as_ref().and_then(|route| {
            let every_ms = u64::from(route.options_s?) * 1_000;
            Some((Peer::Target, Watch { target: route.target.clone(), proxy: route.proxy.clone(), every_ms }))
        });
        for (peer, watch) in trunks.chain(target).collect::<Vec<_>>() {
            let id = self.sip.watch(now, watch);
            self.watched.insert(id, Watched { peer, alive: None });
        }
    }

    /// Takes every registration back, and asks nobody any more. For a program whose last call is over.
    pub fn unregister_trunks(&mut self, now: Instant) {
        for id in std::mem::take(&mut self.registrations).into_keys() {
            self.sip.unregister(now, id);
        }
        for id in std::mem::take(&mut self.watched).into_keys() {
            self.sip.unwatch(id);
        }
    }

    /// Whether a peer answers OPTIONS; `None`: it is not asked, or has not answered yet.
    pub(super) fn is_alive(&self, peer: Peer) -> Option<bool> {
        self.watched.values().find(|watched| watched.peer == peer)?.alive
    }

    /// What the agent says of peers rather than of calls.
    pub(super) fn note_peer(&mut self, event: &SipEvent) {
        match event {
            SipEvent::PeerAlive { watch, alive } => self.note_life(*watch, *alive),
            SipEvent::Registered { registration, expires_s } => {
                let Some((name, held)) = self.registrations.get_mut(registration) else { return };
                *held = true;
                tracing::info!("registered at trunk {name} for {expires_s} s");
            }
            SipEvent::RegistrationFailed { registration, code, reason, retry_ms } => {
                let Some((name, held)) = self.registrations.get_mut(registration) else { return };
                *held = false;
                let retry_s = retry_ms / 1_000;
                tracing::warn!("trunk {name} does not register us: {code} {reason}; next try in {retry_s} s");
            }
            _ => {}
        }
    }

    fn note_life(&mut self, watch: WatchId, alive: bool) {
        let Some(watched) = self.watched.get_mut(&watch) else { return };
        let before = watched.alive.replace(alive);
        let name = match watched.peer {
            Peer::Target => "the SIP target".to_owned(),
            Peer::Trunk(id) => {
                self.load.alive(id, alive);
                format!("trunk {}", self.gate.routes.trunk(id).map_or("", |trunk| &trunk.name))
            }
        };
        match (alive, before) {
            (true, None) => tracing::info!("{name} answers OPTIONS"),
            (true, Some(_)) => tracing::warn!("{name} answers OPTIONS again"),
            (false, _) => tracing::warn!("{name} does not answer OPTIONS: is it down, or does a firewall drop them?"),
        }
    }
}
