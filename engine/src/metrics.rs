//! Plain counters, one set per worker, copied out once a second.

use crate::error::DropReason;
use crate::time::Duration;

/// What a worker counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Datagrams handed to the kernel.
    pub datagrams_sent: u64,
    /// Datagrams that could not be sent: send queue full, or refused by the kernel.
    pub datagrams_unsent: u64,
    /// ECONNREFUSED, EHOSTUNREACH and the like: noise.
    pub socket_errors: u64,
    /// Datagrams and packets dropped, per `DropReason`.
    pub dropped: [u64; DropReason::COUNT],
    /// Events that found no room on their way to control.
    pub events_lost: u64,
    /// Bridges opened.
    pub bridges_opened: u64,
    /// Bridges refused.
    pub bridges_refused: u64,
    /// Bridges ended.
    pub bridges_ended: u64,
    /// Bridges ended by a caught bug.
    pub bridges_panicked: u64,
    /// Bridges open now.
    pub bridges_open: u64,
    /// Sockets open now.
    pub sockets_open: u64,
    /// Of these, sockets whose datagrams come by the one that running calls share.
    pub sockets_steered: u64,
    /// Timers set now.
    pub timers_set: u64,
    /// Receive buffers lent out of the ring now.
    pub buffers_lent: u64,
    /// Ports that were taken before they had rested.
    pub ports_taken_early: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Turns that found neither packet nor timer nor command.
    pub turns_idle: u64,
    /// Timers that came, by how much too late: up to each bound of `LATENESS_MS`, and later. This is the pacing of what we send.
    pub lateness: [u64; LATENESS_BUCKETS],
    /// Time in the last window, in thousandths, that the worker did not rest: at 1,000 it has no time left, whoever took it.
    pub busy_permille: u64,
    /// CPU time of the worker in the last window, in thousandths of the time that passed.
    pub cpu_permille: u64,
    /// The encoders' complexity that the load allows.
    pub complexity: u64,
    /// Bridges refused because the core has no time for another call.
    pub bridges_refused_busy: u64,
    /// Packets decoded from concealment or FEC.
    pub packets_concealed: u64,
    /// Opus packets encoded with in-band FEC, because the receiver reported loss.
    pub packets_redundant: u64,
    /// Datagrams longer than `DATAGRAM_BYTES_MAX`, or without a usable source: dropped before any bridge.
    pub datagrams_malformed: u64,
    /// Datagrams of flooded sockets that were dropped before any bridge.
    pub datagrams_excess: u64,
    /// Datagrams of running calls that the kernel dropped because the socket they share was full.
    pub datagrams_overflowed: u64,
    /// DTLS datagrams that had to wait for a later turn, since many calls began at once.
    pub handshakes_delayed: u64,
    /// DTLS datagrams that were dropped because too many waited.
    pub handshakes_dropped: u64,
    /// Times a flooded socket was put to rest.
    pub sockets_paused: u64,
    /// Times a multishot receive had to be armed again.
    pub rearmed: u64,
}

/// Upper bounds of the buckets of `Metrics::lateness`, ms; the last bucket has none.
pub const LATENESS_MS: [u64; LATENESS_BUCKETS - 1] = [1, 2, 5, 10, 20];

/// Buckets of `Metrics::lateness`.
pub const LATENESS_BUCKETS: usize = 6;

impl Metrics {
    /// Counts one timer that came `late` too late.
    pub fn timer(&mut self, late: Duration) {
        let millis = late.as_micros().div_ceil(1_000) as u64;
        let bucket = LATENESS_MS.iter().position(|&bound| millis <= bound).unwrap_or(LATENESS_MS.len());
        self.lateness[bucket] += 1;
    }

    /// Counts one drop.
    pub fn drop(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_falls_into_the_first_bucket_that_reaches_it() {
        let mut metrics = Metrics::default();
        for micros in [0, 1, 1_000, 1_001, 2_000, 5_000, 20_000, 20_001, 9_000_000] {
            metrics.timer(Duration::from_micros(micros));
        }
        assert_eq!(metrics.lateness, [3, 2, 1, 0, 1, 2]);
    }
}
