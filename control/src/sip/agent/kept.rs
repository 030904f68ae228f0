//! Dialogs that outlive the program: what a BYE or CANCEL needs is told from the INVITE on, and a call of an earlier run can be ended
//! with it, and a caller who waits for an answer is refused. The transaction of an INVITE goes on, so that a 2xx which crosses the
//! CANCEL is acknowledged and ended.
//!
//! ```text
//! INVITE, answered, new target -> Kept::Up -> (a store) -> part: CANCEL, or BYE along the route set -> final response -> Kept::Over
//! ```
//!
//! Connections do not outlive a program, so a kept dialog names the peer's address; the route set and the target decide as ever
//! where the BYE goes. A peer that is reachable on its own connection only (RFC 7118 §5) must have come back first.
//!
//! Whoever sends what this agent wants sent may wait with an INVITE, its responses and its ACK until the store knows of it: then no
//! crash, however soon, leaves a peer with a call that nobody ends. A next run sends its CANCEL without having heard from the peer
//! (which RFC 3261 §9.1 wants, lest the CANCEL overtake its INVITE): a program's restart lies between the two.
//!
//! Why the CSeq number is not followed: gaps are allowed (RFC 3261 §12.2.2), so the BYE counts on from far above whatever the
//! earlier run may have sent, and no request within a dialog costs a write.

use super::super::dialog::Dialog;
use super::super::digest::Authorizer;
use super::super::limits::CALLS_MAX;
use super::super::message::Message;
use super::super::transaction::Received;
use super::super::transport::{Hop, Transport};
use super::super::{Credentials, SipCallId};
use super::call::{Call, Leg, Purpose};
use super::{Core, SipAgent};
use engine::time::Instant;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

/// How far the CSeq number of the BYE is above the last one that was told: more than one call sends requests.
const CSEQ_LEAP: u32 = 1 << 20;

/// What a BYE needs. It holds numbers and addresses of people, and no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptDialog {
    /// Call-ID, tags, route set, target, once it is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dialog: Option<Dialog>,
    /// The INVITE without body and credentials, while there is no answer to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    invite: Option<String>,
    /// The INVITE came to us, and nobody has answered it.
    #[serde(default, skip_serializing_if = "is_false")]
    incoming: bool,
    /// As in `;transport=`.
    transport: String,
    /// Where the peer's messages came from.
    peer: SocketAddr,
    /// The name that its certificate must carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    /// The user name of the credentials that the call was placed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The trunk that carries the call; for its owner to fill in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk: Option<String>,
}

/// What changed about a dialog that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// A call is up, or its peer has moved.
    Up {
        /// Which call.
        call: SipCallId,
        /// Names the dialog: Call-ID and our tag.
        key: String,
        /// What to keep.
        dialog: Box<KeptDialog>,
    },
    /// It is over, and its peer knows.
    Over {
        /// Which.
        key: String,
    },
}

impl KeptDialog {
    /// Whether the peer can be reached on a connection of its own only.
    pub fn needs_connection(&self) -> bool {
        Transport::parse(&self.transport).is_some_and(Transport::is_websocket)
    }

    /// Whether it is over as soon as it is parted from: nothing comes back that would say so.
    pub fn is_incoming(&self) -> bool {
        self.incoming
    }

    /// The peer's Contact.
    pub fn target(&self) -> &str {
        let asked = || self.invite.as_deref()?.split(' ').nth(1);
        self.dialog.as_ref().map(Dialog::remote_target).or_else(asked).unwrap_or_default()
    }
}

impl SipAgent {
    /// Tells by `poll_kept` from now on what must be kept of every call.
    pub fn keep_dialogs(&mut self) {
        self.core.kept.get_or_insert_with(VecDeque::new);
    }

    /// What is to be kept, or not any more. Call until `None` after everything else was drained.
    pub fn poll_kept(&mut self) -> Option<Kept> {
        self.core.kept.as_mut()?.pop_front()
    }

    /// Ends a call of an earlier run with BYE or CANCEL; `reason` as in `hangup`. `peer`: where the peer is now, if it had to come back.
    /// `false`: there is no room for it now.
    pub fn part(
        &mut self,
        now: Instant,
        kept: &KeptDialog,
        peer: Option<Hop>,
        credentials: Option<Credentials>,
        reason: &str,
    ) -> Result<bool, NotKept> {
        let domain = kept.domain.as_deref().map(Arc::from);
        let known = Transport::parse(&kept.transport).filter(|_| !kept.needs_connection());
        let known = known.map(|transport| Hop { domain, ..Hop::new(transport, kept.peer) });
        let peer = peer.or(known).ok_or(NotKept)?;
        if self.calls.len() >= CALLS_MAX {
            return Ok(false);
        }
        if let Some(invite) = kept.invite.as_ref().filter(|_| kept.incoming) {
            let invite = Message::parse(invite.as_bytes()).map_err(|_| NotKept)?;
            self.refuse_anew(now, &invite, &peer, reason);
            return Ok(true);
        }
        let id = self.take_id();
        let call = match (&kept.dialog, &kept.invite) {
            (Some(dialog), _) => Call::answered(&mut self.core, id, dialog.clone(), peer),
            (None, Some(invite)) => {
                let invite = Message::parse(invite.as_bytes()).map_err(|_| NotKept)?;
                Call::ringing(&mut self.core, id, invite, peer)
            }
            (None, None) => None,
        };
        let mut call = call.ok_or(NotKept)?;
        call.authorizer = Authorizer::new(credentials);
        call.kept = Some((0, "".into())); // whatever it was: it is in the store
        self.calls.insert(id, Box::new(call));
        self.hangup(now, id, Some(reason));
        Ok(true)
    }
}

