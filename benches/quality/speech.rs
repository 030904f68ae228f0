//! What is said: sentences of several voices with pauses between them.

use std::path::Path;

/// Silence before the first sentence and after the last.
const LEAD_MS: usize = 400;

/// The sentences, one after the other.
pub struct Speech {
    /// 16 kHz, whole frames of 20 ms.
    pub wide: Vec<i16>,
    /// Begin and end of each sentence.
    pub spans_ms: Vec<(usize, usize)>,
}

impl Speech {
    /// The first `count` files of a folder, by name.
    pub fn load(folder: &Path, count: usize) -> Speech {
        let mut wide = vec![0; LEAD_MS * 16];
        let mut spans_ms = Vec::new();
        for number in 1..=count {
            let path = folder.join(format!("{number:02}.wav"));
            let wav = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let begin = wide.len() / 16;
            wide.extend(samples(&wav));
            spans_ms.push((begin, wide.len() / 16));
            // Pauses of different length, no multiple of a packet.
            wide.extend(std::iter::repeat_n(0, (LEAD_MS + number * 37 % 240) * 16));
        }
        wide.extend(std::iter::repeat_n(0, LEAD_MS * 16));
        wide.truncate(wide.len() / 320 * 320);
        Speech { wide, spans_ms }
    }

    pub fn sentences_ms(&self) -> Vec<[usize; 2]> {
        self.spans_ms.iter().map(|&(begin, end)| [begin, end]).collect()
    }

    pub fn write(&self, folder: &Path) {
        write_raw(&folder.join("said-16k.raw"), &self.wide);
    }
}

/// Samples of a plain WAV file.
fn samples(wav: &[u8]) -> Vec<i16> {
    let data = wav.windows(4).position(|window| window == b"data").expect("a WAV file has data") + 8;
    wav[data..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// 16-bit little-endian samples, nothing else.
pub fn write_raw(path: &Path, pcm: &[i16]) {
    let bytes: Vec<u8> = pcm.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    std::fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
