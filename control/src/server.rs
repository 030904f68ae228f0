//! From a configuration to running servers, and back to nothing on shutdown.

use crate::call::edge::Edge;
use crate::call::orchestrator::Orchestrator;
use crate::config::{Config, Mode, TlsFiles};
use crate::engine_link::EngineLink;
use crate::http::edge_client::{CallbackClient, EdgeClient};
use crate::http::listen::Patience;
use crate::http::{self, Access, HttpCounters, Sender, Shared, calls, edge_api, listen, originate, status, webhook};
use crate::runtime::{Input, LocalEdge, LocalOrchestrator, NTP_UNIX_OFFSET_S, Runtime};
use crate::sip::transport::{TRANSPORTS, Transport};
use crate::sip_io::resolver::Resolver;
use crate::sip_io::tls::TlsSettings;
use crate::sip_io::{SipIo, SipIoSettings};
use crate::store::{FileStore, Remembered, Store};
use crate::trace::board::Board;
use crate::trace::cdr;
use crate::trace::redact::Secret;
use crate::whatsapp::graph_client::{GraphClient, GraphClients, outdated_version};
use anyhow::{Context, Result, anyhow};
use axum::Router;
use engine::io::clock;
use engine::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// Time that calls have to say goodbye after the second signal.
const GOODBYE_TIME_MAX: Duration = Duration::from_secs(5);

/// Runs until a signal has ended it. The first SIGTERM or SIGINT drains, the second ends all calls.
pub fn run(config: Config, mode: Mode) -> Result<()> {
    config.check(mode)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .context("no threads for the control plane")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let running = start(config, mode).await?;
        let inputs = running.inputs.clone();
        let draining = running.draining.clone();
        let signals = async move {
            let mut second = false;
            loop {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
                draining.store(true, Ordering::Relaxed);
                let (input, what) = match second {
                    false => (Input::Drain, "draining: no new calls; a second signal ends the calls that are left"),
                    true => (Input::Stop, "ending all calls"),
                };
                tracing::info!("{what}");
                let _ = inputs.send(input).await;
                if second {
                    tokio::time::sleep(GOODBYE_TIME_MAX).await;
                    return;
                }
                second = true;
            }
        };
        tokio::select! {
            outcome = running.finished() => outcome,
            () = signals => {
                tracing::warn!("some goodbyes were not answered in time");
                Ok(())
            }
        }
    })
}

/// A started program.
pub struct Running {
    /// Where webhooks are served.
    pub webhooks: Option<SocketAddr>,
    /// Where the edge API is served.
    pub edge_api: Option<SocketAddr>,
    /// The SIP socket's address.
    pub sip: Option<SocketAddr>,
    /// The way to the runtime.
    pub inputs: mpsc::Sender<Input>,
    /// What `/health` says.
    pub draining: Arc<AtomicBool>,
    done: tokio::task::JoinHandle<Option<EngineLink>>,
    stop_servers: watch::Sender<bool>,
}

impl Running {
    /// Waits until the runtime has drained or stopped, then stops the servers and the engine.
    pub async fn finished(self) -> Result<()> {
        // A panic of the task that owns every call is the program's end.
        let outcome = self.done.await.context("the task that owns the calls has died");
        let _ = self.stop_servers.send(true);
        if let Some(engine) = outcome? {
            // Waits for the workers' threads.
            tokio::task::spawn_blocking(move || engine.stop()).await?;
        }
        Ok(())
    }
}

