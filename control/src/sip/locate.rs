//! Where a URI leads: NAPTR, SRV and addresses, in the order that RFC 3263 and RFC 2782 give.
//!
//! ```text
//! URI -numeric host, or port-> addresses          -transport fixed-> SRV -none-> addresses
//!     -else-> NAPTR -services we have-> SRV       -none-> SRV of each transport in turn -none-> addresses
//! ```
//!
//! [`Locator`] asks one question at a time and ends with a list of hops, best first. It draws the order of equal priorities from the
//! randomness it is given, so that a run can be repeated.
//!
//! Why the stack walks through the records itself instead of asking a library for "the targets": which transports exist, which of
//! them `sips` forbids and which targets were dead a minute ago is known here only.

use super::transport::{Hop, Transport};
use super::uri::SipUri;
use engine::random::Random;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What the DNS is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// NAPTR records of a domain (RFC 3263 §4.1).
    Naptr(String),
    /// SRV records of a name such as `_sip._udp.example.com` (RFC 2782).
    Srv(String),
    /// A and AAAA records.
    Address(String),
}

/// What the DNS said. An empty list: no such record, or no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Records {
    /// To `Question::Naptr`.
    Naptr(Vec<Naptr>),
    /// To `Question::Srv`.
    Srv(Vec<Srv>),
    /// To `Question::Address`.
    Addresses(Vec<IpAddr>),
    /// To any: the DNS knows nothing, or did not answer.
    Nothing,
}

/// A NAPTR record, as far as SIP uses it (flag `s`, no expression).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naptr {
    /// Lower first.
    pub order: u16,
    /// Lower first among equal orders.
    pub preference: u16,
    /// `SIP+D2U`, `SIPS+D2T`, ...
    pub services: String,
    /// Where its SRV records are.
    pub replacement: String,
}

/// An SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    /// Lower first.
    pub priority: u16,
    /// Share among equal priorities.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// Name of the host.
    pub target: String,
}

/// Hosts of SRV records whose addresses are asked for. Further ones are ignored.
pub const SRV_TARGETS_MAX: usize = 8;

/// NAPTR records that are looked at. Further ones are ignored.
pub const NAPTR_MAX: usize = 8;

/// Addresses of one name that are tried, in the order given.
pub const ADDRESSES_MAX: usize = 8;

/// Hops that one look-up may lead to.
pub const HOPS_MAX: usize = 16;

/// What a locator wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask this, and go on with `answer`.
    Ask(Question),
    /// The hops, best first; empty: the URI leads nowhere.
    Done(Vec<Hop>),
}

/// One look-up under way.
#[derive(Clone, Debug)]
pub struct Locator {
    domain: Arc<str>,
    port: Option<u16>,
    secure: bool,
    /// Those that exist here, best first.
    available: Vec<Transport>,
    /// IPv4, IPv6.
    families: (bool, bool),
    /// SRV names to be asked for, with their transports.
    services: VecDeque<(Transport, String)>,
    /// Hosts whose addresses are to be asked for, best first.
    hosts: VecDeque<(Transport, String, u16)>,
    hops: Vec<Hop>,
    /// SRV records were found: then the domain itself is no host.
    found: bool,
    asked: Asked,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Naptr,
    Srv(Transport),
    Address(Transport, u16),
}

impl Locator {
    /// Begins to look up `uri`, for which a proxy may be written without its scheme.
    ///
    /// `available`: the transports that exist here, and which of them is preferred where the URI does not say.
    pub fn start(uri: &str, available: &[Transport], families: (bool, bool)) -> (Locator, Step) {
        let with_scheme;
        let parsed = match SipUri::parse(uri) {
            Some(parsed) => Some(parsed),
            None => {
                with_scheme = format!("sip:{uri}");
                SipUri::parse(&with_scheme)
            }
        };
        let mut locator = Locator {
            domain: Arc::from(""),
            port: None,
            secure: false,
            available: available.to_vec(),
            families,
            services: VecDeque::new(),
            hosts: VecDeque::new(),
            hops: Vec::new(),
            found: false,
            asked: Asked::Nothing,
        };
        let Some(parsed) = parsed else { return (locator, Step::Done(Vec::new())) };
        locator.secure = parsed.secure;
        locator.port = parsed.port;
        let step = locator.begin(&parsed);
        (locator, step)
    }

