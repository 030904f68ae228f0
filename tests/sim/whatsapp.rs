//! WhatsApp's side: webhooks, Graph with its checks, and an ICE-lite media relay that is DTLS server on one fixed port for
//! all calls, as Meta's is. Where the number is set to SDES, the keys stand in the descriptions and there is no ICE.

use crate::tone;
use control::whatsapp::event::{Connect, Terminate, WebhookEvent};
use control::whatsapp::graph::{GraphAction, GraphError, GraphErrorKind, GraphRequest};
use engine::bridge::Shared;
use engine::dtls::{DtlsRole, DtlsVersions};
use engine::ice::IceRole;
use engine::leg::rtp::{RtpConfig, RtpLeg, RtpRemote};
use engine::leg::webrtc::{WebrtcConfig, WebrtcLeg, WebrtcRemote};
use engine::leg::{Component, EventFormat, Leg, LegEvent, LegOutput, LocalLeg, MediaFormat, Received};
use engine::limits::DATAGRAM_BYTES_MAX;
use engine::random::Random;
use engine::rtp::header::HEADER_BYTES;
use engine::sdp::{self, Codec, CodecFormat, OpusParameters, Sdes, Setup, TelephoneEventFormat, WebrtcLocal};
use engine::srtp::SrtpProfile;
use engine::time::Instant;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The relay: one address for every call.
pub const RELAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 49)), 3480);

/// Unix time at the start of every simulation.
pub const WALL_SECONDS: u64 = 1_767_225_600;

/// Samples of what a caller heard that are kept: the last second at 8 kHz.
const HEARD_SAMPLES: usize = 8_000;

/// One user's call.
pub struct UserCall {
    /// Its id.
    pub id: String,
    leg: Leg,
    /// Where the number is set to it.
    sdes: Option<Sdes>,
    deadline: Instant,
    answer: Option<String>,
    gateway: Option<SocketAddr>,
    /// Successful accepts: never more than one.
    pub accepts: u32,
    /// When Graph said 200 to accept.
    pub accepted_at: Option<Instant>,
    /// When the call ended, whoever ended it.
    pub ended_at: Option<Instant>,
    /// Whether DTLS came up.
    pub connected: bool,
    frame: usize,
    next_frame: Instant,
    decoder: Option<Box<opus::Decoder>>,
    heard: Vec<i16>,
    /// RTP packets that came.
    pub received: u64,
}

/// What Graph and the webhooks do wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpFaults {
    /// Graph requests answered with 500, per cent; half of them were carried out all the same.
    pub graph_error_pct: u32,
    /// Graph is slow by up to this.
    pub graph_ms: u32,
    /// Webhooks delivered twice or three times, per cent.
    pub webhook_repeat_pct: u32,
    /// Each webhook is late by up to this.
    pub webhook_ms: u32,
}

/// WhatsApp.
pub struct WhatsApp {
    calls: BTreeMap<String, UserCall>,
    by_gateway: BTreeMap<SocketAddr, String>,
    shared: Shared,
    random: Random,
    /// What goes wrong on the HTTP side.
    pub faults: HttpFaults,
    /// Whether callers decode what they hear (costs time).
    pub listening: bool,
    /// Whether the number is set to SDES.
    pub sdes: bool,
}

impl WhatsApp {
    /// Without calls.
    pub fn new(shared: Shared, random: Random) -> WhatsApp {
        WhatsApp {
            calls: BTreeMap::new(),
            by_gateway: BTreeMap::new(),
            shared,
            random,
            faults: HttpFaults::default(),
            listening: false,
            sdes: false,
        }
    }

