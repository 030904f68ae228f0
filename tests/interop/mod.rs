//! What the interop tests share: a private network, other people's programs, a browser, and a judge of speech.
//!
//! Every test runs again inside a network and process namespace of its own: ports never clash, nothing can leave the
//! machine, and whatever a test starts dies with it.
#![allow(dead_code, reason = "each test uses its part")]

pub mod baresip;
pub mod browser;
pub mod line;
pub mod nat;
pub mod pion;
pub mod sdes;
pub mod softphone;
pub mod speech;
pub mod wire;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The address that programs in the namespace use for each other, beside 127.0.0.1.
pub const HOST: &str = "10.77.0.1";

const INSIDE: &str = "TANDEM_TEST_INSIDE";

static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Runs `body` in a fresh network and process namespace: this test program is started again there with only `test`.
///
/// # Panics
/// When the body fails, or the namespace cannot be made (it needs root; a missing right fails, it never skips).
pub fn in_namespace(test: &str, body: impl AsyncFnOnce(&Path)) {
    // One at a time: a browser, a phone and a gateway at once are what two cores carry without stuttering.
    let is_inside = std::env::var_os(INSIDE).is_some();
    let _turn = (!is_inside).then(|| ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    in_namespace_beside_others(test, body);
}

/// The same without waiting for the program's other tests: for one that takes long, needs little and scores no audio.
///
/// # Panics
/// As [`in_namespace`].
pub fn in_namespace_beside_others(test: &str, body: impl AsyncFnOnce(&Path)) {
    if std::env::var_os(INSIDE).is_some() {
        let folder = fresh_folder(test);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(body(&folder));
        return;
    }
    let program = std::env::current_exe().expect("the path of this program");
    let set_up = format!(
        "ip link set lo up && ip link add t0 type veth peer name t1 && ip link set t0 up && ip link set t1 up \
         && ip addr add {HOST}/24 dev t0 && exec \"$0\" --exact {test} --nocapture --test-threads 1"
    );
    let status = Command::new("unshare")
        .args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &set_up])
        .arg(program)
        .env(INSIDE, "1")
        .status()
        .expect("unshare (util-linux) runs");
    assert!(status.success(), "{test} failed inside its namespace; see its output above");
}

/// An empty folder for what one test writes: recordings and logs stay there for a look afterwards.
pub fn fresh_folder(test: &str) -> PathBuf {
    let folder = repo().join("target/tests").join(test.rsplit("::").next().unwrap_or(test));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder under target/");
    folder
}

/// The root of the repository.
pub fn repo() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of `tests/interop`.
pub fn script(name: &str) -> String {
    repo().join("tests/interop").join(name).display().to_string()
}

/// A program that `cargo build` made beside this test.
pub fn built(name: &str) -> PathBuf {
    let deps = std::env::current_exe().expect("the path of this program");
    let path = deps.parent().and_then(Path::parent).expect("target/<profile>/deps").join(name);
    assert!(path.exists(), "{} is missing: cargo build --workspace --bins", path.display());
    path
}

