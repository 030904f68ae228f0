//! `tandem check`: what will be used, and what on this host will stand in its way.
//!
//! The configuration's own mistakes are told by [`crate::config`]; here are those that only the host can show: ports that are
//! taken or overlap, rights that are missing, addresses that nobody can reach, limits that are too low. Each finding says what to do.
//!
//! Why it binds the ports for real and then lets them go: whether a port is free, and whether we may have it, is known to the
//! kernel alone.

mod certificate;

use crate::config::{Config, Mode};
use crate::engine_link::EngineLink;
use crate::whatsapp::graph_client::outdated_version;
use engine::config::{Driver, EngineConfig};
use engine::io::system;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::path::Path;

/// Sockets of one session: one of the webrtc leg, a pair of the rtp leg.
const SESSION_SOCKETS: u64 = 3;
/// Files that the program needs beside its media sockets.
const OTHER_FILES: u64 = 512;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Good,
    /// It works, and worse than it could, or not from everywhere.
    Warning,
    /// It will not start, or no call will come up.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// What, and what to do.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.level {
            Level::Good => "ok      ",
            Level::Warning => "warning ",
            Level::Bad => "error   ",
        };
        write!(f, "{word}{}", self.text)
    }
}

/// What is known about this host, apart from what is tried.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Addresses that it would send from.
    pub own_addresses: Vec<IpAddr>,
    /// `/proc/sys/net/ipv4/ip_local_port_range`
    pub ephemeral: String,
    /// `/proc/sys/net/ipv4/ip_local_reserved_ports`
    pub reserved: String,
    /// Most files that this process may open.
    pub open_files: u64,
    /// Unix time.
    pub now_s: i64,
}

impl Host {
    /// Reads this one.
    pub async fn read() -> Host {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
        Host {
            own_addresses: crate::server::own_addresses().await,
            ephemeral: read("ip_local_port_range"),
            reserved: read("ip_local_reserved_ports"),
            open_files: system::raise_open_files(),
            now_s: i64::try_from(crate::server::wall_millis() / 1_000).unwrap_or(i64::MAX),
        }
    }
}

