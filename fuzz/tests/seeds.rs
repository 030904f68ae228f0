//! Writes the first inputs of the corpus: what honest peers say, captured from the engine's own legs.
//!
//! Not a test but a tool: `cargo test -p fuzz --test seeds -- --ignored`. DTLS draws fresh keys, so its output differs per run;
//! what is checked in is one of them.

use engine::dtls::{DtlsOutput, DtlsRole, DtlsSession, DtlsVersions, Identity};
use engine::random::Random;
use engine::rtp::header::{self, HEADER_BYTES};
use engine::rtp::rtcp::{Reception, Rtcp};
use engine::rtp::sender::RtpSender;
use engine::time::{Instant, RtpTimestamp, WallAnchor};
use fuzz::script::push_chunk;
use fuzz::stun::{LOCAL_PWD, REMOTE_PWD, signed_message};
use std::path::Path;

const NOW: Instant = Instant::from_millis(1_000);

fn save(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&folder).expect("a folder for the corpus");
    std::fs::write(folder.join(name), bytes).expect("a writable corpus");
}

/// Bytes, and a chunk behind them.
fn step(script: &mut Vec<u8>, choices: &[u8], chunk: &[u8]) {
    script.extend_from_slice(choices);
    push_chunk(script, chunk);
}

fn rtp(payload_type: u8, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; HEADER_BYTES];
    header::write(sequence == 0, payload_type, sequence, RtpTimestamp(u32::from(sequence) * 160), 7, &mut packet);
    packet.extend_from_slice(payload);
    packet
}

fn report(bye: bool) -> Vec<u8> {
    let mut random = Random::from_test_seed(1);
    let mut sender = RtpSender::new(7, 8_000, &mut random);
    let mut out = [0; 1_500];
    sender.audio(NOW, 0, true, 160, 160, &mut out);
    let mut reception = Reception::new(8_000);
    reception.received(NOW, 9, 1, RtpTimestamp(160));
    reception.received(NOW, 9, 3, RtpTimestamp(480));
    let mut rtcp = Rtcp::new(NOW, "seed".to_owned(), WallAnchor { ntp_at_zero: 0xe000_0000_0000_0000 }, random);
    let len = match bye {
        true => rtcp.write_bye(NOW, Some(&sender), &mut reception, 7, &mut out),
        false => rtcp.write_report(NOW, Some(&sender), &mut reception, 7, &mut out),
    };
    out[..len].to_vec()
}

/// USERNAME, PRIORITY, a role with its tie-breaker, and USE-CANDIDATE if nominating.
fn check(controlling: bool, nominate: bool) -> Vec<u8> {
    let mut attributes = vec![0, 6, 0, 9];
    attributes.extend_from_slice(b"lufr:rufr\0\0\0");
    attributes.extend_from_slice(&[0, 0x24, 0, 4, 0x6e, 0, 1, 0xff]);
    attributes.extend_from_slice(&[0x80, if controlling { 0x2a } else { 0x29 }, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1]);
    if nominate {
        attributes.extend_from_slice(&[0, 0x25, 0, 0]);
    }
    attributes
}

/// XOR-MAPPED-ADDRESS of 192.0.2.1:10000.
const MAPPED: [u8; 12] = [0, 0x20, 0, 8, 0, 1, 0x06, 0x02, 0xe1, 0x12, 0xa6, 0x43];

