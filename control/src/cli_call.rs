//! The arguments of `tandem call`, and its exit code.

use crate::client::dial::{DialOrder, KEYS_MAX, SECONDS_MAX, dial};
use crate::trace::redact::Secret;
use engine::rtp::telephone_event::Digit;
use std::process::ExitCode;

/// What `tandem call --help` prints.
pub const HELP: &str = "\
tandem call places one call into an edge, plays speech, records what comes back and prints figures.

  tandem call [--edge URL] [--token TOKEN] [--wav IN] [--record OUT] [--destination ROUTE-OR-URI] [--from NUMBER]
              [--seconds N] [--keys DIGITS] [--lite] [--json]

  --edge URL        default http://127.0.0.1:8080; the token comes from --token or EDGE_TOKEN
  --wav, --record   16-bit WAV files; without --wav it only listens
  --seconds N       how long the call lasts from its first packet on, at most 600; default: the speech and 2 s
  --keys 12#        pressed before the speech (RFC 4733)
  --lite            offer as WhatsApp does (ICE-lite, DTLS 1.2); otherwise as a browser does
  --json            figures as one JSON object

Exit code: 0 sound came; 1 a file or this machine; 2 the edge refused or cannot be reached; 3 ICE or DTLS did not come up;
4 no packet came; 5 the far side ended the call early.
";

/// Reads the arguments after `call`. `Ok(None)`: help is wanted.
pub fn parse(
    arguments: impl IntoIterator<Item = String>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Option<DialOrder>, String> {
    let mut order = DialOrder::default();
    if let Some(token) = environment("EDGE_TOKEN") {
        order.token = Secret(token);
    }
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let (name, given) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
            _ => (argument, None),
        };
        let flag = matches!(name.as_str(), "--help" | "-h" | "--lite" | "--json");
        if flag && given.is_some() {
            return Err(format!("{name} takes no value"));
        }
        match name.as_str() {
            "--help" | "-h" => return Ok(None),
            "--lite" => order.lite = true,
            "--json" => order.json = true,
            _ => {
                let value = given.or_else(|| arguments.next());
                take(&mut order, &name, value)?;
            }
        }
    }
    Ok(Some(order))
}

fn take(order: &mut DialOrder, name: &str, value: Option<String>) -> Result<(), String> {
    let known = ["--edge", "--token", "--wav", "--record", "--destination", "--from", "--seconds", "--keys"];
    if !known.contains(&name) {
        return Err(format!("{name} is not understood; tandem call --help lists what is"));
    }
    let value = value.ok_or_else(|| format!("{name} needs a value"))?;
    match name {
        "--edge" => order.edge = value,
        "--token" => order.token = Secret(value),
        "--wav" => order.speech = Some(value.into()),
        "--record" => order.record = Some(value.into()),
        "--destination" => order.destination = Some(value),
        "--from" => order.from = Some(value),
        "--seconds" => {
            let seconds = value.parse().ok().filter(|seconds| (1..=SECONDS_MAX).contains(seconds));
            order.seconds = Some(seconds.ok_or_else(|| format!("--seconds {value}: write 1 to {SECONDS_MAX}"))?);
        }
        _ => order.keys = keys(&value)?,
    }
    Ok(())
}

fn keys(text: &str) -> Result<Vec<Digit>, String> {
    let keys: Option<Vec<Digit>> = text.chars().map(Digit::from_char).collect();
    let keys = keys.filter(|keys| keys.len() <= KEYS_MAX);
    keys.ok_or_else(|| format!("--keys {text}: write at most {KEYS_MAX} of 0 to 9, A to D, * and #"))
}

/// The whole of `tandem call`.
pub fn main(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let order = match parse(arguments, |name| std::env::var(name).ok().filter(|value| !value.is_empty())) {
        Ok(Some(order)) => order,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("tandem call: {error}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tandem call: no thread: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (figures, outcome) = runtime.block_on(dial(&order));
    match order.json {
        // Plain numbers and texts: this cannot fail.
        true => println!("{}", serde_json::json!(figures)),
        false => println!("{figures}"),
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tandem call: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<DialOrder>, String> {
        parse(line.split_whitespace().map(str::to_owned), |name| (name == "EDGE_TOKEN").then(|| "secret".to_owned()))
    }

    #[test]
    fn arguments_are_read_in_both_spellings() {
        let order =
            parsed("--edge http://[::1]:8080 --wav=in.wav --record out.wav --keys 1*D --seconds 5 --lite --json");
        let order = order.unwrap().unwrap();
        assert_eq!(
            (order.edge.as_str(), order.seconds, order.lite, order.json),
            ("http://[::1]:8080", Some(5), true, true)
        );
        assert_eq!((order.speech, order.record), (Some("in.wav".into()), Some("out.wav".into())));
        assert_eq!(order.keys.iter().map(|key| key.as_char()).collect::<String>(), "1*D");
        assert_eq!(order.token, Secret("secret".to_owned()));
        assert_eq!(parsed("--token other").unwrap().unwrap().token, Secret("other".to_owned()));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (line, word) in [
            ("--edge", "--edge needs a value"),
            ("--seconds 0", "1 to 600"),
            ("--seconds 601", "1 to 600"),
            ("--keys 12x", "0 to 9"),
            ("--verbose", "not understood"),
            ("--lite=yes", "takes no value"),
            ("in.wav", "not understood"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        }
        assert_eq!(parsed("--help"), Ok(None));
    }
}
