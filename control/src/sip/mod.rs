//! SIP without sockets: bytes and `now` in; bytes, events and the next deadline out (RFC 3261).
//!
//! ```text
//! message and hop -> [ SipAgent: Transactions, Calls, Registrations, Locator ] -> message and hop, events, questions to the DNS
//!                          asks the Gatekeeper who may call and register
//! ```

mod agent;
pub mod dialog;
pub mod digest;
pub mod gatekeeper;
pub mod limits;
pub mod locate;
pub mod message;
mod places;
pub mod transaction;
pub mod transport;
pub mod uri;

pub use agent::SipAgent;
pub use agent::kept::{Kept, KeptDialog};
use engine::time::Instant;
use gatekeeper::Admitted;
use locate::Question;
use message::Message;
use std::net::SocketAddr;
use transport::{Hop, PeerIdentity, Transport};

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

/// An outbound registration of ours. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistrationId(pub u64);

/// A peer that is asked now and then whether it lives. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(pub u64);

/// What the agent is.
#[derive(Clone)]
pub struct SipConfig {
    /// Address written into Via and Contact: what peers can reach over UDP, and over every transport that `reach` does not name.
    pub advertised: SocketAddr,
    /// The transports that exist beside UDP, and what peers reach us at over each.
    pub reach: Vec<(Transport, SocketAddr)>,
    /// Name written in place of the address into Via and Contact of TLS and WSS: peers verify our certificate against it.
    pub tls_name: Option<String>,
    /// Longest request sent as a datagram where TCP is there too (RFC 3261 §18.1.1).
    pub udp_bytes_max: usize,
    /// User part of our Contact.
    pub contact_user: String,
    /// `User-Agent` and `Server`.
    pub product: String,
    /// Digest demanded of every incoming INVITE (407), with this realm; `None`: incoming calls are not challenged.
    pub demand: Option<(String, Credentials)>,
    /// Whether incoming INVITEs are taken at all; otherwise 404 at once.
    pub accept_incoming: bool,
}

impl SipConfig {
    /// An agent over UDP alone that takes every call.
    pub fn new(advertised: SocketAddr, contact_user: &str, product: &str) -> SipConfig {
        SipConfig {
            advertised,
            reach: Vec::new(),
            tls_name: None,
            udp_bytes_max: limits::UDP_BYTES_MAX,
            contact_user: contact_user.to_owned(),
            product: product.to_owned(),
            demand: None,
            accept_incoming: true,
        }
    }

    /// What peers reach us at over `transport`; `None`: it does not exist here.
    pub fn reach(&self, transport: Transport) -> Option<SocketAddr> {
        let listed = self.reach.iter().find(|(known, _)| *known == transport).map(|&(_, address)| address);
        listed.or((transport == Transport::Udp).then_some(self.advertised))
    }
}