/// Everything about `config` on this host. Binds its ports and starts its engine for a moment: not for a host where it runs.
pub async fn inspect(config: &Config, mode: Mode, host: &Host) -> Vec<Finding> {
    let mut found = Findings::default();
    for warning in &config.warnings {
        found.warning(warning.clone());
    }
    found.webhooks(config, mode);
    found.certificates(config, mode, host);
    found.written(config, mode);
    found.overlaps(config, mode);
    found.bindable(config, mode);
    if mode != Mode::Orchestrator {
        found.ephemeral(config, host);
        found.addresses(config, host);
        found.files(config, host);
        found.media(config);
    }
    found.0
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, text: String) {
        self.0.push(Finding { level: Level::Good, text });
    }

    fn warning(&mut self, text: String) {
        self.0.push(Finding { level: Level::Warning, text });
    }

    fn bad(&mut self, text: String) {
        self.0.push(Finding { level: Level::Bad, text });
    }

    fn webhooks(&mut self, config: &Config, mode: Mode) {
        if !mode.orchestrates() {
            return;
        }
        if let Some(version) = outdated_version(&config.whatsapp.base) {
            self.bad(format!(
                "{}: version v{version}.0 of the Graph API is no longer served; name a newer one",
                config.named("whatsapp.base")
            ));
        }
        let settings = &config.whatsapp;
        let own = config.accounts.iter().filter(|account| account.webhook_secret().is_some()).count();
        let proven = !settings.app_secret.0.is_empty() || !settings.shared_header.0.is_empty();
        let (secret, auth) = (config.named("whatsapp.app_secret"), config.named("whatsapp.webhook_auth"));
        match (proven, settings.webhooks_open) {
            (true, _) => self.good(format!("webhooks must prove themselves; {own} accounts have a secret of their own")),
            (false, true) => {
                self.warning(format!("{auth}: webhooks are open: anybody who reaches the port can place calls; set {secret}"));
            }
            (false, false) if own > 0 && own == config.accounts.len() => {
                self.good(format!("webhooks must prove themselves; each of {own} accounts has a secret of its own"));
            }
            (false, false) => self.warning(format!(
                "webhooks are taken from this host only: set {secret}, or WEBHOOK_SHARED_HEADER where the provider does not sign"
            )),
        }
        let subscribes = config.accounts.iter().any(|account| account.verify_token.is_some());
        if settings.verify_token.0.is_empty() && !subscribes {
            self.warning(format!(
                "{} is not set: Meta cannot check the subscription of the webhook; write the token that stands there",
                config.named("whatsapp.verify_token")
            ));
        }
    }

    /// What lies on the disk for TLS, for each server that this mode starts.
    fn certificates(&mut self, config: &Config, mode: Mode, host: &Host) {
        let (mut pairs, mut trusted) = (Vec::new(), Vec::new());
        let callback = config
            .edge
            .callback_url
            .as_deref()
            .and_then(https_host)
            .map(|host| (host, config.named("edge.callback_url")));
        if let Some(files) = config.http.tls.as_ref().filter(|_| mode.orchestrates()) {
            pairs.push((
                "http",
                &files.certificate,
                &files.private_key,
                callback,
                Some("Meta delivers no webhook to it"),
            ));
        }
        if let Some(files) = config.edge.tls.as_ref().filter(|_| mode != Mode::Orchestrator) {
            pairs.push((
                "edge",
                &files.certificate,
                &files.private_key,
                None,
                Some("the orchestrator needs it in EDGE_TRUSTED"),
            ));
        }
        trusted.extend(config.edge.trusted.as_ref().map(|path| ("edge.trusted", path)));
        if mode != Mode::Orchestrator {
            let sip = &config.sip;
            let domain = sip.domain.as_deref().map(|domain| (domain, config.named("sip.domain")));
            match (&sip.certificate, &sip.private_key) {
                (Some(certificate), Some(key)) => {
                    pairs.push(("sip", certificate, key, domain, Some("browsers and most providers will not connect")));
                }
                _ if sip.tls_bind.is_some() || sip.wss_bind.is_some() => self.warning(format!(
                    "{} is not set: a certificate is made at each start, which browsers and most providers refuse; name one of a public authority",
                    config.named("sip.certificate")
                )),
                _ => {}
            }
            trusted.extend(sip.trusted.as_ref().map(|path| ("sip.trusted", path)));
            for trunk in &config.routes.trunks {
                let Some((certificate, private_key)) = &trunk.certificate else { continue };
                let setting = format!("{}: trunks.{}.certificate", trunk.certificate_place, trunk.name);
                let key_setting = setting.replace(".certificate", ".private_key");
                let pair =
                    certificate::Pair { setting, key_setting, certificate, private_key, host: None, audience: None };
                self.0.extend(certificate::examine(&pair, host.now_s));
            }
        }
        for (section, certificate, private_key, host_name, audience) in pairs {
            let setting = config.named(&format!("{section}.certificate"));
            let key_setting = config.named(&format!("{section}.private_key"));
            let pair = certificate::Pair { setting, key_setting, certificate, private_key, host: host_name, audience };
            self.0.extend(certificate::examine(&pair, host.now_s));
        }
        for (key, path) in trusted {
            self.0.push(certificate::authorities(&config.named(key), path));
        }
    }

    /// Files that will be written.
    fn written(&mut self, config: &Config, mode: Mode) {
        match config.store(mode) {
            None => self.warning(format!(
                "{} is not set: a restart forgets the calls in progress; name a file, such as /var/lib/tandem/tandem.redb",
                config.named("whatsapp.store")
            )),
            Some(path) => self.writable(&config.named("whatsapp.store"), &path),
        }
        if let Some(path) = &config.trace.cdr {
            self.writable(&config.named("trace.cdr"), path);
        }
    }

    /// Whether a file can be made where it is wanted. Folders are made at start, as far as the first one that exists allows it.
    fn writable(&mut self, setting: &str, path: &Path) {
        let path = if path.is_absolute() { path.to_owned() } else { Path::new(".").join(path) };
        let refused = match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => Some("it is a folder".to_owned()),
            Ok(_) => std::fs::File::options().append(true).open(&path).err().map(|error| error.to_string()),
            Err(_) => {
                let folder = path.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(Path::new("."));
                let probe = folder.join(format!(".tandem-check-{}", std::process::id()));
                let made = std::fs::File::create(&probe);
                let _ = std::fs::remove_file(&probe);
                made.err().map(|error| error.to_string())
            }
        };
        match refused {
            None => self.good(format!("{setting}: {} can be written", path.display())),
            Some(error) => self.bad(format!(
                "{setting}: {} cannot be written ({error}): name a file in a folder of this user's (StateDirectory= in the unit)",
                path.display()
            )),
        }
    }

    /// Ports that two of our own sockets would want.
    fn overlaps(&mut self, config: &Config, mode: Mode) {
        let wanted = wanted(config, mode);
        for (index, one) in wanted.iter().enumerate() {
            for other in &wanted[index + 1..] {
                if one.tcp == other.tcp && one.address.port() != 0 && shares(one.address, other.address) {
                    self.bad(format!(
                        "{} and {} both want {}: give one of them another port",
                        one.name, other.name, one.address
                    ));
                }
            }
            let in_range = config.media.ports.contains(&one.address.port());
            if in_range && !one.tcp && mode != Mode::Orchestrator {
                let (first, last) = bounds(&config.media.ports);
                self.warning(format!(
                    "{} {} lies among the media ports {first}-{last}: move one of them",
                    one.name, one.address
                ));
            }
        }
    }

    /// Binds what the servers will bind.
    fn bindable(&mut self, config: &Config, mode: Mode) {
        for Wanted { name, address, tcp } in wanted(config, mode) {
            let kind = if tcp { "TCP" } else { "UDP" };
            match try_bind(address, tcp) {
                Ok(()) => self.good(format!("{name} {address} ({kind}) is free")),
                Err(error) => self.bad(format!("{name} {address} ({kind}) cannot be bound: {}", bind_remedy(&error))),
            }
        }
    }

    fn ephemeral(&mut self, config: &Config, host: &Host) {
        let (first, last) = bounds(&config.media.ports);
        match overlap(first, last, &host.ephemeral, &host.reserved) {
            None => self.good(format!("media ports {first}-{last}: the system lends none of them to others")),
            Some((low, high)) => self.warning(format!(
                "media ports {first}-{last}: the system may lend {low}-{high} to other programs; a port that it has lent is skipped. \
                 To reserve them: sysctl -w net.ipv4.ip_local_reserved_ports={low}-{high}"
            )),
        }
    }

    /// Whether anybody outside can send to what the descriptions will say.
    fn addresses(&mut self, config: &Config, host: &Host) {
        let (name, told) = match (config.media.public_ip.is_empty(), &config.media.bind) {
            (false, _) => (config.named("media.public_ip"), &config.media.public_ip[..]),
            (true, Some(bound)) => (config.named("media.bind"), std::slice::from_ref(bound)),
            (true, None) => ("this host's address".to_owned(), &host.own_addresses[..]),
        };
        if told.is_empty() {
            self.bad("this host has no address: set media.public_ip (PUBLIC_IP)".to_owned());
        }
        for &address in told {
            match unroutable(address) {
                None => self.good(format!("{name} {address} can be reached from outside, as far as an address tells")),
                Some(kind) => self.warning(format!(
                    "{name} {address} is {kind}: WhatsApp cannot send media there; set PUBLIC_IP to the address that the world sees"
                )),
            }
        }
        if told.iter().all(IpAddr::is_ipv6) && !told.is_empty() {
            self.warning(
                "no IPv4 address is told to WhatsApp, whose relays prefer IPv4: add one to PUBLIC_IP".to_owned(),
            );
        }
    }

    fn files(&mut self, config: &Config, host: &Host) {
        let by_files = host.open_files.saturating_sub(OTHER_FILES) / SESSION_SOCKETS;
        let by_ports = config.media.ports.len() as u64 / 4;
        let most = config.edge.sessions_max as u64;
        match by_files < most.min(by_ports) {
            true => self.warning(format!(
                "{} open files are enough for about {by_files} calls: raise the limit (ulimit -Hn, LimitNOFILE)",
                host.open_files
            )),
            false => self.good(format!("open files: {}", host.open_files)),
        }
        match by_ports < most {
            true => {
                self.warning(format!("the media ports are enough for about {by_ports} calls of {most} (SESSIONS_MAX)"))
            }
            false => self.good(format!("media ports for {by_ports} calls, {most} allowed (SESSIONS_MAX)")),
        }
    }

    /// Starts the engine for a moment.
    fn media(&mut self, config: &Config) {
        let engine = |driver| EngineConfig { driver, ..config.engine() };
        let wants_ring = config.media.driver != Driver::Mmsg;
        let ring = wants_ring.then(|| EngineLink::start(&engine(Driver::IoUring)));
        match ring {
            Some(Ok(link)) => {
                self.good(format!("{} media workers on io_uring", link.workers()));
                link.stop();
            }
            Some(Err(error)) if config.media.driver == Driver::IoUring => self.bad(error.to_string()),
            refused => match EngineLink::start(&engine(Driver::Mmsg)) {
                Ok(link) => {
                    let text = format!("{} media workers on recvmmsg", link.workers());
                    match refused {
                        Some(Err(error)) => self.warning(format!("{text}, at a higher cost per packet, since {error}")),
                        _ => self.good(text),
                    }
                    link.stop();
                }
                Err(error) => self.bad(error.to_string()),
            },
        }
    }
}

