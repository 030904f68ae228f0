//! Prometheus' text format (version 0.0.4): samples in, families with HELP and TYPE out.
//!
//! Why samples are gathered first: all lines of a family must stand together, and the places that count do not care.

use crate::figures::Histogram;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};

/// What the answer is.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What families are, for people. One that is not listed is explained by its name.
const HELP: &[(&str, &str)] = &[
    ("engine_buffers_lent", "Receive buffers lent out of the rings."),
    ("engine_busy_permille", "CPU time of each media worker in thousandths."),
    ("engine_encoder_complexity", "Effort of the Opus encoders that the load allows."),
    (
        "engine_events_lost_total",
        "Events that found no room on their way to the control plane; above 0 the host is overloaded.",
    ),
    ("engine_packets_dropped_total", "Packets thrown away, by reason."),
    ("engine_ports_in_use", "Media ports that are bound."),
    ("engine_ports_taken_early_total", "Media ports taken again before they had rested: the range is too small."),
    ("engine_timer_lateness_seconds", "How late the media workers' timers come: the pacing of what is sent."),
    ("tandem_accept_seconds", "From WhatsApp's webhook until accept has succeeded."),
    ("tandem_answer_seconds", "From the first INVITE of a call until its far side has answered."),
    (
        "tandem_call_concealed_ratio",
        "Share of the packets of a call that were made up for the other side, by the peer they came from.",
    ),
    ("tandem_call_jitter_seconds", "Interarrival jitter at the end of a call, by peer."),
    ("tandem_call_loss_ratio", "Share of the packets of a call that were lost on the way here, by peer."),
    ("tandem_call_playout_delay_seconds", "Delay of the playout buffer at the end of a call."),
    ("tandem_call_remote_loss_ratio", "Share of our packets that the peer reported lost last, by peer."),
    ("tandem_call_round_trip_seconds", "Round trip at the end of a call, by peer."),
    ("tandem_calls", "WhatsApp calls that are not over, by how far they are."),
    ("tandem_calls_accepted_total", "Calls that Graph has accepted."),
    ("tandem_calls_alive", "WhatsApp calls that are not over."),
    ("tandem_calls_begun_total", "WhatsApp calls that have begun."),
    ("tandem_calls_cut_total", "Calls of the last run that were ended."),
    ("tandem_calls_ended_total", "WhatsApp calls that have ended."),
    ("tandem_calls_resumed_total", "Calls of the last run that went on."),
    ("tandem_calls_silent_total", "Calls in which we sent to a peer and nothing came from it."),
    ("tandem_connects_refused_total", "Calls refused for want of room, or because the program was about to stop."),
    ("tandem_connects_stale_total", "Webhooks of calls that came too late."),
    ("tandem_dials_answered_total", "Calls to WhatsApp users that were answered."),
    ("tandem_dials_begun_total", "Calls to WhatsApp users that Graph was asked for."),
    ("tandem_dials_lost_total", "Calls to WhatsApp users that Graph may have begun and nobody has ever named."),
    ("tandem_dials_refused_total", "Calls to WhatsApp users refused here: at a limit, or while the program stops."),
    ("tandem_draining", "1 while the program takes no new calls."),
    ("tandem_edge_unauthorized_total", "Requests of the edge API without a valid token."),
    ("tandem_ends_total", "Calls that have ended, by side and cause."),
    ("tandem_goodbyes_lost_total", "Calls of whose end WhatsApp could not be told."),
    ("tandem_graph_failures_total", "Graph requests that failed for good."),
    ("tandem_graph_retries_total", "Graph requests that were tried again."),
    ("tandem_graph_seconds", "Time until Graph replied, or was given up, by action."),
    ("tandem_mailbox_full_total", "Commands that found a media worker's mailbox full."),
    ("tandem_permissions_granted_total", "WhatsApp users who let the business call them."),
    ("tandem_permissions_refused_total", "WhatsApp users who were asked, and do not."),
    ("tandem_registered_devices", "Devices of users that are registered here."),
    ("tandem_registered_users", "Users with a registered device."),
    ("tandem_registrations_total", "REGISTERs that were carried out."),
    ("tandem_ringing_seconds", "From the first INVITE of a call until its far side rings."),
    ("tandem_sessions", "Calls that the edge carries, by how far they are."),
    ("tandem_sessions_abandoned_total", "Calls that were forgotten because something never ended: bugs."),
    ("tandem_sessions_alive", "Calls that the edge carries."),
    ("tandem_sip_admitted_total", "SIP requests that were let in, by whose they were."),
    ("tandem_sip_calls_cut_total", "SIP calls of the last run that were sent a BYE."),
    ("tandem_sip_challenged_total", "SIP requests that were asked for a password."),
    ("tandem_sip_refused_total", "SIP requests that nobody of ours has sent."),
    ("tandem_store_lost_total", "Changes that the store could not take: a restart may forget calls."),
    ("tandem_store_waiting", "Changes that wait for the store's disk."),
    ("tandem_talk_seconds", "From the far side's answer until the end of a call."),
    ("tandem_target_up", "1 while the SIP target answers OPTIONS, where it is asked."),
    ("tandem_trunk_calls", "Calls that each trunk carries."),
    ("tandem_trunk_registered", "1 while a trunk that shall register us does."),
    ("tandem_trunk_resting", "1 while a trunk is tried last because it gave no answer a moment ago."),
    ("tandem_trunk_up", "1 while a trunk that is asked with OPTIONS answers."),
    ("tandem_webhook_events_foreign_total", "Events of numbers that their webhook's sender has no say in."),
    ("tandem_webhooks_taken_total", "Webhooks taken."),
    ("tandem_webhooks_unproven_total", "Webhooks without a valid signature or header."),
    ("tandem_webhooks_unreadable_total", "Webhooks that could not be read."),
];

