//! From payloads to samples: decoded, brought to the exit's rate, made up where they are missing, and cut into frames.
//!
//! What is missing is made up in one of two ways. A packet that is *lost* is concealed by its codec, which knows how the voice was going and
//! whose state has to go on. One that is merely *late* is stood in for by repeating the last pitch of what was played, behind the decoder's
//! back: when it comes after all, the decoder has missed nothing. Both fade, and under them the background of the line stays.

use crate::limits::PTIME_MS;
use crate::media::comfort::Comfort;
use crate::media::conceal::Concealer;
use crate::media::decode::{DECODED_SAMPLES_MAX, Decoder};
use crate::media::encode::FRAME_SAMPLES_MAX;
use crate::media::resample::{Decimator, Interpolator};
use crate::media::stretch::{self, Need};
use crate::sdp::Codec;

/// What `decode` takes at once of a packet of G.711 or G.722; longer ones come in pieces.
pub(super) const PIECE_MS: usize = 60;

/// From the decoder's rate to the exit's.
enum Resampling {
    None,
    Halve(Decimator),
    Double(Box<Interpolator>),
}

impl Resampling {
    /// Takes as much of `decoded` as `room` has room for; answers how many samples there are now.
    fn write(&mut self, decoded: &[i16], room: &mut [i16]) -> usize {
        match self {
            Resampling::Halve(decimator) => decimator.resample(&decoded[..decoded.len().min(2 * room.len())], room),
            Resampling::Double(interpolator) => {
                interpolator.resample(&decoded[..decoded.len().min(room.len() / 2)], room)
            }
            Resampling::None => {
                let samples = decoded.len().min(room.len());
                room[..samples].copy_from_slice(&decoded[..samples]);
                samples
            }
        }
    }

    /// Samples of the exit that so many of the decoder make.
    fn made(&self, decoded: usize) -> usize {
        match self {
            Resampling::None => decoded,
            Resampling::Halve(_) => decoded / 2,
            Resampling::Double(_) => 2 * decoded,
        }
    }

    /// Samples of the decoder that make at least so many of the exit.
    fn needed(&self, samples: usize) -> usize {
        match self {
            Resampling::None => samples,
            Resampling::Halve(_) => 2 * samples,
            Resampling::Double(_) => samples.div_ceil(2),
        }
    }
}

/// From payloads to frames.
pub(super) struct Hearing {
    decoder: Decoder,
    resampling: Resampling,
    /// Stands in for late packets, at the exit's rate, where anything waits for them.
    concealer: Option<Concealer>,
    comfort: Comfort,
    /// Samples that wait to be cut into frames: a packet of 20 ms behind two frames that are not full; `heard_max` once a longer one came.
    heard: Box<[i16]>,
    heard_max: usize,
    count: usize,
    /// The frame that was taken last, where `lengthen` may ask for it.
    past: Box<[i16]>,
    frame_samples: usize,
    /// Packets that were made up, recovered ones included.
    concealed: u64,
    recovered: u64,
    /// Samples taken out and put in.
    shortened: u64,
    lengthened: u64,
}

impl Hearing {
    /// `rate_hz` that frames are wanted at: the decoder's own, half of it or twice; `stands_in` where `stand_in` and `lengthen` are called.
    pub(super) fn new(codec: Codec, rate_hz: u32, stands_in: bool) -> Hearing {
        let decoder = Decoder::new(codec);
        let resampling = match decoder.sample_rate_hz() {
            own_hz if own_hz == 2 * rate_hz => Resampling::Halve(Decimator::new()),
            own_hz if 2 * own_hz == rate_hz => Resampling::Double(Box::default()),
            _ => Resampling::None,
        };
        let frame_samples = rate_hz as usize / 1_000 * PTIME_MS;
        let packet_samples = match codec {
            // Whole packets, of 16 kHz.
            Codec::Opus => DECODED_SAMPLES_MAX * rate_hz as usize / decoder.sample_rate_hz() as usize,
            Codec::Pcmu | Codec::Pcma | Codec::G722 => rate_hz as usize / 1_000 * PIECE_MS,
        };
        Hearing {
            decoder,
            resampling,
            concealer: stands_in.then(|| Concealer::for_late(rate_hz)),
            comfort: Comfort::new(),
            heard: vec![0; 3 * frame_samples].into_boxed_slice(),
            heard_max: packet_samples + 2 * frame_samples,
            count: 0,
            past: vec![0; if stands_in { frame_samples } else { 0 }].into_boxed_slice(),
            frame_samples,
            concealed: 0,
            recovered: 0,
            shortened: 0,
            lengthened: 0,
        }
    }

    pub(super) fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Samples that wait.
    pub(super) fn samples(&self) -> usize {
        self.count
    }

    /// Samples of one frame.
    pub(super) fn frame_samples(&self) -> usize {
        self.frame_samples
    }

    pub(super) fn concealed(&self) -> u64 {
        self.concealed
    }

    pub(super) fn recovered(&self) -> u64 {
        self.recovered
    }

    /// Time taken out and put in by stretching, ms.
    pub(super) fn stretched_ms(&self) -> (u64, u64) {
        let samples_per_ms = (self.frame_samples / PTIME_MS) as u64;
        (self.shortened / samples_per_ms, self.lengthened / samples_per_ms)
    }

    /// A payload that is none counts as lost.
    pub(super) fn decode(&mut self, payload: &[u8]) {
        let mut decoded = [0; DECODED_SAMPLES_MAX];
        match self.decoder.decode(payload, &mut decoded) {
            Ok(samples) if samples > 0 => {
                self.comfort.received(&decoded[..samples]);
                self.keep(&decoded[..samples], 0);
            }
            _ => self.conceal(0),
        }
    }

