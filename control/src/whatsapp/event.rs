//! Bytes of a webhook to typed events (flat form and Meta's envelope).

/// Why a body yields no events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// Neither an envelope nor a flat body.
    NotAnEvent,
    /// Not JSON.
    NotJson,
    /// A flat body without `call_id`.
    WithoutCallId,
    /// A flat `connect` without `session.sdp`.
    WithoutSdp,
}

/// One event of a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookEvent {
    /// A user calls.
    Connect(Connect),
    /// A call ended, in whatever state it was.
    Terminate(Terminate),
    /// RINGING, ACCEPTED, REJECTED of a call that the business placed.
    Status {
        /// Which call.
        call_id: String,
        /// In upper case.
        status: String,
    },
    /// Something that this program does not handle; acknowledged and counted.
    Unknown {
        /// What it was.
        what: String,
    },
}

/// A `connect` that a user initiated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connect {
    /// Opaque.
    pub call_id: String,
    /// `metadata.phone_number_id`; absent in the flat form.
    pub phone_number_id: Option<String>,
    /// Digits of the caller, or else the business-scoped user id.
    pub from: Option<String>,
    /// The caller's display name.
    pub from_name: Option<String>,
    /// Digits that were called.
    pub to: Option<String>,
    /// Unix seconds, if readable.
    pub timestamp_s: Option<u64>,
    /// The offer.
    pub sdp: String,
}

/// The end of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terminate {
    /// Which call.
    pub call_id: String,
    /// `COMPLETED`, `FAILED`, in upper case.
    pub status: Option<String>,
    /// The first of `errors`: code and text.
    pub error: Option<(u64, String)>,
    /// Seconds of the call, when it was picked up.
    pub duration_s: Option<u64>,
}