    /// Takes the answer to the last question.
    pub fn answer(&mut self, records: &Records, random: &mut Random) -> Step {
        match (std::mem::replace(&mut self.asked, Asked::Nothing), records) {
            (Asked::Naptr, Records::Naptr(naptr)) => self.on_naptr(naptr),
            (Asked::Naptr, _) => self.on_naptr(&[]),
            (Asked::Srv(transport), Records::Srv(srv)) => self.on_srv(transport, srv, random),
            (Asked::Address(transport, port), Records::Addresses(addresses)) => {
                self.on_addresses(transport, port, addresses);
            }
            _ => {}
        }
        self.next()
    }

    fn begin(&mut self, uri: &SipUri) -> Step {
        let maddr = uri.param("maddr").filter(|host| !host.is_empty());
        let host = maddr.unwrap_or(uri.host).to_ascii_lowercase();
        self.domain = Arc::from(host.trim_end_matches('.'));
        let written = uri.param("transport");
        let transport = match written.map(Transport::parse) {
            // A transport that nobody here speaks (RFC 3263 §4.1: the URI decides).
            Some(None) => return Step::Done(Vec::new()),
            Some(Some(transport)) if uri.secure => Some(transport.secured()),
            Some(Some(transport)) => Some(transport),
            None => None,
        };
        if transport.is_some_and(|transport| !self.available.contains(&transport)) {
            return Step::Done(Vec::new());
        }
        let ip: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        if ip.is_some() || self.port.is_some() || !self.domain.contains('.') {
            // RFC 3263 §4.1, §4.2: an address, or a port: no records but addresses. UDP for sip, TLS for sips. A name without a dot
            // is a host of this network, known to its hosts file at best.
            let default = if self.secure { Transport::Tls } else { Transport::Udp };
            let transport = transport.or(self.available.contains(&default).then_some(default));
            self.found = true;
            let Some(transport) = transport else { return Step::Done(Vec::new()) };
            let port = self.port.unwrap_or(transport.port());
            match ip {
                Some(ip) => self.push_hop(transport, SocketAddr::new(ip, port)),
                None => self.hosts.push_back((transport, self.domain.to_string(), port)),
            }
            return self.next();
        }
        match transport {
            Some(transport) => {
                self.services.extend(srv_name(transport, &self.domain).map(|name| (transport, name)));
                // Without SRV records of it: the addresses of the domain itself (RFC 3263 §4.2).
                self.available = vec![transport];
                self.next()
            }
            None => {
                self.asked = Asked::Naptr;
                Step::Ask(Question::Naptr(self.domain.to_string()))
            }
        }
    }

    fn on_naptr(&mut self, records: &[Naptr]) {
        let mut usable: Vec<(&Naptr, Transport)> = records
            .iter()
            .take(NAPTR_MAX)
            .filter_map(|record| Some((record, transport_of(&record.services)?)))
            .filter(|(_, transport)| self.may_use(*transport))
            .collect();
        usable.sort_by_key(|(record, _)| (record.order, record.preference));
        self.services.extend(usable.iter().map(|(record, transport)| (*transport, host_name(&record.replacement))));
        if self.services.is_empty() {
            // RFC 3263 §4.1: no NAPTR, so SRV of every transport that serves here.
            let available: Vec<Transport> = self.available.iter().copied().filter(|t| self.may_use(*t)).collect();
            for transport in available {
                self.services.extend(srv_name(transport, &self.domain).map(|name| (transport, name)));
            }
        }
    }

    fn may_use(&self, transport: Transport) -> bool {
        self.available.contains(&transport) && (!self.secure || transport.is_secure())
    }

    fn on_srv(&mut self, transport: Transport, records: &[Srv], random: &mut Random) {
        self.found |= !records.is_empty();
        // A single "." says that the service is not there (RFC 2782).
        let usable: Vec<Srv> =
            records.iter().filter(|record| !matches!(record.target.as_str(), "" | ".")).cloned().collect();
        for record in by_weight(usable, random) {
            if self.hosts.len() < SRV_TARGETS_MAX {
                self.hosts.push_back((transport, host_name(&record.target), record.port));
            }
        }
        if !self.hosts.is_empty() {
            // The best transport that the domain offers; the others would only cost look-ups.
            self.services.clear();
        }
    }

    fn on_addresses(&mut self, transport: Transport, port: u16, addresses: &[IpAddr]) {
        for &ip in addresses.iter().take(ADDRESSES_MAX) {
            self.push_hop(transport, SocketAddr::new(ip, port));
        }
    }

    fn push_hop(&mut self, transport: Transport, remote: SocketAddr) {
        let usable = if remote.is_ipv4() { self.families.0 } else { self.families.1 };
        let hop = match transport.is_secure() {
            true => Hop { domain: Some(self.domain.clone()), ..Hop::new(transport, remote) },
            false => Hop::new(transport, remote),
        };
        if usable && self.hops.len() < HOPS_MAX && !self.hops.contains(&hop) {
            self.hops.push(hop);
        }
    }

