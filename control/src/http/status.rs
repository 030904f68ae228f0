//! Health, figures and timelines.

use super::exposition::{CONTENT_TYPE, Samples, labels};
use super::{Shared, failure, overloaded};
use crate::call::limits;
use crate::figures::Observed;
use crate::runtime::{Figures, Input};
use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use engine::error::DropReason;
use engine::metrics::{LATENESS_BUCKETS, LATENESS_MS, Metrics};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// Time the runtime may take to answer.
const REPLY_TIME_MAX: Duration = Duration::from_secs(2);

/// `GET /` is the original's health check.
pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/", get(|| async { "tandem is running\n" }))
        .route("/health", get(health))
        .route("/openapi.json", get(openapi))
        .route("/metrics", get(metrics))
        .route("/calls/{call_id}/timeline", get(timeline))
}

/// 503 while draining, so that a balancer sends new calls elsewhere.
async fn health(State(shared): State<Shared>) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    match shared.draining.load(Ordering::Relaxed) {
        false => (json, "{\"status\":\"ok\"}").into_response(),
        true => {
            let wait = [(header::RETRY_AFTER, limits::RETRY_AFTER_S.to_string())];
            (StatusCode::SERVICE_UNAVAILABLE, json, wait, "{\"status\":\"draining\"}").into_response()
        }
    }
}

/// What is served and how, for programs that write programs. The tests hold every reply against it.
async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("openapi.json")).into_response()
}

async fn timeline(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<BTreeMap<String, String>>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let (Ok(Path(call_id)), Ok(Query(query))) = (path, query) else {
        return failure(StatusCode::BAD_REQUEST, "bad_path", "the call id or the query is not quoted UTF-8");
    };
    if !shared.access.admits_reader(peer, &headers) {
        return failure(StatusCode::UNAUTHORIZED, "unauthorized", "timelines are shown on this host or with the token");
    }
    let since = query.get("since").and_then(|since| since.parse().ok()).unwrap_or(0);
    match ask(&shared, |reply| Input::Timeline { call_id, since, reply }).await {
        Some(Some(page)) => axum::Json(page).into_response(),
        Some(None) => failure(StatusCode::NOT_FOUND, "unknown_call", "no call with this id is remembered"),
        None => overloaded(),
    }
}

async fn metrics(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    if !shared.access.admits_reader(peer, &headers) {
        return failure(StatusCode::UNAUTHORIZED, "unauthorized", "figures are shown on this host or with the token");
    }
    let Some(figures) = ask(&shared, Input::Figures).await else { return overloaded() };
    let counted = &shared.counters;
    let mut text = samples(&figures);
    line(&mut text, "tandem_draining", "", shared.draining.load(Ordering::Relaxed).into());
    for (name, count) in [
        ("tandem_webhooks_taken_total", &counted.webhooks_taken),
        ("tandem_webhooks_unproven_total", &counted.webhooks_unproven),
        ("tandem_webhooks_unreadable_total", &counted.webhooks_unreadable),
        ("tandem_webhook_events_foreign_total", &counted.events_foreign),
        ("tandem_edge_unauthorized_total", &counted.edge_unauthorized),
        ("tandem_http_overloaded_total", &counted.overloaded),
        ("tandem_http_connections", &counted.connections.open),
        ("tandem_http_connections_refused_total", &counted.connections.refused),
        ("tandem_http_tls_failed_total", &counted.connections.tls_failed),
    ] {
        line(&mut text, name, "", count.load(Ordering::Relaxed));
    }
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text.render()).into_response()
}

async fn ask<T>(shared: &Shared, input: impl FnOnce(oneshot::Sender<T>) -> Input) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    if !shared.offer(input(reply)) {
        return None;
    }
    tokio::time::timeout(REPLY_TIME_MAX, answer).await.ok()?.ok()
}

/// The figures as text (Prometheus' format).
pub fn exposition(figures: &Figures) -> String {
    samples(figures).render()
}