/// Starts everything that `mode` needs. Ports of 0 are chosen by the system.
pub async fn start(config: Config, mode: Mode) -> Result<Running> {
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    // `tandem` alone runs both planes, also when EDGE_API makes them speak over HTTP; `tandem orchestrator` runs without an edge.
    let wants_edge = mode != Mode::Orchestrator;
    let edge = if wants_edge { Some(start_edge(&config).await?) } else { None };
    let orchestrator = if mode.orchestrates() { Some(make_orchestrator(&config)?) } else { None };
    let sip = edge.as_ref().and_then(|edge| edge.sip.address(Transport::Udp));
    let bound = edge.as_ref().map(|edge| edge.sip.bound().to_vec()).unwrap_or_default();
    let driver = edge.as_ref().map(|edge| edge.engine.driver());
    let door = edge.as_ref().map(|edge| edge.sip.door());

    let callbacks = CallbackClient::new(config.edge.token.clone(), config.edge.trusted.as_deref())
        .map_err(|error| anyhow!(error))?;
    let (mut runtime, inputs) = Runtime::new(orchestrator, edge, callbacks);
    if let Some((store, remembered)) = open_store(&config, mode)? {
        runtime.restore(store, remembered);
    }
    let (board, collector) = board(&config, sip)?;
    runtime.show(board, collector);
    if let Some(path) = &config.trace.cdr {
        let writer = cdr::Writer::open(path);
        runtime
            .keep_records(writer.with_context(|| format!("{} cannot be written: correct CDR_FILE", path.display()))?);
    }
    let draining = Arc::new(AtomicBool::new(false));
    let shared = Shared {
        inputs: inputs.clone(),
        access: Arc::new(access(&config)),
        counters: Arc::new(HttpCounters::default()),
        draining: draining.clone(),
    };
    let (stop_servers, stopped) = watch::channel(false);
    let mut webhooks = None;
    if mode.orchestrates() {
        let address = SocketAddr::new(config.http.bind, config.http.port);
        let softphones = calls::softphones(door.clone(), config.http.tls.is_some());
        let routes = webhook::routes().merge(edge_api::callback_routes()).merge(softphones);
        webhooks = Some(serve(address, "PORT", routes, config.http.tls.as_ref(), &shared, stopped.clone()).await?);
        warn_about_webhooks(&config);
    }
    let mut edge_address = None;
    if wants_edge {
        let routes =
            edge_api::routes().merge(originate::routes()).merge(calls::softphones(door, config.edge.tls.is_some()));
        edge_address =
            Some(serve(config.edge.bind, "EDGE_BIND", routes, config.edge.tls.as_ref(), &shared, stopped).await?);
    }
    announce(&config, webhooks, edge_address, &bound, driver);
    let done = tokio::spawn(runtime.run());
    Ok(Running { webhooks, edge_api: edge_address, sip, inputs, draining, done, stop_servers })
}

/// Where SIP messages are kept, and the socket for their copies.
fn board(config: &Config, sip: Option<SocketAddr>) -> Result<(Board, Option<std::net::UdpSocket>)> {
    let local = sip.unwrap_or(SocketAddr::from(([127, 0, 0, 1], config.sip.bind.port())));
    let board = Board::new(config.trace.clone(), local);
    let Some(collector) = board.collector() else { return Ok((board, None)) };
    let any: SocketAddr = if collector.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 16], 0).into() };
    #[allow(clippy::disallowed_methods, reason = "this is the control plane's edge, where its sockets are made")]
    let socket = std::net::UdpSocket::bind(any).context("no socket for the trace's collector")?;
    socket.set_nonblocking(true)?;
    socket.connect(collector).with_context(|| format!("{collector} cannot be reached: correct TRACE_HEP"))?;
    Ok((board, Some(socket)))
}

async fn serve(
    address: SocketAddr,
    variable: &str,
    routes: Router<Shared>,
    tls: Option<&TlsFiles>,
    shared: &Shared,
    stopped: watch::Receiver<bool>,
) -> Result<SocketAddr> {
    let tls = tls.map(|files| listen::tls(&files.certificate, &files.private_key));
    let tls = tls.transpose().map_err(|error| anyhow!("no TLS: {error}"))?;
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("{address} cannot be bound: choose another with {variable}"))?;
    let local = listener.local_addr()?;
    let router = http::complete(routes.merge(status::routes()).merge(calls::routes())).with_state(shared.clone());
    tokio::spawn(listen::serve(
        listener,
        tls,
        router,
        shared.counters.connections.clone(),
        Patience::default(),
        stopped,
    ));
    Ok(local)
}

fn make_orchestrator(config: &Config) -> Result<LocalOrchestrator> {
    let settings = &config.whatsapp;
    let client = |base: &str, token: &Secret, provider| {
        if let Some(version) = outdated_version(base) {
            tracing::warn!("version v{version}.0 of the Graph API is no longer served: change WABA_BASE");
        }
        GraphClient::new(base, token, provider).map_err(|error| anyhow!(error))
    };
    let has_default = !settings.token.0.is_empty();
    let default = has_default.then(|| client(&settings.base, &settings.token, settings.provider)).transpose()?;
    let mut by_number = BTreeMap::new();
    for account in &config.accounts {
        let base = account.base.as_deref().unwrap_or(&settings.base);
        let token = account.token.as_ref().unwrap_or(&settings.token);
        let made = client(base, token, account.provider.unwrap_or(settings.provider));
        by_number.insert(account.phone_number_id.clone(), made.with_context(|| format!("accounts.{}", account.name))?);
    }
    let graph = GraphClients { default, by_number: Arc::new(by_number) };
    let remote = match &config.edge.api {
        Some(base) => Some(
            EdgeClient::new(base, config.edge.token.clone(), config.edge.trusted.as_deref())
                .map_err(|error| anyhow!(error))?,
        ),
        None => None,
    };
    Ok(LocalOrchestrator { orchestrator: Orchestrator::new(config.orchestrator(), random()?), graph, remote })
}

