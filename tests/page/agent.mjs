// The agent's SIP without a browser: two phones, a registrar and a wire that this test plays. Node runs it; a failed check throws.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';

const md5 = (text) => createHash('md5').update(text).digest('hex');
const sleep = (ms) => new Promise((done) => { setTimeout(done, ms); });
/** Waits until `check` holds; a busy machine takes longer, and no test fails for that. */
const until = async (what, check) => {
  for (let waited = 0; !check(); waited += 5) {
    assert(waited < 20000, `no ${what}`);
    await sleep(5);
  }
};
const header = (text, name) => new RegExp(`^${name}: (.*)$`, 'mi').exec(text)?.[1];

// --- what a browser would have ---
globalThis.localStorage = { getItem: () => null, setItem: () => {} };
globalThis.MediaStream = class { addTrack() {} getAudioTracks() { return []; } };
const stream = { getAudioTracks: () => [{ enabled: true }], getTracks: () => [{ stop() {} }] };
Object.defineProperty(globalThis, 'navigator', { value: { mediaDevices: { getUserMedia: async () => stream } } });
const keys = [];
globalThis.RTCPeerConnection = class extends EventTarget {
  signalingState = 'stable';
  iceGatheringState = 'complete';
  addTrack() { return { dtmf: { insertDTMF: (key) => keys.push(key) } }; }
  async createOffer() { return { type: 'offer', sdp: 'v=0\r\na=sendrecv\r\n' }; }
  async createAnswer() { return { type: 'answer', sdp: 'v=0\r\na=sendrecv\r\n' }; }
  async setLocalDescription(description) {
    this.localDescription = description;
    this.signalingState = description.type === 'offer' ? 'have-local-offer' : 'stable';
  }
  async setRemoteDescription({ type }) {
    assert(type === 'offer' || this.signalingState === 'have-local-offer', 'an answer without an offer');
    this.signalingState = type === 'offer' ? 'have-remote-offer' : 'stable';
  }
  close() {}
};

// --- the registrar and the wire ---
const sent = [];
const texts = [];
const sockets = [];
const REALM = 'voice, \\"x\\"';
globalThis.WebSocket = class {
  static OPEN = 1;
  readyState = 0;
  constructor(url, protocol) {
    assert.equal(protocol, 'sip');
    this.at = sockets.push(this) - 1;
    setTimeout(() => { this.readyState = 1; this.onopen(); }, 1);
  }
  send(text) {
    sent.push(`${this.at} ${text.split('\r\n')[0]}`);
    texts.push(text);
    const body = text.slice(text.indexOf('\r\n\r\n') + 4);
    assert.equal(Buffer.byteLength(body), Number(header(text, 'Content-Length')));
    setTimeout(() => (text.startsWith('REGISTER') ? this.register(text) : sockets[1 - this.at].onmessage({ data: text })), 1);
  }
  register(text) {
    const repeated = ['Via', 'From', 'Call-ID', 'CSeq'].map((name) => `${name}: ${header(text, name)}`);
    const answer = (line, more) => {
      const lines = [`SIP/2.0 ${line}`, ...repeated, `To: ${header(text, 'To')};tag=r`, more, 'Content-Length: 0', '', ''];
      this.onmessage({ data: lines.join('\r\n') });
    };
    const authorization = header(text, 'Authorization');
    if (!authorization) return answer('401 Unauthorized', `WWW-Authenticate: Digest realm="${REALM}",qop="auth",nonce="n==",opaque="o"`);
    const field = (name) => new RegExp(`[ ,]${name}="?([^",]*)"?`).exec(authorization)[1];
    const secret = md5(`${field('username')}:${REALM}:secret`);
    const expected = md5(`${secret}:n==:${field('nc')}:${field('cnonce')}:auth:${md5('REGISTER:sip:voice.example')}`);
    assert.equal(field('response'), expected, 'the digest (RFC 7616)');
    return answer('200 OK', `Contact: ${header(text, 'Contact')}`);
  }
  close() { this.onclose?.(); }
};

const source = await readFile(new URL('../../control/src/http/page/sip.js', import.meta.url), 'utf8');
const { Phone, person, forTests } = await import(`data:text/javascript;base64,${Buffer.from(source).toString('base64')}`);

