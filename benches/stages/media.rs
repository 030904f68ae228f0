//! What one packet time (20 ms) of audio costs at each step. `cargo bench -p benches --bench media`.

use criterion::{Criterion, criterion_group, criterion_main};
use engine::limits::JITTER_PAYLOAD_BYTES_MAX;
use engine::media::decode::{DECODED_SAMPLES_MAX, Decoder};
use engine::media::encode::{ENCODED_BYTES_MAX, Encoder, FRAME_SAMPLES};
use engine::media::g711::Law;
use engine::media::jitter::{Arriving, JitterBuffer, Kind, Playout};
use engine::media::resample::Decimator;
use engine::random::Random;
use engine::rtp::sequence::ExtendedSequence;
use engine::sdp::{Codec, OpusParameters};
use engine::time::{Instant, RtpTimestamp};
use std::hint::black_box;

const CALLER: &[u8] = include_bytes!("../../control/standin/speech/caller-16k.wav");
const GREETING: &[u8] = include_bytes!("../../control/standin/speech/greeting-8k.wav");

/// Samples of a plain WAV file.
fn samples(wav: &[u8]) -> Vec<i16> {
    let data = wav.windows(4).position(|window| window == b"data").expect("a WAV file") + 8;
    wav[data..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// Wideband speech as WhatsApp sends it when it is asked for 20 kbit/s.
fn wideband_packets() -> Vec<Vec<u8>> {
    let mut encoder = opus::Encoder::new(16_000, opus::Channels::Mono, opus::Application::Voip).expect("a known mode");
    encoder.set_bitrate(opus::Bitrate::Bits(20_000)).expect("a known rate");
    samples(CALLER).chunks_exact(320).map(|frame| encoder.encode_vec(frame, 1_276).expect("a whole frame")).collect()
}

fn codecs(criterion: &mut Criterion) {
    let packets = wideband_packets();
    let speech = samples(GREETING);
    let mut wide = [0; DECODED_SAMPLES_MAX];
    let mut payload = [0; ENCODED_BYTES_MAX];

    let mut decoder = Decoder::new(Codec::Opus);
    let mut next = packets.iter().cycle();
    criterion.bench_function("decode opus wideband to 16 kHz", |bencher| {
        bencher.iter(|| decoder.decode(next.next().expect("a cycle"), black_box(&mut wide)))
    });
    criterion.bench_function("conceal opus", |bencher| bencher.iter(|| decoder.conceal(black_box(&mut wide))));

    let mut encoder = Encoder::new(Codec::Opus, &OpusParameters::default());
    let mut next = speech.chunks_exact(FRAME_SAMPLES).cycle();
    criterion.bench_function("encode opus from 8 kHz", |bencher| {
        bencher.iter(|| encoder.encode(next.next().expect("a cycle"), black_box(&mut payload)))
    });

    let mut decoder = Decoder::new(Codec::Pcmu);
    let bytes: Vec<u8> = (0..FRAME_SAMPLES).map(|n| (n * 37) as u8).collect();
    criterion.bench_function("decode pcmu and remember", |bencher| {
        bencher.iter(|| decoder.decode(black_box(&bytes), black_box(&mut wide)))
    });
    criterion.bench_function("conceal pcmu, pitch search included", |bencher| {
        bencher.iter(|| {
            let _ = decoder.decode(&bytes, &mut wide);
            decoder.conceal(black_box(&mut wide))
        })
    });
}

fn g711(criterion: &mut Criterion) {
    let speech = samples(GREETING);
    let mut next = speech.chunks_exact(FRAME_SAMPLES).cycle();
    let (mut bytes, mut pcm) = ([0; FRAME_SAMPLES], [0; FRAME_SAMPLES]);
    criterion.bench_function("g711 encode, table of 16 KB", |bencher| {
        bencher.iter(|| Law::Mu.encode(next.next().expect("a cycle"), black_box(&mut bytes)))
    });
    // The alternative: one byte for each sample value.
    let table: Vec<u8> = (0..=u16::MAX)
        .map(|sample| {
            let mut byte = [0];
            Law::Mu.encode(&[sample as i16], &mut byte);
            byte[0]
        })
        .collect();
    let table: &[u8; 65_536] = table[..].try_into().expect("65,536 values");
    criterion.bench_function("g711 encode, table of 64 KB", |bencher| {
        bencher.iter(|| {
            let frame = next.next().expect("a cycle");
            for (byte, &sample) in black_box(&mut bytes).iter_mut().zip(frame) {
                *byte = table[usize::from(sample as u16)];
            }
        })
    });
    criterion.bench_function("g711 decode", |bencher| {
        bencher.iter(|| Law::Mu.decode(black_box(&bytes), black_box(&mut pcm)))
    });
}

fn resample(criterion: &mut Criterion) {
    let speech = samples(CALLER);
    let mut next = speech.chunks_exact(320).cycle();
    let mut narrow = [0; FRAME_SAMPLES];
    for (name, mut decimator) in
        [("decimator, chosen for this machine", Decimator::new()), ("decimator, scalar", Decimator::scalar())]
    {
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| decimator.resample(next.next().expect("a cycle"), black_box(&mut narrow)))
        });
    }
}

