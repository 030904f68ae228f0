//! SIP calls of an earlier run, which a crash has cut: each gets its BYE, or CANCEL, or refusal.
//!
//! While a call is up, what a BYE needs stands in the store ([`KeptDialog`]). Keys, ports and the far side's description are gone
//! with the process, so no call can be carried on; the next run ends all of them, with credentials from its own configuration. A
//! browser is reachable on its own connection only (RFC 7118 §5): it hears the BYE when it has registered again.
//!
//! Why in portions: thousands of BYEs at once would be lost in the socket's queue, and their repetitions with them.

use super::limits::{
    FAREWELL_DEVICE_MS_MAX, FAREWELL_PAUSE_MS, FAREWELLS_AT_ONCE, FAREWELLS_AWAY_MAX, FAREWELLS_AWAY_PAUSE_MS,
};
use crate::registrar::Registrar;
use crate::sip::transport::Hop;
use crate::sip::uri::SipUri;
use crate::sip::{KeptDialog, SipAgent};
use crate::store::Change;
use engine::time::Instant;
use std::collections::{BTreeMap, VecDeque};

/// Reason of every such BYE (RFC 3326).
const REASON: &str = "Q.850;cause=41;text=\"The gateway was restarted\"";

/// Calls that wait for their BYE.
pub(super) struct Farewells {
    waiting: VecDeque<(String, KeptDialog)>,
    /// Those whose device is not back yet.
    away: VecDeque<(String, KeptDialog)>,
    /// When the devices are given up.
    away_until: Instant,
    due: Instant,
}

impl Default for Farewells {
    fn default() -> Farewells {
        Farewells { waiting: VecDeque::new(), away: VecDeque::new(), away_until: Instant::NEVER, due: Instant::NEVER }
    }
}

impl Farewells {
    /// Takes the dialogs of the last run.
    pub fn begin(&mut self, now: Instant, dialogs: BTreeMap<String, KeptDialog>) {
        self.waiting.extend(dialogs);
        self.away_until = now.plus_millis(FAREWELL_DEVICE_MS_MAX);
        self.due = if self.waiting.is_empty() { Instant::NEVER } else { now };
    }

    /// When `handle_timeout` is to be called.
    pub fn deadline(&self) -> Instant {
        self.due
    }

    /// Says the next portion of BYEs. `credentials` finds those of a dialog; `forget` is told of each that nothing can be said in.
    /// Answers how many were said.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
        sip: &mut SipAgent,
        registrar: &Registrar,
        credentials: impl Fn(&KeptDialog) -> Option<crate::sip::Credentials>,
        mut forget: impl FnMut(Change),
    ) -> u64 {
        if now < self.due {
            return 0;
        }
        let mut said = 0;
        let mut part = |sip: &mut SipAgent, dialog: &KeptDialog, hop: Option<Hop>| {
            let parted = sip.part(now, dialog, hop, credentials(dialog), REASON);
            said += u64::from(parted == Ok(true));
            parted
        };
        for _ in 0..FAREWELLS_AT_ONCE {
            let Some((key, dialog)) = self.waiting.pop_front() else { break };
            if dialog.needs_connection() && self.away.len() < FAREWELLS_AWAY_MAX {
                self.away.push_back((key, dialog));
                continue;
            }
            match part(sip, &dialog, None) {
                Ok(true) if dialog.is_incoming() => forget(Change::DialogOver { key }),
                Ok(true) => {}
                Ok(false) => {
                    self.waiting.push_front((key, dialog));
                    break;
                }
                Err(_) => forget(Change::DialogOver { key }),
            }
        }
        let devices = if self.away.is_empty() { BTreeMap::new() } else { devices(registrar) };
        for _ in 0..self.away.len() {
            let Some((key, dialog)) = self.away.pop_front() else { break };
            let hop = place(dialog.target()).and_then(|place| devices.get(&place)).cloned();
            let parted = match hop {
                Some(hop) => part(sip, &dialog, Some(hop)).map_err(drop),
                None if now >= self.away_until => Err(()),
                None => Ok(false),
            };
            match parted {
                Ok(true) if dialog.is_incoming() => forget(Change::DialogOver { key }),
                Ok(true) => {}
                Ok(false) => self.away.push_back((key, dialog)),
                Err(()) => forget(Change::DialogOver { key }),
            }
        }
        self.due = match (self.waiting.is_empty(), self.away.is_empty()) {
            (false, _) => now.plus_millis(FAREWELL_PAUSE_MS),
            (true, false) => now.plus_millis(FAREWELLS_AWAY_PAUSE_MS),
            (true, true) => Instant::NEVER,
        };
        said
    }
}

