//! How many methods and subscriptions a connection, a user and an address may ask for.
//!
//! The rules are those of Rocket.Chat's own limiter, which never sees what goes through a streamer. Unlike in
//! [`limits`](super::limits), a client over its quota is told so: that one call is answered with an error, and everything
//! else goes on.

mod cells;
mod meters;
mod mirror;
mod rules;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use siphasher::sip::SipHasher13;

use cells::{CAPACITY, CAPACITY_BYTES, Cells, Charged, Locked, Moment, Place, SHARED, Shard};
use meters::QuotaMeters;

use super::journal;
use crate::ddp::login::LOGIN;

pub use mirror::{Mirrored, Used};
pub use rules::{Abuse, Quota, QuotaRules};

/// Who asks. All of them are numbers that no client can choose: made by [`Quotas::key`], or counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    pub connection: u64,
    pub user: Option<u64>,
    /// Who it is without a login. Bears the penalty while there is no user.
    pub client: u64,
    /// `None`: the address is exempt.
    pub address: Option<u64>,
}

impl Asker {
    /// Who is punished: never the address, behind which there may be an office.
    fn culprit(&self) -> u64 {
        mix(self.user.unwrap_or(self.client) ^ CULPRIT)
    }
}

/// Why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    Connection,
    User,
    Address,
    ConnectionMethod,
    UserMethod,
    /// Refused so often that everything is refused for a while.
    Penalty,
    /// Too many methods unanswered.
    InFlight,
    /// Too many subscriptions open.
    Subscriptions,
}

impl Rule {
    pub const ALL: [Self; 8] = [
        Self::Connection,
        Self::User,
        Self::Address,
        Self::ConnectionMethod,
        Self::UserMethod,
        Self::Penalty,
        Self::InFlight,
        Self::Subscriptions,
    ];

    /// Value of the `rule` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::User => "user",
            Self::Address => "address",
            Self::ConnectionMethod => "connection_by_method",
            Self::UserMethod => "user_by_method",
            Self::Penalty => "penalty",
            Self::InFlight => "in_flight",
            Self::Subscriptions => "subscriptions",
        }
    }
}

impl Rule {
    /// Whether connections share its accounts, which may be at several gateways.
    fn is_of_many(self) -> bool {
        matches!(self, Self::User | Self::Address | Self::UserMethod)
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Method,
    Sub,
}

impl Asked {
    /// Value of the `kind` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Sub => "sub",
        }
    }
}

/// A call that may not pass now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The rule that refuses it longest.
    pub rule: Rule,
    /// The same call passes after this, if nothing else was asked for meanwhile. Never zero.
    pub wait: Duration,
}

/// What a refusal amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// It is counted.
    Noted,
    /// There were too many: close the connection. Whoever it is meets [`Rule::Penalty`] for a while.
    Abuse,
}

/// The accounts of everybody who asked lately; one per process.
///
/// Each rule is a bucket of `requests` that fills up again evenly within its interval (the generic cell rate
/// algorithm). An account is 16 bytes and is forgotten when its bucket is full, which for somebody who asks once is
/// the time for one request. There are at most 917,504 of them, 16 MiB; beyond that, those without an account share
/// one per rule that is as wide as 500 of their own.
#[derive(Debug)]
pub struct Quotas {
    cells: Cells,
    secret: [u8; blake3::KEY_LEN],
    /// For names. Not blake3: that takes 700 instructions for each request whose name is none of the known ones.
    hasher: SipHasher13,
    /// The hashes of the names that clients use, by [`journal::Name::index`].
    names: [u64; journal::Name::COUNT],
    /// When the last penalty ends, as a [`Moment`]: mostly nobody is punished, and nobody's account is looked for.
    punished_until: AtomicU64,
    meters: QuotaMeters,
}

impl Quotas {
    /// Most accounts there can be.
    pub const CAPACITY: usize = CAPACITY;
    /// Most bytes that they take.
    pub const CAPACITY_BYTES: usize = CAPACITY_BYTES;

    /// `seed` must be random: it keeps clients from choosing names whose accounts collide.
    pub fn new(seed: u64, now: Instant) -> Self {
        Self::keyed(*blake3::hash(&seed.to_le_bytes()).as_bytes(), now)
    }

    /// Accounts with the same names as those of everybody who gives the same `material`, which is
    /// best a secret for the reason that [`Self::new`] gives.
    pub fn named_after(material: &[u8], now: Instant) -> Self {
        let secret = blake3::derive_key("ddp-gateway: names of quota accounts", material);
        Self::keyed(secret, now)
    }

    fn keyed(secret: [u8; blake3::KEY_LEN], now: Instant) -> Self {
        let key = |of: &[u8]| first_eight(blake3::keyed_hash(&secret, of));
        let hasher = SipHasher13::new_with_keys(key(b"method names 0"), key(b"method names 1"));
        Self {
            cells: Cells::new(now),
            secret,
            hasher,
            names: journal::Name::ALL.map(|name| hasher.hash(name.label().as_bytes())),
            punished_until: AtomicU64::new(0),
            meters: QuotaMeters::new(),
        }
    }

