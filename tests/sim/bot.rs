//! The SIP side: a voice bot that demands digest, rings, answers or does not, speaks a tone and listens.

use crate::tone;
use control::sip::locate::Records;
use control::sip::{Credentials, SipAgent, SipCallId, SipConfig, SipEnd, SipEvent, SipOutput};
use engine::bridge::Shared;
use engine::leg::rtp::{RtpConfig, RtpLeg, RtpRemote};
use engine::leg::{Component, EventFormat, LegOutput, MediaFormat, Received};
use engine::limits::DATAGRAM_BYTES_MAX;
use engine::random::Random;
use engine::rtp::header::HEADER_BYTES;
use engine::sdp::{self, Codec, CodecFormat, Direction, OpusParameters, RtpLocal, TelephoneEventFormat};
use engine::time::Instant;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where the bot is.
pub const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 5));

/// Its SIP socket.
pub const SIP: SocketAddr = SocketAddr::new(ADDRESS, 5060);

/// What the gateway must know to call it.
pub const USERNAME: &str = "gw";

/// The password beside it.
pub const PASSWORD: &str = "secret of the bot";

const FIRST_PORT: u16 = 20_000;
const HEARD_SAMPLES: usize = 8_000;

/// What the bot does with its next calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Rings at once, answers after this, hangs up after that (`None`: never).
    Answer {
        /// From the INVITE.
        after_ms: u64,
        /// From the answer.
        hang_up_after_ms: Option<u64>,
    },
    /// Refuses with this code after a while.
    Refuse {
        /// 486, 603, ...
        code: u16,
        /// From the INVITE.
        after_ms: u64,
    },
    /// Rings without end.
    Ring,
}

/// One call at the bot.
pub struct BotCall {
    /// `X-WA-Call-ID` of the INVITE.
    pub whatsapp_call_id: String,
    sdp: sdp::Description,
    leg: Option<RtpLeg>,
    port: u16,
    deadline: Instant,
    act_at: Instant,
    hang_up_at: Instant,
    next_frame: Instant,
    behaviour: Behaviour,
    frame: usize,
    /// How it ended.
    pub end: Option<SipEnd>,
    heard: Vec<i16>,
    /// RTP packets that came.
    pub received: u64,
}

/// The bot.
pub struct Bot {
    agent: SipAgent,
    agent_deadline: Instant,
    calls: BTreeMap<SipCallId, BotCall>,
    shared: Shared,
    random: Random,
    next_port: u16,
    /// What it does with its next calls.
    pub behaviour: Behaviour,
}

impl Bot {
    /// Without calls; answers after 300 ms.
    pub fn new(shared: Shared, mut random: Random) -> Bot {
        let credentials = Credentials { username: USERNAME.to_owned(), password: PASSWORD.to_owned() };
        let config = SipConfig {
            demand: Some(("sip.twilio.com".to_owned(), credentials)),
            ..SipConfig::new(SIP, "bot", "sim-bot")
        };
        Bot {
            agent: SipAgent::new(config, random.fork()),
            agent_deadline: Instant::NEVER,
            calls: BTreeMap::new(),
            shared,
            random,
            next_port: FIRST_PORT,
            behaviour: Behaviour::Answer { after_ms: 300, hang_up_after_ms: None },
        }
    }

    /// The bot's side of a WhatsApp call, if the INVITE came through.
    pub fn call_of(&self, whatsapp_call_id: &str) -> Option<&BotCall> {
        self.calls.values().find(|call| call.whatsapp_call_id == whatsapp_call_id)
    }

    /// Hangs up a call.
    pub fn hang_up(&mut self, now: Instant, whatsapp_call_id: &str) {
        let of_call = |(_, call): &(&SipCallId, &BotCall)| call.whatsapp_call_id == whatsapp_call_id;
        if let Some(id) = self.calls.iter().find(of_call).map(|(id, _)| *id) {
            self.agent.hangup(now, id, None);
        }
    }

