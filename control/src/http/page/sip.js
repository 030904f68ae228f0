// A small SIP user agent for browsers: SIP over WebSocket (RFC 7118), digest with MD5, one media section by RTCPeerConnection.
//
// Messages are few and their order is fixed, so a transaction is a promise that its response settles, and a dialog is an object with
// its tags, route set and counter. The transport is reliable: nothing is repeated but our 2xx, which RFC 3261 §13.3.1.4 wants repeated
// until its ACK whatever the transport is.
'use strict';

const MAGIC = 'z9hG4bK';
const TRANSACTION_MS = 32000;
const GATHER_MS = 500;
const REGISTER_S = 300;
const RECONNECT_MS = [500, 1000, 2000, 5000, 10000, 20000];
const ALLOW = 'INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, NOTIFY, REFER';

const random = (length) => {
  const letters = 'abcdefghijklmnopqrstuvwxyz0123456789';
  return Array.from(crypto.getRandomValues(new Uint8Array(length)), (byte) => letters[byte % 36]).join('');
};

const bytes = (text) => new TextEncoder().encode(text).length;

/** MD5 (RFC 1321) of a text in UTF-8, in hexadecimal: what digest needs where the challenge names no better algorithm. */
function md5(text) {
  const input = new TextEncoder().encode(text);
  const words = new Uint32Array((((input.length + 8) >> 6) + 1) * 16);
  input.forEach((byte, at) => { words[at >> 2] |= byte << ((at & 3) * 8); });
  words[input.length >> 2] |= 0x80 << ((input.length & 3) * 8);
  words[words.length - 2] = input.length * 8;
  words[words.length - 1] = Math.floor(input.length / 0x20000000);
  const shifts = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
  const sines = Array.from({ length: 64 }, (_, at) => Math.floor(Math.abs(Math.sin(at + 1)) * 0x100000000) >>> 0);
  let state = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476];
  for (let block = 0; block < words.length; block += 16) {
    let [a, b, c, d] = state;
    for (let at = 0; at < 64; at += 1) {
      const round = at >> 4;
      const mixed = [(b & c) | (~b & d), (d & b) | (~d & c), b ^ c ^ d, c ^ (b | ~d)][round];
      const word = [at, (5 * at + 1) % 16, (3 * at + 5) % 16, (7 * at) % 16][round];
      const sum = (a + mixed + sines[at] + words[block + word]) >>> 0;
      const shift = shifts[round][at & 3];
      [a, d, c, b] = [d, c, b, (b + ((sum << shift) | (sum >>> (32 - shift)))) >>> 0];
    }
    state = state.map((value, at) => (value + [a, b, c, d][at]) >>> 0);
  }
  return state.map((value) => [0, 8, 16, 24].map((by) => ((value >>> by) & 255).toString(16).padStart(2, '0')).join('')).join('');
}

/** The elements of a list header, not split inside quotes and angle brackets. */
function elements(text) {
  const found = [];
  let from = 0, quoted = false, angle = false;
  for (let at = 0; at <= text.length; at += 1) {
    const c = text[at];
    if (c === '\\' && quoted) at += 1;
    else if (c === '"') quoted = !quoted;
    else if (c === '<' && !quoted) angle = true;
    else if (c === '>' && !quoted) angle = false;
    if (at === text.length || (c === ',' && !quoted && !angle)) {
      found.push(text.slice(from, at).trim());
      from = at + 1;
    }
  }
  return found.filter(Boolean);
}

const COMPACT = { c: 'content-type', f: 'from', i: 'call-id', k: 'supported', l: 'content-length', m: 'contact', r: 'refer-to', s: 'subject', t: 'to', v: 'via' };

/** A SIP message: start line, headers in order, body. */
class Message {
  constructor(start) {
    this.start = start;
    this.headers = [];
    this.body = '';
  }

  static parse(text) {
    const end = text.indexOf('\r\n\r\n');
    if (end < 0) return null;
    const [start, ...lines] = text.slice(0, end).replace(/\r\n[ \t]+/g, ' ').split('\r\n');
    const message = new Message(start);
    for (const line of lines) {
      const colon = line.indexOf(':');
      if (colon < 1) return null;
      const name = line.slice(0, colon).trim().toLowerCase();
      message.headers.push([COMPACT[name] ?? name, line.slice(colon + 1).trim()]);
    }
    message.body = text.slice(end + 4);
    const reply = /^SIP\/2\.0 (\d{3}) ?(.*)$/.exec(start);
    if (reply) [message.code, message.reason] = [Number(reply[1]), reply[2]];
    else [message.method, message.uri] = start.split(' ');
    return ['via', 'from', 'to', 'call-id', 'cseq'].every((name) => message.get(name)) ? message : null;
  }

