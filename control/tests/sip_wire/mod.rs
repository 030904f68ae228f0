//! An agent with real sockets, for tests that need a network.
#![allow(dead_code)] // each test file uses its share

use control::sip::gatekeeper::{Doorman, Gatekeeper};
use control::sip::transport::{Hop, PeerIdentity, TRANSPORTS, Transport};
use control::sip::{Credentials, Invite, SipAgent, SipCallId, SipConfig, SipEvent, SipOutput, TraceMessage};
use control::sip_io::resolver::Resolver;
use control::sip_io::tls::TlsSettings;
use control::sip_io::{Heard, SipIo, SipIoSettings};
use engine::io::clock;
use engine::random::Random;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const SDP: &str =
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";

/// Longest wait for anything.
pub const SOON: Duration = Duration::from_secs(20);

pub struct Node {
    pub agent: SipAgent,
    pub io: SipIo,
    pub ip: IpAddr,
    pub heard: Vec<SipEvent>,
    pub gatekeeper: Box<dyn Gatekeeper + Send>,
    pub answers_with: Option<&'static str>,
    /// Where the last message came from, and what TLS proved there.
    pub last: Option<(Hop, PeerIdentity)>,
    pub lost: Vec<(Hop, bool)>,
    pub traced: Vec<TraceMessage>,
    /// Refuses every call with this code.
    pub refuses_with: Option<u16>,
    resolver: Resolver,
}

/// Settings that serve every transport on ports that the system draws.
pub fn everywhere(ip: IpAddr) -> SipIoSettings {
    let any = Some(SocketAddr::new(ip, 0));
    SipIoSettings { udp: any, tcp: any, tls: any, ws: any, wss: any, ..SipIoSettings::default() }
}

impl Node {
    pub async fn start(settings: SipIoSettings, demand: Option<(String, Credentials)>) -> Node {
        Node::start_as(settings, demand, |_| {}).await
    }

    pub async fn start_as(
        settings: SipIoSettings,
        demand: Option<(String, Credentials)>,
        change: impl FnOnce(&mut SipConfig),
    ) -> Node {
        let ip = settings.udp.or(settings.tcp).map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip());
        let io = SipIo::bind(&settings).await.unwrap();
        let advertised = io.address(Transport::Udp).unwrap_or(SocketAddr::new(ip, 5060));
        let mut config = SipConfig::new(advertised, "node", "test");
        config.reach = TRANSPORTS
            .into_iter()
            .map(|transport| (transport, io.address(transport).unwrap_or(SocketAddr::new(ip, transport.port()))))
            .collect();
        change(&mut config);
        let gatekeeper = Box::new(Doorman { demand, accept_incoming: true });
        let mut seed = [0; 32];
        aws_lc_rs::rand::fill(&mut seed).unwrap();
        Node {
            agent: SipAgent::new(config, Random::from_seed(seed)),
            io,
            ip,
            heard: Vec::new(),
            gatekeeper,
            answers_with: None,
            last: None,
            lost: Vec::new(),
            traced: Vec::new(),
            refuses_with: None,
            resolver: Resolver::new(),
        }
    }

    /// Plays one turn: waits a moment for the network, then settles.
    pub async fn turn(&mut self) {
        self.settle().await;
        let _ = tokio::time::timeout(Duration::from_millis(5), self.io.readable()).await;
        let now = clock::now();
        let (agent, gatekeeper, last, lost) = (&mut self.agent, &mut self.gatekeeper, &mut self.last, &mut self.lost);
        self.io.receive(|heard| match heard {
            Heard::Message { hop, peer, bytes } => {
                agent.handle_message(now, &hop, &peer, &bytes, gatekeeper.as_mut());
                *last = Some((hop, (*peer).clone()));
            }
            Heard::Lost { hop, failed } => {
                match failed {
                    true => agent.transport_failed(now, &hop),
                    false => agent.connection_closed(now, &hop),
                }
                lost.push((hop, failed));
            }
            Heard::Opened(_) => {}
        });
        self.agent.handle_timeout(clock::now());
        self.settle().await;
    }

    async fn settle(&mut self) {
        loop {
            match self.agent.poll_output(clock::now()) {
                SipOutput::Transmit { hop, bytes } => self.io.send(&hop, bytes),
                SipOutput::Resolve { query, question } => {
                    let records = self.resolver.ask(&question).await;
                    self.agent.resolved(clock::now(), query, &records);
                }
                SipOutput::Event(event) => {
                    if let (SipEvent::Incoming { call, .. }, Some(sdp)) = (&event, self.answers_with) {
                        self.agent.ring(clock::now(), *call, None);
                        self.agent.accept(clock::now(), *call, sdp);
                    }
                    if let (SipEvent::ReInvite { call, .. }, Some(sdp)) = (&event, self.answers_with) {
                        self.agent.answer_reinvite(clock::now(), *call, Some(sdp));
                    }
                    if let (SipEvent::Incoming { call, .. }, Some(code)) = (&event, self.refuses_with) {
                        self.agent.reject(clock::now(), *call, code);
                    }
                    self.heard.push(event);
                }
                SipOutput::Trace(message) => self.traced.push(message),
                SipOutput::Timeout(_) => return,
            }
        }
    }

    pub fn call(&mut self, target: &str, credentials: Option<Credentials>) -> SipCallId {
        let invite = Invite {
            target: target.to_owned(),
            from_user: "caller".to_owned(),
            sdp: SDP.to_owned(),
            credentials,
            ring_ms_max: 25_000,
            ..Invite::default()
        };
        self.agent.invite(clock::now(), invite)
    }

    pub fn uri(&self, transport: Transport) -> String {
        let address = self.io.address(transport).unwrap();
        format!("sip:node@{address};transport={transport}")
    }

    pub fn has(&self, wanted: impl Fn(&SipEvent) -> bool) -> bool {
        self.heard.iter().any(wanted)
    }

    pub fn answered(&self) -> bool {
        self.has(|event| matches!(event, SipEvent::Answered { .. }))
    }

    pub fn ended(&self) -> bool {
        self.has(|event| matches!(event, SipEvent::Ended { .. }))
    }
}

