//! The call that is measured lives: one that had died, or lost a direction, would be the cheapest of all.

use benches::{Call, Kind};
use engine::sdp::Codec;

/// A minute: consent would be lost after half of it (RFC 7675 §5.1).
const FRAMES: u64 = 3_000;

#[test]
fn a_call_without_sockets_carries_every_frame_both_ways_for_a_minute() {
    for (a, b) in [
        (Kind::WhatsApp, Kind::Rtp(Codec::Pcmu)),
        (Kind::Browser, Kind::Rtp(Codec::Pcma)),
        (Kind::WhatsApp, Kind::Rtp(Codec::Opus)),
        (Kind::WhatsApp, Kind::Browser),
        (Kind::Rtp(Codec::Pcmu), Kind::Rtp(Codec::Pcmu)),
    ] {
        let mut call = Call::set_up(a, b);
        let mut carried = [0; 6];
        for frame in 0..FRAMES {
            let mut prepared = call.prepare();
            carried[(frame * 6 / FRAMES) as usize] += call.carry(&mut prepared);
        }
        // Two packets a frame, and now and then a check or a report. The first stretch fills the jitter buffer.
        let per_stretch = 2 * FRAMES / 6;
        let steady = carried[1..].iter().all(|sent| (per_stretch - 4..per_stretch + 50).contains(sent));
        assert!(
            steady && carried[0] >= per_stretch - 20,
            "{a:?} to {b:?}: {carried:?} datagrams, {per_stretch} of audio"
        );
    }
}