    /// A user presses the button: answers the call's id and its webhook.
    pub fn call(&mut self, now: Instant) -> (String, WebhookEvent) {
        let id = format!("wacid.{}==", self.random.token(24));
        let (leg, sdes, sdp) = match self.sdes {
            false => {
                let leg = self.webrtc_leg(now);
                let sdp = offer(&leg);
                (Leg::Webrtc(Box::new(leg)), None, sdp)
            }
            true => {
                let leg = RtpLeg::new(now, RtpConfig { remote: None }, self.shared.anchor, self.random.fork());
                let mut sdes = Sdes::new(&[SrtpProfile::AesCm128HmacSha1_80], self.random.fork());
                let sdp = sdes_offer(&mut sdes);
                (Leg::Rtp(Box::new(leg)), Some(sdes), sdp)
            }
        };
        let call = UserCall {
            id: id.clone(),
            leg,
            sdes,
            deadline: now,
            answer: None,
            gateway: None,
            accepts: 0,
            accepted_at: None,
            ended_at: None,
            connected: false,
            frame: 0,
            next_frame: Instant::NEVER,
            decoder: None,
            heard: Vec::new(),
            received: 0,
        };
        self.calls.insert(id.clone(), call);
        let connect = Connect {
            call_id: id.clone(),
            phone_number_id: Some("118000000000021".to_owned()),
            from: Some("447700900123".to_owned()),
            from_name: Some("Ana Example".to_owned()),
            to: Some("15550100123".to_owned()),
            timestamp_s: Some(WALL_SECONDS + now.as_millis() / 1_000),
            sdp,
        };
        (id, WebhookEvent::Connect(connect))
    }

    fn webrtc_leg(&mut self, now: Instant) -> WebrtcLeg {
        let config = WebrtcConfig {
            ice: IceRole::Lite,
            versions: DtlsVersions::Auto,
            credentials: None,
            hold: false,
            remote: None,
        };
        WebrtcLeg::new(now, config, &self.shared.identity, self.shared.anchor, self.random.fork())
    }

    /// A call.
    pub fn get(&self, id: &str) -> &UserCall {
        &self.calls[id]
    }

    /// All calls.
    pub fn calls(&self) -> impl Iterator<Item = &UserCall> {
        self.calls.values()
    }

    /// The user hangs up: media stops, and a webhook says so. `None` when the call was over.
    pub fn hang_up(&mut self, now: Instant, id: &str) -> Option<WebhookEvent> {
        self.end(now, id)
    }

    /// Carries out one Graph request.
    pub fn handle_graph(
        &mut self,
        now: Instant,
        request: &GraphRequest,
    ) -> (Result<(), GraphError>, Option<WebhookEvent>) {
        let fails = self.random.below(100) < self.faults.graph_error_pct;
        if fails && self.random.below(2) == 0 {
            return (Err(failure(500)), None);
        }
        let (result, webhook) = self.act(now, request);
        (if fails { Err(failure(500)) } else { result }, webhook)
    }

