use super::*;
use crate::random::Random;
use std::collections::BTreeMap;

/// Every version against every other that it can speak with.
const PAIRINGS: [(DtlsVersions, DtlsVersions, DtlsVersion); 7] = [
    (DtlsVersions::V12, DtlsVersions::V12, DtlsVersion::V12),
    (DtlsVersions::V13, DtlsVersions::V13, DtlsVersion::V13),
    (DtlsVersions::V12, DtlsVersions::Auto, DtlsVersion::V12),
    (DtlsVersions::V13, DtlsVersions::Auto, DtlsVersion::V13),
    (DtlsVersions::Auto, DtlsVersions::V12, DtlsVersion::V12),
    (DtlsVersions::Auto, DtlsVersions::V13, DtlsVersion::V13),
    (DtlsVersions::Auto, DtlsVersions::Auto, DtlsVersion::V13),
];

#[test]
fn every_pair_of_versions_connects_with_crossed_keys() {
    for (client, server, version) in PAIRINGS {
        let mut net = Net::new(client, server, 1, Faults::default());
        net.run();
        let (keys_c, keys_s) = (net.keys(0), net.keys(1));
        assert_eq!((keys_c.0, keys_s.0), (version, version));
        assert_eq!(keys_c.1.profile, keys_s.1.profile);
        assert!(keys_c.1.local == keys_s.1.remote && keys_c.1.remote == keys_s.1.local);
        assert!(keys_c.1.local != keys_c.1.remote);
        assert!(net.longest <= DTLS_DATAGRAM_BYTES_MAX, "{}", net.longest);
    }
}

/// On a path that loses nothing: the other library's timer is the system's.
#[test]
fn openssl_connects_with_itself_and_with_the_first_library_in_both_roles() {
    let others = [DtlsVersions::V12, DtlsVersions::Auto, DtlsVersions::OpenSsl];
    let pairings =
        others.into_iter().flat_map(|other| [(DtlsVersions::OpenSsl, other), (other, DtlsVersions::OpenSsl)]);
    for (client, server) in pairings {
        for jitter_ms in [0, 15] {
            let mut net = Net::new(client, server, 1, Faults { jitter_ms, ..Faults::default() });
            net.run();
            let (keys_c, keys_s) = (net.keys(0), net.keys(1));
            assert_eq!((keys_c.0, keys_s.0), (DtlsVersion::V12, DtlsVersion::V12), "{client:?} {server:?}");
            assert_eq!(keys_c.1.profile, keys_s.1.profile);
            assert!(keys_c.1.local == keys_s.1.remote && keys_c.1.remote == keys_s.1.local);
            assert!(net.longest <= DTLS_DATAGRAM_BYTES_MAX, "{}", net.longest);
        }
    }
}

#[test]
fn openssl_gives_no_keys_to_another_certificate_and_hears_close_notify() {
    let (a, b) = identities();
    let mut wrong = b.fingerprint();
    wrong[31] ^= 1;
    for other in [DtlsVersions::V12, DtlsVersions::OpenSsl] {
        let fingerprints = (wrong, a.fingerprint());
        let mut net = Net::between(DtlsVersions::OpenSsl, other, 1, Faults::default(), fingerprints);
        net.run();
        assert_eq!(net.end(0), Some(Cause::DtlsFingerprintMismatch));

        let mut net = Net::new(DtlsVersions::OpenSsl, other, 1, Faults::default());
        net.run();
        net.peers[1].close();
        net.drain(1);
        net.run();
        assert_eq!(net.end(0), Some(Cause::DtlsClosed), "{other:?}");
    }
}

#[test]
fn noise_leaves_an_openssl_handshake_and_association_alone() {
    for (client, server) in [(DtlsVersions::OpenSsl, DtlsVersions::V12), (DtlsVersions::V12, DtlsVersions::OpenSsl)] {
        let mut net = Net::new(client, server, 5, Faults::default());
        net.noise = 40;
        net.run();
        assert_eq!((net.keys(0).0, net.keys(1).0), (DtlsVersion::V12, DtlsVersion::V12));
    }
}