/// The file that remembers calls over a restart, and what it remembers.
fn open_store(config: &Config, mode: Mode) -> Result<Option<(Box<dyn Store>, Remembered)>> {
    let Some(path) = config.store(mode) else {
        tracing::warn!("calls in progress do not survive a restart: name a file with STORE");
        return Ok(None);
    };
    let (store, remembered) = FileStore::open(&path, wall_millis).map_err(|error| anyhow!(error))?;
    let calls = if mode.orchestrates() { remembered.calls.len() } else { remembered.dialogs.len() };
    tracing::info!("calls in progress are kept in {}: {calls} of the last run", path.display());
    Ok(Some((Box::new(store), remembered)))
}

async fn start_edge(config: &Config) -> Result<LocalEdge> {
    let bind = config.sip.bind;
    let sip = SipIo::bind(&sip_settings(config)).await.context("SIP cannot be served")?;
    let sip_port = sip.address(Transport::Udp).map_or(0, |address| address.port());

    // Toward the SIP side: the address that this host would send from, unless one is configured.
    let next_hop = config.sip.proxy.as_ref().or(config.sip.target.as_ref());
    let toward_sip = source_toward(next_hop.and_then(|uri| host_of(uri)).unwrap_or(DOCUMENTATION_V4)).await;
    let public_v4 = config.media.public_ip.iter().copied().chain(config.media.bind).find(IpAddr::is_ipv4);
    let sip_ip = match bind.ip() {
        ip if !ip.is_unspecified() && public_v4.is_none() => ip,
        _ => public_v4.or(toward_sip).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    };
    let webrtc = match (config.media.public_ip.is_empty(), config.media.bind) {
        (false, _) => config.media.public_ip.clone(),
        (true, Some(bound)) => vec![bound],
        (true, None) => own_addresses().await,
    };
    let engine = EngineLink::start(&config.engine())?;
    let mut edge = config.edge(SocketAddr::new(sip_ip, sip_port), webrtc, sip_ip);
    edge.sip.reach = reach(&sip, sip_ip);
    edge.sip.tls_name = config.sip.certificate.as_ref().and(config.sip.domain.clone());
    let mut edge = Edge::new(edge, engine.workers(), random()?);
    edge.register_trunks(clock::now());
    Ok(LocalEdge { edge, sip, resolver: Resolver::new(), engine })
}

fn sip_settings(config: &Config) -> SipIoSettings {
    let sip = &config.sip;
    SipIoSettings {
        udp: Some(sip.bind),
        tcp: sip.tcp.then_some(sip.bind),
        tls: sip.tls_bind,
        ws: None,
        wss: sip.wss_bind,
        certificates: TlsSettings {
            files: sip.certificate.clone().zip(sip.private_key.clone()),
            names: sip.domain.iter().cloned().chain(config.media.public_ip.iter().map(IpAddr::to_string)).collect(),
            trusted: sip.trusted.clone(),
            ..TlsSettings::default()
        },
        servers: config.routes.servers(),
        ..SipIoSettings::default()
    }
}

/// What peers reach us at over each transport. Connecting out by TCP and TLS needs no listener; where there is none, peers answer on
/// the connection that is there, and the usual port stands in our Via.
fn reach(sip: &SipIo, ip: IpAddr) -> Vec<(Transport, SocketAddr)> {
    let out = |transport: Transport| matches!(transport, Transport::Tcp | Transport::Tls | Transport::Wss);
    let port = |transport: Transport| match sip.address(transport) {
        Some(address) => Some(address.port()),
        None => out(transport).then_some(transport.port()),
    };
    TRANSPORTS.into_iter().filter_map(|transport| Some((transport, SocketAddr::new(ip, port(transport)?)))).collect()
}

/// Unix time in milliseconds.
pub(crate) fn wall_millis() -> u64 {
    let ntp = u128::from(clock::wall_anchor().ntp(clock::now()));
    let since_1900_ms = u64::try_from((ntp * 1_000) >> 32).unwrap_or(u64::MAX);
    since_1900_ms.saturating_sub(NTP_UNIX_OFFSET_S * 1_000)
}