    /// A datagram that reached the relay. Answers whether a call knew its source.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &mut [u8]) {
        let Some(call) = self.by_gateway.get(&from).and_then(|id| self.calls.get_mut(id)) else { return };
        if call.ended_at.is_some() {
            return;
        }
        call.deadline = now;
        if let Received::Rtp(packet) = call.leg.handle_datagram(now, Component::Rtp, from, bytes) {
            call.received += 1;
            if self.listening && packet.payload_type == 111 {
                let decoder = call
                    .decoder
                    .get_or_insert_with(|| Box::new(opus::Decoder::new(8_000, opus::Channels::Mono).expect("libopus")));
                let mut pcm = [0; 960];
                let count = decoder.decode(packet.payload, &mut pcm, false).expect("the gateway sends valid Opus");
                call.heard.extend_from_slice(&pcm[..count]);
                let excess = call.heard.len().saturating_sub(HEARD_SAMPLES);
                call.heard.drain(..excess);
            }
        }
    }

    /// What the caller heard in the last second, 8 kHz.
    pub fn heard(&self, id: &str) -> &[i16] {
        &self.calls[id].heard
    }

    /// Whether media may go to this call now: Graph has answered accept with 200.
    pub fn is_accepted(&self, gateway: SocketAddr) -> bool {
        let call = self.by_gateway.get(&gateway).and_then(|id| self.calls.get(id));
        call.is_some_and(|call| call.accepted_at.is_some())
    }

    /// The earliest timer.
    pub fn deadline(&self) -> Instant {
        let live = self.calls.values().filter(|call| call.ended_at.is_none());
        live.map(|call| call.deadline.min(call.next_frame)).min().unwrap_or(Instant::NEVER)
    }

    /// Fires what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for call in self.calls.values_mut().filter(|call| call.ended_at.is_none() && call.deadline <= now) {
            call.leg.handle_timeout(now);
        }
    }

    /// Everything the relay has to send: `(to, bytes)`.
    pub fn drain(&mut self, now: Instant, out: &mut Vec<(SocketAddr, Vec<u8>)>) {
        for call in self.calls.values_mut().filter(|call| call.ended_at.is_none()) {
            call.speak(now, out);
            if call.deadline <= now {
                call.drain_leg(now, out);
            }
        }
    }

    fn act(&mut self, now: Instant, request: &GraphRequest) -> (Result<(), GraphError>, Option<WebhookEvent>) {
        let Some(call) = self.calls.get_mut(&request.call_id) else { return (Err(failure(400)), None) };
        match &request.action {
            _ if call.ended_at.is_some() => (Err(failure(400)), None),
            GraphAction::PreAccept { sdp } => {
                let gateway = call.pre_accept(now, sdp);
                self.by_gateway.insert(gateway, request.call_id.clone());
                (Ok(()), None)
            }
            GraphAction::Accept { sdp } => (call.accept(now, sdp), None),
            GraphAction::Reject | GraphAction::Terminate => (Ok(()), self.end(now, &request.call_id)),
        }
    }

    fn end(&mut self, now: Instant, id: &str) -> Option<WebhookEvent> {
        let call = self.calls.get_mut(id)?;
        if call.ended_at.is_some() {
            return None;
        }
        call.ended_at = Some(now);
        let duration_s = call.accepted_at.map(|at| now.since(at).as_secs());
        let status = Some("COMPLETED".to_owned());
        let call_id = id.to_owned();
        Some(WebhookEvent::Terminate(Terminate { call_id, status, duration_s, ..Terminate::default() }))
    }
}

impl UserCall {
    fn pre_accept(&mut self, now: Instant, sdp: &str) -> SocketAddr {
        let answer = sdp::parse(sdp).expect("the gateway's answer is valid SDP");
        assert_eq!(answer.mid.as_deref(), Some("audio"));
        let gateway = match &answer.ice {
            Some(ice) => {
                assert!(!ice.lite, "a lite answer to a lite offer: nobody would check");
                assert_eq!(answer.setup, Some(Setup::Active), "the gateway must be DTLS client toward WhatsApp");
                ice.candidates.first().expect("a candidate").address
            }
            None => {
                assert!(self.sdes.is_some() && answer.fingerprint.is_none() && answer.rtcp_mux, "{sdp}");
                answer.address.expect("an address")
            }
        };
        if let Some(earlier) = &self.answer {
            assert_eq!(earlier, sdp, "two different answers for one call");
            return gateway;
        }
        let event = EventFormat { send_payload_type: 126, receive_payload_type: 126, clock_rate_hz: 8_000 };
        let format = MediaFormat {
            codec: Codec::Opus,
            send_payload_type: 111,
            receive_payload_type: 111,
            opus: OpusParameters::default(),
            telephone_event: Some(event),
        };
        match (&mut self.leg, &mut self.sdes) {
            (Leg::Rtp(leg), Some(sdes)) => {
                let srtp = Some(sdes.read_answer(&answer).expect("our tag and suite, with another key").clone());
                let (address, rtcp_address) = (gateway, gateway);
                leg.set_remote(now, RtpRemote { address, rtcp_address, rtcp_mux: true, format, sending: true, srtp });
                self.connected = true;
            }
            (Leg::Webrtc(leg), _) => {
                let ice = answer.ice.expect("the answer has credentials");
                let fingerprint = answer.fingerprint.expect("a sha-256 fingerprint");
                leg.set_remote(now, WebrtcRemote { ice, fingerprint, dtls: DtlsRole::Server, format });
            }
            (Leg::Rtp(_), None) => unreachable!("an rtp leg has its keys from the descriptions"),
        }
        self.answer = Some(sdp.to_owned());
        self.gateway = Some(gateway);
        self.deadline = now;
        gateway
    }

