//! An engine with echoes in the bridges' place, and control's side of it.

use engine::bridge::{
    BridgeCommand, BridgeConfig, BridgeEvent, BridgeId, BridgeStats, LegConfig, LegName, Output, Port,
};
use engine::config::{COMPLEXITY_DEFAULT, DSCP_DEFAULT, Driver, EngineConfig};
use engine::dtls::{DtlsVersion, DtlsVersions};
use engine::error::{Cause, DropReason, End, Side};
use engine::ice::IceRole;
use engine::leg::rtp::RtpConfig;
use engine::leg::webrtc::WebrtcConfig;
use engine::leg::{LegEvent, LocalLeg};
use engine::limits::DATAGRAM_BYTES_MAX;
use engine::metrics::Metrics;
use engine::random::Random;
use engine::rtp::telephone_event::Digit;
use engine::srtp::SrtpProfile;
use engine::time::Instant;
use engine::worker::core::Core;
use engine::worker::{Command, Engine, Event, RefuseReason};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How long a failing test waits.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How datagrams move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    /// io_uring, running calls in one socket.
    Steered,
    /// io_uring, each call in sockets of its own.
    Own,
    Mmsg,
}

/// Answers every datagram to where it came from; see each command for what it does.
pub struct Echo {
    shared: Arc<Shared>,
    answers: VecDeque<(Port, SocketAddr, usize, [u8; DATAGRAM_BYTES_MAX])>,
    last: Option<(Port, SocketAddr)>,
    digit: Option<(Instant, LegName, Digit, u32)>,
    due: Option<BridgeEvent>,
    fixed_peer: Option<SocketAddr>,
    /// Who said "take" last.
    taken: Option<SocketAddr>,
    ending: bool,
    ended: bool,
}

/// What the echoes tell the test.
#[derive(Default)]
pub struct Shared {
    /// Allocations of the worker's thread so far.
    pub allocations: AtomicU64,
    /// While set, "hold" keeps the worker from going on; `held` tells that it does.
    pub hold: AtomicBool,
    pub held: AtomicBool,
}

impl Core for Echo {
    type Shared = Arc<Shared>;

    fn open(_now: Instant, _config: BridgeConfig, shared: &Arc<Shared>, _random: Random) -> Echo {
        let answers = VecDeque::with_capacity(4);
        Echo {
            shared: Arc::clone(shared),
            answers,
            last: None,
            digit: None,
            due: None,
            fixed_peer: None,
            taken: None,
            ending: false,
            ended: false,
        }
    }

    fn local(&self, leg: LegName) -> LocalLeg {
        LocalLeg::Rtp { ssrc: leg as u32, port: 0 }
    }

    fn fixed_peer(&self, _now: Instant, _leg: LegName) -> Option<SocketAddr> {
        self.fixed_peer
    }

    fn destination(&self, _leg: LegName) -> Option<SocketAddr> {
        self.taken
    }

    fn handle_datagram(&mut self, _: Instant, port: Port, from: SocketAddr, datagram: &mut [u8], counts: &mut Metrics) {
        assert!(datagram != b"panic", "asked for");
        if datagram == b"hold" {
            self.shared.held.store(true, Ordering::SeqCst);
            while self.shared.hold.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            return;
        }
        if datagram == b"connect" {
            let event = LegEvent::DtlsConnected { version: DtlsVersion::V12, profile: SrtpProfile::AeadAes128Gcm };
            self.due = Some(BridgeEvent::Leg { leg: port.leg, event });
            self.fixed_peer = Some(from);
        }
        match &*datagram {
            b"fix" => self.fixed_peer = Some(from),
            b"free" => self.fixed_peer = None,
            [_, _, _, _, b't', b'a', b'k', b'e'] => self.taken = Some(from),
            [_, _, _, _, b'd', b'r', b'o', b'p'] => counts.drop(DropReason::UnknownSource),
            _ => {}
        }
        self.shared.allocations.store(ALLOCATIONS.get(), Ordering::SeqCst);
        let mut answer = [0; DATAGRAM_BYTES_MAX];
        answer[..datagram.len()].copy_from_slice(datagram);
        self.answers.push_back((port, from, datagram.len(), answer));
        self.last = Some((port, from));
    }

    fn handle_command(&mut self, now: Instant, command: BridgeCommand) {
        match command {
            BridgeCommand::SendDigit { leg, digit, duration_ms } => {
                self.digit = Some((now.plus_millis(duration_ms.into()), leg, digit, duration_ms));
            }
            BridgeCommand::Close => {
                self.ending = true;
                let goodbye = self.last.map(|(port, to)| {
                    let mut bytes = [0; DATAGRAM_BYTES_MAX];
                    bytes[..7].copy_from_slice(b"goodbye");
                    (port, to, 7, bytes)
                });
                self.answers.extend(goodbye);
            }
            BridgeCommand::Release { .. } => panic!("asked for"),
            _ => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Some((at, leg, digit, duration_ms)) = self.digit
            && now >= at
        {
            self.digit = None;
            self.due = Some(BridgeEvent::Digit { leg, digit, duration_ms });
        }
    }

    fn poll_output(&mut self, _now: Instant, out: &mut [u8], _metrics: &mut Metrics) -> Output {
        if self.ending && !self.ended {
            self.ended = true;
            let end = End { side: Side::Engine, cause: Cause::Closed };
            return Output::Event(BridgeEvent::Ended { end, stats: BridgeStats::default() });
        }
        if let Some((port, to, len, bytes)) = self.answers.pop_front() {
            out[..len].copy_from_slice(&bytes[..len]);
            return Output::Transmit { port, to, len };
        }
        match self.due.take() {
            Some(event) => Output::Event(event),
            None => Output::Timeout(self.digit.map_or(Instant::NEVER, |(at, ..)| at)),
        }
    }

    fn is_ended(&self) -> bool {
        self.ended
    }
}

/// An engine with echoes in it, and control's side of it.
pub struct Rig {
    pub engine: Engine,
    pub shared: Arc<Shared>,
    pub woken: Arc<(Mutex<u64>, Condvar)>,
}

/// Ports of an open bridge.
#[derive(Clone, Copy)]
pub struct Legs {
    pub webrtc: u16,
    pub rtp: u16,
}

impl Rig {
    pub fn start(way: Way, media_ports: std::ops::RangeInclusive<u16>) -> Rig {
        Rig::start_with(way, media_ports, 1)
    }