#[test]
fn an_end_says_whether_the_other_library_may_do_better() {
    let refused = |detail| may_suit_openssl(Cause::DtlsRefused, detail);
    assert!(refused(Some("peer sent a fatal alert: handshake_failure (40)")));
    assert!(refused(Some("peer sent a fatal alert: unsupported_certificate (43)")));
    assert!(refused(Some("no cipher suite in common")));
    assert!(!refused(Some("peer sent a fatal alert: user_canceled (90)")));
    assert!(!refused(Some(NO_PROFILE)) && !refused(None));
    assert!(!may_suit_openssl(Cause::DtlsTimeout, Some("handshake timeout")));
    assert!(!may_suit_openssl(Cause::DtlsFingerprintMismatch, Some("certificate has another fingerprint")));
}

#[test]
fn every_handshake_finishes_at_5_and_at_20_percent_loss() {
    for (loss_pct, seeds) in [(5, 280), (20, 280)] {
        let faults = Faults { loss_pct, duplicate_pct: 5, jitter_ms: 60, ..Faults::default() };
        let mut worst = Instant::ZERO;
        for seed in 0..seeds {
            let (client, server, version) = PAIRINGS[seed as usize % PAIRINGS.len()];
            let mut net = Net::new(client, server, seed, faults);
            net.run();
            let (keys_c, keys_s) = (net.keys(0), net.keys(1));
            assert_eq!((keys_c.0, keys_s.0), (version, version), "seed {seed}");
            assert!(keys_c.1.local == keys_s.1.remote && keys_c.1.remote == keys_s.1.local, "seed {seed}");
            worst = worst.max(net.connected_at[0].max(net.connected_at[1]));
        }
        let worst_ms = worst.since(START).as_millis();
        println!("{seeds} handshakes at {loss_pct} % loss, slowest {worst_ms} ms");
        assert!(worst.since(START).as_millis() < u128::from(DTLS_MS_MAX));
    }
}

#[test]
fn a_server_that_asks_before_it_answers_is_answered_at_once_and_at_20_percent_loss() {
    let asking = [true, false].map(dimpl::tests::identity_that_asks);
    let (cookie, group) = (&asking[0], &asking[1]);
    for (server, client, versions, version) in [
        (cookie, DtlsVersions::V12, DtlsVersions::V12, DtlsVersion::V12),
        (cookie, DtlsVersions::Auto, DtlsVersions::V12, DtlsVersion::V12),
        (cookie, DtlsVersions::V13, DtlsVersions::V13, DtlsVersion::V13),
        (cookie, DtlsVersions::Auto, DtlsVersions::V13, DtlsVersion::V13),
        (group, DtlsVersions::V13, DtlsVersions::V13, DtlsVersion::V13),
        (group, DtlsVersions::Auto, DtlsVersions::V13, DtlsVersion::V13),
        (group, DtlsVersions::Auto, DtlsVersions::Auto, DtlsVersion::V13),
    ] {
        for seed in 0..12 {
            let loss_pct = if seed == 0 { 0 } else { 20 };
            let faults = Faults { loss_pct, jitter_ms: loss_pct, ..Faults::default() };
            let mut net = Net::with(&identities().0, server, (client, versions), seed, faults);
            net.run();
            let (keys_c, keys_s) = (net.keys(0), net.keys(1));
            assert_eq!((keys_c.0, keys_s.0), (version, version), "{client:?} {versions:?}");
            assert!(keys_c.1.local == keys_s.1.remote && keys_c.1.remote == keys_s.1.local);
            assert!(net.questions > 0, "{client:?} {versions:?}: nothing was asked");
            let took_ms = net.connected_at[0].max(net.connected_at[1]).since(START).as_millis();
            assert!(
                took_ms <= if seed == 0 { 140 } else { 9_000 },
                "{client:?} {versions:?}, seed {seed}: {took_ms} ms"
            );
        }
    }
}

