//! `[accounts.NAME]`: business numbers with an account, a provider or a policy of their own. What is not written is as in `[whatsapp]`.
//!
//! Why by phone number id and not by telephone number: it is what webhooks name and what Graph's paths hold.

use super::ConfigError;
use super::section::{Section, Source};
use super::trunks::{self, DTLS_BACKENDS};
use super::values::POLICIES;
use crate::call::AcceptPolicy;
use crate::call::orchestrator::CallerId;
use crate::route::{DtlsBackend, Trunk};
use crate::trace::redact::Secret;
use crate::whatsapp::graph_client::Provider;
use std::collections::BTreeSet;
use toml::de::DeTable;

/// The section's name.
pub(super) const SECTION: &str = "accounts";

/// Business numbers of one file. Each costs a client of its own, about 20 KB.
pub const ACCOUNTS_MAX: usize = 1_000;

/// Webhook secrets that differ from each other. Each webhook may have to be held against all of them.
pub const SENDERS_MAX: usize = 16;

/// One business number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The operator's name for it.
    pub name: String,
    /// As webhooks name it.
    pub phone_number_id: String,
    /// Bearer token, or the provider's key; `None`: that of `[whatsapp]`.
    pub token: Option<Secret>,
    /// Key of its webhooks' signatures, when its Meta app is another; `None`: as in `[whatsapp]`.
    pub app_secret: Option<Secret>,
    /// `name: value` that its webhooks carry, where the provider does not sign; `None`: as in `[whatsapp]`.
    pub shared_header: Option<Secret>,
    /// For the subscription check of its app, beside that of `[whatsapp]`.
    pub verify_token: Option<Secret>,
    /// Base URL; `None`: that of `[whatsapp]`.
    pub base: Option<String>,
    /// Whose API it is; `None`: as in `[whatsapp]`.
    pub provider: Option<Provider>,
    /// When its calls are accepted; `None`: as in `[whatsapp]`.
    pub accept: Option<AcceptPolicy>,
    /// Where its calls go: a route's name or a SIP URI that the edge allows; `None`: the default route.
    pub destination: Option<String>,
    /// Whom the far side sees.
    pub caller_id: CallerId,
    /// Who does DTLS with WhatsApp; `None`: as the edge is configured.
    pub dtls: Option<DtlsBackend>,
    /// How it calls users; `None`: it does not.
    pub outbound: Option<Trunk>,
}

pub(super) fn read(source: Source<'_>, document: &DeTable<'_>) -> Result<Vec<Account>, ConfigError> {
    let found = document.iter().find(|(key, _)| key.get_ref().as_ref() == SECTION);
    let Some((_, value)) = found else { return Ok(Vec::new()) };
    let section = Section::new(source, SECTION, value)?;
    let mut accounts = Vec::new();
    let mut ids = BTreeSet::new();
    for (name, section) in section.children()? {
        let account = read_one(name, &section)?;
        if !ids.insert(account.phone_number_id.clone()) {
            return Err(section.wrong("phone_number_id", "stands in another account too", "write each number once"));
        }
        accounts.push(account);
    }
    if accounts.len() > ACCOUNTS_MAX {
        return Err(section.mistake(&format!("are {}: write at most {ACCOUNTS_MAX}", accounts.len())));
    }
    let secrets: BTreeSet<_> = accounts.iter().filter_map(Account::webhook_secret).collect();
    if secrets.len() > SENDERS_MAX {
        let what = format!("hold {} different webhook secrets: write at most {SENDERS_MAX}", secrets.len());
        return Err(section.mistake(&what));
    }
    Ok(accounts)
}

impl Account {
    /// What proves its webhooks, if that is its own: the signatures' key and the header.
    pub fn webhook_secret(&self) -> Option<(&str, &str)> {
        let app_secret = self.app_secret.as_ref().map_or("", |secret| secret.0.as_str());
        let shared_header = self.shared_header.as_ref().map_or("", |secret| secret.0.as_str());
        (!app_secret.is_empty() || !shared_header.is_empty()).then_some((app_secret, shared_header))
    }
}

