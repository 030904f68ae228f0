//! libopus with its networks: deep concealment, and deep redundancy (DRED) where packets carry it. Cargo feature `deep-plc`.
//!
//! ```text
//!   packets      1   2   ✗   ✗   ✗   6          6 carries LBRR: 5 is decoded from that, 3 and 4 are made up by the network
//!   played       1   2  ←── from 6 ──►  6       6 carries DRED: its features of the last second lead the network through 3, 4 and 5
//! ```
//!
//! Why an option: a decoder takes 88 KB in place of 18, an encoder 102 in place of 25, though nothing of ours is coded with DRED, and a
//! packet that is made up costs 0.3 to 0.5 ms in place of 0.01. What it gains stands in `docs/decisions.md`. The networks know 16 kHz
//! alone: where the sender's libopus has fallen back to a narrow band, which in-band FEC at 20 kbit/s makes it do, nothing changes.
//!
//! Why a wrapper of our own: the `opus` crate cannot set a decoder's complexity, which is what turns the networks on, and knows no DRED.

#![expect(unsafe_code, reason = "the bindings' safe interface lacks a decoder's complexity, and DRED")]

use super::decode::DecodeError;
use ::opus::Channels;
use core::ffi::c_int;
use core::ptr::NonNull;
use opusic_sys as ffi;

/// Complexity from which libopus's decoder uses the networks.
const NETWORKS_FROM: u8 = 5;

/// DRED is parsed this much further back than asked for: it comes in pieces of 40 ms, and which one holds the asked instant is
/// known only when it is parsed.
const PIECE_MS: usize = 40;

/// The longest reach that libopus codes: 26 pieces.
const REACH_MS_MAX: usize = 26 * PIECE_MS;

/// A decoder of one mono stream.
#[derive(Debug)]
pub struct DeepDecoder {
    decoder: NonNull<ffi::OpusDecoder>,
    parser: NonNull<ffi::OpusDREDDecoder>,
    /// What was parsed last: no packet's features outlive the call that asked for them.
    features: NonNull<ffi::OpusDRED>,
    rate_hz: u32,
    uses_networks: bool,
}

// SAFETY: the three objects are plain memory of libopus, owned by this value alone and tied to no thread.
unsafe impl Send for DeepDecoder {}

impl DeepDecoder {
    /// Takes the decoder's memory, as the `opus` crate's decoder does.
    pub fn new(rate_hz: u32, channels: Channels) -> Result<DeepDecoder, DecodeError> {
        let mut error = ffi::OPUS_OK;
        // SAFETY: the functions take plain values and a place for the error, and answer null or an object that is ours to free.
        let (decoder, parser, features) = unsafe {
            (
                ffi::opus_decoder_create(rate_hz as i32, channels as c_int, &mut error),
                ffi::opus_dred_decoder_create(&mut error),
                ffi::opus_dred_alloc(&mut error),
            )
        };
        match (NonNull::new(decoder), NonNull::new(parser), NonNull::new(features)) {
            (Some(decoder), Some(parser), Some(features)) => {
                let mut made = DeepDecoder { decoder, parser, features, rate_hz, uses_networks: false };
                made.set_complexity(NETWORKS_FROM);
                Ok(made)
            }
            (decoder, parser, features) => {
                // SAFETY: each was made by the function beside it and is not used again.
                unsafe {
                    decoder.map(|decoder| ffi::opus_decoder_destroy(decoder.as_ptr()));
                    parser.map(|parser| ffi::opus_dred_decoder_destroy(parser.as_ptr()));
                    features.map(|features| ffi::opus_dred_free(features.as_ptr()));
                }
                Err(DecodeError)
            }
        }
    }

    /// Uses the networks from an effort of 5 on: a core that has no time for its encoders has none for them.
    pub fn set_complexity(&mut self, complexity: u8) {
        self.uses_networks = complexity >= NETWORKS_FROM;
        // Above 5 is nothing but OSCE, which this build leaves out.
        let complexity = if self.uses_networks { NETWORKS_FROM } else { 0 };
        // SAFETY: the decoder is alive, and this request takes one int.
        let done = unsafe {
            ffi::opus_decoder_ctl(self.decoder.as_ptr(), ffi::OPUS_SET_COMPLEXITY_REQUEST, c_int::from(complexity))
        };
        debug_assert_eq!(done, ffi::OPUS_OK);
    }

    /// Decodes a packet, or its redundancy; an empty one asks for concealment of all of `output`.
    pub fn decode_float(&mut self, packet: &[u8], output: &mut [f32], fec: bool) -> Result<usize, DecodeError> {
        let pointer = if packet.is_empty() { core::ptr::null() } else { packet.as_ptr() };
        // SAFETY: the lengths are those of the slices, in bytes and in samples of one channel; libopus writes no more than it is told.
        let samples = unsafe {
            ffi::opus_decode_float(
                self.decoder.as_ptr(),
                pointer,
                packet.len() as i32,
                output.as_mut_ptr(),
                output.len() as c_int,
                c_int::from(fec),
            )
        };
        usize::try_from(samples).map_err(|_| DecodeError)
    }

    /// Recovers what began `distance` samples before `next` from the DRED in it, all of `output`; `None` where it carries none that
    /// reaches there. LBRR, which is the voice itself, is preferred: it tells of the packet just before.
    pub fn recover(&mut self, next: &[u8], distance: usize, output: &mut [i16]) -> Option<usize> {
        let samples_per_ms = self.rate_hz as usize / 1_000;
        let is_beyond = distance >= samples_per_ms * REACH_MS_MAX + output.len();
        if !self.uses_networks || next.is_empty() || is_beyond || (distance <= output.len() && has_lbrr(next)) {
            return None;
        }
        let wanted = distance + samples_per_ms * PIECE_MS;
        let mut end = 0;
        // SAFETY: all three objects are alive, the length is that of the slice, and `end` is a place for one int.
        let reaches = unsafe {
            ffi::opus_dred_parse(
                self.parser.as_ptr(),
                self.features.as_ptr(),
                next.as_ptr(),
                next.len() as i32,
                wanted as i32,
                self.rate_hz as i32,
                &mut end,
                0,
            )
        };
        // A part of the packet is better than nothing of it.
        if usize::try_from(reaches).ok()? + output.len() <= distance || reaches == 0 {
            return None;
        }
        // SAFETY: both objects are alive, the features were parsed and processed just now, and the length is that of the slice.
        let samples = unsafe {
            ffi::opus_decoder_dred_decode(
                self.decoder.as_ptr(),
                self.features.as_ptr(),
                distance as i32,
                output.as_mut_ptr(),
                output.len() as i32,
            )
        };
        usize::try_from(samples).ok()
    }
}

impl Drop for DeepDecoder {
    fn drop(&mut self) {
        // SAFETY: each was made by the function beside it and is not used again.
        unsafe {
            ffi::opus_decoder_destroy(self.decoder.as_ptr());
            ffi::opus_dred_decoder_destroy(self.parser.as_ptr());
            ffi::opus_dred_free(self.features.as_ptr());
        }
    }
}

fn has_lbrr(packet: &[u8]) -> bool {
    // SAFETY: the length is that of the slice, which is not written to.
    unsafe { ffi::opus_packet_has_lbrr(packet.as_ptr(), packet.len() as i32) > 0 }
}
