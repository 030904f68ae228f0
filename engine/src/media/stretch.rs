//! Time stretching: takes one pitch period out of speech, or puts one in, so that nobody notices.
//!
//! ```text
//!  out:  [ a a a a | b b b b | c c c ..]     in:   .. h h h | [ a a a a | b b ..]
//!          fade out  fade in                      fade in ^     ^ fade out
//!        [ a>b>b>b | c c c ..]                     .. h h h | [ a>h>h>h | a a a a | b b ..]
//! ```
//!
//! Both are an overlap of two stretches one period apart, as long as they are alike (voiced speech) or quiet (a pause, where any length
//! will do). Speech that is neither is left alone unless the need is urgent.
//!
//! Why not a phase vocoder or a resampler: they change pitch or timbre, or add delay of their own; this costs nothing while it is not used.

/// Periods tried, in samples of 8 kHz: 2.5 to 10 ms. In samples of the rate at hand they are `scale` times as many.
const PERIOD_MIN: usize = 20;
const PERIOD_MAX: usize = 80;

/// Samples of 8 kHz that [`lengthen`] puts in at most.
pub const LENGTHENED_MAX: usize = PERIOD_MAX;

/// Mean magnitude below which a stretch is a pause.
const QUIET_MEAN: u32 = 60;

/// Likeness from which two neighbouring periods are one sound.
const ALIKE: f32 = 0.85;
const ALIKE_URGENT: f32 = 0.4;

/// How badly a change is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Where nobody can hear it.
    Gentle,
    /// Soon.
    Urgent,
}

/// Takes one period, at most `most` samples, out of `pcm` (`scale`: 1 for 8 kHz, 2 for 16). Answers how many samples went; the rest moved
/// up. Nothing goes where it would be heard.
pub fn shorten(pcm: &mut [i16], most: usize, scale: usize, need: Need) -> usize {
    let longest = most.min(pcm.len() / 2).min(PERIOD_MAX * scale);
    let Some(period) = best_period(pcm, 0, longest, scale, need) else { return 0 };
    for index in 0..period {
        pcm[index] = blend(pcm[index], pcm[index + period], index, period);
    }
    pcm.copy_within(2 * period.., period);
    period
}

/// Puts one period, at most `most` samples, in front of `pcm[..count]`, which moves down: `pcm` needs the room. `past` is what was played
/// before it. Answers how many samples came.
pub fn lengthen(past: &[i16], pcm: &mut [i16], count: usize, most: usize, scale: usize, need: Need) -> usize {
    let longest = most.min(past.len()).min(count).min(pcm.len() - count).min(PERIOD_MAX * scale);
    if longest < PERIOD_MIN * scale {
        return 0;
    }
    // The period before and the one after the seam, side by side.
    let mut around = [0; 2 * PERIOD_MAX * 2];
    let around = &mut around[..2 * longest];
    around[..longest].copy_from_slice(&past[past.len() - longest..]);
    around[longest..].copy_from_slice(&pcm[..longest]);
    let Some(period) = best_period(around, longest, longest, scale, need) else { return 0 };
    pcm.copy_within(..count, period);
    for index in 0..period {
        pcm[index] = blend(around[longest + index], around[longest + index - period], index, period);
    }
    period
}

/// The lag at which `pcm` from `seam` on is most like itself: ahead of it where there is no past (`seam` is 0), else behind it.
fn best_period(pcm: &[i16], seam: usize, longest: usize, scale: usize, need: Need) -> Option<usize> {
    let shortest = PERIOD_MIN * scale;
    if longest < shortest {
        return None;
    }
    if mean(&pcm[seam..]) < QUIET_MEAN {
        return Some(longest);
    }
    let mut best = (0, f32::MIN);
    let mut period = shortest;
    while period <= longest {
        let other = if seam == 0 { &pcm[period..2 * period] } else { &pcm[seam - period..seam] };
        let like = likeness(&pcm[seam..seam + period], other, 2 * scale);
        if like > best.1 {
            best = (period, like);
        }
        period += scale;
    }
    let wanted = if need == Need::Urgent { ALIKE_URGENT } else { ALIKE };
    (best.1 > wanted).then_some(best.0)
}

/// Normalised correlation of every `stride`th sample.
fn likeness(a: &[i16], b: &[i16], stride: usize) -> f32 {
    let (mut product, mut of_a, mut of_b) = (0.0f32, 1.0f32, 1.0f32);
    for (&a, &b) in a.iter().zip(b).step_by(stride) {
        let (a, b) = (f32::from(a), f32::from(b));
        product += a * b;
        of_a += a * a;
        of_b += b * b;
    }
    product / (of_a * of_b).sqrt()
}

