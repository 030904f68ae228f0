//! A host behind a router that maps one public address to it, as clouds do: outside (this namespace), the router, and the host.
//!
//! Why namespaces and the kernel's own NAT: rewritten headers, conntrack and a missing hairpin are what a mapping costs, and none of
//! them can be played in one namespace.

use super::{HOST, Program, built, until};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The address that the world knows.
pub const PUBLIC: &str = "203.0.113.9";
/// The one that the host has, and no description may show.
pub const PRIVATE: &str = "10.9.0.2";

/// The router and the host behind it, for as long as this lives.
pub struct Nat {
    router: Child,
    host: Child,
}

impl Nat {
    /// Makes both. Everything that comes for `PUBLIC` is the host's, and what the host sends comes from there.
    pub fn new() -> Nat {
        let namespace = || {
            let child = Command::new("unshare").args(["--net", "sleep", "infinity"]).stdin(Stdio::null()).spawn();
            child.expect("unshare (util-linux) runs")
        };
        let nat = Nat { router: namespace(), host: namespace() };
        let (router, host) = (nat.router.id(), nat.host.id());
        let script = format!(
            "set -e
            r() {{ nsenter --net=/proc/{router}/ns/net \"$@\"; }}
            h() {{ nsenter --net=/proc/{host}/ns/net \"$@\"; }}
            for id in {router} {host}; do
                while [ \"$(readlink /proc/$id/ns/net)\" = \"$(readlink /proc/self/ns/net)\" ]; do sleep 0.02; done
            done
            ip link add n0 type veth peer name n1 netns {router}
            ip addr add 10.77.1.1/24 dev n0; ip link set n0 up; ip route add {PUBLIC} via 10.77.1.2 src {HOST}
            r ip link set lo up; r ip addr add 10.77.1.2/24 dev n1; r ip link set n1 up; r ip route add default via 10.77.1.1
            r ip link add n2 type veth peer name n3 netns {host}
            r ip addr add 10.9.0.1/24 dev n2; r ip link set n2 up
            h ip link set lo up; h ip addr add {PRIVATE}/24 dev n3; h ip link set n3 up; h ip route add default via 10.9.0.1
            r sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
            r iptables -t nat -A PREROUTING -d {PUBLIC} -j DNAT --to-destination {PRIVATE}
            r iptables -t nat -A POSTROUTING -s {PRIVATE} -o n1 -j SNAT --to-source {PUBLIC}"
        );
        let status = Command::new("sh").arg("-c").arg(&script).status().expect("sh runs");
        assert!(status.success(), "the router cannot be made: are iptables, iproute2 and util-linux installed?");
        nat
    }

    /// tandem on the host, its edge API on `PUBLIC` (port 8080), media on 30000-30999, every call to `sip_target`.
    pub async fn edge(&self, folder: &Path, sip_target: &str) -> Program {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.host.id())).arg(built("tandem")).arg("edge");
        command.envs([("EDGE_BIND", "10.9.0.2:8080"), ("EDGE_TOKEN", TOKEN), ("SIP_TARGET", sip_target)]);
        command.envs([("PUBLIC_IP", PUBLIC), ("SIP_BIND", "10.9.0.2:5060"), ("MEDIA_PORTS", "30000-30999")]);
        let mut program = Program::start(folder, "tandem", &mut command);
        until("tandem behind the router", 20, async || reqwest::get(EDGE).await.ok()).await;
        assert!(program.is_running());
        program
    }
}

/// Where [`Nat::edge`] listens, seen from outside.
pub const EDGE: &str = "http://203.0.113.9:8080";

/// Its bearer token.
pub const TOKEN: &str = "edge-token";

impl Drop for Nat {
    fn drop(&mut self) {
        for child in [&mut self.router, &mut self.host] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
