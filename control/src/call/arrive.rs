//! A call that came in: who calls, whom, with what, and where the routes send it.
//!
//! The gatekeeper has said as whom the call is admitted; what From claims decides nothing, it is only shown. Headers of Meta's
//! SIP mode (`x-wa-...`) are passed on to whoever is called.

use super::backends::Peer;
use super::context::Context;
use super::exchange::Arrived;
use super::half::{Formats, Half, MediaKind};
use super::hunt::{DEVICE_CODECS, Way};
use super::limits::HEADERS_PASSED_MAX;
use crate::route::{self, Asked, Caller, Source, TrunkId};
use crate::sip::gatekeeper::{Admitted, Refusal};
use crate::sip::uri::SipUri;
use crate::sip::{Arrival, SipCallId};

/// Max-Forwards of an INVITE that names none (RFC 3261 §8.1.1.6).
const MAX_FORWARDS: u8 = 70;

/// Who calls, as the gatekeeper has admitted it.
pub(super) struct Calling {
    pub source: Source,
    /// `user alice`: for people.
    pub subject: String,
    pub caller: Caller,
    pub transcoding: bool,
    pub trunk: Option<TrunkId>,
}

/// Says who calls; the error is a refusal of trunks and users that have as many calls as they may.
pub(super) fn caller(cx: &Context, from: &str, arrival: &Arrival) -> Result<Calling, Refusal> {
    let plan = &cx.gate.routes;
    let shown = arrival.request.header("P-Asserted-Identity").unwrap_or(from);
    match &arrival.admitted {
        Admitted::Trunk(name) => {
            let Some((id, trunk)) = plan.trunks().find(|(_, trunk)| trunk.name == *name) else {
                return Err(Refusal::warned(403, "the trunk is not configured"));
            };
            if cx.load.calls(id) >= trunk.calls_max {
                return Err(Refusal::warned(503, "the trunk has as many calls as it may (calls_max)"));
            }
            let (source, subject) = (Source::Trunk(id), format!("trunk {name}"));
            Ok(Calling { source, subject, caller: caller_of(shown), transcoding: trunk.transcoding, trunk: Some(id) })
        }
        Admitted::User(name) => {
            let calls_max = plan.users.get(name).map_or(0, |user| user.calls_max);
            if cx.calls.of_user(name, cx.number) >= calls_max {
                return Err(Refusal::warned(486, "the user has as many calls as it may (calls_max)"));
            }
            let (source, subject) = (Source::User(name.clone()), format!("user {name}"));
            Ok(Calling { source, subject, caller: plan.caller_of_user(name), transcoding: true, trunk: None })
        }
        Admitted::Anyone => Err(Refusal::warned(404, "calls are taken from trunks and users only")),
    }
}

/// Reads an INVITE; the error is its refusal, in words.
pub(super) fn read(
    cx: &mut Context,
    call: SipCallId,
    target: &str,
    from: &str,
    sdp: Option<&str>,
    arrival: &Arrival,
) -> Result<(Arrived, Option<TrunkId>), Refusal> {
    let request = &arrival.request;
    let hops = request.header("Max-Forwards").and_then(|value| value.trim().parse::<u8>().ok());
    let max_forwards = hops.unwrap_or(MAX_FORWARDS);
    if max_forwards == 0 {
        return Err(Refusal::warned(483, "the call has passed too many servers"));
    }
    let Calling { source, subject, caller, transcoding, trunk } = self::caller(cx, from, arrival)?;
    let dialed = route::dialed(target);
    let asked = Asked { dialed: dialed.clone(), from: caller.user.clone(), source: source.clone() };
    let found = cx.gate.routes.destinations(cx.now, cx.load, &asked);
    if found.destinations.is_empty() {
        return Err(Refusal::warned(404, &found.refusal()));
    }
    let mut half = match sdp {
        Some(sdp) => Half::incoming(sdp, cx.random)?,
        None => offering(cx, trunk, arrival),
    };
    let (wanted, peer) = match (&source, trunk.and_then(|id| cx.gate.routes.trunk(id))) {
        (_, Some(trunk)) => (trunk.dtls_backend, Some(Peer::Trunk(trunk.name.clone()))),
        (Source::User(name), None) => (cx.config.dtls, Some(Peer::User(name.clone()))),
        (_, None) => (cx.config.dtls, None),
    };
    half.backend = cx.backends.choose(cx.now, wanted, peer);
    let is_passed =
        |(name, _): &(String, String)| name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("x-wa-"));
    let arrived = Arrived {
        call,
        call_id: request.call_id().to_owned(),
        half,
        subject,
        caller,
        source,
        transcoding,
        dialed,
        ways: found.destinations.into_iter().map(Way::To).collect(),
        headers: request.x_headers().into_iter().filter(is_passed).take(HEADERS_PASSED_MAX).collect(),
        max_forwards: Some(max_forwards - 1),
    };
    Ok((arrived, trunk))
}

/// For a caller that offers nothing: the offer is ours, in the 2xx, and its ACK brings the answer (RFC 3261 §13.2.1).
pub(super) fn offering(cx: &mut Context, trunk: Option<TrunkId>, arrival: &Arrival) -> Half {
    let (kind, codecs) = match trunk.and_then(|id| cx.gate.routes.trunk(id)) {
        Some(trunk) => (MediaKind::of_trunk(trunk), trunk.codecs.as_slice()),
        None => (MediaKind::of_device(arrival.hop.transport), DEVICE_CODECS.as_slice()),
    };
    Half::outgoing(kind, Formats::own(codecs), cx.random)
}

/// User part and display name of a From or P-Asserted-Identity.
fn caller_of(header: &str) -> Caller {
    let (display, uri) = match header.split_once('<') {
        Some((display, rest)) => (display.trim().trim_matches('"').trim(), rest.split('>').next().unwrap_or_default()),
        None => ("", header.split(';').next().unwrap_or_default()),
    };
    let number = uri.strip_prefix("tel:").map(|number| number.split(';').next().unwrap_or_default());
    let user = number.or_else(|| SipUri::parse(uri.trim())?.user).unwrap_or("anonymous");
    Caller { user: route::unescape(user), display: Some(display.to_owned()).filter(|display| !display.is_empty()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_is_read_from_every_form_of_the_header() {
        for (header, user, display) in [
            ("\"Ann B\" <sip:+441632960000@sbc.example;user=phone>;tag=1", "+441632960000", Some("Ann B")),
            ("<sip:%2B4416@h>", "+4416", None),
            ("sip:bob@h;tag=7", "bob", None),
            ("<tel:+4416;phone-context=x>", "+4416", None),
            ("Ann <sip:h>", "anonymous", Some("Ann")),
            ("nonsense", "anonymous", None),
        ] {
            let caller = caller_of(header);
            assert_eq!((caller.user.as_str(), caller.display.as_deref()), (user, display), "{header}");
        }
    }
}
