'use strict';
// The caller's phone: one RTCPeerConnection toward the stand-in of WhatsApp's relay. Everything about the call's progress comes as
// server-sent events; keys go out as telephone-event, beside the voice.

const $ = id => document.getElementById(id);
const KEYS = ['1', '2', '3', '4', '5', '6', '7', '8', '9', '*', '0', '#'];
const STEPS = {
  webhook: 'Webhook', offer: 'Offer', pre_accept: 'Pre-accept', ice_pair: 'ICE pair', dtls: 'DTLS', invite: 'INVITE',
  challenge: '407 challenge', ringing: 'Ringing', answered: '200 answered', accept: 'Accept', release: 'Media released',
  first_packet_from_whatsapp: 'First packet in', first_packet_to_whatsapp: 'First packet out',
  first_packet_from_sip: 'First from SIP', first_packet_to_sip: 'First to SIP', digit: 'Key', end: 'End',
};

let current = null; // the call that is going on

function status(text) { $('status').textContent = text; }

function problem(text) {
  $('problem').hidden = !text;
  $('problem').textContent = text || '';
}

function buttons(inCall) {
  $('call').disabled = inCall;
  $('hangup').disabled = !inCall;
  for (const key of $('keypad').children) key.disabled = !inCall;
}

function clearTimeline() {
  $('steps').replaceChildren();
  $('empty').hidden = true;
  $('end').hidden = true;
  $('counters').hidden = false;
}

function addStep({ step, detail, at_ms }) {
  const line = document.createElement('li');
  line.dataset.step = step;
  for (const [kind, text] of [['at', at_ms + ' ms'], ['step', STEPS[step] || step], ['detail', detail || '']]) {
    const cell = document.createElement('span');
    cell.className = kind;
    cell.textContent = text;
    line.append(cell);
  }
  $('steps').append(line);
  if (step === 'end') showEnd(detail);
}

function showEnd(text) {
  $('end').hidden = false;
  $('end').textContent = 'Ended: ' + text;
}

function showState(state) {
  $('to-tandem').textContent = state.gateway.rtp_sent + ' packets';
  $('from-tandem').textContent = state.gateway.rtp_received + ' packets';
  $('keys').textContent = (state.bot && state.bot.digits) || 'none';
  $('rules').textContent = state.broken_rules.length ? state.broken_rules.join('; ') : 'kept';
  if (state.state === 'calling') status('Ringing…');
  if (state.state === 'connected') {
    status('Connected');
    if (current && !current.since) current.since = Date.now();
  }
  if (state.state === 'ended') {
    if ($('end').hidden) showEnd(state.ended.reason);
    finish('Call ended: ' + state.ended.reason);
  }
}

// A level of 0 to 100 from the last few milliseconds of a stream: -60 dBFS is silence.
function meter(context, stream, element) {
  const analyser = context.createAnalyser();
  analyser.fftSize = 1024;
  context.createMediaStreamSource(stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  let shown = 0;
  return () => {
    analyser.getFloatTimeDomainData(samples);
    let sum = 0;
    for (const sample of samples) sum += sample * sample;
    const decibels = 10 * Math.log10(sum / samples.length + 1e-9);
    const level = Math.max(0, Math.min(100, (decibels + 60) * 100 / 60));
    shown = Math.max(level, shown * 0.9);
    element.firstElementChild.style.transform = `scaleX(${(shown / 100).toFixed(3)})`;
    element.setAttribute('aria-valuenow', Math.round(shown));
  };
}

function rest(element) {
  element.firstElementChild.style.transform = 'scaleX(0)';
  element.setAttribute('aria-valuenow', 0);
}

// Only what a WhatsApp call carries: Opus and keys at 8 kHz.
function preferCallCodecs(transceiver) {
  const known = window.RTCRtpReceiver && RTCRtpReceiver.getCapabilities && RTCRtpReceiver.getCapabilities('audio');
  if (!known || !transceiver.setCodecPreferences) return;
  const wanted = known.codecs.filter(codec => /opus$/i.test(codec.mimeType)
    || (/telephone-event$/i.test(codec.mimeType) && codec.clockRate === 8000));
  try { transceiver.setCodecPreferences(wanted); } catch { /* the browser keeps its own list */ }
}

async function microphone() {
  if (!navigator.mediaDevices || !navigator.mediaDevices.getUserMedia) {
    throw new Error('This page needs a microphone. Open it on localhost or over https.');
  }
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    throw new Error(error.name === 'NotAllowedError' ? 'The microphone was not allowed.' : 'No microphone: ' + error.message);
  }
}