    fn next(&mut self) -> Step {
        if let Some((transport, name)) = self.services.pop_front() {
            self.asked = Asked::Srv(transport);
            return Step::Ask(Question::Srv(name));
        }
        if self.hosts.is_empty() && self.hops.is_empty() && !std::mem::replace(&mut self.found, true) {
            // No record of any kind: the domain is a host (RFC 3263 §4.2).
            let port = self.port;
            let host = self.last_resort().map(|transport| (transport, port.unwrap_or(transport.port())));
            self.hosts.extend(host.map(|(transport, port)| (transport, self.domain.to_string(), port)));
        }
        while let Some((transport, host, port)) = self.hosts.pop_front() {
            if let Ok(ip) = host.trim_matches(['[', ']']).parse() {
                self.push_hop(transport, SocketAddr::new(ip, port));
                continue;
            }
            self.asked = Asked::Address(transport, port);
            return Step::Ask(Question::Address(host));
        }
        Step::Done(std::mem::take(&mut self.hops))
    }

    /// The DNS took too long: what is known so far.
    pub fn give_up(self) -> Vec<Hop> {
        self.hops
    }

    /// The transport for a domain without records.
    fn last_resort(&self) -> Option<Transport> {
        let default = if self.secure { Transport::Tls } else { Transport::Udp };
        match self.available.as_slice() {
            [only] => self.may_use(*only).then_some(*only),
            several => several.contains(&default).then_some(default),
        }
    }
}

/// Sorts by priority, and draws the order among equals by weight (RFC 2782, "Weight").
pub fn by_weight(mut records: Vec<Srv>, random: &mut Random) -> Vec<Srv> {
    // Weight 0 first among equals: it is drawn only by the smallest number.
    records.sort_by_key(|record| (record.priority, record.weight));
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(priority) = records.first().map(|record| record.priority) {
        let equals = records.iter().take_while(|record| record.priority == priority).count();
        let total: u32 = records[..equals].iter().map(|record| u32::from(record.weight)).sum();
        let drawn = random.below(total + 1);
        let mut sum = 0;
        let at = records[..equals].iter().position(|record| {
            sum += u32::from(record.weight);
            sum >= drawn
        });
        ordered.push(records.remove(at.unwrap_or(0)));
    }
    ordered
}

/// The name that SRV records of a transport have; WebSocket has none (RFC 7118 §8.4).
fn srv_name(transport: Transport, domain: &str) -> Option<String> {
    match transport {
        Transport::Udp => Some(format!("_sip._udp.{domain}")),
        Transport::Tcp => Some(format!("_sip._tcp.{domain}")),
        Transport::Tls => Some(format!("_sips._tcp.{domain}")),
        Transport::Ws | Transport::Wss => None,
    }
}

fn transport_of(services: &str) -> Option<Transport> {
    match services.to_ascii_uppercase().as_str() {
        "SIP+D2U" => Some(Transport::Udp),
        "SIP+D2T" => Some(Transport::Tcp),
        "SIPS+D2T" => Some(Transport::Tls),
        "SIP+D2W" => Some(Transport::Ws),
        "SIPS+D2W" => Some(Transport::Wss),
        _ => None,
    }
}

