//! Concealment for codecs that bring none: repeats the last pitch period and fades (ITU-T G.711 Appendix I, in spirit).
//!
//! ```text
//! received ... | period | period | two periods ... three periods ... fading | cross-fade into what is received next
//!              ^ loss                                                silence after 60 ms
//! ```
//!
//! Why not the appendix to the letter: it delays all audio by 3.75 ms, so that it can smooth the end of what was received once a loss is
//! known. Here nothing is delayed: the step at the seam is carried into the repetition and faded out there.

/// Pitch periods searched: 200 to 66 Hz, as the appendix does. All lengths are samples of 8 kHz; at 16 kHz they are twice as many.
const PERIOD_MIN: usize = 40;
const PERIOD_MAX: usize = 120;

/// Samples compared at each period: 20 ms.
const WINDOW: usize = 160;

/// What is kept of the past: the window one period back, and three periods with a quarter more for the seam.
const PERIODS_MAX: usize = 3;
const HISTORY: usize = PERIOD_MAX * PERIODS_MAX + PERIOD_MAX / 4;
const _: () = assert!(HISTORY >= WINDOW + PERIOD_MAX);

/// Steps of the appendix: each 10 ms another period is taken in, up to three, and a fifth of the level is lost.
const STEP: usize = 80;
const LOST: Fade = Fade { begins: STEP, ends: 6 * STEP };

/// For packets that are late: an outage of the network, which a voice outlasts more often than not.
const LATE: Fade = Fade { begins: 2 * STEP, ends: 18 * STEP };

/// How what is made up fades: from which sample on, and when it is silent.
#[derive(Clone, Copy, Debug)]
struct Fade {
    begins: usize,
    ends: usize,
}

/// Cross-fade back into received audio: 4 ms, and as much more for each 10 ms that were made up, at most 10 ms.
const RETURN_MIN: usize = 32;
const RETURN_MAX: usize = 80;

/// The past of one stream, and how far into a loss it is.
#[derive(Clone, Debug)]
pub struct Concealer {
    /// Samples per sample of 8 kHz.
    scale: usize,
    /// What was played before the loss, oldest first. What is made up joins it when the loss is over, and is made up once more for that:
    /// a second history would be 780 bytes a stream, for the rare loss that another follows within 50 ms.
    history: Box<[i16]>,
    period: usize,
    /// Periods in the repeated part, which ends where the history ends: 1 to 3.
    periods: usize,
    /// Where in the repeated part the next sample is.
    position: usize,
    /// Last sample before the loss less the one a period before it.
    step: i32,
    /// Samples made up since the last packet, as far as they fade.
    lost: usize,
    /// All of them.
    made_up: usize,
    /// In samples of the rate at hand.
    fade: Fade,
}

impl Concealer {
    /// A stream of 8 or 16 kHz of which nothing was received: its past is silence.
    pub fn new(rate_hz: u32) -> Concealer {
        Concealer::fading(rate_hz, LOST)
    }

    /// The same, but it stands in for packets that are late, and fades slowly.
    pub fn for_late(rate_hz: u32) -> Concealer {
        Concealer::fading(rate_hz, LATE)
    }

    fn fading(rate_hz: u32, fade: Fade) -> Concealer {
        let scale = (rate_hz as usize / 8_000).max(1);
        Concealer {
            scale,
            history: vec![0; HISTORY * scale].into_boxed_slice(),
            period: PERIOD_MIN * scale,
            periods: 1,
            position: 0,
            step: 0,
            lost: 0,
            made_up: 0,
            fade: Fade { begins: fade.begins * scale, ends: fade.ends * scale },
        }
    }

    /// Takes note of received audio; after a loss its beginning is cross-faded with what was made up.
    pub fn received(&mut self, pcm: &mut [i16]) {
        if self.lost > 0 {
            let lost_steps = self.lost / (STEP * self.scale);
            let fade = ((RETURN_MIN + lost_steps * RETURN_MIN).min(RETURN_MAX) * self.scale).min(pcm.len());
            for (index, sample) in pcm[..fade].iter_mut().enumerate() {
                *sample = blend(self.next_sample(), *sample, index, fade);
            }
            self.remember_made_up(pcm.len());
        }
        self.remember(pcm);
    }

