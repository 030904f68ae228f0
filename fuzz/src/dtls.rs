//! A DTLS session of either role: datagrams of the input, and real flights that were tampered with.

use crate::script::Script;
use crate::{DRAIN_STEPS_MAX, identity};
use engine::dtls::{DtlsOutput, DtlsRole, DtlsSession, DtlsVersions};
use engine::limits::DATAGRAM_BYTES_MAX;
use engine::time::Instant;
use std::collections::VecDeque;

/// Flights on their way, per direction. Past it the oldest is lost.
const FLYING_MAX: usize = 64;

/// Sessions, what flies between them, and what became of them.
struct Table {
    now: Instant,
    /// The session under test, and its honest peer.
    sides: [Side; 2],
}

struct Side {
    session: DtlsSession,
    deadline: Instant,
    /// On the way to this side.
    flying: VecDeque<Vec<u8>>,
    connected: u32,
    ended: u32,
}

/// Datagrams, flights of an honest peer with and without damage, and waits.
pub fn dtls(data: &[u8]) {
    let mut script = Script::new(data);
    let roles = script.pick(&[[DtlsRole::Server, DtlsRole::Client], [DtlsRole::Client, DtlsRole::Server]]);
    // The honest peer of OpenSSL is the other library: neither may choke on what the other makes of damage.
    let choice = script.pick(&[DtlsVersions::Auto, DtlsVersions::V12, DtlsVersions::V13, DtlsVersions::OpenSsl]);
    let versions = [choice, if choice == DtlsVersions::OpenSsl { DtlsVersions::V12 } else { choice }];
    let now = Instant::from_millis(1_000);
    let fingerprint = identity().fingerprint();
    let side = |index: usize| Side {
        session: DtlsSession::new(now, identity(), roles[index], versions[index], fingerprint),
        deadline: now,
        flying: VecDeque::new(),
        connected: 0,
        ended: 0,
    };
    let mut table = Table { now, sides: [0, 1].map(side) };
    table.drain();
    while !script.is_over() {
        match script.byte() % 8 {
            0 => table.wait(script.millis()),
            1 | 2 => table.sides[0].session.handle_datagram(table.now, script.chunk()),
            3 => table.pass(usize::from(script.byte() & 1), |_| {}),
            4 => table.pass(0, |bytes| script.damage(bytes)),
            5 => table.pass(0, |bytes| bytes.truncate(usize::from(script.word()))),
            6 => table.sides[0].flying.rotate_left(usize::from(table.sides[0].flying.len() > 1)),
            _ => {
                for _ in 0..8 {
                    table.pass(0, |_| {});
                    table.drain();
                    table.pass(1, |_| {});
                    table.drain();
                }
            }
        }
        table.drain();
    }
    table.sides[0].session.close();
    table.drain();
    for side in &table.sides {
        assert!(side.connected <= 1 && side.ended <= 1, "connected {}, ended {}", side.connected, side.ended);
    }
}

impl Table {
    /// The oldest datagram on the way to a side arrives.
    fn pass(&mut self, to: usize, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(mut datagram) = self.sides[to].flying.pop_front() {
            change(&mut datagram);
            self.sides[to].session.handle_datagram(self.now, &datagram);
        }
    }

    fn wait(&mut self, millis: u64) {
        let end = self.now.plus_millis(millis);
        for _ in 0..DRAIN_STEPS_MAX {
            let next = self.sides[0].deadline.min(self.sides[1].deadline).max(self.now.plus_millis(1)).min(end);
            self.now = next;
            self.sides.iter_mut().for_each(|side| side.session.handle_timeout(next));
            self.drain();
            if next == end {
                return;
            }
        }
        panic!("time stands still at {:?}", self.now);
    }

    fn drain(&mut self) {
        for index in 0..2 {
            let mut out = [0; DATAGRAM_BYTES_MAX];
            let mut steps = 0;
            loop {
                steps += 1;
                assert!(steps < DRAIN_STEPS_MAX, "the session never comes to rest");
                match self.sides[index].session.poll_output(self.now, &mut out) {
                    DtlsOutput::Transmit(len) => {
                        let flying = &mut self.sides[1 - index].flying;
                        if flying.len() >= FLYING_MAX {
                            flying.pop_front();
                        }
                        flying.push_back(out[..len].to_vec());
                    }
                    DtlsOutput::Connected { .. } => self.sides[index].connected += 1,
                    DtlsOutput::Ended(_) => self.sides[index].ended += 1,
                    DtlsOutput::Timeout(at) => break self.sides[index].deadline = at,
                }
            }
        }
    }
}
