// One way to use every library: window.open(library, {ws, user, password, domain}), then phone.call(target), phone.answer() and so on.
// phone.log lists what happened, in order.
'use strict';

window.phone = { log: [], failures: [] };
const said = (text) => window.phone.log.push(text);
const sound = { audio: true, video: false };
const none = { iceServers: [] };
// Restarts ICE by a re-INVITE and says whether the other side took part.
const restart = (peer, renegotiate) => {
  const ufrag = () => /a=ice-ufrag:(.*)/.exec(peer.remoteDescription.sdp)[1];
  const before = ufrag();
  renegotiate(() => said(ufrag() === before ? 'restart ignored' : 'restarted'));
};

function jssip({ ws, user, password, domain, headers = [] }) {
  const { JsSIP } = window;
  let session;
  const ua = new JsSIP.UA({ sockets: [new JsSIP.WebSocketInterface(ws)], uri: `sip:${user}@${domain}`, password, register: true });
  const hook = (made) => {
    session = made;
    made.on('progress', () => said('progress'));
    made.on('confirmed', () => said('confirmed'));
    made.on('hold', ({ originator }) => said(`hold ${originator}`));
    made.on('unhold', ({ originator }) => said(`unhold ${originator}`));
    made.on('ended', ({ originator, cause }) => said(`ended ${originator} ${cause}`));
    made.on('failed', ({ originator, cause, message }) => said(`failed ${originator} ${cause} ${message?.status_code ?? ''}`));
  };
  ua.on('registered', () => said('registered'));
  ua.on('unregistered', () => said('unregistered'));
  ua.on('registrationFailed', ({ cause }) => said(`registration failed ${cause}`));
  ua.on('disconnected', () => said('disconnected'));
  ua.on('newRTCSession', ({ originator, session: made }) => {
    hook(made);
    if (originator === 'remote') said(`incoming ${made.remote_identity.uri.user} ${made.remote_identity.display_name ?? ''}`);
  });
  ua.start();
  // JsSIP says "hold" when it asks, and takes no other wish (false) before that is answered.
  const once = (wish) => { if (!wish()) setTimeout(() => once(wish), 50); };
  const options = { mediaConstraints: sound, pcConfig: none, extraHeaders: headers };
  Object.assign(window.phone, {
    call: (target) => { ua.call(target, options); },
    answer: () => session.answer(options),
    hangup: () => session.terminate(),
    reject: () => session.terminate({ status_code: 486 }),
    hold: () => once(() => session.hold()),
    unhold: () => once(() => session.unhold()),
    restart: () => restart(session.connection, (done) => once(() => session.renegotiate({ rtcOfferConstraints: { iceRestart: true } }, done))),
    digit: (key) => session.sendDTMF(key, { transportType: 'RFC2833' }),
    transfer: (target) => {
      session.refer(target, {
        eventHandlers: {
          requestSucceeded: () => said('refer accepted'),
          requestFailed: ({ cause }) => said(`refer failed ${cause}`),
          accepted: () => { said('transferred'); session.terminate(); },
          failed: () => said('transfer failed'),
        },
      });
    },
    stop: () => ua.stop(),
  });
}