    /// Decodes a packet that nobody is to hear: what comes after it is coded by it.
    pub(super) fn pass_by(&mut self, payload: &[u8]) {
        let mut decoded = [0; DECODED_SAMPLES_MAX];
        if let Ok(samples) = self.decoder.decode(payload, &mut decoded) {
            self.resampling.write(&decoded[..samples], &mut [0; 2 * DECODED_SAMPLES_MAX]);
        }
    }

    /// Recovers the packet before `next`; its first `skip` samples are left out.
    pub(super) fn recover(&mut self, next: &[u8], skip: usize) {
        self.concealed += 1;
        self.recovered += 1;
        let mut decoded = [0; DECODED_SAMPLES_MAX];
        let samples = self.decoder.decode_fec(next, &mut decoded);
        self.keep(&decoded[..samples], skip);
    }

    /// Makes up one packet that is lost; its first `skip` samples are left out.
    pub(super) fn conceal(&mut self, skip: usize) {
        self.concealed += 1;
        let mut decoded = [0; DECODED_SAMPLES_MAX];
        let samples = self.decoder.conceal(&mut decoded);
        self.keep(&decoded[..samples], skip);
    }

    /// The same for a packet that began `distance_ticks` before `next`, which may tell something of it.
    pub(super) fn conceal_before(&mut self, next: &[u8], distance_ticks: u32, skip: usize) {
        self.concealed += 1;
        let mut decoded = [0; DECODED_SAMPLES_MAX];
        let samples = self.decoder.conceal_before(next, distance_ticks, &mut decoded);
        self.keep(&decoded[..samples], skip);
    }

    /// Sets the effort of concealment.
    pub(super) fn set_complexity(&mut self, complexity: u8) {
        self.decoder.set_complexity(complexity);
    }

    /// Conceals one packet, but at most `samples`; answers how many there are now more.
    pub(super) fn conceal_at_most(&mut self, samples: usize) -> usize {
        self.concealed += 1;
        let mut decoded = [0; DECODED_SAMPLES_MAX];
        let made = self.decoder.conceal(&mut decoded).min(self.resampling.needed(samples));
        let before = self.count;
        self.keep(&decoded[..made], 0);
        (self.count - before).max(1)
    }

    /// Fills the frame up in place of a packet that has not come; answers how many samples were made.
    pub(super) fn stand_in(&mut self) -> usize {
        self.concealed += 1;
        let made = self.frame_samples.saturating_sub(self.count);
        let pcm = &mut self.heard[self.count..self.count + made];
        let Some(concealer) = &mut self.concealer else {
            self.comfort.fill(pcm);
            self.count += made;
            return made;
        };
        concealer.conceal(pcm);
        let mut noise = [0; FRAME_SAMPLES_MAX];
        self.comfort.fill(&mut noise[..made]);
        let share = 1.0 - concealer.level();
        if share > 0.0 {
            for (sample, noise) in pcm.iter_mut().zip(&noise) {
                *sample = sample.saturating_add((f32::from(*noise) * share) as i16);
            }
        }
        self.count += made;
        made
    }

    /// Fills the frame up while nobody speaks.
    pub(super) fn silence(&mut self) {
        let end = self.frame_samples.max(self.count);
        self.comfort.fill(&mut self.heard[self.count..end]);
        if let Some(concealer) = &mut self.concealer {
            concealer.received(&mut self.heard[self.count..end]);
        }
        self.count = end;
    }

    /// The line's background.
    pub(super) fn comfort(&mut self) -> &mut Comfort {
        &mut self.comfort
    }

    /// Takes up to `most` samples out, if nobody hears it; answers how many.
    pub(super) fn shorten(&mut self, most: usize, need: Need) -> usize {
        let scale = self.scale();
        let gone = stretch::shorten(&mut self.heard[..self.count], most, scale, need);
        self.count -= gone;
        self.shortened += gone as u64;
        gone
    }

    /// Puts up to `most` samples in, if nobody hears it.
    pub(super) fn lengthen(&mut self, most: usize, need: Need) {
        let scale = self.scale();
        self.make_room(stretch::LENGTHENED_MAX * scale);
        let past = &self.past[..];
        let come = stretch::lengthen(past, &mut self.heard[..], self.count, most, scale, need);
        self.count += come;
        self.lengthened += come as u64;
    }

    fn scale(&self) -> usize {
        self.frame_samples / (8 * PTIME_MS)
    }

    /// Packets longer than 20 ms are rare: only a call that meets one has memory for them, from then on.
    fn make_room(&mut self, samples: usize) {
        if self.heard.len() - self.count < samples && self.heard.len() < self.heard_max {
            let mut heard = vec![0; self.heard_max].into_boxed_slice();
            heard[..self.count].copy_from_slice(&self.heard[..self.count]);
            self.heard = heard;
        }
    }

    fn keep(&mut self, decoded: &[i16], skip: usize) {
        self.make_room(self.resampling.made(decoded.len()));
        let room = &mut self.heard[self.count..];
        let kept = self.resampling.write(decoded, room);
        let skip = skip.min(kept);
        room.copy_within(skip..kept, 0);
        if let (true, Some(concealer)) = (kept > skip, &mut self.concealer) {
            concealer.received(&mut room[..kept - skip]);
        }
        self.count += kept - skip;
    }

    /// The oldest frame; call only when there is one.
    pub(super) fn take_frame(&mut self, frame: &mut [i16; FRAME_SAMPLES_MAX]) {
        let samples = self.frame_samples;
        frame[..samples].copy_from_slice(&self.heard[..samples]);
        let past = self.past.len();
        self.past.copy_from_slice(&self.heard[samples - past..samples]);
        self.heard.copy_within(samples..self.count, 0);
        self.count -= samples;
    }
}
