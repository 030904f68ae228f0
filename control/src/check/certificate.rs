//! Certificates and keys as they lie on the disk: whether they can be read, belong together, are valid, and carry the right name.
//!
//! Why not by a handshake with ourselves: it would say that something is wrong, and neither which file nor what to do.

use super::{Finding, Level};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Days before the end of a certificate from which on it is worth a warning: a renewal that works comes earlier.
const DAYS_LEFT_MIN: i64 = 14;

const DAY_S: i64 = 86_400;

/// A certificate with its key, and what is wanted of it.
pub(super) struct Pair<'a> {
    /// The certificate's setting, with its place.
    pub setting: String,
    /// The key's.
    pub key_setting: String,
    pub certificate: &'a Path,
    pub private_key: &'a Path,
    /// The name that peers will look for, and the setting that says so.
    pub host: Option<(&'a str, String)>,
    /// Who refuses one that nobody has signed; `None`: it is for a peer that knows it beforehand.
    pub audience: Option<&'static str>,
}

/// Everything about a pair; `now_s` is Unix time.
pub(super) fn examine(pair: &Pair, now_s: i64) -> Vec<Finding> {
    let mut found = Vec::new();
    let (setting, path) = (&pair.setting, pair.certificate.display());
    let chain = match chain(pair.certificate) {
        Ok(chain) => chain,
        Err(fault) => {
            let remedy = "name a PEM file with the certificate and its chain, which this user may read";
            found.push(bad(format!("{setting}: {path} {fault}: {remedy}")));
            Vec::new()
        }
    };
    found.extend(key(pair, &chain));
    let parsed: Result<Vec<_>, _> = chain.iter().map(|der| X509Certificate::from_der(der).map(|(_, c)| c)).collect();
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            found.push(bad(format!(
                "{setting}: {path} holds something that is no certificate ({error}): write it anew"
            )));
            return found;
        }
    };
    let Some((own, rest)) = parsed.split_first() else { return found };
    found.extend(validity(setting, pair.certificate, &parsed, now_s));
    let mut issued = own;
    for next in rest {
        if issued.issuer() != next.subject() {
            found.push(bad(format!(
                "{setting}: {path} is out of order: after {} comes {}; write our own certificate first, then who signed it, and so on",
                issued.subject(),
                next.subject()
            )));
        }
        issued = next;
    }
    match pair.audience {
        Some(audience) if own.issuer() == own.subject() => found.push(warning(format!(
            "{setting}: {path} is signed by itself: {audience}; use one of a public authority (certbot, acme.sh)"
        ))),
        Some(_) if rest.is_empty() => found.push(warning(format!(
            "{setting}: {path} holds no chain: clients that do not know {} will refuse it; use the file with the full chain",
            own.issuer()
        ))),
        _ => {}
    }
    let names = names(own);
    if let Some((host, said_by)) = pair.host.as_ref().filter(|(host, _)| !names.iter().any(|name| covers(name, host))) {
        found.push(bad(format!(
            "{setting}: {path} is for {}, not for {host} ({said_by}): peers will refuse it; use a certificate for that name",
            list(&names)
        )));
    }
    if found.iter().all(|finding| finding.level == Level::Good) {
        let days = (own.validity().not_after.timestamp() - now_s) / DAY_S;
        found.push(good(format!("{setting}: {path} is for {}, for {days} more days, and its key fits", list(&names))));
    }
    found
}

/// A file with authorities.
pub(super) fn authorities(setting: &str, path: &Path) -> Finding {
    match chain(path) {
        Ok(chain) => good(format!("{setting}: {} authorities in {}", chain.len(), path.display())),
        Err(fault) => bad(format!("{setting}: {} {fault}: name a PEM file with certificates", path.display())),
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("cannot be read ({error})"))?;
    let chain = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    match chain {
        Ok(chain) if chain.is_empty() => Err("holds no certificate in PEM form".to_owned()),
        Ok(chain) => Ok(chain),
        Err(error) => Err(format!("is damaged ({error})")),
    }
}

