//! Response bodies that behave well, slowly, or not at all.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// One block of the pattern that large downloads consist of: byte n of a body is `n % 251`.
const BLOCK: usize = 251 * 256;

/// The body of a simulated answer.
#[derive(Debug)]
pub(super) struct Body {
    script: VecDeque<Part>,
    /// What `content-length` says; `None` for a chunked body.
    length: Option<u64>,
    pattern: Bytes,
    pause: Option<Pin<Box<Sleep>>>,
}

/// What a body does next.
#[derive(Debug)]
enum Part {
    Bytes(Bytes),
    /// So many bytes of the pattern.
    Pattern(u64),
    Pause(Duration),
    Trailers(HeaderMap),
    /// The connection is cut.
    Cut,
}

impl Body {
    pub(super) fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            length: Some(bytes.len() as u64),
            ..Self::script([Part::Bytes(bytes)])
        }
    }

    pub(super) fn empty() -> Self {
        Self::full(Bytes::new())
    }

    /// `bytes` bytes of the pattern with a content length.
    pub(super) fn pattern(bytes: u64) -> Self {
        Self {
            length: Some(bytes),
            pattern: (0..BLOCK / 251).flat_map(|_| 0..251).collect(),
            ..Self::script([Part::Pattern(bytes)])
        }
    }

    /// Promises `promised` bytes (`None`: chunked) and cuts the connection after `sent`.
    pub(super) fn cut(promised: Option<u64>, sent: u64) -> Self {
        let mut body = Self::pattern(sent);
        body.script.push_back(Part::Cut);
        body.length = promised;
        body
    }

    /// `count` small chunks with a pause before each.
    pub(super) fn trickle(count: usize, pause: Duration) -> Self {
        let part = |n: usize| {
            [
                Part::Pause(pause),
                Part::Bytes(format!("chunk {n}\n").into()),
            ]
        };
        Self::script((0..count).flat_map(part))
    }

    pub(super) fn with_trailers(text: &'static str, trailers: HeaderMap) -> Self {
        Self::script([Part::Bytes(text.into()), Part::Trailers(trailers)])
    }

    fn script(parts: impl IntoIterator<Item = Part>) -> Self {
        Self {
            script: parts.into_iter().collect(),
            length: None,
            pattern: Bytes::new(),
            pause: None,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            return Poll::Ready(match self.script.pop_front() {
                None => None,
                Some(Part::Bytes(bytes)) if bytes.is_empty() => continue,
                Some(Part::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
                Some(Part::Pattern(0)) => continue,
                Some(Part::Pattern(left)) => {
                    // Blocks are whole periods of the pattern, so each begins at its start.
                    let size = left.min(BLOCK as u64);
                    self.script.push_front(Part::Pattern(left - size));
                    let size = usize::try_from(size).unwrap_or(BLOCK);
                    Some(Ok(Frame::data(self.pattern.slice(..size))))
                }
                Some(Part::Pause(pause)) => {
                    self.pause = Some(Box::pin(sleep_until(Instant::now() + pause)));
                    continue;
                }
                Some(Part::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                Some(Part::Cut) => Some(Err(io::Error::other("cut on purpose"))),
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.script.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
