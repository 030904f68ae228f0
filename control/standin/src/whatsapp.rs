//! WhatsApp as a whole: the account, Meta's Graph API, its webhook sender, and the calls that are going on.

use crate::call::{self, Call, Media};
use crate::callee::{self, Callee};
use crate::graph::{self, Event, Graph};
use crate::webhook::{self, Account, Form};
use anyhow::Context;
use base64::Engine as _;
use control::client::system_random;
use engine::dtls::Identity;
use engine::io::clock;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::net::TcpListener;

/// Calls at a time; a further one is refused. The page and the demonstration need one each.
pub const CALLS_MAX: usize = 64;
/// Meta gives a webhook about this long.
const WEBHOOK_LIMIT: Duration = Duration::from_secs(20);
/// The version in the Graph API's path; the stand-in serves any.
const GRAPH_VERSION: &str = "v24.0";

/// The account's access token.
pub const TOKEN: &str = "stand-in-token";

/// A running WhatsApp.
pub struct WhatsApp {
    account: Account,
    graph: OnceLock<graph::Shared>,
    graph_address: SocketAddr,
    http: reqwest::Client,
    tandem: OnceLock<String>,
    identity: Identity,
    calls: Mutex<BTreeMap<String, Arc<Call>>>,
    /// Calls that the business has placed.
    callees: Mutex<BTreeMap<String, Arc<Callee>>>,
}

impl WhatsApp {
    /// Starts the Graph API on `port` of the loopback address; 0 draws one.
    pub async fn start(account: Account, port: u16) -> anyhow::Result<Arc<WhatsApp>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.context("the Graph API's port")?;
        let whatsapp = Arc::new(WhatsApp {
            graph: OnceLock::new(),
            graph_address: listener.local_addr()?,
            http: reqwest::Client::builder().no_proxy().timeout(WEBHOOK_LIMIT).build()?,
            tandem: OnceLock::new(),
            identity: Identity::generate().map_err(|_| anyhow::anyhow!("no certificate for the media relay"))?,
            calls: Mutex::new(BTreeMap::new()),
            callees: Mutex::new(BTreeMap::new()),
            account,
        });
        let weak: Weak<WhatsApp> = Arc::downgrade(&whatsapp);
        let mut memory = Graph::new(TOKEN, &whatsapp.account.phone_number_id);
        memory.permit(&whatsapp.account.caller);
        let graph = graph::Shared::new(memory, move |call_id, event| {
            let Some(whatsapp) = weak.upgrade() else { return };
            match (event, whatsapp.callee(call_id), whatsapp.call(call_id)) {
                (Event::Connected(connected), ..) => {
                    let call_id = call_id.to_owned();
                    tokio::spawn(async move { whatsapp.ring(call_id, &connected).await });
                }
                (Event::Terminated, Some(callee), _) => callee.terminated(),
                (event, _, Some(call)) => call.graph(event),
                (_, _, None) => {}
            }
        });
        let router = graph::router(graph.clone()).merge(callee::router(Arc::downgrade(&whatsapp)));
        let _ = whatsapp.graph.set(graph);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(whatsapp)
    }

    /// Names the gateway that gets the webhooks, such as `http://127.0.0.1:3000`.
    pub fn set_tandem(&self, base: String) {
        let _ = self.tandem.set(base);
    }

    /// The account.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// `WABA_BASE` for the gateway.
    pub fn graph_base(&self) -> String {
        format!("http://{}/{GRAPH_VERSION}", self.graph_address)
    }

    /// Meta's memory.
    pub fn graph(&self) -> &graph::Shared {
        // Set in `start` before anyone else holds the object.
        self.graph.get().expect("the Graph API is started")
    }

    /// Certificate of the media relay.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A call that is going on.
    pub fn call(&self, call_id: &str) -> Option<Arc<Call>> {
        self.lock().get(call_id).cloned()
    }

    /// Places a call with media that is ready. `None`: too many are going on.
    pub fn place(self: &Arc<Self>, form: Form, media: Media) -> Option<Arc<Call>> {
        let mut calls = self.lock();
        if calls.len() >= CALLS_MAX {
            return None;
        }
        let call_id = call_id(&self.account);
        self.graph().lock().placed(&call_id, media.offer());
        let call = call::place(self, call_id.clone(), form, media);
        calls.insert(call_id, Arc::clone(&call));
        Some(call)
    }

    /// The business calls a user.
    async fn ring(self: &Arc<Self>, call_id: String, connected: &graph::Connected) {
        match callee::ring(self, call_id.clone(), connected, &relay_addresses().await).await {
            Some(callee) => drop(self.lock_callees().insert(call_id, callee)),
            None => tracing::warn!("the offer of a call to a user cannot be answered"),
        }
    }

    /// A call that the business has placed, while it goes on.
    pub fn callee(&self, call_id: &str) -> Option<Arc<Callee>> {
        self.lock_callees().get(call_id).cloned()
    }

    /// All of them.
    pub fn callees(&self) -> Vec<Arc<Callee>> {
        self.lock_callees().values().cloned().collect()
    }

    /// It is over.
    pub fn forget_callee(&self, call_id: &str) {
        self.lock_callees().remove(call_id);
    }

    fn lock_callees(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Callee>>> {
        self.callees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The call is over.
    pub fn forget(&self, call_id: &str) {
        self.lock().remove(call_id);
    }

    /// Sends a webhook; answers the gateway's status, `None` if it could not be reached.
    pub async fn send_webhook(&self, event: &str, body: Vec<u8>) -> Option<u16> {
        let base = self.tandem.get()?;
        let mut request =
            self.http.post(format!("{base}/wa/calling/{event}")).header("content-type", "application/json");
        if let Some(secret) = &self.account.app_secret {
            request = request.header("x-hub-signature-256", webhook::sign(secret, &body));
        }
        match request.body(body).send().await {
            Ok(response) => Some(response.status().as_u16()),
            Err(error) => {
                tracing::warn!(%error, "the {event} webhook found nobody");
                None
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Call>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "outbound_tests.rs"]
mod outbound_tests;

/// A fresh id in Meta's form, with every character that needs care in a URL.
fn call_id(account: &Account) -> String {
    let mut bytes = vec![0x1d; 4];
    bytes.extend_from_slice(account.caller.as_bytes());
    let start = bytes.len();
    bytes.resize(start + 24, 0);
    system_random().fill(&mut bytes[start..]);
    format!("wacid.{}", base64::engine::general_purpose::STANDARD.encode(bytes))
}

/// Addresses that the relay offers to a gateway on this machine: IPv4, and IPv6 where the host has it, as Meta's relay has both.
pub async fn relay_addresses() -> Vec<IpAddr> {
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok() {
        addresses.push(IpAddr::V6(Ipv6Addr::LOCALHOST));
    }
    addresses
}

/// Milliseconds since 1970.
pub fn wall_millis() -> u64 {
    /// Seconds from 1900 to 1970 (RFC 5905 §6).
    const NTP_UNIX_OFFSET: u64 = 2_208_988_800;
    let ntp = clock::wall_anchor().ntp(clock::now());
    let fraction_ms = ((ntp & 0xffff_ffff) * 1000) >> 32;
    (ntp >> 32).saturating_sub(NTP_UNIX_OFFSET) * 1000 + fraction_ms
}

/// Seconds since 1970.
pub fn wall_seconds() -> u64 {
    wall_millis() / 1000
}
