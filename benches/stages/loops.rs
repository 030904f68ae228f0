//! Ways to move datagrams: what one received and one sent cost. `cargo bench -p benches --bench loops`.
//!
//! Each round, a feeder sends one datagram to each socket; that is not timed. Timed is what a media worker does: take them all, send one
//! back from each socket. The engine's two interfaces, the bare ring of the density bench (connected sockets, successful sends not
//! reported: the floor), tokio and tokio-uring with a task per socket, as one would write them; and one socket for all calls instead of
//! one for each.

#[path = "../density/ring.rs"]
#[allow(dead_code, reason = "the density bench uses the rest")]
mod ring;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use engine::config::Driver;
use engine::io::address::Family;
use engine::io::socket::MediaSocket;
use engine::io::system::{WakeFd, raise_open_files};
use engine::io::{GATHER_MAX, Net, Owner, clock};
use engine::metrics::Metrics;
use ring::Ring;
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// As many as 125 to 250 calls have.
const SOCKETS: usize = 500;
/// SRTP with 20 ms of Opus at 20 kbit/s.
const DATAGRAM: [u8; 80] = [0x80; 80];
/// A round that takes longer has lost something.
const ROUND_TIME_MAX: Duration = Duration::from_secs(2);

/// Sends to every socket, and takes what comes back.
struct Feeder {
    ring: Ring,
    socket: u32,
    port: u16,
    ports: Vec<u16>,
}

impl Feeder {
    fn new(ports: Vec<u16>) -> Feeder {
        let mut ring = Ring::new(1, false).expect("io_uring");
        let (socket, port) = ring.open(0).expect("a socket");
        Feeder { ring, socket, port, ports }
    }

    /// Returns once every datagram lies in its socket.
    fn feed(&mut self) {
        let mut sink = [0; 1500];
        while self.ring.next(&mut sink).is_some() {}
        for port in &self.ports {
            self.ring.send(self.socket, Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, *port)), &DATAGRAM);
        }
        self.ring.turn(1, Duration::ZERO).expect("a turn");
        while self.ring.next(&mut sink).is_some() {}
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(LOCALHOST, self.port)
    }
}

/// Times `round`, which answers everything that was fed.
fn rounds(feeder: &mut Feeder, count: u64, mut round: impl FnMut()) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..count {
        feeder.feed();
        let start = clock::now();
        round();
        total += clock::now().since(start);
    }
    total
}

/// `bind`: `None` for all addresses, IPv4 and IPv6. `fixed`: connected to the feeder.
fn engine(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, driver: Driver, bind: Option<IpAddr>, fixed: bool) {
    let wake = Arc::new(WakeFd::new().expect("an eventfd"));
    let mut net = Net::start(driver, SOCKETS, &wake).expect("the interface").net;
    let mut metrics = Metrics::default();
    let (mut keys, mut ports) = (Vec::new(), Vec::new());
    for slot in 0..SOCKETS as u32 {
        let family = if bind.is_some() { Family::V4 } else { Family::Dual };
        let socket = MediaSocket::bind(family, bind, 0).expect("a socket");
        ports.push(socket.port().expect("bound"));
        keys.push(net.open(socket, Owner { slot, generation: 0, port: 0 }).expect("room"));
    }
    let mut feeder = Feeder::new(ports);
    let to = feeder.address();
    if fixed {
        keys.iter().for_each(|&key| net.fix(key, Some(to)).expect("connected"));
    }
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|count| {
            rounds(&mut feeder, count, || {
                let (mut answered, start) = (0, clock::now());
                while answered < SOCKETS && clock::now().since(start) < ROUND_TIME_MAX {
                    net.wait(clock::now().plus_millis(1), GATHER_MAX, &mut metrics).expect("a wait");
                    net.collect(clock::now(), &mut metrics);
                    while let Some(packet) = net.next_packet(&mut metrics) {
                        let key = keys[packet.owner.slot as usize];
                        net.send_buffer(&mut metrics)[..DATAGRAM.len()].copy_from_slice(&DATAGRAM);
                        net.send(key, to, DATAGRAM.len(), &mut metrics);
                        answered += 1;
                    }
                }
                net.wait(clock::now(), GATHER_MAX, &mut metrics).expect("a wait");
            })
        })
    });
}

/// The bare ring; `sockets` may be one, which gets all.
fn bare(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, sockets: usize, connected: bool) {
    let mut ring = Ring::new(sockets, false).expect("io_uring");
    let opened: Vec<(u32, u16)> = (0..sockets).map(|_| ring.open(0).expect("a socket")).collect();
    let mut feeder = Feeder::new((0..SOCKETS).map(|index| opened[index % sockets].1).collect());
    let SocketAddr::V4(to) = feeder.address() else { return };
    if connected {
        opened.iter().for_each(|(socket, _)| ring.connect(*socket, to).expect("connected"));
    }
    let mut datagram = [0; 1500];
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|count| {
            rounds(&mut feeder, count, || {
                let (mut answered, start) = (0, clock::now());
                while answered < SOCKETS && clock::now().since(start) < ROUND_TIME_MAX {
                    ring.turn(1, Duration::from_millis(1)).expect("a turn");
                    while let Some(arrival) = ring.next(&mut datagram) {
                        ring.send(arrival.socket, (!connected).then_some(to), &DATAGRAM);
                        answered += 1;
                    }
                }
                ring.submit();
            })
        })
    });
}

