//! What headers, reports and keys cost per packet. `cargo bench -p benches --bench rtp`.

use criterion::{Criterion, criterion_group, criterion_main};
use engine::random::Random;
use engine::rtp::header;
use engine::rtp::rtcp::{REPORT_BYTES_MAX, Reception, Rtcp};
use engine::rtp::sender::RtpSender;
use engine::rtp::sequence::SequenceExtender;
use engine::rtp::telephone_event::{Digit, EventReceiver};
use engine::time::{Instant, RtpTimestamp, WallAnchor};
use std::hint::black_box;

fn packets(criterion: &mut Criterion) {
    let mut sender = RtpSender::new(7, 48_000, &mut Random::from_test_seed(1));
    let mut packet = [0; 72];
    let mut now_ms = 0;
    criterion.bench_function("write the header of an audio packet", |bencher| {
        bencher.iter(|| {
            now_ms += 20;
            sender.audio(Instant::from_millis(now_ms), 111, false, 60, 960, black_box(&mut packet))
        })
    });
    criterion.bench_function("parse a packet", |bencher| bencher.iter(|| header::parse(black_box(&packet))));

    let mut extender = SequenceExtender::default();
    let mut reception = Reception::new(48_000);
    let mut sequence = 0u16;
    criterion.bench_function("count a received packet and extend its sequence number", |bencher| {
        bencher.iter(|| {
            sequence = sequence.wrapping_add(1);
            let now = Instant::from_millis(u64::from(sequence) * 20);
            reception.received(now, 7, sequence, RtpTimestamp(u32::from(sequence) * 960));
            extender.extend(black_box(sequence))
        })
    });
}

fn reports(criterion: &mut Criterion) {
    let anchor = WallAnchor { ntp_at_zero: 0xe000_0000_0000_0000 };
    let mut rtcp = Rtcp::new(Instant::ZERO, "a-name-of-24-characters-".to_owned(), anchor, Random::from_test_seed(1));
    let mut sender = RtpSender::new(7, 48_000, &mut Random::from_test_seed(2));
    let mut reception = Reception::new(48_000);
    reception.received(Instant::ZERO, 9, 1, RtpTimestamp(0));
    let mut report = [0; REPORT_BYTES_MAX];
    let mut now = Instant::ZERO;
    let mut len = 0;
    criterion.bench_function("write a sender report", |bencher| {
        bencher.iter(|| {
            now = now.plus_millis(5_000);
            sender.audio(now, 111, false, 60, 960, &mut [0; 72]);
            len = rtcp.write_report(now, Some(&sender), &mut reception, 7, black_box(&mut report));
        })
    });
    criterion.bench_function("read a sender report", |bencher| {
        bencher.iter(|| rtcp.handle(now, 9, black_box(&report[..len])))
    });
}

fn keys(criterion: &mut Criterion) {
    let mut receiver = EventReceiver::new(8_000);
    let payload = [Digit::from_char('5').expect("a key").event(), 0x0a, 0x01, 0x40];
    criterion.bench_function("an event packet of a key that is down", |bencher| {
        bencher.iter(|| receiver.handle(Instant::ZERO, RtpTimestamp(9), black_box(&payload)))
    });
}

criterion_group!(stages, packets, reports, keys);
criterion_main!(stages);
