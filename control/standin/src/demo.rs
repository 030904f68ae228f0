//! One scripted call, judged: greeting heard, own speech heard back, a key understood, nothing left behind.
//!
//! Each step has a limit and a name; the first that fails ends the demonstration with that name and the end of tandem's log. What
//! is asserted is what a caller would notice, by the content of the sound, and what WhatsApp would punish, by the wire.

use crate::bot::{ECHO_MS, GREETING};
use crate::busy::Busy;
use crate::call::{Call, Media};
use crate::settings::Settings;
use crate::tandem::{self, Entry, Sample};
use crate::whatsapp;
use crate::world::World;
use anyhow::{Context, bail, ensure};
use control::client::audio::OpusSettings;
use control::client::observed::{Observed, Played};
use control::client::pcm;
use control::client::sip_answerer::AnsweredCall;
use control::client::speech::{SAME_SPEECH, Similarity, similarity};
use control::client::wav::{self, Wav};
use control::client::webrtc_offerer::WebrtcOfferer;
use control::client::webrtc_peer::WebrtcPeer;
use control::sip::SipEnd;
use engine::io::clock;
use engine::rtp::telephone_event::Digit;
use engine::time::Instant;
use std::sync::Arc;
use std::time::Duration;

/// What the caller says.
const SPEECH: &[u8] = include_bytes!("../speech/caller-16k.wav");
/// The key that is pressed.
const KEY: char = '5';
/// How long it is held.
const KEY_MS: u32 = 160;
/// From the webhook to the accept.
const ACCEPT_LIMIT: Duration = Duration::from_secs(15);
/// From the accept to the first packet.
const PACKET_LIMIT: Duration = Duration::from_secs(3);
/// How long after a clip's end its last echo may come.
const ECHO_LIMIT: Duration = Duration::from_millis(ECHO_MS as u64 + 900);
/// For a key and its tone.
const KEY_LIMIT: Duration = Duration::from_secs(3);
/// From the hang-up to the end everywhere.
const END_LIMIT: Duration = Duration::from_secs(6);
/// What SIP keeps after a call is gone by then (RFC 3261 §17.1.1.2: 64*T1, and a margin). Waited for only where nobody waits.
const REST_LIMIT: Duration = Duration::from_secs(40);
/// Share of a 100 ms window's energy that each of a key's two tones must have.
const TONE_SHARE_MIN: f64 = 0.2;

/// A step that was reached, for the table.
struct Mark {
    at_ms: u64,
    who: &'static str,
    what: String,
    detail: String,
}

/// What was measured.
struct Verdict {
    first_ms: u64,
    greeting: Similarity,
    echo: Similarity,
    alive: usize,
}

/// Steps that are judged by ear.
const BY_EAR: [&str; 3] = ["greeting", "echo", "digit"];

