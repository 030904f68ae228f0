//! The agent: states, decisions, and the one drain.

use super::consent::Consent;
use super::pairs::{CHECK_SENDS_MAX, PEER_REFLEXIVE_PRIORITY, PairTable, RTO_MS_MAX, Transaction};
use super::stun::{
    Class, IntegrityKey, Message, ReadError, RoleAttribute, TransactionId, USERNAME_BYTES_MAX, UnknownTypes, Writer,
};
use crate::error::DropReason;
use crate::limits::{ICE_MS_MAX, MEDIA_MS_MAX, REMOTE_CANDIDATES_MAX};
use crate::random::Random;
use crate::sdp::IceDescription;
use crate::time::Instant;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

/// Least time between two checks of one agent (Ta of RFC 8445 §14.2: never below 5 ms). The nominating check waits for it, and with it
/// everything that follows.
const PACE_MS: u64 = 5;

/// How long a controlling agent that has a valid pair waits for a better one.
const NOMINATION_WAIT_MS: u64 = 80;

/// Answers waiting for `poll_output`. The owner drains after every datagram; past it an answer is not given, and the
/// peer sends its check again.
const REPLIES_MAX: usize = 8;

/// Answers that have their place from the start: the owner drains after each datagram.
const REPLIES_USUAL: usize = 2;

/// Transactions that try to nominate one pair. The peer may have heard the first and lost only its answers: turning to
/// another pair would be a switch to it, so the pair is given up late (after about six seconds).
const NOMINATION_TRANSACTIONS_MAX: u32 = 2;

/// How long after the first nomination a controlled agent takes a later one for a peer that nominates every pair it checks.
/// Shorter than a peer of our kind takes to give up a pair.
const NOMINATIONS_SETTLE_MS: u64 = 2_000;
const _: () = assert!(NOMINATIONS_SETTLE_MS < (CHECK_SENDS_MAX * NOMINATION_TRANSACTIONS_MAX - 3) as u64 * RTO_MS_MAX);

/// What the agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IceRole {
    /// Answers checks, never sends one (RFC 8445 §2.5): toward browsers and softphones.
    Lite,
    /// Sends checks and nominates once (regular nomination, no switch later): toward WhatsApp.
    Controlling,
    /// Full agent that starts as controlled: toward a full offerer. A role conflict may turn it (RFC 8445 §7.3.1.1).
    Controlled,
}

/// Our half of the credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IceCredentials {
    /// At least 4 characters (RFC 8839 §5.4).
    pub ufrag: String,
    /// At least 22 characters.
    pub pwd: String,
}

/// Characters of our ufrag: 47 bits (RFC 8839 §5.4 wants 24).
const UFRAG_LENGTH: usize = 8;

/// Characters of our password: 142 bits (RFC 8839 §5.4 wants 128).
const PWD_LENGTH: usize = 24;

impl IceCredentials {
    /// Fresh ones, for a leg or for a restart.
    pub fn draw(random: &mut Random) -> IceCredentials {
        IceCredentials { ufrag: random.token(UFRAG_LENGTH), pwd: random.token(PWD_LENGTH) }
    }
}

/// What `poll_output` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IceOutput {
    /// `out[..len]` is to be sent to `to`.
    Transmit {
        /// Where.
        to: SocketAddr,
        /// How much of `out`.
        len: usize,
    },
    /// The one pair that media uses: DTLS may start. For a lite agent a browser may move it later (USE-CANDIDATE on another
    /// pair). Never before `set_remote`.
    Nominated(SocketAddr),
    /// No pair was nominated in `ICE_MS_MAX`. A full agent counts from `set_remote`, a lite one from the peer's first check
    /// (or gives up `MEDIA_MS_MAX` after `set_remote` if none comes, since its answer may wait for a person).
    Failed,
    /// Consent expired (a full agent), 30 s after the last answer.
    ConsentLost,
    /// Nothing to do before this instant.
    Timeout(Instant),
}

/// The peer, once its description is known.
struct Remote {
    /// Its pwd: signs our checks and its answers.
    key: IntegrityKey,
    /// `its ufrag:our ufrag` (RFC 8445 §7.2.2); empty when too long to be written.
    username: Vec<u8>,
    lite: bool,
}

