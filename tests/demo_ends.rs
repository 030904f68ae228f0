//! The demonstration ends, and says why, when the gateway dies under it or somebody interrupts it; nothing of it stays behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Tenths of a second for everything that is waited for.
const PATIENCE: u32 = 200;

#[test]
fn a_gateway_that_dies_during_the_demonstration_is_named_as_the_reason() {
    let mut demo = Demo::start("a-gateway-that-dies", "24000-24399");
    demo.wait_for("held media is released");
    signal("KILL", demo.gateway());
    assert_eq!(demo.ended(), Some(1), "{}", demo.output());
    let output = demo.output();
    assert!(output.contains("FAIL  tandem ended by itself during the call (signal: 9"), "{output}");
}

#[test]
fn an_interrupted_demonstration_is_no_success_and_takes_the_gateway_with_it() {
    let mut demo = Demo::start("an-interrupted-demonstration", "24400-24799");
    demo.wait_for("held media is released");
    let gateway = demo.gateway();
    signal("TERM", demo.child.id());
    assert_eq!(demo.ended(), Some(1), "{}", demo.output());
    assert!(demo.output().contains("FAIL  interrupted before the verdict"), "{}", demo.output());
    assert!(!Path::new(&format!("/proc/{gateway}")).exists(), "the gateway still runs");
}

/// A running `tandem-standin demo`, with all it prints in a file.
struct Demo {
    child: Child,
    log: PathBuf,
}

impl Demo {
    fn start(name: &str, ports: &str) -> Demo {
        let deps = std::env::current_exe().expect("the path of this program");
        let programs = deps.parent().and_then(Path::parent).expect("target/<profile>/deps");
        let program = programs.join("tandem-standin");
        assert!(program.exists(), "{} is missing: cargo build --workspace --bins", program.display());
        let log = programs.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).expect("a log file");
        let mut command = Command::new(program);
        command.args(["demo", "--verbose", "--page-port", "0", "--tls-port", "0"]).env("DEMO_ONCE", "1");
        command.args(["--media-ports", ports]);
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a second handle")).stderr(file);
        Demo { child: command.spawn().expect("the stand-in starts"), log }
    }

    fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).expect("the log")).into_owned()
    }

    fn wait_for(&self, text: &str) {
        until(text, || self.output().contains(text).then_some(()));
    }

    /// The process that the demonstration has started.
    fn gateway(&self) -> u32 {
        let parent = format!("PPid:\t{}\n", self.child.id());
        let is_child = |id: &u32| {
            std::fs::read_to_string(format!("/proc/{id}/status")).is_ok_and(|status| status.contains(&parent))
        };
        let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.into_iter().find(is_child).expect("a child")
    }

    fn ended(&mut self) -> Option<i32> {
        until("the demonstration's end", || self.child.try_wait().expect("its status")).code()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(name: &str, id: u32) {
    let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {id}")).status().expect("a shell");
    assert!(status.success());
}

#[expect(clippy::disallowed_methods, reason = "another program is waited for, which has no deadline to poll")]
fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    for _ in 0..PATIENCE {
        if let Some(answer) = check() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("waited in vain for {what}");
}