/// The host of a URL that is served with TLS.
fn https_host(url: &str) -> Option<&str> {
    url.strip_prefix("https://")?.split(['/', ':']).next()
}

struct Wanted {
    name: String,
    address: SocketAddr,
    tcp: bool,
}

/// The sockets of the servers.
fn wanted(config: &Config, mode: Mode) -> Vec<Wanted> {
    let mut all = Vec::new();
    if mode.orchestrates() {
        all.push(Wanted {
            name: config.named("http.port"),
            address: SocketAddr::new(config.http.bind, config.http.port),
            tcp: true,
        });
    }
    if mode != Mode::Orchestrator {
        all.push(Wanted { name: config.named("edge.bind"), address: config.edge.bind, tcp: true });
        all.push(Wanted { name: config.named("sip.bind"), address: config.sip.bind, tcp: false });
        if config.sip.tcp {
            all.push(Wanted { name: config.named("sip.bind"), address: config.sip.bind, tcp: true });
        }
        let further =
            [(config.named("sip.tls_bind"), config.sip.tls_bind), (config.named("sip.wss_bind"), config.sip.wss_bind)];
        all.extend(
            further
                .into_iter()
                .filter_map(|(name, address)| address.map(|address| Wanted { name, address, tcp: true })),
        );
    }
    all
}

