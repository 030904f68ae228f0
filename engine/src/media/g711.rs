//! G.711: mu-law (PCMU) and A-law (PCMA), 16-bit linear, left-justified (ITU-T G.711, RFC 3551 §4.5.14). `simd` does the work.

use super::simd;
use crate::sdp::Codec;

/// Which of the two laws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Law {
    /// PCMU
    Mu,
    /// PCMA
    A,
}

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
        let kernels = simd::kernels();
        match self {
            Law::Mu => (kernels.mu_encode)(pcm, out),
            Law::A => (kernels.a_encode)(pcm, out),
        }
    }

    /// Decodes `payload` into `out`, one sample per byte; stops at the end of the shorter one.
    pub fn decode(self, payload: &[u8], out: &mut [i16]) {
        let kernels = simd::kernels();
        match self {
            Law::Mu => (kernels.mu_decode)(payload, out),
            Law::A => (kernels.a_decode)(payload, out),
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
    fn silence_is_what_zero_encodes_to() {
        for law in [Law::Mu, Law::A] {
            let mut byte = [0];
            law.encode(&[0], &mut byte);
            assert_eq!(byte[0], law.silence());
        }
    }
}
