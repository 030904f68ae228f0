//! A handshake with OpenSSL over loopback, in both roles: an implementation that shares no code with ours.
//!
//! `openssl s_server` and `s_client` export the same keying material themselves (RFC 5764 §4.2) and print it, so the keys
//! of both ends are compared byte for byte, for each SRTP profile. The program `openssl` (3.0 or later) must be there.
//!
//! Why the wall clock is read here and nowhere else in these tests: the peer is a real process.

use engine::dtls::{DtlsOutput, DtlsRole, DtlsSession, DtlsVersion, DtlsVersions, Identity, may_suit_openssl};
use engine::error::Cause;
use engine::io::clock;
use engine::limits::DATAGRAM_BYTES_MAX;
use engine::random::Random;
use engine::sdp::Fingerprint;
use engine::srtp::{SrtpKeys, SrtpProfile};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const PROFILES: [(SrtpProfile, &str); 3] = [
    (SrtpProfile::AesCm128HmacSha1_80, "SRTP_AES128_CM_SHA1_80"),
    (SrtpProfile::AeadAes128Gcm, "SRTP_AEAD_AES_128_GCM"),
    (SrtpProfile::AeadAes256Gcm, "SRTP_AEAD_AES_256_GCM"),
];

/// HandshakeType hello_verify_request (RFC 6347 §4.3.2).
const HELLO_VERIFY_REQUEST: u8 = 3;

/// HandshakeType certificate.
const CERTIFICATE: u8 = 11;

/// Longest any step may take.
const PATIENCE: Duration = Duration::from_secs(15);

#[test]
fn our_client_shares_every_profiles_keys_with_an_openssl_server() {
    for (profile, name) in PROFILES {
        for versions in [DtlsVersions::V12, DtlsVersions::Auto] {
            let files = Files::new();
            let mut server =
                Openssl::start(&files, &["s_server", "-accept", "127.0.0.1:0", "-Verify", "1"], Some(profile), name);
            let accept = server.line_with("ACCEPT ");
            let socket = socket_to(accept["ACCEPT ".len()..].parse().unwrap());
            let identity = Identity::generate().unwrap();
            let mut session =
                DtlsSession::new(clock::now(), &identity, DtlsRole::Client, versions, files.fingerprint());
            let DtlsOutput::Connected { version, keys } = drive(&mut session, &socket) else {
                panic!("not connected: {:?}", session.detail());
            };
            assert_eq!((version, keys.profile), (DtlsVersion::V12, profile));
            assert_eq!(exported(&keys, DtlsRole::Client), server.keying_material());
        }
    }
}

#[test]
fn our_server_shares_every_profiles_keys_with_an_openssl_client() {
    for (profile, name) in PROFILES {
        for versions in [DtlsVersions::V12, DtlsVersions::Auto] {
            let files = Files::new();
            let socket = loopback();
            let ours = socket.local_addr().unwrap().to_string();
            let mut client = Openssl::start(&files, &["s_client", "-connect", &ours], Some(profile), name);
            let identity = Identity::generate().unwrap();
            let mut session =
                DtlsSession::new(clock::now(), &identity, DtlsRole::Server, versions, files.fingerprint());
            connect_to_first_sender(&socket);
            let DtlsOutput::Connected { version, keys } = drive(&mut session, &socket) else {
                panic!("not connected: {:?}", session.detail());
            };
            assert_eq!((version, keys.profile), (DtlsVersion::V12, profile));

            // A line with Q makes s_client say close_notify; it prints what it knows before that.
            client.say("Q\n");
            let DtlsOutput::Ended(cause) = drive(&mut session, &socket) else { panic!("no end") };
            assert_eq!(cause, Cause::DtlsClosed);
            assert_eq!(exported(&keys, DtlsRole::Server), client.keying_material());
        }
    }
}