fn stun() {
    for (role, name) in [(0, "lite"), (1, "controlling"), (2, "controlled")] {
        // A description with two candidates, a check that nominates, answers to ours, consent for a while.
        let mut script = vec![role, 1, 8 | u8::from(role == 1)];
        step(&mut script, &[3, 0, 0, 200], &check(true, true));
        for _ in 0..4 {
            step(&mut script, &[3, 0, 1, 0], &MAPPED);
            script.extend_from_slice(&[0, 50]);
        }
        script.extend_from_slice(&[0, 255, 0, 200]);
        step(&mut script, &[3, 0, 1, 0], &MAPPED);
        step(&mut script, &[3, 0, 3, 201], &[]);
        save("stun", name, &script);
        // Conflicts, errors, strangers, unknown attributes, a check before the description.
        let mut script = vec![role];
        step(&mut script, &[3, 0, 0, 200], &check(role == 1, false));
        script.extend_from_slice(&[1, 8]);
        step(&mut script, &[3, 0, 2, 0], &[0, 9, 0, 4, 0, 0, 4, 87]);
        step(&mut script, &[3, 200, 0, 201], &[&check(true, true)[..], &[0x7f, 0xff, 0, 4, 1, 2, 3, 4]].concat());
        step(&mut script, &[2, 0], &signed_message(1, &[1; 12], &check(true, true), REMOTE_PWD));
        step(&mut script, &[2, 40], &signed_message(1, &[2; 12], &check(true, true), LOCAL_PWD));
        script.extend_from_slice(&[0, 255, 0, 255]);
        save("stun", &format!("{name}-trouble"), &script);
    }
}

/// The flights of a whole handshake, as datagrams.
fn handshake(versions: DtlsVersions) -> [Vec<Vec<u8>>; 2] {
    let identity = Identity::generate_for_simulation(1).expect("a certificate");
    let session = |role| DtlsSession::new(NOW, &identity, role, versions, identity.fingerprint());
    let mut sides = [session(DtlsRole::Client), session(DtlsRole::Server)];
    let mut said = [Vec::new(), Vec::new()];
    for _ in 0..8 {
        for index in 0..2 {
            let mut out = [0; 1_500];
            loop {
                match sides[index].poll_output(NOW, &mut out) {
                    DtlsOutput::Transmit(len) => {
                        sides[1 - index].handle_datagram(NOW, &out[..len]);
                        said[index].push(out[..len].to_vec());
                    }
                    DtlsOutput::Connected { .. } => {}
                    DtlsOutput::Timeout(_) => break,
                    DtlsOutput::Ended(cause) => panic!("{cause:?}"),
                }
            }
        }
    }
    said
}

fn dtls() {
    for (number, versions, name) in [(1, DtlsVersions::V12, "12"), (2, DtlsVersions::V13, "13")] {
        let [client, server] = handshake(versions);
        for (role, flights, who) in [(0, &client, "server"), (1, &server, "client")] {
            let mut script = vec![role, number];
            for flight in flights {
                step(&mut script, &[1], flight);
            }
            save("dtls", &format!("{who}-{name}-replayed"), &script);
            // An honest peer: up, a wait, a damaged and a cut flight.
            save("dtls", &format!("{who}-{name}-honest"), &[role, number, 7, 0, 255, 7]);
            let damaged = [role, number, 3, 1, 4, 0, 40, 1, 0, 140, 7, 5, 0, 60, 0, 160, 6, 7, 0, 200, 7];
            save("dtls", &format!("{who}-{name}-damaged"), &damaged);
        }
    }
    for (role, who) in [(0, "server"), (1, "client")] {
        save("dtls", &format!("{who}-openssl-honest"), &[role, 3, 7, 0, 255, 7]);
        let damaged = [role, 3, 3, 1, 4, 0, 40, 1, 0, 140, 7, 5, 0, 60, 0, 160, 6, 7, 0, 200, 7];
        save("dtls", &format!("{who}-openssl-damaged"), &damaged);
    }
    save("dtls", "auto", &[0, 0, 7, 0, 255, 7]);
    save("dtls", "alert", &[0, 0, 1, 15, 21, 254, 253, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 2, 40, 7]);
}