#[test]
fn a_client_hello_in_fragments_is_put_together() {
    for (client, server, version) in PAIRINGS {
        // The longest hello here is padded to the MTU: in 60s it makes 20 fragments.
        for fragment_bytes in [1000, 100, 60] {
            for (seed, loss_pct) in [(1, 0), (2, 0), (3, 10), (4, 10)] {
                let faults = Faults { loss_pct, duplicate_pct: 10, jitter_ms: 60, ..Faults::default() };
                let mut net = Net::new(client, server, seed, faults);
                net.split_hello = Some(fragment_bytes);
                net.run();
                assert_eq!((net.keys(0).0, net.keys(1).0), (version, version));
            }
        }
    }
}

#[test]
fn a_wrong_certificate_gets_no_keys() {
    let (a, b) = identities();
    let genuine = (b.fingerprint(), a.fingerprint());
    let mut wrong = genuine;
    wrong.0[31] ^= 1;
    wrong.1[0] ^= 1;
    for (client, server, _) in PAIRINGS {
        for (expected, cheated) in [((wrong.0, genuine.1), 0), ((genuine.0, wrong.1), 1)] {
            let mut net = Net::between(client, server, 1, Faults::default(), expected);
            net.run();
            assert_eq!(net.end(cheated), Some(Cause::DtlsFingerprintMismatch));
            assert!(net.peers[cheated].detail().is_some());
        }
    }
}

#[test]
fn a_peer_that_never_answers_is_given_up_after_dtls_ms_max() {
    for versions in [DtlsVersions::V12, DtlsVersions::V13, DtlsVersions::Auto] {
        let mut net = Net::new(versions, versions, 1, Faults { loss_pct: 100, ..Faults::default() });
        net.run();
        assert_eq!((net.end(0), net.end(1)), (Some(Cause::DtlsTimeout), Some(Cause::DtlsTimeout)));
        assert_eq!(net.now, START.plus_millis(DTLS_MS_MAX));
        let again = net.client_sent.get(1).unwrap().since(START).as_millis();
        assert!((100..=200).contains(&again), "first retransmission after {again} ms");
        // Seven retransmissions fit into the time: 150 ms, doubled, a quarter more or less.
        assert!((6..=9).contains(&net.sent), "{}", net.sent);
    }
}

#[test]
fn a_fatal_alert_in_the_clear_ends_the_handshake_with_its_name() {
    for versions in [DtlsVersions::V12, DtlsVersions::V13, DtlsVersions::Auto] {
        let mut net = Net::new(versions, versions, 1, Faults { loss_pct: 100, ..Faults::default() });
        net.drain(0);
        let alert = [21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 40];
        net.peers[0].handle_datagram(net.now, &alert);
        net.drain(0);
        assert_eq!(net.end(0), Some(Cause::DtlsRefused));
        assert_eq!(net.peers[0].detail(), Some("peer sent a fatal alert: handshake_failure (40)"));
    }
}

#[test]
fn versions_without_overlap_end_the_handshake() {
    for (client, server) in [(DtlsVersions::V12, DtlsVersions::V13), (DtlsVersions::V13, DtlsVersions::V12)] {
        let mut net = Net::new(client, server, 1, Faults::default());
        net.run();
        for side in 0..2 {
            let end = net.end(side).unwrap();
            assert!(matches!(end, Cause::DtlsRefused | Cause::DtlsTimeout), "{end:?}");
        }
    }
}

#[test]
fn noise_before_during_and_after_the_handshake_changes_nothing() {
    for (client, server, version) in PAIRINGS {
        let mut net = Net::new(client, server, 5, Faults { jitter_ms: 60, ..Faults::default() });
        net.noise = 40;
        net.run();
        assert_eq!((net.keys(0).0, net.keys(1).0), (version, version));
        for side in 0..2 {
            for _ in 0..2_000 {
                let noise = random_datagram(&mut net.random);
                net.peers[side].handle_datagram(net.now, &noise);
                net.drain(side);
            }
            net.keys(side);
        }
        net.peers[0].close();
        net.outcomes[1] = None;
        net.run();
        assert_eq!(net.end(1), Some(Cause::DtlsClosed));
    }
}

