//! SIPp on both sides of tandem: it comes in over UDP, TCP and TLS with a password, and is found behind names that dnsmasq serves, where
//! the first target of each name is dead. What it plays is compared with what arrives, byte for byte, there and back.
//!
//! Why openssl in between for TLS: Debian's SIPp is built without.

use crate::interop::wire::{self, Class, Packet};
use crate::interop::{EDGE, HOST, Program, built, in_namespace_beside_others, output_of, speech, until};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;

/// Where what comes over plain TCP leaves over TLS.
const WRAPPER: &str = "10.77.0.1:5091";

/// Bytes of a PCMU payload that a capture holds.
const CAPTURED: usize = 140;

const ECHO_HEADERS: &str =
    "[last_Via:]\n[last_From:]\n[last_To:];tag=[pid]c[call_number]\n[last_Call-ID:]\n[last_CSeq:]\n";

const SDP: &str = "v=0
o=sipp 1 1 IN IP4 [local_ip]
s=-
c=IN IP4 [local_ip]
t=0 0
m=audio [media_port] RTP/AVP 0
a=rtpmap:0 PCMU/8000
a=ptime:20
";

#[test]
fn sipp_comes_in_with_a_password_over_every_transport_and_is_found_by_naptr_and_srv_behind_dead_targets() {
    let name = "trunks::sipp::sipp_comes_in_with_a_password_over_every_transport_and_is_found_by_naptr_and_srv_behind_dead_targets";
    in_namespace_beside_others(name, async |folder| {
        let _dns = dnsmasq(folder).await;
        let said = speech::speak(folder, "caller", "en-gb", "The birch canoe slid on the smooth planks.", &[8_000]);
        let played = folder.join("played.ul");
        output_of(Command::new("sox").arg(&said[0]).args(["-t", "ul", "-r", "8000"]).arg(&played));
        let mut gateway = tandem(folder).await;
        wrap(WRAPPER, "10.77.0.1:5061").await;
        let mut capture = wire::capture(folder).await;
        // The second targets; on 5811 and 5814, the first ones, nobody listens.
        let mut by_srv = answering(folder, "by-srv", "u1", 5812, 6000, 2);
        let mut by_naptr = answering(folder, "by-naptr", "t1", 5813, 6100, 1);

        call(folder, "udp", "UDP", &format!("{HOST}:5060"), 6200).await;
        call(folder, "tcp", "TCP", &format!("{HOST}:5060"), 6300).await;
        call(folder, "tls", "TLS", WRAPPER, 6400).await;
        for program in [&mut by_srv, &mut by_naptr] {
            assert!(program.ended(20).await, "{}", program.output());
        }
        capture.stop().await;
        let log = gateway.output();
        assert!(log.contains("trunk named: "), "the dead target is not in the log:\n{log}");
        assert_eq!(log.matches("cause=bye").count(), 3, "{log}");
        let packets = wire::read(&folder.join("wire.pcap"));
        let played = fs::read(&played).expect("what was played");
        for (to, what) in [
            (6000, "behind SRV"),
            (6100, "behind NAPTR"),
            (6200, "back over UDP"),
            (6300, "back over TCP"),
            (6400, "back over TLS"),
        ] {
            check_payloads(&packets, to, &played, what);
        }
        assert!(gateway.is_running());
    });
}

/// Everything that came to a port is what was played, in order.
fn check_payloads(packets: &[Packet], port: u16, played: &[u8], what: &str) {
    let frames: Vec<&[u8]> = played.chunks_exact(160).map(|frame| &frame[..CAPTURED]).collect();
    let arrived: Vec<&[u8]> = packets
        .iter()
        .filter(|packet| {
            packet.to_port == port && packet.class() == Class::Rtp && packet.payload.len() >= 12 + CAPTURED
        })
        .map(|packet| &packet.payload[12..12 + CAPTURED])
        .collect();
    // Before the first sound there are only frames of silence, which are all alike.
    let is_sound = |frame: &&[u8]| frame.iter().any(|byte| *byte & 0x7f < 0x70);
    let first =
        arrived.iter().position(is_sound).unwrap_or_else(|| panic!("{what}: no sound in {} frames", arrived.len()));
    let start =
        frames.iter().position(|frame| *frame == arrived[first]).unwrap_or_else(|| panic!("{what}: other sound"));
    let same = arrived[first..].iter().zip(&frames[start..]).take_while(|(a, b)| a == b).count();
    println!("{what}: {same} frames in a row of {}, from frame {start}", frames.len());
    assert!(same >= 100, "{what}: {same} frames of {} from frame {start}", frames.len());
}