// --- digest's hash, against Node's ---
for (const text of ['', 'abc', 'a'.repeat(55), 'a'.repeat(56), 'a'.repeat(64), 'é'.repeat(500)]) assert.equal(forTests.md5(text), md5(text));
// --- names that hold the separators ---
assert.deepEqual(forTests.elements('"A, <b>" <sip:a@h;x=1,2>;tag=1, <sip:c@h>'), ['"A, <b>" <sip:a@h;x=1,2>;tag=1', '<sip:c@h>']);
assert.deepEqual(person('"Ann \\"x\\"" <sip:%2B44@h>;tag=1'), { name: 'Ann "x"', user: '+44' });
// --- what is no message ---
for (const text of ['', 'x', 'INVITE\r\n\r\n', 'SIP/2.0 200 OK\r\n\r\n', ': x\r\n\r\n']) assert.equal(forTests.Message.parse(text), null);

// --- registration, and calls of every kind ---
const registered = [];
const phone = (user) => {
  const made = new Phone({ server: 'wss://h/sip', domain: 'voice.example', user, password: 'secret', name: user });
  made.addEventListener('state', ({ detail }) => detail.state === 'registered' && registered.push(user));
  made.start();
  return made;
};
const [alice, bob] = [phone('alice'), phone('bob')];
await until('registrations', () => registered.length === 2);
assert.deepEqual(registered.sort(), ['alice', 'bob']);
const seen = [];
const watch = (call, who) => {
  for (const type of ['ringing', 'answered', 'held', 'resumed', 'ended', 'failed']) {
    call.addEventListener(type, ({ detail }) => seen.push(`${who} ${type}${detail?.why ? ` ${detail.why}` : ''}`));
  }
};
let theirs;
bob.addEventListener('incoming', ({ detail }) => { theirs = detail.call; watch(theirs, 'bob'); });
const place = async () => {
  const call = alice.call('bob');
  watch(call, 'alice');
  await until('ringing', () => seen.includes('alice ringing'));
  assert.equal(theirs.peer.user, 'alice');
  return call;
};
const took = async (...expected) => {
  await until(expected.join(', '), () => seen.length >= expected.length);
  assert.deepEqual(seen.splice(0).sort(), expected.sort());
};
/** Everything that was sent has arrived. */
const quiet = async () => {
  for (let before = -1; before !== sent.length;) {
    before = sent.length;
    await sleep(60);
  }
};

let ours = await place();
await theirs.accept();
await took('alice ringing', 'alice answered', 'bob answered');
await ours.hold(true);
await ours.hold(false);
await theirs.hold(true);
await theirs.hold(false);
ours.digit('5');
assert.deepEqual(keys, ['5']);
await took('alice held', 'alice resumed', 'bob held', 'bob resumed');
theirs.hangup();
await took('bob ended you hung up', 'alice ended the other side hung up');

ours = await place();
ours.hangup();
await took('alice ringing', 'alice ended you hung up', 'bob ended the caller gave up');

ours = await place();
theirs.hangup();
await took('alice ringing', 'bob ended you hung up', 'alice ended 486 Busy Here');

// Alice connects the other sides of her two calls; here both are bob, who calls whom he is told to (alice, on this wire).
const first = await place();
await theirs.accept();
await took('alice ringing', 'alice answered', 'bob answered');
const bobs = theirs;
const consulted = await place();
await theirs.accept();
await took('alice ringing', 'alice answered', 'bob answered');
let asked;
alice.addEventListener('incoming', ({ detail }) => { asked = detail.call; });
let followed;
bob.addEventListener('referred', ({ detail }) => { followed = detail.call; });
const codes = [];
first.addEventListener('transfer', ({ detail }) => codes.push(detail.code));
await first.transfer(consulted);
await until('the referred call', () => followed && asked);
const named = `${consulted.callId};to-tag=${theirs.localTag};from-tag=${consulted.localTag}`;
assert.equal(decodeURIComponent(/Replaces=([^>]+)>/.exec(header(texts.find((text) => text.startsWith('REFER')), 'Refer-To'))[1]), named);
const placed = texts.findLast((text) => text.startsWith('INVITE'));
assert.deepEqual([header(placed, 'Replaces'), header(placed, 'Referred-By')], [named, '<sip:alice@voice.example>']);
await asked.accept();
await until('the end of the transfer', () => first.state === 'ended' && bobs.state === 'ended');
assert.deepEqual([codes[0], codes.at(-1), codes.includes(180)], [100, 200, true]);
seen.splice(0);
consulted.hangup();
followed.hangup();
await until('the ends', () => theirs.state === 'ended' && asked.state === 'ended');

await quiet();
// Every final response to an INVITE was acknowledged, and nothing is left.
const starts = (text) => sent.filter((line) => line.slice(2).startsWith(text)).length;
assert.equal(starts('ACK'), starts('INVITE'));
assert.deepEqual([alice.calls.size, bob.calls.size, alice.waiting.size, bob.waiting.size], [0, 0, 0, 0]);
console.log('the agent speaks SIP');
process.exit(0);