#[test]
fn close_notify_is_heard_by_the_other_side() {
    for (client, server, _) in PAIRINGS {
        for closing in 0..2 {
            let mut net = Net::new(client, server, 1, Faults::default());
            net.run();
            net.keys(0);
            net.peers[closing].close();
            net.outcomes[1 - closing] = None;
            net.run();
            assert_eq!(net.end(1 - closing), Some(Cause::DtlsClosed));
            assert_eq!(net.peers[1 - closing].detail(), Some("close_notify"));
        }
    }
}

#[test]
fn a_session_that_has_let_its_library_go_still_says_and_hears_goodbye() {
    for (client, server, _) in PAIRINGS {
        for closing in 0..2 {
            let mut net = Net::new(client, server, 1, Faults::default());
            net.run();
            for side in 0..2 {
                net.peers[side].confirm();
                net.drain(side);
                // A flight that comes once more is no goodbye.
                let noise = random_datagram(&mut net.random);
                net.peers[side].handle_datagram(net.now, &noise);
                net.drain(side);
                net.keys(side);
            }
            let sent = net.sent;
            net.peers[closing].close();
            net.outcomes[1 - closing] = None;
            net.run();
            assert_eq!(net.end(1 - closing), Some(Cause::DtlsClosed), "{client:?} {server:?} {closing}");
            assert_eq!(net.peers[1 - closing].detail(), Some("close_notify"));
            // One each: it is answered (RFC 5246 §7.2.1).
            assert!(net.sent <= sent + 2, "{} {sent}", net.sent);
        }
    }
}

/// OpenSSL judges what was sealed in advance, and its own goodbye is heard without the library that shook hands with it.
#[test]
fn what_is_left_of_a_session_exchanges_goodbyes_with_openssl() {
    for closing in 0..2 {
        for (client, server) in [(DtlsVersions::OpenSsl, DtlsVersions::V12), (DtlsVersions::V12, DtlsVersions::OpenSsl)]
        {
            let mut net = Net::new(client, server, 1, Faults::default());
            net.run();
            for side in 0..2 {
                net.peers[side].confirm();
                net.drain(side);
            }
            net.peers[closing].close();
            net.outcomes[1 - closing] = None;
            net.drain(closing);
            net.run();
            assert_eq!(net.end(1 - closing), Some(Cause::DtlsClosed), "{client:?} {server:?} {closing}");
        }
    }
}

#[test]
fn a_connected_session_waits_for_nothing() {
    let mut net = Net::new(DtlsVersions::V12, DtlsVersions::V12, 1, Faults::default());
    net.run();
    net.now = net.now.plus_millis(10 * DTLS_MS_MAX);
    net.drain(0);
    net.drain(1);
    assert_eq!(net.deadlines, [Instant::NEVER; 2]);
    net.keys(0);
}

#[test]
fn an_undrained_session_holds_a_bounded_number_of_datagrams() {
    let mut net = Net::new(DtlsVersions::Auto, DtlsVersions::Auto, 1, Faults::default());
    for _ in 0..1_000 {
        let mut stray = [7; 60];
        stray[0] = 0x2f;
        net.peers[0].handle_datagram(net.now, &stray);
    }
    assert_eq!(net.peers[0].received.len(), DTLS_QUEUE_MAX);
    net.run();
    net.keys(0);
}

#[test]
fn a_simulated_handshake_takes_the_same_steps_again() {
    for seed in 0..20 {
        let (client, server, _) = PAIRINGS[seed as usize % PAIRINGS.len()];
        let faults = Faults { loss_pct: 20, duplicate_pct: 5, jitter_ms: 60, ..Faults::default() };
        let steps = [(); 2].map(|()| {
            let mut net = Net::new(client, server, seed, faults);
            net.run();
            (net.connected_at, net.sent)
        });
        assert_eq!(steps[0], steps[1], "seed {seed}");
    }
}