/// Plays both until `done`.
pub async fn play(a: &mut Node, b: &mut Node, what: &str, done: impl Fn(&Node, &Node) -> bool) {
    let limit = clock::now().plus_millis(SOON.as_millis() as u64);
    while !done(a, b) {
        assert!(clock::now() < limit, "{what} did not come\na: {:#?}\nb: {:#?}", a.heard, b.heard);
        tokio::join!(a.turn(), b.turn());
    }
}

/// Plays one until `done`.
pub async fn play_one(a: &mut Node, what: &str, done: impl Fn(&Node) -> bool) {
    let limit = clock::now().plus_millis(SOON.as_millis() as u64);
    while !done(a) {
        assert!(clock::now() < limit, "{what} did not come: {:#?}", a.heard);
        a.turn().await;
    }
}

/// Files of an authority, and of a certificate that it signed for `names`.
pub struct Certificates {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Certificates {
    pub fn make(folder: &Path, prefix: &str, names: &[&str]) -> Certificates {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let path = |name: &str| folder.join(format!("{prefix}-{name}.pem"));
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::<String>::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let signed = authority.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(path("ca"), signed.pem()).unwrap();
        std::fs::write(path("cert"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        Certificates { authority: path("ca"), certificate: path("cert"), key: path("key") }
    }

    /// The authorities of several, in one file.
    pub fn bundle(folder: &Path, all: &[&Certificates]) -> PathBuf {
        let texts: String = all.iter().map(|one| std::fs::read_to_string(&one.authority).unwrap()).collect();
        let path = folder.join("bundle.pem");
        std::fs::write(&path, texts).unwrap();
        path
    }

    /// Shows the certificate, and trusts its authority.
    pub fn settings(&self) -> TlsSettings {
        TlsSettings {
            files: Some((self.certificate.clone(), self.key.clone())),
            trusted: Some(self.authority.clone()),
            ..TlsSettings::default()
        }
    }
}

/// A folder of this test's own.
pub fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tandem-sip-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
