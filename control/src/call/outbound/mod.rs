//! Calls that the business places: somebody at the SIP side is connected to a user of WhatsApp.
//!
//! ```text
//!  INVITE ─► exchange, hunt ──NewDial──► [ Dials ] ──connect, our offer──► Graph ──► the user's phone
//!                 │                         │ ▲                              │
//!   180 ◄─────── rings ◄────── Ringing ─────┤ └── the call's id, or an error ┘
//!                 │ the leg is described ◄──┤◄── webhook connect: WhatsApp's answer
//!   200 ◄────── answered ◄──── Answered ────┤◄── webhook status: RINGING, ACCEPTED, REJECTED; terminate
//!                 └──HangUp────────────────►└──► goodbye, repeated until it is acknowledged
//! ```
//!
//! The legs are the edge's: to it a dial is a call like any other (`hunt/whatsapp.rs`). WhatsApp's side of it is the
//! orchestrator's, which has Graph, the webhooks and the store. Both meet in the messages below, in one process.
//!
//! Why a webhook may name a call before Graph has: neither order nor the time of Graph's reply is promised. The request carries a
//! random name of ours (`biz_opaque_callback_data`) that comes back in webhooks; where it does not, events of unknown calls wait for
//! the reply.
//!
//! Why the first packet of media counts as the user's answer too: WhatsApp says that ACCEPTED is for the records, and may come late.

mod dial;
mod dials;

pub(super) use dials::{DialOutput, Dials, Surroundings, Taken};

use crate::sip::SipEnd;
use crate::whatsapp::graph::Callee;

/// What the edge asks of the orchestrator beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialRequest {
    /// Call a user; answered by `DialEvent`s, the last of which is `Ended`.
    Place(Box<NewDial>),
    /// The user's voice has come: the call is answered, whatever webhooks have said so far.
    PickedUp {
        /// Which.
        dial: u64,
    },
    /// End it, whatever it has come to.
    HangUp {
        /// Which.
        dial: u64,
    },
}

/// A call to a user of WhatsApp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDial {
    /// Its number; never reused.
    pub dial: u64,
    /// As in the caller's timeline.
    pub call_id: String,
    /// Which business number calls.
    pub phone_number_id: String,
    /// Who is called.
    pub to: Callee,
    /// Our offer.
    pub sdp_offer: String,
    /// Time until the user must have answered, ms.
    pub ring_ms_max: u64,
}

/// What becomes of a dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialEvent {
    /// Which.
    pub dial: u64,
    /// What.
    pub kind: DialEventKind,
}

/// See `DialEvent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialEventKind {
    /// WhatsApp's answer to our offer: ICE and DTLS can begin.
    Described {
        /// The answer.
        sdp: String,
    },
    /// The user's phone rings.
    Ringing,
    /// The user has picked up; never before `Described`.
    Answered,
    /// It is over; the last event. In SIP's words, which whoever called is told.
    Ended(SipEnd),
}