fn samples(figures: &Figures) -> Samples {
    let mut text = Samples::default();
    by_state(&mut text, figures);
    if let Some((alive, counted)) = &figures.orchestrator {
        for (name, value) in [
            ("tandem_calls_alive", *alive as u64),
            ("tandem_calls_begun_total", counted.calls_begun),
            ("tandem_calls_accepted_total", counted.calls_accepted),
            ("tandem_calls_ended_total", counted.calls_ended),
            ("tandem_connects_repeated_total", counted.connects_repeated),
            ("tandem_connects_stale_total", counted.connects_stale),
            ("tandem_connects_refused_total", counted.connects_refused),
            ("tandem_terminates_unmatched_total", counted.terminates_unmatched),
            ("tandem_events_unknown_total", counted.events_unknown),
            ("tandem_edge_events_unmatched_total", counted.edge_events_unmatched),
            ("tandem_edge_events_repeated_total", counted.edge_events_repeated),
            ("tandem_keepalives_lost_total", counted.keepalives_lost),
            ("tandem_goodbyes_lost_total", counted.goodbyes_lost),
            ("tandem_calls_resumed_total", counted.calls_resumed),
            ("tandem_calls_cut_total", counted.calls_cut),
            ("tandem_dials_begun_total", counted.dials_begun),
            ("tandem_dials_answered_total", counted.dials_answered),
            ("tandem_dials_refused_total", counted.dials_refused),
            ("tandem_dials_lost_total", counted.dials_lost),
            ("tandem_permissions_granted_total", counted.permissions_granted),
            ("tandem_permissions_refused_total", counted.permissions_refused),
            ("tandem_graph_retries_total", counted.graph_retries),
            ("tandem_graph_failures_total", counted.graph_failures),
        ] {
            line(&mut text, name, "", value);
        }
    }
    if let Some((alive, counted)) = &figures.edge {
        for (name, value) in [
            ("tandem_sessions_alive", alive.sessions as u64),
            ("tandem_sip_calls_alive", alive.sip_calls as u64),
            ("tandem_sip_transactions_alive", alive.sip_transactions as u64),
            ("tandem_sessions_begun_total", counted.sessions_begun),
            ("tandem_sessions_ended_total", counted.sessions_ended),
            ("tandem_sessions_refused_total", counted.sessions_refused),
            ("tandem_sessions_abandoned_total", counted.sessions_abandoned),
            ("tandem_mailbox_full_total", counted.mailbox_full),
            ("tandem_sip_malformed_total", counted.sip_malformed),
            ("tandem_sip_calls_cut_total", counted.sip_calls_cut),
            ("tandem_sip_unsent_total", figures.sip.unsent),
            ("tandem_sip_connections", figures.sip.connections as u64),
            ("tandem_sip_connections_accepted_total", figures.sip.accepted),
            ("tandem_sip_connections_refused_total", figures.sip.refused),
            ("tandem_sip_handshakes_failed_total", figures.sip.handshakes_failed),
            ("tandem_sip_connections_stalled_total", figures.sip.stalled),
            ("tandem_sip_connections_unreachable_total", figures.sip.unreachable),
        ] {
            line(&mut text, name, "", value);
        }
        people(&mut text, figures);
        engine(&mut text, &figures.engine);
    }
    observed(&mut text, &figures.observed);
    if let Some(store) = &figures.store {
        line(&mut text, "tandem_store_changes_total", "", store.changes);
        line(&mut text, "tandem_store_waiting", "", store.waiting);
        line(&mut text, "tandem_store_lost_total", "", store.lost);
    }
    line(&mut text, "tandem_records_lost_total", "", figures.records_lost);
    line(&mut text, "tandem_timelines", "", figures.timeline.0 as u64);
    line(&mut text, "tandem_timeline_entries_lost_total", "", figures.timeline.1);
    text
}

/// The workers' counters, added up.
fn engine(text: &mut Samples, workers: &[Metrics]) {
    let sum = |of: fn(&Metrics) -> u64| workers.iter().map(of).sum::<u64>();
    for (name, value) in [
        ("engine_workers", workers.len() as u64),
        ("engine_bridges_open", sum(|m| m.bridges_open)),
        ("engine_sockets_open", sum(|m| m.sockets_open)),
        ("engine_sockets_steered", sum(|m| m.sockets_steered)),
        // Every socket of the engine is bound to one media port.
        ("engine_ports_in_use", sum(|m| m.sockets_open)),
        ("engine_timers_set", sum(|m| m.timers_set)),
        ("engine_buffers_lent", sum(|m| m.buffers_lent)),
        ("engine_bridges_opened_total", sum(|m| m.bridges_opened)),
        ("engine_bridges_refused_total", sum(|m| m.bridges_refused)),
        ("engine_bridges_ended_total", sum(|m| m.bridges_ended)),
        ("engine_bridges_panicked_total", sum(|m| m.bridges_panicked)),
        ("engine_datagrams_received_total", sum(|m| m.datagrams_received)),
        ("engine_datagrams_sent_total", sum(|m| m.datagrams_sent)),
        ("engine_datagrams_unsent_total", sum(|m| m.datagrams_unsent)),
        ("engine_datagrams_overflowed_total", sum(|m| m.datagrams_overflowed)),
        ("engine_socket_errors_total", sum(|m| m.socket_errors)),
        ("engine_events_lost_total", sum(|m| m.events_lost)),
        ("engine_ports_taken_early_total", sum(|m| m.ports_taken_early)),
        ("engine_packets_concealed_total", sum(|m| m.packets_concealed)),
        ("engine_packets_redundant_total", sum(|m| m.packets_redundant)),
        ("engine_rearmed_total", sum(|m| m.rearmed)),
        ("engine_turns_total", sum(|m| m.turns)),
        ("engine_turns_idle_total", sum(|m| m.turns_idle)),
        ("engine_bridges_refused_busy_total", sum(|m| m.bridges_refused_busy)),
        ("engine_handshakes_delayed_total", sum(|m| m.handshakes_delayed)),
        ("engine_handshakes_dropped_total", sum(|m| m.handshakes_dropped)),
    ] {
        line(text, name, "", value);
    }
    for (worker, metrics) in workers.iter().enumerate() {
        let labels = format!("{{worker=\"{worker}\"}}");
        line(text, "engine_busy_permille", &labels, metrics.busy_permille);
        line(text, "engine_cpu_permille", &labels, metrics.cpu_permille);
        line(text, "engine_encoder_complexity", &labels, metrics.complexity);
    }
    let mut timers = 0;
    let buckets = sum_lateness(workers).into_iter().enumerate().map(|(bucket, count)| {
        timers += count;
        (LATENESS_MS.get(bucket).map(|millis| *millis as f64 / 1_000.0), timers)
    });
    // What the timers were late in all is not counted.
    text.histogram("engine_timer_lateness_seconds", &[], buckets, None);
    for reason in DropReason::ALL {
        let dropped = workers.iter().map(|m| m.dropped[reason as usize]).sum();
        line(text, "engine_packets_dropped_total", &format!("{{reason=\"{reason:?}\"}}"), dropped);
    }
}

