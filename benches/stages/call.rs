//! What a whole call costs in 20 ms, both ways, without sockets; and its set-up. `cargo bench -p benches --bench call`.

use benches::{Call, Kind};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use engine::sdp::Codec;
use std::cell::RefCell;

const CALLS: [(&str, Kind, Kind); 5] = [
    ("transcoded, whatsapp to pcmu", Kind::WhatsApp, Kind::Rtp(Codec::Pcmu)),
    ("transcoded, browser to pcma", Kind::Browser, Kind::Rtp(Codec::Pcma)),
    ("relayed, whatsapp to opus by rtp", Kind::WhatsApp, Kind::Rtp(Codec::Opus)),
    ("relayed, whatsapp to browser", Kind::WhatsApp, Kind::Browser),
    ("relayed, pcmu to pcmu by rtp", Kind::Rtp(Codec::Pcmu), Kind::Rtp(Codec::Pcmu)),
];

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("20 ms both ways");
    for (name, a, b) in CALLS {
        let call = RefCell::new(Call::set_up(a, b));
        group.bench_function(name, |bencher| {
            // One frame at a time: time goes on between two of them.
            let prepare = || call.borrow_mut().prepare();
            bencher.iter_batched_ref(prepare, |frame| call.borrow_mut().carry(frame), BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn set_up(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("set-up, both ends");
    group.sample_size(20);
    for (name, a, b) in CALLS.iter().filter(|(_, a, b)| !matches!((a, b), (Kind::Rtp(_), Kind::Rtp(_)))).skip(1) {
        group.bench_function(*name, |bencher| bencher.iter(|| Call::set_up(*a, *b).sent));
    }
    group.finish();
}

criterion_group!(stages, frames, set_up);
criterion_main!(stages);
