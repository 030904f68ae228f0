//! What a call's media were like, in words: the line of the timeline that tells an operator who hears silence where to look.
//!
//! Why in words and not in figures alone: a caller who heard nothing has one of a few causes (the peer never sent, what it sent was
//! thrown away, we never sent), and the counters of both legs tell them apart at once. Whoever reads the line should not have to.

use engine::bridge::BridgeStats;
use engine::leg::LegStats;
use std::fmt::Write;

/// Loss from which it is named as the trouble, per cent.
const LOSS_PERCENT: u64 = 5;

/// One clause a leg, the trouble first. `names` are those of leg A's and leg B's peers.
pub fn media(stats: &BridgeStats, names: [&str; 2]) -> String {
    let mut text = String::new();
    for (leg, name, redundant) in
        [(&stats.a, names[0], stats.redundant_to_a), (&stats.b, names[1], stats.redundant_to_b)]
    {
        if !text.is_empty() {
            text.push_str("; ");
        }
        if let Some(trouble) = trouble(leg, name) {
            let _ = write!(text, "{trouble} ");
        }
        let _ = write!(
            text,
            "{name}: {} packets in, {} out, {} lost",
            leg.packets_received, leg.packets_sent, leg.packets_lost
        );
        let _ = write!(text, ", jitter {} ms", leg.jitter_ms);
        if let Some(round_trip) = leg.round_trip_ms {
            let _ = write!(text, ", round trip {round_trip} ms");
        }
        if let Some(loss) = leg.remote_loss_percent {
            let _ = write!(text, ", {loss} % lost there");
        }
        if redundant > 0 {
            let _ = write!(text, ", {redundant} sent with FEC");
        }
    }
    if let Some(playout) = &stats.playout {
        let _ = write!(
            text,
            "; playout: delay {} ms, {} late, {} concealed, {} recovered",
            playout.delay_ms, playout.late, playout.concealed, playout.recovered
        );
    }
    text
}

fn trouble(leg: &LegStats, name: &str) -> Option<String> {
    let sent = leg.packets_received + leg.packets_lost;
    Some(match () {
        () if leg.packets_received == 0 && leg.packets_dropped > 0 => {
            format!(
                "SILENCE: all {} datagrams from {name} were thrown away, see engine_packets_dropped_total.",
                leg.packets_dropped
            )
        }
        () if leg.packets_received == 0 => {
            format!(
                "SILENCE: no RTP came from {name}: is UDP MEDIA_PORTS open to it, is the address in our description (PUBLIC_IP) right?"
            )
        }
        () if leg.packets_sent == 0 => {
            format!("SILENCE: nothing was sent to {name}: the call ended before its media were released.")
        }
        () if leg.packets_lost * 100 >= sent * LOSS_PERCENT => {
            format!("LOSS: {} % from {name}.", leg.packets_lost * 100 / sent)
        }
        () => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leg(packets_received: u64, packets_sent: u64) -> LegStats {
        LegStats { packets_received, packets_sent, ..LegStats::default() }
    }

    #[test]
    fn a_good_call_has_figures_and_no_trouble() {
        let a = LegStats { jitter_ms: 3, round_trip_ms: Some(40), packets_lost: 2, ..leg(498, 500) };
        let text = media(&BridgeStats { a, b: leg(500, 498), ..BridgeStats::default() }, ["whatsapp", "sip"]);
        assert_eq!(
            text,
            "whatsapp: 498 packets in, 500 out, 2 lost, jitter 3 ms, round trip 40 ms; sip: 500 packets in, 498 out, 0 lost, jitter 0 ms"
        );
    }

    #[test]
    fn each_kind_of_silence_has_its_own_words() {
        let of = |a: LegStats| media(&BridgeStats { a, b: leg(1, 1), ..BridgeStats::default() }, ["whatsapp", "sip"]);
        assert!(of(leg(0, 9)).starts_with("SILENCE: no RTP came from whatsapp"));
        assert!(of(LegStats { packets_dropped: 7, ..leg(0, 9) }).starts_with("SILENCE: all 7 datagrams from whatsapp"));
        assert!(of(leg(9, 0)).starts_with("SILENCE: nothing was sent to whatsapp"));
        assert!(of(LegStats { packets_lost: 10, ..leg(90, 100) }).starts_with("LOSS: 10 % from whatsapp."));
    }
}