// SIP.js 0.21, and 0.20 as Browser-Phone uses it.
function sipjs(SIP, { ws, user, password, domain, bundlePolicy }) {
  let session;
  let registerer;
  const register = (onAccept) => registerer.register({
    requestDelegate: { onAccept, onReject: ({ message }) => said(`registration failed ${message.statusCode}`) },
  });
  const uri = (text) => SIP.UserAgent.makeURI(text.startsWith('sip:') ? text : `sip:${text}@${domain}`);
  const description = { constraints: sound };
  const hook = (made) => {
    session = made;
    made.stateChange.addListener((state) => {
      if (state === 'Established') said('confirmed');
      if (state === 'Terminated') said('ended');
    });
  };
  const ua = new SIP.UserAgent({
    uri: uri(`sip:${user}@${domain}`),
    authorizationUsername: user,
    authorizationPassword: password,
    transportOptions: { server: ws, keepAliveInterval: 0 },
    contactParams: { transport: 'wss' },
    hackIpInContact: Boolean(bundlePolicy),
    logLevel: 'warn',
    sessionDescriptionHandlerFactoryOptions: {
      peerConnectionConfiguration: { ...none, ...(bundlePolicy ? { bundlePolicy } : {}) },
      iceGatheringTimeout: 500,
    },
    delegate: {
      onInvite: (made) => {
        hook(made);
        said(`incoming ${made.remoteIdentity.uri.user} ${made.remoteIdentity.displayName ?? ''}`);
      },
      onDisconnect: (error) => {
        said('disconnected');
        // As Browser-Phone does: the connection again, then the registration.
        if (error) setTimeout(() => ua.reconnect().then(() => register(() => said('back'))), 500);
      },
    },
  });
  const held = (on) => {
    const modifiers = on ? [window.SIPWeb?.holdModifier ?? ((d) => Promise.resolve({ ...d, sdp: d.sdp.replace(/a=sendrecv/g, 'a=sendonly') }))] : [];
    const options = { sessionDescriptionHandlerModifiers: modifiers };
    session.invite({ ...options, requestDelegate: { onAccept: () => said(on ? 'hold local' : 'unhold local'), onReject: () => said('hold failed') } });
  };
  Object.assign(window.phone, {
    call: (target) => {
      const made = new SIP.Inviter(ua, uri(target), { sessionDescriptionHandlerOptions: description });
      hook(made);
      made.invite({
        requestDelegate: {
          onProgress: () => said('progress'),
          onReject: ({ message }) => said(`failed remote ${message.statusCode}`),
        },
      });
    },
    answer: () => session.accept({ sessionDescriptionHandlerOptions: description }),
    hangup: () => (session.state === 'Established' ? session.bye() : session.cancel?.() ?? session.reject()),
    reject: () => session.reject(),
    hold: () => held(true),
    unhold: () => held(false),
    restart: () => restart(session.sessionDescriptionHandler.peerConnection, (done) => session.invite({
      sessionDescriptionHandlerOptions: { offerOptions: { iceRestart: true } },
      // The answer is applied behind the event.
      requestDelegate: { onAccept: () => setTimeout(done, 500), onReject: () => said('restart failed') },
    })),
    digit: (key) => session.sessionDescriptionHandler.sendDtmf(key),
    transfer: (target) => session.refer(uri(target), {
      requestDelegate: { onAccept: () => said('refer accepted'), onReject: () => said('refer failed') },
      onNotify: (notification) => {
        const code = Number(/SIP\/2\.0 (\d+)/.exec(notification.request.body)?.[1]);
        notification.accept();
        if (code >= 200) said(code < 300 ? 'transferred' : 'transfer failed');
        if (code >= 200 && code < 300) session.bye();
      },
    }),
    drop: () => ua.transport._ws.close(4000, 'the network is gone'),
    stop: () => ua.stop(),
  });
  ua.start().then(() => {
    registerer = new SIP.Registerer(ua, { expires: 300 });
    registerer.stateChange.addListener((state) => said(state === 'Registered' ? 'registered' : `registerer ${state}`));
    return register();
  }).catch((error) => said(`failed ${error.message}`));
}

window.addEventListener('error', (event) => window.phone.failures.push(String(event.message)));
window.addEventListener('unhandledrejection', (event) => window.phone.failures.push(String(event.reason?.stack ?? event.reason)));
window.openPhone = (library, settings) => {
  if (library === 'jssip') jssip(settings);
  if (library === 'sipjs') sipjs(window.SIP, settings);
  // As Browser-Phone 0.3 sets it up.
  if (library === 'sipjs20') sipjs(window.SIP20, { ...settings, bundlePolicy: 'balanced' });
};