async function call() {
  problem('');
  buttons(true);
  status('Asking for the microphone…');
  clearTimeline();
  const mine = current = { meters: [] };
  try {
    mine.stream = await microphone();
    if (mine.over) return release(mine);
    status('Calling…');
    mine.context = new (window.AudioContext || window.webkitAudioContext)();
    mine.meters.push(meter(mine.context, mine.stream, $('level-out')));
    const peer = mine.peer = new RTCPeerConnection({ iceServers: [], bundlePolicy: 'max-bundle' });
    const transceiver = peer.addTransceiver(mine.stream.getAudioTracks()[0], { direction: 'sendrecv', streams: [mine.stream] });
    mine.sender = transceiver.sender;
    preferCallCodecs(transceiver);
    peer.ontrack = event => {
      const heard = event.streams[0] || new MediaStream([event.track]);
      $('speaker').srcObject = heard;
      $('speaker').play().catch(() => problem('The browser does not play sound before you click on the page.'));
      mine.meters.push(meter(mine.context, heard, $('level-in')));
    };
    peer.onconnectionstatechange = () => {
      if (peer.connectionState === 'failed' && current === mine) problem('The browser and the stand-in cannot reach each other over UDP.');
    };
    // The far side is ICE-lite and learns our addresses from our checks: there is no need to wait for candidates.
    await peer.setLocalDescription(await peer.createOffer());
    const answer = await post('/api/call', { sdp: peer.localDescription.sdp });
    mine.id = answer.id;
    document.body.dataset.call = answer.id;
    // Hung up while the call was being placed.
    if (mine.over) return void post('/api/hangup', { id: mine.id });
    follow(mine);
    await peer.setRemoteDescription({ type: 'answer', sdp: answer.sdp });
    draw();
  } catch (error) {
    if (current === mine) {
      problem(error.message);
      finish('Ready');
    }
  }
}

async function post(path, body) {
  const response = await fetch(path, {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body),
  });
  const text = await response.text();
  const data = text ? JSON.parse(text) : {};
  if (!response.ok) throw new Error(data.error || 'The stand-in answered ' + response.status);
  return data;
}

function follow(mine) {
  const events = mine.events = new EventSource('/api/events?id=' + encodeURIComponent(mine.id));
  events.addEventListener('step', event => addStep(JSON.parse(event.data)));
  events.addEventListener('state', event => showState(JSON.parse(event.data)));
  events.addEventListener('done', () => events.close());
}

function hangUp(mine) {
  mine.over = true;
  status('Hanging up…');
  if (!mine.id) return finish('Ready');
  // The call ends by its webhook; the media follow, so that tandem does not see a lost connection first.
  if (mine.stream) mine.stream.getTracks().forEach(track => { track.enabled = false; });
  post('/api/hangup', { id: mine.id }).catch(error => problem(error.message))
    .finally(() => setTimeout(() => release(mine), 300));
}

// Gives back the microphone and the connection; the events go on until the last step has come.
function release(mine) {
  if (mine.peer) mine.peer.close();
  if (mine.stream) mine.stream.getTracks().forEach(track => track.stop());
  if (mine.context) mine.context.close().catch(() => {});
  mine.meters = [];
  $('speaker').srcObject = null;
}

function finish(text) {
  if (current) {
    current.over = true;
    release(current);
  }
  current = null;
  status(text);
  buttons(false);
  rest($('level-out'));
  rest($('level-in'));
}

function press(key) {
  const dtmf = current && current.sender && current.sender.dtmf;
  if (!dtmf) return;
  try { dtmf.insertDTMF(dtmf.toneBuffer + key, 160, 70); } catch (error) { problem('The key was not sent: ' + error.message); }
  const button = $('keypad').querySelector(`[data-key="${key}"]`);
  button.classList.add('pressed');
  setTimeout(() => button.classList.remove('pressed'), 180);
}

function draw() {
  if (!current) return;
  for (const update of current.meters) update();
  const seconds = current.since ? Math.floor((Date.now() - current.since) / 1000) : 0;
  $('clock').textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
  requestAnimationFrame(draw);
}

for (const key of KEYS) {
  const button = document.createElement('button');
  button.type = 'button';
  button.dataset.key = key;
  button.textContent = key;
  button.setAttribute('aria-label', { '*': 'star', '#': 'hash' }[key] || key);
  button.addEventListener('click', () => press(key));
  $('keypad').append(button);
}
$('call').addEventListener('click', call);
$('hangup').addEventListener('click', () => current && hangUp(current));
document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (current && KEYS.includes(event.key)) press(event.key);
});
addEventListener('pagehide', () => {
  if (current && current.id) navigator.sendBeacon('/api/hangup', new Blob([JSON.stringify({ id: current.id })], { type: 'application/json' }));
});
buttons(false);
