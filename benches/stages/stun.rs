//! A check answered during a call: ours in place, `stun_codec` by its own types. `cargo bench -p benches --bench stun`.
//!
//! Both read the request, check MESSAGE-INTEGRITY and FINGERPRINT, and write the success response with both. Ours also does what an
//! agent must: it looks up the pair and remembers that the peer lives.

use bytecodec::{DecodeExt, EncodeExt};
use criterion::{Criterion, criterion_group, criterion_main};
use engine::ice::{IceAgent, IceCredentials, IceOutput, IceRole};
use engine::random::Random;
use engine::sdp::{Candidate, IceDescription};
use engine::time::Instant;
use std::hint::black_box;
use std::net::SocketAddr;
use stun_codec::rfc5245::attributes::{IceControlled, IceControlling, Priority, UseCandidate};
use stun_codec::rfc5389::attributes::{Fingerprint, MessageIntegrity, Username, XorMappedAddress};
use stun_codec::{Message, MessageClass, MessageDecoder, MessageEncoder, define_attribute_enums};

define_attribute_enums!(
    Attribute,
    AttributeDecoder,
    AttributeEncoder,
    [Username, MessageIntegrity, Fingerprint, XorMappedAddress, Priority, UseCandidate, IceControlling, IceControlled]
);

const PWD: &str = "our-password-of-22-chars";

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 10_000))
}

fn agent(role: IceRole, name: &str) -> IceAgent {
    let local = IceCredentials { ufrag: name.to_owned(), pwd: PWD.to_owned() };
    IceAgent::new(Instant::ZERO, role, local, Random::from_test_seed(1))
}

fn described(agent: &IceAgent, lite: bool, address: SocketAddr) -> IceDescription {
    let IceCredentials { ufrag, pwd } = agent.local().clone();
    IceDescription { ufrag, pwd, lite, candidates: vec![Candidate { address, priority: 2_130_706_431 }] }
}

/// Everything an agent wants sent.
fn drain(agent: &mut IceAgent, now: Instant) -> Vec<Vec<u8>> {
    let (mut out, mut sent) = ([0; 1_500], Vec::new());
    loop {
        match agent.poll_output(now, &mut out) {
            IceOutput::Transmit { len, .. } => sent.push(out[..len].to_vec()),
            IceOutput::Timeout(_) => return sent,
            _ => {}
        }
    }
}

/// A lite agent whose peer has nominated, and a check of that peer.
fn nominated() -> (IceAgent, Vec<u8>) {
    let (mut lite, mut full) = (agent(IceRole::Lite, "usususus"), agent(IceRole::Controlling, "themthem"));
    lite.set_remote(Instant::ZERO, &described(&full, false, address(2)));
    full.set_remote(Instant::ZERO, &described(&lite, true, address(1)));
    let mut check = Vec::new();
    for millis in 0..20_000 {
        let now = Instant::from_millis(millis);
        full.handle_timeout(now);
        for request in drain(&mut full, now) {
            let _ = lite.handle_datagram(now, address(2), &request);
            check = request;
        }
        for response in drain(&mut lite, now) {
            let _ = full.handle_datagram(now, address(1), &response);
        }
    }
    assert!(lite.nominated().is_some());
    (lite, check)
}

fn checks(criterion: &mut Criterion) {
    let (mut lite, check) = nominated();
    let now = Instant::from_millis(20_000);
    let mut out = [0; 1_500];
    let mut group = criterion.benchmark_group("a check answered");
    group.bench_function("ours, in place", |bencher| {
        bencher.iter(|| {
            let _ = lite.handle_datagram(now, address(2), black_box(&check));
            match lite.poll_output(now, &mut out) {
                IceOutput::Transmit { len, .. } => len,
                _ => panic!("a check that is not answered"),
            }
        })
    });
    group.bench_function("stun_codec", |bencher| bencher.iter(|| answered(black_box(&check)).len()));
    group.finish();
}

fn answered(check: &[u8]) -> Vec<u8> {
    let mut decoder = MessageDecoder::<Attribute>::new();
    let request = decoder.decode_from_bytes(check).expect("whole").expect("a message");
    let integrity = request.get_attribute::<MessageIntegrity>().expect("integrity");
    integrity.check_short_term_credential(PWD).expect("our password");
    let mut response =
        Message::<Attribute>::new(MessageClass::SuccessResponse, request.method(), request.transaction_id());
    response.add_attribute(XorMappedAddress::new(address(2)));
    let integrity = MessageIntegrity::new_short_term_credential(&response, PWD).expect("a password");
    response.add_attribute(integrity);
    let fingerprint = Fingerprint::new(&response).expect("a message");
    response.add_attribute(fingerprint);
    MessageEncoder::new().encode_into_bytes(response).expect("a message")
}

criterion_group!(stages, checks);
criterion_main!(stages);
