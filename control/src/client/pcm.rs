//! Samples, offline: rate conversion, band-limiting, tones. Nothing here is on the packet path.
//!
//! Why not the engine's filters: those are integer, stateful and made for one ratio each; a recording that is compared with its
//! original wants exactness and any ratio, and has all the time.

use std::f64::consts::PI;

/// Zero crossings of the sinc on each side of an output sample.
const SINC_HALF_WIDTH: f64 = 16.0;

/// Converts `pcm` from one rate to another by windowed-sinc interpolation, low-passed to the lower of both bands.
pub fn resample(pcm: &[i16], from_hz: u32, to_hz: u32) -> Vec<i16> {
    if from_hz == to_hz || pcm.is_empty() || from_hz == 0 || to_hz == 0 {
        return pcm.to_vec();
    }
    let step = f64::from(from_hz) / f64::from(to_hz);
    // Cut a little below the lower Nyquist frequency, so that the window's slope lies below it too.
    let cutoff = (1.0 / step).min(1.0) * 0.95;
    let reach = SINC_HALF_WIDTH / cutoff;
    let count = (pcm.len() as f64 / step).floor() as usize;
    (0..count)
        .map(|index| {
            let centre = index as f64 * step;
            let first = (centre - reach).ceil().max(0.0) as usize;
            let last = ((centre + reach).floor() as usize).min(pcm.len() - 1);
            let sum: f64 =
                (first..=last).map(|at| f64::from(pcm[at]) * kernel(at as f64 - centre, cutoff, reach)).sum();
            sum.round().clamp(f64::from(i16::MIN), f64::from(i16::MAX)) as i16
        })
        .collect()
}

/// Hann-windowed sinc at distance `x` samples.
fn kernel(x: f64, cutoff: f64, reach: f64) -> f64 {
    let sinc = if x.abs() < 1e-9 { cutoff } else { (PI * cutoff * x).sin() / (PI * x) };
    sinc * (0.5 + 0.5 * (PI * x / reach).cos())
}

/// A second-order section, direct form I, coefficients normalised.
struct Biquad {
    b: [f64; 3],
    a: [f64; 2],
    x: [f64; 2],
    y: [f64; 2],
}

impl Biquad {
    /// Butterworth (Q = 1/sqrt 2) by the bilinear transform; `high` chooses the high-pass.
    fn new(corner_hz: f64, rate_hz: f64, high: bool) -> Biquad {
        let (sin, cos) = (2.0 * PI * corner_hz / rate_hz).sin_cos();
        let alpha = sin / std::f64::consts::SQRT_2;
        let a0 = 1.0 + alpha;
        let edge = if high { 1.0 + cos } else { 1.0 - cos };
        let middle = if high { -edge } else { edge };
        Biquad {
            b: [edge / 2.0 / a0, middle / a0, edge / 2.0 / a0],
            a: [-2.0 * cos / a0, (1.0 - alpha) / a0],
            x: [0.0; 2],
            y: [0.0; 2],
        }
    }

    fn filter(&mut self, x: f64) -> f64 {
        let y = self.b[0] * x + self.b[1] * self.x[0] + self.b[2] * self.x[1]
            - self.a[0] * self.y[0]
            - self.a[1] * self.y[1];
        self.x = [x, self.x[0]];
        self.y = [y, self.y[0]];
        y
    }
}

/// Keeps what lies between `low_hz` and `high_hz`, 12 dB per octave on each side.
pub fn band_pass(pcm: &[i16], rate_hz: u32, low_hz: f64, high_hz: f64) -> Vec<f32> {
    let mut low = Biquad::new(low_hz, f64::from(rate_hz), true);
    let mut high = Biquad::new(high_hz, f64::from(rate_hz), false);
    pcm.iter().map(|&sample| high.filter(low.filter(f64::from(sample))) as f32).collect()
}

