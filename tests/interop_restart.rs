//! `kill -9` of either process at any time: both planes as processes, on two hosts or in one process, between users with real
//! media and a bot that outlives them.

mod interop;
mod minute;
mod restart;

use control::sip::SipEnd;
use interop::{in_namespace, output_of, until};
use restart::{Bot, FAR, FarHost, NEAR, Process, WhatsApp};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How soon after a restart a call must be over on both sides, or go on on both.
const SETTLED_S: u64 = 10;

/// A call that goes on hears at least so many packets in a second.
const PACKETS_A_SECOND: u64 = 35;

#[test]
fn two_hosts_outlive_each_other() {
    in_namespace("two_hosts_outlive_each_other", async |folder| {
        let far = FarHost::new();
        let (whatsapp, bot) = (WhatsApp::start().await, Bot::start(200).await);
        let (mut edge, mut orchestrator) = (Process::edge(folder, FAR), Process::orchestrator(folder, FAR));
        edge.start(Some(&far)).await;
        orchestrator.start(None).await;

        // The orchestrator dies in the middle of a call and comes back: nobody hears anything of it.
        whatsapp.call("wacid.1").await;
        whatsapp.wait("wacid.1", "media", 10, |call| call.heard() > 50).await;
        orchestrator.kill();
        let heard = whatsapp.with("wacid.1", restart::UserCall::heard);
        tokio::time::sleep(Duration::from_secs(2)).await;
        orchestrator.start(None).await;
        whatsapp.repeat("wacid.1").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(
            whatsapp.with("wacid.1", restart::UserCall::heard) > heard + 4 * PACKETS_A_SECOND,
            "the call fell silent"
        );
        assert_eq!(orchestrator.metric("tandem_calls_resumed_total").await, 1);
        assert_eq!(whatsapp.with("wacid.1", |call| call.actions.clone()), ["pre_accept", "accept"]);
        whatsapp.hang_up("wacid.1");
        until("BYE", 5, async || (!bot.has("wacid.1")).then_some(())).await;
        assert_eq!(bot.count("wacid.1", true), 1, "the far side was called once");
        orchestrator.reaches_zero("tandem_calls_alive", 5).await;

        // It dies while the call rings: set up further by the next one.
        whatsapp.call("wacid.2").await;
        whatsapp.wait("wacid.2", "pre_accept", 5, |call| call.actions == ["pre_accept"]).await;
        orchestrator.kill();
        orchestrator.start(None).await;
        whatsapp.wait("wacid.2", "media", 10, |call| call.heard() > 10).await;
        assert_eq!(whatsapp.with("wacid.2", |call| call.actions.clone()), ["pre_accept", "accept"]);

        // The edge dies and comes back: the session is lost, and both sides are told.
        edge.kill();
        edge.start(Some(&far)).await;
        until("BYE", SETTLED_S, async || (!bot.has("wacid.2")).then_some(())).await;
        let end = bot.end("wacid.2");
        assert!(matches!(&end, Some(SipEnd::ByeReceived(Some(reason))) if reason.contains("restarted")), "{end:?}");
        assert_eq!(edge.metric("tandem_sip_calls_cut_total").await, 1);
        whatsapp
            .wait("wacid.2", "terminate", SETTLED_S, |call| call.actions.last().is_some_and(|a| a == "terminate"))
            .await;

        // The edge's host is gone and stays so: noticed by its silence.
        whatsapp.call("wacid.3").await;
        whatsapp.wait("wacid.3", "media", 10, |call| call.heard() > 10).await;
        output_of(Command::new("ip").args(["link", "set", "w0", "down"]));
        whatsapp.wait("wacid.3", "terminate", 30, |call| call.actions.last().is_some_and(|a| a == "terminate")).await;
        output_of(Command::new("ip").args(["link", "set", "w0", "up"]));
        // And the edge, which nobody asks for the session any more, lets go of it.
        edge.reaches_zero("tandem_sessions_alive", 20).await;

        // The orchestrator is gone for good: the edge ends the call on the bot's side.
        whatsapp.call("wacid.4").await;
        whatsapp.wait("wacid.4", "media", 10, |call| call.heard() > 10).await;
        orchestrator.kill();
        until("BYE", 6 + 5, async || (!bot.has("wacid.4")).then_some(())).await;
        assert!(edge.log().contains("lease_expired"));
    });
}

#[test]
fn one_process_that_is_killed_ends_its_calls_when_it_comes_back() {
    in_namespace("one_process_that_is_killed_ends_its_calls_when_it_comes_back", async |folder| {
        output_of(Command::new("ip").args(["addr", "add", &format!("{NEAR}/24"), "dev", "t0"]));
        let (whatsapp, bot) = (WhatsApp::start().await, Bot::start(300).await);
        let mut tandem = Process::both(folder);
        tandem.start(None).await;
        whatsapp.call("wacid.up").await;
        whatsapp.wait("wacid.up", "media", 10, |call| call.heard() > 10).await;
        whatsapp.call("wacid.ringing").await;
        whatsapp.wait("wacid.ringing", "pre_accept", 5, |call| !call.actions.is_empty()).await;
        tandem.kill();
        tandem.start(None).await;
        for (id, last) in [("wacid.up", "terminate"), ("wacid.ringing", "reject")] {
            let goodbye = |call: &restart::UserCall| call.actions.last().is_some_and(|action| action == last);
            whatsapp.wait(id, last, SETTLED_S, goodbye).await;
            whatsapp.repeat(id).await;
        }
        let over = || !bot.has("wacid.up") && !bot.has("wacid.ringing");
        until("BYE and CANCEL", SETTLED_S, async || over().then_some(())).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(tandem.metric("tandem_calls_begun_total").await, 0, "a repeated webhook began a call");
        tandem.reaches_zero("tandem_calls_alive", 5).await;

        // The same with a store that has gone bad meanwhile: it is moved aside, and said so.
        tandem.kill();
        std::fs::write(folder.join("tandem.redb"), b"no database").expect("a file");
        tandem.start(None).await;
        assert!(tandem.log().contains("is damaged") && folder.join("tandem.redb.damaged-1").exists());
        whatsapp.call("wacid.after").await;
        whatsapp.wait("wacid.after", "media", 10, |call| call.heard() > 10).await;
    });
}

