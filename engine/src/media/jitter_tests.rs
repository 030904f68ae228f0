//! The buffer against what the network does to it.

use super::*;
use crate::random::Random;
use proptest::prelude::*;

const PACKET_TICKS: u32 = 960;
const PACKET_NANOS: u64 = 20_000_000;
const MS: u64 = 1_000_000;

/// What was answered, a packet by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Played {
    Packet(u64),
    Recover(u64, u32),
    Missing(u32),
    Late,
    Overdue(u64),
    Empty,
}
use Played::*;

/// A buffer with a clock: packets carry their number. Packet `n` is sent at `n` times 20 ms.
struct Bench {
    buffer: JitterBuffer,
    now: u64,
}

impl Bench {
    fn new() -> Bench {
        Bench { buffer: JitterBuffer::new(48_000), now: 1_000 * MS }
    }

    fn insert_as(&mut self, number: u64, timestamp: u32, kind: Kind) -> Result<(), DropReason> {
        let payload = number.to_be_bytes();
        let (sequence, timestamp) = (ExtendedSequence(number), RtpTimestamp(timestamp));
        let arriving = Arriving { sequence, timestamp, ticks: PACKET_TICKS, payload: &payload, kind };
        self.buffer.insert(Instant::from_nanos(self.now), &arriving)
    }

    fn insert(&mut self, number: u64) -> Result<(), DropReason> {
        self.insert_as(number, (number as u32).wrapping_mul(PACKET_TICKS), Kind::Redundant)
    }

    fn pop(&mut self) -> Played {
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
        let mut out = [0; JITTER_PAYLOAD_BYTES_MAX];
        let played = match self.buffer.pop(Instant::from_nanos(self.now), &mut out) {
            Playout::Packet(payload) => Packet(number(payload)),
            Playout::Recover { next, skip_ticks } => Recover(number(next), skip_ticks),
            Playout::Missing { skip_ticks, .. } => Missing(skip_ticks),
            Playout::Late => Late,
            Playout::Overdue(payload) => Overdue(number(payload)),
            Playout::Empty => Empty,
        };
        if played == Late {
            self.buffer.made_up(PACKET_TICKS);
        }
        played
    }

    /// One packet time: what arrives, then, 15 ms later, what is played.
    fn tick(&mut self, arrivals: impl IntoIterator<Item = u64>) -> Played {
        for number in arrivals {
            let _ = self.insert(number);
        }
        self.now += PACKET_NANOS / 4 * 3;
        let mut played = self.pop();
        // What was made up already takes no time, nor does what is overdue.
        while matches!(played, Recover(_, PACKET_TICKS) | Missing(PACKET_TICKS) | Overdue(_)) {
            played = self.pop();
        }
        self.now += PACKET_NANOS / 4;
        played
    }

    /// A stream on a perfect network of which packets up to `last` were played.
    fn in_steady_state(last: u64) -> Bench {
        Bench::in_steady_state_for(50, last)
    }

    fn in_steady_state_for(packets: u64, last: u64) -> Bench {
        let mut bench = Bench::new();
        for number in last - packets..=last {
            bench.tick([number]);
        }
        bench
    }
}

#[test]
fn on_a_steady_path_each_packet_is_played_at_the_next_tick() {
    let mut bench = Bench::new();
    let played: Vec<Played> = (100..104).map(|number| bench.tick([number])).collect();
    assert_eq!(played, [Packet(100), Packet(101), Packet(102), Packet(103)]);
}

#[test]
fn nothing_is_played_before_anything_came() {
    let mut bench = Bench::new();
    assert_eq!(bench.tick([]), Empty);
    assert!(bench.buffer.is_empty());
}

#[test]
fn reordered_packets_come_in_order() {
    let mut bench = Bench::in_steady_state(200);
    assert_eq!(bench.tick([203, 202, 201]), Packet(201));
    assert_eq!(bench.tick([]), Packet(202));
    assert_eq!(bench.tick([]), Packet(203));
}

#[test]
fn a_lost_packet_is_recovered_from_the_next_and_that_one_is_played_too() {
    let mut bench = Bench::in_steady_state(200);
    assert_eq!(bench.tick([202]), Recover(202, 0));
    assert_eq!(bench.tick([203]), Packet(202));
    assert_eq!(bench.buffer.stats().recoverable, 1);
}