const DOCUMENTATION_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// The addresses that this host would send from, toward anywhere; loopback where there is no network.
pub(crate) async fn own_addresses() -> Vec<IpAddr> {
    let v6: IpAddr = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
    let mut addresses = Vec::new();
    for toward in [DOCUMENTATION_V4, v6] {
        addresses.extend(source_toward(toward).await);
    }
    if addresses.is_empty() {
        addresses.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    addresses
}

/// The address that the kernel would send from toward `address`. Connecting a UDP socket sends nothing.
pub(crate) async fn source_toward(address: IpAddr) -> Option<IpAddr> {
    let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any).await.ok()?;
    socket.connect((address, 9)).await.ok()?;
    socket.local_addr().ok().map(|local| local.ip()).filter(|ip| !ip.is_unspecified())
}

/// The host of a SIP URI, if it is an address.
fn host_of(uri: &str) -> Option<IpAddr> {
    let rest = uri.split_once(':')?.1;
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let host = match rest.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next()?,
        None => rest.split([':', ';', '?']).next()?,
    };
    host.parse().ok()
}

fn access(config: &Config) -> Access {
    Access {
        edge_token: config.edge.token.clone(),
        app_secret: config.whatsapp.app_secret.clone(),
        shared_header: config.whatsapp.shared_header.clone(),
        verify_tokens: verify_tokens(config),
        senders: senders(config),
        webhooks_open: config.whatsapp.webhooks_open,
        flat_waits: config.whatsapp.flat_waits,
    }
}

fn verify_tokens(config: &Config) -> Vec<Secret> {
    let accounts = config.accounts.iter().filter_map(|account| account.verify_token.clone());
    std::iter::once(config.whatsapp.verify_token.clone()).chain(accounts).collect()
}

/// Accounts that share a secret are one sender.
fn senders(config: &Config) -> Vec<Sender> {
    let mut senders: BTreeMap<(&str, &str), Sender> = BTreeMap::new();
    for account in &config.accounts {
        let Some(secret) = account.webhook_secret() else { continue };
        let sender = senders.entry(secret).or_insert_with(|| Sender {
            app_secret: Secret(secret.0.to_owned()),
            shared_header: Secret(secret.1.to_owned()),
            numbers: BTreeSet::new(),
        });
        sender.numbers.insert(account.phone_number_id.clone());
    }
    senders.into_values().collect()
}

fn warn_about_webhooks(config: &Config) {
    let settings = &config.whatsapp;
    let own = !config.accounts.is_empty() && config.accounts.iter().all(|account| account.webhook_secret().is_some());
    if own || !settings.app_secret.0.is_empty() || !settings.shared_header.0.is_empty() {
        return;
    }
    match settings.webhooks_open {
        true => tracing::warn!(
            "webhooks are open: anybody who reaches this port can place calls; set META_APP_SECRET and WEBHOOK_AUTH=required"
        ),
        false => tracing::info!("webhooks are taken from this host only, until META_APP_SECRET is set"),
    }
}

fn announce(
    config: &Config,
    webhooks: Option<SocketAddr>,
    edge: Option<SocketAddr>,
    sip: &[(Transport, SocketAddr)],
    driver: Option<&str>,
) {
    let mut parts = Vec::new();
    parts.extend(webhooks.map(|address| format!("webhooks http://{address}/wa/webhook")));
    parts.extend(edge.map(|address| format!("edge API http://{address}/webrtc/new")));
    parts.extend(sip.iter().map(|(transport, address)| format!("SIP {transport} {address}")));
    let ports = &config.media.ports;
    parts.extend(driver.map(|driver| format!("media udp {}-{} by {driver}", ports.start(), ports.end())));
    tracing::info!("serving {}", parts.join(", "));
}

/// A stream of random numbers that nobody can guess.
fn random() -> Result<Random> {
    let mut seed = [0; 32];
    aws_lc_rs::rand::fill(&mut seed).map_err(|_| anyhow!("the system gives no random numbers"))?;
    Ok(Random::from_seed(seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_sip_uri_is_found_where_it_is_an_address() {
        for (uri, host) in [
            ("sip:bot@127.0.0.1:5080;transport=udp", Some("127.0.0.1")),
            ("sip:[2001:db8::1]:5060", Some("2001:db8::1")),
            ("sip:us1.sip.twilio.com", None),
            ("nonsense", None),
        ] {
            assert_eq!(host_of(uri), host.map(|host| host.parse().unwrap()), "{uri}");
        }
    }
}