/// An answer that waits to be written.
#[derive(Clone, Copy)]
struct Reply {
    to: SocketAddr,
    id: TransactionId,
    kind: ReplyKind,
}

#[derive(Clone, Copy)]
enum ReplyKind {
    Success,
    /// To a request that was authenticated: 420 or 487.
    Refusal(u16, UnknownTypes),
    /// To one that was not (400, 401): it cannot carry MESSAGE-INTEGRITY.
    Stranger(u16),
}

/// One leg's ICE agent. One component, one local socket.
pub struct IceAgent {
    role: IceRole,
    local: IceCredentials,
    /// Our pwd: verifies the peer's checks and signs our answers.
    local_key: IntegrityKey,
    tie_breaker: u64,
    random: Random,
    remote: Option<Remote>,
    pairs: PairTable,
    replies: VecDeque<Reply>,
    /// Pacing: no check before this.
    next_check_at: Instant,
    /// Set by the first valid pair of a controlling agent.
    nominate_at: Instant,
    /// The pair whose check carries USE-CANDIDATE.
    nominating: Option<usize>,
    /// Nominating transactions that nobody answered.
    nominations_in_vain: u32,
    nominated: Option<SocketAddr>,
    nominated_is_new: bool,
    nominations_settle_at: Instant,
    /// When ICE fails unless a pair is nominated.
    deadline: Instant,
    consent: Option<Consent>,
    /// The last event; afterwards the agent is mute.
    end: Option<IceOutput>,
    is_over: bool,
    last_heard: Option<Instant>,
    round_trip_ms: Option<u32>,
}

impl IceAgent {
    /// `random` feeds transaction ids and the tie-breaker.
    pub fn new(now: Instant, role: IceRole, local: IceCredentials, mut random: Random) -> IceAgent {
        IceAgent {
            role,
            local_key: IntegrityKey::new(&local.pwd),
            local,
            tie_breaker: random.next_u64(),
            random,
            remote: None,
            pairs: PairTable::new(),
            replies: VecDeque::with_capacity(REPLIES_USUAL),
            next_check_at: now,
            nominate_at: Instant::NEVER,
            nominating: None,
            nominations_in_vain: 0,
            nominated: None,
            nominated_is_new: false,
            nominations_settle_at: Instant::NEVER,
            deadline: Instant::NEVER,
            consent: None,
            end: None,
            is_over: false,
            last_heard: None,
            round_trip_ms: None,
        }
    }

    /// What `local` was.
    pub fn local(&self) -> &IceCredentials {
        &self.local
    }

    /// The role in force (a conflict may have changed it).
    pub fn role(&self) -> IceRole {
        self.role
    }

    /// Gives the peer's credentials and candidates; a full agent begins its checks. Later calls are ignored: an ICE
    /// restart is a new agent beside this one, on the same socket.
    pub fn set_remote(&mut self, now: Instant, remote: &IceDescription) {
        if self.remote.is_some() || self.is_over {
            return;
        }
        let username = [remote.ufrag.as_bytes(), b":", self.local.ufrag.as_bytes()].concat();
        self.remote = Some(Remote {
            key: IntegrityKey::new(&remote.pwd),
            username: if username.len() <= USERNAME_BYTES_MAX { username } else { Vec::new() },
            lite: remote.lite,
        });
        if self.role == IceRole::Lite {
            let patience_ms = if self.last_heard.is_some() { ICE_MS_MAX } else { MEDIA_MS_MAX };
            self.deadline = now.plus_millis(patience_ms);
            return;
        }
        if remote.lite {
            self.role = IceRole::Controlling; // toward a lite peer the full agent controls, whoever offered (RFC 8445 §6.1.1)
        }
        self.deadline = now.plus_millis(ICE_MS_MAX);
        self.next_check_at = now;
        for pair in self.pairs.as_mut_slice() {
            pair.prod(now); // sources that checked us before their description came
        }
        for candidate in remote.candidates.iter().take(REMOTE_CANDIDATES_MAX) {
            let address = canonical(candidate.address);
            if !is_checkable(address) {
                continue;
            }
            if let Some(index) = self.pairs.find_or_add(now, address, candidate.priority, None) {
                let pair = &mut self.pairs.as_mut_slice()[index];
                pair.remote_priority = candidate.priority;
                pair.due = now;
            }
        }
    }

