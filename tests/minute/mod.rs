//! A minute in real time: an SDES trunk whose sequence numbers begin a few seconds before their rollover, and browsers. What the
//! browsers' encoders and packet receivers hold is compared with what the trunk sent and got, byte for byte, through a hold, a key
//! and a transfer.
//!
//! Why a trunk of our own making: telephones and browsers begin below 32,768, so that no rollover comes in a minute. Its SRTP is the
//! crate `webrtc-srtp`, its TLS is openssl's program, and the other end is Chromium, tapped before its jitter buffer and behind its encoder.

use crate::interop::line::{Caller, Line};
use crate::interop::sdes::{FIRST_SEQUENCE, Heard, Noise, Trunk};
use crate::interop::softphone::{PAGES, Softphone, pages, tandem};
use crate::interop::{HOST, in_namespace_beside_others, speech, until};
use std::path::Path;
use std::time::Duration;

/// Frames of 20 ms that may be missing on one side around a hold, a key or a transfer: nobody hears anything there.
const SEAM_FRAMES_MAX: usize = 200;

/// The least that must have passed each way, of 3,000 frames.
const FRAMES_MIN: usize = 2_400;

/// What the gateway says where the other side says nothing yet: a frame of Opus without sound. Neither encoder here makes it.
const SILENCE: &str = "f8fffe";

/// Frames of it, one way: around the beginning, the hold and the transfer.
const OWN_SILENCE_MAX: usize = 50;

const CALLER: Caller = Caller { host: HOST, call_id: "passthrough", headers: "" };

/// An encoded frame in a browser: payload in hexadecimal, sequence number (-1 before it has one) and timestamp.
type Frame = (String, i64, u32);

#[test]
fn a_minute_passes_byte_for_byte_through_rollover_hold_key_and_transfer() {
    const NAME: &str = "minute::a_minute_passes_byte_for_byte_through_rollover_hold_key_and_transfer";
    in_namespace_beside_others(NAME, async |folder| {
        let config = format!(
            "[trunks.carrier]\nhost = \"{HOST}\"\nport = 5071\ntransport = \"tls\"\nverify_certificate = false\nmedia = \"sdes\"\n\
             codecs = [\"opus\"]\ntranscoding = false\nallowed_sources = [\"{HOST}\"]\nnumber = \"+441632960000\"\nto = \"user:alice\"\n"
        );
        let mut gateway = tandem(folder, &config).await;
        pages().await;
        let alice = phone(folder, "jssip", "alice").await;
        let bob = phone(folder, "sipjs", "bob").await;

        let mut line = Line::open(&format!("{HOST}:5061"), CALLER).await;
        let trunk = Trunk::new(HOST).await;
        let answer = async {
            alice.expect("incoming +447700900123").await;
            alice.act("answer()").await;
        };
        let offer = trunk.offer(HOST);
        let (described, ()) = tokio::join!(line.call("+441632960009", &offer), answer);
        let sending = trunk.start(&described, Noise::new(), false);
        alice.expect("confirmed").await;

        wait_s(20).await;
        alice.act("hold()").await;
        alice.expect("hold local").await;
        wait_s(2).await;
        alice.act("unhold()").await;
        alice.expect("unhold local").await;
        alice.act("digit('5')").await;
        wait_s(12).await;
        alice.act("transfer('bob')").await;
        bob.expect("incoming").await;
        bob.act("answer()").await;
        bob.expect("confirmed").await;
        alice.expect("transferred").await;
        wait_s(25).await;

        let (sent, heard) = sending.stop().await;
        line.hang_up().await;
        bob.expect("ended").await;
        until("no bridge left", 20, async || {
            let text = reqwest::get(format!("{PAGES}/metrics")).await.expect("metrics").text().await.expect("a body");
            text.lines().any(|line| line == "engine_bridges_open 0").then_some(())
        })
        .await;
        assert_eq!(line.requests, [""; 0], "the trunk heard of what is not its business");
        let log = gateway.output();
        assert!(log.contains("Opus, passed through"), "{log}");
        assert!(gateway.is_running());

        let (at_alice, at_bob) = (alice.browser.tapped("heard").await, bob.browser.tapped("heard").await);
        let (from_alice, from_bob) = (alice.browser.tapped("sent").await, bob.browser.tapped("sent").await);
        check_browsers(&sent, &[&at_alice, &at_bob]);
        check_trunk(&heard, &[&from_alice, &from_bob]);
    });
}

/// A browser whose encoded frames are kept.
async fn phone(folder: &Path, library: &str, user: &str) -> Softphone {
    let said = speech::speak(folder, user, "en-gb", "The birch canoe slid on the smooth planks.", &[48_000]);
    Softphone::tapped(folder, &said[0], library, user).await
}

