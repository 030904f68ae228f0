//! Dialogs: what two user agents remember of each other between requests (RFC 3261 §12).
//!
//! The one rule that loses most calls when broken: inside a dialog the Request-URI is the peer's Contact, even a private
//! one, and the way there is the route set (§12.2.1.1). All values are kept as they came, parameters included.
//!
//! Why one type for early and confirmed dialogs: a 2xx only replaces what an 18x may have told before.

use super::message::Message;
use super::uri::{NameAddr, SipUri};
use serde::{Deserialize, Serialize};

/// One side's view of a dialog. It can be written down and read again: `agent::kept` says what for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialog {
    /// Call-ID.
    pub call_id: String,
    /// From of our requests, tag included.
    local: String,
    /// To of our requests, tag included.
    remote: String,
    /// The peer's tag; empty for peers of RFC 2543.
    pub remote_tag: String,
    /// CSeq number of our last request.
    pub local_cseq: u32,
    /// CSeq number of the peer's last request.
    pub remote_cseq: Option<u32>,
    /// Route headers, first hop first, as written in Record-Route.
    route_set: Vec<String>,
    /// The peer's Contact.
    remote_target: String,
}

impl Dialog {
    /// The dialog that a response to our INVITE creates (§12.1.2). `None`: the response is not usable.
    pub fn uac(invite: &Message, response: &Message) -> Option<Dialog> {
        let mut dialog = Dialog {
            call_id: invite.call_id().to_owned(),
            local: invite.header("From")?.to_owned(),
            remote: response.header("To")?.to_owned(),
            remote_tag: response.to_tag().unwrap_or("").to_owned(),
            local_cseq: invite.cseq()?.0,
            remote_cseq: None,
            route_set: Vec::new(),
            // A 2xx must have a Contact; for one that has none, the place the INVITE went to is the best guess.
            remote_target: invite.uri()?.to_owned(),
        };
        dialog.confirm(response);
        Some(dialog)
    }

    /// Takes the route set and target of the 2xx, which replace those of an early dialog (§13.2.2.4).
    pub fn confirm(&mut self, response: &Message) {
        self.route_set = response.list("Record-Route").map(str::to_owned).collect();
        self.route_set.reverse();
        self.refresh_target(response);
    }

    /// The dialog that an INVITE to us creates (§12.1.1).
    pub fn uas(invite: &Message, local_tag: &str) -> Option<Dialog> {
        let to = invite.header("To")?;
        Some(Dialog {
            call_id: invite.call_id().to_owned(),
            local: format!("{to};tag={local_tag}"),
            remote: invite.header("From")?.to_owned(),
            remote_tag: invite.from_tag().unwrap_or("").to_owned(),
            local_cseq: 0,
            remote_cseq: Some(invite.cseq()?.0),
            route_set: invite.list("Record-Route").map(str::to_owned).collect(),
            remote_target: invite.contact().or_else(|| old_target(invite))?.to_owned(),
        })
    }

    /// Takes the Contact of a re-INVITE, an UPDATE or one of their 2xx (§12.2).
    pub fn refresh_target(&mut self, message: &Message) {
        if let Some(contact) = message.contact().filter(|uri| SipUri::parse(uri).is_some()) {
            self.remote_target = contact.to_owned();
        }
    }

    /// A request inside the dialog; the caller adds Via and the rest. Counts CSeq up.
    pub fn request(&mut self, method: &str) -> Message {
        self.local_cseq += 1;
        self.build(method, self.local_cseq)
    }

    /// Gives a request that is sent once more the next number.
    pub fn renumber(&mut self, request: &mut Message) {
        self.local_cseq += 1;
        let method = request.method().unwrap_or("").to_owned();
        request.remove("CSeq");
        request.push("CSeq", format!("{} {method}", self.local_cseq));
    }

    /// Our own tag.
    pub fn local_tag(&self) -> Option<&str> {
        NameAddr::parse(&self.local)?.tag()
    }

    /// The peer's Contact.
    pub fn remote_target(&self) -> &str {
        &self.remote_target
    }

    /// The ACK of the 2xx to our INVITE with that CSeq number (§13.2.2.4).
    pub fn ack(&self, invite_cseq: u32) -> Message {
        self.build("ACK", invite_cseq)
    }

    /// Whether a request of the peer comes in order; if so, notes its number (§12.2.2).
    pub fn take_cseq(&mut self, number: u32) -> bool {
        let in_order = self.remote_cseq.is_none_or(|last| number > last);
        if in_order {
            self.remote_cseq = Some(number);
        }
        in_order
    }

    /// The URI that decides where a request goes: the first route, else the target (§8.1.2).
    pub fn next_hop(&self) -> &str {
        let route = self.route_set.first().and_then(|route| NameAddr::parse(route));
        route.map_or(&self.remote_target, |route| route.uri)
    }

