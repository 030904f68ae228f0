//! Packets to a recording and sound to packets, for the far ends of a call.
//!
//! A recording has no playout clock: packets are put in order, decoded as they come, and pauses are filled by their timestamps. So it
//! shows what was sent, undisturbed by a jitter buffer of ours.

use engine::media::decode::Decoder as EngineDecoder;
use engine::media::encode::Encoder as EngineEncoder;
use engine::rtp::sequence::SequenceExtender;
use engine::sdp::{Codec, OpusParameters};
use engine::time::RtpTimestamp;
use std::collections::BTreeMap;

/// Packets that wait for an earlier one; then that one is given up and concealed.
const REORDER_PACKETS_MAX: usize = 5;
/// Missing packets that are concealed one by one; a longer gap is a pause and becomes silence.
const CONCEAL_PACKETS_MAX: u64 = 10;
/// Silence put in for one jump of the timestamps, ms. A longer jump is taken for a new stream.
const PAUSE_MS_MAX: u32 = 5_000;
/// Samples of 120 ms at 48 kHz, the longest Opus packet.
const FRAME_SAMPLES_MAX: usize = 5_760;

/// How Opus is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpusSettings {
    /// Rate of the samples given and wanted: 8,000, 16,000 or 48,000.
    pub rate_hz: u32,
    /// bit/s
    pub bitrate: i32,
    /// In-band FEC, and the loss it is made for, per cent; 0 switches it off.
    pub expected_loss_percent: u8,
}

impl OpusSettings {
    /// What a WhatsApp phone sends: wideband at 20 kbit/s with FEC.
    pub const WHATSAPP: OpusSettings = OpusSettings { rate_hz: 16_000, bitrate: 20_000, expected_loss_percent: 5 };
}

enum Decoder {
    Opus(opus::Decoder),
    G7xx(EngineDecoder),
}

/// Puts packets in order and decodes them.
pub struct Receiver {
    decoder: Decoder,
    rate_hz: u32,
    clock_rate_hz: u32,
    extender: SequenceExtender,
    waiting: BTreeMap<u64, (RtpTimestamp, Option<Vec<u8>>)>,
    next: Option<u64>,
    /// Timestamp that continues the recording without a pause.
    expected: Option<RtpTimestamp>,
    frame: Vec<i16>,
}

impl Receiver {
    /// Opus comes out at `opus.rate_hz`, G.711 at 8 kHz.
    pub fn new(codec: Codec, opus: OpusSettings) -> Result<Receiver, opus::Error> {
        let (decoder, rate_hz) = match codec {
            Codec::Opus => (Decoder::Opus(opus::Decoder::new(opus.rate_hz, opus::Channels::Mono)?), opus.rate_hz),
            Codec::Pcmu | Codec::Pcma => (Decoder::G7xx(EngineDecoder::new(codec)), 8_000),
            Codec::G722 => (Decoder::G7xx(EngineDecoder::new(codec)), 16_000),
        };
        Ok(Receiver {
            decoder,
            rate_hz,
            clock_rate_hz: codec.clock_rate_hz(),
            extender: SequenceExtender::default(),
            waiting: BTreeMap::new(),
            next: None,
            expected: None,
            frame: vec![0; FRAME_SAMPLES_MAX],
        })
    }

    /// Rate of the samples that come out.
    pub fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// Takes one packet; `payload` is `None` for telephone-event. What can be played now is appended to `out`.
    pub fn packet(&mut self, sequence: u16, timestamp: RtpTimestamp, payload: Option<&[u8]>, out: &mut Vec<i16>) {
        let index = self.extender.extend(sequence).0;
        if self.next.is_some_and(|next| index < next) {
            return;
        }
        self.waiting.insert(index, (timestamp, payload.map(<[u8]>::to_vec)));
        while let Some((&first, _)) = self.waiting.first_key_value() {
            let next = *self.next.get_or_insert(first);
            if first > next && self.waiting.len() < REORDER_PACKETS_MAX {
                return;
            }
            if first - next <= CONCEAL_PACKETS_MAX {
                (next..first).for_each(|_| self.conceal(out));
            }
            self.next = Some(first + 1);
            if let Some((_, (timestamp, payload))) = self.waiting.pop_first() {
                self.play(timestamp, payload, out);
            }
        }
    }

