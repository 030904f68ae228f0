//! `tandem [orchestrator|edge|check] [--config FILE]`, `tandem route`, `tandem trace`, `tandem --version`, `tandem --help`.

use crate::config::{Config, Mode};
use crate::route::{Asked, explain};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Time that the running program may take to answer `tandem trace`.
const FETCH_TIME_MAX: Duration = Duration::from_secs(10);

const HELP: &str = "\
tandem joins WhatsApp Business calls to SIP.

  tandem [orchestrator|edge] [--config FILE]
  tandem check [orchestrator|edge] [--config FILE]
  tandem route NUMBER [--source SOURCE] [--from CALLER] [--config FILE]
  tandem trace [CALL] [--search TEXT] [--url URL] [--config FILE]
  tandem call [--edge URL] [--wav IN] [--record OUT] [...]
  tandem --version | --help

  (nothing)      both planes in one process
  orchestrator   webhooks and Graph only; EDGE_API names the edge
  edge           media and SIP only
  check          reads the configuration, says what is wrong with it and with this host, and stops; the exit code is 1 where
                 something is; with a plane's name it looks with the eyes of that process only
  route          where a call to NUMBER goes: what would be tried, in which order, and why nothing else;
                 SOURCE is users (default), user:NAME, trunk:NAME or whatsapp
  trace          the SIP messages of CALL (a Call-ID or WhatsApp's call id) as a ladder, asked of the running program;
                 without CALL the calls that it remembers
  call           places one call into an edge: speech in, recording out, figures, exit code (tandem call --help)

Settings come from the environment (WABA_TOKEN, SIP_TARGET, ...) and from FILE (TOML); the environment wins.
RUST_LOG sets the log's level; with LOG_FORMAT=json each of its lines is a JSON object.
";

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    /// Run.
    Run(Mode, Option<PathBuf>),
    /// Only look: with the eyes of that process, or of the first that the configuration is enough for.
    Check(Option<Mode>, Option<PathBuf>),
    /// Say where a call would go.
    Route(RouteOrder),
    /// Ask the running program for a call's messages.
    Trace(TraceOrder),
    /// Print the version.
    Version,
    /// Print the help.
    Help,
}

/// What `tandem route` is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteOrder {
    /// What is dialed.
    pub number: String,
    /// Who calls, as number or name.
    pub from: Option<String>,
    /// `user:NAME` and the like.
    pub source: Option<String>,
    /// The configuration.
    pub file: Option<PathBuf>,
}

/// What `tandem trace` is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceOrder {
    /// Which call; the list of calls when `None`.
    pub call: Option<String>,
    /// Only calls that hold this.
    pub search: Option<String>,
    /// Where the program serves; from the configuration when `None`.
    pub url: Option<String>,
    /// The configuration.
    pub file: Option<PathBuf>,
}

/// Reads the arguments, without the program's name.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Order, String> {
    let mut arguments = arguments.into_iter();
    let mut words: Vec<String> = Vec::new();
    let mut options: Vec<(&'static str, String)> = Vec::new();
    while let Some(argument) = arguments.next() {
        let (name, joined) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
            _ => (argument.clone(), None),
        };
        match name.as_str() {
            "--version" | "-V" => return Ok(Order::Version),
            "--help" | "-h" => return Ok(Order::Help),
            other if other.starts_with('-') => {
                let known = OPTIONS.into_iter().find(|known| *known == other).ok_or_else(|| not_understood(other))?;
                let value = joined.or_else(|| arguments.next()).ok_or_else(|| format!("{known} needs a value"))?;
                options.push((known, value));
            }
            _ => words.push(argument),
        }
    }
    let mut take = |name: &str| {
        let at = options.iter().position(|(known, _)| *known == name)?;
        Some(options.remove(at).1)
    };
    let file = take("--config").map(PathBuf::from);
    let mut words = words.into_iter();
    let order = match words.next().as_deref() {
        None => Order::Run(Mode::Tandem, file),
        Some("orchestrator") => Order::Run(Mode::Orchestrator, file),
        Some("edge") => Order::Run(Mode::Edge, file),
        Some("check") => {
            let mode = match words.next().as_deref() {
                None => None,
                Some("orchestrator") => Some(Mode::Orchestrator),
                Some("edge") => Some(Mode::Edge),
                Some(other) => return Err(not_understood(other)),
            };
            Order::Check(mode, file)
        }
        Some("route") => {
            let number = words.next().ok_or("tandem route needs a number: tandem route +447700900123")?;
            Order::Route(RouteOrder { number, from: take("--from"), source: take("--source"), file })
        }
        Some("trace") => {
            Order::Trace(TraceOrder { call: words.next(), search: take("--search"), url: take("--url"), file })
        }
        Some(other) => return Err(not_understood(other)),
    };
    match (words.next(), options.first()) {
        (Some(other), _) => Err(not_understood(&other)),
        (None, Some((other, _))) => Err(not_understood(other)),
        (None, None) => Ok(order),
    }
}

const OPTIONS: [&str; 5] = ["--config", "--from", "--source", "--search", "--url"];

fn not_understood(word: &str) -> String {
    format!("{word} is not understood; tandem --help lists what is")
}

