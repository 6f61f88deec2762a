//! What was used at other gateways counts here too.
//!
//! Not each request, which would cost more than it is worth, but sums, once in a while, of those who
//! use much; and who is punished, at once. Users and addresses have the same names at all gateways
//! that were given the same secret.

use std::{
    cmp::Reverse,
    time::{Duration, Instant},
};

use super::{
    Place, QuotaRules, Quotas, Rule, STREAM_FACTOR, Terms,
    cells::{Ledger, Moment},
};

/// What an account was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    pub subject: u64,
    pub account: u64,
    /// A [`Rule`] as a number.
    pub rule: u8,
    pub nanos: u64,
}

/// What other gateways are to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirrored {
    /// Most first.
    pub used: Vec<Used>,
    /// Account of each culprit, and nanoseconds of its penalty.
    pub penalties: Vec<(u64, u64)>,
}

impl Quotas {
    /// The same at all gateways whose accounts have the same names, and nowhere else.
    pub fn names(&self) -> u64 {
        self.hasher.hash(b"names")
    }

    /// Whether there are others to tell.
    pub fn set_mirrored(&self, mirrored: bool) {
        self.cells
            .for_each(|shard| match (&shard.ledger, mirrored) {
                (None, true) => shard.ledger = Some(Box::<Ledger>::default()),
                (Some(_), false) => shard.ledger = None,
                _ => {}
            });
    }

    /// Somebody was punished whom others do not know of.
    pub fn has_penalties(&self) -> bool {
        let mut found = false;
        self.cells.for_each(|shard| {
            let ledger = shard.ledger.as_ref();
            found |= ledger.is_some_and(|ledger| !ledger.penalties.is_empty());
        });
        found
    }

    /// What was used since the last call, of those that used at least so much time of their
    /// account, and of no more than `most` of them.
    pub fn take_mirrored(&self, least: Duration, most: usize) -> Mirrored {
        let least = super::nanos(least);
        let mut mirrored = Mirrored::default();
        self.cells.for_each(|shard| {
            let Some(ledger) = &mut shard.ledger else {
                return;
            };
            let Ledger { charges, penalties } = std::mem::take(&mut **ledger);
            let notable = charges.into_iter().filter(|(_, one)| one.nanos >= least);
            mirrored.used.extend(notable.map(|(account, charged)| Used {
                subject: charged.subject,
                account,
                rule: charged.rule,
                nanos: charged.nanos,
            }));
            mirrored.penalties.extend(penalties);
        });
        mirrored
            .used
            .sort_unstable_by_key(|used| Reverse(used.nanos));
        mirrored.used.truncate(most);
        mirrored
    }

    /// Charges what was used elsewhere; nobody is told of it again. An account is never charged
    /// more than makes it empty.
    pub fn mirror(&self, rules: &QuotaRules, mirrored: &Mirrored, now: Instant) {
        let now = self.cells.moment(now);
        for used in &mirrored.used {
            let quota = match used.rule {
                rule if rule == Rule::User as u8 => rules.user.map(|quota| (quota, 1)),
                rule if rule == Rule::Address as u8 => rules.address.map(|quota| (quota, 1)),
                rule if rule == Rule::UserMethod as u8 => {
                    rules.user_method.map(|quota| (quota, STREAM_FACTOR))
                }
                _ => None,
            };
            if let Some((quota, factor)) = quota {
                let most = now.plus(Terms::new(quota, factor).burst);
                self.delay(used.subject, used.account, used.nanos, most, now);
            }
        }
        let Some(abuse) = rules.abuse else { return };
        for (culprit, left) in &mirrored.penalties {
            let most = now.plus(super::nanos(abuse.penalty));
            self.punish_until(most);
            self.delay(*culprit, *culprit, *left, most, now);
        }
    }

    fn delay(&self, subject: u64, account: u64, nanos: u64, most: Moment, now: Moment) {
        let mut locked = self.cells.lock([Some(subject)]);
        let shard = locked.shard(subject);
        let until = match shard.find(account, now) {
            Place::Own(until) => until.max(now),
            Place::Room => now,
            Place::Full => return,
        };
        // Never earlier than it was.
        let until = until.plus(nanos).min(most).max(until);
        shard.set(account, until, now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Mirrored, Quotas};
    use crate::session::quota::{Asker, QuotaRules, Rule, Strike};

    fn asker(quotas: &Quotas, connection: u64) -> Asker {
        Asker {
            connection,
            user: Some(quotas.key(&[b"user", b"bob"])),
            client: connection,
            address: None,
        }
    }

    /// Two gateways that tell each other once a second.
    #[test]
    fn a_user_has_one_quota_at_two_gateways() {
        let now = Instant::now();
        let rules = QuotaRules::default();
        let both = [1, 2].map(|_| Quotas::named_after(b"secret", now));
        both.iter().for_each(|one| one.set_mirrored(true));
        assert_eq!(both[0].names(), both[1].names());
        assert_ne!(both[0].names(), Quotas::named_after(b"other", now).names());
        let (mut allowed, mut told) = (0, 0);
        for second in 0..10 {
            let now = now + Duration::from_secs(second);
            for (at, quotas) in both.iter().enumerate() {
                // Each connection of its own is within its rules.
                for n in 0..20 {
                    let asker = asker(quotas, 100 * at as u64 + n);
                    allowed += u32::from(quotas.charge(&rules, &asker, "sendMessage", now).is_ok());
                }
            }
            for at in [0, 1] {
                let used = both[at].take_mirrored(Duration::from_millis(500), 1000);
                told += used.used.len();
                both[1 - at].mirror(&rules, &used, now);
                assert_eq!(
                    both[at].take_mirrored(Duration::ZERO, 1000),
                    Mirrored::default()
                );
            }
        }
        // 20 at once and 2 in a second: as for one gateway, but for what began before the first
        // word; without any word it would be 76.
        assert!((38..=60).contains(&allowed), "{allowed}");
        assert!(told > 0 && told <= 40, "{told}");
    }

    #[test]
    fn who_is_punished_is_punished_everywhere() {
        let now = Instant::now();
        let rules = QuotaRules::default();
        let [one, other] = [1, 2].map(|_| Quotas::named_after(b"secret", now));
        one.set_mirrored(true);
        let asker = asker(&one, 1);
        while one.strike(&rules, &asker, now) == Strike::Noted {}
        assert!(one.has_penalties());
        other.mirror(&rules, &one.take_mirrored(Duration::ZERO, 1000), now);
        assert!(!one.has_penalties());
        let refused = other.charge(&rules, &asker, "x", now).unwrap_err();
        assert_eq!((refused.rule, refused.wait.as_secs()), (Rule::Penalty, 60));
        // Nothing is kept for others where there are none.
        one.set_mirrored(false);
        while one.strike(&rules, &asker, now) == Strike::Noted {}
        assert!(!one.has_penalties());
    }
}
