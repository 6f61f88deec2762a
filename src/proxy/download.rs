//! A response's body on its way from the monolith to the client.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::{
    body::BodyError,
    pace::{Late, Pace, Rules},
    upload::Progress,
};
use crate::net::monolith::{Bare, Used};

/// Streams a response. Whoever reads it sets the pace of the monolith; the monolith has to be quick
/// enough when it is asked.
#[derive(Debug)]
pub struct Download {
    body: Incoming,
    pace: Pace,
    /// Given back once the body was read to its end.
    connection: Option<Used>,
    upload: Option<Arc<Progress>>,
    /// Whether the monolith keeps the connection open.
    lasts: bool,
}

/// A response whose body is not read by HTTP any more.
#[derive(Debug)]
pub(super) struct Raw {
    /// The pieces of the body that were read already.
    pub(super) early: Vec<Bytes>,
    /// Bytes of it that are still to come on the socket.
    pub(super) left: u64,
    pub(super) socket: Bare,
    /// Whether the connection can be used again.
    pub(super) lasts: bool,
}

impl Download {
    /// `upload` is told when the response is over.
    pub(super) fn new(
        body: Incoming,
        rules: Rules,
        connection: Used,
        upload: Option<Arc<Progress>>,
        lasts: bool,
    ) -> Self {
        Self {
            body,
            pace: Pace::new(rules),
            connection: Some(connection),
            upload,
            lasts,
        }
    }

    /// Bytes of the body that are still to come, if the monolith has said how many there are.
    pub(super) fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// Takes the rest of the body out of HTTP: what comes on the socket is the body and nothing
    /// else. `None`: it must stay there.
    pub(super) fn take_raw(&mut self) -> Option<Raw> {
        if self
            .upload
            .as_ref()
            .is_some_and(|upload| upload.is_under_way())
        {
            return None;
        }
        let length = self.length()?;
        let (socket, rest) = match self.connection.take()?.into_bare() {
            Ok(bare) => bare,
            Err(connection) => {
                self.connection = Some(connection);
                return None;
            }
        };
        // What hyper has handed over already, which is bounded by what it buffers.
        let mut early = Vec::new();
        let mut left = length;
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut self.body).poll_frame(&mut cx) {
            let piece = frame.into_data().unwrap_or_default();
            left = left.saturating_sub(piece.len() as u64);
            early.push(piece);
        }
        // What is behind the body belongs to nothing: such a connection is not used again.
        let known = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        let lasts = self.lasts && known == rest.len();
        left -= known as u64;
        early.push(rest.slice(..known));
        Some(Raw {
            early,
            left,
            socket,
            lasts,
        })
    }

    /// The deadlines of the body, when it comes past [`Self::take_raw`].
    pub(super) fn pace(&mut self) -> &mut Pace {
        &mut self.pace
    }

    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(connection) = &mut self.connection else {
            return Pin::new(&mut self.body).poll_frame(cx);
        };
        let mut listener = connection.listener(cx);
        let polled = Pin::new(&mut self.body).poll_frame(&mut listener);
        if polled.is_ready() {
            return polled;
        }
        connection.drive(cx);
        Pin::new(&mut self.body).poll_frame(&mut connection.listener(cx))
    }

    fn finish(&mut self) {
        if let Some(upload) = &self.upload {
            upload.over();
        }
        if let Some(connection) = self.connection.take() {
            connection.give_back();
        }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(connection) = self.connection.take() {
            if error == BodyError::MonolithSilent {
                connection.lease().timed_out();
            }
            tracing::warn!(
                server = connection.lease().server(),
                %error,
                "the client's response was cut, so that it does not look complete"
            );
        }
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.poll_body(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                if self.pace.came(length, Instant::now()).is_err() {
                    return self.fail(BodyError::Deadline);
                }
                if self.body.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => self.fail(BodyError::MonolithCut),
            Poll::Pending => match self.pace.poll_late(cx) {
                Poll::Ready(Late::Deadline) => self.fail(BodyError::Deadline),
                Poll::Ready(Late::Idle | Late::Slow) => self.fail(BodyError::MonolithSilent),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.finish();
        }
        if let Some(upload) = &self.upload {
            upload.over();
        }
    }
}
