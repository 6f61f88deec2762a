//! Where the bytes of one direction go.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;

use super::pump::Stop;
use crate::{
    base::chunk::{Backlog, Full},
    session::Tail,
};

/// Where passed bytes go: to the socket while it takes them, else to the backlog.
pub(super) struct Outlet<'a, 'w, S> {
    pub(super) target: Target<'a, S>,
    pub(super) backlog: &'a mut Backlog,
    /// Where [`Lane::Later`] leads; nothing may be held where there is none.
    pub(super) later: Option<&'a mut Later>,
    /// The way of what is written next.
    pub(super) lane: Lane,
    pub(super) cx: &'a mut Context<'w>,
    /// Where a copy goes of all that is written.
    pub(super) copy: Option<&'a mut Tail>,
    /// What to do when the receiver's socket fails.
    pub(super) loss: Loss,
    /// Bytes the receiver has taken.
    pub(super) taken: u64,
}

/// What waits until the session lets it go on; takes no memory while empty.
#[derive(Debug, Default)]
pub(super) struct Later(Option<Box<Backlog>>);

impl Later {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |waiting| waiting.len())
    }

    /// Puts `bytes` behind what waits, counted against the budget of `backlog`.
    pub(super) fn push(&mut self, bytes: &[u8], backlog: &Backlog) -> Result<(), Full> {
        if bytes.is_empty() {
            return Ok(());
        }
        let waiting = self.0.get_or_insert_with(|| Box::new(backlog.sibling()));
        waiting.push(bytes, usize::MAX)
    }

    /// Appends what waits to `backlog`.
    pub(super) fn release(&mut self, backlog: &mut Backlog) -> Result<(), Full> {
        match self.0.take() {
            Some(waiting) => backlog.append(*waiting),
            None => Ok(()),
        }
    }

    pub(super) fn clear(&mut self) {
        self.0 = None;
    }
}

/// The end of a receiver's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Ends the direction.
    Fails,
    /// The direction goes on to nobody: what it carries is still to be read to its end.
    Passes,
    /// It has happened.
    Happened,
}

/// Who receives.
pub(super) enum Target<'a, S> {
    Stream(&'a mut S),
    /// Nobody yet: the backlog keeps everything.
    Later,
    /// Nobody any more.
    Nobody,
}

impl<S: AsyncWrite + Unpin> Outlet<'_, '_, S> {
    /// Takes all of `bytes` or fails.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        if bytes.is_empty() {
            return Ok(());
        }
        if let (Lane::Later, Some(later)) = (self.lane, &mut self.later) {
            if let Target::Nobody = self.target {
                return Ok(());
            }
            let waiting = later
                .0
                .get_or_insert_with(|| Box::new(self.backlog.sibling()));
            return waiting.push(bytes, usize::MAX).map_err(|Full| Stop::Full);
        }
        if let Some(copy) = &mut self.copy {
            copy.record(bytes);
        }
        match &mut self.target {
            Target::Nobody => return Ok(()),
            Target::Later => {}
            Target::Stream(stream) if self.backlog.is_empty() => {
                while !bytes.is_empty() {
                    match Pin::new(&mut **stream).poll_write(self.cx, bytes) {
                        Poll::Ready(Ok(0) | Err(_)) if self.loss == Loss::Passes => {
                            self.loss = Loss::Happened;
                            self.target = Target::Nobody;
                            return Ok(());
                        }
                        Poll::Ready(Ok(0) | Err(_)) => return Err(Stop::Broken),
                        Poll::Ready(Ok(taken)) => {
                            self.taken += taken as u64;
                            bytes = &bytes[taken..];
                        }
                        Poll::Pending => break,
                    }
                }
            }
            Target::Stream(_) => {}
        }
        self.backlog
            .push(bytes, usize::MAX)
            .map_err(|Full| Stop::Full)
    }

    /// Offers the backlog to the receiver.
    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        let Target::Stream(stream) = &mut self.target else {
            return Ok(());
        };
        while !self.backlog.is_empty() {
            match Pin::new(&mut **stream).poll_write(self.cx, self.backlog.front()) {
                Poll::Ready(Ok(0) | Err(_)) => return Err(Stop::Broken),
                Poll::Ready(Ok(taken)) => {
                    self.taken += taken as u64;
                    self.backlog.advance(taken);
                }
                Poll::Pending => break,
            }
        }
        match Pin::new(&mut **stream).poll_flush(self.cx) {
            Poll::Ready(Err(_)) => Err(Stop::Broken),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }
}

/// Two ways to the same receiver: `Later` is what waits until the session lets it go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Now,
    Later,
}