/// A program that runs beside a test and is killed with it; its output goes to a log.
pub struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts `command` with both outputs in `<folder>/<name>.log`.
    pub fn start(folder: &Path, name: &str, command: &mut Command) -> Program {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).expect("a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start ({error}); tests/install.sh test installs it"));
        Program { name: name.to_owned(), child, log }
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until it has printed `text`.
    pub async fn wait_for(&mut self, text: &str, seconds: u64) -> String {
        for _ in 0..seconds * 20 {
            let output = self.output();
            if output.contains(text) {
                return output;
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("{} ended with {status} before it said {text:?}:\n{}", self.name, self.output());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} did not say {text:?} in {seconds} s:\n{}", self.name, self.output());
    }

    /// Where each of its threads is: running, or waiting in which function of the kernel. Tells a stall from a fault.
    fn threads(&self) -> String {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten();
        let line = |task: PathBuf| {
            let read = |file: &str| std::fs::read_to_string(task.join(file)).unwrap_or_default().trim().to_owned();
            // After the name in brackets: state, and from there on the 9th is majflt, the 11th utime, the 12th stime.
            let stat = read("stat");
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
            let field = |at: usize| fields.get(at).copied().unwrap_or("?");
            let (state, faults, user, system) = (field(0), field(9), field(11), field(12));
            let (name, place) = (read("comm"), read("wchan"));
            format!("{name}: {state} in {place}, {faults} major faults, {user} + {system} ticks\n")
        };
        tasks.filter_map(Result::ok).map(|task| line(task.path())).collect()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end, as Ctrl-C does, and waits.
    pub async fn stop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        self.ended(10).await;
    }

    /// Waits for its end and answers whether it succeeded.
    pub async fn ended(&mut self, seconds: u64) -> bool {
        for _ in 0..seconds * 20 {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.success();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} still runs after {seconds} s:\n{}", self.name, self.output());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let threads = if std::thread::panicking() { self.threads() } else { String::new() };
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprint!("--- the threads of {}\n{threads}", self.name);
            let output = self.output();
            let tail: Vec<&str> = output.lines().rev().take(40).collect();
            eprintln!("--- the last lines of {}", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Runs a command to its end and answers its standard output.
pub fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks until `check` answers something, for at most `seconds`.
pub async fn until<T>(what: &str, seconds: u64, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..seconds * 10 {
        if let Some(answer) = check().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what} did not happen in {seconds} s");
}

/// The calendar's time, which the wire's capture has as well.
#[expect(clippy::disallowed_methods, reason = "other programs' captures and webhooks carry wall time")]
pub fn unix_seconds() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_secs_f64()
}

/// GET of a JSON document.
pub async fn get_json(url: &str) -> serde_json::Value {
    let text =
        reqwest::get(url).await.unwrap_or_else(|error| panic!("GET {url}: {error}")).text().await.expect("a body");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("GET {url} answered no JSON ({error}): {text}"))
}

/// Kamailio as the SIP provider on `HOST:5060`: digest is really checked, calls go along its Record-Route.
pub async fn kamailio(folder: &Path) -> Program {
    let architecture = output_of(Command::new("gcc").arg("-dumpmachine"));
    let modules = format!("/usr/lib/{}/kamailio/modules/", architecture.trim());
    let mut command = Command::new("kamailio");
    command.args(["-f", &script("kamailio.cfg"), "-DD", "-E", "-m", "64", "-M", "8", "-L", &modules, "-w"]).arg(folder);
    command
        .arg("-Y")
        .arg(folder)
        .arg("-P")
        .arg(folder.join("kamailio.pid"))
        .args(["-A", &format!("LISTEN=udp:{HOST}:5060")]);
    let mut program = Program::start(folder, "kamailio", &mut command);
    program.wait_for("Listening on", 20).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    program
}

/// What a gateway's `/metrics` say is still there: empty when nothing of any call is left.
pub async fn left_behind(edge: &str) -> Vec<String> {
    let reply =
        reqwest::get(format!("{edge}/metrics")).await.unwrap_or_else(|error| panic!("metrics of {edge}: {error}"));
    let text = reply.text().await.expect("a body");
    let gauges: Vec<&str> =
        text.lines().filter(|line| GAUGES.iter().any(|gauge| line.split(' ').next() == Some(gauge))).collect();
    assert_eq!(gauges.len(), GAUGES.len(), "a gauge is missing from the metrics:\n{text}");
    gauges.into_iter().filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect()
}

const GAUGES: [&str; 7] = [
    "tandem_calls_alive",
    "tandem_sessions_alive",
    "tandem_sip_calls_alive",
    "engine_bridges_open",
    "engine_sockets_open",
    "engine_timers_set",
    "engine_buffers_lent",
];

/// tandem for those who use only its edge API, on [`EDGE`]: media on 30000-30999, every call to `sip_target`.
pub async fn edge(folder: &Path, sip_target: &str) -> Program {
    edge_with(folder, sip_target, &[]).await
}

/// The same with further settings, or others.
pub async fn edge_with(folder: &Path, sip_target: &str, settings: &[(&str, &str)]) -> Program {
    let mut command = Command::new(built("tandem"));
    command.envs([("EDGE_BIND", "127.0.0.1:8080"), ("SIP_TARGET", sip_target), ("PUBLIC_IP", HOST)]);
    command.envs([("SIP_BIND", "10.77.0.1:5060"), ("MEDIA_PORTS", "30000-30999")]);
    // Nobody plays WhatsApp here; the orchestrator only has to start.
    command.envs([
        ("PORT", "3000"),
        ("WABA_BASE", "http://127.0.0.1:9/v24.0"),
        ("WABA_TOKEN", "token"),
        ("WABA_PHONE_ID", "1"),
    ]);
    command.envs(settings.iter().copied());
    let mut program = Program::start(folder, "tandem", &mut command);
    until("tandem", 20, async || reqwest::get(EDGE).await.ok()).await;
    assert!(program.is_running());
    program
}

/// Where [`edge`] listens.
pub const EDGE: &str = "http://127.0.0.1:8080";

/// POST of a JSON document, answered with 200 and another.
pub async fn post_json(url: &str, body: &serde_json::Value) -> serde_json::Value {
    let reply =
        reqwest::Client::new().post(url).json(body).send().await.unwrap_or_else(|error| panic!("POST {url}: {error}"));
    let status = reply.status();
    let text = reply.text().await.expect("a body");
    assert_eq!(status, 200, "POST {url} answered {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("POST {url} answered no JSON ({error}): {text}"))
}
