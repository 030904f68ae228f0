//! ICE, then DTLS, then SRTP on one socket.
//!
//! ```text
//!  set_remote ──► ICE checks ──nominated──► DTLS ──connected──► keys: RTP and RTCP, unless held
//!      │              │                      │                    │
//!      └── early DTLS waits ─────────────────┘                    └── BYE, consent, silence ──► Ended
//! ```
//!
//! RTCP is always muxed. A leg that is held does everything but speak: neither RTP nor RTCP leaves before `release`, since
//! WhatsApp's clients take the first media packet for the accept.
//!
//! Why DTLS waits for nomination: the library's clients die of any stray first datagram, so a session sees only what comes
//! from the one address that ICE has proven. A ClientHello that overtakes the nominating check is kept, not lost: its
//! retransmission would cost the caller a second of silence.

use super::stream::Stream;
use super::{
    CLOSE_GRACE_MS, Component, LegEvent, LegOutput, LegStats, LocalLeg, MediaFormat, PATH_SILENT_MS,
    PATH_UNCONSENTED_MS, Received,
};
use crate::demux::{self, Class};
use crate::dtls::{DtlsOutput, DtlsRole, DtlsSession, DtlsVersions, Identity};
use crate::error::{Cause, DropReason};
use crate::ice::{IceAgent, IceCredentials, IceOutput, IceRole};
use crate::limits::MEDIA_MS_MAX;
use crate::prefetch::{prefetch, prefetch_held};
use crate::random::Random;
use crate::rtp::header::RtpPacket;
use crate::rtp::rtcp::ReportBlock;
use crate::sdp::{Fingerprint, IceDescription};
use crate::srtp::{Protect, SrtpKeys, Unprotect};
use crate::time::{Instant, WallAnchor};
use std::mem::offset_of;
use std::net::SocketAddr;

/// DTLS datagrams kept before nomination: a ClientHello in two parts, and one retransmission's first. Past it the oldest goes.
const EARLY_DTLS_MAX: usize = 3;

/// The deadline of a part that changed and has to be asked at once.
const DUE: Instant = Instant::ZERO;

/// How a webrtc leg behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebrtcConfig {
    /// Our ICE role.
    pub ice: IceRole,
    /// Versions to speak.
    pub versions: DtlsVersions,
    /// Our ufrag and pwd; `None`: drawn, 8 and 24 characters.
    pub credentials: Option<IceCredentials>,
    /// Whether RTP and RTCP wait for `release` (WhatsApp before accept). ICE and DTLS run all the same.
    pub hold: bool,
    /// The peer's description; `None` when the offer is ours and the answer comes later.
    pub remote: Option<WebrtcRemote>,
}

/// The peer's half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebrtcRemote {
    /// Credentials and candidates.
    pub ice: IceDescription,
    /// SHA-256 of its certificate.
    pub fingerprint: Fingerprint,
    /// Our DTLS role.
    pub dtls: DtlsRole,
    /// What was negotiated.
    pub format: MediaFormat,
}

/// What a later description of the peer says (re-INVITE); toward WhatsApp there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebrtcChange {
    /// The peer's credentials and candidates: others than before restart ICE (RFC 8445 §9). Media stays on the pair before
    /// until another is nominated.
    pub ice: IceDescription,
    /// Ours: new ones where the peer's are (RFC 8839 §4.4.1.1.1), else those before.
    pub credentials: IceCredentials,
    /// SHA-256 of the peer's certificate: another one begins a new DTLS association (RFC 8842 §4).
    pub fingerprint: Fingerprint,
    /// Our DTLS role.
    pub dtls: DtlsRole,
    /// What was negotiated.
    pub format: MediaFormat,
    /// Whether the peer wants to receive (its direction is sendrecv or recvonly).
    pub sending: bool,
}

