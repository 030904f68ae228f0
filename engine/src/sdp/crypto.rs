//! SDES: SRTP keys in the description itself (RFC 4568), for trunks whose signalling runs over TLS.
//!
//! ```text
//! offer    a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:<key and salt, base64>|2^31
//!          a=crypto:2 AEAD_AES_256_GCM inline:...
//! answer   a=crypto:2 AEAD_AES_256_GCM inline:<another key>         one line, the tag and suite of the one it takes
//! ```
//!
//! Each side protects with the key that *it* wrote. [`CryptoLine`] is one line; [`Sdes`] is our half of one leg through all
//! of its offers and answers, and says which keys are in force.
//!
//! **Why** the keys live beside the description and not in the leg: the text has to be written the moment a re-INVITE comes,
//! and a leg is a queue away. **Why** a new key of the peer gives a new one of ours: a peer that begins a new context for its
//! own stream mostly does so for ours as well, with the rollover counter at zero, and then an old key with a counter that
//! went on could not be read (RFC 4568 §6.4, §7.1.4).

use super::Description;
use crate::random::Random;
use crate::srtp::{MASTER_BYTES_MAX, MasterKey, SrtpKeys, SrtpProfile};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::fmt;

/// Crypto lines of one description that are read; further ones are ignored. LiveKit offers four, there are six suites.
pub const CRYPTO_LINES_MAX: usize = 16;

/// Everything that can be offered, in the order in which we do: what everybody has comes first, since some peers read only
/// the first line.
pub const SDES_SUITES: [SrtpProfile; 6] = [
    SrtpProfile::AesCm128HmacSha1_80,
    SrtpProfile::AeadAes256Gcm,
    SrtpProfile::AeadAes128Gcm,
    SrtpProfile::AesCm256HmacSha1_80,
    SrtpProfile::AesCm128HmacSha1_32,
    SrtpProfile::AesCm256HmacSha1_32,
];

/// Padding may be missing, and the bits behind the last byte may be anything.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Names of the suites (RFC 4568 §6.2, RFC 6188 §4, RFC 7714 §14.2); behind them what older peers wrote.
const NAMES: [(SrtpProfile, &str); 6] = [
    (SrtpProfile::AesCm128HmacSha1_80, "AES_CM_128_HMAC_SHA1_80"),
    (SrtpProfile::AesCm128HmacSha1_32, "AES_CM_128_HMAC_SHA1_32"),
    (SrtpProfile::AesCm256HmacSha1_80, "AES_256_CM_HMAC_SHA1_80"),
    (SrtpProfile::AesCm256HmacSha1_32, "AES_256_CM_HMAC_SHA1_32"),
    (SrtpProfile::AeadAes128Gcm, "AEAD_AES_128_GCM"),
    (SrtpProfile::AeadAes256Gcm, "AEAD_AES_256_GCM"),
];
const OLD_NAMES: [(SrtpProfile, &str); 2] = [
    (SrtpProfile::AesCm256HmacSha1_80, "AES_CM_256_HMAC_SHA1_80"),
    (SrtpProfile::AesCm256HmacSha1_32, "AES_CM_256_HMAC_SHA1_32"),
];

/// The suite's name in `a=crypto`.
pub fn suite_name(suite: SrtpProfile) -> &'static str {
    // unwrap: the table has every variant, and a test says so.
    NAMES.iter().find(|(profile, _)| *profile == suite).unwrap().1
}

/// Why a crypto line, or all of them, cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CryptoError {
    /// Key and salt are not as long as the suite wants them.
    KeyLength,
    /// The key is one of ours: a peer that reflects it would have both directions share a keystream.
    KeyReflected,
    /// No tag, no suite, no `inline:` key, or a lifetime that is none.
    Malformed,
    /// A master key identifier, or several keys: SRTP packets would carry the identifier.
    Mki,
    /// The answer takes a tag or suite that was not offered.
    NotOffered,
    /// No line is left that could be used.
    NoUsableLine,
    /// A session parameter that we do not follow, `UNENCRYPTED_SRTP` and its kin among them (RFC 4568 §6.3).
    SessionParameter,
    /// A suite that we do not have.
    UnknownSuite,
}

