//! Garbage on every port during a call changes nothing but a drop counter.
//!
//! Thrown are random datagrams, and real ones (STUN, DTLS, SRTP, SRTCP, RTP, RTCP and SIP of this very call, both ways) as they
//! were, cut, and with bits flipped; from strangers and from the true addresses of both peers; onto the webrtc port, the rtp port,
//! its rtcp port and the SIP port. The same call is played a second time without garbage: both must be alike to the last sample.
//!
//! One thing is left out, since it is no garbage: plain RTP authenticates nobody, so a well-formed packet with the bot's true
//! address and a negotiated payload type is the bot's by all that can be known, and is heard. What is thrown at the rtp port from
//! there is therefore wrong in its version or its payload type.

use engine::demux::{Class, classify};
use engine::error::DropReason;
use engine::random::Random;
use harness::{Sim, Tapped, bot, gateway, seed_from_env_or, whatsapp};
use std::net::SocketAddr;

/// Throws of one storm, 1 to 29 ms apart: three seconds.
const THROWS: u32 = 200;

/// Datagrams of one throw.
const THROWN: u32 = 40;

/// A payload type that nobody negotiated.
const PAYLOAD_TYPE_FOREIGN: u8 = 77;

#[test]
fn garbage_on_every_port_during_a_call_changes_nothing_but_a_drop_counter() {
    let seed = seed_from_env_or(21);
    let quiet = play(seed, 0);
    let storm = play(seed, THROWN);
    assert_eq!(storm.steps, quiet.steps, "garbage left its mark on the timeline");
    assert_eq!(storm.packets, quiet.packets, "packets heard by WhatsApp and by the bot");
    assert!(storm.caller_heard == quiet.caller_heard, "the caller hears something else");
    assert!(storm.bot_heard == quiet.bot_heard, "the bot hears something else");
    let grown = |reason: DropReason| storm.dropped[reason as usize] - quiet.dropped[reason as usize];
    for reason in [
        DropReason::DtlsUnexpected,
        DropReason::NotMultiplexed,
        DropReason::RtcpMalformed,
        DropReason::RtpMalformed,
        DropReason::RtpPayloadType,
        DropReason::SrtpAuthFailed,
        DropReason::SrtpReplayed,
        DropReason::SrtpTooShort,
        DropReason::StunAuthFailed,
        DropReason::StunMalformed,
        DropReason::UnknownSource,
    ] {
        assert!(grown(reason) > 0, "{reason:?} was never counted");
    }
    assert_eq!(quiet.sip_malformed, 0, "the call's own SIP was counted as garbage");
    assert!(storm.sip_malformed > storm.thrown_at_sip / 3, "{} of {}", storm.sip_malformed, storm.thrown_at_sip);
    let counted: u64 = DropReason::ALL.into_iter().map(grown).sum();
    // What looks like DTLS or RTCP from the true peer is for the session, or for the report, to judge; the rest is counted.
    assert!(counted > storm.thrown_at_media * 3 / 4, "{counted} counted of {}", storm.thrown_at_media);
}

/// The same while the call is being set up, by strangers, who know the ports before anybody else, and what was said in another
/// call. The true peers' addresses are left out, since a handshake that has no keys yet believes what comes from where it was told
/// to listen; so is this call's own SIP, since who knows a transaction's branch can answer it.
#[test]
fn garbage_of_strangers_while_a_call_is_set_up_changes_nothing_either() {
    let seed = seed_from_env_or(22);
    let mut other = Sim::new(seed + 1_000_000);
    other.tap();
    other.place_call();
    other.run_for_ms(12_000);
    let mut thrower = Thrower::new(other.untap(), seed);

    let mut quiet = Sim::new(seed);
    let call = quiet.place_call();
    quiet.run_for_ms(12_000);
    let expected = quiet.steps(&call);

    let mut sim = Sim::new(seed);
    let call = sim.place_call();
    for _ in 0..600 {
        for _ in 0..THROWN {
            let (_, to, mut bytes) = thrower.next();
            // Until the bot has spoken, its leg takes the first other source with a valid packet (RFC 4961).
            thrower.spoil_rtp(&mut bytes);
            let from = SocketAddr::from(([192, 0, 2, 99], 1_024 + thrower.random.below(60_000) as u16));
            sim.inject(from, to, &bytes);
        }
        sim.run_for_ms(20);
    }
    assert!(sim.is_bridged(&call), "{:#?}", sim.steps(&call));
    assert_eq!(sim.steps(&call), expected, "garbage left its mark on the timeline");
    sim.assert_bot_hears_caller(&call);
    sim.settle();
}

