//! RTP and RTCP on an even/odd pair of ports, or muxed; plain, or SRTP by SDES (`sdes.rs`).
//!
//! There is nothing to set up: a leg can send from its peer's description on. What it must survive is a description that is
//! wrong (a private address behind a NAT: latching), one that changes (re-INVITE: new address, hold) and a source that changes
//! under it (SSRC after a transfer). Our SSRC, sequence and timestamps go on through all of that.
//!
//! Why it follows its peer's packets rather than its words, and how far: `latch.rs`.

use super::latch::{Latch, Origin};
use super::sdes::Contexts;
use super::stream::Stream;
use super::{Component, LegEvent, LegOutput, LegStats, LocalLeg, MediaFormat, Received};
use crate::demux::{self, Class};
use crate::error::{Cause, DropReason};
use crate::limits::MEDIA_MS_MAX;
use crate::prefetch::{prefetch, prefetch_held};
use crate::random::Random;
use crate::rtp::header::RtpPacket;
use crate::rtp::rtcp::ReportBlock;
use crate::srtp::SrtpKeys;
use crate::time::{Instant, WallAnchor};
use std::mem::offset_of;
use std::net::SocketAddr;

/// How an rtp leg behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtpConfig {
    /// The peer's description; `None` while our offer is out.
    pub remote: Option<RtpRemote>,
}

/// The peer's half, by its SDP. A later one replaces it (re-INVITE: new address, hold).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtpRemote {
    /// Where RTP goes.
    pub address: SocketAddr,
    /// Where RTCP goes: `a=rtcp`, else port + 1; the RTP address when muxed.
    pub rtcp_address: SocketAddr,
    /// Whether RTCP is muxed.
    pub rtcp_mux: bool,
    /// What was negotiated.
    pub format: MediaFormat,
    /// Whether the peer wants to receive (its direction is sendrecv or recvonly).
    pub sending: bool,
    /// Both keys where the profile is RTP/SAVP or RTP/SAVPF (SDES); `None`: plain RTP. Unchanged keys keep their contexts.
    pub srtp: Option<SrtpKeys>,
}

/// An rtp leg. Whom it listens to, and where it sends, says the table in `latch.rs`.
pub struct RtpLeg {
    remote: Option<Remote>,
    /// Of an SDES leg.
    srtp: Option<Box<Contexts>>,
    stream: Stream,
    phase: Phase,
    /// Nothing may be sent yet, RTCP included.
    hold: bool,
}

/// The peer's description, and what was seen beside it.
struct Remote {
    described: RtpRemote,
    since: Instant,
    latch: Latch,
    /// Where RTCP goes: as described, until the peer's RTCP comes from elsewhere.
    rtcp_to: SocketAddr,
}

/// Where the leg is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// `Ended` was said; only the goodbye is left.
    Ended,
    /// RTCP BYE is next.
    Bye,
    Closed,
}

impl RtpLeg {
    /// Draws SSRC, sequence and timestamp from `random`.
    pub fn new(now: Instant, config: RtpConfig, anchor: WallAnchor, mut random: Random) -> RtpLeg {
        let stream = Stream::new(now, anchor, &mut random);
        let mut leg = RtpLeg { remote: None, srtp: None, stream, phase: Phase::Open, hold: false };
        if let Some(remote) = config.remote {
            leg.set_remote(now, remote);
        }
        leg
    }

    /// Asks for the memory that a packet of the peer needs.
    pub(super) fn prefetch_received(&self) {
        prefetch(&self.phase);
        prefetch(&self.srtp);
        prefetch_held(&self.remote, offset_of!(Remote, latch), size_of::<Latch>());
        prefetch_held(&self.remote, offset_of!(Remote, described) + offset_of!(RtpRemote, rtcp_mux), size_of::<bool>());
        self.stream.prefetch_received();
        self.stream.notices.prefetch();
    }

