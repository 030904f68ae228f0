//! What the arrivals of a stream say about its network: how long playout has to wait.
//!
//! ```text
//!  transit = arrival - timestamp                      share of packets
//!  (of arbitrary origin: the clocks differ)      │ ▄█▄
//!                                                │▄████▄▁   ▁       ◄─ histogram of 2 ms bins, forgetting
//!                                                └──────┬───────► transit
//!                                      target: all but 0.5 % have come
//! ```
//!
//! A packet is to be played at its timestamp plus the target. The histogram holds transits themselves and not their distance from the
//! fastest: so a route that changes, or a clock that drifts, moves the target as it must and nothing has to be re-based. Where in-band FEC
//! is there and packets are lost, the target also lets the *next* packet come in time, for as many of the lost ones as matter.
//!
//! Why not an early maximum with slow decay, as many do: one outage of 300 ms would be paid for by everybody's next ten seconds. Packets that
//! come together after an outage are one event here, not fifteen; a second outage soon after the first is another matter (`peaks`).

use crate::time::Instant;

/// Width of a bin, and how many there are: 512 ms. What lies beyond counts in the last one.
const BIN_NANOS: i64 = 2_000_000;
const BINS: usize = 256;

/// Packets that are remembered, in the mean: 8 s of 20 ms.
const MEMORY_PACKETS: f32 = 400.0;

/// Share of packets that may come after their playout time: concealment and FEC have them.
const LATE_SHARE: f32 = 0.005;

/// Share of packets that may be lost unrecovered because the packet with their FEC came too late.
const UNRECOVERED_SHARE: f32 = 0.003;

/// Packets lost in a row that are waited out: a decoder that knows that they are lost, and what comes after them, conceals them better than
/// one that is surprised again and again.
const BURST_PACKETS_MAX: u32 = 3;

/// Bursts that are remembered, in the mean. Fewer, and single losses that happen to meet move the target by a packet and back: at 20 % loss
/// every second or two, each time by stretching.
const MEMORY_BURSTS: f32 = 12.0;

/// Beyond the target: timers tick in milliseconds.
const MARGIN_NANOS: i64 = 1_000_000;

/// Beyond the first packet's transit, while nothing else is known.
const FIRST_MARGIN_NANOS: i64 = 8_000_000;
const FIRST_PACKETS: u32 = 10;

/// Packets closer together than this were held up together.
const BATCH_NANOS: i64 = 2_000_000;
const BATCH_STEP_NANOS: i64 = 8_000_000;

/// A delay so far above the target is an outage, and the second within `PEAK_NANOS` is awaited like jitter.
const PEAK_STEP_NANOS: i64 = 30_000_000;
const PEAK_NANOS: i64 = 6_000_000_000;
const PEAKS: usize = 4;

/// What outages may add at most: beyond it stretching is the better answer.
const PEAK_NANOS_MAX: i64 = 120_000_000;

/// The most that playout waits beyond the fastest packet, whatever the network shows.
pub const TARGET_MS_MAX: u64 = 200;

/// A packet that is later than this belongs to another timeline, and so does one that is so much faster than all others: no route gets
/// that much shorter.
const OTHER_TIMELINE_LATE_NANOS: i64 = 2_000_000_000;
const OTHER_TIMELINE_EARLY_NANOS: i64 = 300_000_000;

/// Transits remembered for the fastest path: the least of four spans of this many packets.
const FASTEST_PACKETS: u32 = 100;

/// Statistics of one stream's arrivals.
#[derive(Clone, Debug)]
pub struct Arrivals {
    bins: [f32; BINS],
    /// Lower edge of the first bin.
    origin: i64,
    /// Highest bin that may hold weight.
    top: usize,
    /// Weight of the next packet, growing: the others fade by comparison.
    weight: f32,
    total: f32,
    packets: u32,
    last_at: i64,
    last_transit: i64,
    fastest: [i64; 4],
    peaks: [(i64, i64); PEAKS],
    peak_next: usize,
    /// Within one outage.
    is_peak: bool,
    target: i64,
    lost_share: f32,
    /// Packets lost in a row: in the mean, and just now.
    burst: f32,
    /// How many that mean is of, up to `MEMORY_BURSTS`.
    bursts: f32,
    lost_run: u32,
    /// Share of packets that carry redundancy for the one before.
    redundant_share: f32,
}