    /// A datagram to the SIP socket or to a media port.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, bytes: &mut [u8]) {
        if to == SIP {
            self.agent.handle_datagram(now, from, bytes);
            return;
        }
        let (port, component) =
            (to.port() & !1, if to.port().is_multiple_of(2) { Component::Rtp } else { Component::Rtcp });
        let Some(call) = self.calls.values_mut().find(|call| call.port == port) else { return };
        let Some(leg) = call.leg.as_mut() else { return };
        call.deadline = now;
        if let Received::Rtp(packet) = leg.handle_datagram(now, component, from, bytes) {
            call.received += 1;
            if packet.payload_type == 0 {
                call.heard.extend(packet.payload.iter().map(|byte| tone::from_ulaw(*byte)));
                let excess = call.heard.len().saturating_sub(HEARD_SAMPLES);
                call.heard.drain(..excess);
            }
        }
    }

    /// What the bot heard in the last second of a call, 8 kHz.
    pub fn heard(&self, whatsapp_call_id: &str) -> &[i16] {
        self.call_of(whatsapp_call_id).map_or(&[], |call| &call.heard)
    }

    /// The earliest timer.
    pub fn deadline(&self) -> Instant {
        let live = self.calls.values().filter(|call| call.end.is_none());
        let of = |call: &BotCall| call.deadline.min(call.act_at).min(call.hang_up_at).min(call.next_frame);
        live.map(of).min().unwrap_or(Instant::NEVER).min(self.agent_deadline)
    }

    /// Fires what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.agent_deadline <= now {
            self.agent.handle_timeout(now);
        }
        for (id, call) in self.calls.iter_mut().filter(|(_, call)| call.end.is_none()) {
            if call.act_at <= now {
                call.act_at = Instant::NEVER;
                act(&mut self.agent, &self.shared, &mut self.random, now, *id, call);
            }
            if call.hang_up_at <= now {
                call.hang_up_at = Instant::NEVER;
                self.agent.hangup(now, *id, Some("Q.850;cause=16"));
            }
            if call.deadline <= now {
                call.deadline = Instant::NEVER;
                if let Some(leg) = call.leg.as_mut() {
                    leg.handle_timeout(now);
                    call.deadline = now;
                }
            }
        }
    }

    /// Everything the bot has to send: `(from, to, bytes)`.
    pub fn drain(&mut self, now: Instant, out: &mut Vec<(SocketAddr, SocketAddr, Vec<u8>)>) {
        loop {
            match self.agent.poll_output(now) {
                SipOutput::Transmit { hop, bytes } => out.push((SIP, hop.remote, bytes)),
                SipOutput::Event(event) => self.handle_event(now, event),
                SipOutput::Resolve { query, .. } => self.agent.resolved(now, query, &Records::Nothing),
                SipOutput::Trace(_) => {}
                SipOutput::Timeout(at) => {
                    self.agent_deadline = at;
                    break;
                }
            }
        }
        assert!(self.agent_deadline > now, "the bot's deadline lies in the past after a drain at {now:?}");
        for call in self.calls.values_mut().filter(|call| call.end.is_none()) {
            call.drain(now, out);
        }
    }

    /// Checks that nothing is left of any call.
    ///
    /// # Panics
    /// When something is.
    pub fn assert_empty(&self) {
        assert_eq!(self.agent.alive(), (0, 0), "calls and transactions left at the bot");
        assert!(self.calls.values().all(|call| call.end.is_some()), "a call at the bot never ended");
    }

    fn handle_event(&mut self, now: Instant, event: SipEvent) {
        match event {
            SipEvent::Incoming { call, sdp, headers, .. } => self.incoming(now, call, sdp, &headers),
            SipEvent::Ended { call, end } => {
                if let Some(call) = self.calls.get_mut(&call) {
                    assert!(call.end.is_none(), "the bot's call ended twice: {:?}, then {end:?}", call.end);
                    call.end = Some(end);
                }
            }
            SipEvent::ReInvite { call, .. } => self.agent.answer_reinvite(now, call, None),
            _ => {}
        }
    }

    fn incoming(&mut self, now: Instant, id: SipCallId, sdp: Option<String>, headers: &[(String, String)]) {
        let whatsapp_call_id = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("X-WA-Call-ID"));
        let whatsapp_call_id = whatsapp_call_id.expect("the INVITE names WhatsApp's call").1.clone();
        let sdp = sdp::parse(&sdp.expect("the gateway offers")).expect("a valid offer");
        let port = self.next_port;
        self.next_port = if port > 50_000 { FIRST_PORT } else { port + 2 };
        let behaviour = self.behaviour;
        let after_ms = match behaviour {
            Behaviour::Answer { after_ms, .. } | Behaviour::Refuse { after_ms, .. } => after_ms,
            Behaviour::Ring => u64::MAX / 2_000_000,
        };
        self.agent.ring(now, id, None);
        let call = BotCall {
            whatsapp_call_id,
            sdp,
            leg: None,
            port,
            deadline: Instant::NEVER,
            act_at: now.plus_millis(after_ms),
            hang_up_at: Instant::NEVER,
            next_frame: Instant::NEVER,
            behaviour,
            frame: 0,
            end: None,
            heard: Vec::new(),
            received: 0,
        };
        self.calls.insert(id, call);
    }
}