    /// Asks for the memory that a packet to the peer needs.
    pub(super) fn prefetch_sent(&self) {
        prefetch(&self.phase);
        prefetch(&self.srtp);
        prefetch_held(&self.remote, offset_of!(Remote, latch), size_of::<Latch>());
        prefetch_held(&self.remote, offset_of!(Remote, described) + offset_of!(RtpRemote, sending), size_of::<bool>());
        self.stream.prefetch_sent();
        self.stream.notices.prefetch();
    }

    /// Asks for the keys of an SDES leg.
    pub(super) fn prefetch_keys(&self, is_received: bool) {
        if let Some(contexts) = &self.srtp {
            contexts.prefetch(is_received);
        }
    }

    /// What to write into our description (port 0).
    pub fn local(&self) -> LocalLeg {
        LocalLeg::Rtp { ssrc: self.stream.ssrc(), port: 0 }
    }

    /// The peer's description, first or changed.
    pub fn set_remote(&mut self, now: Instant, remote: RtpRemote) {
        self.stream.set_format(remote.format);
        self.stream.forget_bye();
        self.srtp = match (self.srtp.take(), remote.srtp.clone()) {
            (Some(mut contexts), Some(keys)) => {
                contexts.change(now, keys);
                Some(contexts)
            }
            (_, keys) => keys.map(|keys| Box::new(Contexts::new(keys))),
        };
        let rtcp_to = if remote.rtcp_mux { remote.address } else { remote.rtcp_address };
        let mut next = Remote { latch: Latch::new(remote.address), described: remote, since: now, rtcp_to };
        if let Some(before) = &self.remote {
            next.latch = before.latch.clone();
            next.latch.redescribe(now, next.described.address);
            let is_same = before.described.address == next.described.address
                && before.described.rtcp_address == next.described.rtcp_address
                && before.described.rtcp_mux == next.described.rtcp_mux;
            if is_same {
                next.rtcp_to = before.rtcp_to; // hold, or another codec: the peer is where it was
            }
        }
        self.remote = Some(next);
    }

    /// What was negotiated.
    pub fn format(&self) -> Option<&MediaFormat> {
        self.stream.format()
    }

    /// The one address that may be heard at the RTP socket now, which may be connected to it. Not where keys prove a packet: whoever has
    /// them may come from anywhere. See the table in `latch.rs`.
    pub fn fixed_peer(&self, now: Instant) -> Option<SocketAddr> {
        let remote = self.remote.as_ref().filter(|_| self.srtp.is_none() && self.phase == Phase::Open)?;
        let peer = remote.latch.only_source(now)?;
        (!remote.described.rtcp_mux || remote.rtcp_to == peer).then_some(peer)
    }

    /// Where its RTP goes, once the peer is described.
    pub fn destination(&self) -> Option<SocketAddr> {
        self.remote.as_ref().map(|remote| remote.latch.whereabouts())
    }

