//! Softphones in browsers: JsSIP, SIP.js and tandem's own page, each registered at tandem over WebSocket.

use super::browser::Browser;
use super::{HOST, Program, built, repo, until};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where [`tandem`] serves its pages and its edge API.
pub const PAGES: &str = "http://127.0.0.1:8080";

/// Where [`pages`] serves the libraries' page. `localhost` is a secure context, so that it may use the microphone.
const LIBRARIES: &str = "http://localhost:9080/";

/// The users of [`tandem`], each with the password `secret`.
pub const USERS: [&str; 3] = ["alice", "bob", "carol"];

/// tandem with users, a group of all of them, and `trunks` in TOML.
pub async fn tandem(folder: &Path, trunks: &str) -> Program {
    let mut text = format!(
        "[sip]\ndomain = \"voice.example\"\nbind = \"{HOST}:5060\"\ntls_bind = \"{HOST}:5061\"\nwss_bind = \"{HOST}:7443\"\n\
         [edge]\nbind = \"127.0.0.1:8080\"\n[media]\nports = \"30000-30999\"\npublic_ip = \"{HOST}\"\n[numbers]\ncountry = \"44\"\n"
    );
    for (n, user) in USERS.iter().enumerate() {
        let name = user[..1].to_uppercase() + &user[1..];
        text.push_str(&format!(
            "[users.{user}]\npassword = \"secret\"\nname = \"{name}\"\nnumber = \"+44163296000{}\"\n",
            n + 1
        ));
    }
    text.push_str("[groups.sales]\nusers = [\"alice\", \"bob\", \"carol\"]\nnumber = \"+441632960009\"\n");
    text.push_str(trunks);
    let file = folder.join("tandem.toml");
    std::fs::write(&file, text).expect("the configuration is written");
    let mut command = Command::new(built("tandem"));
    command.arg("edge").arg("--config").arg(&file).env("RUST_LOG", "info");
    let mut program = Program::start(folder, "tandem", &mut command);
    until("tandem", 20, async || reqwest::get(format!("{PAGES}/health")).await.ok()).await;
    assert!(program.is_running());
    program
}

/// The ladder of the newest call that holds `search`, as `tandem trace` prints it.
pub fn ladder(folder: &Path, search: &str) -> String {
    let trace = |arguments: &[&str]| {
        let file = folder.join("tandem.toml");
        super::output_of(Command::new(built("tandem")).arg("trace").args(arguments).arg("--config").arg(file))
    };
    let list = trace(&["--search", search]);
    let id = list.lines().next().and_then(|line| line.split_whitespace().last()).unwrap_or_default().to_owned();
    trace(&[&id])
}

/// Serves a page with the libraries. Dies with the test.
pub async fn pages() {
    use axum::Router;
    use axum::extract::Path as Named;
    use axum::response::Html;
    use axum::routing::get;
    let folder: PathBuf = repo().join("target/tools/softphone");
    assert!(folder.join("sipjs20.js").exists(), "the softphones are missing; tests/install.sh test installs them");
    let index = "<!doctype html><meta charset=utf-8><title>softphone</title><script src=/jssip.js></script>\
                 <script src=/sipjs.js></script><script src=/sipjs20.js></script><script src=/phone.js></script>";
    let file = async move |Named(name): Named<String>| {
        let known = ["jssip.js", "sipjs.js", "sipjs20.js", "phone.js"].contains(&name.as_str());
        let text = if known { std::fs::read_to_string(folder.join(name)).unwrap_or_default() } else { String::new() };
        ([("content-type", "text/javascript; charset=utf-8")], text)
    };
    let router = Router::new().route("/", get(async move || Html(index))).route("/{name}", get(file));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:9080").await.expect("port 9080 of the namespace");
    tokio::spawn(async move { axum::serve(listener, router).await });
}

/// A browser with one softphone.
pub struct Softphone {
    /// The browser.
    pub browser: Browser,
    user: String,
}

impl Softphone {
    /// Starts a browser and registers `user` with `library`: `jssip`, `sipjs` or `sipjs20` (as Browser-Phone uses it).
    pub async fn start(folder: &Path, microphone: &Path, library: &str, user: &str) -> Softphone {
        Softphone::browser(folder, microphone, user).await.register(library).await
    }

