//! Bodies of the gateway's responses.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::{download::Download, record::Record, taken::Taken};

/// What a response carries.
#[derive(Debug)]
pub enum Body {
    Empty,
    Full(Bytes),
    /// Streamed from the monolith.
    Monolith(Box<Download>),
}

/// A body ended before it was complete. The client's connection is cut then, so that what arrived
/// does not look complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the monolith cut its response")]
    MonolithCut,
    #[error("the monolith sent nothing for too long")]
    MonolithSilent,
    #[error("the client's body broke off")]
    ClientCut,
    #[error("the client sent its body too slowly")]
    ClientSlow,
    #[error("the client's body is too large")]
    TooLarge,
    #[error("the monolith answered without the rest of the client's body")]
    Unwanted,
    #[error("the exchange took too long")]
    Deadline,
}

/// A body that is counted, and whose end completes the request's record.
#[derive(Debug)]
pub struct Recorded {
    body: Body,
    record: Record,
    taken: Arc<Taken>,
}

impl Body {
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self::Full(text.into())
    }
}

impl Recorded {
    pub(super) fn new(body: Body, record: Record, taken: Arc<Taken>) -> Self {
        Self {
            body,
            record,
            taken,
        }
    }

    /// The monolith's response, if it is one that is streamed.
    pub(super) fn download(&mut self) -> Option<&mut Download> {
        match &mut self.body {
            Body::Monolith(download) => Some(download),
            Body::Empty | Body::Full(_) => None,
        }
    }

    /// The next piece is asked for, where that is not hyper's business.
    pub(super) fn asked(&self) {
        self.taken.asked();
    }

    /// A piece is on its way to the client.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.record.sent(bytes);
        self.taken.given(bytes);
    }

    /// The body is complete, or it never will be.
    pub(super) fn end(&mut self, error: Option<BodyError>) {
        match error {
            Some(error) => self.record.cut(error),
            None => self.record.complete(),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Monolith(download) => Pin::new(download.as_mut()).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Monolith(download) => download.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Monolith(download) => download.size_hint(),
        }
    }
}

impl HttpBody for Recorded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.record.sent(bytes);
                self.taken.given(bytes);
                if self.body.is_end_stream() {
                    self.record.complete();
                }
            }
            Poll::Ready(Some(Err(error))) => self.record.cut(*error),
            Poll::Ready(None) => self.record.complete(),
            // What comes at once needs no look at the clock in between.
            Poll::Pending => self.taken.asked(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        // hyper does not ask a body for its end when it knows there is nothing more.
        if self.body.is_end_stream() {
            self.record.complete();
        }
        self.taken.done();
    }
}
