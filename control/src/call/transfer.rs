//! Blind transfer (RFC 3515, RFC 5589): a party asks us to call somebody else in its place. What Referred-By says is passed on to
//! whoever is called (RFC 3892 §2.2). Attended transfer, where that call is up already: `edge/joins.rs`.
//!
//! The one who asked keeps its leg until the new one has answered, then both swap; the other side's description, stream and
//! keys stay as they are, since it talks to the bridge and not to either of them. If nobody answers, the one who asked still
//! has its call; if it hung up meanwhile, the call ends.
//!
//! Why the rules of the party that asks decide, and not those of the other side: a transfer to an expensive number must be no
//! cheaper to get than a call to it.

use super::context::Context;
use super::half::Formats;
use super::hunt::{Wanted, Way};
use super::limits::CALL_RING_MS_MAX;
use super::party::Party;
use crate::route::{self, Asked, Caller};
use crate::sip::gatekeeper::Refusal;

/// The side that stays.
pub(super) struct Staying {
    pub caller: Caller,
    /// What it takes: the codec in force.
    pub formats: Formats,
    pub transcoding: bool,
    pub headers: Vec<(String, String)>,
    /// `user alice`: for people.
    pub subject: String,
}

/// Where a transfer that `asking` wants leads, and what the one called is told.
pub(super) fn plan(
    cx: &Context,
    asking: &Party,
    staying: Staying,
    refer_to: &str,
    referred_by: Option<&str>,
) -> Result<(Vec<Way>, Wanted), Refusal> {
    let Some(source) = asking.source.clone() else {
        return Err(Refusal::warned(403, "only users and trunks may transfer a call"));
    };
    let dialed = route::dialed(refer_to);
    let asked = Asked { dialed: dialed.clone(), from: asking.caller.user.clone(), source };
    let found = cx.gate.routes.destinations(cx.now, cx.load, &asked);
    if found.destinations.is_empty() {
        return Err(Refusal::warned(404, &found.refusal()));
    }
    let headers = staying.headers;
    let referred_by = referred_by.map(|value| ("Referred-By".to_owned(), value.to_owned()));
    let wanted = Wanted {
        dialed,
        caller: staying.caller,
        formats: staying.formats,
        transcoding: staying.transcoding,
        headers: headers.into_iter().chain(referred_by).collect(),
        max_forwards: None,
        early_media: false,
        until: cx.now.plus_millis(CALL_RING_MS_MAX),
    };
    Ok((found.destinations.into_iter().map(Way::To).collect(), wanted))
}
