//! A trunk: one provider or exchange, how it is reached, what it may send and what it is sent.
//!
//! A call toward a trunk takes the numbers in the trunk's own form, and shows a caller by its rule. A call from a trunk is
//! recognised by what cannot be forged on its way: the address it came from, the certificate of its TLS connection, or digest.
//! Who it says it is (From, Contact, Via) proves nothing and is not looked at.
//!
//! Why a trunk without any of the three takes no calls at all: an open port for calls is found within hours, and somebody pays.

use super::number::{NumberFormat, Numbering, without_separators};
use super::pattern::Pattern;
use super::{Caller, Transport};
use crate::sip::uri::escape_user;
use crate::sip::{Credentials, Register, Watch};
use engine::sdp::Codec;
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::PathBuf;

/// How media is carried on a trunk. Outbound it is what we offer; inbound the offer decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaProfile {
    /// Plain RTP/AVP.
    #[default]
    Rtp,
    /// RTP/SAVP with keys in the description (RFC 4568). Only over TLS.
    Sdes,
    /// ICE and DTLS-SRTP, as browsers speak it.
    Webrtc,
}

impl MediaProfile {
    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            MediaProfile::Rtp => "rtp",
            MediaProfile::Sdes => "sdes",
            MediaProfile::Webrtc => "webrtc",
        }
    }
}

/// Which ICE agent we are when we make the offer: full toward WhatsApp and other gateways, lite toward browsers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ice {
    /// We send checks (RFC 8445).
    #[default]
    Full,
    /// We only answer them.
    Lite,
}

/// Who does DTLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DtlsBackend {
    /// The fast one, the other after a handshake that failed for its certificate.
    #[default]
    Auto,
    /// ECDSA and AEAD suites only.
    Dimpl,
    /// RSA certificates too.
    Openssl,
}

/// Whom the called party sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CallerIdRule {
    /// The caller's own number where it is one in E.164, else the trunk's number.
    #[default]
    Pass,
    /// Always the trunk's number.
    Fixed,
    /// Nobody (RFC 3323); the trunk's number stands in P-Asserted-Identity only.
    Anonymous,
}

/// What makes a trunk one into WhatsApp: its calls are placed through Graph, by one business number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whatsapp {
    /// The account's name in the configuration.
    pub account: String,
    /// Its business number, as Graph names it.
    pub phone_number_id: String,
}

/// A trunk of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trunk {
    /// Its name in the configuration.
    pub name: String,
    /// Name or address of its SIP server; also the host of Request-URI, To and the name its certificate must bear.
    pub host: String,
    /// Its port; `None`: found by SRV, or the transport's own.
    pub port: Option<u16>,
    /// How it is reached, and how its calls must arrive.
    pub transport: Transport,
    /// Where requests are sent instead of `host`, a SIP URI.
    pub proxy: Option<String>,
    /// For its 401 and 407.
    pub credentials: Option<Credentials>,
    /// Whether we register there, and every how many seconds.
    pub register_s: Option<u32>,
    /// Seconds between two OPTIONS that ask whether it lives; `None`: it is not asked.
    pub options_s: Option<u32>,
    /// What its calls must know: digest toward us.
    pub inbound: Option<Credentials>,
    /// Whether it is asked for MD5 alone and not for SHA-256 first: SIPp and older servers give up at a challenge that they do not know,
    /// where RFC 8760 §2.4 would have them read on.
    pub inbound_md5: bool,
    /// Addresses its calls come from.
    pub allowed_sources: Vec<IpNet>,
    /// Names of the certificate that its TLS connections toward us must show; the left-most label may be `*`.
    pub certificate_names: Vec<String>,
    /// Whether its own certificate is verified when we connect.
    pub verify_certificate: bool,
    /// PEM files of the certificate that we show when we connect, with its chain, and of its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// `file:line` of it, for people.
    pub certificate_place: String,
    /// Whether ALPN `sip` is offered when we connect; some servers refuse whoever offers one, some whoever does not.
    pub alpn: bool,
    /// Media of calls that we place.
    pub media: MediaProfile,
    /// ICE of offers with `media` webrtc.
    pub ice: Ice,
    /// DTLS of calls with WebRTC media.
    pub dtls_backend: DtlsBackend,
    /// Codecs, best first.
    pub codecs: Vec<Codec>,
    /// Whether a call may be transcoded that has no codec in common; otherwise it is refused with 488.
    pub transcoding: bool,
    /// Which numbers it takes; `None`: only those that a rule sends there.
    pub pattern: Option<Pattern>,
    /// Higher is tried later.
    pub weight: u32,
    /// Its calls at once.
    pub calls_max: usize,
    /// Time it may ring.
    pub ring_s: u32,
    /// Form of the numbers that it is sent.
    pub numbers: NumberFormat,
    /// Written before the dialed number, such as `*31#`.
    pub prefix: String,
    /// Whom the called party sees.
    pub caller_id: CallerIdRule,
    /// The trunk's own number, in E.164.
    pub number: Option<String>,
    /// User part of From where the provider wants its own, such as Meta the business number.
    pub from_user: Option<String>,
    /// Host part of From; our own address when `None`.
    pub from_host: Option<String>,
    /// Headers of every INVITE toward it.
    pub headers: Vec<(String, String)>,
    /// Where its calls go that no rule takes: `user:`, `group:` or a SIP URI; `None`: by the number they ask for.
    pub to: Option<super::Destination>,
    /// It leads to users of WhatsApp, and not to a SIP server.
    pub whatsapp: Option<Whatsapp>,
}

