//! What the feature `deep-plc` makes of losses: libopus's networks, and deep redundancy (DRED) where packets carry it.
//!
//! Compared is content: how far the levels of eight bands of the telephone's range are from those of the same packets without a loss.

mod common;
mod dred;

use common::{Kind, Speech, World};
use dred::DredEncoder;
use engine::bridge::LegName;
use engine::media::decode::{DECODED_SAMPLES_MAX, Decoder};
use engine::sdp::Codec;
use std::f64::consts::TAU;
use std::sync::OnceLock;

const CALLER: &[u8] = include_bytes!("../../control/standin/speech/caller-16k.wav");
const BURST: usize = 4;

fn speech() -> Vec<i16> {
    let data = CALLER.windows(4).position(|window| window == b"data").unwrap() + 8;
    CALLER[data..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// The caller's words with a second of redundancy in each packet.
fn redundant() -> &'static [Vec<u8>] {
    static PACKETS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    PACKETS.get_or_init(|| {
        let mut encoder = DredEncoder::new(40_000, 40, 20);
        speech().chunks_exact(320).map(|frame| encoder.encode(frame)).collect()
    })
}

/// The same without any.
fn plain() -> Vec<Vec<u8>> {
    let mut encoder = DredEncoder::new(32_000, 0, 0);
    speech().chunks_exact(320).map(|frame| encoder.encode(frame)).collect()
}

/// Every twelfth packet begins a burst of losses.
fn is_lost(index: usize) -> bool {
    index >= 12 && index % 12 < BURST
}

/// What a decoder makes of the packets.
fn decoded(packets: &[Vec<u8>], complexity: u8, is_lost: impl Fn(usize) -> bool) -> Vec<i16> {
    let mut decoder = Decoder::new(Codec::Opus);
    decoder.set_complexity(complexity);
    let mut heard = Vec::new();
    for (index, packet) in packets.iter().enumerate() {
        let mut out = [0; DECODED_SAMPLES_MAX];
        let next = (index..packets.len()).find(|&next| !is_lost(next));
        let samples = match next {
            Some(next) if next == index => decoder.decode(packet, &mut out).unwrap(),
            Some(next) if next == index + 1 => decoder.decode_fec(&packets[next], &mut out),
            Some(next) => decoder.conceal_before(&packets[next], (next - index) as u32 * 960, &mut out),
            None => decoder.conceal(&mut out),
        };
        assert_eq!(samples, 320);
        heard.extend_from_slice(&out[..samples]);
    }
    heard
}

/// Levels of eight bands of a frame, dB; everything below the line's noise is the same silence.
fn levels(frame: &[i16]) -> [f64; 8] {
    core::array::from_fn(|band| {
        let power: f64 = (0..6)
            .map(|part| 300.0 + 400.0 * (band as f64 + f64::from(part) / 6.0))
            .map(|hz| {
                let step = TAU * hz / 16_000.0;
                let (mut re, mut im) = (0.0, 0.0);
                for (n, &sample) in frame.iter().enumerate() {
                    re += f64::from(sample) * (step * n as f64).cos();
                    im += f64::from(sample) * (step * n as f64).sin();
                }
                (re * re + im * im) / (frame.len() * frame.len()) as f64
            })
            .sum();
        10.0 * (power + 10.0).log10()
    })
}

/// Mean distance in dB over the frames that were lost while somebody spoke.
fn distance(heard: &[i16], said: &[i16]) -> f64 {
    let frames = heard.chunks_exact(320).zip(said.chunks_exact(320)).enumerate();
    let each: Vec<f64> = frames
        .filter(|(index, (_, said))| is_lost(*index) && said.iter().any(|sample| sample.unsigned_abs() > 1_000))
        .map(|(_, (heard, said))| {
            levels(heard).iter().zip(levels(said)).map(|(heard, said)| (heard - said).abs()).sum::<f64>() / 8.0
        })
        .collect();
    assert!(each.len() > 20, "{}", each.len());
    each.iter().sum::<f64>() / each.len() as f64
}

#[test]
fn a_burst_is_brought_back_from_deep_redundancy() {
    let said = decoded(redundant(), 5, |_| false);
    let concealed = distance(&decoded(redundant(), 0, is_lost), &said);
    let recovered = distance(&decoded(redundant(), 5, is_lost), &said);
    assert!(recovered < 0.6 * concealed, "{recovered:.1} dB, {concealed:.1} dB without");
}

#[test]
fn packets_that_carry_none_are_concealed_by_the_network() {
    let packets = plain();
    let said = decoded(&packets, 5, |_| false);
    let (plain, deep) = (decoded(&packets, 0, is_lost), decoded(&packets, 5, is_lost));
    assert_ne!(plain, deep, "the network spoke");
    assert!(distance(&deep, &said) < distance(&plain, &said));
}

#[test]
fn what_is_no_opus_or_reaches_too_far_is_concealed() {
    let packets = redundant();
    let play = |next: &[u8], distance_ticks: u32| {
        let mut decoder = Decoder::new(Codec::Opus);
        let mut out = [0; DECODED_SAMPLES_MAX];
        for packet in &packets[..30] {
            decoder.decode(packet, &mut out).unwrap();
        }
        let samples = decoder.conceal_before(next, distance_ticks, &mut out);
        out[..samples].to_vec()
    };
    let concealed = play(&[], 960);
    assert_eq!(concealed.len(), 320);
    for (next, distance_ticks) in [(&[0x7b, 0xff, 0xff][..], 1_920), (&[0x48, 1], 1_920), (&packets[60], 96_000)] {
        assert_eq!(play(next, distance_ticks), concealed, "{distance_ticks}");
    }
    for distance_ticks in [0, u32::MAX] {
        assert_eq!(play(&packets[60], distance_ticks).len(), 320);
    }
}

#[test]
fn bursts_on_the_way_to_the_telephone_are_filled_from_what_comes_after_them() {
    let loudness = |complexity: u8, loses: bool| {
        let mut world = World::connected(1, Kind::WhatsApp(Codec::Opus), Kind::Rtp(Codec::Pcmu));
        world.bridge.set_complexity(complexity);
        let start = world.now;
        world.peers[0]
            .start(start, Speech::Payloads(|number| redundant()[number as usize % redundant().len()].clone()));
        for index in 0..redundant().len() {
            world.links[0].is_cut = loses && is_lost(index);
            world.run_ms(20);
        }
        let (pcm, _) = world.peers[1].decode_heard(start);
        world.assert_continuous(LegName::B, 160);
        pcm.iter().map(|sample| sample * sample).sum::<f64>()
    };
    let whole = loudness(5, false);
    let (plain, deep) = (loudness(0, true) / whole, loudness(5, true) / whole);
    assert!(
        deep > 0.75 && plain < deep - 0.1,
        "of the whole energy {deep:.2} was heard, {plain:.2} without the networks"
    );
}
