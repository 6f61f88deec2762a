//! How the control plane speaks to a relay without a lock on the data path.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    time::Duration,
};

use crate::session::Disconnect;

/// An order to one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// End the session after this delay, chosen by the sender so that not all end at once; kept to
    /// the twentieth of a second, and at most 54 minutes.
    Close { reason: Disconnect, after: Duration },
    /// Go on at another streamer, without the client's noticing. How it went is said by
    /// [`Place::moving`](super::registry::Place). `optional`: it would be nice, but is not needed,
    /// so whoever may be disturbed by it stays.
    Move { optional: bool },
}

/// Holds at most one order; a later one replaces an earlier one that was not read. Only the order to
/// end stays, whatever comes after it but another one.
#[derive(Debug, Default)]
pub struct Mailbox {
    full: AtomicBool,
    /// Somebody claims the session.
    called: AtomicBool,
    inner: Mutex<Inner>,
}

/// A [`Command`] as it is kept: there is room for one in every session.
#[derive(Clone, Copy, Debug)]
enum Order {
    Close {
        reason: Disconnect,
        /// In steps of [`STEP`].
        after: u16,
    },
    Move {
        optional: bool,
    },
}

impl From<Command> for Order {
    fn from(command: Command) -> Self {
        match command {
            Command::Close { reason, after } => Self::Close {
                reason,
                after: u16::try_from(after.as_millis() / STEP.as_millis()).unwrap_or(u16::MAX),
            },
            Command::Move { optional } => Self::Move { optional },
        }
    }
}

impl From<Order> for Command {
    fn from(order: Order) -> Self {
        match order {
            Order::Close { reason, after } => Self::Close {
                reason,
                after: STEP * u32::from(after),
            },
            Order::Move { optional } => Self::Move { optional },
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    command: Option<Order>,
    waker: Option<Waker>,
}

impl Mailbox {
    /// Leaves an order and wakes the relay.
    pub fn send(&self, command: Command) {
        let waker = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let order = match (inner.command, command) {
                (Some(end @ Order::Close { .. }), Command::Move { .. }) => end,
                _ => command.into(),
            };
            inner.command = Some(order);
            self.full.store(true, Ordering::Release);
            inner.waker.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes the relay for a claim that was left for it.
    pub(super) fn call(&self) {
        let waker = {
            let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            self.called.store(true, Ordering::Release);
            inner.waker.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The claim has to wait until the relay has gone through more, or is woken by something else.
    pub(super) fn call_later(&self) {
        self.called.store(true, Ordering::Release);
    }

    /// Whether somebody claims the session and waits.
    pub(super) fn is_called(&self) -> bool {
        self.called.load(Ordering::Acquire)
    }

    pub(super) fn take_call(&self) -> bool {
        self.called.load(Ordering::Acquire) && self.called.swap(false, Ordering::AcqRel)
    }

    /// Says whom to wake; once per relay is enough, since a task keeps its waker.
    pub(super) fn register(&self, waker: &Waker) {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waker = Some(waker.clone());
    }

    /// The order, if there is one. Takes the lock only then.
    pub(super) fn take(&self) -> Option<Command> {
        if !self.full.load(Ordering::Acquire) {
            return None;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.full.store(false, Ordering::Release);
        inner.command.take().map(Into::into)
    }
}

/// Delays are counted in these, which leaves them two bytes.
const STEP: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Command, Mailbox};
    use crate::session::Disconnect;

    #[test]
    fn the_later_order_counts_unless_it_would_let_live_who_is_to_end() {
        let close = |millis| Command::Close {
            reason: Disconnect::ClientClosed(Some(1001)),
            after: Duration::from_millis(millis),
        };
        let go = |optional| Command::Move { optional };
        let mailbox = Mailbox::default();
        assert_eq!(mailbox.take(), None);
        for (orders, left) in [
            (vec![go(true)], go(true)),
            (vec![go(true), go(false)], go(false)),
            (vec![go(false), close(50)], close(50)),
            (vec![close(100), go(false)], close(100)),
            (vec![close(100), close(50)], close(50)),
        ] {
            for order in orders.clone() {
                mailbox.send(order);
            }
            assert_eq!(mailbox.take(), Some(left), "{orders:?}");
            assert_eq!(mailbox.take(), None);
        }
    }
}
