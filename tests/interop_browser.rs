//! The WebRTC leg against Chromium and against a Pion that insists: tandem as ICE-lite, DTLS-serving answerer behind the edge API,
//! and our leg as ICE-lite offerer. What both sides heard is compared with what was said; what counts on the wire is read there.
//!
//! Why both peers: the browser brings DTLS 1.3, a ClientHello in pieces and the profiles it prefers, and can be told none of
//! this. Pion knows DTLS 1.2 only and takes the SRTP profile that a test names.

mod interop;

use control::client::audio::OpusSettings;
use control::client::webrtc_offerer::read_answer;
use control::client::webrtc_peer::WebrtcPeer;
use control::client::{observed::Observed, wav};
use engine::dtls::{DtlsVersion, DtlsVersions, Identity};
use engine::ice::IceRole;
use engine::leg::LocalLeg;
use engine::leg::webrtc::WebrtcConfig;
use engine::sdp::{self, Codec, CodecFormat, OpusParameters, Setup, TelephoneEventFormat, WebrtcLocal};
use engine::srtp::SrtpProfile;
use interop::baresip::Baresip;
use interop::browser::Browser;
use interop::wire::{Class, Packet};
use interop::{EDGE, HOST, Program, get_json, in_namespace, output_of, post_json, speech, until};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const BOT: &str = "sip:bob@10.77.0.1:5070";
const PION: &str = "http://10.77.0.1:8090";
/// Short, so that one whole turn of the looping microphone lies within a few seconds, wherever they begin.
const SENTENCE: &str = "Somebody is asking.";
const KEYS: &str = "159#*0";
const MEDIA_PORTS: std::ops::RangeInclusive<u16> = 30_000..=30_999;

/// What DTLS versions are called in `getStats` (W3C webrtc-stats, tlsVersion).
const DTLS_1_3: &str = "FEFC";
const DTLS_1_2: &str = "FEFD";