/// One `a=crypto` line that can be used. `Debug` redacts the key, `Display` writes it: that is its value in a description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CryptoLine {
    /// Tells the lines of an offer apart; the answer repeats it.
    pub tag: u32,
    /// The suite.
    pub suite: SrtpProfile,
    /// What protects the stream of the side that wrote the line.
    pub key: MasterKey,
    /// Whether the suite is spelled as before RFC 6188; the answer repeats the spelling.
    pub is_old_name: bool,
}

impl CryptoLine {
    /// Reads the value of `a=crypto:`. A lifetime is taken: at 50 packets a second the smallest in use, 2^20, lasts six hours.
    pub fn parse(value: &str) -> Result<CryptoLine, CryptoError> {
        let mut words = value.split_whitespace();
        let (tag, name, keys) = (words.next(), words.next(), words.next());
        let (Some(tag), Some(name), Some(keys)) = (tag, name, keys) else { return Err(CryptoError::Malformed) };
        let tag = tag.parse().map_err(|_| CryptoError::Malformed)?;
        let find = |names: &[(SrtpProfile, &str)]| {
            names.iter().find(|(_, known)| known.eq_ignore_ascii_case(name)).map(|(suite, _)| *suite)
        };
        let (suite, is_old_name) = match (find(&NAMES), find(&OLD_NAMES)) {
            (Some(suite), _) => (suite, false),
            (None, Some(suite)) => (suite, true),
            (None, None) => return Err(CryptoError::UnknownSuite),
        };
        // RFC 4568 §6.3.6 and §6.3.7: a replay window may be ignored, and so may what a dash marks as optional.
        if !words.all(|word| word.starts_with('-') || word.to_ascii_uppercase().starts_with("WSH=")) {
            return Err(CryptoError::SessionParameter);
        }
        Ok(CryptoLine { tag, suite, key: parse_key(keys, suite)?, is_old_name })
    }

    /// A line with a key of its own.
    pub fn draw(tag: u32, suite: SrtpProfile, random: &mut Random) -> CryptoLine {
        let mut key = MasterKey { bytes: [0; MASTER_BYTES_MAX] };
        random.fill(&mut key.bytes[..suite.key_bytes() + suite.salt_bytes()]);
        CryptoLine { tag, suite, key, is_old_name: false }
    }

    fn is_answered_by(&self, answer: &CryptoLine) -> bool {
        self.tag == answer.tag && self.suite == answer.suite
    }
}

impl fmt::Display for CryptoLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let old = OLD_NAMES.iter().find(|(suite, _)| self.is_old_name && *suite == self.suite);
        let name = old.map_or(suite_name(self.suite), |(_, name)| name);
        let key = &self.key.bytes[..self.suite.key_bytes() + self.suite.salt_bytes()];
        // `STANDARD` pads, as RFC 4568 §6.1 has it.
        write!(formatter, "{} {name} inline:{}", self.tag, BASE64.encode(key))
    }
}

/// `inline:<base64>[|lifetime][|MKI:length]` (RFC 4568 §6.1).
fn parse_key(keys: &str, suite: SrtpProfile) -> Result<MasterKey, CryptoError> {
    if keys.contains(';') {
        return Err(CryptoError::Mki); // several keys are told apart by it
    }
    let inline = match keys.split_once(':') {
        Some((method, inline)) if method.eq_ignore_ascii_case("inline") => inline,
        _ => return Err(CryptoError::Malformed),
    };
    let mut fields = inline.split('|');
    let bytes = BASE64.decode(fields.next().unwrap_or_default()).map_err(|_| CryptoError::Malformed)?;
    for field in fields {
        match field {
            mki if mki.contains(':') => return Err(CryptoError::Mki),
            lifetime if is_lifetime(lifetime) => {}
            _ => return Err(CryptoError::Malformed),
        }
    }
    if bytes.len() != suite.key_bytes() + suite.salt_bytes() {
        return Err(CryptoError::KeyLength);
    }
    let mut key = MasterKey { bytes: [0; MASTER_BYTES_MAX] };
    key.bytes[..bytes.len()].copy_from_slice(&bytes);
    Ok(key)
}

