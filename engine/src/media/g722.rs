//! G.722: 16 kHz speech in 64 kbit/s, two samples a byte (ITU-T G.722, RFC 3551 §4.5.2).
//!
//! ```text
//!  16 kHz ─► QMF ─┬─ low band, 8 kHz ──► ADPCM of 6 bits ─┬─► byte: hh llllll
//!                 └─ high band, 8 kHz ─► ADPCM of 2 bits ─┘
//! ```
//!
//! Mode 1 alone: the modes that give up bits for data exist on ISDN only. The RTP clock says 8,000 for 16,000 samples a second, an error of
//! RFC 1890 that stays for compatibility. Names are the recommendation's: NB the logarithmic step, DET the step, blocks 3 and 4.
//!
//! Why our own: it is a page of integer arithmetic whose every bit the recommendation fixes, and a library of C would be the larger part to
//! trust. Its output is compared bit for bit with that of another implementation.

/// Impulse response of the quadrature mirror filter, one half of it: the other is the same, reversed.
const QMF: [i32; 12] = [3, -11, 12, 32, -210, 951, 3_876, -805, 362, -156, 53, -11];

/// Decision levels of the 6-bit quantizer, and the codes between them for either sign.
const Q6: [i32; 32] = [
    0, 35, 72, 110, 150, 190, 233, 276, 323, 370, 422, 473, 530, 587, 650, 714, 786, 858, 940, 1_023, 1_121, 1_219,
    1_339, 1_458, 1_612, 1_765, 1_980, 2_195, 2_557, 2_919, 0, 0,
];
const ILN: [u8; 32] = [
    0, 63, 62, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5,
    4, 0,
];
const ILP: [u8; 32] = [
    0, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43, 42, 41, 40, 39, 38, 37, 36, 35, 34,
    33, 32, 0,
];

/// Inverse quantizers: 6 bits for the output, 4 for the predictor of the low band, 2 for the high band.
const QM6: [i32; 64] = [
    -136, -136, -136, -136, -24_808, -21_904, -19_008, -16_704, -14_984, -13_512, -12_280, -11_192, -10_232, -9_360,
    -8_576, -7_856, -7_192, -6_576, -6_000, -5_456, -4_944, -4_464, -4_008, -3_576, -3_168, -2_776, -2_400, -2_032,
    -1_688, -1_360, -1_040, -728, 24_808, 21_904, 19_008, 16_704, 14_984, 13_512, 12_280, 11_192, 10_232, 9_360, 8_576,
    7_856, 7_192, 6_576, 6_000, 5_456, 4_944, 4_464, 4_008, 3_576, 3_168, 2_776, 2_400, 2_032, 1_688, 1_360, 1_040,
    728, 432, 136, -432, -136,
];
const QM4: [i32; 16] =
    [0, -20_456, -12_896, -8_968, -6_288, -4_240, -2_584, -1_200, 20_456, 12_896, 8_968, 6_288, 4_240, 2_584, 1_200, 0];
const QM2: [i32; 4] = [-7_408, -1_616, 7_408, 1_616];

/// How a code moves the logarithmic step of its band.
const WL: [i32; 16] = [-60, 3_042, 1_198, 538, 334, 172, 58, -30, 3_042, 1_198, 538, 334, 172, 58, -30, -60];
const WH: [i32; 4] = [798, -214, 798, -214];

/// Powers of two between 1 and 2, in 2048ths.
const ILB: [i32; 32] = [
    2_048, 2_093, 2_139, 2_186, 2_233, 2_282, 2_332, 2_383, 2_435, 2_489, 2_543, 2_599, 2_656, 2_714, 2_774, 2_834,
    2_896, 2_960, 3_025, 3_091, 3_158, 3_228, 3_298, 3_371, 3_444, 3_520, 3_597, 3_676, 3_756, 3_838, 3_922, 4_008,
];

fn saturated(value: i32) -> i32 {
    value.clamp(i16::MIN.into(), i16::MAX.into())
}

/// What both ends keep of one band: the step and the predictor, two poles and six zeros.
#[derive(Clone, Debug)]
struct Band {
    nb: i32,
    det: i32,
    /// Prediction, and the zeros' part of it.
    s: i32,
    sz: i32,
    r: [i32; 3],
    p: [i32; 3],
    a: [i32; 3],
    d: [i32; 7],
    b: [i32; 7],
}

impl Band {
    fn new(det: i32) -> Band {
        Band { nb: 0, det, s: 0, sz: 0, r: [0; 3], p: [0; 3], a: [0; 3], d: [0; 7], b: [0; 7] }
    }