    /// The same in a browser that keeps its encoded frames.
    pub async fn tapped(folder: &Path, microphone: &Path, library: &str, user: &str) -> Softphone {
        let phone = Softphone::browser(folder, microphone, user).await;
        phone.browser.tap().await;
        phone.register(library).await
    }

    async fn register(self, library: &str) -> Softphone {
        let phone = self;
        let user = &phone.user;
        phone.browser.open(LIBRARIES).await;
        let settings =
            json!({"ws": format!("wss://{HOST}:7443"), "user": user, "password": "secret", "domain": "voice.example"});
        phone.browser.run(&format!("openPhone('{library}', {settings})")).await;
        phone.expect("registered").await;
        phone
    }

    /// Starts a browser and signs `user` in on tandem's own page.
    pub async fn agent(folder: &Path, microphone: &Path, user: &str) -> Softphone {
        Softphone::agent_of(folder, microphone, user, ("voice.example", "secret")).await
    }

    /// The same at another domain, with another password.
    pub async fn agent_of(folder: &Path, microphone: &Path, user: &str, (domain, password): (&str, &str)) -> Softphone {
        let phone = Softphone::browser(folder, microphone, user).await;
        phone.browser.open(&format!("{PAGES}/agent?user={user}&domain={domain}")).await;
        // Keeps a log in the form of the libraries' page.
        let script = "document.getElementById('password').value = 'secret';
            document.getElementById('in').click();
            const log = [];
            const call = (made) => {
                window.current = made;
                for (const name of ['ringing', 'held', 'resumed', 'failed']) made.addEventListener(name, () => log.push(name));
                made.addEventListener('answered', () => log.push('confirmed'));
                made.addEventListener('transfer', ({ detail }) => log.push(`transfer ${detail.code}`));
                made.addEventListener('ended', ({ detail }) => log.push(`ended ${detail.why}`));
            };
            phone.addEventListener('state', ({ detail }) => log.push(detail.state));
            phone.addEventListener('incoming', ({ detail }) => {
                call(detail.call);
                log.push(`incoming ${detail.call.peer.user} ${detail.call.peer.name}`);
            });
            const dial = phone.call.bind(phone);
            const click = (name) => document.querySelector(`.${name}`).click();
            phone.call = (target) => { const made = dial(target); call(made); return made; };
            window.phone = { log, failures: [],
                call: (target) => {
                    document.getElementById('number').value = target;
                    document.getElementById('call').click();
                },
                answer: () => click('answer'), hangup: () => click('hang'), reject: () => click('hang'),
                hold: () => click('hold'), unhold: () => click('hold'), digit: (key) => window.current.digit(key),
                transfer: (target) => { document.querySelector('.target').value = target; click('transfer'); },
            };";
        phone.browser.run(&script.replace("'secret'", &format!("'{password}'"))).await;
        phone.expect("registered").await;
        phone
    }

    async fn browser(folder: &Path, microphone: &Path, user: &str) -> Softphone {
        let own = folder.join(user);
        std::fs::create_dir_all(&own).expect("a folder for the browser");
        let port = 9_515 + u16::from(user.as_bytes()[0] - b'a');
        Softphone { browser: Browser::start_at(&own, microphone, port).await, user: user.to_owned() }
    }

    /// Does something that every phone can: `call('+44...')`, `answer()`, `hold()`.
    pub async fn act(&self, action: &str) {
        self.browser.run(&format!("window.phone.{action}")).await;
    }

    /// What happened so far.
    pub async fn log(&self) -> Vec<String> {
        let log = self.browser.run("return window.phone.log").await;
        log.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Waits for a line that starts so, and forgets everything up to it.
    pub async fn expect(&self, start: &str) -> String {
        let script = format!(
            "const at = window.phone.log.findIndex((line) => line.startsWith({}));
             return at < 0 ? null : window.phone.log.splice(0, at + 1)[at];",
            json!(start)
        );
        for _ in 0..300 {
            if let Some(line) = self.browser.run(&script).await.as_str() {
                return line.to_owned();
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        let (log, console) = (self.log().await, self.browser.console().await);
        panic!("{} did not see {start:?}: {log:?}\n{console}", self.user);
    }

    /// Forgets what was heard so far.
    pub async fn listen(&self) {
        self.browser.run("window.tandemHeard.length = 0").await;
    }

    /// Writes what was heard since `listen`.
    pub async fn heard(&self, path: &Path) {
        super::speech::write_wav(path, 48_000, &self.browser.heard().await);
    }
}
