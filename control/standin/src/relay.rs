//! WhatsApp's media relay for a call from the page: it ends the browser's WebRTC itself and offers the gateway a leg of its own.
//!
//! ```text
//! browser ── full ICE, DTLS client ──> leg A │ bridge, Opus relayed bit for bit │ leg B <── full ICE, DTLS client ── tandem
//!                                   lite, passive                        lite, offers, DTLS server
//! ```
//!
//! The browser's description never reaches the gateway: what the gateway sees is the text that Meta's relay writes.
//!
//! Why the bare bridge and not a whole engine with its workers: here every datagram passes through this task, so that what the gateway
//! sent, and when, is counted from the wire; and a stand-in has a handful of calls, not thousands.

use control::client::observed::Observed;
use control::client::socket::{MediaSocket, local_with_port};
use control::client::system_random;
use control::client::webrtc_offerer::{
    AnswerError, EVENT_PAYLOAD_TYPE, OPUS_PAYLOAD_TYPE, offer_of, offerer_config, read_answer, remote_of,
};
use engine::bridge::{
    Bridge, BridgeCommand, BridgeConfig, BridgeEvent, LegConfig, LegName, LegRemote, Output, Port, Shared,
};
use engine::demux::{Class, classify};
use engine::dtls::{DtlsRole, DtlsVersions, Identity};
use engine::ice::IceRole;
use engine::io::clock;
use engine::leg::webrtc::WebrtcConfig;
use engine::leg::{Component, LegEvent, LocalLeg};
use engine::limits::DATAGRAM_BYTES_MAX;
use engine::metrics::Metrics;
use engine::sdp::{self, Codec, CodecFormat, Description, OpusParameters, Setup, TelephoneEventFormat, WebrtcLocal};
use engine::time::Instant;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Orders waiting for a relay's task.
const ORDERS_MAX: usize = 16;
/// Longest sleep of the loop.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Why a browser's offer cannot be served.
#[derive(Debug)]
pub enum RelayError {
    /// Its description.
    Offer(String),
    /// The system gave no socket.
    Socket(std::io::Error),
}

impl std::fmt::Display for RelayError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RelayError::Offer(why) => write!(f, "the browser's offer cannot be used: {why}"),
            RelayError::Socket(error) => write!(f, "no socket: {error}"),
        }
    }
}

impl std::error::Error for RelayError {}

/// A running relay. Dropping it ends both legs.
pub struct PageRelay {
    /// For the browser.
    pub browser_answer: String,
    /// For the connect webhook.
    pub offer: String,
    browser: watch::Receiver<Observed>,
    gateway: watch::Receiver<Observed>,
    orders: mpsc::Sender<BridgeCommand>,
}

/// Where a relay listens.
pub struct Addresses<'a> {
    /// Told to the browser.
    pub browser: &'a [IpAddr],
    /// Told to the gateway.
    pub gateway: &'a [IpAddr],
    /// Session id of the offer.
    pub session_id: u64,
}

impl PageRelay {
    /// Answers the browser's offer and makes the offer for the gateway.
    pub async fn start(offer: &str, addresses: &Addresses<'_>, identity: &Identity) -> Result<PageRelay, RelayError> {
        let parsed = sdp::parse(offer).map_err(|error| RelayError::Offer(format!("{error:?}")))?;
        let config = BridgeConfig {
            a: LegConfig::Webrtc(Box::new(browser_config(&parsed)?)),
            b: LegConfig::Webrtc(Box::new(offerer_config(true))),
        };
        let browser_socket = MediaSocket::bind(0).await.map_err(RelayError::Socket)?;
        let gateway_socket = MediaSocket::bind(0).await.map_err(RelayError::Socket)?;
        let shared = Shared { identity: identity.clone(), anchor: clock::wall_anchor() };
        let bridge = Bridge::open(clock::now(), config, &shared, system_random());
        let browser_leg = local_with_port(bridge.local(LegName::A), browser_socket.port());
        let gateway_leg = local_with_port(bridge.local(LegName::B), gateway_socket.port());
        let browser_answer = answer_browser(&parsed, &browser_leg, addresses);
        let offer = offer_of(&gateway_leg, addresses.gateway, addresses.session_id);
        let (orders, incoming) = mpsc::channel(ORDERS_MAX);
        let (browser_seen, browser) = watch::channel(Observed::default());
        let (gateway_seen, gateway) = watch::channel(Observed::default());
        let task = Task {
            bridge,
            sockets: [browser_socket, gateway_socket],
            seen: [browser_seen, gateway_seen],
            metrics: Metrics::default(),
            out: vec![0; DATAGRAM_BYTES_MAX],
        };
        tokio::spawn(task.run(incoming));
        Ok(PageRelay { browser_answer, offer, browser, gateway, orders })
    }