/// A webrtc leg.
pub struct WebrtcLeg {
    ice: IceAgent,
    /// The agent before an ICE restart, until the pair of the new one is nominated.
    ice_before: Option<Box<IceAgent>>,
    /// The agent of a restart that we have offered: it answers checks, and waits for the peer's description.
    ice_offered: Option<Box<IceAgent>>,
    /// When the agent wants its turn; `DUE` while it has something to say.
    ice_deadline: Instant,
    identity: Identity,
    versions: DtlsVersions,
    /// The peer's certificate and our DTLS role, from its description.
    expected: Option<(Fingerprint, DtlsRole)>,
    /// Where everything goes.
    nominated: Option<SocketAddr>,
    /// A lite peer: we nominate, once, and it never moves.
    is_peer_lite: bool,
    early_dtls: Vec<(SocketAddr, Vec<u8>)>,
    dtls: Option<DtlsSession>,
    /// The same for the session. So a media packet costs neither of them a look.
    dtls_deadline: Instant,
    /// When the peer's close_notify ends the leg.
    closed_at: Instant,
    /// When `PathSilent` was said last.
    silence_told: Instant,
    keys: Option<Keys>,
    hold: bool,
    /// The peer does not want to receive: it has put us on hold.
    is_unwanted: bool,
    random: Random,
    stream: Stream,
    phase: Phase,
    /// RFC 7675 §5.1: without consent nothing may be sent, no goodbye either.
    is_mute: bool,
    /// What the DTLS library said about the end.
    end_detail: Option<Box<str>>,
}

/// What DTLS gave us.
struct Keys {
    since: Instant,
    /// The peer has protected something with its keys.
    is_confirmed: bool,
    protect: Protect,
    unprotect: Unprotect,
}

impl Keys {
    fn new(now: Instant, keys: &SrtpKeys) -> Keys {
        Keys {
            since: now,
            is_confirmed: false,
            protect: Protect::new(keys.profile, &keys.local),
            unprotect: Unprotect::new(keys.profile, &keys.remote),
        }
    }
}

/// Where the leg is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// `Ended` was said; only goodbyes are left.
    Ended,
    /// RTCP BYE is next.
    Bye,
    /// close_notify is next.
    Notify,
    Closed,
}

impl WebrtcLeg {
    /// Draws SSRC, credentials (unless they are given) and all else from `random`.
    pub fn new(
        now: Instant,
        config: WebrtcConfig,
        identity: &Identity,
        anchor: WallAnchor,
        mut random: Random,
    ) -> WebrtcLeg {
        let drawn = IceCredentials::draw(&mut random);
        let local = config.credentials.unwrap_or(drawn);
        let mut leg = WebrtcLeg {
            ice: IceAgent::new(now, config.ice, local, random.fork()),
            ice_before: None,
            ice_offered: None,
            ice_deadline: DUE,
            identity: identity.clone(),
            versions: config.versions,
            expected: None,
            nominated: None,
            is_peer_lite: false,
            early_dtls: Vec::with_capacity(EARLY_DTLS_MAX),
            dtls: None,
            dtls_deadline: Instant::NEVER,
            closed_at: Instant::NEVER,
            silence_told: Instant::ZERO,
            keys: None,
            hold: config.hold,
            is_unwanted: false,
            stream: Stream::new(now, anchor, &mut random),
            random,
            phase: Phase::Open,
            is_mute: false,
            end_detail: None,
        };
        if let Some(remote) = config.remote {
            leg.set_remote(now, remote);
        }
        leg
    }

    /// Asks for the memory that a packet of the peer needs.
    pub fn prefetch_received(&self) {
        self.prefetch_common();
        prefetch_held(&self.keys, offset_of!(Keys, is_confirmed), size_of::<bool>());
        prefetch_held(&self.keys, offset_of!(Keys, unprotect), Unprotect::FRONT_BYTES);
        self.stream.prefetch_received();
    }