    /// Makes up the whole of `pcm`.
    pub fn conceal(&mut self, pcm: &mut [i16]) {
        if self.lost == 0 {
            self.begin();
        }
        for sample in &mut *pcm {
            *sample = self.next_sample();
        }
        self.made_up = self.made_up.saturating_add(pcm.len());
    }

    /// How much of what was received last is left in what is made up now: 1 at first, 0 once it has faded.
    pub fn level(&self) -> f32 {
        let Fade { begins, ends } = self.fade;
        if self.lost == 0 { 1.0 } else { (ends - self.lost.clamp(begins, ends)) as f32 / (ends - begins) as f32 }
    }

    fn begin(&mut self) {
        self.period = pitch(&self.history, self.scale);
        let end = self.history.len() - 1;
        self.step = i32::from(self.history[end]) - i32::from(self.history[end - self.period]);
        self.rewind();
    }

    /// Goes back to the first sample of the loss.
    fn rewind(&mut self) {
        (self.position, self.periods, self.lost) = (0, 1, 0);
    }

    /// The loss is over: what was made up is the past of the `samples` that come now, as far as the history reaches behind them.
    fn remember_made_up(&mut self, samples: usize) {
        let made_up = core::mem::take(&mut self.made_up);
        let kept = self.history.len().saturating_sub(samples).min(made_up);
        let mut newest = [0; 2 * HISTORY];
        let newest = &mut newest[..kept];
        // Beyond the fade there is silence.
        if made_up - kept < self.fade.ends {
            self.rewind();
            for _ in kept..made_up {
                self.next_sample();
            }
            newest.fill_with(|| self.next_sample());
        }
        self.lost = 0;
        self.remember(newest);
    }

    /// The sample at `position` of the repeated part, the last `periods`. The end of the part is cross-faded, over a quarter of a period,
    /// into what stood before its beginning, so that going round makes no step.
    fn repeated(&self) -> i16 {
        let (quarter, length) = (self.period / 4, self.history.len());
        let begin = length - self.periods * self.period;
        let at = begin + self.position;
        match at.checked_sub(length - quarter) {
            None => self.history[at],
            Some(index) => blend(self.history[at], self.history[begin - quarter + index], index, quarter),
        }
    }

    fn next_sample(&mut self) -> i16 {
        let Fade { begins, ends } = self.fade;
        let lost = self.lost;
        self.lost = (lost + 1).min(ends);
        if lost >= ends {
            return 0;
        }
        if lost > 0 && lost.is_multiple_of(STEP * self.scale) && self.periods < PERIODS_MAX {
            // The part grows at its beginning: the same place lies one period further on in it.
            self.position += self.period;
            self.periods += 1;
        }
        let length = self.periods * self.period;
        let repeated = i32::from(self.repeated());
        self.position = (self.position + 1) % length;
        let quarter = self.period / 4;
        let carried = self.step * quarter.saturating_sub(lost) as i32 / quarter as i32;
        let level = (ends - lost.max(begins)) as i32;
        let sample = (repeated + carried) * level / (ends - begins) as i32;
        sample.clamp(i16::MIN.into(), i16::MAX.into()) as i16
    }

    fn remember(&mut self, pcm: &[i16]) {
        let length = self.history.len();
        let newest = &pcm[pcm.len().saturating_sub(length)..];
        self.history.copy_within(newest.len().., 0);
        self.history[length - newest.len()..].copy_from_slice(newest);
    }
}

/// Sample `index` of a linear cross-fade of `length` samples.
fn blend(leaving: i16, arriving: i16, index: usize, length: usize) -> i16 {
    let (weight, whole) = (index as i32 + 1, length as i32 + 1);
    ((i32::from(leaving) * (whole - weight) + i32::from(arriving) * weight) / whole) as i16
}

