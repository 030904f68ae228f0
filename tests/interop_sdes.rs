//! An SDES leg against baresip, whose SRTP is libre's: every suite that it knows, and a refresh that keeps the
//! keys. What both sides heard is compared with what was said.
//!
//! Why the signalling is written here by hand: what is tried is the description, the keys and the media; the whole program
//! speaks SDES over TLS only, and its stack has tests of its own.

mod interop;

use control::client::socket::MediaSocket;
use engine::io::clock;
use engine::leg::rtp::{RtpConfig, RtpLeg, RtpRemote};
use engine::leg::{Component, LegOutput, MediaFormat, Received};
use engine::limits::DATAGRAM_BYTES_MAX;
use engine::media::decode::Decoder;
use engine::media::encode::{Encoder, FRAME_SAMPLES};
use engine::random::Random;
use engine::sdp::{self, Codec, CodecFormat, Description, Direction, OpusParameters, Profile, RtpLocal, Sdes};
use engine::srtp::SrtpProfile;
use interop::baresip::Baresip;
use interop::{HOST, in_namespace, output_of, speech, until};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::net::UdpSocket;

const BOB: &str = "10.77.0.1:5070";
const SUITES: [SrtpProfile; 4] = [
    SrtpProfile::AesCm128HmacSha1_80,
    SrtpProfile::AesCm128HmacSha1_32,
    SrtpProfile::AeadAes128Gcm,
    SrtpProfile::AeadAes256Gcm,
];
const PCMU: CodecFormat = CodecFormat {
    codec: Codec::Pcmu,
    payload_type: 0,
    opus: OpusParameters {
        max_average_bitrate: None,
        max_playback_rate_hz: None,
        max_capture_rate_hz: None,
        min_ptime_ms: None,
        use_inband_fec: false,
        use_dtx: false,
        stereo: false,
    },
};

#[test]
fn baresip_speaks_every_suite_it_knows_with_an_sdes_leg() {
    in_namespace("baresip_speaks_every_suite_it_knows_with_an_sdes_leg", async |folder| {
        let says = speech::speak(folder, "bot", "en-us", "The bot answers.", &[8_000]).remove(0);
        let said = speech::speak(folder, "user", "en-gb", "Somebody is asking.", &[8_000]).remove(0);
        let long = folder.join("bot-long.wav");
        output_of(Command::new("sox").arg(&says).arg(&long).args(["repeat", "19"]));
        let account = format!("<sip:bob@{HOST}>;regint=0;answermode=auto;audio_codecs=PCMU/8000/1;mediaenc=srtp-mand");
        let mut bob = Baresip::start(folder, BOB, &long, &account).await;
        let mut random = Random::from_test_seed(1);
        for (number, suite) in SUITES.into_iter().enumerate() {
            // It is offered all of them, this one first: it takes the first that it knows.
            let mut suites = vec![suite];
            suites.extend(sdp::SDES_SUITES.into_iter().filter(|other| *other != suite));
            let mut call = Call::place(&suites, random.fork()).await;
            assert_eq!(call.sdes.keys().map(|keys| keys.profile), Some(suite));
            call.talk(&speech::read_wav(&said), Duration::from_millis(4_500)).await;
            if suite == SUITES[0] {
                call.refresh().await;
                call.heard.clear();
                call.talk(&speech::read_wav(&said), Duration::from_millis(4_500)).await;
            }
            let stats = call.leg.stats();
            println!("{}: {stats:?}", sdp::suite_name(suite));
            assert!(stats.packets_received > 140 && stats.packets_lost < 10, "{stats:?}");
            assert!(stats.packets_dropped < 5, "{stats:?}");
            let name = folder.join(format!("heard-{number}.wav"));
            speech::write_wav(&name, 8_000, &call.heard);
            call.hang_up().await;
            let closed = async || (bob.parameters("CALL_CLOSED").len() > number).then_some(());
            until("baresip's end of the call", 5, closed).await;
            assert_heard("we", &says, &name);
            assert_heard("baresip", &said, &bob.heard());
        }
    });
}

