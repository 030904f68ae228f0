//! Opus through libopus (RFC 6716, RFC 7587): with `silk.rs` and `deep.rs`, the only file that names the library.
//!
//! Why no in-band FEC and a fixed complexity at first: FEC costs clean quality and belongs to the loss that receiver reports show
//! (`redundancy.rs`); the complexity that a core can afford depends on its load (the worker). Both are decided there, with these as the
//! start.
//!
//! Why the decoder is asked for floats: that is what it computes in. Its own way to 16 bits looks at every sample three times, one after the
//! other; `bend` and `to_i16` do the same in vectors, to the same bits.

use super::decode::{DECODED_SAMPLES_MAX, DecodeError};
use super::jitter::Kind;
use super::silk::{SilkEncoder, SilkError};
use crate::sdp::OpusParameters;
use ::opus::{Channels, SoftClip};

/// Rate that we decode at.
pub const DECODE_RATE_HZ: u32 = 16_000;

/// Rate that the encoder is fed at, unless the source is wideband.
const ENCODE_RATE_HZ: u32 = 8_000;

/// Effort of the encoder, 0 to 10: 5 costs 53 us a frame and scores 4.10 at 20 kbit/s (PESQ-NB; 0 costs 22 us and scores 4.04).
const COMPLEXITY: u8 = 5;

/// Bit rate when the receiver names none, and the most that narrowband speech is worth: 24,000 adds 0.03 PESQ.
const BITRATE_MAX: u32 = 20_000;

/// The same while redundancy is sent: the copy of the last frame takes its share.
const BITRATE_REDUNDANT_MAX: u32 = 24_000;

/// Least effort at which libopus writes any redundancy.
const COMPLEXITY_REDUNDANT_MIN: u8 = 2;

/// Lowest rate of RFC 7587 §7.1; a lower wish is not honoured.
const BITRATE_MIN: u32 = 6_000;

/// Bits that may be saved up in pauses, or owed: those of so long.
const SAVED_MAX_MS: i32 = 400;

/// Time in which they are spent or made up for. Half of it scores 0.01 less: the rate goes up and down more.
const SPENT_IN_MS: i32 = 1_000;

/// How far the rate asked for may lie above the mean, in hundredths.
const ABOVE_PCT_MAX: i32 = 25;
/// And below it.
const BELOW_PCT_MAX: i32 = 5;

/// Below this mean, libopus's choice of a bandwidth is near (9,700 and 8,300, its hysteresis): there the rate asked for keeps within less
/// than that, so that it never goes to and fro.
const NEAR_CHOICE_BITRATE: i32 = 12_000;
/// How far above such a mean.
const NEAR_CHOICE_ABOVE_PCT_MAX: i32 = 10;

/// The rate asked for changes by whole hundreds.
const BITRATE_STEP: i32 = 100;

/// Room for a packet of the usual 20 ms.
const USUAL_SAMPLES: usize = DECODE_RATE_HZ as usize / 50;

/// The smallest step of concealment: 2.5 ms.
const STEP_SAMPLES: usize = DECODE_RATE_HZ as usize / 400;

#[cfg(not(feature = "deep-plc"))]
type State = ::opus::Decoder;
#[cfg(feature = "deep-plc")]
type State = super::deep::DeepDecoder;

/// A decoder of one stream to 16 kHz mono, whatever the sender codes.
#[derive(Debug)]
pub struct OpusDecoder {
    state: State,
    /// Of the last good packet: what a lost one is taken to have held.
    packet_samples: usize,
    /// Bends what is too loud, across the borders of packets.
    soft_clip: SoftClip,
    /// The last packet was too loud: this one goes on where its curve ended.
    is_clipping: bool,
}

impl OpusDecoder {
    /// Takes the decoder's memory.
    ///
    /// # Panics
    /// When the system has no memory left.
    pub fn new() -> OpusDecoder {
        let state = State::new(DECODE_RATE_HZ, Channels::Mono).expect("16 kHz mono is a mode of libopus");
        OpusDecoder {
            state,
            packet_samples: DECODE_RATE_HZ as usize / 50,
            soft_clip: SoftClip::new(Channels::Mono),
            is_clipping: false,
        }
    }