impl SipAgent {
    /// A caller of an earlier run that waits for an answer: it may try elsewhere, or again soon. What it repeats meets the same refusal.
    fn refuse_anew(&mut self, now: Instant, invite: &Message, to: &Hop, reason: &str) {
        self.core.now = now;
        if let Received::New { id, .. } = self.core.transactions.handle_request(now, invite, to) {
            self.core.refuse_with(now, id, invite, 503, |response| {
                response.push("Retry-After", RETRY_AFTER_S);
                response.push("Reason", reason);
            });
        }
        self.drain(now);
    }
}

/// It is none that this agent has told: it cannot be read, or the peer has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotKept;

impl Call {
    /// A call of an earlier run that is up.
    fn answered(core: &mut Core, id: SipCallId, mut dialog: Dialog, peer: Hop) -> Option<Call> {
        let tag = dialog.local_tag()?.to_owned();
        dialog.local_cseq = dialog.local_cseq.saturating_add(CSEQ_LEAP);
        let mut call = Call::resumed(core, id, dialog.call_id.clone(), tag);
        call.add_leg(Leg { confirmed: true, ..Leg::new(dialog, peer) });
        call.main = Some(0);
        Some(call)
    }

    /// Tells what changed about the dialog, if anybody keeps it.
    pub fn keep(&mut self, core: &mut Core) {
        let Some(queue) = &mut core.kept else { return };
        let waits = self.uas.as_ref().filter(|uas| !uas.answered && self.main.is_none() && !self.ended);
        let said = self.ended && !self.bye_wanted && self.queries == 0 && !self.is_parting();
        let rings = self.invited().filter(|_| self.main.is_none());
        if said && rings.is_none() {
            if self.kept.take().is_some() {
                queue.push_back(Kept::Over { key: self.key() });
            }
            return;
        }
        // Its end is under way: what the store has is right.
        if self.ended {
            return;
        }
        let incoming = waits.is_some();
        let rings = rings.or(waits.map(|uas| (&uas.request, &uas.reply_to)));
        let (now_kept, dialog, invite, peer) = match (self.main, rings) {
            (Some(leg), _) => {
                let Leg { dialog, peer, .. } = &self.legs[leg];
                ((leg, dialog.remote_target()), Some(dialog), None, peer)
            }
            (None, Some((invite, to))) => ((LEGLESS, invite.header("Via").unwrap_or_default()), None, Some(invite), to),
            (None, None) => return,
        };
        if self.kept.as_ref().is_some_and(|(leg, mark)| (*leg, &**mark) == now_kept) {
            return;
        }
        let kept = KeptDialog {
            dialog: dialog.cloned(),
            invite: invite.map(bare),
            incoming,
            transport: peer.transport.parameter().to_owned(),
            peer: peer.remote,
            domain: peer.domain.as_deref().map(str::to_owned),
            username: self.authorizer.username().map(str::to_owned),
            trunk: None,
        };
        self.kept = Some((now_kept.0, now_kept.1.into()));
        queue.push_back(Kept::Up { call: self.id, key: self.key(), dialog: Box::new(kept) });
    }

    /// Whether a BYE of ours waits for its final response.
    fn is_parting(&self) -> bool {
        self.outgoing.iter().any(|outgoing| matches!(outgoing.purpose, Purpose::Bye { .. }))
    }

    fn key(&self) -> String {
        format!("{};{}", self.call_id, self.local_tag)
    }
}

/// Stands for the leg of a call that has none yet.
const LEGLESS: usize = usize::MAX;

/// Seconds after which a caller that was cut may call again.
const RETRY_AFTER_S: &str = "1";

fn is_false(value: &bool) -> bool {
    !value
}

/// What CANCEL, ACK and responses repeat of an INVITE (RFC 3261 §9.1, §17.1.1.3, §8.2.6.2).
fn bare(invite: &Message) -> String {
    let mut bare = Message::request("INVITE", invite.uri().unwrap_or_default());
    for name in ["Via", "Route", "From", "To", "Call-ID", "CSeq"] {
        bare.copy(invite, name);
    }
    String::from_utf8_lossy(&bare.to_bytes()).into_owned()
}
