//! libopus's encoder without its CELT half: the application `RESTRICTED_SILK`, which the bindings' safe interface does not know.
//!
//! Why: telephone speech at 20 kbit/s is coded by SILK alone, in either application, so the other half is 7 KB a call that nothing ever
//! reads, and its look-ahead 4 ms of delay. Bandwidth, FEC, complexity and bit rate behave as in the application for speech; what is missing is
//! that one's high-pass filter for the hum of a microphone, which audio from a trunk has behind it.

#![expect(unsafe_code, reason = "the bindings' safe interface lacks the application")]

use core::ptr::NonNull;
use opusic_sys as ffi;
use std::ffi::c_int;

/// An encoder of mono speech. Its memory is taken in `new` and given back when it is dropped.
#[derive(Debug)]
pub(super) struct SilkEncoder(NonNull<ffi::OpusEncoder>);

// SAFETY: the state is plain memory that nobody else points into; libopus keeps nothing per thread.
unsafe impl Send for SilkEncoder {}

/// What libopus answered: one of its negative codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SilkError(c_int);

impl SilkEncoder {
    /// For samples of 8,000 or 16,000 Hz.
    pub(super) fn new(rate_hz: u32) -> Result<SilkEncoder, SilkError> {
        let mut error = ffi::OPUS_OK;
        // SAFETY: `error` is a place for one `c_int`; every other argument is a plain number, and a wrong one an error.
        let state = unsafe {
            ffi::opus_encoder_create(rate_hz as ffi::opus_int32, 1, ffi::OPUS_APPLICATION_RESTRICTED_SILK, &mut error)
        };
        match NonNull::new(state) {
            Some(state) if error == ffi::OPUS_OK => Ok(SilkEncoder(state)),
            _ => Err(SilkError(error)),
        }
    }

    /// Effort, 0 to 10.
    pub(super) fn set_complexity(&mut self, complexity: u8) -> Result<(), SilkError> {
        self.set(ffi::OPUS_SET_COMPLEXITY_REQUEST, complexity.into())
    }

    /// Bits a second.
    pub(super) fn set_bitrate(&mut self, bits: u32) -> Result<(), SilkError> {
        self.set(ffi::OPUS_SET_BITRATE_REQUEST, bits as c_int)
    }

    /// Variable bit rate, kept close to its mean.
    pub(super) fn set_constrained_vbr(&mut self) -> Result<(), SilkError> {
        self.set(ffi::OPUS_SET_VBR_REQUEST, 1)?;
        self.set(ffi::OPUS_SET_VBR_CONSTRAINT_REQUEST, 1)
    }

    /// LBRR frames (RFC 6716 §2.1.7).
    pub(super) fn set_inband_fec(&mut self, is_on: bool) -> Result<(), SilkError> {
        self.set(ffi::OPUS_SET_INBAND_FEC_REQUEST, is_on.into())
    }

    /// Loss that they are to outlast.
    pub(super) fn set_packet_loss_perc(&mut self, pct: u8) -> Result<(), SilkError> {
        self.set(ffi::OPUS_SET_PACKET_LOSS_PERC_REQUEST, pct.into())
    }

    /// Whether packets are left out while nobody speaks.
    pub(super) fn set_dtx(&mut self, is_on: bool) -> Result<(), SilkError> {
        self.set(ffi::OPUS_SET_DTX_REQUEST, is_on.into())
    }

    /// Encodes one frame and answers the packet's length.
    pub(super) fn encode(&mut self, pcm: &[i16], out: &mut [u8]) -> Result<usize, SilkError> {
        let samples = c_int::try_from(pcm.len()).map_err(|_| SilkError(ffi::OPUS_BAD_ARG))?;
        let bytes = ffi::opus_int32::try_from(out.len()).unwrap_or(ffi::opus_int32::MAX);
        // SAFETY: the state is alive, made for one channel, and borrowed mutably. libopus reads `samples` of `pcm` (it refuses a number that
        // is no frame) and writes at most `bytes` of `out`; both lie within their slices.
        let len = unsafe { ffi::opus_encode(self.0.as_ptr(), pcm.as_ptr(), samples, out.as_mut_ptr(), bytes) };
        usize::try_from(len).map_err(|_| SilkError(len))
    }

    fn set(&mut self, request: c_int, value: c_int) -> Result<(), SilkError> {
        // SAFETY: the state is alive and borrowed mutably. Every request here takes one `opus_int32` by value, which `c_int` is.
        match unsafe { ffi::opus_encoder_ctl(self.0.as_ptr(), request, value) } {
            ffi::OPUS_OK => Ok(()),
            error => Err(SilkError(error)),
        }
    }
}

impl Drop for SilkEncoder {
    fn drop(&mut self) {
        // SAFETY: the state came from `opus_encoder_create`, and nothing uses it after this.
        unsafe { ffi::opus_encoder_destroy(self.0.as_ptr()) }
    }
}
