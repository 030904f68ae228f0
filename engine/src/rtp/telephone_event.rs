//! Digits as RTP events (RFC 4733).
//!
//! ```text
//!  0               8               16                             31
//! |     event     |E|R|  volume   |           duration            |
//! ```
//!
//! Beside Opus the event's clock may be 8000 Hz while the stream's is 48,000: the timestamp is then the audio stream's and only the
//! duration counts in 8000ths. So nothing here converts between the two, and the receiver never computes with timestamps: they name keys.
//!
//! Why not by order: a receiver that calls every older timestamp late goes deaf when a transfer makes the peer's timestamps start anew
//! somewhere lower. This one remembers the last few keys that it reported, and takes every other timestamp for a new key.

use crate::limits::{DIGITS_MAX, PTIME_MS};
use crate::time::{Instant, RtpTimestamp};

/// Silence after which a key whose end packets were all lost has ended. Senders repeat at least every 50 ms (RFC 4733 §2.5.1.2).
pub const EVENT_SILENCE_MS: u64 = 200;

/// Keys remembered so that their late packets are not taken for new keys. Past it the oldest is forgotten: its packets would have to be
/// delayed by as many whole keys.
const KEYS_REMEMBERED: usize = 8;

/// Shortest key sent: some receivers take less for noise.
const KEY_MS_MIN: u32 = 40;

/// Silence between two keys, so that receivers that regenerate tones hear two.
const PAUSE_PACKETS: u32 = 3;
const _: () = assert!(PAUSE_PACKETS as usize * PTIME_MS == 60);

/// Times the end packet is sent (RFC 4733 §2.5.1.4).
const END_PACKETS: u32 = 3;

/// Power of the sent tone, in -dBm0 (RFC 4733 §2.3.4): what telephones send.
const VOLUME: u8 = 10;

/// A key: 0-9, *, #, A-D.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digit(u8);

impl Digit {
    /// From its character, any case.
    pub fn from_char(character: char) -> Option<Digit> {
        let event = match character.to_ascii_uppercase() {
            c @ '0'..='9' => c as u8 - b'0',
            '*' => 10,
            '#' => 11,
            c @ 'A'..='D' => c as u8 - b'A' + 12,
            _ => return None,
        };
        Some(Digit(event))
    }

    /// From its event code (RFC 4733 §3.2); 0 to 15.
    pub fn from_event(event: u8) -> Option<Digit> {
        (event < 16).then_some(Digit(event))
    }

    /// Its event code.
    pub fn event(self) -> u8 {
        self.0
    }

    /// Its character.
    pub fn as_char(self) -> char {
        char::from(b"0123456789*#ABCD"[usize::from(self.0)])
    }
}

/// A key that was pressed, reported once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressed {
    /// Which.
    pub digit: Digit,
    /// How long it has been down when it was reported, ms of the event's own clock.
    pub duration_ms: u32,
}

/// Recognises keys in event packets: each key once, whatever is lost, repeated or reordered.
#[derive(Clone, Debug)]
pub struct EventReceiver {
    clock_rate_hz: u32,
    /// The key that is down.
    current: Option<Held>,
    /// Timestamps and keys that need no report any more, a ring.
    done: [Option<(RtpTimestamp, Digit)>; KEYS_REMEMBERED],
    done_next: usize,
}

/// A key that is down, or up and still to be reported.
#[derive(Clone, Copy, Debug)]
struct Held {
    digit: Digit,
    /// Of the segment that is being received.
    timestamp: RtpTimestamp,
    /// Duration of the segments before it.
    earlier_ticks: u32,
    /// Longest duration seen of this segment.
    ticks: u16,
    heard_at: Instant,
    ended: bool,
}

impl EventReceiver {
    /// `clock_rate_hz` of the negotiated telephone-event.
    pub fn new(clock_rate_hz: u32) -> EventReceiver {
        EventReceiver { clock_rate_hz, current: None, done: [None; KEYS_REMEMBERED], done_next: 0 }
    }

