//! Everything that plays the outside world, started together: WhatsApp, the bot, the gateway as a child, the page.

use crate::bot::{self, BotConfig};
use crate::page::Page;
use crate::settings::Settings;
use crate::tandem::{Client, Tandem, TandemConfig};
use crate::tls::TlsListener;
use crate::webhook::Account;
use crate::whatsapp::WhatsApp;
use anyhow::Context;
use control::client::sip_answerer::{Calls as BotCalls, SipAnswerer};
use control::sip::Credentials;
use engine::io::clock;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// All that runs.
pub struct World {
    /// WhatsApp's side.
    pub whatsapp: Arc<WhatsApp>,
    /// The voice bot, unless a real one is called.
    pub bot: Option<SipAnswerer>,
    /// The gateway, unless it was started by someone else.
    pub tandem: Option<Tandem>,
    /// Its HTTP side.
    pub client: Client,
}

impl World {
    /// Starts all of it but the page.
    pub async fn start(settings: &Settings) -> anyhow::Result<World> {
        // The clock counts from its first reading: read it before anything else does.
        clock::now();
        let account = Account::example(settings.app_secret.clone());
        let whatsapp = WhatsApp::start(account, settings.graph_port).await?;
        let credentials = Credentials { username: settings.sip_user.clone(), password: settings.sip_pass.clone() };
        let bot = if settings.no_bot { None } else { Some(start_bot(settings, &credentials).await?) };
        let bot_target = bot.as_ref().map(|bot| format!("sip:bot@{}", bot.address()));
        let (tandem, client) = match &settings.tandem_url {
            Some(url) => {
                whatsapp.set_tandem(url.trim_end_matches('/').to_owned());
                (None, Client::new(url)?)
            }
            None => {
                let config = TandemConfig {
                    program: program(settings)?,
                    sip_target: settings
                        .sip_target
                        .clone()
                        .or(bot_target)
                        .context("--no-bot needs --sip-target: whom should tandem call?")?,
                    sip_proxy: settings.sip_proxy.clone(),
                    credentials,
                    port: settings.tandem_port,
                    media_ports: settings.media_ports.clone(),
                    environment: settings.environment.clone(),
                    verbose: settings.verbose,
                    agent: settings.agent,
                };
                let tandem = Tandem::start(&config, &whatsapp).await?;
                let client = tandem.client.clone();
                (Some(tandem), client)
            }
        };
        Ok(World { whatsapp, bot, tandem, client })
    }

    /// What the bot knows.
    pub fn bot_calls(&self) -> Option<watch::Receiver<BotCalls>> {
        self.bot.as_ref().map(SipAnswerer::calls)
    }

    /// Serves the page on localhost, and for other hosts over HTTPS.
    pub async fn serve_page(&self, settings: &Settings) -> anyhow::Result<PageUrls> {
        let page = Page::new(Arc::clone(&self.whatsapp), self.client.clone(), self.bot_calls(), settings.form());
        let router = page.router();
        let listener = listen(settings.page_port).await?;
        let port = listener.local_addr()?.port();
        let names = names();
        let tls = match TlsListener::bind(settings.tls_port, names.clone()).await {
            Ok(listener) => Ok(listener),
            Err(_) => TlsListener::bind(0, names.clone()).await,
        };
        let plain = router.clone();
        tokio::spawn(async move { axum::serve(listener, plain).await });
        let tls = match tls {
            Ok(listener) => {
                let host = names.iter().find(|name| !is_local(name)).cloned().unwrap_or_else(|| "127.0.0.1".to_owned());
                let url = format!("https://{}:{}/", bracketed(&host), listener.port());
                tokio::spawn(async move { axum::serve(listener, router).await });
                Some(url)
            }
            Err(error) => {
                tracing::warn!(%error, "the page is not served over HTTPS");
                None
            }
        };
        Ok(PageUrls { plain: format!("http://localhost:{port}/"), tls })
    }
}

/// Where the page is.
pub struct PageUrls {
    /// For this machine.
    pub plain: String,
    /// For others.
    pub tls: Option<String>,
}

async fn start_bot(settings: &Settings, credentials: &Credentials) -> anyhow::Result<SipAnswerer> {
    let bind = IpAddr::V4(Ipv4Addr::LOCALHOST);
    bot::start(BotConfig { bind, port: settings.bot_port, credentials: credentials.clone() }).await
}

/// The wanted port, or a free one if it is taken.
async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no port for the page"),
    }
}

/// `tandem` beside this program, unless another is named.
fn program(settings: &Settings) -> anyhow::Result<PathBuf> {
    if let Some(program) = &settings.tandem {
        return Ok(program.clone());
    }
    let beside = std::env::current_exe()?.with_file_name("tandem");
    anyhow::ensure!(beside.exists(), "{} is missing: build it, or name it with --tandem", beside.display());
    Ok(beside)
}

/// Names that the certificate stands for.
fn names() -> Vec<String> {
    let mut names: Vec<String> = crate::hosts::advertised(None).iter().map(IpAddr::to_string).collect();
    names.push("localhost".to_owned());
    names
}

fn is_local(name: &str) -> bool {
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}
