//! A user of WhatsApp is called and connected to the bot: the whole gateway over loopback, with media both ways, judged by content.

use super::*;
use crate::bot::{self, BotConfig};
use control::client::observed::Observed;
use control::client::speech::{SAME_SPEECH, similarity};
use control::client::wav;
use control::config::{Config, Mode};
use control::runtime::Input;
use control::server::{Running, start};
use control::sip::Credentials;
use serde_json::{Value, json};

const SECRET: &str = "test-app-secret";
const USER: &[u8] = include_bytes!("../speech/caller-16k.wav");
const SOON: Duration = Duration::from_secs(20);

async fn tandem(whatsapp: &WhatsApp, bot: SocketAddr) -> Running {
    let text = format!(
        "[whatsapp]\ntoken = \"{TOKEN}\"\nbase = \"{}\"\napp_secret = \"{SECRET}\"\n\
         [edge]\nbind = \"127.0.0.1:0\"\n[http]\nbind = \"127.0.0.1\"\n\
         [sip]\nbind = \"127.0.0.1:0\"\ntarget = \"sip:bot@{bot}\"\nuser = \"gw\"\npass = \"secret\"\n\
         [media]\nports = \"47100-47199\"\npublic_ip = \"127.0.0.1\"\nworkers = 1\n\
         [accounts.sales]\nphone_number_id = \"{}\"\noutbound = true\n",
        whatsapp.graph_base(),
        whatsapp.account().phone_number_id,
    );
    let mut config = Config::read(&text, |_| None).unwrap();
    config.http.port = 0;
    let running = start(config, Mode::Tandem).await.unwrap();
    whatsapp.set_tandem(format!("http://{}", running.webhooks.unwrap()));
    running
}

async fn call(api: &str, to: &str) -> (u16, Value) {
    let reply = reqwest::Client::new().post(format!("{api}/calls")).json(&json!({"to": to})).send().await.unwrap();
    (reply.status().as_u16(), reply.json().await.unwrap())
}

async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            match look().await {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(SOON, looking).await.expect("it does not happen")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_is_called_speaks_with_the_bot() {
    clock::now();
    let whatsapp = WhatsApp::start(Account::example(Some(SECRET.to_owned())), 0).await.unwrap();
    let credentials = Credentials { username: "gw".to_owned(), password: "secret".to_owned() };
    let bind = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let bot = bot::start(BotConfig { bind, port: 0, credentials }).await.unwrap();
    let running = tandem(&whatsapp, bot.address()).await;
    let api = format!("http://{}", running.edge_api.unwrap());

    // Somebody who has given no permission: over at once, and the timeline says what to do.
    let (status, body) = call(&api, "+447700900199").await;
    assert_eq!(status, 202);
    let id = body["call_id"].as_str().unwrap().to_owned();
    let timeline = until(async || {
        let text = reqwest::get(format!("{api}/calls/{id}/timeline")).await.unwrap().text().await.unwrap();
        text.contains("\"ended\":true").then_some(text)
    })
    .await;
    assert!(timeline.contains("call_permission_request"), "{timeline}");

    let (status, body) = call(&api, &format!("+{}", whatsapp.account().caller)).await;
    assert_eq!(status, 202, "{body}");
    let callee = until(async || whatsapp.callees().pop()).await;
    callee.peer.wait(SOON, |seen| seen.connected.is_some()).await.unwrap();
    let mut state = callee.state.clone();
    tokio::time::timeout(SOON, state.wait_for(|state| state.picked_up)).await.unwrap().unwrap();
    // Judged once, when all of it must have come: the comparison takes longer than a packet lasts.
    let greeting = wav::read(bot::GREETING).unwrap();
    let samples = greeting.pcm.len() * 16_000 / greeting.rate_hz as usize + 11_200;
    callee.peer.wait(SOON, |seen| seen.heard.pcm.len() >= samples).await.unwrap();
    let seen = callee.peer.observed();
    let heard = seen.borrow().clone().heard;
    let found = similarity(&greeting.pcm, greeting.rate_hz, &heard.pcm, heard.rate_hz);
    assert!(found.score >= SAME_SPEECH, "the user did not hear the greeting: {found:?}");
    let said = wav::read(USER).unwrap();
    let is_played = |seen: &Observed| seen.played.last().is_some_and(|clip| clip.until.is_some());
    let mut best = 0.0_f64;
    // A machine that has too much else to do speaks with gaps: said again, as a person would.
    for clip in 1..=3 {
        callee.peer.play(&said);
        callee.peer.wait(SOON, |seen| seen.played.len() == clip && is_played(seen)).await.unwrap();
        // What the bot says back comes 300 ms later.
        tokio::time::sleep(Duration::from_millis(bot::ECHO_MS as u64 + 900)).await;
        let Observed { heard, played, .. } = seen.borrow().clone();
        let since = &heard.pcm[played.last().unwrap().heard_samples..];
        best = best.max(similarity(&said.pcm, said.rate_hz, since, heard.rate_hz).score);
        if best >= SAME_SPEECH {
            break;
        }
    }
    assert!(best >= SAME_SPEECH, "the bot did not hear the user: {best}");
    assert_eq!(bot.calls().borrow().len(), 1, "one call at the bot");
    let wire = seen.borrow().wire;
    assert!(wire.controlling > 0 && wire.controlled == 0 && wire.other_ssrc == 0, "{wire:?}");

    callee.hang_up();
    tokio::time::timeout(SOON, state.wait_for(|state| state.over)).await.unwrap().unwrap();
    assert_eq!(state.borrow().webhooks, [200; 4], "RINGING, the answer, ACCEPTED and the end are taken");
    until(async || bot.calls().borrow().values().all(|call| call.ended.is_some()).then_some(())).await;
    let actions: Vec<Value> =
        whatsapp.graph().lock().requests().iter().map(|request| request["request"]["action"].clone()).collect();
    assert_eq!(actions, ["connect", "connect"], "no goodbye to a user who hung up");
    running.inputs.send(Input::Stop).await.unwrap();
    tokio::time::timeout(SOON, running.finished()).await.unwrap().unwrap();
}
