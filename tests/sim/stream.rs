//! What must hold for every packet that leaves the gateway, looked at before the network can touch it.

use engine::time::Instant;

/// One RTP stream as it leaves the gateway.
#[derive(Clone, Debug)]
pub struct StreamCheck {
    name: &'static str,
    clock_rate_hz: u32,
    audio_payload_type: u8,
    last: Option<Sent>,
    first_audio: Option<(Instant, u32)>,
    elapsed_ticks: u64,
    last_audio_timestamp: u32,
    /// RTP packets that left.
    pub packets: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    ssrc: u32,
    sequence: u16,
}

/// How far the timestamps of a stream may be from the clock: what the worst link's jitter (80 ms) and reordering (40 ms) do to a flow
/// that is driven by arrival, its delay (120 ms), which is gone at once when the link heals, and one frame.
const OFF_MS_MAX: i64 = 260;

impl StreamCheck {
    /// For one direction of one leg.
    pub fn new(name: &'static str, clock_rate_hz: u32, audio_payload_type: u8) -> StreamCheck {
        StreamCheck {
            name,
            clock_rate_hz,
            audio_payload_type,
            last: None,
            first_audio: None,
            elapsed_ticks: 0,
            last_audio_timestamp: 0,
            packets: 0,
        }
    }

    /// Looks at one packet; SRTP leaves the header readable.
    ///
    /// # Panics
    /// When sequence, SSRC or timestamp are not those of one continuous stream.
    pub fn sent(&mut self, now: Instant, packet: &[u8]) {
        let word = |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
        let payload_type = packet[1] & 0x7f;
        let sequence = u16::from_be_bytes([packet[2], packet[3]]);
        let (timestamp, ssrc) = (word(4), word(8));
        if let Some(last) = self.last {
            assert_eq!(ssrc, last.ssrc, "{}: a second SSRC at {now:?}", self.name);
            assert_eq!(sequence, last.sequence.wrapping_add(1), "{}: sequence at {now:?}", self.name);
        }
        self.last = Some(Sent { ssrc, sequence });
        self.packets += 1;
        if payload_type == self.audio_payload_type {
            self.audio(now, timestamp);
        }
    }

    fn audio(&mut self, now: Instant, timestamp: u32) {
        let Some((first, _)) = self.first_audio else {
            self.first_audio = Some((now, timestamp));
            self.last_audio_timestamp = timestamp;
            return;
        };
        let step = timestamp.wrapping_sub(self.last_audio_timestamp);
        let frame = self.clock_rate_hz / 50;
        assert!(step > 0 && step.is_multiple_of(frame), "{}: a timestamp step of {step} at {now:?}", self.name);
        self.last_audio_timestamp = timestamp;
        self.elapsed_ticks += u64::from(step);
        let by_timestamp_ms = (self.elapsed_ticks * 1_000 / u64::from(self.clock_rate_hz)) as i64;
        let by_clock_ms = now.since(first).as_millis() as i64;
        let off = by_timestamp_ms - by_clock_ms;
        assert!(off.abs() <= OFF_MS_MAX, "{}: timestamps are {off} ms off the sample clock at {now:?}", self.name);
    }
}
