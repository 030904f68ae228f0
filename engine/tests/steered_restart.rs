//! `kill -9` of a process whose calls are steered to one socket, in the middle of their media: the kernel lets go of the program and its
//! tables, and the next process hears its calls on the same ports.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Tries of what another process or the kernel must do first, some milliseconds apart: only a failing test gets there.
const TRIES_MAX: u32 = 2_000;
/// What the peers were told. A call whose sockets are not steered would answer from 127.0.0.1.
const TOLD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A process with one bridge: the example, which relays.
struct Gateway {
    child: Child,
    /// Open for as long as it may write.
    _output: BufReader<ChildStdout>,
    ports: [u16; 2],
}

impl Gateway {
    fn start(peers: &[UdpSocket; 2]) -> Gateway {
        // Examples are built beside the tests: target/PROFILE/examples.
        let folder = std::env::current_exe().unwrap().parent().and_then(|deps| deps.parent()).unwrap().join("examples");
        let mut child = Command::new(folder.join("bridge"))
            .args(peers.each_ref().map(|peer| format!("{}/pcmu", peer.local_addr().unwrap())))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example is built by cargo test");
        let (mut line, mut output) = (String::new(), BufReader::new(child.stdout.take().unwrap()));
        output.read_line(&mut line).unwrap();
        let mut told = line.split(" sends to ").skip(1).map(|rest| {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().unwrap()
        });
        let ports = [(); 2].map(|()| told.next().unwrap_or_else(|| panic!("no bridge: {line:?}")));
        Gateway { child, _output: output, ports }
    }

    /// What the process has of BPF: kind and number of each link, program and table.
    fn bpf(&self) -> Vec<(Object, u32)> {
        let folder = format!("/proc/{}/fdinfo", self.child.id());
        let mut objects = Vec::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap_or_default();
            for line in text.lines() {
                let kinds = [("link_id:", Object::Link), ("prog_id:", Object::Program), ("map_id:", Object::Map)];
                let found = kinds.into_iter().find_map(|(name, kind)| Some((kind, line.strip_prefix(name)?)));
                objects.extend(found.map(|(kind, number)| (kind, number.trim().parse().unwrap())));
            }
        }
        objects
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Object {
    Link,
    Program,
    Map,
}

impl Object {
    /// Whether the kernel has one of this number.
    #[expect(unsafe_code, reason = "bpf(2) has no other door")]
    fn exists(self, number: u32) -> bool {
        // BPF_PROG_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID, BPF_LINK_GET_FD_BY_ID: the number, two fields of zero.
        let command = match self {
            Object::Program => 13,
            Object::Map => 14,
            Object::Link => 30,
        };
        let attributes = [number, 0, 0];
        // SAFETY: `attributes` is readable and as long as is said.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(&attributes)) };
        if fd < 0 {
            let error = std::io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{self:?} {number}: {error}");
            return false;
        }
        // SAFETY: the descriptor was made by the call above and belongs to nobody else.
        unsafe { libc::close(fd as libc::c_int) };
        true
    }
}

fn tries(what: &str, mut come: impl FnMut() -> bool) {
    let is_come = (0..TRIES_MAX).any(|_| {
        std::thread::park_timeout(Duration::from_millis(1));
        come()
    });
    assert!(is_come, "waited in vain for {what}");
}

#[expect(clippy::disallowed_methods, reason = "these are the peers' sockets")]
fn bound(port: u16) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?;
    socket.set_read_timeout(Some(Duration::from_millis(5)))?;
    Ok(socket)
}

/// Both peers speak, 160 bytes that change with each packet; whoever hears the other's from where it was told is ticked off.
fn talk(peers: &[UdpSocket; 2], ports: [u16; 2], sequence: &mut u16, heard: &mut [bool; 2]) {
    *sequence += 1;
    for (index, peer) in peers.iter().enumerate() {
        let mut packet = [*sequence as u8; 172];
        packet[..12].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9, index as u8]);
        packet[2..4].copy_from_slice(&sequence.to_be_bytes());
        packet[4..8].copy_from_slice(&(u32::from(*sequence) * 160).to_be_bytes());
        peer.send_to(&packet, (TOLD, ports[index])).unwrap();
    }
    for (index, peer) in peers.iter().enumerate() {
        let mut came = [0; 1_500];
        while let Ok((len, from)) = peer.recv_from(&mut came) {
            let is_media = len == 172 && came[12..172].iter().all(|byte| *byte == came[12]);
            heard[index] |= is_media && from == SocketAddr::from((TOLD, ports[index]));
        }
    }
}

#[test]
fn what_a_killed_process_steered_is_gone_and_the_next_one_hears_its_calls_on_the_same_ports() {
    let peers = [bound(0).unwrap(), bound(0).unwrap()];
    let mut sequence = 0;
    let mut hear = |ports| {
        let mut heard = [false; 2];
        tries("both peers to hear each other", || {
            talk(&peers, ports, &mut sequence, &mut heard);
            heard == [true; 2]
        });
    };
    let mut first = Gateway::start(&peers);
    let ports = first.ports;
    hear(ports);
    let before = first.bpf();
    let count = |kind| before.iter().filter(|object| object.0 == kind).count();
    assert!(count(Object::Link) == 1 && count(Object::Program) == 1 && count(Object::Map) >= 1, "{before:?}");
    assert!(before.iter().all(|(kind, number)| kind.exists(*number)));

    first.child.kill().unwrap();
    // Nobody hears this, and it does not keep anything alive.
    talk(&peers, ports, &mut 40_000, &mut [false; 2]);
    first.child.wait().unwrap();
    tries("the kernel to let go", || !before.iter().any(|(kind, number)| kind.exists(*number)));
    // io_uring's sockets are let go of after the process.
    tries("the ports", || ports.iter().all(|port| bound(*port).is_ok()));

    let next = Gateway::start(&peers);
    assert_eq!(next.ports, ports);
    hear(ports);
    assert!(next.bpf().iter().all(|object| !before.contains(object)));
}
