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
}

/// Holds at most one order; a later one replaces an earlier one that was not read.
#[derive(Debug, Default)]
pub struct Mailbox {
    full: AtomicBool,
    inner: Mutex<Inner>,
}

/// A [`Command::Close`] as it is kept: there is room for one in every session.
#[derive(Clone, Copy, Debug)]
struct Order {
    reason: Disconnect,
    /// In steps of [`STEP`].
    after: u16,
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
            let Command::Close { reason, after } = command;
            inner.command = Some(Order {
                reason,
                after: u16::try_from(after.as_millis() / STEP.as_millis()).unwrap_or(u16::MAX),
            });
            self.full.store(true, Ordering::Release);
            inner.waker.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
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
        let Order { reason, after } = inner.command.take()?;
        Some(Command::Close {
            reason,
            after: STEP * u32::from(after),
        })
    }
}

/// Delays are counted in these, which leaves them two bytes.
const STEP: Duration = Duration::from_millis(50);
