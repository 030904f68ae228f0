//! Comfort noise: what a line sounds like while nobody speaks.
//!
//! The level is that of the quietest 20 ms of the recent past. Where the speaker's line is digital silence, so is this.
//!
//! Why not silence: a line that goes dead in the middle of a call makes people ask whether anybody is there, and the step from a
//! background of street noise to nothing and back is heard as a fault of its own.

use super::simd;

/// The loudest noise made: about -50 dBFS. What is louder was speech.
const LEVEL_MAX: f32 = 100.0;

/// A frame quieter than the level lowers it at once, a louder one raises it by this factor: 6 dB in 2 s.
const RISE: f32 = 1.007;

/// Share of the sample before: takes the edge off white noise.
const SMOOTHING: f32 = 0.5;

/// Noise at the level of one stream's background.
#[derive(Clone, Debug)]
pub struct Comfort {
    level: f32,
    last: f32,
    state: u32,
}

impl Comfort {
    /// A line of which nothing is known: silence.
    pub fn new() -> Comfort {
        Comfort { level: 0.0, last: 0.0, state: 0x9e37_79b9 }
    }

    /// Takes note of received audio, one packet.
    pub fn received(&mut self, pcm: &[i16]) {
        if pcm.is_empty() {
            return;
        }
        let energy = (simd::kernels().energy)(pcm);
        let level = (energy as f32 / pcm.len() as f32).sqrt();
        self.level = if level < self.level { level } else { (self.level * RISE + 0.01).min(level) };
    }

    /// Sets the level by what a sender said of its noise, in dB below overload (RFC 3389 §3).
    pub fn set_level_dbov(&mut self, below: u8) {
        self.level = 32_768.0 * 10f32.powf(-f32::from(below & 0x7f) / 20.0);
    }

    /// Makes `pcm` noise.
    pub fn fill(&mut self, pcm: &mut [i16]) {
        let level = self.level.min(LEVEL_MAX);
        if level < 1.0 {
            return pcm.fill(0);
        }
        // Uniform noise of half-width w has an effective value of w / sqrt(3); smoothing takes sqrt((1 - s) / (1 + s)) of it.
        let width = level * 3f32.sqrt() * ((1.0 + SMOOTHING) / (1.0 - SMOOTHING)).sqrt();
        for sample in pcm {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 17;
            self.state ^= self.state << 5;
            let white = (self.state >> 8) as f32 / 8_388_608.0 - 1.0;
            self.last = self.last * SMOOTHING + white * width * (1.0 - SMOOTHING);
            *sample = self.last as i16;
        }
    }
}

impl Default for Comfort {
    fn default() -> Self {
        Comfort::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(pcm: &[i16]) -> f64 {
        (pcm.iter().map(|&sample| f64::from(sample).powi(2)).sum::<f64>() / pcm.len() as f64).sqrt()
    }

    fn noise(amplitude: i16, samples: usize) -> Vec<i16> {
        (0..samples).map(|n| if n * 7 % 13 < 6 { amplitude } else { -amplitude }).collect()
    }

    #[test]
    fn noise_is_as_loud_as_the_background_and_not_as_the_voice() {
        let mut comfort = Comfort::new();
        let (background, voice) = (noise(50, 160), noise(8_000, 160));
        for index in 0..600 {
            comfort.received(if index % 50 < 25 { &voice } else { &background });
        }
        let mut pcm = [0; 8_000];
        comfort.fill(&mut pcm);
        assert!((25.0..80.0).contains(&level(&pcm)), "{}", level(&pcm));
    }

    #[test]
    fn digital_silence_stays_silence() {
        let mut comfort = Comfort::new();
        for index in 0..100 {
            comfort.received(&noise(if index % 10 < 5 { 5_000 } else { 0 }, 160));
        }
        let mut pcm = [7; 160];
        comfort.fill(&mut pcm);
        assert_eq!(pcm, [0; 160]);
    }

    #[test]
    fn noise_is_never_louder_than_its_bound() {
        let mut comfort = Comfort::new();
        comfort.set_level_dbov(0);
        let mut pcm = [0; 8_000];
        comfort.fill(&mut pcm);
        assert!(level(&pcm) < 120.0, "{}", level(&pcm));
    }

    #[test]
    fn a_level_that_was_said_is_the_level_that_is_heard() {
        let mut comfort = Comfort::new();
        comfort.set_level_dbov(60); // 32.8
        let mut pcm = [0; 8_000];
        comfort.fill(&mut pcm);
        assert!((25.0..40.0).contains(&level(&pcm)), "{}", level(&pcm));
    }
}
