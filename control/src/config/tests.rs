use super::*;
use crate::whatsapp::graph_client::BASE_DEFAULT;

fn with(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let find = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Config::read(text, find)
}

#[test]
fn a_file_that_is_not_toml_is_refused_without_its_secrets() {
    for text in ["\n[edge]\ntoken = \"EAAGsecret\n", "\n[edge]\ntoken = \"x\" \"EAAGsecret\"\n", "\n\ntoken EAAGsecret"]
    {
        let error = with(text, &[]).unwrap_err().0;
        assert!(error.contains("not TOML") && error.contains("in line 3") && !error.contains("EAAG"), "{error}");
    }
}

#[test]
fn what_would_fail_every_call_is_refused_at_start() {
    for (text, variable, value, names) in [
        ("", "SIP_TARGET", "sip:bot@bots.example;transport=tls", ["SIP_TARGET (sip.target", "UDP"]),
        ("", "SIP_PROXY", "sips:bots.example", ["SIP_PROXY (sip.proxy", "UDP"]),
        ("", "SIP_FROM_HOST", "a b", ["SIP_FROM_HOST (sip.from_host", "host name"]),
        ("", "WABA_TOKEN", "a\nb", ["WABA_TOKEN (whatsapp.token", "access token"]),
        ("", "EDGE_TOKEN", "a\nb", ["EDGE_TOKEN (edge.token", "secret"]),
        ("[sip.routes]\nsales = \"nonsense\"", "", "", ["sip.routes.sales", "sip:bot@127.0.0.1:5080"]),
    ] {
        let error = with(text, &[(variable, value)]).unwrap_err().0;
        assert!(names.iter().all(|name| error.contains(name)), "{error}");
    }
    assert!(with("", &[("SIP_TARGET", "sip:bot@127.0.0.1:5080;transport=UDP")]).is_ok());
}

#[test]
fn the_environment_of_the_original_is_understood() {
    let config = with(
        "",
        &[
            ("WABA_TOKEN", "t"),
            ("WABA_PHONE_ID", "118"),
            ("PORT", "3100"),
            ("TWILIO_SIP_USER", "u"),
            ("TWILIO_SIP_PASS", "p"),
            ("TWILIO_ACCOUNT_SID", "AC1"),
            ("SIP_TARGET", "sip:bot@127.0.0.1:5080;transport=udp"),
            ("PUBLIC_IP", "203.0.113.5, 2001:db8::5"),
            ("MEDIA_PORTS", "20000-20100"),
        ],
    )
    .unwrap();
    config.check(Mode::Tandem).unwrap();
    assert_eq!((config.http.port, config.media.ports.clone()), (3_100, 20_000..=20_100));
    assert_eq!(config.media.public_ip.len(), 2);
    let edge = config.edge(SocketAddr::from(([127, 0, 0, 1], 5_060)), Vec::new(), IpAddr::from([127, 0, 0, 1]));
    let route = edge.default_route.unwrap();
    assert_eq!(route.headers, [("X-Twilio-Account".to_owned(), "AC1".to_owned())]);
    assert_eq!(route.credentials.unwrap().username, "u");
    assert_eq!(config.whatsapp.base, BASE_DEFAULT);
    assert_eq!(config.orchestrator().callback_url, None);
}

#[test]
fn the_environment_wins_over_the_file_and_an_empty_variable_does_not() {
    let file = "[http]\nport = 4000\n[sip]\ntarget = \"sip:file@h\"\n[sip.routes]\nsales = \"sip:s@h\"\n[media]\npublic_ip = [\"192.0.2.1\"]";
    let config = with(file, &[("PORT", "5000"), ("SIP_TARGET", "")]).unwrap();
    assert_eq!((config.http.port, config.sip.target.as_deref()), (5_000, Some("sip:file@h")));
    assert_eq!(config.sip.routes["sales"], "sip:s@h");
    assert_eq!(config.media.public_ip, [IpAddr::from([192, 0, 2, 1])]);
}

#[test]
fn an_error_names_the_setting_and_the_remedy() {
    for (file, environment, parts) in [
        ("", ("PORT", "x"), ["PORT", "http.port", "65535"]),
        ("", ("PORT", "0"), ["PORT", "\"0\"", "65535"]),
        ("", ("MEDIA_PORTS", "60000-10000"), ["MEDIA_PORTS", "media.ports", "10000-60000"]),
        ("", ("SIP_TARGET", "bot@host"), ["SIP_TARGET", "sip.target", "sip:bot@"]),
        ("", ("SIP_TARGET", "sip:a@b>\r\nX: y"), ["SIP_TARGET", "sip.target", "sip:bot@"]),
        ("", ("PUBLIC_IP", "1.2.3"), ["PUBLIC_IP", "1.2.3", "comma"]),
        ("", ("WABA_BASE", "graph"), ["WABA_BASE", "graph", "https://"]),
        ("", ("ACCEPT_POLICY", "never"), ["ACCEPT_POLICY", "never", "on-answer"]),
        ("[http]\nprot = 1", ("", ""), ["http.prot", "no setting", "spelling"]),
        ("port = 1", ("", ""), ["port", "outside of a section", "["]),
        ("[http", ("", ""), ["TOML", "", ""]),
        ("[whatsapp.accept_by_number]\n118 = \"no\"", ("", ""), ["accept_by_number.118", "no", "immediate"]),
    ] {
        let error = with(file, &[environment]).unwrap_err().0;
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
    }
}

#[test]
fn what_a_mode_needs_is_asked_for_by_name() {
    let empty = with("", &[]).unwrap();
    assert!(empty.check(Mode::Tandem).unwrap_err().0.contains("WABA_TOKEN"));
    assert!(empty.check(Mode::Edge).unwrap_err().0.contains("SIP_TARGET"));
    let token = with("", &[("WABA_TOKEN", "t")]).unwrap();
    assert!(token.check(Mode::Orchestrator).unwrap_err().0.contains("EDGE_API"));
    let split = with("", &[("WABA_TOKEN", "t"), ("EDGE_API", "http://127.0.0.1:8080/")]).unwrap();
    split.check(Mode::Orchestrator).unwrap();
    assert_eq!(split.orchestrator().callback_url.as_deref(), Some("http://127.0.0.1:3000/edge/events"));
    let apart = with("", &[("WABA_TOKEN", "t"), ("EDGE_API", "https://edge.example")]).unwrap();
    assert!(apart.check(Mode::Orchestrator).unwrap_err().0.contains("CALLBACK_URL"));
    let bound =
        with("", &[("WABA_TOKEN", "t"), ("EDGE_API", "http://127.0.0.1:8080/"), ("BIND", "192.0.2.7")]).unwrap();
    assert!(bound.check(Mode::Orchestrator).unwrap_err().0.contains("CALLBACK_URL"));
}

#[test]
fn no_secret_is_printed() {
    let names = ["WABA_TOKEN", "META_APP_SECRET", "WEBHOOK_VERIFY_TOKEN", "EDGE_TOKEN", "TWILIO_SIP_PASS"];
    let environment: Vec<_> = names.iter().map(|name| (*name, "hunter2")).collect();
    let printed = format!("{:?}", with("", &environment).unwrap());
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(printed.matches("set").count() >= names.len());
}