/// The DNS of the namespace. Its servers file is this namespace's own.
async fn dnsmasq(folder: &Path) -> Program {
    let servers = folder.join("resolv.conf");
    fs::write(&servers, "nameserver 127.0.0.1\n").expect("a file");
    output_of(Command::new("mount").arg("--bind").arg(&servers).arg("/etc/resolv.conf"));
    let records = [
        "--srv-host=_sip._udp.trunk.test,dead.trunk.test,5811,10,1",
        "--srv-host=_sip._udp.trunk.test,alive.trunk.test,5812,20,1",
        "--naptr-record=naptr.test,10,10,s,SIP+D2T,,_sip._tcp.naptr.test",
        "--naptr-record=naptr.test,20,10,s,SIP+D2U,,_sip._udp.naptr.test",
        "--srv-host=_sip._tcp.naptr.test,dead.trunk.test,5814,10,1",
        "--srv-host=_sip._tcp.naptr.test,alive.trunk.test,5813,20,1",
        "--srv-host=_sip._udp.naptr.test,dead.trunk.test,5811,10,1",
        "--host-record=dead.trunk.test,10.77.0.1",
        "--host-record=alive.trunk.test,10.77.0.1",
    ];
    let mut command = Command::new("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--pid-file",
        "--user=root",
    ]);
    command
        .args(["--listen-address=127.0.0.1", "--bind-interfaces", "--log-facility=-", "--log-queries"])
        .args(records);
    let mut program = Program::start(folder, "dnsmasq", &mut command);
    program.wait_for("started", 10).await;
    program
}

/// A trunk for each transport, told apart by their passwords, and what they lead to.
async fn tandem(folder: &Path) -> Program {
    let mut text = format!(
        "[sip]\ntarget = \"sip:nobody@127.0.0.1:9\"\nbind = \"{HOST}:5060\"\ntls_bind = \"{HOST}:5061\"\n\
         [edge]\nbind = \"127.0.0.1:8080\"\n[media]\nports = \"30000-30999\"\npublic_ip = \"{HOST}\"\n\
         [trunks.named]\nhost = \"trunk.test\"\ntransport = \"udp\"\nmedia = \"rtp\"\ncodecs = [\"pcmu\"]\n"
    );
    for (transport, to) in [("udp", "trunk:named"), ("tcp", "sip:bot@naptr.test"), ("tls", "trunk:named")] {
        text.push_str(&format!(
            "[trunks.in-{transport}]\nhost = \"{HOST}\"\ntransport = \"{transport}\"\ncodecs = [\"pcmu\"]\n\
             inbound_user = \"{transport}\"\ninbound_password = \"secret-{transport}\"\ninbound_digest = \"md5\"\nto = \"{to}\"\n"
        ));
    }
    let config = folder.join("tandem.toml");
    fs::write(&config, text).expect("a configuration");
    let mut command = Command::new(built("tandem"));
    command.arg("edge").arg("--config").arg(&config);
    let program = Program::start(folder, "tandem", &mut command);
    until("tandem", 20, async || reqwest::get(format!("{EDGE}/health")).await.ok()).await;
    program
}

/// Passes what comes to `listen` on to `to` over TLS.
async fn wrap(listen: &str, to: &'static str) {
    let listener = TcpListener::bind(listen).await.expect("a port");
    tokio::spawn(async move {
        while let Ok((mut plain, _)) = listener.accept().await {
            let mut program = tokio::process::Command::new("openssl")
                .args(["s_client", "-quiet", "-nocommands", "-connect", to])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .expect("openssl starts");
            let (input, output) = (program.stdin.take().expect("input"), program.stdout.take().expect("output"));
            tokio::spawn(async move {
                let _ = copy_bidirectional(&mut plain, &mut tokio::io::join(output, input)).await;
                let _ = program.kill().await;
            });
        }
    });
}