    /// Takes the payload of one event packet. Answers the key when it ends (E bit, or a newer event replaces it).
    pub fn handle(&mut self, now: Instant, timestamp: RtpTimestamp, payload: &[u8]) -> Option<Pressed> {
        let &[event, flags, high, low, ..] = payload else {
            return None;
        };
        let digit = Digit::from_event(event)?;
        let ended = flags & 0x80 != 0; // the reserved bit and the volume say nothing about the key
        let ticks = u16::from_be_bytes([high, low]);
        if self.done.contains(&Some((timestamp, digit))) {
            return None;
        }
        match &mut self.current {
            Some(held) if held.digit == digit && held.timestamp == timestamp => {
                held.ticks = held.ticks.max(ticks);
                held.heard_at = now;
                held.ended |= ended;
            }
            Some(held) if held.digit == digit && !held.ended && continues(held.timestamp, timestamp) => {
                let before = held.timestamp;
                held.earlier_ticks = held.earlier_ticks.saturating_add(u32::from(u16::MAX));
                held.timestamp = timestamp;
                held.ticks = ticks;
                held.heard_at = now;
                held.ended = ended;
                self.remember(before, digit);
            }
            _ => {
                let replaced = self.finish();
                self.current = Some(Held { digit, timestamp, earlier_ticks: 0, ticks, heard_at: now, ended });
                if replaced.is_some() {
                    // A key that began and ended in this very packet is reported by its repetition or by `handle_timeout`.
                    return replaced;
                }
            }
        }
        if ended { self.finish() } else { None }
    }

    /// When `handle_timeout` wants to be called: `Instant::NEVER` while no key is down.
    pub fn deadline(&self) -> Instant {
        match &self.current {
            None => Instant::NEVER,
            Some(held) if held.ended => held.heard_at,
            Some(held) => held.heard_at.plus_millis(EVENT_SILENCE_MS),
        }
    }

    /// A key whose end packets were all lost ends when nothing of it came for 200 ms.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Pressed> {
        if now >= self.deadline() { self.finish() } else { None }
    }

    fn finish(&mut self) -> Option<Pressed> {
        let held = self.current.take()?;
        self.remember(held.timestamp, held.digit);
        let ticks = u64::from(held.earlier_ticks) + u64::from(held.ticks);
        let duration_ms = (ticks * 1_000 / u64::from(self.clock_rate_hz.max(1))) as u32;
        Some(Pressed { digit: held.digit, duration_ms })
    }

    fn remember(&mut self, timestamp: RtpTimestamp, digit: Digit) {
        self.done[self.done_next] = Some((timestamp, digit));
        self.done_next = (self.done_next + 1) % KEYS_REMEMBERED;
    }
}

/// Whether the segment at `next` goes on where the one at `before` reached its longest duration (RFC 4733 §2.5.1.3). Beside Opus at
/// 48,000 Hz an event clock of 8000 Hz makes that six times as far on the stream's clock.
fn continues(before: RtpTimestamp, next: RtpTimestamp) -> bool {
    let distance = next.distance_from(before);
    distance == i32::from(u16::MAX) || distance == 6 * i32::from(u16::MAX)
}

/// One packet of an event to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventPacket {
    /// First packet of the event.
    pub marker: bool,
    /// The event's own timestamp, on the audio stream's clock.
    pub timestamp: RtpTimestamp,
    /// The payload.
    pub payload: [u8; 4],
}

/// Plays queued keys as event packets: one every 20 ms, end packet three times (RFC 4733 §2.5.1.4), 60 ms pause between keys.
/// While a key plays, the audio of the stream is replaced by it.
#[derive(Clone, Debug)]
pub struct EventSender {
    clock_rate_hz: u32,
    /// A ring of keys and their durations in ticks.
    waiting: [(Digit, u16); DIGITS_MAX],
    first: usize,
    count: usize,
    playing: Option<Playing>,
    /// Packet times of silence still owed to the last key.
    pause_packets: u32,
}

