//! What a worker needs of a bridge.
//!
//! There is one real implementation, [`Bridge`], whose methods these are; tests and benches give the worker a core of
//! their own, to see the loop alone.

use crate::bridge::{Bridge, BridgeCommand, BridgeConfig, LegName, Output, Passed, Port, Shared};
use crate::leg::LocalLeg;
use crate::metrics::Metrics;
use crate::random::Random;
use crate::time::Instant;
use std::net::SocketAddr;

/// Two legs and the flows between them, or a stand-in. The methods are those of [`Bridge`].
#[doc(hidden)]
pub trait Core: Sized + 'static {
    /// What all cores of a worker share.
    type Shared: Clone + Send + 'static;

    /// See [`Bridge::open`].
    fn open(now: Instant, config: BridgeConfig, shared: &Self::Shared, random: Random) -> Self;
    /// See [`Bridge::local`].
    fn local(&self, leg: LegName) -> LocalLeg;
    /// See [`Bridge::fixed_peer`].
    fn fixed_peer(&self, _now: Instant, _leg: LegName) -> Option<SocketAddr> {
        None
    }
    /// See [`Bridge::destination`].
    fn destination(&self, _leg: LegName) -> Option<SocketAddr> {
        None
    }
    /// See [`Bridge::prefetch`].
    fn prefetch(&self, _port: Port, _step: usize) {}
    /// See [`Bridge::handle_datagram`].
    fn handle_datagram(
        &mut self,
        now: Instant,
        port: Port,
        from: SocketAddr,
        datagram: &mut [u8],
        metrics: &mut Metrics,
    );
    /// See [`Bridge::pass_datagram`].
    fn pass_datagram(
        &mut self,
        now: Instant,
        port: Port,
        from: SocketAddr,
        datagram: &mut [u8],
        _out: &mut [u8],
        metrics: &mut Metrics,
    ) -> Option<Passed> {
        self.handle_datagram(now, port, from, datagram, metrics);
        None
    }
    /// See [`Bridge::handle_command`].
    fn handle_command(&mut self, now: Instant, command: BridgeCommand);
    /// See [`Bridge::handle_timeout`].
    fn handle_timeout(&mut self, now: Instant);
    /// See [`Bridge::poll_output`].
    fn poll_output(&mut self, now: Instant, out: &mut [u8], metrics: &mut Metrics) -> Output;
    /// See [`Bridge::carries`].
    fn carries(&self) -> bool {
        true
    }
    /// See [`Bridge::set_complexity`].
    fn set_complexity(&mut self, _complexity: u8) {}
    /// See [`Bridge::is_ended`].
    fn is_ended(&self) -> bool;
}

impl Core for Bridge {
    type Shared = Shared;

    fn open(now: Instant, config: BridgeConfig, shared: &Shared, random: Random) -> Bridge {
        Bridge::open(now, config, shared, random)
    }

    fn local(&self, leg: LegName) -> LocalLeg {
        Bridge::local(self, leg)
    }

    fn fixed_peer(&self, now: Instant, leg: LegName) -> Option<SocketAddr> {
        Bridge::fixed_peer(self, now, leg)
    }

    fn destination(&self, leg: LegName) -> Option<SocketAddr> {
        Bridge::destination(self, leg)
    }

    fn prefetch(&self, port: Port, step: usize) {
        Bridge::prefetch(self, port, step);
    }

    fn handle_datagram(
        &mut self,
        now: Instant,
        port: Port,
        from: SocketAddr,
        datagram: &mut [u8],
        metrics: &mut Metrics,
    ) {
        Bridge::handle_datagram(self, now, port, from, datagram, metrics);
    }

    fn pass_datagram(
        &mut self,
        now: Instant,
        port: Port,
        from: SocketAddr,
        datagram: &mut [u8],
        out: &mut [u8],
        metrics: &mut Metrics,
    ) -> Option<Passed> {
        Bridge::pass_datagram(self, now, port, from, datagram, out, metrics)
    }

    fn handle_command(&mut self, now: Instant, command: BridgeCommand) {
        Bridge::handle_command(self, now, command);
    }

    fn handle_timeout(&mut self, now: Instant) {
        Bridge::handle_timeout(self, now);
    }

    fn poll_output(&mut self, now: Instant, out: &mut [u8], metrics: &mut Metrics) -> Output {
        Bridge::poll_output(self, now, out, metrics)
    }

    fn carries(&self) -> bool {
        Bridge::carries(self)
    }

    fn set_complexity(&mut self, complexity: u8) {
        Bridge::set_complexity(self, complexity);
    }

    fn is_ended(&self) -> bool {
        Bridge::is_ended(self)
    }
}