/// What arrives damaged is dropped or ends that handshake; it neither panics nor hangs, and never yields other keys.
#[test]
fn damaged_datagrams_end_a_handshake_or_leave_it_alone() {
    let mut connected = 0;
    for seed in 0..400 {
        let (client, server, _) = PAIRINGS[seed as usize % PAIRINGS.len()];
        let faults = Faults { damage_pct: 10, jitter_ms: 30, ..Faults::default() };
        let mut net = Net::new(client, server, seed, faults);
        net.run();
        if let [Some(DtlsOutput::Connected { keys: a, .. }), Some(DtlsOutput::Connected { keys: b, .. })] =
            &net.outcomes
        {
            connected += 1;
            assert!(a.local == b.remote && a.remote == b.local);
        }
    }
    assert!(connected > 100, "{connected}");
}

/// The library asserts that the buffer of a poll holds the peer's certificate: ours must, whatever the caller's does.
#[test]
fn a_certificate_longer_than_a_datagram_is_taken() {
    for (client, server, version) in PAIRINGS {
        let long = dimpl::tests::identity_with_long_certificate();
        let (_, b) = identities();
        let mut net = Net::new(client, server, 1, Faults::default());
        net.peers = [
            DtlsSession::new(START, &long, DtlsRole::Client, client, b.fingerprint()),
            DtlsSession::new(START, b, DtlsRole::Server, server, long.fingerprint()),
        ];
        net.run();
        assert_eq!((net.keys(0).0, net.keys(1).0), (version, version));
    }
}

#[test]
fn exported_bytes_are_client_key_server_key_client_salt_server_salt() {
    let material: KeyingMaterial = core::array::from_fn(|at| at as u8);
    for profile in [SrtpProfile::AesCm128HmacSha1_80, SrtpProfile::AeadAes128Gcm, SrtpProfile::AeadAes256Gcm] {
        let (key, salt) = (profile.key_bytes() as u8, profile.salt_bytes() as u8);
        let master = |key_at: u8, salt_at: u8| {
            let mut bytes: Vec<u8> = (key_at..key_at + key).chain(salt_at..salt_at + salt).collect();
            bytes.resize(MASTER_BYTES_MAX, 0);
            MasterKey { bytes: bytes.try_into().unwrap() }
        };
        let (client, server) = (master(0, 2 * key), master(key, 2 * key + salt));
        let as_client = split_keys(profile, DtlsRole::Client, &material);
        let as_server = split_keys(profile, DtlsRole::Server, &material);
        assert!(as_client.local == client && as_client.remote == server);
        assert!(as_server.local == server && as_server.remote == client);
    }
}

/// Made of bytes that a demultiplexer takes for DTLS; every other one with a record header that is right.
fn random_datagram(random: &mut Random) -> Vec<u8> {
    let mut datagram = vec![0; 13 + random.below(200) as usize];
    random.fill(&mut datagram);
    datagram[0] = 20 + random.below(44) as u8;
    if random.below(2) == 0 {
        // Encrypted, or of a type that no handshake waits for: what is in the clear could be the peer's own words.
        datagram[0] = [23, 25, 26][random.below(3) as usize];
        let length = (datagram.len() - 13) as u16;
        datagram[1..3].copy_from_slice(&[0xfe, 0xfd]);
        datagram[11..13].copy_from_slice(&length.to_be_bytes());
    }
    datagram
}