  get(name) { return this.headers.find(([known]) => known === name)?.[1]; }
  all(name) { return this.headers.filter(([known]) => known === name).flatMap(([, value]) => elements(value)); }
  add(name, value) { this.headers.push([name, value]); return this; }

  text() {
    const lines = this.headers.map(([name, value]) => `${name}: ${value}`);
    return [this.start, ...lines, `Content-Length: ${bytes(this.body)}`, '', this.body].join('\r\n');
  }
}

const tagOf = (header) => /;\s*tag=([^;\s]+)/i.exec(header.replace(/^.*>/, ''))?.[1];
const uriOf = (header) => /<([^>]+)>/.exec(header)?.[1] ?? header.split(';')[0].trim();
const branchOf = (message) => /;\s*branch=([^;,\s]+)/i.exec(message.get('via'))?.[1];

/** Name and number of a From, for people. */
export function person(header) {
  const display = /^\s*(?:"((?:[^"\\]|\\.)*)"|([^<"]*?))\s*</.exec(header);
  const user = /^sips?:([^@;?]+)@/i.exec(uriOf(header))?.[1];
  let shown = user ?? uriOf(header);
  try { shown = decodeURIComponent(shown); } catch { /* stays as it came */ }
  return { name: (display?.[1] ?? display?.[2] ?? '').replace(/\\(.)/g, '$1').trim(), user: shown };
}

/** One call: a dialog and its media. Events: ringing, answered, held, resumed, ended {why}, transfer {code}. */
export class Call extends EventTarget {
  constructor(phone, incoming) {
    super();
    Object.assign(this, { phone, incoming, state: 'new', onHold: false, muted: false, cseq: 1 + Math.floor(Math.random() * 1000) });
    this.localTag = random(10);
    this.routes = [];
    this.media = new RTCPeerConnection({ bundlePolicy: 'max-bundle' });
    this.remote = new MediaStream();
    this.media.ontrack = (event) => {
      this.remote.addTrack(event.track);
      this.tell('media');
    };
    this.media.onconnectionstatechange = () => this.tell('connection', { state: this.media.connectionState });
  }

  tell(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }

  async microphone() {
    this.local = await navigator.mediaDevices.getUserMedia({ audio: this.phone.audio, video: false });
    for (const track of this.local.getAudioTracks()) this.sender = this.media.addTrack(track, this.local);
  }

  /** The local description with its candidates: peers of SIP take no trickled ones. */
  async described(description) {
    await this.media.setLocalDescription(description);
    if (this.media.iceGatheringState !== 'complete') {
      await new Promise((done) => {
        setTimeout(done, GATHER_MS);
        this.media.addEventListener('icegatheringstatechange', () => this.media.iceGatheringState === 'complete' && done());
      });
    }
    return this.media.localDescription.sdp;
  }

  direct(sdp, direction) { return sdp.replace(/a=(sendrecv|sendonly|recvonly|inactive)/g, `a=${direction}`); }

  async place(target, headers = []) {
    this.state = 'calling';
    this.callId = random(20);
    this.target = this.phone.address(target);
    this.peer = { name: '', user: target };
    this.remoteParty = `<${this.target}>`;
    try {
      await this.microphone();
      const sdp = await this.described(await this.media.createOffer());
      if (this.state === 'ended') return;
      const final = await this.request('INVITE', { sdp, headers, provisional: (response) => this.progress(response) });
      if (this.state === 'ended') {
        // CANCEL and 200 have crossed.
        if (final.code < 300) this.request('BYE').catch(() => {});
        return;
      }
      if (final.code >= 300) {
        this.refused = final.code;
        return this.end(this.why(final));
      }
      await this.early(final);
      this.up();
    } catch (error) {
      if (this.state !== 'ended') this.hangup(error.message);
    }
  }

  progress(response) {
    if (this.state === 'ended') return;
    this.state = 'ringing';
    this.early(response).catch(() => {});
    this.tell('ringing', { code: response.code });
  }

