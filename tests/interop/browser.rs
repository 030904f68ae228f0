//! Headless Chromium by WebDriver, with speech for a microphone and a recorder on what it hears.

use super::{Program, until};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Put into every page before its own scripts: keeps what each RTCPeerConnection of the page hears, as 48 kHz samples.
const RECORDER: &str = r"
window.tandemHeard = [];
window.tandemPeers = [];
window.tandemTracks = [];
// What goes in must be what the test said, so that what comes out can be scored: no noise suppression, no gain control.
if (navigator.mediaDevices) {
  const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  navigator.mediaDevices.getUserMedia = () => ask({ audio: plain });
}
const Native = window.RTCPeerConnection;
window.RTCPeerConnection = class extends Native {
  constructor(...given) {
    super(...given);
    window.tandemPeers.push(this);
    this.addEventListener('track', async event => {
      const stream = new MediaStream([event.track]);
      const element = new Audio(); element.srcObject = stream; element.muted = true; element.play(); window.tandemElement = element;
      const context = new AudioContext({ sampleRate: 48000 }); window.tandemContext = context;
      const source = `registerProcessor('recorder', class extends AudioWorkletProcessor {
        process(inputs) { if (inputs[0][0]) this.port.postMessage(inputs[0][0].slice()); return true } })`;
      await context.audioWorklet.addModule(URL.createObjectURL(new Blob([source], { type: 'text/javascript' })));
      const node = new AudioWorkletNode(context, 'recorder', { numberOfOutputs: 1 });
      context.createMediaStreamSource(stream).connect(node); node.connect(context.destination);
      // Where two connections are compared, each is kept.
      const track = { peer: this, chunks: null };
      window.tandemTracks.push(track);
      // Only the newest track: the one of a call that is over goes on being silent.
      node.port.onmessage = message => {
        if (window.tandemContext === context) window.tandemHeard.push(message.data);
        if (track.chunks) track.chunks.push(message.data);
      };
    });
  }
};
";

/// Put beside it on request: keeps every encoded frame, as the encoder made it and as it came off the network, before the jitter buffer.
const TAP: &str = r"
window.tandemFrames = { sent: [], heard: [] };
const tapSource = `onrtctransform = ({ transformer }) => {
  const { way } = transformer.options;
  const keep = (frame, out) => {
    let payload = '';
    for (const byte of new Uint8Array(frame.data)) payload += byte.toString(16).padStart(2, '0');
    const { sequenceNumber, rtpTimestamp } = frame.getMetadata();
    postMessage([way, [payload, sequenceNumber ?? -1, rtpTimestamp]]);
    out.enqueue(frame);
  };
  transformer.readable.pipeThrough(new TransformStream({ transform: keep })).pipeTo(transformer.writable);
}`;
const tap = new Worker(URL.createObjectURL(new Blob([tapSource], { type: 'text/javascript' })));
tap.onmessage = ({ data: [way, frame] }) => window.tandemFrames[way].push(frame);
const Recorded = window.RTCPeerConnection;
window.RTCPeerConnection = class extends Recorded {
  constructor(...given) {
    super(...given);
    this.addEventListener('track', ({ receiver }) => this.tapReceiver(receiver));
  }
  addTrack(...given) {
    const sender = super.addTrack(...given);
    sender.transform = new RTCRtpScriptTransform(tap, { way: 'sent' });
    // A receiver that exists before its description never passes a frame to a transform that is set when its track comes.
    this.getTransceivers().forEach(({ receiver }) => this.tapReceiver(receiver));
    return sender;
  }
  tapReceiver(receiver) {
    receiver.transform ??= new RTCRtpScriptTransform(tap, { way: 'heard' });
  }
};
";

/// Answers the samples as base64 of 16-bit little-endian PCM.
const TAKE: &str = r"
const chunks = CHUNKS, count = chunks.reduce((n, c) => n + c.length, 0), pcm = new Int16Array(count);
let at = 0;
for (const chunk of chunks) for (const sample of chunk) pcm[at++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32767)));
const bytes = new Uint8Array(pcm.buffer); let text = '';
for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
return btoa(text);
";

/// One browser with one page.
pub struct Browser {
    session: String,
    client: reqwest::Client,
    _driver: Program,
}

impl Browser {
    /// Starts Chromium with `microphone` (48 kHz WAV, looped) as its sound input.
    pub async fn start(folder: &Path, microphone: &Path) -> Browser {
        Browser::start_at(folder, microphone, 9_515).await
    }

