//! The voice bot: it greets, then says everything back a little later, and answers each key with that key's own tone.
//!
//! `9` and `#` make it hang up. It is reached over SIP, demands digest in Twilio's shape (407, realm `sip.twilio.com`) and speaks PCMU.
//!
//! Why the echo is late: 300 ms tell it apart from an echo in the gateway itself, and a person hears that something answers.

use anyhow::Context;
use control::client::sip_answerer::{AnswererConfig, SipAnswerer, Voice};
use control::client::{pcm, wav};
use control::sip::Credentials;
use engine::time::Instant;
use std::collections::VecDeque;
use std::net::IpAddr;

/// How much later than it was said the echo is spoken.
pub const ECHO_MS: usize = 300;
/// Realm of the digest challenge.
pub const REALM: &str = "sip.twilio.com";
/// What it says first.
pub const GREETING: &[u8] = include_bytes!("../speech/greeting-8k.wav");

/// Rate of everything here.
const RATE_HZ: u32 = 8_000;
/// Samples of the echo's delay.
const ECHO_SAMPLES: usize = ECHO_MS * RATE_HZ as usize / 1000;
/// What the echo may lag behind beyond its delay before it is cut: clocks differ, and it must not grow.
const ECHO_SAMPLES_MAX: usize = ECHO_SAMPLES + RATE_HZ as usize / 5;
/// How long a key's tone sounds.
const TONE_MS: u32 = 200;
/// Peak of a key's tone.
const TONE_LEVEL: i16 = 12_000;
/// Longest call.
const CALL_MS_MAX: u64 = 10 * 60 * 1000;

/// How the bot is reached.
#[derive(Clone)]
pub struct BotConfig {
    /// Where it listens.
    pub bind: IpAddr,
    /// SIP port; 0 draws one.
    pub port: u16,
    /// Who may call.
    pub credentials: Credentials,
}

/// Starts the bot.
pub async fn start(config: BotConfig) -> anyhow::Result<SipAnswerer> {
    let greeting = wav::read(GREETING).context("the greeting")?;
    let greeting = pcm::resample(&greeting.pcm, greeting.rate_hz, RATE_HZ);
    let answerer = AnswererConfig {
        bind: config.bind,
        port: config.port,
        demand: Some((REALM.to_owned(), config.credentials)),
        product: "tandem-standin bot".to_owned(),
        ring_after_ms: 20,
        answer_after_ms: 150,
        call_ms_max: CALL_MS_MAX,
    };
    let voices = Box::new(move |_: &_| Box::new(EchoVoice::new(&greeting)) as Box<dyn Voice>);
    SipAnswerer::start(answerer, voices).await.context("the bot's SIP port")
}

/// What the bot says in one call.
pub struct EchoVoice {
    /// What is left of the greeting; nothing is echoed before its end.
    greeting: VecDeque<i16>,
    /// What is left of a key's tone; goes over the echo.
    tone: VecDeque<i16>,
    /// What was heard and not yet said back.
    echo: VecDeque<i16>,
    echoing: bool,
}

impl EchoVoice {
    /// Begins with `greeting`, at 8 kHz.
    pub fn new(greeting: &[i16]) -> EchoVoice {
        EchoVoice {
            greeting: greeting.iter().copied().collect(),
            tone: VecDeque::new(),
            echo: VecDeque::new(),
            echoing: false,
        }
    }
}

impl Voice for EchoVoice {
    fn speak(&mut self, _now: Instant, frame: &mut [i16]) {
        for sample in frame {
            // The echo runs on beneath tones, so that its delay stays what it is.
            let echo = if self.echoing { self.echo.pop_front() } else { None };
            let said = self.greeting.pop_front().or_else(|| self.tone.pop_front()).or(echo);
            *sample = said.unwrap_or(0);
        }
    }

    fn hear(&mut self, _now: Instant, pcm: &[i16]) {
        if !self.greeting.is_empty() {
            return;
        }
        if !self.echoing || self.echo.is_empty() {
            self.echoing = true;
            self.echo.clear();
            self.echo.resize(ECHO_SAMPLES, 0);
        }
        self.echo.extend(pcm);
        if self.echo.len() > ECHO_SAMPLES_MAX {
            let surplus = self.echo.len() - ECHO_SAMPLES;
            self.echo.drain(..surplus);
        }
    }

    fn key(&mut self, _now: Instant, key: char) -> bool {
        if matches!(key, '9' | '#') {
            return false;
        }
        if let Some(pair) = pcm::dtmf_hz(key) {
            self.greeting.clear();
            self.tone = pcm::tones(&pair, TONE_MS, RATE_HZ, TONE_LEVEL).into();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(voice: &mut EchoVoice, frames: usize) -> Vec<i16> {
        let mut out = vec![0; frames * 160];
        out.chunks_exact_mut(160).for_each(|frame| voice.speak(Instant::ZERO, frame));
        out
    }

    #[test]
    fn it_greets_first_and_does_not_echo_what_was_said_meanwhile() {
        let mut voice = EchoVoice::new(&[7; 320]);
        voice.hear(Instant::ZERO, &[99; 160]);
        assert_eq!(said(&mut voice, 3), [vec![7; 320], vec![0; 160]].concat());
    }

    #[test]
    fn it_says_everything_back_300_ms_later() {
        let mut voice = EchoVoice::new(&[]);
        let mut out = Vec::new();
        for index in 0..30i16 {
            voice.hear(Instant::ZERO, &[index + 1; 160]);
            out.extend(said(&mut voice, 1));
        }
        assert!(out[..ECHO_SAMPLES].iter().all(|&s| s == 0));
        assert_eq!(out[ECHO_SAMPLES..ECHO_SAMPLES + 160], [1; 160]);
        assert_eq!(out[ECHO_SAMPLES + 160 * 14], 15);
    }

    #[test]
    fn the_echo_does_not_lag_more_and_more() {
        let mut voice = EchoVoice::new(&[]);
        (0..500).for_each(|_| voice.hear(Instant::ZERO, &[1; 160]));
        assert!(voice.echo.len() <= ECHO_SAMPLES_MAX);
    }

    #[test]
    fn a_key_is_answered_with_its_tone_and_two_keys_end_the_call() {
        let mut voice = EchoVoice::new(&[3; 1600]);
        assert!(voice.key(Instant::ZERO, '5'));
        let tone = said(&mut voice, 10);
        assert!(pcm::tone_share(&tone, RATE_HZ, 770.0) > 0.3 && pcm::tone_share(&tone, RATE_HZ, 1336.0) > 0.3);
        assert!(!voice.key(Instant::ZERO, '#'));
        assert!(!voice.key(Instant::ZERO, '9'));
    }
}
