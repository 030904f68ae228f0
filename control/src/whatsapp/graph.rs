//! The Graph API, as its client: requests with an `action`, and what their failures mean.

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
        match self.remedy() {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}
