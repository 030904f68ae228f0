//! One side of a call as another call sees it: who sits there, how far it has come, and who stays when it goes.
//!
//! Attended transfers and INVITEs that replace a call (RFC 3891) name a dialog; what may be done about it depends on this view
//! alone, whichever kind of call the dialog belongs to.

use super::half::Formats;
use super::transfer::Staying;
use crate::route::Source;
use crate::sip::gatekeeper::Refusal;
use engine::bridge::LegName;
use engine::sdp::CodecFormat;

/// How far a side has come.
pub(super) enum Stage {
    /// It calls, and has no answer yet.
    Calling,
    /// It is called, and has not answered yet: what the caller takes, whether that may be transcoded, and a leg that is free.
    Ringing { formats: Formats, transcoding: bool, leg: Option<LegName> },
    /// Both sides talk; this one stays when the other goes.
    Talking(Staying),
    /// It is being transferred or replaced already.
    Busy,
    /// The call has ended.
    Over,
}

/// One side.
pub(super) struct Side {
    pub seat: LegName,
    pub stage: Stage,
    /// Whose rules hold for it.
    pub source: Option<Source>,
    /// `user alice`: for people.
    pub subject: String,
}

/// The codec on which two sides meet that stay: the one that both have in force, else the first one's, which the other's bridge
/// then transcodes.
pub(super) fn meet(a: &Staying, b: &Staying) -> Result<Formats, Refusal> {
    let is_event_known = !a.formats.events.is_empty() || !b.formats.events.is_empty();
    let common = a.formats.codecs.iter().find(|format| b.formats.of(format.codec).is_some());
    let codec: Option<&CodecFormat> = common.or(a.formats.codecs.first().filter(|_| a.transcoding && b.transcoding));
    let Some(&codec) = codec else {
        let (ours, theirs) = (a.formats.names(), b.formats.names());
        let words = format!("{} has {ours}, {} has {theirs}, and transcoding is off", a.subject, b.subject);
        return Err(Refusal::warned(488, &words));
    };
    Ok(Formats::single(codec, is_event_known))
}
