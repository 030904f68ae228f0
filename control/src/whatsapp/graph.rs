//! The Graph API, as its client: requests with an `action`, and what their failures mean.

use crate::trace::redact::Redact;

/// What is asked of Graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphRequest {
    /// Names the question; `handle_graph` answers it.
    pub request: u64,
    /// Whose call it is.
    pub phone_number_id: String,
    /// Which call.
    pub call_id: String,
    /// What to do.
    pub action: GraphAction,
}

/// The four actions on a call of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GraphAction {
    /// Prepares ICE and DTLS.
    PreAccept {
        /// The answer.
        sdp: String,
    },
    /// Picks up.
    Accept {
        /// The answer, the same bytes as in `PreAccept`.
        sdp: String,
    },
    /// Refuses a call that was not accepted.
    Reject,
    /// Ends a call that was accepted.
    Terminate,
}

/// Asks Graph to ring a user: `connect`, a call that the business begins.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Names the question; `handle_connected` answers it.
    pub request: u64,
    /// Who calls.
    pub phone_number_id: String,
    /// Who is called.
    pub to: Callee,
    /// Our offer.
    pub sdp: String,
    /// `biz_opaque_callback_data`: comes back in the call's webhooks, also in those that overtake Graph's reply.
    pub opaque: String,
    /// As in the caller's timeline.
    pub call_id: String,
}

/// A user of WhatsApp, as Graph names one.
#[derive(Clone, PartialEq, Eq)]
pub enum Callee {
    /// E.164, digits only.
    Number(String),
    /// The business-scoped id of a user who may show no number.
    Scoped(String),
}

impl Callee {
    /// Reads a business-scoped user id, such as `GB.20000000000000000001`.
    pub fn scoped(text: &str) -> Option<Callee> {
        let (country, id) = text.split_once('.')?;
        let is_id = |id: &str| (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let is_country = country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_uppercase());
        (is_country && is_id(id)).then(|| Callee::Scoped(text.to_owned()))
    }
}

impl std::fmt::Debug for Callee {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Callee::Number(text) | Callee::Scoped(text)) = self;
        write!(f, "{}", Redact(text))
    }
}

impl std::fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ConnectRequest { request, to, opaque, .. } = self;
        f.debug_struct("ConnectRequest").field("request", request).field("to", to).field("opaque", opaque).finish()
    }
}

/// Why a Graph request failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GraphError {
    /// What kind of failure it was.
    pub kind: GraphErrorKind,
    /// `error.code`
    pub code: Option<u32>,
    /// `error.error_subcode`
    pub subcode: Option<u32>,
    /// `error.message`, or the whole error where it is a string.
    pub message: String,
    /// `error.error_data.details`
    pub details: Option<String>,
    /// `error.fbtrace_id`
    pub fbtrace_id: Option<String>,
    /// `error.is_transient`
    pub is_transient: bool,
}

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GraphErrorKind {
    /// An HTTP status other than 2xx came.
    Status(u16),
    /// No connection: Graph never saw the request.
    #[default]
    Connect,
    /// No reply in time: Graph may have acted.
    Timeout,
    /// A 2xx that says `"success": false`.
    Unsuccessful,
    /// No account is configured for the number: nothing was asked.
    NoAccount,
}

/// Whose fault a failed request is, and so what may be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphFault {
    /// It may pass: ask again a little later.
    Retry,
    /// This request will never succeed.
    Final,
    /// No request will succeed until the operator changes something: token, settings, payment.
    Operator,
}

impl GraphAction {
    /// Its name in requests and in the log.
    pub fn name(&self) -> &'static str {
        match self {
            GraphAction::PreAccept { .. } => "pre_accept",
            GraphAction::Accept { .. } => "accept",
            GraphAction::Reject => "reject",
            GraphAction::Terminate => "terminate",
        }
    }
}

impl GraphError {
    /// What may be done about it.
    pub fn fault(&self) -> GraphFault {
        let status = match self.kind {
            GraphErrorKind::Connect | GraphErrorKind::Timeout => return GraphFault::Retry,
            GraphErrorKind::Unsuccessful => return GraphFault::Final,
            GraphErrorKind::NoAccount => return GraphFault::Operator,
            GraphErrorKind::Status(status) => status,
        };
        match (self.code, status) {
            // No payment method, SIP mode, calling not enabled or not available, token, permissions.
            // A version of the API that is no longer served.
            _ if self.remedy().is_some() => GraphFault::Operator,
            // The SDP, or a call that cannot be.
            (Some(100 | 138_001 | 138_003 | 138_006..=138_009 | 138_012), _) => GraphFault::Final,
            // Too many calls, too fast, connection error, throttled.
            (Some(138_002 | 138_004 | 138_005 | 613 | 4 | 130_429), _) => GraphFault::Retry,
            (_, 429 | 500..) => GraphFault::Retry,
            _ if self.is_transient => GraphFault::Retry,
            (_, 401 | 403) => GraphFault::Operator,
            _ => GraphFault::Final,
        }
    }