/// `s_server` asks for a cookie first, with `-listen` before it remembers anything; on a narrow path the server's certificate comes in pieces.
#[test]
fn our_client_answers_a_hello_verify_request_and_joins_fragments() {
    for extra in [&["-listen"][..], &["-mtu", "300"]] {
        for versions in [DtlsVersions::V12, DtlsVersions::Auto, DtlsVersions::OpenSsl] {
            let (profile, name) = PROFILES[0];
            let files = Files::new();
            let arguments = [&["s_server", "-accept", "127.0.0.1:0", "-Verify", "1"], extra].concat();
            let mut server = Openssl::start(&files, &arguments, Some(profile), name);
            let socket = socket_to(server.line_with("ACCEPT ")["ACCEPT ".len()..].parse().unwrap());
            let identity = Identity::generate().unwrap();
            let begun = clock::now();
            let mut session = DtlsSession::new(begun, &identity, DtlsRole::Client, versions, files.fingerprint());
            let mut seen = Vec::new();
            let DtlsOutput::Connected { keys, .. } = drive_and(&mut session, &socket, |datagram| {
                seen.push((datagram.len(), datagram.get(13).copied()));
            }) else {
                panic!("{extra:?}, {versions:?}: not connected: {:?}", session.detail());
            };
            assert_eq!(exported(&keys, DtlsRole::Client), server.keying_material());
            let is_asked = seen.first().is_some_and(|(_, kind)| *kind == Some(HELLO_VERIFY_REQUEST));
            assert!(is_asked, "s_server asks for a cookie, statelessly or not: {seen:?}");
            let pieces = seen.iter().filter(|(_, kind)| *kind == Some(CERTIFICATE)).count();
            assert_eq!(pieces > 1, extra.contains(&"-mtu"), "{extra:?}: {seen:?}");
            // OpenSSL repeats its flight after a second: nothing had to be said twice.
            assert!(clock::now().since(begun) < Duration::from_millis(900), "{extra:?}, {versions:?}");
        }
    }
}

/// The client's certificate comes in several pieces, each in a datagram of its own.
#[test]
fn our_server_joins_the_fragments_of_a_client_on_a_narrow_path() {
    for versions in [DtlsVersions::V12, DtlsVersions::Auto, DtlsVersions::OpenSsl] {
        let (profile, name) = PROFILES[0];
        let files = Files::new();
        let socket = loopback();
        let ours = socket.local_addr().unwrap().to_string();
        let arguments = ["s_client", "-connect", &ours, "-mtu", "300"];
        let mut client = Openssl::start(&files, &arguments, Some(profile), name);
        let identity = Identity::generate().unwrap();
        let mut session = DtlsSession::new(clock::now(), &identity, DtlsRole::Server, versions, files.fingerprint());
        connect_to_first_sender(&socket);
        let mut lengths = Vec::new();
        let outcome = drive_and(&mut session, &socket, |datagram| lengths.push(datagram.len()));
        let DtlsOutput::Connected { keys, .. } = outcome else {
            panic!("{versions:?}: not connected: {:?}", session.detail());
        };
        client.say("Q\n");
        let DtlsOutput::Ended(_) = drive(&mut session, &socket) else { panic!("no end") };
        assert_eq!(exported(&keys, DtlsRole::Server), client.keying_material());
        assert!(lengths.len() > 3 && lengths.iter().all(|len| *len <= 300), "{versions:?}: {lengths:?}");
    }
}

#[test]
fn an_openssl_server_with_another_certificate_gets_no_keys() {
    let files = Files::new();
    let mut server = Openssl::start(&files, &["s_server", "-accept", "127.0.0.1:0"], None, "SRTP_AES128_CM_SHA1_80");
    let socket = socket_to(server.line_with("ACCEPT ")["ACCEPT ".len()..].parse().unwrap());
    let identity = Identity::generate().unwrap();
    let mut expected = files.fingerprint();
    expected[0] ^= 1;
    let mut session = DtlsSession::new(clock::now(), &identity, DtlsRole::Client, DtlsVersions::V12, expected);
    let DtlsOutput::Ended(cause) = drive(&mut session, &socket) else { panic!("connected") };
    assert_eq!(cause, Cause::DtlsFingerprintMismatch);
}

