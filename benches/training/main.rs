//! libopus at the gateway's work: telephone speech through every setting that calls use, so that its compiler sees what is hot.
//! `training time` prints what it costs instead (`compare.sh`).
//!
//! Why a package of its own: it is built once more, with counters in libopus (`train.sh`), and nothing else of ours needs to be. Why the
//! application for speech and not the encoder of `media/silk.rs`: both run the same code, and the bindings' safe interface knows this one.

use opus::{Application, Bitrate, Channels, Decoder, Encoder, Error};
use std::hint::black_box;

const CALLER_16K: &[u8] = include_bytes!("../../control/standin/speech/caller-16k.wav");
const GREETING_8K: &[u8] = include_bytes!("../../control/standin/speech/greeting-8k.wav");

/// The rate that the gateway decodes at, and 120 ms of it.
const DECODE_RATE_HZ: u32 = 16_000;
const DECODED_SAMPLES_MAX: usize = 1_920;

/// Of so many packets one is lost, and the next one repairs or conceals it.
const LOST_EVERY: usize = 25;

/// How much more often the everyday work is done than the rest: a busy core encodes at complexity 0 and decodes what phones send.
const EVERYDAY_ROUNDS: usize = 6;

/// States that are visited in turn while time is taken, as in a gateway that has as many calls, and how often each.
const TIMED_STATES: usize = 100;
const TIMED_ROUNDS: usize = 100;

fn main() -> Result<(), Error> {
    let (narrow, wide) = (samples(GREETING_8K), samples(CALLER_16K));
    let full: Vec<i16> = wide.windows(2).flat_map(|pair| [pair[0], between(pair, 1), between(pair, 2)]).collect();
    if std::env::args().nth(1).as_deref() == Some("time") {
        return time(&narrow, &wide, &full);
    }
    for _ in 0..EVERYDAY_ROUNDS {
        encode(&narrow, 8_000, 0, 0)?;
    }
    for complexity in 0..=10 {
        for loss_pct in [0, 10] {
            encode(&narrow, 8_000, complexity, loss_pct)?;
        }
    }
    encode(&wide, 16_000, 5, 0)?;

    // A phone at 20 kbit/s, a browser at 32 (SILK and CELT together), music on hold (CELT alone), and the latter in stereo.
    let phone = coded(&wide, 16_000, Channels::Mono, Application::Voip, 20_000)?;
    for _ in 0..EVERYDAY_ROUNDS {
        decode(&phone)?;
    }
    let browser = coded(&full, 48_000, Channels::Mono, Application::Voip, 32_000)?;
    for _ in 0..EVERYDAY_ROUNDS / 2 {
        decode(&browser)?;
    }
    decode(&coded(&full, 48_000, Channels::Mono, Application::LowDelay, 48_000)?)?;
    let both: Vec<i16> = full.iter().flat_map(|&sample| [sample, sample / 2]).collect();
    decode(&coded(&both, 48_000, Channels::Stereo, Application::Voip, 40_000)?)
}

