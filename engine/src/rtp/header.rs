//! The RTP header (RFC 3550 §5.1).

use crate::error::DropReason;
use crate::time::RtpTimestamp;

/// Bytes of a header without CSRCs and extension.
pub const HEADER_BYTES: usize = 12;

/// One packet, checked: CSRC list, extension and padding lie inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtpPacket<'p> {
    /// M
    pub marker: bool,
    /// PT
    pub payload_type: u8,
    /// Sequence number.
    pub sequence: u16,
    /// Timestamp.
    pub timestamp: RtpTimestamp,
    /// SSRC
    pub ssrc: u32,
    /// Without padding.
    pub payload: &'p [u8],
}

/// Reads a packet (already decrypted).
pub fn parse(_packet: &[u8]) -> Result<RtpPacket<'_>, DropReason> {
    todo!()
}

/// Writes the 12 bytes of a header without CSRCs, extension and padding.
pub fn write(_marker: bool, _payload_type: u8, _sequence: u16, _timestamp: RtpTimestamp, _ssrc: u32, _out: &mut [u8]) {
    todo!()
}