/// One call to baresip: our leg, its sockets, and the little SIP that it takes (RFC 3261, UDP, no loss).
struct Call {
    signalling: UdpSocket,
    id: u64,
    sequence: u32,
    to: String,
    session_version: u64,
    sdes: Sdes,
    leg: RtpLeg,
    rtp: MediaSocket,
    rtcp: MediaSocket,
    heard: Vec<i16>,
    decoder: Decoder,
}

impl Call {
    async fn place(suites: &[SrtpProfile], mut random: Random) -> Call {
        let signalling = UdpSocket::bind((HOST, 0)).await.expect("a socket");
        signalling.connect(BOB).await.expect("an address");
        let address: IpAddr = HOST.parse().expect("an address");
        let (rtp, rtcp) = MediaSocket::bind_pair(address).await.expect("ports");
        let config = RtpConfig { remote: None };
        let mut call = Call {
            signalling,
            id: random.next_u64(),
            sequence: 0,
            to: format!("<sip:bob@{BOB}>"),
            session_version: 0,
            sdes: Sdes::new(suites, random.fork()),
            leg: RtpLeg::new(clock::now(), config, clock::wall_anchor(), random.fork()),
            rtp,
            rtcp,
            heard: Vec::new(),
            decoder: Decoder::new(Codec::Pcmu),
        };
        call.invite().await;
        call
    }

    /// Offers again, with the keys in force. (baresip 1.0 takes no others in a call that is up.)
    async fn refresh(&mut self) {
        let before = self.sdes.keys().cloned();
        self.invite().await;
        assert_eq!(self.sdes.keys(), before.as_ref());
    }

    async fn invite(&mut self) {
        self.session_version += 1;
        let local = RtpLocal {
            address: HOST.parse().expect("an address"),
            port: self.rtp.port(),
            profile: Profile::RtpSavp,
            rtcp_mux: false,
            crypto: self.sdes.offer(),
            codecs: vec![PCMU],
            telephone_events: Vec::new(),
            direction: Direction::SendRecv,
            session_id: self.id >> 2,
            session_version: self.session_version,
        };
        self.sequence += 1;
        self.send("INVITE", &sdp::write_rtp_offer(&local)).await;
        let answer = self.final_answer("INVITE").await;
        self.send("ACK", "").await;
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        let answer = sdp::parse(body).unwrap_or_else(|error| panic!("{error:?}: {body}"));
        assert_eq!((answer.profile, answer.crypto.len()), (Profile::RtpSavp, 1), "{body}");
        let keys = self.sdes.read_answer(&answer).unwrap_or_else(|error| panic!("{error:?}: {body}")).clone();
        let remote = RtpRemote { srtp: Some(keys), ..described(&answer) };
        self.leg.set_remote(clock::now(), remote);
    }

    /// Says `pcm` and listens for `time`.
    async fn talk(&mut self, pcm: &[i16], time: Duration) {
        let mut encoder = Encoder::new(Codec::Pcmu, &OpusParameters::default());
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        let mut frames = pcm.chunks_exact(FRAME_SAMPLES);
        let (mut rtp, mut rtcp) = ([0; DATAGRAM_BYTES_MAX], [0; DATAGRAM_BYTES_MAX]);
        for _ in 0..time.as_millis() / 20 {
            loop {
                let (component, datagram, from) = tokio::select! {
                    biased;
                    _ = ticks.tick() => break,
                    Ok((len, from)) = self.rtp.receive(&mut rtp) => (Component::Rtp, &mut rtp[..len], from),
                    Ok((len, from)) = self.rtcp.receive(&mut rtcp) => (Component::Rtcp, &mut rtcp[..len], from),
                };
                match self.leg.handle_datagram(clock::now(), component, from, datagram) {
                    Received::Rtp(packet) => {
                        let mut out = [0; 1_920];
                        let samples = self.decoder.decode(packet.payload, &mut out).expect("PCMU");
                        self.heard.extend_from_slice(&out[..samples]);
                    }
                    Received::Dropped(reason) => println!("dropped on {component:?}: {reason:?}"),
                    Received::Consumed => {}
                }
            }
            let mut packet = [0; DATAGRAM_BYTES_MAX];
            let len = encoder.encode(frames.next().unwrap_or(&[0; FRAME_SAMPLES]), &mut packet[12..]);
            let len = self.leg.sender().audio(clock::now(), 0, false, len, 160, &mut packet);
            let (to, len) = self.leg.send(clock::now(), &mut packet, len).expect("the leg can send");
            self.rtp.send(&packet[..len], to).await;
            self.drain().await;
        }
    }

