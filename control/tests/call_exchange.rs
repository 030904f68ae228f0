//! Calls between trunks and users in virtual time: the real edge with its routes, registrar and agent; phones and trunks with
//! agents of their own on links with seeded faults; an engine that is played, and checks what it is told.

use control::call::edge::{Edge, EdgeConfig, EdgeOutput};
use control::call::{EdgeEventKind, EdgeReply, EdgeRequest, NewSession};
use control::registrar::{Group, User};
use control::route::{MediaProfile, Pattern, Routes, Transport, Trunk};
use control::sip::locate::{Question, Records};
use control::sip::transport::{Hop, PeerIdentity};
use control::sip::{Credentials, Invite, Register, SipAgent, SipCallId, SipConfig, SipEnd, SipEvent, SipOutput};
use control::trace::timeline::Step;
use engine::bridge::{BridgeCommand, BridgeEvent, BridgeId, LegConfig, LegName, LegRemote};
use engine::error::{Cause, End, Side};
use engine::ice::IceRole;
use engine::leg::LocalLeg;
use engine::random::Random;
use engine::sdp::{self, Codec, CodecFormat, Description, Direction, RtpLocal, SDES_SUITES, Sdes, Setup, WebrtcLocal};
use engine::time::{Duration, Instant};
use engine::worker::{Command, Event};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

const GATEWAY: &str = "192.0.2.1:5060";
const ALICE: &str = "198.51.100.11:5060";
const ALICE_TOO: &str = "198.51.100.12:5060";
const BOB: &str = "198.51.100.13:5060";
const CAROL: &str = "198.51.100.14:5060";
const TRUNK_A: &str = "203.0.113.5:5060";
const TRUNK_B: &str = "203.0.113.6:5060";

/// Seeds of the swarm; `SIM_SEED` runs a single one.
const SEEDS: u64 = 400;

/// Rounds of one drain; more means that two parts answer each other without end.
const DRAIN_ROUNDS_MAX: usize = 10_000;

#[test]
fn a_trunks_call_rings_every_device_and_the_first_answer_wins() {
    let mut world = World::new(1);
    world.phone(ALICE).does = Does::Answer { after_ms: 3_000 };
    world.phone(ALICE_TOO).does = Does::Answer { after_ms: 1_000 };
    let call = world.dial(TRUNK_A, "alice", Offer::rtp(&[Codec::Opus, Codec::Pcmu]));
    world.run_ms(10_000);
    let answer = world.answer(TRUNK_A, call);
    assert_eq!(answer.codecs.len(), 1);
    assert_eq!(answer.codecs[0].codec, Codec::Opus, "the first that both have");
    assert_eq!(world.phone(ALICE_TOO).calls.len(), 1);
    assert_eq!(world.phone(ALICE_TOO).live(), 1);
    assert_eq!(world.phone(ALICE).ends(), [SipEnd::CancelReceived]);
    let bridge = world.only_bridge();
    assert_eq!(bridge.legs.len(), 2, "no leg of a device that lost is left");
    assert_eq!(bridge.seats, 1, "the second device's leg took the seat of the first's");
    world.hang_up(TRUNK_A, call);
    world.run_ms(1_000);
    assert!(world.end_line().contains("trunk a") && world.end_line().contains("bye"), "{}", world.end_line());
    world.settle();
}

#[test]
fn an_offer_passes_with_its_numbers_and_wishes_and_so_does_the_answer() {
    let mut world = World::new(2);
    let opus = "maxaveragebitrate=20000;maxplaybackrate=16000;minptime=20;sprop-maxcapturerate=16000;useinbandfec=1";
    world.phone(BOB).wishes = Some("maxplaybackrate=24000;useinbandfec=1");
    let call = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]).with(opus).header("x-wa-meta-cta-payload", "p1"));
    world.run_ms(2_000);
    let invite = world.phone(BOB).invite();
    let wishes = invite.sdp.lines().find(|line| line.starts_with("a=fmtp:111 ")).unwrap();
    assert!(opus.split(';').all(|wish| wishes.contains(wish)), "{wishes}");
    assert!(invite.sdp.contains("a=rtpmap:111 opus/48000/2"), "{}", invite.sdp);
    assert!(!invite.sdp.contains("PCMU"), "what the caller cannot take is not offered where nothing is transcoded");
    assert!(
        invite.headers.iter().any(|(name, value)| (name.as_str(), value.as_str()) == ("x-wa-meta-cta-payload", "p1"))
    );
    assert_eq!(world.answer(TRUNK_A, call).codecs[0].opus.max_playback_rate_hz, Some(24_000));
    assert!(world.steps.iter().any(|(step, words)| *step == Step::Answered && words.contains("passed through")));
    world.settle();
}

#[test]
fn a_codec_that_nobody_shares_is_refused_in_words_or_transcoded_where_that_is_allowed() {
    let mut world = World::with(3, |routes| {
        let a = &mut routes.trunks[0];
        (a.transcoding, a.codecs) = (false, vec![Codec::Opus]);
        routes.trunks[1].codecs = vec![Codec::Pcma];
    });
    // Toward trunk a (lowest weight): PCMU only, and it takes Opus only; then toward b, which may transcode.
    let call = world.dial(BOB, "+447700900123", Offer::rtp(&[Codec::Pcmu]));
    world.run_ms(3_000);
    assert!(world.phone(TRUNK_A).calls.is_empty(), "trunk a is not even asked");
    assert_eq!(world.answer(BOB, call).codecs[0].codec, Codec::Pcmu);
    assert!(world.phone(TRUNK_B).invite().sdp.contains("PCMA"));
    world.hang_up(BOB, call);
    world.run_ms(2_000);

    world.gateway.gate().routes.trunks[1].transcoding = false;
    let call = world.dial(BOB, "+447700900123", Offer::rtp(&[Codec::Pcmu]));
    world.run_ms(3_000);
    let Some(SipEnd::Rejected { code: 488, reason }) = world.end(BOB, call) else {
        panic!("{:?}", world.end(BOB, call))
    };
    assert!(reason.contains("transcoding is off") && reason.contains("trunk b"), "{reason}");
    world.settle();
}

