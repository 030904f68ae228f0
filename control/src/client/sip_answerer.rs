//! A SIP far end that answers calls: rings, takes them, speaks PCMU and understands keys. What it says is its owner's [`Voice`].
//!
//! One task owns the SIP socket and the agent; each answered call has a task of its own that owns its two media sockets. They meet
//! in two bounded channels: media asks for the hang-up, signalling says stop.

use super::audio::{OpusSettings, Receiver, Sender};
use super::observed::Observed;
use super::socket::MediaSocket;
use super::system_random;
use crate::sip::locate::Records;
use crate::sip::{Credentials, SipAgent, SipCallId, SipConfig, SipEnd, SipEvent, SipOutput};
use engine::error::Cause;
use engine::io::clock;
use engine::leg::rtp::{RtpConfig, RtpLeg, RtpRemote};
use engine::leg::{Component, EventFormat, LegEvent, LegOutput, MediaFormat, Received};
use engine::limits::DATAGRAM_BYTES_MAX;
use engine::rtp::header::HEADER_BYTES;
use engine::rtp::telephone_event::EventReceiver;
use engine::sdp::{self, Codec, CodecFormat, Direction, OpusParameters, RtpLocal, TelephoneEventFormat};
use engine::time::Instant;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

/// Calls answered at a time; a further one gets 486.
pub const CALLS_MAX: usize = 64;
/// Ended calls that are remembered.
const CALLS_REMEMBERED_MAX: usize = 256;
/// Hang-ups on their way from media to signalling.
const HANGUPS_MAX: usize = 64;
/// Longest SIP datagram read.
const SIP_BYTES_MAX: usize = 65_535;
/// Longest sleep of a loop.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Samples of one 20 ms frame at 8 kHz.
const FRAME_SAMPLES: usize = 160;
/// Frames made up after a late wake-up.
const CATCH_UP_FRAMES_MAX: usize = 5;

/// What the far end says and does, at 8 kHz.
pub trait Voice: Send {
    /// Fills the next 20 ms.
    fn speak(&mut self, now: Instant, frame: &mut [i16]);
    /// Takes what came.
    fn hear(&mut self, now: Instant, pcm: &[i16]);
    /// Takes a key. Answers whether to go on; otherwise the call is ended with BYE.
    fn key(&mut self, now: Instant, key: char) -> bool;
}

/// How it behaves.
#[derive(Clone)]
pub struct AnswererConfig {
    /// Where it listens, and what it advertises.
    pub bind: IpAddr,
    /// SIP port; 0 draws one.
    pub port: u16,
    /// Digest demanded of every INVITE, with its realm.
    pub demand: Option<(String, Credentials)>,
    /// `Server` header.
    pub product: String,
    /// From the INVITE to 180, ms.
    pub ring_after_ms: u64,
    /// From the INVITE to 200, ms.
    pub answer_after_ms: u64,
    /// Longest call, ms; then BYE.
    pub call_ms_max: u64,
}

/// What it knows of one call.
#[derive(Clone)]
pub struct AnsweredCall {
    /// Request-URI of the INVITE.
    pub target: String,
    /// Its From header.
    pub from: String,
    /// Its `X-` headers.
    pub headers: Vec<(String, String)>,
    /// When it came.
    pub at: Instant,
    /// When 200 was sent.
    pub answered: Option<Instant>,
    /// How it ended.
    pub ended: Option<(Instant, SipEnd)>,
    /// Its media.
    pub media: watch::Receiver<Observed>,
}

