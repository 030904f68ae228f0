//! A sender of deep redundancy: libopus's own encoder, since nothing of ours sends any. The bench of speech quality uses it too.

use core::ffi::c_int;
use opusic_sys as ffi;

/// An encoder of 16 kHz mono speech with a second and less of DRED in each packet's padding, and no in-band FEC.
pub struct DredEncoder(*mut ffi::OpusEncoder);

impl DredEncoder {
    /// `reach_10ms`: how far back the redundancy goes, in steps of 10 ms.
    pub fn new(bitrate: i32, reach_10ms: i32, expected_loss_pct: i32) -> DredEncoder {
        let mut error = ffi::OPUS_OK;
        // SAFETY: plain values, and a place for the error.
        let encoder = unsafe { ffi::opus_encoder_create(16_000, 1, ffi::OPUS_APPLICATION_VOIP, &mut error) };
        assert!(!encoder.is_null(), "libopus: {error}");
        for (request, value) in [
            (ffi::OPUS_SET_BITRATE_REQUEST, bitrate),
            (ffi::OPUS_SET_BANDWIDTH_REQUEST, ffi::OPUS_BANDWIDTH_WIDEBAND),
            (ffi::OPUS_SET_COMPLEXITY_REQUEST, 9),
            (ffi::OPUS_SET_PACKET_LOSS_PERC_REQUEST, expected_loss_pct),
            (ffi::OPUS_SET_DRED_DURATION_REQUEST, reach_10ms),
        ] {
            // SAFETY: the encoder is alive, and each of these requests takes one int.
            let done = unsafe { ffi::opus_encoder_ctl(encoder, request, value as c_int) };
            assert_eq!(done, ffi::OPUS_OK, "request {request}");
        }
        DredEncoder(encoder)
    }

    /// One frame of 20 ms.
    pub fn encode(&mut self, frame: &[i16]) -> Vec<u8> {
        let mut packet = vec![0; 1_276];
        // SAFETY: the encoder is alive, and both lengths are those of the slices.
        let len = unsafe {
            ffi::opus_encode(self.0, frame.as_ptr(), frame.len() as c_int, packet.as_mut_ptr(), packet.len() as i32)
        };
        packet.truncate(usize::try_from(len).expect("a frame of 20 ms can be encoded"));
        packet
    }
}

impl Drop for DredEncoder {
    fn drop(&mut self) {
        // SAFETY: it was made by `opus_encoder_create` and is not used again.
        unsafe { ffi::opus_encoder_destroy(self.0) };
    }
}
