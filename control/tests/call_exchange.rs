//! Calls between trunks and users in virtual time: the real edge with its routes, registrar and agent; phones and trunks with
//! agents of their own on links with seeded faults; an engine that is played, and checks what it is told.

mod exchange_world;

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

/// The two bridges of calls that were joined: each sends to the other's port on the loopback address, and nobody else was told.
fn assert_joined(world: &World) {
    assert_eq!(world.bridges.len(), 2);
    let inside: Vec<SocketAddr> = world
        .bridges
        .values()
        .map(|bridge| {
            assert_eq!((bridge.legs.len(), bridge.seats), (2, 1));
            let Some((LegName::H, LegRemote::Rtp(remote))) = bridge.remotes.last() else {
                panic!("{:?}", bridge.remotes)
            };
            assert!(remote.sending && remote.address.ip().is_loopback());
            remote.address
        })
        .collect();
    assert_ne!(inside[0].port(), inside[1].port());
}

#[test]
fn a_user_transfers_a_trunks_call_to_whom_it_has_consulted() {
    for consulted in ["carol", "+447700900123"] {
        for asks_in_first in [true, false] {
            let mut world = World::new(19);
            let first = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
            world.run_ms(2_000);
            world.offer_anew(BOB, Direction::SendOnly);
            world.run_ms(500);
            let second = world.dial(BOB, consulted, Offer::rtp(&[Codec::Opus, Codec::Pcmu]));
            world.run_ms(2_000);
            let came = world.phone(BOB).calls[0].call;
            let other = if consulted == "carol" { CAROL } else { TRUNK_A };
            let offers = [TRUNK_A, CAROL].map(|phone| world.phone(phone).offers_seen);
            match asks_in_first {
                true => world.attend(BOB, came, second),
                false => {
                    // As JsSIP names a call that came to it: by who called, not by whose tag is whose.
                    let named = world.phone(BOB).agent.replaces(came).unwrap();
                    let swapped = Replaces { to_tag: named.from_tag.clone(), from_tag: named.to_tag.clone(), ..named };
                    world.attend_naming(BOB, second, &swapped);
                }
            }
            world.run_ms(2_000);
            assert_eq!(world.phone(BOB).transfers, [(202, false), (100, false), (200, true)]);
            assert!(world.end(BOB, came).is_some() && world.end(BOB, second).is_some(), "who asked is let go");
            assert!(world.end(TRUNK_A, first).is_none());
            assert_eq!(world.phone(other).live(), 1);
            assert_eq!(offers, [TRUNK_A, CAROL].map(|phone| world.phone(phone).offers_seen), "nobody is offered anew");
            assert_joined(&world);
            // Whoever hangs up ends all of it.
            match asks_in_first {
                true => world.hang_up(TRUNK_A, first),
                false => world.hang_up_all(other),
            }
            world.run_ms(1_000);
            assert!(world.end(TRUNK_A, first).is_some());
            assert_eq!(world.phone(other).live(), 0);
            assert!(world.bridges.is_empty());
            world.settle();
        }
    }
}

#[test]
fn whatsapps_call_is_transferred_after_consultation_and_again_and_its_description_stays() {
    let mut world = World::new(20);
    world.new_session("user:bob");
    world.run_ms(2_000);
    let before: Vec<usize> = world.bridges.values().map(|bridge| bridge.remotes.len()).collect();
    let second = world.dial(BOB, "carol", Offer::rtp(&[Codec::Pcmu]));
    world.run_ms(2_000);
    let came = world.phone(BOB).calls[0].call;
    world.attend(BOB, came, second);
    world.run_ms(1_000);
    assert_joined(&world);
    let session = world.bridges.values().next().unwrap();
    assert!(session.remotes[before[0]..].iter().all(|(leg, _)| *leg == LegName::H), "WhatsApp's leg is not touched");
    let LegRemote::Rtp(remote) = &session.remotes.last().unwrap().1 else { panic!() };
    assert_eq!(remote.format.codec, Codec::Opus, "carol's bridge transcodes, WhatsApp's relays");
    // Carol passes the call on without asking; to whom it goes is called on WhatsApp's behalf.
    world.refer(CAROL, "sip:alice@192.0.2.1");
    world.run_ms(4_000);
    assert_eq!(world.phone(CAROL).transfers.last(), Some(&(200, true)));
    let invite = &world.phones[&address(ALICE)].calls;
    assert!(invite.last().unwrap().from.contains("447700900123"), "{}", invite.last().unwrap().from);
    assert_eq!((world.phone(CAROL).live(), world.bridges.len()), (0, 2));
    let token = std::mem::take(&mut world.token);
    world.gateway.handle_request(world.now, 3, EdgeRequest::Hangup { edge_session_id: token });
    world.run_ms(2_000);
    assert_eq!((world.phone(ALICE).live(), world.bridges.len()), (0, 0));
    world.settle();
}