#[test]
fn only_the_last_of_several_lost_packets_can_be_recovered() {
    let mut bench = Bench::in_steady_state(200);
    let played: Vec<Played> = [204, 205, 206, 207].into_iter().map(|number| bench.tick([number])).collect();
    assert_eq!(played, [Missing(0), Missing(0), Recover(204, 0), Packet(204)]);
}

#[test]
fn a_packet_lost_in_a_burst_is_told_with_the_first_one_after_it_and_how_far_that_is() {
    let mut bench = Bench::in_steady_state(200);
    bench.insert(204).unwrap();
    bench.now += 15 * MS;
    let mut out = [0; JITTER_PAYLOAD_BYTES_MAX];
    for packets in [3, 2] {
        let Playout::Missing { next, distance_ticks, .. } = bench.buffer.pop(Instant::from_nanos(bench.now), &mut out)
        else {
            panic!("packets are missing");
        };
        assert_eq!((next, distance_ticks), (&204u64.to_be_bytes()[..], packets * PACKET_TICKS));
    }
}

#[test]
fn a_late_packet_is_stood_in_for_and_then_played() {
    let mut bench = Bench::in_steady_state(200);
    assert_eq!(bench.tick([]), Late);
    assert_eq!(bench.tick([201, 202]), Packet(201));
    assert_eq!(bench.tick([203]), Packet(202), "nothing was lost, the delay has grown");
}

#[test]
fn what_stood_in_for_a_packet_that_was_lost_takes_its_place() {
    let mut bench = Bench::in_steady_state(200);
    assert_eq!(bench.tick([]), Late);
    assert_eq!(bench.tick([202]), Packet(202), "201 had its time");
    assert_eq!(bench.buffer.stats().lost, 1);
}

#[test]
fn a_pause_of_the_sender_is_no_loss_and_adds_no_delay() {
    let mut bench = Bench::in_steady_state(200);
    let pause = |bench: &mut Bench, number: u64, at: u64, kind| bench.insert_as(number, at as u32 * PACKET_TICKS, kind);
    pause(&mut bench, 201, 201, Kind::Pause).unwrap();
    assert_eq!(bench.tick([]), Packet(201));
    for _ in 202..300 {
        assert_eq!(bench.tick([]), Empty);
    }
    pause(&mut bench, 202, 300, Kind::Audio).unwrap();
    assert_eq!(bench.tick([]), Packet(202));
    pause(&mut bench, 203, 301, Kind::Audio).unwrap();
    assert_eq!(bench.tick([]), Packet(203));
    assert_eq!(bench.buffer.stats().lost, 0);
}

#[test]
fn a_sender_that_falls_silent_without_a_word_is_stood_in_for_180_ms() {
    let mut bench = Bench::in_steady_state(200);
    let played: Vec<Played> = (0..11).map(|_| bench.tick([])).collect();
    assert_eq!(played, [Late, Late, Late, Late, Late, Late, Late, Late, Late, Empty, Empty]);
}

#[test]
fn after_three_packets_that_are_late_every_word_is_played() {
    let mut bench = Bench::in_steady_state(200);
    for _ in 0..3 {
        assert_eq!(bench.tick([]), Late);
    }
    assert_eq!(bench.tick(201..=204), Packet(201));
    for number in 202..240 {
        assert_eq!(bench.tick([number + 3]), Packet(number));
    }
}

#[test]
fn after_an_outage_the_decoder_sees_what_is_overdue_and_the_delay_is_what_it_was() {
    for ticks in [5, 8, 12, 20] {
        let mut bench = Bench::in_steady_state_for(500, 600);
        for _ in 0..ticks {
            bench.tick([]);
        }
        for number in 601..=601 + ticks {
            bench.insert(number).unwrap();
        }
        bench.now += PACKET_NANOS / 4 * 3;
        let seen: Vec<Played> = (0..=ticks).map(|_| bench.pop()).collect();
        bench.now += PACKET_NANOS / 4;
        let overdue: Vec<Played> = (601..601 + ticks).map(Overdue).collect();
        assert_eq!((&seen[..seen.len() - 1], &seen[seen.len() - 1]), (&overdue[..], &Packet(601 + ticks)));
        assert_eq!(bench.tick([602 + ticks]), Packet(602 + ticks));
        assert_eq!((bench.buffer.stats().skipped, bench.buffer.stats().lost), (ticks, 0));
    }
}