fn read_one(name: &str, section: &Section<'_>) -> Result<Account, ConfigError> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.to_owned());
    let remedy = "write the phone number id, digits only";
    let phone_number_id = section.parsed("phone_number_id", remedy, digits)?;
    let phone_number_id = phone_number_id.ok_or_else(|| section.missing("phone_number_id", remedy))?;
    let url = |text: &str| {
        let parsed = reqwest::Url::parse(text).ok()?;
        matches!(parsed.scheme(), "http" | "https").then(|| text.trim_end_matches('/').to_owned())
    };
    let providers = [("meta", Provider::Meta), ("360dialog", Provider::Dialog360)];
    let word_of = |words: &'static [(&'static str, AcceptPolicy)]| {
        move |text: &str| words.iter().find(|(word, _)| *word == text).map(|(_, policy)| *policy)
    };
    let token = section.secret("token", "token_env")?;
    if token.as_ref().is_some_and(|token| reqwest::header::HeaderValue::from_str(&token.0).is_err()) {
        return Err(section.wrong("token", "holds characters that no HTTP header can", "write the access token"));
    }
    let shared_header = section.secret("shared_header", "shared_header_env")?;
    let named = |header: &Secret| {
        header.0.split_once(':').is_some_and(|(name, value)| !name.trim().is_empty() && !value.trim().is_empty())
    };
    if shared_header.as_ref().is_some_and(|header| !named(header)) {
        return Err(section.wrong("shared_header", "is not of that form", "write name: value"));
    }
    let account = Account {
        name: name.to_owned(),
        phone_number_id,
        token,
        app_secret: section.secret("app_secret", "app_secret_env")?,
        shared_header,
        verify_token: section.secret("verify_token", "verify_token_env")?,
        base: section.parsed("base", "write a URL such as https://graph.facebook.com/v24.0", url)?,
        provider: section.parsed("provider", "write meta or 360dialog", |text| {
            providers.iter().find(|(word, _)| *word == text).map(|(_, provider)| *provider)
        })?,
        accept: section.parsed("accept", "write on-answer, on-progress or immediate", word_of(&POLICIES))?,
        destination: section.text("destination", "write a route's name or a SIP URI")?,
        caller_id: section
            .parsed("caller_id", "write caller, anonymous or a number in E.164, such as +441632960001", caller_id)?
            .unwrap_or_default(),
        dtls: section.parsed("dtls", "write auto, dimpl or openssl", |text| {
            DTLS_BACKENDS.iter().find(|(word, _)| *word == text).map(|(_, backend)| *backend)
        })?,
        outbound: None,
    };
    let outbound = read_outbound(name, section, &account)?;
    section.finish()?;
    Ok(Account { outbound, ..account })
}

/// The way to users of WhatsApp from this number. Only where it is asked for: WhatsApp bills these calls to the business, and takes
/// the permission away from one whose calls are not answered.
fn read_outbound(name: &str, section: &Section<'_>, account: &Account) -> Result<Option<Trunk>, ConfigError> {
    let default = Trunk::into_whatsapp(name, &account.phone_number_id);
    let is_wanted = section.flag("outbound", false)?;
    let (pattern, warning) = trunks::pattern(section, "pattern")?;
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    let trunk = Trunk {
        pattern,
        dtls_backend: account.dtls.unwrap_or_default(),
        weight: section.number("weight", 0..=1_000_000, default.weight)?,
        calls_max: section.number("calls_max", 1..=100_000, default.calls_max as u32)? as usize,
        ring_s: section.number("ring_s", 5..=120, default.ring_s)?,
        ..default
    };
    if !is_wanted && section.has(&["pattern", "weight", "calls_max", "ring_s"]) {
        return Err(section.missing(
            "outbound",
            "pattern, weight, calls_max and ring_s are for calls to users: write outbound = true",
        ));
    }
    Ok(is_wanted.then_some(trunk))
}

