//! Plain counters, one set per worker, copied out once a second.

use crate::error::DropReason;

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
    /// Timers set now.
    pub timers_set: u64,
    /// Receive buffers lent out of the ring now.
    pub buffers_lent: u64,
    /// Ports that were taken before they had rested.
    pub ports_taken_early: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Packets decoded from concealment or FEC.
    pub packets_concealed: u64,
    /// Datagrams longer than `DATAGRAM_BYTES_MAX`, or without a usable source: dropped before any bridge.
    pub datagrams_malformed: u64,
    /// Datagrams of flooded sockets that were dropped before any bridge.
    pub datagrams_excess: u64,
    /// Times a flooded socket was put to rest.
    pub sockets_paused: u64,
    /// Times a multishot receive had to be armed again.
    pub rearmed: u64,
}

impl Metrics {
    /// Counts one drop.
    pub fn drop(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }
}