fn media() {
    save("rtp_header", "pcmu", &rtp(0, 1, &[0xff; 20]));
    let mut extended = rtp(111, 2, &[0xbe, 0xde, 0, 1, 0x10, 0x80, 0, 0, 0xf8, 1, 2, 0, 0, 3]);
    extended[0] = 0xb0;
    save("rtp_header", "extension-and-padding", &extended);
    let mut contributors = rtp(111, 3, &[1, 1, 1, 1, 2, 2, 2, 2, 0xf8]);
    contributors[0] = 0x82;
    save("rtp_header", "contributors", &contributors);
    for bye in [false, true] {
        let mut script = vec![0];
        step(&mut script, &[1], &report(bye));
        script.extend_from_slice(&[2, 9, 0, 1, 0, 0, 0, 160, 0, 20, 2, 9, 0, 2, 0, 0, 1, 64, 0, 255, 3, 0]);
        step(&mut script, &[1], &[report(bye), report(false)].concat());
        script.extend_from_slice(&[3, 1]);
        save("rtcp", if bye { "bye" } else { "report" }, &script);
    }
    let mut key = vec![0];
    for (waited, timestamp, flags, ticks) in
        [(0, 1, 10, 160), (20, 1, 10, 320), (20, 1, 0x8a, 480), (0, 1, 0x8a, 480), (100, 9, 10, 160), (255, 20, 10, 1)]
    {
        key.push(waited);
        key.extend_from_slice(&u32::to_be_bytes(timestamp));
        let [high, low] = u16::to_be_bytes(ticks);
        push_chunk(&mut key, &[5, flags, high, low]);
    }
    save("telephone_event", "keys", &key);
    for profile in 0..3 {
        let mut script = vec![profile];
        for sequence in [1, 2, 5, 4, 2, 65_535] {
            step(&mut script, &[2], &rtp(0, sequence, &[0x55; 20]));
        }
        step(&mut script, &[3], &report(false));
        step(&mut script, &[0], &rtp(0, 9, &[0x55; 40]));
        step(&mut script, &[1], &report(true));
        step(&mut script, &[6], &rtp(0, 10, &[0x55; 20]));
        script.extend_from_slice(&[0, 20, 1]);
        save("srtp", &format!("profile-{profile}"), &script);
    }
}

