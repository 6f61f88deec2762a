//! Numbers that come one after the other, and what is wrong when they do not.

use std::collections::BTreeSet;

/// What a client has heard of a series that it joined somewhere in its middle.
#[derive(Clone, Debug)]
pub(super) struct Series {
    next: Next,
    missing: BTreeSet<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Next {
    /// Nothing was heard yet; it begins with this one at the latest.
    AtMost(u64),
    Is(u64),
}

/// What a number is after those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Next,
    /// As many before it have not come.
    Gap(u64),
    /// One of those that had not come.
    Late,
    /// It had come.
    Again,
}

impl Series {
    /// Of which the first number to be heard is at most this.
    pub(super) fn from(latest: u64) -> Self {
        Self {
            next: Next::AtMost(latest),
            missing: BTreeSet::new(),
        }
    }

    pub(super) fn hear(&mut self, number: u64) -> Step {
        let expected = match self.next {
            Next::AtMost(latest) => number.min(latest),
            Next::Is(next) => next,
        };
        if number < expected {
            return match self.missing.remove(&number) {
                true => Step::Late,
                false => Step::Again,
            };
        }
        self.next = Next::Is(number + 1);
        if number == expected {
            return Step::Next;
        }
        let room = MISSING.saturating_sub(self.missing.len());
        self.missing.extend((expected..number).take(room));
        Step::Gap(number - expected)
    }

    /// How many up to `last`, behind the latest that was heard, have not come.
    pub(super) fn behind(&self, last: u64) -> u64 {
        let (Next::AtMost(next) | Next::Is(next)) = self.next;
        (last + 1).saturating_sub(next)
    }
}

/// Numbers that may come late; beyond, they count as repeated.
const MISSING: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_gaps_repetition_and_disorder_apart() {
        let mut series = Series::from(5);
        let heard = [4, 5, 8, 7, 7, 6, 5, 9].map(|number| series.hear(number));
        let expected = [
            Step::Next,
            Step::Next,
            Step::Gap(2),
            Step::Late,
            Step::Again,
            Step::Late,
            Step::Again,
            Step::Next,
        ];
        assert_eq!(heard, expected);
        assert_eq!((series.behind(9), series.behind(12)), (0, 3));
    }

    #[test]
    fn knows_what_it_missed_before_the_first() {
        assert_eq!(Series::from(3).hear(5), Step::Gap(2));
        assert_eq!(Series::from(3).behind(2), 0);
        assert_eq!(Series::from(3).behind(4), 2);
    }
}