    pub fn start_with(way: Way, media_ports: std::ops::RangeInclusive<u16>, workers: usize) -> Rig {
        let driver = if way == Way::Mmsg { Driver::Mmsg } else { Driver::IoUring };
        let steering = way == Way::Steered;
        let config = EngineConfig {
            workers,
            pin: true,
            media_ports,
            bind: None,
            driver,
            steering,
            dscp: DSCP_DEFAULT,
            complexity: COMPLEXITY_DEFAULT,
        };
        let shared = Arc::new(Shared::default());
        let woken = Arc::new((Mutex::new(0), Condvar::new()));
        let wake = {
            let woken = Arc::clone(&woken);
            move || {
                *woken.0.lock().unwrap() += 1;
                woken.1.notify_all();
            }
        };
        let engine = Engine::start_with::<Echo>(&config, Arc::clone(&shared), wake).unwrap();
        assert_eq!(engine.driver(), driver);
        Rig { engine, shared, woken }
    }

    pub fn send_open(&self, number: u64) {
        self.engine.command(0, Command::Open { bridge: BridgeId(number), config: config() }).unwrap();
    }

    pub fn command(&self, number: u64, command: BridgeCommand) {
        self.engine.command(0, Command::Bridge { bridge: BridgeId(number), command }).unwrap();
    }

    pub fn open(&mut self, number: u64) -> Legs {
        self.send_open(number);
        match self.next_event() {
            Event::Opened { bridge: BridgeId(opened), a, b } if opened == number => {
                Legs { webrtc: port(&a), rtp: port(&b) }
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn refused(&mut self, number: u64) -> RefuseReason {
        self.send_open(number);
        match self.next_event() {
            Event::Refused { bridge: BridgeId(refused), reason } if refused == number => reason,
            other => panic!("{other:?}"),
        }
    }

    pub fn ended(&mut self, number: u64) -> Cause {
        match self.next_event() {
            Event::Bridge { bridge: BridgeId(ended), event: BridgeEvent::Ended { end, .. } } if ended == number => {
                end.cause
            }
            other => panic!("{other:?}"),
        }
    }

    /// The next event; sleeps until the worker says that there is one, as control does.
    pub fn next_event(&mut self) -> Event {
        let (count, changed) = &*self.woken;
        let mut seen = count.lock().unwrap();
        loop {
            if let Some(event) = self.engine.poll_event(0) {
                return event;
            }
            let before = *seen;
            let (guard, waited) = changed.wait_timeout_while(seen, PATIENCE, |count| *count == before).unwrap();
            assert!(!waited.timed_out(), "no event");
            seen = guard;
        }
    }

    pub fn metrics_when(&mut self, wanted: impl Fn(&Metrics) -> bool) -> Metrics {
        self.wait_for("the counters", |rig| wanted(&rig.engine.metrics(0)));
        self.engine.metrics(0)
    }

    pub fn wait_for(&mut self, what: &str, mut come: impl FnMut(&Rig) -> bool) {
        for _ in 0..PATIENCE.as_millis() / 5 {
            if come(self) {
                return;
            }
            pause();
        }
        panic!("waited in vain for {what}: {:?}", self.engine.metrics(0));
    }
}

pub fn config() -> BridgeConfig {
    let webrtc =
        WebrtcConfig { ice: IceRole::Lite, versions: DtlsVersions::Auto, credentials: None, hold: false, remote: None };
    BridgeConfig { a: LegConfig::Webrtc(Box::new(webrtc)), b: LegConfig::Rtp(RtpConfig { remote: None }) }
}

pub fn port(leg: &LocalLeg) -> u16 {
    match leg {
        LocalLeg::Webrtc { port, .. } | LocalLeg::Rtp { port, .. } => *port,
    }
}

#[expect(clippy::disallowed_methods, reason = "a peer on the other side of the loopback")]
pub fn peer(localhost: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((localhost, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A receive with a time limit ends early when the process is stopped and goes on (signal(7)).
pub fn patiently<T>(mut receive: impl FnMut() -> std::io::Result<T>) -> T {
    loop {
        match receive() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            received => return received.unwrap(),
        }
    }
}

/// What comes within a fifth of the patience.
pub fn hurriedly<T>(socket: &UdpSocket, mut receive: impl FnMut() -> std::io::Result<T>) -> Option<T> {
    socket.set_read_timeout(Some(PATIENCE / 5)).unwrap();
    loop {
        match receive() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
            received => return Some(received.unwrap()),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the other side of this wait is a thread that says nothing")]
pub fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

pub fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Counts each thread's allocations.
struct Counting;

thread_local! {
    pub static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: hands everything to the system's allocator; the counter is a plain number without a destructor.
#[expect(unsafe_code, reason = "an allocator cannot be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
