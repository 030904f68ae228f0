//! The path of a call. `orchestrator` talks to WhatsApp, `edge` joins the legs; both are pure and meet only in the messages
//! below, in one process or over HTTP.

mod allow;
mod arrive;
mod backends;
mod context;
pub mod edge;
mod exchange;
mod farewell;
mod half;
mod hunt;
pub mod lease;
pub mod limits;
mod machine;
mod negotiate;
pub mod orchestrator;
pub mod outbound;
mod party;
mod retained;
mod session;
mod side;
mod talk;
mod transfer;

use crate::route::DtlsBackend;
use lease::{SessionName, SessionState};
use serde::{Deserialize, Serialize};

/// What an orchestrator asks of an edge; the same three calls over HTTP (`POST /webrtc/...`) and in one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeRequest {
    /// `POST /webrtc/new`; answered by `EdgeReply::Created`.
    New(Box<NewSession>),
    /// `POST /webrtc/release`
    Release {
        /// Opaque.
        edge_session_id: String,
    },
    /// `POST /webrtc/hangup`
    Hangup {
        /// Opaque.
        edge_session_id: String,
    },
    /// `POST /webrtc/keepalive`: renews the sessions' leases and asks how they are; answered by `EdgeReply::States`.
    Keepalive {
        /// Which; an empty `edge_session_id` asks for the session of the call.
        sessions: Vec<SessionName>,
    },
}

/// Success of an `EdgeRequest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeReply {
    /// To `New`.
    Created(SessionCreated),
    /// To `Release` and `Hangup`.
    Done,
    /// To `Keepalive`, in the order of the question.
    States(Vec<SessionState>),
}

/// When WhatsApp's call is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcceptPolicy {
    /// When the SIP side has answered and DTLS is up.
    #[default]
    OnAnswer,
    /// Already when the SIP side sends early media (18x with SDP).
    OnProgress,
    /// As soon as pre_accept has succeeded.
    Immediate,
}

/// `POST /webrtc/new`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSession {
    /// WhatsApp's call id; sent on as `X-WA-Call-ID`.
    pub call_id: String,
    /// The offer.
    pub sdp_offer: String,
    /// SIP URI or route name, if the configuration allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Who calls: digits or a business-scoped user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Who is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Whether sending toward the WebRTC side waits for `/webrtc/release`.
    #[serde(default, deserialize_with = "null_is_false")]
    pub hold_media: bool,
    /// Whether media of a 18x with SDP is carried; otherwise it is discarded until the final answer.
    #[serde(default, deserialize_with = "null_is_false")]
    pub early_media: bool,
    /// Where `EdgeEvent`s are posted, allow-listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<String>,
    /// Seconds after which the session ends unless a keepalive names it; without it the session needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_s: Option<u32>,
    /// Who does DTLS on the WebRTC side; `None`: as the edge is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtls: Option<DtlsBackend>,
}

/// Many clients write `null` for what they leave out.
fn null_is_false<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<bool>::deserialize(deserializer)?.unwrap_or_default())
}

/// Success of `POST /webrtc/new`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCreated {
    /// Opaque.
    pub edge_session_id: String,
    /// The answer.
    pub sdp_answer: String,
}

/// Failure of an edge request: HTTP status, stable word, one sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeError {
    /// HTTP status.
    #[serde(skip)]
    pub status: u16,
    /// A stable word.
    pub code: String,
    /// One sentence for the client.
    pub message: String,
    /// For 429 and 503: seconds.
    #[serde(skip)]
    pub retry_after_s: Option<u32>,
}

impl EdgeError {
    /// A refusal with an HTTP status.
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> EdgeError {
        EdgeError { status, code: code.to_owned(), message: message.into(), retry_after_s: None }
    }

    /// Status 0: the request or its reply was lost, which says nothing about the request. It may be asked again.
    pub fn lost(code: &str, message: impl Into<String>) -> EdgeError {
        EdgeError::new(0, code, message)
    }

    /// A refusal that passes by itself.
    pub fn busy(status: u16, code: &str, message: impl Into<String>) -> EdgeError {
        EdgeError { retry_after_s: Some(limits::RETRY_AFTER_S), ..EdgeError::new(status, code, message) }
    }
}

/// What the edge tells the orchestrator, in process or by callback (JSON, `{"edge_session_id":..., "call_id":..., "event":...}`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeEvent {
    /// Which session.
    pub edge_session_id: String,
    /// Which call.
    pub call_id: String,
    /// Counts the session's events from 1; 0: the edge does not count.
    #[serde(default)]
    pub sequence: u32,
    /// What.
    #[serde(flatten)]
    pub kind: EdgeEventKind,
}

/// What happened at the edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EdgeEventKind {
    /// ICE and DTLS are up: the WebRTC side can carry media.
    MediaReady,
    /// The far side rings.
    Ringing {
        /// SIP code.
        code: u16,
        /// Whether it carried SDP.
        early_media: bool,
    },
    /// The far side answered.
    Answered,
    /// The session is over; the last event.
    Ended {
        /// `whatsapp`, `sip` or `tandem`: whose side the end is counted against.
        side: String,
        /// A stable word, such as `bye`, `busy`, `dtls_timeout`.
        cause: String,
        /// One sentence.
        detail: String,
    },
}