fn host_name(text: &str) -> String {
    text.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Transport; 4] = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Wss];

    fn srv(priority: u16, weight: u16, target: &str) -> Srv {
        Srv { priority, weight, port: 5000 + priority, target: target.into() }
    }

    fn naptr(order: u16, services: &str, replacement: &str) -> Naptr {
        Naptr { order, preference: 0, services: services.into(), replacement: replacement.into() }
    }

    /// Looks up with these records; answers the questions in order, and the hops.
    fn look_up(uri: &str, records: &[(Question, Records)]) -> (Vec<Question>, Vec<Hop>) {
        let mut random = Random::from_test_seed(1);
        let (mut locator, mut step) = Locator::start(uri, &ALL, (true, true));
        let mut asked = Vec::new();
        loop {
            match step {
                Step::Done(hops) => return (asked, hops),
                Step::Ask(question) => {
                    let answer = records.iter().find(|(known, _)| *known == question);
                    step = locator.answer(answer.map_or(&Records::Nothing, |(_, records)| records), &mut random);
                    asked.push(question);
                }
            }
        }
    }

    fn v4(last: u8) -> Records {
        Records::Addresses(vec![IpAddr::from([192, 0, 2, last])])
    }

    #[test]
    fn addresses_and_ports_need_no_records() {
        for (uri, hop) in [
            ("sip:a@192.0.2.1", Some((Transport::Udp, "192.0.2.1:5060"))),
            ("sip:a@192.0.2.1;transport=TLS", Some((Transport::Tls, "192.0.2.1:5061"))),
            ("sips:192.0.2.1:5071", Some((Transport::Tls, "192.0.2.1:5071"))),
            ("sips:192.0.2.1;transport=tcp", Some((Transport::Tls, "192.0.2.1:5061"))),
            ("192.0.2.1:5080", Some((Transport::Udp, "192.0.2.1:5080"))),
            ("sip:a@x.example;maddr=[2001:db8::1]", Some((Transport::Udp, "[2001:db8::1]:5060"))),
            ("sip:a@192.0.2.1;transport=sctp", None),
            ("sip:a@192.0.2.1;transport=ws", None),
            ("tel:+1", None),
        ] {
            let expected: Vec<_> = hop.iter().map(|(t, at)| (*t, at.parse().unwrap())).collect();
            let (asked, hops) = look_up(uri, &[]);
            let hops: Vec<(Transport, SocketAddr)> = hops.iter().map(|hop| (hop.transport, hop.remote)).collect();
            assert_eq!((asked, hops), (Vec::new(), expected), "{uri}");
        }
        let (asked, hops) =
            look_up("sip:x.example:5080;transport=tcp", &[(Question::Address("x.example".into()), v4(3))]);
        assert_eq!((asked.len(), hops[0].remote.to_string()), (1, "192.0.2.3:5080".to_owned()));
    }

    #[test]
    fn naptr_chooses_the_transport_and_the_certificate_must_carry_the_domain() {
        let records = [
            (
                Question::Naptr("x.example".into()),
                Records::Naptr(vec![
                    naptr(20, "SIP+D2U", "_sip._udp.x.example."),
                    naptr(10, "SIPS+D2T", "_sips._tcp.x.example."),
                    naptr(5, "SIP+D2S", "_sip._sctp.x.example."),
                ]),
            ),
            (Question::Srv("_sips._tcp.x.example".into()), Records::Srv(vec![srv(1, 0, "sbc.carrier.example.")])),
            (Question::Address("sbc.carrier.example".into()), v4(4)),
        ];
        let (_, hops) = look_up("sip:x.example", &records);
        let expected = Hop::new(Transport::Tls, "192.0.2.4:5001".parse().unwrap()).for_domain("x.example");
        assert_eq!(hops, [expected]);
    }

    #[test]
    fn without_records_the_domain_is_a_host_and_with_srv_it_is_not() {
        let host = (Question::Address("x.example".into()), v4(5));
        let (asked, hops) = look_up("sip:a@X.example", std::slice::from_ref(&host));
        assert_eq!(asked[0], Question::Naptr("x.example".into()));
        assert_eq!(asked.last(), Some(&host.0));
        assert_eq!(hops, [Hop::udp("192.0.2.5:5060".parse().unwrap())]);
        let none = (Question::Srv("_sip._udp.x.example".into()), Records::Srv(vec![srv(0, 0, ".")]));
        let (_, hops) = look_up("sip:a@x.example;transport=udp", &[none, host.clone()]);
        assert_eq!(hops, [], "the domain says that it has no such service");
        let (asked, hops) = look_up("sip:a@x.example;transport=tls", &[host]);
        assert_eq!(asked[0], Question::Srv("_sips._tcp.x.example".into()));
        assert_eq!(hops[0].remote, "192.0.2.5:5061".parse().unwrap());
    }

    #[test]
    fn priority_decides_and_weight_shares() {
        let mut random = Random::from_test_seed(5);
        let mut firsts = [0; 2];
        for _ in 0..1_000 {
            let records = vec![srv(2, 0, "last"), srv(1, 30, "heavy"), srv(1, 10, "light")];
            let order = by_weight(records, &mut random);
            assert_eq!(order[2].target, "last");
            firsts[usize::from(order[0].target == "light")] += 1;
        }
        // 11 of 41 draws (RFC 2782 draws from 0 to the sum), give or take four standard deviations.
        assert!((212..=325).contains(&firsts[1]), "{firsts:?}");
    }

    #[test]
    fn an_answer_to_another_question_does_no_harm() {
        let mut random = Random::from_test_seed(1);
        let (mut locator, step) = Locator::start("sip:x.example", &ALL, (true, false));
        assert!(matches!(step, Step::Ask(Question::Naptr(_))));
        for _ in 0..20 {
            if let Step::Done(hops) = locator.answer(&v4(1), &mut random) {
                assert!(hops.len() <= HOPS_MAX);
                return;
            }
        }
        panic!("the look-up never ends");
    }
}