impl Arrivals {
    /// Nothing has come.
    pub fn new() -> Arrivals {
        Arrivals {
            bins: [0.0; BINS],
            origin: 0,
            top: 0,
            weight: 1.0,
            total: 0.0,
            packets: 0,
            last_at: i64::MIN / 2,
            last_transit: 0,
            fastest: [i64::MAX; 4],
            peaks: [(i64::MIN / 2, 0); PEAKS],
            peak_next: 0,
            is_peak: false,
            target: 0,
            lost_share: 0.0,
            burst: 1.0,
            bursts: 1.0,
            lost_run: 0,
            redundant_share: 0.0,
        }
    }

    /// Forgets everything but how lossy the path is.
    pub fn restart(&mut self) {
        *self = Arrivals {
            lost_share: self.lost_share,
            burst: self.burst,
            bursts: self.bursts,
            redundant_share: self.redundant_share,
            ..Arrivals::new()
        };
    }

    /// Whether `transit` can belong to the same timeline as those before.
    pub fn is_plausible(&self, transit: i64) -> bool {
        let beyond = transit.saturating_sub(self.fastest());
        self.packets == 0 || (-OTHER_TIMELINE_EARLY_NANOS..OTHER_TIMELINE_LATE_NANOS).contains(&beyond)
    }

    /// Takes note of a packet: its arrival less its timestamp, in nanoseconds; `packet_nanos` is how long it plays.
    pub fn observe(&mut self, now: Instant, transit: i64, is_redundant: bool, packet_nanos: i64) {
        let at = now.as_nanos() as i64;
        let is_batched = at - self.last_at < BATCH_NANOS && transit < self.last_transit - BATCH_STEP_NANOS;
        (self.last_at, self.last_transit) = (at, transit);
        self.redundant_share += (f32::from(u8::from(is_redundant)) - self.redundant_share) / 50.0;
        self.note_fastest(transit);
        self.note_peak(at, transit, is_batched);
        if !is_batched || self.packets == 0 {
            self.count(transit);
        }
        self.packets = self.packets.saturating_add(1);
        self.target = self.aim(at, packet_nanos);
    }

    /// Takes note of how a packet ended: played, or lost.
    pub fn note_fate(&mut self, is_lost: bool) {
        let memory = if is_lost && self.lost_share < 0.02 { MEMORY_PACKETS / 4.0 } else { MEMORY_PACKETS };
        self.lost_share += (f32::from(u8::from(is_lost)) - self.lost_share) / memory;
        if is_lost {
            self.lost_run += 1;
        } else if self.lost_run > 0 {
            self.bursts = (self.bursts + 1.0).min(MEMORY_BURSTS);
            self.burst += (self.lost_run.min(BURST_PACKETS_MAX) as f32 - self.burst) / self.bursts;
            self.lost_run = 0;
        }
    }

    /// Transit at which packets are to be played.
    pub fn target(&self) -> i64 {
        self.target
    }

    /// Least transit of the last few seconds.
    pub fn fastest(&self) -> i64 {
        self.fastest.iter().copied().min().unwrap_or(0)
    }

    /// The target beyond the fastest path.
    pub fn target_ms(&self) -> u32 {
        if self.packets == 0 { 0 } else { ((self.target - self.fastest()).max(0) / 1_000_000) as u32 }
    }

    fn note_fastest(&mut self, transit: i64) {
        if self.packets.is_multiple_of(FASTEST_PACKETS) {
            self.fastest.rotate_right(1);
            self.fastest[0] = transit;
        }
        self.fastest[0] = self.fastest[0].min(transit);
    }

