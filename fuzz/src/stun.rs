//! The ICE agent, in every role, fed checks and answers.
//!
//! An input that had to guess a password would never get past the first lock. So some of the messages are put in order here:
//! length, transaction id, MESSAGE-INTEGRITY and FINGERPRINT are made right, and everything else is the input's.

use crate::DRAIN_STEPS_MAX;
use crate::script::Script;
use engine::ice::{IceAgent, IceCredentials, IceOutput, IceRole};
use engine::limits::DATAGRAM_BYTES_MAX;
use engine::random::Random;
use engine::sdp::{Candidate, IceDescription};
use engine::time::Instant;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use std::net::SocketAddr;

/// Password of the agent under test.
pub const LOCAL_PWD: &str = "local0123456789abcdefgh";

/// Password of its peer.
pub const REMOTE_PWD: &str = "remote123456789abcdefgh";

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1)), 3_480);

/// Messages, waits and the peer's description in any order.
pub fn stun(data: &[u8]) {
    let mut script = Script::new(data);
    let role = script.pick(&[IceRole::Lite, IceRole::Controlling, IceRole::Controlled]);
    let mut table = Table::new(role);
    table.drain();
    while !script.is_over() {
        match script.byte() % 4 {
            0 => table.wait(script.millis()),
            1 => table.describe(script.byte()),
            2 => table.raw(&mut script),
            _ => table.signed(&mut script),
        }
        table.drain();
    }
    // Whatever was said, a leg that hears no more is given up.
    for _ in 0..100 {
        table.wait(1_000);
    }
    assert!(table.ends <= 1);
}

/// An agent and what was seen of it.
struct Table {
    agent: IceAgent,
    now: Instant,
    deadline: Instant,
    /// Transaction id of its last message.
    last_id: [u8; 12],
    ends: u32,
    described: bool,
}

impl Table {
    fn new(role: IceRole) -> Table {
        let now = Instant::from_millis(1_000);
        let local = IceCredentials { ufrag: "lufr".to_owned(), pwd: LOCAL_PWD.to_owned() };
        let agent = IceAgent::new(now, role, local, Random::from_test_seed(1));
        Table { agent, now, deadline: now, last_id: [0; 12], ends: 0, described: false }
    }

    fn describe(&mut self, choice: u8) {
        let candidates = (0..choice >> 2)
            .map(|number| Candidate {
                address: SocketAddr::new(PEER.ip(), PEER.port() + u16::from(number)),
                priority: 2_130_706_431 - u32::from(number),
            })
            .collect();
        let remote =
            IceDescription { ufrag: "rufr".to_owned(), pwd: REMOTE_PWD.to_owned(), lite: choice & 1 != 0, candidates };
        self.agent.set_remote(self.now, &remote);
        self.described = true;
    }

    fn raw(&mut self, script: &mut Script<'_>) {
        let from = source(script.byte());
        let _ = self.agent.handle_datagram(self.now, from, script.chunk());
    }

    fn signed(&mut self, script: &mut Script<'_>) {
        let from = source(script.byte());
        let class = script.pick(&[0x0001, 0x0101, 0x0111, 0x0011]);
        let mut id = [0; 12];
        match script.byte() {
            0..=127 => id = self.last_id,
            number => id[11] = number,
        }
        let is_for_us = matches!(class, 0x0001 | 0x0011);
        let pwd = if is_for_us { LOCAL_PWD } else { REMOTE_PWD };
        let message = signed_message(class, &id, script.chunk(), pwd);
        let _ = self.agent.handle_datagram(self.now, from, &message);
    }

    /// Time passes, deadline by deadline.
    fn wait(&mut self, millis: u64) {
        let end = self.now.plus_millis(millis);
        for _ in 0..DRAIN_STEPS_MAX {
            if self.deadline > end {
                self.now = end;
                self.agent.handle_timeout(self.now);
                return self.drain();
            }
            self.now = self.now.max(self.deadline);
            self.agent.handle_timeout(self.now);
            self.drain();
        }
        panic!("time stands still at {:?}", self.now);
    }

