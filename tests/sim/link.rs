//! A seeded network path that loses, delays, reorders and repeats.

use engine::random::Random;
use engine::time::{Duration, Instant};

/// What goes wrong on a link. All zero: a perfect wire of 1 ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Datagrams lost, per cent.
    pub loss_pct: u32,
    /// Datagrams held back by up to 40 ms, so that later ones overtake them, per cent.
    pub reorder_pct: u32,
    /// Datagrams delivered twice, per cent.
    pub duplicate_pct: u32,
    /// Each datagram is late by up to this.
    pub jitter_ms: u32,
    /// Every datagram is late by this.
    pub delay_ms: u32,
}

impl Faults {
    /// Faults as bad as a mobile network in a train, drawn from `random`; one link in four is perfect.
    pub fn draw(random: &mut Random) -> Faults {
        if random.below(4) == 0 {
            return Faults::default();
        }
        Faults {
            loss_pct: random.below(21),
            reorder_pct: random.below(11),
            duplicate_pct: random.below(6),
            jitter_ms: random.below(81),
            delay_ms: random.below(121),
        }
    }
}

/// One path, both directions alike.
#[derive(Clone, Debug)]
pub struct Link {
    faults: Faults,
    random: Random,
    /// Datagrams that were lost.
    pub lost: u64,
}

impl Link {
    /// A perfect link; `random` decides what happens once it has faults.
    pub fn new(random: Random) -> Link {
        Link { faults: Faults::default(), random, lost: 0 }
    }

    /// Gives it faults.
    pub fn set(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Takes all faults away.
    pub fn heal(&mut self) {
        self.faults = Faults::default();
    }

    /// When a datagram sent now arrives: never, once or twice.
    pub fn arrivals(&mut self, now: Instant) -> impl Iterator<Item = Instant> + use<> {
        let lost = self.chance(self.faults.loss_pct);
        self.lost += u64::from(lost);
        let first = (!lost).then(|| self.arrival(now));
        let again = (!lost && self.chance(self.faults.duplicate_pct)).then(|| self.arrival(now));
        first.into_iter().chain(again)
    }

    fn arrival(&mut self, now: Instant) -> Instant {
        let mut micros = 1_000 + u64::from(self.faults.delay_ms) * 1_000;
        micros += u64::from(self.random.below(self.faults.jitter_ms * 1_000 + 1));
        if self.chance(self.faults.reorder_pct) {
            micros += u64::from(self.random.below(40_000));
        }
        now + Duration::from_micros(micros)
    }

    fn chance(&mut self, percent: u32) -> bool {
        percent > 0 && self.random.below(100) < percent
    }
}