/// The period at which the end of `history` repeats best: every other lag over every other sample first, then its neighbours.
fn pitch(history: &[i16], scale: usize) -> usize {
    let (shortest, longest) = (PERIOD_MIN * scale, PERIOD_MAX * scale);
    let coarse =
        best((shortest..=longest).step_by(2 * scale), |period| likeness(history, period, WINDOW * scale, 2 * scale));
    let near = coarse.saturating_sub(scale).max(shortest)..=(coarse + scale).min(longest);
    best(near, |period| likeness(history, period, WINDOW * scale, scale))
}

fn best(periods: impl Iterator<Item = usize>, score: impl Fn(usize) -> f32) -> usize {
    let mut best = (PERIOD_MIN, f32::MIN);
    for period in periods {
        let score = score(period);
        if score > best.1 {
            best = (period, score);
        }
    }
    best.0
}

/// Cross-correlation of the last window with the one a period before it, normalised by the energy of the latter.
fn likeness(history: &[i16], period: usize, window: usize, stride: usize) -> f32 {
    let now = &history[history.len() - window..];
    let then = &history[history.len() - window - period..history.len() - period];
    let (mut product, mut energy) = (0i64, 1i64);
    for (&now, &then) in now.iter().zip(then).step_by(stride) {
        product += i64::from(now) * i64::from(then);
        energy += i64::from(then) * i64::from(then);
    }
    product as f32 / (energy as f32).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// What is kept only in part must be what was played, whatever lengths it came in.
    #[test]
    fn the_past_of_a_stream_is_what_was_played_made_up_or_not() {
        let mut random = Random::from_test_seed(5);
        for rate_hz in [8_000, 16_000] {
            for make in [Concealer::new, Concealer::for_late] {
                let mut concealer = make(rate_hz);
                let mut played = vec![0; HISTORY * 2];
                for _ in 0..2_000 {
                    let longest = if random.below(20) == 0 { 4_000 } else { 330 };
                    let mut pcm = vec![0i16; 1 + random.below(longest) as usize];
                    if random.below(3) == 0 {
                        concealer.conceal(&mut pcm);
                        played.extend_from_slice(&pcm);
                        continue;
                    }
                    let at = played.len();
                    for (index, sample) in pcm.iter_mut().enumerate() {
                        *sample = (8_000.0 * ((at + index) as f64 * 0.13).sin()) as i16 + random.below(200) as i16;
                    }
                    concealer.received(&mut pcm);
                    played.extend_from_slice(&pcm);
                    assert_eq!(concealer.history[..], played[played.len() - concealer.history.len()..]);
                }
            }
        }
    }
    use proptest::prelude::*;
    use std::f64::consts::TAU;

    const FRAME: usize = 160;

    /// Something like a vowel: a pitch of `hz` with falling harmonics.
    fn vowel(hz: f64, samples: usize) -> Vec<i16> {
        let sample = |n: usize| -> f64 {
            (1..8).map(|k| 6_000.0 / f64::from(k) * (TAU * hz * f64::from(k) * n as f64 / 8_000.0).sin()).sum()
        };
        (0..samples).map(|n| sample(n) as i16).collect()
    }

    /// Plays `pcm` in frames of 20 ms of which those in `lost` do not arrive.
    fn played(pcm: &[i16], lost: impl Fn(usize) -> bool) -> Vec<i16> {
        let mut concealer = Concealer::new(8_000);
        let mut out = pcm.to_vec();
        for (index, frame) in out.chunks_exact_mut(FRAME).enumerate() {
            if lost(index) { concealer.conceal(frame) } else { concealer.received(frame) }
        }
        out
    }

    fn level(pcm: &[i16]) -> f64 {
        (pcm.iter().map(|&sample| f64::from(sample).powi(2)).sum::<f64>() / pcm.len() as f64).sqrt()
    }

    fn signal_to_error_db(pcm: &[i16], out: &[i16]) -> f64 {
        let error: Vec<i16> = pcm.iter().zip(out).map(|(&a, &b)| a.saturating_sub(b)).collect();
        20.0 * (level(pcm) / level(&error)).log10()
    }

    fn steepest(pcm: &[i16]) -> i32 {
        pcm.windows(2).map(|pair| (i32::from(pair[1]) - i32::from(pair[0])).abs()).max().unwrap()
    }

    #[test]
    fn received_audio_is_not_changed() {
        let pcm = vowel(130.0, 1_600);
        assert_eq!(played(&pcm, |_| false), pcm);
    }

    #[test]
    fn one_lost_frame_of_a_vowel_is_made_up_like_it() {
        for hz in [70.0, 100.0, 130.0, 160.0, 195.0] {
            let pcm = vowel(hz, 1_600);
            let out = played(&pcm, |index| index == 5);
            let (gap, silent) = (5 * FRAME..6 * FRAME, vec![0; FRAME]);
            // The period is a whole number of samples, so a pitch between two of them drifts; silence would be at 0 dB.
            let quality = signal_to_error_db(&pcm[gap.clone()], &out[gap.clone()]);
            assert!(quality > 7.0, "{hz} Hz: {quality:.1} dB");
            assert!(signal_to_error_db(&pcm[gap], &silent) < 0.1);
            assert_eq!(out[7 * FRAME..], pcm[7 * FRAME..], "and after it nothing is changed");
        }
    }

    #[test]
    fn no_seam_is_steeper_than_the_voice_itself() {
        for hz in [83.0, 117.0, 171.0] {
            let pcm = vowel(hz, 3_200);
            for length in 1..4 {
                let out = played(&pcm, |index| (5..5 + length).contains(&index));
                assert!(steepest(&out) <= steepest(&pcm) * 5 / 4, "{hz} Hz, {length}: {}", steepest(&out));
            }
        }
    }

    #[test]
    fn the_repetition_begins_where_the_received_audio_ended() {
        // A slope repeats at no period: a plain repetition would fall back by 40 samples' worth at least.
        let slope: Vec<i16> = (0..960).map(|n| -9_600 + n * 20).collect();
        let out = played(&slope, |index| index == 5);
        assert_eq!(out[800] - out[799], 20);
    }

    #[test]
    fn a_long_loss_fades_to_silence_within_60_ms_and_the_voice_returns() {
        let pcm = vowel(120.0, 4_800);
        let out = played(&pcm, |index| (5..12).contains(&index));
        let levels: Vec<f64> = out.chunks_exact(FRAME).map(level).collect();
        assert!(levels[5] > 0.8 * levels[4] && levels[6] < levels[5] && levels[7] < levels[6], "{levels:?}");
        assert!(out[8 * FRAME..12 * FRAME].iter().all(|&sample| sample == 0));
        assert!(levels[12] > 0.6 * levels[4]);
        assert_eq!(out[13 * FRAME..], pcm[13 * FRAME..]);
    }

    #[test]
    fn a_loss_before_any_audio_is_silence() {
        assert!(played(&vec![99; FRAME * 4], |_| true).iter().all(|&sample| sample == 0));
    }

    #[test]
    fn pitch_is_found() {
        for period in [40, 53, 80, 99, 120] {
            let pcm = vowel(8_000.0 / period as f64, HISTORY);
            let found = pitch(&pcm, 1);
            assert!((found as i32 - period).abs() <= 1 || (found as i32 - 2 * period).abs() <= 1, "{period}: {found}");
        }
    }

    proptest! {
        #[test]
        fn any_audio_and_any_losses_are_survived(seed: u64, lengths in proptest::collection::vec((0usize..500, any::<bool>()), 1..40)) {
            let mut random = Random::from_test_seed(seed);
            let mut concealer = Concealer::new(8_000);
            for (length, lost) in lengths {
                let mut pcm: Vec<i16> =
                    (0..length).map(|_| if random.below(2) == 0 { i16::MIN } else { i16::MAX }).collect();
                if lost { concealer.conceal(&mut pcm) } else { concealer.received(&mut pcm) }
            }
        }
    }
}