/// The whole program.
pub fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("call") {
        return crate::cli_call::main(std::env::args().skip(2));
    }
    let outcome = match parse(std::env::args().skip(1)) {
        Ok(Order::Version) => {
            println!("tandem {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Ok(Order::Help) => {
            print!("{HELP}");
            Ok(())
        }
        Ok(Order::Check(mode, file)) => check(mode, file),
        Ok(Order::Route(order)) => route(order),
        Ok(Order::Trace(order)) => trace(order),
        Ok(Order::Run(mode, file)) => {
            crate::trace::log::begin();
            load(file).and_then(|config| crate::run(config, mode).map_err(|error| format!("{error:#}")))
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tandem: {error}");
            ExitCode::FAILURE
        }
    }
}

fn load(file: Option<PathBuf>) -> Result<Config, String> {
    Config::load(file.as_deref(), |name| std::env::var(name).ok()).map_err(|error| error.0)
}

fn route(order: RouteOrder) -> Result<(), String> {
    let config = load(order.file)?;
    let source = explain::source(&config.routes, order.source.as_deref())?;
    let asked = Asked { dialed: order.number, from: order.from.unwrap_or_default(), source };
    print!("{}", explain::explain(&config.routes, &asked));
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

/// Asks the running program, since only that has the messages.
fn trace(order: TraceOrder) -> Result<(), String> {
    let config = load(order.file)?;
    let own = || {
        // Where nothing orchestrates, the edge's server has the same pages.
        let bound = SocketAddr::new(config.http.bind, config.http.port);
        let here = if bound.ip().is_unspecified() { SocketAddr::from(([127, 0, 0, 1], bound.port())) } else { bound };
        [format!("http://{here}"), format!("http://{}", config.edge.bind)]
    };
    let bases = order.url.map_or_else(|| own().to_vec(), |url| vec![url.trim_end_matches('/').to_owned()]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let mut failure = String::new();
    for base in &bases {
        let mut url = reqwest::Url::parse(base).map_err(|error| format!("{base} is no URL: {error}"))?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("calls");
            match &order.call {
                Some(call) => path.push(call).push("ladder"),
                None => path.push("list"),
            };
        }
        url.query_pairs_mut().append_pair("text", "1").append_pair("search", order.search.as_deref().unwrap_or(""));
        match runtime.block_on(fetch(url, &config.edge.token.0)) {
            Ok((status, text)) if status.is_success() => {
                print!("{text}");
                return Ok(());
            }
            Ok((status, text)) if status != reqwest::StatusCode::NOT_FOUND || failure.is_empty() => {
                failure = format!("{base} says {status}: {}", text.trim());
            }
            Ok(_) => {}
            Err(error) if failure.is_empty() => {
                failure = format!("{base} does not answer ({error}); name it with --url")
            }
            Err(_) => {}
        }
    }
    Err(failure)
}

async fn fetch(url: reqwest::Url, token: &str) -> reqwest::Result<(reqwest::StatusCode, String)> {
    let client = reqwest::Client::builder().timeout(FETCH_TIME_MAX).no_proxy().build()?;
    let request = client.get(url);
    let request = if token.is_empty() { request } else { request.bearer_auth(token) };
    let response = request.send().await?;
    Ok((response.status(), response.text().await?))
}

fn check(mode: Option<Mode>, file: Option<PathBuf>) -> Result<(), String> {
    let config = load(file)?;
    config.lines().iter().for_each(|line| println!("{line}"));
    println!();
    let all = [(Mode::Tandem, "tandem"), (Mode::Orchestrator, "tandem orchestrator"), (Mode::Edge, "tandem edge")];
    for (known, name) in all.into_iter().filter(|(known, _)| mode.is_none_or(|mode| mode == *known)) {
        match config.check(known) {
            Ok(()) => println!("{name}: complete"),
            Err(error) => println!("{name}: {error}"),
        }
    }
    let order = [Mode::Tandem, Mode::Edge, Mode::Orchestrator];
    let complete = order.into_iter().find(|mode| config.check(*mode).is_ok());
    let mode = mode.or(complete).unwrap_or(Mode::Tandem);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let found = runtime.block_on(async {
        let host = crate::check::Host::read().await;
        crate::check::inspect(&config, mode, &host).await
    });
    for finding in &found {
        println!("{finding}");
    }
    if found.iter().any(|finding| finding.level == crate::check::Level::Bad) {
        return Err("this host cannot run this configuration: see the errors above".to_owned());
    }
    config.check(mode).map_err(|error| error.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Order, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_read() {
        assert_eq!(parsed(""), Ok(Order::Run(Mode::Tandem, None)));
        assert_eq!(parsed("edge --config a.toml"), Ok(Order::Run(Mode::Edge, Some("a.toml".into()))));
        assert_eq!(parsed("--config=a.toml orchestrator"), Ok(Order::Run(Mode::Orchestrator, Some("a.toml".into()))));
        assert_eq!(parsed("check"), Ok(Order::Check(None, None)));
        assert_eq!(parsed("check edge --config=a"), Ok(Order::Check(Some(Mode::Edge), Some("a".into()))));
        assert_eq!(parsed("--version"), Ok(Order::Version));
        let order = RouteOrder { number: "+44".into(), source: Some("user:a".into()), ..RouteOrder::default() };
        assert_eq!(parsed("route +44 --source user:a"), Ok(Order::Route(order)));
        let order = TraceOrder { search: Some("44".into()), ..TraceOrder::default() };
        assert_eq!(parsed("trace --search=44"), Ok(Order::Trace(order)));
        for wrong in
            ["--config", "edge edge", "start", "--verbose", "route", "route 1 2", "check --from a", "check bridge"]
        {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
