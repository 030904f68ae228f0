//! A trunk's media: Opus packets of 20 ms under SDES-SRTP, and what comes back. The SRTP is the crate `webrtc-srtp`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;

/// The rollover comes 500 packets later, ten seconds into the call.
pub const FIRST_SEQUENCE: u16 = u16::MAX - 499;

const SSRC: u32 = 0x7472_756e;
const OPUS: u8 = 111;
const EVENT: u8 = 101;
const KEY_AND_SALT: [u8; 30] = *b"sixteen bytes key14 bytes salt";

/// One packet from the gateway, decrypted.
#[derive(Debug)]
pub struct Heard {
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    pub marker: bool,
    pub is_event: bool,
    pub payload: Vec<u8>,
}

/// Its sockets, before the call.
pub struct Trunk {
    rtp: UdpSocket,
    rtcp: UdpSocket,
}

/// While it speaks.
pub struct Sending {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(Vec<Vec<u8>>, Vec<Heard>)>,
}

impl Trunk {
    /// Takes a pair of ports.
    pub async fn new(host: &str) -> Trunk {
        let rtp = UdpSocket::bind((host, 24_000)).await.expect("a port");
        Trunk { rtp, rtcp: UdpSocket::bind((host, 24_001)).await.expect("a port") }
    }

    /// Its description (RFC 4568).
    pub fn offer(&self, host: &str) -> String {
        self.offer_with(host, "")
    }

    /// The same with further lines.
    pub fn offer_with(&self, host: &str, lines: &str) -> String {
        let key = STANDARD.encode(KEY_AND_SALT);
        format!(
            "v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\nm=audio 24000 RTP/SAVP {OPUS} {EVENT}\r\n\
             a=rtpmap:{OPUS} opus/48000/2\r\na=rtpmap:{EVENT} telephone-event/8000\r\na=fmtp:{EVENT} 0-15\r\n\
             a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}\r\na=ptime:20\r\n{lines}"
        )
    }

    /// Speaks and listens as `answer` says; with `waits` it says nothing before it has heard something.
    pub fn start(self, answer: &str, source: impl Source + 'static, waits: bool) -> Sending {
        let value = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name));
        let crypto =
            value("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:").unwrap_or_else(|| panic!("no key in {answer}"));
        let theirs = STANDARD.decode(&crypto[..40]).expect("base64");
        let port = value("m=audio ").and_then(|rest| rest.split(' ').next()).expect("a port");
        let address = value("c=IN IP4 ").expect("an address");
        let to: SocketAddr = format!("{address}:{port}").parse().expect("an address");
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(talk(self, (to, theirs), Box::new(source), waits, stop.clone()));
        Sending { stop, task }
    }
}

impl Sending {
    /// Ends it: the payloads that were sent, and what came.
    pub async fn stop(self) -> (Vec<Vec<u8>>, Vec<Heard>) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the trunk did not fail")
    }
}

async fn talk(
    trunk: Trunk,
    (to, theirs): (SocketAddr, Vec<u8>),
    mut source: Box<dyn Source>,
    waits: bool,
    stop: Arc<AtomicBool>,
) -> (Vec<Vec<u8>>, Vec<Heard>) {
    let context = |key: &[u8]| {
        Context::new(&key[..16], &key[16..], ProtectionProfile::Aes128CmHmacSha1_80, None, None).expect("a context")
    };
    let (mut protect, mut unprotect) = (context(&KEY_AND_SALT), context(&theirs));
    let (mut sent, mut heard) = (Vec::new(), Vec::new());
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let (mut rtp, mut rtcp) = ([0; 2_048], [0; 2_048]);
    while !stop.load(Ordering::Relaxed) {
        tokio::select! {
            _ = ticks.tick() => {
                if waits && heard.is_empty() {
                    continue;
                }
                let payload = source.frame();
                let packet = packet(sent.len(), &payload);
                let packet = protect.encrypt_rtp(&packet).expect("it is encrypted");
                trunk.rtp.send_to(&packet, to).await.expect("it is sent");
                sent.push(payload);
            }
            Ok((len, _)) = trunk.rtp.recv_from(&mut rtp) => {
                // RFC 5761 §4
                if (192..224).contains(&rtp[1]) {
                    unprotect.decrypt_rtcp(&rtp[..len]).expect("a report under the gateway's key");
                } else {
                    let plain = unprotect.decrypt_rtp(&rtp[..len]).expect("a packet under the gateway's key");
                    heard.push(read(&plain));
                }
            }
            Ok(_) = trunk.rtcp.recv_from(&mut rtcp) => {}
        }
    }
    (sent, heard)
}