    /// What the operator has to change, where nothing else helps.
    pub fn remedy(&self) -> Option<&'static str> {
        Some(match self.code? {
            190 => "the access token is invalid or has expired: write a new one (WABA_TOKEN, or token of the account)",
            10 | 200 => "the access token lacks a permission: it needs whatsapp_business_messaging for this number",
            2_635 => "this version of the Graph API is no longer served: name a newer one in WABA_BASE",
            131_044 => "the WhatsApp Business Account has no valid payment method: add one in Meta's business settings",
            131_055 => {
                "the number is in SIP mode, where Graph's call actions are refused: set calling.sip.status to DISABLED in its settings"
            }
            138_000 => "calling is not enabled on this number: set calling.status to ENABLED in its settings",
            138_013 => "calls by the business are not available for this number's country",
            138_014 => "calling is disabled on this number for now: see its quality in Meta's manager",
            138_015 => "calling cannot be enabled: the number's messaging limit must be 2,000 recipients a day or more",
            138_018 => "calling is restricted on this number: see its settings in Meta's manager",
            _ => return None,
        })
    }

    /// What a failed `connect` says to the SIP side: about the user who was called (4xx), or about us (5xx).
    pub fn sip_code(&self) -> u16 {
        match (self.code, self.kind) {
            // No permission, and calls to this user for today used up: as in Meta's own SIP mode.
            (Some(138_006 | 138_009 | 138_012), _) => 403,
            (Some(138_001), _) => 480,
            // A call with this user goes on already.
            (Some(138_003), _) => 486,
            (Some(100 | 138_008), _) => 488,
            (Some(138_007), _) | (_, GraphErrorKind::Timeout) => 504,
            _ => 503,
        }
    }

    /// What whoever called may do, where the refusal is about one user.
    pub fn advice(&self) -> Option<&'static str> {
        Some(match self.code? {
            138_006 => {
                "this user has given no call permission, or it has expired: ask for it with a call_permission_request message"
            }
            138_009 => "this user has been asked for a call permission too often: wait before asking again",
            138_012 => "this user has been called as often as WhatsApp allows: wait until tomorrow",
            138_001 => "this user cannot be called: no WhatsApp there, or one that is too old",
            138_003 => "a call with this user goes on already",
            _ => return None,
        })
    }

    /// The fault as a word of the log.
    pub fn class(&self) -> &'static str {
        match self.fault() {
            GraphFault::Retry => "retry",
            GraphFault::Final => "final",
            GraphFault::Operator => "operator",
        }
    }

    /// Whether Graph may have done what it was asked, all the same.
    pub fn may_have_acted(&self) -> bool {
        matches!(self.kind, GraphErrorKind::Timeout | GraphErrorKind::Status(500..))
    }

    /// The side that a call ended by this error is counted against.
    pub fn side(&self) -> &'static str {
        match self.fault() {
            GraphFault::Operator => "tandem",
            GraphFault::Retry | GraphFault::Final => "whatsapp",
        }
    }
}

impl std::fmt::Display for GraphError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            GraphErrorKind::Status(status) => write!(f, "HTTP {status}")?,
            GraphErrorKind::Connect => write!(f, "no connection")?,
            GraphErrorKind::Timeout => write!(f, "no reply in time")?,
            GraphErrorKind::Unsuccessful => write!(f, "unsuccessful")?,
            GraphErrorKind::NoAccount => write!(f, "no account is configured for this number")?,
        }
        if let Some(code) = self.code {
            write!(f, ", code {code}")?;
        }
        if let Some(subcode) = self.subcode {
            write!(f, "/{subcode}")?;
        }
        if !self.message.is_empty() {
            write!(f, ", {}", self.message)?;
        }
        if let Some(details) = &self.details {
            write!(f, ": {details}")?;
        }
        if let Some(trace) = &self.fbtrace_id {
            write!(f, " (fbtrace_id {trace})")?;
        }
        match self.remedy().or_else(|| self.advice()) {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}