/// Answers so far in this round, and who waits for the last.
#[derive(Clone, Default)]
struct Answers {
    count: Rc<Cell<usize>>,
    done: Rc<Notify>,
}

impl Answers {
    fn one(&self) {
        self.count.set(self.count.get() + 1);
        if self.count.get() == SOCKETS {
            self.done.notify_one();
        }
    }

    async fn all(&self) {
        // Nothing is lost on loopback with one datagram in each buffer; if it were, the round shows as two seconds.
        let _ = tokio::time::timeout(ROUND_TIME_MAX, self.done.notified()).await;
        self.count.set(0);
    }
}

fn tokio_tasks(group: &mut BenchmarkGroup<'_, WallTime>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let tasks = tokio::task::LocalSet::new();
    let answers = Answers::default();
    let mut feeder = tasks.block_on(&runtime, async {
        let mut sockets = Vec::new();
        for _ in 0..SOCKETS {
            sockets.push(tokio::net::UdpSocket::bind((LOCALHOST, 0)).await.expect("a socket"));
        }
        let ports = sockets.iter().map(|socket| socket.local_addr().expect("bound").port()).collect();
        let feeder = Feeder::new(ports);
        let to = feeder.address();
        for socket in sockets {
            let answers = answers.clone();
            tokio::task::spawn_local(async move {
                let mut datagram = [0; 1500];
                while socket.recv_from(&mut datagram).await.is_ok() {
                    let _ = socket.send_to(&DATAGRAM, to).await;
                    answers.one();
                }
            });
        }
        tokio::task::yield_now().await;
        feeder
    });
    group.bench_function("tokio, a task per socket", |bencher| {
        bencher.iter_custom(|count| rounds(&mut feeder, count, || tasks.block_on(&runtime, answers.all())))
    });
}

fn tokio_uring_tasks(group: &mut BenchmarkGroup<'_, WallTime>) {
    let answers = Answers::default();
    group.bench_function("tokio-uring, a task per socket", |bencher| {
        bencher.iter_custom(|count| {
            let answers = answers.clone();
            tokio_uring::start(async move {
                let mut sockets = Vec::new();
                for _ in 0..SOCKETS {
                    sockets.push(
                        tokio_uring::net::UdpSocket::bind(SocketAddr::new(LOCALHOST, 0)).await.expect("a socket"),
                    );
                }
                let ports = sockets.iter().map(|socket| socket.local_addr().expect("bound").port()).collect();
                let mut feeder = Feeder::new(ports);
                let to = feeder.address();
                for socket in sockets {
                    let answers = answers.clone();
                    tokio_uring::spawn(async move {
                        let mut buffer = vec![0; 1500];
                        loop {
                            let (received, taken) = socket.recv_from(buffer).await;
                            if received.is_err() {
                                return;
                            }
                            let (_, taken) = socket.send_to(taken, to).await;
                            buffer = taken;
                            answers.one();
                        }
                    });
                }
                let mut total = Duration::ZERO;
                for _ in 0..count {
                    tokio::task::yield_now().await;
                    feeder.feed();
                    let start = clock::now();
                    answers.all().await;
                    total += clock::now().since(start);
                }
                total
            })
        })
    });
}

fn loops(criterion: &mut Criterion) {
    raise_open_files();
    let mut group = criterion.benchmark_group("a datagram received and one sent");
    group.throughput(Throughput::Elements(SOCKETS as u64)).sample_size(20);
    bare(&mut group, "io_uring bare, connected", SOCKETS, true);
    bare(&mut group, "io_uring bare, unconnected", SOCKETS, false);
    bare(&mut group, "io_uring bare, one socket for all", 1, false);
    engine(&mut group, "engine, io_uring, connected", Driver::IoUring, Some(LOCALHOST), true);
    engine(&mut group, "engine, io_uring", Driver::IoUring, Some(LOCALHOST), false);
    engine(&mut group, "engine, io_uring, bound to all addresses", Driver::IoUring, None, false);
    engine(&mut group, "engine, recvmmsg and sendmmsg", Driver::Mmsg, Some(LOCALHOST), false);
    tokio_tasks(&mut group);
    tokio_uring_tasks(&mut group);
    group.finish();
}

criterion_group!(stages, loops);
criterion_main!(stages);