async fn wait_s(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// What the browsers got is what the trunk sent, in order and without a gap but at the seams; sequence and timestamp step as the trunk's.
fn check_browsers(sent: &[Vec<u8>], browsers: &[&[Frame]; 2]) {
    let sent: Vec<String> = sent.iter().map(|payload| hex(payload)).collect();
    let rollover = usize::from(u16::MAX - FIRST_SEQUENCE) + 1;
    let (mut at, mut seams, mut total, mut own) = (0, 0, 0, 0);
    for (number, frames) in browsers.iter().enumerate() {
        let mut before: Option<(usize, i64, u32)> = None;
        for (payload, sequence, timestamp) in frames.iter() {
            if payload == SILENCE {
                own += 1;
                before = before.map(|(place, sequence, timestamp)| (place, (sequence + 1) & 0xffff, timestamp));
                continue;
            }
            let place = position(&sent, at, payload)
                .unwrap_or_else(|| panic!("browser {number} got a payload that was not sent at {at} or soon after"));
            if let Some((last, last_sequence, last_timestamp)) = before {
                assert_eq!((sequence - last_sequence) & 0xffff, 1, "frame {place} at browser {number}");
                let step = timestamp.wrapping_sub(last_timestamp);
                // A seam is a step of time and not of sequence.
                assert!(
                    step.is_multiple_of(960) && (step == 960 || place > last + 1),
                    "frame {place}: a step of {step}"
                );
                seams += usize::from(place > last + 1);
            }
            before = Some((place, *sequence, *timestamp));
            (at, total) = (place + 1, total + 1);
        }
    }
    println!("trunk to browsers: {total} of {} payloads, {seams} seams, {own} of silence", sent.len());
    assert!(seams == 1 && own <= OWN_SILENCE_MAX, "{seams} gaps where one hold is, {own} frames of silence");
    assert!(
        total >= FRAMES_MIN && at > rollover + 1_500,
        "{total} frames, the last is {at}, the rollover was at {rollover}"
    );
}

/// What the trunk got is what the browsers' encoders made, in order and without a gap but at the seams; its own stream has none at all.
fn check_trunk(heard: &[Heard], browsers: &[&[Frame]; 2]) {
    for (index, pair) in heard.windows(2).enumerate() {
        let (before, after) = (&pair[0], &pair[1]);
        assert_eq!(
            after.sequence.wrapping_sub(before.sequence),
            1,
            "the stream to the trunk has a gap: packet {index} of {}, {} at {} and {} at {}",
            heard.len(),
            before.sequence,
            before.timestamp,
            after.sequence,
            after.timestamp
        );
        assert_eq!(pair[1].ssrc, pair[0].ssrc, "the stream to the trunk changed its source");
    }
    let made: Vec<String> = browsers.iter().flat_map(|frames| frames.iter().map(|frame| frame.0.clone())).collect();
    let (mut at, mut seams, mut total, mut own) = (0, 0, 0, 0);
    let mut before: Option<(usize, u32)> = None;
    for packet in heard.iter().filter(|packet| !packet.is_event) {
        let payload = hex(&packet.payload);
        if payload == SILENCE {
            own += 1;
            continue;
        }
        let place = position(&made, at, &payload)
            .unwrap_or_else(|| panic!("the trunk got a payload that no browser made at {at} or soon after"));
        if let Some((last, timestamp)) = before {
            let step = packet.timestamp.wrapping_sub(timestamp);
            let is_seam = place > last + 1 || step != 960;
            assert!(step > 0 && step.is_multiple_of(960), "a step of {step} before frame {place}");
            seams += usize::from(is_seam);
        }
        before = Some((place, packet.timestamp));
        (at, total) = (place + 1, total + 1);
    }
    println!("browsers to trunk: {total} of {} payloads, {seams} seams, {own} of silence", made.len());
    assert!(
        seams <= 2 && own <= OWN_SILENCE_MAX,
        "{seams} gaps where a key and a transfer are, {own} frames of silence"
    );
    assert!(total >= FRAMES_MIN, "{total} frames");
    check_key(heard);
}

/// One key, from its first packet to its third end (RFC 4733 §2.5.1).
fn check_key(heard: &[Heard]) {
    let events: Vec<&Heard> = heard.iter().filter(|packet| packet.is_event).collect();
    let first = events.first().expect("a key at the trunk");
    assert!(first.marker && first.payload[..2] == [5, 10], "the key begins with {first:?}");
    assert!(events.iter().all(|packet| packet.payload[0] == 5 && packet.timestamp == first.timestamp));
    let durations: Vec<u16> = events.iter().map(|e| u16::from_be_bytes([e.payload[2], e.payload[3]])).collect();
    let ends = events.iter().filter(|packet| packet.payload[1] & 0x80 != 0).count();
    assert!(durations.is_sorted() && durations[0] == 160 && ends == 3, "{durations:?}, {ends} ends");
}

/// Where `payload` stands in `all`, from `at` on, a seam's length at most.
fn position(all: &[String], at: usize, payload: &str) -> Option<usize> {
    let window = if at == 0 { all } else { &all[at.min(all.len())..(at + SEAM_FRAMES_MAX).min(all.len())] };
    window.iter().position(|other| other == payload).map(|found| if at == 0 { found } else { at + found })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