  /** The answer is taken once: a 183 may bring it before the 200 does. */
  async early(response) {
    if (!response.body || this.media.signalingState !== 'have-local-offer') return;
    await this.media.setRemoteDescription({ type: 'answer', sdp: response.body });
  }

  take(invite) {
    this.state = 'ringing';
    this.invite = invite;
    this.callId = invite.get('call-id');
    this.target = uriOf(invite.get('contact') ?? invite.get('from'));
    this.routes = invite.all('record-route');
    this.remoteParty = invite.get('from');
    this.peer = person(invite.get('from'));
    this.phone.reply(invite, 180, 'Ringing', { tag: this.localTag });
  }

  async accept() {
    if (this.state !== 'ringing' || !this.incoming) return;
    this.state = 'answering';
    try {
      await this.microphone();
      if (this.invite.body) await this.media.setRemoteDescription({ type: 'offer', sdp: this.invite.body });
      const made = this.invite.body ? await this.media.createAnswer() : await this.media.createOffer();
      const sdp = await this.described(made);
      if (this.state === 'ended') return;
      this.confirm(this.invite, sdp);
      this.up();
    } catch (error) {
      if (this.state !== 'ended') {
        this.phone.reply(this.invite, 480, 'No Microphone', { tag: this.localTag });
        this.end(error.message);
      }
    }
  }

  /** 200 with a description, repeated until its ACK. */
  confirm(invite, sdp) {
    const send = () => this.phone.reply(invite, 200, 'OK', { tag: this.localTag, sdp });
    let wait = 500, waited = 0;
    const again = () => {
      send();
      waited += wait;
      wait = Math.min(wait * 2, 4000);
      if (waited > TRANSACTION_MS) this.hangup('the answer was not acknowledged');
      else this.unacknowledged = setTimeout(again, wait);
    };
    send();
    this.unacknowledged = setTimeout(again, wait);
  }

  up() {
    this.state = 'answered';
    this.since = Date.now();
    this.tell('answered');
  }

  hangup(why = 'you hung up') {
    if (this.state === 'ended') return;
    const { state } = this;
    this.end(why);
    if (state === 'answered') this.request('BYE').catch(() => {});
    else if (this.incoming) this.phone.reply(this.invite, state === 'ringing' ? 486 : 480, 'Busy Here', { tag: this.localTag });
    else this.cancel();
  }

  cancel() {
    const invite = this.sent;
    // A request that was not answered at all may not be cancelled yet (RFC 3261 §9.1).
    if (!invite || !this.answeredAtAll) { this.cancelled = true; return; }
    const cancel = new Message(`CANCEL ${invite.uri} SIP/2.0`).add('Via', invite.get('Via')).add('Max-Forwards', '70');
    for (const name of ['From', 'To', 'Call-ID']) cancel.add(name, invite.get(name));
    invite.all('Route').forEach((route) => cancel.add('Route', route));
    cancel.add('CSeq', `${parseInt(invite.get('CSeq'), 10)} CANCEL`);
    this.phone.send(cancel);
  }

  async hold(on) {
    if (this.state !== 'answered' || this.changing || on === this.onHold) return;
    this.changing = true;
    try {
      const offer = await this.media.createOffer();
      const sdp = this.direct(await this.described(offer), on ? 'sendonly' : 'sendrecv');
      const final = await this.request('INVITE', { sdp });
      if (final.code >= 300 || !final.body) {
        await this.media.setLocalDescription({ type: 'rollback' });
        throw new Error(this.why(final));
      }
      await this.media.setRemoteDescription({ type: 'answer', sdp: final.body });
      this.onHold = on;
      this.silence();
      this.tell(on ? 'held' : 'resumed');
    } catch (error) {
      this.tell('failed', { why: error.message });
    } finally {
      this.changing = false;
    }
  }

  mute(on) {
    this.muted = on;
    this.silence();
  }

  silence() {
    this.local?.getAudioTracks().forEach((track) => { track.enabled = !this.muted && !this.onHold; });
    this.remote.getAudioTracks().forEach((track) => { track.enabled = !this.onHold; });
  }

  /** Telephone-events (RFC 4733). */
  digit(key) { this.sender?.dtmf?.insertDTMF(key, 120, 60); }

  /** How this call is named to its other side (RFC 3891). */
  get replaces() { return `${this.callId};to-tag=${tagOf(this.remoteParty) ?? this.remoteTag};from-tag=${this.localTag}`; }

