//! A leg whose session is at another gateway: bytes both ways, until the session has a leg of its
//! own there.
//!
//! One future without a buffer while nothing waits, as the relay is. Its permit counts the leg here.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{
    io::AsyncWrite,
    net::TcpStream,
    time::{Sleep, sleep},
};

use crate::{
    base::chunk::{Backlog, with_scratch},
    net::stream::Upstream,
    pool::Permit,
};

pin_project! {
    /// Resolves when both ends are over.
    pub(super) struct Pipe {
        ends: Ends,
        // Since when only one direction is left.
        #[pin]
        lingers: Option<Sleep>,
    }
}

struct Ends {
    leg: Upstream,
    peer: Upstream,
    up: Way,
    down: Way,
    _permit: Permit,
}

/// One direction.
struct Way {
    backlog: Backlog,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// Nothing more comes; what waits is to be written, and the end of it told.
    Ending,
    Over,
}

impl Pipe {
    /// What waits in `up` goes to the leg first.
    pub(super) fn new(leg: Upstream, permit: Permit, up: Backlog, peer: TcpStream) -> Self {
        let down = up.sibling();
        let way = |backlog| Way {
            backlog,
            stage: Stage::Open,
        };
        Self {
            ends: Ends {
                leg,
                peer: Upstream::new(peer),
                up: way(up),
                down: way(down),
                _permit: permit,
            },
            lingers: None,
        }
    }
}

impl Future for Pipe {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Ends {
            leg,
            peer,
            up,
            down,
            ..
        } = this.ends;
        let (Ok(ups), Ok(downs)) = (up.advance(peer, leg, cx), down.advance(leg, peer, cx)) else {
            return Poll::Ready(());
        };
        match (up.stage, down.stage) {
            (Stage::Over, Stage::Over) => return Poll::Ready(()),
            (Stage::Open, Stage::Open) => {}
            _ => {
                if this.lingers.is_none() {
                    this.lingers.set(Some(sleep(LINGER)));
                }
                if let Some(lingers) = this.lingers.as_pin_mut()
                    && lingers.poll(cx).is_ready()
                {
                    return Poll::Ready(());
                }
            }
        }
        if ups || downs {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// An end failed: nothing can be told any more.
struct Broken;

impl Way {
    /// Moves what there is; true when it stopped for fairness. Nothing is read while something
    /// waits.
    fn advance(
        &mut self,
        from: &mut Upstream,
        to: &mut Upstream,
        cx: &mut Context<'_>,
    ) -> Result<bool, Broken> {
        for _ in 0..READS {
            if !self.flush(to, cx)? {
                return Ok(false);
            }
            match self.stage {
                Stage::Open => {}
                Stage::Ending => {
                    if Pin::new(to).poll_shutdown(cx).is_ready() {
                        self.stage = Stage::Over;
                    }
                    return Ok(false);
                }
                Stage::Over => return Ok(false),
            }
            let filled = with_scratch(|scratch| {
                let filled = match from.poll_fill(cx, scratch) {
                    Poll::Ready(filled) => filled.map_err(|_| Broken)?,
                    Poll::Pending => return Ok(None),
                };
                self.pass(&scratch[..filled], to, cx)?;
                Ok(Some(filled))
            })?;
            match filled {
                None => return Ok(false),
                Some(0) => self.stage = Stage::Ending,
                Some(_) => {}
            }
        }
        Ok(true)
    }

    /// Writes on at once what is taken, and keeps the rest.
    fn pass(
        &mut self,
        mut bytes: &[u8],
        to: &mut Upstream,
        cx: &mut Context<'_>,
    ) -> Result<(), Broken> {
        while !bytes.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, bytes) {
                Poll::Ready(Ok(written)) if written > 0 => bytes = &bytes[written..],
                Poll::Ready(_) => return Err(Broken),
                Poll::Pending => {
                    // A process out of its budget cannot keep it, and part of it is lost.
                    self.backlog.push(bytes, usize::MAX).map_err(|_| Broken)?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Whether nothing waits any more.
    fn flush(&mut self, to: &mut Upstream, cx: &mut Context<'_>) -> Result<bool, Broken> {
        while !self.backlog.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, self.backlog.front()) {
                Poll::Ready(Ok(written)) if written > 0 => self.backlog.advance(written),
                Poll::Ready(_) => return Err(Broken),
                Poll::Pending => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// Reads per direction and pass.
const READS: usize = 2;

/// From the end of one direction to that of the other.
const LINGER: Duration = Duration::from_secs(5);