#[test]
fn an_openssl_server_without_srtp_is_refused() {
    let files = Files::new();
    let mut server = Openssl::start(&files, &["s_server", "-accept", "127.0.0.1:0"], None, "");
    let socket = socket_to(server.line_with("ACCEPT ")["ACCEPT ".len()..].parse().unwrap());
    let identity = Identity::generate().unwrap();
    let mut session =
        DtlsSession::new(clock::now(), &identity, DtlsRole::Client, DtlsVersions::V12, files.fingerprint());
    let DtlsOutput::Ended(cause) = drive(&mut session, &socket) else { panic!("connected") };
    assert_eq!((cause, session.detail()), (Cause::DtlsRefused, Some("no SRTP profile in common")));
}

#[test]
fn an_openssl_server_that_knows_only_rsa_suites_says_why_in_its_alert() {
    let files = Files::new();
    let arguments = ["s_server", "-accept", "127.0.0.1:0", "-cipher", "AES128-SHA"];
    let mut server = Openssl::start(&files, &arguments, None, "SRTP_AES128_CM_SHA1_80");
    let socket = socket_to(server.line_with("ACCEPT ")["ACCEPT ".len()..].parse().unwrap());
    let identity = Identity::generate().unwrap();
    for versions in [DtlsVersions::V12, DtlsVersions::Auto] {
        let mut session = DtlsSession::new(clock::now(), &identity, DtlsRole::Client, versions, files.fingerprint());
        let DtlsOutput::Ended(cause) = drive(&mut session, &socket) else { panic!("connected") };
        assert_eq!(cause, Cause::DtlsRefused);
        assert_eq!(session.detail(), Some("peer sent a fatal alert: handshake_failure (40)"));
    }
}

