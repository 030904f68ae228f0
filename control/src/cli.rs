//! `tandem [orchestrator|edge|check] [--config FILE]`, `tandem --version`, `tandem --help`.

use crate::config::{Config, Mode};
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
tandem joins WhatsApp Business calls to SIP.

  tandem [orchestrator|edge|check] [--config FILE]
  tandem call --help
  tandem --version | --help

  (nothing)      both planes in one process
  orchestrator   webhooks and Graph only; EDGE_API names the edge
  edge           media and SIP only
  check          reads the configuration, says what is wrong with it and with this host, and stops
  call           places one call into an edge: speech in, recording out, figures, exit code

Settings come from the environment (WABA_TOKEN, SIP_TARGET, ...) and from FILE (TOML); the environment wins.
RUST_LOG sets the log's level.
";

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    /// Run.
    Run(Mode, Option<PathBuf>),
    /// Only look.
    Check(Option<PathBuf>),
    /// Print the version.
    Version,
    /// Print the help.
    Help,
}

/// Reads the arguments, without the program's name.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Order, String> {
    let mut arguments = arguments.into_iter();
    let mut word: Option<String> = None;
    let mut file = None;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--version" | "-V" => return Ok(Order::Version),
            "--help" | "-h" => return Ok(Order::Help),
            "--config" => match arguments.next() {
                Some(path) => file = Some(PathBuf::from(path)),
                None => return Err("--config needs a file's name".to_owned()),
            },
            "orchestrator" | "edge" | "check" if word.is_none() => word = Some(argument),
            other => match other.strip_prefix("--config=") {
                Some(path) => file = Some(PathBuf::from(path)),
                None => return Err(format!("{other} is not understood; tandem --help lists what is")),
            },
        }
    }
    Ok(match word.as_deref() {
        Some("orchestrator") => Order::Run(Mode::Orchestrator, file),
        Some("edge") => Order::Run(Mode::Edge, file),
        Some("check") => Order::Check(file),
        _ => Order::Run(Mode::Tandem, file),
    })
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
        Ok(Order::Check(file)) => check(file),
        Ok(Order::Run(mode, file)) => {
            log_to_stderr();
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

fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    use tracing_subscriber::filter::LevelFilter;
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
}

fn check(file: Option<PathBuf>) -> Result<(), String> {
    let config = load(file)?;
    println!("{config:#?}");
    for (mode, name) in
        [(Mode::Tandem, "tandem"), (Mode::Orchestrator, "tandem orchestrator"), (Mode::Edge, "tandem edge")]
    {
        match config.check(mode) {
            Ok(()) => println!("{name}: complete"),
            Err(error) => println!("{name}: {error}"),
        }
    }
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    let (first, last) = (*config.media.ports.start(), *config.media.ports.end());
    match overlap(first, last, &read("ip_local_port_range"), &read("ip_local_reserved_ports")) {
        None => println!("media ports {first}-{last}: the system lends none of them to others"),
        Some((low, high)) => println!(
            "media ports {first}-{last}: the system may lend {low}-{high} to other programs; a port that it has lent is skipped. \
             To reserve them: sysctl -w net.ipv4.ip_local_reserved_ports={low}-{high}"
        ),
    }
    config
        .check(Mode::Tandem)
        .or_else(|_| config.check(Mode::Edge))
        .or_else(|_| config.check(Mode::Orchestrator))
        .map_err(|e| e.0)
}

/// The part of the media ports that the system lends as ephemeral ports, unless one reservation covers it.
fn overlap(first: u16, last: u16, ephemeral: &str, reserved: &str) -> Option<(u16, u16)> {
    let mut range = ephemeral.split_whitespace().filter_map(|number| number.parse::<u16>().ok());
    let (low, high) = (range.next()?.max(first), range.next()?.min(last));
    let covers = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        from.trim().parse::<u16>().is_ok_and(|from| from <= low) && to.trim().parse::<u16>().is_ok_and(|to| to >= high)
    };
    (low <= high && !reserved.trim().split(',').any(covers)).then_some((low, high))
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
        assert_eq!(parsed("check"), Ok(Order::Check(None)));
        assert_eq!(parsed("--version"), Ok(Order::Version));
        for wrong in ["--config", "edge edge", "start", "--verbose"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_overlap_with_the_systems_ports_is_found_unless_it_is_reserved() {
        assert_eq!(overlap(10_000, 60_000, "32768\t60999\n", "\n"), Some((32_768, 60_000)));
        assert_eq!(overlap(10_000, 60_000, "32768 60999", "8080,32768-60999\n"), None);
        assert_eq!(overlap(10_000, 20_000, "32768 60999", ""), None);
        assert_eq!(overlap(10_000, 60_000, "", ""), None);
    }
}
