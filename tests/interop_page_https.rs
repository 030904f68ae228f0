//! The caller's page as somebody on another computer opens it: over self-signed HTTPS, by the host's own address.

mod interop;

use interop::browser::Browser;
use interop::speech;
use interop::{HOST, Program, built, in_namespace, left_behind, until};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

#[test]
fn a_page_opened_over_https_from_the_hosts_address_calls_and_hears_the_bots_goodbye() {
    in_namespace("a_page_opened_over_https_from_the_hosts_address_calls_and_hears_the_bots_goodbye", async |folder| {
        let said = speech::speak(folder, "user", "en-gb", "The birch canoe slid on the smooth planks.", &[48_000]);
        let (_standin, ready) = standin(folder).await;
        let page = ready["page_tls"].as_str().expect("the page's address for others").to_owned();
        assert!(page.starts_with(&format!("https://{HOST}:")), "not the host's address: {page}");
        let browser = Browser::start(folder, &said[0]).await;
        browser.open(&page).await;
        assert_eq!(browser.run("return window.isSecureContext").await, true, "the page gets no microphone");

        browser.click("#call").await;
        until("the bridged call", 20, async || has_step(&browser, "release").await.then_some(())).await;
        until("speech from the bot", 10, async || (browser.heard().await.len() > 48_000).then_some(())).await;
        // The bot hangs up on this key.
        let key = "const keys = [...document.querySelectorAll('#keypad button')]; \
                   keys.find(key => key.textContent.trim().startsWith('#')).click()";
        browser.run(key).await;
        until("the end on the page", 10, async || has_step(&browser, "end").await.then_some(())).await;
        let end = browser.run("return document.querySelector('#end').innerText").await;
        let end = end.as_str().unwrap_or_default().to_lowercase();
        assert!(end.contains("bye") && end.contains("sip"), "the page does not say why and whose side: {end}");
        assert_eq!(browser.console().await, "", "the page wrote to its console");

        let edge = ready["edge"].as_str().expect("the edge's address").to_owned();
        until("an empty gateway", 60, async || left_behind(&edge).await.is_empty().then_some(())).await;
    });
}

async fn standin(folder: &Path) -> (Program, Value) {
    let mut command = Command::new(built("tandem-standin"));
    let mut program = Program::start(folder, "standin", command.args(["serve", "--verbose"]));
    let output = program.wait_for("\"page\"", 20).await;
    let line = output.lines().find(|line| line.starts_with('{')).expect("one line of JSON");
    (program, serde_json::from_str(line).expect("JSON"))
}

async fn has_step(browser: &Browser, step: &str) -> bool {
    browser.run(&format!("return document.querySelector('#steps li[data-step={step}]') !== null")).await == true
}