/// A call to be placed.
#[derive(Clone, Default)]
pub struct Invite {
    /// Request-URI, `;transport=` understood.
    pub target: String,
    /// Outbound proxy: where the request is sent; the Request-URI stays the target's.
    pub proxy: Option<String>,
    /// Where the request is sent, known already: the hop of a registered binding. Nothing is looked up.
    pub hop: Option<Hop>,
    /// Route headers of the first INVITE, such as a binding's Path (RFC 3327 §5.3); without `hop` the first decides where it goes.
    pub routes: Vec<String>,
    /// Max-Forwards; 70 when `None`. A call that came in passes on one less than it came with.
    pub max_forwards: Option<u8>,
    /// Written as P-Asserted-Identity, to peers that are trusted (RFC 3325 §5).
    pub asserted_identity: Option<String>,
    /// Ask for reliable provisional responses where the peer insists on them (RFC 3262): `Supported: 100rel`.
    pub reliable_provisionals: bool,
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
    /// BYE came with `X-` headers, such as the figures of Meta's SIP mode. Comes before `Ended`.
    ByeHeaders {
        /// Which call.
        call: SipCallId,
        /// All of them.
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
        /// The whole request, where it came from and as whom.
        arrival: Box<Arrival>,
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
    /// A re-INVITE or UPDATE with a new offer came; answer it with `answer_reinvite`. One without an offer is treated as an offer request.
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
    /// Our `reinvite` was answered; the ACK is on its way.
    ReInviteAnswered {
        /// Which call.
        call: SipCallId,
        /// The answer.
        sdp: String,
    },
    /// Our `reinvite` was refused: the call goes on as it was.
    ReInviteRefused {
        /// Which call.
        call: SipCallId,
        /// The code; 408 when there was no answer.
        code: u16,
    },
    /// REFER came: the peer asks us to call someone else in its place (RFC 3515). Already answered 202; tell the peer how it goes
    /// with `transfer_progress`.
    TransferAsked {
        /// Which call.
        call: SipCallId,
        /// Refer-To: the URI, without its headers.
        refer_to: String,
        /// The dialog that the new call is to replace (RFC 3891), if any.
        replaces: Option<Replaces>,
        /// Referred-By, verbatim.
        referred_by: Option<String>,
    },
    /// How a `refer` of ours goes: the peer's answer (202 or a refusal), then what its NOTIFYs say.
    TransferProgress {
        /// Which call.
        call: SipCallId,
        /// The code of the response, or of the NOTIFY's status line.
        code: u16,
        /// Nothing more comes.
        over: bool,
    },
    /// An outbound registration holds.
    Registered {
        /// Which.
        registration: RegistrationId,
        /// Seconds granted.
        expires_s: u32,
    },
    /// An outbound registration was refused or not answered; it is tried again.
    RegistrationFailed {
        /// Which.
        registration: RegistrationId,
        /// The code; 408 when there was no answer.
        code: u16,
        /// Reason phrase and detail.
        reason: String,
        /// Wait until the next try, ms.
        retry_ms: u64,
    },
    /// A watched peer answers, or has ceased to.
    PeerAlive {
        /// Which.
        watch: WatchId,
        /// Whether it answered.
        alive: bool,
    },
}

impl SipEvent {
    /// The call it is about, if it is about one.
    pub fn call(&self) -> Option<SipCallId> {
        match self {
            SipEvent::InviteSent { call }
            | SipEvent::Challenged { call, .. }
            | SipEvent::Provisional { call, .. }
            | SipEvent::Answered { call, .. }
            | SipEvent::ByeHeaders { call, .. }
            | SipEvent::Ended { call, .. }
            | SipEvent::Incoming { call, .. }
            | SipEvent::Acknowledged { call }
            | SipEvent::LateAnswer { call, .. }
            | SipEvent::ReInvite { call, .. }
            | SipEvent::ReInviteAnswered { call, .. }
            | SipEvent::ReInviteRefused { call, .. }
            | SipEvent::TransferAsked { call, .. }
            | SipEvent::TransferProgress { call, .. }
            | SipEvent::InfoDigit { call, .. } => Some(*call),
            SipEvent::Registered { .. } | SipEvent::RegistrationFailed { .. } | SipEvent::PeerAlive { .. } => None,
        }
    }
}

/// How a call came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The INVITE.
    pub request: Message,
    /// Where it came from.
    pub hop: Hop,
    /// What TLS proved.
    pub peer: PeerIdentity,
    /// As whom it was admitted.
    pub admitted: Admitted,
    /// The call it is to replace (RFC 3891), if it names one that is alive here.
    pub replaces: Option<SipCallId>,
}

/// A dialog named by another call (RFC 3891 §3), as its other side sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaces {
    /// Call-ID.
    pub call_id: String,
    /// Tag of whoever gets the INVITE.
    pub to_tag: String,
    /// Tag of the dialog's other end.
    pub from_tag: String,
    /// Only while nobody has answered.
    pub early_only: bool,
}

impl Replaces {
    /// As the header is written.
    pub fn header(&self) -> String {
        let Replaces { call_id, to_tag, from_tag, early_only } = self;
        let early_only = if *early_only { ";early-only" } else { "" };
        format!("{call_id};to-tag={to_tag};from-tag={from_tag}{early_only}")
    }
}

/// An outbound registration (RFC 3261 §10.2).
#[derive(Clone, Default)]
pub struct Register {
    /// `sip:` and the domain of the registrar: the Request-URI.
    pub registrar: String,
    /// Outbound proxy: where the request is sent; to the registrar when `None`.
    pub proxy: Option<String>,
    /// Address of record: `sip:user@domain`.
    pub aor: String,
    /// User part of the Contact; the agent's when `None`.
    pub contact_user: Option<String>,
    /// For 401 and 407.
    pub credentials: Option<Credentials>,
    /// Seconds asked for.
    pub expires_s: u32,
}

/// A peer to be asked with OPTIONS whether it lives.
#[derive(Clone, Default)]
pub struct Watch {
    /// Request-URI.
    pub target: String,
    /// Where it is sent, if not to the target.
    pub proxy: Option<String>,
    /// Pause between two questions, ms.
    pub every_ms: u64,
}

/// A message as it was on the wire, for the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceMessage {
    /// When.
    pub at: Instant,
    /// Whether we sent it.
    pub sent: bool,
    /// Where from, or where to.
    pub hop: Hop,
    /// Call-ID; empty when there is none.
    pub call_id: String,
    /// All of it, secrets included.
    pub bytes: Vec<u8>,
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
    /// One message.
    Transmit {
        /// Where.
        hop: Hop,
        /// What.
        bytes: Vec<u8>,
    },
    /// For the owner of the calls.
    Event(SipEvent),
    /// Ask the DNS and answer with `resolved`.
    Resolve {
        /// Names the question.
        query: u64,
        /// What is asked.
        question: Question,
    },
    /// A message that came or went; only while tracing is on.
    Trace(TraceMessage),
    /// Nothing to do before this instant.
    Timeout(Instant),
}