/// Where devices with a connection of their own are, by user and host of their Contact.
fn devices(registrar: &Registrar) -> BTreeMap<(String, String), Hop> {
    let bindings = registrar.all().flat_map(|(_, bindings)| bindings);
    let connected = bindings.filter(|binding| binding.hop.connection.is_some());
    connected.filter_map(|binding| Some((place(&binding.contact)?, binding.hop.clone()))).collect()
}

/// Clients invent both afresh for every page (RFC 7118 §5), and write other parameters into REGISTER than into INVITE.
fn place(uri: &str) -> Option<(String, String)> {
    let uri = SipUri::parse(uri)?;
    Some((uri.user.unwrap_or_default().to_owned(), uri.host.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::message::Message;
    use crate::sip::transport::{ConnectionId, Transport};
    use crate::sip::{Kept, SipConfig, SipOutput};
    use engine::random::Random;

    const CONTACT: &str = "sip:x7@a1b2.invalid;transport=ws";

    fn dialog(transport: &str, local: &str) -> KeptDialog {
        let text = format!(
            r#"{{"dialog":{{"call_id":"c","local":"{local}","remote":"<sip:b@h>;tag=2","remote_tag":"2","local_cseq":7,
            "remote_cseq":null,"route_set":[],"remote_target":"{CONTACT};ob"}},"transport":"{transport}","peer":"192.0.2.9:4711"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    struct Bench {
        farewells: Farewells,
        sip: SipAgent,
        registrar: Registrar,
        forgotten: Vec<Change>,
    }

    impl Bench {
        fn new(now: Instant, dialog: KeptDialog) -> Bench {
            let config = SipConfig::new("192.0.2.1:5060".parse().unwrap(), "tandem", "tandem");
            let mut sip = SipAgent::new(config, Random::from_test_seed(1));
            sip.keep_dialogs();
            let mut farewells = Farewells::default();
            farewells.begin(now, BTreeMap::from([("c;1".to_owned(), dialog)]));
            Bench { farewells, sip, registrar: Registrar::new(), forgotten: Vec::new() }
        }

        fn step(&mut self, now: Instant) -> u64 {
            let forget = |change| self.forgotten.push(change);
            self.farewells.handle_timeout(now, &mut self.sip, &self.registrar, |_| None, forget)
        }
    }

    #[test]
    fn a_browser_hears_the_bye_on_the_connection_it_comes_back_on() {
        let start = Instant::from_millis(1_000);
        let mut bench = Bench::new(start, dialog("wss", "<sip:a@h>;tag=1"));
        assert_eq!(bench.step(start), 0);
        let hop = Hop::connected(Transport::Wss, "192.0.2.9:4712".parse().unwrap(), ConnectionId(3));
        let mut register = Message::request("REGISTER", "sip:h");
        for (name, value) in [("From", "<sip:bob@h>;tag=9"), ("To", "<sip:bob@h>"), ("Call-ID", "r")] {
            register.push(name, value);
        }
        register.push("CSeq", "1 REGISTER");
        register.push("Contact", format!("<{CONTACT}>;expires=600"));
        let later = start.plus_millis(5_000);
        bench.registrar.register(later, &register, &hop, "bob", 8);
        assert_eq!(bench.step(later), 1);
        let (to, bytes) = loop {
            match bench.sip.poll_output(later) {
                SipOutput::Transmit { hop, bytes } => break (hop, bytes),
                SipOutput::Event(_) => {}
                other => panic!("{other:?} instead of a BYE"),
            }
        };
        assert_eq!(to, hop);
        assert!(bytes.starts_with(b"BYE sip:x7@a1b2.invalid;transport=ws;ob "), "{}", String::from_utf8_lossy(&bytes));
        assert_eq!((bench.farewells.deadline(), bench.forgotten.len()), (Instant::NEVER, 0));
        bench.sip.connection_closed(later, &hop);
        assert_eq!(bench.sip.poll_kept(), Some(Kept::Over { key: "c;1".to_owned() }));
    }

    #[test]
    fn who_does_not_come_back_and_what_cannot_be_read_is_forgotten() {
        let start = Instant::from_millis(1_000);
        for (dialog, after_ms) in [
            (dialog("wss", "<sip:a@h>;tag=1"), FAREWELL_DEVICE_MS_MAX),
            (dialog("udp", "<sip:a@h>"), 0),
            (dialog("x25", "<sip:a@h>;tag=1"), 0),
        ] {
            let mut bench = Bench::new(start, dialog);
            bench.step(start);
            assert_eq!(bench.forgotten.is_empty(), after_ms > 0);
            bench.step(start.plus_millis(after_ms));
            assert_eq!(bench.forgotten, [Change::DialogOver { key: "c;1".to_owned() }]);
            assert_eq!((bench.farewells.deadline(), bench.sip.alive()), (Instant::NEVER, (0, 0)));
        }
    }
}
