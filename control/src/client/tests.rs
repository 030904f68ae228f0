//! The far ends against each other, over loopback sockets: speech by content, keys, roles, hold, and the SIP answerer's whole call.

use super::audio::OpusSettings;
use super::observed::Observed;
use super::sip_answerer::{AnswererConfig, SipAnswerer, Voice};
use super::speech::{SAME_SPEECH, similarity};
use super::wav::{self, Wav};
use super::webrtc_answerer::WebrtcAnswerer;
use super::webrtc_caller::WebrtcCaller;
use super::webrtc_offerer::WebrtcOfferer;
use super::webrtc_peer::WebrtcPeer;
use super::{pcm, system_random};
use crate::sip::{Credentials, Invite, SipAgent, SipConfig, SipEnd, SipEvent, SipOutput};
use engine::dtls::{DtlsVersions, Identity};
use engine::io::clock;
use engine::rtp::telephone_event::Digit;
use engine::time::Instant;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;

const LOOPBACK: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
const SOON: Duration = Duration::from_secs(10);

fn greeting() -> Wav {
    wav::read(include_bytes!("../../standin/speech/greeting-8k.wav")).unwrap()
}

/// The first two seconds of speech.
fn short_speech() -> Wav {
    let whole = wav::read(include_bytes!("../../standin/speech/caller-16k.wav")).unwrap();
    Wav { rate_hz: whole.rate_hz, pcm: whole.pcm[..2 * whole.rate_hz as usize].to_vec() }
}

async fn connected(peer: &WebrtcPeer) {
    peer.wait(SOON, |seen| seen.connected.is_some()).await.expect("keys");
}

/// Plays `sound` from one peer to the other and asserts that it is heard.
async fn speaks(from: &WebrtcPeer, to: &WebrtcPeer, sound: &Wav) {
    let begun = to.observed().borrow().heard.pcm.len();
    from.play(sound);
    let played = |seen: &Observed| seen.played.last().is_some_and(|clip| clip.until.is_some());
    from.wait(SOON, played).await.expect("played to its end");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let seen = to.observed();
    let seen = seen.borrow();
    let found = similarity(&sound.pcm, sound.rate_hz, &seen.heard.pcm[begun..], seen.heard.rate_hz);
    assert!(found.score > SAME_SPEECH, "{found:?}");
    assert_eq!((seen.continuity.sequence_faults, seen.continuity.timestamp_faults), (0, 0));
    assert_eq!((seen.wire.other_ssrc, seen.ssrcs.len()), (0, 1));
}

#[tokio::test]
async fn whatsapps_relay_and_a_gateway_speak_and_press_keys_once_nothing_is_held() {
    let identity = Identity::generate().unwrap();
    let relay =
        WebrtcOfferer::start(&LOOPBACK, 1_767_225_600_412, true, &identity, OpusSettings::WHATSAPP).await.unwrap();
    let gateway =
        WebrtcAnswerer::start(&relay.offer, &LOOPBACK, true, &identity, OpusSettings::WHATSAPP).await.unwrap();
    relay.answer(&gateway.answer).unwrap();
    connected(&relay.peer).await;
    connected(&gateway.peer).await;
    // A held leg does everything but speak.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let wire = relay.peer.observed().borrow().wire;
    assert_eq!((wire.rtp, wire.rtcp), (0, 0));
    assert!(wire.controlling > 0 && wire.controlled == 0 && wire.nominations > 0);
    assert!(wire.client_hellos > 0 && wire.server_hellos == 0);

    relay.peer.release();
    gateway.peer.release();
    speaks(&relay.peer, &gateway.peer, &short_speech()).await;
    speaks(&gateway.peer, &relay.peer, &greeting()).await;
    relay.peer.press(Digit::from_char('5').unwrap(), 100);
    relay.peer.press(Digit::from_char('#').unwrap(), 100);
    gateway.peer.wait(SOON, |seen| seen.digits.len() == 2).await.expect("keys");
    assert_eq!(gateway.peer.observed().borrow().keys(), "5#");

    gateway.peer.close();
    relay.peer.wait(SOON, |seen| seen.ended.is_some()).await.expect("the goodbye");
}

#[tokio::test]
async fn a_full_caller_reaches_a_lite_answerer() {
    let identity = Identity::generate().unwrap();
    let settings = OpusSettings { rate_hz: 48_000, bitrate: 32_000, expected_loss_percent: 0 };
    let caller = WebrtcCaller::start(&LOOPBACK, &identity, DtlsVersions::Auto, settings).await.unwrap();
    let gateway =
        WebrtcAnswerer::start(&caller.offer, &LOOPBACK, false, &identity, OpusSettings::WHATSAPP).await.unwrap();
    caller.answer(&gateway.answer).unwrap();
    connected(&caller.peer).await;
    connected(&gateway.peer).await;
    speaks(&caller.peer, &gateway.peer, &short_speech()).await;
    speaks(&gateway.peer, &caller.peer, &short_speech()).await;
    assert_eq!(caller.peer.observed().borrow().heard.rate_hz, 48_000);
}

/// Says a tone, hangs up on `#`.
struct Tone(usize);