/// `2^20` or `1048576`, at most 2^48 packets (RFC 3711 §9.2).
fn is_lifetime(field: &str) -> bool {
    match field.split_once('^') {
        Some((base, exponent)) => base == "2" && exponent.parse::<u32>().is_ok_and(|exponent| exponent <= 48),
        None => field.parse::<u64>().is_ok_and(|packets| (1..=1 << 48).contains(&packets)),
    }
}

/// The lines of a description that can be used, in its order of preference; of a repeated tag the first counts.
/// The error is what is wrong with the first line when none can be.
pub fn usable_lines(description: &Description) -> Result<Vec<CryptoLine>, CryptoError> {
    let mut lines: Vec<CryptoLine> = Vec::new();
    let mut error = None;
    for value in description.crypto.iter().take(CRYPTO_LINES_MAX) {
        match CryptoLine::parse(value) {
            Ok(line) if lines.iter().all(|known| known.tag != line.tag) => lines.push(line),
            Ok(_) => {}
            Err(refusal) => error = error.or(Some(refusal)),
        }
    }
    if lines.is_empty() { Err(error.unwrap_or(CryptoError::NoUsableLine)) } else { Ok(lines) }
}

/// Our half of SDES on one leg, through every offer and answer of its dialog.
#[derive(Clone, Debug)]
pub struct Sdes {
    random: Random,
    suites: Vec<SrtpProfile>,
    /// What our last description holds.
    ours: Vec<CryptoLine>,
    /// What is in force.
    keys: Option<SrtpKeys>,
}

impl Sdes {
    /// For a new leg that may use `suites`, in our order of preference. Keys come from `random`.
    pub fn new(suites: &[SrtpProfile], random: Random) -> Sdes {
        Sdes { random, suites: suites.to_vec(), ours: Vec::new(), keys: None }
    }

    /// The keys in force: what the leg is to be given.
    pub fn keys(&self) -> Option<&SrtpKeys> {
        self.keys.as_ref()
    }

    /// The lines of our offer: one per suite with a fresh key each, when the keys are not settled; else the one line in force,
    /// which changes nothing (RFC 4568 §7.1.4).
    pub fn offer(&mut self) -> Vec<CryptoLine> {
        match &self.keys {
            Some(keys) => self.ours.retain(|line| line.suite == keys.profile && line.key == keys.local),
            None => {
                let random = &mut self.random;
                let tagged = (1..).zip(&self.suites);
                self.ours = tagged.map(|(tag, suite)| CryptoLine::draw(tag, *suite, random)).collect();
            }
        }
        self.ours.clone()
    }

    /// The peer's answer to our last offer. May come more than once, from one fork and another.
    pub fn read_answer(&mut self, answer: &Description) -> Result<&SrtpKeys, CryptoError> {
        let lines = usable_lines(answer)?;
        let mut pairs = lines.iter().filter_map(|theirs| {
            let ours = self.ours.iter().find(|ours| ours.is_answered_by(theirs))?;
            Some((ours.clone(), theirs.clone()))
        });
        let (ours, theirs) = pairs.next().ok_or(CryptoError::NotOffered)?;
        self.agree(ours, theirs, false)
    }