    /// Takes a datagram that `demux::classify` called STUN. Every authenticated message counts as a sign of life.
    ///
    /// Drain `poll_output` after an error too: a stranger's well-formed request is answered (RFC 8489 §9.1.3).
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Result<(), DropReason> {
        let from = canonical(from);
        let message = Message::parse(datagram).map_err(|error| match error {
            ReadError::Malformed => DropReason::StunMalformed,
            ReadError::Fingerprint => DropReason::StunAuthFailed,
            ReadError::Method => DropReason::StunUnknown,
        })?;
        if self.is_over {
            return Err(DropReason::StunUnknown);
        }
        match message.class {
            Class::Request => self.handle_request(now, from, &message),
            // A keep-alive (RFC 8445 §11). It carries no integrity, so it is no sign of life either.
            Class::Indication => Ok(()),
            Class::Success => self.handle_success(now, from, &message),
            Class::Error => self.handle_error(now, from, &message),
        }
    }

    /// Call when the instant of the last `Timeout` has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.is_over {
            return;
        }
        if self.nominated.is_none() && self.deadline <= now {
            self.finish(IceOutput::Failed);
        } else if self.consent.as_ref().is_some_and(|consent| consent.is_expired(now)) {
            self.finish(IceOutput::ConsentLost);
        } else {
            self.nominate_if_ready(now);
        }
    }

    /// Call until `Timeout`. Allocates nothing. `out` holds at least 640 bytes.
    pub fn poll_output(&mut self, now: Instant, out: &mut [u8]) -> IceOutput {
        self.handle_timeout(now);
        if let Some(end) = self.end.take() {
            return end;
        }
        if self.is_over {
            return IceOutput::Timeout(Instant::NEVER);
        }
        if let Some(reply) = self.replies.pop_front() {
            return IceOutput::Transmit { to: reply.to, len: self.write_reply(&reply, out) };
        }
        if let (true, Some(address)) = (self.nominated_is_new, self.nominated()) {
            self.nominated_is_new = false;
            return IceOutput::Nominated(address);
        }
        if let Some(output) = self.poll_check(now, out) {
            return output;
        }
        if let Some(output) = self.poll_consent(now, out) {
            return output;
        }
        IceOutput::Timeout(self.next_deadline())
    }

    /// The nominated remote address; like the event, not before the peer's description is known.
    pub fn nominated(&self) -> Option<SocketAddr> {
        self.remote.as_ref().and(self.nominated)
    }

    /// Whether a datagram that `demux::classify` called STUN is for this agent, by ufrag or transaction id: after a restart
    /// there are two of them.
    pub fn is_addressed_by(&self, datagram: &[u8]) -> bool {
        let Ok(message) = Message::parse(datagram) else { return false };
        let has_asked = |id: &TransactionId| {
            let pairs = self.pairs.as_slice().iter();
            pairs.filter_map(|pair| pair.transaction).any(|transaction| transaction.id == *id)
                || self.consent.as_ref().is_some_and(|consent| consent.sent_at(id).is_some())
        };
        match message.class {
            Class::Request => message.username.is_some_and(|username| {
                username.split(|byte| *byte == b':').next() == Some(self.local.ufrag.as_bytes())
            }),
            Class::Indication => false,
            Class::Success | Class::Error => has_asked(&message.id),
        }
    }

    /// Whether `address` answered or sent an authenticated check: media from it is acceptable.
    pub fn is_known_source(&self, address: SocketAddr) -> bool {
        let address = canonical(address);
        self.pairs.as_slice().iter().any(|pair| pair.remote == address && pair.heard_at.is_some())
    }

    /// When the last authenticated message from the peer came.
    pub fn last_heard(&self) -> Option<Instant> {
        self.last_heard
    }

    /// When the nominated peer last answered a check of a full agent.
    pub fn consented_at(&self) -> Option<Instant> {
        self.consent.as_ref().map(Consent::given_at)
    }

    /// Round trip of the last answered check, ms. A check that was sent more than once does not count: which send was
    /// answered is unknown (Karn's rule).
    pub fn round_trip_ms(&self) -> Option<u32> {
        self.round_trip_ms
    }

    // ---- the peer's checks (RFC 8445 §7.3)

    fn handle_request(&mut self, now: Instant, from: SocketAddr, message: &Message<'_>) -> Result<(), DropReason> {
        // RFC 8489 §9.1.3: no credentials is 400, wrong ones are 401, and neither moves any state.
        let Some(username) = message.username.filter(|_| message.has_integrity()) else {
            self.reply(from, message.id, ReplyKind::Stranger(400));
            return Err(DropReason::StunAuthFailed);
        };
        // Only our half is fixed (RFC 8445 §7.3): the other is not known before the peer's description.
        let ours = username.split(|byte| *byte == b':').next().unwrap_or_default();
        if ours != self.local.ufrag.as_bytes() || ours.len() == username.len() {
            self.reply(from, message.id, ReplyKind::Stranger(401));
            return Err(DropReason::StunUnknown);
        }
        if !message.verify(&self.local_key) {
            self.reply(from, message.id, ReplyKind::Stranger(401));
            return Err(DropReason::StunAuthFailed);
        }
        if !message.unknown.as_slice().is_empty() {
            self.hear(now);
            self.reply(from, message.id, ReplyKind::Refusal(420, message.unknown));
            return Ok(());
        }
        let priority = message.priority.unwrap_or(PEER_REFLEXIVE_PRIORITY);
        let index = self.pairs.find_or_add(now, from, priority, self.nominated).ok_or(DropReason::StunUnknown)?;
        self.hear_from(now, index);
        if self.loses_role_conflict(message.role) {
            self.reply(from, message.id, ReplyKind::Refusal(487, UnknownTypes::default()));
            return Ok(());
        }
        self.reply(from, message.id, ReplyKind::Success);
        match self.role {
            IceRole::Lite if message.use_candidate => self.nominate(now, index),
            IceRole::Lite => {}
            IceRole::Controlling | IceRole::Controlled => self.react_to_check(now, index, message.use_candidate),
        }
        Ok(())
    }

    /// Settles a role conflict (RFC 8445 §7.3.1.1). True when the peer must give in: it is told 487.
    fn loses_role_conflict(&mut self, role: Option<RoleAttribute>) -> bool {
        // Once a pair is nominated both sides have agreed on who controls: what conflicts now is late, or wrong.
        let is_settled = self.nominated.is_some() || self.remote.as_ref().is_some_and(|remote| remote.lite);
        match (self.role, role) {
            // A lite agent is controlled whatever the tie-breaker says (RFC 8445 §6.1.1).
            (IceRole::Lite, Some(RoleAttribute::Controlled(_))) => true,
            (IceRole::Controlling, Some(RoleAttribute::Controlling(theirs))) => {
                let we_stay = is_settled || self.tie_breaker >= theirs;
                if !we_stay {
                    self.switch_role(IceRole::Controlled);
                }
                we_stay
            }
            (IceRole::Controlled, Some(RoleAttribute::Controlled(theirs))) => {
                let we_turn = !is_settled && self.tie_breaker >= theirs;
                if we_turn {
                    self.switch_role(IceRole::Controlling);
                }
                !we_turn
            }
            _ => false,
        }
    }

    fn switch_role(&mut self, role: IceRole) {
        self.role = role;
        self.nominating = None;
        self.nominate_at = Instant::NEVER;
        for pair in self.pairs.as_mut_slice() {
            pair.wanted = false;
            if pair.valid {
                pair.rest();
            }
        }
    }

    /// A full agent checks back (RFC 8445 §7.3.1.4) and, when controlled, follows a nomination (§7.3.1.5).
    fn react_to_check(&mut self, now: Instant, index: usize, use_candidate: bool) {
        let is_controlled = self.role == IceRole::Controlled;
        let pair = &mut self.pairs.as_mut_slice()[index];
        if pair.valid {
            if is_controlled && use_candidate {
                self.follow(now, index);
            }
            return;
        }
        pair.wanted |= is_controlled && use_candidate;
        let is_of_use = self.nominated.is_none() || pair.wanted;
        let peer_is_full = self.remote.as_ref().is_some_and(|remote| !remote.lite);
        if is_of_use && peer_is_full {
            pair.prod(now);
        }
    }

    /// The controlling peer nominated a valid pair. The first counts at once. Soon after it only better pairs count: a peer
    /// that nominates every pair it checks means the best of them (RFC 5245 §8.1.1.2). Later ones mean a move.
    fn follow(&mut self, now: Instant, index: usize) {
        let pairs = self.pairs.as_slice();
        let current = self.nominated.and_then(|address| self.pairs.position(address)).map(|current| &pairs[current]);
        let moves = current.is_none_or(|current| {
            now >= self.nominations_settle_at || pairs[index].priority(false) > current.priority(false)
        });
        if moves {
            self.nominate(now, index);
        }
    }

    fn reply(&mut self, to: SocketAddr, id: TransactionId, kind: ReplyKind) {
        if self.replies.len() < REPLIES_MAX {
            self.replies.push_back(Reply { to, id, kind });
        }
    }

    fn write_reply(&self, reply: &Reply, out: &mut [u8]) -> usize {
        let class = if matches!(reply.kind, ReplyKind::Success) { Class::Success } else { Class::Error };
        let mut writer = Writer::new(out, class, &reply.id);
        match &reply.kind {
            ReplyKind::Success => {
                writer.xor_mapped_address(reply.to, &reply.id);
                writer.integrity(&self.local_key);
            }
            ReplyKind::Refusal(code, unknown) => {
                writer.error_code(*code);
                if !unknown.as_slice().is_empty() {
                    writer.unknown_attributes(unknown);
                }
                writer.integrity(&self.local_key);
            }
            ReplyKind::Stranger(code) => writer.error_code(*code),
        }
        writer.finish()
    }

    // ---- answers to our checks (RFC 8445 §7.2.5)

    fn handle_success(&mut self, now: Instant, from: SocketAddr, message: &Message<'_>) -> Result<(), DropReason> {
        if self.renew_consent(now, from, message)? {
            return Ok(());
        }
        let (index, transaction) = self.answered(from, message)?;
        if !message.unknown.as_slice().is_empty() {
            return Err(DropReason::StunUnknown); // RFC 8489 §6.3.3: discarded
        }
        self.hear_from(now, index);
        if transaction.sends == 1 {
            self.round_trip_ms = Some(now.since(transaction.sent_at).as_millis() as u32);
        }
        let pair = &mut self.pairs.as_mut_slice()[index];
        pair.rest();
        pair.valid = true;
        let is_wanted = std::mem::take(&mut pair.wanted);
        match self.role {
            IceRole::Controlling if self.nominated.is_none() => {
                if transaction.use_candidate && transaction.controlling && self.nominating == Some(index) {
                    self.nominate(now, index);
                } else {
                    self.prod_better_pairs(now, index);
                    self.nominate_at = self.nominate_at.min(now.plus_millis(NOMINATION_WAIT_MS));
                    self.nominate_if_ready(now);
                }
            }
            IceRole::Controlled if is_wanted => self.follow(now, index),
            _ => {}
        }
        Ok(())
    }

    /// The peer is there: what it might answer on better pairs is worth asking now, not at their next retransmission.
    fn prod_better_pairs(&mut self, now: Instant, index: usize) {
        let than = self.pairs.as_slice()[index].priority(true);
        for pair in self.pairs.as_mut_slice() {
            if !pair.valid && pair.priority(true) > than {
                pair.prod(now);
            }
        }
    }

    fn handle_error(&mut self, now: Instant, from: SocketAddr, message: &Message<'_>) -> Result<(), DropReason> {
        if self.renew_consent(now, from, message)? {
            return Ok(());
        }
        let (index, transaction) = self.answered(from, message)?;
        self.hear_from(now, index);
        let peer_is_lite = self.remote.as_ref().is_some_and(|remote| remote.lite);
        let is_role_conflict = message.error == Some(487) && !peer_is_lite && self.nominated.is_none();
        let pair = &mut self.pairs.as_mut_slice()[index];
        if !is_role_conflict {
            // Refused for a reason we cannot mend: ask again under another id when the peer had time to change its mind.
            pair.transaction = None;
            return Ok(());
        }
        pair.trigger(now);
        // Only if the role did not change since the check was sent (RFC 8445 §7.2.5.1).
        if transaction.controlling == (self.role == IceRole::Controlling) {
            self.tie_breaker = self.random.next_u64(); // RFC 8445 §16.1
            self.switch_role(if transaction.controlling { IceRole::Controlled } else { IceRole::Controlling });
            self.pairs.as_mut_slice()[index].trigger(now);
        }
        Ok(())
    }

    /// The pair and check that an authenticated answer belongs to. It must come from where the check went (RFC 8445
    /// §7.2.5.2.1): an answer from elsewhere proves nothing about the pair.
    fn answered(&self, from: SocketAddr, message: &Message<'_>) -> Result<(usize, Transaction), DropReason> {
        let remote = self.remote.as_ref().ok_or(DropReason::StunUnknown)?;
        let index = self.pairs.position(from).ok_or(DropReason::StunUnknown)?;
        let transaction = self.pairs.as_slice()[index].transaction.filter(|transaction| transaction.id == message.id);
        let transaction = transaction.ok_or(DropReason::StunUnknown)?;
        if !message.verify(&remote.key) {
            return Err(DropReason::StunAuthFailed);
        }
        Ok((index, transaction))
    }

    /// True when `message` answers a consent check. An authenticated error says that the peer is there, not that it
    /// consents (RFC 7675 §5.1).
    fn renew_consent(&mut self, now: Instant, from: SocketAddr, message: &Message<'_>) -> Result<bool, DropReason> {
        let (Some(remote), Some(consent)) = (&self.remote, &mut self.consent) else { return Ok(false) };
        let Some(sent_at) = consent.sent_at(&message.id) else { return Ok(false) };
        if self.nominated != Some(from) {
            return Err(DropReason::StunUnknown);
        }
        if !message.verify(&remote.key) {
            return Err(DropReason::StunAuthFailed);
        }
        if message.class == Class::Success {
            consent.renew(now, &message.id);
            self.round_trip_ms = Some(now.since(sent_at).as_millis() as u32);
        }
        if let Some(index) = self.pairs.position(from) {
            self.hear_from(now, index);
        }
        Ok(true)
    }

    fn hear_from(&mut self, now: Instant, index: usize) {
        self.hear(now);
        self.pairs.as_mut_slice()[index].heard_at = Some(now);
    }

    fn hear(&mut self, now: Instant) {
        if self.role == IceRole::Lite && self.last_heard.is_none() && self.remote.is_some() {
            self.deadline = now.plus_millis(ICE_MS_MAX); // the peer's first check
        }
        self.last_heard = Some(now);
    }

    // ---- nomination

    /// Regular nomination (RFC 8445 §8.1.1): once a valid pair leads, or a better one had its chance, that pair is checked
    /// again with USE-CANDIDATE.
    fn nominate_if_ready(&mut self, now: Instant) {
        if self.role != IceRole::Controlling || self.nominated.is_some() || self.nominating.is_some() {
            return;
        }
        let Some((index, leads)) = self.pairs.best_valid(true) else { return };
        self.nominate_at = self.nominate_at.min(now.plus_millis(NOMINATION_WAIT_MS));
        if leads || self.nominate_at <= now {
            self.nominating = Some(index);
            self.nominations_in_vain = 0;
            self.pairs.as_mut_slice()[index].trigger(now);
        }
    }

    fn nominate(&mut self, now: Instant, index: usize) {
        let pair = &mut self.pairs.as_mut_slice()[index];
        pair.valid = true;
        let address = pair.remote;
        if self.nominated == Some(address) {
            return;
        }
        if self.nominated.is_none() {
            self.nominations_settle_at = now.plus_millis(NOMINATIONS_SETTLE_MS);
        }
        self.nominated = Some(address);
        self.nominated_is_new = true;
        self.nominating = None;
        if self.role != IceRole::Lite {
            self.consent = Some(Consent::new(now, &mut self.random));
        }
        for pair in self.pairs.as_mut_slice() {
            if !pair.wanted {
                pair.rest();
            }
        }
    }

    fn finish(&mut self, end: IceOutput) {
        self.end = Some(end);
        self.is_over = true;
        self.replies.clear();
    }

    // ---- our checks

    /// Sends the next due check, at most one in `PACE_MS`, retransmissions included.
    fn poll_check(&mut self, now: Instant, out: &mut [u8]) -> Option<IceOutput> {
        if self.role == IceRole::Lite || self.remote.is_none() || now < self.next_check_at {
            return None;
        }
        let controlling = self.role == IceRole::Controlling;
        let index = match self.nominating {
            // While one pair is being nominated the others rest: if both succeeded, the peer would see a switch.
            Some(index) => Some(index).filter(|index| self.pairs.as_slice()[*index].due <= now),
            None => self.pairs.next_due(now, controlling),
        }?;
        if self.pairs.as_slice()[index].is_exhausted() {
            self.give_up_transaction(index);
        }
        let pair = &mut self.pairs.as_mut_slice()[index];
        if pair.due > now {
            return self.poll_check(now, out); // it was given up for good; each turn removes one due pair
        }
        let use_candidate = controlling && self.nominating == Some(index);
        let id = match pair.transaction {
            Some(transaction) if transaction.controlling == controlling => transaction.id,
            _ => {
                let mut id = [0; 12];
                self.random.fill(&mut id);
                pair.transaction = Some(Transaction { id, use_candidate, controlling, sends: 0, sent_at: now });
                id
            }
        };
        pair.book_send(now);
        let to = pair.remote;
        self.next_check_at = now.plus_millis(PACE_MS);
        let len = self.write_check(&id, use_candidate, out)?;
        Some(IceOutput::Transmit { to, len })
    }

    /// All sends of a transaction were in vain. Before nomination the pair starts over, and a pair that leaves its
    /// nomination unanswered has to prove itself again; afterwards it rests.
    fn give_up_transaction(&mut self, index: usize) {
        let is_settled = self.nominated.is_some();
        let pair = &mut self.pairs.as_mut_slice()[index];
        pair.transaction = None;
        if is_settled {
            pair.wanted = false;
            pair.rest();
        }
        if self.nominating == Some(index) {
            self.nominations_in_vain += 1;
            if self.nominations_in_vain == NOMINATION_TRANSACTIONS_MAX {
                self.nominating = None;
                pair.valid = false;
            }
        }
    }

    fn poll_consent(&mut self, now: Instant, out: &mut [u8]) -> Option<IceOutput> {
        let to = self.nominated?;
        let consent = self.consent.as_mut().filter(|consent| consent.is_due(now))?;
        let id = consent.begin(now, &mut self.random);
        let len = self.write_check(&id, false, out)?;
        Some(IceOutput::Transmit { to, len })
    }

    /// `None` when the peer's ufrag is too long to be written: its checks are answered, ours are not sent.
    fn write_check(&self, id: &TransactionId, use_candidate: bool, out: &mut [u8]) -> Option<usize> {
        let remote = self.remote.as_ref().filter(|remote| !remote.username.is_empty())?;
        let mut writer = Writer::new(out, Class::Request, id);
        writer.username(&remote.username);
        writer.priority(PEER_REFLEXIVE_PRIORITY);
        writer.role(match self.role {
            IceRole::Controlling => RoleAttribute::Controlling(self.tie_breaker),
            IceRole::Controlled | IceRole::Lite => RoleAttribute::Controlled(self.tie_breaker),
        });
        if use_candidate {
            writer.use_candidate();
        }
        writer.integrity(&remote.key);
        Some(writer.finish())
    }

    fn next_deadline(&self) -> Instant {
        let mut next = Instant::NEVER;
        if self.nominated.is_none() {
            next = self.deadline;
        }
        if let Some(consent) = &self.consent {
            next = next.min(consent.deadline());
        }
        if self.role != IceRole::Lite && self.remote.is_some() {
            let due = match self.nominating {
                Some(index) => self.pairs.as_slice()[index].due,
                None => self.pairs.earliest_due(),
            };
            if due != Instant::NEVER {
                next = next.min(due.max(self.next_check_at));
            }
            let may_nominate =
                self.role == IceRole::Controlling && self.nominating.is_none() && self.nominated.is_none();
            if may_nominate && self.pairs.best_valid(true).is_some() {
                next = next.min(self.nominate_at);
            }
        }
        next
    }
}

/// An IPv4 peer behind a dual-stack socket is the same peer as its IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(ip) => SocketAddr::new(IpAddr::V4(ip), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

fn is_checkable(address: SocketAddr) -> bool {
    address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
