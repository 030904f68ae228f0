//! The DNS: NAPTR, SRV, A and AAAA, as the system is configured, with its cache and its hosts file.

use crate::sip::locate::{ADDRESSES_MAX, NAPTR_MAX, Naptr, Question, Records, SRV_TARGETS_MAX, Srv};
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::{RData, RecordType};
use std::time::Duration;

/// Time one server has for one question.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(900);

/// Questions to the same servers before they count as silent.
const ATTEMPTS_MAX: usize = 2;

/// Time for one question in all.
const QUESTION_TIME_MAX: Duration = Duration::from_secs(2);

/// Asks the DNS. Cheap to clone.
#[derive(Clone)]
pub struct Resolver {
    /// `None`: the system names no servers, so only the C library can be asked, for addresses.
    inner: Option<TokioResolver>,
}

impl Resolver {
    /// A resolver as the system is configured.
    pub fn new() -> Resolver {
        let inner = TokioResolver::builder_tokio().ok().map(|mut builder| {
            let options = builder.options_mut();
            options.timeout = ANSWER_TIME_MAX;
            options.attempts = ATTEMPTS_MAX;
            // The order of SRV and addresses is ours to draw.
            options.ip_strategy = hickory_resolver::config::LookupIpStrategy::Ipv4AndIpv6;
            builder.build()
        });
        Resolver { inner }
    }

    /// Asks one question. Failures of any kind count as no records.
    pub async fn ask(&self, question: &Question) -> Records {
        let asked = async {
            match (&self.inner, question) {
                (Some(resolver), Question::Naptr(name)) => naptr(resolver, name).await,
                (Some(resolver), Question::Srv(name)) => srv(resolver, name).await,
                (Some(resolver), Question::Address(name)) => addresses(resolver, name).await,
                (None, Question::Address(name)) => system_addresses(name).await,
                (None, _) => None,
            }
        };
        tokio::time::timeout(QUESTION_TIME_MAX, asked).await.ok().flatten().unwrap_or(Records::Nothing)
    }
}

impl Default for Resolver {
    fn default() -> Resolver {
        Resolver::new()
    }
}

async fn naptr(resolver: &TokioResolver, name: &str) -> Option<Records> {
    let answer = resolver.lookup(absolute(name), RecordType::NAPTR).await.ok()?;
    let records = answer.iter().filter_map(|record| match record {
        RData::NAPTR(naptr) if naptr.flags().eq_ignore_ascii_case(b"s") => Some(Naptr {
            order: naptr.order(),
            preference: naptr.preference(),
            services: String::from_utf8_lossy(naptr.services()).into_owned(),
            replacement: naptr.replacement().to_ascii(),
        }),
        _ => None,
    });
    Some(Records::Naptr(records.take(NAPTR_MAX).collect()))
}

async fn srv(resolver: &TokioResolver, name: &str) -> Option<Records> {
    let answer = resolver.srv_lookup(absolute(name)).await.ok()?;
    let records = answer.iter().map(|srv| Srv {
        priority: srv.priority(),
        weight: srv.weight(),
        port: srv.port(),
        target: srv.target().to_ascii(),
    });
    Some(Records::Srv(records.take(2 * SRV_TARGETS_MAX).collect()))
}

async fn addresses(resolver: &TokioResolver, name: &str) -> Option<Records> {
    match resolver.lookup_ip(name).await {
        Ok(answer) => Some(Records::Addresses(answer.iter().take(ADDRESSES_MAX).collect())),
        // Names that only the system's own sources know: mDNS, NIS, a container's.
        Err(_) => system_addresses(name).await,
    }
}

async fn system_addresses(name: &str) -> Option<Records> {
    let answer = tokio::net::lookup_host((name, 0)).await.ok()?;
    Some(Records::Addresses(answer.map(|address| address.ip()).take(ADDRESSES_MAX).collect()))
}

/// With its final dot, so that no search domain is tried.
fn absolute(name: &str) -> String {
    if name.ends_with('.') { name.to_owned() } else { format!("{name}.") }
}
