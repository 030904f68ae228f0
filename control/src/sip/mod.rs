//! SIP without sockets: bytes and `now` in; bytes, events and the next deadline out (RFC 3261).

mod agent;
pub mod dialog;
pub mod digest;
pub mod gatekeeper;
pub mod limits;
pub mod message;
pub mod transaction;
pub mod transport;
pub mod uri;

pub use agent::SipAgent;
use engine::time::Instant;
use std::net::SocketAddr;

/// A call of this agent, either direction. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SipCallId(pub u64);

/// Digest credentials (RFC 7616, 8760). Debug prints no password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What the agent is.
#[derive(Clone)]
pub struct SipConfig {
    /// Address written into Via and Contact: what peers can reach.
    pub advertised: SocketAddr,
    /// User part of our Contact.
    pub contact_user: String,
    /// `User-Agent` and `Server`.
    pub product: String,
    /// Digest demanded of every incoming INVITE (407), with this realm; `None`: incoming calls are not challenged.
    pub demand: Option<(String, Credentials)>,
    /// Whether incoming INVITEs are taken at all; otherwise 404 at once.
    pub accept_incoming: bool,
}

/// A call to be placed.
#[derive(Clone)]
pub struct Invite {
    /// Request-URI, `;transport=` understood.
    pub target: String,
    /// Outbound proxy: where the request is sent; the Request-URI stays the target's.
    pub proxy: Option<String>,
    /// From: display name, if any.
    pub from_display: Option<String>,
    /// From: user part.
    pub from_user: String,
    /// From: host part; the advertised address when `None`.
    pub from_host: Option<String>,
    /// Further headers of the first INVITE (and its repetition with credentials), such as `X-WA-Call-ID`.
    pub headers: Vec<(String, String)>,
    /// The offer.
    pub sdp: String,
    /// For 401 and 407.
    pub credentials: Option<Credentials>,
    /// Give up (CANCEL) when no final response came after this long, ms.
    pub ring_ms_max: u64,
}

/// What happens to calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SipEvent {
    /// The INVITE left for the first time.
    InviteSent {
        /// Which call.
        call: SipCallId,
    },
    /// 401 or 407 came and is being answered.
    Challenged {
        /// Which call.
        call: SipCallId,
        /// 401 or 407.
        code: u16,
    },
    /// 101 to 199 came.
    Provisional {
        /// Which call.
        call: SipCallId,
        /// The code.
        code: u16,
        /// Its SDP, if any (early media).
        sdp: Option<String>,
    },
    /// 2xx came; the ACK is on its way.
    Answered {
        /// Which call.
        call: SipCallId,
        /// The answer.
        sdp: String,
        /// `X-Twilio-CallSid` and the like: all `X-` headers of the response.
        headers: Vec<(String, String)>,
    },
    /// The call came to nothing, or ended; the last event of a call.
    Ended {
        /// Which call.
        call: SipCallId,
        /// Why.
        end: SipEnd,
    },
    /// A call came in (UAS); answer it with `ring`, `accept` or `reject`.
    Incoming {
        /// Which call.
        call: SipCallId,
        /// Request-URI.
        target: String,
        /// From header, verbatim.
        from: String,
        /// The offer; `None`: the offer is ours to make.
        sdp: Option<String>,
        /// All `X-` headers.
        headers: Vec<(String, String)>,
    },
    /// Our 2xx was acknowledged (UAS).
    Acknowledged {
        /// Which call.
        call: SipCallId,
    },
    /// The ACK carried the answer to an offer of ours (an INVITE or re-INVITE without SDP; RFC 3264 §5). Comes before `Acknowledged`.
    LateAnswer {
        /// Which call.
        call: SipCallId,
        /// The answer.
        sdp: String,
    },
    /// A re-INVITE with a new offer came; answer it with `answer_reinvite`. One without an offer is treated as an offer request.
    ReInvite {
        /// Which call.
        call: SipCallId,
        /// The offer; `None`: the peer wants ours.
        sdp: Option<String>,
    },
    /// INFO with `application/dtmf-relay` or `application/dtmf` came (already answered 200).
    InfoDigit {
        /// Which call.
        call: SipCallId,
        /// The key.
        digit: char,
        /// ms
        duration_ms: u32,
    },
}

/// How a SIP call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SipEnd {
    /// The peer said BYE; its `Reason` header, if any.
    ByeReceived(Option<String>),
    /// We said BYE (`hangup` after the answer).
    ByeSent,
    /// We cancelled before the answer.
    Cancelled,
    /// The peer cancelled (UAS).
    CancelReceived,
    /// A final response of 300 or more; reason phrase, and `X-Twilio-Error` or `Warning`, if any.
    Rejected {
        /// The code.
        code: u16,
        /// Reason phrase and detail.
        reason: String,
    },
    /// No response at all (timer B or F), or none after `ring_ms_max`.
    TimedOut,
    /// Credentials were wrong, or none were given.
    Unauthorized,
    /// The target could not be resolved or sent to.
    Unreachable,
    /// A 2xx without usable SDP, or no ACK for ours.
    ProtocolError,
    /// A local refusal: `reject`.
    RejectedByUs(u16),
}

/// What `poll_output` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SipOutput {
    /// One datagram.
    Transmit {
        /// Where.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// For the owner of the calls.
    Event(SipEvent),
    /// Look up `host` (a name) and answer with `resolved`.
    Resolve {
        /// Names the question.
        query: u64,
        /// The name.
        host: String,
        /// The port to be put behind every address.
        port: u16,
    },
    /// Nothing to do before this instant.
    Timeout(Instant),
}
