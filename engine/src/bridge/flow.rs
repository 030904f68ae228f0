//! One direction of a bridge: from what one leg hears to what the other says.
//!
//! ```text
//!  leg ──packet──► keys (RFC 4733) ───────────────────────────── key ──┐
//!          │                                                           ▼
//!          ├─ same codec ──► relay: payload bit for bit ────────────► exit ──► leg
//!          ├─ Opus to G.7xx ──► jitter buffer ► decode ► resample ► encode ┤   every 20 ms
//!          └─ G.7xx to any ───► decode ► frames of 20 ms ► encode ─────────┘   as it comes
//! ```
//!
//! Both directions run this code; only the codecs differ. A flow exists once both legs know their format, and is made anew
//! when a re-INVITE changes one in a way that matters to it: sequence and timestamps live in the leg and go on.
//!
//! The two pages to read next are `play` in `playout.rs`, one packet time of audio across the bridge, and `handle` in
//! `relay.rs`. Why an enum: three kinds, known when the flow is made, and each packet takes one branch.

use super::exit::{Exit, frame_ticks};
use super::playout::{Playout, PlayoutStats};
use super::relay::Relay;
use super::transcode::{Arrival, Voice};
use crate::error::DropReason;
use crate::leg::MediaFormat;
use crate::prefetch::prefetch;
use crate::rtp::header::RtpPacket;
use crate::rtp::telephone_event::{EventReceiver, Pressed};
use crate::sdp::{Codec, OpusParameters};
use crate::time::Instant;

/// Everything a flow depends on: a new format with the same plan changes nothing but payload type numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    source: Codec,
    exit: Codec,
    /// What the exit's peer wishes; matters where we encode.
    opus: OpusParameters,
    source_event_rate_hz: Option<u32>,
    exit_event_rate_hz: Option<u32>,
}

impl Plan {
    pub(super) fn new(source: &MediaFormat, exit: &MediaFormat) -> Plan {
        let is_relay = source.codec == exit.codec;
        Plan {
            source: source.codec,
            exit: exit.codec,
            opus: if is_relay { OpusParameters::default() } else { exit.opus },
            source_event_rate_hz: source.telephone_event.map(|event| event.clock_rate_hz),
            exit_event_rate_hz: exit.telephone_event.map(|event| event.clock_rate_hz),
        }
    }
}

/// One direction of a bridge.
pub(super) struct Flow {
    plan: Plan,
    /// `None` where the source has no telephone-event.
    keys: Option<EventReceiver>,
    path: Path,
}

/// How audio crosses.
enum Path {
    Relay(Box<Relay>),
    Playout(Box<Playout>),
    Arrival(Box<Arrival>),
}