    /// Takes the gateway's answer.
    pub fn answer(&self, text: &str) -> Result<(), AnswerError> {
        let remote = read_answer(text, OPUS_PAYLOAD_TYPE, EVENT_PAYLOAD_TYPE)?;
        self.order(BridgeCommand::SetRemote { leg: LegName::B, remote: Box::new(LegRemote::Webrtc(remote)) });
        Ok(())
    }

    /// The call was accepted: the caller's voice may flow.
    pub fn release(&self) {
        self.order(BridgeCommand::Release { leg: LegName::B });
    }

    /// Ends both legs.
    pub fn close(&self) {
        self.order(BridgeCommand::Close);
    }

    /// What came from the gateway.
    pub fn gateway(&self) -> watch::Receiver<Observed> {
        self.gateway.clone()
    }

    /// What came from the browser.
    pub fn browser(&self) -> watch::Receiver<Observed> {
        self.browser.clone()
    }

    fn order(&self, order: BridgeCommand) {
        let _ = self.orders.try_send(order);
    }
}

/// The leg toward the browser: lite and passive, so that it behaves as the gateway will toward browsers.
fn browser_config(offer: &Description) -> Result<WebrtcConfig, RelayError> {
    let dtls = if offer.setup == Some(Setup::Passive) { DtlsRole::Client } else { DtlsRole::Server };
    let number = |codec: Option<u8>| codec.unwrap_or(OPUS_PAYLOAD_TYPE);
    let opus = number(offer.codecs.iter().find(|codec| codec.codec == Codec::Opus).map(|codec| codec.payload_type));
    let event = browser_event(offer).map_or(EVENT_PAYLOAD_TYPE, |event| event.payload_type);
    let remote = remote_of(offer, dtls, opus, event).map_err(|error| RelayError::Offer(error.to_string()))?;
    Ok(WebrtcConfig {
        ice: IceRole::Lite,
        versions: DtlsVersions::Auto,
        credentials: None,
        hold: false,
        remote: Some(remote),
    })
}

fn browser_event(offer: &Description) -> Option<TelephoneEventFormat> {
    offer.telephone_events.iter().copied().find(|event| event.clock_rate_hz == 8_000)
}

/// The browser is asked for what a WhatsApp phone sends: wideband at 20 kbit/s.
fn answer_browser(offer: &Description, leg: &LocalLeg, addresses: &Addresses<'_>) -> String {
    let LocalLeg::Webrtc { ufrag, pwd, fingerprint, ssrc, port } = leg else { return String::new() };
    let opus = offer.codecs.iter().find(|codec| codec.codec == Codec::Opus);
    sdp::write_webrtc_answer(
        offer,
        &WebrtcLocal {
            addresses: addresses.browser.to_vec(),
            port: *port,
            ufrag: ufrag.clone(),
            pwd: pwd.clone(),
            lite: true,
            fingerprint: *fingerprint,
            setup: if offer.setup == Some(Setup::Passive) { Setup::Active } else { Setup::Passive },
            ssrc: *ssrc,
            codec: CodecFormat {
                codec: Codec::Opus,
                payload_type: opus.map_or(OPUS_PAYLOAD_TYPE, |opus| opus.payload_type),
                opus: OpusParameters {
                    max_average_bitrate: Some(20_000),
                    max_playback_rate_hz: Some(16_000),
                    max_capture_rate_hz: Some(16_000),
                    min_ptime_ms: Some(20),
                    use_inband_fec: true,
                    ..OpusParameters::default()
                },
            },
            telephone_event: browser_event(offer),
            direction: engine::sdp::Direction::SendRecv,
            session_id: addresses.session_id,
            session_version: 1,
        },
    )
}

