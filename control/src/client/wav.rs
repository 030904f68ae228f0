//! WAV files: RIFF with 16-bit PCM, read and written (Microsoft Multimedia Programming Interface, 1991).
//!
//! Only what speech tests need: one or more channels are mixed down to one. Unknown chunks are skipped, sizes are bounded, and a
//! `data` chunk that promises more than the file holds is cut (recorders that were killed leave such files).

/// Largest file read: about 23 minutes of 48 kHz mono. Past it the file is refused.
pub const WAV_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Mono sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wav {
    /// Samples per second.
    pub rate_hz: u32,
    /// The samples.
    pub pcm: Vec<i16>,
}

/// Why a file cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WavError {
    /// Neither RIFF nor WAVE.
    NotWave,
    /// No `fmt ` chunk before `data`, or one that is too short.
    NoFormat,
    /// No `data` chunk.
    NoData,
    /// Longer than `WAV_BYTES_MAX`.
    TooLong,
    /// Not 16-bit PCM, or zero channels, or a rate outside 8 to 192 kHz.
    Unsupported,
}

impl std::fmt::Display for WavError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            WavError::NotWave => "not a WAV file",
            WavError::NoFormat => "a WAV file without a format",
            WavError::NoData => "a WAV file without sound",
            WavError::TooLong => "a WAV file that is too long",
            WavError::Unsupported => "not 16-bit PCM",
        })
    }
}

impl std::error::Error for WavError {}

/// Format tag of plain PCM.
const PCM: u16 = 1;
/// Format tag whose real one stands in the extension's first two bytes.
const EXTENSIBLE: u16 = 0xfffe;

/// Reads a file's bytes.
pub fn read(bytes: &[u8]) -> Result<Wav, WavError> {
    if bytes.len() > WAV_BYTES_MAX {
        return Err(WavError::TooLong);
    }
    if bytes.get(..4) != Some(b"RIFF") || bytes.get(8..12) != Some(b"WAVE") {
        return Err(WavError::NotWave);
    }
    let mut rest = &bytes[12..];
    let mut format = None;
    while let Some((head, body)) = rest.split_at_checked(8) {
        let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let chunk = &body[..size.min(body.len())];
        match &head[..4] {
            b"fmt " => format = Some(read_format(chunk)?),
            b"data" => {
                let (channels, rate_hz) = format.ok_or(WavError::NoFormat)?;
                return Ok(Wav { rate_hz, pcm: mix(chunk, channels) });
            }
            _ => {}
        }
        // Chunks are padded to an even length.
        rest = body.get(size.saturating_add(size & 1)..).unwrap_or(&[]);
    }
    Err(WavError::NoData)
}

/// Writes a mono file.
pub fn write(wav: &Wav) -> Vec<u8> {
    let data_bytes = u32::try_from(wav.pcm.len() * 2).unwrap_or(u32::MAX - 36);
    let mut out = Vec::with_capacity(44 + wav.pcm.len() * 2);
    out.extend_from_slice(b"RIFF");
    out.extend_from_slice(&(36 + data_bytes).to_le_bytes());
    out.extend_from_slice(b"WAVEfmt ");
    out.extend_from_slice(&16u32.to_le_bytes());
    out.extend_from_slice(&PCM.to_le_bytes());
    out.extend_from_slice(&1u16.to_le_bytes());
    out.extend_from_slice(&wav.rate_hz.to_le_bytes());
    out.extend_from_slice(&(wav.rate_hz * 2).to_le_bytes());
    out.extend_from_slice(&2u16.to_le_bytes());
    out.extend_from_slice(&16u16.to_le_bytes());
    out.extend_from_slice(b"data");
    out.extend_from_slice(&data_bytes.to_le_bytes());
    for sample in &wav.pcm {
        out.extend_from_slice(&sample.to_le_bytes());
    }
    out
}

/// Channels and rate of a `fmt ` chunk.
fn read_format(chunk: &[u8]) -> Result<(usize, u32), WavError> {
    let word = |at: usize| chunk.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let (Some(mut tag), Some(channels), Some(bits)) = (word(0), word(2), word(14)) else {
        return Err(WavError::NoFormat);
    };
    let rate_hz = u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]);
    if tag == EXTENSIBLE {
        tag = word(24).ok_or(WavError::NoFormat)?;
    }
    if tag != PCM || bits != 16 || channels == 0 || !(8_000..=192_000).contains(&rate_hz) {
        return Err(WavError::Unsupported);
    }
    Ok((usize::from(channels), rate_hz))
}

/// The mean of all channels.
fn mix(data: &[u8], channels: usize) -> Vec<i16> {
    data.chunks_exact(2 * channels)
        .map(|frame| {
            let sum: i32 = frame.chunks_exact(2).map(|b| i32::from(i16::from_le_bytes([b[0], b[1]]))).sum();
            (sum / channels as i32) as i16
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(pcm in prop::collection::vec(any::<i16>(), 0..400), rate_hz in 8_000u32..=48_000) {
            let wav = Wav { rate_hz, pcm };
            prop_assert_eq!(read(&write(&wav)), Ok(wav));
        }

        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            let mut framed = b"RIFF\0\0\0\0WAVE".to_vec();
            framed.extend_from_slice(&bytes);
            let _ = read(&framed);
        }
    }

    #[test]
    fn two_channels_are_mixed_and_unknown_chunks_skipped() {
        let mut bytes = write(&Wav { rate_hz: 8_000, pcm: vec![100, 300, -50, -150] });
        bytes[22] = 2;
        bytes.splice(12..12, *b"LIST\x03\0\0\0abc\0");
        assert_eq!(read(&bytes).unwrap().pcm, [200, -100]);
    }

    #[test]
    fn a_cut_file_gives_what_it_holds() {
        let bytes = write(&Wav { rate_hz: 8_000, pcm: vec![1, 2, 3, 4] });
        assert_eq!(read(&bytes[..bytes.len() - 3]).unwrap().pcm, [1, 2]);
    }

    #[test]
    fn other_things_are_refused_by_name() {
        let good = write(&Wav { rate_hz: 8_000, pcm: vec![1] });
        assert_eq!(read(b"OggS"), Err(WavError::NotWave));
        assert_eq!(read(&good[..12]), Err(WavError::NoData));
        let mut eight_bit = good.clone();
        eight_bit[34] = 8;
        assert_eq!(read(&eight_bit), Err(WavError::Unsupported));
        let mut no_format = good;
        no_format[12..16].copy_from_slice(b"junk");
        assert_eq!(read(&no_format), Err(WavError::NoFormat));
    }
}
