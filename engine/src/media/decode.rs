//! Payload to samples.
//!
//! Why a lost packet is taken to have been as long as the one before it: nothing else is known of it, and senders change their packet
//! time rarely. So `conceal` and `decode_fec` make one packet time of samples, 20 ms until a packet has said otherwise.

use super::conceal::Concealer;
use super::g711::Law;
use super::g722::G722Decoder;
use super::jitter::Kind;
use super::opus::{self, OpusDecoder};
use crate::sdp::Codec;

/// Samples of one decoded packet at most: 120 ms at 16 kHz (RFC 6716 §2.1.4).
pub const DECODED_SAMPLES_MAX: usize = 1_920;

const G711_RATE_HZ: u32 = 8_000;
const G722_RATE_HZ: u32 = 16_000;

/// A decoder. Opus and G.722 are decoded at 16 kHz, G.711 at 8 kHz; mono.
#[derive(Debug)]
pub struct Decoder(State);

#[derive(Debug)]
enum State {
    Opus(OpusDecoder),
    G711 { law: Law, concealer: Box<Concealer>, packet_samples: usize },
    G722 { state: Box<G722Decoder>, concealer: Box<Concealer>, packet_samples: usize },
}

/// The payload is not of this codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError;

impl Decoder {
    /// Takes all memory that the stream needs.
    pub fn new(codec: Codec) -> Decoder {
        Decoder(match (Law::of(codec), codec) {
            (Some(law), _) => {
                State::G711 { law, concealer: Box::new(Concealer::new(G711_RATE_HZ)), packet_samples: 160 }
            }
            (None, Codec::G722) => State::G722 {
                state: Box::new(G722Decoder::new()),
                concealer: Box::new(Concealer::new(G722_RATE_HZ)),
                packet_samples: 320,
            },
            (None, _) => State::Opus(OpusDecoder::new()),
        })
    }

    /// Rate of the samples it makes: 16,000 for Opus and G.722, 8,000 for G.711.
    pub fn sample_rate_hz(&self) -> u32 {
        match &self.0 {
            State::Opus(_) => opus::DECODE_RATE_HZ,
            State::G711 { .. } => G711_RATE_HZ,
            State::G722 { .. } => G722_RATE_HZ,
        }
    }

    /// Decodes one payload into `out` and answers the number of samples. `out` needs `DECODED_SAMPLES_MAX`. After an error the stream
    /// goes on as if the packet were missing: call `conceal` in its place.
    pub fn decode(&mut self, payload: &[u8], out: &mut [i16]) -> Result<usize, DecodeError> {
        match &mut self.0 {
            State::Opus(decoder) => decoder.decode(payload, out),
            State::G711 { law, concealer, packet_samples } => {
                // One byte per sample (RFC 3551 §4.5.14).
                let out = out.get_mut(..payload.len()).filter(|out| !out.is_empty()).ok_or(DecodeError)?;
                law.decode(payload, out);
                concealer.received(out);
                *packet_samples = out.len();
                Ok(out.len())
            }
            State::G722 { state, concealer, packet_samples } => {
                let out = out.get_mut(..2 * payload.len()).filter(|out| !out.is_empty()).ok_or(DecodeError)?;
                state.decode(payload, out);
                concealer.received(out);
                *packet_samples = out.len();
                Ok(out.len())
            }
        }
    }

    /// Recovers the packet before `next` (as long as the last one) from its in-band FEC, or conceals where there is none.
    pub fn decode_fec(&mut self, next: &[u8], out: &mut [i16]) -> usize {
        match &mut self.0 {
            State::Opus(decoder) => decoder.decode_fec(next, out),
            State::G711 { .. } | State::G722 { .. } => self.conceal(out),
        }
    }

    /// Makes up one packet as long as the last one (libopus' own concealment; G.711: repetition of the last pitch with fading,
    /// ITU-T G.711 App. I in spirit).
    pub fn conceal(&mut self, out: &mut [i16]) -> usize {
        match &mut self.0 {
            State::Opus(decoder) => decoder.conceal(out),
            State::G711 { concealer, packet_samples, .. } | State::G722 { concealer, packet_samples, .. } => {
                let samples = (*packet_samples).min(out.len());
                concealer.conceal(&mut out[..samples]);
                samples
            }
        }
    }

