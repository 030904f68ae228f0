//! Transfers: REFER in both directions, and the NOTIFYs that tell how they go (RFC 3515, RFC 3891, RFC 3892).
//!
//! A REFER of the peer is answered 202 at once; the owner of the call places the new one and says with `transfer_progress` what
//! became of it, which goes out as a NOTIFY with one status line. A REFER of ours makes the peer do the same for us.
//!
//! Why no subscription beyond that: the implicit subscription of REFER ends with its first final status, and nothing else of
//! RFC 6665 is spoken here.

use super::super::message::{Message, reason_phrase};
use super::super::transaction::TransactionId;
use super::super::uri::{NameAddr, SipUri, unescape};
use super::super::{Replaces, SipEvent};
use super::Core;
use super::call::{Call, Purpose, printable};
use engine::time::Instant;

/// A transfer that the peer asked for.
pub(super) struct Transfer {
    leg: usize,
    /// CSeq number of the REFER: names the subscription (RFC 3515 §2.4.6).
    id: u32,
    /// The peer wants to hear of it (RFC 4488).
    notifies: bool,
}

/// Seconds that the peer may expect NOTIFYs for; the call that is placed rings no longer.
const SUBSCRIPTION_S: u32 = 180;

impl Call {
    pub fn on_refer(&mut self, core: &mut Core, now: Instant, id: TransactionId, request: &Message, leg: usize) {
        let mut targets = request.headers("Refer-To");
        let target = match (targets.next(), targets.next()) {
            (Some(value), None) => NameAddr::parse(value).and_then(|address| split_headers(address.uri)),
            _ => None,
        };
        drop(targets);
        let code = match &target {
            None => 400,
            Some(_) if self.main != Some(leg) || self.transfer.is_some() => 491,
            Some((uri, _)) if SipUri::parse(uri).is_none() => 416,
            Some(_) => 202,
        };
        let notifies = !request.header("Refer-Sub").is_some_and(|value| value.trim().eq_ignore_ascii_case("false"));
        let mut response = self.response(core, request, code);
        if code == 202 {
            response.push("Contact", core.contact(self.legs[leg].peer.transport, false, None));
            if !notifies {
                response.push("Refer-Sub", "false");
            }
        }
        core.transactions.respond(now, id, &response);
        let Some((refer_to, replaces)) = target.filter(|_| code == 202) else { return };
        let number = request.cseq().map_or(0, |(number, _)| number);
        self.transfer = Some(Transfer { leg, id: number, notifies });
        self.notify_transfer(core, now, 100);
        let referred_by = request.header("Referred-By").map(super::super::message::readable);
        self.emit(core, SipEvent::TransferAsked { call: self.id, refer_to, replaces, referred_by });
    }

    pub fn notify_transfer(&mut self, core: &mut Core, now: Instant, code: u16) {
        let Some(Transfer { leg, id, notifies }) = self.transfer else { return };
        if code >= 200 {
            self.transfer = None;
        }
        if !notifies || self.ended || self.legs[leg].closed {
            return;
        }
        let mut request = self.legs[leg].dialog.request("NOTIFY");
        request.push("Event", format!("refer;id={id}"));
        let state = match code {
            ..200 => format!("active;expires={SUBSCRIPTION_S}"),
            _ => "terminated;reason=noresource".to_owned(),
        };
        request.push("Subscription-State", state);
        request.set_body("message/sipfrag;version=2.0", &format!("SIP/2.0 {code} {}\r\n", reason_phrase(code)));
        self.send_in_dialog(core, now, leg, request, Purpose::Notify { leg });
    }

    pub fn send_refer(&mut self, core: &mut Core, now: Instant, refer_to: &str, referred_by: Option<&str>) {
        let leg = self.main.filter(|&leg| !self.ended && !self.legs[leg].closed && !self.transferring);
        let Some(leg) = leg.filter(|_| SipUri::parse(refer_to).is_some()) else {
            return self.emit(core, SipEvent::TransferProgress { call: self.id, code: 481, over: true });
        };
        self.transferring = true;
        let mut request = self.legs[leg].dialog.request("REFER");
        request.push("Refer-To", format!("<{}>", printable(refer_to)));
        if let Some(referred_by) = referred_by {
            request.push("Referred-By", printable(referred_by));
        }
        self.send_in_dialog(core, now, leg, request, Purpose::Refer { leg });
    }

