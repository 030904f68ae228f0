//! What is said in the calls: minutes of speech in several voices, pauses cut out, coded once, before anything is measured.
//!
//! Every call begins at another place of it and goes round, so that no two calls say the same at any instant. At least nine of ten
//! frames are active: neither an encoder nor a gateway may live from silence.

use anyhow::{Context, Result, bail};
use engine::media::g711::Law;
use engine::prefetch::prefetch;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Samples of 20 ms at 48 kHz.
const FULL_FRAME: usize = 960;
/// Of all frames, at most this share may be pauses.
const PAUSES_MAX: f64 = 0.08;
/// A frame this much quieter than its voice's mean is a pause.
const PAUSE_BELOW_DB: f64 = 25.0;

/// Of a frame so much is asked for in advance.
const PREFETCHED_BYTES: usize = 128;

/// Voices of espeak-ng: different speakers, pitches and languages.
const VOICES: [&str; 12] = [
    "en-us+m1",
    "en-us+f2",
    "en-gb+m3",
    "en-us+f4",
    "es+m2",
    "pt-br+f1",
    "de+m5",
    "fr-fr+f3",
    "it+m6",
    "en-gb-scotland+m7",
    "pl+f5",
    "nl+m4",
];

/// What they say, in turns.
const TEXTS: [&str; 4] = [
    "Good afternoon, I am calling about the order that I placed on Monday. It should have come by now, but the tracking page \
     still says that the parcel is waiting at the depot. Could you please tell me when the driver will be here, and whether \
     somebody has to sign for it? The number is four seven one, nine two zero, six six three.",
    "Thank you for waiting. Before we go on I need to ask a few short questions, so that nobody else can change your account. \
     Which street do you live in, what year did you open the account, and what were the last two payments that you made with \
     the blue card? Take all the time that you need, and say the word help if anything is unclear.",
    "The train to the coast leaves at twenty past six from platform nine. Please change at the second station, where a bus \
     takes you over the hills and down to the harbour. Bring a warm coat and strong boots, for the wind is sharp in the \
     evening and the path along the cliff is wet and narrow after the rain.",
    "Yes, we have a table for five at half past eight, near the window. The kitchen makes a soup of fresh fish, a plain roast \
     with young vegetables, and a very good lemon cake. If one of your guests eats no meat, tell me now and I will ask the \
     cook to prepare something else. Under which name shall I write it down?",
];

/// Coded frames, one per 20 ms, at equal distances: where one begins is known before anything of it is read.
#[derive(Clone)]
pub struct Frames {
    bytes: Arc<[u8]>,
    stride: usize,
    count: usize,
}

/// Before each frame stands its length.
const LENGTH_BYTES: usize = 2;

