//! Informational responses on their way to a stream.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use http::{HeaderMap, Response, StatusCode};

use crate::net::wire::{INTERIM_BYTES, INTERIM_RESPONSES};

/// What waits for the task that answers a request; in the extensions of that request.
#[derive(Debug, Default)]
pub struct Hints(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    heads: VecDeque<Response<()>>,
    /// Of all that were taken in.
    count: usize,
    bytes: usize,
    waker: Option<Waker>,
}

impl Hints {
    /// Takes in an informational response, unless there were too many.
    pub fn inform(&self, status: StatusCode, headers: &HeaderMap) {
        let size: usize = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        let mut waiting = self.waiting();
        if waiting.count >= INTERIM_RESPONSES || waiting.bytes + size > INTERIM_BYTES {
            return;
        }
        waiting.count += 1;
        waiting.bytes += size;
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = headers.clone();
        waiting.heads.push_back(head);
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
        }
    }

    /// The next one; if there is none, `waker` is told of it.
    pub(super) fn next(&self, waker: &Waker) -> Option<Response<()>> {
        let mut waiting = self.waiting();
        let head = waiting.heads.pop_front();
        if head.is_none() {
            waiting.waker = Some(waker.clone());
        }
        head
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