fn jitter(criterion: &mut Criterion) {
    let mut buffer = JitterBuffer::new(48_000);
    let (payload, mut out) = ([7; 60], [0; JITTER_PAYLOAD_BYTES_MAX]);
    let mut tick = 0u64;
    criterion.bench_function("jitter buffer, one in and one out", |bencher| {
        bencher.iter(|| {
            let now = Instant::from_millis(tick * 20);
            let (sequence, timestamp) = (ExtendedSequence(100_000 + tick), RtpTimestamp(tick as u32 * 960));
            let arriving =
                Arriving { sequence, timestamp, ticks: 960, payload: black_box(&payload), kind: Kind::Audio };
            let _ = buffer.insert(now, &arriving);
            tick += 1;
            matches!(black_box(buffer.pop(Instant::from_millis(tick * 20), &mut out)), Playout::Packet(_))
        })
    });
}

/// The same on a path that delays each packet by up to 50 ms, so that they overtake each other, and loses one in twenty.
fn jitter_on_a_bad_path(criterion: &mut Criterion) {
    const PACKETS: u64 = 5_000;
    let mut random = Random::from_test_seed(5);
    let mut arrivals: Vec<(u64, u64)> = (0..PACKETS)
        .filter_map(|number| {
            let flight_ms = u64::from(random.below(51));
            (random.below(20) > 0).then_some((number * 20 + flight_ms, number))
        })
        .collect();
    arrivals.sort_unstable();
    let mut buffer = JitterBuffer::new(48_000);
    let (payload, mut out) = ([7; 60], [0; JITTER_PAYLOAD_BYTES_MAX]);
    let (mut tick, mut place, mut round) = (0u64, 0, 0);
    criterion.bench_function("jitter buffer, 50 ms of jitter and 5 % lost", |bencher| {
        bencher.iter(|| {
            let now_ms = tick * 20;
            tick += 1;
            while let Some(&(at_ms, number)) =
                arrivals.get(place).filter(|(at_ms, _)| *at_ms + round * PACKETS * 20 <= now_ms)
            {
                let number = number + round * PACKETS;
                let (sequence, timestamp) = (ExtendedSequence(100_000 + number), RtpTimestamp(number as u32 * 960));
                let arriving =
                    Arriving { sequence, timestamp, ticks: 960, payload: black_box(&payload), kind: Kind::Redundant };
                let _ = buffer.insert(Instant::from_millis(at_ms + round * PACKETS * 20), &arriving);
                place += 1;
                if place == arrivals.len() {
                    (place, round) = (0, round + 1);
                }
            }
            let is_late = matches!(black_box(buffer.pop(Instant::from_millis(now_ms), &mut out)), Playout::Late);
            if is_late {
                buffer.made_up(960);
            }
        })
    });
}

criterion_group!(stages, codecs, g711, resample, jitter, jitter_on_a_bad_path);
criterion_main!(stages);
