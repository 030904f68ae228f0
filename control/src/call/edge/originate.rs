//! `POST /calls`: a program has a user of WhatsApp called, and connected to a bot, a softphone or a trunk.

use super::{Edge, Talk};
use crate::call::exchange::{Exchange, Origin};
use crate::call::hunt::Way;
use crate::call::machine::CallEnd;
use crate::call::{EdgeError, limits};
use crate::route::Destination;
use crate::whatsapp::graph::Callee;
use engine::time::Instant;
use serde::Deserialize;

/// What the ids of such calls begin with.
const PREFIX: &str = "api-";

/// Longest number or id that is called.
const TO_BYTES_MAX: usize = 128;

/// `POST /calls`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct NewCall {
    /// A number in E.164, or as `[numbers]` makes it so; or a business-scoped user id.
    pub to: String,
    /// The account that calls; not needed where there is only one that may.
    #[serde(default)]
    pub account: Option<String>,
    /// Whom the user is connected to: a route's name, `user:`, `group:` or `trunk:` and a name, or a SIP URI that is allowed. Else the
    /// default route.
    #[serde(default)]
    pub destination: Option<String>,
    /// What a trunk dials.
    #[serde(default)]
    pub number: Option<String>,
}

impl Edge {
    /// Begins such a call; answers its id, which names its timeline.
    pub fn originate(&mut self, now: Instant, new: NewCall) -> Result<String, EdgeError> {
        if self.draining {
            return Err(EdgeError::busy(503, "draining", "the program is about to stop"));
        }
        if self.sessions.len() >= self.config.sessions_max {
            return Err(EdgeError::busy(503, "full", "the limit of calls is reached"));
        }
        let routes = &self.gate.routes;
        let is_callable = new.to.len() <= TO_BYTES_MAX
            && (routes.numbering.e164(&new.to).is_some() || Callee::scoped(&new.to).is_some());
        if !is_callable {
            let words = "to is neither a number in E.164 nor a business-scoped user id";
            return Err(EdgeError::new(422, "bad_number", words));
        }
        let near = self.account(new.account.as_deref())?;
        let far = match (&new.destination, &self.config.default_route) {
            (Some(destination), _) => self.named_way(destination)?,
            (None, Some(route)) => Way::Route(Box::new(route.clone())),
            (None, None) => {
                return Err(EdgeError::new(422, "no_route", "no default route is configured: name a destination"));
            }
        };
        if matches!(&far, Way::To(Destination::Trunk(_))) && new.number.is_none() {
            return Err(EdgeError::new(422, "no_number", "a trunk must be told whom to call: write number"));
        }
        let call_id = format!("{PREFIX}{}", self.random.token(22));
        let number = new.number.unwrap_or_default();
        let origin = Origin { call_id: call_id.clone(), to: new.to, near, far: vec![far], number };
        let (number, worker) = self.take_number();
        let exchange = Exchange::originate(&mut self.context(now, number, worker), origin).map_err(|refusal| {
            let words = refusal.warning.unwrap_or_default();
            EdgeError::busy(503, "no_way", words)
        })?;
        self.enter(now, number, worker, Talk::Exchange(Box::new(exchange)));
        Ok(call_id)
    }

    /// Ends such a call; answers whether there is one of that id.
    pub fn hang_up(&mut self, now: Instant, call_id: &str) -> bool {
        let is_it = |talk: &Talk| call_id.starts_with(PREFIX) && talk.call_id() == call_id;
        let Some((&number, _)) = self.sessions.iter().find(|(_, entered)| is_it(&entered.talk)) else { return false };
        let end = CallEnd::new("tandem", "hangup", "whoever asked for the call has ended it");
        self.with(now, number, |talk, cx| talk.end(cx, end));
        true
    }

    /// The account that calls.
    fn account(&self, name: Option<&str>) -> Result<Destination, EdgeError> {
        let callers = || self.gate.routes.trunks().filter_map(|(id, trunk)| Some((id, trunk.whatsapp.as_ref()?)));
        let found = match name {
            Some(name) => callers().find(|(_, whatsapp)| whatsapp.account == name),
            None if callers().count() > 1 => {
                return Err(EdgeError::new(422, "no_account", "several accounts may call: name one"));
            }
            None => callers().next(),
        };
        let words = "no such account may call users: write outbound = true in its section";
        found.map(|(id, _)| Destination::Trunk(id)).ok_or_else(|| EdgeError::new(422, "no_account", words))
    }
}

/// Longest body of a request.
pub const NEW_CALL_BYTES_MAX: usize = 4 * 1_024;
const _: () = assert!(NEW_CALL_BYTES_MAX > 2 * TO_BYTES_MAX + limits::CALL_ID_BYTES_MAX);