#[test]
fn an_attended_transfer_that_cannot_be_leaves_both_calls_as_they_were() {
    let mut world = World::with(21, |routes| {
        for trunk in &mut routes.trunks {
            trunk.transcoding = false;
        }
    });
    let first = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    let second = world.dial(BOB, "carol", Offer::rtp(&[Codec::Pcmu]));
    let third = world.dial(CAROL, "alice", Offer::rtp(&[Codec::Opus]));
    world.run_ms(4_000);
    let came = world.phone(BOB).calls[0].call;
    let known = world.phone(BOB).agent.replaces(second).unwrap();
    let foreign = world.phone(CAROL).agent.replaces(third).unwrap();
    let own = world.phone(BOB).agent.replaces(came).unwrap();
    for (named, code) in [
        (Replaces { to_tag: "nobody".into(), ..known.clone() }, 481),
        (foreign, 403),
        (own, 403),
        (Replaces { early_only: true, ..known.clone() }, 486),
        (known, 488),
    ] {
        world.attend_naming(BOB, came, &named);
        world.run_ms(1_000);
        assert_eq!(world.phone(BOB).transfers.last(), Some(&(code, true)), "{named:?}");
    }
    assert!(world.end(TRUNK_A, first).is_none() && world.end(BOB, second).is_none());
    assert_eq!((world.bridges.len(), world.phone(BOB).live()), (3, 1));
    assert!(world.bridges.values().all(|bridge| bridge.legs.len() == 2));
    assert!(world.steps.iter().any(|(_, words)| words.contains("transcoding is off")));
    world.settle();
}

#[test]
fn legs_that_the_engine_cannot_open_leave_both_calls_as_they_were() {
    for (refused, leaves) in [(0, false), (1, false), (0, true), (1, true)] {
        let mut world = World::new(22);
        let first = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
        world.run_ms(2_000);
        let second = world.dial(BOB, "carol", Offer::rtp(&[Codec::Opus]));
        world.run_ms(2_000);
        let came = world.phone(BOB).calls[0].call;
        (world.refuses_legs, world.mute_engine) = (world.bridges.keys().nth(refused).copied(), false);
        if leaves {
            (world.refuses_legs, world.mute_engine) = (None, true);
        }
        world.attend(BOB, came, second);
        if leaves {
            // The engine is slow, and bob does not wait for it.
            world.run_ms(500);
            world.hang_up_all(BOB);
        }
        world.run_ms(8_000);
        assert_eq!(world.end(TRUNK_A, first).is_some(), leaves);
        assert_eq!((world.phone(CAROL).live(), world.bridges.len()), if leaves { (0, 0) } else { (1, 2) });
        if !leaves {
            assert_eq!(world.phone(BOB).transfers.last(), Some(&(503, true)));
            assert!(world.bridges.values().all(|bridge| bridge.legs.len() == 2));
        }
        world.mute_engine = false;
        world.settle();
    }
}

#[test]
fn a_consultation_that_is_not_answered_yet_becomes_a_blind_transfer() {
    let mut world = World::new(23);
    world.phone(CAROL).does = Does::Answer { after_ms: 3_000 };
    let first = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    let second = world.dial(BOB, "carol", Offer::rtp(&[Codec::Opus]));
    world.run_ms(1_000);
    let came = world.phone(BOB).calls[0].call;
    world.attend(BOB, came, second);
    world.run_ms(6_000);
    assert_eq!(world.phone(BOB).transfers.last(), Some(&(200, true)));
    assert!(world.end(TRUNK_A, first).is_none() && world.end(BOB, second).is_some());
    let invite = world.phone(CAROL).invite();
    assert!(invite.from.contains("+441632960000"));
    assert_eq!(invite.referred_by.as_deref(), Some("<sip:bob@192.0.2.1>"), "who sent the caller on (RFC 3892)");
    assert_eq!((world.phone(CAROL).live(), world.bridges.len()), (1, 1));
    world.settle();
}

