//! Who may come to the peer listener: whoever shows a ticket that was given out a moment ago.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use crate::base::id::SessionId;

/// A random number that lets one in. Shown nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub(super) [u8; TICKET_BYTES]);

/// What a ticket is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// To claim this session, once.
    Claim(SessionId),
    /// To hand over so many sessions.
    Offer(u32),
}

/// The tickets that are good now.
#[derive(Debug, Default)]
pub(super) struct Tickets(HashMap<Ticket, (Grant, Instant)>);

impl Tickets {
    /// `None`: there are too many already.
    pub(super) fn issue(&mut self, ticket: Ticket, grant: Grant, now: Instant) -> Option<Ticket> {
        if self.0.len() >= MOST_TICKETS {
            self.0.retain(|_, (_, until)| now < *until);
        }
        if self.0.len() >= MOST_TICKETS {
            return None;
        }
        let good = match grant {
            Grant::Claim(_) => CLAIM_GOOD,
            Grant::Offer(_) => OFFER_GOOD,
        };
        self.0.insert(ticket, (grant, now + good));
        Some(ticket)
    }

    /// Uses the ticket; it is not good for the same again.
    pub(super) fn redeem(&mut self, ticket: Ticket, now: Instant) -> Option<Grant> {
        let (grant, until) = self.0.remove(&ticket)?;
        if until <= now {
            return None;
        }
        if let Grant::Offer(left @ 2..) = grant {
            self.0.insert(ticket, (Grant::Offer(left - 1), until));
        }
        Some(grant)
    }
}

impl Ticket {
    pub fn fresh(random: u128) -> Self {
        Self(random.to_le_bytes())
    }

    /// As it goes over the bus.
    pub(super) fn to_text(self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let plain = text.len() == 2 * TICKET_BYTES && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| plain)?;
        Some(Self(number.to_be_bytes()))
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket")
    }
}

pub(super) const TICKET_BYTES: usize = 16;

/// Of clients that come back at one moment.
const MOST_TICKETS: usize = 4_096;

/// A client shows its token within two seconds.
const CLAIM_GOOD: Duration = Duration::from_secs(5);
const OFFER_GOOD: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Grant, MOST_TICKETS, Ticket, Tickets};
    use crate::base::id::SessionId;

    #[test]
    fn a_ticket_is_good_once_and_for_a_while() {
        let now = Instant::now();
        let mut tickets = Tickets::default();
        let [one, two, offer] = [1, 2, 3].map(Ticket::fresh);
        let grant = Grant::Claim(SessionId(7));
        assert_eq!(tickets.issue(one, grant, now), Some(one));
        tickets.issue(two, grant, now).unwrap();
        tickets.issue(offer, Grant::Offer(2), now).unwrap();
        assert_eq!(tickets.redeem(one, now), Some(grant));
        assert_eq!(tickets.redeem(one, now), None);
        assert_eq!(tickets.redeem(two, now + Duration::from_secs(5)), None);
        assert_eq!(tickets.redeem(offer, now), Some(Grant::Offer(2)));
        assert_eq!(tickets.redeem(offer, now), Some(Grant::Offer(1)));
        assert_eq!(tickets.redeem(offer, now), None);
        assert_eq!(Ticket::parse(&offer.to_text()), Some(offer));
        for wrong in ["", "1", &"+".repeat(32), &"g".repeat(32), &"0".repeat(33)] {
            assert_eq!(Ticket::parse(wrong), None);
        }
    }

    #[test]
    fn there_are_never_too_many() {
        let now = Instant::now();
        let mut tickets = Tickets::default();
        let grant = Grant::Claim(SessionId(7));
        for number in 0..MOST_TICKETS as u128 {
            assert!(tickets.issue(Ticket::fresh(number), grant, now).is_some());
        }
        let more = Ticket::fresh(u128::MAX);
        assert_eq!(tickets.issue(more, grant, now), None);
        let later = now + Duration::from_secs(6);
        assert_eq!(tickets.issue(more, grant, later), Some(more));
    }
}