#[test]
fn a_callee_that_takes_none_of_the_callers_codecs_is_asked_again_where_transcoding_is_allowed() {
    let mut world = World::new(18);
    world.phone(CAROL).takes = Some(Codec::Pcma);
    let call = world.dial(TRUNK_A, "carol", Offer::rtp(&[Codec::Opus]));
    world.run_ms(3_000);
    let offers: Vec<bool> = world.phone(CAROL).calls.iter().map(|call| call.sdp.contains("PCMA")).collect();
    assert_eq!(offers, [false, true], "first what passes untouched, then what can be transcoded");
    assert_eq!(world.answer(TRUNK_A, call).codecs[0].codec, Codec::Opus);
    assert!(world.steps.iter().any(|(step, words)| *step == Step::Answered && words.ends_with("PCMA, transcoded")));
    world.settle();
}

#[test]
fn a_dead_trunk_is_followed_by_the_next_and_tried_last_afterwards() {
    let mut world = World::new(4);
    world.phone(TRUNK_A).does = Does::Refuse { code: 503, after_ms: 10 };
    let call = world.dial(BOB, "+447700900123", Offer::rtp(&[Codec::Opus]));
    world.run_ms(3_000);
    assert!(world.answer(BOB, call).codecs.len() == 1);
    assert!(world.steps.iter().any(|(step, words)| *step == Step::Failover && words.contains("trunk a: 503")));
    let asked = world.phone(TRUNK_A).calls.len();
    world.hang_up(BOB, call);
    world.run_ms(1_000);
    let call = world.dial(BOB, "+447700900123", Offer::rtp(&[Codec::Opus]));
    world.run_ms(3_000);
    assert!(world.end(BOB, call).is_none());
    assert_eq!(world.phone(TRUNK_A).calls.len(), asked, "it rests");
    world.hang_up(BOB, call);
    // A trunk that says something about the person speaks for all.
    let mut busy = World::new(5);
    busy.phone(TRUNK_A).does = Does::Refuse { code: 486, after_ms: 10 };
    let call = busy.dial(BOB, "+447700900123", Offer::rtp(&[Codec::Opus]));
    busy.run_ms(3_000);
    assert!(matches!(busy.end(BOB, call), Some(SipEnd::Rejected { code: 486, .. })));
    assert!(busy.phone(TRUNK_B).calls.is_empty());
    world.settle();
    busy.settle();
}

#[test]
fn a_trunk_that_is_silent_is_given_up_for_the_next_one() {
    let mut world = World::new(6);
    world.phone(TRUNK_A).does = Does::Dead;
    let call = world.dial(BOB, "+447700900123", Offer::rtp(&[Codec::Opus]));
    world.run_ms(40_000);
    assert!(world.answer(BOB, call).codecs.len() == 1);
    world.settle();
}

#[test]
fn media_kinds_follow_the_offer_inbound_and_the_trunk_outbound() {
    for (profile, needle) in [
        (MediaProfile::Rtp, " RTP/AVP "),
        (MediaProfile::Sdes, " RTP/SAVP "),
        (MediaProfile::Webrtc, " UDP/TLS/RTP/SAVPF "),
    ] {
        for offer in [Offer::rtp(&[Codec::Opus]), Offer::sdes(), Offer::browser(), Offer::lite()] {
            let mut world = World::with(7, |routes| routes.trunks[0].media = profile);
            let kind = offer.kind;
            let call = world.dial(BOB, "+447700900123", offer);
            world.run_ms(3_000);
            let sent = world.phone(TRUNK_A).invite().sdp.clone();
            assert!(sent.contains(needle), "{sent}");
            let answer = world.answer(BOB, call);
            assert_eq!(answer.codecs[0].codec, Codec::Opus);
            match kind {
                OfferKind::Sdes => assert_eq!(answer.crypto.len(), 1),
                OfferKind::Browser => {
                    assert!(answer.ice.as_ref().is_some_and(|ice| ice.lite));
                    assert_eq!(answer.setup, Some(Setup::Passive));
                }
                OfferKind::Lite => {
                    assert!(answer.ice.as_ref().is_some_and(|ice| !ice.lite));
                    assert_eq!(answer.setup, Some(Setup::Active));
                    let LegConfig::Webrtc(config) = &world.only_bridge().configs[&LegName::A] else { panic!() };
                    assert_eq!(config.ice, IceRole::Controlling);
                }
                OfferKind::Rtp => assert!(answer.crypto.is_empty()),
            }
            assert!(!world.only_bridge().remotes.is_empty());
            world.hang_up(BOB, call);
            world.settle();
        }
    }
}

