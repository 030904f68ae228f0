//! Tones instead of speech: cheap to make, and unmistakable.

use std::f64::consts::TAU;
use std::sync::OnceLock;

/// Samples of a frame at 8 kHz.
pub const FRAME: usize = 160;

/// What the caller says.
pub const CALLER_HZ: u32 = 440;

/// What the bot says.
pub const BOT_HZ: u32 = 1_000;

/// One second of a tone at `rate_hz`, at a third of full scale; whole periods, so that it can be looped.
pub fn tone(frequency_hz: u32, rate_hz: u32) -> Vec<i16> {
    let sample = |n: u32| (10_000.0 * (TAU * f64::from(frequency_hz) * f64::from(n) / f64::from(rate_hz)).sin()) as i16;
    (0..rate_hz).map(sample).collect()
}

/// The share of the signal's energy that lies at a frequency (Goertzel), 0 to 1.
pub fn share_of(pcm: &[i16], frequency_hz: u32, rate_hz: u32) -> f64 {
    let energy: f64 = pcm.iter().map(|sample| f64::from(*sample).powi(2)).sum();
    if energy < 1_000.0 * pcm.len() as f64 {
        return 0.0; // silence holds every frequency and none
    }
    let step = TAU * f64::from(frequency_hz) / f64::from(rate_hz);
    let (mut re, mut im) = (0.0, 0.0);
    for (n, sample) in pcm.iter().enumerate() {
        re += f64::from(*sample) * (step * n as f64).cos();
        im += f64::from(*sample) * (step * n as f64).sin();
    }
    2.0 * (re * re + im * im) / (pcm.len() as f64 * energy)
}

/// The caller's tone as Opus packets of 20 ms, one second of them, made once.
pub fn caller_packets() -> &'static [Vec<u8>] {
    static PACKETS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    PACKETS.get_or_init(|| {
        let mut encoder = opus::Encoder::new(16_000, opus::Channels::Mono, opus::Application::Voip).expect("libopus");
        encoder.set_bitrate(opus::Bitrate::Bits(20_000)).expect("a bit rate");
        let pcm = tone(CALLER_HZ, 16_000);
        // The first second fills the encoder's state, the second one is kept: it can be looped without a seam.
        let mut second = || pcm.chunks(320).map(|frame| encoder.encode_vec(frame, 400).expect("a packet")).collect();
        let _: Vec<Vec<u8>> = second();
        second()
    })
}

/// mu-law of one sample, by the definition of G.711 and not by the engine's tables.
pub fn ulaw(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = (i32::from(sample).abs().min(32_635)) + 132;
    let exponent = (31 - (magnitude as u32).leading_zeros()).saturating_sub(7);
    let mantissa = (magnitude >> (exponent + 3)) & 0x0f;
    !(sign | (exponent as u8) << 4 | mantissa as u8)
}

/// The sample that a mu-law byte stands for.
pub fn from_ulaw(byte: u8) -> i16 {
    let byte = !byte;
    let exponent = (byte >> 4) & 7;
    let magnitude = (((i32::from(byte & 0x0f) << 3) + 132) << exponent) - 132;
    if byte & 0x80 != 0 { -magnitude as i16 } else { magnitude as i16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_is_recognised_and_another_is_not() {
        let pcm: Vec<i16> = tone(CALLER_HZ, 8_000).iter().map(|sample| from_ulaw(ulaw(*sample))).collect();
        assert!(share_of(&pcm, CALLER_HZ, 8_000) > 0.95);
        assert!(share_of(&pcm, BOT_HZ, 8_000) < 0.05);
        assert!(share_of(&[0; 800], CALLER_HZ, 8_000) < 0.01);
    }
}