    /// Asks for the memory that a packet to the peer needs.
    pub fn prefetch_sent(&self) {
        self.prefetch_common();
        prefetch(&self.is_unwanted);
        prefetch_held(&self.keys, offset_of!(Keys, protect), Protect::FRONT_BYTES);
        self.stream.prefetch_sent();
    }

    fn prefetch_common(&self) {
        prefetch(&self.phase);
        prefetch(&self.nominated);
        self.stream.notices.prefetch();
    }

    /// Asks for the keys of what is received or sent.
    pub fn prefetch_keys(&self, is_received: bool) {
        match (&self.keys, is_received) {
            (Some(keys), true) => keys.unprotect.prefetch_keys(),
            (Some(keys), false) => keys.protect.prefetch_keys(),
            (None, _) => {}
        }
    }

    /// What to write into our description (port 0).
    pub fn local(&self) -> LocalLeg {
        let IceCredentials { ufrag, pwd } = self.ice.local().clone();
        LocalLeg::Webrtc { ufrag, pwd, fingerprint: self.identity.fingerprint(), ssrc: self.stream.ssrc(), port: 0 }
    }

    /// Gives the peer's description to a leg that was made without; later calls are ignored: what changes comes as `change`.
    pub fn set_remote(&mut self, now: Instant, remote: WebrtcRemote) {
        if self.expected.is_some() {
            return;
        }
        self.expected = Some((remote.fingerprint, remote.dtls));
        self.is_peer_lite = remote.ice.lite;
        self.stream.set_format(remote.format);
        self.ice.set_remote(now, &remote.ice);
        self.ice_deadline = DUE;
        self.start_dtls(now);
    }

    /// A later description of the peer. Ignored before the first.
    pub fn change(&mut self, now: Instant, change: WebrtcChange) {
        let Some((fingerprint, _)) = self.expected else { return };
        self.stream.set_format(change.format);
        self.is_unwanted = !change.sending;
        let is_restart = change.credentials != *self.ice.local();
        if is_restart {
            let offered = self.ice_offered.take_if(|offered| *offered.local() == change.credentials);
            let agent = match offered {
                Some(offered) => *offered,
                None => IceAgent::new(now, self.ice.role(), change.credentials, self.random.fork()),
            };
            self.ice_before = Some(Box::new(core::mem::replace(&mut self.ice, agent)));
            self.ice.set_remote(now, &change.ice);
            self.ice_deadline = DUE;
        }
        if fingerprint != change.fingerprint {
            self.expected = Some((change.fingerprint, change.dtls));
            self.dtls = None;
            self.closed_at = Instant::NEVER;
            if !is_restart {
                self.start_dtls(now);
            }
        }
        // What was heard on the path before says nothing about the next.
        if let (true, Some(keys)) = (is_restart, &mut self.keys) {
            keys.since = now;
        }
    }

    /// Readies the leg for an ICE restart of ours before it is offered (RFC 8839 §4.4.1.1.1): checks toward `credentials` are
    /// answered from now on, as the peer's may come before its answer does. That comes as `change`, with the same ones. `None`: the
    /// offer was refused.
    pub fn offer_restart(&mut self, now: Instant, credentials: Option<IceCredentials>) {
        let role = self.ice.role();
        let agent = |local: IceCredentials| Box::new(IceAgent::new(now, role, local, self.random.fork()));
        self.ice_offered = credentials.map(agent);
        self.ice_deadline = DUE;
    }

    /// What was negotiated.
    pub fn format(&self) -> Option<&MediaFormat> {
        self.stream.format()
    }

    /// The ICE role in force: a conflict may have changed it.
    pub fn ice_role(&self) -> IceRole {
        self.ice.role()
    }

    /// The one address that this leg speaks with: its socket may be connected to it. Known once there are keys, toward a lite peer only,
    /// and while none is looked for anew: a full one may move.
    pub fn fixed_peer(&self) -> Option<SocketAddr> {
        let is_restarting = self.ice_before.is_some() || self.ice_offered.is_some();
        self.nominated.filter(|_| self.is_peer_lite && self.keys.is_some() && !is_restarting)
    }

