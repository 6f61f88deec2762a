//! Who gets a place: the side of the pool that clients see.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use crate::base::id::StreamerId;

use super::{
    Pool, State,
    admission::{Left, Polled, QueueFull, Ticket},
    as_gauge, pick,
    pick::{PickError, Wish},
    streamer::{Expectation, Permit, Streamer},
};

impl Pool {
    /// Where a client with this wish would go, before it has said `connect`. Weighs on the choice
    /// of others while held. `None` when nobody has room.
    pub fn expect(&self, wish: &Wish, now: Instant) -> Option<Expectation> {
        let mut state = self.lock_at(now);
        let seed = state.random.draw();
        let view = self.view.load();
        let streamer = pick::choose(&view, wish, &[], seed, now).ok()?;
        Some(Expectation::new(streamer.clone()))
    }

    /// A place for a client, on none of the streamers in `avoid`.
    ///
    /// `Full` also when there is room but others wait for it; then [`Self::wait`] is the way.
    pub fn pick(
        &self,
        wish: &Wish,
        avoid: &[StreamerId],
        now: Instant,
    ) -> Result<Permit, PickError> {
        let mut state = self.lock_at(now);
        // Capacity may have risen with time; who waits comes first.
        let wakers = self.serve(&mut state);
        let picked = if state.queue.is_empty() {
            let seed = state.random.draw();
            let view = self.view.load();
            pick::choose(&view, wish, avoid, seed, now).map(|streamer| {
                streamer.slots().take();
                streamer.clone()
            })
        } else if self.view.load().any_eligible() {
            Err(PickError::Full)
        } else {
            Err(PickError::NoneUp)
        };
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        picked.map(Permit::new)
    }

    /// A place for a session that is to leave `from`, on another streamer. `optional`: only where
    /// the load of the two becomes more even by it, and nobody is on trial; so a pool that is
    /// levelled in this way never moves anybody back and forth.
    ///
    /// `Full` also when there is room but clients wait for it, who have no streamer at all.
    pub fn pick_to_move(
        &self,
        from: &Streamer,
        optional: bool,
        now: Instant,
    ) -> Result<Permit, PickError> {
        let mut state = self.lock_at(now);
        let wakers = self.serve(&mut state);
        let seed = state.random.draw();
        let view = self.view.load();
        // Whose leg is at another gateway needs one of this gateway's, best to where it is.
        let (avoid, preferred) = match from.is_borrowed() {
            true => (&[][..], Some(from.id.clone())),
            false => (std::slice::from_ref(&from.id), None),
        };
        let wish = Wish {
            preferred,
            ..Wish::default()
        };
        let picked = pick::choose(&view, &wish, avoid, seed, now).and_then(|to| {
            let better = !optional || pick::levels(&view, from, to);
            if !state.queue.is_empty() || !better {
                return Err(PickError::Full);
            }
            to.slots().take();
            Ok(to.clone())
        });
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        picked.map(Permit::new)
    }

    /// Queues for a place, behind all who wait already.
    pub fn wait(self: &Arc<Self>, wish: Wish, now: Instant) -> Result<Ticket, QueueFull> {
        let mut state = self.lock_at(now);
        let wakers = self.serve(&mut state);
        let deadline = now + state.settings.queue_wait;
        let room = if state.queue.is_empty() {
            let seed = state.random.draw();
            let view = self.view.load();
            pick::choose(&view, &wish, &[], seed, now).ok().cloned()
        } else {
            None
        };
        let number = match room {
            Some(streamer) => {
                streamer.slots().take();
                Ok(state.queue.push_granted(streamer))
            }
            None if state.queue.len() < state.settings.queue_length => Ok(state.queue.push(wish)),
            None => {
                self.meters.queue_full.increment(1);
                Err(QueueFull)
            }
        };
        self.meters.waiting.set(as_gauge(state.queue.len()));
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Ok(Ticket::new(number?, deadline, self.clone()))
    }

    /// Whether a new client has a chance: some streamer has room, or the queue has and its wait
    /// is not hopeless because no streamer was in rotation for longer than a client may wait.
    ///
    /// Goes by the time of the last call that told one.
    pub fn accepting(&self) -> bool {
        let state = self.lock();
        let now = state.clock;
        if state.queue.is_empty() && self.view.load().any_room(now) {
            return true;
        }
        let hopeless = state
            .none_up_since
            .is_some_and(|since| now.saturating_duration_since(since) > state.settings.queue_wait);
        !hopeless && state.queue.len() < state.settings.queue_length
    }

    /// Clients that wait for room.
    pub fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    pub(super) fn released(&self, streamer: &Streamer) {
        let mut state = self.lock();
        streamer.slots().give();
        if state.queue.is_empty() {
            return;
        }
        let wakers = self.serve(&mut state);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn poll_ticket(&self, number: u64, cx: &Context<'_>, now: Instant) -> Poll<Permit> {
        let mut state = self.lock_at(now);
        let polled = state.queue.poll(number, cx);
        drop(state);
        match polled {
            Polled::Granted(streamer) => Poll::Ready(Permit::new(streamer)),
            Polled::Pending(replaced) => {
                drop(replaced);
                Poll::Pending
            }
        }
    }

    pub(super) fn leave(&self, number: u64, deadline: Instant) {
        let mut state = self.lock();
        match state.queue.leave(number) {
            Left::Served => {}
            Left::Unclaimed(streamer) => {
                drop(state);
                drop(Permit::new(streamer));
            }
            Left::Waiting(waker) => {
                self.meters.waiting.set(as_gauge(state.queue.len()));
                if state.clock >= deadline {
                    let refused = match state.none_up_since {
                        Some(_) => &self.meters.no_streamer,
                        None => &self.meters.wait_timeout,
                    };
                    refused.increment(1);
                }
                drop(state);
                drop(waker);
            }
        }
    }

    /// Gives room to those who wait, in their order. The wakers are for after the lock.
    pub(super) fn serve(&self, state: &mut State) -> Vec<Waker> {
        let mut wakers = Vec::new();
        if state.queue.is_empty() {
            return wakers;
        }
        let view = self.view.load();
        while let Some(wish) = state.queue.head() {
            let seed = state.random.draw();
            let Ok(streamer) = pick::choose(&view, wish, &[], seed, state.clock) else {
                break;
            };
            streamer.slots().take();
            wakers.extend(state.queue.grant_head(streamer.clone()));
        }
        self.meters.waiting.set(as_gauge(state.queue.len()));
        wakers
    }
}