/// Samples of a plain WAV file.
fn samples(wav: &[u8]) -> Vec<i16> {
    let data = wav.windows(4).position(|window| window == b"data").map_or(0, |place| place + 8);
    wav[data..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// The point so many thirds of the way from one sample to the next.
fn between(pair: &[i16], thirds: i32) -> i16 {
    let [from, to] = [i32::from(pair[0]), i32::from(pair[1])];
    (from + (to - from) * thirds / 3) as i16
}

/// Prints a line of microseconds of CPU a frame: encoding at complexity 0, 1 and 5, decoding wideband to 16 bits and to floats, and fullband to floats.
fn time(narrow: &[i16], wide: &[i16], full: &[i16]) -> Result<(), Error> {
    let mut packet = [0; 400];
    let frames: Vec<&[i16]> = narrow.chunks_exact(160).collect();
    for complexity in [0, 1, 5] {
        let mut states = (0..TIMED_STATES).map(|_| encoder(8_000, complexity, 0)).collect::<Result<Vec<_>, _>>()?;
        print_mean(|turn| states[turn % TIMED_STATES].encode(frames[place(turn, frames.len())], &mut packet))?;
    }
    let phone = coded(wide, 16_000, Channels::Mono, Application::Voip, 20_000)?;
    let browser = coded(full, 48_000, Channels::Mono, Application::Voip, 32_000)?;
    let (mut floats, mut pcm) = ([0.0; DECODED_SAMPLES_MAX], [0; DECODED_SAMPLES_MAX]);
    let mut states =
        (0..TIMED_STATES).map(|_| Decoder::new(DECODE_RATE_HZ, Channels::Mono)).collect::<Result<Vec<_>, _>>()?;
    print_mean(|turn| states[turn % TIMED_STATES].decode(&phone[place(turn, phone.len())], &mut pcm, false))?;
    print_mean(|turn| states[turn % TIMED_STATES].decode_float(&phone[place(turn, phone.len())], &mut floats, false))?;
    print_mean(|turn| {
        states[turn % TIMED_STATES].decode_float(&browser[place(turn, browser.len())], &mut floats, false)
    })?;
    println!();
    Ok(())
}

/// Which frame is due at this turn: each state says something else, and goes on where it was.
fn place(turn: usize, frames: usize) -> usize {
    (turn % TIMED_STATES * 37 + turn / TIMED_STATES) % frames
}

fn print_mean(mut step: impl FnMut(usize) -> Result<usize, Error>) -> Result<(), Error> {
    let begin = cpu_ns();
    let turns = TIMED_STATES * TIMED_ROUNDS;
    for turn in 0..turns {
        black_box(step(turn)?);
    }
    print!("{:.2} ", (cpu_ns() - begin) as f64 / 1e3 / turns as f64);
    Ok(())
}

/// Time that this thread has had a core, as Linux counts it (to a tick of it, hence the many rounds); 0 where it does not.
fn cpu_ns() -> u64 {
    let counted = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    counted.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// The gateway's encoder.
fn encoder(rate_hz: u32, complexity: i32, loss_pct: i32) -> Result<Encoder, Error> {
    let mut encoder = Encoder::new(rate_hz, Channels::Mono, Application::Voip)?;
    encoder.set_complexity(complexity)?;
    encoder.set_bitrate(Bitrate::Bits(if loss_pct > 0 { 24_000 } else { 20_000 }))?;
    encoder.set_vbr_constraint(true)?;
    encoder.set_inband_fec(loss_pct > 0)?;
    encoder.set_packet_loss_perc(loss_pct)?;
    encoder.set_dtx(false)?;
    Ok(encoder)
}

fn encode(pcm: &[i16], rate_hz: u32, complexity: i32, loss_pct: i32) -> Result<(), Error> {
    let mut encoder = encoder(rate_hz, complexity, loss_pct)?;
    let mut packet = [0; 400];
    for frame in pcm.chunks_exact(rate_hz as usize / 50) {
        encoder.encode(frame, &mut packet)?;
    }
    Ok(())
}

/// What a caller sends.
fn coded(pcm: &[i16], rate_hz: u32, channels: Channels, kind: Application, bits: i32) -> Result<Vec<Vec<u8>>, Error> {
    let mut encoder = Encoder::new(rate_hz, channels, kind)?;
    encoder.set_bitrate(Bitrate::Bits(bits))?;
    encoder.set_inband_fec(true)?;
    encoder.set_packet_loss_perc(5)?;
    let frames = pcm.chunks_exact(rate_hz as usize / 50 * channels as usize);
    frames.map(|frame| encoder.encode_vec(frame, 1_276)).collect()
}

/// The gateway's decoder, with some loss.
fn decode(packets: &[Vec<u8>]) -> Result<(), Error> {
    let mut decoder = Decoder::new(DECODE_RATE_HZ, Channels::Mono)?;
    let mut out = [0.0; DECODED_SAMPLES_MAX];
    let frame = DECODE_RATE_HZ as usize / 50;
    for (number, packet) in packets.iter().enumerate() {
        match number % LOST_EVERY {
            23 => decoder.decode_float(&[], &mut out[..frame], false)?,
            24 => {
                decoder.decode_float(packet, &mut out[..frame], true)?;
                decoder.decode_float(packet, &mut out, false)?
            }
            _ => decoder.decode_float(packet, &mut out, false)?,
        };
    }
    Ok(())
}