    /// A number for what these parts name together.
    pub fn key(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        first_eight(hasher.finalize())
    }

    /// Charges one method or subscription called `name` to all of the rules, or to none of them.
    ///
    /// A `login` is charged to its connection only: a web client takes every error of it for the end of its session and
    /// throws its token away (`meteor/meteor:packages/accounts-base/accounts_client.js`), so what others did, and what
    /// happened before, must not refuse it. It is paced by the queue of logins.
    ///
    /// # Errors
    /// [`Refused`] if one of them does not allow it now.
    pub fn charge(
        &self,
        rules: &QuotaRules,
        asker: &Asker,
        name: &str,
        now: Instant,
    ) -> Result<(), Refused> {
        let now = self.cells.moment(now);
        let is_login = name == LOGIN;
        let punishes = now.0 < self.punished_until.load(Ordering::Relaxed);
        let culprit = (punishes && rules.abuse.is_some() && !is_login).then(|| asker.culprit());
        let asker = match is_login {
            true => &Asker {
                user: None,
                address: None,
                ..*asker
            },
            false => asker,
        };
        let accounts = self.accounts(rules, asker, name);
        let mut locked = self.cells.lock([
            Some(accounts.connection),
            accounts.user,
            accounts.address,
            culprit,
        ]);
        if let Some(culprit) = culprit
            && let Some(wait) = penalty(locked.shard(culprit), culprit, now)
        {
            return Err(Refused {
                rule: Rule::Penalty,
                wait,
            });
        }
        let mut charges = [const { None }; SHARED];
        let mut refused: Option<Refused> = None;
        for (charge, due) in charges.iter_mut().zip(accounts.due.iter().flatten()) {
            let weighed = due.weigh(&mut locked, now);
            if let Some(worse) = weighed.refused()
                && refused.is_none_or(|so_far| so_far.wait <= worse.wait)
            {
                refused = Some(worse);
            }
            *charge = Some(weighed);
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
        for charge in charges.iter().flatten() {
            charge.pay(&mut locked, now);
        }
        Ok(())
    }

    /// Puts a refusal of any [`Rule`] on the account of whoever asked, and counts it.
    pub fn strike(&self, rules: &QuotaRules, asker: &Asker, now: Instant) -> Strike {
        let Some(abuse) = rules.abuse else {
            return Strike::Noted;
        };
        let now = self.cells.moment(now);
        let culprit = asker.culprit();
        let strikes = mix(culprit ^ STRIKES);
        let mut locked = self.cells.lock([Some(culprit)]);
        let shard = locked.shard(culprit);
        let until = match shard.find(strikes, now) {
            Place::Own(until) => until.max(now),
            Place::Room => now,
            // Nobody is punished on a shared account.
            Place::Full => return Strike::Noted,
        };
        let terms = Terms::new(abuse.refusals, 1);
        match terms.charge(until, now) {
            Ok(until) => {
                shard.set(strikes, until, now);
                Strike::Noted
            }
            Err(_) => {
                // Makes room for the penalty, and the count begins anew.
                shard.remove(strikes);
                let until = now.plus(nanos(abuse.penalty));
                shard.set(culprit, until, now);
                self.punish_until(until);
                if let Some(ledger) = &mut shard.ledger {
                    ledger.punish(culprit, nanos(abuse.penalty));
                }
                self.meters.penalties.increment(1);
                Strike::Abuse
            }
        }
    }

    /// [`Self::charge`] looks for penalties at least until then.
    fn punish_until(&self, until: Moment) {
        self.punished_until.fetch_max(until.0, Ordering::Relaxed);
    }

    /// What is left of the asker's penalty.
    pub fn penalty(&self, asker: &Asker, now: Instant) -> Option<Duration> {
        let now = self.cells.moment(now);
        let culprit = asker.culprit();
        penalty(
            self.cells.lock([Some(culprit)]).shard(culprit),
            culprit,
            now,
        )
    }

    /// Counts a refusal for the metrics.
    pub fn count(&self, rule: Rule, asked: Asked) {
        self.meters.limited(rule, asked).increment(1);
    }

    /// Frees accounts that are full again, and memory. Called from time to time, so that nothing is left of a storm that
    /// is over; while there is traffic the accounts clean themselves.
    pub fn sweep(&self, now: Instant) {
        self.cells.sweep(self.cells.moment(now));
        #[expect(clippy::cast_precision_loss, reason = "at most CAPACITY")]
        self.meters.cells.set(self.len() as f64);
    }

    /// Accounts in use.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the accounts take.
    pub fn bytes(&self) -> usize {
        self.cells.bytes()
    }

    fn accounts(&self, rules: &QuotaRules, asker: &Asker, name: &str) -> Accounts {
        let connection = mix(asker.connection ^ CONNECTION);
        let user = asker.user.map(|user| mix(user ^ USER));
        let address = asker.address.map(|address| mix(address ^ ADDRESS));
        let by_name = rules.connection_method.is_some() || rules.user_method.is_some();
        let name = by_name.then(|| Name {
            hash: match journal::Name::of(name) {
                journal::Name::OTHER => self.hasher.hash(name.as_bytes()),
                known => self.names[known.index()],
            },
            factor: if name.starts_with("stream-") {
                STREAM_FACTOR
            } else {
                1
            },
        });
        let due = |rule, subject: Option<u64>, name: Option<Name>, quota: Option<Quota>| {
            let (subject, quota) = (subject?, quota?);
            Some(Due {
                rule,
                subject,
                key: name.map_or(subject, |name| mix(subject ^ name.hash)),
                terms: Terms::new(quota, name.map_or(1, |name| name.factor)),
            })
        };
        let (mine, methods) = (Some(connection), rules.connection_method);
        Accounts {
            connection,
            user,
            address,
            due: [
                due(Rule::Connection, mine, None, rules.connection),
                due(Rule::User, user, None, rules.user),
                due(Rule::Address, address, None, rules.address),
                due(Rule::ConnectionMethod, mine, name, methods),
                due(Rule::UserMethod, user, name, rules.user_method),
            ],
        }
    }
}

/// What a method or subscription is called.
#[derive(Clone, Copy)]
struct Name {
    hash: u64,
    /// By how much its rules are wider.
    factor: u64,
}

/// What one call costs whom.
struct Accounts {
    connection: u64,
    user: Option<u64>,
    address: Option<u64>,
    due: [Option<Due>; SHARED],
}

/// What one call costs by one rule.
#[derive(Clone, Copy)]
struct Due {
    rule: Rule,
    /// Whose shard the account is in.
    subject: u64,
    key: u64,
    terms: Terms,
}

impl Due {
    fn weigh<const N: usize>(&self, locked: &mut Locked<'_, N>, now: Moment) -> Charge<'_> {
        let shard = locked.shard(self.subject);
        let (shared, outcome) = match shard.find(self.key, now) {
            Place::Own(until) => (false, self.terms.charge(until, now)),
            Place::Room => (false, self.terms.charge(now, now)),
            Place::Full => {
                let until = shard.shared[self.rule as usize];
                (true, self.terms.shared().charge(until, now))
            }
        };
        Charge {
            due: self,
            shared,
            outcome,
        }
    }
}

/// What one rule says to a call.
struct Charge<'d> {
    due: &'d Due,
    shared: bool,
    /// The account after it, or the time to wait.
    outcome: Result<Moment, Duration>,
}

impl Charge<'_> {
    fn refused(&self) -> Option<Refused> {
        let wait = self.outcome.err()?;
        Some(Refused {
            rule: self.due.rule,
            wait,
        })
    }

