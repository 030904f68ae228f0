//! The load: N calls, both ends of each, on one ring and one thread.
//!
//! ```text
//!  wheel of 80 slots of 250 us ── due ends speak ──> ring ──> gateway ──> two sockets of all ends (`crowd`) ── are heard, and check
//!  dialler threads ── answers, where to send ──> ends          gateway's INVITE ──> `sip` ── 200 ──> ends
//! ```
//!
//! Every end has a phase of its own in the 20 ms, drawn once, so that the gateway's work is as even as real callers make it. A wheel
//! that turns late says so: its lateness is part of every result.

use super::corpus::Frames;
use super::crowd::{self, Ear, address_of};
use super::dial::{Dialed, Dialler, Order, Side};
use super::end::{Common, End, PTIME_NANOS, Place, Shape, Stage, Talk};
use super::ring::{Arrival, Ring, SocketIndex};
use super::sip;
use anyhow::{Context, Result};
use engine::io::clock;
use engine::prefetch::prefetch;
use engine::random::Random;
use engine::time::Instant;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// Parts of a packet time.
const SLOTS: u64 = 80;
/// Between two of them.
pub const SLOT_NANOS: u64 = PTIME_NANOS / SLOTS;
/// Datagrams for which a generator whose calls are up waits, unless it is time to speak: what calls that are up hear does not wake it.
const GATHER_DATAGRAMS: usize = 64;

/// What came is heard every so many slots (500 us): seldom enough that a system call finds much of it, often enough that the kernel uses the same few
/// buffers again and again, as it would for a network card.
const HEAR_SLOTS: u64 = 2;
/// Batches that are heard at once at most: the next slot must not be late for them.
const BATCHES_MAX: usize = 8;

/// Of so many calls the kernel stamps every packet; of those beyond, one call in so many. A stamp costs the generator a sixth of a
/// receive, and what a window says about pacing and residence it says by tens of thousands of packets all the same.
pub const STAMPED: usize = 400;
/// See [`STAMPED`].
pub const STAMPED_EVERY: usize = 8;

/// A packet that is sent later than this may come after its turn, nanoseconds.
const EXCUSED_NANOS: u64 = 5_000_000;

/// A call that is not up after so long never will be.
const RISE_SECONDS_MAX: u64 = 10;

/// What the calls of a run look like.
#[derive(Clone)]
pub struct Profile {
    /// How the first end is connected, what it says, ticks and payload type.
    pub a: (Shape, Frames, u32, u8),
    /// The same of the second.
    pub b: (Shape, Frames, u32, u8),
}

/// Whose socket it is.
#[derive(Clone, Copy)]
enum Owner {
    End(u32, Side),
    Nobody,
    Sip,
    Rtcp,
}

/// One call.
pub struct Call {
    /// Its ends: the WebRTC caller first.
    pub ends: [End; 2],
    /// When its offer was handed to the dialler.
    pub dialled: Instant,
    /// HTTP status or its like; 0 while there is none.
    pub status: u16,
    /// By what name the gateway knows it.
    pub token: String,
    /// Whether it is told to keep silent.
    pub hung_up: bool,
    /// When the second end first spoke while the first could already hear.
    pub spoken_to: Option<Instant>,
    /// When its request was sent, when the answer was there, and when the ends were told.
    pub asked: Option<[Instant; 3]>,
}

/// What a set-up consists of, one after the other; the steps' times add up to [`Call::set_up`].
pub const STEPS: [&str; 5] = ["dialler", "request", "generator", "ice_and_dtls", "media"];

impl Call {
    /// Both ends can speak and have heard the other.
    pub fn is_up(&self) -> bool {
        self.ends.iter().all(|end| end.ready && end.hear.first.is_some())
    }

    /// From the dialling until both have heard something.
    pub fn set_up(&self) -> Option<Duration> {
        Some(self.first_media_toward_a()?.max(self.ends[1].hear.first?.since(self.dialled)))
    }

    /// How long each of [`STEPS`] took: until a thread of the generator had time for the request; until the gateway had answered it; until the
    /// generator had told the ends; until the first end could speak; until both had heard something, less what `set_up` leaves out.
    pub fn steps(&self) -> Option<[Duration; 5]> {
        let ([asked, answered, told], ready) = (self.asked?, self.ends[0].ready_at?);
        let [dialler, request, generator] =
            [(self.dialled, asked), (asked, answered), (answered, told)].map(|(from, to)| to.since(from));
        let connecting = ready.since(told);
        let before = dialler + request + generator + connecting;
        Some([dialler, request, generator, connecting, self.set_up()?.saturating_sub(before)])
    }