fn bounds(ports: &RangeInclusive<u16>) -> (u16, u16) {
    (*ports.start(), *ports.end())
}

/// Whether the kernel would refuse the second of two sockets.
fn shares(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

#[expect(clippy::disallowed_methods, reason = "it is bound to be let go at once: nothing is received")]
fn try_bind(address: SocketAddr, tcp: bool) -> io::Result<()> {
    match tcp {
        true => TcpListener::bind(address).map(drop),
        false => std::net::UdpSocket::bind(address).map(drop),
    }
}

fn bind_remedy(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program has it; ss -lnup and ss -lntp name it".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a right: AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit, or a higher port"
                .to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this host has no such address".to_owned(),
        _ => error.to_string(),
    }
}

/// The part of the media ports that the system lends as ephemeral ports, unless one reservation covers it.
fn overlap(first: u16, last: u16, ephemeral: &str, reserved: &str) -> Option<(u16, u16)> {
    let mut range = ephemeral.split_whitespace().filter_map(|number| number.parse::<u16>().ok());
    let (low, high) = (range.next()?.max(first), range.next()?.min(last));
    let covers = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        from.trim().parse::<u16>().is_ok_and(|from| from <= low) && to.trim().parse::<u16>().is_ok_and(|to| to >= high)
    };
    (low <= high && !reserved.trim().split(',').any(covers)).then_some((low, high))
}