const fn index(leg: LegName) -> usize {
    match leg {
        LegName::A => 0,
        // The relay has two legs and asks for no spare ones.
        _ => 1,
    }
}

struct Task {
    bridge: Bridge,
    /// Of leg A and leg B.
    sockets: [MediaSocket; 2],
    seen: [watch::Sender<Observed>; 2],
    metrics: Metrics,
    out: Vec<u8>,
}

impl Task {
    async fn run(mut self, mut orders: mpsc::Receiver<BridgeCommand>) {
        let (mut from_browser, mut from_gateway) = (vec![0; DATAGRAM_BYTES_MAX], vec![0; DATAGRAM_BYTES_MAX]);
        loop {
            let Some(deadline) = self.drain().await else { return };
            let wake = deadline.since(clock::now()).min(SLEEP_MAX);
            tokio::select! {
                received = self.sockets[0].receive(&mut from_browser) => if let Ok((len, from)) = received {
                    self.datagram(LegName::A, from, &mut from_browser[..len]);
                },
                received = self.sockets[1].receive(&mut from_gateway) => if let Ok((len, from)) = received {
                    self.datagram(LegName::B, from, &mut from_gateway[..len]);
                },
                () = tokio::time::sleep(wake) => {
                    let now = clock::now();
                    if now >= deadline {
                        self.bridge.handle_timeout(now);
                    }
                }
                // The owner went away: an end like any other.
                order = orders.recv() => {
                    self.bridge.handle_command(clock::now(), order.unwrap_or(BridgeCommand::Close));
                }
            }
        }
    }

    fn datagram(&mut self, leg: LegName, from: SocketAddr, datagram: &mut [u8]) {
        let now = clock::now();
        self.seen[index(leg)].send_modify(|seen| {
            seen.wire.incoming(now, datagram);
            if classify(datagram) == Class::Rtp {
                seen.packets_received += 1;
            }
        });
        let port = Port { leg, component: Component::Rtp };
        self.bridge.handle_datagram(now, port, from, datagram, &mut self.metrics);
    }

    /// Sends what the bridge wants sent. `None`: it has ended.
    async fn drain(&mut self) -> Option<Instant> {
        loop {
            let now = clock::now();
            match self.bridge.poll_output(now, &mut self.out, &mut self.metrics) {
                Output::Transmit { port, to, len } => {
                    let side = index(port.leg);
                    self.sockets[side].send(&self.out[..len], to).await;
                    if classify(&self.out[..len]) == Class::Rtp {
                        self.seen[side].send_modify(|seen| {
                            seen.first_sent.get_or_insert(now);
                            seen.packets_sent += 1;
                        });
                    }
                }
                Output::Event(event) => {
                    if self.event(now, event) {
                        return None;
                    }
                }
                Output::Timeout(deadline) => return Some(deadline),
            }
        }
    }