#[test]
fn a_network_that_has_become_slower_loses_nothing() {
    let mut bench = Bench::in_steady_state(200);
    for _ in 0..5 {
        bench.tick([]);
    }
    for number in 201..260 {
        assert_eq!(bench.tick([number]), Packet(number));
    }
}

#[test]
fn a_talkspurt_that_begins_late_loses_nothing_of_its_beginning() {
    let mut bench = Bench::in_steady_state(200);
    for _ in 0..50 {
        bench.tick([]);
    }
    // Sent as if there had been a pause until 100 ms ago, and held up on the way.
    for number in 201..=205u32 {
        bench.insert_as(number.into(), (number + 45) * PACKET_TICKS, Kind::Audio).unwrap();
    }
    let played: Vec<Played> = (0..5).map(|_| bench.tick([])).collect();
    assert_eq!(played, [Packet(201), Packet(202), Packet(203), Packet(204), Packet(205)]);
}

#[test]
fn an_outage_beyond_the_bound_costs_the_oldest_packets() {
    let mut bench = Bench::in_steady_state_for(500, 600);
    for _ in 0..40 {
        bench.tick([]);
    }
    assert_eq!(bench.tick(601..=641), Packet(641));
    assert_eq!(bench.buffer.stats().skipped, 40);
}

#[test]
fn repeated_and_late_packets_are_dropped_each_with_its_reason() {
    let mut bench = Bench::in_steady_state(200);
    assert_eq!(bench.insert(190), Err(DropReason::JitterDuplicate), "played");
    assert_eq!(bench.tick([202]), Recover(202, 0));
    assert_eq!(bench.insert(202), Err(DropReason::JitterDuplicate), "held");
    assert_eq!(bench.insert(201), Err(DropReason::JitterLate), "given up");
    assert_eq!(bench.insert(100), Err(DropReason::JitterLate), "before all that is remembered");
    assert_eq!(bench.buffer.stats().late, 2);
}

#[test]
fn keys_take_a_number_and_no_time() {
    let mut bench = Bench::in_steady_state(200);
    for number in 201..=206 {
        bench.insert_as(number, 201 * PACKET_TICKS, Kind::Event).unwrap();
        assert_eq!(bench.tick([]), Empty, "nothing is made up under a key");
    }
    bench.insert_as(207, 207 * PACKET_TICKS, Kind::Audio).unwrap();
    assert_eq!(bench.tick([]), Packet(207));
    assert_eq!(bench.buffer.stats().lost, 0);
}

#[test]
fn a_jump_of_the_numbers_is_not_made_up_packet_by_packet() {
    for jump in [40, 65, 300] {
        let mut bench = Bench::in_steady_state(200);
        // The numbers jump, the timestamps with them: the next packet claims to be from the future.
        let mut played = Vec::new();
        for number in 200 + jump..200 + jump + 60 {
            played.push(bench.tick([number]));
        }
        let made_up = played.iter().filter(|played| matches!(played, Missing(_) | Recover(..))).count();
        assert!(made_up <= 5, "{jump}: {played:?}");
    }
}

#[test]
fn a_sender_that_changes_its_timeline_is_followed() {
    for offset in [3_600 * 48_000u32, 0u32.wrapping_sub(3_600 * 48_000)] {
        let mut bench = Bench::in_steady_state(200);
        for number in 201..=220u64 {
            let timestamp = (number as u32 * PACKET_TICKS).wrapping_add(offset);
            bench.insert_as(number, timestamp, Kind::Audio).unwrap();
            assert_eq!(bench.tick([]), Packet(number), "{offset}");
        }
    }
}

#[test]
fn timestamps_wrap_without_notice() {
    let mut bench = Bench::new();
    for number in 0..200u64 {
        let timestamp = (number as u32).wrapping_mul(PACKET_TICKS).wrapping_sub(100 * PACKET_TICKS);
        bench.insert_as(70_000 + number, timestamp, Kind::Audio).unwrap();
        assert_eq!(bench.tick([]), Packet(70_000 + number));
    }
}

#[test]
fn a_sender_that_starts_anew_lower_is_followed_at_its_second_packet() {
    let mut bench = Bench::in_steady_state(70_000);
    let at = |number: u64| (70_001 + number) as u32 * PACKET_TICKS;
    assert_eq!(bench.insert_as(65_600, at(0), Kind::Audio), Err(DropReason::JitterLate));
    assert_eq!(bench.insert(69_990), Err(DropReason::JitterDuplicate), "an ordinary one between them");
    assert_eq!(bench.insert_as(65_601, at(1), Kind::Audio), Ok(()));
    assert_eq!(bench.tick([]), Packet(65_601));
}