/// What kind of address nobody outside can send to; `None`: a public one.
fn unroutable(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            match () {
                () if v4.is_loopback() => Some("a loopback address"),
                () if v4.is_unspecified() || v4.is_broadcast() || v4.is_multicast() => Some("no host's address"),
                () if v4.is_private() => Some("a private address (RFC 1918)"),
                () if v4.is_link_local() => Some("a link-local address"),
                () if a == 100 && (64..128).contains(&b) => Some("a carrier's shared address (RFC 6598)"),
                () if v4.is_documentation() || v4 == Ipv4Addr::new(192, 0, 0, 0) => {
                    Some("an address of examples (RFC 5737)")
                }
                () => None,
            }
        }
        IpAddr::V6(v6) => match v6.segments() {
            _ if v6.is_loopback() => Some("a loopback address"),
            _ if v6.is_unspecified() || v6.is_multicast() => Some("no host's address"),
            [first, ..] if first & 0xfe00 == 0xfc00 => Some("a private address (RFC 4193)"),
            [first, ..] if first & 0xffc0 == 0xfe80 => Some("a link-local address"),
            [0x2001, 0x0db8, ..] => Some("an address of examples (RFC 3849)"),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(settings: &[(&str, &str)]) -> Config {
        Config::read("", |name| settings.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
            .unwrap()
    }

    #[test]
    fn an_overlap_with_the_systems_ports_is_found_unless_it_is_reserved() {
        assert_eq!(overlap(10_000, 60_000, "32768\t60999\n", "\n"), Some((32_768, 60_000)));
        assert_eq!(overlap(10_000, 60_000, "32768 60999", "8080,32768-60999\n"), None);
        assert_eq!(overlap(10_000, 20_000, "32768 60999", ""), None);
        assert_eq!(overlap(10_000, 60_000, "", ""), None);
    }

    #[test]
    fn addresses_that_nobody_outside_can_reach_are_known() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.20.0.1",
            "192.168.1.9",
            "100.64.0.1",
            "169.254.1.1",
            "203.0.113.9",
            "::1",
            "fd00::1",
            "fe80::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(unroutable(address.parse().unwrap()).is_some(), "{address}");
        }
        for address in ["8.8.8.8", "100.128.0.1", "172.32.0.1", "2606:4700::1111"] {
            assert_eq!(unroutable(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn two_sockets_on_one_port_and_a_port_among_the_media_ports_are_found() {
        let mut found = Findings::default();
        let config = config(&[("PORT", "8080"), ("SIP_BIND", "0.0.0.0:12000"), ("MEDIA_PORTS", "10000-20000")]);
        found.overlaps(&config, Mode::Tandem);
        let texts: Vec<String> = found.0.iter().map(Finding::to_string).collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(texts[0].starts_with("error   http.port (PORT) and edge.bind (EDGE_BIND)"), "{texts:?}");
        assert!(texts[1].starts_with("warning sip.bind (SIP_BIND) 0.0.0.0:12000 lies among"), "{texts:?}");
        let mut none = Findings::default();
        none.overlaps(&config, Mode::Orchestrator);
        assert_eq!(none.0, []);
    }

    #[tokio::test]
    async fn a_port_that_another_program_has_is_named_with_its_remedy() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let bind = taken.local_addr().unwrap().to_string();
        let config = config(&[
            ("EDGE_BIND", &bind),
            ("SIP_BIND", "127.0.0.1:0"),
            ("MEDIA_PORTS", "41000-41999"),
            ("PUBLIC_IP", "10.0.0.1"),
        ]);
        let host = Host { open_files: 1_000, ephemeral: "32768 60999".to_owned(), ..Host::default() };
        let found = inspect(&config, Mode::Edge, &host).await;
        let texts: Vec<String> = found.iter().map(Finding::to_string).collect();
        for expected in [
            format!("error   edge.bind (EDGE_BIND) {bind} (TCP) cannot be bound: another program has it"),
            "ok      sip.bind (SIP_BIND) 127.0.0.1:0 (UDP) is free".to_owned(),
            "warning media ports 41000-41999: the system may lend 41000-41999".to_owned(),
            "warning media.public_ip (PUBLIC_IP) 10.0.0.1 is a private address".to_owned(),
            "warning 1000 open files are enough for about 162 calls".to_owned(),
            "warning the media ports are enough for about 250 calls".to_owned(),
        ] {
            assert!(texts.iter().any(|text| text.starts_with(&expected)), "{expected} is not in {texts:#?}");
        }
        assert!(texts.iter().any(|text| text.contains("media workers on")), "{texts:#?}");
    }

    #[tokio::test]
    async fn what_lies_on_the_disk_for_tls_is_looked_at_for_each_server_of_the_mode() {
        let file = "[sip]\ntls_bind = \"127.0.0.1:0\"\nbind = \"127.0.0.1:0\"\ncertificate = \"/nowhere/chain.pem\"\n\
            private_key = \"/nowhere/key.pem\"\ntrusted = \"/nowhere/trusted.pem\"\n[http]\nport = 1\n\
            certificate = \"/nowhere/web.pem\"\nprivate_key = \"/nowhere/web.key\"\n";
        let config = Config::read(file, |_| None).unwrap();
        let said = |mode| {
            let mut found = Findings::default();
            found.certificates(&config, mode, &Host::default());
            found.0.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n")
        };
        let expected = |line: u32, key: &str, path: &str| {
            format!("error   the configuration file:{line}: {key}: /nowhere/{path} cannot be read")
        };
        let sip = [
            expected(4, "sip.certificate (SIP_CERTIFICATE)", "chain.pem"),
            expected(5, "sip.private_key (SIP_PRIVATE_KEY)", "key.pem"),
            expected(6, "sip.trusted (SIP_TRUSTED)", "trusted.pem"),
        ];
        let web = [
            expected(9, "http.certificate (HTTP_CERTIFICATE)", "web.pem"),
            expected(10, "http.private_key (HTTP_PRIVATE_KEY)", "web.key"),
        ];
        for (mode, has_web, has_sip) in
            [(Mode::Tandem, true, true), (Mode::Orchestrator, true, false), (Mode::Edge, false, true)]
        {
            let text = said(mode).replace(" (No such file", " (");
            assert!(web.iter().all(|line| text.contains(line.as_str()) == has_web), "{text}");
            assert!(sip.iter().all(|line| text.contains(line.as_str()) == has_sip), "{text}");
        }
        let trunk = "[trunks.sbc]\nhost = \"sbc.example\"\ncertificate = \"/nowhere/c.pem\"\nprivate_key = \"/nowhere/k.pem\"\n";
        let config = Config::read(trunk, |_| None).unwrap();
        let mut found = Findings::default();
        found.certificates(&config, Mode::Edge, &Host::default());
        let text = found.0.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n");
        for (key, path) in [("certificate", "c.pem"), ("private_key", "k.pem")] {
            let line = format!("error   the configuration file:3: trunks.sbc.{key}: /nowhere/{path} cannot be read");
            assert!(text.contains(&line), "{text}");
        }
        let none = Config::read("[sip]\nwss_bind = \"127.0.0.1:0\"\n", |_| None).unwrap();
        let mut found = Findings::default();
        found.certificates(&none, Mode::Edge, &Host::default());
        assert!(found.0[0].text.contains("is made at each start"), "{:?}", found.0);
    }

    #[test]
    fn files_that_cannot_be_written_are_found_before_the_start_and_left_alone() {
        let folder = std::env::temp_dir().join(format!("tandem-check-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let told = |store: &str| {
            let mut found = Findings::default();
            found.written(&config(&[("STORE", store)]), Mode::Edge);
            found.0[0].to_string()
        };
        let path = folder.join("deep/er/tandem.redb").display().to_string();
        assert!(told(&path).starts_with("ok      whatsapp.store (STORE): "), "{}", told(&path));
        assert!(told(&path).contains("tandem-edge.redb can be written"), "{}", told(&path));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "nothing is left behind");
        let nowhere = told("/proc/nowhere/tandem.redb");
        assert!(nowhere.starts_with("error") && nowhere.contains("StateDirectory"), "{nowhere}");
        std::fs::create_dir_all(folder.join("tandem-edge")).unwrap();
        assert!(told(&folder.join("tandem").display().to_string()).contains("it is a folder"));
        assert!(told("none").starts_with("warning whatsapp.store (STORE) is not set"), "{}", told("none"));
    }

    #[test]
    fn the_settings_in_force_are_listed_with_their_origin_and_without_secrets() {
        let environment = |name: &str| match name {
            "WABA_TOKEN" => Some("EAAGsecret".to_owned()),
            "PORT" => Some("3100".to_owned()),
            _ => None,
        };
        let config = Config::read("[media]\nports = \"10000-10999\"\n", environment).unwrap();
        let lines = config.lines();
        for expected in [
            "whatsapp.token = set  (WABA_TOKEN)",
            "http.port = 3100  (PORT)",
            "media.ports = 10000-10999  (the configuration file:2)",
            "sip.bind = 0.0.0.0:5060  (default)",
            "edge.token = not set  (default)",
        ] {
            assert!(lines.iter().any(|line| line == expected), "{expected} is not in {lines:#?}");
        }
        assert!(!lines.join("").contains("EAAG"));
        let debug = lines.iter().find(|line| line.contains("Some(") || line.contains('{'));
        assert_eq!(debug, None, "a line for programmers");
    }
}