/// What can be seen of a call.
struct Seen {
    steps: Vec<String>,
    packets: [u64; 2],
    caller_heard: Vec<i16>,
    bot_heard: Vec<i16>,
    dropped: [u64; DropReason::COUNT],
    sip_malformed: u64,
    thrown_at_media: u64,
    thrown_at_sip: u64,
}

/// A call of seven seconds, the last three of them under a storm of `thrown` datagrams a throw.
fn play(seed: u64, thrown: u32) -> Seen {
    let mut sim = Sim::new(seed);
    sim.whatsapp.listening = true;
    sim.tap();
    let call = sim.place_call();
    // Long enough for reports of both legs.
    sim.run_for_ms(12_000);
    assert!(sim.is_bridged(&call), "{:#?}", sim.steps(&call));
    let mut thrower = Thrower::new(sim.untap(), seed);
    let mut pauses = Random::from_test_seed(seed);
    for _ in 0..THROWS {
        for _ in 0..thrown {
            let (from, to, bytes) = thrower.next();
            sim.inject(from, to, &bytes);
        }
        sim.run_for_ms(1 + u64::from(pauses.below(29)));
    }
    // The second that is listened to lies within the storm.
    sim.assert_bot_hears_caller(&call);
    sim.assert_caller_hears_bot(&call);
    assert!(sim.whatsapp.get(&call).ended_at.is_none() && sim.end_of(&call).is_none(), "{:#?}", sim.steps(&call));
    let seen = Seen {
        steps: sim.steps(&call),
        packets: [sim.whatsapp.get(&call).received, sim.bot.call_of(&call).map_or(0, |call| call.received)],
        caller_heard: sim.whatsapp.heard(&call).to_vec(),
        bot_heard: sim.bot.heard(&call).to_vec(),
        dropped: sim.gateway.metrics.dropped,
        sip_malformed: sim.gateway.edge_counters().sip_malformed,
        thrown_at_media: thrower.thrown_at_media,
        thrown_at_sip: u64::from(thrown) * u64::from(THROWS) - thrower.thrown_at_media,
    };
    sim.settle();
    seen
}

