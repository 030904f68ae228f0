//! One WebRTC far end on a socket of its own: ICE, DTLS, SRTP, Opus both ways, keys, and a record of all of it.
//!
//! Which role it plays is its owner's choice: [`super::webrtc_offerer`] is WhatsApp's relay, [`super::webrtc_caller`] a full agent such
//! as a browser.

use super::audio::{OpusSettings, Receiver, Sender};
use super::observed::{NOTES_MAX, Observed, Played};
use super::socket::{MediaSocket, local_with_port};
use super::wav::Wav;
use super::{pcm, system_random};
use engine::dtls::Identity;
use engine::error::Cause;
use engine::io::clock;
use engine::leg::webrtc::{WebrtcConfig, WebrtcLeg, WebrtcRemote};
use engine::leg::{LegEvent, LegOutput, LocalLeg, MediaFormat, Received};
use engine::limits::DATAGRAM_BYTES_MAX;
use engine::rtp::header::{HEADER_BYTES, RtpPacket};
use engine::rtp::telephone_event::{Digit, EventReceiver, EventSender};
use engine::time::{Instant, RtpTimestamp};
use std::collections::VecDeque;
use std::io;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Orders waiting for a peer's task. A full queue means that the task hangs: the order is refused.
const ORDERS_MAX: usize = 64;
/// Longest sleep of the loop, whatever the leg says.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Frames sent at once after a late wake-up; what is later still is skipped by the clock.
const CATCH_UP_FRAMES_MAX: u32 = 5;
/// Outputs of a closed leg that are still sent.
const GOODBYES_MAX: usize = 16;

/// What its owner says to a peer.
enum Order {
    Remote(WebrtcRemote),
    Release,
    Play(Vec<i16>),
    Press(Digit, u32),
    Close,
}

/// A running peer. Dropping it closes the leg.
pub struct WebrtcPeer {
    local: LocalLeg,
    orders: mpsc::Sender<Order>,
    observed: watch::Receiver<Observed>,
    rate_hz: u32,
}

/// The fact that was waited for did not come in time, or cannot come any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotSeen;

impl WebrtcPeer {
    /// Opens a socket and a leg. With `config.remote` it begins at once, else at `set_remote`.
    pub async fn start(config: WebrtcConfig, identity: &Identity, opus: OpusSettings) -> io::Result<WebrtcPeer> {
        let socket = MediaSocket::bind(0).await?;
        let leg = WebrtcLeg::new(clock::now(), config, identity, clock::wall_anchor(), system_random());
        let local = local_with_port(leg.local(), socket.port());
        let (orders, incoming) = mpsc::channel(ORDERS_MAX);
        let (publish, observed) = watch::channel(Observed::default());
        let task = Task {
            socket,
            leg,
            opus,
            publish,
            sound: None,
            clip: VecDeque::new(),
            playing: false,
            next_frame: Instant::NEVER,
            out: vec![0; DATAGRAM_BYTES_MAX],
            decoded: Vec::new(),
        };
        tokio::spawn(task.run(incoming));
        Ok(WebrtcPeer { local, orders, observed, rate_hz: opus.rate_hz })
    }

    /// What to write into its description.
    pub fn local(&self) -> &LocalLeg {
        &self.local
    }

    /// Gives the peer's description.
    pub fn set_remote(&self, remote: WebrtcRemote) {
        let _ = self.orders.try_send(Order::Remote(remote));
    }

    /// Ends the hold, if it was begun with one.
    pub fn release(&self) {
        let _ = self.orders.try_send(Order::Release);
    }

    /// Plays a clip after those that still play.
    pub fn play(&self, wav: &Wav) {
        let _ = self.orders.try_send(Order::Play(pcm::resample(&wav.pcm, wav.rate_hz, self.rate_hz)));
    }

    /// Presses a key.
    pub fn press(&self, digit: Digit, duration_ms: u32) {
        let _ = self.orders.try_send(Order::Press(digit, duration_ms));
    }

    /// Says goodbye and ends.
    pub fn close(&self) {
        let _ = self.orders.try_send(Order::Close);
    }

    /// What it sees.
    pub fn observed(&self) -> watch::Receiver<Observed> {
        self.observed.clone()
    }

    /// Waits until `fact` holds.
    pub async fn wait(&self, limit: Duration, fact: impl FnMut(&Observed) -> bool) -> Result<(), NotSeen> {
        let mut observed = self.observed.clone();
        match tokio::time::timeout(limit, observed.wait_for(fact)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(NotSeen),
        }
    }
}

