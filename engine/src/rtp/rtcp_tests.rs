use super::*;
use proptest::prelude::*;

const US: u32 = 0x1111_1111;
const PEER: u32 = 0x2222_2222;

fn at(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

fn rtcp() -> Rtcp {
    let anchor = WallAnchor { ntp_at_zero: 0xe000_0000_0000_0000 };
    Rtcp::new(Instant::ZERO, "a-cname".to_owned(), anchor, Random::from_test_seed(1))
}

fn packet(first: u8, kind: u8, words: &[u32]) -> Vec<u8> {
    let mut packet = vec![first, kind, 0, words.len() as u8];
    packet.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    packet
}

/// A stream of one packet every 20 ms; `false` is a lost one.
fn receive(reception: &mut Reception, first: u16, arrived: impl IntoIterator<Item = bool>) {
    for (index, arrived) in arrived.into_iter().enumerate() {
        if arrived {
            let timestamp = RtpTimestamp(index as u32 * 160);
            reception.received(at(index as u64 * 20), PEER, first.wrapping_add(index as u16), timestamp);
        }
    }
}

#[test]
fn a_report_block_says_what_was_lost_since_the_last_one() {
    let mut reception = Reception::new(8_000);
    receive(&mut reception, 65_500, (0..100).map(|index| index % 4 != 1));
    assert_eq!((reception.packets(), reception.lost(), reception.jitter_ms()), (75, 25, 0));
    let block = reception.take_block(at(2_000), None).unwrap();
    assert_eq!((block.ssrc, block.fraction_lost, block.cumulative_lost), (PEER, 64, 25));
    assert_eq!(block.highest_sequence, 65_500 + 99);
    let block = reception.take_block(at(2_001), None).unwrap();
    assert_eq!((block.fraction_lost, block.cumulative_lost), (0, 25));
}

#[test]
fn repeated_packets_make_the_reported_loss_negative_and_the_counted_one_zero() {
    let mut reception = Reception::new(8_000);
    for _ in 0..3 {
        reception.received(at(0), PEER, 9, RtpTimestamp(0));
    }
    let block = reception.take_block(at(1), None).unwrap();
    assert_eq!((block.fraction_lost, block.cumulative_lost, reception.lost()), (0, -2, 0));
}

#[test]
fn late_packets_are_not_lost() {
    let mut reception = Reception::new(8_000);
    for sequence in [65_535, 1, 0, 3, 2] {
        reception.received(at(0), PEER, sequence, RtpTimestamp(u32::from(sequence) * 160));
    }
    assert_eq!(reception.lost(), 0);
    assert_eq!(reception.take_block(at(1), None).unwrap().highest_sequence, 65_536 + 3);
}

#[test]
fn one_stray_sequence_number_moves_nothing_and_two_in_a_row_restart() {
    let mut reception = Reception::new(8_000);
    receive(&mut reception, 100, [true, true, false, true]);
    reception.received(at(80), PEER, 30_000, RtpTimestamp(640));
    reception.received(at(100), PEER, 104, RtpTimestamp(800));
    let mut stray_again = reception.clone();
    stray_again.received(at(120), PEER, 30_001, RtpTimestamp(960)); // its successor, but not in a row
    assert_eq!(stray_again.take_block(at(130), None).unwrap().highest_sequence, 104);
    assert_eq!((reception.lost(), reception.packets()), (1, 5));
    reception.received(at(120), PEER, 40_000, RtpTimestamp(7));
    reception.received(at(140), PEER, 40_001, RtpTimestamp(167));
    assert_eq!(reception.take_block(at(150), None).unwrap().highest_sequence, 40_001);
    assert_eq!((reception.lost(), reception.packets()), (1, 7));
}

#[test]
fn a_new_ssrc_begins_anew_and_keeps_the_sums() {
    let mut reception = Reception::new(8_000);
    receive(&mut reception, 100, [true, false, false, true]);
    reception.received(at(80), 7, 3, RtpTimestamp(0));
    let block = reception.take_block(at(90), None).unwrap();
    assert_eq!((block.ssrc, block.cumulative_lost, block.highest_sequence), (7, 0, 3));
    assert_eq!((reception.packets(), reception.lost()), (3, 2));
}

#[test]
fn jitter_follows_the_formula_of_a_8() {
    let mut reception = Reception::new(8_000);
    let mut jitter = 0.0;
    for index in 0..1_000u64 {
        // Every other packet is 10 ms (80 ticks) late, so that every step is 80 ticks.
        reception.received(at(index * 20 + index % 2 * 10), PEER, index as u16, RtpTimestamp(index as u32 * 160));
        jitter += if index == 0 { 0.0 } else { (80.0 - jitter) / 16.0 };
    }
    assert!((jitter - 80.0f64).abs() < 0.1);
    assert!((9..=10).contains(&reception.jitter_ms()), "{}", reception.jitter_ms());
}

#[test]
fn keys_and_clock_jumps_are_no_jitter() {
    let mut reception = Reception::new(8_000);
    receive(&mut reception, 0, [true; 10]);
    for index in 10..30u64 {
        reception.received(at(index * 20), PEER, index as u16, RtpTimestamp(1_600)); // a key
    }
    for index in 30..40u64 {
        reception.received(at(index * 20), PEER, index as u16, RtpTimestamp(index as u32 * 160));
    }
    for index in 40..50u64 {
        reception.received(at(index * 20), PEER, index as u16, RtpTimestamp(4_000_000_000 + index as u32 * 160));
    }
    assert_eq!(reception.jitter_ms(), 0);
}

#[test]
fn a_report_of_a_sender_is_read_back_by_its_peer_with_the_round_trip() {
    let mut sender = RtpSender::new(US, 8_000, &mut Random::from_test_seed(3));
    let (mut ours, mut theirs) = (rtcp(), rtcp());
    let (mut our_reception, mut their_reception) = (Reception::new(8_000), Reception::new(8_000));
    let mut rtp = [0; 200];
    for index in 0..50u64 {
        sender.audio(at(index * 20), 0, false, 160, 160, &mut rtp);
        if index % 10 != 9 {
            let packet = super::super::header::parse(&rtp).unwrap();
            their_reception.received(at(index * 20 + 30), US, packet.sequence, packet.timestamp);
        }
    }
    let mut out = [0xaa; REPORT_BYTES_MAX];
    let len = ours.write_report(at(1_000), Some(&sender), &mut our_reception, US, &mut out);
    assert_eq!(&out[..4], [0x80, 200, 0, 6], "nothing was received: no block");
    assert_eq!(word(&out, 20), 50);
    assert_eq!(word(&out, 24), 8_000);
    assert_eq!(theirs.handle(at(1_030), PEER, &out[..len]), Ok(RtcpReceived::default()));
    let len = theirs.write_report(at(3_030), None, &mut their_reception, PEER, &mut out);
    assert_eq!(&out[..2], [0x81, 201], "it sends nothing: RR");
    let received = ours.handle(at(3_070), US, &out[..len]).unwrap();
    let block = received.about_us.unwrap();
    assert_eq!((block.ssrc, block.fraction_lost, block.cumulative_lost), (US, (4 * 256 / 49) as u8, 4));
    assert_eq!(block.delay_since_last_sr, 2 * 65_536);
    assert!((69..=70).contains(&ours.round_trip_ms().unwrap()), "{:?}", ours.round_trip_ms());
    assert_eq!(ours.remote_loss_percent(), Some(8));
}

#[test]
fn who_stopped_sending_becomes_a_receiver_after_two_reports() {
    let mut sender = RtpSender::new(US, 8_000, &mut Random::from_test_seed(3));
    let mut rtcp = rtcp();
    let mut reception = Reception::new(8_000);
    let mut out = [0; REPORT_BYTES_MAX];
    let mut kinds = Vec::new();
    for index in 0..5 {
        if index == 1 {
            sender.audio(at(index), 0, true, 160, 160, &mut [0; 200]);
        }
        rtcp.write_report(at(index), Some(&sender), &mut reception, US, &mut out);
        kinds.push(out[1]);
    }
    assert_eq!(kinds, [201, 200, 200, 201, 201]);
}

#[test]
fn a_bye_is_a_compound_packet_that_the_peer_understands() {
    let mut rtcp = rtcp();
    let mut reception = Reception::new(8_000);
    receive(&mut reception, 0, [true, true]);
    let mut out = [0; REPORT_BYTES_MAX];
    let len = rtcp.write_bye(at(9), None, &mut reception, US, &mut out);
    let kinds: Vec<u8> = packets(&out[..len]).map(|packet| packet[1]).collect();
    assert_eq!(kinds, [201, 202, 203]);
    assert!(rtcp.handle(at(10), PEER, &out[..len]).unwrap().bye);
    assert!(!rtcp.handle(at(10), US, &out[..len]).unwrap().bye, "an echo of ours");
}

#[test]
fn only_a_bye_of_the_stream_in_force_counts() {
    let mut rtcp = rtcp();
    let bye = |ssrcs: &[u32]| packet(0x80 | ssrcs.len() as u8, 203, ssrcs);
    assert!(
        rtcp.handle(at(1), US, &bye(&[PEER + 1])).unwrap().bye,
        "no stream is known: it is the peer's whichever it is"
    );
    rtcp.set_peer_ssrc(Some(PEER));
    assert!(!rtcp.handle(at(1), US, &bye(&[PEER + 1])).unwrap().bye);
    assert!(!rtcp.handle(at(1), US, &bye(&[])).unwrap().bye);
    assert!(rtcp.handle(at(1), US, &bye(&[PEER + 1, PEER])).unwrap().bye);
}

#[test]
fn a_report_says_the_worse_of_loss_before_and_behind_us_while_that_is_fresh() {
    let mut reception = Reception::new(8_000);
    // One of ten is lost on the way to us, in each second.
    let second = |reception: &mut Reception, number: u64| {
        for index in (number * 50..number * 50 + 50).filter(|index| index % 10 != 5) {
            reception.received(at(index * 20), PEER, index as u16, RtpTimestamp(index as u32 * 160));
        }
    };
    second(&mut reception, 0);
    let block = reception.take_block(at(1_000), None).unwrap();
    assert_eq!((block.fraction_lost, block.cumulative_lost), (25, 5));

    reception.set_downstream(77, at(1_000));
    second(&mut reception, 1);
    let block = reception.take_block(at(2_000), None).unwrap();
    assert_eq!((block.fraction_lost, block.cumulative_lost), (77, 5 + 5 + (77 - 25) * 50 / 256));

    reception.set_downstream(3, at(2_000));
    second(&mut reception, 2);
    let worse = reception.take_block(at(3_000), None).unwrap();
    assert_eq!((worse.fraction_lost, worse.cumulative_lost), (25, block.cumulative_lost + 5));

    reception.set_downstream(200, at(3_000));
    second(&mut reception, 3);
    let stale = at(3_000).plus_millis(DOWNSTREAM_MS_MAX + 1);
    assert_eq!(reception.take_block(stale, None).unwrap().fraction_lost, 25);
    assert_eq!(reception.lost(), 20, "our own figures hold what was lost on the way to us");
}

#[test]
fn every_length_of_cname_ends_in_a_zero_byte_and_fits() {
    let anchor = WallAnchor { ntp_at_zero: 0 };
    for length in 0..300 {
        let cname = "n".repeat(length);
        let mut rtcp = Rtcp::new(at(0), cname, anchor, Random::from_test_seed(1));
        let mut sender = RtpSender::new(US, 8_000, &mut Random::from_test_seed(3));
        sender.audio(at(0), 0, true, 160, 160, &mut [0; 200]);
        let mut reception = Reception::new(8_000);
        receive(&mut reception, 0, [true]);
        let mut out = [0xaa; REPORT_BYTES_MAX];
        let len = rtcp.write_bye(at(1), Some(&sender), &mut reception, US, &mut out);
        let sdes = packets(&out[..len]).nth(1).unwrap();
        assert_eq!(usize::from(sdes[9]), length.min(CNAME_BYTES_MAX));
        assert!(sdes[10 + usize::from(sdes[9])..].iter().all(|&byte| byte == 0));
        assert_eq!(sdes.last(), Some(&0));
        assert!(rtcp.handle(at(1), PEER, &out[..len]).is_ok());
    }
    let rtcp = Rtcp::new(at(0), "é".repeat(40), anchor, Random::from_test_seed(1));
    assert_eq!(rtcp.cname.len(), CNAME_BYTES_MAX);
}

#[test]
fn reports_come_every_2500_to_7500_ms() {
    let mut rtcp = rtcp();
    let mut reception = Reception::new(8_000);
    let (mut now, mut shortest, mut longest) = (Instant::ZERO, u128::MAX, 0);
    for _ in 0..2_000 {
        let wait = rtcp.deadline().since(now).as_millis();
        (shortest, longest) = (shortest.min(wait), longest.max(wait));
        now = rtcp.deadline();
        rtcp.write_report(now, None, &mut reception, US, &mut [0; REPORT_BYTES_MAX]);
    }
    assert!((2_500..2_600).contains(&shortest) && (7_400..=7_500).contains(&longest), "{shortest} {longest}");
}

#[test]
fn reduced_size_feedback_and_unknown_packets_are_stepped_over() {
    let mut rtcp = rtcp();
    let block = [US, 26 << 24 | 0x00ff_ffff, 9, 8, 0, 0];
    let mut compound = packet(0x81, 205, &[PEER, US, 0x0001_0000]); // RTPFB, first: RFC 5506
    compound.extend(packet(0x81, 201, &[&[PEER][..], &block].concat()));
    compound.extend(packet(0x80, 207, &[PEER, 0x0400_0002, 0, 0])); // XR
    compound.extend(packet(0x9f, 223, &[]));
    compound.extend(packet(0xa0, 204, &[PEER, 0, 0x0000_0004])); // APP, padded
    let block = rtcp.handle(at(0), US, &compound).unwrap().about_us.unwrap();
    assert_eq!((block.fraction_lost, block.cumulative_lost, block.highest_sequence, block.jitter), (26, -1, 9, 8));
    assert_eq!(rtcp.remote_loss_percent(), Some(10));
    assert_eq!(rtcp.round_trip_ms(), None, "it had no sender report of ours yet");
}

#[test]
fn blocks_about_others_are_not_about_us() {
    let mut rtcp = rtcp();
    let compound = packet(0x81, 201, &[PEER, 5, 255 << 24, 0, 0, 0, 0]);
    assert_eq!(rtcp.handle(at(0), US, &compound), Ok(RtcpReceived::default()));
    assert_eq!(rtcp.remote_loss_percent(), None);
}

#[test]
fn a_round_trip_beyond_reason_is_left_out() {
    let mut rtcp = rtcp();
    let compound = packet(0x81, 201, &[PEER, US, 0, 0, 0, 0x8000_0000, 1]);
    rtcp.handle(at(1_000), US, &compound).unwrap();
    assert_eq!(rtcp.round_trip_ms(), None);
}

#[test]
fn a_malformed_part_discards_the_whole_datagram() {
    let mut rtcp = rtcp();
    let good = packet(0x81, 201, &[PEER, US, 255 << 24, 0, 0, 0, 0]);
    for (what, bad) in [
        ("a header cut short", vec![0x80, 201, 0]),
        ("version 1", packet(0x40, 201, &[PEER])),
        ("an RTP packet", packet(0x80, 0, &[PEER])),
        ("length beyond the end", packet(0x80, 201, &[PEER])[..6].to_vec()),
        ("RR without its sender", packet(0x80, 201, &[])),
        ("SR without its sender info", packet(0x80, 200, &[PEER, 0, 0, 0, 0])),
        ("more blocks than bytes", packet(0x82, 201, &[PEER, US, 0, 0, 0, 0, 0])),
        ("BYE with more sources than bytes", packet(0x82, 203, &[PEER])),
        ("padding of zero", packet(0xa0, 201, &[PEER, 0])),
        ("padding longer than the packet", packet(0xa0, 201, &[PEER, 9])),
        ("padding that covers a block", packet(0xa1, 201, &[PEER, US, 0, 0, 0, 0, 4])),
    ] {
        let datagram = [&good[..], &bad].concat();
        assert_eq!(rtcp.handle(at(0), US, &datagram), Err(DropReason::RtcpMalformed), "{what}");
    }
    let padded_first = [packet(0xa0, 201, &[PEER, 4]), good].concat();
    assert_eq!(rtcp.handle(at(0), US, &padded_first), Err(DropReason::RtcpMalformed));
    assert_eq!(rtcp.handle(at(0), US, &[]), Err(DropReason::RtcpMalformed));
    assert_eq!(rtcp.remote_loss_percent(), None);
}

proptest! {
    #[test]
    fn a_report_block_is_read_as_written(
        ssrc: u32, fraction_lost: u8, lost in -(1i32 << 23)..(1 << 23), highest_sequence: u32, jitter: u32,
        last_sr: u32, delay_since_last_sr: u32,
    ) {
        let cumulative_lost = lost;
        let block = ReportBlock {
            ssrc, fraction_lost, cumulative_lost, highest_sequence, jitter, last_sr, delay_since_last_sr,
        };
        let mut bytes = [0; REPORT_BLOCK_BYTES];
        block.write(&mut bytes);
        prop_assert_eq!(ReportBlock::read(&bytes), block);
    }

    #[test]
    fn no_bytes_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in 200u8..208, first in 0x80u8..0xc0, words in 0u8..30,
    ) {
        let mut datagram = vec![first, kind, 0, words];
        datagram.extend(bytes);
        let _ = rtcp().handle(at(5), US, &datagram);
    }

    #[test]
    fn no_stream_panics(packets in proptest::collection::vec((0u64..100_000, 0u32..3, any::<u16>(), any::<u32>()), 0..200)) {
        let mut reception = Reception::new(48_000);
        for (time, ssrc, sequence, timestamp) in packets {
            reception.received(at(time), ssrc, sequence, RtpTimestamp(timestamp));
            reception.take_block(at(time), None);
        }
        reception.lost();
        reception.jitter_ms();
    }
}

fn packets(mut datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = (usize::from(*datagram.get(3)?) + 1) * 4;
        let (packet, rest) = datagram.split_at(len);
        datagram = rest;
        Some(packet)
    })
}