#[test]
fn one_stray_packet_from_far_behind_changes_nothing() {
    let mut bench = Bench::in_steady_state(70_000);
    assert_eq!(bench.insert_as(60_000, 70_001 * PACKET_TICKS, Kind::Audio), Err(DropReason::JitterLate));
    assert_eq!(bench.tick([70_001]), Packet(70_001));
}

#[test]
fn a_full_buffer_gives_up_its_oldest_packet() {
    let mut bench = Bench::new();
    for number in 0..JITTER_PACKETS_MAX as u64 {
        assert_eq!(bench.insert(1_000 + number), Ok(()));
    }
    assert_eq!(bench.insert(1_064), Err(DropReason::JitterFull));
    assert_eq!(bench.buffer.len(), JITTER_PACKETS_MAX);
}

#[test]
fn payloads_of_every_length_come_back_bit_for_bit() {
    let mut buffer = JitterBuffer::new(48_000);
    let mut random = Random::from_test_seed(1);
    let mut sent = Vec::new();
    for number in 0..400u32 {
        let now = Instant::from_nanos(u64::from(number) * PACKET_NANOS);
        let len = [0, 1, 63, 64, 65, 128, 500, JITTER_PAYLOAD_BYTES_MAX][random.below(8) as usize];
        let mut payload = vec![0; len];
        random.fill(&mut payload);
        let (sequence, timestamp) = (ExtendedSequence(u64::from(number) + 5_000), RtpTimestamp(number * PACKET_TICKS));
        buffer
            .insert(now, &Arriving { sequence, timestamp, ticks: 960, payload: &payload, kind: Kind::Audio })
            .unwrap();
        sent.push(payload);
        // Three are held all the time.
        if number >= 3 {
            let mut out = [0; JITTER_PAYLOAD_BYTES_MAX];
            assert_eq!(buffer.pop(now, &mut out), Playout::Packet(&sent[number as usize - 3]));
        }
    }
    let payload = [0; JITTER_PAYLOAD_BYTES_MAX + 1];
    let (sequence, timestamp) = (ExtendedSequence(5_400), RtpTimestamp(400 * PACKET_TICKS));
    let long = Arriving { sequence, timestamp, ticks: 960, payload: &payload, kind: Kind::Audio };
    assert_eq!(buffer.insert(Instant::from_nanos(400 * PACKET_NANOS), &long), Err(DropReason::JitterFull));
}

#[test]
fn the_longest_payloads_push_the_oldest_out_and_the_newest_are_kept() {
    let mut buffer = JitterBuffer::new(48_000);
    let payload = [9; JITTER_PAYLOAD_BYTES_MAX];
    for number in 0..20u32 {
        let (sequence, timestamp) = (ExtendedSequence(u64::from(number) + 5_000), RtpTimestamp(number * PACKET_TICKS));
        let arriving = Arriving { sequence, timestamp, ticks: 960, payload: &payload, kind: Kind::Audio };
        let inserted = buffer.insert(Instant::from_nanos(u64::from(number) * PACKET_NANOS), &arriving);
        assert_eq!(inserted.is_err(), number >= 4, "{number}");
    }
    assert_eq!(buffer.len(), 4);
}

#[test]
fn the_longest_delay_of_speech_at_64_kbit_s_finds_room() {
    let mut buffer = JitterBuffer::new(48_000);
    for number in 0..PLAYOUT_DELAY_MS_MAX as u32 / 20 {
        let (sequence, timestamp) = (ExtendedSequence(u64::from(number) + 5_000), RtpTimestamp(number * PACKET_TICKS));
        let arriving = Arriving { sequence, timestamp, ticks: 960, payload: &[9; 180], kind: Kind::Audio };
        assert_eq!(buffer.insert(Instant::from_nanos(1_000 * MS), &arriving), Ok(()), "{number}");
    }
}

#[test]
fn a_buffer_takes_less_than_eight_kilobytes() {
    let inner = size_of::<JitterBuffer>();
    assert!(inner + JITTER_BYTES_MAX <= 8 * 1024, "{inner}");
}

