// The agent's page: signs in, shows calls, and lets a person do with them what a phone can.
import { Phone } from '/page/sip.js';

const $ = (id) => document.getElementById(id);
const KEYS = '123456789*0#';
let phone;

// What each call shows changes with the others.
const paints = new Map();
const other = (call) => [...paints.keys()].findLast((known) => known !== call && known.state === 'answered');

$('domain').value = new URLSearchParams(location.search).get('domain') ?? location.hostname;
$('server').value = new URLSearchParams(location.search).get('server')
  ?? `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/sip`;
$('user').value = new URLSearchParams(location.search).get('user') ?? '';

function say(text) { $('said').textContent = text; }

function state({ state: name, why }) {
  $('state').textContent = why ? `${name}: ${why}` : name;
  $('state').className = `state ${name === 'registered' ? 'good' : name === 'refused' ? 'bad' : ''}`;
  $('dial').hidden = name !== 'registered';
}

// A tone that is made here: no file, and it stops with the call.
function ringer() {
  const context = new AudioContext();
  const gain = new GainNode(context, { gain: 0 });
  const tone = new OscillatorNode(context, { frequency: 440 });
  tone.connect(gain).connect(context.destination);
  tone.start();
  for (let at = 0; at < 60; at += 3) {
    gain.gain.setValueAtTime(0.08, context.currentTime + at);
    gain.gain.setValueAtTime(0, context.currentTime + at + 1);
  }
  return () => context.state !== 'closed' && context.close();
}

function show(call) {
  const box = $('one').content.cloneNode(true).firstElementChild;
  const part = (name) => box.querySelector(`.${name}`);
  const who = () => [call.peer?.name, call.peer?.user].filter(Boolean).join(' ');
  const quiet = call.incoming ? ringer() : () => {};
  const paint = (what = part('what').textContent) => {
    part('who').textContent = who();
    part('what').textContent = what;
    const up = call.state === 'answered';
    part('answer').hidden = !(call.incoming && call.state === 'ringing');
    for (const name of ['mute', 'hold', 'target', 'transfer', 'pad']) part(name).hidden = !up;
    part('join').hidden = !up || !other(call);
  };
  const all = (what) => {
    paint(what);
    for (const repaint of paints.values()) repaint();
  };
  paints.set(call, () => paint());
  const clock = setInterval(() => {
    if (call.since) part('clock').textContent = `${Math.floor((Date.now() - call.since) / 1000)} s`;
  }, 500);
  for (const key of KEYS) {
    const button = document.createElement('button');
    button.textContent = key;
    button.onclick = () => call.digit(key);
    part('pad').append(button);
  }
  part('sound').srcObject = call.remote;
  part('answer').onclick = () => { quiet(); call.accept(); };
  part('hang').onclick = () => call.hangup();
  part('mute').onclick = () => { call.mute(!call.muted); part('mute').ariaPressed = String(call.muted); };
  part('hold').onclick = () => call.hold(!call.onHold);
  part('transfer').onclick = () => part('target').value && call.transfer(part('target').value);
  part('join').onclick = () => other(call) && call.transfer(other(call));
  call.addEventListener('ringing', () => paint('rings'));
  call.addEventListener('answered', () => { quiet(); all('talking'); });
  call.addEventListener('held', () => { part('hold').ariaPressed = 'true'; paint('on hold'); });
  call.addEventListener('resumed', () => { part('hold').ariaPressed = 'false'; paint('talking'); });
  call.addEventListener('transfer', ({ detail }) => paint(`transfer: ${detail.code}`));
  call.addEventListener('failed', ({ detail }) => say(detail.why));
  call.addEventListener('ended', ({ detail }) => {
    quiet();
    clearInterval(clock);
    box.remove();
    paints.delete(call);
    for (const repaint of paints.values()) repaint();
    say(`${who()}: ${detail.why}`);
  });
  paint(call.incoming ? 'calls' : 'calling');
  $('calls').append(box);
}

$('sign').onsubmit = (event) => {
  event.preventDefault();
  phone?.stop();
  phone = new Phone({
    server: $('server').value, domain: $('domain').value, user: $('user').value, password: $('password').value, name: $('name').value,
  });
  phone.addEventListener('state', ({ detail }) => state(detail));
  for (const came of ['incoming', 'referred']) phone.addEventListener(came, ({ detail }) => show(detail.call));
  phone.start();
  globalThis.phone = phone;
  $('out').hidden = false;
};

$('out').onclick = async () => {
  await phone?.stop();
  phone = undefined;
  state({ state: 'signed out' });
  $('out').hidden = true;
};

$('dial').onsubmit = (event) => {
  event.preventDefault();
  say('');
  show(phone.call($('number').value));
};

addEventListener('pagehide', () => phone?.stop());
