//! WebRTC legs through whole calls, in virtual time: which DTLS library serves whom, and what a later offer changes.

#[allow(dead_code, reason = "each test file uses its part of the world")]
mod exchange_world;

use control::call::{EdgeRequest, NewSession};
use control::route::{DtlsBackend, MediaProfile};
use control::sip::SipCallId;
use control::trace::timeline::Step;
use engine::bridge::{BridgeEvent, BridgeId, LegConfig, LegName, LegRemote};
use engine::dtls::{DtlsRole, DtlsVersion, DtlsVersions};
use engine::error::{Cause, End, Side};
use engine::leg::LegEvent;
use engine::leg::webrtc::WebrtcChange;
use engine::sdp::{self, Codec, Description};
use engine::srtp::SrtpProfile;
use engine::worker::Event;
use exchange_world::{BOB, Offer, TRUNK_A, World};

const NUMBER: &str = "+447700900123";
const ALERT: &str = "peer sent a fatal alert: handshake_failure (40)";

impl World {
    fn session(&mut self, call_id: &str, to: Option<&str>, dtls: Option<DtlsBackend>) {
        let new = NewSession {
            call_id: call_id.to_owned(),
            sdp_offer: Offer::lite().sdp,
            from: Some("447700900123".to_owned()),
            to: to.map(str::to_owned),
            destination: Some("user:bob".to_owned()),
            dtls,
            ..NewSession::default()
        };
        self.gateway.handle_request(self.now, 1, EdgeRequest::New(Box::new(new)));
        self.run_ms(1_000);
    }

    fn only(&self) -> BridgeId {
        assert_eq!(self.bridges.len(), 1);
        *self.bridges.keys().next().unwrap()
    }

    fn versions(&self, leg: LegName) -> DtlsVersions {
        let LegConfig::Webrtc(config) = &self.only_bridge().configs[&leg] else { panic!("no webrtc leg") };
        config.versions
    }

    fn tell(&mut self, event: BridgeEvent) {
        let bridge = self.only();
        self.gateway.handle_engine(self.now, 0, Event::Bridge { bridge, event });
        self.drain();
    }

    /// The handshake of a leg fails with an alert, and the bridge with it.
    fn fail(&mut self, leg: LegName, text: &str) {
        let side = if leg == LegName::A { Side::A } else { Side::B };
        self.tell(BridgeEvent::EndDetail { leg, text: text.into() });
        let bridge = self.only();
        self.tell(BridgeEvent::Ended { end: End { side, cause: Cause::DtlsRefused }, stats: Default::default() });
        self.bridges.remove(&bridge);
        self.run_ms(2_000);
    }

    fn connect(&mut self, leg: LegName) {
        let event = LegEvent::DtlsConnected { version: DtlsVersion::V12, profile: SrtpProfile::AeadAes128Gcm };
        self.tell(BridgeEvent::Leg { leg, event });
    }

    fn said(&self, words: &str) -> bool {
        self.steps.iter().any(|(step, said)| *step == Step::Dtls && said.contains(words))
    }

    /// A re-INVITE with `sdp`; answers what the gateway answered, or `None` where it refused.
    fn reoffer(&mut self, text: &str, call: SipCallId, sdp: &str) -> Option<Description> {
        let now = self.now;
        self.phone(text).agent.reinvite(now, call, sdp);
        self.run_ms(1_000);
        let answer = self.phone(text).placed.get_mut(&call).unwrap().reanswers.pop().expect("an answer");
        answer.map(|answer| sdp::parse(&answer).unwrap())
    }

    fn last_change(&self) -> (LegName, WebrtcChange) {
        let (leg, remote) = self.only_bridge().remotes.last().unwrap();
        let LegRemote::WebrtcChange(change) = remote else { panic!("{remote:?}") };
        (*leg, change.clone())
    }
}