/// Samples by family, in the order in which families came first.
#[derive(Debug, Default)]
pub struct Samples {
    order: Vec<String>,
    families: BTreeMap<String, Family>,
}

#[derive(Debug)]
struct Family {
    kind: &'static str,
    lines: String,
}

impl Samples {
    /// One sample. `labels` as [`labels`] writes them. A name that ends in `_total` is a counter, any other a gauge.
    pub fn push(&mut self, name: &str, labels: &str, value: impl Display) {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        self.line(name, kind, name, labels, value);
    }

    /// A histogram with its buckets. `sum` where it is known.
    pub fn histogram(
        &mut self,
        name: &str,
        labelled: &[(&str, &str)],
        buckets: impl Iterator<Item = (Option<f64>, u64)>,
        sum: Option<f64>,
    ) {
        let mut count = 0;
        for (bound, total) in buckets {
            let bound = bound.map_or("+Inf".to_owned(), |bound| bound.to_string());
            let all: Vec<(&str, &str)> = labelled.iter().copied().chain([("le", bound.as_str())]).collect();
            self.line(name, "histogram", &format!("{name}_bucket"), &labels(&all), total);
            count = total;
        }
        if let Some(sum) = sum {
            self.line(name, "histogram", &format!("{name}_sum"), &labels(labelled), sum);
        }
        self.line(name, "histogram", &format!("{name}_count"), &labels(labelled), count);
    }

    /// One that was observed.
    pub fn observed(&mut self, name: &str, labelled: &[(&str, &str)], histogram: &Histogram) {
        self.histogram(name, labelled, histogram.cumulated(), Some(histogram.sum()));
    }

    /// The whole text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for name in &self.order {
            let Some(Family { kind, lines }) = self.families.get(name) else { continue };
            if let Some((_, help)) = HELP.iter().find(|(known, _)| known == name) {
                let _ = writeln!(text, "# HELP {name} {help}");
            } else {
                let _ = writeln!(text, "# HELP {name} {}.", name.trim_end_matches("_total").replace('_', " "));
            }
            let _ = writeln!(text, "# TYPE {name} {kind}");
            text.push_str(lines);
        }
        text
    }

    fn line(&mut self, family: &str, kind: &'static str, name: &str, labels: &str, value: impl Display) {
        if !self.families.contains_key(family) {
            self.order.push(family.to_owned());
            self.families.insert(family.to_owned(), Family { kind, lines: String::new() });
        }
        if let Some(known) = self.families.get_mut(family) {
            // Writing to a String cannot fail.
            let _ = writeln!(known.lines, "{name}{labels} {value}");
        }
    }
}

/// Labels with their values escaped; nothing where there are none.
pub fn labels(labelled: &[(&str, &str)]) -> String {
    if labelled.is_empty() {
        return String::new();
    }
    let quoted: Vec<String> = labelled
        .iter()
        .map(|(name, value)| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        })
        .collect();
    format!("{{{}}}", quoted.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_family_stand_together_under_its_help_and_type() {
        let mut samples = Samples::default();
        for worker in ["0", "1"] {
            samples.push("engine_busy_permille", &labels(&[("worker", worker)]), 7);
            samples.push("tandem_trunk_calls", &labels(&[("trunk", "a \"b\"\\\n")]), worker);
        }
        samples.push("x_y_total", "", 1);
        let buckets = [(Some(0.5), 1), (None, 3)];
        samples.histogram("z_seconds", &[("peer", "sip")], buckets.into_iter(), Some(2.5));
        assert_eq!(
            samples.render(),
            "# HELP engine_busy_permille CPU time of each media worker in thousandths.\n# TYPE engine_busy_permille gauge\n\
             engine_busy_permille{worker=\"0\"} 7\nengine_busy_permille{worker=\"1\"} 7\n\
             # HELP tandem_trunk_calls Calls that each trunk carries.\n# TYPE tandem_trunk_calls gauge\n\
             tandem_trunk_calls{trunk=\"a \\\"b\\\"\\\\\\n\"} 0\ntandem_trunk_calls{trunk=\"a \\\"b\\\"\\\\\\n\"} 1\n\
             # HELP x_y_total x y.\n# TYPE x_y_total counter\nx_y_total 1\n\
             # HELP z_seconds z seconds.\n# TYPE z_seconds histogram\nz_seconds_bucket{peer=\"sip\",le=\"0.5\"} 1\n\
             z_seconds_bucket{peer=\"sip\",le=\"+Inf\"} 3\nz_seconds_sum{peer=\"sip\"} 2.5\nz_seconds_count{peer=\"sip\"} 3\n"
        );
    }

    #[test]
    fn every_help_text_is_one_line_and_stands_once() {
        for pair in HELP.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{} is not in its place", pair[1].0);
        }
        assert!(HELP.iter().all(|(_, help)| !help.contains(['\n', '\\'])));
    }
}