    /// The same for a packet that began `distance_ticks` of the RTP clock before `next`, the first one that is there after it.
    pub fn conceal_before(&mut self, next: &[u8], distance_ticks: u32, out: &mut [i16]) -> usize {
        match &mut self.0 {
            State::Opus(decoder) => decoder.conceal_before(next, distance_ticks, out),
            State::G711 { .. } | State::G722 { .. } => self.conceal(out),
        }
    }

    /// Sets the effort of concealment, 0 to 10, where there is a choice.
    pub fn set_complexity(&mut self, complexity: u8) {
        if let State::Opus(decoder) = &mut self.0 {
            decoder.set_complexity(complexity);
        }
    }

    /// What a payload is to the jitter buffer. Opus: whether it carries redundancy for the packet before it, or begins a pause.
    pub fn kind(&self, payload: &[u8]) -> Kind {
        match &self.0 {
            State::Opus(_) => opus::kind(payload),
            State::G711 { .. } | State::G722 { .. } => Kind::Audio,
        }
    }

    /// Playing time of a payload in ticks of its RTP clock, without decoding it; `None` when malformed.
    pub fn duration_ticks(&self, payload: &[u8], clock_rate_hz: u32) -> Option<u32> {
        match &self.0 {
            State::Opus(_) => OpusDecoder::duration_48k(payload).map(|ticks| ticks * (clock_rate_hz / 8_000) / 6),
            // One byte a tick in all of them: G.722's clock counts pairs of samples (RFC 3551 §4.5.2).
            State::G711 { .. } | State::G722 { .. } => (!payload.is_empty()).then_some(payload.len() as u32),
        }
    }

