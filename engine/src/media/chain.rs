//! Tests of the whole way of the audio, both directions, with the speech that the demonstration plays.
//!
//! What is compared is content and level, frame by frame: a chain that plays noise of the right level fails, and so does one that plays
//! the right words at the wrong level.

use super::decode::{DECODED_SAMPLES_MAX, Decoder};
use super::encode::{ENCODED_BYTES_MAX, Encoder, FRAME_SAMPLES};
use super::jitter::{Arriving, JitterBuffer, Playout};
use super::resample::Decimator;
use crate::limits::JITTER_PAYLOAD_BYTES_MAX;
use crate::rtp::sequence::ExtendedSequence;
use crate::sdp::{Codec, OpusParameters};
use crate::time::{Instant, RtpTimestamp};
use ::opus::{Application, Bitrate, Channels};
use std::f64::consts::TAU;

const CALLER: &[u8] = include_bytes!("../../../control/standin/speech/caller-16k.wav");
const GREETING: &[u8] = include_bytes!("../../../control/standin/speech/greeting-8k.wav");

/// Samples of a plain WAV file.
fn samples(wav: &[u8]) -> Vec<i16> {
    let data = wav.windows(4).position(|window| window == b"data").unwrap() + 8;
    wav[data..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

fn level(pcm: &[i16]) -> f64 {
    (pcm.iter().map(|&sample| f64::from(sample).powi(2)).sum::<f64>() / pcm.len() as f64).sqrt()
}

fn gain_db(heard: &[i16], said: &[i16]) -> f64 {
    20.0 * (level(heard) / level(said)).log10()
}

fn correlation(a: &[i16], b: &[i16]) -> f64 {
    let product: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    product / (level(a) * level(b) * a.len().min(b.len()) as f64)
}

/// The delay of `heard` behind `said`, up to `delay_max` samples, at which they are most alike, and how alike they are there.
fn alignment(heard: &[i16], said: &[i16], delay_max: usize) -> (usize, f64) {
    let length = heard.len().min(said.len()) - delay_max;
    (0..delay_max)
        .map(|delay| (delay, correlation(&heard[delay..delay + length], &said[..length])))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap()
}

/// What a browser sends: 48 kHz stereo, 20 ms, made from 16 kHz speech by linear interpolation (what that adds lies above 8 kHz).
fn from_browser(speech: &[i16], bitrate: i32) -> Vec<Vec<u8>> {
    let mut encoder = ::opus::Encoder::new(48_000, Channels::Stereo, Application::Voip).unwrap();
    encoder.set_bitrate(Bitrate::Bits(bitrate)).unwrap();
    encoder.set_inband_fec(true).unwrap();
    encoder.set_packet_loss_perc(10).unwrap();
    let stereo: Vec<i16> = speech
        .windows(2)
        .flat_map(|pair| {
            let (from, to) = (i32::from(pair[0]), i32::from(pair[1]));
            (0..3).map(move |third| (from + (to - from) * third / 3) as i16)
        })
        .flat_map(|sample| [sample, sample])
        .collect();
    stereo.chunks_exact(1_920).map(|frame| encoder.encode_vec(frame, 1_276).unwrap()).collect()
}

/// The way from Opus to PCMU and, for comparison, on to linear; packets for which `lost` says so do not arrive.
fn through_playout(packets: &[Vec<u8>], lost: impl Fn(usize) -> bool) -> Vec<i16> {
    let mut jitter = JitterBuffer::new(48_000);
    let (mut decoder, mut decimator) = (Decoder::new(Codec::Opus), Decimator::new());
    let (mut encoder, mut far_end) = (Encoder::new(Codec::Pcmu, &OpusParameters::default()), Decoder::new(Codec::Pcmu));
    let mut heard = Vec::new();
    for (index, packet) in packets.iter().enumerate() {
        let now = Instant::from_millis(index as u64 * 20);
        if !lost(index) {
            let kind = decoder.kind(packet);
            let (sequence, timestamp) = (ExtendedSequence(70_000 + index as u64), RtpTimestamp(index as u32 * 960));
            jitter.insert(now, &Arriving { sequence, timestamp, ticks: 960, payload: packet, kind }).unwrap();
        }
        let (mut wide, mut out) = ([0; DECODED_SAMPLES_MAX], [0; JITTER_PAYLOAD_BYTES_MAX]);
        // Two packets behind: the one after a lost one is always there.
        let decoded = match index.checked_sub(2).map(|_| jitter.pop(now, &mut out)) {
            Some(Playout::Packet(payload)) => decoder.decode(payload, &mut wide).unwrap(),
            Some(Playout::Recover { next, .. }) => decoder.decode_fec(next, &mut wide),
            Some(Playout::Missing { .. } | Playout::Late) => decoder.conceal(&mut wide),
            Some(Playout::Overdue(_) | Playout::Empty) | None => continue,
        };
        let mut narrow = [0; FRAME_SAMPLES];
        assert_eq!(decimator.resample(&wide[..decoded], &mut narrow), FRAME_SAMPLES);
        let mut payload = [0; ENCODED_BYTES_MAX];
        let len = encoder.encode(&narrow, &mut payload);
        let mut linear = [0; DECODED_SAMPLES_MAX];
        let samples = far_end.decode(&payload[..len], &mut linear).unwrap();
        heard.extend_from_slice(&linear[..samples]);
    }
    heard
}

fn halved(speech: &[i16]) -> Vec<i16> {
    let mut out = vec![0; speech.len() / 2];
    Decimator::scalar().resample(&speech[..speech.len() & !1], &mut out);
    out
}

#[test]
fn speech_from_a_browser_reaches_the_telephone_with_its_words_and_level() {
    let speech = samples(CALLER);
    let said = halved(&speech);
    for (bitrate, least) in [(20_000, 0.85), (64_000, 0.95)] {
        let heard = through_playout(&from_browser(&speech, bitrate), |_| false);
        let (delay, alike) = alignment(&heard, &said, 400);
        assert!(alike > least, "{bitrate}: {alike:.3} at {delay}");
        let gain = gain_db(&heard[delay..], &said);
        assert!(gain.abs() < 1.0, "{bitrate}: {gain:.2} dB");
    }
}

#[test]
fn speech_with_every_tenth_packet_lost_is_still_the_speech() {
    let speech = samples(CALLER);
    let said = halved(&speech);
    let packets = from_browser(&speech, 32_000);
    let heard = through_playout(&packets, |index| index % 10 == 9);
    let (delay, alike) = alignment(&heard, &said, 400);
    assert!(alike > 0.8, "{alike:.3} at {delay}");
    let gain = gain_db(&heard[delay..], &said);
    assert!(gain.abs() < 1.0, "{gain:.2} dB");
    // One packet time for each, lost or not: nothing shifts.
    assert_eq!(heard.len(), (packets.len() - 2) * FRAME_SAMPLES);
}

#[test]
fn tones_across_the_band_reach_the_telephone_with_their_level() {
    for hz in [300.0, 440.0, 1_000.0, 2_000.0, 3_000.0] {
        let tone: Vec<i16> =
            (0..48_000).map(|n| (8_000.0 * (TAU * hz * f64::from(n) / 16_000.0).sin()) as i16).collect();
        let heard = through_playout(&from_browser(&tone, 64_000), |_| false);
        let gain = gain_db(&heard[4_000..], &tone);
        assert!(gain.abs() < 1.0, "{hz} Hz: {gain:.2} dB");
    }
}

#[test]
fn a_greeting_in_pcmu_reaches_the_browser_with_its_words_and_level() {
    let said = samples(GREETING);
    let (mut near_end, mut decoder) =
        (Encoder::new(Codec::Pcmu, &OpusParameters::default()), Decoder::new(Codec::Pcmu));
    let mut encoder = Encoder::new(Codec::Opus, &OpusParameters::default());
    let mut browser = ::opus::Decoder::new(48_000, Channels::Stereo).unwrap();
    let mut heard = Vec::new();
    let (mut frames, mut bytes) = (0, 0);
    for frame in said.chunks_exact(FRAME_SAMPLES) {
        let (mut payload, mut linear, mut opus) =
            ([0; ENCODED_BYTES_MAX], [0; DECODED_SAMPLES_MAX], [0; ENCODED_BYTES_MAX]);
        let len = near_end.encode(frame, &mut payload);
        let samples = decoder.decode(&payload[..len], &mut linear).unwrap();
        let len = encoder.encode(&linear[..samples], &mut opus);
        let mut out = [0; 1_920];
        assert_eq!(browser.decode(&opus[..len], &mut out, false).unwrap(), 960);
        heard.extend(out.iter().step_by(12).copied()); // every sixth of the left channel: 8 kHz
        frames += 1;
        bytes += len;
    }
    let (delay, alike) = alignment(&heard, &said, 400);
    assert!(alike > 0.85, "{alike:.3} at {delay}");
    let gain = gain_db(&heard[delay..], &said);
    assert!(gain.abs() < 1.0, "{gain:.2} dB");
    let bit_rate = bytes * 8 * 50 / frames;
    assert!((8_000..=20_500).contains(&bit_rate), "{bit_rate}");
}

#[test]
fn the_bit_rate_stays_below_what_the_receiver_asks_for() {
    let said = samples(GREETING);
    let rate_at = |ceiling| {
        let mut encoder =
            Encoder::new(Codec::Opus, &OpusParameters { max_average_bitrate: ceiling, ..OpusParameters::default() });
        let (mut frames, mut bytes) = (0, 0);
        for frame in said.chunks_exact(FRAME_SAMPLES) {
            bytes += encoder.encode(frame, &mut [0; ENCODED_BYTES_MAX]);
            frames += 1;
        }
        bytes * 8 * 50 / frames
    };
    assert!(rate_at(Some(8_000)) <= 8_200, "{}", rate_at(Some(8_000)));
    assert!(rate_at(Some(510_000)) <= 20_500, "more than speech needs is not spent");
    assert_eq!(rate_at(Some(510_000)), rate_at(None));
    assert_eq!(rate_at(Some(0)), rate_at(Some(6_000)));
}