    /// The low band's step and predictor go on by a code of 6 bits, of which they see 4: the other end may have lost two.
    fn low(&mut self, code: u8) {
        let index = usize::from(code >> 2);
        let d = (self.det * QM4[index]) >> 15;
        self.scale(WL[index], 18_432, 8);
        self.predict(d);
    }

    /// The high band's go on by a code of 2 bits.
    fn high(&mut self, code: u8) {
        let d = self.high_difference(code);
        self.scale(WH[usize::from(code)], 22_528, 10);
        self.predict(d);
    }

    fn high_difference(&self, code: u8) -> i32 {
        (self.det * QM2[usize::from(code)]) >> 15
    }

    /// Block 3: the step.
    fn scale(&mut self, by: i32, nb_max: i32, shift: i32) {
        self.nb = (((self.nb * 127) >> 7) + by).clamp(0, nb_max);
        let (mantissa, exponent) = (ILB[(self.nb >> 6 & 31) as usize], shift - (self.nb >> 11));
        let power = if exponent < 0 { mantissa << -exponent } else { mantissa >> exponent };
        self.det = power << 2;
    }

    /// Block 4: the predictor, by the quantized difference.
    fn predict(&mut self, d: i32) {
        self.d[0] = d;
        self.r[0] = saturated(self.s + d);
        self.p[0] = saturated(self.sz + d);
        self.move_poles();
        self.move_zeros(d);
        self.r.copy_within(0..2, 1);
        self.p.copy_within(0..2, 1);
        self.d.copy_within(0..6, 1);
        let pole = |index: usize| (self.a[index] * saturated(2 * self.r[index])) >> 15;
        let sp = saturated(pole(1) + pole(2));
        self.sz = saturated((1..7).map(|index| (self.b[index] * saturated(2 * self.d[index])) >> 15).sum());
        self.s = saturated(sp + self.sz);
    }

    /// UPPOL2 and UPPOL1.
    fn move_poles(&mut self) {
        let is_alike = |index: usize| (self.p[0] < 0) == (self.p[index] < 0);
        let wd1 = saturated(self.a[1] << 2);
        let wd2 = (if is_alike(1) { -wd1 } else { wd1 }).min(i16::MAX.into());
        let sign = if is_alike(2) { 128 } else { -128 };
        let second = ((wd2 >> 7) + sign + ((self.a[2] * 32_512) >> 15)).clamp(-12_288, 12_288);
        let step = if is_alike(1) { 192 } else { -192 };
        let bound = saturated(15_360 - second);
        let first = saturated(step + ((self.a[1] * 32_640) >> 15)).clamp(-bound, bound);
        self.a = [0, first, second];
    }

    /// UPZERO.
    fn move_zeros(&mut self, d: i32) {
        let step = if d == 0 { 0 } else { 128 };
        for index in 1..7 {
            let sign = if (self.d[index] < 0) == (d < 0) { step } else { -step };
            self.b[index] = saturated(sign + ((self.b[index] * 32_640) >> 15));
        }
    }
}

/// The 24 samples that the mirror filter sees, moved on two at a time.
#[derive(Clone, Debug)]
struct Mirror([i32; 24]);

impl Mirror {
    /// Answers the sums over the even and over the odd places.
    fn push(&mut self, first: i32, second: i32) -> (i32, i32) {
        self.0.copy_within(2.., 0);
        (self.0[22], self.0[23]) = (first, second);
        let (mut even, mut odd) = (0, 0);
        for (index, pair) in self.0.chunks_exact(2).enumerate() {
            even += pair[0] * QMF[index];
            odd += pair[1] * QMF[11 - index];
        }
        (even, odd)
    }
}

/// From samples of 16 kHz to bytes.
#[derive(Clone, Debug)]
pub struct G722Encoder {
    mirror: Mirror,
    low: Band,
    high: Band,
}

impl G722Encoder {
    /// At rest.
    pub fn new() -> G722Encoder {
        G722Encoder { mirror: Mirror([0; 24]), low: Band::new(32), high: Band::new(8) }
    }

    /// Encodes an even number of samples into half as many bytes.
    ///
    /// # Panics
    /// When `out` is shorter than that.
    pub fn encode(&mut self, pcm: &[i16], out: &mut [u8]) -> usize {
        let len = pcm.len() / 2;
        for (pair, byte) in pcm.chunks_exact(2).zip(&mut out[..len]) {
            let (even, odd) = self.mirror.push(pair[0].into(), pair[1].into());
            let (low, high) = (self.low_code((odd + even) >> 14), self.high_code((odd - even) >> 14));
            self.low.low(low);
            self.high.high(high);
            *byte = high << 6 | low;
        }
        len
    }