    fn build(&self, method: &str, cseq: u32) -> Message {
        let first = self.route_set.first().and_then(|route| NameAddr::parse(route)).map(|route| route.uri);
        let strict = first.filter(|uri| SipUri::parse(uri).is_some_and(|uri| !uri.is_loose()));
        let mut request = match strict {
            // A strict router takes its own address from the Request-URI and ours from the last Route (§12.2.1.1).
            Some(router) => {
                let mut request = Message::request(method, router.split('?').next().unwrap_or(router));
                for route in &self.route_set[1..] {
                    request.push("Route", route.as_str());
                }
                request.push("Route", format!("<{}>", self.remote_target));
                request
            }
            None => {
                let mut request = Message::request(method, &self.remote_target);
                for route in &self.route_set {
                    request.push("Route", route.as_str());
                }
                request
            }
        };
        request.push("From", self.local.as_str());
        request.push("To", self.remote.as_str());
        request.push("Call-ID", self.call_id.as_str());
        request.push("CSeq", format!("{cseq} {method}"));
        request
    }
}

/// Where requests to a caller of RFC 2543 go, which needed no Contact: its From. One of RFC 3261 shows in its branch.
fn old_target(invite: &Message) -> Option<&str> {
    if invite.via()?.branch().is_some() {
        return None;
    }
    NameAddr::parse(invite.header("From")?).map(|from| from.uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite() -> Message {
        let mut m = Message::request("INVITE", "sip:gw@acme.example.com");
        m.push("From", "\"A\" <sip:a@192.0.2.1>;tag=a");
        m.push("To", "<sip:gw@acme.example.com>");
        m.push("Call-ID", "c1");
        m.push("CSeq", "4 INVITE");
        m.push("Contact", "<sip:gw@192.0.2.1:5062>");
        m
    }

    fn answer(routes: &[&str], contact: &str) -> Message {
        let mut m = Message::response(&invite(), 200, "OK", Some("b"));
        routes.iter().for_each(|route| m.push("Record-Route", *route));
        m.push("Contact", contact);
        m
    }

    #[test]
    fn the_caller_reverses_the_route_and_keeps_its_parameters() {
        let routes = [
            "<sip:54.172.60.1:5060;lr;r2=on;twnat=sip:1.2.3.4:5>, <sip:10.0.0.1;lr>",
            "<sip:54.172.60.1:5061;lr;r2=on;twnat=sip:9.9.9.9>",
        ];
        let mut dialog = Dialog::uac(&invite(), &answer(&routes, "<sip:172.25.16.223:5060>")).unwrap();
        let bye = dialog.request("BYE");
        assert_eq!(bye.uri(), Some("sip:172.25.16.223:5060"));
        let sent: Vec<_> = bye.headers("Route").collect();
        assert_eq!(
            sent,
            [
                "<sip:54.172.60.1:5061;lr;r2=on;twnat=sip:9.9.9.9>",
                "<sip:10.0.0.1;lr>",
                "<sip:54.172.60.1:5060;lr;r2=on;twnat=sip:1.2.3.4:5>"
            ]
        );
        assert_eq!(dialog.next_hop(), "sip:54.172.60.1:5061;lr;r2=on;twnat=sip:9.9.9.9");
        assert_eq!((bye.cseq(), dialog.ack(4).cseq()), (Some((5, "BYE")), Some((4, "ACK"))));
        assert_eq!((bye.from_tag(), bye.to_tag()), (Some("a"), Some("b")));
    }

    #[test]
    fn the_callee_keeps_the_order_of_the_route() {
        let mut request = invite();
        request.push("Record-Route", "<sip:p1.example.com;lr>");
        request.push("Record-Route", "<sip:p2.example.com;lr>");
        let mut dialog = Dialog::uas(&request, "b").unwrap();
        let bye = dialog.request("BYE");
        assert_eq!(bye.headers("Route").collect::<Vec<_>>(), ["<sip:p1.example.com;lr>", "<sip:p2.example.com;lr>"]);
        assert_eq!(bye.uri(), Some("sip:gw@192.0.2.1:5062"));
        assert_eq!((bye.from_tag(), bye.to_tag(), bye.cseq()), (Some("b"), Some("a"), Some((1, "BYE"))));
    }

    #[test]
    fn a_strict_router_stands_in_the_request_uri() {
        let dialog =
            Dialog::uac(&invite(), &answer(&["<sip:p2;lr>", "<sip:p1.example.com>"], "<sip:b@10.0.0.9>")).unwrap();
        let ack = dialog.ack(4);
        assert_eq!(ack.uri(), Some("sip:p1.example.com"));
        assert_eq!(ack.headers("Route").collect::<Vec<_>>(), ["<sip:p2;lr>", "<sip:b@10.0.0.9>"]);
        assert_eq!(dialog.next_hop(), "sip:p1.example.com");
    }

    #[test]
    fn a_new_contact_moves_the_target_but_not_the_route() {
        let mut dialog = Dialog::uac(&invite(), &answer(&["<sip:p;lr>"], "<sip:b@10.0.0.9>")).unwrap();
        dialog.refresh_target(&answer(&["<sip:q;lr>"], "<sip:b@10.0.0.10>"));
        let bye = dialog.request("BYE");
        assert_eq!((bye.uri(), bye.header("Route")), (Some("sip:b@10.0.0.10"), Some("<sip:p;lr>")));
    }

    #[test]
    fn lower_numbers_of_the_peer_are_out_of_order_and_gaps_are_not() {
        let mut dialog = Dialog::uas(&invite(), "b").unwrap();
        assert!(dialog.take_cseq(9));
        assert!(!dialog.take_cseq(9));
        assert!(!dialog.take_cseq(5));
    }
}