#[derive(Clone, Copy, Debug)]
struct Playing {
    digit: Digit,
    timestamp: RtpTimestamp,
    ticks_total: u16,
    ticks: u16,
    ends_sent: u32,
}

impl EventSender {
    /// `clock_rate_hz` of the negotiated telephone-event.
    pub fn new(clock_rate_hz: u32) -> EventSender {
        let waiting = [(Digit(0), 0); DIGITS_MAX];
        EventSender { clock_rate_hz, waiting, first: 0, count: 0, playing: None, pause_packets: 0 }
    }

    /// Queues a key; at most `DIGITS_MAX` wait. Answers whether there was room.
    ///
    /// A key lasts at least 40 ms and at most what one segment can say: 8.1 s at 8000 Hz, 1.3 s at 48,000.
    pub fn press(&mut self, digit: Digit, duration_ms: u32) -> bool {
        if self.count == DIGITS_MAX {
            return false;
        }
        let ticks = u64::from(duration_ms.max(KEY_MS_MIN)) * u64::from(self.clock_rate_hz) / 1_000;
        let ticks = u16::try_from(ticks).unwrap_or(u16::MAX);
        self.waiting[(self.first + self.count) % DIGITS_MAX] = (digit, ticks);
        self.count += 1;
        true
    }

    /// Whether a key plays or waits.
    pub fn is_active(&self) -> bool {
        self.playing.is_some() || self.count > 0
    }

    /// Call once per 20 ms packet time. `timestamp` is that of the audio packet that would be sent now. Answers the event packet
    /// that replaces it, if a key plays.
    pub fn next(&mut self, timestamp: RtpTimestamp) -> Option<EventPacket> {
        let marker = self.playing.is_none();
        if marker {
            self.begin(timestamp)?;
        }
        let packet_ticks = (self.clock_rate_hz as usize * PTIME_MS / 1_000) as u16;
        let playing = self.playing.as_mut()?;
        playing.ticks = playing.ticks.saturating_add(packet_ticks).min(playing.ticks_total);
        let ended = playing.ticks == playing.ticks_total;
        let [high, low] = playing.ticks.to_be_bytes();
        let payload = [playing.digit.event(), u8::from(ended) << 7 | VOLUME, high, low];
        let packet = EventPacket { marker, timestamp: playing.timestamp, payload };
        playing.ends_sent += u32::from(ended);
        if playing.ends_sent == END_PACKETS {
            self.playing = None;
            self.pause_packets = PAUSE_PACKETS;
        }
        Some(packet)
    }

