//! Each version of the vector code beside the scalar one: that they make the same, and what 20 ms of audio cost in each.
//!
//! ```text
//! cargo bench -p benches --bench simd                 what each costs, all versions by turns, the median of 41 rounds
//! cargo test -p benches --bench simd                  that they make the same
//! simd --names; simd --run FRAMES ROUTINE VERSION     one of them alone, for whoever counts instructions
//! ```
//!
//! It needs nothing of the engine but `media::{g711, resample, simd}`, so that `tests/arm.sh` can build it for other processors in seconds.
//!
//! Why not criterion: it measures one thing after the other, and on a shared machine the minutes differ by more than the versions.

#[cfg(target_arch = "x86_64")]
mod avx512;

use engine::media::resample::{Decimator, Interpolator, TAPS};
use engine::media::simd::{self, Kernels, scalar};
use std::hint::black_box;
use std::time::Instant;

/// Samples of 20 ms at 8 kHz.
const FRAME: usize = 160;
/// Frames of one measurement, and measurements of which the median is taken.
const FRAMES: usize = 2_000;
const ROUNDS: usize = 41;
/// The same for frames that come in turn with other work: about 30 us of it each time, in 64 KB.
const FRAMES_IN_TURN: usize = 300;
const OTHER_WORDS: usize = 8 * 1024;
const OTHER_PASSES: usize = 6;
/// Random inputs of each length.
const INPUTS: usize = 40;

fn main() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--help"] => println!("simd [--bench | --names | --run FRAMES ROUTINE VERSION]"),
        ["--names"] => ROUTINES.iter().for_each(|(what, _)| println!("{what}")),
        ["--run", frames, routine, version] => {
            let kernels = available().find(|kernels| kernels.name == version).expect("a version of this processor");
            let (_, run) = ROUTINES.iter().find(|(what, _)| *what == routine).expect("one of --names");
            let mut frame = frame(&mut random, kernels);
            (0..frames.parse().expect("a number of frames")).for_each(|_: u32| run(kernels, black_box(&mut frame)));
        }
        ref arguments => {
            let names: Vec<&str> = available().map(|kernels| kernels.name).collect();
            println!("versions: {}", names.join(", "));
            check(&mut random);
            println!("all versions make the same");
            if arguments.contains(&"--bench") {
                measure(&mut random);
            }
        }
    }
}

/// The engine's versions, and what was tried beside them.
fn available() -> impl Iterator<Item = &'static Kernels> {
    #[cfg(target_arch = "x86_64")]
    let tried = avx512::kernels();
    #[cfg(not(target_arch = "x86_64"))]
    let tried = None;
    simd::available().chain(tried)
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Noise, quiet noise, or the loudest values in a random order.
    fn samples(&mut self, count: usize) -> Vec<i16> {
        let kind = self.next() % 4;
        (0..count)
            .map(|_| match (kind, (self.next() >> 40) as i16) {
                (0, sample) => sample >> 9,
                (1, sample) => [i16::MIN, i16::MAX][usize::from(sample < 0)],
                (_, sample) => sample,
            })
            .collect()
    }
}

/// Panics where a version differs from the scalar one.
fn check(random: &mut Random) {
    let every_sample: Vec<i16> = (i16::MIN..=i16::MAX).collect();
    let every_byte: Vec<u8> = (0..=255).collect();
    for length in (0..=70).chain([159, 160, 161, 319, 320, 321, 700]) {
        for _ in 0..INPUTS {
            let window = &random.samples(2 * length + TAPS - 1)[..];
            same("halve", |kernels| filled(length, |out| (kernels.halve)(window, out)));
            same("between", |kernels| filled(length, |out| (kernels.between)(window, out)));
            same("energy", |kernels| (kernels.energy)(&window[..length]));
        }
        let (samples, bytes) = (&every_sample[length * 90..], &every_byte[length.min(255)..]);
        same("mu_encode", |kernels| filled(samples.len(), |out| (kernels.mu_encode)(samples, out)));
        same("a_encode", |kernels| filled(samples.len(), |out| (kernels.a_encode)(samples, out)));
        same("mu_decode", |kernels| filled(bytes.len(), |out| (kernels.mu_decode)(bytes, out)));
        same("a_decode", |kernels| filled(bytes.len(), |out| (kernels.a_decode)(bytes, out)));
    }
}

fn filled<T: Default + Clone>(count: usize, fill: impl FnOnce(&mut [T])) -> Vec<T> {
    let mut out = vec![T::default(); count];
    fill(&mut out);
    out
}

fn same<T: PartialEq>(what: &str, made: impl Fn(&Kernels) -> T) {
    let expected = made(scalar());
    for kernels in available() {
        assert!(made(kernels) == expected, "{what}: {} differs from scalar", kernels.name);
    }
}