  /**
   * Transfer (RFC 3515): the other side calls `target` and tells how it goes. Where that is another call of ours, its other side
   * takes our place here, and both calls end for us (RFC 5589 §7).
   */
  async transfer(target) {
    try {
      const attended = target instanceof Call ? `${target.target}?Replaces=${encodeURIComponent(target.replaces)}` : undefined;
      const to = `<${attended ?? this.phone.address(target)}>`;
      const final = await this.request('REFER', { headers: [['Refer-To', to], ['Referred-By', `<${this.phone.aor}>`]] });
      if (final.code >= 300) this.tell('failed', { why: this.why(final) });
      else this.tell('transfer', { code: 100 });
    } catch (error) {
      this.tell('failed', { why: error.message });
    }
  }

  why(response) {
    const warning = /^\d{3} \S+ "(.*)"$/.exec(response.get('warning') ?? '')?.[1];
    return warning ? `${response.code} ${response.reason}: ${warning}` : `${response.code} ${response.reason}`;
  }

  end(why) {
    this.state = 'ended';
    clearTimeout(this.unacknowledged);
    this.local?.getTracks().forEach((track) => track.stop());
    this.media.close();
    this.phone.calls.delete(this);
    this.tell('ended', { why });
  }

  /** Sends a request of this call and answers its final response; 401 and 407 are answered once. */
  async request(method, { sdp, body, headers = [], provisional } = {}) {
    let authorization;
    for (;;) {
      const request = this.build(method, ++this.cseq, sdp, [...headers, ...(authorization ? [authorization] : [])]);
      if (body) request.body = body;
      if (method === 'INVITE') this.sent = request;
      const final = await this.phone.ask(request, (response) => {
        this.answeredAtAll = true;
        this.learn(response);
        if (this.cancelled) { this.cancelled = false; this.cancel(); }
        if (response.code > 100) provisional?.(response);
      });
      if (method === 'INVITE') this.acknowledge(request, final);
      if ((final.code !== 401 && final.code !== 407) || authorization) return final;
      authorization = this.phone.authorize(final, method, request.uri);
      if (!authorization) return final;
    }
  }

  build(method, number, sdp, headers = []) {
    const { phone } = this;
    const request = phone.request(method, this.target);
    this.routes.forEach((route) => request.add('Route', route));
    const [from, to] = [`${phone.identity};tag=${this.localTag}`, this.remoteParty];
    const tag = tagOf(to) ? '' : this.remoteTag ? `;tag=${this.remoteTag}` : '';
    request.add('From', this.incoming ? `${this.localParty};tag=${this.localTag}` : from).add('To', `${to}${tag}`);
    request.add('Call-ID', this.callId).add('CSeq', `${number} ${method}`);
    if (method !== 'ACK' && method !== 'BYE') request.add('Contact', phone.contact);
    headers.forEach(([name, value]) => request.add(name, value));
    if (sdp) {
      request.add('Content-Type', 'application/sdp');
      request.body = sdp;
    }
    return request;
  }

  get localParty() { return this.invite.get('to').replace(/;\s*tag=[^;\s]+/i, ''); }

  /** Tag, target and route set of the dialog that a response makes (RFC 3261 §12.1.2). */
  learn(response) {
    const tag = tagOf(response.get('to'));
    if (response.code <= 100 || response.code >= 300 || !tag) return;
    if (!this.incoming && (!this.remoteTag || (response.code >= 200 && this.state !== 'answered'))) {
      this.remoteTag = tag;
      this.routes = response.all('record-route').reverse();
    }
    if (response.get('contact')) this.target = uriOf(response.get('contact'));
  }

  acknowledge(invite, final) {
    this.learn(final);
    const number = parseInt(invite.get('CSeq'), 10);
    if (final.code < 300) return this.phone.send(this.build('ACK', number));
    // The ACK of a refusal belongs to its INVITE's transaction (RFC 3261 §17.1.1.3).
    const ack = new Message(`ACK ${invite.uri} SIP/2.0`).add('Via', invite.get('Via')).add('Max-Forwards', '70');
    invite.all('Route').forEach((route) => ack.add('Route', route));
    ack.add('From', invite.get('From')).add('To', final.get('to')).add('Call-ID', this.callId).add('CSeq', `${number} ACK`);
    this.phone.send(ack);
  }

