//! The command line.

use crate::webhook::Form;
use anyhow::{Context, bail};
use std::path::PathBuf;

/// What `--help` prints.
pub const HELP: &str = "\
tandem-standin: plays WhatsApp, a caller and a voice bot around tandem. For demonstrations and tests.

  tandem-standin demo [options]    one scripted call with a verdict, then the caller's page (DEMO_ONCE=1: no page)
  tandem-standin serve [options]   the page and the stand-ins; prints one line of JSON when ready

  --page-port N      the page on localhost (8000; a free one if taken)
  --tls-port N       the page for other hosts, self-signed HTTPS (8443)
  --graph-port N     the Graph API (a free one)
  --bot-port N       the bot's SIP port (a free one)
  --tandem PATH      the gateway's program (the one beside this program)
  --tandem-port N    its HTTP port (a free one)
  --tandem-url URL   a gateway that runs already; none is started
  --media-ports A-B  its media ports (20000-23999)
  --no-bot           no bot: --sip-target names who is called
  --agent            a softphone's user, agent with the password demo, is called before the bot (demo: always)
  --sip-target URI   whom the gateway calls
  --sip-proxy URI    by way of whom
  --sip-user NAME    digest user, of the gateway and the bot
  --sip-pass WORD    digest password
  --app-secret WORD  signs the webhooks; --unsigned sends them unsigned
  --flat             flat webhooks in place of Meta's envelope
  --env NAME=VALUE   further environment for the gateway (repeatable)
  --verbose          show the gateway's log
";

/// Media ports of the gateway: below the system's ephemeral range.
const MEDIA_PORTS: &str = "20000-23999";

/// Which subcommand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One call, a verdict, the page.
    Demo,
    /// The stand-ins only.
    Serve,
    /// `--help`
    Help,
}

/// All options.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Subcommand.
    pub mode: Mode,
    /// `--page-port`
    pub page_port: u16,
    /// `--tls-port`
    pub tls_port: u16,
    /// `--graph-port`
    pub graph_port: u16,
    /// `--bot-port`
    pub bot_port: u16,
    /// `--tandem`
    pub tandem: Option<PathBuf>,
    /// `--tandem-port`
    pub tandem_port: u16,
    /// `--tandem-url`
    pub tandem_url: Option<String>,
    /// `--media-ports`
    pub media_ports: String,
    /// `--no-bot`
    pub no_bot: bool,
    /// `--agent`
    pub agent: bool,
    /// `--sip-target`
    pub sip_target: Option<String>,
    /// `--sip-proxy`
    pub sip_proxy: Option<String>,
    /// `--sip-user`
    pub sip_user: String,
    /// `--sip-pass`
    pub sip_pass: String,
    /// `--app-secret`, or none with `--unsigned`
    pub app_secret: Option<String>,
    /// `--flat`
    pub flat: bool,
    /// `--env`
    pub environment: Vec<(String, String)>,
    /// `--verbose`
    pub verbose: bool,
}

impl Settings {
    /// Reads the arguments after the program's name.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> anyhow::Result<Settings> {
        let mut arguments = arguments.into_iter();
        let mut settings = Settings {
            mode: match arguments.next().as_deref() {
                Some("demo") => Mode::Demo,
                Some("serve") => Mode::Serve,
                None | Some("--help" | "-h" | "help") => Mode::Help,
                Some(other) => bail!("unknown subcommand {other}: demo or serve"),
            },
            page_port: 8_000,
            tls_port: 8_443,
            graph_port: 0,
            bot_port: 0,
            tandem: None,
            tandem_port: 0,
            tandem_url: None,
            media_ports: MEDIA_PORTS.to_owned(),
            no_bot: false,
            agent: false,
            sip_target: None,
            sip_proxy: None,
            sip_user: "gateway".to_owned(),
            sip_pass: "demo-password".to_owned(),
            app_secret: Some("demo-app-secret".to_owned()),
            flat: false,
            environment: Vec::new(),
            verbose: false,
        };
        settings.agent = settings.mode == Mode::Demo;
        while let Some(name) = arguments.next() {
            settings.option(&name, &mut arguments)?;
        }
        Ok(settings)
    }

    fn option(&mut self, name: &str, rest: &mut impl Iterator<Item = String>) -> anyhow::Result<()> {
        match name {
            "--no-bot" => self.no_bot = true,
            "--agent" => self.agent = true,
            "--unsigned" => self.app_secret = None,
            "--flat" => self.flat = true,
            "--verbose" => self.verbose = true,
            "--help" | "-h" => self.mode = Mode::Help,
            _ => {
                let value = rest.next().with_context(|| format!("{name} needs a value"))?;
                self.valued(name, value)?;
            }
        }
        Ok(())
    }

    fn valued(&mut self, name: &str, value: String) -> anyhow::Result<()> {
        let port = || value.parse::<u16>().with_context(|| format!("{name}: {value} is no port"));
        match name {
            "--page-port" => self.page_port = port()?,
            "--tls-port" => self.tls_port = port()?,
            "--graph-port" => self.graph_port = port()?,
            "--bot-port" => self.bot_port = port()?,
            "--tandem-port" => self.tandem_port = port()?,
            "--tandem" => self.tandem = Some(value.into()),
            "--tandem-url" => self.tandem_url = Some(value),
            "--media-ports" => self.media_ports = value,
            "--sip-target" => self.sip_target = Some(value),
            "--sip-proxy" => self.sip_proxy = Some(value),
            "--sip-user" => self.sip_user = value,
            "--sip-pass" => self.sip_pass = value,
            "--app-secret" => self.app_secret = Some(value),
            "--env" => {
                let (key, value) = value.split_once('=').context("--env wants NAME=VALUE")?;
                self.environment.push((key.to_owned(), value.to_owned()));
            }
            _ => bail!("unknown option {name}; --help lists them"),
        }
        Ok(())
    }

    /// The webhooks' form.
    pub fn form(&self) -> Form {
        if self.flat { Form::Flat } else { Form::Envelope }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> anyhow::Result<Settings> {
        Settings::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_read_and_mistakes_are_named() {
        let settings =
            parse("serve --page-port 0 --no-bot --sip-target sip:bob@127.0.0.1 --env RUST_LOG=debug --flat").unwrap();
        assert_eq!((settings.mode, settings.page_port, settings.no_bot), (Mode::Serve, 0, true));
        assert_eq!(settings.environment, [("RUST_LOG".to_owned(), "debug".to_owned())]);
        assert_eq!(settings.form(), Form::Flat);
        assert_eq!(parse("").unwrap().mode, Mode::Help);
        assert!(parse("demo").unwrap().agent && !settings.agent && parse("serve --agent").unwrap().agent);
        assert!(parse("dance").unwrap_err().to_string().contains("dance"));
        assert!(parse("demo --page-port x").unwrap_err().to_string().contains("--page-port"));
        assert!(parse("demo --what 1").unwrap_err().to_string().contains("--what"));
        assert!(parse("demo --sip-user").unwrap_err().to_string().contains("needs a value"));
    }
}