/// Cuts a ClientHello that fills one record into fragments, one datagram each. Later records are numbered from 1, so
/// these are numbered from 20 to stay in the same replay window.
fn split_hello(datagram: &[u8], fragment_bytes: usize) -> Vec<Vec<u8>> {
    let whole = record::first_fragment(datagram).filter(|first| first.kind == record::CLIENT_HELLO && first.whole);
    let Some(whole) = whole else {
        return vec![datagram.to_vec()];
    };
    let (header, message) = whole.bytes.split_at(12);
    let pieces = message.chunks(fragment_bytes).enumerate().map(|(at, piece)| {
        let offset = (at * fragment_bytes) as u32;
        let mut out = datagram[..10].to_vec();
        out.push(20 + at as u8);
        out.extend((12 + piece.len() as u16).to_be_bytes());
        out.extend(&header[..6]);
        out.extend(&offset.to_be_bytes()[1..]);
        out.extend(&(piece.len() as u32).to_be_bytes()[1..]);
        out.extend(piece);
        out
    });
    pieces.collect()
}

const START: Instant = Instant::from_millis(1_000);

/// What the network does to a datagram.
#[derive(Clone, Copy, Default)]
struct Faults {
    loss_pct: u32,
    duplicate_pct: u32,
    /// Datagrams with a byte changed.
    damage_pct: u32,
    /// Extra delay at random; more than the spacing of datagrams, so it reorders.
    jitter_ms: u32,
}

/// A client (0) and a server (1), one virtual clock and a seeded network between them.
struct Net {
    now: Instant,
    peers: [DtlsSession; 2],
    deadlines: [Instant; 2],
    outcomes: [Option<DtlsOutput>; 2],
    /// By time of arrival, then order of sending.
    wire: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    sent: u64,
    longest: usize,
    /// When the client sent something.
    client_sent: Vec<Instant>,
    connected_at: [Instant; 2],
    split_hello: Option<usize>,
    /// HelloVerifyRequests and HelloRetryRequests that were sent.
    questions: u32,
    /// Random datagrams that each side gets before every genuine one.
    noise: u32,
    random: Random,
    faults: Faults,
}

impl Net {
    fn new(client: DtlsVersions, server: DtlsVersions, seed: u64, faults: Faults) -> Net {
        let (a, b) = identities();
        let expected = (b.fingerprint(), a.fingerprint());
        Net::between(client, server, seed, faults, expected)
    }

    fn between(
        client: DtlsVersions,
        server: DtlsVersions,
        seed: u64,
        faults: Faults,
        expected: (Fingerprint, Fingerprint),
    ) -> Net {
        let (a, b) = identities();
        let now = START;
        Net::of(
            [
                DtlsSession::new(now, a, DtlsRole::Client, client, expected.0),
                DtlsSession::new(now, b, DtlsRole::Server, server, expected.1),
            ],
            seed,
            faults,
        )
    }

    /// The same with other certificates, client's and server's.
    fn with(a: &Identity, b: &Identity, versions: (DtlsVersions, DtlsVersions), seed: u64, faults: Faults) -> Net {
        let peers = [
            DtlsSession::new(START, a, DtlsRole::Client, versions.0, b.fingerprint()),
            DtlsSession::new(START, b, DtlsRole::Server, versions.1, a.fingerprint()),
        ];
        Net::of(peers, seed, faults)
    }

    fn of(peers: [DtlsSession; 2], seed: u64, faults: Faults) -> Net {
        let now = START;
        Net {
            now,
            peers,
            deadlines: [now; 2],
            outcomes: [None, None],
            wire: BTreeMap::new(),
            sent: 0,
            longest: 0,
            client_sent: Vec::new(),
            connected_at: [now; 2],
            split_hello: None,
            questions: 0,
            noise: 0,
            random: Random::from_test_seed(seed),
            faults,
        }
    }