/// What a network does to one packet of a stream, against what must hold whatever it does.
///
/// The model is the list of what was accepted: what is played is in it, in order, once; and each place is accounted for.
fn whatever_happens(seed: u64, chaos: bool) {
    let mut random = Random::from_test_seed(seed);
    let mut bench = Bench::new();
    bench.now = 10_000 * MS;
    let packets = 600;
    let (loss, jitter, doubled) = (random.below(40), u64::from(random.below(200)), random.below(10));
    let mut flights: Vec<(u64, u64)> = Vec::new();
    for number in 0..packets {
        if random.below(100) >= loss || number >= packets - 100 {
            // The last two seconds the network is well.
            let late = if number < packets - 100 { u64::from(random.below(jitter as u32 + 1)) } else { 0 };
            flights.push((bench.now + number * PACKET_NANOS + late * MS, 70_000 + number));
            if random.below(100) < doubled {
                flights.push((
                    bench.now + number * PACKET_NANOS + (late + u64::from(random.below(100))) * MS,
                    70_000 + number,
                ));
            }
        }
        if chaos && random.below(200) == 0 {
            flights.push((bench.now + number * PACKET_NANOS, 60_000 + u64::from(random.below(20_000))));
        }
    }
    flights.sort_unstable();
    let (mut flights, mut accepted, mut last, mut healthy) = (flights.into_iter().peekable(), 0u64, None, 0);
    let (begin, end) = (bench.now, bench.now + (packets + 20) * PACKET_NANOS);
    let mut played = 0u64;
    while bench.now < end {
        while flights.peek().is_some_and(|&(at, _)| at <= bench.now) {
            let (_, number) = flights.next().unwrap();
            // The timestamp goes with the time of sending.
            let timestamp = (number as u32).wrapping_mul(PACKET_TICKS);
            accepted += u64::from(matches!(
                bench.insert_as(number, timestamp, Kind::Redundant),
                Ok(()) | Err(DropReason::JitterFull)
            ));
        }
        let mut answer = bench.pop();
        let mut turns = 0;
        while matches!(answer, Recover(_, PACKET_TICKS) | Missing(PACKET_TICKS) | Overdue(_)) {
            answer = bench.pop();
            turns += 1;
            assert!(turns <= 2 * JITTER_PACKETS_MAX, "seed {seed}: a pop that never ends");
        }
        if let Packet(number) = answer {
            if !chaos {
                assert!(last.is_none_or(|last| number > last), "seed {seed}: {last:?} then {number}");
                let delay = bench.now.saturating_sub(begin + (number - 70_000) * PACKET_NANOS);
                assert!(delay <= (PLAYOUT_DELAY_MS_MAX as u64 + 25) * MS, "seed {seed}: {} ms", delay / MS);
                // Healed for a second: every packet is played.
                healthy += u64::from(number >= 70_000 + packets - 50);
            }
            last = Some(number);
            played += 1;
        }
        assert!(bench.buffer.len() <= JITTER_PACKETS_MAX);
        bench.now += PACKET_NANOS;
    }
    assert!(played <= accepted, "seed {seed}");
    if !chaos {
        assert!(healthy >= 49, "seed {seed}: {healthy} of 50 after the network healed");
        let stats = bench.buffer.stats();
        assert_eq!(played, stats.played, "seed {seed}");
        assert_eq!(accepted, played + stats.skipped + bench.buffer.len() as u64, "seed {seed}: {stats:?}");
    }
}

#[test]
fn order_counts_delay_and_recovery_hold_on_thousands_of_networks() {
    // 4,000 networks of 600 packets: more than two million arrivals.
    for seed in 0..4_000 {
        whatever_happens(seed, false);
    }
}

#[test]
fn strays_and_restarts_are_survived() {
    for seed in 0..500 {
        whatever_happens(seed, true);
    }
}

proptest! {
    #[test]
    fn any_numbers_and_timestamps_are_survived(
        packets in proptest::collection::vec((0u64..200_000, any::<u32>(), 0u8..4, 0u64..100), 0..400),
    ) {
        let mut bench = Bench::new();
        for (number, timestamp, kind, pause) in packets {
            let kind = [Kind::Audio, Kind::Redundant, Kind::Pause, Kind::Event][usize::from(kind)];
            let _ = bench.insert_as(number, timestamp, kind);
            bench.pop();
            bench.now += pause * MS;
        }
    }
}