fn sip() {
    const PLACE: &[u8] = &[2, 0, 0];
    const RING: &[u8] = &[4, 0, 1, 0, 1];
    const ANSWER: &[u8] = &[4, 0, 3, 0, 0];
    const CHALLENGE: &[u8] = &[4, 0, 8, 0, 1];
    const OK: &[u8] = &[4, 0, 3, 0, 1];
    const HANG_UP: &[u8] = &[3, 0, 5];
    const ACCEPT_REINVITE: &[u8] = &[3, 0, 6];
    // The peer's requests: the method's place, CSeq, and with ACK and CANCEL whether the branch is that of what we said last.
    const BYE: &[u8] = &[6, 0, 0, 9, 1];
    const INFO: &[u8] = &[6, 0, 4, 7, 0];
    const UPDATE: &[u8] = &[6, 0, 6, 8, 2];
    const REINVITE: &[u8] = &[6, 0, 2, 5, 6];
    const REINVITE_ACK: &[u8] = &[6, 0, 1, 5, 1, 1];
    const INVITE: &[u8] = &[11, 0, 1, 0];
    const INVITE_ACK: &[u8] = &[6, 0, 1, 0, 1, 1];
    const CANCEL: &[u8] = &[6, 0, 3, 0, 0, 1];
    const RING_THEM: &[u8] = &[3, 0, 0];
    const ACCEPT: &[u8] = &[3, 0, 2];
    const RESOLVE: &[u8] = &[9, 1];
    let save_script = |name: &str, choice: u8, steps: &[&[u8]]| {
        save("sip_agent", name, &[&[choice][..], &steps.concat()].concat());
    };
    let outgoing =
        [PLACE, CHALLENGE, RING, ANSWER, REINVITE, ACCEPT_REINVITE, REINVITE_ACK, INFO, UPDATE, BYE, &[0, 200]];
    save_script("outgoing", 0, &outgoing);
    // Two branches of a fork answer behind a proxy that has a name.
    let forked =
        [PLACE, RING, &[4, 0, 3, 0, 2], RESOLVE, &[4, 1, 3, 1, 0], &[4, 2, 3, 0, 2], &[0, 150], HANG_UP, RESOLVE, OK];
    save_script("outgoing-forked", 0, &forked);
    let named = [&[2, 1, 0][..], RESOLVE, CHALLENGE, RESOLVE, ANSWER, HANG_UP, OK, &[0, 255]];
    save_script("outgoing-named", 0, &named);
    save_script("outgoing-cancelled", 0, &[PLACE, RING, HANG_UP, OK, &[4, 1, 12, 0, 1], &[0, 255]]);
    save_script("outgoing-refused", 0, &[PLACE, &[4, 0, 11, 0, 1], &[0, 150, 10, 255]]);
    let timed = [&[4, 0, 3, 0, 8, 0][..], &[16], b"90;refresher=uac"].concat();
    save_script("outgoing-session-timer", 0, &[PLACE, &timed, &[10, 200], ANSWER, &[10, 255, 10, 255], OK, &[10, 255]]);
    // The refresh that is due after 45 s hears nothing but 100.
    save_script("outgoing-refresh-tried", 0, &[PLACE, &timed, &[10, 183], &[4, 0, 0, 0, 1], HANG_UP, OK]);
    let incoming = [INVITE, RING_THEM, ACCEPT, INVITE_ACK, REINVITE, ACCEPT_REINVITE, REINVITE_ACK, INFO, HANG_UP, OK];
    save_script("incoming", 0, &incoming);
    save_script("incoming-cancelled", 0, &[INVITE, RING_THEM, CANCEL, &[0, 50, 6, 0, 1, 0, 0, 1, 0, 255]]);
    save_script("incoming-challenged", 1, &[INVITE, INVITE_ACK, &[8, 0, 0, 20, 1, 0, 255]]);
    save_script("incoming-unacknowledged", 0, &[INVITE, ACCEPT, &[10, 255, 10, 255]]);
    let options = b"OPTIONS sip:gw@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK1;rport\r\n\
        Max-Forwards: 70\r\nFrom: <sip:p@192.0.2.2>;tag=1\r\nTo: <sip:gw@192.0.2.1>\r\nCall-ID: o\r\nCSeq: 1 OPTIONS\r\n\r\n";
    let mut script = vec![0];
    step(&mut script, &[1], options);
    step(&mut script, &[1], b"\r\n\r\n");
    save("sip_agent", "options", &script);
    // Challenged at the door, over each kind of stream; the connection is lost and the peer comes back.
    const REGISTER: &[u8] = &[15, 0, 1, 0];
    const REGISTER_AGAIN: &[u8] = &[15, 0, 2, 4];
    const INVITE_AGAIN: &[u8] = &[11, 1, 2, 4];
    const LOSE: &[u8] = &[12, 0];
    for (name, choice) in [("peer-over-tcp", 1 | 1 << 2), ("peer-over-wss", 1 | 4 << 2)] {
        let steps =
            [REGISTER, REGISTER_AGAIN, INVITE, INVITE_AGAIN, RING_THEM, ACCEPT, INVITE_ACK, LOSE, INFO, HANG_UP, OK];
        save_script(name, choice, &steps);
    }
    // Over TLS: an offer of ours, a key, a transfer each way, and nobody reachable at the end.
    let asked: [&[u8]; 4] = [&[13, 0, 0], ANSWER, &[13, 0, 1], &[4, 0, 3, 0, 1]];
    let transfers: [&[u8]; 5] = [&[13, 0, 2], OK, &[6, 0, 7, 9, 4], &[6, 0, 9, 10, 0], &[13, 0, 3, 1]];
    let steps = [&[PLACE, ANSWER][..], &asked, &transfers, &[&[12, 1], HANG_UP, &[12, 1]]].concat();
    save_script("outgoing-transfers", 2 << 2, &steps);
    // Reliable provisional responses, theirs and ours.
    save_script("outgoing-reliable", 0, &[&[2, 0, 4], &[4, 0, 1, 0, 32, 1], OK, &[4, 1, 3, 0, 0], HANG_UP, OK]);
    let prack: &[u8] = &[6, 0, 8, 2, 1];
    save_script("incoming-reliable", 0, &[&[11, 0, 1, 2], &[3, 0, 1], prack, ACCEPT, INVITE_ACK, HANG_UP, OK]);
    // A registration that is challenged, refreshed and taken back; a watch that hears an answer and then nothing.
    let enlisted: [&[u8]; 7] =
        [&[14, 0, 0], &[4, 0, 7, 0, 1], OK, &[14, 2, 1], RESOLVE, OK, &[10, 255, 10, 255, 14, 4, 14, 5]];
    save_script("registration-and-watch", 0, &enlisted);
    stream();
}