    fn low_code(&self, sample: i32) -> u8 {
        let difference = saturated(sample - self.low.s);
        let magnitude = if difference < 0 { -(difference + 1) } else { difference };
        let level = (1..30).find(|&level| magnitude < (Q6[level] * self.low.det) >> 12).unwrap_or(30);
        if difference < 0 { ILN[level] } else { ILP[level] }
    }

    fn high_code(&self, sample: i32) -> u8 {
        let difference = saturated(sample - self.high.s);
        let magnitude = if difference < 0 { -(difference + 1) } else { difference };
        match (difference < 0, magnitude >= (564 * self.high.det) >> 12) {
            (true, false) => 1,
            (true, true) => 0,
            (false, false) => 3,
            (false, true) => 2,
        }
    }
}

impl Default for G722Encoder {
    fn default() -> Self {
        G722Encoder::new()
    }
}

/// From bytes to samples of 16 kHz.
#[derive(Clone, Debug)]
pub struct G722Decoder {
    mirror: Mirror,
    low: Band,
    high: Band,
}

impl G722Decoder {
    /// At rest.
    pub fn new() -> G722Decoder {
        G722Decoder { mirror: Mirror([0; 24]), low: Band::new(32), high: Band::new(8) }
    }

    /// Decodes bytes into twice as many samples. Every byte is valid.
    ///
    /// # Panics
    /// When `out` is shorter than that.
    pub fn decode(&mut self, payload: &[u8], out: &mut [i16]) -> usize {
        let len = 2 * payload.len();
        for (&byte, pair) in payload.iter().zip(out[..len].chunks_exact_mut(2)) {
            let (low, high) = (byte & 0x3f, byte >> 6);
            let bounded = |sample: i32| sample.clamp(-16_384, 16_383);
            let low_sample = bounded(self.low.s + ((self.low.det * QM6[usize::from(low)]) >> 15));
            let high_sample = bounded(self.high.s + self.high.high_difference(high));
            self.low.low(low);
            self.high.high(high);
            let (even, odd) = self.mirror.push(low_sample + high_sample, low_sample - high_sample);
            pair[0] = saturated(odd >> 11) as i16;
            pair[1] = saturated(even >> 11) as i16;
        }
        len
    }
}

impl Default for G722Decoder {
    fn default() -> Self {
        G722Decoder::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Made by FFmpeg's g722 (libavcodec): `-f s16le -ar 16000 -ac 1 -i speech.pcm -c:a g722`, and back.
    const SPEECH: &[u8] = include_bytes!("../../tests/data/g722/speech.pcm");
    const ENCODED: &[u8] = include_bytes!("../../tests/data/g722/speech.g722");
    const DECODED: &[u8] = include_bytes!("../../tests/data/g722/speech.out");

    fn samples(bytes: &[u8]) -> Vec<i16> {
        bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
    }

    #[test]
    fn what_another_implementation_encodes_is_decoded_like_it_bit_for_bit() {
        let mut out = vec![0; 2 * ENCODED.len()];
        assert_eq!(G722Decoder::new().decode(ENCODED, &mut out), out.len());
        let expected = samples(DECODED);
        let first = out.iter().zip(&expected).position(|(ours, theirs)| ours != theirs);
        assert_eq!((out.len(), first), (expected.len(), None));
    }

    #[test]
    fn speech_is_encoded_as_another_implementation_encodes_it_bit_for_bit() {
        let pcm = samples(SPEECH);
        let mut out = vec![0; pcm.len() / 2];
        G722Encoder::new().encode(&pcm, &mut out);
        let first = out.iter().zip(ENCODED).position(|(ours, theirs)| ours != theirs);
        assert_eq!((out.len(), first), (ENCODED.len(), None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_and_any_samples_encoded(
            bytes in proptest::collection::vec(any::<u8>(), 0..2_000),
            loud in proptest::collection::vec(any::<bool>(), 0..2_000),
        ) {
            let mut pcm = vec![0; 2 * bytes.len()];
            G722Decoder::new().decode(&bytes, &mut pcm);
            let pcm: Vec<i16> = loud.into_iter().map(|up| if up { i16::MAX } else { i16::MIN }).collect();
            let mut out = vec![0; pcm.len() / 2];
            G722Encoder::new().encode(&pcm, &mut out);
        }
    }
}
