//! The floor: what no gateway can save, and nothing else, on the same core, from the same generator.
//!
//! For each call two sockets, each connected to its peer: what comes in on one goes out on the other, in batches by io_uring. With a
//! complexity, Opus is decoded to 16 kHz in one direction and encoded from 8 kHz in the other, by libopus through the very settings
//! the gateway uses; without, bytes are passed on, which is the floor of a relay. No ICE, no SRTP, no jitter buffer, no RTP.

use super::corpus::Corpus;
use super::ring::{DATAGRAM_BYTES_MAX, Ring};
use anyhow::{Context, Result};
use std::io::{BufRead, Write};
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// What stands before and behind a payload: an RTP header and an authentication tag.
const HEADER_BYTES: usize = 12;
const TAG_BYTES: usize = 10;
/// 20 ms of mu-law.
const PCMU_BYTES: usize = 160;
/// The longest packet of Opus: 120 ms at 16 kHz.
const DECODED_SAMPLES_MAX: usize = 1_920;
/// Bit rate that the gateway codes at.
const BITRATE: i32 = 20_000;

struct Codec {
    decoder: opus::Decoder,
    encoder: opus::Encoder,
    /// The next frame to be encoded.
    at: usize,
}

/// Runs until standard input ends. `complexity`: `None` passes bytes on.
pub fn run(flows_max: usize, complexity: Option<i32>, folder: &Path) -> Result<()> {
    let corpus = complexity.map(|_| Corpus::load(folder)).transpose()?;
    let mut ring = Ring::new(2 * flows_max, false)?;
    let orders = orders();
    let mut codecs: Vec<Codec> = Vec::new();
    let (mut datagram, mut pcm) = ([0; DATAGRAM_BYTES_MAX], [0.0; DECODED_SAMPLES_MAX]);
    println!("ready");
    loop {
        // A call's two sockets have neighbouring numbers.
        while let Some(arrival) = ring.next(&mut datagram) {
            let (call, other) = (arrival.socket as usize / 2, arrival.socket ^ 1);
            if arrival.len <= HEADER_BYTES {
                continue;
            }
            let len = match codecs.get_mut(call) {
                None => arrival.len,
                Some(codec) if arrival.socket.is_multiple_of(2) => {
                    codec.decoder.decode_float(&datagram[HEADER_BYTES..arrival.len], &mut pcm, false)?;
                    HEADER_BYTES + PCMU_BYTES
                }
                Some(codec) => {
                    let speech = &corpus.as_ref().context("the speech")?.narrow;
                    let frame = &speech[codec.at * 160..][..160];
                    codec.at = (codec.at + 1) % (speech.len() / 160);
                    codec.encoder.encode(frame, &mut datagram[HEADER_BYTES..400])? + HEADER_BYTES + TAG_BYTES
                }
            };
            ring.send(other, None, &datagram[..len]);
        }
        loop {
            match orders.try_recv() {
                Ok(Some((call, peers))) => {
                    let ports = open(&mut ring, peers)?;
                    if let (Some(complexity), Some(corpus)) = (complexity, &corpus) {
                        codecs.push(codec(complexity, corpus.place(call as usize + corpus.frames() / 2))?);
                    }
                    println!("{} {}", ports[0], ports[1]);
                    std::io::stdout().flush()?;
                }
                Ok(None) => return Ok(()),
                Err(_) => break,
            }
        }
        ring.turn(1, Duration::from_millis(5))?;
    }
}

/// Reads call numbers and the peers' addresses on a thread of its own; `None` at the end.
fn orders() -> Receiver<Option<(u64, [SocketAddrV4; 2])>> {
    let (to, orders) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let mut words = line.split_whitespace();
            let call = words.next().and_then(|word| word.parse().ok());
            let peers: Vec<SocketAddrV4> = words.filter_map(|word| word.parse().ok()).collect();
            if let (Some(call), [a, b]) = (call, &peers[..]) {
                let _ = to.send(Some((call, [*a, *b])));
            }
        }
        let _ = to.send(None);
    });
    orders
}

fn open(ring: &mut Ring, peers: [SocketAddrV4; 2]) -> Result<[u16; 2]> {
    let mut ports = [0; 2];
    for (port, peer) in ports.iter_mut().zip(peers) {
        let (socket, bound) = ring.open(0)?;
        ring.connect(socket, peer)?;
        *port = bound;
    }
    Ok(ports)
}

fn codec(complexity: i32, at: usize) -> Result<Codec> {
    let mut encoder = opus::Encoder::new(8_000, opus::Channels::Mono, opus::Application::Voip)?;
    encoder.set_complexity(complexity)?;
    encoder.set_bitrate(opus::Bitrate::Bits(BITRATE))?;
    encoder.set_vbr(true)?;
    encoder.set_vbr_constraint(true)?;
    encoder.set_inband_fec(false)?;
    encoder.set_dtx(false)?;
    Ok(Codec { decoder: opus::Decoder::new(16_000, opus::Channels::Mono)?, encoder, at })
}