    /// When both had heard something.
    pub fn up_at(&self) -> Option<Instant> {
        let [a, b] = &self.ends;
        Some(a.hear.first?.max(b.hear.first?))
    }

    /// From the dialling until the first end has heard something, less the time for which the second had nothing to say: its next word
    /// comes when its 20 ms are over, which no gateway can hasten.
    pub fn first_media_toward_a(&self) -> Option<Duration> {
        let [a, _] = &self.ends;
        let (heard, ready) = (a.hear.first?, a.ready_at?);
        let silence = self.spoken_to.map_or(Duration::ZERO, |spoken| spoken.min(heard).since(ready));
        Some(heard.since(self.dialled).saturating_sub(silence))
    }

    /// Asks for the memory that a packet of one of its ends needs.
    fn prefetch(&self, side: Side, stage: Stage, is_received: bool) {
        if matches!(stage, Stage::End) && !is_received {
            prefetch(&self.hung_up);
            prefetch(&self.spoken_to);
        }
        self.ends[side as usize].prefetch(stage, is_received);
    }

    /// Notes that the second end is about to speak.
    fn note_spoken(&mut self, side: Side, now: Instant) {
        if side == Side::B && self.spoken_to.is_none() && self.ends[0].ready && self.ends[1].ready {
            self.spoken_to = Some(now);
        }
    }
}

/// The load generator.
pub struct Generator {
    ring: Ring,
    common: Common,
    profile: Profile,
    frames: usize,
    /// The calls, in the order of their set-up.
    pub calls: Vec<Call>,
    owners: Vec<Owner>,
    /// Of ends whose calls are up: those whose datagrams are not stamped, and the others.
    ears: [Ear; 2],
    wheel: Vec<Vec<(u32, Side)>>,
    slot: u64,
    next: Instant,
    /// Calls that are being set up.
    rising: Vec<u32>,
    /// Calls that came up and were not looked at since.
    risen: Vec<u32>,
    up: usize,
    dialler: Dialler,
    random: Random,
    sip_socket: SocketIndex,
    /// Where INVITEs are taken.
    pub sip_port: u16,
    rtcp_port: u16,
    /// How late the slots of the window were, nanoseconds.
    pub lateness: Vec<u64>,
    /// Whether that is noted.
    is_watched: bool,
}

