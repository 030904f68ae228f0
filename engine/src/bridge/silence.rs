//! Silence that a relay sends in its source's place: to a peer that must always hear something.
//!
//! WhatsApp ends a call that brings no packets for some seconds, and its SIP side speaks only after it was spoken to. What is
//! relayed is the source's to say, so a callee on hold, or one that has not said its first word, would end such a call.
//!
//! Why fixed payloads: a relay has no encoder, and both kinds of silence are the same bytes for everybody.

use crate::limits::PTIME_MS;
use crate::media::g722::G722Encoder;
use crate::sdp::Codec;
use crate::time::Instant;

/// Silence of the source that is left as it is: longer than the pauses of DTX (400 ms, RFC 7587 §3.1.3), so that a source
/// that uses it is relayed untouched.
pub(super) const SOURCE_SILENT_MS: u64 = 1_000;

/// 20 ms of digital silence: a CELT frame, fullband, mono, that holds the silence flag alone (RFC 6716 §3.1, §4.3).
const OPUS: [u8; 3] = [0xf8, 0xff, 0xfe];

/// The smallest magnitudes of ITU-T G.711.
const PCMU: u8 = 0xff;
const PCMA: u8 = 0xd5;

/// 20 ms of G.722. Its silence is no single byte: it is what an encoder makes of it.
const G722_FRAME_BYTES: usize = 160;

/// Writes 20 ms of silence; answers its length.
pub(super) fn write(codec: Codec, out: &mut [u8]) -> usize {
    let frame_bytes = codec.clock_rate_hz() as usize / 1_000 * PTIME_MS;
    match codec {
        Codec::Opus => {
            out[..OPUS.len()].copy_from_slice(&OPUS);
            return OPUS.len();
        }
        Codec::Pcmu => out[..frame_bytes].fill(PCMU),
        Codec::Pcma => out[..frame_bytes].fill(PCMA),
        Codec::G722 => return G722Encoder::new().encode(&[0; 2 * G722_FRAME_BYTES], out),
    }
    frame_bytes
}

/// When silence is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    due: Instant,
}

impl Silence {
    /// Due at once: nobody has spoken yet.
    pub(super) fn new() -> Silence {
        Silence { due: Instant::ZERO }
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// The source has spoken.
    pub(super) fn heard(&mut self, now: Instant) {
        self.due = now.plus_millis(SOURCE_SILENT_MS);
    }

    /// One frame was sent; a late wake-up is not caught up.
    pub(super) fn sent(&mut self, now: Instant) {
        let next = self.due.plus_millis(PTIME_MS as u64);
        self.due = if next > now { next } else { now.plus_millis(PTIME_MS as u64) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::decode::Decoder;

    #[test]
    fn every_codec_decodes_it_as_twenty_milliseconds_of_nothing() {
        for codec in [Codec::Opus, Codec::Pcmu, Codec::Pcma, Codec::G722] {
            let mut payload = [0; 200];
            let len = write(codec, &mut payload);
            let mut decoder = Decoder::new(codec);
            let mut pcm = [1; 1_920];
            let samples = decoder.decode(&payload[..len], &mut pcm).unwrap();
            assert_eq!(samples, decoder.sample_rate_hz() as usize / 50, "{codec:?}");
            assert!(pcm[..samples].iter().all(|sample| sample.unsigned_abs() <= 8), "{codec:?}: {:?}", &pcm[..16]);
        }
    }
}