impl Trunk {
    /// A trunk with all else at its default.
    pub fn new(name: &str, host: &str, transport: Transport) -> Trunk {
        Trunk {
            name: name.to_owned(),
            host: host.to_owned(),
            port: None,
            transport,
            proxy: None,
            credentials: None,
            register_s: None,
            options_s: None,
            inbound: None,
            inbound_md5: false,
            allowed_sources: Vec::new(),
            certificate_names: Vec::new(),
            verify_certificate: true,
            certificate: None,
            certificate_place: String::new(),
            alpn: false,
            media: MediaProfile::default(),
            ice: Ice::default(),
            dtls_backend: DtlsBackend::default(),
            codecs: vec![Codec::Opus, Codec::Pcmu, Codec::Pcma],
            transcoding: true,
            pattern: None,
            weight: 10,
            calls_max: CALLS_MAX_DEFAULT,
            ring_s: RING_S_DEFAULT,
            numbers: NumberFormat::default(),
            prefix: String::new(),
            caller_id: CallerIdRule::default(),
            number: None,
            from_user: None,
            from_host: None,
            headers: Vec::new(),
            to: None,
            whatsapp: None,
        }
    }

    /// The way to users of WhatsApp from a business number, with all else at its default.
    pub fn into_whatsapp(account: &str, phone_number_id: &str) -> Trunk {
        Trunk {
            media: MediaProfile::Webrtc,
            codecs: vec![Codec::Opus],
            ring_s: WHATSAPP_RING_S_DEFAULT,
            whatsapp: Some(Whatsapp { account: account.to_owned(), phone_number_id: phone_number_id.to_owned() }),
            ..Trunk::new(&format!("whatsapp:{account}"), "", Transport::Tls)
        }
    }

    /// The Request-URI of a call to `dialed`.
    pub fn target(&self, dialed: &str, numbering: &Numbering) -> String {
        let number = self.numbers.write(&without_separators(dialed), numbering);
        let user = escape_user(&format!("{}{number}", self.prefix));
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        let transport = self.transport.parameter();
        format!("sip:{user}@{}{port};transport={transport}", bracketed(&self.host))
    }

    /// Our registration there, if the provider wants one.
    pub fn registration(&self) -> Option<Register> {
        let expires_s = self.register_s?;
        let username = &self.credentials.as_ref()?.username;
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        let host = bracketed(&self.host);
        let transport = self.transport.parameter();
        Some(Register {
            registrar: format!("sip:{host}{port};transport={transport}"),
            proxy: self.proxy.clone(),
            aor: format!("sip:{}@{host}", escape_user(self.from_user.as_ref().unwrap_or(username))),
            contact_user: self.number.clone(),
            credentials: self.credentials.clone(),
            expires_s,
        })
    }

    /// How it is asked whether it lives; `None`: it is not.
    pub fn watch(&self) -> Option<Watch> {
        let every_ms = u64::from(self.options_s?) * 1_000;
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        let target = format!("sip:{}{port};transport={}", bracketed(&self.host), self.transport.parameter());
        Some(Watch { target, proxy: self.proxy.clone(), every_ms })
    }