    /// An outage counts once, by its longest delay.
    fn note_peak(&mut self, at: i64, transit: i64, is_batched: bool) {
        let is_peak = self.packets > 0 && transit > self.target + PEAK_STEP_NANOS;
        if is_peak && !self.is_peak && !is_batched {
            self.peaks[self.peak_next] = (at, transit);
            self.peak_next = (self.peak_next + 1) % PEAKS;
        }
        self.is_peak = is_peak || (self.is_peak && is_batched);
    }

    fn count(&mut self, transit: i64) {
        if self.packets == 0 {
            self.origin = transit - 4 * BIN_NANOS;
        }
        self.make_room(transit);
        let bin = ((transit - self.origin) / BIN_NANOS).clamp(0, BINS as i64 - 1) as usize;
        self.bins[bin] += self.weight;
        self.total += self.weight;
        self.top = self.top.max(bin);
        // A growing weight for each makes those before it fade, without touching them.
        let remembered = MEMORY_PACKETS.min(self.packets as f32 + 2.0);
        self.weight *= 1.0 + 1.0 / remembered;
        if self.packets < MEMORY_PACKETS as u32 {
            // As long as all can be remembered, all count alike.
            self.weight = 1.0;
        }
        if self.weight > 1.0e6 {
            self.rescale();
        }
    }

    /// Moves the bins so that `transit` finds its place: at once toward faster ones, and when the fast ones have faded toward slower.
    fn make_room(&mut self, transit: i64) {
        if transit < self.origin {
            let by = (((self.origin - transit) + 4 * BIN_NANOS) / BIN_NANOS) as usize;
            let moved = by.min(BINS);
            let beyond: f32 = self.bins[BINS - moved..].iter().sum();
            self.bins.copy_within(..BINS - moved, moved);
            self.bins[..moved].fill(0.0);
            self.bins[BINS - 1] += beyond;
            self.origin -= by as i64 * BIN_NANOS;
            self.top = (self.top + by).min(BINS - 1);
        } else if transit - self.origin >= (BINS as i64 / 2) * BIN_NANOS {
            let faded = self.total * LATE_SHARE / 10.0;
            let mut empty = 0.0;
            let free = self.bins.iter().take_while(|&&bin| {
                empty += bin;
                empty < faded
            });
            let by = free.count().saturating_sub(4).min(BINS - 1);
            let gone: f32 = self.bins[..by].iter().sum();
            self.bins.copy_within(by.., 0);
            self.bins[BINS - by..].fill(0.0);
            self.total -= gone;
            self.origin += by as i64 * BIN_NANOS;
            self.top = self.top.saturating_sub(by);
        }
    }

    fn rescale(&mut self) {
        let factor = 1.0 / self.weight;
        let mut total = 0.0;
        let mut top = 0;
        for (index, bin) in self.bins.iter_mut().enumerate() {
            *bin *= factor;
            // What is left of a packet of long ago.
            if *bin < 1.0e-4 {
                *bin = 0.0;
            } else {
                top = index;
            }
            total += *bin;
        }
        (self.weight, self.total, self.top) = (1.0, total, top);
    }

    /// The transit that all but `share` of the packets stay below.
    fn quantile(&self, share: f32) -> i64 {
        let beyond = share * self.total;
        let mut sum = 0.0;
        for bin in (0..=self.top).rev() {
            if sum + self.bins[bin] > beyond {
                let within = (beyond - sum) / self.bins[bin];
                return self.origin + ((bin as f32 + 1.0 - within) * BIN_NANOS as f32) as i64;
            }
            sum += self.bins[bin];
        }
        self.origin
    }

