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
use exchange_world::{BOB, Does, Offer, TRUNK_A, World};

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

    /// The engine hears nothing from the peer of a leg.
    fn silence(&mut self, leg: LegName) {
        self.tell(BridgeEvent::Leg { leg, event: LegEvent::PathSilent });
        self.run_ms(8_000);
    }

    fn noted(&self, words: &str) -> usize {
        self.steps.iter().filter(|(step, said)| *step == Step::IcePair && said.contains(words)).count()
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

#[test]
fn a_peer_from_which_nothing_comes_is_offered_an_ice_restart() {
    for (seed, leg) in [(39, LegName::A), (40, LegName::B)] {
        let mut world = World::with(seed, |routes| routes.trunks[0].media = MediaProfile::Webrtc);
        let offer = Offer::browser();
        let named = offer.sdp.replace("a=mid:0", "a=mid:sound");
        let call = world.dial(BOB, NUMBER, Offer { sdp: named, ..offer });
        world.run_ms(2_000);
        let before = world.answer(BOB, call);
        let phone = if leg == LegName::A { BOB } else { TRUNK_A };
        world.silence(leg);
        assert_eq!(world.phone(phone).offers_seen, 1);
        let bridge = world.only_bridge();
        let [(told, Some(ours))] = bridge.restarts.as_slice() else { panic!("{:?}", bridge.restarts) };
        let (changed, change) = world.last_change();
        assert_eq!((*told, changed, &change.credentials), (leg, leg, ours));
        assert_ne!(before.ice.unwrap().ufrag, ours.ufrag);
        // The played phone's credentials follow those of the offer.
        assert_eq!(change.ice.ufrag, format!("phone{}", ours.ufrag));
        assert!(change.sending && change.dtls == DtlsRole::Server && change.format.codec == Codec::Opus);
        assert_eq!((world.noted("an ICE restart is offered"), world.noted("ICE begins anew")), (1, 1));
        assert!(world.end(phone, call).is_none());

        // Nothing comes of it, however often it is tried; what comes back has all tries before it again.
        for _ in 0..5 {
            world.silence(leg);
        }
        assert_eq!(world.only_bridge().restarts.len(), 3);
        world.tell(BridgeEvent::Leg { leg, event: LegEvent::IceNominated("198.51.100.50:9".parse().unwrap()) });
        world.silence(leg);
        assert_eq!(world.only_bridge().restarts.len(), 4);
        world.settle();
    }
}

#[test]
fn what_the_caller_called_its_section_is_its_name_in_our_offer_too() {
    let mut world = World::new(41);
    let offer = Offer::browser();
    let named = offer.sdp.replace("a=mid:0", "a=mid:sound");
    let call = world.dial(BOB, NUMBER, Offer { sdp: named, ..offer });
    world.run_ms(2_000);
    let before = world.answer(BOB, call);
    world.silence(LegName::A);
    let sdp = world.phone(BOB).offers.pop().expect("an offer");
    let offer = sdp::parse(&sdp).unwrap();
    assert_eq!((offer.mid.as_deref(), offer.setup), (Some("sound"), Some(sdp::Setup::ActPass)));
    assert_eq!(offer.codecs, before.codecs, "everything but ICE is as it was");
    assert_eq!(offer.fingerprint, before.fingerprint);
    assert!(offer.ice.as_ref().unwrap().lite && offer.ice != before.ice);
    assert_eq!(offer.origin.0, before.origin.0);
    assert!(offer.origin.1 > before.origin.1, "{:?} after {:?}", offer.origin, before.origin);
    world.settle();
}

#[test]
fn a_restart_that_is_refused_is_taken_back_and_offered_again_later() {
    let mut world = World::new(42);
    let call = world.dial(BOB, NUMBER, Offer::browser());
    world.run_ms(2_000);
    let changes = world.only_bridge().remotes.len();
    world.phone(BOB).does = Does::Refuse { code: 480, after_ms: 0 };
    world.silence(LegName::A);
    let bridge = world.only_bridge();
    assert!(matches!(bridge.restarts.as_slice(), [(LegName::A, Some(_)), (LegName::A, None)]), "{:?}", bridge.restarts);
    assert_eq!((bridge.remotes.len(), world.noted("no ICE restart: refused with 488")), (changes, 1));
    world.phone(BOB).does = Does::Ring;
    world.silence(LegName::A);
    assert_eq!(world.only_bridge().remotes.len(), changes + 1);
    assert_eq!(world.end(BOB, call), None);
    world.settle();
}

#[test]
fn a_restart_of_ours_and_an_offer_of_the_peer_that_meet_are_both_served() {
    let mut world = World::new(43);
    let call = world.dial(BOB, NUMBER, Offer::browser());
    world.run_ms(2_000);
    let now = world.now;
    let hold = Offer::browser().sdp.replace("a=sendrecv", "a=sendonly");
    world.phone(BOB).agent.reinvite(now, call, &hold);
    world.silence(LegName::A);
    world.run_ms(8_000);
    assert_eq!(world.phone(BOB).placed[&call].reanswers.len(), 1);
    assert_eq!(world.noted("ICE begins anew"), 1);
    // The played phone always offers the credentials it began with: its hold is a restart of its own.
    let bridge = world.only_bridge();
    let changes = bridge.remotes.iter().filter_map(|(_, remote)| match remote {
        LegRemote::WebrtcChange(change) => Some(Some(change.credentials.clone())),
        _ => None,
    });
    assert_eq!(changes.filter(|credentials| *credentials == bridge.restarts[0].1).count(), 1);
    assert_eq!(bridge.restarts.len(), 1);
    world.settle();
}

#[test]
fn neither_whatsapp_nor_a_lite_peer_is_offered_a_restart() {
    let mut world = World::new(44);
    world.session("c1", Some("15550100123"), None);
    world.silence(LegName::A);
    assert!(world.only_bridge().restarts.is_empty());
    world.settle();

    let mut world = World::new(45);
    world.dial(BOB, NUMBER, Offer::lite());
    world.run_ms(2_000);
    world.silence(LegName::A);
    assert!(world.only_bridge().restarts.is_empty());
    assert_eq!(world.phone(BOB).offers_seen, 0);
    world.settle();
}