    /// Decodes one packet. A packet that is not Opus leaves the decoder as it was.
    pub fn decode(&mut self, payload: &[u8], out: &mut [i16]) -> Result<usize, DecodeError> {
        // libopus takes an empty packet for a lost one; here it is a malformed one.
        if payload.is_empty() {
            return Err(DecodeError);
        }
        let is_usual = OpusDecoder::duration_48k(payload).is_some_and(|ticks| ticks <= 48_000 / 50);
        let samples = if is_usual {
            self.floats::<USUAL_SAMPLES>(payload, out, false)?
        } else {
            self.floats::<DECODED_SAMPLES_MAX>(payload, out, false)?
        };
        self.packet_samples = samples;
        Ok(samples)
    }

    /// Decodes, recovers or conceals (`fec`, an empty payload: as libopus has it) up to `ROOM` samples.
    fn floats<const ROOM: usize>(&mut self, payload: &[u8], out: &mut [i16], fec: bool) -> Result<usize, DecodeError> {
        let mut floats = [0.0; ROOM];
        let room = ROOM.min(out.len());
        let samples = self.state.decode_float(payload, &mut floats[..room], fec).map_err(|_| DecodeError)?;
        let floats = &mut floats[..samples];
        // Like libopus, which cuts what it makes up.
        if !payload.is_empty() && !fec {
            self.bend(floats);
        }
        for (out, &sample) in out.iter_mut().zip(&*floats) {
            *out = to_i16(sample);
        }
        Ok(samples)
    }

    /// Bends what 16 bits cannot hold, as libopus does. SILK's speech never needs it: it was 16 bits before.
    fn bend(&mut self, floats: &mut [f32]) {
        let is_loud = is_beyond_one(floats);
        if is_loud || self.is_clipping {
            self.soft_clip.apply(floats);
            self.is_clipping = is_loud;
        }
    }

    /// Sets the effort of concealment, 0 to 10, where there is a choice: the networks of the feature `deep-plc`.
    pub fn set_complexity(&mut self, complexity: u8) {
        #[cfg(feature = "deep-plc")]
        self.state.set_complexity(complexity);
        #[cfg(not(feature = "deep-plc"))]
        let _ = complexity;
    }

    /// Recovers the packet before `next` from its LBRR frame (RFC 6716 §2.1.7) or its DRED, or conceals where there is none.
    pub fn decode_fec(&mut self, next: &[u8], out: &mut [i16]) -> usize {
        let samples = self.missing_samples(out);
        if next.is_empty() {
            return self.conceal(out);
        }
        #[cfg(feature = "deep-plc")]
        if let Some(samples) = self.state.recover(next, samples, &mut out[..samples]) {
            return samples;
        }
        match self.floats::<DECODED_SAMPLES_MAX>(next, &mut out[..samples], true) {
            Ok(samples) => samples,
            Err(_) => self.conceal(out),
        }
    }

    /// Makes up one packet, which began `distance_ticks` (48 kHz) before `next`: of its DRED, where that reaches so far back.
    pub fn conceal_before(&mut self, next: &[u8], distance_ticks: u32, out: &mut [i16]) -> usize {
        #[cfg(feature = "deep-plc")]
        {
            let samples = self.missing_samples(out);
            let distance = (distance_ticks / (48_000 / DECODE_RATE_HZ)) as usize;
            if let Some(samples) = self.state.recover(next, distance, &mut out[..samples]) {
                return samples;
            }
        }
        #[cfg(not(feature = "deep-plc"))]
        let _ = (next, distance_ticks);
        self.conceal(out)
    }

    /// Makes up one packet.
    pub fn conceal(&mut self, out: &mut [i16]) -> usize {
        let samples = self.missing_samples(out);
        match self.floats::<DECODED_SAMPLES_MAX>(&[], &mut out[..samples], false) {
            Ok(samples) => samples,
            Err(_) => {
                out[..samples].fill(0);
                samples
            }
        }
    }