  /** The other side asks us to call somebody else in its place (RFC 3515): done, and told how it goes. */
  async referred(request, answer) {
    const targets = request.all('refer-to');
    const [uri, query = ''] = uriOf(targets[0] ?? '').split('?');
    if (targets.length !== 1 || !uri) return answer(400, 'Bad Request');
    if (!/^sips?:/i.test(uri)) return answer(416, 'Unsupported URI Scheme');
    if (this.state !== 'answered' || this.following) return answer(491, 'Request Pending');
    const replaces = query.split('&').find((header) => /^replaces=/i.test(header))?.slice('replaces='.length);
    const headers = [['Referred-By', request.get('referred-by')]].filter(([, value]) => value);
    try {
      if (replaces) headers.push(['Replaces', decodeURIComponent(replaces)]);
    } catch {
      return answer(400, 'Bad Request');
    }
    this.following = true;
    answer(202, 'Accepted');
    const subscription = `refer;id=${parseInt(request.get('cseq'), 10)}`;
    const notify = (code, reason) => {
      if (this.state !== 'answered') return;
      const state = code < 200 ? 'active;expires=180' : 'terminated;reason=noresource';
      const told = [['Event', subscription], ['Subscription-State', state], ['Content-Type', 'message/sipfrag;version=2.0']];
      this.request('NOTIFY', { headers: told, body: `SIP/2.0 ${code} ${reason}\r\n` }).catch(() => {});
      if (code >= 200) this.following = false;
    };
    notify(100, 'Trying');
    const call = this.phone.call(uri, headers);
    call.addEventListener('ringing', ({ detail }) => notify(detail.code, 'Ringing'));
    call.addEventListener('answered', () => notify(200, 'OK'), { once: true });
    call.addEventListener('ended', () => this.following && notify(call.refused ?? 487, 'Failed'));
    this.phone.tell('referred', { call });
  }

  /** Requests of the other side. */
  async handle(request) {
    const { phone } = this;
    const answer = (code, reason, more) => phone.reply(request, code, reason, { tag: this.localTag, ...more });
    switch (request.method) {
      case 'ACK':
        clearTimeout(this.unacknowledged);
        if (request.body && this.media.signalingState === 'have-local-offer') {
          await this.media.setRemoteDescription({ type: 'answer', sdp: request.body });
        }
        return;
      case 'BYE':
        answer(200, 'OK');
        this.end(request.get('reason') ?? 'the other side hung up');
        return;
      case 'CANCEL':
        answer(200, 'OK');
        if (this.state === 'ringing' || this.state === 'answering') {
          phone.reply(this.invite, 487, 'Request Terminated', { tag: this.localTag });
          const elsewhere = /cause=200/.test(request.get('reason') ?? '');
          this.end(elsewhere ? 'answered elsewhere' : 'the caller gave up');
        }
        return;
      case 'INVITE':
        if (this.changing) return answer(491, 'Request Pending');
        if (request.get('contact')) this.target = uriOf(request.get('contact'));
        this.changing = true;
        try {
          if (request.body) await this.media.setRemoteDescription({ type: 'offer', sdp: request.body });
          const made = request.body ? await this.media.createAnswer() : await this.media.createOffer();
          const sdp = await this.described(made);
          this.confirm(request, this.onHold ? this.direct(sdp, request.body ? 'inactive' : 'sendonly') : sdp);
        } catch {
          answer(488, 'Not Acceptable Here');
        } finally {
          this.changing = false;
        }
        return;
      case 'NOTIFY': {
        answer(200, 'OK');
        const code = Number(/^SIP\/2\.0 (\d{3})/.exec(request.body)?.[1] ?? 0);
        if (code) this.tell('transfer', { code });
        if (code >= 200 && code < 300) this.hangup('transferred');
        return;
      }
      case 'REFER':
        return this.referred(request, answer);
      case 'INFO':
      case 'OPTIONS':
        return answer(200, 'OK');
      default:
        return answer(501, 'Not Implemented');
    }
  }
}

/** The phone: connection, registration, and its calls. Events: state {state, why}, incoming {call}, referred {call}. */
export class Phone extends EventTarget {
  constructor({ server, domain, user, password, name = '', audio = true }) {
    super();
    Object.assign(this, { server, domain, user, password, name, audio });
    this.aor = `sip:${encodeURIComponent(user)}@${domain}`;
    this.identity = name ? `"${name.replace(/["\\]/g, '\\$&')}" <${this.aor}>` : `<${this.aor}>`;
    this.host = `${random(12)}.invalid`;
    this.contact = `<sip:${random(8)}@${this.host};transport=ws>`;
    this.instance = localStorage.getItem('tandem.instance') ?? crypto.randomUUID();
    localStorage.setItem('tandem.instance', this.instance);
    this.calls = new Set();
    this.waiting = new Map();
    this.tries = 0;
    this.counts = new Map();
    this.registerId = random(20);
    this.registerNumber = 0;
  }

