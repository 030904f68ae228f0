//! Reads an input as choices: what to do next, to whom, with which bytes.
//!
//! Why not `arbitrary`: an input must mean the same after years, a person must be able to write one, and a cut or changed byte
//! must change as little as possible of what follows.

/// What is left of an input. Past its end everything reads as zero.
pub struct Script<'d> {
    rest: &'d [u8],
}

impl<'d> Script<'d> {
    /// All of `data`.
    pub fn new(data: &'d [u8]) -> Script<'d> {
        Script { rest: data }
    }

    /// Whether every byte was read.
    pub fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// The next two bytes, big-endian.
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// The next four bytes, big-endian.
    pub fn long(&mut self) -> u32 {
        u32::from(self.word()) << 16 | u32::from(self.word())
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    /// Bytes behind their count: one byte, or 255 and two more for 255 and above.
    pub fn chunk(&mut self) -> &'d [u8] {
        let count = match self.byte() {
            255 => usize::from(self.word()),
            count => usize::from(count),
        };
        self.take(count)
    }

    /// A time to wait: 0 to 127 ms in steps of one, then squares, up to 32 s.
    pub fn millis(&mut self) -> u64 {
        match u64::from(self.byte()) {
            byte @ 0..=127 => byte,
            byte => (byte - 127).pow(2) * 2,
        }
    }

    /// Flips the bits of `mask` somewhere in `bytes`.
    pub fn damage(&mut self, bytes: &mut [u8]) {
        let (at, mask) = (usize::from(self.word()), self.byte());
        if !bytes.is_empty() {
            let at = at % bytes.len();
            bytes[at] ^= mask;
        }
    }

    fn take(&mut self, count: usize) -> &'d [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}

/// Writes what [`Script::chunk`] reads.
pub fn push_chunk(script: &mut Vec<u8>, bytes: &[u8]) {
    match u8::try_from(bytes.len()) {
        Ok(count) if count < 255 => script.push(count),
        _ => {
            script.push(255);
            script.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        }
    }
    script.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_is_read_again() {
        for count in [0, 1, 254, 255, 256, 1_500] {
            let bytes = vec![7; count];
            let mut script = Vec::new();
            push_chunk(&mut script, &bytes);
            let mut read = Script::new(&script);
            assert_eq!(read.chunk(), bytes);
            assert!(read.is_over());
        }
    }

    #[test]
    fn past_the_end_everything_is_zero() {
        let mut script = Script::new(&[200, 1]);
        assert_eq!(script.chunk(), [1]);
        assert_eq!((script.long(), script.millis(), script.chunk()), (0, 0, &[][..]));
    }
}