    /// Starts the next key, unless none waits or the pause after the last one still runs.
    fn begin(&mut self, timestamp: RtpTimestamp) -> Option<()> {
        if self.pause_packets > 0 {
            self.pause_packets -= 1;
            return None;
        }
        if self.count == 0 {
            return None;
        }
        let (digit, ticks_total) = self.waiting[self.first];
        self.first = (self.first + 1) % DIGITS_MAX;
        self.count -= 1;
        self.playing = Some(Playing { digit, timestamp, ticks_total, ticks: 0, ends_sent: 0 });
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use proptest::prelude::*;

    const E: u8 = 0x80;

    fn packet(event: u8, flags: u8, duration: u16) -> [u8; 4] {
        let [high, low] = duration.to_be_bytes();
        [event, flags | VOLUME, high, low]
    }

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    fn pressed(character: char, duration_ms: u32) -> Option<Pressed> {
        Some(Pressed { digit: Digit::from_char(character).unwrap(), duration_ms })
    }

    #[test]
    fn every_key_has_one_character_and_one_event() {
        for (event, character) in "0123456789*#ABCD".chars().enumerate() {
            let digit = Digit::from_char(character).unwrap();
            assert_eq!(usize::from(digit.event()), event);
            assert_eq!(digit.as_char(), character);
            assert_eq!(Digit::from_event(event as u8), Some(digit));
            assert_eq!(Digit::from_char(character.to_ascii_lowercase()), Some(digit));
        }
        assert_eq!(Digit::from_event(16), None); // flash
        assert_eq!(Digit::from_char('E'), None);
    }

    #[test]
    fn a_key_is_reported_at_its_first_end_packet_and_never_again() {
        let mut receiver = EventReceiver::new(8_000);
        let key = RtpTimestamp(1_000);
        for (index, ticks) in [160, 320, 480].into_iter().enumerate() {
            assert_eq!(receiver.handle(at(index as u64 * 20), key, &packet(5, 0, ticks)), None);
        }
        assert_eq!(receiver.handle(at(60), key, &packet(5, E, 640)), pressed('5', 80));
        assert_eq!(receiver.handle(at(80), key, &packet(5, E, 640)), None);
        assert_eq!(receiver.handle(at(100), key, &packet(5, E, 640)), None);
        assert_eq!(receiver.handle(at(120), key, &packet(5, 0, 320)), None, "an update that was overtaken");
        assert_eq!(receiver.deadline(), Instant::NEVER);
    }

    #[test]
    fn reserved_bit_and_volume_change_nothing() {
        let mut receiver = EventReceiver::new(8_000);
        assert_eq!(receiver.handle(at(0), RtpTimestamp(1), &[11, 0x40 | 63, 0, 160]), None);
        assert_eq!(receiver.handle(at(20), RtpTimestamp(1), &[11, 0xc0, 1, 0x40]), pressed('#', 40));
    }

    #[test]
    fn an_end_packet_alone_is_a_key() {
        let mut receiver = EventReceiver::new(8_000);
        assert_eq!(receiver.handle(at(0), RtpTimestamp(1), &packet(1, E, 800)), pressed('1', 100));
    }

    #[test]
    fn a_key_whose_end_was_lost_ends_after_200_ms_of_silence() {
        let mut receiver = EventReceiver::new(8_000);
        receiver.handle(at(0), RtpTimestamp(1), &packet(7, 0, 160));
        receiver.handle(at(20), RtpTimestamp(1), &packet(7, 0, 320));
        assert_eq!(receiver.deadline(), at(220));
        assert_eq!(receiver.handle_timeout(at(219)), None);
        assert_eq!(receiver.handle_timeout(at(220)), pressed('7', 40));
        assert_eq!(receiver.handle_timeout(at(1_000)), None);
        assert_eq!(receiver.handle(at(1_001), RtpTimestamp(1), &packet(7, E, 640)), None, "its end packet after all");
    }

    #[test]
    fn a_key_whose_end_was_lost_ends_when_the_next_begins() {
        let mut receiver = EventReceiver::new(8_000);
        receiver.handle(at(0), RtpTimestamp(1), &packet(7, 0, 160));
        assert_eq!(receiver.handle(at(100), RtpTimestamp(801), &packet(8, 0, 160)), pressed('7', 20));
        assert_eq!(receiver.handle(at(120), RtpTimestamp(801), &packet(8, E, 320)), pressed('8', 40));
    }

    #[test]
    fn two_keys_that_end_in_one_packet_are_both_reported() {
        let mut receiver = EventReceiver::new(8_000);
        receiver.handle(at(0), RtpTimestamp(1), &packet(7, 0, 160));
        assert_eq!(receiver.handle(at(100), RtpTimestamp(801), &packet(8, E, 320)), pressed('7', 20));
        let mut repeated = receiver.clone();
        assert_eq!(repeated.handle(at(120), RtpTimestamp(801), &packet(8, E, 320)), pressed('8', 40));
        assert_eq!(receiver.deadline(), at(100), "a timer reports it at once");
        assert_eq!(receiver.handle_timeout(at(100)), pressed('8', 40));
        assert_eq!(receiver.handle(at(120), RtpTimestamp(801), &packet(8, E, 320)), None);
    }

    #[test]
    fn the_same_digit_with_another_timestamp_is_another_key() {
        let mut receiver = EventReceiver::new(8_000);
        assert_eq!(receiver.handle(at(0), RtpTimestamp(1), &packet(4, E, 800)), pressed('4', 100));
        assert_eq!(receiver.handle(at(200), RtpTimestamp(1_601), &packet(4, E, 800)), pressed('4', 100));
    }

    #[test]
    fn timestamps_that_start_anew_lower_still_make_keys() {
        let mut receiver = EventReceiver::new(8_000);
        assert!(receiver.handle(at(0), RtpTimestamp(3_000_000_000), &packet(4, E, 800)).is_some());
        assert!(receiver.handle(at(500), RtpTimestamp(2_900_000_000), &packet(4, E, 800)).is_some());
    }

    #[test]
    fn a_key_longer_than_one_segment_is_one_key() {
        for factor in [1, 6] {
            let mut receiver = EventReceiver::new(8_000);
            let key = RtpTimestamp(u32::MAX - 10);
            assert_eq!(receiver.handle(at(0), key, &packet(3, 0, 160)), None);
            assert_eq!(receiver.handle(at(8_180), key, &packet(3, 0, u16::MAX)), None);
            let second = key.plus(65_535 * factor);
            assert_eq!(receiver.handle(at(8_200), second, &packet(3, 0, 160)), None);
            assert_eq!(receiver.handle(at(8_201), key, &packet(3, 0, u16::MAX)), None, "late, of the first segment");
            assert_eq!(receiver.handle(at(8_220), second, &packet(3, E, 320)), pressed('3', (65_535 + 320) / 8));
        }
    }

    #[test]
    fn short_payloads_and_other_events_are_no_keys() {
        let mut receiver = EventReceiver::new(8_000);
        for payload in [&[][..], &[1], &[1, E, 0], &[16, E, 0, 80], &[255, E, 0, 80]] {
            assert_eq!(receiver.handle(at(0), RtpTimestamp(1), payload), None);
        }
        assert_eq!(receiver.deadline(), Instant::NEVER);
    }

    #[test]
    fn a_sent_key_grows_and_ends_three_times() {
        for (clock_rate_hz, step) in [(8_000, 160), (48_000, 960)] {
            let mut sender = EventSender::new(clock_rate_hz);
            assert!(!sender.is_active());
            assert!(sender.press(Digit::from_char('#').unwrap(), 100));
            let packets: Vec<_> = (0..20).map_while(|index| sender.next(RtpTimestamp(5).plus(index * 960))).collect();
            assert!(packets.iter().all(|packet| packet.timestamp == RtpTimestamp(5) && packet.payload[0] == 11));
            assert!(packets.iter().enumerate().all(|(index, packet)| packet.marker == (index == 0)));
            let durations: Vec<u16> = packets
                .iter()
                .map(|packet| u16::from_be_bytes([packet.payload[2], packet.payload[3]]) / step)
                .collect();
            assert_eq!(durations, [1, 2, 3, 4, 5, 5, 5]);
            let flags: Vec<u8> = packets.iter().map(|packet| packet.payload[1]).collect();
            assert_eq!(flags, [10, 10, 10, 10, E | 10, E | 10, E | 10]);
            assert!(!sender.is_active());
        }
    }

    #[test]
    fn keys_follow_each_other_after_a_pause_of_60_ms() {
        let mut sender = EventSender::new(8_000);
        sender.press(Digit::from_event(1).unwrap(), 0); // 40 ms all the same
        sender.press(Digit::from_event(2).unwrap(), 50);
        let line: Vec<Option<(u8, u16)>> = (0..14u32)
            .map(|index| sender.next(RtpTimestamp(index * 160)))
            .map(|packet| {
                packet.map(|packet| (packet.payload[0], u16::from_be_bytes([packet.payload[2], packet.payload[3]])))
            })
            .collect();
        let (one, two) = (|ticks| Some((1, ticks)), |ticks| Some((2, ticks)));
        let expected = [
            one(160),
            one(320),
            one(320),
            one(320),
            None,
            None,
            None,
            two(160),
            two(320),
            two(400),
            two(400),
            two(400),
            None,
            None,
        ];
        assert_eq!(line, expected);
    }

    #[test]
    fn the_queue_of_keys_is_bounded() {
        let mut sender = EventSender::new(8_000);
        for _ in 0..DIGITS_MAX {
            assert!(sender.press(Digit::from_event(9).unwrap(), 40));
        }
        assert!(!sender.press(Digit::from_event(9).unwrap(), 40));
        assert!(sender.next(RtpTimestamp(0)).is_some());
        assert!(sender.press(Digit::from_event(9).unwrap(), 40), "the one that plays waits no more");
    }

    #[test]
    fn a_key_without_end_lasts_one_segment() {
        let mut sender = EventSender::new(48_000);
        sender.press(Digit::from_event(0).unwrap(), u32::MAX);
        let packets: Vec<_> = (0..1_000).map_while(|_| sender.next(RtpTimestamp(0))).collect();
        assert_eq!(packets.len(), 69 + 2);
        assert_eq!(packets[70].payload, [0, E | 10, 0xff, 0xff]);
    }

    proptest! {
        /// Whatever of a key's packets is lost, repeated or exchanged with a neighbour: each key of which anything arrives comes out once.
        #[test]
        fn keys_survive_loss_repetition_and_reordering(keys in proptest::collection::vec(0u8..16, 1..10), seed: u64) {
            let mut random = Random::from_test_seed(seed);
            let mut sender = EventSender::new(8_000);
            for &key in &keys {
                sender.press(Digit::from_event(key).unwrap(), 40 + random.below(200));
            }
            let mut arrivals = Vec::new(); // time, packet
            for tick in 0..(keys.len() as u32 * 20) {
                if let Some(packet) = sender.next(RtpTimestamp(tick * 160)) {
                    for _ in 0..1 + random.below(2) {
                        if random.below(100) < 70 {
                            // Up to 45 ms late: past its neighbours, short of the next key.
                            arrivals.push((u64::from(tick * 20 + random.below(45)), packet));
                        }
                    }
                }
            }
            let mut sent: Vec<(u32, u8)> =
                arrivals.iter().map(|(_, packet)| (packet.timestamp.0, packet.payload[0])).collect();
            sent.dedup();
            arrivals.sort_by_key(|&(time, _)| time);
            let mut receiver = EventReceiver::new(8_000);
            let mut heard = Vec::new();
            for (time, packet) in arrivals {
                heard.extend(receiver.handle_timeout(at(time)));
                heard.extend(receiver.handle(at(time), packet.timestamp, &packet.payload));
            }
            heard.extend(receiver.handle_timeout(at(1_000_000)));
            let heard: Vec<u8> = heard.iter().map(|key| key.digit.event()).collect();
            let sent: Vec<u8> = sent.iter().map(|&(_, event)| event).collect();
            prop_assert_eq!(heard, sent);
        }

        #[test]
        fn no_bytes_panic(packets in proptest::collection::vec((any::<u32>(), any::<[u8; 4]>()), 0..100)) {
            let mut receiver = EventReceiver::new(8_000);
            for (index, (timestamp, payload)) in packets.into_iter().enumerate() {
                receiver.handle(at(index as u64), RtpTimestamp(timestamp % 4 * 65_535), &payload);
            }
            receiver.handle_timeout(at(10_000));
            prop_assert_eq!(receiver.deadline(), Instant::NEVER);
        }
    }
}
