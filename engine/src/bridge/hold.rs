//! What a leg says before the other one may be spoken to: the greeting of a bot that answers while WhatsApp is still held.
//!
//! On release it is played from its start at the pace of speech. What comes meanwhile queues behind it, so the call lags; the lag
//! is caught up in the speaker's own pauses, of which a short rest is always kept. Once it is gone the backlog stays small: it
//! then only takes up packets that come in bursts.
//!
//! Why PCMU bytes: two seconds take 16,000 bytes instead of 32,000, and are lossless where the leg spoke PCMU anyway. A call has that
//! memory only while it needs it: from a greeting longer than what bursts take until the lag is gone, and never again.

use crate::limits::HOLD_MS_MAX;
use crate::limits::PTIME_MS;
use crate::media::g711::Law;

/// Frames of the longest greeting: one byte per sample.
const HOLD_FRAMES_MAX: usize = HOLD_MS_MAX / PTIME_MS;

/// Frames that may wait once the lag is gone; past it the oldest is dropped. It bounds the delay that bursts can add.
const LIVE_FRAMES_MAX: usize = 6;

/// Quiet frames of each pause that are always played: a caller hears a pause of 60 ms as one.
const REST_FRAMES: usize = 3;

/// Mean magnitude below which a frame is always a pause: about -50 dBFS.
const QUIET_MEAN: u32 = 100;

/// Mean magnitude from which a frame never is, however loud the speaker's background: about -35 dBFS.
const LOUD_MEAN: u32 = 600;

/// Frames of 20 ms that wait for their turn, oldest first.
pub(super) struct Backlog {
    frame_samples: usize,
    live: Box<[u8]>,
    /// In its place while a greeting is longer.
    held: Option<Box<[u8]>>,
    first: usize,
    count: usize,
    quiet_run: usize,
    /// The speaker's background: the mean magnitude of the quietest frame, rising by one per frame since.
    background: u32,
    /// The lag was caught up once.
    is_live: bool,
}