impl AnsweredCall {
    /// The value of a header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// All calls in order of arrival.
pub type Calls = BTreeMap<u64, AnsweredCall>;

/// A running answerer. Dropping it ends all calls.
pub struct SipAnswerer {
    address: SocketAddr,
    calls: watch::Receiver<Calls>,
    hangup: mpsc::Sender<(SipCallId, &'static str)>,
}

/// Makes the voice of a call.
pub type VoiceFactory = Box<dyn FnMut(&AnsweredCall) -> Box<dyn Voice> + Send>;

impl SipAnswerer {
    /// Binds the socket and begins to answer.
    pub async fn start(config: AnswererConfig, voices: VoiceFactory) -> io::Result<SipAnswerer> {
        let socket = UdpSocket::bind((config.bind, config.port)).await?;
        let address = socket.local_addr()?;
        let agent = SipAgent::new(
            SipConfig { demand: config.demand.clone(), ..SipConfig::new(address, "bot", &config.product) },
            system_random(),
        );
        let (publish, calls) = watch::channel(Calls::new());
        let (hangup, hangups) = mpsc::channel(HANGUPS_MAX);
        let task = Signalling {
            config,
            socket,
            agent,
            voices,
            publish,
            hangup: hangup.clone(),
            live: BTreeMap::new(),
            random: system_random(),
        };
        tokio::spawn(task.run(hangups));
        Ok(SipAnswerer { address, calls, hangup })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it knows.
    pub fn calls(&self) -> watch::Receiver<Calls> {
        self.calls.clone()
    }

    /// Ends a call with BYE.
    pub fn hang_up(&self, call: u64) {
        let _ = self.hangup.try_send((SipCallId(call), "Q.850;cause=16"));
    }
}

/// A call that is not over.
struct Live {
    stop: Option<watch::Sender<bool>>,
    /// Everything for the media task, until it starts.
    pending: Option<Media>,
    answer: String,
    ring_at: Instant,
    answer_at: Instant,
    end_at: Instant,
}

struct Signalling {
    config: AnswererConfig,
    socket: UdpSocket,
    agent: SipAgent,
    voices: VoiceFactory,
    publish: watch::Sender<Calls>,
    hangup: mpsc::Sender<(SipCallId, &'static str)>,
    live: BTreeMap<SipCallId, Live>,
    random: engine::random::Random,
}

impl Signalling {
    async fn run(mut self, mut hangups: mpsc::Receiver<(SipCallId, &'static str)>) {
        let mut datagram = vec![0; SIP_BYTES_MAX];
        loop {
            let deadline = self.drain().await.min(self.timers());
            let wake = deadline.since(clock::now()).min(SLEEP_MAX);
            tokio::select! {
                received = self.socket.recv_from(&mut datagram) => if let Ok((len, from)) = received {
                    self.agent.handle_datagram(clock::now(), from, &datagram[..len]);
                },
                () = tokio::time::sleep(wake) => self.agent.handle_timeout(clock::now()),
                order = hangups.recv() => if let Some((call, reason)) = order {
                    self.agent.hangup(clock::now(), call, Some(reason));
                },
                () = self.publish.closed() => break,
            }
        }
        for call in self.live.keys().copied().collect::<Vec<_>>() {
            self.agent.hangup(clock::now(), call, None);
        }
        self.drain().await;
    }

    async fn drain(&mut self) -> Instant {
        loop {
            match self.agent.poll_output(clock::now()) {
                SipOutput::Transmit { hop, bytes } => {
                    let _ = self.socket.send_to(&bytes, hop.remote).await;
                }
                SipOutput::Event(event) => self.event(event).await,
                // Only requests that we originate toward a name would need it, and we originate none but BYE.
                SipOutput::Resolve { query, .. } => self.agent.resolved(clock::now(), query, &Records::Nothing),
                SipOutput::Trace(_) => {}
                SipOutput::Timeout(deadline) => return deadline,
            }
        }
    }

    async fn event(&mut self, event: SipEvent) {
        match event {
            SipEvent::Incoming { call, target, from, sdp, headers, .. } => {
                if let Err(code) = self.incoming(call, target, from, sdp, headers).await {
                    self.agent.reject(clock::now(), call, code);
                }
            }
            SipEvent::ReInvite { call, .. } => {
                let answer = self.live.get(&call).map(|live| live.answer.as_str());
                self.agent.answer_reinvite(clock::now(), call, answer);
            }
            SipEvent::Ended { call, end } => {
                if let Some(stop) = self.live.remove(&call).and_then(|live| live.stop) {
                    let _ = stop.send(true);
                }
                self.note(call, |seen| seen.ended = Some((clock::now(), end)));
            }
            _ => {}
        }
    }

    fn note(&self, call: SipCallId, change: impl FnOnce(&mut AnsweredCall)) {
        self.publish.send_modify(|calls| {
            if let Some(seen) = calls.get_mut(&call.0) {
                change(seen);
            }
        });
    }

    /// Prepares a call; `Err` is the code to refuse it with.
    async fn incoming(
        &mut self,
        call: SipCallId,
        target: String,
        from: String,
        offer: Option<String>,
        headers: Vec<(String, String)>,
    ) -> Result<(), u16> {
        if self.live.len() >= CALLS_MAX {
            return Err(486);
        }
        let now = clock::now();
        let offer = sdp::parse(&offer.ok_or(488u16)?).map_err(|_| 488u16)?;
        let remote = remote_of(&offer).ok_or(488u16)?;
        let (rtp, rtcp) = MediaSocket::bind_pair(self.config.bind).await.map_err(|_| 500u16)?;
        let answer = write_answer(&offer, &remote, self.config.bind, rtp.port(), self.random.next_u64() >> 2);
        let (publish, media) = watch::channel(Observed::default());
        let seen = AnsweredCall { target, from, headers, at: now, answered: None, ended: None, media };
        let voice = (self.voices)(&seen);
        self.publish.send_modify(|calls| {
            calls.insert(call.0, seen);
            while calls.len() > CALLS_REMEMBERED_MAX {
                calls.pop_first();
            }
        });
        let leg = RtpLeg::new(now, RtpConfig { remote: Some(remote) }, clock::wall_anchor(), self.random.fork());
        let pending = Media { call, rtp, rtcp, leg, voice, publish, hangup: self.hangup.clone() };
        let live = Live {
            stop: None,
            pending: Some(pending),
            answer,
            ring_at: now.plus_millis(self.config.ring_after_ms),
            answer_at: now.plus_millis(self.config.answer_after_ms),
            end_at: now.plus_millis(self.config.call_ms_max),
        };
        self.live.insert(call, live);
        Ok(())
    }

    /// Rings, answers and ends what is due; answers when to look again.
    fn timers(&mut self) -> Instant {
        let now = clock::now();
        let mut next = Instant::NEVER;
        let (mut answered, mut acted) = (Vec::new(), false);
        for (&call, live) in &mut self.live {
            if now >= live.ring_at {
                live.ring_at = Instant::NEVER;
                self.agent.ring(now, call, None);
                acted = true;
            }
            if now >= live.answer_at {
                live.answer_at = Instant::NEVER;
                acted = true;
                self.agent.accept(now, call, &live.answer);
                let (stop, stopped) = watch::channel(false);
                live.stop = Some(stop);
                answered.push(call);
                if let Some(media) = live.pending.take() {
                    tokio::spawn(media.run(stopped));
                }
            }
            if now >= live.end_at {
                live.end_at = Instant::NEVER;
                self.agent.hangup(now, call, Some("Q.850;cause=102;text=\"longest call\""));
                acted = true;
            }
            next = next.min(live.ring_at).min(live.answer_at).min(live.end_at);
        }
        answered.into_iter().for_each(|call| self.note(call, |seen| seen.answered = Some(now)));
        // What was just queued in the agent is to be sent at once.
        if acted { now } else { next }
    }
}

/// PCMU if it is offered, else PCMA.
fn remote_of(offer: &sdp::Description) -> Option<RtpRemote> {
    let by = |codec: Codec| offer.codecs.iter().find(|format| format.codec == codec);
    let codec = by(Codec::Pcmu).or_else(|| by(Codec::Pcma))?;
    let address = offer.address?;
    let event = offer.telephone_events.iter().find(|event| event.clock_rate_hz == 8_000);
    Some(RtpRemote {
        address,
        rtcp_address: offer
            .rtcp_address
            .unwrap_or_else(|| SocketAddr::new(address.ip(), address.port().wrapping_add(1))),
        rtcp_mux: false,
        format: MediaFormat {
            codec: codec.codec,
            send_payload_type: codec.payload_type,
            receive_payload_type: codec.payload_type,
            opus: OpusParameters::default(),
            telephone_event: event.map(|event| EventFormat {
                send_payload_type: event.payload_type,
                receive_payload_type: event.payload_type,
                clock_rate_hz: event.clock_rate_hz,
            }),
        },
        sending: matches!(offer.direction, Direction::SendRecv | Direction::RecvOnly),
        srtp: None,
    })
}

fn write_answer(offer: &sdp::Description, remote: &RtpRemote, address: IpAddr, port: u16, session_id: u64) -> String {
    let format = &remote.format;
    sdp::write_rtp_answer(
        offer,
        &RtpLocal {
            address,
            port,
            profile: offer.profile,
            rtcp_mux: false,
            crypto: Vec::new(),
            codecs: vec![CodecFormat {
                codec: format.codec,
                payload_type: format.receive_payload_type,
                opus: OpusParameters::default(),
            }],
            telephone_events: Vec::from_iter(format.telephone_event.map(|event| TelephoneEventFormat {
                payload_type: event.receive_payload_type,
                clock_rate_hz: event.clock_rate_hz,
            })),
            direction: Direction::SendRecv,
            session_id,
            session_version: session_id,
        },
    )
}

/// The media of one answered call.
struct Media {
    call: SipCallId,
    rtp: MediaSocket,
    rtcp: MediaSocket,
    leg: RtpLeg,
    voice: Box<dyn Voice>,
    publish: watch::Sender<Observed>,
    hangup: mpsc::Sender<(SipCallId, &'static str)>,
}

impl Media {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let Some(format) = self.leg.format().copied() else { return };
        let (Ok(mut sender), Ok(mut receiver)) =
            (Sender::new(format.codec, OpusSettings::WHATSAPP), Receiver::new(format.codec, OpusSettings::WHATSAPP))
        else {
            return;
        };
        let mut keys = format.telephone_event.map(|event| EventReceiver::new(event.clock_rate_hz));
        self.publish.send_modify(|seen| seen.heard.rate_hz = receiver.rate_hz());
        let (mut datagram, mut control) = (vec![0; DATAGRAM_BYTES_MAX], vec![0; DATAGRAM_BYTES_MAX]);
        let mut out = vec![0; DATAGRAM_BYTES_MAX];
        let mut next_frame = clock::now();
        loop {
            let Some(deadline) = self.drain(&mut out).await else { break };
            let wake = deadline.min(next_frame).since(clock::now()).min(SLEEP_MAX);
            tokio::select! {
                received = self.rtp.receive(&mut datagram) => if let Ok((len, from)) = received {
                    self.datagram(Component::Rtp, from, &mut datagram[..len], &format, &mut receiver, &mut keys);
                },
                received = self.rtcp.receive(&mut control) => if let Ok((len, from)) = received {
                    self.datagram(Component::Rtcp, from, &mut control[..len], &format, &mut receiver, &mut keys);
                },
                () = tokio::time::sleep(wake) => {
                    let now = clock::now();
                    if now >= deadline {
                        self.leg.handle_timeout(now);
                    }
                    let ended = keys.as_mut().and_then(|keys| keys.handle_timeout(now));
                    if let Some(pressed) = ended {
                        self.key(now, pressed.digit.as_char());
                    }
                    let mut frames = 0;
                    while now >= next_frame && frames < CATCH_UP_FRAMES_MAX {
                        self.frame(now, &format, &mut sender, &mut out).await;
                        next_frame = next_frame.plus_millis(20);
                        frames += 1;
                    }
                    next_frame = if now >= next_frame { now.plus_millis(20) } else { next_frame };
                }
                _ = stopped.changed() => break,
            }
        }
        self.leg.close(clock::now());
        self.drain(&mut out).await;
        let stats = self.leg.stats();
        self.publish.send_modify(|seen| {
            seen.stats = stats;
            seen.ended.get_or_insert((clock::now(), Cause::Closed));
        });
    }

