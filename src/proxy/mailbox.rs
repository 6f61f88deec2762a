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
    /// End the session after this delay, chosen by the sender so that not all end at once.
    Close { reason: Disconnect, after: Duration },
}

/// Holds at most one order; a later one replaces an earlier one that was not read.
#[derive(Debug, Default)]
pub struct Mailbox {
    full: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    command: Option<Command>,
    waker: Option<Waker>,
}

impl Mailbox {
    /// Leaves an order and wakes the relay.
    pub fn send(&self, command: Command) {
        let waker = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.command = Some(command);
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
        inner.command.take()
    }
}
