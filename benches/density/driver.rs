//! The engine alone behind a door of its own: what control does not offer yet (relays, two WebRTC legs), and set-up without SIP.
//!
//! `density gateway` runs the real workers on the measured core and opens bridges by `POST /bridge`. Negotiation is the least that the
//! generator's own offers need; everything from the first check to the last packet is the engine's.

use super::dial::{Dial, Dialed, Http, Order};
use anyhow::{Context, Result, anyhow};
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use control::client::webrtc_offerer::remote_of;
use engine::bridge::{BridgeCommand, BridgeConfig, BridgeId, LegConfig, Shared};
use engine::config::{COMPLEXITY_DEFAULT, Driver, EngineConfig};
use engine::dtls::{DtlsRole, DtlsVersions, Identity};
use engine::ice::IceRole;
use engine::io::clock;
use engine::leg::rtp::{RtpConfig, RtpRemote};
use engine::leg::webrtc::WebrtcConfig;
use engine::leg::{LocalLeg, MediaFormat};
use engine::sdp::{self, Codec, CodecFormat, Description, OpusParameters, Setup, WebrtcLocal};
use engine::worker::{Command, Engine, Event};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What the requests share.
struct Door {
    engine: Engine,
    workers: u64,
    next: AtomicU64,
    waiting: Mutex<BTreeMap<BridgeId, oneshot::Sender<Option<[LocalLeg; 2]>>>>,
}

/// Serves on `port` until it is killed.
pub fn run(port: u16, workers: usize) -> Result<()> {
    let identity = Identity::generate().map_err(|_| anyhow!("the system gives no key"))?;
    let config = EngineConfig {
        workers,
        pin: true,
        media_ports: 10_000..=31_999,
        bind: Some(Ipv4Addr::LOCALHOST.into()),
        dscp: 0,
        steering: std::env::var("MEDIA_STEERING").map_or(true, |text| text != "false"),
        driver: Driver::Auto,
        complexity: COMPLEXITY_DEFAULT,
    };
    let wake = Arc::new(Notify::new());
    let waker = Arc::clone(&wake);
    let shared = Shared { identity, anchor: clock::wall_anchor() };
    let engine = Engine::start(&config, shared, move || waker.notify_one()).map_err(|e| anyhow!("{e:?}"))?;
    let workers = engine.workers() as u64;
    let door = Arc::new(Door { engine, workers, next: AtomicU64::new(1), waiting: Mutex::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let events = Arc::clone(&door);
        tokio::spawn(async move {
            loop {
                wake.notified().await;
                events.take_events();
            }
        });
        let routes = Router::new()
            .route("/bridge", post(bridge))
            .route("/close", post(close))
            .route("/metrics", get(metrics))
            .route("/health", get(|| async { "ok" }))
            .with_state(door);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        axum::serve(listener, routes).await.context("the door")
    })
}

impl Door {
    fn take_events(&self) {
        for worker in 0..self.workers as usize {
            while let Some(event) = self.engine.poll_event(worker) {
                let (bridge, opened) = match event {
                    Event::Opened { bridge, a, b } => (bridge, Some([a, b])),
                    Event::Refused { bridge, .. } => (bridge, None),
                    Event::Bridge { .. } => continue,
                };
                if let Some(reply) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&bridge) {
                    let _ = reply.send(opened);
                }
            }
        }
    }

    async fn open(&self, config: BridgeConfig) -> Option<(u64, [LocalLeg; 2])> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, opened) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(BridgeId(number), reply);
        let command = Command::Open { bridge: BridgeId(number), config };
        self.engine.command((number % self.workers) as usize, command).ok()?;
        opened.await.ok()?.map(|legs| (number, legs))
    }
}

