//! `POST /calls` and the whole way of a call to a user of WhatsApp through the running program, against a Graph of the test's: what is
//! asked of it, what stands in the log and in the timeline, and that every reply is as the document says.

#[allow(dead_code, reason = "the rest is for the other API's test")]
mod contract;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use contract::{Contract, Reply};
use control::config::{Config, Mode};
use control::runtime::Input;
use control::server::{Running, start};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::mpsc;

const TOKEN: &str = "edge-token";
const USER: &str = "447700900123";

#[tokio::test]
async fn a_program_has_a_user_called_and_ends_the_call() {
    let (base, mut requests) = graph().await;
    let running = tandem(&base).await;
    let api = format!("http://{}", running.edge_api.unwrap());
    let mut contract = Contract::new(reqwest::get(format!("{api}/openapi.json")).await.unwrap().json().await.unwrap());
    let mut ask = async |token: Option<&str>, body: Vec<u8>| {
        let request = reqwest::Client::new().post(format!("{api}/calls"));
        let request = token.into_iter().fold(request, |request, token| request.bearer_auth(token));
        let reply = Reply::read(request.body(body).send().await.unwrap()).await;
        contract.check("post", "/calls", &reply);
        reply
    };
    for (body, status, code) in [
        (json!({"to": "reception"}), 422, "bad_number"),
        (json!({"to": USER, "account": "none"}), 422, "no_account"),
        (json!({"to": format!("+{USER}"), "destination": "sip:a@elsewhere.example"}), 403, "destination_forbidden"),
        (json!({"number": 7}), 400, "bad_field"),
    ] {
        let reply = ask(Some(TOKEN), body.to_string().into_bytes()).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{body}");
    }
    assert_eq!(ask(Some(TOKEN), b"{".to_vec()).await.status, 400);
    assert_eq!(ask(Some(TOKEN), vec![b' '; 5_000]).await.status, 413);
    let new = json!({"to": format!("+{USER}")}).to_string().into_bytes();
    for token in [None, Some("wrong")] {
        assert_eq!(ask(token, new.clone()).await.status, 401);
    }
    let begun = ask(Some(TOKEN), new.clone()).await;
    assert_eq!(begun.status, 202);
    let id = begun.json()["call_id"].as_str().unwrap().to_owned();

    let connect = tokio::time::timeout(Duration::from_secs(10), requests.recv()).await.unwrap().unwrap();
    assert_eq!((&connect["action"], &connect["to"]), (&json!("connect"), &json!(USER)));
    assert!(connect["session"]["sdp"].as_str().unwrap().contains("a=setup:actpass"));
    let mut delete = async |token: Option<&str>, id: &str| {
        let request = reqwest::Client::new().delete(format!("{api}/calls/{id}"));
        let request = token.into_iter().fold(request, |request, token| request.bearer_auth(token));
        let reply = Reply::read(request.send().await.unwrap()).await;
        contract.check("delete", "/calls/{call_id}", &reply);
        reply.status
    };
    assert_eq!((delete(None, &id).await, delete(Some(TOKEN), "api-unknown").await), (401, 404));
    assert_eq!(delete(Some(TOKEN), &id).await, 200);
    let terminate = tokio::time::timeout(Duration::from_secs(10), requests.recv()).await.unwrap().unwrap();
    assert_eq!((&terminate["action"], &terminate["call_id"]), (&json!("terminate"), &json!("wacid.out")));

    let timeline = reqwest::get(format!("{api}/calls/{id}/timeline")).await.unwrap().text().await.unwrap();
    assert!(timeline.contains("connect sent to Graph") && !timeline.contains(USER), "{timeline}");
    let metrics = reqwest::get(format!("{api}/metrics")).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("tandem_dials_begun_total 1") && metrics.contains("whatsapp:sales"), "{metrics}");
    running.inputs.send(Input::Drain).await.unwrap();
    let refused = reqwest::Client::new().post(format!("{api}/calls")).bearer_auth(TOKEN).body(new).send().await;
    let status = refused.map(|reply| reply.status().as_u16());
    assert!(status.is_err() || status.is_ok_and(|status| status == 503), "a program that stops takes no calls");
    tokio::time::timeout(Duration::from_secs(60), running.finished()).await.unwrap().unwrap();
}

async fn tandem(graph: &str) -> Running {
    let text = format!(
        "[whatsapp]\ntoken = \"t\"\nbase = \"{graph}\"\n[edge]\nbind = \"127.0.0.1:0\"\ntoken = \"{TOKEN}\"\n\
         [http]\nbind = \"127.0.0.1\"\n[sip]\nbind = \"127.0.0.1:0\"\ntarget = \"sip:bot@127.0.0.1:9\"\n\
         [media]\nports = \"47000-47099\"\npublic_ip = \"127.0.0.1\"\nworkers = 1\n\
         [accounts.sales]\nphone_number_id = \"118\"\noutbound = true\n"
    );
    let mut config = Config::read(&text, |_| None).unwrap();
    config.http.port = 0;
    start(config, Mode::Tandem).await.unwrap()
}

/// Graph, with the requests that it got.
async fn graph() -> (String, mpsc::UnboundedReceiver<Value>) {
    let (sender, requests) = mpsc::unbounded_channel();
    let act = async |State(sender): State<mpsc::UnboundedSender<Value>>, Json(body): Json<Value>| {
        sender.send(body).unwrap();
        Json(json!({"messaging_product": "whatsapp", "success": true, "calls": [{"id": "wacid.out"}]}))
    };
    let router = Router::new().route("/v24.0/118/calls", post(act)).with_state(sender);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v24.0", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, router).into_future());
    (base, requests)
}
