//! Is this the speech that was said? A score that survives codecs, gain and delay, and does not survive other words.
//!
//! Both sounds are brought to 8 kHz and the telephone band. Their envelopes (10 ms) are slid along each other to find the delay;
//! then each 400 ms of the original that holds speech is looked for within ±60 ms of that place by the correlation of the
//! waveforms themselves. The score is the geometric mean of both: 1 is the same sound, other speech scores about 0.4.
//!
//! Why not PESQ: it judges how good a known sentence sounds and needs its delay first; here the question is whether it is that
//! sentence at all, in a program that ships without Python. Why pieces: a jitter buffer that skips or adds one frame shifts the
//! rest by 20 ms, which one correlation over the whole would punish as if nothing matched.

use super::pcm;

/// Rate at which both are compared.
const RATE_HZ: u32 = 8_000;
/// Samples per envelope value: 10 ms.
const STEP: usize = 80;
/// Samples of one piece: 400 ms.
const PIECE: usize = 3_200;
/// How far a piece may lie from where the envelopes put it: 60 ms, three packets.
const SLACK: usize = 480;
/// From here on it is the same speech. Through Opus at 20 kbit/s and mu-law it scores above 0.85; other speech below 0.55.
pub const SAME_SPEECH: f64 = 0.70;

/// How alike two sounds are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Similarity {
    /// 0 to 1; `SAME_SPEECH` divides.
    pub score: f64,
    /// Where in `heard` the first sample of `reference` lies, ms.
    pub delay_ms: f64,
}

/// Looks for `reference` in `heard`; each with its rate.
pub fn similarity(reference: &[i16], reference_hz: u32, heard: &[i16], heard_hz: u32) -> Similarity {
    let reference = telephone_band(reference, reference_hz);
    let heard = telephone_band(heard, heard_hz);
    let (reference_envelope, heard_envelope) = (envelope(&reference), envelope(&heard));
    if reference_envelope.len() < 20 || heard_envelope.len() < 20 {
        return Similarity::default();
    }
    let (steps, envelope_score) = best_envelope_lag(&reference_envelope, &heard_envelope);
    let (piece_score, shift) = pieces(&reference, &heard, steps * STEP);
    let score = (envelope_score.max(0.0) * piece_score.max(0.0)).sqrt();
    let delay_ms = ((steps * STEP) as f64 + shift) * 1000.0 / f64::from(RATE_HZ);
    Similarity { score, delay_ms: delay_ms.max(0.0) }
}

fn telephone_band(sound: &[i16], rate_hz: u32) -> Vec<f32> {
    pcm::band_pass(&pcm::resample(sound, rate_hz, RATE_HZ), RATE_HZ, 300.0, 3_000.0)
}

/// Loudness per 10 ms; the root makes quiet syllables count.
fn envelope(sound: &[f32]) -> Vec<f32> {
    sound.chunks_exact(STEP).map(|step| (step.iter().map(|s| s * s).sum::<f32>() / STEP as f32).sqrt().sqrt()).collect()
}

/// The lag at which the envelopes agree best, and how well. At least half of the reference must lie inside `heard`.
fn best_envelope_lag(reference: &[f32], heard: &[f32]) -> (usize, f64) {
    let mut best = (0, f64::MIN);
    for lag in 0..heard.len() {
        let overlap = reference.len().min(heard.len() - lag);
        if overlap * 2 < reference.len() {
            break;
        }
        // What does not overlap counts as missing: a fragment that fits well must not beat the whole.
        let found = correlation(&reference[..overlap], &heard[lag..lag + overlap], true);
        let score = found * overlap as f64 / reference.len() as f64;
        if score > best.1 {
            best = (lag, score);
        }
    }
    best
}

/// Energy-weighted mean of each piece's best correlation, and the energy-weighted mean shift in samples.
fn pieces(reference: &[f32], heard: &[f32], lag: usize) -> (f64, f64) {
    let energy = |piece: &[f32]| piece.iter().map(|s| f64::from(s * s)).sum::<f64>();
    let loudest = reference.chunks(PIECE).map(energy).fold(0.0, f64::max);
    let (mut sum, mut shifts, mut weights) = (0.0, 0.0, 0.0);
    for (index, piece) in reference.chunks_exact(PIECE.min(reference.len().max(1))).enumerate() {
        let weight = energy(piece).sqrt();
        if energy(piece) < loudest / 100.0 {
            continue;
        }
        let centre = lag + index * PIECE;
        let mut best = (0.0, 0.0);
        for at in centre.saturating_sub(SLACK)..=centre + SLACK {
            let Some(window) = heard.get(at..at + piece.len()) else { break };
            let found = correlation(piece, window, false);
            if found > best.0 {
                best = (found, at as f64 - centre as f64);
            }
        }
        sum += best.0 * weight;
        shifts += best.1 * best.0 * weight;
        weights += weight;
    }
    if weights > 0.0 && sum > 0.0 { (sum / weights, shifts / sum) } else { (0.0, 0.0) }
}

