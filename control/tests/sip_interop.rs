//! The stack against programs that others wrote: SIPp over UDP and TCP, Kamailio over TLS and secure WebSocket.
//!
//! Each runs on loopback addresses of its own, so that these tests can run beside anything else. A program that is missing fails the
//! test: `tests/install.sh test` installs them.

mod sip_wire;

use control::sip::digest::Algorithm;
use control::sip::gatekeeper::{Admission, Admitted, Asking, Doorman, Gatekeeper, Registered, Secret};
use control::sip::message::Message;
use control::sip::transport::{Hop, Transport};
use control::sip::{Credentials, Register, SipEnd, SipEvent};
use control::sip_io::SipIoSettings;
use engine::io::clock;
use engine::time::Instant;
use sip_wire::{Certificates, Node, SDP, everywhere, folder, play, play_one};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A loopback address that nobody else has: of this process, and of one test in it.
fn own_address(test: u8) -> IpAddr {
    let pid = std::process::id();
    IpAddr::V4(Ipv4Addr::new(127, 64 + (pid >> 8 & 63) as u8, (pid & 255) as u8, test))
}

fn account(name: &str) -> Credentials {
    Credentials { username: name.to_owned(), password: "secret".to_owned() }
}

/// A program that is stopped with its test.
struct Program(Child);

impl Program {
    fn start(name: &str, folder: &Path, arguments: &[String]) -> Program {
        let log = fs::File::create(folder.join(format!("{name}.log"))).unwrap();
        let child = Command::new(name)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            // Kamailio forks: its children end with the group.
            .process_group(0)
            .spawn();
        Program(child.unwrap_or_else(|error| panic!("{name} cannot be started: {error}")))
    }