    /// Runs until both sides have an outcome and the wire is empty, or nothing is left to happen.
    fn run(&mut self) {
        for _ in 0..5_000 {
            self.drain(0);
            self.drain(1);
            let arrival = self.wire.keys().next().map_or(Instant::NEVER, |&(at, _)| at);
            let next = arrival.min(self.deadlines[0]).min(self.deadlines[1]);
            let decided = self.outcomes.iter().all(Option::is_some);
            if next >= Instant::from_millis(3_600_000) || (decided && self.wire.is_empty()) {
                return;
            }
            self.now = self.now.max(next);
            while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (to, datagram) = entry.remove();
                for _ in 0..self.noise {
                    let noise = random_datagram(&mut self.random);
                    self.peers[to].handle_datagram(self.now, &noise);
                    self.drain(to);
                }
                self.peers[to].handle_datagram(self.now, &datagram);
                self.drain(to);
            }
            for side in 0..2 {
                if self.deadlines[side] <= self.now {
                    self.peers[side].handle_timeout(self.now);
                }
            }
        }
        panic!("no end: {:?}", self.outcomes.iter().map(Option::is_some).collect::<Vec<_>>());
    }

    fn drain(&mut self, side: usize) {
        let mut out = [0; DATAGRAM_BYTES_MAX];
        for _ in 0..100 {
            match self.peers[side].poll_output(self.now, &mut out) {
                DtlsOutput::Transmit(len) => {
                    if side == 0 {
                        self.client_sent.push(self.now);
                    }
                    let pieces = match self.split_hello {
                        Some(bytes) => split_hello(&out[..len], bytes),
                        None => vec![out[..len].to_vec()],
                    };
                    pieces.iter().for_each(|piece| self.transmit(1 - side, piece));
                }
                DtlsOutput::Timeout(at) => {
                    assert!(at > self.now, "a deadline in the past");
                    self.deadlines[side] = at;
                    return;
                }
                outcome => {
                    self.connected_at[side] = self.now;
                    self.outcomes[side] = Some(outcome);
                }
            }
        }
        panic!("never drained");
    }

    fn transmit(&mut self, to: usize, datagram: &[u8]) {
        self.longest = self.longest.max(datagram.len());
        self.questions += u32::from(is_question(datagram));
        let copies = 1 + u32::from(self.random.below(100) < self.faults.duplicate_pct);
        for _ in 0..copies {
            let delay = 20 + u64::from(self.random.below(self.faults.jitter_ms + 1));
            let lost = self.random.below(100) < self.faults.loss_pct;
            self.sent += 1;
            let mut datagram = datagram.to_vec();
            if self.random.below(100) < self.faults.damage_pct {
                let at = self.random.below(datagram.len() as u32) as usize;
                datagram[at] ^= 1 << self.random.below(8);
            }
            if !lost {
                self.wire.insert((self.now.plus_millis(delay), self.sent), (to, datagram));
            }
        }
    }

    fn keys(&self, side: usize) -> (DtlsVersion, &SrtpKeys) {
        match &self.outcomes[side] {
            Some(DtlsOutput::Connected { version, keys }) => (*version, keys),
            other => panic!("{side}: {:?} {:?}", end_of(other), self.peers[side].detail()),
        }
    }

    fn end(&self, side: usize) -> Option<Cause> {
        end_of(&self.outcomes[side])
    }
}

/// A HelloVerifyRequest, or a ServerHello with the random of a HelloRetryRequest (RFC 8446 §4.1.3).
fn is_question(datagram: &[u8]) -> bool {
    const HELLO_VERIFY_REQUEST: u8 = 3;
    let first = record::first_fragment(datagram);
    first.is_some_and(|first| {
        let random = first.bytes.get(14..18);
        first.kind == HELLO_VERIFY_REQUEST || (first.kind == 2 && random == Some(&[0xcf, 0x21, 0xad, 0x74]))
    })
}

fn end_of(outcome: &Option<DtlsOutput>) -> Option<Cause> {
    match outcome {
        Some(DtlsOutput::Ended(cause)) => Some(*cause),
        _ => None,
    }
}

/// Made once: the settings' self-check is slow.
fn identities() -> &'static (Identity, Identity) {
    static IDENTITIES: std::sync::OnceLock<(Identity, Identity)> = std::sync::OnceLock::new();
    IDENTITIES.get_or_init(|| {
        let identity = |seed| Identity::generate_for_simulation(seed).unwrap();
        (identity(1), identity(2))
    })
}
