//! Plays the accounts a newcomer lacks around the real gateway: WhatsApp's side, a caller, a SIP voice bot.
//!
//! ```text
//! browser ─ page.rs ─ relay.rs ═ media ═ tandem (child) ═ RTP ═ bot.rs
//!                     call.rs  ─ webhooks ─> │  └──────── SIP ───────┘
//!                     graph.rs <─ Graph API ─┘
//! ```
//!
//! `demo` places one scripted call and judges it; `serve` only runs the stand-ins, for tests.
#![forbid(unsafe_code)]

mod bot;
mod busy;
mod call;
mod callee;
#[cfg(test)]
mod chaos;
mod demo;
mod graph;
mod hosts;
mod page;
mod relay;
mod settings;
mod tandem;
mod tls;
mod webhook;
mod whatsapp;
mod world;

use serde_json::json;
use settings::{HELP, Mode, Settings};
use std::cell::Cell;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use world::World;

fn main() -> ExitCode {
    let settings = match Settings::parse(std::env::args().skip(1)) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("tandem-standin: {error:#}");
            return ExitCode::from(2);
        }
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tandem-standin: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(settings));
    runtime.shutdown_background();
    outcome
}

async fn run(settings: Settings) -> ExitCode {
    if settings.mode == Mode::Help {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let mut world = tokio::select! {
        started = World::start(&settings) => match started {
            Ok(world) => world,
            Err(error) => {
                eprintln!("FAIL  start: {error:#}");
                return ExitCode::FAILURE;
            }
        },
        () = asked_to_end() => return ExitCode::FAILURE,
    };
    // Ended before its verdict, a demonstration has shown nothing.
    let judged = Cell::new(settings.mode != Mode::Demo);
    let outcome = tokio::select! {
        outcome = play(&mut world, &settings, &judged) => outcome,
        () = asked_to_end() => match judged.get() {
            true => ExitCode::SUCCESS,
            false => {
                eprintln!("FAIL  interrupted before the verdict");
                ExitCode::FAILURE
            }
        },
    };
    if let Some(tandem) = world.tandem.take()
        && !tandem.stop().await
    {
        eprintln!("tandem did not end when it was asked to, and was killed");
        return ExitCode::FAILURE;
    }
    outcome
}

async fn play(world: &mut World, settings: &Settings, judged: &Cell<bool>) -> ExitCode {
    if settings.mode == Mode::Demo {
        let verdict = tokio::select! {
            verdict = demo::run(world, settings) => verdict,
            status = tandem_ended(world) => Err(anyhow::anyhow!("tandem ended by itself during the call ({status})")),
        };
        if let Err(error) = verdict {
            println!("FAIL  {error:#}");
            if let Some(tandem) = &mut world.tandem {
                let running = if tandem.is_running() { "still runs" } else { "has ended" };
                println!("tandem {running}; the end of its log:\n{}", tandem.log_tail(40));
            }
            return ExitCode::FAILURE;
        }
        judged.set(true);
        if demo::once() {
            return ExitCode::SUCCESS;
        }
    }
    let urls = match world.serve_page(settings).await {
        Ok(urls) => urls,
        Err(error) => {
            eprintln!("FAIL  page: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    if settings.mode == Mode::Demo {
        println!("Call the bot yourself: {}", urls.plain);
        if let Some(url) = &urls.tls {
            println!("From another host:     {url} (self-signed)");
        }
        if let Some(tandem) = &world.tandem {
            println!(
                "Answer it yourself:    {}{} (password {})",
                tandem.edge,
                tandem::AGENT_PAGE,
                tandem::AGENT_PASSWORD
            );
        }
        println!("Ctrl-C ends everything.");
    } else {
        let ready = json!({
            "page": urls.plain,
            "page_tls": urls.tls,
            "tandem": world.client.base(),
            "edge": world.tandem.as_ref().map(|tandem| tandem.edge.clone()),
            "graph": world.whatsapp.graph_base(),
            "bot": world.bot.as_ref().map(|bot| format!("sip:bot@{}", bot.address())),
        });
        println!("{ready}");
    }
    match &mut world.tandem {
        Some(tandem) => {
            let status = tandem.ended().await;
            eprintln!("FAIL  tandem ended by itself ({status}); the end of its log:\n{}", tandem.log_tail(40));
            ExitCode::FAILURE
        }
        None => std::future::pending().await,
    }
}

/// The end of the child; never, where there is none.
async fn tandem_ended(world: &World) -> String {
    match &world.tandem {
        Some(tandem) => tandem.ended().await,
        None => std::future::pending().await,
    }
}

/// Ctrl-C, or SIGTERM.
async fn asked_to_end() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