/// The key, and whether it is the certificate's.
fn key(pair: &Pair, chain: &[CertificateDer<'static>]) -> Vec<Finding> {
    let (setting, path) = (&pair.key_setting, pair.private_key.display());
    let bytes = match std::fs::read(pair.private_key) {
        Ok(bytes) => bytes,
        Err(error) => {
            let remedy = "name the certificate's key, and let this user read it (chgrp tandem, chmod 640)";
            return vec![bad(format!("{setting}: {path} cannot be read ({error}): {remedy}"))];
        }
    };
    let mut found = Vec::new();
    let mode = std::fs::metadata(pair.private_key).map_or(0, |file| file.permissions().mode());
    if mode & 0o007 != 0 {
        found.push(warning(format!("{setting}: everybody on this host may read {path}: chmod 640 {path}")));
    }
    let secret = match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(secret) => secret,
        Err(_) if bytes.windows(9).any(|part| part == b"ENCRYPTED") => {
            let remedy = "write it without a passphrase (openssl pkey -in OLD -out NEW)";
            found.push(bad(format!("{setting}: {path} is encrypted: {remedy}")));
            return found;
        }
        Err(error) => {
            found
                .push(bad(format!("{setting}: {path} holds no key in PEM form ({error}): name the certificate's key")));
            return found;
        }
    };
    if chain.is_empty() {
        return found;
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match provider.key_provider.load_private_key(secret) {
        Err(error) => found.push(bad(format!("{setting}: {path} cannot be used ({error}): use an ECDSA or RSA key"))),
        Ok(loaded) => {
            let certified = rustls::sign::CertifiedKey::new(chain.to_vec(), loaded);
            if let Err(rustls::Error::InconsistentKeys(_)) = certified.keys_match() {
                let certificate = pair.certificate.display();
                found.push(bad(format!(
                    "{setting}: {path} is not the key of {certificate} ({}): name the two files that were made together",
                    pair.setting
                )));
            }
        }
    }
    found
}

fn validity(setting: &str, path: &Path, chain: &[X509Certificate], now_s: i64) -> Vec<Finding> {
    let path = path.display();
    let mut found = Vec::new();
    for certificate in chain {
        let (subject, validity) = (certificate.subject(), certificate.validity());
        let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        match () {
            () if until <= now_s => found.push(bad(format!(
                "{setting}: {path}: {subject} has expired {} days ago: renew it",
                (now_s - until) / DAY_S
            ))),
            () if from > now_s => found.push(bad(format!(
                "{setting}: {path}: {subject} is not valid before {}: is this host's clock right?",
                validity.not_before
            ))),
            () if until - now_s < DAYS_LEFT_MIN * DAY_S => found.push(warning(format!(
                "{setting}: {path}: {subject} expires in {} days: does its renewal work?",
                (until - now_s) / DAY_S
            ))),
            () => {}
        }
    }
    found
}

fn names(certificate: &X509Certificate) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(v4) => Some(std::net::Ipv4Addr::from(v4).to_string()),
            Err(_) => Some(std::net::Ipv6Addr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
        },
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

/// A wildcard stands for one left-most label (RFC 6125 §6.4.3).
fn covers(name: &str, host: &str) -> bool {
    let same = |name: &str, host: &str| name.eq_ignore_ascii_case(host);
    match name.strip_prefix("*.") {
        Some(domain) => host.split_once('.').is_some_and(|(_, rest)| same(domain, rest)),
        None => same(name, host.trim_start_matches('[').trim_end_matches(']')),
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") }
}

fn good(text: String) -> Finding {
    Finding { level: Level::Good, text }
}

fn warning(text: String) -> Finding {
    Finding { level: Level::Warning, text }
}

fn bad(text: String) -> Finding {
    Finding { level: Level::Bad, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, Issuer, KeyPair, date_time_ymd};
    use std::path::PathBuf;

    /// 2026-06-01
    const NOW_S: i64 = 1_780_272_000;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let folder = std::env::temp_dir().join(format!("tandem-certificate-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder).unwrap();
            Folder(folder)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
            path
        }

        fn look(&self, certificate: &Path, private_key: &Path, now_s: i64) -> Vec<String> {
            let pair = Pair {
                setting: "t.toml:3: sip.certificate (SIP_CERTIFICATE)".to_owned(),
                key_setting: "sip.private_key (SIP_PRIVATE_KEY)".to_owned(),
                certificate,
                private_key,
                host: Some(("voice.example.com", "sip.domain (SIP_DOMAIN)".to_owned())),
                audience: Some("browsers will not connect"),
            };
            examine(&pair, now_s).iter().map(Finding::to_string).collect()
        }
    }

    /// A certificate for `name` with its chain, valid from May to August 2026, and its key.
    fn made(name: &str) -> (String, String, String) {
        let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut root = CertificateParams::new(vec![]).unwrap();
        root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        root.distinguished_name.push(rcgen::DnType::CommonName, "An Authority");
        (root.not_before, root.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2027, 1, 1));
        let root_pem = root.self_signed(&root_key).unwrap().pem();
        let mut own = CertificateParams::new(vec![name.to_owned()]).unwrap();
        own.distinguished_name.push(rcgen::DnType::CommonName, name);
        (own.not_before, own.not_after) = (date_time_ymd(2026, 5, 1), date_time_ymd(2026, 8, 1));
        let own_pem = own.signed_by(&key, &Issuer::new(root, root_key)).unwrap().pem();
        (own_pem, root_pem, key.serialize_pem())
    }

    #[test]
    fn a_good_pair_is_told_with_its_names_and_days() {
        let folder = Folder::new("good");
        for name in ["voice.example.com", "*.example.com"] {
            let (own, root, key) = made(name);
            let (certificate, key) = (folder.write("c.pem", &(own + &root)), folder.write("k.pem", &key));
            let said = folder.look(&certificate, &key, NOW_S);
            let expected = format!(
                "ok      t.toml:3: sip.certificate (SIP_CERTIFICATE): {} is for {name}, for 61 more days, and its key fits",
                certificate.display()
            );
            assert_eq!(said, [expected]);
        }
    }

    #[test]
    fn each_mistake_names_its_setting_file_and_remedy() {
        let folder = Folder::new("bad");
        let (own, root, key) = made("voice.example.com");
        let (other, _, other_key) = made("mail.example.com");
        let full = folder.write("full.pem", &format!("{own}{root}"));
        let good_key = folder.write("key.pem", &key);
        let open_key = folder.write("open.pem", &key);
        std::fs::set_permissions(&open_key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let alone = folder.write("alone.pem", &own);
        let swapped = folder.write("swapped.pem", &format!("{root}{own}"));
        let mail = folder.write("mail.pem", &format!("{other}{root}"));
        let mail_key = folder.write("mail.key", &other_key);
        let text = folder.write("text", "hello");
        let damaged = folder.write("damaged", &own.replace("MII", "!!!"));
        let locked = folder.write("locked", &key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"));
        let nowhere = folder.0.join("nowhere");
        let day = DAY_S;
        for (certificate, key, now_s, level, words) in [
            (&nowhere, &good_key, NOW_S, "error", ["cannot be read", "name a PEM file"]),
            (&text, &good_key, NOW_S, "error", ["holds no certificate", "name a PEM file"]),
            (&damaged, &good_key, NOW_S, "error", ["is damaged", "name a PEM file"]),
            (&full, &nowhere, NOW_S, "error", ["nowhere cannot be read", "chmod 640"]),
            (&full, &text, NOW_S, "error", ["holds no key", "name the certificate's key"]),
            (&full, &locked, NOW_S, "error", ["is encrypted", "openssl pkey"]),
            (&full, &mail_key, NOW_S, "error", ["is not the key of", "made together"]),
            (&full, &open_key, NOW_S, "warning", ["everybody on this host", "chmod 640"]),
            (&full, &good_key, NOW_S + 70 * day, "error", ["has expired 9 days ago", "renew it"]),
            (&full, &good_key, NOW_S - 40 * day, "error", ["is not valid before", "clock"]),
            (&full, &good_key, NOW_S + 50 * day, "warning", ["expires in 11 days", "renewal"]),
            (&alone, &good_key, NOW_S, "warning", ["holds no chain", "full chain"]),
            (&swapped, &good_key, NOW_S, "error", ["is out of order", "first"]),
            (&mail, &mail_key, NOW_S, "error", ["is for mail.example.com, not for voice.example.com", "sip.domain"]),
        ] {
            let said = folder.look(certificate, key, now_s);
            let fits = |line: &String| line.starts_with(level) && words.iter().all(|word| line.contains(word));
            assert!(said.iter().any(fits), "{words:?} is not in {said:#?}");
            assert!(
                said.iter().all(|line| line.contains("sip.") && line.contains(folder.0.to_str().unwrap())),
                "{said:#?}"
            );
            assert!(!said.iter().any(|line| line.starts_with("ok")), "{said:#?}");
        }
        // One that nobody has signed.
        let lonely = rcgen::generate_simple_self_signed(vec!["voice.example.com".to_owned()]).unwrap();
        let certificate = folder.write("self.pem", &lonely.cert.pem());
        let key = folder.write("self.key", &lonely.signing_key.serialize_pem());
        let said = folder.look(&certificate, &key, NOW_S);
        assert!(said.len() == 1 && said[0].contains("signed by itself: browsers will not connect"), "{said:#?}");
    }

    #[test]
    fn a_file_of_authorities_must_hold_some() {
        let folder = Folder::new("trusted");
        let path = folder.write("trusted.pem", &made("x").1);
        assert_eq!(authorities("sip.trusted", &path).level, Level::Good);
        let finding = authorities("sip.trusted", &folder.write("none.pem", ""));
        assert!(finding.level == Level::Bad && finding.text.contains("name a PEM file"), "{finding}");
    }
}