    /// Whom the called party sees when `caller` calls through this trunk.
    pub fn caller_id(&self, caller: &Caller, numbering: &Numbering) -> CallerId {
        let theirs = numbering.e164(&caller.user);
        let known = match self.caller_id {
            CallerIdRule::Pass => theirs.or_else(|| self.number.clone()),
            CallerIdRule::Fixed | CallerIdRule::Anonymous => self.number.clone(),
        };
        let asserted = known.clone();
        let anonymous = self.caller_id == CallerIdRule::Anonymous;
        let shown = known.map(|number| self.numbers.write(&number, numbering));
        // A provider that wants its own user name in From reads the number from P-Asserted-Identity.
        let user = match (&self.from_user, anonymous, &shown) {
            (Some(own), _, _) => own.clone(),
            (None, true, _) => "anonymous".to_owned(),
            (None, false, Some(number)) => number.clone(),
            (None, false, None) => caller.user.clone(),
        };
        let display = if anonymous { Some("Anonymous".to_owned()) } else { caller.display.clone() };
        CallerId { user, display, host: self.from_host.clone(), asserted, private: anonymous }
    }

    /// Whether its calls to us can be recognised at all.
    pub fn takes_calls(&self) -> bool {
        !self.allowed_sources.is_empty() || !self.certificate_names.is_empty() || self.inbound.is_some()
    }

    /// Whether a call that came from `source` with that certificate can be this trunk's; the error says in words why not.
    /// A trunk that is recognised by digest alone admits every source here.
    pub fn recognises(&self, source: IpAddr, certificate_names: &[String]) -> Result<(), String> {
        let source = source.to_canonical();
        if !self.takes_calls() {
            return Err(
                "takes no calls: it has no allowed_sources, no certificate_names and no inbound_user".to_owned()
            );
        }
        if !self.allowed_sources.is_empty() && !self.allowed_sources.iter().any(|net| net.contains(&source)) {
            return Err(format!("takes calls from {} only", list(&self.allowed_sources)));
        }
        let wanted = &self.certificate_names;
        if !wanted.is_empty() && !wanted.iter().any(|name| certificate_names.iter().any(|have| bears(have, name))) {
            let shown = match certificate_names.is_empty() {
                true => "none".to_owned(),
                false => certificate_names.join(", "),
            };
            return Err(format!("wants a certificate for {}, and was shown {shown}", wanted.join(" or ")));
        }
        Ok(())
    }

    /// One line that says what and where it is.
    pub fn summary(&self) -> String {
        if let Some(whatsapp) = &self.whatsapp {
            return format!("weight {}, by WhatsApp from number {}", self.weight, whatsapp.phone_number_id);
        }
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        let (host, transport) = (bracketed(&self.host), self.transport.via_name());
        let transcoding = if self.transcoding { "" } else { ", never transcoded" };
        format!("weight {}, {transport} {host}{port}, {}{transcoding}", self.weight, self.media.name())
    }
}

/// Calls of a trunk at once unless the configuration says otherwise.
pub const CALLS_MAX_DEFAULT: usize = 1_000;

/// Seconds that a user of WhatsApp may be rung unless the configuration says otherwise. WhatsApp itself ends the call sooner, it
/// seems; how soon it does not say.
pub const WHATSAPP_RING_S_DEFAULT: u32 = 60;

/// Seconds that a trunk may ring unless the configuration says otherwise.
pub const RING_S_DEFAULT: u32 = 120;

/// What stands in From, P-Asserted-Identity and Privacy of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerId {
    /// User part of From, unescaped.
    pub user: String,
    /// Display name of From.
    pub display: Option<String>,
    /// Host part of From; our own address when `None`.
    pub host: Option<String>,
    /// The number for P-Asserted-Identity (RFC 3325), in E.164.
    pub asserted: Option<String>,
    /// `Privacy: id` (RFC 3323).
    pub private: bool,
}

/// Whether a certificate's name covers `wanted`: letter case aside the same, or `*` in place of the left-most label
/// (RFC 6125 §6.4.3). Either may be the one with the star: the operator may write `*.provider.example` too.
fn bears(have: &str, wanted: &str) -> bool {
    let same = |a: &str, b: &str| a.trim_end_matches('.').eq_ignore_ascii_case(b.trim_end_matches('.'));
    let covers = |star: &str, name: &str| {
        star.strip_prefix("*.")
            .zip(name.split_once('.'))
            .is_some_and(|(rest, (label, parent))| !label.is_empty() && rest.contains('.') && same(rest, parent))
    };
    same(have, wanted) || covers(have, wanted) || covers(wanted, have)
}