impl Flow {
    /// Takes all memory that the flow needs.
    pub(super) fn new(plan: Plan) -> Flow {
        // Only where the source has a wide band is the encoder fed with one: Opus at 16 kHz costs more than at 8.
        let rate_hz = if plan.source == Codec::G722 { 16_000 } else { 8_000 };
        let voice = || Voice::new(plan.exit, &plan.opus, rate_hz, plan.exit_event_rate_hz);
        let path = match (plan.source, plan.exit) {
            (source, exit) if source == exit => {
                let event_rates_hz = (plan.source_event_rate_hz, plan.exit_event_rate_hz);
                Path::Relay(Box::new(Relay::new(frame_ticks(exit), event_rates_hz)))
            }
            (Codec::Opus, _) => Path::Playout(Box::new(Playout::new(plan.source, voice()))),
            (Codec::Pcmu | Codec::Pcma | Codec::G722, _) => Path::Arrival(Box::new(Arrival::new(plan.source, voice()))),
        };
        Flow { plan, keys: plan.source_event_rate_hz.map(EventReceiver::new), path }
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether payloads pass as they are: no codec exists then.
    pub(super) fn is_relay(&self) -> bool {
        matches!(self.path, Path::Relay(_))
    }

    /// Asks for what a relay needs for a packet. Whoever codes spends a hundred times as long as any of it takes to come.
    pub(super) fn prefetch(&self) {
        if let Path::Relay(relay) = &self.path {
            prefetch(&**relay);
        }
    }

    /// Takes one packet across. Answers a key that ended with it.
    pub(super) fn handle(
        &mut self,
        packet: &RtpPacket<'_>,
        is_event: bool,
        exit: &mut Exit<'_>,
    ) -> Result<Option<Pressed>, DropReason> {
        let pressed = match &mut self.keys {
            Some(keys) if is_event => keys.handle(exit.now, packet.timestamp, packet.payload),
            _ => None,
        };
        let crossed = match &mut self.path {
            Path::Relay(relay) => relay.handle(packet, is_event, exit),
            Path::Playout(playout) => playout.handle(packet, is_event, exit),
            Path::Arrival(arrival) => arrival.handle(packet, is_event, exit),
        };
        self.replay(pressed);
        // The repetitions of a key's last packet are late where its first came: no reason to lose the key.
        if pressed.is_some() { Ok(pressed) } else { crossed.map(|()| None) }
    }

    /// Sends what is due. Answers a key whose end was lost.
    pub(super) fn run(&mut self, exit: &mut Exit<'_>) -> Option<Pressed> {
        let pressed = self.keys.as_mut().and_then(|keys| keys.handle_timeout(exit.now));
        self.replay(pressed);
        match &mut self.path {
            Path::Relay(relay) => relay.run(exit),
            Path::Playout(playout) => playout.run(exit),
            Path::Arrival(arrival) => arrival.run(exit),
        }
        pressed
    }

    /// Sends silence where the source is silent; flows that decode do so anyway.
    pub(super) fn comfort(&mut self, exit: &mut Exit<'_>) {
        if let Path::Relay(relay) = &mut self.path {
            relay.comfort(exit);
        }
    }

    /// When `comfort` is due.
    pub(super) fn comfort_deadline(&self, can_send: bool) -> Instant {
        match &self.path {
            Path::Relay(relay) => relay.comfort_deadline(can_send),
            _ => Instant::NEVER,
        }
    }

    /// When `run` is due.
    pub(super) fn deadline(&self, can_send: bool) -> Instant {
        let path = match &self.path {
            Path::Relay(relay) => relay.deadline(can_send),
            Path::Playout(playout) => playout.deadline(can_send),
            Path::Arrival(arrival) => arrival.deadline(can_send),
        };
        self.keys.as_ref().map_or(Instant::NEVER, EventReceiver::deadline).min(path)
    }

    /// The stream goes on with another flow, whose first packet follows the last one of this.
    pub(super) fn hand_over(&mut self, exit: &mut Exit<'_>) {
        match &mut self.path {
            Path::Relay(relay) => relay.move_to(exit.now, exit),
            Path::Playout(_) | Path::Arrival(_) => {}
        }
    }

    /// Presses a key toward the exit, in place of audio; answers whether it will be heard.
    pub(super) fn press(&mut self, key: Pressed) -> bool {
        match &mut self.path {
            Path::Relay(relay) => relay.press(key),
            Path::Playout(playout) => playout.voice().press(key),
            Path::Arrival(arrival) => arrival.voice().press(key),
        }
    }

    /// Presses again what the source's peer pressed, as a fresh event, unless the packets themselves were relayed.
    fn replay(&mut self, pressed: Option<Pressed>) {
        let replays = match &self.path {
            Path::Relay(relay) => relay.replays(),
            Path::Playout(_) | Path::Arrival(_) => true,
        };
        if let (Some(key), true) = (pressed, replays) {
            self.press(key);
        }
    }

    /// Sets the effort of encoding and of concealment, where there are codecs.
    pub(super) fn set_complexity(&mut self, complexity: u8) {
        match &mut self.path {
            Path::Relay(_) => {}
            Path::Playout(playout) => playout.set_complexity(complexity),
            Path::Arrival(arrival) => arrival.voice().set_complexity(complexity),
        }
    }

    /// What playout did, where it paces the flow.
    pub(super) fn playout(&self) -> Option<PlayoutStats> {
        match &self.path {
            Path::Playout(playout) => Some(playout.stats()),
            Path::Relay(_) | Path::Arrival(_) => None,
        }
    }

    /// Packets that were encoded with redundancy.
    pub(super) fn redundant(&self) -> u64 {
        match &self.path {
            Path::Relay(_) => 0,
            Path::Playout(playout) => playout.redundant(),
            Path::Arrival(arrival) => arrival.redundant(),
        }
    }

    /// Packets that were made up in place of lost ones.
    pub(super) fn concealed(&self) -> u64 {
        match &self.path {
            Path::Relay(_) => 0,
            Path::Playout(playout) => playout.concealed(),
            Path::Arrival(arrival) => arrival.concealed(),
        }
    }
}
