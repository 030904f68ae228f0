//! Calls between trunks and users in virtual time: the real edge with its routes, registrar and agent; phones and trunks with
//! agents of their own on links with seeded faults; an engine that is played, and checks what it is told.

#[path = "call_exchange/crashes.rs"]
mod crashes;
mod exchange_world;
#[path = "call_exchange/transfers.rs"]
mod transfers;

use control::call::{EdgeEventKind, EdgeRequest};
use control::route::MediaProfile;
use control::sip::locate::{Question, Records, Srv};
use control::sip::{Replaces, SipEnd};
use control::trace::timeline::Step;
use engine::bridge::{LegConfig, LegName, LegRemote};
use engine::ice::IceRole;
use engine::random::Random;
use engine::sdp::{self, Codec, Direction, Setup};
use exchange_world::*;
use std::net::SocketAddr;

/// Seeds of the swarm; `SIM_SEED` runs a single one.
const SEEDS: u64 = 400;

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
    let meta = world.steps.iter().find(|(step, _)| *step == Step::Meta).map(|(_, words)| words.as_str());
    assert_eq!(meta, Some("trunk a says x-wa-meta-cta-payload: p1"));
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

/// A provider of two servers, found by NAPTR and SRV: the one that is to be asked first is dead, or refuses.
#[test]
fn a_trunk_that_does_not_answer_options_is_tried_last_until_it_does() {
    let mut world = World::with(12, |routes| routes.trunks.iter_mut().for_each(|trunk| trunk.options_s = Some(30)));
    world.gateway.register_trunks(world.now);
    world.run_ms(1_000);
    let alive = |world: &World| world.gateway.trunks(world.now).iter().map(|trunk| trunk.alive).collect::<Vec<_>>();
    assert_eq!(alive(&world), [Some(true), Some(true)]);
    world.phone(TRUNK_A).does = Does::Dead;
    // A question, and the 32 s after which nobody answers (RFC 3261 §17.1.2.2).
    world.run_ms(30_000 + 33_000);
    assert_eq!(alive(&world), [Some(false), Some(true)]);
    let call = world.dial(ALICE, "+447700900123", Offer::rtp(&[Codec::Opus]));
    world.run_ms(1_000);
    assert_eq!(
        (world.phone(TRUNK_A).offers_seen, world.phone(TRUNK_B).live()),
        (0, 1),
        "nobody waits for the dead one"
    );
    world.hang_up(ALICE, call);
    world.phone(TRUNK_A).does = Does::Answer { after_ms: 200 };
    world.run_ms(70_000);
    assert_eq!(alive(&world), [Some(true), Some(true)]);
    world.dial(ALICE, "+447700900123", Offer::rtp(&[Codec::Opus]));
    world.run_ms(1_000);
    assert_eq!((world.phone(TRUNK_A).live(), world.phone(TRUNK_B).live()), (1, 0));
}

#[test]
fn the_servers_behind_a_trunks_name_are_tried_in_their_order_and_a_dead_one_last_afterwards() {
    for (does, within_ms) in [(Does::Dead, 6_000), (Does::Refuse { code: 503, after_ms: 10 }, 2_000)] {
        let mut world = World::with(28, |routes| {
            routes.trunks[0].host = "sbc.example".to_owned();
            routes.trunks[0].port = None;
            routes.trunks[0].allowed_sources.push("203.0.113.6/32".parse().unwrap());
            routes.trunks[1].pattern = None;
        });
        let srv =
            |priority, target: &str| Srv { priority, weight: 1, port: 5060, target: format!("{target}.sbc.example.") };
        let address = |text: &str| Records::Addresses(vec![text.parse().unwrap()]);
        world.dns = vec![
            (Question::Srv("_sip._udp.sbc.example".to_owned()), Records::Srv(vec![srv(20, "b"), srv(10, "a")])),
            (Question::Address("a.sbc.example".to_owned()), address("203.0.113.5")),
            (Question::Address("b.sbc.example".to_owned()), address("203.0.113.6")),
        ];
        world.phone(TRUNK_A).does = does;
        let call = world.dial(BOB, "+447700900123", Offer::rtp(&[Codec::Opus]));
        world.run_ms(within_ms);
        assert_eq!(world.answer(BOB, call).codecs.len(), 1);
        assert_eq!((world.phone(TRUNK_A).live(), world.phone(TRUNK_B).live()), (0, 1));
        let mut words = world.steps.iter().filter(|(step, _)| *step == Step::Answered).map(|(_, words)| words.as_str());
        assert!(words.next_back().unwrap().contains("200 from trunk a"), "it is one trunk");
        world.hang_up(BOB, call);
        world.run_ms(1_000);
        assert_eq!(world.phone(TRUNK_B).live(), 0, "BYE went where the call is");
        let (asked, call) =
            (world.phone(TRUNK_A).calls.len(), world.dial(BOB, "+447700900123", Offer::rtp(&[Codec::Opus])));
        world.run_ms(1_000);
        assert!(world.end(BOB, call).is_none());
        assert_eq!((world.phone(TRUNK_A).calls.len(), world.phone(TRUNK_B).live()), (asked, 1), "at once");
        world.settle();
    }
}