    fn accept(&mut self, now: Instant, sdp: &str) -> Result<(), GraphError> {
        if self.answer.as_deref() != Some(sdp) || self.accepts > 0 {
            return Err(failure(400));
        }
        self.accepts += 1;
        self.accepted_at = Some(now);
        self.next_frame = now;
        Ok(())
    }

    fn speak(&mut self, now: Instant, out: &mut Vec<(SocketAddr, Vec<u8>)>) {
        while self.next_frame <= now {
            self.next_frame = self.next_frame.plus_millis(20);
            // Keyed by SDES, WhatsApp waits for our first packet.
            if !self.leg.can_send() || (self.sdes.is_some() && self.received == 0) {
                continue;
            }
            let packets = tone::caller_packets();
            let payload = &packets[self.frame % packets.len()];
            self.frame += 1;
            let mut packet = [0; DATAGRAM_BYTES_MAX];
            packet[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(payload);
            let len = self.leg.sender().audio(now, 111, self.frame == 1, payload.len(), 960, &mut packet);
            if let Some((to, len)) = self.leg.send(now, &mut packet, len) {
                out.push((to, packet[..len].to_vec()));
            }
        }
    }

    fn drain_leg(&mut self, now: Instant, out: &mut Vec<(SocketAddr, Vec<u8>)>) {
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        loop {
            match self.leg.poll_output(now, &mut buffer) {
                LegOutput::Transmit { to, len, .. } => out.push((to, buffer[..len].to_vec())),
                LegOutput::Event(LegEvent::DtlsConnected { .. }) => self.connected = true,
                LegOutput::Event(_) => {}
                LegOutput::Timeout(at) => {
                    self.deadline = at;
                    return;
                }
            }
        }
    }
}

/// The offer, in the shape of the live captures.
fn offer(leg: &WebrtcLeg) -> String {
    let LocalLeg::Webrtc { ufrag, pwd, fingerprint, ssrc, .. } = leg.local() else { unreachable!("a webrtc leg") };
    let opus = OpusParameters {
        max_average_bitrate: Some(20_000),
        max_playback_rate_hz: Some(16_000),
        max_capture_rate_hz: Some(16_000),
        min_ptime_ms: Some(20),
        use_inband_fec: true,
        ..OpusParameters::default()
    };
    let local = WebrtcLocal {
        addresses: vec![RELAY.ip()],
        port: RELAY.port(),
        ufrag,
        pwd,
        lite: true,
        fingerprint,
        setup: Setup::ActPass,
        ssrc,
        codec: CodecFormat { codec: Codec::Opus, payload_type: 111, opus },
        telephone_event: Some(TelephoneEventFormat { payload_type: 126, clock_rate_hz: 8_000 }),
        direction: engine::sdp::Direction::SendRecv,
        session_id: 1_767_225_600_412,
        session_version: 1,
    };
    sdp::write_webrtc_offer(&local, "audio", &[], &[])
}

/// The same where the number is set to SDES.
fn sdes_offer(sdes: &mut Sdes) -> String {
    let crypto = sdes.offer().first().map(ToString::to_string).expect("one suite");
    let (ip, port) = (RELAY.ip(), RELAY.port());
    format!(
        "v=0\r\no=- 1767225612345 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE audio\r\nm=audio {port} RTP/SAVP 111 126\r\n\
         c=IN IP4 {ip}\r\na=rtcp:9 IN IP4 0.0.0.0\r\na=mid:audio\r\na=sendrecv\r\na=rtcp-mux\r\na=crypto:{crypto}\r\n\
         a=rtpmap:111 opus/48000/2\r\na=fmtp:111 maxaveragebitrate=20000;maxplaybackrate=16000;minptime=20;useinbandfec=1\r\n\
         a=rtpmap:126 telephone-event/8000\r\na=maxptime:20\r\na=ptime:20\r\n"
    )
}

fn failure(status: u16) -> GraphError {
    // 138004 is Graph's "connection error", which may be tried again; 100 is "invalid parameter", which may not.
    let code = Some(if status == 500 { 138_004 } else { 100 });
    GraphError { kind: GraphErrorKind::Status(status), code, ..GraphError::default() }
}