impl Backlog {
    pub(super) fn new(frame_samples: usize) -> Backlog {
        Backlog {
            frame_samples,
            live: vec![0; LIVE_FRAMES_MAX * frame_samples].into_boxed_slice(),
            held: None,
            first: 0,
            count: 0,
            quiet_run: 0,
            background: 0,
            is_live: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The next live frame would cost the oldest.
    pub(super) fn is_full(&self) -> bool {
        self.is_live && self.count == LIVE_FRAMES_MAX
    }

    /// Puts one frame behind the others. A greeting longer than the limit loses its newest audio, live audio its oldest.
    pub(super) fn push(&mut self, pcm: &[i16]) {
        self.background = mean(pcm).min(self.background + 1);
        match self.count == self.frames_max() {
            true if self.is_live => self.drop_first(),
            true if self.held.is_some() => return,
            true => self.hold(),
            false => {}
        }
        let samples = self.frame_samples;
        let start = (self.first + self.count) % self.frames_max() * samples;
        Law::Mu.encode(pcm, &mut self.bytes()[start..start + samples]);
        self.count += 1;
    }

    /// Takes the memory of a greeting; what waits comes first in it.
    fn hold(&mut self) {
        let mut held = vec![0; HOLD_FRAMES_MAX * self.frame_samples].into_boxed_slice();
        let split = self.first * self.frame_samples;
        let (end, begin) = (&self.live[split..], &self.live[..split]);
        held[..end.len()].copy_from_slice(end);
        held[end.len()..self.live.len()].copy_from_slice(begin);
        (self.held, self.first) = (Some(held), 0);
    }

    fn bytes(&mut self) -> &mut [u8] {
        match &mut self.held {
            Some(held) => &mut held[..],
            None => &mut self.live,
        }
    }

    fn frames_max(&self) -> usize {
        if self.held.is_some() { HOLD_FRAMES_MAX } else { LIVE_FRAMES_MAX }
    }

    /// The next frame to play. While others wait behind it, frames of a pause are left out.
    pub(super) fn pop(&mut self, pcm: &mut [i16]) -> bool {
        while self.take_first(pcm) {
            self.quiet_run = if self.is_quiet(pcm) { self.quiet_run + 1 } else { 0 };
            if self.quiet_run <= REST_FRAMES || self.count == 0 {
                if self.count == 0 {
                    (self.is_live, self.held, self.first) = (true, None, 0);
                }
                return true;
            }
        }
        false
    }

    /// A pause is as loud as its background, give or take 6 dB.
    fn is_quiet(&self, pcm: &[i16]) -> bool {
        mean(pcm) < (2 * self.background).clamp(QUIET_MEAN, LOUD_MEAN)
    }

    fn take_first(&mut self, pcm: &mut [i16]) -> bool {
        if self.count == 0 {
            return false;
        }
        let samples = self.frame_samples;
        let start = self.first * samples;
        Law::Mu.decode(&self.bytes()[start..start + samples], pcm);
        self.drop_first();
        true
    }

    fn drop_first(&mut self) {
        self.first = (self.first + 1) % self.frames_max();
        self.count -= 1;
    }
}

fn mean(pcm: &[i16]) -> u32 {
    pcm.iter().map(|&sample| u32::from(sample.unsigned_abs())).sum::<u32>() / pcm.len().max(1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::encode::FRAME_SAMPLES;

    fn frame(value: i16) -> [i16; FRAME_SAMPLES] {
        [value; FRAME_SAMPLES]
    }

    fn drain(backlog: &mut Backlog) -> Vec<i16> {
        let mut pcm = frame(0);
        core::iter::from_fn(|| backlog.pop(&mut pcm).then(|| pcm[0])).collect()
    }

    #[test]
    fn a_greeting_is_played_from_its_start_and_loses_its_end_past_the_limit() {
        let mut backlog = Backlog::new(FRAME_SAMPLES);
        for index in 0..HOLD_FRAMES_MAX + 20 {
            backlog.push(&frame(if index < 3 { 1_000 } else { 8_000 }));
        }
        let played = drain(&mut backlog);
        assert_eq!(played.len(), HOLD_FRAMES_MAX);
        assert!(played[..3].iter().all(|sample| (900..1_100).contains(sample)), "{:?}", &played[..3]);
        assert!(played[3..].iter().all(|sample| (7_700..8_300).contains(sample)));
    }

    #[test]
    fn pauses_are_shortened_while_others_wait_but_never_left_out() {
        let mut backlog = Backlog::new(FRAME_SAMPLES);
        let speech = [5_000; 5];
        for value in speech.iter().chain(&[0; 20]).chain(&speech) {
            backlog.push(&frame(*value));
        }
        let played = drain(&mut backlog);
        assert_eq!(played.iter().filter(|sample| sample.unsigned_abs() > 4_000).count(), 10, "no speech is lost");
        assert_eq!(played.len(), 10 + REST_FRAMES);
    }

    #[test]
    fn live_audio_waits_a_bounded_time_and_loses_its_oldest() {
        let mut backlog = Backlog::new(FRAME_SAMPLES);
        backlog.push(&frame(1_000));
        assert_eq!(drain(&mut backlog).len(), 1);
        for index in 0..20 {
            backlog.push(&frame(1_000 + 500 * index));
        }
        let played = drain(&mut backlog);
        assert_eq!(played.len(), LIVE_FRAMES_MAX);
        assert!((10_000..11_000).contains(&played[LIVE_FRAMES_MAX - 1]), "{played:?}");
    }

    #[test]
    fn the_ring_wraps_without_mixing_frames() {
        let mut backlog = Backlog::new(FRAME_SAMPLES);
        let mut pcm = frame(0);
        for index in 0..3 * HOLD_FRAMES_MAX {
            let value = if index % 2 == 0 { 2_000 } else { -2_000 };
            backlog.push(&frame(value));
            assert!(backlog.pop(&mut pcm));
            assert_eq!(pcm[0].signum(), value.signum());
        }
        assert!(backlog.is_empty());
    }

    #[test]
    fn the_memory_of_a_greeting_is_given_back_once_the_lag_is_gone_and_not_taken_again() {
        let mut backlog = Backlog::new(FRAME_SAMPLES);
        for index in 0..LIVE_FRAMES_MAX + 1 {
            assert!(backlog.held.is_none());
            backlog.push(&frame(1_000 * (index as i16 + 1)));
        }
        assert!(backlog.held.is_some());
        let played = drain(&mut backlog);
        assert!(played.len() == LIVE_FRAMES_MAX + 1 && played.is_sorted(), "{played:?}");
        (0..3 * HOLD_FRAMES_MAX).for_each(|_| backlog.push(&frame(1_000)));
        assert!(backlog.held.is_none());
    }

    #[test]
    fn the_lag_is_caught_up_under_background_noise_too_and_no_word_is_lost() {
        for noise in [0, 90, 150, 280] {
            let mut backlog = Backlog::new(FRAME_SAMPLES);
            // A word of 300 ms every second.
            let frame_at = |index: usize| frame(if index % 50 < 15 { 5_000 } else { noise });
            (0..75).for_each(|index| backlog.push(&frame_at(index)));
            let (mut pcm, mut words) = (frame(0), 0);
            for index in 75..1_500 {
                backlog.push(&frame_at(index));
                assert!(backlog.pop(&mut pcm));
                words += usize::from(pcm[0] > 4_000);
            }
            assert!(backlog.count <= 1, "{} frames behind at {noise}", backlog.count);
            assert_eq!(words, 15 * 30, "{noise}");
        }
    }
}