fn mean(pcm: &[i16]) -> u32 {
    pcm.iter().map(|&sample| u32::from(sample.unsigned_abs())).sum::<u32>() / pcm.len().max(1) as u32
}

/// Sample `index` of a linear cross-fade of `length` samples.
fn blend(leaving: i16, arriving: i16, index: usize, length: usize) -> i16 {
    let (weight, whole) = (index as i32 + 1, length as i32 + 1);
    ((i32::from(leaving) * (whole - weight) + i32::from(arriving) * weight) / whole) as i16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use proptest::prelude::*;
    use std::f64::consts::TAU;

    fn tone(hz: f64, rate_hz: f64, samples: usize) -> Vec<i16> {
        (0..samples).map(|n| (8_000.0 * (TAU * hz * n as f64 / rate_hz).sin()) as i16).collect()
    }

    fn steepest(pcm: &[i16]) -> i32 {
        pcm.windows(2).map(|pair| (i32::from(pair[1]) - i32::from(pair[0])).abs()).max().unwrap()
    }

    #[test]
    fn a_period_goes_out_of_a_vowel_without_a_seam() {
        for (scale, rate_hz) in [(1, 8_000.0), (2, 16_000.0)] {
            for hz in [110.0, 150.0, 220.0, 310.0] {
                let mut pcm = tone(hz, rate_hz, 320 * scale);
                let whole = pcm.clone();
                let gone = shorten(&mut pcm, 160 * scale, scale, Need::Gentle);
                let period = rate_hz / hz;
                let periods = (gone as f64 / period).round();
                assert!(periods >= 1.0 && (gone as f64 - periods * period).abs() <= 2.0 * scale as f64, "{hz}: {gone}");
                pcm.truncate(whole.len() - gone);
                assert!(steepest(&pcm) <= steepest(&whole) * 5 / 4);
                assert_eq!(pcm[gone..], whole[2 * gone..], "what follows is as it was");
            }
        }
    }

    #[test]
    fn a_period_comes_into_a_vowel_without_a_seam() {
        for (scale, rate_hz) in [(1, 8_000.0), (2, 16_000.0)] {
            for hz in [110.0, 150.0, 220.0, 310.0] {
                let whole = tone(hz, rate_hz, 480 * scale);
                let (past, rest) = whole.split_at(160 * scale);
                let mut pcm = vec![0; 640 * scale];
                pcm[..rest.len()].copy_from_slice(rest);
                let come = lengthen(past, &mut pcm, rest.len(), 160 * scale, scale, Need::Gentle);
                assert!(come > 0, "{hz}");
                let joined: Vec<i16> = past.iter().chain(&pcm[..rest.len() + come]).copied().collect();
                assert!(steepest(&joined) <= steepest(&whole) * 5 / 4, "{hz}");
                assert_eq!(pcm[come..rest.len() + come], *rest, "what follows is as it was");
            }
        }
    }

    #[test]
    fn noise_is_left_alone_and_a_pause_gives_what_is_asked() {
        let mut random = Random::from_test_seed(1);
        let noise: Vec<i16> = (0..320).map(|_| random.next_u32() as i16 / 2).collect();
        assert_eq!(shorten(&mut noise.clone(), 160, 1, Need::Gentle), 0);
        assert_eq!(shorten(&mut [3; 320], 70, 1, Need::Gentle), 70);
        assert_eq!(shorten(&mut [3; 320], 160, 1, Need::Gentle), PERIOD_MAX);
        assert_eq!(lengthen(&[3; 160], &mut [3; 480], 160, 160, 1, Need::Gentle), PERIOD_MAX);
    }

    proptest! {
        #[test]
        fn any_lengths_are_survived(
            past in proptest::collection::vec(any::<i16>(), 0..200),
            mut pcm in proptest::collection::vec(any::<i16>(), 0..700),
            share in 0.0f64..1.0,
            most in 0usize..400,
            scale in 1usize..3,
        ) {
            let count = (pcm.len() as f64 * share) as usize;
            let before = pcm[..count].to_vec();
            let come = lengthen(&past, &mut pcm, count, most, scale, Need::Urgent);
            prop_assert!(come <= most && count + come <= pcm.len());
            prop_assert_eq!(&pcm[come..count + come], &before[..]);
            let gone = shorten(&mut pcm, most, scale, Need::Urgent);
            prop_assert!(gone <= most);
        }
    }
}
