//! What the network does to each packet: seeded by the point's name, the same for the gateway and both references.

use engine::random::Random;
use serde_json::{Value, json};

/// Outages come this often.
const SPIKE_EVERY_PACKETS: usize = 400;

/// One network.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// Share of packets lost.
    pub loss_pct: u32,
    /// Packets lost in a row.
    pub burst: usize,
    /// Delay of each packet: uniform between nothing and this, packets overtake each other.
    pub jitter_ms: u32,
    /// Error of the sender's clock; positive is fast.
    pub drift_ppm: i64,
    /// Every 8 s nothing arrives for this long, then all that was held up.
    pub spike_ms: u32,
}

impl Network {
    /// For each packet its delay in microseconds beyond the fastest, `None` when it is lost.
    pub fn flights(&self, name: &str, packets: usize) -> Vec<Option<u64>> {
        let seed = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let mut random = Random::from_test_seed(seed);
        let mut flights: Vec<Option<u64>> =
            (0..packets).map(|_| Some(u64::from(random.below(self.jitter_ms * 1_000 + 1)))).collect();
        if self.spike_ms > 0 {
            for begin in (SPIKE_EVERY_PACKETS / 2..packets).step_by(SPIKE_EVERY_PACKETS) {
                for (index, flight) in flights.iter_mut().enumerate().skip(begin) {
                    let held_us = (u64::from(self.spike_ms) * 1_000).saturating_sub((index - begin) as u64 * 20_000);
                    if held_us == 0 {
                        break;
                    }
                    *flight = Some(held_us);
                }
            }
        }
        // Exactly the share that is named, wherever the seed puts it.
        let bursts = packets * self.loss_pct as usize / 100 / self.burst;
        let mut lost = 0;
        while lost < bursts {
            let begin = random.below((packets - self.burst) as u32) as usize;
            let free = begin.saturating_sub(1)..(begin + self.burst + 1).min(packets);
            // Bursts keep apart; single losses may happen to meet.
            let around = if self.burst > 1 { free } else { begin..begin + 1 };
            if flights[around].iter().all(Option::is_some) {
                flights[begin..begin + self.burst].fill(None);
                lost += 1;
            }
        }
        flights
    }

    /// When packet `index` is sent, by the gateway's clock: nanoseconds after the first.
    pub fn sent_nanos(&self, index: usize) -> u64 {
        let nanos = index as i64 * 20_000_000;
        (nanos - nanos / 1_000_000 * self.drift_ppm) as u64
    }

    pub fn to_json(self) -> Value {
        json!({
            "loss_pct": self.loss_pct,
            "burst": self.burst,
            "jitter_ms": self.jitter_ms,
            "drift_ppm": self.drift_ppm,
            "spike_ms": self.spike_ms,
        })
    }
}