/// How late the workers' timers came: the pacing of what is sent.
fn sum_lateness(workers: &[Metrics]) -> [u64; LATENESS_BUCKETS] {
    std::array::from_fn(|bucket| workers.iter().map(|m| m.lateness[bucket]).sum())
}

fn line(text: &mut Samples, name: &str, labels: &str, value: u64) {
    text.push(name, labels, value);
}

/// Calls by how far they are, of the planes that run here.
fn by_state(text: &mut Samples, figures: &Figures) {
    for (name, states) in ["tandem_calls", "tandem_sessions"].into_iter().zip(&figures.states) {
        for (state, count) in states {
            line(text, name, &labels(&[("state", state)]), *count);
        }
    }
}

/// Trunks, and who is registered.
fn people(text: &mut Samples, figures: &Figures) {
    for trunk in &figures.trunks {
        let labels = labels(&[("trunk", &trunk.name)]);
        line(text, "tandem_trunk_calls", &labels, trunk.calls as u64);
        line(text, "tandem_trunk_resting", &labels, trunk.resting.into());
        if let Some(registered) = trunk.registered {
            line(text, "tandem_trunk_registered", &labels, registered.into());
        }
        if let Some(alive) = trunk.alive {
            line(text, "tandem_trunk_up", &labels, alive.into());
        }
    }
    if let Some(alive) = figures.target_alive {
        line(text, "tandem_target_up", "", alive.into());
    }
    let gate = &figures.registered;
    line(text, "tandem_registered_users", "", gate.users as u64);
    line(text, "tandem_registered_devices", "", gate.devices as u64);
    line(text, "tandem_registrations_total", "", gate.counters.registered);
    line(text, "tandem_sip_admitted_total", "{as=\"trunk\"}", gate.counters.trunks_admitted);
    line(text, "tandem_sip_admitted_total", "{as=\"user\"}", gate.counters.users_admitted);
    line(text, "tandem_sip_challenged_total", "", gate.counters.challenged);
    line(text, "tandem_sip_refused_total", "", gate.counters.refused);
}

/// How long steps took, how calls ended and how their media were.
fn observed(text: &mut Samples, observed: &Observed) {
    for (action, histogram) in &observed.graph {
        text.observed("tandem_graph_seconds", &[("action", action)], histogram);
    }
    for (name, histogram) in [
        ("tandem_accept_seconds", &observed.accepted),
        ("tandem_ringing_seconds", &observed.ringing),
        ("tandem_answer_seconds", &observed.answered),
        ("tandem_talk_seconds", &observed.talking),
        ("tandem_call_playout_delay_seconds", &observed.playout),
    ] {
        text.observed(name, &[], histogram);
    }
    for ((side, cause), count) in &observed.ends {
        line(text, "tandem_ends_total", &labels(&[("side", side), ("cause", cause)]), *count);
    }
    for (peer, quality) in &observed.quality {
        let labelled = [("peer", *peer)];
        for (name, histogram) in [
            ("tandem_call_jitter_seconds", &quality.jitter),
            ("tandem_call_loss_ratio", &quality.loss),
            ("tandem_call_concealed_ratio", &quality.concealed),
            ("tandem_call_round_trip_seconds", &quality.round_trip),
            ("tandem_call_remote_loss_ratio", &quality.remote_loss),
        ] {
            text.observed(name, &labelled, histogram);
        }
        line(text, "tandem_calls_silent_total", &labels(&labelled), quality.silent);
    }
}