    /// Where its media go, once a pair is nominated.
    pub fn destination(&self) -> Option<SocketAddr> {
        self.nominated
    }

    /// Our DTLS role, once the peer's description is here.
    pub fn dtls_role(&self) -> Option<DtlsRole> {
        self.expected.map(|(_, role)| role)
    }

    /// Takes one datagram; decrypts in place.
    pub fn handle_datagram<'p>(&mut self, now: Instant, from: SocketAddr, datagram: &'p mut [u8]) -> Received<'p> {
        if self.phase != Phase::Open {
            return Received::Consumed;
        }
        // RFC 7983 §7: the first byte decides, and nothing else does.
        let consumed = match demux::classify(datagram) {
            Class::Rtp => return self.handle_rtp(now, from, datagram),
            Class::Rtcp => self.handle_rtcp(now, from, datagram),
            Class::Stun => {
                self.ice_deadline = DUE;
                let others = [&mut self.ice_offered, &mut self.ice_before].into_iter().flatten();
                match others.map(Box::as_mut).find(|other| other.is_addressed_by(datagram)) {
                    Some(other) => other.handle_datagram(now, from, datagram),
                    None => self.ice.handle_datagram(now, from, datagram),
                }
            }
            Class::Dtls => self.handle_dtls(now, from, datagram),
            Class::Unknown => Err(DropReason::NotMultiplexed),
        };
        match consumed {
            Ok(()) => Received::Consumed,
            Err(reason) => Received::Dropped(self.stream.dropped(reason)),
        }
    }

    fn handle_rtp<'p>(&mut self, now: Instant, from: SocketAddr, datagram: &'p mut [u8]) -> Received<'p> {
        match self.unprotect_rtp(now, from, datagram) {
            Ok(Some(packet)) => Received::Rtp(packet),
            Ok(None) => Received::Consumed,
            Err(reason) => Received::Dropped(self.stream.dropped(reason)),
        }
    }

    fn unprotect_rtp<'p>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &'p mut [u8],
    ) -> Result<Option<RtpPacket<'p>>, DropReason> {
        let is_known = self.is_known_source(from);
        let keys = Self::keys_for(is_known, &mut self.keys)?;
        let len = keys.unprotect.rtp(datagram)?;
        let is_first = !core::mem::replace(&mut keys.is_confirmed, true);
        if is_first && let Some(session) = &mut self.dtls {
            // Whoever protects media has our last flight.
            session.confirm();
            self.dtls_deadline = DUE;
        }
        let received = self.stream.receive(now, &datagram[..len]);
        if received == Err(DropReason::RtpPayloadType) {
            self.stream.keep_alive(now);
        }
        received
    }

    fn handle_rtcp(&mut self, now: Instant, from: SocketAddr, datagram: &mut [u8]) -> Result<(), DropReason> {
        let is_known = self.is_known_source(from);
        let keys = Self::keys_for(is_known, &mut self.keys)?;
        let len = keys.unprotect.rtcp(datagram)?;
        self.stream.receive_rtcp(now, &datagram[..len])
    }

    /// Whether media from `from` is acceptable: a peer may send on any pair that is valid, nominated or not (RFC 8445
    /// §12.2), nobody else costs us a decryption.
    fn is_known_source(&self, from: SocketAddr) -> bool {
        let others =
            || [&self.ice_before, &self.ice_offered].into_iter().flatten().any(|ice| ice.is_known_source(from));
        self.nominated == Some(from) || self.ice.is_known_source(from) || others()
    }

    fn keys_for(is_known: bool, keys: &mut Option<Keys>) -> Result<&mut Keys, DropReason> {
        if !is_known {
            return Err(DropReason::UnknownSource);
        }
        keys.as_mut().ok_or(DropReason::NotReady)
    }

    fn handle_dtls(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Result<(), DropReason> {
        let is_known = self.is_known_source(from);
        match &mut self.dtls {
            Some(session) if self.nominated == Some(from) => {
                self.dtls_deadline = DUE;
                session.handle_datagram(now, datagram);
            }
            None if is_known => self.keep_early_dtls(from, datagram),
            _ => return Err(DropReason::DtlsUnexpected),
        }
        Ok(())
    }

    /// A ClientHello can overtake the check that nominates, and ours to answer may come before the peer's answer does.
    fn keep_early_dtls(&mut self, from: SocketAddr, datagram: &[u8]) {
        if self.early_dtls.len() == EARLY_DTLS_MAX {
            self.early_dtls.remove(0);
        }
        self.early_dtls.push((from, datagram.to_vec()));
    }

    /// Begins the handshake once there is an address to speak to and a fingerprint to expect.
    fn start_dtls(&mut self, now: Instant) {
        let (None, Some(address), Some((fingerprint, role))) = (&self.dtls, self.nominated, self.expected) else {
            return;
        };
        if self.closed_at != Instant::NEVER {
            return;
        }
        let mut session = DtlsSession::new(now, &self.identity, role, self.versions, fingerprint);
        for (from, datagram) in core::mem::take(&mut self.early_dtls) {
            if from == address {
                session.handle_datagram(now, &datagram);
            }
        }
        self.dtls = Some(session);
        self.dtls_deadline = DUE;
    }

    /// Call when the instant of the last `Timeout` has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.phase != Phase::Open {
            return;
        }
        if self.ice_deadline <= now {
            self.ice.handle_timeout(now);
            for other in [&mut self.ice_before, &mut self.ice_offered].into_iter().flatten() {
                other.handle_timeout(now);
            }
            self.ice_deadline = DUE;
        }
        if let Some(session) = self.dtls.as_mut().filter(|_| self.dtls_deadline <= now) {
            session.handle_timeout(now);
            self.dtls_deadline = DUE;
        }
    }

    /// Call until `Timeout`.
    pub fn poll_output(&mut self, now: Instant, out: &mut [u8]) -> LegOutput {
        loop {
            if let Some(event) = self.stream.notices.pop() {
                return LegOutput::Event(event);
            }
            let output = match self.phase {
                Phase::Open => self.poll_open(now, out),
                Phase::Bye => self.poll_bye(now, out),
                Phase::Notify => self.poll_notify(now, out),
                Phase::Ended | Phase::Closed => Some(LegOutput::Timeout(Instant::NEVER)),
            };
            if let Some(output) = output {
                return output;
            }
        }
    }

    /// One step of an open leg; `None` when something changed and there is more to look at.
    fn poll_open(&mut self, now: Instant, out: &mut [u8]) -> Option<LegOutput> {
        if self.ice_deadline <= now {
            let before = match self.poll_ice_before(now, out) {
                Ok(before) => before,
                Err(output) => return Some(output),
            };
            // Without the peer's description it has nothing but answers to give.
            if let Some(IceOutput::Transmit { to, len }) =
                self.ice_offered.as_mut().map(|ice| ice.poll_output(now, out))
            {
                return Some(transmit(to, len));
            }
            match self.ice.poll_output(now, out) {
                IceOutput::Transmit { to, len } => return Some(transmit(to, len)),
                IceOutput::Nominated(address) => {
                    self.nominated = Some(address);
                    self.ice_before = None;
                    self.stream.notices.push(LegEvent::IceNominated(address));
                    self.start_dtls(now);
                    return None;
                }
                IceOutput::Failed => return self.end(Cause::IceFailed),
                IceOutput::ConsentLost => return self.end(Cause::ConsentLost),
                IceOutput::Timeout(at) => self.ice_deadline = at.min(before),
            }
        }
        if let (Some(session), Some(to), true) = (&mut self.dtls, self.nominated, self.dtls_deadline <= now) {
            match session.poll_output(now, out) {
                DtlsOutput::Transmit(len) => return Some(transmit(to, len)),
                DtlsOutput::Connected { version, keys } => {
                    self.keys = Some(Keys::new(now, &keys));
                    self.stream.notices.push(LegEvent::DtlsConnected { version, profile: keys.profile });
                    return None;
                }
                DtlsOutput::Ended(cause) => {
                    self.end_detail = session.detail().map(Box::from);
                    self.dtls = None;
                    if cause != Cause::DtlsClosed {
                        return self.end(cause);
                    }
                    self.closed_at = now.plus_millis(CLOSE_GRACE_MS);
                    self.keys = None;
                }
                DtlsOutput::Timeout(at) => self.dtls_deadline = at,
            }
        }
        if self.closed_at <= now {
            return self.end(Cause::DtlsClosed);
        }
        if self.stream.bye_deadline() <= now {
            return self.end(Cause::RtcpBye);
        }
        if self.media_deadline() <= now {
            return self.end(Cause::MediaTimeout);
        }
        if self.silence_deadline() <= now {
            self.silence_told = now;
            self.stream.notices.push(LegEvent::PathSilent);
            return None;
        }
        if self.can_report() && self.stream.report_deadline() <= now {
            let len = self.stream.write_report(now, out);
            return self.transmit_rtcp(out, len);
        }
        Some(LegOutput::Timeout(self.deadline()))
    }

    /// The agent before a restart answers and asks for consent until the next one has a pair. What becomes of its own
    /// pair is no longer of interest: `self.ice` decides. Answers when it wants its turn again.
    fn poll_ice_before(&mut self, now: Instant, out: &mut [u8]) -> Result<Instant, LegOutput> {
        while let Some(before) = &mut self.ice_before {
            match before.poll_output(now, out) {
                IceOutput::Transmit { to, len } => return Err(transmit(to, len)),
                IceOutput::Nominated(address) => self.nominated = Some(address),
                IceOutput::Failed | IceOutput::ConsentLost => self.ice_before = None,
                IceOutput::Timeout(at) => return Ok(at),
            }
        }
        Ok(Instant::NEVER)
    }

    fn poll_bye(&mut self, now: Instant, out: &mut [u8]) -> Option<LegOutput> {
        self.phase = Phase::Notify;
        if let Some(session) = &mut self.dtls {
            session.close();
        }
        if self.is_mute || self.hold || !self.stream.has_spoken() {
            return None;
        }
        let len = self.stream.write_bye(now, out);
        self.transmit_rtcp(out, len)
    }

    fn poll_notify(&mut self, now: Instant, out: &mut [u8]) -> Option<LegOutput> {
        if let (Some(session), Some(to), false) = (&mut self.dtls, self.nominated, self.is_mute)
            && let DtlsOutput::Transmit(len) = session.poll_output(now, out)
        {
            return Some(transmit(to, len));
        }
        self.phase = Phase::Closed;
        None
    }

    fn transmit_rtcp(&mut self, out: &mut [u8], len: usize) -> Option<LegOutput> {
        let len = self.keys.as_mut()?.protect.rtcp(out, len).ok()?;
        Some(transmit(self.nominated?, len))
    }

    fn end(&mut self, cause: Cause) -> Option<LegOutput> {
        self.is_mute = matches!(cause, Cause::ConsentLost | Cause::IceFailed);
        self.phase = Phase::Ended;
        self.stream.notices.push(LegEvent::Ended(cause));
        None
    }

    fn deadline(&self) -> Instant {
        let report = if self.can_report() { self.stream.report_deadline() } else { Instant::NEVER };
        let dtls = if self.dtls.is_some() { self.dtls_deadline } else { Instant::NEVER };
        let ends = self.closed_at.min(self.stream.bye_deadline()).min(self.media_deadline());
        self.ice_deadline.min(dtls).min(report).min(ends).min(self.silence_deadline())
    }

    /// When the peer counts as gone. Runs from the keys on; before them ICE and DTLS have limits of their own.
    fn media_deadline(&self) -> Instant {
        self.heard().map_or(Instant::NEVER, |heard| heard.plus_millis(MEDIA_MS_MAX))
    }

    /// When something last came, if there are keys; else what came before them.
    fn heard(&self) -> Option<Instant> {
        let keys = self.keys.as_ref()?;
        let heard = [self.stream.heard(), self.ice.last_heard()].into_iter().flatten();
        Some(heard.fold(keys.since, Instant::max))
    }

    /// When `PathSilent` is to be said.
    fn silence_deadline(&self) -> Instant {
        let Some(heard) = self.heard() else { return Instant::NEVER };
        let silent = heard.plus_millis(PATH_SILENT_MS);
        let consented = self.ice.consented_at().map_or(Instant::NEVER, |at| at.plus_millis(PATH_UNCONSENTED_MS));
        silent.min(consented).max(self.silence_told.plus_millis(PATH_SILENT_MS))
    }

    /// Whether `send` would send: keys are there and nothing is held, by us or by the peer.
    pub fn can_send(&self) -> bool {
        self.can_report() && !self.is_unwanted
    }

    /// RFC 3264 §8.4: what the peer holds keeps its RTCP.
    fn can_report(&self) -> bool {
        self.phase == Phase::Open && !self.hold && self.keys.is_some()
    }

    /// Ends the hold: from now on RTP and RTCP go out.
    pub fn release(&mut self, _now: Instant) {
        self.hold = false;
    }

    /// Holds: neither RTP nor RTCP goes out before `release`.
    pub fn hold(&mut self) {
        self.hold = true;
    }

    /// Our RTP stream; the flow that sends into this leg writes its headers with it.
    pub fn sender(&mut self) -> &mut crate::rtp::sender::RtpSender {
        &mut self.stream.sender
    }

    /// Protects `packet[..len]`, written by `sender`, in place. Answers the address and the new length, or `None` when
    /// the leg cannot send (the packet is then lost and its sequence number must not have been drawn: ask `can_send` first).
    pub fn send(&mut self, _now: Instant, packet: &mut [u8], len: usize) -> Option<(SocketAddr, usize)> {
        if !self.can_send() {
            return None;
        }
        let len = self.keys.as_mut()?.protect.rtp(packet, len).ok()?;
        self.stream.sent();
        Some((self.nominated?, len))
    }

    /// Whether `poll_output` has an event to tell.
    pub(super) fn has_notices(&self) -> bool {
        !self.stream.notices.is_empty()
    }

    /// Says goodbye: RTCP BYE (unless held) and close_notify are queued for `poll_output`.
    pub fn close(&mut self, _now: Instant) {
        if matches!(self.phase, Phase::Open | Phase::Ended) {
            self.phase = Phase::Bye;
        }
    }

    /// What the DTLS library said about this leg's end, once.
    pub fn take_end_detail(&mut self) -> Option<Box<str>> {
        self.end_detail.take()
    }

    /// The peer's last report about our stream, and when it came.
    pub fn remote_report(&self) -> Option<(ReportBlock, Instant)> {
        self.stream.remote_report()
    }

    /// What the peer that the received stream is relayed to reported of it, 256ths.
    pub fn set_downstream(&mut self, fraction_lost: u8, at: Instant) {
        self.stream.set_downstream(fraction_lost, at);
    }

    /// Counters.
    pub fn stats(&self) -> LegStats {
        let stats = self.stream.stats();
        LegStats { round_trip_ms: stats.round_trip_ms.or(self.ice.round_trip_ms()), ..stats }
    }
}

fn transmit(to: SocketAddr, len: usize) -> LegOutput {
    LegOutput::Transmit { component: Component::Rtp, to, len }
}