async fn bridge(State(door): State<Arc<Door>>, Json(order): Json<Value>) -> Json<Value> {
    let offer = |side: usize| order["offers"][side].as_str().filter(|text| !text.is_empty());
    let offers = [offer(0), offer(1)].map(|text| text.and_then(|text| sdp::parse(text).ok()));
    let at = order["at"][1].as_str().and_then(|text| text.parse().ok());
    let at = at.unwrap_or(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
    let rtcp = order["rtcp_port"].as_u64().unwrap_or(0);
    let payload_type = order["payload_type"].as_u64().unwrap_or(0) as u8;
    let leg = |offer: &Option<Description>| match offer {
        Some(offer) => webrtc(offer),
        None => Some(LegConfig::Rtp(rtp(at, rtcp as u16, payload_type))),
    };
    let (Some(a), Some(b)) = (leg(&offers[0]), leg(&offers[1])) else { return Json(json!({"status": 422})) };
    let Some((number, locals)) = door.open(BridgeConfig { a, b }).await else { return Json(json!({"status": 503})) };
    let answers = [0, 1].map(|side| offers[side].as_ref().and_then(|offer| answer(offer, &locals[side])));
    let ports = locals.map(|local| match local {
        LocalLeg::Rtp { port, .. } | LocalLeg::Webrtc { port, .. } => port,
    });
    Json(json!({"status": 200, "bridge": number, "answers": answers, "ports": ports}))
}

async fn close(State(door): State<Arc<Door>>, Json(order): Json<Value>) -> Json<Value> {
    let number = order["bridge"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    let command = Command::Bridge { bridge: BridgeId(number), command: BridgeCommand::Close };
    let done = door.engine.command((number % door.workers) as usize, command).is_ok();
    Json(json!({ "closed": done }))
}

async fn metrics(State(door): State<Arc<Door>>) -> String {
    let workers: Vec<_> = (0..door.workers as usize).map(|worker| door.engine.metrics(worker)).collect();
    let sum = |of: fn(&engine::metrics::Metrics) -> u64| workers.iter().map(of).sum::<u64>();
    let (turns, concealed, open) = (sum(|m| m.turns), sum(|m| m.packets_concealed), sum(|m| m.bridges_open));
    let delayed = sum(|m| m.handshakes_delayed);
    format!(
        "engine_turns_total {turns}\nengine_packets_concealed_total {concealed}\nengine_bridges_open {open}\n\
         engine_handshakes_delayed_total {delayed}\n"
    )
}

/// Full and DTLS client toward an ICE-lite offer, lite and server toward a full one.
fn webrtc(offer: &Description) -> Option<LegConfig> {
    let lite = offer.ice.as_ref()?.lite;
    let (ice, dtls, versions) = match lite {
        true => (IceRole::Controlling, DtlsRole::Client, DtlsVersions::V12),
        false => (IceRole::Lite, DtlsRole::Server, DtlsVersions::Auto),
    };
    let opus = offer.codecs.iter().find(|codec| codec.codec == Codec::Opus)?;
    let event = offer.telephone_events.first().map_or(0, |event| event.payload_type);
    let remote = Some(remote_of(offer, dtls, opus.payload_type, event).ok()?);
    Some(LegConfig::Webrtc(Box::new(WebrtcConfig { ice, versions, credentials: None, hold: false, remote })))
}

fn rtp(at: SocketAddrV4, rtcp_port: u16, payload_type: u8) -> RtpConfig {
    let codec = if payload_type == 0 { Codec::Pcmu } else { Codec::Opus };
    RtpConfig {
        remote: Some(RtpRemote {
            address: at.into(),
            rtcp_address: SocketAddr::new(IpAddr::V4(*at.ip()), rtcp_port),
            rtcp_mux: false,
            format: MediaFormat {
                codec,
                send_payload_type: payload_type,
                receive_payload_type: payload_type,
                opus: OpusParameters::default(),
                telephone_event: None,
            },
            sending: true,
            srtp: None,
        }),
    }
}

fn answer(offer: &Description, local: &LocalLeg) -> Option<String> {
    let LocalLeg::Webrtc { ufrag, pwd, fingerprint, ssrc, port } = local else { return None };
    let lite = offer.ice.as_ref()?.lite;
    let opus = offer.codecs.iter().find(|codec| codec.codec == Codec::Opus)?;
    let local = WebrtcLocal {
        addresses: vec![LOCALHOST],
        port: *port,
        ufrag: ufrag.clone(),
        pwd: pwd.clone(),
        lite: !lite,
        fingerprint: *fingerprint,
        setup: if lite { Setup::Active } else { Setup::Passive },
        ssrc: *ssrc,
        codec: CodecFormat { codec: Codec::Opus, payload_type: opus.payload_type, opus: OpusParameters::default() },
        telephone_event: None,
        session_id: u64::from(*ssrc),
        session_version: 1,
        direction: sdp::Direction::SendRecv,
    };
    Some(sdp::write_webrtc_answer(offer, &local))
}

/// The generator's side of the door.
pub struct DriverDial(pub Http);

impl Dial for DriverDial {
    fn dial(&mut self, order: &Order) -> Result<Dialed> {
        let body = json!({
            "offers": order.offers, "at": order.at, "rtcp_port": order.rtcp_port, "payload_type": order.payload_type,
        });
        let (_, body) = self.0.ask("POST", "/bridge", &body.to_string())?;
        let body: Value = serde_json::from_str(&body)?;
        let text = |side: usize| body["answers"][side].as_str().unwrap_or_default().to_owned();
        let port = |side: usize| {
            let port = body["ports"][side].as_u64().filter(|_| order.offers[side].is_empty())?;
            Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port as u16))
        };
        Ok(Dialed {
            call: order.call,
            status: body["status"].as_u64().unwrap_or(0) as u16,
            answers: [text(0), text(1)],
            to: [port(0), port(1)],
            token: body["bridge"].to_string(),
            ..Dialed::default()
        })
    }

    fn hang_up(&mut self, token: &str) -> Result<()> {
        self.0.ask("POST", "/close", &json!({ "bridge": token }).to_string()).map(drop)
    }
}