    fn play(&mut self, timestamp: RtpTimestamp, payload: Option<Vec<u8>>, out: &mut Vec<i16>) {
        let Some(payload) = payload else { return };
        let pause = self.expected.map_or(0, |expected| timestamp.distance_from(expected));
        let pause_max = (self.clock_rate_hz / 1000 * PAUSE_MS_MAX) as i32;
        if (1..=pause_max).contains(&pause) {
            let samples = u64::from(pause as u32) * u64::from(self.rate_hz) / u64::from(self.clock_rate_hz);
            out.resize(out.len() + samples as usize, 0);
        }
        let count = match &mut self.decoder {
            Decoder::Opus(decoder) => decoder.decode(&payload, &mut self.frame, false).unwrap_or(0),
            Decoder::G7xx(decoder) => decoder.decode(&payload, &mut self.frame).unwrap_or(0),
        };
        out.extend_from_slice(&self.frame[..count]);
        self.expected =
            Some(timestamp.plus((count as u64 * u64::from(self.clock_rate_hz) / u64::from(self.rate_hz)) as u32));
    }

    /// 20 ms in the place of a packet that did not come.
    fn conceal(&mut self, out: &mut Vec<i16>) {
        let samples = (self.rate_hz / 50) as usize;
        let count = match &mut self.decoder {
            Decoder::Opus(decoder) => decoder.decode(&[], &mut self.frame[..samples], false).unwrap_or(0),
            Decoder::G7xx(decoder) => decoder.conceal(&mut self.frame),
        };
        out.extend_from_slice(&self.frame[..count]);
        self.expected = self.expected.map(|at| at.plus(self.clock_rate_hz / 50));
    }
}

enum Encoder {
    Opus(opus::Encoder),
    G7xx(EngineEncoder),
}

/// Makes one payload of each 20 ms.
pub struct Sender {
    encoder: Encoder,
    rate_hz: u32,
    clock_rate_hz: u32,
}

impl Sender {
    /// Opus takes samples at `opus.rate_hz`, G.711 at 8 kHz.
    pub fn new(codec: Codec, opus: OpusSettings) -> Result<Sender, opus::Error> {
        let (encoder, rate_hz) = match codec {
            Codec::Opus => {
                let mut encoder = opus::Encoder::new(opus.rate_hz, opus::Channels::Mono, opus::Application::Voip)?;
                encoder.set_bitrate(opus::Bitrate::Bits(opus.bitrate))?;
                encoder.set_inband_fec(opus.expected_loss_percent > 0)?;
                encoder.set_packet_loss_perc(i32::from(opus.expected_loss_percent))?;
                (Encoder::Opus(encoder), opus.rate_hz)
            }
            Codec::Pcmu | Codec::Pcma => (Encoder::G7xx(EngineEncoder::new(codec, &OpusParameters::default())), 8_000),
            Codec::G722 => (Encoder::G7xx(EngineEncoder::new(codec, &OpusParameters::default())), 16_000),
        };
        Ok(Sender { encoder, rate_hz, clock_rate_hz: codec.clock_rate_hz() })
    }

    /// Rate of the samples that go in.
    pub fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// Samples of one 20 ms frame.
    pub fn frame_samples(&self) -> usize {
        (self.rate_hz / 50) as usize
    }

    /// Ticks of the RTP clock that one frame covers.
    pub fn frame_ticks(&self) -> u32 {
        self.clock_rate_hz / 50
    }

    /// Encodes one frame; answers the payload's length, 0 when the codec failed.
    pub fn encode(&mut self, frame: &[i16], out: &mut [u8]) -> usize {
        match &mut self.encoder {
            Encoder::Opus(encoder) => encoder.encode(frame, out).unwrap_or(0),
            Encoder::G7xx(encoder) => encoder.encode(frame, out),
        }
    }
}
