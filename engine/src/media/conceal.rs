//! Concealment for codecs that bring none: repeats the last pitch period and fades (ITU-T G.711 Appendix I, in spirit).
//!
//! ```text
//! received ... | period | period | two periods ... three periods ... fading | cross-fade into what is received next
//!              ^ loss                                                silence after 60 ms
//! ```
//!
//! Why not the appendix to the letter: it delays all audio by 3.75 ms, so that it can smooth the end of what was received once a loss is
//! known. Here nothing is delayed: the step at the seam is carried into the repetition and faded out there.

/// Pitch periods searched: 200 to 66 Hz at 8 kHz, as the appendix does.
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
const FADED: usize = 6 * STEP;

/// Cross-fade back into received audio: 4 ms, and as much more for each 10 ms that were made up, at most 10 ms.
const RETURN_MIN: usize = 32;
const RETURN_MAX: usize = 80;

/// The past of one stream, and how far into a loss it is.
#[derive(Clone, Debug)]
pub struct Concealer {
    /// What was played, oldest first.
    history: [i16; HISTORY],
    /// The history when the loss began.
    before: [i16; HISTORY],
    /// The same, its end made to fit the beginning of the repeated part.
    repeated: [i16; HISTORY],
    period: usize,
    /// Periods in the repeated part, which ends where `repeated` ends: 1 to 3.
    periods: usize,
    /// Where in the repeated part the next sample is.
    position: usize,
    /// Last sample before the loss less the one a period before it.
    step: i32,
    /// Samples made up since the last packet.
    lost: usize,
}

impl Concealer {
    /// A stream of which nothing was received: its past is silence.
    pub fn new() -> Concealer {
        let silence = [0; HISTORY];
        Concealer {
            history: silence,
            before: silence,
            repeated: silence,
            period: PERIOD_MIN,
            periods: 1,
            position: 0,
            step: 0,
            lost: 0,
        }
    }

    /// Takes note of received audio; after a loss its beginning is cross-faded with what was made up.
    pub fn received(&mut self, pcm: &mut [i16]) {
        if self.lost > 0 {
            let fade = (RETURN_MIN + self.lost / STEP * RETURN_MIN).min(RETURN_MAX).min(pcm.len());
            for (index, sample) in pcm[..fade].iter_mut().enumerate() {
                *sample = blend(self.next_sample(), *sample, index, fade);
            }
            self.lost = 0;
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
        self.remember(pcm);
    }

    fn begin(&mut self) {
        self.before = self.history;
        self.period = pitch(&self.before);
        self.position = 0;
        self.step = i32::from(self.before[HISTORY - 1]) - i32::from(self.before[HISTORY - 1 - self.period]);
        self.repeat(1);
    }

    /// Repeats the last `periods` from here on. The end of the part is cross-faded, over a quarter of a period, into what stood
    /// before its beginning, so that going round makes no step.
    fn repeat(&mut self, periods: usize) {
        let quarter = self.period / 4;
        let lead_in = HISTORY - periods * self.period - quarter;
        self.periods = periods;
        self.repeated = self.before;
        for index in 0..quarter {
            let at = HISTORY - quarter + index;
            self.repeated[at] = blend(self.before[at], self.before[lead_in + index], index, quarter);
        }
    }

    fn next_sample(&mut self) -> i16 {
        let lost = self.lost;
        self.lost = (lost + 1).min(FADED);
        if lost >= FADED {
            return 0;
        }
        if lost > 0 && lost.is_multiple_of(STEP) && self.periods < PERIODS_MAX {
            // The part grows at its beginning: the same place lies one period further on in it.
            self.position += self.period;
            self.repeat(self.periods + 1);
        }
        let length = self.periods * self.period;
        let repeated = i32::from(self.repeated[HISTORY - length + self.position]);
        self.position = (self.position + 1) % length;
        let quarter = self.period / 4;
        let carried = self.step * quarter.saturating_sub(lost) as i32 / quarter as i32;
        let level = (FADED - lost.max(STEP)) as i32;
        let sample = (repeated + carried) * level / (FADED - STEP) as i32;
        sample.clamp(i16::MIN.into(), i16::MAX.into()) as i16
    }

    fn remember(&mut self, pcm: &[i16]) {
        let newest = &pcm[pcm.len().saturating_sub(HISTORY)..];
        self.history.copy_within(newest.len().., 0);
        self.history[HISTORY - newest.len()..].copy_from_slice(newest);
    }
}

impl Default for Concealer {
    fn default() -> Self {
        Concealer::new()
    }
}

/// Sample `index` of a linear cross-fade of `length` samples.
fn blend(leaving: i16, arriving: i16, index: usize, length: usize) -> i16 {
    let (weight, whole) = (index as i32 + 1, length as i32 + 1);
    ((i32::from(leaving) * (whole - weight) + i32::from(arriving) * weight) / whole) as i16
}

/// The period at which the end of `history` repeats best: every other lag over every other sample first, then its neighbours.
fn pitch(history: &[i16; HISTORY]) -> usize {
    let coarse = best((PERIOD_MIN..=PERIOD_MAX).step_by(2), |period| likeness(history, period, 2));
    let near = coarse.saturating_sub(1).max(PERIOD_MIN)..=(coarse + 1).min(PERIOD_MAX);
    best(near, |period| likeness(history, period, 1))
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
fn likeness(history: &[i16; HISTORY], period: usize, stride: usize) -> f32 {
    let now = &history[HISTORY - WINDOW..];
    let then = &history[HISTORY - WINDOW - period..HISTORY - period];
    let (mut product, mut energy) = (0i64, 1i64);
    for (&now, &then) in now.iter().zip(then).step_by(stride) {
        product += i64::from(now) * i64::from(then);
        energy += i64::from(then) * i64::from(then);
    }
    product as f32 / (energy as f32).sqrt()
}
