//! Randomness is a parameter: a live worker seeds it from the system, a test from a number.
//!
//! Why a stream is kept as its seed and a place in it: each part of a call has one of its own and draws a few words a minute from it. The
//! generator with its block of words ahead would take 320 bytes for each, and a call has five; made anew for each draw, it costs 0.1 us.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A stream of random numbers, fit for keys, tags and credentials when its seed is.
#[derive(Clone)]
pub struct Random {
    seed: [u8; 32],
    /// Words drawn so far.
    drawn: u64,
}

impl Random {
    /// The stream that `seed` names; the same seed gives the same stream.
    pub fn from_seed(seed: [u8; 32]) -> Random {
        Random { seed, drawn: 0 }
    }

    /// A stream for tests and simulations.
    pub fn from_test_seed(seed: u64) -> Random {
        Random::from_seed(ChaCha12Rng::seed_from_u64(seed).get_seed())
    }

    /// An independent stream, for a part that keeps its own.
    pub fn fork(&mut self) -> Random {
        let mut seed = [0; 32];
        self.fill(&mut seed);
        Random::from_seed(seed)
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.draw(|rng| rng.fill_bytes(bytes));
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        self.draw(ChaCha12Rng::next_u32)
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.draw(ChaCha12Rng::next_u64)
    }

    /// A number below `bound`, which must not be zero. The bias is below 2^-32 for every bound used here.
    pub fn below(&mut self, bound: u32) -> u32 {
        scaled(self.next_u32(), bound)
    }

    /// `length` characters of the ice-char alphabet without `+` and `/` (RFC 8839 §5.4): 5.9 bits each.
    pub fn token(&mut self, length: usize) -> String {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let character = |word| char::from(ALPHABET[scaled(word, ALPHABET.len() as u32) as usize]);
        self.draw(|rng| (0..length).map(|_| character(rng.next_u32())).collect())
    }

    fn draw<T>(&mut self, from: impl FnOnce(&mut ChaCha12Rng) -> T) -> T {
        let mut rng = ChaCha12Rng::from_seed(self.seed);
        rng.set_word_pos(self.drawn.into());
        let drawn = from(&mut rng);
        self.drawn = rng.get_word_pos() as u64;
        drawn
    }
}

/// Whoever knows the seed knows everything that was drawn and will be.
impl core::fmt::Debug for Random {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Random").field("drawn", &self.drawn).finish_non_exhaustive()
    }
}

/// `word` of all words, as a part of `bound`.
fn scaled(word: u32, bound: u32) -> u32 {
    ((u64::from(word) * u64::from(bound)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws of every kind take the generator's words one after the other, and none twice.
    #[test]
    fn a_stream_is_the_generators_whatever_is_drawn_from_it() {
        let (mut ours, mut whole) = (Random::from_seed([7; 32]), ChaCha12Rng::from_seed([7; 32]));
        for round in 0..100 {
            let (mut bytes, mut expected) = (vec![0; round], vec![0; round]);
            ours.fill(&mut bytes);
            whole.fill_bytes(&mut expected);
            assert_eq!(bytes, expected);
            assert_eq!((ours.next_u32(), ours.next_u64()), (whole.next_u32(), whole.next_u64()));
            assert_eq!(ours.below(10), scaled(whole.next_u32(), 10));
            let token = ours.token(round);
            assert_eq!((token.len(), token.chars().all(|c| c.is_ascii_alphanumeric())), (round, true));
            for _ in 0..round {
                whole.next_u32();
            }
        }
        assert!(size_of::<Random>() <= 40);
    }

    #[test]
    fn a_test_seed_names_the_stream_that_it_always_did() {
        let (mut ours, mut whole) = (Random::from_test_seed(5), ChaCha12Rng::seed_from_u64(5));
        assert_eq!((ours.next_u64(), ours.next_u32()), (whole.next_u64(), whole.next_u32()));
    }
}