/// Well-formed goodbyes that nobody said. Addresses are drawn later.
fn forged(tapped: &[Tapped]) -> Vec<Tapped> {
    let invite = tapped.iter().find(|(.., bytes)| bytes.starts_with(b"INVITE")).expect("the gateway calls the bot");
    let text = String::from_utf8_lossy(&invite.2);
    let call_id = text.lines().find(|line| line.starts_with("Call-ID:")).expect("an INVITE has a Call-ID");
    let bye = |method: &str| {
        format!(
            "{method} sip:tandem@192.0.2.10 SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.5;branch=z9hG4bKforged\r\n\
             Max-Forwards: 70\r\nFrom: <sip:bot@198.51.100.5>;tag=forged\r\nTo: <sip:tandem@192.0.2.10>;tag=forged\r\n\
             {call_id}\r\nCSeq: 99 {method}\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes()
    };
    let response = format!(
        "SIP/2.0 500 No\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKforged\r\nFrom: <sip:a@192.0.2.10>;tag=forged\r\n\
         To: <sip:bot@198.51.100.5>;tag=forged\r\n{call_id}\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
    );
    let forged = [
        bye("BYE"),
        bye("CANCEL"),
        response.into_bytes(),
        // DTLS alerts in the clear: handshake_failure and close_notify.
        vec![21, 254, 253, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 2, 40],
        vec![21, 254, 253, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 1, 0],
        // RTCP BYE. From the bot's host it is believed, and taken back by the RTP that follows.
        vec![0x81, 203, 0, 1, 1, 2, 3, 4],
        // A STUN Binding request, and an indication, without any attribute.
        vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        vec![0, 0x11, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    ];
    forged.into_iter().map(|bytes| (bot::SIP, gateway::SIP, bytes)).collect()
}

/// Makes garbage.
struct Thrower {
    /// Datagrams of the call, of every kind that there was, and forged ones.
    real: Vec<Vec<Tapped>>,
    /// The webrtc, rtp and rtcp ports, and the SIP port last.
    ports: [SocketAddr; 4],
    /// Where the bot sends RTP from; its RTCP comes from the next port.
    bot: SocketAddr,
    random: Random,
    thrown_at_media: u64,
}

impl Thrower {
    fn new(tapped: Vec<Tapped>, seed: u64) -> Thrower {
        let of = |from: SocketAddr, class: Class| {
            let sent = tapped.iter().find(|(source, _, bytes)| *source == from && classify(bytes) == class);
            sent.expect("the call sends it")
        };
        let webrtc = of(whatsapp::RELAY, Class::Rtp).1;
        let is_bots = |from: &SocketAddr| from.ip() == bot::ADDRESS && *from != bot::SIP;
        let (bot, rtp, _) = tapped.iter().find(|(from, ..)| is_bots(from)).expect("the bot speaks").clone();
        let rtcp = SocketAddr::new(rtp.ip(), rtp.port() + 1);
        let is_sip = |tapped: &Tapped| tapped.1 == gateway::SIP || tapped.0 == gateway::SIP;
        let on_webrtc = |tapped: &Tapped| tapped.0 == whatsapp::RELAY || tapped.1 == whatsapp::RELAY;
        let kinds: [&dyn Fn(&Tapped) -> bool; 7] = [
            &is_sip,
            &|tapped| !is_sip(tapped) && classify(&tapped.2) == Class::Stun,
            &|tapped| !is_sip(tapped) && classify(&tapped.2) == Class::Dtls,
            &|tapped| on_webrtc(tapped) && classify(&tapped.2) == Class::Rtp,
            &|tapped| on_webrtc(tapped) && classify(&tapped.2) == Class::Rtcp,
            &|tapped| !is_sip(tapped) && !on_webrtc(tapped) && classify(&tapped.2) == Class::Rtp,
            &|tapped| !is_sip(tapped) && !on_webrtc(tapped) && classify(&tapped.2) == Class::Rtcp,
        ];
        let forged = forged(&tapped);
        let real = kinds.map(|is_kind| tapped.iter().filter(|tapped| is_kind(tapped)).cloned().collect::<Vec<_>>());
        for (number, kind) in real.iter().enumerate() {
            assert!(!kind.is_empty(), "no real datagram of kind {number}");
        }
        Thrower {
            real: real.into_iter().chain([forged]).collect(),
            ports: [webrtc, rtp, rtcp, gateway::SIP],
            bot,
            random: Random::from_test_seed(seed ^ 0x6172_6261_6765),
            thrown_at_media: 0,
        }
    }

    fn next(&mut self) -> Tapped {
        let to = self.ports[self.random.below(4) as usize];
        let from = self.source(to);
        let mut bytes = self.bytes();
        if to == self.ports[1] && from == self.bot {
            self.spoil_rtp(&mut bytes);
        }
        self.thrown_at_media += u64::from(to != gateway::SIP);
        (from, to, bytes)
    }

    /// Half of it comes from where the peer of that port sends from, the rest from elsewhere on its host, and from strangers.
    fn source(&mut self, to: SocketAddr) -> SocketAddr {
        let [webrtc, rtp, rtcp, _] = self.ports;
        let peer = match to {
            to if to == webrtc => whatsapp::RELAY,
            to if to == rtp => self.bot,
            to if to == rtcp => SocketAddr::new(self.bot.ip(), self.bot.port() + 1),
            _ => bot::SIP,
        };
        match self.random.below(8) {
            0..=3 => peer,
            4 => SocketAddr::new(peer.ip(), 1_024 + self.random.below(60_000) as u16),
            5 => [whatsapp::RELAY, bot::SIP, self.bot][self.random.below(3) as usize],
            _ => SocketAddr::from(([192, 0, 2, 99], 1_024 + self.random.below(60_000) as u16)),
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        if self.random.below(4) == 0 {
            let mut bytes = vec![0; self.random.below(1_500) as usize];
            self.random.fill(&mut bytes);
            return bytes;
        }
        let kind = &self.real[self.random.below(self.real.len() as u32) as usize];
        let mut bytes = kind[self.random.below(kind.len() as u32) as usize].2.clone();
        match self.random.below(4) {
            0 => {}
            1 => bytes.truncate(self.random.below(bytes.len() as u32) as usize),
            _ => {
                for _ in 0..=self.random.below(8) {
                    let at = self.random.below(bytes.len() as u32) as usize;
                    bytes[at] ^= 1 << self.random.below(8);
                }
            }
        }
        bytes
    }

    /// Makes what may be the bot's RTP something that it cannot be.
    fn spoil_rtp(&mut self, bytes: &mut [u8]) {
        let [first, second, ..] = bytes else { return };
        if classify(&[*first, *second]) != Class::Rtp {
            return;
        }
        if self.random.below(2) == 0 {
            *second = PAYLOAD_TYPE_FOREIGN;
        } else {
            *first &= 0x3f;
        }
    }
}
