//! The example in `engine/examples/bridge.rs` does what its first lines say: another program's RTP goes in, the other codec comes out.

use engine::io::clock;
use engine::media::g711::Law;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn the_example_turns_mu_law_into_a_law_and_says_what_it_did() {
    // Examples are built beside the tests: target/PROFILE/examples.
    let folder = std::env::current_exe().unwrap().parent().and_then(|deps| deps.parent()).unwrap().join("examples");
    let (a, b) = (socket(), socket());
    b.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut child = Command::new(folder.join("bridge"))
        .arg(format!("{}/pcmu", a.local_addr().unwrap()))
        .arg(format!("{}/pcma", b.local_addr().unwrap()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example is built by cargo test");
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let port: u16 = line.split(" sends to ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();

    let loud = hear_a_tone(&a, &b, port);
    assert!(loud >= 10, "{loud} packets of the tone were heard as A-law");

    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("Closed") && rest.contains("packets_received"), "{rest}");
    assert!(child.wait().unwrap().success());
}

/// Speaks 440 Hz as PCMU into `port` until ten packets of it came out at `b`; answers how many did.
fn hear_a_tone(a: &UdpSocket, b: &UdpSocket, port: u16) -> usize {
    let (mut loud, begun) = (0, clock::now());
    let mut came = [0; 1500];
    for sequence in 0u16.. {
        let mut packet = vec![0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
        packet[2..4].copy_from_slice(&sequence.to_be_bytes());
        packet[4..8].copy_from_slice(&(u32::from(sequence) * 160).to_be_bytes());
        let phase = |n: u32| f64::from(u32::from(sequence) * 160 + n) * 440.0 / 8_000.0 * std::f64::consts::TAU;
        let tone: Vec<i16> = (0..160).map(|n| (phase(n).sin() * 8_000.0) as i16).collect();
        let mut codes = [0; 160];
        Law::Mu.encode(&tone, &mut codes);
        packet.extend(codes);
        a.send_to(&packet, ("127.0.0.1", port)).unwrap();
        // One packet comes every 20 ms, whatever we send: that is our clock.
        let len = b.recv(&mut came).expect("the bridge speaks");
        let mut heard = [0; 160];
        Law::A.decode(&came[12..len.min(172)], &mut heard[..len.min(172) - 12]);
        let energy: f64 = heard.iter().map(|&sample| f64::from(sample).powi(2)).sum();
        let is_tone = came[1] & 0x7f == 8 && len == 172 && ((energy / 160.0).sqrt() - 5_657.0).abs() < 600.0;
        loud += usize::from(is_tone);
        if loud == 10 || clock::now().since(begun) > PATIENCE {
            return loud;
        }
    }
    loud
}

#[expect(clippy::disallowed_methods, reason = "these are the peers' sockets")]
fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}