/// An offer with the microphone, complete with its candidates.
const OFFER: &str = r"
const stream = await navigator.mediaDevices.getUserMedia(
  { audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
const pc = window.pc = new RTCPeerConnection();
pc.addTrack(stream.getAudioTracks()[0], stream);
await pc.setLocalDescription(await pc.createOffer());
while (pc.iceGatheringState !== 'complete') await new Promise(done => setTimeout(done, 20));
return pc.localDescription.sdp;
";

/// The answer to the offer `SDP`, with the microphone.
const ANSWER: &str = r"
const stream = await navigator.mediaDevices.getUserMedia(
  { audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
const pc = window.pc = new RTCPeerConnection();
pc.addTrack(stream.getAudioTracks()[0], stream);
await pc.setRemoteDescription({ type: 'offer', sdp: SDP });
await pc.setLocalDescription(await pc.createAnswer());
while (pc.iceGatheringState !== 'complete') await new Promise(done => setTimeout(done, 20));
return pc.localDescription.sdp;
";

/// Statistics by their type; there is one of each in a call of one section.
const STATS: &str = r"
const found = {};
(await window.pc.getStats()).forEach(entry => { found[entry.type] = entry });
return found;
";

#[test]
fn a_browser_that_calls_the_edge_is_answered_lite_and_speaks_with_the_bot() {
    in_namespace("a_browser_that_calls_the_edge_is_answered_lite_and_speaks_with_the_bot", async |folder| {
        let said = speech::speak(folder, "user", "en-gb", SENTENCE, &[8_000, 48_000]);
        let (answered, mut bob) = bot(folder).await;
        let mut capture = interop::wire::capture(folder).await;
        let _tandem = interop::edge(folder, BOT).await;
        let browser = Browser::start(folder, &said[1]).await;
        browser.open(&blank_page().await).await;

        let offer = text(&browser.run(OFFER).await);
        let created =
            post_json(&format!("{EDGE}/webrtc/new"), &json!({"call_id": "browser-1", "sdp_offer": offer})).await;
        let answer = text(&created["sdp_answer"]);
        assert_lite_answer(&answer);
        browser
            .run(&format!("await window.pc.setRemoteDescription({{ type: 'answer', sdp: {} }})", json!(answer)))
            .await;
        until("the call", 10, async || bob.saw("CALL_ESTABLISHED", "").then_some(())).await;
        tokio::time::sleep(Duration::from_secs(7)).await;
        let reported = async || Some(browser.run(STATS).await).filter(|stats| stats["remote-inbound-rtp"].is_object());
        let stats = until("a receiver report at the browser", 5, reported).await;
        speech::write_wav(&folder.join("browser-heard.wav"), 48_000, &browser.heard().await);
        browser.run(&format!("window.pc.getSenders()[0].dtmf.insertDTMF('{KEYS}', 100, 60)")).await;
        until("all keys at the bot", 5, async || (bob.parameters("CALL_DTMF_START").len() >= KEYS.len()).then_some(()))
            .await;
        tokio::time::sleep(Duration::from_millis(500)).await;

        post_json(&format!("{EDGE}/webrtc/hangup"), &json!({"edge_session_id": created["edge_session_id"]})).await;
        until("baresip's end of the call", 5, async || bob.saw("CALL_CLOSED", "").then_some(())).await;
        let transport = "return window.pc.getSenders()[0].transport.state";
        until("the browser's end of DTLS", 5, async || (browser.run(transport).await == "closed").then_some(())).await;
        let timeline = timeline("browser-1").await;
        nothing_is_left().await;
        capture.stop().await;

        assert_browser_stats(&stats, DTLS_1_3, "controlling");
        assert!(timeline.contains("DTLS 1.3") && timeline.contains("ICE lite"), "{timeline}");
        assert_eq!(bob.parameters("CALL_DTMF_START").concat(), KEYS, "each key once, in order");
        let pieces = assert_wire(&folder.join("wire.pcap"));
        assert!(
            pieces.len() > 1,
            "the browser's ClientHello came in one piece, so reassembly was not tried: {pieces:?}"
        );
        assert_heard("bot", &said[0], &bob.heard());
        assert_heard("browser", &answered, &folder.join("browser-heard.wav"));
    });
}

#[test]
fn a_browser_answers_our_ice_lite_offer_in_either_version_of_dtls() {
    in_namespace("a_browser_answers_our_ice_lite_offer_in_either_version_of_dtls", async |folder| {
        let said = speech::speak(folder, "user", "en-gb", SENTENCE, &[8_000, 48_000]);
        let played = speech::speak(folder, "lite", "en-us", "We made the offer.", &[16_000]);
        let page = blank_page().await;
        let identity = Identity::generate().expect("an identity");
        let browser = Browser::start(folder, &said[1]).await;
        // In 1.3 the browser's favourite profile is taken, in 1.2 the strongest that it offers: so both are tried.
        for (versions, version, name, profile) in [
            (DtlsVersions::Auto, DtlsVersion::V13, DTLS_1_3, SrtpProfile::AesCm128HmacSha1_80),
            (DtlsVersions::V12, DtlsVersion::V12, DTLS_1_2, SrtpProfile::AeadAes256Gcm),
        ] {
            browser.open(&page).await;
            let peer = lite_offerer(versions, &identity).await;
            let answer = text(&browser.run(&ANSWER.replace("SDP", &json!(offer_of(&peer)).to_string())).await);
            assert!(answer.contains("a=setup:active"), "the browser does not open DTLS:\n{answer}");
            peer.set_remote(read_answer(&answer, 111, 110).expect("a usable answer"));
            peer.wait(Duration::from_secs(5), |seen| seen.connected.is_some()).await.expect("keys");
            let clip = wav::read(&std::fs::read(&played[0]).expect("the clip")).expect("a clip");
            // Twice: during the first the browser's jitter buffer is still stretching.
            peer.play(&clip);
            peer.play(&clip);
            // Twice as long as a sentence, since the microphone may be in the middle of one.
            tokio::time::sleep(Duration::from_secs(6)).await;
            let stats = browser.run(STATS).await;
            speech::write_wav(&folder.join(format!("browser-heard-{name}.wav")), 48_000, &browser.heard().await);
            browser.run(&format!("window.pc.getSenders()[0].dtmf.insertDTMF('{KEYS}', 100, 60)")).await;
            peer.wait(Duration::from_secs(3), |seen| seen.keys().len() >= KEYS.len()).await.expect("all keys");
            let seen = peer.observed().borrow().clone();
            peer.close();

            let (_, spoken, taken) = seen.connected.expect("keys");
            println!("{name}: {taken:?}, {} packets in, {} out", seen.packets_received, seen.packets_sent);
            assert_eq!((spoken, taken), (version, profile));
            assert_browser_stats(&stats, name, "controlling");
            assert_offerer(&seen);
            speech::write_wav(&folder.join(format!("lite-heard-{name}.wav")), seen.heard.rate_hz, &seen.heard.pcm);
            assert_heard("lite offerer", &said[0], &folder.join(format!("lite-heard-{name}.wav")));
            assert_heard("browser", &played[0], &folder.join(format!("browser-heard-{name}.wav")));
        }
    });
}

#[test]
fn a_full_peer_that_knows_only_dtls_1_2_speaks_with_the_bot() {
    in_namespace("a_full_peer_that_knows_only_dtls_1_2_speaks_with_the_bot", async |folder| {
        let calls = PionCalls::start(folder).await;
        let mut capture = interop::wire::capture(folder).await;
        let call = calls.place(&["-full", "-media-port", "0"], "pion-full").await;
        nothing_is_left().await;
        capture.stop().await;
        assert_lite_answer(&call.answer);
        assert!(call.timeline.contains("DTLS 1.2") && call.timeline.contains("ICE lite"), "{}", call.timeline);
        assert_wire(&folder.join("wire.pcap"));
    });
}

#[test]
fn whichever_srtp_profile_the_peer_insists_on_carries_the_call() {
    in_namespace("whichever_srtp_profile_the_peer_insists_on_carries_the_call", async |folder| {
        let calls = PionCalls::start(folder).await;
        for (flag, profile) in [("cm", "AES_CM_128_HMAC_SHA1_80"), ("gcm128", "AEAD_AES_128_GCM")] {
            let call = calls.place(&["-srtp", flag], flag).await;
            assert!(call.answer.contains("a=setup:active"), "toward an ICE-lite offer we open DTLS:\n{}", call.answer);
            assert!(call.timeline.contains(profile), "{}", call.timeline);
        }
        nothing_is_left().await;
    });
}

/// baresip in the bot's place and tandem, for several calls one after the other.
struct PionCalls {
    folder: PathBuf,
    said: PathBuf,
    ogg: PathBuf,
    answered: PathBuf,
    bob: RefCell<Baresip>,
    /// Calls that the bot has ended.
    closed: Cell<usize>,
    _tandem: Program,
}

/// What is left of a call to look at.
struct PionCall {
    answer: String,
    timeline: String,
}

impl PionCalls {
    async fn start(folder: &Path) -> PionCalls {
        let said = speech::speak(folder, "user", "en-gb", SENTENCE, &[8_000, 48_000]);
        let (answered, bob) = bot(folder).await;
        let ogg = folder.join("user.ogg");
        let settings =
            "-ac 2 -c:a libopus -b:a 20k -application voip -frame_duration 20 -page_duration 20000".split(' ');
        output_of(
            Command::new("ffmpeg").args(["-loglevel", "error", "-y", "-i"]).arg(&said[1]).args(settings).arg(&ogg),
        );
        let tandem = interop::edge(folder, BOT).await;
        let (folder, bob, closed) = (folder.to_owned(), RefCell::new(bob), Cell::new(0));
        PionCalls { folder, said: said[0].clone(), ogg, answered, bob, closed, _tandem: tandem }
    }

    /// Places one call of a few seconds from a Pion started with `flags`; both sides must hear each other.
    async fn place(&self, flags: &[&str], call_id: &str) -> PionCall {
        let heard = self.folder.join(format!("{call_id}.ogg"));
        let mut command = Command::new(interop::repo().join("target/tools/lite-pion"));
        command.args(["-host", HOST, "-port", "8090", "-play"]).arg(&self.ogg).arg("-record").arg(&heard).args(flags);
        let mut pion = Program::start(&self.folder, &format!("pion-{call_id}"), &mut command);
        until("pion", 10, async || std::net::TcpStream::connect((HOST, 8090)).ok()).await;
        let offer = text(&get_json(&format!("{PION}/offer")).await["sdp"]);
        let created = post_json(&format!("{EDGE}/webrtc/new"), &json!({"call_id": call_id, "sdp_offer": offer})).await;
        let answer = text(&created["sdp_answer"]);
        post_json(&format!("{PION}/answer"), &json!({"type": "answer", "sdp": answer})).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        let stats = get_json(&format!("{PION}/stats")).await;
        post_json(&format!("{EDGE}/webrtc/hangup"), &json!({"edge_session_id": created["edge_session_id"]})).await;
        let closed = self.closed.get() + 1;
        let seen = async || (self.bob.borrow_mut().parameters("CALL_CLOSED").len() >= closed).then_some(());
        until("baresip's end of the call", 5, seen).await;
        self.closed.set(closed);
        get_json(&format!("{PION}/quit")).await;
        pion.ended(5).await;

        assert_eq!(stats["pc"], "connected", "{stats}");
        assert!(stats["heard"].as_u64() > Some(200), "the peer heard too little: {stats}");
        let wav = heard.with_extension("wav");
        output_of(
            Command::new("ffmpeg").args(["-loglevel", "error", "-y", "-i"]).arg(&heard).args(["-ac", "1"]).arg(&wav),
        );
        assert_heard("bot", &self.said, &self.bob.borrow().heard());
        assert_heard("pion", &self.answered, &wav);
        PionCall { answer, timeline: timeline(call_id).await }
    }
}

/// baresip as the bot, and the sentence that it says again and again.
async fn bot(folder: &Path) -> (PathBuf, Baresip) {
    let answered = speech::speak(folder, "bot", "en-us", "The bot answers.", &[8_000]).remove(0);
    let long = folder.join("bot-long.wav");
    output_of(Command::new("sox").arg(&answered).arg(&long).args(["repeat", "19"]));
    let account = format!("<sip:bob@{HOST}>;regint=0;answermode=auto;audio_codecs=PCMU/8000/1");
    (answered, Baresip::start(folder, &format!("{HOST}:5070"), &long, &account).await)
}

/// A page of this machine, since only those get a microphone without TLS; answers its address.
async fn blank_page() -> String {
    let page = axum::routing::get(|| async { axum::response::Html("<title>caller</title>") });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/", page)).await });
    format!("http://{address}/")
}

async fn lite_offerer(versions: DtlsVersions, identity: &Identity) -> WebrtcPeer {
    let config = WebrtcConfig { ice: IceRole::Lite, versions, credentials: None, hold: false, remote: None };
    WebrtcPeer::start(config, identity, OpusSettings::WHATSAPP).await.expect("a socket")
}

fn offer_of(peer: &WebrtcPeer) -> String {
    let LocalLeg::Webrtc { ufrag, pwd, fingerprint, ssrc, port } = peer.local().clone() else {
        panic!("not a WebRTC leg")
    };
    let opus = OpusParameters { min_ptime_ms: Some(10), use_inband_fec: true, ..OpusParameters::default() };
    let local = WebrtcLocal {
        addresses: vec![HOST.parse().expect("an address")],
        port,
        ufrag,
        pwd,
        lite: true,
        fingerprint,
        setup: Setup::ActPass,
        ssrc,
        codec: CodecFormat { codec: Codec::Opus, payload_type: 111, opus },
        telephone_event: Some(TelephoneEventFormat { payload_type: 110, clock_rate_hz: 8_000 }),
        direction: engine::sdp::Direction::SendRecv,
        session_id: 1,
        session_version: 1,
    };
    sdp::write_webrtc_offer(&local, "0", &[], &[])
}

/// What a full agent is answered: we are lite, we serve DTLS, and there is one of everything.
fn assert_lite_answer(sdp: &str) {
    let lines: Vec<&str> = sdp.lines().collect();
    let count = |prefix: &str| lines.iter().filter(|line| line.starts_with(prefix)).count();
    assert!(
        lines.contains(&"a=ice-lite") && lines.contains(&"a=setup:passive") && lines.contains(&"a=sendrecv"),
        "{sdp}"
    );
    assert_eq!((count("a=fingerprint:"), count("a=fingerprint:sha-256 ")), (1, 1), "{sdp}");
    assert_eq!((count("m="), count("m=audio "), count("a=ssrc:")), (1, 1, 1), "{sdp}");
}

fn assert_browser_stats(stats: &Value, version: &str, ice_role: &str) {
    let transport = &stats["transport"];
    println!("browser: {} {} {}", transport["tlsVersion"], transport["dtlsCipher"], transport["srtpCipher"]);
    assert_eq!(transport["tlsVersion"], version, "{transport}");
    assert_eq!((&transport["dtlsRole"], &transport["iceRole"]), (&json!("client"), &json!(ice_role)), "{transport}");
    assert!(transport["srtpCipher"].as_str().is_some_and(|cipher| cipher.contains("AES")), "{transport}");
    let inbound = &stats["inbound-rtp"];
    assert!(inbound["packetsReceived"].as_u64() > Some(200), "the browser heard too little: {inbound}");
    assert_eq!((&inbound["packetsLost"], &inbound["packetsDiscarded"]), (&json!(0), &json!(0)), "{inbound}");
}

/// What our end saw of the browser: checks, nominations and hellos, one source, nothing out of order.
fn assert_offerer(seen: &Observed) {
    let wire = &seen.wire;
    assert!(
        wire.controlling > 0 && wire.nominations > 0 && wire.controlled == 0,
        "the browser does not control: {wire:?}"
    );
    assert!(wire.client_hellos > 1, "the browser's ClientHello came in one piece: {wire:?}");
    assert_eq!((wire.server_hellos, wire.other_ssrc, wire.unknown), (0, 0, 0), "{wire:?}");
    assert!(seen.packets_received > 200, "only {} packets came", seen.packets_received);
    assert_eq!((seen.ssrcs.len(), seen.dropped), (1, 0), "{:?}", seen.ssrcs);
    assert_eq!((seen.continuity.sequence_faults, seen.continuity.timestamp_faults), (0, 0));
    assert_eq!(seen.keys(), KEYS, "each key once, in order");
}

/// tandem asks nothing, the peer opens DTLS, and what tandem sends is one unbroken stream. Answers the pieces of the
/// ClientHello that came before anything was said to it: offset and bytes.
fn assert_wire(pcap: &Path) -> BTreeSet<(usize, usize)> {
    let packets = interop::wire::read(pcap);
    let from_us = |packet: &&Packet| MEDIA_PORTS.contains(&packet.from_port);
    let asked = packets.iter().filter(from_us).filter(|packet| packet.is_stun_request()).count();
    assert_eq!(asked, 0, "a lite agent sent checks");
    let dtls: Vec<&Packet> = packets.iter().filter(|packet| packet.class() == Class::Dtls).collect();
    let flight: Vec<&&Packet> = dtls.iter().take_while(|packet| MEDIA_PORTS.contains(&packet.to_port)).collect();
    assert!(!flight.is_empty(), "the first DTLS datagram came from tandem");
    let pieces: BTreeSet<_> = flight.iter().filter_map(|packet| packet.client_hello()).collect();
    println!("first flight: {} datagrams, pieces of ClientHello (offset, bytes) {pieces:?}", flight.len());
    let to_peer = packets.iter().filter(from_us).filter(|packet| packet.to_port == flight[0].from_port);
    let media: Vec<&Packet> = to_peer.filter(|packet| packet.class() == Class::Rtp).collect();
    assert!(media.len() > 200, "only {} RTP packets", media.len());
    for pair in media.windows(2) {
        assert_eq!(pair[0].ssrc(), pair[1].ssrc(), "a second SSRC");
        assert_eq!(pair[1].sequence(), pair[0].sequence().wrapping_add(1), "sequence numbers step by one");
        assert_eq!(pair[1].timestamp().wrapping_sub(pair[0].timestamp()) % 960, 0, "timestamps follow the frames");
    }
    pieces
}

fn assert_heard(who: &str, said: &Path, heard: &Path) {
    let score = speech::score(said, heard, 0.0);
    println!("{who} heard {score:?}");
    assert!(score.similarity > 0.8, "{who} did not hear what was said: {score:?}");
}

/// All entries of a call's timeline, one a line.
async fn timeline(call_id: &str) -> String {
    let page = get_json(&format!("{EDGE}/calls/{call_id}/timeline")).await;
    let entries = page["entries"].as_array().cloned().unwrap_or_default();
    let line = |entry: &Value| format!("{} {} {}\n", entry["at_ms"], text(&entry["step"]), text(&entry["detail"]));
    let lines: String = entries.iter().map(line).collect();
    println!("{lines}");
    lines
}

/// No session, socket, timer or buffer, but for what SIP keeps for 32 s to answer repeated 2xx (RFC 6026 §7.2, Timer M).
async fn nothing_is_left() {
    let left =
        async || interop::left_behind(EDGE).await.iter().all(|gauge| gauge.starts_with("tandem_sip_")).then_some(());
    until("an empty gateway", 5, left).await;
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}
