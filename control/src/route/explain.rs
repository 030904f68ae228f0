//! `tandem route`: what a call to a number would meet, in words.

use super::{Asked, Destination, Load, Routes, Source};
use crate::whatsapp::graph::Callee;
use engine::time::Instant;
use std::fmt::Write;

/// Who is taken to call, from the command line: nobody in particular, `whatsapp`, `trunk:NAME` or `user:NAME`.
pub fn source(routes: &Routes, text: Option<&str>) -> Result<Source, String> {
    match text.map(|text| text.split_once(':').unwrap_or((text, ""))) {
        // A user that is in no configuration: one who may call out.
        None | Some(("users", "")) => Ok(Source::User(String::new())),
        Some(("whatsapp", "")) => Ok(Source::Whatsapp),
        Some(("trunk", name)) => {
            let found = routes.trunks().find(|(_, trunk)| trunk.name == name);
            found.map(|(id, _)| Source::Trunk(id)).ok_or_else(|| format!("no trunk is called {name}"))
        }
        Some(("user", name)) if routes.users.contains_key(name) => Ok(Source::User(name.to_owned())),
        Some(("user", name)) => Err(format!("no user is called {name}")),
        Some(_) => Err("the source is whatsapp, trunk:NAME or user:NAME".to_owned()),
    }
}

/// What would be tried, in order, and why nothing else.
pub fn explain(routes: &Routes, asked: &Asked) -> String {
    let found = routes.destinations(Instant::ZERO, &Load::default(), asked);
    let mut text = String::new();
    let number = routes.numbering.e164(&asked.dialed).filter(|number| *number != asked.dialed);
    let number = number.map_or(String::new(), |number| format!(" ({number})"));
    let source = match &asked.source {
        Source::Whatsapp => "WhatsApp".to_owned(),
        Source::Trunk(id) => format!("trunk {}", routes.trunk(*id).map_or("?", |trunk| &trunk.name)),
        Source::User(name) if name.is_empty() => "a user".to_owned(),
        Source::User(name) => format!("user {name}"),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}{number}, called from {source}:", asked.dialed);
    let taken: Vec<_> = found.considered.iter().filter(|considered| considered.taken).collect();
    for (at, (destination, considered)) in found.destinations.iter().zip(&taken).enumerate() {
        let _ = writeln!(text, "  {}. {}: {}", at + 1, considered.subject, considered.why);
        for line in details(routes, asked, destination) {
            let _ = writeln!(text, "     {line}");
        }
    }
    if taken.is_empty() {
        let _ = writeln!(text, "  goes nowhere: the caller gets 404");
    }
    let left: Vec<_> = found.considered.iter().filter(|considered| !considered.taken).collect();
    if !left.is_empty() {
        let _ = writeln!(text, "not taken:");
    }
    for considered in left {
        let _ = writeln!(text, "  {}: {}", considered.subject, considered.why);
    }
    text
}

fn details(routes: &Routes, asked: &Asked, destination: &Destination) -> Vec<String> {
    match destination {
        Destination::Trunk(id) => {
            let Some(trunk) = routes.trunk(*id) else { return Vec::new() };
            if trunk.whatsapp.is_some() {
                let number = routes.numbering.e164(&asked.dialed);
                let callee = number.or_else(|| Callee::scoped(&asked.dialed).map(|_| asked.dialed.clone()));
                return vec![match callee {
                    Some(callee) => format!("asks Graph to connect {callee}, who must have given a call permission"),
                    None => "what was dialed is no number in E.164: 484".to_owned(),
                }];
            }
            let caller = match &asked.source {
                Source::User(name) if !name.is_empty() => routes.caller_of_user(name),
                _ => super::Caller { user: asked.from.clone(), display: None },
            };
            let shown = trunk.caller_id(&caller, &routes.numbering).user;
            let mut lines = vec![format!("INVITE {}", trunk.target(&asked.dialed, &routes.numbering))];
            lines.extend(trunk.proxy.as_ref().map(|proxy| format!("sent to {proxy}")));
            if !shown.is_empty() {
                lines.push(format!("shows {shown} as the caller"));
            }
            lines
        }
        Destination::User(_) => Vec::new(),
        Destination::Group(name) => {
            let users = routes.groups.get(name).map(|group| group.users.join(", "));
            users.map(|users| format!("rings {users}")).into_iter().collect()
        }
        Destination::Uri(uri) => vec![format!("INVITE {uri}")],
    }
}