fn act(agent: &mut SipAgent, shared: &Shared, random: &mut Random, now: Instant, id: SipCallId, call: &mut BotCall) {
    match call.behaviour {
        Behaviour::Refuse { code, .. } => agent.reject(now, id, code),
        Behaviour::Ring => {}
        Behaviour::Answer { hang_up_after_ms, .. } => {
            let local = RtpLocal {
                address: ADDRESS,
                port: call.port,
                profile: sdp::Profile::RtpAvp,
                rtcp_mux: false,
                crypto: Vec::new(),
                codecs: vec![CodecFormat { codec: Codec::Pcmu, payload_type: 0, opus: OpusParameters::default() }],
                telephone_events: vec![TelephoneEventFormat { payload_type: 101, clock_rate_hz: 8_000 }],
                direction: Direction::SendRecv,
                session_id: 1,
                session_version: 1,
            };
            agent.accept(now, id, &sdp::write_rtp_answer(&call.sdp, &local));
            let config = RtpConfig { remote: Some(remote(&call.sdp)) };
            call.leg = Some(RtpLeg::new(now, config, shared.anchor, random.fork()));
            call.deadline = now;
            call.next_frame = now;
            call.hang_up_at = hang_up_after_ms.map_or(Instant::NEVER, |after| now.plus_millis(after));
        }
    }
}

fn remote(offer: &sdp::Description) -> RtpRemote {
    let address = offer.address.expect("the offer has an address");
    RtpRemote {
        address,
        rtcp_address: SocketAddr::new(address.ip(), address.port() + 1),
        rtcp_mux: false,
        format: MediaFormat {
            codec: Codec::Pcmu,
            send_payload_type: 0,
            receive_payload_type: 0,
            opus: OpusParameters::default(),
            telephone_event: Some(EventFormat {
                send_payload_type: 101,
                receive_payload_type: 101,
                clock_rate_hz: 8_000,
            }),
        },
        sending: true,
        srtp: None,
    }
}

impl BotCall {
    fn drain(&mut self, now: Instant, out: &mut Vec<(SocketAddr, SocketAddr, Vec<u8>)>) {
        let Some(leg) = self.leg.as_mut() else { return };
        let from = |component| {
            let port = if component == Component::Rtp { self.port } else { self.port + 1 };
            SocketAddr::new(ADDRESS, port)
        };
        while self.next_frame <= now {
            self.next_frame = self.next_frame.plus_millis(20);
            let mut packet = [0; DATAGRAM_BYTES_MAX];
            payload(self.frame, &mut packet[HEADER_BYTES..HEADER_BYTES + tone::FRAME]);
            self.frame += 1;
            let len = leg.sender().audio(now, 0, self.frame == 1, tone::FRAME, 160, &mut packet);
            if let Some((to, len)) = leg.send(now, &mut packet, len) {
                out.push((from(Component::Rtp), to, packet[..len].to_vec()));
            }
        }
        if self.deadline > now {
            return;
        }
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        loop {
            match leg.poll_output(now, &mut buffer) {
                LegOutput::Transmit { component, to, len } => out.push((from(component), to, buffer[..len].to_vec())),
                LegOutput::Event(_) => {}
                LegOutput::Timeout(at) => {
                    self.deadline = at;
                    return;
                }
            }
        }
    }
}

/// One frame of the bot's tone: 1,000 Hz has a whole number of periods in 20 ms.
fn payload(_frame: usize, out: &mut [u8]) {
    use std::sync::OnceLock;
    static FRAME: OnceLock<Vec<u8>> = OnceLock::new();
    let frame =
        FRAME.get_or_init(|| tone::tone(tone::BOT_HZ, 8_000)[..tone::FRAME].iter().map(|s| tone::ulaw(*s)).collect());
    out.copy_from_slice(frame);
}
