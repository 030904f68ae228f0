//! The engine as a library: bridges two plain RTP peers, transcoding between them.
//!
//! ```text
//! cargo run -p engine --example bridge -- 127.0.0.1:4000/pcmu 127.0.0.1:5000/opus
//! peer 127.0.0.1:4000 sends to 10360, peer 127.0.0.1:5000 sends to 10362
//! ```
//!
//! Each argument is where a peer listens, and its codec: `pcmu`, `pcma` or `opus`. Enter ends the bridge; what it did is printed.
//! A gateway does the same with descriptions (`engine::sdp`) in the place of arguments, and with `LegConfig::Webrtc` for ICE and DTLS.

use engine::bridge::{BridgeCommand, BridgeConfig, BridgeEvent, BridgeId, LegConfig, Shared};
use engine::config::{COMPLEXITY_DEFAULT, DSCP_DEFAULT, Driver, EngineConfig};
use engine::dtls::Identity;
use engine::io::clock;
use engine::leg::rtp::{RtpConfig, RtpRemote};
use engine::leg::{LocalLeg, MediaFormat};
use engine::sdp::{Codec, OpusParameters};
use engine::worker::{Command, Engine, Event};
use std::net::SocketAddr;
use std::sync::mpsc;

/// The one worker of this engine, and the one bridge of that worker.
const WORKER: usize = 0;
const BRIDGE: BridgeId = BridgeId(1);

/// `ADDRESS:PORT/CODEC`
fn peer(text: &str) -> Option<RtpRemote> {
    let (address, codec) = text.split_once('/')?;
    let address: SocketAddr = address.parse().ok()?;
    // Static payload types of RFC 3551 section 6; Opus has none, 111 is what browsers write.
    let (codec, payload_type) = match codec {
        "pcmu" => (Codec::Pcmu, 0),
        "pcma" => (Codec::Pcma, 8),
        "opus" => (Codec::Opus, 111),
        _ => return None,
    };
    let format = MediaFormat {
        codec,
        send_payload_type: payload_type,
        receive_payload_type: payload_type,
        opus: OpusParameters::default(),
        telephone_event: None,
    };
    let rtcp_address = SocketAddr::new(address.ip(), address.port() + 1);
    Some(RtpRemote { address, rtcp_address, rtcp_mux: false, format, sending: true, srtp: None })
}

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let peers: Option<Vec<RtpRemote>> = arguments.iter().map(|text| peer(text)).collect();
    let Some([a, b]) = peers.and_then(|peers| <[RtpRemote; 2]>::try_from(peers).ok()) else {
        return Err("write two peers, such as 127.0.0.1:4000/pcmu 127.0.0.1:5000/opus".to_owned());
    };

    let config = EngineConfig {
        workers: 1,
        pin: false,
        media_ports: 10_000..=10_999,
        bind: None,
        steering: true,
        dscp: DSCP_DEFAULT,
        driver: Driver::Auto,
        complexity: COMPLEXITY_DEFAULT,
    };
    let identity = Identity::generate().map_err(|_| "no key for the DTLS certificate")?;
    let shared = Shared { identity, anchor: clock::wall_anchor() };
    // Two things wake this thread: the engine, when it has posted events, and the terminal.
    let (wake, woken) = mpsc::channel();
    let terminal = wake.clone();
    let post = move || wake.send(false).unwrap_or_default();
    let engine = Engine::start(&config, shared, post).map_err(|error| format!("{error:?}"))?;
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_line(&mut String::new());
        let _ = terminal.send(true);
    });

    let leg = |remote: &RtpRemote| LegConfig::Rtp(RtpConfig { remote: Some(remote.clone()) });
    let config = BridgeConfig { a: leg(&a), b: leg(&b) };
    engine.command(WORKER, Command::Open { bridge: BRIDGE, config }).map_err(|_| "the worker takes no command")?;
    while let Ok(enter) = woken.recv() {
        if enter {
            let _ = engine.command(WORKER, Command::Bridge { bridge: BRIDGE, command: BridgeCommand::Close });
        }
        while let Some(event) = engine.poll_event(WORKER) {
            match event {
                Event::Opened { a: LocalLeg::Rtp { port, .. }, b: LocalLeg::Rtp { port: other, .. }, .. } => {
                    println!("peer {} sends to {port}, peer {} sends to {other}", a.address, b.address);
                }
                Event::Refused { reason, .. } => return Err(format!("no bridge: {reason:?}")),
                Event::Bridge { event: BridgeEvent::Leg { leg, event }, .. } => println!("{leg:?}: {event:?}"),
                Event::Bridge { event: BridgeEvent::Ended { end, stats }, .. } => {
                    println!("ended: {end:?}\nA: {:?}\nB: {:?}", stats.a, stats.b);
                    return Ok(());
                }
                _ => {}
            }
        }
    }
    Ok(())
}