    /// Playing time of a packet, rounded up.
    pub fn duration_ms(payload: &[u8]) -> Option<u32> {
        Some(OpusDecoder::duration_48k(payload)?.div_ceil(48))
    }

    /// Playing time of a packet in ticks of 48 kHz.
    pub fn duration_48k(payload: &[u8]) -> Option<u32> {
        ::opus::packet::get_nb_samples(payload, 48_000).ok().map(|ticks| ticks as u32)
    }

    /// A packet's worth, in whole steps, within `out`.
    fn missing_samples(&self, out: &[i16]) -> usize {
        self.packet_samples.min(out.len()) / STEP_SAMPLES * STEP_SAMPLES
    }
}

impl Default for OpusDecoder {
    fn default() -> Self {
        OpusDecoder::new()
    }
}

/// Whether any sample leaves [-1, 1]. Compared as integers, which order as the magnitudes do: eight at a time, and none is skipped.
fn is_beyond_one(floats: &[f32]) -> bool {
    let one = 1.0_f32.to_bits() as i32;
    floats.iter().fold(false, |any, sample| any | ((sample.to_bits() & !(1 << 31)) as i32 > one))
}

/// Nearest 16-bit value, halves to the even one. Adding 1.5 * 2^23 leaves a float no fraction, and its lowest bits are the number; a
/// function that rounds is a call for each sample on processors without SSE4.1.
fn to_i16(sample: f32) -> i16 {
    let scaled = (sample * 32_768.0).clamp(-32_768.0, 32_767.0);
    (scaled + 12_582_912.0).to_bits() as i16
}

/// What a packet is to the jitter buffer, by its first bytes.
///
/// In-band FEC is announced by the LBRR flag, which follows the VAD flags of the first frame's one to three SILK frames (RFC 6716 §4.2.3);
/// all are coded with even odds, so they are that byte's highest bits. CELT frames have none. Packets of one or two bytes begin a pause
/// (RFC 7587 §3.1.3).
pub fn kind(payload: &[u8]) -> Kind {
    if payload.len() <= 2 {
        return Kind::Pause;
    }
    // §3.1: five bits of configuration, the stereo flag, two bits of frame count code.
    let (configuration, code) = (payload[0] >> 3, payload[0] & 3);
    let silk_frames = match configuration {
        0..12 => [1, 1, 2, 3][usize::from(configuration & 3)],
        12..16 => 1,
        _ => return Kind::Audio,
    };
    let first = match code {
        0 | 1 => 1,
        2 if payload[1] < 252 => 2,
        2 => 3,
        // Codes with a count of frames, padding and lengths: not worth reading, a lost packet tells.
        _ => return Kind::Redundant,
    };
    match payload.get(first) {
        Some(byte) if byte >> (7 - silk_frames) & 1 == 1 => Kind::Redundant,
        _ => Kind::Audio,
    }
}

/// An encoder of one stream, mono: from 8 kHz, or from 16 where the source has as much.
#[derive(Debug)]
pub struct OpusEncoder {
    state: SilkEncoder,
    rate_hz: u32,
    /// The receiver's `maxaveragebitrate`.
    ceiling: Option<u32>,
    /// The receiver can use redundancy.
    use_inband_fec: bool,
    complexity: u8,
    expected_loss_pct: u8,
    allowance: Allowance,
}

impl OpusEncoder {
    /// Takes the encoder's memory and sets it up for speech.
    ///
    /// # Panics
    /// When the system has no memory left.
    pub fn new(parameters: &OpusParameters) -> OpusEncoder {
        OpusEncoder::at_rate(parameters, ENCODE_RATE_HZ)
    }

