//! What a restart of either process does to calls, and an edge that is asked how its sessions are.

use super::*;

#[test]
fn after_a_restart_a_call_in_this_process_is_ended_as_far_as_it_had_come() {
    use Input::*;
    for (inputs, goodbye) in [
        (&[Connect] as &[Input], "reject"),
        (&[Connect, Created], "reject"),
        (&[Connect, Created, GraphOk, Media], "reject"),
        // The accept was out: Graph may have carried it out.
        (&[Connect, Created, GraphOk, Media, Answered], "terminate"),
        (&[Connect, Created, GraphOk, Media, Answered, GraphOk, EdgeOk], "terminate"),
    ] {
        let mut bench = Bench::new();
        bench.feed(inputs);
        bench.take();
        bench.restart();
        assert_eq!(bench.take(), [goodbye], "{inputs:?}");
        // A webhook that comes again begins nothing, neither now nor later nor after one more restart.
        bench.feed(&[Connect, GraphOk, Connect]);
        bench.restart();
        bench.feed(&[Connect]);
        assert_eq!(bench.take(), Vec::<String>::new(), "{inputs:?}");
        assert_eq!(bench.orchestrator.alive(), 0);
    }
}

#[test]
fn a_call_goes_on_after_a_restart_when_its_edge_still_has_it() {
    use Input::*;
    let mut bench = Bench::remote();
    bench.feed(&[Connect, Created, GraphOk, Media, Answered, GraphOk, EdgeOk]);
    bench.run_ms(2_000);
    bench.take();
    bench.restart();
    assert_eq!(bench.take(), ["edge release"]);
    bench.feed(&[EdgeOk]);
    bench.run_ms(0);
    bench.state(true, Facts { media_ready: true, answered: true, sequence: 2, ..Facts::default() });
    bench.run_ms(0);
    assert_eq!(bench.take(), Vec::<String>::new());
    assert_eq!((bench.orchestrator.alive(), bench.orchestrator.counters().calls_resumed), (1, 1));
    bench.feed(&[Ended, GraphOk]);
    assert_eq!(bench.take(), ["terminate"]);
    assert_eq!(bench.orchestrator.alive(), 0);
}

#[test]
fn a_call_that_rings_goes_on_after_a_restart_and_is_accepted_once() {
    use Input::*;
    let mut bench = Bench::remote();
    bench.feed(&[Connect, Created, GraphOk]);
    bench.run_ms(2_000);
    bench.take();
    bench.restart();
    bench.run_ms(0);
    // What the edge told while nobody listened.
    bench.state(true, Facts { media_ready: true, answered: true, sequence: 3, ..Facts::default() });
    assert_eq!(bench.take(), ["accept"]);
    assert_eq!(bench.sdps, ["answer", "answer"], "the same bytes as before");
    bench.feed(&[GraphOk, EdgeOk]);
    assert_eq!(bench.take(), ["edge release"]);
    assert_eq!(bench.remembered.calls[CALL].accepted, Accepted::Yes);
}

#[test]
fn a_restart_before_the_session_had_a_name_finds_and_ends_it() {
    let mut bench = Bench::remote();
    bench.feed(&[Input::Connect]);
    bench.take();
    bench.restart();
    assert_eq!(bench.take(), ["reject", "edge find"]);
    let state = |known| SessionState {
        call_id: CALL.into(),
        edge_session_id: if known { SESSION.into() } else { String::new() },
        known,
        facts: Facts::default(),
    };
    bench.edge_reply(Ok(EdgeReply::States(vec![state(true)])));
    assert_eq!(bench.take(), ["edge hangup"]);
    bench.feed(&[Input::EdgeOk, Input::GraphOk]);
    assert_eq!(bench.orchestrator.alive(), 0);

    let mut bench = Bench::remote();
    bench.feed(&[Input::Connect]);
    bench.restart();
    bench.collect();
    bench.edge_reply(Ok(EdgeReply::States(vec![state(false)])));
    bench.feed(&[Input::GraphOk]);
    assert_eq!(bench.orchestrator.alive(), 0);
}

#[test]
fn an_edge_that_lost_the_session_or_ended_it_unheard_ends_the_call() {
    use Input::*;
    let ended = EndFacts { side: "sip".into(), cause: "bye".into(), detail: String::new() };
    for (known, facts, end) in [
        (false, Facts::default(), "side=tandem cause=edge_lost"),
        (true, Facts { ended: Some(ended), ..Facts::default() }, "side=sip cause=bye"),
    ] {
        let mut bench = Bench::remote();
        bench.feed(&[Connect, Created, GraphOk, Media, Answered, GraphOk, EdgeOk]);
        bench.take();
        bench.run_ms(limits::KEEPALIVE_MS);
        bench.state(known, facts);
        assert_eq!(bench.take(), ["terminate"]);
        assert!(bench.ends[0].starts_with(end), "{:?}", bench.ends);
        bench.feed(&[GraphOk]);
        assert_eq!(bench.orchestrator.alive(), 0);
    }
}

#[test]
fn an_edge_that_says_nothing_for_long_is_taken_for_dead() {
    use Input::*;
    let mut bench = Bench::remote();
    bench.feed(&[Connect, Created, GraphOk, Media, Answered, GraphOk, EdgeOk]);
    bench.take();
    for _ in 0..40 {
        bench.run_ms(limits::KEEPALIVE_MS);
        bench.state(true, Facts::default());
    }
    bench.run_ms(limits::EDGE_SILENT_MS_MAX);
    assert_eq!(bench.ends, Vec::<String>::new());
    bench.run_ms(2 * limits::KEEPALIVE_MS);
    assert!(bench.ends[0].starts_with("side=tandem cause=edge_silent"), "{:?}", bench.ends);
    assert_eq!(bench.take(), ["edge hangup", "terminate"]);
    // Without sessions nobody is asked.
    bench.feed(&[GraphOk]);
    bench.run_ms(60_000);
    bench.keepalives.clear();
    bench.run_ms(60_000);
    assert_eq!((bench.orchestrator.alive(), bench.keepalives.len()), (0, 0));
}

#[test]
fn an_edge_of_somebody_elses_that_knows_no_keepalive_keeps_its_calls() {
    use Input::*;
    let mut bench = Bench::remote();
    bench.feed(&[Connect, Created, GraphOk, Media, Answered, GraphOk, EdgeOk]);
    for _ in 0..20 {
        bench.run_ms(limits::KEEPALIVE_MS);
        let request = bench.keepalives.pop().unwrap();
        bench.orchestrator.handle_edge_reply(bench.now, request, Err(EdgeError::new(404, "not_found", "")));
    }
    assert_eq!(bench.ends, Vec::<String>::new());
}

#[test]
fn an_event_that_comes_again_is_counted_and_does_nothing() {
    let mut bench = Bench::new();
    bench.feed(&[Input::Connect, Input::Created, Input::GraphOk]);
    for _ in 0..3 {
        let (edge_session_id, call_id) = (SESSION.into(), CALL.into());
        let kind = EdgeEventKind::MediaReady;
        bench.orchestrator.handle_edge_event(bench.now, EdgeEvent { edge_session_id, call_id, sequence: 1, kind });
    }
    assert_eq!(bench.orchestrator.counters().edge_events_repeated, 2);
}