    fn aim(&self, at: i64, packet_nanos: i64) -> i64 {
        let mut target = self.quantile(LATE_SHARE);
        if self.packets < FIRST_PACKETS {
            target += FIRST_MARGIN_NANOS * i64::from(FIRST_PACKETS - self.packets) / i64::from(FIRST_PACKETS);
        }
        if self.lost_share > UNRECOVERED_SHARE && self.redundant_share > 0.2 {
            let burst = (self.burst + 0.5) as i64;
            target = target.max(self.quantile(UNRECOVERED_SHARE / self.lost_share) + burst * packet_nanos);
        }
        let fastest = self.fastest();
        if let Some(peak) = self.repeated_peak(at) {
            target = target.max(peak.min(fastest + PEAK_NANOS_MAX));
        }
        (target + MARGIN_NANOS).min(fastest + TARGET_MS_MAX as i64 * 1_000_000)
    }

    /// What at least two of the recent outages needed.
    fn repeated_peak(&self, at: i64) -> Option<i64> {
        let (mut highest, mut second) = (None, None);
        for peak in self.peaks.iter().filter(|peak| at - peak.0 < PEAK_NANOS).map(|peak| Some(peak.1)) {
            second = second.max(highest.min(peak));
            highest = highest.max(peak);
        }
        second
    }
}