    pub fn on_refer_response(&mut self, core: &mut Core, code: u16) {
        if code >= 300 {
            self.transferring = false;
        }
        if code >= 200 {
            self.emit(core, SipEvent::TransferProgress { call: self.id, code, over: code >= 300 });
        }
    }

    pub fn on_notify(&mut self, core: &mut Core, now: Instant, id: TransactionId, request: &Message) {
        let event =
            request.header("Event").map(|value| value.split(';').next().unwrap_or("").trim().to_ascii_lowercase());
        if event.as_deref() != Some("refer") {
            let mut response = self.response(core, request, 489);
            response.push("Allow-Events", "refer");
            return core.transactions.respond(now, id, &response);
        }
        if !self.transferring {
            return self.respond(core, now, id, request, 481);
        }
        self.respond(core, now, id, request, 200);
        let state = request.header("Subscription-State").unwrap_or("");
        let over = state.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("terminated");
        let code = status_of(&request.body);
        self.transferring = !over;
        // A subscription that ends without a word: nobody knows what became of it.
        if let Some(code) = code.or(over.then_some(408)) {
            self.emit(core, SipEvent::TransferProgress { call: self.id, code, over });
        }
    }
}

/// The code of a status line (RFC 3420).
fn status_of(body: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(body.get(..12)?).ok()?;
    let digits = text.strip_prefix("SIP/2.0 ")?.get(..3)?;
    digits.parse().ok().filter(|code| (100..700).contains(code))
}

/// A Refer-To URI without its headers, and the Replaces among them.
fn split_headers(uri: &str) -> Option<(String, Option<Replaces>)> {
    let (uri, headers) = match uri.split_once('?') {
        Some((uri, headers)) => (uri, headers),
        None => (uri, ""),
    };
    let replaces = headers.split('&').find_map(|header| {
        let (name, value) = header.split_once('=')?;
        name.eq_ignore_ascii_case("Replaces").then(|| replaces_of(&unescape(value)))?
    });
    Some((uri.to_owned(), replaces))
}

/// Reads a Replaces header (RFC 3891 §6.1).
pub(super) fn replaces_of(value: &str) -> Option<Replaces> {
    let (call_id, params) = value.split_once(';')?;
    let tag = |name| super::super::uri::param(params, name).filter(|tag| !tag.is_empty()).map(str::to_owned);
    Some(Replaces {
        call_id: call_id.trim().to_owned(),
        to_tag: tag("to-tag")?,
        from_tag: tag("from-tag")?,
        early_only: super::super::uri::param(params, "early-only").is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dialog_to_be_replaced_is_read_from_an_escaped_refer_to() {
        let (uri, replaces) =
            split_headers("sip:bob@example.com?Replaces=c1%40x%3Bto-tag%3Dt%3Bfrom-tag%3Df&X=1").unwrap();
        let expected = Replaces { call_id: "c1@x".into(), to_tag: "t".into(), from_tag: "f".into(), early_only: false };
        assert_eq!((uri.as_str(), replaces), ("sip:bob@example.com", Some(expected)));
        assert_eq!(split_headers("sip:bob@example.com").unwrap().1, None);
        assert_eq!(replaces_of("c1;to-tag=t"), None);
    }

    #[test]
    fn only_a_status_line_tells_how_a_transfer_goes() {
        assert_eq!(status_of(b"SIP/2.0 180 Ringing\r\n"), Some(180));
        for text in [&b""[..], b"SIP/2.0 1", b"SIP/2.0 999 X", b"INVITE sip:x SIP/2.0", b"SIP/2.0 \xff\xff\xff\xff\xff"]
        {
            assert_eq!(status_of(text), None);
        }
    }
}