    /// The same for samples of this rate: 8,000 or 16,000.
    ///
    /// # Panics
    /// When the system has no memory left, or at another rate.
    pub fn at_rate(parameters: &OpusParameters, rate_hz: u32) -> OpusEncoder {
        let mean = bitrate(parameters.max_average_bitrate, false);
        let configured = || -> Result<SilkEncoder, SilkError> {
            let mut state = SilkEncoder::new(rate_hz)?;
            state.set_complexity(COMPLEXITY)?;
            state.set_bitrate(mean)?;
            state.set_constrained_vbr()?;
            state.set_inband_fec(false)?;
            state.set_dtx(false)?;
            Ok(state)
        };
        let state = configured().expect("every setting is one that libopus has");
        OpusEncoder {
            state,
            rate_hz,
            ceiling: parameters.max_average_bitrate,
            use_inband_fec: parameters.use_inband_fec,
            complexity: COMPLEXITY,
            expected_loss_pct: 0,
            allowance: Allowance::of(mean),
        }
    }

    /// Sets the effort, 0 to 10.
    pub fn set_complexity(&mut self, complexity: u8) {
        self.complexity = complexity.min(10);
        self.apply();
    }

    /// Sends in-band FEC for a path that loses so many percent, none for 0; only to a receiver that can use it (RFC 7587 §6.1).
    pub fn set_expected_loss(&mut self, pct: u8) {
        self.expected_loss_pct = if self.use_inband_fec { pct.min(100) } else { 0 };
        self.apply();
    }

    /// Whether redundancy is sent.
    pub fn is_redundant(&self) -> bool {
        self.expected_loss_pct > 0
    }

    fn apply(&mut self) {
        let is_redundant = self.is_redundant();
        let least = if is_redundant { COMPLEXITY_REDUNDANT_MIN } else { 0 };
        let mut apply = || -> Result<(), SilkError> {
            self.state.set_complexity(self.complexity.max(least))?;
            self.state.set_inband_fec(is_redundant)?;
            self.state.set_packet_loss_perc(self.expected_loss_pct)?;
            self.allowance.set_mean(bitrate(self.ceiling, is_redundant));
            self.state.set_bitrate(self.allowance.asked)
        };
        let applied = apply();
        debug_assert!(applied.is_ok(), "every value is within libopus's bounds: {applied:?}");
    }

    /// Rate of the samples that `encode` wants.
    pub fn sample_rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// Encodes one frame of 20 ms and answers the payload's length.
    ///
    /// # Panics
    /// When `pcm` is not one frame or `out` is empty.
    pub fn encode(&mut self, pcm: &[i16], out: &mut [u8]) -> usize {
        assert_eq!(pcm.len(), self.rate_hz as usize / 50);
        let len = self.state.encode(pcm, out).expect("a frame of 20 ms can be encoded into any buffer");
        if let Some(bits) = self.allowance.next_after(len) {
            let set = self.state.set_bitrate(bits);
            debug_assert!(set.is_ok(), "within libopus's bounds: {set:?}");
        }
        len
    }
}

/// Keeps the mean of what is sent at the rate that was agreed, which is one of averages (RFC 7587 §6.1, `maxaveragebitrate`).
///
/// Why: asked for 20,000 at complexity 0, libopus sends 19,270 of dense speech, and less of speech with pauses. What it leaves is worth 0.02
/// PESQ and costs no effort.
#[derive(Debug)]
struct Allowance {
    /// Bits a second.
    mean: i32,
    /// Bits not sent yet; below 0: sent too many.
    saved: i32,
    /// What libopus is asked for.
    asked: u32,
}

impl Allowance {
    fn of(mean: u32) -> Allowance {
        Allowance { mean: mean as i32, saved: 0, asked: mean }
    }

    fn set_mean(&mut self, mean: u32) {
        if self.mean != mean as i32 {
            *self = Allowance::of(mean);
        }
    }

    /// The rate to ask for after a frame of 20 ms took so many bytes, where that changes.
    fn next_after(&mut self, bytes: usize) -> Option<u32> {
        let most = self.mean * SAVED_MAX_MS / 1_000;
        self.saved = (self.saved + self.mean / 50 - 8 * bytes as i32).clamp(-most, most);
        let most_pct = if self.mean < NEAR_CHOICE_BITRATE { NEAR_CHOICE_ABOVE_PCT_MAX } else { ABOVE_PCT_MAX };
        let above = self.saved * 1_000 / SPENT_IN_MS;
        let above = above.clamp(-self.mean * BELOW_PCT_MAX / 100, self.mean * most_pct / 100);
        let asked = ((self.mean + above) / BITRATE_STEP * BITRATE_STEP) as u32;
        (asked != self.asked).then(|| {
            self.asked = asked;
            asked
        })
    }
}