/// Sum of sines of equal strength, faded in and out over 5 ms; `level` is the peak of the sum.
pub fn tones(frequencies_hz: &[f64], duration_ms: u32, rate_hz: u32, level: i16) -> Vec<i16> {
    let count = (duration_ms * rate_hz / 1000) as usize;
    let fade = (rate_hz / 200).max(1) as usize;
    let share = f64::from(level) / frequencies_hz.len().max(1) as f64;
    (0..count)
        .map(|at| {
            let edge = at.min(count - 1 - at).min(fade) as f64 / fade as f64;
            let time = at as f64 / f64::from(rate_hz);
            let sum: f64 = frequencies_hz.iter().map(|hz| (2.0 * PI * hz * time).sin()).sum();
            (sum * share * edge) as i16
        })
        .collect()
}

/// Low and high frequency of a DTMF key (ITU-T Q.23); `None` for other characters.
pub fn dtmf_hz(key: char) -> Option<[f64; 2]> {
    const KEYS: [&str; 4] = ["123A", "456B", "789C", "*0#D"];
    const LOW: [f64; 4] = [697.0, 770.0, 852.0, 941.0];
    const HIGH: [f64; 4] = [1209.0, 1336.0, 1477.0, 1633.0];
    let key = key.to_ascii_uppercase();
    KEYS.iter().zip(LOW).find_map(|(row, low)| row.find(key).map(|column| [low, HIGH[column]]))
}

/// Strength of one frequency in `pcm`, 0 to 1 of all energy (Goertzel).
pub fn tone_share(pcm: &[i16], rate_hz: u32, hz: f64) -> f64 {
    let energy: f64 = pcm.iter().map(|&s| f64::from(s) * f64::from(s)).sum();
    if energy <= 0.0 {
        return 0.0;
    }
    let w = 2.0 * PI * hz / f64::from(rate_hz);
    let (mut s1, mut s2) = (0.0, 0.0);
    for &sample in pcm {
        (s1, s2) = (f64::from(sample) + 2.0 * w.cos() * s1 - s2, s1);
    }
    let power = s1 * s1 + s2 * s2 - 2.0 * w.cos() * s1 * s2;
    (2.0 * power / (energy * pcm.len() as f64)).min(1.0)
}

/// Root mean square.
pub fn rms(pcm: &[i16]) -> f64 {
    if pcm.is_empty() {
        return 0.0;
    }
    (pcm.iter().map(|&s| f64::from(s) * f64::from(s)).sum::<f64>() / pcm.len() as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_keeps_its_pitch_and_level_across_rates() {
        let tone = tones(&[1_000.0], 500, 48_000, 10_000);
        let down = resample(&tone, 48_000, 8_000);
        assert_eq!(down.len(), 4_000);
        assert!(tone_share(&down[200..3_800], 8_000, 1_000.0) > 0.99);
        assert!((rms(&down[200..3_800]) / rms(&tone[1_200..22_800]) - 1.0).abs() < 0.02);
        let up = resample(&down, 8_000, 16_000);
        assert!(tone_share(&up[400..7_600], 16_000, 1_000.0) > 0.99);
    }

    #[test]
    fn what_lies_above_the_lower_band_is_gone_and_not_folded() {
        let tone = tones(&[6_000.0], 500, 16_000, 10_000);
        assert!(rms(&resample(&tone, 16_000, 8_000)[100..3_900]) < 100.0);
    }

    #[test]
    fn the_band_pass_keeps_speech_and_drops_rumble() {
        let level = |hz: f64| {
            let out = band_pass(&tones(&[hz], 500, 8_000, 10_000), 8_000, 300.0, 3_000.0);
            (out[800..3_200].iter().map(|s| f64::from(s * s)).sum::<f64>() / 2_400.0).sqrt()
        };
        assert!(level(1_000.0) > 6_000.0);
        assert!(level(50.0) < 400.0);
    }

    #[test]
    fn every_key_has_its_pair_of_tones() {
        assert_eq!(dtmf_hz('5'), Some([770.0, 1336.0]));
        assert_eq!(dtmf_hz('#'), Some([941.0, 1477.0]));
        assert_eq!(dtmf_hz('d'), Some([941.0, 1633.0]));
        assert_eq!(dtmf_hz('x'), None);
        let five = tones(&dtmf_hz('5').unwrap(), 100, 8_000, 16_000);
        assert!(tone_share(&five, 8_000, 770.0) > 0.4 && tone_share(&five, 8_000, 852.0) < 0.1);
    }
}