/// Runs the call. `Err` names the step that failed. What was not heard on a machine that came too late with everything is tried once
/// more, since it says nothing about the gateway; what fails otherwise, or twice, has failed.
pub async fn run(world: &World, settings: &Settings) -> anyhow::Result<()> {
    let busy = Busy::watch();
    let error = match attempt(world, settings).await {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let Some(excuse) = busy.excuse().filter(|_| is_by_ear(&error)) else { return Err(error) };
    println!("AGAIN {error:#}: {excuse}. The call is placed once more.");
    let busy = Busy::watch();
    attempt(world, settings).await.map_err(|error| match busy.excuse() {
        Some(excuse) => error.context(format!("{excuse}, twice: run the demonstration when it has less to do")),
        None => error,
    })
}

fn is_by_ear(error: &anyhow::Error) -> bool {
    let text = error.to_string();
    text.split_once(':').is_some_and(|(step, _)| BY_EAR.contains(&step))
}

async fn attempt(world: &World, settings: &Settings) -> anyhow::Result<()> {
    let addresses = whatsapp::relay_addresses().await;
    let session_id = whatsapp::wall_millis();
    let identity = world.whatsapp.identity();
    let offerer = WebrtcOfferer::start(&addresses, session_id, true, identity, OpusSettings::WHATSAPP)
        .await
        .context("opening the caller's media")?;
    let call = world.whatsapp.place(settings.form(), Media::Scripted(offerer)).context("placing the call")?;
    let mut marks = Vec::new();
    let judged = converse(world, &call, &mut marks).await;
    if judged.is_err() {
        call.hang_up();
    }
    let timeline = world.client.timeline(&call.id, 0).await.unwrap_or_default();
    let verdict = match judged {
        Ok(verdict) => verdict,
        Err(error) => {
            print_table(&timeline.entries, &marks);
            return Err(error);
        }
    };
    println!(
        "PASS  first call in {} ms: greeting heard (similarity {:.2}), own speech heard back (similarity {:.2}, round trip {:.0} ms, \
         {ECHO_MS} of them the bot's), digit {KEY} ok, nothing left behind ({} gauges at zero)",
        verdict.first_ms, verdict.greeting.score, verdict.echo.score, verdict.echo.delay_ms, verdict.alive,
    );
    print_table(&timeline.entries, &marks);
    Ok(())
}

async fn converse(world: &World, call: &Arc<Call>, marks: &mut Vec<Mark>) -> anyhow::Result<Verdict> {
    let Media::Scripted(offerer) = &call.media else { bail!("the scripted call has no script") };
    let peer = &offerer.peer;
    ensure!(call.wait(ACCEPT_LIMIT, |state| state.placed.is_some()).await, "webhook: it was not sent");
    let placed = call.state.borrow().placed.unwrap_or_default();
    let first_ms = set_up(call, peer, placed, marks).await?;
    let greeting = hear_greeting(peer, placed, marks).await?;
    let echo = hear_echo(peer, placed, marks).await?;
    press_key(world, call, peer, placed, marks).await?;
    let alive = hang_up(world, call, peer, placed, marks).await?;
    let broken = call.broken_rules();
    ensure!(broken.is_empty(), "WhatsApp's rules: {}", broken.join("; "));
    let requests = world.whatsapp.graph().lock().requests();
    let refused = requests.iter().find(|request| request["http_status"] != 200);
    ensure!(refused.is_none(), "Graph API: a request was refused: {}", refused.cloned().unwrap_or_default());
    Ok(Verdict { first_ms, greeting, echo, alive })
}

fn mark(marks: &mut Vec<Mark>, placed: Instant, at: Instant, who: &'static str, what: &str, detail: String) {
    marks.push(Mark { at_ms: at.since(placed).as_millis() as u64, who, what: what.to_owned(), detail });
}

/// From the webhook to the first packet.
async fn set_up(call: &Call, peer: &WebrtcPeer, placed: Instant, marks: &mut Vec<Mark>) -> anyhow::Result<u64> {
    let decided = call.wait(ACCEPT_LIMIT, |state| state.accepted.is_some() || state.ended.is_some()).await;
    let state = call.state.borrow().clone();
    if let Some((at, status)) = state.webhook {
        mark(marks, placed, at, "whatsapp", "webhook taken", format!("HTTP {status}"));
    }
    if let Some(at) = state.pre_accepted {
        mark(marks, placed, at, "whatsapp", "pre_accept came", String::new());
    }
    if let Some((_, by)) = state.ended {
        bail!("accept: the call ended first: {}", by.text());
    }
    ensure!(decided, "accept: none came within {} s", ACCEPT_LIMIT.as_secs());
    let accepted = state.accepted.unwrap_or_default();
    mark(marks, placed, accepted, "whatsapp", "accept came", String::new());
    let first = peer.wait(PACKET_LIMIT, |seen| seen.first_received.is_some()).await;
    ensure!(first.is_ok(), "first packet: none came within {} s of the accept", PACKET_LIMIT.as_secs());
    let seen = peer.observed();
    let seen = seen.borrow();
    for (at, what, detail) in [
        (seen.nominated.map(|(at, _)| at), "ICE pair", seen.nominated.map_or(String::new(), |(_, at)| at.to_string())),
        (
            seen.connected.map(|(at, _, _)| at),
            "DTLS up",
            seen.connected.map_or(String::new(), |(_, version, profile)| format!("{version:?} {profile:?}")),
        ),
        (seen.first_received, "first packet heard", String::new()),
    ] {
        mark(marks, placed, at.unwrap_or_default(), "caller", what, detail);
    }
    Ok(seen.first_received.unwrap_or_default().since(placed).as_millis() as u64)
}

async fn hear_greeting(peer: &WebrtcPeer, placed: Instant, marks: &mut Vec<Mark>) -> anyhow::Result<Similarity> {
    let greeting = wav::read(GREETING)?;
    let samples = (length_ms(&greeting) + 700) as usize * 16;
    let limit = Duration::from_millis(length_ms(&greeting) + 2_500);
    let heard_all = peer.wait(limit, |seen| seen.heard.pcm.len() >= samples || seen.ended.is_some()).await;
    let seen = snapshot(peer);
    let found = similarity(&greeting.pcm, greeting.rate_hz, &seen.heard.pcm, seen.heard.rate_hz);
    ensure!(
        heard_all.is_ok() && found.score >= SAME_SPEECH,
        "greeting: what was heard in {} ms is not it (similarity {:.2}, {SAME_SPEECH} wanted)",
        seen.heard.pcm.len() / 16,
        found.score
    );
    let begin = seen.heard.from.unwrap_or_default().plus_millis(found.delay_ms as u64);
    mark(marks, placed, begin, "caller", "greeting begins", format!("similarity {:.2}", found.score));
    Ok(found)
}

async fn hear_echo(peer: &WebrtcPeer, placed: Instant, marks: &mut Vec<Mark>) -> anyhow::Result<Similarity> {
    let speech = wav::read(SPEECH)?;
    peer.play(&speech);
    let limit = Duration::from_millis(length_ms(&speech) + 2_000);
    let played = |seen: &Observed| seen.played.last().is_some_and(|clip| clip.until.is_some());
    ensure!(peer.wait(limit, played).await.is_ok(), "speech: it was not played to its end");
    tokio::time::sleep(ECHO_LIMIT).await;
    let seen = snapshot(peer);
    let Some(Played { from, heard_samples, .. }) = seen.played.last().copied() else {
        bail!("speech: it was not played")
    };
    mark(marks, placed, from, "caller", "speaks", format!("{} ms", length_ms(&speech)));
    let found = similarity(&speech.pcm, speech.rate_hz, &seen.heard.pcm[heard_samples..], seen.heard.rate_hz);
    ensure!(
        found.score >= SAME_SPEECH,
        "echo: what was heard is not what was said (similarity {:.2}, {SAME_SPEECH} wanted)",
        found.score
    );
    let at = from.plus_millis(found.delay_ms as u64);
    let detail = format!("similarity {:.2}, round trip {:.0} ms", found.score, found.delay_ms);
    mark(marks, placed, at, "caller", "hears itself", detail);
    Ok(found)
}

/// The call as the bot knows it.
fn at_the_bot(world: &World, call: &Call) -> Option<AnsweredCall> {
    let calls = world.bot_calls()?;
    let calls = calls.borrow().clone();
    calls.into_values().find(|answered| answered.header("x-wa-call-id") == Some(call.id.as_str()))
}

async fn press_key(
    world: &World,
    call: &Call,
    peer: &WebrtcPeer,
    placed: Instant,
    marks: &mut Vec<Mark>,
) -> anyhow::Result<()> {
    let bot = at_the_bot(world, call).context("digit: no call with this X-WA-Call-ID reached the bot")?;
    let digit = Digit::from_char(KEY).context("digit: no such key")?;
    let (pressed, heard_samples) = (clock::now(), snapshot(peer).heard.pcm.len());
    peer.press(digit, KEY_MS);
    let mut media = bot.media.clone();
    // Only whether it came: what `wait_for` lends would lock the bot's media out of its own record.
    let understood = tokio::time::timeout(KEY_LIMIT, media.wait_for(|seen| !seen.digits.is_empty())).await.is_ok();
    ensure!(understood, "digit: the bot heard no key within {} s", KEY_LIMIT.as_secs());
    let tone = pcm::dtmf_hz(KEY).context("digit: the key has no tone")?;
    let answered =
        peer.wait(KEY_LIMIT, |seen| has_tone(&seen.heard.pcm[heard_samples..], seen.heard.rate_hz, tone)).await;
    ensure!(answered.is_ok(), "digit: the bot's tone for {KEY} was not heard");
    let digits = bot.media.borrow().digits.clone();
    let keys: String = digits.iter().map(|(_, key)| key).collect();
    ensure!(keys == KEY.to_string(), "digit: the bot heard {keys:?} for one {KEY}");
    let at = digits.first().map_or(pressed, |(at, _)| *at);
    mark(marks, placed, pressed, "caller", "presses a key", KEY.to_string());
    mark(marks, placed, at, "bot", "understands it", keys);
    Ok(())
}

/// Whether some 100 ms hold both tones. Looks at the last half second only, so that it can be asked after each packet.
fn has_tone(heard: &[i16], rate_hz: u32, tone: [f64; 2]) -> bool {
    let window = (rate_hz / 10) as usize;
    let recent = &heard[heard.len().saturating_sub(window * 5)..];
    window > 0
        && recent.chunks_exact(window).any(|window| {
            pcm::rms(window) > 300.0 && tone.iter().all(|hz| pcm::tone_share(window, rate_hz, *hz) > TONE_SHARE_MIN)
        })
}

/// Hangs up as the caller, and looks for what is left. Answers how many kinds of resources were found at zero.
async fn hang_up(
    world: &World,
    call: &Call,
    peer: &WebrtcPeer,
    placed: Instant,
    marks: &mut Vec<Mark>,
) -> anyhow::Result<usize> {
    let seen = snapshot(peer);
    let continuity = seen.continuity;
    ensure!(
        continuity.sequence_faults == 0 && continuity.timestamp_faults == 0,
        "RTP: {} sequence numbers and {} timestamps of {} packets stepped wrongly",
        continuity.sequence_faults,
        continuity.timestamp_faults,
        seen.packets_received
    );
    mark(marks, placed, clock::now(), "caller", "hangs up", format!("{} packets heard", seen.packets_received));
    call.hang_up();
    ensure!(
        call.wait(END_LIMIT, |state| state.terminated_status.is_some()).await,
        "end: no terminate webhook was taken"
    );
    let limit = clock::now() + END_LIMIT;
    let ended = loop {
        if let Some(ended) = at_the_bot(world, call).and_then(|bot| bot.ended) {
            break ended;
        }
        ensure!(clock::now() < limit, "end: the bot's call still runs {} s after the hang-up", END_LIMIT.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    ensure!(
        matches!(ended.1, SipEnd::ByeReceived(_)),
        "end: the bot's call ended otherwise than by BYE: {:?}",
        ended.1
    );
    mark(marks, placed, ended.0, "bot", "BYE came", String::new());
    let rest_limit = if once() { clock::now() + REST_LIMIT } else { limit };
    loop {
        match left_behind(world, &call.id).await? {
            Left::Nothing(kinds) => return Ok(kinds),
            // A person who waits for the page is not kept waiting for timers that only absorb repetitions.
            Left::Resting(kinds) if !once() => return Ok(kinds),
            Left::Resting(_) if clock::now() < rest_limit => tokio::time::sleep(Duration::from_millis(200)).await,
            Left::Resting(_) => bail!("nothing left behind: but SIP transactions after {} s", REST_LIMIT.as_secs()),
            Left::Something(text) if clock::now() >= limit => bail!("nothing left behind: but {text}"),
            Left::Something(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Whether the program ends after the call: `DEMO_ONCE=1`.
pub fn once() -> bool {
    std::env::var_os("DEMO_ONCE").is_some_and(|once| once != "0" && !once.is_empty())
}

enum Left {
    /// So many kinds of resources are at zero.
    Nothing(usize),
    /// The rest is what SIP keeps for repetitions.
    Resting(usize),
    Something(String),
}

async fn left_behind(world: &World, call_id: &str) -> anyhow::Result<Left> {
    let timeline = world.client.timeline(call_id, 0).await.context("end: the timeline")?;
    if !timeline.ended && !timeline.entries.iter().any(|entry| entry.step == "end") {
        return Ok(Left::Something("the timeline has no end".to_owned()));
    }
    let samples = world.client.metrics().await.context("end: the metrics")?;
    let alive = tandem::alive(&samples);
    ensure!(alive.len() >= 3, "nothing left behind: the metrics name only {} kinds of resources", alive.len());
    let (resting, left): (Vec<&Sample>, Vec<&Sample>) =
        alive.iter().copied().filter(|sample| sample.value != 0.0).partition(|sample| tandem::rests(sample));
    let named: Vec<String> = left.iter().map(|sample| format!("{} is {}", sample.series, sample.value)).collect();
    Ok(match (named.is_empty(), resting.is_empty()) {
        (true, true) => Left::Nothing(alive.len()),
        (true, false) => Left::Resting(alive.len() - resting.len()),
        _ => Left::Something(named.join(", ")),
    })
}

fn length_ms(wav: &Wav) -> u64 {
    wav.pcm.len() as u64 * 1000 / u64::from(wav.rate_hz)
}

fn snapshot(peer: &WebrtcPeer) -> Observed {
    peer.observed().borrow().clone()
}

/// Where each step's time went: tandem's own timeline and what the stand-ins saw, in one order.
fn print_table(entries: &[Entry], marks: &[Mark]) {
    let ours = marks.iter().map(|mark| (mark.at_ms, mark.who, mark.what.as_str(), mark.detail.as_str()));
    let theirs = entries.iter().map(|entry| (entry.at_ms, "tandem", entry.step.as_str(), entry.detail.as_str()));
    let mut rows: Vec<_> = theirs.chain(ours).collect();
    rows.sort_by_key(|row| row.0);
    println!();
    for (at_ms, who, what, detail) in rows {
        println!("{at_ms:>7} ms  {who:<9} {what:<28} {detail}");
    }
    println!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_heard_is_tried_again() {
        for (text, again) in [
            ("echo: what was heard is not what was said (similarity 0.62, 0.7 wanted)", true),
            ("digit: the bot heard no key within 3 s", true),
            ("accept: none came within 15 s", false),
            ("RTP: 1 sequence numbers and 0 timestamps of 9 packets stepped wrongly", false),
            ("nothing left behind: but tandem_sessions_alive is 1", false),
        ] {
            assert_eq!(is_by_ear(&anyhow::anyhow!("{text}")), again, "{text}");
        }
    }

    #[test]
    fn a_keys_tone_is_found_and_speech_is_not_taken_for_it() {
        let five = pcm::dtmf_hz('5').unwrap();
        let mut heard = wav::read(SPEECH).unwrap().pcm;
        assert!(!heard.chunks(1_600).any(|chunk| has_tone(chunk, 16_000, five)));
        heard.extend(pcm::tones(&five, 200, 16_000, 12_000));
        assert!(has_tone(&heard, 16_000, five));
        assert!(!has_tone(&heard, 16_000, pcm::dtmf_hz('6').unwrap()));
        assert!(!has_tone(&[], 0, five));
    }
}