#[test]
fn another_device_of_the_user_takes_a_call_that_talks_and_one_that_rings() {
    for rings in [false, true] {
        let mut world = World::new(24);
        world.phone(ALICE).does = if rings { Does::Ring } else { Does::Answer { after_ms: 100 } };
        world.phone(ALICE_TOO).does = Does::Ring;
        let call = world.dial(TRUNK_A, "alice", Offer::rtp(&[Codec::Opus, Codec::Pcmu]));
        world.run_ms(2_000);
        let offers = world.phone(TRUNK_A).offers_seen;
        let came = world.phone(ALICE).calls[0].call;
        let named = world.phone(ALICE).agent.replaces(came).unwrap();
        // Somebody else may not.
        let stranger = world.replace(CAROL, &named, Offer::rtp(&[Codec::Opus]));
        world.run_ms(500);
        assert!(matches!(world.end(CAROL, stranger), Some(SipEnd::Rejected { code: 403, .. })));
        let taking = world.replace(ALICE_TOO, &named, Offer::rtp(&[Codec::Pcmu, Codec::Opus]));
        world.run_ms(1_000);
        assert_eq!(world.answer(ALICE_TOO, taking).codecs[0].codec, Codec::Opus, "the one in force");
        assert_eq!(world.answer(TRUNK_A, call).codecs[0].codec, Codec::Opus);
        assert!(world.end(ALICE, came).is_some() && world.end(TRUNK_A, call).is_none());
        assert_eq!(world.phone(TRUNK_A).offers_seen, offers);
        assert_eq!(world.only_bridge().legs.len(), 2);
        assert_eq!(world.phone(ALICE_TOO).live(), 0, "its own ringing is over");
        // What is gone cannot be replaced once more.
        let late = world.replace(ALICE_TOO, &named, Offer::rtp(&[Codec::Opus]));
        world.run_ms(500);
        assert!(matches!(world.end(ALICE_TOO, late), Some(SipEnd::Rejected { code: 603 | 481, .. })));
        world.hang_up(ALICE_TOO, taking);
        world.run_ms(1_000);
        assert!(world.end(TRUNK_A, call).is_some());
        world.settle();
    }
}