/// Normalised correlation of two equally long sequences; with their means taken off if `centred`.
fn correlation(a: &[f32], b: &[f32], centred: bool) -> f64 {
    let mean = |x: &[f32]| if centred { x.iter().sum::<f32>() / x.len() as f32 } else { 0.0 };
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0f32, 0f32, 0f32);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x - mean_a, y - mean_b);
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    let norm = (f64::from(aa) * f64::from(bb)).sqrt();
    if norm > 0.0 { f64::from(ab) / norm } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::wav;

    fn caller() -> Vec<i16> {
        wav::read(include_bytes!("../../standin/speech/caller-16k.wav")).unwrap().pcm
    }

    fn greeting() -> Vec<i16> {
        wav::read(include_bytes!("../../standin/speech/greeting-8k.wav")).unwrap().pcm
    }

    /// 20 ms frames through Opus at 16 kHz and 20 kbit/s.
    fn through_opus(pcm: &[i16]) -> Vec<i16> {
        let mut encoder = opus::Encoder::new(16_000, opus::Channels::Mono, opus::Application::Voip).unwrap();
        encoder.set_bitrate(opus::Bitrate::Bits(20_000)).unwrap();
        let mut decoder = opus::Decoder::new(16_000, opus::Channels::Mono).unwrap();
        let (mut out, mut frame) = (Vec::new(), [0; 320]);
        for input in pcm.chunks_exact(320) {
            let packet = encoder.encode_vec(input, 400).unwrap();
            let count = decoder.decode(&packet, &mut frame, false).unwrap();
            out.extend_from_slice(&frame[..count]);
        }
        out
    }

    /// 14-bit mu-law in spirit: coarse logarithmic steps.
    fn coarse(pcm: &[i16]) -> Vec<i16> {
        pcm.iter()
            .map(|&s| {
                let step = (i32::from(s).abs() + 33).ilog2().saturating_sub(5).max(1);
                ((i32::from(s) >> step) << step) as i16
            })
            .collect()
    }

    #[test]
    fn the_same_speech_through_codecs_and_delay_is_recognised() {
        let said = caller();
        let mut heard = vec![0i16; 8_000 * 3 / 2];
        heard.extend(coarse(&pcm::resample(&through_opus(&said), 16_000, 8_000)).iter().map(|s| s / 2));
        heard.extend([0; 4_000]);
        let found = similarity(&said, 16_000, &pcm::resample(&heard, 8_000, 16_000), 16_000);
        assert!(found.score > 0.85, "{found:?}");
        assert!((found.delay_ms - 1_500.0).abs() < 40.0, "{found:?}");
    }

    #[test]
    fn a_skipped_and_a_repeated_frame_do_not_hide_it() {
        let said = pcm::resample(&caller(), 16_000, 8_000);
        let mut heard = said.clone();
        heard.drain(20_000..20_160);
        heard.splice(40_000..40_000, said[39_840..40_000].iter().copied());
        let found = similarity(&said, 8_000, &heard, 8_000);
        assert!(found.score > 0.85, "{found:?}");
    }

    #[test]
    fn other_speech_silence_and_noise_are_not() {
        let said = caller();
        let mut random = engine::random::Random::from_test_seed(3);
        let noise: Vec<i16> = (0..80_000).map(|_| random.next_u32() as i16 / 8).collect();
        let other: Vec<i16> = greeting().repeat(3);
        let backwards: Vec<i16> = said.iter().rev().copied().collect();
        for (name, heard, rate_hz) in [
            ("noise", noise, 8_000),
            ("other", other, 8_000),
            ("backwards", backwards, 16_000),
            ("silence", vec![0; 90_000], 8_000),
        ] {
            let found = similarity(&said, 16_000, &heard, rate_hz);
            assert!(found.score < 0.6, "{name}: {found:?}");
        }
        assert_eq!(similarity(&said, 16_000, &[], 8_000), Similarity::default());
    }
}
