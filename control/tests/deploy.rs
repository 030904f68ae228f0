//! What lies in `deploy/` works: the configuration is read, also with everything in it that is commented out.

use control::config::{Config, Mode};

const EXAMPLE: &str = include_str!("../../deploy/tandem.toml");
const UNIT: &str = include_str!("../../deploy/tandem.service");

fn environment(name: &str) -> Option<String> {
    match name {
        "WABA_TOKEN" | "ALICE_PASSWORD" | "SALES_TOKEN" | "SALES_APP_SECRET" | "SALES_VERIFY_TOKEN" => {
            Some("hunter2".to_owned())
        }
        _ => None,
    }
}

#[test]
fn the_example_is_complete_as_it_stands() {
    let config = Config::read(EXAMPLE, environment).unwrap();
    config.check(Mode::Tandem).unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn what_the_example_shows_as_comments_is_understood_too() {
    // A comment that holds a setting or a section: `# name = value`, `# [section]`.
    let is_setting =
        |text: &str| text.starts_with('[') || text.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    let whole: String = EXAMPLE
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|text| is_setting(text)).unwrap_or(line).to_owned() + "\n")
        .collect();
    let config = Config::read(&whole, environment).unwrap();
    config.check(Mode::Tandem).unwrap();
    assert_eq!((config.routes.trunks.len(), config.routes.users.len(), config.routes.rules.len()), (1, 1, 1));
    assert!(config.accounts[0].webhook_secret().is_some());
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn the_unit_checks_before_it_starts_and_drains_before_it_stops() {
    for line in [
        "ExecStartPre=/usr/local/bin/tandem check --config /etc/tandem/tandem.toml",
        "KillSignal=SIGTERM",
        "StateDirectory=tandem",
    ] {
        assert!(UNIT.lines().any(|other| other == line), "{line}");
    }
}