#[test]
fn a_trunk_takes_its_own_call_over_without_an_offer() {
    for rings in [false, true] {
        let mut world = World::with(31, |routes| routes.trunks[1].pattern = None);
        world.phone(TRUNK_A).does = if rings { Does::Ring } else { Does::Answer { after_ms: 100 } };
        let call = world.dial(BOB, "+447700900123", Offer::rtp(&[Codec::Pcmu]));
        world.run_ms(2_000);
        let came = world.phone(TRUNK_A).calls[0].call;
        world.script_replaces = world.phone(TRUNK_A).agent.replaces(came);
        let ok = world.script("INVITE", 1, None, "").pop().unwrap();
        assert_eq!(ok.code(), Some(200), "{ok:?}");
        assert_eq!(sdp::parse(ok.sdp().unwrap()).unwrap().codecs[0].codec, Codec::Pcmu, "what bob has comes first");
        assert!(world.end(TRUNK_A, came).is_some());
        world.script("ACK", 1, Some(&ok), &Offer::rtp(&[Codec::Pcmu]).sdp);
        let (leg, LegRemote::Rtp(remote)) = world.only_bridge().remotes.last().unwrap() else { panic!() };
        assert_eq!((*leg, remote.address.port()), (LegName::B, 4_000));
        assert_eq!(world.answer(BOB, call).codecs[0].codec, Codec::Pcmu);
        world.script("BYE", 2, Some(&ok), "");
        assert!(world.end(BOB, call).is_some());
        world.settle();
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

#[test]
fn a_gateway_that_has_died_ends_its_calls_on_both_sides_when_it_comes_back() {
    let mut world = World::new(18);
    let call = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
    world.new_session("user:carol");
    world.run_ms(2_000);
    assert_eq!((world.phone(BOB).live(), world.phone(CAROL).live(), world.kept.len()), (1, 1, 3));
    // A peer that moves is found where it is.
    world.offer_anew(CAROL, Direction::SendOnly);
    world.run_ms(1_000);
    world.crash();
    world.run_ms(1_000);
    let ends = [vec![world.end(TRUNK_A, call).unwrap()], world.phone(BOB).ends(), world.phone(CAROL).ends()].concat();
    assert_eq!(ends.len(), 3);
    for end in ends {
        assert!(matches!(&end, SipEnd::ByeReceived(Some(reason)) if reason.contains("restarted")), "{end:?}");
    }
    assert_eq!((world.gateway.counters().sip_calls_cut, world.kept.len()), (3, 0));
    world.settle();
}

#[test]
fn a_gateway_that_has_died_stops_whatever_rings_when_it_comes_back() {
    for answers_meanwhile in [false, true] {
        let mut world = World::new(20);
        // The 2xx is on its way when the gateway dies.
        let ring = if answers_meanwhile { Does::Answer { after_ms: 998 } } else { Does::Ring };
        for phone in [BOB, CAROL] {
            world.phone(phone).does = ring;
        }
        let call = world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
        world.new_session("user:carol");
        world.run_ms(1_000);
        assert_eq!(world.kept.len(), 3);
        world.crash();
        world.run_ms(1_000);
        let refused = world.end(TRUNK_A, call);
        assert!(matches!(refused, Some(SipEnd::Rejected { code: 503, .. })), "{refused:?}");
        for phone in [BOB, CAROL] {
            let ends = world.phone(phone).ends();
            let expected = match answers_meanwhile {
                true => matches!(ends[..], [SipEnd::ByeReceived(Some(_))]),
                false => matches!(ends[..], [SipEnd::CancelReceived]),
            };
            assert!(expected, "{phone}: {ends:?}");
        }
        assert_eq!((world.kept.len(), world.gateway.counters().sip_calls_cut), (0, 3));
        world.settle();
    }
}

#[test]
fn thousands_of_calls_that_a_crash_has_cut_are_ended_within_seconds() {
    let mut world = World::new(19);
    world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
    world.run_ms(2_000);
    // As many as there may be, all like the one that is there, under tags of their own. Nobody knows them: 481 is an answer too.
    let (key, dialog) = world.kept.first_key_value().unwrap();
    let (call_id, tag) = key.split_once(';').unwrap();
    let (call_id, tag, text) = (call_id.to_owned(), tag.to_owned(), serde_json::to_string(dialog).unwrap());
    for number in world.kept.len()..8_192 {
        let other = format!("{tag}{number}");
        let dialog = serde_json::from_str(&text.replace(&tag, &other)).unwrap();
        world.kept.insert(format!("{call_id};{other}"), dialog);
    }
    world.crash();
    world.run_ms(8_000);
    assert_eq!(world.gateway.counters().sip_calls_cut, 8_192);
    assert!(world.kept.is_empty(), "{} are left", world.kept.len());
    assert_eq!(world.phone(BOB).live(), 0);
    world.settle();
}

/// Whatever was up when it died ends on both sides, on links that lose a seventh of everything.
#[test]
fn a_crash_at_any_instant_leaves_no_call_and_no_record() {
    let mut spared = 0;
    for seed in 0..60 {
        let mut world = World::new(5_000 + seed);
        let mut random = Random::from_test_seed(seed);
        world.faults = Faults { loss_pct: random.below(15), duplicate_pct: 5, delay_ms_max: random.below(200) };
        for phone in [ALICE, BOB, CAROL, TRUNK_A] {
            world.phone(phone).does = Does::Answer { after_ms: u64::from(random.below(2_000)) };
        }
        world.dial(TRUNK_A, "bob", Offer::rtp(&[Codec::Opus]));
        world.dial(ALICE, "+447700900123", Offer::rtp(&[Codec::Opus]));
        world.new_session("user:carol");
        world.run_ms(u64::from(random.below(3_500)));
        if random.below(3) == 0 {
            world.hang_up_all(BOB);
            world.run_ms(u64::from(random.below(300)));
        }
        world.crash();
        // A 2xx that nobody acknowledges ends by itself after 32 s (RFC 3261 §13.3.1.4).
        world.run_ms(45_000);
        // An INVITE that was repeated after the crash began a call anew; nobody else talks to anybody.
        let placed = |phone: &Phone| phone.placed.values().filter(|p| p.answer.is_some() && p.end.is_none()).count();
        let talking: usize = world.phones.values().map(|phone| phone.live() + placed(phone)).sum();
        let calls = world.gateway.alive().sessions;
        assert_eq!((talking, world.kept.len()), (2 * calls, 2 * calls), "seed {seed}");
        spared += calls;
        world.faults = Faults::default();
        world.settle();
    }
    assert!(spared < 10, "{spared} calls went on");
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
