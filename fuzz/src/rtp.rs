//! What arrives inside RTP and RTCP.

use crate::script::Script;
use engine::random::Random;
use engine::rtp::header::{self, HEADER_BYTES};
use engine::rtp::rtcp::{Reception, Rtcp};
use engine::rtp::sender::RtpSender;
use engine::rtp::telephone_event::EventReceiver;
use engine::time::{Instant, RtpTimestamp, WallAnchor};

/// One packet. A header without extension, sources and padding is written again as it was read.
pub fn rtp_header(data: &[u8]) {
    let Ok(packet) = header::parse(data) else { return };
    assert!(HEADER_BYTES + packet.payload.len() <= data.len());
    let mut written = [0; HEADER_BYTES];
    header::write(packet.marker, packet.payload_type, packet.sequence, packet.timestamp, packet.ssrc, &mut written);
    assert_eq!(written[1..], data[1..HEADER_BYTES]);
    if data[0] == 0x80 {
        assert_eq!((written[0], packet.payload), (data[0], &data[HEADER_BYTES..]));
    }
    let again = header::parse(&written).expect("what we write is RTP");
    assert_eq!((again.ssrc, again.sequence, again.payload), (packet.ssrc, packet.sequence, &[][..]));
}

/// Compound packets, RTP arrivals and waits; a report is written whenever one is due.
pub fn rtcp(data: &[u8]) {
    let mut script = Script::new(data);
    let mut now = Instant::from_millis(1_000);
    let mut random = Random::from_test_seed(1);
    let sender = RtpSender::new(0x0102_0304, 48_000, &mut random);
    let anchor = WallAnchor { ntp_at_zero: 0xe000_0000_0000_0000 };
    let mut rtcp = Rtcp::new(now, "fuzz".to_owned(), anchor, random);
    let mut reception = Reception::new(script.pick(&[8_000, 48_000]));
    let mut out = [0; 1_500];
    while !script.is_over() {
        match script.byte() % 4 {
            0 => now = now.plus_millis(script.millis()),
            1 => {
                let _ = rtcp.handle(now, sender.ssrc(), script.chunk());
            }
            2 => {
                let (ssrc, sequence) = (u32::from(script.byte()), script.word());
                reception.received(now, ssrc, sequence, RtpTimestamp(script.long()));
            }
            _ => {
                let with_sender = script.byte() & 1 == 0;
                let sender = with_sender.then_some(&sender);
                let len = rtcp.write_report(now, sender, &mut reception, 0x0102_0304, &mut out);
                assert!(rtcp.deadline() > now, "the next report lies in the past");
                let mut peer = Rtcp::new(now, "peer".to_owned(), anchor, Random::from_test_seed(2));
                peer.handle(now, 7, &out[..len]).expect("what we write is RTCP");
            }
        }
        assert!(rtcp.remote_loss_percent().is_none_or(|percent| percent <= 100));
        let _ = (rtcp.round_trip_ms(), reception.lost(), reception.jitter_ms(), reception.packets());
    }
    let len = rtcp.write_bye(now, Some(&sender), &mut reception, 0x0102_0304, &mut out);
    let mut peer = Rtcp::new(now, "peer".to_owned(), anchor, Random::from_test_seed(2));
    assert!(peer.handle(now, 7, &out[..len]).expect("what we write is RTCP").bye);
}

/// Event payloads with their timestamps, and waits.
pub fn telephone_event(data: &[u8]) {
    let mut script = Script::new(data);
    let mut now = Instant::ZERO;
    let mut receiver = EventReceiver::new(script.pick(&[8_000, 48_000, 16_000]));
    let mut packets = 0;
    let mut keys = 0;
    while !script.is_over() {
        now = now.plus_millis(script.millis());
        // As the flow does: what is due is taken first.
        while let Some(pressed) = receiver.handle_timeout(now) {
            assert!(pressed.digit.event() < 16);
            keys += 1;
        }
        assert!(receiver.deadline() > now, "a key is due after what is due was taken");
        let timestamp = RtpTimestamp(script.long());
        packets += 1;
        keys += u32::from(receiver.handle(now, timestamp, script.chunk()).is_some());
    }
    now = now.plus_millis(10_000);
    keys += u32::from(receiver.handle_timeout(now).is_some());
    assert_eq!(receiver.deadline(), Instant::NEVER);
    assert!(keys <= packets, "{keys} keys out of {packets} packets");
}