  tell(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }
  address(target) { return /^sips?:/i.test(target) ? target : `sip:${encodeURIComponent(target.trim()).replace(/%2B/g, '+')}@${this.domain}`; }

  start() {
    this.stopped = false;
    this.connect();
  }

  async stop() {
    this.stopped = true;
    clearTimeout(this.timer);
    [...this.calls].forEach((call) => call.hangup());
    if (this.socket?.readyState === WebSocket.OPEN) await this.register(0).catch(() => {});
    this.socket?.close();
  }

  call(target, headers) {
    const call = new Call(this, false);
    this.calls.add(call);
    call.place(target, headers);
    return call;
  }

  connect() {
    this.tell('state', { state: 'connecting' });
    const socket = new WebSocket(this.server, 'sip');
    this.socket = socket;
    socket.onopen = () => this.register(REGISTER_S).catch((error) => this.tell('state', { state: 'refused', why: error.message }));
    socket.onmessage = async ({ data }) => this.receive(typeof data === 'string' ? data : await data.text());
    socket.onclose = () => {
      if (this.socket !== socket) return;
      clearTimeout(this.timer);
      for (const { fail } of this.waiting.values()) fail(new Error('the connection is gone'));
      this.waiting.clear();
      this.tell('state', { state: 'disconnected' });
      if (this.stopped) return;
      this.timer = setTimeout(() => this.connect(), RECONNECT_MS[Math.min(this.tries, RECONNECT_MS.length - 1)]);
      this.tries += 1;
    };
  }