/// The receiver's `maxaveragebitrate` is a ceiling.
fn bitrate(ceiling: Option<u32>, is_redundant: bool) -> u32 {
    let most = if is_redundant { BITRATE_REDUNDANT_MAX } else { BITRATE_MAX };
    ceiling.unwrap_or(most).clamp(BITRATE_MIN, most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::encode::FRAME_SAMPLES;

    const GREETING: &[u8] = include_bytes!("../../../control/standin/speech/greeting-8k.wav");

    /// Of real speech: libopus repeats what its detector takes for a voice, and a tone is none.
    fn speech(frame: usize) -> Vec<i16> {
        let bytes = &GREETING[44 + (40 + frame) * 2 * FRAME_SAMPLES..][..2 * FRAME_SAMPLES];
        bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
    }

    fn redundant_of_100(encoder: &mut OpusEncoder) -> usize {
        let mut out = [0; 400];
        (0..100)
            .filter(|&frame| {
                let len = encoder.encode(&speech(frame), &mut out);
                kind(&out[..len]) == Kind::Redundant
            })
            .count()
    }

    #[test]
    fn redundancy_is_sent_when_loss_is_expected_and_recognised_in_the_packets() {
        let parameters = OpusParameters { use_inband_fec: true, ..OpusParameters::default() };
        let mut encoder = OpusEncoder::new(&parameters);
        encoder.set_complexity(0);
        assert_eq!(redundant_of_100(&mut encoder), 0);
        encoder.set_expected_loss(10);
        assert!(redundant_of_100(&mut encoder) > 60);
        encoder.set_expected_loss(0);
        redundant_of_100(&mut encoder);
        assert_eq!(redundant_of_100(&mut encoder), 0);
    }

    /// What the application for speech, CELT half included, makes of the same frames.
    fn whole(rate_hz: u32, complexity: u8) -> ::opus::Encoder {
        let mut encoder = ::opus::Encoder::new(rate_hz, Channels::Mono, ::opus::Application::Voip).unwrap();
        encoder.set_bitrate(::opus::Bitrate::Bits(BITRATE_MAX as i32)).unwrap();
        encoder.set_vbr_constraint(true).unwrap();
        encoder.set_complexity(complexity.into()).unwrap();
        encoder
    }

    #[test]
    fn the_half_encoder_codes_in_the_same_mode_and_bandwidth_and_at_the_same_rate_as_the_whole() {
        for rate_hz in [8_000, 16_000] {
            for complexity in [0, 1, 5, 10] {
                let mut half = OpusEncoder::at_rate(&OpusParameters::default(), rate_hz);
                half.set_complexity(complexity);
                let mut whole = whole(rate_hz, complexity);
                let (mut bytes, mut packet) = ([0; 2], [0; 400]);
                for frame in 0..120 {
                    let narrow = speech(frame);
                    let wide: Vec<i16> = narrow.iter().flat_map(|&sample| [sample; 2]).collect();
                    let pcm = if rate_hz == 8_000 { narrow } else { wide };
                    whole.set_bitrate(::opus::Bitrate::Bits(half.allowance.asked as i32)).unwrap();
                    let len = whole.encode(&pcm, &mut packet).unwrap();
                    let configuration = packet[0];
                    bytes[1] += len;
                    bytes[0] += half.encode(&pcm, &mut packet);
                    assert_eq!(packet[0], configuration, "{rate_hz} {complexity} {frame}");
                }
                let ratio = bytes[0] as f64 / bytes[1] as f64;
                assert!((0.97..1.03).contains(&ratio), "{rate_hz} {complexity}: {bytes:?}");
            }
        }
    }

    /// Bits a second of so many frames of speech, and the least and most that was asked for.
    fn sent(ceiling: u32, complexity: u8, frames: usize) -> (f64, u32, u32) {
        let parameters = OpusParameters { max_average_bitrate: Some(ceiling), ..OpusParameters::default() };
        let mut encoder = OpusEncoder::new(&parameters);
        encoder.set_complexity(complexity);
        let (mut bytes, mut least, mut most, mut packet) = (0, ceiling, ceiling, [0; 400]);
        for frame in 0..frames {
            bytes += encoder.encode(&speech(frame % 120), &mut packet);
            least = least.min(encoder.allowance.asked);
            most = most.max(encoder.allowance.asked);
        }
        ((8 * bytes * 50) as f64 / frames as f64, least, most)
    }

    #[test]
    fn what_is_sent_of_speech_has_the_mean_that_the_receiver_asked_for() {
        for complexity in [0, 1, 5, 10] {
            for ceiling in [10_000, 16_000, 20_000] {
                let (mean, least, most) = sent(ceiling, complexity, 1_200);
                // What was saved up at most is 0.4 s of these 24.
                let share = mean / f64::from(ceiling);
                assert!((0.97..=1.017).contains(&share), "{complexity} {ceiling}: {mean}");
                let ceiling_pct = if ceiling < 12_000 { 110 } else { 125 };
                assert!(least >= ceiling * 95 / 100, "{complexity} {ceiling}: {least}");
                assert!(most <= ceiling * ceiling_pct / 100, "{complexity} {ceiling}: {most}");
            }
        }
    }

    #[test]
    fn of_a_long_pause_so_much_is_saved_as_is_spent_in_seconds() {
        let mut allowance = Allowance::of(20_000);
        for _ in 0..50_000 {
            allowance.next_after(3);
        }
        assert_eq!((allowance.asked, allowance.saved), (25_000, 8_000));
        // Whoever then sends what is asked is at the mean again before long.
        let frames = (0..1_000).take_while(|_| {
            allowance.next_after(allowance.asked as usize / 400);
            allowance.asked > 20_400
        });
        assert!((50..250).contains(&frames.count()));
    }

    #[test]
    fn a_change_of_effort_in_the_middle_of_speech_is_heard_nowhere() {
        let mut encoder = OpusEncoder::new(&OpusParameters::default());
        let mut decoder = OpusDecoder::new();
        let (mut said, mut heard) = (Vec::new(), Vec::new());
        for frame in 0..120 {
            encoder.set_complexity([0, 5, 1, 10][frame / 10 % 4]);
            let (mut packet, mut pcm) = ([0; 400], [0; 1_920]);
            let len = encoder.encode(&speech(frame), &mut packet);
            let samples = decoder.decode(&packet[..len], &mut pcm).unwrap();
            said.extend(speech(frame));
            heard.extend(pcm[..samples].iter().step_by(2).copied());
        }
        let alike = (0..120)
            .map(|delay| {
                let pairs = || heard[delay..].iter().zip(&said).map(|(&a, &b)| (f64::from(a), f64::from(b)));
                let [product, a, b] =
                    pairs().fold([0.0; 3], |sum, (a, b)| [sum[0] + a * b, sum[1] + a * a, sum[2] + b * b]);
                product / (a * b).sqrt()
            })
            .fold(0.0, f64::max);
        assert!(alike > 0.9, "{alike:.3}");
    }

    /// Packets of SILK, both together and CELT, of three lengths.
    #[cfg(not(feature = "deep-plc"))]
    fn packets(gain: f32) -> Vec<Vec<u8>> {
        let settings = [(8_000, 12_000, 20), (16_000, 20_000, 60), (48_000, 32_000, 20), (48_000, 96_000, 40)];
        settings
            .iter()
            .flat_map(|&(rate_hz, bits, ms)| {
                let mut encoder = ::opus::Encoder::new(rate_hz, Channels::Mono, ::opus::Application::Voip).unwrap();
                encoder.set_bitrate(::opus::Bitrate::Bits(bits)).unwrap();
                let pcm: Vec<f32> = (0..100)
                    .flat_map(speech)
                    .flat_map(|sample| vec![f32::from(sample) / 32_768.0 * gain; rate_hz as usize / 8_000])
                    .collect();
                let frames = pcm.chunks_exact(rate_hz as usize * ms / 1_000);
                frames.map(|frame| encoder.encode_vec_float(frame, 1_276).unwrap()).collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    #[cfg(not(feature = "deep-plc"))]
    fn samples_are_those_that_libopus_itself_makes_of_every_packet_however_loud() {
        for gain in [0.0, 0.5, 4.0, 40.0] {
            let mut ours = OpusDecoder::new();
            let mut theirs = ::opus::Decoder::new(DECODE_RATE_HZ, Channels::Mono).unwrap();
            let (mut out, mut expected) = ([0; DECODED_SAMPLES_MAX], [0; DECODED_SAMPLES_MAX]);
            let mut loudest = 0;
            for (number, packet) in packets(gain).iter().enumerate() {
                let samples = match number % 10 {
                    7 => ours.conceal(&mut out),
                    8 => ours.decode_fec(packet, &mut out),
                    _ => ours.decode(packet, &mut out).unwrap(),
                };
                let asked = if number % 10 == 7 { &[][..] } else { packet };
                let room = if matches!(number % 10, 7 | 8) { samples } else { DECODED_SAMPLES_MAX };
                let length = theirs.decode(asked, &mut expected[..room], number % 10 == 8).unwrap();
                assert!(out[..samples] == expected[..length], "gain {gain}, packet {number}");
                loudest = out[..samples].iter().map(|sample| sample.unsigned_abs()).max().unwrap().max(loudest);
            }
            assert_eq!(loudest > 32_000, gain > 1.0, "{gain} {loudest}");
        }
    }

    #[test]
    fn floats_become_the_nearest_sample_and_never_leave_the_range() {
        for (sample, expected) in [
            (0.0, 0),
            (-0.0, 0),
            (0.5 / 32_768.0, 0),
            (1.5 / 32_768.0, 2),
            (-0.5 / 32_768.0, 0),
            (-1.5 / 32_768.0, -2),
            (0.999_99, 32_767),
            (1.0, 32_767),
            (-1.0, -32_768),
            (2.0, 32_767),
            (-2.0, -32_768),
        ] {
            assert_eq!(to_i16(sample), expected, "{sample}");
        }
        for sample in i16::MIN..=i16::MAX {
            assert_eq!(to_i16(f32::from(sample) / 32_768.0), sample);
        }
        assert!(!is_beyond_one(&[0.0, -1.0, 1.0]));
        assert!(is_beyond_one(&[0.0, -1.000_1]) && is_beyond_one(&[1.000_1, 0.0]) && !is_beyond_one(&[]));
    }

    #[test]
    fn a_receiver_that_cannot_use_redundancy_gets_none() {
        let mut encoder = OpusEncoder::new(&OpusParameters::default());
        encoder.set_expected_loss(20);
        assert_eq!(redundant_of_100(&mut encoder), 0);
    }

    #[test]
    fn kinds_of_packets_are_told_by_their_first_bytes() {
        assert_eq!(kind(&[]), Kind::Pause);
        assert_eq!(kind(&[0x48]), Kind::Pause);
        assert_eq!(kind(&[0x48, 0]), Kind::Pause);
        // SILK wideband, 20 ms, one frame: VAD, then LBRR.
        assert_eq!(kind(&[0x48, 0b0100_0000, 1]), Kind::Redundant);
        assert_eq!(kind(&[0x48, 0b1000_0000, 1]), Kind::Audio);
        // 60 ms: three VAD flags first.
        assert_eq!(kind(&[0x58, 0b1110_0000, 1]), Kind::Audio);
        assert_eq!(kind(&[0x58, 0b0001_0000, 1]), Kind::Redundant);
        // Two frames of different length, the first one's length in one byte or two.
        assert_eq!(kind(&[0x4a, 100, 0b0100_0000, 1]), Kind::Redundant);
        assert_eq!(kind(&[0x4a, 253, 1, 0b1000_0000, 1]), Kind::Audio);
        // CELT has none.
        assert_eq!(kind(&[0xf8, 0xff, 0xff]), Kind::Audio);
    }
}