    /// Takes one datagram.
    pub fn handle_datagram<'p>(
        &mut self,
        now: Instant,
        component: Component,
        from: SocketAddr,
        datagram: &'p mut [u8],
    ) -> Received<'p> {
        if self.phase != Phase::Open {
            return Received::Consumed;
        }
        let is_mux = self.remote.as_ref().is_some_and(|remote| remote.described.rtcp_mux);
        let dropped = match (component, demux::classify(datagram)) {
            (Component::Rtp, Class::Rtp) => match self.handle_rtp(now, from, datagram) {
                Ok(Some(packet)) => return Received::Rtp(packet),
                Ok(None) => return Received::Consumed,
                Err(reason) => reason,
            },
            (Component::Rtp, Class::Rtcp) if !is_mux => DropReason::RtpPayloadType,
            (_, Class::Rtcp) => match self.handle_rtcp(now, from, datagram) {
                Ok(()) => return Received::Consumed,
                Err(reason) => reason,
            },
            _ => DropReason::NotMultiplexed,
        };
        Received::Dropped(self.stream.dropped(dropped))
    }

    fn handle_rtp<'p>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &'p mut [u8],
    ) -> Result<Option<RtpPacket<'p>>, DropReason> {
        let remote = self.remote.as_mut().ok_or(DropReason::NotReady)?;
        // The SSRC is in the clear in SRTP too.
        let ssrc = datagram.get(8..12).map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        let is_same_stream = ssrc.is_some() && ssrc == self.stream.peer_ssrc();
        let origin = remote.latch.judge(now, from, self.srtp.is_some(), is_same_stream);
        if origin == Origin::Stranger {
            return Err(DropReason::UnknownSource);
        }
        let len = match &mut self.srtp {
            Some(contexts) => contexts.open_rtp(now, datagram)?,
            None => datagram.len(),
        };
        let packet = match self.stream.receive(now, &datagram[..len]) {
            Err(DropReason::RtpPayloadType) if origin == Origin::Known || self.srtp.is_some() => {
                self.stream.keep_alive(now);
                return Err(DropReason::RtpPayloadType);
            }
            received => received?,
        };
        if remote.latch.accept(now, from, origin) {
            let described = &remote.described;
            remote.rtcp_to = match (described.rtcp_mux, from == described.address) {
                (true, _) => from,
                (false, true) => described.rtcp_address,
                (false, false) => rtcp_of(described, from),
            };
            self.stream.notices.push(LegEvent::Latched(from));
        }
        Ok(packet)
    }

    /// RTCP counts from the described address, or from the host that RTP comes from; replies follow it (RFC 4961 §4).
    /// Where it is authenticated, the address says nothing.
    fn handle_rtcp(&mut self, now: Instant, from: SocketAddr, datagram: &mut [u8]) -> Result<(), DropReason> {
        let remote = self.remote.as_mut().ok_or(DropReason::NotReady)?;
        let is_known = from == remote.rtcp_to
            || from == remote.described.rtcp_address
            || from.ip() == remote.latch.whereabouts().ip();
        let len = match &mut self.srtp {
            Some(contexts) => contexts.open_rtcp(now, datagram)?,
            None if is_known => datagram.len(),
            None => return Err(DropReason::UnknownSource),
        };
        self.stream.receive_rtcp(now, &datagram[..len])?;
        remote.rtcp_to = from;
        Ok(())
    }

    /// Call when the instant of the last `Timeout` has come. Everything due is found by `poll_output`.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// Call until `Timeout`.
    pub fn poll_output(&mut self, now: Instant, out: &mut [u8]) -> LegOutput {
        loop {
            if let Some(event) = self.stream.notices.pop() {
                return LegOutput::Event(event);
            }
            let output = match self.phase {
                Phase::Open => self.poll_open(now, out),
                Phase::Bye => self.poll_bye(now, out),
                Phase::Ended | Phase::Closed => Some(LegOutput::Timeout(Instant::NEVER)),
            };
            if let Some(output) = output {
                return output;
            }
        }
    }

    /// One step of an open leg; `None` when something changed and there is more to look at.
    fn poll_open(&mut self, now: Instant, out: &mut [u8]) -> Option<LegOutput> {
        if self.remote.is_none() {
            return Some(LegOutput::Timeout(Instant::NEVER));
        }
        if self.bye_deadline() <= now {
            return self.end(Cause::RtcpBye);
        }
        if self.media_deadline() <= now {
            return self.end(Cause::MediaTimeout);
        }
        // RFC 3264 §8.4: a stream that its peer holds keeps its RTCP.
        let report = if self.hold { Instant::NEVER } else { self.stream.report_deadline() };
        if report <= now {
            let len = self.stream.write_report(now, out);
            return self.transmit_rtcp(out, len);
        }
        let deadline = report.min(self.bye_deadline()).min(self.media_deadline());
        Some(LegOutput::Timeout(deadline))
    }

    fn poll_bye(&mut self, now: Instant, out: &mut [u8]) -> Option<LegOutput> {
        self.phase = Phase::Closed;
        if !self.stream.has_spoken() {
            return None;
        }
        let len = self.stream.write_bye(now, out);
        self.transmit_rtcp(out, len)
    }

    fn transmit_rtcp(&mut self, out: &mut [u8], len: usize) -> Option<LegOutput> {
        let remote = self.remote.as_ref()?;
        let len = match &mut self.srtp {
            Some(contexts) => contexts.seal_rtcp(out, len).ok()?,
            None => len,
        };
        let component = if remote.described.rtcp_mux { Component::Rtp } else { Component::Rtcp };
        Some(LegOutput::Transmit { component, to: remote.rtcp_to, len })
    }

    fn end(&mut self, cause: Cause) -> Option<LegOutput> {
        self.phase = Phase::Ended;
        self.stream.notices.push(LegEvent::Ended(cause));
        None
    }

    /// When the peer's BYE takes effect. A peer on hold says it about the stream that it gave up (some clients make a new one
    /// at every re-INVITE): its dialog's BYE would end the call.
    fn bye_deadline(&self) -> Instant {
        match &self.remote {
            Some(remote) if remote.described.sending => self.stream.bye_deadline(),
            _ => Instant::NEVER,
        }
    }

    /// When the peer counts as gone. A peer that put us on hold owes nothing: its dialog's timers watch over it.
    fn media_deadline(&self) -> Instant {
        match &self.remote {
            Some(remote) if remote.described.sending && !self.hold => {
                self.stream.heard().map_or(remote.since, |heard| heard.max(remote.since)).plus_millis(MEDIA_MS_MAX)
            }
            _ => Instant::NEVER,
        }
    }

    /// Whether `send` would send.
    pub fn can_send(&self) -> bool {
        let wanted = self.remote.as_ref().is_some_and(|remote| remote.described.sending);
        self.phase == Phase::Open && !self.hold && wanted
    }

    /// Nothing goes out until the release, RTCP included: WhatsApp takes the first packet for the answer.
    pub fn hold(&mut self) {
        self.hold = true;
    }

    /// Ends the hold; from now on the peer owes packets.
    pub fn release(&mut self, now: Instant) {
        if std::mem::take(&mut self.hold)
            && let Some(remote) = &mut self.remote
        {
            remote.since = now;
        }
    }

    /// Our RTP stream.
    pub fn sender(&mut self) -> &mut crate::rtp::sender::RtpSender {
        &mut self.stream.sender
    }

    /// Where `packet[..len]`, written by `sender`, goes; on an SDES leg it is protected in place first.
    pub fn send(&mut self, _now: Instant, packet: &mut [u8], len: usize) -> Option<(SocketAddr, usize)> {
        if !self.can_send() {
            return None;
        }
        let to = self.remote.as_ref()?.latch.whereabouts();
        let len = match &mut self.srtp {
            Some(contexts) => contexts.seal_rtp(packet, len).ok()?,
            None => len,
        };
        self.stream.sent();
        Some((to, len))
    }

    /// Whether `poll_output` has an event to tell.
    pub(super) fn has_notices(&self) -> bool {
        !self.stream.notices.is_empty()
    }

    /// Says goodbye: RTCP BYE is queued for `poll_output`.
    pub fn close(&mut self, _now: Instant) {
        if matches!(self.phase, Phase::Open | Phase::Ended) {
            self.phase = Phase::Bye;
        }
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
        self.stream.stats()
    }
}

/// Where RTCP of a peer that was latched goes until its own RTCP says better: a NAT that moved the host moved both ports.
fn rtcp_of(described: &RtpRemote, rtp: SocketAddr) -> SocketAddr {
    if rtp.ip() == described.address.ip() {
        described.rtcp_address
    } else {
        SocketAddr::new(rtp.ip(), rtp.port().wrapping_add(1))
    }
}