/// The media of one leg, once its format is known.
struct Sound {
    format: MediaFormat,
    sender: Sender,
    receiver: Receiver,
    keys_out: Option<EventSender>,
    keys_in: Option<EventReceiver>,
    /// First frame sent.
    started: bool,
}

impl Sound {
    fn new(format: MediaFormat, opus: OpusSettings) -> Result<Sound, opus::Error> {
        let event_rate = format.telephone_event.map(|event| event.clock_rate_hz);
        Ok(Sound {
            format,
            sender: Sender::new(format.codec, opus)?,
            receiver: Receiver::new(format.codec, opus)?,
            keys_out: event_rate.map(EventSender::new),
            keys_in: event_rate.map(EventReceiver::new),
            started: false,
        })
    }
}

struct Task {
    socket: MediaSocket,
    leg: WebrtcLeg,
    opus: OpusSettings,
    publish: watch::Sender<Observed>,
    sound: Option<Sound>,
    clip: VecDeque<i16>,
    playing: bool,
    next_frame: Instant,
    out: Vec<u8>,
    decoded: Vec<i16>,
}

impl Task {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let Some(deadline) = self.drain().await else { return };
            let wake = deadline.min(self.next_frame).since(clock::now()).min(SLEEP_MAX);
            tokio::select! {
                received = self.socket.receive(&mut datagram) => {
                    if let Ok((len, from)) = received {
                        self.datagram(from, &mut datagram[..len]);
                    }
                }
                () = tokio::time::sleep(wake) => {
                    let now = clock::now();
                    if now >= deadline {
                        self.leg.handle_timeout(now);
                    }
                    self.frames(now).await;
                }
                order = orders.recv() => match order {
                    None | Some(Order::Close) => return self.goodbye().await,
                    Some(order) => self.order(order),
                },
            }
        }
    }

    fn order(&mut self, order: Order) {
        let now = clock::now();
        match order {
            Order::Remote(remote) => self.leg.set_remote(now, remote),
            Order::Release => self.leg.release(now),
            Order::Play(samples) => self.clip.extend(samples),
            Order::Press(digit, duration_ms) => {
                if let Some(keys) = self.sound.as_mut().and_then(|sound| sound.keys_out.as_mut()) {
                    keys.press(digit, duration_ms);
                }
            }
            Order::Close => {}
        }
    }

    /// Sends what the leg wants sent. `None`: the leg has ended.
    async fn drain(&mut self) -> Option<Instant> {
        loop {
            let now = clock::now();
            match self.leg.poll_output(now, &mut self.out) {
                LegOutput::Transmit { to, len, .. } => {
                    self.socket.send(&self.out[..len], to).await;
                }
                LegOutput::Event(LegEvent::Ended(cause)) => {
                    self.end(now, cause);
                    return None;
                }
                LegOutput::Event(event) => self.event(now, event),
                LegOutput::Timeout(deadline) => return Some(deadline),
            }
        }
    }

    fn event(&mut self, now: Instant, event: LegEvent) {
        if let LegEvent::DtlsConnected { .. } = event {
            self.sound = self.leg.format().and_then(|format| Sound::new(*format, self.opus).ok());
            self.next_frame = now;
        }
        let rate_hz = self.sound.as_ref().map_or(0, |sound| sound.receiver.rate_hz());
        self.publish.send_modify(|seen| match event {
            LegEvent::IceNominated(address) => seen.nominated = Some((now, address)),
            LegEvent::DtlsConnected { version, profile } => {
                seen.connected = Some((now, version, profile));
                seen.heard.rate_hz = rate_hz;
            }
            _ => {}
        });
    }

    fn datagram(&mut self, from: std::net::SocketAddr, datagram: &mut [u8]) {
        let now = clock::now();
        let mut wire = self.publish.borrow().wire;
        wire.incoming(now, datagram);
        let (leg, sound, decoded) = (&mut self.leg, &mut self.sound, &mut self.decoded);
        let received = leg.handle_datagram(now, from, datagram);
        self.publish.send_modify(|seen| {
            seen.wire = wire;
            match received {
                Received::Rtp(packet) => {
                    if let Some(sound) = sound {
                        hear(now, sound, &packet, decoded, seen);
                    }
                }
                Received::Dropped(_) => seen.dropped += 1,
                Received::Consumed => {}
            }
        });
    }

    /// Sends the frames that are due.
    async fn frames(&mut self, now: Instant) {
        let mut sent = 0;
        while now >= self.next_frame && sent < CATCH_UP_FRAMES_MAX {
            self.frame(now).await;
            self.next_frame = self.next_frame.plus_millis(20);
            sent += 1;
        }
        // Far behind: whole packet times are skipped, on the clock and in the timestamps alike.
        while now >= self.next_frame {
            self.next_frame = self.next_frame.plus_millis(20);
            if let Some(sound) = self.sound.as_ref().filter(|sound| sound.started) {
                let ticks = sound.sender.frame_ticks();
                self.leg.sender().skip(ticks);
            }
        }
    }

    async fn frame(&mut self, now: Instant) {
        let Some(sound) = &mut self.sound else { return };
        if let Some(pressed) = sound.keys_in.as_mut().and_then(|keys| keys.handle_timeout(now)) {
            self.publish.send_modify(|seen| seen.digit(now, pressed.digit.as_char()));
        }
        if !self.leg.can_send() {
            return;
        }
        let ticks = sound.sender.frame_ticks();
        let timestamp: RtpTimestamp = self.leg.sender().timestamp();
        let key = sound.keys_out.as_mut().and_then(|keys| keys.next(timestamp));
        let len = match (key, sound.format.telephone_event) {
            (Some(key), Some(event)) => {
                self.out[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&key.payload);
                let sender = self.leg.sender();
                let len = sender.event(now, event.send_payload_type, key.marker, 4, key.timestamp, &mut self.out);
                sender.skip(ticks);
                len
            }
            _ => {
                let count = sound.sender.frame_samples().min(self.clip.len());
                let mut frame: Vec<i16> = self.clip.drain(..count).collect();
                frame.resize(sound.sender.frame_samples(), 0);
                self.note_clip(now, count > 0);
                let Some(sound) = &mut self.sound else { return };
                let payload_len = sound.sender.encode(&frame, &mut self.out[HEADER_BYTES..HEADER_BYTES + 400]);
                let marker = !std::mem::replace(&mut sound.started, true);
                let payload_type = sound.format.send_payload_type;
                self.leg.sender().audio(now, payload_type, marker, payload_len, ticks, &mut self.out)
            }
        };
        if let Some((to, len)) = self.leg.send(now, &mut self.out, len) {
            self.socket.send(&self.out[..len], to).await;
            self.publish.send_modify(|seen| {
                seen.first_sent.get_or_insert(now);
                seen.packets_sent += 1;
                seen.stats = self.leg.stats();
            });
        }
    }

    /// Notes where a clip begins and ends.
    fn note_clip(&mut self, now: Instant, playing: bool) {
        if playing == self.playing {
            return;
        }
        self.playing = playing;
        self.publish.send_modify(|seen| {
            if !playing {
                seen.played.last_mut().into_iter().for_each(|clip| clip.until = Some(now));
            } else if seen.played.len() < NOTES_MAX {
                let heard_samples = seen.heard.pcm.len();
                seen.played.push(Played { from: now, until: None, heard_samples });
            }
        });
    }

    async fn goodbye(mut self) {
        self.leg.close(clock::now());
        for _ in 0..GOODBYES_MAX {
            match self.leg.poll_output(clock::now(), &mut self.out) {
                LegOutput::Transmit { to, len, .. } => {
                    self.socket.send(&self.out[..len], to).await;
                }
                LegOutput::Event(_) => {}
                LegOutput::Timeout(_) => break,
            }
        }
        self.end(clock::now(), Cause::Closed);
    }

    fn end(&mut self, now: Instant, cause: Cause) {
        let stats = self.leg.stats();
        self.publish.send_modify(|seen| {
            seen.ended.get_or_insert((now, cause));
            seen.stats = stats;
        });
    }
}

/// Records one packet.
fn hear(now: Instant, sound: &mut Sound, packet: &RtpPacket<'_>, decoded: &mut Vec<i16>, seen: &mut Observed) {
    let audio = packet.payload_type == sound.format.receive_payload_type;
    seen.source(now, packet.ssrc);
    seen.continuity.packet(packet.sequence, packet.timestamp, sound.sender.frame_ticks(), audio);
    if !audio {
        let pressed = sound.keys_in.as_mut().and_then(|keys| keys.handle(now, packet.timestamp, packet.payload));
        pressed.into_iter().for_each(|pressed| seen.digit(now, pressed.digit.as_char()));
    }
    decoded.clear();
    sound.receiver.packet(packet.sequence, packet.timestamp, audio.then_some(packet.payload), decoded);
    if !decoded.is_empty() {
        seen.heard.push(now, decoded);
    }
}