/// A provider that sends the call elsewhere is followed; one that sends it round in a circle is not, and the next trunk is asked.
#[test]
fn a_trunk_that_redirects_is_followed() {
    let mut world = World::new(29);
    let call = world.dial(BOB, "+447700900123", Offer::rtp(&[Codec::Opus]));
    world.phone(TRUNK_A).does = Does::Redirect { to: "sip:+447700900123@203.0.113.6:5060" };
    world.run_ms(3_000);
    assert_eq!(world.answer(BOB, call).codecs.len(), 1);
    assert_eq!((world.phone(TRUNK_A).live(), world.phone(TRUNK_B).live()), (0, 1));
    world.hang_up(BOB, call);
    world.run_ms(1_000);
    world.phone(TRUNK_A).does = Does::Redirect { to: "sip:+447700900123@203.0.113.5:5060" };
    let call = world.dial(BOB, "+447700900123", Offer::rtp(&[Codec::Opus]));
    world.run_ms(5_000);
    assert_eq!(world.phone(TRUNK_A).calls.len(), 3, "once more at the place that was named, and not again");
    assert!(world.end(BOB, call).is_none() && world.phone(TRUNK_B).live() == 1, "the next trunk carries it");
    assert!(world.steps.iter().any(|(step, words)| *step == Step::Failover && words.contains("leads nowhere")));
    world.settle();
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

/// Chromium counts keys on the audio's clock, and makes three end packets of one that is agreed on at 8 kHz beside Opus.
#[test]
fn a_browser_is_asked_for_events_on_opus_clock() {
    for (profile, clocks) in [(MediaProfile::Webrtc, vec![48_000, 8_000]), (MediaProfile::Rtp, vec![8_000])] {
        let mut world = World::with(20, |routes| routes.trunks[0].media = profile);
        let mut offer = Offer::browser();
        offer.sdp = offer.sdp.replace(" 111 101\r\n", " 111 101 110\r\na=rtpmap:110 telephone-event/48000\r\n");
        let call = world.dial(BOB, "+447700900123", offer);
        world.run_ms(3_000);
        let answered: Vec<u32> = world.answer(BOB, call).telephone_events.iter().map(|e| e.clock_rate_hz).collect();
        assert_eq!(answered, [48_000], "both were offered");
        let sent = engine::sdp::parse(&world.phone(TRUNK_A).invite().sdp).unwrap();
        let offered: Vec<u32> = sent.telephone_events.iter().map(|event| event.clock_rate_hz).collect();
        assert_eq!(offered, clocks, "toward a leg of {profile:?}");
        world.hang_up(BOB, call);
        world.settle();
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
fn the_version_in_our_origin_counts_changes_of_ours_and_only_them() {
    let mut world = World::new(19);
    let call = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    let offered = world.phone(BOB).invite().sdp.clone();
    let answered = world.phone(TRUNK_A).placed[&call].answer.clone().unwrap();
    // On hold and back, and every offer a second time.
    let offers =
        [Direction::SendRecv, Direction::SendOnly, Direction::SendOnly, Direction::SendRecv, Direction::SendRecv];
    for direction in offers {
        for phone in [TRUNK_A, BOB] {
            world.offer_anew(phone, direction);
            world.run_ms(1_000);
        }
    }
    for (phone, first, versions) in [(TRUNK_A, answered, [1, 1, 2, 2, 3, 3]), (BOB, offered, [1, 1, 2, 2, 3, 3])] {
        let later = world.phone(phone).answers_seen.clone();
        let written: Vec<Origin> = [first].iter().chain(&later).map(|text| Origin::of(text)).collect();
        assert_eq!(written.iter().map(|origin| origin.version).collect::<Vec<_>>(), versions, "{phone}");
        for pair in written.windows(2) {
            assert_eq!(pair[0].session, pair[1].session);
            assert_eq!(pair[0].rest == pair[1].rest, pair[0].version == pair[1].version, "{phone}: {pair:#?}");
        }
    }
    world.hang_up(TRUNK_A, call);
    world.settle();
}

/// A description, taken apart at its `o=` (RFC 8866 §5.2).
#[derive(Debug)]
struct Origin {
    session: String,
    version: u64,
    rest: String,
}

impl Origin {
    fn of(text: &str) -> Origin {
        let line = text.lines().find(|line| line.starts_with("o=")).unwrap();
        let fields: Vec<&str> = line.split(' ').collect();
        Origin { session: fields[1].to_owned(), version: fields[2].parse().unwrap(), rest: text.replace(line, "") }
    }
}

#[test]
fn a_user_is_in_no_more_calls_than_it_may_be() {
    let mut world = World::with(25, |routes| routes.users.get_mut("alice").unwrap().calls_max = 1);
    world.phone(ALICE_TOO).does = Does::Ring;
    let first = world.dial(TRUNK_A, "alice", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    assert!(world.end(TRUNK_A, first).is_none(), "two devices that ring are one call");
    let second = world.dial(TRUNK_B, "alice", Offer::rtp(&[Codec::Opus]));
    let own = world.dial(ALICE, "carol", Offer::rtp(&[Codec::Opus]));
    world.run_ms(1_000);
    for (phone, call) in [(TRUNK_B, second), (ALICE, own)] {
        let Some(SipEnd::Rejected { code: 486, reason }) = world.end(phone, call) else {
            panic!("{:?}", world.end(phone, call))
        };
        assert!(reason.contains("calls_max"), "{reason}");
    }
    assert_eq!(world.phone(ALICE).calls.len(), 1);
    let group = world.dial(TRUNK_B, "everyone", Offer::rtp(&[Codec::Opus]));
    world.run_ms(1_000);
    assert_eq!((world.phone(ALICE).calls.len(), world.phone(CAROL).live()), (1, 1), "a group rings its others");
    world.hang_up(TRUNK_B, group);
    world.hang_up(TRUNK_A, first);
    world.run_ms(1_000);
    let third = world.dial(TRUNK_A, "alice", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    assert!(world.end(TRUNK_A, third).is_none() && world.phone(ALICE).live() == 1);
    world.settle();
}

#[test]
fn a_caller_that_offers_nothing_is_offered_the_callees_codec_and_answers_in_its_ack() {
    let mut world = World::new(26);
    world.phone(BOB).takes = Some(Codec::Pcma);
    let answers = world.script("INVITE", 1, None, "");
    let codes: Vec<u16> = answers.iter().filter_map(|answer| answer.code()).collect();
    assert!(codes.contains(&180) && codes.contains(&200), "{codes:?}");
    let ok = answers.last().unwrap().clone();
    let offer = sdp::parse(ok.sdp().unwrap()).unwrap();
    assert_eq!(offer.codecs[0].codec, Codec::Pcma, "what bob took comes first");
    assert!(offer.codecs.len() == 3 && !offer.telephone_events.is_empty(), "what can be transcoded follows");
    assert!(world.only_bridge().remotes.iter().all(|(leg, _)| *leg == LegName::B));
    world.script("ACK", 1, Some(&ok), &Offer::rtp(&[Codec::Pcma]).sdp);
    let (leg, LegRemote::Rtp(remote)) = world.only_bridge().remotes.last().unwrap() else { panic!() };
    assert_eq!((*leg, remote.address.port(), remote.format.codec), (LegName::A, 4_000, Codec::Pcma));
    // Hold by UPDATE, which is served as a re-INVITE is.
    let hold = Offer::rtp(&[Codec::Pcma]).sdp.replace("a=sendrecv", "a=sendonly");
    let answers = world.script("UPDATE", 2, Some(&ok), &hold);
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(answers[0].code() == Some(200) && answers[0].sdp().unwrap().contains("a=recvonly"));
    let LegRemote::Rtp(remote) = &world.only_bridge().remotes.last().unwrap().1 else { panic!() };
    assert!(!remote.sending);
    world.script("BYE", 3, Some(&ok), "");
    assert_eq!(world.phone(BOB).live(), 0);
    let said: Vec<&str> = world.steps.iter().filter(|(step, _)| *step == Step::Meta).map(|(_, w)| w.as_str()).collect();
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("trunk a says x-wa-meta-call-duration: 7; X-Other: xx") && said[0].len() < 400);
    world.settle();
}

#[test]
fn what_is_offered_to_a_caller_that_offers_nothing_is_what_its_trunk_speaks() {
    for profile in [MediaProfile::Rtp, MediaProfile::Sdes, MediaProfile::Webrtc] {
        let mut world = World::with(30, |routes| routes.trunks[0].media = profile);
        let ok = world.script("INVITE", 1, None, "").pop().unwrap();
        let offer = ok.sdp().unwrap();
        world.script("ACK", 1, Some(&ok), &answer_to(offer, 4_444, None, None));
        let (leg, remote) = world.only_bridge().remotes.last().unwrap();
        assert_eq!(*leg, LegName::A);
        match (profile, remote) {
            (MediaProfile::Rtp, LegRemote::Rtp(remote)) => assert!(remote.srtp.is_none()),
            (MediaProfile::Sdes, LegRemote::Rtp(remote)) => assert!(remote.srtp.is_some()),
            (MediaProfile::Webrtc, LegRemote::Webrtc(remote)) => assert_eq!(remote.fingerprint, [9; 32]),
            (_, remote) => panic!("{profile:?}: {remote:?}"),
        }
        // It is a call as any other: bob passes it on.
        world.refer(BOB, "sip:carol@192.0.2.1");
        world.run_ms(2_000);
        assert_eq!((world.phone(BOB).live(), world.phone(CAROL).live()), (0, 1));
        world.script("BYE", 2, Some(&ok), "");
        world.settle();
    }
}

#[test]
fn a_caller_whose_late_answer_cannot_be_used_is_let_go_with_the_callee() {
    for (transcoding, answer) in
        [(false, Offer::rtp(&[Codec::Pcmu]).sdp), (true, "v=0\r\n".to_owned()), (true, String::new())]
    {
        let mut world = World::with(27, |routes| routes.trunks[0].transcoding = transcoding);
        let answers = world.script("INVITE", 1, None, "");
        let ok = answers.last().unwrap().clone();
        assert_eq!(sdp::parse(ok.sdp().unwrap()).unwrap().codecs.len(), if transcoding { 3 } else { 1 });
        let answers = world.script("ACK", 1, Some(&ok), &answer);
        let bye = answers.iter().find(|message| message.method() == Some("BYE")).expect("a BYE");
        assert!(bye.header("Call-ID") == Some("scripted"));
        assert_eq!((world.phone(BOB).live(), world.bridges.len()), (0, 0));
        world.settle();
    }
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
    let (mut bridged, mut transferred, mut joined) = (0, 0, 0);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| one_seed(seed));
        let (up, moved, met) =
            outcome.unwrap_or_else(|_| panic!("SIM_SEED={seed} cargo test -p control --test call_exchange"));
        bridged += u64::from(up);
        transferred += u64::from(moved);
        joined += u64::from(met);
    }
    if one.is_none() {
        assert!(bridged > SEEDS / 3, "only {bridged} calls were bridged");
        assert!(transferred > SEEDS / 20, "only {transferred} calls were transferred");
        assert!(joined > SEEDS / 20, "only {joined} calls were joined, or taken over");
    }
}

fn one_seed(seed: u64) -> (bool, bool, bool) {
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
    for _ in 0..6 {
        world.run_ms(u64::from(random.below(4_000)));
        let phone = [ALICE, ALICE_TOO, BOB, CAROL, TRUNK_A, TRUNK_B][random.below(6) as usize];
        match random.below(10) {
            0 => world.hang_up(from, call),
            1 => world.hang_up_all(phone),
            3 | 4 => {
                let to = ["carol", "alice", "+447700900123"][random.below(3) as usize];
                world.dial([ALICE, BOB, CAROL][random.below(3) as usize], to, Offer::rtp(&[Codec::Opus]));
            }
            5 | 6 => attend_somewhere(&mut world, &mut random),
            7 => take_over(&mut world),
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
    let met = world.steps.iter().any(|(step, words)| *step == Step::Transfer && words.contains("takes the place of"));
    world.faults = Faults::default();
    world.hang_up(from, call);
    world.settle();
    (up, moved, met)
}

/// Whoever is in two calls joins them, one way or the other.
fn attend_somewhere(world: &mut World, random: &mut Random) {
    for phone in [ALICE, ALICE_TOO, BOB, CAROL, TRUNK_A, TRUNK_B] {
        let calls = world.all_talking(phone);
        let [first, .., last] = calls[..] else { continue };
        match random.below(2) {
            0 => world.attend(phone, first, last),
            _ => world.attend(phone, last, first),
        }
    }
}

/// Alice's other device takes whatever the first one has.
fn take_over(world: &mut World) {
    let Some(call) = world.phone(ALICE).calls.iter().find(|call| call.end.is_none()).map(|call| call.call) else {
        return;
    };
    if let Some(named) = world.phone(ALICE).agent.replaces(call) {
        world.replace(ALICE_TOO, &named, Offer::rtp(&[Codec::Opus, Codec::Pcmu]));
    }
}