#[test]
fn a_number_whose_handshake_failed_for_its_suites_gets_the_other_library_with_its_next_call() {
    let mut world = World::new(31);
    world.session("c1", Some("15550100123"), None);
    assert_eq!(world.versions(LegName::A), DtlsVersions::V12);
    world.fail(LegName::A, ALERT);
    assert!(world.said("OpenSSL serves the next call"), "{:?}", world.steps);
    assert!(world.end_line().contains("handshake_failure"), "{}", world.end_line());

    world.session("other", Some("15550100124"), None);
    assert_eq!(world.versions(LegName::A), DtlsVersions::V12, "another number");
    world.settle();

    world.session("c2", Some("15550100123"), None);
    assert_eq!(world.versions(LegName::A), DtlsVersions::OpenSsl);
    world.connect(LegName::A);
    assert!(world.said("DTLS 1.2 by OpenSSL (an earlier handshake failed)"), "{:?}", world.steps);
    world.settle();

    // It does not serve either: no better than the other, which costs less.
    world.session("c3", Some("15550100123"), None);
    world.fail(LegName::A, "no shared cipher");
    world.session("c4", Some("15550100123"), None);
    assert_eq!(world.versions(LegName::A), DtlsVersions::V12);
    world.settle();
}

#[test]
fn what_is_written_about_a_session_is_neither_learned_nor_forgotten() {
    let mut world = World::new(32);
    world.session("c1", None, Some(DtlsBackend::Openssl));
    assert_eq!(world.versions(LegName::A), DtlsVersions::OpenSsl);
    world.fail(LegName::A, "no shared cipher");
    world.session("c2", None, Some(DtlsBackend::Dimpl));
    assert_eq!(world.versions(LegName::A), DtlsVersions::V12);
    world.fail(LegName::A, ALERT);
    assert!(!world.said("next call"), "{:?}", world.steps);
    world.session("c3", None, None);
    assert_eq!(world.versions(LegName::A), DtlsVersions::V12);
    world.settle();
}

#[test]
fn a_trunk_with_webrtc_media_is_served_as_written_or_as_learned() {
    for (backend, first, second) in [
        (DtlsBackend::Auto, DtlsVersions::V12, DtlsVersions::OpenSsl),
        (DtlsBackend::Dimpl, DtlsVersions::V12, DtlsVersions::V12),
        (DtlsBackend::Openssl, DtlsVersions::OpenSsl, DtlsVersions::OpenSsl),
    ] {
        let mut world = World::with(33, |routes| {
            routes.trunks[0].media = MediaProfile::Webrtc;
            routes.trunks[0].dtls_backend = backend;
        });
        for expected in [first, second] {
            world.dial(BOB, NUMBER, Offer::rtp(&[Codec::Opus]));
            world.run_ms(2_000);
            assert_eq!(world.versions(LegName::B), expected, "{backend:?}");
            world.fail(LegName::B, ALERT);
        }
        assert_eq!(world.said("trunk a: the handshake failed: OpenSSL serves"), backend == DtlsBackend::Auto);
        // The other way round it is the same trunk.
        world.dial(TRUNK_A, "bob", Offer::browser());
        world.run_ms(1_000);
        let inbound = match backend {
            DtlsBackend::Openssl => DtlsVersions::OpenSsl,
            _ => DtlsVersions::Auto,
        };
        assert_eq!(world.versions(LegName::A), inbound, "{backend:?}");
        world.settle();
    }
}

#[test]
fn a_softphones_failed_handshake_is_remembered_for_its_user() {
    let mut world = World::new(34);
    world.dial(BOB, NUMBER, Offer::browser());
    world.run_ms(2_000);
    assert_eq!(world.versions(LegName::A), DtlsVersions::Auto);
    world.fail(LegName::A, "security error: no cipher suite in common");
    world.dial(BOB, NUMBER, Offer::browser());
    world.run_ms(2_000);
    assert_eq!(world.versions(LegName::A), DtlsVersions::OpenSsl);
    world.settle();
}