    fn pay<const N: usize>(&self, locked: &mut Locked<'_, N>, now: Moment) {
        let Ok(until) = self.outcome else { return };
        let shard = locked.shard(self.due.subject);
        if self.shared {
            shard.shared[self.due.rule as usize] = until;
        } else {
            shard.set(self.due.key, until, now);
            if let Some(ledger) = &mut shard.ledger
                && self.due.rule.is_of_many()
            {
                let charged = Charged {
                    subject: self.due.subject,
                    rule: self.due.rule as u8,
                    nanos: self.due.terms.each,
                };
                ledger.charge(self.due.key, charged);
            }
        }
    }
}

/// A quota in nanoseconds.
#[derive(Clone, Copy)]
struct Terms {
    /// For one request.
    each: u64,
    /// For all that may come at once.
    burst: u64,
}

impl Terms {
    /// `factor` times the requests in `factor` times the interval.
    fn new(quota: Quota, factor: u64) -> Self {
        let (each, requests) = (quota.each(), u64::from(quota.requests().get()));
        Self {
            each,
            burst: each.saturating_mul(requests).saturating_mul(factor),
        }
    }

    /// As wide as many of its kind together.
    fn shared(self) -> Self {
        Self {
            each: (self.each / SHARED_BY).max(1),
            burst: self.burst,
        }
    }

    /// The account after one more request, or the time until there is one.
    fn charge(self, until: Moment, now: Moment) -> Result<Moment, Duration> {
        let until = until.max(now).plus(self.each);
        let latest = now.plus(self.burst);
        if until <= latest {
            Ok(until)
        } else {
            Err(until.since(latest))
        }
    }
}

fn penalty(shard: &mut Shard, culprit: u64, now: Moment) -> Option<Duration> {
    match shard.find(culprit, now) {
        Place::Own(until) if until > now => Some(until.since(now)),
        _ => None,
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn first_eight(hash: blake3::Hash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// Spreads a number over 64 bits, one to one (the finaliser of SplitMix64).
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// What `stream-` names may do more of, and in how much more time, in the rules by name.
const STREAM_FACTOR: u64 = 4;

/// Clients that may use a shared account as if it were their own: those of one streamer.
const SHARED_BY: u64 = 500;

/// Tells the accounts of one number in different roles apart.
const CONNECTION: u64 = 0x6a09_e667_f3bc_c908;
const USER: u64 = 0xbb67_ae85_84ca_a73b;
const ADDRESS: u64 = 0x3c6e_f372_fe94_f82b;
const CULPRIT: u64 = 0xa54f_f53a_5f1d_36f1;
const STRIKES: u64 = 0x510e_527f_ade6_82d1;

#[cfg(test)]
mod tests;
