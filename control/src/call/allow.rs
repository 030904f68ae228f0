//! What a request may name: destinations and callback URLs. Both come from whoever can reach the edge API, and both make this
//! program send something somewhere, so nothing is allowed that was not configured (loopback callbacks aside).

/// Whether `uri` begins with an allowed prefix that ends where a part of a SIP URI ends, so that `sip:bot@bots.example` does not
/// allow `sip:bot@bots.example.net`.
pub(super) fn destination(uri: &str, allowed: &[String]) -> bool {
    let clean = uri.len() <= 256
        && uri.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"' | b','));
    clean && allowed.iter().any(|prefix| begins(uri, prefix, &[';', ':', '?'], &['@', ':', ';']))
}

/// Whether `url` is on this host, or begins with an allowed prefix that ends where a part of a URL ends.
pub(super) fn callback(url: &str, allowed: &[String]) -> bool {
    if url.len() > 1_024 || !url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return false;
    }
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return false; // http://127.0.0.1@elsewhere.example/
    }
    is_loopback(authority) || allowed.iter().any(|prefix| begins(url, prefix, &['/', '?', ':'], &['/']))
}

fn begins(text: &str, prefix: &str, next: &[char], last: &[char]) -> bool {
    !prefix.is_empty()
        && text
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(next) || prefix.ends_with(last))
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_callbacks_need_no_permission_and_nothing_else_passes_for_loopback() {
        for url in ["http://127.0.0.1:3000/edge/events", "http://[::1]/e", "http://localhost:1", "https://127.9.9.9/x"]
        {
            assert!(callback(url, &[]), "{url}");
        }
        for url in [
            "http://127.0.0.1@evil.example/",
            "http://127.0.0.1.evil.example/",
            "http://evil.example/127.0.0.1",
            "ftp://127.0.0.1/",
            "http://localhost.evil.example/",
            "http://10.0.0.1/",
            "http://127.0.0.1\\@evil.example/",
            "",
        ] {
            assert!(!callback(url, &[]), "{url}");
        }
    }

    #[test]
    fn an_allowed_prefix_ends_where_a_part_of_the_address_ends() {
        let urls = ["https://orchestrator.example".to_owned()];
        assert!(callback("https://orchestrator.example/edge/events", &urls));
        assert!(callback("https://orchestrator.example:8443/edge/events", &urls));
        assert!(!callback("https://orchestrator.example.evil.example/", &urls));
        let uris = ["sip:bot@bots.example".to_owned(), "sip:queue-".to_owned()];
        assert!(destination("sip:bot@bots.example;transport=udp", &uris));
        assert!(!destination("sip:bot@bots.example.evil.example", &uris));
        assert!(!destination("sip:bot@bots.example;x=\r\nVia: y", &uris));
        assert!(!destination("sip:queue-1@bots.example", &uris));
    }

    #[test]
    fn without_configuration_no_destination_is_allowed() {
        assert!(!destination("sip:bot@127.0.0.1", &[]));
        assert!(!destination("sip:bot@127.0.0.1", &[String::new()]));
    }
}