impl Default for Arrivals {
    fn default() -> Self {
        Arrivals::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const PACKET: i64 = 20_000_000;
    const MS: i64 = 1_000_000;

    /// Feeds packets of 20 ms with these delays in ms, in the order of their arrival.
    fn feed(arrivals: &mut Arrivals, first: i64, delays_ms: impl IntoIterator<Item = i64>, redundant: bool) {
        let mut all: Vec<(i64, i64)> = delays_ms
            .into_iter()
            .enumerate()
            .map(|(index, delay)| ((first + index as i64) * PACKET + delay * MS + 1_000 * MS, delay * MS))
            .collect();
        all.sort_by_key(|&(at, _)| at);
        for (at, delay) in all {
            // The clocks differ by 77 s.
            arrivals.observe(Instant::from_nanos(at as u64), delay - 77_000 * MS, redundant, PACKET);
        }
    }

    fn beyond_fastest_ms(arrivals: &Arrivals) -> f64 {
        (arrivals.target() - arrivals.fastest()) as f64 / 1e6
    }

    #[test]
    fn a_steady_path_asks_for_next_to_nothing() {
        let mut arrivals = Arrivals::new();
        feed(&mut arrivals, 0, [10; 50], true);
        assert!(beyond_fastest_ms(&arrivals) <= 3.0, "{}", beyond_fastest_ms(&arrivals));
    }

    #[test]
    fn uniform_jitter_is_covered_but_for_the_last_half_percent() {
        let mut random = Random::from_test_seed(3);
        for width in [20, 50, 100] {
            let mut arrivals = Arrivals::new();
            feed(&mut arrivals, 0, (0..1_000).map(|_| i64::from(random.below(width + 1))), false);
            let target = beyond_fastest_ms(&arrivals);
            assert!((f64::from(width) * 0.95..f64::from(width) + 4.0).contains(&target), "{width}: {target}");
        }
    }

    #[test]
    fn loss_asks_for_one_packet_more_only_where_the_next_one_carries_redundancy() {
        for (redundant, expected) in [(true, 20.0..24.0), (false, 0.0..4.0)] {
            let mut arrivals = Arrivals::new();
            feed(&mut arrivals, 0, [0; 100], redundant);
            for _ in 0..20 {
                arrivals.note_fate(true);
            }
            feed(&mut arrivals, 100, [0; 10], redundant);
            assert!(expected.contains(&beyond_fastest_ms(&arrivals)), "{redundant}: {}", beyond_fastest_ms(&arrivals));
        }
    }

    /// Packets of which those for which `is_lost` says so are lost; answers the targets beyond the fastest path, in ms.
    fn targets_ms(packets: i64, mut is_lost: impl FnMut(i64) -> bool) -> Vec<f64> {
        let mut arrivals = Arrivals::new();
        let mut targets = Vec::new();
        for index in 0..packets {
            let lost = is_lost(index);
            if !lost {
                feed(&mut arrivals, index, [0], true);
            }
            arrivals.note_fate(lost);
            targets.push(beyond_fastest_ms(&arrivals));
        }
        targets
    }

    #[test]
    fn single_losses_that_happen_to_meet_are_no_bursts() {
        let mut random = Random::from_test_seed(4);
        let targets = targets_ms(20_000, |_| random.below(5) == 0);
        let waits = targets[500..].iter().filter(|&&target| target > 30.0).count();
        assert!(waits < 20_000 / 50, "{waits}");
    }

    #[test]
    fn bursts_are_waited_out_from_the_third_on() {
        let targets = targets_ms(400, |index| index >= 97 && index % 100 >= 97);
        assert!((20.0..24.0).contains(&targets[99]), "{}", targets[99]);
        assert!((60.0..64.0).contains(&targets[310]), "{}", targets[310]);
    }

    #[test]
    fn one_outage_is_not_paid_for_afterwards_and_the_second_is_awaited() {
        let outage = |arrivals: &mut Arrivals, first| feed(arrivals, first, (0..6).map(|n| 100 - 20 * n), true);
        let mut arrivals = Arrivals::new();
        feed(&mut arrivals, 0, [0; 400], true);
        outage(&mut arrivals, 400);
        feed(&mut arrivals, 406, [0; 20], true);
        assert!(beyond_fastest_ms(&arrivals) < 10.0, "{}", beyond_fastest_ms(&arrivals));
        outage(&mut arrivals, 426);
        feed(&mut arrivals, 432, [0; 1], true);
        assert!((80.0..=125.0).contains(&beyond_fastest_ms(&arrivals)), "{}", beyond_fastest_ms(&arrivals));
        feed(&mut arrivals, 433, [0; 400], true);
        assert!(beyond_fastest_ms(&arrivals) < 10.0, "and forgotten: {}", beyond_fastest_ms(&arrivals));
    }

    #[test]
    fn a_slower_route_is_followed_within_ten_packets_and_a_faster_one_within_the_memory() {
        let mut arrivals = Arrivals::new();
        feed(&mut arrivals, 0, [0; 500], false);
        let before = arrivals.target();
        feed(&mut arrivals, 500, [60; 10], false);
        assert!(arrivals.target() - before > 55 * MS);
        feed(&mut arrivals, 510, [60; 500], false);
        assert!(beyond_fastest_ms(&arrivals) < 4.0);
        feed(&mut arrivals, 1_010, [0; 2_500], false);
        assert!((arrivals.target() - before).abs() < 4 * MS, "{}", (arrivals.target() - before) / MS);
    }

    #[test]
    fn a_drifting_clock_is_followed_for_hours() {
        for ppm in [500, -500] {
            let mut arrivals = Arrivals::new();
            // Two hours.
            for index in 0..360_000i64 {
                let transit = index * PACKET / 1_000_000 * ppm + (index * 7 % 11) * MS;
                let at = 1_000 * MS + index * PACKET + transit;
                arrivals.observe(Instant::from_nanos(at as u64), transit, false, PACKET);
                if index > 1_000 {
                    let ahead = arrivals.target() - transit;
                    assert!((-2 * MS..40 * MS).contains(&ahead), "{ppm}: {} ms at {index}", ahead / MS);
                }
            }
        }
    }

    #[test]
    fn the_target_is_bounded_whatever_comes() {
        let mut random = Random::from_test_seed(5);
        let mut arrivals = Arrivals::new();
        for index in 0..20_000i64 {
            let transit = i64::from(random.below(1_800)) * MS;
            arrivals.observe(Instant::from_nanos((index * PACKET + transit) as u64), transit, true, PACKET);
            assert!(arrivals.target_ms() <= TARGET_MS_MAX as u32 + 1);
        }
    }
}