fn caller_id(text: &str) -> Option<CallerId> {
    match text {
        "caller" => Some(CallerId::Caller),
        "anonymous" => Some(CallerId::Anonymous),
        number => {
            let digits = number.strip_prefix('+')?;
            let valid = (7..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
            valid.then(|| CallerId::Number(digits.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Mode};

    const FILE: &str = r#"
[whatsapp]
token = "default"
accept = "on-progress"
[accounts.sales]
phone_number_id = "118"
token_env = "SALES_TOKEN"
app_secret = "EAAGsales"
verify_token = "EAAGverify"
accept = "immediate"
destination = "sales"
dtls = "openssl"
caller_id = "+441632960001"
[accounts.help]
phone_number_id = 119
provider = "360dialog"
base = "https://waba-v2.360dialog.io/"
token = "key"
caller_id = "anonymous"
"#;

    fn with(text: &str) -> Result<Config, ConfigError> {
        Config::read(text, |name| (name == "SALES_TOKEN").then(|| "EAAGsecret".to_owned()))
    }

    #[test]
    fn accounts_differ_from_the_default_only_in_what_is_written() {
        let config = with(FILE).unwrap();
        config.check(Mode::Orchestrator).unwrap_err(); // EDGE_API is not set
        let numbers = config.orchestrator().numbers;
        assert_eq!((numbers["118"].accept, numbers["119"].accept), (Some(AcceptPolicy::Immediate), None));
        assert_eq!((numbers["118"].dtls, numbers["119"].dtls), (Some(DtlsBackend::Openssl), None));
        assert_eq!(numbers["118"].destination.as_deref(), Some("sales"));
        assert_eq!(numbers["118"].caller_id, CallerId::Number("441632960001".into()));
        assert_eq!(numbers["119"].caller_id, CallerId::Anonymous);
        assert_eq!(config.accounts[1].base.as_deref(), Some("https://waba-v2.360dialog.io"));
        let printed = format!("{config:?}{}", config.lines().join("\n"));
        assert_eq!(config.accounts[0].webhook_secret(), Some(("EAAGsales", "")));
        assert!(printed.contains("accounts.sales = number 118, its own token, its own webhook secret"), "{printed}");
        assert!(!printed.contains("EAAG") && !printed.contains("\"key\""), "{printed}");
    }

    #[test]
    fn an_account_that_calls_users_is_a_way_among_others() {
        let file = r#"
[sip]
target = "sip:bot@127.0.0.1:5080"
[whatsapp]
token = "default"
[users.alice]
password = "p"
[trunks.carrier]
host = "sbc.example"
pattern = '^\+44\d+$'
[accounts.sales]
phone_number_id = "118"
outbound = true
pattern = '^\+44\d+$'
weight = 1
calls_max = 20
ring_s = 40
[accounts.help]
phone_number_id = "119"
outbound = true
[accounts.quiet]
phone_number_id = "120"
[[routes]]
dialed = '^\+55'
to = ["whatsapp:help", "trunk:carrier"]
"#;
        let config = with(file).unwrap();
        config.check(Mode::Tandem).unwrap();
        let ask = |dialed: &str| {
            let source = crate::route::Source::User("alice".into());
            let asked = crate::route::Asked { dialed: dialed.into(), from: "alice".into(), source };
            crate::route::explain::explain(&config.routes, &asked)
        };
        let (by_pattern, by_rule) = (ask("+447700900123"), ask("+5511987654321"));
        assert!(
            by_pattern.contains("1. trunk whatsapp:sales: pattern") && by_pattern.contains("2. trunk carrier"),
            "{by_pattern}"
        );
        assert!(by_pattern.contains("asks Graph to connect +447700900123"), "{by_pattern}");
        assert!(by_rule.contains("1. trunk whatsapp:help") && by_rule.contains("2. trunk carrier"), "{by_rule}");
        let sales = config.routes.trunks.iter().find(|trunk| trunk.name == "whatsapp:sales").unwrap();
        assert_eq!((sales.calls_max, sales.ring_s, sales.takes_calls()), (20, 40, false));
        assert!(config.routes.trunks.iter().all(|trunk| trunk.name != "whatsapp:quiet"));
        let printed = config.lines().join("\n");
        assert!(printed.contains("accounts.sales calls users: pattern ^\\+44\\d+$, at most 20 at once"), "{printed}");
        // Each process alone lacks one half of it.
        for mode in [Mode::Edge, Mode::Orchestrator] {
            let error = config.check(mode).unwrap_err().0;
            assert!(error.contains("accounts.sales") && error.contains("one process"), "{error}");
        }
        let split = format!("{file}[edge]\napi = \"http://192.0.2.1:8080\"\n");
        assert!(with(&split).unwrap().check(Mode::Tandem).unwrap_err().0.contains("one process"));
    }

    #[test]
    fn mistakes_name_line_and_remedy() {
        for (text, parts) in [
            ("[accounts.a]\ntoken = \"t\"", ["phone_number_id", "digits only"]),
            ("[accounts.a]\nphone_number_id = \"+44\"", [":2", "digits only"]),
            ("[accounts.a]\nphone_number_id = 1\nbase = \"graph\"", [":3", "https://"]),
            ("[accounts.a]\nphone_number_id = 1\naccept = \"never\"", [":3", "on-answer"]),
            ("[accounts.a]\nphone_number_id = 1\ndtls = \"nss\"", [":3", "dimpl or openssl"]),
            ("[accounts.a]\nphone_number_id = 1\ncaller_id = \"bob\"", [":3", "anonymous"]),
            ("[accounts.a]\nphone_number_id = 1\ntoken_env = \"NOWHERE\"", [":3", "NOWHERE"]),
            ("[accounts.a]\nphone_number_id = 1\nshared_header = \"key\"", [":3", "name: value"]),
            ("[accounts.a]\nphone_number_id = 1\ncolour = \"red\"", [":3", "no setting"]),
            ("[accounts.a]\nphone_number_id = 1\nweight = 3", ["outbound", "outbound = true"]),
            ("[accounts.a]\nphone_number_id = 1\noutbound = true\nring_s = 1", [":4", "from 5 to 120"]),
            (
                "[accounts.a]\nphone_number_id = 1\n[[routes]]\nto = \"whatsapp:a\"",
                [":4", "outbound = true in [accounts.a]"],
            ),
            ("[[routes]]\nto = \"whatsapp:a\"", [":2", "not in the configuration"]),
            ("[accounts.a]\nphone_number_id = 1\n[accounts.b]\nphone_number_id = 1", [":4", "another account"]),
        ] {
            let error = with(text).unwrap_err().0;
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}