    fn drain(&mut self) {
        let mut out = [0; DATAGRAM_BYTES_MAX];
        for _ in 0..DRAIN_STEPS_MAX {
            match self.agent.poll_output(self.now, &mut out) {
                IceOutput::Transmit { len, .. } => {
                    assert!((20..=out.len()).contains(&len));
                    self.last_id.copy_from_slice(&out[8..20]);
                }
                IceOutput::Nominated(_) => assert!(self.described, "a pair was nominated without a description"),
                IceOutput::Failed | IceOutput::ConsentLost => self.ends += 1,
                IceOutput::Timeout(at) => {
                    assert!(at > self.now, "a deadline lies in the past");
                    self.deadline = at;
                    return;
                }
            }
        }
        panic!("the agent never comes to rest");
    }
}

/// The peer, its other ports, and strangers of both families.
fn source(choice: u8) -> SocketAddr {
    match choice {
        0..=31 => SocketAddr::new(PEER.ip(), PEER.port() + u16::from(choice)),
        32..=200 => SocketAddr::from(([192, 0, 2, choice], 9)),
        _ => SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(choice)], 0)),
    }
}

/// A message whose integrity and fingerprint are right (RFC 8489 §14.5, §14.7), whatever its other attributes are.
pub fn signed_message(class: u16, id: &[u8; 12], attributes: &[u8], pwd: &str) -> Vec<u8> {
    let mut message = class.to_be_bytes().to_vec();
    message.extend_from_slice(&[0, 0, 0x21, 0x12, 0xa4, 0x42]);
    message.extend_from_slice(id);
    message.extend_from_slice(attributes);
    message.resize(message.len().next_multiple_of(4), 0);
    set_length(&mut message, 24);
    let mut mac = Hmac::<Sha1>::new_from_slice(pwd.as_bytes()).expect("any length of key will do");
    mac.update(&message);
    let tag = mac.finalize().into_bytes();
    message.extend_from_slice(&[0, 8, 0, 20]);
    message.extend_from_slice(&tag);
    set_length(&mut message, 8);
    let crc = crc32(&message) ^ 0x5354_554e;
    message.extend_from_slice(&[0x80, 0x28, 0, 4]);
    message.extend_from_slice(&crc.to_be_bytes());
    message
}

/// The length field as it is once `more` bytes follow.
fn set_length(message: &mut [u8], more: usize) {
    let length = (message.len() - 20 + more) as u16;
    message[2..4].copy_from_slice(&length.to_be_bytes());
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 != 0 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this were not so, the signed messages would test nothing.
    #[test]
    fn a_signed_check_is_accepted_and_nominates() {
        let mut table = Table::new(IceRole::Lite);
        table.describe(1);
        // USERNAME, PRIORITY, ICE-CONTROLLING, USE-CANDIDATE
        let mut attributes = vec![0, 6, 0, 9];
        attributes.extend_from_slice(b"lufr:rufr\0\0\0");
        attributes.extend_from_slice(&[0, 0x24, 0, 4, 0x6e, 0, 1, 0xff, 0x80, 0x2a, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1]);
        attributes.extend_from_slice(&[0, 0x25, 0, 0]);
        let message = signed_message(1, &[7; 12], &attributes, LOCAL_PWD);
        assert_eq!(table.agent.handle_datagram(table.now, PEER, &message), Ok(()));
        let mut out = [0; DATAGRAM_BYTES_MAX];
        let mut nominated = false;
        loop {
            match table.agent.poll_output(table.now, &mut out) {
                IceOutput::Nominated(address) => nominated = address == PEER,
                IceOutput::Timeout(_) => break,
                _ => {}
            }
        }
        assert!(nominated);
    }
}
