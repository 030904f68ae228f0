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
}
