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
        assert!(error.contains("not TOML") && error.contains(":3:") && !error.contains("EAAG"), "{error}");
    }
}

#[test]
fn what_would_fail_every_call_is_refused_at_start() {
    for (text, variable, value, names) in [
        ("", "SIP_TARGET", "sip:bot@bots.example;transport=sctp", ["SIP_TARGET (sip.target", "udp, tcp and tls"]),
        ("", "SIP_PROXY", "sips:", ["SIP_PROXY (sip.proxy", "sip:us1.sip.twilio.com"]),
        ("", "SIP_FROM_HOST", "a b", ["SIP_FROM_HOST (sip.from_host", "host name"]),
        ("", "WABA_TOKEN", "a\nb", ["WABA_TOKEN (whatsapp.token", "access token"]),
        ("", "EDGE_TOKEN", "a\nb", ["EDGE_TOKEN (edge.token", "secret"]),
        ("[sip.routes]\nsales = \"nonsense\"", "", "", ["sip.routes.sales", "sip:bot@127.0.0.1:5080"]),
        ("[sip.headers]\nVia = \"x\"", "", "", ["the configuration file:2: sip.headers.Via", "X-Account"]),
        ("[sip.headers]\n\"X-A b\" = \"x\"", "", "", ["sip.headers.X-A b cannot be added", "X-Account"]),
        ("[sip]\noptions_s = 5", "", "", ["SIP_OPTIONS_S", "seconds from 10 to 3600"]),
        ("[sip]\ntcp = true\n[sip]\nbind = \"x\"", "", "", ["the configuration file:3", "stands once"]),
    ] {
        let error = with(text, &[(variable, value)]).unwrap_err().0;
        assert!(names.iter().all(|name| error.contains(name)), "{error}");
    }
    for target in ["sip:bot@127.0.0.1:5080;transport=UDP", "sip:bot@bots.example;transport=tls", "sips:bots.example"] {
        assert!(with("", &[("SIP_TARGET", target)]).is_ok(), "{target}");
    }
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
fn media_are_marked_as_expedited_unless_another_code_point_is_wanted() {
    let dscp = |variables: &[_]| with("", variables).unwrap().engine().dscp;
    assert_eq!((dscp(&[]), dscp(&[("MEDIA_DSCP", "0")]), dscp(&[("MEDIA_DSCP", "34")])), (46, 0, 34));
    assert_eq!(with("[media]\ndscp = 63", &[]).unwrap().engine().dscp, 63);
}

#[test]
fn the_account_is_named_to_twilio_only_where_it_is_known_and_wanted() {
    for (variables, wanted) in [
        (vec![], false),
        (vec![("TWILIO_ACCOUNT_SID", "AC1")], true),
        (vec![("TWILIO_ACCOUNT_SID", "AC1"), ("SIP_ACCOUNT_HEADER", "false")], false),
    ] {
        let config = with("[sip]\ntarget = \"sip:bot@h\"", &variables).unwrap();
        let edge = config.edge(SocketAddr::from(([127, 0, 0, 1], 5_060)), Vec::new(), IpAddr::from([127, 0, 0, 1]));
        assert_eq!(edge.default_route.unwrap().headers.is_empty(), !wanted, "{variables:?}");
    }
}

#[test]
fn the_environment_wins_over_the_file_and_an_empty_variable_does_not() {
    let file = "[http]\nport = 4000\n[sip]\ntarget = \"sip:file@h\"\n[sip.routes]\nsales = \"sip:s@h\"\n[sip.headers]\nX-Bot = \"b 1\"\n[media]\npublic_ip = [\"192.0.2.1\"]";
    let config = with(file, &[("PORT", "5000"), ("SIP_TARGET", "")]).unwrap();
    assert_eq!((config.http.port, config.sip.target.as_deref()), (5_000, Some("sip:file@h")));
    assert_eq!(config.sip.routes["sales"], "sip:s@h");
    let edge = config.edge("192.0.2.1:5060".parse().unwrap(), Vec::new(), "192.0.2.1".parse().unwrap());
    for route in [edge.default_route.as_ref().unwrap(), &edge.routes["sales"]] {
        assert!(route.headers.contains(&("X-Bot".to_owned(), "b 1".to_owned())), "{:?}", route.headers);
    }
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
        ("", ("MEDIA_DSCP", "64"), ["MEDIA_DSCP", "64", "0 to 63"]),
        ("", ("MEDIA_DSCP", "EF"), ["MEDIA_DSCP", "EF", "46"]),
        ("", ("MEDIA_BIND", "eth0"), ["MEDIA_BIND", "eth0", "one IP address"]),
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
fn media_are_bound_to_all_addresses_or_to_the_one_that_is_named() {
    assert_eq!(with("", &[]).unwrap().engine().bind, None);
    let bound = with("[media]\nbind = \"192.0.2.7\"", &[]).unwrap();
    assert_eq!(bound.engine().bind, Some(IpAddr::from([192, 0, 2, 7])));
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

const WHOLE: &str = r#"
[sip]
domain = "voice.example.com"
tls_bind = "0.0.0.0:5061"
wss_bind = "0.0.0.0:7443"

[numbers]
country = "44"

[users.alice]
password = "hunter2"
name = "Alice"
number = "01632 960001"

[users.bob]
password_env = "BOB"
outbound = false

[groups.sales]
users = ["alice", "bob"]
number = "+441632960009"

[trunks.siperb]
host = "sbc.siperb.example"
port = 5061
media = "webrtc"
ice = "full"
codecs = ["opus"]
transcoding = false
pattern = "^+?[1-9]d{6,14}$"
weight = 20
allowed_sources = ["203.0.113.0/24", "2001:db8::7"]
certificate_names = ["*.siperb.example"]
headers = { X-Account = "7" }
to = "group:sales"

[trunks.carrier]
host = "sip.carrier.example"
transport = "udp"
user = "u"
password = "hunter2"
register = true
inbound_user = "c"
inbound_password = "hunter2"
pattern = '^\+44'
caller_id = "fixed"
number = "+441632960000"

[[routes]]
name = "agents"
source = "whatsapp"
dialed = '^\+?441632960009$'
to = ["group:sales", "trunk:carrier", "sip:bot@127.0.0.1:5080"]
accept = "on-progress"
"#;

#[test]
fn a_whole_dial_plan_is_read_and_what_was_corrected_is_said() {
    use crate::route::{Asked, Destination, Load, MediaProfile, Source, TrunkId};
    let config = with(WHOLE, &[("BOB", "hunter2")]).unwrap();
    let routes = &config.routes;
    assert_eq!(routes.trunks.iter().map(|trunk| trunk.name.as_str()).collect::<Vec<_>>(), ["siperb", "carrier"]);
    let siperb = &routes.trunks[0];
    assert_eq!((siperb.media, siperb.transcoding, siperb.weight), (MediaProfile::Webrtc, false, 20));
    assert_eq!(siperb.to, Some(Destination::Group("sales".into())));
    assert_eq!(siperb.pattern.as_ref().unwrap().as_str(), r"^\+?[1-9]\d{6,14}$");
    assert!(siperb.recognises("2001:db8::7".parse().unwrap(), &["edge.siperb.example".into()]).is_ok());
    assert_eq!(routes.trunks[1].register_s, Some(300));
    assert_eq!(routes.users["alice"].number.as_deref(), Some("+441632960001"));
    assert_eq!(routes.users["bob"].password.0, "hunter2");
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    assert!(warning.contains("lost its backslashes") && warning.contains(":30: trunks.siperb.pattern"), "{warning}");
    let asked = |dialed: &str, source| Asked { dialed: dialed.into(), from: "alice".into(), source };
    let to = |asked| routes.destinations(engine::time::Instant::ZERO, &Load::default(), &asked).destinations;
    let out = to(asked("07700 900123", Source::User("alice".into())));
    assert_eq!(out, [Destination::Trunk(TrunkId(1)), Destination::Trunk(TrunkId(0))]);
    assert_eq!(to(asked("441632960009", Source::Whatsapp)).len(), 3);
    assert!(to(asked("07700 900123", Source::User("bob".into()))).is_empty());
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn every_mistake_of_a_dial_plan_is_told_with_its_line_and_a_remedy() {
    let trunk = "[trunks.t]\nhost = \"h.example\"\n";
    for (text, parts) in [
        ("[trunks.t]\nport = 1", [":1:", "trunks.t has no host", "name or address"]),
        ("[trunks.t]\nhost = \"h:5061\"", [":2:", "is \"h:5061\"", "without a port"]),
        (&format!("{trunk}port = 0"), [":3:", "trunks.t.port is \"0\"", "65535"]),
        (&format!("{trunk}transport = \"sctp\""), [":3:", "sctp", "tls or tcp or udp"]),
        (&format!("{trunk}pattern = '^(44'"), [":3:", "unclosed group", "single quotes"]),
        (&format!("{trunk}pattern = \"^\\+44\""), [":3:", "not TOML", "single quotes"]),
        (&format!("{trunk}\nwieght = 3"), [":4:", "trunks.t.wieght is no setting", "known are"]),
        (&format!("{trunk}weight = \"light\""), [":3:", "\"light\"", "from 0 to"]),
        (&format!("{trunk}media = \"sdes\"\ntransport = \"udp\""), [":3:", "without TLS", "transport = \"tls\""]),
        (&format!("{trunk}codecs = [\"opus\",\n\"g729\"]"), [":4:", "g729", "opus, g722, pcmu or pcma"]),
        (&format!("{trunk}user = \"u\""), [":1:", "has no password", "password_env"]),
        (&format!("{trunk}register = true"), [":1:", "has no user", "register"]),
        (&format!("{trunk}allowed_sources = [\"203.0.113.0/33\"]"), [":3:", "203.0.113.0/33", "networks"]),
        (&format!("{trunk}certificate = \"c.pem\""), [":1:", "has no private_key", "beside certificate"]),
        (&format!("{trunk}transport = \"tcp\"\nalpn = true"), [":4:", "needs TLS", "transport = \"tls\""]),
        (&format!("{trunk}caller_id = \"fixed\""), [":1:", "has no number", "E.164"]),
        (&format!("{trunk}headers = {{ Via = \"x\" }}"), [":3:", "holds Via", "X-Account"]),
        (&format!("{trunk}to = \"user:nobody\""), [":3:", "nobody, which is not", "group:NAME"]),
        ("[trunks.\"a b\"]\nhost = \"h\"", [":1:", "cannot stand in a URI", "letters"]),
        ("[users.a]\nname = \"x\"", [":1:", "has no password", "softphones"]),
        ("[users.a]\npassword_env = \"NOT_SET\"", [":2:", "NOT_SET, which is not set", "correct its name"]),
        ("[users.a]\npassword = \"x\"\nnumber = \"12\"", [":3:", "\"12\"", "E.164"]),
        ("[groups.g]\nusers = [\"x\"]", [":2:", "holds \"x\"", "names of [users]"]),
        ("[routes]\nto = \"x\"", [":1:", "no list", "[[routes]]"]),
        ("\n[[routes]]\nto = \"trunk:t\"", [":3:", "names the trunk t", "trunk:NAME"]),
        ("[[routes]]\nsource = \"mars\"\nto = \"sip:a@b\"", [":2:", "holds \"mars\"", "whatsapp"]),
        ("[[routes]]\ndialed = '1'", [":1:", "has 0 destinations", "write 1 to"]),
        ("[numbers]\ncountry = \"GB\"", [":2:", "is \"GB\"", "such as 44"]),
        ("[http]\nport = 99999", [":2:", "http.port", "65535"]),
        ("\n\n[sip]\ntarget = \"bot\"", [":4:", "sip.target", "sip:bot@"]),
    ] {
        let error = with(text, &[]).unwrap_err().0;
        assert!(parts.iter().all(|part| error.contains(part)), "{text}\n-> {error}");
    }
    let twice = "[users.a]\npassword = \"x\"\nnumber = \"+441632960001\"\n[users.b]\npassword = \"x\"\nnumber = \"+441632960001\"";
    assert!(with(twice, &[]).unwrap_err().0.contains("one owner"));
}

#[test]
fn a_trunk_that_carries_no_call_is_doubted() {
    let config = with("[trunks.t]\nhost = \"h.example\"\nverify_certificate = false", &[]).unwrap();
    assert!(config.warnings[0].contains("trunks.t carries no call"), "{:?}", config.warnings);
    assert!(config.warnings[1].contains("does not verify"), "{:?}", config.warnings);
}

#[test]
fn an_edge_keeps_its_file_beside_the_orchestrators() {
    let store = |path: &str, mode| {
        let config = Config::read("", |name| (name == "STORE").then(|| path.to_owned())).unwrap();
        config.store(mode).map(|path| path.display().to_string())
    };
    let path = "/var/lib/tandem/tandem.redb";
    assert_eq!(store(path, Mode::Tandem).as_deref(), Some(path));
    assert_eq!(store(path, Mode::Orchestrator).as_deref(), Some(path));
    assert_eq!(store(path, Mode::Edge).as_deref(), Some("/var/lib/tandem/tandem-edge.redb"));
    assert_eq!(store("calls", Mode::Edge).as_deref(), Some("calls-edge"));
    assert_eq!(store("none", Mode::Edge), None);
}