impl Voice for Tone {
    fn speak(&mut self, _now: Instant, frame: &mut [i16]) {
        let tone = pcm::tones(&[440.0], 1_000, 8_000, 8_000);
        for sample in frame {
            *sample = tone[1_000 + self.0 % 2_000];
            self.0 += 1;
        }
    }
    fn hear(&mut self, _now: Instant, _pcm: &[i16]) {}
    fn key(&mut self, _now: Instant, key: char) -> bool {
        key != '#'
    }
}

/// A SIP caller without media, run until `until` sees the event it wants.
struct Caller {
    agent: SipAgent,
    socket: UdpSocket,
}

impl Caller {
    async fn start() -> Caller {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let config = SipConfig { accept_incoming: false, ..SipConfig::new(socket.local_addr().unwrap(), "gw", "test") };
        Caller { agent: SipAgent::new(config, system_random()), socket }
    }

    async fn until(&mut self, mut wanted: impl FnMut(&SipEvent) -> bool) -> SipEvent {
        let mut datagram = vec![0; 65_535];
        let limit = clock::now() + SOON;
        while clock::now() < limit {
            let deadline = loop {
                match self.agent.poll_output(clock::now()) {
                    SipOutput::Transmit { hop, bytes } => {
                        self.socket.send_to(&bytes, hop.remote).await.unwrap();
                    }
                    SipOutput::Event(event) if wanted(&event) => return event,
                    SipOutput::Event(_) | SipOutput::Resolve { .. } | SipOutput::Trace(_) => {}
                    SipOutput::Timeout(deadline) => break deadline,
                }
            };
            let wait = deadline.since(clock::now()).min(Duration::from_millis(50));
            match tokio::time::timeout(wait, self.socket.recv_from(&mut datagram)).await {
                Ok(Ok((len, from))) => self.agent.handle_datagram(clock::now(), from, &datagram[..len]),
                _ => self.agent.handle_timeout(clock::now()),
            }
        }
        panic!("the wanted event did not come");
    }
}

fn invite(to: SocketAddr, media: SocketAddr, password: &str) -> Invite {
    Invite {
        target: format!("sip:bot@{to}"),
        proxy: None,
        from_display: None,
        from_user: "447700900123".to_owned(),
        from_host: None,
        headers: vec![("X-WA-Call-ID".to_owned(), "wacid.a/b==".to_owned())],
        sdp: format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {} RTP/AVP 0 8 101\r\n\
             a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=ptime:20\r\na=sendrecv\r\n",
            media.port()
        ),
        credentials: Some(Credentials { username: "gw".to_owned(), password: password.to_owned() }),
        ring_ms_max: 5_000,
        ..Invite::default()
    }
}

async fn answerer() -> SipAnswerer {
    let config = AnswererConfig {
        bind: LOOPBACK[0],
        port: 0,
        demand: Some((
            "sip.twilio.com".to_owned(),
            Credentials { username: "gw".to_owned(), password: "right".to_owned() },
        )),
        product: "bot".to_owned(),
        ring_after_ms: 10,
        answer_after_ms: 60,
        call_ms_max: 60_000,
    };
    SipAnswerer::start(config, Box::new(|_| Box::new(Tone(0)))).await.unwrap()
}

#[tokio::test]
async fn the_answerer_challenges_rings_answers_speaks_and_hangs_up_on_a_key() {
    let bot = answerer().await;
    let media = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut caller = Caller::start().await;
    caller.agent.invite(clock::now(), invite(bot.address(), media.local_addr().unwrap(), "right"));
    caller.until(|event| matches!(event, SipEvent::Challenged { code: 407, .. })).await;
    caller.until(|event| matches!(event, SipEvent::Provisional { code: 180, .. })).await;
    let SipEvent::Answered { sdp, .. } = caller.until(|event| matches!(event, SipEvent::Answered { .. })).await else {
        unreachable!()
    };
    let answer = engine::sdp::parse(&sdp).unwrap();
    assert_eq!((answer.codecs.len(), answer.codecs[0].payload_type, answer.ptime_ms), (1, 0, Some(20)));

    let mut packet = [0; 1500];
    let (len, _) = tokio::time::timeout(SOON, media.recv_from(&mut packet)).await.unwrap().unwrap();
    assert_eq!((len, packet[1] & 0x7f), (172, 0));
    // `#`, ended, as a telephone-event packet of our own; the bot says BYE.
    let event = [0x80, 0x80 | 101, 0, 1, 0, 0, 0, 0, 9, 9, 9, 9, 11, 0x8a, 0x03, 0x20];
    media.send_to(&event, answer.address.unwrap()).await.unwrap();
    caller.until(|event| matches!(event, SipEvent::Ended { end: SipEnd::ByeReceived(_), .. })).await;

    let calls = bot.calls().borrow().clone();
    let call = calls.values().next().unwrap();
    assert_eq!(call.header("x-wa-call-id"), Some("wacid.a/b=="));
    assert!(call.answered.is_some());
    assert_eq!(call.media.borrow().keys(), "#");
}

#[tokio::test]
async fn a_wrong_password_reaches_no_bot() {
    let bot = answerer().await;
    let media = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut caller = Caller::start().await;
    caller.agent.invite(clock::now(), invite(bot.address(), media.local_addr().unwrap(), "wrong"));
    caller.until(|event| matches!(event, SipEvent::Ended { end: SipEnd::Unauthorized, .. })).await;
    assert!(bot.calls().borrow().is_empty());
}