    /// Playing time of a payload in ms, without decoding it; `None` when malformed. Opus: 2.5 rounds up to 3.
    pub fn duration_ms(&self, payload: &[u8]) -> Option<u32> {
        match &self.0 {
            State::Opus(_) => OpusDecoder::duration_ms(payload),
            State::G711 { .. } | State::G722 { .. } if payload.is_empty() => None,
            State::G711 { .. } | State::G722 { .. } => Some(payload.len().div_ceil(8) as u32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::encode::{ENCODED_BYTES_MAX, Encoder, FRAME_SAMPLES};
    use crate::sdp::OpusParameters;
    use ::opus::{Application, Bandwidth, Bitrate, Channels};
    use proptest::prelude::*;
    use std::f64::consts::TAU;

    fn tone(rate_hz: u32, hz: f64, samples: usize) -> Vec<i16> {
        (0..samples).map(|n| (8_000.0 * (TAU * hz * n as f64 / f64::from(rate_hz)).sin()) as i16).collect()
    }

    fn level(pcm: &[i16]) -> f64 {
        (pcm.iter().map(|&sample| f64::from(sample).powi(2)).sum::<f64>() / pcm.len() as f64).sqrt()
    }

    /// What a browser's encoder makes: 48 kHz stereo.
    fn browser(application: Application) -> ::opus::Encoder {
        let mut encoder = ::opus::Encoder::new(48_000, Channels::Stereo, application).unwrap();
        encoder.set_bitrate(Bitrate::Bits(32_000)).unwrap();
        encoder
    }

    fn stereo(mono: &[i16]) -> Vec<i16> {
        mono.iter().flat_map(|&sample| [sample, sample]).collect()
    }

    #[test]
    fn opus_packets_of_every_length_decode_to_their_time() {
        // (samples at 48 kHz, samples at 16 kHz, ms rounded up)
        for (ticks, samples, ms) in [
            (120, 40, 3),
            (240, 80, 5),
            (480, 160, 10),
            (960, 320, 20),
            (1_920, 640, 40),
            (2_880, 960, 60),
            (3_840, 1_280, 80),
            (5_760, 1_920, 120),
        ] {
            let application = if ticks < 480 { Application::LowDelay } else { Application::Voip };
            let payload = browser(application).encode_vec(&stereo(&tone(48_000, 440.0, ticks)), 1_276).unwrap();
            let mut decoder = Decoder::new(Codec::Opus);
            let mut out = [0; DECODED_SAMPLES_MAX];
            assert_eq!(decoder.duration_ms(&payload), Some(ms));
            assert_eq!(decoder.decode(&payload, &mut out), Ok(samples), "{ticks}");
            assert_eq!(decoder.conceal(&mut out), samples, "a lost packet was as long");
            assert_eq!(decoder.decode_fec(&payload, &mut out), samples);
        }
    }

    #[test]
    fn a_packet_of_another_length_after_a_loss_is_recovered_with_the_length_of_the_lost_one() {
        let mut encoder = browser(Application::Voip);
        let packet = |encoder: &mut ::opus::Encoder, ticks| {
            encoder.encode_vec(&stereo(&tone(48_000, 300.0, ticks)), 1_276).unwrap()
        };
        let mut decoder = Decoder::new(Codec::Opus);
        let mut out = [0; DECODED_SAMPLES_MAX];
        decoder.decode(&packet(&mut encoder, 960), &mut out).unwrap();
        assert_eq!(decoder.decode_fec(&packet(&mut encoder, 2_880), &mut out), 320);
        decoder.decode(&packet(&mut encoder, 2_880), &mut out).unwrap();
        assert_eq!(decoder.decode_fec(&packet(&mut encoder, 480), &mut out), 960);
    }

    #[test]
    fn in_band_fec_brings_a_lost_packet_back_better_than_concealment() {
        let mut encoder = ::opus::Encoder::new(16_000, Channels::Mono, Application::Voip).unwrap();
        encoder.set_bandwidth(Bandwidth::Wideband).unwrap();
        encoder.set_bitrate(Bitrate::Bits(32_000)).unwrap();
        encoder.set_inband_fec(true).unwrap();
        encoder.set_packet_loss_perc(30).unwrap();
        // A glide: what went before does not tell what comes.
        let pcm: Vec<i16> = (0..16_000)
            .map(|n| f64::from(n) / 16_000.0)
            .map(|t| (6_000.0 * (TAU * (200.0 * t + 600.0 * t * t)).sin()) as i16)
            .collect();
        let payloads: Vec<Vec<u8>> =
            pcm.chunks_exact(320).map(|frame| encoder.encode_vec(frame, 1_276).unwrap()).collect();
        let play = |lost: fn(&mut Decoder, &[u8], &mut [i16]) -> usize| {
            let mut decoder = Decoder::new(Codec::Opus);
            let mut all = Vec::new();
            for (index, payload) in payloads.iter().enumerate() {
                let mut out = [0; DECODED_SAMPLES_MAX];
                let samples = match payloads.get(index + 1) {
                    Some(next) if index % 5 == 4 => lost(&mut decoder, next, &mut out),
                    _ => decoder.decode(payload, &mut out).unwrap(),
                };
                all.extend_from_slice(&out[..samples]);
            }
            all
        };
        let concealed = play(|decoder, _, out| decoder.conceal(out));
        let recovered = play(|decoder, next, out| decoder.decode_fec(next, out));
        let mut decoder = Decoder::new(Codec::Opus);
        let mut reference = Vec::new();
        for payload in &payloads {
            let mut out = [0; DECODED_SAMPLES_MAX];
            let samples = decoder.decode(payload, &mut out).unwrap();
            reference.extend_from_slice(&out[..samples]);
        }
        let error =
            |pcm: &[i16]| level(&pcm.iter().zip(&reference).map(|(&a, &b)| a.wrapping_sub(b)).collect::<Vec<_>>());
        assert_eq!(recovered.len(), reference.len());
        assert!(error(&recovered) < 0.5 * error(&concealed), "{:.0} {:.0}", error(&recovered), error(&concealed));
    }

    #[test]
    fn what_is_not_opus_is_an_error_and_leaves_the_decoder_as_it_was() {
        let mut encoder = browser(Application::Voip);
        let (mut decoder, mut spared) = (Decoder::new(Codec::Opus), Decoder::new(Codec::Opus));
        let pcm = stereo(&tone(48_000, 440.0, 960));
        for garbage in [
            &[][..],
            &[0x7b, 0xff, 0xff], // code 3: 63 frames
            &[0x7b, 0x00],       // code 3: no frame
            &[0x02, 0xff],       // code 2: half a length
            &[0x01, 0],          // code 1: two frames of different length
            &[0x1b, 0x83, 9, 9], // more than 120 ms
        ] {
            let (mut out, mut expected) = ([0; DECODED_SAMPLES_MAX], [0; DECODED_SAMPLES_MAX]);
            for _ in 0..5 {
                let payload = encoder.encode_vec(&pcm, 1_276).unwrap();
                assert_eq!(decoder.decode(&payload, &mut out), Ok(320));
                assert_eq!(spared.decode(&payload, &mut expected), Ok(320));
                assert_eq!(out, expected);
            }
            assert_eq!(decoder.decode(garbage, &mut out), Err(DecodeError), "{garbage:x?}");
            assert_eq!(decoder.conceal(&mut out), 320);
            assert_eq!(spared.conceal(&mut expected), 320);
            assert_eq!(out[..320], expected[..320]);
        }
    }

    #[test]
    fn durations_of_malformed_payloads_are_unknown() {
        let decoder = Decoder::new(Codec::Opus);
        assert_eq!(decoder.duration_ms(&[]), None);
        assert_eq!(decoder.duration_ms(&[0x1b]), None, "code 3 without its count");
        assert_eq!(decoder.duration_ms(&[0x1b, 0x03]), None, "three frames of 60 ms");
        let decoder = Decoder::new(Codec::Pcmu);
        assert_eq!(decoder.duration_ms(&[]), None);
        assert_eq!(decoder.duration_ms(&[0; 160]), Some(20));
        assert_eq!(decoder.duration_ms(&[0; 241]), Some(31));
    }

    #[test]
    fn g711_decodes_one_sample_per_byte_and_refuses_what_does_not_fit() {
        for codec in [Codec::Pcmu, Codec::Pcma] {
            let mut decoder = Decoder::new(codec);
            let mut out = [0; DECODED_SAMPLES_MAX];
            assert_eq!(decoder.sample_rate_hz(), 8_000);
            for length in [1, 80, 160, 240, 480, DECODED_SAMPLES_MAX] {
                assert_eq!(decoder.decode(&vec![0x55; length], &mut out), Ok(length));
                assert_eq!(decoder.conceal(&mut out), length);
                assert_eq!(decoder.decode_fec(&[0x55; 160], &mut out), length);
            }
            assert_eq!(decoder.decode(&[], &mut out), Err(DecodeError));
            assert_eq!(decoder.decode(&[0; DECODED_SAMPLES_MAX + 1], &mut out), Err(DecodeError));
        }
    }

    #[test]
    fn a_tone_survives_each_codec_with_its_level() {
        let pcm = tone(8_000, 440.0, 50 * FRAME_SAMPLES);
        for codec in [Codec::Pcmu, Codec::Pcma, Codec::Opus] {
            let mut encoder = Encoder::new(codec, &OpusParameters::default());
            let mut decoder = Decoder::new(codec);
            let mut all = Vec::new();
            for frame in pcm.chunks_exact(FRAME_SAMPLES) {
                let (mut payload, mut out) = ([0; ENCODED_BYTES_MAX], [0; DECODED_SAMPLES_MAX]);
                let len = encoder.encode(frame, &mut payload);
                let samples = decoder.decode(&payload[..len], &mut out).unwrap();
                assert_eq!(samples as u32, decoder.sample_rate_hz() / 50);
                all.extend_from_slice(&out[..samples]);
            }
            let gain = 20.0 * (level(&all[all.len() / 2..]) / level(&pcm)).log10();
            assert!(gain.abs() < 1.0, "{codec:?}: {gain:.2} dB");
        }
    }

    proptest! {
        #[test]
        fn no_payload_panics_and_every_answer_fits(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 1..20),
        ) {
            for codec in [Codec::Opus, Codec::Pcmu] {
                let mut decoder = Decoder::new(codec);
                let mut out = [0; DECODED_SAMPLES_MAX];
                for payload in &payloads {
                    if let Ok(samples) = decoder.decode(payload, &mut out) {
                        prop_assert!(samples <= DECODED_SAMPLES_MAX);
                        let ms = decoder.duration_ms(payload).unwrap() as usize;
                        prop_assert!(samples <= ms * decoder.sample_rate_hz() as usize / 1_000);
                    }
                    prop_assert!(decoder.decode_fec(payload, &mut out) <= DECODED_SAMPLES_MAX);
                    prop_assert!(decoder.conceal(&mut out) <= DECODED_SAMPLES_MAX);
                }
            }
        }
    }
}
