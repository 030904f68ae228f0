//! What a far end saw and heard. Published after every change; waiting for a fact is `watch::Receiver::wait_for`.

use super::wire::Counters;
use engine::dtls::DtlsVersion;
use engine::error::Cause;
use engine::leg::LegStats;
use engine::srtp::SrtpProfile;
use engine::time::{Instant, RtpTimestamp};
use std::net::SocketAddr;

/// Samples kept of what was heard: ten minutes at 16 kHz. Past it the call goes on unrecorded.
pub const RECORDING_SAMPLES_MAX: usize = 600 * 16_000;
/// Different SSRCs remembered. One is right; past this many the rest is not told apart.
pub const SSRCS_MAX: usize = 16;
/// Keys and played clips remembered.
pub const NOTES_MAX: usize = 256;

/// A clip that was played into the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Played {
    /// When its first frame was sent.
    pub from: Instant,
    /// When its last frame was sent; `None` while it plays.
    pub until: Option<Instant>,
    /// How much of the recording was there when it began: its echo lies behind that.
    pub heard_samples: usize,
}

/// Facts about one leg, from its far end.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// ICE chose a pair.
    pub nominated: Option<(Instant, SocketAddr)>,
    /// Keys are there.
    pub connected: Option<(Instant, DtlsVersion, SrtpProfile)>,
    /// Raw datagrams.
    pub wire: Counters,
    /// First RTP packet that decrypted.
    pub first_received: Option<Instant>,
    /// First RTP packet sent.
    pub first_sent: Option<Instant>,
    /// RTP packets sent.
    pub packets_sent: u64,
    /// RTP packets received and decrypted.
    pub packets_received: u64,
    /// Datagrams that the leg called noise.
    pub dropped: u64,
    /// SSRCs of what decrypted, in order of appearance.
    pub ssrcs: Vec<u32>,
    /// Order of the received stream.
    pub continuity: Continuity,
    /// What was heard.
    pub heard: Recording,
    /// Keys that the peer pressed.
    pub digits: Vec<(Instant, char)>,
    /// Clips that we played.
    pub played: Vec<Played>,
    /// The leg's figures.
    pub stats: LegStats,
    /// The leg ended by itself, or was closed.
    pub ended: Option<(Instant, Cause)>,
}

/// Mono sound as it was heard, without gaps from its first packet on.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Samples per second.
    pub rate_hz: u32,
    /// When the first packet came: the time of `pcm[0]`.
    pub from: Option<Instant>,
    /// The samples.
    pub pcm: Vec<i16>,
}

impl Recording {
    /// The samples from `instant` on.
    pub fn since(&self, instant: Instant) -> &[i16] {
        let skipped =
            self.from.map_or(0, |from| instant.since(from).as_millis() as usize * self.rate_hz as usize / 1000);
        self.pcm.get(skipped..).unwrap_or(&[])
    }

    /// Appends, up to `RECORDING_SAMPLES_MAX`.
    pub fn push(&mut self, now: Instant, samples: &[i16]) {
        self.from.get_or_insert(now);
        let room = RECORDING_SAMPLES_MAX.saturating_sub(self.pcm.len());
        self.pcm.extend_from_slice(&samples[..samples.len().min(room)]);
    }
}

/// Whether sequence numbers step by one and timestamps follow the sample clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Continuity {
    last: Option<(u16, RtpTimestamp, bool)>,
    /// Packets whose sequence number is not one more than the one before: lost, repeated or reordered.
    pub sequence_faults: u64,
    /// Neighbouring audio packets whose timestamps are not whole packet times apart.
    pub timestamp_faults: u64,
}

impl Continuity {
    /// Takes one packet; `ticks` is one packet time, `audio` tells it from telephone-event.
    pub fn packet(&mut self, sequence: u16, timestamp: RtpTimestamp, ticks: u32, audio: bool) {
        if let Some((last, at, last_audio)) = self.last {
            if sequence != last.wrapping_add(1) {
                self.sequence_faults += 1;
            } else if audio && last_audio {
                // A sender that was late skips whole packet times and stays on the sample clock.
                let step = timestamp.distance_from(at);
                self.timestamp_faults += u64::from(step <= 0 || !(step as u32).is_multiple_of(ticks));
            }
        }
        self.last = Some((sequence, timestamp, audio));
    }
}

impl Observed {
    /// Notes one decrypted packet's source.
    pub fn source(&mut self, now: Instant, ssrc: u32) {
        self.first_received.get_or_insert(now);
        self.packets_received += 1;
        if !self.ssrcs.contains(&ssrc) && self.ssrcs.len() < SSRCS_MAX {
            self.ssrcs.push(ssrc);
        }
    }

    /// Notes one key.
    pub fn digit(&mut self, now: Instant, key: char) {
        if self.digits.len() < NOTES_MAX {
            self.digits.push((now, key));
        }
    }

    /// The keys in order.
    pub fn keys(&self) -> String {
        self.digits.iter().map(|(_, key)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continuity_counts_what_steps_wrongly_and_forgives_wraps_and_events() {
        let mut stream = Continuity::default();
        stream.packet(65_535, RtpTimestamp(u32::MAX - 959), 960, true);
        stream.packet(0, RtpTimestamp(0), 960, true);
        stream.packet(1, RtpTimestamp(960), 960, false);
        stream.packet(2, RtpTimestamp(960), 960, false);
        stream.packet(3, RtpTimestamp(2_880), 960, true);
        assert_eq!((stream.sequence_faults, stream.timestamp_faults), (0, 0));
        stream.packet(4, RtpTimestamp(2_881), 960, true);
        stream.packet(6, RtpTimestamp(4_800), 960, true);
        assert_eq!((stream.sequence_faults, stream.timestamp_faults), (1, 1));
    }

    #[test]
    fn a_recording_is_cut_by_time() {
        let mut heard = Recording { rate_hz: 8_000, ..Recording::default() };
        heard.push(Instant::from_millis(100), &[1; 160]);
        heard.push(Instant::from_millis(120), &[2; 160]);
        assert_eq!(heard.since(Instant::from_millis(120)), &[2; 160]);
        assert_eq!(heard.since(Instant::ZERO).len(), 320);
        assert!(heard.since(Instant::from_millis(900)).is_empty());
    }
}
