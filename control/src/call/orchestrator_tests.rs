use super::*;
use crate::call::lease::{EndFacts, Facts, SessionState};
use crate::call::{EdgeEventKind, SessionCreated};
use crate::store::Accepted;
use crate::trace::timeline::Step;
use crate::whatsapp::graph::{GraphAction, GraphErrorKind};

#[path = "orchestrator_restart_tests.rs"]
mod restart;

const WALL: u64 = 1_767_225_600;
const CALL: &str = "wacid.A";
const SESSION: &str = "s-1";

#[test]
fn a_call_is_prepared_at_once_and_accepted_when_media_and_far_side_are_ready() {
    for order in [[Input::Media, Input::Answered], [Input::Answered, Input::Media]] {
        let mut bench = Bench::new();
        bench.feed(&[Input::Connect]);
        assert_eq!(bench.take(), ["edge new hold"]);
        bench.feed(&[Input::Created]);
        assert_eq!(bench.take(), ["pre_accept"]);
        bench.feed(&[Input::GraphOk]);
        bench.feed(&order[..1]);
        assert_eq!(bench.take(), Vec::<String>::new());
        bench.feed(&order[1..]);
        assert_eq!(bench.take(), ["accept"]);
        bench.feed(&[Input::GraphOk]);
        assert_eq!(bench.take(), ["edge release"]);
        bench.feed(&[Input::EdgeOk]);
        assert_eq!(bench.take(), Vec::<String>::new());
        assert_eq!(bench.orchestrator.alive(), 1);
    }
}

#[test]
fn accept_carries_the_bytes_of_pre_accept() {
    let mut bench = Bench::new();
    bench.feed(&[Input::Connect, Input::Created, Input::GraphOk, Input::Media, Input::Answered]);
    assert_eq!(bench.sdps, ["answer", "answer"]);
}