    /// The same with a folder and a WebDriver port of its own, for tests with several browsers.
    pub async fn start_at(folder: &Path, microphone: &Path, port: u16) -> Browser {
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}")).env("HOME", folder);
        let mut driver = Program::start(folder, "chromedriver", &mut command);
        driver.wait_for("started successfully", 20).await;
        let arguments = [
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--ignore-certificate-errors".to_owned(),
            "--autoplay-policy=no-user-gesture-required".to_owned(),
            "--use-fake-device-for-media-stream".to_owned(),
            "--use-fake-ui-for-media-stream".to_owned(),
            "--window-size=1100,900".to_owned(),
            format!("--use-file-for-fake-audio-capture={}", microphone.display()),
            format!("--user-data-dir={}", folder.join("chromium").display()),
        ];
        let client = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().expect("a client");
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "acceptInsecureCerts": true,
            "goog:chromeOptions": {"binary": "/usr/bin/chromium", "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let answer = post(&client, &format!("http://127.0.0.1:{port}/session"), &capabilities).await;
        let id = answer["sessionId"].as_str().unwrap_or_else(|| panic!("no WebDriver session: {answer}"));
        let browser = Browser { session: format!("http://127.0.0.1:{port}/session/{id}"), client, _driver: driver };
        let recorder = json!({"cmd": "Page.addScriptToEvaluateOnNewDocument", "params": {"source": RECORDER}});
        browser.post("goog/cdp/execute", &recorder).await;
        // The recorder is a script of ours that a page's own policy must not stop.
        let bypass = json!({"cmd": "Page.setBypassCSP", "params": {"enabled": true}});
        browser.post("goog/cdp/execute", &bypass).await;
        browser
    }

    /// Keeps the encoded frames of every page that is opened from now on.
    pub async fn tap(&self) {
        self.post(
            "goog/cdp/execute",
            &json!({"cmd": "Page.addScriptToEvaluateOnNewDocument", "params": {"source": TAP}}),
        )
        .await;
    }

    /// Takes what was kept `way` (`sent` or `heard`): payload in hexadecimal, sequence number or -1, timestamp.
    pub async fn tapped(&self, way: &str) -> Vec<(String, i64, u32)> {
        let frames = self.run(&format!("return window.tandemFrames.{way}.splice(0)")).await;
        serde_json::from_value(frames).expect("frames as the tap writes them")
    }

    /// Opens a page.
    pub async fn open(&self, url: &str) {
        self.post("url", &json!({"url": url})).await;
        // A browser that has just started may say so while it still shows the empty page of its start.
        let shown = "return location.href !== 'data:,' && document.readyState === 'complete'";
        until("the page", 20, async || (self.run(shown).await == true).then_some(())).await;
    }

    /// Runs a script in the page and answers what it returns.
    pub async fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({"script": script, "args": []})).await
    }

    /// Runs a script that calls its last argument when it is done, and answers what it gives there.
    pub async fn run_async(&self, script: &str) -> Value {
        self.post("execute/async", &json!({"script": script, "args": []})).await
    }

    /// Clicks the element that `selector` (CSS) names.
    pub async fn click(&self, selector: &str) {
        let found = self.post("element", &json!({"using": "css selector", "value": selector})).await;
        let element = found.as_object().and_then(|map| map.values().next()).and_then(Value::as_str);
        let element = element.unwrap_or_else(|| panic!("no {selector} on the page: {found}"));
        self.post(&format!("element/{element}/click"), &json!({})).await;
    }

    /// Everything heard so far, 48 kHz mono.
    pub async fn heard(&self) -> Vec<i16> {
        self.take("window.tandemHeard").await
    }

    /// Begins to keep every connection's sound by itself.
    pub async fn keep_each(&self) {
        self.run("for (const track of window.tandemTracks) track.chunks = []").await;
    }

    /// What was kept of the connection that `peer` names, 48 kHz mono.
    pub async fn kept(&self, peer: &str) -> Vec<i16> {
        self.take(&format!("window.tandemTracks.find((track) => track.peer === {peer}).chunks")).await
    }

    async fn take(&self, chunks: &str) -> Vec<i16> {
        use base64::Engine as _;
        let text = self.run(&TAKE.replace("CHUNKS", chunks)).await;
        let bytes = base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap_or("")).expect("base64");
        bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
    }

    /// Writes a picture of the page.
    pub async fn screenshot(&self, path: &Path) {
        use base64::Engine as _;
        let answer = self.client.get(format!("{}/screenshot", self.session)).send().await.expect("a screenshot");
        let text = answer.text().await.expect("a body");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        let png =
            base64::engine::general_purpose::STANDARD.decode(value["value"].as_str().unwrap_or("")).expect("base64");
        std::fs::write(path, png).expect("the picture is written");
    }

    /// What the page wrote to its console.
    pub async fn console(&self) -> String {
        let answer = self.post("se/log", &json!({"type": "browser"})).await;
        let lines = answer.as_array().cloned().unwrap_or_default();
        lines.iter().filter_map(|line| line["message"].as_str()).collect::<Vec<_>>().join("\n")
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        post(&self.client, &format!("{}/{path}", self.session), body).await
    }
}

async fn post(client: &reqwest::Client, url: &str, body: &Value) -> Value {
    let answer = client.post(url).json(body).send().await.unwrap_or_else(|error| panic!("{url}: {error}"));
    let status = answer.status();
    let text = answer.text().await.expect("a body");
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    assert!(status.is_success(), "WebDriver refused {url}: {text}");
    value["value"].clone()
}
