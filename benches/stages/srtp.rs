//! Protect and unprotect one packet, ours against `webrtc-srtp`, in the same run: `cargo bench -p benches --bench srtp`.
//!
//! Each pass protects a packet of the next sequence number and unprotects it again, so the replay window and the
//! rollover counter work as they do in a call. 60 bytes are 20 ms of Opus at 24 kbit/s, 160 bytes 20 ms of PCMU.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use engine::srtp::{MASTER_BYTES_MAX, MasterKey, Protect, SrtpProfile, Unprotect};
use std::hint::black_box;
use webrtc_srtp::context::Context;
use webrtc_srtp::option::{srtcp_replay_protection, srtp_replay_protection};
use webrtc_srtp::protection_profile::ProtectionProfile;

const PROFILES: [(&str, SrtpProfile, ProtectionProfile); 3] = [
    ("aes128-cm-sha1-80", SrtpProfile::AesCm128HmacSha1_80, ProtectionProfile::Aes128CmHmacSha1_80),
    ("aes128-gcm", SrtpProfile::AeadAes128Gcm, ProtectionProfile::AeadAes128Gcm),
    ("aes256-gcm", SrtpProfile::AeadAes256Gcm, ProtectionProfile::AeadAes256Gcm),
];

fn protect_and_unprotect(criterion: &mut Criterion) {
    for (name, profile, theirs) in PROFILES {
        for payload_bytes in [60, 160] {
            let mut group = criterion.benchmark_group(format!("srtp/{name}/{payload_bytes}"));
            let key = MasterKey { bytes: core::array::from_fn::<u8, MASTER_BYTES_MAX, _>(|at| at as u8) };

            let (mut protect, mut unprotect) = (Protect::new(profile, &key), Unprotect::new(profile, &key));
            let mut stream = Stream::new(payload_bytes);
            let mut buffer = [0; 512];
            group.bench_function("ours", |bencher| {
                bencher.iter(|| {
                    let packet = stream.next();
                    buffer[..packet.len()].copy_from_slice(packet);
                    let len = protect.rtp(&mut buffer, packet.len()).unwrap();
                    black_box(unprotect.rtp(black_box(&mut buffer[..len])).unwrap())
                });
            });

            let mut sender = oracle(profile, theirs, &key);
            let mut receiver = oracle(profile, theirs, &key);
            let mut stream = Stream::new(payload_bytes);
            group.bench_function("webrtc-srtp", |bencher| {
                bencher.iter(|| {
                    let protected = sender.encrypt_rtp(stream.next()).unwrap();
                    black_box(receiver.decrypt_rtp(black_box(&protected)).unwrap().len())
                });
            });
            group.finish();
        }
    }
}

/// What a call pays once, at set-up.
fn key_derivation(criterion: &mut Criterion) {
    let key = MasterKey { bytes: [7; MASTER_BYTES_MAX] };
    for (name, profile, _) in PROFILES {
        criterion.bench_function(&format!("srtp/{name}/keys"), |bencher| {
            bencher.iter_batched(|| key.clone(), |key| Protect::new(profile, &key), BatchSize::SmallInput);
        });
    }
}

fn oracle(profile: SrtpProfile, theirs: ProtectionProfile, key: &MasterKey) -> Context {
    let (master, rest) = key.bytes.split_at(profile.key_bytes());
    let salt = &rest[..profile.salt_bytes()];
    let (rtp, rtcp) = (srtp_replay_protection(128), srtcp_replay_protection(128));
    Context::new(master, salt, theirs, Some(rtp), Some(rtcp)).unwrap()
}

/// RTP packets with running sequence numbers.
struct Stream {
    packet: Vec<u8>,
    sequence: u16,
}

impl Stream {
    fn new(payload_bytes: usize) -> Stream {
        let mut packet = vec![0x55; 12 + payload_bytes];
        packet[..2].copy_from_slice(&[0x80, 111]);
        Stream { packet, sequence: 0 }
    }

    fn next(&mut self) -> &[u8] {
        self.sequence = self.sequence.wrapping_add(1);
        self.packet[2..4].copy_from_slice(&self.sequence.to_be_bytes());
        &self.packet
    }
}

criterion_group!(benches, protect_and_unprotect, key_derivation);
criterion_main!(benches);
