//! What must survive a restart: calls in progress, what WhatsApp still has to be told, the ids of calls that are over, and what a
//! BYE to each SIP peer needs.
//!
//! ```text
//!  runtime --Change--> [ queue ] --batches--> writer thread --one transaction each--> file
//!                                                  |
//!        accept waits for `written` <--------------+
//! ```
//! The orchestrator and the edge say what changed; the runtime hands it to a [`Store`] and goes on at once. One thing waits: the request that
//! accepts a call leaves only when the file knows about it, so that no crash can lead to a second accept.
//!
//! Why an embedded database and not a file of our own: a write that a crash cuts in half must leave the state before it, and that
//! is what `redb` is for. Why behind a trait: several nodes will share these few facts one day, and the simulator keeps them in
//! memory.

mod file;

pub use file::FileStore;

use crate::call::AcceptPolicy;
use crate::sip::KeptDialog;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tokio::sync::watch;

/// One call, as much of it as is needed to go on with it or to end it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    /// Whose call it is.
    pub phone_number_id: String,
    /// Unix time at which it began.
    pub began_s: u64,
    /// When it is accepted.
    #[serde(default)]
    pub policy: AcceptPolicy,
    /// How far it came.
    pub stage: Stage,
    /// Whether Graph took our accept.
    pub accepted: Accepted,
    /// The edge's session; empty: none is known.
    #[serde(default)]
    pub session: String,
    /// The answer, while it may still be needed.
    #[serde(default)]
    pub answer: String,
    /// Whether WhatsApp must still be told that the call is over.
    #[serde(default)]
    pub owes_goodbye: bool,
}

/// How far a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The edge was asked for a session, or pre_accept is out.
    Opening,
    /// pre_accept has succeeded: media is being set up and the far side rings.
    Ringing,
    /// accept is out.
    Accepting,
    /// Accepted.
    InCall,
    /// Over; goodbyes are under way.
    Ending,
}

/// Whether Graph took an accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accepted {
    /// No.
    No,
    /// A request was lost on the way there or back.
    Maybe,
    /// Yes.
    Yes,
}

/// What the planes want remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A call is now like this.
    Call {
        /// Which.
        call_id: String,
        /// How.
        record: Box<CallRecord>,
    },
    /// A call is over, or was over before it came: its id is remembered for a while.
    Over {
        /// Which.
        call_id: String,
    },
    /// A SIP call is up, or its peer has moved.
    Dialog {
        /// Which.
        key: String,
        /// How to end it.
        dialog: Box<KeptDialog>,
    },
    /// A SIP call is over, and its peer knows.
    DialogOver {
        /// Which.
        key: String,
    },
}

/// What was remembered when the program started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Calls that were in progress, or whose goodbye is owed.
    pub calls: BTreeMap<String, CallRecord>,
    /// Ids of calls that are over, and for how many milliseconds more they are remembered.
    pub over: BTreeMap<String, u64>,
    /// SIP calls that were up.
    pub dialogs: BTreeMap<String, KeptDialog>,
}

/// Keeps changes. Nothing here waits.
pub trait Store: Send {
    /// Takes a change and answers its number.
    fn write(&mut self, change: Change) -> u64;

    /// Follows the number of the last change that a crash cannot undo any more.
    fn written(&self) -> watch::Receiver<u64>;

    /// What was counted so far.
    fn figures(&self) -> StoreFigures;
}

/// What a store counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreFigures {
    /// Changes taken.
    pub changes: u64,
    /// Changes that wait for the disk.
    pub waiting: u64,
    /// Changes lost because the queue was full or the disk refused them.
    pub lost: u64,
}