    /// Publishes one event; answers whether it was the last.
    fn event(&mut self, now: Instant, event: BridgeEvent) -> bool {
        match event {
            BridgeEvent::Leg { leg, event } => self.seen[index(leg)].send_modify(|seen| match event {
                LegEvent::IceNominated(address) => seen.nominated = Some((now, address)),
                LegEvent::DtlsConnected { version, profile } => seen.connected = Some((now, version, profile)),
                LegEvent::FirstReceived => seen.first_received = Some(now),
                _ => {}
            }),
            BridgeEvent::Digit { leg, digit, .. } => {
                self.seen[index(leg)].send_modify(|seen| seen.digit(now, digit.as_char()));
            }
            BridgeEvent::EndDetail { leg, text } => tracing::info!(?leg, %text, "why a leg ended"),
            BridgeEvent::Ended { end, stats } => {
                for (seen, stats) in self.seen.iter().zip([stats.a, stats.b]) {
                    seen.send_modify(|seen| {
                        seen.stats = stats;
                        seen.ended = Some((now, end.cause));
                    });
                }
                return true;
            }
            BridgeEvent::LegOpened { .. } | BridgeEvent::LegRefused { .. } | BridgeEvent::LegClosed { .. } => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::client::audio::OpusSettings;
    use control::client::webrtc_answerer::WebrtcAnswerer;
    use control::client::webrtc_caller::WebrtcCaller;
    use engine::rtp::telephone_event::Digit;

    const SOON: Duration = Duration::from_secs(10);

    /// A browser on one side, a gateway on the other: nothing but the relay's own words reaches the gateway.
    #[tokio::test]
    async fn the_relay_joins_a_browser_and_a_gateway_once_the_call_is_accepted() {
        let identity = Identity::generate().unwrap();
        let loopback = [IpAddr::from([127, 0, 0, 1])];
        let addresses = Addresses { browser: &loopback, gateway: &loopback, session_id: 1_767_225_600_412 };
        let caller =
            WebrtcCaller::start(&loopback, &identity, DtlsVersions::Auto, OpusSettings::WHATSAPP).await.unwrap();
        let relay = PageRelay::start(&caller.offer, &addresses, &identity).await.unwrap();
        assert!(relay.offer.contains("\r\na=ice-lite\r\n") && relay.offer.contains("WhatsAppTrack1"));
        let LocalLeg::Webrtc { ufrag, .. } = caller.peer.local() else { panic!("a webrtc leg") };
        assert!(!relay.offer.contains(ufrag.as_str()));
        caller.answer(&relay.browser_answer).unwrap();
        let gateway =
            WebrtcAnswerer::start(&relay.offer, &loopback, true, &identity, OpusSettings::WHATSAPP).await.unwrap();
        relay.answer(&gateway.answer).unwrap();
        caller.peer.wait(SOON, |seen| seen.connected.is_some()).await.unwrap();
        gateway.peer.wait(SOON, |seen| seen.connected.is_some()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(gateway.peer.observed().borrow().wire.rtp, 0, "the caller's voice came before the accept");

        relay.release();
        gateway.peer.release();
        gateway.peer.wait(SOON, |seen| seen.packets_received > 20).await.unwrap();
        caller.peer.wait(SOON, |seen| seen.packets_received > 20).await.unwrap();
        caller.peer.press(Digit::from_char('7').unwrap(), 100);
        gateway.peer.wait(SOON, |seen| seen.keys() == "7").await.unwrap();
        let wire = relay.gateway().borrow().wire;
        assert!(wire.controlling > 0 && wire.client_hellos > 0 && wire.other_ssrc == 0);
        assert!(relay.browser().borrow().packets_sent > 20);

        relay.close();
        let mut ended = relay.gateway();
        tokio::time::timeout(SOON, ended.wait_for(|seen| seen.ended.is_some())).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_offer_without_opus_is_refused_and_not_relayed() {
        let identity = Identity::generate().unwrap();
        let addresses = Addresses { browser: &[], gateway: &[], session_id: 1 };
        for offer in ["", "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n"] {
            assert!(matches!(PageRelay::start(offer, &addresses, &identity).await, Err(RelayError::Offer(_))));
        }
    }
}