    async fn drain(&mut self) {
        let mut out = [0; DATAGRAM_BYTES_MAX];
        loop {
            match self.leg.poll_output(clock::now(), &mut out) {
                LegOutput::Transmit { component: Component::Rtp, to, len } => {
                    let _ = self.rtp.send(&out[..len], to).await;
                }
                LegOutput::Transmit { to, len, .. } => {
                    let _ = self.rtcp.send(&out[..len], to).await;
                }
                LegOutput::Event(_) => {}
                LegOutput::Timeout(_) => return,
            }
        }
    }

    async fn hang_up(mut self) {
        self.leg.close(clock::now());
        self.drain().await;
        self.sequence += 1;
        self.send("BYE", "").await;
        self.final_answer("BYE").await;
    }

    async fn send(&mut self, method: &str, body: &str) {
        let ours = self.signalling.local_addr().expect("an address");
        let (id, sequence, to) = (self.id, self.sequence, &self.to);
        // ACK of a 2xx is a transaction of its own (RFC 3261 §13.2.2.4).
        let text = format!(
            "{method} sip:bob@{BOB} SIP/2.0\r\nVia: SIP/2.0/UDP {ours};branch=z9hG4bK{id}{sequence}{method};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:alice@{HOST}>;tag={id}\r\nTo: {to}\r\nCall-ID: {id}@{HOST}\r\n\
             CSeq: {sequence} {method}\r\nContact: <sip:alice@{ours}>\r\nContent-Type: application/sdp\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.signalling.send(text.as_bytes()).await.expect("it is sent");
    }

    /// The 200 to the last request; what baresip asks meanwhile is not answered.
    async fn final_answer(&mut self, method: &str) -> String {
        let mut buffer = [0; 4_096];
        loop {
            let receive = tokio::time::timeout(Duration::from_secs(10), self.signalling.recv(&mut buffer));
            let len = receive.await.unwrap_or_else(|_| panic!("no answer to {method}")).expect("a datagram");
            let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
            let is_ours = text.contains(&format!("CSeq: {} {method}\r\n", self.sequence));
            if !is_ours || text.starts_with("SIP/2.0 1") {
                continue;
            }
            assert!(text.starts_with("SIP/2.0 200 "), "{text}");
            let to = text.lines().find_map(|line| line.strip_prefix("To: ")).expect("a To header");
            self.to = to.to_owned();
            return text;
        }
    }
}

fn described(answer: &Description) -> RtpRemote {
    let address = answer.address.expect("an address");
    let next = SocketAddr::new(address.ip(), address.port() + 1);
    RtpRemote {
        address,
        rtcp_address: answer.rtcp_address.unwrap_or(next),
        rtcp_mux: answer.rtcp_mux,
        format: MediaFormat {
            codec: Codec::Pcmu,
            send_payload_type: 0,
            receive_payload_type: 0,
            opus: OpusParameters::default(),
            telephone_event: None,
        },
        sending: true,
        srtp: None,
    }
}

fn assert_heard(who: &str, said: &Path, heard: &Path) {
    let score = speech::score(said, heard, 0.0);
    println!("{who} heard {score:?}");
    assert!(score.similarity > 0.8, "{who} did not hear what was said: {score:?}");
}