/// Eight calls in every stage of their lives, a kill in the middle of them, three times over.
#[test]
fn a_kill_at_a_random_instant_leaves_no_call_on_one_side_only() {
    in_namespace("a_kill_at_a_random_instant_leaves_no_call_on_one_side_only", async |folder| {
        output_of(Command::new("ip").args(["addr", "add", &format!("{NEAR}/24"), "dev", "t0"]));
        let (whatsapp, bot) = (WhatsApp::start().await, Bot::start(250).await);
        let (mut edge, mut orchestrator) = (Process::edge(folder, NEAR), Process::orchestrator(folder, NEAR));
        edge.start(None).await;
        orchestrator.start(None).await;
        let mut random = engine::random::Random::from_test_seed(harness::seed_from_env_or(11));
        for round in 0..3 {
            let ids: Vec<String> = (0..8).map(|n| format!("wacid.{round}.{n}")).collect();
            let kill_at = random.below(8) as usize;
            for (index, id) in ids.iter().enumerate() {
                whatsapp.call(id).await;
                tokio::time::sleep(Duration::from_millis(u64::from(20 + random.below(150)))).await;
                if index == kill_at {
                    if round != 1 {
                        orchestrator.kill();
                    }
                    if round != 0 {
                        edge.kill();
                        edge.start(None).await;
                    }
                    if round != 1 {
                        orchestrator.start(None).await;
                    }
                }
            }
            let mut went_on = 0;
            // The next edge ends whatever was up. A bot that was just answering has nobody to acknowledge that (RFC 3261 §13.3.1.4).
            let (orphans, others) = ids.split_at(if round == 0 { 0 } else { kill_at + 1 });
            let ended = |id: &String| whatsapp.with(id, |call| call.ended.is_some());
            let was_up = |id: &String| whatsapp.with(id, |call| call.actions.iter().any(|action| action == "accept"));
            let gone = |id: &String| ended(id) && !(was_up(id) && bot.has(id));
            let settled = || orphans.iter().all(gone) && others.iter().all(|id| ended(id) != bot.has(id));
            until("an end on both sides or none", SETTLED_S, async || settled().then_some(())).await;
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            for id in orphans {
                assert!(gone(id), "{id} has no edge and lives on");
            }
            for id in others {
                let (actions, over) = whatsapp.with(id, |call| (call.actions.clone(), call.ended.is_some()));
                let accepts =
                    actions.iter().filter(|action| action.ends_with("accept") && !action.contains("pre_")).count();
                assert!(accepts <= 1, "{id}: {actions:?}");
                assert_eq!(over, !bot.has(id), "{id} lives on one side only: {actions:?}");
                assert!(bot.count(id, true) <= 1, "{id}: the far side was called twice");
                went_on += usize::from(!over);
            }
            println!("round {round}: {went_on} of {} calls went on", others.len());
            // Calls that began after the restart owe nothing to it, and one that it spared is the point.
            assert!(went_on >= others.len() - kill_at.min(others.len()), "round {round}: too few went on");
            ids.iter().for_each(|id| whatsapp.hang_up(id));
            orchestrator.reaches_zero("tandem_calls_alive", 10).await;
            edge.reaches_zero("tandem_sessions_alive", 10).await;
            until("BYE of all", 10, async || (!others.iter().any(|id| bot.has(id))).then_some(())).await;
        }
    });
}

/// The far side is SIPp: it ends its call when it has seen a BYE, and only then.
#[test]
fn a_bot_of_somebody_elses_hears_the_bye_of_the_next_run() {
    in_namespace("a_bot_of_somebody_elses_hears_the_bye_of_the_next_run", async |folder| {
        output_of(Command::new("ip").args(["addr", "add", &format!("{NEAR}/24"), "dev", "t0"]));
        let whatsapp = WhatsApp::start().await;
        let messages = folder.join("sipp.messages");
        let mut sipp = Command::new("sipp");
        sipp.args(["-sn", "uas", "-i", NEAR, "-p", "5080", "-m", "1", "-nostdin", "-timeout", "60", "-trace_msg"]);
        sipp.arg("-message_file").arg(&messages).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut sipp = sipp.spawn().expect("sipp runs: tests/install.sh test installs it");
        let mut tandem = Process::both(folder);
        tandem.start(None).await;
        whatsapp.call("wacid.sipp").await;
        whatsapp.wait("wacid.sipp", "accept", 10, |call| call.actions.iter().any(|action| action == "accept")).await;
        tandem.kill();
        tandem.start(None).await;
        let seen = || std::fs::read_to_string(&messages).unwrap_or_default();
        until("BYE", SETTLED_S, async || seen().contains("\nBYE sip:").then_some(())).await;
        // It waits some seconds for what may be repeated.
        let status = until("SIPp's end", 15, async || sipp.try_wait().expect("its status")).await;
        assert!(status.success(), "{status}\n{}", seen());
        let bye = seen().split("\nBYE sip:").nth(1).map(str::to_owned).unwrap_or_default();
        assert!(bye.contains("Reason: Q.850;cause=41;text=\"The gateway was restarted\""), "{bye}");
    });
}