fn list(networks: &[IpNet]) -> String {
    networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// An IPv6 address stands in brackets in a URI.
fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trunk() -> Trunk {
        Trunk { port: Some(5_061), ..Trunk::new("t", "sbc.example", Transport::Tls) }
    }

    fn caller(user: &str) -> Caller {
        Caller { user: user.to_owned(), display: Some("Ann".to_owned()) }
    }

    #[test]
    fn the_request_uri_holds_the_number_in_the_trunks_form() {
        let rules = Numbering { country: Some("44".into()), ..Numbering::default() };
        assert_eq!(trunk().target("07700 900123", &rules), "sip:+447700900123@sbc.example:5061;transport=tls");
        let digits = Trunk { numbers: NumberFormat::Digits, prefix: "*31#".into(), port: None, ..trunk() };
        assert_eq!(digits.target("07700900123", &rules), "sip:*31%23447700900123@sbc.example;transport=tls");
        let v6 = Trunk::new("t", "2001:db8::1", Transport::Udp);
        assert_eq!(v6.target("a@b c", &rules), "sip:a%40b%20c@[2001:db8::1];transport=udp");
    }

    #[test]
    fn a_trunk_that_wants_it_is_registered_at_with_its_own_user() {
        assert!(trunk().registration().is_none() && trunk().watch().is_none());
        let watch = Trunk { options_s: Some(30), ..trunk() }.watch().unwrap();
        assert_eq!((watch.target.as_str(), watch.every_ms), ("sip:sbc.example:5061;transport=tls", 30_000));
        let credentials = Some(Credentials { username: "gw 1".into(), password: "p".into() });
        let registration = Trunk { register_s: Some(300), credentials, ..trunk() }.registration().unwrap();
        assert_eq!(registration.registrar, "sip:sbc.example:5061;transport=tls");
        assert_eq!((registration.aor.as_str(), registration.expires_s), ("sip:gw%201@sbc.example", 300));
    }

    #[test]
    fn the_caller_is_shown_by_the_trunks_rule() {
        let rules = Numbering { country: Some("44".into()), ..Numbering::default() };
        let pass = Trunk { number: Some("+441632960000".into()), ..trunk() };
        let id = pass.caller_id(&caller("07700900123"), &rules);
        assert_eq!((id.user.as_str(), id.asserted.as_deref()), ("+447700900123", Some("+447700900123")));
        assert_eq!(pass.caller_id(&caller("alice"), &rules).user, "+441632960000");
        let fixed = Trunk { caller_id: CallerIdRule::Fixed, numbers: NumberFormat::Digits, ..pass.clone() };
        assert_eq!(fixed.caller_id(&caller("07700900123"), &rules).user, "441632960000");
        let hidden =
            Trunk { caller_id: CallerIdRule::Anonymous, ..pass.clone() }.caller_id(&caller("0770090012"), &rules);
        assert_eq!(
            (hidden.user.as_str(), hidden.display.as_deref(), hidden.private),
            ("anonymous", Some("Anonymous"), true)
        );
        assert_eq!(hidden.asserted.as_deref(), Some("+441632960000"));
        let own = Trunk { from_user: Some("441632960000".into()), ..trunk() };
        assert_eq!(own.caller_id(&caller("+447700900123"), &rules).user, "441632960000");
    }

    #[test]
    fn a_call_is_recognised_by_address_and_certificate_and_by_nothing_it_says() {
        let address: IpAddr = "203.0.113.9".parse().unwrap();
        assert!(trunk().recognises(address, &[]).unwrap_err().contains("no allowed_sources"));
        let by_address = Trunk { allowed_sources: vec!["203.0.113.0/24".parse().unwrap()], ..trunk() };
        assert_eq!(by_address.recognises(address, &[]), Ok(()));
        assert_eq!(by_address.recognises("::ffff:203.0.113.9".parse().unwrap(), &[]), Ok(()));
        let error = by_address.recognises("198.51.100.1".parse().unwrap(), &[]).unwrap_err();
        assert_eq!(error, "takes calls from 203.0.113.0/24 only");
        let by_name = Trunk { certificate_names: vec!["edge.sbc.example".into()], ..by_address };
        assert!(by_name.recognises(address, &[]).unwrap_err().ends_with("was shown none"));
        for (shown, fits) in [
            ("edge.sbc.example", true),
            ("EDGE.sbc.example", true),
            ("*.sbc.example", true),
            ("*.example", false),
            ("*", false),
            ("edge.sbc.example.evil.example", false),
            ("a.edge.sbc.example", false),
        ] {
            assert_eq!(by_name.recognises(address, &[shown.to_owned()]).is_ok(), fits, "{shown}");
        }
    }
}