    /// Sends what the leg wants sent. `None`: the leg has ended; the call is hung up.
    async fn drain(&mut self, out: &mut [u8]) -> Option<Instant> {
        loop {
            let now = clock::now();
            match self.leg.poll_output(now, out) {
                LegOutput::Transmit { component, to, len } => {
                    let socket = if component == Component::Rtp { &self.rtp } else { &self.rtcp };
                    socket.send(&out[..len], to).await;
                }
                LegOutput::Event(LegEvent::Ended(cause)) => {
                    self.publish.send_modify(|seen| seen.ended = Some((now, cause)));
                    let _ = self.hangup.try_send((self.call, "Q.850;cause=31"));
                    return None;
                }
                LegOutput::Event(_) => {}
                LegOutput::Timeout(deadline) => return Some(deadline),
            }
        }
    }

    fn datagram(
        &mut self,
        component: Component,
        from: SocketAddr,
        datagram: &mut [u8],
        format: &MediaFormat,
        receiver: &mut Receiver,
        keys: &mut Option<EventReceiver>,
    ) {
        let now = clock::now();
        let mut wire = self.publish.borrow().wire;
        wire.incoming(now, datagram);
        let received = self.leg.handle_datagram(now, component, from, datagram);
        let (mut decoded, mut key) = (Vec::new(), None);
        self.publish.send_modify(|seen| {
            seen.wire = wire;
            match received {
                Received::Rtp(packet) => {
                    let audio = packet.payload_type == format.receive_payload_type;
                    seen.source(now, packet.ssrc);
                    seen.continuity.packet(packet.sequence, packet.timestamp, FRAME_SAMPLES as u32, audio);
                    if !audio {
                        let pressed = keys.as_mut().and_then(|keys| keys.handle(now, packet.timestamp, packet.payload));
                        key = pressed.map(|pressed| pressed.digit.as_char());
                    }
                    receiver.packet(packet.sequence, packet.timestamp, audio.then_some(packet.payload), &mut decoded);
                    if !decoded.is_empty() {
                        seen.heard.push(now, &decoded);
                    }
                }
                Received::Dropped(_) => seen.dropped += 1,
                Received::Consumed => {}
            }
        });
        if !decoded.is_empty() {
            self.voice.hear(now, &decoded);
        }
        if let Some(key) = key {
            self.key(now, key);
        }
    }

    fn key(&mut self, now: Instant, key: char) {
        self.publish.send_modify(|seen| seen.digit(now, key));
        if !self.voice.key(now, key) {
            let _ = self.hangup.try_send((self.call, "Q.850;cause=16"));
        }
    }

    async fn frame(&mut self, now: Instant, format: &MediaFormat, sender: &mut Sender, out: &mut [u8]) {
        let mut frame = [0; FRAME_SAMPLES];
        self.voice.speak(now, &mut frame);
        if !self.leg.can_send() {
            return;
        }
        let payload_len = sender.encode(&frame, &mut out[HEADER_BYTES..HEADER_BYTES + 400]);
        let ticks = sender.frame_ticks();
        let len = self.leg.sender().audio(now, format.send_payload_type, false, payload_len, ticks, out);
        if let Some((to, len)) = self.leg.send(now, out, len) {
            self.rtp.send(&out[..len], to).await;
            self.publish.send_modify(|seen| {
                seen.first_sent.get_or_insert(now);
                seen.packets_sent += 1;
            });
        }
    }
}