/// What the routines work on: one frame of each kind.
struct Frame {
    wide: Vec<i16>,
    narrow: Vec<i16>,
    payload: Vec<u8>,
    out: Vec<i16>,
    bytes: Vec<u8>,
    decimator: Decimator,
    interpolator: Interpolator,
}

/// One of what is measured, on 20 ms.
type Routine = (&'static str, fn(&Kernels, &mut Frame));

const ROUTINES: [Routine; 8] = [
    ("16 to 8 kHz", |_, frame| {
        frame.decimator.resample(&frame.wide, &mut frame.out);
    }),
    ("8 to 16 kHz", |_, frame| {
        frame.interpolator.resample(&frame.narrow, &mut frame.out);
    }),
    ("level, 16 kHz", |kernels, frame| {
        black_box((kernels.energy)(&frame.wide));
    }),
    ("level, 8 kHz", |kernels, frame| {
        black_box((kernels.energy)(&frame.narrow));
    }),
    ("mu-law encode", |kernels, frame| (kernels.mu_encode)(&frame.narrow, &mut frame.bytes)),
    ("mu-law decode", |kernels, frame| (kernels.mu_decode)(&frame.payload, &mut frame.out)),
    ("A-law encode", |kernels, frame| (kernels.a_encode)(&frame.narrow, &mut frame.bytes)),
    ("A-law decode", |kernels, frame| (kernels.a_decode)(&frame.payload, &mut frame.out)),
];

/// What a call between Opus and PCMU does of it every 20 ms: both levels, down to 8 kHz, mu-law there and back.
const CALL: [usize; 5] = [0, 2, 3, 4, 5];

/// Prints nanoseconds for each routine and version.
fn measure(random: &mut Random) {
    let versions: Vec<&Kernels> = available().collect();
    print!("{:16}", "ns for 20 ms");
    versions.iter().for_each(|kernels| print!("{:>12}", kernels.name));
    println!();
    for (what, run) in ROUTINES {
        print_medians(what, &versions, random, |kernels, frame| {
            timed(|| (0..FRAMES).for_each(|_| run(kernels, black_box(frame)))) / FRAMES as f64
        });
    }
    // What vectors cost whose units and caches something else has had meanwhile, as a codec has between two frames; and what the
    // something else costs beside them, should the processor lower its clock for wide ones.
    let mut other = vec![1u64; OTHER_WORDS];
    let mut in_turn = |kernels: &Kernels, frame: &mut Frame, beside: bool| {
        let times = (0..FRAMES_IN_TURN).map(|_| {
            let work = timed(|| {
                for word in (0..OTHER_WORDS * OTHER_PASSES).map(|index| index % OTHER_WORDS) {
                    other[word] = black_box(other[word].wrapping_mul(0x2545_f491) ^ other[word] >> 29);
                }
            });
            let call = timed(|| CALL.iter().for_each(|&routine| ROUTINES[routine].1(kernels, black_box(frame))));
            if beside { work } else { call - timed(|| ()) }
        });
        median(&mut times.collect::<Vec<f64>>())
    };
    print_medians("a call, in turn", &versions, random, |kernels, frame| in_turn(kernels, frame, false));
    print_medians("other work", &versions, random, |kernels, frame| in_turn(kernels, frame, true));
}

fn print_medians(
    what: &str,
    versions: &[&Kernels],
    random: &mut Random,
    mut time: impl FnMut(&Kernels, &mut Frame) -> f64,
) {
    let mut frames: Vec<Frame> = versions.iter().map(|kernels| frame(random, kernels)).collect();
    let mut times = vec![Vec::new(); versions.len()];
    // The first round warms up.
    for round in 0..=ROUNDS {
        for ((kernels, frame), times) in versions.iter().zip(&mut frames).zip(&mut times) {
            let time = time(kernels, frame);
            if round > 0 {
                times.push(time);
            }
        }
    }
    print!("{what:16}");
    times.iter_mut().for_each(|times| print!("{:12.1}", median(times)));
    println!();
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Nanoseconds.
#[expect(clippy::disallowed_methods, reason = "this measures time")]
fn timed(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_nanos() as f64
}

fn frame(random: &mut Random, kernels: &Kernels) -> Frame {
    // Speech-like: all loudnesses occur.
    let samples = |random: &mut Random, count| {
        (0..count).map(|_| (random.next() >> 48) as i16 >> (random.next() % 12)).collect::<Vec<i16>>()
    };
    Frame {
        wide: samples(random, 2 * FRAME),
        narrow: samples(random, FRAME),
        payload: (0..FRAME).map(|_| random.next() as u8).collect(),
        out: vec![0; 2 * FRAME],
        bytes: vec![0; FRAME],
        decimator: Decimator::with(kernels),
        interpolator: Interpolator::with(kernels),
    }
}