#[test]
fn every_race_ends_with_the_right_goodbyes_and_nothing_left() {
    use Input::*;
    // What happens, what is asked for in this order, and the end that the timeline names.
    let table: &[(&str, &[Input], &[&str], &str)] = &[
        (
            "terminate while opening",
            &[Connect, Terminate, Created, EdgeOk],
            &["edge new hold", "edge hangup"],
            "whatsapp",
        ),
        ("terminate and the edge refuses", &[Connect, Terminate, EdgeRefuses], &["edge new hold"], "whatsapp"),
        (
            "terminate while pre_accept is out",
            &[Connect, Created, Terminate, GraphOk, EdgeOk],
            &["edge new hold", "pre_accept", "edge hangup"],
            "whatsapp",
        ),
        (
            "terminate while ringing",
            &[Connect, Created, GraphOk, Media, Terminate, EdgeOk],
            &["edge new hold", "pre_accept", "edge hangup"],
            "whatsapp",
        ),
        (
            "terminate while accept is out, its reply comes late",
            &[Connect, Created, GraphOk, Media, Answered, Terminate, GraphOk, EdgeOk],
            &["edge new hold", "pre_accept", "accept", "edge hangup"],
            "whatsapp",
        ),
        (
            "terminate while release is out",
            &[Connect, Created, GraphOk, Media, Answered, GraphOk, Terminate, EdgeOk],
            &["edge new hold", "pre_accept", "accept", "edge release", "edge hangup"],
            "whatsapp",
        ),
        (
            "terminate in the call",
            &[Connect, Created, GraphOk, Media, Answered, GraphOk, EdgeOk, Terminate, EdgeOk, Ended],
            &["edge new hold", "pre_accept", "accept", "edge release", "edge hangup"],
            "whatsapp",
        ),
        (
            "far side busy while pre_accept is out",
            &[Connect, Created, Ended, GraphOk],
            &["edge new hold", "pre_accept", "reject"],
            "sip",
        ),
        (
            "far side busy before the session has a name",
            &[Connect, Ended, GraphOk],
            &["edge new hold", "reject"],
            "sip",
        ),
        (
            "far side busy after pre_accept",
            &[Connect, Created, GraphOk, Ended, GraphOk],
            &["edge new hold", "pre_accept", "reject"],
            "sip",
        ),
        (
            "far side hangs up while accept is out: its outcome decides",
            &[Connect, Created, GraphOk, Media, Answered, Ended, GraphOk, GraphOk],
            &["edge new hold", "pre_accept", "accept", "terminate"],
            "sip",
        ),
        (
            "far side hangs up while accept is out, and accept is refused",
            &[Connect, Created, GraphOk, Media, Answered, Ended, GraphFinal, GraphOk],
            &["edge new hold", "pre_accept", "accept", "reject"],
            "sip",
        ),
        (
            "far side hangs up while accept is out, then WhatsApp does",
            &[Connect, Created, GraphOk, Media, Answered, Ended, Terminate, GraphOk],
            &["edge new hold", "pre_accept", "accept"],
            "sip",
        ),
        (
            "far side hangs up in the call",
            &[Connect, Created, GraphOk, Media, Answered, GraphOk, EdgeOk, Ended, GraphOk],
            &["edge new hold", "pre_accept", "accept", "edge release", "terminate"],
            "sip",
        ),
        (
            "both hang up: the webhook stops the goodbye's repetitions",
            &[Connect, Created, GraphOk, Media, Answered, GraphOk, EdgeOk, Ended, GraphBusy, Terminate],
            &["edge new hold", "pre_accept", "accept", "edge release", "terminate"],
            "sip",
        ),
        (
            "pre_accept is refused for good",
            &[Connect, Created, GraphFinal, GraphOk, EdgeOk],
            &["edge new hold", "pre_accept", "edge hangup", "reject"],
            "whatsapp",
        ),
        (
            "accept is refused for good",
            &[Connect, Created, GraphOk, Media, Answered, GraphFinal, EdgeOk, GraphOk],
            &["edge new hold", "pre_accept", "accept", "edge hangup", "reject"],
            "whatsapp",
        ),
        (
            "accept is lost: never again, terminate instead",
            &[Connect, Created, GraphOk, Media, Answered, GraphLost, EdgeOk, GraphOk],
            &["edge new hold", "pre_accept", "accept", "edge hangup", "terminate"],
            "whatsapp",
        ),
        (
            "accept is lost and had not arrived: terminate fails, reject",
            &[Connect, Created, GraphOk, Media, Answered, GraphLost, EdgeOk, GraphFinal, GraphOk],
            &["edge new hold", "pre_accept", "accept", "edge hangup", "terminate", "reject"],
            "whatsapp",
        ),
        ("the edge refuses the offer", &[Connect, EdgeRefuses, GraphOk], &["edge new hold", "reject"], "whatsapp"),
        ("the edge is full", &[Connect, EdgeFull, GraphOk], &["edge new hold", "reject"], "tandem"),
        (
            "the release fails",
            &[Connect, Created, GraphOk, Media, Answered, GraphOk, EdgeRefuses, EdgeOk, GraphOk],
            &["edge new hold", "pre_accept", "accept", "edge release", "edge hangup", "terminate"],
            "tandem",
        ),
    ];
    for (name, inputs, asked, side) in table {
        let mut bench = Bench::new();
        bench.feed(inputs);
        assert_eq!(bench.take(), *asked, "{name}");
        assert_eq!(bench.orchestrator.alive(), 0, "{name}");
        assert_eq!(bench.ends.len(), 1, "{name}: {:?}", bench.ends);
        assert!(bench.ends[0].starts_with(&format!("side={side} ")), "{name}: {:?}", bench.ends);
        // A late repetition of the webhook does nothing.
        bench.feed(&[Connect]);
        assert_eq!(bench.take(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_terminate_that_overtakes_its_connect_is_remembered() {
    let mut bench = Bench::new();
    bench.feed(&[Input::Terminate, Input::Connect]);
    assert_eq!(bench.take(), Vec::<String>::new());
    let counters = bench.orchestrator.counters();
    assert_eq!((counters.terminates_unmatched, counters.connects_repeated), (1, 1));
}

#[test]
fn a_repeated_connect_begins_no_second_call() {
    let mut bench = Bench::new();
    bench.feed(&[Input::Connect, Input::Connect, Input::Created, Input::Connect, Input::GraphOk, Input::Connect]);
    assert_eq!(bench.take(), ["edge new hold", "pre_accept"]);
    assert_eq!(bench.orchestrator.counters().connects_repeated, 3);
}

#[test]
fn an_old_connect_is_ignored_and_one_without_a_time_is_not() {
    let mut bench = Bench::new();
    let connect = |call_id: &str, timestamp_s| {
        vec![WebhookEvent::Connect(Connect { call_id: call_id.into(), timestamp_s, ..Connect::default() })]
    };
    bench.orchestrator.handle_webhook(bench.now, WALL, connect("old", Some(WALL - 61)));
    assert_eq!(bench.orchestrator.alive(), 0);
    bench.orchestrator.handle_webhook(bench.now, WALL, connect("young", Some(WALL - 59)));
    bench.orchestrator.handle_webhook(bench.now, WALL, connect("timeless", None));
    bench.orchestrator.handle_webhook(bench.now, WALL, connect("tomorrow", Some(WALL + 86_400)));
    assert_eq!((bench.orchestrator.alive(), bench.orchestrator.counters().connects_stale), (3, 1));
}

#[test]
fn a_transient_failure_is_tried_again_and_only_a_bounded_number_of_times() {
    let mut bench = Bench::new();
    bench.feed(&[Input::Connect, Input::Created, Input::GraphBusy]);
    bench.run_ms(1_000);
    bench.feed(&[Input::GraphBusy]);
    bench.run_ms(2_000);
    assert_eq!(bench.take(), ["edge new hold", "pre_accept", "pre_accept", "pre_accept"]);
    bench.feed(&[Input::GraphBusy, Input::EdgeOk]);
    for _ in 0..5 {
        bench.feed(&[Input::GraphBusy]);
        bench.run_ms(10_100);
    }
    let rejects: Vec<_> = bench.take().into_iter().filter(|ask| ask == "reject").collect();
    assert_eq!(rejects.len(), limits::GOODBYE_TRIES_MAX as usize);
    // From now on it is repeated slowly, and nobody waits for it.
    assert_eq!((bench.orchestrator.alive(), bench.orchestrator.pending()), (1, 0));
    bench.feed(&[Input::GraphBusy]);
    bench.run_ms((limits::GRAPH_BACKOFF_MS << (limits::GOODBYE_TRIES_MAX - 1)) * 5 / 4);
    assert_eq!(bench.take(), ["reject"]);
    bench.feed(&[Input::GraphOk]);
    assert_eq!((bench.orchestrator.alive(), bench.orchestrator.counters().goodbyes_lost), (0, 0));
}

#[test]
fn an_expired_token_ends_the_call_and_the_goodbye_waits_for_a_new_one() {
    use Input::*;
    let mut bench = Bench::new();
    bench.feed(&[Connect, Created, GraphOperator, GraphOperator, EdgeOk]);
    assert_eq!(bench.take(), ["edge new hold", "pre_accept", "edge hangup", "reject"]);
    assert!(bench.ends[0].starts_with("side=tandem cause=pre_accept_failed"), "{:?}", bench.ends);
    // The operator writes the new token and starts the program again.
    bench.restart();
    assert_eq!(bench.take(), ["reject"]);
    bench.feed(&[GraphOk]);
    assert_eq!((bench.orchestrator.alive(), bench.remembered.calls.len()), (0, 0));
}

#[test]
fn a_goodbye_that_is_never_acknowledged_is_given_up_and_counted() {
    let mut bench = Bench::new();
    bench.feed(&[Input::Connect, Input::EdgeRefuses]);
    let start = bench.now;
    while bench.orchestrator.alive() > 0 {
        bench.feed(&[Input::GraphBusy]);
        bench.run_ms(1_000);
        assert!(bench.now < start.plus_millis(limits::GOODBYE_MS_MAX + 60_000), "it never gives up");
    }
    assert!(bench.now >= start.plus_millis(limits::GOODBYE_MS_MAX - 60_000));
    assert_eq!(bench.orchestrator.counters().goodbyes_lost, 1);
}

#[test]
fn accept_is_tried_again_after_a_5xx_and_the_call_goes_on() {
    let mut bench = Bench::new();
    bench.feed(&[Input::Connect, Input::Created, Input::GraphOk, Input::Media, Input::Answered, Input::GraphBusy]);
    bench.run_ms(1_000);
    bench.feed(&[Input::GraphOk, Input::EdgeOk]);
    assert_eq!(bench.take(), ["edge new hold", "pre_accept", "accept", "accept", "edge release"]);
}

#[test]
fn a_lost_pre_accept_reply_does_not_matter_once_media_is_up() {
    let mut bench = Bench::new();
    bench.feed(&[Input::Connect, Input::Created, Input::Media, Input::Answered, Input::GraphLost]);
    assert_eq!(bench.take(), ["edge new hold", "pre_accept", "accept"]);
}

#[test]
fn silence_of_everybody_ends_the_call_in_bounded_time() {
    for inputs in [
        &[Input::Connect] as &[Input],
        &[Input::Connect, Input::Created],
        &[Input::Connect, Input::Created, Input::GraphOk],
        &[Input::Connect, Input::Created, Input::GraphOk, Input::Media],
        &[Input::Connect, Input::Created, Input::GraphOk, Input::Answered],
        &[Input::Connect, Input::Created, Input::GraphOk, Input::Media, Input::Answered],
        &[Input::Connect, Input::Created, Input::GraphOk, Input::Media, Input::Answered, Input::GraphOk],
    ] {
        let mut bench = Bench::new();
        bench.feed(inputs);
        // Only a goodbye that nobody acknowledges takes longer, and nothing waits for it.
        bench.run_ms(180_000);
        assert_eq!(bench.orchestrator.pending(), 0, "{inputs:?}");
        bench.run_ms(limits::GOODBYE_MS_MAX);
        assert_eq!(bench.orchestrator.alive(), 0, "{inputs:?}");
        assert_eq!(bench.ends.len(), 1, "{inputs:?}");
        // Only the memory of the id is left, and that expires too.
        bench.run_ms(limits::TOMBSTONE_MS);
        assert_eq!(bench.orchestrator.poll_output(bench.now), OrchestratorOutput::Timeout(Instant::NEVER));
    }
}

#[test]
fn a_busy_edge_is_asked_again_to_release_and_to_hang_up() {
    use Input::*;
    let mut bench = Bench::new();
    bench.feed(&[Connect, Created, GraphOk, Media, Answered, GraphOk]);
    assert_eq!(bench.take().last().map(String::as_str), Some("edge release"));
    bench.feed(&[EdgeFull]);
    bench.run_ms(1_000);
    assert_eq!(bench.take(), ["edge release"]);
    bench.feed(&[EdgeOk, Terminate]);
    assert_eq!(bench.take(), ["edge hangup"]);
    bench.feed(&[EdgeFull]);
    bench.run_ms(1_000);
    assert_eq!(bench.take(), ["edge hangup"]);
    bench.feed(&[EdgeOk]);
    assert_eq!(bench.orchestrator.alive(), 0);
}

#[test]
fn media_that_does_not_come_up_in_8_s_rejects_the_call() {
    let mut bench = Bench::new();
    bench.feed(&[Input::Connect, Input::Created, Input::GraphOk]);
    bench.run_ms(3_000);
    bench.feed(&[Input::Answered]);
    bench.run_ms(7_999);
    assert_eq!(bench.ends, Vec::<String>::new());
    bench.run_ms(1);
    assert_eq!(bench.take(), ["edge new hold", "pre_accept", "edge hangup", "reject"]);
    assert!(bench.ends[0].starts_with("side=whatsapp cause=media_timeout"));
}

#[test]
fn policies_decide_when_accept_leaves() {
    let mut bench = Bench::with(AcceptPolicy::OnProgress);
    bench.feed(&[Input::Connect, Input::Created, Input::GraphOk, Input::Media, Input::Ringing]);
    assert_eq!(bench.take(), ["edge new hold early", "pre_accept"]);
    bench.feed(&[Input::Progress]);
    assert_eq!(bench.take(), ["accept"]);

    let mut bench = Bench::with(AcceptPolicy::Immediate);
    bench.feed(&[Input::Connect, Input::Created]);
    assert_eq!(bench.take(), ["edge new hold early", "pre_accept"]);
    bench.feed(&[Input::GraphOk]);
    assert_eq!(bench.take(), ["accept"]);
}

#[test]
fn past_the_limit_of_calls_a_call_is_rejected() {
    let mut bench = Bench::new();
    bench.orchestrator.config.calls_max = 0;
    bench.feed(&[Input::Connect]);
    assert_eq!(bench.take(), ["reject"]);
    bench.feed(&[Input::GraphOk]);
    assert_eq!(bench.orchestrator.alive(), 0);
}

#[test]
fn draining_lets_live_calls_go_on_and_shutting_down_ends_them() {
    let mut bench = Bench::new();
    bench.feed(&[Input::Connect, Input::Created, Input::GraphOk, Input::Media, Input::Answered, Input::GraphOk]);
    bench.orchestrator.drain();
    let second = WebhookEvent::Connect(Connect { call_id: "wacid.B".into(), ..Connect::default() });
    bench.orchestrator.handle_webhook(bench.now, WALL, vec![second]);
    bench.collect();
    bench.take();
    assert_eq!(bench.orchestrator.alive(), 2);
    bench.orchestrator.shut_down(bench.now);
    bench.collect();
    assert_eq!(bench.take(), ["edge hangup", "terminate"]);
}

#[test]
fn events_of_another_session_and_unknown_numbers_change_nothing() {
    let mut bench = Bench::new();
    bench.feed(&[Input::Connect, Input::Created]);
    bench.take();
    let kind = EdgeEventKind::Ended { side: "sip".into(), cause: "bye".into(), detail: String::new() };
    for (session, call) in [("other", CALL), (SESSION, "wacid.unknown")] {
        let (edge_session_id, call_id) = (session.into(), call.into());
        let event = EdgeEvent { edge_session_id, call_id, sequence: 0, kind: kind.clone() };
        bench.orchestrator.handle_edge_event(bench.now, event);
    }
    for number in [0, 1, 255, 1 << 40, u64::MAX] {
        bench.orchestrator.handle_graph(bench.now, number, Ok(()));
        bench.orchestrator.handle_edge_reply(bench.now, number, Ok(EdgeReply::Done));
    }
    bench.collect();
    assert_eq!(bench.take(), Vec::<String>::new());
    assert_eq!(bench.orchestrator.counters().edge_events_unmatched, 2);
}

#[test]
fn any_sequence_of_inputs_asks_for_one_accept_and_ends_in_bounded_time() {
    use Input::*;
    let all = [
        Connect,
        Created,
        GraphOk,
        GraphFinal,
        GraphBusy,
        GraphLost,
        GraphOperator,
        Media,
        Ringing,
        Progress,
        Answered,
        EdgeOk,
        EdgeRefuses,
        EdgeFull,
        EdgeLost,
        Ended,
        Terminate,
    ];
    for seed in 0..3_000 {
        let mut random = Random::from_test_seed(seed);
        let policies = [AcceptPolicy::OnAnswer, AcceptPolicy::OnProgress, AcceptPolicy::Immediate];
        let accept = policies[random.below(3) as usize];
        // Every other seed's program dies now and then; half of those have their edge elsewhere.
        let restarts = seed % 2 == 1;
        let mut config = if seed % 4 == 3 { Bench::remote().config } else { OrchestratorConfig::default() };
        config.accept = accept;
        let mut bench = Bench::configured(config);
        bench.feed(&[Connect]);
        let mut accepted = 0;
        for _ in 0..random.below(24) {
            let input = all[random.below(all.len() as u32) as usize];
            bench.feed(&[input]);
            bench.run_ms(u64::from(random.below(400)));
            if restarts && random.below(6) == 0 {
                accepted += bench.orchestrator.counters().calls_accepted;
                bench.restart();
            }
        }
        bench.feed(&[Terminate]);
        bench.run_ms(200_000);
        let asked = bench.take();
        accepted += bench.orchestrator.counters().calls_accepted;
        assert!(accepted <= 1, "seed {seed}: {asked:?}");
        assert_eq!(bench.orchestrator.alive(), 0, "seed {seed}: {asked:?}");
        assert!(bench.remembered.calls.is_empty(), "seed {seed}: {asked:?}");
        assert!(bench.ends.len() == 1 || restarts, "seed {seed}: {asked:?} {:?}", bench.ends);
        let after_goodbye = asked.iter().skip_while(|ask| *ask != "reject" && *ask != "terminate");
        assert!(after_goodbye.clone().all(|ask| ask != "accept" && ask != "pre_accept"), "seed {seed}: {asked:?}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Input {
    Connect,
    Terminate,
    Created,
    EdgeOk,
    EdgeRefuses,
    EdgeFull,
    EdgeLost,
    GraphOk,
    GraphFinal,
    GraphBusy,
    GraphLost,
    GraphOperator,
    Media,
    Ringing,
    Progress,
    Answered,
    Ended,
}

/// An orchestrator whose Graph and edge are played by the test. Replies go to the request that was made last.
struct Bench {
    orchestrator: Orchestrator,
    now: Instant,
    graph: u64,
    edge: u64,
    asked: Vec<String>,
    sdps: Vec<String>,
    ends: Vec<String>,
    /// What a store would hold.
    remembered: Remembered,
    decided: Vec<bool>,
    keepalives: Vec<u64>,
    config: OrchestratorConfig,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(AcceptPolicy::OnAnswer)
    }

    fn with(accept: AcceptPolicy) -> Bench {
        let config = OrchestratorConfig { accept, phone_number_id: "118".into(), ..OrchestratorConfig::default() };
        Bench::configured(config)
    }

    /// Whose edge is another process.
    fn remote() -> Bench {
        let callback_url = Some("http://192.0.2.1/edge/events".to_owned());
        Bench::configured(OrchestratorConfig { callback_url, ..OrchestratorConfig::default() })
    }

    fn configured(config: OrchestratorConfig) -> Bench {
        Bench {
            orchestrator: Orchestrator::new(config.clone(), Random::from_test_seed(7)),
            remembered: Remembered::default(),
            decided: Vec::new(),
            keepalives: Vec::new(),
            config,
            now: Instant::from_millis(5),
            graph: 0,
            edge: 0,
            asked: Vec::new(),
            sdps: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// The program dies and is started again: only what the store holds is left.
    fn restart(&mut self) {
        self.collect();
        self.orchestrator = Orchestrator::new(self.config.clone(), Random::from_test_seed(8));
        self.orchestrator.restore(self.now, self.wall(), self.remembered.clone());
        (self.graph, self.edge) = (0, 0);
    }

    fn wall(&self) -> u64 {
        WALL + self.now.as_millis() / 1_000
    }

    /// Answers the last keepalive.
    fn state(&mut self, known: bool, facts: Facts) {
        self.collect();
        let request = self.keepalives.pop().expect("a keepalive is out");
        let state = SessionState { call_id: CALL.into(), edge_session_id: SESSION.into(), known, facts };
        self.orchestrator.handle_edge_reply(self.now, request, Ok(EdgeReply::States(vec![state])));
    }

    fn feed(&mut self, inputs: &[Input]) {
        for input in inputs {
            self.feed_one(*input);
            self.collect();
        }
    }

    fn feed_one(&mut self, input: Input) {
        let status = |status, code| GraphError { kind: GraphErrorKind::Status(status), code, ..GraphError::default() };
        match input {
            Input::Connect => self.webhook(WebhookEvent::Connect(Connect {
                call_id: CALL.into(),
                timestamp_s: Some(WALL),
                sdp: "offer".into(),
                ..Connect::default()
            })),
            Input::Terminate => {
                let event =
                    Terminate { call_id: CALL.into(), status: Some("COMPLETED".into()), ..Terminate::default() };
                self.webhook(WebhookEvent::Terminate(event));
            }
            Input::Created => {
                let created = SessionCreated { edge_session_id: SESSION.into(), sdp_answer: "answer".into() };
                self.edge_reply(Ok(EdgeReply::Created(created)));
            }
            Input::EdgeOk => self.edge_reply(Ok(EdgeReply::Done)),
            Input::EdgeRefuses => self.edge_reply(Err(EdgeError::new(422, "no_audio", "no audio"))),
            Input::EdgeFull => self.edge_reply(Err(EdgeError::busy(503, "full", "full"))),
            Input::EdgeLost => self.edge_reply(Err(EdgeError::lost("unreachable", "no connection"))),
            Input::GraphOk => self.graph_reply(Ok(())),
            Input::GraphFinal => self.graph_reply(Err(status(400, Some(100)))),
            Input::GraphBusy => self.graph_reply(Err(status(500, Some(138_004)))),
            Input::GraphOperator => self.graph_reply(Err(status(401, Some(190)))),
            Input::GraphLost => {
                self.graph_reply(Err(GraphError { kind: GraphErrorKind::Timeout, ..GraphError::default() }));
            }
            Input::Media => self.event(EdgeEventKind::MediaReady),
            Input::Ringing => self.event(EdgeEventKind::Ringing { code: 180, early_media: false }),
            Input::Progress => self.event(EdgeEventKind::Ringing { code: 183, early_media: true }),
            Input::Answered => self.event(EdgeEventKind::Answered),
            Input::Ended => {
                let (side, cause) = ("sip".into(), "bye".into());
                self.event(EdgeEventKind::Ended { side, cause, detail: String::new() });
            }
        }
    }

    fn webhook(&mut self, event: WebhookEvent) {
        self.orchestrator.handle_webhook(self.now, WALL, vec![event]);
    }

    fn graph_reply(&mut self, result: Result<(), GraphError>) {
        self.orchestrator.handle_graph(self.now, self.graph, result);
    }

    fn edge_reply(&mut self, result: Result<EdgeReply, EdgeError>) {
        self.orchestrator.handle_edge_reply(self.now, self.edge, result);
    }

    fn event(&mut self, kind: EdgeEventKind) {
        let event = EdgeEvent { edge_session_id: SESSION.into(), call_id: CALL.into(), sequence: 0, kind };
        self.orchestrator.handle_edge_event(self.now, event);
    }

    /// Lets time pass, deadline by deadline, with nobody replying.
    fn run_ms(&mut self, millis: u64) {
        let until = self.now.plus_millis(millis);
        for turn in 0.. {
            assert!(turn < 100_000, "deadlines do not advance");
            let due = self.collect();
            if due > until {
                break;
            }
            self.now = self.now.max(due);
            self.orchestrator.handle_timeout(self.now);
        }
        self.now = until;
    }

    fn collect(&mut self) -> Instant {
        loop {
            match self.orchestrator.poll_output(self.now) {
                OrchestratorOutput::Graph(request) => {
                    self.graph = request.request;
                    self.asked.push(match request.action {
                        GraphAction::PreAccept { sdp } => {
                            self.sdps.push(sdp);
                            "pre_accept".into()
                        }
                        GraphAction::Accept { sdp } => {
                            self.sdps.push(sdp);
                            "accept".into()
                        }
                        GraphAction::Reject => "reject".into(),
                        GraphAction::Terminate => "terminate".into(),
                    });
                }
                OrchestratorOutput::Edge { request, what } => {
                    if request & KEEPALIVE_BIT == 0 {
                        self.edge = request;
                    }
                    self.asked.push(match what {
                        EdgeRequest::New(new) => {
                            assert!(new.hold_media, "our own orchestrator always asks for the hold");
                            format!("edge new hold{}", if new.early_media { " early" } else { "" })
                        }
                        EdgeRequest::Release { .. } => "edge release".into(),
                        EdgeRequest::Hangup { .. } => "edge hangup".into(),
                        EdgeRequest::Keepalive { sessions } if sessions[0].edge_session_id.is_empty() => {
                            "edge find".into()
                        }
                        EdgeRequest::Keepalive { .. } => {
                            self.keepalives.push(request);
                            continue;
                        }
                    });
                }
                OrchestratorOutput::Store(Change::Call { call_id, record }) => {
                    self.remembered.calls.insert(call_id, *record);
                }
                OrchestratorOutput::Store(Change::Over { call_id }) => {
                    self.remembered.calls.remove(&call_id);
                    self.remembered.over.insert(call_id, limits::TOMBSTONE_MS);
                }
                OrchestratorOutput::Store(other) => panic!("{other:?} of an orchestrator"),
                OrchestratorOutput::Decided { accepted, .. } => self.decided.push(accepted),
                OrchestratorOutput::Timeline(entry) if entry.step == Step::End => self.ends.push(entry.detail),
                OrchestratorOutput::Timeline(_) => {}
                OrchestratorOutput::Timeout(due) => return due,
                other @ (OrchestratorOutput::Connect(_) | OrchestratorOutput::Dial(_)) => panic!("{other:?}"),
            }
        }
    }

    fn take(&mut self) -> Vec<String> {
        self.collect();
        std::mem::take(&mut self.asked)
    }
}