/// What the first library lacks: name, key type, arguments of the peer, whether it goes without the extended master secret.
const ONLY_OPENSSL: [(&str, &str, &[&str], bool); 4] = [
    ("an RSA certificate", "rsa:2048", &["-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], false),
    ("RSA key transport and CBC", "rsa:2048", &["-cipher", "AES128-SHA"], false),
    ("CBC suites", "ec", &["-cipher", "ECDHE-ECDSA-AES128-SHA"], false),
    ("no extended master secret", "ec", &[], true),
];

#[test]
fn the_second_library_connects_to_servers_that_the_first_cannot_serve() {
    for (what, key, extra, without_ems) in ONLY_OPENSSL {
        let files = Files::with_key(key);
        let (profile, name) = PROFILES[1];
        let arguments = [&["s_server", "-accept", "127.0.0.1:0", "-Verify", "1"], extra].concat();
        // One each: a server whose client went silently waits for it.
        let mut servers = [(); 2].map(|()| Openssl::start_as(&files, &arguments, Some(profile), name, without_ems));
        let addresses =
            servers.each_mut().map(|server| server.line_with("ACCEPT ")["ACCEPT ".len()..].parse().unwrap());
        let identity = Identity::generate().unwrap();
        let session =
            |versions| DtlsSession::new(clock::now(), &identity, DtlsRole::Client, versions, files.fingerprint());
        let mut first = session(DtlsVersions::V12);
        let DtlsOutput::Ended(cause) = drive(&mut first, &socket_to(addresses[0])) else { panic!("{what}: connected") };
        assert!(may_suit_openssl(cause, first.detail()), "{what}: {cause:?} {:?}", first.detail());

        let mut second = session(DtlsVersions::OpenSsl);
        let DtlsOutput::Connected { version, keys } = drive(&mut second, &socket_to(addresses[1])) else {
            panic!("{what}: not connected: {:?}", second.detail());
        };
        assert_eq!((version, keys.profile), (DtlsVersion::V12, profile), "{what}");
        assert_eq!(exported(&keys, DtlsRole::Client), servers[1].keying_material(), "{what}");
    }
}

#[test]
fn the_second_library_serves_clients_that_the_first_cannot() {
    for (what, key, extra, without_ems) in
        [ONLY_OPENSSL[2], ONLY_OPENSSL[3], ("an RSA certificate", "rsa:2048", &[], false)]
    {
        for (profile, name) in PROFILES {
            let files = Files::with_key(key);
            let socket = loopback();
            let ours = socket.local_addr().unwrap().to_string();
            let arguments = [&["s_client", "-connect", &ours], extra].concat();
            let mut client = Openssl::start_as(&files, &arguments, Some(profile), name, without_ems);
            let identity = Identity::generate().unwrap();
            let mut session =
                DtlsSession::new(clock::now(), &identity, DtlsRole::Server, DtlsVersions::OpenSsl, files.fingerprint());
            connect_to_first_sender(&socket);
            let DtlsOutput::Connected { keys, .. } = drive(&mut session, &socket) else {
                panic!("{what}: not connected: {:?}", session.detail());
            };
            assert_eq!(keys.profile, profile, "{what}");
            client.say("Q\n");
            let DtlsOutput::Ended(cause) = drive(&mut session, &socket) else { panic!("no end") };
            assert_eq!((cause, exported(&keys, DtlsRole::Server)), (Cause::DtlsClosed, client.keying_material()));
        }
    }
}

#[test]
fn a_server_that_may_speak_any_version_takes_the_library_that_the_client_hello_needs() {
    let suites_only: [(&str, &str, &[&str], bool); 3] = [
        ("RSA key transport and CBC", "ec", &["-cipher", "AES128-SHA:ECDHE-ECDSA-AES128-SHA"], false),
        ONLY_OPENSSL[2],
        ONLY_OPENSSL[3],
    ];
    for (what, key, extra, without_ems) in suites_only {
        for versions in [DtlsVersions::Auto, DtlsVersions::V12] {
            let (profile, name) = PROFILES[0];
            let files = Files::with_key(key);
            let socket = loopback();
            let ours = socket.local_addr().unwrap().to_string();
            let arguments = [&["s_client", "-connect", &ours], extra].concat();
            let mut client = Openssl::start_as(&files, &arguments, Some(profile), name, without_ems);
            let identity = Identity::generate().unwrap();
            let mut session =
                DtlsSession::new(clock::now(), &identity, DtlsRole::Server, versions, files.fingerprint());
            connect_to_first_sender(&socket);
            let DtlsOutput::Connected { keys, .. } = drive(&mut session, &socket) else {
                panic!("{what}: not connected: {:?}", session.detail());
            };
            assert_eq!(exported(&keys, DtlsRole::Server), client.keying_material(), "{what}, {versions:?}");
        }
    }
}

/// What a ClientHello does not show: the certificate that will come.
#[test]
fn a_client_whose_certificate_only_the_second_library_reads_is_refused_at_once() {
    let files = Files::with_key("rsa:2048");
    let socket = loopback();
    let ours = socket.local_addr().unwrap().to_string();
    let _client = Openssl::start(&files, &["s_client", "-connect", &ours], Some(PROFILES[0].0), PROFILES[0].1);
    let identity = Identity::generate().unwrap();
    let mut session =
        DtlsSession::new(clock::now(), &identity, DtlsRole::Server, DtlsVersions::Auto, files.fingerprint());
    connect_to_first_sender(&socket);
    let DtlsOutput::Ended(cause) = drive(&mut session, &socket) else { panic!("connected") };
    assert!(may_suit_openssl(cause, session.detail()), "{cause:?} {:?}", session.detail());
}

/// The second library's timer is the system's, so this path is a real one.
#[test]
fn the_second_library_finishes_every_handshake_at_20_percent_loss() {
    let pairings = [
        (DtlsVersions::OpenSsl, DtlsVersions::V12),
        (DtlsVersions::V12, DtlsVersions::OpenSsl),
        (DtlsVersions::OpenSsl, DtlsVersions::OpenSsl),
    ];
    let runs = (0..24_u64).map(|seed| {
        let (client, server) = pairings[seed as usize % 3];
        std::thread::spawn(move || {
            let (a, b) = (Identity::generate().unwrap(), Identity::generate().unwrap());
            let (to_b, to_a) = (loopback(), loopback());
            to_b.connect(to_a.local_addr().unwrap()).unwrap();
            to_a.connect(to_b.local_addr().unwrap()).unwrap();
            let done = Arc::new(AtomicU32::new(0));
            let mut ends = [
                (DtlsSession::new(clock::now(), &a, DtlsRole::Client, client, b.fingerprint()), to_b, seed),
                (DtlsSession::new(clock::now(), &b, DtlsRole::Server, server, a.fingerprint()), to_a, seed + 1_000),
            ]
            .map(|(mut session, socket, seed)| {
                let done = Arc::clone(&done);
                std::thread::spawn(move || drive_lossily(&mut session, &socket, seed, &done))
            })
            .map(|end| end.join().unwrap());
            let keys = ends.each_mut().map(|end| end.take());
            let [Some(ours), Some(theirs)] = keys else { panic!("seed {seed}, {client:?} to {server:?}: no keys") };
            assert!(ours.local == theirs.remote && ours.remote == theirs.local, "seed {seed}");
        })
    });
    let runs: Vec<_> = runs.collect();
    runs.into_iter().for_each(|run| run.join().unwrap());
}

/// Drives one end of a path that loses a fifth, until both have their keys.
fn drive_lossily(session: &mut DtlsSession, socket: &UdpSocket, seed: u64, done: &AtomicU32) -> Option<SrtpKeys> {
    let mut random = Random::from_test_seed(seed);
    let mut keys = None;
    let mut out = [0; DATAGRAM_BYTES_MAX];
    while done.load(Ordering::SeqCst) < 2 {
        loop {
            match session.poll_output(clock::now(), &mut out) {
                DtlsOutput::Transmit(_) if random.below(100) < 20 => {}
                DtlsOutput::Transmit(len) => drop(socket.send(&out[..len])),
                DtlsOutput::Timeout(_) => break,
                DtlsOutput::Connected { keys: exported, .. } => {
                    keys = Some(exported);
                    done.fetch_add(1, Ordering::SeqCst);
                }
                DtlsOutput::Ended(_) => {
                    done.fetch_add(2, Ordering::SeqCst);
                    return None;
                }
            }
        }
        socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        match socket.recv(&mut out) {
            Ok(len) => session.handle_datagram(clock::now(), &out[..len]),
            Err(_) => session.handle_timeout(clock::now()),
        }
    }
    keys
}

/// Runs the session on the socket until it has something to say.
fn drive(session: &mut DtlsSession, socket: &UdpSocket) -> DtlsOutput {
    drive_and(session, socket, |_| {})
}

/// The same with a look at each datagram that comes.
fn drive_and(session: &mut DtlsSession, socket: &UdpSocket, mut look: impl FnMut(&[u8])) -> DtlsOutput {
    let end = clock::now() + PATIENCE;
    let mut out = [0; DATAGRAM_BYTES_MAX];
    let mut datagram = [0; DATAGRAM_BYTES_MAX];
    loop {
        let wait = loop {
            match session.poll_output(clock::now(), &mut out) {
                DtlsOutput::Transmit(len) => drop(socket.send(&out[..len])),
                DtlsOutput::Timeout(at) => break at.min(end).since(clock::now()),
                outcome => return outcome,
            }
        };
        assert!(clock::now() < end, "no outcome in time");
        socket.set_read_timeout(Some(wait.max(Duration::from_millis(1)))).unwrap();
        match socket.recv(&mut datagram) {
            Ok(len) => {
                look(&datagram[..len]);
                session.handle_datagram(clock::now(), &datagram[..len]);
            }
            Err(_) => session.handle_timeout(clock::now()),
        }
    }
}

/// Client key, server key, client salt, server salt, as RFC 5764 §4.2 has it.
fn exported(keys: &SrtpKeys, role: DtlsRole) -> String {
    let (client, server) = match role {
        DtlsRole::Client => (&keys.local, &keys.remote),
        DtlsRole::Server => (&keys.remote, &keys.local),
    };
    let (key, salt) = (keys.profile.key_bytes(), keys.profile.salt_bytes());
    let parts =
        [&client.bytes[..key], &server.bytes[..key], &client.bytes[key..key + salt], &server.bytes[key..key + salt]];
    parts.concat().iter().map(|byte| format!("{byte:02X}")).collect()
}

#[expect(clippy::disallowed_methods, reason = "the peer is another process: these tests own their socket")]
fn loopback() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn socket_to(peer: SocketAddr) -> UdpSocket {
    let socket = loopback();
    socket.connect(peer).unwrap();
    socket
}

/// Leaves the first datagram in the socket's queue.
fn connect_to_first_sender(socket: &UdpSocket) {
    let (_, from) = socket.peek_from(&mut [0; DATAGRAM_BYTES_MAX]).unwrap();
    socket.connect(from).unwrap();
}

/// Certificate and key of the peer, in a directory of its own.
struct Files {
    directory: PathBuf,
}

impl Files {
    fn new() -> Files {
        Files::with_key("ec")
    }

    /// `key`: `ec`, or `rsa:` and its bits.
    fn with_key(key: &str) -> Files {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("dtls-openssl-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let files = Files { directory };
        let curve: &[&str] = if key == "ec" { &["-pkeyopt", "ec_paramgen_curve:P-256"] } else { &[] };
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", key])
            .args(curve)
            .args(["-nodes", "-days", "2", "-subj", "/CN=peer", "-keyout"])
            .args([files.path("key.pem"), "-out".into(), files.path("certificate.pem")])
            .output()
            .expect("the program openssl is needed for this test");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        files
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).to_string_lossy().into_owned()
    }

    /// As OpenSSL computes it.
    fn fingerprint(&self) -> Fingerprint {
        let arguments = ["x509", "-noout", "-fingerprint", "-sha256", "-in", &self.path("certificate.pem")];
        let output = Command::new("openssl").args(arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let hex = text.trim().split('=').next_back().unwrap();
        let bytes: Vec<u8> = hex.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        bytes.try_into().unwrap()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A running `openssl`; ended when dropped.
struct Openssl {
    child: Child,
    /// Kept open: the program ends with its input.
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Openssl {
    fn start(files: &Files, arguments: &[&str], export: Option<SrtpProfile>, srtp: &str) -> Openssl {
        Openssl::start_as(files, arguments, export, srtp, false)
    }

    fn start_as(
        files: &Files,
        arguments: &[&str],
        export: Option<SrtpProfile>,
        srtp: &str,
        without_ems: bool,
    ) -> Openssl {
        let mut command = Command::new("openssl");
        if without_ems {
            let path = files.path("no-ems.cnf");
            let sections = "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = default\n[default]\n";
            std::fs::write(&path, format!("{sections}Options = -ExtendedMasterSecret\n")).unwrap();
            command.env("OPENSSL_CONF", path);
        }
        let (certificate, key) = (files.path("certificate.pem"), files.path("key.pem"));
        command.args(arguments).args(["-dtls1_2", "-cert", &certificate, "-key", &key]);
        if !srtp.is_empty() {
            command.args(["-use_srtp", srtp]);
        }
        if let Some(profile) = export {
            let length = (2 * (profile.key_bytes() + profile.salt_bytes())).to_string();
            command.args(["-keymatexport", "EXTRACTOR-dtls_srtp", "-keymatexportlen", &length]);
        }
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program openssl is needed for this test");
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let input = child.stdin.take().unwrap();
        Openssl { child, input, lines }
    }

    /// The rest of the first line that holds `word`, from the word on.
    fn line_with(&mut self, word: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("openssl never said {word:?}"));
            if let Some(at) = line.find(word) {
                return line[at..].trim().to_owned();
            }
        }
    }

    fn keying_material(&mut self) -> String {
        const WORD: &str = "Keying material: ";
        self.line_with(WORD)[WORD.len()..].to_owned()
    }

    fn say(&mut self, text: &str) {
        self.input.write_all(text.as_bytes()).unwrap();
    }
}

impl Drop for Openssl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
