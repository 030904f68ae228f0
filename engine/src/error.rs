//! The three outcomes: noise is dropped with a reason, a call ends with a cause, a bug panics.

/// Why a packet was thrown away. Counted per variant; none of them ends a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DropReason {
    /// DTLS from an address that is not the nominated one, or before nomination.
    DtlsUnexpected,
    /// The packet is longer than any buffer that could hold it.
    JitterFull,
    /// Arrived after its playout time.
    JitterLate,
    /// The same packet twice, on a leg without SRTP's replay window.
    JitterDuplicate,
    /// The first byte belongs to no protocol we speak (RFC 7983 §7).
    NotMultiplexed,
    /// RTP or RTCP before the keys are there.
    NotReady,
    /// RTCP that is not a compound packet of valid length (RFC 3550 §6.1).
    RtcpMalformed,
    /// RTP with a bad version, CSRC count, extension or padding (RFC 3550 §5.1).
    RtpMalformed,
    /// RTP with a payload type that was not negotiated.
    RtpPayloadType,
    /// SRTP or SRTCP whose tag does not verify.
    SrtpAuthFailed,
    /// SRTP or SRTCP whose index was seen before or lies behind the window (RFC 3711 §3.3.2).
    SrtpReplayed,
    /// SRTP or SRTCP shorter than header and tag.
    SrtpTooShort,
    /// More synchronisation sources than a stream may have.
    SsrcTableFull,
    /// STUN without MESSAGE-INTEGRITY or FINGERPRINT, or with a wrong one.
    StunAuthFailed,
    /// Not a well-formed STUN message (RFC 8489 §5).
    StunMalformed,
    /// STUN for a ufrag or transaction we do not know.
    StunUnknown,
    /// Media from an address that neither ICE nor the latching policy allows.
    UnknownSource,
}

impl DropReason {
    /// How many variants there are.
    pub const COUNT: usize = DropReason::UnknownSource as usize + 1;

    /// Every variant, in the order of the counters.
    pub const ALL: [DropReason; DropReason::COUNT] = [
        DropReason::DtlsUnexpected,
        DropReason::JitterFull,
        DropReason::JitterLate,
        DropReason::JitterDuplicate,
        DropReason::NotMultiplexed,
        DropReason::NotReady,
        DropReason::RtcpMalformed,
        DropReason::RtpMalformed,
        DropReason::RtpPayloadType,
        DropReason::SrtpAuthFailed,
        DropReason::SrtpReplayed,
        DropReason::SrtpTooShort,
        DropReason::SsrcTableFull,
        DropReason::StunAuthFailed,
        DropReason::StunMalformed,
        DropReason::StunUnknown,
        DropReason::UnknownSource,
    ];
}

/// How a bridge ended, and which side it is counted against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct End {
    /// Who is to be asked.
    pub side: Side,
    /// What happened.
    pub cause: Cause,
}

/// The side an end is counted against. Control maps A and B to WhatsApp, softphone, trunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The peer of leg A.
    A,
    /// The peer of leg B.
    B,
    /// This program, or whoever commands it.
    Engine,
}

/// Why a bridge ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Control closed the bridge: the ordinary end.
    Closed,
    /// No answer to consent checks for 30 s (RFC 7675 §5.1).
    ConsentLost,
    /// The peer's certificate does not have the fingerprint of its description (RFC 8122 §5).
    DtlsFingerprintMismatch,
    /// The peer sent a fatal alert, or spoke no version, suite or SRTP profile of ours.
    DtlsRefused,
    /// The handshake did not finish in `DTLS_MS_MAX`.
    DtlsTimeout,
    /// The peer closed the DTLS association (close_notify).
    DtlsClosed,
    /// No candidate pair answered in `ICE_MS_MAX`.
    IceFailed,
    /// Nothing, neither RTP nor RTCP nor a check, for `MEDIA_MS_MAX`.
    MediaTimeout,
    /// The peer said BYE in RTCP and nothing followed.
    RtcpBye,
    /// A bug in this bridge, caught at its border.
    Panicked,
    /// The worker stops.
    Shutdown,
}
