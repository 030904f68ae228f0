//! G.711 by table: mu-law (PCMU) and A-law (PCMA), 16-bit linear, left-justified (ITU-T G.711, RFC 3551 §4.5.14).
//!
//! Mu-law reads 14 bits of a sample and A-law 12, so tables of 16 KB and 4 KB indexed by the upper bits answer for every one of the 65,536
//! samples. Both are computed by the compiler from the recommendation's algorithm, which stays here as the tables' definition and oracle.
//!
//! Why not a table of 64 KB indexed by the whole sample: it saves one shift and takes more than the whole first-level cache, which the
//! codec beside it needs. Why not arithmetic in vector registers: a frame costs about 60 ns by table, a thousandth of the encoder beside it.

use crate::sdp::Codec;

/// Which of the two laws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Law {
    /// PCMU
    Mu,
    /// PCMA
    A,
}

static MU_ENCODED: [u8; 1 << 14] = {
    let mut table = [0; 1 << 14];
    let mut index = 0;
    while index < table.len() {
        table[index] = mu_encode((index << 2) as u16 as i16);
        index += 1;
    }
    table
};

static A_ENCODED: [u8; 1 << 12] = {
    let mut table = [0; 1 << 12];
    let mut index = 0;
    while index < table.len() {
        table[index] = a_encode((index << 4) as u16 as i16);
        index += 1;
    }
    table
};

static MU_DECODED: [i16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = mu_decode(byte as u8);
        byte += 1;
    }
    table
};

static A_DECODED: [i16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = a_decode(byte as u8);
        byte += 1;
    }
    table
};

impl Law {
    /// The law of a codec; `None` for codecs that are not G.711.
    pub const fn of(codec: Codec) -> Option<Law> {
        match codec {
            Codec::Pcmu => Some(Law::Mu),
            Codec::Pcma => Some(Law::A),
            Codec::Opus | Codec::G722 => None,
        }
    }

    /// Encodes `pcm` into `out`, one byte per sample; stops at the end of the shorter one.
    pub fn encode(self, pcm: &[i16], out: &mut [u8]) {
        match self {
            Law::Mu => {
                for (byte, &sample) in out.iter_mut().zip(pcm) {
                    *byte = MU_ENCODED[usize::from(sample as u16 >> 2)];
                }
            }
            Law::A => {
                for (byte, &sample) in out.iter_mut().zip(pcm) {
                    *byte = A_ENCODED[usize::from(sample as u16 >> 4)];
                }
            }
        }
    }

    /// Decodes `payload` into `out`, one sample per byte; stops at the end of the shorter one.
    pub fn decode(self, payload: &[u8], out: &mut [i16]) {
        let table = match self {
            Law::Mu => &MU_DECODED,
            Law::A => &A_DECODED,
        };
        for (sample, &byte) in out.iter_mut().zip(payload) {
            *sample = table[usize::from(byte)];
        }
    }

    /// The byte that stands for silence: what fills a stream that must not pause.
    pub const fn silence(self) -> u8 {
        match self {
            Law::Mu => 0xff,
            Law::A => 0xd5,
        }
    }
}

/// Mu-law of one sample. Negative samples are taken in one's complement, as the recommendation's sign and magnitude.
const fn mu_encode(sample: i16) -> u8 {
    let positive = sample >= 0;
    let magnitude = (if positive { sample } else { !sample } as u16 >> 2) + 33;
    let magnitude = if magnitude > 0x1fff { 0x1fff } else { magnitude };
    // The position of the leading one names the segment: 1 to 8.
    let segment = 16 - (magnitude >> 6).leading_zeros() + 1;
    let high = 8 - segment as u8;
    let low = 0x0f - (magnitude >> segment & 0x0f) as u8;
    (positive as u8) << 7 | high << 4 | low
}

const fn mu_decode(byte: u8) -> i16 {
    let exponent = !byte >> 4 & 0x07;
    let mantissa = (!byte & 0x0f) as i16;
    let step = 8 << exponent;
    let magnitude = (0x80 << exponent) + step * mantissa + step / 2 - 4 * 33;
    if byte & 0x80 != 0 { magnitude } else { -magnitude }
}

const fn a_encode(sample: i16) -> u8 {
    let positive = sample >= 0;
    let mut code = if positive { sample } else { !sample } as u16 >> 4;
    if code > 15 {
        let segment = 16 - (code >> 5).leading_zeros() + 1;
        code = (code >> (segment - 1)) - 16 + ((segment as u16) << 4);
    }
    ((positive as u8) << 7 | code as u8) ^ 0x55
}

const fn a_decode(byte: u8) -> i16 {
    let code = byte ^ 0x55;
    let exponent = code >> 4 & 0x07;
    let mantissa = (code & 0x0f) as i16;
    let magnitude = match exponent {
        0 => (mantissa << 4) + 8,
        exponent => (((mantissa + 16) << 4) + 8) << (exponent - 1),
    };
    if byte & 0x80 != 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &[u8] = include_bytes!("../../tests/data/g711/sweep.src");

    fn words(bytes: &[u8]) -> Vec<i16> {
        bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
    }

    /// Every linear value there is: encoded, decoded, and encoded and decoded once more.
    fn follow_the_sweep(law: Law, encoded: &[u8], decoded: &[u8], twice: &[u8]) {
        let (source, encoded, decoded, twice) = (words(SOURCE), words(encoded), words(decoded), words(twice));
        assert_eq!(source.len(), 65_536);
        let mut bytes = vec![0; source.len()];
        let mut samples = vec![0; source.len()];
        law.encode(&source, &mut bytes);
        assert!(bytes.iter().zip(&encoded).all(|(&byte, &word)| i16::from(byte) == word));
        law.decode(&bytes, &mut samples);
        assert!(samples == decoded);
        law.encode(&decoded, &mut bytes);
        law.decode(&bytes, &mut samples);
        assert!(samples == twice);
    }

    #[test]
    fn mu_law_follows_the_itu_sweep() {
        follow_the_sweep(
            Law::Mu,
            include_bytes!("../../tests/data/g711/sweep-r.u"),
            include_bytes!("../../tests/data/g711/sweep-r.reu"),
            include_bytes!("../../tests/data/g711/sweep-r.u-u"),
        );
    }

    #[test]
    fn a_law_follows_the_itu_sweep() {
        follow_the_sweep(
            Law::A,
            include_bytes!("../../tests/data/g711/sweep-r.a"),
            include_bytes!("../../tests/data/g711/sweep-r.rea"),
            include_bytes!("../../tests/data/g711/sweep-r.a-a"),
        );
    }

    #[test]
    fn the_tables_answer_as_the_algorithm_for_every_sample_and_byte() {
        for sample in i16::MIN..=i16::MAX {
            let mut byte = [0];
            Law::Mu.encode(&[sample], &mut byte);
            assert_eq!(byte[0], mu_encode(sample));
            Law::A.encode(&[sample], &mut byte);
            assert_eq!(byte[0], a_encode(sample));
        }
        for byte in 0..=255 {
            let mut sample = [0];
            Law::Mu.decode(&[byte], &mut sample);
            assert_eq!(sample[0], mu_decode(byte));
            Law::A.decode(&[byte], &mut sample);
            assert_eq!(sample[0], a_decode(byte));
        }
    }

    #[test]
    fn silence_is_what_zero_encodes_to() {
        for law in [Law::Mu, Law::A] {
            let mut byte = [0];
            law.encode(&[0], &mut byte);
            assert_eq!(byte[0], law.silence());
        }
    }
}