    fn code(&mut self) -> Option<i32> {
        self.0.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

fn scenario(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

const ECHO_HEADERS: &str =
    "[last_Via:]\n[last_From:]\n[last_To:];tag=[pid]c[call_number]\n[last_Call-ID:]\n[last_CSeq:]\n";

/// Challenges with 401, verifies the digest, answers, and waits for BYE.
fn challenging_uas() -> String {
    format!(
        r#"<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="uas with digest">
<recv request="INVITE"/>
<send><![CDATA[
SIP/2.0 401 Unauthorized
{ECHO_HEADERS}WWW-Authenticate: Digest realm="lab.example", nonce="47ebe028cda119c35d4877b383027d28da013815", algorithm=MD5, qop="auth"
Content-Length: 0

]]></send>
<recv request="ACK"/>
<recv request="INVITE"><action>
<verifyauth assign_to="ok" username="alice" password="secret"/></action></recv>
<nop hide="true" test="ok" next="good"/>
<send next="end"><![CDATA[
SIP/2.0 403 Forbidden
{ECHO_HEADERS}Content-Length: 0

]]></send>
<label id="good"/>
<send><![CDATA[
SIP/2.0 180 Ringing
{ECHO_HEADERS}Contact: <sip:[local_ip]:[local_port];transport=[transport]>
Content-Length: 0

]]></send>
<send retrans="500"><![CDATA[
SIP/2.0 200 OK
{ECHO_HEADERS}Contact: <sip:[local_ip]:[local_port];transport=[transport]>
Content-Type: application/sdp
Content-Length: [len]

v=0
o=sipp 1 1 IN IP4 [local_ip]
s=-
c=IN IP4 [local_ip]
t=0 0
m=audio 6000 RTP/AVP 0
]]></send>
<recv request="ACK"/>
<recv request="BYE"/>
<send><![CDATA[
SIP/2.0 200 OK
{ECHO_HEADERS}Content-Length: 0

]]></send>
<label id="end"/>
</scenario>
"#
    )
}

/// Calls, answers a 407, waits for the answer, holds by re-INVITE, and says BYE.
const CALLING_UAC: &str = r#"<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="uac with digest">
<send retrans="500"><![CDATA[
INVITE sip:gw@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:alice@[local_ip]:[local_port]>;tag=[pid]t[call_number]
To: <sip:gw@[remote_ip]:[remote_port]>
Call-ID: [call_id]
CSeq: 1 INVITE
Contact: <sip:alice@[local_ip]:[local_port];transport=[transport]>
Max-Forwards: 70
Content-Type: application/sdp
Content-Length: [len]

v=0
o=sipp 1 1 IN IP4 [local_ip]
s=-
c=IN IP4 [local_ip]
t=0 0
m=audio 6000 RTP/AVP 0
]]></send>
<recv response="100" optional="true"/>
<recv response="407" auth="true"/>
<send><![CDATA[
ACK sip:gw@[remote_ip]:[remote_port] SIP/2.0
[last_Via:]
From: <sip:alice@[local_ip]:[local_port]>;tag=[pid]t[call_number]
[last_To:]
Call-ID: [call_id]
CSeq: 1 ACK
Max-Forwards: 70
Content-Length: 0

]]></send>
<send retrans="500"><![CDATA[
INVITE sip:gw@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:alice@[local_ip]:[local_port]>;tag=[pid]t[call_number]
To: <sip:gw@[remote_ip]:[remote_port]>
Call-ID: [call_id]
CSeq: 2 INVITE
Contact: <sip:alice@[local_ip]:[local_port];transport=[transport]>
[authentication username=alice password=secret]
Max-Forwards: 70
Content-Type: application/sdp
Content-Length: [len]

v=0
o=sipp 1 1 IN IP4 [local_ip]
s=-
c=IN IP4 [local_ip]
t=0 0
m=audio 6000 RTP/AVP 0
]]></send>
<recv response="100" optional="true"/>
<recv response="180" optional="true"/>
<recv response="200" rrs="true"/>
<send><![CDATA[
ACK [next_url] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:alice@[local_ip]:[local_port]>;tag=[pid]t[call_number]
[last_To:]
Call-ID: [call_id]
CSeq: 2 ACK
Max-Forwards: 70
Content-Length: 0

]]></send>
<pause milliseconds="200"/>
<send retrans="500"><![CDATA[
BYE [next_url] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:alice@[local_ip]:[local_port]>;tag=[pid]t[call_number]
[last_To:]
Call-ID: [call_id]
CSeq: 3 BYE
Max-Forwards: 70
Content-Length: 0

]]></send>
<recv response="200"/>
</scenario>
"#;

#[tokio::test]
async fn sipp_verifies_our_digest_over_udp_and_tcp() {
    for (test, transport, mode) in [(1, Transport::Udp, "u1"), (2, Transport::Tcp, "t1")] {
        let (folder, host) = (folder(&format!("sipp-uas-{transport}")), own_address(test));
        scenario(&folder, "uas.xml", &challenging_uas());
        let arguments = words(&format!("-sf uas.xml -i {host} -p 5070 -m 1 -t {mode} -timeout 30 -nostdin"));
        let mut sipp = Program::start("sipp", &folder, &arguments);
        let mut node = Node::start(everywhere(host), None).await;
        tokio::time::sleep(Duration::from_millis(700)).await; // SIPp says nowhere that it listens
        let call = node.call(&format!("sip:bot@{host}:5070;transport={transport}"), Some(account("alice")));
        play_one(&mut node, "an answer of SIPp", |node| node.answered() || node.ended()).await;
        assert!(node.answered(), "{:?}", node.heard);
        node.agent.hangup(clock::now(), call, None);
        play_one(&mut node, "the end", Node::ended).await;
        let limit = clock::now().plus_millis(10_000);
        while sipp.code().is_none() && clock::now() < limit {
            node.turn().await;
        }
        assert_eq!(sipp.code(), Some(0), "{}", fs::read_to_string(folder.join("sipp.log")).unwrap_or_default());
    }
}

#[tokio::test]
async fn sipp_calls_us_with_digest_over_udp_and_tcp() {
    for (test, transport, mode) in [(3, Transport::Udp, "u1"), (4, Transport::Tcp, "t1")] {
        let (folder, host) = (folder(&format!("sipp-uac-{transport}")), own_address(test));
        scenario(&folder, "uac.xml", CALLING_UAC);
        let demand = Some(("lab.example".to_owned(), account("alice")));
        let mut node = Node::start(everywhere(host), demand).await;
        node.answers_with = Some(SDP);
        let remote = node.io.address(transport).unwrap();
        let arguments =
            words(&format!("{remote} -sf uac.xml -i {host} -p 5090 -m 20 -r 20 -l 20 -t {mode} -timeout 30 -nostdin"));
        let mut sipp = Program::start("sipp", &folder, &arguments);
        let limit = clock::now().plus_millis(30_000);
        while sipp.code().is_none() && clock::now() < limit {
            node.turn().await;
        }
        assert_eq!(sipp.code(), Some(0), "{}", fs::read_to_string(folder.join("sipp.log")).unwrap_or_default());
        let ends =
            node.heard.iter().filter(|event| matches!(event, SipEvent::Ended { end: SipEnd::ByeReceived(_), .. }));
        assert_eq!(ends.count(), 20);
    }
}

/// Kamailio as registrar and proxy over everything, with digest; realm lab.example, users alice, bob and gw.
fn kamailio(folder: &Path, host: IpAddr) -> (Program, Certificates) {
    let made = Certificates::make(folder, "lab", &[&host.to_string(), "localhost"]);
    let config = include_str!("data/kamailio.cfg")
        .replace("CERTIFICATE", made.certificate.to_str().unwrap())
        .replace("PRIVATE_KEY", made.key.to_str().unwrap())
        .replace("LISTEN_IP", &host.to_string());
    scenario(folder, "kamailio.cfg", &config);
    let arguments =
        words(&format!("-f kamailio.cfg -DD -E -m 32 -M 4 -P {0}/kamailio.pid -w {0} -Y {0}", folder.display()));
    (Program::start("kamailio", folder, &arguments), made)
}

async fn until_it_listens(host: IpAddr, port: u16, folder: &Path) {
    for _ in 0..100 {
        if tokio::net::TcpStream::connect((host, port)).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{}", fs::read_to_string(folder.join("kamailio.log")).unwrap_or_default());
}

fn ports(transport: Transport) -> u16 {
    match transport {
        Transport::Tls => 5061,
        Transport::Wss => 8443,
        _ => 5060,
    }
}

async fn registered(host: IpAddr, transport: Transport, user: &str, certificates: &Certificates) -> Node {
    let settings = SipIoSettings { certificates: certificates.settings(), ..everywhere(host) };
    let mut node = Node::start_as(settings, None, |config| config.contact_user = user.to_owned()).await;
    let what = Register {
        registrar: "sip:lab.example".to_owned(),
        proxy: Some(format!("sip:{host}:{};transport={transport}", ports(transport))),
        aor: format!("sip:{user}@lab.example"),
        contact_user: Some(user.to_owned()),
        credentials: Some(account(user)),
        expires_s: 300,
    };
    node.agent.register(clock::now(), what);
    play_one(&mut node, &format!("a registration over {transport}"), |node| {
        node.has(|event| matches!(event, SipEvent::Registered { .. }))
    })
    .await;
    node
}

#[tokio::test]
async fn calls_through_kamailio_with_registration_and_digest_over_tls_and_secure_websocket() {
    let (folder, host) = (folder("kamailio"), own_address(5));
    let (_kamailio, certificates) = kamailio(&folder, host);
    until_it_listens(host, 8443, &folder).await;
    for (transport, user) in [(Transport::Tls, "bob"), (Transport::Wss, "alice"), (Transport::Tcp, "bob")] {
        let mut b = registered(host, transport, user, &certificates).await;
        b.answers_with = Some(SDP);
        let settings = SipIoSettings { certificates: certificates.settings(), ..everywhere(host) };
        let mut a = Node::start(settings, None).await;
        let invite = control::sip::Invite {
            target: format!("sip:{user}@lab.example"),
            proxy: Some(format!("sip:{host}:{};transport={transport}", ports(transport))),
            from_user: "gw".to_owned(),
            from_host: Some("lab.example".to_owned()),
            sdp: SDP.to_owned(),
            credentials: Some(account("gw")),
            ring_ms_max: 20_000,
            ..control::sip::Invite::default()
        };
        let call = a.agent.invite(clock::now(), invite);
        play(&mut a, &mut b, &format!("an answer through Kamailio over {transport}"), |a, b| {
            (a.answered() || a.ended()) && b.has(|event| matches!(event, SipEvent::Acknowledged { .. }))
        })
        .await;
        assert!(a.answered(), "{transport}: {:?}", a.heard);
        // Both sides' requests find the other through the proxy's route.
        a.answers_with = Some(SDP);
        let Some(SipEvent::Incoming { call: theirs, .. }) =
            b.heard.iter().find(|event| matches!(event, SipEvent::Incoming { .. })).cloned()
        else {
            unreachable!()
        };
        b.agent.reinvite(clock::now(), theirs, &SDP.replace("4000", "4002"));
        play(&mut a, &mut b, &format!("the answer to a re-INVITE over {transport}"), |_, b| {
            b.has(|event| matches!(event, SipEvent::ReInviteAnswered { .. }))
        })
        .await;
        a.agent.hangup(clock::now(), call, None);
        play(&mut a, &mut b, "the end", |a, b| a.ended() && b.ended()).await;
    }
}

/// A gatekeeper that demands SHA-256 or MD5, in that order.
struct Strict(Doorman);

impl Gatekeeper for Strict {
    fn admit(&mut self, now: Instant, asking: &Asking<'_>) -> Admission {
        match self.0.admit(now, asking) {
            Admission::Challenge { realm, .. } => {
                Admission::Challenge { realm, algorithms: vec![Algorithm::Sha256, Algorithm::Md5] }
            }
            other => other,
        }
    }

    fn secret(&self, realm: &str, username: &str) -> Option<Secret> {
        self.0.secret(realm, username)
    }

    fn is_registrar(&self) -> bool {
        false
    }

    fn register(&mut self, now: Instant, request: &Message, hop: &Hop, admitted: &Admitted) -> Registered {
        self.0.register(now, request, hop, admitted)
    }
}

#[tokio::test]
async fn two_challenges_in_one_response_are_answered_with_the_stronger() {
    let host = own_address(6);
    let mut a = Node::start(everywhere(host), None).await;
    let mut b = Node::start(everywhere(host), None).await;
    b.gatekeeper =
        Box::new(Strict(Doorman { demand: Some(("lab".to_owned(), account("alice"))), accept_incoming: true }));
    b.answers_with = Some(SDP);
    let target = b.uri(Transport::Tcp);
    a.call(&target, Some(account("alice")));
    play(&mut a, &mut b, "an answer", |a, _| a.answered()).await;
    let Some(SipEvent::Incoming { arrival, .. }) =
        b.heard.iter().find(|event| matches!(event, SipEvent::Incoming { .. }))
    else {
        unreachable!()
    };
    let answer = arrival.request.header("Proxy-Authorization").unwrap();
    assert!(answer.contains("algorithm=SHA-256"), "{answer}");
}