fn packet(number: usize, payload: &[u8]) -> Vec<u8> {
    let sequence = FIRST_SEQUENCE.wrapping_add(number as u16);
    let timestamp = (number as u32).wrapping_mul(960);
    let mut packet = vec![0x80, OPUS | u8::from(number == 0) << 7];
    packet.extend(sequence.to_be_bytes());
    packet.extend(timestamp.to_be_bytes());
    packet.extend(SSRC.to_be_bytes());
    packet.extend(payload);
    packet
}

fn read(packet: &[u8]) -> Heard {
    let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().expect("four bytes"));
    assert_eq!(packet[0], 0x80, "a plain header");
    Heard {
        sequence: u16::from_be_bytes([packet[2], packet[3]]),
        timestamp: word(4),
        ssrc: word(8),
        marker: packet[1] & 0x80 != 0,
        is_event: packet[1] & 0x7f == EVENT,
        payload: packet[12..].to_vec(),
    }
}

/// What a trunk says.
pub trait Source: Send {
    /// The next 20 ms of Opus.
    fn frame(&mut self) -> Vec<u8>;
}

fn encoder() -> opus::Encoder {
    opus::Encoder::new(48_000, opus::Channels::Mono, opus::Application::Voip).expect("a mode of libopus")
}

/// A tone in noise: no two frames are alike.
pub struct Noise {
    encoder: opus::Encoder,
    noise: u32,
    sample: u32,
}

impl Noise {
    /// From its beginning.
    pub fn new() -> Noise {
        Noise { encoder: encoder(), noise: 1, sample: 0 }
    }
}

impl Source for Noise {
    fn frame(&mut self) -> Vec<u8> {
        let mut pcm = [0_i16; 960];
        for out in &mut pcm {
            // A linear congruence (Numerical Recipes) is noise enough.
            self.noise = self.noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            self.sample += 1;
            let tone = (self.sample as f32 * 440.0 * core::f32::consts::TAU / 48_000.0).sin() * 6_000.0;
            *out = tone as i16 + (self.noise >> 20) as i16 - 2_048;
        }
        self.encoder.encode_vec(&pcm, 1_000).expect("it is encoded")
    }
}

/// Speech, again and again.
pub struct Speech {
    encoder: opus::Encoder,
    pcm: Vec<i16>,
    at: usize,
}

impl Speech {
    /// Of 48 kHz samples.
    pub fn new(pcm: Vec<i16>) -> Speech {
        Speech { encoder: encoder(), pcm, at: 0 }
    }
}

impl Source for Speech {
    fn frame(&mut self) -> Vec<u8> {
        if self.at + 960 > self.pcm.len() {
            self.at = 0;
        }
        self.at += 960;
        self.encoder.encode_vec(&self.pcm[self.at - 960..self.at], 1_000).expect("it is encoded")
    }
}

/// What the packets sound like, 48 kHz mono.
pub fn decoded(heard: &[Heard]) -> Vec<i16> {
    let mut decoder = opus::Decoder::new(48_000, opus::Channels::Mono).expect("a mode of libopus");
    let mut all = Vec::new();
    let mut pcm = [0; 5_760];
    for packet in heard.iter().filter(|packet| !packet.is_event) {
        let count = decoder.decode(&packet.payload, &mut pcm, false).expect("Opus");
        all.extend_from_slice(&pcm[..count]);
    }
    all
}