  async register(seconds) {
    let authorization;
    for (;;) {
      const request = this.request('REGISTER', `sip:${this.domain}`);
      request.add('From', `${this.identity};tag=${random(10)}`).add('To', `<${this.aor}>`).add('Call-ID', this.registerId);
      request.add('CSeq', `${++this.registerNumber} REGISTER`).add('Supported', 'path, outbound');
      request.add('Contact', `${this.contact};+sip.instance="<urn:uuid:${this.instance}>";reg-id=1;expires=${seconds}`);
      if (authorization) request.add(...authorization);
      const final = await this.ask(request);
      if ((final.code === 401 || final.code === 407) && !authorization) {
        authorization = this.authorize(final, 'REGISTER', request.uri);
        if (authorization) continue;
      }
      if (final.code >= 300) {
        if (final.code === 423) return this.register(Number(final.get('min-expires')) || REGISTER_S);
        const temporary = final.code === 408 || final.code >= 500;
        if (temporary && !this.stopped) this.timer = setTimeout(() => this.register(seconds).catch(() => {}), 20000);
        throw new Error(final.code === 401 || final.code === 403 ? 'user name or password is wrong' : `${final.code} ${final.reason}`);
      }
      if (seconds === 0) return;
      this.tries = 0;
      const own = final.all('contact').find((contact) => contact.includes(this.host));
      const granted = Number(/;\s*expires=(\d+)/i.exec(own ?? '')?.[1] ?? final.get('expires') ?? seconds);
      this.tell('state', { state: 'registered' });
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.register(REGISTER_S).catch((error) => {
        this.tell('state', { state: 'refused', why: error.message });
      }), granted * 750);
      return;
    }
  }

  request(method, uri) {
    const request = new Message(`${method} ${uri} SIP/2.0`);
    [request.method, request.uri] = [method, uri];
    request.get = (name) => request.headers.find(([known]) => known.toLowerCase() === name.toLowerCase())?.[1];
    request.all = (name) => request.headers.filter(([known]) => known.toLowerCase() === name.toLowerCase()).map(([, value]) => value);
    request.add('Via', `SIP/2.0/${this.server.startsWith('wss') ? 'WSS' : 'WS'} ${this.host};branch=${MAGIC}${random(16)}`);
    request.add('Max-Forwards', '70').add('Allow', ALLOW).add('User-Agent', 'tandem-agent');
    return request;
  }

  send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(message.text());
  }

  /** Sends a request; resolves with its final response. */
  ask(request, provisional) {
    return new Promise((done, fail) => {
      const key = `${branchOf({ get: () => request.get('Via') })} ${request.method}`;
      const late = () => {
        this.waiting.delete(key);
        fail(new Error('no answer'));
      };
      let timer = setTimeout(late, TRANSACTION_MS);
      const finish = (settle) => (value) => {
        clearTimeout(timer);
        settle(value);
      };
      this.waiting.set(key, {
        fail: finish(fail),
        take: (response) => {
          if (response.code < 200) {
            // Who rings may ring for long.
            if (request.method === 'INVITE') clearTimeout(timer);
            provisional?.(response);
            return;
          }
          this.waiting.delete(key);
          finish(done)(response);
        },
      });
      this.send(request);
    });
  }

  reply(request, code, reason, { tag, sdp } = {}) {
    const response = new Message(`SIP/2.0 ${code} ${reason}`);
    request.headers.filter(([name]) => name === 'via' || name === 'record-route').forEach(([name, value]) => response.add(name, value));
    const to = request.get('to');
    response.add('From', request.get('from')).add('To', tagOf(to) || !tag || code === 100 ? to : `${to};tag=${tag}`);
    response.add('Call-ID', request.get('call-id')).add('CSeq', request.get('cseq')).add('Contact', this.contact).add('Allow', ALLOW);
    if (sdp) {
      response.add('Content-Type', 'application/sdp');
      response.body = sdp;
    }
    this.send(response);
  }

  /** An answer to a challenge that we can compute (RFC 7616, MD5), or nothing. */
  authorize(response, method, uri) {
    const proxy = response.code === 407;
    for (const challenge of response.headers.filter(([name]) => name === (proxy ? 'proxy-authenticate' : 'www-authenticate'))) {
      const field = (name) => {
        const found = new RegExp(`(?:^|[\\s,])${name}\\s*=\\s*(?:"((?:[^"\\\\]|\\\\.)*)"|([^,\\s]+))`, 'i').exec(challenge[1]);
        return found?.[1] ?? found?.[2];
      };
      const [realm, nonce, opaque] = [field('realm'), field('nonce'), field('opaque')];
      if (!/^digest\s/i.test(challenge[1]) || !/^md5$/i.test(field('algorithm') ?? 'MD5') || nonce === undefined) continue;
      const count = (this.counts.get(nonce) ?? 0) + 1;
      this.counts.set(nonce, count);
      if (this.counts.size > 16) this.counts.delete(this.counts.keys().next().value);
      const [nc, cnonce] = [count.toString(16).padStart(8, '0'), random(16)];
      const qop = (field('qop') ?? '').split(',').map((text) => text.trim()).includes('auth');
      const secret = md5(`${this.user}:${realm}:${this.password}`);
      const what = md5(`${method}:${uri}`);
      const digest = md5(qop ? `${secret}:${nonce}:${nc}:${cnonce}:auth:${what}` : `${secret}:${nonce}:${what}`);
      const parts = [`username="${this.user}"`, `realm="${realm}"`, `nonce="${nonce}"`, `uri="${uri}"`, `response="${digest}"`, 'algorithm=MD5'];
      if (qop) parts.push(`cnonce="${cnonce}"`, 'qop=auth', `nc=${nc}`);
      if (opaque !== undefined) parts.push(`opaque="${opaque}"`);
      return [proxy ? 'Proxy-Authorization' : 'Authorization', `Digest ${parts.join(', ')}`];
    }
    return undefined;
  }

  receive(text) {
    const message = Message.parse(text);
    if (!message) return;
    if (message.code) {
      this.waiting.get(`${branchOf(message)} ${message.get('cseq').split(/\s+/)[1]}`)?.take(message);
      return;
    }
    const call = [...this.calls].find((known) => known.callId === message.get('call-id'));
    if (call) {
      call.handle(message).catch(() => {});
    } else if (message.method === 'INVITE' && !tagOf(message.get('to'))) {
      const made = new Call(this, true);
      this.calls.add(made);
      made.take(message);
      this.tell('incoming', { call: made });
    } else if (message.method === 'OPTIONS') {
      this.reply(message, 200, 'OK', { tag: random(10) });
    } else if (message.method !== 'ACK') {
      this.reply(message, 481, 'Call Does Not Exist', { tag: random(10) });
    }
  }
}

export const forTests = { md5, elements, Message };