impl Generator {
    /// Room for `calls_max` calls. `place` says where in the speech a call begins.
    pub fn new(profile: Profile, calls_max: usize, frames: usize, dialler: Dialler) -> Result<Generator> {
        let mut ring = Ring::new(2 * calls_max + 4, true).context("io_uring of Linux 6.0 or newer is needed")?;
        let (sip_socket, sip_port) = ring.open(0)?;
        // RTCP of all ends: at the address of each.
        let (rtcp_socket, rtcp_port) = ring.open_at(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
        let ears = crowd::open(&mut ring)?;
        let mut owners = Vec::new();
        note_owner(&mut owners, sip_socket, Owner::Sip);
        note_owner(&mut owners, rtcp_socket, Owner::Rtcp);
        Ok(Generator {
            ring,
            common: Common::new()?,
            profile,
            frames,
            calls: Vec::with_capacity(calls_max),
            owners,
            ears,
            wheel: (0..SLOTS).map(|_| Vec::new()).collect(),
            slot: 0,
            next: clock::now(),
            rising: Vec::new(),
            risen: Vec::new(),
            up: 0,
            dialler,
            random: Random::from_test_seed(7),
            sip_socket,
            sip_port,
            rtcp_port,
            lateness: Vec::new(),
            is_watched: false,
        })
    }

    /// Whether what an end hears leaves the gateway by the gateway's clock (transcoded toward G.711), not because a packet came.
    pub fn is_played_out(&self, side: usize) -> bool {
        side == Side::B as usize && self.profile.a.2 != self.profile.b.2
    }

    /// Who places the calls from now on.
    pub fn set_dialler(&mut self, dialler: Dialler) {
        self.dialler = dialler;
    }

    /// Begins one more call.
    pub fn place_call(&mut self) -> Result<()> {
        let index = self.calls.len();
        let talk = |(shape, frames, ticks, payload_type): &(Shape, Frames, u32, u8), at: usize| {
            (*shape, Talk { frames: frames.clone(), at, payload_type: *payload_type, ticks: *ticks })
        };
        // The two ends of a call say different things too.
        let (a_at, b_at) = (self.place(index), self.place(index + self.frames / 2));
        let ((a_shape, a_talk), (b_shape, b_talk)) = (talk(&self.profile.a, a_at), talk(&self.profile.b, b_at));
        let (hears_a, hears_b) = ((b_talk.ticks, b_talk.payload_type), (a_talk.ticks, a_talk.payload_type));
        // Where the gateway transcodes, an end hears its own codec.
        let own = |talk: &Talk| (talk.ticks, talk.payload_type);
        let (hears_a, hears_b) = match a_shape {
            Shape::Bare => (hears_a, hears_b),
            _ => (own(&a_talk), own(&b_talk)),
        };
        let stamped = index < STAMPED || index.is_multiple_of(STAMPED_EVERY);
        let port = self.ears[usize::from(stamped)].port;
        let place = |side: Side| {
            let address = address_of(2 * index as u32 + side as u32);
            Place { at: SocketAddrV4::new(address, port), stamped }
        };
        let a = End::open(&mut self.ring, &self.common, place(Side::A), a_shape, a_talk, hears_a)?;
        let b = End::open(&mut self.ring, &self.common, place(Side::B), b_shape, b_talk, hears_b)?;
        for (side, end) in [(Side::A, &a), (Side::B, &b)] {
            note_owner(&mut self.owners, end.socket, Owner::End(index as u32, side));
            let slot = self.random.below(SLOTS as u32) as usize;
            self.wheel[slot].push((index as u32, side));
        }
        let order = Order {
            call: index as u32,
            offers: [a.offer(), b.offer()],
            at: [a.at, b.at],
            rtcp_port: self.rtcp_port,
            payload_type: b.talk.payload_type,
        };
        self.rising.push(index as u32);
        let dialled = clock::now();
        let token = String::new();
        self.calls.push(Call { ends: [a, b], dialled, status: 0, token, hung_up: false, spoken_to: None, asked: None });
        self.dialler.dial(order)
    }

    fn place(&self, index: usize) -> usize {
        index * 1_741 % self.frames
    }

    /// At which frame each end of each call is.
    pub fn places(&self) -> Vec<[usize; 2]> {
        self.calls.iter().map(|call| [call.ends[0].talk.at, call.ends[1].talk.at]).collect()
    }

    /// Calls that are neither up nor given up.
    pub fn under_way(&self) -> usize {
        self.rising.len()
    }

    /// Begins `count` calls, `per_second` of them a second, and waits until all are up or `patience` after the last is over.
    pub fn ramp(&mut self, count: usize, per_second: f64, patience: Duration) -> Result<()> {
        let (start, first) = (clock::now(), self.calls.len());
        let mut placed = 0;
        while placed < count {
            let due = (clock::now().since(start).as_secs_f64() * per_second) as usize + 1;
            while placed < due.min(count) {
                self.place_call()?;
                placed += 1;
            }
            self.turn()?;
        }
        let deadline = clock::now() + patience;
        while clock::now() < deadline && !self.calls[first..].iter().all(|call| call.is_up() || call.status >= 300) {
            self.turn()?;
        }
        Ok(())
    }

    /// Goes on after a time in which nobody had a turn: what was to be said then stays unsaid.
    pub fn resume(&mut self) {
        self.next = clock::now();
    }

    /// Lets the calls go on.
    pub fn run_for(&mut self, time: Duration) -> Result<()> {
        let deadline = clock::now() + time;
        while clock::now() < deadline {
            self.turn()?;
        }
        Ok(())
    }

    /// Begins to measure; `time` is how long it will be.
    pub fn open_window(&mut self, time: Duration) {
        let packets = time.as_millis() as usize / 20 + 64;
        self.calls.iter_mut().flat_map(|call| &mut call.ends).for_each(|end| end.hear.open(packets));
        self.watch(time);
        self.common.window = true;
    }

    /// Begins to note how late it is, for about `time`; what calls hear is of no interest.
    pub fn watch(&mut self, time: Duration) {
        self.lateness = Vec::with_capacity(time.as_micros() as usize * 1_000 / SLOT_NANOS as usize + 64);
        self.ring.send_errors = 0;
        self.is_watched = true;
    }

    /// Of `packets` that came through, how many it sent itself so late that a gateway may have made up for them.
    pub fn sent_late(&self, packets: u64) -> u64 {
        let late = self.lateness.iter().filter(|nanos| **nanos > EXCUSED_NANOS).count();
        (packets * late as u64).div_ceil(self.lateness.len().max(1) as u64)
    }

    /// Ends the measuring.
    pub fn close_window(&mut self) {
        self.common.window = false;
        self.is_watched = false;
    }

    /// Datagrams that this host's kernel refused to send for us.
    pub fn send_errors(&self) -> u64 {
        self.ring.send_errors
    }

    /// Datagrams that ever found one of its sockets full.
    pub fn overrun(&self) -> u64 {
        self.ring.overrun() + self.ears.iter().map(Ear::overrun).sum::<u64>()
    }

    /// Makes a call fall silent and tells the gateway.
    pub fn hang_up(&mut self, index: usize) -> Result<()> {
        let call = &mut self.calls[index];
        if std::mem::replace(&mut call.hung_up, true) {
            return Ok(());
        }
        self.dialler.hang_up(call.token.clone())
    }

    /// Keeps what one running call in `every` hears during the next window.
    pub fn record(&mut self, every: usize) {
        let running = self.calls.iter_mut().filter(|call| !call.hung_up);
        for (index, call) in running.enumerate() {
            call.ends.iter_mut().for_each(|end| end.hear.recorded = index.is_multiple_of(every));
        }
    }

    /// Takes no more account of calls that the gateway refused. Answers how many there were.
    pub fn forget_refused(&mut self) -> usize {
        let refused = self.calls.iter_mut().filter(|call| !call.hung_up && call.status >= 300);
        refused.map(|call| call.hung_up = true).count()
    }

    /// Calls that were not hung up.
    pub fn running(&self) -> usize {
        self.calls.iter().filter(|call| !call.hung_up).count()
    }

    /// Hangs up the youngest calls beyond `count`.
    pub fn keep(&mut self, count: usize) -> Result<()> {
        let running = (0..self.calls.len()).filter(|&index| !self.calls[index].hung_up);
        let youngest: Vec<usize> = running.skip(count).collect();
        youngest.into_iter().try_for_each(|index| self.hang_up(index))
    }

    /// Ends every call that is up. Answers how many ever were.
    pub fn hang_up_those_up(&mut self) -> Result<usize> {
        while let Some(index) = self.risen.pop() {
            self.hang_up(index as usize)?;
            self.up += 1;
        }
        Ok(self.up)
    }

    /// One turn of the loop.
    pub fn turn(&mut self) -> Result<()> {
        let wanted = if self.rising.is_empty() { GATHER_DATAGRAMS } else { 1 };
        self.ring.turn(wanted, self.next.since(clock::now()))?;
        let now = clock::now();
        self.hear(now);
        while self.next <= now {
            if self.is_watched {
                self.lateness.push(now.since(self.next).as_nanos() as u64);
            }
            self.slot(now);
            self.next = self.next + Duration::from_nanos(SLOT_NANOS);
        }
        self.rise(now);
        while let Some(dialed) = self.dialler.next() {
            self.dialed(now, dialed);
        }
        Ok(())
    }

    /// The ends of the next slot speak; now and then all are heard.
    fn slot(&mut self, now: Instant) {
        let at = (self.slot % SLOTS) as usize;
        self.slot += 1;
        let due = std::mem::take(&mut self.wheel[at]);
        for (index, &(call, side)) in due.iter().enumerate() {
            for (stage, ahead) in Stage::ALL {
                if let Some(&(next, side)) = due.get(index + ahead) {
                    self.calls[next as usize].prefetch(side, stage, false);
                }
            }
            let call = &mut self.calls[call as usize];
            if !call.hung_up {
                call.note_spoken(side, now);
                call.ends[side as usize].speak(now, &mut self.ring, &mut self.common);
            }
        }
        self.wheel[at] = due;
        self.ring.submit();
        if self.slot.is_multiple_of(HEAR_SLOTS) {
            self.hear_all(now);
        }
    }

    /// Hands what came to the ends whose calls are up.
    fn hear_all(&mut self, now: Instant) {
        let Generator { ears, calls, ring, common, .. } = self;
        for ear in ears {
            for _ in 0..BATCHES_MAX {
                let count = ear.receive();
                for index in 0..count {
                    for (stage, ahead) in Stage::ALL {
                        if let Some((call, side)) = ear.came(index + ahead).and_then(|came| whose(calls, came.end)) {
                            call.prefetch(side, stage, true);
                        }
                    }
                    let Some(came) = ear.came(index) else { continue };
                    let Some((call, side)) = whose(calls, came.end) else { continue };
                    let [a, b] = &mut call.ends;
                    let (end, other) = if side == Side::A { (a, b) } else { (b, a) };
                    let (datagram, told) = (ear.bytes(index, &came), (came.from, came.at_nanos));
                    if !end.arrival(now, told, datagram, &other.departures, common.window) {
                        end.drain(now, ring, common);
                    }
                }
                if count < Ear::BATCH {
                    break;
                }
            }
        }
    }

    /// Hands what came to sockets of their own to whom it came for.
    fn hear(&mut self, now: Instant) {
        while let Some(arrival) = self.ring.take() {
            match self.owners[arrival.socket as usize] {
                Owner::Nobody | Owner::Rtcp => {}
                Owner::Sip => self.sip(now, &arrival),
                Owner::End(call, side) => {
                    let [a, b] = &mut self.calls[call as usize].ends;
                    let (end, other) = if side == Side::A { (a, b) } else { (b, a) };
                    let (datagram, told) = (self.ring.bytes(&arrival), (arrival.from, arrival.at_nanos));
                    if !end.arrival(now, told, datagram, &other.departures, self.common.window) {
                        end.drain(now, &mut self.ring, &mut self.common);
                    }
                }
            }
            self.ring.release(arrival);
        }
    }

    /// Timers of calls that are being set up: those that are up have their turn when they speak. An end says its first word as
    /// soon as it can.
    fn rise(&mut self, now: Instant) {
        let (calls, ring, common) = (&mut self.calls, &mut self.ring, &mut self.common);
        let risen = &mut self.risen;
        let patience = Duration::from_secs(RISE_SECONDS_MAX);
        self.rising.retain(|&index| {
            let call = &mut calls[index as usize];
            for side in [Side::A, Side::B] {
                let end = &mut call.ends[side as usize];
                if end.deadline() <= now {
                    end.timeout(now, ring, common);
                }
                if end.ready && end.sent == 0 && !call.hung_up {
                    call.note_spoken(side, now);
                    call.ends[side as usize].speak(now, ring, common);
                }
            }
            if call.is_up() {
                call.ends.iter_mut().for_each(|end| end.share(ring));
                risen.push(index);
                return false;
            }
            let given_up = call.status >= 300 || call.ends.iter().any(|end| end.dead);
            !call.hung_up && !given_up && now.since(call.dialled) < patience
        });
    }

    fn dialed(&mut self, now: Instant, dialed: Dialed) {
        let Some(call) = self.calls.get_mut(dialed.call as usize) else { return };
        call.status = dialed.status;
        call.token = dialed.token;
        call.asked = Some([dialed.asked, dialed.answered, now]);
        for (end, answer) in call.ends.iter_mut().zip(&dialed.answers) {
            if !answer.is_empty() && end.answer(now, answer, &mut self.ring, &mut self.common).is_err() {
                call.status = 599;
            }
        }
        for (end, to) in call.ends.iter_mut().zip(dialed.to) {
            if let Some(to) = to {
                end.send_to(now, to);
            }
        }
    }

    /// A request of the gateway: an INVITE is answered at once, with the RTP end's port.
    fn sip(&mut self, now: Instant, arrival: &Arrival) {
        let Ok(text) = String::from_utf8(self.ring.bytes(arrival).to_vec()) else { return };
        let Some(request) = sip::Request::read(&text) else { return };
        let index = request.call.filter(|index| *index < self.calls.len());
        let reply = match (request.method, index) {
            ("INVITE", Some(index)) => {
                let end = &mut self.calls[index].ends[1];
                let sdp = sip::answer(end.at, self.rtcp_port, end.talk.payload_type);
                if let Some(to) = request.media() {
                    end.send_to(now, to);
                }
                request.reply("200 OK", self.sip_port, &sdp)
            }
            ("INVITE", None) => request.reply("404 Not Found", self.sip_port, ""),
            ("ACK", _) => return,
            _ => request.reply("200 OK", self.sip_port, ""),
        };
        self.ring.send(self.sip_socket, Some(arrival.from), reply.as_bytes());
    }
}

/// Notes whose a socket is.
fn note_owner(owners: &mut Vec<Owner>, socket: SocketIndex, owner: Owner) {
    owners.resize(owners.len().max(socket as usize + 1), Owner::Nobody);
    owners[socket as usize] = owner;
}

/// The call of an end, and which of its two it is.
fn whose(calls: &mut [Call], end: u32) -> Option<(&mut Call, Side)> {
    let side = if end.is_multiple_of(2) { Side::A } else { Side::B };
    calls.get_mut(end as usize / 2).map(|call| (call, side))
}