#[test]
fn nobody_there_is_told_in_words_and_leaves_nothing() {
    let mut world = World::new(8);
    for (dialed, code, words) in
        [("dave", 480, "no device is registered for dave"), ("nobody", 404, "nobody of that name")]
    {
        let call = world.dial(TRUNK_A, dialed, Offer::rtp(&[Codec::Opus]));
        world.run_ms(1_000);
        match world.end(TRUNK_A, call) {
            Some(SipEnd::Rejected { code: got, reason }) => {
                assert_eq!(got, code);
                assert!(reason.contains(words), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(world.bridges.is_empty());
    world.settle();
}

#[test]
fn a_caller_that_gives_up_cancels_every_device() {
    let mut world = World::new(9);
    for phone in [ALICE, ALICE_TOO] {
        world.phone(phone).does = Does::Ring;
    }
    let call = world.dial(TRUNK_A, "alice", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    world.hang_up(TRUNK_A, call);
    world.run_ms(2_000);
    for phone in [ALICE, ALICE_TOO] {
        assert_eq!(world.phone(phone).ends(), [SipEnd::CancelReceived]);
    }
    assert!(world.bridges.is_empty());
    world.settle();
}

#[test]
fn hold_is_absorbed_and_the_other_side_is_not_touched() {
    let mut world = World::new(10);
    let call = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    let (before, offers) = (world.only_bridge().remotes.len(), world.phone(TRUNK_A).offers_seen);
    for direction in [Direction::SendOnly, Direction::SendRecv] {
        world.offer_anew(BOB, direction);
        world.run_ms(1_000);
    }
    let remotes = &world.only_bridge().remotes[before..];
    assert_eq!(remotes.len(), 2);
    for ((leg, remote), sending) in remotes.iter().zip([false, true]) {
        let LegRemote::Rtp(remote) = remote else { panic!("{remote:?}") };
        assert_eq!((*leg, remote.sending), (LegName::B, sending));
    }
    assert_eq!(world.phone(TRUNK_A).offers_seen, offers, "no re-INVITE to the other side");
    let held: Vec<&str> = world.steps.iter().filter(|(step, _)| *step == Step::Hold).map(|(_, w)| w.as_str()).collect();
    assert_eq!(held, ["user bob: on hold", "user bob: resumed"]);
    world.hang_up(TRUNK_A, call);
    world.settle();
}

#[test]
fn a_user_transfers_a_trunks_call_to_another_user() {
    let mut world = World::new(11);
    let call = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus, Codec::Pcmu]));
    world.run_ms(2_000);
    let offers = world.phone(TRUNK_A).offers_seen;
    let (asked, remotes) = (world.refer(BOB, "sip:carol@192.0.2.1"), world.only_bridge().remotes.len());
    world.run_ms(3_000);
    assert_eq!(world.phone(BOB).transfers.last(), Some(&(200, true)));
    assert!(world.end(BOB, asked).is_some(), "the one who asked is let go");
    assert_eq!(world.phone(CAROL).live(), 1);
    let invite = world.phone(CAROL).invite();
    assert!(invite.from.contains("+441632960000"), "the caller is shown, not the one who transferred: {}", invite.from);
    assert!(invite.sdp.contains("opus") && !invite.sdp.contains("PCMU"), "the codec in force: {}", invite.sdp);
    let bridge = world.only_bridge();
    assert!(
        bridge.remotes[remotes..].iter().all(|(leg, _)| *leg != LegName::A),
        "the trunk's leg is not described anew"
    );
    assert_eq!((bridge.legs.len(), bridge.seats), (2, 1));
    assert_eq!(world.phone(TRUNK_A).offers_seen, offers);
    assert!(world.end(TRUNK_A, call).is_none());
    // And on: the new party may hold, and ends the call.
    world.offer_anew(CAROL, Direction::SendOnly);
    world.run_ms(500);
    world.hang_up_all(CAROL);
    world.run_ms(1_000);
    assert!(world.end(TRUNK_A, call).is_some());
    world.settle();
}

#[test]
fn the_caller_transfers_too_and_out_through_a_trunk() {
    let mut world = World::new(12);
    let call = world.dial(BOB, "carol", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    world.refer(BOB, "sip:+447700900123@192.0.2.1");
    world.run_ms(3_000);
    assert!(world.end(BOB, call).is_some());
    assert_eq!((world.phone(CAROL).live(), world.phone(TRUNK_A).live()), (1, 1));
    assert_eq!(world.only_bridge().legs.len(), 2);
    world.hang_up_all(TRUNK_A);
    world.run_ms(1_000);
    assert_eq!(world.phone(CAROL).live(), 0);
    world.settle();
}

#[test]
fn a_transfer_that_fails_leaves_the_call_as_it_was_or_ends_it_where_nobody_is_left() {
    let mut world = World::new(13);
    world.phone(CAROL).does = Does::Refuse { code: 486, after_ms: 500 };
    let call = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    world.refer(BOB, "sip:carol@192.0.2.1");
    world.run_ms(2_000);
    assert_eq!(world.phone(BOB).transfers.last(), Some(&(486, true)));
    assert_eq!((world.phone(BOB).live(), world.only_bridge().legs.len()), (1, 2));
    world.refer(BOB, "sip:nobody-at-all@192.0.2.1");
    world.run_ms(2_000);
    assert_eq!(world.phone(BOB).transfers.last(), Some(&(404, true)));
    // This time bob does not wait.
    world.refer(BOB, "sip:carol@192.0.2.1");
    world.run_ms(100);
    world.hang_up_all(BOB);
    world.run_ms(3_000);
    assert!(world.end(TRUNK_A, call).is_some());
    assert!(world.end_line().contains("transfer_failed"), "{}", world.end_line());
    world.settle();
}

#[test]
fn whatsapps_call_is_answered_by_a_softphone_and_transferred() {
    let mut world = World::new(14);
    world.new_session("user:bob");
    world.run_ms(2_000);
    let invite = world.phone(BOB).invite();
    assert!(invite.headers.iter().any(|(name, _)| name == "X-WA-Call-ID"));
    let opus = invite.sdp.find("opus").unwrap();
    assert!(invite.sdp.find("PCMU").is_none_or(|pcmu| opus < pcmu), "Opus comes first: {}", invite.sdp);
    assert!(world.events.contains(&EdgeEventKind::Answered));
    let before = world.only_bridge().remotes.len();
    world.refer(BOB, "sip:carol@192.0.2.1");
    world.run_ms(3_000);
    assert_eq!((world.phone(BOB).live(), world.phone(CAROL).live()), (0, 1));
    assert!(world.only_bridge().remotes[before..].iter().all(|(leg, _)| *leg != LegName::A));
    assert_eq!(world.events.iter().filter(|event| **event == EdgeEventKind::Answered).count(), 1);
    world.hang_up_all(CAROL);
    world.run_ms(1_000);
    assert!(matches!(world.events.last(), Some(EdgeEventKind::Ended { .. })), "{:?}", world.events);
    world.settle();
}

#[test]
fn early_media_of_a_trunk_reaches_the_caller_and_the_answer_stays_the_same() {
    let mut world = World::new(15);
    world.phone(TRUNK_A).does = Does::Early { after_ms: 2_000 };
    let call = world.dial(BOB, "+447700900123", Offer::rtp(&[Codec::Opus]));
    world.run_ms(1_000);
    let early = world.phone(BOB).placed[&call].early.clone().expect("a 183 with SDP");
    world.run_ms(3_000);
    assert_eq!(world.phone(BOB).placed[&call].answer.as_ref(), Some(&early));
    world.settle();
}

#[test]
fn a_draining_edge_refuses_new_calls_and_lets_others_go_on() {
    let mut world = World::new(16);
    let first = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    world.gateway.drain();
    let second = world.dial(TRUNK_A, "carol", Offer::rtp(&[Codec::Opus]));
    world.run_ms(1_000);
    assert!(matches!(world.end(TRUNK_A, second), Some(SipEnd::Rejected { code: 503, .. })));
    assert!(world.end(TRUNK_A, first).is_none());
    world.settle();
}

#[test]
fn a_trunk_carries_no_more_calls_than_it_may() {
    let mut world = World::with(17, |routes| {
        routes.trunks[0].calls_max = 1;
        routes.trunks[1].pattern = None;
    });
    let first = world.dial(BOB, "+447700900123", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    let second = world.dial(CAROL, "+447700900124", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    assert!(world.end(BOB, first).is_none() && world.end(CAROL, second).is_some());
    world.hang_up(BOB, first);
    world.run_ms(2_000);
    let third = world.dial(CAROL, "+447700900124", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    assert!(world.end(CAROL, third).is_none());
    world.settle();
}

/// Forks, failovers, transfers, holds and hang-ups at any instant, on links that lose, delay and repeat: every call ends, and
/// nothing is left behind anywhere.
#[test]
fn whatever_happens_every_call_ends_and_nothing_is_left() {
    let one = std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = one.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    let (mut bridged, mut transferred) = (0, 0);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| one_seed(seed));
        let (up, moved) =
            outcome.unwrap_or_else(|_| panic!("SIM_SEED={seed} cargo test -p control --test call_exchange"));
        bridged += u64::from(up);
        transferred += u64::from(moved);
    }
    if one.is_none() {
        assert!(bridged > SEEDS / 3, "only {bridged} calls were bridged");
        assert!(transferred > SEEDS / 20, "only {transferred} calls were transferred");
    }
}

fn one_seed(seed: u64) -> (bool, bool) {
    let mut world = World::new(1_000 + seed);
    let mut random = Random::from_test_seed(seed);
    for phone in [ALICE, ALICE_TOO, BOB, CAROL, TRUNK_A, TRUNK_B] {
        let after_ms = u64::from(random.below(3_000));
        world.phone(phone).does = match random.below(8) {
            0 => Does::Refuse { code: [480, 486, 503, 603][random.below(4) as usize], after_ms },
            1 => Does::Ring,
            2 => Does::Dead,
            3 => Does::Early { after_ms },
            _ => Does::Answer { after_ms },
        };
    }
    world.faults =
        Faults { loss_pct: random.below(15), duplicate_pct: random.below(8), delay_ms_max: random.below(300) };
    let (from, to) =
        [(TRUNK_A, "alice"), (TRUNK_A, "everyone"), (BOB, "+447700900123"), (BOB, "alice"), (TRUNK_B, "carol")]
            [random.below(5) as usize];
    let offer = match random.below(4) {
        0 => Offer::sdes(),
        1 => Offer::browser(),
        _ => Offer::rtp(&[Codec::Opus, Codec::Pcmu]),
    };
    let call = world.dial(from, to, offer);
    for _ in 0..4 {
        world.run_ms(u64::from(random.below(4_000)));
        let phone = [ALICE, ALICE_TOO, BOB, CAROL, TRUNK_A, TRUNK_B][random.below(6) as usize];
        match random.below(6) {
            0 => world.hang_up(from, call),
            1 => world.hang_up_all(phone),
            2 => world.offer_anew(phone, [Direction::SendOnly, Direction::SendRecv][random.below(2) as usize]),
            _ => {
                world.try_refer(
                    phone,
                    ["sip:carol@192.0.2.1", "sip:alice@192.0.2.1", "sip:+4477009001@192.0.2.1"]
                        [random.below(3) as usize],
                );
            }
        }
    }
    world.run_ms(5_000);
    let up = world.steps.iter().any(|(step, _)| *step == Step::Answered);
    let moved = world.steps.iter().any(|(step, words)| *step == Step::Transfer && words.ends_with("answered"));
    world.faults = Faults::default();
    world.hang_up(from, call);
    world.settle();
    (up, moved)
}

/// What a phone or trunk does with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Answer {
        after_ms: u64,
    },
    /// 183 with SDP at once, 200 later.
    Early {
        after_ms: u64,
    },
    Refuse {
        code: u16,
        after_ms: u64,
    },
    Ring,
    /// Hears and says nothing.
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OfferKind {
    Rtp,
    Sdes,
    Browser,
    Lite,
}

/// What a caller offers.
struct Offer {
    kind: OfferKind,
    sdp: String,
    headers: Vec<(String, String)>,
}

impl Offer {
    fn rtp(codecs: &[Codec]) -> Offer {
        let mut numbers = String::new();
        let mut maps = String::new();
        for codec in codecs {
            let (number, map) = match codec {
                Codec::Opus => (111, "a=rtpmap:111 opus/48000/2\r\na=fmtp:111 useinbandfec=1\r\n"),
                Codec::Pcmu => (0, "a=rtpmap:0 PCMU/8000\r\n"),
                _ => (8, "a=rtpmap:8 PCMA/8000\r\n"),
            };
            numbers = format!("{numbers} {number}");
            maps.push_str(map);
        }
        let sdp = format!(
            "v=0\r\no=- 7 1 IN IP4 198.51.100.9\r\ns=-\r\nc=IN IP4 198.51.100.9\r\nt=0 0\r\n\
             m=audio 4000 RTP/AVP{numbers} 101\r\n{maps}a=rtpmap:101 telephone-event/8000\r\na=ptime:20\r\na=sendrecv\r\n"
        );
        Offer { kind: OfferKind::Rtp, sdp, headers: Vec::new() }
    }

    fn sdes() -> Offer {
        let crypto = "a=crypto:7 AES_CM_128_HMAC_SHA1_80 inline:cdj7a2dPCu5IdGwDfzIDXJrYWUE2GkVcPmxT3gbN\r\n";
        let rtp = Offer::rtp(&[Codec::Opus]);
        let sdp = rtp.sdp.replace("RTP/AVP", "RTP/SAVP").replace("a=ptime:20\r\n", crypto);
        Offer { kind: OfferKind::Sdes, sdp, ..rtp }
    }

    fn browser() -> Offer {
        let rtp = Offer::rtp(&[Codec::Opus]);
        let webrtc = format!(
            "a=mid:0\r\na=rtcp-mux\r\na=ice-ufrag:abcd\r\na=ice-pwd:{}\r\na=setup:actpass\r\na=fingerprint:sha-256 {}\r\n",
            "p".repeat(24),
            ["AB"; 32].join(":")
        );
        let sdp = rtp.sdp.replace("RTP/AVP", "UDP/TLS/RTP/SAVPF").replace("a=ptime:20\r\n", &webrtc);
        Offer { kind: OfferKind::Browser, sdp, ..rtp }
    }

    fn lite() -> Offer {
        let browser = Offer::browser();
        let candidate = "a=mid:0\r\na=candidate:1 1 udp 2130706431 203.0.113.49 3480 typ host\r\n";
        let sdp = browser.sdp.replace("t=0 0\r\n", "t=0 0\r\na=ice-lite\r\n").replace("a=mid:0\r\n", candidate);
        Offer { kind: OfferKind::Lite, sdp, ..browser }
    }

    fn with(mut self, fmtp: &str) -> Offer {
        self.sdp = self.sdp.replace("a=fmtp:111 useinbandfec=1", &format!("a=fmtp:111 {fmtp}"));
        self
    }

    fn header(mut self, name: &str, value: &str) -> Offer {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A call that a phone placed.
#[derive(Default)]
struct Placed {
    early: Option<String>,
    answer: Option<String>,
    end: Option<SipEnd>,
}

/// A call that came to a phone.
struct Came {
    call: SipCallId,
    sdp: String,
    from: String,
    headers: Vec<(String, String)>,
    act_at: Instant,
    answered: bool,
    end: Option<SipEnd>,
}

/// A phone, or a trunk's server.
struct Phone {
    agent: SipAgent,
    deadline: Instant,
    does: Does,
    /// fmtp of Opus in its answers.
    wishes: Option<&'static str>,
    /// The only codec that it has.
    takes: Option<Codec>,
    placed: BTreeMap<SipCallId, Placed>,
    calls: Vec<Came>,
    /// Re-INVITEs that came.
    offers_seen: usize,
    transfers: Vec<(u16, bool)>,
    port: u16,
}

impl Phone {
    fn live(&self) -> usize {
        self.calls.iter().filter(|call| call.answered && call.end.is_none()).count()
    }

    fn ends(&self) -> Vec<SipEnd> {
        self.calls.iter().filter_map(|call| call.end.clone()).collect()
    }

    fn invite(&self) -> &Came {
        self.calls.last().expect("nobody has called")
    }
}

#[derive(Clone, Copy, Default)]
struct Faults {
    loss_pct: u32,
    duplicate_pct: u32,
    delay_ms_max: u32,
}

/// A bridge as the played engine knows it.
#[derive(Default)]
struct Played {
    legs: Vec<LegName>,
    configs: BTreeMap<LegName, LegConfig>,
    remotes: Vec<(LegName, LegRemote)>,
    seats: usize,
}

struct World {
    now: Instant,
    gateway: Edge,
    gateway_deadline: Instant,
    phones: BTreeMap<SocketAddr, Phone>,
    bridges: BTreeMap<BridgeId, Played>,
    next_port: u16,
    wire: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    count: u64,
    faults: Faults,
    random: Random,
    steps: Vec<(Step, String)>,
    events: Vec<EdgeEventKind>,
    token: String,
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn routes() -> Routes {
    let trunk = |name: &str, host: &str, weight: u32| Trunk {
        port: Some(5060),
        allowed_sources: vec![format!("{host}/32").parse().unwrap()],
        pattern: Some(Pattern::new(r"^\+?[1-9]\d{6,14}$").unwrap().0),
        weight,
        number: Some("+441632960111".to_owned()),
        ..Trunk::new(name, host, Transport::Udp)
    };
    let users = ["alice", "bob", "carol", "dave"].map(|name| (name.to_owned(), User::new(name, "secret")));
    let everyone = Group::new("everyone", &["alice", "carol", "dave"]);
    Routes {
        trunks: vec![trunk("a", "203.0.113.5", 1), trunk("b", "203.0.113.6", 2)],
        users: users.into_iter().collect(),
        groups: BTreeMap::from([("everyone".to_owned(), everyone)]),
        ..Routes::default()
    }
}

impl World {
    fn new(seed: u64) -> World {
        World::with(seed, |_| {})
    }

    /// Every user but dave registered, nobody calling.
    fn with(seed: u64, change: impl FnOnce(&mut Routes)) -> World {
        let mut random = Random::from_test_seed(seed);
        let mut config = EdgeConfig::new(
            SipConfig::new(address(GATEWAY), "tandem", "tandem"),
            address(GATEWAY).ip(),
            "sip:bot@198.51.100.99:5060",
        );
        config.dialplan = routes();
        change(&mut config.dialplan);
        let mut phones = BTreeMap::new();
        for (index, text) in [ALICE, ALICE_TOO, BOB, CAROL, TRUNK_A, TRUNK_B].into_iter().enumerate() {
            let agent = SipAgent::new(SipConfig::new(address(text), "phone", "phone"), random.fork());
            let phone = Phone {
                agent,
                deadline: Instant::NEVER,
                does: Does::Answer { after_ms: 200 },
                wishes: None,
                takes: None,
                placed: BTreeMap::new(),
                calls: Vec::new(),
                offers_seen: 0,
                transfers: Vec::new(),
                port: 30_000 + 1_000 * index as u16,
            };
            phones.insert(address(text), phone);
        }
        let mut world = World {
            now: Instant::from_millis(1_000),
            gateway: Edge::new(config, 1, random.fork()),
            gateway_deadline: Instant::NEVER,
            phones,
            bridges: BTreeMap::new(),
            next_port: 10_000,
            wire: BTreeMap::new(),
            count: 0,
            faults: Faults::default(),
            random,
            steps: Vec::new(),
            events: Vec::new(),
            token: String::new(),
        };
        for (text, user) in [(ALICE, "alice"), (ALICE_TOO, "alice"), (BOB, "bob"), (CAROL, "carol")] {
            world.register(text, user);
        }
        world.run_ms(1_000);
        assert_eq!(world.gateway.gate().registrar.count(), 4);
        world
    }

    fn register(&mut self, text: &str, user: &str) {
        let now = self.now;
        let credentials = Some(Credentials { username: user.to_owned(), password: "secret".to_owned() });
        self.phone(text).agent.register(
            now,
            Register {
                registrar: "sip:192.0.2.1".to_owned(),
                aor: format!("sip:{user}@192.0.2.1"),
                contact_user: Some(user.to_owned()),
                credentials,
                expires_s: 3_600,
                ..Register::default()
            },
        );
    }

    fn phone(&mut self, text: &str) -> &mut Phone {
        self.phones.get_mut(&address(text)).unwrap()
    }

    /// A phone or trunk calls somebody through the gateway.
    fn dial(&mut self, from: &str, dialed: &str, offer: Offer) -> SipCallId {
        let now = self.now;
        let user = [(ALICE, "alice"), (BOB, "bob"), (CAROL, "carol")].into_iter().find(|(text, _)| *text == from);
        let credentials =
            user.map(|(_, name)| Credentials { username: name.to_owned(), password: "secret".to_owned() });
        let invite = Invite {
            target: format!("sip:{dialed}@192.0.2.1:5060"),
            from_user: user.map_or("+441632960000", |(_, name)| name).to_owned(),
            headers: offer.headers,
            sdp: offer.sdp,
            credentials,
            ring_ms_max: 200_000,
            ..Invite::default()
        };
        let phone = self.phone(from);
        let call = phone.agent.invite(now, invite);
        phone.placed.insert(call, Placed::default());
        self.drain();
        call
    }

    fn new_session(&mut self, destination: &str) {
        let what = EdgeRequest::New(Box::new(NewSession {
            call_id: "wacid.1".to_owned(),
            sdp_offer: Offer::lite().sdp,
            from: Some("447700900123".to_owned()),
            destination: Some(destination.to_owned()),
            hold_media: false,
            ..NewSession::default()
        }));
        self.gateway.handle_request(self.now, 1, what);
        self.drain();
    }

    fn answer(&mut self, from: &str, call: SipCallId) -> Description {
        let placed = &self.phone(from).placed[&call];
        let text = placed.answer.clone().unwrap_or_else(|| panic!("no answer; {:?}", placed.end));
        sdp::parse(&text).unwrap()
    }

    fn end(&mut self, from: &str, call: SipCallId) -> Option<SipEnd> {
        let phone = self.phone(from);
        let came = phone.calls.iter().find(|came| came.call == call);
        match phone.placed.get(&call) {
            Some(placed) => placed.end.clone(),
            None => came.and_then(|came| came.end.clone()),
        }
    }

    fn hang_up(&mut self, from: &str, call: SipCallId) {
        let now = self.now;
        self.phone(from).agent.hangup(now, call, None);
        self.drain();
    }

    /// Ends every call of a phone, placed and answered.
    fn hang_up_all(&mut self, text: &str) {
        let now = self.now;
        let phone = self.phone(text);
        let calls: Vec<SipCallId> = phone.placed.keys().copied().chain(phone.calls.iter().map(|c| c.call)).collect();
        for call in calls {
            phone.agent.hangup(now, call, None);
        }
        self.drain();
    }

    /// The call that a phone is in, if any.
    fn talking(&mut self, text: &str) -> Option<SipCallId> {
        let phone = self.phone(text);
        let came = phone.calls.iter().find(|call| call.answered && call.end.is_none()).map(|call| call.call);
        let placed = phone.placed.iter().find(|(_, placed)| placed.answer.is_some() && placed.end.is_none());
        came.or(placed.map(|(call, _)| *call))
    }

    fn refer(&mut self, text: &str, to: &str) -> SipCallId {
        self.try_refer(text, to).expect("a call to transfer")
    }

    fn try_refer(&mut self, text: &str, to: &str) -> Option<SipCallId> {
        let (now, call) = (self.now, self.talking(text)?);
        self.phone(text).agent.refer(now, call, to, None);
        self.drain();
        Some(call)
    }

    /// Puts a phone's call on hold, or takes it back.
    fn offer_anew(&mut self, text: &str, direction: Direction) {
        let (now, Some(call)) = (self.now, self.talking(text)) else { return };
        let port = self.phone(text).port;
        let offer = Offer::rtp(&[Codec::Opus, Codec::Pcmu]).sdp;
        let word = if direction == Direction::SendOnly { "a=sendonly" } else { "a=sendrecv" };
        let offer = offer.replace("a=sendrecv", word).replace("m=audio 4000", &format!("m=audio {port}"));
        self.phone(text).agent.reinvite(now, call, &offer);
        self.drain();
    }

    fn only_bridge(&self) -> &Played {
        assert_eq!(self.bridges.len(), 1);
        self.bridges.values().next().unwrap()
    }

    fn end_line(&self) -> String {
        let end = self.steps.iter().rev().find(|(step, _)| *step == Step::End);
        end.map(|(_, words)| words.clone()).unwrap_or_default()
    }

    /// Ends every call and checks that nothing is left anywhere.
    fn settle(&mut self) {
        for phone in [ALICE, ALICE_TOO, BOB, CAROL, TRUNK_A, TRUNK_B] {
            if self.phone(phone).does == Does::Dead {
                self.phone(phone).does = Does::Refuse { code: 480, after_ms: 0 };
            }
            self.hang_up_all(phone);
        }
        if !self.token.is_empty() {
            let what = EdgeRequest::Hangup { edge_session_id: self.token.clone() };
            self.gateway.handle_request(self.now, 2, what);
        }
        // The longest ring, and SIP's own timers behind it.
        self.run_ms(300_000);
        let alive = self.gateway.alive();
        assert_eq!((alive.sessions, alive.sip_calls, alive.sip_transactions), (0, 0, 0), "{:#?}", self.steps);
        assert!(self.bridges.is_empty(), "a bridge is left");
        let counters = self.gateway.counters();
        assert_eq!(counters.sessions_abandoned, 0);
        assert_eq!(counters.sessions_begun, counters.sessions_ended);
        let ends = self.steps.iter().filter(|(step, _)| *step == Step::End).count() as u64;
        assert_eq!(ends, counters.sessions_ended, "one line per call says how it ended");
        for (name, phone) in &self.phones {
            assert_eq!(phone.agent.alive(), (0, 0), "left at {name}");
        }
    }

    fn run_ms(&mut self, millis: u64) {
        let end = self.now.plus_millis(millis);
        loop {
            self.drain();
            let phones = self.phones.values().map(|phone| {
                let acts = phone.calls.iter().map(|call| call.act_at).min().unwrap_or(Instant::NEVER);
                phone.deadline.min(acts)
            });
            let arrival = self.wire.first_key_value().map_or(Instant::NEVER, |((at, _), _)| *at);
            let next = phones.min().unwrap().min(self.gateway_deadline).min(arrival);
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
    }

    fn step(&mut self) {
        let now = self.now;
        if self.gateway_deadline <= now {
            self.gateway.handle_timeout(now);
        }
        for phone in self.phones.values_mut() {
            if phone.deadline <= now {
                phone.agent.handle_timeout(now);
            }
            act(phone, now);
        }
        while let Some(((at, _), _)) = self.wire.first_key_value()
            && *at <= now
        {
            let (_, (from, to, bytes)) = self.wire.pop_first().unwrap();
            if to == address(GATEWAY) {
                self.gateway.handle_sip_message(now, &Hop::udp(from), &PeerIdentity::default(), &bytes);
            } else if let Some(phone) = self.phones.get_mut(&to).filter(|phone| phone.does != Does::Dead) {
                phone.agent.handle_datagram(now, from, &bytes);
            }
            self.drain();
        }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let copies = 1 + u32::from(self.random.below(100) < self.faults.duplicate_pct);
        for _ in 0..copies {
            if self.random.below(100) < self.faults.loss_pct {
                continue;
            }
            let delay_ms = 1 + u64::from(self.random.below(self.faults.delay_ms_max + 1));
            self.count += 1;
            self.wire.insert((self.now + Duration::from_millis(delay_ms), self.count), (from, to, bytes.to_vec()));
        }
    }

    fn drain(&mut self) {
        for _ in 0..DRAIN_ROUNDS_MAX {
            let quiet = self.drain_gateway();
            let addresses: Vec<SocketAddr> = self.phones.keys().copied().collect();
            let quiet = addresses.into_iter().fold(quiet, |quiet, phone| self.drain_phone(phone) && quiet);
            if quiet {
                assert!(self.gateway_deadline > self.now, "the gateway's deadline lies in the past");
                return;
            }
        }
        panic!("somebody talks without end at {:?}", self.now);
    }

    fn drain_gateway(&mut self) -> bool {
        let mut quiet = true;
        loop {
            match self.gateway.poll_output(self.now) {
                EdgeOutput::Timeout(at) => {
                    self.gateway_deadline = at;
                    return quiet;
                }
                EdgeOutput::Engine { command, .. } => self.command(command),
                EdgeOutput::Sip { hop, bytes } => self.send(address(GATEWAY), hop.remote, &bytes),
                EdgeOutput::Timeline(entry) => self.steps.push((entry.step, entry.detail)),
                EdgeOutput::Resolve { query, question } => self.gateway.resolved(self.now, query, &nothing(&question)),
                EdgeOutput::Notify { event, .. } => self.events.push(event.kind),
                EdgeOutput::Reply { result: Ok(EdgeReply::Created(created)), .. } => {
                    self.token = created.edge_session_id
                }
                EdgeOutput::Reply { result, .. } => assert!(result.is_ok(), "{result:?}"),
                EdgeOutput::Trace(_) => {}
            }
            quiet = false;
        }
    }

    fn drain_phone(&mut self, at: SocketAddr) -> bool {
        let mut quiet = true;
        loop {
            let now = self.now;
            let phone = self.phones.get_mut(&at).unwrap();
            match phone.agent.poll_output(now) {
                SipOutput::Timeout(deadline) => {
                    phone.deadline = deadline;
                    return quiet;
                }
                SipOutput::Transmit { hop, bytes } => {
                    if phone.does != Does::Dead {
                        self.send(at, hop.remote, &bytes);
                    }
                }
                SipOutput::Event(event) => hear(phone, now, event),
                SipOutput::Resolve { query, question } => phone.agent.resolved(now, query, &nothing(&question)),
                SipOutput::Trace(_) => {}
            }
            quiet = false;
        }
    }

    /// The engine's part: legs come and go, and what is said about one that is not there is a bug.
    fn command(&mut self, command: Command) {
        match command {
            Command::Open { bridge, config } => {
                let mut played = Played { legs: vec![LegName::A, LegName::B], ..Played::default() };
                let (a, b) = (self.local(&config.a), self.local(&config.b));
                played.configs.extend([(LegName::A, config.a), (LegName::B, config.b)]);
                assert!(self.bridges.insert(bridge, played).is_none(), "a bridge's number was used twice");
                self.gateway.handle_engine(self.now, 0, Event::Opened { bridge, a, b });
            }
            Command::Bridge { bridge, command } => self.bridge_command(bridge, command),
            Command::Stop => panic!("the edge stops no worker"),
        }
    }

    fn bridge_command(&mut self, bridge: BridgeId, command: BridgeCommand) {
        let Some(mut played) = self.bridges.remove(&bridge) else { panic!("{command:?} to a bridge that is gone") };
        let mut event = None;
        match command {
            BridgeCommand::OpenLeg { leg, config } => {
                assert!(leg.is_spare() && !played.legs.contains(&leg), "{leg:?} is taken");
                played.legs.push(leg);
                event = Some(BridgeEvent::LegOpened { leg, local: self.local(&config) });
                played.configs.insert(leg, *config);
            }
            BridgeCommand::CloseLeg { leg } => {
                assert!(leg.is_spare() && played.legs.contains(&leg), "{leg:?} is not there");
                played.legs.retain(|known| *known != leg);
                event = Some(BridgeEvent::LegClosed { leg, cause: None, stats: Default::default() });
            }
            BridgeCommand::SeatLeg { leg, seat } => {
                assert!(leg.is_spare() && !seat.is_spare() && played.legs.contains(&leg), "{leg:?} into {seat:?}");
                played.legs.retain(|known| *known != leg);
                played.seats += 1;
                event = Some(BridgeEvent::LegClosed { leg, cause: None, stats: Default::default() });
            }
            BridgeCommand::SetRemote { leg, remote } => {
                assert!(played.legs.contains(&leg), "{leg:?} is not there");
                played.remotes.push((leg, *remote));
            }
            BridgeCommand::Close => {
                let end = End { side: Side::Engine, cause: Cause::Closed };
                let event = BridgeEvent::Ended { end, stats: Default::default() };
                return self.gateway.handle_engine(self.now, 0, Event::Bridge { bridge, event });
            }
            _ => {}
        }
        self.bridges.insert(bridge, played);
        if let Some(event) = event {
            self.gateway.handle_engine(self.now, 0, Event::Bridge { bridge, event });
        }
    }

    fn local(&mut self, config: &LegConfig) -> LocalLeg {
        self.next_port += 2;
        match config {
            LegConfig::Rtp(_) => LocalLeg::Rtp { ssrc: 1, port: self.next_port },
            LegConfig::Webrtc(_) => LocalLeg::Webrtc {
                ufrag: format!("u{}", self.next_port),
                pwd: "p".repeat(24),
                fingerprint: [7; 32],
                ssrc: 2,
                port: self.next_port,
            },
        }
    }
}

fn nothing(question: &Question) -> Records {
    match question {
        Question::Naptr(_) => Records::Naptr(Vec::new()),
        Question::Srv(_) => Records::Srv(Vec::new()),
        Question::Address(_) => Records::Addresses(Vec::new()),
    }
}

fn hear(phone: &mut Phone, now: Instant, event: SipEvent) {
    match event {
        SipEvent::Incoming { call, from, sdp, headers, .. } => {
            let (after_ms, sdp) = (after_ms(phone.does), sdp.expect("the gateway offers"));
            let has = |codec| sdp::parse(&sdp).unwrap().codecs.iter().any(|format| format.codec == codec);
            match phone.does {
                _ if phone.takes.is_some_and(|codec| !has(codec)) => phone.agent.reject(now, call, 488),
                Does::Early { .. } => {
                    let answer = answer_to(&sdp, phone.port, phone.wishes, phone.takes);
                    phone.agent.ring(now, call, Some(&answer));
                }
                _ => phone.agent.ring(now, call, None),
            }
            let act_at = after_ms.map_or(Instant::NEVER, |after_ms| now.plus_millis(after_ms));
            phone.calls.push(Came { call, sdp, from, headers, act_at, answered: false, end: None });
        }
        SipEvent::Provisional { call, sdp, .. } => {
            if let Some(placed) = phone.placed.get_mut(&call) {
                placed.early = sdp.or(placed.early.take());
            }
        }
        SipEvent::Answered { call, sdp, .. } => phone.placed.get_mut(&call).unwrap().answer = Some(sdp),
        SipEvent::Ended { call, end } => {
            let came = phone.calls.iter_mut().find(|came| came.call == call);
            let known = match came {
                Some(came) => {
                    came.act_at = Instant::NEVER;
                    &mut came.end
                }
                None => &mut phone.placed.get_mut(&call).unwrap().end,
            };
            assert!(known.is_none(), "ended twice: {known:?}, then {end:?}");
            *known = Some(end);
        }
        SipEvent::ReInvite { call, sdp } => {
            phone.offers_seen += 1;
            let answer = sdp.map(|sdp| answer_to(&sdp, phone.port, phone.wishes, phone.takes));
            phone.agent.answer_reinvite(now, call, answer.as_deref());
        }
        SipEvent::TransferProgress { code, over, .. } => phone.transfers.push((code, over)),
        _ => {}
    }
}

fn after_ms(does: Does) -> Option<u64> {
    match does {
        Does::Answer { after_ms } | Does::Early { after_ms } | Does::Refuse { after_ms, .. } => Some(after_ms),
        Does::Ring | Does::Dead => None,
    }
}

fn act(phone: &mut Phone, now: Instant) {
    for came in phone.calls.iter_mut().filter(|came| came.act_at <= now) {
        came.act_at = Instant::NEVER;
        match phone.does {
            Does::Refuse { code, .. } => phone.agent.reject(now, came.call, code),
            _ => {
                came.answered = true;
                phone.agent.accept(now, came.call, &answer_to(&came.sdp, phone.port, phone.wishes, phone.takes));
            }
        }
    }
}

/// What a phone answers to an offer: the first codec, whatever the kind.
fn answer_to(offer: &str, port: u16, wishes: Option<&str>, takes: Option<Codec>) -> String {
    let offer = sdp::parse(offer).unwrap();
    let codec = *offer.codecs.iter().find(|format| takes.is_none_or(|codec| format.codec == codec)).unwrap();
    let here: IpAddr = "198.51.100.50".parse().unwrap();
    let text = match offer.fingerprint {
        Some(_) => sdp::write_webrtc_answer(
            &offer,
            &WebrtcLocal {
                addresses: vec![here],
                port,
                ufrag: "phone".to_owned(),
                pwd: "q".repeat(24),
                lite: false,
                fingerprint: [9; 32],
                setup: Setup::Active,
                ssrc: 5,
                codec,
                telephone_event: offer.telephone_events.first().copied(),
                direction: Direction::SendRecv,
                session_id: 5,
                session_version: 1,
            },
        ),
        None => {
            let mut sdes = Sdes::new(&SDES_SUITES, Random::from_test_seed(u64::from(port)));
            let crypto = sdes.read_offer(&offer).map(|(line, _)| vec![line]).unwrap_or_default();
            let local = RtpLocal {
                address: here,
                port,
                profile: offer.profile,
                rtcp_mux: false,
                crypto,
                codecs: vec![CodecFormat { opus: Default::default(), ..codec }],
                telephone_events: offer.telephone_events.clone(),
                direction: Direction::SendRecv,
                session_id: 5,
                session_version: 1,
            };
            sdp::write_rtp_answer(&offer, &local)
        }
    };
    match wishes {
        Some(wishes) => text.replace(
            &format!("a=rtpmap:{} opus/48000/2\r\n", codec.payload_type),
            &format!("a=rtpmap:{0} opus/48000/2\r\na=fmtp:{0} {wishes}\r\n", codec.payload_type),
        ),
        None => text,
    }
}