/// SIPp that answers `calls` calls and plays back what it hears.
fn answering(folder: &Path, name: &str, mode: &str, port: u16, media: u16, calls: u32) -> Program {
    let text = format!(
        r#"<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="uas">
<recv request="INVITE" rrs="true"/>
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

{SDP}
]]></send>
<recv request="ACK"/>
<recv request="BYE"/>
<send><![CDATA[
SIP/2.0 200 OK
{ECHO_HEADERS}Content-Length: 0

]]></send>
</scenario>
"#
    );
    fs::write(folder.join(format!("{name}.xml")), text).expect("a scenario");
    let arguments = format!(
        "-sf {name}.xml -i {HOST} -p {port} -mi {HOST} -mp {media} -rtp_echo -t {mode} -m {calls} -timeout 60 -nostdin"
    );
    sipp(folder, name, &arguments)
}

/// SIPp calls as the trunk of `name`, plays its file for three seconds and hangs up.
async fn call(folder: &Path, name: &str, via: &str, to: &str, media: u16) {
    let uri = "sip:+447700900123@10.77.0.1";
    let contact = if via == "UDP" { "udp" } else { "tcp" };
    let request = |line: &str, cseq: u32, method: &str, to: &str, rest: &str| {
        format!(
            "{line} SIP/2.0\nVia: SIP/2.0/{via} [local_ip]:[local_port];branch=[branch];rport\n\
             From: <sip:+441632960000@[local_ip]>;tag=[pid]t[call_number]\n{to}\nCall-ID: [call_id]\nCSeq: {cseq} {method}\n\
             Contact: <sip:+441632960000@[local_ip]:[local_port];transport={contact}>\nMax-Forwards: 70\n{rest}"
        )
    };
    let (to_them, no_body) = (format!("To: <{uri}>"), "Content-Length: 0\n\n");
    let body = format!("Content-Type: application/sdp\nContent-Length: [len]\n\n{SDP}\n");
    let password = format!("[authentication username={name} password=secret-{name}]\n");
    let invite = request(&format!("INVITE {uri}"), 1, "INVITE", &to_them, &body);
    let refused =
        request(&format!("ACK {uri}"), 1, "ACK", "[last_To:]", no_body).replace("branch=[branch]", "branch=[branch-3]");
    let again = request(&format!("INVITE {uri}"), 2, "INVITE", &to_them, &format!("{password}{body}"));
    let ack = request("ACK [next_url]", 2, "ACK", "[last_To:]", no_body);
    let bye = request("BYE [next_url]", 3, "BYE", "[last_To:]", no_body);
    let text = format!(
        r#"<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="uac">
<send retrans="500"><![CDATA[
{invite}]]></send>
<recv response="100" optional="true"/>
<recv response="407" auth="true"/>
<send><![CDATA[
{refused}]]></send>
<send retrans="500"><![CDATA[
{again}]]></send>
<recv response="100" optional="true"/>
<recv response="180" optional="true"/>
<recv response="200" rrs="true"/>
<send><![CDATA[
{ack}]]></send>
<nop><action><exec rtp_stream="played.ul,-1,0,PCMU/8000"/></action></nop>
<pause milliseconds="4000"/>
<send retrans="500"><![CDATA[
{bye}]]></send>
<recv response="200"/>
</scenario>
"#
    )
    .replace("[media_port]", "[rtpstream_audio_port]");
    fs::write(folder.join(format!("{name}.xml")), text).expect("a scenario");
    let mode = if via == "UDP" { "u1" } else { "t1" };
    let port = media - 1_000;
    let arguments = format!(
        "{to} -sf {name}.xml -i {HOST} -p {port} -mi {HOST} -mp {media} -t {mode} -m 1 -timeout 40 -trace_err -nostdin"
    );
    let mut program = sipp(folder, name, &arguments);
    if !program.ended(45).await {
        let errors = fs::read_dir(folder).expect("the folder").filter_map(Result::ok);
        let errors = errors.filter(|entry| entry.file_name().to_string_lossy().contains("_errors"));
        let text: Vec<String> = errors.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
        panic!("SIPp over {via}: {}\n{}", text.join("\n"), program.output());
    }
}

fn sipp(folder: &Path, name: &str, arguments: &str) -> Program {
    let mut command = Command::new("sipp");
    command.current_dir(folder).args(arguments.split(' '));
    Program::start(folder, &format!("sipp-{name}"), &mut command)
}