#[test]
fn an_ice_restart_in_a_re_invite_gets_credentials_of_its_own() {
    let mut world = World::new(35);
    let call = world.dial(BOB, NUMBER, Offer::browser());
    world.run_ms(2_000);
    let first = world.answer(BOB, call);
    let restart =
        Offer::browser().sdp.replace("a=ice-ufrag:abcd", "a=ice-ufrag:wxyz").replace(&"p".repeat(24), &"r".repeat(24));
    let answer = world.reoffer(BOB, call, &restart).expect("served");
    let (ours, before) = (answer.ice.clone().unwrap(), first.ice.unwrap());
    assert!(ours.ufrag != before.ufrag && ours.pwd != before.pwd, "RFC 8839 §4.4.1.1.1: {ours:?}");
    assert!(ours.lite && answer.setup == first.setup && answer.fingerprint == first.fingerprint);
    let (leg, change) = world.last_change();
    assert_eq!((leg, change.ice.ufrag.as_str(), change.sending), (LegName::A, "wxyz", true));
    assert_eq!((change.credentials.ufrag, change.credentials.pwd), (ours.ufrag.clone(), ours.pwd));
    assert_eq!(change.dtls, DtlsRole::Server);
    // The same description again changes nothing.
    let again = world.reoffer(BOB, call, &restart).expect("served");
    assert_eq!(again.ice.unwrap().ufrag, ours.ufrag);
    world.settle();
}

#[test]
fn a_softphone_that_holds_keeps_its_ice_and_is_not_sent_to() {
    let mut world = World::new(36);
    let call = world.dial(BOB, NUMBER, Offer::browser());
    world.run_ms(2_000);
    let first = world.answer(BOB, call).ice.unwrap();
    for (direction, sending) in [("a=sendonly", false), ("a=inactive", false), ("a=sendrecv", true)] {
        let answer = world.reoffer(BOB, call, &Offer::browser().sdp.replace("a=sendrecv", direction)).expect("served");
        assert_eq!(answer.ice.unwrap(), first, "{direction}");
        let (leg, change) = world.last_change();
        assert_eq!(
            (leg, change.sending, change.credentials.ufrag.as_str()),
            (LegName::A, sending, first.ufrag.as_str())
        );
    }
    world.settle();
}

#[test]
fn another_certificate_may_bring_another_role_and_the_same_one_may_not() {
    let mut world = World::new(37);
    let call = world.dial(BOB, NUMBER, Offer::browser());
    world.run_ms(2_000);
    let passive = Offer::browser().sdp.replace("setup:actpass", "setup:passive");
    assert!(world.reoffer(BOB, call, &passive).is_none(), "the association goes on, and with it its roles");
    let answer =
        world.reoffer(BOB, call, &passive.replace(&["AB"; 32].join(":"), &["CD"; 32].join(":"))).expect("served");
    assert_eq!(answer.setup, Some(sdp::Setup::Active));
    let (_, change) = world.last_change();
    assert_eq!((change.dtls, change.fingerprint), (DtlsRole::Client, [0xcd; 32]));
    world.settle();
}

#[test]
fn a_lite_peer_may_restart_where_it_is_and_nowhere_else() {
    let mut world = World::new(38);
    let call = world.dial(BOB, NUMBER, Offer::lite());
    world.run_ms(2_000);
    let restart = Offer::lite().sdp.replace("a=ice-ufrag:abcd", "a=ice-ufrag:wxyz");
    let moved = restart.replace("203.0.113.49 3480", "203.0.113.50 3480");
    let full = restart.replace("a=ice-lite\r\n", "");
    let changes = world.only_bridge().remotes.len();
    for refused in [moved, full] {
        assert!(world.reoffer(BOB, call, &refused).is_none(), "{refused}");
    }
    assert_eq!(world.only_bridge().remotes.len(), changes, "nothing changed");
    assert!(!world.reoffer(BOB, call, &restart).expect("served").ice.unwrap().lite);
    assert_eq!(world.last_change().1.ice.ufrag, "wxyz");
    world.settle();
}