impl Frames {
    /// Of frames as the coder made them.
    pub fn new(frames: &[Vec<u8>]) -> Frames {
        let longest = frames.iter().map(Vec::len).max().unwrap_or(0);
        let stride = (LENGTH_BYTES + longest).next_multiple_of(16);
        let mut bytes = vec![0; stride * frames.len()];
        for (place, frame) in bytes.chunks_exact_mut(stride).zip(frames) {
            place[..LENGTH_BYTES].copy_from_slice(&(frame.len() as u16).to_ne_bytes());
            place[LENGTH_BYTES..][..frame.len()].copy_from_slice(frame);
        }
        Frames { bytes: bytes.into(), stride, count: frames.len() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// One of them.
    pub fn get(&self, at: usize) -> &[u8] {
        let place = &self.bytes[at * self.stride..][..self.stride];
        let len = u16::from_ne_bytes([place[0], place[1]]);
        &place[LENGTH_BYTES..][..usize::from(len)]
    }

    /// Asks for the memory of one: of as much as most need.
    pub fn prefetch(&self, at: usize) {
        prefetch(&self.bytes[at * self.stride..][..self.stride.min(PREFETCHED_BYTES)]);
    }
}

/// The speech and its coded forms.
pub struct Corpus {
    /// 8 kHz, 160 samples a frame.
    pub narrow: Vec<i16>,
    /// 16 kHz, 320 samples a frame.
    pub wide: Vec<i16>,
    full: Vec<i16>,
    /// Share of frames that are no pauses.
    pub active: f64,
}

impl Corpus {
    /// Speaks it, or takes it from `folder`, where it was kept.
    pub fn load(folder: &Path) -> Result<Corpus> {
        let kept = folder.join("speech-48k.raw");
        if !kept.exists() {
            std::fs::create_dir_all(folder)?;
            std::fs::write(&kept, bytes_of(&speak()?))?;
        }
        let full = samples_of(&std::fs::read(&kept)?);
        let frames = full.len() / FULL_FRAME;
        let mut narrow = resampled(&full, 8_000)?;
        let mut wide = resampled(&full, 16_000)?;
        narrow.resize(frames * 160, 0);
        wide.resize(frames * 320, 0);
        let active = 1.0 - pauses(&full).iter().filter(|pause| **pause).count() as f64 / frames.max(1) as f64;
        if active < 0.9 || frames < 5_000 {
            bail!("the speech in {} is too short or too silent: remove it and start again", kept.display());
        }
        Ok(Corpus { narrow, wide, full, active })
    }

    /// How many frames there are.
    pub fn frames(&self) -> usize {
        self.full.len() / FULL_FRAME
    }

    /// Where call `index` begins.
    pub fn place(&self, index: usize) -> usize {
        // A step that shares no factor with any likely length spreads neighbours far apart.
        index * 1_741 % self.frames()
    }

    /// mu-law.
    pub fn pcmu(&self) -> Frames {
        let code = |pcm: &[i16]| {
            let mut bytes = vec![0; pcm.len()];
            Law::Mu.encode(pcm, &mut bytes);
            bytes
        };
        Frames::new(&self.narrow.chunks_exact(160).map(code).collect::<Vec<_>>())
    }

    /// Wideband Opus at 20 kbit/s, as a WhatsApp phone that was asked for it.
    pub fn wideband(&self) -> Result<Frames> {
        coded(&self.wide, 16_000, 20_000)
    }

    /// Fullband Opus at 32 kbit/s, as a browser.
    pub fn fullband(&self) -> Result<Frames> {
        coded(&self.full, 48_000, 32_000)
    }
}

fn coded(pcm: &[i16], rate_hz: u32, bitrate: i32) -> Result<Frames> {
    let mut encoder = opus::Encoder::new(rate_hz, opus::Channels::Mono, opus::Application::Voip)?;
    encoder.set_bitrate(opus::Bitrate::Bits(bitrate))?;
    let frames = pcm.chunks_exact(rate_hz as usize / 50).map(|frame| encoder.encode_vec(frame, 400));
    Ok(Frames::new(&frames.collect::<Result<Vec<_>, _>>()?))
}

/// All voices, one after the other, without most of their pauses.
fn speak() -> Result<Vec<i16>> {
    let mut speech = Vec::new();
    for (turn, voice) in VOICES.iter().enumerate() {
        let text = TEXTS[turn % TEXTS.len()];
        let wav = run(Command::new("espeak-ng").args(["-v", voice, "--stdout", text]), &[])?;
        // -3 dB: room for the resamplers' overshoot.
        let raw = run(
            Command::new("sox").args(["-t", "wav", "-", "-r", "48000", "-c", "1", "-b", "16"]).args(RAW_OUT),
            &wav,
        )?;
        let voice = samples_of(&raw);
        let pause = pauses(&voice);
        let (mut kept, mut spent) = (0usize, 0usize);
        for (frame, pause) in voice.chunks_exact(FULL_FRAME).zip(pause) {
            if pause && (spent + 1) as f64 > PAUSES_MAX * (kept + 1) as f64 {
                continue;
            }
            spent += usize::from(pause);
            kept += 1;
            speech.extend_from_slice(frame);
        }
    }
    Ok(speech)
}

const RAW_OUT: [&str; 7] = ["-e", "signed", "-t", "raw", "-", "gain", "-3"];

/// Which frames are pauses, against the mean of the whole.
fn pauses(pcm: &[i16]) -> Vec<bool> {
    let energy = |frame: &[i16]| frame.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / frame.len() as f64;
    let energies: Vec<f64> = pcm.chunks_exact(FULL_FRAME).map(energy).collect();
    let mean = energies.iter().sum::<f64>() / energies.len().max(1) as f64;
    energies.iter().map(|energy| *energy < mean / 10f64.powf(PAUSE_BELOW_DB / 10.0)).collect()
}

fn resampled(pcm: &[i16], rate_hz: u32) -> Result<Vec<i16>> {
    let rate = rate_hz.to_string();
    let from = ["-t", "raw", "-r", "48000", "-e", "signed", "-b", "16", "-c", "1", "-"];
    let to = ["-t", "raw", "-r", &rate, "-e", "signed", "-b", "16", "-c", "1", "-"];
    run(Command::new("sox").arg("-D").args(from).args(to), &bytes_of(pcm)).map(|raw| samples_of(&raw))
}

/// Runs a filter.
fn run(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{name} is missing: run tests/install.sh test"))?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output()?;
    let _ = writer.join();
    match output.status.success() {
        true => Ok(output.stdout),
        false => bail!("{name} failed: {}", output.status),
    }
}

fn samples_of(bytes: &[u8]) -> Vec<i16> {
    bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

fn bytes_of(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_is_found_as_it_was_coded() {
        let coded: Vec<Vec<u8>> = [0, 1, 61, 400, 14, 15].map(|len| vec![len as u8; len]).into();
        let frames = Frames::new(&coded);
        assert_eq!(frames.len(), coded.len());
        for (at, frame) in coded.iter().enumerate() {
            frames.prefetch(at);
            assert_eq!(frames.get(at), frame);
        }
    }
}