    /// The peer's offer, first or again: picks the first of its lines that we may use, and answers ours. A line with the key
    /// that is in force changes nothing, under whatever tag; with another key ours is new as well.
    pub fn read_offer(&mut self, offer: &Description) -> Result<(CryptoLine, &SrtpKeys), CryptoError> {
        let lines = usable_lines(offer)?;
        let allowed = || lines.iter().filter(|line| self.suites.contains(&line.suite));
        let in_force = |line: &&CryptoLine| {
            self.keys.as_ref().is_some_and(|keys| keys.profile == line.suite && keys.remote == line.key)
        };
        let kept = allowed().find(in_force).cloned();
        let is_kept = kept.is_some();
        let theirs = kept.or_else(|| allowed().next().cloned()).ok_or(CryptoError::NoUsableLine)?;
        let mut ours = CryptoLine::draw(theirs.tag, theirs.suite, &mut self.random);
        if let (true, Some(keys)) = (is_kept, &self.keys) {
            ours.key = keys.local.clone();
        }
        ours.is_old_name = theirs.is_old_name;
        let keys = self.agree(ours.clone(), theirs, true)?;
        Ok((ours, keys))
    }

    fn agree(&mut self, ours: CryptoLine, theirs: CryptoLine, replaces: bool) -> Result<&SrtpKeys, CryptoError> {
        if ours.key == theirs.key {
            return Err(CryptoError::KeyReflected);
        }
        if replaces {
            self.ours = vec![ours.clone()];
        }
        Ok(self.keys.insert(SrtpKeys { profile: ours.suite, local: ours.key, remote: theirs.key }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Profile, RtpLocal, parse, write_rtp_answer, write_rtp_offer};
    use super::*;

    const TWILIO: &str = "1 AES_CM_128_HMAC_SHA1_80 inline:cdj7a2dPCu5IdGwDfzIDXJrYWUE2GkVcPmxT3gbN";

    fn sdes(seed: u64, suites: &[SrtpProfile]) -> Sdes {
        Sdes::new(suites, Random::from_test_seed(seed))
    }

    /// A description with these lines, as it arrives.
    fn described(lines: &[CryptoLine]) -> Description {
        let text = |lines: &[CryptoLine]| {
            let local = RtpLocal {
                address: "192.0.2.1".parse().unwrap(),
                port: 4_000,
                profile: Profile::RtpSavp,
                rtcp_mux: false,
                crypto: lines.to_vec(),
                codecs: vec![super::super::CodecFormat {
                    codec: super::super::Codec::Pcmu,
                    payload_type: 0,
                    opus: Default::default(),
                }],
                telephone_events: Vec::new(),
                direction: Default::default(),
                session_id: 1,
                session_version: 1,
            };
            write_rtp_offer(&local)
        };
        parse(&text(lines)).unwrap()
    }

    fn with_values(values: &[&str]) -> Description {
        let mut description = described(&[]);
        description.crypto = values.iter().map(|value| (*value).to_owned()).collect();
        description
    }

    #[test]
    fn every_suite_is_read_back_as_it_was_written() {
        let mut random = Random::from_test_seed(1);
        for (tag, suite) in (1..).zip(SDES_SUITES) {
            let line = CryptoLine::draw(tag, suite, &mut random);
            assert_eq!(CryptoLine::parse(&line.to_string()), Ok(line.clone()));
            let characters = line.to_string().split_once("inline:").unwrap().1.len();
            let bytes = suite.key_bytes() + suite.salt_bytes();
            assert_eq!(characters, bytes.div_ceil(3) * 4, "{suite:?}");
            assert_eq!(CryptoLine::parse(line.to_string().trim_end_matches('=')), Ok(line));
        }
        assert!(NAMES.iter().all(|(suite, name)| suite_name(*suite) == *name));
        assert!(SDES_SUITES.iter().all(|suite| NAMES.iter().any(|(known, _)| known == suite)));
    }

    #[test]
    fn key_sizes_are_those_of_rfc_4568_6188_and_7714() {
        let bytes = SDES_SUITES.map(|suite| (suite_name(suite), suite.key_bytes() + suite.salt_bytes()));
        assert!(bytes.contains(&("AES_CM_128_HMAC_SHA1_80", 30)) && bytes.contains(&("AES_CM_128_HMAC_SHA1_32", 30)));
        assert!(bytes.contains(&("AES_256_CM_HMAC_SHA1_80", 46)) && bytes.contains(&("AES_256_CM_HMAC_SHA1_32", 46)));
        assert!(bytes.contains(&("AEAD_AES_128_GCM", 28)) && bytes.contains(&("AEAD_AES_256_GCM", 44)));
    }

    #[test]
    fn names_from_before_rfc_6188_are_read_and_repeated() {
        let line = CryptoLine::draw(3, SrtpProfile::AesCm256HmacSha1_80, &mut Random::from_test_seed(1)).to_string();
        let old = line.replace("AES_256_CM", "AES_CM_256");
        let offer = with_values(&[&old]);
        let (answer, _) = sdes(2, &SDES_SUITES).read_offer(&offer).map(|(line, keys)| (line, keys.clone())).unwrap();
        assert!(answer.to_string().starts_with("3 AES_CM_256_HMAC_SHA1_80 inline:"), "{}", answer.tag);
    }

    #[test]
    fn lifetime_is_taken_and_mki_is_not() {
        for good in ["|2^31", "|1048576", "|2^48", " WSH=64", "|2^20 WSH=128 -NEW=1"] {
            assert!(CryptoLine::parse(&format!("{TWILIO}{good}")).is_ok(), "{good}");
        }
        for mki in ["|1:4", "|2^20|1:4", "|1:1|2^20", ";inline:cdj7a2dPCu5IdGwDfzIDXJrYWUE2GkVcPmxT3gbN"] {
            assert_eq!(CryptoLine::parse(&format!("{TWILIO}{mki}")), Err(CryptoError::Mki), "{mki}");
        }
        for bad in ["|2^49", "|0", "|", "|x", "|3^2"] {
            assert_eq!(CryptoLine::parse(&format!("{TWILIO}{bad}")), Err(CryptoError::Malformed), "{bad}");
        }
    }

    #[test]
    fn a_line_with_a_session_parameter_that_is_not_followed_cannot_be_used() {
        let parameters =
            ["KDR=1", "UNENCRYPTED_SRTP", "UNENCRYPTED_SRTCP", "UNAUTHENTICATED_SRTP", "FEC_ORDER=FEC_SRTP"];
        for parameter in parameters.into_iter().chain(["FEC_KEY=inline:x", "NEW=1"]) {
            let parsed = CryptoLine::parse(&format!("{TWILIO} WSH=64 {parameter}"));
            assert_eq!(parsed, Err(CryptoError::SessionParameter), "{parameter}");
        }
    }

    #[test]
    fn lines_that_are_none_say_what_is_wrong() {
        let key = "cdj7a2dPCu5IdGwDfzIDXJrYWUE2GkVcPmxT3gbN";
        let cases = [
            (String::new(), CryptoError::Malformed),
            ("1 AES_CM_128_HMAC_SHA1_80".to_owned(), CryptoError::Malformed),
            (format!("x AES_CM_128_HMAC_SHA1_80 inline:{key}"), CryptoError::Malformed),
            (format!("1 AES_CM_128_HMAC_SHA1_80 url:{key}"), CryptoError::Malformed),
            ("1 AES_CM_128_HMAC_SHA1_80 inline:!!".to_owned(), CryptoError::Malformed),
            (format!("1 AES_192_CM_HMAC_SHA1_80 inline:{key}"), CryptoError::UnknownSuite),
            (format!("1 F8_128_HMAC_SHA1_80 inline:{key}"), CryptoError::UnknownSuite),
            (format!("1 AES_256_CM_HMAC_SHA1_80 inline:{key}"), CryptoError::KeyLength),
            (format!("1 AEAD_AES_128_GCM inline:{key}"), CryptoError::KeyLength),
        ];
        for (value, error) in cases {
            assert_eq!(CryptoLine::parse(&value), Err(error), "{value}");
            assert_eq!(usable_lines(&with_values(&[&value])), Err(error), "{value}");
        }
        assert_eq!(usable_lines(&with_values(&[])), Err(CryptoError::NoUsableLine));
    }

    #[test]
    fn a_key_is_never_shown_by_debug() {
        let line = CryptoLine::parse(TWILIO).unwrap();
        assert!(!format!("{line:?}").contains("cdj7") && format!("{line:?}").contains("redacted"));
    }

    #[test]
    fn both_sides_of_an_exchange_protect_with_the_key_they_wrote() {
        for suite in SDES_SUITES {
            let (mut caller, mut callee) = (sdes(1, &SDES_SUITES), sdes(2, &[suite]));
            let offer = described(&caller.offer());
            assert_eq!(offer.crypto.len(), SDES_SUITES.len());
            let (line, theirs) = callee.read_offer(&offer).map(|(line, keys)| (line, keys.clone())).unwrap();
            let ours = caller.read_answer(&described(&[line])).unwrap();
            assert_eq!((ours.profile, theirs.profile), (suite, suite));
            assert!(ours.local == theirs.remote && ours.remote == theirs.local && ours.local != ours.remote);
        }
    }

    #[test]
    fn every_line_of_every_offer_has_a_key_and_a_tag_of_its_own() {
        let lines: Vec<_> = (0..20).flat_map(|seed| sdes(seed, &SDES_SUITES).offer()).collect();
        for (at, line) in lines.iter().enumerate() {
            assert!(lines[..at].iter().all(|other| other.key != line.key));
        }
        let tags: Vec<_> = lines[..6].iter().map(|line| line.tag).collect();
        assert_eq!(tags, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn the_answer_repeats_the_tag_of_the_line_it_takes() {
        let unusable = "1 AES_CM_128_HMAC_SHA1_80 inline:cdj7a2dPCu5IdGwDfzIDXJrYWUE2GkVcPmxT3gbN|1:4";
        let taken = TWILIO.replacen('1', "7", 1);
        let (line, keys) = {
            let mut sdes = sdes(1, &SDES_SUITES);
            let (line, keys) = sdes.read_offer(&with_values(&[unusable, &taken])).unwrap();
            (line, keys.clone())
        };
        assert_eq!((line.tag, line.suite), (7, SrtpProfile::AesCm128HmacSha1_80));
        assert_eq!(keys.remote, CryptoLine::parse(TWILIO).unwrap().key);
        assert_eq!(
            sdes(1, &[SrtpProfile::AeadAes256Gcm]).read_offer(&with_values(&[&taken])),
            Err(CryptoError::NoUsableLine)
        );
    }

    #[test]
    fn an_answer_to_something_else_and_a_reflected_key_are_refused() {
        let mut sdes = sdes(1, &[SrtpProfile::AesCm128HmacSha1_80]);
        let ours = sdes.offer();
        assert_eq!(sdes.read_answer(&described(&ours)), Err(CryptoError::KeyReflected));
        assert_eq!(sdes.read_answer(&with_values(&[&TWILIO.replacen('1', "2", 1)])), Err(CryptoError::NotOffered));
        let mut other = CryptoLine::draw(1, SrtpProfile::AeadAes128Gcm, &mut Random::from_test_seed(9));
        assert_eq!(sdes.read_answer(&described(&[other.clone()])), Err(CryptoError::NotOffered));
        other.tag = 2;
        assert_eq!(sdes.read_answer(&described(&[other])), Err(CryptoError::NotOffered));
        assert!(sdes.keys().is_none());
        assert!(sdes.read_answer(&with_values(&[TWILIO])).is_ok());
    }

    #[test]
    fn a_refresh_keeps_both_keys_and_a_new_key_of_the_peer_gives_a_new_one_of_ours() {
        let (mut caller, mut callee) = (sdes(1, &SDES_SUITES), sdes(2, &SDES_SUITES));
        let offer = described(&caller.offer());
        let (first, _) = callee.read_offer(&offer).unwrap();
        caller.read_answer(&described(std::slice::from_ref(&first))).unwrap();
        let before = callee.keys().cloned();
        // The caller refreshes: one line, the same key.
        let refresh = caller.offer();
        assert_eq!(refresh.len(), 1);
        let (again, _) = callee.read_offer(&described(&refresh)).unwrap();
        assert_eq!((&again, callee.keys()), (&first, before.as_ref()));
        // The callee refreshes in turn.
        let refresh = callee.offer();
        assert_eq!(refresh, std::slice::from_ref(&first));
        let (_, keys) = caller.read_offer(&described(&refresh)).unwrap();
        assert!(Some(&keys.remote) == before.as_ref().map(|keys| &keys.local));
        // Another key under the same tag.
        let changed = CryptoLine::draw(first.tag, first.suite, &mut Random::from_test_seed(3));
        let (new, keys) = callee.read_offer(&described(std::slice::from_ref(&changed))).unwrap();
        assert!(new.key != first.key && keys.local == new.key && keys.remote == changed.key);
    }

    #[test]
    fn a_key_in_force_is_kept_under_another_tag_and_behind_other_lines() {
        let mut callee = sdes(2, &SDES_SUITES);
        let mut random = Random::from_test_seed(1);
        let theirs = CryptoLine::draw(1, SrtpProfile::AesCm128HmacSha1_80, &mut random);
        let (first, _) = callee.read_offer(&described(std::slice::from_ref(&theirs))).unwrap();
        let other = CryptoLine::draw(1, SrtpProfile::AeadAes256Gcm, &mut random);
        let (again, _) = callee.read_offer(&described(&[other, CryptoLine { tag: 2, ..theirs }])).unwrap();
        assert_eq!((again.tag, &again.key), (2, &first.key));
    }

    #[test]
    fn forks_that_answer_one_after_another_bring_keys_of_their_own() {
        let mut caller = sdes(1, &SDES_SUITES);
        let offer = described(&caller.offer());
        for (seed, suite) in [(2, SDES_SUITES[0]), (3, SDES_SUITES[3])] {
            let (line, _) = sdes(seed, &[suite]).read_offer(&offer).map(|(line, keys)| (line, keys.clone())).unwrap();
            let keys = caller.read_answer(&described(std::slice::from_ref(&line))).unwrap();
            assert!(keys.remote == line.key && keys.profile == suite);
        }
    }

    #[test]
    fn an_sdes_answer_has_one_line_and_the_profile_of_the_offer() {
        let mut caller = sdes(1, &SDES_SUITES);
        let lines = caller.offer();
        for (profile, name) in [(Profile::RtpSavp, "RTP/SAVP "), (Profile::RtpSavpf, "RTP/SAVPF ")] {
            let mut offer = described(&lines);
            offer.profile = profile;
            offer.rtcp_mux = true;
            let local = RtpLocal {
                address: "192.0.2.2".parse().unwrap(),
                port: 5_000,
                profile: Profile::RtpAvp,
                rtcp_mux: false,
                crypto: lines.clone(),
                codecs: offer.codecs.clone(),
                telephone_events: Vec::new(),
                direction: Default::default(),
                session_id: 1,
                session_version: 1,
            };
            let answer = write_rtp_answer(&offer, &local);
            assert!(answer.contains(&format!("m=audio 5000 {name}0\r\n")), "{name}");
            assert_eq!((answer.matches("a=crypto:").count(), answer.matches("a=rtcp-mux").count()), (1, 1));
        }
    }
}