fn stream() {
    let message = |length: &str, body: &str| {
        format!(
            "INFO sip:gw@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.2;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
            From: <sip:p@192.0.2.2>;tag=1\r\nTo: <sip:gw@192.0.2.1>\r\nCall-ID: s\r\nCSeq: 1 INFO\r\n{length}\r\n{body}"
        )
    };
    let whole = message("Content-Length: 8\r\n", "Signal=5");
    let save_pieces = |name: &str, pieces: &[&str]| {
        let mut script = Vec::new();
        pieces.iter().for_each(|piece| step(&mut script, &[], piece.as_bytes()));
        save("sip_stream", name, &script);
    };
    save_pieces("keep-alives", &["\r\n", "\r\n", &whole, "\r\n\r\n", "\r\n", &whole]);
    save_pieces("pieces", &[&whole[..30], &whole[30..200], &whole[200..], &message("l: 0\r\n", ""), &whole]);
    save_pieces("no-length", &[&message("", "Signal=5\r\n"), &whole]);
    save_pieces("two-lengths", &[&whole, &message("Content-Length: 8\r\nl: 9\r\n", "Signal=5")]);
    save_pieces("not-sip", &["GET / HTTP/1.1\r\n\r\n"]);
}

fn bridge() {
    for kinds in 0..4u8 {
        // Up, released, talk, a key each way, strangers on every port, a payload of the peer's, time, an end.
        let mut script = vec![kinds, 4, 0, 255, 7, 0, 5, 40, 0x78, 8, 5, 1, 0, 0, 0, 100, 0, 8, 7, 0, 0, 0, 0, 100, 0];
        for port in 0..4 {
            step(&mut script, &[1, port, 0], &rtp(0, 77, &[1; 40]));
            step(&mut script, &[1, port, 0], &report(true));
            step(&mut script, &[1, port, 150], &signed_message(1, &[3; 12], &check(true, true), LOCAL_PWD));
            step(&mut script, &[1, port, 250], &[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        }
        step(&mut script, &[3, 0, 4], &[0xf8, 1, 2, 3]);
        step(&mut script, &[3, 1, 1], &[5, 0x8a, 1, 224]);
        step(&mut script, &[2, 1, 0, 0, 1, 0, 0, 0, 1], &[0xff; 160]);
        script.extend_from_slice(&[5, 30, 0x48, 9, 1, 0, 200, 12, 255]);
        save("bridge", &format!("call-{kinds}"), &script);
        // Disturbed set-up, descriptions that come late, move and change, and silence until the end.
        let mut script = vec![kinds, 4 | 32, 10, 3, 3, 0, 30, 1, 0, 150, 10, 1, 2, 0, 170, 6, 1, 0, 0, 200, 10, 2, 9];
        script.extend_from_slice(&[5, 20, 0x0c, 6, 1, 2, 2, 8, 5, 20, 3, 6, 0, 0x80, 6, 1, 1, 0x75, 0x32, 5, 30, 1]);
        script.extend_from_slice(&[6, 1, 24, 5, 20, 9, 10, 4, 200, 0, 11, 0, 255, 0, 255, 0, 255]);
        save("bridge", &format!("changes-{kinds}"), &script);
        // ICE restarts on both legs: offered and taken back, followed before and after the description, with another certificate, and
        // a peer that closes DTLS.
        let mut script = vec![kinds, 4, 0, 255, 7, 0, 5, 40, 0x78];
        for (seed, choices) in [1, 0, 7, 3, 5, 23, 15].into_iter().enumerate() {
            for leg in [0, 1] {
                script.extend_from_slice(&[12, 0xe0, leg, choices, seed as u8, 5, 20, 0x0c, 0, 40]);
            }
        }
        script.extend_from_slice(&[9, 0, 0, 20, 5, 20, 0x78, 0, 200]);
        save("bridge", &format!("restarts-{kinds}"), &script);
    }
}

#[test]
#[ignore = "writes into the corpus"]
fn write_the_first_inputs() {
    stun();
    dtls();
    media();
    sip();
    bridge();
}
